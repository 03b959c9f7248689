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
