// Rotary embedding, the cache's new rows, and attention, split over threads.
#include "backend/cpu/cpu_internal.h"
#include "base/arena.h"

typedef struct {
    Backend *b;
    HeadShape h;  // the caller's may be gone when this runs
    float *q, *k;
    const float *v;
    Kv *kv;
    int layer;
} RopeJob;

static void rotate_halves(int pairs, float *restrict a, float *restrict b,
                          const float *restrict cosine, const float *restrict sine) {
    for (int i = 0; i < pairs; i++) {
        const float x0 = a[i], x1 = b[i];
        a[i] = x0 * cosine[i] - x1 * sine[i];
        b[i] = x0 * sine[i] + x1 * cosine[i];
    }
}

static void rotate_neighbours(int pairs, float *restrict x, const float *restrict cosine,
                              const float *restrict sine) {
    for (int i = 0; i < pairs; i++) {
        const float x0 = x[2 * i], x1 = x[2 * i + 1];
        x[2 * i] = x0 * cosine[i] - x1 * sine[i];
        x[2 * i + 1] = x0 * sine[i] + x1 * cosine[i];
    }
}

static void rotate(const HeadShape *h, float *x, const float *cosine, const float *sine) {
    if (h->neox)
        rotate_halves(h->n_rot / 2, x, x + h->n_rot / 2, cosine, sine);
    else
        rotate_neighbours(h->n_rot / 2, x, cosine, sine);
}

// Items are heads: of each token first those of q, then those of k, which go into the cache with
// their v.
static void rope_part(void *arg, int ith, int nth) {
    const RopeJob *j = arg;
    const HeadShape *h = &j->h;
    const Batch *batch = j->b->batch;
    const int d = h->head_dim, heads = h->n_heads + h->n_kv_heads;
    long from, to;
    pool_split((long)batch->n * heads, 1, ith, nth, &from, &to);
    for (long item = from; item < to; item++) {
        const long i = item / heads;
        const int head = (int)(item % heads), kv_head = head - h->n_heads;
        const float *cosine = batch->rope_cos + i * (h->n_rot / 2);
        const float *sine = batch->rope_sin + i * (h->n_rot / 2);
        if (kv_head < 0) {
            rotate(h, j->q + (i * h->n_heads + head) * d, cosine, sine);
            continue;
        }
        float *k = j->k + (i * h->n_kv_heads + kv_head) * d;
        const float *v = j->v + (i * h->n_kv_heads + kv_head) * d;
        rotate(h, k, cosine, sine);
        kv_put(j->b->kernels, j->kv, j->layer, batch->seq[i], kv_head, batch->pos[i], k, v);
    }
}

void cpu_rope_kv(Backend *b, const HeadShape *h, Buffer *q, Buffer *k, const Buffer *v, Kv *kv,
                 int layer) {
    RopeJob *job = stage_push(&b->stages, rope_part, sizeof *job,
                              (size_t)b->batch->n * (size_t)(h->n_heads * h->head_dim));
    *job = (RopeJob){b, *h, q->data, k->data, v->data, kv, layer};
}

// --- attention --------------------------------------------------------------------------------
//
// The heads that share a kv head, of consecutive tokens of a sequence, are rows that share its
// keys; up to ATTENTION_ROWS of them are a tile. Tiles are shared out by what they cost. Where that
// leaves threads idle (a long context, few tokens) chunks are shared out instead, and a second
// stage joins their parts: the same arithmetic in the same order.

typedef struct {
    Backend *b;
    HeadShape h;
    const float *q;
    const Kv *kv;
    int layer;
    float *y, *kq, *soft;
    int n_keys;
    long total;  // what all tiles cost
    long rows;   // of all tiles
} AttentionJob;

// Where a walk over the tiles stands.
typedef struct {
    int from, to;  // tokens: one sequence, ascending positions
    int kv_head, row, n_rows;
    int n_keys;      // that the last row sees
    size_t part_at;  // floats of the parts of the tiles before
    long cost_at;    // cost of the tiles before
    long rows_at;    // rows of the tiles before
} Walk;

static int heads_per_kv(const HeadShape *h) {
    return h->n_heads / h->n_kv_heads;
}

static int chunks_of(int n_keys) {
    return (n_keys + ATTENTION_CHUNK - 1) / ATTENTION_CHUNK;
}

static long tile_cost(const Walk *w) {
    return (long)w->n_rows * w->n_keys;
}

static size_t tile_parts(const Walk *w, int head_dim) {
    return (size_t)w->n_rows * (size_t)chunks_of(w->n_keys) * attention_part(head_dim);
}

// The next tile; a walk begins with zeros. False past the last.
static bool next_tile(const Batch *batch, const HeadShape *h, Walk *w) {
    if (w->n_rows) {
        w->part_at += tile_parts(w, h->head_dim);
        w->cost_at += tile_cost(w);
        w->rows_at += w->n_rows;
        w->row += w->n_rows;
        if (w->row == (w->to - w->from) * heads_per_kv(h)) w->row = 0, w->kv_head++;
        if (w->kv_head == h->n_kv_heads) w->from = w->to, w->kv_head = 0;
    }
    if (w->from == batch->n) return false;
    if (w->row == 0 && w->kv_head == 0) {
        w->to = w->from + 1;
        while (w->to < batch->n && batch->seq[w->to] == batch->seq[w->from] &&
               batch->pos[w->to] > batch->pos[w->to - 1])
            w->to++;
    }
    const int left = (w->to - w->from) * heads_per_kv(h) - w->row;
    w->n_rows = left < ATTENTION_ROWS ? left : ATTENTION_ROWS;
    w->n_keys = batch->pos[w->from + (w->row + w->n_rows - 1) / heads_per_kv(h)] + 1;
    return true;
}

// Which of n threads does what lies `cost` wide at `at`.
static int thread_of(long at, long cost, long total, int n) {
    return (int)((at + cost / 2) * n / total);
}

static void make_tile(const AttentionJob *j, const Walk *w, AttentionTile *t) {
    const HeadShape *h = &j->h;
    const Batch *batch = j->b->batch;
    const int heads = heads_per_kv(h), seq = batch->seq[w->from];
    t->type_k = j->kv->shape.type_k, t->type_v = j->kv->shape.type_v;
    t->k = kv_k(j->kv, j->layer, seq, w->kv_head, 0);
    t->v = kv_v(j->kv, j->layer, seq, w->kv_head, 0);
    t->head_dim = h->head_dim, t->scale = h->scale, t->n_rows = w->n_rows;
    for (int r = 0; r < w->n_rows; r++) {
        const int token = w->from + (w->row + r) / heads;
        const long row = (long)token * h->n_heads + w->kv_head * heads + (w->row + r) % heads;
        t->rows[r] = (AttentionRow){.q = j->q + row * h->head_dim,
                                    .y = j->y + row * h->head_dim,
                                    .kq = j->kq ? j->kq + row * j->n_keys : NULL,
                                    .soft = j->kq ? j->soft + row * j->n_keys : NULL,
                                    .n_keys = batch->pos[token] + 1};
    }
}

// Keys that a row does not see have no score and no weight.
static void mask_scores(const AttentionJob *j, const AttentionTile *t) {
    for (int r = 0; r < t->n_rows; r++) {
        const AttentionRow *row = &t->rows[r];
        for (int i = row->n_keys; i < j->n_keys; i++) row->kq[i] = row->soft[i] = 0;
    }
}

static void attention_part_of(void *arg, int ith, int nth) {
    const AttentionJob *j = arg;
    Walk w = {0};
    while (next_tile(j->b->batch, &j->h, &w)) {
        if (thread_of(w.cost_at, tile_cost(&w), j->total, nth) != ith) continue;
        AttentionTile t;
        make_tile(j, &w, &t);
        j->b->kernels->attention->rows(&t, thread_scratch(j->b, ith));
        if (j->kq) mask_scores(j, &t);
    }
}

static void chunks_part(void *arg, int ith, int nth) {
    const AttentionJob *j = arg;
    const size_t part = attention_part(j->h.head_dim);
    Walk w = {0};
    while (next_tile(j->b->batch, &j->h, &w)) {
        AttentionTile t;
        t.n_rows = 0;
        for (int c = 0; c < chunks_of(w.n_keys); c++) {
            const int before = c * ATTENTION_CHUNK, left = w.n_keys - before;
            const long cost = (long)w.n_rows * (left < ATTENTION_CHUNK ? left : ATTENTION_CHUNK);
            const long at = w.cost_at + (long)w.n_rows * before;
            if (thread_of(at, cost, j->total, nth) != ith) continue;
            if (!t.n_rows) make_tile(j, &w, &t);
            j->b->kernels->attention->chunk(
                &t, c, thread_scratch(j->b, ith),
                j->b->parts + w.part_at + (size_t)c * (size_t)w.n_rows * part);
        }
    }
}

static void join_part_of(void *arg, int ith, int nth) {
    const AttentionJob *j = arg;
    const size_t part = attention_part(j->h.head_dim);
    Walk w = {0};
    while (next_tile(j->b->batch, &j->h, &w)) {
        AttentionTile t;
        t.n_rows = 0;
        for (int r = 0; r < w.n_rows; r++) {
            if (thread_of(w.rows_at + r, 1, j->rows, nth) != ith) continue;
            if (!t.n_rows) make_tile(j, &w, &t);
            j->b->kernels->attention->join(
                j->h.head_dim, j->b->parts + w.part_at + (size_t)r * part,
                chunks_of(t.rows[r].n_keys), (size_t)w.n_rows * part, t.rows[r].y);
        }
    }
}

// Fills in the totals. Is it worth while to share out chunks: would the busiest thread have a
// quarter more than its share, and is there room for the parts?
static bool split_chunks(AttentionJob *j) {
    const int n = pool_threads(j->b->pool);
    Walk w = {0};
    int chunks = 1;
    while (next_tile(j->b->batch, &j->h, &w))
        if (chunks_of(w.n_keys) > chunks) chunks = chunks_of(w.n_keys);
    j->total = w.cost_at, j->rows = w.rows_at;
    if (n == 1 || chunks == 1 || j->kq || w.part_at > j->b->n_parts) return false;
    long most = 0, load = 0;
    int busy = 0;
    w = (Walk){0};
    while (next_tile(j->b->batch, &j->h, &w)) {
        const int thread = thread_of(w.cost_at, tile_cost(&w), j->total, n);
        load = thread == busy ? load + tile_cost(&w) : tile_cost(&w);
        busy = thread;
        if (load > most) most = load;
    }
    return most * n > j->total + j->total / 4;
}

void cpu_attention(Backend *b, const HeadShape *h, const Buffer *q, const Kv *kv, int layer,
                   Buffer *y, Buffer *kq, Buffer *soft, int n_keys) {
    CHECK(heads_per_kv(h) <= b->max_heads);
    AttentionJob job = {.b = b,
                        .h = *h,
                        .q = q->data,
                        .kv = kv,
                        .layer = layer,
                        .y = y->data,
                        .kq = kq ? kq->data : NULL,
                        .soft = soft ? soft->data : NULL,
                        .n_keys = n_keys};
    const bool split = split_chunks(&job);
    const size_t work = (size_t)job.total * (size_t)h->head_dim;
    AttentionJob *to =
        stage_push(&b->stages, split ? chunks_part : attention_part_of, sizeof *to, work);
    *to = job;
    if (!split) return;
    to = stage_push(&b->stages, join_part_of, sizeof *to, work / ATTENTION_CHUNK);
    *to = job;
}

// --- room -------------------------------------------------------------------------------------

size_t attention_scratch(const Backend *b) {
    return b->kernels->attention->scratch(MAX_HEAD_DIM);
}

// Parts of a few tokens over the whole context. How many heads there are is not known here: their
// elements are the input of a matmul. The pages are touched when they are used.
Status attention_reserve(Backend *b, int max_tokens, int max_ctx, Error *err) {
    enum { TOKENS = 4, LEAST = 4096 };
    if (pool_threads(b->pool) == 1) return OK;
    const size_t wide = (size_t)(b->max_cols > LEAST ? b->max_cols : LEAST);
    const size_t tokens = (size_t)(max_tokens < TOKENS ? max_tokens : TOKENS);
    const size_t n = (size_t)chunks_of(max_ctx) * tokens * (wide + wide / 2);
    if (n <= b->n_parts) return OK;
    float *parts = large_alloc(n * sizeof *parts);
    if (!parts) return error_memory(err, "attention", n * sizeof *parts);
    large_free(b->parts, b->n_parts * sizeof *parts);
    b->parts = parts, b->n_parts = n;
    return OK;
}
