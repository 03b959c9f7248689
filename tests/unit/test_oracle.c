// The oracle against two outsiders: transformers in float64 (tests/golden) and numbers by hand.
//
// What no outsider gives (kq, kq_soft_max) is checked by what must hold for it.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "oracle/oracle.h"

enum { MOST_TOKENS = 512 };

static const Notice quiet;

typedef struct {
    Gguf *gguf;
    Model *model;
    Oracle *oracle;
} Loaded;

static Loaded load(const char *path, int n_threads) {
    Loaded l = {0};
    Error err = {0};
    if (gguf_open(path, &l.gguf, &err) || model_bind(l.gguf, quiet, &l.model, &err) ||
        oracle_new(l.model, n_threads, &l.oracle, &err)) {
        fail_msg("%s", err.text);
    }
    return l;
}

static void unload(Loaded *l) {
    oracle_free(l->oracle);
    model_free(l->model);
    gguf_close(l->gguf);
}

// --- golden files ---

typedef struct {
    const Gguf *golden;
    const char *prompt;
    size_t first_row, n_tokens, n_heads;
    double bound, worst;
    int compared, failed;
} Compare;

static double nmse(const double *a, const Tensor *t, size_t n) {
    double error = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        float b;
        memcpy(&b, t->data + i * sizeof b, sizeof b);
        error += (a[i] - b) * (a[i] - b);
        power += (double)b * b;
    }
    return error / power;
}

static void check_scores(const Compare *c, const char *name, const double *x, size_t rows,
                         size_t width) {
    assert_int_equal(rows, c->n_tokens * c->n_heads);
    assert_int_equal(width, c->n_tokens);
    for (size_t r = 0; r < rows; r++) {
        size_t token = r / c->n_heads;
        double sum = 0;
        for (size_t j = 0; j < width; j++) {
            sum += x[r * width + j];
            if (j > token) assert_true(x[r * width + j] == 0);
        }
        if (strstr(name, "soft_max")) assert_true(fabs(sum - 1) < 1e-12);
    }
}

static void compare_tap(void *user, const char *name, const double *x, size_t rows, size_t width) {
    Compare *c = user;
    if (strstr(name, ".kq")) {
        check_scores(c, name, x, rows, width);
        return;
    }
    char full[GGUF_MAX_NAME + 1];
    snprintf(full, sizeof full, "%s.%s", c->prompt, name);
    const Tensor *t = gguf_tensor(c->golden, full);
    if (!t) return;
    c->compared++;
    if (t->type != TYPE_F32 || t->dims[0] != width || t->dims[1] != rows - c->first_row) {
        fail_msg("%s: golden is %llu x %llu, the oracle's %zu x %zu", full,
                 (unsigned long long)t->dims[1], (unsigned long long)t->dims[0], rows, width);
    }
    double e = nmse(x + c->first_row * width, t, t->dims[1] * width);
    if (e > c->worst) c->worst = e;
    if (!(e <= c->bound) && c->failed++ < 5) print_error("%s: NMSE %.3g\n", full, e);
}

static size_t golden_tokens(const Gguf *golden, const char *prompt, int32_t *out) {
    char key[64];
    Error err = {0};
    const GgufValue *v = NULL;
    snprintf(key, sizeof key, "trace.%s.tokens", prompt);
    if (gguf_get_array(golden, key, GGUF_I32, &v, NULL, &err)) fail_msg("%s", err.text);
    assert_in_range(v->n, 1, MOST_TOKENS);
    for (size_t i = 0; i < v->n; i++) out[i] = (int32_t)gguf_elem_i64(v, i);
    return v->n;
}

// Every component of one prompt within `bound`; returns how many golden tensors were compared.
static int check_prompt(Loaded *l, const Gguf *golden, const char *prompt, double bound) {
    int32_t tokens[MOST_TOKENS];
    Error err = {0};
    uint32_t first_row = 0;
    bool found;
    char key[64];
    snprintf(key, sizeof key, "trace.%s.first_row", prompt);
    assert_int_equal(gguf_get_u32(golden, key, &first_row, &found, &err), OK);
    size_t n = golden_tokens(golden, prompt, tokens);
    Compare c = {golden, prompt, first_row, n, (size_t)l->model->h.n_heads, bound, 0, 0, 0};
    size_t vocab = (size_t)l->model->h.n_vocab;
    double *tapped = malloc(vocab * sizeof *tapped), *plain = malloc(vocab * sizeof *plain);
    assert_true(tapped && plain);
    if (oracle_forward(l->oracle, tokens, n, compare_tap, &c, tapped, &err)) {
        fail_msg("%s", err.text);
    }
    if (c.failed) fail_msg("%s: %d components are off", prompt, c.failed);
    assert_true(c.worst > 0);  // float32 against float64: never the same bits throughout
    assert_int_equal(oracle_forward(l->oracle, tokens, n, NULL, NULL, plain, &err), OK);
    assert_memory_equal(tapped, plain, vocab * sizeof *plain);
    free(tapped), free(plain);
    return c.compared;
}

static void check_golden(const char *model, const char *golden_path, const char *const *prompts,
                         const double *bounds) {
    Loaded l = load(model, 2);
    Gguf *golden = NULL;
    Error err = {0};
    if (gguf_open(golden_path, &golden, &err)) fail_msg("%s", err.text);
    int compared = 0;
    for (int i = 0; prompts[i]; i++) compared += check_prompt(&l, golden, prompts[i], bounds[i]);
    // A golden tensor that the oracle never showed would be a hole in all this.
    assert_int_equal(compared, gguf_n_tensors(golden));
    gguf_close(golden);
    unload(&l);
}

static void test_demo(void **state) {
    (void)state;
    static const char *const prompts[] = {"hello", "capital", "sum", "story", "owl", NULL};
    static const double bounds[] = {1e-12, 1e-12, 1e-12, 1e-12, 1e-12};
    check_golden("tests/golden/models/demo-f16.gguf", "tests/golden/demo-golden.gguf", prompts,
                 bounds);
}

static void check_arch(const char *arch) {
    static const char *const prompts[] = {"short", "long", NULL};
    // transformers keeps its rotary frequencies in float32, which 300 positions show.
    static const double bounds[] = {1e-12, 1e-8};
    char model[96], golden[96];
    snprintf(model, sizeof model, "tests/golden/arch/%s-1.gguf", arch);
    snprintf(golden, sizeof golden, "tests/golden/arch/%s-1-golden.gguf", arch);
    check_golden(model, golden, prompts, bounds);
}

static void test_llama(void **state) {
    (void)state;
    check_arch("llama");
}

static void test_llama3(void **state) {
    (void)state;
    check_arch("llama3");
}

static void test_qwen2(void **state) {
    (void)state;
    check_arch("qwen2");
}

static void test_qwen3(void **state) {
    (void)state;
    check_arch("qwen3");
}

// The list of numbers after the first `name` that follows `prompt`; returns how many.
static size_t json_ids(const char *json, const char *prompt, const char *name, int32_t *out) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\": {", prompt);
    const char *at = strstr(json, quoted);
    assert_non_null(at);
    snprintf(quoted, sizeof quoted, "\"%s\": [", name);
    at = strstr(at, quoted);
    assert_non_null(at);
    at += strlen(quoted);
    size_t n = 0;
    for (char *end; n < MOST_TOKENS; at = end + (*end == ',')) {
        out[n++] = (int32_t)strtol(at, &end, 10);
        assert_ptr_not_equal(end, at);
        if (end[strspn(end, " \n")] == ']') break;
    }
    return n;
}

static void test_greedy(void **state) {
    (void)state;
    Loaded l = load("tests/golden/models/demo-f16.gguf", 2);
    Text json = {0};
    Error err = {0};
    assert_int_equal(file_read("tests/golden/demo-golden.json", 1 << 20, &json, &err), OK);
    double *logits = malloc((size_t)l.model->h.n_vocab * sizeof *logits);
    assert_non_null(logits);
    static const char *const prompts[] = {"capital", "sum"};
    for (int p = 0; p < 2; p++) {
        int32_t ids[2 * MOST_TOKENS], answer[MOST_TOKENS];
        size_t n = json_ids(json.data, prompts[p], "ids", ids);
        size_t n_answer = json_ids(json.data, prompts[p], "greedy_ids", answer);
        assert_true(n_answer >= 8 && answer[n_answer - 1] == 2);
        for (size_t i = 0; i < n_answer; i++) {
            assert_int_equal(oracle_forward(l.oracle, ids, n, NULL, NULL, logits, &err), OK);
            int32_t best = 0;
            for (int32_t t = 1; t < l.model->h.n_vocab; t++) {
                if (logits[t] > logits[best]) best = t;
            }
            assert_int_equal(best, answer[i]);
            ids[n++] = best;
        }
    }
    free(logits);
    text_free(&json);
    unload(&l);
}

static void test_threads(void **state) {
    (void)state;
    static const int32_t tokens[] = {1, 17, 299, 4, 5};
    double logits[3][300];
    static const int threads[] = {1, 3, 7};
    for (int i = 0; i < 3; i++) {
        Loaded l = load("tests/golden/arch/qwen3-1.gguf", threads[i]);
        Error err = {0};
        assert_int_equal(oracle_forward(l.oracle, tokens, 5, NULL, NULL, logits[i], &err), OK);
        unload(&l);
    }
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    assert_memory_equal(logits[0], logits[2], sizeof logits[0]);
}

static void test_bad_tokens(void **state) {
    (void)state;
    Loaded l = load("tests/golden/arch/llama-1.gguf", 1);
    double logits[300];
    Error err = {0};
    static const int32_t high[] = {1, 2, 300}, negative[] = {-1};
    assert_int_equal(oracle_forward(l.oracle, high, 3, NULL, NULL, logits, &err), ERR_USAGE);
    assert_string_equal(err.text, "token 2 is 300, expected 0 to 299");
    assert_int_equal(oracle_forward(l.oracle, negative, 1, NULL, NULL, logits, &err), ERR_USAGE);
    assert_int_equal(oracle_forward(l.oracle, high, 0, NULL, NULL, logits, &err), ERR_USAGE);
    assert_int_equal(oracle_forward(l.oracle, high, 2, NULL, NULL, NULL, &err), OK);
    unload(&l);
}

// --- components by hand ---

static Tensor f32_tensor(const float *data, uint64_t cols, uint64_t rows) {
    return (Tensor){.name = "t",
                    .type = TYPE_F32,
                    .n_dims = rows > 1 ? 2 : 1,
                    .dims = {cols, rows, 1, 1},
                    .bytes = cols * rows * 4,
                    .data = (const uint8_t *)data};
}

static Hparams small_hparams(RopePairing pairing, int n_heads, int n_kv_heads, int head_dim) {
    return (Hparams){.n_layers = 0,
                     .dim = n_heads * head_dim,
                     .n_heads = n_heads,
                     .n_kv_heads = n_kv_heads,
                     .head_dim = head_dim,
                     .n_rot = head_dim,
                     .rope_pairing = pairing,
                     .rope_base = 10000,
                     .rope_factor = 1,
                     .yarn_attn_factor = 1,
                     .n_ctx_train = 2048};
}

static Oracle *new_oracle(const Model *m) {
    Oracle *o = NULL;
    Error err = {0};
    if (oracle_new(m, 2, &o, &err)) fail_msg("%s", err.text);
    return o;
}

static void assert_near(double found, double expected, double tolerance) {
    if (!(fabs(found - expected) <= tolerance)) {
        fail_msg("%.17g, expected %.17g", found, expected);
    }
}

// Rotates (1, 0) in every pair at position `pos` and checks pair i's new (cos, sin).
static void check_rotation(const Model *m, int32_t pos, int i, double c, double s,
                           double tolerance) {
    double x[256] = {0}, y[256];
    int half = m->h.n_rot / 2;
    bool neox = m->h.rope_pairing == ROPE_NEOX;
    for (int j = 0; j < half; j++) x[neox ? j : 2 * j] = 1;
    Oracle *o = new_oracle(m);
    oracle_rope(o, x, 1, 1, &pos, y);
    assert_near(y[neox ? i : 2 * i], c, tolerance);
    assert_near(y[neox ? i + half : 2 * i + 1], s, tolerance);
    oracle_free(o);
}

static void test_rope(void **state) {
    (void)state;
    static const double cosine[] = {0.5403023, 0.731761, 0.846009};
    static const double sine[] = {0.841471, 0.681561, 0.533168};
    static const RopePairing pairings[] = {ROPE_NORM, ROPE_NEOX};
    for (int p = 0; p < 2; p++) {
        Model m = {.h = small_hparams(pairings[p], 1, 1, 64)};
        for (int i = 0; i < 3; i++) {
            check_rotation(&m, 1, i, cosine[i], sine[i], 1e-6);
            check_rotation(&m, 0, i, 1, 0, 0);
        }
    }
}

static void test_rope_partial(void **state) {
    (void)state;
    // Two heads of 6, of which 4 elements turn; in place, as the pass does it.
    Model m = {.h = small_hparams(ROPE_NEOX, 2, 1, 6)};
    m.h.n_rot = 4;
    Oracle *o = new_oracle(&m);
    double x[24];
    for (int i = 0; i < 24; i++) x[i] = i + 1;
    static const int32_t pos[] = {0, 3};
    oracle_rope(o, x, 2, 2, pos, x);
    for (int i = 0; i < 12; i++) assert_true(x[i] == i + 1);
    static const double frequency[] = {1, 0.01};  // 10000^(-2 i / 4)
    for (int head = 0; head < 2; head++) {
        const double *y = x + 12 + 6 * head;
        for (int i = 0; i < 2; i++) {
            double a = 13 + 6 * head + i, b = a + 2, angle = 3 * frequency[i];
            assert_near(y[i], a * cos(angle) - b * sin(angle), 1e-13);
            assert_near(y[i + 2], a * sin(angle) + b * cos(angle), 1e-13);
        }
        assert_true(y[4] == 13 + 6 * head + 4 && y[5] == 13 + 6 * head + 5);
    }
    oracle_free(o);
}

// Numbers from the formulas of transformers' _compute_yarn_parameters, computed apart from this
// program: head 64, base 10000, factor 4, 2048 original positions, at position 7. The ramp runs
// from pair 8 to pair 21; the magnitude is 1 + 0.1 ln 4.
static void test_rope_yarn(void **state) {
    (void)state;
    static const struct {
        int i;
        double cosine, sine;
    } rows[] = {
        {0, 0.8584152987464743, 0.7480642804323084},
        {8, 0.8708718284223973, 0.733525221952822},
        {9, 1.0021519796834324, 0.5405260422933231},
        {12, 1.1221625226812137, 0.1929462761248336},
        {16, 1.1378207007202232, 0.04290740953782198},
        {20, 1.138603025401134, 0.007755212962323873},
        {21, 1.1386196315570243, 0.004725189271592883},
        {31, 1.1386294051072197, 0.0002657176799489688},
    };
    Model m = {.h = small_hparams(ROPE_NORM, 1, 1, 64)};
    m.h.rope_scaling = ROPE_SCALING_YARN;
    m.h.rope_factor = 4, m.h.rope_n_ctx_orig = 2048;
    m.h.yarn_beta_fast = 32, m.h.yarn_beta_slow = 1, m.h.yarn_ext_factor = 1;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        check_rotation(&m, 7, rows[r].i, rows[r].cosine, rows[r].sine, 1e-12);
    }
    m.h.yarn_attn_factor = 0.5f;
    check_rotation(&m, 7, 12, rows[3].cosine / 2, rows[3].sine / 2, 1e-12);
}

static void test_rope_linear(void **state) {
    (void)state;
    Model m = {.h = small_hparams(ROPE_NEOX, 1, 1, 64)};
    m.h.rope_scaling = ROPE_SCALING_LINEAR;
    m.h.rope_factor = 8;
    check_rotation(&m, 100, 0, 0.9977982791785807, -0.06632189735120068, 1e-12);
    check_rotation(&m, 100, 5, -0.9843101632124659, 0.17644688321602295, 1e-12);
    check_rotation(&m, 100, 31, 0.9999986107195326, 0.0016669010182727173, 1e-12);
}

static void test_rope_divisors(void **state) {
    (void)state;
    static const float divisors[] = {1, 2, 8};
    Tensor t = f32_tensor(divisors, 3, 1);
    Model m = {.h = small_hparams(ROPE_NORM, 1, 1, 6), .rope_freqs = &t};
    m.h.rope_base = 1e6f;
    static const double frequency[] = {1, 1e-2 / 2, 1e-4 / 8};
    for (int i = 0; i < 3; i++) {
        check_rotation(&m, 11, i, cos(11 * frequency[i]), sin(11 * frequency[i]), 1e-12);
    }
}

static void test_rmsnorm(void **state) {
    (void)state;
    static const float ones[] = {1, 1, 1, 1};
    static const double x[] = {1, 2, 3, 4}, zero[4];
    static const double printed[] = {0.365, 0.730, 1.095, 1.460};
    Tensor w = f32_tensor(ones, 4, 1);
    double y[4];
    oracle_rmsnorm(x, 1, 4, &w, 1e-5, y);
    for (int i = 0; i < 4; i++) {
        assert_near(y[i], printed[i], 1e-3);
        assert_near(y[i], (i + 1) / sqrt(7.5 + 1e-5), 1e-15);
    }
    oracle_rmsnorm(zero, 1, 4, &w, 1e-5, y);
    for (int i = 0; i < 4; i++) assert_true(y[i] == 0);
}

static void test_rmsnorm_wide(void **state) {
    (void)state;
    enum { WIDTH = 300, ROWS = 3 };
    float weights[WIDTH];
    static double x[ROWS * WIDTH], y[ROWS * WIDTH];
    for (int i = 0; i < WIDTH; i++) weights[i] = (float)(i % 7) - 2.5f;
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = sin(i);
    Tensor w = f32_tensor(weights, WIDTH, 1);
    oracle_rmsnorm(x, ROWS, WIDTH, &w, 0.125, y);
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int i = 0; i < WIDTH; i++) sum += pow(x[r * WIDTH + i], 2);
        double rms = sqrt(sum / WIDTH + 0.125);
        for (int i = 0; i < WIDTH; i++) {
            assert_near(y[r * WIDTH + i], x[r * WIDTH + i] / rms * weights[i], 1e-14);
        }
    }
}

static void test_embed(void **state) {
    (void)state;
    enum { DIM = 300, ROWS = 4 };
    static float weights[DIM * ROWS];
    for (int i = 0; i < DIM * ROWS; i++) weights[i] = (float)i;
    Tensor t = f32_tensor(weights, DIM, ROWS);
    Model m = {.h = small_hparams(ROPE_NORM, 1, 1, 4), .token_embd = &t};
    Oracle *o = new_oracle(&m);
    static const int32_t tokens[] = {3, 0, 3};
    double y[3 * DIM];
    oracle_embed(o, tokens, 3, y);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < DIM; j++) assert_true(y[i * DIM + j] == tokens[i] * DIM + j);
    }
    oracle_free(o);
}

static void test_matmul(void **state) {
    (void)state;
    // 3 inputs, 2 outputs, as bias and as F16; every count of rows around the four side by side.
    static const float weights[] = {1, 2, 3, -4, 5, 0.5f}, biases[] = {100, -100};
    uint16_t halves[6];
    for (int i = 0; i < 6; i++) halves[i] = f32_to_f16(weights[i]);
    Tensor w = f32_tensor(weights, 3, 2), b = f32_tensor(biases, 2, 1), w16 = w;
    w16.type = TYPE_F16, w16.data = (const uint8_t *)halves, w16.bytes = 12;
    Model m = {.h = small_hparams(ROPE_NORM, 1, 1, 4)};
    Oracle *o = new_oracle(&m);
    double x[9 * 3], y[9 * 2];
    for (int i = 0; i < 27; i++) x[i] = i * i - 7;
    for (size_t rows = 1; rows <= 9; rows++) {
        for (int kind = 0; kind < 3; kind++) {
            const Tensor *bias = kind == 1 ? &b : NULL;
            Error err = {0};
            assert_int_equal(oracle_matmul(o, kind == 2 ? &w16 : &w, bias, x, rows, y, &err), OK);
            for (size_t r = 0; r < rows; r++) {
                const double *v = x + 3 * r;
                assert_true(y[2 * r] == v[0] + 2 * v[1] + 3 * v[2] + (bias ? 100 : 0));
                assert_true(y[2 * r + 1] == -4 * v[0] + 5 * v[1] + 0.5 * v[2] - (bias ? 100 : 0));
            }
        }
    }
    oracle_free(o);
}

static void test_attention_one_key(void **state) {
    (void)state;
    // Four query heads over two key heads; the other keys lie in the future and hold NaN: never
    // read.
    Model m = {.h = small_hparams(ROPE_NORM, 4, 2, 2)};
    Oracle *o = new_oracle(&m);
    static const double q[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    double k[12], v[12], kq[12], soft[12], y[8];
    for (int i = 0; i < 12; i++) k[i] = v[i] = NAN;
    for (int i = 0; i < 4; i++) k[4 + i] = i + 1, v[4 + i] = 10 * (i + 1);
    static const int32_t pos[] = {5}, key_pos[] = {6, 5, 100};
    Error err = {0};
    Status st = oracle_attention(o, q, 1, pos, k, v, 3, key_pos, kq, soft, y, &err);
    assert_int_equal(st, OK);
    static const double dot[] = {1 + 4, 3 + 8, 15 + 24,
                                 21 + 32};  // heads 0, 1 meet k 1 2; 2, 3: 3 4
    for (int h = 0; h < 4; h++) {
        assert_near(kq[3 * h + 1], dot[h] / sqrt(2), 1e-14);
        assert_true(soft[3 * h + 1] == 1);
        assert_true(kq[3 * h] == 0 && kq[3 * h + 2] == 0);
        assert_true(soft[3 * h] == 0 && soft[3 * h + 2] == 0);
        for (int i = 0; i < 2; i++) assert_true(y[2 * h + i] == v[4 + 2 * (h / 2) + i]);
    }
    // Without the scores the answer is the same; with no key in sight it is 0.
    double again[8];
    assert_int_equal(oracle_attention(o, q, 1, pos, k, v, 3, key_pos, NULL, NULL, again, &err), OK);
    assert_memory_equal(y, again, sizeof y);
    static const int32_t start[] = {0};
    assert_int_equal(oracle_attention(o, q, 1, start, k, v, 3, key_pos, kq, soft, y, &err), OK);
    for (int i = 0; i < 8; i++) assert_true(y[i] == 0);
    oracle_free(o);
}

static void test_attention_softmax(void **state) {
    (void)state;
    // Scores 1000 and 1000 + ln 3: weights 1/4 and 3/4, though exp(1000) is infinite.
    Model m = {.h = small_hparams(ROPE_NORM, 1, 1, 2)};
    Oracle *o = new_oracle(&m);
    double q[] = {sqrt(2), 0}, k[] = {1000, 9, 1000 + log(3), 9}, v[] = {4, 0, 8, 1};
    double soft[2], y[2];
    static const int32_t pos[] = {1}, key_pos[] = {0, 1};
    Error err = {0};
    assert_int_equal(oracle_attention(o, q, 1, pos, k, v, 2, key_pos, NULL, soft, y, &err), OK);
    assert_near(soft[0], 0.25, 1e-12);
    assert_near(soft[1], 0.75, 1e-12);
    assert_near(y[0], 7, 1e-11);
    assert_near(y[1], 0.75, 1e-12);
    oracle_free(o);
}

static void test_swiglu(void **state) {
    (void)state;
    static const double gate[] = {1, 0, -1, 800, -800}, up[] = {1, 5, 2, 1, 1};
    static const double expected[] = {0.7310585786300049, 0, -0.5378828427399902, 800, 0};
    double y[5];
    oracle_swiglu(gate, up, 5, y);
    for (int i = 0; i < 5; i++) assert_near(y[i], expected[i], 1e-15);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demo),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bad_tokens),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_rope_partial),
        cmocka_unit_test(test_rope_yarn),
        cmocka_unit_test(test_rope_linear),
        cmocka_unit_test(test_rope_divisors),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rmsnorm_wide),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_attention_one_key),
        cmocka_unit_test(test_attention_softmax),
        cmocka_unit_test(test_swiglu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
