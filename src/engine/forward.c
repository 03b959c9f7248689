// One forward pass; see forward.h. Shapes stand at every step: n tokens, dim, heads x head_dim,
// ffn_dim.
#include "engine/forward.h"

#include <math.h>
#include <stdlib.h>

enum { OUT_ROWS = 32 };  // logits are made for this many rows at a time

// Batches of one size that all give logits: decode steps. The first runs as any batch does (what a
// backend prepares when it first meets a shape is then there), the second is recorded.
typedef struct {
    int n_runs;            // 2: no more than that are counted
    Recording *recording;  // NULL: not recorded (yet, or the device would not)
} Step;

struct Forward {
    DeviceModel *d;
    const BackendOps *ops;
    Backend *b;
    ForwardConfig config;
    HeadShape heads;
    Tap tap;
    Kv *kv;
    // n x: dim, dim, dim, q_dim, kv_dim, kv_dim, q_dim, ffn_dim, ffn_dim; OUT_ROWS x dim, n_vocab
    Buffer *x, *xn, *sum, *q, *k, *v, *att, *gate, *up, *rows, *logits;
    float *cosine, *sine;
    Step steps[OUT_ROWS + 1];  // by number of tokens
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

Kv *forward_kv(Forward *f) {
    return f->kv;
}

// Copies a component out of the device and shows it. Only with a tap set.
static Status tap(Forward *f, const char *name, int layer, const Buffer *buf, size_t rows,
                  size_t width, Error *err) {
    if (!f->tap.fn) return OK;
    float *x = malloc(rows * width * sizeof *x);
    if (!x) return error_memory(err, name, rows * width * sizeof *x);
    Status st = f->ops->download(f->b, buf, x, rows * width, err);
    if (!st) f->tap.fn(f->tap.user, name, layer, x, rows, width);
    free(x);
    return st;
}

#define TAP(name, buf, rows, width)                                                  \
    do {                                                                             \
        Status st_ = tap(f, name, layer, buf, (size_t)(rows), (size_t)(width), err); \
        if (st_) return st_;                                                         \
    } while (0)

// x += W y, fused where nobody looks; with a tap the product and the sum are shown apart. Same
// bits.
static Status project_add(Forward *f, int n, const Buffer *in, const Weight *w, const Weight *bias,
                          const char *name, int layer, Error *err) {
    const int dim = f->d->model->h.dim;
    if (!f->tap.fn) {
        f->ops->matmul(f->b, in, n, &(MatmulOut){w, bias, f->x, f->x}, 1);
        return OK;
    }
    f->ops->matmul(f->b, in, n, &(MatmulOut){w, bias, NULL, f->sum}, 1);
    TAP(name, f->sum, n, dim);
    f->ops->add(f->b, f->x, f->sum, (size_t)n * (size_t)dim);
    return OK;
}

// With a tap that wants them attention also writes its scores: n * n_heads x n_keys each.
static Status attend(Forward *f, const Batch *batch, int layer, Error *err) {
    const HeadShape *h = &f->heads;
    if (!f->tap.fn || !f->tap.scores) {
        f->ops->attention(f->b, h, f->q, f->kv, layer, f->att, NULL, NULL, 0);
        return OK;
    }
    int n_keys = 0;
    for (int i = 0; i < batch->n; i++)
        n_keys = batch->pos[i] >= n_keys ? batch->pos[i] + 1 : n_keys;
    size_t rows = (size_t)batch->n * (size_t)h->n_heads, n = rows * (size_t)n_keys;
    Buffer *kq = NULL, *soft = NULL;
    Status st = f->ops->buffer(f->b, n, &kq, err);
    if (!st) st = f->ops->buffer(f->b, n, &soft, err);
    if (!st) {
        f->ops->attention(f->b, h, f->q, f->kv, layer, f->att, kq, soft, n_keys);
        st = tap(f, "kq", layer, kq, rows, (size_t)n_keys, err);
    }
    if (!st) st = tap(f, "kq_soft_max", layer, soft, rows, (size_t)n_keys, err);
    f->ops->buffer_free(f->b, kq);
    f->ops->buffer_free(f->b, soft);
    return st;
}

static Status run_layer(Forward *f, const Batch *batch, int layer, Error *err) {
    const BackendOps *ops = f->ops;
    const Hparams *h = &f->d->model->h;
    const DeviceLayer *w = &f->d->layers[layer];
    Backend *b = f->b;
    const int n = batch->n;

    // x: n x dim -> q: n x heads * head_dim; k, v: n x kv_heads * head_dim
    ops->rmsnorm(b, f->x, w->attn_norm, h->rms_eps, n, h->dim, f->xn);
    TAP("attn_norm", f->xn, n, h->dim);
    const MatmulOut qkv[] = {{w->q, w->q_bias, NULL, f->q},
                             {w->k, w->k_bias, NULL, f->k},
                             {w->v, w->v_bias, NULL, f->v}};
    ops->matmul(b, f->xn, n, qkv, 3);
    TAP("q", f->q, n, q_dim(h));
    TAP("k", f->k, n, kv_dim(h));
    TAP("v", f->v, n, kv_dim(h));
    if (w->q_norm) {  // each head is a row
        ops->rmsnorm(b, f->q, w->q_norm, h->rms_eps, n * h->n_heads, h->head_dim, f->q);
        TAP("q_norm", f->q, n, q_dim(h));
    }
    if (w->k_norm) {
        ops->rmsnorm(b, f->k, w->k_norm, h->rms_eps, n * h->n_kv_heads, h->head_dim, f->k);
        TAP("k_norm", f->k, n, kv_dim(h));
    }
    ops->rope_kv(b, &f->heads, f->q, f->k, f->v, f->kv, layer);
    TAP("q_rope", f->q, n, q_dim(h));
    TAP("k_rope", f->k, n, kv_dim(h));
    Status st = attend(f, batch, layer, err);  // att: n x heads * head_dim
    if (st) return st;
    TAP("attn", f->att, n, q_dim(h));
    st = project_add(f, n, f->att, w->attn_out, w->attn_out_bias, "attn_out", layer, err);
    if (st) return st;
    TAP("ffn_inp", f->x, n, h->dim);

    // gate, up: n x ffn_dim
    ops->rmsnorm(b, f->x, w->ffn_norm, h->rms_eps, n, h->dim, f->xn);
    TAP("ffn_norm", f->xn, n, h->dim);
    const MatmulOut gate_up[] = {{w->ffn_gate, w->ffn_gate_bias, NULL, f->gate},
                                 {w->ffn_up, w->ffn_up_bias, NULL, f->up}};
    ops->matmul(b, f->xn, n, gate_up, 2);
    TAP("ffn_gate", f->gate, n, h->ffn_dim);
    TAP("ffn_up", f->up, n, h->ffn_dim);
    ops->swiglu(b, f->gate, f->up, (size_t)n * (size_t)h->ffn_dim, f->gate);
    TAP("ffn_act", f->gate, n, h->ffn_dim);
    st = project_add(f, n, f->gate, w->ffn_down, w->ffn_down_bias, "ffn_out", layer, err);
    if (st) return st;
    TAP("l_out", f->x, n, h->dim);
    return OK;
}

// Final norm and head for the rows asked for from the at-th on, at most OUT_ROWS.
static Status issue_head(Forward *f, int at, int rows, Error *err) {
    const BackendOps *ops = f->ops;
    const Hparams *h = &f->d->model->h;
    const int layer = -1;
    ops->select(f->b, f->x, at, rows, h->dim, f->rows);
    ops->rmsnorm(f->b, f->rows, f->d->output_norm, h->rms_eps, rows, h->dim, f->rows);
    TAP("norm", f->rows, rows, h->dim);
    ops->matmul(f->b, f->rows, rows, &(MatmulOut){f->d->output, NULL, NULL, f->logits}, 1);
    TAP("logits", f->logits, rows, h->n_vocab);
    return OK;
}

static Status download_logits(Forward *f, int at, int rows, float *logits, Error *err) {
    const size_t n_vocab = (size_t)f->d->model->h.n_vocab;
    return f->ops->download(f->b, f->logits, logits + (size_t)at * n_vocab, (size_t)rows * n_vocab,
                            err);
}

static Status issue_layers(Forward *f, const Batch *batch, Error *err) {
    const int layer = -1;
    f->ops->embed(f->b, f->d->token_embd, f->x);
    TAP("embd", f->x, batch->n, f->d->model->h.dim);
    for (int l = 0; l < f->d->model->h.n_layers; l++) {
        Status st = run_layer(f, batch, l, err);
        if (st) return st;
    }
    return OK;
}

static Status run_all(Forward *f, const Batch *batch, float *logits, Error *err) {
    const int most = out_rows(&f->config);
    Status st = issue_layers(f, batch, err);
    for (int at = 0; !st && at < batch->n_out; at += most) {
        const int rows = batch->n_out - at < most ? batch->n_out - at : most;
        st = issue_head(f, at, rows, err);
        if (!st) st = download_logits(f, at, rows, logits, err);
    }
    return st;
}

// --- steps that are always the same -----------------------------------------------------------

// NULL: the batch is none that is worth recording, or somebody looks on.
static Step *step_of(Forward *f, const Batch *batch) {
    if (f->tap.fn || !f->ops->record || batch->n > out_rows(&f->config)) return NULL;
    if (batch->n_out != batch->n) return NULL;
    for (int i = 0; i < batch->n; i++) {
        if (batch->out_row[i] != i) return NULL;
    }
    return &f->steps[batch->n];
}

static Status issue_step(Forward *f, const Batch *batch, Error *err) {
    Status st = issue_layers(f, batch, err);
    return st ? st : issue_head(f, 0, batch->n, err);
}

// A device that fails at it is a device that does not record.
static void record_step(Forward *f, Step *s, const Batch *batch) {
    if (f->ops->record(f->b, NULL)) return;
    Status st = issue_step(f, batch, NULL), end = f->ops->record_end(f->b, &s->recording, NULL);
    if (!st && !end) return;
    f->ops->recording_free(f->b, s->recording);
    s->recording = NULL;
}

static Status run_step(Forward *f, Step *s, const Batch *batch, float *logits, Error *err) {
    if (s->n_runs == 1) record_step(f, s, batch);
    if (s->n_runs < 2) s->n_runs++;
    Status st = s->recording ? f->ops->replay(f->b, s->recording, err) : issue_step(f, batch, err);
    return st ? st : download_logits(f, 0, batch->n, logits, err);
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
    const Batch batch = {n, token, pos, seq, f->cosine, f->sine, n_out, out_row};
    Status st = f->ops->begin(f->b, &batch, err);
    if (st) return st;
    Step *step = step_of(f, &batch);
    st = step ? run_step(f, step, &batch, logits, err) : run_all(f, &batch, logits, err);
    Status end = f->ops->end(f->b, st ? NULL : err);
    if (!st) st = end;
    if (!st && f->d->model->gguf) st = gguf_fault(f->d->model->gguf, err);
    return st;
}

// --- opening and closing ----------------------------------------------------------------------

void device_model_close(DeviceModel *d) {
    if (!d) return;
    if (d->backend) d->ops->close(d->backend);
    rope_free(&d->rope);
    free(d->layers);
    free(d);
}

static Status bind_layers(DeviceModel *d, Error *err) {
    for (int l = 0; l < d->model->h.n_layers; l++) {
        const LayerWeights *from = &d->model->layers[l];
        DeviceLayer *to = &d->layers[l];
        const struct {
            const Tensor *tensor;
            const Weight **weight;
        } pairs[] = {{from->attn_norm, &to->attn_norm},
                     {from->q, &to->q},
                     {from->k, &to->k},
                     {from->v, &to->v},
                     {from->q_bias, &to->q_bias},
                     {from->k_bias, &to->k_bias},
                     {from->v_bias, &to->v_bias},
                     {from->q_norm, &to->q_norm},
                     {from->k_norm, &to->k_norm},
                     {from->attn_out, &to->attn_out},
                     {from->attn_out_bias, &to->attn_out_bias},
                     {from->ffn_norm, &to->ffn_norm},
                     {from->ffn_gate, &to->ffn_gate},
                     {from->ffn_up, &to->ffn_up},
                     {from->ffn_down, &to->ffn_down},
                     {from->ffn_gate_bias, &to->ffn_gate_bias},
                     {from->ffn_up_bias, &to->ffn_up_bias},
                     {from->ffn_down_bias, &to->ffn_down_bias}};
        for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
            Weight *w = NULL;
            Status st = pairs[i].tensor ? d->ops->weight(d->backend, pairs[i].tensor, &w, err) : OK;
            if (st) return st;
            *pairs[i].weight = w;
        }
    }
    return OK;
}

Status device_model_open(const Model *m, const BackendOps *ops, const BackendConfig *config,
                         DeviceModel **out, Error *err) {
    *out = NULL;
    DeviceModel *d = calloc(1, sizeof *d);
    if (!d) return error_memory(err, "the model", sizeof *d);
    d->model = m, d->ops = ops;
    d->layers = calloc((size_t)m->h.n_layers, sizeof *d->layers);
    Status st = d->layers ? OK : error_memory(err, "the model's layers", 0);
    if (!st) st = rope_new(m, &d->rope, err);
    if (!st) st = ops->open(config, &d->backend, err);
    if (!st) st = ops->weight(d->backend, m->token_embd, &d->token_embd, err);
    if (!st) st = bind_layers(d, err);
    if (!st) st = ops->weight(d->backend, m->output_norm, &d->output_norm, err);
    d->output = d->token_embd;
    if (!st && !m->tied) st = ops->weight(d->backend, m->output, &d->output, err);
    if (st) {
        device_model_close(d);
        return st;
    }
    *out = d;
    return OK;
}

static KvShape kv_shape(const Hparams *h, const ForwardConfig *c) {
    return (KvShape){h->n_layers, h->n_kv_heads, h->head_dim, c->n_ctx,
                     c->n_seqs,   c->type_k,     c->type_v};
}

typedef struct {
    Buffer **buffer;
    size_t n;
} BufferPlan;

enum { N_BUFFERS = 11 };

static void plan_buffers(Forward *f, const Hparams *h, const ForwardConfig *c, BufferPlan *plan) {
    const size_t n = (size_t)c->max_batch, dim = (size_t)h->dim, ffn = (size_t)h->ffn_dim;
    const size_t q = (size_t)q_dim(h), kv = (size_t)kv_dim(h), out = (size_t)out_rows(c);
    const BufferPlan p[N_BUFFERS] = {{&f->x, n * dim},
                                     {&f->xn, n * dim},
                                     {&f->sum, n * dim},
                                     {&f->q, n * q},
                                     {&f->k, n * kv},
                                     {&f->v, n * kv},
                                     {&f->att, n * q},
                                     {&f->gate, n * ffn},
                                     {&f->up, n * ffn},
                                     {&f->rows, out * dim},
                                     {&f->logits, out * (size_t)h->n_vocab}};
    memcpy(plan, p, sizeof p);
}

uint64_t forward_bytes(const DeviceModel *d, const ForwardConfig *config) {
    Forward unused;
    BufferPlan plan[N_BUFFERS];
    const KvShape shape = kv_shape(&d->model->h, config);
    uint64_t bytes = d->ops->kv_bytes(&shape);
    plan_buffers(&unused, &d->model->h, config, plan);
    for (int i = 0; i < N_BUFFERS; i++) bytes += plan[i].n * sizeof(float);
    return bytes;
}

void forward_free(Forward *f) {
    if (!f) return;
    BufferPlan plan[N_BUFFERS];
    plan_buffers(f, &f->d->model->h, &f->config, plan);
    for (int n = 0; n <= OUT_ROWS; n++) {
        if (f->steps[n].recording) f->ops->recording_free(f->b, f->steps[n].recording);
    }
    for (int i = 0; i < N_BUFFERS; i++) f->ops->buffer_free(f->b, *plan[i].buffer);
    f->ops->kv_free(f->b, f->kv);
    free(f->cosine);
    free(f->sine);
    free(f);
}

static Status take_buffers(Forward *f, Error *err) {
    const Hparams *h = &f->d->model->h;
    const KvShape shape = kv_shape(h, &f->config);
    const size_t table = (size_t)f->config.max_batch * (size_t)f->d->rope.n_pairs;
    BufferPlan plan[N_BUFFERS];
    plan_buffers(f, h, &f->config, plan);
    for (int i = 0; i < N_BUFFERS; i++) {
        Status st = f->ops->buffer(f->b, plan[i].n, plan[i].buffer, err);
        if (st) return st;
    }
    f->cosine = calloc(table, sizeof *f->cosine);
    f->sine = calloc(table, sizeof *f->sine);
    if (!f->cosine || !f->sine) return error_memory(err, "RoPE tables", table * sizeof(float));
    Status st = f->ops->reserve(f->b, f->config.max_batch, f->config.n_ctx,
                                h->n_heads / h->n_kv_heads, err);
    return st ? st : f->ops->kv_new(f->b, &shape, &f->kv, err);
}

Status forward_new(DeviceModel *d, const ForwardConfig *config, Forward **out, Error *err) {
    const Hparams *h = &d->model->h;
    *out = NULL;
    Forward *f = calloc(1, sizeof *f);
    if (!f) return error_memory(err, "the forward pass", sizeof *f);
    f->d = d, f->ops = d->ops, f->b = d->backend, f->config = *config;
    f->heads = (HeadShape){.n_heads = h->n_heads,
                           .n_kv_heads = h->n_kv_heads,
                           .head_dim = h->head_dim,
                           .n_rot = h->n_rot,
                           .neox = h->rope_pairing == ROPE_NEOX,
                           .scale = (float)(1.0 / sqrt(h->head_dim))};
    Status st = take_buffers(f, err);
    if (st) {
        forward_free(f);
        return st;
    }
    *out = f;
    return OK;
}
