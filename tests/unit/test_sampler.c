// Samplers against a slow reference in double that follows their definitions.
//
// What a filter keeps does not depend on the temperature, which comes last: at a huge one every
// kept token is equally likely, so that a few thousand draws show the whole set.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/sampler.h"
#include "check.h"

static const float HOT = 1e6f;  // the greatest that is allowed: flattens everything

static plumb_sampling plain(float temperature, int64_t seed) {
    return (plumb_sampling){.temperature = temperature,
                            .top_p = 1,
                            .typical_p = 1,
                            .repeat_penalty = 1,
                            .repeat_last_n = 64,
                            .seed = seed};
}

static Sampler *sampler_of(const plumb_sampling *p, int n_vocab) {
    Sampler *s = NULL;
    Error err;
    if (sampler_new(p, n_vocab, 512, &s, &err)) fail_msg("%s", err.text);
    return s;
}

static int32_t next(Sampler *s, const float *logits) {
    int32_t id = -1;
    Error err;
    if (sampler_next(s, logits, &id, &err)) fail_msg("%s", err.text);
    return id;
}

static int32_t once(const plumb_sampling *p, const float *logits, int n) {
    Sampler *s = sampler_of(p, n);
    int32_t id = next(s, logits);
    sampler_free(s);
    return id;
}

// --- the reference -------------------------------------------------------------------------------

typedef struct {
    int id;
    double logit, p, key;
} Cand;

static int by_key(const void *a, const void *b) {
    const Cand *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->id - y->id;
}

static void softmax_of(Cand *c, int n) {
    double top = -HUGE_VAL, sum = 0;
    for (int i = 0; i < n; i++) top = fmax(top, c[i].logit);
    for (int i = 0; i < n; i++) sum += c[i].p = exp(c[i].logit - top);
    for (int i = 0; i < n; i++) c[i].p /= sum;
}

static void sort_likeliest(Cand *c, int n) {
    for (int i = 0; i < n; i++) c[i].key = -c[i].logit;
    qsort(c, (size_t)n, sizeof *c, by_key);
}

// Fills c with the candidates that are left and their probabilities; returns how many. *margin gets
// how near the closest decision was to its threshold.
static int reference(const plumb_sampling *p, const float *logits, int n, Cand *c, double *margin) {
    *margin = HUGE_VAL;
    for (int i = 0; i < n; i++) c[i] = (Cand){.id = i, .logit = logits[i]};
    sort_likeliest(c, n);
    if (p->top_k > 0 && p->top_k < n) n = p->top_k;
    if (p->typical_p < 1) {
        softmax_of(c, n);
        double h = 0, sum = 0;
        for (int i = 0; i < n; i++) h -= c[i].p > 0 ? c[i].p * log(c[i].p) : 0;
        for (int i = 0; i < n; i++) c[i].key = fabs(-log(c[i].p) - h);
        qsort(c, (size_t)n, sizeof *c, by_key);
        for (int i = 0; i < n; i++) {
            sum += c[i].p;
            *margin = fmin(*margin, fabs(sum - (double)p->typical_p));
            if (i + 1 < n) *margin = fmin(*margin, c[i + 1].key - c[i].key);
            if (sum > (double)p->typical_p) n = i + 1;
        }
        sort_likeliest(c, n);
    }
    if (p->top_p < 1) {
        softmax_of(c, n);
        double sum = 0;
        for (int i = 0; i < n; i++) {
            sum += c[i].p;
            *margin = fmin(*margin, fabs(sum - (double)p->top_p));
            if (sum >= (double)p->top_p) n = i + 1;
        }
    }
    if (p->min_p > 0) {
        int kept = 0;
        for (int i = 0; i < n; i++) {
            double ratio = exp(c[i].logit - c[0].logit);
            if (i > 0) *margin = fmin(*margin, fabs(ratio - (double)p->min_p));
            if (i == 0 || ratio >= (double)p->min_p) c[kept++] = c[i];
        }
        n = kept;
    }
    for (int i = 0; i < n; i++) c[i].logit /= (double)p->temperature;
    softmax_of(c, n);
    return n;
}

// Random logits whose reference decisions are all clear of float rounding.
static int clear_case(const plumb_sampling *p, Rng *r, float spread, float *logits, int n,
                      Cand *c) {
    for (int tries = 0; tries < 30; tries++) {
        for (int i = 0; i < n; i++) logits[i] = spread * rng_normal(r);
        double margin;
        int kept = reference(p, logits, n, c, &margin);
        if (margin > 1e-9) return kept;
    }
    fail_msg("no clear case");
    return 0;
}

// The tokens that come at a huge temperature are those of the reference, all of them, no others.
static void check_set(const char *what, plumb_sampling p, const float *logits, int n, const Cand *c,
                      int kept) {
    p.temperature = HOT;
    Sampler *s = sampler_of(&p, n);
    int *seen = calloc((size_t)n, sizeof *seen);
    assert_non_null(seen);
    float *copy = room((size_t)n * sizeof *copy);
    memcpy(copy, logits, (size_t)n * sizeof *copy);
    int draws = (int)(kept * (log(kept) + 14));
    for (int i = 0; i < draws; i++) {
        int32_t id = next(s, logits);
        if (id < 0 || id >= n) fail_msg("%s: token %d of %d", what, (int)id, n);
        seen[id]++;
    }
    for (int i = 0; i < kept; i++) {
        if (!seen[c[i].id]) fail_msg("%s, %d logits: token %d never comes", what, n, c[i].id);
        seen[c[i].id] = 0;
    }
    for (int i = 0; i < n; i++) {
        if (seen[i]) fail_msg("%s, %d logits: token %d came, it is not among %d", what, n, i, kept);
    }
    same_floats("logits after sampling", logits, copy, (size_t)n);
    free(copy);
    free(seen);
    sampler_free(s);
}

// Chi-square of the draws against the reference's probabilities.
static void check_frequencies(const char *what, const plumb_sampling *p, const float *logits, int n,
                              const Cand *c, int kept, int draws) {
    Sampler *s = sampler_of(p, n);
    int *seen = calloc((size_t)n, sizeof *seen);
    assert_non_null(seen);
    for (int i = 0; i < draws; i++) seen[next(s, logits)]++;
    double chi = 0, rest = 0;
    int bins = 0, rest_seen = draws;
    for (int i = 0; i < kept; i++) {
        double expected = c[i].p * draws;
        if (expected < 8) {
            rest += expected;
            continue;
        }
        chi += (seen[c[i].id] - expected) * (seen[c[i].id] - expected) / expected;
        rest_seen -= seen[c[i].id];
        bins++;
    }
    if (rest >= 8) chi += (rest_seen - rest) * (rest_seen - rest) / rest, bins++;
    double df = bins > 1 ? bins - 1 : 1, bound = df + 4.5 * sqrt(2 * df) + 12;
    if (rest < 1e-9 && rest_seen != 0)
        fail_msg("%s: %d draws of tokens of no weight", what, rest_seen);
    if (chi > bound) fail_msg("%s, %d logits: chi-square %g over %d bins", what, n, chi, bins);
    free(seen);
    sampler_free(s);
}

static void check_filter(const char *what, plumb_sampling p, float spread) {
    static const int sizes[] = {1, 2, 5, 100, 50000};
    float *logits = room(50000 * sizeof *logits);
    Cand *c = room(50000 * sizeof *c);
    Rng r = {11};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int n = sizes[k];
        for (int round = 0; round < (n > 100 ? 1 : 6); round++) {
            p.seed = (int64_t)rng_below(&r, 1000000);
            p.temperature = 1;
            int kept = clear_case(&p, &r, spread, logits, n, c);
            if (kept <= (n > 100 ? 4 : 100)) check_set(what, p, logits, n, c, kept);
            if (n > 100 && kept > 4) {  // too many to see them all: none may be wrong
                Sampler *s = sampler_of(&p, n);
                bool *allowed = calloc((size_t)n, 1);
                assert_non_null(allowed);
                for (int i = 0; i < kept; i++) allowed[c[i].id] = true;
                for (int i = 0; i < 30; i++) assert_true(allowed[next(s, logits)]);
                free(allowed);
                sampler_free(s);
            }
            check_frequencies(what, &p, logits, n, c, kept, n > 100 ? 40 : 5000);
        }
    }
    free(c);
    free(logits);
}

static void nothing_filters(void **state) {
    (void)state;
    check_filter("no filter", plain(1, 0), 2);
}

static void top_k_alone(void **state) {
    (void)state;
    static const int ks[] = {1, 2, 4, 40, 99, 100, 101, 60000};
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        plumb_sampling p = plain(1, 0);
        p.top_k = ks[i];
        check_filter("top-k", p, 2);
    }
}

static void top_p_alone(void **state) {
    (void)state;
    static const float ps[] = {1e-6f, 0.1f, 0.5f, 0.9f, 0.95f, 0.999f};
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++) {
        plumb_sampling p = plain(1, 0);
        p.top_p = ps[i];
        check_filter("top-p", p, 4);
    }
}

static void min_p_alone(void **state) {
    (void)state;
    static const float ps[] = {1, 0.5f, 0.05f, 1e-3f};
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++) {
        plumb_sampling p = plain(1, 0);
        p.min_p = ps[i];
        check_filter("min-p", p, 3);
    }
}

static void typical_alone(void **state) {
    (void)state;
    static const float ps[] = {1e-6f, 0.2f, 0.5f, 0.9f};
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++) {
        plumb_sampling p = plain(1, 0);
        p.typical_p = ps[i];
        check_filter("typical", p, 4);
    }
    // The likeliest token is not the most typical one.
    float logits[6] = {3, 2, 2.01f, 1.99f, 2.02f, 1.98f};
    plumb_sampling p = plain(1, 5);
    p.typical_p = 0.2f;
    for (int i = 0; i < 50; i++, p.seed++) assert_int_not_equal(once(&p, logits, 6), 0);
}

static void all_filters_in_order(void **state) {
    (void)state;
    plumb_sampling p = plain(1, 0);
    p.top_k = 40, p.top_p = 0.9f, p.min_p = 0.05f, p.typical_p = 0.95f;
    check_filter("all four", p, 2);
    p.top_k = 3, p.top_p = 0.7f, p.min_p = 0;  // top-p counts within the three
    check_filter("top-k, typical, top-p", p, 1);
}

static void temperature_by_formula(void **state) {
    (void)state;
    static const float ts[] = {0.3f, 0.8f, 1.5f, 4};
    Rng r = {77};
    float logits[64];
    Cand c[64];
    for (size_t i = 0; i < sizeof ts / sizeof *ts; i++) {
        plumb_sampling p = plain(ts[i], 9);
        int kept = clear_case(&p, &r, 1.5f, logits, 64, c);
        assert_int_equal(kept, 64);
        check_frequencies("temperature", &p, logits, 64, c, kept, 40000);
    }
}

// top-p judges the model's own probabilities: at temperature 10 it keeps what it keeps at 1.
static void top_p_before_temperature(void **state) {
    (void)state;
    float logits[4] = {logf(0.6f), logf(0.3f), logf(0.06f), logf(0.04f)};
    plumb_sampling p = plain(10, 1);
    p.top_p = 0.8f;
    Sampler *s = sampler_of(&p, 4);
    int seen[4] = {0};
    for (int i = 0; i < 1000; i++) seen[next(s, logits)]++;
    assert_true(seen[0] > 300 && seen[1] > 300);  // nearly even, and no third one
    assert_int_equal(seen[2] + seen[3], 0);
    sampler_free(s);
    p.temperature = 0.05f;  // after a cold one only the first would be left: it is, almost
    s = sampler_of(&p, 4);
    for (int i = 0; i < 200; i++) assert_int_equal(next(s, logits), 0);
    sampler_free(s);
}

// Off means off: what has no weight beside the best still has some at a high temperature.
static void filters_that_are_off_drop_nothing(void **state) {
    (void)state;
    float logits[4] = {0, -45, -200, -HUGE_VALF};
    for (int top_k = 0; top_k < 5; top_k += 4) {
        plumb_sampling p = plain(1e4f, 6);
        p.top_k = top_k;
        Sampler *s = sampler_of(&p, 4);
        int seen[4] = {0};
        for (int i = 0; i < 600; i++) seen[next(s, logits)]++;
        assert_true(seen[0] > 140 && seen[1] > 140 && seen[2] > 140);
        assert_int_equal(seen[3], 0);
        sampler_free(s);
    }
}

static void extreme_temperatures(void **state) {
    (void)state;
    float logits[5] = {-3, 1e30f, 1.5e30f, -1e30f, 0};
    static const float ts[] = {1e-45f, 1e-30f, 1e-6f, 1, 1e6f};
    for (size_t i = 0; i < sizeof ts / sizeof *ts; i++) {
        plumb_sampling p = plain(ts[i], 4);
        for (int k = 0; k < 20; k++, p.seed++) {
            int32_t id = once(&p, logits, 5);
            assert_int_equal(id, 2);
        }
    }
}

static void greedy_takes_the_first_of_the_best(void **state) {
    (void)state;
    plumb_sampling p = plain(0, 1);
    static const int sizes[] = {1, 2, 7, 8, 9, 31, 32, 33, 1000, 32000};
    float *logits = room(32000 * sizeof *logits);
    Rng r = {3};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int n = sizes[k];
        for (int i = 0; i < n; i++) logits[i] = 0.5f;
        assert_int_equal(once(&p, logits, n), 0);
        for (int round = 0; round < 30; round++) {
            for (int i = 0; i < n; i++) logits[i] = (float)rng_below(&r, 5) - 7;
            int best = 0;
            for (int i = 1; i < n; i++) best = logits[i] > logits[best] ? i : best;
            assert_int_equal(once(&p, logits, n), best);
        }
        for (int i = 0; i < n; i++) logits[i] = -HUGE_VALF;
        logits[n - 1] = -1e38f;
        assert_int_equal(once(&p, logits, n), n - 1);
    }
    // -0 and 0 are equal.
    assert_int_equal(once(&p, (float[3]){-0.0f, 0.0f, -0.0f}, 3), 0);
    // Filters do not change greedy.
    p.top_k = 3, p.top_p = 0.5f, p.min_p = 0.1f, p.typical_p = 0.1f;
    assert_int_equal(once(&p, (float[6]){3, 2, 2.01f, 1.99f, 2.02f, 1.98f}, 6), 0);
    free(logits);
}

// --- penalties, by measuring the logit that they leave -------------------------------------------

// What token 0's logit x has become: the logit at which token 1 overtakes it, by bisection.
static double effective(Sampler *s, float x) {
    float low = -1000, high = 1000;
    for (int i = 0; i < 60; i++) {
        float mid = low + (high - low) / 2;
        if (next(s, (float[4]){x, mid, -HUGE_VALF, -HUGE_VALF}) == 1)
            high = mid;
        else
            low = mid;
    }
    return (double)high;
}

static double penalised(double x, int count, const plumb_sampling *p) {
    if (count == 0) return x;
    x = x > 0 ? x / (double)p->repeat_penalty : x * (double)p->repeat_penalty;
    return x - count * (double)p->frequency_penalty - (double)p->presence_penalty;
}

static void check_effective(const plumb_sampling *p, Sampler *s, float x, int count) {
    double got = effective(s, x), want = penalised((double)x, count, p);
    if (fabs(got - want) > 2e-6 * fmax(1, fabs(want))) {
        fail_msg("logit %g seen %d times became %.9g, expected %.9g", (double)x, count, got, want);
    }
}

static void penalties_by_formula(void **state) {
    (void)state;
    static const float rep[] = {1, 1.1f, 2, 0.5f}, other[] = {0, 0.25f, -0.5f, 2};
    static const float logits[] = {0, 1, 3.7f, -2.5f, -0.001f, 100, -100};
    for (int i = 0; i < 4 * 4 * 4; i++) {
        plumb_sampling p = plain(0, 1);
        p.repeat_penalty = rep[i % 4], p.frequency_penalty = other[i / 4 % 4];
        p.presence_penalty = other[i / 16];
        Sampler *s = sampler_of(&p, 4);
        for (int count = 0; count < 4; count++) {
            for (size_t k = 0; k < sizeof logits / sizeof *logits; k++) {
                check_effective(&p, s, logits[k], count);
            }
            sampler_accept(s, 0);
            sampler_accept(s, 3);  // another token's count is its own
        }
        sampler_free(s);
    }
}

static void penalty_windows(void **state) {
    (void)state;
    // repeat_last_n, and the window that it means in a context of 512
    static const struct {
        int last_n, window;
    } cases[] = {{0, 0}, {1, 1}, {2, 2}, {5, 5}, {64, 64}, {-1, 512}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        plumb_sampling p = plain(0, 1);
        p.repeat_last_n = cases[k].last_n, p.frequency_penalty = 1;
        Sampler *s = sampler_of(&p, 4);
        int32_t history[1700];
        Rng r = {(uint64_t)k};
        int w = cases[k].window;
        for (int i = 0; i < 1700; i++) {  // several times round the ring
            int count = 0;
            for (int j = i - w < 0 ? 0 : i - w; j < i; j++) count += history[j] == 0;
            if (i < 20 || i % 97 < 3) {
                double got = effective(s, 5);
                if (fabs(got - (5 - count)) > 1e-3) {
                    fail_msg("last %d, after %d tokens: %d counted, expected %d", cases[k].last_n,
                             i, (int)lround(5 - got), count);
                }
            }
            history[i] = rng_below(&r, 3) ? 0 : 2 + (int32_t)rng_below(&r, 2);
            sampler_accept(s, history[i]);
        }
        // A reset forgets them all.
        Error err;
        assert_int_equal(sampler_reset(s, &p, &err), OK);
        assert_true(fabs(effective(s, 5) - 5) < 1e-3);
        // New parameters are in force: another window after a reset.
        p.repeat_last_n = 3;
        assert_int_equal(sampler_reset(s, &p, &err), OK);
        for (int i = 0; i < 10; i++) sampler_accept(s, 0);
        assert_true(fabs(effective(s, 5) - 2) < 1e-3);
        p.repeat_last_n = 100000;  // more than the context
        assert_int_equal(sampler_reset(s, &p, &err), OK);
        for (int i = 0; i < 10; i++) sampler_accept(s, 0);
        assert_true(fabs(effective(s, 5) + 5) < 1e-3);
        sampler_free(s);
    }
}

static void penalties_come_before_the_filters(void **state) {
    (void)state;
    plumb_sampling p = plain(HOT, 1);
    p.top_k = 1, p.presence_penalty = 2;
    Sampler *s = sampler_of(&p, 3);
    float logits[3] = {3, 2, 1};
    assert_int_equal(next(s, logits), 0);
    sampler_accept(s, 0);
    for (int i = 0; i < 20; i++) assert_int_equal(next(s, logits), 1);
    sampler_free(s);
}

static void logit_biases(void **state) {
    (void)state;
    plumb_sampling p = plain(0, 1);
    float logits[4] = {1, 4, 3, 2};
    plumb_logit_bias b[3] = {{1, -HUGE_VALF}};
    p.logit_bias = b, p.n_logit_bias = 1;
    assert_int_equal(once(&p, logits, 4), 2);  // the best is banned
    b[1] = (plumb_logit_bias){0, 2.5f}, p.n_logit_bias = 2;
    assert_int_equal(once(&p, logits, 4), 0);
    b[1].bias = 1.999f;
    assert_int_equal(once(&p, logits, 4), 2);
    b[1] = (plumb_logit_bias){2, -1.5f};
    assert_int_equal(once(&p, logits, 4), 3);
    // A banned token never comes, however hot; biases change frequencies by the formula.
    p.temperature = HOT;
    Sampler *s = sampler_of(&p, 4);
    for (int i = 0; i < 500; i++) assert_int_not_equal(next(s, logits), 1);
    sampler_free(s);
    p.temperature = 1;
    float biased[4] = {1, -HUGE_VALF, 1.5f, 2};
    plumb_sampling without = plain(1, 1);
    Cand c[4];
    double margin;
    int kept = reference(&without, biased, 4, c, &margin);
    check_frequencies("bias", &p, logits, 4, c, kept, 20000);
    // A ban stands before top-k: the best two that are allowed.
    p.temperature = HOT, p.top_k = 2;
    s = sampler_of(&p, 4);
    int seen[4] = {0};
    for (int i = 0; i < 200; i++) seen[next(s, logits)]++;
    assert_true(seen[2] && seen[3] && !seen[0] && !seen[1]);
    sampler_free(s);
    // Everything banned: nothing can come.
    plumb_logit_bias all[2] = {{0, -HUGE_VALF}, {1, -HUGE_VALF}};
    for (int t = 0; t < 2; t++) {
        p = plain((float)t, 1);
        p.logit_bias = all, p.n_logit_bias = 2;
        s = sampler_of(&p, 2);
        int32_t id;
        Error err;
        assert_int_equal(sampler_next(s, logits, &id, &err), ERR_FAILED);
        sampler_free(s);
    }
    // The ban holds against +infinity, and no sum becomes NaN.
    p = plain(1, 1);
    p.logit_bias = all, p.n_logit_bias = 1;
    assert_int_equal(once(&p, (float[2]){HUGE_VALF, -5}, 2), 1);
}

// --- odd logits ----------------------------------------------------------------------------------

static void nan_and_infinity(void **state) {
    (void)state;
    float nan = NAN, inf = HUGE_VALF;
    plumb_sampling all[6];
    for (int i = 0; i < 6; i++) all[i] = plain(i ? HOT : 0, 3);
    all[2].top_k = 2, all[3].top_p = 0.9f, all[4].min_p = 0.01f, all[5].typical_p = 0.9f;
    for (int i = 0; i < 6; i++) {
        plumb_sampling *p = &all[i];
        for (int k = 0; k < 30; k++, p->seed++) {
            int32_t id = once(p, (float[5]){nan, 1, nan, 2, -nan}, 5);
            assert_true(id == 1 || id == 3);
            assert_int_equal(once(p, (float[5]){nan, nan, nan, nan, -7}, 5), 4);
            assert_int_equal(once(p, (float[3]){-inf, -1e38f, -inf}, 3), 1);
        }
        Sampler *s = sampler_of(p, 3);
        int32_t id;
        Error err;
        assert_int_equal(sampler_next(s, (float[3]){nan, nan, nan}, &id, &err), ERR_FAILED);
        assert_int_equal(err.status, ERR_FAILED);
        assert_true(strlen(err.text) > 10);
        assert_int_equal(next(s, (float[3]){nan, 0, nan}), 1);  // and it still works
        // An infinite logit is no choice but a damaged model.
        assert_int_equal(sampler_next(s, (float[3]){1, inf, 2}, &id, &err), ERR_FAILED);
        sampler_free(s);
    }
    Sampler *s = sampler_of(&all[0], 1);
    int32_t id;
    assert_int_equal(sampler_next(s, &nan, &id, NULL), ERR_FAILED);
    sampler_free(s);
}

// --- seeds ---------------------------------------------------------------------------------------

static void golden_logits(float *logits, int n) {
    for (int i = 0; i < n; i++) logits[i] = (float)(i * 7919 % 1009) / 128 - 3;  // exact
}

// The same on every machine, compiler and version: a change here breaks users' saved seeds.
static void golden_draws(void **state) {
    (void)state;
    static const int32_t want[20] = {185, 343, 409, 442, 33,  284, 376, 218, 442, 363,
                                     99,  20,  20,  297, 119, 99,  310, 20,  310, 396};
    float logits[500];
    golden_logits(logits, 500);
    plumb_sampling p = plumb_sampling_default();
    p.seed = 42;
    Sampler *s = sampler_of(&p, 500);
    int32_t got[20];
    for (int i = 0; i < 20; i++) {
        got[i] = next(s, logits);
        sampler_accept(s, got[i]);
    }
    for (int i = 0; i < 20; i++) {
        if (got[i] != want[i]) {
            for (int k = 0; k < 20; k++) print_message("%d, ", (int)got[k]);
            fail_msg("draw %d is %d, expected %d", i, (int)got[i], (int)want[i]);
        }
    }
    sampler_free(s);
}

static void same_seed_same_draws(void **state) {
    (void)state;
    float logits[200];
    golden_logits(logits, 200);
    int32_t first[100];
    plumb_sampling p = plain(1, 123456789012345);
    Sampler *s = sampler_of(&p, 200), *other = sampler_of(&p, 200);
    Error err;
    assert_true(sampler_seed(s) == p.seed);
    for (int i = 0; i < 100; i++) {
        first[i] = next(s, logits);
        assert_int_equal(next(other, logits), first[i]);
    }
    assert_int_equal(sampler_reset(s, &p, &err), OK);
    for (int i = 0; i < 100; i++) assert_int_equal(next(s, logits), first[i]);
    // Every bit of the seed counts.
    for (int bit = 0; bit < 63; bit++) {
        plumb_sampling q = p;
        q.seed ^= (int64_t)1 << bit;
        assert_int_equal(sampler_reset(s, &q, &err), OK);
        int same = 0;
        for (int i = 0; i < 100; i++) same += next(s, logits) == first[i];
        if (same > 30) fail_msg("seed bit %d changes nothing", bit);
    }
    // -1 is a new one each time, which can be given again.
    p.seed = -1;
    int64_t seeds[8];
    for (int i = 0; i < 8; i++) {
        assert_int_equal(sampler_reset(s, &p, &err), OK);
        seeds[i] = sampler_seed(s);
        assert_true(seeds[i] != -1);
        for (int k = 0; k < i; k++) assert_true(seeds[i] != seeds[k]);
    }
    for (int i = 0; i < 50; i++) first[i] = next(s, logits);
    p.seed = seeds[7];
    assert_int_equal(sampler_reset(s, &p, &err), OK);
    for (int i = 0; i < 50; i++) assert_int_equal(next(s, logits), first[i]);
    sampler_free(s);
    sampler_free(other);
    sampler_free(NULL);
}

// --- ranges --------------------------------------------------------------------------------------

// Option names are spelled with -, _ or a space.
static bool names(const char *text, const char *option) {
    size_t n = strlen(option);
    for (; *text; text++) {
        size_t i = 0;
        while (i < n && text[i] && (text[i] == '-' || text[i] == ' ' ? '_' : text[i]) == option[i])
            i++;
        if (i == n) return true;
    }
    return false;
}

static void refused(const char *option, plumb_sampling p, int line) {
    Sampler *s = NULL;
    Error err = {0};
    if (sampler_new(&p, 10, 512, &s, &err) != ERR_USAGE) fail_msg("line %d: %s", line, option);
    if (!names(err.text, option)) fail_msg("line %d: \"%s\" says no %s", line, err.text, option);
    assert_int_equal(err.status, ERR_USAGE);
    assert_int_equal(sampler_new(&p, 10, 512, &s, NULL), ERR_USAGE);
    // The same check at a reset, after which the sampler can still be used.
    plumb_sampling good = plain(0, 1);
    s = sampler_of(&good, 10);
    assert_int_equal(sampler_reset(s, &p, &err), ERR_USAGE);
    assert_int_equal(sampler_reset(s, &good, &err), OK);
    float logits[10] = {0, 0, 0, 1};
    assert_int_equal(next(s, logits), 3);
    sampler_free(s);
}

static void ranges_name_the_option(void **state) {
    (void)state;
#define REFUSED(field, word, value)     \
    do {                                \
        plumb_sampling p = plain(1, 1); \
        p.field = value;                \
        refused(word, p, __LINE__);     \
    } while (0)
    REFUSED(temperature, "temp", -0.1f);
    REFUSED(temperature, "temp", NAN);
    REFUSED(temperature, "temp", HUGE_VALF);
    REFUSED(top_k, "top_k", -1);
    REFUSED(top_p, "top_p", -0.01f);
    REFUSED(top_p, "top_p", 1.01f);
    REFUSED(top_p, "top_p", NAN);
    REFUSED(min_p, "min_p", -0.01f);
    REFUSED(min_p, "min_p", 1.01f);
    REFUSED(min_p, "min_p", NAN);
    REFUSED(typical_p, "typical", -0.01f);
    REFUSED(typical_p, "typical", 1.01f);
    REFUSED(typical_p, "typical", NAN);
    REFUSED(repeat_penalty, "repeat_penalty", -1);
    REFUSED(repeat_penalty, "repeat_penalty", NAN);
    REFUSED(repeat_penalty, "repeat_penalty", HUGE_VALF);
    REFUSED(repeat_last_n, "repeat_last_n", -2);
    REFUSED(presence_penalty, "presence_penalty", NAN);
    REFUSED(presence_penalty, "presence_penalty", HUGE_VALF);
    REFUSED(frequency_penalty, "frequency_penalty", NAN);
    REFUSED(frequency_penalty, "frequency_penalty", -HUGE_VALF);
#undef REFUSED
    static const plumb_logit_bias bad[] = {
        {-1, 0}, {10, 0}, {INT32_MAX, 1}, {0, NAN}, {0, HUGE_VALF}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        plumb_sampling p = plain(1, 1);
        p.logit_bias = &bad[i], p.n_logit_bias = 1;
        refused("logit_bias", p, __LINE__);
    }
}

// --- log-probabilities ---------------------------------------------------------------------------

static double log_softmax(const float *logits, int n, int id) {
    double top = -HUGE_VAL, sum = 0;
    for (int i = 0; i < n; i++) top = fmax(top, (double)logits[i]);
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - top);
    return (double)logits[id] - top - log(sum);
}

static void check_logprob(double got, double want) {
    if (isinf(want) ? got != want : !(fabs(got - want) <= 2e-6 * fmax(1, fabs(want)))) {
        fail_msg("log-probability %.9g, expected %.9g", got, want);
    }
}

static void logprobs_against_double(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 5, 100, 50000};
    static const float scales[] = {0, 0.01f, 3, 50, 1e4f};
    float *logits = room(50000 * sizeof *logits);
    Rng r = {21};
    for (size_t k = 0; k < 25; k++) {
        int n = sizes[k % 5];
        for (int i = 0; i < n; i++) logits[i] = scales[k / 5] * rng_normal(&r);
        if (n > 4) logits[3] = -HUGE_VALF;
        for (int i = 0; i < 10; i++) {
            int id = i < 4 && i < n ? i : (int)rng_below(&r, (uint64_t)n);
            check_logprob((double)sampler_logprob(logits, n, id), log_softmax(logits, n, id));
        }
    }
    free(logits);
}

static void check_top(const float *logits, int n, int count) {
    plumb_sampling p = plain(1, 1);
    Sampler *s = sampler_of(&p, n);
    Cand *c = room((size_t)n * sizeof *c);
    for (int i = 0; i < n; i++) c[i] = (Cand){.id = i, .logit = (double)logits[i]};
    sort_likeliest(c, n);  // ties: the lowest id first
    plumb_logprob *top = room((size_t)(count + 1) * sizeof *top);
    sampler_top(s, logits, count, top);
    for (int i = 0; i < count; i++) {
        if (top[i].id != c[i].id) {
            fail_msg("place %d of %d among %d: id %d, expected %d", i, count, n, (int)top[i].id,
                     c[i].id);
        }
        check_logprob((double)top[i].logprob, log_softmax(logits, n, c[i].id));
    }
    assert_int_equal(float_bits(top[count].logprob), 0xffffffffu);  // nothing past the end
    free(top);
    free(c);
    sampler_free(s);
}

static void top_is_in_order(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 5, 100, 5000};
    float *logits = room(5000 * sizeof *logits);
    Rng r = {8};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int n = sizes[k];
        for (int kind = 0; kind < 4; kind++) {  // random, few values, all equal, ascending
            for (int i = 0; i < n; i++) {
                logits[i] = kind == 0   ? rng_normal(&r)
                            : kind == 1 ? (float)rng_below(&r, 4)
                            : kind == 2 ? 2
                                        : (float)i / 100;
            }
            for (int count = 0; count <= n; count = count < 12 ? count + 1 : count * 3) {
                check_top(logits, n, count);
            }
            check_top(logits, n, n);
        }
    }
    free(logits);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_first_of_the_best),
        cmocka_unit_test(nothing_filters),
        cmocka_unit_test(top_k_alone),
        cmocka_unit_test(top_p_alone),
        cmocka_unit_test(min_p_alone),
        cmocka_unit_test(typical_alone),
        cmocka_unit_test(all_filters_in_order),
        cmocka_unit_test(temperature_by_formula),
        cmocka_unit_test(top_p_before_temperature),
        cmocka_unit_test(filters_that_are_off_drop_nothing),
        cmocka_unit_test(extreme_temperatures),
        cmocka_unit_test(penalties_by_formula),
        cmocka_unit_test(penalty_windows),
        cmocka_unit_test(penalties_come_before_the_filters),
        cmocka_unit_test(logit_biases),
        cmocka_unit_test(nan_and_infinity),
        cmocka_unit_test(golden_draws),
        cmocka_unit_test(same_seed_same_draws),
        cmocka_unit_test(ranges_name_the_option),
        cmocka_unit_test(logprobs_against_double),
        cmocka_unit_test(top_is_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
