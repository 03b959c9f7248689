// Steps that are recorded: the second of a size is, later ones are replayed, nothing else is, and
// the logits are those of a backend that does not record.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "recording_backend.h"

#define SMALL "tests/golden/arch/qwen3-1.gguf"

enum { CTX = 80, SEQS = 4 };

typedef struct {
    Gguf *g;
    Model *m;
    DeviceModel *recording, *plain;
    Forward *f, *want;
    size_t n_vocab;
    float *got_logits, *want_logits;
    int32_t ids[CTX], pos[CTX], seq[CTX], rows[CTX];
} Pair;

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

static Pair pair_of(Willing willing, int max_batch) {
    Pair p = {0};
    Error err;
    Rng r = {11};
    const BackendConfig config = {.n_threads = 2};
    const ForwardConfig c = {CTX, SEQS, max_batch, TYPE_F16, TYPE_F16};
    must(gguf_open(SMALL, &p.g, &err), &err);
    must(model_bind(p.g, (Notice){0}, &p.m, &err), &err);
    must(device_model_open(p.m, recording_ops(willing), &config, &p.recording, &err), &err);
    must(device_model_open(p.m, cpu_ops(), &config, &p.plain, &err), &err);
    must(forward_new(p.recording, &c, &p.f, &err), &err);
    must(forward_new(p.plain, &c, &p.want, &err), &err);
    p.n_vocab = (size_t)p.m->h.n_vocab;
    p.got_logits = room(CTX * p.n_vocab * 4), p.want_logits = room(CTX * p.n_vocab * 4);
    for (int i = 0; i < CTX; i++) {
        p.ids[i] = (int32_t)rng_below(&r, p.n_vocab);
        p.rows[i] = i;
    }
    return p;
}

static void drop_pair(Pair *p) {
    forward_free(p->f);
    forward_free(p->want);
    assert_int_equal(recorder.n_alive, 0);
    device_model_close(p->recording);
    device_model_close(p->plain);
    model_free(p->m);
    gguf_close(p->g);
    free(p->got_logits);
    free(p->want_logits);
}

// n tokens of one sequence from position `at` on, logits of the rows given, on both backends.
static void run_rows(Pair *p, int seq, int at, int n, int n_out, const int32_t *rows) {
    Error err;
    for (int i = 0; i < n; i++) p->pos[i] = at + i, p->seq[i] = seq;
    must(forward_run(p->f, n, p->ids + at, p->pos, p->seq, n_out, rows, p->got_logits, &err), &err);
    must(forward_run(p->want, n, p->ids + at, p->pos, p->seq, n_out, rows, p->want_logits, &err),
         &err);
    same_floats("logits", p->got_logits, p->want_logits, (size_t)n_out * p->n_vocab);
}

static void run_all_rows(Pair *p, int seq, int at, int n) {
    run_rows(p, seq, at, n, n, p->rows);
}

// How many operations were issued, recordings begun and replayed since the last call.
static void expect_calls(const char *what, bool issued, int records, int replays) {
    if ((recorder.n_issued > 0) != issued || recorder.n_records != records ||
        recorder.n_replays != replays) {
        fail_msg("%s: %d operations, %d records, %d replays; expected %s, %d, %d", what,
                 recorder.n_issued, recorder.n_records, recorder.n_replays, issued ? "some" : "0",
                 records, replays);
    }
    recorder.n_issued = recorder.n_records = recorder.n_replays = 0;
}

static void the_second_step_records(void **state) {
    (void)state;
    Pair p = pair_of(RECORDS, 16);
    run_all_rows(&p, 0, 0, 1);
    expect_calls("the first step", true, 0, 0);
    run_all_rows(&p, 0, 1, 1);
    expect_calls("the second step", false, 1, 1);
    for (int at = 2; at < 20; at++) {
        run_all_rows(&p, 0, at, 1);
        expect_calls("a later step", false, 0, 1);
    }
    run_all_rows(&p, 3, 0, 1);
    expect_calls("a step of another sequence", false, 0, 1);
    drop_pair(&p);
}

static void sizes_have_their_own(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 7, 31, 32};
    Pair p = pair_of(RECORDS, 64);
    for (int run = 0; run < 3; run++) {
        for (int i = 0; i < 5; i++) {
            run_all_rows(&p, 0, run * 3, sizes[i]);
            expect_calls("a size", run == 0, run == 1, run > 0);
        }
        run_all_rows(&p, 0, run, 33);
        expect_calls("33 tokens", true, 0, 0);
    }
    assert_int_equal(recorder.n_alive, 5);
    // One token each of several sequences is a batch of so many tokens.
    Error err;
    run_all_rows(&p, 1, 0, 5);
    expect_calls("five tokens", true, 0, 0);
    for (int i = 0; i < 2; i++) p.pos[i] = 5, p.seq[i] = i;
    must(forward_run(p.f, 2, p.ids, p.pos, p.seq, 2, p.rows, p.got_logits, &err), &err);
    must(forward_run(p.want, 2, p.ids, p.pos, p.seq, 2, p.rows, p.want_logits, &err), &err);
    same_floats("two sequences", p.got_logits, p.want_logits, 2 * p.n_vocab);
    expect_calls("two sequences", false, 0, 1);
    drop_pair(&p);
}

static void a_small_batch_limits_them(void **state) {
    (void)state;
    Pair p = pair_of(RECORDS, 3);
    for (int run = 0; run < 3; run++) {
        run_all_rows(&p, 0, run, 3);
        expect_calls("three", run == 0, run == 1, run > 0);
    }
    drop_pair(&p);
}

static int n_seen;

static void see(void *user, const char *name, int layer, const float *x, size_t rows,
                size_t width) {
    (void)user, (void)name, (void)layer, (void)x, (void)rows, (void)width;
    n_seen++;
}

static void nothing_else_is_replayed(void **state) {
    (void)state;
    static const int32_t turned[] = {1, 0}, last[] = {1}, twice[] = {0, 0};
    Pair p = pair_of(RECORDS, 16);
    for (int run = 0; run < 3; run++) run_all_rows(&p, 0, 0, 1), run_all_rows(&p, 0, 0, 2);
    expect_calls("to begin with", true, 2, 4);
    run_rows(&p, 0, 0, 2, 2, turned);
    expect_calls("rows in another order", true, 0, 0);
    run_rows(&p, 0, 0, 2, 2, twice);
    expect_calls("a row twice", true, 0, 0);
    run_rows(&p, 0, 0, 2, 1, last);
    expect_calls("a prefill of two", true, 0, 0);
    run_rows(&p, 0, 0, 1, 0, NULL);
    expect_calls("no logits", true, 0, 0);
    forward_set_tap(p.f, (Tap){.fn = see, .scores = true});
    run_all_rows(&p, 0, 2, 1);
    expect_calls("with a tap", true, 0, 0);
    assert_true(n_seen > 20);
    forward_set_tap(p.f, (Tap){0});
    run_all_rows(&p, 0, 3, 1);
    expect_calls("the tap is gone", false, 0, 1);
    drop_pair(&p);
}

static void a_device_that_does_not_record(void **state) {
    (void)state;
    static const Willing how[] = {NO_START, NO_END, REFUSES};
    for (int i = 0; i < 3; i++) {
        Pair p = pair_of(how[i], 16);
        for (int at = 0; at < 5; at++) {
            run_all_rows(&p, 0, at, 1);
            expect_calls("a step", true, at == 1, 0);
        }
        run_all_rows(&p, 1, 0, 2);
        run_all_rows(&p, 1, 2, 2);
        expect_calls("another size is tried once too", true, 1, 0);
        drop_pair(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_second_step_records),       cmocka_unit_test(sizes_have_their_own),
        cmocka_unit_test(a_small_batch_limits_them),     cmocka_unit_test(nothing_else_is_replayed),
        cmocka_unit_test(a_device_that_does_not_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
