// The forward pass of a Llama-family model over backend.h: one batch in, logits of the rows asked
// for out.
//
// This room owns: the order of the operations, the buffers between them, the way from one part of a
// split model to the next, recordings, the taps. It leaves to others: arithmetic (backend/), where
// layers are (device_model.h), which tokens to run and what to do with logits (session.h).
#ifndef PLUMB_ENGINE_FORWARD_H
#define PLUMB_ENGINE_FORWARD_H

#include "engine/device_model.h"

// A tap receives each component's output as float32, rows x width, valid during the call. Names as
// in docs (embd, attn_norm, q, ...); layer is -1 outside the layers. kq and kq_soft_max have rows *
// n_heads rows, a column a key: memory that grows with the square of the prompt, so they come only
// where they are asked for.
typedef struct {
    void (*fn)(void *user, const char *name, int layer, const float *x, size_t rows, size_t width);
    void *user;
    bool scores;
} Tap;

typedef struct Forward Forward;

typedef struct {
    int n_ctx, n_seqs, max_batch;
    TensorType type_k, type_v;
} ForwardConfig;

// What forward_new will take of a part's memory, KV cache and activations, in bytes. The part need
// not be open.
uint64_t forward_bytes(const Model *m, const DevicePart *part, const ForwardConfig *config);
Status forward_new(DeviceModel *d, const ForwardConfig *config, Forward **out, Error *err);
void forward_free(Forward *f);
void forward_set_tap(Forward *f, Tap tap);  // fn NULL: none

// What the cache holds at (layer, seq, pos) as float32: n_kv_heads * head_dim each. ERR_USAGE
// outside the cache.
Status forward_kv_read(Forward *f, int layer, int seq, int pos, float *k, float *v, Error *err);
// Copies the first n_pos positions of one sequence to another.
void forward_kv_copy(Forward *f, int from_seq, int to_seq, int n_pos);

// Runs n <= max_batch tokens; token[i] of sequence seq[i] at pos[i] < n_ctx (see Batch). logits
// gets n_out rows of n_vocab: those of the tokens at the indices out_row[0..n_out). No allocation
// unless a tap is set. ERR_FILE when the model's file failed under us; ERR_UNAVAILABLE when the
// device did.
Status forward_run(Forward *f, int n, const int32_t *token, const int32_t *pos, const int32_t *seq,
                   int n_out, const int32_t *out_row, float *logits, Error *err);

#endif
