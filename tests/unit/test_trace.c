// Traces: golden ones, all three forms, other engines' names and layouts, and files that lie.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/stat.h>

#include "base/file.h"
#include "check.h"
#include "formats/gguf_write.h"
#include "verify/trace.h"

static const Notice quiet;

static char dir[64];  // of this run

static const char *in_dir(const char *name) {
    static char path[4][160];
    static int i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/%s", dir, name);
    return path[i];
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/plumb-trace-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

static void put_file(const char *path, const void *bytes, size_t len) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static Trace *open_ok(const char *path, const TraceShape *shape) {
    Trace *t;
    Error err = {0};
    must(trace_open(path, shape, quiet, &t, &err), &err);
    return t;
}

static void open_bad(const char *path, const TraceShape *shape, const char *says) {
    Trace *t;
    Error err = {0};
    assert_int_equal(trace_open(path, shape, quiet, &t, &err), ERR_FILE);
    assert_null(t);
    assert_int_equal(err.status, ERR_FILE);
    if (!strstr(err.text, says) || !strstr(err.text, dir) || strchr(err.text, '\n')) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    }
}

// --- builders ---------------------------------------------------------------------------------

// A .npy file as numpy writes it; dims slowest first.
static void put_npy(const char *folder, const char *name, const char *descr, const char *shape,
                    const void *data, size_t len) {
    char path[320], header[256];
    mkdir(folder, 0755);
    snprintf(path, sizeof path, "%s/%s.npy", folder, name);
    int n = snprintf(header, sizeof header,
                     "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, shape);
    while ((10 + n + 1) % 64) header[n++] = ' ';
    header[n++] = '\n';
    Text t = {0};
    const uint8_t head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)n, (uint8_t)(n >> 8)};
    assert_true(text_append(&t, head, 10) && text_append(&t, header, (size_t)n) &&
                text_append(&t, data, len));
    put_file(path, t.data, t.len);
    text_free(&t);
}

static void put_floats(const char *folder, const char *name, const char *shape, const float *x,
                       size_t n) {
    put_npy(folder, name, "<f4", shape, x, n * sizeof *x);
}

static void put_tokens(const char *folder, const char *name, size_t n) {
    int64_t ids[64];
    char shape[32];
    for (size_t i = 0; i < n; i++) ids[i] = (int64_t)(i * 7 + 1);
    snprintf(shape, sizeof shape, "%zu,", n);
    put_npy(folder, name, "<i8", shape, ids, n * sizeof *ids);
}

static void put_safetensors(const char *path, const char *header, const void *data, size_t len) {
    Text t = {0};
    const uint64_t n = strlen(header);
    assert_true(text_append(&t, &n, 8) && text_append(&t, header, (size_t)n) &&
                text_append(&t, data, len));
    put_file(path, t.data, t.len);
    text_free(&t);
}

static bool no_jansson(void) {
#if HAVE_JANSSON
    return false;
#else
    return true;
#endif
}

static void need_jansson(void) {
    if (!no_jansson()) return;
    print_message("skipped: this build has no JSON (libjansson-dev)\n");
    skip();
}

static float *random_floats(Rng *r, size_t n) {
    float *x = room(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = rng_normal(r);
    return x;
}

// --- names ------------------------------------------------------------------------------------

static void names(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int c, layer, nth;
        NameStyle style;
        bool weak;
    } cases[] = {
        {"embd", COMP_EMBD, -1, -1, NAMES_PLUMB, true},
        {"blk.0.q", COMP_Q, 0, -1, NAMES_PLUMB, false},
        {"blk.65535.kq_soft_max", COMP_KQ_SOFT_MAX, 65535, -1, NAMES_PLUMB, false},
        {"norm", COMP_NORM, -1, -1, NAMES_PLUMB, true},
        {"logits", COMP_LOGITS, -1, -1, NAMES_PLUMB, false},
        {"inp_embd", COMP_EMBD, -1, -1, NAMES_LLAMA_CPP, false},
        {"attn_norm-3", COMP_ATTN_NORM, 3, -1, NAMES_LLAMA_CPP, false},
        {"Qcur-21", COMP_Q_ROPE, 21, 0, NAMES_LLAMA_CPP, false},
        {"Kcur-0#2", COMP_K_ROPE, 0, 2, NAMES_LLAMA_CPP, false},
        {"Vcur-1", COMP_V, 1, 0, NAMES_LLAMA_CPP, false},
        {"Qcur_normed-1", COMP_Q_NORM, 1, -1, NAMES_LLAMA_CPP, false},
        {"kq-1", COMP_KQ, 1, -1, NAMES_LLAMA_CPP, false},
        {"kq_soft_max_ext-1", COMP_KQ_SOFT_MAX, 1, -1, NAMES_LLAMA_CPP, false},
        {"kqv_out-2", COMP_ATTN, 2, -1, NAMES_LLAMA_CPP, true},
        {"attn_out-2", COMP_ATTN_OUT, 2, -1, NAMES_LLAMA_CPP, false},
        {"ffn_inp-2", COMP_FFN_INP, 2, -1, NAMES_LLAMA_CPP, false},
        {"ffn_swiglu-2", COMP_FFN_ACT, 2, -1, NAMES_LLAMA_CPP, false},
        {"ffn_gate_par-2", COMP_FFN_ACT, 2, -1, NAMES_LLAMA_CPP, false},
        {"l_out-2", COMP_L_OUT, 2, -1, NAMES_LLAMA_CPP, false},
        {"result_norm", COMP_NORM, -1, -1, NAMES_LLAMA_CPP, false},
        {"result_output", COMP_LOGITS, -1, -1, NAMES_LLAMA_CPP, false},
        {"model.embed_tokens", COMP_EMBD, -1, -1, NAMES_TRANSFORMERS, false},
        {"model.layers.4.input_layernorm", COMP_ATTN_NORM, 4, -1, NAMES_TRANSFORMERS, false},
        {"model.layers.4.self_attn.k_proj", COMP_K, 4, -1, NAMES_TRANSFORMERS, false},
        {"model.layers.4.self_attn.q_norm", COMP_Q_NORM, 4, -1, NAMES_TRANSFORMERS, false},
        {"model.layers.4.self_attn.o_proj", COMP_ATTN_OUT, 4, -1, NAMES_TRANSFORMERS, false},
        {"model.layers.4.self_attn.o_proj.input", COMP_ATTN, 4, -1, NAMES_TRANSFORMERS, false},
        {"model.layers.4.post_attention_layernorm", COMP_FFN_NORM, 4, -1, NAMES_TRANSFORMERS,
         false},
        {"model.layers.4.mlp.down_proj", COMP_FFN_OUT, 4, -1, NAMES_TRANSFORMERS, false},
        {"model.layers.4.mlp", COMP_FFN_OUT, 4, -1, NAMES_TRANSFORMERS, true},
        {"model.layers.4", COMP_L_OUT, 4, -1, NAMES_TRANSFORMERS, false},
        {"model.norm", COMP_NORM, -1, -1, NAMES_TRANSFORMERS, false},
        {"lm_head", COMP_LOGITS, -1, -1, NAMES_TRANSFORMERS, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ComponentName n;
        if (!component_parse(cases[i].text, strlen(cases[i].text), &n))
            fail_msg("%s is not read", cases[i].text);
        if ((int)n.ref.c != cases[i].c || n.ref.layer != cases[i].layer || n.nth != cases[i].nth ||
            n.style != cases[i].style || n.weak != cases[i].weak)
            fail_msg("%s is read as %s, layer %d, nth %d", cases[i].text, component_name(n.ref.c),
                     n.ref.layer, n.nth);
    }
    static const char *const none[] = {
        "",
        "q",
        "blk.0.embd",
        "blk.0.logits",
        "blk..q",
        "blk.0",
        "blk.0.",
        "blk.-1.q",
        "blk.65536.q",
        "blk.999999.q",
        "blk.0.q ",
        "Qcur",
        "Qcur-",
        "Qcur-x",
        "Qcur-0#",
        "Qcur-0 (view)",
        "norm-0",
        "l_out-0#1",
        "embd-0",
        "model.layers.",
        "model.layers.0.",
        "model.layers.0.self_attn.rotary_emb",
        "lm_head.weight",
        "Blk.0.q",
    };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        ComponentName n;
        if (component_parse(none[i], strlen(none[i]), &n)) fail_msg("\"%s\" is read", none[i]);
    }
    // Every component's own text is read back, and the order is that of the pass.
    long before = -1;
    for (int c = 0; c < N_COMPONENTS; c++) {
        char text[COMPONENT_TEXT];
        const ComponentRef ref = {(Component)c, component_in_layer((Component)c) ? 0 : -1};
        ComponentName n;
        component_text(ref, text);
        assert_true(component_parse(text, strlen(text), &n));
        assert_int_equal(n.ref.c, c);
        assert_true(component_order(ref) > before);
        before = component_order(ref);
    }
    assert_true(component_order((ComponentRef){COMP_L_OUT, 0}) <
                component_order((ComponentRef){COMP_ATTN_NORM, 1}));
    assert_true(component_order((ComponentRef){COMP_L_OUT, COMPONENT_MAX_LAYER}) <
                component_order((ComponentRef){COMP_NORM, -1}));
}

static void occurrences(void **state) {
    (void)state;
    Component c;
    assert_true(component_occurrence(COMP_Q_ROPE, 0, 1, &c) && c == COMP_Q_ROPE);
    assert_true(component_occurrence(COMP_Q_ROPE, 0, 2, &c) && c == COMP_Q);
    assert_true(component_occurrence(COMP_Q_ROPE, 1, 2, &c) && c == COMP_Q_ROPE);
    assert_false(component_occurrence(COMP_K_ROPE, 0, 3, &c));
    assert_true(component_occurrence(COMP_K_ROPE, 1, 3, &c) && c == COMP_K);
    assert_false(component_occurrence(COMP_V, 0, 2, &c));
    assert_true(component_occurrence(COMP_V, 1, 2, &c) && c == COMP_V);
}

// --- golden traces ----------------------------------------------------------------------------

static void golden_file(const char *path, size_t n_prompts) {
    Gguf *g;
    Error err = {0};
    Trace *t = open_ok(path, NULL);
    must(gguf_open(path, &g, &err), &err);
    assert_int_equal(t->n_prompts, n_prompts);
    assert_int_equal(t->n_ignored, 0);
    assert_non_null(t->description);
    assert_non_null(strstr(t->description, "transformers"));
    size_t n = 0;
    for (size_t i = 0; i < t->n_prompts; i++) {
        const TracePrompt *p = &t->prompts[i];
        char key[96], text[COMPONENT_TEXT];
        const GgufValue *ids;
        n += p->n_arrays;
        snprintf(key, sizeof key, "trace.%s.tokens", p->name);
        must(gguf_get_array(g, key, GGUF_I32, &ids, NULL, &err), &err);
        assert_int_equal(ids->n, p->n_tokens);
        for (size_t k = 0; k < ids->n; k++) assert_true(gguf_elem_i64(ids, k) == p->tokens[k]);
        for (size_t k = 0; k < p->n_arrays; k++) {
            const TraceArray *a = &p->arrays[k];
            snprintf(key, sizeof key, "%s.%s", p->name, component_text(a->ref, text));
            const Tensor *want = gguf_tensor(g, key);
            assert_non_null(want);
            assert_string_equal(a->source, key);
            assert_int_equal(a->width, want->dims[0]);
            assert_int_equal(a->rows, want->dims[1]);
            assert_int_equal(a->first_row, p->n_tokens - a->rows);
            assert_memory_equal(a->x, want->data, want->bytes);
            assert_ptr_equal(trace_find(p, a->ref.c, a->ref.layer), a);
        }
        assert_null(trace_find(p, COMP_KQ, 0));
        assert_null(trace_find(p, COMP_Q, 99));
    }
    assert_int_equal(n, gguf_n_tensors(g));
    must(trace_fault(t, &err), &err);
    trace_close(t);
    gguf_close(g);
}

static void golden(void **state) {
    (void)state;
    golden_file("tests/golden/demo-golden.gguf", 5);
    golden_file("tests/golden/arch/llama-1-golden.gguf", 2);
    golden_file("tests/golden/arch/llama3-1-golden.gguf", 2);
    golden_file("tests/golden/arch/qwen2-1-golden.gguf", 2);
    golden_file("tests/golden/arch/qwen3-1-golden.gguf", 2);
    Trace *t = open_ok("tests/golden/arch/llama-1-golden.gguf", NULL);
    assert_string_equal(t->prompts[0].name, "long");
    assert_int_equal(trace_find(&t->prompts[0], COMP_EMBD, -1)->first_row, 296);
    trace_close(t);
}

// --- written and read back --------------------------------------------------------------------

static void written(void **state) {
    (void)state;
    Rng r = {3};
    Error err = {0};
    TraceWriter *w;
    const int32_t ids[5] = {1, 2, 70000, 2147483647, 0};
    float *x = random_floats(&r, 5 * 7);
    must(trace_writer_new(&w, &err), &err);
    must(trace_writer_str(w, "description", "by hand", &err), &err);
    must(trace_writer_str(w, "activation.Q4_K", "q8_k", &err), &err);
    must(trace_writer_str(w, "activation.F16", "bf16", &err), &err);
    must(trace_writer_str(w, "kv_type_v", "F32", &err), &err);
    must(trace_writer_prompt(w, "a", ids, 5, 3, &err), &err);
    must(trace_writer_array(w, (ComponentRef){COMP_LOGITS, -1}, x, 1, 7, &err), &err);
    must(trace_writer_array(w, (ComponentRef){COMP_Q, 2}, x, 2, 7, &err), &err);
    must(trace_writer_chosen(w, 42, &err), &err);
    must(trace_writer_prompt(w, "b-2_", ids, 1, 0, &err), &err);
    must(trace_writer_array(w, (ComponentRef){COMP_EMBD, -1}, x, 1, 35, &err), &err);
    static const char *const bad[] = {
        "a", "a.b", "a b", "blk", "model", "\xc3\xa9", "a-name-that-is-longer-than-thirty"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(trace_writer_prompt(w, bad[i], ids, 5, 0, &err), ERR_USAGE);
    }
    must(trace_writer_finish(w, in_dir("w.gguf"), &err), &err);
    trace_writer_free(w);
    Trace *t = open_ok(in_dir("w.gguf"), NULL);
    assert_int_equal(t->n_prompts, 2);
    assert_string_equal(t->description, "by hand");
    assert_string_equal(t->kv_type_v, "F32");
    assert_null(t->kv_type_k);
    assert_true(t->says_activation);
    assert_int_equal(t->activation[TYPE_Q4_K], ACT_Q8_K);
    assert_int_equal(t->activation[TYPE_F16], ACT_BF16);
    assert_int_equal(t->activation[TYPE_Q8_0], ACT_F32);
    const TracePrompt *a = &t->prompts[0], *b = &t->prompts[1];
    assert_int_equal(a->chosen, 42);
    assert_int_equal(b->chosen, -1);
    assert_int_equal(a->n_tokens, 5);
    assert_memory_equal(a->tokens, ids, sizeof ids);
    assert_int_equal(a->n_arrays, 2);
    assert_int_equal(a->arrays[0].ref.c, COMP_Q);  // the order of the pass, not of writing
    assert_int_equal(a->arrays[0].first_row, 3);
    assert_int_equal(a->arrays[1].first_row, 4);
    same_floats("q", a->arrays[0].x, x, 14);
    same_floats("logits", a->arrays[1].x, x, 7);
    same_floats("embd", b->arrays[0].x, x, 35);
    trace_close(t);
    free(x);
}

static void folder(void **state) {
    (void)state;
    Rng r = {5};
    float *x = random_floats(&r, 60);
    double d[6];
    uint16_t h[6];
    const char *f = in_dir("npy");
    for (int i = 0; i < 6; i++) d[i] = (double)x[i], h[i] = f32_to_f16(x[i]);
    put_tokens(f, "tokens", 3);
    put_floats(f, "blk.0.q", "3, 2, 5", x, 30);  // tokens x heads x head_dim
    put_floats(f, "blk.1.q", "1, 3, 4", x, 12);  // a batch of one
    put_floats(f, "logits", "20,", x, 20);       // of the last token
    put_npy(f, "blk.0.k", "<f8", "3, 2", d, sizeof d);
    put_npy(f, "blk.0.v", "<f2", "3, 2", h, sizeof h);
    put_floats(f, "something", "3, 2", x, 6);
    put_file(in_dir("npy/README.txt"), "x", 1);
    Trace *t = open_ok(f, NULL);
    assert_int_equal(t->n_prompts, 1);
    assert_int_equal(t->n_ignored, 1);
    const TracePrompt *p = &t->prompts[0];
    assert_string_equal(p->name, "");
    assert_int_equal(p->tokens[2], 15);
    assert_int_equal(p->n_arrays, 5);
    const TraceArray *q = trace_find(p, COMP_Q, 0), *l = trace_find(p, COMP_LOGITS, -1);
    assert_int_equal(q->rows, 3);
    assert_int_equal(q->width, 10);
    same_floats("q", q->x, x, 30);
    assert_int_equal(trace_find(p, COMP_Q, 1)->width, 4);
    assert_int_equal(l->rows, 1);
    assert_int_equal(l->first_row, 2);
    same_floats("logits", l->x, x, 20);
    same_floats("f64", trace_find(p, COMP_K, 0)->x, x, 6);
    for (int i = 0; i < 6; i++) {
        assert_true(trace_find(p, COMP_V, 0)->x[i] == f16_to_f32(h[i]));
    }
    trace_close(t);
    free(x);
}

static void safetensors(void **state) {
    (void)state;
    need_jansson();
    const char *header =
        "{\"__metadata__\":{\"trace.chat.first_row\":\"1\",\"trace.backend\":\"theirs\","
        "\"chat.chosen\":\"9\"},"
        "\"chat.tokens\":{\"dtype\":\"I32\",\"shape\":[3],\"data_offsets\":[0,12]},"
        "\"chat.blk.0.q\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[12,28]},"
        "\"blk.0.k\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[28,32]},"
        "\"notes\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[32,32]}}   ";
    const int32_t ids[3] = {4, 5, 6};
    const float q[4] = {1, -2, 3.5f, 1e-40f};
    const uint16_t k[2] = {0x3f80, 0xc000};
    uint8_t data[32];
    memcpy(data, ids, 12), memcpy(data + 12, q, 16), memcpy(data + 28, k, 4);
    for (int pad = 0; pad < 4; pad++) {  // data at every alignment
        char text[1024];
        snprintf(text, sizeof text, "%s%*s", header, pad, "");
        put_safetensors(in_dir("a.safetensors"), text, data, sizeof data);
        Trace *t = open_ok(in_dir("a.safetensors"), NULL);
        const TracePrompt *p = &t->prompts[0];
        assert_string_equal(p->name, "chat");
        assert_string_equal(t->backend, "theirs");
        assert_int_equal(p->chosen, 9);
        assert_int_equal(t->n_ignored, 1);
        assert_int_equal(p->n_arrays, 2);
        same_floats("q", trace_find(p, COMP_Q, 0)->x, q, 4);
        assert_int_equal(trace_find(p, COMP_Q, 0)->first_row, 1);
        assert_true(trace_find(p, COMP_K, 0)->x[0] == 1 && trace_find(p, COMP_K, 0)->x[1] == -2);
        assert_int_equal(trace_find(p, COMP_K, 0)->first_row, 2);
        trace_close(t);
    }
}

// --- other engines ----------------------------------------------------------------------------

// A golden q and k in transformers' pairing come back as they are in the GGUF; v is left alone, and
// nothing is touched where the model pairs halves itself.
static void hf_layout(void **state) {
    (void)state;
    const char *f = in_dir("hf");
    const struct {
        Component c;
        const char *name;
        size_t heads;
    } parts[] = {{COMP_Q, "blk.0.q", 3}, {COMP_K_ROPE, "blk.0.k_rope", 1}, {COMP_V, "blk.0.v", 0}};
    Trace *g = open_ok("tests/golden/arch/llama-1-golden.gguf", NULL);
    const TracePrompt *p = &g->prompts[1];
    const size_t head_dim = trace_find(p, COMP_K, 0)->width;  // one kv head
    assert_int_equal(trace_find(p, COMP_Q, 0)->width, 3 * head_dim);
    put_tokens(f, "tokens", p->n_tokens);
    for (size_t i = 0; i < 3; i++) {
        const TraceArray *a = trace_find(p, parts[i].c, 0);
        const size_t n = a->rows * a->width;
        char shape[32];
        float *x = room(n * sizeof *x);
        memcpy(x, a->x, n * sizeof *x);
        for (size_t h = 0; parts[i].heads && h < n / head_dim; h++) {
            for (size_t k = 0; k < head_dim; k++)  // element 2k + s goes to half s
                x[h * head_dim + k / 2 + k % 2 * head_dim / 2] = a->x[h * head_dim + k];
        }
        snprintf(shape, sizeof shape, "%zu, %zu", a->rows, a->width);
        put_floats(f, parts[i].name, shape, x, n);
        free(x);
    }
    TraceShape shape = {QK_HF, true, 3, 1, (int)head_dim};
    Trace *t = open_ok(f, &shape);
    for (size_t i = 0; i < 3; i++) {
        const TraceArray *a = trace_find(p, parts[i].c, 0);
        same_floats(parts[i].name, trace_find(&t->prompts[0], parts[i].c, 0)->x, a->x,
                    a->rows * a->width);
    }
    trace_close(t);
    for (int i = 0; i < 2; i++) {  // the model's own pairing is halves; the layout is GGUF's
        shape = (TraceShape){i ? QK_GGUF : QK_HF, i, 3, 1, (int)head_dim};
        t = open_ok(f, &shape);
        assert_true(memcmp(trace_find(&t->prompts[0], COMP_Q, 0)->x, trace_find(p, COMP_Q, 0)->x,
                           head_dim * sizeof(float)) != 0);
        trace_close(t);
    }
    shape = (TraceShape){QK_HF, true, 7, 1, (int)head_dim};
    open_bad(f, &shape, "no multiple of 7 heads");
    trace_close(g);
}

// The names of llama.cpp: one name for several tensors, its scores, and those that changed meaning.
static void llama_cpp(void **state) {
    (void)state;
    const char *f = in_dir("lcpp");
    enum { T = 3, HEADS = 2, CELLS = 8, DIM = 4 };
    float x[T * DIM], kq[HEADS * T * CELLS];
    static const char *const plain[] = {"attn_norm-0", "Vcur-0",
                                        "kqv_out-0",   "attn_out-0",
                                        "ffn_inp-0",   "l_out-0",
                                        "norm",        "result_norm",
                                        "Kcur-0",      "Kcur-0#1",
                                        "Kcur-0#2",    "Qcur-0",
                                        "Qcur-0#1",    "kqv_merged_cont-0",
                                        "embd",        "Qcur-1"};
    put_tokens(f, "tokens", T);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        for (int k = 0; k < T * DIM; k++) x[k] = (float)(100 * i) + (float)k;
        put_floats(f, plain[i], "3, 4", x, T * DIM);
    }
    for (int i = 0; i < HEADS * T * CELLS; i++) kq[i] = (float)i;
    put_floats(f, "kq-0", "1, 2, 3, 8", kq, HEADS * T * CELLS);
    put_floats(f, "kq_soft_max-0", "2, 3, 8", kq, HEADS * T * CELLS);
    put_floats(f, "result_output", "1, 4", x, DIM);
    const TraceShape shape = {
        .norm_pairing = true, .n_heads = HEADS, .n_kv_heads = 1, .head_dim = 4};
    Trace *t = open_ok(f, &shape);
    const TracePrompt *p = &t->prompts[0];
    const struct {
        Component c;
        int layer;
        float first;
    } want[] = {{COMP_ATTN_NORM, 0, 0}, {COMP_V, 0, 100},       {COMP_ATTN_OUT, 0, 300},
                {COMP_FFN_INP, 0, 400}, {COMP_L_OUT, 0, 500},   {COMP_NORM, -1, 700},
                {COMP_K, 0, 900},       {COMP_K_ROPE, 0, 1000}, {COMP_Q, 0, 1100},
                {COMP_Q_ROPE, 0, 1200}, {COMP_ATTN, 0, 1300},   {COMP_EMBD, -1, 1400},
                {COMP_Q_ROPE, 1, 1500}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const TraceArray *a = trace_find(p, want[i].c, want[i].layer);
        assert_non_null(a);
        if (a->x[0] != want[i].first) fail_msg("%s is %s", component_name(want[i].c), a->source);
    }
    assert_null(trace_find(p, COMP_Q, 1));
    assert_int_equal(t->n_ignored, 3);  // norm, kqv_out, the product before the bias of k
    const TraceArray *s = trace_find(p, COMP_KQ, 0), *w = trace_find(p, COMP_KQ_SOFT_MAX, 0);
    assert_int_equal(s->rows, T * HEADS);
    assert_int_equal(s->width, T);
    for (int tok = 0; tok < T; tok++) {
        for (int head = 0; head < HEADS; head++) {
            for (int key = 0; key < T; key++) {
                const float v = kq[(head * T + tok) * CELLS + key];  // masked or not
                assert_true(w->x[(tok * HEADS + head) * T + key] == v);
                assert_true(s->x[(tok * HEADS + head) * T + key] == v / 2);
            }
        }
    }
    assert_int_equal(trace_find(p, COMP_LOGITS, -1)->first_row, 2);
    trace_close(t);
    const TraceShape other = {.n_heads = 3, .n_kv_heads = 1, .head_dim = 4};
    open_bad(f, &other, "expected 3 heads");
}

// The files that the fuzzer starts from are good ones, under any shape that fits them.
static void fuzz_seeds(void **state) {
    (void)state;
    const TraceShape shape = {QK_HF, true, 2, 1, 4};
    Trace *t = open_ok("tests/corpus/trace/plumb.gguf", &shape);
    assert_int_equal(t->n_prompts, 2);
    assert_int_equal(t->prompts[1].n_arrays, 4);
    assert_int_equal(t->prompts[0].n_arrays, 1);
    trace_close(t);
    t = open_ok("tests/corpus/trace/llama.gguf", &shape);
    assert_int_equal(t->prompts[0].n_arrays, 6);
    trace_close(t);
    t = open_ok("tests/corpus/trace/keys.gguf", &shape);
    assert_int_equal(t->prompts[0].n_arrays, 3);
    assert_true(t->prompts[0].sampling.top_k == 40 && t->prompts[0].chosen == 1);
    assert_string_equal(t->prompts[0].text, "<|user|>\nHi</s>");
    trace_close(t);
    need_jansson();
    t = open_ok("tests/corpus/trace/hf.safetensors", &shape);
    assert_int_equal(t->prompts[0].n_arrays, 2);
    trace_close(t);
}

// --- what a prompt says of itself --------------------------------------------------------------

static void check_sampling(const TraceSampling *s) {
    assert_true(s->given);
    assert_true(s->temp == 0.8 && s->top_k == 40 && s->top_p == 0.95 && s->min_p == 0.05);
    assert_true(s->repeat_penalty == 1.1 && s->presence_penalty == -0.5);
    assert_true(s->frequency_penalty == 1e-3 && s->repeat_last_n == 64);
}

// Written and read back: the text whole, the numbers to the bit.
static void prompt_keys(void **state) {
    (void)state;
    Error err = {0};
    TraceWriter *w;
    const int32_t ids[2] = {1, 2};
    const float x[4] = {1, 2, 3, 4};
    static const char text[] = "<|user|>\n\xe2\x96\x81 \"quoted\"\t</s>";
    const TraceSampling all = {true, 0.8, 40, 0.95, 0.05, 1.1, -0.5, 1e-3, 64};
    must(trace_writer_new(&w, &err), &err);
    must(trace_writer_prompt(w, "a", ids, 2, 0, &err), &err);
    must(trace_writer_array(w, (ComponentRef){COMP_PROBS, -1}, x, 1, 4, &err), &err);
    must(trace_writer_sampling(w, &all, &err), &err);
    must(trace_writer_text(w, text, &err), &err);
    must(trace_writer_prompt(w, "b", ids, 2, 0, &err), &err);
    must(trace_writer_array(w, (ComponentRef){COMP_V_CACHE, 0}, x, 2, 2, &err), &err);
    must(trace_writer_finish(w, in_dir("keys.gguf"), &err), &err);
    trace_writer_free(w);
    Trace *t = open_ok(in_dir("keys.gguf"), NULL);
    const TracePrompt *a = &t->prompts[0], *b = &t->prompts[1];
    check_sampling(&a->sampling);
    assert_string_equal(a->text, text);
    assert_false(b->sampling.given);
    assert_null(b->text);
    assert_int_equal(trace_find(a, COMP_PROBS, -1)->first_row, 1);
    assert_int_equal(trace_find(b, COMP_V_CACHE, 0)->rows, 2);
    trace_close(t);
}

// A GGUF of a prompt p with two tokens, one array of 2 x 2, and these keys.
static void put_gguf(const char *path, const char *array, const GgufValue *extra, const char *key,
                     const char *text) {
    GgufWriter *g;
    Error err = {0};
    const float x[4] = {0.25f, 0.75f, 0.5f, 0.5f};
    const int32_t ids[2] = {1, 2};
    must(gguf_writer_open(path, &g, &err), &err);
    gguf_put_str(g, "general.architecture", "trace");
    gguf_put_array(g, "trace.p.tokens", GGUF_I32, 2, ids);
    if (key) gguf_put_str(g, key, text);
    if (extra) gguf_put_value(g, extra);
    gguf_put_tensor(g, array, TYPE_F32, 2, (uint64_t[]){2, 2});
    must(gguf_write_data(g, x, sizeof x, &err), &err);
    must(gguf_writer_finish(g, &err), &err);
}

static void sampling_texts(void **state) {
    (void)state;
    const char *path = in_dir("s.gguf");
    static const char key[] = "trace.p.sampling";
    static const char full[] =
        "temp=0.8 top_k=40 top_p=0.95, min_p=0.05 repeat_penalty=1.1 presence_penalty=-0.5; "
        "frequency_penalty=1e-3 repeat_last_n=64";
    put_gguf(path, "p.probs", NULL, key, full);
    Trace *t = open_ok(path, NULL);
    check_sampling(&t->prompts[0].sampling);
    const TraceArray *probs = trace_find(&t->prompts[0], COMP_PROBS, -1);
    assert_int_equal(probs->rows, 1);  // of several only the last counts
    assert_int_equal(probs->first_row, 1);
    assert_true(probs->x[0] == 0.5f);
    trace_close(t);
    put_gguf(path, "p.probs", NULL, "trace.sampling", "top_k=3");  // the only prompt's
    t = open_ok(path, NULL);
    const TraceSampling *s = &t->prompts[0].sampling;
    assert_true(s->given && s->top_k == 3 && s->temp == 1 && s->top_p == 1 && s->min_p == 0);
    assert_true(s->repeat_penalty == 1 && s->repeat_last_n == -1);
    trace_close(t);
    static const char *const bad[] = {"temp",
                                      "temp=",
                                      "temp=hot",
                                      "top_k=1.5",
                                      "top_p=1.1",
                                      "min_p=-1",
                                      "top_p=nan",
                                      "top_k=-2",
                                      "temp=0.8x",
                                      "top_k=99999999999",
                                      "repeat_penalty=0",
                                      "temp=0.000000000000000000000000000000000000000000001"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_gguf(path, "p.logits", NULL, key, bad[i]);
        open_bad(path, NULL, "trace.p.sampling is \"");
    }
}

static void count_notice(void *user, const char *line) {
    (void)line;
    ++*(int *)user;
}

// A way of sampling that is not known: nothing that follows from it is judged.
static void foreign_sampling(void **state) {
    (void)state;
    const char *path = in_dir("f.gguf");
    const int32_t seven = 7;
    const GgufValue chosen = {
        .key = "trace.p.chosen", .type = GGUF_I32, .n = 1, .raw = (const uint8_t *)&seven};
    int heard = 0;
    Trace *t;
    Error err = {0};
    put_gguf(path, "p.logits", &chosen, "trace.p.sampling", "temp=1 typical_p=0.5");
    must(trace_open(path, NULL, (Notice){count_notice, &heard}, &t, &err), &err);
    assert_int_equal(heard, 1);
    assert_false(t->prompts[0].sampling.given);
    assert_int_equal(t->prompts[0].chosen, -1);
    trace_close(t);
    put_gguf(path, "p.probs", &chosen, "trace.p.sampling", "mirostat=2");
    open_bad(path, NULL, "no array");
    put_gguf(path, "p.logits", &chosen, NULL, NULL);
    t = open_ok(path, NULL);
    assert_int_equal(t->prompts[0].chosen, 7);
    trace_close(t);
    put_gguf(path, "p.token", &chosen, NULL, NULL);  // a key, no array
    open_bad(path, NULL, "no array");
}

// Numbers and booleans can be asked for as text; a text with a NUL in it is none.
static void other_keys(void **state) {
    (void)state;
    const char *path = in_dir("o.gguf");
    const float eps = 1e-6f;
    const double base = 1e6;
    const uint8_t yes = 1;
    const GgufStr cut = {"ab\0cd", 5};
    const struct {
        GgufValue v;
        const char *want;
    } cases[] = {
        {{.key = "trace.x", .type = GGUF_F32, .n = 1, .raw = (const uint8_t *)&eps},
         "9.99999997e-07"},
        {{.key = "trace.x", .type = GGUF_F64, .n = 1, .raw = (const uint8_t *)&base}, "1000000"},
        {{.key = "trace.x", .type = GGUF_BOOL, .n = 1, .raw = &yes}, "yes"},
        {{.key = "trace.x", .type = GGUF_U8, .n = 1, .raw = &yes}, "1"},
        {{.key = "trace.x", .type = GGUF_STR, .n = 1, .strs = &cut}, NULL},
        {{.key = "trace.y", .type = GGUF_U8, .n = 1, .raw = &yes}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_gguf(path, "p.logits", &cases[i].v, NULL, NULL);
        Trace *t = open_ok(path, NULL);
        const char *got = trace_says(t, "x");
        if (cases[i].want)
            assert_string_equal(got, cases[i].want);
        else
            assert_null(got);
        trace_close(t);
    }
}

// The other forms have the same keys and arrays, where they have keys at all.
static void keys_of_other_forms(void **state) {
    (void)state;
    const float x[4] = {1, 2, 3, 4};
    const char *f = in_dir("cache");
    const TraceShape hf = {QK_HF, true, 2, 1, 4};
    put_tokens(f, "tokens", 1);
    put_floats(f, "blk.0.k_cache", "1, 1, 4", x, 4);
    put_floats(f, "blk.0.v_cache", "1, 4", x, 4);
    put_floats(f, "probs", "4,", x, 4);
    put_floats(f, "token", "1,", x, 1);
    Trace *t = open_ok(f, &hf);
    const TracePrompt *p = &t->prompts[0];
    same_floats("k_cache", trace_find(p, COMP_K_CACHE, 0)->x, (float[]){1, 3, 2, 4}, 4);
    same_floats("v_cache", trace_find(p, COMP_V_CACHE, 0)->x, x, 4);
    assert_null(trace_find(p, COMP_PROBS, -1));  // nobody says how they came about
    assert_int_equal(t->n_ignored, 2);
    assert_false(p->sampling.given);
    trace_close(t);
    need_jansson();
    static const char header[] =
        "{\"__metadata__\":{\"trace.c.text\":\"a\\nb\",\"c.sampling\":\"temp=0\"},"
        "\"c.tokens\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]},"
        "\"c.probs\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[4,16]}}";
    put_safetensors(in_dir("keys.safetensors"), header, x, sizeof x);
    t = open_ok(in_dir("keys.safetensors"), NULL);
    assert_string_equal(t->prompts[0].text, "a\nb");
    assert_true(t->prompts[0].sampling.given && t->prompts[0].sampling.temp == 0);
    assert_int_equal(trace_find(&t->prompts[0], COMP_PROBS, -1)->width, 3);
    trace_close(t);
}

// --- files that lie ---------------------------------------------------------------------------

static void bad_traces(void **state) {
    (void)state;
    const float x[12] = {0};
    const int64_t negative[2] = {1, -1}, large[2] = {1, 1LL << 31};
    const char *f = in_dir("none");
    put_floats(f, "blk.0.q", "3, 4", x, 12);
    open_bad(f, NULL, "no token ids");
    put_tokens(f, "tokens", 2);
    open_bad(f, NULL, "at most 2 tokens");
    put_tokens(f, "other.tokens", 3);
    put_floats(f, "blk.0.q", "2, 6", x, 12);
    Trace *t = open_ok(f, NULL);  // the prompt without a name
    assert_int_equal(t->prompts[0].n_arrays, 1);
    assert_int_equal(t->prompts[1].n_arrays, 0);
    trace_close(t);
    put_floats(f, "third.blk.0.q", "2, 6", x, 12);
    open_bad(f, NULL, "third.tokens\"");

    f = in_dir("two");
    put_tokens(f, "a.tokens", 3);
    put_tokens(f, "b.tokens", 3);
    put_floats(f, "blk.0.q", "3, 4", x, 12);
    open_bad(f, NULL, "which of the 2 prompts");

    f = in_dir("double");
    put_tokens(f, "tokens", 3);
    put_floats(f, "blk.0.v", "3, 4", x, 12);
    put_floats(f, "model.layers.0.self_attn.v_proj", "3, 4", x, 12);
    open_bad(f, NULL, "and so is");

    f = in_dir("ids");
    put_floats(f, "blk.0.v", "2, 4", x, 8);
    put_npy(f, "tokens", "<i8", "2,", negative, 16);
    open_bad(f, NULL, "token 1 is -1");
    put_npy(f, "tokens", "<i8", "2,", large, 16);
    open_bad(f, NULL, "2147483648");
    put_floats(f, "tokens", "2,", x, 2);
    open_bad(f, NULL, "expected integers");
    put_npy(f, "tokens", "<i8", "0,", x, 0);
    open_bad(f, NULL, "dimension");
    put_tokens(f, "tokens", 2);
    put_npy(f, "blk.0.v", "<i4", "2, 4", x, 32);
    open_bad(f, NULL, "expected floats, found I32");
    put_floats(f, "blk.0.v", "2, 0", x, 0);
    open_bad(f, NULL, "empty");
    put_floats(f, "blk.0.v", "", x, 1);
    open_bad(f, NULL, "empty");
    put_floats(f, "blk.0.v", "2, 4", x, 8);
    put_floats(f, "blk.0.kq", "4, 3", x, 12);
    open_bad(f, NULL, "3 keys");
    put_floats(f, "blk.0.kq", "6, 2", x, 12);
    const TraceShape shape = {.n_heads = 4, .n_kv_heads = 1, .head_dim = 4};
    open_bad(f, &shape, "tokens x heads");

    f = in_dir("empty");
    put_tokens(f, "tokens", 2);
    open_bad(f, NULL, "no array has a component's name");
    open_bad(in_dir("is-not-there"), NULL, "is-not-there");
    put_file(in_dir("x.npz"), "PK\3\4xxxxxxxx", 12);
    open_bad(in_dir("x.npz"), NULL, "archive");
    open_bad(in_dir("empty/tokens.npy"), NULL, "give the folder");
    put_file(in_dir("zero"), "", 0);
    if (!no_jansson()) open_bad(in_dir("zero"), NULL, "no safetensors");
    Error err = {0};
    assert_int_equal(trace_open("models/demo.gguf", NULL, quiet, &t, &err), ERR_FILE);
    assert_non_null(strstr(err.text, "is no trace"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(occurrences),
        cmocka_unit_test(golden),
        cmocka_unit_test(written),
        cmocka_unit_test(folder),
        cmocka_unit_test(safetensors),
        cmocka_unit_test(hf_layout),
        cmocka_unit_test(llama_cpp),
        cmocka_unit_test(fuzz_seeds),
        cmocka_unit_test(bad_traces),
        cmocka_unit_test(prompt_keys),
        cmocka_unit_test(sampling_texts),
        cmocka_unit_test(foreign_sampling),
        cmocka_unit_test(other_keys),
        cmocka_unit_test(keys_of_other_forms),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
