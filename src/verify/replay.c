// The walk; see replay.h.
#include "verify/replay.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/sampling.h"

enum {
    CASE_BAD = 4,            // failing rows that a cause has to explain,
    CASE_GOOD = 4,           // and passing ones
    BLOCK_BYTES = 48 << 20,  // of expected values at a time
    RETRIES = 24,            // failing components that are tried under every rounding
};

// A stage's site with what it owns.
typedef struct {
    Site site;
    double *expected[N_COMPONENTS];    // what at[].x points to
    ComponentRef since[N_COMPONENTS];  // recomputed from this one on; layer -2: from nothing
    double *stream;                    // what site.stream.x points to, or NULL
    ComponentRef stream_since;
} Stage;

struct Replay {
    Oracle *oracle;
    const Model *model;
    const Rounding *rounding;
    const ReplayOptions *options;
    Report *report;
    int prompt;
    size_t n;
    int32_t *tokens, *pos;
    Stage stage[2];  // the one before, and this one
    int at;          // index of this one
    size_t n_causes, n_retries;
    const TracePrompt *whole;
    Error *err;
};

static const ComponentRef captured = {COMP_EMBD, -2};

static bool is_captured(ComponentRef since) {
    return since.layer == -2;
}

static void stage_free(Stage *s) {
    for (int c = 0; c < N_COMPONENTS; c++) free(s->expected[c]);
    free(s->stream);
    *s = (Stage){0};
}

Status replay_new(Oracle *o, const Model *m, const Rounding *rounding, const int32_t *tokens,
                  size_t n, const ReplayOptions *options, Report *report, int prompt, Replay **out,
                  Error *err) {
    *out = NULL;
    Replay *r = calloc(1, sizeof *r);
    int32_t *ids = malloc((2 * n + 1) * sizeof *ids);
    if (!r || !ids) {
        free(r), free(ids);
        return error_memory(err, "a replay", (2 * n + 1) * sizeof *ids);
    }
    *r = (Replay){.oracle = o,
                  .model = m,
                  .rounding = rounding,
                  .options = options,
                  .report = report,
                  .prompt = prompt,
                  .n = n,
                  .tokens = ids,
                  .pos = ids + n};
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= m->h.n_vocab) {
            replay_free(r);
            return error_set(err, ERR_FILE, "token %zu of the prompt is %d, the model has 0 to %d",
                             i, tokens[i], m->h.n_vocab - 1);
        }
        ids[i] = tokens[i], r->pos[i] = (int32_t)i;
    }
    *out = r;
    return OK;
}

void replay_free(Replay *r) {
    if (!r) return;
    stage_free(&r->stage[0]);
    stage_free(&r->stage[1]);
    free(r->tokens);
    free(r);
}

// --- rows ---------------------------------------------------------------------------------------

typedef struct {
    size_t *row, n;  // tokens
} RowSet;

// Which of the tokens from .. n - 1 are judged: all, or the first, the last, and others spread.
static Status choose_rows(const Replay *r, size_t from, size_t n, RowSet *out) {
    const size_t all = n - from, most = r->options->max_rows;
    const size_t count = most == 0 || all <= most ? all : most;
    out->row = malloc((count + 1) * sizeof *out->row);
    out->n = count;
    if (!out->row) return error_memory(r->err, "rows", count * sizeof *out->row);
    const size_t ends = count / 4;  // so many at either end are neighbours
    for (size_t i = 0; i < count; i++) {
        size_t at = i;
        if (count < all && i >= ends) {
            const size_t middle = count - 2 * ends, k = i - ends;
            at = k < middle ? ends + k * (all - 2 * ends) / middle : all - (count - i);
        }
        out->row[i] = from + at;
    }
    return OK;
}

static size_t per_token(const Replay *r, Component c) {
    return component_is_scores(c) ? (size_t)r->model->h.n_heads : 1;
}

// Rows of an array as expected values want them: row by row, without gaps.
static void gather(const TraceArray *a, size_t rows_per_token, const size_t *row, size_t n,
                   float *out) {
    const size_t bytes = rows_per_token * a->width * sizeof *out;
    for (size_t i = 0; i < n; i++) {
        const float *from = a->x + (row[i] - a->first_row) * rows_per_token * a->width;
        memcpy(out + i * rows_per_token * a->width, from, bytes);
    }
}

static size_t block_rows(size_t width) {
    const size_t n = BLOCK_BYTES / (3 * sizeof(double) * width);
    return n > 0 ? n : 1;
}

// Compares the rows with what `site` expects. cells: rows x groups.
static Status judge_rows(const Site *site, Component c, const TraceArray *a, const RowSet *rows,
                         Cell *cells, Error *err) {
    const Hparams *h = &site->model->h;
    const size_t tokens = component_is_scores(c) ? (size_t)h->n_heads : 1;
    const size_t width = component_width(h, c, site->n), group = component_group(h, c, width);
    const size_t step = block_rows(width), groups = width / group;
    float *got = malloc((step < rows->n ? step : rows->n) * width * sizeof *got + 1);
    if (!got) return error_memory(err, "captured rows", step * width * sizeof *got);
    Status st = OK;
    for (size_t at = 0; !st && at < rows->n; at += step) {
        const size_t n = rows->n - at < step ? rows->n - at : step;
        Expected e;
        st = expect(site, c, rows->row + at, n, &e, err);
        if (st) break;
        gather(a, tokens, rows->row + at, n, got);
        compare_cells(&e, got, c, group, site->rounding->out[c], cells + at * groups);
        expected_free(&e);
    }
    free(got);
    return st;
}

// --- when a component fails ---------------------------------------------------------------------

// The rows that a cause must explain: some that fail, some that do not.
static Status case_rows(const Replay *r, const ComponentResult *res, const RowSet *rows,
                        const Cell *cells, RowSet *out) {
    out->row = malloc((CASE_BAD + CASE_GOOD) * sizeof *out->row);
    out->n = 0;
    if (!out->row) return error_memory(r->err, "rows", CASE_BAD * sizeof *out->row);
    for (int pass = 0; pass < 2; pass++) {
        const size_t most = out->n + (pass == 0 ? CASE_BAD : CASE_GOOD);
        size_t left = 0;
        for (size_t i = 0; i < rows->n; i++) {
            left += (compare_worst(cells + i * res->groups, res->groups).ratio > 1) == (pass == 0);
        }
        // The first, the last, and others between.
        const size_t take = left < most - out->n ? left : most - out->n;
        for (size_t i = 0, k = 0, taken = 0; i < rows->n && taken < take; i++) {
            if ((compare_worst(cells + i * res->groups, res->groups).ratio > 1) != (pass == 0)) {
                continue;
            }
            const size_t want = take > 1 ? taken * (left - 1) / (take - 1) : 0;
            if (k++ == want) out->row[out->n++] = rows->row[i], taken++;
        }
    }
    return OK;
}

static const Tensor *weight_of(const Model *m, const LayerWeights *w, Component c) {
    switch (c) {
        case COMP_Q: return w->q;
        case COMP_K: return w->k;
        case COMP_V: return w->v;
        case COMP_ATTN_OUT: return w->attn_out;
        case COMP_FFN_GATE: return w->ffn_gate;
        case COMP_FFN_UP: return w->ffn_up;
        case COMP_FFN_OUT: return w->ffn_down;
        case COMP_LOGITS: return m->output;
        default: return NULL;
    }
}

// Where a run does not say how it rounds, a component is wrong only if it is wrong under every way.
// First on a failing row or two, then on all.
static Status try_rounding(Replay *r, const Site *site, const Rounding *other, const char *name,
                           const TraceArray *a, ComponentResult *res, const RowSet *rows,
                           Cell *cells, bool *fits) {
    Site s = *site;
    s.rounding = other;
    const Component c = res->ref.c;
    size_t bad = 0;
    while (bad + 1 < rows->n && compare_worst(cells + bad * res->groups, res->groups).ratio <= 1) {
        bad++;
    }
    const RowSet one = {rows->row + bad, 1};
    Cell *trial = malloc(rows->n * res->groups * sizeof *trial + 1);
    if (!trial) return error_memory(r->err, "rows", rows->n * sizeof *trial);
    Status st = judge_rows(&s, c, a, &one, trial, r->err);
    *fits = !st && compare_worst(trial, res->groups).ratio <= 1;
    if (*fits) {
        st = judge_rows(&s, c, a, rows, trial, r->err);
        *fits = !st && compare_worst(trial, rows->n * res->groups).ratio <= 1;
    }
    if (*fits) {
        memcpy(cells, trial, rows->n * res->groups * sizeof *trial);
        snprintf(res->rounding, sizeof res->rounding, "%s", name);
    }
    free(trial);
    return st;
}

static Status try_roundings(Replay *r, const Site *site, const TraceArray *a, ComponentResult *res,
                            const RowSet *rows, Cell *cells, bool *fits) {
    const Component c = res->ref.c;
    const bool attention =
        component_is_scores(c) || c == COMP_ATTN || c == COMP_K_CACHE || c == COMP_V_CACHE;
    const Tensor *w = weight_of(r->model, site->w, c);
    Rounding other = *r->rounding;
    uint32_t tried = w ? 1u << r->rounding->act.way[w->type] : 0;
    Status st = OK;
    *fits = false;
    if (r->n_retries++ >= RETRIES) return OK;
    const ActScheme *act;
    for (int i = 0; w && !r->rounding->act_declared && !*fits && !st && (act = act_scheme_at(i));
         i++) {
        if (tried >> act->way[w->type] & 1) continue;
        tried |= 1u << act->way[w->type];
        other.act = *act;
        st = try_rounding(r, site, &other, act_way_name(act->way[w->type]), a, res, rows, cells,
                          fits);
    }
    other = *r->rounding;
    const AttnScheme *attn;
    for (int i = 0;
         attention && !r->rounding->attn_declared && !*fits && !st && (attn = attn_scheme_at(i));
         i++) {
        // Accumulators of few bits have wide bounds: a run may be so, one component is not.
        if (attn->acc != PREC_F32) continue;
        // A cache in blocks is allowed a step: coarse enough to excuse damage to one that is not.
        if (!component_is_scores(c) && c != COMP_ATTN && attn->k == TYPE_Q8_0) continue;
        other.attn = *attn;
        st = try_rounding(r, site, &other, attn->name, a, res, rows, cells, fits);
    }
    return st;
}

static Status explain(Replay *r, const Site *site, const TraceArray *a, ComponentResult *res,
                      const RowSet *rows, const Cell *cells) {
    const Component c = res->ref.c;
    const size_t width = component_width(&r->model->h, c, r->n), tokens = per_token(r, c);
    RowSet some;
    Expected want = {0};
    Status st = case_rows(r, res, rows, cells, &some);
    if (st) return st;
    float *got = malloc(some.n * width * sizeof *got + 1);
    Cell *own = malloc(some.n * res->groups * sizeof *own + 1);
    if (!got || !own) st = error_memory(r->err, "failing rows", some.n * width * sizeof *got);
    if (!st) st = expect(site, c, some.row, some.n, &want, r->err);
    if (!st) {
        gather(a, tokens, some.row, some.n, got);
        compare_cells(&want, got, c, component_group(&r->model->h, c, width),
                      site->rounding->out[c], own);
        const CauseCase k = {.site = site,
                             .c = c,
                             .row = some.row,
                             .n_rows = some.n,
                             .got = got,
                             .want = &want,
                             .cells = own,
                             .all = cells,
                             .first_row = rows->row[0],
                             .all_rows = rows->n,
                             .groups = res->groups,
                             .all_row = rows->row};
        st = cause_find(&k, &res->cause, r->err);
    }
    expected_free(&want);
    free(got), free(own), free(some.row);
    return st;
}

// --- one component ------------------------------------------------------------------------------

static void summarize(ComponentResult *res, const RowSet *rows, const Cell *cells) {
    res->worst = (Cell){.ratio = -1};
    res->n_cells = rows->n * res->groups, res->n_bad = 0;
    for (size_t i = 0; i < rows->n; i++) {
        for (size_t g = 0; g < res->groups; g++) {
            const Cell *c = &cells[i * res->groups + g];
            if (c->ratio > res->worst.ratio) {
                res->worst = *c, res->token = rows->row[i], res->head = g;
            }
            if (c->ratio > 1 && res->n_bad++ == 0) res->bad_token = rows->row[i], res->bad_head = g;
        }
    }
    if (res->n_bad == 0) res->bad_token = res->token, res->bad_head = res->head;
    res->outcome = res->n_bad ? OUTCOME_FAIL : OUTCOME_PASS;
}

static Status keep_ratios(const Replay *r, ComponentResult *res, const RowSet *rows,
                          const Cell *cells) {
    if (!r->options->keep_ratios) return OK;
    const size_t n = rows->n * res->groups;
    res->ratios = malloc(n * sizeof *res->ratios + 1);
    res->row_token = malloc(rows->n * sizeof *res->row_token + 1);
    if (!res->ratios || !res->row_token) return error_memory(r->err, "ratios", n * sizeof(float));
    for (size_t i = 0; i < n; i++) res->ratios[i] = (float)cells[i].ratio;
    memcpy(res->row_token, rows->row, rows->n * sizeof *rows->row);
    return OK;
}

// Differences that do no harm, or none if q and k have them alike (replay_equivalents), stand in
// every layer where they stand in one: they do not use up the search.
static bool may_be_harmless(const Cause *c) {
    if (c->n_fits == 0) return false;
    return c->fits[0].harmless || strcmp(c->fits[0].id, "rope-position") == 0 ||
           strcmp(c->fits[0].id, "rope-pairing") == 0;
}

// Appends the result; from is the first token whose row is judged.
static Status judge_component(Replay *r, Stage *s, Component c, const TraceArray *a,
                              ComponentRef since) {
    const size_t width = component_width(&r->model->h, c, r->n);
    ComponentResult *res;
    RowSet rows;
    Status st = choose_rows(r, a->first_row, a->first_row + a->rows / per_token(r, c), &rows);
    if (!st) st = report_component(r->report, &res, r->err);
    if (st) return st;
    res->ref = (ComponentRef){c, s->site.layer};
    res->prompt = r->prompt;
    res->drift = -1;
    res->groups = width / component_group(&r->model->h, c, width), res->rows = rows.n;
    res->coarse = !is_captured(since);
    res->since = since;
    Cell *cells = malloc(rows.n * res->groups * sizeof *cells + 1);
    if (!cells) st = error_memory(r->err, "cells", rows.n * res->groups * sizeof *cells);
    if (!st) st = judge_rows(&s->site, c, a, &rows, cells, r->err);
    if (!st) summarize(res, &rows, cells);
    if (!st && res->outcome == OUTCOME_FAIL) {
        bool fits;
        st = try_roundings(r, &s->site, a, res, &rows, cells, &fits);
        if (!st && fits) summarize(res, &rows, cells);
    }
    if (!st && res->outcome == OUTCOME_FAIL && r->n_causes < r->options->max_causes) {
        st = explain(r, &s->site, a, res, &rows, cells);
        r->n_causes += !may_be_harmless(&res->cause);
    }
    if (!st) st = keep_ratios(r, res, &rows, cells);
    free(cells), free(rows.row);
    return st;
}

static Status wrong_shape(Replay *r, int layer, const TraceArray *a, size_t want) {
    ComponentResult *res;
    Status st = report_component(r->report, &res, r->err);
    if (st) return st;
    *res = (ComponentResult){.ref = {a->ref.c, layer}, .prompt = r->prompt, .drift = -1};
    res->outcome = OUTCOME_FAIL;
    res->worst = (Cell){RATIO_MOST, BY_SHAPE, (double)a->width, (double)want, 0, 0, 0};
    res->n_cells = res->n_bad = 1;
    res->cause.certainty = CAUSE_UNKNOWN;
    snprintf(res->cause.pattern, sizeof res->cause.pattern,
             "the array is %zu wide, the model's %s is %zu", a->width, component_name(a->ref.c),
             want);
    return OK;
}

// Fills what was not captured of a component with what is expected: tokens from .. to - 1.
static Status recompute(Replay *r, Stage *s, Component c, size_t from, size_t to) {
    const size_t width = s->site.at[c].width, step = block_rows(width);
    double *x = calloc(2 * r->n * width + 1, sizeof *x);
    size_t *row = malloc((step < r->n ? step : r->n) * sizeof *row);
    Status st = OK;
    if (!x || !row) st = error_memory(r->err, component_name(c), 2 * r->n * width * sizeof *x);
    for (size_t at = from; !st && at < to; at += step) {
        const size_t n = to - at < step ? to - at : step;
        Expected e;
        for (size_t i = 0; i < n; i++) row[i] = at + i;
        st = expect(&s->site, c, row, n, &e, r->err);
        if (st) break;
        memcpy(x + at * width, e.y, n * width * sizeof *x);
        for (size_t i = 0; i < n * width; i++) {
            x[(r->n + at) * width + i] = bound_spread(e.bound[i], e.sd[i]);
        }
        expected_free(&e);
    }
    free(row);
    if (st) {
        free(x);
        return st;
    }
    s->expected[c] = x;
    s->site.at[c].x = x, s->site.at[c].sd = x + r->n * width;
    return OK;
}

static bool reads_stream(Component c) {
    return c == COMP_ATTN_NORM || c == COMP_FFN_INP || c == COMP_NORM;
}

// The earliest component that had to be recomputed on the way to c.
static ComponentRef inputs_since(const Stage *s, Component c) {
    ComponentRef since = reads_stream(c) ? s->stream_since : captured;
    for (const Component *in = component_inputs(c); *in != N_COMPONENTS; in++) {
        const ComponentRef of = s->since[*in];
        if (is_captured(of)) continue;
        if (is_captured(since) || component_order(of) < component_order(since)) since = of;
    }
    return since;
}

// The chosen token against the logits that it was chosen from.
static Status judge_token(Replay *r, Stage *s) {
    const Value *logits = &s->site.at[COMP_LOGITS];
    const size_t last = r->n - 1, n_vocab = (size_t)r->model->h.n_vocab;
    if (r->whole->chosen < 0 || !logits->seen) return OK;
    ComponentResult *res;
    double *x = malloc(3 * n_vocab * sizeof *x);
    Expected e = {0};
    Cell cell;
    Status st = x ? report_component(r->report, &res, r->err)
                  : error_memory(r->err, "logits", 3 * n_vocab * sizeof *x);
    if (!st) {
        *res = (ComponentResult){.ref = {COMP_TOKEN, -1}, .prompt = r->prompt, .drift = -1};
        res->n_cells = res->rows = res->groups = 1;
        res->token = res->bad_token = last;
        value_rows(logits, &last, 1, x, NULL);
        double *slack = x + n_vocab;
        for (size_t i = 0; i < n_vocab; i++) slack[i] = bound_add(x[i], 0, PREC_F32).bound;
        if (value_known(&s->site.at[COMP_NORM], last)) {
            st = expect(&s->site, COMP_LOGITS, &last, 1, &e, r->err);
            if (!st) memcpy(slack, e.bound, n_vocab * sizeof *slack);
            expected_free(&e);
        }
        if (!st) st = sampling_judge(r->whole, x, slack, n_vocab, x + 2 * n_vocab, &cell, r->err);
    }
    if (!st) {
        const RowSet rows = {(size_t *)(uintptr_t)&last, 1};
        summarize(res, &rows, &cell);
        if (res->outcome == OUTCOME_FAIL && r->n_causes++ < r->options->max_causes) {
            const float got = (float)r->whole->chosen;
            Expected want;
            st = expected_new(1, 1, &want, r->err);
            const CauseCase k = {.site = &s->site,
                                 .c = COMP_TOKEN,
                                 .row = &last,
                                 .n_rows = 1,
                                 .got = &got,
                                 .want = &want,
                                 .cells = &cell,
                                 .all = &cell,
                                 .first_row = last,
                                 .all_rows = 1,
                                 .groups = 1};
            if (!st) st = cause_find(&k, &res->cause, r->err);
            if (!st) expected_free(&want);
        }
    }
    free(x);
    return st;
}

static const TraceArray *find_array(const TraceArray *arrays, size_t n, Component c) {
    for (size_t i = 0; i < n; i++) {
        if (arrays[i].ref.c == c) return &arrays[i];
    }
    return NULL;
}

static bool is_kept(Component c) {  // attention goes through these on its own
    return !component_is_scores(c) && c != COMP_K_CACHE && c != COMP_V_CACHE && c != COMP_LOGITS &&
           c != COMP_PROBS && c != COMP_TOKEN;
}

static bool has_component(const Stage *s, Component c) {
    if (c == COMP_Q_NORM) return s->site.w && s->site.w->q_norm;
    if (c == COMP_K_NORM) return s->site.w && s->site.w->k_norm;
    return true;
}

static Status take_component(Replay *r, Stage *s, Component c, const TraceArray *arrays, size_t n,
                             bool wanted) {
    const TraceArray *a = find_array(arrays, n, c);
    const size_t width = component_width(&r->model->h, c, r->n);
    Value *v = &s->site.at[c];
    v->width = width;
    if (c == COMP_TOKEN) return r->whole ? judge_token(r, s) : OK;
    if (!has_component(s, c)) {  // its input stands for it
        const Component in = c == COMP_Q_NORM ? COMP_Q : COMP_K;
        *v = s->site.at[in];
        s->since[c] = s->since[in];
        return OK;
    }
    Status st = OK;
    const ComponentRef since = inputs_since(s, c);
    if (a && a->width * per_token(r, c) != width) {
        st = wrong_shape(r, s->site.layer, a, width / per_token(r, c));
        a = NULL;
    }
    if (!st && a) st = judge_component(r, s, c, a, since);
    if (st) return st;
    v->seen = a;
    // The final norm is needed where logits were captured, a layer's components for all tokens.
    size_t from = 0, to = a ? a->first_row : r->n;
    if (c == COMP_NORM) {
        const TraceArray *logits = find_array(arrays, n, COMP_LOGITS);
        from = logits ? logits->first_row : r->n;
    }
    s->since[c] = a && to <= from      ? captured
                  : is_captured(since) ? (ComponentRef){c, s->site.layer}
                                       : since;
    if (!wanted || !is_kept(c) || from >= to) return OK;
    return recompute(r, s, c, from, to);
}

// --- stages -------------------------------------------------------------------------------------

// The stream that enters the next stage is what this one ends with.
static Status pass_stream(Replay *r, Stage *from, Stage *to) {
    const Component c = from->site.layer < 0 ? COMP_EMBD : COMP_L_OUT;
    to->site.stream = from->site.at[c];
    to->stream_since = from->since[c];
    if (!from->expected[c]) return OK;
    const size_t n = 2 * r->n * from->site.at[c].width;
    to->stream = malloc(n * sizeof *to->stream);  // `from` may be gone before `to`
    if (!to->stream) return error_memory(r->err, "the stream", n * sizeof *to->stream);
    memcpy(to->stream, from->expected[c], n * sizeof *to->stream);
    to->site.stream.x = to->stream, to->site.stream.sd = to->stream + n / 2;
    return OK;
}

static Site site_at(const Replay *r, int layer) {
    const bool inside = layer >= 0 && layer < r->model->h.n_layers;
    return (Site){.oracle = r->oracle,
                  .model = r->model,
                  .rounding = r->rounding,
                  .tokens = r->tokens,
                  .pos = r->pos,
                  .n = r->n,
                  .layer = inside ? layer : -1,
                  .w = inside ? &r->model->layers[layer] : NULL,
                  .prompt = r->whole,
                  .trace = r->options->trace};
}

// more: is anything after this stage to be judged?
static Status run_stage(Replay *r, int layer, const TraceArray *arrays, size_t n, bool more) {
    const int n_layers = r->model->h.n_layers;
    Stage *before = &r->stage[r->at], *s = &r->stage[!r->at];
    stage_free(s);
    s->stream_since = captured;
    for (int c = 0; c < N_COMPONENTS; c++) s->since[c] = captured;
    const bool inside = layer >= 0 && layer < n_layers;
    s->site = site_at(r, layer);
    Status st = OK;
    if (layer >= 0) {
        st = pass_stream(r, before, s);
        before->site.before = NULL;
        s->site.before = &before->site;
    }
    r->at = !r->at;
    const Component first = layer < 0 ? COMP_EMBD : inside ? COMP_ATTN_NORM : COMP_NORM;
    const Component last = layer < 0 ? COMP_EMBD : inside ? COMP_L_OUT : COMP_TOKEN;
    bool wanted[N_COMPONENTS] = {false}, later = more;
    for (Component c = last + 1; c-- > first;) {
        wanted[c] = later;
        later |= find_array(arrays, n, c) != NULL;
    }
    for (Component c = first; !st && c <= last; c++) {
        if (!wanted[c] && !find_array(arrays, n, c) && c != COMP_TOKEN) continue;
        st = take_component(r, s, c, arrays, n, wanted[c]);
    }
    return st;
}

Status replay_stage(Replay *r, int layer, const TraceArray *arrays, size_t n_arrays, Error *err) {
    Error own;
    r->err = err ? err : &own;
    return run_stage(r, layer, arrays, n_arrays, layer < r->model->h.n_layers);
}

void replay_whole(Replay *r, const TracePrompt *p) {
    r->whole = p;
}

// Which stage an array belongs to.
static int stage_of(const Replay *r, ComponentRef ref) {
    if (ref.c == COMP_EMBD) return -1;
    return component_in_layer(ref.c) ? ref.layer : r->model->h.n_layers;
}

static Status run_prompt(Replay *r, const TracePrompt *p) {
    const int n_layers = r->model->h.n_layers;
    int last = -2;
    for (size_t i = 0; i < p->n_arrays; i++) {
        const int of = stage_of(r, p->arrays[i].ref);
        last = of > last && of <= n_layers ? of : last;
    }
    Status st = OK;
    size_t at = 0;
    for (int layer = -1; !st && layer <= last; layer++) {
        size_t n = 0;
        while (at < p->n_arrays && stage_of(r, p->arrays[at].ref) < layer) at++;
        while (at + n < p->n_arrays && stage_of(r, p->arrays[at + n].ref) == layer) n++;
        st = run_stage(r, layer, p->arrays + at, n, layer < last);
        if (r->options->progress) {
            r->options->progress(r->options->user, "components", layer + 2, last + 2);
        }
    }
    return st;
}

Status replay_prompt(Oracle *o, const Model *m, const Rounding *rounding, const TracePrompt *p,
                     const ReplayOptions *options, Report *report, int prompt, Error *err) {
    Replay *r;
    Error own;
    Status st =
        replay_new(o, m, rounding, p->tokens, p->n_tokens, options, report, prompt, &r, err);
    if (st) return st;
    r->err = err ? err : &own;
    r->whole = p;
    st = run_prompt(r, p);
    replay_free(r);
    if (!st && m->gguf) st = gguf_fault(m->gguf, err);
    return st;
}
