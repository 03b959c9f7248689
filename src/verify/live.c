// Verifying while a backend runs; see live.h.
//
// A stage is what replay_stage judges at once: embd, each layer, the head. Stage 0 is embd, 1 + l
// is layer l. With one evaluation a stage is judged as soon as the next one begins; with several,
// every stage gets rows from each of them and all are judged at the end. The cache is read back
// when its layer has seen all tokens, and again when all has run.
#include "verify/live.h"

#include <stdlib.h>

#include "engine/sampler.h"

typedef struct {
    TraceArray arrays[N_COMPONENTS];
    size_t n;
} Stage;

typedef struct {
    DeviceModel *d;
    const Model *m;
    Oracle *oracle;
    const LiveOptions *options;
    const int32_t *tokens;
    size_t n, n_out;  // tokens; the last so many get logits
    bool gather;      // judge nothing before all has run
    Rounding rounding;
    Stage *stages;  // n_layers + 2
    int n_stages, at;
    float *last;        // n_vocab: logits of the last token
    TracePrompt whole;  // what stays: k_rope, v, and with drift everything
    Session *session;
    Replay *replay;
    Report *report;
    int prompt;
    Error *err;
    Status status;  // of what the tap does, which cannot return one
} Live;

void live_rounding(const DeviceModel *d, TensorType type_k, TensorType type_v, Rounding *out) {
    *out = (Rounding){.act = {.name = "declared"},
                      .attn = {.name = "declared",
                               .k = type_k,
                               .v = type_v,
                               .acc = PREC_F32,
                               .q8_0 = WAY_Q8_0_CACHE},
                      .act_declared = true,
                      .attn_declared = true};
    for (int t = 0; t < TYPE_LIMIT; t++) {
        if (!type_info((TensorType)t)) continue;
        out->act.way[t] = act_way_of(device_model_activation(d, 0, (TensorType)t));
    }
}

// --- gathering --------------------------------------------------------------------------------

static int stage_of(const Live *l, Component c, int layer) {
    if (component_in_layer(c)) return 1 + layer;
    return c == COMP_EMBD ? 0 : l->n_stages - 1;
}

static float *array_data(const TraceArray *a) {
    return (float *)(uintptr_t)a->x;  // the arrays are ours; TraceArray shows them as constant
}

// What the cache gave back stays: it has to be the same when all has run.
static bool is_kept(const Live *l, Component c) {
    return l->options->drift || c == COMP_K_CACHE || c == COMP_V_CACHE;
}

static void free_array(TraceArray *a) {
    free(array_data(a));
    a->x = NULL;
}

// Judges the stage that came in last. What the one before it holds is no longer needed.
static Status judge_stage(Live *l) {
    const ReplayOptions *o = &l->options->replay;
    const Stage *s = &l->stages[l->at];
    if (o->progress) o->progress(o->user, l->report->prompts[l->prompt].name, l->at, l->n_stages);
    Status st = replay_stage(l->replay, l->at - 1, s->arrays, s->n, l->err);
    Stage *before = l->at > 0 ? &l->stages[l->at - 1] : NULL;
    for (size_t i = 0; before && i < before->n; i++) {
        if (!is_kept(l, before->arrays[i].ref.c)) free_array(&before->arrays[i]);
    }
    l->at++;
    return st;
}

static TraceArray *find_array(Stage *s, Component c) {
    for (size_t i = 0; i < s->n; i++) {
        if (s->arrays[i].ref.c == c) return &s->arrays[i];
    }
    return NULL;
}

// Room for all rows of a component. Scores have n_heads rows a token, of all keys: those that an
// early evaluation did not know yet stay 0.
static Status add_array(Live *l, Stage *s, ComponentRef ref, size_t width, TraceArray **out) {
    const bool head = ref.c == COMP_NORM || ref.c == COMP_LOGITS;
    const size_t tokens = head ? l->n_out : l->n;
    const size_t rows = component_is_scores(ref.c) ? tokens * (size_t)l->m->h.n_heads : tokens;
    if (component_is_scores(ref.c)) width = l->n;
    float *x = calloc(rows * width, sizeof *x);
    if (!x) return error_memory(l->err, component_name(ref.c), rows * width * sizeof *x);
    *out = &s->arrays[s->n++];
    **out = (TraceArray){.ref = ref,
                         .x = x,
                         .width = width,
                         .first_row = l->n - tokens,
                         .source = component_name(ref.c)};
    return OK;
}

// What the cache holds of a layer, all tokens: n rows each.
static Status read_cache(const Live *l, int layer, float *k, float *v) {
    const size_t width = (size_t)l->m->h.n_kv_heads * (size_t)l->m->h.head_dim;
    Forward *f = session_forward(l->session);
    Status st = OK;
    for (size_t i = 0; !st && i < l->n; i++) {
        st = forward_kv_read(f, layer, 0, (int)i, k + i * width, v + i * width, l->err);
    }
    return st;
}

static Status take_cache(Live *l, int layer) {
    Stage *s = &l->stages[1 + layer];
    const size_t width = (size_t)l->m->h.n_kv_heads * (size_t)l->m->h.head_dim;
    TraceArray *k, *v;
    Status st = add_array(l, s, (ComponentRef){COMP_K_CACHE, layer}, width, &k);
    if (!st) st = add_array(l, s, (ComponentRef){COMP_V_CACHE, layer}, width, &v);
    if (!st) st = read_cache(l, layer, array_data(k), array_data(v));
    if (!st) k->rows = v->rows = l->n;
    return st;
}

static void on_tap(void *user, const char *name, int layer, const float *x, size_t rows,
                   size_t width) {
    Live *l = user;
    ComponentRef ref = {.layer = layer};
    CHECK(component_by_name(name, &ref.c));
    const int stage = stage_of(l, ref.c, layer);
    while (!l->status && !l->gather && l->at < stage) l->status = judge_stage(l);
    if (l->status) return;
    TraceArray *a = find_array(&l->stages[stage], ref.c);
    if (!a) l->status = add_array(l, &l->stages[stage], ref, width, &a);
    if (l->status) return;
    float *to = array_data(a) + a->rows * a->width;
    for (size_t i = 0; i < rows; i++) memcpy(to + i * a->width, x + i * width, width * sizeof *x);
    a->rows += rows;
    if (ref.c == COMP_L_OUT && a->rows == l->n) l->status = take_cache(l, layer);
}

static void on_logits(void *user, size_t index, const float *logits) {
    (void)index;
    Live *l = user;
    memcpy(l->last, logits, (size_t)l->m->h.n_vocab * sizeof *logits);
}

static Status evaluate(Live *l) {
    const size_t whole[] = {l->n};
    const size_t *sizes = l->options->chunks ? l->options->chunks : whole;
    const size_t n_sizes = l->options->chunks ? l->options->n_chunks : 1;
    Status st = OK;
    forward_set_tap(session_forward(l->session), (Tap){on_tap, l, l->options->scores});
    for (size_t i = 0, at = 0; !st && i < n_sizes; at += sizes[i++]) {
        const size_t end = at + sizes[i], first_out = l->n - l->n_out;
        const EvalOptions o = {
            .n_logits = end > first_out ? (at > first_out ? sizes[i] : end - first_out) : 0,
            .on_logits = on_logits,
            .user = l};
        st = session_eval(l->session, 0, l->tokens + at, sizes[i], &o, NULL, l->err);
        if (l->status) st = l->status;
    }
    forward_set_tap(session_forward(l->session), (Tap){0});
    return st;
}

// The greedy choice of the sampler that `plumb run` has. Where it refuses (no logit is a number)
// there is none, and the logits' own result tells.
static Status choose(Live *l) {
    plumb_sampling greedy = plumb_sampling_default();
    greedy.temperature = 0;
    Sampler *s = NULL;
    Status st = sampler_new(&greedy, l->m->h.n_vocab, (int)l->n, &s, l->err);
    if (!st && sampler_next(s, l->last, &l->whole.chosen, NULL)) l->whole.chosen = -1;
    sampler_free(s);
    return st;
}

// --- when all has run ---------------------------------------------------------------------------

static int by_pass(const void *a, const void *b) {
    const long x = component_order(((const TraceArray *)a)->ref);
    const long y = component_order(((const TraceArray *)b)->ref);
    return (x > y) - (x < y);
}

// All that stays, in the order of the pass.
static Status list_arrays(Live *l) {
    size_t n = 0;
    for (int i = 0; i < l->n_stages; i++) n += l->stages[i].n;
    l->whole.arrays = calloc(n, sizeof *l->whole.arrays);
    if (!l->whole.arrays) return error_memory(l->err, "arrays", n * sizeof *l->whole.arrays);
    for (int i = 0; i < l->n_stages; i++) {
        for (size_t k = 0; k < l->stages[i].n; k++) {
            const TraceArray *a = &l->stages[i].arrays[k];
            if (is_kept(l, a->ref.c)) l->whole.arrays[l->whole.n_arrays++] = *a;
        }
    }
    qsort(l->whole.arrays, l->whole.n_arrays, sizeof *l->whole.arrays, by_pass);
    return OK;
}

// The first token of which two readings differ; n: none.
static size_t first_change(const float *now, const TraceArray *then) {
    size_t i = 0;
    const size_t bytes = then->width * sizeof *now;
    while (i < then->rows && memcmp(now + i * then->width, then->x + i * then->width, bytes) == 0)
        i++;
    return i;
}

// Does the cache still hold what it gave back when each layer had run?
static Status check_cache(Live *l) {
    const size_t n = l->n * (size_t)l->m->h.n_kv_heads * (size_t)l->m->h.head_dim;
    const char *what = NULL;
    int layer = -1;
    size_t token = l->n;
    float *k = calloc(2 * n, sizeof *k);
    if (!k) return error_memory(l->err, "keys and values", 2 * n * sizeof *k);
    Status st = OK;
    for (int i = 0; !st && !what && i < l->m->h.n_layers; i++) {
        st = read_cache(l, layer = i, k, k + n);
        if (st) break;
        token = first_change(k, find_array(&l->stages[1 + i], COMP_K_CACHE));
        if (token < l->n) what = "key";
        const size_t v = first_change(k + n, find_array(&l->stages[1 + i], COMP_V_CACHE));
        if (!what && v < l->n) what = "value", token = v;
    }
    free(k);
    if (st) return st;
    if (!what) {
        return report_finding(l->report, STAGE_PATHS, l->prompt, "cache kept", OUTCOME_PASS, false,
                              l->err,
                              "the cache holds to the end what each layer wrote: %zu token%s", l->n,
                              l->n == 1 ? "" : "s");
    }
    return report_finding(l->report, STAGE_PATHS, l->prompt, "cache kept", OUTCOME_FAIL, false,
                          l->err,
                          "the %s of token %zu in layer %d's cache changed after the layer "
                          "had run: something else was written there",
                          what, token, layer);
}

// --- opening ----------------------------------------------------------------------------------

static Status open_live(Live *l) {
    const LiveOptions *o = l->options;
    const size_t n_vocab = (size_t)l->m->h.n_vocab;
    size_t largest = o->chunks ? 1 : l->n;
    for (size_t i = 0; o->chunks && i < o->n_chunks; i++) {
        if (o->chunks[i] > largest) largest = o->chunks[i];
    }
    const size_t limit = (size_t)MODEL_MAX_CONTEXT;
    if (l->n == 0 || l->n > limit) {
        return error_set(l->err, ERR_USAGE, "a prompt of %zu tokens is out of range (1 to %zu)",
                         l->n, limit);
    }
    const SessionConfig c = {.n_ctx = (int)l->n,
                             .n_seqs = 1,
                             .batch_size = (int)largest,
                             .type_k = o->type_k,
                             .type_v = o->type_v};
    l->stages = calloc((size_t)l->n_stages, sizeof *l->stages);
    l->last = calloc(n_vocab, sizeof *l->last);
    if (!l->stages || !l->last)
        return error_memory(l->err, "stages", (size_t)l->n_stages * sizeof *l->stages);
    Status st = session_new(l->d, &c, (Notice){0}, &l->session, l->err);
    if (st) return st;
    return replay_new(l->oracle, l->m, &l->rounding, l->tokens, l->n, &o->replay, l->report,
                      l->prompt, &l->replay, l->err);
}

static void close_live(Live *l) {
    replay_free(l->replay);
    session_free(l->session);
    for (int i = 0; l->stages && i < l->n_stages; i++) {
        for (size_t k = 0; k < l->stages[i].n; k++) free_array(&l->stages[i].arrays[k]);
    }
    free(l->stages);
    free(l->whole.arrays);
    free(l->last);
}

Status live_verify(DeviceModel *d, Oracle *o, const int32_t *tokens, size_t n,
                   const LiveOptions *options, Report *report, int prompt, float *logits_last,
                   Error *err) {
    Error own;
    const size_t most = options->replay.max_rows;
    Live l = {.d = d,
              .m = d->model,
              .oracle = o,
              .options = options,
              .tokens = tokens,
              .n = n,
              .n_out = most && most < n ? most : n,
              .gather = options->drift || (options->chunks && options->n_chunks > 1),
              .n_stages = d->model->h.n_layers + 2,
              .whole = {.name = "", .tokens = tokens, .n_tokens = n, .chosen = -1},
              .report = report,
              .prompt = prompt,
              .err = err ? err : &own};
    live_rounding(d, options->type_k, options->type_v, &l.rounding);
    Status st = open_live(&l);
    if (!st) st = evaluate(&l);
    if (!st) st = choose(&l);
    if (!st) st = list_arrays(&l);
    if (!st) replay_whole(l.replay, &l.whole);
    while (!st && l.at < l.n_stages) st = judge_stage(&l);
    if (!st) st = check_cache(&l);
    if (!st && options->drift) st = replay_drift(o, &l.whole, report, prompt, l.err);
    if (!st && logits_last) memcpy(logits_last, l.last, (size_t)l.m->h.n_vocab * sizeof *l.last);
    close_live(&l);
    return st;
}
