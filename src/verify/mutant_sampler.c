// The mutant's last steps: from logits to probabilities and a token, and how samplers go wrong.
//
// In llama.cpp's order: penalties, top-k, top-p, min-p, temperature.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/mutant_internal.h"

typedef struct {
    float logit;
    int32_t id;
} Candidate;

// The likelier first; of equal ones the lower id.
static int by_logit(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_logit_then_last(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return (x->id < y->id) - (x->id > y->id);
}

static void penalize(const Mutant *mu, const TraceSampling *s, Candidate *c, int32_t *count) {
    const float repeat = (float)s->repeat_penalty;
    const size_t last = s->repeat_last_n < 0 ? mu->n : (size_t)s->repeat_last_n;
    for (size_t i = mu->n - (last < mu->n ? last : mu->n); i < mu->n; i++) count[mu->tokens[i]]++;
    for (int32_t id = 0; id < mu->m->h.n_vocab; id++) {
        if (count[id] == 0) continue;
        float *l = &c[id].logit;
        const bool divide = *l > 0 || faulty(mu, FAULT_PENALTY_SIGN, 0);
        *l = divide ? *l / repeat : *l * repeat;
        *l -= (float)count[id] * (float)s->frequency_penalty + (float)s->presence_penalty;
    }
}

// How many of the n sorted candidates top-k, top-p and min-p leave.
static size_t keep(const Mutant *mu, const TraceSampling *s, const Candidate *c, size_t n) {
    if (s->top_k == 0 && faulty(mu, FAULT_TOP_K_ZERO, 0)) return 0;
    if (s->top_k > 0 && (size_t)s->top_k < n) n = (size_t)s->top_k;
    float sum = 0, mass = 0;
    for (size_t i = 0; i < n; i++) sum += expf(c[i].logit - c[0].logit);
    size_t kept = 0;
    while (kept < n && (kept == 0 || s->top_p >= 1 || mass < (float)s->top_p * sum)) {
        mass += expf(c[kept++].logit - c[0].logit);
    }
    while (kept > 1 && expf(c[kept - 1].logit - c[0].logit) < (float)s->min_p) kept--;
    return kept;
}

// Probabilities of the first n candidates, into probs by id.
static void weigh(const Mutant *mu, const TraceSampling *s, const Candidate *c, size_t n,
                  float *probs) {
    float temp = (float)s->temp, sum = 0;
    if (faulty(mu, FAULT_TEMPERATURE_TWICE, 0)) temp *= temp;
    for (size_t i = 0; i < n; i++) sum += probs[c[i].id] = expf((c[i].logit - c[0].logit) / temp);
    for (size_t i = 0; i < n; i++) probs[c[i].id] /= sum;
}

static int32_t draw(const Mutant *mu, const Candidate *c, size_t n, const float *probs) {
    const double random = (double)(mutant_random(mu->o->seed, mu->n) >> 11) * 0x1p-53;
    double left = random;
    for (size_t i = 0; i < n; i++) {
        left -= (double)probs[c[i].id];
        if (left < 0) return c[i].id;
    }
    return c[0].id;
}

Status mutant_sample(const Mutant *mu, const TraceSampling *s, const float *logits, float *probs,
                     int32_t *chosen) {
    const size_t n = (size_t)mu->m->h.n_vocab;
    Candidate *c = calloc(n, sizeof *c + sizeof(int32_t));
    if (!c) return error_memory(mu->err, "candidates", n * sizeof *c);
    const bool last = faulty(mu, FAULT_TIES_LAST, 0);
    for (size_t i = 0; i < n; i++) {
        c[i] = (Candidate){isnan(logits[i]) ? -INFINITY : logits[i], (int32_t)i};
    }
    if (s->given) penalize(mu, s, c, (int32_t *)(c + n));
    qsort(c, n, sizeof *c, last ? by_logit_then_last : by_logit);
    *chosen = c[0].id;
    if (probs) memset(probs, 0, n * sizeof *probs);
    if (s->given && s->temp > 0) {
        const size_t kept = keep(mu, s, c, n);
        weigh(mu, s, c, kept, probs);
        *chosen = kept ? draw(mu, c, kept, probs) : 0;  // an array of none has its first at 0
        if (!kept) probs[0] = 1;
    } else if (probs) {
        probs[*chosen] = 1;
    }
    free(c);
    return OK;
}
