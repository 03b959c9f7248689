// Weights of every type that the GPU's kernels decode, laid out on the device of gpu_fixture.h as
// the driver does it. Include it after cmocka.h.
#ifndef PLUMB_TESTS_GPU_MATRIX_H
#define PLUMB_TESTS_GPU_MATRIX_H

#include "gpu_fixture.h"

static const TensorType types[] = {TYPE_F32,  TYPE_F16,  TYPE_BF16, TYPE_Q4_0, TYPE_Q4_1, TYPE_Q5_0,
                                   TYPE_Q5_1, TYPE_Q8_0, TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K};
enum { N_TYPES = sizeof types / sizeof *types, N_FLOAT_TYPES = 3 };

typedef struct {
    TensorType type;
    int rows, n_in;
    float *w;     // rows x n_in, as formats/quants.h decodes them
    double *mag;  // |scale * code| + |minimum| of each: what rounding is relative to
    Mem mem;
    WeightArgs args;
} Matrix;

// Where a block's codes are, to set them to zero; and its half-float scales.
typedef struct {
    int code_at, code_bytes, high_at, high_bytes, scale[2];
} BlockParts;

static inline BlockParts parts_of(TensorType type) {
    switch (type) {
        case TYPE_Q4_0: return (BlockParts){2, 16, 0, 0, {0, -1}};
        case TYPE_Q4_1: return (BlockParts){4, 16, 0, 0, {0, 2}};
        case TYPE_Q5_0: return (BlockParts){6, 16, 2, 4, {0, -1}};
        case TYPE_Q5_1: return (BlockParts){8, 16, 4, 4, {0, 2}};
        case TYPE_Q8_0: return (BlockParts){2, 32, 0, 0, {0, -1}};
        case TYPE_Q4_K: return (BlockParts){16, 128, 0, 0, {0, 2}};
        case TYPE_Q5_K: return (BlockParts){48, 128, 16, 32, {0, 2}};
        case TYPE_Q6_K: return (BlockParts){0, 192, 0, 0, {208, -1}};
        default: return (BlockParts){0, 0, 0, 0, {-1, -1}};
    }
}

static inline void put_half(uint8_t *at, double x) {
    const uint16_t h = f32_to_f16((float)x);
    memcpy(at, &h, 2);
}

// Any codes; sound scales, a few of them zero, negative or subnormal.
static inline void random_blocks(Rng *r, TensorType type, uint8_t *raw, size_t bytes) {
    const size_t step = type_info(type)->block_bytes;
    const BlockParts p = parts_of(type);
    for (size_t i = 0; i < bytes; i++) raw[i] = (uint8_t)rng_u64(r);
    for (uint8_t *b = raw; b < raw + bytes; b += step) {
        const uint64_t kind = rng_below(r, 32);
        const double sign = kind < 3 ? -1 : 1, size = kind == 3 ? 0 : kind == 4 ? 3e-4 : 1;
        const float x = rng_normal(r);
        const uint16_t bf16 = f32_to_bf16(x);
        if (type == TYPE_F32) memcpy(b, &x, 4);
        if (type == TYPE_F16) put_half(b, (double)x);
        if (type == TYPE_BF16) memcpy(b, &bf16, 2);
        if (p.scale[0] >= 0) put_half(b + p.scale[0], sign * size * (0.001 + 0.01 * rng_unit(r)));
        if (p.scale[1] >= 0) put_half(b + p.scale[1], size * 0.02 * rng_unit(r));
    }
}

// |w - w0| + |w0|, w0 being the weight were its code 0.
static inline double *magnitudes(TensorType type, const uint8_t *raw, size_t bytes, const float *w,
                                 size_t n) {
    const size_t step = type_info(type)->block_bytes;
    const BlockParts p = parts_of(type);
    double *mag = room(n * sizeof *mag);
    float *zero = room(n * sizeof *zero);
    uint8_t *no_codes = room(bytes);
    memcpy(no_codes, raw, bytes);
    for (uint8_t *b = no_codes; b < no_codes + bytes; b += step) {
        memset(b + p.code_at, 0, (size_t)p.code_bytes);
        memset(b + p.high_at, 0, (size_t)p.high_bytes);
    }
    dequantize(type, no_codes, zero, n);
    for (size_t i = 0; i < n; i++) {
        const double base = p.code_bytes ? (double)zero[i] : 0;
        mag[i] = fabs(w[i] - base) + fabs(base);
    }
    free(no_codes);
    free(zero);
    return mag;
}

// Lays raw bytes out as the driver does.
static inline Mem upload(const Tensor *t, WeightArgs *args) {
    TensorType as;
    const size_t bytes = gpu_weight_layout(t, &as, args);
    const size_t at[4] = {0, args->plane1, args->plane2, args->plane3};
    const u64 n_blocks = t->dims[0] * t->dims[1] / type_info(as)->block_len;
    uint8_t *all = room(bytes);
    for (int p = 0; p < gpu_n_planes(as); p++) {
        gpu_fill_plane(t, as, p, 0, n_blocks, all + at[p]);
    }
    const Mem m = mem_settled(all, bytes);
    free(all);
    return m;
}

static inline Matrix matrix_of(TensorType type, const uint8_t *raw, int rows, int n_in) {
    const size_t n = (size_t)rows * (size_t)n_in;
    uint64_t bytes;
    assert_true(type_bytes(type, n, &bytes));
    const Tensor t = {.name = "test",
                      .type = type,
                      .n_dims = 2,
                      .dims = {(u64)n_in, (u64)rows, 1, 1},
                      .bytes = bytes,
                      .data = raw};
    Matrix m = {.type = type, .rows = rows, .n_in = n_in, .w = room(n * 4)};
    dequantize(type, raw, m.w, n);
    m.mag = magnitudes(type, raw, bytes, m.w, n);
    m.mem = upload(&t, &m.args);
    assert_int_equal(m.args.type, type);
    assert_int_equal(m.args.rows, rows);
    return m;
}

static inline Matrix random_matrix(Rng *r, TensorType type, int rows, int n_in) {
    uint64_t bytes;
    assert_true(type_bytes(type, (u64)rows * (u64)n_in, &bytes));
    uint8_t *raw = room(bytes);
    random_blocks(r, type, raw, bytes);
    const Matrix m = matrix_of(type, raw, rows, n_in);
    free(raw);
    return m;
}

static inline void matrix_free(Matrix m) {
    mem_free(m.mem);
    free(m.w);
    free(m.mag);
}

#endif
