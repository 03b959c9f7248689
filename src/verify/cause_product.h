// A case that is about a matrix product: its parts, and trying other ones in their place.
//
// This room owns: trying cheaply (a few outputs of one failing row, then all), so that many
// hypotheses about one matrix cost little more than the one that fits. It leaves to others: the
// hypotheses (cause_matmul.c, cause_quants.c).
#ifndef PLUMB_VERIFY_CAUSE_PRODUCT_H
#define PLUMB_VERIFY_CAUSE_PRODUCT_H

#include "base/arena.h"
#include "verify/cause_internal.h"

enum { PRODUCT_SAMPLES = 64 };

typedef struct {
    Trial *t;
    const Tensor *w;
    const float *bias;  // outputs, or NULL
    Component in;       // what it reads of the site
    size_t inputs, outputs, rows;
    ActWay way;
    Precision out;
    const double *x, *x_sd;          // rows x inputs, before rounding; x_sd NULL: known
    size_t sample[PRODUCT_SAMPLES];  // outputs that are tried first, in the case's row 0; ascending
    size_t n_samples;
    Arena arena;
} Product;

// What a hypothesis multiplies instead; starts as product_as_is.
typedef struct {
    OracleRow row;  // weights of an output
    void *user;
    const float *bias;  // outputs, or NULL
    ActWay way;
    const double *x, *x_sd;  // rows x inputs; x_sd NULL: known
    // Outputs outside of from .. to - 1 are not known (their weights would lie outside of what can
    // be read) and are not looked at.
    size_t from, to;
} Variant;

// The matrix of a product; NULL: c is none.
const Tensor *product_weight(const Site *s, Component c);

// false: there is nothing to try, as its input is not known (or t->status is set). To be closed in
// either case.
bool product_open(Trial *t, Product *p);
void product_close(Product *p);
Variant product_as_is(const Product *p);

// Does v hold what was captured of the sample? false also when t->status is set.
bool product_sample(Product *p, const Variant *v);
// If so, computes it for all rows and outputs; true: *out is the caller's.
bool product_try(Product *p, const Variant *v, Expected *out);
// The n given outputs for the given rows of x; out has the shape rows x n.
Status product_expect(Product *p, const Variant *v, const size_t *output, size_t n, const double *x,
                      const double *x_sd, size_t rows, Expected *out);

// A copy of what is expected, to be changed and offered. false: t->status is set.
bool product_copy(Trial *t, Expected *out);
// n numbers that live until product_close; NULL: t->status is set.
double *product_doubles(Product *p, size_t n);
float *product_floats(Product *p, size_t n);

typedef struct {
    const Tensor *w, *bias;  // bias may be NULL
} Matrix;
// Every matrix of the model, the layer's own first, then its neighbours', then the rest; the
// embedding and the output matrix last. They live until product_close; NULL: t->status is set.
const Matrix *product_matrices(Product *p, size_t *n);

// Families of hypotheses, each in a file of its own.
void cause_outputs(Product *p);  // what became of the right result
void cause_sums(Product *p);     // sums that lack terms, or are kept in too few bits

#endif
