// Hypotheses of the matrix products: other weights, other inputs, another token's input.
//
// This file owns: what may be multiplied instead. What may happen to a right product stands in
// cause_outputs.c, to its sums in cause_sums.c, to blocks of weights in cause_quants.c.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_product.h"
#include "verify/cause_reading.h"

#define PRODUCTS                                                                              \
    (1u << COMP_Q | 1u << COMP_K | 1u << COMP_V | 1u << COMP_ATTN_OUT | 1u << COMP_FFN_GATE | \
     1u << COMP_FFN_UP | 1u << COMP_FFN_OUT | 1u << COMP_LOGITS)
#define HEADS (1u << COMP_Q | 1u << COMP_K | 1u << COMP_V)
#define BRANCHES (1u << COMP_ATTN_OUT | 1u << COMP_FFN_OUT)

const Hypothesis hypotheses_matmul[] = {
    {"transposed", "the matrix is read with rows and columns exchanged", PRODUCTS},
    {"row-stride", "the rows of the matrix are taken as far apart as it has outputs", PRODUCTS},
    {"other-weights", "another tensor of the same shape is multiplied", PRODUCTS},
    {"weights-rounded", "the weights are rounded to 16 bits first", PRODUCTS},
    {"other-input", "the product of another array", PRODUCTS},
    {"input-rounding", "the input is rounded in another way than the run's", PRODUCTS},
    {"inputs-cut", "some of the inputs are left out of every sum", PRODUCTS},
    {"heads-interleaved", "elements of the heads are taken in turns", HEADS | 1u << COMP_ATTN_OUT},
    {"heads-permuted", "the heads stand in another order", 1u << COMP_ATTN_OUT},
    {"rows-permuted", "rows of q and k in transformers' order, or permuted twice", HEADS},
    {"rows-shifted", "each output holds what one some places away should", PRODUCTS},
    {"tail-rows-zero", "the last outputs are left out", PRODUCTS},
    {"bias-dropped", "the bias is not added", PRODUCTS},
    {"bias-twice", "the bias is added twice", PRODUCTS},
    {"other-bias", "another tensor's bias is added", PRODUCTS},
    {"skipped", "the output is the input", PRODUCTS},
    {"residual-added", "holds the sum with the residual stream", BRANCHES},
    {"softcapped", "logits pass a tanh", 1u << COMP_LOGITS},
    {"log-softmax", "logits are log probabilities", 1u << COMP_LOGITS},
    {"softmax", "logits are probabilities", 1u << COMP_LOGITS},
    {"race", "each wrong element lacks parts of its sum", PRODUCTS},
    {"f16-accumulation", "sums are kept in float16", PRODUCTS},
    {"bf16-accumulation", "sums are kept in bfloat16", PRODUCTS},
    {NULL, NULL, 0},
};

// --- weights read in another order --------------------------------------------------------------

enum { PANEL = 512 };

// A matrix of inputs x outputs numbers of which output o has every outputs-th, from o on.
typedef struct {
    const Tensor *w;
    size_t inputs, outputs;
    size_t first;  // of the panel's outputs
    size_t n;
    float *panel;  // inputs x n, or NULL: decoded element by element
} Transposed;

static void transposed_row(void *user, size_t output, float *w) {
    const Transposed *t = user;
    for (size_t i = 0; i < t->inputs; i++) reading_flat(t->w, i * t->outputs + output, 1, &w[i]);
}

static void panel_row(void *user, size_t output, float *w) {
    const Transposed *t = user;
    for (size_t i = 0; i < t->inputs; i++) w[i] = t->panel[i * t->n + output];
}

static void fill_panel(void *arg, int thread, int n_threads) {
    const Transposed *t = arg;
    for (size_t i = (size_t)thread; i < t->inputs; i += (size_t)n_threads) {
        reading_flat(t->w, i * t->outputs + t->first, t->n, t->panel + i * t->n);
    }
}

// Panels of some outputs: neighbours share their blocks, and the whole matrix is never in memory.
static Status expect_transposed(Product *p, Transposed *t, Expected *out) {
    const size_t rows = p->rows;
    Status st = expected_new(rows, p->outputs, out, p->t->err);
    t->panel = product_floats(p, p->inputs * PANEL);
    for (t->first = 0; !st && t->panel && t->first < p->outputs; t->first += PANEL) {
        t->n = p->outputs - t->first < PANEL ? p->outputs - t->first : PANEL;
        oracle_parallel(p->t->k->site->oracle, fill_panel, t);
        Variant v = product_as_is(p);
        Expected part;
        v.row = panel_row, v.user = t, v.to = t->n;
        v.bias = p->bias ? p->bias + t->first : NULL;
        st = product_expect(p, &v, NULL, t->n, p->x, p->x_sd, rows, &part);
        for (size_t r = 0; !st && r < rows; r++) {
            const size_t to = r * p->outputs + t->first, bytes = t->n * sizeof(double);
            memcpy(out->y + to, part.y + r * t->n, bytes);
            memcpy(out->bound + to, part.bound + r * t->n, bytes);
            memcpy(out->sd + to, part.sd + r * t->n, bytes);
        }
        if (!st) expected_free(&part);
    }
    if (!st && !t->panel) st = p->t->status;
    if (st) expected_free(out);
    if (st) p->t->status = st;
    return st;
}

static void try_transposed(Product *p) {
    Transposed t = {.w = p->w, .inputs = p->inputs, .outputs = p->outputs};
    Variant v = product_as_is(p);
    Expected e;
    v.row = transposed_row, v.user = &t;
    if (!product_sample(p, &v) || expect_transposed(p, &t, &e)) return;
    trial_offer(p->t, "transposed", &e, "weights read transposed");
}

// Rows start `outputs` apart where they are `inputs` long.
static void stride_row(void *user, size_t output, float *w) {
    const Transposed *t = user;
    reading_flat(t->w, output * t->outputs, t->inputs, w);
}

static void try_row_stride(Product *p) {
    Transposed t = {.w = p->w, .inputs = p->inputs, .outputs = p->outputs};
    Variant v = product_as_is(p);
    Expected e;
    if (p->inputs == p->outputs) return;
    v.row = stride_row, v.user = &t;
    // Of the rows that would end behind the matrix nobody knows what they hold.
    const size_t all = p->inputs * p->outputs, readable = (all - p->inputs) / p->outputs + 1;
    v.to = readable < p->outputs ? readable : p->outputs;
    if (!product_try(p, &v, &e)) return;
    trial_offer(p->t, "row-stride", &e, "rows of weights taken %zu apart, they are %zu long",
                p->outputs, p->inputs);
}

// --- other weights ------------------------------------------------------------------------------

static bool same_weights(const Tensor *a, const Tensor *b) {
    if (a->data == b->data) return true;
    return a->type == b->type && a->dims[0] == b->dims[0] && a->dims[1] == b->dims[1] &&
           memcmp(a->data, b->data, a->bytes) == 0;
}

static void offer_weights(Product *p, const Tensor *w, Expected *e) {
    if (w == p->t->k->site->model->token_embd) {
        trial_offer(p->t, "other-weights", e,
                    "multiplied with %s as if it were tied, the file has %s", w->name, p->w->name);
    } else {
        trial_offer(p->t, "other-weights", e, "multiplied with %s, not %s", w->name, p->w->name);
    }
}

static void try_other_weights(Product *p) {
    enum { NEAR = 3 * 7 };  // matrices of this layer and its neighbours
    size_t n;
    const Matrix *list = product_matrices(p, &n);
    if (p->t->path && n > NEAR) n = NEAR;
    for (size_t i = 0; list && i < n && !p->t->status; i++) {
        const Tensor *w = list[i].w;
        if (w->dims[0] != p->inputs || w->dims[1] < p->outputs || same_weights(w, p->w)) continue;
        Variant v = product_as_is(p);
        Expected e;
        v.user = (void *)(uintptr_t)w, v.way = p->t->k->site->rounding->act.way[w->type];
        bool fits = product_try(p, &v, &e);
        if (!fits && (list[i].bias || p->bias)) {  // its own bias came with it
            float *bias = list[i].bias ? product_floats(p, (size_t)w->dims[1]) : NULL;
            if (bias) dequantize(list[i].bias->type, list[i].bias->data, bias, (size_t)w->dims[1]);
            v.bias = bias;
            fits = product_try(p, &v, &e);
        }
        if (fits) offer_weights(p, w, &e);
    }
}

typedef struct {
    const Tensor *w;
    size_t inputs;
    Precision to;
} RoundedWeights;

static void rounded_row(void *user, size_t output, float *w) {
    const RoundedWeights *r = user;
    oracle_tensor_row((void *)(uintptr_t)r->w, output, w);
    for (size_t i = 0; i < r->inputs; i++) {
        w[i] = r->to == PREC_F16 ? f16_to_f32(f32_to_f16(w[i])) : bf16_to_f32(f32_to_bf16(w[i]));
    }
}

static void try_rounded_weights(Product *p) {
    for (Precision to = PREC_F16; to <= PREC_BF16; to++) {
        if (p->w->type == (to == PREC_F16 ? TYPE_F16 : TYPE_BF16)) continue;
        RoundedWeights r = {p->w, p->inputs, to};
        const ActWay input = to == PREC_F16 ? WAY_F16 : WAY_BF16;
        for (int both = 0; both < 2; both++) {
            Variant v = product_as_is(p);
            Expected e;
            v.row = rounded_row, v.user = &r;
            if (both) v.way = input;
            if (!product_try(p, &v, &e)) continue;
            trial_offer(p->t, "weights-rounded", &e, "the weights%s are rounded to %s",
                        both ? " and the input" : "", precision_name(to));
        }
    }
}

// --- other inputs -------------------------------------------------------------------------------

// The variant with another x; names it if that fits.
static bool try_input(Product *p, const double *x, const double *x_sd, const char *fmt,
                      const char *what) {
    char own[COMPONENT_TEXT];
    const ComponentRef ref = {p->in, p->t->k->site->layer};
    Variant v = product_as_is(p);
    Expected e;
    v.x = x, v.x_sd = x_sd;
    return product_try(p, &v, &e) &&
           trial_offer(p->t, "other-input", &e, fmt, what, component_text(ref, own));
}

static bool known(const Value *v, const CauseCase *k) {
    for (size_t r = 0; r < k->n_rows; r++) {
        if (!value_known(v, k->row[r])) return false;
    }
    return true;
}

// x and x_sd: rows x inputs, scratch.
static void try_array(Product *p, const Value *v, ComponentRef ref, double *x, double *x_sd) {
    const CauseCase *k = p->t->k;
    char name[COMPONENT_TEXT];
    if (v->width != p->inputs || !known(v, k)) return;
    const bool uncertain = value_rows(v, k->row, k->n_rows, x, x_sd);
    try_input(p, x, uncertain ? x_sd : NULL, "reads %s, not %s", component_text(ref, name));
}

static void try_arrays(Product *p, double *x, double *x_sd) {
    const CauseCase *k = p->t->k;
    const Site *s = k->site, *before = s->before && s->before->layer >= 0 ? s->before : NULL;
    const int above = s->layer < 0 ? s->model->h.n_layers - 1 : s->layer - 1;
    const ComponentRef stream = {s->layer == 0 ? COMP_EMBD : COMP_L_OUT,
                                 s->layer == 0 ? -1 : above};
    try_array(p, &s->stream, stream, x, x_sd);
    for (Component c = COMP_EMBD; c < k->c; c++) {
        if (c == p->in || component_is_scores(c)) continue;
        try_array(p, &s->at[c], (ComponentRef){c, s->layer}, x, x_sd);
    }
    for (Component c = COMP_ATTN_NORM; before && c < COMP_L_OUT; c++) {
        if (component_is_scores(c)) continue;
        try_array(p, &before->at[c], (ComponentRef){c, before->layer}, x, x_sd);
    }
}

// The norm that was meant, but of another source or with other weights.
static void try_norms(Product *p, double *x) {
    const CauseCase *k = p->t->k;
    const Site *s = k->site;
    const Model *m = s->model;
    if (p->in != COMP_ATTN_NORM && p->in != COMP_FFN_NORM && p->in != COMP_NORM) return;
    const Value *sources[] = {&s->stream, &s->at[COMP_FFN_INP]};
    // Its own norm of its own source is no other input: if that fits, the captured one is damaged.
    const Tensor *own = p->in == COMP_NORM        ? m->output_norm
                        : p->in == COMP_ATTN_NORM ? s->w->attn_norm
                                                  : s->w->ffn_norm;
    const int own_source = p->in == COMP_FFN_NORM;
    for (int i = 0; i < 2; i++) {
        if (sources[i]->width != p->inputs || !known(sources[i], k)) continue;
        if (value_rows(sources[i], k->row, k->n_rows, x, NULL)) continue;
        double *y = product_doubles(p, p->rows * p->inputs);
        const char *of = i == 0 ? "the stream" : "ffn_inp";
        char what[96];
        for (int l = s->layer < 0 ? m->h.n_layers - 1 : s->layer - 1; y && l <= s->layer + 1; l++) {
            if (l < 0 || l >= m->h.n_layers) continue;
            const Tensor *norms[] = {m->layers[l].attn_norm, m->layers[l].ffn_norm, m->output_norm};
            for (int j = 0; j < 3; j++) {
                if (i == own_source && norms[j] == own) continue;
                oracle_rmsnorm(x, p->rows, p->inputs, norms[j], m->h.rms_eps, y);
                snprintf(what, sizeof what, "%s normed with %s", of, norms[j]->name);
                if (try_input(p, y, NULL, "reads %s, not %s", what)) return;
            }
        }
    }
}

// Heads joined element by element, or in another order, before attn_out reads them.
static void try_heads(Product *p, double *x, double *x_sd) {
    const Hparams *h = &p->t->k->site->model->h;
    const size_t n = (size_t)h->n_heads, kv = (size_t)h->n_kv_heads, d = (size_t)h->head_dim;
    const size_t per_kv = n / kv;
    static const char *const texts[] = {
        "heads of its input interleaved: element by element, not head by head",
        "heads of its input taken apart as if they were interleaved",
        "heads of its input in the order of their place in a kv head's group",
        "heads of its input in the order of kv heads"};
    if (p->in != COMP_ATTN || n == 1) return;
    for (int form = 0; form < 4; form++) {
        for (size_t i = 0; i < p->rows * p->inputs; i++) {
            const size_t r = i / p->inputs, head = i % p->inputs / d, e = i % d;
            const size_t moved = form < 2    ? e * n + head
                                 : form == 2 ? (head % per_kv * kv + head / per_kv) * d + e
                                             : (head % kv * per_kv + head / kv) * d + e;
            const size_t other = r * p->inputs + moved;
            const size_t to = form == 1 ? i : other, from = form == 1 ? other : i;
            x[to] = p->x[from];
            if (p->x_sd) x_sd[to] = p->x_sd[from];
        }
        Variant v = product_as_is(p);
        Expected e;
        v.x = x, v.x_sd = p->x_sd ? x_sd : NULL;
        if (!product_try(p, &v, &e)) continue;
        trial_offer(p->t, form < 2 ? "heads-interleaved" : "heads-permuted", &e, "%s", texts[form]);
    }
}

static void try_other_inputs(Product *p) {
    const size_t n = p->rows * p->inputs;
    double *x = product_doubles(p, 2 * n);
    if (!x) return;
    try_arrays(p, x, x + n);
    try_norms(p, x);
    try_heads(p, x, x + n);
    for (ActWay way = WAY_NONE; way < N_WAYS; way++) {
        Variant v = product_as_is(p);
        Expected e;
        if (way == p->way) continue;
        v.way = way;
        if (!product_try(p, &v, &e)) continue;
        trial_offer(p->t, "input-rounding", &e, "the input is rounded as %s, the run's way is %s",
                    act_way_name(way), act_way_name(p->way));
    }
}

// --- another token's row ------------------------------------------------------------------------

// What a rule makes of tokens that have no such neighbour.
typedef enum { EDGE_CLAMPED, EDGE_WRAPS, EDGE_ZERO, N_EDGES } Edge;

// The token that token `at` reads: always `fixed`, or `shift` away. SIZE_MAX: none.
static size_t source_of(size_t at, size_t n, bool fixed, long shift, Edge edge) {
    if (fixed) return (size_t)shift;
    const long to = (long)at + shift, last = (long)n - 1;
    if (to >= 0 && to <= last) return (size_t)to;
    if (edge == EDGE_ZERO) return SIZE_MAX;
    if (edge == EDGE_WRAPS) return (size_t)((to + (long)n * (1 + labs(shift) / (long)n)) % (long)n);
    return to < 0 ? 0 : (size_t)last;
}

static bool try_rule(Product *p, bool fixed, long shift, Edge edge) {
    const CauseCase *k = p->t->k;
    const Value *in = &k->site->at[p->in];
    const size_t n = p->rows * p->inputs;
    double *x = product_doubles(p, 2 * n);
    bool uncertain = false;
    if (!x) return false;
    for (size_t r = 0; r < p->rows; r++) {
        const size_t from = source_of(k->row[r], k->site->n, fixed, shift, edge);
        if (from == SIZE_MAX) continue;  // zeros
        if (!value_known(in, from)) return false;
        uncertain |= value_rows(in, &from, 1, x + r * p->inputs, x + n + r * p->inputs);
    }
    Variant v = product_as_is(p);
    Expected e;
    v.x = x, v.x_sd = uncertain ? x + n : NULL;
    if (!product_try(p, &v, &e)) return false;
    if (fixed)
        return trial_offer(p->t, "token-shift", &e, "every token reads token %ld's row", shift);
    return trial_offer(p->t, "token-shift", &e, "each token reads the row of the one %ld %s it",
                       labs(shift), shift < 0 ? "before" : "after");
}

enum { TOKENS_AT_ONCE = 64 };

// A token whose row gives what the case's first row holds: is there a rule that holds for all rows?
static bool try_token(Product *p, size_t token) {
    const long shift = (long)token - (long)p->t->k->row[0];
    if (try_rule(p, true, (long)token, EDGE_CLAMPED)) return true;
    for (Edge edge = EDGE_CLAMPED; edge < N_EDGES; edge++) {
        if (try_rule(p, false, shift, edge)) return true;
    }
    return false;
}

static bool holds_sample(const Product *p, const double *y, const double *bound) {
    for (size_t j = 0; j < p->n_samples; j++) {
        if (!(fabs(p->t->k->got[p->sample[j]] - y[j]) <= bound[j])) return false;
    }
    return true;
}

static void try_token_shift(Product *p) {
    const CauseCase *k = p->t->k;
    const Value *in = &k->site->at[p->in];
    const Variant v = product_as_is(p);
    const size_t n = TOKENS_AT_ONCE * p->inputs;
    double *x = product_doubles(p, 2 * n);
    size_t token[TOKENS_AT_ONCE];
    for (size_t at = 0; x && at < k->site->n && !p->t->status; at += TOKENS_AT_ONCE) {
        size_t count = 0;
        for (size_t i = at; i < at + TOKENS_AT_ONCE && i < k->site->n; i++) {
            if (i != k->row[0] && value_known(in, i)) token[count++] = i;
        }
        const bool uncertain = value_rows(in, token, count, x, x + n);
        Expected e;
        if (product_expect(p, &v, p->sample, p->n_samples, x, uncertain ? x + n : NULL, count,
                           &e)) {
            return;
        }
        bool found = false;
        for (size_t i = 0; i < count && !found; i++) {
            const size_t from = i * p->n_samples;
            found = holds_sample(p, e.y + from, e.bound + from) && try_token(p, token[i]);
        }
        expected_free(&e);
        if (found) return;
    }
}

// Where the product itself was not captured each variant costs a pass over the matrix: the
// likeliest.
static void try_likeliest(Product *p) {
    double *x = product_doubles(p, 2 * p->rows * p->inputs);
    try_transposed(p);
    try_other_weights(p);
    if (!x) return;
    try_arrays(p, x, x + p->rows * p->inputs);
    try_heads(p, x, x + p->rows * p->inputs);
}

void cause_matmul(Trial *t) {
    Product p;
    const bool ready = product_open(t, &p);
    if (ready && t->path) {
        try_likeliest(&p);
    } else if (ready) {
        try_transposed(&p);
        try_row_stride(&p);
        try_other_weights(&p);
        try_other_inputs(&p);
        try_token_shift(&p);
        try_rounded_weights(&p);
        cause_sums(&p);
    }
    if (ready) cause_outputs(&p);
    product_close(&p);
}
