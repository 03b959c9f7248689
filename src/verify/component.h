// The components of a forward pass: their names and their order.
//
// This room owns: names (Plumb's, which golden traces use, llama.cpp's, and those of modules in
// transformers) and the order in which a first wrong component is looked for.
// It leaves to others: computing (oracle/), files (trace.h).
#ifndef PLUMB_VERIFY_COMPONENT_H
#define PLUMB_VERIFY_COMPONENT_H

#include <stdbool.h>
#include <stddef.h>

typedef enum {  // in the order of the pass
    COMP_EMBD,
    COMP_ATTN_NORM,
    COMP_Q,  // with its bias, where there is one; k and v alike
    COMP_K,
    COMP_V,
    COMP_Q_NORM,  // qwen3
    COMP_K_NORM,
    COMP_Q_ROPE,
    COMP_K_ROPE,
    COMP_K_CACHE,  // what the cache gives back for each token, after the prompt
    COMP_V_CACHE,
    COMP_KQ,           // scaled scores, a row for each token and head (token-major), masked ones 0
    COMP_KQ_SOFT_MAX,  // the same shape
    COMP_ATTN,         // heads joined
    COMP_ATTN_OUT,
    COMP_FFN_INP,  // after the first residual
    COMP_FFN_NORM,
    COMP_FFN_GATE,
    COMP_FFN_UP,
    COMP_FFN_ACT,  // silu(gate) * up
    COMP_FFN_OUT,
    COMP_L_OUT,  // after the second residual
    COMP_NORM,
    COMP_LOGITS,
    COMP_PROBS,  // what the sampler draws the next token from: one row of n_vocab
    COMP_TOKEN,  // the token that was chosen; no array (TracePrompt.chosen)
    N_COMPONENTS
} Component;

enum { COMPONENT_MAX_LAYER = 65535, COMPONENT_TEXT = 32 };

typedef struct {
    Component c;
    int layer;  // -1 for embd, norm, logits, probs and token
} ComponentRef;

// "q", "ffn_up", ...: without layer or prompt.
const char *component_name(Component c);
bool component_by_name(const char *name, Component *out);
bool component_in_layer(Component c);
static inline bool component_is_scores(Component c) {
    return c == COMP_KQ || c == COMP_KQ_SOFT_MAX;
}
// "embd", "blk.3.ffn_up"; returns out.
const char *component_text(ComponentRef ref, char out[COMPONENT_TEXT]);
// Position in the pass, for sorting: embd first, then layer by layer, norm, logits.
long component_order(ComponentRef ref);

typedef enum { NAMES_PLUMB, NAMES_LLAMA_CPP, NAMES_TRANSFORMERS } NameStyle;

// A name as an engine's trace spells it.
typedef struct {
    ComponentRef ref;
    NameStyle style;
    // llama.cpp gives one name to several tensors of a layer (Qcur: the product, the sum with the
    // bias, and after RoPE). In a trace they are told apart as Qcur-3, Qcur-3#1, Qcur-3#2 in the
    // order of the pass: `nth` is that number, -1 for names that are used once. ref is the last's.
    int nth;
    bool weak;  // gives way where another array is the same component
} ComponentName;

// Reads "blk.3.ffn_up", "embd" (Plumb's), "Qcur-3", "result_output" (llama.cpp's evaluation
// callback), "model.layers.3.self_attn.q_proj" (a module of transformers, its output; with ".input"
// after it what goes in, where that is a component). False if text is none of these.
bool component_parse(const char *text, size_t len, ComponentName *out);

// Which component is occurrence nth of n under a name whose last one is `last`? (Qcur: the last is
// q_rope, the one before it q.) False: none, as a product that has yet to get its bias.
bool component_occurrence(Component last, int nth, int n, Component *out);

#endif
