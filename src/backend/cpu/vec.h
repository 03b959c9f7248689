// Eight floats at a time in portable C: the compiler's vector extension, which every target lowers
// to what it has. The order of every sum is written down here, so that the bits are the same
// everywhere.
#ifndef PLUMB_BACKEND_CPU_VEC_H
#define PLUMB_BACKEND_CPU_VEC_H

#include <stdint.h>
#include <string.h>

typedef float f32x4 __attribute__((vector_size(16)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));

static inline f32x4 f32x4_load(const float *p) {
    f32x4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline f32x8 f32x8_load(const float *p) {
    f32x8 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void f32x8_store(float *p, f32x8 v) {
    memcpy(p, &v, sizeof v);
}

static inline f32x8 f32x8_all(float x) {
    return (f32x8){x, x, x, x, x, x, x, x};
}

static inline i32x8 i32x8_all(int32_t x) {
    return (i32x8){x, x, x, x, x, x, x, x};
}

// All ones where the number is negative. Masks are made so, from signs: gcc 12 compares 32-byte
// vectors one element at a time where the machine has only 16-byte ones.
static inline i32x8 i32x8_negative(i32x8 v) {
    return v >> 31;
}

static inline f32x8 f32x8_pick(i32x8 mask, f32x8 yes, f32x8 no) {
    return (f32x8)(((i32x8)yes & mask) | ((i32x8)no & ~mask));
}

static inline float f32x8_sum(f32x8 v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// Eight sums of four lanes hide the latency of the adds. In 16-byte vectors, which gcc 12 keeps in
// registers on every machine; 32-byte ones it keeps in memory where the machine has none.
static inline float dot_f32(const float *a, const float *b, long n) {
    f32x4 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};
    long i = 0;
    for (; i + 32 <= n; i += 32) {
        s0 += f32x4_load(a + i) * f32x4_load(b + i);
        s1 += f32x4_load(a + i + 4) * f32x4_load(b + i + 4);
        s2 += f32x4_load(a + i + 8) * f32x4_load(b + i + 8);
        s3 += f32x4_load(a + i + 12) * f32x4_load(b + i + 12);
        s4 += f32x4_load(a + i + 16) * f32x4_load(b + i + 16);
        s5 += f32x4_load(a + i + 20) * f32x4_load(b + i + 20);
        s6 += f32x4_load(a + i + 24) * f32x4_load(b + i + 24);
        s7 += f32x4_load(a + i + 28) * f32x4_load(b + i + 28);
    }
    for (; i + 4 <= n; i += 4) s0 += f32x4_load(a + i) * f32x4_load(b + i);
    f32x4 s = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7));
    float sum = (s[0] + s[2]) + (s[1] + s[3]);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

// y += s * x
static inline void axpy_f32(float s, const float *x, float *y, long n) {
    const f32x4 sv = {s, s, s, s};
    long i = 0;
    for (; i + 4 <= n; i += 4) {
        f32x4 v = f32x4_load(y + i) + sv * f32x4_load(x + i);
        memcpy(y + i, &v, sizeof v);
    }
    for (; i < n; i++) y[i] += s * x[i];
}

// exp(x) within 2 units in the last place for -87.3 <= x <= 88.7; 0 below, exp(88.7) above; NaN
// stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2, exp(r) by its Taylor series to r^7, then n into
// the exponent.
static inline f32x8 exp_f32x8(f32x8 x) {
    const f32x8 magic = f32x8_all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    i32x8 nan = i32x8_negative(0x7f800000 - ((i32x8)x & 0x7fffffff));
    i32x8 small = i32x8_negative((i32x8)(x + f32x8_all(87.3f)));
    i32x8 big = i32x8_negative((i32x8)(f32x8_all(88.7f) - x));
    f32x8 c = f32x8_pick(small, f32x8_all(0), f32x8_pick(big, f32x8_all(88.7f), x));
    f32x8 t = c * f32x8_all(1.44269504f) + magic;
    f32x8 n = t - magic;
    f32x8 r = c - n * f32x8_all(0.693359375f);  // ln 2 in two parts, the first exact in 10 bits
    r = r - n * f32x8_all(-2.12194440e-4f);
    f32x8 p = f32x8_all(1.0f / 5040);
    p = p * r + f32x8_all(1.0f / 720);
    p = p * r + f32x8_all(1.0f / 120);
    p = p * r + f32x8_all(1.0f / 24);
    p = p * r + f32x8_all(1.0f / 6);
    p = p * r + f32x8_all(0.5f);
    p = p * r * r + r + f32x8_all(1.0f);
    // 2^n in two steps: n may be 128, whose 2^n alone would overflow.
    i32x8 e = (i32x8)t - i32x8_all(0x4b400000), half = e >> 1, rest = e - half;
    f32x8 y = p * (f32x8)((half + 127) << 23) * (f32x8)((rest + 127) << 23);
    y = f32x8_pick(small, f32x8_all(0), y);
    return f32x8_pick(nan, x, y);
}

// The same for the end of a row: n < 8 floats through a padded vector.
static inline f32x8 f32x8_load_tail(const float *p, long n) {
    f32x8 v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}

static inline void f32x8_store_tail(float *p, f32x8 v, long n) {
    memcpy(p, &v, (size_t)n * sizeof *p);
}

static inline f32x4 f16x4_to_f32(i32x4 h) {
    i32x4 sign = (h & 0x8000) << 16, mag = (h & 0x7fff) << 13;
    i32x4 normal = mag + ((127 - 15) << 23);
    // A subnormal half is mantissa * 2^-24: with the exponent of 2^-14 put above it, subtracting
    // 2^-14 is exact.
    const f32x4 least = {0x1p-14f, 0x1p-14f, 0x1p-14f, 0x1p-14f};
    i32x4 tiny = (i32x4)((f32x4)(mag + ((127 - 14) << 23)) - least);
    i32x4 special = mag + ((255 - 31) << 23);
    i32x4 is_tiny = mag < (1 << 23), is_special = mag >= (31 << 23);
    i32x4 r = (is_tiny & tiny) | (~is_tiny & normal);
    r = (is_special & special) | (~is_special & r);
    return (f32x4)(r | sign);
}

// Eight IEEE halves (at any address) to floats, exactly, subnormals, infinities and NaN included.
static inline void f16x8_to_f32(const void *p, float *out) {
    u16x8 raw;
    i32x4 h[2];
    memcpy(&raw, p, sizeof raw);
    i32x8 wide = __builtin_convertvector(raw, i32x8);
    memcpy(h, &wide, sizeof h);
    const f32x4 low = f16x4_to_f32(h[0]), high = f16x4_to_f32(h[1]);
    memcpy(out, &low, sizeof low);
    memcpy(out + 4, &high, sizeof high);
}

static inline void bf16x8_to_f32(const void *p, float *out) {
    u16x8 raw;
    memcpy(&raw, p, sizeof raw);
    i32x8 wide = __builtin_convertvector(raw, i32x8) << 16;
    memcpy(out, &wide, sizeof wide);
}

#endif
