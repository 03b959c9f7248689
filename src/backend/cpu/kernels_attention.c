// Attention over the cache, written once for every instruction set (lanes.h).
//
// A chunk of keys at a time: scores, their maximum, weights exp(score - maximum), the weighted sum
// of values. Each number has one written order, in which no other row has a part:
//   score   fma over the elements of the head, one lane a key; of a Q8_0 key the sum of each 32
//           codes is multiplied with its scale: fma(d, sum, score). Then times the scores' scale.
//   weight  summed in 16 lanes, lane l those of keys l, l + 16, ...; then lanes l and l + 8 are
//           added, l and l + 4, l and l + 2, l and l + 1
//   value   fma over the keys of the chunk, one lane an element of the head
// Chunks are joined in their order, each sum brought to the larger maximum. So the bits are the
// same for a row alone, in a tile, over threads, and with every set that rounds f32_fma once.
//
// A key that a row does not see never meets it: not as a weight of 0 either, since 0 times infinity
// would show. What is infinite or not a number in a key or value that it sees reaches y.
#include "backend/cpu/kernels_attention.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "backend/cpu/lanes_math.h"
#include "base/status.h"

enum {
    ROWS = BLOCK_ROWS,
    CHUNK = ATTENTION_CHUNK,
    STEP = 16,             // lanes of a sum of weights
    PARTS = STEP / LANES,  // vectors of it
    KEYS_AT_ONCE = 64,     // keys that all rows meet before the next ones
    FEW_ROWS = 2,          // rows that leave registers for
    FEW_ROWS_VECTORS = 4,  // so many vectors
};

#define INLINE static inline __attribute__((always_inline))

// A thread's scratch. Rows stand in groups of ROWS; a group that is not full is filled up with its
// last row.
typedef struct {
    float *q;     // [group][head_dim][ROWS]
    float *s;     // [row][CHUNK]: scores, then weights
    float *part;  // [row]: of the chunk at hand
    float *sum;   // [row]: of all chunks up to it
    float *wide;  // KEYS_AT_ONCE keys or values as floats, in the order in which they lie
} Room;

static size_t attention_scratch(int head_dim) {
    const size_t row = (size_t)head_dim + CHUNK + 2 * attention_part(head_dim);
    const size_t wide = KEYS_AT_ONCE * (size_t)head_dim + LANES;
    return (ATTENTION_ROWS * row + wide) * sizeof(float);
}

static Room room_of(void *scratch, int head_dim) {
    Room r;
    r.s = scratch;
    r.part = r.s + ATTENTION_ROWS * CHUNK;
    r.sum = r.part + ATTENTION_ROWS * attention_part(head_dim);
    r.q = r.sum + ATTENTION_ROWS * attention_part(head_dim);
    r.wide = r.q + ATTENTION_ROWS * head_dim;
    return r;
}

// Where a part has its sum of weights and its maximum.
static float *part_sum(float *part, int head_dim) {
    return part + attention_part(head_dim) - 16;
}

static const AttentionRow *row_at(const AttentionTile *t, int r) {
    return &t->rows[r < t->n_rows ? r : t->n_rows - 1];
}

// Keys of a chunk that row r sees.
static int keys_of(const AttentionTile *t, int r, int chunk) {
    const int n = row_at(t, r)->n_keys - chunk * CHUNK;
    return n < 0 ? 0 : n < CHUNK ? n : CHUNK;
}

// Rows are done 1, 2, 4 or ROWS at a time.
static int group_rows(const AttentionTile *t, int r) {
    const int left = t->n_rows - r;
    int rows = 1;
    while (rows < left && rows < ROWS) rows *= 2;
    return rows < ROWS ? rows : ROWS;
}

static void pack_q(const AttentionTile *t, float *q) {
    for (int r = 0; r < t->n_rows; r += ROWS, q += (size_t)t->head_dim * ROWS) {
        const int rows = group_rows(t, r);
        for (int i = 0; i < rows; i++) {
            const float *from = row_at(t, r + i)->q;
            for (int d = 0; d < t->head_dim; d++) q[(size_t)d * ROWS + i] = from[d];
        }
    }
}

// Memory works while the scores of keys are made, on their values; and under those, on the keys of
// the next chunk.
INLINE void ask(const uint8_t *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

// --- scores --------------------------------------------------------------------------------------

static size_t key_tile_bytes(TensorType type, int head_dim) {
    const size_t row = type == TYPE_F32 ? 4 : 2;
    return KEY_TILE * (type == TYPE_Q8_0 ? (size_t)head_dim / 32 * 34 : (size_t)head_dim * row);
}

static size_t value_row_bytes(TensorType type, int head_dim) {
    return key_tile_bytes(type, head_dim) / KEY_TILE;
}

// sum += q x, rows x vectors.
INLINE void multiply_add(int rows, int vectors, const float *q, const F32 *x, F32 *sum) {
    for (int r = 0; r < rows; r++) {
        const F32 qs = f32_all(q[r]);
        for (int v = 0; v < vectors; v++)
            sum[r * vectors + v] = f32_fma(qs, x[v], sum[r * vectors + v]);
    }
}

// rows x vectors of scores, of the keys from `key` on; tiles: from key 0 on. q: of the group; s: of
// its first row and key.
INLINE void score_block(TensorType type, int rows, int vectors, const AttentionTile *t,
                        const uint8_t *tiles, const float *q, int key, float *s) {
    const size_t tile = key_tile_bytes(type, t->head_dim);
    const int element = type == TYPE_F32 ? 4 : type == TYPE_F16 ? 2 : 1;
    // Of narrow vectors a block begins anywhere in a tile.
    const int first = vectors * LANES % KEY_TILE ? key % KEY_TILE : 0;
    const uint8_t *k[FEW_ROWS_VECTORS];
    F32 sum[ROWS * FEW_ROWS_VECTORS];
    for (int v = 0; v < vectors; v++) k[v] = tiles + (size_t)((key + LANES * v) / KEY_TILE) * tile;
    for (int i = 0; i < rows * vectors; i++) sum[i] = f32_zero();
    if (type == TYPE_Q8_0) {
        for (int b = 0; b < t->head_dim; b += 32) {
            // The sums of the blocks before wait in s: registers are for those of this one.
            for (int i = 0; i < rows * vectors; i++) sum[i] = f32_zero();
            for (int d = 0; d < 32; d++, q += ROWS) {
                F32 x[FEW_ROWS_VECTORS];
                for (int v = 0; v < vectors; v++) {
                    const int lane = (first + LANES * v) % KEY_TILE;
                    x[v] = f32_bytes(k[v] + 2 * KEY_TILE + KEY_TILE * d + lane);
                }
                multiply_add(rows, vectors, q, x, sum);
            }
            for (int v = 0; v < vectors; v++) {
                const F32 x = f32_halves(k[v] + 2 * ((first + LANES * v) % KEY_TILE));
                for (int r = 0; r < rows; r++) {
                    float *to = s + r * CHUNK + LANES * v;
                    const F32 before = b ? f32_load(to) : f32_zero();
                    f32_store(to, f32_fma(x, sum[r * vectors + v], before));
                }
                k[v] += KEY_TILE * 34;
            }
        }
        for (int r = 0; r < rows; r++) {
            for (int v = 0; v < vectors; v++)
                sum[r * vectors + v] = f32_load(s + r * CHUNK + LANES * v);
        }
    } else {
        for (int d = 0; d < t->head_dim; d++, q += ROWS) {
            F32 x[FEW_ROWS_VECTORS];
            for (int v = 0; v < vectors; v++) {
                const uint8_t *at = k[v] + element * ((first + LANES * v) % KEY_TILE);
                x[v] =
                    type == TYPE_F16 ? f32_halves(at) : f32_load((const float *)(const void *)at);
                k[v] += KEY_TILE * element;
            }
            multiply_add(rows, vectors, q, x, sum);
        }
    }
    const F32 scale = f32_all(t->scale);
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++)
            f32_store(s + r * CHUNK + LANES * v, f32_mul(scale, sum[r * vectors + v]));
    }
}

// n keys from the first of `tiles` on, and more up to the end of a block. v: their values, which
// are asked for, or NULL.
INLINE void score_rows(TensorType type, int rows, const AttentionTile *t, const uint8_t *tiles,
                       const float *q, int n, const uint8_t *v, float *s) {
    const int vectors = rows <= FEW_ROWS ? FEW_ROWS_VECTORS : BLOCK_VECTORS;
    const size_t bytes = (size_t)(vectors * LANES) * value_row_bytes(t->type_v, t->head_dim);
    for (int j = 0; j < n; j += vectors * LANES) {
        if (v) ask(v, bytes), v += bytes;
        score_block(type, rows, vectors, t, tiles, q, j, s + j);
    }
}

INLINE void score_group(TensorType type, int rows, const AttentionTile *t, const uint8_t *tiles,
                        const float *q, int n, const uint8_t *v, float *s) {
    if (rows == 1)
        score_rows(type, 1, t, tiles, q, n, v, s);
    else if (rows == 2)
        score_rows(type, 2, t, tiles, q, n, v, s);
    else if (ROWS > 4 && rows == 4)
        score_rows(type, 4, t, tiles, q, n, v, s);
    else
        score_rows(type, ROWS, t, tiles, q, n, v, s);
}

// Of all rows, the keys from `from` on of a chunk, whose tiles begin at `tiles`.
INLINE void score_keys(TensorType type, const AttentionTile *t, int first, int chunk, int from,
                       const uint8_t *tiles, const Room *room) {
    const size_t key = (size_t)(chunk * CHUNK + from);
    const uint8_t *v = t->v + key * value_row_bytes(t->type_v, t->head_dim);
    for (int r = first; r < t->n_rows; r += ROWS, v = NULL) {
        const int rows = group_rows(t, r), n = keys_of(t, r + rows - 1, chunk) - from;
        score_group(type, rows, t, tiles, room->q + (size_t)r * t->head_dim,
                    n < KEYS_AT_ONCE ? n : KEYS_AT_ONCE, v, room->s + (size_t)r * CHUNK + from);
    }
}

INLINE void scores_of(TensorType type, const AttentionTile *t, int first, int chunk,
                      const Room *room) {
    const size_t tile = key_tile_bytes(type, t->head_dim);
    const bool unpack = HALVES_ARE_DEAR && type == TYPE_F16 && t->n_rows - first > ROWS;
    const int n = keys_of(t, t->n_rows - 1, chunk);
    for (int from = 0; from < n; from += KEYS_AT_ONCE) {
        const uint8_t *tiles = t->k + (size_t)(chunk * CHUNK + from) / KEY_TILE * tile;
        if (unpack) {
            for (int i = 0; i < KEYS_AT_ONCE * t->head_dim; i += LANES)
                f32_store(room->wide + i, f32_halves(tiles + 2 * i));
            score_keys(TYPE_F32, t, first, chunk, from, (const uint8_t *)room->wide, room);
        } else {
            score_keys(type, t, first, chunk, from, tiles, room);
        }
    }
}

static void scores(const AttentionTile *t, int first, int chunk, const Room *room) {
    switch (t->type_k) {
        case TYPE_F16: scores_of(TYPE_F16, t, first, chunk, room); break;
        case TYPE_Q8_0: scores_of(TYPE_Q8_0, t, first, chunk, room); break;
        default: scores_of(TYPE_F32, t, first, chunk, room); break;
    }
}

// --- weights -------------------------------------------------------------------------------------

// The largest of n scores, a multiple of STEP; never below -FLT_MAX. NaN is ignored: the sum of the
// weights will have it.
INLINE float largest(const float *s, int n) {
    F32 m[PARTS];
    float x[STEP];
    for (int p = 0; p < PARTS; p++) m[p] = f32_all(-FLT_MAX);
    for (int i = 0; i < n; i += STEP) {
        for (int p = 0; p < PARTS; p++) m[p] = f32_max(f32_load(s + i + LANES * p), m[p]);
    }
    for (int p = 0; p < PARTS; p++) f32_store(x + LANES * p, m[p]);
    for (int half = STEP / 2; half; half /= 2) {
        for (int l = 0; l < half; l++) x[l] = x[l] > x[l + half] ? x[l] : x[l + half];
    }
    return x[0];
}

// Scores to weights; their sum, lane by lane.
INLINE void exp_all(float *s, int n, float most, float sum[STEP]) {
    const F32 top = f32_all(most);
    F32 total[PARTS];
    for (int p = 0; p < PARTS; p++) total[p] = f32_zero();
    for (int i = 0; i < n; i += STEP) {
        for (int p = 0; p < PARTS; p++) {
            const F32 e = f32_exp(f32_sub(f32_load(s + i + LANES * p), top));
            f32_store(s + i + LANES * p, e);
            total[p] = f32_add(total[p], e);
        }
    }
    for (int p = 0; p < PARTS; p++) f32_store(sum + LANES * p, total[p]);
}

// Step by step over the rows, so that the sums across the lanes of one do not wait for each other.
static void weights(const AttentionTile *t, int first, int chunk, const Room *room) {
    const size_t stride = attention_part(t->head_dim);
    float lanes[ATTENTION_ROWS][STEP];
    float *at = part_sum(room->part, t->head_dim);
    for (int r = first; r < t->n_rows; r++) {
        const int n = keys_of(t, r, chunk), whole = (n + STEP - 1) / STEP * STEP;
        float *s = room->s + (size_t)r * CHUNK;
        if (t->rows[r].kq && n) memcpy(t->rows[r].kq + chunk * CHUNK, s, (size_t)n * sizeof *s);
        for (int i = n; i < whole; i++) s[i] = -INFINITY;
        at[r * stride + 1] = largest(s, whole);
    }
    for (int r = first; r < t->n_rows; r++) {
        const int n = keys_of(t, r, chunk);
        exp_all(room->s + (size_t)r * CHUNK, (n + STEP - 1) / STEP * STEP, at[r * stride + 1],
                lanes[r]);
    }
    for (int r = first; r < t->n_rows; r++) {
        for (int half = STEP / 2; half; half /= 2) {
            for (int l = 0; l < half; l++) lanes[r][l] += lanes[r][l + half];
        }
        at[r * stride] = lanes[r][0];
    }
}

// --- values --------------------------------------------------------------------------------------

// Adds to rows x vectors of sums, of the elements from `dim` on, the keys [from, to). v: the rows
// from key 0 on; e: the weights of the first row.
INLINE void value_block(TensorType type, int rows, int vectors, const uint8_t *v, int head_dim,
                        int dim, const float *e, int from, int to, float *part) {
    const size_t v_row = value_row_bytes(type, head_dim), stride = attention_part(head_dim);
    F32 sum[ROWS * FEW_ROWS_VECTORS];
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < vectors; i++)
            sum[r * vectors + i] = f32_load(part + r * stride + dim + LANES * i);
    }
    v += (size_t)from * v_row;
    v += type == TYPE_Q8_0 ? dim / 32 * 34 : dim * (type == TYPE_F16 ? 2 : 4);
    for (int j = from; j < to; j++, v += v_row) {
        F32 x[FEW_ROWS_VECTORS];
        for (int i = 0; i < vectors; i++) {
            const int d = LANES * i;
            if (type == TYPE_Q8_0) {
                const uint8_t *block = v + d / 32 * 34;  // dim: a multiple of these vectors
                x[i] = f32_mul(f32_half(block), f32_bytes(block + 2 + dim % 32 + d % 32));
            } else {
                x[i] = type == TYPE_F16 ? f32_halves(v + 2 * d)
                                        : f32_load((const float *)(const void *)(v + 4 * d));
            }
        }
        for (int r = 0; r < rows; r++) {
            const F32 w = f32_all(e[r * CHUNK + j]);
            for (int i = 0; i < vectors; i++)
                sum[r * vectors + i] = f32_fma(w, x[i], sum[r * vectors + i]);
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < vectors; i++)
            f32_store(part + r * stride + dim + LANES * i, sum[r * vectors + i]);
    }
}

// As many vectors at once as go into registers, then one by one; behind the last element of the
// head the sums have room.
INLINE void value_rows(TensorType type, int rows, const uint8_t *v, int head_dim, int dim,
                       int vectors, const float *e, int from, int to, float *part) {
    const int most = rows <= FEW_ROWS ? FEW_ROWS_VECTORS : BLOCK_VECTORS;
    for (int end = dim + vectors * LANES; dim < end;) {
        const bool all = end - dim >= most * LANES;
        if (all)
            value_block(type, rows, most, v, head_dim, dim, e, from, to, part);
        else
            value_block(type, rows, 1, v, head_dim, dim, e, from, to, part);
        dim += LANES * (all ? most : 1);
    }
}

INLINE void value_group(TensorType type, int rows, const uint8_t *v, int head_dim, int dim,
                        int vectors, const float *e, int from, int to, float *part) {
    if (rows == 1)
        value_rows(type, 1, v, head_dim, dim, vectors, e, from, to, part);
    else if (rows == 2)
        value_rows(type, 2, v, head_dim, dim, vectors, e, from, to, part);
    else if (ROWS > 4 && rows == 4)
        value_rows(type, 4, v, head_dim, dim, vectors, e, from, to, part);
    else
        value_rows(type, ROWS, v, head_dim, dim, vectors, e, from, to, part);
}

// Asks for the part of the next chunk's keys that corresponds to the elements [dim, dim + n) of the
// values from `from` on.
INLINE void ask_next(const AttentionTile *t, int chunk, int from, int dim, int n) {
    const int key = (chunk + 1) * CHUNK + from, head_dim = t->head_dim;
    if (key >= row_at(t, t->n_rows)->n_keys) return;
    const size_t row = value_row_bytes(t->type_k, head_dim), bytes = KEYS_AT_ONCE * row;
    ask(t->k + (size_t)key * row + bytes * (size_t)dim / (size_t)head_dim,
        bytes * (size_t)n / (size_t)head_dim);
}

// Elements from dim on, the keys [from, from + n) of a chunk, whose rows begin at v: those that all
// rows of a group see together, then of each row those that the first did not.
INLINE void value_keys(TensorType type, const AttentionTile *t, int first, int chunk, int from,
                       const uint8_t *v, int dim, int vectors, const Room *room) {
    const size_t stride = attention_part(t->head_dim);
    for (int r = first; r < t->n_rows; r += ROWS) {
        const int rows = group_rows(t, r);
        int common = keys_of(t, r, chunk) - from;
        if (common > KEYS_AT_ONCE) common = KEYS_AT_ONCE;
        if (common < 0) common = 0;
        const float *e = room->s + (size_t)r * CHUNK + from;
        float *part = room->part + r * stride;
        value_group(type, rows, v, t->head_dim, dim, vectors, e, 0, common, part);
        for (int i = 1; common < KEYS_AT_ONCE && i < rows && r + i < t->n_rows; i++) {
            int n = keys_of(t, r + i, chunk) - from;
            if (n > KEYS_AT_ONCE) n = KEYS_AT_ONCE;
            if (n > common)
                value_rows(type, 1, v, t->head_dim, dim, vectors, e + i * CHUNK, common, n,
                           part + i * stride);
        }
    }
}

// n rows of values to floats.
INLINE void unpack_values(TensorType type, const uint8_t *v, int head_dim, int n, float *to) {
    for (int i = 0; i < n * head_dim; i += LANES) {
        const uint8_t *block = v + i / 32 * 34;
        f32_store(to + i, type == TYPE_F16
                              ? f32_halves(v + 2 * i)
                              : f32_mul(f32_half(block), f32_bytes(block + 2 + i % 32)));
    }
}

INLINE void values_of(TensorType type, const AttentionTile *t, int first, int chunk,
                      const Room *room) {
    const int head_dim = t->head_dim, most = keys_of(t, t->n_rows - 1, chunk);
    const size_t stride = attention_part(head_dim), row = value_row_bytes(type, head_dim);
    // Where enough rows share the work; hardware makes floats of halves on the way.
    const bool unpack = type == TYPE_Q8_0  ? t->n_rows - first > (HALVES_ARE_DEAR ? ROWS : 2 * ROWS)
                        : type == TYPE_F16 ? HALVES_ARE_DEAR && t->n_rows - first > ROWS
                                           : false;
    for (int r = first; r < t->n_rows; r++)
        memset(room->part + r * stride, 0, (stride - 16) * sizeof(float));
    for (int from = 0; from < most; from += KEYS_AT_ONCE) {
        const int left = most - from, n = left < KEYS_AT_ONCE ? left : KEYS_AT_ONCE;
        const uint8_t *v = t->v + (size_t)(chunk * CHUNK + from) * row;
        if (unpack) unpack_values(type, v, head_dim, n, room->wide);
        for (int dim = 0; dim < head_dim; dim += FEW_ROWS_VECTORS * LANES) {
            int vectors = (head_dim - dim + LANES - 1) / LANES;
            if (vectors > FEW_ROWS_VECTORS) vectors = FEW_ROWS_VECTORS;
            ask_next(t, chunk, from, dim, vectors * LANES);
            if (unpack)
                value_keys(TYPE_F32, t, first, chunk, from, (const uint8_t *)room->wide, dim,
                           vectors, room);
            else
                value_keys(type, t, first, chunk, from, v, dim, vectors, room);
        }
    }
}

static void values(const AttentionTile *t, int first, int chunk, const Room *room) {
    switch (t->type_v) {
        case TYPE_F16: values_of(TYPE_F16, t, first, chunk, room); break;
        case TYPE_Q8_0: values_of(TYPE_Q8_0, t, first, chunk, room); break;
        default: values_of(TYPE_F32, t, first, chunk, room); break;
    }
}

// --- chunks --------------------------------------------------------------------------------------

// The first row that sees a key of the chunk, and all of its group: those before it have sums of 0.
static int first_row(const AttentionTile *t, int chunk) {
    int r = 0;
    while (keys_of(t, r, chunk) == 0) r++;
    return r;
}

static void chunk_parts(const AttentionTile *t, int first, int chunk, const Room *room) {
    first = first / ROWS * ROWS;
    scores(t, first, chunk, room);
    weights(t, first, chunk, room);
    values(t, first, chunk, room);
}

static void attention_chunk(const AttentionTile *t, int chunk, void *scratch, float *parts) {
    const Room room = room_of(scratch, t->head_dim);
    const size_t stride = attention_part(t->head_dim);
    const int first = first_row(t, chunk);
    CHECK(t->head_dim <= MAX_HEAD_DIM && t->n_rows <= ATTENTION_ROWS);
    pack_q(t, room.q);
    chunk_parts(t, first, chunk, &room);
    memcpy(parts + first * stride, room.part + first * stride,
           (size_t)(t->n_rows - first) * stride * sizeof *parts);
}

// sum becomes the part of all keys up to those of part.
static void join_part(int head_dim, const float *part, float *sum) {
    float *to = part_sum(sum, head_dim);
    const float *from = part + (to - sum);
    const float most = from[1] > to[1] ? from[1] : to[1];
    float scales[2 * LANES];
    f32_store(scales, f32_exp(f32_all(to[1] - most)));
    f32_store(scales + LANES, f32_exp(f32_all(from[1] - most)));
    const F32 a = f32_load(scales), b = f32_load(scales + LANES);
    for (int i = 0; i < head_dim; i += LANES)
        f32_store(sum + i, f32_fma(f32_load(sum + i), a, f32_mul(f32_load(part + i), b)));
    to[0] = to[0] * scales[0] + from[0] * scales[LANES];
    to[1] = most;
}

static void row_result(int head_dim, float *sum, float *y) {
    const F32 total = f32_all(*part_sum(sum, head_dim));
    for (int i = 0; i < head_dim; i += LANES) f32_store(sum + i, f32_div(f32_load(sum + i), total));
    memcpy(y, sum, (size_t)head_dim * sizeof *y);
}

static void attention_join(int head_dim, const float *parts, int n, size_t stride, float *y) {
    _Alignas(64) float sum[MAX_HEAD_DIM + 16];
    CHECK(head_dim <= MAX_HEAD_DIM);
    memcpy(sum, parts, attention_part(head_dim) * sizeof *sum);
    for (int i = 1; i < n; i++) join_part(head_dim, parts + (size_t)i * stride, sum);
    row_result(head_dim, sum, y);
}

// The weights of all keys, for somebody who looks.
static void soft_row(const AttentionRow *row, const float *sum_and_most) {
    const F32 sum = f32_all(sum_and_most[0]), most = f32_all(sum_and_most[1]);
    for (int i = 0; i < row->n_keys; i += LANES) {
        const int n = row->n_keys - i < LANES ? row->n_keys - i : LANES;
        float x[LANES] = {0};
        memcpy(x, row->kq + i, (size_t)n * sizeof *x);
        f32_store(x, f32_div(f32_exp(f32_sub(f32_load(x), most)), sum));
        memcpy(row->soft + i, x, (size_t)n * sizeof *x);
    }
}

static void attention_rows(const AttentionTile *t, void *scratch) {
    const Room room = room_of(scratch, t->head_dim);
    const size_t stride = attention_part(t->head_dim);
    const int last = (t->rows[t->n_rows - 1].n_keys - 1) / CHUNK;
    CHECK(t->head_dim <= MAX_HEAD_DIM && t->n_rows <= ATTENTION_ROWS);
    pack_q(t, room.q);
    for (int chunk = 0; chunk <= last; chunk++) {
        const int first = first_row(t, chunk);
        chunk_parts(t, first, chunk, &room);
        if (chunk == 0) {
            memcpy(room.sum, room.part, (size_t)t->n_rows * stride * sizeof *room.sum);
            continue;
        }
        for (int r = first; r < t->n_rows; r++)
            join_part(t->head_dim, room.part + r * stride, room.sum + r * stride);
    }
    for (int r = 0; r < t->n_rows; r++) {
        const AttentionRow *row = &t->rows[r];
        float *sum = room.sum + r * stride;
        if (row->kq) soft_row(row, part_sum(sum, t->head_dim));
        row_result(t->head_dim, sum, row->y);
    }
}

const AttentionKernels attention_kernels = {
    .scratch = attention_scratch,
    .rows = attention_rows,
    .chunk = attention_chunk,
    .join = attention_join,
};
