// The paths stage: the same tokens by other ways through a backend give the same logits.
//
// This room owns: prefill = token by token = chunks (1, 2, 8, 9, 31, 32, 33 | rest), many sequences
// at once = each alone, taps on = off, twice = bit-equal, every KV type, every ISA, the sampler.
// It leaves to others: whether the logits are right (replay.h).
#ifndef PLUMB_VERIFY_PATHS_H
#define PLUMB_VERIFY_PATHS_H

#include "model/tokenizer.h"
#include "verify/live.h"

typedef struct {
    const int32_t *tokens;  // a prompt of at least a few dozen tokens
    size_t n;
    bool quick;                 // only: twice, taps, token by token, one uneven chunk
    TensorType type_k, type_v;  // of the cache
    int n_threads;
    const char *isa;             // that d runs; NULL: its best
    const Tokenizer *tokenizer;  // or NULL
    void (*progress)(void *user, const char *what, double done, double total);  // or NULL
    void *user;
} PathsOptions;

// Appends findings of STAGE_PATHS. oracle judges the runs under other KV types and ISAs.
Status paths_check(const Model *m, DeviceModel *d, Oracle *o, const PathsOptions *options,
                   Report *r, Error *err);

#endif
