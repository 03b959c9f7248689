// Decoding against gguf-py's values, the 16-bit floats against their definition, the table of
// types.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "formats/gguf.h"
#include "formats/quants.h"

static uint32_t bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static void same_bits(const char *what, const float *got, const uint8_t *expected, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t want;
        memcpy(&want, expected + 4 * i, 4);
        if (bits(got[i]) != want) {
            fail_msg("%s: weight %zu is %08x, expected %08x", what, i, bits(got[i]), want);
        }
    }
}

// Whole, from an odd address, and one block at a time: the values of gguf-py, bit for bit.
static void check_golden(const Tensor *blocks, const Tensor *values) {
    const TypeInfo *t = type_info(blocks->type);
    size_t n = values->bytes / 4;
    float *y = malloc(n * sizeof *y);
    uint8_t *moved = malloc(blocks->bytes + 1);
    assert_non_null(y);
    assert_non_null(moved);

    dequantize(blocks->type, blocks->data, y, n);
    same_bits(blocks->name, y, values->data, n);

    memset(y, 0x55, n * 4);
    memcpy(moved + 1, blocks->data, blocks->bytes);
    dequantize(blocks->type, moved + 1, y, n);
    same_bits(blocks->name, y, values->data, n);

    memset(y, 0x55, n * 4);
    for (size_t i = 0; i < n / t->block_len; i++) {
        uint8_t *b =
            malloc(t->block_bytes);  // of the exact size: a sanitizer sees any read past it
        assert_non_null(b);
        memcpy(b, blocks->data + i * t->block_bytes, t->block_bytes);
        dequantize(blocks->type, b, y + i * t->block_len, t->block_len);
        free(b);
    }
    same_bits(blocks->name, y, values->data, n);
    free(y);
    free(moved);
}

static void golden_blocks_decode_to_the_bit(void **state) {
    (void)state;
    Gguf *g;
    Error err;
    if (gguf_open("tests/golden/quants.gguf", &g, &err)) fail_msg("%s", err.text);
    int checked = 0;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *blocks = gguf_tensor_at(g, i);
        const char *dot = strstr(blocks->name, ".blocks");
        if (!dot) continue;
        char name[GGUF_MAX_NAME + 1];
        snprintf(name, sizeof name, "%.*s.values", (int)(dot - blocks->name), blocks->name);
        const Tensor *values = gguf_tensor(g, name);
        assert_non_null(values);
        check_golden(blocks, values);
        checked++;
    }
    assert_int_equal(checked, 15);  // every supported type but F32
    gguf_close(g);
}

static void nothing_and_f32(void **state) {
    (void)state;
    float x[3] = {1.5f, -0.0f, from_bits(1)}, y[3] = {7, 7, 7};
    for (uint32_t t = 0; t < TYPE_LIMIT; t++) {
        if (type_info(t)) dequantize((TensorType)t, x, y, 0);
    }
    assert_true(y[0] == 7);
    dequantize(TYPE_F32, x, y, 3);
    assert_memory_equal(x, y, sizeof x);
}

// ---- 16-bit floats ----------------------------------------------------------------------------

static void every_half_round_trips(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = f16_to_f32((uint16_t)h);
        int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
        if (exponent == 31) {
            assert_int_equal(isnan(x) != 0, mantissa != 0);
            assert_int_equal(isinf(x) != 0, mantissa == 0);
        } else {
            double magnitude =
                exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
            assert_true((double)x == (h & 0x8000 ? -magnitude : magnitude));
        }
        assert_int_equal(signbit(x) != 0, h >> 15);
        assert_int_equal(f32_to_f16(x), h);
    }
}

static void every_bfloat_round_trips(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = bf16_to_f32((uint16_t)h);
        assert_int_equal(bits(x), h << 16);
        assert_int_equal(f32_to_bf16(x), h);
    }
}

// Rounding by definition, in double: to a multiple of the unit at x, ties to even.
static double rounded(float x, int mantissa_bits, int least_exponent, double most) {
    int e;
    frexp((double)x, &e);  // x = f * 2^e, 0.5 <= f < 1
    e = e - 1 < least_exponent ? least_exponent : e - 1;
    double unit = ldexp(1, e - mantissa_bits), r = nearbyint((double)x / unit) * unit;
    return fabs(r) > most ? copysign(INFINITY, (double)x) : r;
}

static void check_rounding(uint32_t u) {
    float x = from_bits(u);
    uint16_t h = f32_to_f16(x), b = f32_to_bf16(x);
    if (isnan(x)) {
        assert_true(isnan(f16_to_f32(h)) && isnan(bf16_to_f32(b)));
        return;
    }
    if (isinf(x)) {
        assert_int_equal(h, x > 0 ? 0x7c00 : 0xfc00);
        assert_int_equal(b, x > 0 ? 0x7f80 : 0xff80);
        return;
    }
    if ((double)f16_to_f32(h) != rounded(x, 10, -14, 65504)) fail_msg("f16 of %08x is %04x", u, h);
    if ((double)bf16_to_f32(b) != rounded(x, 7, -126, ldexp(255, 120))) {
        fail_msg("bf16 of %08x is %04x", u, b);
    }
    assert_int_equal(h >> 15, u >> 31);
    assert_int_equal(b >> 15, u >> 31);
#ifdef __FLT16_MANT_DIG__
    _Float16 f = (_Float16)x;
    assert_memory_equal(&f, &h, 2);
#endif
}

static void floats_round_to_nearest_even(void **state) {
    (void)state;
    // Around every half and the middle to the next: where rounding can go wrong.
    for (uint32_t h = 0; h < 65536; h++) {
        uint32_t u = bits(f16_to_f32((uint16_t)h)), v = bits(f16_to_f32((uint16_t)(h + 1)));
        uint32_t middle = bits((from_bits(u) + from_bits(v)) / 2);
        for (uint32_t d = 0; d < 3; d++) {
            check_rounding(u + d - 1);
            check_rounding(middle + d - 1);
            check_rounding((h << 16 | 0x8000) + d - 1);
        }
    }
    uint32_t u = 1;
    for (int i = 0; i < 2000000; i++) {
        u = u * 1664525u + 1013904223u;
        check_rounding(u ^ u >> 15);
    }
}

static void scales_of_the_mx_formats(void **state) {
    (void)state;
    for (int e = 0; e < 256; e++) {
        assert_true((double)e8m0_half_to_f32((uint8_t)e) == ldexp(1, e - 128));
    }
}

// ---- the table --------------------------------------------------------------------------------

static void names_and_sizes(void **state) {
    (void)state;
    static const struct {
        TensorType type;
        const char *name;
        uint64_t bytes_of_256;
    } all[] = {
        {TYPE_F32, "F32", 1024},    {TYPE_F16, "F16", 512},       {TYPE_BF16, "BF16", 512},
        {TYPE_Q4_0, "Q4_0", 144},   {TYPE_Q4_1, "Q4_1", 160},     {TYPE_Q5_0, "Q5_0", 176},
        {TYPE_Q5_1, "Q5_1", 192},   {TYPE_Q8_0, "Q8_0", 272},     {TYPE_Q2_K, "Q2_K", 84},
        {TYPE_Q3_K, "Q3_K", 110},   {TYPE_Q4_K, "Q4_K", 144},     {TYPE_Q5_K, "Q5_K", 176},
        {TYPE_Q6_K, "Q6_K", 210},   {TYPE_IQ4_NL, "IQ4_NL", 144}, {TYPE_IQ4_XS, "IQ4_XS", 136},
        {TYPE_MXFP4, "MXFP4", 136},
    };
    char buf[32];
    const char *why;
    int known = 0;
    for (uint32_t t = 0; t < 1000; t++) known += type_info(t) != NULL;
    assert_int_equal(known, sizeof all / sizeof all[0]);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        uint64_t bytes = 0;
        TensorType found;
        assert_true(type_bytes(all[i].type, 256, &bytes));
        assert_int_equal(bytes, all[i].bytes_of_256);
        assert_string_equal(type_name(all[i].type, buf, &why), all[i].name);
        assert_string_equal(why, "");
        assert_true(type_by_name(all[i].name, &found));
        assert_int_equal(found, all[i].type);
    }
    TensorType t;
    assert_true(type_by_name("q4_k", &t) && t == TYPE_Q4_K);
    assert_false(type_by_name("IQ2_XXS", &t));
    assert_false(type_by_name("", &t));
}

static void sizes_that_cannot_be(void **state) {
    (void)state;
    uint64_t bytes;
    assert_false(type_bytes(TYPE_Q4_K, 255, &bytes));
    assert_false(type_bytes(TYPE_F32, UINT64_MAX / 2, &bytes));
    assert_false(type_bytes(TYPE_Q8_0, UINT64_MAX / 32 * 32, &bytes));
    assert_false(type_bytes((TensorType)4, 256, &bytes));
    assert_true(type_bytes(TYPE_Q4_K, 0, &bytes) && bytes == 0);
}

static void names_of_types_that_are_not_supported(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        const char *name, *why;
    } all[] = {
        {4, "Q4_2 (removed)", "removed from GGUF in 2023"},
        {5, "Q4_3 (removed)", "removed from GGUF in 2023"},
        {16, "IQ2_XXS", "cannot decode"},
        {29, "IQ1_M", "cannot decode"},
        {26, "I32", "not for weights"},
        {31, "Q4_0_4_4 (removed)", "removed"},
        {38, "IQ4_NL_8_8 (removed)", "removed"},
        {34, "TQ1_0", "cannot decode"},
        {40, "NVFP4", "cannot decode"},
        {99, "Q8_2_X4", "ik_llama.cpp"},
        {139, "IQ4_K", "ik_llama.cpp"},
        {142, "type 142", "ik_llama.cpp"},
        {212, "type 212", "ik_llama.cpp"},
        {9999, "type 9999", "not a type"},
        {UINT32_MAX, "type 4294967295", "not a type"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char buf[32];
        const char *why;
        assert_null(type_info(all[i].type));
        assert_string_equal(type_name(all[i].type, buf, &why), all[i].name);
        if (!strstr(why, all[i].why)) fail_msg("type %u: %s", all[i].type, why);
        type_name(all[i].type, buf, NULL);
    }
}

static void packed_scales_of_k_blocks(void **state) {
    (void)state;
    // By the drawing in quants.h: every one of the 96 bits belongs to one number.
    for (int bit = 0; bit < 96; bit++) {
        uint8_t p[12] = {0};
        p[bit / 8] = (uint8_t)(1 << bit % 8);
        int total = 0, count = 0;
        for (int j = 0; j < 8; j++) {
            uint8_t s, m;
            k4_scale_min(p, j, &s, &m);
            total += s + m, count += (s != 0) + (m != 0);
        }
        assert_int_equal(count, 1);
        int row = bit / 32, in = bit % 8;
        int expected = row == 2 ? 1 << in % 4 : in < 6 ? 1 << in : 1 << (in - 2);
        assert_int_equal(total, expected);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_blocks_decode_to_the_bit),
        cmocka_unit_test(nothing_and_f32),
        cmocka_unit_test(every_half_round_trips),
        cmocka_unit_test(every_bfloat_round_trips),
        cmocka_unit_test(floats_round_to_nearest_even),
        cmocka_unit_test(scales_of_the_mx_formats),
        cmocka_unit_test(names_and_sizes),
        cmocka_unit_test(sizes_that_cannot_be),
        cmocka_unit_test(names_of_types_that_are_not_supported),
        cmocka_unit_test(packed_scales_of_k_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
