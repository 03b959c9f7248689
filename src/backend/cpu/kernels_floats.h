// Matmul with weights that are floats: F32, F16, BF16, row by row as in the file.
#ifndef PLUMB_BACKEND_CPU_KERNELS_FLOATS_H
#define PLUMB_BACKEND_CPU_KERNELS_FLOATS_H

#include "backend/cpu/kernel_set.h"
#include "backend/cpu/kernels.h"

#define floats_act_bytes KERNEL(floats_act_bytes)
#define floats_scratch KERNEL(floats_scratch)
#define floats_matmul KERNEL(floats_matmul)

size_t floats_act_bytes(ActQuant quant, int n, int n_act);  // 0: the inputs are read as they are
size_t floats_scratch(int n);
void floats_matmul(const MatmulTask *m, long r0, long r1, void *scratch);

#endif
