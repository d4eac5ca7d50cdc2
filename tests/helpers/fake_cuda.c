/* A CUDA driver whose device memory is host memory: what tests of cuda.py load instead of libcuda. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int device_count = 1, sync_result = 0, streams = 0, blocks = 0;
static int contexts[2], current = 0; /* of two devices; the second has half as much memory free */
static size_t limit = (size_t)1 << 30;

/* What a captured stream was given: copies and, from the test, kernels. */
static struct { void *target; const void *source; size_t size; void (*kernel)(void); } work[16];
static int num_work = 0, is_capturing = 0, capture_result = 0, graphs = 0;

static int copy(void *target, const void *source, size_t size) {
  if (!is_capturing) {
    memcpy(target, source, size);
    return 0;
  }
  work[num_work].target = target;
  work[num_work].source = source;
  work[num_work].size = size;
  work[num_work++].kernel = 0;
  return 0;
}
void fake_set_capture_result(int code) { capture_result = code; }
void fake_launch_kernel(void (*kernel)(void)) {
  if (is_capturing) work[num_work++].kernel = kernel;
  else kernel();
}
int cuStreamBeginCapture_v2(void *s, int mode) { is_capturing = 1; num_work = 0; return 0; }
int cuStreamEndCapture(void *s, void **graph) {
  is_capturing = 0;
  *graph = capture_result ? 0 : &work;
  graphs += !capture_result;
  return capture_result;
}
int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) { *e = g; graphs++; return 0; }
int cuGraphLaunch(void *e, void *s) {
  for (int i = 0; i < num_work; i++) {
    if (work[i].kernel) work[i].kernel();
    else memcpy(work[i].target, work[i].source, work[i].size);
  }
  return e == &work ? 0 : 400;
}
int cuGraphDestroy(void *g) { graphs--; return 0; }
int cuGraphExecDestroy(void *e) { graphs--; return 0; }


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
  return copy((void *)(uintptr_t)d, s, n);
}
int cuMemcpyDtoHAsync_v2(void *d, uint64_t s, size_t n, void *stream) {
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
