/* Hides AVX-512, VNNI and AMX from a program, so that a server's core computes as those of most edge boxes do. Nothing is
 * emulated but the answer of CPUID.
 *
 *     cc -O2 -shared -fPIC -o avx2_only.so benchmarks/avx2_only.c
 *     LD_PRELOAD=$PWD/avx2_only.so python benchmarks/maskrcnn_profile.py
 *
 * That is AMD Ryzen before Zen 4 and Intel Core before the 11th generation. Intel's N-series and Core since the 12th have
 * AVX-VNNI as well: with KEEP_AVX_VNNI=1 in the environment a processor that has it shows it.
 *
 * Linux on x86-64, on a processor that can trap CPUID ("cpuid_fault" in /proc/cpuinfo). A program that handles SIGSEGV
 * itself takes the trap away: give pytest -p no:faulthandler. ONNX Runtime and PyTorch run under it; OpenVINO 2026.4
 * crashes on larger graphs.
 *
 * Bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID, leaf 07H. */

#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* What edgeseg_runtime.environment leaves out of its record. */
#define HIDDEN "avx512f avx512_vnni amx_int8 amx_bf16"

enum { FEATURES = 7 };

/* F, DQ, IFMA, PF, ER, CD, BW, VL | VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ | 4VNNIW, 4FMAPS, VP2INTERSECT, AMX, FP16 */
static const uint32_t AVX512_EBX = 0xdc230000, AVX512_ECX = 0x00005842, AVX512_EDX = 0x03c0010c;
/* AVX512_BF16, AMX-FP16; AVX-VNNI | AVX-VNNI-INT8, AVX-VNNI-INT16 */
static const uint32_t FURTHER_EAX = 0x00200020, AVX_VNNI_EAX = 0x00000010, FURTHER_EDX = 0x00000410;

static int has_avx_vnni; /* whether the program may see it */
static struct sigaction previous;

static long allow_cpuid(int is_allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, is_allowed); }

static void answer_cpuid(int number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uint8_t *code = (const uint8_t *)registers[REG_RIP];
  if (info->si_code != SI_KERNEL || code[0] != 0x0f || code[1] != 0xa2) {
    sigaction(number, &previous, NULL); /* a real fault: it happens again, and goes where it would have gone */
    return;
  }
  uint32_t leaf = (uint32_t)registers[REG_RAX], part = (uint32_t)registers[REG_RCX];
  uint32_t eax = leaf, ebx, ecx = part, edx;
  allow_cpuid(1);
  __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  allow_cpuid(0);
  if (leaf == FEATURES && part == 0) {
    ebx &= ~AVX512_EBX;
    ecx &= ~AVX512_ECX;
    edx &= ~AVX512_EDX;
  } else if (leaf == FEATURES && part == 1) {
    eax &= ~(has_avx_vnni ? FURTHER_EAX : FURTHER_EAX | AVX_VNNI_EAX);
    edx &= ~FURTHER_EDX;
  }
  registers[REG_RAX] = eax;
  registers[REG_RBX] = ebx;
  registers[REG_RCX] = ecx;
  registers[REG_RDX] = edx;
  registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
  struct sigaction action = {.sa_sigaction = answer_cpuid, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  sigaction(SIGSEGV, &action, &previous);
  has_avx_vnni = getenv("KEEP_AVX_VNNI") != NULL;
  setenv("HIDDEN_CPU_FLAGS", has_avx_vnni ? HIDDEN : HIDDEN " avx_vnni", 1);
  if (allow_cpuid(0) != 0) {
    perror("avx2_only: CPUID cannot be trapped here");
    _exit(1);
  }
}
