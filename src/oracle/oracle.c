// The oracle; see oracle.h. Each function is the formula of its paper in float64, over whole
// sequences.
//
// The pass, with dim = D, query heads H, key/value heads K, head_dim = d, tokens T:
//
//   x       = embd[token]                                    T x D
//   h       = rmsnorm(x)                                     T x D
//   q, k, v = h Wq + bq, h Wk + bk, h Wv + bv                T x Hd, T x Kd, T x Kd
//   q, k    = rope(q), rope(k)                               (qwen3: each head normed before)
//   a       = softmax(q k' / sqrt(d) + causal mask) v        T x Hd; H/K query heads share a k, v
//   x       = x + a Wo                                       T x D
//   h       = rmsnorm(x)
//   x       = x + (silu(h Wg) * (h Wu)) Wd                   T x D
//   logits  = rmsnorm(x) Wout                                T x vocabulary
//
// Sums are double sums in one written order, whole in one thread, so threads change no bit.
#include "oracle/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/pool.h"

struct Oracle {
    const Model *model;
    Pool *pool;
    double *frequency;  // n_rot / 2: radians that each pair turns from one position to the next
    double magnitude;   // what YaRN multiplies rotated elements by, else 1
};

// Weights are decoded a piece at a time; a piece is a multiple of every type's block.
enum { PIECE = 256 };

static size_t piece_bytes(const Tensor *t, size_t n) {
    const TypeInfo *info = type_info(t->type);
    return n / info->block_len * info->block_bytes;
}

// --- rotary frequencies -----------------------------------------------------------------------

// The pair (a real number) whose wave turns `turns` times within the context n_ctx:
// n_ctx base^(-2 i / n_rot) = 2 pi turns, solved for i (Peng et al. 2023, section 3.2).
static double pair_of_turns(const Hparams *h, double turns) {
    const double two_pi = 6.283185307179586476925286766559;
    return h->n_rot * log(h->rope_n_ctx_orig / (turns * two_pi)) / (2 * log((double)h->rope_base));
}

// How much of the original frequency pair i keeps under YaRN: 1 for fast pairs, which see many
// turns within the original context, 0 for slow ones, whose positions are interpolated, a ramp
// between.
static double yarn_keep(const Hparams *h, int i) {
    double low = floor(pair_of_turns(h, h->yarn_beta_fast));
    double high = ceil(pair_of_turns(h, h->yarn_beta_slow));
    if (low < 0) low = 0;
    if (high > h->n_rot - 1) high = h->n_rot - 1;
    double width = high - low < 0.001 ? 0.001 : high - low;
    double ramp = (i - low) / width;
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return 1 - ramp;
}

// RoPE (Su et al. 2021): pair i turns by base^(-2 i / n_rot) a position. Llama 3 divides each by a
// number of its own; linear scaling divides all by the factor; YaRN mixes scaled and unscaled.
static void set_frequencies(Oracle *o) {
    const Hparams *h = &o->model->h;
    const Tensor *divisors = o->model->rope_freqs;
    for (int i = 0; i < h->n_rot / 2; i++) {
        double original = pow((double)h->rope_base, -2.0 * i / h->n_rot);
        if (divisors) {
            float divisor;
            dequantize(divisors->type, divisors->data + piece_bytes(divisors, (size_t)i), &divisor,
                       1);
            original /= divisor;
        }
        double scaled = original / h->rope_factor;
        double keep = 0;
        if (h->rope_scaling == ROPE_SCALING_NONE) keep = 1;
        if (h->rope_scaling == ROPE_SCALING_YARN) keep = yarn_keep(h, i) * h->yarn_ext_factor;
        o->frequency[i] = scaled * (1 - keep) + original * keep;
    }
    o->magnitude = 1;
    if (h->rope_scaling != ROPE_SCALING_YARN) return;
    o->magnitude = h->yarn_attn_factor;
    // Attention's temperature, put on q and k alike (Peng et al. 2023, section 3.4).
    if (h->yarn_ext_factor > 0) o->magnitude *= 1 + 0.1 * log(h->rope_factor);
}

Status oracle_new(const Model *model, int n_threads, Oracle **out, Error *err) {
    *out = NULL;
    Oracle *o = calloc(1, sizeof *o);
    size_t pairs = (size_t)model->h.n_rot / 2;
    double *frequency = calloc(pairs, sizeof *frequency);
    if (!o || !frequency) {
        free(o), free(frequency);
        return error_memory(err, "the oracle", pairs * sizeof *frequency);
    }
    o->model = model;
    o->frequency = frequency;
    Status st = pool_create(n_threads, &o->pool, err);
    if (st) {
        oracle_free(o);
        return st;
    }
    set_frequencies(o);
    *out = o;
    return OK;
}

void oracle_free(Oracle *o) {
    if (!o) return;
    pool_free(o->pool);
    free(o->frequency);
    free(o);
}

const double *oracle_frequencies(const Oracle *o, double *magnitude) {
    *magnitude = o->magnitude;
    return o->frequency;
}

int oracle_threads(const Oracle *o) {
    return pool_threads(o->pool);
}

void oracle_parallel(const Oracle *o, void (*fn)(void *arg, int i, int n), void *arg) {
    pool_run(o->pool, fn, arg);
}

// --- components -------------------------------------------------------------------------------

void oracle_embed(const Oracle *o, const int32_t *tokens, size_t n, double *y) {
    const Tensor *t = o->model->token_embd;
    size_t dim = t->dims[0], row_bytes = piece_bytes(t, dim);
    float piece[PIECE];
    for (size_t i = 0; i < n; i++) {
        const uint8_t *row = t->data + (size_t)tokens[i] * row_bytes;
        for (size_t at = 0; at < dim; at += PIECE) {
            size_t len = dim - at < PIECE ? dim - at : PIECE;
            dequantize(t->type, row + piece_bytes(t, at), piece, len);
            for (size_t j = 0; j < len; j++) y[i * dim + at + j] = piece[j];
        }
    }
}

// Zhang & Sennrich 2019: y = x / sqrt(mean(x^2) + eps) * w.
void oracle_rmsnorm(const double *x, size_t rows, size_t width, const Tensor *weight, double eps,
                    double *y) {
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t i = 0; i < width; i++) sum += x[r * width + i] * x[r * width + i];
        double scale = 1 / sqrt(sum / (double)width + eps);
        for (size_t i = 0; i < width; i++) y[r * width + i] = x[r * width + i] * scale;
    }
    float w[PIECE];
    for (size_t at = 0; at < width; at += PIECE) {
        size_t len = width - at < PIECE ? width - at : PIECE;
        dequantize(weight->type, weight->data + piece_bytes(weight, at), w, len);
        for (size_t r = 0; r < rows; r++) {
            for (size_t i = 0; i < len; i++) y[r * width + at + i] *= w[i];
        }
    }
}

// What is uncertain of x: of each row the elements whose deviation is not 0, often few.
typedef struct {
    size_t *from;  // rows + 1: row r has the entries from[r] .. from[r + 1] - 1
    uint32_t *at;
    double *square;
} Uncertain;

typedef struct {
    const OracleMatmul *m;
    Uncertain uncertain;
    float *scratch;     // for each thread: a row of weights as floats, then as doubles
    size_t per_thread;  // floats
} Matmul;

typedef double Lanes __attribute__((vector_size(16), aligned(8)));
typedef long long Bits __attribute__((vector_size(16), aligned(8)));
enum { LANES = 2, SUMS = 4 };

static inline Lanes load(const double *x) {
    Lanes v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline double sum_lanes(const Lanes *s) {
    const Lanes a = (s[0] + s[1]) + (s[2] + s[3]);
    return a[0] + a[1];
}

// sum w x and sum |w x|: eight partial sums each, added in one written order.
static inline void dot(const double *w, const double *x, size_t n, bool want_abs, double *y,
                       double *abs) {
    Lanes sum[SUMS] = {{0}}, size[SUMS] = {{0}};
    size_t i = 0;
    for (; i + LANES * SUMS <= n; i += LANES * SUMS) {
        for (size_t k = 0; k < SUMS; k++) {
            const Lanes p = load(w + i + LANES * k) * load(x + i + LANES * k);
            sum[k] += p;
            if (want_abs) size[k] += (Lanes)((Bits)p & 0x7fffffffffffffff);
        }
    }
    *y = sum_lanes(sum), *abs = sum_lanes(size);
    for (; i < n; i++) {
        *y += w[i] * x[i];
        *abs += fabs(w[i] * x[i]);
    }
}

// One thread's outputs. A row of weights is decoded once and meets every row of x.
static void matmul_thread(void *arg, int thread, int n_threads) {
    const Matmul *t = arg;
    const OracleMatmul *m = t->m;
    const size_t n = m->inputs;
    float *narrow = t->scratch + (size_t)thread * t->per_thread;
    double *w = (double *)(void *)(narrow + (n + 1) / 2 * 2);
    long from, to;
    pool_split((long)m->outputs, 1, thread, n_threads, &from, &to);
    for (size_t o = (size_t)from; o < (size_t)to; o++) {
        m->row(m->user, o, narrow);
        for (size_t i = 0; i < n; i++) w[i] = narrow[i];
        if (m->norm) {
            double square, unused;
            dot(w, w, n, false, &square, &unused);
            m->norm[o] = sqrt(square);
        }
        const double bias = m->bias ? m->bias[o] : 0;
        for (size_t r = 0; r < m->rows; r++) {
            const size_t at = r * m->outputs + o;
            double y, abs;
            if (m->abs) {
                dot(w, m->x + r * n, n, true, &y, &abs);
                m->abs[at] = abs + fabs(bias);
            } else {
                dot(w, m->x + r * n, n, false, &y, &abs);
            }
            m->y[at] = y + bias;
            if (!m->variance) continue;
            double sum = 0;
            for (size_t k = t->uncertain.from[r]; k < t->uncertain.from[r + 1]; k++) {
                const double wi = w[t->uncertain.at[k]];
                sum += wi * wi * t->uncertain.square[k];
            }
            m->variance[at] = sum;
        }
    }
}

static Status find_uncertain(const OracleMatmul *m, Uncertain *u, Error *err) {
    const size_t n = m->rows * m->inputs;
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += m->x_sd[i] != 0;
    u->from = malloc((m->rows + 1) * sizeof *u->from);
    u->at = malloc((count + 1) * sizeof *u->at);
    u->square = malloc((count + 1) * sizeof *u->square);
    if (!u->from || !u->at || !u->square) {
        return error_memory(err, "uncertain inputs", (count + 1) * sizeof *u->square);
    }
    count = 0;
    for (size_t r = 0; r < m->rows; r++) {
        u->from[r] = count;
        for (size_t i = 0; i < m->inputs; i++) {
            const double sd = m->x_sd[r * m->inputs + i];
            if (sd != 0) u->at[count] = (uint32_t)i, u->square[count++] = sd * sd;
        }
    }
    u->from[m->rows] = count;
    return OK;
}

Status oracle_matmul_rows(const Oracle *o, const OracleMatmul *m, Error *err) {
    Matmul t = {.m = m, .per_thread = (m->inputs + 1) / 2 * 2 * 3};
    const size_t n_scratch = (size_t)pool_threads(o->pool) * t.per_thread;
    Status st = OK;
    t.scratch = malloc(n_scratch * sizeof *t.scratch);
    if (!t.scratch) st = error_memory(err, "decoded weights", n_scratch * sizeof *t.scratch);
    if (!st && m->variance) st = find_uncertain(m, &t.uncertain, err);
    if (!st) pool_run(o->pool, matmul_thread, &t);
    free(t.scratch);
    free(t.uncertain.from), free(t.uncertain.at), free(t.uncertain.square);
    return st;
}

void oracle_tensor_row(void *tensor, size_t output, float *w) {
    const Tensor *t = tensor;
    const size_t inputs = (size_t)t->dims[0];
    dequantize(t->type, t->data + output * piece_bytes(t, inputs), w, inputs);
}

Status oracle_matmul(const Oracle *o, const Tensor *w, const Tensor *bias, const double *x,
                     size_t rows, double *y, Error *err) {
    const size_t outputs = (size_t)w->dims[1];
    float *b = NULL;
    if (bias) {
        b = malloc(outputs * sizeof *b);
        if (!b) return error_memory(err, bias->name, outputs * sizeof *b);
        dequantize(bias->type, bias->data, b, outputs);
    }
    const OracleMatmul m = {.row = oracle_tensor_row,
                            .user = (void *)(uintptr_t)w,
                            .inputs = (size_t)w->dims[0],
                            .outputs = outputs,
                            .bias = b,
                            .x = x,
                            .rows = rows,
                            .y = y};
    Status st = oracle_matmul_rows(o, &m, err);
    free(b);
    return st;
}

// Su et al. 2021: with t = p * frequency, the pair (a, b) at position p becomes
// (a cos t - b sin t, a sin t + b cos t).
void oracle_rope(const Oracle *o, const double *x, size_t rows, int n_heads, const int32_t *pos,
                 double *y) {
    const Hparams *h = &o->model->h;
    size_t head_dim = (size_t)h->head_dim, pairs = (size_t)h->n_rot / 2;
    bool neox = h->rope_pairing == ROPE_NEOX;
    size_t width = (size_t)n_heads * head_dim;
    memmove(y, x, rows * width * sizeof *y);  // elements past n_rot stay as they are
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < pairs; i++) {
            double angle = pos[r] * o->frequency[i];
            double c = cos(angle) * o->magnitude, s = sin(angle) * o->magnitude;
            size_t first = neox ? i : 2 * i, second = neox ? i + pairs : 2 * i + 1;
            for (size_t head = 0; head < (size_t)n_heads; head++) {
                double *at = y + r * width + head * head_dim;
                double a = at[first], b = at[second];
                at[first] = a * c - b * s;
                at[second] = a * s + b * c;
            }
        }
    }
}

// y = softmax of the n scores whose key is visible, 0 elsewhere; all 0 when none is.
static void softmax(const double *scores, const bool *visible, size_t n, double *y) {
    double most = -INFINITY, sum = 0;
    for (size_t j = 0; j < n; j++) {
        if (visible[j] && scores[j] > most) most = scores[j];
    }
    for (size_t j = 0; j < n; j++) {
        y[j] = visible[j] ? exp(scores[j] - most) : 0;
        sum += y[j];
    }
    for (size_t j = 0; j < n && sum > 0; j++) y[j] /= sum;
}

typedef struct {
    const Oracle *o;
    const double *q, *k, *v;
    const int32_t *pos, *key_pos;
    size_t rows, n_keys;
    double *kq, *soft, *y;  // kq and soft may be NULL
    double *scratch;        // 2 n_keys doubles for each thread
    bool *visible;          // n_keys for each thread
} Attention;

// One query head of one row: scores against every visible key, softmax, the weighted sum of values.
static void attend(const Attention *a, size_t row, size_t head, double *scores, double *weights,
                   const bool *visible) {
    const Hparams *h = &a->o->model->h;
    size_t d = (size_t)h->head_dim, n_heads = (size_t)h->n_heads, n_kv = (size_t)h->n_kv_heads;
    size_t kv_head = head / (n_heads / n_kv);  // neighbours share a key head (Ainslie et al. 2023)
    const double *q = a->q + (row * n_heads + head) * d;
    double *y = a->y + (row * n_heads + head) * d;
    for (size_t j = 0; j < a->n_keys; j++) {
        scores[j] = 0;
        if (!visible[j]) continue;
        const double *k = a->k + (j * n_kv + kv_head) * d;
        double sum = 0;
        for (size_t i = 0; i < d; i++) sum += q[i] * k[i];
        scores[j] = sum / sqrt((double)d);
    }
    softmax(scores, visible, a->n_keys, weights);
    for (size_t i = 0; i < d; i++) y[i] = 0;
    for (size_t j = 0; j < a->n_keys; j++) {
        if (!visible[j]) continue;
        const double *v = a->v + (j * n_kv + kv_head) * d;
        for (size_t i = 0; i < d; i++) y[i] += weights[j] * v[i];
    }
}

static void attention_thread(void *arg, int thread, int n_threads) {
    const Attention *a = arg;
    size_t n = a->n_keys, n_heads = (size_t)a->o->model->h.n_heads;
    double *own = a->scratch + (size_t)thread * 2 * n;
    bool *visible = a->visible + (size_t)thread * n;
    long from, to;
    pool_split((long)(a->rows * n_heads), 1, thread, n_threads, &from, &to);
    for (size_t at = (size_t)from; at < (size_t)to; at++) {
        size_t row = at / n_heads;
        for (size_t j = 0; j < n; j++) visible[j] = a->key_pos[j] <= a->pos[row];
        double *scores = a->kq ? a->kq + at * n : own;
        double *weights = a->soft ? a->soft + at * n : own + n;
        attend(a, row, at % n_heads, scores, weights, visible);
    }
}

Status oracle_attention(const Oracle *o, const double *q, size_t rows, const int32_t *pos,
                        const double *k, const double *v, size_t n_keys, const int32_t *key_pos,
                        double *kq, double *soft, double *y, Error *err) {
    size_t per_thread = n_keys * (2 * sizeof(double) + sizeof(bool));
    size_t bytes = (size_t)pool_threads(o->pool) * per_thread + 1;
    double *scratch = malloc(bytes);
    if (!scratch) return error_memory(err, "attention scores", bytes);
    bool *visible = (bool *)(scratch + (size_t)pool_threads(o->pool) * 2 * n_keys);
    Attention a = {o, q, k, v, pos, key_pos, rows, n_keys, kq, soft, y, scratch, visible};
    pool_run(o->pool, attention_thread, &a);
    free(scratch);
    return OK;
}

// Shazeer 2020: silu(gate) * up, silu(x) = x / (1 + exp(-x)).
void oracle_swiglu(const double *gate, const double *up, size_t n, double *y) {
    for (size_t i = 0; i < n; i++) y[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
}

// --- the pass ---------------------------------------------------------------------------------

typedef struct {
    const Oracle *o;
    size_t n;  // tokens
    int32_t *pos;
    double *x, *h;            // n x dim: the residual stream; what a block reads from it
    double *q, *k, *v, *att;  // n x heads * head_dim; n x kv_heads * head_dim (k, v)
    double *gate, *up;        // n x ffn_dim
    double *branch;           // n x dim: what a block adds to the stream
    double *kq, *soft;        // n * heads x n, only where someone looks
    double *logits;           // n x n_vocab, or one row where no one looks
    Arena arena;
    OracleTap tap;
    void *user;
    Error *err;
} Pass;

static void show(const Pass *p, int layer, const char *what, const double *x, size_t rows,
                 size_t width) {
    if (!p->tap) return;
    char name[64];
    if (layer < 0) {
        snprintf(name, sizeof name, "%s", what);
    } else {
        snprintf(name, sizeof name, "blk.%d.%s", layer, what);
    }
    p->tap(p->user, name, x, rows, width);
}

static double *doubles(Pass *p, size_t rows, size_t width, Status *st) {
    uint64_t n;
    double *x = NULL;
    if (checked_mul(rows, width, &n)) x = arena_alloc(&p->arena, n, sizeof *x);
    if (!x && !*st)
        *st = error_memory(p->err, "the oracle's activations", rows * width * sizeof *x);
    return x;
}

static Status pass_alloc(Pass *p) {
    const Hparams *h = &p->o->model->h;
    size_t n = p->n, dim = (size_t)h->dim, ffn = (size_t)h->ffn_dim;
    size_t q_width = (size_t)h->n_heads * (size_t)h->head_dim;
    size_t kv_width = (size_t)h->n_kv_heads * (size_t)h->head_dim;
    Status st = OK;
    p->x = doubles(p, n, dim, &st);
    p->h = doubles(p, n, dim, &st);
    p->q = doubles(p, n, q_width, &st);
    p->k = doubles(p, n, kv_width, &st);
    p->v = doubles(p, n, kv_width, &st);
    p->att = doubles(p, n, q_width, &st);
    p->gate = doubles(p, n, ffn, &st);
    p->up = doubles(p, n, ffn, &st);
    p->branch = doubles(p, n, dim, &st);
    p->logits = doubles(p, p->tap ? n : 1, (size_t)h->n_vocab, &st);
    if (p->tap) {
        p->kq = doubles(p, n * (size_t)h->n_heads, n, &st);
        p->soft = doubles(p, n * (size_t)h->n_heads, n, &st);
    }
    p->pos = arena_alloc(&p->arena, n, sizeof *p->pos);
    if (!p->pos && !st) st = error_memory(p->err, "positions", n * sizeof *p->pos);
    for (size_t i = 0; i < n && !st; i++) p->pos[i] = (int32_t)i;
    return st;
}

// q, k, v of every token, ready for attention: projected, normed where the model does, rotated.
static Status project_qkv(Pass *p, const LayerWeights *w, int layer) {
    const Hparams *h = &p->o->model->h;
    size_t n = p->n, d = (size_t)h->head_dim, heads = (size_t)h->n_heads,
           kv_heads = (size_t)h->n_kv_heads;
    double eps = h->rms_eps;
    Status st = oracle_matmul(p->o, w->q, w->q_bias, p->h, n, p->q, p->err);
    if (!st) st = oracle_matmul(p->o, w->k, w->k_bias, p->h, n, p->k, p->err);
    if (!st) st = oracle_matmul(p->o, w->v, w->v_bias, p->h, n, p->v, p->err);
    if (st) return st;
    show(p, layer, "q", p->q, n, heads * d);
    show(p, layer, "k", p->k, n, kv_heads * d);
    show(p, layer, "v", p->v, n, kv_heads * d);
    if (w->q_norm) {
        oracle_rmsnorm(p->q, n * heads, d, w->q_norm, eps, p->q);
        show(p, layer, "q_norm", p->q, n, heads * d);
    }
    if (w->k_norm) {
        oracle_rmsnorm(p->k, n * kv_heads, d, w->k_norm, eps, p->k);
        show(p, layer, "k_norm", p->k, n, kv_heads * d);
    }
    oracle_rope(p->o, p->q, n, h->n_heads, p->pos, p->q);
    oracle_rope(p->o, p->k, n, h->n_kv_heads, p->pos, p->k);
    show(p, layer, "q_rope", p->q, n, heads * d);
    show(p, layer, "k_rope", p->k, n, kv_heads * d);
    return OK;
}

static void add(double *x, const double *branch, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] += branch[i];
}

static Status attention_block(Pass *p, const LayerWeights *w, int layer) {
    const Hparams *h = &p->o->model->h;
    size_t n = p->n, dim = (size_t)h->dim, heads = (size_t)h->n_heads;
    oracle_rmsnorm(p->x, n, dim, w->attn_norm, h->rms_eps, p->h);
    show(p, layer, "attn_norm", p->h, n, dim);
    Status st = project_qkv(p, w, layer);
    if (st) return st;
    st = oracle_attention(p->o, p->q, n, p->pos, p->k, p->v, n, p->pos, p->kq, p->soft, p->att,
                          p->err);
    if (st) return st;
    show(p, layer, "kq", p->kq, n * heads, n);
    show(p, layer, "kq_soft_max", p->soft, n * heads, n);
    show(p, layer, "attn", p->att, n, heads * (size_t)h->head_dim);
    st = oracle_matmul(p->o, w->attn_out, w->attn_out_bias, p->att, n, p->branch, p->err);
    if (st) return st;
    show(p, layer, "attn_out", p->branch, n, dim);
    add(p->x, p->branch, n * dim);
    show(p, layer, "ffn_inp", p->x, n, dim);
    return OK;
}

static Status ffn_block(Pass *p, const LayerWeights *w, int layer) {
    const Hparams *h = &p->o->model->h;
    size_t n = p->n, dim = (size_t)h->dim, ffn = (size_t)h->ffn_dim;
    oracle_rmsnorm(p->x, n, dim, w->ffn_norm, h->rms_eps, p->h);
    show(p, layer, "ffn_norm", p->h, n, dim);
    Status st = oracle_matmul(p->o, w->ffn_gate, w->ffn_gate_bias, p->h, n, p->gate, p->err);
    if (!st) st = oracle_matmul(p->o, w->ffn_up, w->ffn_up_bias, p->h, n, p->up, p->err);
    if (st) return st;
    show(p, layer, "ffn_gate", p->gate, n, ffn);
    show(p, layer, "ffn_up", p->up, n, ffn);
    oracle_swiglu(p->gate, p->up, n * ffn, p->gate);
    show(p, layer, "ffn_act", p->gate, n, ffn);
    st = oracle_matmul(p->o, w->ffn_down, w->ffn_down_bias, p->gate, n, p->branch, p->err);
    if (st) return st;
    show(p, layer, "ffn_out", p->branch, n, dim);
    add(p->x, p->branch, n * dim);
    show(p, layer, "l_out", p->x, n, dim);
    return OK;
}

static Status run_pass(Pass *p, const int32_t *tokens, double *logits_last) {
    const Model *m = p->o->model;
    size_t n = p->n, dim = (size_t)m->h.dim, n_vocab = (size_t)m->h.n_vocab;
    oracle_embed(p->o, tokens, n, p->x);
    show(p, -1, "embd", p->x, n, dim);
    for (int l = 0; l < m->h.n_layers; l++) {
        Status st = attention_block(p, &m->layers[l], l);
        if (!st) st = ffn_block(p, &m->layers[l], l);
        if (st) return st;
    }
    oracle_rmsnorm(p->x, n, dim, m->output_norm, m->h.rms_eps, p->h);
    show(p, -1, "norm", p->h, n, dim);
    size_t rows = p->tap ? n : 1;
    Status st =
        oracle_matmul(p->o, m->output, NULL, p->h + (n - rows) * dim, rows, p->logits, p->err);
    if (st) return st;
    show(p, -1, "logits", p->logits, rows, n_vocab);
    if (logits_last) {
        memcpy(logits_last, p->logits + (rows - 1) * n_vocab, n_vocab * sizeof *logits_last);
    }
    return OK;
}

Status oracle_forward(Oracle *o, const int32_t *tokens, size_t n, OracleTap tap, void *user,
                      double *logits_last, Error *err) {
    int n_vocab = o->model->h.n_vocab;
    if (n == 0 || n > MODEL_MAX_CONTEXT) {
        return error_set(err, ERR_USAGE, "the oracle was given %zu tokens, expected 1 to %d", n,
                         MODEL_MAX_CONTEXT);
    }
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] >= 0 && tokens[i] < n_vocab) continue;
        return error_set(err, ERR_USAGE, "token %zu is %d, expected 0 to %d", i, tokens[i],
                         n_vocab - 1);
    }
    Pass p = {.o = o, .n = n, .tap = tap, .user = user, .err = err};
    Status st = pass_alloc(&p);
    if (!st) st = run_pass(&p, tokens, logits_last);
    arena_free(&p.arena);
    if (st || !o->model->gguf) return st;
    return gguf_fault(o->model->gguf, err);
}
