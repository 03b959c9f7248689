// Captures runs; see capture.h.
#include "verify/capture.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/sha256.h"
#include "verify/site.h"

typedef struct {
    const Model *m;
    size_t n;  // tokens
    ComponentSet which;
    TraceArray *slots;  // a slot a component and layer; x NULL: nothing came yet
    size_t n_slots;
    Error *err;
    Status status;  // the first failure
} Capture;

static size_t width_of(const Hparams *h, Component c, size_t n) {
    return component_is_scores(c) ? n : component_width(h, c, n);
}

static size_t rows_of(const Hparams *h, Component c, size_t n) {
    if (c == COMP_PROBS) return 1;
    return component_is_scores(c) ? n * (size_t)h->n_heads : n;
}

uint64_t capture_bytes(const Model *m, ComponentSet which, size_t n) {
    uint64_t bytes = 0;
    for (int c = 0; c < N_COMPONENTS; c++) {
        if (!(which >> c & 1) || c == COMP_TOKEN) continue;
        if (c == COMP_Q_NORM && !m->layers[0].q_norm) continue;
        if (c == COMP_K_NORM && !m->layers[0].k_norm) continue;
        const uint64_t layers = component_in_layer((Component)c) ? (uint64_t)m->h.n_layers : 1;
        bytes += layers * rows_of(&m->h, (Component)c, n) * width_of(&m->h, (Component)c, n) *
                 sizeof(float);
    }
    return bytes;
}

static Status take_slot(Capture *c, TraceArray *slot, ComponentRef ref) {
    const size_t rows = rows_of(&c->m->h, ref.c, c->n), width = width_of(&c->m->h, ref.c, c->n);
    float *x = calloc(rows * width, sizeof *x);
    if (!x) return error_memory(c->err, component_name(ref.c), rows * width * sizeof *x);
    *slot = (TraceArray){.ref = ref, .x = x, .width = width, .source = component_name(ref.c)};
    return OK;
}

static TraceArray *slot_of(Capture *c, ComponentRef ref) {
    return &c->slots[(size_t)(ref.layer + 1) * N_COMPONENTS + ref.c];
}

// Appends the rows of one batch. Scores of an early batch know fewer keys: the rest stay 0.
static void on_tap(void *user, const char *name, int layer, const float *x, size_t rows,
                   size_t width) {
    Capture *c = user;
    ComponentRef ref = {.layer = layer};
    CHECK(component_by_name(name, &ref.c));
    if (c->status || !(c->which >> ref.c & 1)) return;
    TraceArray *slot = slot_of(c, ref);
    if (!slot->x && (c->status = take_slot(c, slot, ref))) return;
    CHECK(width <= slot->width && slot->rows + rows <= rows_of(&c->m->h, ref.c, c->n));
    float *to = (float *)(uintptr_t)slot->x + slot->rows * slot->width;
    for (size_t i = 0; i < rows; i++) {
        memcpy(to + i * slot->width, x + i * width, width * sizeof *x);
    }
    slot->rows += rows;
}

typedef struct {
    int n_vocab;
    int32_t best;
} Choice;

static void on_logits(void *user, size_t index, const float *logits) {
    (void)index;
    Choice *c = user;
    c->best = 0;
    for (int32_t i = 1; i < c->n_vocab; i++) {
        if (logits[i] > logits[c->best]) c->best = i;
    }
}

// The keys and values of all positions as the cache holds them now.
static Status read_cache(Capture *c, Forward *f) {
    const size_t width = width_of(&c->m->h, COMP_K_CACHE, c->n);
    const bool both[2] = {c->which >> COMP_K_CACHE & 1, c->which >> COMP_V_CACHE & 1};
    if (!both[0] && !both[1]) return OK;
    float *scratch = malloc(width * sizeof *scratch);  // for the half that nobody asked for
    if (!scratch) return error_memory(c->err, "a cache's row", width * sizeof *scratch);
    Status st = OK;
    for (int layer = 0; !st && layer < c->m->h.n_layers; layer++) {
        float *to[2] = {NULL, NULL};
        for (int i = 0; !st && i < 2; i++) {
            const ComponentRef ref = {i ? COMP_V_CACHE : COMP_K_CACHE, layer};
            TraceArray *slot = slot_of(c, ref);
            if (!both[i]) continue;
            st = take_slot(c, slot, ref);
            slot->rows = c->n;
            to[i] = (float *)(uintptr_t)slot->x;
        }
        for (size_t pos = 0; !st && pos < c->n; pos++) {
            st = forward_kv_read(f, layer, 0, (int)pos, to[0] ? to[0] + pos * width : scratch,
                                 to[1] ? to[1] + pos * width : scratch, c->err);
        }
    }
    free(scratch);
    return st;
}

// What a greedy sampler draws from.
static Status write_probs(Capture *c, int32_t chosen) {
    const ComponentRef ref = {COMP_PROBS, -1};
    TraceArray *slot = slot_of(c, ref);
    if (!(c->which >> COMP_PROBS & 1)) return OK;
    Status st = take_slot(c, slot, ref);
    if (st) return st;
    slot->rows = 1, slot->first_row = c->n - 1;
    ((float *)(uintptr_t)slot->x)[chosen] = 1;
    return OK;
}

void capture_free(TracePrompt *p) {
    for (size_t i = 0; i < p->n_arrays; i++) free((void *)(uintptr_t)p->arrays[i].x);
    free(p->arrays);
    free((void *)(uintptr_t)p->tokens);
    *p = (TracePrompt){.name = "", .chosen = -1};
}

static int array_order(const void *a, const void *b) {
    const long x = component_order(((const TraceArray *)a)->ref);
    const long y = component_order(((const TraceArray *)b)->ref);
    return (x > y) - (x < y);
}

static Status check_memory(const Capture *c) {
    const unsigned long long have = memory_available();
    const uint64_t need = capture_bytes(c->m, c->which, c->n);
    if (!have || need <= have) return OK;
    return error_set(c->err, ERR_UNAVAILABLE,
                     "a trace of %zu tokens needs %.1f MiB of memory and %.1f MiB are free; leave "
                     "out the scores, or keep fewer components",
                     c->n, (double)need / 0x1p20, (double)have / 0x1p20);
}

Status capture_prompt(Session *s, const DeviceModel *d, const int32_t *tokens, size_t n,
                      ComponentSet which, TracePrompt *out, Error *err) {
    static const TraceSampling greedy = {
        .given = true, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = -1};
    Error own;
    const Model *m = d->model;
    Capture c = {.m = m, .n = n, .which = which, .err = err ? err : &own};
    *out = (TracePrompt){.name = "", .chosen = -1};
    if (n == 0) return error_set(err, ERR_USAGE, "there is no token to trace");
    Status st = check_memory(&c);
    if (st) return st;
    const size_t n_slots = ((size_t)m->h.n_layers + 1) * N_COMPONENTS;
    int32_t *ids = malloc(n * sizeof *ids);
    c.slots = calloc(n_slots, sizeof *c.slots);
    if (!ids || !c.slots) {
        free(ids), free(c.slots);
        return error_memory(err, "a trace", n * sizeof *ids);
    }
    memcpy(ids, tokens, n * sizeof *ids);
    out->tokens = ids, out->n_tokens = n, out->arrays = c.slots;

    const bool head = which & (1u << COMP_NORM | 1u << COMP_LOGITS);
    Choice choice = {.n_vocab = m->h.n_vocab, .best = -1};
    const EvalOptions o = {.n_logits = head ? n : 1, .on_logits = on_logits, .user = &choice};
    session_rewind(s, 0, 0);
    const bool scores = which & CAPTURE_SCORES;
    forward_set_tap(session_forward(s), (Tap){on_tap, &c, scores});
    st = session_eval(s, 0, tokens, n, &o, NULL, c.err);
    forward_set_tap(session_forward(s), (Tap){0});
    if (c.status) st = c.status;
    if (!st) st = read_cache(&c, session_forward(s));
    if (!st) st = write_probs(&c, choice.best);

    for (size_t i = 0; i < n_slots; i++) {
        if (c.slots[i].x) c.slots[out->n_arrays++] = c.slots[i];
    }
    qsort(c.slots, out->n_arrays, sizeof *c.slots, array_order);
    out->chosen = choice.best, out->sampling = greedy;
    if (st) capture_free(out);
    return st;
}

// --- what ran ---------------------------------------------------------------------------------

Status capture_model_sha256(const Gguf *g, char out[65], Error *err) {
    Sha256 s;
    sha256_start(&s);
    for (int i = 0; i < gguf_n_parts(g); i++) {
        uint64_t size;
        const uint8_t *bytes = gguf_part_bytes(g, i, &size);
        sha256_add(&s, bytes, (size_t)size);
    }
    sha256_hex(&s, out);
    return gguf_fault(g, err);
}

// Do all layers, and the output, round the input of such weights in one way?
static bool rounds_alike(const DeviceModel *d, TensorType type) {
    const ActQuant first = device_model_activation(d, 0, type);
    for (int l = 1; l <= d->model->h.n_layers; l++) {
        if (device_model_activation(d, l, type) != first) return false;
    }
    return true;
}

// Where the parts of a split model round differently nothing is said: verify then finds it out.
static Status describe_activation(TraceWriter *w, const DeviceModel *d, Error *err) {
    bool seen[TYPE_LIMIT] = {false};
    Status st = OK;
    for (size_t i = 0; i < gguf_n_tensors(d->model->gguf); i++) {
        if (!rounds_alike(d, gguf_tensor_at(d->model->gguf, i)->type)) return OK;
    }
    for (size_t i = 0; !st && i < gguf_n_tensors(d->model->gguf); i++) {
        const Tensor *t = gguf_tensor_at(d->model->gguf, i);
        if (t->n_dims < 2 || seen[t->type]) continue;
        char key[64];
        seen[t->type] = true;
        snprintf(key, sizeof key, "activation.%s", type_info(t->type)->name);
        st = trace_writer_str(w, key, act_quant_name(device_model_activation(d, 0, t->type)), err);
    }
    return st;
}

const char *capture_model_key(const Model *m, int i, char value[64]) {
    const Hparams *h = &m->h;
    static const char *const scaling[] = {"none", "linear", "yarn"};
    const struct {
        const char *key;
        double number;
        const char *word;  // instead of the number
    } keys[] = {{"model.architecture", 0, arch_name(h->arch)},
                {"model.n_layers", h->n_layers, NULL},
                {"model.dim", h->dim, NULL},
                {"model.ffn_dim", h->ffn_dim, NULL},
                {"model.n_vocab", h->n_vocab, NULL},
                {"model.n_heads", h->n_heads, NULL},
                {"model.n_kv_heads", h->n_kv_heads, NULL},
                {"model.head_dim", h->head_dim, NULL},
                {"model.n_ctx_train", h->n_ctx_train, NULL},
                {"model.rms_eps", (double)h->rms_eps, NULL},
                {"model.n_rot", h->n_rot, NULL},
                {"model.rope_base", (double)h->rope_base, NULL},
                {"model.rope_factor", (double)h->rope_factor, NULL},
                {"model.rope_pairing", 0, h->rope_pairing == ROPE_NORM ? "norm" : "neox"},
                {"model.rope_scaling", 0, scaling[h->rope_scaling]},
                {"model.rope_freqs", 0, m->rope_freqs ? "yes" : "no"},
                {"model.tied_output", 0, m->tied ? "yes" : "no"}};
    if (i < 0 || i >= (int)(sizeof keys / sizeof *keys)) return NULL;
    if (keys[i].word)
        snprintf(value, 64, "%s", keys[i].word);
    else
        snprintf(value, 64, "%.9g", keys[i].number);
    return keys[i].key;
}

static Status describe_model(TraceWriter *w, const Model *m, Error *err) {
    char value[64];
    const char *key;
    Status st = OK;
    for (int i = 0; !st && (key = capture_model_key(m, i, value)); i++) {
        st = trace_writer_str(w, key, value, err);
    }
    return st;
}

Status capture_describe(TraceWriter *w, const DeviceModel *d, TensorType type_k, TensorType type_v,
                        Error *err) {
    char sha[65];
    Status st = capture_model_sha256(d->model->gguf, sha, err);
    const struct {
        const char *key, *text;
    } texts[] = {{"model_sha256", sha},
                 {"qk_layout", "gguf"},
                 {"backend", device_model_backend(d)},
                 {"device", device_model_device(d)},
                 {"kv_type_k", type_info(type_k)->name},
                 {"kv_type_v", type_info(type_v)->name},
                 {"build", "plumb " PLUMB_VERSION}};
    for (size_t i = 0; !st && i < sizeof texts / sizeof *texts; i++) {
        st = trace_writer_str(w, texts[i].key, texts[i].text, err);
    }
    if (!st) st = describe_activation(w, d, err);
    return st ? st : describe_model(w, d->model, err);
}
