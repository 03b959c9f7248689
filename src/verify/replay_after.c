// What is looked at when the walk is done: drift along the whole chain, and differences that do no
// harm; see replay.h.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "verify/replay.h"

// --- drift --------------------------------------------------------------------------------------

typedef struct {
    const TracePrompt *p;
    Report *report;
    int prompt;
} Drift;

static ComponentResult *find_result(Report *r, int prompt, ComponentRef ref) {
    for (size_t i = 0; i < r->n_components; i++) {
        ComponentResult *c = &r->components[i];
        if (c->prompt == prompt && c->ref.c == ref.c && c->ref.layer == ref.layer) return c;
    }
    return NULL;
}

static void on_component(void *user, const char *name, const double *x, size_t rows, size_t width) {
    const Drift *d = user;
    ComponentName n;
    if (!component_parse(name, strlen(name), &n)) return;
    const TraceArray *a = trace_find(d->p, n.ref.c, n.ref.layer);
    ComponentResult *res = find_result(d->report, d->prompt, n.ref);
    if (!a || !res || a->width != width || a->rows > rows) return;
    const double *y = x + (rows - a->rows) * width;
    double errors = 0, squares = 0;
    for (size_t i = 0; i < a->rows * width; i++) {
        const double e = a->x[i] - y[i];
        errors += e * e, squares += y[i] * y[i];
    }
    res->drift = squares > 0 && isfinite(errors / squares) ? errors / squares : RATIO_MOST;
}

Status replay_drift(Oracle *o, const TracePrompt *p, Report *report, int prompt, Error *err) {
    Drift d = {.p = p, .report = report, .prompt = prompt};
    return oracle_forward(o, p->tokens, p->n_tokens, on_component, &d, NULL, err);
}

// --- conventions --------------------------------------------------------------------------------

static const CauseFit *certain(const ComponentResult *c, const char *id) {
    if (!c || c->outcome != OUTCOME_FAIL) return NULL;
    for (size_t i = 0; i < c->cause.n_fits; i++) {
        if (strcmp(c->cause.fits[i].id, id) == 0) return &c->cause.fits[i];
    }
    return NULL;
}

static void excuse(ComponentResult *c, const char *why) {
    c->outcome = OUTCOME_PASS;
    snprintf(c->equivalent, sizeof c->equivalent, "%s", why);
}

// Scores depend on the difference of positions only: q and k shifted alike are right.
static void excuse_layer(Report *r, int prompt, int layer) {
    ComponentResult *q = find_result(r, prompt, (ComponentRef){COMP_Q_ROPE, layer});
    ComponentResult *k = find_result(r, prompt, (ComponentRef){COMP_K_ROPE, layer});
    const CauseFit *a = certain(q, "rope-position"), *b = certain(k, "rope-position");
    if (a && b && strcmp(a->text, b->text) == 0) {
        char why[CAUSE_TEXT];
        snprintf(why, sizeof why, "convention differs, scores agree: %.100s, alike in q and k",
                 a->text);
        excuse(q, why);
        excuse(k, why);
    }
    // q and k in transformers' order, rotated as that order wants it.
    ComponentResult *q0 = find_result(r, prompt, (ComponentRef){COMP_Q, layer});
    ComponentResult *k0 = find_result(r, prompt, (ComponentRef){COMP_K, layer});
    const bool alone = r->prompts[prompt].n_tokens == 1;  // position 0: nothing turns
    const bool rotated = certain(q, "rope-pairing") && certain(k, "rope-pairing");
    if (certain(q0, "rows-permuted") && certain(k0, "rows-permuted") && (rotated || alone)) {
        ComponentResult *const all[] = {q0, k0, q, k};
        for (size_t i = 0; i < (rotated ? 4 : 2); i++) {
            excuse(all[i], "convention differs, scores agree: halves are paired in q and k alike");
        }
    }
}

void replay_equivalents(Report *r) {
    for (size_t i = 0; i < r->n_components; i++) {
        ComponentResult *c = &r->components[i];
        if (c->outcome != OUTCOME_FAIL) continue;
        if (c->cause.n_fits > 0 && c->cause.fits[0].harmless) {
            excuse(c, c->cause.fits[0].text);
        } else if (c->ref.c == COMP_Q || c->ref.c == COMP_Q_ROPE) {
            excuse_layer(r, c->prompt, c->ref.layer);
        }
    }
}
