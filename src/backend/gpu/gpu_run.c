// The operations of backend.h as launches of kernels.
//
// Products with quantized weights read their input as bytes (kernels.h). Whoever writes an input
// writes the bytes too, into one place that all share: Backend.coded says whose they are; where
// they are another's, they are made first.
#include <stdlib.h>

#include "backend/gpu/gpu_internal.h"

enum {
    FAR = 1 << 30,
    GROUPS_A_UNIT = 3,  // of matvec_ahead that run at once
};

static u32 groups_of(size_t n, size_t size) {
    return (u32)((n + size - 1) / size);
}

static void launch(Backend *b, KernelId id, u32 gx, u32 gy, u32 gz, DeviceBuffer *const *buffers,
                   const void *args) {
    if (b->failed) return;
    Error err;
    DeviceLaunch l = {.entry = &b->entry[id], .groups = {gx, gy, gz}, .args = args};
    for (int i = 0; i < l.entry->n_buffers; i++) {
        l.buffers[i] = buffers[i] ? buffers[i] : b->nothing;
    }
    if (b->ops->launch(b->dev, &l, &err)) gpu_fail(b, &err);
}

// y was written; if `coded`, its bytes with it.
static void wrote(Backend *b, const Buffer *y, bool coded) {
    if (coded)
        b->coded = y;
    else if (b->coded == y)
        b->coded = NULL;
}

// May n activations in rows of `width` be written as bytes, too? Will they be read so?
static bool codes_wanted(const Backend *b, size_t n, int width) {
    if (width % 32 != 0 || n > b->codes_n) return false;
    for (const Weight *w = b->weights; w; w = w->next) {
        if (w->is_blocks && w->n_in == width) return true;
    }
    return false;
}

// --- a batch ----------------------------------------------------------------------------------

// Where a batch's parts stand in the step buffer.
static i32 out_row_at(const Batch *batch) {
    return 3 * batch->n;
}

static i32 cos_at(const Batch *batch) {
    return out_row_at(batch) + batch->n_out;
}

static i32 sin_at(const Batch *batch) {
    return cos_at(batch) + batch->n * batch->n_pairs;
}

Status gpu_begin(Backend *b, const Batch *batch, Error *err) {
    CHECK(batch->n > 0 && batch->n <= b->max_tokens && batch->n_out <= batch->n);
    CHECK(batch->n_pairs <= MAX_HEAD_DIM / 2);
    const size_t n = (size_t)batch->n, n_out = (size_t)batch->n_out;
    const size_t table = n * (size_t)batch->n_pairs;
    u32 *to = b->step_host;
    memcpy(to, batch->token, n * sizeof *to);
    memcpy(to + n, batch->pos, n * sizeof *to);
    memcpy(to + 2 * n, batch->seq, n * sizeof *to);
    if (n_out) memcpy(to + 3 * n, batch->out_row, n_out * sizeof *to);
    memcpy(to + cos_at(batch), batch->rope_cos, table * sizeof *to);
    memcpy(to + sin_at(batch), batch->rope_sin, table * sizeof *to);
    b->batch = batch;
    b->coded = NULL;
    if (b->failed) return gpu_end(b, err);
    return b->ops->write(b->dev, b->step, 0, to, (3 * n + n_out + 2 * table) * sizeof *to, err);
}

void gpu_embed(Backend *b, const Weight *table, Buffer *y) {
    const EmbedArgs a = {.table = table->args, .dim = table->n_in};
    DeviceBuffer *const buffers[] = {table->data, b->step, y->data};
    launch(b, KERNEL_embed_rows, (u32)b->batch->n, 1, 1, buffers, &a);
    wrote(b, y, false);
}

void gpu_select(Backend *b, const Buffer *x, int from, int n, int width, Buffer *y) {
    const SelectArgs a = {.row_at = out_row_at(b->batch) + from, .width = width};
    DeviceBuffer *const buffers[] = {x->data, b->step, y->data};
    launch(b, KERNEL_select_rows, groups_of((size_t)width, 256), (u32)n, 1, buffers, &a);
    wrote(b, y, false);
}

// --- element by element -----------------------------------------------------------------------

void gpu_rmsnorm(Backend *b, const Buffer *x, const Weight *w, float eps, int rows, int width,
                 Buffer *y) {
    const bool coded = codes_wanted(b, (size_t)rows * (size_t)width, width);
    const NormArgs a = {.eps = eps, .width = width, .quantize = coded};
    DeviceBuffer *const buffers[] = {x->data, w->data, y->data, b->codes, b->scales};
    launch(b, KERNEL_rms_norm, (u32)rows, 1, 1, buffers, &a);
    wrote(b, y, coded);
}

void gpu_swiglu(Backend *b, const Buffer *gate, const Buffer *up, size_t n, Buffer *y) {
    const int width = (int)(n / (size_t)b->batch->n);
    const bool coded = codes_wanted(b, n, width);
    const SwigluArgs a = {.n = (i32)n, .quantize = coded};
    DeviceBuffer *const buffers[] = {gate->data, up->data, y->data, b->codes, b->scales};
    launch(b, KERNEL_swiglu_rows, groups_of(n, 1024), 1, 1, buffers, &a);
    wrote(b, y, coded);
}

void gpu_add(Backend *b, Buffer *x, const Buffer *y, size_t n) {
    const CountArgs a = {.n = (i32)n};
    DeviceBuffer *const buffers[] = {x->data, y->data};
    launch(b, KERNEL_add_rows, groups_of(n, 256), 1, 1, buffers, &a);
    wrote(b, x, false);
}

// --- products ---------------------------------------------------------------------------------

static void make_codes(Backend *b, const Buffer *x, size_t n) {
    if (b->coded == x) return;
    const CountArgs a = {.n = (i32)n};
    DeviceBuffer *const buffers[] = {x->data, b->codes, b->scales};
    CHECK(n <= b->codes_n);
    launch(b, KERNEL_quantize_rows, groups_of(n, 1024), 1, 1, buffers, &a);
    b->coded = x;
}

static KernelId vector_kernel(const Backend *b, int rows, u32 groups) {
    const bool at_once = groups <= (u32)(GROUPS_A_UNIT * b->info.n_units);
    return rows == 1   ? (at_once ? KERNEL_matvec_ahead : KERNEL_matvec_1)
           : rows == 2 ? KERNEL_matvec_2
           : rows <= 4 ? KERNEL_matvec_4
                       : KERNEL_matvec_8;
}

// Items of matvec_* that share two rows: as many as take a row of segments in one pass, so that all
// that they read is asked for at once.
static int vector_lanes(int n_in) {
    return n_in <= 2048 ? 32 : n_in <= 4096 ? 64 : 128;
}

// At most MAX_OUTS outputs whose weights are all blocks, or all floats.
static void multiply(Backend *b, const Buffer *x, int rows, const MatmulOut *const *outs, int n,
                     bool blocks) {
    const int n_in = outs[0]->w->n_in;
    const bool few = rows <= VEC_TOKENS;
    const KernelId tiles = blocks ? KERNEL_matmul_blocks : KERNEL_matmul_floats;
    MatmulArgs a = {
        .first_group = {0, FAR, FAR}, .n_in = n_in, .n_tokens = rows, .lanes = vector_lanes(n_in)};
    const size_t group_rows = few ? 256 / (size_t)a.lanes : TILE_ROWS;
    DeviceBuffer *buffers[13] = {b->codes, b->scales, x->data};
    u32 groups = 0;
    for (int i = 0; i < n; i++) {
        const MatmulOut *o = outs[i];
        a.out[i] = o->w->args;
        a.first_group[i] = (i32)groups;
        groups += groups_of((size_t)o->w->args.rows, group_rows);
        buffers[3 + i] = o->w->data;
        if (o->bias) {
            a.has_bias |= 1 << i;
            buffers[6 + i] = o->bias->data;
        }
        buffers[9 + i] = o->y->data;
    }
    if (outs[0]->residual) {
        a.has_residual = 1;
        buffers[12] = outs[0]->residual->data;
    }
    if (blocks) make_codes(b, x, (size_t)rows * (size_t)n_in);
    launch(b, few ? vector_kernel(b, rows, groups) : tiles, groups,
           few ? 1 : groups_of((size_t)rows, TILE_TOKENS), 1, buffers, &a);
}

void gpu_matmul(Backend *b, const Buffer *x, int rows, const MatmulOut *outs, int n_outs) {
    CHECK(n_outs >= 1 && n_outs <= 4 && rows <= b->max_tokens);
    for (int blocks = 0; blocks <= 1; blocks++) {
        const MatmulOut *some[MAX_OUTS];
        int n = 0;
        for (int i = 0; i < n_outs; i++) {
            if (outs[i].w->is_blocks != (bool)blocks) continue;
            some[n++] = &outs[i];
            // An output with a residual goes alone.
            const bool whole =
                n == MAX_OUTS || outs[i].residual || (i + 1 < n_outs && outs[i + 1].residual);
            if (!whole) continue;
            multiply(b, x, rows, some, n, blocks);
            n = 0;
        }
        if (n) multiply(b, x, rows, some, n, blocks);
    }
    for (int i = 0; i < n_outs; i++) wrote(b, outs[i].y, false);
}

// --- attention --------------------------------------------------------------------------------

void gpu_rope_kv(Backend *b, const HeadShape *h, Buffer *q, Buffer *k, const Buffer *v, Kv *kv,
                 int layer) {
    CHECK(h->n_rot / 2 == b->batch->n_pairs);
    const RopeArgs a = {.cache = gpu_cache_args(kv, layer, b->batch->n),
                        .n_heads = h->n_heads,
                        .n_rot = h->n_rot,
                        .neox = h->neox,
                        .cos_at = cos_at(b->batch),
                        .sin_at = sin_at(b->batch)};
    DeviceBuffer *const buffers[] = {q->data, k->data, v->data, b->step, kv->k, kv->v};
    launch(b, KERNEL_rope_write, (u32)b->batch->n, (u32)(h->n_heads + 2 * h->n_kv_heads), 1,
           buffers, &a);
    wrote(b, q, false);
    wrote(b, k, false);
}

// Of few tokens each span of keys is a group's: how many there may be, so that a recorded step does
// not depend on how long the context is by now. 0: a group takes all keys of its heads.
static int spans_of(const Kv *kv, int n_tokens) {
    return n_tokens <= SPLIT_TOKENS ? kv->n_spans : 0;
}

// Scores and weights for a tap; attend_keys makes its own.
static void show_scores(Backend *b, const AttendArgs *a, const Buffer *q, const Kv *kv, Buffer *kq,
                        Buffer *soft) {
    DeviceBuffer *const buffers[] = {q->data, kv->k, b->step, kq->data, soft->data};
    launch(b, KERNEL_attend_scores, (u32)b->batch->n, (u32)a->n_heads, 1, buffers, a);
    wrote(b, kq, false);
    wrote(b, soft, false);
}

void gpu_attention(Backend *b, const HeadShape *h, const Buffer *q, const Kv *kv, int layer,
                   Buffer *y, Buffer *kq, Buffer *soft, int n_keys) {
    const int n = b->batch->n, per_kv = h->n_heads / h->n_kv_heads;
    const int slice = per_kv < MAX_SLICE ? per_kv : MAX_SLICE;
    const int n_slices = (per_kv + slice - 1) / slice, spans = spans_of(kv, n);
    const int width = h->n_heads * h->head_dim;
    const bool coded =
        spans && h->head_dim % 32 == 0 && codes_wanted(b, (size_t)n * (size_t)width, width);
    const AttendArgs a = {.cache = gpu_cache_args(kv, layer, n),
                          .n_heads = h->n_heads,
                          .slice = slice,
                          .n_slices = n_slices,
                          .n_spans = spans,
                          .n_keys = n_keys,
                          .quantize = coded,
                          .scale = h->scale};
    if (kq) show_scores(b, &a, q, kv, kq, soft);
    DeviceBuffer *const buffers[] = {q->data, kv->k, kv->v, b->step, y->data, kv->partial};
    launch(b, KERNEL_attend_keys, (u32)n, (u32)(h->n_kv_heads * n_slices), spans ? (u32)spans : 1,
           buffers, &a);
    if (spans) {
        DeviceBuffer *const parts[] = {kv->partial, b->step, y->data, b->codes, b->scales};
        launch(b, KERNEL_attend_join, (u32)n, (u32)h->n_heads, 1, parts, &a);
    }
    wrote(b, y, coded);
}
