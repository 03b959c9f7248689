// Captured runs: equal to what transformers computes, whatever the batch size, and through a file.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/file.h"
#include "check.h"
#include "verify/capture.h"

static const Notice quiet;
static const char demo_f16[] = "tests/golden/models/demo-f16.gguf";

typedef struct {
    Gguf *gguf;
    Model *model;
    DeviceModel *device;
    Session *session;
} Loaded;

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

static Loaded load(const char *path, int batch, TensorType kv) {
    Loaded l = {0};
    Error err = {0};
    const BackendConfig config = {.n_threads = 2};
    const SessionConfig s = {
        .n_ctx = 512, .n_seqs = 1, .batch_size = batch, .type_k = kv, .type_v = kv};
    must(gguf_open(path, &l.gguf, &err), &err);
    must(model_bind(l.gguf, quiet, &l.model, &err), &err);
    must(device_model_open(l.model, backend_by_name("cpu"), &config, &l.device, &err), &err);
    must(session_new(l.device, &s, quiet, &l.session, &err), &err);
    return l;
}

static void unload(Loaded *l) {
    session_free(l->session);
    device_model_close(l->device);
    model_free(l->model);
    gguf_close(l->gguf);
}

static TracePrompt capture(const Loaded *l, const int32_t *ids, size_t n, ComponentSet which) {
    TracePrompt p;
    Error err = {0};
    must(capture_prompt(l->session, l->device, ids, n, which, &p, &err), &err);
    return p;
}

static void compare_golden(const char *model, const char *golden, double bound, double long_bound) {
    Loaded l = load(model, 512, TYPE_F32);
    Trace *t;
    Error err = {0};
    must(trace_open(golden, NULL, quiet, &t, &err), &err);
    for (size_t i = 0; i < t->n_prompts; i++) {
        const TracePrompt *want = &t->prompts[i];
        const double most = want->n_tokens > 100 ? long_bound : bound;
        TracePrompt got = capture(&l, want->tokens, want->n_tokens, CAPTURE_ALL);
        size_t scores = 0;
        for (size_t k = 0; k < got.n_arrays; k++)
            scores += component_is_scores(got.arrays[k].ref.c);
        assert_int_equal(scores, 2 * l.model->h.n_layers);
        assert_int_equal(got.n_arrays, want->n_arrays + scores + 2 * (size_t)l.model->h.n_layers);
        for (size_t k = 0; k < want->n_arrays; k++) {
            const TraceArray *a = &want->arrays[k];
            const TraceArray *b = trace_find(&got, a->ref.c, a->ref.layer);
            char text[COMPONENT_TEXT];
            assert_non_null(b);
            assert_int_equal(b->width, a->width);
            assert_int_equal(b->rows, want->n_tokens);
            const double e = nmse(b->x + a->first_row * a->width, a->x, a->rows * a->width);
            if (!(e <= most)) {
                fail_msg("%s, %s: NMSE %g, at most %g", want->name, component_text(a->ref, text), e,
                         most);
            }
        }
        capture_free(&got);
    }
    trace_close(t);
    unload(&l);
}

static void demo_is_golden(void **state) {
    (void)state;
    compare_golden(demo_f16, "tests/golden/demo-golden.gguf", 1e-10, 1e-10);
}

// transformers keeps its rotary frequencies in float32, which shows at position 300.
static void architectures_are_golden(void **state) {
    (void)state;
    static const char *const names[] = {"llama", "llama3", "qwen2", "qwen3"};
    for (size_t i = 0; i < 4; i++) {
        char model[64], golden[64];
        snprintf(model, sizeof model, "tests/golden/arch/%s-1.gguf", names[i]);
        snprintf(golden, sizeof golden, "tests/golden/arch/%s-1-golden.gguf", names[i]);
        compare_golden(model, golden, 1e-10, 1e-8);
    }
}

static void same_prompt(const TracePrompt *a, const TracePrompt *b) {
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_memory_equal(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens);
    assert_int_equal(a->n_arrays, b->n_arrays);
    assert_int_equal(a->chosen, b->chosen);
    for (size_t i = 0; i < a->n_arrays; i++) {
        char text[COMPONENT_TEXT];
        const TraceArray *x = &a->arrays[i], *y = &b->arrays[i];
        assert_int_equal(component_order(x->ref), component_order(y->ref));
        assert_int_equal(x->rows, y->rows);
        assert_int_equal(x->width, y->width);
        assert_int_equal(x->first_row, y->first_row);
        same_floats(component_text(x->ref, text), x->x, y->x, x->rows * x->width);
    }
}

static void make_ids(int32_t *ids, size_t n) {
    Rng r = {11};
    for (size_t i = 0; i < n; i++) ids[i] = i ? 3 + (int32_t)rng_below(&r, 2000) : 1;
}

// All rows, scores included, are the same bits in one batch, in sevens and one by one; and again on
// a session that has been used.
static void batches_do_not_show(void **state) {
    (void)state;
    int32_t ids[40];
    make_ids(ids, 40);
    Loaded whole = load(demo_f16, 512, TYPE_F16);
    TracePrompt want = capture(&whole, ids, 40, CAPTURE_ALL);
    const TraceArray *kq = trace_find(&want, COMP_KQ_SOFT_MAX, 5);
    assert_int_equal(kq->rows, 40 * 4);
    assert_int_equal(kq->width, 40);
    for (size_t r = 0; r < kq->rows; r++) {
        double sum = 0;
        for (size_t i = 0; i < 40; i++) {
            sum += (double)kq->x[r * 40 + i];
            if (i > r / 4) assert_true(kq->x[r * 40 + i] == 0);
        }
        assert_true(fabs(sum - 1) < 1e-5);
    }
    for (int batch = 1; batch <= 7; batch += 6) {
        Loaded l = load(demo_f16, batch, TYPE_F16);
        for (int again = 0; again < 2; again++) {
            TracePrompt got = capture(&l, ids, 40, CAPTURE_ALL);
            same_prompt(&got, &want);
            capture_free(&got);
        }
        unload(&l);
    }
    capture_free(&want);
    unload(&whole);
}

static void subsets(void **state) {
    (void)state;
    int32_t ids[40];
    make_ids(ids, 40);
    Loaded l = load(demo_f16, 16, TYPE_F16);
    TracePrompt all = capture(&l, ids, 40, CAPTURE_ALL);
    TracePrompt some = capture(&l, ids, 40, CAPTURE_ALL & ~CAPTURE_SCORES);
    assert_int_equal(all.n_arrays - some.n_arrays, 2 * 6);
    assert_null(trace_find(&some, COMP_KQ, 0));
    capture_free(&some);
    const ComponentSet set = 1u << COMP_V | 1u << COMP_EMBD | 1u << COMP_V_CACHE;
    some = capture(&l, ids, 40, set | 1u << COMP_TOKEN);
    assert_int_equal(some.n_arrays, 13);
    assert_int_equal(some.chosen, all.chosen);
    for (size_t i = 0; i < some.n_arrays; i++) {
        const TraceArray *a = &some.arrays[i];
        same_floats("a subset", a->x, trace_find(&all, a->ref.c, a->ref.layer)->x,
                    a->rows * a->width);
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < all.n_arrays; i++) bytes += all.arrays[i].rows * all.arrays[i].width * 4;
    assert_true(capture_bytes(l.model, CAPTURE_ALL, 40) == bytes);
    const uint64_t less = capture_bytes(l.model, CAPTURE_ALL & ~(1u << COMP_K_CACHE), 40);
    assert_true(bytes - less == 6 * 40 * 128 * 4);
    assert_true(capture_bytes(l.model, 1u << COMP_TOKEN, 40) == 0);
    capture_free(&some);
    capture_free(&all);
    unload(&l);
}

// The cache gives back what was put in, in its own type, at every position.
static void caches(void **state) {
    (void)state;
    static const TensorType types[] = {TYPE_F32, TYPE_F16, TYPE_Q8_0};
    int32_t ids[40];
    make_ids(ids, 40);
    for (size_t t = 0; t < 3; t++) {
        Loaded l = load(demo_f16, 7, types[t]);
        TracePrompt p = capture(&l, ids, 40, CAPTURE_ALL);
        for (int layer = 0; layer < 6; layer++) {
            for (int v = 0; v < 2; v++) {
                const TraceArray *in = trace_find(&p, v ? COMP_V : COMP_K_ROPE, layer);
                const TraceArray *out = trace_find(&p, v ? COMP_V_CACHE : COMP_K_CACHE, layer);
                assert_non_null(out);
                assert_int_equal(out->rows, 40);
                assert_int_equal(out->width, in->width);
                assert_int_equal(out->first_row, 0);
                const double e = nmse(out->x, in->x, 40 * in->width);
                const double most[] = {0, 1e-6, 1e-4}, least[] = {0, 1e-9, 1e-6};
                if (!(e >= least[t] && e <= most[t])) fail_msg("NMSE %g", e);
            }
        }
        capture_free(&p);
        unload(&l);
    }
}

static void probabilities(void **state) {
    (void)state;
    int32_t ids[9];
    make_ids(ids, 9);
    Loaded l = load(demo_f16, 4, TYPE_F16);
    TracePrompt p = capture(&l, ids, 9, 1u << COMP_PROBS);
    assert_int_equal(p.n_arrays, 1);
    assert_int_equal(p.arrays[0].rows, 1);
    assert_int_equal(p.arrays[0].width, 2048);
    assert_int_equal(p.arrays[0].first_row, 8);
    for (int32_t i = 0; i < 2048; i++) assert_true(p.arrays[0].x[i] == (i == p.chosen));
    assert_true(p.sampling.given && p.sampling.temp == 0);
    capture_free(&p);
    unload(&l);
}

static void through_a_file(void **state) {
    (void)state;
    char path[64];
    int32_t ids[9];
    Error err = {0};
    TraceWriter *w;
    Trace *t;
    snprintf(path, sizeof path, "/tmp/plumb-capture-%d.gguf", (int)getpid());
    make_ids(ids, 9);
    Loaded l = load("tests/golden/models/demo-Q8_0.gguf", 4, TYPE_Q8_0);
    TracePrompt p = capture(&l, ids, 9, CAPTURE_ALL | 1u << COMP_PROBS);
    TracePrompt q = capture(&l, ids, 1, CAPTURE_ALL);
    p.text = "a text\n</s>";
    must(trace_writer_new(&w, &err), &err);
    must(capture_describe(w, l.device, TYPE_Q8_0, TYPE_Q8_0, &err), &err);
    must(trace_writer_add(w, "nine", &p, &err), &err);
    must(trace_writer_add(w, "bos", &q, &err), &err);
    assert_int_equal(trace_writer_add(w, "bos", &q, &err), ERR_USAGE);
    must(trace_writer_finish(w, path, &err), &err);
    must(trace_open(path, NULL, quiet, &t, &err), &err);
    assert_int_equal(t->n_prompts, 2);
    assert_string_equal(t->prompts[1].name, "nine");
    same_prompt(&t->prompts[1], &p);
    same_prompt(&t->prompts[0], &q);
    assert_string_equal(t->prompts[1].text, p.text);
    assert_null(t->prompts[0].text);
    assert_true(t->prompts[0].sampling.given && t->prompts[0].sampling.temp == 0);
    char sha[65];
    must(capture_model_sha256(l.gguf, sha, &err), &err);
    assert_string_equal(t->model_sha256, sha);
    assert_string_equal(t->backend, "cpu");
    assert_string_equal(t->build, "plumb " PLUMB_VERSION);
    assert_string_equal(t->kv_type_k, "Q8_0");
    assert_true(t->says_activation);
    assert_int_equal(t->activation[TYPE_Q8_0], device_model_activation(l.device, 0, TYPE_Q8_0));
    assert_int_equal(t->n_ignored, 0);
    trace_close(t);
    trace_writer_free(w);
    capture_free(&p);
    capture_free(&q);
    unload(&l);
    unlink(path);
}

static ActQuant as_it_is(const Backend *b, TensorType weight) {
    (void)b, (void)weight;
    return ACT_F32;
}

// What a trace says of rounding holds for all layers. Layers split between two backends are captured
// as those of one are; where the two round differently, nothing is said of that.
static void a_split_model(void **state) {
    (void)state;
    char path[64];
    int32_t ids[9];
    Error err = {0};
    snprintf(path, sizeof path, "/tmp/plumb-split-%d.gguf", (int)getpid());
    make_ids(ids, 9);
    for (int alike = 0; alike < 2; alike++) {
        Loaded l = load("tests/golden/models/demo-Q8_0.gguf", 4, TYPE_F16);
        TracePrompt want = capture(&l, ids, 9, CAPTURE_ALL), got;
        BackendOps other = *backend_by_name("cpu");
        other.name = "other";
        if (!alike) other.activation = as_it_is;
        const BackendConfig config = {.n_threads = 2};
        const DeviceSplit split = {
            .lower = {backend_by_name("cpu"), config}, .upper = {&other, config}, .n_upper = 2};
        const SessionConfig c = {512, 1, 4, TYPE_F16, TYPE_F16};
        DeviceModel *d;
        Session *s;
        TraceWriter *w;
        Trace *t;
        must(device_model_split(l.model, &split, &d, &err), &err);
        must(session_new(d, &c, quiet, &s, &err), &err);
        must(capture_prompt(s, d, ids, 9, CAPTURE_ALL, &got, &err), &err);
        same_prompt(&got, &want);
        must(trace_writer_new(&w, &err), &err);
        must(capture_describe(w, d, TYPE_F16, TYPE_F16, &err), &err);
        must(trace_writer_add(w, "", &got, &err), &err);
        must(trace_writer_finish(w, path, &err), &err);
        must(trace_open(path, NULL, quiet, &t, &err), &err);
        assert_string_equal(t->backend, "other");
        assert_int_equal(t->says_activation, alike);
        trace_close(t);
        trace_writer_free(w);
        capture_free(&got);
        capture_free(&want);
        session_free(s);
        device_model_close(d);
        unload(&l);
        unlink(path);
    }
}

static void refusals(void **state) {
    (void)state;
    TracePrompt p;
    Error err = {0};
    int32_t ids[600] = {1, 99999};
    Loaded l = load(demo_f16, 16, TYPE_F16);
    assert_int_equal(capture_prompt(l.session, l.device, ids, 0, CAPTURE_ALL, &p, &err), ERR_USAGE);
    assert_int_equal(capture_prompt(l.session, l.device, ids, 2, CAPTURE_ALL, &p, &err), ERR_USAGE);
    assert_int_equal(capture_prompt(l.session, l.device, ids, 600, CAPTURE_ALL, &p, &err),
                     ERR_FAILED);
    capture_free(&p);
    unload(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_is_golden),
        cmocka_unit_test(architectures_are_golden),
        cmocka_unit_test(batches_do_not_show),
        cmocka_unit_test(subsets),
        cmocka_unit_test(caches),
        cmocka_unit_test(probabilities),
        cmocka_unit_test(through_a_file),
        cmocka_unit_test(a_split_model),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
