// Asking the processor; see features.h.
#define _GNU_SOURCE
#include "backend/cpu/features.h"

#include <stdbool.h>
#include <stddef.h>

#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

const char *lacks_nothing(void) {
    return NULL;
}

#if defined(__x86_64__)
const char *lacks_avx2(void) {
    if (!__builtin_cpu_supports("avx2")) return "AVX2";
    unsigned a, b, c = 0, d;
    __get_cpuid(1, &a, &b, &c, &d);
    if (!(c & bit_FMA)) return "FMA";
    return c & bit_F16C ? NULL : "F16C";
}

const char *lacks_avx512(void) {
    const char *lacks = lacks_avx2();
    if (lacks) return lacks;
    if (!__builtin_cpu_supports("avx512f")) return "AVX-512";
    if (!__builtin_cpu_supports("avx512bw")) return "AVX-512 BW";
    if (!__builtin_cpu_supports("avx512dq")) return "AVX-512 DQ";
    if (!__builtin_cpu_supports("avx512vl")) return "AVX-512 VL";
    return __builtin_cpu_supports("avx512vnni") ? NULL : "AVX-512 VNNI";
}

// Linux hands out the tiles' registers to a process that asks for them, once.
static bool tiles_granted(void) {
#ifdef __linux__
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

const char *lacks_amx(void) {
    const char *lacks = lacks_avx512();
    if (lacks) return lacks;
    unsigned a, b, c, d = 0;
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    if (!(d & 1u << 24)) return "AMX";
    if (!(d & 1u << 25)) return "AMX INT8";
    if (!(d & 1u << 22)) return "AMX BF16";
    return tiles_granted() ? NULL : "the system's leave to use AMX";
}
#else
const char *lacks_avx2(void) {
    return "AVX2";
}

const char *lacks_avx512(void) {
    return "AVX-512";
}

const char *lacks_amx(void) {
    return "AMX";
}
#endif

#if defined(__aarch64__) && defined(__linux__)
const char *lacks_neon(void) {
    return getauxval(AT_HWCAP) & 1ul << 20 ? NULL : "the dot product of Armv8.2";  // ASIMDDP
}

const char *lacks_i8mm(void) {
    const char *lacks = lacks_neon();
    if (lacks) return lacks;
    return getauxval(AT_HWCAP2) & 1ul << 13 ? NULL : "I8MM";
}
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>

static bool has(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value;
}

const char *lacks_neon(void) {
    return has("hw.optional.arm.FEAT_DotProd") ? NULL : "the dot product of Armv8.2";
}

const char *lacks_i8mm(void) {
    const char *lacks = lacks_neon();
    return lacks ? lacks : has("hw.optional.arm.FEAT_I8MM") ? NULL : "I8MM";
}
#else
const char *lacks_neon(void) {
    return "NEON";
}

const char *lacks_i8mm(void) {
    return "NEON";
}
#endif
