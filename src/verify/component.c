// Names of components; see component.h.
#include "verify/component.h"

#include <stdio.h>
#include <string.h>

#include "base/status.h"

static const char *const names[N_COMPONENTS] = {
    [COMP_EMBD] = "embd",
    [COMP_ATTN_NORM] = "attn_norm",
    [COMP_Q] = "q",
    [COMP_K] = "k",
    [COMP_V] = "v",
    [COMP_Q_NORM] = "q_norm",
    [COMP_K_NORM] = "k_norm",
    [COMP_Q_ROPE] = "q_rope",
    [COMP_K_ROPE] = "k_rope",
    [COMP_K_CACHE] = "k_cache",
    [COMP_V_CACHE] = "v_cache",
    [COMP_KQ] = "kq",
    [COMP_ATTN] = "attn",
    [COMP_KQ_SOFT_MAX] = "kq_soft_max",
    [COMP_ATTN_OUT] = "attn_out",
    [COMP_FFN_INP] = "ffn_inp",
    [COMP_FFN_NORM] = "ffn_norm",
    [COMP_FFN_GATE] = "ffn_gate",
    [COMP_FFN_UP] = "ffn_up",
    [COMP_FFN_ACT] = "ffn_act",
    [COMP_FFN_OUT] = "ffn_out",
    [COMP_L_OUT] = "l_out",
    [COMP_NORM] = "norm",
    [COMP_LOGITS] = "logits",
    [COMP_PROBS] = "probs",
    [COMP_TOKEN] = "token",
};

typedef struct {
    const char *text;
    Component c;
    bool weak, repeats;
} Alias;

// As the evaluation callback of llama.cpp sees them (its graph builder's names, "-LAYER" behind
// them). The weak ones meant other things in other years: kqv_out was the output projection while
// the joined heads were kqv_merged_cont.
static const Alias llama_cpp[] = {
    {"attn_norm", COMP_ATTN_NORM, false, false},
    {"Qcur", COMP_Q_ROPE, false, true},
    {"Kcur", COMP_K_ROPE, false, true},
    {"Vcur", COMP_V, false, true},
    {"Qcur_normed", COMP_Q_NORM, false, false},
    {"Kcur_normed", COMP_K_NORM, false, false},
    {"kq", COMP_KQ, false, false},
    {"kq_soft_max", COMP_KQ_SOFT_MAX, false, false},
    {"kq_soft_max_ext", COMP_KQ_SOFT_MAX, false, false},
    {"kqv_merged_cont", COMP_ATTN, false, false},
    {"kqv_out", COMP_ATTN, true, false},
    {"attn_out", COMP_ATTN_OUT, false, false},
    {"ffn_inp", COMP_FFN_INP, false, false},
    {"ffn_norm", COMP_FFN_NORM, false, false},
    {"ffn_gate", COMP_FFN_GATE, false, false},
    {"ffn_up", COMP_FFN_UP, false, false},
    {"ffn_swiglu", COMP_FFN_ACT, false, false},
    {"ffn_gate_par", COMP_FFN_ACT, false, false},
    {"ffn_out", COMP_FFN_OUT, false, false},
    {"l_out", COMP_L_OUT, false, false},
};

// Those that stand outside the layers. "norm" is Plumb's and comes as such, but llama.cpp has one
// too, before the weights: it gives way to result_norm.
static const Alias llama_cpp_whole[] = {{"inp_embd", COMP_EMBD, false, false},
                                        {"result_norm", COMP_NORM, false, false},
                                        {"result_output", COMP_LOGITS, false, false}};

// Below "model.layers.LAYER". The output of self_attn and mlp is that of their last projection, so
// a trace of all modules has both.
static const Alias transformers[] = {
    {".input_layernorm", COMP_ATTN_NORM, false, false},
    {".self_attn.q_proj", COMP_Q, false, false},
    {".self_attn.k_proj", COMP_K, false, false},
    {".self_attn.v_proj", COMP_V, false, false},
    {".self_attn.q_norm", COMP_Q_NORM, false, false},
    {".self_attn.k_norm", COMP_K_NORM, false, false},
    {".self_attn.o_proj.input", COMP_ATTN, false, false},
    {".self_attn.o_proj", COMP_ATTN_OUT, false, false},
    {".self_attn", COMP_ATTN_OUT, true, false},
    {".post_attention_layernorm.input", COMP_FFN_INP, false, false},
    {".post_attention_layernorm", COMP_FFN_NORM, false, false},
    {".mlp.gate_proj", COMP_FFN_GATE, false, false},
    {".mlp.up_proj", COMP_FFN_UP, false, false},
    {".mlp.down_proj.input", COMP_FFN_ACT, false, false},
    {".mlp.down_proj", COMP_FFN_OUT, false, false},
    {".mlp", COMP_FFN_OUT, true, false},
    {"", COMP_L_OUT, false, false},
};

static const Alias transformers_whole[] = {{"model.embed_tokens", COMP_EMBD, false, false},
                                           {"model.norm", COMP_NORM, false, false},
                                           {"lm_head", COMP_LOGITS, false, false}};

#define COUNT(table) (sizeof(table) / sizeof *(table))

const char *component_name(Component c) {
    return names[c];
}

static bool by_name(const char *text, size_t len, Component *out) {
    for (int c = 0; c < N_COMPONENTS; c++) {
        if (strlen(names[c]) != len || memcmp(names[c], text, len) != 0) continue;
        *out = (Component)c;
        return true;
    }
    return false;
}

bool component_by_name(const char *name, Component *out) {
    return by_name(name, strlen(name), out);
}

bool component_in_layer(Component c) {
    return c != COMP_EMBD && c < COMP_NORM;
}

const char *component_text(ComponentRef ref, char out[COMPONENT_TEXT]) {
    CHECK(ref.layer >= -1 && ref.layer <= COMPONENT_MAX_LAYER);
    if (ref.layer < 0)
        snprintf(out, COMPONENT_TEXT, "%s", names[ref.c]);
    else
        snprintf(out, COMPONENT_TEXT, "blk.%d.%s", ref.layer, names[ref.c]);
    return out;
}

long component_order(ComponentRef ref) {
    if (component_in_layer(ref.c)) return (ref.layer + 1L) * N_COMPONENTS + ref.c;
    return ref.c == COMP_EMBD ? 0 : (COMPONENT_MAX_LAYER + 2L) * N_COMPONENTS + ref.c;
}

// A number of at most five digits at *at; steps over it.
static bool take_number(const char *text, size_t len, size_t *at, int *out) {
    const size_t from = *at;
    *out = 0;
    while (*at < len && *at - from < 5 && text[*at] >= '0' && text[*at] <= '9') {
        *out = *out * 10 + (text[*at] - '0');
        ++*at;
    }
    return *at > from && *out <= COMPONENT_MAX_LAYER;
}

static bool take_prefix(const char *text, size_t len, size_t *at, const char *prefix) {
    const size_t n = strlen(prefix);
    if (len - *at < n || memcmp(text + *at, prefix, n) != 0) return false;
    *at += n;
    return true;
}

static const Alias *find(const Alias *table, size_t n, const char *text, size_t len) {
    for (size_t i = 0; i < n; i++) {
        if (strlen(table[i].text) == len && memcmp(table[i].text, text, len) == 0) return &table[i];
    }
    return NULL;
}

static bool set(ComponentName *out, const Alias *a, int layer, NameStyle style) {
    if (!a) return false;
    *out = (ComponentName){{a->c, layer}, style, a->repeats ? 0 : -1, a->weak};
    return true;
}

static bool parse_plumb(const char *text, size_t len, ComponentName *out) {
    size_t at = 0;
    int layer = -1;
    Component c;
    if (take_prefix(text, len, &at, "blk.") &&
        (!take_number(text, len, &at, &layer) || !take_prefix(text, len, &at, "."))) {
        return false;
    }
    if (!by_name(text + at, len - at, &c) || component_in_layer(c) != (layer >= 0)) return false;
    // llama.cpp's own "embd" and "norm" beside "inp_embd" and "result_norm" give way to them.
    *out = (ComponentName){{c, layer}, NAMES_PLUMB, -1, c == COMP_EMBD || c == COMP_NORM};
    return true;
}

// "Qcur-3", "Qcur-3#1"
static bool parse_llama_cpp(const char *text, size_t len, ComponentName *out) {
    const char *dash = memchr(text, '-', len);
    if (!dash)
        return set(out, find(llama_cpp_whole, COUNT(llama_cpp_whole), text, len), -1,
                   NAMES_LLAMA_CPP);
    size_t at = (size_t)(dash - text) + 1;
    int layer, nth = 0;
    const Alias *a = find(llama_cpp, COUNT(llama_cpp), text, at - 1);
    if (!a || !take_number(text, len, &at, &layer)) return false;
    if (a->repeats && take_prefix(text, len, &at, "#") && !take_number(text, len, &at, &nth)) {
        return false;
    }
    set(out, a, layer, NAMES_LLAMA_CPP);
    if (a->repeats) out->nth = nth;
    return at == len;
}

static bool parse_transformers(const char *text, size_t len, ComponentName *out) {
    size_t at = 0;
    int layer;
    if (!take_prefix(text, len, &at, "model.layers.")) {
        return set(out, find(transformers_whole, COUNT(transformers_whole), text, len), -1,
                   NAMES_TRANSFORMERS);
    }
    return take_number(text, len, &at, &layer) &&
           set(out, find(transformers, COUNT(transformers), text + at, len - at), layer,
               NAMES_TRANSFORMERS);
}

bool component_parse(const char *text, size_t len, ComponentName *out) {
    return parse_plumb(text, len, out) || parse_llama_cpp(text, len, out) ||
           parse_transformers(text, len, out);
}

bool component_occurrence(Component last, int nth, int n, Component *out) {
    *out = last;
    if (nth == n - 1) return true;
    *out = last == COMP_Q_ROPE ? COMP_Q : COMP_K;
    return nth == n - 2 && (last == COMP_Q_ROPE || last == COMP_K_ROPE);
}
