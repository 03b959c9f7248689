// The list of faults: those of ../../docs/verify.md, with what verify should say to each.
//
// This file owns: ids, where a fault shows first, the hypotheses that explain it, the tiny models
// that can show it. It leaves to others: doing it (mutant*.c).
#include "verify/fault.h"

#include <string.h>

#include "verify/mutant_internal.h"

enum {  // sets of tiny models
    T = 1 << MODEL_TINY,
    Q = 1 << MODEL_TINY_QUANT,
    L = 1 << MODEL_TINY_LLAMA3,
    W = 1 << MODEL_TINY_QWEN3,
    X = 1 << MODEL_TINY_TEXT,
    H = 1 << MODEL_TINY_HOT,
    ALL = T | Q | L | W,
};

// Where a fault shows first; several where that depends on which arrays were captured.
#define IN(c) \
    { COMP_##c, 0 }
#define LATER(c) \
    { COMP_##c, 1 }
#define ANY(c) \
    { COMP_##c, FAULT_ANY_LAYER }
#define OUT(c) \
    { COMP_##c, -1 }
#define KEYS IN(K_CACHE), IN(KQ), IN(ATTN)
#define SCORES IN(KQ), IN(ATTN)
#define WEIGHTS IN(KQ_SOFT_MAX), IN(ATTN)
#define COUNT(...) (int)(sizeof((ComponentRef[]){__VA_ARGS__}) / sizeof(ComponentRef))

// id, code, form, models, cause, what, places
#define FAULT(id, code, form, models, why, what, ...)                                           \
    {                                                                                           \
        id, FAMILY, what, FAULT_##code, form, false, models, {__VA_ARGS__}, COUNT(__VA_ARGS__), \
            NULL, {                                                                             \
            why                                                                                 \
        }                                                                                       \
    }
// The prompt's: verify answers with a finding.
#define PROMPT(id, form, finding, what)                                           \
    {                                                                             \
        id, "Prompt", what, FAULT_PROMPT, form, false, X, {{0, 0}}, 0, finding, { \
            NULL                                                                  \
        }                                                                         \
    }
// Must not raise an alarm; causes: the conventions that may be named.
#define HARMLESS(id, code, form, models, what, ...)                                    \
    {                                                                                  \
        id, "Equivalent", what, FAULT_##code, form, true, models, {{0, 0}}, 0, NULL, { \
            __VA_ARGS__                                                                \
        }                                                                              \
    }

static const Fault faults[] = {
    PROMPT("T1", 1, "bos-missing", "BOS dropped"),
    PROMPT("T2", 2, "bos-double", "BOS twice"),
    PROMPT("T3", 3, "eos-at-end", "EOS appended"),
    PROMPT("T4", 4, "specials-as-text", "special tokens as text"),
    PROMPT("T5", 5, "newline-as-space", "newline as a space"),
    PROMPT("T6", 6, "space-prefix-missing", "no space before the text"),
    PROMPT("T7", 7, "merges-by-rank", "merges by rank instead of score"),
#undef FAMILY
#define FAMILY "Embedding"
    FAULT("E1", EMBD_COLUMNS, 0, ALL, "embedding-column-major", "the table read column by column",
          OUT(EMBD)),
    FAULT("E2", EMBD_NEXT, 0, ALL, "embedding-row-shift", "the row after the token's", OUT(EMBD)),
    FAULT("E3", EMBD_STRIDE, 0, ALL, "embedding-stride", "rows as far apart as another type's",
          OUT(EMBD)),

#undef FAMILY
#define FAMILY "Quants"
    // Decoders of matrix products, and of the embedding.
    FAULT("Q1", Q4K_SCALE_BITS, READ_MATRICES, Q, "q4k-scale-bits",
          "Q4_K: high bits of scales dropped", IN(Q)),
    FAULT("Q1.embd", Q4K_SCALE_BITS, READ_EMBEDDING, Q, "q4k-scale-bits",
          "Q4_K: high bits of scales dropped (embedding)", OUT(EMBD)),
    FAULT("Q2", NIBBLES_SWAPPED, READ_MATRICES, Q, "nibbles-swapped", "Q4_K: nibbles swapped",
          IN(Q)),
    FAULT("Q2.embd", NIBBLES_SWAPPED, READ_EMBEDDING, Q, "nibbles-swapped",
          "Q4_K: nibbles swapped (embedding)", OUT(EMBD)),
    FAULT("Q3", NIBBLES_INTERLEAVED, READ_MATRICES, Q, "interleaved", "Q4_K: nibbles interleaved",
          IN(Q)),
    FAULT("Q3.embd", NIBBLES_INTERLEAVED, READ_EMBEDDING, Q, "interleaved",
          "Q4_K: nibbles interleaved (embedding)", OUT(EMBD)),
    FAULT("Q4", MIN_SIGN, READ_MATRICES, Q, "min-sign", "Q4_K: the minimum's sign", IN(Q)),
    FAULT("Q4.embd", MIN_SIGN, READ_EMBEDDING, Q, "min-sign",
          "Q4_K: the minimum's sign (embedding)", OUT(EMBD)),
    FAULT("Q5", MIN_DROPPED, READ_MATRICES, Q, "min-dropped", "Q4_K: the minimum dropped", IN(Q)),
    FAULT("Q5.embd", MIN_DROPPED, READ_EMBEDDING, Q, "min-dropped",
          "Q4_K: the minimum dropped (embedding)", OUT(EMBD)),
    FAULT("Q6", Q6K_SEQUENTIAL, READ_MATRICES, Q, "q6k-sequential",
          "Q6_K: codes in sequential order", IN(Q)),
    FAULT("Q6.embd", Q6K_SEQUENTIAL, READ_EMBEDDING, Q, "q6k-sequential",
          "Q6_K: codes in sequential order (embedding)", OUT(EMBD)),
    FAULT("Q7", INT8_UNSIGNED, READ_MATRICES, Q, "int8-unsigned", "Q8_0: codes as unsigned bytes",
          IN(Q)),
    FAULT("Q7.embd", INT8_UNSIGNED, READ_EMBEDDING, Q, "int8-unsigned",
          "Q8_0: codes as unsigned bytes (embedding)", OUT(EMBD)),
    FAULT("Q7.scales", SCALES_UNSIGNED, READ_MATRICES, Q, "int8-unsigned",
          "Q6_K: scales as unsigned bytes", IN(Q)),
    FAULT("Q8", SUBNORMAL_FLUSHED, READ_MATRICES, Q, "subnormal-flushed",
          "subnormal f16 scales flushed", IN(FFN_UP)),
    FAULT("Q8.embd", SUBNORMAL_FLUSHED, READ_EMBEDDING, Q, "subnormal-flushed",
          "subnormal f16 scales flushed (embedding)", OUT(EMBD)),
    FAULT("Q9", UNALIGNED, 0, Q, "alignment-ignored", "padding between tensors ignored", IN(Q)),

#undef FAMILY
#define FAMILY "Norm"
    FAULT("N1", NORM_NO_WEIGHT, 0, ALL, "weight-skipped", "weights skipped", IN(ATTN_NORM)),
    FAULT("N1.ffn", NORM_NO_WEIGHT, COMP_FFN_NORM, ALL, "weight-skipped",
          "weights of ffn_norm skipped", IN(FFN_NORM)),
    FAULT("N1.final", NORM_NO_WEIGHT, COMP_NORM, ALL, "weight-skipped",
          "weights of the final norm skipped", OUT(NORM)),
    FAULT("N1.q", NORM_NO_WEIGHT, COMP_Q_NORM, W, "weight-skipped", "weights of q_norm skipped",
          IN(Q_NORM)),
    FAULT("N2", NORM_EPS, 0, ALL, "eps", "another epsilon", IN(ATTN_NORM)),
    FAULT("N3", NORM_EPS_OUTSIDE, 0, ALL, "eps-outside-root", "epsilon outside the root",
          IN(ATTN_NORM)),
    FAULT("N4", NORM_MEAN, 0, ALL, "mean-subtracted", "mean subtracted", IN(ATTN_NORM)),
    FAULT("N5", NORM_SUM, 0, ALL, "sum-not-mean", "sum of squares not divided", IN(ATTN_NORM)),
    FAULT("N6", NORM_EXCHANGED, 0, ALL, "other-norm-weight", "the layer's two norms exchanged",
          IN(ATTN_NORM)),

#undef FAMILY
#define FAMILY "Projections"
    FAULT("P1.q", TRANSPOSED, COMP_Q, ALL, "transposed", "q read transposed", IN(Q)),
    FAULT("P1.k", TRANSPOSED, COMP_K, ALL, "transposed", "k read transposed", IN(K)),
    FAULT("P1.v", TRANSPOSED, COMP_V, ALL, "transposed", "v read transposed", IN(V)),
    FAULT("P1.attn_out", TRANSPOSED, COMP_ATTN_OUT, ALL, "transposed", "attn_out read transposed",
          IN(ATTN_OUT)),
    FAULT("P1.ffn_gate", TRANSPOSED, COMP_FFN_GATE, ALL, "transposed", "ffn_gate read transposed",
          IN(FFN_GATE)),
    FAULT("P1.ffn_up", TRANSPOSED, COMP_FFN_UP, ALL, "transposed", "ffn_up read transposed",
          IN(FFN_UP)),
    FAULT("P1.ffn_out", TRANSPOSED, COMP_FFN_OUT, ALL, "transposed", "ffn_out read transposed",
          IN(FFN_OUT)),
    FAULT("P2", KV_EXCHANGED, 0, ALL, "other-weights", "k and v exchanged", IN(K)),
    FAULT("P3", TAIL_ZERO, 0, ALL, "tail-rows-zero", "the last tile's rows stay zero", IN(Q)),
    FAULT("P4", RACE, 0, ALL, "race", "a missing barrier", IN(Q)),
    FAULT("P5", SUM, PREC_F16, ALL, "f16-accumulation", "sums in float16", IN(Q)),
    FAULT("P5.bf16", SUM, PREC_BF16, ALL, "bf16-accumulation", "sums in bfloat16", IN(Q)),
    FAULT("P6.q", LAYER_BEFORE, COMP_Q, ALL, "other-weights", "q of the layer before", LATER(Q)),
    FAULT("P6.ffn_out", LAYER_BEFORE, COMP_FFN_OUT, ALL, "other-weights",
          "ffn_down of the layer before", LATER(FFN_OUT)),

#undef FAMILY
#define FAMILY "RoPE"
    FAULT("R1", ROPE_PAIRING, 0, ALL, "rope-pairing", "the other pairing", IN(Q_ROPE)),
    FAULT("R2", ROPE_BASE, 0, ALL, "rope-base", "another base", IN(Q_ROPE)),
    FAULT("R3.q", ROPE_POSITION, COMP_Q_ROPE, ALL, "rope-position", "position + 1 in q",
          IN(Q_ROPE)),
    FAULT("R3.k", ROPE_POSITION, COMP_K_ROPE, ALL, "rope-position", "position + 1 in k",
          IN(K_ROPE)),
    FAULT("R4", ROPE_SIGN, 0, ALL, "rope-sign", "the angle's sign", IN(Q_ROPE)),
    FAULT("R5", ROPE_RESET, 0, ALL, "rope-position-reset", "positions from 0 in every chunk",
          IN(Q_ROPE)),
    FAULT("R6", ROPE_FACTORS, 0, L, "rope-factors-dropped", "llama3's factors dropped", IN(Q_ROPE)),
    FAULT("R7", ROPE_VALUES, 0, ALL, "value-rotated", "v rotated too", IN(V_CACHE), IN(ATTN)),
    FAULT("R8", ROPE_NO_KEYS, 0, ALL, "rope-not-applied", "k not rotated", IN(K_ROPE)),

#undef FAMILY
#define FAMILY "KV"
    FAULT("K1", CACHE_SLOT, 0, ALL, "cache-slot", "written one slot further", KEYS),
    FAULT("K2", CACHE_FIRST, 0, ALL, "cache-slot-overwritten",
          "slot 0 overwritten by the last token", KEYS),
    FAULT("K3", CACHE_LAYER, CACHE_LAYER_BEFORE, ALL, "cache-layer", "read from the layer before",
          LATER(K_CACHE), LATER(KQ), LATER(ATTN)),
    FAULT("K3.one", CACHE_LAYER, CACHE_ONE_FOR_ALL, ALL, "cache-layer", "one for all layers", KEYS),
    FAULT("K4", CACHE_SEQUENCE, 0, ALL, "cache-sequence", "read from another sequence", KEYS),
    FAULT("K5", CACHE_EARLY, 0, ALL, "cache-before-rope", "keys cached before rotation", KEYS),

#undef FAMILY
#define FAMILY "Attention"
    FAULT("A1", SCALE, SCALE_TWICE, ALL, "score-scale", "scaled twice", SCORES),
    FAULT("A2", SCALE, SCALE_NONE, ALL, "score-scale", "not scaled", SCORES),
    FAULT("A3", SCALE, SCALE_BY_DIM, ALL, "score-scale", "scaled by the root of dim", SCORES),
    FAULT("A4", KV_HEAD, 0, Q | L | W, "kv-head-mapping", "kv head is head mod n_kv", SCORES),
    FAULT("A5.more", MASK, MASK_ONE_MORE, ALL, "mask-off-by-one", "mask shows one key more",
          WEIGHTS),
    FAULT("A5.less", MASK, MASK_ONE_LESS, ALL, "mask-off-by-one", "mask hides the token itself",
          WEIGHTS),
    FAULT("A6", MASK, MASK_NONE, ALL, "mask-none", "no mask", WEIGHTS),
    FAULT("A7", NO_MAXIMUM, 0, H, "softmax-overflow", "no maximum subtracted, large scores",
          WEIGHTS),
    FAULT("A8", PADDING, 0, ALL, "softmax-padding", "softmax over padding", WEIGHTS),
    FAULT("A9", UNIFORM, 0, ALL, "softmax-uniform", "uniform fallback, always taken", WEIGHTS),
    FAULT("A9.close", UNIFORM, 1, ALL, "softmax-uniform", "uniform fallback for close scores",
          ANY(KQ_SOFT_MAX), ANY(ATTN)),
// Where a projection is skipped its output is as wide as its input.

#undef FAMILY
#define FAMILY "Output"
    FAULT("O1", NO_PROJECTION, 0, T | Q | L, "skipped", "projection skipped", IN(ATTN_OUT)),
    FAULT("O2", HEADS_INTERLEAVED, 0, ALL, "heads-interleaved", "heads interleaved", IN(ATTN)),

#undef FAMILY
#define FAMILY "Residual"
    FAULT("X1", RESIDUAL_NORMED, COMP_FFN_INP, ALL, "residual-from-normed",
          "first residual from the normed x", IN(FFN_INP)),
    FAULT("X1.ffn", RESIDUAL_NORMED, COMP_L_OUT, ALL, "residual-from-normed",
          "second residual from the normed x", IN(L_OUT)),
    FAULT("X2", RESIDUAL_SKIPPED, COMP_FFN_INP, ALL, "residual-skipped", "first residual skipped",
          IN(FFN_INP)),
    FAULT("X2.ffn", RESIDUAL_SKIPPED, COMP_L_OUT, ALL, "residual-skipped",
          "second residual skipped", IN(L_OUT)),
    FAULT("X3", RESIDUAL_CLIPPED, 0, ALL, "residual-clipped", "clipped at 10", ANY(FFN_INP),
          ANY(L_OUT)),

#undef FAMILY
#define FAMILY "FFN"
    FAULT("F1", GELU, GELU_EXACT, ALL, "gelu", "GELU", IN(FFN_ACT)),
    FAULT("F2.tanh", GELU, GELU_TANH, ALL, "gelu-tanh", "GELU by tanh", IN(FFN_ACT)),
    FAULT("F2.quick", GELU, GELU_QUICK, ALL, "gelu-quick", "quick GELU", IN(FFN_ACT)),
    FAULT("F3", ACT_ON_UP, 0, ALL, "activation-on-up", "activation on up", IN(FFN_ACT)),
    FAULT("F4", ACT_SUM, 0, ALL, "sum-not-product", "sum instead of product", IN(FFN_ACT)),
    FAULT("F5", ACT_WIDTH, 0, ALL, "wrong-width", "only dim columns of ffn_dim", IN(FFN_ACT)),

#undef FAMILY
#define FAMILY "Head"
    FAULT("L1", NO_FINAL_NORM, 0, ALL, "norm-skipped", "final norm skipped", OUT(NORM)),
    FAULT("L2", NO_HEAD, 0, ALL, "skipped", "head skipped", OUT(LOGITS)),
    FAULT("L3", TRANSPOSED, COMP_LOGITS, ALL, "transposed", "head transposed", OUT(LOGITS)),
    FAULT("L4", HEAD_TIED, 0, T | Q | W, "other-weights", "tied when untied", OUT(LOGITS)),
    FAULT("L5", HEAD_BEFORE, 0, ALL, "token-shift", "logits of the token before", OUT(LOGITS)),
    FAULT("L6", TAIL_ZERO, COMP_LOGITS, ALL, "tail-rows-zero",
          "last rows of the vocabulary missing", OUT(LOGITS)),

#undef FAMILY
#define FAMILY "Sampling"
    FAULT("S1", TIES_LAST, 0, T | Q | W, "ties-to-last", "ties go to the last", OUT(PROBS),
          OUT(TOKEN)),
    FAULT("S2", TOP_K_ZERO, 0, ALL, "top-k-zero", "top_k 0 picks token 0", OUT(PROBS), OUT(TOKEN)),
    FAULT("S3", TEMPERATURE_TWICE, 0, ALL, "temperature-twice", "temperature twice", OUT(PROBS),
          OUT(TOKEN)),
    FAULT("S4", PENALTY_SIGN, 0, ALL, "penalty-sign", "penalty's sign on negative logits",
          OUT(PROBS), OUT(TOKEN)),

    HARMLESS("N7", NORM_TWICE, 0, ALL, "normed twice before the weights", "normed-twice"),
    HARMLESS("R3.both", ROPE_POSITION, 0, ALL, "position + 1 in q and k", "rope-position"),
    HARMLESS("R9", ROPE_HALVES, 0, T | Q | L, "halves paired, q and k un-permuted", "rows-permuted",
             "rope-pairing"),
    HARMLESS("A7.small", NO_MAXIMUM, 0, ALL, "no maximum subtracted, small scores", NULL),
    HARMLESS("Q8.none", SUBNORMAL_FLUSHED, READ_MATRICES, T | L | W,
             "subnormals flushed where there are none", NULL),
};

const Fault *fault_at(int i) {
    return i >= 0 && (size_t)i < sizeof faults / sizeof *faults ? &faults[i] : NULL;
}

const Fault *fault_by_id(const char *id) {
    for (int i = 0; fault_at(i); i++) {
        if (strcmp(fault_at(i)->id, id) == 0) return fault_at(i);
    }
    return NULL;
}
