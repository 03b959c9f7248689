// What every device of backend/gpu must do, through DeviceOps alone; and the words of its dialect.
//
// Include it after cmocka.h. A test program says which device in `suite`, and calls suite_main(),
// which skips it all where there is none. A device that runs kernels which were compiled with the
// test includes backend/gpu/dialect_host.h and device_suite_kernels.h before this file.
// The kernels are read from tests/unit/device_suite_kernels.h: a program runs in the repository's
// root.
#ifndef PLUMB_TESTS_DEVICE_SUITE_H
#define PLUMB_TESTS_DEVICE_SUITE_H

#include "backend/gpu/device.h"
#include "base/checked.h"
#include "base/file.h"
#include "check.h"

#ifndef SUITE_KERNELS
typedef uint8_t u8;
typedef uint16_t u16;
typedef int32_t i32;
typedef uint32_t u32;
typedef uint64_t u64;
#define SUITE_ARGS_ONLY
#include "device_suite_kernels.h"
#endif

#define SUITE_ID(name, lanes, n, Args) SUITE_##name,
enum { SUITE_KERNELS(SUITE_ID) N_SUITE_KERNELS };
#define SUITE_ENTRY(name, lanes, n, Args) {#name, NULL, lanes, n, sizeof(Args)},
static const DeviceEntry suite_entries[] = {SUITE_KERNELS(SUITE_ENTRY)};

static struct {
    const DeviceOps *ops;
    int index;
    bool compiles;          // build() reads the source that it is given
    bool counts_arguments;  // and finds out that an entry has another number of buffers
    float divide_ulps;      // by which quotients and square roots may be off

    Device *device;
    DeviceEntry entry[N_SUITE_KERNELS];
    DeviceInfo info;
    Text source;
} suite;

static Error suite_err;

static void suite_ok(Status st) {
    if (st != OK) fail_msg("%s: status %d: %s", suite.ops->name, (int)st, suite_err.text);
}

// A message that a user is shown: one line, and not an empty one.
static void suite_one_line(const char *text) {
    assert_true(text[0] != '\0' && strlen(text) < sizeof suite_err.text);
    for (const char *p = text; *p; p++) assert_true((unsigned char)*p >= ' ');
}

// --- the device and its memory -------------------------------------------------------------------

static int suite_open(void **state) {
    (void)state;
    int n = -1;
    const DeviceOps *ops = suite.ops;
    memcpy(suite.entry, suite_entries, sizeof suite.entry);
    suite_ok(ops->count(&n, &suite_err));
    assert_true(suite.index < n);
    suite_ok(ops->info(suite.index, &suite.info, &suite_err));
    suite_ok(ops->open(suite.index, &suite.device, &suite_err));
    if (!text_append(&suite.source, ops->dialect, (size_t)(ops->dialect_end - ops->dialect))) {
        return -1;
    }
    suite_ok(file_read("tests/unit/device_suite_kernels.h", 1 << 20, &suite.source, &suite_err));
    suite_ok(ops->build(suite.device, suite.source.data, suite.entry, N_SUITE_KERNELS, &suite_err));
    return 0;
}

static int suite_close(void **state) {
    (void)state;
    suite.ops->close(suite.device);
    text_free(&suite.source);
    return 0;
}

static DeviceBuffer *suite_alloc(size_t bytes) {
    DeviceBuffer *b = NULL;
    suite_ok(suite.ops->alloc(suite.device, bytes, &b, &suite_err));
    assert_non_null(b);
    return b;
}

static void suite_free(DeviceBuffer *b) {
    suite.ops->release(suite.device, b);
}

static void suite_put(DeviceBuffer *b, size_t at, const void *from, size_t bytes) {
    suite_ok(suite.ops->write(suite.device, b, at, from, bytes, &suite_err));
}

static void suite_get(const DeviceBuffer *b, size_t at, void *to, size_t bytes) {
    suite_ok(suite.ops->read(suite.device, b, at, to, bytes, &suite_err));
}

static DeviceBuffer *suite_made_of(const void *from, size_t bytes) {
    DeviceBuffer *b = suite_alloc(bytes);
    suite_put(b, 0, from, bytes);
    return b;
}

// Reads it into new memory, and releases it.
static void *suite_take(DeviceBuffer *b, size_t bytes) {
    void *p = room(bytes);
    suite_get(b, 0, p, bytes);
    suite_free(b);
    return p;
}

static Status suite_try_launch(int id, u32 gx, u32 gy, u32 gz, const void *args,
                               DeviceBuffer *const *buffers) {
    DeviceLaunch l = {.entry = &suite.entry[id], .groups = {gx, gy, gz}, .args = args};
    for (int i = 0; i < l.entry->n_buffers; i++) l.buffers[i] = buffers[i];
    return suite.ops->launch(suite.device, &l, &suite_err);
}

static void suite_launch(int id, u32 gx, u32 gy, u32 gz, const void *args,
                         DeviceBuffer *const *buffers) {
    suite_ok(suite_try_launch(id, gx, gy, gz, args, buffers));
}

static void suite_same(const char *what, const void *got, const void *want, size_t bytes) {
    const uint8_t *x = got, *y = want;
    for (size_t i = 0; i < bytes; i++) {
        if (x[i] != y[i]) {
            fail_msg("%s: byte %zu of %zu is %02x, expected %02x", what, i, bytes, x[i], y[i]);
        }
    }
}

static void suite_fill(Rng *r, void *to, size_t bytes) {
    uint8_t *p = to;
    for (size_t i = 0; i < bytes; i += 8) {
        const u64 z = rng_u64(r);
        memcpy(p + i, &z, bytes - i < 8 ? bytes - i : 8);
    }
}

static u32 *suite_words(Rng *r, size_t n) {
    u32 *x = room(4 * n);
    suite_fill(r, x, 4 * n);
    return x;
}

// --- devices -------------------------------------------------------------------------------------

static void device_tells_of_itself(void **state) {
    (void)state;
    int n = 0;
    bool processors = false;
    suite_ok(suite.ops->count(&n, &suite_err));
    assert_true(n >= 1);
    for (int i = 0; i < n; i++) {
        DeviceInfo info;
        memset(&info, 0xff, sizeof info);
        suite_ok(suite.ops->info(i, &info, &suite_err));
        assert_non_null(memchr(info.name, '\0', sizeof info.name));
        suite_one_line(info.name);
        assert_true(info.n_units >= 1);
        // Nobody gets the processor who asks for the first device where there is a GPU.
        assert_false(processors && !info.is_processor);
        processors = info.is_processor;
        print_message("%s:%d %s, %llu MiB, %d units\n", suite.ops->name, i, info.name,
                      (unsigned long long)info.memory >> 20, info.n_units);
    }
    const u64 all = suite.info.memory, left = suite.ops->memory_free(suite.device);
    assert_true(!all || !left || left <= all);
}

static void device_is_opened_twice(void **state) {
    (void)state;
    enum { N = 64 };
    const DeviceOps *ops = suite.ops;
    Device *first = suite.device, *second = NULL;
    DeviceEntry own[N_SUITE_KERNELS], first_entry[N_SUITE_KERNELS];
    memcpy(own, suite_entries, sizeof own);
    memcpy(first_entry, suite.entry, sizeof own);
    suite_ok(ops->open(suite.index, &second, &suite_err));
    suite_ok(ops->build(second, suite.source.data, own, N_SUITE_KERNELS, &suite_err));
    u32 x[N] = {0}, y[N] = {0};
    DeviceBuffer *a = suite_made_of(x, sizeof x), *b = NULL;
    suite_ok(ops->alloc(second, sizeof y, &b, &suite_err));
    suite_ok(ops->write(second, b, 0, y, sizeof y, &suite_err));
    for (i32 i = 0; i < 50; i++) {
        const SuiteArgs one = {.wide = N, .n = i}, other = {.wide = N, .n = 1000 + i};
        suite_launch(SUITE_step_on, 1, 1, 1, &one, &a);
        const DeviceLaunch l = {&own[SUITE_step_on], {1, 1, 1}, {b}, &other};
        suite_ok(ops->launch(second, &l, &suite_err));
        x[0] = 3 * x[0] + (u32)i, y[0] = 3 * y[0] + 1000 + (u32)i;
    }
    u32 got = 0;
    suite_ok(ops->read(second, b, 4 * (N - 1), &got, 4, &suite_err));
    assert_int_equal(got, y[0]);
    ops->release(second, b);
    ops->close(second);
    memcpy(suite.entry, first_entry, sizeof own);
    suite_get(a, 4, &got, 4);
    assert_int_equal(got, x[0]);
    suite_free(a);
    assert_ptr_equal(first, suite.device);
}

// All that a user does between opening and closing, and what is still under way when it closes.
static void device_is_closed_and_opened(void **state) {
    (void)state;
    const DeviceOps *ops = suite.ops;
    for (int i = 0; i < 4; i++) {
        Device *d = NULL;
        DeviceBuffer *b = NULL;
        DeviceEntry own[N_SUITE_KERNELS];
        u32 x[64] = {7};
        const SuiteArgs args = {.wide = 64, .n = 1};
        memcpy(own, suite_entries, sizeof own);
        suite_ok(ops->open(suite.index, &d, &suite_err));
        if (i > 0) {
            suite_ok(ops->alloc(d, sizeof x, &b, &suite_err));
            suite_ok(ops->write(d, b, 0, x, sizeof x, &suite_err));
        }
        if (i > 1) {
            suite_ok(ops->build(d, suite.source.data, own, N_SUITE_KERNELS, &suite_err));
            const DeviceLaunch l = {&own[SUITE_step_on], {1, 1, 1}, {b}, &args};
            for (int k = 0; k < 20; k++) suite_ok(ops->launch(d, &l, &suite_err));
        }
        if (i == 3) suite_ok(ops->wait(d, &suite_err));
        ops->release(d, b);
        ops->release(d, NULL);
        ops->close(d);
    }
}

// --- memory --------------------------------------------------------------------------------------

static void device_moves_bytes_at_offsets(void **state) {
    (void)state;
    enum { BYTES = 10007 };
    Rng r = {1};
    uint8_t *mirror = room(BYTES), *got = room(BYTES);
    suite_fill(&r, mirror, BYTES);
    DeviceBuffer *b = suite_made_of(mirror, BYTES);
    for (int i = 0; i < 300; i++) {
        const size_t at = rng_below(&r, BYTES + 1);
        size_t n = rng_below(&r, i % 3 ? 40 : BYTES);
        if (n > BYTES - at) n = BYTES - at;
        uint8_t *from = room(n);
        suite_fill(&r, from, n);
        suite_put(b, at, from, n);
        memcpy(mirror + at, from, n);
        free(from);
        const size_t from_at = rng_below(&r, BYTES + 1), most = BYTES - from_at;
        const size_t m = rng_below(&r, most + 1);
        memset(got, 0xee, BYTES);
        suite_get(b, from_at, got, m);
        suite_same("a part", got, mirror + from_at, m);
        for (size_t k = m; k < BYTES; k++) assert_int_equal(got[k], 0xee);
    }
    suite_put(b, BYTES, mirror, 0);
    suite_put(b, 3, mirror, 0);
    suite_get(b, BYTES, got, 0);
    suite_get(b, 0, got, BYTES);
    suite_same("all", got, mirror, BYTES);
    suite_free(b);
    free(mirror);
    free(got);
}

static void device_moves_much(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 1 << 18, 1 << 20, 5000003, 48 << 20};
    Rng r = {2};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t n = sizes[i] - 1; n <= sizes[i] + 1; n++) {
            if (n == 0 || (i == 4 && n != sizes[i] + 1)) continue;
            uint8_t *x = room(n);
            suite_fill(&r, x, n);
            uint8_t *y = suite_take(suite_made_of(x, n), n);
            suite_same("much", y, x, n);
            free(x);
            free(y);
        }
    }
}

// The source is another's as soon as write() returns; more is written than any device keeps.
static void device_lets_go_of_a_source(void **state) {
    (void)state;
    static const size_t pieces[] = {4, 2777, 100000, 300001};
    Rng r = {3};
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        const size_t piece = pieces[p], n = p == 0 ? 3000 : (8 << 20) / piece;
        uint8_t *all = room(n * piece), *one = room(piece);
        suite_fill(&r, all, n * piece);
        DeviceBuffer *b = suite_alloc(n * piece);
        for (size_t i = 0; i < n; i++) {
            memcpy(one, all + i * piece, piece);
            suite_put(b, i * piece, one, piece);
            memset(one, 0x99, piece);
        }
        uint8_t *got = suite_take(b, n * piece);
        suite_same("pieces", got, all, n * piece);
        free(all);
        free(one);
        free(got);
    }
}

static void device_copies(void **state) {
    (void)state;
    enum { BYTES = 300000 };
    Rng r = {4};
    uint8_t *x = room(BYTES), *y = room(BYTES);
    suite_fill(&r, x, BYTES);
    suite_fill(&r, y, BYTES);
    DeviceBuffer *a = suite_made_of(x, BYTES), *b = suite_made_of(y, BYTES);
    for (int i = 0; i < 100; i++) {
        const size_t step = i % 2 ? 1 : 4;
        size_t to = rng_below(&r, BYTES / 2) / step * step;
        size_t from = rng_below(&r, BYTES / 2) / step * step;
        const size_t n = rng_below(&r, BYTES / (i % 5 ? 50 : 2)) / step * step;
        bool same = i % 4 == 0;  // within one buffer, where the two do not overlap
        if (same && from + n > to && to + n > from) same = false;
        suite_ok(suite.ops->copy(suite.device, b, to, same ? b : a, from, n, &suite_err));
        memmove(y + to, (same ? y : x) + from, n);
        if (i % 10 == 0) {  // in the order of issue
            suite_put(a, to, y, 1000);
            memcpy(x + to, y, 1000);
        }
    }
    suite_ok(suite.ops->copy(suite.device, b, BYTES, a, BYTES, 0, &suite_err));
    uint8_t *got = suite_take(b, BYTES);
    suite_same("copies", got, y, BYTES);
    free(got);
    got = suite_take(a, BYTES);
    suite_same("their source", got, x, BYTES);
    free(got);
    free(x);
    free(y);
}

static void device_refuses_too_much(void **state) {
    (void)state;
    const DeviceInfo *info = &suite.info;
    const u64 most = info->memory > info->max_buffer ? info->memory : info->max_buffer;
    const u64 tries[] = {info->memory ? info->memory + 1 : 0,
                         info->max_buffer ? info->max_buffer + 1 : 0, most ? 4 * most : 0};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        DeviceBuffer *b = (DeviceBuffer *)&b;
        if (tries[i] == 0) continue;
        suite_err.text[0] = '\0';
        const Status st = suite.ops->alloc(suite.device, (size_t)tries[i], &b, &suite_err);
        assert_int_equal(st, ERR_UNAVAILABLE);
        assert_null(b);
        suite_one_line(suite_err.text);
    }
    // Nothing broke.
    u32 x[64] = {5}, got[64];
    const SuiteArgs args = {.wide = 64, .n = 2};
    DeviceBuffer *b = suite_made_of(x, sizeof x);
    suite_launch(SUITE_step_on, 1, 1, 1, &args, &b);
    suite_get(b, 0, got, sizeof got);
    assert_int_equal(got[0], 17);
    assert_int_equal(got[63], 2);
    suite_free(b);
}

// --- launches ------------------------------------------------------------------------------------

static void device_names_every_item(void **state) {
    (void)state;
    static const u32 sizes[][3] = {{1, 1, 1},   {5, 3, 2},  {4000, 1, 1},
                                   {1, 255, 1}, {1, 1, 63}, {3, 7, 11}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const u32 *g = sizes[i];
        const size_t bytes = (size_t)g[0] * g[1] * g[2] * 48 * 4;
        const SizeArgs args = {(i32)g[0], (i32)g[1]};
        u32 *y = room(bytes + 64);
        DeviceBuffer *b = suite_made_of(y, bytes + 64);
        free(y);
        suite_launch(SUITE_name_items, g[0], g[1], g[2], &args, &b);
        u32 *got = suite_take(b, bytes + 64);
        size_t at = 0;
        for (u32 z = 0; z < g[2]; z++) {
            for (u32 k = 0; k < g[0] * g[1] * 48; k++) {
                const u32 lane = k % 48, gx = k / 48 % g[0], gy = k / 48 / g[0];
                assert_int_equal(got[at++], z << 26 | gy << 18 | gx << 6 | lane);
            }
        }
        for (int k = 0; k < 16; k++) assert_int_equal(got[at++], 0xffffffffu);
        free(got);
    }
}

// More groups than the 65535 that some dimensions have.
static void device_runs_many_groups(void **state) {
    (void)state;
    enum { GROUPS = 66000, N = GROUPS * 64 };
    u32 *x = room(4 * (size_t)N);
    for (u32 i = 0; i < N; i++) x[i] = i;
    DeviceBuffer *b = suite_made_of(x, 4 * (size_t)N);
    const SuiteArgs args = {.wide = N - 1, .n = 9};
    suite_launch(SUITE_step_on, GROUPS, 1, 1, &args, &b);
    u32 *got = suite_take(b, 4 * (size_t)N);
    for (u32 i = 0; i < N - 1; i++) x[i] = 3 * i + 9;
    suite_same("many groups", got, x, 4 * (size_t)N);
    free(x);
    free(got);
}

static void device_passes_arguments(void **state) {
    (void)state;
    static const SuiteArgs all[] = {{0, 0, 0},
                                    {1, -1, -0.5f},
                                    {UINT64_MAX, INT32_MIN, 0x1.fffffep127f},
                                    {(u64)1 << 63 | 2, INT32_MAX, 0x1p-126f}};
    enum { N = sizeof all / sizeof *all };
    DeviceBuffer *b[N];
    for (int i = 0; i < N; i++) {
        b[i] = suite_alloc(16);
        SuiteArgs *own = room(sizeof *own);
        *own = all[i];
        suite_launch(SUITE_tell_args, 1, 1, 1, own, &b[i]);
        memset(own, 0x55, sizeof *own);  // they were copied
        free(own);
    }
    for (int i = 0; i < N; i++) {
        u32 *got = suite_take(b[i], 16);
        assert_int_equal(got[0], (u32)all[i].wide);
        assert_int_equal(got[1], (u32)(all[i].wide >> 32));
        assert_int_equal(got[2], (u32)all[i].n);
        assert_int_equal(got[3], float_bits(all[i].scale));
        free(got);
    }
}

static void device_passes_sixteen_buffers(void **state) {
    (void)state;
    enum { N = 96, BUFFERS = DEVICE_MAX_BUFFERS };
    Rng r = {5};
    u32 want[N];
    DeviceBuffer *b[BUFFERS];
    const SuiteArgs args = {.n = 11};
    for (u32 i = 0; i < BUFFERS; i++) {
        u32 *x = suite_words(&r, N);
        b[i] = suite_made_of(x, sizeof want);
        for (int k = 0; k < N; k++) {
            want[k] = i == 0 ? 11 + x[k] : want[k] + (i == BUFFERS - 1 ? x[k] : (i + 1) * x[k]);
            if (i == 3) want[k] += 8 * x[k];
        }
        free(x);
    }
    DeviceBuffer *seven = b[7];
    // One buffer may stand in two places: 3 in the place of 7.
    b[7] = b[3];
    u32 x7[N];
    suite_get(seven, 0, x7, sizeof x7);
    for (int k = 0; k < N; k++) want[k] -= 8 * x7[k];
    suite_launch(SUITE_add_many, N / 32, 1, 1, &args, b);
    u32 *got = suite_take(b[BUFFERS - 1], sizeof want);
    suite_same("the sum", got, want, sizeof want);
    free(got);
    b[7] = seven;
    for (int i = 0; i < BUFFERS - 1; i++) suite_free(b[i]);
}

static void device_launches_in_order(void **state) {
    (void)state;
    enum { N = 200, LAUNCHES = 3000 };
    u32 want = 1, x[N];
    for (int i = 0; i < N; i++) x[i] = 1;
    DeviceBuffer *b = suite_made_of(x, sizeof x);
    for (int i = 0; i < LAUNCHES; i++) {
        SuiteArgs args = {.wide = N, .n = i};
        suite_launch(SUITE_step_on, 4, 1, 1, &args, &b);
        want = 3 * want + (u32)i;
        args.n = -1;
    }
    suite_ok(suite.ops->wait(suite.device, &suite_err));
    suite_ok(suite.ops->wait(suite.device, &suite_err));
    u32 *got = suite_take(b, sizeof x);
    for (int i = 0; i < N; i++) assert_int_equal(got[i], want);
    free(got);
}

// Writes of every size, copies and reads take their places between launches.
static void device_keeps_the_order_of_issue(void **state) {
    (void)state;
    enum { N = 400 << 10, ROUNDS = 60 };
    Rng r = {6};
    u32 *x = suite_words(&r, N), *y = suite_words(&r, N), *got = room(4 * (size_t)N);
    DeviceBuffer *b = suite_made_of(x, 4 * (size_t)N), *c = suite_made_of(y, 4 * (size_t)N);
    for (i32 i = 0; i < ROUNDS; i++) {
        const SuiteArgs args = {.wide = N, .n = i};
        suite_launch(SUITE_step_on, N / 64, 1, 1, &args, &b);
        for (u32 k = 0; k < N; k++) x[k] = 3 * x[k] + (u32)i;
        const size_t n = i % 4 == 0 ? N / 2 : 1 + rng_below(&r, 5000), at = rng_below(&r, N - n);
        suite_fill(&r, y, 4 * n);
        suite_put(b, 4 * at, y, 4 * n);
        memcpy(x + at, y, 4 * n);
        memset(y, 0, 4 * n);
        suite_launch(SUITE_step_on, N / 64, 1, 1, &args, &b);
        for (u32 k = 0; k < N; k++) x[k] = 3 * x[k] + (u32)i;
        if (i % 3 == 0) {  // over to c and back
            suite_ok(suite.ops->copy(suite.device, c, 0, b, 4 * at, 4 * n, &suite_err));
            suite_launch(SUITE_step_on, N / 64, 1, 1, &args, &c);
            suite_ok(suite.ops->copy(suite.device, b, 4 * at, c, 0, 4 * n, &suite_err));
            for (size_t k = at; k < at + n; k++) x[k] = 3 * x[k] + (u32)i;
        }
        if (i % 10 == 9) {
            suite_get(b, 0, got, 4 * (size_t)N);
            suite_same("in order", got, x, 4 * (size_t)N);
        }
    }
    suite_free(b);
    suite_free(c);
    free(x);
    free(y);
    free(got);
}

static void device_releases_what_is_in_use(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    u32 *x = calloc(N, 4);
    assert_non_null(x);
    const SuiteArgs args = {.wide = N, .n = 1};
    for (int i = 0; i < 20; i++) {
        DeviceBuffer *b = suite_made_of(x, 4 * (size_t)N);
        for (int k = 0; k < 3; k++) suite_launch(SUITE_step_on, N / 64, 1, 1, &args, &b);
        suite_free(b);
    }
    suite_ok(suite.ops->wait(suite.device, &suite_err));
    free(x);
}

// --- groups --------------------------------------------------------------------------------------

static void device_shares_local_memory(void **state) {
    (void)state;
    enum { GX = 5, GY = 7, N = GX * GY * 256 };
    Rng r = {7};
    u32 *x = suite_words(&r, N);
    DeviceBuffer *b[] = {suite_made_of(x, 4 * N), suite_alloc(4 * N)};
    const SizeArgs args = {GX, GY};
    suite_launch(SUITE_reverse_group, GX, GY, 1, &args, b);
    u32 *y = suite_take(b[1], 4 * N);
    for (int i = 0; i < N; i++) assert_int_equal(y[i], x[i / 256 * 256 + 255 - i % 256]);
    free(y);

    for (int n = N - 130; n <= N; n += 65) {
        const int groups = (n + 127) / 128;
        const SizeArgs some = {n, 0};
        b[1] = suite_alloc(8 * (size_t)groups);
        suite_launch(SUITE_sum_group, (u32)groups, 1, 1, &some, b);
        y = suite_take(b[1], 8 * (size_t)groups);
        for (int g = 0; g < groups; g++) {
            u32 sum = 0, top = 0;
            for (int i = 128 * g; i < 128 * g + 128 && i < n; i++) {
                sum += x[i];
                if (x[i] > top) top = x[i];
            }
            assert_int_equal(y[2 * g], sum);
            assert_int_equal(y[2 * g + 1], top);
        }
        free(y);
    }
    suite_free(b[0]);
    free(x);
}

static void device_has_enough_local_memory(void **state) {
    (void)state;
    enum { N = 8192 };
    Rng r = {8};
    u32 *x = suite_words(&r, N);
    DeviceBuffer *b[] = {suite_made_of(x, 4 * N), suite_alloc(4 * N)};
    const SizeArgs args = {77, 0};
    suite_launch(SUITE_most_local, 1, 1, 1, &args, b);
    u32 *y = suite_take(b[1], 4 * N);
    for (int i = 0; i < N; i++) assert_int_equal(y[i], x[N - 1 - i] + 77);
    suite_free(b[0]);
    free(x);
    free(y);
}

static void device_has_global_barriers(void **state) {
    (void)state;
    enum { GROUPS = 9, N = GROUPS * 64, ROUNDS = 100 };
    u32 x[N];
    for (u32 i = 0; i < N; i++) x[i] = 1000 * i;
    DeviceBuffer *b = suite_made_of(x, sizeof x);
    const SizeArgs args = {ROUNDS, 0};
    suite_launch(SUITE_pass_on, GROUPS, 1, 1, &args, &b);
    u32 *y = suite_take(b, sizeof x);
    for (int i = 0; i < N; i++) {
        assert_int_equal(y[i], x[i / 64 * 64 + (i + ROUNDS) % 64] + ROUNDS);
    }
    free(y);
}

// --- building ------------------------------------------------------------------------------------

// On a device of its own: what is built there replaces nothing of the other tests.
static Status suite_build(Device *d, const char *more, DeviceEntry *entries, int n) {
    Text source = {0};
    assert_true(text_append(&source, suite.source.data, suite.source.len));
    assert_true(text_append_str(&source, more));
    suite_err.text[0] = '\0';
    const Status st = suite.ops->build(d, source.data, entries, n, &suite_err);
    text_free(&source);
    if (st) suite_one_line(suite_err.text);
    return st;
}

static void suite_works(Device *d, const DeviceEntry *step_on) {
    u32 x[64] = {1};
    DeviceBuffer *b = NULL;
    const SuiteArgs args = {.wide = 64, .n = 4};
    const DeviceLaunch l = {step_on, {1, 1, 1}, {0}, &args};
    suite_ok(suite.ops->alloc(d, sizeof x, &b, &suite_err));
    suite_ok(suite.ops->write(d, b, 0, x, sizeof x, &suite_err));
    DeviceLaunch with = l;
    with.buffers[0] = b;
    suite_ok(suite.ops->launch(d, &with, &suite_err));
    suite_ok(suite.ops->read(d, b, 0, x, sizeof x, &suite_err));
    assert_int_equal(x[0], 7);
    assert_int_equal(x[63], 4);
    suite.ops->release(d, b);
}

static void device_says_what_does_not_compile(void **state) {
    (void)state;
    if (!suite.compiles) return;
    Device *d = NULL;
    DeviceEntry e[] = {suite_entries[SUITE_step_on], suite_entries[SUITE_tell_args]};
    suite_ok(suite.ops->open(suite.index, &d, &suite_err));
    suite_ok(suite_build(d, "", e, 1));
    suite_works(d, &e[0]);
    const Status st = suite_build(d,
                                  "\nFN int unused_here(int a) { int never; return 0; }\n"
                                  "FN int wrong(int a) { return a + undeclared_thing; }\n"
                                  "FN int wrong_too(int a) { return another_thing; }\n",
                                  e, 2);
    assert_int_equal(st, ERR_UNAVAILABLE);
    assert_non_null(strstr(suite_err.text, "undeclared_thing"));
    assert_null(strstr(suite_err.text, "another_thing"));
    print_message("%s\n", suite_err.text);
    assert_int_equal(suite_build(d, "\n#error these are no kernels\n", e, 2), ERR_UNAVAILABLE);
    assert_non_null(strstr(suite_err.text, "these are no kernels"));
    suite_ok(suite_build(d, "", e, 2));
    suite_works(d, &e[0]);
    suite.ops->close(d);
}

static void device_says_which_kernel_is_missing(void **state) {
    (void)state;
    Device *d = NULL;
    DeviceEntry e[] = {suite_entries[SUITE_step_on], suite_entries[SUITE_tell_args]};
    suite_ok(suite.ops->open(suite.index, &d, &suite_err));
    e[1].name = "no_such_kernel";
    assert_int_not_equal(suite_build(d, "", e, 2), OK);
    assert_non_null(strstr(suite_err.text, "no_such_kernel"));
    e[1] = suite_entries[SUITE_sum_group];
    e[1].n_buffers = 3;
    if (suite.counts_arguments) {
        assert_int_not_equal(suite_build(d, "", e, 2), OK);
        assert_non_null(strstr(suite_err.text, "sum_group"));
    }
    suite_ok(suite_build(d, "", e, 1));
    suite_works(d, &e[0]);
    suite.ops->close(d);
}

// --- recordings ----------------------------------------------------------------------------------

static void device_replays(void **state) {
    (void)state;
    const DeviceOps *ops = suite.ops;
    assert_true(!ops->record == !ops->record_end && !ops->record == !ops->replay &&
                !ops->record == !ops->record_free);
    if (!ops->record) return;
    enum { N = 64 };
    u32 x[N] = {0};
    DeviceBuffer *b = suite_made_of(x, sizeof x);
    DeviceRecording *r = NULL;
    suite_ok(ops->record(suite.device, &suite_err));
    for (i32 i = 1; i < 100; i++) {
        const SuiteArgs args = {.wide = N, .n = i};
        suite_launch(SUITE_step_on, 1, 1, 1, &args, &b);
    }
    suite_ok(ops->record_end(suite.device, &r, &suite_err));
    u32 want = 0, *got = room(sizeof x);
    suite_get(b, 0, got, sizeof x);
    assert_int_equal(got[0], 0);  // they were kept, not run
    for (u32 turn = 0; turn < 5; turn++) {
        suite_ok(ops->replay(suite.device, r, &suite_err));
        for (u32 i = 1; i < 100; i++) want = 3 * want + i;
        if (turn % 2 == 0) continue;
        x[0] = want + turn;
        suite_put(b, 0, x, 4);
        want += turn;
    }
    suite_get(b, 0, got, sizeof x);
    assert_int_equal(got[0], want);
    ops->record_free(suite.device, r);
    suite_free(b);
    free(got);
}

#include "dialect_suite.h"

// The device is not there: why, and how it could be.
static void device_is_there(void **state) {
    (void)state;
    int n = -1;
    assert_int_equal(suite.ops->count(&n, &suite_err), ERR_UNAVAILABLE);
    assert_int_equal(n, 0);
    suite_one_line(suite_err.text);
    print_message("skipped: %s\n", suite_err.text);
    skip();
}

static int suite_main(void) {
    static const struct CMUnitTest none[] = {cmocka_unit_test(device_is_there)};
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_tells_of_itself),
        cmocka_unit_test(device_is_opened_twice),
        cmocka_unit_test(device_is_closed_and_opened),
        cmocka_unit_test(device_moves_bytes_at_offsets),
        cmocka_unit_test(device_moves_much),
        cmocka_unit_test(device_lets_go_of_a_source),
        cmocka_unit_test(device_copies),
        cmocka_unit_test(device_refuses_too_much),
        cmocka_unit_test(device_names_every_item),
        cmocka_unit_test(device_runs_many_groups),
        cmocka_unit_test(device_passes_arguments),
        cmocka_unit_test(device_passes_sixteen_buffers),
        cmocka_unit_test(device_launches_in_order),
        cmocka_unit_test(device_keeps_the_order_of_issue),
        cmocka_unit_test(device_releases_what_is_in_use),
        cmocka_unit_test(device_shares_local_memory),
        cmocka_unit_test(device_has_enough_local_memory),
        cmocka_unit_test(device_has_global_barriers),
        cmocka_unit_test(device_says_what_does_not_compile),
        cmocka_unit_test(device_says_which_kernel_is_missing),
        cmocka_unit_test(device_replays),
        DIALECT_TESTS,
    };
    int n;
    if (suite.ops->count(&n, NULL) == ERR_UNAVAILABLE) {
        return cmocka_run_group_tests(none, NULL, NULL);
    }
    return cmocka_run_group_tests(tests, suite_open, suite_close);
}

#endif
