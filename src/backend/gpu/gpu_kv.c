// The cache on a device: keys and values in a buffer each, [layer][seq][kv head][pos][head_dim]; of
// Q8_0 the scales stand after the bytes.
#include <stdlib.h>

#include "backend/gpu/gpu_internal.h"

static u64 n_rows(const KvShape *s) {
    return (u64)s->n_layers * (u64)s->n_seqs * (u64)s->n_kv_heads * (u64)s->n_ctx;
}

// Bytes of an element; of Q8_0 without its share of a scale.
static size_t element_bytes(TensorType type) {
    return type == TYPE_F32 ? 4 : type == TYPE_F16 ? 2 : 1;
}

static u64 data_bytes(const KvShape *s, TensorType type) {
    return (n_rows(s) * (u64)s->head_dim * element_bytes(type) + 255) / 256 * 256;
}

static u64 cache_bytes(const KvShape *s, TensorType type) {
    const u64 scales = type == TYPE_Q8_0 ? n_rows(s) * (u64)(s->head_dim / 32) * 2 : 0;
    return data_bytes(s, type) + scales;
}

u64 gpu_kv_bytes(const KvShape *s) {
    return cache_bytes(s, s->type_k) + cache_bytes(s, s->type_v);
}

static size_t partial_bytes(const Kv *kv, int heads_per_kv) {
    const KvShape *s = &kv->shape;
    const size_t rows = (size_t)SPLIT_TOKENS * (size_t)(s->n_kv_heads * heads_per_kv);
    return rows * (size_t)kv->n_spans * (size_t)PARTIAL(s->head_dim) * sizeof(float);
}

Status gpu_kv_new(Backend *b, const KvShape *s, Kv **out, Error *err) {
    if (s->head_dim % 2 != 0 || s->head_dim > MAX_HEAD_DIM) {
        return error_set(err, ERR_UNAVAILABLE,
                         "%s: heads of %d elements; the GPU kernels take even numbers up to %d. "
                         "--backend cpu runs this model",
                         b->ops->name, s->head_dim, MAX_HEAD_DIM);
    }
    Kv *kv = calloc(1, sizeof *kv);
    if (!kv) return error_memory(err, "the KV cache", sizeof *kv);
    kv->shape = *s;
    kv->k_scales_bytes = data_bytes(s, s->type_k), kv->v_scales_bytes = data_bytes(s, s->type_v);
    kv->n_spans = (s->n_ctx + SPAN - 1) / SPAN;
    Status st = b->ops->alloc(b->dev, cache_bytes(s, s->type_k), &kv->k, err);
    if (!st) st = b->ops->alloc(b->dev, cache_bytes(s, s->type_v), &kv->v, err);
    if (!st) st = b->ops->alloc(b->dev, partial_bytes(kv, b->max_heads), &kv->partial, err);
    if (st) {
        error_prefix(err, "the KV cache (try a smaller -c, or -ctk q8_0 -ctv q8_0)");
        gpu_kv_free(b, kv);
        return st;
    }
    *out = kv;
    return OK;
}

void gpu_kv_free(Backend *b, Kv *kv) {
    if (!kv) return;
    b->ops->release(b->dev, kv->k);
    b->ops->release(b->dev, kv->v);
    b->ops->release(b->dev, kv->partial);
    free(kv);
}

CacheArgs gpu_cache_args(const Kv *kv, int layer, int n_tokens) {
    const KvShape *s = &kv->shape;
    return (CacheArgs){.k_scales_bytes = kv->k_scales_bytes,
                       .v_scales_bytes = kv->v_scales_bytes,
                       .type_k = (i32)s->type_k,
                       .type_v = (i32)s->type_v,
                       .layer = layer,
                       .n_seqs = s->n_seqs,
                       .n_kv_heads = s->n_kv_heads,
                       .n_ctx = s->n_ctx,
                       .head_dim = s->head_dim,
                       .n_tokens = n_tokens};
}

// The first element of (layer, seq, head, pos).
static u64 row_at(const KvShape *s, int layer, int seq, int head, int pos) {
    const u64 row = (u64)layer * (u64)s->n_seqs + (u64)seq;
    return ((row * (u64)s->n_kv_heads + (u64)head) * (u64)s->n_ctx + (u64)pos) * (u64)s->head_dim;
}

// n elements from element `at` on, as float32.
static Status read_row(Backend *b, const DeviceBuffer *from, TensorType type, u64 scales_bytes,
                       u64 at, int n, float *x, Error *err) {
    uint8_t raw[MAX_HEAD_DIM * 4], scales[MAX_HEAD_DIM / 32 * 2];
    const size_t bytes = element_bytes(type);
    Status st = b->ops->read(b->dev, from, at * bytes, raw, (size_t)n * bytes, err);
    if (!st && type == TYPE_Q8_0) {
        st =
            b->ops->read(b->dev, from, scales_bytes + at / 32 * 2, scales, (size_t)n / 32 * 2, err);
    }
    if (st) return st;
    if (type != TYPE_Q8_0) {
        dequantize(type, raw, x, (size_t)n);
        return OK;
    }
    for (int i = 0; i < n; i++) {
        x[i] = f16_to_f32(load_u16(scales + i / 32 * 2)) * (float)(int8_t)raw[i];
    }
    return OK;
}

Status gpu_kv_read(Backend *b, const Kv *kv, int layer, int seq, int pos, float *k, float *v,
                   Error *err) {
    const KvShape *s = &kv->shape;
    if (layer < 0 || layer >= s->n_layers || seq < 0 || seq >= s->n_seqs || pos < 0 ||
        pos >= s->n_ctx) {
        return error_set(err, ERR_USAGE, "the KV cache has no layer %d, sequence %d, position %d",
                         layer, seq, pos);
    }
    Status st = OK;
    for (int h = 0; !st && h < s->n_kv_heads; h++) {
        const u64 at = row_at(s, layer, seq, h, pos);
        st = read_row(b, kv->k, s->type_k, kv->k_scales_bytes, at, s->head_dim, k + h * s->head_dim,
                      err);
        if (!st) {
            st = read_row(b, kv->v, s->type_v, kv->v_scales_bytes, at, s->head_dim,
                          v + h * s->head_dim, err);
        }
    }
    return st;
}

// n elements from one place of a cache to another.
static Status copy_row(Backend *b, DeviceBuffer *cache, TensorType type, u64 scales_bytes, u64 to,
                       u64 from, u64 n, Error *err) {
    const size_t bytes = element_bytes(type);
    Status st = b->ops->copy(b->dev, cache, to * bytes, cache, from * bytes, n * bytes, err);
    if (st || type != TYPE_Q8_0) return st;
    return b->ops->copy(b->dev, cache, scales_bytes + to / 32 * 2, cache,
                        scales_bytes + from / 32 * 2, n / 32 * 2, err);
}

void gpu_kv_copy(Backend *b, Kv *kv, int from_seq, int to_seq, int n_pos) {
    const KvShape *s = &kv->shape;
    const u64 n = (u64)n_pos * (u64)s->head_dim;
    Error err;
    CHECK(n_pos <= s->n_ctx);
    if (from_seq == to_seq || n_pos == 0 || b->failed) return;
    for (int i = 0; i < s->n_layers * s->n_kv_heads; i++) {
        const int layer = i / s->n_kv_heads, head = i % s->n_kv_heads;
        const u64 from = row_at(s, layer, from_seq, head, 0),
                  to = row_at(s, layer, to_seq, head, 0);
        Status st = copy_row(b, kv->k, s->type_k, kv->k_scales_bytes, to, from, n, &err);
        if (!st) st = copy_row(b, kv->v, s->type_v, kv->v_scales_bytes, to, from, n, &err);
        if (st) {
            gpu_fail(b, &err);
            return;
        }
    }
}
