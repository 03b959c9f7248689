// Inner header of detect.c and detect_coarse.c.
#ifndef PLUMB_VERIFY_DETECT_INTERNAL_H
#define PLUMB_VERIFY_DETECT_INTERNAL_H

#include "verify/detect.h"

// Below this share of its bounds the right way of rounding stays.
#define GOOD_FIT 0.35

// Fills act (where asked for), attn (likewise) of *r where nothing was captured together with its
// input; *text is left as it is where there is nothing to look at.
Status detect_coarse(Oracle *o, const Model *m, const Trace *t, bool act, bool attn, Rounding *r,
                     char text[200], Error *err);

// Of n ways of attention (indices of attn_scheme_at) that a sample cannot tell apart, the one under
// which the fewest components of a whole prompt fail. The first where that would cost too much.
Status detect_settle(Oracle *o, const Model *m, const Trace *t, const Rounding *r, const int *tied,
                     size_t n, int *best, Error *err);

#endif
