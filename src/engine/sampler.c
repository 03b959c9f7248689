// Samplers; see sampler.h.
#define _GNU_SOURCE
#include "engine/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

typedef struct {
    float logit;
    int32_t id;
} Candidate;

struct Sampler {
    plumb_sampling p;
    int n_vocab, n_ctx;
    uint64_t random;  // state of splitmix64
    int64_t seed;
    Candidate *all;   // n_vocab
    double *weight;   // n_vocab: probabilities of the candidates at hand
    int32_t *window;  // the last n_window tokens, a ring
    int n_window, n_seen, at;
    int *count;              // n_vocab: how often each token stands in the window
    plumb_logit_bias *bias;  // own copy
};

// exp for x <= 0 from additions and multiplications alone, so that no library's last bit decides a
// draw. exp(x) = 2^n exp(r), |r| <= ln 2 / 2; the Taylor series to r^13 is good to 1e-16.
static double exp_same(double x) {
    if (!(x > -700)) return 0;
    double n = (double)(long)(x * 1.4426950408889634 - 0.5);
    double r = x - n * 0.693147180369123816490 - n * 1.90821492927058770002e-10;
    double y = 1;
    for (int k = 13; k >= 1; k--) y = 1 + y * r / k;
    uint64_t bits = (uint64_t)(1023 + (long)n) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return y * scale;
}

// splitmix64 (Steele, Lea & Flood 2014): 53 random bits as a number in [0, 1).
static double draw(Sampler *s) {
    uint64_t z = s->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static Status check_range(const char *what, float v, float low, float high, Error *err) {
    if (v >= low && v <= high) return OK;
    return error_set(err, ERR_USAGE, "%s must lie between %g and %g, not be %g", what, (double)low,
                     (double)high, (double)v);
}

static Status check_params(const plumb_sampling *p, int n_vocab, Error *err) {
    Status st = check_range("temperature", p->temperature, 0, 1e6f, err);
    if (!st) st = check_range("top-p", p->top_p, 0, 1, err);
    if (!st) st = check_range("min-p", p->min_p, 0, 1, err);
    if (!st) st = check_range("typical", p->typical_p, 0, 1, err);
    if (!st) st = check_range("repeat penalty", p->repeat_penalty, 1e-6f, 1e6f, err);
    if (!st) st = check_range("presence penalty", p->presence_penalty, -1e6f, 1e6f, err);
    if (!st) st = check_range("frequency penalty", p->frequency_penalty, -1e6f, 1e6f, err);
    if (!st && p->top_k < 0)
        st = error_set(err, ERR_USAGE, "top-k must be 0 (off) or more, not %d", p->top_k);
    if (!st && p->repeat_last_n < -1) {
        st = error_set(err, ERR_USAGE,
                       "repeat-last-n must be -1 (the context), 0 (off) or more, not %d",
                       p->repeat_last_n);
    }
    for (size_t i = 0; !st && i < p->n_logit_bias; i++) {
        int32_t id = p->logit_bias[i].id;
        if (id < 0 || id >= n_vocab) {
            st = error_set(err, ERR_USAGE, "logit bias: token %d is outside the vocabulary of %d",
                           id, n_vocab);
        } else if (isnan(p->logit_bias[i].bias) || p->logit_bias[i].bias == INFINITY) {
            st = error_set(err, ERR_USAGE,
                           "logit bias of token %d must be a number or -inf, not be %g", id,
                           (double)p->logit_bias[i].bias);
        }
    }
    return st;
}

static int64_t new_seed(void) {
    uint64_t v = 0;
    if (getentropy(&v, sizeof v))
        v = (uint64_t)(uintptr_t)&v * 0x9e3779b97f4a7c15u;
    return (int64_t)(v & 0xffffffff);
}

Status sampler_reset(Sampler *s, const plumb_sampling *p, Error *err) {
    Status st = check_params(p, s->n_vocab, err);
    if (st) return st;
    int n = p->repeat_last_n < 0 ? s->n_ctx : p->repeat_last_n;
    if (n > s->n_ctx) n = s->n_ctx;
    if (n > s->n_window) {
        int32_t *window = realloc(s->window, (size_t)n * sizeof *window);
        if (!window) return error_memory(err, "the penalties' window", (size_t)n * sizeof *window);
        s->window = window;
    }
    plumb_logit_bias *bias = NULL;
    if (p->n_logit_bias) {
        bias = malloc(p->n_logit_bias * sizeof *bias);
        if (!bias) return error_memory(err, "logit biases", p->n_logit_bias * sizeof *bias);
        memcpy(bias, p->logit_bias, p->n_logit_bias * sizeof *bias);
    }
    free(s->bias);
    s->bias = bias;
    s->p = *p;
    s->p.logit_bias = bias;
    s->n_window = n, s->n_seen = s->at = 0;
    memset(s->count, 0, (size_t)s->n_vocab * sizeof *s->count);
    s->seed = p->seed < 0 ? new_seed() : p->seed;
    s->random = (uint64_t)s->seed;
    return OK;
}

Status sampler_new(const plumb_sampling *p, int n_vocab, int n_ctx, Sampler **out, Error *err) {
    *out = NULL;
    Sampler *s = calloc(1, sizeof *s);
    if (!s) return error_memory(err, "the sampler", sizeof *s);
    s->n_vocab = n_vocab, s->n_ctx = n_ctx;
    s->all = calloc((size_t)n_vocab, sizeof *s->all);
    s->weight = calloc((size_t)n_vocab, sizeof *s->weight);
    s->count = calloc((size_t)n_vocab, sizeof *s->count);
    Status st = s->all && s->weight && s->count
                    ? sampler_reset(s, p, err)
                    : error_memory(err, "the sampler", (size_t)n_vocab * 20);
    if (st) {
        sampler_free(s);
        return st;
    }
    *out = s;
    return OK;
}

void sampler_free(Sampler *s) {
    if (!s) return;
    free(s->all);
    free(s->weight);
    free(s->count);
    free(s->window);
    free(s->bias);
    free(s);
}

int64_t sampler_seed(const Sampler *s) {
    return s->seed;
}

void sampler_accept(Sampler *s, int32_t token) {
    CHECK(token >= 0 && token < s->n_vocab);
    if (s->n_window == 0) return;
    if (s->n_seen == s->n_window)
        s->count[s->window[s->at]]--;
    else
        s->n_seen++;
    s->window[s->at] = token;
    s->count[token]++;
    s->at = s->at + 1 == s->n_window ? 0 : s->at + 1;
}

// Repetition (Keskar et al. 2019) makes a seen token less likely whatever its logit's sign;
// frequency and presence are OpenAI's. Each distinct token is treated once, at its first place in
// the window.
static void penalize(Sampler *s) {
    const plumb_sampling *p = &s->p;
    if (p->repeat_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0) return;
    for (int i = 0; i < s->n_seen; i++) {
        int32_t id = s->window[i];
        if (s->count[id] <= 0) continue;
        float *l = &s->all[id].logit;
        *l = *l > 0 ? *l / p->repeat_penalty : *l * p->repeat_penalty;
        *l -= (float)s->count[id] * p->frequency_penalty + p->presence_penalty;
        s->count[id] = -s->count[id];  // done
    }
    for (int i = 0; i < s->n_seen; i++) {
        int *c = &s->count[s->window[i]];
        if (*c < 0) *c = -*c;
    }
}

// Likelier first; equal logits by the lower id.
static bool before(Candidate a, Candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(Candidate *heap, int n, int i) {
    Candidate c = heap[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], c)) break;
        heap[i] = heap[child];
    }
    heap[i] = c;
}

static void heapify(Candidate *heap, int n) {
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(heap, n, i);
}

// Takes the best of the heap [0, n) and puts it at place n - 1, behind the rest.
static Candidate pop(Candidate *heap, int n) {
    Candidate best = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    sift_down(heap, n - 1, 0);
    return best;
}

// Fills `all` with the logits; those that are no number count as impossible. Returns the likeliest.
static Candidate load_logits(Sampler *s, const float *logits) {
    for (int i = 0; i < s->n_vocab; i++) {
        s->all[i] = (Candidate){isnan(logits[i]) ? -INFINITY : logits[i], i};
    }
    for (size_t i = 0; i < s->p.n_logit_bias; i++) {
        float *l = &s->all[s->bias[i].id].logit;
        *l = s->bias[i].bias == -INFINITY ? -INFINITY : *l + s->bias[i].bias;  // never inf - inf
    }
    penalize(s);
    Candidate best = s->all[0];
    for (int i = 1; i < s->n_vocab; i++) {
        if (s->all[i].logit > best.logit) best = s->all[i];
    }
    return best;
}

static double fill_weights(Sampler *s, const Candidate *c, int n, double temperature) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        s->weight[i] = exp_same(((double)c[i].logit - (double)c[0].logit) / temperature);
        sum += s->weight[i];
    }
    return sum;
}

// Keeps the candidates whose surprise is nearest to the entropy, up to a mass of typical_p. With
// d = logit - the best one, surprise is log(sum) - d and entropy log(sum) - the mean of d: their
// distance needs no logarithm, and in order of logits those kept are neighbours around the mean.
static void keep_typical(Sampler *s, Candidate *c, int *n) {
    double sum = fill_weights(s, c, *n, 1), mean = 0, mass = 0;
    const double top = (double)c[0].logit;
    for (int i = 0; i < *n; i++) mean += s->weight[i] * ((double)c[i].logit - top);
    mean /= sum;
    int high = 0;
    while (high < *n && (double)c[high].logit - top >= mean) high++;
    int low = high;  // [low, high) is kept
    while (high - low < *n && mass <= (double)s->p.typical_p * sum) {
        double above = low > 0 ? (double)c[low - 1].logit - top - mean : INFINITY;
        double below = high < *n ? mean - ((double)c[high].logit - top) : INFINITY;
        mass += above <= below ? s->weight[--low] : s->weight[high++];
    }
    *n = high - low;
    memmove(c, c + low, (size_t)*n * sizeof *c);
}

// Brings the candidates that the filters leave to the front of `all`, the likeliest first; returns
// how many they are.
static int filter(Sampler *s) {
    const plumb_sampling *p = &s->p;
    const int n = s->n_vocab;
    Candidate *c = s->all;
    double total = 0, mass = 0;
    int most = p->top_k > 0 && p->top_k < n ? p->top_k : n, k = 0;
    const bool typical = p->typical_p < 1, whole = most == n;
    heapify(c, n);
    if (whole && !typical && p->top_p >= 1 && p->min_p <= 0) return n;  // needs no order
    const Candidate top = c[0];
    // With top-k off, top-p's mass is of all tokens; with it on, of the k kept ones, known when
    // they are popped.
    for (int i = 0; whole && i < n; i++) total += exp_same((double)c[i].logit - (double)top.logit);
    for (; k < most; k++) {
        Candidate next = pop(c, n - k);
        double weight = exp_same((double)next.logit - (double)top.logit);
        const bool last_word = whole && !typical;  // nothing later needs those that fall out here
        if (next.logit == -INFINITY || (last_word && weight < (double)p->min_p)) break;
        mass += weight;
        if (last_word && p->top_p < 1 && mass >= (double)p->top_p * total) {
            k++;
            break;
        }
    }
    // The popped ones stand at the end in reverse order; where they were few, this moves few.
    for (int i = 0; i < k / 2 + k % 2; i++) {
        Candidate a = c[n - 1 - i], b = c[n - k + i];
        c[n - 1 - i] = b, c[n - k + i] = a;
    }
    memmove(c, c + n - k, (size_t)k * sizeof *c);
    if (typical) keep_typical(s, c, &k);
    if (typical || !whole) {
        total = fill_weights(s, c, k, 1), mass = 0;
        int i = 0;
        while (i < k && s->weight[i] >= (double)p->min_p) {  // weight[0] is 1
            mass += s->weight[i++];
            if (p->top_p < 1 && mass >= (double)p->top_p * total) break;
        }
        k = i;
    }
    return k;
}

// The likeliest candidate; fails where there is none to choose.
static Status choose_best(Sampler *s, const float *logits, Candidate *best, Error *err) {
    *best = load_logits(s, logits);
    if (best->logit == -INFINITY && s->p.n_logit_bias) {
        return error_set(err, ERR_FAILED, "no token is left that logit biases do not forbid");
    }
    if (!isfinite(best->logit)) {
        return error_set(
            err, ERR_FAILED,
            "the model's logits are not numbers (best: %g); its file or the backend is damaged",
            (double)best->logit);
    }
    return OK;
}

// The n candidates that may be drawn, at the front of `all`; *sum gets the sum of their weights.
static int weigh(Sampler *s, double *sum) {
    const int n = filter(s);
    CHECK(n >= 1);
    *sum = fill_weights(s, s->all, n, (double)s->p.temperature);
    return n;
}

Status sampler_next(Sampler *s, const float *logits, int32_t *token, Error *err) {
    Candidate best;
    Status st = choose_best(s, logits, &best, err);
    if (st) return st;
    *token = best.id;
    if (s->p.temperature <= 0) return OK;
    double sum;
    const int n = weigh(s, &sum);
    double at = draw(s) * sum;
    int i = 0;
    while (i < n - 1 && at >= s->weight[i]) at -= s->weight[i++];
    while (s->weight[i] <= 0) i--;  // rounding went past the last that can come; the first can
    *token = s->all[i].id;
    return OK;
}

Status sampler_probs(Sampler *s, const float *logits, float *p, Error *err) {
    Candidate best;
    Status st = choose_best(s, logits, &best, err);
    if (st) return st;
    memset(p, 0, (size_t)s->n_vocab * sizeof *p);
    if (s->p.temperature <= 0) {
        p[best.id] = 1;
        return OK;
    }
    double sum;
    const int n = weigh(s, &sum);
    for (int i = 0; i < n; i++) p[s->all[i].id] = (float)(s->weight[i] / sum);
    return OK;
}

float sampler_logprob(const float *logits, int n_vocab, int32_t id) {
    double most = -INFINITY, sum = 0;
    for (int i = 0; i < n_vocab; i++) most = (double)logits[i] > most ? (double)logits[i] : most;
    for (int i = 0; i < n_vocab; i++)
        sum += isnan(logits[i]) ? 0 : exp_same((double)logits[i] - most);
    return (float)((double)logits[id] - most - log(sum));
}

void sampler_top(Sampler *s, const float *logits, int n, plumb_logprob *top) {
    double most = -INFINITY, sum = 0;
    for (int i = 0; i < s->n_vocab; i++) {
        s->all[i] = (Candidate){isnan(logits[i]) ? -INFINITY : logits[i], i};
        most = (double)s->all[i].logit > most ? (double)s->all[i].logit : most;
    }
    for (int i = 0; i < s->n_vocab; i++) sum += exp_same((double)s->all[i].logit - most);
    heapify(s->all, s->n_vocab);
    for (int i = 0; i < n && i < s->n_vocab; i++) {
        Candidate c = pop(s->all, s->n_vocab - i);
        top[i] = (plumb_logprob){c.id, (float)((double)c.logit - most - log(sum))};
    }
}
