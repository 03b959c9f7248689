// The mixes, as llama.cpp's quantizer makes them when it has no importance matrix.
//
// This file owns: the table of mixes and the rule for each tensor. The rules were found by trying,
// in llama.cpp, and are followed here so that a file of ours has the size and the types that its
// name promises: attn_v and ffn_down lose most when they are coarse, and so do the first and last
// layers. It leaves to others: encoding (quants.h), files (requantize.h).
#include "formats/mix.h"

#include <string.h>
#include <strings.h>

// general.file_type, as llama.cpp numbers them.
enum {
    Q2_K_MIX = 10,
    Q3_K_M = 12,
    Q3_K_L = 13,
    Q4_K_S = 14,
    Q4_K_M = 15,
    Q5_K_M = 17,
    IQ4_NL_MIX = 25
};

static const Mix mixes[] = {
    {"F32", 0, TYPE_F32},          {"F16", 1, TYPE_F16},
    {"BF16", 32, TYPE_BF16},       {"Q4_0", 2, TYPE_Q4_0},
    {"Q4_1", 3, TYPE_Q4_1},        {"Q5_0", 8, TYPE_Q5_0},
    {"Q5_1", 9, TYPE_Q5_1},        {"Q8_0", 7, TYPE_Q8_0},
    {"Q2_K", Q2_K_MIX, TYPE_Q2_K}, {"Q3_K_S", 11, TYPE_Q3_K},
    {"Q3_K_M", Q3_K_M, TYPE_Q3_K}, {"Q3_K_L", Q3_K_L, TYPE_Q3_K},
    {"Q4_K_S", Q4_K_S, TYPE_Q4_K}, {"Q4_K_M", Q4_K_M, TYPE_Q4_K},
    {"Q5_K_S", 16, TYPE_Q5_K},     {"Q5_K_M", Q5_K_M, TYPE_Q5_K},
    {"Q6_K", 18, TYPE_Q6_K},       {"IQ4_NL", IQ4_NL_MIX, TYPE_IQ4_NL},
};
enum { N_MIXES = sizeof mixes / sizeof mixes[0] };

// File types that exist and that this build cannot make.
static const struct {
    uint32_t file_type;
    const char *name;
} others[] = {
    {19, "IQ2_XXS"}, {20, "IQ2_XS"}, {21, "Q2_K_S"}, {22, "IQ3_XS"}, {23, "IQ3_XXS"},
    {24, "IQ1_S"},   {26, "IQ3_S"},  {27, "IQ3_M"},  {28, "IQ2_S"},  {29, "IQ2_M"},
    {30, "IQ4_XS"},  {31, "IQ1_M"},  {36, "TQ1_0"},  {37, "TQ2_0"},  {38, "MXFP4_MOE"},
};

const Mix *mix_at(int i) {
    return i >= 0 && i < N_MIXES ? &mixes[i] : NULL;
}

const Mix *mix_by_name(const char *name) {
    static const char *const shorts[][2] = {
        {"Q3_K", "Q3_K_M"}, {"Q4_K", "Q4_K_M"}, {"Q5_K", "Q5_K_M"}};
    for (int i = 0; i < 3; i++) {
        if (strcasecmp(name, shorts[i][0]) == 0) name = shorts[i][1];
    }
    for (int i = 0; i < N_MIXES; i++) {
        if (strcasecmp(name, mixes[i].name) == 0) return &mixes[i];
    }
    return NULL;
}

const char *mix_name_of_file_type(uint32_t file_type) {
    for (int i = 0; i < N_MIXES; i++) {
        if (mixes[i].file_type == file_type) return mixes[i].name;
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (others[i].file_type == file_type) return others[i].name;
    }
    return NULL;
}

// The first and the last eighth of the layers, and every third one between.
static bool matters_more(int layer, int n) {
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

static TensorType attn_v_type(const Mix *mix, const MixModel *m, int layer) {
    // With many heads on one KV head, attn_v is small, and its error is shared by all of them.
    bool shared = m->n_kv_heads > 0 && m->n_heads / m->n_kv_heads >= 4;
    TensorType t = mix->base;
    switch (mix->file_type) {
        case Q2_K_MIX: t = shared ? TYPE_Q4_K : TYPE_Q3_K; break;
        case Q3_K_M: t = layer < 2 ? TYPE_Q5_K : TYPE_Q4_K; break;
        case Q3_K_L: t = TYPE_Q5_K; break;
        case Q4_K_S: t = layer < 4 ? TYPE_Q5_K : t; break;
        case Q4_K_M:
        case Q5_K_M: t = matters_more(layer, m->n_layers) ? TYPE_Q6_K : t; break;
        case IQ4_NL_MIX: t = shared ? TYPE_Q5_K : t; break;
        default: break;
    }
    // Llama's 70B model, which llama.cpp knows by its 80 layers.
    bool is_70b = m->n_layers == 80 && m->n_heads != m->n_kv_heads;
    return is_70b && (t == TYPE_Q3_K || t == TYPE_Q4_K) ? TYPE_Q5_K : t;
}

static TensorType ffn_down_type(const Mix *mix, const MixModel *m, int layer) {
    int n = m->n_layers;
    switch (mix->file_type) {
        case Q2_K_MIX: return TYPE_Q3_K;
        case Q3_K_M: return layer < n / 16 ? TYPE_Q5_K : TYPE_Q4_K;
        case Q3_K_L: return TYPE_Q5_K;
        case Q4_K_M:
        case Q5_K_M: return matters_more(layer, n) ? TYPE_Q6_K : mix->base;
        case Q4_K_S:
        case IQ4_NL_MIX: return layer < n / 8 ? TYPE_Q5_K : mix->base;
        default: return mix->base;
    }
}

static TensorType attn_output_type(const Mix *mix) {
    switch (mix->file_type) {
        case Q2_K_MIX: return TYPE_Q3_K;
        case Q3_K_M: return TYPE_Q4_K;
        case Q3_K_L: return TYPE_Q5_K;
        default: return mix->base;
    }
}

static bool fits(TensorType type, uint64_t n_cols) {
    return n_cols % type_info(type)->block_len == 0;
}

// What a tensor gets instead whose rows are no whole number of blocks.
static TensorType fall_back(TensorType type, uint64_t n_cols) {
    if (fits(type, n_cols)) return type;
    switch (type) {
        case TYPE_Q2_K:
        case TYPE_Q3_K: type = TYPE_Q4_0; break;
        case TYPE_Q4_K: type = TYPE_Q5_0; break;
        case TYPE_Q5_K: type = TYPE_Q5_1; break;
        case TYPE_Q6_K: type = TYPE_Q8_0; break;
        default: break;
    }
    return fits(type, n_cols) ? type : TYPE_F16;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && memcmp(s + n - k, end, k) == 0;
}

bool mix_keeps(const char *name, int n_dims) {
    return n_dims < 2 || !ends_with(name, ".weight") || ends_with(name, "_norm.weight") ||
           ends_with(name, "ffn_gate_inp.weight");
}

// L of "blk.L.", at most a million; 0 for other names.
static int layer_of(const char *name) {
    int layer = 0;
    if (strncmp(name, "blk.", 4) != 0) return 0;
    for (name += 4; *name >= '0' && *name <= '9' && layer < 100000; name++) {
        layer = 10 * layer + (*name - '0');
    }
    return layer;
}

TensorType mix_type(const Mix *mix, const MixModel *model, const char *name, int n_dims,
                    uint64_t n_cols) {
    if (mix_keeps(name, n_dims)) return TYPE_F32;
    if (type_info(mix->base)->block_len == 1) return mix->base;
    TensorType type = mix->base;
    bool output = strcmp(name, "output.weight") == 0 ||
                  (model->tied && strcmp(name, "token_embd.weight") == 0);
    int layer = layer_of(name);
    if (output) {
        type = type == TYPE_Q8_0 || !fits(type, n_cols) ? TYPE_Q8_0 : TYPE_Q6_K;
    } else if (ends_with(name, "attn_v.weight")) {
        type = attn_v_type(mix, model, layer);
    } else if (ends_with(name, "ffn_down.weight")) {
        type = ffn_down_type(mix, model, layer);
    } else if (ends_with(name, "attn_output.weight")) {
        type = attn_output_type(mix);
    }
    return fall_back(type, n_cols);
}
