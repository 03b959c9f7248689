// Tensor types: the table, the 16-bit floats, and scalar decode of every block.
//
// This file owns: how each block's bits become weights. It is the text that the fast kernels are
// held against, so it is written to be read: one function a type, its layout drawn above it, and
// every product rounded in the order in which gguf-py's quants.py rounds it (bit-exact with it). It
// leaves to others: encoding (quantize.c) and speed (backend/cpu).
//
// In the drawings a row is a run of bytes, `|` separates fields, d and m are halves (f16), w0 is
// the first weight of the block. Multi-byte fields are little-endian.
#include "formats/quants.h"

#include <stdio.h>
#include <strings.h>

#include "base/checked.h"
#include "base/status.h"

const int8_t iq4nl_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};
// Doubled E2M1 values (0, 0.5, 1, 1.5, 2, 3, 4, 6), so that they are integers; the scale is halved.
const int8_t mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// ---- 16-bit floats ----------------------------------------------------------------------------

static float bits_to_f32(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static uint32_t f32_to_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

//   f16  [ sign 1 | exponent 5, bias 15  | mantissa 10 ]
//   f32  [ sign 1 | exponent 8, bias 127 | mantissa 23 ]
float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return bits_to_f32(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x0400) return bits_to_f32(sign | ((rest << 13) + (112u << 23)));
    return bits_to_f32(sign | f32_to_bits((float)rest * 0x1p-24f));  // subnormal: exact
}

uint16_t f32_to_f16(float x) {
    uint32_t u = f32_to_bits(x), a = u & 0x7fffffff;
    uint32_t sign = (u >> 16) & 0x8000;
    if (a > 0x7f800000) {  // NaN: keep what fits of the payload, and never let it become infinity
        uint32_t payload = (a >> 13) & 0x3ff;
        return (uint16_t)(sign | 0x7c00 | (payload ? payload : 0x200));
    }
    if (a >= 0x47800000) return (uint16_t)(sign | 0x7c00);  // 65536 and above
    // Below 2^-14 the result is a multiple of 2^-24, which is one unit of 0.5f: the addition
    // rounds.
    if (a < 0x38800000) return (uint16_t)(sign | (f32_to_bits(bits_to_f32(a) + 0.5f) - 0x3f000000));
    a += 0xfff + ((a >> 13) & 1);  // to nearest, ties to even; 65520 and above carries to infinity
    return (uint16_t)(sign | (a - (112u << 23)) >> 13);
}

float bf16_to_f32(uint16_t h) {
    return bits_to_f32((uint32_t)h << 16);
}

uint16_t f32_to_bf16(float x) {
    uint32_t u = f32_to_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | ((u & 0x7f0000) ? 0 : 0x40));
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

float e8m0_half_to_f32(uint8_t e) {
    return bits_to_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

// ---- plain floats -----------------------------------------------------------------------------

static void decode_f32(const uint8_t *b, float *y, size_t n) {
    if (n) memcpy(y, b, n * 4);
}

static void decode_f16(const uint8_t *b, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = f16_to_f32(load_u16(b + 2 * i));
}

static void decode_bf16(const uint8_t *b, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = bf16_to_f32(load_u16(b + 2 * i));
}

// ---- blocks of 32 -----------------------------------------------------------------------------

static float load_f16(const uint8_t *p) {
    return f16_to_f32(load_u16(p));
}

static uint32_t load_u32(const uint8_t *p) {
    return load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}

// Q4_0, 18 bytes: w = d * (q - 8)
//
//   0  d | 2..17  [ q of w16+i : 4 high bits | q of w0+i : 4 low bits ], i = 0..15
static void decode_q4_0(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 18, y += 32) {
        float d = load_f16(b);
        for (int i = 0; i < 16; i++) {
            y[i] = d * (float)((b[2 + i] & 15) - 8);
            y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
        }
    }
}

// Q4_1, 20 bytes: w = d * q + m
//
//   0  d | 2  m | 4..19  nibbles as Q4_0
static void decode_q4_1(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 20, y += 32) {
        float d = load_f16(b), m = load_f16(b + 2);
        for (int i = 0; i < 16; i++) {
            y[i] = d * (float)(b[4 + i] & 15) + m;
            y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
        }
    }
}

// Q5_0, 22 bytes: w = d * (q - 16), q = nibble + 16 * high bit
//
//   0  d | 2..5  32 high bits: bit i belongs to w_i | 6..21  nibbles as Q4_0
static void decode_q5_0(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 22, y += 32) {
        float d = load_f16(b);
        uint32_t high = load_u32(b + 2);
        for (int i = 0; i < 16; i++) {
            int lo = (b[6 + i] & 15) | (int)(high >> i & 1) << 4;
            int hi = b[6 + i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
            y[i] = d * (float)(lo - 16);
            y[i + 16] = d * (float)(hi - 16);
        }
    }
}

// Q5_1, 24 bytes: w = d * q + m
//
//   0  d | 2  m | 4..7  32 high bits | 8..23  nibbles as Q4_0
static void decode_q5_1(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 24, y += 32) {
        float d = load_f16(b), m = load_f16(b + 2);
        uint32_t high = load_u32(b + 4);
        for (int i = 0; i < 16; i++) {
            int lo = (b[8 + i] & 15) | (int)(high >> i & 1) << 4;
            int hi = b[8 + i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
            y[i] = d * (float)lo + m;
            y[i + 16] = d * (float)hi + m;
        }
    }
}

// Q8_0, 34 bytes: w = d * q
//
//   0  d | 2..33  q of w0..w31, signed bytes
static void decode_q8_0(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 34, y += 32) {
        float d = load_f16(b);
        for (int i = 0; i < 32; i++) y[i] = d * (float)(int8_t)b[2 + i];
    }
}

// IQ4_NL, 18 bytes: w = d * iq4nl_values[q]; layout as Q4_0
static void decode_iq4_nl(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 18, y += 32) {
        float d = load_f16(b);
        for (int i = 0; i < 16; i++) {
            y[i] = d * (float)iq4nl_values[b[2 + i] & 15];
            y[i + 16] = d * (float)iq4nl_values[b[2 + i] >> 4];
        }
    }
}

// MXFP4, 17 bytes: w = 2^(e-128) * mxfp4_values[q]
//
//   0  e | 1..16  nibbles as Q4_0
static void decode_mxfp4(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 17, y += 32) {
        float d = e8m0_half_to_f32(b[0]);
        for (int i = 0; i < 16; i++) {
            y[i] = d * (float)mxfp4_values[b[1 + i] & 15];
            y[i + 16] = d * (float)mxfp4_values[b[1 + i] >> 4];
        }
    }
}

// ---- super-blocks of 256 ----------------------------------------------------------------------

// Q2_K, 84 bytes, 16 sub-blocks of 16: w = (d * scale_j) * q - (m * min_j)
//
//   0..15   [ min_j : 4 high bits | scale_j : 4 low bits ], j = 0..15
//   16..79  two halves (w0.., w128..) of 32 bytes; byte i of a half holds four weights' 2 bits:
//           [ q of w96+i | w64+i | w32+i | w_i : lowest 2 bits ]
//   80  d | 82  m
static void decode_q2_k(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 84) {
        float d = load_f16(b + 80), m = load_f16(b + 82);
        for (int j = 0; j < 16; j++, y += 16) {
            const uint8_t *q = b + 16 + 32 * (j / 8) + 16 * (j & 1);
            int shift = 2 * (j / 2 & 3);
            float scale = d * (float)(b[j] & 15), min = m * (float)(b[j] >> 4);
            for (int i = 0; i < 16; i++) y[i] = scale * (float)(q[i] >> shift & 3) - min;
        }
    }
}

// Q3_K, 110 bytes, 16 sub-blocks of 16: w = (d * (scale_j - 32)) * (q - 4),
// q = 2 bits + 4 * high bit
//
//   0..31    high bits: byte i holds those of w_i (bit 0), w32+i (bit 1), ... w224+i (bit 7)
//   32..95   low 2 bits, as in Q2_K
//   96..103  low 4 bits of the scales:  [ scale 8+j | scale j ], j = 0..7
//   104..107 high 2 bits of the scales: [ scale 12+j | 8+j | 4+j | j ], j = 0..3
//   108  d
static void decode_q3_k(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 110) {
        float d = load_f16(b + 108);
        for (int j = 0; j < 16; j++, y += 16) {
            const uint8_t *q = b + 32 + 32 * (j / 8) + 16 * (j & 1), *high = b + 16 * (j & 1);
            int shift = 2 * (j / 2 & 3);
            int low4 = b[96 + (j & 7)] >> 4 * (j / 8) & 15,
                high2 = b[104 + (j & 3)] >> 2 * (j / 4) & 3;
            float scale = d * (float)((low4 | high2 << 4) - 32);
            for (int i = 0; i < 16; i++) {
                int code = (q[i] >> shift & 3) | (high[i] >> (j / 2) & 1) << 2;
                y[i] = scale * (float)(code - 4);
            }
        }
    }
}

// Q4_K, 144 bytes, 8 sub-blocks of 32: w = (d * scale_j) * q - (m * min_j)
//
//   0  d | 2  m | 4..15  scales and minima, see k4_scale_min
//   16..143  four quarters (w0.., w64.., w128.., w192..) of 32 bytes: [ q of w32+i | q of w_i ]
static void decode_q4_k(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 144) {
        float d = load_f16(b), m = load_f16(b + 2);
        for (int j = 0; j < 8; j++, y += 32) {
            const uint8_t *q = b + 16 + 32 * (j / 2);
            int shift = 4 * (j & 1);
            uint8_t sc, mn;
            k4_scale_min(b + 4, j, &sc, &mn);
            float scale = d * (float)sc, min = m * (float)mn;
            for (int i = 0; i < 32; i++) y[i] = scale * (float)(q[i] >> shift & 15) - min;
        }
    }
}

// Q5_K, 176 bytes, 8 sub-blocks of 32: as Q4_K, q = nibble + 16 * high bit
//
//   0  d | 2  m | 4..15  scales and minima
//   16..47   high bits: byte i holds those of w_i (bit 0), w32+i (bit 1), ... w224+i (bit 7)
//   48..175  nibbles as Q4_K
static void decode_q5_k(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 176) {
        float d = load_f16(b), m = load_f16(b + 2);
        for (int j = 0; j < 8; j++, y += 32) {
            const uint8_t *q = b + 48 + 32 * (j / 2), *high = b + 16;
            int shift = 4 * (j & 1);
            uint8_t sc, mn;
            k4_scale_min(b + 4, j, &sc, &mn);
            float scale = d * (float)sc, min = m * (float)mn;
            for (int i = 0; i < 32; i++) {
                int code = (q[i] >> shift & 15) | (high[i] >> j & 1) << 4;
                y[i] = scale * (float)code - min;
            }
        }
    }
}

// Q6_K, 210 bytes, 16 sub-blocks of 16: w = (d * scale_j) * (q - 32), q = nibble + 16 * 2 high bits
//
// Two halves (w0.., w128..), each with its own 64 + 32 bytes; within a half, i = 0..31:
//   0..127    nibbles,   half h at 64h:        byte i [ w64+i | w_i ], byte 32+i [ w96+i | w32+i ]
//   128..191  high bits, half h at 128 + 32h:  byte i [ w96+i | w64+i | w32+i | w_i : lowest 2 bits
//   ] 192..207  scale_j, signed bytes | 208  d
static void decode_q6_k(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 210) {
        float d = load_f16(b + 208);
        for (int j = 0; j < 16; j++, y += 16) {
            int half = j / 8, group = j / 2 & 3, from = 16 * (j & 1);  // group: of 32 in the half
            const uint8_t *low = b + 64 * half + 32 * (group & 1) + from;
            const uint8_t *high = b + 128 + 32 * half + from;
            float scale = d * (float)(int8_t)b[192 + j];
            for (int i = 0; i < 16; i++) {
                int code = (low[i] >> 4 * (group / 2) & 15) | (high[i] >> 2 * group & 3) << 4;
                y[i] = scale * (float)(code - 32);
            }
        }
    }
}

// IQ4_XS, 136 bytes, 8 sub-blocks of 32: w = (d * (scale_j - 32)) * iq4nl_values[q]
//
//   0  d | 2..3  high 2 bits of the scales: bits 2j and 2j+1 belong to scale_j
//   4..7  low 4 bits of the scales: [ scale 2i+1 | scale 2i ]
//   8..135  eight sub-blocks of 16 bytes, nibbles as Q4_0
static void decode_iq4_xs(const uint8_t *b, float *y, size_t n) {
    for (; n--; b += 136) {
        float d = load_f16(b);
        int high = load_u16(b + 2);
        for (int j = 0; j < 8; j++, y += 32) {
            int scale = (b[4 + j / 2] >> 4 * (j & 1) & 15) | (high >> 2 * j & 3) << 4;
            float dj = d * (float)(scale - 32);
            for (int i = 0; i < 16; i++) {
                y[i] = dj * (float)iq4nl_values[b[8 + 16 * j + i] & 15];
                y[i + 16] = dj * (float)iq4nl_values[b[8 + 16 * j + i] >> 4];
            }
        }
    }
}

// ---- the table --------------------------------------------------------------------------------

typedef struct {
    TypeInfo info;
    void (*decode)(const uint8_t *src, float *dst, size_t n_blocks);  // NULL: not supported
    const char *why;                                                  // it is not supported
} TypeRow;

static const char removed_2023[] = "removed from GGUF in 2023";
static const char repacked[] = "removed from GGUF: a layout for some CPUs, now made at load time";
static const char internal[] = "an intermediate result of ggml, never in a file";
static const char not_weights[] = "a type for integers and doubles, not for weights";
static const char not_yet[] = "a quantization that this build cannot decode";
static const char fork_owned[] = "owned by the fork ik_llama.cpp";

static const TypeRow types[] = {
    [TYPE_F32] = {{"F32", 1, 4}, decode_f32, NULL},
    [TYPE_F16] = {{"F16", 1, 2}, decode_f16, NULL},
    [TYPE_Q4_0] = {{"Q4_0", 32, 18}, decode_q4_0, NULL},
    [TYPE_Q4_1] = {{"Q4_1", 32, 20}, decode_q4_1, NULL},
    [4] = {{"Q4_2 (removed)", 0, 0}, NULL, removed_2023},
    [5] = {{"Q4_3 (removed)", 0, 0}, NULL, removed_2023},
    [TYPE_Q5_0] = {{"Q5_0", 32, 22}, decode_q5_0, NULL},
    [TYPE_Q5_1] = {{"Q5_1", 32, 24}, decode_q5_1, NULL},
    [TYPE_Q8_0] = {{"Q8_0", 32, 34}, decode_q8_0, NULL},
    [9] = {{"Q8_1", 0, 0}, NULL, internal},
    [TYPE_Q2_K] = {{"Q2_K", 256, 84}, decode_q2_k, NULL},
    [TYPE_Q3_K] = {{"Q3_K", 256, 110}, decode_q3_k, NULL},
    [TYPE_Q4_K] = {{"Q4_K", 256, 144}, decode_q4_k, NULL},
    [TYPE_Q5_K] = {{"Q5_K", 256, 176}, decode_q5_k, NULL},
    [TYPE_Q6_K] = {{"Q6_K", 256, 210}, decode_q6_k, NULL},
    [15] = {{"Q8_K", 0, 0}, NULL, internal},
    [16] = {{"IQ2_XXS", 0, 0}, NULL, not_yet},
    [17] = {{"IQ2_XS", 0, 0}, NULL, not_yet},
    [18] = {{"IQ3_XXS", 0, 0}, NULL, not_yet},
    [19] = {{"IQ1_S", 0, 0}, NULL, not_yet},
    [TYPE_IQ4_NL] = {{"IQ4_NL", 32, 18}, decode_iq4_nl, NULL},
    [21] = {{"IQ3_S", 0, 0}, NULL, not_yet},
    [22] = {{"IQ2_S", 0, 0}, NULL, not_yet},
    [TYPE_IQ4_XS] = {{"IQ4_XS", 256, 136}, decode_iq4_xs, NULL},
    [24] = {{"I8", 0, 0}, NULL, not_weights},
    [25] = {{"I16", 0, 0}, NULL, not_weights},
    [26] = {{"I32", 0, 0}, NULL, not_weights},
    [27] = {{"I64", 0, 0}, NULL, not_weights},
    [28] = {{"F64", 0, 0}, NULL, not_weights},
    [29] = {{"IQ1_M", 0, 0}, NULL, not_yet},
    [TYPE_BF16] = {{"BF16", 1, 2}, decode_bf16, NULL},
    [31] = {{"Q4_0_4_4 (removed)", 0, 0}, NULL, repacked},
    [32] = {{"Q4_0_4_8 (removed)", 0, 0}, NULL, repacked},
    [33] = {{"Q4_0_8_8 (removed)", 0, 0}, NULL, repacked},
    [34] = {{"TQ1_0", 0, 0}, NULL, not_yet},
    [35] = {{"TQ2_0", 0, 0}, NULL, not_yet},
    [36] = {{"IQ4_NL_4_4 (removed)", 0, 0}, NULL, repacked},
    [37] = {{"IQ4_NL_4_8 (removed)", 0, 0}, NULL, repacked},
    [38] = {{"IQ4_NL_8_8 (removed)", 0, 0}, NULL, repacked},
    [TYPE_MXFP4] = {{"MXFP4", 32, 17}, decode_mxfp4, NULL},
    [40] = {{"NVFP4", 0, 0}, NULL, not_yet},
    [41] = {{"Q1_0", 0, 0}, NULL, not_yet},
    [42] = {{"Q2_0", 0, 0}, NULL, not_yet},
};
enum { N_TYPES = sizeof types / sizeof types[0] };

// Types of the fork that users meet in files; it has taken ids 97..99, 133..158 and 200..399.
static const struct {
    uint32_t id;
    const char *name;
} fork_types[] = {
    {97, "Q8_0_X4"}, {98, "Q8_1_X4"}, {99, "Q8_2_X4"}, {133, "Q6_0"},    {134, "IQ1_BN"},
    {135, "IQ2_BN"}, {136, "Q8_K64"}, {137, "IQ2_K"},  {138, "IQ3_K"},   {139, "IQ4_K"},
    {140, "IQ5_K"},  {141, "IQ6_K"},  {144, "IQ4_KS"}, {145, "IQ2_KS"},  {146, "IQ4_KSS"},
    {147, "Q8_K16"}, {148, "Q8_K32"}, {149, "Q8_KR8"}, {150, "Q8_K128"}, {151, "Q8_KV"},
    {152, "IQ5_KS"}, {153, "IQ2_KT"}, {154, "IQ3_KT"}, {155, "IQ4_KT"},  {156, "IQ3_KS"},
    {157, "IQ2_KL"}, {158, "IQ1_KT"},
};

const TypeInfo *type_info(uint32_t type) {
    return type < N_TYPES && types[type].decode ? &types[type].info : NULL;
}

const char *type_name(uint32_t type, char buf[32], const char **why) {
    const char *ignored;
    if (!why) why = &ignored;
    if (type < N_TYPES && types[type].info.name) {
        *why = types[type].why ? types[type].why : "";
        return types[type].info.name;
    }
    snprintf(buf, 32, "type %u", type);
    bool forked =
        (type >= 97 && type <= 99) || (type >= 133 && type <= 158) || (type >= 200 && type <= 399);
    *why = forked ? fork_owned : "not a type that GGUF defines";
    for (size_t i = 0; i < sizeof fork_types / sizeof fork_types[0]; i++) {
        if (fork_types[i].id == type) return fork_types[i].name;
    }
    return buf;
}

bool type_by_name(const char *name, TensorType *out) {
    for (uint32_t t = 0; t < N_TYPES; t++) {
        if (!types[t].decode || strcasecmp(name, types[t].info.name) != 0) continue;
        *out = (TensorType)t;
        return true;
    }
    return false;
}

bool type_bytes(TensorType type, uint64_t n, uint64_t *bytes) {
    const TypeInfo *t = type_info(type);
    return t && n % t->block_len == 0 && checked_mul(n / t->block_len, t->block_bytes, bytes);
}

void dequantize(TensorType type, const void *src, float *dst, size_t n) {
    const TypeInfo *t = type_info(type);
    CHECK(t && n % t->block_len == 0);
    types[type].decode(src, dst, n / t->block_len);
}
