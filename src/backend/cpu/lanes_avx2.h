// AVX2, FMA and F16C; see lanes.h.
//
// Without VNNI products of bytes come as sums of two, in 16 bits: as many of them are added up as
// 16 bits hold, and multiplied with the scale when they are widened to 32.
#ifndef PLUMB_BACKEND_CPU_LANES_AVX2_H
#define PLUMB_BACKEND_CPU_LANES_AVX2_H

#include <immintrin.h>

// Of two products of codes below 2^b with inputs of at most 127, added up n times: 15 * 127 * 2 * 8
// and 31 * 127 * 2 * 4 fit; (63 - 32) * 127 * 2 * 4 does too, with what is above it wrapped around.
enum { LANES = 8, GROUP_4 = 8, GROUP_5 = 4, GROUP_6 = 4 };
enum { BLOCK_ROWS = 6, BLOCK_VECTORS = 2, HALVES_ARE_DEAR = 0 };  // of 16 registers
typedef __m256 F32;
typedef __m256i I32, Codes, Dots, Scale, Mins;
typedef struct {
    __m256d low, high;
} F64;

static inline F32 f32_zero(void) {
    return _mm256_setzero_ps();
}
static inline F32 f32_all(float x) {
    return _mm256_set1_ps(x);
}
static inline F32 f32_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void f32_store(float *p, F32 v) {
    _mm256_storeu_ps(p, v);
}
static inline F32 f32_add(F32 a, F32 b) {
    return _mm256_add_ps(a, b);
}
static inline F32 f32_sub(F32 a, F32 b) {
    return _mm256_sub_ps(a, b);
}
static inline F32 f32_mul(F32 a, F32 b) {
    return _mm256_mul_ps(a, b);
}
static inline F32 f32_div(F32 a, F32 b) {
    return _mm256_div_ps(a, b);
}
static inline F32 f32_fma(F32 a, F32 b, F32 c) {
    return _mm256_fmadd_ps(a, b, c);
}
// b where either is not a number.
static inline F32 f32_min(F32 a, F32 b) {
    return _mm256_min_ps(a, b);
}
static inline F32 f32_max(F32 a, F32 b) {
    return _mm256_max_ps(a, b);
}
static inline F32 f32_unless(F32 a, F32 b, F32 v) {
    return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ), v);
}
static inline F32 f32_raise(F32 v, F32 t) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), n));
}
static inline F32 f32_keep(F32 v, int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
    return _mm256_and_ps(v, _mm256_castsi256_ps(keep));
}
static inline F32 f32_halves(const void *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}
static inline F32 f32_bfloats(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
static inline F32 f32_bytes(const void *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}
static inline F32 f32_half(const void *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}
static inline F32 f32_of(I32 v) {
    return _mm256_cvtepi32_ps(v);
}
static inline I32 i32_zero(void) {
    return _mm256_setzero_si256();
}

static inline F64 f64_zero(void) {
    return (F64){_mm256_setzero_pd(), _mm256_setzero_pd()};
}
static inline F64 f64_square(F64 s, F32 v) {
    const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    return (F64){_mm256_fmadd_pd(a, a, s.low), _mm256_fmadd_pd(b, b, s.high)};
}
static inline void f64_store(double *p, F64 s) {
    _mm256_storeu_pd(p, s.low);
    _mm256_storeu_pd(p + 4, s.high);
}

static inline Codes codes_load(const void *p) {
    return _mm256_loadu_si256(p);
}
static inline Codes codes_low(Codes c) {
    return _mm256_and_si256(c, _mm256_set1_epi8(15));
}
static inline Codes codes_high(Codes c) {
    return _mm256_and_si256(_mm256_srli_epi16(c, 4), _mm256_set1_epi8(15));
}
static inline Codes codes_join(Codes c, Codes bits, int from, int to, int mask) {
    bits = from > to ? _mm256_srli_epi16(bits, from - to) : _mm256_slli_epi16(bits, to - from);
    return _mm256_or_si256(c, _mm256_and_si256(bits, _mm256_set1_epi8((char)(mask << to))));
}

// Two sums of 16 bits a lane.
static inline Dots dots_start(int32_t pairs, int bias) {
    if (bias == 0) return _mm256_setzero_si256();
    return _mm256_mullo_epi16(_mm256_set1_epi32(pairs), _mm256_set1_epi16((short)-bias));
}
static inline Dots dots_add(Dots d, Codes c, const int8_t *a) {
    return _mm256_add_epi16(d, _mm256_maddubs_epi16(c, _mm256_set1_epi32(load_i32(a))));
}
static inline I32 plain(Dots d) {
    return _mm256_madd_epi16(d, _mm256_set1_epi16(1));
}
// The sign goes over to the inputs: |code| * (input with the code's sign).
static inline I32 dots_signed(const Codes *c, const int8_t *a, int32_t pairs) {
    (void)pairs;
    I32 s = _mm256_setzero_si256();
    for (int i = 0; i < 8; i++) {
        const __m256i ai = _mm256_set1_epi32(load_i32(a + 4 * i));
        const Dots d = _mm256_maddubs_epi16(_mm256_abs_epi8(c[i]), _mm256_sign_epi8(ai, c[i]));
        s = _mm256_add_epi32(s, plain(d));
    }
    return s;
}
// The scale stands in both halves of a lane.
static inline Scale scale_twice(__m256i s) {
    return _mm256_or_si256(_mm256_and_si256(s, _mm256_set1_epi32(0xffff)),
                           _mm256_slli_epi32(s, 16));
}
static inline Scale scale_u8(const uint8_t *p) {
    return scale_twice(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline Scale scale_i8(const uint8_t *p) {
    return scale_twice(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline I32 scaled(I32 s, Dots d, Scale scale) {
    return _mm256_add_epi32(s, _mm256_madd_epi16(d, scale));
}
static inline Mins mins(const uint8_t *m0, const uint8_t *m1) {
    const __m256i a = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)m0));
    const __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)m1));
    return _mm256_or_si256(a, _mm256_slli_epi32(b, 16));
}
static inline I32 mins_dot(I32 s, Mins m, int32_t b) {
    return _mm256_add_epi32(s, _mm256_madd_epi16(m, _mm256_set1_epi32(b)));
}

#endif
