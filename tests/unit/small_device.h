// The CPU backend as a device with little memory: weights are copied to it, and what is taken of its
// memory is counted.
//
// Include it after cmocka.h.
#ifndef PLUMB_TESTS_SMALL_DEVICE_H
#define PLUMB_TESTS_SMALL_DEVICE_H

#include "check.h"
#include "engine/session.h"

static struct {
    uint64_t total, taken;  // bytes; total 0: the device does not say
    int n_weights, n_open, n_opened;
    bool closed, unwanted;  // open fails; by_default is false
    bool missing;           // probe fails too
    BackendConfig config;   // of the last open
} small;

static const BackendOps *cpu_ops(void) {
    const BackendOps *cpu = backend_by_name("cpu");
    assert_non_null(cpu);
    return cpu;
}

static Status small_probe(Text *out, Error *err) {
    if (small.missing) return error_set(err, ERR_UNAVAILABLE, "there is no such device");
    return text_append_str(out, "0: Abacus 9\n1: Abacus 10") ? OK : ERR_UNAVAILABLE;
}

static bool small_by_default(void) {
    return !small.unwanted;
}

static Status small_open(const BackendConfig *config, Backend **out, Error *err) {
    *out = NULL;
    small.config = *config;
    small.n_opened++;
    if (small.closed || small.missing)
        return error_set(err, ERR_UNAVAILABLE, "the abacus lacks a bead");
    Status st = cpu_ops()->open(config, out, err);
    if (!st) small.n_open++, small.taken = 0, small.n_weights = 0;
    return st;
}

static void small_close(Backend *b) {
    small.n_open--;
    cpu_ops()->close(b);
}

static const char *small_name(const Backend *b) {
    (void)b;
    return "Abacus 9";
}

static uint64_t small_memory_free(const Backend *b) {
    assert_non_null(b);
    return small.total ? small.total - small.taken : 0;
}

static uint64_t small_weight_bytes(const Tensor *t) {
    return t->bytes;
}

static Status small_weight(Backend *b, const Tensor *t, WeightUse use, Weight **out, Error *err) {
    small.taken += t->bytes, small.n_weights++;
    assert_true(!small.total || small.taken <= small.total);  // it was asked
    return cpu_ops()->weight(b, t, use, out, err);
}

// total: bytes of its memory, 0: it does not say.
static const BackendOps *small_ops(uint64_t total) {
    static BackendOps ops;
    memset(&small, 0, sizeof small);
    small.total = total;
    ops = *cpu_ops();
    ops.name = "abacus";
    ops.probe = small_probe, ops.by_default = small_by_default;
    ops.open = small_open, ops.close = small_close, ops.device = small_name;
    ops.isa_at = NULL;
    ops.memory_free = small_memory_free, ops.weight_bytes = small_weight_bytes;
    ops.weight = small_weight;
    return &ops;
}

#endif
