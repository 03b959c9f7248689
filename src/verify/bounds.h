// How far from the oracle a right engine may be: the one table of bounds, each with its reason.
//
// This room owns: the formulas of ../../docs/verify.md, as code. Nothing else in verify/ holds a
// tolerance. It leaves to others: what an engine's inputs are (replay.h), applying the bounds
// (compare.h).
//
// Two figures belong to every element that is expected:
//   bound  what |error| of a right engine never exceeds (probabilistic bounds of Higham & Mary 2019
//          and Ipsen & Zhou 2020 at confidence 8, capped by the deterministic n u)
//   sd     what a right engine's error is typically at most: one standard deviation. What has to be
//          recomputed because nobody captured it carries its sd along, so that a coarse trace is
//          judged as coarsely as it must be and no coarser.
#ifndef PLUMB_VERIFY_BOUNDS_H
#define PLUMB_VERIFY_BOUNDS_H

#include <stddef.h>

#include "verify/component.h"

// What a number was rounded to: as an engine's arithmetic, or as its arrays show.
typedef enum { PREC_F32, PREC_F16, PREC_BF16, N_PRECISIONS } Precision;
const char *precision_name(Precision p);  // "f32", "f16", "bf16"
double unit_roundoff(Precision p);        // 2^-24, 2^-11, 2^-8

typedef struct {
    double bound, sd;
} Slack;

// sum w x over n terms. abs: sum |w x|. acc: the accumulator, out: the result as stored.
Slack bound_matmul(size_t n, double abs, double y, Precision acc, Precision out);
// y = x r w over rows of n, r the reciprocal root of the mean square.
Slack bound_rmsnorm(size_t n, double y, Precision out);
// A rotated element of the pair with norm `pair`; angle = pos * theta of frequency number `i`.
Slack bound_rope(double pair, double angle, size_t i, Precision out);
// A softmax weight p of n visible keys whose score lies `below` the largest. sd_score: of the
// score.
Slack bound_softmax(size_t n, double p, double below, double sd_score, Precision out);
// silu(gate) * up
Slack bound_swiglu(double gate, double y, Precision out);
// a + b
Slack bound_add(double a, double b, Precision out);
// A copy in another precision (embedding rows, a cache of type out): half a unit in the last place.
Slack bound_copy(double y, Precision out);

// What the error that uncertain inputs cause may reach: so many standard deviations. The largest of
// a few thousand normal deviates is near 3.5; a right engine is to stay under 0.3 of its bound.
#define BOUND_CONFIDENCE 12.0
// What is recomputed because nobody captured it is handed on with this deviation: sd, or a fortieth
// of the bound where that is more, as in a sum whose partial sums are all large (a float32 product
// over 768 terms, one of them huge: 18 times sd as measured).
double bound_spread(double bound, double sd);
// NMSE of a row or head: at most NMSE_MARGIN times the larger of its path's floor and what the sds
// sum to: NMSE_MARGIN * max(floor, sum sd^2 / sum y^2).
#define NMSE_MARGIN 100.0
double nmse_floor(Precision out);  // 1e-12, 1e-7, 5e-6
// Mean error against its spread, in standard errors. Looked at in rows of at least BIAS_MIN_WIDTH,
// and only where the mean itself is above the floor: a right engine may be biased by a rounding.
#define BIAS_SIGMAS 6.0
enum { BIAS_MIN_WIDTH = 64 };

// A row of the table in docs/verify.md and the report.
typedef struct {
    const char *components;  // "q k v attn_out ffn_gate ffn_up ffn_out logits"
    const char *elementwise, *aggregate, *reason;
} BoundRow;
const BoundRow *bound_row_at(int i);  // NULL past the end
const BoundRow *bound_row_of(Component c);

#endif
