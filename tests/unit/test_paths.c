// The paths: a right backend gives the same bits by all of them; each fault that only one path has
// fails that path, and no other.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "faulty_backend.h"
#include "verify/paths.h"

#define DEMO_Q4_K "models/demo.gguf"
#define ARCH(name) "tests/golden/arch/" name "-1.gguf"

enum { N = 40 };

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

typedef struct {
    int calls;
    double done, total;
} Watch;

static void watch(void *user, const char *what, double done, double total) {
    Watch *w = user;
    assert_true(what && *what && done >= w->done && done < total);
    assert_true(w->calls == 0 || total == w->total);
    w->calls++, w->done = done, w->total = total;
}

static Report check(const char *path, const BackendOps *ops, size_t n, bool quick) {
    Gguf *gguf;
    Model *model;
    DeviceModel *device;
    Oracle *oracle;
    Report r;
    Error err = {0};
    Rng rng = {5};
    Watch w = {0};
    int32_t ids[N];
    const BackendConfig config = {.n_threads = 3};
    must(gguf_open(path, &gguf, &err), &err);
    must(model_bind(gguf, (Notice){0}, &model, &err), &err);
    must(device_model_open(model, ops, &config, &device, &err), &err);
    must(oracle_new(model, 2, &oracle, &err), &err);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)rng_below(&rng, (uint64_t)model->h.n_vocab);
    const PathsOptions o = {.tokens = ids,
                            .n = n,
                            .quick = quick,
                            .type_k = TYPE_F16,
                            .type_v = TYPE_F16,
                            .n_threads = 3,
                            .progress = watch,
                            .user = &w};
    report_init(&r);
    must(paths_check(model, device, oracle, &o, &r, &err), &err);
    report_finish(&r);
    assert_true(w.calls > 0);
    oracle_free(oracle);
    device_model_close(device);
    model_free(model);
    gguf_close(gguf);
    return r;
}

static size_t count(const Report *r, Outcome outcome) {
    size_t n = 0;
    for (size_t i = 0; i < r->n_findings; i++) n += r->findings[i].outcome == outcome;
    return n;
}

static const Finding *find(const Report *r, const char *id) {
    for (size_t i = 0; i < r->n_findings; i++) {
        if (strcmp(r->findings[i].id, id) == 0) return &r->findings[i];
    }
    return NULL;
}

static void must_pass(const Report *r) {
    for (size_t i = 0; i < r->n_findings; i++) {
        const Finding *f = &r->findings[i];
        assert_int_equal(f->stage, STAGE_PATHS);
        if (f->outcome == OUTCOME_FAIL) fail_msg("%s: %s", f->id, f->text);
    }
    assert_int_equal(r->stage[STAGE_PATHS], OUTCOME_PASS);
}

static void all_paths_agree(void **state) {
    (void)state;
    static const char *const ids[] = {
        "twice",          "taps",          "token by token", "1 | rest",      "9 | rest",
        "33 | rest",      "chunks of 2",   "chunks of 33",   "rewind",        "sequences mixed",
        "sequences step", "shared prefix", "sampler greedy", "sampler draws", "cache F32",
        "cache Q8_0",     "threads 1",     "threads 2"};
    Report r = check(DEMO_Q4_K, right_ops(), N, false);
    must_pass(&r);
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        const Finding *f = find(&r, ids[i]);
        if (!f || f->outcome != OUTCOME_PASS) fail_msg("%s is missing", ids[i]);
    }
    assert_null(find(&r, "cache F16"));  // the components stage's own
    report_free(&r);
}

static void instruction_sets(void **state) {
    (void)state;
    const BackendOps *cpu = right_ops();
    int n = 0;
    while (cpu->isa_at(n)) n++;
    assert_true(n >= 1);
    assert_string_equal(cpu->isa_at(n - 1), "generic");
    assert_null(cpu->isa_at(-1));
    Report r = check(ARCH("llama"), cpu, 12, false);
    must_pass(&r);
    for (int i = 0; i < n; i++) {
        char id[FINDING_ID];
        snprintf(id, sizeof id, "instructions %s", cpu->isa_at(i));
        assert_true((find(&r, id) != NULL) == (i > 0));
    }
    report_free(&r);
}

static void odd_models(void **state) {
    (void)state;
    static const char *const names[] = {ARCH("llama3"), ARCH("qwen2"), ARCH("qwen3")};
    for (size_t i = 0; i < 3; i++) {
        Report r = check(names[i], right_ops(), N, false);
        must_pass(&r);
        // Heads of 40 elements have no Q8_0 cache: said, not failed.
        if (i == 2) assert_int_equal(find(&r, "cache Q8_0")->outcome, OUTCOME_SKIPPED);
        report_free(&r);
    }
}

static void short_prompts(void **state) {
    (void)state;
    for (size_t n = 1; n <= 9; n++) {
        Report r = check(ARCH("llama"), right_ops(), n, false);
        must_pass(&r);
        report_free(&r);
    }
}

static void quick_is_a_subset(void **state) {
    (void)state;
    Report r = check(DEMO_Q4_K, right_ops(), N, true);
    must_pass(&r);
    assert_int_equal(r.n_findings, 6);
    assert_non_null(find(&r, "9 | rest"));
    report_free(&r);
}

// The paths that fail, in order.
static void check_fault(FaultKind kind, bool to_the_bit, const char *want) {
    BackendOps ops = *faulty_ops(kind);
    ops.batch_invariant = to_the_bit;
    Report r = check(DEMO_Q4_K, &ops, N, false);
    char got[600] = "";
    for (size_t i = 0; i < r.n_findings; i++) {
        if (r.findings[i].outcome != OUTCOME_FAIL) continue;
        const size_t at = strlen(got);
        snprintf(got + at, sizeof got - at, "%s%s", at ? ", " : "", r.findings[i].id);
    }
    assert_string_equal(got, want);
    assert_int_equal(r.stage[STAGE_PATHS], *want ? OUTCOME_FAIL : OUTCOME_PASS);
    report_free(&r);
}

static void faults_are_found(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {  // to the bit, and within a rounding
        const bool bits = i == 0;
        check_fault(RIGHT, bits, "");
        check_fault(TAPPED, bits, "taps, cache F32, cache Q8_0, instructions generic");
        check_fault(LONE, bits, "token by token, 1 | rest, chunks of 3");
        check_fault(NO_COPY, bits, "shared prefix");
        check_fault(ONE_SEQUENCE, bits, "sequences mixed, sequences step");
        check_fault(THREADS, bits, "threads 2");
        check_fault(NAMED_GENERIC, bits, "instructions generic");
        check_fault(CACHE_F32, bits, "cache F32");
    }
}

static void a_finding_says_where(void **state) {
    (void)state;
    BackendOps ops = *faulty_ops(LONE);
    Report r = check(DEMO_Q4_K, &ops, N, true);
    const Finding *f = find(&r, "token by token");
    assert_int_equal(f->outcome, OUTCOME_FAIL);
    assert_non_null(strstr(f->text, "token 0"));
    assert_non_null(strstr(f->text, "one prefill"));
    assert_int_equal(count(&r, OUTCOME_FAIL), 1);
    assert_false(report_passed(&r));
    const First first = report_first(&r);
    assert_int_equal(first.stage, STAGE_PATHS);
    assert_ptr_equal(first.finding, f);
    report_free(&r);

    ops = *faulty_ops(RACE);
    r = check(DEMO_Q4_K, &ops, N, true);
    assert_int_equal(find(&r, "twice")->outcome, OUTCOME_FAIL);
    report_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_paths_agree),      cmocka_unit_test(instruction_sets),
        cmocka_unit_test(odd_models),           cmocka_unit_test(short_prompts),
        cmocka_unit_test(quick_is_a_subset),    cmocka_unit_test(faults_are_found),
        cmocka_unit_test(a_finding_says_where),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
