// Hyperparameters and binding: the golden files bind, and every lie about a model is refused with
// words that name the key or the tensor.
#include "test_model_build.h"

#include <math.h>
#include <unistd.h>

// --- binding ----------------------------------------------------------------------------------

static void test_small(void **state) {
    (void)state;
    Case c;
    bound_model(&c, &(Spec){0});
    const Model *m = c.model;
    assert_int_equal(c.n_notices, 0);
    assert_int_equal(m->h.n_layers, LAYERS);
    assert_int_equal(m->h.head_dim, HEAD_DIM);
    assert_int_equal(m->h.n_rot, HEAD_DIM);
    assert_int_equal(m->h.n_vocab, VOCAB);
    assert_int_equal(m->h.rope_pairing, ROPE_NORM);
    assert_int_equal(m->h.rope_scaling, ROPE_SCALING_NONE);
    assert_true(m->h.rope_base == 10000 && m->h.rope_factor == 1 && m->h.rms_eps == 1e-5f);
    uint64_t layer = DIM * (2 + 2 * DIM + 2 * HEAD_DIM + 3 * FFN);
    uint64_t params = LAYERS * layer + DIM + 2 * DIM * VOCAB;
    assert_int_equal(m->n_params, params);
    assert_int_equal(m->weight_bytes, 4 * params);
    assert_int_equal(m->decode_bytes, 4 * (params - DIM * VOCAB));
    assert_string_equal(m->layers[1].ffn_down->name, "blk.1.ffn_down.weight");
    assert_string_equal(m->layers[0].v->name, "blk.0.attn_v.weight");
    assert_null(m->layers[0].q_bias);
    assert_null(m->rope_freqs);
    assert_false(m->tied);
    case_close(&c);

    bound_model(&c, &(Spec){.tied = true});
    assert_true(c.model->tied);
    assert_ptr_equal(c.model->output, c.model->token_embd);
    assert_int_equal(c.model->decode_bytes, c.model->weight_bytes);
    assert_int_equal(c.model->n_params, params - DIM * VOCAB);
    case_close(&c);
}

static void test_golden_files(void **state) {
    (void)state;
    static const struct {
        const char *path;
        Arch arch;
        int n_layers, dim, ffn, vocab, heads, kv_heads, head_dim;
        float base;
        bool tied, freqs, bias, qk_norm;
    } rows[] = {
        {"tests/golden/models/demo-f16.gguf", ARCH_LLAMA, 6, 256, 768, 2048, 4, 2, 64, 1e4f, 0, 0,
         0, 0},
        {"tests/golden/models/demo-Q8_0.gguf", ARCH_LLAMA, 6, 256, 768, 2048, 4, 2, 64, 1e4f, 0, 0,
         0, 0},
        {"models/demo.gguf", ARCH_LLAMA, 6, 256, 768, 2048, 4, 2, 64, 1e4f, 0, 0, 0, 0},
        {"tests/golden/arch/llama-1.gguf", ARCH_LLAMA, 3, 96, 160, 300, 3, 1, 32, 1e4f, 0, 0, 0, 0},
        {"tests/golden/arch/llama3-1.gguf", ARCH_LLAMA, 3, 96, 160, 300, 3, 1, 32, 5e5f, 1, 1, 0,
         0},
        {"tests/golden/arch/qwen2-1.gguf", ARCH_QWEN2, 3, 96, 160, 300, 3, 1, 32, 1e6f, 1, 0, 1, 0},
        {"tests/golden/arch/qwen3-1.gguf", ARCH_QWEN3, 3, 96, 160, 300, 3, 1, 40, 1e6f, 0, 0, 0, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Case c = {0};
        if (gguf_open(rows[i].path, &c.gguf, &c.err) ||
            model_bind(c.gguf, (Notice){hear, &c}, &c.model, &c.err) ||
            model_check_values(c.model, &c.err)) {
            fail_msg("%s", c.err.text);
        }
        const Hparams *h = &c.model->h;
        assert_int_equal(c.n_notices, 0);
        assert_int_equal(h->arch, rows[i].arch);
        assert_int_equal(h->n_layers, rows[i].n_layers);
        assert_int_equal(h->dim, rows[i].dim);
        assert_int_equal(h->ffn_dim, rows[i].ffn);
        assert_int_equal(h->n_vocab, rows[i].vocab);
        assert_int_equal(h->n_heads, rows[i].heads);
        assert_int_equal(h->n_kv_heads, rows[i].kv_heads);
        assert_int_equal(h->head_dim, rows[i].head_dim);
        assert_int_equal(h->n_ctx_train, 1024);
        assert_true(h->rope_base == rows[i].base);
        assert_int_equal(h->rope_pairing, h->arch == ARCH_LLAMA ? ROPE_NORM : ROPE_NEOX);
        assert_int_equal(c.model->tied, rows[i].tied);
        assert_int_equal(c.model->rope_freqs != NULL, rows[i].freqs);
        for (int l = 0; l < h->n_layers; l++) {
            const LayerWeights *w = &c.model->layers[l];
            assert_true(w->attn_norm && w->q && w->k && w->v && w->attn_out && w->ffn_norm);
            assert_true(w->ffn_gate && w->ffn_up && w->ffn_down);
            assert_int_equal(w->q_bias && w->k_bias && w->v_bias, rows[i].bias);
            assert_int_equal(w->q_norm && w->k_norm, rows[i].qk_norm);
        }
        Hparams again;
        assert_int_equal(model_hparams(c.gguf, &again, &c.err), OK);
        assert_int_equal(again.n_vocab, h->n_vocab);
        case_close(&c);
    }
}

static void test_stories(void **state) {
    (void)state;
    const char *path = "../shared/models/stories260K.gguf";
    if (access(path, R_OK) != 0) {
        print_message("missing: %s\n", path);
        skip();
    }
    Case c = {0};
    if (gguf_open(path, &c.gguf, &c.err) ||
        model_bind(c.gguf, (Notice){hear, &c}, &c.model, &c.err)) {
        fail_msg("%s", c.err.text);
    }
    assert_int_equal(c.model->h.head_dim, 8);
    assert_int_equal(c.model->h.n_kv_heads, 4);
    assert_int_equal(model_check_values(c.model, &c.err), OK);
    case_close(&c);
}

static void test_vocabulary_only(void **state) {
    (void)state;
    Gguf *g = NULL;
    Error err = {0};
    Model *m = NULL;
    Hparams h;
    assert_int_equal(gguf_open("tests/golden/tokenizers/bpe-gpt-2.gguf", &g, &err), OK);
    assert_int_equal(model_hparams(g, &h, &err), OK);
    assert_int_equal(h.n_vocab, 1200);
    assert_int_equal(h.n_layers, 0);
    assert_int_equal(model_bind(g, (Notice){0}, &m, &err), ERR_FILE);
    assert_words(&err, "vocabulary only");
    assert_null(m);
    gguf_close(g);

    // What a vocabulary-only file does say must be sane all the same.
    Build b = build_new();
    value_str(&b, "general.architecture", "qwen2");
    value_int(&b, "qwen2.context_length", GGUF_U32, 4096);
    value_int(&b, "qwen2.block_count", GGUF_U32, 513);
    Text t = build(&b);
    assert_int_equal(gguf_open_memory(t.data, t.len, "test.gguf", &g, &err), OK);
    assert_int_equal(model_hparams(g, &h, &err), ERR_FILE);
    assert_words(&err, "qwen2.block_count is 513, expected 1 to 512");
    gguf_close(g);
    text_free(&t);
}

// --- hyperparameters --------------------------------------------------------------------------

static void test_counts(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint64_t past;  // the first number above the range
    } rows[] = {
        {"block_count", MODEL_MAX_LAYERS + 1},
        {"context_length", MODEL_MAX_CONTEXT + 1},
        {"embedding_length", MODEL_MAX_DIM + 1},
        {"feed_forward_length", MODEL_MAX_DIM + 1},
        {"attention.head_count", MODEL_MAX_DIM + 1},
        {"attention.head_count_kv", MODEL_MAX_DIM + 1},
        {"attention.key_length", MODEL_MAX_DIM + 1},
        {"attention.value_length", MODEL_MAX_DIM + 1},
        {"rope.dimension_count", MODEL_MAX_DIM + 1},
        {"vocab_size", MODEL_MAX_VOCAB + 1},
        {"rope.scaling.original_context_length", MODEL_MAX_CONTEXT + 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char key[80];
        snprintf(key, sizeof key, "llama.%s", rows[i].key);
        refused_kv(rows[i].key, GGUF_U32, 0, key);
        refused_kv(rows[i].key, GGUF_U32, rows[i].past, key);
        refused_kv(rows[i].key, GGUF_U32, UINT32_MAX, key);
        refused_kv(rows[i].key, GGUF_I32, (uint64_t)-32, key);
        refused_kv(rows[i].key, GGUF_U64, UINT64_MAX, key);
        refused_kv(rows[i].key, GGUF_U64, 1ull << 32, key);
        refused_kv(rows[i].key, GGUF_F32, bits_of(8), key);
        refused_model(&(Spec){.kv = {{rows[i].key, GGUF_STR, 0, "8", NULL}}}, key);
        if (i < 5) refused_kv(rows[i].key, DROP, 0, key);
    }
}

static void test_other_integer_types(void **state) {
    (void)state;
    static const GgufType types[] = {GGUF_U8,  GGUF_I8,  GGUF_U16, GGUF_I16,
                                     GGUF_I32, GGUF_U64, GGUF_I64};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        Case c;
        bound_model(&c, &(Spec){.kv = {{"embedding_length", (int)types[i], DIM, NULL, NULL},
                                       {"block_count", (int)types[i], LAYERS, NULL, NULL}}});
        assert_int_equal(c.model->h.dim, DIM);
        case_close(&c);
    }
}

// Every integer at every corner: refused or bound, never a crash (a division by 0, a shift, a
// size).
static void test_corners(void **state) {
    (void)state;
    static const char *const keys[] = {
        "block_count",          "context_length",         "embedding_length",
        "feed_forward_length",  "attention.head_count",   "attention.head_count_kv",
        "attention.key_length", "attention.value_length", "rope.dimension_count",
        "vocab_size",
    };
    static const uint64_t values[] = {0,        1,        2,          3,        7,         512,
                                      1u << 20, 1u << 24, 0x7fffffff, 1u << 31, UINT32_MAX};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            Case c;
            Spec s = {.kv = {{keys[k], GGUF_U32, values[v], NULL, NULL}}};
            Status st = case_bind(&c, &s);
            assert_true(st == OK || st == ERR_FILE);
            case_close(&c);
        }
    }
}

static void test_heads(void **state) {
    (void)state;
    refused_kv("attention.head_count_kv", GGUF_U32, 3, "llama.attention.head_count_kv is 3");
    refused_kv("attention.head_count_kv", GGUF_U32, 4,
               "a divisor of attention.head_count, which is 2");
    refused_kv("attention.head_count", GGUF_U32, 3, "llama.attention.head_count is 3");
    refused_model(&(Spec){.kv = {{"attention.head_count", GGUF_U32, 3, NULL, NULL},
                                 {"attention.head_count_kv", GGUF_U32, 2, NULL, NULL},
                                 {"attention.key_length", GGUF_U32, 4, NULL, NULL}}},
                  "head_count_kv is 2, expected a divisor");
    refused_kv("attention.key_length", GGUF_U32, 8, "attention.value_length 4, expected the same");
    refused_model(&(Spec){.kv = {{"attention.key_length", GGUF_U32, 1025, NULL, NULL},
                                 {"attention.value_length", GGUF_U32, 1025, NULL, NULL}}},
                  "a head has 1025 elements (llama.attention.key_length");
    refused_model(&(Spec){.kv = {{"attention.key_length", GGUF_U32, 1024, NULL, NULL},
                                 {"attention.value_length", GGUF_U32, 1024, NULL, NULL},
                                 {"attention.head_count", GGUF_U32, 2048, NULL, NULL}}},
                  "2048 heads (llama.attention.head_count) of 1024 elements are more than");
    // Heads that do not divide dim are fine where the head's size is given.
    refused_model(&(Spec){.kv = {{"attention.head_count", GGUF_U32, 3, NULL, NULL},
                                 {"attention.head_count_kv", GGUF_U32, 1, NULL, NULL},
                                 {"attention.key_length", GGUF_U32, 4, NULL, NULL}}},
                  "tensor blk.0.attn_q.weight at byte");
    // No head_count_kv: as many as heads.
    refused_kv("attention.head_count_kv", DROP, 0, "blk.0.attn_k.weight");
}

static void test_layer_arrays(void **state) {
    (void)state;
    static const uint32_t same[] = {1, 1}, differ[] = {1, 2}, ffn[] = {FFN, FFN}, zero[] = {0, 0};
    Case c;
    bound_model(&c, &(Spec){.kv = {{"attention.head_count_kv", ARRAY, 2, NULL, same},
                                   {"feed_forward_length", ARRAY, 2, NULL, ffn}}});
    assert_int_equal(c.model->h.n_kv_heads, 1);
    assert_int_equal(c.model->h.ffn_dim, FFN);
    case_close(&c);
    Spec s = {.kv = {{"attention.head_count_kv", ARRAY, 2, NULL, differ}}};
    refused_model(&s, "llama.attention.head_count_kv differs by layer (layer 0: 1, layer 1: 2)");
    s.kv[0].bits = 1;
    refused_model(&s, "llama.attention.head_count_kv has 1 entries, expected one for each of 2");
    s.kv[0].bits = 0;
    refused_model(&s, "llama.attention.head_count_kv has 0 entries");
    s = (Spec){.kv = {{"attention.head_count", ARRAY, 2, NULL, zero}}};
    refused_model(&s, "llama.attention.head_count is 0");
    s = (Spec){.kv = {{"block_count", ARRAY, 2, NULL, same}}};
    refused_model(&s, "llama.block_count");
}

static void test_floats(void **state) {
    (void)state;
    static const struct {
        const char *key;
        float values[5];
    } rows[] = {
        {"attention.layer_norm_rms_epsilon", {NAN, -1, 0, INFINITY, 2}},
        {"rope.freq_base", {0, NAN, -1, INFINITY, 1}},
        {"rope.scaling.factor", {0, NAN, -1, INFINITY, 1e9f}},
        {"rope.scale_linear", {0, NAN, -1, INFINITY, 1e9f}},
        {"rope.scaling.yarn_beta_fast", {0, NAN, -1, INFINITY, 1e9f}},
        {"rope.scaling.yarn_beta_slow", {0, NAN, -1, INFINITY, 1e9f}},
        {"rope.scaling.yarn_ext_factor", {NAN, INFINITY, 2, NAN, NAN}},
        {"rope.scaling.attn_factor", {0, NAN, -1, INFINITY, 1e9f}},
        {"rope.scaling.yarn_attn_factor", {0, NAN, -1, INFINITY, 1e9f}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char key[80];
        snprintf(key, sizeof key, "llama.%s", rows[i].key);
        for (int v = 0; v < 5; v++) {
            refused_kv(rows[i].key, GGUF_F32, bits_of(rows[i].values[v]), key);
        }
        refused_kv(rows[i].key, GGUF_BOOL, 1, key);
    }
    refused_kv("attention.layer_norm_rms_epsilon", DROP, 0, "rms_epsilon is missing");
}

static void test_rope(void **state) {
    (void)state;
    refused_kv("rope.dimension_count", GGUF_U32, 6,
               "llama.rope.dimension_count is 6, expected an even");
    refused_kv("rope.dimension_count", GGUF_U32, 3,
               "llama.rope.dimension_count is 3, expected an even");
    refused_model(&(Spec){.kv = {{"rope.scaling.type", GGUF_STR, 0, "longrope", NULL}}},
                  "llama.rope.scaling.type is \"longrope\"");
    refused_kv("rope.scaling.type", GGUF_U32, 1, "llama.rope.scaling.type");
    refused_kv("rope.scaling.attn_factor", GGUF_F32, bits_of(2), "without YaRN");
    Case c;
    bound_model(&c, &(Spec){.kv = {{"rope.dimension_count", GGUF_U32, 2, NULL, NULL}}});
    assert_int_equal(c.model->h.n_rot, 2);
    case_close(&c);
    const KeyValue four = {"rope.scaling.factor", GGUF_F32, bits_of(4), NULL, NULL};
    const KeyValue old = {"rope.scale_linear", GGUF_F32, bits_of(3), NULL, NULL};
    bound_model(&c, &(Spec){.kv = {four, old}});
    assert_int_equal(c.model->h.rope_scaling, ROPE_SCALING_LINEAR);
    assert_true(c.model->h.rope_factor == 4);
    case_close(&c);
    bound_model(&c, &(Spec){.kv = {old}});
    assert_int_equal(c.model->h.rope_scaling, ROPE_SCALING_LINEAR);
    assert_true(c.model->h.rope_factor == 3);
    case_close(&c);
    bound_model(&c, &(Spec){.kv = {four, {"rope.scaling.type", GGUF_STR, 0, "none", NULL}}});
    assert_int_equal(c.model->h.rope_scaling, ROPE_SCALING_NONE);
    assert_true(c.model->h.rope_factor == 1);
    case_close(&c);
}

static void test_yarn(void **state) {
    (void)state;
    const KeyValue type = {"rope.scaling.type", GGUF_STR, 0, "yarn", NULL};
    const KeyValue four = {"rope.scaling.factor", GGUF_F32, bits_of(4), NULL, NULL};
    Case c;
    bound_model(&c, &(Spec){.kv = {type, four}});
    const Hparams *h = &c.model->h;
    assert_int_equal(h->rope_scaling, ROPE_SCALING_YARN);
    assert_int_equal(h->rope_n_ctx_orig, 64);
    assert_true(h->rope_factor == 4 && h->yarn_ext_factor == 1 && h->yarn_attn_factor == 1);
    assert_true(h->yarn_beta_fast == 32 && h->yarn_beta_slow == 1);
    case_close(&c);
    bound_model(&c,
                &(Spec){.kv = {type,
                               four,
                               {"rope.scaling.original_context_length", GGUF_U32, 16, NULL, NULL},
                               {"rope.scaling.yarn_beta_fast", GGUF_F32, bits_of(24), NULL, NULL},
                               {"rope.scaling.yarn_ext_factor", GGUF_F32, bits_of(-1), NULL, NULL},
                               {"rope.scaling.attn_factor", GGUF_F32, bits_of(0.5f), NULL, NULL}}});
    h = &c.model->h;
    assert_int_equal(h->rope_n_ctx_orig, 16);
    assert_true(h->yarn_beta_fast == 24 && h->yarn_ext_factor == 1 && h->yarn_attn_factor == 0.5f);
    case_close(&c);
}

static void test_other_arithmetic(void **state) {
    (void)state;
    static const char *const keys[] = {
        "logit_scale",        "residual_scale",         "embedding_scale",
        "attention.scale",    "attn_logit_softcapping", "final_logit_softcapping",
        "attention.clamp_kqv"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        refused_kv(keys[i], GGUF_F32, bits_of(12), keys[i]);
        refused_kv(keys[i], GGUF_F32, bits_of(NAN), keys[i]);
        float neutral = i < 3 ? 1 : i == 3 ? 0.5f : 0;  // 1 / sqrt(4)
        Case c;
        bound_model(&c, &(Spec){.kv = {{keys[i], GGUF_F32, bits_of(neutral), NULL, NULL}}});
        case_close(&c);
    }
    refused_kv("expert_count", GGUF_U32, 8, "llama.expert_count is 8: mixtures of experts");
    refused_kv("attention.causal", GGUF_BOOL, 0, "llama.attention.causal is false");
    Case c;
    bound_model(&c, &(Spec){.kv = {{"expert_count", GGUF_U32, 0, NULL, NULL},
                                   {"attention.causal", GGUF_BOOL, 1, NULL, NULL},
                                   {"attention.sliding_window", GGUF_U32, 64, NULL, NULL}}});
    assert_int_equal(c.n_notices, 0);
    case_close(&c);
    bound_model(&c, &(Spec){.kv = {{"attention.sliding_window", GGUF_U32, 32, NULL, NULL}}});
    assert_int_equal(c.n_notices, 1);
    assert_non_null(
        strstr(c.notice, "llama.attention.sliding_window is 32: attention here is full"));
    case_close(&c);
}

static void test_architectures(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"gemma2", "llama"},
        {"mistral3", "llama"},
        {"granite", "llama"},
        {"exaone", "llama"},
        {"phi3", "llama"},
        {"qwen2moe", "qwen2"},
        {"qwen3moe", "qwen3"},
        {"qwen", "qwen2"},
        {"deepseek2", "llama"},
        {"falcon", "llama"},
        {"gpt2", "llama"},
        {"llama4", "llama"},
        {"quen3", "qwen3"},
        {"kwen2", "qwen2"},
        {"lama", "llama"},
        {"x", "llama"},
        {"", "llama"},
        {"Llama", "llama"},
        {"lllllllllllllllllllllllllllllllllllllllll", "llama"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char words[160];
        snprintf(words, sizeof words,
                 "architecture %s is not supported; the nearest that is is %s ", rows[i][0],
                 rows[i][1]);
        refused_model(&(Spec){.kv = {{"general.architecture", GGUF_STR, 0, rows[i][0], NULL}}},
                      words);
    }
    refused_kv("general.architecture", DROP, 0, "general.architecture");
    refused_kv("general.architecture", GGUF_U32, 7, "general.architecture");
    refused_model(&(Spec){.kv = {{"general.type", GGUF_STR, 0, "adapter", NULL}}},
                  "general.type is \"adapter\"");
}

// --- tensors ----------------------------------------------------------------------------------

static void test_missing(void **state) {
    (void)state;
    static const char *const names[] = {
        "token_embd.weight",        "output_norm.weight",    "blk.0.attn_norm.weight",
        "blk.1.attn_q.weight",      "blk.0.attn_k.weight",   "blk.1.attn_v.weight",
        "blk.0.attn_output.weight", "blk.1.ffn_norm.weight", "blk.0.ffn_gate.weight",
        "blk.1.ffn_up.weight",      "blk.0.ffn_down.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char words[96];
        snprintf(words, sizeof words, "tensor %s is missing", names[i]);
        refused_model(&(Spec){.drop = names[i]}, words);
    }
    refused_model(&(Spec){.arch = "qwen2"}, "tensor blk.0.attn_q.bias is missing");
    refused_model(&(Spec){.arch = "qwen3", .drop = "blk.1.attn_k_norm.weight"},
                  "tensor blk.1.attn_k_norm.weight is missing, expected one of shape [4]");
    refused_kv("block_count", GGUF_U32, 3, "tensor blk.2.attn_norm.weight is missing");
}

static void test_misshapen(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int n_dims;
        uint64_t dims[3];
        const char *words;
    } rows[] = {
        {"blk.0.attn_norm.weight", 1, {9, 1, 1}, "has shape [9], expected [8]"},
        {"blk.0.attn_norm.weight", 2, {8, 2, 1}, "has shape [8, 2], expected [8]"},
        {"blk.0.attn_norm.weight", 2, {8, 1, 1}, "has shape [8, 1], expected [8]"},
        {"blk.1.attn_q.weight", 2, {8, 9, 1}, "has shape [8, 9], expected [8, 8]"},
        {"blk.1.attn_q.weight", 1, {64, 1, 1}, "has shape [64], expected [8, 8]"},
        {"blk.1.attn_k.weight", 2, {4, 8, 1}, "has shape [4, 8], expected [8, 4]"},
        {"blk.1.attn_k.weight", 3, {8, 4, 2}, "has shape [8, 4, 2], expected [8, 4]"},
        {"blk.0.ffn_down.weight", 2, {8, 12, 1}, "has shape [8, 12], expected [12, 8]"},
        {"blk.0.ffn_up.weight", 2, {12, 8, 1}, "has shape [12, 8], expected [8, 12]"},
        {"token_embd.weight", 2, {5, 8, 1}, "has shape [5, 8], expected [8, 8]"},
        {"output.weight", 2, {8, 6, 1}, "has shape [8, 6], expected [8, 5]"},
        {"output_norm.weight", 1, {7, 1, 1}, "has shape [7], expected [8]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Spec s = {.reshape = rows[i].name, .n_dims = rows[i].n_dims};
        memcpy(s.dims, rows[i].dims, sizeof s.dims);
        char words[128];
        snprintf(words, sizeof words, "tensor %s at byte ", rows[i].name);
        refused_model(&s, words);
        refused_model(&s, rows[i].words);
    }
}

static void test_vocabulary(void **state) {
    (void)state;
    refused_model(&(Spec){.n_tokens = VOCAB + 1},
                  "tokenizer.ggml.tokens has 6 tokens, but token_embd.weight has only 5 rows");
    Case c;
    bound_model(&c, &(Spec){.n_tokens = VOCAB - 1});
    assert_int_equal(c.n_notices, 0);
    case_close(&c);
    bound_model(&c, &(Spec){.kv = {{"vocab_size", GGUF_U32, 4, NULL, NULL}}});
    assert_int_equal(c.model->h.n_vocab, VOCAB);
    assert_int_equal(c.n_notices, 1);
    assert_string_equal(c.notice,
                        "llama.vocab_size is 4, token_embd.weight has 5 rows: the rows count");
    case_close(&c);
    bound_model(&c, &(Spec){.kv = {{"vocab_size", GGUF_U32, 5, NULL, NULL}}, .n_tokens = 5});
    assert_int_equal(c.n_notices, 0);
    case_close(&c);
    // A single row, whose trailing dimension of 1 writers drop.
    bound_model(&c,
                &(Spec){.n_vocab = 1, .reshape = "output.weight", .n_dims = 1, .dims = {8, 1, 1}});
    assert_int_equal(c.model->h.n_vocab, 1);
    case_close(&c);
}

static void test_unused(void **state) {
    (void)state;
    Case c;
    bound_model(&c, &(Spec){.extra = {"blk.0.attn_rot_embd", "blk.0.attn_q_norm.weight", "zzz",
                                      "blk.7.attn_q.weight"},
                            .extra_n = 4});
    assert_int_equal(c.n_notices, 1);
    assert_string_equal(c.notice,
                        "3 tensors of the file are not used by the architecture llama, the "
                        "first is blk.0.attn_q_norm.weight");
    case_close(&c);
    bound_model(&c, &(Spec){.extra = {"zzz"}, .extra_n = 4});
    assert_string_equal(c.notice,
                        "1 tensor of the file is not used by the architecture llama, the "
                        "first is zzz");
    case_close(&c);
    bound_model(&c, &(Spec){.extra = {"blk.0.attn_rot_embd", "rope.freqs"}, .extra_n = 4});
    assert_int_equal(c.n_notices, 0);
    case_close(&c);
}

static void test_optional(void **state) {
    (void)state;
    Case c;
    bound_model(&c, &(Spec){.bias = true});
    assert_string_equal(c.model->layers[1].v_bias->name, "blk.1.attn_v.bias");
    assert_int_equal(c.n_notices, 0);
    case_close(&c);
    bound_model(&c,
                &(Spec){.extra = {"blk.1.attn_output.bias", "blk.0.ffn_down.bias"}, .extra_n = 8});
    assert_non_null(c.model->layers[1].attn_out_bias);
    assert_null(c.model->layers[0].attn_out_bias);
    assert_non_null(c.model->layers[0].ffn_down_bias);
    assert_int_equal(c.n_notices, 0);
    case_close(&c);
    refused_model(&(Spec){.extra = {"blk.1.ffn_up.bias"}, .extra_n = 8},
                  "tensor blk.1.ffn_up.bias at byte");
    bound_model(&c, &(Spec){.arch = "qwen3"});
    assert_string_equal(c.model->layers[1].k_norm->name, "blk.1.attn_k_norm.weight");
    case_close(&c);
    bound_model(&c, &(Spec){.arch = "qwen2", .bias = true});
    assert_int_equal(c.model->h.rope_pairing, ROPE_NEOX);
    case_close(&c);
}

static void test_rope_freqs(void **state) {
    (void)state;
    Spec s = {.extra = {"rope_freqs.weight"}, .extra_n = 2, .extra_value = 4};
    Case c;
    bound_model(&c, &s);
    assert_non_null(c.model->rope_freqs);
    assert_int_equal(c.n_notices, 0);
    case_close(&c);
    static const float bad[] = {0, -1, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        s.extra_value = bad[i];
        refused_model(&s, "tensor rope_freqs.weight at byte");
    }
    s.extra_value = 1, s.extra_n = 4;
    refused_model(&s, "tensor rope_freqs.weight at byte");
    refused_model(&(Spec){.extra = {"rope_factors_long.weight"}, .extra_n = 2},
                  "tensor rope_factors_long.weight: longrope scaling is not supported");
    refused_model(&(Spec){.extra = {"rope_factors_short.weight"}, .extra_n = 2}, "longrope");
}

static void test_values(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t at;
        uint32_t bits;
        const char *words;
    } rows[] = {
        {"token_embd.weight", 0, 0x7fc00000, "tensor token_embd.weight, row 0"},
        {"token_embd.weight", 5 * DIM - 1, 0x7f800001, "row 4"},
        {"output.weight", 2 * DIM + 3, 0x7f800000, "row 2"},
        {"output_norm.weight", 7, 0xff800000, "weight 7 is infinite"},
        {"blk.0.attn_norm.weight", 2, 0xffc00000, "weight 2 is NaN"},
        {"blk.1.ffn_down.weight", FFN * DIM - 1, 0x7fc00000, "row 7"},
        {"blk.1.attn_k.bias", 1, 0x7fc00000, "tensor blk.1.attn_k.bias, row 0"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Spec s = {.bias = true, .poison = rows[i].name, .poison_at = rows[i].at};
        s.poison_bits = rows[i].bits;
        Case c;
        bound_model(&c, &s);
        assert_int_equal(model_check_values(c.model, &c.err), ERR_FILE);
        assert_words(&c.err, rows[i].name);
        assert_words(&c.err, rows[i].words);
        case_close(&c);
    }
    // Zero, negative zero, subnormal and the largest finite number are fine.
    static const uint32_t fine[] = {0, 0x80000000, 1, 0x7f7fffff};
    for (int i = 0; i < 4; i++) {
        Case c;
        bound_model(&c, &(Spec){.poison = "output.weight", .poison_bits = fine[i], .tied = false});
        assert_int_equal(model_check_values(c.model, &c.err), OK);
        case_close(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_golden_files),
        cmocka_unit_test(test_stories),
        cmocka_unit_test(test_vocabulary_only),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_other_integer_types),
        cmocka_unit_test(test_corners),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_layer_arrays),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_other_arithmetic),
        cmocka_unit_test(test_architectures),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_misshapen),
        cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_unused),
        cmocka_unit_test(test_optional),
        cmocka_unit_test(test_rope_freqs),
        cmocka_unit_test(test_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
