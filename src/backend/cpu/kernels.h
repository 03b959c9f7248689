// The kernels of one instruction set: the arithmetic of the CPU backend, one thread, no allocation.
//
// The rest of the backend owns threads, buffers and the cache and calls these through a table.
// kernels_generic.c is plain C and explains every faster file. What every set must keep: a result
// never depends on how many rows of x are multiplied at once, so prefill and decode agree to the
// bit.
#ifndef PLUMB_BACKEND_CPU_KERNELS_H
#define PLUMB_BACKEND_CPU_KERNELS_H

#include "backend/backend.h"

// How the weights of a matmul lie, and who multiplies them.
typedef enum {
    FORM_ROWS,    // as in the file, one row after the other; every type
    FORM_PANELS,  // in panels of 16 rows (panel.h), made when the model is loaded
    FORM_FLOATS,  // F32, F16, BF16, as in the file; the inputs are not rounded
    FORM_TILES,   // BF16, as in the file; the inputs are rounded to bfloat16 (AMX)
    N_FORMS
} MatmulForm;

// y[t * n_rows + r] = dot(row r of w, activation t) + bias[r] + residual[t * n_rows + r], for the
// rows [r0, r1) that a thread is given and every t in [0, n_act).
typedef struct {
    TensorType type;
    const uint8_t *w;  // the first row, or the first panel
    int n;             // weights a row
    long n_rows;
    const uint8_t *act;  // what act_make wrote; x itself where act_bytes is 0
    int n_act;
    const float *bias;      // or NULL
    const float *residual;  // or NULL; may be y
    float *y;
} MatmulTask;

// The matmul of one form. r0 is a multiple of 16, and so is r1 unless it is the last row.
typedef struct {
    // Bytes of n_act inputs of n elements, rounded by quant; 0: x is read as it is. It grows with n
    // and with n_act.
    size_t (*act_bytes)(ActQuant quant, int n, int n_act);
    // Writes the t-th of n_act inputs into act, which is 64-byte aligned.
    void (*act_make)(ActQuant quant, const float *x, int n, int t, int n_act, void *act);
    size_t (*scratch)(int n);  // bytes a thread, 64-byte aligned
    void (*matmul)(const MatmulTask *task, long r0, long r1, void *scratch);
} MatmulKernels;

enum {
    ATTENTION_ROWS = 24,    // rows of a tile, at most: a multiple of every BLOCK_ROWS (lanes.h)
    ATTENTION_CHUNK = 256,  // keys whose weights are relative to one maximum
    KEY_TILE = 16,          // positions whose keys lie together (cpu_kv.c draws them)
    // Positions behind the last key, and bytes behind the last value, that are read and not used.
    SLACK_KEYS = 63,
    SLACK_BYTES = 64,
    MAX_HEAD_DIM = 1024,  // models with longer heads are refused (model/model.h)
};

// One query head of one token.
typedef struct {
    const float *q;
    float *y;          // gets head_dim floats
    float *kq, *soft;  // get n_keys scaled scores and weights, or are NULL
    int n_keys;        // >= 1: it sees the keys 0 .. n_keys - 1
} AttentionRow;

// Rows that see the same kv head, in ascending n_keys. What one becomes depends on it alone, to the
// bit, and not on the keys that it does not see.
typedef struct {
    TensorType type_k, type_v;
    const uint8_t *k;  // tiles of KEY_TILE positions, from position 0
    const uint8_t *v;  // rows, from position 0
    int head_dim, n_rows;
    float scale;  // of the scores
    AttentionRow rows[ATTENTION_ROWS];
} AttentionTile;

// Attention in chunks of ATTENTION_CHUNK keys. A row's part of a chunk is attention_part() floats;
// parts are joined in the order of the chunks, whoever made them.
typedef struct {
    size_t (*scratch)(int head_dim);  // bytes a thread, 64-byte aligned; grows with head_dim
    // All of a tile.
    void (*rows)(const AttentionTile *t, void *scratch);
    // The parts of one chunk: row r's at parts + r * attention_part(head_dim), untouched where the
    // row sees none of its keys.
    void (*chunk)(const AttentionTile *t, int chunk, void *scratch, float *parts);
    // y of one row from its parts, n >= 1, `stride` floats apart.
    void (*join)(int head_dim, const float *parts, int n, size_t stride, float *y);
} AttentionKernels;

// head_dim weighted sums (and up to 15 more that mean nothing), the sum of weights, the maximum.
static inline size_t attention_part(int head_dim) {
    return ((size_t)head_dim + 15) / 16 * 16 + 16;
}

typedef struct {
    const char *isa;   // "generic"
    const char *what;  // "portable C"
    // NULL: this processor runs them; else what it lacks ("AVX-512 VNNI").
    const char *(*lacks)(void);

    MatmulForm (*form)(TensorType type);
    // How the input of a matmul with weights of this type is rounded.
    ActQuant (*activation)(TensorType type);
    MatmulKernels matmul[N_FORMS];  // of the forms that form() gives

    void (*rmsnorm)(const float *x, const float *w, float eps, int n, float *y);
    void (*swiglu)(const float *gate, const float *up, long n, float *y);

    // One row of the cache: n floats to and from type (F32, F16, Q8_0).
    void (*kv_write)(TensorType type, const float *x, int n, void *row);
    void (*kv_read)(TensorType type, const void *row, int n, float *x);
    const AttentionKernels *attention;
} Kernels;

#endif
