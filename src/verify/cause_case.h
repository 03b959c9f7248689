// Inner header of the files of hypotheses: reading the case's rows, expecting, looking at one row.
#ifndef PLUMB_VERIFY_CAUSE_CASE_H
#define PLUMB_VERIFY_CAUSE_CASE_H

#include <math.h>

#include "base/arena.h"
#include "verify/cause_internal.h"

// Rows of an input, n x width; sd is all 0 where they were captured.
typedef struct {
    double *x, *sd;
    size_t width;
} CaseRows;

// n zeroed items that live as long as the arena; NULL with t->status set when there is no memory.
void *case_alloc(Trial *t, Arena *a, size_t n, size_t size);
double *case_doubles(Trial *t, Arena *a, size_t rows, size_t width);
// The case's rows of v; false when one of them is not known (or t->status is set).
bool case_rows(Trial *t, Arena *a, const Value *v, CaseRows *out);
bool case_rows_at(Trial *t, Arena *a, const Value *v, const size_t *row, size_t n, CaseRows *out);

// All zero, of the case's shape, or of that of its first n_rows.
bool case_new(Trial *t, size_t n_rows, Expected *out);
// expect() for the case's rows, or for others; false when an input is not known.
bool case_expect(Trial *t, const Site *s, Component c, Expected *out);
bool case_expect_at(Trial *t, const Site *s, Component c, const size_t *row, size_t n,
                    Expected *out);
// Component c of site s recomputed for these tokens, as an input of another component.
bool case_value(Trial *t, Arena *a, const Site *s, Component c, const size_t *row, size_t n,
                Value *out);

// The ratio that e, which holds rows r, r + 1, ... of the case and no others, would have.
double case_ratio(const Trial *t, size_t r, const Expected *e);
// Does e look (with a finite bound) at what is wrong, in half of the failing rows at least? A
// hypothesis that leaves elements open is no explanation where those are the wrong ones.
bool case_looks(const Trial *t, const Expected *e);
size_t case_row_len(const CauseCase *k);  // floats of a token in k->got
// Cells of the case's rows that fail, of `groups` in a row: is the one of row r and group g one?
bool case_fails(const CauseCase *k, size_t r, size_t g);

static inline void case_put(Expected *e, size_t i, Slack s, double propagated) {
    e->bound[i] = s.bound + BOUND_CONFIDENCE * propagated;
    e->sd[i] = hypot(s.sd, propagated);
}

#endif
