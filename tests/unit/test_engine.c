// The engine against reference data and against itself: every component that transformers computed
// in float64; and however a prompt is cut, batched, threaded or interleaved, the same bits.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/session.h"
#include "check.h"

#define DEMO_F16 "tests/golden/models/demo-f16.gguf"
#define DEMO_Q8_0 "tests/golden/models/demo-Q8_0.gguf"
#define DEMO_Q4_K "models/demo.gguf"
#define ARCH(name) "tests/golden/arch/" name "-1.gguf"

typedef struct {
    Gguf *g;
    Model *m;
    DeviceModel *d;
    int n_vocab;
} Loaded;

static Loaded load(const char *path, int threads, const char *isa) {
    Loaded l = {0};
    Error err;
    const BackendOps *cpu = backend_by_name("cpu");
    assert_non_null(cpu);
    if (gguf_open(path, &l.g, &err) || model_bind(l.g, (Notice){0}, &l.m, &err) ||
        device_model_open(l.m, cpu, &(BackendConfig){.n_threads = threads, .isa = isa}, &l.d,
                          &err)) {
        fail_msg("%s", err.text);
    }
    l.n_vocab = l.m->h.n_vocab;
    return l;
}

static void unload(Loaded *l) {
    device_model_close(l->d);
    model_free(l->m);
    gguf_close(l->g);
}

static Session *session_of(Loaded *l, int n_ctx, int n_seqs, int batch, TensorType kv) {
    Session *s = NULL;
    Error err;
    const SessionConfig c = {n_ctx, n_seqs, batch, kv, kv};
    if (session_new(l->d, &c, (Notice){0}, &s, &err)) fail_msg("%s", err.text);
    return s;
}

static void random_ids(Rng *r, int32_t *ids, size_t n, int n_vocab) {
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)rng_below(r, (uint64_t)n_vocab);
}

// --- logits of every token, however it is evaluated ----------------------------------------------

typedef struct {
    float *logits;
    int n_vocab;
    size_t base, n;
} Rows;

static void keep_row(void *user, size_t index, const float *logits) {
    Rows *k = user;
    assert_true(k->base + index < k->n);
    memcpy(k->logits + (k->base + index) * k->n_vocab, logits, (size_t)k->n_vocab * 4);
}

// Evaluates ids[at, to) of a sequence; the logits of each go to their rows.
static void eval_part(Session *s, int seq, const int32_t *ids, size_t at, size_t to, Rows *rows) {
    Error err;
    size_t done = 0;
    rows->base = at;
    const EvalOptions o = {.n_logits = to - at, .on_logits = keep_row, .user = rows};
    if (session_eval(s, seq, ids + at, to - at, &o, &done, &err)) fail_msg("%s", err.text);
    assert_int_equal(done, to - at);
    assert_int_equal(session_tokens(s, seq)->len, to);
}

static Rows rows_of(size_t n, int n_vocab) {
    return (Rows){room(n * n_vocab * 4), n_vocab, 0, n};
}

// In one piece with this batch size.
static Rows eval_whole(Loaded *l, const int32_t *ids, size_t n, int batch, TensorType kv) {
    Session *s = session_of(l, 512, 1, batch, kv);
    Rows rows = rows_of(n, l->n_vocab);
    eval_part(s, 0, ids, 0, n, &rows);
    session_free(s);
    return rows;
}

static void check_paths(const char *path) {
    enum { N = 75 };
    Loaded l = load(path, 2, NULL);
    Rng r = {1};
    int32_t ids[N];
    random_ids(&r, ids, N, l.n_vocab);
    Rows want = eval_whole(&l, ids, N, 512, TYPE_F16);
    const size_t bytes = (size_t)N * l.n_vocab;
    static const int batches[] = {1, 2, 3, 8, 9, 31, 32, 33, 64, 75, 76};
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        Rows got = eval_whole(&l, ids, N, batches[i], TYPE_F16);
        same_floats("batch size", got.logits, want.logits, bytes);
        free(got.logits);
    }
    static const size_t firsts[] = {1, 2, 8, 9, 31, 32, 33, 74};
    Session *s = session_of(&l, 100, 1, 512, TYPE_F16);
    Rows got = rows_of(N, l.n_vocab);
    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {  // two chunks
        session_rewind(s, 0, 0);
        eval_part(s, 0, ids, 0, firsts[i], &got);
        eval_part(s, 0, ids, firsts[i], N, &got);
        same_floats("two chunks", got.logits, want.logits, bytes);
    }
    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {  // many of one size
        session_rewind(s, 0, 0);
        for (size_t at = 0; at < N; at += firsts[i]) {
            eval_part(s, 0, ids, at, at + firsts[i] < N ? at + firsts[i] : N, &got);
        }
        same_floats("many chunks", got.logits, want.logits, bytes);
    }
    session_rewind(s, 0, 0);
    for (size_t i = 0; i < N; i++) {
        Error err;
        if (session_step(s, 0, ids[i], got.logits + i * l.n_vocab, &err)) fail_msg("%s", err.text);
    }
    same_floats("token by token", got.logits, want.logits, bytes);
    // Only the last row, and none, change nothing in the cache.
    session_rewind(s, 0, 0);
    Error err;
    const EvalOptions none = {.n_logits = 0};
    assert_int_equal(session_eval(s, 0, ids, 40, &none, NULL, &err), OK);
    Rows last = rows_of(35, l.n_vocab);
    const EvalOptions one = {.n_logits = 1, .on_logits = keep_row, .user = &last};
    assert_int_equal(session_eval(s, 0, ids + 40, 35, &one, NULL, &err), OK);
    same_floats("the last row alone", last.logits + 34 * l.n_vocab, want.logits + 74 * l.n_vocab,
                (size_t)l.n_vocab);
    free(last.logits);
    free(got.logits);
    free(want.logits);
    session_free(s);
    unload(&l);
}

static void paths_f16(void **state) {
    (void)state;
    check_paths(DEMO_F16);
}

static void paths_q8_0(void **state) {
    (void)state;
    check_paths(DEMO_Q8_0);
}

static void paths_q4_k_m(void **state) {
    (void)state;
    check_paths(DEMO_Q4_K);
}

static void paths_odd_shapes(void **state) {
    (void)state;
    check_paths(ARCH("llama"));
    check_paths(ARCH("llama3"));
    check_paths(ARCH("qwen2"));
    check_paths(ARCH("qwen3"));
}

static void threads_and_kernels(void **state) {
    (void)state;
    enum { N = 40 };
    static const char *const paths[] = {DEMO_Q4_K, DEMO_F16, ARCH("qwen3")};
    for (size_t p = 0; p < 3; p++) {
        Rng r = {2};
        int32_t ids[N];
        Rows want = {0};
        static const struct {
            int threads;
            const char *isa;
        } runs[] = {{1, NULL}, {1, NULL}, {2, NULL}, {3, NULL}, {5, NULL}};
        for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {  // the second: the same twice
            Loaded l = load(paths[p], runs[i].threads, runs[i].isa);
            if (i == 0) random_ids(&r, ids, N, l.n_vocab);
            Session *s = session_of(&l, 64, 1, 32, TYPE_F16);
            Rows got = rows_of(N, l.n_vocab);
            eval_part(s, 0, ids, 0, N - 3, &got);
            for (size_t k = N - 3; k < N; k++) eval_part(s, 0, ids, k, k + 1, &got);
            if (i > 0) same_floats("threads", got.logits, want.logits, (size_t)N * l.n_vocab);
            free(i > 0 ? got.logits : NULL);
            if (i == 0) want = got;
            session_free(s);
            unload(&l);
        }
        free(want.logits);
    }
}

// --- many sequences ------------------------------------------------------------------------------

static void check_interleaved(const char *path, TensorType kv) {
    enum { N = 30 };
    Loaded l = load(path, 2, NULL);
    Rng r = {3};
    int32_t ids[2][N];
    Rows want[2];
    for (int q = 0; q < 2; q++) {
        random_ids(&r, ids[q], N, l.n_vocab);
        want[q] = eval_whole(&l, ids[q], N, 512, kv);
    }
    // Both sequences grow by random amounts in each batch, in random order.
    for (int round = 0; round < 6; round++) {
        Session *s = session_of(&l, 64, 2, 16, kv);
        Forward *f = session_forward(s);
        int at[2] = {0, 0};
        float *logits = room((size_t)16 * l.n_vocab * 4);
        while (at[0] < N || at[1] < N) {
            int32_t token[16], pos[16], seq[16], out[16];
            int n = 0, most = round == 0 ? 2 : 1 + (int)rng_below(&r, 16);
            while (n < most && (at[0] < N || at[1] < N)) {
                int q = round == 0 ? n & 1 : (int)rng_below(&r, 2);
                if (at[q] == N) q = !q;
                token[n] = ids[q][at[q]], pos[n] = at[q]++, seq[n] = q, out[n] = n, n++;
            }
            Error err;
            if (forward_run(f, n, token, pos, seq, n, out, logits, &err)) fail_msg("%s", err.text);
            for (int i = 0; i < n; i++) {
                same_floats("interleaved", logits + (size_t)i * l.n_vocab,
                            want[seq[i]].logits + (size_t)pos[i] * l.n_vocab, (size_t)l.n_vocab);
            }
        }
        free(logits);
        session_free(s);
    }
    // The session's own way, and a prompt shared by copying its cache.
    Session *s = session_of(&l, 64, 2, 16, kv);
    Rows got = rows_of(N, l.n_vocab);
    eval_part(s, 0, ids[0], 0, 20, &got);
    eval_part(s, 1, ids[1], 0, N, &got);
    same_floats("second sequence", got.logits, want[1].logits, (size_t)N * l.n_vocab);
    eval_part(s, 0, ids[0], 20, N, &got);
    same_floats("first sequence", got.logits + 20 * l.n_vocab, want[0].logits + 20 * l.n_vocab,
                (size_t)10 * l.n_vocab);
    forward_kv_copy(session_forward(s), 0, 1, 25);
    for (int i = 25; i < N; i++) {
        const int32_t pos = i, seq = 1, out = 0;
        Error err;
        if (forward_run(session_forward(s), 1, &ids[0][i], &pos, &seq, 1, &out, got.logits, &err)) {
            fail_msg("%s", err.text);
        }
        same_floats("copied sequence", got.logits, want[0].logits + (size_t)i * l.n_vocab,
                    (size_t)l.n_vocab);
    }
    free(got.logits);
    free(want[0].logits);
    free(want[1].logits);
    session_free(s);
    unload(&l);
}

static void sequences_interleaved(void **state) {
    (void)state;
    check_interleaved(DEMO_Q4_K, TYPE_F16);
    check_interleaved(DEMO_F16, TYPE_Q8_0);
    check_interleaved(ARCH("qwen2"), TYPE_F32);
}

// --- components ----------------------------------------------------------------------------------

typedef struct {
    const Gguf *golden;
    const char *prompt;
    int n_tokens, first_row;
    double bound, worst;
    int n_checked;
    char worst_name[80];
    int n_head_rows[2];  // of norm and logits, which come in parts
} GoldenTap;

// Each row alone: an error in one token is not diluted by the others.
static void against_golden(void *user, const char *name, int layer, const float *x, size_t rows,
                           size_t width) {
    GoldenTap *t = user;
    char full[GGUF_MAX_NAME + 1];
    if (layer < 0)
        snprintf(full, sizeof full, "%s.%s", t->prompt, name);
    else
        snprintf(full, sizeof full, "%s.blk.%d.%s", t->prompt, layer, name);
    const Tensor *want = gguf_tensor(t->golden, full);
    if (strcmp(name, "kq_soft_max") == 0) {
        for (size_t i = 0; i < rows; i++) {
            double sum = 0;
            for (size_t k = 0; k < width; k++) sum += (double)x[i * width + k];
            if (!(fabs(sum - 1) < 1e-5)) fail_msg("%s row %zu sums to %g", full, i, sum);
        }
    }
    if (!want) return;
    assert_int_equal(want->dims[0], width);
    int *part = strcmp(name, "norm") == 0     ? &t->n_head_rows[0]
                : strcmp(name, "logits") == 0 ? &t->n_head_rows[1]
                                              : NULL;
    size_t from = part ? (size_t)*part : 0;
    if (part)
        *part += (int)rows;
    else
        assert_int_equal(rows, t->n_tokens);
    for (size_t i = 0; i < rows; i++) {
        if (from + i < (size_t)t->first_row) continue;
        float *row = room(width * 4);
        memcpy(row, want->data + (from + i - (size_t)t->first_row) * width * 4, width * 4);
        double e = nmse(x + i * width, row, width);
        free(row);
        if (e > t->worst) {
            t->worst = e;
            snprintf(t->worst_name, sizeof t->worst_name, "%s row %zu", full, from + i);
        }
        if (!(e <= t->bound))
            fail_msg("%s, row %zu: NMSE %.3g > %.0e", full, from + i, e, t->bound);
    }
    t->n_checked++;
}

static void check_prompt(Loaded *l, const Gguf *golden, const char *prompt, double bound,
                         int n_threads) {
    char key[64];
    const GgufValue *ids;
    uint32_t first_row = 0;
    Error err;
    snprintf(key, sizeof key, "trace.%s.tokens", prompt);
    assert_int_equal(gguf_get_array(golden, key, GGUF_I32, &ids, NULL, &err), OK);
    snprintf(key, sizeof key, "trace.%s.first_row", prompt);
    bool found;
    assert_int_equal(gguf_get_u32(golden, key, &first_row, &found, &err), OK);
    int n = (int)ids->n, n_named = 0;
    int32_t token[300], pos[300], seq[300], out[300];
    assert_true(n <= 300);
    for (int i = 0; i < n; i++) {
        token[i] = (int32_t)gguf_elem_i64(ids, (uint64_t)i), pos[i] = out[i] = i, seq[i] = 0;
    }
    for (size_t i = 0; i < gguf_n_tensors(golden); i++) {
        const char *name = gguf_tensor_at(golden, i)->name;
        n_named += strncmp(name, prompt, strlen(prompt)) == 0 && name[strlen(prompt)] == '.';
    }
    GoldenTap t = {.golden = golden, .prompt = prompt, .n_tokens = n, .bound = bound};
    t.first_row = (int)first_row;
    Forward *f = NULL;
    const ForwardConfig c = {n, 1, n, TYPE_F32, TYPE_F32};
    if (forward_new(l->d, &c, &f, &err)) fail_msg("%s", err.text);
    float *logits = room((size_t)n * l->n_vocab * 4), *quiet = room((size_t)n * l->n_vocab * 4);
    forward_set_tap(f, (Tap){against_golden, &t, true});
    if (forward_run(f, n, token, pos, seq, n, out, logits, &err)) fail_msg("%s", err.text);
    assert_int_equal(t.n_head_rows[1], n);
    // Every component of the reference was shown, norm and logits in as many parts as it took.
    int parts = t.n_checked - n_named;
    if (parts < 0 || parts > 2 * n / 8) fail_msg("%d of %d components", t.n_checked, n_named);
    // Taps on = taps off, on the same cache.
    forward_set_tap(f, (Tap){0});
    if (forward_run(f, n, token, pos, seq, n, out, quiet, &err)) fail_msg("%s", err.text);
    same_floats("taps off", quiet, logits, (size_t)n * l->n_vocab);
    print_message("%s: worst NMSE %.2g, %s, %d threads\n", prompt, t.worst, t.worst_name,
                  n_threads);
    free(logits);
    free(quiet);
    forward_free(f);
}

static void check_golden(const char *model, const char *golden_path, const char *const *prompts,
                         const double *bounds, int n) {
    Loaded l = load(model, 2, NULL);
    Gguf *golden;
    Error err;
    if (gguf_open(golden_path, &golden, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < n; i++) check_prompt(&l, golden, prompts[i], bounds[i], 2);
    gguf_close(golden);
    unload(&l);
}

static void components_of_the_demo_model(void **state) {
    (void)state;
    static const char *const prompts[] = {"hello", "capital", "sum", "story", "owl"};
    static const double bounds[] = {1e-10, 1e-10, 1e-10, 1e-10, 1e-10};
    check_golden(DEMO_F16, "tests/golden/demo-golden.gguf", prompts, bounds, 5);
}

// `long` reaches position 300, where the reference's float32 rotary frequencies cost more than ours.
static void components_of_every_architecture(void **state) {
    (void)state;
    static const char *const archs[] = {"llama", "llama3", "qwen2", "qwen3"};
    static const char *const prompts[] = {"short", "long"};
    static const double bounds[] = {1e-9, 1e-7};
    for (size_t i = 0; i < 4; i++) {
        char model[80], golden[80];
        snprintf(model, sizeof model, "tests/golden/arch/%s-1.gguf", archs[i]);
        snprintf(golden, sizeof golden, "tests/golden/arch/%s-1-golden.gguf", archs[i]);
        check_golden(model, golden, prompts, bounds, 2);
    }
}

// --- rope and the cache --------------------------------------------------------------------------

enum { TAPPED = 24 };
typedef struct {
    int layer, n_heads;
    float k[TAPPED * 256], k_rope[TAPPED * 256], v[TAPPED * 256], q[TAPPED * 512],
        q_rope[TAPPED * 512], kq[TAPPED * TAPPED * 8];
} LayerTap;

static void keep_layer(void *user, const char *name, int layer, const float *x, size_t rows,
                       size_t width) {
    LayerTap *t = user;
    if (layer != t->layer) return;
    float *to = strcmp(name, "k") == 0        ? t->k
                : strcmp(name, "k_rope") == 0 ? t->k_rope
                : strcmp(name, "v") == 0      ? t->v
                : strcmp(name, "q") == 0      ? t->q
                : strcmp(name, "q_rope") == 0 ? t->q_rope
                : strcmp(name, "kq") == 0     ? t->kq
                                              : NULL;
    if (to) memcpy(to, x, rows * width * 4);
}

// x rotated by the formula: pairs (2i, 2i + 1), angle pos * base^(-2i / head_dim).
static void check_rope(const float *x, const float *rotated, int pos, int head_dim, int n_heads) {
    for (int h = 0; h < n_heads; h++) {
        for (int i = 0; i < head_dim / 2; i++) {
            double a = pos * pow(10000, -2.0 * i / head_dim);
            double p = (double)x[h * head_dim + 2 * i], q = (double)x[h * head_dim + 2 * i + 1];
            double want[2] = {p * cos(a) - q * sin(a), p * sin(a) + q * cos(a)};
            for (int k = 0; k < 2; k++) {
                double got = (double)rotated[h * head_dim + 2 * i + k];
                if (!(fabs(got - want[k]) <= 4e-7 * (fabs(p) + fabs(q)))) {
                    fail_msg("head %d, pair %d at %d: %.9g, expected %.9g", h, i, pos, got,
                             want[k]);
                }
            }
        }
    }
}

static void rope_and_cache(void **state) {
    (void)state;
    static const TensorType types[] = {TYPE_F32, TYPE_F16, TYPE_Q8_0};
    Loaded l = load(DEMO_F16, 2, NULL);
    const Hparams *h = &l.m->h;
    const int kv_dim = h->n_kv_heads * h->head_dim, q_dim = h->n_heads * h->head_dim;
    assert_int_equal(h->rope_pairing, ROPE_NORM);
    assert_true(h->rope_base == 10000 && h->n_rot == h->head_dim);
    assert_true(kv_dim <= 256 && q_dim <= 512 && h->n_heads <= 8);
    Rng r = {4};
    int32_t ids[TAPPED];
    random_ids(&r, ids, TAPPED, l.n_vocab);
    LayerTap *t = room(sizeof *t);
    float *k = room((size_t)kv_dim * 4), *v = room((size_t)kv_dim * 4);
    for (int ty = 0; ty < 3; ty++) {
        for (t->layer = 0; t->layer < h->n_layers; t->layer += h->n_layers - 1) {
            Session *s = session_of(&l, 32, 1, 32, types[ty]);
            Forward *f = session_forward(s);
            forward_set_tap(f, (Tap){keep_layer, t, true});
            const EvalOptions none = {0};
            Error err;
            assert_int_equal(session_eval(s, 0, ids, TAPPED, &none, NULL, &err), OK);
            for (int pos = 0; pos < TAPPED; pos++) {
                const float *kr = t->k_rope + pos * kv_dim, *vv = t->v + pos * kv_dim;
                check_rope(t->k + pos * kv_dim, kr, pos, h->head_dim, h->n_kv_heads);
                check_rope(t->q + pos * q_dim, t->q_rope + pos * q_dim, pos, h->head_dim,
                           h->n_heads);
                assert_int_equal(forward_kv_read(f, t->layer, 0, pos, k, v, &err), OK);
                if (types[ty] == TYPE_F32) {
                    same_floats("k in the cache", k, kr, (size_t)kv_dim);
                    same_floats("v in the cache", v, vv, (size_t)kv_dim);
                } else if (types[ty] == TYPE_F16) {
                    for (int i = 0; i < kv_dim; i++) {
                        assert_true(k[i] == f16_to_f32(f32_to_f16(kr[i])));
                        assert_true(v[i] == f16_to_f32(f32_to_f16(vv[i])));
                    }
                } else {  // half a step of max / 127 is 0.4 % of the largest
                    assert_true(nmse(k, kr, (size_t)kv_dim) < 1e-4);
                    assert_true(nmse(v, vv, (size_t)kv_dim) < 1e-4);
                }
            }
            // Scores: q . k / sqrt(head_dim), each kv head serving n_heads / n_kv_heads queries.
            for (int i = 0; types[ty] == TYPE_F32 && i < TAPPED; i++) {
                for (int head = 0; head < h->n_heads; head++) {
                    int kv_head = head / (h->n_heads / h->n_kv_heads);
                    for (int j = 0; j <= i; j++) {
                        double dot = 0, size = 0;
                        for (int e = 0; e < h->head_dim; e++) {
                            double p = (double)t->q_rope[i * q_dim + head * h->head_dim + e] *
                                       (double)t->k_rope[j * kv_dim + kv_head * h->head_dim + e];
                            dot += p, size += fabs(p);
                        }
                        double got = (double)t->kq[(i * h->n_heads + head) * TAPPED + j];
                        assert_true(fabs(got - dot / 8) <= 4e-6 * size / 8);
                    }
                }
            }
            session_free(s);
        }
    }
    assert_int_equal(h->head_dim, 64);
    free(t);
    free(k);
    free(v);
    unload(&l);
}

// Halves carry 11 bits: an error of 2^-12 of each key and value on average, squared 6e-8, grown a
// little by six layers. Q8_0 has a step of max / 127, in 32 normal numbers about 1/60 of their
// spread: (1/60)^2 / 12 = 2e-5 of each. Quantized activations step when their input moves a little,
// which is a floor of its own; random weights let errors grow a hundred times more than trained ones.
static void kv_types_stay_close(void **state) {
    (void)state;
    enum { N = 200 };
    static const char *const paths[] = {DEMO_F16, DEMO_Q4_K, ARCH("llama")};
    static const double bounds[][2] = {{2e-7, 1e-4}, {1e-3, 1e-3}, {1e-5, 4e-3}};
    for (size_t p = 0; p < 3; p++) {
        Loaded l = load(paths[p], 2, NULL);
        Rng r = {5};
        int32_t ids[N];
        random_ids(&r, ids, N, l.n_vocab);
        Rows f32 = eval_whole(&l, ids, N, 64, TYPE_F32), f16 = eval_whole(&l, ids, N, 64, TYPE_F16);
        Rows q8 = eval_whole(&l, ids, N, 64, TYPE_Q8_0);
        double e16 = nmse(f16.logits, f32.logits, (size_t)N * l.n_vocab);
        double e8 = nmse(q8.logits, f32.logits, (size_t)N * l.n_vocab);
        print_message("%s: KV f16 %.2g, q8_0 %.2g\n", paths[p], e16, e8);
        assert_true(e16 > 0 && e16 < bounds[p][0]);
        assert_true(e8 > e16 / 2 && e8 < bounds[p][1]);
        free(f32.logits);
        free(f16.logits);
        free(q8.logits);
        unload(&l);
    }
}

// --- what a session keeps ------------------------------------------------------------------------

static void rewind_and_keep(void **state) {
    (void)state;
    enum { N = 40 };
    Loaded l = load(DEMO_Q4_K, 2, NULL);
    Rng r = {6};
    int32_t ids[N], other[N];
    random_ids(&r, ids, N, l.n_vocab);
    memcpy(other, ids, sizeof ids);
    for (int i = 25; i < N; i++) other[i] = (ids[i] + 1) % l.n_vocab;
    Rows want = eval_whole(&l, ids, N, 512, TYPE_F16), got = rows_of(N, l.n_vocab);
    Rows want2 = eval_whole(&l, other, N, 512, TYPE_F16);
    const size_t row = (size_t)l.n_vocab;
    Session *s = session_of(&l, 64, 1, 16, TYPE_F16);
    eval_part(s, 0, ids, 0, N, &got);
    assert_memory_equal(session_tokens(s, 0)->data, ids, sizeof ids);
    session_rewind(s, 0, N);
    session_rewind(s, 0, 1000);  // nothing to drop
    assert_int_equal(session_tokens(s, 0)->len, N);
    assert_int_equal(session_keep(s, 0, other, N), 25);
    assert_int_equal(session_tokens(s, 0)->len, 25);
    eval_part(s, 0, other, 25, N, &got);
    same_floats("after keep", got.logits + 25 * row, want2.logits + 25 * row, 15 * row);
    assert_int_equal(session_keep(s, 0, ids, 10), 10);  // at most n
    assert_int_equal(session_tokens(s, 0)->len, 10);
    eval_part(s, 0, ids, 10, N, &got);
    same_floats("after a shorter keep", got.logits + 10 * row, want.logits + 10 * row, 30 * row);
    assert_int_equal(session_keep(s, 0, ids + 1, 20), ids[0] == ids[1]);
    session_rewind(s, 0, 0);
    assert_int_equal(session_keep(s, 0, ids, N), 0);
    assert_int_equal(session_keep(s, 0, ids, 0), 0);
    eval_part(s, 0, ids, 0, N, &got);
    same_floats("from the start", got.logits, want.logits, N * row);
    free(want.logits);
    free(want2.logits);
    free(got.logits);
    session_free(s);
    unload(&l);
}

static void a_full_context(void **state) {
    (void)state;
    Loaded l = load(DEMO_Q4_K, 1, NULL);
    int32_t ids[33];
    Rng r = {7};
    random_ids(&r, ids, 33, l.n_vocab);
    float *logits = room((size_t)l.n_vocab * 4);
    static const int contexts[] = {1, 2, 32};
    for (size_t i = 0; i < 3; i++) {
        size_t n = (size_t)contexts[i];
        Session *s = session_of(&l, contexts[i], 1, 0, TYPE_F16);
        const EvalOptions none = {0};
        Error err;
        char number[16];
        assert_int_equal(session_n_ctx(s), n);
        assert_int_equal(session_eval(s, 0, ids, n + 1, &none, NULL, &err), ERR_FAILED);
        assert_int_equal(session_tokens(s, 0)->len, 0);  // nothing was evaluated
        snprintf(number, sizeof number, "%zu", n + 1);
        if (!strstr(err.text, number)) fail_msg("no %s in: %s", number, err.text);
        snprintf(number, sizeof number, "%zu", n);
        if (!strstr(err.text, number)) fail_msg("no %s in: %s", number, err.text);
        assert_int_equal(session_eval(s, 0, ids, n, &none, NULL, &err), OK);
        assert_int_equal(session_step(s, 0, ids[0], logits, &err), ERR_FAILED);
        assert_int_equal(session_tokens(s, 0)->len, n);
        session_rewind(s, 0, n - 1);
        assert_int_equal(session_step(s, 0, ids[n - 1], logits, &err), OK);
        assert_int_equal(session_eval(s, 0, ids, 0, &none, NULL, &err), OK);  // no tokens: nothing
        session_free(s);
    }
    free(logits);
    unload(&l);
}

static void bad_configurations(void **state) {
    (void)state;
    Loaded l = load(ARCH("qwen3"), 1, NULL);  // heads of 40: no Q8_0
    Session *s = NULL;
    Error err = {0};
    SessionConfig c = {64, 1, 0, TYPE_Q8_0, TYPE_F16};
    assert_int_equal(session_new(l.d, &c, (Notice){0}, &s, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "40"));
    c = (SessionConfig){64, 1, 0, TYPE_F16, TYPE_Q8_0};
    assert_int_equal(session_new(l.d, &c, (Notice){0}, &s, NULL), ERR_USAGE);
    c = (SessionConfig){64, 1, 0, TYPE_F16, TYPE_Q4_K};
    assert_int_equal(session_new(l.d, &c, (Notice){0}, &s, &err), ERR_USAGE);
    c = (SessionConfig){INT32_MAX, 1000, 0, TYPE_F32, TYPE_F32};
    Status st = session_new(l.d, &c, (Notice){0}, &s, &err);
    assert_true(st == ERR_UNAVAILABLE || st == ERR_USAGE);
    assert_true(strlen(err.text) > 20);
    c = (SessionConfig){0, 1, 0, TYPE_F16, TYPE_F16};
    assert_int_equal(session_new(l.d, &c, (Notice){0}, &s, &err), OK);
    assert_int_equal(session_n_ctx(s), l.m->h.n_ctx_train);
    assert_int_equal(session_batch_size(s), 512);
    session_free(s);
    session_free(NULL);
    unload(&l);
}

static volatile sig_atomic_t stop_now;
static size_t reports[64], n_reports;

static void stop_at_20(void *user, size_t done, size_t total) {
    assert_int_equal(total, 50);
    assert_null(user);
    assert_true(n_reports < 64);
    reports[n_reports++] = done;
    if (done >= 20) stop_now = 1;
}

static void interrupted_prefill(void **state) {
    (void)state;
    Loaded l = load(DEMO_Q4_K, 2, NULL);
    int32_t ids[50];
    Rng r = {8};
    random_ids(&r, ids, 50, l.n_vocab);
    Rows want = eval_whole(&l, ids, 50, 512, TYPE_F16), got = rows_of(50, l.n_vocab);
    Session *s = session_of(&l, 64, 1, 8, TYPE_F16);
    size_t done = 99;
    Error err;
    EvalOptions o = {.on_progress = stop_at_20, .interrupt = &stop_now};
    stop_now = 0, n_reports = 0;
    assert_int_equal(session_eval(s, 0, ids, 50, &o, &done, &err), OK);
    assert_int_equal(done, 24);  // between batches
    assert_int_equal(session_tokens(s, 0)->len, 24);
    for (size_t i = 1; i < n_reports; i++) assert_true(reports[i] > reports[i - 1]);
    eval_part(s, 0, ids, 24, 50, &got);  // and it goes on from there
    same_floats("after an interrupt", got.logits + 24 * l.n_vocab, want.logits + 24 * l.n_vocab,
                (size_t)26 * l.n_vocab);
    session_rewind(s, 0, 0);
    stop_now = 1;  // set before the start
    assert_int_equal(session_eval(s, 0, ids, 50, &o, &done, &err), OK);
    assert_true(done < 50 && session_tokens(s, 0)->len == done);
    free(want.logits);
    free(got.logits);
    session_free(s);
    unload(&l);
}

// What forward_bytes promises is what is taken, within what an allocator adds.
static void memory_estimate(void **state) {
    (void)state;
    Loaded l = load(DEMO_Q4_K, 1, NULL);
    const ForwardConfig small = {64, 1, 8, TYPE_F16, TYPE_F16},
                        big = {128, 2, 8, TYPE_F16, TYPE_F16};
    const ForwardConfig f32 = {64, 1, 8, TYPE_F32, TYPE_F32};
    const Hparams *h = &l.m->h;
    uint64_t kv = (uint64_t)h->n_layers * 2 * h->n_kv_heads * h->head_dim * 64 * 2;
    uint64_t grown =
        forward_bytes(l.m, &l.d->parts[0], &big) - forward_bytes(l.m, &l.d->parts[0], &small);
    assert_true(grown >= 3 * kv && grown < 3 * kv + 65536);
    grown = forward_bytes(l.m, &l.d->parts[0], &f32) - forward_bytes(l.m, &l.d->parts[0], &small);
    assert_true(grown >= kv && grown < kv + 65536);
    unload(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(components_of_the_demo_model),
        cmocka_unit_test(components_of_every_architecture),
        cmocka_unit_test(rope_and_cache),
        cmocka_unit_test(kv_types_stay_close),
        cmocka_unit_test(paths_f16),
        cmocka_unit_test(paths_q8_0),
        cmocka_unit_test(paths_q4_k_m),
        cmocka_unit_test(paths_odd_shapes),
        cmocka_unit_test(threads_and_kernels),
        cmocka_unit_test(sequences_interleaved),
        cmocka_unit_test(rewind_and_keep),
        cmocka_unit_test(a_full_context),
        cmocka_unit_test(bad_configurations),
        cmocka_unit_test(interrupted_prefill),
        cmocka_unit_test(memory_estimate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
