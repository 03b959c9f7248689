// The causes of wrong norms.
#include "cause_fixture.h"

static const Shape shapes[] = {
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, true, false, 20, NULL},
    {256, 512, 8, 2, 32, 131, 3, TYPE_F32, false, true, false, 5, NULL},
    {96, 160, 6, 3, 16, 99, 2, TYPE_F32, false, true, false, 1, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static const Component norms[] = {COMP_ATTN_NORM, COMP_FFN_NORM, COMP_NORM, COMP_Q_NORM,
                                  COMP_K_NORM};
enum { N_NORMS = sizeof norms / sizeof *norms };

typedef struct {
    Fix *f;
    Component c;
    const Tensor *weight;
    const float *x, *w;
    size_t len, rows;
    double eps;
    size_t summed;
    bool outside, centered, about_mean, undivided, unscaled;
} At;

static At at_of(const Shape *s, Component c) {
    Fix *f = fix_new(s, c == COMP_NORM ? -1 : 1);
    At a = {.f = f, .c = c, .eps = f->model.h.rms_eps};
    const LayerWeights *w = f->site.w;
    a.x = c == COMP_FFN_NORM ? f->site.at[COMP_FFN_INP].seen->x
          : c == COMP_Q_NORM ? f->site.at[COMP_Q].seen->x
          : c == COMP_K_NORM ? f->site.at[COMP_K].seen->x
                             : f->stream.x;
    a.weight = c == COMP_ATTN_NORM  ? w->attn_norm
               : c == COMP_FFN_NORM ? w->ffn_norm
               : c == COMP_Q_NORM   ? w->q_norm
               : c == COMP_K_NORM   ? w->k_norm
                                    : f->model.output_norm;
    a.w = (const float *)(const void *)a.weight->data;
    a.len = (size_t)a.weight->dims[0], a.rows = s->n * fix_width(f, c) / a.len;
    a.summed = a.len;
    return a;
}

static float *normed(const At *a) {
    float *y = fix_alloc(a->f, a->rows * a->len, sizeof *y);
    for (size_t r = 0; r < a->rows; r++) {
        const float *x = a->x + r * a->len;
        float mean = 0, sum = 0;
        for (size_t i = 0; i < a->len; i++) mean += x[i];
        mean /= (float)a->len;
        for (size_t i = 0; i < a->summed; i++) {
            const float d = a->about_mean ? x[i] - mean : x[i];
            sum += d * d;
        }
        if (!a->undivided) sum /= (float)a->len;
        float scale =
            a->outside ? 1 / (sqrtf(sum) + (float)a->eps) : 1 / sqrtf(sum + (float)a->eps);
        if (a->unscaled) scale = 1;
        for (size_t i = 0; i < a->len; i++) {
            y[r * a->len + i] = (a->centered ? x[i] - mean : x[i]) * scale * (a->w ? a->w[i] : 1);
        }
    }
    return y;
}

#define EACH_NORM(a)                         \
    for (int s_ = 0; s_ < N_SHAPES; s_++)    \
        for (int c_ = 0; c_ < N_NORMS; c_++) \
            for (At a = at_of(&shapes[s_], norms[c_]); a.f; fix_free(a.f), a.f = NULL)

static void weights(void **state) {
    (void)state;
    EACH_NORM(a) {
        At b = a;
        b.w = NULL;
        fix_named(a.f, a.c, normed(&b), "weight-skipped", a.weight->name);
        float *plus = fix_alloc(a.f, a.len, sizeof *plus),
              *twice = fix_alloc(a.f, a.len, sizeof *twice);
        for (size_t i = 0; i < a.len; i++) plus[i] = 1 + a.w[i], twice[i] = a.w[i] * a.w[i];
        b.w = plus;
        fix_named(a.f, a.c, normed(&b), "weight-plus-one", NULL);
        b.w = twice;
        fix_named(a.f, a.c, normed(&b), "weight-twice", NULL);
        const LayerWeights *other = &a.f->model.layers[0];
        const Tensor *t = a.c == COMP_Q_NORM      ? a.f->model.layers[1].k_norm
                          : a.c == COMP_K_NORM    ? other->k_norm
                          : a.c == COMP_ATTN_NORM ? a.f->model.layers[1].ffn_norm
                          : a.c == COMP_FFN_NORM  ? a.f->model.output_norm
                                                  : other->ffn_norm;
        b.w = (const float *)(const void *)t->data;
        fix_named(a.f, a.c, normed(&b), "other-norm-weight", t->name);
    }
}

static void epsilons(void **state) {
    (void)state;
    static const struct {
        double eps;
        const char *text;
    } list[] = {{1e-6, "1e-06"}, {0, "0 or at most"}, {1e-12, "0 or at most"}, {1e-3, "0.001"}};
    EACH_NORM(a) {
        if (a.c == COMP_Q_NORM || a.c == COMP_K_NORM) continue;  // of size 1: epsilon is not seen
        At b = a;
        for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
            b.eps = list[i].eps;
            fix_named(a.f, a.c, normed(&b), "eps", list[i].text);
        }
        b.eps = a.eps / (double)a.len;
        fix_named(a.f, a.c, normed(&b), "eps", NULL);
        b.eps = a.eps, b.outside = true;
        fix_named(a.f, a.c, normed(&b), "eps-outside-root", NULL);
    }
}

// An epsilon that nobody uses, where the rows' sizes differ: it alone explains them all.
static void odd_epsilon(void **state) {
    (void)state;
    At a = at_of(&shapes[0], COMP_ATTN_NORM);
    float *x = fix_alloc(a.f, a.rows * a.len, sizeof *x);
    for (size_t i = 0; i < a.rows * a.len; i++) x[i] = a.x[i] * (float)(1 + i / a.len);
    TraceArray stream = a.f->stream;
    stream.x = a.x = x;
    a.f->site.stream.seen = &stream;
    a.eps = 3.7e-4;
    fix_named(a.f, a.c, normed(&a), "eps", "0.00037");
    fix_free(a.f);
}

static void sums(void **state) {
    (void)state;
    EACH_NORM(a) {
        At b = a;
        b.undivided = true;
        fix_named(a.f, a.c, normed(&b), "sum-not-mean", NULL);
        b = a, b.centered = true;
        fix_named(a.f, a.c, normed(&b), "mean-subtracted", "of the whole");
        b.about_mean = true;
        fix_named(a.f, a.c, normed(&b), "mean-subtracted", "LayerNorm");
        b = a, b.unscaled = true;
        fix_named(a.f, a.c, normed(&b), "norm-skipped", "weights");
        b.w = NULL;
        fix_named(a.f, a.c, normed(&b), "norm-skipped", "holds its input");
        b = a, b.summed = a.len - 8;
        fix_named(a.f, a.c, normed(&b), "squares-cut", NULL);
    }
}

static void inputs(void **state) {
    (void)state;
    EACH_NORM(a) {
        if (a.c == COMP_Q_NORM || a.c == COMP_K_NORM) continue;
        At b = a;
        b.x = a.c == COMP_FFN_NORM ? a.f->stream.x : a.f->before.at[COMP_FFN_INP].seen->x;
        fix_named(a.f, a.c, normed(&b), "other-input", a.c == COMP_FFN_NORM ? "l_out" : "ffn_inp");
    }
}

// Twice, without weights the first time: only epsilon shows, where the input is small.
static void twice(void **state) {
    (void)state;
    At a = at_of(&shapes[0], COMP_ATTN_NORM), b = a;
    b.w = NULL;
    b.x = normed(&b);
    b.w = a.w;
    fix_named(a.f, a.c, normed(&b), "normed-twice", NULL);
    assert_true(a.f->cause.fits[0].harmless);
    b.x = normed(&a);
    fix_named(a.f, a.c, normed(&b), "weight-twice", "each time");
    fix_free(a.f);
}

static void whole_row(void **state) {
    (void)state;
    EACH_NORM(a) {
        if (a.c != COMP_Q_NORM) continue;
        const size_t width = fix_width(a.f, a.c);
        float *w = fix_alloc(a.f, width, sizeof *w);
        for (size_t i = 0; i < width; i++) w[i] = a.w[i % a.len];
        At b = a;
        b.w = w, b.len = b.summed = width, b.rows = a.f->s.n;
        fix_named(a.f, a.c, normed(&b), "norm-width", NULL);
    }
}

static void scaled_rows(void **state) {
    (void)state;
    At a = at_of(&shapes[0], COMP_FFN_NORM);
    float *got = normed(&a);
    for (size_t i = 0; i < a.rows * a.len; i++)
        got[i] *= (float)(1 + 0.01 * (double)(i / a.len + 1));
    fix_named(a.f, a.c, got, "row-scaled", NULL);
    fix_free(a.f);
}

static void noise(void **state) {
    (void)state;
    EACH_NORM(a) {
        for (double size = 1e-5; size < 1; size *= 10) {
            float *got = normed(&a);
            for (size_t i = 0; i < a.rows * a.len; i++)
                got[i] *= (float)(1 + size * fix_normal(a.f));
            fix_unknown(a.f, a.c, got);
        }
    }
}

// One row, one factor: an epsilon could be found that gives it, and none is believed.
static void one_factor(void **state) {
    (void)state;
    At a = at_of(&shapes[2], COMP_ATTN_NORM);
    float *got = normed(&a);
    for (size_t i = 0; i < a.rows * a.len; i++) got[i] *= 0.97f;
    const Cause *cause = fix_find(a.f, a.c, got);
    for (size_t i = 0; i < cause->n_fits; i++) assert_string_equal(cause->fits[i].id, "scaled");
    fix_free(a.f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights),    cmocka_unit_test(epsilons),    cmocka_unit_test(odd_epsilon),
        cmocka_unit_test(sums),       cmocka_unit_test(inputs),      cmocka_unit_test(twice),
        cmocka_unit_test(whole_row),  cmocka_unit_test(scaled_rows), cmocka_unit_test(noise),
        cmocka_unit_test(one_factor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
