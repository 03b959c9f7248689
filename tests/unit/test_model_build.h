// A small right model in memory with one change to it, for the tests of model/.
#ifndef PLUMB_TEST_MODEL_BUILD_H
#define PLUMB_TEST_MODEL_BUILD_H

#include "test_gguf_build.h"

#include "model/model.h"

enum { DROP = -1, ARRAY = -2 };

typedef struct {
    const char *key;  // without "ARCH." unless it starts with "general." or "tokenizer."
    int type;         // a GgufType; DROP leaves the key out; ARRAY: u32 elements from `list`
    uint64_t bits;    // the value; of an ARRAY the number of elements
    const char *str;
    const uint32_t *list;
} KeyValue;

typedef struct {
    const char *arch;
    KeyValue kv[6];  // replace the defaults of the same key, or come after them
    int n_vocab, n_tokens;
    bool tied, bias;
    const char *drop;     // a tensor that is left out
    const char *reshape;  // one of another shape
    int n_dims;
    uint64_t dims[3];
    const char *extra[4];  // more tensors, of extra_n F32 values
    uint64_t extra_n;
    float extra_value;
    const char *poison;  // a tensor with one odd value
    size_t poison_at;
    uint32_t poison_bits;
} Spec;

static inline uint64_t bits_of(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

enum { DIM = 8, FFN = 12, HEAD_DIM = 4, LAYERS = 2, VOCAB = 5 };

static const KeyValue defaults[] = {
    {"block_count", GGUF_U32, LAYERS, 0, 0},
    {"context_length", GGUF_U32, 64, 0, 0},
    {"embedding_length", GGUF_U32, DIM, 0, 0},
    {"feed_forward_length", GGUF_U32, FFN, 0, 0},
    {"attention.head_count", GGUF_U32, 2, 0, 0},
    {"attention.head_count_kv", GGUF_U32, 1, 0, 0},
    {"attention.layer_norm_rms_epsilon", GGUF_F32, 0x3727c5ac, 0, 0},  // 1e-5
};

static inline void put_kv(Build *b, const char *arch, const KeyValue *kv) {
    char key[128];
    bool full = strncmp(kv->key, "general.", 8) == 0 || strncmp(kv->key, "tokenizer.", 10) == 0;
    snprintf(key, sizeof key, "%s%s%s", full ? "" : arch, full ? "" : ".", kv->key);
    if (kv->type == DROP) return;
    if (kv->type == ARRAY) {
        value_array(b, key, GGUF_U32, kv->bits);
        for (uint64_t i = 0; i < kv->bits; i++) add_int(&b->values, kv->list[i], 4);
    } else if (kv->type == GGUF_STR) {
        value_str(b, key, kv->str);
    } else {
        value_int(b, key, (GgufType)kv->type, kv->bits);
    }
}

static inline void put_values(Build *b, const Spec *s, const char *arch) {
    bool used[6] = {false};
    bool named = false;
    for (int j = 0; j < 6 && s->kv[j].key; j++) {
        named |= strcmp(s->kv[j].key, "general.architecture") == 0;
    }
    if (!named) value_str(b, "general.architecture", arch);
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        const KeyValue *kv = &defaults[i];
        for (int j = 0; j < 6 && s->kv[j].key; j++) {
            if (strcmp(s->kv[j].key, kv->key) == 0) kv = &s->kv[j], used[j] = true;
        }
        put_kv(b, arch, kv);
    }
    for (int j = 0; j < 6 && s->kv[j].key; j++) {
        if (!used[j]) put_kv(b, arch, &s->kv[j]);
    }
    if (s->n_tokens) value_array(b, "tokenizer.ggml.tokens", GGUF_STR, (uint64_t)s->n_tokens);
    for (int i = 0; i < s->n_tokens; i++) add_str(b, &b->values, "t", 1);
}

static inline void put_f32(Build *b, const Spec *s, const char *name, uint64_t cols,
                           uint64_t rows) {
    uint64_t dims[3] = {cols, rows, 1};
    int n_dims = rows ? 2 : 1;
    if (s->drop && strcmp(s->drop, name) == 0) return;
    if (s->reshape && strcmp(s->reshape, name) == 0) {
        memcpy(dims, s->dims, sizeof dims);
        n_dims = s->n_dims;
    }
    pad_to(&b->data, b->alignment);
    declare(b, name, strlen(name), (uint32_t)n_dims, dims, n_dims, TYPE_F32, b->data.len);
    size_t n = 1;
    for (int i = 0; i < n_dims; i++) n *= dims[i];
    bool odd = s->poison && strcmp(s->poison, name) == 0;
    for (size_t i = 0; i < n; i++) {
        add_int(&b->data, odd && i == s->poison_at ? s->poison_bits : bits_of(0.5f), 4);
    }
}

static inline void put_layer(Build *b, const Spec *s, const char *arch, int layer) {
    static const struct {
        const char *name;
        uint64_t cols, rows;
        char when;  // b: biases, 3: qwen3
    } list[] = {
        {"attn_norm.weight", DIM, 0, 0},          {"attn_q.weight", DIM, DIM, 0},
        {"attn_k.weight", DIM, HEAD_DIM, 0},      {"attn_v.weight", DIM, HEAD_DIM, 0},
        {"attn_output.weight", DIM, DIM, 0},      {"ffn_norm.weight", DIM, 0, 0},
        {"ffn_gate.weight", DIM, FFN, 0},         {"ffn_up.weight", DIM, FFN, 0},
        {"ffn_down.weight", FFN, DIM, 0},         {"attn_q.bias", DIM, 0, 'b'},
        {"attn_k.bias", HEAD_DIM, 0, 'b'},        {"attn_v.bias", HEAD_DIM, 0, 'b'},
        {"attn_q_norm.weight", HEAD_DIM, 0, '3'}, {"attn_k_norm.weight", HEAD_DIM, 0, '3'},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        if (list[i].when == 'b' && !s->bias) continue;
        if (list[i].when == '3' && strcmp(arch, "qwen3") != 0) continue;
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s", layer, list[i].name);
        put_f32(b, s, name, list[i].cols, list[i].rows);
    }
}

static inline Text model_bytes(const Spec *s) {
    Build b = build_new();
    const char *arch = s->arch ? s->arch : "llama";
    uint64_t vocab = s->n_vocab ? (uint64_t)s->n_vocab : VOCAB;
    put_values(&b, s, arch);
    put_f32(&b, s, "token_embd.weight", DIM, vocab);
    for (int l = 0; l < LAYERS; l++) put_layer(&b, s, arch, l);
    put_f32(&b, s, "output_norm.weight", DIM, 0);
    if (!s->tied) put_f32(&b, s, "output.weight", DIM, vocab);
    for (int i = 0; i < 4 && s->extra[i]; i++) {
        pad_to(&b.data, b.alignment);
        declare(&b, s->extra[i], strlen(s->extra[i]), 1, &s->extra_n, 1, TYPE_F32, b.data.len);
        for (uint64_t j = 0; j < s->extra_n; j++) add_int(&b.data, bits_of(s->extra_value), 4);
    }
    return build(&b);
}

typedef struct {
    Text bytes;
    Gguf *gguf;
    Model *model;
    Error err;
    int n_notices;
    char notice[256];  // the last one
} Case;

static inline void hear(void *user, const char *line) {
    Case *c = user;
    c->n_notices++;
    snprintf(c->notice, sizeof c->notice, "%s", line);
}

static inline void case_open(Case *c, const Spec *s) {
    memset(c, 0, sizeof *c);
    c->bytes = model_bytes(s);
    Error err = {0};
    if (gguf_open_memory(c->bytes.data, c->bytes.len, "test.gguf", &c->gguf, &err)) {
        fail_msg("the container itself is bad: %s", err.text);
    }
}

static inline void case_close(Case *c) {
    model_free(c->model);
    gguf_close(c->gguf);
    text_free(&c->bytes);
}

static inline Status case_bind(Case *c, const Spec *s) {
    case_open(c, s);
    return model_bind(c->gguf, (Notice){hear, c}, &c->model, &c->err);
}

static inline void refused_model(const Spec *s, const char *words) {
    Case c;
    Status st = case_bind(&c, s);
    if (!st) fail_msg("bound, expected \"%s\"", words);
    assert_int_equal(st, ERR_FILE);
    assert_int_equal(c.err.status, ERR_FILE);
    assert_null(c.model);
    assert_int_equal(strncmp(c.err.text, "test.gguf: ", 11), 0);
    assert_null(strchr(c.err.text, '\n'));
    assert_words(&c.err, words);
    case_close(&c);
}

// Binds; the caller closes.
static inline void bound_model(Case *c, const Spec *s) {
    if (case_bind(c, s)) fail_msg("%s", c->err.text);
}

static inline void refused_kv(const char *key, int type, uint64_t bits, const char *words) {
    Spec s = {.kv = {{key, type, bits, NULL, NULL}}};
    refused_model(&s, words);
}

#endif
