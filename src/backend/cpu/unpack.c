// Rows of weights to integers; see unpack.h. The layouts are drawn in formats/quants.c.
#include "backend/cpu/unpack.h"

#include "backend/cpu/vec_int.h"

static const UnpackForm forms[TYPE_LIMIT] = {
    // what is not here is unpacked to floats
    [TYPE_Q4_0] = {32, false, 0},    [TYPE_Q4_1] = {32, true, 0},   [TYPE_Q5_0] = {32, false, 0},
    [TYPE_Q5_1] = {32, true, 0},     [TYPE_Q8_0] = {32, false, 0},  [TYPE_IQ4_NL] = {32, false, 0},
    [TYPE_MXFP4] = {32, false, 0},   [TYPE_Q2_K] = {256, true, 16}, [TYPE_Q3_K] = {256, false, 0},
    [TYPE_Q4_K] = {256, true, 32},   [TYPE_Q5_K] = {256, true, 32}, [TYPE_Q6_K] = {256, false, 0},
    [TYPE_IQ4_XS] = {256, false, 0},
};

UnpackForm unpack_form(TensorType type) {
    return forms[type];
}

// The half-float scales of n blocks that stand `stride` bytes apart, four at a time.
static void unpack_scales(const uint8_t *src, size_t stride, int n, float *out) {
    int i = 0;
    for (; i + 4 <= n; i += 4, src += 4 * stride) {
        const i32x4 h = {load_u16(src), load_u16(src + stride), load_u16(src + 2 * stride),
                         load_u16(src + 3 * stride)};
        const f32x4 d = f16x4_to_f32(h);
        memcpy(out + i, &d, sizeof d);
    }
    for (; i < n; i++, src += stride) out[i] = f16_to_f32(load_u16(src));
}

// --- blocks of 32 ------------------------------------------------------------------------------

// Writes (code - bias) * scale of the first (half 0) or second 16 of a group of 32; q holds their
// 16 codes as bytes, two in each element.
static inline void put16(int16_t *w, int half, u16x8 q, int bias, int scale) {
    i16x8 even = ((i16x8)(q & 0xff) - i16x8_all(bias)) * i16x8_all(scale);
    i16x8 odd = ((i16x8)(q >> 8) - i16x8_all(bias)) * i16x8_all(scale);
    memcpy(w + 8 * half, &even, sizeof even);
    memcpy(w + 16 + 8 * half, &odd, sizeof odd);
}

static inline u16x8 low_nibbles(u16x8 q) {
    return q & 0x0f0f;
}

static inline u16x8 high_nibbles(u16x8 q) {
    return q >> 4 & 0x0f0f;
}

// Low nibbles are weights 0..15, high nibbles 16..31.
static inline void nibbles32(const uint8_t *qs, int16_t *w, int bias) {
    u16x8 q = u16x8_load(qs);
    put16(w, 0, low_nibbles(q), bias, 1);
    put16(w, 1, high_nibbles(q), bias, 1);
}

static inline void table32(const uint8_t *qs, const int8_t *table, int scale, int16_t *w) {
    int16_t scaled[16];
    for (int i = 0; i < 16; i++) scaled[i] = (int16_t)(table[i] * scale);
    for (int i = 0; i < 16; i++) {
        w[unpack_place(i)] = scaled[qs[i] & 15];
        w[unpack_place(i + 16)] = scaled[qs[i] >> 4];
    }
}

// Bit i of 16 as 16 in byte i, else 0: each byte is spread over eight, each of which keeps its bit.
static inline u16x8 spread_bits(uint8_t low, uint8_t high) {
    const u8x16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const u64x2 bytes = {low * 0x0101010101010101u, high * 0x0101010101010101u};
    u8x16 both = (u8x16)bytes;
    return (u16x8)((u8x16)((both & bit) != 0) & 16);
}

// Q5_0 and Q5_1: bit i of the 32 in qh is the fifth bit of weight i.
static inline void fives32(const uint8_t *qh, const uint8_t *qs, int16_t *w, int bias) {
    u16x8 q = u16x8_load(qs);
    put16(w, 0, low_nibbles(q) | spread_bits(qh[0], qh[1]), bias, 1);
    put16(w, 1, high_nibbles(q) | spread_bits(qh[2], qh[3]), bias, 1);
}

static inline void bytes32(const uint8_t *qs, int16_t *w) {
    for (int half = 0; half < 2; half++) {
        i16x8 q = (i16x8)u16x8_load(qs + 16 * half);
        i16x8 even = (i16x8)((u16x8)q << 8) >> 8, odd = q >> 8;
        memcpy(w + 8 * half, &even, sizeof even);
        memcpy(w + 16 + 8 * half, &odd, sizeof odd);
    }
}

static void unpack_blocks32(TensorType type, const uint8_t *src, int n, IntRow *row) {
    const size_t bytes = type_info(type)->block_bytes;
    int16_t *w = row->w;
    if (type != TYPE_MXFP4) unpack_scales(src, bytes, n / 32, row->d);
    if (forms[type].has_min) unpack_scales(src + 2, bytes, n / 32, row->m);
    for (int b = 0; b < n / 32; b++, src += bytes, w += 32) {
        switch (type) {
            case TYPE_Q4_0: nibbles32(src + 2, w, 8); break;
            case TYPE_Q4_1: nibbles32(src + 4, w, 0); break;
            case TYPE_Q5_0: fives32(src + 2, src + 6, w, 16); break;
            case TYPE_Q5_1: fives32(src + 4, src + 8, w, 0); break;
            case TYPE_Q8_0: bytes32(src + 2, w); break;
            case TYPE_IQ4_NL: table32(src + 2, iq4nl_values, 1, w); break;
            default:
                row->d[b] = e8m0_half_to_f32(src[0]);
                table32(src + 1, mxfp4_values, 1, w);
                break;
        }
    }
}

// --- blocks of 256 -----------------------------------------------------------------------------

// The codes of a group of 32 are taken as one vector where the machine has vectors of 32 bytes, as
// two halves elsewhere; either way they end in the same places.
#if defined(__AVX2__)
typedef uint16_t Codes __attribute__((vector_size(32)));
typedef int16_t Products __attribute__((vector_size(32)));
enum { PARTS = 1 };
#else
typedef u16x8 Codes;
typedef i16x8 Products;
enum { PARTS = 2 };
#endif

static inline Codes codes_load(const uint8_t *p, int part) {
    Codes q;
    memcpy(&q, p + 16 * part, sizeof q);
    return q;
}

// (code - bias) * scale; scale0 is of the first 16 codes, scale1 of the others.
static inline void put_part(int16_t *w, int part, Codes q, int bias, int scale0, int scale1) {
    const int16_t b = (int16_t)bias, s0 = (int16_t)(part ? scale1 : scale0);
#if defined(__AVX2__)
    const int16_t s1 = (int16_t)scale1;
    const Products s = {s0, s0, s0, s0, s0, s0, s0, s0, s1, s1, s1, s1, s1, s1, s1, s1};
#else
    const Products s = {s0, s0, s0, s0, s0, s0, s0, s0};
#endif
    Products even = ((Products)(q & 0xff) - b) * s, odd = ((Products)(q >> 8) - b) * s;
    memcpy(w + 8 * part, &even, sizeof even);
    memcpy(w + 16 + 8 * part, &odd, sizeof odd);
}

static void unpack_q2_k(const uint8_t *src, int16_t *w, int16_t *min) {
    const uint8_t *sc = src, *qs = src + 16;
    for (int g = 0; g < 8; g++, w += 32) {  // 32 weights: bits 2 (g % 4) of 32 bytes
        for (int part = 0; part < PARTS; part++) {
            Codes q = codes_load(qs + 32 * (g / 4), part) >> (2 * (g % 4)) & 0x0303;
            put_part(w, part, q, 0, sc[2 * g] & 15, sc[2 * g + 1] & 15);
        }
    }
    for (int g = 0; g < 16; g++) min[g] = (int16_t)(sc[g] >> 4);
}

static inline int q3_k_scale(const uint8_t *sc, int g) {
    int low = g < 8 ? sc[g] & 15 : sc[g - 8] >> 4;
    return (low | (sc[8 + g % 4] >> (2 * (g / 4)) & 3) << 4) - 32;
}

static void unpack_q3_k(const uint8_t *src, int16_t *w) {
    const uint8_t *high = src, *qs = src + 32, *sc = src + 96;
    for (int g = 0; g < 8; g++, w += 32) {
        for (int part = 0; part < PARTS; part++) {
            Codes q = codes_load(qs + 32 * (g / 4), part) >> (2 * (g % 4)) & 0x0303;
            Codes h = codes_load(high, part) >> g & 0x0101;
            put_part(w, part, q | h << 2, 4, q3_k_scale(sc, 2 * g), q3_k_scale(sc, 2 * g + 1));
        }
    }
}

// Eight bytes as eight 16-bit numbers.
static inline i16x8 widen(uint32_t low, uint32_t high) {
    const u8x16 v = (u8x16)(u64x2){low | (uint64_t)high << 32, 0}, zero = {0};
    return (i16x8)__builtin_shufflevector(v, zero, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                          7, 23);
}

// All eight scales and minimums of Q4_K and Q5_K at once: four bytes at a time by masks and shifts
// (k4_scale_min draws the layout).
static inline void unpack_k4_scales(const uint8_t *p, int16_t scale[8], int16_t min[16]) {
    uint32_t a, b, c;
    memcpy(&a, p, 4), memcpy(&b, p + 4, 4), memcpy(&c, p + 8, 4);
    const i16x8 zero = {0};
    i16x8 s = widen(a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030));
    i16x8 m = widen(b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030));
    memcpy(scale, &s, sizeof s);
    memcpy(min, &m, sizeof m);
    memcpy(min + 8, &zero, sizeof zero);
}

static void unpack_q4_k(const uint8_t *src, int16_t *w, int16_t *min) {
    const uint8_t *qs = src + 16;
    int16_t sc[8];
    unpack_k4_scales(src + 4, sc, min);
    for (int j = 0; j < 8; j += 2, qs += 32, w += 64) {
        for (int part = 0; part < PARTS; part++) {
            Codes q = codes_load(qs, part);
            put_part(w, part, q & 0x0f0f, 0, sc[j], sc[j]);
            put_part(w + 32, part, q >> 4 & 0x0f0f, 0, sc[j + 1], sc[j + 1]);
        }
    }
}

static void unpack_q5_k(const uint8_t *src, int16_t *w, int16_t *min) {
    const uint8_t *qh = src + 16, *qs = src + 48;
    int16_t sc[8];
    unpack_k4_scales(src + 4, sc, min);
    for (int j = 0; j < 8; j += 2, qs += 32, w += 64) {
        for (int part = 0; part < PARTS; part++) {
            Codes q = codes_load(qs, part), h = codes_load(qh, part) >> j;
            put_part(w, part, (q & 0x0f0f) | (h & 0x0101) << 4, 0, sc[j], sc[j]);
            put_part(w + 32, part, (q >> 4 & 0x0f0f) | (h & 0x0202) << 3, 0, sc[j + 1], sc[j + 1]);
        }
    }
}

static void unpack_q6_k(const uint8_t *src, int16_t *w) {
    const uint8_t *ql = src, *qh = src + 128;
    const int8_t *sc = (const int8_t *)(src + 192);
    for (int i = 0; i < 2; i++, ql += 64, qh += 32, sc += 8, w += 128) {
        for (int part = 0; part < PARTS; part++) {
            Codes a = codes_load(ql, part), b = codes_load(ql + 32, part), h = codes_load(qh, part);
            put_part(w, part, (a & 0x0f0f) | (h & 0x0303) << 4, 32, sc[0], sc[1]);
            put_part(w + 32, part, (b & 0x0f0f) | (h & 0x0c0c) << 2, 32, sc[2], sc[3]);
            put_part(w + 64, part, (a >> 4 & 0x0f0f) | (h & 0x3030), 32, sc[4], sc[5]);
            put_part(w + 96, part, (b >> 4 & 0x0f0f) | (h >> 2 & 0x3030), 32, sc[6], sc[7]);
        }
    }
}

static void unpack_iq4_xs(const uint8_t *src, int16_t *w) {
    uint16_t high = load_u16(src + 2);
    const uint8_t *low = src + 4, *qs = src + 8;
    for (int j = 0; j < 8; j++, qs += 16, w += 32) {
        int scale = ((low[j / 2] >> (4 * (j % 2)) & 15) | (high >> (2 * j) & 3) << 4) - 32;
        table32(qs, iq4nl_values, scale, w);
    }
}

// Where the scale of a block of 256 stands; the minimums' scale, where there is one, follows it.
static size_t scale_at(TensorType type) {
    switch (type) {
        case TYPE_Q2_K: return 80;
        case TYPE_Q3_K: return 108;
        case TYPE_Q6_K: return 208;
        default: return 0;
    }
}

static void unpack_blocks256(TensorType type, const uint8_t *src, int n, IntRow *row) {
    const size_t bytes = type_info(type)->block_bytes, at = scale_at(type);
    int16_t *w = row->w;
    int16_t *min = row->min;
    unpack_scales(src + at, bytes, n / 256, row->d);
    if (forms[type].has_min) unpack_scales(src + at + 2, bytes, n / 256, row->m);
    for (int b = 0; b < n / 256; b++, src += bytes, w += 256, min += 16) {
        switch (type) {
            case TYPE_Q2_K: unpack_q2_k(src, w, min); break;
            case TYPE_Q3_K: unpack_q3_k(src, w); break;
            case TYPE_Q4_K: unpack_q4_k(src, w, min); break;
            case TYPE_Q5_K: unpack_q5_k(src, w, min); break;
            case TYPE_Q6_K: unpack_q6_k(src, w); break;
            default: unpack_iq4_xs(src, w); break;
        }
    }
}

void unpack_int(TensorType type, const uint8_t *src, int n, IntRow *row) {
    if (forms[type].block == 32) {
        unpack_blocks32(type, src, n, row);
    } else {
        unpack_blocks256(type, src, n, row);
    }
}

void unpack_float(TensorType type, const uint8_t *src, int n, float *row) {
    int i = 0;
    if (type == TYPE_F32) {
        memcpy(row, src, (size_t)n * sizeof *row);
        return;
    }
    const bool half = type == TYPE_F16;
    for (; i + 8 <= n; i += 8) {
        if (half)
            f16x8_to_f32(src + 2 * i, row + i);
        else
            bf16x8_to_f32(src + 2 * i, row + i);
    }
    for (; i < n; i++) {
        row[i] = half ? f16_to_f32(load_u16(src + 2 * i)) : bf16_to_f32(load_u16(src + 2 * i));
    }
}
