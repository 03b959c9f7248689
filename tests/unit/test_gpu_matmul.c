// The products of GPUs with weights of every type, against sums in double and against each other, bit
// for bit; on the emulator (tests/gpu), or on the device that the argument names.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "gpu_matrix.h"

static const int row_counts[] = {1, 2, 7, 8, 9, 63, 64, 65};
enum { N_ROWS = sizeof row_counts / sizeof *row_counts };
static const int token_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 63, 64, 65};
enum { N_TOKENS = sizeof token_counts / sizeof *token_counts };

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
        cmocka_unit_test(test_matvec),        cmocka_unit_test(test_matmul_blocks),
        cmocka_unit_test(test_matmul_floats), cmocka_unit_test(test_several_outputs),
        cmocka_unit_test(test_long_rows),     cmocka_unit_test(test_one_order_of_sums),
        cmocka_unit_test(test_extreme_codes), cmocka_unit_test(test_what_is_not_finite_shows),
    };
    if (!gpu_named(argc, argv)) return 2;
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}
