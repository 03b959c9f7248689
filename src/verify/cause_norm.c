// Hypotheses of the norms: attn_norm, ffn_norm, norm, and those of q's and k's heads.
#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "verify/cause_internal.h"

#define ROWS (1u << COMP_ATTN_NORM | 1u << COMP_FFN_NORM | 1u << COMP_NORM)
#define HEADS (1u << COMP_Q_NORM | 1u << COMP_K_NORM)
#define NORMS (ROWS | HEADS)

const Hypothesis hypotheses_norm[] = {
    {"weight-skipped", "the weights are not applied", NORMS},
    {"weight-plus-one", "the weights are applied as 1 + w", NORMS},
    {"weight-twice", "the weights are applied twice", NORMS},
    {"eps", "another epsilon", NORMS},
    {"eps-outside-root", "epsilon is added to the root, not under it", NORMS},
    {"mean-subtracted", "the mean is subtracted, as in LayerNorm", NORMS},
    {"sum-not-mean", "the sum of squares is not divided by their number", NORMS},
    {"squares-cut", "the last squares are left out of the sum", NORMS},
    {"other-norm-weight", "another norm's weights", NORMS},
    {"norm-skipped", "the input is not normed", NORMS},
    {"normed-twice", "normed twice, weights applied once: the same but for epsilon", NORMS},
    {"norm-width", "normed over the whole row, not head by head", HEADS},
    {"other-input", "the norm of another array", NORMS},
    {"row-scaled", "each row is off by a factor of its own", NORMS},
    {NULL, NULL, 0},
};

typedef struct {
    Trial *t;
    const Value *in;
    const Tensor *weight;
    size_t len, rows;  // of what is normed: a token's row or a head
    size_t row_width, n_tokens;
    double eps;
    Precision out;
    const double *x, *x_sd;  // rows x len; x_sd NULL: known
    const float *w;          // len
    Arena arena;
} Norm;

// What else may be computed; starts as form_as_is.
typedef struct {
    const double *x, *x_sd;
    size_t len, rows;
    const float *w;  // w_len numbers, over and over; NULL: ones
    size_t w_len;
    double plus;  // is added to w
    double eps;
    size_t summed;  // of the squares of a row
    bool outside, centered, about_mean, undivided, unscaled;
} Form;

static double *numbers(Norm *n, size_t count) {
    double *x = arena_alloc(&n->arena, count ? count : 1, sizeof *x);
    if (!x && !n->t->status) n->t->status = error_memory(n->t->err, "a norm", count * sizeof *x);
    return x;
}

static const float *weights_from(Norm *n, const Tensor *t) {
    const size_t len = (size_t)t->dims[0];
    float *w = arena_alloc(&n->arena, len, sizeof *w);
    if (!w && !n->t->status) n->t->status = error_memory(n->t->err, t->name, len * sizeof *w);
    if (w) dequantize(t->type, t->data, w, len);
    return w;
}

static bool known(const Value *v, const CauseCase *k) {
    for (size_t r = 0; r < k->n_rows; r++) {
        if (!value_known(v, k->row[r])) return false;
    }
    return true;
}

static bool norm_open(Trial *t, Norm *n) {
    const CauseCase *k = t->k;
    const Site *s = k->site;
    const Model *m = s->model;
    const bool heads = k->c == COMP_Q_NORM || k->c == COMP_K_NORM;
    *n = (Norm){.t = t, .eps = m->h.rms_eps, .out = s->rounding->out[k->c]};
    switch (k->c) {
        case COMP_ATTN_NORM: n->weight = s->w->attn_norm, n->in = &s->stream; break;
        case COMP_FFN_NORM: n->weight = s->w->ffn_norm, n->in = &s->at[COMP_FFN_INP]; break;
        case COMP_Q_NORM: n->weight = s->w->q_norm, n->in = &s->at[COMP_Q]; break;
        case COMP_K_NORM: n->weight = s->w->k_norm, n->in = &s->at[COMP_K]; break;
        default: n->weight = m->output_norm, n->in = &s->stream; break;
    }
    n->row_width = k->want->width, n->n_tokens = k->n_rows;
    n->len = heads ? (size_t)m->h.head_dim : n->row_width;
    n->rows = n->n_tokens * (n->row_width / n->len);
    if (n->n_tokens == 0 || n->in->width != n->row_width || !known(n->in, k)) return false;
    const size_t count = n->rows * n->len;
    double *x = numbers(n, 2 * count);
    n->w = weights_from(n, n->weight);
    if (t->status) return false;
    const bool uncertain = value_rows(n->in, k->row, k->n_rows, x, x + count);
    n->x = x, n->x_sd = uncertain ? x + count : NULL;
    return true;
}

static Form form_as_is(const Norm *n) {
    return (Form){.x = n->x,
                  .x_sd = n->x_sd,
                  .len = n->len,
                  .rows = n->rows,
                  .w = n->w,
                  .w_len = n->len,
                  .eps = n->eps,
                  .summed = n->len};
}

// One row of f; y, bound and sd of out at `at`.
static void norm_row(const Norm *n, const Form *f, size_t r, Expected *out) {
    const double *x = f->x + r * f->len, *sd = f->x_sd ? f->x_sd + r * f->len : NULL;
    const double len = (double)f->len;
    double sum = 0, size = 0, squares = 0, common = 0;
    for (size_t i = 0; i < f->len; i++) sum += x[i], size += fabs(x[i]);
    const double mean = sum / len, about = f->about_mean ? mean : 0;
    for (size_t i = 0; i < f->summed; i++) {
        const double d = x[i] - about;
        squares += d * d;
        if (sd) common += d * d * sd[i] * sd[i];
    }
    const double m = squares / (f->undivided ? 1 : len);
    double scale = f->outside ? 1 / (sqrt(m) + f->eps) : 1 / sqrt(m + f->eps);
    common = squares > 0 ? sqrt(common) / squares : 0;
    if (f->unscaled) scale = 1, common = 0;
    for (size_t i = 0; i < f->len; i++) {
        const size_t at = r * f->len + i;
        const double w = f->w ? f->w[i % f->w_len] + f->plus : 1;
        const double y = (x[i] - (f->centered ? mean : 0)) * scale * w;
        Slack s = bound_rmsnorm(f->len, y, n->out);
        if (f->centered || f->about_mean) {  // what cancels has left its rounding
            const double lost =
                unit_roundoff(PREC_F32) * (fabs(x[i]) + size / len) * fabs(scale * w);
            s.bound += (4 + sqrt(len)) * lost, s.sd = hypot(s.sd, lost);
        }
        const double spread = hypot(sd ? sd[i] * scale * w : 0, y * common);
        out->y[at] = y;
        out->bound[at] = s.bound + BOUND_CONFIDENCE * spread, out->sd[at] = hypot(s.sd, spread);
    }
}

static bool expect_form(Norm *n, const Form *f, Expected *out) {
    const Expected *want = n->t->k->want;
    if (n->t->status) return false;
    n->t->status = expected_new(want->rows, want->width, out, n->t->err);
    for (size_t r = 0; !n->t->status && r < f->rows; r++) norm_row(n, f, r, out);
    return !n->t->status;
}

// --- epsilon ------------------------------------------------------------------------------------

typedef struct {
    double low, high;    // what every row allows
    double least, most;  // mean squares of the rows
} Range;

// Of each row the scale that comes nearest to what was captured, and from it the epsilon, as
// precisely as the norm's own bound knows it.
static Range eps_range(const Norm *n) {
    const float *got = n->t->k->got;
    Range range = {0, INFINITY, INFINITY, 0};
    if (n->x_sd || n->t->path) return range;  // nothing to read it from
    for (size_t r = 0; r < n->rows; r++) {
        double squares = 0, gu = 0, uu = 0;
        for (size_t i = 0; i < n->len; i++) {
            const double x = n->x[r * n->len + i], u = x * n->w[i];
            squares += x * x, gu += got[r * n->len + i] * u, uu += u * u;
        }
        if (!(uu > 0) || !(gu > 0)) continue;
        const double m = squares / (double)n->len, inverse = uu / gu;
        const double eps = inverse * inverse - m;
        const double off = 2 * bound_rmsnorm(n->len, 1, n->out).bound * inverse * inverse;
        range.low = fmax(range.low, eps - off), range.high = fmin(range.high, eps + off);
        range.least = fmin(range.least, m), range.most = fmax(range.most, m);
    }
    return range;
}

static bool offer_eps(Norm *n, double eps, const char *fmt, double shown) {
    Form f = form_as_is(n);
    Expected e;
    f.eps = eps;
    if (eps == n->eps || !expect_form(n, &f, &e)) return false;
    return trial_offer(n->t, "eps", &e, fmt, shown, n->eps);
}

static void try_eps(Norm *n) {
    static const char is[] = "epsilon is %g, the file says %g";
    static const double usual[] = {1e-6, 1e-5, 1e-8, 1e-12, 1e-3, 1e-4, 1e-7, 1e-10, 1e-9, 1e-2, 0};
    const size_t n_usual = sizeof usual / sizeof *usual;
    const Range range = eps_range(n);
    const double len = (double)n->len;
    if (range.low > range.high) return;
    double most = 0;
    for (size_t i = 0; i < n_usual; i++) {
        // As float32, which is what an engine adds.
        const double eps = (double)(float)usual[i];
        if (eps != n->eps && eps <= range.high) most = fmax(most, eps);
    }
    // None at all and a tiny one cannot be told apart.
    if (range.low <= 0 && isfinite(range.high) &&
        offer_eps(n, 0, "epsilon is 0 or at most %g, the file says %g", most)) {
        return;
    }
    for (size_t i = 0; i < n_usual; i++) {
        const double eps = (double)(float)usual[i];
        if (eps < range.low || eps > range.high) continue;
        if (offer_eps(n, eps, is, usual[i])) return;
    }
    const double n_times[] = {n->eps / len, n->eps * len, n->eps * n->eps};
    static const char *const texts[] = {
        "epsilon is added to the sum of squares, before it is divided: %g for %g",
        "epsilon is taken once for each element: %g for %g", "epsilon is squared: %g for %g"};
    for (int i = 0; i < 3; i++) {
        if (n_times[i] < range.low || n_times[i] > range.high) continue;
        if (offer_eps(n, n_times[i], texts[i], n_times[i])) return;
    }
}

// Any other is believed only when rows of different size agree on it, and nothing else explains
// them.
static void try_odd_eps(Norm *n) {
    const Range range = eps_range(n);
    if (n->t->out->n_fits > 0 || n->x_sd || range.low > range.high) return;
    if (!(range.most > 1.1 * range.least) || !isfinite(range.high)) return;
    const double eps = (range.low + range.high) / 2;
    offer_eps(n, eps, "epsilon is %g, the file says %g", eps);
}

// --- the sum ------------------------------------------------------------------------------------

// Which first squares of the case's first row give the scale that was captured?
static void try_squares_cut(Norm *n) {
    const float *got = n->t->k->got;
    double gu = 0, uu = 0, sum = 0;
    if (n->x_sd) return;
    for (size_t i = 0; i < n->len; i++) {
        const double u = n->x[i] * n->w[i];
        gu += got[i] * u, uu += u * u;
    }
    if (!(uu > 0) || !(gu > 0)) return;
    const double inverse = uu / gu, len = (double)n->len;
    const double target = (inverse * inverse - n->eps) * len;
    const double off = 2 * bound_rmsnorm(n->len, 1, n->out).bound * inverse * inverse * len;
    for (size_t m = 1; m < n->len && !n->t->status; m++) {
        sum += n->x[m - 1] * n->x[m - 1];
        if (fabs(sum - target) > off) continue;
        Form f = form_as_is(n);
        Expected e;
        f.summed = m;
        if (expect_form(n, &f, &e) &&
            trial_offer(n->t, "squares-cut", &e, "only the first %zu of %zu squares are summed", m,
                        n->len)) {
            return;
        }
    }
}

static void try_sums(Norm *n) {
    Expected e;
    Form f = form_as_is(n);
    f.outside = true;
    if (expect_form(n, &f, &e)) {
        trial_offer(n->t, "eps-outside-root", &e, "epsilon is added to the root, not under it");
    }
    f = form_as_is(n);
    f.undivided = true;
    if (expect_form(n, &f, &e)) {
        trial_offer(n->t, "sum-not-mean", &e, "the squares are summed, not averaged over %zu",
                    n->len);
    }
    f = form_as_is(n);
    f.centered = true;
    if (expect_form(n, &f, &e)) {
        trial_offer(n->t, "mean-subtracted", &e,
                    "the mean is subtracted, the root mean square is of the whole");
    }
    f.about_mean = true;
    if (expect_form(n, &f, &e)) {
        trial_offer(n->t, "mean-subtracted", &e, "a LayerNorm: the mean is subtracted");
    }
    f = form_as_is(n);
    f.unscaled = true;
    if (expect_form(n, &f, &e)) {
        trial_offer(n->t, "norm-skipped", &e, "not normed, only multiplied with the weights");
    }
    f.w = NULL;
    if (expect_form(n, &f, &e))
        trial_offer(n->t, "norm-skipped", &e, "not normed: holds its input");
    if (n->row_width == n->len) return;
    f = form_as_is(n);
    f.len = f.summed = n->row_width, f.rows = n->n_tokens;
    if (expect_form(n, &f, &e)) {
        trial_offer(n->t, "norm-width", &e, "normed over all %zu elements, not over each %zu",
                    n->row_width, n->len);
    }
}

// --- weights ------------------------------------------------------------------------------------

static bool all_ones(const float *w, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (w[i] != 1) return false;
    }
    return true;
}

static void try_weight(Norm *n, const Tensor *other) {
    if (!other || other == n->weight || other->dims[0] != n->len) return;
    const float *w = weights_from(n, other);
    // Ones are what weight-skipped tries.
    if (!w || memcmp(w, n->w, n->len * sizeof *w) == 0 || all_ones(w, n->len)) return;
    Form f = form_as_is(n);
    Expected e;
    f.w = w;
    if (!expect_form(n, &f, &e)) return;
    trial_offer(n->t, "other-norm-weight", &e, "normed with %s, not %s", other->name,
                n->weight->name);
}

static void try_other_weights(Norm *n) {
    const Site *s = n->t->k->site;
    const Model *m = s->model;
    for (int i = -1; i < m->h.n_layers && !n->t->status; i++) {  // its own layer first
        const int l = i < 0 ? s->layer : i;
        if (l < 0 || (i >= 0 && i == s->layer)) continue;
        const LayerWeights *w = &m->layers[l];
        try_weight(n, w->attn_norm);
        try_weight(n, w->ffn_norm);
        try_weight(n, w->q_norm);
        try_weight(n, w->k_norm);
    }
    try_weight(n, m->output_norm);
}

static void try_weights(Norm *n) {
    Expected e;
    Form f = form_as_is(n);
    f.w = NULL;
    if (expect_form(n, &f, &e)) {
        trial_offer(n->t, "weight-skipped", &e, "%s is not applied", n->weight->name);
    }
    f = form_as_is(n);
    f.plus = 1;
    if (expect_form(n, &f, &e)) {
        trial_offer(n->t, "weight-plus-one", &e, "weights applied as 1 + w, as Gemma's are");
    }
    try_other_weights(n);
}

// Normed, then normed again: the second input is the first output.
static void try_twice(Norm *n) {
    const size_t count = n->rows * n->len;
    double *x = numbers(n, count), *sd = numbers(n, count);
    for (int form = 0; form < 3 && !n->t->status; form++) {
        Form f = form_as_is(n);
        Expected first, e;
        if (form == 0) f.w = NULL;
        if (!expect_form(n, &f, &first)) return;
        memcpy(x, first.y, count * sizeof *x);
        // Where nothing was uncertain before, the first norm's rounding is float32's own.
        for (size_t i = 0; i < count; i++) sd[i] = n->x_sd ? first.sd[i] : 0;
        expected_free(&first);
        f = form_as_is(n);
        f.x = x, f.x_sd = n->x_sd ? sd : NULL, f.unscaled = form == 2;
        if (!expect_form(n, &f, &e)) return;
        if (form == 0) {
            trial_offer_harmless(n->t, "normed-twice", &e,
                                 "normed twice: the same but for epsilon, which counts twice");
        } else {
            trial_offer(n->t, "weight-twice", &e,
                        form == 1 ? "normed twice, with weights each time"
                                  : "the weights are applied twice");
        }
    }
}

// --- inputs -------------------------------------------------------------------------------------

static void try_input(Norm *n, const Value *v, ComponentRef ref, double *x, double *sd) {
    const CauseCase *k = n->t->k;
    char name[COMPONENT_TEXT];
    if (v->width != n->row_width || !known(v, k) || n->t->status) return;
    Form f = form_as_is(n);
    Expected e;
    const bool uncertain = value_rows(v, k->row, k->n_rows, x, sd);
    f.x = x, f.x_sd = uncertain ? sd : NULL;
    if (!expect_form(n, &f, &e)) return;
    trial_offer(n->t, "other-input", &e, "the norm of %s, not of its own input",
                component_text(ref, name));
}

static void try_inputs(Norm *n) {
    const CauseCase *k = n->t->k;
    const Site *s = k->site, *before = s->before && s->before->layer >= 0 ? s->before : NULL;
    double *x = numbers(n, 2 * n->rows * n->len);
    if (!x) return;
    double *sd = x + n->rows * n->len;
    const int above = s->layer < 0 ? s->model->h.n_layers - 1 : s->layer - 1;
    const bool embd = s->layer == 0;
    const ComponentRef stream = {embd ? COMP_EMBD : COMP_L_OUT, embd ? -1 : above};
    if (n->in != &s->stream) try_input(n, &s->stream, stream, x, sd);
    for (Component c = COMP_ATTN_NORM; c < k->c; c++) {
        if (&s->at[c] == n->in || component_is_scores(c)) continue;
        try_input(n, &s->at[c], (ComponentRef){c, s->layer}, x, sd);
    }
    for (Component c = COMP_ATTN_NORM; before && c < COMP_L_OUT; c++) {
        if (component_is_scores(c)) continue;
        try_input(n, &before->at[c], (ComponentRef){c, before->layer}, x, sd);
    }
}

// Each row right but for a factor. Only where the factors differ: one for all is "scaled".
static void try_row_scaled(Norm *n) {
    const Expected *want = n->t->k->want;
    const float *got = n->t->k->got;
    double least = INFINITY, most = 0;
    Expected e;
    if (n->rows < 2 || n->t->status) return;
    n->t->status = expected_new(want->rows, want->width, &e, n->t->err);
    if (n->t->status) return;
    for (size_t r = 0; r < n->rows; r++) {
        double gy = 0, yy = 0;
        for (size_t i = r * n->len; i < (r + 1) * n->len; i++) {
            gy += got[i] * want->y[i], yy += want->y[i] * want->y[i];
        }
        const double times = yy > 0 ? gy / yy : 1;
        least = fmin(least, times), most = fmax(most, times);
        for (size_t i = r * n->len; i < (r + 1) * n->len; i++) {
            e.y[i] = times * want->y[i];
            e.bound[i] = fabs(times) * want->bound[i], e.sd[i] = fabs(times) * want->sd[i];
        }
    }
    const double apart = 4 * bound_rmsnorm(n->len, most, n->out).bound;
    if (!(most - least > apart)) {
        expected_free(&e);
        return;
    }
    trial_offer(n->t, "row-scaled", &e,
                "each row is off by a factor of its own (%.6g to %.6g): its mean square is wrong",
                least, most);
}

void cause_norm(Trial *t) {
    Norm n;
    if (norm_open(t, &n)) {
        try_weights(&n);
        try_sums(&n);
        try_eps(&n);
        try_squares_cut(&n);
        try_twice(&n);
        try_inputs(&n);
        try_odd_eps(&n);
        try_row_scaled(&n);
    }
    arena_free(&n.arena);
}
