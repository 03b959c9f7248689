// Attention as a wrong engine may compute it; see cause_attend.h.
//
// With the right Way it gives what site_attention.c expects; every formula of its bounds is that
// file's. A cell, one head of one token, is computed as a whole by one thread.
#include "verify/cause_attend.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"

// --- inputs -------------------------------------------------------------------------------------

static bool seen(const Value *v, size_t row) {
    return v->seen && row >= v->seen->first_row;
}

size_t *attend_sizes(Attend *a, size_t n) {
    return case_alloc(a->t, &a->arena, n, sizeof(size_t));
}

// As read_cached of site_attention.c: from cached where that was captured, else what went into it.
static bool read_keys(Attend *a, const Value *cached, const Value *given, bool key, Keys *out) {
    const AttnScheme *attn = &a->s->rounding->attn;
    const ActWay way = attn_cache_way(attn, key ? attn->k : attn->v);
    const size_t width = a->kv_heads * a->d;
    const size_t turn =
        key ? (attn->turn_k ? turn_block_k(a->d) : 0) : (attn->turn_v ? turn_block_v(a->d) : 0);
    for (size_t j = 0; j < a->n_keys; j++) {
        const Value *v = seen(cached, j) ? cached : given;
        if (v->width != width || !value_known(v, j)) return false;
    }
    double *x = case_doubles(a->t, &a->arena, a->n_keys, width);
    double *sd = case_doubles(a->t, &a->arena, a->n_keys, width);
    if (!x || !sd) return false;
    bool any = false;
    for (size_t j = 0; j < a->n_keys; j++) {
        double *to = x + j * width, *to_sd = sd + j * width;
        if (seen(cached, j)) {
            value_rows(cached, &j, 1, to, to_sd);
            continue;
        }
        bool uncertain = value_rows(given, &j, 1, to, to_sd);
        act_turn(to, to_sd, width, turn);
        uncertain |= turn > 0;
        act_round(way, to, uncertain ? to_sd : NULL, 1, width, to, to_sd, &uncertain);
        any |= uncertain;
    }
    *out = (Keys){x, any ? sd : NULL};
    return true;
}

bool attend_keys(Attend *a, const Value *v, bool key, Keys *out) {
    const Value none = {0};
    return !a->t->status && read_keys(a, &none, v, key, out);
}

bool attend_cached(Attend *a, const Value *v, Keys *out) {
    return !a->t->status && read_keys(a, v, v, true, out);
}

static size_t count_known(const Site *s, Component cache, Component in) {
    size_t n = 0;
    while (n < s->n && (seen(&s->at[cache], n) || value_known(&s->at[in], n))) n++;
    return n;
}

static bool all_seen(const CauseCase *k, Component c) {
    for (size_t r = 0; r < k->n_rows; r++) {
        if (!seen(&k->site->at[c], k->row[r])) return false;
    }
    return true;
}

static bool right_way(Attend *a) {
    const Site *s = a->s;
    Way *w = &a->right;
    *w = (Way){.q = &s->at[COMP_Q_ROPE], .scale = 1 / sqrt((double)a->d), .sharpness = 1};
    size_t *kv = attend_sizes(a, a->heads), *first = attend_sizes(a, a->n),
           *end = attend_sizes(a, a->n);
    if (!kv || !first || !end) return false;
    for (size_t h = 0; h < a->heads; h++) kv[h] = h / (a->heads / a->kv_heads);
    for (size_t i = 0; i < a->n; i++) first[i] = 0, end[i] = (size_t)s->pos[i] + 1;
    w->key_head = w->value_head = kv, w->first = first, w->end = end;
    if (!a->sees_weights && !read_keys(a, &s->at[COMP_K_CACHE], &s->at[COMP_K_ROPE], true, &w->k)) {
        return false;
    }
    return a->c != COMP_ATTN || read_keys(a, &s->at[COMP_V_CACHE], &s->at[COMP_V], false, &w->v);
}

bool attend_open(Trial *t, Attend *a) {
    const CauseCase *k = t->k;
    const Site *s = k->site;
    const Hparams *h = &s->model->h;
    *a = (Attend){.t = t, .s = s, .c = k->c, .n = s->n};
    a->heads = (size_t)h->n_heads, a->kv_heads = (size_t)h->n_kv_heads, a->d = (size_t)h->head_dim;
    a->sees_scores = k->c != COMP_KQ && all_seen(k, COMP_KQ);
    a->sees_weights = k->c == COMP_ATTN && all_seen(k, COMP_KQ_SOFT_MAX);
    a->cached_k = s->at[COMP_K_CACHE].seen, a->cached_v = s->at[COMP_V_CACHE].seen;
    const size_t keys = count_known(s, COMP_K_CACHE, COMP_K_ROPE);
    const size_t values = count_known(s, COMP_V_CACHE, COMP_V);
    a->n_keys = k->c != COMP_ATTN ? keys : a->sees_weights || values < keys ? values : keys;
    for (size_t r = 0; r < k->n_rows; r++) {
        if (!a->sees_weights && !value_known(&s->at[COMP_Q_ROPE], k->row[r])) return false;
        if ((size_t)s->pos[k->row[r]] >= a->n_keys) return false;
    }
    return right_way(a);
}

void attend_close(Attend *a) {
    arena_free(&a->arena);
}

// --- one cell -----------------------------------------------------------------------------------

typedef struct {
    Attend *a;
    const Way *w;
    size_t r, n_rows;
    Expected *e;
    double *scratch;
    size_t per_thread;
} Work;

// A thread's own: scores and weights with their sds, two more for sums over heads, a query.
typedef struct {
    double *s, *s_sd, *p, *p_sd, *most, *sum, *q, *q_sd;
} Own;

static Own own_of(const Attend *a, double *at) {
    const size_t n = a->n, width = a->heads * a->d;
    return (Own){at,         at + n,     at + 2 * n, at + 3 * n,
                 at + 4 * n, at + 5 * n, at + 6 * n, at + 6 * n + width};
}

static const double *row_at(const Attend *a, const double *x, size_t j, size_t kv_head) {
    return x + (j * a->kv_heads + kv_head) * a->d;
}

// What a token's query finds of key or value j; NULL: an empty slot.
static const double *held_at(const Attend *a, const Way *w, const double *x, size_t token, size_t j,
                             size_t kv_head) {
    if (!w->slot || w->slot[token] != (long)j) return row_at(a, x, j, kv_head);
    return w->held[token] == NO_TOKEN ? NULL : row_at(a, x, (size_t)w->held[token], kv_head);
}

static const double *key_at(const Attend *a, const Way *w, const double *x, size_t token, size_t j,
                            size_t kv_head) {
    return w->keeps_key ? row_at(a, x, j, kv_head) : held_at(a, w, x, token, j, kv_head);
}

static const double *value_at(const Attend *a, const Way *w, const double *x, size_t token,
                              size_t j, size_t kv_head) {
    return w->keeps_value ? row_at(a, x, j, kv_head) : held_at(a, w, x, token, j, kv_head);
}

// The query of a head, rounded as the engine rounds it. q: room for all heads of the token.
static const double *query(const Attend *a, const Way *w, size_t token, size_t head, double *q,
                           double *q_sd) {
    const size_t at = head * a->d;
    const size_t turn = a->s->rounding->attn.turn_k ? turn_block_k(a->d) : 0;
    bool any = value_rows(w->q, &token, 1, q, q_sd) || turn > 0;
    act_turn(q + at, q_sd + at, a->d, turn);
    act_round(a->s->rounding->attn.q, q + at, any ? q_sd + at : NULL, 1, a->d, q + at, q_sd + at,
              &any);
    return q + at;
}

// A score, its slack, and the deviation that its inputs bring.
static Slack score_slack(const Attend *a, const Way *w, size_t token, size_t head, size_t j,
                         const double *q, const double *q_sd, double *score, double *spread) {
    const size_t kv_head = w->key_head[head];
    const double *k = key_at(a, w, w->k.x, token, j, kv_head);
    const double *k_sd = w->k.sd ? key_at(a, w, w->k.sd, token, j, kv_head) : NULL;
    double sum = 0, abs = 0, variance = 0;
    *spread = 0, *score = 0;
    if (!k) return (Slack){0, 0};
    for (size_t i = 0; i < a->d; i++) {
        sum += q[i] * k[i];
        abs += fabs(q[i] * k[i]);
        variance += k[i] * k[i] * q_sd[i] * q_sd[i];
    }
    for (size_t i = 0; k_sd && i < a->d; i++) variance += q[i] * q[i] * k_sd[i] * k_sd[i];
    *spread = sqrt(variance) * fabs(w->scale);
    *score = sum * w->scale;
    return bound_matmul(a->d, abs * fabs(w->scale), *score, a->s->rounding->attn.acc,
                        a->s->rounding->out[COMP_KQ]);
}

// What was captured of a token's scores or weights for one head.
static const float *captured(const Attend *a, Component c, size_t token, size_t head) {
    const TraceArray *x = a->s->at[c].seen;
    return x->x + ((token - x->first_row) * a->heads + head) * a->n;
}

// Captured scores serve where they were; of keys that a right engine masks only if it left them.
static void scores_into(const Attend *a, const Way *w, size_t token, size_t head, double *q,
                        double *q_sd, double *s, double *s_sd) {
    const float *have = a->c != COMP_KQ && seen(&a->s->at[COMP_KQ], token)
                            ? captured(a, COMP_KQ, token, head)
                            : NULL;
    const size_t visible = (size_t)a->s->pos[token] + 1;
    const double *x = NULL;
    for (size_t j = w->first[token]; j < w->end[token]; j++) {
        if (have && (j < visible || (have[j] != 0 && isfinite(have[j])))) {
            s[j] = have[j], s_sd[j] = 0;
            continue;
        }
        if (!x) x = query(a, w, token, head, q, q_sd);
        double spread;
        const Slack slack =
            score_slack(a, w, token, head, j, x, q_sd + head * a->d, &s[j], &spread);
        s_sd[j] = hypot(bound_spread(slack.bound, slack.sd), spread);
    }
}

void attend_scores(const Attend *a, const Way *w, size_t token, size_t head, double *s,
                   double *s_sd) {
    scores_into(a, w, token, head, s + a->n, s_sd + a->n, s, s_sd);
}

// kq itself: where the way masks a key that should be seen, 0, or what stands for minus infinity.
static void put_scores(const Work *k, size_t token, size_t head, size_t to, const Own *own) {
    const Attend *a = k->a;
    const Way *w = k->w;
    const float *got = a->t->k->got + k->r * case_row_len(a->t->k) + to;
    const size_t visible = (size_t)a->s->pos[token] + 1;
    const double *q = query(a, w, token, head, own->q, own->q_sd);
    for (size_t j = 0; j < a->n; j++) {
        if (j >= visible || ((j < w->first[token] || j >= w->end[token]) && got[j] < -1e4)) {
            k->e->bound[to + j] = INFINITY;
        } else if (j >= w->first[token] && j < w->end[token]) {
            double spread;
            const Slack slack = score_slack(a, w, token, head, j, q, own->q_sd + head * a->d,
                                            &k->e->y[to + j], &spread);
            case_put(k->e, to + j, slack, spread);
        }
    }
}

// Softmax with its sds over keys from .. to - 1 of own->s; extra more of score 0.
static void softmax(const Attend *a, const Way *w, size_t from, size_t to, double extra,
                    const Own *own, double *rest) {
    const Precision out = a->s->rounding->out[COMP_KQ_SOFT_MAX];
    double most = extra > 0 ? 0 : -INFINITY, sum = 0, spread = 0;
    for (size_t j = from; j < to; j++) most = own->s[j] > most ? own->s[j] : most;
    for (size_t j = from; j < to; j++) sum += own->p[j] = exp(own->s[j] - most);
    const double all = sum + (extra > 0 ? extra * exp(-most) : 0);
    const bool raw = w->weighing == WEIGH_EXP || w->weighing == WEIGH_EXP_RAW;
    const double by = w->weighing == WEIGH_EXP ? 1 : raw ? exp(-most) : all;
    for (size_t j = from; j < to; j++) {
        own->p[j] /= by;
        const double share = own->p[j] * by / all;
        spread += share * share * own->s_sd[j] * own->s_sd[j];
    }
    for (size_t j = from; j < to; j++) {
        const double ds = own->s_sd[j] > 0 || spread > 0 ? hypot(own->s_sd[j], sqrt(spread)) : 0;
        own->p_sd[j] = ds;
    }
    const size_t terms = to - from + (size_t)extra;
    for (size_t j = from; j < to; j++) {
        const Slack slack = bound_softmax(terms, own->p[j], most - own->s[j], own->p_sd[j], out);
        own->s[j] = slack.bound, own->p_sd[j] = slack.sd;  // the scores have served
    }
    *rest = exp(-most) / all;
}

// Key by key over all heads: each head's largest and sum are kept while its scores pass.
static void weigh_heads(const Attend *a, const Way *w, size_t token, size_t head, const Own *own) {
    const size_t from = w->first[token], to = w->end[token];
    for (size_t j = from; j < to; j++) own->most[j] = -INFINITY, own->sum[j] = 0;
    for (size_t h = 0; h < a->heads; h++) {
        scores_into(a, w, token, h, own->q, own->q_sd, own->p, own->p_sd);
        for (size_t j = from; j < to; j++) {
            const double s = own->p[j] * w->sharpness, most = fmax(s, own->most[j]);
            own->sum[j] = own->sum[j] * exp(own->most[j] - most) + exp(s - most);
            own->most[j] = most;
        }
    }
    scores_into(a, w, token, head, own->q, own->q_sd, own->s, own->s_sd);
    for (size_t j = from; j < to; j++) {
        const double s = own->s[j] * w->sharpness;
        own->p[j] = exp(s - own->most[j]) / own->sum[j];
        const Slack slack = bound_softmax(a->heads, own->p[j], own->most[j] - s, 1.5 * own->s_sd[j],
                                          a->s->rounding->out[COMP_KQ_SOFT_MAX]);
        own->s[j] = slack.bound, own->p_sd[j] = slack.sd;
    }
}

// Weights into own->p and own->p_sd, their bounds into own->s. Returns how many keys have one.
static size_t weigh(const Attend *a, const Way *w, size_t token, size_t head, const Own *own) {
    size_t from = w->first[token], to = w->end[token];
    const Precision out = a->s->rounding->out[COMP_KQ_SOFT_MAX];
    double rest = 0;
    for (size_t j = 0; j < a->n; j++) own->p[j] = own->p_sd[j] = own->s[j] = own->s_sd[j] = 0;
    if (from >= to) return 0;
    if (w->weighing == WEIGH_HEADS) {
        weigh_heads(a, w, token, head, own);
        return to;
    }
    scores_into(a, w, token, head, own->q, own->q_sd, own->s, own->s_sd);
    for (size_t j = from; j < to; j++) {
        own->s[j] *= w->sharpness, own->s_sd[j] *= fabs(w->sharpness);
    }
    if (w->zero_masked) {
        from = 0, to = a->n;  // the others' scores are 0 already
    }
    if (w->weighing == WEIGH_UNIFORM || w->weighing == WEIGH_SCORES) {
        for (size_t j = from; j < to; j++) {
            const bool uniform = w->weighing == WEIGH_UNIFORM;
            own->p[j] = uniform ? 1 / (double)(to - from) : own->s[j];
            const Slack slack = bound_softmax(1, fabs(own->p[j]), 0, 0, out);
            const double spread = uniform ? 0 : own->s_sd[j];
            own->s[j] = slack.bound + BOUND_CONFIDENCE * spread;
            own->p_sd[j] = hypot(slack.sd, spread);
        }
        return to;
    }
    softmax(a, w, from, to, w->extra ? w->extra[token] : 0, own, &rest);
    if (w->weighing == WEIGH_TWICE) {
        for (size_t j = from; j < to; j++) own->s[j] = own->p[j], own->s_sd[j] = own->p_sd[j];
        softmax(a, w, from, to, 0, own, &rest);
    }
    if (!w->extra_shown) return to;
    for (size_t j = to; j < a->n; j++) {
        const Slack slack = bound_softmax(a->n, rest, 0, 0, out);
        own->p[j] = rest, own->p_sd[j] = slack.sd, own->s[j] = slack.bound;
    }
    return to;
}

// y, bound and sd of a head: d elements from `to` on, `step` apart.
static void put_values(const Work *k, size_t token, size_t head, size_t n, size_t to, size_t step,
                       const Own *own) {
    const Attend *a = k->a;
    const Way *w = k->w;
    Expected *e = k->e;
    bool uncertain;
    act_round(a->s->rounding->attn.p, own->p, own->p_sd, 1, n, own->p, own->p_sd, &uncertain);
    for (size_t j = 0; j < n; j++) {
        const size_t kv_head = w->value_head[head];
        const double p = own->p[j], p_sd = own->p_sd[j];
        const double *v = value_at(a, w, w->v.x, token, j, kv_head);
        const double *v_sd = w->v.sd ? value_at(a, w, w->v.sd, token, j, kv_head) : NULL;
        if ((p == 0 && p_sd == 0) || !v) continue;
        for (size_t i = 0; i < a->d; i++) {
            const size_t at = to + i * step;
            const double spread = v_sd ? v_sd[i] : 0;
            e->y[at] += p * v[i];
            e->bound[at] += fabs(p * v[i]);
            e->sd[at] += v[i] * v[i] * p_sd * p_sd + p * p * spread * spread;
        }
    }
    for (size_t i = 0; i < a->d; i++) {
        const size_t at = to + i * step;
        const Slack slack = bound_matmul(n, e->bound[at], e->y[at], a->s->rounding->attn.acc,
                                         a->s->rounding->out[COMP_ATTN]);
        case_put(e, at, slack, sqrt(e->sd[at]));
    }
}

// Where a cell's contents come from, and where they go.
static void place(const Work *k, size_t cell, size_t *token, size_t *head, size_t *to,
                  size_t *step) {
    const Attend *a = k->a;
    const size_t row = cell / a->heads, h = cell % a->heads;
    *token = a->t->k->row[k->r + row], *head = h, *step = 1;
    *to = cell * (a->c == COMP_ATTN ? a->d : a->n);
    const size_t flat = *token * a->heads + h;
    if (k->w->join == JOIN_ELEMENTS) {
        *to = row * a->heads * a->d + h, *step = a->heads;
    } else if (k->w->join == JOIN_TOKENS) {
        *head = flat / a->n, *token = flat % a->n;
    } else if (k->w->join == JOIN_TOKENS_BACK) {
        const size_t back = h * a->n + *token;
        *token = back / a->heads, *head = back % a->heads;
    }
}

static void attend(const Work *k, size_t cell, const Own *own) {
    const Attend *a = k->a;
    size_t token, head, to, step;
    place(k, cell, &token, &head, &to, &step);
    if (a->c == COMP_KQ) {
        put_scores(k, token, head, to, own);
        return;
    }
    size_t n = a->n_keys;
    if (a->sees_weights) {
        const float *p = captured(a, COMP_KQ_SOFT_MAX, token, head);
        for (size_t j = 0; j < n; j++) own->p[j] = p[j], own->p_sd[j] = 0;
    } else {
        n = weigh(a, k->w, token, head, own);
        if (n > a->n_keys) n = a->n_keys;
    }
    if (n == 0) {  // no key at all: an engine makes 0 of it, or whatever
        const size_t len = a->c == COMP_ATTN ? a->d : a->n;
        const float *got = a->t->k->got + k->r * case_row_len(a->t->k) + to;
        bool zero = true;
        for (size_t i = 0; i < len; i++) zero &= got[i * step] == 0;
        for (size_t i = 0; i < len; i++) k->e->bound[to + i * step] = zero ? 0 : INFINITY;
    } else if (a->c == COMP_ATTN) {
        put_values(k, token, head, n, to, step, own);
    } else {
        memcpy(k->e->y + to, own->p, a->n * sizeof *own->p);
        memcpy(k->e->bound + to, own->s, a->n * sizeof *own->s);
        memcpy(k->e->sd + to, own->p_sd, a->n * sizeof *own->p_sd);
    }
}

static void attend_thread(void *arg, int thread, int n_threads) {
    const Work *k = arg;
    const Own own = own_of(k->a, k->scratch + (size_t)thread * k->per_thread);
    long from, to;
    pool_split((long)(k->n_rows * k->a->heads), 1, thread, n_threads, &from, &to);
    for (size_t cell = (size_t)from; cell < (size_t)to; cell++) attend(k, cell, &own);
}

// --- trying -------------------------------------------------------------------------------------

// Are all tokens known that the cells of these rows read?
static bool is_known(const Attend *a, const Way *w, size_t r, size_t n) {
    const bool moved = w->join == JOIN_TOKENS || w->join == JOIN_TOKENS_BACK;
    for (size_t i = 0; i < (moved ? a->n : n); i++) {
        const size_t token = moved ? i : a->t->k->row[r + i];
        if (w->end[token] > a->n_keys && !w->zero_masked) return false;
        if (a->sees_weights) {
            if (!seen(&a->s->at[COMP_KQ_SOFT_MAX], token)) return false;
        } else if (!value_known(w->q, token)) {
            return false;
        }
    }
    return !w->zero_masked || a->n_keys == a->n;
}

// From element-major to head-major within rows, or what that does to head-major ones.
static bool join_back(Attend *a, Expected *e) {
    double *row = case_doubles(a->t, &a->arena, 1, e->width);
    double *const all[] = {e->y, e->bound, e->sd};
    for (size_t r = 0; row && r < 3 * e->rows; r++) {
        double *x = all[r % 3] + r / 3 * e->width;
        memcpy(row, x, e->width * sizeof *row);
        for (size_t h = 0; h < a->heads; h++) {
            for (size_t i = 0; i < a->d; i++) x[h * a->d + i] = row[i * a->heads + h];
        }
    }
    return row;
}

bool attend_expect(Attend *a, const Way *w, size_t r, size_t n, Expected *out) {
    Work k = {.a = a, .w = w, .r = r, .n_rows = n, .e = out};
    if (a->t->status || !is_known(a, w, r, n) || !case_new(a->t, n, out)) return false;
    const size_t threads = (size_t)oracle_threads(a->s->oracle);
    k.per_thread = 6 * a->n + 2 * a->heads * a->d;
    k.scratch = malloc(threads * k.per_thread * sizeof *k.scratch);
    if (!k.scratch) {
        a->t->status =
            error_memory(a->t->err, "attention", threads * k.per_thread * sizeof(double));
    } else {
        oracle_parallel(a->s->oracle, attend_thread, &k);
        free(k.scratch);
    }
    if (!a->t->status && w->join == JOIN_BACK) join_back(a, out);
    if (a->t->status) expected_free(out);
    return !a->t->status;
}

bool attend_first(Attend *a, const Way *w) {
    Expected e;
    if (!attend_expect(a, w, 0, 1, &e)) return false;
    const double ratio = case_ratio(a->t, 0, &e);
    expected_free(&e);
    return ratio <= 1;
}

bool attend_offer(Attend *a, const Way *w, const char *id, const char *fmt, ...) {
    char text[CAUSE_TEXT];
    va_list ap;
    Expected e;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!attend_first(a, w) || !attend_expect(a, w, 0, a->t->k->n_rows, &e)) return false;
    if (!case_looks(a->t, &e)) {
        expected_free(&e);
        return false;
    }
    const bool fits = trial_offer(a->t, id, &e, "%s", text);
    a->fits |= fits;
    return fits;
}
