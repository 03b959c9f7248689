// The cache of keys and values, each kv head of a sequence by itself.
//
// Values: one row a position, as the type has it. Keys: a tile of KEY_TILE = 16 positions after the
// other, so that a vector of keys is read at once; within it, of head_dim elements,
//   F32, F16   [element][position]
//   Q8_0       of each block of 32 elements: 16 scales (halves) | [element][position] codes
// which takes as many bytes as 16 rows do.
#include <stdlib.h>

#include "backend/cpu/cpu_internal.h"
#include "base/arena.h"

static size_t kv_row_bytes(TensorType type, int head_dim) {
    uint64_t bytes = 0;
    CHECK(type_bytes(type, (uint64_t)head_dim, &bytes));
    return (size_t)bytes;
}

// Positions that a sequence has room for: whole tiles.
static uint64_t kv_ctx(const KvShape *s) {
    return ((uint64_t)s->n_ctx + KEY_TILE - 1) / KEY_TILE * KEY_TILE;
}

static uint64_t kv_rows(const KvShape *s) {
    return (uint64_t)s->n_layers * (uint64_t)s->n_seqs * (uint64_t)s->n_kv_heads * kv_ctx(s);
}

uint64_t cpu_kv_bytes(const KvShape *s) {
    return kv_rows(s) *
           (kv_row_bytes(s->type_k, s->head_dim) + kv_row_bytes(s->type_v, s->head_dim));
}

Status cpu_kv_new(Backend *b, const KvShape *shape, Kv **out, Error *err) {
    (void)b;
    Kv *kv = calloc(1, sizeof *kv);
    if (!kv) return error_memory(err, "the KV cache", sizeof *kv);
    CHECK(shape->head_dim <= MAX_HEAD_DIM);
    kv->shape = *shape;
    kv->k_row = kv_row_bytes(shape->type_k, shape->head_dim);
    kv->v_row = kv_row_bytes(shape->type_v, shape->head_dim);
    kv->v_at = (kv_rows(shape) + SLACK_KEYS + 1) * kv->k_row;
    kv->bytes = kv->v_at + kv_rows(shape) * kv->v_row + SLACK_BYTES;
    kv->data = large_alloc(kv->bytes);
    if (!kv->data) {
        free(kv);
        return error_memory(err, "the KV cache (try a smaller -c, or -ctk q8_0 -ctv q8_0)",
                            cpu_kv_bytes(shape));
    }
    *out = kv;
    return OK;
}

void cpu_kv_free(Backend *b, Kv *kv) {
    (void)b;
    if (!kv) return;
    large_free(kv->data, kv->bytes);
    free(kv);
}

static size_t kv_index(const KvShape *s, int layer, int seq, int head, int pos) {
    size_t row = (size_t)layer * (size_t)s->n_seqs + (size_t)seq;
    return (row * (size_t)s->n_kv_heads + (size_t)head) * (size_t)kv_ctx(s) + (size_t)pos;
}

uint8_t *kv_k(const Kv *kv, int layer, int seq, int head, int pos) {
    return kv->data + kv_index(&kv->shape, layer, seq, head, pos) * kv->k_row;
}

uint8_t *kv_v(const Kv *kv, int layer, int seq, int head, int pos) {
    return kv->data + kv->v_at + kv_index(&kv->shape, layer, seq, head, pos) * kv->v_row;
}

// A key's row, between its tile and a row as the type has it: n elements of `size` bytes.
static void tile_put(uint8_t *tile, int size, int n, const uint8_t *row) {
    for (int i = 0; i < n; i++) memcpy(tile + i * KEY_TILE * size, row + i * size, (size_t)size);
}

static void tile_get(const uint8_t *tile, int size, int n, uint8_t *row) {
    for (int i = 0; i < n; i++) memcpy(row + i * size, tile + i * KEY_TILE * size, (size_t)size);
}

void kv_key_put(TensorType type, int head_dim, const uint8_t *row, uint8_t *tile, int at) {
    switch (type) {
        case TYPE_F32: tile_put(tile + 4 * at, 4, head_dim, row); break;
        case TYPE_F16: tile_put(tile + 2 * at, 2, head_dim, row); break;
        default:
            for (int b = 0; b < head_dim / 32; b++, row += 34, tile += 34 * KEY_TILE) {
                memcpy(tile + 2 * at, row, 2);
                tile_put(tile + 2 * KEY_TILE + at, 1, 32, row + 2);
            }
    }
}

static void kv_key_get(TensorType type, int head_dim, const uint8_t *tile, int at, uint8_t *row) {
    switch (type) {
        case TYPE_F32: tile_get(tile + 4 * at, 4, head_dim, row); break;
        case TYPE_F16: tile_get(tile + 2 * at, 2, head_dim, row); break;
        default:
            for (int b = 0; b < head_dim / 32; b++, row += 34, tile += 34 * KEY_TILE) {
                memcpy(row, tile + 2 * at, 2);
                tile_get(tile + 2 * KEY_TILE + at, 1, 32, row + 2);
            }
    }
}

void kv_put(const Kernels *kernels, const Kv *kv, int layer, int seq, int head, int pos,
            const float *k, const float *v) {
    const KvShape *s = &kv->shape;
    uint8_t row[MAX_HEAD_DIM * sizeof(float)];
    kernels->kv_write(s->type_k, k, s->head_dim, row);
    kv_key_put(s->type_k, s->head_dim, row, kv_k(kv, layer, seq, head, pos / KEY_TILE * KEY_TILE),
               pos % KEY_TILE);
    kernels->kv_write(s->type_v, v, s->head_dim, kv_v(kv, layer, seq, head, pos));
}

Status cpu_kv_read(Backend *b, const Kv *kv, int layer, int seq, int pos, float *k, float *v,
                   Error *err) {
    const KvShape *s = &kv->shape;
    stages_run(&b->stages);
    if (layer < 0 || layer >= s->n_layers || seq < 0 || seq >= s->n_seqs || pos < 0 ||
        pos >= s->n_ctx) {
        return error_set(err, ERR_USAGE, "the KV cache has no layer %d, sequence %d, position %d",
                         layer, seq, pos);
    }
    for (int h = 0; h < s->n_kv_heads; h++) {
        uint8_t row[MAX_HEAD_DIM * sizeof(float)];
        kv_key_get(s->type_k, s->head_dim, kv_k(kv, layer, seq, h, pos / KEY_TILE * KEY_TILE),
                   pos % KEY_TILE, row);
        b->kernels->kv_read(s->type_k, row, s->head_dim, k + h * s->head_dim);
        b->kernels->kv_read(s->type_v, kv_v(kv, layer, seq, h, pos), s->head_dim,
                            v + h * s->head_dim);
    }
    return OK;
}

// Whole tiles at once; of the last one only the positions that are asked for.
static void copy_keys(const Kv *kv, const uint8_t *from, uint8_t *to, int n_pos) {
    const KvShape *s = &kv->shape;
    const size_t whole = (size_t)(n_pos / KEY_TILE * KEY_TILE) * kv->k_row;
    memcpy(to, from, whole);
    for (int at = 0; at < n_pos % KEY_TILE; at++) {
        uint8_t row[MAX_HEAD_DIM * sizeof(float)];
        kv_key_get(s->type_k, s->head_dim, from + whole, at, row);
        kv_key_put(s->type_k, s->head_dim, row, to + whole, at);
    }
}

void cpu_kv_copy(Backend *b, Kv *kv, int from_seq, int to_seq, int n_pos) {
    const KvShape *s = &kv->shape;
    stages_run(&b->stages);
    CHECK(n_pos <= s->n_ctx);
    if (from_seq == to_seq) return;
    for (int l = 0; l < s->n_layers; l++) {
        for (int h = 0; h < s->n_kv_heads; h++) {
            copy_keys(kv, kv_k(kv, l, from_seq, h, 0), kv_k(kv, l, to_seq, h, 0), n_pos);
            memcpy(kv_v(kv, l, to_seq, h, 0), kv_v(kv, l, from_seq, h, 0),
                   (size_t)n_pos * kv->v_row);
        }
    }
}
