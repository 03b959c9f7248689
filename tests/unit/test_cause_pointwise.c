// The causes of wrong sums and activations.
#include "cause_fixture.h"

static const Shape shapes[] = {
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 20, NULL},
    {256, 512, 8, 2, 32, 131, 3, TYPE_F32, false, true, false, 20, NULL},
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 1, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static Fix *f;
static size_t n, width;

static void open_fix(const Shape *s, Component c) {
    f = fix_own(s, 1);
    n = f->s.n, width = fix_width(f, c);
}

#define EACH(c)                           \
    for (int s_ = 0; s_ < N_SHAPES; s_++) \
        for (open_fix(&shapes[s_], c); f; fix_own_free(f), f = NULL)

// The two sums: stream and branch.
#define EACH_SUM(c, x, b)                                                                         \
    for (int c_ = 0; c_ < 2; c_++)                                                                \
        for (const Component c = c_ ? COMP_L_OUT : COMP_FFN_INP, *g_ = &c; g_; g_ = NULL) EACH(c) \
    for (const float *x = stream_of(c), *b = branch_of(c); x; x = NULL, (void)b)

static const float *stream_of(Component c) {
    return c == COMP_FFN_INP ? f->site.stream.seen->x : f->site.at[COMP_FFN_INP].seen->x;
}

static const float *branch_of(Component c) {
    return f->site.at[c == COMP_FFN_INP ? COMP_ATTN_OUT : COMP_FFN_OUT].seen->x;
}

// alpha x + beta b
static float *sum(const float *x, double alpha, const float *b, double beta) {
    float *y = fix_alloc(f, n * width, sizeof *y);
    for (size_t i = 0; i < n * width; i++) y[i] = (float)(alpha * x[i]) + (float)(beta * b[i]);
    return y;
}

static float *noise_array(void) {
    float *x = fix_alloc(f, n * width, sizeof *x);
    for (size_t i = 0; i < n * width; i++) x[i] = (float)fix_normal(f);
    return x;
}

static void terms(void **state) {
    (void)state;
    EACH_SUM(c, x, b) {
        const Component norm = c == COMP_FFN_INP ? COMP_ATTN_NORM : COMP_FFN_NORM;
        fix_named(f, c, sum(x, 0, b, 1), "residual-skipped", NULL);
        fix_named(f, c, sum(x, 1, b, 0), "branch-skipped", NULL);
        fix_named(f, c, sum(f->site.at[norm].seen->x, 1, b, 1), "residual-from-normed",
                  component_name(norm));
        fix_named(f, c, sum(x, 2, b, 1), "residual-doubled", NULL);
        fix_named(f, c, sum(x, 1, b, 2), "branch-doubled", NULL);
        fix_named(f, c, sum(x, 1, b, -1), "branch-subtracted", NULL);
        fix_named(f, c, sum(x, 0.25, b, 3), "residual-scaled", "0.25");
    }
}

static void clips(void **state) {
    (void)state;
    EACH_SUM(c, x, b) {
        float *y = sum(x, 1, b, 1);
        for (size_t i = 0; i < n * width; i++) y[i] = fminf(fmaxf(y[i], -1.5f), 1.5f);
        fix_named(f, c, y, "residual-clipped", "the sum is clipped at +-1.5");
        y = sum(x, 1, b, 1);
        for (size_t i = 0; i < n * width; i++) y[i] = fminf(y[i], 0.7853982f);
        fix_named(f, c, y, "residual-clipped", "the sum is clipped at 0.785398");
        float *z = fix_alloc(f, n * width, sizeof *z);
        for (size_t i = 0; i < n * width; i++) z[i] = fminf(fmaxf(b[i], -1), 1);
        fix_named(f, c, sum(x, 1, z, 1), "residual-clipped", "the branch is clipped at +-1");
        for (size_t i = 0; i < n * width; i++) z[i] = fminf(fmaxf(x[i], -0.05f), 0.05f);
        fix_named(f, c, sum(z, 1, b, 1), "residual-clipped", "the stream is clipped at +-0.05");
    }
}

static void others(void **state) {
    (void)state;
    EACH_SUM(c, x, b) {
        float *z = noise_array();
        TraceArray a = {{COMP_ATTN_OUT, 2}, z, n, width, 0, ""};
        TracePrompt p = {.name = "a", .arrays = &a, .n_arrays = 1};
        f->site.prompt = &p;
        fix_named(f, c, sum(z, 1, b, 1), "residual-other", "blk.2.attn_out");
        fix_named(f, c, sum(x, 1, z, 1), "branch-other", "blk.2.attn_out");
        fix_named(f, c, sum(sum(x, 1, b, 1), 1, z, 1), "other-added", "blk.2.attn_out");
        f->site.prompt = NULL;
        if (c == COMP_L_OUT) {
            fix_named(f, c, sum(f->site.stream.seen->x, 1, b, 1), "residual-other",
                      "what entered the layer");
        }
    }
}

static void normed(void **state) {
    (void)state;
    EACH_SUM(c, x, b) {
        const Tensor *t = c == COMP_FFN_INP ? f->site.w->ffn_norm : f->model.layers[2].attn_norm;
        const float *w = fix_decoded(f, t);
        float *y = sum(x, 1, b, 1);
        for (size_t r = 0; r < n; r++) {
            double square = 0;
            for (size_t i = 0; i < width; i++)
                square += (double)y[r * width + i] * y[r * width + i];
            const double by = 1 / sqrt(square / (double)width + 1e-5f);
            for (size_t i = 0; i < width; i++) y[r * width + i] *= (float)(by * w[i]);
        }
        fix_named(f, c, y, "normed-in-place", NULL);
    }
}

static void rounded(void **state) {
    (void)state;
    EACH_SUM(c, x, b) {
        float *z = fix_alloc(f, n * width, sizeof *z);
        for (size_t i = 0; i < n * width; i++) z[i] = bf16_to_f32(f32_to_bf16(b[i]));
        fix_named(f, c, sum(x, 1, z, 1), "residual-rounded", "rounded to bf16");
        for (size_t i = 0; i < n * width; i++) z[i] = f16_to_f32(f32_to_f16(x[i]));
        fix_named(f, c, sum(z, 1, b, 1), "residual-rounded", "rounded to f16");
    }
}

// --- activations --------------------------------------------------------------------------------

static float sigmoid(float x) {
    return 1 / (1 + expf(-x));
}

static float activate(int which, float g, float u) {
    switch (which) {
        case 0: return 0.5f * g * (1 + erff(g / sqrtf(2))) * u;
        case 1: return 0.5f * g * (1 + tanhf(0.7978845608f * (g + 0.044715f * g * g * g))) * u;
        case 2: return g * sigmoid(1.702f * g) * u;
        case 3: return fmaxf(g, 0) * u;
        case 4: return fmaxf(g, 0) * fmaxf(g, 0) * u;
        case 5: return g * u * sigmoid(u);
        case 6: return g * sigmoid(g) * u * sigmoid(u);
        case 7: return g * u * sigmoid(g * u);
        case 8: return g * sigmoid(g) + u;
        case 9: return g * u;
        case 10: return sigmoid(g) * u;
        case 11: return tanhf(g) * u;
        case 12: return g * sigmoid(g);
        case 13: return u;
        case 14: return 0.5f * u * (1 + erff(u / sqrtf(2))) * g;
        default: return g * sigmoid(g) * u;
    }
}

static void activations(void **state) {
    (void)state;
    static const char *const ids[] = {"gelu",
                                      "gelu-tanh",
                                      "gelu-quick",
                                      "relu",
                                      "relu-squared",
                                      "activation-on-up",
                                      "activation-on-both",
                                      "activation-of-product",
                                      "sum-not-product",
                                      "no-activation",
                                      "sigmoid",
                                      "tanh",
                                      "up-dropped",
                                      "gate-dropped",
                                      "activation-on-up"};
    EACH(COMP_FFN_ACT) {
        const float *g = f->site.at[COMP_FFN_GATE].seen->x, *u = f->site.at[COMP_FFN_UP].seen->x;
        for (int which = 0; which < 15; which++) {
            float *y = fix_alloc(f, n * width, sizeof *y);
            for (size_t i = 0; i < n * width; i++) y[i] = activate(which, g[i], u[i]);
            fix_named(f, COMP_FFN_ACT, y, ids[which], NULL);
        }
    }
}

// Gates far from 0, where 1 + erf and 1 + tanh are next to nothing.
static void far_gates(void **state) {
    (void)state;
    open_fix(&shapes[0], COMP_FFN_ACT);
    float *g = fix_alloc(f, n * width, sizeof *g), *y = fix_alloc(f, n * width, sizeof *y);
    const float *u = f->site.at[COMP_FFN_UP].seen->x;
    for (size_t i = 0; i < n * width; i++) g[i] = (float)(6 * fix_normal(f));
    f->seen[COMP_FFN_GATE].x = g;
    for (int which = 0; which < 2; which++) {
        for (size_t i = 0; i < n * width; i++) y[i] = activate(which, g[i], u[i]);
        fix_named(f, COMP_FFN_ACT, y, which ? "gelu-tanh" : "gelu", NULL);
    }
    fix_own_free(f);
}

static void widths(void **state) {
    (void)state;
    EACH(COMP_FFN_ACT) {
        const float *g = f->site.at[COMP_FFN_GATE].seen->x, *u = f->site.at[COMP_FFN_UP].seen->x;
        float *y = fix_alloc(f, n * width, sizeof *y);
        for (size_t i = 0; i < n * width; i++) {
            y[i] = i % width < 100 ? activate(-1, g[i], u[i]) : 0;
        }
        fix_named(f, COMP_FFN_ACT, y, "wrong-width", "from 100 on");
        for (size_t i = 0; i < n * width; i++) {  // gate and up as one row, read as pairs
            const size_t row = i / width * width, at = 2 * (i % width);
            const float a = at < width ? g[row + at] : u[row + at - width];
            const float b = at + 1 < width ? g[row + at + 1] : u[row + at + 1 - width];
            y[i] = activate(-1, a, b);
        }
        fix_named(f, COMP_FFN_ACT, y, "gate-up-interleaved", NULL);
        if (n == 1) continue;
        for (size_t i = 0; i < n * width; i++) {
            const size_t flat = i / width * (width - 13) + i % width;
            y[i] = activate(-1, g[flat], u[flat]);
        }
        char words[40];
        snprintf(words, sizeof words, "%zu wide", width - 13);
        fix_named(f, COMP_FFN_ACT, y, "wrong-width", words);
    }
}

static void noise(void **state) {
    (void)state;
    EACH_SUM(c, x, b) {
        float *y = sum(x, 1, b, 1);
        for (size_t i = 0; i < n * width; i++) y[i] += (float)(1e-2 * fix_normal(f));
        fix_unknown(f, c, y);
    }
    EACH(COMP_FFN_ACT) {
        float *y = fix_right(f, COMP_FFN_ACT);
        for (size_t i = 0; i < n * width; i++) y[i] *= (float)(1 + 1e-2 * fix_normal(f));
        fix_unknown(f, COMP_FFN_ACT, y);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(terms),     cmocka_unit_test(clips),   cmocka_unit_test(others),
        cmocka_unit_test(normed),    cmocka_unit_test(rounded), cmocka_unit_test(activations),
        cmocka_unit_test(far_gates), cmocka_unit_test(widths),  cmocka_unit_test(noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
