// Whole numbers in vectors of 16 bytes, and the one product that quantized weights live on.
#ifndef PLUMB_BACKEND_CPU_VEC_INT_H
#define PLUMB_BACKEND_CPU_VEC_INT_H

#include "backend/cpu/vec.h"

typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef uint64_t u64x2 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));

static inline u16x8 u16x8_load(const void *p) {
    u16x8 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline i16x8 i16x8_all(int x) {
    int16_t v = (int16_t)x;
    return (i16x8){v, v, v, v, v, v, v, v};
}

// Sums of products of n 16-bit integers, n a multiple of 16, in eight lanes: lane l takes elements
// 2l and 2l + 1 of every 16. The sums must fit 32 bits. Every processor that has vectors has this
// as one instruction, which compilers do not always find.
static inline void dot_lanes(const int16_t *a, const int16_t *b, int n, i32x4 lanes[2]) {
#if defined(__AVX2__)
    typedef int16_t i16x16 __attribute__((vector_size(32)));
    i32x8 sum = {0};
    for (int i = 0; i < n; i += 16) {
        i16x16 x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        sum += (i32x8)__builtin_ia32_pmaddwd256(x, y);
    }
    memcpy(lanes, &sum, sizeof sum);
#elif defined(__SSE2__)
    i32x4 low = {0}, high = {0};
    for (int i = 0; i < n; i += 16) {
        i16x8 x[2], y[2];
        memcpy(x, a + i, sizeof x);
        memcpy(y, b + i, sizeof y);
        low += (i32x4)__builtin_ia32_pmaddwd128(x[0], y[0]);
        high += (i32x4)__builtin_ia32_pmaddwd128(x[1], y[1]);
    }
    lanes[0] = low, lanes[1] = high;
#else
    int32_t sum[8] = {0};
    for (int i = 0; i < n; i += 16) {
        for (int l = 0; l < 8; l++) {
            sum[l] += a[i + 2 * l] * b[i + 2 * l] + a[i + 2 * l + 1] * b[i + 2 * l + 1];
        }
    }
    memcpy(lanes, sum, sizeof sum);
#endif
}

#endif
