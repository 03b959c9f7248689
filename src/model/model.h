// A model: its hyperparameters and the tensors that each layer needs, bound and checked once.
//
// This room owns: which architectures exist, every hyperparameter's name, default and range, and
// the shape of every tensor. After model_bind no other room checks a shape or a divisor again. It
// leaves to others: computing (engine/, oracle/), the container (formats/gguf.h), tokens
// (tokenizer.h).
#ifndef PLUMB_MODEL_MODEL_H
#define PLUMB_MODEL_MODEL_H

#include "formats/gguf.h"

typedef enum { ARCH_LLAMA, ARCH_QWEN2, ARCH_QWEN3 } Arch;

// Which two elements of a head RoPE rotates together.
typedef enum {
    ROPE_NORM,  // (2i, 2i + 1): GGUF's llama, whose converter permutes q and k
    ROPE_NEOX,  // (i, i + n_rot / 2): qwen2, qwen3
} RopePairing;

typedef enum { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_YARN } RopeScaling;
// Llama 3's scaling comes as the tensor rope_freqs.weight (a divisor for each pair), not as a type.

enum {  // ranges; a file outside them is refused
    MODEL_MAX_LAYERS = 512,
    MODEL_MAX_DIM = 1 << 20,
    MODEL_MAX_HEAD_DIM = 1024,
    MODEL_MAX_HEADS = 1 << 16,  // times the longest batch (8192) it still fits an int
    MODEL_MAX_VOCAB = 1 << 24,
    MODEL_MAX_CONTEXT = 1 << 24,
};

typedef struct {
    Arch arch;
    int n_layers, dim, ffn_dim, n_vocab;
    int n_heads, n_kv_heads, head_dim;  // n_heads is a multiple of n_kv_heads
    int n_ctx_train;
    float rms_eps;
    int n_rot;  // rotated elements of a head, even, at most head_dim
    RopePairing rope_pairing;
    float rope_base;
    RopeScaling rope_scaling;
    float rope_factor;    // of linear and YaRN scaling, 1 without
    int rope_n_ctx_orig;  // YaRN: the context that the model was first trained for
    float yarn_beta_fast, yarn_beta_slow;
    float yarn_ext_factor;   // 1 when YaRN is on
    float yarn_attn_factor;  // multiplies YaRN's own 0.1 ln(factor) + 1
} Hparams;

// Tensors of one layer; a matrix has dims (inputs, outputs), rows of `inputs` weights contiguous.
typedef struct {
    const Tensor *attn_norm;  // dim
    const Tensor *q, *k, *v;  // dim -> heads * head_dim; dim -> kv_heads * head_dim (k, v)
    const Tensor *q_bias, *k_bias, *v_bias;                     // NULL where the file has none
    const Tensor *q_norm, *k_norm;                              // head_dim each; qwen3, else NULL
    const Tensor *attn_out;                                     // heads * head_dim -> dim
    const Tensor *attn_out_bias;                                // dim, or NULL
    const Tensor *ffn_norm;                                     // dim
    const Tensor *ffn_gate, *ffn_up;                            // dim -> ffn_dim
    const Tensor *ffn_down;                                     // ffn_dim -> dim
    const Tensor *ffn_gate_bias, *ffn_up_bias, *ffn_down_bias;  // or NULL
} LayerWeights;

typedef struct {
    Hparams h;
    const Tensor *token_embd;   // dim x n_vocab
    const Tensor *output_norm;  // dim
    const Tensor *output;       // dim -> n_vocab; token_embd itself where the file ties them
    bool tied;
    const Tensor *rope_freqs;  // n_rot / 2 divisors, or NULL
    LayerWeights *layers;      // n_layers
    const Gguf *gguf;          // not owned; NULL where the weights come from elsewhere
    uint64_t weight_bytes;     // of all bound tensors
    uint64_t decode_bytes;     // that a decode step reads: all less the embedding, unless tied
    uint64_t n_params;
} Model;

// Reads hyperparameters and binds tensors. g must outlive the model. ERR_FILE names the key or
// tensor. Notices: tensors that no layer uses, a vocabulary size that differs from the rows.
Status model_bind(const Gguf *g, Notice notice, Model **out, Error *err);
void model_free(Model *m);

// Only the hyperparameters, of a vocabulary-only file too; checks ranges, not tensors.
Status model_hparams(const Gguf *g, Hparams *out, Error *err);
const char *arch_name(Arch arch);

// Every weight finite? Slow (decodes all); ERR_FILE names the first tensor, row and what was found.
Status model_check_values(const Model *m, Error *err);

#endif
