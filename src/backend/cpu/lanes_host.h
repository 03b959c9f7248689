// Plain C, for machines that have no header of their own and for tests; see lanes.h, whose words
// these functions are.
#ifndef PLUMB_BACKEND_CPU_LANES_HOST_H
#define PLUMB_BACKEND_CPU_LANES_HOST_H

#include <math.h>

#include "formats/quants.h"

enum { LANES = 16, GROUP_4 = 8, GROUP_5 = 8, GROUP_6 = 4 };
enum { BLOCK_ROWS = 8, BLOCK_VECTORS = 2, HALVES_ARE_DEAR = 0 };
typedef struct {
    float v[LANES];
} F32;
typedef struct {
    int32_t v[LANES];
} I32;
typedef struct {
    double v[LANES];
} F64;
typedef I32 Dots, Scale;
typedef struct {
    uint8_t v[4 * LANES];
} Codes;
typedef struct {
    int16_t v[2 * LANES];
} Mins;

#define EACH_LANE(l) for (int l = 0; l < LANES; l++)

static inline F32 f32_all(float x) {
    F32 r;
    EACH_LANE(l) r.v[l] = x;
    return r;
}
static inline F32 f32_zero(void) {
    return f32_all(0);
}
static inline F32 f32_load(const float *p) {
    F32 r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline void f32_store(float *p, F32 v) {
    memcpy(p, &v, sizeof v);
}
static inline F32 f32_add(F32 a, F32 b) {
    EACH_LANE(l) a.v[l] += b.v[l];
    return a;
}
static inline F32 f32_sub(F32 a, F32 b) {
    EACH_LANE(l) a.v[l] -= b.v[l];
    return a;
}
static inline F32 f32_mul(F32 a, F32 b) {
    EACH_LANE(l) a.v[l] *= b.v[l];
    return a;
}
static inline F32 f32_div(F32 a, F32 b) {
    EACH_LANE(l) a.v[l] /= b.v[l];
    return a;
}
static inline F32 f32_fma(F32 a, F32 b, F32 c) {
    EACH_LANE(l) c.v[l] = fmaf(a.v[l], b.v[l], c.v[l]);
    return c;
}
static inline F32 f32_min(F32 a, F32 b) {
    EACH_LANE(l) a.v[l] = a.v[l] < b.v[l] ? a.v[l] : b.v[l];
    return a;
}
static inline F32 f32_max(F32 a, F32 b) {
    EACH_LANE(l) a.v[l] = a.v[l] > b.v[l] ? a.v[l] : b.v[l];
    return a;
}
static inline F32 f32_unless(F32 a, F32 b, F32 v) {
    EACH_LANE(l) v.v[l] = a.v[l] < b.v[l] ? 0 : v.v[l];
    return v;
}
static inline F32 f32_raise(F32 v, F32 t) {
    uint32_t bits[LANES], n[LANES];
    memcpy(bits, &v, sizeof bits);
    memcpy(n, &t, sizeof n);
    EACH_LANE(l) bits[l] += n[l] << 23;
    memcpy(&v, bits, sizeof v);
    return v;
}
static inline F32 f32_keep(F32 v, int n) {
    EACH_LANE(l) v.v[l] = l < n ? v.v[l] : 0;
    return v;
}
static inline F32 f32_halves(const void *p) {
    F32 r;
    EACH_LANE(l) r.v[l] = f16_to_f32(load_u16((const uint8_t *)p + 2 * l));
    return r;
}
static inline F32 f32_bfloats(const void *p) {
    F32 r;
    EACH_LANE(l) r.v[l] = bf16_to_f32(load_u16((const uint8_t *)p + 2 * l));
    return r;
}
static inline F32 f32_bytes(const void *p) {
    F32 r;
    EACH_LANE(l) r.v[l] = ((const int8_t *)p)[l];
    return r;
}
static inline F32 f32_half(const void *p) {
    return f32_all(f16_to_f32(load_u16(p)));
}
static inline F32 f32_of(I32 v) {
    F32 r;
    EACH_LANE(l) r.v[l] = (float)v.v[l];
    return r;
}
static inline I32 i32_zero(void) {
    return (I32){{0}};
}

static inline F64 f64_zero(void) {
    return (F64){{0}};
}
static inline F64 f64_square(F64 s, F32 v) {
    EACH_LANE(l) s.v[l] += (double)v.v[l] * (double)v.v[l];
    return s;
}
static inline void f64_store(double *p, F64 s) {
    memcpy(p, &s, sizeof s);
}

static inline Codes codes_load(const void *p) {
    Codes c;
    memcpy(&c, p, sizeof c);
    return c;
}
static inline Codes codes_low(Codes c) {
    for (int i = 0; i < 4 * LANES; i++) c.v[i] &= 15;
    return c;
}
static inline Codes codes_high(Codes c) {
    for (int i = 0; i < 4 * LANES; i++) c.v[i] >>= 4;
    return c;
}
static inline Codes codes_join(Codes c, Codes bits, int from, int to, int mask) {
    for (int i = 0; i < 4 * LANES; i++)
        c.v[i] = (uint8_t)(c.v[i] | (bits.v[i] >> from & mask) << to);
    return c;
}

static inline Dots dots_start(int32_t pairs, int bias) {
    int16_t two[2];
    Dots d;
    memcpy(two, &pairs, sizeof two);
    EACH_LANE(l) d.v[l] = -bias * (two[0] + two[1]);
    return d;
}
static inline Dots dots_add(Dots d, Codes c, const int8_t *a) {
    EACH_LANE(l) {
        for (int k = 0; k < 4; k++) d.v[l] += c.v[4 * l + k] * a[k];
    }
    return d;
}
static inline Dots dots_signed(const Codes *c, const int8_t *a, int32_t pairs) {
    Dots d = {{0}};
    (void)pairs;
    for (int i = 0; i < 8; i++) {
        EACH_LANE(l) {
            for (int k = 0; k < 4; k++) d.v[l] += (int8_t)c[i].v[4 * l + k] * a[4 * i + k];
        }
    }
    return d;
}
static inline I32 plain(Dots d) {
    return d;
}
static inline Scale scale_u8(const uint8_t *p) {
    Scale s;
    EACH_LANE(l) s.v[l] = p[l];
    return s;
}
static inline Scale scale_i8(const uint8_t *p) {
    Scale s;
    EACH_LANE(l) s.v[l] = (int8_t)p[l];
    return s;
}
static inline I32 scaled(I32 s, Dots d, Scale scale) {
    EACH_LANE(l) s.v[l] += d.v[l] * scale.v[l];
    return s;
}
static inline Mins mins(const uint8_t *m0, const uint8_t *m1) {
    Mins m;
    EACH_LANE(l) m.v[2 * l] = m0[l], m.v[2 * l + 1] = m1[l];
    return m;
}
static inline I32 mins_dot(I32 s, Mins m, int32_t b) {
    int16_t two[2];
    memcpy(two, &b, sizeof two);
    EACH_LANE(l) s.v[l] += m.v[2 * l] * two[0] + m.v[2 * l + 1] * two[1];
    return s;
}

#endif
