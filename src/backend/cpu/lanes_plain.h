// Vectors of 16 bytes in portable C, for the generic set; see lanes.h.
//
// No fma: a processor that the generic set is for may have none, and libm's would be a call for
// each lane. f32_fma rounds the product too, so the bits are not those of the other sets; they are
// the same on every machine.
#ifndef PLUMB_BACKEND_CPU_LANES_PLAIN_H
#define PLUMB_BACKEND_CPU_LANES_PLAIN_H

#include "backend/cpu/vec.h"

enum { LANES = 4 };
enum {
    BLOCK_ROWS = 8,
    BLOCK_VECTORS = 1,
    HALVES_ARE_DEAR = 1
};  // of 16 registers; halves are dear to convert
typedef f32x4 F32;
typedef struct {
    double v[LANES];
} F64;

static inline F32 f32_zero(void) {
    return (F32){0};
}
static inline F32 f32_all(float x) {
    return (F32){x, x, x, x};
}
static inline F32 f32_load(const float *p) {
    return f32x4_load(p);
}
static inline void f32_store(float *p, F32 v) {
    memcpy(p, &v, sizeof v);
}
static inline F32 f32_add(F32 a, F32 b) {
    return a + b;
}
static inline F32 f32_sub(F32 a, F32 b) {
    return a - b;
}
static inline F32 f32_mul(F32 a, F32 b) {
    return a * b;
}
static inline F32 f32_div(F32 a, F32 b) {
    return a / b;
}
static inline F32 f32_fma(F32 a, F32 b, F32 c) {
    return a * b + c;
}
// yes where mask is all ones.
static inline F32 f32_pick(i32x4 mask, F32 yes, F32 no) {
    return (F32)(((i32x4)yes & mask) | ((i32x4)no & ~mask));
}
static inline F32 f32_unless(F32 a, F32 b, F32 v) {
    return (F32)((i32x4)v & ~(a < b));
}
// b where either is not a number.
static inline F32 f32_min(F32 a, F32 b) {
    return f32_pick(a < b, a, b);
}
static inline F32 f32_max(F32 a, F32 b) {
    return f32_pick(a > b, a, b);
}
static inline F32 f32_raise(F32 v, F32 t) {
    typedef uint32_t u32x4 __attribute__((vector_size(16)));
    return (F32)((u32x4)v + ((u32x4)t << 23));
}
static inline F32 f32_halves(const void *p) {
    typedef uint16_t u16x4 __attribute__((vector_size(8)));
    u16x4 h;
    memcpy(&h, p, sizeof h);
    return f16x4_to_f32(__builtin_convertvector(h, i32x4));
}
static inline F32 f32_half(const void *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f16x4_to_f32((i32x4){h, h, h, h});
}
static inline F32 f32_bytes(const void *p) {
    typedef int8_t i8x4 __attribute__((vector_size(4)));
    i8x4 b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(__builtin_convertvector(b, i32x4), F32);
}

static inline F64 f64_zero(void) {
    return (F64){{0}};
}
static inline F64 f64_square(F64 s, F32 v) {
    for (int l = 0; l < LANES; l++) s.v[l] += (double)v[l] * (double)v[l];
    return s;
}
static inline void f64_store(double *p, F64 s) {
    memcpy(p, &s, sizeof s);
}

#endif
