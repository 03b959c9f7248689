// Verifying a backend while it runs: the right one passes whatever its model, cache and chunks; a
// fault is found in its component, and nothing after it is blamed.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "faulty_backend.h"
#include "verify/live.h"

#define DEMO_F16 "tests/golden/models/demo-f16.gguf"
#define DEMO_Q8_0 "tests/golden/models/demo-Q8_0.gguf"
#define DEMO_Q4_K "models/demo.gguf"
#define STORIES "../shared/models/stories260K.gguf"
#define ARCH(name) "tests/golden/arch/" name "-1.gguf"

enum { N = 24 };

typedef struct {
    Gguf *gguf;
    Model *model;
    DeviceModel *device;
    Oracle *oracle;
    int32_t ids[1024];
} Loaded;

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

static Loaded load(const char *path, const BackendOps *ops) {
    Loaded l = {0};
    Error err = {0};
    Rng r = {7};
    const BackendConfig config = {.n_threads = 2};
    must(gguf_open(path, &l.gguf, &err), &err);
    must(model_bind(l.gguf, (Notice){0}, &l.model, &err), &err);
    must(device_model_open(l.model, ops, &config, &l.device, &err), &err);
    must(oracle_new(l.model, 2, &l.oracle, &err), &err);
    for (size_t i = 0; i < 1024; i++) {
        l.ids[i] = i ? (int32_t)rng_below(&r, (uint64_t)l.model->h.n_vocab) : 1;
    }
    return l;
}

static void unload(Loaded *l) {
    oracle_free(l->oracle);
    device_model_close(l->device);
    model_free(l->model);
    gguf_close(l->gguf);
}

static Report verify(const Loaded *l, size_t n, const LiveOptions *o) {
    Report r;
    Error err = {0};
    int prompt;
    report_init(&r);
    must(report_prompt(&r, "test", l->ids, n, "", &prompt, &err), &err);
    must(live_verify(l->device, l->oracle, l->ids, n, o, &r, prompt, NULL, &err), &err);
    report_finish(&r);
    return r;
}

static const ComponentResult *find(const Report *r, Component c, int layer) {
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *x = &r->components[i];
        if (x->ref.c == c && x->ref.layer == layer) return x;
    }
    return NULL;
}

// Everything that a backend shows is there once, and nothing comes near its bounds.
static void must_pass(const Loaded *l, const Report *r, bool scores, const char *what) {
    const Hparams *h = &l->model->h;
    const bool norms = l->model->layers[0].q_norm;
    const size_t layer = 17 + (scores ? 2 : 0) + (norms ? 2 : 0);
    assert_int_equal(r->n_components, layer * (size_t)h->n_layers + 4);
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *c = &r->components[i];
        char text[COMPONENT_TEXT];
        // Without its scores attention is judged as a whole.
        if (c->coarse != (!scores && c->ref.c == COMP_ATTN)) {
            fail_msg("%s: %s is coarse, or not", what, component_text(c->ref, text));
        }
        if (c->outcome == OUTCOME_PASS && c->worst.ratio < 0.5) continue;
        fail_msg("%s: %s: ratio %g by %s (%g of %g) at token %zu", what,
                 component_text(c->ref, text), c->worst.ratio, measure_name(c->worst.by),
                 c->worst.error, c->worst.bound, c->token);
    }
}

static void check_right(const char *path) {
    static const TensorType caches[] = {TYPE_F32, TYPE_F16, TYPE_Q8_0};
    Loaded l = load(path, right_ops());
    for (int i = 0; i < 3; i++) {
        if (caches[i] == TYPE_Q8_0 && l.model->h.head_dim % 32) continue;
        const LiveOptions o = {.type_k = caches[i], .type_v = caches[i], .scores = true};
        Report r = verify(&l, N, &o);
        must_pass(&l, &r, true, path);
        report_free(&r);
    }
    unload(&l);
}

static void right_models(void **state) {
    (void)state;
    check_right(DEMO_F16);
    check_right(DEMO_Q8_0);
    check_right(DEMO_Q4_K);
    check_right(ARCH("llama"));
    check_right(ARCH("llama3"));
    check_right(ARCH("qwen2"));
    check_right(ARCH("qwen3"));
}

static void a_real_model(void **state) {
    (void)state;
    skip_without(STORIES);
    check_right(STORIES);
}

static void kinds_of_runs(void **state) {
    (void)state;
    static const size_t chunks[] = {1, 2, 8, 13}, whole[] = {N};
    Loaded l = load(DEMO_Q4_K, right_ops());
    LiveOptions o = {.type_k = TYPE_F16, .type_v = TYPE_Q8_0, .scores = true};
    Report one = verify(&l, N, &o);
    must_pass(&l, &one, true, "one prefill");

    o.chunks = chunks, o.n_chunks = 4;
    Report r = verify(&l, N, &o);
    must_pass(&l, &r, true, "chunks");
    for (size_t i = 0; i < r.n_components; i++) {  // a right backend's rows do not show the chunks
        assert_true(r.components[i].worst.ratio == one.components[i].worst.ratio);
        assert_int_equal(r.components[i].n_cells, one.components[i].n_cells);
    }
    report_free(&r);

    o.chunks = whole, o.n_chunks = 1, o.scores = false;
    r = verify(&l, N, &o);
    must_pass(&l, &r, false, "one chunk, no scores");
    assert_null(find(&r, COMP_KQ, 0));
    report_free(&r);

    o.chunks = NULL, o.drift = true;
    r = verify(&l, N, &o);
    must_pass(&l, &r, false, "with drift");
    const ComponentResult *logits = find(&r, COMP_LOGITS, -1);
    assert_true(logits->drift > 0 && logits->drift < 1e-2);  // that of rounding to eight bits
    assert_true(find(&r, COMP_EMBD, -1)->drift == 0);
    for (size_t i = 0; i < r.n_components; i++) {  // the oracle's own pass has no cache, no choice
        const Component c = r.components[i].ref.c;
        const bool none = c == COMP_K_CACHE || c == COMP_V_CACHE || c == COMP_TOKEN;
        assert_true((r.components[i].drift >= 0) == !none);
    }
    report_free(&r);
    report_free(&one);

    o.drift = false;
    r = verify(&l, 1, &o);
    must_pass(&l, &r, false, "one token");
    report_free(&r);

    o.replay.max_rows = 5;
    r = verify(&l, 500, &o);
    must_pass(&l, &r, false, "a few rows of many");
    assert_int_equal(find(&r, COMP_Q, 3)->rows, 5);
    assert_int_equal(find(&r, COMP_LOGITS, -1)->token >= 495, 1);
    report_free(&r);
    unload(&l);
}

static void last_logits(void **state) {
    (void)state;
    Loaded l = load(ARCH("llama"), right_ops());
    const size_t n_vocab = (size_t)l.model->h.n_vocab;
    float *got = room(n_vocab * sizeof *got), *want = room(n_vocab * sizeof *want);
    const LiveOptions o = {.type_k = TYPE_F16, .type_v = TYPE_F16};
    const SessionConfig c = {.n_ctx = N, .n_seqs = 1, .type_k = TYPE_F16, .type_v = TYPE_F16};
    Session *s;
    Report r;
    Error err = {0};
    int prompt;
    must(session_new(l.device, &c, (Notice){0}, &s, &err), &err);
    for (size_t i = 0; i < N; i++) must(session_step(s, 0, l.ids[i], want, &err), &err);
    report_init(&r);
    must(report_prompt(&r, "test", l.ids, N, "", &prompt, &err), &err);
    must(live_verify(l.device, l.oracle, l.ids, N, &o, &r, prompt, got, &err), &err);
    same_floats("the last token's logits", got, want, n_vocab);
    session_free(s);
    report_free(&r);
    free(got), free(want);
    unload(&l);
}

static void refusals(void **state) {
    (void)state;
    Loaded l = load(ARCH("qwen3"), right_ops());  // heads of 40
    LiveOptions o = {.type_k = TYPE_Q8_0, .type_v = TYPE_F16};
    Report r;
    Error err = {0};
    int prompt;
    report_init(&r);
    must(report_prompt(&r, "test", l.ids, N, "", &prompt, &err), &err);
    assert_int_equal(live_verify(l.device, l.oracle, l.ids, N, &o, &r, prompt, NULL, &err),
                     ERR_USAGE);
    o.type_k = TYPE_F16;
    assert_int_equal(live_verify(l.device, l.oracle, l.ids, 0, &o, &r, prompt, NULL, NULL),
                     ERR_USAGE);
    l.ids[3] = l.model->h.n_vocab;
    assert_true(live_verify(l.device, l.oracle, l.ids, N, &o, &r, prompt, NULL, &err) != OK);
    assert_int_equal(r.n_components, 0);
    report_free(&r);
    unload(&l);
}

// --- faults -------------------------------------------------------------------------------------

// The components that fail, in the order of the pass: "blk.1.ffn_act blk.3.q".
static void check_fault(FaultKind kind, const LiveOptions *o, const char *want) {
    Loaded l = load(DEMO_Q4_K, faulty_ops(kind));
    Report r = verify(&l, N, o);
    char got[400] = "";
    for (size_t i = 0; i < r.n_components; i++) {
        char text[COMPONENT_TEXT];
        if (r.components[i].outcome != OUTCOME_FAIL) continue;
        const size_t at = strlen(got);
        snprintf(got + at, sizeof got - at, "%s%s", at ? " " : "",
                 component_text(r.components[i].ref, text));
    }
    assert_string_equal(got, want);
    report_free(&r);
    unload(&l);
}

static void faults_are_found(void **state) {
    (void)state;
    static const size_t chunks[] = {1, 2, 8, 13};
    LiveOptions o = {.type_k = TYPE_F16, .type_v = TYPE_F16, .scores = true};
    for (int i = 0; i < 2; i++) {  // in one prefill, and gathered from several chunks
        check_fault(RIGHT, &o, "");
        check_fault(ACTIVATION, &o, "blk.1.ffn_act");
        check_fault(SCALE, &o, "blk.0.kq blk.1.kq blk.2.kq blk.3.kq blk.4.kq blk.5.kq");
        check_fault(CACHE_READ, &o, "blk.1.v_cache blk.1.attn");  // judged by what it seems to read
        o.chunks = chunks, o.n_chunks = 4;
    }
    // Attention is judged by what the cache gives back, and did right.
    check_fault(CACHE_WRITE, &o,
                "blk.0.v_cache blk.1.v_cache blk.2.v_cache blk.3.v_cache blk.4.v_cache "
                "blk.5.v_cache");
    o.scores = false;
    check_fault(SCALE, &o, "blk.0.attn blk.1.attn blk.2.attn blk.3.attn blk.4.attn blk.5.attn");
}

static void a_cache_that_changes(void **state) {
    (void)state;
    const LiveOptions o = {.type_k = TYPE_F16, .type_v = TYPE_F16, .scores = true};
    static const FaultKind kinds[] = {RIGHT, CACHE_CHANGES};
    for (int i = 0; i < 2; i++) {
        Loaded l = load(DEMO_F16, faulty_ops(kinds[i]));
        Report r = verify(&l, N, &o);
        assert_null(report_first_component(&r));
        assert_int_equal(r.n_findings, 1);
        assert_int_equal(r.findings[0].outcome, i ? OUTCOME_FAIL : OUTCOME_PASS);
        assert_true(report_passed(&r) == (i == 0));
        if (i) assert_non_null(strstr(r.findings[0].text, "key of token 2 in layer 1"));
        report_free(&r);
        unload(&l);
    }
}

static void numbers_that_are_none(void **state) {
    (void)state;
    const LiveOptions o = {.type_k = TYPE_F16, .type_v = TYPE_F16, .scores = true};
    Loaded l = load(DEMO_F16, faulty_ops(NOT_A_NUMBER));
    Report r = verify(&l, N, &o);
    const ComponentResult *first = report_first_component(&r);
    assert_non_null(first);
    assert_int_equal(first->ref.c, COMP_FFN_ACT);
    assert_int_equal(first->ref.layer, 1);
    assert_int_equal(first->worst.by, BY_NAN);
    assert_int_equal(first->bad_token, N - 1);
    report_free(&r);
    unload(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_models),
        cmocka_unit_test(a_real_model),
        cmocka_unit_test(kinds_of_runs),
        cmocka_unit_test(last_logits),
        cmocka_unit_test(refusals),
        cmocka_unit_test(faults_are_found),
        cmocka_unit_test(a_cache_that_changes),
        cmocka_unit_test(numbers_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
