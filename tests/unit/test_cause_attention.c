// The causes of wrong attention: scores, weights, heads, each with what comes before it captured or
// not.
#include "cause_fixture.h"

#include "verify/cause_attend.h"

static const Shape shapes[] = {
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 20, NULL},
    {256, 512, 8, 2, 32, 131, 3, TYPE_F32, false, true, false, 20, NULL},
    {200, 512, 6, 3, 16, 131, 3, TYPE_F32, false, false, false, 5, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

// What is captured beside the component that is looked at.
typedef enum { NOTHING, SCORES, WEIGHTS } Beside;

// How a test computes attention; fresh() is right.
typedef struct {
    const float *q, *k, *v;
    double scale, sharpness, padding, total;  // padding: keys of score 0; total: up to so many keys
    long (*first)(long token, long n), (*end)(long token, long n);
    size_t (*key_head)(size_t head, size_t heads, size_t kv);
    size_t (*value_head)(size_t head, size_t heads, size_t kv);
    bool by_batch;  // padding by uneven batches
    bool close;     // uniform where scores range over 1.5 or less
    bool uniform, raw, not_divided, skipped, twice, over_heads, zero_masked, shown, overflows;
    int join;
} How;

typedef struct {
    float *kq, *soft, *attn;  // n * heads x n, the same, n x heads * d
} Result;

static long right_first(long token, long n) {
    (void)token, (void)n;
    return 0;
}

static long right_end(long token, long n) {
    (void)n;
    return token + 1;
}

static size_t right_head(size_t head, size_t heads, size_t kv) {
    return head / (heads / kv);
}

static How fresh(const Fix *f) {
    return (How){.q = f->site.at[COMP_Q_ROPE].seen->x,
                 .k = f->site.at[COMP_K_ROPE].seen->x,
                 .v = f->site.at[COMP_V].seen->x,
                 .scale = 1 / sqrt(f->s.head_dim),
                 .sharpness = 1,
                 .first = right_first,
                 .end = right_end,
                 .key_head = right_head,
                 .value_head = right_head};
}

static double dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

// Scores of all keys, masked or not.
static void all_scores(const Fix *f, const How *w, size_t token, size_t head, double *s) {
    const size_t d = (size_t)f->s.head_dim, heads = (size_t)f->s.heads, kv = (size_t)f->s.kv_heads;
    for (size_t j = 0; j < f->s.n; j++) {
        const size_t at = j * kv + w->key_head(head, heads, kv);
        s[j] = w->scale * w->sharpness * dot(w->q + (token * heads + head) * d, w->k + at * d, d);
    }
}

static void weights(Fix *f, const How *w, size_t token, size_t head, double *s, double *p) {
    const long n = (long)f->s.n, first = w->first((long)token, n), end = w->end((long)token, n);
    double sum = 0, most = -INFINITY;
    all_scores(f, w, token, head, s);
    for (long j = 0; j < n; j++) {
        const bool in = j >= first && j < end;
        if (!in && w->zero_masked) s[j] = 0;
        p[j] = 0;
        if (!in && !w->zero_masked) continue;
        p[j] = w->uniform ? 1 : w->skipped ? s[j] : exp(s[j]);
        sum += p[j];
        most = fmax(most, s[j]);
    }
    const double padding = w->by_batch    ? (token < 2    ? 25
                                             : token < 3 ? 20
                                                          : 12)
                           : w->total > 0 ? w->total - (double)token - 1
                                          : w->padding;
    for (long j = 0; j < n; j++) {
        if (w->over_heads) {
            double all = 0, t[64];
            for (size_t h = 0; h < (size_t)f->s.heads; h++) {
                all_scores(f, w, token, h, t);
                all += exp(t[j]);
            }
            p[j] /= all;
        } else if (w->not_divided) {
            p[j] /= w->raw ? 1 : exp(most);
        } else if (!w->skipped) {
            p[j] /= sum + padding;
            if (w->shown && j >= end) p[j] = 1 / (sum + padding);
        }
        if (w->close) {
            double low = INFINITY, high = -INFINITY;
            for (long i = first; i < end; i++) low = fmin(low, s[i]), high = fmax(high, s[i]);
            if (high - low < 1.5 && p[j] != 0) p[j] = 1 / (double)(end - first);
        }
        if (w->overflows && most > 88.8 && j < end) p[j] = s[j] > 88.72 ? NAN : 0;
    }
    for (int again = 0; again < (w->twice ? 1 : 0); again++) {
        sum = 0;
        for (long j = first; j < end; j++) sum += p[j] = exp(p[j]);
        for (long j = first; j < end; j++) p[j] /= sum;
    }
}

static Result compute(Fix *f, const How *w) {
    const size_t n = f->s.n, d = (size_t)f->s.head_dim, heads = (size_t)f->s.heads,
                 kv = (size_t)f->s.kv_heads;
    Result r = {fix_alloc(f, n * heads * n, 4), fix_alloc(f, n * heads * n, 4),
                fix_alloc(f, n * heads * d, 4)};
    double s[64], p[64];
    for (size_t cell = 0; cell < n * heads; cell++) {
        const size_t token = cell / heads, head = cell % heads;
        weights(f, w, token, head, s, p);
        for (size_t j = 0; j < n; j++) {
            const bool in =
                (long)j >= w->first((long)token, (long)n) && (long)j < w->end((long)token, (long)n);
            r.kq[cell * n + j] = in ? (float)s[j] : 0;
            r.soft[cell * n + j] = (float)p[j];
        }
        for (size_t i = 0; i < d; i++) {
            double y = 0;
            for (size_t j = 0; j < n; j++) {
                const bool empty = w->shown && (long)j >= w->end((long)token, (long)n);
                if (p[j] == 0 || empty) continue;
                y += p[j] * w->v[(j * kv + w->value_head(head, heads, kv)) * d + i];
            }
            const size_t at = w->join == 1   ? token * heads * d + i * heads + head
                              : w->join == 2 ? (cell % n * heads + cell / n) * d + i
                                             : cell * d + i;
            r.attn[at] = (float)y;
        }
    }
    if (w->join == 3) {  // what is head-major, read as if it were element-major
        float *x = fix_alloc(f, n * heads * d, 4);
        for (size_t i = 0; i < n * heads * d; i++) {
            const size_t j = i % (heads * d), h = j / d, e = j % d;
            x[i] = r.attn[i - j + e * heads + h];
        }
        r.attn = x;
    }
    return r;
}

static void set(Fix *f, Component c, const float *x) {
    TraceArray *a = &f->seen[c];
    const size_t heads = (size_t)f->s.heads, n = f->s.n;
    *a = (TraceArray){{c, 1}, x, n * heads, n, 0, "fixture"};
    f->site.at[c] = (Value){.seen = x ? a : NULL, .width = n * heads};
}

// The component of a wrong way, with right arrays beside it as `beside` says.
static void named(Fix *f, const How *w, Component c, Beside beside, const char *id,
                  const char *words) {
    const How right = fresh(f);
    // What was captured before the wrong step is what that step read.
    How up_to = *w;
    if (beside == SCORES) up_to = right;
    const Result good = compute(f, &up_to), bad = compute(f, w);
    set(f, COMP_KQ, beside == SCORES ? good.kq : NULL);
    set(f, COMP_KQ_SOFT_MAX, beside == WEIGHTS ? compute(f, &right).soft : NULL);
    fix_named(f, c, c == COMP_KQ ? bad.kq : c == COMP_KQ_SOFT_MAX ? bad.soft : bad.attn, id, words);
}

// A fault of scores shows in all three components; one of weights in the last two, with scores
// captured or not; one of values in the last, with weights captured or not.
typedef enum { OF_SCORES, OF_WEIGHTS, OF_VALUES } Of;

static void everywhere(Fix *f, const How *w, Of of, const char *id, const char *words) {
    if (of == OF_SCORES) named(f, w, COMP_KQ, NOTHING, id, words);
    if (of != OF_VALUES) named(f, w, COMP_KQ_SOFT_MAX, NOTHING, id, words);
    named(f, w, COMP_ATTN, NOTHING, id, words);
    if (of == OF_WEIGHTS) named(f, w, COMP_KQ_SOFT_MAX, SCORES, id, words);
    if (of == OF_WEIGHTS) named(f, w, COMP_ATTN, SCORES, id, words);
    if (of == OF_VALUES) named(f, w, COMP_ATTN, WEIGHTS, id, words);
}

#define EACH(f, w)                                                           \
    for (int s_ = 0; s_ < N_SHAPES; s_++)                                    \
        for (Fix *f = fix_own(&shapes[s_], 1); f; fix_own_free(f), f = NULL) \
            for (How w = fresh(f), *go_ = &w; go_; go_ = NULL)

// --- what is right ------------------------------------------------------------------------------

// The right way gives what the site expects, to the bit: y, bound and sd, whatever is captured.
static void same_as_expected(Fix *f, Component c) {
    size_t row[64];
    Expected want, e;
    Error err;
    for (size_t i = 0; i < f->s.n; i++) row[i] = i;
    if (expect(&f->site, c, row, f->s.n, &want, &err)) fail_msg("%s", err.text);
    Cause cause = {0};
    const CauseCase k = {
        .site = &f->site, .c = c, .row = row, .n_rows = f->s.n, .want = &want, .groups = 1};
    Trial t = {.k = &k, .out = &cause, .err = &err};
    Attend a;
    float *got = fix_alloc(f, want.rows * want.width, sizeof *got);
    CauseCase with = k;
    with.got = got;
    t.k = &with;
    assert_true(attend_open(&t, &a));
    assert_true(attend_expect(&a, &a.right, 0, f->s.n, &e));
    for (size_t i = 0; i < want.rows * want.width; i++) {
        if (e.y[i] == want.y[i] && e.bound[i] == want.bound[i] && e.sd[i] == want.sd[i]) continue;
        fail_msg("%s: element %zu: y %.17g bound %.17g sd %.17g, expected %.17g %.17g %.17g",
                 component_name(c), i, e.y[i], e.bound[i], e.sd[i], want.y[i], want.bound[i],
                 want.sd[i]);
    }
    expected_free(&e), expected_free(&want);
    attend_close(&a);
}

static void right(void **state) {
    (void)state;
    const AttnScheme *scheme;
    for (int i = 0; (scheme = attn_scheme_at(i)); i++) {
        EACH(f, w) {
            const Result r = compute(f, &w);
            f->rounding.attn = *scheme;
            for (int beside = NOTHING; beside <= WEIGHTS; beside++) {
                set(f, COMP_KQ, beside == SCORES ? r.kq : NULL);
                set(f, COMP_KQ_SOFT_MAX, beside == WEIGHTS ? r.soft : NULL);
                if (beside == NOTHING) same_as_expected(f, COMP_KQ);
                if (beside != WEIGHTS) same_as_expected(f, COMP_KQ_SOFT_MAX);
                same_as_expected(f, COMP_ATTN);
            }
            // Inputs that nobody captured.
            static const Component in[] = {COMP_Q_ROPE, COMP_K_ROPE, COMP_V};
            for (int j = 0; j < 3; j++) {
                const size_t n = f->s.n * fix_width(f, in[j]);
                double *x = fix_alloc(f, 2 * n, sizeof *x);
                for (size_t k = 0; k < n; k++) {
                    x[k] = f->site.at[in[j]].seen->x[k], x[n + k] = 1e-6;
                }
                f->site.at[in[j]] = (Value){.x = x, .sd = x + n, .width = n / f->s.n};
            }
            set(f, COMP_KQ, NULL), set(f, COMP_KQ_SOFT_MAX, NULL);
            same_as_expected(f, COMP_KQ);
            same_as_expected(f, COMP_KQ_SOFT_MAX);
            same_as_expected(f, COMP_ATTN);
        }
    }
}

// --- scores -------------------------------------------------------------------------------------

static void scales(void **state) {
    (void)state;
    EACH(f, w) {
        const double d = f->s.head_dim;
        w.scale = 1 / d;
        everywhere(f, &w, OF_SCORES, "score-scale", "twice");
        w.scale = 1;
        everywhere(f, &w, OF_SCORES, "score-scale", "not scaled");
        w.scale = 1 / sqrt(f->s.dim);
        everywhere(f, &w, OF_SCORES, "score-scale", "sqrt(");
        w.scale = 0.37 / sqrt(d);
        named(f, &w, COMP_KQ, NOTHING, "score-scale", "0.37");
        named(f, &w, COMP_ATTN, NOTHING, "softmax-temperature", "0.37");
    }
}

static void temperatures(void **state) {
    (void)state;
    EACH(f, w) {
        w.sharpness = 10;
        everywhere(f, &w, OF_WEIGHTS, "softmax-temperature", "with 10 (a temperature of 0.1)");
        w.sharpness = 0.123456;
        everywhere(f, &w, OF_WEIGHTS, "softmax-temperature", "0.123456");
        w.sharpness = 1 / sqrt(f->s.head_dim);
        named(f, &w, COMP_ATTN, SCORES, "softmax-temperature", "once more");
        w.sharpness = 0.69314718055994531;
        named(f, &w, COMP_KQ_SOFT_MAX, SCORES, "softmax-temperature", "powers of 2");
    }
}

static size_t mod_kv(size_t head, size_t heads, size_t kv) {
    (void)heads;
    return head % kv;
}

static size_t first_kv(size_t head, size_t heads, size_t kv) {
    (void)head, (void)heads, (void)kv;
    return 0;
}

static void mappings(void **state) {
    (void)state;
    EACH(f, w) {
        if (f->s.kv_heads == 1) continue;
        w.key_head = w.value_head = mod_kv;
        everywhere(f, &w, OF_SCORES, "kv-head-mapping", "mod");
        w.value_head = right_head;
        everywhere(f, &w, OF_SCORES, "kv-head-mapping", "keys");
        w.key_head = right_head, w.value_head = mod_kv;
        everywhere(f, &w, OF_VALUES, "kv-head-mapping", "values");
        w.value_head = first_kv;
        everywhere(f, &w, OF_VALUES, "kv-head-mapping", "0 for all");
    }
}

// --- masks --------------------------------------------------------------------------------------

static long end_none(long token, long n) {
    (void)token;
    return n;
}

static long end_more(long token, long n) {
    return token + 2 < n ? token + 2 : n;
}

static long end_three_more(long token, long n) {
    return token + 4 < n ? token + 4 : n;
}

static long end_less(long token, long n) {
    (void)n;
    return token;
}

static long first_1(long token, long n) {
    (void)n;
    return token > 0 ? 1 : 0;
}

static long first_own(long token, long n) {
    (void)n;
    return token;
}

static long window_2(long token, long n) {
    (void)n;
    return token > 1 ? token - 1 : 0;
}

static long chunk_2(long token, long n) {
    (void)n;
    return token / 2 * 2;
}

static long chunk_3_end(long token, long n) {
    return token / 3 * 3 + 3 < n ? token / 3 * 3 + 3 : n;
}

static const long batches[] = {0, 3, 5, 20};  // uneven ones

static long uneven_first(long token, long n) {
    int i = 0;
    (void)n;
    while (batches[i + 1] <= token) i++;
    return batches[i];
}

static long uneven_end(long token, long n) {
    int i = 0;
    (void)n;
    while (batches[i] <= token) i++;
    return batches[i];
}

static void masks(void **state) {
    (void)state;
    EACH(f, w) {
        w.end = end_more;
        everywhere(f, &w, OF_WEIGHTS, "mask-off-by-one", "after its own");
        w.end = end_none;
        everywhere(f, &w, OF_WEIGHTS, "mask-none", NULL);
        w.first = first_own;
        everywhere(f, &w, OF_WEIGHTS, "mask-inverted", NULL);
        w.first = right_first, w.end = chunk_3_end;
        everywhere(f, &w, OF_WEIGHTS, "mask-none", "its batch");
        w.end = end_three_more;
        if (f->s.n > 5) everywhere(f, &w, OF_WEIGHTS, "mask-offset", "3 keys too many");
    }
}

// Masks that hide what should be seen show in kq too.
static void hidden(void **state) {
    (void)state;
    EACH(f, w) {
        w.end = end_less;
        everywhere(f, &w, OF_SCORES, "mask-off-by-one", "its own key");
        w.end = right_end, w.first = window_2;
        everywhere(f, &w, OF_SCORES, "mask-window", "last 2 keys");
        w.first = first_own;
        everywhere(f, &w, OF_SCORES, "mask-window", "last 1 key");
        w.first = chunk_2;
        everywhere(f, &w, OF_SCORES, "mask-chunk", "2 tokens");
    }
    for (int i = 0; i < 2; i++) {  // the first token sees none or, as here, its own
        Fix *f = fix_own(&shapes[i], 1);
        How w = fresh(f);
        w.first = first_1;
        f->site.n = f->s.n;
        const Result r = compute(f, &w);
        set(f, COMP_KQ, NULL), set(f, COMP_KQ_SOFT_MAX, NULL);
        fix_named(f, COMP_ATTN, r.attn, "mask-first", "first key");
        fix_own_free(f);
    }
}

// --- softmax ------------------------------------------------------------------------------------

static void softmaxes(void **state) {
    (void)state;
    EACH(f, w) {
        const How r = w;
        w.uniform = true;
        everywhere(f, &w, OF_WEIGHTS, "softmax-uniform", NULL);
        w.end = end_none;
        everywhere(f, &w, OF_WEIGHTS, "softmax-uniform", "all keys of the prompt");
        w = r, w.not_divided = true;
        everywhere(f, &w, OF_WEIGHTS, "softmax-unnormalised", "max");
        w.raw = true;
        everywhere(f, &w, OF_WEIGHTS, "softmax-unnormalised", "exp(s),");
        w = r, w.skipped = true;
        everywhere(f, &w, OF_WEIGHTS, "softmax-skipped", NULL);
        w = r, w.twice = true;
        everywhere(f, &w, OF_WEIGHTS, "softmax-twice", NULL);
        w = r, w.over_heads = true;
        everywhere(f, &w, OF_WEIGHTS, "softmax-over-heads", NULL);
        w = r, w.zero_masked = true;
        everywhere(f, &w, OF_WEIGHTS, "softmax-padding", "masked scores are 0");
        w = r, w.total = 64;
        everywhere(f, &w, OF_WEIGHTS, "softmax-padding", "over 64 keys");
        w.shown = true;
        everywhere(f, &w, OF_WEIGHTS, "softmax-padding", "over 64 keys");
        w = r, w.padding = 1;
        everywhere(f, &w, OF_WEIGHTS, "softmax-padding", "1 empty key takes");
        w.padding = 300;
        everywhere(f, &w, OF_WEIGHTS, "softmax-padding", "300 empty keys");
    }
}

static void irregular(void **state) {
    (void)state;
    EACH(f, w) {
        const How r = w;
        w.close = true;
        everywhere(f, &w, OF_WEIGHTS, "softmax-uniform", "1.");
        w = r, w.by_batch = true;
        if (f->s.n == 20) everywhere(f, &w, OF_WEIGHTS, "softmax-padding", "25 at token 0");
        w = r, w.end = uneven_end;
        if (f->s.n == 20) everywhere(f, &w, OF_WEIGHTS, "mask-none", "up to 2");
        w = r, w.first = uneven_first;
        if (f->s.n == 20) everywhere(f, &w, OF_SCORES, "mask-chunk", "earlier batches");
    }
}

static void overflows(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        Fix *f = fix_own(&shapes[i], 1);
        const size_t n = f->s.n * fix_width(f, COMP_Q_ROPE);
        float *q = fix_alloc(f, n, sizeof *q);
        for (size_t j = 0; j < n; j++) q[j] = 50 * f->seen[COMP_Q_ROPE].x[j];
        f->seen[COMP_Q_ROPE].x = q;
        How w = fresh(f);
        w.overflows = true;
        named(f, &w, COMP_KQ_SOFT_MAX, NOTHING, "softmax-overflow", "f32");
        named(f, &w, COMP_ATTN, NOTHING, "softmax-overflow", "f32");
        fix_own_free(f);
    }
}

// --- what is read -------------------------------------------------------------------------------

static float *shifted(Fix *f, const float *x, long shift) {
    const size_t n = f->s.n, width = fix_width(f, COMP_V);
    float *y = fix_alloc(f, n * width, sizeof *y);
    for (long i = 0; i < (long)n; i++) {
        const long at = i - shift;
        if (at < 0 || at >= (long)n) continue;
        memcpy(y + i * (long)width, x + at * (long)width, width * sizeof *y);
    }
    return y;
}

static void stages(void **state) {
    (void)state;
    EACH(f, w) {
        const How r = w;
        const Component q = f->s.qk_norm ? COMP_Q_NORM : COMP_Q,
                        k = f->s.qk_norm ? COMP_K_NORM : COMP_K;
        w.k = f->site.at[k].seen->x;
        everywhere(f, &w, OF_SCORES, "cache-before-rope", "keys are not rotated");
        w.q = f->site.at[q].seen->x;
        everywhere(f, &w, OF_SCORES, "other-input", "neither");
        w.k = r.k;
        everywhere(f, &w, OF_SCORES, "other-input", "queries are not");
        w = r, w.v = r.k;
        everywhere(f, &w, OF_VALUES, "cache-exchanged", "exchanged");
        w.k = r.v;
        everywhere(f, &w, OF_SCORES, "cache-exchanged", "exchanged");
        w = r;
        const size_t d = (size_t)f->s.head_dim, width = fix_width(f, COMP_V);
        float *v = fix_alloc(f, f->s.n * width, sizeof *v);
        for (size_t i = 0; i < f->s.n * width; i += 2) {
            const double t = (double)(i / width) * pow(10000, -(double)(i % d) / (double)d);
            v[i] = (float)(r.v[i] * cos(t) - r.v[i + 1] * sin(t));
            v[i + 1] = (float)(r.v[i] * sin(t) + r.v[i + 1] * cos(t));
        }
        w.v = v;
        everywhere(f, &w, OF_VALUES, "value-rotated", NULL);
    }
}

static void slots(void **state) {
    (void)state;
    EACH(f, w) {
        const How r = w;
        w.k = shifted(f, r.k, 1), w.v = shifted(f, r.v, 1);
        everywhere(f, &w, OF_SCORES, "cache-slot", "1 before");
        w.k = r.k;
        everywhere(f, &w, OF_VALUES, "cache-slot", "1 before");
        named(f, &w, COMP_ATTN, NOTHING, "cache-slot", "(values only)");
        w.k = shifted(f, r.k, 1), w.v = r.v;
        everywhere(f, &w, OF_SCORES, "cache-slot", "1 before");
        named(f, &w, COMP_ATTN, NOTHING, "cache-slot", "(keys only)");
        w = r, w.k = shifted(f, r.k, -1), w.v = shifted(f, r.v, -1);
        everywhere(f, &w, OF_SCORES, "cache-slot", "1 after");
        w.k = shifted(f, r.k, 0), w.v = shifted(f, r.v, 0);
        const size_t width = fix_width(f, COMP_V);
        memcpy((float *)(uintptr_t)w.k, r.k + 3 * width, width * sizeof(float));
        memcpy((float *)(uintptr_t)w.v, r.v + 3 * width, width * sizeof(float));
        everywhere(f, &w, OF_SCORES, "cache-slot-overwritten", "slot 0 holds token 3's");
        w.k = r.k;
        everywhere(f, &w, OF_VALUES, "cache-slot-overwritten", "slot 0 holds token 3's");
    }
}

// Slot 0 is overwritten while tokens come one by one.
static void overwritten(void **state) {
    (void)state;
    EACH(f, w) {
        const size_t n = f->s.n, width = fix_width(f, COMP_V), heads = (size_t)f->s.heads;
        for (int own = 0; own < 2; own++) {
            Result all = compute(f, &w);
            for (size_t t = own ? 1 : 2; t < n; t++) {
                How at = w;
                at.k = shifted(f, w.k, 0), at.v = shifted(f, w.v, 0);
                const size_t from = (own ? t : 2) * width;
                memcpy((float *)(uintptr_t)at.k, w.k + from, width * sizeof(float));
                memcpy((float *)(uintptr_t)at.v, w.v + from, width * sizeof(float));
                const Result one = compute(f, &at);
                const size_t d = (size_t)f->s.head_dim;
                memcpy(all.attn + t * heads * d, one.attn + t * heads * d, heads * d * 4);
                memcpy(all.kq + t * heads * n, one.kq + t * heads * n, heads * n * 4);
            }
            set(f, COMP_KQ, NULL), set(f, COMP_KQ_SOFT_MAX, NULL);
            const char *words = own ? "each new token's" : "token 2's once that has come";
            fix_named(f, COMP_ATTN, all.attn, "cache-slot-overwritten", words);
            fix_named(f, COMP_KQ, all.kq, "cache-slot-overwritten", words);
        }
    }
}

static void elsewhere(void **state) {
    (void)state;
    EACH(f, w) {
        const How r = w;
        w.k = f->before.at[COMP_K_ROPE].seen->x, w.v = f->before.at[COMP_V].seen->x;
        everywhere(f, &w, OF_SCORES, "cache-layer", "layer 0");
        w.k = r.k;
        everywhere(f, &w, OF_VALUES, "cache-layer", "layer 0");
        // A layer after this one, and another prompt that is shorter.
        const size_t n = f->s.n, width = fix_width(f, COMP_V);
        float *x[4];
        for (int i = 0; i < 4; i++) {
            x[i] = fix_alloc(f, n * width, sizeof *x[i]);
            for (size_t j = 0; j < n * width; j++) x[i][j] = (float)fix_normal(f);
        }
        TraceArray after[] = {{{COMP_V, 2}, x[1], n, width, 0, ""},
                              {{COMP_K_ROPE, 2}, x[0], n, width, 0, ""}};
        TraceArray other[] = {{{COMP_V, 1}, x[3], n - 2, width, 0, ""},
                              {{COMP_K_ROPE, 1}, x[2], n - 2, width, 0, ""}};
        TracePrompt p[2] = {
            {.name = "a", .tokens = f->tokens, .n_tokens = n, .arrays = after, .n_arrays = 2},
            {.name = "b", .tokens = f->tokens, .n_tokens = n - 2, .arrays = other, .n_arrays = 2}};
        Trace trace = {.prompts = p, .n_prompts = 2};
        f->site.prompt = &p[0], f->site.trace = &trace;
        w.k = x[0], w.v = x[1];
        everywhere(f, &w, OF_SCORES, "cache-layer", "layer 2");
        memcpy(x[2] + (n - 2) * width, r.k + (n - 2) * width, 2 * width * sizeof(float));
        memcpy(x[3] + (n - 2) * width, r.v + (n - 2) * width, 2 * width * sizeof(float));
        w.k = x[2], w.v = x[3];
        everywhere(f, &w, OF_SCORES, "cache-sequence", "\"b\"");
    }
}

// --- joining, rounding, noise -------------------------------------------------------------------

static void joins(void **state) {
    (void)state;
    EACH(f, w) {
        static const char *const ids[] = {"heads-interleaved", "heads-by-tokens",
                                          "heads-interleaved"};
        for (int join = 1; join <= 3; join++) {
            w.join = join;
            everywhere(f, &w, OF_VALUES, ids[join - 1], NULL);
        }
    }
}

static void roundings(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        Fix *f = fix_own(&shapes[i], 1);
        How w = fresh(f);
        const size_t n = f->s.n * fix_width(f, COMP_V);
        float *k = fix_alloc(f, n, sizeof *k), *v = fix_alloc(f, n, sizeof *v);
        for (size_t j = 0; j < n; j++) {
            k[j] = f16_to_f32(f32_to_f16(w.k[j])), v[j] = f16_to_f32(f32_to_f16(w.v[j]));
        }
        w.k = k, w.v = v;
        named(f, &w, COMP_KQ, NOTHING, "attention-rounding", "f16 cache");
        named(f, &w, COMP_ATTN, NOTHING, "attention-rounding", "f16 cache");
        fix_own_free(f);
    }
}

static void noise(void **state) {
    (void)state;
    EACH(f, w) {
        const Result r = compute(f, &w);
        float *const all[] = {r.kq, r.soft, r.attn};
        const Component c[] = {COMP_KQ, COMP_KQ_SOFT_MAX, COMP_ATTN};
        for (int i = 0; i < 3; i++) {
            const size_t n = f->s.n * fix_width(f, c[i]);
            set(f, COMP_KQ, NULL), set(f, COMP_KQ_SOFT_MAX, NULL);
            for (size_t j = 0; j < n; j++) all[i][j] *= (float)(1 + 1e-2 * fix_normal(f));
            fix_unknown(f, c[i], all[i]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right),     cmocka_unit_test(scales),    cmocka_unit_test(temperatures),
        cmocka_unit_test(mappings),  cmocka_unit_test(masks),     cmocka_unit_test(hidden),
        cmocka_unit_test(softmaxes), cmocka_unit_test(irregular), cmocka_unit_test(overflows),
        cmocka_unit_test(stages),    cmocka_unit_test(slots),     cmocka_unit_test(overwritten),
        cmocka_unit_test(elsewhere), cmocka_unit_test(joins),     cmocka_unit_test(roundings),
        cmocka_unit_test(noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
