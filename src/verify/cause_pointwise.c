// Hypotheses of ffn_inp, l_out (a residual sum) and ffn_act (activation and gate).
//
// This file owns: what else may have been added, left out, clipped or normed; other activations. It
// leaves to others: scaling, other arrays, rounding of the whole (cause_common.c).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_case.h"

#define SUMS (1u << COMP_FFN_INP | 1u << COMP_L_OUT)
#define ACT (1u << COMP_FFN_ACT)

const Hypothesis hypotheses_pointwise[] = {
    {"residual-skipped", "the branch alone: nothing was added to it", SUMS},
    {"branch-skipped", "the stream alone: the branch was not added", SUMS},
    {"residual-from-normed", "the normed stream was added, not the stream", SUMS},
    {"residual-doubled", "the stream was added twice", SUMS},
    {"branch-doubled", "the branch was added twice", SUMS},
    {"branch-subtracted", "the branch was subtracted", SUMS},
    {"residual-clipped", "clipped", SUMS},
    {"normed-in-place", "the sum was normed", SUMS},
    {"residual-other", "another array was added to the branch", SUMS},
    {"branch-other", "another array was added to the stream", SUMS},
    {"other-added", "another array was added besides", SUMS},
    {"residual-rounded", "the stream or the branch was rounded before it was added", SUMS},
    {"residual-scaled", "stream and branch have other factors", SUMS},
    {"gelu", "GELU (erf) instead of SiLU", ACT},
    {"gelu-tanh", "GELU (tanh) instead of SiLU", ACT},
    {"gelu-quick", "x sigmoid(1.702 x) instead of SiLU", ACT},
    {"relu", "ReLU instead of SiLU", ACT},
    {"relu-squared", "ReLU squared instead of SiLU", ACT},
    {"activation-on-up", "the activation is on up, not on gate", ACT},
    {"activation-on-both", "the activation is on gate and up", ACT},
    {"activation-of-product", "the activation is of the product", ACT},
    {"sum-not-product", "silu(gate) + up", ACT},
    {"no-activation", "gate * up", ACT},
    {"sigmoid", "sigmoid(gate) * up", ACT},
    {"tanh", "tanh(gate) * up", ACT},
    {"up-dropped", "silu(gate) alone", ACT},
    {"gate-dropped", "up alone", ACT},
    {"gate-up-interleaved", "gate and up were read interleaved", ACT},
    {"wrong-width", "rows have another width", ACT},
    {NULL, NULL, 0},
};

typedef struct {
    Trial *t;
    Arena arena;
    const Site *s;
    CaseRows a, b;  // stream and branch; gate and up
    size_t n;       // elements of the case
    Precision out;
    const char *stream, *branch;  // their names
    bool fits;
} Point;

static bool offer(Point *p, Expected *e, const char *id, const char *text) {
    const bool fits = trial_offer(p->t, id, e, "%s", text);
    p->fits |= fits;
    return fits;
}

// --- sums ---------------------------------------------------------------------------------------

// alpha a + beta b + c, of rows that may be NULL.
static bool try_sum(Point *p, double alpha, const CaseRows *a, double beta, const CaseRows *b,
                    const CaseRows *c, const char *id, const char *text) {
    Expected e;
    if (!case_new(p->t, p->t->k->n_rows, &e)) return false;
    for (size_t i = 0; i < p->n; i++) {
        const double x = a ? alpha * a->x[i] : 0, y = b ? beta * b->x[i] : 0, z = c ? c->x[i] : 0;
        double sd = hypot(a ? alpha * a->sd[i] : 0, b ? beta * b->sd[i] : 0);
        if (c) sd = hypot(sd, c->sd[i]);
        e.y[i] = x + y + z;
        Slack slack = bound_add(x, y + z, p->out);
        if (c) slack.bound += bound_add(y, z, p->out).bound;  // in whatever order they were added
        case_put(&e, i, slack, sd);
    }
    return offer(p, &e, id, text);
}

static void try_terms(Point *p) {
    const Site *s = p->s;
    const Component norm = p->t->k->c == COMP_FFN_INP ? COMP_ATTN_NORM : COMP_FFN_NORM;
    char text[CAUSE_TEXT];
    CaseRows normed;
    snprintf(text, sizeof text, "%s alone: %s was not added", p->branch, p->stream);
    try_sum(p, 0, NULL, 1, &p->b, NULL, "residual-skipped", text);
    snprintf(text, sizeof text, "%s alone: %s was not added", p->stream, p->branch);
    try_sum(p, 1, &p->a, 0, NULL, NULL, "branch-skipped", text);
    if (case_rows(p->t, &p->arena, &s->at[norm], &normed)) {
        snprintf(text, sizeof text, "%s + %s: the normed stream was added", component_name(norm),
                 p->branch);
        try_sum(p, 1, &normed, 1, &p->b, NULL, "residual-from-normed", text);
    }
    snprintf(text, sizeof text, "%s was added twice", p->stream);
    try_sum(p, 2, &p->a, 1, &p->b, NULL, "residual-doubled", text);
    snprintf(text, sizeof text, "%s was added twice", p->branch);
    try_sum(p, 1, &p->a, 2, &p->b, NULL, "branch-doubled", text);
    snprintf(text, sizeof text, "%s was subtracted", p->branch);
    try_sum(p, 1, &p->a, -1, &p->b, NULL, "branch-subtracted", text);
}

// min(max(x, low), high) of the sum or of one of its terms.
typedef enum { CLIP_SUM, CLIP_STREAM, CLIP_BRANCH } Clip;

static double clipped(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

static bool offer_clip(Point *p, Clip which, double low, double high) {
    static const char *const names[] = {"the sum", "the stream", "the branch"};
    char text[CAUSE_TEXT];
    Expected e;
    if (!case_new(p->t, p->t->k->n_rows, &e)) return false;
    for (size_t i = 0; i < p->n; i++) {
        double x = p->a.x[i], y = p->b.x[i];
        if (which == CLIP_STREAM) x = clipped(x, low, high);
        if (which == CLIP_BRANCH) y = clipped(y, low, high);
        e.y[i] = which == CLIP_SUM ? clipped(x + y, low, high) : x + y;
        case_put(&e, i, bound_add(x, y, p->out), hypot(p->a.sd[i], p->b.sd[i]));
    }
    if (low == -high) {
        snprintf(text, sizeof text, "%s is clipped at +-%.6g", names[which], high);
    } else if (isinf(low) || isinf(high)) {
        snprintf(text, sizeof text, "%s is clipped at %.6g", names[which], isinf(low) ? high : low);
    } else {
        snprintf(text, sizeof text, "%s is clipped to %.6g .. %.6g", names[which], low, high);
    }
    return offer(p, &e, "residual-clipped", text);
}

// The limits are what the wrong elements show: nearer to 0 than they should be, all alike.
static void try_clip(Point *p, Clip which) {
    const float *got = p->t->k->got;
    const Expected *want = p->t->k->want;
    double low = -INFINITY, high = INFINITY;
    for (size_t i = 0; i < p->n; i++) {
        const double other = which == CLIP_STREAM   ? p->b.x[i]
                             : which == CLIP_BRANCH ? p->a.x[i]
                                                    : 0;
        const double off = got[i] - want->y[i], left = got[i] - other;
        if (!(fabs(off) > want->bound[i])) continue;
        if (off < 0) high = isinf(high) ? left : fmax(high, left);
        if (off > 0) low = isinf(low) ? left : fmin(low, left);
    }
    if ((isinf(low) && isinf(high)) || !(low < high)) return;
    // The roundest limits that fit, of both signs alike if that fits too.
    for (int digits = 1; digits <= 17 && !p->fits; digits += digits < 7 ? 1 : 10) {
        char text[40];
        snprintf(text, sizeof text, "%.*e", digits - 1, low);
        const double from = isfinite(low) ? strtod(text, NULL) : low;
        snprintf(text, sizeof text, "%.*e", digits - 1, high);
        const double to = isfinite(high) ? strtod(text, NULL) : high;
        const double both = isfinite(to) ? to : -from;
        if (both > 0 && offer_clip(p, which, -both, both)) return;
        offer_clip(p, which, from, to);
    }
}

// The sum as the next norm would make it: that was done in place.
static void try_normed(Point *p) {
    const Model *m = p->s->model;
    const int layer = p->s->layer;
    const bool inside = p->t->k->c == COMP_FFN_INP, last = layer + 1 >= m->h.n_layers;
    const Tensor *w = inside ? p->s->w->ffn_norm
                      : last ? m->output_norm
                             : m->layers[layer + 1].attn_norm;
    const size_t width = p->a.width;
    Expected e;
    if (!case_new(p->t, p->t->k->n_rows, &e)) return;
    for (size_t i = 0; i < p->n; i++) e.y[i] = p->a.x[i] + p->b.x[i];
    oracle_rmsnorm(e.y, p->n / width, width, w, m->h.rms_eps, e.y);
    for (size_t i = 0; i < p->n; i++) {
        const double sum = p->a.x[i] + p->b.x[i], sd = hypot(p->a.sd[i], p->b.sd[i]);
        case_put(&e, i, bound_rmsnorm(width, e.y[i], p->out),
                 sum != 0 ? fabs(e.y[i] / sum) * sd : 0);
    }
    offer(p, &e, "normed-in-place",
          "the norm that follows was done in place, before it was captured");
}

// The least squares of alpha a + beta b.
static void try_factors(Point *p) {
    const float *got = p->t->k->got;
    double aa = 0, ab = 0, bb = 0, ga = 0, gb = 0;
    for (size_t i = 0; i < p->n; i++) {
        const double a = p->a.x[i], b = p->b.x[i];
        aa += a * a, ab += a * b, bb += b * b, ga += got[i] * a, gb += got[i] * b;
    }
    const double det = aa * bb - ab * ab;
    if (!(det > 1e-9 * aa * bb) || !isfinite(ga) || !isfinite(gb)) return;
    const double alpha = (ga * bb - gb * ab) / det, beta = (gb * aa - ga * ab) / det;
    for (int digits = 1; digits <= 17; digits += digits < 7 ? 1 : 10) {
        char x[40], y[40], text[CAUSE_TEXT];
        snprintf(x, sizeof x, "%.*g", digits, alpha);
        snprintf(y, sizeof y, "%.*g", digits, beta);
        if (strtod(x, NULL) == 0 || strtod(y, NULL) == 0) continue;  // that is one term alone
        snprintf(text, sizeof text, "%.7s %s + %.7s %s", x, p->stream, y, p->branch);
        if (try_sum(p, strtod(x, NULL), &p->a, strtod(y, NULL), &p->b, NULL, "residual-scaled",
                    text)) {
            return;
        }
    }
}

static void round_rows(const CaseRows *x, size_t n, Precision to, double *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = to == PREC_F16 ? f16_to_f32(f32_to_f16((float)x->x[i]))
                                : bf16_to_f32(f32_to_bf16((float)x->x[i]));
    }
}

static void try_rounded(Point *p) {
    for (Precision to = PREC_F16; to < N_PRECISIONS && !p->fits; to++) {
        CaseRows a = p->a, b = p->b;
        a.x = case_doubles(p->t, &p->arena, 1, p->n), b.x = case_doubles(p->t, &p->arena, 1, p->n);
        if (!a.x || !b.x) return;
        round_rows(&p->a, p->n, to, a.x);
        round_rows(&p->b, p->n, to, b.x);
        char text[CAUSE_TEXT];
        snprintf(text, sizeof text, "%s is rounded to %s before it is added", p->stream,
                 precision_name(to));
        if (try_sum(p, 1, &a, 1, &p->b, NULL, "residual-rounded", text)) return;
        snprintf(text, sizeof text, "%s is rounded to %s before it is added", p->branch,
                 precision_name(to));
        if (try_sum(p, 1, &p->a, 1, &b, NULL, "residual-rounded", text)) return;
        snprintf(text, sizeof text, "both terms are rounded to %s before they are added",
                 precision_name(to));
        if (try_sum(p, 1, &a, 1, &b, NULL, "residual-rounded", text)) return;
    }
}

// Another array in the place of the stream, of the branch, or beside both.
static bool try_other(Point *p, const CaseRows *other, const char *name) {
    char text[CAUSE_TEXT];
    snprintf(text, sizeof text, "%.60s + %s: not %s", name, p->branch, p->stream);
    if (try_sum(p, 1, other, 1, &p->b, NULL, "residual-other", text)) return true;
    snprintf(text, sizeof text, "%s + %.60s: not %s", p->stream, name, p->branch);
    if (try_sum(p, 1, &p->a, 1, other, NULL, "branch-other", text)) return true;
    snprintf(text, sizeof text, "%.60s was added too", name);
    return try_sum(p, 1, &p->a, 1, &p->b, other, "other-added", text);
}

static void try_others(Point *p) {
    const Site *s = p->s;
    const CauseCase *k = p->t->k;
    const ComponentRef own = {k->c, s->layer};
    CaseRows x;
    if (k->c == COMP_L_OUT && case_rows(p->t, &p->arena, &s->stream, &x) &&
        try_other(p, &x, "what entered the layer")) {
        return;
    }
    if (s->before && s->before->stream.width == p->a.width &&
        case_rows(p->t, &p->arena, &s->before->stream, &x) &&
        try_other(p, &x, "what entered the layer before")) {
        return;
    }
    for (size_t i = 0; s->prompt && i < s->prompt->n_arrays; i++) {
        const TraceArray *a = &s->prompt->arrays[i];
        const Value v = {.seen = a, .width = a->width};
        char name[COMPONENT_TEXT];
        if (component_is_scores(a->ref.c) || a->width != p->a.width ||
            component_order(a->ref) == component_order(own)) {
            continue;
        }
        if (case_rows(p->t, &p->arena, &v, &x) && try_other(p, &x, component_text(a->ref, name))) {
            return;
        }
    }
}

static void cause_sum(Point *p) {
    const bool first = p->t->k->c == COMP_FFN_INP;
    const Value *stream = first ? &p->s->stream : &p->s->at[COMP_FFN_INP];
    const Component branch = first ? COMP_ATTN_OUT : COMP_FFN_OUT;
    p->stream = first ? "what entered the layer" : component_name(COMP_FFN_INP);
    p->branch = component_name(branch);
    if (!case_rows(p->t, &p->arena, stream, &p->a)) return;
    if (!case_rows(p->t, &p->arena, &p->s->at[branch], &p->b)) return;
    p->n = p->t->k->n_rows * p->a.width;
    try_terms(p);
    for (Clip c = CLIP_SUM; c <= CLIP_BRANCH && !p->fits; c++) try_clip(p, c);
    try_normed(p);
    if (!p->fits) try_others(p);
    if (!p->fits) try_rounded(p);
    if (!p->fits) try_factors(p);
}

// --- activations --------------------------------------------------------------------------------

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static double silu(double x) {
    return x * sigmoid(x);
}

// Hendrycks & Gimpel 2016, and its approximations.
static double gelu(double x) {
    return 0.5 * x * erfc(-x * 0.70710678118654752);
}

static double gelu_tanh(double x) {
    return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
}

static double gelu_quick(double x) {
    return x * sigmoid(1.702 * x);
}

typedef enum {
    GATE_GELU,
    GATE_GELU_TANH,
    GATE_GELU_QUICK,
    GATE_RELU,
    GATE_RELU_SQUARED,
    GATE_SILU_OF_UP,
    GATE_SILU_OF_BOTH,
    GATE_SILU_OF_PRODUCT,
    GATE_SUM,
    GATE_PRODUCT,
    GATE_SIGMOID,
    GATE_TANH,
    GATE_SILU_ALONE,
    GATE_UP_ALONE,
    GATE_GELU_OF_UP,
    GATE_GELU_TANH_OF_UP,
    GATE_SILU,  // as it should be
} Gating;

static double gate_by(Gating by, double g, double u) {
    switch (by) {
        case GATE_GELU: return gelu(g) * u;
        case GATE_GELU_TANH: return gelu_tanh(g) * u;
        case GATE_GELU_QUICK: return gelu_quick(g) * u;
        case GATE_RELU: return g > 0 ? g * u : 0;
        case GATE_RELU_SQUARED: return g > 0 ? g * g * u : 0;
        case GATE_SILU_OF_UP: return g * silu(u);
        case GATE_SILU_OF_BOTH: return silu(g) * silu(u);
        case GATE_SILU_OF_PRODUCT: return silu(g * u);
        case GATE_SUM: return silu(g) + u;
        case GATE_PRODUCT: return g * u;
        case GATE_SIGMOID: return sigmoid(g) * u;
        case GATE_TANH: return tanh(g) * u;
        case GATE_SILU_ALONE: return silu(g);
        case GATE_UP_ALONE: return u;
        case GATE_GELU_OF_UP: return gelu(u) * g;
        case GATE_GELU_TANH_OF_UP: return gelu_tanh(u) * g;
        case GATE_SILU: break;
    }
    return silu(g) * u;
}

static const struct {
    const char *id, *text;
} gatings[] = {
    [GATE_GELU] = {"gelu", "gelu(gate) * up, with erf, instead of silu(gate) * up"},
    [GATE_GELU_TANH] = {"gelu-tanh", "gelu(gate) * up, by tanh, instead of silu(gate) * up"},
    [GATE_GELU_QUICK] = {"gelu-quick", "gate sigmoid(1.702 gate) * up instead of silu(gate) * up"},
    [GATE_RELU] = {"relu", "relu(gate) * up instead of silu(gate) * up"},
    [GATE_RELU_SQUARED] = {"relu-squared", "relu(gate)^2 * up instead of silu(gate) * up"},
    [GATE_SILU_OF_UP] = {"activation-on-up", "gate * silu(up): gate and up are exchanged"},
    [GATE_SILU_OF_BOTH] = {"activation-on-both", "silu(gate) * silu(up)"},
    [GATE_SILU_OF_PRODUCT] = {"activation-of-product", "silu(gate * up)"},
    [GATE_SUM] = {"sum-not-product", "silu(gate) + up instead of silu(gate) * up"},
    [GATE_PRODUCT] = {"no-activation", "gate * up, without silu"},
    [GATE_SIGMOID] = {"sigmoid", "sigmoid(gate) * up instead of silu(gate) * up"},
    [GATE_TANH] = {"tanh", "tanh(gate) * up instead of silu(gate) * up"},
    [GATE_SILU_ALONE] = {"up-dropped", "silu(gate) alone, not multiplied with up"},
    [GATE_UP_ALONE] = {"gate-dropped", "up alone, not multiplied with silu(gate)"},
    [GATE_GELU_OF_UP] = {"activation-on-up",
                         "gate * gelu(up), with erf: gate and up are exchanged"},
    [GATE_GELU_TANH_OF_UP] = {"activation-on-up",
                              "gate * gelu(up), by tanh: gate and up are exchanged"},
};

// How far the result moves when g or u moves by its sd.
static double spread(Gating by, double g, double g_sd, double u, double u_sd) {
    const double by_g = g_sd > 0 ? (gate_by(by, g + g_sd, u) - gate_by(by, g - g_sd, u)) / 2 : 0;
    const double by_u = u_sd > 0 ? (gate_by(by, g, u + u_sd) - gate_by(by, g, u - u_sd)) / 2 : 0;
    return hypot(by_g, by_u);
}

// What is rounded before it is made small: 1 + erf and 1 + tanh at 1, a sum at its larger term.
static double intermediate(Gating by, double g, double u) {
    const bool near_one = by == GATE_GELU || by == GATE_GELU_TANH || by == GATE_GELU_OF_UP ||
                          by == GATE_GELU_TANH_OF_UP;
    return near_one ? g * u : by == GATE_SUM ? u : 0;
}

static void put_gated(const Point *p, Expected *e, size_t to, Gating by, double g, double g_sd,
                      double u, double u_sd) {
    const double y = gate_by(by, g, u), x = intermediate(by, g, u);
    const bool of_up = by == GATE_SILU_OF_UP || by == GATE_SILU_OF_BOTH;
    Slack slack = bound_swiglu(g, y, p->out);
    slack.bound += bound_add(x, x, PREC_F32).bound;
    if (of_up || by == GATE_SILU_OF_PRODUCT) {
        slack.bound += bound_swiglu(of_up ? u : g * u, y, p->out).bound;
    }
    e->y[to] = y;
    case_put(e, to, slack, spread(by, g, g_sd, u, u_sd));
}

static void try_activations(Point *p) {
    for (Gating by = GATE_GELU; by < GATE_SILU; by++) {
        Expected e;
        if (!case_new(p->t, p->t->k->n_rows, &e)) return;
        for (size_t i = 0; i < p->n; i++) {
            put_gated(p, &e, i, by, p->a.x[i], p->a.sd[i], p->b.x[i], p->b.sd[i]);
        }
        offer(p, &e, gatings[by].id, gatings[by].text);
    }
}

// gate and up as one row of twice the width, gate first, read as pairs (gate, up).
static void try_interleaved(Point *p) {
    const size_t width = p->a.width;
    Expected e;
    if (!case_new(p->t, p->t->k->n_rows, &e)) return;
    for (size_t i = 0; i < p->n; i++) {
        const size_t row = i / width * width, at = 2 * (i % width);
        const CaseRows *from = at < width ? &p->a : &p->b;
        const size_t g = row + at % width, u = row + (at + 1) % width;
        const CaseRows *second = at + 1 < width ? &p->a : &p->b;
        put_gated(p, &e, i, GATE_SILU, from->x[g], from->sd[g], second->x[u], second->sd[u]);
    }
    offer(p, &e, "gate-up-interleaved",
          "gate and up were read as pairs from one row that holds "
          "first the one, then the other");
}

// Zero from some element on, in every row.
static void try_narrow(Point *p) {
    const CauseCase *k = p->t->k;
    const size_t width = p->a.width;
    size_t used = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (k->got[i] != 0 && i % width >= used) used = i % width + 1;
    }
    if (used == 0 || used == width) return;
    Expected e;
    char text[CAUSE_TEXT];
    if (!case_new(p->t, k->n_rows, &e)) return;
    for (size_t i = 0; i < p->n; i++) {
        if (i % width >= used) continue;
        put_gated(p, &e, i, GATE_SILU, p->a.x[i], p->a.sd[i], p->b.x[i], p->b.sd[i]);
    }
    snprintf(text, sizeof text, "elements from %zu on are 0: rows of %zu, not %zu", used, used,
             width);
    offer(p, &e, "wrong-width", text);
}

// Row r starts at r times another width of what all tokens' rows are one after the other.
static void try_stride(Point *p, long stride) {
    const CauseCase *k = p->t->k;
    const size_t width = p->a.width, n = p->s->n;
    const Value *gate = &p->s->at[COMP_FFN_GATE], *up = &p->s->at[COMP_FFN_UP];
    double *x = case_doubles(p->t, &p->arena, 4, width), *all[4];
    Expected e;
    if (!x || !case_new(p->t, k->n_rows, &e)) return;
    for (size_t i = 0; i < 4; i++) all[i] = x + i * width;
    size_t at = SIZE_MAX;
    for (size_t i = 0; i < p->n; i++) {
        const long flat = (long)k->row[i / width] * stride + (long)(i % width);
        const size_t row = (size_t)flat / width, j = (size_t)flat % width;
        if (flat < 0 || row >= n || !value_known(gate, row) || !value_known(up, row)) {
            e.bound[i] = INFINITY;
            continue;
        }
        if (row != at) value_rows(gate, &row, 1, all[0], all[1]);
        if (row != at) value_rows(up, &row, 1, all[2], all[3]);
        at = row;
        put_gated(p, &e, i, GATE_SILU, all[0][j], all[1][j], all[2][j], all[3][j]);
    }
    char text[CAUSE_TEXT];
    snprintf(text, sizeof text, "rows are read as if they were %ld wide, not %zu", stride, width);
    if (case_looks(p->t, &e)) {
        offer(p, &e, "wrong-width", text);
    } else {
        expected_free(&e);
    }
}

// Which stride puts the first elements of a failing row where they were captured?
static void fit_stride(Point *p) {
    const CauseCase *k = p->t->k;
    const size_t width = p->a.width, row = k->row[0];
    const Value *gate = &p->s->at[COMP_FFN_GATE], *up = &p->s->at[COMP_FFN_UP];
    size_t n_look = width < 8 ? width : 8;
    if (row == 0 || width < 2) return;
    // Within the token's own row and the ones about it: a stride off by less than a row.
    double *g = case_doubles(p->t, &p->arena, 2, 3 * width), *u = g + 3 * width;
    if (!g) return;
    const size_t from = row - 1, n = row + 1 < p->s->n ? 3 : 2;
    for (size_t i = 0; i < n; i++) {
        const size_t r = from + i;
        if (!value_known(gate, r) || !value_known(up, r)) return;
        value_rows(gate, &r, 1, g + i * width, NULL);
        value_rows(up, &r, 1, u + i * width, NULL);
    }
    for (size_t at = 0; at + n_look <= n * width && !p->fits; at++) {
        const long shift = (long)at - (long)width;  // of the row's start
        bool same = shift % (long)row == 0 && shift != 0;
        for (size_t i = 0; i < n_look && same; i++) {
            const double y = gate_by(GATE_SILU, g[at + i], u[at + i]);
            same = fabs(k->got[i] - y) <= bound_swiglu(g[at + i], y, p->out).bound;
        }
        if (same) try_stride(p, (long)width + shift / (long)row);
    }
}

static void cause_act(Point *p) {
    if (!case_rows(p->t, &p->arena, &p->s->at[COMP_FFN_GATE], &p->a)) return;
    if (!case_rows(p->t, &p->arena, &p->s->at[COMP_FFN_UP], &p->b)) return;
    p->n = p->t->k->n_rows * p->a.width;
    try_activations(p);
    try_interleaved(p);
    try_narrow(p);
    if (!p->fits) fit_stride(p);
}

void cause_pointwise(Trial *t) {
    Point p = {.t = t, .s = t->k->site, .out = t->k->site->rounding->out[t->k->c]};
    if (t->k->c == COMP_FFN_INP || t->k->c == COMP_L_OUT) cause_sum(&p);
    if (t->k->c == COMP_FFN_ACT) cause_act(&p);
    arena_free(&p.arena);
}
