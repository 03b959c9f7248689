// Matmul on AMX tiles, over the AVX-512 kernels. The functions exist once for each set that has
// tiles; see kernel_set.h.
#ifndef PLUMB_BACKEND_CPU_KERNELS_AMX_H
#define PLUMB_BACKEND_CPU_KERNELS_AMX_H

#include "backend/cpu/kernel_set.h"
#include "backend/cpu/kernels.h"

#define amx_act_bytes KERNEL(amx_act_bytes)
#define amx_act_make KERNEL(amx_act_make)
#define amx_scratch KERNEL(amx_scratch)
#define amx_panels_matmul KERNEL(amx_panels_matmul)
#define bf16_act_bytes KERNEL(bf16_act_bytes)
#define bf16_act_make KERNEL(bf16_act_make)
#define bf16_scratch KERNEL(bf16_scratch)
#define bf16_matmul KERNEL(bf16_matmul)

size_t amx_act_bytes(ActQuant quant, int n, int n_act);
void amx_act_make(ActQuant quant, const float *x, int n, int t, int n_act, void *act);
size_t amx_scratch(int n);
void amx_panels_matmul(const MatmulTask *m, long r0, long r1, void *scratch);

// BF16 weights, the inputs rounded to bfloat16.
size_t bf16_act_bytes(ActQuant quant, int n, int n_act);
void bf16_act_make(ActQuant quant, const float *x, int n, int t, int n_act, void *act);
size_t bf16_scratch(int n);
void bf16_matmul(const MatmulTask *m, long r0, long r1, void *scratch);

#endif
