// What --backend, --device and -ngl mean, and what happens without them, with a GPU that works, that
// is broken, that is missing, and that nobody would want.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/device_choice.h"
#include "small_device.h"

#define MODEL "tests/golden/arch/llama-1.gguf"

enum { LAYERS = 3 };

static const BackendOps *gpu;  // NULL: this build has none

static const BackendOps *both(int i) {
    if (!gpu) i++;
    return i == 0 ? gpu : i == 1 ? cpu_ops() : NULL;
}

static Gguf *g;
static Model *m;
static char said[1024];

static int open_model(void **state) {
    (void)state;
    Error err;
    return gguf_open(MODEL, &g, &err) || model_bind(g, (Notice){0}, &m, &err) ||
           m->h.n_layers != LAYERS;
}

static int close_model(void **state) {
    (void)state;
    model_free(m);
    gguf_close(g);
    return 0;
}

static void hear(void *user, const char *line) {
    (void)user;
    snprintf(said + strlen(said), sizeof said - strlen(said), "%s\n", line);
}

// What was chosen: "cpu", "abacus 3+1 of device 1": layers and outputs there.
static Status choose(const char *backend, int device, int gpu_layers, char what[64], Error *err) {
    const DeviceWish wish = {.backend = backend,
                             .device = device,
                             .gpu_layers = gpu_layers,
                             .n_threads = 1,
                             .notice = {hear, NULL}};
    DeviceModel *d;
    said[0] = 0, what[0] = 0;
    Status st = device_choose(m, &wish, both, &d, err);
    assert_int_equal(st == OK, d != NULL);
    if (st) return st;
    const DevicePart *p = &d->parts[d->n_parts - 1];
    if (strcmp(p->ops->name, "cpu") == 0)
        snprintf(what, 64, "cpu");
    else
        snprintf(what, 64, "%s %d+%d of device %d", p->ops->name, p->n_layers, p->output,
                 small.config.device);
    if (d->n_parts > 1) assert_string_equal(d->parts[0].ops->name, "cpu");
    assert_int_equal(small.n_open, strcmp(what, "cpu") != 0);
    device_model_close(d);
    assert_int_equal(small.n_open, 0);
    return OK;
}

// notice: part of what is said, "" for nothing.
static void chosen(const char *backend, int device, int gpu_layers, const char *want,
                   const char *notice) {
    char what[64];
    Error err;
    if (choose(backend, device, gpu_layers, what, &err)) fail_msg("%s", err.text);
    assert_string_equal(what, want);
    if (*notice ? !strstr(said, notice) : *said) fail_msg("'%s' is not said: %s", notice, said);
}

static void refused(const char *backend, int device, int gpu_layers, Status want,
                    const char *text) {
    char what[64];
    Error err;
    assert_int_equal(choose(backend, device, gpu_layers, what, &err), want);
    if (!strstr(err.text, text)) fail_msg("no '%s' in: %s", text, err.text);
    assert_int_equal(choose(backend, device, gpu_layers, what, NULL), want);
}

static void a_gpu_that_works(void **state) {
    (void)state;
    gpu = small_ops(0);
    chosen(NULL, 0, 0, "abacus 3+1 of device 0", "");
    chosen(NULL, 1, 0, "abacus 3+1 of device 1", "");
    chosen(NULL, 0, 99, "abacus 3+1 of device 0", "");
    chosen(NULL, 0, 4, "abacus 3+1 of device 0", "");
    chosen(NULL, 1, 3, "abacus 3+0 of device 1", "");
    chosen(NULL, 0, 1, "abacus 1+0 of device 0", "");
    chosen(NULL, 0, -1, "cpu", "");
    chosen("abacus", 0, 0, "abacus 3+1 of device 0", "");
    chosen("abacus", 1, 2, "abacus 2+0 of device 1", "");
    chosen("abacus", 1, -1, "cpu", "nothing to compute");
    chosen("cpu", 0, 0, "cpu", "");
    chosen("cpu", 0, -1, "cpu", "");
    refused("cpu", 0, 1, ERR_USAGE, "-ngl 1");
    refused("cpu", 1, 0, ERR_UNAVAILABLE, "no device 1");
    refused(NULL, 1, -1, ERR_UNAVAILABLE, "no device 1");
    refused("nonsense", 0, 0, ERR_UNAVAILABLE, "'nonsense'");
    refused("", 0, 0, ERR_UNAVAILABLE, "''");
}

static void no_gpu_in_this_build(void **state) {
    (void)state;
    gpu = NULL;
    chosen(NULL, 0, 0, "cpu", "");
    chosen(NULL, 0, -1, "cpu", "");
    chosen(NULL, 0, 5, "cpu", "-ngl 5: there is no GPU");
    refused("abacus", 0, 0, ERR_UNAVAILABLE, "'abacus'");
    refused(NULL, 1, 0, ERR_UNAVAILABLE, "no device 1");
}

static void no_such_device_here(void **state) {
    (void)state;
    gpu = small_ops(0);
    small.missing = true;
    chosen(NULL, 0, 0, "cpu", "");
    chosen(NULL, 0, 5, "cpu", "-ngl 5: there is no GPU");
    refused("abacus", 0, 0, ERR_UNAVAILABLE, "bead");
    refused("abacus", 0, 2, ERR_UNAVAILABLE, "bead");
    refused("abacus", 0, -1, ERR_UNAVAILABLE, "no such device");
}

static void one_that_does_not_open(void **state) {
    (void)state;
    gpu = small_ops(0);
    small.closed = true;
    chosen(NULL, 0, 0, "cpu", "abacus is not used: the abacus lacks a bead");
    refused(NULL, 0, 5, ERR_UNAVAILABLE, "bead");  // it was asked for
    refused("abacus", 0, 0, ERR_UNAVAILABLE, "bead");
}

static void one_that_nobody_wants(void **state) {
    (void)state;
    gpu = small_ops(0);
    small.unwanted = true;
    chosen(NULL, 0, 0, "cpu", "");
    chosen(NULL, 0, 5, "cpu", "-ngl 5: there is no GPU");
    assert_int_equal(small.n_opened, 0);
    chosen("abacus", 0, 0, "abacus 3+1 of device 0", "");
    chosen("abacus", 0, 1, "abacus 1+0 of device 0", "");
}

// Only where nobody said what goes there does less go there.
static void one_that_is_too_small(void **state) {
    (void)state;
    gpu = small_ops(1000);
    chosen(NULL, 0, 0, "cpu", "abacus is not used: abacus:0 Abacus 9 has");
    refused(NULL, 0, 99, ERR_UNAVAILABLE, "not one layer");
    refused("abacus", 0, 0, ERR_UNAVAILABLE, "not one layer");
    const ForwardConfig c = {m->h.n_ctx_train, 1, 512, TYPE_F16, TYPE_F16};
    const DevicePart one = {.ops = gpu, .first = 2, .n_layers = 1};
    small.total = forward_bytes(m, &one, &c) + m->weight_bytes / 2;
    chosen(NULL, 0, 0, "abacus 1+0 of device 0", "room for 1 of the 3 layers");
    chosen("abacus", 0, 0, "abacus 3+1 of device 0", "");  // the weights fit, a session may not
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gpu_that_works),      cmocka_unit_test(no_gpu_in_this_build),
        cmocka_unit_test(no_such_device_here),   cmocka_unit_test(one_that_does_not_open),
        cmocka_unit_test(one_that_nobody_wants), cmocka_unit_test(one_that_is_too_small),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
