// Hypotheses of k_cache and v_cache: what else may stand in a token's slot.
//
// This file owns: other tokens', layers' and sequences' keys and values, other stages of the same
// ones, other types. It leaves to others: the same faults where no cache was captured and attention
// shows them (cause_attention.c). Where slots hold what no simple rule says, each head of each
// failing slot is looked for among all tokens' heads.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_case.h"

#define CACHE_K (1u << COMP_K_CACHE)
#define CACHE_V (1u << COMP_V_CACHE)
#define CACHE_BOTH (CACHE_K | CACHE_V)

const Hypothesis hypotheses_cache[] = {
    {"cache-before-rope", "keys were stored before they were rotated", CACHE_K},
    {"value-rotated", "values were rotated too", CACHE_V},
    {"cache-exchanged", "keys and values exchanged", CACHE_BOTH},
    {"cache-slot", "every token's slot holds its neighbour's", CACHE_BOTH},
    {"cache-layer", "holds another layer's", CACHE_BOTH},
    {"cache-sequence", "holds another sequence's", CACHE_BOTH},
    {"cache-type", "rounded to another type", CACHE_BOTH},
    {"cache-slot-overwritten", "some slots hold another token's", CACHE_BOTH},
    {"cache-rows-missing", "some slots are empty", CACHE_BOTH},
    {"cache-heads", "heads stand in other places", CACHE_BOTH},
    {NULL, NULL, 0},
};

typedef struct {
    Trial *t;
    Arena arena;
    const Site *s;
    Component in;  // what the cache stores
    bool fits;
} Cache;

// --- other sources ------------------------------------------------------------------------------

static bool is_empty(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (x[i] != 0) return false;
    }
    return true;
}

static void copy_row(Expected *e, size_t r, const Expected *one) {
    const size_t at = r * e->width, bytes = e->width * sizeof *e->y;
    memcpy(e->y + at, one->y, bytes);
    memcpy(e->bound + at, one->bound, bytes);
    memcpy(e->sd + at, one->sd, bytes);
}

// The case's rows as the cache would hold rows from[r] of v; SIZE_MAX: nobody knows what stands
// there.
static bool stored(Cache *c, const Value *v, const size_t *from, Expected *out) {
    const CauseCase *k = c->t->k;
    Site s = *c->s;
    s.at[c->in] = *v;
    if (v->width != c->s->at[c->in].width || !case_new(c->t, k->n_rows, out)) return false;
    for (size_t r = 0; r < k->n_rows; r++) {
        Expected one;
        const size_t at = r * out->width;
        const bool known = from[r] < s.n && value_known(v, from[r]);
        if (!known && is_empty(k->got + at, out->width)) {
            continue;  // nothing was ever written there: 0 to the bit
        } else if (!known) {
            for (size_t i = 0; i < out->width; i++) out->bound[at + i] = INFINITY;
        } else if (case_expect_at(c->t, &s, k->c, &from[r], 1, &one)) {
            copy_row(out, r, &one);
            expected_free(&one);
        }
    }
    if (!c->t->status && case_looks(c->t, out)) return true;
    expected_free(out);
    return false;
}

static bool offer_source(Cache *c, const Value *v, const char *id, const char *text) {
    Expected e;
    if (!stored(c, v, c->t->k->row, &e)) return false;
    const bool fits = trial_offer(c->t, id, &e, "%s", text);
    c->fits |= fits;
    return fits;
}

static void try_stages(Cache *c) {
    const Site *s = c->s;
    if (c->in == COMP_K_ROPE) {
        const bool normed = s->w->k_norm;
        offer_source(c, &s->at[normed ? COMP_K_NORM : COMP_K], "cache-before-rope",
                     "keys were stored before they were rotated");
        if (normed) {
            offer_source(c, &s->at[COMP_K], "cache-before-rope",
                         "keys were stored before norm and rotation");
        }
        offer_source(c, &s->at[COMP_V], "cache-exchanged", "values stand where keys belong");
        return;
    }
    LayerWeights plain = *s->w;
    plain.k_norm = NULL;
    Site rotating = *s;
    rotating.w = &plain, rotating.at[COMP_K] = s->at[COMP_V];
    Value rotated;
    const CauseCase *k = c->t->k;
    if (case_value(c->t, &c->arena, &rotating, COMP_K_ROPE, k->row, k->n_rows, &rotated)) {
        offer_source(c, &rotated, "value-rotated", "values were rotated like keys");
    }
    offer_source(c, &s->at[COMP_K_ROPE], "cache-exchanged", "keys stand where values belong");
}

// What was captured of another layer or prompt: what went into its cache, or else the cache itself.
static bool captured_there(const Cache *c, const TracePrompt *p, int layer, Value *out) {
    const TraceArray *a = trace_find(p, c->in, layer);
    if (!a) a = trace_find(p, c->t->k->c, layer);
    if (!a || a->width != c->s->at[c->in].width) return false;
    *out = (Value){.seen = a, .width = a->width};
    return true;
}

static void try_layers(Cache *c) {
    const Site *s = c->s;
    char text[CAUSE_TEXT];
    Value v;
    if (s->before && s->before->layer >= 0 && s->before->at[c->in].width > 0) {
        snprintf(text, sizeof text, "holds those of layer %d", s->before->layer);
        if (offer_source(c, &s->before->at[c->in], "cache-layer", text)) return;
    }
    for (int layer = 0; s->prompt && layer < s->model->h.n_layers; layer++) {
        if (layer == s->layer || !captured_there(c, s->prompt, layer, &v)) continue;
        snprintf(text, sizeof text, "holds those of layer %d", layer);
        if (offer_source(c, &v, "cache-layer", text)) return;
    }
}

static void try_sequences(Cache *c) {
    const Site *s = c->s;
    for (size_t i = 0; s->trace && i < s->trace->n_prompts; i++) {
        const TracePrompt *p = &s->trace->prompts[i];
        char text[CAUSE_TEXT];
        Value v;
        if (p == s->prompt || !captured_there(c, p, s->layer, &v)) continue;
        // Rows past its end are another prompt's no longer.
        size_t *from = case_alloc(c->t, &c->arena, c->t->k->n_rows, sizeof *from);
        if (!from) return;
        for (size_t r = 0; r < c->t->k->n_rows; r++) {
            from[r] =
                c->t->k->row[r] < v.seen->first_row + v.seen->rows ? c->t->k->row[r] : SIZE_MAX;
        }
        Expected e;
        if (!stored(c, &v, from, &e)) continue;
        snprintf(text, sizeof text, "holds those of prompt \"%.60s\"", p->name);
        c->fits |= trial_offer(c->t, "cache-sequence", &e, "%s", text);
    }
}

// What the cache would hold in `slot` if token u stood there. keys: scratch, 2 n x width.
static bool as_if_at(Cache *c, size_t u, size_t slot, double *keys, Expected *out) {
    const Component from = c->s->w->k_norm ? COMP_K_NORM : COMP_K;
    const size_t width = c->s->at[from].width, n = c->s->n;
    const Value there = {.x = keys, .sd = keys + n * width, .width = width};
    double *x = keys + slot * width, *sd = x + n * width;
    Site moved = *c->s;
    if (!value_known(&c->s->at[from], u)) return false;
    value_rows(&c->s->at[from], &u, 1, x, sd);
    moved.at[from] = there;
    if (!case_expect_at(c->t, &moved, COMP_K_ROPE, &slot, 1, out)) return false;
    for (size_t i = 0; i < width; i++) {
        x[i] = out->y[i], sd[i] = bound_spread(out->bound[i], out->sd[i]);
    }
    expected_free(out);
    moved = *c->s;
    moved.at[COMP_K_ROPE] = there;
    return case_expect_at(c->t, &moved, c->t->k->c, &slot, 1, out);
}

// In the first layer a key is made of its token and position alone. Does each failing slot hold
// that of another token of this prompt, rotated for the slot? Then a sequence of the same tokens in
// another order was read.
static void try_other_order(Cache *c) {
    const CauseCase *k = c->t->k;
    const size_t n = c->s->n;
    size_t other = SIZE_MAX, token = 0, r = 0;
    if (c->s->layer != 0 || c->in != COMP_K_ROPE) return;
    double *keys = case_doubles(c->t, &c->arena, 2 * n, k->want->width);
    Expected e, one;
    if (!keys || !case_new(c->t, k->n_rows, &e)) return;
    for (bool found = true; r < k->n_rows && found; r += found) {
        const size_t slot = k->row[r];
        found = false;
        for (size_t i = 0; i < n && !found; i++) {  // its own first
            const size_t u = (slot + i) % n;
            if (!as_if_at(c, u, slot, keys, &one)) break;
            found = case_ratio(c->t, r, &one) <= 1;
            if (found) copy_row(&e, r, &one);
            if (found && i > 0) other = slot, token = u;
            expected_free(&one);
        }
    }
    if (r < k->n_rows || other == SIZE_MAX) {
        expected_free(&e);
        return;
    }
    c->fits |= trial_offer(c->t, "cache-sequence", &e,
                           "slot %zu holds the key of token id %d at that position: another "
                           "sequence's",
                           other, (int)c->s->tokens[token]);
}

// --- other types --------------------------------------------------------------------------------

// Are all values codes of -127 to 127 times a step of their block of 32?
static bool has_codes(const float *x, size_t n) {
    for (size_t b = 0; b < n; b += 32) {
        const size_t len = n - b < 32 ? n - b : 32;
        double most = 0;
        for (size_t i = 0; i < len; i++) most = fmax(most, fabs((double)x[b + i]));
        for (size_t i = 0; i < len && most > 0; i++) {
            const double code = x[b + i] / most * 127;
            if (!(fabs(code - rint(code)) < 1e-3)) return false;
        }
    }
    return true;
}

static bool holds_type(const CauseCase *k, TensorType type) {
    const size_t n = k->n_rows * k->want->width;
    if (type == TYPE_F16) return precision_of(k->got, n) == PREC_F16;
    if (type == TYPE_BF16) return precision_of(k->got, n) == PREC_BF16;
    return type == TYPE_F32 || has_codes(k->got, n);
}

static void try_types(Cache *c) {
    static const TensorType types[] = {TYPE_F32, TYPE_F16, TYPE_BF16, TYPE_Q8_0};
    const CauseCase *k = c->t->k;
    const TensorType declared =
        k->c == COMP_K_CACHE ? c->s->rounding->attn.k : c->s->rounding->attn.v;
    Rounding other = *c->s->rounding;
    Site s = *c->s;
    s.rounding = &other;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        Expected e;
        if (types[i] == declared || !holds_type(k, types[i])) continue;
        other.attn.k = other.attn.v = types[i];
        if (!case_expect(c->t, &s, k->c, &e)) return;
        c->fits |= trial_offer_coarser(c->t, "cache-type", &e, "holds %s, not %s",
                                       type_info(types[i])->name, type_info(declared)->name);
    }
}

// Towards zero, as a conversion that cuts bits off.
static float cut(Precision to, float x) {
    uint32_t u;
    if (to == PREC_BF16) {
        memcpy(&u, &x, sizeof u);
        u &= 0xffff0000u;
        memcpy(&x, &u, sizeof x);
        return x;
    }
    uint16_t h = f32_to_f16(x);
    if (fabsf(f16_to_f32(h)) > fabsf(x)) h--;
    return f16_to_f32(h);
}

static void try_cut(Cache *c) {
    CaseRows x;
    if (!case_rows(c->t, &c->arena, &c->s->at[c->in], &x)) return;
    for (Precision p = PREC_F16; p < N_PRECISIONS; p++) {
        Expected e;
        if (!case_new(c->t, c->t->k->n_rows, &e)) return;
        for (size_t i = 0; i < e.rows * e.width; i++) {
            e.y[i] = cut(p, (float)x.x[i]);
            case_put(&e, i, bound_copy(e.y[i], PREC_F32), x.sd[i]);
        }
        c->fits |= trial_offer(c->t, "cache-type", &e, "cut off to %s instead of rounded",
                               precision_name(p));
    }
}

// --- other slots --------------------------------------------------------------------------------

static void try_slots(Cache *c) {
    static const int shifts[] = {-1, 1, -2, 2, -3, 3, -4, 4};
    const CauseCase *k = c->t->k;
    size_t *from = case_alloc(c->t, &c->arena, k->n_rows, sizeof *from);
    for (size_t i = 0; i < sizeof shifts / sizeof *shifts && from; i++) {
        Expected e;
        for (size_t r = 0; r < k->n_rows; r++) {  // wraps past SIZE_MAX where there is none
            from[r] = k->row[r] + (size_t)(ptrdiff_t)shifts[i];
        }
        if (!stored(c, &c->s->at[c->in], from, &e)) continue;
        c->fits |=
            trial_offer(c->t, "cache-slot", &e, "a token's slot holds that of the token %d %s",
                        abs(shifts[i]), shifts[i] < 0 ? "before" : "after");
    }
}

// Where the contents of a cell (a head of a slot) come from.
typedef struct {
    size_t token, head;  // token SIZE_MAX: it is empty
} Origin;

static bool same(const Expected *all, size_t token, size_t head, const float *got, size_t d) {
    const size_t at = token * all->width + head * d;
    for (size_t i = 0; i < d; i++) {
        if (!(fabs(got[i] - all->y[at + i]) <= all->bound[at + i])) return false;
    }
    return true;
}

// Looks first where the last one was found (the same distance), then everywhere.
static bool find_origin(const Expected *all, const float *got, size_t token, size_t head, size_t d,
                        ptrdiff_t *shift, Origin *out) {
    const size_t near = token + (size_t)*shift, heads = all->width / d;
    if (near < all->rows && same(all, near, head, got, d)) {
        *out = (Origin){near, head};
        return true;
    }
    for (size_t i = 0; i < heads; i++) {  // its own head first
        const size_t h = (head + i) % heads;
        for (size_t u = 0; u < all->rows; u++) {
            if (!same(all, u, h, got, d)) continue;
            *out = (Origin){u, h};
            *shift = (ptrdiff_t)u - (ptrdiff_t)token;
            return true;
        }
    }
    *out = (Origin){SIZE_MAX, head};
    return is_empty(got, d);
}

static void offer_origins(Cache *c, const Expected *all, const Origin *origin, size_t groups) {
    const CauseCase *k = c->t->k;
    const size_t d = all->width / groups;
    bool heads = false, empty = false;
    size_t n_moved = 0, at = 0;
    Expected e;
    if (!case_new(c->t, k->n_rows, &e)) return;
    for (size_t i = k->n_rows * groups; i-- > 0;) {
        const Origin o = origin[i];
        if (o.token != SIZE_MAX) {
            const size_t in = o.token * all->width + o.head * d;
            memcpy(e.y + i * d, all->y + in, d * sizeof *e.y);
            memcpy(e.bound + i * d, all->bound + in, d * sizeof *e.bound);
            memcpy(e.sd + i * d, all->sd + in, d * sizeof *e.sd);
        }
        if (o.token == k->row[i / groups] && o.head == i % groups) continue;
        heads |= o.head != i % groups, empty |= o.token == SIZE_MAX;
        if (o.token != SIZE_MAX) n_moved++, at = i;
    }
    const size_t slot = k->row[at / groups];
    const Origin first = origin[at];  // the first that is not empty
    if (heads) {
        trial_offer(
            c->t, "cache-heads", &e,
            "head %zu of slot %zu holds head %zu of token %zu: tokens and heads are mixed up",
            at % groups, slot, first.head, first.token);
    } else if (n_moved > 0) {
        trial_offer(c->t, "cache-slot-overwritten", &e, "slot %zu holds token %zu's%s", slot,
                    first.token, empty ? ", others are empty" : "");
    } else {
        expected_free(&e);
    }
}

// All that fails is empty.
static void try_missing(Cache *c) {
    const CauseCase *k = c->t->k;
    const size_t groups = k->groups, d = k->want->width / groups, cells = k->n_rows * groups;
    size_t first = cells;
    Expected e;
    if (!case_new(c->t, k->n_rows, &e)) return;
    bool empty = true;
    for (size_t i = 0; i < cells; i++) {
        if (case_fails(k, i / groups, i % groups)) {
            empty &= is_empty(k->got + i * d, d);
            if (first == cells) first = i;
            continue;
        }
        memcpy(e.y + i * d, k->want->y + i * d, d * sizeof *e.y);
        memcpy(e.bound + i * d, k->want->bound + i * d, d * sizeof *e.bound);
        memcpy(e.sd + i * d, k->want->sd + i * d, d * sizeof *e.sd);
    }
    if (!empty || first == cells) {
        expected_free(&e);
        return;
    }
    trial_offer(c->t, "cache-rows-missing", &e, "slot %zu is empty: never written",
                k->row[first / groups]);
}

static void try_origins(Cache *c) {
    const CauseCase *k = c->t->k;
    const size_t n = c->s->n, groups = k->groups, d = k->want->width / groups;
    size_t *row = case_alloc(c->t, &c->arena, n, sizeof *row);
    Origin *origin = case_alloc(c->t, &c->arena, k->n_rows * groups, sizeof *origin);
    Expected all;
    if (!row || !origin) return;
    for (size_t i = 0; i < n; i++) row[i] = i;
    if (!case_expect_at(c->t, c->s, k->c, row, n, &all)) return;
    bool found = true;
    ptrdiff_t shift = 0;
    for (size_t i = 0; i < k->n_rows * groups && found; i++) {
        const size_t token = k->row[i / groups], head = i % groups;
        origin[i] = (Origin){token, head};
        if (case_fails(k, i / groups, head)) {
            found = find_origin(&all, k->got + i * d, token, head, d, &shift, &origin[i]);
        }
    }
    if (found) offer_origins(c, &all, origin, groups);
    expected_free(&all);
}

void cause_cache(Trial *t) {
    Cache c = {.t = t, .s = t->k->site};
    if (t->k->c != COMP_K_CACHE && t->k->c != COMP_V_CACHE) return;
    c.in = t->k->c == COMP_K_CACHE ? COMP_K_ROPE : COMP_V;
    try_missing(&c);
    try_stages(&c);
    try_slots(&c);
    try_layers(&c);
    try_sequences(&c);
    try_types(&c);
    if (!c.fits) try_cut(&c);
    if (!c.fits) try_other_order(&c);
    if (!c.fits) try_origins(&c);
    arena_free(&c.arena);
}
