// RoPE frequencies (Su et al. 2021) with linear, Llama 3 and YaRN (Peng et al. 2023) scaling, as
// tables.
//
// This room owns: the angle of each (position, pair). Backends only multiply with the cosines and
// sines made here in double, so long positions lose nothing to float32.
#ifndef PLUMB_ENGINE_ROPE_H
#define PLUMB_ENGINE_ROPE_H

#include "model/model.h"

typedef struct {
    int n_pairs;
    double *frequency;  // n_pairs: radians a position
    double magnitude;   // both cosine and sine are multiplied with it; 1 but for YaRN
} Rope;

Status rope_new(const Model *m, Rope *out, Error *err);
void rope_free(Rope *r);
// cos and sin of position pos: n_pairs floats each.
void rope_row(const Rope *r, int32_t pos, float *cosine, float *sine);

#endif
