// What the files of the CPU backend share.
#ifndef PLUMB_BACKEND_CPU_CPU_INTERNAL_H
#define PLUMB_BACKEND_CPU_CPU_INTERNAL_H

#include "backend/cpu/kernels.h"
#include "backend/cpu/stages.h"

enum {
    ACT_KINDS = ACT_Q8_K + 1,
    PANEL_GRAIN = 16,  // rows that stay with one thread
    FEW_ROWS = 4,      // inputs that each thread rounds for itself, to save a barrier
};

struct Weight {
    Weight *next;
    const Tensor *tensor;
    float *vec;  // a vector is kept decoded; NULL for a matrix
    MatmulForm form;
    uint8_t *panels;  // FORM_PANELS: the repacked rows; NULL: made from the file's at each use
};

// Memory of repacked weights: many in one piece, so that it consists of large pages.
typedef struct PanelStore {
    struct PanelStore *next;
    uint8_t *data;
    size_t used, size;
} PanelStore;

struct Buffer {
    float *data;
    size_t n;
};

struct Kv {
    KvShape shape;
    size_t k_row, v_row;  // bytes of one position of one kv head
    uint8_t *data;        // keys [layer][seq][kv head][tile], then values [..][pos][v_row]
    uint64_t bytes, v_at;
};

typedef struct {
    int max_cols;   // widest input that is rounded so; 0: none is
    uint8_t *data;  // of max_tokens inputs
} ActRoom;

struct Backend {
    const Kernels *kernels;
    Pool *pool;
    Weight *weights;
    const Batch *batch;
    Notice notice;
    int max_cols;                        // widest matmul input
    int max_tokens, max_ctx, max_heads;  // what scratch is there for; heads a kv head
    PanelStore *panels;
    bool repack;
    uint64_t keep_free;  // bytes that panels leave to others; 0: what is free is not known
    uint64_t repacked;   // bytes, in so many seconds
    double repack_seconds;
    ActRoom act[N_FORMS][ACT_KINDS];
    float *parts;  // of attention that is split by chunks; room for n_parts floats
    size_t n_parts;
    uint8_t *scratch;                       // per thread: what the job at hand needs
    size_t scratch_stride, kernel_scratch;  // the latter at the end of the former
    char device[160], loaded[96];
    Stages stages;
};

static inline void *thread_scratch(const Backend *b, int i) {
    return b->scratch + (size_t)i * b->scratch_stride;
}

// --- cpu_matmul.c -----------------------------------------------------------------------------

// Notes what a matmul with w will need; makes its panels where there is room for them.
void matmul_weight(Backend *b, Weight *w);
void panels_free(Backend *b);
// What a thread needs, its kernels' own part in b->kernel_scratch; and the room for rounded inputs.
size_t matmul_scratch(Backend *b);
Status matmul_reserve(Backend *b, int max_tokens, Error *err);
void cpu_matmul(Backend *b, const Buffer *x, int rows, const MatmulOut *outs, int n_outs);
void cpu_rmsnorm(Backend *b, const Buffer *x, const Weight *w, float eps, int rows, int width,
                 Buffer *y);
void cpu_swiglu(Backend *b, const Buffer *gate, const Buffer *up, size_t n, Buffer *y);

// --- cpu_attention.c --------------------------------------------------------------------------

size_t attention_scratch(const Backend *b);
Status attention_reserve(Backend *b, int max_tokens, int max_ctx, Error *err);
void cpu_rope_kv(Backend *b, const HeadShape *h, Buffer *q, Buffer *k, const Buffer *v, Kv *kv,
                 int layer);
void cpu_attention(Backend *b, const HeadShape *h, const Buffer *q, const Kv *kv, int layer,
                   Buffer *y, Buffer *kq, Buffer *soft, int n_keys);

// --- cpu_kv.c ---------------------------------------------------------------------------------

uint64_t cpu_kv_bytes(const KvShape *s);
Status cpu_kv_new(Backend *b, const KvShape *shape, Kv **out, Error *err);
void cpu_kv_free(Backend *b, Kv *kv);
Status cpu_kv_read(Backend *b, const Kv *kv, int layer, int seq, int pos, float *k, float *v,
                   Error *err);
void cpu_kv_copy(Backend *b, Kv *kv, int from_seq, int to_seq, int n_pos);
// pos: a multiple of KEY_TILE, where keys are meant.
uint8_t *kv_k(const Kv *kv, int layer, int seq, int head, int pos);
uint8_t *kv_v(const Kv *kv, int layer, int seq, int head, int pos);
// A key's row, as kv_write makes it, to its place `at` in a tile.
void kv_key_put(TensorType type, int head_dim, const uint8_t *row, uint8_t *tile, int at);
// Writes k and v of one position and kv head.
void kv_put(const Kernels *kernels, const Kv *kv, int layer, int seq, int head, int pos,
            const float *k, const float *v);

#endif
