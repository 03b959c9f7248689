// What a component should be, from what it read; see site.h. Attention stands in site_attention.c.
#include "verify/site.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/sampling.h"
#include "verify/site_internal.h"

// --- shapes -------------------------------------------------------------------------------------

size_t component_width(const Hparams *h, Component c, size_t n) {
    const size_t head_dim = (size_t)h->head_dim;
    switch (c) {
        case COMP_Q:
        case COMP_Q_NORM:
        case COMP_Q_ROPE:
        case COMP_ATTN: return (size_t)h->n_heads * head_dim;
        case COMP_K:
        case COMP_V:
        case COMP_K_NORM:
        case COMP_K_ROPE:
        case COMP_K_CACHE:
        case COMP_V_CACHE: return (size_t)h->n_kv_heads * head_dim;
        case COMP_KQ:
        case COMP_KQ_SOFT_MAX: return (size_t)h->n_heads * n;
        case COMP_FFN_GATE:
        case COMP_FFN_UP:
        case COMP_FFN_ACT: return (size_t)h->ffn_dim;
        case COMP_LOGITS:
        case COMP_PROBS: return (size_t)h->n_vocab;
        case COMP_TOKEN: return 1;
        default: return (size_t)h->dim;
    }
}

size_t component_group(const Hparams *h, Component c, size_t width) {
    if (component_is_scores(c)) return width / (size_t)h->n_heads;
    if ((c >= COMP_Q && c <= COMP_V_CACHE) || c == COMP_ATTN) return (size_t)h->head_dim;
    return width;
}

// What a component reads of its own layer. The stream comes beside it: attn_norm, ffn_inp and norm
// read that.
const Component *component_inputs(Component c) {
    static const Component inputs[N_COMPONENTS][4] = {
        [COMP_EMBD] = {N_COMPONENTS},
        [COMP_ATTN_NORM] = {N_COMPONENTS},
        [COMP_Q] = {COMP_ATTN_NORM, N_COMPONENTS},
        [COMP_K] = {COMP_ATTN_NORM, N_COMPONENTS},
        [COMP_V] = {COMP_ATTN_NORM, N_COMPONENTS},
        [COMP_Q_NORM] = {COMP_Q, N_COMPONENTS},
        [COMP_K_NORM] = {COMP_K, N_COMPONENTS},
        [COMP_Q_ROPE] = {COMP_Q_NORM, N_COMPONENTS},
        [COMP_K_ROPE] = {COMP_K_NORM, N_COMPONENTS},
        [COMP_K_CACHE] = {COMP_K_ROPE, N_COMPONENTS},
        [COMP_V_CACHE] = {COMP_V, N_COMPONENTS},
        [COMP_KQ] = {COMP_Q_ROPE, COMP_K_CACHE, N_COMPONENTS},
        [COMP_KQ_SOFT_MAX] = {COMP_KQ, N_COMPONENTS},
        [COMP_ATTN] = {COMP_KQ_SOFT_MAX, COMP_V_CACHE, N_COMPONENTS},
        [COMP_ATTN_OUT] = {COMP_ATTN, N_COMPONENTS},
        [COMP_FFN_INP] = {COMP_ATTN_OUT, N_COMPONENTS},
        [COMP_FFN_NORM] = {COMP_FFN_INP, N_COMPONENTS},
        [COMP_FFN_GATE] = {COMP_FFN_NORM, N_COMPONENTS},
        [COMP_FFN_UP] = {COMP_FFN_NORM, N_COMPONENTS},
        [COMP_FFN_ACT] = {COMP_FFN_GATE, COMP_FFN_UP, N_COMPONENTS},
        [COMP_FFN_OUT] = {COMP_FFN_ACT, N_COMPONENTS},
        [COMP_L_OUT] = {COMP_FFN_INP, COMP_FFN_OUT, N_COMPONENTS},
        [COMP_NORM] = {N_COMPONENTS},
        [COMP_LOGITS] = {COMP_NORM, N_COMPONENTS},
        [COMP_PROBS] = {COMP_LOGITS, N_COMPONENTS},
        [COMP_TOKEN] = {COMP_LOGITS, N_COMPONENTS},
    };
    return inputs[c];
}

// --- values -------------------------------------------------------------------------------------

static bool is_seen(const Value *v, size_t row) {
    return v->seen && row >= v->seen->first_row;
}

bool value_known(const Value *v, size_t row) {
    return is_seen(v, row) || v->x;
}

bool value_rows(const Value *v, const size_t *row, size_t n_rows, double *x, double *sd) {
    const size_t width = v->width;
    bool any = false;
    for (size_t r = 0; r < n_rows; r++) {
        double *to = x + r * width;
        if (is_seen(v, row[r])) {
            const float *from = v->seen->x + (row[r] - v->seen->first_row) * width;
            for (size_t i = 0; i < width; i++) to[i] = from[i];
            if (sd) memset(sd + r * width, 0, width * sizeof *sd);
            continue;
        }
        CHECK(v->x);
        memcpy(to, v->x + row[r] * width, width * sizeof *to);
        if (sd) memcpy(sd + r * width, v->sd + row[r] * width, width * sizeof *sd);
        any = true;
    }
    return any;
}

Status expected_new(size_t rows, size_t width, Expected *out, Error *err) {
    const size_t n = rows * width;
    *out = (Expected){.rows = rows, .width = width};
    out->memory = calloc(n ? n : 1, 3 * sizeof(double));
    if (!out->memory) return error_memory(err, "expected values", n * 3 * sizeof(double));
    out->y = out->memory, out->bound = out->y + n, out->sd = out->bound + n;
    return OK;
}

void expected_free(Expected *e) {
    free(e->memory);
    *e = (Expected){0};
}

// Rows of an input with their uncertainty: x, and sd NULL where all is known.
typedef struct {
    double *x, *sd, *memory;
} Rows;

static Status read_rows(const Value *v, const size_t *row, size_t n_rows, Rows *out, Error *err) {
    const size_t n = n_rows * v->width;
    *out = (Rows){0};
    for (size_t i = 0; i < n_rows; i++) {
        if (value_known(v, row[i])) continue;
        return error_set(err, ERR_USAGE, "an input is not known at token %zu", row[i]);
    }
    out->memory = malloc((2 * n + 1) * sizeof *out->memory);
    if (!out->memory) return error_memory(err, "inputs", 2 * n * sizeof *out->memory);
    out->x = out->memory, out->sd = out->memory + n;
    if (!value_rows(v, row, n_rows, out->x, out->sd)) out->sd = NULL;
    return OK;
}

static void put(Expected *e, size_t i, Slack s, double propagated) {
    e->bound[i] = s.bound + BOUND_CONFIDENCE * propagated;
    e->sd[i] = hypot(s.sd, propagated);
}

// --- components ---------------------------------------------------------------------------------

static Status expect_embd(const Site *s, const size_t *row, size_t n_rows, Expected *e,
                          Error *err) {
    int32_t *tokens = malloc((n_rows + 1) * sizeof *tokens);
    if (!tokens) return error_memory(err, "tokens", n_rows * sizeof *tokens);
    for (size_t r = 0; r < n_rows; r++) tokens[r] = s->tokens[row[r]];
    oracle_embed(s->oracle, tokens, n_rows, e->y);
    free(tokens);
    const Precision out = s->rounding->out[COMP_EMBD];
    for (size_t i = 0; i < n_rows * e->width; i++) {
        put(e, i, bound_copy(e->y[i], out), 0);
        if (out != PREC_F32)
            cache_round(out == PREC_F16 ? TYPE_F16 : TYPE_BF16, &e->y[i], 1, &e->y[i]);
    }
    return OK;
}

// rows of `width` (a head's in q_norm and k_norm).
static Status expect_norm(const Site *s, Component c, const Value *in, const Tensor *weight,
                          size_t width, const size_t *row, size_t n_rows, Expected *e, Error *err) {
    Rows x;
    Status st = read_rows(in, row, n_rows, &x, err);
    if (st) return st;
    const double eps = s->model->h.rms_eps;
    const size_t n = n_rows * in->width / width;
    oracle_rmsnorm(x.x, n, width, weight, eps, e->y);
    for (size_t r = 0; r < n; r++) {
        const double *xr = x.x + r * width, *sd = x.sd ? x.sd + r * width : NULL;
        double squares = 0, common = 0;  // sum x^2; variance of the scale, relative
        for (size_t i = 0; i < width; i++) {
            squares += xr[i] * xr[i];
            if (sd) common += xr[i] * xr[i] * sd[i] * sd[i];
        }
        const double all = squares + eps * (double)width;
        common = all > 0 ? sqrt(common) / all : 0;
        for (size_t i = 0; i < width; i++) {
            const size_t at = r * width + i;
            const double y = e->y[at];
            const double own = sd && xr[i] != 0 ? y / xr[i] * sd[i] : 0;
            put(e, at, bound_rmsnorm(width, y, s->rounding->out[c]), hypot(own, y * common));
        }
    }
    free(x.memory);
    return OK;
}

Weights weights_of(const Tensor *w, const Tensor *bias) {
    return (Weights){.row = oracle_tensor_row,
                     .user = (void *)(uintptr_t)w,
                     .inputs = (size_t)w->dims[0],
                     .outputs = (size_t)w->dims[1],
                     .bias = bias};
}

Status expect_matmul(const Site *s, const Weights *w, ActWay way, const double *x,
                     const double *x_sd, size_t rows, Precision out_prec, Expected *out,
                     Error *err) {
    const size_t n = rows * w->inputs;
    double *rounded = malloc((2 * n + w->outputs + 1) * sizeof *rounded);
    double *sd = rounded + n, *norm = sd + n;
    float *bias = w->bias ? malloc(w->outputs * sizeof *bias) : NULL;
    if (!rounded || (w->bias && !bias)) {
        free(rounded), free(bias);
        return error_memory(err, "rounded inputs", 2 * n * sizeof *rounded);
    }
    bool uncertain = false;
    act_round(way, x, x_sd, rows, w->inputs, rounded, sd, &uncertain);
    if (bias) dequantize(w->bias->type, w->bias->data, bias, w->outputs);
    const OracleMatmul m = {.row = w->row,
                            .user = w->user,
                            .inputs = w->inputs,
                            .outputs = w->outputs,
                            .bias = bias,
                            .x = rounded,
                            .x_sd = uncertain ? sd : NULL,
                            .rows = rows,
                            .y = out->y,
                            .abs = out->bound,
                            .norm = norm,
                            .variance = uncertain ? out->sd : NULL};
    Status st = oracle_matmul_rows(s->oracle, &m, err);
    // Engines multiply codes and minima of a block apart: where its weight is next to nothing and
    // its input huge, the parts still round at their own size. Two u |w| |x| (norms) is that.
    const double part = 2 / (8 * sqrt((double)w->inputs));
    for (size_t r = 0; !st && r < rows; r++) {
        const double *xr = rounded + r * w->inputs;
        double square = 0;
        for (size_t i = 0; i < w->inputs; i++) square += xr[i] * xr[i];
        for (size_t o = 0; o < w->outputs; o++) {
            const size_t i = r * w->outputs + o;
            const double abs = out->bound[i] + part * norm[o] * sqrt(square);
            put(out, i, bound_matmul(w->inputs, abs, out->y[i], PREC_F32, out_prec),
                uncertain ? sqrt(out->sd[i]) : 0);
        }
    }
    free(rounded), free(bias);
    return st;
}

Status expect_sums(const Tensor *w, size_t stride, ActWay way, const double *x, const double *x_sd,
                   size_t rows, Expected *out, Error *err) {
    const size_t blocks = (size_t)w->dims[0] / 32, n = rows * blocks;
    if (!act_sums(way, w->type)) return OK;
    double *error = malloc((2 * n + blocks + 1) * sizeof *error);
    if (!error) return error_memory(err, "sums of inputs", 2 * n * sizeof *error);
    double *sd = error + n, *m = sd + n;
    act_sum_errors(way, x, x_sd, rows, (size_t)w->dims[0], error, sd);
    for (size_t o = 0; o < out->width; o++) {
        weight_minimums(w, o * stride, m);
        for (size_t r = 0; r < rows; r++) {
            const double *e = error + r * blocks, *e_sd = sd + r * blocks;
            const size_t at = r * out->width + o;
            double sum = 0, variance = 0;
            for (size_t b = 0; b < blocks; b++) {
                sum += m[b] * e[b], variance += m[b] * m[b] * e_sd[b] * e_sd[b];
            }
            out->y[at] += sum;
            out->bound[at] += BOUND_CONFIDENCE * sqrt(variance);
            out->sd[at] = hypot(out->sd[at], sqrt(variance));
        }
    }
    free(error);
    return OK;
}

// One scale for all rows of the prompt: the row with the largest element joins those of x.
static Status round_by_tensor(const Value *in, size_t n, Rows *x, size_t n_rows, Error *err) {
    const size_t width = in->width, total = n_rows * width;
    size_t largest = 0;
    double top = -1;
    for (size_t row = 0; row < n; row++) {
        const float *seen =
            is_seen(in, row) ? in->seen->x + (row - in->seen->first_row) * width : NULL;
        for (size_t i = 0; i < width && value_known(in, row); i++) {
            const double size = fabs(seen ? (double)seen[i] : in->x[row * width + i]);
            if (size > top) top = size, largest = row;
        }
    }
    double *all = malloc((2 * (total + width) + 1) * sizeof *all), *sd = all + total + width;
    if (!all) return error_memory(err, "rounded inputs", 2 * total * sizeof *all);
    memcpy(all, x->x, total * sizeof *all);
    memset(sd, 0, (total + width) * sizeof *sd);
    if (x->sd) memcpy(sd, x->sd, total * sizeof *sd);
    if (value_known(in, largest)) value_rows(in, &largest, 1, all + total, sd + total);
    bool uncertain;
    act_round(WAY_Q8_TENSOR, all, sd, n_rows + 1, width, all, sd, &uncertain);
    memcpy(x->x, all, total * sizeof *all);
    x->sd = uncertain ? x->memory + total : NULL;
    if (uncertain) memcpy(x->sd, sd, total * sizeof *sd);
    free(all);
    return OK;
}

static Status expect_product(const Site *s, Component c, Component in, const Tensor *w,
                             const Tensor *bias, const size_t *row, size_t n_rows, Expected *e,
                             Error *err) {
    Rows x;
    const Weights weights = weights_of(w, bias);
    Status st = read_rows(&s->at[in], row, n_rows, &x, err);
    ActWay way = s->rounding->act.way[w->type];
    if (!st && in == COMP_ATTN && s->rounding->attn.turn_v) {  // turned heads are turned back first
        const size_t n = n_rows * s->at[in].width;
        if (!x.sd) x.sd = memset(x.memory + n, 0, n * sizeof *x.sd);  // in float32: not to the bit
        act_turn(x.x, x.sd, n, turn_block_v((size_t)s->model->h.head_dim));
    }
    if (!st && way == WAY_Q8_TENSOR) {
        st = round_by_tensor(&s->at[in], s->n, &x, n_rows, err);
        way = WAY_NONE;
    }
    if (!st) {
        st = expect_matmul(s, &weights, way, x.x, x.sd, n_rows, s->rounding->out[c], e, err);
    }
    if (!st) st = expect_sums(w, 1, way, x.x, x.sd, n_rows, e, err);
    free(x.memory);
    return st;
}

static Status expect_rope(const Site *s, Component c, const Value *in, int n_heads,
                          const size_t *row, size_t n_rows, Expected *e, Error *err) {
    Rows x;
    int32_t *pos = malloc((n_rows + 1) * sizeof *pos);
    if (!pos) return error_memory(err, "positions", n_rows * sizeof *pos);
    Status st = read_rows(in, row, n_rows, &x, err);
    if (st) {
        free(pos);
        return st;
    }
    for (size_t r = 0; r < n_rows; r++) pos[r] = s->pos[row[r]];
    oracle_rope(s->oracle, x.x, n_rows, n_heads, pos, e->y);
    const Hparams *h = &s->model->h;
    const size_t d = (size_t)h->head_dim, pairs = (size_t)h->n_rot / 2;
    const bool halves = h->rope_pairing == ROPE_NEOX;
    double magnitude;
    const double *frequency = oracle_frequencies(s->oracle, &magnitude);
    for (size_t r = 0; r < n_rows * (size_t)n_heads; r++) {
        const double *xr = x.x + r * d, *sd = x.sd ? x.sd + r * d : NULL;
        for (size_t i = 0; i < d; i++) {  // what lies behind the pairs is copied
            const size_t at = r * d + i;
            put(e, at, bound_copy(e->y[at], s->rounding->out[c]), sd ? sd[i] : 0);
        }
        for (size_t i = 0; i < pairs; i++) {
            const size_t a = halves ? i : 2 * i, b = halves ? i + pairs : 2 * i + 1;
            const double pair = hypot(xr[a], xr[b]) * fabs(magnitude);
            const double angle = pos[r / (size_t)n_heads] * fabs(frequency[i]);
            const double spread = sd ? hypot(sd[a], sd[b]) * fabs(magnitude) : 0;
            const Slack slack = bound_rope(pair, angle, i, s->rounding->out[c]);
            put(e, r * d + a, slack, spread);
            put(e, r * d + b, slack, spread);
        }
    }
    free(pos), free(x.memory);
    return OK;
}

static Status expect_cache(const Value *in, const AttnScheme *attn, TensorType type,
                           const size_t *row, size_t n_rows, Expected *e, Error *err) {
    Rows x;
    Status st = read_rows(in, row, n_rows, &x, err);
    if (st) return st;
    const size_t n = n_rows * in->width;
    act_round(attn_cache_way(attn, type), x.x, NULL, n_rows, in->width, e->y, NULL, NULL);
    for (size_t i = 0; i < n; i++) {
        double most = 0;  // of the block
        for (size_t k = i / 32 * 32; k < i / 32 * 32 + 32 && k < n; k++) {
            most = fabs(x.x[k]) > most ? fabs(x.x[k]) : most;
        }
        const Slack step = {1.1 * most / 127, 0.3 * most / 127};  // a tie, and an f16 scale's
        const Slack slack = type == TYPE_Q8_0   ? step
                            : type == TYPE_F16  ? bound_copy(x.x[i], PREC_F16)
                            : type == TYPE_BF16 ? bound_copy(x.x[i], PREC_BF16)
                                                : (Slack){0, 0};
        put(e, i, slack, x.sd ? x.sd[i] : 0);
        if (x.sd && x.sd[i] > 0) e->bound[i] += 2 * slack.bound;  // it may round to its neighbour
    }
    free(x.memory);
    return OK;
}

static Status expect_sum(const Site *s, Component c, const Value *a, const Value *b,
                         const size_t *row, size_t n_rows, Expected *e, Error *err) {
    Rows x, y = {0};
    Status st = read_rows(a, row, n_rows, &x, err);
    if (!st) st = read_rows(b, row, n_rows, &y, err);
    for (size_t i = 0; !st && i < n_rows * e->width; i++) {
        e->y[i] = x.x[i] + y.x[i];
        put(e, i, bound_add(x.x[i], y.x[i], s->rounding->out[c]),
            hypot(x.sd ? x.sd[i] : 0, y.sd ? y.sd[i] : 0));
    }
    free(x.memory), free(y.memory);
    return st;
}

static Status expect_swiglu(const Site *s, const size_t *row, size_t n_rows, Expected *e,
                            Error *err) {
    Rows gate, up = {0};
    Status st = read_rows(&s->at[COMP_FFN_GATE], row, n_rows, &gate, err);
    if (!st) st = read_rows(&s->at[COMP_FFN_UP], row, n_rows, &up, err);
    const size_t n = n_rows * e->width;
    if (!st) oracle_swiglu(gate.x, up.x, n, e->y);
    for (size_t i = 0; !st && i < n; i++) {
        const double g = gate.x[i], sigmoid = 1 / (1 + exp(-g));
        // silu'(g) = sigmoid (1 + g (1 - sigmoid))
        const double by_gate =
            gate.sd ? sigmoid * (1 + g * (1 - sigmoid)) * up.x[i] * gate.sd[i] : 0;
        const double by_up = up.sd ? g * sigmoid * up.sd[i] : 0;
        put(e, i, bound_swiglu(g, e->y[i], s->rounding->out[COMP_FFN_ACT]), hypot(by_gate, by_up));
    }
    free(gate.memory), free(up.memory);
    return st;
}

// One row, that of the last token.
static Status expect_probs(const Site *s, const size_t *row, size_t n_rows, Expected *e,
                           Error *err) {
    Rows x;
    Status st = read_rows(&s->at[COMP_LOGITS], row, n_rows, &x, err);
    if (!st && (!s->prompt || n_rows != 1)) {
        st = error_set(err, ERR_USAGE, "probabilities belong to the last token alone");
    }
    if (!st) {
        st = sampling_expect(&s->prompt->sampling, s->tokens, s->n, x.x, e->width, e->y, err);
    }
    double most = -INFINITY;
    for (size_t i = 0; !st && i < e->width; i++) most = x.x[i] > most ? x.x[i] : most;
    for (size_t i = 0; !st && i < e->width; i++) {
        const double temp = s->prompt->sampling.temp,
                     below = (most - x.x[i]) / (temp > 0 ? temp : 1);
        put(e, i,
            bound_softmax(e->width, e->y[i], fabs(below), x.sd ? x.sd[i] : 0,
                          s->rounding->out[COMP_PROBS]),
            0);
        if (e->y[i] == 0) e->bound[i] = 0;
    }
    free(x.memory);
    return st;
}

static Status fill(const Site *s, Component c, const size_t *row, size_t n_rows, Expected *e,
                   Error *err) {
    const Hparams *h = &s->model->h;
    const LayerWeights *w = s->w;
    const size_t dim = (size_t)h->dim, d = (size_t)h->head_dim;
    switch (c) {
        case COMP_EMBD: return expect_embd(s, row, n_rows, e, err);
        case COMP_ATTN_NORM:
            return expect_norm(s, c, &s->stream, w->attn_norm, dim, row, n_rows, e, err);
        case COMP_Q:
            return expect_product(s, c, COMP_ATTN_NORM, w->q, w->q_bias, row, n_rows, e, err);
        case COMP_K:
            return expect_product(s, c, COMP_ATTN_NORM, w->k, w->k_bias, row, n_rows, e, err);
        case COMP_V:
            return expect_product(s, c, COMP_ATTN_NORM, w->v, w->v_bias, row, n_rows, e, err);
        case COMP_Q_NORM:
            return expect_norm(s, c, &s->at[COMP_Q], w->q_norm, d, row, n_rows, e, err);
        case COMP_K_NORM:
            return expect_norm(s, c, &s->at[COMP_K], w->k_norm, d, row, n_rows, e, err);
        case COMP_Q_ROPE:
            return expect_rope(s, c, &s->at[w->q_norm ? COMP_Q_NORM : COMP_Q], h->n_heads, row,
                               n_rows, e, err);
        case COMP_K_ROPE:
            return expect_rope(s, c, &s->at[w->k_norm ? COMP_K_NORM : COMP_K], h->n_kv_heads, row,
                               n_rows, e, err);
        case COMP_K_CACHE:
            return expect_cache(&s->at[COMP_K_ROPE], &s->rounding->attn, s->rounding->attn.k, row,
                                n_rows, e, err);
        case COMP_V_CACHE:
            return expect_cache(&s->at[COMP_V], &s->rounding->attn, s->rounding->attn.v, row,
                                n_rows, e, err);
        case COMP_KQ:
        case COMP_KQ_SOFT_MAX:
        case COMP_ATTN: return expect_attention(s, c, row, n_rows, e, err);
        case COMP_ATTN_OUT:
            return expect_product(s, c, COMP_ATTN, w->attn_out, w->attn_out_bias, row, n_rows, e,
                                  err);
        case COMP_FFN_INP:
            return expect_sum(s, c, &s->stream, &s->at[COMP_ATTN_OUT], row, n_rows, e, err);
        case COMP_FFN_NORM:
            return expect_norm(s, c, &s->at[COMP_FFN_INP], w->ffn_norm, dim, row, n_rows, e, err);
        case COMP_FFN_GATE:
            return expect_product(s, c, COMP_FFN_NORM, w->ffn_gate, w->ffn_gate_bias, row, n_rows,
                                  e, err);
        case COMP_FFN_UP:
            return expect_product(s, c, COMP_FFN_NORM, w->ffn_up, w->ffn_up_bias, row, n_rows, e,
                                  err);
        case COMP_FFN_ACT: return expect_swiglu(s, row, n_rows, e, err);
        case COMP_FFN_OUT:
            return expect_product(s, c, COMP_FFN_ACT, w->ffn_down, w->ffn_down_bias, row, n_rows, e,
                                  err);
        case COMP_L_OUT:
            return expect_sum(s, c, &s->at[COMP_FFN_INP], &s->at[COMP_FFN_OUT], row, n_rows, e,
                              err);
        case COMP_NORM:
            return expect_norm(s, c, &s->stream, s->model->output_norm, dim, row, n_rows, e, err);
        case COMP_LOGITS:
            return expect_product(s, c, COMP_NORM, s->model->output, NULL, row, n_rows, e, err);
        case COMP_PROBS: return expect_probs(s, row, n_rows, e, err);
        default: break;
    }
    return error_set(err, ERR_USAGE, "%s holds no values", component_name(c));
}

Status expect(const Site *s, Component c, const size_t *row, size_t n_rows, Expected *out,
              Error *err) {
    const Hparams *h = &s->model->h;
    const size_t width = component_width(h, c, s->n);
    const size_t per_token = component_is_scores(c) ? (size_t)h->n_heads : 1;
    if ((c == COMP_Q_NORM && !s->w->q_norm) || (c == COMP_K_NORM && !s->w->k_norm)) {
        return error_set(err, ERR_USAGE, "this model has no %s", component_name(c));
    }
    Status st = expected_new(n_rows * per_token, width / per_token, out, err);
    if (!st) st = fill(s, c, row, n_rows, out, err);
    if (st) expected_free(out);
    return st;
}
