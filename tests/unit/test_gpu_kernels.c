// The kernels of GPUs that make codes, work row by row or look rows up, each against sums in double;
// on the emulator (tests/gpu), or on the device that the argument names.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "gpu_matrix.h"

// --- codes ---------------------------------------------------------------------------------------

static void test_quantize_rows(void **state) {
    (void)state;
    static const int sizes[] = {32, 64, 96, 224, 256, 992, 1024, 1056, 2080};
    Rng r = {1};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t n = (size_t)sizes[s];
        gpu_case("quantize_rows of %zu", n);
        float *x = random_floats(&r, n, 3);
        for (size_t i = 0; i < n; i += 17) x[i] *= 100;
        const Mem m[] = {mem_new(x, 4 * n), mem_new(NULL, n), mem_new(NULL, n / 2)};
        const CountArgs a = {.n = (i32)n};
        launch(KERNEL_quantize_rows, (int)(n + 1023) / 1024, 1, 1, &a, 3, m);
        same_codes(m[1], m[2], x, n);
        mem_free(m[0]);
        free(x);
    }
}

// Blocks whose scale is special: zeros, the limit of 2^-100, ties, NaN, infinities, the largest.
static void test_quantize_rows_of_odd_blocks(void **state) {
    (void)state;
    enum { BLOCKS = 12, N = 32 * BLOCKS };
    float x[N] = {0};
    for (int i = 0; i < 32; i++) {
        x[32 + i] = 0x1p-100f * (float)(i == 7);
        x[64 + i] = 0x1.fffffep-101f;
        x[96 + i] = (float)i - 0.5f, x[96] = 127;  // ties: 0.5, 1.5, ...
        x[128 + i] = i == 31 ? NAN : 1;
        x[160 + i] = i == 0 ? HUGE_VALF : 1;
        x[192 + i] = i == 16 ? -HUGE_VALF : -1;
        x[224 + i] = i % 2 ? 0x1.fffffep127f : -0x1.fffffep127f;
        x[256 + i] = i == 9 ? bits_float(0xffffffffu) : 0;
        x[288 + i] = -0.0f;
        x[320 + i] = 0x1p-149f * (float)i;
        x[352 + i] = i == 15 ? -254 : (float)(2 * i);
    }
    gpu_case("quantize_rows of odd blocks");
    const Mem m[] = {mem_new(x, sizeof x), mem_new(NULL, N), mem_new(NULL, N / 2)};
    const CountArgs a = {.n = N};
    launch(KERNEL_quantize_rows, (N + 1023) / 1024, 1, 1, &a, 3, m);
    same_codes(m[1], m[2], x, N);
    mem_free(m[0]);
}

// --- row by row ----------------------------------------------------------------------------------

// way 1: codes too, 2: in place. The caller frees.
static float *norm(const float *x, const float *w, int rows, int width, int way) {
    const size_t n = (size_t)rows * (size_t)width;
    gpu_case("rms_norm of %d x %d, way %d", rows, width, way);
    const NormArgs a = {.eps = 1e-5f, .width = width, .quantize = way == 1};
    const Mem mx = mem_new(x, 4 * n), mw = mem_settled(w, 4 * (size_t)width);
    const Mem my = way == 2 ? mx : mem_new(NULL, 4 * n);
    const Mem codes = mem_new(NULL, way == 1 ? n : 1), scales = mem_new(NULL, way == 1 ? n / 2 : 8);
    const Mem m[] = {mx, mw, my, codes, scales};
    launch(KERNEL_rms_norm, rows, 1, 1, &a, 5, m);
    float *y = mem_take(my);
    if (way == 1) {
        same_codes(codes, scales, y, n);
    } else {
        mem_free(codes);
        mem_free(scales);
    }
    if (way != 2) mem_free(mx);
    mem_free(mw);
    return y;
}

static void check_norm(Rng *r, int rows, int width) {
    const size_t n = (size_t)rows * (size_t)width;
    float *x = random_floats(r, n, 2), *w = random_floats(r, (size_t)width, 1);
    float *y = norm(x, w, rows, width, 0);
    // Each of 256 items adds width / 256 squares; 5 sums of these and 8 more follow.
    const double rel = U * (0.5 * (width / 256.0 + 20) + 6);
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        const float *row = x + i / (size_t)width * (size_t)width;
        for (int k = 0; k < width; k++) sum += (double)row[k] * row[k];
        const double want = x[i] / sqrt(sum / width + (double)1e-5f) * w[i % (size_t)width];
        near(i, y[i], want, rel * fabs(want));
    }
    for (int way = 1; way <= 2; way++) {
        if (way == 1 && width % 32 != 0) continue;
        float *same = norm(x, w, rows, width, way);
        same_floats(gpu.what, same, y, n);
        free(same);
    }
    free(x);
    free(w);
    free(y);
}

static void test_rms_norm(void **state) {
    (void)state;
    static const int widths[] = {1,   2,   24,  31,  32,  64,   96,   255,
                                 256, 257, 288, 320, 513, 1024, 1056, 2048};
    Rng r = {2};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        for (int rows = 1; rows <= 3; rows++) check_norm(&r, rows, widths[i]);
    }
}

static void test_rms_norm_of_nan_and_zeros(void **state) {
    (void)state;
    enum { WIDTH = 96 };
    float x[3 * WIDTH], w[WIDTH];
    for (int i = 0; i < 3 * WIDTH; i++) x[i] = i < WIDTH ? 0 : 1;
    for (int i = 0; i < WIDTH; i++) w[i] = 2;
    x[WIDTH + 95] = NAN;
    gpu_case("rms_norm of NaN");
    const NormArgs a = {.eps = 1e-6f, .width = WIDTH, .quantize = 1};
    const Mem m[] = {mem_new(x, sizeof x), mem_new(w, sizeof w), mem_new(NULL, sizeof x),
                     mem_new(NULL, 3 * WIDTH), mem_new(NULL, 3 * WIDTH / 2)};
    launch(KERNEL_rms_norm, 3, 1, 1, &a, 5, m);
    float *y = mem_take(m[2]);
    for (int i = 0; i < WIDTH; i++) {
        assert_true(y[i] == 0);
        assert_true(isnan(y[WIDTH + i]));
        assert_true(fabsf(y[2 * WIDTH + i] - 2) < 1e-5f);
    }
    same_codes(m[3], m[4], y, 3 * WIDTH);
    mem_free(m[0]);
    mem_free(m[1]);
    free(y);
}

static double silu(double g) {
    return g / (1 + exp(-g));
}

static void test_swiglu_rows(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 31, 32, 255, 256, 257, 320, 1024, 1056};
    Rng r = {3};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t n = (size_t)sizes[s];
        for (int way = 0; way < 3; way++) {  // 1: codes too, 2: in place
            if (way == 1 && n % 32 != 0) continue;
            gpu_case("swiglu_rows of %zu, way %d", n, way);
            float *g = random_floats(&r, n, 4), *up = random_floats(&r, n, 2);
            if (n > 5) g[1] = 89, g[2] = -89, g[3] = 300, g[4] = -300, g[5] = 0;
            for (size_t i = 6; n > 1000 && i < n; i++) g[i] = -88.6f + 0.171f * (float)i;
            const SwigluArgs a = {.n = (i32)n, .quantize = way == 1};
            const Mem mg = mem_new(g, 4 * n);
            const Mem m[] = {mg, mem_new(up, 4 * n), way == 2 ? mg : mem_new(NULL, 4 * n),
                             mem_new(NULL, n), mem_new(NULL, (n + 15) / 16 * 8)};
            launch(KERNEL_swiglu_rows, (int)(n + 1023) / 1024, 1, 1, &a, 5, m);
            float *y = mem_take(m[2]);
            for (size_t i = 0; i < n; i++) {
                const double want = silu(g[i]) * up[i];
                // exp(-g) is within 2 units up to 88.7 and infinite past that: the tiny result is 0.
                near(i, y[i], want, 8 * U * fabs(want) + 4e-39 * fabs((double)g[i] * up[i]));
            }
            if (way == 1) {
                same_codes(m[3], m[4], y, n);
            } else {
                mem_free(m[3]);
                mem_free(m[4]);
            }
            mem_free(m[1]);
            if (way != 2) mem_free(mg);
            free(g);
            free(up);
            free(y);
        }
    }
}

static void test_swiglu_rows_shows_what_is_not_finite(void **state) {
    (void)state;
    float g[32] = {0}, up[32];
    for (int i = 0; i < 32; i++) up[i] = 1;
    g[3] = NAN, g[4] = HUGE_VALF, up[5] = NAN, g[6] = 1, up[6] = -HUGE_VALF;
    gpu_case("swiglu_rows of NaN");
    const SwigluArgs a = {.n = 32, .quantize = 1};
    const Mem m[] = {mem_new(g, sizeof g), mem_new(up, sizeof up), mem_new(NULL, sizeof g),
                     mem_new(NULL, 32), mem_new(NULL, 16)};
    launch(KERNEL_swiglu_rows, 1, 1, 1, &a, 5, m);
    float *y = mem_take(m[2]);
    for (int i = 0; i < 32; i++) {
        assert_true(isnan(y[i]) == (i == 3 || i == 5));
        assert_true(!!isinf(y[i]) == (i == 4 || i == 6));
    }
    assert_true(y[4] > 0 && y[6] < 0);
    same_codes(m[3], m[4], y, 32);
    mem_free(m[0]);
    mem_free(m[1]);
    free(y);
}

static void test_add_rows(void **state) {
    (void)state;
    static const int sizes[] = {1, 31, 255, 256, 257, 700};
    Rng r = {4};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t n = (size_t)sizes[s];
        gpu_case("add_rows of %zu", n);
        float *x = random_floats(&r, n, 1), *y = random_floats(&r, n, 1);
        const CountArgs a = {.n = (i32)n};
        const Mem m[] = {mem_new(x, 4 * n), mem_new(y, 4 * n)};
        launch(KERNEL_add_rows, (int)(n + 255) / 256, 1, 1, &a, 2, m);
        float *got = mem_take(m[0]);
        for (size_t i = 0; i < n; i++) x[i] += y[i];
        same_floats(gpu.what, got, x, n);
        mem_free(m[1]);
        free(x);
        free(y);
        free(got);
    }
}

static void test_select_rows(void **state) {
    (void)state;
    static const int widths[] = {1, 24, 256, 257, 600};
    enum { ROWS = 9, N_OUT = 5, ROW_AT = 30 };
    static const i32 want[N_OUT] = {8, 0, 3, 3, 7};
    Rng r = {5};
    for (size_t s = 0; s < sizeof widths / sizeof *widths; s++) {
        const size_t width = (size_t)widths[s];
        for (int from = 0; from < N_OUT; from += 2) {
            gpu_case("select_rows of %zu from %d", width, from);
            i32 step[ROW_AT + N_OUT];
            memset(step, 0xff, sizeof step);
            memcpy(step + ROW_AT, want, sizeof want);
            float *x = random_floats(&r, ROWS * width, 1);
            const int n = N_OUT - from;
            const SelectArgs a = {.row_at = ROW_AT + from, .width = (i32)width};
            const Mem m[] = {mem_new(x, 4 * ROWS * width), mem_settled(step, sizeof step),
                             mem_new(NULL, 4 * (size_t)n * width)};
            launch(KERNEL_select_rows, (int)(width + 255) / 256, n, 1, &a, 3, m);
            float *y = mem_take(m[2]);
            for (int i = 0; i < n; i++) {
                same_floats(gpu.what, y + (size_t)i * width, x + (size_t)want[from + i] * width,
                            width);
            }
            mem_free(m[0]);
            mem_free(m[1]);
            free(x);
            free(y);
        }
    }
}

// --- rows of weights ---------------------------------------------------------------------------

static void check_embed(const Matrix *w, const i32 *tokens, int n) {
    i32 step[80];
    memset(step, 0xff, sizeof step);
    memcpy(step, tokens, (size_t)n * sizeof *tokens);
    const EmbedArgs a = {.table = w->args, .dim = w->n_in};
    const Mem m[] = {w->mem, mem_settled(step, sizeof step),
                     mem_new(NULL, 4 * (size_t)n * (size_t)w->n_in)};
    launch(KERNEL_embed_rows, n, 1, 1, &a, 3, m);
    float *y = mem_take(m[2]);
    for (int t = 0; t < n; t++) {
        const float *got = y + (size_t)t * (size_t)w->n_in;
        const float *want = w->w + (size_t)tokens[t] * (size_t)w->n_in;
        for (int i = 0; i < w->n_in; i++) {
            // A weight of 0 may have either sign.
            if (float_bits(got[i]) == float_bits(want[i]) || (got[i] == 0 && want[i] == 0))
                continue;
            if (isnan(got[i]) && isnan(want[i])) continue;
            fail_msg("%s: token %d, element %d is %.9g, expected %.9g", gpu.what, t, i,
                     (double)got[i], (double)want[i]);
        }
    }
    mem_free(m[1]);
    free(y);
}

static void test_embed_rows(void **state) {
    (void)state;
    static const int blocks[] = {1, 2, 3, 9};  // of 256
    Rng r = {6};
    for (int t = 0; t < N_TYPES; t++) {
        const int len = (int)type_info(types[t])->block_len;
        for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
            const int dim = len == 256  ? 256 * blocks[i]
                            : len == 32 ? 32 * blocks[i]
                                        : 20 * blocks[i];
            const int long_dim = len == 256 ? dim : dim + 2080;  // more units than items
            for (int way = 0; way < 2; way++) {
                const int n_in = way ? long_dim : dim;
                gpu_case("embed_rows of %s, %d wide", type_info(types[t])->name, n_in);
                const Matrix w = random_matrix(&r, types[t], 11, n_in);
                check_embed(&w, (const i32[]){10, 0, 3, 3, 9}, 5);
                check_embed(&w, (const i32[]){1}, 1);
                matrix_free(w);
            }
        }
    }
}

// Each half and each bfloat16 that there is.
static void test_all_16_bit_floats(void **state) {
    (void)state;
    static uint16_t all[65536];
    i32 tokens[64];
    for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    for (int i = 0; i < 64; i++) tokens[i] = i;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        gpu_case("all 16-bit floats");
        const Matrix w = matrix_of(bf16 ? TYPE_BF16 : TYPE_F16, (const uint8_t *)all, 64, 1024);
        check_embed(&w, tokens, 64);
        matrix_free(w);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantize_rows),
        cmocka_unit_test(test_quantize_rows_of_odd_blocks),
        cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_rms_norm_of_nan_and_zeros),
        cmocka_unit_test(test_swiglu_rows),
        cmocka_unit_test(test_swiglu_rows_shows_what_is_not_finite),
        cmocka_unit_test(test_add_rows),
        cmocka_unit_test(test_select_rows),
        cmocka_unit_test(test_embed_rows),
        cmocka_unit_test(test_all_16_bit_floats),
    };
    if (!gpu_named(argc, argv)) return 2;
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}
