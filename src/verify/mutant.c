// The mutant: one Llama-family pass in float32 with switchable faults; see fault.h.
//
// This file owns: the walk through the layers, what is captured, norms, residuals, the activation.
// It computes in the captured arrays themselves: a component's rows are where the next one reads.
#include "verify/fault.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/mutant_internal.h"

// --- arrays -----------------------------------------------------------------------------------

static size_t width_of(const Hparams *h, Component c, size_t n) {
    const size_t q = (size_t)h->n_heads * (size_t)h->head_dim;
    const size_t kv = (size_t)h->n_kv_heads * (size_t)h->head_dim;
    switch (c) {
        case COMP_Q:
        case COMP_Q_NORM:
        case COMP_Q_ROPE:
        case COMP_ATTN: return q;
        case COMP_K:
        case COMP_V:
        case COMP_K_NORM:
        case COMP_K_ROPE:
        case COMP_K_CACHE:
        case COMP_V_CACHE: return kv;
        case COMP_KQ:
        case COMP_KQ_SOFT_MAX: return n;
        case COMP_FFN_GATE:
        case COMP_FFN_UP:
        case COMP_FFN_ACT: return (size_t)h->ffn_dim;
        case COMP_LOGITS:
        case COMP_PROBS: return (size_t)h->n_vocab;
        default: return (size_t)h->dim;
    }
}

static bool is_captured(const Mutant *mu, Component c, int layer, bool probs) {
    switch (c) {
        case COMP_Q_NORM: return mu->m->layers[layer].q_norm;
        case COMP_K_NORM: return mu->m->layers[layer].k_norm;
        case COMP_KQ:
        case COMP_KQ_SOFT_MAX: return mu->o->scores;
        case COMP_K_CACHE:
        case COMP_V_CACHE: return mu->o->cache;
        case COMP_PROBS: return probs;
        case COMP_TOKEN: return false;
        default: return true;
    }
}

static Status add_array(Mutant *mu, Component c, int layer, TracePrompt *out) {
    const Hparams *h = &mu->m->h;
    const size_t width = width_of(h, c, mu->n);
    size_t rows = c == COMP_PROBS ? 1 : mu->n;
    if (component_is_scores(c)) rows *= (size_t)h->n_heads;
    float *x = calloc(rows * width, sizeof *x);
    if (!x) return error_memory(mu->err, component_name(c), rows * width * sizeof *x);
    mu->at[(size_t)(layer + 1) * N_COMPONENTS + c] = x;
    out->arrays[out->n_arrays++] = (TraceArray){.ref = {c, layer},
                                                .x = x,
                                                .rows = rows,
                                                .width = width,
                                                .first_row = c == COMP_PROBS ? mu->n - 1 : 0,
                                                .source = component_name(c)};
    return OK;
}

// In the order of the pass, as a TracePrompt has them.
static Status add_arrays(Mutant *mu, bool probs, TracePrompt *out) {
    const size_t most = ((size_t)mu->m->h.n_layers + 1) * N_COMPONENTS;
    mu->at = arena_alloc(&mu->arena, most, sizeof *mu->at);
    out->arrays = calloc(most, sizeof *out->arrays);
    if (!mu->at || !out->arrays) return error_memory(mu->err, "a trace", most * sizeof(TraceArray));
    Status st = add_array(mu, COMP_EMBD, -1, out);
    for (int l = 0; l < mu->m->h.n_layers; l++) {
        for (Component c = COMP_ATTN_NORM; !st && c <= COMP_L_OUT; c++) {
            if (is_captured(mu, c, l, probs)) st = add_array(mu, c, l, out);
        }
    }
    for (Component c = COMP_NORM; !st && c < N_COMPONENTS; c++) {
        if (is_captured(mu, c, -1, probs)) st = add_array(mu, c, -1, out);
    }
    return st;
}

// Room for products of `rows` rows and for the cache.
static Status add_rooms(Mutant *mu, size_t rows) {
    const Hparams *h = &mu->m->h;
    size_t widest = 0;
    for (Component c = 0; c < N_COMPONENTS; c++) {
        const size_t width = component_is_scores(c) ? 0 : width_of(h, c, mu->n);
        widest = width > widest ? width : widest;
    }
    widest = padded(widest);
    const size_t kv = width_of(h, COMP_K, mu->n), n = mu->n;
    mu->n_slots = n + 1;
    const size_t cache = (size_t)h->n_layers * mu->n_slots * kv;
    const size_t rounding = rows * widest > n ? rows * widest : n;
    mu->row = arena_alloc(&mu->arena, widest, sizeof(float));
    mu->x = arena_alloc(&mu->arena, rows * widest, sizeof(float));
    mu->rounding = arena_alloc(&mu->arena, rounding, sizeof(double));
    mu->scores = arena_alloc(&mu->arena, 2 * n, sizeof(float));
    bool ok = mu->row && mu->x && mu->rounding && mu->scores;
    for (int i = 0; i < 2; i++) {
        mu->k[i] = arena_alloc(&mu->arena, cache, sizeof(float));
        mu->v[i] = arena_alloc(&mu->arena, cache, sizeof(float));
        ok = ok && mu->k[i] && mu->v[i];
    }
    if (!ok) return error_memory(mu->err, "the mutant's cache", 4 * cache * sizeof(float));
    return mutant_frequencies(mu);
}

// --- components -------------------------------------------------------------------------------

static void norm_row(const Mutant *mu, Component c, const float *x, size_t n, const float *w,
                     float *y) {
    double eps = (double)mu->m->h.rms_eps;
    if (faulty(mu, FAULT_NORM_EPS, 0)) eps = mu->m->h.rms_eps == 1e-6f ? 1e-5 : 1e-6;
    float mean = 0;
    for (size_t i = 0; i < n && faulty(mu, FAULT_NORM_MEAN, 0); i++) mean += x[i] / (float)n;
    for (size_t i = 0; i < n; i++) y[i] = x[i] - mean;
    const int times = faulty(mu, FAULT_NORM_TWICE, 0) ? 2 : 1;
    for (int k = 0; k < times; k++) {
        double square = 0;  // engines sum squares in double too: it costs them nothing
        for (size_t i = 0; i < n; i++) square += (double)y[i] * (double)y[i];
        if (!faulty(mu, FAULT_NORM_SUM, 0)) square /= (double)n;
        const bool outside = faulty(mu, FAULT_NORM_EPS_OUTSIDE, 0);
        const double scale = outside ? 1 / (sqrt(square) + eps) : 1 / sqrt(square + eps);
        for (size_t i = 0; i < n; i++) y[i] = (float)((double)y[i] * scale);
    }
    if (faulty(mu, FAULT_NORM_NO_WEIGHT, 0) || faulty(mu, FAULT_NORM_NO_WEIGHT, (int)c)) return;
    for (size_t i = 0; i < n; i++) y[i] *= w[i];
}

// rows of n values, a head's in q_norm and k_norm.
static void norm(Mutant *mu, Component c, const float *x, size_t rows, const Tensor *weight,
                 float *y) {
    const size_t n = (size_t)weight->dims[0];
    mutant_decode(0, weight->type, weight->data, mu->row, n);
    for (size_t r = 0; r < rows; r++) norm_row(mu, c, x + r * n, n, mu->row, y + r * n);
    mutant_store(mu, y, rows * n);
}

static double activated(const Mutant *mu, double x) {
    if (faulty(mu, FAULT_GELU, GELU_EXACT)) return 0.5 * x * (1 + erf(x * 0.70710678118654752));
    if (faulty(mu, FAULT_GELU, GELU_TANH)) {
        return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    }
    if (faulty(mu, FAULT_GELU, GELU_QUICK)) return x / (1 + exp(-1.702 * x));
    return x / (1 + exp(-x));
}

static void swiglu(const Mutant *mu, const float *gate, const float *up, size_t rows, size_t n,
                   float *y) {
    size_t width = n;
    // An engine that has one width for all takes dim: what lies behind it is never written.
    if (faulty(mu, FAULT_ACT_WIDTH, 0)) width = (size_t)mu->m->h.dim < n ? (size_t)mu->m->h.dim : n;
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = r * n; i < r * n + width; i++) {
            const bool on_up = faulty(mu, FAULT_ACT_ON_UP, 0);
            const float a = (float)activated(mu, (double)(on_up ? up[i] : gate[i]));
            const float b = on_up ? gate[i] : up[i];
            y[i] = faulty(mu, FAULT_ACT_SUM, 0) ? a + b : a * b;
        }
    }
    mutant_store(mu, y, rows * n);
}

// y = x + branch, rows of dim; normed: what the branch read.
static void add_residual(const Mutant *mu, Component c, const float *x, const float *normed,
                         const float *branch, float *y) {
    const size_t n = mu->rows * (size_t)mu->m->h.dim;
    if (faulty(mu, FAULT_RESIDUAL_NORMED, (int)c)) x = normed;
    for (size_t i = 0; i < n; i++) {
        y[i] = faulty(mu, FAULT_RESIDUAL_SKIPPED, (int)c) ? branch[i] : x[i] + branch[i];
        if (!faulty(mu, FAULT_RESIDUAL_CLIPPED, 0)) continue;
        y[i] = y[i] > 10 ? 10 : y[i] < -10 ? -10 : y[i];
    }
    mutant_store(mu, y, n);
}

// --- layers -----------------------------------------------------------------------------------

// Where this evaluation's rows of a component are.
static float *rows_at(const Mutant *mu, Component c, int layer) {
    return mutant_at(mu, c, layer, mu->from, width_of(&mu->m->h, c, mu->n));
}

typedef struct {
    const Tensor *w, *bias;
} Pair;

static Pair weights_at(const Mutant *mu, Component c, int layer) {
    if (layer > 0 && faulty(mu, FAULT_LAYER_BEFORE, (int)c)) layer--;
    const LayerWeights *w = &mu->m->layers[layer];
    if (faulty(mu, FAULT_KV_EXCHANGED, 0) && (c == COMP_K || c == COMP_V)) {
        c = c == COMP_K ? COMP_V : COMP_K;
    }
    switch (c) {
        case COMP_Q: return (Pair){w->q, w->q_bias};
        case COMP_K: return (Pair){w->k, w->k_bias};
        case COMP_V: return (Pair){w->v, w->v_bias};
        case COMP_ATTN_OUT: return (Pair){w->attn_out, w->attn_out_bias};
        case COMP_FFN_GATE: return (Pair){w->ffn_gate, w->ffn_gate_bias};
        case COMP_FFN_UP: return (Pair){w->ffn_up, w->ffn_up_bias};
        default: return (Pair){w->ffn_down, w->ffn_down_bias};
    }
}

// Component c from component `in` of the same layer.
static Status project(Mutant *mu, Component c, Component in, int layer) {
    const Pair p = weights_at(mu, c, layer);
    return mutant_product(mu, (ComponentRef){c, layer}, p.w, p.bias, rows_at(mu, in, layer),
                          rows_at(mu, c, layer));
}

static void norm_heads(Mutant *mu, Component c, Component in, int layer, const Tensor *weight,
                       int n_heads) {
    if (!weight) return;
    norm(mu, c, rows_at(mu, in, layer), mu->rows * (size_t)n_heads, weight, rows_at(mu, c, layer));
}

static void rotate(Mutant *mu, Component c, Component in, int layer, int n_heads) {
    const size_t n = mu->rows * width_of(&mu->m->h, c, mu->n);
    float *y = memcpy(rows_at(mu, c, layer), rows_at(mu, in, layer), n * sizeof *y);
    if (c == COMP_K_ROPE && faulty(mu, FAULT_ROPE_NO_KEYS, 0)) return;
    mutant_rotate(mu, c, y, n_heads);
    mutant_store(mu, y, n);
}

static Status attention_block(Mutant *mu, int layer, const float *stream) {
    const Hparams *h = &mu->m->h;
    const LayerWeights *w = &mu->m->layers[layer];
    const bool exchanged = faulty(mu, FAULT_NORM_EXCHANGED, 0);
    norm(mu, COMP_ATTN_NORM, stream, mu->rows, exchanged ? w->ffn_norm : w->attn_norm,
         rows_at(mu, COMP_ATTN_NORM, layer));
    Status st = project(mu, COMP_Q, COMP_ATTN_NORM, layer);
    if (!st) st = project(mu, COMP_K, COMP_ATTN_NORM, layer);
    if (!st) st = project(mu, COMP_V, COMP_ATTN_NORM, layer);
    if (st) return st;
    norm_heads(mu, COMP_Q_NORM, COMP_Q, layer, w->q_norm, h->n_heads);
    norm_heads(mu, COMP_K_NORM, COMP_K, layer, w->k_norm, h->n_kv_heads);
    rotate(mu, COMP_Q_ROPE, w->q_norm ? COMP_Q_NORM : COMP_Q, layer, h->n_heads);
    rotate(mu, COMP_K_ROPE, w->k_norm ? COMP_K_NORM : COMP_K, layer, h->n_kv_heads);
    mutant_cache_write(mu, layer);
    mutant_attend(mu, layer);
    if (faulty(mu, FAULT_NO_PROJECTION, 0)) {
        const size_t dim = (size_t)h->dim, width = width_of(h, COMP_ATTN, mu->n);
        const float *in = rows_at(mu, COMP_ATTN, layer);
        float *out = rows_at(mu, COMP_ATTN_OUT, layer);
        for (size_t r = 0; r < mu->rows; r++) {
            memcpy(out + r * dim, in + r * width, (dim < width ? dim : width) * sizeof *out);
        }
    } else {
        st = project(mu, COMP_ATTN_OUT, COMP_ATTN, layer);
    }
    add_residual(mu, COMP_FFN_INP, stream, rows_at(mu, COMP_ATTN_NORM, layer),
                 rows_at(mu, COMP_ATTN_OUT, layer), rows_at(mu, COMP_FFN_INP, layer));
    return st;
}

static Status ffn_block(Mutant *mu, int layer) {
    const LayerWeights *w = &mu->m->layers[layer];
    const bool exchanged = faulty(mu, FAULT_NORM_EXCHANGED, 0);
    norm(mu, COMP_FFN_NORM, rows_at(mu, COMP_FFN_INP, layer), mu->rows,
         exchanged ? w->attn_norm : w->ffn_norm, rows_at(mu, COMP_FFN_NORM, layer));
    Status st = project(mu, COMP_FFN_GATE, COMP_FFN_NORM, layer);
    if (!st) st = project(mu, COMP_FFN_UP, COMP_FFN_NORM, layer);
    if (st) return st;
    swiglu(mu, rows_at(mu, COMP_FFN_GATE, layer), rows_at(mu, COMP_FFN_UP, layer), mu->rows,
           (size_t)mu->m->h.ffn_dim, rows_at(mu, COMP_FFN_ACT, layer));
    st = project(mu, COMP_FFN_OUT, COMP_FFN_ACT, layer);
    add_residual(mu, COMP_L_OUT, rows_at(mu, COMP_FFN_INP, layer),
                 rows_at(mu, COMP_FFN_NORM, layer), rows_at(mu, COMP_FFN_OUT, layer),
                 rows_at(mu, COMP_L_OUT, layer));
    return st;
}

static Status head(Mutant *mu, const float *stream) {
    const size_t dim = (size_t)mu->m->h.dim, n_vocab = (size_t)mu->m->h.n_vocab;
    float *normed = rows_at(mu, COMP_NORM, -1), *logits = rows_at(mu, COMP_LOGITS, -1);
    if (faulty(mu, FAULT_NO_FINAL_NORM, 0))
        memcpy(normed, stream, mu->rows * dim * sizeof *normed);
    else
        norm(mu, COMP_NORM, stream, mu->rows, mu->m->output_norm, normed);
    if (faulty(mu, FAULT_NO_HEAD, 0)) {  // what is taken for logits ends where the stream does
        for (size_t r = 0; r < mu->rows; r++) {
            memcpy(logits + r * n_vocab, normed + r * dim,
                   (dim < n_vocab ? dim : n_vocab) * sizeof *logits);
        }
        return OK;
    }
    const Tensor *w = faulty(mu, FAULT_HEAD_TIED, 0) ? mu->m->token_embd : mu->m->output;
    const ComponentRef ref = {COMP_LOGITS, -1};
    if (!faulty(mu, FAULT_HEAD_BEFORE, 0)) return mutant_product(mu, ref, w, NULL, normed, logits);
    float *before = malloc(mu->rows * dim * sizeof *before);
    if (!before) return error_memory(mu->err, "rows", mu->rows * dim * sizeof *before);
    for (size_t r = 0; r < mu->rows; r++) {  // the first has none before it
        const float *from = mu->from + r > 0 ? normed + r * dim - dim : normed;
        memcpy(before + r * dim, from, dim * sizeof *before);
    }
    const Status st = mutant_product(mu, ref, w, NULL, before, logits);
    free(before);
    return st;
}

static Status evaluate(Mutant *mu) {
    const size_t dim = (size_t)mu->m->h.dim;
    float *stream = rows_at(mu, COMP_EMBD, -1);
    for (size_t r = 0; r < mu->rows; r++) {
        mutant_embed(mu, mu->tokens[mu->from + r], stream + r * dim);
    }
    mutant_store(mu, stream, mu->rows * dim);
    for (int l = 0; l < mu->m->h.n_layers; l++) {
        Status st = attention_block(mu, l, stream);
        if (!st) st = ffn_block(mu, l);
        if (st) return st;
        stream = rows_at(mu, COMP_L_OUT, l);
    }
    return head(mu, stream);
}

// --- a run ------------------------------------------------------------------------------------

static const size_t *chunks_of(const MutantOptions *o, const size_t *all, size_t *n) {
    *n = o->chunks ? o->n_chunks : 1;
    return o->chunks ? o->chunks : all;
}

static Status check(const Model *m, const int32_t *tokens, size_t n, const MutantOptions *o,
                    size_t *most, Error *err) {
    size_t sum = 0, n_chunks;
    const size_t *chunks = chunks_of(o, &n, &n_chunks);
    *most = 0;
    if (n == 0 || n > MODEL_MAX_CONTEXT) {
        return error_set(err, ERR_USAGE, "a mutant was given %zu tokens, expected 1 to %d", n,
                         MODEL_MAX_CONTEXT);
    }
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] >= 0 && tokens[i] < m->h.n_vocab) continue;
        return error_set(err, ERR_USAGE, "token %zu is %d, expected 0 to %d", i, tokens[i],
                         m->h.n_vocab - 1);
    }
    for (size_t i = 0; i < n_chunks && sum <= n; i++) {
        sum = chunks[i] == 0 || chunks[i] > n ? n + 1 : sum + chunks[i];
        *most = chunks[i] > *most ? chunks[i] : *most;
    }
    if (sum != n) {
        return error_set(err, ERR_USAGE, "chunks of a prompt must sum to its %zu tokens", n);
    }
    const size_t kv = width_of(&m->h, COMP_K, n);
    if ((o->attn.k == TYPE_Q8_0 || o->attn.v == TYPE_Q8_0) && kv % 32) {
        return error_set(err, ERR_USAGE, "a cache of Q8_0 needs rows of blocks of 32, not of %zu",
                         kv);
    }
    return OK;
}

// What the other sequence of the same cache has left there.
static Status fill_other(Mutant *mu) {
    const size_t n = mu->o->other ? mu->o->n_other : mu->n, kv = width_of(&mu->m->h, COMP_K, n);
    MutantOptions o = {.act = mu->o->act, .attn = mu->o->attn, .out = mu->o->out, .cache = true};
    TracePrompt p = {0};
    int32_t *backwards = malloc(mu->n * sizeof *backwards);
    if (!backwards) return error_memory(mu->err, "tokens", mu->n * sizeof *backwards);
    for (size_t i = 0; i < mu->n; i++) backwards[i] = mu->tokens[mu->n - 1 - i];
    Status st = mutant_run(mu->m, mu->o->other ? mu->o->other : backwards, n, &o, &p, mu->err);
    for (size_t i = 0; !st && i < p.n_arrays; i++) {
        const TraceArray *a = &p.arrays[i];
        if (a->ref.c != COMP_K_CACHE && a->ref.c != COMP_V_CACHE) continue;
        float *to = a->ref.c == COMP_K_CACHE ? mu->k[1] : mu->v[1];
        memcpy(to + (size_t)a->ref.layer * mu->n_slots * kv, a->x,
               (n < mu->n_slots ? n : mu->n_slots) * kv * sizeof *to);
    }
    mutant_free(&p);
    free(backwards);
    return st;
}

static void switch_on(Mutant *mu) {
    for (int i = 0; i < MUTANT_FAULTS && mu->o->faults[i]; i++) {
        const Fault *f = mu->o->faults[i];
        mu->forms[f->code] |= 1u << f->argument;
    }
}

// What a fault of the sampler needs to be seen, where the caller does not say how to sample.
static TraceSampling sampling_of(const Mutant *mu) {
    TraceSampling s = {.given = true, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64};
    if (mu->o->sampling.given) return mu->o->sampling;
    if (faulty(mu, FAULT_TOP_K_ZERO, 0) || faulty(mu, FAULT_TEMPERATURE_TWICE, 0)) {
        s.temp = 2;
    } else if (faulty(mu, FAULT_PENALTY_SIGN, 0)) {
        s.temp = 2, s.repeat_penalty = 1.3;
    } else {
        s.given = faulty(mu, FAULT_TIES_LAST, 0);
    }
    return s;
}

static Status run(Mutant *mu, TracePrompt *out) {
    size_t n_chunks;
    const size_t *chunks = chunks_of(mu->o, &mu->n, &n_chunks);
    Status st = faulty(mu, FAULT_CACHE_SEQUENCE, 0) ? fill_other(mu) : OK;
    for (size_t i = 0; !st && i < n_chunks; i++) {
        mu->rows = chunks[i];
        st = evaluate(mu);
        mu->from += mu->rows;
    }
    if (st) return st;
    if (mu->o->cache) mutant_cache_read(mu);
    const size_t n_vocab = (size_t)mu->m->h.n_vocab;
    return mutant_sample(mu, &out->sampling, mutant_at(mu, COMP_LOGITS, -1, mu->n - 1, n_vocab),
                         mutant_at(mu, COMP_PROBS, -1, 0, n_vocab), &out->chosen);
}

Status mutant_run(const Model *m, const int32_t *tokens, size_t n, const MutantOptions *options,
                  TracePrompt *out, Error *err) {
    Mutant mu = {.m = m, .o = options, .err = err, .tokens = tokens, .n = n};
    size_t most;
    *out = (TracePrompt){.name = "", .chosen = -1};
    Status st = check(m, tokens, n, options, &most, err);
    if (st) return st;
    switch_on(&mu);
    out->sampling = sampling_of(&mu);
    int32_t *ids = malloc(n * sizeof *ids);
    if (!ids) return error_memory(err, "tokens", n * sizeof *ids);
    memcpy(ids, tokens, n * sizeof *ids);
    out->tokens = ids, out->n_tokens = n;
    st = add_arrays(&mu, out->sampling.given, out);
    if (!st) st = add_rooms(&mu, most);
    if (!st) st = run(&mu, out);
    arena_free(&mu.arena);
    free(mu.whole);
    if (st) mutant_free(out);
    return st;
}

void mutant_free(TracePrompt *p) {
    for (size_t i = 0; i < p->n_arrays; i++) free((void *)(uintptr_t)p->arrays[i].x);
    free(p->arrays);
    free((void *)(uintptr_t)p->tokens);
    *p = (TracePrompt){.name = "", .chosen = -1};
}
