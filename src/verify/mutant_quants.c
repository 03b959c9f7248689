// Weights as the mutant reads them: its own decoders, with the mistakes that engines make in them.
//
// This file owns: Q4_K, Q6_K, Q8_0 and the floats with their switchable faults; which bytes a row
// of the embedding is. It leaves to others: the types that carry no fault (formats/quants.h, where
// all layouts are drawn), products (mutant_product.c).
#include <string.h>

#include "verify/mutant_internal.h"

#define BIT(code) (1u << (code))

DecodeFaults mutant_decode_faults(const Mutant *mu, WeightsRead by) {
    DecodeFaults set = 0;
    for (int c = FAULT_Q4K_SCALE_BITS; c <= FAULT_SUBNORMAL_FLUSHED; c++) {
        if (faulty(mu, (FaultCode)c, (int)by)) set |= BIT(c);
    }
    return set;
}

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static float half(DecodeFaults faults, const uint8_t *p) {
    const uint32_t h = load_u16(p), sign = (h & 0x8000) << 16;
    const uint32_t exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent) return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    const float least = faults & BIT(FAULT_SUBNORMAL_FLUSHED) ? 0.0f : 0x1p-24f;
    return sign ? -(least * (float)mantissa) : least * (float)mantissa;
}

// Scale and minimum j of the 12 bytes; 4 .. 7 have their high two bits in bytes of 0 .. 3.
static void sub_scale(DecodeFaults faults, const uint8_t *p, int j, uint8_t *scale, uint8_t *min) {
    if (j < 4) {
        *scale = p[j] & 63, *min = p[j + 4] & 63;
        return;
    }
    *scale = p[j + 4] & 15, *min = p[j + 4] >> 4;
    if (faults & BIT(FAULT_Q4K_SCALE_BITS)) return;
    *scale = (uint8_t)(*scale | p[j - 4] >> 6 << 4);
    *min = (uint8_t)(*min | p[j] >> 6 << 4);
}

static void decode_q4_k(DecodeFaults faults, const uint8_t *b, float *y, size_t n) {
    for (; n >= 256; n -= 256, b += 144, y += 256) {
        const float d = half(faults, b);
        float m = half(faults, b + 2);
        if (faults & BIT(FAULT_MIN_DROPPED)) m = 0;
        if (faults & BIT(FAULT_MIN_SIGN)) m = -m;
        for (int w = 0; w < 256; w++) {
            const int j = w / 32, in_quarter = w % 64;
            const uint8_t *q = b + 16 + w / 64 * 32;
            int byte = in_quarter % 32, high = in_quarter / 32;
            if (faults & BIT(FAULT_NIBBLES_INTERLEAVED)) byte = in_quarter / 2, high = w & 1;
            if (faults & BIT(FAULT_NIBBLES_SWAPPED)) high = !high;
            uint8_t scale, min;
            sub_scale(faults, b + 4, j, &scale, &min);
            const float code = (float)(high ? q[byte] >> 4 : q[byte] & 15);
            y[w] = d * (float)scale * code - m * (float)min;
        }
    }
}

static void decode_q6_k(DecodeFaults faults, const uint8_t *b, float *y, size_t n) {
    for (; n >= 256; n -= 256, b += 210, y += 256) {
        const float d = half(faults, b + 208);
        for (int w = 0; w < 256; w++) {
            // In each half of 128 weights four runs of 32 share their bytes.
            const int upper = w / 128, run = w / 32 % 4, i = w % 32;
            int low_at = 64 * upper + 32 * (run & 1) + i, low_shift = 4 * (run / 2);
            int high_at = 32 * upper + i, high_shift = 2 * run;
            if (faults & BIT(FAULT_Q6K_SEQUENTIAL)) {
                low_at = w / 2, low_shift = 4 * (w & 1);
                high_at = w / 4, high_shift = 2 * (w & 3);
            }
            const int code = (b[low_at] >> low_shift & 15) | (b[128 + high_at] >> high_shift & 3)
                                                                 << 4;
            const bool is_unsigned = faults & BIT(FAULT_SCALES_UNSIGNED);
            const int scale = is_unsigned ? b[192 + w / 16] : (int8_t)b[192 + w / 16];
            y[w] = d * (float)scale * (float)(code - 32);
        }
    }
}

static void decode_q8_0(DecodeFaults faults, const uint8_t *b, float *y, size_t n) {
    const bool is_unsigned = faults & BIT(FAULT_INT8_UNSIGNED);
    for (; n >= 32; n -= 32, b += 34, y += 32) {
        const float d = half(faults, b);
        for (int i = 0; i < 32; i++) {
            y[i] = d * (float)(is_unsigned ? (int)b[2 + i] : (int8_t)b[2 + i]);
        }
    }
}

void mutant_decode(DecodeFaults faults, TensorType type, const uint8_t *src, float *dst, size_t n) {
    switch (type) {
        case TYPE_F32: memcpy(dst, src, n * sizeof *dst); break;
        case TYPE_F16:
            for (size_t i = 0; i < n; i++) dst[i] = half(faults, src + 2 * i);
            break;
        case TYPE_BF16:
            for (size_t i = 0; i < n; i++)
                dst[i] = from_bits((uint32_t)load_u16(src + 2 * i) << 16);
            break;
        case TYPE_Q4_K: decode_q4_k(faults, src, dst, n); break;
        case TYPE_Q6_K: decode_q6_k(faults, src, dst, n); break;
        case TYPE_Q8_0: decode_q8_0(faults, src, dst, n); break;
        default: dequantize(type, src, dst, n); break;
    }
}

size_t mutant_row_bytes(TensorType type, size_t n) {
    const TypeInfo *info = type_info(type);
    return n / info->block_len * info->block_bytes;
}

// --- where tensors lie ------------------------------------------------------------------------

static void nearer(const Tensor *other, const Tensor *t, uintptr_t *end) {
    if (!other || other == t) return;
    const uintptr_t at = (uintptr_t)other->data + other->bytes;
    if (at <= (uintptr_t)t->data && at > *end) *end = at;
}

size_t mutant_gap(const Model *m, const Tensor *t) {
    // Alignments of files are small; whatever lies further away belongs to something else.
    enum { MOST = 1024, PER_LAYER = sizeof(LayerWeights) / sizeof(Tensor *) };
    uintptr_t end = 0;
    nearer(m->token_embd, t, &end);
    nearer(m->output_norm, t, &end);
    nearer(m->output, t, &end);
    nearer(m->rope_freqs, t, &end);
    for (int l = 0; l < m->h.n_layers; l++) {
        const Tensor *tensors[PER_LAYER];
        memcpy(tensors, &m->layers[l], sizeof tensors);
        for (int i = 0; i < PER_LAYER; i++) nearer(tensors[i], t, &end);
    }
    const uintptr_t gap = (uintptr_t)t->data - end;
    return gap < MOST ? (size_t)gap : 0;
}

// --- the embedding ----------------------------------------------------------------------------

// As far apart as the rows of another type: the next smaller one, so that they stay in the table.
static size_t wrong_stride(TensorType type, size_t dim) {
    static const TensorType types[] = {TYPE_F16,  TYPE_Q8_0, TYPE_Q6_K, TYPE_Q5_K,
                                       TYPE_Q4_K, TYPE_Q4_0, TYPE_Q3_K, TYPE_Q2_K};
    const size_t right = mutant_row_bytes(type, dim);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (dim % type_info(types[i])->block_len) continue;
        const size_t other = mutant_row_bytes(types[i], dim);
        if (other < right) return other;
    }
    return right;
}

void mutant_embed(const Mutant *mu, int32_t token, float *y) {
    const Tensor *t = mu->m->token_embd;
    const DecodeFaults faults = mutant_decode_faults(mu, READ_EMBEDDING);
    const size_t dim = (size_t)t->dims[0], n_vocab = (size_t)t->dims[1];
    const TypeInfo *info = type_info(t->type);
    size_t row = (size_t)token, stride = mutant_row_bytes(t->type, dim);
    if (faulty(mu, FAULT_EMBD_COLUMNS, 0)) {
        float block[256];
        for (size_t i = 0; i < dim; i++) {
            const size_t at = i * n_vocab + row;
            mutant_decode(faults, t->type, t->data + at / info->block_len * info->block_bytes,
                          block, info->block_len);
            y[i] = block[at % info->block_len];
        }
        return;
    }
    if (faulty(mu, FAULT_EMBD_NEXT, 0) && row + 1 < n_vocab) row++;
    if (faulty(mu, FAULT_EMBD_STRIDE, 0)) stride = wrong_stride(t->type, dim);
    mutant_decode(faults, t->type, t->data + row * stride, y, dim);
}
