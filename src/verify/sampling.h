// The last steps: the probabilities that a token is drawn from, and the choice.
//
// This room owns: the oracle of the sampler (float64, written apart from engine/sampler.c), what a
// trace says of its sampling, the rule of ties.
#ifndef PLUMB_VERIFY_SAMPLING_H
#define PLUMB_VERIFY_SAMPLING_H

#include "verify/compare.h"

// Probabilities (n_vocab doubles) after penalties over the last tokens, top-k, top-p, min-p and
// temperature, in llama.cpp's order; what is filtered out is 0. s.temp <= 0: 1 at the greedy
// choice. Where s is not `given`: the softmax itself. Logits that are no numbers count as
// impossible; where none is left, p is 0.
Status sampling_expect(const TraceSampling *s, const int32_t *tokens, size_t n_tokens,
                       const double *logits, size_t n_vocab, double *p, Error *err);

// The token that must be chosen greedily, ties to the lowest id; -1 where no logit is a number.
// *tie: another one is less, but within the bound `slack` of it (the likeliest such id in *other,
// else -1): then either is right. slack NULL: 0.
int32_t sampling_greedy(const double *logits, const double *slack, size_t n_vocab, bool *tie,
                        int32_t *other);

// Judges the token that a prompt's engine chose, from the logits that it had. slack: how far from
// the oracle each of them may be. Greedy (also where sampling is not given): the largest logit;
// among equal ones the lowest id; where the best and the chosen lie within their slack, either is
// right. Drawn: a token that no filter has left out by more than that. cell->element: the likeliest
// token. p: scratch of n_vocab.
Status sampling_judge(const TracePrompt *prompt, const double *logits, const double *slack,
                      size_t n_vocab, double *p, Cell *cell, Error *err);

#endif
