// Reads weights: NaN, infinite, all zero, and how large the norms' weights are; see lint.h.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/lint_internal.h"

typedef unsigned long long ull;

static uint64_t n_weights(const Tensor *t) {
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];  // the reader has checked the product
}

typedef struct {
    const Tensor *t;
    LintScan *found;  // one a thread
} Scan;

static void scan_part(void *arg, int ith, int nth) {
    enum { STEP = 4096 };  // a multiple of every block's length
    const Scan *s = arg;
    const TypeInfo *info = type_info(s->t->type);
    const uint64_t n = n_weights(s->t);
    LintScan f = {0, UINT64_MAX, false};
    float x[STEP];
    long from, to;
    pool_split((long)((n + STEP - 1) / STEP), 1, ith, nth, &from, &to);
    for (long step = from; step < to; step++) {
        const uint64_t first = (uint64_t)step * STEP;
        const size_t count = n - first < STEP ? (size_t)(n - first) : STEP;
        dequantize(s->t->type, s->t->data + first / info->block_len * info->block_bytes, x, count);
        for (size_t i = 0; i < count; i++) {
            f.nonzero |= x[i] != 0;
            if (isfinite(x[i])) continue;
            if (f.bad++ == 0) f.first_bad = first + i;
        }
    }
    s->found[ith] = f;
}

Status lint_scan(Pool *pool, const Tensor *t, LintScan *out, Error *err) {
    const int n = pool_threads(pool);
    Scan scan = {t, calloc((size_t)n, sizeof *scan.found)};
    if (!scan.found) return error_memory(err, t->name, (size_t)n * sizeof *scan.found);
    pool_run(pool, scan_part, &scan);
    *out = (LintScan){0, UINT64_MAX, false};
    for (int i = 0; i < n; i++) {
        const LintScan *f = &scan.found[i];
        if (f->bad && f->first_bad < out->first_bad) out->first_bad = f->first_bad;
        out->bad += f->bad;
        out->nonzero |= f->nonzero;
    }
    free(scan.found);
    return OK;
}

bool lint_scan_text(const Tensor *t, const LintScan *s, char out[LINT_TEXT]) {
    if (s->bad) {
        snprintf(out, LINT_TEXT,
                 "tensor %s: %llu of %llu weights are NaN or infinite, the first is in row %llu, "
                 "column %llu",
                 t->name, (ull)s->bad, (ull)n_weights(t), (ull)(s->first_bad / t->dims[0]),
                 (ull)(s->first_bad % t->dims[0]));
        return true;
    }
    if (s->nonzero || strstr(t->name, ".bias")) return false;  // a bias of 0 is one that is off
    snprintf(out, LINT_TEXT, "tensor %s: every weight is zero", t->name);
    return true;
}

// --- all weights of a model ---------------------------------------------------------------------

typedef enum { MATRIX, NORM, END } Role;  // END: the embedding and the output

enum { SLOTS = sizeof(LayerWeights) / sizeof(const Tensor *), ENDS = 4 };

// The i-th tensor that the model reads; NULL: the file has none there. LayerWeights holds nothing
// but pointers to tensors.
static const Tensor *tensor_at(const Model *m, size_t i, Role *role) {
    const Tensor *const ends[ENDS] = {m->token_embd, m->tied ? NULL : m->output, m->output_norm,
                                      m->rope_freqs};
    const Tensor *t;
    if (i < ENDS) {
        *role = i < 2 ? END : i == 2 ? NORM : MATRIX;
        return ends[i];
    }
    const LayerWeights *w = &m->layers[(i - ENDS) / SLOTS];
    memcpy(&t, (const char *)w + (i - ENDS) % SLOTS * sizeof t, sizeof t);
    const bool norm =
        t && (t == w->attn_norm || t == w->ffn_norm || t == w->q_norm || t == w->k_norm);
    *role = norm ? NORM : MATRIX;
    return t;
}

typedef struct {
    const char *low_name, *high_name;
    double low, high;
    size_t n, odd;
} Norms;

// Root mean squares that trained models keep to: TinyLlama's first attn_norm has 0.046 and is
// right; a thousandth or a thousand is what no training gives.
static const double NORM_LEAST = 2e-3, NORM_MOST = 200;

static void take_norm(Lint *l, const Tensor *t, Norms *norms) {
    const size_t n = (size_t)t->dims[0];
    float *x = malloc(n * sizeof *x);
    if (!x) {
        l->status = error_memory(l->err, t->name, n * sizeof *x);
        return;
    }
    double squares = 0;
    dequantize(t->type, t->data, x, n);
    for (size_t i = 0; i < n; i++) squares += (double)x[i] * x[i];
    free(x);
    const double rms = sqrt(squares / (double)n);
    if (norms->n == 0 || rms < norms->low) norms->low = rms, norms->low_name = t->name;
    if (norms->n == 0 || rms > norms->high) norms->high = rms, norms->high_name = t->name;
    norms->n++;
    if (rms >= NORM_LEAST && rms <= NORM_MOST) return;
    if (norms->odd++ < 4) {
        lint_say(l, "norm-weights", LINT_WARNING,
                 "tensor %s: the root mean square of its weights is %.3g, usual is %g to %g",
                 t->name, rms, NORM_LEAST, NORM_MOST);
    }
}

// A tensor that was found to be wrong.
static void say_bad(Lint *l, const Tensor *t, Role role, const LintScan *s, size_t *n_said) {
    char text[LINT_TEXT];
    if (!lint_scan_text(t, s, text) || (*n_said)++ >= 8) return;
    // Of matrices inside a layer one may be zero and do no harm: a layer that was cut out.
    const bool fatal = s->bad || role != MATRIX;
    lint_say(l, s->bad ? "weights-finite" : "weights-zero", fatal ? LINT_FAIL : LINT_WARNING,
             "%s%s", text,
             s->bad         ? " (is the file damaged?)"
             : role == NORM ? ": nothing passes this norm"
             : role == END  ? ": no token differs from another"
                            : "");
}

static void say_norms(Lint *l, const Norms *norms) {
    if (norms->odd > 4) {
        lint_say(l, "norm-weights", LINT_WARNING, "%zu more norms are as far from usual",
                 norms->odd - 4);
    }
    if (norms->odd || norms->n == 0) return;
    lint_say(l, "norm-weights", LINT_PASS,
             "the weights of the %zu norms have root mean squares of %.3g (%s) to %.3g (%s)",
             norms->n, norms->low, norms->low_name, norms->high, norms->high_name);
}

void lint_weights(Lint *l, int n_threads) {
    const size_t n = ENDS + (size_t)l->m->h.n_layers * SLOTS;
    Pool *pool = NULL;
    Norms norms = {0};
    size_t n_bad = 0, n_not_finite = 0, n_tensors = 0;
    uint64_t weights = 0;
    l->status = pool_create(n_threads, &pool, l->err);
    for (size_t i = 0; !l->status && i < n; i++) {
        Role role;
        LintScan s;
        const Tensor *t = tensor_at(l->m, i, &role);
        if (!t) continue;
        l->status = lint_scan(pool, t, &s, l->err);
        if (l->status) break;
        n_tensors++;
        weights += n_weights(t);
        n_not_finite += s.bad > 0;
        say_bad(l, t, role, &s, &n_bad);
        if (role == NORM && s.nonzero && s.bad == 0) take_norm(l, t, &norms);
    }
    pool_free(pool);
    if (l->status) return;
    if (n_bad > 8) {
        lint_say(l, n_not_finite ? "weights-finite" : "weights-zero", LINT_WARNING,
                 "%zu tensors are so in all", n_bad);
    }
    if (n_not_finite == 0) {
        lint_say(l, "weights-finite", LINT_PASS, "all %llu weights of %zu tensors are finite",
                 (ull)weights, n_tensors);
    }
    say_norms(l, &norms);
}
