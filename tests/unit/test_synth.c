// Synthetic models: they load, have the shape that was asked for, and are the same bytes
// everywhere.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "formats/synth.h"

static char dir[] = "/tmp/plumb-synth-XXXXXX";

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    return rmdir(dir);
}

static void make(const SynthShape *shape, const char *mix, uint64_t seed, int n_threads,
                 const char *path) {
    Error err;
    Pool *pool;
    assert_non_null(shape);
    assert_int_equal(pool_create(n_threads, &pool, &err), OK);
    if (synth_write(shape, mix_by_name(mix), seed, path, pool, (Progress){0}, &err)) {
        fail_msg("%s", err.text);
    }
    pool_free(pool);
}

static uint64_t digest_of(const char *path) {
    Text t = {0};
    Error err;
    uint64_t h = 0xcbf29ce484222325u;  // FNV-1a
    assert_int_equal(file_read(path, 1u << 30, &t, &err), OK);
    for (size_t i = 0; i < t.len; i++) h = (h ^ (uint8_t)t.data[i]) * 0x100000001b3u;
    text_free(&t);
    return h;
}

static Gguf *open_model(const char *path) {
    Gguf *g;
    Error err;
    if (gguf_open(path, &g, &err)) fail_msg("%s", err.text);
    return g;
}

static void same_bytes_with_any_threads(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s/a.gguf", dir);
    make(synth_by_name("tiny-256"), "Q4_K_M", 1, 1, path);
    uint64_t one = digest_of(path);
    make(synth_by_name("tiny-256"), "Q4_K_M", 1, 2, path);
    assert_true(digest_of(path) == one);
    make(synth_by_name("tiny-256"), "Q4_K_M", 1, 3, path);
    assert_true(digest_of(path) == one);
    if (one != 0x700cb0d54bcb32beu) fail_msg("digest 0x%016llx", (unsigned long long)one);
    make(synth_by_name("tiny-256"), "Q4_K_M", 2, 2, path);
    assert_true(digest_of(path) != one);
    unlink(path);
}

static void expect_u32(const Gguf *g, const char *arch, const char *what, int expected) {
    char key[64];
    uint32_t v = 0;
    Error err;
    snprintf(key, sizeof key, "%s.%s", arch, what);
    if (gguf_get_u32(g, key, &v, NULL, &err)) fail_msg("%s", err.text);
    assert_int_equal(v, expected);
}

static void expect_tensor(const Gguf *g, const char *name, int n_cols, int n_rows) {
    const Tensor *t = gguf_tensor(g, name);
    if (!t) fail_msg("%s is missing", name);
    assert_int_equal(t->dims[0], n_cols);
    assert_int_equal(t->dims[1], n_rows);
}

// Every mix can be made of every small shape, and says the right sizes.
static void small_shapes_load_in_every_mix(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s/b.gguf", dir);
    static const char *const names[] = {"tiny", "tiny-256"};
    for (int k = 0; k < 2; k++) {
        const SynthShape *s = synth_by_name(names[k]);
        for (int i = 0; mix_at(i); i++) {
            make(s, mix_at(i)->name, 3, 2, path);
            Gguf *g = open_model(path);
            expect_u32(g, "llama", "embedding_length", s->dim);
            expect_u32(g, "llama", "block_count", s->n_layers);
            expect_u32(g, "llama", "attention.head_count", s->n_heads);
            expect_u32(g, "llama", "attention.head_count_kv", s->n_kv_heads);
            expect_u32(g, "llama", "rope.dimension_count", s->head_dim);
            expect_u32(g, "llama", "vocab_size", s->vocab_size);
            expect_u32(g, "general", "file_type", (int)mix_at(i)->file_type);
            expect_tensor(g, "token_embd.weight", s->dim, s->vocab_size);
            expect_tensor(g, "blk.2.attn_q.weight", s->dim, s->n_heads * s->head_dim);
            expect_tensor(g, "blk.2.attn_k.weight", s->dim, s->n_kv_heads * s->head_dim);
            expect_tensor(g, "blk.0.attn_output.weight", s->n_heads * s->head_dim, s->dim);
            expect_tensor(g, "blk.0.ffn_down.weight", s->ffn_dim, s->dim);
            expect_tensor(g, "output.weight", s->dim, s->vocab_size);
            uint64_t weights = 0;
            for (size_t t = 0; t < gguf_n_tensors(g); t++) {
                weights += gguf_tensor_at(g, t)->dims[0] * gguf_tensor_at(g, t)->dims[1];
            }
            assert_int_equal(weights, synth_weights(s));
            gguf_close(g);
        }
    }
    unlink(path);
}

// Published parameter counts.
static void sizes_of_the_known_models(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint64_t weights;
    } all[] = {
        {"tinyllama-1.1b", 1100048384}, {"llama-3.2-1b", 1235814400 + 32},
        {"llama-2-7b", 6738415616},     {"mistral-7b", 7248023552},
        {"qwen2.5-0.5b", 494032768},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const SynthShape *s = synth_by_name(all[i].name);
        assert_non_null(s);
        assert_int_equal(synth_weights(s), all[i].weights);
    }
    assert_null(synth_by_name("gpt-2"));
    assert_null(synth_at(-1));
    assert_ptr_equal(synth_by_name("TinyLlama-1.1B"), synth_at(0));
}

static int by_text(const void *a, const void *b) {
    const GgufStr *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int c = memcmp(x->ptr, y->ptr, n);
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

static void check_vocab(const Gguf *g, uint64_t n, bool bytes) {
    const GgufValue *tokens, *scores, *types;
    Error err;
    assert_int_equal(gguf_get_array(g, "tokenizer.ggml.tokens", GGUF_STR, &tokens, NULL, &err), OK);
    assert_int_equal(gguf_get_array(g, "tokenizer.ggml.scores", GGUF_F32, &scores, NULL, &err), OK);
    assert_int_equal(gguf_get_array(g, "tokenizer.ggml.token_type", GGUF_I32, &types, NULL, &err),
                     OK);
    assert_int_equal(tokens->n, n);
    assert_int_equal(scores->n, n);
    assert_int_equal(types->n, n);
    uint64_t n_bytes = 0;
    for (uint64_t i = 0; i < n; i++) n_bytes += gguf_elem_i64(types, i) == 6;
    assert_int_equal(n_bytes, bytes ? 256 : 0);
    GgufStr *sorted = malloc(n * sizeof *sorted);
    assert_non_null(sorted);
    memcpy(sorted, tokens->strs, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_text);
    for (uint64_t i = 0; i < n; i++) {
        assert_true(sorted[i].len > 0);
        if (i && by_text(&sorted[i - 1], &sorted[i]) == 0) {
            fail_msg("token %.*s is there twice", (int)sorted[i].len, sorted[i].ptr);
        }
    }
    free(sorted);
}

// One layer of a big vocabulary, biases, llama3 frequencies and a tied output.
static void vocabulary_biases_and_frequencies(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s/c.gguf", dir);
    SynthShape s = *synth_by_name("qwen2.5-0.5b");
    s.n_layers = 1, s.dim = s.ffn_dim = 64, s.n_heads = s.n_kv_heads = 1;
    make(&s, "Q8_0", 1, 2, path);
    Gguf *g = open_model(path);
    check_vocab(g, 151936, true);
    expect_tensor(g, "blk.0.attn_q.bias", 64, 1);
    expect_tensor(g, "blk.0.attn_v.bias", 64, 1);
    assert_null(gguf_tensor(g, "output.weight"));
    assert_null(gguf_tensor(g, "rope_freqs.weight"));
    gguf_close(g);

    s = *synth_by_name("llama-3.2-1b");
    s.n_layers = 1, s.dim = s.ffn_dim = 64, s.n_heads = s.n_kv_heads = 1, s.vocab_size = 3;
    make(&s, "F32", 1, 1, path);
    g = open_model(path);
    check_vocab(g, 3, false);
    const Tensor *t = gguf_tensor(g, "rope_freqs.weight");
    assert_non_null(t);
    assert_int_equal(t->dims[0], 32);
    for (int i = 0; i < 32; i++) {
        float got;
        memcpy(&got, t->data + 4 * i, 4);
        double wave = 2 * acos(-1) * pow(500000, i / 32.0);
        double smooth = fmin(1, fmax(0, (8192 / wave - 1) / 3));
        double expected = 1 / ((1 - smooth) / 32 + smooth);
        assert_true(fabs((double)got - expected) < 1e-5 * expected);
    }
    gguf_close(g);

    make(synth_by_name("tiny"), "F32", 1, 1, path);
    g = open_model(path);
    check_vocab(g, 99, false);
    gguf_close(g);
    unlink(path);
}

// Mean, spread and tails of what is called random; no two rows alike.
static void weights_are_nearly_normal(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s/d.gguf", dir);
    make(synth_by_name("tiny-256"), "F32", 9, 2, path);
    Gguf *g = open_model(path);
    const Tensor *t = gguf_tensor(g, "blk.1.ffn_up.weight"),
                 *u = gguf_tensor(g, "blk.1.ffn_gate.weight");
    const float *w = (const float *)(const void *)t->data,
                *v = (const float *)(const void *)u->data;
    size_t n = t->dims[0] * t->dims[1];
    double sum = 0, squares = 0, fourth = 0, cross = 0, next = 0;
    for (size_t i = 0; i < n; i++) {
        double x = (double)w[i] * 16;  // spread 1 / sqrt(256)
        sum += x, squares += x * x, fourth += x * x * x * x, cross += x * (double)v[i] * 16;
        if (i) next += x * (double)w[i - 1] * 16;
    }
    double sigma = 1 / sqrt((double)n), d = (double)n;
    assert_true(fabs(sum / d) < 4 * sigma);
    assert_true(fabs(squares / d - 1) < 0.02);
    assert_true(fabs(fourth / d - 2.85) < 0.15);  // 3 for a normal, 2.85 for a sum of eight
    assert_true(fabs(cross / d) < 4 * sigma && fabs(next / d) < 4 * sigma);
    for (uint64_t r = 1; r < t->dims[1]; r++) assert_memory_not_equal(w, w + r * 256, 1024);
    t = gguf_tensor(g, "output_norm.weight");
    w = (const float *)(const void *)t->data;
    for (int i = 0; i < 256; i++) assert_true(w[i] > 0.4f && w[i] < 1.6f);
    gguf_close(g);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes_with_any_threads),
        cmocka_unit_test(small_shapes_load_in_every_mix),
        cmocka_unit_test(sizes_of_the_known_models),
        cmocka_unit_test(vocabulary_biases_and_frequencies),
        cmocka_unit_test(weights_are_nearly_normal),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
