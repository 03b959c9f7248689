// Where an input was not captured, the fault may lie in it: hypotheses of the components between
// the last one that was captured and the one that fails, each followed through to what was
// captured.
//
// This file owns: which components those are, and following. It leaves to others: the hypotheses
// themselves, and judging (cause.c).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_internal.h"

static bool is_captured(const Site *s, Component c, size_t row) {
    const TraceArray *a = s->at[c].seen;
    return a && row >= a->first_row;
}

// Models without norms of q and k have the projections in their place.
static Component stand_in(const Site *s, Component c) {
    if (c == COMP_Q_NORM && !(s->w && s->w->q_norm)) return COMP_Q;
    if (c == COMP_K_NORM && !(s->w && s->w->k_norm)) return COMP_K;
    return c;
}

// Attention needs all tokens, the rest those of the case only: what lies on either side of it is
// followed, not what goes through it.
static bool is_followed(Component c) {
    return c < COMP_KQ || (c >= COMP_ATTN_OUT && c <= COMP_LOGITS);
}

// Marks what changes where `from` does: the components from there to the case's that nobody
// captured.
static bool find_path(const CauseCase *k, Component from, CoarsePath *path) {
    const Site *s = k->site;
    *path = (CoarsePath){.k = k, .from = from};
    path->changes[from] = true;
    for (Component c = from + 1; c <= k->c; c++) {
        if (!is_followed(c) || stand_in(s, c) != c) continue;
        if (c != k->c && is_captured(s, c, k->row[0])) continue;
        for (const Component *in = component_inputs(c); *in != N_COMPONENTS; in++) {
            path->changes[c] |= path->changes[stand_in(s, *in)];
        }
    }
    return path->changes[k->c];
}

// Puts e, component c of the case's rows, where a site has its values. memory is to be freed.
static bool put_value(Site *s, Component c, const CauseCase *k, const Expected *e, void **memory) {
    const size_t width = e->width, n = s->n * width;
    double *x = calloc(2 * n + 1, sizeof *x);  // few rows of it are ever touched
    *memory = x;
    if (!x) return false;
    for (size_t i = 0; i < e->rows * width; i++) {
        const size_t at = k->row[i / width] * width + i % width;
        x[at] = e->y[i];
        x[n + at] = bound_spread(e->bound[i], e->sd[i]);
    }
    s->at[c] = (Value){.x = x, .sd = x + n, .width = width};
    if (c == COMP_Q && stand_in(s, COMP_Q_NORM) == c) s->at[COMP_Q_NORM] = s->at[c];
    if (c == COMP_K && stand_in(s, COMP_K_NORM) == c) s->at[COMP_K_NORM] = s->at[c];
    return true;
}

static Status follow_rows(const CoarsePath *path, const Expected *e, size_t n_rows, Expected *out,
                          Error *err) {
    const CauseCase *k = path->k;
    Site site = *k->site;
    void *memory[N_COMPONENTS] = {NULL};
    Expected some = *e, next;
    some.rows = n_rows;
    Status st = OK;
    if (!put_value(&site, path->from, k, &some, &memory[path->from])) {
        st = error_memory(err, component_name(path->from), site.n * e->width * sizeof(double));
    }
    for (Component c = path->from + 1; !st && c < k->c; c++) {
        if (!path->changes[c]) continue;
        st = expect(&site, c, k->row, n_rows, &next, err);
        if (st) break;
        if (!put_value(&site, c, k, &next, &memory[c])) {
            st = error_memory(err, component_name(c), site.n * next.width * sizeof(double));
        }
        expected_free(&next);
    }
    if (!st) st = expect(&site, k->c, k->row, n_rows, out, err);
    for (int c = 0; c < N_COMPONENTS; c++) free(memory[c]);
    return st;
}

// Is every finite element of the case's first row within its bound?
static bool holds_first(const CauseCase *k, const Expected *e) {
    for (size_t i = 0; i < e->width; i++) {
        if (isinf(e->bound[i]) || (!isfinite(e->y[i]) && !isfinite(k->got[i]))) continue;
        if (!(fabs(k->got[i] - e->y[i]) <= e->bound[i])) return false;
    }
    return true;
}

bool coarse_follow(Trial *t, const Expected *e, Expected *out) {
    const CoarsePath *path = t->path;
    if (t->status) return false;
    t->status = follow_rows(path, e, 1, out, t->err);
    if (t->status) return false;
    const bool holds = holds_first(path->k, out);
    expected_free(out);
    if (holds) t->status = follow_rows(path, e, path->k->n_rows, out, t->err);
    return holds && !t->status;
}

// The hypotheses of `from`, of which nothing was captured: they are given what it should hold.
static void try_from(Trial *t, const CoarsePath *path) {
    const CauseCase *k = t->k;
    const Site *s = k->site;
    const Hparams *h = &s->model->h;
    const Component c = path->from;
    Error ignored;
    Expected want;
    if (expect(s, c, k->row, k->n_rows, &want, &ignored)) return;  // its own inputs are not known
    const size_t n = want.rows * want.width;
    const size_t group = component_group(h, c, component_width(h, c, s->n));
    const size_t groups = want.width / group;
    Cell *cells = calloc(k->n_rows * groups + 1, sizeof *cells);
    float *got = malloc((n + 1) * sizeof *got);
    if (cells && got) {
        char name[COMPONENT_TEXT], note[COMPONENT_TEXT + 40];
        for (size_t i = 0; i < n; i++) got[i] = (float)want.y[i];
        const CauseCase own = {.site = s,
                               .c = c,
                               .row = k->row,
                               .n_rows = k->n_rows,
                               .got = got,
                               .want = &want,
                               .cells = cells,
                               .all = cells,
                               .all_rows = k->n_rows,
                               .all_row = k->row,
                               .groups = groups};
        snprintf(note, sizeof note, "in %s, not captured",
                 component_text((ComponentRef){c, s->layer}, name));
        Trial inner = {.k = &own, .out = t->out, .err = t->err, .note = note, .path = path};
        cause_own(&inner);
        t->status = inner.status;
    } else {
        t->status = error_memory(t->err, component_name(c), n * sizeof *got);
    }
    free(cells), free(got);
    expected_free(&want);
}

void cause_coarse(Trial *t) {
    const CauseCase *k = t->k;
    const Site *s = k->site;
    if (!is_followed(k->c) || k->n_rows == 0) return;
    for (Component c = k->c; c-- > COMP_ATTN_NORM && !t->status;) {  // the nearest first
        CoarsePath path;
        if (!is_followed(c) || stand_in(s, c) != c || is_captured(s, c, k->row[0])) continue;
        if ((s->layer < 0) != (c >= COMP_NORM) || !find_path(k, c, &path)) continue;
        try_from(t, &path);
    }
}
