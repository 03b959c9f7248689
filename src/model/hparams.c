// Hyperparameters: every number that shapes the forward pass, read from the file and range-checked.
//
// This file owns: which architectures exist, the GGUF key of each number, its default and its range
// (keys and defaults: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), and what is
// refused because computing it would give wrong text: experts, other scales, longrope. It leaves to
// others: tensors (model.c), the typed getters (formats/gguf.h).
#include "model/hparams.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/distance.h"

static const struct {
    const char *name;
    RopePairing pairing;
} arch_table[] = {
    [ARCH_LLAMA] = {"llama", ROPE_NORM},
    [ARCH_QWEN2] = {"qwen2", ROPE_NEOX},
    [ARCH_QWEN3] = {"qwen3", ROPE_NEOX},
};
enum { N_ARCHS = sizeof arch_table / sizeof *arch_table };

const char *arch_name(Arch arch) {
    return arch_table[arch].name;
}

// Families by the start of their name, and the supported architecture that they descend from; the
// first match counts. Spelling alone would call gemma a qwen.
static const struct {
    const char *start;
    Arch nearest;
} families[] = {
    {"qwen3", ARCH_QWEN3},     {"qwen", ARCH_QWEN2},     {"llama", ARCH_LLAMA},
    {"mistral", ARCH_LLAMA},   {"mixtral", ARCH_LLAMA},  {"granite", ARCH_LLAMA},
    {"exaone", ARCH_LLAMA},    {"gemma", ARCH_LLAMA},    {"phi", ARCH_LLAMA},
    {"deepseek", ARCH_LLAMA},  {"falcon", ARCH_LLAMA},   {"gpt", ARCH_LLAMA},
    {"starcoder", ARCH_LLAMA}, {"internlm", ARCH_LLAMA}, {"minicpm", ARCH_LLAMA},
    {"olmo", ARCH_LLAMA},      {"stablelm", ARCH_LLAMA}, {"command", ARCH_LLAMA},
    {"cohere", ARCH_LLAMA},    {"baichuan", ARCH_LLAMA}, {"smollm3", ARCH_LLAMA},
    {"glm", ARCH_LLAMA},       {"chatglm", ARCH_LLAMA},  {"hunyuan", ARCH_LLAMA},
    {"dots", ARCH_QWEN3},      {"ernie", ARCH_LLAMA},    {"nemotron", ARCH_LLAMA},
    {"mpt", ARCH_LLAMA},       {"bloom", ARCH_LLAMA},    {"orion", ARCH_LLAMA},
    {"xverse", ARCH_LLAMA},    {"dream", ARCH_QWEN2},    {"deci", ARCH_LLAMA},
    {"mamba", ARCH_LLAMA},     {"rwkv", ARCH_LLAMA},     {"lfm", ARCH_LLAMA},
    {"bert", ARCH_LLAMA},      {"t5", ARCH_LLAMA},
};

static int arch_distance(GgufStr name, const char *arch) {
    return word_distance(name.ptr, name.len, arch, strlen(arch));
}

static Arch nearest_arch(GgufStr name) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        size_t len = strlen(families[i].start);
        if (name.len >= len && memcmp(name.ptr, families[i].start, len) == 0) {
            return families[i].nearest;
        }
    }
    Arch best = ARCH_LLAMA;
    int least = arch_distance(name, arch_name(ARCH_LLAMA));
    for (int a = 0; a < N_ARCHS; a++) {
        int d = arch_distance(name, arch_name((Arch)a));
        if (d < least) least = d, best = (Arch)a;
    }
    return best;
}

static bool str_is(GgufStr s, const char *text) {
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

static Status read_arch(const Gguf *g, Arch *out, Error *err) {
    GgufStr s;
    char shown[96];
    bool typed = false;
    Status st = gguf_get_str(g, "general.type", &s, &typed, err);
    if (st) return st;
    static const char *const other[] = {"adapter", "imatrix", "mmproj"};
    for (size_t i = 0; typed && i < sizeof other / sizeof *other; i++) {
        if (!str_is(s, other[i])) continue;
        return error_set(err, ERR_FILE,
                         "%s: general.type is \"%s\": not a language model but something that goes "
                         "with one; give the model's own file",
                         gguf_path(g), other[i]);
    }
    st = gguf_get_str(g, "general.architecture", &s, NULL, err);
    if (st) return st;
    for (int a = 0; a < N_ARCHS; a++) {
        if (!str_is(s, arch_name((Arch)a))) continue;
        *out = (Arch)a;
        return OK;
    }
    return error_set(err, ERR_FILE,
                     "%s: architecture %s is not supported; the nearest that is is %s (supported: "
                     "llama, qwen2, qwen3)",
                     gguf_path(g), printable(s.ptr, s.len, shown, sizeof shown),
                     arch_name(nearest_arch(s)));
}

typedef struct {
    const Gguf *g;
    const char *arch;
    bool partial;  // a vocabulary-only file: what is absent stays 0
    int n_layers;  // arrays with an entry for each layer must have as many
    Notice notice;
    Error *err;
} Reader;

typedef struct {
    char text[96];
} Key;

static Key key_of(const Reader *r, const char *suffix) {
    Key k;
    snprintf(k.text, sizeof k.text, "%s.%s", r->arch, suffix);
    return k;
}

// An array with one number for each layer: legal when all are the same.
static Status read_layer_array(const Reader *r, const char *key, uint32_t *out) {
    const GgufValue *v;
    Status st = gguf_get_array(r->g, key, GGUF_U32, &v, NULL, r->err);
    if (st) return st;
    if (v->n == 0 || v->n != (uint64_t)r->n_layers) {
        return error_set(r->err, ERR_FILE,
                         "%s: %s has %llu entries, expected one for each of %d layers",
                         gguf_path(r->g), key, (unsigned long long)v->n, r->n_layers);
    }
    int64_t first = gguf_elem_i64(v, 0);
    for (uint64_t i = 1; i < v->n; i++) {
        int64_t other = gguf_elem_i64(v, i);
        if (other == first) continue;
        return error_set(r->err, ERR_FILE,
                         "%s: %s differs by layer (layer 0: %lld, layer %llu: %lld); models whose "
                         "layers differ in shape are not supported",
                         gguf_path(r->g), key, (long long)first, (unsigned long long)i,
                         (long long)other);
    }
    if (first < 0 || first > UINT32_MAX) {
        return error_set(r->err, ERR_FILE, "%s: %s holds %lld, expected a number of 32 bits",
                         gguf_path(r->g), key, (long long)first);
    }
    *out = (uint32_t)first;
    return OK;
}

enum { REQUIRED = -1 };

// The integer ARCH.suffix, 1..most; absent it is `fallback`, unless that is REQUIRED.
static Status read_int(const Reader *r, const char *suffix, uint32_t most, int fallback, int *out) {
    Key k = key_of(r, suffix);
    const GgufValue *v = gguf_find(r->g, k.text);
    if (!v && fallback == REQUIRED && !r->partial) {
        return error_set(r->err, ERR_FILE, "%s: the key %s is missing, expected a u32 (1 to %u)",
                         gguf_path(r->g), k.text, most);
    }
    if (!v) {
        *out = fallback == REQUIRED ? 0 : fallback;
        return OK;
    }
    uint32_t n = 0;
    Status st = v->type == GGUF_ARRAY && r->n_layers > 0
                    ? read_layer_array(r, k.text, &n)
                    : gguf_get_u32(r->g, k.text, &n, NULL, r->err);
    if (st) return st;
    if (n < 1 || n > most) {
        return error_set(r->err, ERR_FILE, "%s: %s is %u, expected 1 to %u", gguf_path(r->g),
                         k.text, n, most);
    }
    *out = (int)n;
    return OK;
}

// The float ARCH.suffix, above `above` and at most `most` (so never NaN). A NaN fallback is
// REQUIRED.
static Status read_float(const Reader *r, const char *suffix, double above, double most,
                         float fallback, float *out) {
    Key k = key_of(r, suffix);
    bool found = false;
    float x = 0;
    Status st = gguf_get_f32(r->g, k.text, &x, &found, r->err);
    if (st) return st;
    if (!found) {
        if (isnan(fallback) && !r->partial) {
            return error_set(r->err, ERR_FILE, "%s: the key %s is missing, expected an f32",
                             gguf_path(r->g), k.text);
        }
        *out = isnan(fallback) ? 0.0f : fallback;
        return OK;
    }
    if (!(x > above && x <= most)) {
        return error_set(r->err, ERR_FILE, "%s: %s is %g, expected more than %g and at most %g",
                         gguf_path(r->g), k.text, (double)x, above, most);
    }
    *out = x;
    return OK;
}

static Status read_heads(Reader *r, Hparams *h) {
    Status st = read_int(r, "attention.head_count", MODEL_MAX_HEADS, REQUIRED, &h->n_heads);
    if (st) return st;
    int all = h->n_heads ? h->n_heads : REQUIRED;
    st = read_int(r, "attention.head_count_kv", MODEL_MAX_HEADS, all, &h->n_kv_heads);
    if (st) return st;
    if (h->n_heads == 0 || h->dim == 0) return OK;
    if (h->n_kv_heads > h->n_heads || h->n_heads % h->n_kv_heads) {
        return error_set(r->err, ERR_FILE,
                         "%s: %s.attention.head_count_kv is %d, expected a divisor of "
                         "attention.head_count, which is %d",
                         gguf_path(r->g), r->arch, h->n_kv_heads, h->n_heads);
    }
    int even_share = h->dim % h->n_heads ? REQUIRED : h->dim / h->n_heads;
    Key key = key_of(r, "attention.key_length");
    if (even_share == REQUIRED && !gguf_find(r->g, key.text)) {
        return error_set(r->err, ERR_FILE,
                         "%s: %s.attention.head_count is %d, expected a divisor of "
                         "embedding_length (%d), since there is no %s",
                         gguf_path(r->g), r->arch, h->n_heads, h->dim, key.text);
    }
    int value_length = 0;
    st = read_int(r, "attention.key_length", MODEL_MAX_DIM, even_share, &h->head_dim);
    if (st) return st;
    st = read_int(r, "attention.value_length", MODEL_MAX_DIM,
                  even_share == REQUIRED ? h->head_dim : even_share, &value_length);
    if (st) return st;
    if (value_length != h->head_dim) {
        return error_set(r->err, ERR_FILE,
                         "%s: %s is %d and %s.attention.value_length %d, expected the same number",
                         gguf_path(r->g), key.text, h->head_dim, r->arch, value_length);
    }
    if (h->head_dim > MODEL_MAX_HEAD_DIM) {
        return error_set(r->err, ERR_FILE,
                         "%s: a head has %d elements (%s, or else embedding_length / head_count), "
                         "expected 1 to %d",
                         gguf_path(r->g), h->head_dim, key.text, MODEL_MAX_HEAD_DIM);
    }
    if ((int64_t)h->n_heads * h->head_dim > MODEL_MAX_DIM) {
        return error_set(
            r->err, ERR_FILE,
            "%s: %d heads (%s.attention.head_count) of %d elements are more than %d together",
            gguf_path(r->g), h->n_heads, r->arch, h->head_dim, MODEL_MAX_DIM);
    }
    return OK;
}

static Status read_scaling_type(const Reader *r, Hparams *h) {
    Key key = key_of(r, "rope.scaling.type");
    GgufStr s;
    bool found = false;
    char shown[64];
    Status st = gguf_get_str(r->g, key.text, &s, &found, r->err);
    if (st) return st;
    // A factor without a type is linear: files from before there was a type.
    if (!found || str_is(s, "linear")) {
        h->rope_scaling = ROPE_SCALING_LINEAR;
    } else if (str_is(s, "none")) {
        h->rope_scaling = ROPE_SCALING_NONE;
    } else if (str_is(s, "yarn")) {
        h->rope_scaling = ROPE_SCALING_YARN;
    } else {
        return error_set(r->err, ERR_FILE, "%s: %s is \"%s\", expected none, linear or yarn",
                         gguf_path(r->g), key.text, printable(s.ptr, s.len, shown, sizeof shown));
    }
    return OK;
}

// Keys of YaRN (Peng et al. 2023); defaults are the paper's and llama.cpp's.
static Status read_yarn(const Reader *r, Hparams *h) {
    Status st = read_int(r, "rope.scaling.original_context_length", MODEL_MAX_CONTEXT,
                         h->n_ctx_train ? h->n_ctx_train : REQUIRED, &h->rope_n_ctx_orig);
    if (st) return st;
    st = read_float(r, "rope.scaling.yarn_beta_fast", 0, 1e6, 32, &h->yarn_beta_fast);
    if (st) return st;
    st = read_float(r, "rope.scaling.yarn_beta_slow", 0, 1e6, 1, &h->yarn_beta_slow);
    if (st) return st;
    float attn = 1, yarn_attn = 1;
    st = read_float(r, "rope.scaling.attn_factor", 0, 1e3, 1, &attn);
    if (st) return st;
    st = read_float(r, "rope.scaling.yarn_attn_factor", 0, 1e3, 1, &yarn_attn);
    if (st) return st;
    bool yarn = h->rope_scaling == ROPE_SCALING_YARN;
    float ext = yarn ? 1 : 0;
    Key key = key_of(r, "rope.scaling.yarn_ext_factor");
    st = gguf_get_f32(r->g, key.text, &ext, &(bool){false}, r->err);
    if (st) return st;
    if (!(ext <= 1)) {
        return error_set(r->err, ERR_FILE, "%s: %s is %g, expected 0 to 1 (negative: the default)",
                         gguf_path(r->g), key.text, (double)ext);
    }
    // The two are one factor, given by different writers; so is every writer's "negative: default".
    h->yarn_attn_factor = attn * yarn_attn;
    h->yarn_ext_factor = ext < 0 ? (yarn ? 1.0f : 0.0f) : ext;
    if (yarn) return OK;
    if (h->yarn_attn_factor != 1 || h->yarn_ext_factor != 0) {
        return error_set(r->err, ERR_FILE,
                         "%s: %s.rope.scaling.attn_factor or yarn_ext_factor is given without YaRN "
                         "(rope.scaling.type), which is not supported",
                         gguf_path(r->g), r->arch);
    }
    return OK;
}

static Status read_rope(const Reader *r, Hparams *h) {
    Key key = key_of(r, "rope.dimension_count");
    int all = h->head_dim ? h->head_dim : REQUIRED;
    Status st = read_int(r, "rope.dimension_count", MODEL_MAX_DIM, all, &h->n_rot);
    if (st) return st;
    if (h->n_rot % 2 || (h->head_dim && h->n_rot > h->head_dim)) {
        return error_set(r->err, ERR_FILE,
                         "%s: %s is %d, expected an even number of at most %d, the head's size",
                         gguf_path(r->g), key.text, h->n_rot, h->head_dim);
    }
    st = read_float(r, "rope.freq_base", 1, 1e30, 10000, &h->rope_base);
    if (st) return st;
    st = read_scaling_type(r, h);
    if (st) return st;
    float old = 1;  // rope.scale_linear: the name of the factor until 2023
    st = read_float(r, "rope.scale_linear", 0, 1e6, 1, &old);
    if (st) return st;
    st = read_float(r, "rope.scaling.factor", 0, 1e6, old, &h->rope_factor);
    if (st) return st;
    st = read_yarn(r, h);
    if (st) return st;
    if (h->rope_scaling == ROPE_SCALING_NONE) h->rope_factor = 1;
    if (h->rope_scaling == ROPE_SCALING_LINEAR && h->rope_factor == 1) {
        h->rope_scaling = ROPE_SCALING_NONE;
    }
    return OK;
}

// Keys that change the arithmetic in relatives of these architectures (Granite's scales, Gemma's
// caps): ignoring one would give fluent nonsense, so any value that is not neutral is refused.
static Status refuse_other_arithmetic(const Reader *r, const Hparams *h) {
    static const char *const scales[] = {
        "logit_scale",         "residual_scale",         "embedding_scale",
        "attention.scale",     "attn_logit_softcapping", "final_logit_softcapping",
        "attention.clamp_kqv",
    };
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        Key key = key_of(r, scales[i]);
        float x = 0, neutral = i < 3 ? 1 : 0;
        Status st = gguf_get_f32(r->g, key.text, &x, &(bool){false}, r->err);
        if (st) return st;
        if (i == 3 && h->head_dim) neutral = 1 / sqrtf((float)h->head_dim);
        if (x == 0 || fabsf(x - neutral) <= 1e-6f * neutral) continue;
        return error_set(r->err, ERR_FILE,
                         "%s: %s is %g, which the architecture %s does not have (a model of "
                         "another family, converted under this name?)",
                         gguf_path(r->g), key.text, (double)x, r->arch);
    }
    Key key = key_of(r, "expert_count");
    uint32_t experts = 0;
    Status st = gguf_get_u32(r->g, key.text, &experts, &(bool){false}, r->err);
    if (st) return st;
    if (experts > 0) {
        return error_set(r->err, ERR_FILE, "%s: %s is %u: mixtures of experts are not supported",
                         gguf_path(r->g), key.text, experts);
    }
    bool causal = true;
    key = key_of(r, "attention.causal");
    st = gguf_get_bool(r->g, key.text, &causal, &(bool){false}, r->err);
    if (st) return st;
    if (!causal) {
        return error_set(r->err, ERR_FILE,
                         "%s: %s is false: encoders, which see the whole text, are not supported",
                         gguf_path(r->g), key.text);
    }
    return OK;
}

static Status read_window(const Reader *r, const Hparams *h) {
    Key key = key_of(r, "attention.sliding_window");
    const GgufValue *v = gguf_find(r->g, key.text);
    if (!v || v->type == GGUF_ARRAY) return OK;
    uint32_t window = 0;
    Status st = gguf_get_u32(r->g, key.text, &window, NULL, r->err);
    if (st) return st;
    if (window > 0 && window < (uint32_t)h->n_ctx_train) {
        notice_say(r->notice,
                   "%s is %u: attention here is full, so past %u tokens the text can differ from "
                   "what the model's authors saw",
                   key.text, window, window);
    }
    return OK;
}

Status hparams_read(const Gguf *g, Notice notice, Hparams *out, Error *err) {
    Hparams h = {.rope_factor = 1, .yarn_attn_factor = 1};
    Status st = read_arch(g, &h.arch, err);
    if (st) return st;
    h.rope_pairing = arch_table[h.arch].pairing;
    Reader r = {g, arch_name(h.arch), gguf_n_tensors(g) == 0, 0, notice, err};
    st = read_int(&r, "block_count", MODEL_MAX_LAYERS, REQUIRED, &h.n_layers);
    if (st) return st;
    st = read_int(&r, "context_length", MODEL_MAX_CONTEXT, REQUIRED, &h.n_ctx_train);
    if (st) return st;
    st = read_int(&r, "embedding_length", MODEL_MAX_DIM, REQUIRED, &h.dim);
    if (st) return st;
    r.n_layers = h.n_layers;
    st = read_int(&r, "feed_forward_length", MODEL_MAX_DIM, REQUIRED, &h.ffn_dim);
    if (st) return st;
    st = read_heads(&r, &h);
    if (st) return st;
    st = read_float(&r, "attention.layer_norm_rms_epsilon", 0, 1, NAN, &h.rms_eps);
    if (st) return st;
    r.n_layers = 0;
    st = read_rope(&r, &h);
    if (st) return st;
    st = read_int(&r, "vocab_size", MODEL_MAX_VOCAB, 0, &h.n_vocab);
    if (st) return st;
    st = refuse_other_arithmetic(&r, &h);
    if (st) return st;
    st = read_window(&r, &h);
    if (st) return st;
    // The rows of the embedding say what the vocabulary's size is; the key is often wrong.
    const Tensor *embd = gguf_tensor(g, "token_embd.weight");
    const GgufValue *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    if (embd && embd->dims[1] <= MODEL_MAX_VOCAB) {
        h.n_vocab = (int)embd->dims[1];
    } else if (h.n_vocab == 0 && tokens && tokens->n <= MODEL_MAX_VOCAB) {
        h.n_vocab = (int)tokens->n;
    }
    *out = h;
    return OK;
}

Status model_hparams(const Gguf *g, Hparams *out, Error *err) {
    return hparams_read(g, (Notice){0}, out, err);
}
