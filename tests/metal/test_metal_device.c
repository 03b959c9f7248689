// device_metal.m on the simulated GPUs: that of unified memory and that with memory of its own.
// What breaks a rule of Metal ends the test (sim.h). device_suite.h has what every device must do;
// here is what is Metal's: failures, what lives for how long, how the source is compiled.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend/gpu/device.h"
#include "metal/sim.h"
#include "unit/check.h"

typedef struct {
    uint32_t n;
    float a, b;
} LineArgs;

static const char source[] =
    "#include <metal_stdlib>\n"
    "using namespace metal;\n"
    "#pragma clang fp contract(off)\n"
    "struct LineArgs { uint n; float a, b; };\n"
    "#define KERNEL(name) [[max_total_threads_per_threadgroup(64)]] kernel void name\n"
    "#define IDS uint3 group [[threadgroup_position_in_grid]], \\\n"
    "    uint lane [[thread_index_in_threadgroup]]\n"
    "KERNEL(line)(device float *y [[buffer(0)]], constant LineArgs &c [[buffer(1)]], IDS) {\n"
    "    const uint i = group.x * 64 + lane;\n"
    "    if (i < c.n) y[i] = y[i] * c.a + c.b;\n"
    "}\n"
    "KERNEL(mirror)(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],\n"
    "               constant LineArgs &c [[buffer(2)]], IDS) {\n"
    "    alignas(16) threadgroup float t[64];\n"
    "    const uint i = (group.z * 2 + group.y) * 64 + lane;\n"
    "    t[lane] = i < c.n ? x[i] : 0.0f;\n"
    "    threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "    if (i < c.n) y[i] = t[63 - lane];\n"
    "}\n"
    "#ifndef PLUMB_SIMD_32\n"
    "#define PLUMB_SIMD_32 0\n"
    "#endif\n"
    "KERNEL(facts)(device float *y [[buffer(0)]], constant LineArgs &c [[buffer(1)]], IDS) {\n"
    "    if (group.x * 64 + lane > 0) return;\n"
    "    y[0] = PLUMB_SIMD_32;\n"
    "    y[1] = y[1] == y[1] ? 1.0f : 0.0f;\n"
    "    y[2] = y[2] * c.a + c.b;\n"
    "}\n";

enum { LINE, MIRROR, FACTS, N_ENTRIES, ITEMS = 64 };

static struct {
    Device *d;
    DeviceEntry entry[N_ENTRIES];
    long foundation;  // objects of it before the device was opened
} on;

static const DeviceEntry entries[N_ENTRIES] = {
    {"line", NULL, ITEMS, 1, sizeof(LineArgs)},
    {"mirror", NULL, ITEMS, 2, sizeof(LineArgs)},
    {"facts", NULL, ITEMS, 1, sizeof(LineArgs)},
};

static void fine(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

// The state is the number of the device.
static int open_device(void **state) {
    const int index = *(const int *)*state;
    Error err = {0};
    on.foundation = sim_foundation_objects();
    memcpy(on.entry, entries, sizeof entries);
    fine(device_metal.open(index, &on.d, &err), &err);
    fine(device_metal.build(on.d, source, on.entry, N_ENTRIES, &err), &err);
    return 0;
}

static const SimConfig usual = {.n_devices = 2,
                                .memory = (uint64_t)1 << 30,
                                .max_buffer = (uint64_t)256 << 20,
                                .most_threads = 1024,
                                .simd_width = 32,
                                .local_bytes = 32768};

static int close_device(void **state) {
    (void)state;
    device_metal.close(on.d);
    assert_int_equal(sim_counts.objects, 0);
    assert_int_equal(sim_counts.bytes, 0);
    assert_int_equal(sim_device_references(), 0);
    assert_int_equal(sim_foundation_objects(), on.foundation);
    sim_config = usual;
    return 0;
}

static DeviceBuffer *buffer(size_t bytes) {
    Error err = {0};
    DeviceBuffer *b = NULL;
    fine(device_metal.alloc(on.d, bytes, &b, &err), &err);
    return b;
}

static void put(DeviceBuffer *b, size_t at, const void *from, size_t bytes) {
    Error err = {0};
    fine(device_metal.write(on.d, b, at, from, bytes, &err), &err);
}

static void get(const DeviceBuffer *b, size_t at, void *to, size_t bytes) {
    Error err = {0};
    fine(device_metal.read(on.d, b, at, to, bytes, &err), &err);
}

static Status try_line(DeviceBuffer *b, uint32_t n, float a, float add, Error *err) {
    LineArgs args = {n, a, add};
    const DeviceLaunch l = {
        .entry = &on.entry[LINE], .groups = {(n + 63) / 64, 1, 1}, .buffers = {b}, .args = &args};
    const Status st = device_metal.launch(on.d, &l, err);
    args = (LineArgs){0};  // it was copied
    return st;
}

// b[i] = a b[i] + add
static void line(DeviceBuffer *b, uint32_t n, float a, float add) {
    Error err = {0};
    fine(try_line(b, n, a, add, &err), &err);
}

static void floats_are(const DeviceBuffer *b, size_t n, float value) {
    float *x = malloc(n * sizeof *x);
    get(b, 0, x, n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        if (x[i] != value) fail_msg("element %zu is %g, not %g", i, (double)x[i], (double)value);
    }
    free(x);
}

// --- devices -------------------------------------------------------------------------------------

static void test_devices_are_listed(void **state) {
    (void)state;
    int n = 0;
    DeviceInfo info;
    Error err = {0};
    fine(device_metal.count(&n, &err), &err);
    assert_int_equal(n, 2);
    for (int i = 0; i < n; i++) {
        fine(device_metal.info(i, &info, &err), &err);
        assert_non_null(strstr(info.name, i == 0 ? "unified" : "its own"));
        assert_int_equal(info.memory, sim_config.memory);
        assert_int_equal(info.max_buffer, sim_config.max_buffer);
        assert_true(info.n_units >= 1);
        assert_false(info.is_processor);
    }
    sim_config.n_devices = 0;
    assert_int_equal(device_metal.count(&n, &err), ERR_UNAVAILABLE);
    assert_int_equal(n, 0);
    sim_config = usual;
}

static void test_a_device_without_a_queue_does_not_open(void **state) {
    (void)state;
    Device *d = NULL;
    Error err = {0};
    sim_config.no_queue = 1;
    assert_int_equal(device_metal.open(0, &d, &err), ERR_UNAVAILABLE);
    assert_null(d);
    assert_int_equal(sim_counts.objects, 0);
    assert_int_equal(sim_device_references(), 0);
    sim_config = usual;
    device_metal.close(NULL);
}

// --- memory --------------------------------------------------------------------------------------

static void test_bytes_go_and_come_back(void **state) {
    (void)state;
    enum { N = 61 };
    uint8_t all[N], bytes[N], back[N];
    DeviceBuffer *b = buffer(N);
    Rng r = {1};
    for (int i = 0; i < N; i++) all[i] = (uint8_t)rng_u64(&r);
    put(b, 0, all, N);
    for (size_t at = 0; at < 9; at++) {
        for (size_t n = 0; n <= 13; n++) {
            for (size_t i = 0; i < n; i++) all[at + i] = bytes[i] = (uint8_t)rng_u64(&r);
            put(b, at, bytes, n);
            get(b, 0, back, N);
            assert_memory_equal(back, all, N);
            get(b, at + 1, back, n);
            assert_memory_equal(back, all + at + 1, n);
        }
    }
    put(b, N - 1, "x", 1);
    get(b, N - 1, back, 1);
    assert_int_equal(back[0], 'x');
    device_metal.release(on.d, b);
    device_metal.release(on.d, NULL);
}

static void test_much_memory_goes_and_comes_back(void **state) {
    (void)state;
    const size_t n = (33 << 20) + 5;  // more than is staged without waiting
    uint8_t *bytes = malloc(n), *back = malloc(n);
    DeviceBuffer *b = buffer(n);
    for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)(i * 2654435761u >> 24);
    sim_counts.most_bytes = 0;
    for (int i = 0; i < 3; i++) put(b, 0, bytes, n);
    assert_true(sim_counts.most_bytes < 5 * n / 2);  // it does not pile up
    get(b, 0, back, n);
    assert_memory_equal(back, bytes, n);
    device_metal.release(on.d, b);
    assert_true(sim_counts.bytes == 0);  // nothing is left of what it went through
    free(bytes);
    free(back);
}

static void test_copies_on_the_device(void **state) {
    (void)state;
    enum { N = 64 };
    uint8_t a[N], b[N], back[N];
    Error err = {0};
    DeviceBuffer *from = buffer(N), *to = buffer(N);
    for (int i = 0; i < N; i++) a[i] = (uint8_t)i, b[i] = (uint8_t)(100 + i);
    put(from, 0, a, N);
    put(to, 0, b, N);
    static const size_t cases[][3] = {{0, 0, N},  {4, 8, 12}, {8, 4, 4},  {0, 0, 0},
                                      {1, 0, 4},  {0, 2, 8},  {4, 4, 3},  {5, 7, 9},
                                      {63, 0, 1}, {0, 63, 1}, {62, 60, 2}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const size_t to_at = cases[c][0], from_at = cases[c][1], n = cases[c][2];
        memcpy(b + to_at, a + from_at, n);
        fine(device_metal.copy(on.d, to, to_at, from, from_at, n, &err), &err);
        get(to, 0, back, N);
        assert_memory_equal(back, b, N);
    }
    fine(device_metal.copy(on.d, from, 32, from, 0, 32, &err), &err);  // within one buffer
    memcpy(a + 32, a, 32);
    get(from, 0, back, N);
    assert_memory_equal(back, a, N);
    device_metal.release(on.d, from);
    device_metal.release(on.d, to);
}

static void test_memory_is_asked_before_it_is_taken(void **state) {
    (void)state;
    Error err = {0};
    DeviceBuffer *b = NULL, *c = NULL;
    const uint64_t all = device_metal.memory_free(on.d);
    assert_int_equal(all, sim_config.memory);
    b = buffer(1 << 20);
    assert_true(device_metal.memory_free(on.d) <= all - (1 << 20));
    sim_config.memory = 2 << 20;
    assert_int_equal(device_metal.alloc(on.d, 3 << 20, &c, &err), ERR_UNAVAILABLE);
    assert_null(c);
    assert_non_null(strstr(err.text, "3.0 MiB are wanted, 1.0 MiB are free"));
    sim_config.memory = 1 << 20;  // the system may take it from us
    assert_int_equal(device_metal.memory_free(on.d), 1);
    sim_config.memory = usual.memory;
    assert_int_equal(device_metal.alloc(on.d, sim_config.max_buffer + 1, &c, &err),
                     ERR_UNAVAILABLE);
    assert_non_null(strstr(err.text, "a buffer may have 256.0 MiB"));
    device_metal.release(on.d, b);
    b = buffer(0);
    device_metal.release(on.d, b);
}

static void test_no_room_for_staging_is_an_error(void **state) {
    uint8_t bytes[64] = {0};
    Error err = {0};
    DeviceBuffer *b = buffer(sizeof bytes);
    put(b, 0, bytes, sizeof bytes);
    sim_config.no_room = 1;
    const bool staged = *(const int *)*state == 1;
    const Status wanted = staged ? ERR_UNAVAILABLE : OK;
    assert_int_equal(device_metal.write(on.d, b, 0, bytes, sizeof bytes, &err), wanted);
    assert_int_equal(device_metal.read(on.d, b, 0, bytes, sizeof bytes, &err), wanted);
    device_metal.release(on.d, b);
}

// --- the order of issue --------------------------------------------------------------------------

static void test_commands_run_in_order(void **state) {
    (void)state;
    enum { N = 130 };
    float x[N], back[N];
    Error err = {0};
    DeviceBuffer *b = buffer(sizeof x), *c = buffer(sizeof x);
    for (int i = 0; i < N; i++) x[i] = 1;
    put(b, 0, x, sizeof x);
    line(b, N, 2, 3);  // 5
    fine(device_metal.copy(on.d, c, 0, b, 0, sizeof x, &err), &err);
    put(b, 0, x, sizeof x);  // does not overtake the launch and the copy
    line(b, N, 10, 0);       // 10
    line(b, N, 1, 1);        // 11
    fine(device_metal.copy(on.d, b, 0, c, 0, 4, &err), &err);
    line(c, N, 1, 1);  // 6
    get(b, 0, back, sizeof back);
    assert_true(back[0] == 5 && back[1] == 11 && back[N - 1] == 11);
    floats_are(c, N, 6);
    device_metal.release(on.d, b);
    device_metal.release(on.d, c);
}

static void test_many_launches_without_waiting(void **state) {
    (void)state;
    enum { N = 65, LAUNCHES = 10000 };  // of more command buffers than a queue has
    const float zero[N] = {0};
    Error err = {0};
    DeviceBuffer *b = buffer(sizeof zero);
    put(b, 0, zero, sizeof zero);
    const long before = sim_counts.committed;
    for (int i = 0; i < LAUNCHES; i++) line(b, N, 1, 1);
    assert_true(sim_counts.committed - before >= LAUNCHES / 100);  // they are on their way
    fine(device_metal.wait(on.d, &err), &err);
    floats_are(b, N, LAUNCHES);
    device_metal.release(on.d, b);
}

static void test_a_buffer_is_released_while_it_is_used(void **state) {
    (void)state;
    enum { N = 64 };
    const float one[N] = {1};
    Error err = {0};
    DeviceBuffer *to = buffer(sizeof one);
    for (int i = 0; i < 3; i++) {
        DeviceBuffer *b = buffer(sizeof one);
        put(b, 0, one, sizeof one);
        line(b, N, 0, 7 + (float)i);
        fine(device_metal.copy(on.d, to, 0, b, 0, sizeof one, &err), &err);
        device_metal.release(on.d, b);
    }
    floats_are(to, N, 9);
    device_metal.release(on.d, to);
}

static void test_groups_in_all_directions(void **state) {
    (void)state;
    enum { N = 64 * 6 - 5 };
    float x[64 * 6], y[64 * 6];
    Error err = {0};
    DeviceBuffer *from = buffer(sizeof x), *to = buffer(sizeof y);
    for (int i = 0; i < 64 * 6; i++) x[i] = (float)i, y[i] = -1;
    put(from, 0, x, sizeof x);
    put(to, 0, y, sizeof y);
    const LineArgs args = {.n = N};
    const DeviceLaunch l = {
        .entry = &on.entry[MIRROR], .groups = {1, 2, 3}, .buffers = {from, to}, .args = &args};
    fine(device_metal.launch(on.d, &l, &err), &err);
    get(to, 0, y, sizeof y);
    for (int i = 0; i < 64 * 6; i++) {
        const int other = i / 64 * 64 + 63 - i % 64;
        assert_true(y[i] == (i >= N ? -1 : other < N ? (float)other : 0));
    }
    device_metal.release(on.d, from);
    device_metal.release(on.d, to);
}

static void test_closing_waits(void **state) {
    const float x[64] = {0};
    DeviceBuffer *b = buffer(sizeof x);
    put(b, 0, x, sizeof x);
    line(b, 64, 1, 1);
    device_metal.release(on.d, b);
    const long before = sim_counts.launches;
    device_metal.close(on.d);
    assert_int_equal(sim_counts.launches, before + 1);
    open_device(state);
}

// --- recordings ----------------------------------------------------------------------------------

static void test_a_recording_is_replayed(void **state) {
    (void)state;
    enum { N = 70, STEPS = 150 };  // more than a command buffer's
    const float zero[N] = {0};
    Error err = {0};
    DeviceRecording *r = NULL;
    DeviceBuffer *b = buffer(sizeof zero), *c = buffer(sizeof zero);
    put(b, 0, zero, sizeof zero);
    put(c, 0, zero, sizeof zero);
    fine(device_metal.record(on.d, &err), &err);
    for (int i = 0; i < STEPS; i++) line(i % 2 ? b : c, N, 1, (float)(i % 2 ? 1 : 2));
    fine(device_metal.record_end(on.d, &r, &err), &err);
    assert_non_null(r);
    floats_are(b, N, 0);  // it was not run
    fine(device_metal.replay(on.d, r, &err), &err);
    line(b, N, 1, 0.5f);
    fine(device_metal.replay(on.d, r, &err), &err);
    fine(device_metal.replay(on.d, r, &err), &err);
    floats_are(b, N, 3 * STEPS / 2 + 0.5f);
    floats_are(c, N, 3 * STEPS);
    fine(device_metal.replay(on.d, r, &err), &err);
    device_metal.record_free(on.d, r);  // on its way
    device_metal.record_free(on.d, NULL);
    floats_are(c, N, 4 * STEPS);
    device_metal.release(on.d, b);
    device_metal.release(on.d, c);
}

static void test_an_empty_recording(void **state) {
    (void)state;
    Error err = {0};
    DeviceRecording *r = NULL;
    fine(device_metal.record(on.d, &err), &err);
    fine(device_metal.record_end(on.d, &r, &err), &err);
    fine(device_metal.replay(on.d, r, &err), &err);
    fine(device_metal.wait(on.d, &err), &err);
    device_metal.record_free(on.d, r);
}

// --- failures ------------------------------------------------------------------------------------

static void test_a_failure_is_told_once(void **state) {
    (void)state;
    enum { N = 64 };
    float x[N] = {0};
    Error err = {0};
    DeviceBuffer *b = buffer(sizeof x);
    put(b, 0, x, sizeof x);
    fine(device_metal.wait(on.d, &err), &err);
    for (int how = 0; how < 2; how++) {
        sim_config.fail_at = 2;  // one of several
        for (int i = 0; i < 300; i++) line(b, N, 1, 1);
        const Status st = how == 0 ? device_metal.wait(on.d, &err)
                                   : device_metal.read(on.d, b, 0, x, sizeof x, &err);
        assert_int_equal(st, ERR_FAILED);
        assert_string_equal(err.text, "metal: running kernels: the simulation was told to fail");
        fine(device_metal.wait(on.d, &err), &err);
        assert_int_equal(sim_config.fail_at, 0);
    }
    line(b, N, 0, 4);
    floats_are(b, N, 4);
    device_metal.release(on.d, b);
}

static void test_no_command_buffer_is_an_error(void **state) {
    (void)state;
    float x[64] = {0};
    Error err = {0};
    DeviceBuffer *b = buffer(sizeof x);
    put(b, 0, x, sizeof x);
    fine(device_metal.wait(on.d, &err), &err);
    sim_config.no_commands = 1;
    assert_int_equal(try_line(b, 64, 1, 1, &err), ERR_FAILED);
    assert_int_equal(device_metal.copy(on.d, b, 0, b, 32, 32, &err), ERR_FAILED);
    sim_config.no_commands = 0;
    line(b, 64, 0, 3);
    floats_are(b, 64, 3);
    device_metal.release(on.d, b);
}

static void build_fails(const char *text, const char *says) {
    DeviceEntry e[N_ENTRIES];
    Error err = {0};
    memcpy(e, on.entry, sizeof e);
    assert_int_not_equal(device_metal.build(on.d, text, e, N_ENTRIES, &err), OK);
    if (!strstr(err.text, "compile"))
        assert_null(e[N_ENTRIES - 1].kernel);  // the old ones are gone
    if (!strstr(err.text, says) || strchr(err.text, '\n')) fail_msg("it says: %s", err.text);
}

static void test_kernels_that_do_not_build(void **state) {
    (void)state;
    build_fails(
        "#include <metal_stdlib>\n"
        "kernel void line(device float *y [[buffer(0)]]) { y[0] = missing; }\n",
        "program_source:2:58: error:");
    // A pointer of which nobody says where it points.
    build_fails(
        "#include <metal_stdlib>\n"
        "static float first(const float *p) { return p[0]; }\n"
        "kernel void line(device float *y [[buffer(0)]]) { y[0] = first(y + 1); }\n",
        "address space");
    // One that points elsewhere.
    build_fails(
        "#include <metal_stdlib>\n"
        "static float first(threadgroup float *p) { return p[0]; }\n"
        "kernel void line(device float *y [[buffer(0)]]) { y[0] = first(y + 1); }\n",
        "error:");
    build_fails(
        "#include <metal_stdlib>\n"
        "kernel void line(device float *y [[buffer(0)]]) { y[0] = 1; }\n",
        "there is no kernel mirror");
    sim_config.most_threads = 63;
    build_fails(source, "line needs 64 threads a group");
    sim_config = usual;
    sim_config.local_bytes = 255;
    build_fails(source, "mirror needs 64 threads a group, 32 a SIMD group and 256 bytes of");
    sim_config = usual;
}

// How the source is compiled: with what is known of SIMD groups, and by the letter.
static void test_how_kernels_are_compiled(void **state) {
    // In one rounding (1 + 2^-12)^2 - 1 is another number.
    float x[3] = {5, NAN, 1 + 0x1p-12f};
    Error err = {0};
    DeviceBuffer *b = buffer(sizeof x);
    put(b, 0, x, sizeof x);
    const LineArgs args = {.a = 1 + 0x1p-12f, .b = -1};
    const DeviceLaunch l = {
        .entry = &on.entry[FACTS], .groups = {1, 1, 1}, .buffers = {b}, .args = &args};
    fine(device_metal.launch(on.d, &l, &err), &err);
    get(b, 0, x, sizeof x);
    assert_true(x[0] == (*(const int *)*state == 0 ? 1 : 0));
    assert_true(x[1] == 0);
    assert_true(x[2] == 0x1p-11f);
    device_metal.release(on.d, b);
}

static void test_simd_groups_of_another_size(void **state) {
    Error err = {0};
    DeviceEntry e[N_ENTRIES];
    memcpy(e, entries, sizeof e);
    sim_config.simd_width = 16;
    // The first device is told to rely on it, the second not.
    const Status st = device_metal.build(on.d, source, e, N_ENTRIES, &err);
    assert_int_equal(st, *(const int *)*state == 0 ? ERR_UNAVAILABLE : OK);
    sim_config = usual;
}

static void test_building_again(void **state) {
    (void)state;
    enum { N = 64 };
    const float one[N] = {1};
    Error err = {0};
    DeviceBuffer *b = buffer(sizeof one);
    put(b, 0, one, sizeof one);
    line(b, N, 0, 2);
    fine(device_metal.wait(on.d, &err), &err);
    const long objects = sim_counts.objects;
    fine(device_metal.build(on.d, source, on.entry, N_ENTRIES, &err), &err);
    assert_int_equal(sim_counts.objects, objects);  // the old ones are gone
    line(b, N, 2, 1);
    floats_are(b, N, 5);
    device_metal.release(on.d, b);
}

#define ON(device, test)                                              \
    {                                                                 \
#test " on device " #device, test, open_device, close_device, \
            (void *)(uintptr_t)&number[device]                        \
    }
#define ON_BOTH(test) ON(0, test), ON(1, test)

int main(void) {
    static const int number[] = {0, 1};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_devices_are_listed),
        cmocka_unit_test(test_a_device_without_a_queue_does_not_open),
        ON_BOTH(test_bytes_go_and_come_back),
        ON_BOTH(test_much_memory_goes_and_comes_back),
        ON_BOTH(test_copies_on_the_device),
        ON_BOTH(test_memory_is_asked_before_it_is_taken),
        ON_BOTH(test_no_room_for_staging_is_an_error),
        ON_BOTH(test_commands_run_in_order),
        ON_BOTH(test_many_launches_without_waiting),
        ON_BOTH(test_a_buffer_is_released_while_it_is_used),
        ON_BOTH(test_groups_in_all_directions),
        ON_BOTH(test_closing_waits),
        ON_BOTH(test_a_recording_is_replayed),
        ON_BOTH(test_an_empty_recording),
        ON_BOTH(test_a_failure_is_told_once),
        ON_BOTH(test_no_command_buffer_is_an_error),
        ON_BOTH(test_kernels_that_do_not_build),
        ON_BOTH(test_how_kernels_are_compiled),
        ON_BOTH(test_simd_groups_of_another_size),
        ON_BOTH(test_building_again),
    };
    sim_config = usual;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
