// The causes of wrong components whose inputs nobody captured.
#include "cause_fixture.h"

static const Shape shapes[] = {
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 12, NULL},
    {256, 512, 8, 2, 32, 131, 3, TYPE_Q4_K, false, false, false, 12, "q8_k"},
    {256, 512, 8, 2, 32, 131, 3, TYPE_Q8_0, false, true, false, 1, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

// Nobody captured c: it is what its inputs make it.
static void uncaptured(Fix *f, Component c) {
    const size_t n = f->s.n, width = fix_width(f, c);
    size_t *row = fix_alloc(f, n, sizeof *row);
    double *x = fix_alloc(f, 2 * n * width, sizeof *x);
    Expected e;
    Error err;
    for (size_t i = 0; i < n; i++) row[i] = i;
    if (expect(&f->site, c, row, n, &e, &err)) fail_msg("%s", err.text);
    for (size_t i = 0; i < n * width; i++) {
        x[i] = e.y[i], x[n * width + i] = bound_spread(e.bound[i], e.sd[i]);
    }
    expected_free(&e);
    f->site.at[c] = (Value){.x = x, .sd = x + n * width, .width = width};
    if (c == COMP_Q && !f->site.w->q_norm) f->site.at[COMP_Q_NORM] = f->site.at[c];
}

// stream -> norm -> product, in float32.
static float *normed(Fix *f, const float *x, const float *w, double eps) {
    const size_t dim = (size_t)f->s.dim;
    float *y = fix_alloc(f, f->s.n * dim, sizeof *y);
    for (size_t r = 0; r < f->s.n; r++) {
        float sum = 0;
        for (size_t i = 0; i < dim; i++) sum += x[r * dim + i] * x[r * dim + i];
        const float scale = 1 / sqrtf(sum / (float)dim + (float)eps);
        for (size_t i = 0; i < dim; i++) y[r * dim + i] = x[r * dim + i] * scale * (w ? w[i] : 1);
    }
    return y;
}

static float *product(Fix *f, const Tensor *t, const float *x) {
    return fix_matmul(f, fix_decoded(f, t), t->type, NULL, x, f->s.n, (size_t)t->dims[0],
                      (size_t)t->dims[1]);
}

static void norm_before_product(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        Fix *f = fix_new(&shapes[s], 1);
        const LayerWeights *w = f->site.w;
        const float *weight = (const void *)w->attn_norm->data,
                    *other = (const void *)w->ffn_norm->data;
        uncaptured(f, COMP_ATTN_NORM);
        fix_named(f, COMP_Q, product(f, w->q, normed(f, f->stream.x, NULL, 1e-5)), "weight-skipped",
                  "(in blk.1.attn_norm, not captured)");
        fix_named(f, COMP_V, product(f, w->v, normed(f, f->stream.x, weight, 1e-3)), "eps",
                  "epsilon is 0.001");
        // The same can be said of q itself, as reading what another norm makes.
        const Cause *c = fix_find(f, COMP_K, product(f, w->k, normed(f, f->stream.x, other, 1e-5)));
        assert_true(c->n_fits > 0);
        assert_non_null(strstr(c->fits[0].text, "ffn_norm.weight"));
        fix_free(f);
    }
}

// Two steps away: neither attn_norm nor q was captured, q_rope was.
static void norm_before_rope(void **state) {
    (void)state;
    Fix *f = fix_new(&shapes[0], 1);
    uncaptured(f, COMP_ATTN_NORM);
    uncaptured(f, COMP_Q);
    const float *q = product(f, f->site.w->q, normed(f, f->stream.x, NULL, 1e-5));
    float *got = fix_alloc(f, f->s.n * 96, sizeof *got);
    double *x = fix_alloc(f, f->s.n * 96, sizeof *x);
    for (size_t i = 0; i < f->s.n * 96; i++) x[i] = q[i];
    oracle_rope(f->oracle, x, f->s.n, 3, f->pos, x);
    for (size_t i = 0; i < f->s.n * 96; i++) got[i] = (float)x[i];
    fix_named(f, COMP_Q_ROPE, got, "weight-skipped", "attn_norm");
    fix_free(f);
}

static float *swiglu(Fix *f, const float *gate, const float *up, bool gelu) {
    const size_t n = f->s.n * (size_t)f->s.ffn;
    float *y = fix_alloc(f, n, sizeof *y);
    for (size_t i = 0; i < n; i++) {
        const double g = gate[i];
        y[i] = (float)((gelu ? 0.5 * g * (1 + erf(g / sqrt(2))) : g / (1 + exp(-g))) * up[i]);
    }
    return y;
}

static void activation_before_product(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        Fix *f = fix_new(&shapes[s], 1);
        const float *gate = f->site.at[COMP_FFN_GATE].seen->x,
                    *up = f->site.at[COMP_FFN_UP].seen->x;
        uncaptured(f, COMP_FFN_ACT);
        fix_named(f, COMP_FFN_OUT, product(f, f->site.w->ffn_down, swiglu(f, gate, up, true)),
                  "gelu", "in blk.1.ffn_act");
        fix_free(f);
    }
}

// gate read transposed, and only what is made of it captured.
static void product_before_activation(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        Fix *f = fix_new(&shapes[s], 1);
        const Tensor *t = f->site.w->ffn_gate;
        const size_t in = (size_t)t->dims[0], out = (size_t)t->dims[1];
        const float *w = fix_decoded(f, t);
        float *turned = fix_alloc(f, in * out, sizeof *turned);
        for (size_t i = 0; i < in * out; i++) turned[i] = w[i % in * out + i / in];
        uncaptured(f, COMP_FFN_GATE);
        const float *gate = fix_matmul(f, turned, t->type, NULL, f->site.at[COMP_FFN_NORM].seen->x,
                                       f->s.n, in, out);
        fix_named(f, COMP_FFN_ACT, swiglu(f, gate, f->site.at[COMP_FFN_UP].seen->x, false),
                  "transposed", "in blk.1.ffn_gate");
        fix_free(f);
    }
}

// The head reads a norm that was not captured.
static void final_norm(void **state) {
    (void)state;
    Fix *f = fix_new(&shapes[0], -1);
    uncaptured(f, COMP_NORM);
    fix_named(f, COMP_LOGITS, product(f, f->model.output, normed(f, f->stream.x, NULL, 1e-5)),
              "weight-skipped", "in norm, not captured");
    fix_free(f);
}

static void noise(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        Fix *f = fix_new(&shapes[s], 1);
        uncaptured(f, COMP_ATTN_NORM);
        uncaptured(f, COMP_FFN_ACT);
        uncaptured(f, COMP_FFN_GATE);
        static const Component list[] = {COMP_Q, COMP_V, COMP_FFN_OUT};
        for (int i = 0; i < 3; i++) {
            float *got = fix_right(f, list[i]);
            for (size_t k = 0; k < f->s.n * fix_width(f, list[i]); k++) {
                got[k] *= (float)(1 + 0.01 * fix_normal(f));
            }
            fix_unknown(f, list[i], got);
        }
        fix_free(f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_before_product),
        cmocka_unit_test(norm_before_rope),
        cmocka_unit_test(activation_before_product),
        cmocka_unit_test(product_before_activation),
        cmocka_unit_test(final_norm),
        cmocka_unit_test(noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
