// Hypotheses of kq, kq_soft_max and attn with numbers in them that the captured rows show.
//
// This file owns: which keys a token sees, how many empty ones take part, what scores are
// multiplied by, where exp overflows, which heads are uniform. All of it is read off the first
// failing rows and heads, and holds only if it fits every row of the case.
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_attend.h"

// --- factors ------------------------------------------------------------------------------------

// Squared distance of the case's first row from what scores times f would give.
static double distance(Attend *a, Way *w, double f) {
    Expected e;
    const float *got = a->t->k->got;
    double sum = 0;
    w->sharpness = f;
    if (!attend_expect(a, w, 0, 1, &e)) return INFINITY;
    for (size_t i = 0; i < e.rows * e.width; i++) {
        if (isfinite(e.bound[i])) sum += (got[i] - e.y[i]) * (got[i] - e.y[i]);
    }
    expected_free(&e);
    return sum;
}

static double fit_sharpness(Attend *a) {
    const double golden = 0.61803398874989485, step = 0.1;
    Way w = a->right;
    double best = 0, least = INFINITY;
    for (int i = -60; i <= 60; i++) {
        const double off = distance(a, &w, exp(i * step));
        if (off < least) least = off, best = i * step;
    }
    double from = best - step, to = best + step;
    for (int i = 0; i < 60 && isfinite(least); i++) {
        const double x = to - golden * (to - from), y = from + golden * (to - from);
        if (distance(a, &w, exp(x)) < distance(a, &w, exp(y))) {
            to = y;
        } else {
            from = x;
        }
    }
    return exp((from + to) / 2);
}

static double fit_scores(const CauseCase *k) {
    double gy = 0, yy = 0;
    for (size_t i = 0; i < k->want->rows * k->want->width; i++) {
        if (isinf(k->want->bound[i])) continue;
        gy += k->got[i] * k->want->y[i], yy += k->want->y[i] * k->want->y[i];
    }
    return yy > 0 ? gy / yy : 0;
}

// The roundest factor that fits.
static void fit_factor(Attend *a) {
    const double exact = a->c == COMP_KQ ? fit_scores(a->t->k) : fit_sharpness(a);
    if (!isfinite(exact) || exact == 0) return;
    for (int digits = 1; digits <= 17; digits += digits < 7 ? 1 : 10) {
        char text[40];
        snprintf(text, sizeof text, "%.*e", digits - 1, exact);
        Way w = a->right;
        w.sharpness = strtod(text, NULL);
        if (w.sharpness == 1) continue;
        if (a->c != COMP_KQ) {
            if (attend_offer(a, &w, "softmax-temperature",
                             "scores are multiplied with %.7g (a temperature of %.4g)", w.sharpness,
                             1 / w.sharpness)) {
                return;
            }
            continue;
        }
        w.scale *= w.sharpness, w.sharpness = 1;
        if (attend_offer(a, &w, "score-scale", "scores are %.7g times what they should be",
                         w.scale / a->right.scale)) {
            return;
        }
    }
}

// --- masks --------------------------------------------------------------------------------------

bool attend_offer_mask(Attend *a, MaskKind kind, long by, const char *id, const char *text) {
    Way w = a->right;
    size_t *first = attend_sizes(a, a->n), *end = attend_sizes(a, a->n);
    if (!first || !end) return false;
    for (size_t t = 0; t < a->n; t++) {
        const long n = (long)a->n, pos = a->s->pos[t], chunk = by > 0 ? pos / by * by : 0;
        long from = 0, to = pos + 1;
        switch (kind) {
            case MASK_OFFSET: to += by; break;
            case MASK_ALL: to = n; break;
            case MASK_INVERTED: from = pos + by, to = n; break;
            case MASK_FIRST: from = by; break;
            case MASK_WINDOW: from = pos + 1 - by; break;
            case MASK_CHUNK: from = chunk; break;
        }
        first[t] = (size_t)(from > 0 ? from : 0);
        end[t] = (size_t)(to < 0 ? 0 : to > n ? n : to);
        if (first[t] > end[t]) first[t] = end[t];
    }
    w.first = first, w.end = end;
    return attend_offer(a, &w, id, "%s", text);
}

// The first key that takes part in a row of scores or weights, and the one past the last.
static void shown_keys(const Attend *a, const float *x, size_t *first, size_t *end) {
    *first = 0, *end = a->n;
    while (*first < a->n && (x[*first] == 0 || x[*first] < -1e4)) ++*first;
    while (*end > *first && (x[*end - 1] == 0 || x[*end - 1] < -1e4)) --*end;
}

// Which first key, with the right last one, or which end, brings a head of attn nearest to what was
// captured? Sums are kept while keys are added one by one, from the last or from the first.
static bool search_keys(Attend *a, size_t r, size_t head, size_t *first, size_t *end) {
    const size_t token = a->t->k->row[r], n = a->n_keys, d = a->d, pos = (size_t)a->s->pos[token];
    const float *got = a->t->k->got + r * case_row_len(a->t->k) + head * d;
    double *s = case_doubles(a->t, &a->arena, 2, a->n + a->heads * d), *sd = s;
    double *sum = case_doubles(a->t, &a->arena, 2, d);
    size_t *ends = attend_sizes(a, a->n);
    if (!s || !sum || !ends) return false;
    sd += a->n + a->heads * d;
    for (size_t i = 0; i < a->n; i++) ends[i] = n;
    Way w = a->right;
    w.end = ends;
    attend_scores(a, &w, token, head, s, sd);
    double most = -INFINITY;
    for (size_t j = 0; j < n; j++) most = fmax(most, s[j]);
    double found[2];  // how far off the best first key, the best end, still are
    for (int pass = 0; pass < 2; pass++) {
        double all = 0, least = INFINITY;
        memset(sum, 0, d * sizeof *sum);
        for (size_t i = 0; i < (pass == 0 ? pos + 1 : n); i++) {
            const size_t j = pass == 0 ? pos - i : i;
            const double p = exp(s[j] - most);
            const double *v = a->right.v.x + (j * a->kv_heads + w.value_head[head]) * d;
            double off = 0;
            all += p;
            for (size_t k = 0; k < d; k++) {
                sum[k] += p * v[k];
                const double e = sum[k] / all - got[k];
                off += e * e;
            }
            if (!(off < least)) continue;
            least = off;
            if (pass == 0)
                *first = j;
            else
                *end = j + 1;
        }
        found[pass] = least;
    }
    if (found[0] <= found[1])
        *end = pos + 1;
    else
        *first = 0;
    return true;
}

// The keys that take part in row r of the case, as its first failing head shows them.
static bool find_keys(Attend *a, size_t r, size_t *first, size_t *end) {
    const CauseCase *k = a->t->k;
    size_t head = 0;
    *first = 0, *end = (size_t)a->s->pos[k->row[r]] + 1;
    while (head < k->groups && !case_fails(k, r, head)) head++;
    if (head == k->groups) return true;
    if (a->c == COMP_ATTN) return search_keys(a, r, head, first, end);
    shown_keys(a, k->got + r * case_row_len(k) + head * a->n, first, end);
    return true;
}

// The rule that the mask of the first failing row follows, tried on all rows.
static void fit_mask_rule(Attend *a, long first, long end) {
    const long pos = a->s->pos[a->t->k->row[0]];
    char text[CAUSE_TEXT];
    if (first > 0 && first <= pos) {
        const long window = pos + 1 - first;
        snprintf(text, sizeof text, "only the last %ld key%s seen", window,
                 window == 1 ? " is" : "s are");
        attend_offer_mask(a, MASK_WINDOW, window, "mask-window", text);
        snprintf(text, sizeof text, "the first %ld keys are masked", first);
        if (first > 1) attend_offer_mask(a, MASK_FIRST, first, "mask-first", text);
        for (long chunk = first; chunk > 1 && !a->fits; chunk--) {
            if (first % chunk != 0 || pos / chunk * chunk != first) continue;
            snprintf(text, sizeof text, "keys of earlier chunks of %ld tokens are not seen", chunk);
            attend_offer_mask(a, MASK_CHUNK, chunk, "mask-chunk", text);
        }
    }
    const long more = end - (pos + 1);
    if (labs(more) < 2 || a->fits) return;
    snprintf(text, sizeof text, "a token sees %ld keys too %s", labs(more),
             more > 0 ? "many" : "few");
    attend_offer_mask(a, MASK_OFFSET, more, "mask-offset", text);
}

// Do rows whose keys end (or start) at the same place lie side by side, as batches of tokens do?
static bool by_batches(const Attend *a, const size_t *edge, bool ends) {
    const size_t *row = a->t->k->row;
    for (size_t i = 0; i < a->t->k->n_rows; i++) {
        for (size_t j = 0; j < a->t->k->n_rows; j++) {
            const size_t x = edge[row[i]], y = edge[row[j]];
            if (row[i] >= row[j] || x == y) continue;
            if (ends ? row[j] < x : y <= row[i]) return false;  // of one batch, with other edges
        }
    }
    return true;
}

// Each row's own keys, as they show: named by what the rows have in common.
static void fit_mask_rows(Attend *a, const size_t *first, const size_t *end) {
    const CauseCase *k = a->t->k;
    bool later = true, earlier = true;  // only ends, only starts differ from the right ones
    long more = 0;
    size_t at = 0;
    bool same = true;
    for (size_t r = k->n_rows; r-- > 0;) {
        const size_t t = k->row[r], right = (size_t)a->s->pos[t] + 1;
        const long by = (long)end[t] - (long)right;
        later &= first[t] == 0 && by >= 0, earlier &= by == 0;
        if (by == 0 && first[t] == 0) continue;
        same &= more == 0 || by == more;
        more = by, at = t;
    }
    Way w = a->right;
    w.first = first, w.end = end;
    if (later && same && more == 1) {
        attend_offer(a, &w, "mask-off-by-one",
                     "a token sees the key after its own, where its batch holds one");
    } else if (later && by_batches(a, end, true)) {
        attend_offer(a, &w, "mask-none",
                     "a token sees all keys of its batch: token %zu those up "
                     "to %zu",
                     at, end[at] - 1);
    } else if (earlier && by_batches(a, first, false)) {
        attend_offer(a, &w, "mask-chunk",
                     "keys of earlier batches are not seen: token %zu sees those from %zu on", at,
                     first[at]);
    } else {
        attend_offer(a, &w, "mask-other", "token %zu sees the keys from %zu to %zu", at, first[at],
                     end[at] - 1);
    }
}

static void fit_mask(Attend *a) {
    const CauseCase *k = a->t->k;
    size_t *first = attend_sizes(a, a->n), *end = attend_sizes(a, a->n);
    if (!first || !end) return;
    for (size_t t = 0; t < a->n; t++) first[t] = 0, end[t] = (size_t)a->s->pos[t] + 1;
    for (size_t r = 0; r < k->n_rows; r++) {
        if (!find_keys(a, r, &first[k->row[r]], &end[k->row[r]])) return;
        if (first[k->row[r]] >= end[k->row[r]]) return;
    }
    fit_mask_rule(a, (long)first[k->row[0]], (long)end[k->row[0]]);
    if (!a->fits) fit_mask_rows(a, first, end);
}

// --- padding ------------------------------------------------------------------------------------

// How many keys of score 0 and value 0 more would make the weights of a head of row r of the case
// as small as they were captured.
static bool count_padding(Attend *a, size_t r, size_t head, double *count) {
    const CauseCase *k = a->t->k;
    const size_t token = k->row[r], visible = (size_t)a->s->pos[token] + 1;
    const size_t len = a->c == COMP_ATTN ? a->d : a->n;
    double *s = case_doubles(a->t, &a->arena, 2, a->n + a->heads * a->d);
    if (!s) return false;
    attend_scores(a, &a->right, token, head, s, s + a->n + a->heads * a->d);
    double most = -INFINITY, sum = 0, gy = 0, yy = 0;
    for (size_t j = 0; j < visible; j++) most = fmax(most, s[j]);
    for (size_t j = 0; j < visible; j++) sum += exp(s[j] - most);
    for (size_t i = 0; i < (a->c == COMP_ATTN ? len : visible); i++) {
        const size_t at = r * case_row_len(k) + head * len + i;
        const double y = k->want->y[at];
        gy += k->got[at] * y, yy += y * y;
    }
    const double share = yy > 0 ? gy / yy : 1;  // of the right weights
    *count = rint(exp(most) * sum * (1 / share - 1));
    return share > 0 && *count >= 1 && *count < 1e7;
}

static void fit_padding(Attend *a) {
    const CauseCase *k = a->t->k;
    const size_t token = k->row[0], pos = (size_t)a->s->pos[token];
    double *extra = case_doubles(a->t, &a->arena, 1, a->n), *own;
    own = case_doubles(a->t, &a->arena, 1, a->n);
    if (!extra || !own) return;
    for (size_t r = 0; r < k->n_rows; r++) {
        size_t head = 0;
        while (head < k->groups && !case_fails(k, r, head)) head++;
        if (head < k->groups && !count_padding(a, r, head, &own[k->row[r]])) return;
    }
    Way w = a->right;
    w.extra = extra;
    const double all = own[token] + (double)pos + 1;
    for (size_t i = 0; i < a->n; i++) extra[i] = fmax(all - (double)i - 1, 0);
    for (int shown = 0; shown < (a->c == COMP_ATTN ? 1 : 2); shown++) {
        w.extra_shown = shown == 1;
        attend_offer(a, &w, "softmax-padding", "softmax runs over %g keys: empty ones weigh too",
                     all);
    }
    w.extra_shown = false;
    for (size_t i = 0; i < a->n; i++) extra[i] = own[token];
    if (!a->fits) {
        attend_offer(a, &w, "softmax-padding", "%g empty key%s part in every softmax", own[token],
                     own[token] == 1 ? " takes" : "s take");
    }
    w.extra = own;
    if (!a->fits) {
        attend_offer(a, &w, "softmax-padding",
                     "empty keys take part in the softmax, %g at token "
                     "%zu",
                     own[token], token);
    }
}

// --- single heads -------------------------------------------------------------------------------

// Does the score of a head's keys range over less than any head's that is right?
static bool range_tells(Attend *a, double *limit) {
    const CauseCase *k = a->t->k;
    double *s = case_doubles(a->t, &a->arena, 2, a->n + a->heads * a->d), least = INFINITY;
    *limit = 0;
    for (size_t cell = 0; s && cell < k->n_rows * a->heads; cell++) {
        const size_t token = k->row[cell / a->heads], n = (size_t)a->s->pos[token] + 1;
        double low = INFINITY, high = -INFINITY;
        attend_scores(a, &a->right, token, cell % a->heads, s, s + a->n + a->heads * a->d);
        for (size_t j = 0; j < n; j++) low = fmin(low, s[j]), high = fmax(high, s[j]);
        if (case_fails(k, cell / a->heads, cell % a->heads))
            *limit = fmax(*limit, high - low);
        else if (n > 1)
            least = fmin(least, high - low);
    }
    return s && *limit < least;
}

// The heads that fail are uniform, the others right.
static void fit_uniform(Attend *a) {
    const CauseCase *k = a->t->k;
    const size_t len = case_row_len(k) / a->heads;
    Expected e, uniform;
    Way w = a->right;
    double limit;
    w.weighing = WEIGH_UNIFORM;
    if (!attend_expect(a, &a->right, 0, k->n_rows, &e)) return;
    if (!attend_expect(a, &w, 0, k->n_rows, &uniform)) {
        expected_free(&e);
        return;
    }
    for (size_t cell = 0; cell < k->n_rows * a->heads; cell++) {
        if (!case_fails(k, cell / a->heads, cell % a->heads)) continue;
        memcpy(e.y + cell * len, uniform.y + cell * len, len * sizeof *e.y);
        memcpy(e.bound + cell * len, uniform.bound + cell * len, len * sizeof *e.bound);
        memcpy(e.sd + cell * len, uniform.sd + cell * len, len * sizeof *e.sd);
    }
    expected_free(&uniform);
    const bool tells = range_tells(a, &limit);
    a->fits |=
        tells ? trial_offer(a->t, "softmax-uniform", &e,
                            "all keys weigh the same where scores range over %.3g or less", limit)
              : trial_offer(a->t, "softmax-uniform", &e, "all keys weigh the same in some heads");
}

// --- overflow -----------------------------------------------------------------------------------

// Without the maximum subtracted. limit: ln of the largest number; low: below it exp is 0.
typedef struct {
    double limit, low, most;
    const char *name;
} Range;

// Weights of one head so computed into p; NaN where they are not finite. false: all as it should
// be. Where the sum alone overflows, weights are 0, unless it was kept in more bits: got tells.
static bool overflown(const Range *x, const double *s, size_t n, const float *got, size_t len,
                      double *p) {
    double sum = 0;
    bool lost = false, zero = true;
    for (size_t j = 0; j < n; j++) {
        p[j] = s[j] > x->limit ? INFINITY : s[j] < x->low ? 0 : exp(s[j]);
        lost |= isinf(p[j]);
        sum += p[j];
    }
    for (size_t j = 0; j < len; j++) zero &= got[j] == 0;
    if (!lost && sum > 0 && !(sum > x->most && zero)) return false;
    for (size_t j = 0; j < n; j++) p[j] = isinf(p[j]) || sum == 0 ? NAN : 0;
    return true;
}

// A head's elements as overflow leaves them: what is not finite must not be so in got either.
static bool put_overflow(const Attend *a, const double *p, size_t n, size_t at, Expected *e) {
    const float *got = a->t->k->got + at;
    const size_t len = a->c == COMP_ATTN ? a->d : a->n;
    bool lost = false;
    for (size_t j = 0; j < n; j++) lost |= isnan(p[j]);
    for (size_t j = 0; j < len; j++) {
        const bool open = a->c == COMP_ATTN ? lost : j < n && isnan(p[j]);
        if (open == isfinite(got[j])) return false;
        e->y[at + j] = 0, e->bound[at + j] = open ? INFINITY : 0;
    }
    return true;
}

static void fit_overflow(Attend *a) {
    static const Range ranges[] = {{88.722839, -103.97, FLT_MAX, "f32"},
                                   {11.0898665, -17.33, 65504, "f16"}};
    const CauseCase *k = a->t->k;
    const size_t len = case_row_len(k) / a->heads, room = a->n + a->heads * a->d;
    double *s = case_doubles(a->t, &a->arena, 3, room), *p = s + 2 * room;
    for (size_t i = 0; s && i < sizeof ranges / sizeof *ranges && !a->fits; i++) {
        Expected e;
        size_t n_lost = 0;
        bool agrees = true;
        if (!attend_expect(a, &a->right, 0, k->n_rows, &e)) return;
        for (size_t cell = 0; cell < k->n_rows * a->heads && agrees; cell++) {
            const size_t token = k->row[cell / a->heads], n = (size_t)a->s->pos[token] + 1;
            attend_scores(a, &a->right, token, cell % a->heads, s, s + room);
            if (!overflown(&ranges[i], s, n, k->got + cell * len, len, p)) continue;
            agrees = put_overflow(a, p, n, cell * len, &e);
            n_lost++;
        }
        if (!agrees || n_lost == 0) {
            expected_free(&e);
            continue;
        }
        a->fits |= trial_offer_coarser(a->t, "softmax-overflow", &e,
                                       "exp overflows in %s, as the maximum is not subtracted",
                                       ranges[i].name);
    }
}

void attend_try_fits(Attend *a) {
    const bool weights = attend_opens_weights(a);
    if (weights) fit_overflow(a);
    if (weights && !a->fits) fit_padding(a);
    if ((weights || a->c == COMP_KQ) && !a->fits) fit_mask(a);
    if (weights && !a->fits) fit_uniform(a);
    if ((weights || a->c == COMP_KQ) && !a->fits) fit_factor(a);
}
