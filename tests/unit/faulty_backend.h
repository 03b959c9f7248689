// The CPU backend with one fault at a time, so that tests see what verify says of a wrong backend.
//
// Include it after cmocka.h. The operations are the CPU's own but for the one that has the fault.
#ifndef PLUMB_TESTS_FAULTY_BACKEND_H
#define PLUMB_TESTS_FAULTY_BACKEND_H

#include "check.h"
#include "engine/session.h"

typedef enum {
    RIGHT,
    ACTIVATION,     // one element of silu(gate) * up in layer 1
    NOT_A_NUMBER,   // the same, NaN
    SCALE,          // scores are half of what they should be
    CACHE_READ,     // what the cache gives back of layer 1, position 2
    CACHE_CHANGES,  // the same, but only when it is read again
    CACHE_WRITE,    // values are stored rotated as keys are
    RACE,           // every second evaluation an element of silu(gate) * up
    BATCHED,        // ... of a batch of more than 8
    LONE,           // ... of a batch of 1
    TAPPED,         // attention whose scores are asked for
    ONE_SEQUENCE,   // all sequences are the first
    NO_COPY,        // a sequence's start is not copied
    THREADS,        // ... with 2 threads
    NAMED_GENERIC,  // ... with the kernels named "generic"
    CACHE_F32,      // ... with an f32 cache
} FaultKind;

enum { FAULTY_BATCH = 1024 };

static struct {
    FaultKind kind;
    int n, n_evals, n_threads, layer, n_reads;
    bool generic, f32;
    Batch batch;
    int32_t seq[FAULTY_BATCH];
} faulty;

static const BackendOps *right_ops(void) {
    const BackendOps *cpu = backend_by_name("cpu");
    assert_non_null(cpu);
    return cpu;
}

static Status faulty_open(const BackendConfig *config, Backend **out, Error *err) {
    faulty.n_threads = config->n_threads;
    faulty.generic = config->isa && strcmp(config->isa, "generic") == 0;
    return right_ops()->open(config, out, err);
}

static Status faulty_kv_new(Backend *b, const KvShape *shape, Kv **out, Error *err) {
    faulty.f32 = shape->type_k == TYPE_F32;
    return right_ops()->kv_new(b, shape, out, err);
}

static Status faulty_begin(Backend *b, const Batch *batch, Error *err) {
    assert_true(batch->n <= FAULTY_BATCH);
    faulty.n = batch->n;
    faulty.n_evals++;
    faulty.layer = 0;
    faulty.batch = *batch;
    if (faulty.kind == ONE_SEQUENCE) {
        memset(faulty.seq, 0, sizeof faulty.seq);
        faulty.batch.seq = faulty.seq;
    }
    return right_ops()->begin(b, &faulty.batch, err);
}

static void add_to(Backend *b, Buffer *buf, size_t n, size_t at, float by) {
    float *x = room(n * sizeof *x);
    assert_int_equal(right_ops()->download(b, buf, x, n, NULL), OK);
    x[at] += by;
    assert_int_equal(right_ops()->upload(b, buf, x, n, NULL), OK);
    free(x);
}

static void faulty_swiglu(Backend *b, const Buffer *gate, const Buffer *up, size_t n, Buffer *y) {
    right_ops()->swiglu(b, gate, up, n, y);
    const bool hit = faulty.kind == ACTIVATION || faulty.kind == NOT_A_NUMBER
                         ? faulty.layer == 1
                         : (faulty.kind == RACE && faulty.n_evals % 2 == 0) ||
                               (faulty.kind == BATCHED && faulty.n > 8) ||
                               (faulty.kind == LONE && faulty.n == 1) ||
                               (faulty.kind == THREADS && faulty.n_threads == 2) ||
                               (faulty.kind == NAMED_GENERIC && faulty.generic) ||
                               (faulty.kind == CACHE_F32 && faulty.f32);
    if (hit) add_to(b, y, n, n - 3, faulty.kind == NOT_A_NUMBER ? NAN : 8);
    faulty.layer++;
}

static void faulty_attention(Backend *b, const HeadShape *h, const Buffer *q, const Kv *kv,
                             int layer, Buffer *y, Buffer *kq, Buffer *soft, int n_keys) {
    HeadShape shape = *h;
    if (faulty.kind == SCALE || (faulty.kind == TAPPED && kq)) shape.scale /= 2;
    right_ops()->attention(b, &shape, q, kv, layer, y, kq, soft, n_keys);
}

static void faulty_rope_kv(Backend *b, const HeadShape *h, Buffer *q, Buffer *k, const Buffer *v,
                           Kv *kv, int layer) {
    right_ops()->rope_kv(b, h, q, k, faulty.kind == CACHE_WRITE ? k : v, kv, layer);
}

static Status faulty_kv_read(Backend *b, const Kv *kv, int layer, int seq, int pos, float *k,
                             float *v, Error *err) {
    Status st = right_ops()->kv_read(b, kv, layer, seq, pos, k, v, err);
    if (layer != 1 || pos != 2) return st;
    if (faulty.kind == CACHE_READ) v[1] *= 1.01f;
    if (faulty.kind == CACHE_CHANGES && faulty.n_reads++ > 0) k[1] *= 1.01f;
    return st;
}

static void faulty_kv_copy(Backend *b, Kv *kv, int from_seq, int to_seq, int n_pos) {
    if (faulty.kind != NO_COPY) right_ops()->kv_copy(b, kv, from_seq, to_seq, n_pos);
}

static const BackendOps *faulty_ops(FaultKind kind) {
    static BackendOps ops;
    memset(&faulty, 0, sizeof faulty);
    faulty.kind = kind;
    ops = *right_ops();
    ops.open = faulty_open;
    ops.kv_new = faulty_kv_new;
    ops.begin = faulty_begin;
    ops.swiglu = faulty_swiglu;
    ops.attention = faulty_attention;
    ops.rope_kv = faulty_rope_kv;
    ops.kv_read = faulty_kv_read;
    ops.kv_copy = faulty_kv_copy;
    return &ops;
}

#endif
