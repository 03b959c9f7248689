// See synth.h. Tensors and their random weights; the vocabulary is in synth_vocab.c.
//
// Weight i of tensor t is a function of (seed, t, i) alone, in integers and IEEE basic arithmetic,
// so that any thread can make any part. Every weight is drawn by itself and every block is the real
// encoder's work: nothing is repeated to save time.
#include "formats/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "formats/synth_vocab.h"

static const SynthShape shapes[] = {
    // name, arch, layers, dim, heads, kv heads, head dim, ffn, vocabulary, context, eps, base
    {"tinyllama-1.1b", "llama", 22, 2048, 32, 4, 64, 5632, 32000, 2048, 1e-5f, 1e4f, 0, 0, 0},
    {"llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 1e-5f, 5e5f, 1, 0, 1},
    {"llama-2-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32000, 4096, 1e-5f, 1e4f, 0, 0, 0},
    {"mistral-7b", "llama", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1e-5f, 1e6f, 0, 0, 0},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1e-6f, 1e6f, 1, 1, 0},
    {"tiny", "llama", 3, 96, 3, 1, 32, 160, 99, 2048, 1e-5f, 1e4f, 0, 0, 0},
    {"tiny-256", "llama", 3, 256, 4, 1, 64, 512, 99, 2048, 1e-5f, 1e4f, 0, 0, 0},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

const SynthShape *synth_at(int i) {
    return i >= 0 && i < N_SHAPES ? &shapes[i] : NULL;
}

const SynthShape *synth_by_name(const char *name) {
    for (int i = 0; i < N_SHAPES; i++) {
        if (strcasecmp(name, shapes[i].name) == 0) return &shapes[i];
    }
    return NULL;
}

// ---- tensors ----------------------------------------------------------------------------------

typedef struct {
    char name[GGUF_MAX_NAME + 1];
    int n_dims;
    uint64_t dims[2];
    float mean, std;
    uint64_t key;  // of its random numbers
} SynthTensor;

typedef struct {
    const SynthShape *shape;
    uint64_t seed;
    SynthTensor *list;
    size_t n;
} Plan;

enum { PER_LAYER = 12, OTHERS = 4 };  // at most

// Steele, Lea and Flood's SplitMix64: a bijection of 64 bits whose outputs look independent.
static uint64_t mixed(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static const uint64_t golden = 0x9e3779b97f4a7c15u;

// n_rows 0: one dimension.
static void add(Plan *p, const char *name, int n_cols, int n_rows, float mean, float std) {
    SynthTensor *t = &p->list[p->n++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_dims = n_rows ? 2 : 1;
    t->dims[0] = (uint64_t)n_cols, t->dims[1] = n_rows ? (uint64_t)n_rows : 1;
    t->mean = mean, t->std = std;
    t->key = mixed(mixed(p->seed + golden) + (uint64_t)p->n * golden);
}

static void add_to_layer(Plan *p, int layer, const char *what, int n_cols, int n_rows, float mean,
                         float std) {
    char name[GGUF_MAX_NAME + 1];
    snprintf(name, sizeof name, "blk.%d.%s", layer, what);
    add(p, name, n_cols, n_rows, mean, std);
}

// Spread 1 / sqrt(inputs): outputs are as large as inputs. What is added to the residual is smaller
// by sqrt(2 layers), so that its growth through the model stays bounded.
static void plan_layer(Plan *p, int l) {
    const SynthShape *s = p->shape;
    int q_dim = s->n_heads * s->head_dim, kv_dim = s->n_kv_heads * s->head_dim;
    float in = 1 / sqrtf((float)s->dim), norm = 0.1f, bias = 0.1f;
    float out = 1 / sqrtf((float)q_dim * 2 * (float)s->n_layers);
    float down = 1 / sqrtf((float)s->ffn_dim * 2 * (float)s->n_layers);
    add_to_layer(p, l, "attn_norm.weight", s->dim, 0, 1, norm);
    add_to_layer(p, l, "attn_q.weight", s->dim, q_dim, 0, in);
    add_to_layer(p, l, "attn_k.weight", s->dim, kv_dim, 0, in);
    add_to_layer(p, l, "attn_v.weight", s->dim, kv_dim, 0, in);
    if (s->qkv_bias) {
        add_to_layer(p, l, "attn_q.bias", q_dim, 0, 0, bias);
        add_to_layer(p, l, "attn_k.bias", kv_dim, 0, 0, bias);
        add_to_layer(p, l, "attn_v.bias", kv_dim, 0, 0, bias);
    }
    add_to_layer(p, l, "attn_output.weight", q_dim, s->dim, 0, out);
    add_to_layer(p, l, "ffn_norm.weight", s->dim, 0, 1, norm);
    add_to_layer(p, l, "ffn_gate.weight", s->dim, s->ffn_dim, 0, in);
    add_to_layer(p, l, "ffn_up.weight", s->dim, s->ffn_dim, 0, in);
    add_to_layer(p, l, "ffn_down.weight", s->ffn_dim, s->dim, 0, down);
}

static size_t plan_bytes(const SynthShape *s) {
    return ((size_t)s->n_layers * PER_LAYER + OTHERS) * sizeof(SynthTensor);
}

// False: out of memory. The caller frees p->list.
static bool plan_tensors(const SynthShape *s, uint64_t seed, Plan *p) {
    *p = (Plan){.shape = s, .seed = seed, .list = calloc(1, plan_bytes(s))};
    if (!p->list) return false;
    float in = 1 / sqrtf((float)s->dim);
    add(p, "token_embd.weight", s->dim, s->vocab_size, 0, in);
    for (int l = 0; l < s->n_layers; l++) plan_layer(p, l);
    if (s->llama3_rope) add(p, "rope_freqs.weight", s->head_dim / 2, 0, 1, 0);
    add(p, "output_norm.weight", s->dim, 0, 1, 0.1f);
    if (!s->tied) add(p, "output.weight", s->dim, s->vocab_size, 0, in);
    return true;
}

static uint64_t weights_of(const SynthTensor *t) {
    return t->dims[0] * t->dims[1];
}

uint64_t synth_weights(const SynthShape *shape) {
    uint64_t total = 0;
    Plan p;
    if (!plan_tensors(shape, 0, &p)) return 0;
    for (size_t i = 0; i < p.n; i++) total += weights_of(&p.list[i]);
    free(p.list);
    return total;
}

// ---- values -----------------------------------------------------------------------------------

// The sum of eight 16-bit numbers, minus its mean: close to normal, never beyond 4.9 sigma.
static int32_t nearly_normal(uint64_t key, uint64_t i) {
    const uint64_t even = 0x0000ffff0000ffffu;
    uint64_t a = mixed(key + (2 * i) * golden), b = mixed(key + (2 * i + 1) * golden);
    uint64_t pairs = (a & even) + (a >> 16 & even) + (b & even) + (b >> 16 & even);
    return (int32_t)((pairs & 0xffffffffu) + (pairs >> 32)) - 8 * 65535 / 2;
}

static void fill_random(const void *arg, uint64_t first, size_t n, float *x) {
    const SynthTensor *t = arg;
    float unit = t->std / 53509.9f;  // the sum's sigma: 65536 * sqrt(8 / 12)
    for (size_t i = 0; i < n; i++) {
        x[i] = t->mean + unit * (float)nearly_normal(t->key, first + i);
    }
}

// Llama 3's frequency divisors for context extension: long waves by 32, short ones not at all, and
// between (wave lengths 8192/4 .. 8192/1) a smooth passage.
static void fill_rope_divisors(const void *arg, uint64_t first, size_t n, float *x) {
    const SynthShape *s = arg;
    const double pi = 3.14159265358979323846, factor = 32, low = 1, high = 4, trained = 8192;
    double ratio = (double)s->rope_base;  // of neighbouring wave lengths: base^(1 / (head_dim / 2))
    for (int half = s->head_dim / 2; half > 1; half /= 2) ratio = sqrt(ratio);
    double wave = 2 * pi;
    for (uint64_t i = 0; i < first; i++) wave *= ratio;
    for (size_t i = 0; i < n; i++, wave *= ratio) {
        double smooth = (trained / wave - low) / (high - low);
        smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        x[i] = (float)(1 / ((1 - smooth) / factor + smooth));
    }
}

// ---- the file ---------------------------------------------------------------------------------

static void put_arch_u32(GgufWriter *w, const SynthShape *s, const char *what, int v) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", s->arch, what);
    gguf_put_u32(w, key, (uint32_t)v);
}

static void put_arch_f32(GgufWriter *w, const SynthShape *s, const char *what, float v) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", s->arch, what);
    gguf_put_f32(w, key, v);
}

static void put_metadata(GgufWriter *w, const SynthShape *s, const Mix *mix, uint64_t seed) {
    char name[128];
    snprintf(name, sizeof name, "synthetic %s (random weights, seed %llu)", s->name,
             (unsigned long long)seed);
    gguf_put_str(w, "general.architecture", s->arch);
    gguf_put_str(w, "general.name", name);
    put_arch_u32(w, s, "vocab_size", s->vocab_size);
    put_arch_u32(w, s, "context_length", s->context);
    put_arch_u32(w, s, "embedding_length", s->dim);
    put_arch_u32(w, s, "block_count", s->n_layers);
    put_arch_u32(w, s, "feed_forward_length", s->ffn_dim);
    put_arch_u32(w, s, "rope.dimension_count", s->head_dim);
    put_arch_u32(w, s, "attention.head_count", s->n_heads);
    put_arch_u32(w, s, "attention.head_count_kv", s->n_kv_heads);
    put_arch_u32(w, s, "attention.key_length", s->head_dim);
    put_arch_u32(w, s, "attention.value_length", s->head_dim);
    put_arch_f32(w, s, "attention.layer_norm_rms_epsilon", s->norm_eps);
    put_arch_f32(w, s, "rope.freq_base", s->rope_base);
    gguf_put_u32(w, "general.quantization_version", 2);
    gguf_put_u32(w, "general.file_type", mix->file_type);
}

static Status write_all(const Plan *p, const Mix *mix, GgufWriter *w, QuantStream *q, Error *err) {
    const SynthShape *s = p->shape;
    MixModel model = {s->n_layers, s->n_heads, s->n_kv_heads, s->tied};
    put_metadata(w, s, mix, p->seed);
    Status st = synth_put_vocab(w, s->vocab_size, err);
    for (size_t i = 0; st == OK && i < p->n; i++) {
        const SynthTensor *t = &p->list[i];
        TensorType type = mix_type(mix, &model, t->name, t->n_dims, t->dims[0]);
        gguf_put_tensor(w, t->name, type, t->n_dims, t->dims);
    }
    for (size_t i = 0; st == OK && i < p->n; i++) {
        const SynthTensor *t = &p->list[i];
        TensorType type = mix_type(mix, &model, t->name, t->n_dims, t->dims[0]);
        bool rope = strcmp(t->name, "rope_freqs.weight") == 0;
        st = quant_stream_tensor(q, w, type, weights_of(t), rope ? fill_rope_divisors : fill_random,
                                 rope ? (const void *)s : t, err);
    }
    return st;
}

Status synth_write(const SynthShape *shape, const Mix *mix, uint64_t seed, const char *out_path,
                   Pool *pool, Progress progress, Error *err) {
    Plan p;
    if (!plan_tensors(shape, seed, &p)) {
        return error_memory(err, "the list of tensors", plan_bytes(shape));
    }
    QuantStream *q = NULL;
    GgufWriter *w = NULL;
    Status st = quant_stream_open(pool, synth_weights(shape), progress, &q, err);
    if (st == OK) st = gguf_writer_open(out_path, &w, err);
    if (st == OK) st = write_all(&p, mix, w, q, err);
    if (st == OK) {
        st = gguf_writer_finish(w, err);
    } else {
        gguf_writer_abort(w);
    }
    quant_stream_close(q);
    free(p.list);
    return st;
}
