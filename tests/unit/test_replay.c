// Replay: right traces of transformers pass with room to spare; whatever array is damaged is named.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "verify/replay.h"

static const Notice quiet;
static const char demo_f16[] = "tests/golden/models/demo-f16.gguf";
static const char demo_golden[] = "tests/golden/demo-golden.gguf";

typedef struct {
    Gguf *gguf;
    Model *model;
    Oracle *oracle;
    Trace *trace;
    Rounding rounding;
} Loaded;

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

static Loaded load(const char *model, const char *trace) {
    Loaded l = {0};
    Error err = {0};
    must(gguf_open(model, &l.gguf, &err), &err);
    must(model_bind(l.gguf, quiet, &l.model, &err), &err);
    must(oracle_new(l.model, 2, &l.oracle, &err), &err);
    const Hparams *h = &l.model->h;
    const TraceShape shape = {.norm_pairing = h->rope_pairing == ROPE_NORM,
                              .n_heads = h->n_heads,
                              .n_kv_heads = h->n_kv_heads,
                              .head_dim = h->head_dim};
    must(trace_open(trace, &shape, quiet, &l.trace, &err), &err);
    rounding_of_trace(l.trace, &l.rounding);
    return l;
}

static void unload(Loaded *l) {
    trace_close(l->trace);
    oracle_free(l->oracle);
    model_free(l->model);
    gguf_close(l->gguf);
}

static Report replay(const Loaded *l, const TracePrompt *p, const ReplayOptions *o) {
    Report r;
    Error err = {0};
    int index;
    report_init(&r);
    must(report_prompt(&r, p->name, p->tokens, p->n_tokens, "", &index, &err), &err);
    must(replay_prompt(l->oracle, l->model, &l->rounding, p, o, &r, index, &err), &err);
    report_finish(&r);
    return r;
}

// Every captured array is judged, and stays under 0.3 of its bounds.
static void must_be_clear(const Report *r, const TracePrompt *p, const char *what) {
    assert_int_equal(r->n_components, p->n_arrays);
    for (size_t k = 0; k < r->n_components; k++) {
        const ComponentResult *c = &r->components[k];
        char text[COMPONENT_TEXT];
        if (c->worst.ratio <= 0.3) continue;
        fail_msg("%s, %s.%s: ratio %g by %s (%g of %g) at token %zu", what, p->name,
                 component_text(c->ref, text), c->worst.ratio, measure_name(c->worst.by),
                 c->worst.error, c->worst.bound, c->token);
    }
    assert_null(report_first_component(r));
}

static void check_right(const char *model, const char *trace, const ReplayOptions *o) {
    Loaded l = load(model, trace);
    for (size_t i = 0; i < l.trace->n_prompts; i++) {
        Report r = replay(&l, &l.trace->prompts[i], o);
        must_be_clear(&r, &l.trace->prompts[i], trace);
        report_free(&r);
    }
    unload(&l);
}

static void test_right(void **state) {
    (void)state;
    const ReplayOptions o = {0};
    check_right(demo_f16, demo_golden, &o);
    check_right("tests/golden/arch/llama-1.gguf", "tests/golden/arch/llama-1-golden.gguf", &o);
    check_right("tests/golden/arch/llama3-1.gguf", "tests/golden/arch/llama3-1-golden.gguf", &o);
    check_right("tests/golden/arch/qwen2-1.gguf", "tests/golden/arch/qwen2-1-golden.gguf", &o);
    check_right("tests/golden/arch/qwen3-1.gguf", "tests/golden/arch/qwen3-1-golden.gguf", &o);
}

static void test_few_rows(void **state) {
    (void)state;
    const ReplayOptions o = {.max_rows = 3};
    check_right(demo_f16, demo_golden, &o);
}

// --- damage ---------------------------------------------------------------------------------------

typedef enum { ONE_ELEMENT, ONE_ROW, ONE_HEAD, NOT_A_NUMBER, OTHER_LAYER, N_DAMAGES } Damage;

static double rms(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sqrt(sum / (double)n);
}

// Damages a copy; false where this damage makes no sense for the array.
static bool damage(Damage d, const TracePrompt *p, const TraceArray *a, float *x, unsigned random) {
    const size_t row = random % a->rows, at = random / 7 % a->width;
    float *to = x + row * a->width;
    if (d == ONE_ELEMENT) {
        to[at] += 0.05f * (float)rms(to, a->width);
    } else if (d == ONE_ROW) {
        memset(to, 0, a->width * sizeof *to);
    } else if (d == ONE_HEAD) {
        for (size_t i = 0; i < 64; i++) to[at / 64 * 64 + i] *= -1;
    } else if (d == NOT_A_NUMBER) {
        to[at] = NAN;
    } else {
        if (!component_in_layer(a->ref.c)) return false;
        const TraceArray *other = trace_find(p, a->ref.c, a->ref.layer ? a->ref.layer - 1 : 1);
        memcpy(x, other->x, a->rows * a->width * sizeof *x);
    }
    return true;
}

// Every array of a prompt, in five ways: the first wrong component is that array.
static void test_damage(void **state) {
    (void)state;
    Loaded l = load(demo_f16, demo_golden);
    const ReplayOptions o = {0};
    const TracePrompt *p = &l.trace->prompts[3];
    assert_string_equal(p->name, "story");
    const size_t step = getenv("PLUMB_SANITIZE") ? 7 : 1;
    for (size_t i = 0; i < p->n_arrays; i += step) {
        for (int d = 0; d < N_DAMAGES; d++) {
            TraceArray arrays[256];
            TracePrompt q = *p;
            assert_true(p->n_arrays <= 256);
            memcpy(arrays, p->arrays, p->n_arrays * sizeof *arrays);
            q.arrays = arrays;
            const size_t n = arrays[i].rows * arrays[i].width;
            float *x = malloc(n * sizeof *x);
            assert_non_null(x);
            memcpy(x, arrays[i].x, n * sizeof *x);
            arrays[i].x = x;
            if (damage((Damage)d, p, &arrays[i], x, (unsigned)(i * 7919 + (size_t)d * 104729))) {
                Report r = replay(&l, &q, &o);
                const ComponentResult *first = report_first_component(&r);
                char want[COMPONENT_TEXT], got[COMPONENT_TEXT];
                component_text(arrays[i].ref, want);
                if (!first) fail_msg("%s, damage %d: nothing found", want, d);
                if (strcmp(component_text(first->ref, got), want) != 0)
                    fail_msg("%s, damage %d: %s is named", want, d, got);
                assert_true(first->worst.ratio > 3);
                report_free(&r);
            }
            free(x);
        }
    }
    unload(&l);
}

// Any subset of arrays: what is left out is recomputed, and what is wrong shows in the next that is
// there.
static void test_coarse(void **state) {
    (void)state;
    Loaded l = load(demo_f16, demo_golden);
    const ReplayOptions o = {0};
    static const uint32_t subsets[] = {
        1u << COMP_LOGITS, 1u << COMP_L_OUT, 1u << COMP_Q | 1u << COMP_ATTN,
        1u << COMP_FFN_ACT | 1u << COMP_NORM, 1u << COMP_K_ROPE | 1u << COMP_FFN_INP};
    for (size_t s = 0; s < sizeof subsets / sizeof *subsets; s++) {
        const TracePrompt *p = &l.trace->prompts[3];
        TraceArray arrays[256];
        TracePrompt q = *p;
        q.arrays = arrays, q.n_arrays = 0;
        for (size_t i = 0; i < p->n_arrays; i++) {
            if (subsets[s] >> p->arrays[i].ref.c & 1) arrays[q.n_arrays++] = p->arrays[i];
        }
        Report r = replay(&l, &q, &o);
        must_be_clear(&r, &q, "a subset");
        report_free(&r);

        TraceArray *a = &arrays[q.n_arrays / 2];
        const size_t n = a->rows * a->width;
        float *x = malloc(n * sizeof *x);
        assert_non_null(x);
        for (size_t i = 0; i < n; i++) x[i] = a->x[i] * 1.01f;
        a->x = x;
        r = replay(&l, &q, &o);
        const ComponentResult *first = report_first_component(&r);
        assert_non_null(first);
        assert_int_equal(first->ref.c, a->ref.c);
        assert_int_equal(first->ref.layer, a->ref.layer);
        report_free(&r);
        free(x);
    }
    unload(&l);
}

static void test_wrong_shape(void **state) {
    (void)state;
    Loaded l = load(demo_f16, demo_golden);
    const ReplayOptions o = {0};
    TraceArray a = l.trace->prompts[3].arrays[2];
    TracePrompt q = l.trace->prompts[3];
    a.width /= 2;
    q.arrays = &a, q.n_arrays = 1;
    Report r = replay(&l, &q, &o);
    const ComponentResult *first = report_first_component(&r);
    assert_non_null(first);
    assert_int_equal(first->worst.by, BY_SHAPE);
    report_free(&r);
    unload(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right),       cmocka_unit_test(test_few_rows),
        cmocka_unit_test(test_damage),      cmocka_unit_test(test_coarse),
        cmocka_unit_test(test_wrong_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
