// Verifies a backend of ours while it runs: taps to replay, layer by layer.
//
// This room owns: feeding a session's taps to a Replay so that at most two layers are kept, and
// reading the cache back. It leaves to others: the paths (paths.h), judging (replay.h).
#ifndef PLUMB_VERIFY_LIVE_H
#define PLUMB_VERIFY_LIVE_H

#include "engine/session.h"
#include "verify/replay.h"

// What the backend declares: activations by type of weights, the cache's types.
void live_rounding(const DeviceModel *d, TensorType type_k, TensorType type_v, Rounding *out);

typedef struct {
    TensorType type_k, type_v;
    const size_t *chunks;  // sizes of the evaluations, one after the other; NULL: one of all tokens
    size_t n_chunks;
    bool scores;  // also kq and kq_soft_max (memory: heads x n x n)
    bool drift;   // also against a pass of the oracle's own (memory: every layer's rows)
    ReplayOptions replay;
} LiveOptions;

// Runs tokens on d in a session of its own and judges every component, what the cache gives back of
// each layer among them, and the greedy choice. A finding of STAGE_PATHS says whether the cache
// holds that to the end. With chunks, rows of all are gathered before a layer is judged. Memory:
// two layers' rows, keys and values of all layers. logits_last (n_vocab) may be NULL.
Status live_verify(DeviceModel *d, Oracle *o, const int32_t *tokens, size_t n,
                   const LiveOptions *options, Report *report, int prompt, float *logits_last,
                   Error *err);

#endif
