// Hypotheses of the matrix products that start from the right result: what became of it.
//
// This file owns: outputs that are missing, stand elsewhere, were added to or passed a function.
// None needs the matrix again.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_product.h"

static void put(Expected *e, size_t i, double y, Slack s, double propagated) {
    e->y[i] = y;
    e->bound[i] = s.bound + BOUND_CONFIDENCE * propagated;
    e->sd[i] = hypot(s.sd, propagated);
}

// --- missing ------------------------------------------------------------------------------------

// The first output of the longest run that ends a row and holds one value only.
static size_t constant_tail(const float *got, size_t n) {
    size_t at = n - 1;
    while (at > 0 && (got[at - 1] == got[n - 1] || (isnan(got[at - 1]) && isnan(got[n - 1])))) at--;
    return at;
}

static void try_tail(Product *p) {
    const CauseCase *k = p->t->k;
    const size_t n = p->outputs;
    size_t from = 0;
    for (size_t r = 0; r < p->rows; r++) {
        const size_t at = constant_tail(k->got + r * n, n);
        from = at > from ? at : from;
    }
    const float last = k->got[n - 1];
    Expected e;
    if (from == 0 || (n - from < 2 && last != 0) || !product_copy(p->t, &e)) return;
    for (size_t r = 0; r < p->rows; r++) {
        for (size_t i = from; i < n; i++) put(&e, r * n + i, k->got[r * n + n - 1], (Slack){0}, 0);
    }
    trial_offer(p->t, "tail-rows-zero", &e, "outputs from %zu on, of %zu, are left out (%g)", from,
                n, (double)last);
}

// Bias alone where the product is missing.
static void try_tail_bias(Product *p) {
    const CauseCase *k = p->t->k;
    const size_t n = p->outputs;
    size_t from = 0;
    Expected e;
    for (size_t i = 0; p->bias && i < p->rows * n; i++) {
        if (k->got[i] != p->bias[i % n] && i % n + 1 > from) from = i % n + 1;
    }
    if (!p->bias || from == 0 || from == n || !product_copy(p->t, &e)) return;
    for (size_t i = 0; i < p->rows * n; i++) {
        if (i % n >= from) put(&e, i, p->bias[i % n], (Slack){0}, 0);
    }
    trial_offer(p->t, "tail-rows-zero", &e, "outputs from %zu on, of %zu, hold the bias alone",
                from, n);
}

// --- in another order ---------------------------------------------------------------------------

// Output i holds what from[i] should; SIZE_MAX: nobody knows what.
static bool permuted(Product *p, const size_t *from, Expected *e) {
    const Expected *want = p->t->k->want;
    const size_t n = p->outputs;
    if (!product_copy(p->t, e)) return false;
    for (size_t i = 0; i < p->rows * n; i++) {
        const size_t source = from[i % n] == SIZE_MAX ? 0 : i / n * n + from[i % n];
        e->y[i] = want->y[source], e->sd[i] = want->sd[source];
        e->bound[i] = from[i % n] == SIZE_MAX ? INFINITY : want->bound[source];
    }
    return true;
}

static size_t *places(Product *p) {
    return (size_t *)(void *)product_doubles(p, p->outputs);
}

static void try_row_orders(Product *p) {
    static const struct {
        const char *id, *text;
    } forms[] = {{"rows-permuted", "rows in transformers' order: halves of a head, not neighbours"},
                 {"rows-permuted", "rows permuted from halves to neighbours once too often"},
                 {"heads-interleaved", "outputs in turns: one of each head, not head by head"},
                 {"heads-interleaved", "outputs taken apart as if the heads stood in turns"}};
    const size_t d = (size_t)p->t->k->site->model->h.head_dim, heads = p->outputs / d;
    size_t *from = places(p);
    for (int form = 0; from && form < 4; form++) {
        for (size_t i = 0; i < p->outputs; i++) {
            const size_t head = i / d, e = i % d, half = d / 2;
            const size_t place[] = {head * d + 2 * (e % half) + e / half,
                                    head * d + e % 2 * half + e / 2, i % heads * d + i / heads,
                                    e * heads + head};
            from[i] = place[form];
        }
        Expected e;
        if ((form < 2 && d % 2) || (form >= 2 && heads == 1) || !permuted(p, from, &e)) continue;
        trial_offer(p->t, forms[form].id, &e, "%s", forms[form].text);
    }
}

static bool holds_head(const CauseCase *k, size_t d, size_t head, size_t other) {
    for (size_t i = 0; i < d; i++) {
        const size_t at = other * d + i;
        if (!(fabs(k->got[head * d + i] - k->want->y[at]) <= k->want->bound[at])) return false;
    }
    return true;
}

static void try_head_order(Product *p) {
    const CauseCase *k = p->t->k;
    const size_t d = (size_t)k->site->model->h.head_dim, heads = p->outputs / d;
    size_t *from = places(p), moved = heads, holds = 0;
    for (size_t h = 0; from && h < heads; h++) {
        size_t other = 0;
        while (other < heads && !holds_head(k, d, h, other)) other++;
        if (other == heads) return;
        if (other != h && moved == heads) moved = h, holds = other;
        for (size_t i = 0; i < d; i++) from[h * d + i] = other * d + i;
    }
    Expected e;
    if (!from || moved == heads || !permuted(p, from, &e)) return;
    trial_offer(p->t, "heads-permuted", &e, "heads in another order: head %zu holds head %zu",
                moved, holds);
}

// Each output holds that of the row `shift` further on; where there is none, the one from the other
// end, or whatever lies there.
static bool try_shift(Product *p, size_t *from, size_t shift) {
    const size_t n = p->outputs;
    const bool back = shift > n / 2;  // as a negative shift
    for (int wraps = 1; wraps >= 0; wraps--) {
        for (size_t i = 0; i < n; i++) {
            const size_t to = i + shift;
            const bool inside = back ? to >= n : to < n;
            from[i] = inside || wraps ? to % n : SIZE_MAX;
        }
        const long places_away = back ? (long)shift - (long)n : (long)shift;
        Expected e;
        if (!permuted(p, from, &e)) return false;
        if (trial_offer(p->t, "rows-shifted", &e, "each output holds the one %ld places %s",
                        labs(places_away), places_away > 0 ? "further on" : "before")) {
            return true;
        }
    }
    return false;
}

// Where else in the row is what stands in its middle?
static void try_shifts(Product *p) {
    const CauseCase *k = p->t->k;
    const Expected *want = k->want;
    const size_t n = p->outputs, probe = n / 2;
    const bool heads = k->c == COMP_Q || k->c == COMP_K || k->c == COMP_V;
    const size_t d = (size_t)k->site->model->h.head_dim;
    size_t *from = places(p);
    for (size_t o = 0; from && n > 4 && o < n && !p->t->status; o++) {
        const size_t shift = (o + n - probe) % n;
        bool all = shift != 0 && !(heads && shift % d == 0);  // that is an order of the heads
        for (size_t j = 0; j < p->n_samples && all; j++) {
            const size_t i = p->sample[j], to = i + shift;
            const bool edge = i < n / 4 || i >= n - n / 4;  // may have come from outside
            all = edge || fabs(k->got[i] - want->y[to % n]) <= want->bound[to % n];
        }
        if (all && try_shift(p, from, shift)) return;
    }
}

// --- added to -----------------------------------------------------------------------------------

static void offer_bias(Product *p, const char *id, const float *change, double times,
                       const char *text, const char *what) {
    Expected e;
    if (!product_copy(p->t, &e)) return;
    for (size_t i = 0; i < e.rows * e.width; i++) {
        const double add = times * change[i % e.width];
        e.y[i] += add;
        e.bound[i] += unit_roundoff(PREC_F32) * fabs(add);
    }
    trial_offer(p->t, id, &e, "%s%s", text, what);
}

static void try_bias(Product *p) {
    const size_t n = p->outputs;
    if (p->bias) {
        offer_bias(p, "bias-dropped", p->bias, -1, "the bias is not added", "");
        offer_bias(p, "bias-twice", p->bias, 1, "the bias is added twice", "");
    }
    size_t n_matrices;
    const Matrix *list = product_matrices(p, &n_matrices);
    for (size_t i = 0; list && i < n_matrices && !p->t->status; i++) {
        const Tensor *b = list[i].bias;
        if (!b || b->dims[0] != n || list[i].w == p->w) continue;
        float *change = product_floats(p, n);
        if (!change) return;
        dequantize(b->type, b->data, change, n);
        for (size_t j = 0; j < n; j++) change[j] -= p->bias ? p->bias[j] : 0;
        offer_bias(p, "other-bias", change, 1, "the bias that is added is ", b->name);
    }
}

static void try_added(Product *p, const Value *v, const char *text) {
    const CauseCase *k = p->t->k;
    const size_t n = p->rows * p->outputs;
    Expected e;
    if (v->width != p->outputs) return;
    for (size_t r = 0; r < p->rows; r++) {
        if (!value_known(v, k->row[r])) return;
    }
    double *x = product_doubles(p, 2 * n);
    if (!x || !product_copy(p->t, &e)) return;
    value_rows(v, k->row, p->rows, x, x + n);
    for (size_t i = 0; i < n; i++) {
        const double y = e.y[i] + x[i];
        Slack s = bound_add(e.y[i], x[i], p->out);
        s.bound += e.bound[i], s.sd = hypot(s.sd, e.sd[i]);
        put(&e, i, y, s, x[n + i]);
    }
    trial_offer(p->t, "residual-added", &e, "%s", text);
}

static void try_residuals(Product *p) {
    const CauseCase *k = p->t->k;
    if (k->c == COMP_ATTN_OUT || k->c == COMP_FFN_OUT) {
        try_added(p, &k->site->stream, "the residual stream is added already");
    }
    if (k->c == COMP_FFN_OUT) {
        try_added(p, &k->site->at[COMP_FFN_INP], "the residual stream is added already (ffn_inp)");
    }
    if (k->c != COMP_LOGITS) {
        try_added(p, &k->site->at[p->in], "its own input is added to it");
    }
}

// --- not made at all ----------------------------------------------------------------------------

static void try_skipped(Product *p) {
    const CauseCase *k = p->t->k;
    const size_t n = p->outputs, both = p->inputs < n ? p->inputs : n;
    Expected e;
    if (!product_copy(p->t, &e)) return;
    for (size_t i = 0; i < p->rows * n; i++) {
        const size_t r = i / n, o = i % n, at = r * p->inputs + o;
        if (o < both) {
            put(&e, i, p->x[at], bound_copy(p->x[at], p->out), p->x_sd ? p->x_sd[at] : 0);
        } else {  // the rest must hold one value
            put(&e, i, k->got[r * n + both], (Slack){0}, 0);
        }
    }
    char name[COMPONENT_TEXT];
    component_text((ComponentRef){p->in, k->site->layer}, name);
    trial_offer(p->t, "skipped", &e, "not multiplied: holds its input %s%s", name,
                both < n ? " and nothing behind it" : "");
}

// --- logits that passed a function --------------------------------------------------------------

// The cap for which cap tanh(y / cap) = got, |got| < |y|: it grows with the cap.
static double solve_cap(double y, double got) {
    double low = fabs(got), high = 1e6;
    for (int i = 0; i < 200; i++) {
        const double cap = (low + high) / 2;
        if (cap * tanh(fabs(y) / cap) < fabs(got)) {
            low = cap;
        } else {
            high = cap;
        }
    }
    const double whole = nearbyint(high);
    return whole > 0 && fabs(high - whole) < 1e-3 * whole ? whole : high;
}

static void try_softcap(Product *p) {
    const CauseCase *k = p->t->k;
    size_t most = 0;
    for (size_t i = 0; i < p->outputs; i++) {
        if (fabs(k->want->y[i]) > fabs(k->want->y[most])) most = i;
    }
    const double y = k->want->y[most], got = k->got[most];
    Expected e;
    if (!(fabs(got) < fabs(y)) || got * y <= 0 || !product_copy(p->t, &e)) return;
    const double cap = solve_cap(y, got);
    for (size_t i = 0; i < e.rows * e.width; i++) {
        e.y[i] = cap * tanh(e.y[i] / cap);
        e.bound[i] += 8 * unit_roundoff(PREC_F32) * fabs(e.y[i]);
    }
    trial_offer(p->t, "softcapped", &e, "capped: %g tanh(logit / %g)", cap, cap);
}

static void try_softmax(Product *p, bool logarithm) {
    const size_t n = p->outputs;
    const double u = unit_roundoff(PREC_F32);
    Expected e;
    if (!product_copy(p->t, &e)) return;
    for (size_t r = 0; r < p->rows; r++) {
        double *y = e.y + r * n, *bound = e.bound + r * n, *sd = e.sd + r * n;
        double most = -INFINITY, sum = 0, off = 0;
        for (size_t i = 0; i < n; i++) most = fmax(most, y[i]), off = fmax(off, bound[i]);
        for (size_t i = 0; i < n; i++) sum += exp(y[i] - most);
        for (size_t i = 0; i < n; i++) {
            const double log_p = y[i] - most - log(sum), probability = exp(log_p);
            const double both = bound[i] + off + 8 * u * (fabs(y[i]) + fabs(log_p) + fabs(most));
            y[i] = logarithm ? log_p : probability;
            bound[i] = logarithm ? both : probability * (both + 64 * u);
            sd[i] = logarithm ? hypot(sd[i], u) : probability * hypot(sd[i], 4 * u);
        }
    }
    if (logarithm) {
        trial_offer_harmless(p->t, "log-softmax", &e, "these are log probabilities");
    } else {
        trial_offer(p->t, "softmax", &e, "these are probabilities, softmax is made already");
    }
}

void cause_outputs(Product *p) {
    const Component c = p->t->k->c;
    try_skipped(p);
    try_tail(p);
    try_tail_bias(p);
    if (c == COMP_Q || c == COMP_K || c == COMP_V) {
        try_row_orders(p);
        try_head_order(p);
    }
    try_shifts(p);
    try_bias(p);
    try_residuals(p);
    if (c != COMP_LOGITS) return;
    try_softcap(p);
    try_softmax(p, true);
    try_softmax(p, false);
}
