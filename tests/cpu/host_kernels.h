// The vector kernels, those on AMX tiles and those with Arm's matrix product, in plain C: the text
// that other machines run, for tests on one that cannot.
#ifndef PLUMB_TESTS_CPU_HOST_KERNELS_H
#define PLUMB_TESTS_CPU_HOST_KERNELS_H

#include "backend/cpu/kernel_sets.h"

enum { HOST_SETS = 3 };

// 0: as AVX-512's; 1: as AMX's, whose tiles are simulated; 2: as those of I8MM, likewise.
const Kernels *host_kernels(int i);

// The sets of this build, then these; NULL past the end.
static inline const Kernels *any_kernels(int i) {
    int n = 0;
    while (kernel_set_at(n)) n++;
    return i < n ? kernel_set_at(i) : i < n + HOST_SETS ? host_kernels(i - n) : (const Kernels *)0;
}

#endif
