// The small kernels of GPUs and their products with weights, each against sums in double; on the
// emulator (tests/gpu), or on the device that the argument names.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "gpu_fixture.h"

static const TensorType types[] = {TYPE_F32,  TYPE_F16,  TYPE_BF16, TYPE_Q4_0, TYPE_Q4_1, TYPE_Q5_0,
                                   TYPE_Q5_1, TYPE_Q8_0, TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K};
enum { N_TYPES = sizeof types / sizeof *types, N_FLOAT_TYPES = 3 };
static const int row_counts[] = {1, 2, 7, 8, 9, 63, 64, 65};
enum { N_ROWS = sizeof row_counts / sizeof *row_counts };
static const int token_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 63, 64, 65};
enum { N_TOKENS = sizeof token_counts / sizeof *token_counts };

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
            const SwigluArgs a = {.n = (i32)n, .quantize = way == 1};
            const Mem mg = mem_new(g, 4 * n);
            const Mem m[] = {mg, mem_new(up, 4 * n), way == 2 ? mg : mem_new(NULL, 4 * n),
                             mem_new(NULL, n), mem_new(NULL, (n + 15) / 16 * 8)};
            launch(KERNEL_swiglu_rows, (int)(n + 1023) / 1024, 1, 1, &a, 5, m);
            float *y = mem_take(m[2]);
            for (size_t i = 0; i < n; i++) {
                const double want = silu(g[i]) * up[i];
                // Past 88 exp(-g) is infinite, and the tiny result 0.
                near(i, y[i], want, 8 * U * fabs(want) + 1e-36);
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

// --- weights -------------------------------------------------------------------------------------

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

static BlockParts parts_of(TensorType type) {
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

static void put_half(uint8_t *at, double x) {
    const uint16_t h = f32_to_f16((float)x);
    memcpy(at, &h, 2);
}

// Any codes; sound scales, a few of them zero, negative or subnormal.
static void random_blocks(Rng *r, TensorType type, uint8_t *raw, size_t bytes) {
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
static double *magnitudes(TensorType type, const uint8_t *raw, size_t bytes, const float *w,
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
static Mem upload(const Tensor *t, WeightArgs *args) {
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

static Matrix matrix_of(TensorType type, const uint8_t *raw, int rows, int n_in) {
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

static Matrix random_matrix(Rng *r, TensorType type, int rows, int n_in) {
    uint64_t bytes;
    assert_true(type_bytes(type, (u64)rows * (u64)n_in, &bytes));
    uint8_t *raw = room(bytes);
    random_blocks(r, type, raw, bytes);
    const Matrix m = matrix_of(type, raw, rows, n_in);
    free(raw);
    return m;
}

static void matrix_free(Matrix m) {
    mem_free(m.mem);
    free(m.w);
    free(m.mag);
}

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

// --- products ------------------------------------------------------------------------------------

typedef struct {
    int n, n_in;
    float *x;
    double *xq;  // x as the product sees it
    Mem x_mem, codes, scales;
} Input;

static Input input_of(float *x, int n, int n_in, bool coded) {
    const size_t all = (size_t)n * (size_t)n_in;
    Input in = {.n = n, .n_in = n_in, .x = x, .xq = room(all * sizeof *in.xq)};
    for (size_t i = 0; i < all; i++) in.xq[i] = (double)x[i];
    if (coded) {  // the floats are not for these kernels to read
        Codes c = codes_of(x, all);
        for (size_t i = 0; i < all; i++) {
            in.xq[i] = (double)bits_float(c.scales[i / 16 * 2]) * c.codes[i];
        }
        in.codes = mem_new(c.codes, all);
        in.scales = mem_new(c.scales, all / 2);
        in.x_mem = mem_new(NULL, 256);
        codes_free(c);
    } else {
        in.codes = mem_new(NULL, 256);
        in.scales = mem_new(NULL, 256);
        in.x_mem = mem_new(x, 4 * all);
    }
    return in;
}

static void input_free(Input in) {
    mem_free(in.x_mem);
    mem_free(in.codes);
    mem_free(in.scales);
    free(in.xq);
    free(in.x);
}

static bool is_tiles(KernelId id) {
    return id == KERNEL_matmul_blocks || id == KERNEL_matmul_floats;
}

// Rows of a group, and the groups that so many tokens take.
static int group_rows(KernelId id, int lanes) {
    return is_tiles(id) ? TILE_ROWS : 256 / lanes;
}

static int group_columns(KernelId id, int n) {
    return is_tiles(id) ? (n + TILE_TOKENS - 1) / TILE_TOKENS : 1;
}

// What the weights are multiplied with is exact or has one rounding; a product has up to six, then
// comes one for each addition: inputs / 8 in the tiles, 32 items of a row otherwise, of single
// floats each. Decoded weights were rounded three times.
static double bound_of(const Matrix *w, int n_in) {
    const bool floats = type_info(w->type)->block_len == 1;
    return U * (floats ? n_in + 40 : n_in / 8 + 50);
}

static void check_product(const Matrix *w, const Input *in, const float *bias,
                          const float *residual, const float *y) {
    for (int t = 0; t < in->n; t++) {
        for (int r = 0; r < w->rows; r++) {
            const size_t at = (size_t)t * (size_t)w->rows + (size_t)r;
            const double *x = in->xq + (size_t)t * (size_t)in->n_in;
            const float *row = w->w + (size_t)r * (size_t)in->n_in;
            const double *mag = w->mag + (size_t)r * (size_t)in->n_in;
            double sum = 0, size = 0;
            for (int i = 0; i < in->n_in; i++) {
                sum += x[i] * (double)row[i];
                size += fabs(x[i]) * mag[i];
            }
            double more = 0;
            if (bias) sum += (double)bias[r], more += fabs(bias[r]);
            if (residual) sum += (double)residual[at], more += fabs(residual[at]);
            if (isnan(sum)) {
                if (!isnan(y[at])) fail_msg("%s: token %d, row %d is not NaN", gpu.what, t, r);
                continue;
            }
            near(at, y[at], sum, bound_of(w, in->n_in) * size + 3 * U * (more + fabs(sum)));
        }
    }
}

// One launch: n_outs matrices of one input. residual: 1: of the first, 2: y itself is it.
static void check_matmul(Rng *r, KernelId id, const Input *in, const Matrix *w, int n_outs,
                         int lanes, int has_bias, int residual) {
    const int size = group_rows(id, lanes);
    MatmulArgs a = {.first_group = {0, 1 << 30, 1 << 30},
                    .n_in = in->n_in,
                    .n_tokens = in->n,
                    .lanes = lanes,
                    .has_bias = has_bias,
                    .has_residual = residual != 0};
    const Mem nothing = mem_new(NULL, 256);
    Mem m[13] = {in->codes, in->scales, in->x_mem};
    float *bias[MAX_OUTS] = {0}, *more = NULL;
    for (int i = 3; i < 13; i++) m[i] = nothing;
    int groups = 0;
    for (int i = 0; i < n_outs; i++) {
        const size_t rows = (size_t)w[i].rows;
        a.out[i] = w[i].args;
        a.first_group[i] = groups;
        groups += (w[i].rows + size - 1) / size;
        m[3 + i] = w[i].mem;
        if (has_bias >> i & 1) {
            bias[i] = random_floats(r, rows, 1);
            m[6 + i] = mem_settled(bias[i], 4 * rows);
        }
        m[9 + i] = mem_new(NULL, 4 * rows * (size_t)in->n);
    }
    if (residual) {
        const size_t n = (size_t)w->rows * (size_t)in->n;
        Error err = {0};
        more = random_floats(r, n, 1);
        m[12] = residual == 2 ? m[9] : mem_new(more, 4 * n);
        if (residual == 2)
            gpu_check(gpu.ops->write(gpu.device, m[9].b, 0, more, 4 * n, &err), &err);
    }
    launch(id, groups, group_columns(id, in->n), 1, &a, 13, m);
    for (int i = 0; i < n_outs; i++) {
        float *y = mem_take(m[9 + i]);
        check_product(&w[i], in, bias[i], i == 0 ? more : NULL, y);
        free(y);
        if (bias[i]) mem_free(m[6 + i]);
        free(bias[i]);
    }
    if (residual == 1) mem_free(m[12]);
    mem_free(nothing);
    free(more);
}

// One matrix, without bias and residual. The caller frees.
static float *product(KernelId id, const Matrix *w, const Input *in, int lanes) {
    const int size = group_rows(id, lanes);
    const Mem none = mem_new(NULL, 256), y = mem_new(NULL, 4 * (size_t)(w->rows * in->n));
    const MatmulArgs a = {.out = {w->args},
                          .first_group = {0, 1 << 30, 1 << 30},
                          .n_in = in->n_in,
                          .n_tokens = in->n,
                          .lanes = lanes};
    const Mem m[13] = {in->codes, in->scales, in->x_mem, w->mem, none, none, none,
                       none,      none,       y,         none,   none, none};
    launch(id, (w->rows + size - 1) / size, group_columns(id, in->n), 1, &a, 13, m);
    mem_free(none);
    return mem_take(y);
}

// A width that the type can have, of many.
static int width_of(TensorType type, int i) {
    static const int floats[] = {32, 1, 288, 7, 256, 24, 64, 33, 520, 2057};
    static const int blocks[] = {32, 64, 96, 160, 256, 288, 512, 128, 2080, 352};
    static const int supers[] = {256, 512, 768, 1280, 256, 512, 256, 2304, 256, 768};
    const u32 len = type_info(type)->block_len;
    return (len == 1 ? floats : len == 32 ? blocks : supers)[i % 10];
}

static void check_one(Rng *r, KernelId id, TensorType type, int rows, int n_in, int n, int way) {
    if (gpu_left_out()) return;
    gpu_case("%s: %s, %d rows x %d, %d tokens, way %d", gpu.entry[id].name, type_info(type)->name,
             rows, n_in, n, way);
    const bool coded = type_info(type)->block_len > 1;
    const Matrix w = random_matrix(r, type, rows, n_in);
    const Input in = input_of(random_floats(r, (size_t)n * (size_t)n_in, 1.5), n, n_in, coded);
    check_matmul(r, id, &in, &w, 1, 32 << way % 3, way & 1, way / 2 % 3);
    input_free(in);
    matrix_free(w);
}

// Every type with every number of rows and of tokens.
static void test_matvec(void **state) {
    (void)state;
    static const KernelId kernels[4] = {KERNEL_matvec_1, KERNEL_matvec_2, KERNEL_matvec_4,
                                        KERNEL_matvec_8};
    Rng r = {7};
    int way = 0;
    for (int t = 0; t < N_TYPES; t++) {
        for (int k = 0; k < 4; k++) {
            for (int n = k ? (1 << k) / 2 : 1; n <= 1 << k; n++) {
                for (int i = 0; i < N_ROWS; i++, way++) {
                    check_one(&r, kernels[k], types[t], row_counts[i], width_of(types[t], way), n,
                              way);
                }
            }
        }
        for (int i = 0; i < N_ROWS; i++, way += 7) {
            check_one(&r, KERNEL_matvec_ahead, types[t], row_counts[i], width_of(types[t], way), 1,
                      way);
        }
    }
}

// Every number of rows with every number of tokens, the types in turn.
static void test_matmul_blocks(void **state) {
    (void)state;
    Rng r = {8};
    int way = 0;
    for (int i = 0; i < N_ROWS; i++) {
        for (int n = 0; n < N_TOKENS; n++, way++) {
            const TensorType type = types[N_FLOAT_TYPES + (i + n) % (N_TYPES - N_FLOAT_TYPES)];
            check_one(&r, KERNEL_matmul_blocks, type, row_counts[i], width_of(type, way),
                      token_counts[n], way);
        }
    }
    for (int t = N_FLOAT_TYPES; t < N_TYPES; t++) {  // every type with every width
        for (int i = 0; i < 10; i++, way++) {
            check_one(&r, KERNEL_matmul_blocks, types[t], 9 + t, width_of(types[t], i), 9 + i, way);
        }
    }
}

static void test_matmul_floats(void **state) {
    (void)state;
    Rng r = {9};
    int way = 0;
    for (int i = 0; i < N_ROWS; i++) {
        for (int n = 0; n < N_TOKENS; n++, way++) {
            const TensorType type = types[(i + n) % N_FLOAT_TYPES];
            check_one(&r, KERNEL_matmul_floats, type, row_counts[i], width_of(type, way),
                      token_counts[n], way);
        }
    }
}

// Two and three matrices of different types and heights in one launch.
static void test_several_outputs(void **state) {
    (void)state;
    static const KernelId kernels[6] = {KERNEL_matvec_ahead, KERNEL_matvec_1, KERNEL_matvec_2,
                                        KERNEL_matvec_4, KERNEL_matvec_8};
    static const int counts[6] = {1, 1, 2, 3, 8, 66};
    Rng r = {10};
    for (int blocks = 0; blocks < 2; blocks++) {
        for (int k = 0; k < 6; k++) {
            for (int way = 0; way < 16; way++) {
                const KernelId id = k < 5    ? kernels[k]
                                    : blocks ? KERNEL_matmul_blocks
                                             : KERNEL_matmul_floats;
                const int n = counts[k], n_in = blocks ? 256 + 256 * (way & 1) : 40 + 13 * way;
                const int n_outs = 2 + (way >> 1 & 1);
                gpu_case("%s: %d outputs, way %d", gpu.entry[id].name, n_outs, way);
                Matrix w[MAX_OUTS];
                for (int i = 0; i < n_outs; i++) {
                    const int first = blocks ? N_FLOAT_TYPES : 0;
                    const int some = blocks ? N_TYPES - N_FLOAT_TYPES : N_FLOAT_TYPES;
                    w[i] = random_matrix(&r, types[first + (way * 3 + i * 5) % some],
                                         row_counts[(way + 3 * i) % N_ROWS], n_in);
                }
                const Input in =
                    input_of(random_floats(&r, (size_t)n * (size_t)n_in, 1), n, n_in, blocks);
                check_matmul(&r, id, &in, w, n_outs, 32 << way % 3, way & 7, 0);
                for (int i = 0; i < n_outs; i++) matrix_free(w[i]);
                input_free(in);
            }
        }
    }
}

// Rows so long that the sums of their segments do not fit in local memory at once.
static void test_long_rows(void **state) {
    (void)state;
    static const TensorType some[4] = {TYPE_F16, TYPE_F32, TYPE_Q8_0, TYPE_Q6_K};
    static const int widths[4] = {16390, 16648, 16672, 16640};
    Rng r = {13};
    for (int i = 0; i < 4; i++) {
        for (int way = 0; way < 3; way++) {  // 32, 64 and 128 lanes
            check_one(&r, KERNEL_matvec_ahead, some[i], 3, widths[i], 1, way);
            check_one(&r, KERNEL_matvec_1, some[i], 9, widths[i], 1, way);
            check_one(&r, KERNEL_matvec_2, some[i], 3, widths[i], 2, way);
            check_one(&r, KERNEL_matvec_4, some[i], 3, widths[i], 3, way);
            check_one(&r, KERNEL_matvec_8, some[i], 3, widths[i], 7, way);
        }
        check_one(&r, i < 2 ? KERNEL_matmul_floats : KERNEL_matmul_blocks, some[i], 3, widths[i], 3,
                  0);
    }
}

// A token's results are the same bits by every kernel, with any others beside it.
static void test_one_order_of_sums(void **state) {
    (void)state;
    static const KernelId kernels[4] = {KERNEL_matvec_1, KERNEL_matvec_2, KERNEL_matvec_4,
                                        KERNEL_matvec_8};
    enum { N = 67, ROWS = 67 };
    Rng r = {14};
    for (int t = 0; t < N_TYPES; t++) {
        for (int width = 0; width < 4; width++) {
            const bool coded = t >= N_FLOAT_TYPES;
            const int n_in = width_of(types[t], 2 * width + 2);
            const KernelId tiles = coded ? KERNEL_matmul_blocks : KERNEL_matmul_floats;
            gpu_case("%s, %d wide, the order of sums", type_info(types[t])->name, n_in);
            const Matrix w = random_matrix(&r, types[t], ROWS, n_in);
            float *x = random_floats(&r, (size_t)(N * n_in), 1);
            const Input all = input_of(x, N, n_in, coded);
            float *want = product(tiles, &w, &all, 0);
            for (int k = 0, from = 0; from < N; from += 1 << k, k = (k + 1) % 4) {
                const int n = N - from < 1 << k ? N - from : (1 << k) - (from % 3 == 1 && k > 1);
                float *part = room(4 * (size_t)(n * n_in));
                memcpy(part, x + from * n_in, 4 * (size_t)(n * n_in));
                const Input in = input_of(part, n, n_in, coded);
                float *y = product(kernels[k], &w, &in, 32 << from % 3);
                same_floats(gpu.what, y, want + from * ROWS, (size_t)(n * ROWS));
                if (n == 1) {
                    free(y);
                    y = product(KERNEL_matvec_ahead, &w, &in, 32 << from % 3);
                    same_floats(gpu.what, y, want + from * ROWS, ROWS);
                }
                input_free(in);
                free(y);
            }
            free(want);
            input_free(all);
            matrix_free(w);
        }
    }
}

// Codes at their ends, positive and negative: sums of 16 bits would overflow, and the zero point
// of the middle code must come off.
static void test_extreme_codes(void **state) {
    (void)state;
    Rng r = {11};
    for (int t = N_FLOAT_TYPES; t < N_TYPES; t++) {
        for (int way = 0; way < 6; way++) {
            const KernelId id = way < 3 ? KERNEL_matvec_1 : KERNEL_matmul_blocks;
            const TensorType type = types[t];
            gpu_case("%s: %s with extreme codes, way %d", gpu.entry[id].name, type_info(type)->name,
                     way);
            uint8_t raw[2 * 176 * 16];
            uint64_t bytes;
            assert_true(type_bytes(type, 2 * 512, &bytes));
            assert_true(bytes <= sizeof raw);
            const BlockParts p = parts_of(type);
            memset(raw, (const int[]){0, 0xff, 0x80}[way % 3], bytes);
            for (uint8_t *b = raw; b < raw + bytes; b += type_info(type)->block_bytes) {
                put_half(b + p.scale[0], 0.5);
                if (p.scale[1] >= 0) put_half(b + p.scale[1], 0.25);
            }
            const Matrix w = matrix_of(type, raw, 2, 512);
            float *x = room(3 * 512 * sizeof *x);
            for (int i = 0; i < 3 * 512; i++)
                x[i] = i < 512 ? 127 : i < 1024 ? -127 : (float)(i % 255) - 127;
            const Input in = input_of(x, way < 3 ? 1 : 3, 512, true);
            check_matmul(&r, id, &in, &w, 1, 32 << way % 3, 0, 0);
            input_free(in);
            matrix_free(w);
        }
    }
}

// A NaN or an infinity in one token shows in all rows of that token and in no other.
static void test_what_is_not_finite_shows(void **state) {
    (void)state;
    static const KernelId kernels[3] = {KERNEL_matvec_4, KERNEL_matvec_8, KERNEL_matmul_blocks};
    static const int counts[3] = {3, 7, 9};
    Rng r = {12};
    for (int t = 0; t < N_TYPES; t++) {
        const bool coded = t >= N_FLOAT_TYPES;
        for (int k = 0; k < 3; k++) {
            const KernelId id = k == 2 && !coded ? KERNEL_matmul_floats : kernels[k];
            for (int way = 0; way < 2; way++) {
                gpu_case("%s: %s, not finite, way %d", gpu.entry[id].name,
                         type_info(types[t])->name, way);
                const int n = counts[k], n_in = 512;
                const Matrix w = random_matrix(&r, types[t], 9, n_in);
                float *x = random_floats(&r, (size_t)(n * n_in), 1);
                x[n_in + (way ? 511 : 40)] = way ? -HUGE_VALF : NAN;
                const Input in = input_of(x, n, n_in, coded);
                // An infinity times a weight is infinite or, of a weight of 0, NaN: never finite.
                float *y = product(id, &w, &in, 64 >> way);
                for (int i = 0; i < 9 * n; i++) {
                    if (!!isfinite(y[i]) != (i / 9 != 1)) {
                        fail_msg("%s: token %d, row %d is %g", gpu.what, i / 9, i % 9,
                                 (double)y[i]);
                    }
                }
                input_free(in);
                matrix_free(w);
                free(y);
            }
        }
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
        cmocka_unit_test(test_matvec),
        cmocka_unit_test(test_matmul_blocks),
        cmocka_unit_test(test_matmul_floats),
        cmocka_unit_test(test_several_outputs),
        cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_one_order_of_sums),
        cmocka_unit_test(test_extreme_codes),
        cmocka_unit_test(test_what_is_not_finite_shows),
    };
    if (!gpu_named(argc, argv)) return 2;
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}
