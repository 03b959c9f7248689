// The causes of wrong matrix products.
#include "cause_fixture.h"

static const Shape shapes[] = {
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 20, NULL},
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, true, false, false, 1, NULL},
    {256, 512, 8, 2, 32, 131, 3, TYPE_Q4_K, true, false, false, 7, "q8_k"},
    {256, 512, 4, 4, 64, 131, 3, TYPE_Q8_0, false, false, false, 1, "q8_0"},
    {256, 256, 8, 4, 32, 300, 2, TYPE_F16, false, false, false, 5, "f16"},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static const Component products[] = {COMP_Q,        COMP_K,      COMP_V,       COMP_ATTN_OUT,
                                     COMP_FFN_GATE, COMP_FFN_UP, COMP_FFN_OUT, COMP_LOGITS};
enum { N_PRODUCTS = sizeof products / sizeof *products };

// The product at hand, decoded.
typedef struct {
    Fix *f;
    Component c, in;
    const Tensor *t;
    float *w;
    const float *bias, *x;
    size_t inputs, outputs, n;
} At;

static At at_of(const Shape *s, Component c) {
    Fix *f = fix_new(s, c == COMP_LOGITS ? -1 : 1);
    const LayerWeights *w = f->site.w;
    At a = {.f = f, .c = c, .n = s->n};
    const Tensor *bias = NULL;
    switch (c) {
        case COMP_Q: a.t = w->q, bias = w->q_bias, a.in = COMP_ATTN_NORM; break;
        case COMP_K: a.t = w->k, bias = w->k_bias, a.in = COMP_ATTN_NORM; break;
        case COMP_V: a.t = w->v, bias = w->v_bias, a.in = COMP_ATTN_NORM; break;
        case COMP_ATTN_OUT: a.t = w->attn_out, a.in = COMP_ATTN; break;
        case COMP_FFN_GATE: a.t = w->ffn_gate, a.in = COMP_FFN_NORM; break;
        case COMP_FFN_UP: a.t = w->ffn_up, a.in = COMP_FFN_NORM; break;
        case COMP_FFN_OUT: a.t = w->ffn_down, a.in = COMP_FFN_ACT; break;
        default: a.t = f->model.output, a.in = COMP_NORM; break;
    }
    a.w = fix_decoded(f, a.t);
    if (bias) a.bias = (const float *)(const void *)bias->data;
    a.x = f->site.at[a.in].seen->x;
    a.inputs = (size_t)a.t->dims[0], a.outputs = (size_t)a.t->dims[1];
    return a;
}

static float *multiply(const At *a, const float *w, const float *x) {
    return fix_matmul(a->f, w, a->t->type, a->bias, x, a->n, a->inputs, a->outputs);
}

#define EACH_PRODUCT(a)                         \
    for (int s_ = 0; s_ < N_SHAPES; s_++)       \
        for (int p_ = 0; p_ < N_PRODUCTS; p_++) \
            for (At a = at_of(&shapes[s_], products[p_]); a.f; fix_free(a.f), a.f = NULL)

// --- weights ------------------------------------------------------------------------------------

static void transposed(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        float *w = fix_alloc(a.f, a.inputs * a.outputs, sizeof *w);
        for (size_t o = 0; o < a.outputs; o++) {
            for (size_t i = 0; i < a.inputs; i++) w[o * a.inputs + i] = a.w[i * a.outputs + o];
        }
        fix_named(a.f, a.c, multiply(&a, w, a.x), "transposed", "read transposed");
    }
}

static void row_stride(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        if (a.inputs == a.outputs || a.outputs > a.inputs) continue;
        float *w = fix_alloc(a.f, a.inputs * a.outputs, sizeof *w);
        for (size_t o = 0; o < a.outputs; o++) {
            memcpy(w + o * a.inputs, a.w + o * a.outputs, a.inputs * sizeof *w);
        }
        fix_named(a.f, a.c, multiply(&a, w, a.x), "row-stride", NULL);
    }
}

static void other_weights(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        const LayerWeights *w = a.f->site.w, *up = w ? &a.f->model.layers[0] : NULL;
        const Tensor *other = a.c == COMP_Q          ? up->q
                              : a.c == COMP_K        ? w->v
                              : a.c == COMP_V        ? w->k
                              : a.c == COMP_ATTN_OUT ? up->attn_out
                              : a.c == COMP_FFN_GATE ? w->ffn_up
                              : a.c == COMP_FFN_UP   ? w->ffn_gate
                              : a.c == COMP_FFN_OUT  ? up->ffn_down
                                                     : a.f->model.token_embd;
        fix_named(a.f, a.c, multiply(&a, fix_decoded(a.f, other), a.x), "other-weights",
                  other->name);
    }
}

static void other_weights_with_bias(void **state) {
    (void)state;
    At a = at_of(&shapes[2], COMP_K);
    a.bias = (const float *)(const void *)a.f->site.w->v_bias->data;
    fix_named(a.f, a.c, multiply(&a, fix_decoded(a.f, a.f->site.w->v), a.x), "other-weights",
              "attn_v");
    fix_free(a.f);
}

static void rounded_weights(void **state) {
    (void)state;
    At a = at_of(&shapes[0], COMP_Q);
    for (size_t i = 0; i < a.inputs * a.outputs; i++) a.w[i] = bf16_to_f32(f32_to_bf16(a.w[i]));
    fix_named(a.f, a.c, multiply(&a, a.w, a.x), "weights-rounded", "bf16");
    fix_free(a.f);
}

// --- inputs -------------------------------------------------------------------------------------

static void other_input(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        const bool norm = a.in == COMP_ATTN_NORM || a.in == COMP_FFN_NORM || a.in == COMP_NORM;
        const Component c = a.in == COMP_FFN_NORM ? COMP_FFN_INP : COMP_FFN_GATE;
        if (!norm && a.c != COMP_FFN_OUT) continue;
        const float *x = norm && c != COMP_FFN_INP ? a.f->stream.x : a.f->site.at[c].seen->x;
        fix_named(a.f, a.c, multiply(&a, a.w, x), "other-input", norm ? NULL : "ffn_gate");
    }
}

// attn_norm's weights where ffn_norm's were meant.
static void other_norm(void **state) {
    (void)state;
    At a = at_of(&shapes[0], COMP_FFN_UP);
    const float *inp = a.f->site.at[COMP_FFN_INP].seen->x;
    const float *w = (const float *)(const void *)a.f->site.w->attn_norm->data;
    float *x = fix_alloc(a.f, a.n * a.inputs, sizeof *x);
    for (size_t r = 0; r < a.n; r++) {
        double sum = 0;
        for (size_t i = 0; i < a.inputs; i++) sum += pow(inp[r * a.inputs + i], 2);
        const double scale = 1 / sqrt(sum / (double)a.inputs + a.f->model.h.rms_eps);
        for (size_t i = 0; i < a.inputs; i++) {
            x[r * a.inputs + i] = (float)(inp[r * a.inputs + i] * scale * w[i]);
        }
    }
    fix_named(a.f, a.c, multiply(&a, a.w, x), "other-input", "attn_norm.weight");
    fix_free(a.f);
}

static void interleaved_heads(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        for (int back = 0; back < 2; back++) {
            At a = at_of(&shapes[s], COMP_ATTN_OUT);
            const size_t heads = (size_t)shapes[s].heads, d = (size_t)shapes[s].head_dim;
            float *x = fix_alloc(a.f, a.n * a.inputs, sizeof *x);
            for (size_t i = 0; i < a.n * a.inputs; i++) {
                const size_t r = i / a.inputs, h = i % a.inputs / d, e = i % d;
                const size_t other = r * a.inputs + e * heads + h;
                x[back ? i : other] = a.x[back ? other : i];
            }
            fix_named(a.f, a.c, multiply(&a, a.w, x), "heads-interleaved", NULL);
            fix_free(a.f);
        }
    }
}

static void shifted_tokens(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        if (a.n == 1) continue;
        float *x = fix_alloc(a.f, a.n * a.inputs, sizeof *x);
        memcpy(x, a.x, a.inputs * sizeof *x);
        memcpy(x + a.inputs, a.x, (a.n - 1) * a.inputs * sizeof *x);
        fix_named(a.f, a.c, multiply(&a, a.w, x), "token-shift", "1 before");
        for (size_t r = 0; r < a.n; r++) {
            memcpy(x + r * a.inputs, a.x + (a.n - 1) * a.inputs, a.inputs * sizeof *x);
        }
        fix_named(a.f, a.c, multiply(&a, a.w, x), "token-shift", "every token");
    }
}

static void rounded_input(void **state) {
    (void)state;
    At a = at_of(&shapes[2], COMP_FFN_GATE);
    const ActScheme own = a.f->rounding.act;
    a.f->rounding.act = *act_scheme_at(0);
    const float *got = multiply(&a, a.w, a.x);
    a.f->rounding.act = own;
    fix_named(a.f, a.c, got, "input-rounding", "as none");
    fix_free(a.f);
}

// --- sums ---------------------------------------------------------------------------------------

static void cut_inputs(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        static const size_t cuts[][2] = {{64, 0}, {0, 16}, {32, 64}};
        for (int i = 0; i < 3; i++) {
            const size_t to = cuts[i][1] ? cuts[i][1] : a.inputs;
            float *w = fix_alloc(a.f, a.inputs * a.outputs, sizeof *w);
            for (size_t k = 0; k < a.inputs * a.outputs; k++) {
                const size_t at = k % a.inputs;
                w[k] = at >= cuts[i][0] && at < to ? 0 : a.w[k];
            }
            fix_named(a.f, a.c, multiply(&a, w, a.x), "inputs-cut", NULL);
        }
    }
}

// Some elements lack one of `parts` runs, or every parts-th term.
static void race(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        for (int form = 0; form < 6; form++) {
            static const size_t counts[] = {2, 4, 8, 16, 32, 8};
            const size_t parts = counts[form];
            float *got = fix_right(a.f, a.c);
            double *x = fix_alloc(a.f, a.n * a.inputs, sizeof *x);
            for (size_t i = 0; i < a.n * a.inputs; i++) x[i] = a.x[i];
            act_round(a.f->rounding.act.way[a.t->type], x, NULL, a.n, a.inputs, x, NULL, NULL);
            for (size_t i = 0; i < a.n * a.outputs; i++) {
                if (i % 7 != 3 && fix_uniform(a.f) > 0.1) continue;
                const size_t o = i % a.outputs, r = i / a.outputs;
                const size_t lost = (size_t)(fix_uniform(a.f) * (double)parts);
                for (size_t k = 0; k < a.inputs; k++) {
                    const size_t part = form % 2 ? k % parts : k / ((a.inputs + parts - 1) / parts);
                    if (part != lost) continue;
                    got[i] -= (float)(a.w[o * a.inputs + k] * x[r * a.inputs + k]);
                }
            }
            fix_named(a.f, a.c, got, "race", NULL);
        }
    }
}

static float to_prec(float x, bool half) {
    return half ? f16_to_f32(f32_to_f16(x)) : bf16_to_f32(f32_to_bf16(x));
}

static void accumulation(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        for (int half = 0; half < 2; half++) {
            for (int lanes = 1; lanes <= 8; lanes *= 8) {
                float *got = fix_alloc(a.f, a.n * a.outputs, sizeof *got);
                double *x = fix_alloc(a.f, a.n * a.inputs, sizeof *x);
                for (size_t i = 0; i < a.n * a.inputs; i++) x[i] = a.x[i];
                act_round(a.f->rounding.act.way[a.t->type], x, NULL, a.n, a.inputs, x, NULL, NULL);
                for (size_t i = 0; i < a.n * a.outputs; i++) {
                    const size_t o = i % a.outputs, r = i / a.outputs;
                    float sum[8] = {0}, all = 0;
                    for (size_t k = 0; k < a.inputs; k++) {
                        float *lane = &sum[k % (size_t)lanes];
                        const float wx = a.w[o * a.inputs + k] * (float)x[r * a.inputs + k];
                        *lane = to_prec(*lane + wx, half);
                    }
                    for (int l = 0; l < lanes; l++) all += sum[l];
                    got[i] = all + (a.bias ? a.bias[o] : 0);
                }
                fix_named(a.f, a.c, got, half ? "f16-accumulation" : "bf16-accumulation", NULL);
            }
        }
    }
}

static void stored_in_half(void **state) {
    (void)state;
    At a = at_of(&shapes[0], COMP_FFN_UP);
    float *got = multiply(&a, a.w, a.x);
    for (size_t i = 0; i < a.n * a.outputs; i++) got[i] = f16_to_f32(f32_to_f16(got[i]));
    fix_named(a.f, a.c, got, "rounded", "f16");
    fix_free(a.f);
}

// --- outputs ------------------------------------------------------------------------------------

static void zero_tail(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        float *got = multiply(&a, a.w, a.x);
        const size_t from = a.outputs - a.outputs % 32 - (a.outputs % 32 ? 0 : 8);
        for (size_t i = 0; i < a.n * a.outputs; i++) {
            if (i % a.outputs >= from) got[i] = 0;
        }
        char words[32];
        snprintf(words, sizeof words, "from %zu on", from);
        fix_named(a.f, a.c, got, "tail-rows-zero", words);
        if (!a.bias) continue;
        for (size_t i = 0; i < a.n * a.outputs; i++) {
            if (i % a.outputs >= from) got[i] = a.bias[i % a.outputs];
        }
        fix_named(a.f, a.c, got, "tail-rows-zero", "bias alone");
    }
}

static void skipped(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        float *got = fix_alloc(a.f, a.n * a.outputs, sizeof *got);
        for (size_t i = 0; i < a.n * a.outputs; i++) {
            const size_t o = i % a.outputs;
            got[i] = o < a.inputs ? a.x[i / a.outputs * a.inputs + o] : 0;
        }
        fix_named(a.f, a.c, got, "skipped", component_name(a.in));
    }
}

static void residual(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        if (a.c != COMP_ATTN_OUT && a.c != COMP_FFN_OUT) continue;
        const float *add =
            a.c == COMP_ATTN_OUT ? a.f->stream.x : a.f->site.at[COMP_FFN_INP].seen->x;
        float *got = multiply(&a, a.w, a.x);
        for (size_t i = 0; i < a.n * a.outputs; i++) got[i] += add[i];
        fix_named(a.f, a.c, got, "residual-added", NULL);
    }
}

static void bias(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        if (!a.bias) continue;
        float *got = multiply(&a, a.w, a.x);
        for (size_t i = 0; i < a.n * a.outputs; i++) got[i] -= a.bias[i % a.outputs];
        fix_named(a.f, a.c, got, "bias-dropped", NULL);
        for (size_t i = 0; i < a.n * a.outputs; i++) got[i] += 2 * a.bias[i % a.outputs];
        fix_named(a.f, a.c, got, "bias-twice", NULL);
        if (a.c == COMP_Q) continue;
        const LayerWeights *w = a.f->site.w;
        const float *other = (const void *)(a.c == COMP_K ? w->v_bias : w->k_bias)->data;
        for (size_t i = 0; i < a.n * a.outputs; i++) {
            got[i] += other[i % a.outputs] - 2 * a.bias[i % a.outputs];
        }
        fix_named(a.f, a.c, got, "other-bias", a.c == COMP_K ? "attn_v.bias" : "attn_k.bias");
    }
}

// to[i] = from[order(i)]
static void reordered(const At *a, size_t (*order)(size_t i, const Shape *s, size_t n),
                      const char *id) {
    const float *right = multiply(a, a->w, a->x);
    float *got = fix_alloc(a->f, a->n * a->outputs, sizeof *got);
    for (size_t i = 0; i < a->n * a->outputs; i++) {
        got[i] = right[i / a->outputs * a->outputs + order(i % a->outputs, &a->f->s, a->outputs)];
    }
    fix_named(a->f, a->c, got, id, NULL);
}

static size_t halves(size_t i, const Shape *s, size_t n) {  // out: halves; in: neighbours
    const size_t d = (size_t)s->head_dim, e = i % d;
    (void)n;
    return i / d * d + (e < d / 2 ? 2 * e : 2 * (e - d / 2) + 1);
}

static size_t neighbours(size_t i, const Shape *s, size_t n) {
    const size_t d = (size_t)s->head_dim, e = i % d;
    (void)n;
    return i / d * d + (e % 2 ? d / 2 + e / 2 : e / 2);
}

static size_t in_turns(size_t i, const Shape *s, size_t n) {
    const size_t d = (size_t)s->head_dim, heads = n / d;
    return i % heads * d + i / heads;
}

static size_t other_heads(size_t i, const Shape *s, size_t n) {
    const size_t d = (size_t)s->head_dim, heads = n / d;
    return (heads - 1 - i / d) * d + i % d;
}

static size_t next(size_t i, const Shape *s, size_t n) {
    (void)s;
    return (i + 1) % n;
}

static void orders(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        if (!a.bias) reordered(&a, next, "rows-shifted");
        if (a.c != COMP_Q && a.c != COMP_K && a.c != COMP_V) continue;
        reordered(&a, halves, "rows-permuted");
        reordered(&a, neighbours, "rows-permuted");
        if (a.outputs == (size_t)a.f->s.head_dim) continue;
        reordered(&a, in_turns, "heads-interleaved");
        reordered(&a, other_heads, "heads-permuted");
    }
}

static void logits(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        At a = at_of(&shapes[s], COMP_LOGITS);
        float *got = multiply(&a, a.w, a.x);
        const size_t n = a.n * a.outputs;
        for (size_t i = 0; i < n; i++) got[i] = 30 * tanhf(got[i] / 30);
        fix_named(a.f, a.c, got, "softcapped", "30 tanh");
        got = multiply(&a, a.w, a.x);
        for (size_t r = 0; r < a.n; r++) {
            double sum = 0;
            for (size_t i = 0; i < a.outputs; i++) sum += exp(got[r * a.outputs + i]);
            for (size_t i = 0; i < a.outputs; i++) got[r * a.outputs + i] -= (float)log(sum);
        }
        fix_named(a.f, a.c, got, "log-softmax", NULL);
        assert_true(a.f->cause.fits[0].harmless);
        for (size_t i = 0; i < n; i++) got[i] = expf(got[i]);
        fix_named(a.f, a.c, got, "softmax", NULL);
        fix_free(a.f);
    }
}

// --- what no hypothesis explains ----------------------------------------------------------------

static void noise(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        static const double sizes[] = {1e-4, 0.01};
        for (int i = 0; i < 2; i++) {
            float *got = multiply(&a, a.w, a.x);
            for (size_t k = 0; k < a.n * a.outputs; k++)
                got[k] *= (float)(1 + sizes[i] * fix_normal(a.f));
            fix_unknown(a.f, a.c, got);
            got = multiply(&a, a.w, a.x);
            for (size_t k = 0; k < a.n * a.outputs; k++)
                got[k] += (float)(sizes[i] * fix_normal(a.f));
            fix_unknown(a.f, a.c, got);
        }
    }
}

// Noise that is stored in sixteen bits is still noise.
static void noise_in_halves(void **state) {
    (void)state;
    EACH_PRODUCT(a) {
        a.f->rounding.out[a.c] = PREC_F16;
        float *got = multiply(&a, a.w, a.x);
        for (size_t k = 0; k < a.n * a.outputs; k++) {
            got[k] = to_prec(got[k] * (float)(1 + 0.01 * fix_normal(a.f)), true);
        }
        fix_unknown(a.f, a.c, got);
    }
}

static void not_finite(void **state) {
    (void)state;
    At a = at_of(&shapes[0], COMP_Q);
    float *got = multiply(&a, a.w, a.x);
    for (size_t i = 0; i < a.n * a.outputs; i++) got[i] = NAN;
    fix_unknown(a.f, a.c, got);
    assert_non_null(strstr(a.f->cause.pattern, "NaN"));
    got = multiply(&a, a.w, a.x);
    got[5] = INFINITY;
    fix_named(a.f, a.c, got, "damaged-elements", NULL);
    fix_free(a.f);
}

// A run that does not say how it rounds, and of which the wrong way was taken: the text says which
// fits.
static void undeclared_rounding(void **state) {
    (void)state;
    At a = at_of(&shapes[2], COMP_FFN_GATE);
    float *w = fix_alloc(a.f, a.inputs * a.outputs, sizeof *w);
    for (size_t o = 0; o < a.outputs; o++) {
        for (size_t i = 0; i < a.inputs; i++) w[o * a.inputs + i] = a.w[i * a.outputs + o];
    }
    const float *got = multiply(&a, w, a.x);
    a.f->rounding.act = *act_scheme_at(0);
    a.f->rounding.act_declared = false;
    fix_named(a.f, a.c, got, "transposed", "read transposed (input rounded: q8_k");
    a.f->rounding.act_declared = true;
    fix_unknown(a.f, a.c, got);
    fix_free(a.f);
}

// Without its own input nothing can be tried; with an uncertain one what fits anyway says nothing.
static void uncertain_input(void **state) {
    (void)state;
    At a = at_of(&shapes[0], COMP_FFN_OUT);
    double *x = fix_alloc(a.f, a.n * a.inputs, sizeof *x),
           *sd = fix_alloc(a.f, a.n * a.inputs, sizeof *sd);
    for (size_t i = 0; i < a.n * a.inputs; i++) x[i] = a.x[i], sd[i] = 1e-6;
    a.f->site.at[a.in] = (Value){.x = x, .sd = sd, .width = a.inputs};
    float *w = fix_alloc(a.f, a.inputs * a.outputs, sizeof *w);
    for (size_t o = 0; o < a.outputs; o++) {
        for (size_t i = 0; i < a.inputs; i++) w[o * a.inputs + i] = a.w[i * a.outputs + o];
    }
    fix_named(a.f, a.c, multiply(&a, w, a.x), "transposed", NULL);
    float *got = multiply(&a, a.w, a.x);
    for (size_t k = 0; k < a.n * a.outputs; k++) got[k] += (float)(0.01 * fix_normal(a.f));
    fix_unknown(a.f, a.c, got);
    fix_free(a.f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transposed),      cmocka_unit_test(row_stride),
        cmocka_unit_test(other_weights),   cmocka_unit_test(other_weights_with_bias),
        cmocka_unit_test(rounded_weights), cmocka_unit_test(other_input),
        cmocka_unit_test(other_norm),      cmocka_unit_test(interleaved_heads),
        cmocka_unit_test(shifted_tokens),  cmocka_unit_test(rounded_input),
        cmocka_unit_test(cut_inputs),      cmocka_unit_test(race),
        cmocka_unit_test(accumulation),    cmocka_unit_test(stored_in_half),
        cmocka_unit_test(zero_tail),       cmocka_unit_test(skipped),
        cmocka_unit_test(residual),        cmocka_unit_test(bias),
        cmocka_unit_test(orders),          cmocka_unit_test(logits),
        cmocka_unit_test(noise),           cmocka_unit_test(noise_in_halves),
        cmocka_unit_test(not_finite),      cmocka_unit_test(undeclared_rounding),
        cmocka_unit_test(uncertain_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
