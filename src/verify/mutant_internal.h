// What the files of the fault engine share. Nobody else includes this header.
//
// mutant.c walks the pass, mutant_product.c multiplies, mutant_quants.c decodes weights,
// mutant_attention.c holds the cache and attends, mutant_sampler.c chooses the token. Each asks
// faulty() at the place where an engine would go wrong.
#ifndef PLUMB_VERIFY_MUTANT_INTERNAL_H
#define PLUMB_VERIFY_MUTANT_INTERNAL_H

#include "base/arena.h"
#include "verify/fault.h"

// Fault.code. What Fault.argument, its form, means stands behind it.
typedef enum {
    FAULT_NONE,
    FAULT_EMBD_COLUMNS,
    FAULT_EMBD_NEXT,
    FAULT_EMBD_STRIDE,
    FAULT_Q4K_SCALE_BITS,  // here to SUBNORMAL_FLUSHED: WeightsRead
    FAULT_NIBBLES_SWAPPED,
    FAULT_NIBBLES_INTERLEAVED,
    FAULT_MIN_SIGN,
    FAULT_MIN_DROPPED,
    FAULT_Q6K_SEQUENTIAL,
    FAULT_INT8_UNSIGNED,
    FAULT_SCALES_UNSIGNED,  // Q6_K's, of sub-blocks
    FAULT_SUBNORMAL_FLUSHED,
    FAULT_UNALIGNED,
    FAULT_NORM_NO_WEIGHT,  // Component of the norm; 0: all
    FAULT_NORM_EPS,
    FAULT_NORM_EPS_OUTSIDE,
    FAULT_NORM_MEAN,
    FAULT_NORM_SUM,
    FAULT_NORM_EXCHANGED,
    FAULT_NORM_TWICE,
    FAULT_TRANSPOSED,  // Component
    FAULT_KV_EXCHANGED,
    FAULT_TAIL_ZERO,  // Component; 0: all
    FAULT_RACE,
    FAULT_SUM,           // Precision
    FAULT_LAYER_BEFORE,  // Component
    FAULT_ROPE_PAIRING,
    FAULT_ROPE_BASE,
    FAULT_ROPE_POSITION,  // COMP_Q_ROPE, COMP_K_ROPE, 0: both
    FAULT_ROPE_SIGN,
    FAULT_ROPE_RESET,
    FAULT_ROPE_FACTORS,
    FAULT_ROPE_VALUES,
    FAULT_ROPE_NO_KEYS,
    FAULT_ROPE_HALVES,
    FAULT_CACHE_SLOT,
    FAULT_CACHE_FIRST,
    FAULT_CACHE_LAYER,  // CacheLayer
    FAULT_CACHE_SEQUENCE,
    FAULT_CACHE_EARLY,
    FAULT_SCALE,  // ScoreScale
    FAULT_KV_HEAD,
    FAULT_MASK,  // WrongMask
    FAULT_NO_MAXIMUM,
    FAULT_PADDING,
    FAULT_UNIFORM,  // 0: always, 1: where scores are close
    FAULT_HEADS_INTERLEAVED,
    FAULT_NO_PROJECTION,
    FAULT_RESIDUAL_NORMED,   // COMP_FFN_INP, COMP_L_OUT
    FAULT_RESIDUAL_SKIPPED,  // the same
    FAULT_RESIDUAL_CLIPPED,
    FAULT_GELU,  // Gelu
    FAULT_ACT_ON_UP,
    FAULT_ACT_SUM,
    FAULT_ACT_WIDTH,
    FAULT_NO_FINAL_NORM,
    FAULT_NO_HEAD,
    FAULT_HEAD_TIED,
    FAULT_HEAD_BEFORE,
    FAULT_TIES_LAST,
    FAULT_TOP_K_ZERO,
    FAULT_TEMPERATURE_TWICE,
    FAULT_PENALTY_SIGN,
    FAULT_PROMPT,  // 1 .. 7: T1 .. T7
    N_FAULT_CODES,
} FaultCode;

typedef enum { READ_MATRICES, READ_EMBEDDING } WeightsRead;  // by whom
typedef enum { CACHE_LAYER_BEFORE, CACHE_ONE_FOR_ALL } CacheLayer;
typedef enum { SCALE_TWICE, SCALE_NONE, SCALE_BY_DIM } ScoreScale;
typedef enum { MASK_ONE_MORE, MASK_ONE_LESS, MASK_NONE } WrongMask;
typedef enum { GELU_EXACT, GELU_TANH, GELU_QUICK } Gelu;

typedef struct {
    const Model *m;
    const MutantOptions *o;
    Error *err;
    uint32_t forms[N_FAULT_CODES];  // bit f: the fault is there in form f
    const int32_t *tokens;
    size_t n;
    size_t from, rows;  // tokens of this evaluation
    // The captured arrays, which are also what the pass computes in: n rows each, NULL where a
    // component is not there. Scores that are not captured live in `scores` for a row.
    float **at;          // (n_layers + 1) x N_COMPONENTS, layer -1 first
    float *scores;       // 2 n
    float *k[2], *v[2];  // cache of this sequence and another: n_layers x n_slots x kv_dim
    size_t n_slots;
    double *turn;      // n_rot / 2: radians a position
    double magnitude;  // of what was rotated
    float *row, *x;    // a row of weights; inputs of a product, rows x padded width
    double *rounding;  // and before they are rounded
    float *whole;      // a matrix that is read as a whole, grown when needed
    size_t n_whole;
    Arena arena;
} Mutant;

static inline bool faulty(const Mutant *mu, FaultCode c, int form) {
    return mu->forms[c] >> form & 1;
}

// Row `from` of a component's array, NULL where there is none.
static inline float *mutant_at(const Mutant *mu, Component c, int layer, size_t row, size_t width) {
    float *x = mu->at[(size_t)(layer + 1) * N_COMPONENTS + c];
    return x ? x + row * width : NULL;
}

static inline size_t padded(size_t n) {
    return (n + 7) & ~(size_t)7;
}

// Rounds to what this engine stores.
void mutant_store(const Mutant *mu, float *x, size_t n);
// The same 64 random bits for the same seed and place.
uint64_t mutant_random(uint64_t seed, uint64_t place);

// --- mutant_quants.c ---

// A set of the decode faults: bit c of FaultCode c, which are all below 32.
typedef uint32_t DecodeFaults;
DecodeFaults mutant_decode_faults(const Mutant *mu, WeightsRead by);
void mutant_decode(DecodeFaults faults, TensorType type, const uint8_t *src, float *dst, size_t n);
size_t mutant_row_bytes(TensorType type, size_t n);
// Bytes of padding between a tensor of the model and the one before it in memory.
size_t mutant_gap(const Model *m, const Tensor *t);
// y: dim values of this token's row.
void mutant_embed(const Mutant *mu, int32_t token, float *y);

// --- mutant_product.c ---

// y = x W^T + bias, `rows` rows of this evaluation; ref: whose product it is.
Status mutant_product(Mutant *mu, ComponentRef ref, const Tensor *w, const Tensor *bias,
                      const float *x, float *y);
// a b, in eight lanes.
float mutant_dot(const float *a, const float *b, size_t n);
// A sum whose every step is rounded.
float mutant_dot_in(Precision p, const float *a, const float *b, size_t n);

// --- mutant_attention.c ---

// Writes this evaluation's keys and values of a layer, then attends. arrays as the pass has them.
void mutant_cache_write(Mutant *mu, int layer);
void mutant_attend(Mutant *mu, int layer);
// k_cache and v_cache, read back by token.
void mutant_cache_read(Mutant *mu);
// n_heads heads of head_dim in each row, in place; at: which array.
void mutant_rotate(const Mutant *mu, Component at, float *x, int n_heads);
Status mutant_frequencies(Mutant *mu);

// --- mutant_sampler.c ---

// The token after the last row of logits; probs (n_vocab) or NULL.
Status mutant_sample(const Mutant *mu, const TraceSampling *s, const float *logits, float *probs,
                     int32_t *chosen);

#endif
