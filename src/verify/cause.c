// The search for a cause; see cause.h.
//
// This file owns: which files of hypotheses a component is given to, when a hypothesis fits, and
// what several fits mean together. The hypotheses stand in cause_*.c, the pattern in
// cause_pattern.c.
#include "verify/cause.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_product.h"

const char *certainty_name(Certainty c) {
    static const char *const names[] = {"none", "certain", "ambiguous", "unknown"};
    return names[c];
}

const Hypothesis *hypothesis_at(int i) {
    static const Hypothesis *const lists[] = {
        hypotheses_embed,    hypotheses_norm,  hypotheses_matmul,    hypotheses_quants,
        hypotheses_rope,     hypotheses_cache, hypotheses_attention, hypotheses_pointwise,
        hypotheses_sampling, hypotheses_common};
    for (size_t l = 0; i >= 0 && l < sizeof lists / sizeof *lists; l++) {
        int n = 0;
        while (lists[l][n].id) n++;
        if (i < n) return &lists[l][i];
        i -= n;
    }
    return NULL;
}

// --- precedence ---------------------------------------------------------------------------------

// How much a hypothesis may bend. One that bends more explains whatever one that bends less does,
// and much besides, so where both fit it says nothing. What is not listed here bends least: it has
// no free number, or one out of a handful.
enum { SPECIFIC, FITTED, COARSE, DESCRIBES, ANYTHING, ELEMENTWISE };
static const struct {
    const char *id;
    int bend;
} bends[] = {
    // A number that was solved for.
    {"input-rounding", FITTED},
    {"weights-rounded", FITTED},
    {"softmax-temperature", FITTED},
    {"embedding-other-row", FITTED},
    {"rope-positions", FITTED},
    {"rope-frequencies", FITTED},
    {"rope-precision", FITTED},
    {"cache-type", FITTED},
    {"attention-rounding", FITTED},
    {"residual-rounded", FITTED},
    {"residual-scaled", FITTED},
    {"negated", FITTED},
    {"zero", FITTED},
    // The precision of an arithmetic: of long sums it allows nearly anything.
    {"f16-accumulation", COARSE},
    {"bf16-accumulation", COARSE},
    // Says what the array holds, not how that came about.
    {"scaled", DESCRIBES},
    {"other-array", DESCRIBES},
    {"input-array", DESCRIBES},
    {"heads-permuted", DESCRIBES},
    {"elements-shifted", DESCRIBES},
    {"offset", DESCRIBES},
    {"row-scaled", DESCRIBES},
    // Bends anew at each element.
    {"race", ANYTHING},
    {"damaged-elements", ELEMENTWISE},
};

static int bend_of(const char *id) {
    for (size_t i = 0; i < sizeof bends / sizeof *bends; i++) {
        if (strcmp(bends[i].id, id) == 0) return bends[i].bend;
    }
    return SPECIFIC;
}

// a before b: the one that bends less, then the better fit.
static bool comes_before(const CauseFit *a, const CauseFit *b) {
    const int x = bend_of(a->id), y = bend_of(b->id);
    return x != y ? x < y : a->ratio < b->ratio;
}

static void keep(Cause *out, const CauseFit *fit) {
    for (size_t i = 0; i < out->n_fits; i++) {
        if (strcmp(out->fits[i].id, fit->id) == 0) return;  // its first form is the simplest
    }
    size_t at = out->n_fits;
    while (at > 0 && comes_before(fit, &out->fits[at - 1])) at--;
    if (at == CAUSE_FITS) return;
    const size_t behind = out->n_fits < CAUSE_FITS ? out->n_fits - at : CAUSE_FITS - 1 - at;
    memmove(&out->fits[at + 1], &out->fits[at], behind * sizeof *out->fits);
    out->fits[at] = *fit;
    if (out->n_fits < CAUSE_FITS) out->n_fits++;
}

// --- judging ------------------------------------------------------------------------------------

typedef struct {
    double ratio, nmse;
} Judged;

// An engine that computes what is not finite shows it: where e is infinite or NaN the captured
// value must be so too. compare_cells does not look at such elements. Where nothing finite is left
// to look at in a row, e says nothing about it.
static bool same_finiteness(const Expected *e, const float *got) {
    for (size_t r = 0; r < e->rows; r++) {
        size_t finite = 0, looked = 0;
        for (size_t i = r * e->width; i < (r + 1) * e->width; i++) {
            if (isinf(e->bound[i])) continue;
            looked++;
            if (isfinite(e->y[i])) finite++;
            if (!isfinite(e->y[i]) && isfinite(got[i])) return false;
        }
        if (looked > 0 && finite * 4 < looked) return false;
    }
    return true;
}

static bool judge(Trial *t, const Expected *e, Judged *out) {
    const CauseCase *k = t->k;
    const Hparams *h = &k->site->model->h;
    const size_t group = component_group(h, k->c, component_width(h, k->c, k->site->n));
    const size_t n = e->rows * e->width, n_cells = e->rows * (e->width / group);
    CHECK(e->rows == k->want->rows && e->width == k->want->width);
    Cell *cells = malloc((n_cells + 1) * sizeof *cells);
    if (!cells) {
        t->status = error_memory(t->err, "cells", n_cells * sizeof *cells);
        return false;
    }
    compare_cells(e, k->got, k->c, group, k->site->rounding->out[k->c], cells);
    out->ratio = n_cells > 0 ? compare_worst(cells, n_cells).ratio : RATIO_MOST;
    free(cells);
    double squares = 0, errors = 0;
    for (size_t i = 0; i < n; i++) {
        const double error = k->got[i] - e->y[i];
        if (isinf(e->bound[i]) || !isfinite(error)) continue;
        squares += e->y[i] * e->y[i], errors += error * error;
    }
    out->nmse = errors == 0                                    ? 0
                : squares > 0 && errors / squares < RATIO_MOST ? errors / squares
                                                               : RATIO_MOST;
    return true;
}

double trial_ratio(const Trial *t, const Expected *e) {
    Trial own = *t;
    Judged j;
    if (!same_finiteness(e, t->k->got) || !judge(&own, e, &j)) return RATIO_MOST;
    return j.ratio;
}

// Would the right values fit too, if they were judged as loosely as e is? Then it is the looseness
// that fits, and e explains nothing.
static bool fits_anything(Trial *t, const Expected *e) {
    Expected right = *e;
    Judged j;
    right.y = t->k->want->y;
    return judge(t, &right, &j) && j.ratio <= 1;
}

typedef enum { OTHER_VALUES, OTHER_CONVENTION, COARSER } Kind;

static bool fits(Trial *t, const Expected *e, Kind kind, Judged *j) {
    return !t->status && same_finiteness(e, t->k->got) && judge(t, e, j) && j->ratio <= 1 &&
           (kind == COARSER || !fits_anything(t, e)) && !t->status;
}

// The same of what follows from e.
static bool fits_at_end(Trial *t, const Expected *e, Kind kind, Judged *j) {
    Expected end;
    if (!coarse_follow(t, e, &end)) return false;
    Trial own = {.k = t->path->k, .out = t->out, .err = t->err};
    const bool result = fits(&own, &end, kind, j);
    t->status = own.status;
    expected_free(&end);
    return result;
}

static bool offer(Trial *t, const char *id, Expected *e, Kind kind, const char *fmt, va_list ap) {
    Judged j;
    const bool result = t->path ? fits_at_end(t, e, kind, &j) : fits(t, e, kind, &j);
    expected_free(e);
    if (!result) return false;
    CauseFit fit = {
        .id = id, .nmse = j.nmse, .ratio = j.ratio, .harmless = kind == OTHER_CONVENTION};
    vsnprintf(fit.text, sizeof fit.text, fmt, ap);
    if (t->note) {
        const size_t len = strlen(fit.text);
        snprintf(fit.text + len, sizeof fit.text - len, " (%s)", t->note);
    }
    keep(t->out, &fit);
    return true;
}

bool trial_offer(Trial *t, const char *id, Expected *e, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const bool result = offer(t, id, e, OTHER_VALUES, fmt, ap);
    va_end(ap);
    return result;
}

bool trial_offer_harmless(Trial *t, const char *id, Expected *e, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const bool result = offer(t, id, e, OTHER_CONVENTION, fmt, ap);
    va_end(ap);
    return result;
}

bool trial_offer_coarser(Trial *t, const char *id, Expected *e, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const bool result = offer(t, id, e, COARSER, fmt, ap);
    va_end(ap);
    return result;
}

// --- what would tell them apart -----------------------------------------------------------------

static bool all_distinct(const Site *s) {
    for (size_t i = 1; i < s->n && i < 64; i++) {
        for (size_t j = 0; j < i; j++) {
            if (s->tokens[i] == s->tokens[j]) return false;
        }
    }
    return true;
}

static bool reads_positions(Component c) {
    return (c >= COMP_Q_ROPE && c <= COMP_ATTN) || c == COMP_Q || c == COMP_K;
}

// Names the least prompt that shows more than this one did.
static void set_apart(const CauseCase *k, char *out, size_t size) {
    const Site *s = k->site;
    size_t last = 0;
    for (size_t i = 0; i < k->n_rows; i++) last = k->row[i] > last ? k->row[i] : last;
    const char *text = "another prompt, of 1200 distinct tokens";
    if (s->n == 1) {
        text = "a prompt of more than one token";
    } else if (last == 0 && reads_positions(k->c)) {
        text = "the rows of positions beyond 0";
    } else if (k->n_rows == 1) {
        text = "the rows of more than one token";
    } else if (!all_distinct(s)) {
        text = "a prompt in which no token comes twice";
    } else if (s->n < 3 && reads_positions(k->c)) {
        text = "a prompt of more than two tokens";
    } else if (s->n < 1200) {
        text = "a prompt of 1200 distinct tokens";
    }
    snprintf(out, size, "%s", text);
}

static void conclude(const CauseCase *k, Cause *out) {
    size_t n = 0;  // they are sorted: the ones that bend least come first
    while (n < out->n_fits && bend_of(out->fits[n].id) == bend_of(out->fits[0].id)) n++;
    memset(&out->fits[n], 0, (CAUSE_FITS - n) * sizeof *out->fits);
    out->n_fits = n;
    out->certainty = n == 0 ? CAUSE_UNKNOWN : n == 1 ? CAUSE_CERTAIN : CAUSE_AMBIGUOUS;
    if (n > 1) set_apart(k, out->apart, sizeof out->apart);
}

// --- the search ---------------------------------------------------------------------------------

void cause_own(Trial *t) {
    switch (t->k->c) {
        case COMP_EMBD:
            cause_embed(t);
            cause_quants(t);
            break;
        case COMP_ATTN_NORM:
        case COMP_FFN_NORM:
        case COMP_NORM:
        case COMP_Q_NORM:
        case COMP_K_NORM: cause_norm(t); break;
        case COMP_Q:
        case COMP_K:
        case COMP_V:
        case COMP_ATTN_OUT:
        case COMP_FFN_GATE:
        case COMP_FFN_UP:
        case COMP_FFN_OUT:
        case COMP_LOGITS:
            cause_matmul(t);
            cause_quants(t);
            break;
        case COMP_Q_ROPE:
        case COMP_K_ROPE: cause_rope(t); break;
        case COMP_K_CACHE:
        case COMP_V_CACHE: cause_cache(t); break;
        case COMP_KQ:
        case COMP_KQ_SOFT_MAX:
        case COMP_ATTN: cause_attention(t); break;
        case COMP_FFN_INP:
        case COMP_FFN_ACT:
        case COMP_L_OUT: cause_pointwise(t); break;
        case COMP_PROBS:
        case COMP_TOKEN: cause_sampling(t); break;
        case N_COMPONENTS: break;
    }
}

static bool is_explained(const Cause *c) {
    return c->n_fits > 0 && bend_of(c->fits[0].id) == SPECIFIC;
}

// The same search under another rounding.
static void try_under(Trial *t, const Rounding *rounding, const char *note) {
    const CauseCase *k = t->k;
    const Hparams *h = &k->site->model->h;
    const size_t group = component_group(h, k->c, component_width(h, k->c, k->site->n));
    Site site = *k->site;
    CauseCase other = *k;
    Expected want;
    site.rounding = rounding, other.site = &site;
    t->status = expect(&site, k->c, k->row, k->n_rows, &want, t->err);
    if (t->status) return;
    Cell *cells = malloc((k->n_rows * k->groups + 1) * sizeof *cells);
    if (cells) {
        compare_cells(&want, k->got, k->c, group, rounding->out[k->c], cells);
        other.want = &want, other.cells = cells;
        Trial own = {.k = &other, .out = t->out, .err = t->err, .note = note};
        cause_own(&own);
        t->status = own.status;
    } else {
        t->status = error_memory(t->err, "cells", k->n_rows * k->groups * sizeof *cells);
    }
    free(cells);
    expected_free(&want);
}

// How a run rounds that does not say so is found from components that are right. Where too few are,
// what was found is an accident, and each known way is tried until something explains the case.
static void try_roundings(Trial *t) {
    const CauseCase *k = t->k;
    const Rounding *own = k->site->rounding;
    const Tensor *w = product_weight(k->site, k->c);
    uint32_t tried = w ? 1u << own->act.way[w->type] : 0;
    Rounding other = *own;
    char note[64];
    const ActScheme *act;
    for (int i = 0; w && !own->act_declared && (act = act_scheme_at(i)); i++) {
        const ActWay way = act->way[w->type];
        if (is_explained(t->out) || t->status) return;
        if (tried >> way & 1) continue;
        tried |= 1u << way;
        other.act = *act;
        snprintf(note, sizeof note, "input rounded: %s", act_way_name(way));
        try_under(t, &other, note);
    }
    const bool attends = component_is_scores(k->c) || k->c == COMP_ATTN || k->c == COMP_K_CACHE ||
                         k->c == COMP_V_CACHE;
    const AttnScheme *attn;
    for (int i = 0; attends && !own->attn_declared && (attn = attn_scheme_at(i)); i++) {
        if (is_explained(t->out) || t->status) return;
        if (attn->acc != PREC_F32 || strcmp(attn->name, own->attn.name) == 0) continue;
        other.attn = *attn;
        try_under(t, &other, attn->name);
    }
}

Status cause_find(const CauseCase *k, Cause *out, Error *err) {
    *out = (Cause){.certainty = CAUSE_NONE};
    Trial t = {.k = k, .out = out, .err = err};
    t.status = cause_pattern(k, out->pattern, err);
    if (!t.status) cause_own(&t);
    if (!t.status && !is_explained(out)) try_roundings(&t);
    if (!t.status && !is_explained(out)) cause_coarse(&t);
    if (!t.status && k->c != COMP_TOKEN) cause_common(&t);
    if (!t.status) conclude(k, out);
    return t.status;
}
