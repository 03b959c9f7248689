// Finds out what a trace does not say: how its engine rounds and how it pairs q and k.
//
// This room owns: trying the known ways on a sample of rows and taking the one under which most of
// the sample is within its bounds, one for the whole run. It leaves to others: the ways
// (rounding.h).
#ifndef PLUMB_VERIFY_DETECT_H
#define PLUMB_VERIFY_DETECT_H

#include "verify/site.h"

// Fills what *rounding does not have declared: act, attn, and out[] (from the arrays: a component's
// precision is the one that most of its arrays show). *text (200 bytes) says what fits:
// "activations q8_k (fits 14 of 14 sampled; 9 ways tried)".
Status detect_rounding(Oracle *o, const Model *m, const Trace *t, Rounding *rounding,
                       char text[200], Error *err);

// Are q and k of this trace, read as GGUF pairs them, in transformers' pairing? Looks at q and k of
// the first layers under both; false where neither fits, or the model's own pairing is halves.
Status detect_hf_pairing(Oracle *o, const Model *m, const Trace *t, bool *hf, Error *err);

#endif
