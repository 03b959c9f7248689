// Small operations on rows of floats, of each set.
#ifndef PLUMB_BACKEND_CPU_KERNELS_ROWS_H
#define PLUMB_BACKEND_CPU_KERNELS_ROWS_H

#include "backend/cpu/kernel_set.h"

#define rows_rmsnorm KERNEL(rows_rmsnorm)
#define rows_swiglu KERNEL(rows_swiglu)

// As in Kernels (kernels.h).
void rows_rmsnorm(const float *x, const float *w, float eps, int n, float *y);
void rows_swiglu(const float *gate, const float *up, long n, float *y);

#endif
