// How a run rounds whose trace shows no product together with its input: what lies between two
// captured arrays is replayed under each known way, and the way that comes nearest is taken.
//
// This file owns: that search, on the shortest prompt and no further than the first array that
// attention has a part in. It leaves to others: traces that show more (detect.c).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/detect_internal.h"
#include "verify/replay.h"

// Multiplications that the whole search may cost; past that, only the likeliest ways are tried.
#define MOST_WORK 1e11
enum { LIKELIEST = 5 };

typedef struct {
    Oracle *o;
    const Model *m;
    TracePrompt p;   // cut short
    bool act, attn;  // what is looked for
    Error *err;
} Search;

// Replays what was cut out under this rounding: how many components fail, the largest error /
// bound.
static Status try_run(const Search *s, const Rounding *r, size_t *fails, double *ratio) {
    const ReplayOptions options = {.max_causes = 0};
    Report report;
    int index;
    report_init(&report);
    // Declared, so that no component is tried under another way than this.
    Rounding fixed = *r;
    fixed.act_declared = fixed.attn_declared = true;
    Status st = report_prompt(&report, "", s->p.tokens, s->p.n_tokens, "", &index, s->err);
    if (!st) st = replay_prompt(s->o, s->m, &fixed, &s->p, &options, &report, index, s->err);
    *ratio = 0, *fails = 0;
    for (size_t i = 0; !st && i < report.n_components; i++) {
        const ComponentResult *c = &report.components[i];
        if (c->worst.ratio > *ratio) *ratio = c->worst.ratio;
        *fails += c->outcome == OUTCOME_FAIL;
    }
    report_free(&report);
    return st;
}

static Status score(const Search *s, const Rounding *r, double *ratio) {
    size_t fails;
    return try_run(s, r, &fails, ratio);
}

// The arrays up to the first that attention, or a whole layer, has a part in.
static size_t first_arrays(const TracePrompt *p) {
    for (size_t i = 0; i < p->n_arrays; i++) {
        const ComponentRef ref = p->arrays[i].ref;
        if (ref.layer > 0 || (ref.c >= COMP_ATTN && ref.c < COMP_PROBS)) return i + 1;
    }
    return p->n_arrays;
}

static double work_of(const Search *s) {
    const ComponentRef last = s->p.arrays[s->p.n_arrays - 1].ref;
    const int layers = component_in_layer(last.c) ? last.layer + 1 : s->m->h.n_layers;
    return (double)s->m->n_params / s->m->h.n_layers * layers * (double)s->p.n_tokens;
}

// Weights of floats do not meet 8-bit codes: noise of that size would hide what is looked for.
static bool is_plausible(const Model *m, const ActScheme *a) {
    for (int l = 0; l < m->h.n_layers; l++) {
        const LayerWeights *w = &m->layers[l];
        const Tensor *const all[] = {w->q, w->v, w->attn_out, w->ffn_gate, w->ffn_down};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            const TensorType t = all[i]->type;
            if (type_info(t)->block_len == 1 && a->way[t] > WAY_BF16) return false;
        }
    }
    return true;
}

static Status search_act(const Search *s, size_t most, Rounding *r, double *best) {
    const ActScheme *a;
    Rounding trial = *r;
    if (!s->act) return *best < RATIO_MOST ? OK : score(s, r, best);
    for (size_t i = 0; i < most && (a = act_scheme_at((int)i)); i++) {
        double ratio;
        trial.act = *a;
        if (!is_plausible(s->m, a)) continue;
        Status st = score(s, &trial, &ratio);
        if (st) return st;
        if (ratio < *best) *best = ratio, r->act = *a;
        if (i == 0 && ratio <= 1) return OK;  // the simplest explains it
    }
    return OK;
}

// Accumulators of few bits explain much: only where nothing else does.
static Status search_attn(const Search *s, size_t most, Rounding *r, double *best) {
    Rounding trial = *r;
    for (int few_bits = 0; s->attn && few_bits < 2; few_bits++) {
        const AttnScheme *a;
        for (size_t i = 0; i<most && * best> 1 && (a = attn_scheme_at((int)i)); i++) {
            double ratio;
            trial.attn = *a;
            if ((a->acc != PREC_F32) != few_bits) continue;
            Status st = score(s, &trial, &ratio);
            if (st) return st;
            if (ratio < *best) *best = ratio, r->attn = *a;
        }
    }
    return OK;
}

// The shortest prompt of at least `least` tokens in which something was captured.
static const TracePrompt *shortest_prompt(const Trace *t, size_t least) {
    const TracePrompt *best = NULL;
    for (size_t i = 0; i < t->n_prompts; i++) {
        const TracePrompt *p = &t->prompts[i];
        if (p->n_arrays == 0 || p->n_tokens < least) continue;
        if (!best || p->n_tokens < best->n_tokens) best = p;
    }
    return best;
}

Status detect_settle(Oracle *o, const Model *m, const Trace *t, const Rounding *r, const int *tied,
                     size_t n, int *best, Error *err) {
    const TracePrompt *p = shortest_prompt(t, 2);
    *best = tied[0];
    if (!p || n < 2) return OK;
    Search s = {.o = o, .m = m, .p = *p, .err = err};
    s.p.chosen = -1;
    const double affordable = MOST_WORK / work_of(&s);
    size_t fewest = SIZE_MAX;
    double least = RATIO_MOST;
    for (size_t i = 0; i < n && (double)i < affordable; i++) {
        Rounding trial = *r;
        size_t fails;
        double ratio;
        trial.attn = *attn_scheme_at(tied[i]);
        Status st = try_run(&s, &trial, &fails, &ratio);
        if (st) return st;
        if (fails > fewest || (fails == fewest && ratio >= least)) continue;
        fewest = fails, least = ratio, *best = tied[i];
        if (i == 0 && fails == 0 && ratio <= GOOD_FIT) return OK;  // the simplest explains all
    }
    return OK;
}

Status detect_coarse(Oracle *o, const Model *m, const Trace *t, bool act, bool attn, Rounding *r,
                     char text[200], Error *err) {
    const TracePrompt *shortest = shortest_prompt(t, 1);
    if (!shortest) return OK;
    Search s = {.o = o, .m = m, .p = *shortest, .act = act, .attn = attn, .err = err};
    s.p.n_arrays = first_arrays(shortest);
    s.p.chosen = -1;
    const size_t most = work_of(&s) * 30 > MOST_WORK ? LIKELIEST : 64;
    const Rounding plain = *r;
    double best = RATIO_MOST;
    // The products' inputs first: they round the most. Then the cache, then the products again.
    Status st = search_act(&s, most, r, &best);
    if (!st && best > 1) st = search_attn(&s, most, r, &best);
    if (!st && best > 1) st = search_act(&s, most, r, &best);
    // What explains the first array may not explain the rest.
    int all[64], n_all = 0, chosen;
    for (int i = 0; attn && i < 64 && attn_scheme_at(i); i++) {
        const bool first = strcmp(attn_scheme_at(i)->name, r->attn.name) == 0;
        all[n_all++] = i;
        if (first) all[n_all - 1] = all[0], all[0] = i;
    }
    if (!st && best <= 1 && n_all) {
        st = detect_settle(o, m, t, r, all, (size_t)n_all, &chosen, err);
        if (!st) r->attn = *attn_scheme_at(chosen);
    }
    char name[COMPONENT_TEXT];
    component_text(s.p.arrays[s.p.n_arrays - 1].ref, name);
    if (!st && best > 1) {
        *r = plain;
        snprintf(text, 200, "activations %s, attention %s (no known way explains %s)", r->act.name,
                 r->attn.name, name);
    } else if (!st) {
        snprintf(text, 200, "activations %s, attention %s (as %s shows)", r->act.name, r->attn.name,
                 name);
    }
    return st;
}
