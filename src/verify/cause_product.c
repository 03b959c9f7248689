// Trying other weights and inputs in a matrix product; see cause_product.h.
#include "verify/cause_product.h"

#include <math.h>
#include <string.h>

// --- parts --------------------------------------------------------------------------------------

typedef struct {
    const Tensor *w, *bias;
    Component in;
} Parts;

static Parts parts_of(const Site *s, Component c) {
    const LayerWeights *w = s->w;
    switch (c) {
        case COMP_Q: return (Parts){w->q, w->q_bias, COMP_ATTN_NORM};
        case COMP_K: return (Parts){w->k, w->k_bias, COMP_ATTN_NORM};
        case COMP_V: return (Parts){w->v, w->v_bias, COMP_ATTN_NORM};
        case COMP_ATTN_OUT: return (Parts){w->attn_out, w->attn_out_bias, COMP_ATTN};
        case COMP_FFN_GATE: return (Parts){w->ffn_gate, w->ffn_gate_bias, COMP_FFN_NORM};
        case COMP_FFN_UP: return (Parts){w->ffn_up, w->ffn_up_bias, COMP_FFN_NORM};
        case COMP_FFN_OUT: return (Parts){w->ffn_down, w->ffn_down_bias, COMP_FFN_ACT};
        case COMP_LOGITS: return (Parts){s->model->output, NULL, COMP_NORM};
        default: return (Parts){0};
    }
}

const Tensor *product_weight(const Site *s, Component c) {
    return parts_of(s, c).w;
}

static void *from_arena(Product *p, size_t n, size_t size) {
    void *x = arena_alloc(&p->arena, n ? n : 1, size);
    if (!x && !p->t->status) p->t->status = error_memory(p->t->err, "a hypothesis", n * size);
    return x;
}

double *product_doubles(Product *p, size_t n) {
    return from_arena(p, n, sizeof(double));
}

float *product_floats(Product *p, size_t n) {
    return from_arena(p, n, sizeof(float));
}

// The worst element, the ends, and others spread; by an odd step, so that they meet every column of
// a tile.
static void choose_samples(Product *p) {
    const size_t n = p->outputs, groups = p->t->k->groups;
    const size_t worst = compare_worst(p->t->k->cells, groups).element % n;
    const size_t count = n < PRODUCT_SAMPLES ? n : PRODUCT_SAMPLES - 1;
    for (size_t i = 0; i < count; i++) {
        p->sample[i] = n <= PRODUCT_SAMPLES ? i : i * (n - 1) / (count - 1);
    }
    p->n_samples = count;
    for (size_t i = 0; i < count; i++) {
        if (p->sample[i] == worst) return;
    }
    size_t at = p->n_samples++;
    for (; at > 0 && p->sample[at - 1] > worst; at--) p->sample[at] = p->sample[at - 1];
    p->sample[at] = worst;
}

bool product_open(Trial *t, Product *p) {
    const CauseCase *k = t->k;
    const Site *s = k->site;
    const Parts parts = parts_of(s, k->c);
    *p = (Product){.t = t,
                   .w = parts.w,
                   .in = parts.in,
                   .inputs = (size_t)parts.w->dims[0],
                   .outputs = (size_t)parts.w->dims[1],
                   .rows = k->n_rows,
                   .way = s->rounding->act.way[parts.w->type],
                   .out = s->rounding->out[k->c]};
    for (size_t r = 0; r < k->n_rows; r++) {
        if (!value_known(&s->at[p->in], k->row[r])) return false;
    }
    if (k->n_rows == 0 || t->status) return false;
    const size_t n = p->rows * p->inputs;
    double *x = product_doubles(p, 2 * n);
    float *bias = parts.bias && x ? product_floats(p, p->outputs) : NULL;
    if (t->status) return false;
    const bool uncertain = value_rows(&s->at[p->in], k->row, k->n_rows, x, x + n);
    p->x = x, p->x_sd = uncertain ? x + n : NULL;
    if (bias) dequantize(parts.bias->type, parts.bias->data, bias, p->outputs);
    p->bias = bias;
    choose_samples(p);
    return true;
}

void product_close(Product *p) {
    arena_free(&p->arena);
}

Variant product_as_is(const Product *p) {
    return (Variant){.row = oracle_tensor_row,
                     .user = (void *)(uintptr_t)p->w,
                     .bias = p->bias,
                     .way = p->way,
                     .x = p->x,
                     .x_sd = p->x_sd,
                     .to = p->outputs};
}

// --- trying -------------------------------------------------------------------------------------

typedef struct {
    const Variant *v;
    const size_t *output;
    size_t inputs;
} Chosen;

static void chosen_row(void *user, size_t i, float *w) {
    const Chosen *c = user;
    const size_t o = c->output ? c->output[i] : i;
    if (o < c->v->from || o >= c->v->to) {
        memset(w, 0, c->inputs * sizeof *w);
    } else {
        c->v->row(c->v->user, o, w);
    }
}

// Weights from the wrong bytes may be of any size. Where a bound comes near to what float32 holds,
// a sum may have overflowed on its way: nobody knows what it is.
#define OVERFLOWS 1e32

// output NULL: all.
static Status expect_chosen(Product *p, const Variant *v, const size_t *output, size_t n,
                            const double *x, const double *x_sd, size_t rows, Expected *out) {
    Chosen chosen = {v, output, p->inputs};
    float *bias = v->bias ? product_floats(p, n) : NULL;
    if (p->t->status) return p->t->status;
    for (size_t i = 0; bias && i < n; i++) bias[i] = v->bias[output ? output[i] : i];
    const Tensor as_tensor = {.name = "bias",
                              .type = TYPE_F32,
                              .n_dims = 1,
                              .dims = {n, 1, 1, 1},
                              .data = (const uint8_t *)bias};
    const Weights w = {chosen_row, &chosen, p->inputs, n, bias ? &as_tensor : NULL};
    Status st = expected_new(rows, n, out, p->t->err);
    if (!st) st = expect_matmul(p->t->k->site, &w, v->way, x, x_sd, rows, p->out, out, p->t->err);
    for (size_t i = 0; !st && i < rows * n; i++) {
        const size_t o = output ? output[i % n] : i % n;
        if (o < v->from || o >= v->to || !(out->bound[i] < OVERFLOWS)) out->bound[i] = INFINITY;
    }
    if (st) expected_free(out);
    if (st) p->t->status = st;
    return st;
}

Status product_expect(Product *p, const Variant *v, const size_t *output, size_t n, const double *x,
                      const double *x_sd, size_t rows, Expected *out) {
    return expect_chosen(p, v, output, n, x, x_sd, rows, out);
}

// An element that is infinite or NaN is right where the captured one is so too.
static bool holds(double got, double y, double bound) {
    if (isinf(bound)) return true;
    if (!isfinite(y)) return !isfinite(got);
    return fabs(got - y) <= bound;
}

bool product_sample(Product *p, const Variant *v) {
    if (p->t->status) return false;
    if (p->t->path) return true;  // nothing of it was captured
    // A scale over all rows needs all of them.
    const size_t rows = v->way == WAY_Q8_TENSOR ? p->rows : 1;
    Expected e;
    if (expect_chosen(p, v, p->sample, p->n_samples, v->x, v->x_sd, rows, &e)) return false;
    bool fits = true;
    for (size_t i = 0; i < p->n_samples && fits; i++) {
        fits = holds(p->t->k->got[p->sample[i]], e.y[i], e.bound[i]);
    }
    expected_free(&e);
    return fits;
}

bool product_try(Product *p, const Variant *v, Expected *out) {
    return product_sample(p, v) &&
           !expect_chosen(p, v, NULL, p->outputs, v->x, v->x_sd, p->rows, out);
}

bool product_copy(Trial *t, Expected *out) {
    const Expected *want = t->k->want;
    if (t->status) return false;
    t->status = expected_new(want->rows, want->width, out, t->err);
    if (t->status) return false;
    memcpy(out->memory, want->memory, 3 * want->rows * want->width * sizeof(double));
    return true;
}

// --- other matrices -----------------------------------------------------------------------------

enum { MATRICES_OF_A_LAYER = 7 };

static void add_layer(const LayerWeights *w, Matrix *to) {
    const Matrix all[MATRICES_OF_A_LAYER] = {{w->q, w->q_bias},
                                             {w->k, w->k_bias},
                                             {w->v, w->v_bias},
                                             {w->attn_out, w->attn_out_bias},
                                             {w->ffn_gate, w->ffn_gate_bias},
                                             {w->ffn_up, w->ffn_up_bias},
                                             {w->ffn_down, w->ffn_down_bias}};
    memcpy(to, all, sizeof all);
}

const Matrix *product_matrices(Product *p, size_t *n) {
    const Model *m = p->t->k->site->model;
    const int layer = p->t->k->site->layer, near[3] = {layer, layer - 1, layer + 1};
    Matrix *list = from_arena(p, (size_t)m->h.n_layers * MATRICES_OF_A_LAYER + 2, sizeof *list);
    *n = 0;
    if (!list) return NULL;
    for (int i = 0; i < m->h.n_layers + 3; i++) {
        const int l = i < 3 ? near[i] : i - 3;
        const bool is_near = l == near[0] || l == near[1] || l == near[2];
        if (l < 0 || l >= m->h.n_layers || (i >= 3 && is_near)) continue;
        add_layer(&m->layers[l], list + *n);
        *n += MATRICES_OF_A_LAYER;
    }
    list[(*n)++] = (Matrix){m->token_embd, NULL};
    if (m->output != m->token_embd) list[(*n)++] = (Matrix){m->output, NULL};
    return list;
}
