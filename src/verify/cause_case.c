// What the files of hypotheses share; see cause_case.h.
#include "verify/cause_case.h"

#include <string.h>

#include "base/checked.h"

static size_t per_token(const CauseCase *k) {
    return component_is_scores(k->c) ? (size_t)k->site->model->h.n_heads : 1;
}

size_t case_row_len(const CauseCase *k) {
    return k->want->width * per_token(k);
}

bool case_fails(const CauseCase *k, size_t r, size_t g) {
    return k->cells[r * k->groups + g].ratio > 1;
}

void *case_alloc(Trial *t, Arena *a, size_t n, size_t size) {
    if (t->status) return NULL;
    void *x = arena_alloc(a, n ? n : 1, size);
    if (!x) t->status = error_memory(t->err, "a hypothesis", n * size);
    return x;
}

double *case_doubles(Trial *t, Arena *a, size_t rows, size_t width) {
    uint64_t n;
    if (!checked_mul(rows, width, &n)) n = UINT64_MAX;  // no arena has that much
    return case_alloc(t, a, n, sizeof(double));
}

bool case_rows_at(Trial *t, Arena *a, const Value *v, const size_t *row, size_t n, CaseRows *out) {
    if (t->status || v->width == 0) return false;
    for (size_t i = 0; i < n; i++) {
        if (row[i] >= t->k->site->n || !value_known(v, row[i])) return false;
    }
    out->width = v->width;
    out->x = case_doubles(t, a, n, v->width);
    out->sd = case_doubles(t, a, n, v->width);
    if (!out->x || !out->sd) return false;
    value_rows(v, row, n, out->x, out->sd);
    return true;
}

bool case_rows(Trial *t, Arena *a, const Value *v, CaseRows *out) {
    return case_rows_at(t, a, v, t->k->row, t->k->n_rows, out);
}

bool case_new(Trial *t, size_t n_rows, Expected *out) {
    if (t->status) return false;
    t->status = expected_new(n_rows * per_token(t->k), t->k->want->width, out, t->err);
    return !t->status;
}

bool case_expect_at(Trial *t, const Site *s, Component c, const size_t *row, size_t n,
                    Expected *out) {
    if (t->status) return false;
    Error why = {0};
    const Status st = expect(s, c, row, n, out, &why);
    if (!st) return true;
    if (st != ERR_USAGE) {  // that is an input nobody knows
        t->status = st;
        if (t->err) *t->err = why;
    }
    return false;
}

bool case_expect(Trial *t, const Site *s, Component c, Expected *out) {
    return case_expect_at(t, s, c, t->k->row, t->k->n_rows, out);
}

bool case_value(Trial *t, Arena *a, const Site *s, Component c, const size_t *row, size_t n,
                Value *out) {
    const size_t width = component_width(&s->model->h, c, s->n);
    Expected e;
    if (!case_expect_at(t, s, c, row, n, &e)) return false;
    double *x = case_doubles(t, a, s->n, width), *sd = case_doubles(t, a, s->n, width);
    for (size_t i = 0; i < n && x && sd; i++) {
        memcpy(x + row[i] * width, e.y + i * width, width * sizeof *x);
        for (size_t j = 0; j < width; j++) {
            sd[row[i] * width + j] = bound_spread(e.bound[i * width + j], e.sd[i * width + j]);
        }
    }
    expected_free(&e);
    *out = (Value){.x = x, .sd = sd, .width = width};
    return x && sd;
}

double case_ratio(const Trial *t, size_t r, const Expected *e) {
    CauseCase some = *t->k;
    Expected want = *t->k->want;
    Trial trial = *t;
    const size_t at = r * case_row_len(t->k);
    want.rows = e->rows;
    want.y += at, want.bound += at, want.sd += at;
    some.row += r, some.n_rows = e->rows / per_token(t->k);
    some.got += at, some.cells += r * some.groups;
    some.want = &want;
    trial.k = &some;
    return trial_ratio(&trial, e);
}

static bool looks_at_row(const Trial *t, const Expected *e, size_t r) {
    const Expected *want = t->k->want;
    const size_t len = case_row_len(t->k);
    for (size_t i = r * len; i < (r + 1) * len; i++) {
        if (isfinite(e->bound[i]) && !(fabs(t->k->got[i] - want->y[i]) <= want->bound[i])) {
            return true;
        }
    }
    return false;
}

bool case_looks(const Trial *t, const Expected *e) {
    size_t failing = 0, looked = 0;
    for (size_t r = 0; r < t->k->n_rows; r++) {
        bool fails = false;
        for (size_t g = 0; g < t->k->groups; g++) fails |= case_fails(t->k, r, g);
        failing += fails;
        looked += fails && looks_at_row(t, e, r);
    }
    return looked > 0 && 2 * looked >= failing;
}
