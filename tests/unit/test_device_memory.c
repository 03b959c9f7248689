// A device's memory is asked before it is taken, and what does not fit is an error with a number
// that does fit.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "small_device.h"

#define TIED "tests/golden/arch/qwen2-1.gguf"
#define DEMO "models/demo.gguf"
#define BIG "tests/golden/models/demo-f16.gguf"
#define UNTIED "tests/golden/arch/llama-1.gguf"

typedef struct {
    Gguf *g;
    Model *m;
    uint64_t weights;  // of all bound tensors
    char said[1024];
} Loaded;

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

static void hear(void *user, const char *line) {
    Loaded *l = user;
    snprintf(l->said + strlen(l->said), sizeof l->said - strlen(l->said), "%s\n", line);
}

static Loaded load(const char *path) {
    Loaded l = {0};
    Error err;
    must(gguf_open(path, &l.g, &err), &err);
    must(model_bind(l.g, (Notice){0}, &l.m, &err), &err);
    l.weights = l.m->weight_bytes;
    return l;
}

static void unload(Loaded *l) {
    assert_int_equal(small.n_open, 0);
    model_free(l->m);
    gguf_close(l->g);
}

static void expect_text(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("no '%s' in: %s", part, text);
}

static void expect_mib(const char *text, uint64_t bytes) {
    char number[32];
    snprintf(number, sizeof number, "%.1f MiB", (double)bytes / 0x1p20);
    expect_text(text, number);
}

static Status open_split(Loaded *l, int n, bool fewer, uint64_t total, DeviceModel **d,
                         Error *err) {
    const BackendConfig config = {.n_threads = 1, .notice = {hear, l}};
    const DeviceSplit split = {.lower = {cpu_ops(), config},
                               .upper = {small_ops(total), config},
                               .n_upper = n,
                               .fewer = fewer};
    l->said[0] = 0;
    return device_model_split(l->m, &split, d, err);
}

// --- weights ----------------------------------------------------------------------------------

static void check_whole(const char *path, bool tied) {
    const BackendConfig config = {.n_threads = 1};
    Loaded l = load(path);
    DeviceModel *d;
    Error err;
    assert_int_equal(l.m->tied, tied);
    must(device_model_open(l.m, small_ops(l.weights), &config, &d, &err), &err);
    assert_int_equal(small.taken, l.weights);
    device_model_close(d);
    must(device_model_open(l.m, small_ops(0), &config, &d, &err), &err);  // it does not say
    device_model_close(d);
    assert_int_equal(device_model_open(l.m, small_ops(l.weights - 1), &config, &d, &err),
                     ERR_UNAVAILABLE);
    assert_null(d);
    assert_int_equal(small.n_weights, 0);
    expect_text(err.text, "abacus:0 Abacus 9");
    expect_text(err.text, "plumb quantize");
    expect_mib(err.text, l.weights);
    assert_null(strstr(err.text, "-ngl"));  // nobody offers another backend
    unload(&l);
}

static void the_whole_model(void **state) {
    (void)state;
    check_whole(TIED, true);
    check_whole(UNTIED, false);
}

static uint64_t layer_bytes(const Model *m, int layer) {
    const LayerWeights *w = &m->layers[layer];
    const Tensor *all[] = {w->attn_norm,
                           w->q,
                           w->k,
                           w->v,
                           w->q_bias,
                           w->k_bias,
                           w->v_bias,
                           w->q_norm,
                           w->k_norm,
                           w->attn_out,
                           w->ffn_norm,
                           w->ffn_gate,
                           w->ffn_up,
                           w->ffn_down,
                           w->ffn_up_bias,
                           w->ffn_gate_bias,
                           w->ffn_down_bias,
                           w->attn_out_bias};
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bytes += all[i] ? all[i]->bytes : 0;
    return bytes;
}

// What the last n layers, with more than there are the output too, take of the device.
static uint64_t upper_bytes(const Model *m, int n) {
    const int n_layers = m->h.n_layers;
    uint64_t bytes = 0;
    if (n > n_layers) return m->weight_bytes;
    for (int i = 0; i < n; i++) bytes += layer_bytes(m, n_layers - 1 - i);
    return bytes + (n == n_layers ? m->token_embd->bytes : 0);
}

static void check_parts(const char *path) {
    Loaded l = load(path);
    DeviceModel *d;
    Error err;
    for (int n = 1; n <= l.m->h.n_layers + 1; n++) {
        const uint64_t need = upper_bytes(l.m, n);
        must(open_split(&l, n, false, need, &d, &err), &err);  // to the byte
        assert_int_equal(small.taken, need);
        assert_string_equal(l.said, "");
        device_model_close(d);
        assert_int_equal(open_split(&l, n, false, need - 1, &d, &err), ERR_UNAVAILABLE);
        assert_int_equal(small.n_weights, 0);
        expect_mib(err.text, need);
        expect_text(err.text, "abacus:0 Abacus 9");
        expect_text(err.text, "-ngl");
    }
    unload(&l);
}

static void each_part(void **state) {
    (void)state;
    check_parts(TIED);
    check_parts(UNTIED);
}

// The number that an error proposes opens, and leaves room for a session.
static void what_would_fit(void **state) {
    (void)state;
    Loaded l = load(BIG);
    const int n_layers = l.m->h.n_layers;
    int last = 0, n_changes = 0;
    for (int i = 1; i < 40; i++) {
        const uint64_t total = l.weights * (uint64_t)i / 40;
        const SessionConfig c = {0, 1, 0, TYPE_F16, TYPE_F16};
        Error err;
        DeviceModel *d;
        Session *s;
        int n = 0;
        assert_int_equal(open_split(&l, n_layers + 1, false, total, &d, &err), ERR_UNAVAILABLE);
        const char *at = strstr(err.text, "-ngl ");
        assert_non_null(at);
        assert_int_equal(sscanf(at, "-ngl %d", &n), 1);
        assert_true(n >= last && n <= n_layers);
        n_changes += n != last;
        last = n;
        assert_int_equal(strstr(err.text, "not one layer") != NULL, n == 0);
        if (n == 0) continue;
        must(open_split(&l, n, false, total, &d, &err), &err);
        must(session_new(d, &c, (Notice){0}, &s, &err), &err);
        assert_true(session_n_ctx(s) >= 512);
        session_free(s);
        device_model_close(d);
    }
    assert_true(n_changes > 1);
    unload(&l);
}

static void as_many_as_fit(void **state) {
    (void)state;
    Loaded l = load(BIG);
    const int n_layers = l.m->h.n_layers;
    int last = 0, n_partial = 0;
    for (int i = 1; i < 80; i++) {
        const uint64_t total = l.weights * (uint64_t)i / 20;
        Error err;
        DeviceModel *d;
        Status st = open_split(&l, n_layers + 1, true, total, &d, &err);
        if (st) {
            assert_int_equal(st, ERR_UNAVAILABLE);
            assert_int_equal(last, 0);
            expect_text(err.text, "not one layer");
            continue;
        }
        const DevicePart *upper = &d->parts[d->n_parts - 1];
        assert_string_equal(upper->ops->name, "abacus");
        const int n = upper->n_layers + upper->output;
        assert_true(n >= last);
        last = n;
        if (n <= n_layers) {
            char words[64];
            snprintf(words, sizeof words, "room for %d of the %d layers", n, n_layers);
            expect_text(l.said, words);
            expect_text(l.said, "abacus:0 Abacus 9");
            n_partial++;
        } else {
            assert_string_equal(l.said, "");
            assert_int_equal(d->n_parts, 1);
        }
        device_model_close(d);
    }
    assert_int_equal(last, n_layers + 1);
    assert_true(n_partial > 3);
    unload(&l);
}

// --- contexts ---------------------------------------------------------------------------------

static uint64_t session_bytes(const Loaded *l, const DevicePart *p, int n_ctx) {
    const int batch = n_ctx < 512 ? n_ctx : 512;
    const ForwardConfig c = {n_ctx, 1, batch, TYPE_F16, TYPE_F16};
    return forward_bytes(l->m, p, &c);
}

static void a_context_must_fit(void **state) {
    (void)state;
    Loaded l = load(DEMO);
    const int n_layers = l.m->h.n_layers;
    static const int wanted[] = {704, 48, 16};  // the CPU's caches grow by 16 positions
    for (int n = 1; n <= n_layers + 1; n += n_layers) {
        Error err;
        DeviceModel *d;
        Session *s;
        must(open_split(&l, n, false, UINT64_C(1) << 40, &d, &err), &err);
        const DevicePart *upper = &d->parts[d->n_parts - 1];
        for (size_t i = 0; i < 3; i++) {
            SessionConfig c = {wanted[i], 1, 0, TYPE_F16, TYPE_F16};
            const uint64_t need = session_bytes(&l, upper, wanted[i]);
            small.total = small.taken + need;
            must(session_new(d, &c, (Notice){0}, &s, &err), &err);
            session_free(s);
            c.n_ctx = 2000;
            assert_int_equal(session_new(d, &c, (Notice){0}, &s, &err), ERR_UNAVAILABLE);
            char fits[32];
            snprintf(fits, sizeof fits, "-c %d would fit", wanted[i]);
            expect_text(err.text, fits);
            expect_text(err.text, "abacus:0 Abacus 9");
            expect_text(err.text, "-ngl");
            expect_text(err.text, "-ctk q8_0");
            expect_mib(err.text, need);
            expect_mib(err.text, session_bytes(&l, upper, 2000));
        }
        small.total = small.taken + 1;
        const SessionConfig one = {1, 1, 0, TYPE_F16, TYPE_F16};
        assert_int_equal(session_new(d, &one, (Notice){0}, &s, &err), ERR_UNAVAILABLE);
        expect_text(err.text, "not one token");
        device_model_close(d);
    }
    unload(&l);
}

// The model's own context is halved until each device holds it in half of what it has free.
static void a_context_of_its_own(void **state) {
    (void)state;
    Loaded l = load(DEMO);
    Error err;
    DeviceModel *d;
    Session *s;
    const int train = l.m->h.n_ctx_train;
    assert_true(train >= 1024);
    must(open_split(&l, 2, false, UINT64_C(1) << 40, &d, &err), &err);
    const SessionConfig c = {0, 1, 0, TYPE_F16, TYPE_F16};
    for (int want = train; want >= 512; want /= 2) {
        small.total = small.taken + 2 * session_bytes(&l, &d->parts[1], want);
        l.said[0] = 0;
        must(session_new(d, &c, (Notice){hear, &l}, &s, &err), &err);
        assert_int_equal(session_n_ctx(s), want);
        assert_int_equal(strstr(l.said, "reduced") != NULL, want < train);
        session_free(s);
        if (want == 512) break;
        small.total -= 2;
        must(session_new(d, &c, (Notice){0}, &s, &err), &err);
        assert_int_equal(session_n_ctx(s), want / 2);
        session_free(s);
    }
    device_model_close(d);
    unload(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_whole_model),    cmocka_unit_test(each_part),
        cmocka_unit_test(what_would_fit),     cmocka_unit_test(as_many_as_fit),
        cmocka_unit_test(a_context_must_fit), cmocka_unit_test(a_context_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
