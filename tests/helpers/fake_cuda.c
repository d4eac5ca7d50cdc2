/* A CUDA driver whose device memory is host memory: what tests of cuda.py load instead of libcuda. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int device_count = 1, sync_result = 0, capture_result = 0;
static _Atomic int streams = 0, blocks = 0, graphs = 0, launches = 0;
static _Atomic size_t bytes_to_host = 0, bytes_to_device = 0;
static int contexts[2], current = 0; /* of two devices; the second has half as much memory free */
static size_t limit = (size_t)1 << 30;

/* What a captured stream was given: copies and, from the test, kernels. */
typedef struct { void *target; const void *source; size_t size; void (*kernel)(void); } Work;
typedef struct { int count; Work work[64]; } Graph;
static __thread Graph captured;
static __thread int is_capturing = 0;

static int copy(void *target, const void *source, size_t size) {
  if (is_capturing) captured.work[captured.count++] = (Work){target, source, size, 0};
  else memcpy(target, source, size);
  return 0;
}
static int new_graph(const Graph *content, void **target) {
  Graph *graph = malloc(sizeof *graph);
  *graph = *content;
  *target = graph;
  graphs++;
  return 0;
}
void fake_set_capture_result(int code) { capture_result = code; }
void fake_launch_kernel(void (*kernel)(void)) {
  if (is_capturing) captured.work[captured.count++].kernel = kernel;
  else kernel();
}
int cuStreamBeginCapture_v2(void *s, int mode) {
  is_capturing = 1;
  memset(&captured, 0, sizeof captured);
  return 0;
}
int cuStreamEndCapture(void *s, void **graph) {
  is_capturing = 0;
  *graph = 0;
  return capture_result ? capture_result : new_graph(&captured, graph);
}
int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) { return new_graph(g, e); }
int cuGraphLaunch(void *e, void *s) {
  const Graph *graph = e;
  for (int i = 0; i < graph->count; i++) {
    if (graph->work[i].kernel) graph->work[i].kernel();
    else memcpy(graph->work[i].target, graph->work[i].source, graph->work[i].size);
  }
  launches++;
  return 0;
}
int cuGraphDestroy(void *g) { free(g); graphs--; return 0; }
int cuGraphExecDestroy(void *e) { free(e); graphs--; return 0; }

int fake_num_graphs(void) { return graphs; }
int fake_num_launches(void) { return launches; }
int fake_num_blocks(void) { return blocks; }
/* What copies were asked for; a graph that is launched again asks for none. */
size_t fake_bytes_to_host(void) { return bytes_to_host; }
size_t fake_bytes_to_device(void) { return bytes_to_device; }
void fake_set_device_count(int n) { device_count = n; }
void fake_set_sync_result(int code) { sync_result = code; }
void fake_set_limit(size_t bytes) { limit = bytes; }
int fake_live_objects(void) { return contexts[0] + contexts[1] + streams + blocks + graphs; }
int fake_current_device(void) { return contexts[current] ? current : -1; }

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDriverGetVersion(int *v) { *v = 13010; return 0; }
int cuDeviceGetCount(int *n) { *n = device_count; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return i < device_count ? 0 : 101; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, "Fake RTX", n); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 9 : -1; return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = limit; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { contexts[d]++; *c = &contexts[d]; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { contexts[d]--; return 0; }
int cuCtxSetCurrent(void *c) {
  current = c == &contexts[1];
  return c == &contexts[current] ? 0 : 201;
}
int cuMemGetInfo_v2(size_t *f, size_t *t) { *f = limit / 2 >> current; *t = limit; return 0; }
int cuMemAlloc_v2(uint64_t *p, size_t n) {
  if (n > limit) return 2;
  *p = (uint64_t)(uintptr_t)malloc(n);
  blocks++;
  return 0;
}
int cuMemFree_v2(uint64_t p) { free((void *)(uintptr_t)p); blocks--; return 0; }
int cuMemHostAlloc(void **p, size_t n, unsigned f) {
  if (n > limit) return 2;
  *p = malloc(n);
  blocks++;
  return 0;
}
int cuMemFreeHost(void *p) { free(p); blocks--; return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t d, const void *s, size_t n, void *stream) {
  bytes_to_device += n;
  return copy((void *)(uintptr_t)d, s, n);
}
int cuMemcpyDtoHAsync_v2(void *d, uint64_t s, size_t n, void *stream) {
  bytes_to_host += n;
  return copy(d, (void *)(uintptr_t)s, n);
}
int cuStreamCreate(void **s, unsigned flags) { *s = malloc(1); streams++; return flags == 1 ? 0 : 1; }
int cuStreamSynchronize(void *s) { return sync_result; }
int cuStreamDestroy_v2(void *s) { free(s); streams--; return 0; }
int cuGetErrorName(int e, const char **s) {
  *s = e == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : e == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : 0;
  return *s ? 0 : 1;
}
int cuGetErrorString(int e, const char **s) { *s = 0; return 1; }
