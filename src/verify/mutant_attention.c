// The mutant's attention: rotation, the cache by slots, scores, softmax, values; their mistakes.
//
// A sequence's cache has a slot a position (and one to spare); evaluations follow one another, so
// that what an earlier one left in a slot is what a later one reads.
#include <math.h>
#include <string.h>

#include "verify/mutant_internal.h"

// --- rotation ---------------------------------------------------------------------------------

// YaRN (Peng et al. 2023): pairs that turn often within the first context keep their frequency,
// slow ones are interpolated, between `low` and `high` it is a ramp.
static double yarn_share(const Hparams *h, int pair) {
    const double context = h->rope_n_ctx_orig, per_pair = 2 * log((double)h->rope_base) / h->n_rot;
    const double tau = 2 * 3.14159265358979323846;
    double low = floor(log(context / ((double)h->yarn_beta_fast * tau)) / per_pair);
    double high = ceil(log(context / ((double)h->yarn_beta_slow * tau)) / per_pair);
    low = low > 0 ? low : 0;
    high = high < h->n_rot - 1 ? high : h->n_rot - 1;
    const double at = (pair - low) / (high - low > 0.001 ? high - low : 0.001);
    return (double)h->yarn_ext_factor * (at < 0 ? 1 : at > 1 ? 0 : 1 - at);
}

Status mutant_frequencies(Mutant *mu) {
    const Hparams *h = &mu->m->h;
    const size_t pairs = (size_t)h->n_rot / 2;
    double base = (double)h->rope_base;
    mu->turn = arena_alloc(&mu->arena, pairs, sizeof *mu->turn);
    float *divisors = arena_alloc(&mu->arena, pairs, sizeof *divisors);
    if (!mu->turn || !divisors) return error_memory(mu->err, "frequencies", pairs * 12);
    const Tensor *factors = faulty(mu, FAULT_ROPE_FACTORS, 0) ? NULL : mu->m->rope_freqs;
    if (factors) mutant_decode(0, factors->type, factors->data, divisors, pairs);
    if (faulty(mu, FAULT_ROPE_BASE, 0)) base = base == 10000 ? 500000 : 10000;
    for (size_t i = 0; i < pairs; i++) {
        double turn = pow(base, -2.0 * (double)i / h->n_rot);
        if (factors) turn /= (double)divisors[i];
        const double scaled = turn / (double)h->rope_factor;
        double share = 0;
        if (h->rope_scaling == ROPE_SCALING_NONE) share = 1;
        if (h->rope_scaling == ROPE_SCALING_YARN) share = yarn_share(h, (int)i);
        mu->turn[i] = share * turn + (1 - share) * scaled;
    }
    mu->magnitude = 1;
    if (h->rope_scaling == ROPE_SCALING_YARN) {
        mu->magnitude = (double)h->yarn_attn_factor;
        if (h->yarn_ext_factor > 0) mu->magnitude *= 0.1 * log((double)h->rope_factor) + 1;
    }
    return OK;
}

void mutant_rotate(const Mutant *mu, Component at, float *x, int n_heads) {
    const Hparams *h = &mu->m->h;
    const size_t pairs = (size_t)h->n_rot / 2, head_dim = (size_t)h->head_dim;
    const bool shifted =
        faulty(mu, FAULT_ROPE_POSITION, 0) || faulty(mu, FAULT_ROPE_POSITION, (int)at);
    bool halves = h->rope_pairing == ROPE_NEOX;
    if (faulty(mu, FAULT_ROPE_PAIRING, 0)) halves = !halves;
    if (faulty(mu, FAULT_ROPE_HALVES, 0)) halves = true;
    for (size_t r = 0; r < mu->rows; r++) {
        size_t pos = faulty(mu, FAULT_ROPE_RESET, 0) ? r : mu->from + r;
        if (shifted) pos++;
        float *row = x + r * (size_t)n_heads * head_dim;
        for (size_t i = 0; i < pairs; i++) {
            const double angle = (double)pos * mu->turn[i];
            const double c = mu->magnitude * cos(angle);
            const double s = mu->magnitude * sin(faulty(mu, FAULT_ROPE_SIGN, 0) ? -angle : angle);
            const size_t first = halves ? i : 2 * i, second = halves ? i + pairs : 2 * i + 1;
            for (size_t head = 0; head < (size_t)n_heads; head++) {
                float *a = row + head * head_dim + first, *b = row + head * head_dim + second;
                const double x0 = (double)*a, x1 = (double)*b;
                *a = (float)(x0 * c - x1 * s);
                *b = (float)(x0 * s + x1 * c);
            }
        }
    }
}

// --- the cache --------------------------------------------------------------------------------

static size_t kv_width(const Mutant *mu) {
    return (size_t)mu->m->h.n_kv_heads * (size_t)mu->m->h.head_dim;
}

static float *cached(const Mutant *mu, float *const cache[2], int layer, size_t slot, bool write) {
    const bool other = !write && faulty(mu, FAULT_CACHE_SEQUENCE, 0);
    if (faulty(mu, FAULT_CACHE_LAYER, CACHE_ONE_FOR_ALL)) layer = 0;
    if (!write && layer > 0 && faulty(mu, FAULT_CACHE_LAYER, CACHE_LAYER_BEFORE)) layer--;
    return cache[other] + ((size_t)layer * mu->n_slots + slot) * kv_width(mu);
}

static void round_row(Mutant *mu, ActWay way, const float *x, size_t rows, size_t n, float *y) {
    double *d = mu->rounding;
    for (size_t i = 0; i < rows * n; i++) d[i] = x[i];
    act_round(way, d, NULL, rows, n, d, NULL, NULL);
    for (size_t i = 0; i < rows * n; i++) y[i] = (float)d[i];
}

void mutant_cache_write(Mutant *mu, int layer) {
    const AttnScheme *a = &mu->o->attn;
    const size_t width = kv_width(mu);
    Component keys = COMP_K_ROPE;
    if (faulty(mu, FAULT_CACHE_EARLY, 0)) {
        keys = mu->m->layers[layer].k_norm ? COMP_K_NORM : COMP_K;
    }
    const float *k = mutant_at(mu, keys, layer, mu->from, width);
    const float *v = mutant_at(mu, COMP_V, layer, mu->from, width);
    if (faulty(mu, FAULT_ROPE_VALUES, 0)) {
        v = memcpy(mu->x, v, mu->rows * width * sizeof *v);
        mutant_rotate(mu, COMP_V, mu->x, mu->m->h.n_kv_heads);
        mutant_store(mu, mu->x, mu->rows * width);
    }
    for (size_t r = 0; r < mu->rows; r++) {
        const size_t slot = mu->from + r + faulty(mu, FAULT_CACHE_SLOT, 0);
        round_row(mu, attn_cache_way(a, a->k), k + r * width, 1, width,
                  cached(mu, mu->k, layer, slot, true));
        round_row(mu, attn_cache_way(a, a->v), v + r * width, 1, width,
                  cached(mu, mu->v, layer, slot, true));
    }
    if (!faulty(mu, FAULT_CACHE_FIRST, 0)) return;
    const size_t last = mu->from + mu->rows - 1;
    memmove(cached(mu, mu->k, layer, 0, true), cached(mu, mu->k, layer, last, true),
            width * sizeof(float));
    memmove(cached(mu, mu->v, layer, 0, true), cached(mu, mu->v, layer, last, true),
            width * sizeof(float));
}

void mutant_cache_read(Mutant *mu) {
    const size_t width = kv_width(mu);
    for (int l = 0; l < mu->m->h.n_layers; l++) {
        for (size_t pos = 0; pos < mu->n; pos++) {
            memcpy(mutant_at(mu, COMP_K_CACHE, l, pos, width), cached(mu, mu->k, l, pos, false),
                   width * sizeof(float));
            memcpy(mutant_at(mu, COMP_V_CACHE, l, pos, width), cached(mu, mu->v, l, pos, false),
                   width * sizeof(float));
        }
    }
}

// --- one head of one row ----------------------------------------------------------------------

typedef struct {
    int layer;
    size_t pos, head, kv_head;
    size_t visible;  // keys 0 .. visible - 1, as this engine masks
    const float *q;
    float *s, *p;  // n each
} Head;

static float score_scale(const Mutant *mu) {
    const float scale = 1 / sqrtf((float)mu->m->h.head_dim);
    if (faulty(mu, FAULT_SCALE, SCALE_NONE)) return 1;
    if (faulty(mu, FAULT_SCALE, SCALE_TWICE)) return scale * scale;
    if (faulty(mu, FAULT_SCALE, SCALE_BY_DIM)) return 1 / sqrtf((float)mu->m->h.dim);
    return scale;
}

static size_t visible_keys(const Mutant *mu, size_t pos) {
    const size_t in_cache = mu->from + mu->rows;
    if (faulty(mu, FAULT_MASK, MASK_NONE)) return in_cache;
    if (faulty(mu, FAULT_MASK, MASK_ONE_LESS)) return pos;
    if (faulty(mu, FAULT_MASK, MASK_ONE_MORE)) return pos + 2 < in_cache ? pos + 2 : in_cache;
    return pos + 1;
}

static void head_scores(const Mutant *mu, const Head *t) {
    const size_t d = (size_t)mu->m->h.head_dim, stride = kv_width(mu);
    const size_t n = t->visible > t->pos + 1 ? t->visible : t->pos + 1;
    const float scale = score_scale(mu);
    const float *k = cached(mu, mu->k, t->layer, 0, false) + t->kv_head * d;
    for (size_t j = 0; j < n; j++, k += stride) {
        const float sum = mu->o->attn.acc == PREC_F32 ? mutant_dot(t->q, k, d)
                                                      : mutant_dot_in(mu->o->attn.acc, t->q, k, d);
        t->s[j] = sum * scale;
    }
    mutant_store(mu, t->s, n);
}

static bool scores_are_close(const Head *t) {
    float low = INFINITY, high = -INFINITY;
    for (size_t j = 0; j < t->visible; j++) {
        low = t->s[j] < low ? t->s[j] : low;
        high = t->s[j] > high ? t->s[j] : high;
    }
    return high - low < 2;
}

// Weights of the visible keys; the rest of p is 0.
static void head_weights(const Mutant *mu, const Head *t) {
    enum { PAD = 32 };
    const size_t in_cache = mu->from + mu->rows, n = t->visible;
    // Slots up to a whole number of tiles, never written: their keys are 0 and so are their scores.
    const size_t padding = faulty(mu, FAULT_PADDING, 0) ? (PAD - in_cache % PAD) % PAD : 0;
    float most = -INFINITY;
    double sum = 0;
    memset(t->p, 0, mu->n * sizeof *t->p);
    if (n == 0) return;
    if (faulty(mu, FAULT_UNIFORM, 0) || (faulty(mu, FAULT_UNIFORM, 1) && scores_are_close(t))) {
        for (size_t j = 0; j < n; j++) t->p[j] = 1 / (float)n;
        mutant_store(mu, t->p, n);
        return;
    }
    for (size_t j = 0; j < n; j++) most = t->s[j] > most ? t->s[j] : most;
    if (padding > 0 && most < 0) most = 0;
    if (faulty(mu, FAULT_NO_MAXIMUM, 0)) most = 0;
    for (size_t j = 0; j < n; j++) sum += (double)(t->p[j] = expf(t->s[j] - most));
    if (padding > 0) sum += (double)padding * exp(-(double)most);
    for (size_t j = 0; j < n; j++) t->p[j] = (float)((double)t->p[j] / sum);
    mutant_store(mu, t->p, n);
}

static void head_values(const Mutant *mu, const Head *t, float *y) {
    const size_t d = (size_t)mu->m->h.head_dim, stride = kv_width(mu);
    const float *v = cached(mu, mu->v, t->layer, 0, false) + t->kv_head * d;
    const bool half = mu->o->attn.acc == PREC_F16;
    memset(y, 0, d * sizeof *y);
    for (size_t j = 0; j < t->visible; j++, v += stride) {
        const float p = t->s[j];
        for (size_t i = 0; i < d; i++) y[i] += p * v[i];
        for (size_t i = 0; half && i < d; i++) y[i] = f16_to_f32(f32_to_f16(y[i]));
    }
}

// --- a layer ----------------------------------------------------------------------------------

// What was captured of scores has 0 where a key is masked rightly.
static void capture_scores(const Mutant *mu, const Head *t) {
    const size_t n = mu->n, row = t->pos * (size_t)mu->m->h.n_heads + t->head;
    float *kq = mutant_at(mu, COMP_KQ, t->layer, row, n);
    float *soft = mutant_at(mu, COMP_KQ_SOFT_MAX, t->layer, row, n);
    if (!kq || !soft) return;
    memcpy(kq, t->s, (t->pos + 1) * sizeof *kq);
    memcpy(soft, t->p, n * sizeof *soft);
}

void mutant_attend(Mutant *mu, int layer) {
    const Hparams *h = &mu->m->h;
    const size_t d = (size_t)h->head_dim, heads = (size_t)h->n_heads;
    const size_t group = heads / (size_t)h->n_kv_heads, width = heads * d;
    const AttnScheme *a = &mu->o->attn;
    float *q = mu->x, *head_y = mu->row;
    float *y = mutant_at(mu, COMP_ATTN, layer, mu->from, width);
    round_row(mu, a->q, mutant_at(mu, COMP_Q_ROPE, layer, mu->from, width), mu->rows * heads, d, q);
    for (size_t at = 0; at < mu->rows * heads; at++) {
        const size_t r = at / heads, head = at % heads, pos = mu->from + r;
        const size_t kv_head =
            faulty(mu, FAULT_KV_HEAD, 0) ? head % (size_t)h->n_kv_heads : head / group;
        const Head t = {.layer = layer,
                        .pos = pos,
                        .head = head,
                        .kv_head = kv_head,
                        .visible = visible_keys(mu, pos),
                        .q = q + at * d,
                        .s = mu->scores,
                        .p = mu->scores + mu->n};
        head_scores(mu, &t);
        head_weights(mu, &t);
        capture_scores(mu, &t);
        if (a->p == WAY_NONE)
            memcpy(t.s, t.p, t.visible * sizeof *t.s);
        else
            round_row(mu, a->p, t.p, 1, t.visible, t.s);
        head_values(mu, &t, head_y);
        const bool mixed = faulty(mu, FAULT_HEADS_INTERLEAVED, 0);
        for (size_t i = 0; i < d; i++) {
            y[r * width + (mixed ? i * heads + head : head * d + i)] = head_y[i];
        }
    }
    mutant_store(mu, y, mu->rows * width);
}
