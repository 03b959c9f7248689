// The file stage: good models pass, and each thing that is wrong is one finding that says what.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "test_model_build.h"
#include "verify/capture.h"
#include "verify/lint.h"

static const Notice quiet;

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

static const char *kind_of(const Finding *f) {
    if (f->outcome == OUTCOME_SKIPPED) return f->warning ? "warning" : "remark";
    return outcome_name(f->outcome);
}

// The findings with this id and kind; the last one's text holds `words`.
static void expect_finding(const Report *r, const char *id, const char *kind, size_t n,
                           const char *words) {
    size_t found = 0;
    const char *text = "";
    for (size_t i = 0; i < r->n_findings; i++) {
        const Finding *f = &r->findings[i];
        assert_int_equal(f->stage, STAGE_FILE);
        assert_int_equal(f->prompt, -1);
        assert_null(strchr(f->text, '\n'));
        if (strcmp(f->id, id) != 0 || strcmp(kind_of(f), kind) != 0) continue;
        found++, text = f->text;
    }
    if (found == n && (n == 0 || strstr(text, words))) return;
    for (size_t i = 0; i < r->n_findings; i++) {
        const Finding *f = &r->findings[i];
        print_message("%s %s: %s\n", kind_of(f), f->id, f->text);
    }
    fail_msg("%zu findings %s %s (\"%s\"), expected %zu that say \"%s\"", found, id, kind, text, n,
             words);
}

static size_t count_kind(const Report *r, const char *kind) {
    size_t n = 0;
    for (size_t i = 0; i < r->n_findings; i++) n += strcmp(kind_of(&r->findings[i]), kind) == 0;
    return n;
}

static Report lint(const Model *m, const Tokenizer *tok, const Trace *t, int n_threads) {
    Report r;
    Error err = {0};
    report_init(&r);
    must(lint_model(m, tok, t, n_threads, &r, &err), &err);
    return r;
}

static Report lint_spec(Case *c, const Spec *s) {
    bound_model(c, s);
    return lint(c->model, NULL, NULL, 1);
}

static void drop(Case *c, Report *r) {
    report_free(r);
    case_close(c);
}

// --- good files -------------------------------------------------------------------------------

static void good_models(void **state) {
    (void)state;
    static const struct {
        const char *path;
        bool text;  // has a tokenizer
    } files[] = {{"models/demo.gguf", true},
                 {"tests/golden/models/demo-f16.gguf", true},
                 {"tests/golden/models/demo-Q8_0.gguf", true},
                 {"tests/golden/arch/llama-1.gguf", false},
                 {"tests/golden/arch/llama3-1.gguf", false},
                 {"tests/golden/arch/qwen2-1.gguf", false},
                 {"tests/golden/arch/qwen3-1.gguf", false}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Gguf *g;
        Model *m;
        Tokenizer *tok = NULL;
        Error err = {0};
        must(gguf_open(files[i].path, &g, &err), &err);
        must(model_bind(g, quiet, &m, &err), &err);
        if (files[i].text) must(tokenizer_new(g, quiet, &tok, &err), &err);
        for (int threads = 1; threads <= 3; threads++) {
            Report r = lint(m, tok, NULL, threads);
            expect_finding(&r, "weights-finite", "pass", 1, "are finite");
            expect_finding(&r, "norm-weights", "pass", 1, "root mean squares");
            expect_finding(&r, "tensors", "pass", 1, "have their place");
            expect_finding(&r, "output", "pass", 1, m->tied ? "embedding" : "of its own");
            expect_finding(&r, "rope", "pass", 1, m->h.rope_pairing ? "halves" : "neighbours");
            assert_int_equal(count_kind(&r, "fail"), 0);
            if (files[i].text) assert_int_equal(count_kind(&r, "warning"), 0);
            expect_finding(&r, "chat-template", "pass", files[i].text, "zephyr");
            expect_finding(&r, "bos-flag", "pass", files[i].text, "with BOS");
            report_finish(&r);
            assert_int_equal(r.stage[STAGE_FILE], OUTCOME_PASS);
            report_free(&r);
        }
        tokenizer_free(tok);
        model_free(m);
        gguf_close(g);
    }
}

// A model that lies in memory alone has no file to ask.
static void no_file(void **state) {
    (void)state;
    Case c;
    bound_model(&c, &(Spec){0});
    const Gguf *g = c.model->gguf;
    c.model->gguf = NULL;
    Report r = lint(c.model, NULL, NULL, 2);
    expect_finding(&r, "weights-finite", "pass", 1, "finite");
    assert_int_equal(count_kind(&r, "fail"), 0);
    c.model->gguf = g;
    drop(&c, &r);
}

// --- weights ----------------------------------------------------------------------------------

static void bad_weights(void **state) {
    (void)state;
    const struct {
        const char *tensor;
        size_t at;
        uint32_t bits;
        const char *words;
    } cases[] = {
        {"token_embd.weight", 0, 0x7fc00000, "token_embd.weight: 1 of 40 weights"},
        {"blk.1.ffn_down.weight", 95, 0x7f800000, "row 7, column 11"},
        {"blk.0.attn_norm.weight", 7, 0xff800000, "row 0, column 7"},
        {"output_norm.weight", 0, 0x7f800001, "output_norm.weight"},
        {"output.weight", 39, 0xffc00000, "row 4, column 7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Case c;
        const Spec s = {
            .poison = cases[i].tensor, .poison_at = cases[i].at, .poison_bits = cases[i].bits};
        Report r = lint_spec(&c, &s);
        expect_finding(&r, "weights-finite", "fail", 1, cases[i].words);
        expect_finding(&r, "weights-finite", "pass", 0, "");
        drop(&c, &r);
    }
}

static void set_tensor(const Tensor *t, float x) {
    float *to = (float *)(uintptr_t)t->data;  // the case's own bytes
    for (size_t i = 0; i < t->bytes / sizeof x; i++) to[i] = x;
}

static void zero_weights(void **state) {
    (void)state;
    for (int i = 0; i < 6; i++) {
        Case c;
        bound_model(&c, &(Spec){.bias = true});
        const Model *m = c.model;
        const Tensor *const all[] = {m->token_embd,       m->output,      m->layers[1].ffn_norm,
                                     m->layers[0].ffn_up, m->output_norm, m->layers[0].q_bias};
        set_tensor(all[i], 0);
        Report r = lint(m, NULL, NULL, 2);
        const bool fatal = i != 3 && i != 5;
        expect_finding(&r, "weights-zero", "fail", fatal, all[i]->name);
        expect_finding(&r, "weights-zero", "warning", i == 3, all[i]->name);
        drop(&c, &r);
    }
}

// More bad tensors than a reader wants to see are counted.
static void many_bad(void **state) {
    (void)state;
    Case c;
    bound_model(&c, &(Spec){0});
    for (int l = 0; l < LAYERS; l++) {
        const LayerWeights *w = &c.model->layers[l];
        const Tensor *const all[] = {w->q, w->k, w->v, w->ffn_up, w->ffn_gate};
        for (size_t i = 0; i < 5; i++) set_tensor(all[i], NAN);
    }
    Report r = lint(c.model, NULL, NULL, 2);
    expect_finding(&r, "weights-finite", "fail", 8, "NaN");
    expect_finding(&r, "weights-finite", "warning", 1, "10 tensors");
    drop(&c, &r);
}

static void norm_weights(void **state) {
    (void)state;
    Case c;
    bound_model(&c, &(Spec){0});
    set_tensor(c.model->layers[0].attn_norm, 0.046f);
    set_tensor(c.model->output_norm, -2);
    Report r = lint(c.model, NULL, NULL, 1);
    expect_finding(&r, "norm-weights", "pass", 1,
                   "0.046 (blk.0.attn_norm.weight) to 2 (output_norm");
    report_free(&r);
    set_tensor(c.model->layers[0].attn_norm, 1e-4f);
    set_tensor(c.model->output_norm, 1e6f);
    r = lint(c.model, NULL, NULL, 1);
    expect_finding(&r, "norm-weights", "warning", 2, "0.0001");
    expect_finding(&r, "norm-weights", "pass", 0, "");
    drop(&c, &r);
}

// --- metadata ---------------------------------------------------------------------------------

static void expect_spec(const Spec *s, const char *id, const char *kind, const char *words) {
    Case c;
    Report r = lint_spec(&c, s);
    expect_finding(&r, id, kind, 1, words);
    drop(&c, &r);
}

static void odd_values(void **state) {
    (void)state;
    Spec s = {.kv = {{"rope.freq_base", GGUF_F32, bits_of(100), NULL, NULL}}};
    expect_spec(&s, "rope", "warning", "base is 100");
    s = (Spec){.kv = {{"attention.layer_norm_rms_epsilon", GGUF_F32, bits_of(0.5f), NULL, NULL}}};
    expect_spec(&s, "rms-eps", "warning", "0.5");
    expect_spec(&(Spec){0}, "rms-eps", "pass", "1e-05");
    expect_spec(&(Spec){0}, "head-dim", "warning", "4 elements");
    s = (Spec){.kv = {{"rope.freq_base", GGUF_F32, bits_of(500000), NULL, NULL},
                      {"context_length", GGUF_U32, 131072, NULL, NULL}}};
    expect_spec(&s, "rope", "warning", "Llama 3.1");
    s.extra[0] = "rope_freqs.weight", s.extra_n = HEAD_DIM / 2, s.extra_value = 1;
    expect_spec(&s, "rope", "pass", "rope_freqs");
    s.kv[2] = (KeyValue){"rope.scaling.type", GGUF_STR, 0, "linear", NULL};
    s.kv[3] = (KeyValue){"rope.scaling.factor", GGUF_F32, bits_of(2), NULL, NULL};
    expect_spec(&s, "rope", "warning", "differ");
    expect_spec(&(Spec){.tied = true}, "output", "pass", "embedding");
    expect_spec(&(Spec){0}, "output", "remark", "equal byte for byte");
    s = (Spec){.extra = {"blk.0.what.weight"}, .extra_n = 4, .extra_value = 1};
    expect_spec(&s, "tensors", "warning", "blk.0.what.weight");
}

static void vocabulary_keys(void **state) {
    (void)state;
    static const char bos[] = "tokenizer.ggml.bos_token_id", eos[] = "tokenizer.ggml.eos_token_id";
    Spec s = {.kv = {{bos, GGUF_U32, VOCAB, NULL, NULL}}};
    expect_spec(&s, "bos-id", "fail", "is 5, outside the vocabulary of 5");
    s = (Spec){.kv = {{eos, GGUF_U32, 1000000000, NULL, NULL}}};
    expect_spec(&s, "eos-id", "fail", "1000000000");
    s = (Spec){.kv = {{eos, GGUF_STR, 0, "two", NULL}}};
    expect_spec(&s, "eos-id", "fail", "eos_token_id");
    s = (Spec){.kv = {{eos, GGUF_U32, 3, NULL, NULL}}, .n_tokens = 3};
    expect_spec(&s, "eos-id", "fail", "vocabulary of 3");
    expect_spec(&s, "vocabulary", "remark", "3 tokens, token_embd.weight 5 rows");
    const KeyValue none[] = {{bos, GGUF_I32, UINT32_MAX, NULL, NULL},
                             {bos, GGUF_U32, UINT32_MAX, NULL, NULL},
                             {bos, GGUF_U32, VOCAB - 1, NULL, NULL}};
    for (size_t i = 0; i < 3; i++) {
        Case c;
        s = (Spec){.kv = {none[i]}};
        Report r = lint_spec(&c, &s);
        assert_int_equal(count_kind(&r, "fail"), 0);
        drop(&c, &r);
    }
}

// The demo model's file with one of its keys of one byte changed.
static Report lint_demo(const char *key, uint8_t value, int32_t n_vocab) {
    Text bytes = {0};
    FILE *f = fopen("tests/golden/models/demo-Q8_0.gguf", "rb");
    char block[4096];
    assert_non_null(f);
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;) add_bytes(&bytes, block, n);
    fclose(f);
    if (key) {
        char *at = memmem(bytes.data, 1 << 20, key, strlen(key));
        assert_non_null(at);
        at[strlen(key) + 4] = (char)value;
    }
    Gguf *g;
    Model *m;
    Tokenizer *tok;
    Error err = {0};
    must(gguf_open_memory(bytes.data, bytes.len, "odd.gguf", &g, &err), &err);
    must(model_bind(g, quiet, &m, &err), &err);
    must(tokenizer_new(g, quiet, &tok, &err), &err);
    if (n_vocab) m->h.n_vocab = n_vocab;
    Report r = lint(m, tok, NULL, 2);
    tokenizer_free(tok);
    model_free(m);
    gguf_close(g);
    text_free(&bytes);
    return r;
}

static void flags(void **state) {
    (void)state;
    Report r = lint_demo("tokenizer.ggml.add_bos_token", 0, 0);
    expect_finding(&r, "bos-flag", "warning", 1, "SentencePiece");
    report_free(&r);
    r = lint_demo("tokenizer.ggml.add_eos_token", 1, 0);
    expect_finding(&r, "bos-flag", "warning", 1, "add_eos_token");
    expect_finding(&r, "bos-flag", "pass", 0, "");
    report_free(&r);
    r = lint_demo("tokenizer.ggml.eos_token_id", 30, 0);
    expect_finding(&r, "eos-id", "warning", 1, "no control token");
    report_free(&r);
    r = lint_demo(NULL, 0, 2047);
    expect_finding(&r, "vocabulary", "fail", 1, "2048 tokens, the output only 2047 rows");
    report_free(&r);
}

// --- traces -----------------------------------------------------------------------------------

// What a trace with this key, and an array of a component of so wide rows, makes of the model.
static Report lint_against(const Case *c, const char *key, const char *value, ComponentRef ref,
                           size_t width) {
    char path[64];
    const int32_t ids[1] = {1};
    float x[64] = {1};
    Error err = {0};
    TraceWriter *w;
    Trace *t;
    snprintf(path, sizeof path, "/tmp/plumb-lint-%d.gguf", (int)getpid());
    must(trace_writer_new(&w, &err), &err);
    if (key) must(trace_writer_str(w, key, value, &err), &err);
    must(trace_writer_prompt(w, "p", ids, 1, 0, &err), &err);
    must(trace_writer_array(w, ref, x, 1, width, &err), &err);
    must(trace_writer_finish(w, path, &err), &err);
    trace_writer_free(w);
    must(trace_open(path, NULL, quiet, &t, &err), &err);
    Report r = lint(c->model, NULL, t, 1);
    trace_close(t);
    unlink(path);
    return r;
}

static void trace_keys(void **state) {
    (void)state;
    Case c;
    bound_model(&c, &(Spec){0});
    static const ComponentRef embd = {COMP_EMBD, -1};
    const struct {
        const char *key, *value, *kind, *words;
    } cases[] = {
        {"model.rms_eps", "1e-6", "fail", "rms_eps: the trace says 1e-6, the file 9.99999975e-06"},
        {"model.rms_eps", "0.00001", "pass", "1 hyperparameters"},
        {"model.rope_base", "10000", "pass", ""},
        {"model.rope_base", "1e4", "pass", ""},
        {"model.rope_base", "1000000.0", "fail", "the file 10000"},
        {"model.n_heads", "4", "fail", "the trace says 4, the file 2"},
        {"model.n_heads", "2x", "fail", "2x"},
        {"model.n_heads", "", "fail", "says , the"},
        {"model.dim", "8", "pass", ""},
        {"model.head_dim", "nan", "fail", "nan"},
        {"model.n_vocab", "6", "fail", "n_vocab"},
        {"model.rope_scaling", "YaRN", "fail", "YaRN"},
        {"model.rope_freqs", "true", "fail", "the file no"},
        {"model.rope_freqs", "False", "pass", ""},
        {"model.tied_output", "yes", "warning", "tied_output"},
        {"model.rope_pairing", "neox", "warning", "norm"},
        {"model.architecture", "mistral\n", "warning", "mistral\\x0a, the file llama"},
        {"model.n_ctx_train", "32", "warning", "64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Report r = lint_against(&c, cases[i].key, cases[i].value, embd, DIM);
        expect_finding(&r, "trace-model", cases[i].kind, 1, cases[i].words);
        assert_int_equal(count_kind(&r, "fail"), strcmp(cases[i].kind, "fail") == 0);
        report_free(&r);
    }
    Report r = lint_against(&c, NULL, NULL, embd, DIM + 1);
    expect_finding(&r, "trace-width", "warning", 1, "p.embd is 9 wide, expected 8");
    report_free(&r);
    r = lint_against(&c, NULL, NULL, (ComponentRef){COMP_V, LAYERS - 1}, HEAD_DIM);
    assert_int_equal(count_kind(&r, "fail"), 0);
    report_free(&r);
    r = lint_against(&c, NULL, NULL, (ComponentRef){COMP_V, LAYERS}, HEAD_DIM);
    expect_finding(&r, "trace-layers", "fail", 1, "the file has 2 layers");
    report_free(&r);
    r = lint_against(&c, NULL, NULL, (ComponentRef){COMP_Q_NORM, 0}, DIM);
    expect_finding(&r, "trace-layers", "warning", 1, "no such norm");
    drop(&c, &r);
}

static void trace_of_another_file(void **state) {
    (void)state;
    static const ComponentRef embd = {COMP_EMBD, -1};
    Case c;
    char sha[65], other[65];
    Error err = {0};
    bound_model(&c, &(Spec){0});
    must(capture_model_sha256(c.gguf, sha, &err), &err);
    memcpy(other, sha, sizeof other);
    other[63] = other[63] == '0' ? '1' : '0';
    const struct {
        const char *value, *kind;
    } cases[] = {{sha, "pass"}, {other, "fail"}, {"", "warning"}, {"abc", "warning"}};
    for (size_t i = 0; i < 4; i++) {
        Report r = lint_against(&c, "model_sha256", cases[i].value, embd, DIM);
        expect_finding(&r, "trace-sha256", cases[i].kind, 1, "");
        assert_int_equal(count_kind(&r, "fail"), i == 1);
        report_free(&r);
    }
    for (size_t i = 0; sha[i]; i++) {
        if (sha[i] >= 'a') sha[i] = (char)(sha[i] - 'a' + 'A');
    }
    Report r = lint_against(&c, "model_sha256", sha, embd, DIM);
    expect_finding(&r, "trace-sha256", "pass", 1, "this very file");
    drop(&c, &r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_models),
        cmocka_unit_test(no_file),
        cmocka_unit_test(bad_weights),
        cmocka_unit_test(zero_weights),
        cmocka_unit_test(many_bad),
        cmocka_unit_test(norm_weights),
        cmocka_unit_test(odd_values),
        cmocka_unit_test(vocabulary_keys),
        cmocka_unit_test(flags),
        cmocka_unit_test(trace_keys),
        cmocka_unit_test(trace_of_another_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
