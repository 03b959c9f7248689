// The kernels of one instruction set: the arithmetic of the CPU backend, one thread, no allocation.
//
// cpu.c owns threads, buffers and the cache and calls these through a table. kernels_generic.c is
// plain C and explains every faster file. What every set must keep: a result never depends on how
// many rows of x are multiplied at once, so prefill and decode agree to the bit.
#ifndef PLUMB_BACKEND_CPU_KERNELS_H
#define PLUMB_BACKEND_CPU_KERNELS_H

#include "backend/backend.h"

// y[t * n_rows + r] = dot(row r of w, activation t) + bias[r] + residual[t * n_rows + r], for the
// rows [r0, r1) that a thread is given and every t in [0, n_act).
typedef struct {
    TensorType type;
    const uint8_t *w;  // first row of the matrix; needs no alignment
    int n;             // weights a row
    long n_rows;
    const uint8_t *act;
    size_t act_stride;  // bytes between activations
    int n_act;
    const float *bias;      // or NULL
    const float *residual;  // or NULL; may be y
    float *y;
} MatmulTask;

typedef struct {
    const char *isa;   // "generic"
    const char *what;  // "portable C"
    bool (*runs_here)(void);

    // How the input of a matmul with weights of this type is rounded, and the bytes of one such row
    // of n.
    ActQuant (*activation)(TensorType type);
    size_t (*act_bytes)(ActQuant quant, int n);
    void (*act_make)(ActQuant quant, const float *x, int n, void *act);  // act: 64-byte aligned

    // Scratch that matmul_rows needs for rows of n weights.
    size_t (*matmul_scratch)(int n);
    void (*matmul_rows)(const MatmulTask *task, long r0, long r1, void *scratch);

    void (*rmsnorm)(const float *x, const float *w, float eps, int n, float *y);
    void (*swiglu)(const float *gate, const float *up, long n, float *y);

    // One row of the cache: n floats to and from type (F32, F16, Q8_0).
    void (*kv_write)(TensorType type, const float *x, int n, void *row);
    void (*kv_read)(TensorType type, const void *row, int n, float *x);
    // One token's n_q query heads (q: n_q x head_dim) that share a kv head, over keys 0..n_keys-1,
    // whose rows stand k_stride and v_stride bytes apart. y: n_q x head_dim. scores: scratch of n_q
    // x scores_stride floats; holds the softmax weights afterwards. kq gets the scaled scores in
    // the same shape, or is NULL.
    void (*attention)(const float *q, int n_q, int head_dim, float scale, TensorType type_k,
                      const uint8_t *k, size_t k_stride, TensorType type_v, const uint8_t *v,
                      size_t v_stride, int n_keys, float *scores, long scores_stride, float *kq,
                      float *y);
} Kernels;

extern const Kernels kernels_generic;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;  // the same text compiled for AVX2 (x86 from about 2013 on)
#endif

#endif
