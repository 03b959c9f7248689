// A model of random weights, one layer of it with random captured arrays, and the search for the
// cause of a wrong component there. What is wrong is computed by each test in its own plain way.
#ifndef PLUMB_TEST_CAUSE_FIXTURE_H
#define PLUMB_TEST_CAUSE_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "verify/cause.h"

typedef struct {
    int dim, ffn, heads, kv_heads, head_dim, vocab, layers;
    TensorType type;
    bool bias, qk_norm, tied;
    size_t n;          // tokens
    const char *acts;  // name of an ActScheme, NULL: "none"
} Shape;

typedef struct {
    const Shape *of;
    Shape s;
    Arena arena;
    uint64_t seed;
    Model model;
    Oracle *oracle;
    Rounding rounding;
    int32_t *tokens, *pos;
    TraceArray seen[N_COMPONENTS], stream, before_seen[N_COMPONENTS];
    Site site, before;
    Cause cause;
} Fix;

static inline void *fix_alloc(Fix *f, size_t n, size_t size) {
    void *p = arena_alloc(&f->arena, n ? n : 1, size);
    assert_non_null(p);
    return p;
}

// Uniform in (0, 1): splitmix64.
static inline double fix_uniform(Fix *f) {
    uint64_t z = f->seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return ((double)(z >> 11) + 0.5) * 0x1p-53;
}

static inline double fix_normal(Fix *f) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += fix_uniform(f);
    return (sum - 2) * 1.7320508075688772;
}

// sd < 0: weights of a norm, 0.5 to 1.5.
static inline const Tensor *fix_tensor(Fix *f, const char *name, TensorType type, int cols,
                                       int rows, double sd) {
    Tensor *t = fix_alloc(f, 1, sizeof *t);
    char *own = fix_alloc(f, strlen(name) + 1, 1);
    memcpy(own, name, strlen(name) + 1);
    const TypeInfo *info = type_info(type);
    const size_t n = (size_t)cols * (size_t)(rows ? rows : 1);
    if (cols % (int)info->block_len) type = TYPE_F32, info = type_info(type);
    float *x = fix_alloc(f, n, sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(sd < 0 ? 0.5 + fix_uniform(f) : sd * fix_normal(f));
    }
    uint8_t *data = fix_alloc(f, n / info->block_len * info->block_bytes, 1);
    quantize(type, x, data, n);
    *t = (Tensor){.name = own,
                  .type = type,
                  .n_dims = rows ? 2 : 1,
                  .dims = {(uint64_t)cols, rows ? (uint64_t)rows : 1, 1, 1},
                  .bytes = n / info->block_len * info->block_bytes,
                  .data = data};
    return t;
}

static inline const Tensor *fix_layer_tensor(Fix *f, int layer, const char *name, TensorType type,
                                             int cols, int rows, double sd) {
    char full[64];
    snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    return fix_tensor(f, full, type, cols, rows, sd);
}

static inline void fix_layer(Fix *f, int l) {
    const Shape *s = &f->s;
    const int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    const TensorType F = TYPE_F32, T = s->type;
    const double sd = 1 / sqrt(s->dim);
    LayerWeights *w = &f->model.layers[l];
    w->attn_norm = fix_layer_tensor(f, l, "attn_norm.weight", F, s->dim, 0, -1);
    w->q = fix_layer_tensor(f, l, "attn_q.weight", T, s->dim, q, sd);
    w->k = fix_layer_tensor(f, l, "attn_k.weight", T, s->dim, kv, sd);
    w->v = fix_layer_tensor(f, l, "attn_v.weight", T, s->dim, kv, sd);
    w->attn_out = fix_layer_tensor(f, l, "attn_output.weight", T, q, s->dim, sd);
    w->ffn_norm = fix_layer_tensor(f, l, "ffn_norm.weight", F, s->dim, 0, -1);
    w->ffn_gate = fix_layer_tensor(f, l, "ffn_gate.weight", T, s->dim, s->ffn, sd);
    w->ffn_up = fix_layer_tensor(f, l, "ffn_up.weight", T, s->dim, s->ffn, sd);
    w->ffn_down = fix_layer_tensor(f, l, "ffn_down.weight", T, s->ffn, s->dim, 1 / sqrt(s->ffn));
    if (s->bias) {
        w->q_bias = fix_layer_tensor(f, l, "attn_q.bias", F, q, 0, 0.3);
        w->k_bias = fix_layer_tensor(f, l, "attn_k.bias", F, kv, 0, 0.3);
        w->v_bias = fix_layer_tensor(f, l, "attn_v.bias", F, kv, 0, 0.3);
    }
    if (s->qk_norm) {
        w->q_norm = fix_layer_tensor(f, l, "attn_q_norm.weight", F, s->head_dim, 0, -1);
        w->k_norm = fix_layer_tensor(f, l, "attn_k_norm.weight", F, s->head_dim, 0, -1);
    }
}

static inline void fix_array(Fix *f, TraceArray *a, Value *v, Component c, int layer, double sd) {
    const size_t width = component_width(&f->model.h, c, f->s.n);
    float *x = fix_alloc(f, f->s.n * width, sizeof *x);
    for (size_t i = 0; i < f->s.n * width; i++) x[i] = (float)(sd * fix_normal(f));
    *a = (TraceArray){{c, layer}, x, f->s.n, width, 0, "fixture"};
    *v = (Value){.seen = a, .width = width};
}

static inline void fix_build(Fix *f, const Shape *s, int layer) {
    f->of = s;
    f->s = *s;
    f->seed = 7;
    f->model.h = (Hparams){.arch = ARCH_LLAMA,
                           .n_layers = s->layers,
                           .dim = s->dim,
                           .ffn_dim = s->ffn,
                           .n_vocab = s->vocab,
                           .n_heads = s->heads,
                           .n_kv_heads = s->kv_heads,
                           .head_dim = s->head_dim,
                           .n_ctx_train = 64,
                           .rms_eps = 1e-5f,
                           .n_rot = s->head_dim,
                           .rope_base = 10000,
                           .rope_factor = 1};
    f->model.layers = fix_alloc(f, (size_t)s->layers, sizeof *f->model.layers);
    f->model.token_embd = fix_tensor(f, "token_embd.weight", s->type, s->dim, s->vocab, 0.5);
    for (int l = 0; l < s->layers; l++) fix_layer(f, l);
    f->model.output_norm = fix_tensor(f, "output_norm.weight", TYPE_F32, s->dim, 0, -1);
    f->model.output =
        s->tied ? f->model.token_embd
                : fix_tensor(f, "output.weight", s->type, s->dim, s->vocab, 1 / sqrt(s->dim));
    f->model.tied = s->tied;
    Error err;
    if (oracle_new(&f->model, 1, &f->oracle, &err)) fail_msg("%s", err.text);
    f->rounding.act = *act_scheme_at(0);
    for (int i = 0; s->acts && act_scheme_at(i); i++) {
        if (strcmp(act_scheme_at(i)->name, s->acts) == 0) f->rounding.act = *act_scheme_at(i);
    }
    f->rounding.attn = *attn_scheme_at(0);
    f->rounding.act_declared = f->rounding.attn_declared = true;
    f->tokens = fix_alloc(f, s->n, sizeof *f->tokens), f->pos = fix_alloc(f, s->n, sizeof *f->pos);
    for (size_t i = 0; i < s->n; i++) {  // distinct, and no steps from one to the next
        f->tokens[i] = (int32_t)(fix_uniform(f) * s->vocab), f->pos[i] = (int32_t)i;
        for (size_t j = 0; j < i; j++) {
            if (f->tokens[j] == f->tokens[i])
                f->tokens[i] = (f->tokens[i] + 1) % s->vocab, j = SIZE_MAX;
        }
    }
    f->site = (Site){.oracle = f->oracle,
                     .model = &f->model,
                     .rounding = &f->rounding,
                     .tokens = f->tokens,
                     .pos = f->pos,
                     .n = s->n,
                     .layer = layer,
                     .w = layer >= 0 ? &f->model.layers[layer] : NULL};
    f->before = f->site;
    f->before.layer = layer >= 0 ? layer - 1 : s->layers - 1;
    if (f->before.layer >= 0) {
        f->before.w = &f->model.layers[f->before.layer];
        f->site.before = &f->before;
    }
    fix_array(f, &f->stream, &f->site.stream, COMP_L_OUT, layer, 0.05);
    for (Component c = COMP_ATTN_NORM; c <= COMP_LOGITS; c++) {
        if (component_is_scores(c) || c == COMP_K_CACHE || c == COMP_V_CACHE) continue;
        fix_array(f, &f->seen[c], &f->site.at[c], c, layer, c == COMP_FFN_INP ? 0.05 : 1);
        fix_array(f, &f->before_seen[c], &f->before.at[c], c, f->before.layer, 1);
    }
}

// layer: the site's, -1: embd, norm and logits. What was built once is kept for the next test; a
// test may change its copy's rounding and values, and free it.
static inline Fix *fix_new(const Shape *s, int layer) {
    static Fix *kept[32];
    size_t i = 0;
    while (i < 32 && kept[i] && (kept[i]->of != s || kept[i]->site.layer != layer)) i++;
    assert_true(i < 32);
    if (!kept[i]) {
        kept[i] = calloc(1, sizeof *kept[i]);
        assert_non_null(kept[i]);
        fix_build(kept[i], s, layer);
    }
    Fix *f = malloc(sizeof *f);
    assert_non_null(f);
    *f = *kept[i];
    f->arena = (Arena){0};
    f->site.rounding = f->before.rounding = &f->rounding;
    f->site.model = f->before.model = &kept[i]->model;
    if (f->site.before) f->site.before = &f->before;
    return f;
}

static inline void fix_free(Fix *f) {
    arena_free(&f->arena);
    free(f);
}

// One that is no other test's: all of it may be changed.
static inline Fix *fix_own(const Shape *s, int layer) {
    Fix *f = calloc(1, sizeof *f);
    assert_non_null(f);
    fix_build(f, s, layer);
    return f;
}

static inline void fix_own_free(Fix *f) {
    oracle_free(f->oracle);
    fix_free(f);
}

static inline size_t fix_width(const Fix *f, Component c) {
    return component_width(&f->model.h, c, f->s.n);
}

// The right result, as a float32 engine has it: of all rows.
static inline float *fix_right(Fix *f, Component c) {
    const size_t width = fix_width(f, c);
    float *got = fix_alloc(f, f->s.n * width, sizeof *got);
    size_t *row = fix_alloc(f, f->s.n, sizeof *row);
    for (size_t i = 0; i < f->s.n; i++) row[i] = i;
    Expected e;
    Error err;
    if (expect(&f->site, c, row, f->s.n, &e, &err)) fail_msg("%s", err.text);
    for (size_t i = 0; i < f->s.n * width; i++) got[i] = (float)e.y[i];
    expected_free(&e);
    return got;
}

// Looks for the cause of `got`, all rows of component c.
static inline const Cause *fix_find(Fix *f, Component c, const float *got) {
    const size_t width = fix_width(f, c), n = f->s.n;
    const size_t group = component_group(&f->model.h, c, width), groups = width / group;
    Cell *all = fix_alloc(f, n * groups, sizeof *all),
         *cells = fix_alloc(f, 8 * groups, sizeof *cells);
    size_t *row = fix_alloc(f, n, sizeof *row), n_rows = 0;
    float *some = fix_alloc(f, 8 * width, sizeof *some);
    Expected e;
    Error err;
    for (size_t i = 0; i < n; i++) row[i] = i;
    if (expect(&f->site, c, row, n, &e, &err)) fail_msg("%s", err.text);
    compare_cells(&e, got, c, group, f->rounding.out[c], all);
    expected_free(&e);
    for (int good = 0; good < 2; good++) {
        const size_t most = n_rows + 4;
        for (size_t i = 0; i < n && n_rows < most; i++) {
            if ((compare_worst(all + i * groups, groups).ratio <= 1) == good) row[n_rows++] = i;
        }
        if (!good) assert_true(n_rows > 0);
    }
    for (size_t r = 0; r < n_rows; r++) memcpy(some + r * width, got + row[r] * width, width * 4);
    if (expect(&f->site, c, row, n_rows, &e, &err)) fail_msg("%s", err.text);
    compare_cells(&e, some, c, group, f->rounding.out[c], cells);
    const CauseCase k = {.site = &f->site,
                         .c = c,
                         .row = row,
                         .n_rows = n_rows,
                         .got = some,
                         .want = &e,
                         .cells = cells,
                         .all = all,
                         .all_rows = n,
                         .groups = groups};
    if (cause_find(&k, &f->cause, &err)) fail_msg("%s", err.text);
    expected_free(&e);
    assert_true(f->cause.pattern[0] != '\0');
    assert_true(strlen(f->cause.pattern) < sizeof f->cause.pattern - 1);
    return &f->cause;
}

static inline void fix_print(const Fix *f, const char *why) {
    const Cause *c = &f->cause;
    print_message("%s: %s; %s\n", why, certainty_name(c->certainty), c->pattern);
    for (size_t i = 0; i < c->n_fits; i++) {
        print_message("  %s (%.2g): %s\n", c->fits[i].id, c->fits[i].ratio, c->fits[i].text);
    }
}

// Exactly this cause, with these words in its text (or NULL).
static inline void fix_named(Fix *f, Component c, const float *got, const char *id,
                             const char *words) {
    const Cause *cause = fix_find(f, c, got);
    if (cause->certainty != CAUSE_CERTAIN || strcmp(cause->fits[0].id, id) != 0 ||
        (words && !strstr(cause->fits[0].text, words))) {
        fix_print(f, component_name(c));
        fail_msg("expected %s%s%s", id, words ? ": " : "", words ? words : "");
    }
    assert_true(cause->fits[0].ratio <= 1 && cause->n_fits == 1);
}

static inline void fix_unknown(Fix *f, Component c, const float *got) {
    const Cause *cause = fix_find(f, c, got);
    if (cause->certainty == CAUSE_UNKNOWN) return;
    fix_print(f, component_name(c));
    fail_msg("expected no cause");
}

// A matrix as floats, rows of inputs.
static inline float *fix_decoded(Fix *f, const Tensor *t) {
    const size_t n = (size_t)(t->dims[0] * t->dims[1]);
    float *w = fix_alloc(f, n, sizeof *w);
    dequantize(t->type, t->data, w, n);
    return w;
}

// y = x W^T + b in float32, as plainly as can be; x is rounded as the run's scheme says.
static inline float *fix_matmul(Fix *f, const float *w, TensorType type, const float *bias,
                                const float *x, size_t rows, size_t inputs, size_t outputs) {
    float *y = fix_alloc(f, rows * outputs, sizeof *y);
    double *rounded = fix_alloc(f, rows * inputs, sizeof *rounded);
    for (size_t i = 0; i < rows * inputs; i++) rounded[i] = x[i];
    act_round(f->rounding.act.way[type], rounded, NULL, rows, inputs, rounded, NULL, NULL);
    for (size_t r = 0; r < rows; r++) {
        for (size_t o = 0; o < outputs; o++) {
            float sum = 0;
            for (size_t i = 0; i < inputs; i++) {
                sum += w[o * inputs + i] * (float)rounded[r * inputs + i];
            }
            y[r * outputs + o] = sum + (bias ? bias[o] : 0);
        }
    }
    return y;
}

#endif
