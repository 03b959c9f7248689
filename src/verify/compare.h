// Compares what was captured with what is expected, row by row and head by head.
//
// This room owns: the measures (element, NMSE, bias, exactness) and the ratio error / bound of
// each. It leaves to others: the bounds (bounds.h), what is expected (site.h).
#ifndef PLUMB_VERIFY_COMPARE_H
#define PLUMB_VERIFY_COMPARE_H

#include "verify/site.h"

typedef enum {
    BY_ELEMENT,  // |error| against its bound
    BY_NMSE,     // of a row or head
    BY_BIAS,     // mean error in standard errors
    BY_BITS,     // must be equal and is not
    BY_SUM,      // weights of a row do not sum to 1
    BY_NAN,      // not finite where it should be
    BY_SHAPE,    // an array's width is not the model's
} Measure;
const char *measure_name(Measure m);  // "element", "NMSE", "bias", "bits", "sum", "not finite"

// A ratio is never above this, so that reports hold numbers only.
#define RATIO_MOST 1e12

// One row and head (a cell), or the worst of many.
typedef struct {
    double ratio;  // error / bound: 1 is the limit
    Measure by;    // what gave it
    double error, bound;
    double nmse, nmse_bound;
    size_t element;  // column of the largest error / bound, within the row
} Cell;

// Judges `rows` rows of e against got (the same shape), in groups of `group` columns. cells: rows x
// (width / group).
void compare_cells(const Expected *e, const float *got, Component c, size_t group, Precision out,
                   Cell *cells);
// The worst of n.
Cell compare_worst(const Cell *cells, size_t n);

#endif
