// Replay: each component from its own captured input, so that an error belongs to one component.
//
// The walk is one pass of the oracle that takes up what was captured as soon as it has judged it:
// where a component was captured, the next one is fed the captured values; where it was not, the
// expected ones with their uncertainty. So any subset of arrays can be judged, as coarsely as it
// must be.
// This room owns: the walk. It leaves to others: where arrays come from (trace.h, live.h).
#ifndef PLUMB_VERIFY_REPLAY_H
#define PLUMB_VERIFY_REPLAY_H

#include "verify/report.h"

typedef struct {
    size_t max_rows;    // judge at most so many tokens of a prompt (first, last and spread); 0: all
    size_t max_causes;  // look for causes of at most so many failing components of a prompt
    bool keep_ratios;   // fill ComponentResult.ratios
    const Trace *trace;  // the other prompts, for hypotheses, or NULL
    void (*progress)(void *user, const char *what, double done, double total);  // or NULL
    void *user;
} ReplayOptions;

typedef struct Replay Replay;

// oracle, rounding and options must outlive it. tokens are those of the whole prompt. results go to
// report, under this index of a prompt of it.
Status replay_new(Oracle *o, const Model *m, const Rounding *rounding, const int32_t *tokens,
                  size_t n, const ReplayOptions *options, Report *report, int prompt, Replay **out,
                  Error *err);
void replay_free(Replay *r);

// One stage after the other: layer -1 (embd), 0 .. n_layers - 1, n_layers (norm, logits). arrays:
// what was captured of it, any number in any order; they must stay until the next call returns.
Status replay_stage(Replay *r, int layer, const TraceArray *arrays, size_t n_arrays, Error *err);

// For a replay by stages: the prompt as a whole, whatever of it is there, for hypotheses to look
// around in, and its chosen token, which is judged with the last stage. p must stay.
void replay_whole(Replay *r, const TracePrompt *p);

// All stages of a prompt that is there as a whole, its probabilities and its chosen token.
Status replay_prompt(Oracle *o, const Model *m, const Rounding *rounding, const TracePrompt *p,
                     const ReplayOptions *options, Report *report, int prompt, Error *err);

// The NMSE of each captured array against a pass of the oracle's own, into ComponentResult.drift.
Status replay_drift(Oracle *o, const TracePrompt *p, Report *report, int prompt, Error *err);

// Makes pass what differs by a convention only: positions shifted alike in q and k, another pairing
// of both. To be called when all prompts are judged.
void replay_equivalents(Report *report);

#endif
