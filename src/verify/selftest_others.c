// What other checks would have said of a trace: those that people use when they have no oracle that
// replays. Each is given its best case: all rows of the logits, and a right answer to compare with.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/selftest_internal.h"

#define NMSE_LOGITS 1e-2
#define NMSE_OP 5e-4  // as test-backend-ops allows a matrix product
#define COSINE 0.99
#define RMS_PART 0.1

enum { OP_ROWS = 64 };  // of a long prompt so many rows of each component are looked at

const char *other_check_name(OtherCheck o) {
    static const char *const names[N_OTHERS] = {"logits NMSE 1e-2", "per-op NMSE 5e-4",
                                                "cosine 0.99", "top-1 token", "RMS 10 %"};
    return names[o];
}

// --- the logits ---------------------------------------------------------------------------------

static size_t best_of(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (x[i] > x[best]) best = i;
    }
    return best;
}

static void ask_logits(const TraceArray *got, const TraceArray *want, bool last_only, bool *say) {
    const size_t width = got->width;
    const size_t rows = last_only ? 1 : got->rows < want->rows ? got->rows : want->rows;
    double errors = 0, squares = 0, cosine = 1;
    for (size_t r = 1; r <= rows; r++) {
        const float *x = got->x + (got->rows - r) * width, *y = want->x + (want->rows - r) * width;
        double xy = 0, xx = 0, yy = 0;
        for (size_t i = 0; i < width; i++) {
            xy += (double)x[i] * y[i], xx += (double)x[i] * x[i], yy += (double)y[i] * y[i];
            errors += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        }
        squares += yy;
        const double of_row = xy / sqrt(xx * yy);
        if (!(of_row >= cosine)) cosine = of_row;  // NaN stays
        say[OTHER_TOP1] |= best_of(x, width) != best_of(y, width);
    }
    say[OTHER_LOGITS_NMSE] = !(errors <= NMSE_LOGITS * squares);
    say[OTHER_COSINE] = !(cosine >= COSINE);
}

// --- RMS ----------------------------------------------------------------------------------------

static double rms_of(const TraceArray *a) {
    double squares = 0;
    const size_t n = a->rows * a->width;
    for (size_t i = 0; i < n; i++) squares += (double)a->x[i] * a->x[i];
    return sqrt(squares / (double)n);
}

static bool ask_rms(const TracePrompt *p, const TracePrompt *clean) {
    for (size_t i = 0; i < p->n_arrays; i++) {
        const TraceArray *a = &p->arrays[i], *b = trace_find(clean, a->ref.c, a->ref.layer);
        if (!b) continue;
        const double want = rms_of(b);
        if (!(fabs(rms_of(a) - want) <= RMS_PART * want)) return true;
    }
    return false;
}

// --- each component on the same inputs -----------------------------------------------------------

static void set_site(Site *s, const TracePrompt *p, int layer) {
    const Hparams *h = &s->model->h;
    const bool inside = layer >= 0 && layer < h->n_layers;
    s->layer = inside ? layer : -1;
    s->w = inside ? &s->model->layers[layer] : NULL;
    s->stream = (Value){
        .seen = layer == 0 ? trace_find(p, COMP_EMBD, -1) : trace_find(p, COMP_L_OUT, layer - 1),
        .width = (size_t)h->dim};
    for (Component c = 0; c < N_COMPONENTS; c++) {
        const int of = component_in_layer(c) ? layer : -1;
        s->at[c] = (Value){.seen = trace_find(p, c, of), .width = component_width(h, c, s->n)};
    }
    if (inside && !s->w->q_norm) s->at[COMP_Q_NORM] = s->at[COMP_Q];
    if (inside && !s->w->k_norm) s->at[COMP_K_NORM] = s->at[COMP_K];
}

static Status ask_component(const Site *s, const TraceArray *a, bool *say, Error *err) {
    const size_t per_token = component_is_scores(a->ref.c) ? (size_t)s->model->h.n_heads : 1;
    const size_t tokens = a->rows / per_token, n = tokens < OP_ROWS ? tokens : OP_ROWS;
    size_t row[OP_ROWS];
    double errors = 0, squares = 0;
    for (size_t i = 0; i < n; i++) row[i] = a->first_row + i * tokens / n;
    Expected e;
    Status st = expect(s, a->ref.c, row, n, &e, err);
    if (st) return st;
    for (size_t i = 0; i < n; i++) {
        const size_t of_token = per_token * a->width;
        const float *x = a->x + (row[i] - a->first_row) * of_token;
        for (size_t k = 0; k < of_token; k++) {
            if (isinf(e.bound[i * of_token + k])) continue;
            const double y = e.y[i * of_token + k];
            errors += (x[k] - y) * (x[k] - y), squares += y * y;
        }
    }
    expected_free(&e);
    *say |= !(errors <= NMSE_OP * squares);
    return OK;
}

static Status ask_components(Site *s, const TracePrompt *p, bool *say, Error *err) {
    const int n_layers = s->model->h.n_layers;
    Status st = OK;
    for (size_t i = 0; !st && !*say && i < p->n_arrays; i++) {
        const TraceArray *a = &p->arrays[i];
        if (a->ref.c == COMP_PROBS || a->ref.c == COMP_TOKEN) continue;
        set_site(s, p,
                 component_in_layer(a->ref.c) ? a->ref.layer
                 : a->ref.c == COMP_EMBD      ? -1
                                              : n_layers);
        st = ask_component(s, a, say, err);
    }
    return st;
}

Status others_ask(Oracle *o, const Model *m, const Rounding *rounding, const TracePrompt *p,
                  const TracePrompt *clean, bool say[N_OTHERS], Error *err) {
    memset(say, 0, N_OTHERS * sizeof *say);
    const bool same = p->n_tokens == clean->n_tokens &&
                      memcmp(p->tokens, clean->tokens, p->n_tokens * sizeof *p->tokens) == 0;
    const TraceArray *got = trace_find(p, COMP_LOGITS, -1);
    const TraceArray *want = trace_find(clean, COMP_LOGITS, -1);
    if (got && want) ask_logits(got, want, !same, say);
    say[OTHER_RMS] = ask_rms(p, clean);
    int32_t *pos = malloc((p->n_tokens + 1) * sizeof *pos);
    if (!pos) return error_memory(err, "positions", p->n_tokens * sizeof *pos);
    for (size_t i = 0; i < p->n_tokens; i++) pos[i] = (int32_t)i;
    Site s = {.oracle = o,
              .model = m,
              .rounding = rounding,
              .tokens = p->tokens,
              .pos = pos,
              .n = p->n_tokens,
              .prompt = p};
    Status st = ask_components(&s, p, &say[OTHER_OP_NMSE], err);
    free(pos);
    return st;
}
