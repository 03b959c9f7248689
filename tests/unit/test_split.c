// Layers split between two backends: whatever the split, the bits of one backend that has them all,
// in logits, taps, the cache and its copies, with one sequence and with several.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "engine/session.h"

#define DEMO "models/demo.gguf"
#define ARCH(name) "tests/golden/arch/" name "-1.gguf"

enum { CTX = 48, SEQS = 3, BATCH = 40 };

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

// The CPU under two other names. Each counts the layers that run on it, its outputs and embeddings,
// and how many of it are open.
typedef struct {
    int n_layers, n_outputs, n_embeds, n_open, n_rows_told;
} Count;
static Count lower_count, upper_count;

static const BackendOps *cpu_ops(void) {
    const BackendOps *cpu = backend_by_name("cpu");
    assert_non_null(cpu);
    return cpu;
}

#define COUNTED(side)                                                                       \
    static Status side##_open(const BackendConfig *c, Backend **out, Error *err) {          \
        side##_count.n_open++;                                                              \
        return cpu_ops()->open(c, out, err);                                                \
    }                                                                                       \
    static void side##_close(Backend *b) {                                                  \
        side##_count.n_open--;                                                              \
        cpu_ops()->close(b);                                                                \
    }                                                                                       \
    static Status side##_begin(Backend *b, const Batch *batch, Error *err) {                \
        side##_count.n_rows_told += batch->n_out;                                           \
        return cpu_ops()->begin(b, batch, err);                                             \
    }                                                                                       \
    static void side##_embed(Backend *b, const Weight *table, Buffer *y) {                  \
        side##_count.n_embeds++;                                                            \
        cpu_ops()->embed(b, table, y);                                                      \
    }                                                                                       \
    static void side##_rope_kv(Backend *b, const HeadShape *h, Buffer *q, Buffer *k,        \
                               const Buffer *v, Kv *kv, int layer) {                        \
        side##_count.n_layers++;                                                            \
        cpu_ops()->rope_kv(b, h, q, k, v, kv, layer);                                       \
    }                                                                                       \
    static void side##_select(Backend *b, const Buffer *x, int from, int n, int width,      \
                              Buffer *y) {                                                  \
        side##_count.n_outputs++;                                                           \
        cpu_ops()->select(b, x, from, n, width, y);                                         \
    }                                                                                       \
    static const BackendOps *side##_ops(void) {                                             \
        static BackendOps ops;                                                              \
        memset(&side##_count, 0, sizeof side##_count);                                      \
        ops = *cpu_ops();                                                                   \
        ops.name = #side;                                                                   \
        ops.open = side##_open, ops.close = side##_close, ops.begin = side##_begin;         \
        ops.embed = side##_embed, ops.rope_kv = side##_rope_kv, ops.select = side##_select; \
        return &ops;                                                                        \
    }
COUNTED(lower)
COUNTED(upper)

typedef struct {
    Gguf *g;
    Model *m;
    DeviceModel *whole, *split;
    Forward *f, *want;
    int n_layers;
    size_t n_vocab, kv_dim;
    int32_t ids[CTX];
    float *got_logits, *want_logits;
} Pair;

static Pair pair_of(const char *path, int n_upper) {
    Pair p = {0};
    Error err;
    Rng r = {5};
    const BackendConfig config = {.n_threads = 2};
    const ForwardConfig c = {CTX, SEQS, BATCH, TYPE_F16, TYPE_F32};
    must(gguf_open(path, &p.g, &err), &err);
    must(model_bind(p.g, (Notice){0}, &p.m, &err), &err);
    const DeviceSplit split = {
        .lower = {lower_ops(), config}, .upper = {upper_ops(), config}, .n_upper = n_upper};
    must(device_model_open(p.m, cpu_ops(), &config, &p.whole, &err), &err);
    must(device_model_split(p.m, &split, &p.split, &err), &err);
    must(forward_new(p.whole, &c, &p.want, &err), &err);
    must(forward_new(p.split, &c, &p.f, &err), &err);
    p.n_layers = p.m->h.n_layers;
    p.n_vocab = (size_t)p.m->h.n_vocab;
    p.kv_dim = (size_t)p.m->h.n_kv_heads * (size_t)p.m->h.head_dim;
    p.got_logits = room(BATCH * p.n_vocab * 4), p.want_logits = room(BATCH * p.n_vocab * 4);
    for (int i = 0; i < CTX; i++) p.ids[i] = (int32_t)rng_below(&r, p.n_vocab);
    return p;
}

static void drop_pair(Pair *p) {
    forward_free(p->f);
    forward_free(p->want);
    device_model_close(p->whole);
    device_model_close(p->split);
    assert_int_equal(lower_count.n_open, 0);
    assert_int_equal(upper_count.n_open, 0);
    model_free(p->m);
    gguf_close(p->g);
    free(p->got_logits);
    free(p->want_logits);
}

static void run_both(Pair *p, int n, const int32_t *token, const int32_t *pos, const int32_t *seq,
                     int n_out, const int32_t *rows) {
    Error err;
    must(forward_run(p->f, n, token, pos, seq, n_out, rows, p->got_logits, &err), &err);
    must(forward_run(p->want, n, token, pos, seq, n_out, rows, p->want_logits, &err), &err);
    same_floats("logits", p->got_logits, p->want_logits, (size_t)n_out * p->n_vocab);
}

// n tokens of one sequence from position `at` on, all logits.
static void run_one(Pair *p, int seq, int at, int n) {
    int32_t pos[BATCH], seqs[BATCH], rows[BATCH];
    for (int i = 0; i < n; i++) pos[i] = at + i, seqs[i] = seq, rows[i] = i;
    run_both(p, n, p->ids + at, pos, seqs, n, rows);
}

static void same_cache(Pair *p, int seq, int n) {
    float *got = room(2 * p->kv_dim * 4), *want = room(2 * p->kv_dim * 4);
    for (int layer = 0; layer < p->n_layers; layer++) {
        for (int pos = 0; pos < n; pos++) {
            Error err;
            must(forward_kv_read(p->f, layer, seq, pos, got, got + p->kv_dim, &err), &err);
            must(forward_kv_read(p->want, layer, seq, pos, want, want + p->kv_dim, &err), &err);
            same_floats("the cache", got, want, 2 * p->kv_dim);
        }
    }
    free(got);
    free(want);
}

static void check_split(const char *path, int n_upper) {
    static const int32_t turned[] = {5, 0, 39, 5}, two[] = {1, 2};
    Pair p = pair_of(path, n_upper);
    const int layers = n_upper < p.n_layers ? n_upper : p.n_layers;
    run_one(&p, 0, 0, BATCH);  // more rows than are made at a time
    for (int i = 0; i < 5; i++) run_one(&p, 0, BATCH + i, 1);
    same_cache(&p, 0, BATCH + 5);
    assert_int_equal(upper_count.n_layers, 6 * layers);
    assert_int_equal(lower_count.n_layers, 6 * (p.n_layers - layers));
    assert_int_equal(upper_count.n_embeds, layers == p.n_layers ? 6 : 0);
    assert_int_equal(lower_count.n_embeds, layers == p.n_layers ? 0 : 6);
    assert_int_equal(upper_count.n_outputs, n_upper > p.n_layers ? 7 : 0);
    assert_int_equal(lower_count.n_outputs, n_upper > p.n_layers ? 0 : 7);
    assert_int_equal(upper_count.n_rows_told, n_upper > p.n_layers ? BATCH + 5 : 0);
    assert_int_equal(lower_count.n_rows_told, n_upper > p.n_layers ? 0 : BATCH + 5);

    // Some rows, no rows; a start that two sequences share; a step of three at other positions.
    int32_t pos[BATCH], seq[BATCH];
    for (int i = 0; i < BATCH; i++) pos[i] = i, seq[i] = 0;
    run_both(&p, BATCH, p.ids, pos, seq, 4, turned);
    run_both(&p, BATCH, p.ids, pos, seq, 0, NULL);
    forward_kv_copy(p.f, 0, 2, 9);
    forward_kv_copy(p.want, 0, 2, 9);
    same_cache(&p, 2, 9);
    run_one(&p, 1, 0, 3);
    const int32_t step_pos[] = {12, 3, 9}, step_seq[] = {0, 1, 2};
    run_both(&p, 3, p.ids + 20, step_pos, step_seq, 2, two);
    for (int i = 0; i < 9; i++) seq[i] = i % 3;
    for (int i = 0; i < 9; i++) pos[i] = (i % 3 == 0 ? 13 : i % 3 == 1 ? 4 : 10) + i / 3;
    run_both(&p, 9, p.ids, pos, seq, 2, two);
    for (int s = 0; s < SEQS; s++) same_cache(&p, s, s == 0 ? 16 : s == 1 ? 7 : 13);

    Error err;
    float *x = room(2 * p.kv_dim * 4);
    assert_int_equal(forward_kv_read(p.f, -1, 0, 0, x, x + p.kv_dim, &err), ERR_USAGE);
    assert_int_equal(forward_kv_read(p.f, p.n_layers, 0, 0, x, x + p.kv_dim, &err), ERR_USAGE);
    assert_int_equal(forward_kv_read(p.f, 0, SEQS, 0, x, x + p.kv_dim, &err), ERR_USAGE);
    free(x);
    drop_pair(&p);
}

static void check_every_split(const char *path) {
    Pair p = pair_of(path, 0);
    const int n_layers = p.n_layers;
    drop_pair(&p);
    for (int n = 0; n <= n_layers + 1; n++) check_split(path, n);
    check_split(path, n_layers + 70);
}

static void the_demo_model(void **state) {
    (void)state;
    check_every_split(DEMO);
}

static void every_architecture(void **state) {
    (void)state;
    check_every_split(ARCH("llama"));
    check_every_split(ARCH("llama3"));
    check_every_split(ARCH("qwen2"));
    check_every_split(ARCH("qwen3"));
}

// --- taps -------------------------------------------------------------------------------------

typedef struct {
    char *names;
    float *x;
    size_t n_names, n;
} Seen;
enum { MOST_SEEN = 1 << 21, MOST_NAMES = 1 << 16 };

static void see(void *user, const char *name, int layer, const float *x, size_t rows,
                size_t width) {
    Seen *s = user;
    assert_true(s->n + rows * width <= MOST_SEEN && s->n_names + 40 < MOST_NAMES);
    memcpy(s->x + s->n, x, rows * width * 4);
    s->n += rows * width;
    s->n_names += (size_t)snprintf(s->names + s->n_names, 40, "%d.%s ", layer, name);
}

static void taps_see_the_same(void **state) {
    (void)state;
    Seen got = {room(MOST_NAMES), room((size_t)MOST_SEEN * 4), 0, 0}, want = got;
    want.names = room(MOST_NAMES), want.x = room((size_t)MOST_SEEN * 4);
    for (int n = 0; n <= 4; n++) {
        Pair p = pair_of(ARCH("qwen3"), n);
        assert_int_equal(p.n_layers, 3);
        got.n = want.n = got.n_names = want.n_names = 0;
        forward_set_tap(p.f, (Tap){see, &got, true});
        forward_set_tap(p.want, (Tap){see, &want, true});
        run_one(&p, 0, 0, 35);
        run_one(&p, 0, 35, 1);
        assert_string_equal(got.names, want.names);
        assert_int_equal(got.n, want.n);
        same_floats("taps", got.x, want.x, got.n);
        drop_pair(&p);
    }
    free(got.names), free(got.x), free(want.names), free(want.x);
}

// --- what a split says of itself ----------------------------------------------------------------

static void the_parts_say_what_they_have(void **state) {
    (void)state;
    static const struct {
        int n;
        const char *backend, *upper, *lower;
    } cases[] = {{0, "lower", NULL, NULL},
                 {1, "upper", " (1 layer), lower: ", " (2 layers and the output)"},
                 {3, "upper", " (3 layers), lower: ", " (the output)"},
                 {4, "upper", NULL, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Pair p = pair_of(ARCH("llama"), cases[i].n);
        const char *device = device_model_device(p.split);
        assert_int_equal(p.n_layers, 3);
        assert_string_equal(device_model_backend(p.split), cases[i].backend);
        assert_true(device_model_batch_invariant(p.split));
        assert_int_equal(device_model_ops(p.split) == NULL, cases[i].upper != NULL);
        if (!cases[i].upper) {
            assert_string_equal(device, device_model_device(p.whole));
        } else if (!strstr(device, cases[i].upper) || !strstr(device, cases[i].lower)) {
            fail_msg("-ngl %d: %s", cases[i].n, device);
        }
        drop_pair(&p);
    }
}

// A backend that fails leaves nothing open, whichever of the two it is.
static Status no_open(const BackendConfig *c, Backend **out, Error *err) {
    (void)c;
    *out = NULL;
    return error_set(err, ERR_UNAVAILABLE, "no such device");
}

static int n_uploads_left;

static Status some_weights(Backend *b, const Tensor *t, WeightUse use, Weight **out, Error *err) {
    if (n_uploads_left-- == 0) return error_set(err, ERR_UNAVAILABLE, "no room for %s", t->name);
    return cpu_ops()->weight(b, t, use, out, err);
}

static void a_failing_part(void **state) {
    (void)state;
    const BackendConfig config = {.n_threads = 1};
    Gguf *g;
    Model *m;
    DeviceModel *d = NULL;
    Error err;
    must(gguf_open(ARCH("llama"), &g, &err), &err);
    must(model_bind(g, (Notice){0}, &m, &err), &err);
    BackendOps closed = *cpu_ops(), full = *upper_ops();
    closed.open = no_open;
    const DeviceSplit none = {
        .lower = {lower_ops(), config}, .upper = {&closed, config}, .n_upper = 1};
    assert_int_equal(device_model_split(m, &none, &d, &err), ERR_UNAVAILABLE);
    assert_string_equal(err.text, "no such device");
    assert_null(d);
    const DeviceSplit unopened = {
        .lower = {lower_ops(), config}, .upper = {&closed, config}, .n_upper = 0};
    must(device_model_split(m, &unopened, &d, &err), &err);
    device_model_close(d);
    full.weight = some_weights;
    for (int left = 0; left < 9; left++) {
        const DeviceSplit one = {
            .lower = {lower_ops(), config}, .upper = {&full, config}, .n_upper = 1};
        n_uploads_left = left;
        assert_int_equal(device_model_split(m, &one, &d, &err), ERR_UNAVAILABLE);
        assert_non_null(strstr(err.text, "no room for blk.2."));
        assert_int_equal(lower_count.n_open, 0);
        assert_int_equal(upper_count.n_open, 0);
    }
    device_model_close(NULL);
    model_free(m);
    gguf_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_demo_model),    cmocka_unit_test(every_architecture),
        cmocka_unit_test(taps_see_the_same), cmocka_unit_test(the_parts_say_what_they_have),
        cmocka_unit_test(a_failing_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
