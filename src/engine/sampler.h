// Samplers: from logits to the next token, the same on every machine for the same seed.
//
// The order is llama.cpp's: logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw.
// This room owns: that order, the random numbers, log-probabilities. It leaves to others: logits,
// text. Typical sampling: Meister et al. 2022; top-p: Holtzman et al. 2019; min-p: Nguyen et al.
// 2024.
#ifndef PLUMB_ENGINE_SAMPLER_H
#define PLUMB_ENGINE_SAMPLER_H

#include "base/status.h"
#include "plumb.h"

typedef struct Sampler Sampler;

// Checks the ranges of p (ERR_USAGE names the option). n_ctx is what repeat_last_n -1 means.
Status sampler_new(const plumb_sampling *p, int n_vocab, int n_ctx, Sampler **out, Error *err);
void sampler_free(Sampler *s);
// New parameters and random state for the next answer; forgets the tokens it has seen.
Status sampler_reset(Sampler *s, const plumb_sampling *p, Error *err);
int64_t sampler_seed(const Sampler *s);  // in use; never -1

void sampler_accept(Sampler *s, int32_t token);  // a token of the prompt or one that was chosen
// The next token. ERR_FAILED when no logit is a number, the best one is infinite, or all tokens are
// forbidden. logits (n_vocab) are not changed.
Status sampler_next(Sampler *s, const float *logits, int32_t *token, Error *err);
// The probabilities (n_vocab) that sampler_next would draw from; at temperature 0 all is the
// greedy choice's. Draws nothing. Errors as above.
Status sampler_probs(Sampler *s, const float *logits, float *p, Error *err);

// log softmax of logits at id, and the n likeliest ids with theirs, likeliest first (n <= n_vocab).
float sampler_logprob(const float *logits, int n_vocab, int32_t id);
void sampler_top(Sampler *s, const float *logits, int n, plumb_logprob *top);

#endif
