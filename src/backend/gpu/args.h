// What kernels are told beside their buffers, for the host and for every dialect: one struct a
// kernel, of members that are as large and lie alike everywhere (8-byte members first).
//
// Elements are counted, not bytes, unless a name ends in _bytes. All rows are contiguous.

// Types of weights that kernels decode, by GGUF's ids.
#define W_F32 0
#define W_F16 1
#define W_Q4_0 2
#define W_Q4_1 3
#define W_Q5_0 6
#define W_Q5_1 7
#define W_Q8_0 8
#define W_Q4_K 12
#define W_Q5_K 13
#define W_Q6_K 14
#define W_BF16 30

// A matrix of rows x n_in weights. Its blocks are taken apart into planes, each field of all blocks
// in a plane of its own, so that every load is aligned: plane 0 at the start of the buffer, the
// others at these bytes of it (see kernels_weights.h for what they hold).
typedef struct {
    u64 plane1, plane2, plane3;
    i32 type, rows;
} WeightArgs;

// The step buffer holds what changes from step to step: token, pos, seq (n_tokens each), out_row
// (n_out), cosines, sines (n_tokens x n_rot / 2 each), 4 bytes each.
typedef struct {
    WeightArgs table;
    i32 dim;
} EmbedArgs;

typedef struct {
    float eps;
    i32 width;
    i32 quantize;  // also write codes and scales
} NormArgs;

typedef struct {
    i32 n;
} CountArgs;

typedef struct {
    i32 n;
    i32 quantize;
} SwigluArgs;

typedef struct {
    i32 row_at;  // of the first row's index in the step buffer
    i32 width;
} SelectArgs;

#define MAX_OUTS 3
typedef struct {
    WeightArgs out[MAX_OUTS];
    i32 first_group[MAX_OUTS];  // that starts each output, groups being of rows; past n_outs: 2^30
    i32 n_in, n_tokens;
    i32 lanes;         // matvec_*: items that share two rows: 32, 64 or 128
    i32 has_bias;      // bit i: output i has one
    i32 has_residual;  // of output 0
} MatmulArgs;

// The cache: [layer][seq][kv head][pos][head_dim] elements; of Q8_0 signed bytes, and a half for
// each 32 of them at these bytes of the buffer.
typedef struct {
    u64 k_scales_bytes, v_scales_bytes;
    i32 type_k, type_v;
    i32 layer, n_seqs, n_kv_heads, n_ctx, head_dim;
    i32 n_tokens;  // of the batch: where pos and seq stand in the step buffer
} CacheArgs;

typedef struct {
    CacheArgs cache;
    i32 n_heads, n_rot, neox;
    i32 cos_at, sin_at;  // in the step buffer
} RopeArgs;

typedef struct {
    CacheArgs cache;
    i32 n_heads;
    i32 slice;     // query heads that a group serves, at most MAX_SLICE
    i32 n_slices;  // groups that share a kv head
    i32 n_spans;   // attend_keys: 0: y is written; else partial, which has room for so many spans
    i32 n_keys;    // attend_scores: columns of kq and soft
    i32 quantize;  // attend_join: also write codes and scales
    float scale;
} AttendArgs;

#define MAX_SLICE 8       // query heads of one kv head that attend_keys takes at once
#define MAX_HEAD_DIM 256  // that its local memory has room for
#define SPAN 64           // keys that it looks at together
#define PARTIAL(dim) ((dim) + 4)  // floats of a span's partial result
#define TILE_ROWS 64      // of a group of matmul_blocks and matmul_floats
#define TILE_TOKENS 64
#define VEC_TOKENS 8      // the most tokens that a matvec_* takes

// Every kernel: name, items of a group, buffers, arguments.
#define GPU_KERNELS(X)                      \
    X(embed_rows, 64, 3, EmbedArgs)         \
    X(rms_norm, 256, 5, NormArgs)           \
    X(quantize_rows, 256, 3, CountArgs)     \
    X(matvec_ahead, 128, 13, MatmulArgs)    \
    X(matvec_1, 128, 13, MatmulArgs)        \
    X(matvec_2, 128, 13, MatmulArgs)        \
    X(matvec_4, 128, 13, MatmulArgs)        \
    X(matvec_8, 128, 13, MatmulArgs)        \
    X(matmul_blocks, 256, 13, MatmulArgs)   \
    X(matmul_floats, 256, 13, MatmulArgs)   \
    X(rope_write, 64, 6, RopeArgs)          \
    X(attend_keys, 128, 6, AttendArgs)      \
    X(attend_join, 64, 5, AttendArgs)       \
    X(attend_scores, 128, 5, AttendArgs)    \
    X(swiglu_rows, 256, 5, SwigluArgs)      \
    X(add_rows, 256, 2, CountArgs)          \
    X(select_rows, 256, 3, SelectArgs)
