// The self-test: its table and goals on made-up scores, and short runs of the real thing.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/selftest_internal.h"

#if HAVE_JANSSON
#include <jansson.h>
#endif

#define DEMO "models/demo.gguf"

// --- the goals and the table, on made-up scores -------------------------------------------------

static const Fault made_up[] = {
    {.id = "P1.q", .family = "Projections", .what = "q read transposed"},
    {.id = "P2", .family = "Projections", .what = "k and v exchanged"},
    {.id = "R2", .family = "RoPE", .what = "another base"},
    {.id = "A7", .family = "Attention", .what = "no maximum subtracted", .equivalent = true},
};

typedef struct {
    FaultScore scores[4];
    Selftest t;
} MadeUp;

static void fill(MadeUp *m) {
    *m = (MadeUp){.scores = {{.fault = &made_up[0],
                              .cases = 10,
                              .blind = 2,
                              .detected = 10,
                              .right_component = 10,
                              .right_cause = 10,
                              .smallest_ratio = 55.5,
                              .other = {10, 9, 8, 7, 0}},
                             {.fault = &made_up[1],
                              .cases = 20,
                              .detected = 20,
                              .right_component = 20,
                              .right_cause = 19,
                              .smallest_ratio = 4,
                              .got = "blk.0.k: transposed"},
                             {.fault = &made_up[2],
                              .cases = 10,
                              .detected = 10,
                              .right_component = 10,
                              .right_cause = 10,
                              .smallest_ratio = 1e9},
                             {.fault = &made_up[3], .cases = 6}},
                  .t = {.n_faults = 4, .clean_cases = 1000, .clean_ratio = 0.21, .seconds = 61.25}};
    m->t.faults = m->scores;
}

static void test_goals(void **state) {
    (void)state;
    MadeUp m;
    fill(&m);
    assert_true(selftest_passed(&m.t));
    m.scores[0].detected = 9;
    assert_false(selftest_passed(&m.t));
    fill(&m), m.scores[2].right_component = 9;
    assert_false(selftest_passed(&m.t));
    fill(&m), m.scores[1].right_cause = 18;  // 38 of 40 are just enough
    assert_true(selftest_passed(&m.t));
    m.scores[1].right_cause = 17;
    assert_false(selftest_passed(&m.t));
    fill(&m), m.scores[1].smallest_ratio = 2.9;
    assert_false(selftest_passed(&m.t));
    fill(&m), m.scores[3].detected = 1;  // an alarm where nothing is wrong
    assert_false(selftest_passed(&m.t));
    fill(&m), m.scores[0] = (FaultScore){.fault = &made_up[0], .blind = 12};  // never seen
    assert_false(selftest_passed(&m.t));
    fill(&m), m.t.false_alarms = 1;
    assert_false(selftest_passed(&m.t));
    fill(&m), m.t.clean_ratio = 0.3;
    assert_false(selftest_passed(&m.t));
}

static void test_table(void **state) {
    (void)state;
    MadeUp m;
    fill(&m);
    Text out = {0};
    selftest_text(&m.t, false, &out);
    assert_non_null(
        strstr(out.data, "Projections      2    30     2   100 %   100 %  96.7 %    4.0"));
    assert_non_null(
        strstr(out.data, "RoPE             1    10     0   100 %   100 %   100 %  1e+09"));
    assert_non_null(strstr(out.data, "Equivalent       1     6       0 alarms"));
    assert_non_null(
        strstr(out.data, "all              3    40     2   100 %   100 %  97.5 %    4.0"));
    assert_non_null(strstr(out.data, "1000       0 false alarms; the largest error is 0.21"));
    assert_non_null(strstr(out.data, "every goal is met in 61.2 s"));
    assert_null(strstr(out.data, "P1.q"));
    for (const char *line = out.data; *line;) {
        const size_t len = strcspn(line, "\n");
        assert_true(len <= 100);
        line += len + (line[len] == '\n');
    }
    text_free(&out);
    m.t.false_alarms = 2;
    snprintf(m.t.alarm, sizeof m.t.alarm, "blk.1.kq: unknown");
    selftest_text(&m.t, true, &out);
    assert_non_null(strstr(out.data, "  P1.q"));
    assert_non_null(strstr(out.data, "found: blk.0.k: transposed"));
    assert_non_null(strstr(out.data, "first false alarm: blk.1.kq: unknown"));
    assert_non_null(strstr(out.data, "NOT every goal is met"));
    text_free(&out);
}

static void test_json(void **state) {
    (void)state;
#if HAVE_JANSSON
    MadeUp m;
    fill(&m);
    Text out = {0};
    Error err;
    assert_int_equal(selftest_json(&m.t, &out, &err), OK);
    json_t *all = json_loads(out.data, 0, NULL);
    assert_non_null(all);
    assert_true(json_is_true(json_object_get(all, "passed")));
    const json_t *clean = json_object_get(all, "clean");
    assert_int_equal(json_integer_value(json_object_get(clean, "cases")), 1000);
    assert_true(json_real_value(json_object_get(clean, "largest_ratio")) == 0.21);
    const json_t *faults = json_object_get(all, "faults");
    assert_int_equal(json_array_size(faults), 4);
    const json_t *second = json_array_get(faults, 1);
    assert_string_equal(json_string_value(json_object_get(second, "id")), "P2");
    assert_int_equal(json_integer_value(json_object_get(second, "right_cause")), 19);
    assert_string_equal(json_string_value(json_object_get(second, "got")), "blk.0.k: transposed");
    const json_t *others = json_object_get(json_array_get(faults, 0), "others");
    assert_int_equal(json_integer_value(json_object_get(others, "cosine")), 8);
    json_decref(all);
    text_free(&out);
#else
    print_message("no jansson: the JSON is not looked at\n");
    skip();
#endif
}

// --- the real thing, a little of it --------------------------------------------------------------

static void run_only(const char *id, int n_threads, const Gguf *text_model, Selftest *out) {
    const SelftestOptions o = {.n_threads = n_threads, .only = id, .text_model = text_model};
    Error err = {0};
    if (selftest_run(&o, out, &err)) fail_msg("%s: %s", id, err.text);
    assert_int_equal(out->n_faults, 1);
    assert_string_equal(out->faults[0].fault->id, id);
    assert_int_equal(out->clean_cases, 0);
}

// One fault of a kind: seen in every case, in its place, for its reason.
static void test_faults(void **state) {
    (void)state;
    static const char *const ids[] = {"E2", "N1", "P1.ffn_out", "R4", "O2", "X2", "F1", "L1"};
    const size_t n = sizeof ids / sizeof *ids;
    for (size_t i = 0; i < n; i += getenv("PLUMB_SANITIZE") ? 3 : 1) {
        Selftest t;
        run_only(ids[i], 2, NULL, &t);
        const FaultScore *s = &t.faults[0];
        if (!selftest_passed(&t)) fail_msg("%s: found %s", ids[i], s->got);
        assert_true(s->cases >= 10 && s->detected == s->cases && s->right_cause == s->cases);
        assert_true(s->smallest_ratio > 3);
        selftest_free(&t);
    }
}

// What a prompt cannot see is not counted as missed: one token has no place to turn to.
static void test_blind(void **state) {
    (void)state;
    Selftest t;
    run_only("R8", 2, NULL, &t);
    assert_true(t.faults[0].blind >= 1 && t.faults[0].cases >= 10);
    selftest_free(&t);
    run_only("Q7", 2, NULL, &t);  // of Q8_0 alone, and run on other types too
    assert_true(t.faults[0].blind >= 1 && t.faults[0].cases >= 1);
    selftest_free(&t);
}

static void test_equivalent(void **state) {
    (void)state;
    static const char *const ids[] = {"R3.both", "R9", "A7.small"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        Selftest t;
        run_only(ids[i], 2, NULL, &t);
        const FaultScore *s = &t.faults[0];
        assert_true(s->fault->equivalent && s->cases > 5);
        if (s->detected) fail_msg("%s: an alarm, %s", ids[i], s->got);
        assert_true(selftest_passed(&t));
        selftest_free(&t);
    }
}

static void test_texts(void **state) {
    (void)state;
    Gguf *g;
    Error err = {0};
    assert_int_equal(gguf_open(DEMO, &g, &err), OK);
    Selftest t;
    run_only("T3", 2, g, &t);
    assert_true(t.faults[0].cases == N_TEXTS && t.faults[0].right_cause == N_TEXTS);
    assert_true(t.faults[0].smallest_ratio == 0 && selftest_passed(&t));
    selftest_free(&t);
    run_only("T3", 2, NULL, &t);  // nothing to tokenize with: never run, so not passed
    assert_true(t.faults[0].cases == 0 && !selftest_passed(&t));
    selftest_free(&t);

    TextSetting setting;
    assert_int_equal(text_setting_new(g, &setting, &err), OK);
    for (int i = 0; i < N_TEXTS; i++) {
        CaseResult r = {0};
        assert_int_equal(case_clean_text(&setting, i, &r, &err), OK);
        if (r.detected) fail_msg("text %d: an alarm, %s", i, r.got);
    }
    text_setting_free(&setting);
    gguf_close(g);
}

static void test_clean(void **state) {
    (void)state;
    for (size_t i = 0; i < 20; i++) {
        CaseResult r = {0}, again = {0};
        Error err = {0};
        if (case_clean(i, &r, &err)) fail_msg("%s", err.text);
        if (r.detected) fail_msg("clean case %zu: an alarm, %s (%s)", i, r.got, r.what);
        if (i % 5) continue;
        assert_int_equal(case_clean(i, &again, &err), OK);
        assert_true(again.ratio == r.ratio);
        assert_string_equal(again.what, r.what);
    }
}

static void count_progress(void *user, const char *what, double done, double total) {
    assert_string_equal(what, "self-test");
    assert_true(done >= 1 && done <= total);
    ++*(int *)user;
}

// The number of threads changes no figure; progress comes; an unknown fault is refused.
static void test_threads(void **state) {
    (void)state;
    Selftest one, three;
    run_only("P4", 1, NULL, &one);
    run_only("P4", 3, NULL, &three);
    const FaultScore *a = &one.faults[0], *b = &three.faults[0];
    assert_true(a->cases == b->cases && a->detected == b->detected &&
                a->right_cause == b->right_cause && a->smallest_ratio == b->smallest_ratio);
    assert_memory_equal(a->other, b->other, sizeof a->other);
    assert_string_equal(a->got, b->got);
    selftest_free(&one), selftest_free(&three);

    int calls = 0;
    SelftestOptions o = {.n_threads = 1, .only = "F4", .progress = count_progress, .user = &calls};
    Error err = {0};
    assert_int_equal(selftest_run(&o, &one, &err), OK);
    assert_int_equal(calls, one.faults[0].cases + one.faults[0].blind);
    selftest_free(&one);
    o.only = "P9";
    assert_int_equal(selftest_run(&o, &one, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "'P9'"));
}

// The checks that others make are made rightly: against a clean trace nothing, against a ruined
// one all of them.
static void test_others(void **state) {
    (void)state;
    const SettingPlan plan = {MODEL_TINY, TYPE_F32, 0, PROMPT_CHAT, WAY_NONE, TYPE_F32, true, true};
    const Rounding rounding = {.act = *act_scheme_at(0), .attn = *attn_scheme_at(0)};
    Setting s;
    Oracle *oracle;
    Error err = {0};
    bool say[N_OTHERS];
    assert_int_equal(setting_new(&plan, &s, &err), OK);
    assert_int_equal(oracle_new(s.tiny.model, 1, &oracle, &err), OK);
    assert_int_equal(others_ask(oracle, s.tiny.model, &rounding, &s.clean, &s.clean, say, &err),
                     OK);
    for (int i = 0; i < N_OTHERS; i++) assert_false(say[i]);
    const MutantOptions o = {.faults = {fault_by_id("P1.q")}, .scores = true, .cache = true};
    TracePrompt p;
    assert_int_equal(mutant_run(s.tiny.model, s.ids.data, s.ids.len, &o, &p, &err), OK);
    assert_int_equal(others_ask(oracle, s.tiny.model, &rounding, &p, &s.clean, say, &err), OK);
    assert_true(say[OTHER_LOGITS_NMSE] && say[OTHER_OP_NMSE] && say[OTHER_COSINE]);
    mutant_free(&p);
    // One wrong element of the logits, smaller than the largest: no such check minds.
    const TraceArray *logits = trace_find(&s.clean, COMP_LOGITS, -1);
    const MutantOptions same = {.scores = true, .cache = true};
    assert_int_equal(mutant_run(s.tiny.model, s.ids.data, s.ids.len, &same, &p, &err), OK);
    float *x = (float *)(uintptr_t)trace_find(&p, COMP_LOGITS, -1)->x;
    for (size_t i = 0; i < logits->rows * logits->width; i++) assert_true(x[i] == logits->x[i]);
    x[3] *= 0.9f;
    assert_int_equal(others_ask(oracle, s.tiny.model, &rounding, &p, &s.clean, say, &err), OK);
    assert_false(say[OTHER_LOGITS_NMSE] || say[OTHER_OP_NMSE] || say[OTHER_COSINE] ||
                 say[OTHER_RMS]);
    mutant_free(&p);
    oracle_free(oracle);
    setting_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goals),  cmocka_unit_test(test_table),
        cmocka_unit_test(test_json),   cmocka_unit_test(test_others),
        cmocka_unit_test(test_faults), cmocka_unit_test(test_blind),
        cmocka_unit_test(test_texts),  cmocka_unit_test(test_equivalent),
        cmocka_unit_test(test_clean),  cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
