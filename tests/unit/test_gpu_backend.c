// The driver of GPUs and its kernels on the emulator (tests/gpu): whole models, verified while they
// run and by every path; recordings; a device that fails or has no room.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend/gpu/gpu.h"
#include "backend/gpu/gpu_internal.h"
#include "check.h"
#include "engine/forward.h"
#include "verify/live.h"
#include "verify/paths.h"
#include "../gpu/emulator.h"

#define DEMO_F16 "tests/golden/models/demo-f16.gguf"
#define DEMO_Q8_0 "tests/golden/models/demo-Q8_0.gguf"
#define DEMO_Q4_K "models/demo.gguf"
#define ARCH(name) "tests/golden/arch/" name "-1.gguf"

// --- the backend ---------------------------------------------------------------------------------

static Status open_emulator(const BackendConfig *config, Backend **out, Error *err) {
    return gpu_open(&device_emulator, config, out, err);
}

static Status probe_emulator(Text *out, Error *err) {
    return text_append_str(out, "0: emulator") ? OK : error_memory(err, "a line", 12);
}

static bool not_by_default(void) {
    return false;
}

static const BackendOps *emulator_ops(void) {
    static BackendOps ops;
    ops = cuda_backend;
    ops.name = "emulator";
    ops.probe = probe_emulator;
    ops.by_default = not_by_default;
    ops.open = open_emulator;
    return &ops;
}

// Under a sanitizer some models are left out.
static bool is_short(void) {
    return getenv("PLUMB_SANITIZE") != NULL;
}

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

typedef struct {
    Gguf *gguf;
    Model *model;
    DeviceModel *device;
    Oracle *oracle;
    int32_t ids[64];
} Loaded;

static Loaded load(const char *path, const BackendOps *ops) {
    Loaded l = {0};
    Error err = {0};
    Rng r = {7};
    const BackendConfig config = {.n_threads = 2};
    must(gguf_open(path, &l.gguf, &err), &err);
    must(model_bind(l.gguf, (Notice){0}, &l.model, &err), &err);
    must(device_model_open(l.model, ops, &config, &l.device, &err), &err);
    must(oracle_new(l.model, 2, &l.oracle, &err), &err);
    for (size_t i = 0; i < 64; i++) {
        l.ids[i] = i ? (int32_t)rng_below(&r, (uint64_t)l.model->h.n_vocab) : 1;
    }
    return l;
}

static void unload(Loaded *l) {
    oracle_free(l->oracle);
    device_model_close(l->device);
    model_free(l->model);
    gguf_close(l->gguf);
    emulator_config = (EmulatorConfig){0};
    assert_int_equal(emulator_counts.n_buffers, 0);
    assert_int_equal(emulator_counts.used_bytes, 0);
}

// --- verified ------------------------------------------------------------------------------------

static void must_pass(Report *r, const char *what) {
    report_finish(r);
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *c = &r->components[i];
        char text[COMPONENT_TEXT];
        if (c->outcome == OUTCOME_PASS && c->worst.ratio < 0.6) continue;
        fail_msg("%s: %s: ratio %g by %s at token %zu", what, component_text(c->ref, text),
                 c->worst.ratio, measure_name(c->worst.by), c->token);
    }
    for (size_t i = 0; i < r->n_findings; i++) {
        const Finding *f = &r->findings[i];
        if (f->outcome == OUTCOME_FAIL) fail_msg("%s: %s: %s", what, f->id, f->text);
    }
    report_free(r);
}

// n tokens in one batch or, not 0, in chunks.
static void verify(const char *path, TensorType cache, size_t n, size_t chunk) {
    emulator_config.race = emulator_config.overlap = true;
    Loaded l = load(path, emulator_ops());
    Report r;
    Error err = {0};
    int prompt;
    size_t chunks[64], n_chunks = 0;
    for (size_t at = 0; chunk && at < n; at += chunk) {
        chunks[n_chunks++] = n - at < chunk ? n - at : chunk;
    }
    const LiveOptions o = {.type_k = cache,
                           .type_v = cache,
                           .chunks = chunk ? chunks : NULL,
                           .n_chunks = n_chunks,
                           .scores = true};
    report_init(&r);
    must(report_prompt(&r, "test", l.ids, n, "", &prompt, &err), &err);
    must(live_verify(l.device, l.oracle, l.ids, n, &o, &r, prompt, NULL, &err), &err);
    must_pass(&r, path);
    unload(&l);
}

static void components_are_right(void **state) {
    (void)state;
    verify(ARCH("llama3"), TYPE_F16, 12, 5);
    verify(ARCH("qwen2"), TYPE_F16, 10, 3);
    verify(ARCH("qwen3"), TYPE_F32, 5, 1);
    verify(DEMO_Q4_K, TYPE_Q8_0, 5, 2);
    if (is_short()) return;
    verify(ARCH("llama"), TYPE_F32, 9, 0);
    verify(DEMO_Q8_0, TYPE_F16, 9, 0);
    verify(DEMO_F16, TYPE_F32, 9, 0);
}

static void paths_agree(const char *path, size_t n, bool quick) {
    emulator_config.overlap = true;
    Loaded l = load(path, emulator_ops());
    Report r;
    Error err = {0};
    const PathsOptions o = {.tokens = l.ids,
                            .n = n,
                            .quick = quick,
                            .type_k = TYPE_F16,
                            .type_v = TYPE_F16,
                            .n_threads = 1};
    report_init(&r);
    must(paths_check(l.model, l.device, l.oracle, &o, &r, &err), &err);
    assert_true(r.n_findings > 3);
    must_pass(&r, path);
    unload(&l);
}

// To the bit, as the driver promises.
static void all_paths_agree(void **state) {
    (void)state;
    assert_true(emulator_ops()->batch_invariant);
    paths_agree(ARCH("qwen3"), 5, false);
    paths_agree(DEMO_Q4_K, 10, true);
    if (!is_short()) paths_agree(ARCH("llama"), 35, true);
}

// --- steps ---------------------------------------------------------------------------------------

enum { CTX = 80, SEQS = 2, BATCH = 16 };

static Status open_forward(const Loaded *l, Forward **out, Error *err) {
    const ForwardConfig c = {CTX, SEQS, BATCH, TYPE_F16, TYPE_F16};
    return forward_new(l->device, &c, out, err);
}

// n tokens of a sequence from position `at` on; the logits of all.
static Status run(Forward *f, const Loaded *l, int seq, int at, int n, float *logits, Error *err) {
    int32_t pos[BATCH], seqs[BATCH], rows[BATCH];
    for (int i = 0; i < n; i++) pos[i] = at + i, seqs[i] = seq, rows[i] = i;
    return forward_run(f, n, l->ids + at, pos, seqs, n, rows, logits, err);
}

// Twelve steps of one token and three of four, with and without recordings: the same bits.
static void recorded_steps_are_the_same(void **state) {
    (void)state;
    float *logits[2] = {0};
    size_t n_vocab = 0;
    for (int plain = 0; plain < 2; plain++) {
        Loaded l = load(ARCH("qwen2"), emulator_ops());
        emulator_config.overlap = true;
        emulator_config.cannot_record = plain;
        Error err = {0};
        Forward *f;
        must(open_forward(&l, &f, &err), &err);
        n_vocab = (size_t)l.model->h.n_vocab;
        float *to = logits[plain] = room(24 * n_vocab * sizeof *to);
        const int launches = emulator_counts.launches, replays = emulator_counts.replays;
        for (int i = 0; i < 12; i++, to += n_vocab) must(run(f, &l, 0, i, 1, to, &err), &err);
        for (int i = 0; i < 3; i++, to += 4 * n_vocab) {
            must(run(f, &l, 1, 4 * i, 4, to, &err), &err);
        }
        assert_true(emulator_counts.launches > launches);
        assert_int_equal(emulator_counts.replays - replays, plain ? 0 : 11 + 2);
        forward_free(f);
        unload(&l);
    }
    same_floats("logits", logits[0], logits[1], 24 * n_vocab);
    free(logits[0]);
    free(logits[1]);
}

// --- a device that fails -------------------------------------------------------------------------

// All that a run takes, from loading on; nothing is left of it.
static Status run_all(Error *err) {
    Loaded l = {0};
    Forward *f = NULL;
    const BackendConfig config = {0};
    must(gguf_open(ARCH("qwen2"), &l.gguf, err), err);
    must(model_bind(l.gguf, (Notice){0}, &l.model, err), err);
    for (size_t i = 0; i < 64; i++) l.ids[i] = (int32_t)i;
    float *logits = room(5 * (size_t)l.model->h.n_vocab * sizeof *logits);
    Status st = device_model_open(l.model, emulator_ops(), &config, &l.device, err);
    if (!st) st = open_forward(&l, &f, err);
    if (!st) st = run(f, &l, 0, 0, 5, logits, err);
    for (int i = 5; i < 8 && !st; i++) st = run(f, &l, 0, i, 1, logits, err);
    forward_free(f);
    device_model_close(l.device);
    model_free(l.model);
    gguf_close(l.gguf);
    free(logits);
    assert_int_equal(emulator_counts.n_buffers, 0);
    return st;
}

// Whichever of its calls fails, the run says so and leaves nothing behind; but a step that cannot be
// recorded runs all the same.
static void each_failure_is_told(void **state) {
    (void)state;
    Error err = {0};
    int n_calls = 1 << 20, told = 0;
    emulator_config.fail_at = n_calls;
    assert_int_equal(run_all(&err), OK);
    n_calls -= emulator_config.fail_at;
    assert_true(n_calls > 50);
    const int step = is_short() ? 7 : 1;
    for (int at = 1; at <= n_calls; at += step) {
        emulator_config.fail_at = at;
        err = (Error){0};
        const Status st = run_all(&err);
        assert_int_equal(emulator_config.fail_at, 0);
        if (st == OK) continue;
        told++;
        if (!strstr(err.text, "the emulator was told to fail")) fail_msg("%d: %s", at, err.text);
    }
    assert_true(told * step > n_calls / 2);
    emulator_config = (EmulatorConfig){0};
}

// With any less memory than it takes there is an error that says so, and nothing is left behind.
static void what_does_not_fit_is_told(void **state) {
    (void)state;
    Error err = {0};
    emulator_counts.most_bytes = 0;
    assert_int_equal(run_all(&err), OK);
    const uint64_t enough = emulator_counts.most_bytes;
    for (int part = 0; part <= 20; part++) {
        emulator_config.memory = part == 20 ? enough - 1 : 1 + enough * (uint64_t)part / 20;
        err = (Error){0};
        assert_int_equal(run_all(&err), ERR_UNAVAILABLE);
        if (!strstr(err.text, "memory")) fail_msg("%d / 20: %s", part, err.text);
    }
    emulator_config = (EmulatorConfig){.max_buffer = 4096};
    assert_int_equal(run_all(&err), ERR_UNAVAILABLE);
    emulator_config = (EmulatorConfig){0};
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(components_are_right),        cmocka_unit_test(all_paths_agree),
        cmocka_unit_test(recorded_steps_are_the_same), cmocka_unit_test(each_failure_is_told),
        cmocka_unit_test(what_does_not_fit_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
