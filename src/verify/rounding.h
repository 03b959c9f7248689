// How an engine rounds on its way: inputs of matrix products, the cache, attention's factors.
//
// A backend of ours declares it; another engine's trace mostly does not, and then each known way is
// tried (detect.h). The oracle rounds its inputs in the same way, so that what is left to compare
// is the rounding of float32 alone.
// This room owns: each way as a function on doubles. It leaves to others: which one an engine uses.
#ifndef PLUMB_VERIFY_ROUNDING_H
#define PLUMB_VERIFY_ROUNDING_H

#include "verify/bounds.h"
#include "verify/trace.h"

typedef enum {
    WAY_NONE,
    WAY_F16,
    WAY_BF16,
    WAY_Q8_0,         // as backend.h declares ACT_Q8_0: 32 a block, d = max|x| / 127 in float32
    WAY_Q8_0_HALF,    // llama.cpp's q8_0: d stored as f16, the codes made with the float32 d
    WAY_Q8_0_CACHE,   // Plumb's cache: d stored as f16, the codes made with that d
    WAY_Q8_1,         // llama.cpp's q8_1: as WAY_Q8_0_HALF, and the sum of each block as f16
    WAY_Q8_K,         // as backend.h declares ACT_Q8_K: 256 a block, d = max|x| / 127
    WAY_Q8_K_SIGNED,  // llama.cpp's q8_K: d = -(the element of largest |x|) / 127
    WAY_Q8_K_128,     // candle's q8_K, once llama.cpp's: / 128, codes of at most 127
    WAY_Q8_ROW,       // one float32 d = max|x| / 127 for each row (token)
    WAY_Q8_TENSOR,    // one for all rows
    WAY_Q8_1_SUM,     // as CUDA kernels of llama.cpp make q8_1: with the sum of x, not of the codes
    N_WAYS
} ActWay;

const char *act_way_name(ActWay way);  // "none", "f16", "bf16", "q8_0", "q8_0 (f16 scale)", ...
ActWay act_way_of(ActQuant declared);

// Rounds `rows` rows of n (a multiple of the way's block; of a shorter row the last block is
// short). x_sd: rows x n, or NULL where x is known. out may be x. out_sd (rows x n, may be x_sd)
// gets what is not certain of the result: a code within a few float32 roundings of a tie may be its
// neighbour, as may one whose x is not certain. *any_sd: is any of out_sd not 0?
void act_round(ActWay way, const double *x, const double *x_sd, size_t rows, size_t n, double *out,
               double *out_sd, bool *any_sd);

// q8_1 also stores the sum of each block of 32, as f16, and multiplies the minimums of weights by
// it (w = d code + minimum) instead of by the codes. Does the way do so with weights of this type?
bool act_sums(ActWay way, TensorType weights);
// How far those sums are from the sums of act_round's values, and how certain that is: rows x n /
// 32 each. n is a multiple of 32.
void act_sum_errors(ActWay way, const double *x, const double *x_sd, size_t rows, size_t n,
                    double *error, double *error_sd);
// The minimums of each 32 weights of a row (of Q4_0 and Q5_0: -8 d and -16 d): dims[0] / 32
// doubles.
void weight_minimums(const Tensor *w, size_t row, double *m);

// What one run does, by the type of the weights.
typedef struct {
    const char *name;  // "none", "f16", ..., "as llama.cpp's CPU", "as Plumb's cpu"
    ActWay way[TYPE_LIMIT];
} ActScheme;

// What attention reads: keys and values as the cache holds them; how the queries and the softmax
// weights are rounded before they are multiplied; what it sums in.
typedef struct {
    const char *name;  // "f32", "f16 cache", "f16 cache, f16 factors (llama.cpp)", ...
    TensorType k, v;   // F32, F16, BF16 or Q8_0
    ActWay q, p;
    Precision acc;
    ActWay q8_0;  // how a Q8_0 cache is made: WAY_Q8_0_CACHE or WAY_Q8_0_HALF
    // Keys and queries, values: turned before they are cached (see act_turn). The heads that come
    // out of turned values are turned too.
    bool turn_k, turn_v;
} AttnScheme;

// Multiplies each `block` (a power of two) of n values by the orthonormal Walsh-Hadamard matrix, as
// llama.cpp does before it quantizes a cache where head_dim is a multiple of 64. Twice: as it was.
void act_turn(double *x, double *x_sd, size_t n, size_t block);
// Blocks that keys, values of such heads are turned in; 0: not at all.
size_t turn_block_k(size_t head_dim);
size_t turn_block_v(size_t head_dim);

// The known schemes, likeliest first; NULL past the end.
const ActScheme *act_scheme_at(int i);
const AttnScheme *attn_scheme_at(int i);
// How what goes into a cache of that type (k or v of the scheme) is rounded: for act_round.
ActWay attn_cache_way(const AttnScheme *a, TensorType type);
// n values as Plumb's own cache of that type gives them back. Q8_0: blocks of 32 with an f16 scale.
void cache_round(TensorType type, const double *x, size_t n, double *out);

typedef struct {
    ActScheme act;
    AttnScheme attn;
    bool act_declared, attn_declared;
    // As each component's arrays show: every value a bfloat16, ...
    Precision out[N_COMPONENTS];
} Rounding;

// What the trace or backend declares; what it does not is "none"/"f32" with *_declared false.
void rounding_of_trace(const Trace *t, Rounding *out);
// The coarsest precision that holds all n values.
Precision precision_of(const float *x, size_t n);

#endif
