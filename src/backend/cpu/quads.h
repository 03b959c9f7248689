// Two rows times two inputs, four sums: the 8-bit matrix product of Armv8.6 (I8MM), and in plain C
// what it does, for tests.
//
//   quad        r0 t0, r1 t0, r0 t1, r1 t1 of rows r and inputs t: whole numbers or floats
//   quad_dot(s, a, b)      a: 8 signed codes of input t0, 8 of t1; b: 8 of row r0, 8 of r1
//   quad_fma(a, b, c)      a * b + c, rounded once
//   quad_inputs(p)         p[0], p[0], p[1], p[1]
//   quad_rows(p)           p[0], p[1], p[0], p[1]
//   eights_store(to, a, b) of each lane (row) its four codes of a, then those of b
#ifndef PLUMB_BACKEND_CPU_QUADS_H
#define PLUMB_BACKEND_CPU_QUADS_H

#include "backend/cpu/lanes.h"
#include "backend/cpu/vec.h"

typedef int8_t i8x16 __attribute__((vector_size(16)));

static inline i8x16 i8x16_load(const void *p) {
    i8x16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline f32x4 quad_floats(i32x4 v) {
    return __builtin_convertvector(v, f32x4);
}

static inline f32x4 quad_rows(const float *p) {
    return (f32x4){p[0], p[1], p[0], p[1]};
}

#if defined(__ARM_FEATURE_MATMUL_INT8) && !defined(PLAIN_LANES)
static inline i32x4 quad_dot(i32x4 s, i8x16 a, i8x16 b) {
    return (i32x4)vmmlaq_s32((int32x4_t)s, (int8x16_t)a, (int8x16_t)b);
}
static inline f32x4 quad_fma(f32x4 a, f32x4 b, f32x4 c) {
    return (f32x4)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
static inline f32x4 quad_inputs(const float *p) {
    const float32x2_t two = vld1_f32(p);
    return (f32x4)vcombine_f32(vdup_lane_f32(two, 0), vdup_lane_f32(two, 1));
}
static inline Codes codes_less(Codes c, int bias) {
    return vsubq_u8(c, vdupq_n_u8((uint8_t)bias));
}
static inline void eights_store(int8_t *to, Codes a, Codes b) {
    const int32x4_t a4 = vreinterpretq_s32_u8(a), b4 = vreinterpretq_s32_u8(b);
    vst1q_s8(to, vreinterpretq_s8_s32(vzip1q_s32(a4, b4)));
    vst1q_s8(to + 16, vreinterpretq_s8_s32(vzip2q_s32(a4, b4)));
}
#else
static inline i32x4 quad_dot(i32x4 s, i8x16 a, i8x16 b) {
    int32_t sum[4] = {0};
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 8; k++) sum[i] += a[i / 2 * 8 + k] * b[i % 2 * 8 + k];
    }
    return s + (i32x4){sum[0], sum[1], sum[2], sum[3]};
}
static inline f32x4 quad_fma(f32x4 a, f32x4 b, f32x4 c) {
    for (int i = 0; i < 4; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}
static inline f32x4 quad_inputs(const float *p) {
    return (f32x4){p[0], p[0], p[1], p[1]};
}
static inline Codes codes_less(Codes c, int bias) {
    for (int i = 0; i < 4 * LANES; i++) c.v[i] = (uint8_t)(c.v[i] - bias);
    return c;
}
static inline void eights_store(int8_t *to, Codes a, Codes b) {
    EACH_LANE(l) {
        memcpy(to + 8 * l, a.v + 4 * l, 4);
        memcpy(to + 8 * l + 4, b.v + 4 * l, 4);
    }
}
#endif

#endif
