// What any array may hold instead of what it should.
#include "cause_fixture.h"

static const Shape shapes[] = {
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 20, NULL},
    {256, 512, 8, 2, 32, 131, 3, TYPE_Q4_K, true, true, false, 20, "q8_k"},
    {192, 320, 6, 3, 32, 99, 3, TYPE_F32, false, false, false, 5, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static Fix *f;
static size_t n, width;

static void open_fix(int shape, Component c) {
    f = fix_own(&shapes[shape], c == COMP_EMBD || c == COMP_LOGITS || c == COMP_NORM ? -1 : 1);
    n = f->s.n, width = fix_width(f, c);
    const Component scores[] = {COMP_KQ, COMP_KQ_SOFT_MAX};
    for (int i = 0; i < 2; i++) f->site.at[scores[i]].width = fix_width(f, scores[i]);
}

static bool is_product(Component c) {
    return (c >= COMP_Q && c <= COMP_V) || c == COMP_ATTN_OUT || c == COMP_FFN_GATE ||
           c == COMP_FFN_UP || c == COMP_FFN_OUT || c == COMP_LOGITS;
}

static bool has(int shape, Component c) {
    const bool norms = c == COMP_Q_NORM || c == COMP_K_NORM;
    // Of quantized products one: much is tried there before an array is asked what it holds.
    const bool slow = shapes[shape].type != TYPE_F32 && is_product(c) && c != COMP_Q;
    return (!norms || shapes[shape].qk_norm) && c != COMP_PROBS && c != COMP_TOKEN && !slow;
}

// Every component of every shape.
#define EACH(c)                                              \
    for (int s_ = 0; s_ < N_SHAPES; s_++)                    \
        for (Component c = COMP_EMBD; c <= COMP_LOGITS; c++) \
            for (has(s_, c) ? open_fix(s_, c) : (void)0; f; fix_own_free(f), f = NULL)

static bool is_embd_or_cache(Component c) {
    return c == COMP_EMBD || c == COMP_K_CACHE || c == COMP_V_CACHE;
}

static void zeros(void **state) {
    (void)state;
    EACH(c) {
        float *y = fix_right(f, c);
        memset(y, 0, n * width * sizeof *y);
        if (c == COMP_KQ || is_embd_or_cache(c)) continue;  // masks and caches have their own words
        fix_named(f, c, y, "zero", "all zero");
        y = fix_right(f, c);
        memset(y + 2 * width, 0, 2 * width * sizeof *y);
        fix_named(f, c, y, "zero", "zero at token 2");
    }
}

static void factors(void **state) {
    (void)state;
    EACH(c) {
        // A factor of embeddings, scores and sums of exponentials has names of its own.
        if (c == COMP_EMBD || c == COMP_KQ || c == COMP_KQ_SOFT_MAX || c == COMP_FFN_INP ||
            c == COMP_L_OUT) {
            continue;
        }
        float *y = fix_right(f, c);
        for (size_t i = 0; i < n * width; i++) y[i] *= -1;
        fix_named(f, c, y, "negated", NULL);
        y = fix_right(f, c);
        for (size_t i = 0; i < n * width; i++) y[i] *= 0.375f;
        fix_named(f, c, y, "scaled", "0.375 times");
        y = fix_right(f, c);
        const float by = sqrtf((float)f->s.head_dim);
        for (size_t i = 0; i < n * width; i++) y[i] /= by;
        fix_named(f, c, y, "scaled", "1 / sqrt(head_dim)");
        y = fix_right(f, c);
        for (size_t i = 0; i < n * width; i++) y[i] += 0.25f;
        fix_named(f, c, y, "offset", "0.25 is added");
    }
}

// Rows of the tokens from[i].
static float *rows(const float *x, long (*from)(long i)) {
    float *y = fix_alloc(f, n * width, sizeof *y);
    for (long i = 0; i < (long)n; i++) {
        const long at = from(i);
        if (at < 0 || at >= (long)n) continue;
        memcpy(y + (size_t)i * width, x + (size_t)at * width, width * sizeof *y);
    }
    return y;
}

static long one_before(long i) {
    return i - 1;
}

static long two_after(long i) {
    return i + 2;
}

static long last(long i) {
    (void)i;
    return (long)n - 1;
}

static long reversed(long i) {
    return (long)n - 1 - i;
}

static void tokens(void **state) {
    (void)state;
    EACH(c) {
        if (c == COMP_EMBD || is_embd_or_cache(c) || component_is_scores(c)) continue;
        const float *y = fix_right(f, c);
        fix_named(f, c, rows(y, one_before), "token-shift", "1 before");
        fix_named(f, c, rows(y, two_after), "token-shift", "2 after");
        fix_named(f, c, rows(y, last), "token-shift", n == 20 ? "token 19" : "token 4");
        fix_named(f, c, rows(y, reversed), "token-shift", "reverse");
    }
}

static void moved(void **state) {
    (void)state;
    EACH(c) {
        const size_t groups = width / component_group(&f->model.h, c, width), d = width / groups;
        const float *y = fix_right(f, c);
        float *z = fix_alloc(f, n * width, sizeof *z);
        if (groups > 2 && c != COMP_K_CACHE && c != COMP_V_CACHE && !component_is_scores(c)) {
            for (size_t i = 0; i < n * groups; i++) {
                const size_t h = i % groups, from = h == 0 ? 2 : h == 2 ? 0 : h;
                memcpy(z + i * d, y + (i - h + from) * d, d * sizeof *z);
            }
            fix_named(f, c, z, "heads-permuted", "heads in another order");
        }
        if (component_is_scores(c) || is_embd_or_cache(c) || is_product(c)) continue;
        for (size_t i = 0; i < n * width; i++) z[i] = i % width > 0 ? y[i - 1] : 7;
        fix_named(f, c, z, "elements-shifted", "1 too far to the right");
    }
}

static void rounded(void **state) {
    (void)state;
    EACH(c) {
        if (is_embd_or_cache(c)) continue;
        float *y = fix_right(f, c);
        for (size_t i = 0; i < n * width; i++) y[i] = bf16_to_f32(f32_to_bf16(y[i]));
        fix_named(f, c, y, "rounded", "bf16");
    }
}

// Another layer's same component, as captured and as it should be; another of this layer.
static void arrays(void **state) {
    (void)state;
    EACH(c) {
        if (!component_in_layer(c) || component_is_scores(c) || is_embd_or_cache(c)) continue;
        const Site own = f->site;
        if (c != COMP_ATTN && c != COMP_Q_ROPE && c != COMP_K_ROPE) {  // another input, there
            char words[40];
            snprintf(words, sizeof words, "what blk.0.%s should", component_name(c));
            fix_array(f, &f->seen[COMP_EMBD], &f->before.stream, COMP_EMBD, -1, 1);
            f->site = f->before;
            const float *y = fix_right(f, c);
            f->site = own;
            fix_named(f, c, y, "other-array", words);
        }
        float *x = fix_alloc(f, n * width, sizeof *x);
        for (size_t i = 0; i < n * width; i++) x[i] = (float)fix_normal(f);
        TraceArray a = {{c, 2}, x, n, width, 0, ""}, b = {{c, 1}, x, n, width, 0, ""};
        TracePrompt p[2] = {{.name = "a", .arrays = &a, .n_arrays = 1},
                            {.name = "b", .arrays = &b, .n_arrays = 1}};
        Trace t = {.prompts = p, .n_prompts = 2};
        f->site.prompt = &p[0];
        char words[40];
        snprintf(words, sizeof words, "as blk.2.%s", component_name(c));
        fix_named(f, c, x, "other-array", words);
        p[0].n_arrays = 0, f->site.trace = &t;
        fix_named(f, c, x, "other-array", "prompt \"b\"");
    }
}

// A layer that only the trace has: what its k should be, from its attn_norm.
static void expected_arrays(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        open_fix(s, COMP_ATTN_NORM);
        float *x = fix_alloc(f, n * width, sizeof *x);
        for (size_t i = 0; i < n * width; i++) x[i] = (float)fix_normal(f);
        TraceArray a = {{COMP_ATTN_NORM, 2}, x, n, width, 0, ""};
        TracePrompt p = {.name = "a", .arrays = &a, .n_arrays = 1};
        const Site own = f->site;
        f->site.at[COMP_ATTN_NORM].seen = &a, f->site.w = &f->model.layers[2];
        const float *k = fix_right(f, COMP_K);
        f->site = own;
        f->site.prompt = &p;
        fix_named(f, COMP_K, k, "other-array", "blk.2.k should");
        fix_own_free(f), f = NULL;
    }
}

static void inputs(void **state) {
    (void)state;
    // The captured input is damaged, the component was made from the right one.
    static const Component of[] = {COMP_Q,       COMP_K_ROPE,   COMP_FFN_NORM, COMP_FFN_GATE,
                                   COMP_FFN_OUT, COMP_ATTN_OUT, COMP_KQ,       COMP_ATTN};
    static const Component in[] = {COMP_ATTN_NORM, COMP_K,    COMP_FFN_INP, COMP_FFN_NORM,
                                   COMP_FFN_ACT,   COMP_ATTN, COMP_K_ROPE,  COMP_V};
    for (int s = 0; s < N_SHAPES; s++) {
        for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
            if (in[i] == COMP_K && shapes[s].qk_norm) continue;
            open_fix(s, of[i]);
            const float *good = fix_right(f, in[i]);
            TraceArray *a = &f->seen[in[i]];
            const float *bad = a->x;
            a->x = good;
            const float *y = fix_right(f, of[i]);
            a->x = bad;
            char words[40];
            snprintf(words, sizeof words, "blk.1.%s as", component_name(in[i]));
            fix_named(f, of[i], y, "input-array", words);
            fix_own_free(f), f = NULL;
        }
    }
}

static void stream(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        open_fix(s, COMP_ATTN_NORM);
        const Site own = f->site;
        f->site = f->before;
        const float *good = fix_right(f, COMP_L_OUT), *bad = f->stream.x;
        f->site = own;
        f->stream.x = good;
        const float *y = fix_right(f, COMP_ATTN_NORM);
        f->stream.x = bad;
        fix_named(f, COMP_ATTN_NORM, y, "input-array", "blk.0.l_out as");
        fix_own_free(f), f = NULL;
    }
}

static void damage(void **state) {
    (void)state;
    EACH(c) {
        float *y = fix_right(f, c);
        const size_t token = n - 2, at = token * width + (component_is_scores(c) ? 1 : 7);
        y[at] += 0.5f;
        fix_named(f, c, y, "damaged-elements", component_is_scores(c) ? "key 1" : "element 7");
        y[at] = NAN;
        fix_named(f, c, y, "damaged-elements", "nan");
        if (component_is_scores(c)) continue;
        y[at + 3] = 5, y[at + 4] = 3;
        fix_named(f, c, y, "damaged-elements", "2 more");
    }
}

static void noise(void **state) {
    (void)state;
    EACH(c) {
        float *y = fix_right(f, c);
        for (size_t i = 0; i < n * width; i++) y[i] *= (float)(1 + 1e-2 * fix_normal(f));
        fix_unknown(f, c, y);
        y = fix_right(f, c);
        for (size_t i = 2 * width; i < 3 * width; i++) y[i] = (float)fix_normal(f);
        fix_unknown(f, c, y);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zeros),           cmocka_unit_test(factors), cmocka_unit_test(tokens),
        cmocka_unit_test(moved),           cmocka_unit_test(rounded), cmocka_unit_test(arrays),
        cmocka_unit_test(expected_arrays), cmocka_unit_test(inputs),  cmocka_unit_test(stream),
        cmocka_unit_test(damage),          cmocka_unit_test(noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
