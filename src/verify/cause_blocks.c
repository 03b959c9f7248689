// Decoding blocks of weights wrongly; see cause_blocks.h.
//
// A block is taken apart into what it is made of (scales, minimums, codes), each field where the
// drawings in formats/quants.c say it is or where a flaw has it, and put together again:
//
//   w[e] = d * scale[e / sub] * (code[e] - zero) - m * min[e / sub]
#include "verify/cause_blocks.h"

#include <string.h>

// --- flaws --------------------------------------------------------------------------------------

enum {
    SCALES_LOW = 1 << 0,         // high bits of the packed scales are dropped
    MINS_LOW = 1 << 1,           // and of the packed minimums
    SCALES_PLAIN = 1 << 2,       // scales 4..7 of Q4_K are read as 0..3 are
    SCALES_STREAM = 1 << 3,      // as a stream of 6-bit numbers, scales first
    SCALES_UNMASKED = 1 << 4,    // the upper two bits of bytes 0..7 are left in
    SCALES_UNCENTERED = 1 << 5,  // 32 is not taken off
    SCALES_UNSIGNED = 1 << 6,    // signed bytes as unsigned ones
    SCALE_MIN_SWAP = 1 << 7,     // scales and minimums exchanged
    D_M_SWAP = 1 << 8,           // and the two halves that they are multiplied with
    MIN_PLUS = 1 << 9,
    MIN_NONE = 1 << 10,
    FIELDS_SWAPPED = 1 << 11,   // fields of a byte from the high end down
    SEQUENTIAL = 1 << 12,       // neighbours from one byte
    SCALE_WITH_CODE = 1 << 13,  // of those two: codes keep the scale of their right place
    HIGH_BITS_NONE = 1 << 14,   // the bits that are stored apart are dropped
    HIGH_BITS_INVERTED = 1 << 15,
    HIGH_BITS_PLACE = 1 << 16,  // taken for the wrong place rather than with their code
    CODES_UNSIGNED = 1 << 17,
    CODES_SIGNED = 1 << 18,  // two's complement instead of less an offset
    OFFSET_NONE = 1 << 19,
    FLUSHED = 1 << 20,     // subnormal halves are 0
    AS_LINEAR = 1 << 21,   // table of values ignored: code - 8
    AS_TABLE = 1 << 22,    // codes of Q4_0 looked up
    OTHER_HALF = 1 << 23,  // f16 as bf16, bf16 as f16
};

#define T(type) (UINT64_C(1) << TYPE_##type)
#define SIMPLE (T(Q4_0) | T(Q4_1) | T(Q5_0) | T(Q5_1) | T(IQ4_NL) | T(MXFP4))
#define NIBBLES (SIMPLE | T(Q4_K) | T(Q5_K) | T(Q6_K) | T(IQ4_XS))
#define MINS (T(Q4_1) | T(Q5_1) | T(Q2_K) | T(Q4_K) | T(Q5_K))
#define K4 (T(Q4_K) | T(Q5_K))
#define APART (T(Q5_0) | T(Q5_1) | T(Q3_K) | T(Q5_K) | T(Q6_K))
#define FIELDS (NIBBLES | T(Q2_K) | T(Q3_K))
#define SCALED (T(Q4_K) | T(Q5_K) | T(Q6_K) | T(Q2_K) | T(Q3_K) | T(IQ4_XS))
#define HALVES ((FIELDS | T(Q8_0) | T(F16)) & ~T(MXFP4))
#define OFFSETS (T(Q4_0) | T(Q5_0) | T(Q3_K) | T(Q6_K))

static const BlockFlaw flaws[] = {
    {"q4k-scale-bits", "the high bits of scales and minimums 4 to 7 are dropped", K4,
     SCALES_LOW | MINS_LOW},
    {"q4k-scale-bits", "the high bits of scales 4 to 7 are dropped", K4, SCALES_LOW},
    {"q4k-scale-bits", "the high bits of minimums 4 to 7 are dropped", K4, MINS_LOW},
    {"q4k-scale-bits", "scales and minimums 4 to 7 are read as 0 to 3 are", K4, SCALES_PLAIN},
    {"q4k-scale-bits", "scales and minimums are read as a stream of 6-bit numbers", K4,
     SCALES_STREAM},
    {"q4k-scale-bits", "the upper bits of scales and minimums 0 to 3 are left in", K4,
     SCALES_UNMASKED},
    {"scale-bits", "the high bits of the scales are dropped", T(Q3_K) | T(IQ4_XS), SCALES_LOW},
    {"scale-bits", "32 is not taken off the scales", T(Q3_K) | T(IQ4_XS), SCALES_UNCENTERED},
    {"scale-min-swapped", "scales and minimums are exchanged", K4 | T(Q2_K), SCALE_MIN_SWAP},
    {"scale-min-swapped", "the factors of scales and of minimums are exchanged", MINS, D_M_SWAP},
    {"scale-min-swapped", "scales and minimums are exchanged with their factors", K4 | T(Q2_K),
     SCALE_MIN_SWAP | D_M_SWAP},
    {"nibbles-swapped", "low and high bits of a byte are exchanged", FIELDS, FIELDS_SWAPPED},
    {"nibbles-swapped", "low and high bits of a byte are exchanged, scales with them", SCALED,
     FIELDS_SWAPPED | SCALE_WITH_CODE},
    {"nibbles-swapped", "low and high nibbles are exchanged, but not the bits stored apart", APART,
     FIELDS_SWAPPED | HIGH_BITS_PLACE},
    {"q6k-sequential", "codes are taken in the order of their bytes", T(Q6_K), SEQUENTIAL},
    {"q6k-sequential", "low bits are taken in the order of their bytes, high bits rightly", T(Q6_K),
     SEQUENTIAL | HIGH_BITS_PLACE},
    {"q6k-sequential", "codes are taken in the order of their bytes, scales with them", T(Q6_K),
     SEQUENTIAL | SCALE_WITH_CODE},
    {"interleaved", "neighbours are taken from one byte", FIELDS & ~T(Q6_K), SEQUENTIAL},
    {"interleaved", "neighbours are taken from one byte, the bits stored apart rightly",
     APART & ~T(Q6_K), SEQUENTIAL | HIGH_BITS_PLACE},
    {"interleaved", "neighbours are taken from one byte, with their scales", SCALED & ~T(Q6_K),
     SEQUENTIAL | SCALE_WITH_CODE},
    {"min-sign", "the minimum's sign is wrong", MINS, MIN_PLUS},
    {"min-dropped", "the minimum is left out", MINS, MIN_NONE},
    {"int8-unsigned", "signed bytes are read as unsigned", T(Q8_0), CODES_UNSIGNED},
    {"int8-unsigned", "signed scales are read as unsigned", T(Q6_K), SCALES_UNSIGNED},
    {"codes-signed", "codes are read as two's complement, they are offset", T(Q4_0) | T(Q6_K),
     CODES_SIGNED},  // of the others this inverts the bit that is stored apart
    {"offset-dropped", "codes are not centered", OFFSETS, OFFSET_NONE},
    {"high-bits-dropped", "the bits that are stored apart are dropped", APART, HIGH_BITS_NONE},
    {"high-bits-inverted", "the bits that are stored apart are inverted", APART,
     HIGH_BITS_INVERTED},
    {"subnormal-flushed", "subnormal halves are read as 0", HALVES, FLUSHED},
    {"type-confused", "read as Q4_0", T(IQ4_NL), AS_LINEAR},
    {"type-confused", "read as IQ4_NL", T(Q4_0), AS_TABLE},
    {"type-confused", "read as BF16", T(F16), OTHER_HALF},
    {"type-confused", "read as F16", T(BF16), OTHER_HALF},
};

const BlockFlaw *block_flaw_at(int i) {
    return i >= 0 && (size_t)i < sizeof flaws / sizeof *flaws ? &flaws[i] : NULL;
}

// --- parts of a block ---------------------------------------------------------------------------

typedef struct {
    float d, m;
    int scale[16], min[16];
    int code[256], zero;
    int owner[256];  // whose code it is: the element that would rightly have it
    const int8_t *values;
} Parts;

static float half(const uint8_t *p, uint32_t how) {
    const uint16_t h = load_u16(p);
    const bool subnormal = (h & 0x7c00) == 0;
    return subnormal && how & FLUSHED ? 0 : f16_to_f32(h);
}

// How the types differ. Offsets are in bytes; 0 marks what is not there, as no field but d stands
// at 0 (where `m` is 0 there is no minimum).
typedef struct {
    uint16_t len, sub;    // weights in a block and under one scale
    uint16_t d, m;        // where the halves are
    uint16_t low, n_low;  // bytes with the low bits of the codes
    uint16_t bits;        // of them in a byte's field: 4 or 2
    uint16_t run;         // bytes whose first fields belong to neighbouring elements
    uint16_t high, n_high_bits;
    int16_t zero, sign;  // subtracted from codes; bit that would be a sign
} Layout;

static const Layout *layout_of(TensorType type) {
    static const Layout q4_0 = {32, 32, 0, 0, 2, 16, 4, 16, 0, 0, 8, 8},
                        q4_1 = {32, 32, 0, 2, 4, 16, 4, 16, 0, 0, 0, 8},
                        q5_0 = {32, 32, 0, 0, 6, 16, 4, 16, 2, 1, 16, 16},
                        q5_1 = {32, 32, 0, 2, 8, 16, 4, 16, 4, 1, 0, 16},
                        mxfp4 = {32, 32, 0, 0, 1, 16, 4, 16, 0, 0, 0, 8},
                        q2_k = {256, 16, 80, 82, 16, 64, 2, 32, 0, 0, 0, 2},
                        q3_k = {256, 16, 108, 0, 32, 64, 2, 32, 0, 1, 4, 4},
                        q4_k = {256, 32, 0, 2, 16, 128, 4, 32, 0, 0, 0, 8},
                        q5_k = {256, 32, 0, 2, 48, 128, 4, 32, 16, 1, 0, 16},
                        q6_k = {256, 16, 208, 0, 0, 128, 4, 64, 128, 2, 32, 32},
                        iq4_xs = {256, 32, 0, 0, 8, 128, 4, 16, 0, 0, 0, 8};
    switch (type) {
        case TYPE_Q4_0:
        case TYPE_IQ4_NL: return &q4_0;
        case TYPE_Q4_1: return &q4_1;
        case TYPE_Q5_0: return &q5_0;
        case TYPE_Q5_1: return &q5_1;
        case TYPE_MXFP4: return &mxfp4;
        case TYPE_Q2_K: return &q2_k;
        case TYPE_Q3_K: return &q3_k;
        case TYPE_Q4_K: return &q4_k;
        case TYPE_Q5_K: return &q5_k;
        case TYPE_Q6_K: return &q6_k;
        case TYPE_IQ4_XS: return &iq4_xs;
        default: return NULL;
    }
}

// The 6-bit number at bit `at` of a stream, lowest bits first.
static int bits6(const uint8_t *p, int at) {
    const int both = p[at / 8] | (at / 8 < 11 ? p[at / 8 + 1] << 8 : 0);
    return both >> at % 8 & 63;
}

// Scales and minimums of Q4_K and Q5_K: k4_scale_min of formats/quants.h draws them.
static void take_k4(const uint8_t *p, uint32_t how, Parts *b) {
    for (int j = 0; j < 8; j++) {
        const int mask = how & SCALES_UNMASKED ? 255 : 63;
        int scale, min;
        if (how & SCALES_STREAM) {
            scale = bits6(p, 6 * j), min = bits6(p, 6 * (8 + j));
        } else if (j < 4 || how & SCALES_PLAIN) {
            scale = p[j] & mask, min = p[j + 4] & mask;
        } else {
            scale = (p[j + 4] & 15) | (how & SCALES_LOW ? 0 : (p[j - 4] >> 6) << 4);
            min = p[j + 4] >> 4 | (how & MINS_LOW ? 0 : (p[j] >> 6) << 4);
        }
        b->scale[j] = scale, b->min[j] = min;
    }
}

static void take_scales(TensorType type, const uint8_t *p, uint32_t how, Parts *b) {
    const int off = how & SCALES_UNCENTERED ? 0 : 32;
    b->scale[0] = b->min[0] = 1;
    if (type == TYPE_Q4_K || type == TYPE_Q5_K) take_k4(p + 4, how, b);
    for (int j = 0; j < 16; j++) {
        if (type == TYPE_Q2_K) b->scale[j] = p[j] & 15, b->min[j] = p[j] >> 4;
        if (type == TYPE_Q6_K) {
            b->scale[j] = how & SCALES_UNSIGNED ? p[192 + j] : (int8_t)p[192 + j];
        }
        if (type == TYPE_Q3_K) {
            const int low = p[96 + j % 8] >> 4 * (j / 8) & 15,
                      high = p[104 + j % 4] >> 2 * (j / 4) & 3;
            b->scale[j] = (low | (how & SCALES_LOW ? 0 : high << 4)) - off;
        }
        if (type == TYPE_IQ4_XS && j < 8) {
            const int low = p[4 + j / 2] >> 4 * (j % 2) & 15, high = load_u16(p + 2) >> 2 * j & 3;
            b->scale[j] = (low | (how & SCALES_LOW ? 0 : high << 4)) - off;
        }
    }
    for (int j = 0; j < 16 && how & SCALE_MIN_SWAP; j++) {
        const int scale = b->scale[j];
        b->scale[j] = b->min[j], b->min[j] = scale;
    }
}

// The bits of element e's code that are stored apart from the others.
static int high_bits(TensorType type, const Layout *l, const uint8_t *p, int e) {
    switch (type) {
        case TYPE_Q5_0:
        case TYPE_Q5_1: return p[l->high + e / 8] >> e % 8 & 1;
        case TYPE_Q3_K:
        case TYPE_Q5_K: return p[l->high + e % 32] >> e / 32 & 1;
        default: return p[l->high + 32 * (e / 128) + e % 32] >> 2 * (e / 32 % 4) & 3;
    }
}

// Those of element e where high bits are packed in order, as one who reads Q6_K sequentially has
// it.
static int high_bits_in_order(const Layout *l, const uint8_t *p, int e) {
    const int per_byte = 8 / l->n_high_bits;
    return p[l->high + e / per_byte] >> l->n_high_bits * (e % per_byte) &
           ((1 << l->n_high_bits) - 1);
}

// Field `f` of byte `i` of the low bits belongs to this element: runs of bytes hold runs of
// elements, one run for each field.
static int element_of(const Layout *l, int i, int f) {
    const int fields = 8 / l->bits;
    return i / l->run * l->run * fields + f * l->run + i % l->run;
}

static void take_codes(TensorType type, const Layout *l, const uint8_t *p, uint32_t how, Parts *b) {
    const int fields = 8 / l->bits, mask = (1 << l->bits) - 1;
    const int all_high = l->n_high_bits ? (1 << l->n_high_bits) - 1 : 0;
    for (int i = 0; i < l->n_low; i++) {
        for (int f = 0; f < fields; f++) {
            const int right = element_of(l, i, f);
            const int e = how & FIELDS_SWAPPED ? element_of(l, i, fields - 1 - f)
                          : how & SEQUENTIAL   ? i * fields + f
                                               : right;
            const bool in_order = type == TYPE_Q6_K && how & SEQUENTIAL;
            int high = 0;
            if (l->n_high_bits && !(how & HIGH_BITS_NONE)) {
                high = how & HIGH_BITS_PLACE ? high_bits(type, l, p, e)
                       : in_order            ? high_bits_in_order(l, p, e)
                                             : high_bits(type, l, p, right);
            }
            if (how & HIGH_BITS_INVERTED) high ^= all_high;
            b->code[e] = (p[l->low + i] >> l->bits * f & mask) | high << l->bits;
            b->owner[e] = right;
        }
    }
    b->zero = how & OFFSET_NONE ? 0 : l->zero;
    for (int e = 0; e < l->len && how & CODES_SIGNED; e++) {
        if (b->code[e] >= l->sign) b->code[e] -= 2 * l->sign;
        b->zero = 0;
    }
}

// --- whole blocks -------------------------------------------------------------------------------

static void take_apart(TensorType type, const Layout *l, const uint8_t *p, uint32_t how, Parts *b) {
    b->d = type == TYPE_MXFP4 ? e8m0_half_to_f32(p[0]) : half(p + l->d, how);
    b->m = l->m ? half(p + l->m, how) : 0;
    if (how & D_M_SWAP) {
        const float d = b->d;
        b->d = b->m, b->m = d;
    }
    take_scales(type, p, how, b);
    take_codes(type, l, p, how, b);
    const bool table = type == TYPE_IQ4_NL || type == TYPE_IQ4_XS || type == TYPE_MXFP4;
    b->values = type == TYPE_MXFP4 ? mxfp4_values : iq4nl_values;
    if ((!table && !(how & AS_TABLE)) || how & AS_LINEAR) b->values = NULL;
}

// In the order of operations of formats/quants.c, so that no flaw gives the same bits.
static void put_together(const Layout *l, const Parts *b, uint32_t how, bool added, float *y) {
    for (int e = 0; e < l->len; e++) {
        const int j = (how & SCALE_WITH_CODE ? b->owner[e] : e) / l->sub;
        const float scale = b->d * (float)b->scale[j];
        float min = b->m * (float)b->min[j];
        if (added != !!(how & MIN_PLUS)) min = -min;
        if (how & MIN_NONE) min = 0;
        const int code = b->values ? b->values[b->code[e]] : b->code[e] - b->zero;
        y[e] = scale * (float)code - min;
    }
}

static void decode_plain(TensorType type, const uint8_t *p, uint32_t how, float *y, size_t n) {
    if (type == TYPE_Q8_0) {
        for (size_t i = 0; i < n; i++) {
            const uint8_t *block = p + i / 32 * 34, code = block[2 + i % 32];
            y[i] = half(block, how) * (float)(how & CODES_UNSIGNED ? code : (int8_t)code);
        }
        return;
    }
    const bool as_f16 = (type == TYPE_F16) != !!(how & OTHER_HALF);
    for (size_t i = 0; i < n; i++) {
        y[i] = as_f16 ? half(p + 2 * i, how) : bf16_to_f32(load_u16(p + 2 * i));
    }
}

void block_decode(const BlockFlaw *flaw, TensorType type, const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    const uint32_t how = flaw ? flaw->how : 0;
    const Layout *l = layout_of(type);
    if (type == TYPE_Q8_0 || type == TYPE_F16 || type == TYPE_BF16) {
        decode_plain(type, p, how, dst, n);
        return;
    }
    if (!l) {
        dequantize(type, src, dst, n);
        return;
    }
    const size_t bytes = type_info(type)->block_bytes;
    const bool added = type == TYPE_Q4_1 || type == TYPE_Q5_1;  // w = d q + m
    for (; n >= l->len; n -= l->len, p += bytes, dst += l->len) {
        Parts b = {0};
        take_apart(type, l, p, how, &b);
        put_together(l, &b, how, added, dst);
    }
}
