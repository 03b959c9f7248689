// The causes of wrong probabilities and of wrong choices.
#include "cause_fixture.h"

static const Shape shape = {96, 160, 3, 1, 32, 199, 2, TYPE_F32, false, false, false, 20, NULL};
enum { VOCAB = 199, LAST = 19 };

static Fix *f;
static TracePrompt prompt;
static float *logits;  // of all tokens

static void open_fix(TraceSampling s) {
    f = fix_own(&shape, -1);
    logits = fix_alloc(f, 20 * VOCAB, sizeof *logits);
    for (size_t i = 0; i < 20 * VOCAB; i++) logits[i] = (float)(2 * fix_normal(f));
    f->seen[COMP_LOGITS].x = logits;
    // Penalties have something to do: likely tokens of the prompt, one of them twice.
    f->tokens[3] = f->tokens[4];
    for (size_t i = 0; i < 20; i++) logits[LAST * VOCAB + f->tokens[i]] += i % 3 ? 2.5f : 3.5f;
    logits[LAST * VOCAB + f->tokens[3]] += 2;
    prompt = (TracePrompt){
        .name = "a", .tokens = f->tokens, .n_tokens = 20, .chosen = -1, .sampling = s};
    f->site.prompt = &prompt;
}

static const TraceSampling usual = {.given = true,
                                    .temp = 0.7,
                                    .top_k = 40,
                                    .top_p = 0.95,
                                    .min_p = 0.01,
                                    .repeat_penalty = 1.3,
                                    .presence_penalty = 0.2,
                                    .frequency_penalty = 0.1,
                                    .repeat_last_n = 10};
static const TraceSampling greedy = {.given = true, .top_p = 1, .repeat_penalty = 1};

// --- a sampler of the test's own ----------------------------------------------------------------

typedef struct {
    const float *logits;
    double temp, top_p, min_p, penalty, presence, frequency;
    int top_k;
    size_t window;
    bool divides, multiplies, each_time, cools_first, unnormalised;
} Sampler;

static Sampler of(TraceSampling s) {
    return (Sampler){logits + LAST * VOCAB,
                     s.temp,
                     s.top_p,
                     s.min_p,
                     s.repeat_penalty,
                     s.presence_penalty,
                     s.frequency_penalty,
                     s.top_k,
                     (size_t)(s.repeat_last_n < 0 ? 20 : s.repeat_last_n),
                     false,
                     false,
                     false,
                     false,
                     false};
}

static void penalized(const Sampler *s, double *x) {
    for (size_t i = 0; i < VOCAB; i++) {
        int count = 0;
        x[i] = s->logits[i];
        for (size_t t = 20 - s->window; t < 20; t++) count += (size_t)f->tokens[t] == i;
        for (int k = 0; k < (s->each_time ? count : count > 0); k++) {
            const bool divide = s->divides || (x[i] > 0 && !s->multiplies);
            x[i] = divide ? x[i] / s->penalty : x[i] * s->penalty;
        }
        if (count > 0) x[i] -= s->presence + count * s->frequency;
    }
}

static void probabilities(const Sampler *s, float *p) {
    double x[VOCAB], q[VOCAB], sum = 0, most = -INFINITY, mass = 0, all = 0;
    bool kept[VOCAB] = {false};
    penalized(s, x);
    for (size_t i = 0; i < VOCAB; i++) {
        if (s->cools_first) x[i] /= s->temp;
        most = fmax(most, x[i]);
        q[i] = exp(x[i]);
    }
    const int k = s->top_k > 0 ? s->top_k : VOCAB;
    bool first[VOCAB] = {false};
    for (int rank = 0; rank < k; rank++) {
        size_t best = VOCAB;
        for (size_t i = 0; i < VOCAB; i++) {
            if (!first[i] && (best == VOCAB || x[i] > x[best])) best = i;
        }
        first[best] = true, sum += q[best];
    }
    bool taken[VOCAB] = {false};
    for (int rank = 0; rank < k; rank++) {
        size_t best = VOCAB;
        for (size_t i = 0; i < VOCAB; i++) {
            if (first[i] && !taken[i] && (best == VOCAB || x[i] > x[best])) best = i;
        }
        taken[best] = true;
        kept[best] = (rank == 0 || mass < s->top_p) && exp(x[best] - most) >= s->min_p;
        mass += q[best] / sum;
    }
    const double temp = s->cools_first ? 1 : s->temp;
    sum = 0;
    for (size_t i = 0; i < VOCAB; i++) {
        q[i] = exp((x[i] - most) / temp);
        sum += kept[i] ? q[i] : 0, all += q[i];
    }
    for (size_t i = 0; i < VOCAB; i++) {
        p[i] = (float)(kept[i] ? q[i] / (s->unnormalised ? all : sum) : 0);
    }
}

// --- the cases ----------------------------------------------------------------------------------

static const Cause *find(Component c, const float *got) {
    Expected e = {0};
    Error err = {0};
    const size_t row = LAST;
    Cell cell = {.ratio = RATIO_MOST};
    if (c == COMP_PROBS) {
        if (expect(&f->site, c, &row, 1, &e, &err)) fail_msg("%s", err.text);
        compare_cells(&e, got, c, VOCAB, PREC_F32, &cell);
    } else if (expected_new(1, 1, &e, &err)) {
        fail_msg("%s", err.text);
    }
    const CauseCase k = {.site = &f->site,
                         .c = c,
                         .row = &row,
                         .n_rows = 1,
                         .got = got,
                         .want = &e,
                         .cells = &cell,
                         .all = &cell,
                         .first_row = LAST,
                         .all_rows = 1,
                         .groups = 1};
    if (cause_find(&k, &f->cause, &err)) fail_msg("%s", err.text);
    expected_free(&e);
    return &f->cause;
}

static void named(Component c, const float *got, const char *id, const char *words) {
    const Cause *cause = find(c, got);
    if (cause->certainty == CAUSE_CERTAIN && strcmp(cause->fits[0].id, id) == 0 &&
        (!words || strstr(cause->fits[0].text, words))) {
        return;
    }
    fix_print(f, component_name(c));
    fail_msg("expected %s: %s", id, words ? words : "");
}

static void probs(const Sampler *s, const char *id, const char *words) {
    float p[VOCAB];
    probabilities(s, p);
    named(COMP_PROBS, p, id, words);
}

// The test's sampler and the oracle's agree.
static void right(void **state) {
    (void)state;
    open_fix(usual);
    const Sampler s = of(usual);
    float p[VOCAB];
    Expected e;
    Error err;
    Cell cell;
    const size_t row = LAST;
    probabilities(&s, p);
    if (expect(&f->site, COMP_PROBS, &row, 1, &e, &err)) fail_msg("%s", err.text);
    compare_cells(&e, p, COMP_PROBS, VOCAB, PREC_F32, &cell);
    assert_true(cell.ratio < 1);
    expected_free(&e);
    for (size_t i = 0; i < VOCAB; i++) p[i] *= (float)(1 + 0.01 * fix_normal(f));
    assert_int_equal(find(COMP_PROBS, p)->certainty, CAUSE_UNKNOWN);
    fix_own_free(f);
}

static void shift(float by) {
    for (size_t i = 0; i < VOCAB; i++) logits[LAST * VOCAB + i] += by;
}

static void distributions(void **state) {
    (void)state;
    open_fix(usual);
    Sampler s = of(usual);
    s.temp = 0.49;
    probs(&s, "temperature-twice", NULL);
    s.temp = 1;
    probs(&s, "temperature-ignored", NULL);
    s.temp = 1 / 0.7;
    probs(&s, "temperature-inverted", NULL);
    // Likely tokens of either sign.
    shift(-5);
    s = of(usual), s.divides = true;
    probs(&s, "penalty-sign", "divided");
    s = of(usual), s.multiplies = true;
    probs(&s, "penalty-sign", "multiplied");
    shift(5);
    s = of(usual), s.each_time = true, s.window = 20;
    prompt.sampling.repeat_last_n = 20;
    probs(&s, "penalty-repeated", NULL);
    prompt.sampling.repeat_last_n = 10;
    shift(-5);
    s = of(usual), s.penalty = 1 / 1.3;
    probs(&s, "penalty-inverted", NULL);
    shift(5);
    s = of(usual), s.presence = 0.1, s.frequency = 0.2;
    prompt.sampling.repeat_last_n = 20, s.window = 20;
    probs(&s, "penalty-exchanged", NULL);
    prompt.sampling.repeat_last_n = 10;
    s = of(usual), s.window = 0;
    probs(&s, "penalty-ignored", NULL);
    s = of(usual), s.window = 20;
    probs(&s, "penalty-window", "all tokens");
    s = of(usual), s.logits = logits + (LAST - 1) * VOCAB;
    probs(&s, "logits-of-before", NULL);
    s = of(usual), s.logits = logits;
    probs(&s, "logits-of-first", NULL);
    s = of(usual), s.cools_first = true;
    probs(&s, "filter-order", NULL);
    s = of(usual), s.top_p = 1;
    probs(&s, "filter-skipped", "top_p");
    s = of(usual), s.unnormalised = true;
    probs(&s, "filter-unnormalised", NULL);
    fix_own_free(f);
    TraceSampling few = usual;
    few.top_k = 7, few.top_p = 1, few.min_p = 0;
    open_fix(few);
    s = of(few), s.top_k = 8;
    probs(&s, "filter-off-by-one", "too many");
    s.top_k = 6;
    probs(&s, "filter-off-by-one", "too few");
    float p[VOCAB] = {0};
    double x[VOCAB];
    penalized(&s, x);
    size_t best = 0;
    for (size_t i = 0; i < VOCAB; i++) best = x[i] > x[best] ? i : best;
    p[best] = 1;
    named(COMP_PROBS, p, "greedy", NULL);
    fix_own_free(f);
    few.top_k = 0;
    open_fix(few);
    memset(p, 0, sizeof p);
    p[0] = 1;
    named(COMP_PROBS, p, "top-k-zero", NULL);
    fix_own_free(f);
}

static void token(long id, const char *name) {
    const float got = (float)id;
    prompt.chosen = (int32_t)id;
    named(COMP_TOKEN, &got, name, NULL);
}

static size_t best_of(const double *x, double sign) {
    size_t best = 0;
    for (size_t i = 0; i < VOCAB; i++) best = sign * x[i] > sign * x[best] ? i : best;
    return best;
}

static void choices(void **state) {
    (void)state;
    open_fix(greedy);
    float *last = logits + LAST * VOCAB;
    double x[VOCAB];
    last[120] = 20, last[150] = 19;
    for (size_t i = 0; i < VOCAB; i++) x[i] = last[i];
    const size_t best = best_of(x, 1), least = best_of(x, -1);
    token(0, "top-k-zero");
    token((long)least, "argmin");
    x[best] = -INFINITY;
    token((long)best_of(x, 1), "second-best");
    for (size_t i = 0; i < VOCAB; i++) x[i] = logits[(LAST - 1) * VOCAB + i];
    token((long)best_of(x, 1), "logits-of-before");
    for (size_t i = 0; i < VOCAB; i++) x[i] = i < 96 ? last[i] : -INFINITY;
    token((long)best_of(x, 1), "vocabulary-cut");
    token((long)best + 1, "id-off-by-one");
    last[VOCAB - 2] = last[best];  // a tie, the lowest id is right
    token(VOCAB - 2, "ties-to-last");
    const float other = 121 + 20;
    assert_int_equal(find(COMP_TOKEN, &other)->certainty, CAUSE_UNKNOWN);
    fix_own_free(f);
}

// Greedy, with the probabilities captured.
static void certain(void **state) {
    (void)state;
    open_fix(greedy);
    float *last = logits + LAST * VOCAB, p[VOCAB] = {0};
    last[120] = 20, last[150] = 19;
    p[150] = 1;
    named(COMP_PROBS, p, "second-best", NULL);
    last[150] = 20;
    named(COMP_PROBS, p, "ties-to-last", NULL);
    p[150] = 0, p[0] = 1;
    named(COMP_PROBS, p, "top-k-zero", NULL);
    fix_own_free(f);
}

static void penalties(void **state) {
    (void)state;
    TraceSampling s = greedy;
    s.repeat_penalty = 1.5, s.repeat_last_n = 20;
    open_fix(s);
    f->tokens[5] = 150;
    float *last = logits + LAST * VOCAB;
    for (size_t i = 0; i < VOCAB; i++) last[i] = -9 - (float)i / 100;
    // Divided the token of the prompt wins, as it would be without a penalty, and as a reward.
    last[f->tokens[5]] = -8, last[77] = -8.5f;
    const float got = (float)f->tokens[5];
    const Cause *cause = find(COMP_TOKEN, &got);
    assert_int_equal(cause->certainty, CAUSE_AMBIGUOUS);
    assert_string_equal(cause->fits[0].id, "penalty-sign");
    fix_own_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right),   cmocka_unit_test(distributions), cmocka_unit_test(choices),
        cmocka_unit_test(certain), cmocka_unit_test(penalties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
