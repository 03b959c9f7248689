// The CPU backend: opening, memory, the small operations.
//
// Operations wait in a queue (stages.h) and run, on all threads of the pool where that pays, when
// a batch ends or somebody looks. The arithmetic is in the kernel table (kernels.h). Splits never
// cut a reduction, so the number of threads never changes a bit.
#define _GNU_SOURCE
#include "backend/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/cpu/cpu_internal.h"
#include "backend/cpu/kernel_sets.h"
#include "base/arena.h"

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
    const Kernels *k;
    for (int i = 0; (k = kernel_set_at(i)); i++) {
        const char *lacks = k->lacks();
        if (!isa && !lacks) return k;
        if (isa && strcmp(isa, k->isa) == 0) {
            if (!lacks) return k;
            error_set(err, ERR_UNAVAILABLE, "this processor cannot run the kernels '%s': no %s",
                      isa, lacks);
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
    const Kernels *k;
    for (int at = 0; (k = kernel_set_at(at)); at++) {
        if (!k->lacks() && i-- == 0) return k->isa;
    }
    return NULL;
}

// The set that is taken, and why none of those before it.
static Status cpu_probe(Text *out, Error *err) {
    char name[200], line[640];
    processor_name(name, sizeof name);
    const Kernels *k = find_kernels(NULL, err);
    int at = snprintf(line, sizeof line, "0: %s, %d cores, kernels: %s (%s)", name,
                      pool_default_threads(), k->isa, k->what);
    for (int i = 0; kernel_set_at(i) != k && at < (int)sizeof line; i++) {
        at += snprintf(line + at, sizeof line - (size_t)at, "%sno %s: %s is missing",
                       i ? ", " : "; ", kernel_set_at(i)->isa, kernel_set_at(i)->lacks());
    }
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
    for (int f = 0; f < N_FORMS; f++) {
        for (int q = 0; q < ACT_KINDS; q++) free(b->act[f][q].data);
    }
    panels_free(b);
    free(b->scratch);
    large_free(b->parts, b->n_parts * sizeof *b->parts);
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
    b->notice = config->notice;
    b->repack = !config->no_repack;
    b->keep_free = memory_available() / 4;
    Status st = pool_create(config->n_threads, &b->pool, err);
    b->stages.pool = b->pool;
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

// Vectors are kept decoded, as good as nothing beside the matrices; those are repacked only where
// there is room, so that none must be.
static uint64_t cpu_weight_bytes(const Tensor *t) {
    (void)t;
    return 0;
}

static Status cpu_weight(Backend *b, const Tensor *t, WeightUse use, Weight **out, Error *err) {
    Weight *w = calloc(1, sizeof *w);
    if (!w) return error_memory(err, t->name, sizeof *w);
    w->tensor = t;
    w->next = b->weights;
    b->weights = w;
    if (t->n_dims == 1) {  // a vector, or a matrix of one row, whose last dimension writers drop
        w->vec = malloc(t->dims[0] * sizeof *w->vec);
        if (!w->vec) return error_memory(err, t->name, t->dims[0] * sizeof *w->vec);
        dequantize(t->type, t->data, w->vec, t->dims[0]);
    }
    if (use & USE_MATMUL) matmul_weight(b, w);
    *out = w;
    return OK;
}

static const char *cpu_loaded(Backend *b) {
    if (!b->repacked) return NULL;
    snprintf(b->loaded, sizeof b->loaded, "%.0f MiB of weights repacked for %s in %.3f s",
             (double)b->repacked / 0x1p20, b->kernels->isa, b->repack_seconds);
    return b->loaded;
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
    if (!buf) return;
    stages_run(&b->stages);
    large_free(buf->data, buf->n * sizeof(float));
    free(buf);
}

static Status cpu_upload(Backend *b, Buffer *buf, const float *src, size_t n, Error *err) {
    (void)err;
    CHECK(n <= buf->n);
    stages_run(&b->stages);
    memcpy(buf->data, src, n * sizeof *src);
    return OK;
}

static Status cpu_download(Backend *b, const Buffer *buf, float *dst, size_t n, Error *err) {
    (void)err;
    CHECK(n <= buf->n);
    stages_run(&b->stages);
    memcpy(dst, buf->data, n * sizeof *dst);
    return OK;
}

static Status cpu_reserve(Backend *b, int max_tokens, int max_ctx, int heads_per_kv, Error *err) {
    if (max_tokens < b->max_tokens) max_tokens = b->max_tokens;
    if (max_ctx < b->max_ctx) max_ctx = b->max_ctx;
    if (heads_per_kv < b->max_heads) heads_per_kv = b->max_heads;
    Status st = matmul_reserve(b, max_tokens, err);
    if (!st) st = attention_reserve(b, max_tokens, max_ctx, err);
    if (st) return st;
    const size_t a = matmul_scratch(b), c = attention_scratch(b);
    const size_t stride = ((a > c ? a : c) + 4095) / 4096 * 4096;
    const size_t bytes = stride * (size_t)pool_threads(b->pool);
    uint8_t *scratch = aligned_alloc(64, bytes);
    if (!scratch) return error_memory(err, "scratch", bytes);
    memset(scratch, 0, bytes);
    free(b->scratch);
    b->scratch = scratch, b->scratch_stride = stride;
    // Only now: a reserve that failed must not bind later, smaller ones to its size.
    b->max_tokens = max_tokens, b->max_ctx = max_ctx, b->max_heads = heads_per_kv;
    return OK;
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
    stages_run(&b->stages);
    b->batch = NULL;
    return OK;
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
    const int n = b->batch->n;
    EmbedJob *job = stage_push(&b->stages, embed_part, sizeof *job,
                               n > 1 ? (size_t)n * table->tensor->dims[0] : 0);
    *job = (EmbedJob){b->batch, table->tensor, y->data};
}

typedef struct {
    float *x;
    const float *y;
    long n;
} AddJob;

static void add_part(void *arg, int ith, int nth) {
    const AddJob *j = arg;
    long from, to;
    pool_split(j->n, 64, ith, nth, &from, &to);
    for (long i = from; i < to; i++) j->x[i] += j->y[i];
}

static void cpu_add(Backend *b, Buffer *x, const Buffer *y, size_t n) {
    AddJob *job = stage_push(&b->stages, add_part, sizeof *job, n);
    *job = (AddJob){x->data, y->data, (long)n};
}

typedef struct {
    const float *x;
    const int32_t *row;
    int n, width;
    float *y;
} SelectJob;

static void select_part(void *arg, int ith, int nth) {
    const SelectJob *j = arg;
    const size_t width = (size_t)j->width;
    for (int i = ith; i < j->n; i += nth) {
        memcpy(j->y + (size_t)i * width, j->x + (size_t)j->row[i] * width, width * sizeof *j->y);
    }
}

static void cpu_select(Backend *b, const Buffer *x, int from, int n, int width, Buffer *y) {
    CHECK(from >= 0 && n <= b->batch->n_out - from);
    SelectJob *job = stage_push(&b->stages, select_part, sizeof *job, 0);
    *job = (SelectJob){x->data, b->batch->out_row + from, n, width, y->data};
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
    .loaded = cpu_loaded,
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
