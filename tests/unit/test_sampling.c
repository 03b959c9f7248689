// The sampler's oracle: by hand, against the engine's sampler, and its verdict on a chosen token.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "engine/sampler.h"
#include "verify/sampling.h"

static const TraceSampling off = {
    .given = true, .temp = 1, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = -1};

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

static void expect_p(const TraceSampling *s, const int32_t *tokens, size_t n_tokens,
                     const double *logits, const double *want, size_t n) {
    double p[16];
    Error err = {0};
    must(sampling_expect(s, tokens, n_tokens, logits, n, p, &err), &err);
    for (size_t i = 0; i < n; i++) {
        if (fabs(p[i] - want[i]) > 1e-12) fail_msg("p[%zu] is %g, not %g", i, p[i], want[i]);
    }
}

// --- definitions ------------------------------------------------------------------------------

static void by_hand(void **state) {
    (void)state;
    const double l[4] = {log(8), log(4), log(2), log(2)};  // 1/2 1/4 1/8 1/8
    TraceSampling s = off;
    expect_p(&s, NULL, 0, l, (double[]){0.5, 0.25, 0.125, 0.125}, 4);
    s.temp = 0.5;  // squares: 64 16 4 4
    expect_p(&s, NULL, 0, l, (double[]){64 / 88., 16 / 88., 4 / 88., 4 / 88.}, 4);
    s = off, s.top_k = 3;  // of equal ones the lowest id
    expect_p(&s, NULL, 0, l, (double[]){8 / 14., 4 / 14., 2 / 14., 0}, 4);
    s = off, s.top_p = 0.6;  // the one that crosses it is kept
    expect_p(&s, NULL, 0, l, (double[]){2 / 3., 1 / 3., 0, 0}, 4);
    s.top_p = 0;  // never nothing
    expect_p(&s, NULL, 0, l, (double[]){1, 0, 0, 0}, 4);
    s = off, s.min_p = 0.3;
    expect_p(&s, NULL, 0, l, (double[]){2 / 3., 1 / 3., 0, 0}, 4);
    s.min_p = 1;
    expect_p(&s, NULL, 0, l, (double[]){1, 0, 0, 0}, 4);
    // top-p sees the logits before the temperature, and after top-k: 8/12 >= 0.65.
    s = off, s.top_k = 2, s.top_p = 0.65, s.temp = 100;
    expect_p(&s, NULL, 0, l, (double[]){1, 0, 0, 0}, 4);
    s = off, s.temp = 0;
    expect_p(&s, NULL, 0, l, (double[]){1, 0, 0, 0}, 4);
    // Not said how: the softmax, whatever else stands there.
    s.given = false, s.top_k = 1;
    expect_p(&s, NULL, 0, l, (double[]){0.5, 0.25, 0.125, 0.125}, 4);
}

static void penalties_by_hand(void **state) {
    (void)state;
    const double l[3] = {2, 1, -1};
    const int32_t seen[] = {1, 0, 2, 0, -7, 99};
    TraceSampling s = off;
    s.temp = 0;
    s.repeat_penalty = 4;  // 0.5, 0.25, -4
    expect_p(&s, seen, 6, l, (double[]){1, 0, 0}, 3);
    expect_p(&s, seen + 1, 5, l, (double[]){0, 1, 0}, 3);  // 0.5, 1, -4
    s.repeat_last_n = 2;                                   // ids that are none
    expect_p(&s, seen, 6, l, (double[]){1, 0, 0}, 3);
    s.repeat_last_n = 0;
    expect_p(&s, seen + 1, 5, l, (double[]){1, 0, 0}, 3);
    s = off;
    s.frequency_penalty = 0.5, s.presence_penalty = 0.25;  // 2 - 1.25, 1 - 0.75, -1 - 0.75
    const double e[3] = {exp(0.75), exp(0.25), exp(-1.75)}, sum = e[0] + e[1] + e[2];
    expect_p(&s, seen, 6, l, (double[]){e[0] / sum, e[1] / sum, e[2] / sum}, 3);
    s = off, s.repeat_penalty = 2;  // a negative logit is multiplied: -2
    const double f = exp(2) + exp(1) + exp(-2);
    expect_p(&s, (int32_t[]){2}, 1, l, (double[]){exp(2) / f, exp(1) / f, exp(-2) / f}, 3);
}

static void no_numbers(void **state) {
    (void)state;
    TraceSampling s = off;
    expect_p(&s, NULL, 0, (double[]){NAN, 1, -INFINITY}, (double[]){0, 1, 0}, 3);
    expect_p(&s, NULL, 0, (double[]){NAN, NAN}, (double[]){0, 0}, 2);
    expect_p(&s, NULL, 0, (double[]){INFINITY, 0}, (double[]){0, 0}, 2);
    s.temp = 0;
    expect_p(&s, NULL, 0, (double[]){NAN, NAN}, (double[]){0, 0}, 2);
    expect_p(&s, NULL, 0, (double[]){NAN, -2}, (double[]){0, 1}, 2);
}

// --- against the engine -----------------------------------------------------------------------

static TraceSampling random_settings(Rng *r) {
    static const double temps[] = {0, 0.1, 0.8, 1, 2}, top_ps[] = {1, 1, 0.95, 0.5, 0.01},
                        min_ps[] = {0, 0, 0.05, 0.3}, repeats[] = {1, 1.1, 1.7, 0.8},
                        others[] = {0, 0, 0.4, -0.3};
    static const int top_ks[] = {0, 0, 1, 3, 40, 100000}, last_ns[] = {-1, 0, 1, 7, 64};
    return (TraceSampling){.given = true,
                           .temp = temps[rng_below(r, 5)],
                           .top_k = top_ks[rng_below(r, 6)],
                           .top_p = top_ps[rng_below(r, 5)],
                           .min_p = min_ps[rng_below(r, 4)],
                           .repeat_penalty = repeats[rng_below(r, 4)],
                           .presence_penalty = others[rng_below(r, 4)],
                           .frequency_penalty = others[rng_below(r, 4)],
                           .repeat_last_n = last_ns[rng_below(r, 5)]};
}

static plumb_sampling for_engine(const TraceSampling *s) {
    return (plumb_sampling){.temperature = (float)s->temp,
                            .top_k = s->top_k,
                            .top_p = (float)s->top_p,
                            .min_p = (float)s->min_p,
                            .typical_p = 1,
                            .repeat_penalty = (float)s->repeat_penalty,
                            .presence_penalty = (float)s->presence_penalty,
                            .frequency_penalty = (float)s->frequency_penalty,
                            .repeat_last_n = s->repeat_last_n,
                            .seed = 1};
}

enum { MOST = 2000, SEEN = 90 };

static void compare_case(Rng *r, size_t n) {
    static float logits[MOST], got[MOST];
    static double wide[MOST], want[MOST];
    int32_t seen[SEEN];
    Error err = {0};
    Sampler *engine;
    const TraceSampling s = random_settings(r);
    const plumb_sampling p = for_engine(&s);
    const size_t n_seen = rng_below(r, SEEN);
    const float spread = (float)(1 + rng_below(r, 6));
    for (size_t i = 0; i < n; i++) wide[i] = (double)(logits[i] = spread * rng_normal(r));
    must(sampler_new(&p, (int)n, 512, &engine, &err), &err);
    for (size_t i = 0; i < n_seen; i++) {
        seen[i] = (int32_t)rng_below(r, n);
        sampler_accept(engine, seen[i]);
    }
    must(sampler_probs(engine, logits, got, &err), &err);
    must(sampling_expect(&s, seen, n_seen, wide, n, want, &err), &err);
    // The engine penalizes in float32; a temperature below 1 makes more of that.
    const double bound = 3e-6 + (s.temp > 0 ? 1e-5 / s.temp : 0);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)got[i];
        if (want[i] > 0 && want[i] < 1e-30 && got[i] < 1e-29f) continue;  // float's own limit
        if ((want[i] > 0) == (got[i] > 0) && fabs(got[i] - want[i]) <= bound * want[i]) continue;
        fail_msg("%zu of %zu: %g, expected %g; temp=%g top_k=%d top_p=%g min_p=%g repeat=%g", i, n,
                 (double)got[i], want[i], s.temp, s.top_k, s.top_p, s.min_p, s.repeat_penalty);
    }
    assert_true(fabs(sum - 1) < 1e-4);
    // What is drawn is something that may be drawn, and judged so.
    static const double slack[MOST];
    TracePrompt prompt = {.tokens = seen, .n_tokens = n_seen, .sampling = s};
    Cell cell;
    must(sampler_next(engine, logits, &prompt.chosen, &err), &err);
    assert_true(want[prompt.chosen] > 0);
    must(sampling_judge(&prompt, wide, slack, n, want, &cell, &err), &err);
    assert_true(cell.ratio == 0);
    sampler_free(engine);
}

static void engine_agrees(void **state) {
    (void)state;
    Rng r = {77};
    const size_t sizes[] = {1, 2, 5, 50, MOST};
    const int cases = UNDER_ASAN ? 60 : 600;
    for (int i = 0; i < cases; i++) {
        for (size_t k = 0; k < 5; k++) compare_case(&r, sizes[k]);
    }
}

static void engine_refuses(void **state) {
    (void)state;
    const TraceSampling s = off;
    const plumb_sampling p = for_engine(&s);
    Sampler *engine;
    Error err = {0};
    float out[2];
    must(sampler_new(&p, 2, 16, &engine, &err), &err);
    assert_int_equal(sampler_probs(engine, (float[]){NAN, NAN}, out, &err), ERR_FAILED);
    assert_int_equal(sampler_probs(engine, (float[]){INFINITY, 0}, out, &err), ERR_FAILED);
    must(sampler_probs(engine, (float[]){NAN, 3}, out, &err), &err);
    assert_true(out[0] == 0 && out[1] == 1);
    sampler_free(engine);
}

// --- ties and verdicts ------------------------------------------------------------------------

static void greedy(void **state) {
    (void)state;
    bool tie;
    int32_t other;
    const double l[5] = {1, 3, 3, 2.9, NAN}, slack[5] = {0.1, 0.06, 0.06, 0.05, 9}, none[5] = {0};
    assert_int_equal(sampling_greedy(l, NULL, 5, &tie, &other), 1);
    assert_false(tie);
    assert_int_equal(other, -1);
    assert_int_equal(sampling_greedy(l, none, 5, &tie, &other), 1);
    assert_false(tie);  // equal is no tie: the lowest id is right
    assert_int_equal(sampling_greedy(l, slack, 5, &tie, &other), 1);
    assert_true(tie);
    assert_int_equal(other, 3);
    assert_int_equal(sampling_greedy(l + 4, slack, 1, &tie, &other), -1);
    assert_false(tie);
}

static double verdict(TraceSampling s, int32_t chosen, const double *l, double slack, size_t n,
                      Measure *by) {
    double slacks[8], p[8];
    Error err = {0};
    Cell cell;
    for (size_t i = 0; i < n; i++) slacks[i] = slack;
    const TracePrompt prompt = {.chosen = chosen, .sampling = s};
    must(sampling_judge(&prompt, l, slacks, n, p, &cell, &err), &err);
    if (by) *by = cell.by;
    assert_true(cell.ratio >= 0 && cell.ratio <= RATIO_MOST && isfinite(cell.error));
    return cell.ratio;
}

static void verdicts(void **state) {
    (void)state;
    const double l[4] = {1, 3, 3, 2.9};
    const TraceSampling not_said = {0};
    TraceSampling s = off;
    Measure by;
    s.temp = 0;
    for (int i = 0; i < 2; i++, s = not_said) {  // greedy is what is assumed
        assert_true(verdict(s, 1, l, 0, 4, NULL) == 0);
        assert_true(verdict(s, 2, l, 0, 4, &by) == RATIO_MOST && by == BY_BITS);
        assert_true(verdict(s, 2, l, 0.2, 4, NULL) == RATIO_MOST);  // equal, whatever the slack
        assert_true(verdict(s, 3, l, 0, 4, NULL) == RATIO_MOST);
        assert_true(fabs(verdict(s, 3, l, 0.1, 4, NULL) - 0.5) < 1e-9);
        assert_true(verdict(s, 0, l, 0.1, 4, &by) > 9 && by == BY_ELEMENT);
        assert_true(verdict(s, 4, l, 0.1, 4, &by) == RATIO_MOST && by == BY_SHAPE);
    }
    assert_true(verdict(off, 0, (double[]){NAN, NAN}, 1, 2, &by) == RATIO_MOST && by == BY_NAN);
    assert_true(verdict(not_said, 1, (double[]){0, -INFINITY}, 1, 2, NULL) == RATIO_MOST);
    s = off, s.top_k = 3;
    assert_true(verdict(s, 3, l, 0, 4, NULL) == 0);
    assert_true(verdict(s, 0, l, 0, 4, NULL) == RATIO_MOST);
    assert_true(verdict(s, 0, l, 2, 4, NULL) < 0.5);
    s.top_k = 1;  // of two equal ones a filter may keep either
    assert_true(verdict(s, 2, l, 0, 4, NULL) == 0);
    // A cut at its very threshold may fall either way.
    const double halves[2] = {0, 0};
    s = off, s.top_p = 0.5;
    assert_true(verdict(s, 1, halves, 0, 2, NULL) == 0);
    const double thirds[2] = {log(2), log(1)};
    s.top_p = 2 / 3. - 1e-9;
    assert_true(verdict(s, 1, thirds, 0, 2, NULL) == 0);
    s.top_p = 0.6;
    assert_true(verdict(s, 1, thirds, 0, 2, NULL) == RATIO_MOST);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),        cmocka_unit_test(penalties_by_hand),
        cmocka_unit_test(no_numbers),     cmocka_unit_test(engine_agrees),
        cmocka_unit_test(engine_refuses), cmocka_unit_test(greedy),
        cmocka_unit_test(verdicts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
