// A session: a forward pass with the tokens that its cache holds, for one or many sequences.
//
// This room owns: what is in the cache, batching of a prefill, the limits of the context and of
// memory. It leaves to others: choosing tokens (sampler.h), text (generate.c).
#ifndef PLUMB_ENGINE_SESSION_H
#define PLUMB_ENGINE_SESSION_H

#include <signal.h>

#include "base/checked.h"
#include "engine/forward.h"

typedef struct Session Session;

typedef struct {
    int n_ctx;       // 0: the model's, or what half the free memory holds if that is less
    int n_seqs;      // >= 1
    int batch_size;  // 0: 512
    TensorType type_k, type_v;
} SessionConfig;

// ERR_USAGE for a KV type that does not fit the model, ERR_UNAVAILABLE when memory does not suffice
// (with what would).
Status session_new(DeviceModel *d, const SessionConfig *config, Notice notice, Session **out,
                   Error *err);
void session_free(Session *s);
int session_n_ctx(const Session *s);
int session_batch_size(const Session *s);
Forward *session_forward(Session *s);

// The tokens in the cache of a sequence.
const TokenList *session_tokens(const Session *s, int seq);
void session_rewind(Session *s, int seq, size_t n);  // keeps the first n, if there are more
// Keeps what the cache shares with the start of tokens, at most n; returns how many that are.
size_t session_keep(Session *s, int seq, const int32_t *tokens, size_t n);

typedef struct {
    size_t n_logits;  // of the last so many tokens the logits are wanted
    void (*on_logits)(void *user, size_t index,
                      const float *logits);                      // index of the token in this call
    void (*on_progress)(void *user, size_t done, size_t total);  // or NULL
    void *user;
    const volatile sig_atomic_t *interrupt;  // or NULL; checked between batches
} EvalOptions;

// Appends tokens to a sequence. ERR_FAILED when they do not fit the context (nothing is then
// evaluated). *done, unless NULL, gets how many were evaluated: fewer than n only when interrupted.
Status session_eval(Session *s, int seq, const int32_t *tokens, size_t n,
                    const EvalOptions *options, size_t *done, Error *err);
// One token, its logits copied to logits (n_vocab). No allocation.
Status session_step(Session *s, int seq, int32_t token, float *logits, Error *err);
// n tokens, 1 to the batch size, in one batch; the logits of all to logits (n x n_vocab). No
// allocation.
Status session_step_rows(Session *s, int seq, const int32_t *tokens, int n, float *logits,
                         Error *err);

#endif
