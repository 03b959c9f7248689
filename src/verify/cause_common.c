// Hypotheses of every component: what its array holds, where no computation of its own explains it.
//
// This file owns: zero, scaled, shifted, permuted, rounded, other arrays, damaged elements, and the
// case that not the component but the captured input of it is wrong. It comes after the files that
// know the component; what they find is preferred (cause.c).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_case.h"

#define ALL ((1u << COMP_TOKEN) - 1)  // all but the token itself
#define HEADED ((1u << (COMP_ATTN + 1)) - (1u << COMP_Q))
#define CACHES (1u << COMP_K_CACHE | 1u << COMP_V_CACHE)

const Hypothesis hypotheses_common[] = {
    {"zero", "zero", ALL},
    {"negated", "negated", ALL},
    {"scaled", "multiplied by a constant", ALL},
    {"offset", "a constant is added", ALL},
    {"token-shift", "holds another token's row", ALL & ~CACHES},
    {"heads-permuted", "heads stand in another order", HEADED},
    {"elements-shifted", "elements are moved within the row", ALL & ~(1u << COMP_PROBS)},
    {"rounded", "rounded to f16 or bf16", ALL},
    {"other-array", "holds what another layer or component should be", ALL},
    {"input-array", "its captured input is what is wrong", ALL},
    {"damaged-elements", "a few elements only are wrong", ALL},
    {NULL, NULL, 0},
};

enum { DAMAGED_MOST = 8 };

typedef struct {
    Trial *t;
    Arena arena;
    const CauseCase *k;
    const Site *s;
    size_t n;  // elements of the case
    Precision out;
} Common;

// --- what is expected, changed as a whole -------------------------------------------------------

// factor want + added
static bool offer_linear(Common *c, double factor, double added, const char *id, const char *text) {
    const Expected *want = c->k->want;
    Expected e;
    if (!case_new(c->t, c->k->n_rows, &e)) return false;
    for (size_t i = 0; i < c->n; i++) {
        const double y = factor * want->y[i];
        e.y[i] = y + added;
        e.bound[i] = want->bound[i] * fabs(factor);
        // One more operation rounds; but 0 stays 0.
        if (factor != 0 && e.y[i] != 0) e.bound[i] += bound_add(y, added, c->out).bound;
        e.sd[i] = want->sd[i] * fabs(factor);
    }
    return trial_offer(c->t, id, &e, "%s", text);
}

static const char *place_text(const Common *c, size_t cell, char out[64]) {
    const size_t row = c->k->row[cell / c->k->groups], head = cell % c->k->groups;
    if (c->k->groups > 1)
        snprintf(out, 64, "token %zu, head %zu", row, head);
    else
        snprintf(out, 64, "token %zu", row);
    return out;
}

// Elements of cell number i: from *at on.
static size_t cell_elements(const Common *c, size_t i, size_t *at) {
    const size_t len = case_row_len(c->k) / c->k->groups;
    *at = i * len;
    return len;
}

// Every cell that fails is zero, all of it.
static void try_zero(Common *c) {
    const size_t cells = c->k->n_rows * c->k->groups;
    size_t n = 0, first = 0;
    for (size_t i = cells; i-- > 0;) {
        size_t at, len = cell_elements(c, i, &at);
        if (c->k->cells[i].ratio <= 1) continue;
        for (size_t j = at; j < at + len; j++) {
            if (c->k->got[j] != 0) return;
        }
        n++, first = i;
    }
    Expected e;
    if (n == 0 || !case_new(c->t, c->k->n_rows, &e)) return;
    for (size_t i = 0; i < cells; i++) {
        size_t at, len = cell_elements(c, i, &at);
        if (c->k->cells[i].ratio > 1) continue;
        memcpy(e.y + at, c->k->want->y + at, len * sizeof *e.y);
        memcpy(e.bound + at, c->k->want->bound + at, len * sizeof *e.bound);
        memcpy(e.sd + at, c->k->want->sd + at, len * sizeof *e.sd);
    }
    char place[64];
    if (n == cells)
        trial_offer(c->t, "zero", &e, "all zero");
    else
        trial_offer(c->t, "zero", &e, "zero at %s%s", place_text(c, first, place),
                    n > 1 ? " and others" : "");
}

// A factor's name, where it has one in this model.
static const char *factor_name(const Common *c, double f) {
    const Hparams *h = &c->s->model->h;
    const struct {
        double x;
        const char *name;
    } known[] = {{sqrt(h->dim), " (sqrt(dim))"},
                 {1 / sqrt(h->dim), " (1 / sqrt(dim))"},
                 {sqrt(h->head_dim), " (sqrt(head_dim))"},
                 {1 / sqrt(h->head_dim), " (1 / sqrt(head_dim))"},
                 {sqrt(2.0 * h->n_layers), " (sqrt(2 n_layers))"},
                 {1 / sqrt(2.0 * h->n_layers), " (1 / sqrt(2 n_layers))"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (fabs(f / known[i].x - 1) < 1e-5) return known[i].name;
    }
    return "";
}

static void try_scaled(Common *c) {
    const Expected *want = c->k->want;
    double gy = 0, yy = 0, sum = 0, n = 0;
    for (size_t i = 0; i < c->n; i++) {
        if (isinf(want->bound[i]) || !isfinite(want->y[i])) continue;
        gy += c->k->got[i] * want->y[i], yy += want->y[i] * want->y[i];
        sum += c->k->got[i] - want->y[i], n++;
    }
    if (!(yy > 0) || !isfinite(gy) || n < 4) return;  // fewer fit any factor
    const double factor = gy / yy, added = sum / n;
    bool fits = false;
    for (int digits = 1; digits <= 17 && !fits; digits += digits < 7 ? 1 : 10) {
        char number[40], text[CAUSE_TEXT];
        snprintf(number, sizeof number, "%.*e", digits - 1, factor);
        const double f = strtod(number, NULL);
        if (f == 0 || f == 1) continue;
        snprintf(text, sizeof text, "%.7g times what it should be%s", f, factor_name(c, factor));
        if (f == -1)
            fits = offer_linear(c, f, 0, "negated", "the sign of all elements is wrong");
        else
            fits = offer_linear(c, f, 0, "scaled", text);
    }
    for (int digits = 1; digits <= 17 && !fits; digits += digits < 7 ? 1 : 10) {
        char number[40], text[CAUSE_TEXT];
        snprintf(number, sizeof number, "%.*e", digits - 1, added);
        const double x = strtod(number, NULL);
        snprintf(text, sizeof text, "%.7g is added to all elements", x);
        fits = x != 0 && offer_linear(c, 1, x, "offset", text);
    }
}

static void try_rounded(Common *c) {
    const Precision shows = precision_of(c->k->got, c->n);
    Rounding other = *c->s->rounding;
    Site s = *c->s;
    Expected e;
    if (shows == PREC_F32 || shows == c->out) return;
    s.rounding = &other;
    other.out[c->k->c] = shows;
    if (!case_expect(c->t, &s, c->k->c, &e)) return;
    trial_offer_coarser(c->t, "rounded", &e, "rounded to %s", precision_name(shows));
}

// --- moved --------------------------------------------------------------------------------------

// What the component is at other tokens. Logits of tokens whose norm nobody needed: it is made.
static bool expect_token(Common *c, size_t token, Expected *out) {
    if (token >= c->s->n) return false;
    if (case_expect_at(c->t, c->s, c->k->c, &token, 1, out)) return true;
    if (c->k->c != COMP_LOGITS) return false;
    Site s = *c->s;
    return case_value(c->t, &c->arena, c->s, COMP_NORM, &token, 1, &s.at[COMP_NORM]) &&
           case_expect_at(c->t, &s, c->k->c, &token, 1, out);
}

// Row r of the case is what token from[r] should be; SIZE_MAX: not looked at.
static bool offer_tokens(Common *c, const size_t *from, const char *text) {
    const size_t len = case_row_len(c->k);
    Expected e, one;
    if (!case_new(c->t, c->k->n_rows, &e)) return false;
    for (size_t r = 0; r < c->k->n_rows; r++) {
        if (from[r] != SIZE_MAX && expect_token(c, from[r], &one)) {
            memcpy(e.y + r * len, one.y, len * sizeof *e.y);
            memcpy(e.bound + r * len, one.bound, len * sizeof *e.bound);
            memcpy(e.sd + r * len, one.sd, len * sizeof *e.sd);
            const double ratio = case_ratio(c->t, r, &one);
            expected_free(&one);
            if (ratio <= 1 && !c->t->status) continue;
            expected_free(&e);
            return false;
        }
        bool empty = true;  // what comes from outside may be 0, or anything
        for (size_t i = r * len; i < (r + 1) * len; i++) empty &= c->k->got[i] == 0;
        for (size_t i = r * len; i < (r + 1) * len; i++) e.bound[i] = empty ? 0 : INFINITY;
    }
    if (!c->t->status && case_looks(c->t, &e)) {
        return trial_offer(c->t, "token-shift", &e, "%s", text);
    }
    expected_free(&e);
    return false;
}

static void try_tokens(Common *c) {
    static const int shifts[] = {-1, 1, -2, 2, -3, 3, -4, 4};
    size_t *from = case_alloc(c->t, &c->arena, c->k->n_rows, sizeof *from);
    char text[CAUSE_TEXT];
    if (!from || (CACHES >> c->k->c & 1) || c->k->c == COMP_PROBS) return;
    for (size_t i = 0; i < sizeof shifts / sizeof *shifts; i++) {
        for (size_t r = 0; r < c->k->n_rows; r++) {
            const size_t at = c->k->row[r] + (size_t)(ptrdiff_t)shifts[i];
            from[r] = at < c->s->n ? at : SIZE_MAX;
        }
        snprintf(text, sizeof text, "a token's row holds that of the token %d %s", abs(shifts[i]),
                 shifts[i] < 0 ? "before" : "after");
        if (offer_tokens(c, from, text)) return;
    }
    const size_t all[] = {0, c->s->n - 1};
    for (size_t i = 0; i < 2 && c->k->n_rows > 1; i++) {
        for (size_t r = 0; r < c->k->n_rows; r++) from[r] = all[i];
        snprintf(text, sizeof text, "every row is token %zu's", all[i]);
        if (offer_tokens(c, from, text)) return;
    }
    for (size_t r = 0; r < c->k->n_rows; r++) from[r] = c->s->n - 1 - c->k->row[r];
    if (c->s->n > 2) offer_tokens(c, from, "rows stand in reverse order");
}

// What is expected, with element i taken from from[i % len] of its row; SIZE_MAX: not looked at.
static bool offer_moved(Common *c, const size_t *from, size_t len, const char *id,
                        const char *text) {
    const Expected *want = c->k->want;
    Expected e;
    if (!case_new(c->t, c->k->n_rows, &e)) return false;
    for (size_t i = 0; i < c->n; i++) {
        const size_t at = from[i % len] == SIZE_MAX ? SIZE_MAX : i / len * len + from[i % len];
        e.y[i] = at == SIZE_MAX ? 0 : want->y[at];
        e.bound[i] = at == SIZE_MAX ? INFINITY : want->bound[at];
        e.sd[i] = at == SIZE_MAX ? 0 : want->sd[at];
    }
    if (case_looks(c->t, &e)) return trial_offer(c->t, id, &e, "%s", text);
    expected_free(&e);
    return false;
}

static bool same_cell(const Common *c, size_t got, size_t want, size_t len) {
    const Expected *e = c->k->want;
    for (size_t i = 0; i < len; i++) {
        if (isinf(e->bound[want + i]) != isinf(e->bound[got + i])) return false;
        if (isinf(e->bound[want + i])) continue;
        if (!(fabs(c->k->got[got + i] - e->y[want + i]) <= e->bound[want + i])) return false;
    }
    return true;
}

// The order that the heads of the first failing row stand in.
static void try_heads(Common *c) {
    const size_t heads = c->k->groups, len = case_row_len(c->k), d = len / heads;
    if (heads < 2 || !(HEADED >> c->k->c & 1)) return;
    size_t *from = case_alloc(c->t, &c->arena, len, sizeof *from), moved = 0, source = 0;
    if (!from) return;
    for (size_t h = 0; h < heads; h++) {
        size_t g = 0;
        while (g < heads && !same_cell(c, h * d, (h + g) % heads * d, d)) g++;
        if (g == heads) return;
        g = (h + g) % heads;
        if (g != h) moved = h, source = g;
        for (size_t i = 0; i < d; i++) from[h * d + i] = g * d + i;
    }
    char text[CAUSE_TEXT];
    snprintf(text, sizeof text, "heads in another order: head %zu holds head %zu", moved, source);
    if (moved != source) offer_moved(c, from, len, "heads-permuted", text);
}

static void try_elements(Common *c) {
    static const size_t steps[] = {1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256};
    const size_t len = c->k->want->width;
    size_t *from = case_alloc(c->t, &c->arena, len, sizeof *from);
    if (!from || component_is_scores(c->k->c) || c->k->c == COMP_PROBS) return;
    for (size_t i = 0; i < 2 * sizeof steps / sizeof *steps; i++) {
        const size_t step = steps[i / 2];
        char text[CAUSE_TEXT];
        if (step * 4 > len) break;
        for (size_t j = 0; j < len; j++) {
            const size_t at = i % 2 ? j - step : j + step;  // wraps past SIZE_MAX
            from[j] = at < len ? at : SIZE_MAX;
        }
        snprintf(text, sizeof text, "elements stand %zu too far to the %s", step,
                 i % 2 ? "right" : "left");
        // A look at a few elements of the first row first.
        const size_t at = len / 2;
        if (!same_cell(c, at, from[at], len / 4 < 8 ? len / 4 : 8)) continue;
        if (offer_moved(c, from, len, "elements-shifted", text)) return;
    }
}

// --- other arrays -------------------------------------------------------------------------------

static bool offer_array(Common *c, const TraceArray *a, const char *text) {
    const size_t len = case_row_len(c->k),
                 per_row = component_is_scores(c->k->c) ? c->k->groups : 1;
    Expected e;
    if (component_is_scores(a->ref.c) != component_is_scores(c->k->c) ||
        a->width * per_row != len) {
        return false;
    }
    for (size_t r = 0; r < c->k->n_rows; r++) {
        const size_t row = c->k->row[r];
        if (row < a->first_row || (row - a->first_row + 1) * per_row > a->rows) return false;
    }
    if (!case_new(c->t, c->k->n_rows, &e)) return false;
    for (size_t i = 0; i < c->n; i++) {
        e.y[i] = a->x[(c->k->row[i / len] - a->first_row) * len + i % len];
        case_put(&e, i, bound_copy(e.y[i], c->out), 0);
    }
    return trial_offer(c->t, "other-array", &e, "%s", text);
}

static bool is_own(const Common *c, ComponentRef ref) {
    return ref.c == c->k->c && (ref.layer == c->s->layer || !component_in_layer(ref.c));
}

// Is c among what `of` is made from, within a layer? A copy further down the pass (a cache,
// attention over one token) repeats a fault: it does not explain it.
static bool depends_on(Component of, Component c) {
    for (const Component *in = component_inputs(of); *in != N_COMPONENTS; in++) {
        if (*in == c || depends_on(*in, c)) return true;
    }
    return false;
}

static bool try_captured(Common *c) {
    const Site *s = c->s;
    char text[CAUSE_TEXT], name[COMPONENT_TEXT];
    for (size_t i = 0; s->prompt && i < s->prompt->n_arrays; i++) {
        const TraceArray *a = &s->prompt->arrays[i];
        const bool later = a->ref.layer > s->layer && component_in_layer(c->k->c);
        if (is_own(c, a->ref) || (later && a->ref.c != c->k->c)) continue;
        if (a->ref.layer == s->layer && depends_on(a->ref.c, c->k->c)) continue;
        snprintf(text, sizeof text, "holds the same as %s", component_text(a->ref, name));
        if (offer_array(c, a, text)) return true;
    }
    for (size_t i = 0; s->trace && i < s->trace->n_prompts; i++) {
        const TracePrompt *p = &s->trace->prompts[i];
        const TraceArray *a = p == s->prompt ? NULL : trace_find(p, c->k->c, s->layer);
        snprintf(text, sizeof text, "holds the same as that of prompt \"%.60s\"", p->name);
        if (a && offer_array(c, a, text)) return true;
    }
    return false;
}

// A layer as it was captured, nothing of it recomputed.
static Site captured_layer(const Site *s, int layer) {
    Site there = *s;
    there.layer = layer, there.w = &s->model->layers[layer], there.before = NULL;
    for (Component c = 0; c < N_COMPONENTS; c++) {
        if (!component_in_layer(c)) continue;
        there.at[c] = (Value){.seen = trace_find(s->prompt, c, layer),
                              .width = component_width(&s->model->h, c, s->n)};
        const TraceArray *a = there.at[c].seen;
        const size_t heads = component_is_scores(c) ? (size_t)s->model->h.n_heads : 1;
        if (a && a->width * heads != there.at[c].width) there.at[c].seen = NULL;
    }
    const TraceArray *stream = layer > 0 ? trace_find(s->prompt, COMP_L_OUT, layer - 1)
                                         : trace_find(s->prompt, COMP_EMBD, -1);
    const size_t dim = (size_t)s->model->h.dim;
    there.stream = (Value){.seen = stream && stream->width == dim ? stream : NULL, .width = dim};
    return there;
}

// What component of another site should be, first of one row, then of all.
static bool offer_site(Common *c, const Site *s, Component of, const char *text) {
    Expected e;
    if (!case_expect_at(c->t, s, of, c->k->row, 1, &e)) return false;
    const bool close = e.width == c->k->want->width && case_ratio(c->t, 0, &e) <= 1;
    expected_free(&e);
    if (!close || !case_expect(c->t, s, of, &e)) return false;
    return trial_offer(c->t, "other-array", &e, "%s", text);
}

static bool has_weights(const Site *s, Component c) {
    if (c == COMP_Q_NORM) return s->w->q_norm;
    if (c == COMP_K_NORM) return s->w->k_norm;
    return true;
}

static void try_expected(Common *c) {
    const Site *s = c->s;
    const Component own = c->k->c;
    char text[CAUSE_TEXT], name[COMPONENT_TEXT];
    if (s->layer < 0) return;
    if (s->before && s->before->layer >= 0) {
        const ComponentRef ref = {own, s->before->layer};
        snprintf(text, sizeof text, "holds what %s should", component_text(ref, name));
        if (offer_site(c, s->before, own, text)) return;
    }
    for (int layer = 0; s->prompt && layer < s->model->h.n_layers; layer++) {
        const Site there = captured_layer(s, layer);
        const bool here = layer == s->layer;
        for (Component o = COMP_ATTN_NORM; o <= COMP_L_OUT; o++) {
            // Of other layers the same component only.
            if (here ? o == own || depends_on(o, own) : o != own) continue;
            if (component_width(&s->model->h, o, s->n) != case_row_len(c->k)) continue;
            if (component_is_scores(o) != component_is_scores(own) || !has_weights(s, o)) continue;
            const ComponentRef ref = {o, layer};
            snprintf(text, sizeof text, "holds what %s should", component_text(ref, name));
            if (offer_site(c, &there, o, text)) return;
        }
    }
}

// --- its input ----------------------------------------------------------------------------------

// Recomputes a captured input from its own inputs, and the component from that.
static bool try_input(Common *c, Component in) {
    Site s = *c->s;
    const bool many = component_is_scores(c->k->c) || c->k->c == COMP_ATTN;
    const bool passes = component_is_scores(in) || in == COMP_K_CACHE || in == COMP_V_CACHE;
    size_t n = c->k->n_rows, *row = case_alloc(c->t, &c->arena, c->s->n, sizeof *row);
    Expected e;
    char name[COMPONENT_TEXT];
    if (!row || n > c->s->n) return false;
    memcpy(row, c->k->row, n * sizeof *row);
    for (size_t i = 0; i < c->s->n && many; i++) row[i] = i, n = c->s->n;
    if (passes) {
        s.at[in].seen = NULL;  // attention goes through what was not captured on its own
    } else if (!case_value(c->t, &c->arena, c->s, in, row, n, &s.at[in])) {
        return false;
    }
    if (!case_expect(c->t, &s, c->k->c, &e)) return false;
    return trial_offer(c->t, "input-array", &e,
                       "%s as it was captured is wrong: as it should be, this fits",
                       component_text((ComponentRef){in, s.layer}, name));
}

static bool try_stream(Common *c) {
    const Site *before = c->s->before;
    Site s = *c->s;
    Expected e;
    char name[COMPONENT_TEXT];
    if (!before || !s.stream.seen) return false;
    const ComponentRef ref = {before->layer < 0 ? COMP_EMBD : COMP_L_OUT, before->layer};
    if (!case_value(c->t, &c->arena, before, ref.c, c->k->row, c->k->n_rows, &s.stream)) {
        return false;
    }
    if (!case_expect(c->t, &s, c->k->c, &e)) return false;
    return trial_offer(c->t, "input-array", &e,
                       "%s as it was captured is wrong: as it should be, this fits",
                       component_text(ref, name));
}

// What the component reads that was captured. Attention reads on behind what was not.
static void try_inputs_of(Common *c, Component of) {
    for (const Component *in = component_inputs(of); *in != N_COMPONENTS; in++) {
        Component i = *in;
        if (i == COMP_Q_NORM && !c->s->w->q_norm) i = COMP_Q;
        if (i == COMP_K_NORM && !c->s->w->k_norm) i = COMP_K;
        if (c->s->at[i].seen) {
            if (try_input(c, i)) return;
        } else if (component_is_scores(i) || i == COMP_K_CACHE || i == COMP_V_CACHE) {
            try_inputs_of(c, i);
        }
    }
}

// --- damage -------------------------------------------------------------------------------------

static void try_damaged(Common *c) {
    const Expected *want = c->k->want;
    const size_t width = want->width, len = case_row_len(c->k);
    size_t n = 0, first = 0, failing = 0;
    Expected e;
    for (size_t r = 0; r < c->k->n_rows; r++) {
        bool fails = false;
        for (size_t g = 0; g < c->k->groups; g++) fails |= case_fails(c->k, r, g);
        failing += fails ? len : 0;
    }
    if (!case_new(c->t, c->k->n_rows, &e)) return;
    memcpy(e.y, want->y, c->n * sizeof *e.y);
    memcpy(e.bound, want->bound, c->n * sizeof *e.bound);
    memcpy(e.sd, want->sd, c->n * sizeof *e.sd);
    for (size_t i = c->n; i-- > 0;) {
        if (fabs(c->k->got[i] - want->y[i]) <= want->bound[i]) continue;
        e.bound[i] = INFINITY;
        n++, first = i;
    }
    if (n == 0 || n > DAMAGED_MOST || n * 8 > failing) {
        expected_free(&e);
        return;
    }
    char more[32] = "";
    if (n > 1) snprintf(more, sizeof more, " and %zu more", n - 1);
    const char *what = component_is_scores(c->k->c) ? "key" : "element";
    trial_offer_coarser(c->t, "damaged-elements", &e,
                        "only %s %zu of token %zu%s: %.7g, not %.7g; all others are right", what,
                        first % width, c->k->row[first / len], more, (double)c->k->got[first],
                        want->y[first]);
}

void cause_common(Trial *t) {
    Common c = {.t = t, .k = t->k, .s = t->k->site};
    if (t->k->c == COMP_TOKEN || t->k->n_rows == 0) return;
    c.n = t->k->want->rows * t->k->want->width;
    c.out = c.s->rounding->out[t->k->c];
    try_zero(&c);
    try_scaled(&c);
    try_rounded(&c);
    // What describes an array is not asked where its computation explains it.
    if (t->out->n_fits == 0) try_tokens(&c);
    if (t->out->n_fits == 0) try_heads(&c);
    if (t->out->n_fits == 0) try_elements(&c);
    if (t->out->n_fits == 0 && !try_captured(&c)) try_expected(&c);
    if (!(t->k->c == COMP_ATTN_NORM || t->k->c == COMP_FFN_INP || t->k->c == COMP_NORM) ||
        !try_stream(&c)) {
        try_inputs_of(&c, t->k->c);
    }
    try_damaged(&c);
    arena_free(&c.arena);
}
