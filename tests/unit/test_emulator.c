// The emulator of GPUs (tests/gpu): grids of work groups, and a device that tells of every rule that
// a kernel or a driver breaks. The kernels here are small and wrong on purpose.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>

#include "backend/gpu/dialect_host.h"
#include "check.h"
#include "../gpu/emulator.h"

// --- kernels -------------------------------------------------------------------------------------

typedef struct {
    u64 wide;
    i32 n, way;
} TestArgs;

#define TEST_KERNELS(X)              \
    X(group_sums, 64, 2, TestArgs)   \
    X(name_items, 7, 1, TestArgs)    \
    X(end_early, 32, 1, TestArgs)    \
    X(two_barriers, 32, 1, TestArgs) \
    X(shared, 32, 1, TestArgs)       \
    X(claim, 32, 1, TestArgs)        \
    X(write_at, 1, 2, TestArgs)      \
    X(overlap, 32, 2, TestArgs)      \
    X(add_many, 64, 16, TestArgs)

// y[group] = the sum of 64 elements of x; way 1 and 2 leave a barrier out.
KERNEL(group_sums, 64)
(BUFFER(0, const float *, x), BUFFER(1, float *, y), ARGS(2, TestArgs, a) IDS) {
    LOCAL_ARRAY(float, part, 64);
    const int i = GROUP_X * 64 + LANE;
    part[LANE] = i < a.n ? x[i] : 0.0f;
    if (a.way != 1) BARRIER();
    for (int d = 32; d > 0; d >>= 1) {
        if (LANE < d) part[LANE] += part[LANE + d];
        if (a.way != 2) BARRIER();
    }
    if (LANE == 0) y[GROUP_X] = part[0];
}

// Every item marks its own place, with a barrier before that.
KERNEL(name_items, 7)(BUFFER(0, i32 *, y), ARGS(1, TestArgs, a) IDS) {
    BARRIER_GLOBAL();
    const int group = (GROUP_Z * 3 + GROUP_Y) * 5 + GROUP_X;
    y[group * 7 + LANE] += a.n + group * 100 + LANE;
}

KERNEL(end_early, 32)(BUFFER(0, float *, y), ARGS(1, TestArgs, a) IDS) {
    if (LANE == a.n && GROUP_Y == 1) return;
    BARRIER();
    y[LANE] = 1;
}

KERNEL(two_barriers, 32)(BUFFER(0, float *, y), ARGS(1, TestArgs, a) IDS) {
    if (LANE == a.n) {
        y[0] = 1;
        BARRIER();
    } else {
        y[1] = 1;
        BARRIER();
    }
}

// Way 0: local memory that was never written. 1, 2: past and before the end of it.
KERNEL(shared, 32)(BUFFER(0, u32 *, y), ARGS(1, TestArgs, a) IDS) {
    LOCAL_ARRAY(u32, first, 33);
    LOCAL_ARRAY(u32, second, 32);
    const int at = a.way == 1 ? 33 : a.way == 2 ? -1 : 5;
    first[a.way == 0 ? LANE : at] = 7;
    second[LANE] = 8;
    BARRIER();
    y[LANE] = first[a.way == 0 ? LANE + 1 : LANE] + second[31];
}

// Way 0: local memory for every device, 1: more than that, 2: an array of two sizes, 3: an item
// that claims one array more, 4: one that claims one less.
KERNEL(claim, 32)(BUFFER(0, float *, y), ARGS(1, TestArgs, a) IDS) {
    LOCAL_ARRAY(float, most, (a.way == 1 ? 8193 : a.way == 0 ? 8192 : 16));
    most[LANE & 15] = 1;
    if (a.way == 2) {
        LOCAL_ARRAY(float, other, (LANE == 9 ? 17 : 16));
        other[0] = 1;
    }
    if ((a.way == 3 && LANE == 9) || (a.way == 4 && LANE != 9)) {
        LOCAL_ARRAY(float, one, 4);
        one[0] = 1;
    }
    y[LANE] = (float)a.way;
}

// y[n] = x[0]
KERNEL(write_at, 1)(BUFFER(0, const u8 *, x), BUFFER(1, u8 *, y), ARGS(2, TestArgs, a) IDS) {
    y[a.n] = x[0];
}

// y = x, and 1 more. Way 1: reads too early, 2: ends too early, 3: comes to a barrier too early, 4:
// writes too early.
KERNEL(overlap, 32)(BUFFER(0, const u32 *, x), BUFFER(1, u32 *, y), ARGS(2, TestArgs, a) IDS) {
    u32 sum = 1;
    GRID_GO();
    if (a.way == 1 && LANE == 31) sum += x[LANE];
    if (a.way == 2 && LANE == 7) return;
    if (a.way == 3) BARRIER();
    if (a.way == 4) y[LANE] = 9;
    GRID_WAIT();
    if (a.way != 1 || LANE != 31) sum += x[LANE];
    BARRIER();
    GRID_WAIT();
    y[LANE] = sum;
}

KERNEL(add_many, 64)
(BUFFER(0, const i32 *, b0), BUFFER(1, const i32 *, b1), BUFFER(2, const i32 *, b2),
 BUFFER(3, const i32 *, b3), BUFFER(4, const i32 *, b4), BUFFER(5, const i32 *, b5),
 BUFFER(6, const i32 *, b6), BUFFER(7, const i32 *, b7), BUFFER(8, const i32 *, b8),
 BUFFER(9, const i32 *, b9), BUFFER(10, const i32 *, b10), BUFFER(11, const i32 *, b11),
 BUFFER(12, const i32 *, b12), BUFFER(13, const i32 *, b13), BUFFER(14, const i32 *, b14),
 BUFFER(15, i32 *, y), ARGS(16, TestArgs, a) IDS) {
    if (LANE >= a.n) return;
    y[LANE] += b0[0] + 2 * b1[0] + 3 * b2[0] + 4 * b3[0] + 5 * b4[0] + 6 * b5[0] + 7 * b6[0] +
               8 * b7[0] + 9 * b8[0] + 10 * b9[0] + 11 * b10[0] + 12 * b11[0] + 13 * b12[0] +
               14 * b13[0] + 15 * b14[0] + (i32)a.wide;
}

TEST_KERNELS(HOST_CALL)
static const HostKernel table[] = {TEST_KERNELS(HOST_ROW)};
enum { N_KERNELS = sizeof table / sizeof *table };
#define ENTRY(name, lanes, n, Args) {#name, NULL, lanes, n, sizeof(Args)},

// --- a device with these kernels -----------------------------------------------------------------

typedef struct {
    const DeviceOps *ops;
    Device *device;
    DeviceEntry entries[N_KERNELS];
} Fixture;

static Fixture open_device(void) {
    static const DeviceEntry entries[] = {TEST_KERNELS(ENTRY)};
    Fixture f = {.ops = &device_emulator};
    Error err = {0};
    int n = 0;
    emulator_config.kernels = table;
    emulator_config.n_kernels = N_KERNELS;
    memcpy(f.entries, entries, sizeof entries);
    assert_int_equal(f.ops->count(&n, &err), OK);
    assert_int_equal(n, 1);
    assert_int_equal(f.ops->open(0, &f.device, &err), OK);
    assert_int_equal(f.ops->build(f.device, "", f.entries, N_KERNELS, &err), OK);
    return f;
}

static void close_device(Fixture *f) {
    f->ops->close(f->device);
    emulator_config = (EmulatorConfig){0};
    assert_int_equal(emulator_counts.n_buffers, 0);
    assert_int_equal(emulator_counts.used_bytes, 0);
}

static DeviceBuffer *new_buffer(Fixture *f, const void *from, size_t bytes) {
    DeviceBuffer *b;
    Error err = {0};
    assert_int_equal(f->ops->alloc(f->device, bytes, &b, &err), OK);
    if (from) assert_int_equal(f->ops->write(f->device, b, 0, from, bytes, &err), OK);
    return b;
}

static void get(Fixture *f, const DeviceBuffer *b, void *to, size_t bytes) {
    Error err = {0};
    assert_int_equal(f->ops->read(f->device, b, 0, to, bytes, &err), OK);
}

static DeviceLaunch launch_of(const Fixture *f, const char *name, uint32_t x, uint32_t y,
                              uint32_t z, const TestArgs *a, DeviceBuffer *b0, DeviceBuffer *b1) {
    DeviceLaunch l = {.groups = {x, y, z}, .buffers = {b0, b1}, .args = a};
    for (int i = 0; i < N_KERNELS; i++) {
        if (strcmp(f->entries[i].name, name) == 0) l.entry = &f->entries[i];
    }
    assert_non_null(l.entry);
    return l;
}

static Status launch(Fixture *f, const char *name, uint32_t x, uint32_t y, uint32_t z, TestArgs a,
                     DeviceBuffer *b0, DeviceBuffer *b1, Error *err) {
    const DeviceLaunch l = launch_of(f, name, x, y, z, &a, b0, b1);
    *err = (Error){0};
    return f->ops->launch(f->device, &l, err);
}

static void says(const Error *err, const char *words) {
    if (!strstr(err->text, words)) fail_msg("'%s' does not say '%s'", err->text, words);
}

// Does fn(f) end the process (a CHECK, or AddressSanitizer) or return a failure?
static void assert_stops(Status (*fn)(Fixture *f)) {
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(0);
        signal(SIGABRT, SIG_DFL);  // cmocka's would go on with the next test
        signal(SIGSEGV, SIG_DFL);
        Fixture f = open_device();
        _exit(fn(&f) == OK ? 0 : 1);
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_false(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

// --- grids ---------------------------------------------------------------------------------------

static void each_way(void (*fn)(void)) {
    for (int threads = 1; threads <= 3; threads++) {
        for (GridOrder order = ORDER_FORWARD; order <= ORDER_SHUFFLED; order++) {
            for (int race = 0; race <= 1; race++) {
                emulator_config = (EmulatorConfig){.n_threads = threads,
                                                   .order = order,
                                                   .seed = (uint64_t)threads * 77,
                                                   .race = race};
                fn();
            }
        }
    }
}

static void every_item_once(void) {
    Fixture f = open_device();
    Error err;
    enum { N = 5 * 3 * 2 * 7 };
    i32 zeros[N] = {0}, got[N];
    DeviceBuffer *y = new_buffer(&f, zeros, sizeof zeros);
    assert_int_equal(launch(&f, "name_items", 5, 3, 2, (TestArgs){.n = 9}, y, NULL, &err), OK);
    get(&f, y, got, sizeof got);
    for (int i = 0; i < N; i++) assert_int_equal(got[i], 9 + i / 7 * 100 + i % 7);
    f.ops->release(f.device, y);
    close_device(&f);
}

static void test_every_item_of_every_group_runs_once(void **state) {
    (void)state;
    each_way(every_item_once);
}

static void sums_are_right(void) {
    Fixture f = open_device();
    Error err;
    float x[150], got[3];
    for (int i = 0; i < 150; i++) x[i] = (float)(i + 1);
    DeviceBuffer *bx = new_buffer(&f, x, sizeof x), *by = new_buffer(&f, NULL, sizeof got);
    assert_int_equal(launch(&f, "group_sums", 3, 1, 1, (TestArgs){.n = 150}, bx, by, &err), OK);
    get(&f, by, got, sizeof got);
    assert_true(got[0] == 64 * 65 / 2);
    assert_true(got[1] == 128 * 129 / 2 - 64 * 65 / 2);
    assert_true(got[2] == 150 * 151 / 2 - 128 * 129 / 2);
    f.ops->release(f.device, bx);
    f.ops->release(f.device, by);
    close_device(&f);
}

static void test_barriers_and_local_memory(void **state) {
    (void)state;
    each_way(sums_are_right);
}

static void test_a_missing_barrier_shows(void **state) {
    (void)state;
    for (int way = 1; way <= 2; way++) {
        for (GridOrder order = ORDER_FORWARD; order <= ORDER_SHUFFLED; order++) {
            emulator_config = (EmulatorConfig){.order = order, .race = true};
            Fixture f = open_device();
            Error err;
            float x[64];
            for (int i = 0; i < 64; i++) x[i] = (float)i;
            DeviceBuffer *bx = new_buffer(&f, x, sizeof x), *by = new_buffer(&f, NULL, 4);
            const TestArgs a = {.n = 64, .way = way};
            assert_int_equal(launch(&f, "group_sums", 1, 1, 1, a, bx, by, &err), ERR_FAILED);
            says(&err, "kernel group_sums: byte ");
            says(&err, "of buffer 1 is ");
            says(&err, "is a barrier missing");
            f.ops->release(f.device, bx);
            f.ops->release(f.device, by);
            close_device(&f);
        }
    }
}

static void test_what_is_against_the_rules_of_barriers(void **state) {
    (void)state;
    for (int threads = 1; threads <= 2; threads++) {
        emulator_config = (EmulatorConfig){.n_threads = threads};
        Fixture f = open_device();
        Error err;
        DeviceBuffer *y = new_buffer(&f, NULL, 32 * 4);
        assert_int_equal(launch(&f, "end_early", 1, 1, 1, (TestArgs){.n = 9}, y, NULL, &err), OK);
        assert_int_equal(launch(&f, "end_early", 1, 2, 1, (TestArgs){.n = 9}, y, NULL, &err),
                         ERR_FAILED);
        says(&err,
             "kernel end_early, group (0, 1, 0): item 9 has ended while item 0 waits at the "
             "barrier of test_emulator.c:");
        assert_int_equal(launch(&f, "end_early", 1, 2, 1, (TestArgs){.n = 0}, y, NULL, &err),
                         ERR_FAILED);
        says(&err, "item 0 has ended while item 1 waits");

        assert_int_equal(launch(&f, "two_barriers", 1, 1, 1, (TestArgs){.n = 32}, y, NULL, &err),
                         OK);
        assert_int_equal(launch(&f, "two_barriers", 4, 1, 1, (TestArgs){.n = 31}, y, NULL, &err),
                         ERR_FAILED);
        says(&err, "item 31 waits at the barrier of test_emulator.c:");
        // The device goes on after that.
        assert_int_equal(launch(&f, "end_early", 9, 1, 1, (TestArgs){.n = 3}, y, NULL, &err), OK);
        f.ops->release(f.device, y);
        close_device(&f);
    }
}

static void test_local_memory_never_written_shows(void **state) {
    (void)state;
    emulator_config = (EmulatorConfig){.race = true};
    Fixture f = open_device();
    Error err;
    DeviceBuffer *y = new_buffer(&f, NULL, 32 * 4);
    assert_int_equal(launch(&f, "shared", 2, 1, 1, (TestArgs){.way = 0}, y, NULL, &err),
                     ERR_FAILED);
    says(&err, "byte 124 of buffer 0");
    f.ops->release(f.device, y);
    close_device(&f);
}

static Status past_local(Fixture *f) {
    Error err;
    DeviceBuffer *y = new_buffer(f, NULL, 32 * 4);
    return launch(f, "shared", 1, 1, 1, (TestArgs){.way = 1}, y, NULL, &err);
}

static Status before_local(Fixture *f) {
    Error err;
    DeviceBuffer *y = new_buffer(f, NULL, 32 * 4);
    return launch(f, "shared", 1, 1, 1, (TestArgs){.way = 2}, y, NULL, &err);
}

static void test_writes_past_local_memory_stop(void **state) {
    (void)state;
    assert_stops(past_local);
    assert_stops(before_local);
}

static void test_local_memory_has_a_limit_and_one_layout(void **state) {
    (void)state;
    static const char *const words[5] = {
        "", "takes 32772 bytes of local memory in 1 arrays",
        "item 9 claims 68 bytes of local memory where another claims 64",
        "claims 1 arrays of local memory, another 2",
        "item 9 claims 1 arrays of local memory, another 2"};
    Fixture f = open_device();
    Error err;
    DeviceBuffer *y = new_buffer(&f, NULL, 32 * 4);
    for (int way = 0; way < 5; way++) {
        const TestArgs a = {.way = way};
        assert_int_equal(launch(&f, "claim", 3, 1, 1, a, y, NULL, &err), way ? ERR_FAILED : OK);
        if (way) says(&err, words[way]);
    }
    f.ops->release(f.device, y);
    close_device(&f);
}

// --- the device ----------------------------------------------------------------------------------

static void test_sixteen_buffers_in_their_order(void **state) {
    (void)state;
    emulator_config.race = true;
    Fixture f = open_device();
    Error err = {0};
    TestArgs a = {.n = 3, .wide = 1000000};
    DeviceLaunch l = launch_of(&f, "add_many", 1, 1, 1, &a, NULL, NULL);
    i32 want = 1000000, got[3], start[3] = {5, 6, 7};
    for (i32 i = 0; i < 15; i++) {
        const i32 value = 1 << i;
        want += (i + 1) * value;
        l.buffers[i] = new_buffer(&f, &value, 4);
    }
    l.buffers[15] = new_buffer(&f, start, sizeof start);
    assert_int_equal(f.ops->launch(f.device, &l, &err), OK);
    get(&f, l.buffers[15], got, sizeof got);
    for (int i = 0; i < 3; i++) assert_int_equal(got[i], want + start[i]);
    for (int i = 0; i < 16; i++) f.ops->release(f.device, l.buffers[i]);
    close_device(&f);
}

static void test_memory_starts_as_nan_and_is_copied(void **state) {
    (void)state;
    Fixture f = open_device();
    Error err = {0};
    u8 got[11], bytes[11];
    for (int i = 0; i < 11; i++) bytes[i] = (u8)i;
    DeviceBuffer *a = new_buffer(&f, NULL, 11), *b = new_buffer(&f, bytes, 11);
    get(&f, a, got, 11);
    for (int i = 0; i < 11; i++) assert_int_equal(got[i], 0xff);
    assert_int_equal(f.ops->copy(f.device, a, 2, b, 5, 6, &err), OK);
    assert_int_equal(f.ops->copy(f.device, a, 0, a, 9, 2, &err), OK);
    assert_int_equal(f.ops->write(f.device, a, 9, bytes, 1, &err), OK);
    assert_int_equal(f.ops->write(f.device, a, 11, bytes, 0, &err), OK);
    assert_int_equal(f.ops->read(f.device, a, 1, got, 10, &err), OK);
    const u8 want[10] = {0xff, 5, 6, 7, 8, 9, 10, 0xff, 0, 0xff};
    assert_memory_equal(got, want, 10);
    assert_int_equal(f.ops->wait(f.device, &err), OK);
    f.ops->release(f.device, a);
    f.ops->release(f.device, b);
    f.ops->release(f.device, NULL);
    close_device(&f);
}

static void test_memory_has_a_limit(void **state) {
    (void)state;
    Fixture f = open_device();
    Error err = {0};
    DeviceInfo info;
    DeviceBuffer *b;
    assert_int_equal(f.ops->memory_free(f.device), 0);
    emulator_config.memory = 1000, emulator_config.max_buffer = 700;
    assert_int_equal(f.ops->info(0, &info, &err), OK);
    assert_int_equal(info.memory, 1000);
    assert_int_equal(info.max_buffer, 700);
    assert_true(info.n_units >= 1);
    assert_int_equal(f.ops->memory_free(f.device), 1000);
    assert_int_equal(f.ops->alloc(f.device, 701, &b, &err), ERR_UNAVAILABLE);
    assert_null(b);
    DeviceBuffer *first = new_buffer(&f, NULL, 700);
    assert_int_equal(f.ops->memory_free(f.device), 300);
    assert_int_equal(f.ops->alloc(f.device, 301, &b, &err), ERR_UNAVAILABLE);
    says(&err, "out of memory: the emulator's memory needs 301 bytes");
    DeviceBuffer *second = new_buffer(&f, NULL, 300);
    assert_int_equal(emulator_counts.used_bytes, 1000);
    f.ops->release(f.device, first);
    assert_int_equal(f.ops->memory_free(f.device), 700);
    f.ops->release(f.device, second);
    assert_int_equal(emulator_counts.most_bytes, 1000);
    emulator_config.memory = 0, emulator_config.max_buffer = 0;
    assert_int_equal(f.ops->alloc(f.device, SIZE_MAX, &b, &err), ERR_UNAVAILABLE);
    close_device(&f);
}

static void test_build_compares_the_entries(void **state) {
    (void)state;
    Fixture f = open_device();
    Error err = {0};
    DeviceEntry e = f.entries[1];
    assert_int_equal(f.ops->build(f.device, "", &e, 1, &err), OK);
    assert_non_null(e.kernel);
    e.name = "name_item";
    assert_int_equal(f.ops->build(f.device, "", &e, 1, &err), ERR_FAILED);
    says(&err, "has no kernel name_item");
    assert_null(e.kernel);
    for (int what = 0; what < 3; what++) {
        e = f.entries[1];
        if (what == 0) e.lanes++;
        if (what == 1) e.n_buffers++;
        if (what == 2) e.args_bytes += 4;
        assert_int_equal(f.ops->build(f.device, "", &e, 1, &err), ERR_FAILED);
        says(&err, "kernel name_items has 7 items, 1 buffers and 16 bytes of arguments, not ");
    }
    close_device(&f);
}

static void test_a_recording_keeps_launches_and_arguments(void **state) {
    (void)state;
    Fixture f = open_device();
    Error err = {0};
    const int launches = emulator_counts.launches, replays = emulator_counts.replays;
    i32 got[35 * 2 * 3] = {0};
    DeviceBuffer *y = new_buffer(&f, got, sizeof got);
    DeviceRecording *r = NULL;
    assert_int_equal(f.ops->record(f.device, &err), OK);
    for (i32 i = 1; i <= 100; i++) {
        TestArgs a = {.n = i};
        assert_int_equal(launch(&f, "name_items", 5, 3, 2, a, y, NULL, &err), OK);
    }
    assert_int_equal(f.ops->record_end(f.device, &r, &err), OK);
    assert_non_null(r);
    get(&f, y, got, sizeof got);
    assert_int_equal(got[0], 0);
    for (int i = 1; i <= 2; i++) {
        assert_int_equal(f.ops->replay(f.device, r, &err), OK);
        get(&f, y, got, sizeof got);
        assert_int_equal(got[0], i * 5050);
        assert_int_equal(got[209], i * (5050 + 100 * 2906));
    }
    assert_int_equal(emulator_counts.launches - launches, 200);
    assert_int_equal(emulator_counts.replays - replays, 2);
    f.ops->record_free(f.device, r);
    f.ops->record_free(f.device, NULL);

    // A launch that fails, and a device that will not.
    assert_int_equal(f.ops->record(f.device, &err), OK);
    assert_int_equal(launch(&f, "name_items", 1, 1, 1, (TestArgs){0}, y, NULL, &err), OK);
    emulator_config.fail_at = 1;
    assert_int_equal(launch(&f, "name_items", 1, 1, 1, (TestArgs){0}, y, NULL, &err), ERR_FAILED);
    assert_int_not_equal(f.ops->record_end(f.device, &r, &err), OK);
    assert_null(r);
    emulator_config.cannot_record = true;
    assert_int_equal(f.ops->record(f.device, &err), OK);
    assert_int_equal(launch(&f, "name_items", 1, 1, 1, (TestArgs){0}, y, NULL, &err), OK);
    assert_int_equal(f.ops->record_end(f.device, &r, &err), ERR_UNAVAILABLE);
    assert_null(r);
    f.ops->release(f.device, y);
    close_device(&f);
}

static void test_a_call_can_be_made_to_fail(void **state) {
    (void)state;
    Fixture f = open_device();
    Error err = {0};
    i32 x = 5;
    DeviceBuffer *y = new_buffer(&f, &x, 4);
    for (int at = 1; at <= 4; at++) {
        emulator_config.fail_at = at;
        assert_int_equal(f.ops->write(f.device, y, 0, &x, 4, &err), at == 1 ? ERR_FAILED : OK);
        assert_int_equal(f.ops->read(f.device, y, 0, &x, 4, &err), at == 2 ? ERR_FAILED : OK);
        assert_int_equal(f.ops->wait(f.device, &err), at == 3 ? ERR_FAILED : OK);
        assert_int_equal(emulator_config.fail_at, at == 4 ? 1 : 0);
    }
    emulator_config.fail_at = 1;
    DeviceBuffer *b;
    assert_int_equal(f.ops->alloc(f.device, 4, &b, &err), ERR_FAILED);
    assert_null(b);
    f.ops->release(f.device, y);
    close_device(&f);
}

// --- what a kernel or a driver must not do -------------------------------------------------------

static Status write_byte(Fixture *f, i32 at, size_t bytes) {
    Error err;
    const u8 x = 1;
    DeviceBuffer *from = new_buffer(f, &x, 1), *to = new_buffer(f, NULL, bytes);
    return launch(f, "write_at", 1, 1, 1, (TestArgs){.n = at}, from, to, &err);
}

static Status past_buffer(Fixture *f) {
    return write_byte(f, 13, 13);
}

static Status before_buffer(Fixture *f) {
    return write_byte(f, -1, 13);
}

static Status far_past_buffer(Fixture *f) {
    return write_byte(f, 64 + 191, 64);
}

static Status use_after_release(Fixture *f) {
    DeviceBuffer *y = new_buffer(f, NULL, 4);
    Error err;
    f->ops->release(f->device, y);
    launch(f, "end_early", 1, 1, 1, (TestArgs){0}, y, NULL, &err);
    return OK;
}

static Status replay_after_release(Fixture *f) {
    DeviceBuffer *y = new_buffer(f, NULL, 32 * 4);
    DeviceRecording *r;
    Error err;
    if (f->ops->record(f->device, &err) != OK) _exit(0);
    if (launch(f, "end_early", 1, 1, 1, (TestArgs){0}, y, NULL, &err) != OK) _exit(0);
    if (f->ops->record_end(f->device, &r, &err) != OK) _exit(0);
    f->ops->release(f->device, y);
    f->ops->replay(f->device, r, &err);
    return OK;
}

static Status write_past_the_end(Fixture *f) {
    DeviceBuffer *y = new_buffer(f, NULL, 8);
    f->ops->write(f->device, y, 5, "abcd", 4, NULL);
    return OK;
}

static Status copy_onto_itself(Fixture *f) {
    DeviceBuffer *y = new_buffer(f, NULL, 8);
    f->ops->copy(f->device, y, 0, y, 3, 4, NULL);
    return OK;
}

static Status write_while_recording(Fixture *f) {
    DeviceBuffer *y = new_buffer(f, NULL, 8);
    if (f->ops->record(f->device, NULL) != OK) _exit(0);
    f->ops->write(f->device, y, 0, "abcd", 4, NULL);
    return OK;
}

static Status no_groups(Fixture *f) {
    DeviceBuffer *y = new_buffer(f, NULL, 32 * 4);
    Error err;
    launch(f, "end_early", 1, 0, 1, (TestArgs){0}, y, NULL, &err);
    return OK;
}

static Status too_many_groups(Fixture *f) {
    DeviceBuffer *y = new_buffer(f, NULL, 32 * 4);
    Error err;
    launch(f, "end_early", 1, 65536, 1, (TestArgs){.n = 99}, y, NULL, &err);
    return OK;
}

static Status close_with_a_buffer(Fixture *f) {
    new_buffer(f, NULL, 8);
    f->ops->close(f->device);
    return OK;
}

static void test_what_is_against_the_rules_stops(void **state) {
    (void)state;
    Status (*const wrong[])(Fixture *) = {
        past_buffer,       before_buffer,         far_past_buffer,
        use_after_release, replay_after_release,  write_past_the_end,
        copy_onto_itself,  write_while_recording, no_groups,
        too_many_groups,   close_with_a_buffer,
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_stops(wrong[i]);
}

// The second of two launches, way 0 to 4 of the kernel, in a device where they overlap.
static Status launch_overlapping(Fixture *f, int way, Error *err) {
    u32 x[32], y[32];
    for (u32 i = 0; i < 32; i++) x[i] = i;
    DeviceBuffer *b[3] = {new_buffer(f, x, sizeof x), new_buffer(f, NULL, sizeof x),
                          new_buffer(f, NULL, sizeof x)};
    emulator_config.race = emulator_config.overlap = true;
    Status st = launch(f, "overlap", 2, 1, 1, (TestArgs){0}, b[0], b[1], err);
    assert_int_equal(st, OK);
    // What the host wrote is there; what the first launch wrote is not, until the wait.
    st = launch(f, "overlap", 1, 1, 1, (TestArgs){.way = way == 1}, b[0], b[2], err);
    assert_int_equal(st, OK);
    st = launch(f, "overlap", 2, 1, 1, (TestArgs){.way = way}, b[1], b[2], err);
    if (st == OK) {
        get(f, b[2], y, sizeof y);
        for (u32 i = 0; i < 32; i++) assert_int_equal(y[i], i + 2);
    }
    for (int i = 0; i < 3; i++) f->ops->release(f->device, b[i]);
    return st;
}

static Status read_early(Fixture *f) {
    Error err;
    return launch_overlapping(f, 1, &err);
}

static Status write_early(Fixture *f) {
    Error err;
    return launch_overlapping(f, 4, &err);
}

static void test_a_kernel_waits_for_the_one_before(void **state) {
    (void)state;
    for (int threads = 1; threads <= 2; threads++) {
        emulator_config.n_threads = threads;
        Fixture f = open_device();
        Error err;
        assert_int_equal(launch_overlapping(&f, 0, &err), OK);
        assert_int_equal(launch_overlapping(&f, 2, &err), ERR_FAILED);
        says(&err, "item 7 ends or comes to a barrier and has not waited for the kernel before");
        assert_int_equal(launch_overlapping(&f, 3, &err), ERR_FAILED);
        says(&err, "kernel overlap, group (0, 0, 0): item ");
        close_device(&f);
    }
    if (!UNDER_ASAN) return;
    assert_stops(read_early);
    assert_stops(write_early);
}

static void test_writes_outside_a_buffer_are_named(void **state) {
    (void)state;
    if (UNDER_ASAN) {
        print_message("skipped: AddressSanitizer stops at the write itself\n");
        skip();
    }
    Fixture f = open_device();
    Error err;
    const u8 x = 1;
    DeviceBuffer *from = new_buffer(&f, &x, 1), *to = new_buffer(&f, NULL, 5);
    assert_int_equal(launch(&f, "write_at", 1, 1, 1, (TestArgs){.n = 4}, from, to, &err), OK);
    assert_int_equal(launch(&f, "write_at", 1, 1, 1, (TestArgs){.n = 5}, from, to, &err),
                     ERR_FAILED);
    says(&err, "kernel write_at writes outside its buffer 1 (5 bytes)");
    const u8 guard = 0xc3;  // guard.h's first byte, so that the buffer may be released
    assert_int_equal(f.ops->write(f.device, from, 0, &guard, 1, &err), OK);
    assert_int_equal(launch(&f, "write_at", 1, 1, 1, (TestArgs){.n = 5}, from, to, &err), OK);
    f.ops->release(f.device, from);
    f.ops->release(f.device, to);
    close_device(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_of_every_group_runs_once),
        cmocka_unit_test(test_barriers_and_local_memory),
        cmocka_unit_test(test_a_missing_barrier_shows),
        cmocka_unit_test(test_what_is_against_the_rules_of_barriers),
        cmocka_unit_test(test_local_memory_never_written_shows),
        cmocka_unit_test(test_writes_past_local_memory_stop),
        cmocka_unit_test(test_local_memory_has_a_limit_and_one_layout),
        cmocka_unit_test(test_sixteen_buffers_in_their_order),
        cmocka_unit_test(test_memory_starts_as_nan_and_is_copied),
        cmocka_unit_test(test_memory_has_a_limit),
        cmocka_unit_test(test_build_compares_the_entries),
        cmocka_unit_test(test_a_recording_keeps_launches_and_arguments),
        cmocka_unit_test(test_a_call_can_be_made_to_fail),
        cmocka_unit_test(test_what_is_against_the_rules_stops),
        cmocka_unit_test(test_a_kernel_waits_for_the_one_before),
        cmocka_unit_test(test_writes_outside_a_buffer_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
