// The fault engine: a float32 engine with switchable faults that makes traces. Proof of teeth.
//
// This room (fault*.c, mutant*.c, tiny.c) owns: the list of faults (docs/verify.md), the engine
// that has them, the tiny models that show them. It is nobody's backend and shares no kernel with
// one; nor with the oracle, nor with the hypotheses that explain its faults.
#ifndef PLUMB_VERIFY_FAULT_H
#define PLUMB_VERIFY_FAULT_H

#include "model/model.h"
#include "model/tokenizer.h"
#include "verify/rounding.h"

// --- the list ---------------------------------------------------------------------------------

typedef enum {
    MODEL_TINY,
    MODEL_TINY_QUANT,
    MODEL_TINY_LLAMA3,
    MODEL_TINY_QWEN3,
    MODEL_TINY_TEXT,
    MODEL_TINY_HOT,
    N_TINY_MODELS
} TinyKind;

enum { FAULT_ANY_LAYER = -2 };

typedef struct {
    const char *id;      // "P1.q"
    const char *family;  // "Projections"
    const char *what;    // "q read transposed"
    int code, argument;  // for the engine: a FaultCode of its own, and which of its forms
    bool equivalent;     // must not raise an alarm
    uint32_t models;     // bit k: is run on TinyKind k
    // Right answers to "which component" (layer FAULT_ANY_LAYER: in whichever it shows first), or,
    // for faults of the prompt, the id of the finding.
    ComponentRef expect[3];
    int n_expect;
    const char *expect_finding;
    const char *causes[4];  // right answers to "why": ids of hypotheses (cause.h); NULL ends
} Fault;
const Fault *fault_at(int i);  // NULL past the end
const Fault *fault_by_id(const char *id);

// --- tiny models ------------------------------------------------------------------------------

// Two layers each, random weights, odd non-square shapes:
//   TINY         F32, dim 96, 3 q heads on 1 kv head of 32, ffn 160, vocabulary 99, untied
//   TINY_QUANT   of type Q4_K, Q6_K, Q8_0, F16, ...: dim 256, 8 q heads on 2 kv heads of 32,
//                ffn 512, vocabulary 131; subnormal f16 scales in token_embd and blk.0.ffn_up
//   TINY_LLAMA3  as TINY with 6 heads of 16 on 2, rope_freqs, tied output
//   TINY_QWEN3   halves pairing, norms of the heads of q and k, head_dim 24
//   TINY_TEXT    as TINY with as many rows as a real tokenizer has tokens (faults of the prompt)
//   TINY_HOT     as TINY with scores past 100, where exp overflows unless the maximum is subtracted
// Scores have a spread of about 2, norm weights of 0.5 to 1.5, so that nothing hides in smallness.
// Some tokens' embeddings are nearly 0 (epsilon shows), some elements of the residual are past 10
// (a clip shows), the loudest rows of an untied head are there twice (ties). Whoever reads a block
// of weights at a wrong address finds finite numbers. type: of TINY_QUANT's matrices, else F32.
// n_vocab 0: the kind's own. ERR_USAGE for a type that cannot be made.
typedef struct {
    Model *model;  // model->gguf is NULL
    void *memory;
} TinyModel;
Status tiny_new(TinyKind kind, TensorType type, int n_vocab, uint64_t seed, TinyModel *out,
                Error *err);
void tiny_free(TinyModel *t);

// --- the engine -------------------------------------------------------------------------------

enum { MUTANT_FAULTS = 16 };

typedef struct {
    const Fault *faults[MUTANT_FAULTS];  // at once; NULL ends (none: a clean engine)
    ActScheme act;                       // how it rounds the inputs of matrix products
    AttnScheme attn;
    Precision out;         // every array is rounded to it
    bool scores, cache;    // also kq, kq_soft_max; k_cache, v_cache
    const size_t *chunks;  // NULL: prefill in one
    size_t n_chunks;
    uint64_t seed;  // of what is random in a fault (a race), and of the draw
    // How the next token is chosen. Where that is not given: greedily, and by faults of sampling
    // with what makes them visible.
    TraceSampling sampling;
    // The sequence that the cache also holds (K4 reads it); NULL: this one backwards.
    const int32_t *other;
    size_t n_other;
} MutantOptions;

// Runs the tokens and fills *out (free with mutant_free): every component, all rows, the chosen
// token, and for faults of sampling the probabilities and TraceSampling.
Status mutant_run(const Model *m, const int32_t *tokens, size_t n, const MutantOptions *options,
                  TracePrompt *out, Error *err);
void mutant_free(TracePrompt *p);

// The ids that a tokenizer with these faults (T1 .. T7; others are ignored) makes of a text in
// which special tokens are parsed. Without any: what ours makes.
Status mutant_tokens(const Gguf *g, const Tokenizer *tok, const char *text,
                     const Fault *const *faults, TokenList *out, Error *err);

#endif
