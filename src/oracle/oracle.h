// The oracle: one Llama-family forward pass in float64, from the same bytes, as plain as the paper.
//
// This room owns: what is right. It is written apart from the engine and shares nothing with it but
// the file (formats/) and the names of its tensors (model/): two independent texts are the point.
// It includes neither backend/ nor engine/. Slow is fine; clever is not.
#ifndef PLUMB_ORACLE_ORACLE_H
#define PLUMB_ORACLE_ORACLE_H

#include "model/model.h"

typedef struct Oracle Oracle;

// model must outlive the oracle. n_threads splits rows of matrices; it never changes a bit of the
// result.
Status oracle_new(const Model *model, int n_threads, Oracle **out, Error *err);
void oracle_free(Oracle *o);

// Called with each component's output as it is computed: name as in tests/golden (embd,
// blk.L.{attn_norm, q, k, v, q_norm, k_norm, q_rope, k_rope, kq, kq_soft_max, attn, attn_out,
// ffn_inp, ffn_norm, ffn_gate, ffn_up, ffn_act, ffn_out, l_out}, norm, logits); rows x width
// doubles, row-major, valid during the call. kq (scores, scaled) and kq_soft_max have a row for
// each token and head (token-major), width n_tokens, masked entries 0.
typedef void (*OracleTap)(void *user, const char *name, const double *x, size_t rows, size_t width);

// The whole pass over one sequence from position 0. tap may be NULL. logits_last (n_vocab) gets the
// last token's logits, or NULL. ERR_USAGE for a token outside the vocabulary or n == 0.
Status oracle_forward(Oracle *o, const int32_t *tokens, size_t n, OracleTap tap, void *user,
                      double *logits_last, Error *err);

// Components on inputs of the caller's: the same functions that oracle_forward runs, for replay.
// x is rows x inputs, y is rows x outputs, row-major. y may be x in rmsnorm, rope and swiglu
// (gate).
void oracle_embed(const Oracle *o, const int32_t *tokens, size_t n, double *y);
void oracle_rmsnorm(const double *x, size_t rows, size_t width, const Tensor *weight, double eps,
                    double *y);
// y = x W^T + bias (bias may be NULL)
Status oracle_matmul(const Oracle *o, const Tensor *w, const Tensor *bias, const double *x,
                     size_t rows, double *y, Error *err);
// The same with rows of weights from anywhere, and with what bounds need beside the sum.
typedef void (*OracleRow)(void *user, size_t output, float *w);  // fills `inputs` weights
typedef struct {
    OracleRow row;  // called by several threads at once, each output once
    void *user;
    size_t inputs, outputs;
    const float *bias;   // outputs, or NULL
    const double *x;     // rows x inputs
    const double *x_sd;  // rows x inputs: standard deviations of x, or NULL
    size_t rows;
    double *y;         // rows x outputs: sum w x + bias
    double *abs;       // rows x outputs: sum |w x|, or NULL
    double *norm;      // outputs: the root of sum w^2, or NULL
    double *variance;  // rows x outputs: sum w^2 x_sd^2; NULL where x_sd is
} OracleMatmul;
// The OracleRow of a matrix: user is its Tensor.
void oracle_tensor_row(void *tensor, size_t output, float *w);
Status oracle_matmul_rows(const Oracle *o, const OracleMatmul *m, Error *err);
// Radians that each of the n_rot / 2 pairs turns a position; what rotated elements are multiplied
// by.
const double *oracle_frequencies(const Oracle *o, double *magnitude);
int oracle_threads(const Oracle *o);
// fn(arg, i, n) on each of the oracle's threads.
void oracle_parallel(const Oracle *o, void (*fn)(void *arg, int i, int n), void *arg);

// Rotates n_heads heads of head_dim in each of `rows` rows, row i at position pos[i].
void oracle_rope(const Oracle *o, const double *x, size_t rows, int n_heads, const int32_t *pos,
                 double *y);
// Attention of `rows` queries against n_keys keys and values (n_keys x kv_heads * head_dim): query
// i sees the keys at positions key_pos <= pos[i]. kq and soft (rows * n_heads x n_keys) may be
// NULL.
Status oracle_attention(const Oracle *o, const double *q, size_t rows, const int32_t *pos,
                        const double *k, const double *v, size_t n_keys, const int32_t *key_pos,
                        double *kq, double *soft, double *y, Error *err);
void oracle_swiglu(const double *gate, const double *up, size_t n, double *y);

#endif
