// A site: one layer of one prompt as an engine captured it, with all that its components read.
//
// This room owns: joining what was captured with what had to be recomputed, and what a component
// should be, given what it read. It leaves to others: the bounds' formulas (bounds.h), the walk
// from layer to layer (replay.h), what else it might have computed (cause.h).
#ifndef PLUMB_VERIFY_SITE_H
#define PLUMB_VERIFY_SITE_H

#include "oracle/oracle.h"
#include "verify/rounding.h"

// What a component holds for all n tokens: rows that were captured, and expected ones for the rest.
// For scores a "row" is a token's n_heads rows of n keys, and `width` is n_heads * n.
typedef struct {
    const TraceArray *seen;  // tokens seen->first_row .. n - 1; NULL: none
    const double *x, *sd;  // n x width: expected; NULL where every row was captured, or not needed
    size_t width;
} Value;

typedef struct Site {
    Oracle *oracle;
    const Model *model;
    const Rounding *rounding;
    const int32_t *tokens, *pos;  // pos[i] = i
    size_t n;                     // tokens of the prompt
    int layer;                    // -1: what stands outside the layers (embd, norm, logits)
    const LayerWeights *w;        // NULL outside
    Value stream;            // n x dim: what enters the layer (embd, or l_out of the one before)
    Value at[N_COMPONENTS];  // this layer's components
    // For looking around when something is wrong; NULL where not kept.
    const struct Site *before;  // the layer before this one
    const TracePrompt *prompt;  // all arrays of this prompt
    const Trace *trace;         // and of the others
} Site;

// Copies rows row[0..n_rows) to x and their uncertainty to sd (n_rows x width each; sd may be
// NULL). Returns whether any sd is not 0.
bool value_rows(const Value *v, const size_t *row, size_t n_rows, double *x, double *sd);
bool value_known(const Value *v, size_t row);  // captured or expected

// What a component should be: y, how far a right engine may be from it, element by element (see
// bounds.h). bound INFINITY: not looked at (scores of masked keys); 0: to the bit.
typedef struct {
    double *y, *bound, *sd;  // rows x width each
    size_t rows, width;      // of scores: rows = tokens * n_heads, width = n
    void *memory;
} Expected;

Status expected_new(size_t rows, size_t width, Expected *out, Error *err);
void expected_free(Expected *e);

// Rows row[0..n_rows) (tokens) of component c, from the site's inputs of it. ERR_USAGE when an
// input is not known (value_known).
Status expect(const Site *s, Component c, const size_t *row, size_t n_rows, Expected *out,
              Error *err);

// Columns that are judged together: a head's, or a row's.
size_t component_group(const Hparams *h, Component c, size_t width);
size_t component_width(const Hparams *h, Component c, size_t n);  // as Value.width
// Where it stands: what component c of a layer reads, for messages ("attn_norm"); N_COMPONENTS
// ends.
const Component *component_inputs(Component c);

// --- pieces that hypotheses share (cause.h): each fills y, bound and sd of out -----------------

// y = x W^T + bias with rows of weights as `row` gives them; x is rounded as `way` says. x_sd NULL:
// known.
typedef struct {
    OracleRow row;
    void *user;
    size_t inputs, outputs;
    const Tensor *bias;
} Weights;
Weights weights_of(const Tensor *w, const Tensor *bias);
Status expect_matmul(const Site *s, const Weights *w, ActWay way, const double *x,
                     const double *x_sd, size_t rows, Precision out_prec, Expected *out,
                     Error *err);
// Adds to out, from expect_matmul with w's outputs o * stride, what act_sum_errors is about.
Status expect_sums(const Tensor *w, size_t stride, ActWay way, const double *x, const double *x_sd,
                   size_t rows, Expected *out, Error *err);

#endif
