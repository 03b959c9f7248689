// Encoding weights: the dispatch, plain floats, and blocks of 32.
//
// This file owns: turning bad input into something finite, and the blocks whose scale is stored as
// a half. It leaves to others: the searches (quant_fit.h) and super-blocks of 256 (quantize_k.c).
// The layouts are drawn beside the decoders in quants.c.
//
// A scale is rounded to a half before the codes are chosen, so that they make up for the rounding.
#include "formats/quants.h"

#include <math.h>

#include "base/status.h"
#include "formats/quant_fit.h"
#include "formats/quantize_k.h"

static void store_f16(uint8_t *p, float x) {
    uint16_t h = f32_to_f16(x);
    memcpy(p, &h, 2);
}

// Codes 0..31 of 32 weights as nibbles: byte i holds weight i (low) and weight 16 + i (high). The
// fifth bits, where there are any, go to high[4], bit i for weight i.
static void pack_nibbles(const float q[32], float shift, uint8_t *nibbles, uint8_t *high) {
    uint32_t fifth = 0;
    for (int i = 0; i < 16; i++) {
        uint32_t a = (uint32_t)(q[i] + shift), b = (uint32_t)(q[i + 16] + shift);
        nibbles[i] = (uint8_t)((a & 15) | (b & 15) << 4);
        fifth |= (a >> 4) << i | (b >> 4) << (i + 16);
    }
    for (int i = 0; high && i < 4; i++) high[i] = (uint8_t)(fifth >> 8 * i);
}

// ---- scale only -------------------------------------------------------------------------------

// The half nearest to v and its two neighbours (never past zero or to infinity), for the caller to
// try: among small halves, which have few digits, another one than the nearest may lose less.
static void halves_around(float v, float out[3]) {
    uint16_t h = f32_to_f16(quant_f16(v)), magnitude = h & 0x7fff;
    out[0] = f16_to_f32(h);
    out[1] = f16_to_f32((uint16_t)(magnitude < 0x7bff ? h + 1 : h));
    out[2] = f16_to_f32((uint16_t)(magnitude > 0 ? h - 1 : h));
}

static int least_error(const FitSums sums[4]) {
    int best = 0;
    for (int i = 1; i < 4; i++) best = sums[i].error < sums[best].error ? i : best;
    return best;
}

static Fit scale_f16(const float *x, CodeRange r, float *error) {
    float d[3], fit = quant_fit_scale(x, 32, r);
    FitSums sums[4];
    halves_around(fit, d);
    const Fit f[4] = {{d[0], 0}, {d[1], 0}, {d[2], 0}, {0, 0}};
    quant_sums(x, 32, f, r, sums);
    int best = least_error(sums);
    if (error) *error = sums[best].error;
    return f[best];
}

static void encode_q4_0(const float *x, uint8_t *b) {
    CodeRange r = {-8, 7};
    float q[32];
    Fit f = scale_f16(x, r, NULL);
    quant_codes(x, 32, f, r, q);
    store_f16(b, f.scale);
    pack_nibbles(q, 8, b + 2, NULL);
}

static void encode_q5_0(const float *x, uint8_t *b) {
    CodeRange r = {-16, 15};
    float q[32];
    Fit f = scale_f16(x, r, NULL);
    quant_codes(x, 32, f, r, q);
    store_f16(b, f.scale);
    pack_nibbles(q, 16, b + 6, b + 2);
}

static void encode_q8_0(const float *x, uint8_t *b) {
    CodeRange r = {-127, 127};
    float q[32], top = 0, error;
    Fit f = scale_f16(x, r, &error), whole[4];
    FitSums sums[4];
    // A block that was Q8_0 before has its greatest weight at a code of 124 at least, since the
    // search tries 125 and more: then one of these loses nothing, and is taken, so that blocks are
    // stable.
    for (int i = 0; i < 32; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    for (int k = 0; k < 4; k++) whole[k] = (Fit){quant_f16(top / (float)(127 - k)), 0};
    quant_sums(x, 32, whole, r, sums);
    int best = least_error(sums);
    if (sums[best].error < error) f = whole[best];
    quant_codes(x, 32, f, r, q);
    store_f16(b, f.scale);
    for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)(int8_t)q[i];
}

static void encode_iq4_nl(const float *x, uint8_t *b) {
    float q[32], d = quant_f16_up(quant_fit_iq4nl(x, 32));
    quant_codes_iq4nl(x, 32, d, q);
    store_f16(b, d);
    pack_nibbles(q, 0, b + 2, NULL);
}

// ---- scale and minimum ------------------------------------------------------------------------

static Fit affine_f16(const float *x, float hi) {
    CodeRange r = {0, hi};
    float d[3];
    Fit fit = quant_fit_affine(x, 32, hi, 0), f[4];
    FitSums sums[4];
    halves_around(fit.scale, d);
    for (int k = 0; k < 4; k++) f[k] = (Fit){k < 3 ? d[k] : 0, quant_f16(fit.min)};
    quant_sums(x, 32, f, r, sums);
    // The minimum that suits each one's codes, as a half again.
    for (int k = 0; k < 4; k++) f[k].min = quant_f16((sums[k].x - f[k].scale * sums[k].q) / 32);
    quant_sums(x, 32, f, r, sums);
    return f[least_error(sums)];
}

static void encode_q4_1(const float *x, uint8_t *b) {
    float q[32];
    Fit f = affine_f16(x, 15);
    quant_codes(x, 32, f, (CodeRange){0, 15}, q);
    store_f16(b, f.scale);
    store_f16(b + 2, f.min);
    pack_nibbles(q, 0, b + 4, NULL);
}

static void encode_q5_1(const float *x, uint8_t *b) {
    float q[32];
    Fit f = affine_f16(x, 31);
    quant_codes(x, 32, f, (CodeRange){0, 31}, q);
    store_f16(b, f.scale);
    store_f16(b + 2, f.min);
    pack_nibbles(q, 0, b + 8, b + 4);
}

// ---- the dispatch -----------------------------------------------------------------------------

// Blocks hold at most 65504 * 127 * 32; a weight beyond 1e9 saturates anyway. NaN and infinity are
// 0.
static float finite(float x) {
    const float most = 1e9f;
    if (x >= -most && x <= most) return x;
    if (x > most) return x <= 3.4028235e38f ? most : 0;
    if (x < -most) return x >= -3.4028235e38f ? -most : 0;
    return 0;
}

static void encode_float(TensorType type, const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float v = x[i] - x[i] == 0 ? x[i] : 0;  // NaN and infinity fail this
        if (type == TYPE_F32) memcpy(dst + 4 * i, &v, 4);
        if (type == TYPE_F16) store_f16(dst + 2 * i, v > 65504 ? 65504 : v < -65504 ? -65504 : v);
        if (type != TYPE_BF16) continue;
        uint16_t h = f32_to_bf16(v);
        if ((h & 0x7fff) == 0x7f80) h--;  // rounded up to infinity: the greatest finite one instead
        memcpy(dst + 2 * i, &h, 2);
    }
}

typedef void (*Encoder)(const float *x, uint8_t *block);

static Encoder encoder(TensorType type) {
    switch (type) {
        case TYPE_Q4_0: return encode_q4_0;
        case TYPE_Q4_1: return encode_q4_1;
        case TYPE_Q5_0: return encode_q5_0;
        case TYPE_Q5_1: return encode_q5_1;
        case TYPE_Q8_0: return encode_q8_0;
        case TYPE_Q2_K: return quantize_q2_k;
        case TYPE_Q3_K: return quantize_q3_k;
        case TYPE_Q4_K: return quantize_q4_k;
        case TYPE_Q5_K: return quantize_q5_k;
        case TYPE_Q6_K: return quantize_q6_k;
        case TYPE_IQ4_NL: return encode_iq4_nl;
        default: return NULL;
    }
}

static bool is_float(TensorType type) {
    return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16;
}

bool type_can_quantize(TensorType type) {
    return is_float(type) || encoder(type);
}

void quantize(TensorType type, const float *src, void *dst, size_t n) {
    CHECK(type_can_quantize(type));
    if (is_float(type)) {
        encode_float(type, src, dst, n);
        return;
    }
    const TypeInfo *t = type_info(type);
    CHECK(n % t->block_len == 0);
    Encoder encode = encoder(type);
    uint8_t *b = dst;
    float x[256];
    for (size_t i = 0; i < n; i += t->block_len, b += t->block_bytes) {
        for (uint32_t j = 0; j < t->block_len; j++) x[j] = finite(src[i + j]);
        encode(x, b);
    }
}
