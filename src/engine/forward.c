// One forward pass; see forward.h. Shapes stand at every step: n tokens, dim, heads x head_dim,
// ffn_dim.
#include "engine/forward.h"

#include <math.h>
#include <stdlib.h>

enum { OUT_ROWS = 32 };  // logits are made for this many rows at a time

// What a pass has on one backend: the buffers between operations, the cache of the layers there.
typedef struct {
    const DevicePart *on;
    const BackendOps *ops;
    Backend *b;
    Kv *kv;  // NULL where there are no layers
    // n x: dim, dim, dim, q_dim, kv_dim, kv_dim, q_dim, ffn_dim, ffn_dim; OUT_ROWS x dim, n_vocab.
    // All but x are NULL where nothing needs them.
    Buffer *x, *xn, *sum, *q, *k, *v, *att, *gate, *up, *rows, *logits;
} Part;

// Batches of one size that all give logits: decode steps. The first runs as any batch does (what a
// backend prepares when it first meets a shape is then there), the second is recorded.
typedef struct {
    int n_runs;            // 2: no more than that are counted
    Recording *recording;  // NULL: not recorded (yet, or the device would not)
} Step;

struct Forward {
    DeviceModel *d;
    ForwardConfig config;
    HeadShape heads;
    Tap tap;
    Part parts[DEVICE_PARTS];
    float *carried;  // n x dim: x on its way from one part to another; NULL with one part
    float *cosine, *sine;
    Step steps[OUT_ROWS + 1];  // by number of tokens
    int reserved;              // d->n_reserves when the first of them was recorded
};

static int q_dim(const Hparams *h) {
    return h->n_heads * h->head_dim;
}

static int kv_dim(const Hparams *h) {
    return h->n_kv_heads * h->head_dim;
}

static int out_rows(const ForwardConfig *c) {
    return c->max_batch < OUT_ROWS ? c->max_batch : OUT_ROWS;
}

void forward_set_tap(Forward *f, Tap tap) {
    f->tap = tap;
}

// Layer n_layers is the output.
static Part *part_of(Forward *f, int layer) {
    return &f->parts[device_model_part(f->d, layer)];
}

// Copies a component out of the device and shows it. Only with a tap set.
static Status tap(const Forward *f, const Part *p, const char *name, int layer, const Buffer *buf,
                  size_t rows, size_t width, Error *err) {
    if (!f->tap.fn) return OK;
    float *x = malloc(rows * width * sizeof *x);
    if (!x) return error_memory(err, name, rows * width * sizeof *x);
    Status st = p->ops->download(p->b, buf, x, rows * width, err);
    if (!st) f->tap.fn(f->tap.user, name, layer, x, rows, width);
    free(x);
    return st;
}

#define TAP(name, buf, rows, width)                                                     \
    do {                                                                                \
        Status st_ = tap(f, p, name, layer, buf, (size_t)(rows), (size_t)(width), err); \
        if (st_) return st_;                                                            \
    } while (0)

// x += W y, fused where nobody looks; with a tap the product and the sum are shown apart. Same
// bits.
static Status project_add(const Forward *f, const Part *p, int n, const Buffer *in, const Weight *w,
                          const Weight *bias, const char *name, int layer, Error *err) {
    const int dim = f->d->model->h.dim;
    if (!f->tap.fn) {
        p->ops->matmul(p->b, in, n, &(MatmulOut){w, bias, p->x, p->x}, 1);
        return OK;
    }
    p->ops->matmul(p->b, in, n, &(MatmulOut){w, bias, NULL, p->sum}, 1);
    TAP(name, p->sum, n, dim);
    p->ops->add(p->b, p->x, p->sum, (size_t)n * (size_t)dim);
    return OK;
}

// With a tap that wants them attention also writes its scores: n * n_heads x n_keys each.
static Status attend(const Forward *f, const Part *p, const Batch *batch, int layer, Error *err) {
    const HeadShape *h = &f->heads;
    const int at = layer - p->on->first;
    if (!f->tap.fn || !f->tap.scores) {
        p->ops->attention(p->b, h, p->q, p->kv, at, p->att, NULL, NULL, 0);
        return OK;
    }
    int n_keys = 0;
    for (int i = 0; i < batch->n; i++)
        n_keys = batch->pos[i] >= n_keys ? batch->pos[i] + 1 : n_keys;
    size_t rows = (size_t)batch->n * (size_t)h->n_heads, n = rows * (size_t)n_keys;
    Buffer *kq = NULL, *soft = NULL;
    Status st = p->ops->buffer(p->b, n, &kq, err);
    if (!st) st = p->ops->buffer(p->b, n, &soft, err);
    if (!st) {
        p->ops->attention(p->b, h, p->q, p->kv, at, p->att, kq, soft, n_keys);
        st = tap(f, p, "kq", layer, kq, rows, (size_t)n_keys, err);
    }
    if (!st) st = tap(f, p, "kq_soft_max", layer, soft, rows, (size_t)n_keys, err);
    p->ops->buffer_free(p->b, kq);
    p->ops->buffer_free(p->b, soft);
    return st;
}

static Status run_layer(const Forward *f, const Part *p, const Batch *batch, int layer,
                        Error *err) {
    const BackendOps *ops = p->ops;
    const Hparams *h = &f->d->model->h;
    const DeviceLayer *w = &f->d->layers[layer];
    Backend *b = p->b;
    const int n = batch->n;

    // x: n x dim -> q: n x heads * head_dim; k, v: n x kv_heads * head_dim
    ops->rmsnorm(b, p->x, w->attn_norm, h->rms_eps, n, h->dim, p->xn);
    TAP("attn_norm", p->xn, n, h->dim);
    const MatmulOut qkv[] = {{w->q, w->q_bias, NULL, p->q},
                             {w->k, w->k_bias, NULL, p->k},
                             {w->v, w->v_bias, NULL, p->v}};
    ops->matmul(b, p->xn, n, qkv, 3);
    TAP("q", p->q, n, q_dim(h));
    TAP("k", p->k, n, kv_dim(h));
    TAP("v", p->v, n, kv_dim(h));
    if (w->q_norm) {  // each head is a row
        ops->rmsnorm(b, p->q, w->q_norm, h->rms_eps, n * h->n_heads, h->head_dim, p->q);
        TAP("q_norm", p->q, n, q_dim(h));
    }
    if (w->k_norm) {
        ops->rmsnorm(b, p->k, w->k_norm, h->rms_eps, n * h->n_kv_heads, h->head_dim, p->k);
        TAP("k_norm", p->k, n, kv_dim(h));
    }
    ops->rope_kv(b, &f->heads, p->q, p->k, p->v, p->kv, layer - p->on->first);
    TAP("q_rope", p->q, n, q_dim(h));
    TAP("k_rope", p->k, n, kv_dim(h));
    Status st = attend(f, p, batch, layer, err);  // att: n x heads * head_dim
    if (st) return st;
    TAP("attn", p->att, n, q_dim(h));
    st = project_add(f, p, n, p->att, w->attn_out, w->attn_out_bias, "attn_out", layer, err);
    if (st) return st;
    TAP("ffn_inp", p->x, n, h->dim);

    // gate, up: n x ffn_dim
    ops->rmsnorm(b, p->x, w->ffn_norm, h->rms_eps, n, h->dim, p->xn);
    TAP("ffn_norm", p->xn, n, h->dim);
    const MatmulOut gate_up[] = {{w->ffn_gate, w->ffn_gate_bias, NULL, p->gate},
                                 {w->ffn_up, w->ffn_up_bias, NULL, p->up}};
    ops->matmul(b, p->xn, n, gate_up, 2);
    TAP("ffn_gate", p->gate, n, h->ffn_dim);
    TAP("ffn_up", p->up, n, h->ffn_dim);
    ops->swiglu(b, p->gate, p->up, (size_t)n * (size_t)h->ffn_dim, p->gate);
    TAP("ffn_act", p->gate, n, h->ffn_dim);
    st = project_add(f, p, n, p->gate, w->ffn_down, w->ffn_down_bias, "ffn_out", layer, err);
    if (st) return st;
    TAP("l_out", p->x, n, h->dim);
    return OK;
}

// x goes on from the part *p to the part that has `layer`.
static Status carry(Forward *f, Part **p, int layer, int n, Error *err) {
    const size_t n_floats = (size_t)n * (size_t)f->d->model->h.dim;
    Part *from = *p, *to = part_of(f, layer);
    if (from == to) return OK;
    *p = to;
    Status st = from->ops->download(from->b, from->x, f->carried, n_floats, err);
    return st ? st : to->ops->upload(to->b, to->x, f->carried, n_floats, err);
}

// From token ids to x, n x dim, where the output is made of it.
static Status run_layers(Forward *f, const Batch *batch, Error *err) {
    const int n_layers = f->d->model->h.n_layers;
    Part *p = part_of(f, 0);
    int layer = -1;
    p->ops->embed(p->b, p->on->token_embd, p->x);
    TAP("embd", p->x, batch->n, f->d->model->h.dim);
    for (layer = 0; layer < n_layers; layer++) {
        Status st = carry(f, &p, layer, batch->n, err);
        if (!st) st = run_layer(f, p, batch, layer, err);
        if (st) return st;
    }
    return carry(f, &p, n_layers, batch->n, err);
}

// Final norm and head for at most OUT_ROWS of the rows asked for, from the at-th on.
static Status run_head(const Forward *f, const Part *p, int at, int rows, Error *err) {
    const BackendOps *ops = p->ops;
    const Hparams *h = &f->d->model->h;
    const int layer = -1;
    ops->select(p->b, p->x, at, rows, h->dim, p->rows);
    ops->rmsnorm(p->b, p->rows, p->on->output_norm, h->rms_eps, rows, h->dim, p->rows);
    TAP("norm", p->rows, rows, h->dim);
    ops->matmul(p->b, p->rows, rows, &(MatmulOut){p->on->head, NULL, NULL, p->logits}, 1);
    TAP("logits", p->logits, rows, h->n_vocab);
    return OK;
}

static Status download_logits(const Forward *f, const Part *p, int at, int rows, float *logits,
                              Error *err) {
    const size_t n_vocab = (size_t)f->d->model->h.n_vocab;
    return p->ops->download(p->b, p->logits, logits + (size_t)at * n_vocab, (size_t)rows * n_vocab,
                            err);
}

static Status run_all(Forward *f, const Batch *batch, float *logits, Error *err) {
    const Part *p = part_of(f, f->d->model->h.n_layers);
    const int most = out_rows(&f->config);
    Status st = run_layers(f, batch, err);
    for (int at = 0; !st && at < batch->n_out; at += most) {
        const int rows = batch->n_out - at < most ? batch->n_out - at : most;
        st = run_head(f, p, at, rows, err);
        if (!st) st = download_logits(f, p, at, rows, logits, err);
    }
    return st;
}

// --- steps that are always the same -----------------------------------------------------------

// NULL: the batch is none that is worth recording, or somebody looks on, or x has to leave its
// device on the way.
static Step *step_of(Forward *f, const Batch *batch) {
    if (f->tap.fn || f->d->n_parts > 1 || !f->parts[0].ops->record) return NULL;
    if (batch->n_out != batch->n || batch->n > out_rows(&f->config)) return NULL;
    for (int i = 0; i < batch->n; i++) {
        if (batch->out_row[i] != i) return NULL;
    }
    return &f->steps[batch->n];
}

static Status issue_step(Forward *f, const Batch *batch, Error *err) {
    Status st = run_layers(f, batch, err);
    return st ? st : run_head(f, &f->parts[0], 0, batch->n, err);
}

// A device that fails at it is a device that does not record.
static void record_step(Forward *f, Step *s, const Batch *batch) {
    const Part *p = &f->parts[0];
    if (p->ops->record(p->b, NULL)) return;
    Status st = issue_step(f, batch, NULL), end = p->ops->record_end(p->b, &s->recording, NULL);
    if (!st && !end) return;
    p->ops->recording_free(p->b, s->recording);
    s->recording = NULL;
}

static void drop_steps(Forward *f) {
    const Part *p = &f->parts[0];
    for (int n = 0; n <= OUT_ROWS; n++) {
        if (f->steps[n].recording) p->ops->recording_free(p->b, f->steps[n].recording);
        f->steps[n] = (Step){0};
    }
}

static Status run_step(Forward *f, Step *s, const Batch *batch, float *logits, Error *err) {
    const Part *p = &f->parts[0];
    if (f->reserved != f->d->n_reserves) drop_steps(f);  // another forward pass took scratch since
    f->reserved = f->d->n_reserves;
    if (s->n_runs == 1) record_step(f, s, batch);
    if (s->n_runs < 2) s->n_runs++;
    Status st = s->recording ? p->ops->replay(p->b, s->recording, err) : issue_step(f, batch, err);
    return st ? st : download_logits(f, p, 0, batch->n, logits, err);
}

// --- one batch --------------------------------------------------------------------------------

// On all parts or on none. own: what each is told, to stay until end_all.
static Status begin_all(Forward *f, const Batch *batch, Batch own[DEVICE_PARTS], Error *err) {
    Status st = OK;
    int i;
    for (i = 0; !st && i < f->d->n_parts; i++) {
        own[i] = *batch;
        if (!f->parts[i].on->output) own[i].n_out = 0, own[i].out_row = NULL;
        st = f->parts[i].ops->begin(f->parts[i].b, &own[i], err);
    }
    for (i -= 2; st && i >= 0; i--) f->parts[i].ops->end(f->parts[i].b, NULL);
    return st;
}

static Status end_all(Forward *f, Error *err) {
    Status first = OK;
    for (int i = 0; i < f->d->n_parts; i++) {
        Status st = f->parts[i].ops->end(f->parts[i].b, first ? NULL : err);
        if (!first) first = st;
    }
    return first;
}

Status forward_run(Forward *f, int n, const int32_t *token, const int32_t *pos, const int32_t *seq,
                   int n_out, const int32_t *out_row, float *logits, Error *err) {
    CHECK(n >= 1 && n <= f->config.max_batch);
    for (int i = 0; i < n; i++) {
        CHECK(pos[i] >= 0 && pos[i] < f->config.n_ctx && seq[i] >= 0 && seq[i] < f->config.n_seqs);
        CHECK(token[i] >= 0 && token[i] < f->d->model->h.n_vocab);
        rope_row(&f->d->rope, pos[i], f->cosine + (size_t)i * (size_t)f->d->rope.n_pairs,
                 f->sine + (size_t)i * (size_t)f->d->rope.n_pairs);
    }
    const Batch batch = {
        n, token, pos, seq, f->cosine, f->sine, n_out, out_row, f->d->rope.n_pairs};
    Batch own[DEVICE_PARTS];
    Status st = begin_all(f, &batch, own, err);
    if (st) return st;
    Step *step = step_of(f, &batch);
    st = step ? run_step(f, step, &batch, logits, err) : run_all(f, &batch, logits, err);
    Status end = end_all(f, st ? NULL : err);
    if (!st) st = end;
    if (!st && f->d->model->gguf) st = gguf_fault(f->d->model->gguf, err);
    return st;
}

// --- the cache --------------------------------------------------------------------------------

Status forward_kv_read(Forward *f, int layer, int seq, int pos, float *k, float *v, Error *err) {
    if (layer < 0 || layer >= f->d->model->h.n_layers) {
        return error_set(err, ERR_USAGE, "the KV cache has no layer %d", layer);
    }
    const Part *p = part_of(f, layer);
    return p->ops->kv_read(p->b, p->kv, layer - p->on->first, seq, pos, k, v, err);
}

void forward_kv_copy(Forward *f, int from_seq, int to_seq, int n_pos) {
    for (int i = 0; i < f->d->n_parts; i++) {
        const Part *p = &f->parts[i];
        if (p->kv) p->ops->kv_copy(p->b, p->kv, from_seq, to_seq, n_pos);
    }
}

// --- opening and closing ----------------------------------------------------------------------

static KvShape kv_shape(const Hparams *h, const DevicePart *on, const ForwardConfig *c) {
    return (KvShape){on->n_layers, h->n_kv_heads, h->head_dim, c->n_ctx,
                     c->n_seqs,    c->type_k,     c->type_v};
}

typedef struct {
    Buffer **buffer;
    size_t n;  // floats; 0: not needed
} BufferPlan;

enum { N_BUFFERS = 11 };

static void plan_buffers(Part *p, const Hparams *h, const DevicePart *on, const ForwardConfig *c,
                         BufferPlan *plan) {
    const size_t n = (size_t)c->max_batch, in = on->n_layers ? n : 0;
    const size_t out = on->output ? (size_t)out_rows(c) : 0;
    const size_t dim = (size_t)h->dim, ffn = (size_t)h->ffn_dim;
    const size_t q = (size_t)q_dim(h), kv = (size_t)kv_dim(h);
    const BufferPlan all[N_BUFFERS] = {{&p->x, n * dim},
                                       {&p->xn, in * dim},
                                       {&p->sum, in * dim},
                                       {&p->q, in * q},
                                       {&p->k, in * kv},
                                       {&p->v, in * kv},
                                       {&p->att, in * q},
                                       {&p->gate, in * ffn},
                                       {&p->up, in * ffn},
                                       {&p->rows, out * dim},
                                       {&p->logits, out * (size_t)h->n_vocab}};
    memcpy(plan, all, sizeof all);
}

uint64_t forward_bytes(const Model *m, const DevicePart *on, const ForwardConfig *config) {
    Part unused;
    BufferPlan plan[N_BUFFERS];
    const KvShape shape = kv_shape(&m->h, on, config);
    uint64_t bytes = on->n_layers ? on->ops->kv_bytes(&shape) : 0;
    plan_buffers(&unused, &m->h, on, config, plan);
    for (int i = 0; i < N_BUFFERS; i++) bytes += plan[i].n * sizeof(float);
    return bytes;
}

static void free_part(Part *p, const Hparams *h, const ForwardConfig *c) {
    BufferPlan plan[N_BUFFERS];
    plan_buffers(p, h, p->on, c, plan);
    for (int i = 0; i < N_BUFFERS; i++) {
        if (*plan[i].buffer) p->ops->buffer_free(p->b, *plan[i].buffer);
    }
    if (p->kv) p->ops->kv_free(p->b, p->kv);
}

void forward_free(Forward *f) {
    if (!f) return;
    drop_steps(f);
    for (int i = 0; i < f->d->n_parts; i++) {
        free_part(&f->parts[i], &f->d->model->h, &f->config);
    }
    free(f->carried);
    free(f->cosine);
    free(f->sine);
    free(f);
}

static Status take_part(Part *p, const Hparams *h, const ForwardConfig *c, Error *err) {
    const KvShape shape = kv_shape(h, p->on, c);
    BufferPlan plan[N_BUFFERS];
    plan_buffers(p, h, p->on, c, plan);
    Status st = OK;
    for (int i = 0; !st && i < N_BUFFERS; i++) {
        if (plan[i].n) st = p->ops->buffer(p->b, plan[i].n, plan[i].buffer, err);
    }
    if (!st) {
        st = p->ops->reserve(p->b, c->max_batch, c->n_ctx, h->n_heads / h->n_kv_heads, err);
    }
    return st || !p->on->n_layers ? st : p->ops->kv_new(p->b, &shape, &p->kv, err);
}

static Status take_tables(Forward *f, Error *err) {
    const size_t n = (size_t)f->config.max_batch, table = n * (size_t)f->d->rope.n_pairs;
    const size_t carried = f->d->n_parts > 1 ? n * (size_t)f->d->model->h.dim : 0;
    f->cosine = calloc(table, sizeof *f->cosine);
    f->sine = calloc(table, sizeof *f->sine);
    if (!f->cosine || !f->sine) return error_memory(err, "RoPE tables", table * sizeof(float));
    if (carried && !(f->carried = calloc(carried, sizeof *f->carried)))
        return error_memory(err, "activations", carried * sizeof *f->carried);
    return OK;
}

Status forward_new(DeviceModel *d, const ForwardConfig *config, Forward **out, Error *err) {
    const Hparams *h = &d->model->h;
    *out = NULL;
    Forward *f = calloc(1, sizeof *f);
    if (!f) return error_memory(err, "the forward pass", sizeof *f);
    f->d = d, f->config = *config;
    f->heads = (HeadShape){.n_heads = h->n_heads,
                           .n_kv_heads = h->n_kv_heads,
                           .head_dim = h->head_dim,
                           .n_rot = h->n_rot,
                           .neox = h->rope_pairing == ROPE_NEOX,
                           .scale = (float)(1.0 / sqrt(h->head_dim))};
    for (int i = 0; i < d->n_parts; i++) {
        const DevicePart *on = &d->parts[i];
        f->parts[i] = (Part){.on = on, .ops = on->ops, .b = on->backend};
    }
    Status st = take_tables(f, err);
    for (int i = 0; !st && i < d->n_parts; i++) st = take_part(&f->parts[i], h, config, err);
    if (st) {
        forward_free(f);
        return st;
    }
    f->reserved = ++d->n_reserves;
    *out = f;
    return OK;
}
