// The CPU backend: buffers, weights, the cache, and how each operation is split over threads.
//
// Every operation runs at once, on all threads of the pool where that pays. The arithmetic is in
// the kernel table (kernels.h). Splits never cut a reduction, so the number of threads never
// changes a bit.
#define _GNU_SOURCE
#include "backend/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/cpu/kernels.h"
#include "base/arena.h"
#include "base/pool.h"

enum { ACT_KINDS = ACT_Q8_K + 1, ROW_GRAIN = 8, SMALL_WORK = 4096 };

struct Weight {
    Weight *next;
    const Tensor *tensor;
    float *vec;  // a vector is kept decoded; NULL for a matrix
};

struct Buffer {
    float *data;
    size_t n;
};

struct Kv {
    KvShape shape;
    size_t k_row, v_row;  // bytes of one position of one kv head
    uint8_t *data;        // keys [layer][seq][kv head][pos][k_row], then values likewise
    uint64_t bytes, v_at;
};

struct Backend {
    const Kernels *kernels;
    Pool *pool;
    Weight *weights;
    const Batch *batch;
    int max_cols;                        // widest matmul input
    int max_tokens, max_ctx, max_heads;  // what scratch is there for; heads a kv head
    uint8_t *act[ACT_KINDS];             // quantized inputs of the matmul at hand, max_tokens rows
    size_t act_stride[ACT_KINDS];
    uint8_t *scratch;  // per thread
    size_t scratch_stride;
    char device[160];
};

// The best first; all give the same bits.
static const Kernels *const kernel_sets[] = {
#if defined(__x86_64__)
    &kernels_avx2,
#endif
    &kernels_generic,
};
enum { N_KERNEL_SETS = sizeof kernel_sets / sizeof *kernel_sets };

// --- opening ----------------------------------------------------------------------------------

static void processor_name(char *out, size_t size) {
    snprintf(out, size, "processor");
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    while (f && fgets(line, sizeof line, f)) {
        char name[200];
        if (sscanf(line, "model name : %199[^\n]", name) == 1) {
            snprintf(out, size, "%s", name);
            break;
        }
    }
    if (f) fclose(f);
}

static const Kernels *find_kernels(const char *isa, Error *err) {
    char known[256] = "";
    for (int i = 0; i < N_KERNEL_SETS; i++) {
        const Kernels *k = kernel_sets[i];
        if (isa ? strcmp(isa, k->isa) == 0 : k->runs_here()) {
            if (k->runs_here()) return k;
            error_set(err, ERR_UNAVAILABLE, "this processor lacks the instructions of '%s'", isa);
            return NULL;
        }
        size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, " %s", k->isa);
    }
    error_set(err, ERR_USAGE, "no CPU kernels named '%s'; this build has:%s", isa ? isa : "",
              known);
    return NULL;
}

static const char *cpu_isa_at(int i) {
    for (int k = 0; k < N_KERNEL_SETS; k++) {
        if (kernel_sets[k]->runs_here() && i-- == 0) return kernel_sets[k]->isa;
    }
    return NULL;
}

static Status cpu_probe(Text *out, Error *err) {
    char name[200], line[320];
    processor_name(name, sizeof name);
    const Kernels *k = find_kernels(NULL, err);
    snprintf(line, sizeof line, "0: %s, %d cores, kernels: %s (%s)", name, pool_default_threads(),
             k->isa, k->what);
    return text_append_str(out, line) ? OK : error_memory(err, "a line of text", sizeof line);
}

static bool cpu_by_default(void) {
    return true;
}

static void cpu_close(Backend *b) {
    if (!b) return;
    for (Weight *w = b->weights, *next; w; w = next) {
        next = w->next;
        free(w->vec);
        free(w);
    }
    for (int i = 0; i < ACT_KINDS; i++) free(b->act[i]);
    free(b->scratch);
    pool_free(b->pool);
    free(b);
}

static Status cpu_open(const BackendConfig *config, Backend **out, Error *err) {
    *out = NULL;
    const Kernels *kernels = find_kernels(config->isa, err);
    if (!kernels) return err ? err->status : ERR_UNAVAILABLE;
    Backend *b = calloc(1, sizeof *b);
    if (!b) return error_memory(err, "the CPU backend", sizeof *b);
    b->kernels = kernels;
    Status st = pool_create(config->n_threads, &b->pool, err);
    if (st) {
        cpu_close(b);
        return st;
    }
    snprintf(b->device, sizeof b->device, "%d thread%s, %s kernels", config->n_threads,
             config->n_threads == 1 ? "" : "s", kernels->isa);
    *out = b;
    return OK;
}

static const char *cpu_device(const Backend *b) {
    return b->device;
}

static ActQuant cpu_activation(const Backend *b, TensorType weight) {
    return b->kernels->activation(weight);
}

// --- memory -----------------------------------------------------------------------------------

static uint64_t cpu_memory_free(const Backend *b) {
    (void)b;
    return memory_available();
}

// Vectors are kept decoded, as good as nothing beside the matrices, which are borrowed.
static uint64_t cpu_weight_bytes(const Tensor *t) {
    (void)t;
    return 0;
}

static Status cpu_weight(Backend *b, const Tensor *t, Weight **out, Error *err) {
    Weight *w = calloc(1, sizeof *w);
    if (!w) return error_memory(err, t->name, sizeof *w);
    w->tensor = t;
    if ((int)t->dims[0] > b->max_cols) b->max_cols = (int)t->dims[0];
    if (t->n_dims == 1) {  // a vector, or a matrix of one row, whose last dimension writers drop
        w->vec = malloc(t->dims[0] * sizeof *w->vec);
        if (!w->vec) {
            free(w);
            return error_memory(err, t->name, t->dims[0] * sizeof *w->vec);
        }
        dequantize(t->type, t->data, w->vec, t->dims[0]);
    }
    w->next = b->weights;
    b->weights = w;
    *out = w;
    return OK;
}

static Status cpu_buffer(Backend *b, size_t n_floats, Buffer **out, Error *err) {
    (void)b;
    Buffer *buf = calloc(1, sizeof *buf);
    if (buf) buf->data = large_alloc(n_floats * sizeof(float));
    if (!buf || !buf->data) {
        free(buf);
        return error_memory(err, "a buffer of activations", n_floats * sizeof(float));
    }
    buf->n = n_floats;
    *out = buf;
    return OK;
}

static void cpu_buffer_free(Backend *b, Buffer *buf) {
    (void)b;
    if (!buf) return;
    large_free(buf->data, buf->n * sizeof(float));
    free(buf);
}

static Status cpu_upload(Backend *b, Buffer *buf, const float *src, size_t n, Error *err) {
    (void)b, (void)err;
    CHECK(n <= buf->n);
    memcpy(buf->data, src, n * sizeof *src);
    return OK;
}

static Status cpu_download(Backend *b, const Buffer *buf, float *dst, size_t n, Error *err) {
    (void)b, (void)err;
    CHECK(n <= buf->n);
    memcpy(dst, buf->data, n * sizeof *dst);
    return OK;
}

static size_t max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

static Status cpu_reserve(Backend *b, int max_tokens, int max_ctx, int heads_per_kv, Error *err) {
    if (max_tokens < b->max_tokens) max_tokens = b->max_tokens;
    if (max_ctx < b->max_ctx) max_ctx = b->max_ctx;
    if (heads_per_kv < b->max_heads) heads_per_kv = b->max_heads;
    for (int i = 0; i < ACT_KINDS; i++) {
        if (i == ACT_F16 || i == ACT_BF16) continue;  // no kernel set asks for these
        size_t stride = (b->kernels->act_bytes((ActQuant)i, b->max_cols) + 63) / 64 * 64;
        uint8_t *act = aligned_alloc(64, stride * (size_t)max_tokens);
        if (!act) return error_memory(err, "activations", stride * (size_t)max_tokens);
        free(b->act[i]);
        b->act[i] = act;
    }
    size_t scores = (size_t)max_ctx * (size_t)heads_per_kv * sizeof(float);
    size_t stride =
        (max_size(b->kernels->matmul_scratch(b->max_cols), scores) + 4095) / 4096 * 4096;
    uint8_t *scratch = aligned_alloc(64, stride * (size_t)pool_threads(b->pool));
    if (!scratch) return error_memory(err, "scratch", stride * (size_t)pool_threads(b->pool));
    free(b->scratch);
    b->scratch = scratch, b->scratch_stride = stride;
    // Only now: a reserve that failed must not bind later, smaller ones to its size.
    b->max_tokens = max_tokens, b->max_ctx = max_ctx, b->max_heads = heads_per_kv;
    return OK;
}

static void *thread_scratch(const Backend *b, int i) {
    return b->scratch + (size_t)i * b->scratch_stride;
}

// --- the cache --------------------------------------------------------------------------------

static size_t kv_row_bytes(TensorType type, int head_dim) {
    uint64_t bytes = 0;
    CHECK(type_bytes(type, (uint64_t)head_dim, &bytes));
    return (size_t)bytes;
}

static uint64_t kv_rows(const KvShape *s) {
    return (uint64_t)s->n_layers * (uint64_t)s->n_seqs * (uint64_t)s->n_kv_heads *
           (uint64_t)s->n_ctx;
}

static uint64_t cpu_kv_bytes(const KvShape *s) {
    return kv_rows(s) *
           (kv_row_bytes(s->type_k, s->head_dim) + kv_row_bytes(s->type_v, s->head_dim));
}

static Status cpu_kv_new(Backend *b, const KvShape *shape, Kv **out, Error *err) {
    (void)b;
    Kv *kv = calloc(1, sizeof *kv);
    if (!kv) return error_memory(err, "the KV cache", sizeof *kv);
    kv->shape = *shape;
    kv->k_row = kv_row_bytes(shape->type_k, shape->head_dim);
    kv->v_row = kv_row_bytes(shape->type_v, shape->head_dim);
    kv->v_at = kv_rows(shape) * kv->k_row;
    kv->bytes = cpu_kv_bytes(shape);
    kv->data = large_alloc(kv->bytes);
    if (!kv->data) {
        free(kv);
        return error_memory(err, "the KV cache (try a smaller -c, or -ctk q8_0 -ctv q8_0)",
                            cpu_kv_bytes(shape));
    }
    *out = kv;
    return OK;
}

static void cpu_kv_free(Backend *b, Kv *kv) {
    (void)b;
    if (!kv) return;
    large_free(kv->data, kv->bytes);
    free(kv);
}

static size_t kv_index(const KvShape *s, int layer, int seq, int head, int pos) {
    size_t row = (size_t)layer * (size_t)s->n_seqs + (size_t)seq;
    return (row * (size_t)s->n_kv_heads + (size_t)head) * (size_t)s->n_ctx + (size_t)pos;
}

static uint8_t *kv_k(const Kv *kv, int layer, int seq, int head, int pos) {
    return kv->data + kv_index(&kv->shape, layer, seq, head, pos) * kv->k_row;
}

static uint8_t *kv_v(const Kv *kv, int layer, int seq, int head, int pos) {
    return kv->data + kv->v_at + kv_index(&kv->shape, layer, seq, head, pos) * kv->v_row;
}

static Status cpu_kv_read(Backend *b, const Kv *kv, int layer, int seq, int pos, float *k, float *v,
                          Error *err) {
    const KvShape *s = &kv->shape;
    if (layer < 0 || layer >= s->n_layers || seq < 0 || seq >= s->n_seqs || pos < 0 ||
        pos >= s->n_ctx) {
        return error_set(err, ERR_USAGE, "the KV cache has no layer %d, sequence %d, position %d",
                         layer, seq, pos);
    }
    for (int h = 0; h < s->n_kv_heads; h++) {
        b->kernels->kv_read(s->type_k, kv_k(kv, layer, seq, h, pos), s->head_dim,
                            k + h * s->head_dim);
        b->kernels->kv_read(s->type_v, kv_v(kv, layer, seq, h, pos), s->head_dim,
                            v + h * s->head_dim);
    }
    return OK;
}

static void cpu_kv_copy(Backend *b, Kv *kv, int from_seq, int to_seq, int n_pos) {
    (void)b;
    const KvShape *s = &kv->shape;
    CHECK(n_pos <= s->n_ctx);
    if (from_seq == to_seq) return;
    for (int l = 0; l < s->n_layers; l++) {
        for (int h = 0; h < s->n_kv_heads; h++) {
            memcpy(kv_k(kv, l, to_seq, h, 0), kv_k(kv, l, from_seq, h, 0),
                   (size_t)n_pos * kv->k_row);
            memcpy(kv_v(kv, l, to_seq, h, 0), kv_v(kv, l, from_seq, h, 0),
                   (size_t)n_pos * kv->v_row);
        }
    }
}

// --- operations -------------------------------------------------------------------------------

static Status cpu_begin(Backend *b, const Batch *batch, Error *err) {
    (void)err;
    CHECK(batch->n > 0 && batch->n <= b->max_tokens);
    b->batch = batch;
    return OK;
}

static Status cpu_end(Backend *b, Error *err) {
    (void)err;
    b->batch = NULL;
    return OK;
}

// Small work runs on the caller: waking the others would cost more.
static void run(Backend *b, PoolFn fn, void *job, size_t work) {
    if (work < SMALL_WORK)
        fn(job, 0, 1);
    else
        pool_run(b->pool, fn, job);
}

typedef struct {
    const Batch *batch;
    const Tensor *table;
    float *y;
} EmbedJob;

static void embed_part(void *arg, int ith, int nth) {
    const EmbedJob *j = arg;
    const size_t dim = j->table->dims[0], row = j->table->bytes / j->table->dims[1];
    for (int i = ith; i < j->batch->n; i += nth) {
        dequantize(j->table->type, j->table->data + (size_t)j->batch->token[i] * row,
                   j->y + (size_t)i * dim, dim);
    }
}

static void cpu_embed(Backend *b, const Weight *table, Buffer *y) {
    EmbedJob job = {b->batch, table->tensor, y->data};
    run(b, embed_part, &job, (size_t)b->batch->n * table->tensor->dims[0]);
}

typedef struct {
    const Kernels *kernels;
    const float *x, *w;
    float eps;
    int rows, width;
    float *y;
} NormJob;

static void norm_part(void *arg, int ith, int nth) {
    const NormJob *j = arg;
    long from, to;
    pool_split(j->rows, 1, ith, nth, &from, &to);
    for (long r = from; r < to; r++) {
        j->kernels->rmsnorm(j->x + r * j->width, j->w, j->eps, j->width, j->y + r * j->width);
    }
}

static void cpu_rmsnorm(Backend *b, const Buffer *x, const Weight *w, float eps, int rows,
                        int width, Buffer *y) {
    NormJob job = {b->kernels, x->data, w->vec, eps, rows, width, y->data};
    run(b, norm_part, &job, rows > 1 ? (size_t)rows * (size_t)width : 0);
}

typedef struct {
    Backend *b;
    const float *x;
    int rows, n_outs;
    unsigned kinds;  // bit i: activations of ActQuant i are needed
    MatmulTask tasks[4];
} MatmulJob;

// The rows of all outputs stand in one line, which the threads share out.
static void matmul_part(void *arg, int ith, int nth) {
    const MatmulJob *j = arg;
    Backend *b = j->b;
    const int n = j->tasks[0].n;
    for (int kind = 0; kind < ACT_KINDS; kind++) {
        if (!(j->kinds & 1u << kind)) continue;
        for (int t = ith; t < j->rows; t += nth) {
            b->kernels->act_make((ActQuant)kind, j->x + (long)t * n, n,
                                 b->act[kind] + (size_t)t * b->act_stride[kind]);
        }
    }
    if (nth > 1) pool_barrier(b->pool);
    long total = 0, from, to, at = 0;
    for (int i = 0; i < j->n_outs; i++) total += j->tasks[i].n_rows;
    pool_split(total, ROW_GRAIN, ith, nth, &from, &to);
    for (int i = 0; i < j->n_outs; at += j->tasks[i++].n_rows) {
        long r0 = from > at ? from - at : 0, r1 = to - at;
        if (r1 > j->tasks[i].n_rows) r1 = j->tasks[i].n_rows;
        if (r0 < r1) b->kernels->matmul_rows(&j->tasks[i], r0, r1, thread_scratch(b, ith));
    }
}

static void cpu_matmul(Backend *b, const Buffer *x, int rows, const MatmulOut *outs, int n_outs) {
    CHECK(n_outs >= 1 && n_outs <= 4 && rows <= b->max_tokens);
    MatmulJob job = {.b = b, .x = x->data, .rows = rows, .n_outs = n_outs};
    size_t work = 0;
    for (int i = 0; i < n_outs; i++) {
        const Tensor *t = outs[i].w->tensor;
        ActQuant kind = b->kernels->activation(t->type);
        b->act_stride[kind] = (b->kernels->act_bytes(kind, (int)t->dims[0]) + 63) / 64 * 64;
        job.kinds |= 1u << kind;
        job.tasks[i] = (MatmulTask){.type = t->type,
                                    .w = t->data,
                                    .n = (int)t->dims[0],
                                    .n_rows = (long)t->dims[1],
                                    .act = b->act[kind],
                                    .act_stride = b->act_stride[kind],
                                    .n_act = rows,
                                    .bias = outs[i].bias ? outs[i].bias->vec : NULL,
                                    .residual = outs[i].residual ? outs[i].residual->data : NULL,
                                    .y = outs[i].y->data};
        work += t->dims[0] * t->dims[1];
    }
    run(b, matmul_part, &job, work);
}

typedef struct {
    Backend *b;
    const HeadShape *h;
    float *q, *k;
    const float *v;
    Kv *kv;
    int layer;
} RopeJob;

static void rotate(const HeadShape *h, float *x, int n_heads, const float *cosine,
                   const float *sine) {
    const int pairs = h->n_rot / 2;
    for (int head = 0; head < n_heads; head++, x += h->head_dim) {
        for (int i = 0; i < pairs; i++) {
            int a = h->neox ? i : 2 * i, c = h->neox ? i + pairs : 2 * i + 1;
            float x0 = x[a], x1 = x[c];
            x[a] = x0 * cosine[i] - x1 * sine[i];
            x[c] = x0 * sine[i] + x1 * cosine[i];
        }
    }
}

static void rope_part(void *arg, int ith, int nth) {
    const RopeJob *j = arg;
    const HeadShape *h = j->h;
    const Batch *batch = j->b->batch;
    const KvShape *s = &j->kv->shape;
    for (int i = ith; i < batch->n; i += nth) {
        const float *cosine = batch->rope_cos + (long)i * (h->n_rot / 2);
        const float *sine = batch->rope_sin + (long)i * (h->n_rot / 2);
        float *k = j->k + (long)i * h->n_kv_heads * h->head_dim;
        const float *v = j->v + (long)i * h->n_kv_heads * h->head_dim;
        rotate(h, j->q + (long)i * h->n_heads * h->head_dim, h->n_heads, cosine, sine);
        rotate(h, k, h->n_kv_heads, cosine, sine);
        for (int head = 0; head < h->n_kv_heads; head++) {
            int seq = batch->seq[i], pos = batch->pos[i];
            j->b->kernels->kv_write(s->type_k, k + head * h->head_dim, h->head_dim,
                                    kv_k(j->kv, j->layer, seq, head, pos));
            j->b->kernels->kv_write(s->type_v, v + head * h->head_dim, h->head_dim,
                                    kv_v(j->kv, j->layer, seq, head, pos));
        }
    }
}

static void cpu_rope_kv(Backend *b, const HeadShape *h, Buffer *q, Buffer *k, const Buffer *v,
                        Kv *kv, int layer) {
    RopeJob job = {b, h, q->data, k->data, v->data, kv, layer};
    run(b, rope_part, &job,
        b->batch->n > 1 ? (size_t)b->batch->n * (size_t)(h->n_heads * h->head_dim) : 0);
}

typedef struct {
    Backend *b;
    const HeadShape *h;
    const float *q;
    const Kv *kv;
    int layer;
    float *y, *kq, *soft;
    int n_keys;
} AttentionJob;

// Scores and weights of one (token, kv head) go out as rows of j->n_keys, the masked end 0.
static void give_scores(const AttentionJob *j, const float *weights, long stride, int seen,
                        long row, int n_q) {
    for (int h = 0; h < n_q; h++) {
        float *kq = j->kq + (row + h) * j->n_keys, *soft = j->soft + (row + h) * j->n_keys;
        memcpy(soft, weights + h * stride, (size_t)seen * sizeof *soft);
        for (int i = seen; i < j->n_keys; i++) kq[i] = soft[i] = 0;
    }
}

static void attention_part(void *arg, int ith, int nth) {
    const AttentionJob *j = arg;
    const HeadShape *h = j->h;
    const Batch *batch = j->b->batch;
    const KvShape *s = &j->kv->shape;
    const int n_q = h->n_heads / h->n_kv_heads;
    float *scores = thread_scratch(j->b, ith);
    for (int item = ith; item < batch->n * h->n_kv_heads; item += nth) {
        int i = item / h->n_kv_heads, head = item % h->n_kv_heads;
        int seq = batch->seq[i], seen = batch->pos[i] + 1;
        long row = (long)i * h->n_heads + head * n_q;
        long stride = j->kq ? j->n_keys : seen;
        j->b->kernels->attention(j->q + row * h->head_dim, n_q, h->head_dim, h->scale, s->type_k,
                                 kv_k(j->kv, j->layer, seq, head, 0), j->kv->k_row, s->type_v,
                                 kv_v(j->kv, j->layer, seq, head, 0), j->kv->v_row, seen, scores,
                                 stride, j->kq ? j->kq + row * j->n_keys : NULL,
                                 j->y + row * h->head_dim);
        if (j->kq) give_scores(j, scores, stride, seen, row, n_q);
    }
}

static void cpu_attention(Backend *b, const HeadShape *h, const Buffer *q, const Kv *kv, int layer,
                          Buffer *y, Buffer *kq, Buffer *soft, int n_keys) {
    CHECK(h->n_heads / h->n_kv_heads <= b->max_heads);
    AttentionJob job = {
        b, h, q->data, kv, layer, y->data, kq ? kq->data : NULL, soft ? soft->data : NULL, n_keys};
    size_t keys = 0;
    for (int i = 0; i < b->batch->n; i++) keys += (size_t)b->batch->pos[i] + 1;
    run(b, attention_part, &job, keys * (size_t)(h->n_heads * h->head_dim));
}

typedef struct {
    const Kernels *kernels;
    const float *gate, *up;
    size_t n;
    float *y;
} SwigluJob;

static void swiglu_part(void *arg, int ith, int nth) {
    const SwigluJob *j = arg;
    long from, to;
    pool_split((long)j->n, 64, ith, nth, &from, &to);
    if (from < to) j->kernels->swiglu(j->gate + from, j->up + from, to - from, j->y + from);
}

static void cpu_swiglu(Backend *b, const Buffer *gate, const Buffer *up, size_t n, Buffer *y) {
    SwigluJob job = {b->kernels, gate->data, up->data, n, y->data};
    run(b, swiglu_part, &job, n);
}

static void cpu_add(Backend *b, Buffer *x, const Buffer *y, size_t n) {
    (void)b;
    for (size_t i = 0; i < n; i++) x->data[i] += y->data[i];
}

static void cpu_select(Backend *b, const Buffer *x, int from, int n, int width, Buffer *y) {
    CHECK(from >= 0 && n <= b->batch->n_out - from);
    const int32_t *row = b->batch->out_row + from;
    for (int i = 0; i < n; i++) {
        memcpy(y->data + (size_t)i * (size_t)width, x->data + (size_t)row[i] * (size_t)width,
               (size_t)width * sizeof(float));
    }
}

const BackendOps cpu_backend = {
    .name = "cpu",
    .what = "the processor, on a pool of threads",
    .probe = cpu_probe,
    .by_default = cpu_by_default,
    .open = cpu_open,
    .close = cpu_close,
    .device = cpu_device,
    .activation = cpu_activation,
    .batch_invariant = true,
    .isa_at = cpu_isa_at,
    .memory_free = cpu_memory_free,
    .weight_bytes = cpu_weight_bytes,
    .weight = cpu_weight,
    .buffer = cpu_buffer,
    .buffer_free = cpu_buffer_free,
    .upload = cpu_upload,
    .download = cpu_download,
    .reserve = cpu_reserve,
    .kv_bytes = cpu_kv_bytes,
    .kv_new = cpu_kv_new,
    .kv_free = cpu_kv_free,
    .kv_read = cpu_kv_read,
    .kv_copy = cpu_kv_copy,
    .begin = cpu_begin,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .matmul = cpu_matmul,
    .rope_kv = cpu_rope_kv,
    .attention = cpu_attention,
    .swiglu = cpu_swiglu,
    .add = cpu_add,
    .select = cpu_select,
    .end = cpu_end,
};
