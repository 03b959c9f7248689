// The CPU backend with recordings: operations between record and record_end are kept and run by
// replay. It counts what is issued, so that tests see which steps were.
//
// Include it after cmocka.h. Its recordings check what the contract promises to a backend.
#ifndef PLUMB_TESTS_RECORDING_BACKEND_H
#define PLUMB_TESTS_RECORDING_BACKEND_H

#include "check.h"
#include "engine/session.h"

typedef enum {
    RECORDS,
    NO_START,  // record() fails
    NO_END,    // record_end() fails, with something in its hands
    REFUSES,   // record_end() gives NULL
} Willing;

typedef enum { EMBED, RMSNORM, MATMUL, ROPE_KV, ATTENTION, SWIGLU, ADD, SELECT } Kind;

typedef struct {
    Kind kind;
    const Weight *w;
    const Buffer *x, *x2;
    Buffer *y, *y2;
    Kv *kv;
    HeadShape h;
    MatmulOut outs[4];
    float eps;
    int a, b;
    size_t n;
} Operation;

enum { MOST_OPERATIONS = 512 };

struct Recording {
    int n_tokens, n;
    Operation operations[MOST_OPERATIONS];
};

static struct {
    Willing willing;
    int n_issued, n_records, n_replays;  // operations run at once; calls
    int n_alive;                         // recordings
    bool begun;
    int n_tokens, n_out;  // of the batch that was begun
    Recording *open;
} recorder;

static const BackendOps *cpu_ops(void) {
    const BackendOps *cpu = backend_by_name("cpu");
    assert_non_null(cpu);
    return cpu;
}

static void perform(Backend *b, const Operation *o) {
    const BackendOps *cpu = cpu_ops();
    switch (o->kind) {
        case EMBED: cpu->embed(b, o->w, o->y); break;
        case RMSNORM: cpu->rmsnorm(b, o->x, o->w, o->eps, o->a, o->b, o->y); break;
        case MATMUL: cpu->matmul(b, o->x, o->a, o->outs, o->b); break;
        case ROPE_KV: cpu->rope_kv(b, &o->h, o->y, o->y2, o->x, o->kv, o->a); break;
        case ATTENTION: cpu->attention(b, &o->h, o->x, o->kv, o->a, o->y, o->y2, NULL, o->b); break;
        case SWIGLU: cpu->swiglu(b, o->x, o->x2, o->n, o->y); break;
        case ADD: cpu->add(b, o->y, o->x, o->n); break;
        case SELECT: cpu->select(b, o->x, o->a, o->b, (int)o->n, o->y); break;
    }
}

static void take(Backend *b, Operation o) {
    assert_true(recorder.begun);
    if (recorder.open) {
        assert_true(recorder.open->n < MOST_OPERATIONS);
        recorder.open->operations[recorder.open->n++] = o;
        return;
    }
    recorder.n_issued++;
    perform(b, &o);
}

static void rec_embed(Backend *b, const Weight *table, Buffer *y) {
    take(b, (Operation){.kind = EMBED, .w = table, .y = y});
}

static void rec_rmsnorm(Backend *b, const Buffer *x, const Weight *w, float eps, int rows,
                        int width, Buffer *y) {
    take(b, (Operation){RMSNORM, .x = x, .w = w, .eps = eps, .a = rows, .b = width, .y = y});
}

static void rec_matmul(Backend *b, const Buffer *x, int rows, const MatmulOut *outs, int n_outs) {
    Operation o = {.kind = MATMUL, .x = x, .a = rows, .b = n_outs};
    assert_true(n_outs <= 4);
    for (int i = 0; i < n_outs; i++) o.outs[i] = outs[i];
    take(b, o);
}

static void rec_rope_kv(Backend *b, const HeadShape *h, Buffer *q, Buffer *k, const Buffer *v,
                        Kv *kv, int layer) {
    take(b, (Operation){ROPE_KV, .h = *h, .y = q, .y2 = k, .x = v, .kv = kv, .a = layer});
}

static void rec_attention(Backend *b, const HeadShape *h, const Buffer *q, const Kv *kv, int layer,
                          Buffer *y, Buffer *kq, Buffer *soft, int n_keys) {
    if (kq) {  // asked for by a tap, never recorded
        assert_null(recorder.open);
        recorder.n_issued++;
        cpu_ops()->attention(b, h, q, kv, layer, y, kq, soft, n_keys);
        return;
    }
    take(b, (Operation){ATTENTION, .h = *h, .x = q, .kv = (Kv *)(uintptr_t)kv, .a = layer, .y = y,
                        .b = n_keys});
}

static void rec_swiglu(Backend *b, const Buffer *gate, const Buffer *up, size_t n, Buffer *y) {
    take(b, (Operation){SWIGLU, .x = gate, .x2 = up, .n = n, .y = y});
}

static void rec_add(Backend *b, Buffer *x, const Buffer *y, size_t n) {
    take(b, (Operation){.kind = ADD, .y = x, .x = y, .n = n});
}

static void rec_select(Backend *b, const Buffer *x, int from, int n, int width, Buffer *y) {
    take(b, (Operation){SELECT, .x = x, .a = from, .b = n, .n = (size_t)width, .y = y});
}

static Status rec_download(Backend *b, const Buffer *buf, float *dst, size_t n, Error *err) {
    assert_null(recorder.open);  // nothing waits for what is not run
    return cpu_ops()->download(b, buf, dst, n, err);
}

static Status rec_begin(Backend *b, const Batch *batch, Error *err) {
    assert_false(recorder.begun);
    recorder.begun = true;
    recorder.n_tokens = batch->n, recorder.n_out = batch->n_out;
    return cpu_ops()->begin(b, batch, err);
}

static Status rec_end(Backend *b, Error *err) {
    assert_true(recorder.begun);
    assert_null(recorder.open);
    recorder.begun = false;
    return cpu_ops()->end(b, err);
}

static Status rec_record(Backend *b, Error *err) {
    (void)b;
    assert_true(recorder.begun);
    assert_null(recorder.open);
    recorder.n_records++;
    if (recorder.willing == NO_START) return error_set(err, ERR_UNAVAILABLE, "no recording");
    recorder.open = calloc(1, sizeof *recorder.open);
    assert_non_null(recorder.open);
    recorder.open->n_tokens = recorder.n_tokens;
    recorder.n_alive++;
    return OK;
}

static void rec_free(Backend *b, Recording *r) {
    (void)b;
    if (!r) return;
    recorder.n_alive--;
    free(r);
}

static Status rec_record_end(Backend *b, Recording **out, Error *err) {
    assert_non_null(recorder.open);
    *out = recorder.open;
    recorder.open = NULL;
    if (recorder.willing == NO_END) return error_set(err, ERR_FAILED, "too much");
    if (recorder.willing == REFUSES) {
        rec_free(b, *out);
        *out = NULL;
    }
    return OK;
}

static Status rec_replay(Backend *b, Recording *r, Error *err) {
    (void)err;
    assert_true(recorder.begun);
    assert_int_equal(r->n_tokens, recorder.n_tokens);
    assert_int_equal(r->n_tokens, recorder.n_out);
    recorder.n_replays++;
    for (int i = 0; i < r->n; i++) perform(b, &r->operations[i]);
    return OK;
}

static const BackendOps *recording_ops(Willing willing) {
    static BackendOps ops;
    memset(&recorder, 0, sizeof recorder);
    recorder.willing = willing;
    ops = *cpu_ops();
    ops.download = rec_download;
    ops.begin = rec_begin;
    ops.embed = rec_embed;
    ops.rmsnorm = rec_rmsnorm;
    ops.matmul = rec_matmul;
    ops.rope_kv = rec_rope_kv;
    ops.attention = rec_attention;
    ops.swiglu = rec_swiglu;
    ops.add = rec_add;
    ops.select = rec_select;
    ops.end = rec_end;
    ops.record = rec_record;
    ops.record_end = rec_record_end;
    ops.replay = rec_replay;
    ops.recording_free = rec_free;
    return &ops;
}

#endif
