// Attention over the cache (AttentionKernels in kernels.h), of each set.
#ifndef PLUMB_BACKEND_CPU_KERNELS_ATTENTION_H
#define PLUMB_BACKEND_CPU_KERNELS_ATTENTION_H

#include "backend/cpu/kernel_set.h"
#include "backend/cpu/kernels.h"

#define attention_kernels KERNEL(attention_kernels)

extern const AttentionKernels attention_kernels;

#endif
