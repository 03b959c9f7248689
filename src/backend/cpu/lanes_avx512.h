// AVX-512 F, BW, DQ, VL and VNNI; see lanes.h.
#ifndef PLUMB_BACKEND_CPU_LANES_AVX512_H
#define PLUMB_BACKEND_CPU_LANES_AVX512_H

#include <immintrin.h>

enum { LANES = 16, GROUP_4 = 8, GROUP_5 = 8, GROUP_6 = 4 };
enum { BLOCK_ROWS = 8, BLOCK_VECTORS = 2, HALVES_ARE_DEAR = 0 };  // of 32 registers
typedef __m512 F32;
typedef __m512i I32, Codes, Dots, Scale, Mins;
typedef struct {
    __m512d low, high;
} F64;

static inline F32 f32_zero(void) {
    return _mm512_setzero_ps();
}
static inline F32 f32_all(float x) {
    return _mm512_set1_ps(x);
}
static inline F32 f32_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void f32_store(float *p, F32 v) {
    _mm512_storeu_ps(p, v);
}
static inline F32 f32_add(F32 a, F32 b) {
    return _mm512_add_ps(a, b);
}
static inline F32 f32_sub(F32 a, F32 b) {
    return _mm512_sub_ps(a, b);
}
static inline F32 f32_mul(F32 a, F32 b) {
    return _mm512_mul_ps(a, b);
}
static inline F32 f32_div(F32 a, F32 b) {
    return _mm512_div_ps(a, b);
}
static inline F32 f32_fma(F32 a, F32 b, F32 c) {
    return _mm512_fmadd_ps(a, b, c);
}
// b where either is not a number.
static inline F32 f32_min(F32 a, F32 b) {
    return _mm512_min_ps(a, b);
}
static inline F32 f32_max(F32 a, F32 b) {
    return _mm512_max_ps(a, b);
}
static inline F32 f32_unless(F32 a, F32 b, F32 v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), v);
}
static inline F32 f32_raise(F32 v, F32 t) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), n));
}
static inline F32 f32_keep(F32 v, int n) {
    return _mm512_maskz_mov_ps(n >= LANES ? 0xffff : (__mmask16)((1u << n) - 1), v);
}
static inline F32 f32_halves(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
static inline F32 f32_bfloats(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
static inline F32 f32_bytes(const void *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
static inline F32 f32_half(const void *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}
static inline F32 f32_of(I32 v) {
    return _mm512_cvtepi32_ps(v);
}
static inline I32 i32_zero(void) {
    return _mm512_setzero_si512();
}

static inline F64 f64_zero(void) {
    return (F64){_mm512_setzero_pd(), _mm512_setzero_pd()};
}
static inline F64 f64_square(F64 s, F32 v) {
    const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    return (F64){_mm512_fmadd_pd(a, a, s.low), _mm512_fmadd_pd(b, b, s.high)};
}
static inline void f64_store(double *p, F64 s) {
    _mm512_storeu_pd(p, s.low);
    _mm512_storeu_pd(p + 8, s.high);
}

static inline Codes codes_load(const void *p) {
    return _mm512_loadu_si512(p);
}
static inline Codes codes_low(Codes c) {
    return _mm512_and_si512(c, _mm512_set1_epi8(15));
}
static inline Codes codes_high(Codes c) {
    return _mm512_and_si512(_mm512_srli_epi16(c, 4), _mm512_set1_epi8(15));
}
// Adds the bits of `bits` under mask, moved from place `from` to place `to`.
static inline Codes codes_join(Codes c, Codes bits, int from, int to, int mask) {
    bits = from > to ? _mm512_srli_epi16(bits, (unsigned)(from - to))
                     : _mm512_slli_epi16(bits, (unsigned)(to - from));
    return _mm512_or_si512(c, _mm512_and_si512(bits, _mm512_set1_epi8((char)(mask << to))));
}

static inline Dots dots_start(int32_t pairs, int bias) {
    if (bias == 0) return _mm512_setzero_si512();
    return _mm512_madd_epi16(_mm512_set1_epi32(pairs), _mm512_set1_epi16((short)-bias));
}
static inline Dots dots_add(Dots d, Codes c, const int8_t *a) {
    return _mm512_dpbusd_epi32(d, c, _mm512_set1_epi32(load_i32(a)));
}
static inline Dots dots_signed(const Codes *c, const int8_t *a, int32_t pairs) {
    Dots d = dots_start(pairs, 128);
    for (int i = 0; i < 8; i++) {
        const Codes u = _mm512_xor_si512(c[i], _mm512_set1_epi8((char)-128));
        d = _mm512_dpbusd_epi32(d, u, _mm512_set1_epi32(load_i32(a + 4 * i)));
    }
    return d;
}
static inline I32 plain(Dots d) {
    return d;
}
static inline Scale scale_u8(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline Scale scale_i8(const uint8_t *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline I32 scaled(I32 s, Dots d, Scale scale) {
    return _mm512_add_epi32(s, _mm512_mullo_epi32(d, scale));
}
static inline Mins mins(const uint8_t *m0, const uint8_t *m1) {
    return _mm512_or_si512(scale_u8(m0), _mm512_slli_epi32(scale_u8(m1), 16));
}
static inline I32 mins_dot(I32 s, Mins m, int32_t b) {
    return _mm512_dpwssd_epi32(s, m, _mm512_set1_epi32(b));
}

#endif
