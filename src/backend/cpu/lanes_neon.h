// NEON with the dot product of Armv8.2; see lanes.h.
#ifndef PLUMB_BACKEND_CPU_LANES_NEON_H
#define PLUMB_BACKEND_CPU_LANES_NEON_H

#include <arm_neon.h>

enum { LANES = 4, GROUP_4 = 8, GROUP_5 = 8, GROUP_6 = 4 };
enum { BLOCK_ROWS = 8, BLOCK_VECTORS = 2, HALVES_ARE_DEAR = 0 };  // of 32 registers
typedef float32x4_t F32;
typedef int32x4_t I32, Dots, Scale;
typedef uint8x16_t Codes;
typedef int16x8_t Mins;  // four of the first row, four of the second
typedef struct {
    float64x2_t low, high;
} F64;

static inline F32 f32_zero(void) {
    return vdupq_n_f32(0);
}
static inline F32 f32_all(float x) {
    return vdupq_n_f32(x);
}
static inline F32 f32_load(const float *p) {
    return vld1q_f32(p);
}
static inline void f32_store(float *p, F32 v) {
    vst1q_f32(p, v);
}
static inline F32 f32_add(F32 a, F32 b) {
    return vaddq_f32(a, b);
}
static inline F32 f32_sub(F32 a, F32 b) {
    return vsubq_f32(a, b);
}
static inline F32 f32_mul(F32 a, F32 b) {
    return vmulq_f32(a, b);
}
static inline F32 f32_div(F32 a, F32 b) {
    return vdivq_f32(a, b);
}
static inline F32 f32_fma(F32 a, F32 b, F32 c) {
    return vfmaq_f32(c, a, b);
}
// FMIN and FMAX would make a NaN of one; here b is taken where either is not a number.
static inline F32 f32_min(F32 a, F32 b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
static inline F32 f32_max(F32 a, F32 b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
static inline F32 f32_unless(F32 a, F32 b, F32 v) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(a, b)));
}
static inline F32 f32_raise(F32 v, F32 t) {
    const uint32x4_t n = vshlq_n_u32(vreinterpretq_u32_f32(t), 23);
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(v), n));
}
static inline F32 f32_keep(F32 v, int n) {
    const int32x4_t lane = {0, 1, 2, 3};
    const uint32x4_t keep = vcgtq_s32(vdupq_n_s32(n), lane);
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), keep));
}
static inline F32 f32_halves(const void *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline F32 f32_bfloats(const void *p) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16));
}
static inline F32 f32_half(const void *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_dup_u16(p)));
}
static inline F32 f32_of(I32 v) {
    return vcvtq_f32_s32(v);
}
static inline I32 i32_zero(void) {
    return vdupq_n_s32(0);
}

// Four bytes, to 16 bits each.
static inline uint16x4_t four_u8(const void *p) {
    return vget_low_u16(vmovl_u8(vreinterpret_u8_s32(vdup_n_s32(load_i32(p)))));
}
static inline int16x4_t four_i8(const void *p) {
    return vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(load_i32(p)))));
}
static inline F32 f32_bytes(const void *p) {
    return vcvtq_f32_s32(vmovl_s16(four_i8(p)));
}

static inline F64 f64_zero(void) {
    return (F64){vdupq_n_f64(0), vdupq_n_f64(0)};
}
static inline F64 f64_square(F64 s, F32 v) {
    const float64x2_t a = vcvt_f64_f32(vget_low_f32(v)), b = vcvt_high_f64_f32(v);
    return (F64){vfmaq_f64(s.low, a, a), vfmaq_f64(s.high, b, b)};
}
static inline void f64_store(double *p, F64 s) {
    vst1q_f64(p, s.low);
    vst1q_f64(p + 2, s.high);
}

static inline Codes codes_load(const void *p) {
    return vld1q_u8(p);
}
static inline Codes codes_low(Codes c) {
    return vandq_u8(c, vdupq_n_u8(15));
}
static inline Codes codes_high(Codes c) {
    return vshrq_n_u8(c, 4);
}
static inline Codes codes_join(Codes c, Codes bits, int from, int to, int mask) {
    bits = vshlq_u8(bits, vdupq_n_s8((int8_t)(to - from)));  // to the right where that is negative
    return vorrq_u8(c, vandq_u8(bits, vdupq_n_u8((uint8_t)(mask << to))));
}

static inline Dots dots_start(int32_t pairs, int bias) {
    if (bias == 0) return vdupq_n_s32(0);
    return vmulq_n_s32(vpaddlq_s16(vreinterpretq_s16_s32(vdupq_n_s32(pairs))), -bias);
}
// The inputs stay in one lane: a load of theirs to all lanes would take time of the products.
static inline Dots dots_add(Dots d, Codes c, const int8_t *a) {
    const int32x2_t four = {load_i32(a), 0};
    return vdotq_lane_s32(d, vreinterpretq_s8_u8(c), vreinterpret_s8_s32(four), 0);
}
static inline Dots dots_signed(const Codes *c, const int8_t *a, int32_t pairs) {
    Dots d = vdupq_n_s32(0);
    (void)pairs;
    for (int i = 0; i < 8; i += 4) {
        const int8x16_t all = vld1q_s8(a + 4 * i);
        d = vdotq_laneq_s32(d, vreinterpretq_s8_u8(c[i]), all, 0);
        d = vdotq_laneq_s32(d, vreinterpretq_s8_u8(c[i + 1]), all, 1);
        d = vdotq_laneq_s32(d, vreinterpretq_s8_u8(c[i + 2]), all, 2);
        d = vdotq_laneq_s32(d, vreinterpretq_s8_u8(c[i + 3]), all, 3);
    }
    return d;
}
static inline I32 plain(Dots d) {
    return d;
}
static inline Scale scale_u8(const uint8_t *p) {
    return vreinterpretq_s32_u32(vmovl_u16(four_u8(p)));
}
static inline Scale scale_i8(const uint8_t *p) {
    return vmovl_s16(four_i8(p));
}
static inline I32 scaled(I32 s, Dots d, Scale scale) {
    return vmlaq_s32(s, d, scale);
}
static inline Mins mins(const uint8_t *m0, const uint8_t *m1) {
    return vreinterpretq_s16_u16(vcombine_u16(four_u8(m0), four_u8(m1)));
}
static inline I32 mins_dot(I32 s, Mins m, int32_t b) {
    const int16x4_t two = vreinterpret_s16_s32(vdup_n_s32(b));
    return vmlal_high_lane_s16(vmlal_lane_s16(s, vget_low_s16(m), two, 0), m, two, 1);
}

#endif
