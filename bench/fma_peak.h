// Of each level; see fma_peak.c.
#ifndef PLUMB_BENCH_FMA_PEAK_H
#define PLUMB_BENCH_FMA_PEAK_H

#include "backend/cpu/kernel_set.h"

double KERNEL(fma_peak)(void);  // operations a second, two to an fma

#endif
