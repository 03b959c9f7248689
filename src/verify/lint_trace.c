// What a trace says of its model, against the file: another file, other hyperparameters, arrays of
// another shape; see lint.h.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "verify/capture.h"
#include "verify/lint_internal.h"

static bool is_sha256(const char *s) {
    return strlen(s) == 64 && strspn(s, "0123456789abcdefABCDEF") == 64;
}

static void check_sha256(Lint *l, const Trace *t) {
    const char *said = t->model_sha256;
    char own[65];
    if (!said || !l->m->gguf) return;
    if (!is_sha256(said)) {
        lint_say(l, "trace-sha256", LINT_WARNING,
                 "the trace's model_sha256 is no SHA-256 of 64 hexadecimal digits");
        return;
    }
    memcpy(own, l->r->model_sha256, sizeof own);
    if (!own[0] && !l->status) l->status = capture_model_sha256(l->m->gguf, own, l->err);
    if (l->status) return;
    if (strcasecmp(own, said) == 0) {
        lint_say(l, "trace-sha256", LINT_PASS, "the trace was made from this very file");
    } else {
        lint_say(l, "trace-sha256", LINT_FAIL,
                 "the trace was made from another file: its model's SHA-256 is %.12s..., this "
                 "file's %.12s...",
                 said, own);
    }
}

// "yes", "true", "1": 1; "no", "false", "0": 0; else -1.
static int truth(const char *s) {
    static const char *const words[] = {"no", "yes", "false", "true", "0", "1"};
    for (int i = 0; i < 6; i++) {
        if (strcasecmp(s, words[i]) == 0) return i % 2;
    }
    return -1;
}

// The same value, however it is written: numbers as float32 holds them.
static bool same_value(const char *a, const char *b) {
    char *end_a, *end_b;
    if (strcasecmp(a, b) == 0) return true;
    if (truth(a) >= 0 && truth(b) >= 0) return truth(a) == truth(b);
    const double x = strtod(a, &end_a), y = strtod(b, &end_b);
    if (end_a == a || end_b == b || *end_a || *end_b) return false;
    return fabs(x - y) <= 1e-6 * fmax(fabs(x), fabs(y));
}

// Keys in which an engine may differ and be right: the longest context it was built for, names,
// pairs of halves on rows in transformers' order, a tied output that was stored twice.
static bool may_differ(const char *key) {
    static const char *const keys[] = {"model.n_ctx_train", "model.architecture",
                                       "model.rope_pairing", "model.tied_output"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(key, keys[i]) == 0) return true;
    }
    return false;
}

static void check_keys(Lint *l, const Trace *t) {
    char own[64], shown[64];
    const char *key;
    size_t n_same = 0, n_other = 0;
    for (int i = 0; (key = capture_model_key(l->m, i, own)); i++) {
        const char *said = trace_says(t, key);
        if (!said) continue;
        if (same_value(said, own)) {
            n_same++;
            continue;
        }
        n_other++;
        lint_say(l, "trace-model", may_differ(key) ? LINT_WARNING : LINT_FAIL,
                 "%s: the trace says %s, the file %s", key + strlen("model."),
                 printable(said, strlen(said), shown, sizeof shown - 1), own);
    }
    if (n_same && !n_other) {
        lint_say(l, "trace-model", LINT_PASS,
                 "the %zu hyperparameters that the trace names are the file's", n_same);
    }
}

// One finding a component: the widths of its arrays. Whether what an array holds is right is
// judged later; here it is said where most differ.
static void check_widths(Lint *l, const Trace *t) {
    bool told[N_COMPONENTS] = {false};
    const Hparams *h = &l->m->h;
    for (size_t p = 0; p < t->n_prompts; p++) {
        for (size_t i = 0; i < t->prompts[p].n_arrays; i++) {
            const TraceArray *a = &t->prompts[p].arrays[i];
            const Component c = a->ref.c;
            if (component_is_scores(c) || told[c]) continue;
            const size_t want = component_width(h, c, t->prompts[p].n_tokens);
            if (a->width == want) continue;
            char shown[96];
            told[c] = true;
            lint_say(l, "trace-width", LINT_WARNING, "array %s is %zu wide, expected %zu",
                     printable(a->source, strlen(a->source), shown, sizeof shown - 1), a->width,
                     want);
        }
    }
}

static void check_layers(Lint *l, const Trace *t) {
    for (size_t p = 0; p < t->n_prompts; p++) {
        const TracePrompt *q = &t->prompts[p];
        const LayerWeights *w = l->m->layers;
        for (size_t i = 0; i < q->n_arrays; i++) {
            const TraceArray *a = &q->arrays[i];
            const Component c = a->ref.c;
            char shown[96];
            const char *name = printable(a->source, strlen(a->source), shown, sizeof shown - 1);
            if (a->ref.layer >= l->m->h.n_layers) {
                lint_say(l, "trace-layers", LINT_FAIL,
                         "array %s is of layer %d, the file has %d layers: the trace is of another "
                         "model",
                         name, a->ref.layer, l->m->h.n_layers);
                return;
            }
            if ((c == COMP_Q_NORM && !w->q_norm) || (c == COMP_K_NORM && !w->k_norm)) {
                lint_say(l, "trace-layers", LINT_WARNING,
                         "array %s is there, but the file's layers have no such norm", name);
                return;
            }
        }
    }
}

void lint_trace(Lint *l, const Trace *t) {
    check_sha256(l, t);
    check_keys(l, t);
    check_widths(l, t);
    check_layers(l, t);
}
