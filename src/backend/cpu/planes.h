// What vectors do for tiles (tiles.h): codes times scales, cut into bytes, and sums put together.
#ifndef PLUMB_BACKEND_CPU_PLANES_H
#define PLUMB_BACKEND_CPU_PLANES_H

#include "backend/cpu/lanes.h"

#if defined(__AVX512BW__) && !defined(PLAIN_LANES)
static inline I32 tile_sum(const int32_t *low, const int32_t *high, int shift) {
    return _mm512_add_epi32(_mm512_loadu_si512(low),
                            _mm512_slli_epi32(_mm512_loadu_si512(high), (unsigned)shift));
}
static inline I32 tile_row(const int32_t *p) {
    return _mm512_loadu_si512(p);
}
static inline void codes_store(void *p, Codes c) {
    _mm512_storeu_si512(p, c);
}
static inline F32 tile_floats(const int32_t *p) {
    return _mm512_castsi512_ps(tile_row(p));
}
// Pairs of numbers below 2^8 as bfloat16.
static inline Codes bf16_pairs(const uint8_t *a, const uint8_t *b) {
    const __m512i even = _mm512_castps_si512(f32_of(scale_u8(a)));
    const __m512i odd = _mm512_castps_si512(f32_of(scale_u8(b)));
    return _mm512_or_si512(_mm512_srli_epi32(even, 16), odd);
}
static inline Scale twice(Scale s) {
    return _mm512_or_si512(_mm512_and_si512(s, _mm512_set1_epi32(0xffff)),
                           _mm512_slli_epi32(s, 16));
}
// Code * scale = low + 8 * high, for codes below 2^5 and scales below 2^6: each product of a code
// and three bits of the scale fits a byte, so that two are multiplied as one number of 16 bits.
static inline void planes_k4(Codes c, Scale scale, void *low, void *high) {
    const __m512i three = _mm512_set1_epi32(7);
    codes_store(low, _mm512_mullo_epi16(c, twice(_mm512_and_si512(scale, three))));
    codes_store(high, _mm512_mullo_epi16(c, twice(_mm512_srli_epi32(scale, 3))));
}
// (Code - 32) * scale = low + 128 * high, low without a sign.
static inline void planes_q6(Codes c, Scale scale, void *low, void *high) {
    const __m512i byte = _mm512_set1_epi16(0xff), seven = _mm512_set1_epi16(0x7f);
    const __m512i half = _mm512_set1_epi16(32), s = twice(scale);
    const __m512i even = _mm512_mullo_epi16(_mm512_sub_epi16(_mm512_and_si512(c, byte), half), s);
    const __m512i odd = _mm512_mullo_epi16(_mm512_sub_epi16(_mm512_srli_epi16(c, 8), half), s);
    codes_store(low, _mm512_or_si512(_mm512_and_si512(even, seven),
                                     _mm512_slli_epi16(_mm512_and_si512(odd, seven), 8)));
    codes_store(high, _mm512_or_si512(_mm512_and_si512(_mm512_srai_epi16(even, 7), byte),
                                      _mm512_slli_epi16(_mm512_srai_epi16(odd, 7), 8)));
}
// Codes of 4 bits less 8, as signed bytes.
static inline void plane_q4(Codes c, void *to) {
    codes_store(to, _mm512_sub_epi8(c, _mm512_set1_epi8(8)));
}
#else
static inline I32 tile_sum(const int32_t *low, const int32_t *high, int shift) {
    I32 r;
    EACH_LANE(l) r.v[l] = low[l] + high[l] * (1 << shift);
    return r;
}
static inline I32 tile_row(const int32_t *p) {
    I32 r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline F32 tile_floats(const int32_t *p) {
    F32 r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline void codes_store(void *p, Codes c) {
    memcpy(p, &c, sizeof c);
}
static inline Codes bf16_pairs(const uint8_t *a, const uint8_t *b) {
    Codes c;
    EACH_LANE(l) {
        const float two[2] = {a[l], b[l]};
        memcpy(c.v + 4 * l, (const uint8_t *)&two[0] + 2, 2);
        memcpy(c.v + 4 * l + 2, (const uint8_t *)&two[1] + 2, 2);
    }
    return c;
}
static inline void planes_k4(Codes c, Scale scale, void *low, void *high) {
    for (int i = 0; i < 4 * LANES; i++) {
        ((uint8_t *)low)[i] = (uint8_t)(c.v[i] * (scale.v[i / 4] & 7));
        ((uint8_t *)high)[i] = (uint8_t)(c.v[i] * (scale.v[i / 4] >> 3));
    }
}
static inline void planes_q6(Codes c, Scale scale, void *low, void *high) {
    for (int i = 0; i < 4 * LANES; i++) {
        const int p = (c.v[i] - 32) * scale.v[i / 4];
        ((uint8_t *)low)[i] = (uint8_t)(p & 127);
        ((int8_t *)high)[i] = (int8_t)(p >> 7);
    }
}
static inline void plane_q4(Codes c, void *to) {
    for (int i = 0; i < 4 * LANES; i++) ((int8_t *)to)[i] = (int8_t)(c.v[i] - 8);
}
#endif

#endif
