// Hypotheses of kq, kq_soft_max and attn about what they read: queries, keys, values of elsewhere.
//
// Faults of the cache are named here where no cache was captured: only attention shows them then.
// Each is tried for keys and values together, then for one of them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_attend.h"

// Which of both a hypothesis can be about: what was captured downstream closes it.
static bool reads_keys(const Attend *a) {
    return !a->sees_scores && !a->sees_weights;
}

static bool reads_values(const Attend *a) {
    return a->c == COMP_ATTN;
}

// Keys and values of a whole prompt are large: those of one attempt go before the next one.
static Arena set_aside(Attend *a) {
    const Arena kept = a->arena;
    a->arena = (Arena){0};
    return kept;
}

static void take_back(Attend *a, Arena kept) {
    arena_free(&a->arena);
    a->arena = kept;
}

// Keys, values or both come from k and v; x NULL: from nowhere, stay as they are.
static bool offer_both(Attend *a, Keys k, Keys v, const char *id, const char *text) {
    const bool keys = reads_keys(a) && k.x, values = reads_values(a) && v.x;
    Way w = a->right;
    if (keys) w.k = k;
    if (values) w.v = v;
    if ((keys || values) && attend_offer(a, &w, id, "%s", text)) return true;
    if (!keys || !values) return false;
    w.v = a->right.v;
    if (attend_offer(a, &w, id, "%s (keys only)", text)) return true;
    w.k = a->right.k, w.v = v;
    return attend_offer(a, &w, id, "%s (values only)", text);
}

static Keys keys_of(Attend *a, const Value *v, bool key) {
    Keys out = {0};
    if (!(key ? reads_keys(a) : reads_values(a)) || !attend_keys(a, v, key, &out)) return (Keys){0};
    return out;
}

// --- stages of the same token -------------------------------------------------------------------

static void try_unrotated(Attend *a) {
    const Site *s = a->s;
    const Keys none = {0};
    const Keys k = keys_of(a, &s->at[s->w->k_norm ? COMP_K_NORM : COMP_K], true);
    const Value *q = &s->at[s->w->q_norm ? COMP_Q_NORM : COMP_Q];
    if (!reads_keys(a)) return;
    if (k.x) {
        offer_both(a, k, none, a->cached_k ? "other-input" : "cache-before-rope",
                   "keys are not rotated");
    }
    Way w = a->right;
    w.q = q;
    attend_offer(a, &w, "other-input", "queries are not rotated");
    w.k = k;
    if (k.x) attend_offer(a, &w, "other-input", "neither queries nor keys are rotated");
}

static void try_values(Attend *a) {
    const Site *s = a->s;
    const Keys none = {0};
    if (!reads_values(a)) return;
    // Rotated like keys: as k_rope of a site whose keys are the values.
    LayerWeights plain = *s->w;
    Site rotating = *s;
    plain.k_norm = NULL;
    rotating.w = &plain, rotating.at[COMP_K] = s->at[COMP_V];
    size_t *row = attend_sizes(a, a->n_keys);
    Value rotated;
    for (size_t i = 0; row && i < a->n_keys; i++) row[i] = i;
    if (row && case_value(a->t, &a->arena, &rotating, COMP_K_ROPE, row, a->n_keys, &rotated)) {
        const Keys v = keys_of(a, &rotated, false);
        if (v.x) offer_both(a, none, v, "value-rotated", "values were rotated like keys");
    }
}

static void try_exchanged(Attend *a) {
    const Keys k = keys_of(a, &a->s->at[COMP_V], true);
    const Keys v = keys_of(a, &a->s->at[COMP_K_ROPE], false);
    const bool cached = a->c == COMP_ATTN && !reads_keys(a) ? a->cached_v : a->cached_k;
    offer_both(a, k, v, cached ? "other-input" : "cache-exchanged",
               "keys and values are exchanged");
}

// --- other layers and sequences -----------------------------------------------------------------

// Keys or values of another layer or prompt as they were captured; how many tokens' (0: none).
static size_t rows_there(Attend *a, const TracePrompt *p, int layer, bool key, Keys *out) {
    const TraceArray *x = trace_find(p, key ? COMP_K_ROPE : COMP_V, layer);
    const bool cached = !x;
    if (cached) x = trace_find(p, key ? COMP_K_CACHE : COMP_V_CACHE, layer);
    if (!x || x->first_row > 0 || x->width != a->kv_heads * a->d) return 0;
    const Value v = {.seen = x, .width = x->width};
    const size_t all = a->n_keys, n = x->rows < all ? x->rows : all;
    a->n_keys = n;
    const bool known = cached ? attend_cached(a, &v, out) : attend_keys(a, &v, key, out);
    a->n_keys = all;
    return known ? n : 0;
}

// The same; behind the last token there stands what stands here.
static Keys captured_there(Attend *a, const TracePrompt *p, int layer, bool key) {
    const Keys own = key ? a->right.k : a->right.v;
    const size_t width = a->kv_heads * a->d, all = a->n_keys * width;
    Keys there;
    if (!(key ? reads_keys(a) : reads_values(a)) || !own.x) return (Keys){0};
    const size_t n = rows_there(a, p, layer, key, &there) * width;
    if (n == 0 || n == all) return n ? there : (Keys){0};
    double *x = case_doubles(a->t, &a->arena, 2, all), *sd = x + all;
    if (!x) return (Keys){0};
    memcpy(x, there.x, n * sizeof *x);
    memcpy(x + n, own.x + n, (all - n) * sizeof *x);
    if (there.sd) memcpy(sd, there.sd, n * sizeof *sd);
    if (own.sd) memcpy(sd + n, own.sd + n, (all - n) * sizeof *sd);
    return (Keys){x, sd};
}

static bool try_layer(Attend *a, const Site *before, int layer) {
    const Arena kept = set_aside(a);
    char text[CAUSE_TEXT];
    snprintf(text, sizeof text, "reads those of layer %d", layer);
    const Keys k = before ? keys_of(a, &before->at[COMP_K_ROPE], true)
                          : captured_there(a, a->s->prompt, layer, true);
    const Keys v = before ? keys_of(a, &before->at[COMP_V], false)
                          : captured_there(a, a->s->prompt, layer, false);
    const bool fits = offer_both(a, k, v, "cache-layer", text);
    take_back(a, kept);
    return fits;
}

static void try_layers(Attend *a) {
    const Site *s = a->s, *before = s->before && s->before->layer >= 0 ? s->before : NULL;
    if (before && try_layer(a, before, before->layer)) return;
    for (int layer = 0; s->prompt && layer < s->model->h.n_layers; layer++) {
        if (layer == s->layer || (before && layer == before->layer)) continue;
        if (try_layer(a, NULL, layer)) return;
    }
}

static bool try_sequence(Attend *a, const TracePrompt *p) {
    const Arena kept = set_aside(a);
    char text[CAUSE_TEXT];
    snprintf(text, sizeof text, "reads those of prompt \"%.60s\"", p->name);
    const Keys k = captured_there(a, p, a->s->layer, true);
    const Keys v = captured_there(a, p, a->s->layer, false);
    const bool fits = offer_both(a, k, v, "cache-sequence", text);
    take_back(a, kept);
    return fits;
}

static void try_sequences(Attend *a) {
    const Trace *t = a->s->trace;
    for (size_t i = 0; t && i < t->n_prompts; i++) {
        if (&t->prompts[i] != a->s->prompt && try_sequence(a, &t->prompts[i])) return;
    }
}

// --- slots --------------------------------------------------------------------------------------

// Slot j holds what belongs in slot j - shift; what comes from outside is empty.
static Keys shifted(Attend *a, Keys from, long shift) {
    const size_t width = a->kv_heads * a->d, n = a->n_keys;
    double *x = case_doubles(a->t, &a->arena, 2 * n, width);
    if (!x || !from.x) return (Keys){0};
    double *sd = x + n * width;
    for (size_t j = 0; j < n; j++) {
        const long at = (long)j - shift;
        if (at < 0 || at >= (long)n) continue;
        memcpy(x + j * width, from.x + (size_t)at * width, width * sizeof *x);
        if (from.sd) memcpy(sd + j * width, from.sd + (size_t)at * width, width * sizeof *sd);
    }
    return (Keys){x, from.sd ? sd : NULL};
}

static void try_slots(Attend *a) {
    for (long shift = -2; shift <= 2 && !a->fits; shift++) {
        char text[CAUSE_TEXT];
        if (shift == 0) continue;
        const Keys none = {0};
        const Keys k = reads_keys(a) ? shifted(a, a->right.k, shift) : none;
        const Keys v = reads_values(a) ? shifted(a, a->right.v, shift) : none;
        snprintf(text, sizeof text, "a token's slot holds that of the token %ld %s", labs(shift),
                 shift > 0 ? "before" : "after");
        if (offer_both(a, k, v, "cache-slot", text) || shift > 0) continue;
        // Token by token the last slots are still empty when they are read.
        Way w = a->right;
        long *slot = case_alloc(a->t, &a->arena, 2 * a->n, sizeof *slot);
        for (size_t i = 0; slot && i < a->n; i++) slot[i] = (long)i, slot[a->n + i] = NO_TOKEN;
        if (k.x) w.k = k;
        if (v.x) w.v = v;
        w.slot = slot, w.held = slot + a->n;
        if (slot && shift == -1) attend_offer(a, &w, "cache-slot", "%s", text);
    }
}

// Which token's key and value in slot 0 bring a head of the case's first row nearest to what was
// captured? The other keys' part of the sums stays as it is.
static bool search_slot(Attend *a, const Way *how, size_t head, size_t *best) {
    const CauseCase *k = a->t->k;
    const size_t token = k->row[0], pos = (size_t)a->s->pos[token], d = a->d;
    const size_t room = a->n + a->heads * d, kv_head = a->right.value_head[head];
    const float *got = k->got + head * (a->c == COMP_ATTN ? d : a->n);
    double *s = case_doubles(a->t, &a->arena, 2, room), *sum = case_doubles(a->t, &a->arena, 1, d);
    size_t *end = attend_sizes(a, a->n);
    double least = INFINITY, most = -INFINITY, rest = 0;
    if (!s || !sum || !end) return false;
    for (size_t i = 0; i < a->n; i++) end[i] = a->n_keys;
    Way w = a->right;
    w.end = end;
    if (a->sees_weights) {
        const TraceArray *x = a->s->at[COMP_KQ_SOFT_MAX].seen;
        const float *p = x->x + ((token - x->first_row) * a->heads + head) * a->n;
        for (size_t j = 0; j < a->n_keys; j++) s[j] = log(p[j]);
    } else {
        attend_scores(a, &w, token, head, s, s + room);
    }
    for (size_t j = 0; j < a->n_keys; j++) most = fmax(most, s[j]);
    for (size_t j = 1; j <= pos; j++) {
        const double p = exp(s[j] - most);
        rest += p;
        for (size_t i = 0; i < d && a->c == COMP_ATTN; i++) {
            sum[i] += p * a->right.v.x[(j * a->kv_heads + kv_head) * d + i];
        }
    }
    for (size_t u = 1; u < a->n_keys; u++) {
        // With scores or weights captured slot 0 keeps its own, whatever its value is.
        const double p = exp((reads_keys(a) && !how->keeps_key ? s[u] : s[0]) - most);
        double off = 0;
        if (a->c == COMP_KQ) off = fabs(s[u] - got[0]);
        if (a->c == COMP_KQ_SOFT_MAX) off = fabs(p / (p + rest) - got[0]);
        for (size_t i = 0; i < d && a->c == COMP_ATTN; i++) {
            const size_t from = how->keeps_value ? 0 : u;
            const double v = a->right.v.x[(from * a->kv_heads + kv_head) * d + i];
            const double e = (sum[i] + p * v) / (p + rest) - got[i];
            off += e * e;
        }
        if (off < least) least = off, *best = u;
    }
    return isfinite(least);
}

// Slot 0 holds another token's: each new one's own, or one for all, perhaps once that has come.
static bool try_slot_0(Attend *a, Way *w, long *slot, long *held, const char *of) {
    size_t head = 0, token = 0;
    for (size_t i = 0; i < a->n; i++) slot[i] = 0, held[i] = (long)i;
    w->slot = slot, w->held = held;
    if (attend_offer(a, w, "cache-slot-overwritten", "slot 0 holds each new token's%s", of)) {
        return true;
    }
    for (size_t i = 0; i < a->n; i++) held[i] = NO_TOKEN;
    if (attend_offer(a, w, "cache-slot-overwritten", "slot 0 is empty%s", of)) return true;
    while (head + 1 < a->heads && !case_fails(a->t->k, 0, head)) head++;
    if (!search_slot(a, w, head, &token)) return false;
    for (size_t i = 0; i < a->n; i++) held[i] = (long)token;
    if (attend_offer(a, w, "cache-slot-overwritten", "slot 0 holds token %zu's%s", token, of)) {
        return true;
    }
    for (size_t i = 0; i < token; i++) slot[i] = NO_SLOT;
    return attend_offer(a, w, "cache-slot-overwritten",
                        "slot 0 holds token %zu's once that has come%s", token, of);
}

static void try_overwritten(Attend *a) {
    long *slot = case_alloc(a->t, &a->arena, 2 * a->n, sizeof *slot);
    Way w = a->right;
    if (!slot || try_slot_0(a, &w, slot, slot + a->n, "")) return;
    if (!reads_keys(a) || !reads_values(a)) return;
    w.keeps_value = true;
    if (try_slot_0(a, &w, slot, slot + a->n, " (keys only)")) return;
    w.keeps_value = false, w.keeps_key = true;
    try_slot_0(a, &w, slot, slot + a->n, " (values only)");
}

void attend_try_keys(Attend *a) {
    static void (*const tries[])(Attend *) = {try_unrotated, try_values, try_exchanged,  try_layers,
                                              try_sequences, try_slots,  try_overwritten};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        // What a slot may hold is looked for last: a neighbour's may be another layer's too.
        if (a->fits && i >= 5) break;
        const Arena kept = set_aside(a);
        tries[i](a);
        take_back(a, kept);
    }
}
