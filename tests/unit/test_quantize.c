// Encoding: error against llama.cpp's files, hostile weights, determinism; converting whole files.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "formats/requantize.h"

static const char f16_path[] = "tests/golden/models/demo-f16.gguf";

static void *alloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    return p;
}

static Gguf *open_model(const char *path) {
    Gguf *g;
    Error err;
    if (gguf_open(path, &g, &err)) fail_msg("%s", err.text);
    return g;
}

static double rms_error(const float *a, const float *b, size_t n) {
    double e = 0;
    for (size_t i = 0; i < n; i++) e += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(e / (double)n);
}

static const TensorType blocks[] = {TYPE_Q4_0, TYPE_Q4_1, TYPE_Q5_0,  TYPE_Q5_1,
                                    TYPE_Q8_0, TYPE_Q2_K, TYPE_Q3_K,  TYPE_Q4_K,
                                    TYPE_Q5_K, TYPE_Q6_K, TYPE_IQ4_NL};
enum { N_BLOCKS = sizeof blocks / sizeof blocks[0] };

// Encodes and decodes 256 weights.
static void round_trip(TensorType type, const float x[256], float y[256]) {
    uint8_t b[1024];
    uint64_t bytes;
    assert_true(type_bytes(type, 256, &bytes) && bytes <= sizeof b);
    memset(b, 0xa5, sizeof b);
    quantize(type, x, b, 256);
    for (size_t i = bytes; i < sizeof b; i++) assert_int_equal(b[i], 0xa5);
    dequantize(type, b, y, 256);
}

// A fixed sequence, roughly normal.
static float noise(uint32_t *state) {
    int sum = 0;
    for (int i = 0; i < 4; i++) {
        *state = *state * 1664525u + 1013904223u;
        sum += (int)(*state >> 16) - 32768;
    }
    return (float)sum / 65536.0f;
}

// ---- error ------------------------------------------------------------------------------------

static void no_worse_than_llama_cpp(void **state) {
    (void)state;
    static const char *const paths[] = {"models/demo.gguf", "tests/golden/models/demo-Q8_0.gguf"};
    Gguf *full = open_model(f16_path);
    for (int p = 0; p < 2; p++) {
        Gguf *theirs = open_model(paths[p]);
        for (size_t i = 0; i < gguf_n_tensors(theirs); i++) {
            const Tensor *t = gguf_tensor_at(theirs, i), *s = gguf_tensor(full, t->name);
            assert_non_null(s);
            size_t n = t->dims[0] * t->dims[1];
            float *x = alloc(4 * n), *y = alloc(4 * n);
            uint8_t *b = alloc(t->bytes);
            dequantize(s->type, s->data, x, n);
            dequantize(t->type, t->data, y, n);
            double reference = rms_error(x, y, n);
            quantize(t->type, x, b, n);
            dequantize(t->type, b, y, n);
            double ours = rms_error(x, y, n);
            if (ours > reference) {
                fail_msg("%s %s: error %g, llama.cpp's is %g", paths[p], t->name, ours, reference);
            }
            free(x), free(y), free(b);
        }
        gguf_close(theirs);
    }
    gguf_close(full);
}

// What a trained tensor loses in each type; a search that got worse shows.
static void errors_by_type(void **state) {
    (void)state;
    static const double most[N_BLOCKS] = {0.0862, 0.0720, 0.0428, 0.0349, 0.0053, 0.2680,
                                          0.1510, 0.0731, 0.0364, 0.0178, 0.0766};
    Gguf *g = open_model(f16_path);
    const Tensor *t = gguf_tensor(g, "blk.2.ffn_down.weight");
    assert_non_null(t);
    size_t n = t->dims[0] * t->dims[1];
    float *x = alloc(4 * n), *y = alloc(4 * n), *zero = calloc(n, 4);
    uint8_t *b = alloc(4 * n);
    assert_non_null(zero);
    dequantize(t->type, t->data, x, n);
    for (int i = 0; i < N_BLOCKS; i++) {
        quantize(blocks[i], x, b, n);
        dequantize(blocks[i], b, y, n);
        double relative = rms_error(x, y, n) / rms_error(x, zero, n);
        if (!(relative <= most[i])) fail_msg("%s loses %g", type_info(blocks[i])->name, relative);
    }
    free(x), free(y), free(zero), free(b);
    gguf_close(g);
}

// ---- odd weights ------------------------------------------------------------------------------

static void zeros_stay_zero(void **state) {
    (void)state;
    float x[256] = {0}, y[256];
    for (int i = 0; i < N_BLOCKS; i++) {
        round_trip(blocks[i], x, y);
        for (int k = 0; k < 256; k++) assert_true(y[k] == 0);
    }
}

static void constants(void **state) {
    (void)state;
    static const float values[] = {1, -1, 0.02f, -0.37f, 1000, -60000};
    float x[256], y[256];
    for (int i = 0; i < N_BLOCKS; i++) {
        for (int v = 0; v < 6; v++) {
            for (int k = 0; k < 256; k++) x[k] = values[v];
            round_trip(blocks[i], x, y);
            for (int k = 0; k < 256; k++) {
                double off = fabs((double)y[k] - x[k]) / fabs((double)x[k]);
                if (off > 0.002) fail_msg("%s: %g as %g", type_info(blocks[i])->name, x[k], y[k]);
            }
        }
    }
}

// One weight is 1000 times the others: it survives, and so does whatever shares no scale with it.
static void one_outlier(void **state) {
    (void)state;
    float x[256], y[256];
    for (int sign = -1; sign <= 1; sign += 2) {
        for (int i = 0; i < N_BLOCKS; i++) {
            for (int k = 0; k < 256; k++) x[k] = k % 2 ? 0.01f : -0.01f;
            x[77] = 10.0f * (float)sign;
            round_trip(blocks[i], x, y);
            assert_true(fabsf(y[77] - x[77]) < 0.1f);
            if (type_info(blocks[i])->block_len == 32) {
                assert_true(fabsf(y[0] - x[0]) < 0.001f && fabsf(y[255] - x[255]) < 0.001f);
            }
        }
    }
}

static void nan_and_infinity_count_as_zero(void **state) {
    (void)state;
    uint32_t seed = 1;
    float x[256], clean[256];
    for (int k = 0; k < 256; k++) x[k] = clean[k] = noise(&seed);
    static const int at[] = {0, 1, 31, 32, 100, 255};
    const float bad[] = {NAN, INFINITY, -INFINITY, -NAN, INFINITY, NAN};
    for (int k = 0; k < 6; k++) x[at[k]] = bad[k], clean[at[k]] = 0;
    static const TensorType floats[] = {TYPE_F32, TYPE_F16, TYPE_BF16};
    for (int i = 0; i < N_BLOCKS + 3; i++) {
        TensorType t = i < N_BLOCKS ? blocks[i] : floats[i - N_BLOCKS];
        uint8_t a[1024] = {0}, b[1024] = {0};
        quantize(t, x, a, 256);
        quantize(t, clean, b, 256);
        assert_memory_equal(a, b, sizeof a);
    }
    for (int k = 0; k < 256; k++) x[k] = NAN;
    for (int i = 0; i < N_BLOCKS; i++) {
        float y[256];
        round_trip(blocks[i], x, y);
        for (int k = 0; k < 256; k++) assert_true(y[k] == 0);
    }
}

// From the smallest subnormal to the greatest float: always finite, never of the wrong sign by more
// than half a step, saturated where a half cannot scale so far.
static void every_magnitude_is_finite(void **state) {
    (void)state;
    static const TensorType floats[] = {TYPE_F32, TYPE_F16, TYPE_BF16};
    for (int e = -149; e <= 127; e++) {
        uint32_t seed = 7;
        float x[256], y[256];
        for (int k = 0; k < 256; k++) x[k] = ldexpf(noise(&seed), e);
        x[3] = e == 127 ? 3.4028235e38f : ldexpf(1.5f, e);
        for (int i = 0; i < N_BLOCKS + 3; i++) {
            TensorType t = i < N_BLOCKS ? blocks[i] : floats[i - N_BLOCKS];
            round_trip(t, x, y);
            for (int k = 0; k < 256; k++) {
                if (!isfinite(y[k])) fail_msg("%s: %g as %g", type_info(t)->name, x[k], y[k]);
            }
            if (e > 10 && x[3] * y[3] <= 0)
                fail_msg("%s: %g as %g", type_info(t)->name, x[3], y[3]);
        }
    }
}

// Scales among the subnormal halves have few digits left; the codes must allow for it.
static void tiny_weights_keep_what_can_be_kept(void **state) {
    (void)state;
    uint32_t seed = 3;
    float x[256], y[256];
    for (int k = 0; k < 256; k++) x[k] = 4e-6f * noise(&seed);
    for (int i = 0; i < N_BLOCKS; i++) {
        round_trip(blocks[i], x, y);
        // The scale's unit is 2^-24: at worst half of it a step, over the codes that there are.
        for (int k = 0; k < 256; k++) assert_true(fabsf(x[k] - y[k]) < 4e-6f);
    }
    round_trip(TYPE_Q8_0, x, y);
    for (int k = 0; k < 256; k++) assert_true(fabsf(x[k] - y[k]) <= 0x1p-24f);
}

// ---- determinism ------------------------------------------------------------------------------

static uint64_t digest(const uint8_t *b, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;  // FNV-1a
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

// The same bytes from every compiler and on every machine.
static void blocks_are_the_same_everywhere(void **state) {
    (void)state;
    enum { N = 256 * 64 };
    static const uint64_t expected[N_BLOCKS] = {
        0x8ef6ce8cf80674f7, 0x6f55096e6e34e101, 0x72f377c1629575a5, 0xca01972ea4ef3ffd,
        0xb2590547da398d13, 0x8e30882fd34da55e, 0x35545e86f78dc2fb, 0xbc000ceedbc0d840,
        0xd737d62ea6e83721, 0xdfab59eb1a85c9b8, 0x9d0f3607b6853da0,
    };
    uint32_t seed = 42;
    int wrong = 0;
    float *x = alloc(N * 4);
    uint8_t *b = alloc(N * 4), *one = alloc(N * 4);
    for (int i = 0; i < N; i++) x[i] = noise(&seed) * (1 + (float)(i / 1000));
    for (int i = 0; i < N_BLOCKS; i++) {
        const TypeInfo *t = type_info(blocks[i]);
        size_t bytes = N / t->block_len * t->block_bytes;
        quantize(blocks[i], x, b, N);
        for (size_t k = 0; k < N / t->block_len; k++) {
            quantize(blocks[i], x + k * t->block_len, one + k * t->block_bytes, t->block_len);
        }
        assert_memory_equal(b, one, bytes);
        if (digest(b, bytes) != expected[i]) {
            print_error("%s: 0x%016llx\n", t->name, (unsigned long long)digest(b, bytes));
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
    free(x), free(b), free(one);
}

// What Q8_0, F16 and BF16 hold they hold for good; the others may only drift by a fraction of a
// step.
static void encoding_again_changes_nothing(void **state) {
    (void)state;
    uint32_t seed = 5;
    float x[256], y[256], z[256];
    static const TensorType exact[] = {TYPE_Q8_0, TYPE_F16, TYPE_BF16, TYPE_F32};
    for (int round = 0; round < 2000; round++) {
        for (int k = 0; k < 256; k++) x[k] = noise(&seed) * (round % 2 ? 0.02f : 3.0f);
        for (int i = 0; i < 4; i++) {
            round_trip(exact[i], x, y);
            round_trip(exact[i], y, z);
            assert_memory_equal(y, z, sizeof y);
        }
    }
    for (int i = 0; i < N_BLOCKS; i++) {
        double first = 0, again = 0;
        for (int round = 0; round < 200; round++) {
            for (int k = 0; k < 256; k++) x[k] = noise(&seed);
            round_trip(blocks[i], x, y);
            round_trip(blocks[i], y, z);
            first += rms_error(x, y, 256), again += rms_error(y, z, 256);
        }
        if (again > 0.1 * first) fail_msg("%s drifts", type_info(blocks[i])->name);
    }
}

// ---- whole files ------------------------------------------------------------------------------

typedef struct {
    uint64_t done, total, calls;
} Seen;

static void on_progress(void *user, uint64_t done, uint64_t total) {
    Seen *s = user;
    assert_true(done >= s->done && done <= total);
    *s = (Seen){done, total, s->calls + 1};
}

static void convert(const Gguf *in, const char *mix, int n_threads, const char *path) {
    Error err;
    Pool *pool;
    Seen seen = {0, 0, 0};
    assert_int_equal(pool_create(n_threads, &pool, &err), OK);
    if (requantize(in, mix_by_name(mix), path, pool, (Progress){on_progress, &seen}, &err)) {
        fail_msg("%s", err.text);
    }
    assert_true(seen.calls > 0 && seen.done == seen.total);
    pool_free(pool);
}

static void same_file(const char *a, const char *b) {
    Text x = {0}, y = {0};
    Error err;
    assert_int_equal(file_read(a, 1u << 30, &x, &err), OK);
    assert_int_equal(file_read(b, 1u << 30, &y, &err), OK);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    text_free(&x);
    text_free(&y);
}

static char dir[] = "/tmp/plumb-quantize-XXXXXX";

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    return rmdir(dir);
}

static void a_file_gets_the_types_of_its_mix(void **state) {
    (void)state;
    char one[64], two[64];
    snprintf(one, sizeof one, "%s/one.gguf", dir);
    snprintf(two, sizeof two, "%s/two.gguf", dir);
    Gguf *full = open_model(f16_path), *theirs = open_model("models/demo.gguf");
    convert(full, "Q4_K_M", 1, one);
    convert(full, "Q4_K_M", 2, two);
    same_file(one, two);
    Gguf *ours = open_model(one);
    assert_int_equal(gguf_n_values(ours), gguf_n_values(theirs));
    for (size_t i = 0; i < gguf_n_values(theirs); i++) {
        const GgufValue *v = gguf_value_at(theirs, i), *o = gguf_find(ours, v->key);
        if (!o) fail_msg("%s is missing", v->key);
        assert_int_equal(o->n, v->n);
        if (v->type == GGUF_U32) assert_memory_equal(o->raw, v->raw, 4);
    }
    assert_int_equal(gguf_n_tensors(ours), gguf_n_tensors(theirs));
    for (size_t i = 0; i < gguf_n_tensors(theirs); i++) {
        const Tensor *t = gguf_tensor_at(theirs, i), *o = gguf_tensor(ours, t->name);
        assert_non_null(o);
        assert_int_equal(o->type, t->type);
        assert_int_equal(o->n_dims, t->n_dims);
        assert_memory_equal(o->dims, t->dims, sizeof t->dims);
        if (t->type == TYPE_F32) assert_memory_equal(o->data, t->data, t->bytes);
    }
    gguf_close(ours);
    gguf_close(theirs);
    gguf_close(full);
    unlink(one);
    unlink(two);
}

// Q4_K_M to itself copies every byte of data; to F32 it decodes.
static void any_type_can_be_converted(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s/out.gguf", dir);
    Gguf *in = open_model("models/demo.gguf");
    convert(in, "Q4_K_M", 2, path);
    Gguf *out = open_model(path);
    for (size_t i = 0; i < gguf_n_tensors(in); i++) {
        const Tensor *a = gguf_tensor_at(in, i), *b = gguf_tensor_at(out, i);
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    gguf_close(out);
    convert(in, "F32", 2, path);
    out = open_model(path);
    for (size_t i = 0; i < gguf_n_tensors(in); i++) {
        const Tensor *a = gguf_tensor_at(in, i), *b = gguf_tensor_at(out, i);
        size_t n = a->dims[0] * a->dims[1];
        float *x = alloc(n * 4);
        dequantize(a->type, a->data, x, n);
        assert_int_equal(b->type, TYPE_F32);
        assert_memory_equal(x, b->data, n * 4);
        free(x);
    }
    gguf_close(out);
    gguf_close(in);
    unlink(path);
}

static void a_place_that_cannot_be_written(void **state) {
    (void)state;
    Error err;
    Pool *pool;
    Gguf *in = open_model("models/demo.gguf");
    assert_int_equal(pool_create(1, &pool, &err), OK);
    Status st =
        requantize(in, mix_by_name("F16"), "/nonexistent/x.gguf", pool, (Progress){0}, &err);
    assert_int_not_equal(st, OK);
    assert_non_null(strstr(err.text, "/nonexistent/x.gguf"));
    pool_free(pool);
    gguf_close(in);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_worse_than_llama_cpp),
        cmocka_unit_test(errors_by_type),
        cmocka_unit_test(zeros_stay_zero),
        cmocka_unit_test(constants),
        cmocka_unit_test(one_outlier),
        cmocka_unit_test(nan_and_infinity_count_as_zero),
        cmocka_unit_test(every_magnitude_is_finite),
        cmocka_unit_test(tiny_weights_keep_what_can_be_kept),
        cmocka_unit_test(blocks_are_the_same_everywhere),
        cmocka_unit_test(encoding_again_changes_nothing),
        cmocka_unit_test(a_file_gets_the_types_of_its_mix),
        cmocka_unit_test(any_type_can_be_converted),
        cmocka_unit_test(a_place_that_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
