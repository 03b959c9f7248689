// A model: tensors bound by name to the layers that use them, each shape checked once.
//
// This file owns: which tensors an architecture has, their shapes, and what a file with missing,
// misshapen or unused ones is told. Names:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. It leaves to others: hyperparameters
// (hparams.c), whether data lie in the file (formats/gguf.c).
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/hparams.h"

enum { NAME_BYTES = 80, SHAPE_BYTES = 96 };

// Sizes by role; NONE as the rows makes a vector.
typedef enum { NONE, DIM, FFN, Q_WIDTH, KV_WIDTH, HEAD } Size;

enum {  // sets of architectures
    LLAMA = 1 << ARCH_LLAMA,
    QWEN2 = 1 << ARCH_QWEN2,
    QWEN3 = 1 << ARCH_QWEN3,
    ALL = LLAMA | QWEN2 | QWEN3,
};

typedef struct {
    const char *name;
    size_t slot;  // offset in LayerWeights
    Size inputs, rows;
    unsigned required, allowed;  // sets of architectures
} LayerTensor;

static const LayerTensor layer_tensors[] = {
    {"attn_norm.weight", offsetof(LayerWeights, attn_norm), DIM, NONE, ALL, ALL},
    {"attn_q.weight", offsetof(LayerWeights, q), DIM, Q_WIDTH, ALL, ALL},
    {"attn_k.weight", offsetof(LayerWeights, k), DIM, KV_WIDTH, ALL, ALL},
    {"attn_v.weight", offsetof(LayerWeights, v), DIM, KV_WIDTH, ALL, ALL},
    {"attn_q.bias", offsetof(LayerWeights, q_bias), Q_WIDTH, NONE, QWEN2, ALL},
    {"attn_k.bias", offsetof(LayerWeights, k_bias), KV_WIDTH, NONE, QWEN2, ALL},
    {"attn_v.bias", offsetof(LayerWeights, v_bias), KV_WIDTH, NONE, QWEN2, ALL},
    {"attn_q_norm.weight", offsetof(LayerWeights, q_norm), HEAD, NONE, QWEN3, QWEN3},
    {"attn_k_norm.weight", offsetof(LayerWeights, k_norm), HEAD, NONE, QWEN3, QWEN3},
    {"attn_output.weight", offsetof(LayerWeights, attn_out), Q_WIDTH, DIM, ALL, ALL},
    {"attn_output.bias", offsetof(LayerWeights, attn_out_bias), DIM, NONE, 0, ALL},
    {"ffn_norm.weight", offsetof(LayerWeights, ffn_norm), DIM, NONE, ALL, ALL},
    {"ffn_gate.weight", offsetof(LayerWeights, ffn_gate), DIM, FFN, ALL, ALL},
    {"ffn_up.weight", offsetof(LayerWeights, ffn_up), DIM, FFN, ALL, ALL},
    {"ffn_down.weight", offsetof(LayerWeights, ffn_down), FFN, DIM, ALL, ALL},
    {"ffn_gate.bias", offsetof(LayerWeights, ffn_gate_bias), FFN, NONE, 0, ALL},
    {"ffn_up.bias", offsetof(LayerWeights, ffn_up_bias), FFN, NONE, 0, ALL},
    {"ffn_down.bias", offsetof(LayerWeights, ffn_down_bias), DIM, NONE, 0, ALL},
};
enum { N_LAYER_TENSORS = sizeof layer_tensors / sizeof *layer_tensors };

static uint64_t size_of(const Hparams *h, Size size) {
    switch (size) {
        case NONE: return 1;
        case DIM: return (uint64_t)h->dim;
        case FFN: return (uint64_t)h->ffn_dim;
        case Q_WIDTH: return (uint64_t)h->n_heads * (uint64_t)h->head_dim;
        case KV_WIDTH: return (uint64_t)h->n_kv_heads * (uint64_t)h->head_dim;
        case HEAD: return (uint64_t)h->head_dim;
    }
    return 0;
}

// Every bound tensor once, in the order of binding; what is not here is unused.
typedef struct {
    const Tensor **tensors;
    size_t n, cap;
} Bound;

static const char *shape_text(int n_dims, const uint64_t *dims, char out[SHAPE_BYTES]) {
    int at = snprintf(out, SHAPE_BYTES, "[");
    for (int i = 0; i < n_dims; i++) {
        at += snprintf(out + at, SHAPE_BYTES - (size_t)at, "%s%llu", i ? ", " : "",
                       (unsigned long long)dims[i]);
    }
    snprintf(out + at, SHAPE_BYTES - (size_t)at, "]");
    return out;
}

static Status check_shape(const Gguf *g, const Tensor *t, int n_dims, const uint64_t dims[2],
                          Error *err) {
    // Writers drop a trailing 1, so fewer dims than expected are fine where the sizes agree.
    bool same = t->n_dims <= n_dims && t->dims[0] == dims[0] && t->dims[1] == dims[1];
    char want[SHAPE_BYTES], have[SHAPE_BYTES], type[32];
    if (!same) {
        return error_set(err, ERR_FILE, "%s: tensor %s at byte %llu has shape %s, expected %s",
                         gguf_path(g), t->name, (unsigned long long)t->offset,
                         shape_text(t->n_dims, t->dims, have), shape_text(n_dims, dims, want));
    }
    if (!type_info(t->type)) {
        return error_set(err, ERR_FILE, "%s: tensor %s has type %s, which is not supported",
                         gguf_path(g), t->name, type_name(t->type, type, NULL));
    }
    return OK;
}

// Finds a tensor of the given inputs and rows (1 row and n_dims 1: a vector); absent is NULL or,
// when required, an error.
static Status bind(Model *m, Bound *bound, const char *name, bool required, int n_dims,
                   uint64_t inputs, uint64_t rows, const Tensor **out, Error *err) {
    const uint64_t dims[2] = {inputs, rows};
    char want[SHAPE_BYTES];
    const Tensor *t = gguf_tensor(m->gguf, name);
    *out = NULL;
    if (!t && !required) return OK;
    if (!t) {
        return error_set(err, ERR_FILE,
                         "%s: tensor %s is missing, expected one of shape %s (%s with %d layers)",
                         gguf_path(m->gguf), name, shape_text(n_dims, dims, want),
                         arch_name(m->h.arch), m->h.n_layers);
    }
    Status st = check_shape(m->gguf, t, n_dims, dims, err);
    if (st) return st;
    CHECK(bound->n < bound->cap);
    bound->tensors[bound->n++] = t;
    m->weight_bytes += t->bytes;
    m->n_params += inputs * rows;
    *out = t;
    return OK;
}

static Status bind_layer(Model *m, Bound *bound, int layer, Error *err) {
    for (size_t i = 0; i < N_LAYER_TENSORS; i++) {
        const LayerTensor *lt = &layer_tensors[i];
        unsigned arch = 1u << m->h.arch;
        if (!(lt->allowed & arch)) continue;
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "blk.%d.%s", layer, lt->name);
        const Tensor *t;
        Status st = bind(m, bound, name, lt->required & arch, lt->rows == NONE ? 1 : 2,
                         size_of(&m->h, lt->inputs), size_of(&m->h, lt->rows), &t, err);
        if (st) return st;
        memcpy((char *)&m->layers[layer] + lt->slot, &t, sizeof t);
    }
    return OK;
}

// rope_freqs.weight: Llama 3's divisors of the rotary frequencies, so none may be 0.
static Status bind_rope_freqs(Model *m, Bound *bound, Error *err) {
    static const char *const longrope[] = {"rope_factors_long.weight", "rope_factors_short.weight"};
    for (int i = 0; i < 2; i++) {
        if (!gguf_tensor(m->gguf, longrope[i])) continue;
        return error_set(err, ERR_FILE, "%s: tensor %s: longrope scaling is not supported",
                         gguf_path(m->gguf), longrope[i]);
    }
    uint64_t n = (uint64_t)m->h.n_rot / 2;
    Status st = bind(m, bound, "rope_freqs.weight", false, 1, n, 1, &m->rope_freqs, err);
    if (st || !m->rope_freqs) return st;
    const Tensor *t = m->rope_freqs;
    if (t->type != TYPE_F32) {
        char type[32];
        return error_set(err, ERR_FILE, "%s: tensor %s has type %s, expected F32",
                         gguf_path(m->gguf), t->name, type_name(t->type, type, NULL));
    }
    for (uint64_t i = 0; i < n; i++) {
        float x;
        dequantize(t->type, t->data + i * sizeof x, &x, 1);
        if (x > 0 && isfinite(x)) continue;
        return error_set(err, ERR_FILE,
                         "%s: tensor %s at byte %llu: divisor %llu is %g, expected a "
                         "number above 0",
                         gguf_path(m->gguf), t->name,
                         (unsigned long long)(t->offset + i * sizeof x), (unsigned long long)i,
                         (double)x);
    }
    return OK;
}

static Status check_vocab(const Model *m, Notice notice, Error *err) {
    const Gguf *g = m->gguf;
    uint64_t rows = m->token_embd->dims[1];
    const GgufValue *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    if (tokens && tokens->type == GGUF_ARRAY && tokens->n > rows) {
        return error_set(
            err, ERR_FILE,
            "%s: tokenizer.ggml.tokens has %llu tokens, but token_embd.weight has only "
            "%llu rows",
            gguf_path(g), (unsigned long long)tokens->n, (unsigned long long)rows);
    }
    char key[NAME_BYTES];
    snprintf(key, sizeof key, "%s.vocab_size", arch_name(m->h.arch));
    uint32_t said = 0;
    bool found = false;
    Status st = gguf_get_u32(g, key, &said, &found, err);
    if (st) return st;
    if (found && said != rows) {
        notice_say(notice, "%s is %u, token_embd.weight has %llu rows: the rows count", key, said,
                   (unsigned long long)rows);
    }
    return OK;
}

static Status bind_embedding(Model *m, Bound *bound, Notice notice, Error *err) {
    const Gguf *g = m->gguf;
    const Tensor *t = gguf_tensor(g, "token_embd.weight");
    if (t && (t->dims[1] > MODEL_MAX_VOCAB)) {
        return error_set(err, ERR_FILE, "%s: tensor %s has %llu rows, expected 1 to %d",
                         gguf_path(g), t->name, (unsigned long long)t->dims[1], MODEL_MAX_VOCAB);
    }
    uint64_t dim = (uint64_t)m->h.dim, rows = t ? t->dims[1] : (uint64_t)m->h.n_vocab;
    Status st = bind(m, bound, "token_embd.weight", true, 2, dim, rows, &m->token_embd, err);
    if (st) return st;
    m->h.n_vocab = (int)rows;
    st = check_vocab(m, notice, err);
    if (st) return st;
    st = bind(m, bound, "output_norm.weight", true, 1, dim, 1, &m->output_norm, err);
    if (st) return st;
    st = bind(m, bound, "output.weight", false, 2, dim, rows, &m->output, err);
    if (st) return st;
    m->tied = !m->output;
    if (m->tied) m->output = m->token_embd;
    return OK;
}

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t) * (const Tensor *const *)a,
              y = (uintptr_t) * (const Tensor *const *)b;
    return (x > y) - (x < y);
}

// Tables of old converters that say nothing that the hyperparameters do not.
static bool is_harmless(const char *name) {
    size_t len = strlen(name);
    static const char *const ends[] = {".attn_rot_embd", ".attn_rot_embd.weight", "rope.freqs",
                                       "rotary_emb.inv_freq"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (len >= n && strcmp(name + len - n, ends[i]) == 0) return true;
    }
    return false;
}

static void say_unused(const Model *m, Bound *bound, Notice notice) {
    qsort(bound->tensors, bound->n, sizeof *bound->tensors, by_address);
    size_t n = 0;
    const char *first = NULL;
    for (size_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const Tensor *t = gguf_tensor_at(m->gguf, i);
        if (bsearch(&t, bound->tensors, bound->n, sizeof t, by_address)) continue;
        if (is_harmless(t->name)) continue;
        if (n++ == 0) first = t->name;
    }
    if (n == 0) return;
    notice_say(notice,
               "%zu tensor%s of the file %s not used by the architecture %s, the first is %s", n,
               n == 1 ? "" : "s", n == 1 ? "is" : "are", arch_name(m->h.arch), first);
}

static Status bind_all(Model *m, Bound *bound, Notice notice, Error *err) {
    Status st = bind_embedding(m, bound, notice, err);
    for (int l = 0; l < m->h.n_layers && !st; l++) st = bind_layer(m, bound, l, err);
    if (!st) st = bind_rope_freqs(m, bound, err);
    if (st) return st;
    m->decode_bytes = m->weight_bytes - (m->tied ? 0 : m->token_embd->bytes);
    say_unused(m, bound, notice);
    return gguf_fault(m->gguf, err);
}

Status model_bind(const Gguf *g, Notice notice, Model **out, Error *err) {
    *out = NULL;
    Hparams h;
    Status st = hparams_read(g, notice, &h, err);
    if (st) return st;
    if (gguf_n_tensors(g) == 0) {
        return error_set(err, ERR_FILE,
                         "%s: the file has no tensors: it is a vocabulary only, not a model",
                         gguf_path(g));
    }
    Model *m = calloc(1, sizeof *m);
    Bound bound = {.cap = 4 + (size_t)h.n_layers * N_LAYER_TENSORS};
    bound.tensors = calloc(bound.cap, sizeof *bound.tensors);
    LayerWeights *layers = calloc((size_t)h.n_layers, sizeof *layers);
    if (m && layers && bound.tensors) {
        m->h = h, m->gguf = g, m->layers = layers;
        st = bind_all(m, &bound, notice, err);
    } else {
        st = error_memory(err, "the model's tables", bound.cap * sizeof *bound.tensors);
        free(layers);
    }
    free(bound.tensors);
    if (st) {
        model_free(m);
        return st;
    }
    *out = m;
    return OK;
}

void model_free(Model *m) {
    if (!m) return;
    free(m->layers);
    free(m);
}

static Status check_tensor_values(const Gguf *g, const Tensor *t, float *row, Error *err) {
    uint64_t rows = t->dims[1], n = t->dims[0], row_bytes = t->bytes / rows;
    for (uint64_t i = 0; i < rows; i++) {
        dequantize(t->type, t->data + i * row_bytes, row, n);
        for (uint64_t j = 0; j < n; j++) {
            if (isfinite(row[j])) continue;
            return error_set(
                err, ERR_FILE,
                "%s: tensor %s, row %llu (at byte %llu): weight %llu is %s, expected a "
                "finite number (is the file damaged?)",
                gguf_path(g), t->name, (unsigned long long)i,
                (unsigned long long)(t->offset + i * row_bytes), (unsigned long long)j,
                isnan(row[j]) ? "NaN" : "infinite");
        }
    }
    return OK;
}

Status model_check_values(const Model *m, Error *err) {
    const Hparams *h = &m->h;
    int widest = h->dim > h->ffn_dim ? h->dim : h->ffn_dim;
    if (h->n_heads * h->head_dim > widest) widest = h->n_heads * h->head_dim;
    float *row = malloc((size_t)widest * sizeof *row);
    if (!row) return error_memory(err, "a row of weights", (size_t)widest * sizeof *row);
    const Tensor *ends[] = {m->token_embd, m->output_norm, m->tied ? NULL : m->output,
                            m->rope_freqs};
    Status st = OK;
    for (int i = 0; i < 4 && !st; i++) {
        if (ends[i]) st = check_tensor_values(m->gguf, ends[i], row, err);
    }
    for (int l = 0; l < h->n_layers && !st; l++) {
        for (size_t i = 0; i < N_LAYER_TENSORS && !st; i++) {
            const Tensor *t;
            memcpy(&t, (char *)&m->layers[l] + layer_tensors[i].slot, sizeof t);
            if (t) st = check_tensor_values(m->gguf, t, row, err);
        }
    }
    free(row);
    return st ? st : gguf_fault(m->gguf, err);
}
