// Attention as a site expects it: scores, softmax weights, heads, each from what was captured.
//
// This file owns: taking up captured scores and weights where they are, going through all three
// steps where they are not, and the uncertainty that then comes along.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "verify/site_internal.h"

typedef struct {
    const Site *s;
    Component c;
    const size_t *row;
    size_t n_rows, n_keys;  // keys: as many as the last of the rows sees
    Expected *e;
    // rows x heads * d; n_keys x kv_heads * d. sd may be NULL: known.
    double *q, *q_sd, *k, *k_sd, *v, *v_sd;
    double *scratch;  // for each thread 4 * n: scores and weights, each with its sd
    void *memory;
} Attention;

static bool seen(const Value *v, size_t row) {
    return v->seen && row >= v->seen->first_row;
}

// --- inputs -------------------------------------------------------------------------------------

// The keys or values as attention reads them: from the cache where that was captured, else what
// went into it, rounded as it rounds.
static Status read_cached(const Attention *a, Component cache, Component in, TensorType type,
                          size_t turn, double *x, double **sd, Error *err) {
    const Value *cached = &a->s->at[cache], *given = &a->s->at[in];
    const ActWay way = attn_cache_way(&a->s->rounding->attn, type);
    const size_t width = given->width;
    bool any = false;
    for (size_t j = 0; j < a->n_keys; j++) {
        double *to = x + j * width, *to_sd = *sd + j * width;
        if (seen(cached, j)) {
            value_rows(cached, &j, 1, to, to_sd);
            continue;
        }
        if (!value_known(given, j)) {
            return error_set(err, ERR_USAGE, "%s of token %zu is not known", component_name(in), j);
        }
        bool uncertain = value_rows(given, &j, 1, to, to_sd);
        act_turn(to, to_sd, width, turn);
        uncertain |= turn > 0;
        act_round(way, to, uncertain ? to_sd : NULL, 1, width, to, to_sd, &uncertain);
        any |= uncertain;
    }
    if (!any) *sd = NULL;
    return OK;
}

static bool needs_scores(const Attention *a) {
    for (size_t r = 0; r < a->n_rows; r++) {
        const bool have = a->c != COMP_KQ && seen(&a->s->at[COMP_KQ], a->row[r]);
        const bool skip = a->c == COMP_ATTN && seen(&a->s->at[COMP_KQ_SOFT_MAX], a->row[r]);
        if (!have && !skip) return true;
    }
    return false;
}

static Status read_queries(Attention *a, Error *err) {
    const Value *in = &a->s->at[COMP_Q_ROPE];
    const size_t d = (size_t)a->s->model->h.head_dim;
    for (size_t r = 0; r < a->n_rows; r++) {
        if (value_known(in, a->row[r])) continue;
        return error_set(err, ERR_USAGE, "q_rope of token %zu is not known", a->row[r]);
    }
    const size_t turn = a->s->rounding->attn.turn_k ? turn_block_k(d) : 0;
    const bool any = value_rows(in, a->row, a->n_rows, a->q, a->q_sd) || turn > 0;
    act_turn(a->q, a->q_sd, a->n_rows * in->width, turn);
    bool uncertain;
    act_round(a->s->rounding->attn.q, a->q, any ? a->q_sd : NULL, a->n_rows * in->width / d, d,
              a->q, a->q_sd, &uncertain);
    if (!uncertain) a->q_sd = NULL;
    return OK;
}

static Status attention_inputs(Attention *a, Error *err) {
    const Hparams *h = &a->s->model->h;
    const size_t q = a->n_rows * (size_t)h->n_heads * (size_t)h->head_dim;
    const size_t kv = a->n_keys * (size_t)h->n_kv_heads * (size_t)h->head_dim;
    const size_t scratch = (size_t)oracle_threads(a->s->oracle) * 4 * a->s->n;
    double *at = calloc(2 * q + 4 * kv + scratch, sizeof *at);
    if (!at) return error_memory(err, "attention", (2 * q + 4 * kv + scratch) * sizeof *at);
    a->memory = at;
    a->q = at, a->q_sd = a->q + q, a->k = a->q_sd + q, a->k_sd = a->k + kv;
    a->v = a->k_sd + kv, a->v_sd = a->v + kv, a->scratch = a->v_sd + kv;
    const AttnScheme *attn = &a->s->rounding->attn;
    const size_t turn_k = attn->turn_k ? turn_block_k((size_t)h->head_dim) : 0;
    const size_t turn_v = attn->turn_v ? turn_block_v((size_t)h->head_dim) : 0;
    Status st = OK;
    if (needs_scores(a)) {
        st = read_queries(a, err);
        if (!st) {
            st = read_cached(a, COMP_K_CACHE, COMP_K_ROPE, attn->k, turn_k, a->k, &a->k_sd, err);
        }
    }
    if (!st && a->c == COMP_ATTN) {
        st = read_cached(a, COMP_V_CACHE, COMP_V, attn->v, turn_v, a->v, &a->v_sd, err);
    }
    return st;
}

// --- one head of one row ------------------------------------------------------------------------

typedef struct {
    size_t r, row, head, n;       // n: visible keys, 0 .. n - 1
    double *s, *s_sd, *p, *p_sd;  // a->s->n each
} Head;

static void put(Expected *e, size_t i, Slack s, double propagated) {
    e->bound[i] = s.bound + BOUND_CONFIDENCE * propagated;
    e->sd[i] = hypot(s.sd, propagated);
}

// Scores of the visible keys. Into the result, where scores are what is asked for.
static void head_scores(const Attention *a, const Head *t) {
    const Hparams *h = &a->s->model->h;
    const size_t d = (size_t)h->head_dim, heads = (size_t)h->n_heads, kv = (size_t)h->n_kv_heads;
    const size_t kv_head = t->head / (heads / kv), at = (t->r * heads + t->head) * d;
    const double *q = a->q + at, *q_sd = a->q_sd ? a->q_sd + at : NULL;
    const double scale = 1 / sqrt((double)d);
    const Precision out = a->s->rounding->out[COMP_KQ], acc = a->s->rounding->attn.acc;
    for (size_t j = 0; j < t->n; j++) {
        const size_t key = (j * kv + kv_head) * d;
        const double *k = a->k + key, *k_sd = a->k_sd ? a->k_sd + key : NULL;
        double sum = 0, abs = 0, variance = 0;
        for (size_t i = 0; i < d; i++) {
            sum += q[i] * k[i];
            abs += fabs(q[i] * k[i]);
        }
        for (size_t i = 0; q_sd && i < d; i++) variance += k[i] * k[i] * q_sd[i] * q_sd[i];
        for (size_t i = 0; k_sd && i < d; i++) variance += q[i] * q[i] * k_sd[i] * k_sd[i];
        const Slack slack = bound_matmul(d, abs * scale, sum * scale, acc, out);
        t->s[j] = sum * scale;
        t->s_sd[j] = hypot(bound_spread(slack.bound, slack.sd), sqrt(variance) * scale);
        if (a->c != COMP_KQ) continue;
        const size_t to = (t->r * heads + t->head) * a->s->n + j;
        a->e->y[to] = t->s[j];
        put(a->e, to, slack, sqrt(variance) * scale);
    }
}

static void captured(const Value *v, const Attention *a, const Head *t, size_t n, double *x,
                     double *sd) {
    const size_t heads = (size_t)a->s->model->h.n_heads, keys = a->s->n;
    const float *from = v->seen->x + ((t->row - v->seen->first_row) * heads + t->head) * keys;
    for (size_t j = 0; j < n; j++) x[j] = from[j], sd[j] = 0;
}

static void head_weights(const Attention *a, const Head *t) {
    const size_t heads = (size_t)a->s->model->h.n_heads;
    const Precision out = a->s->rounding->out[COMP_KQ_SOFT_MAX];
    double most = -INFINITY, sum = 0, spread = 0;
    for (size_t j = 0; j < t->n; j++) most = t->s[j] > most ? t->s[j] : most;
    for (size_t j = 0; j < t->n; j++) sum += t->p[j] = exp(t->s[j] - most);
    for (size_t j = 0; j < t->n; j++) {
        t->p[j] /= sum;
        spread += t->p[j] * t->p[j] * t->s_sd[j] * t->s_sd[j];
    }
    for (size_t j = 0; j < t->n; j++) {
        const double ds = t->s_sd[j] > 0 || spread > 0 ? hypot(t->s_sd[j], sqrt(spread)) : 0;
        const Slack slack = bound_softmax(t->n, t->p[j], most - t->s[j], ds, out);
        t->p_sd[j] = slack.sd;
        if (a->c != COMP_KQ_SOFT_MAX) continue;
        const size_t to = (t->r * heads + t->head) * a->s->n + j;
        a->e->y[to] = t->p[j];
        put(a->e, to, slack, 0);
    }
}

static void head_values(const Attention *a, const Head *t, size_t n) {
    const Hparams *h = &a->s->model->h;
    const size_t d = (size_t)h->head_dim, heads = (size_t)h->n_heads, kv = (size_t)h->n_kv_heads;
    const size_t kv_head = t->head / (heads / kv), to = (t->r * heads + t->head) * d;
    bool uncertain;
    act_round(a->s->rounding->attn.p, t->p, t->p_sd, 1, n, t->p, t->p_sd, &uncertain);
    double *abs = a->e->bound + to, *variance = a->e->sd + to, *y = a->e->y + to;
    for (size_t j = 0; j < n; j++) {
        const size_t key = (j * kv + kv_head) * d;
        const double p = t->p[j], p_sd = t->p_sd[j];
        if (p == 0 && p_sd == 0) continue;
        for (size_t i = 0; i < d; i++) {
            const double v = a->v[key + i], v_sd = a->v_sd ? a->v_sd[key + i] : 0;
            y[i] += p * v;
            abs[i] += fabs(p * v);
            variance[i] += v * v * p_sd * p_sd + p * p * v_sd * v_sd;
        }
    }
    for (size_t i = 0; i < d; i++) {
        const Slack slack =
            bound_matmul(n, abs[i], y[i], a->s->rounding->attn.acc, a->s->rounding->out[COMP_ATTN]);
        put(a->e, to + i, slack, sqrt(variance[i]));
    }
}

static void attend(const Attention *a, Head *t) {
    const Site *s = a->s;
    const size_t heads = (size_t)s->model->h.n_heads;
    if (component_is_scores(a->c)) {  // masked: scores are not looked at, weights must be 0
        double *bound = a->e->bound + (t->r * heads + t->head) * s->n;
        for (size_t j = t->n; j < s->n; j++) bound[j] = a->c == COMP_KQ ? INFINITY : 0;
    }
    size_t n = t->n;
    if (a->c == COMP_ATTN && seen(&s->at[COMP_KQ_SOFT_MAX], t->row)) {
        // Also weights of masked keys, which an earlier fault may have left: it shows there.
        n = s->n < a->n_keys ? s->n : a->n_keys;
        captured(&s->at[COMP_KQ_SOFT_MAX], a, t, n, t->p, t->p_sd);
    } else {
        if (a->c != COMP_KQ && seen(&s->at[COMP_KQ], t->row))
            captured(&s->at[COMP_KQ], a, t, n, t->s, t->s_sd);
        else
            head_scores(a, t);
        if (a->c != COMP_KQ) head_weights(a, t);
    }
    if (a->c == COMP_ATTN) head_values(a, t, n);
}

static void attention_thread(void *arg, int thread, int n_threads) {
    const Attention *a = arg;
    const size_t heads = (size_t)a->s->model->h.n_heads, n = a->s->n;
    double *own = a->scratch + (size_t)thread * 4 * n;
    long from, to;
    pool_split((long)(a->n_rows * heads), 1, thread, n_threads, &from, &to);
    for (size_t at = (size_t)from; at < (size_t)to; at++) {
        const size_t r = at / heads, row = a->row[r];
        Head t = {r,   row,     at % heads,  (size_t)a->s->pos[row] + 1,
                  own, own + n, own + 2 * n, own + 3 * n};
        attend(a, &t);
    }
}

Status expect_attention(const Site *s, Component c, const size_t *row, size_t n_rows, Expected *e,
                        Error *err) {
    Attention a = {.s = s, .c = c, .row = row, .n_rows = n_rows, .e = e};
    for (size_t r = 0; r < n_rows; r++) {
        const size_t sees = (size_t)s->pos[row[r]] + 1;
        a.n_keys = sees > a.n_keys ? sees : a.n_keys;
        // Weights that a wrong mask has put on later keys belong to those keys' values.
        if (c == COMP_ATTN && seen(&s->at[COMP_KQ_SOFT_MAX], row[r])) a.n_keys = s->n;
    }
    Status st = attention_inputs(&a, err);
    if (!st) oracle_parallel(s->oracle, attention_thread, &a);
    free(a.memory);
    return st;
}
