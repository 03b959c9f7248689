// The forward pass of a Llama-family model over backend.h: one batch in, logits of the rows asked
// for out.
//
// This room owns: the order of the operations, the buffers between them, the taps.
// It leaves to others: arithmetic (backend/), which tokens to run and what to do with logits
// (session.h).
#ifndef PLUMB_ENGINE_FORWARD_H
#define PLUMB_ENGINE_FORWARD_H

#include "backend/backend.h"
#include "engine/rope.h"
#include "model/model.h"

// The weights of a model on a backend; shared by all forward passes over them.
typedef struct {
    const Weight *attn_norm, *q, *k, *v, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm;
    const Weight *attn_out, *attn_out_bias, *ffn_norm, *ffn_gate, *ffn_up, *ffn_down;
    const Weight *ffn_gate_bias, *ffn_up_bias, *ffn_down_bias;
} DeviceLayer;

typedef struct {
    const Model *model;
    const BackendOps *ops;
    Backend *backend;  // owned
    Rope rope;
    Weight *token_embd, *output_norm, *output;
    DeviceLayer *layers;
} DeviceModel;

Status device_model_open(const Model *m, const BackendOps *ops, const BackendConfig *config,
                         DeviceModel **out, Error *err);
void device_model_close(DeviceModel *d);

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

// What forward_new will allocate, KV cache and activations, in bytes.
uint64_t forward_bytes(const DeviceModel *d, const ForwardConfig *config);
Status forward_new(DeviceModel *d, const ForwardConfig *config, Forward **out, Error *err);
void forward_free(Forward *f);
void forward_set_tap(Forward *f, Tap tap);  // fn NULL: none
Kv *forward_kv(Forward *f);

// Runs n <= max_batch tokens; token[i] of sequence seq[i] at pos[i] < n_ctx (see Batch). logits
// gets n_out rows of n_vocab: those of the tokens at the indices out_row[0..n_out). No allocation
// unless a tap is set. ERR_FILE when the model's file failed under us; ERR_UNAVAILABLE when the
// device did.
Status forward_run(Forward *f, int n, const int32_t *token, const int32_t *pos, const int32_t *seq,
                   int n_out, const int32_t *out_row, float *logits, Error *err);

#endif
