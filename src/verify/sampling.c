// The oracle of the sampler; see sampling.h.
//
// Everything is sorted and in float64: the order of the filters is llama.cpp's (penalties, top-k,
// top-p, min-p, temperature), and each of them is written as its definition reads. Repetition:
// Keskar et al. 2019, with the logit's sign heeded; frequency and presence: OpenAI's; top-p:
// Holtzman et al. 2019; min-p: Nguyen et al. 2024.
#include "verify/sampling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// A cut within so much of its threshold may fall either way: engines sum in float32.
static const double CUT_SLACK = 1e-6;

// Writes logits after penalties to x; what is no number can never be drawn.
static Status penalize(const TraceSampling *s, const int32_t *tokens, size_t n_tokens,
                       const double *logits, size_t n_vocab, double *x, Error *err) {
    for (size_t i = 0; i < n_vocab; i++) x[i] = isnan(logits[i]) ? -INFINITY : logits[i];
    size_t n = n_tokens;
    if (s->repeat_last_n >= 0 && (size_t)s->repeat_last_n < n) n = (size_t)s->repeat_last_n;
    if (n == 0) return OK;
    int *count = calloc(n_vocab, sizeof *count);
    if (!count) return error_memory(err, "penalties", n_vocab * sizeof *count);
    for (size_t i = n_tokens - n; i < n_tokens; i++) {
        if (tokens[i] >= 0 && (size_t)tokens[i] < n_vocab) count[tokens[i]]++;
    }
    for (size_t i = 0; i < n_vocab; i++) {
        if (count[i] == 0) continue;
        x[i] = x[i] > 0 ? x[i] / s->repeat_penalty : x[i] * s->repeat_penalty;
        x[i] -= count[i] * s->frequency_penalty + s->presence_penalty;
    }
    free(count);
    return OK;
}

typedef struct {
    double logit, p;
    size_t id;
} Choice;

static int likelier_first(const void *a, const void *b) {
    const Choice *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

// Softmax of the first n, likeliest first.
static void softmax(Choice *c, size_t n, double temp) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += c[i].p = exp((c[i].logit - c[0].logit) / temp);
    for (size_t i = 0; i < n; i++) c[i].p /= sum;
}

// How many of the n sorted choices the filters leave; at least one.
static size_t filter(const TraceSampling *s, Choice *c, size_t n) {
    while (n > 1 && c[n - 1].logit == -INFINITY) n--;
    if (s->top_k > 0 && (size_t)s->top_k < n) n = (size_t)s->top_k;
    if (s->top_p < 1) {
        double mass = 0;
        size_t kept = 0;
        softmax(c, n, 1);
        while (kept < n && (kept == 0 || mass < s->top_p)) mass += c[kept++].p;
        n = kept;
    }
    size_t kept = 1;
    while (kept < n && exp(c[kept].logit - c[0].logit) >= s->min_p) kept++;
    return kept;
}

// The filters on penalized logits x, which become probabilities. *lowest gets the smallest logit
// that was kept.
static Status draw_from(const TraceSampling *s, double *x, size_t n_vocab, double *lowest,
                        Error *err) {
    Choice *c = malloc(n_vocab * sizeof *c);
    if (!c) return error_memory(err, "a sampler's choices", n_vocab * sizeof *c);
    for (size_t i = 0; i < n_vocab; i++) c[i] = (Choice){x[i], 0, i};
    qsort(c, n_vocab, sizeof *c, likelier_first);
    memset(x, 0, n_vocab * sizeof *x);
    if (isfinite(c[0].logit)) {
        const size_t n = filter(s, c, n_vocab);
        softmax(c, n, s->temp);
        for (size_t i = 0; i < n; i++) x[c[i].id] = c[i].p;
        *lowest = c[n - 1].logit;
    }
    free(c);
    return OK;
}

// What nobody said to be sampled in some way is the softmax itself.
static TraceSampling settings(const TraceSampling *s) {
    const TraceSampling plain = {.given = true, .temp = 1, .top_p = 1, .repeat_penalty = 1};
    return s->given ? *s : plain;
}

Status sampling_expect(const TraceSampling *given, const int32_t *tokens, size_t n_tokens,
                       const double *logits, size_t n_vocab, double *p, Error *err) {
    const TraceSampling s = settings(given);
    Status st = penalize(&s, tokens, n_tokens, logits, n_vocab, p, err);
    double lowest;
    if (st || s.temp > 0) return st ? st : draw_from(&s, p, n_vocab, &lowest, err);
    bool tie;
    int32_t other;
    const int32_t best = sampling_greedy(p, NULL, n_vocab, &tie, &other);
    memset(p, 0, n_vocab * sizeof *p);
    if (best >= 0) p[best] = 1;
    return OK;
}

int32_t sampling_greedy(const double *logits, const double *slack, size_t n_vocab, bool *tie,
                        int32_t *other) {
    size_t best = n_vocab, second = n_vocab;
    for (size_t i = 0; i < n_vocab; i++) {
        if (isfinite(logits[i]) && (best == n_vocab || logits[i] > logits[best])) best = i;
    }
    *tie = false, *other = -1;
    for (size_t i = 0; slack && best < n_vocab && i < n_vocab; i++) {
        // Equal ones are no tie: the lowest id is right.
        const double gap = logits[best] - logits[i];
        if (!(gap > 0 && gap <= slack[best] + slack[i])) continue;
        if (second == n_vocab || logits[i] > logits[second]) second = i;
    }
    if (best == n_vocab) return -1;
    if (second < n_vocab) *tie = true, *other = (int32_t)second;
    return (int32_t)best;
}

// The chosen token is `gap` below the least that it may have, of which `bound` may be rounding.
static void judge_gap(double gap, double bound, size_t right, Cell *cell) {
    *cell = (Cell){.by = BY_ELEMENT, .element = right};
    if (!(gap > 0)) return;
    cell->error = gap < RATIO_MOST ? gap : RATIO_MOST;
    cell->bound = bound;
    cell->ratio = bound > 0 ? gap / bound : RATIO_MOST;
    if (cell->ratio > RATIO_MOST) cell->ratio = RATIO_MOST;
}

// x: penalized logits, of which `right` is the largest. Of tokens as likely as the last that is
// kept any may be drawn: which of them a filter keeps is nobody's rule.
static Status judge_drawn(TraceSampling s, const double *x, size_t chosen, size_t right,
                          double bound, size_t n_vocab, double *p, Cell *cell, Error *err) {
    double lowest;
    s.top_p += CUT_SLACK;
    s.min_p *= 1 - CUT_SLACK;
    memcpy(p, x, n_vocab * sizeof *p);
    Status st = draw_from(&s, p, n_vocab, &lowest, err);
    if (!st) judge_gap(lowest - x[chosen], bound, right, cell);
    return st;
}

Status sampling_judge(const TracePrompt *prompt, const double *logits, const double *slack,
                      size_t n_vocab, double *p, Cell *cell, Error *err) {
    TraceSampling s = settings(&prompt->sampling);
    if (!prompt->sampling.given) s.temp = 0;
    double *x = malloc(n_vocab * sizeof *x);
    if (!x) return error_memory(err, "logits", n_vocab * sizeof *x);
    Status st = penalize(&s, prompt->tokens, prompt->n_tokens, logits, n_vocab, x, err);
    bool tie;
    int32_t other;
    const int32_t right = sampling_greedy(x, NULL, n_vocab, &tie, &other);
    const size_t chosen = (size_t)prompt->chosen;
    const double scale = fmax(s.repeat_penalty, 1 / s.repeat_penalty);  // what it does to slack
    if (st || right < 0 || prompt->chosen < 0 || chosen >= n_vocab) {
        const Measure by = right < 0 ? BY_NAN : BY_SHAPE;
        *cell = (Cell){RATIO_MOST, by, RATIO_MOST, 0, 0, 0, right < 0 ? 0 : (size_t)right};
    } else if (s.temp > 0) {
        st = judge_drawn(s, x, chosen, (size_t)right, scale * (slack[right] + slack[chosen]),
                         n_vocab, p, cell, err);
    } else {
        judge_gap(x[right] - x[chosen], scale * (slack[right] + slack[chosen]), (size_t)right,
                  cell);
        if (x[right] == x[chosen] && right != prompt->chosen) {  // the lowest of equal ones
            *cell = (Cell){RATIO_MOST, BY_BITS, 0, 0, 0, 0, (size_t)right};
        }
    }
    free(x);
    return st;
}
