// Tiny models with random weights, made so that no fault can hide in them; see fault.h.
//
// Weight i of tensor t is a function of (seed, t, i) in whole numbers, times a float: the same on
// every machine. All matrices lie in one allocation as a GGUF would have them: aligned to 32 bytes,
// with padding where a tensor ends elsewhere.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/fault.h"

enum { LAYERS = 2, PER_LAYER = 11, OTHERS = 4, ALIGNMENT = 32, NAME = 32 };

typedef struct {
    Model model;
    LayerWeights layers[LAYERS];
    Tensor tensors[LAYERS * PER_LAYER + OTHERS];
    char names[LAYERS * PER_LAYER + OTHERS][NAME];
    size_t n_tensors;
    TensorType type;
    uint64_t seed;
    uint8_t *data;  // all tensors
    uint64_t bytes;
    Status status;
    Error *err;
} Tiny;

// --- random numbers ---------------------------------------------------------------------------

static uint64_t mix(uint64_t z) {  // of splitmix64 (Steele, Lea & Flood 2014)
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t random_at(uint64_t key, uint64_t i) {
    return mix(key + (i + 1) * 0x9e3779b97f4a7c15u);
}

// Nearly normal, of standard deviation 1: the sum of four numbers of 16 bits.
static float normal_at(uint64_t key, uint64_t i) {
    const uint64_t z = random_at(key, i);
    const int32_t sum =
        (int32_t)((z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48));
    return (float)(sum - 131070) * (1 / 37837.0f);
}

// In [0, 1).
static float unit_at(uint64_t key, uint64_t i) {
    return (float)(random_at(key, i) >> 40) * 0x1p-24f;
}

// --- the plan ---------------------------------------------------------------------------------

static void add(Tiny *t, const Tensor **slot, const char *name, int layer, TensorType type,
                int inputs, int outputs) {
    Tensor *x = &t->tensors[t->n_tensors];
    char *text = t->names[t->n_tensors++];
    if (layer < 0)
        snprintf(text, NAME, "%s", name);
    else
        snprintf(text, NAME, "blk.%d.%s", layer, name);
    const TypeInfo *info = type_info(type);
    const uint64_t n = (uint64_t)inputs * (uint64_t)outputs;
    *x = (Tensor){.name = text,
                  .type = type,
                  .n_dims = outputs == 1 ? 1 : 2,
                  .dims = {(uint64_t)inputs, (uint64_t)outputs, 1, 1},
                  .bytes = n / info->block_len * info->block_bytes,
                  .offset = t->bytes};
    t->bytes = (t->bytes + x->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    t->model.weight_bytes += x->bytes;
    t->model.n_params += n;
    *slot = x;
}

static void plan_layer(Tiny *t, int l) {
    const Hparams *h = &t->model.h;
    LayerWeights *w = &t->layers[l];
    const int q = h->n_heads * h->head_dim, kv = h->n_kv_heads * h->head_dim;
    add(t, &w->q, "attn_q.weight", l, t->type, h->dim, q);
    add(t, &w->k, "attn_k.weight", l, t->type, h->dim, kv);
    add(t, &w->v, "attn_v.weight", l, t->type, h->dim, kv);
    add(t, &w->attn_out, "attn_output.weight", l, t->type, q, h->dim);
    add(t, &w->ffn_gate, "ffn_gate.weight", l, t->type, h->dim, h->ffn_dim);
    add(t, &w->ffn_up, "ffn_up.weight", l, t->type, h->dim, h->ffn_dim);
    add(t, &w->ffn_down, "ffn_down.weight", l, t->type, h->ffn_dim, h->dim);
    add(t, &w->attn_norm, "attn_norm.weight", l, TYPE_F32, h->dim, 1);
    add(t, &w->ffn_norm, "ffn_norm.weight", l, TYPE_F32, h->dim, 1);
    if (h->arch != ARCH_QWEN3) return;
    add(t, &w->q_norm, "attn_q_norm.weight", l, TYPE_F32, h->head_dim, 1);
    add(t, &w->k_norm, "attn_k_norm.weight", l, TYPE_F32, h->head_dim, 1);
}

// The table first: no padding stands before it, and blk.0.attn_q follows it.
static void plan(Tiny *t, bool tied, bool factors) {
    Model *m = &t->model;
    add(t, &m->token_embd, "token_embd.weight", -1, t->type, m->h.dim, m->h.n_vocab);
    for (int l = 0; l < LAYERS; l++) plan_layer(t, l);
    add(t, &m->output_norm, "output_norm.weight", -1, TYPE_F32, m->h.dim, 1);
    m->tied = tied;
    m->output = m->token_embd;
    if (!tied) add(t, &m->output, "output.weight", -1, t->type, m->h.dim, m->h.n_vocab);
    if (factors) add(t, &m->rope_freqs, "rope_freqs.weight", -1, TYPE_F32, m->h.n_rot / 2, 1);
    m->layers = t->layers;
    m->decode_bytes = m->weight_bytes - (tied ? 0 : m->token_embd->bytes);
}

// --- bytes of blocks --------------------------------------------------------------------------

// Where a block has halves that scale it; -1 ends.
static const int *halves_of(TensorType type) {
    static const int none[] = {-1}, first[] = {0, -1}, two[] = {0, 2, -1}, q2_k[] = {80, 82, -1},
                     q3_k[] = {108, -1}, q6_k[] = {208, -1};
    switch (type) {
        case TYPE_F16:
        case TYPE_Q4_0:
        case TYPE_Q5_0:
        case TYPE_Q8_0:
        case TYPE_IQ4_NL: return first;
        case TYPE_Q4_1:
        case TYPE_Q5_1:
        case TYPE_Q4_K:
        case TYPE_Q5_K: return two;
        case TYPE_Q2_K: return q2_k;
        case TYPE_Q3_K: return q3_k;
        case TYPE_Q6_K: return q6_k;
        default: return none;
    }
}

// Read as the high byte of a half such a byte gives infinity or NaN. Whoever reads at a wrong
// address shall find numbers, so that what goes wrong can be told apart.
static void avoid_infinity(uint8_t *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if ((b[i] & 0x7c) == 0x7c) b[i] ^= 4;
    }
}

// Makes every scale of a row of blocks subnormal, or normal: a fault that flushes them shows where
// it is meant to and nowhere else.
static void set_scales(TensorType type, uint8_t *b, uint64_t n_blocks, bool subnormal) {
    const size_t size = type_info(type)->block_bytes;
    for (uint64_t k = 0; k < n_blocks; k++, b += size) {
        float shrink = 1;
        for (const int *at = halves_of(type); *at >= 0; at++) {
            uint16_t h = load_u16(b + *at);
            float d = f16_to_f32(h), size_of_d = d < 0 ? -d : d;
            // The first is the scale; what a minimum is shrinks with it.
            while (subnormal && *at == halves_of(type)[0] && size_of_d * shrink >= 0x1p-15f) {
                shrink *= 0.5f;
            }
            if (subnormal) h = f32_to_f16(d * shrink);
            if (!subnormal && (h & 0x7c00) == 0 && h != 0) h = (h & 0x8000) | 0x0400;
            memcpy(b + *at, &h, sizeof h);
        }
    }
}

// --- weights ----------------------------------------------------------------------------------

typedef struct {
    float spread;                                             // standard deviation of a row
    float (*row)(const Tiny *t, uint64_t key, uint64_t row);  // times this, or NULL
    bool (*subnormal)(uint64_t row);                          // or NULL: none
} Filling;

static void fill(Tiny *t, const Tensor *w, Filling f) {
    const uint64_t n = w->dims[0], rows = w->dims[1], row_bytes = w->bytes / rows;
    const uint64_t n_blocks = n / type_info(w->type)->block_len;
    const uint64_t key = mix(t->seed + w->offset + 1);
    float *x = malloc(n * sizeof *x);
    if (!x) {
        t->status = error_memory(t->err, "a row of weights", n * sizeof *x);
        return;
    }
    for (uint64_t r = 0; r < rows; r++) {
        uint8_t *to = t->data + w->offset + r * row_bytes;
        const float size = f.spread * (f.row ? f.row(t, key, r) : 1);
        for (uint64_t i = 0; i < n; i++) x[i] = size * normal_at(key, r * n + i);
        quantize(w->type, x, to, n);
        if (w->type == TYPE_F32) continue;
        set_scales(w->type, to, n_blocks, f.subnormal && f.subnormal(r));
        avoid_infinity(to, row_bytes);
    }
    free(x);
}

static void fill_norm(Tiny *t, const Tensor *w, float low, float high) {
    const uint64_t key = mix(t->seed + w->offset + 1);
    for (uint64_t i = 0; i < w->dims[0]; i++) {
        const float x = low + (high - low) * unit_at(key, i);
        memcpy(t->data + w->offset + i * sizeof x, &x, sizeof x);
    }
}

static bool every_fifth(uint64_t row) {
    return row % 5 == 1;
}

// Embeddings are small, as real ones are: an epsilon of 1e-5 shows in their norm.
static float embedding_size(const Tiny *t, uint64_t key, uint64_t row) {
    static const float sizes[] = {0.02f, 0.03f, 0.04f, 0.06f, 0.08f, 0.11f, 0.15f, 0.2f};
    (void)t;
    return sizes[random_at(key, ~row) % 8];
}

// A few elements of the residual grow far beyond the rest, as they do in real models.
static float attention_outliers(const Tiny *t, uint64_t key, uint64_t row) {
    (void)t, (void)key;
    return row == 3 ? 20 : 1;
}

static float ffn_outliers(const Tiny *t, uint64_t key, uint64_t row) {
    (void)key;
    return row == 7 || row == (uint64_t)t->model.h.dim - 12 ? 20 : 1;
}

// Rows of the head that decide: LOUD directions, both ways, each there twice.
enum { LOUD = 6, LOUD_STEP = 13, LOUD_FIRST = 5, LOUD_APART = 3 };

static float head_size(const Tiny *t, uint64_t key, uint64_t row) {
    (void)t, (void)key;
    const uint64_t k = (row - LOUD_FIRST) / LOUD_STEP, i = (row - LOUD_FIRST) % LOUD_STEP;
    return row >= LOUD_FIRST && k < LOUD && i == 0 ? 4 : 1;
}

static void repeat_loud_rows(Tiny *t) {
    const Tensor *w = t->model.output;
    const uint64_t n = w->dims[0], row_bytes = w->bytes / w->dims[1];
    float *x = malloc(n * sizeof *x);
    if (!x) {
        t->status = error_memory(t->err, "a row of weights", n * sizeof *x);
        return;
    }
    for (uint64_t k = 0; k < LOUD; k++) {
        const uint64_t at = LOUD_FIRST + k * LOUD_STEP;
        if (at + 3 * LOUD_APART >= w->dims[1]) break;
        uint8_t *row = t->data + w->offset + at * row_bytes, *other = row + LOUD_APART * row_bytes;
        dequantize(w->type, row, x, n);
        for (uint64_t i = 0; i < n; i++) x[i] = -x[i];
        memcpy(other, row, row_bytes);
        other += LOUD_APART * row_bytes;
        quantize(w->type, x, other, n);
        if (w->type != TYPE_F32) {
            set_scales(w->type, other, n / type_info(w->type)->block_len, false);
            avoid_infinity(other, row_bytes);
        }
        memcpy(other + LOUD_APART * row_bytes, other, row_bytes);
    }
    free(x);
}

// 1 / sqrt(n) by Newton's steps: no library's last bit.
static float inverse_root(int n) {
    float y = 1.0f / (float)n;
    for (int i = 0; i < 40; i++) y *= 1.5f - 0.5f * (float)n * y * y;
    return y;
}

static void fill_layer(Tiny *t, int l, float heat) {
    const Hparams *h = &t->model.h;
    const LayerWeights *w = &t->layers[l];
    const float by_dim = inverse_root(h->dim), by_ffn = inverse_root(h->ffn_dim);
    const float by_q = inverse_root(h->n_heads * h->head_dim);
    // Elements of q and k of deviation sqrt(2) give scores of deviation 2.
    fill(t, w->q, (Filling){1.4f * by_dim * heat, NULL, NULL});
    fill(t, w->k, (Filling){1.4f * by_dim, NULL, NULL});
    fill(t, w->v, (Filling){by_dim, NULL, NULL});
    fill(t, w->attn_out, (Filling){by_q, attention_outliers, NULL});
    fill(t, w->ffn_gate, (Filling){1.5f * by_dim, NULL, NULL});
    fill(t, w->ffn_up, (Filling){1.5f * by_dim, NULL, l == 0 ? every_fifth : NULL});
    fill(t, w->ffn_down, (Filling){by_ffn, ffn_outliers, NULL});
    fill_norm(t, w->attn_norm, 0.5f, 1.5f);
    fill_norm(t, w->ffn_norm, 0.5f, 1.5f);
    if (w->q_norm) fill_norm(t, w->q_norm, 0.7f, 2.1f);
    if (w->k_norm) fill_norm(t, w->k_norm, 0.7f, 2.1f);
}

static void fill_all(Tiny *t, float heat) {
    const Model *m = &t->model;
    memset(t->data, 0, t->bytes);  // the padding
    for (size_t i = 0; i < t->n_tensors; i++) t->tensors[i].data = t->data + t->tensors[i].offset;
    fill(t, m->token_embd, (Filling){1, embedding_size, every_fifth});
    for (int l = 0; l < LAYERS; l++) fill_layer(t, l, heat);
    fill_norm(t, m->output_norm, 0.5f, 1.5f);
    if (!m->tied) {
        fill(t, m->output, (Filling){2 * inverse_root(m->h.dim), head_size, NULL});
        if (!t->status) repeat_loud_rows(t);
    }
    if (!m->rope_freqs) return;
    // As Llama 3's: fast pairs stay, slow ones turn eight times slower, a ramp between.
    for (int i = 0; i < m->h.n_rot / 2; i++) {
        const float divisor = i < 2 ? 1 : i < 5 ? 1.0f + 1.7f * (float)(i - 1) : 8;
        memcpy(t->data + m->rope_freqs->offset + (size_t)i * sizeof divisor, &divisor,
               sizeof divisor);
    }
}

// --- kinds ------------------------------------------------------------------------------------

typedef struct {
    Arch arch;
    int dim, n_heads, n_kv_heads, head_dim, ffn_dim, n_vocab;
    float rope_base;
    bool tied, factors;
    float heat;  // of the scores
} Kind;

static const Kind kinds[N_TINY_MODELS] = {
    [MODEL_TINY] = {ARCH_LLAMA, 96, 3, 1, 32, 160, 99, 10000, false, false, 1},
    [MODEL_TINY_QUANT] = {ARCH_LLAMA, 256, 8, 2, 32, 512, 131, 10000, false, false, 1},
    [MODEL_TINY_LLAMA3] = {ARCH_LLAMA, 96, 6, 2, 16, 160, 99, 500000, true, true, 1},
    [MODEL_TINY_QWEN3] = {ARCH_QWEN3, 96, 6, 2, 24, 160, 99, 1000000, false, false, 1},
    [MODEL_TINY_TEXT] = {ARCH_LLAMA, 96, 3, 1, 32, 160, 99, 10000, false, false, 1},
    [MODEL_TINY_HOT] = {ARCH_LLAMA, 96, 3, 1, 32, 160, 99, 10000, false, false, 60},
};

Status tiny_new(TinyKind kind, TensorType type, int n_vocab, uint64_t seed, TinyModel *out,
                Error *err) {
    const Kind *k = &kinds[kind];
    *out = (TinyModel){0};
    if (kind != MODEL_TINY_QUANT) type = TYPE_F32;
    if (!type_info(type) || !type_can_quantize(type)) {
        char name[32];
        return error_set(err, ERR_USAGE, "a tiny model cannot be made of the type %s",
                         type_name(type, name, NULL));
    }
    Tiny *t = calloc(1, sizeof *t);
    if (!t) return error_memory(err, "a tiny model", sizeof *t);
    t->type = type, t->seed = mix(seed), t->err = err;
    t->model.h = (Hparams){.arch = k->arch,
                           .n_layers = LAYERS,
                           .dim = k->dim,
                           .ffn_dim = k->ffn_dim,
                           .n_vocab = n_vocab > 0 ? n_vocab : k->n_vocab,
                           .n_heads = k->n_heads,
                           .n_kv_heads = k->n_kv_heads,
                           .head_dim = k->head_dim,
                           .n_ctx_train = 2048,
                           .rms_eps = 1e-5f,
                           .n_rot = k->head_dim,
                           .rope_pairing = k->arch == ARCH_LLAMA ? ROPE_NORM : ROPE_NEOX,
                           .rope_base = k->rope_base,
                           .rope_factor = 1,
                           .yarn_attn_factor = 1};
    plan(t, k->tied, k->factors);
    t->data = aligned_alloc(ALIGNMENT, t->bytes);
    if (t->data)
        fill_all(t, k->heat);
    else
        t->status = error_memory(err, "a tiny model", t->bytes);
    *out = (TinyModel){&t->model, t};
    const Status st = t->status;
    if (st) tiny_free(out);
    return st;
}

void tiny_free(TinyModel *m) {
    Tiny *t = m->memory;
    if (t) free(t->data);
    free(t);
    *m = (TinyModel){0};
}
