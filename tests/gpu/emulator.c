// See emulator.h. All that is issued has run when the call returns.
#include "emulator.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "guard.h"

enum { GUARD_BYTES = 256, MOST_GROUPS_Y_Z = 65535 };

struct DeviceKernel {
    const HostKernel *host;
};

struct DeviceBuffer {
    const Device *device;
    DeviceBuffer *next;
    size_t bytes;
    uint8_t *map;  // guard, data, guard
    uint8_t *data;
    bool unsettled;  // written by a launch that may not have ended when the next one starts
};

// A launch, its arguments copied.
typedef struct {
    const HostKernel *kernel;
    uint32_t groups[3];
    DeviceBuffer *buffers[DEVICE_MAX_BUFFERS];
    void *args;
} Issue;

struct DeviceRecording {
    const Device *device;
    Issue *issues;
    int n, room;
    bool failed;
};

struct Device {
    Grid *grid;
    int n_threads;
    DeviceKernel *kernels;
    DeviceBuffer *buffers;
    DeviceRecording *recording;  // while one is made
    int n_recordings;
};

EmulatorConfig emulator_config;
EmulatorCounts emulator_counts;

static Status may_fail(const char *what, Error *err) {
    if (emulator_config.fail_at == 0 || --emulator_config.fail_at > 0) return OK;
    return error_set(err, ERR_FAILED, "the emulator was told to fail (%s)", what);
}

// --- the device ----------------------------------------------------------------------------------

static Status emulator_count(int *n, Error *err) {
    (void)err;
    *n = 1;
    return OK;
}

static Status emulator_info(int index, DeviceInfo *out, Error *err) {
    (void)err;
    CHECK(index == 0);
    const EmulatorConfig *c = &emulator_config;
    *out = (DeviceInfo){.name = "emulator",
                        .memory = c->memory,
                        .n_units = c->n_units ? c->n_units : 4,
                        .max_buffer = c->max_buffer,
                        .is_processor = true};
    return OK;
}

static Status emulator_open(int index, Device **out, Error *err) {
    CHECK(index == 0);
    *out = NULL;
    Device *d = calloc(1, sizeof *d);
    if (!d) return error_memory(err, "the emulator", sizeof *d);
    d->n_threads = emulator_config.n_threads ? emulator_config.n_threads : 1;
    const Status st = grid_open(d->n_threads, &d->grid, err);
    if (st == OK) {
        *out = d;
    } else {
        free(d);
    }
    return st;
}

static void emulator_close(Device *d) {
    if (!d) return;
    CHECK(!d->buffers && !d->recording && d->n_recordings == 0);
    grid_close(d->grid);
    free(d->kernels);
    free(d);
}

static const HostKernel *kernel_by_name(const char *name) {
    const EmulatorConfig *c = &emulator_config;
    const HostKernel *all = c->kernels ? c->kernels : gpu_host_kernels;
    const int n = c->kernels ? c->n_kernels : n_gpu_host_kernels;
    for (int i = 0; i < n; i++) {
        if (strcmp(all[i].name, name) == 0) return &all[i];
    }
    return NULL;
}

// The kernels are compiled already: `source` is not read.
static Status emulator_build(Device *d, const char *source, DeviceEntry *entries, int n,
                             Error *err) {
    CHECK(source && n >= 1 && !d->recording);
    DeviceKernel *kernels = calloc((size_t)n, sizeof *kernels);
    if (!kernels) return error_memory(err, "kernels", (size_t)n * sizeof *kernels);
    Status st = OK;
    for (int i = 0; i < n && st == OK; i++) {
        const DeviceEntry *e = &entries[i];
        const HostKernel *k = kernels[i].host = kernel_by_name(e->name);
        if (!k) {
            st = error_set(err, ERR_FAILED, "the emulator has no kernel %s", e->name);
        } else if (k->lanes != e->lanes || k->n_buffers != e->n_buffers ||
                   k->args_bytes != e->args_bytes) {
            st = error_set(err, ERR_FAILED,
                           "kernel %s has %d items, %d buffers and %zu bytes of arguments, not %d, "
                           "%d and %zu",
                           e->name, k->lanes, k->n_buffers, k->args_bytes, e->lanes, e->n_buffers,
                           e->args_bytes);
        }
    }
    free(d->kernels);
    d->kernels = kernels;
    for (int i = 0; i < n; i++) entries[i].kernel = st == OK ? &kernels[i] : NULL;
    return st;
}

// --- memory --------------------------------------------------------------------------------------

static uint64_t emulator_memory_free(Device *d) {
    (void)d;
    const uint64_t all = emulator_config.memory, used = emulator_counts.used_bytes;
    return all > used ? all - used : all ? 1 : 0;  // 0 would be: it does not say
}

static Status emulator_alloc(Device *d, size_t bytes, DeviceBuffer **out, Error *err) {
    const EmulatorConfig *c = &emulator_config;
    EmulatorCounts *counts = &emulator_counts;
    CHECK(bytes > 0 && !d->recording);
    *out = NULL;
    Status st = may_fail("alloc", err);
    if (st != OK) return st;
    uint64_t used, room;
    if ((c->max_buffer && bytes > c->max_buffer) ||
        !checked_add(counts->used_bytes, bytes, &used) || (c->memory && used > c->memory) ||
        !checked_add(bytes, 2 * GUARD_BYTES, &room) || !checked_align(room, GUARD_BYTES, &room)) {
        return error_memory(err, "the emulator's memory", bytes);
    }
    DeviceBuffer *b = calloc(1, sizeof *b);
    if (b) b->map = aligned_alloc(GUARD_BYTES, room);
    if (!b || !b->map) {
        free(b);
        return error_memory(err, "the emulator's memory", bytes);
    }
    b->device = d, b->bytes = bytes, b->data = b->map + GUARD_BYTES;
    memset(b->data, 0xff, bytes);
    guard_set(b->map, GUARD_BYTES);
    guard_set(b->data + bytes, GUARD_BYTES);
    b->next = d->buffers;
    d->buffers = b;
    counts->n_buffers++;
    counts->used_bytes = used;
    if (used > counts->most_bytes) counts->most_bytes = used;
    *out = b;
    return OK;
}

static void check_buffer(const Device *d, const DeviceBuffer *b) {
    const DeviceBuffer *known = d->buffers;
    while (known && known != b) known = known->next;
    CHECK(known && "a buffer that was released, or another device's");
}

static bool intact(const DeviceBuffer *b) {
    return guard_intact(b->map, GUARD_BYTES) && guard_intact(b->data + b->bytes, GUARD_BYTES);
}

static void check_range(const Device *d, const DeviceBuffer *b, size_t at, size_t bytes) {
    CHECK(!d->recording);
    check_buffer(d, b);
    CHECK(at <= b->bytes && bytes <= b->bytes - at);
    CHECK(intact(b));
}

static void emulator_release(Device *d, DeviceBuffer *b) {
    if (!b) return;
    check_range(d, b, 0, b->bytes);
    DeviceBuffer **link = &d->buffers;
    while (*link != b) link = &(*link)->next;
    *link = b->next;
    emulator_counts.n_buffers--;
    emulator_counts.used_bytes -= b->bytes;
    guard_lift(b->map, GUARD_BYTES);
    guard_lift(b->data + b->bytes, GUARD_BYTES);
    free(b->map);
    free(b);
}

static Status emulator_write(Device *d, DeviceBuffer *to, size_t at, const void *from, size_t bytes,
                             Error *err) {
    check_range(d, to, at, bytes);
    const Status st = may_fail("write", err);
    if (st == OK && bytes > 0) memcpy(to->data + at, from, bytes);
    return st;
}

static Status emulator_read(Device *d, const DeviceBuffer *from, size_t at, void *to, size_t bytes,
                            Error *err) {
    check_range(d, from, at, bytes);
    const Status st = may_fail("read", err);
    if (st == OK && bytes > 0) memcpy(to, from->data + at, bytes);
    return st;
}

static Status emulator_copy(Device *d, DeviceBuffer *to, size_t to_at, const DeviceBuffer *from,
                            size_t from_at, size_t bytes, Error *err) {
    check_range(d, to, to_at, bytes);
    check_range(d, from, from_at, bytes);
    CHECK(to != from || to_at + bytes <= from_at || from_at + bytes <= to_at);
    const Status st = may_fail("copy", err);
    if (st == OK && bytes > 0) memcpy(to->data + to_at, from->data + from_at, bytes);
    return st;
}

void emulator_unsettle(DeviceBuffer *b) {
    b->unsettled = true;
}

// --- launches ------------------------------------------------------------------------------------

typedef struct {
    const Issue *issue;
    void *data[DEVICE_MAX_BUFFERS];
} Call;

static void run_item(void *user) {
    const Call *c = user;
    c->issue->kernel->call(c->data, c->issue->args);
}

// What launches have written cannot be touched, or can again.
static void hold(void *user, bool held) {
    const Call *c = user;
    for (int i = 0; i < c->issue->kernel->n_buffers; i++) {
        const DeviceBuffer *b = c->issue->buffers[i];
        if (held && b->unsettled) {
            ASAN_POISON_MEMORY_REGION(b->data, b->bytes);
        } else {
            guard_lift(b->data, b->bytes);
        }
    }
}

// On several threads groups do not hold together.
static void hold_nothing(void *user, bool held) {
    (void)user, (void)held;
}

static Status run_once(Device *d, const Issue *s, GridOrder order, uint8_t filler, Error *err) {
    Call call = {.issue = s};
    const int n = s->kernel->n_buffers;
    for (int i = 0; i < n; i++) {
        check_buffer(d, s->buffers[i]);
        call.data[i] = s->buffers[i]->data;
    }
    const GridRun run = {.name = s->kernel->name,
                         .item = run_item,
                         .user = &call,
                         .lanes = s->kernel->lanes,
                         .groups = {s->groups[0], s->groups[1], s->groups[2]},
                         .order = order,
                         .seed = emulator_config.seed,
                         .hold = !emulator_config.overlap ? NULL
                                 : d->n_threads == 1      ? hold
                                                          : hold_nothing,
                         .local_filler = filler};
    Status st = grid_run(d->grid, &run, err);
    for (int i = 0; i < n; i++) {
        const DeviceBuffer *b = s->buffers[i];
        if (!intact(b)) {
            st = error_set(err, ERR_FAILED, "kernel %s writes outside its buffer %d (%zu bytes)",
                           run.name, i, b->bytes);
        }
    }
    return st;
}

// Is buffers[i] another than those before it?
static bool is_new(const Issue *s, int i) {
    for (int k = 0; k < i; k++) {
        if (s->buffers[k] == s->buffers[i]) return false;
    }
    return true;
}

static Status compare(const Issue *s, int i, const uint8_t *first, Error *err) {
    const DeviceBuffer *b = s->buffers[i];
    for (size_t at = 0; at < b->bytes; at++) {
        if (first[at] == b->data[at]) continue;
        return error_set(err, ERR_FAILED,
                         "kernel %s: byte %zu of buffer %d is 0x%02x with its items in one order, "
                         "0x%02x in another: is a barrier missing, or local memory read that was "
                         "never written?",
                         s->kernel->name, at, i, first[at], b->data[at]);
    }
    return OK;
}

static Status run_race(Device *d, const Issue *s, Error *err) {
    enum { FIRST_FILLER = 0xa5, SECOND_FILLER = 0xff };
    uint8_t *before[DEVICE_MAX_BUFFERS] = {0}, *first[DEVICE_MAX_BUFFERS] = {0};
    const int n = s->kernel->n_buffers;
    const GridOrder order = emulator_config.order;
    const GridOrder other = order == ORDER_SHUFFLED ? ORDER_BACKWARD : order + 1;
    Status st = OK;
    for (int i = 0; i < n && st == OK; i++) {
        const DeviceBuffer *b = s->buffers[i];
        if (!is_new(s, i)) continue;
        before[i] = malloc(b->bytes), first[i] = malloc(b->bytes);
        if (!before[i] || !first[i]) {
            st = error_memory(err, "the emulator's copies", 2 * b->bytes);
        } else {
            memcpy(before[i], b->data, b->bytes);
        }
    }
    if (st == OK) st = run_once(d, s, order, FIRST_FILLER, err);
    for (int i = 0; i < n && st == OK; i++) {
        if (!before[i]) continue;
        memcpy(first[i], s->buffers[i]->data, s->buffers[i]->bytes);
        memcpy(s->buffers[i]->data, before[i], s->buffers[i]->bytes);
    }
    if (st == OK) st = run_once(d, s, other, SECOND_FILLER, err);
    for (int i = 0; i < n && st == OK; i++) {
        if (!before[i]) continue;
        DeviceBuffer *b = s->buffers[i];
        if (memcmp(before[i], b->data, b->bytes) != 0) b->unsettled = true;
        st = compare(s, i, first[i], err);
    }
    for (int i = 0; i < n; i++) free(before[i]), free(first[i]);
    return st;
}

static Status run_issue(Device *d, const Issue *s, Error *err) {
    emulator_counts.launches++;
    if (emulator_config.race) return run_race(d, s, err);
    return run_once(d, s, emulator_config.order, 0xa5, err);
}

static void free_issue(Issue *s) {
    free(s->args);
}

static bool keep_issue(DeviceRecording *r, const Issue *s) {
    if (r->n == r->room) {
        const int room = r->room ? 2 * r->room : 64;
        Issue *more = realloc(r->issues, (size_t)room * sizeof *more);
        if (!more) return false;
        r->issues = more, r->room = room;
    }
    r->issues[r->n++] = *s;
    return true;
}

static Status emulator_launch(Device *d, const DeviceLaunch *l, Error *err) {
    const DeviceEntry *e = l->entry;
    CHECK(e && e->kernel && l->args);
    const HostKernel *k = e->kernel->host;
    CHECK(strcmp(k->name, e->name) == 0);
    Status st = may_fail(k->name, err);
    if (st != OK) {
        if (d->recording) d->recording->failed = true;
        return st;
    }
    Issue s = {.kernel = k, .args = malloc(k->args_bytes)};
    if (!s.args) return error_memory(err, "arguments", k->args_bytes);
    memcpy(s.args, l->args, k->args_bytes);
    for (int i = 0; i < 3; i++) {
        s.groups[i] = l->groups[i];
        CHECK(s.groups[i] >= 1 && s.groups[i] <= (i == 0 ? INT32_MAX : MOST_GROUPS_Y_Z));
    }
    for (int i = 0; i < k->n_buffers; i++) {
        s.buffers[i] = l->buffers[i];
        check_buffer(d, s.buffers[i]);
    }
    if (d->recording) {
        if (keep_issue(d->recording, &s)) return OK;
        d->recording->failed = true;
        st = error_memory(err, "a recording", sizeof s);
    } else {
        st = run_issue(d, &s, err);
    }
    free_issue(&s);
    return st;
}

static Status emulator_wait(Device *d, Error *err) {
    CHECK(!d->recording);
    return may_fail("wait", err);
}

// --- recordings ----------------------------------------------------------------------------------

static void free_recording(DeviceRecording *r) {
    for (int i = 0; i < r->n; i++) free_issue(&r->issues[i]);
    free(r->issues);
    free(r);
}

static Status emulator_record(Device *d, Error *err) {
    CHECK(!d->recording);
    d->recording = calloc(1, sizeof *d->recording);
    if (!d->recording) return error_memory(err, "a recording", sizeof *d->recording);
    d->recording->device = d;
    return OK;
}

static Status emulator_record_end(Device *d, DeviceRecording **out, Error *err) {
    CHECK(d->recording);
    DeviceRecording *r = d->recording;
    d->recording = NULL;
    *out = NULL;
    if (r->failed || emulator_config.cannot_record) {
        free_recording(r);
        return error_set(err, ERR_UNAVAILABLE, "the emulator did not record");
    }
    d->n_recordings++;
    *out = r;
    return OK;
}

static Status emulator_replay(Device *d, DeviceRecording *r, Error *err) {
    CHECK(!d->recording && r->device == d);
    Status st = may_fail("replay", err);
    emulator_counts.replays++;
    for (int i = 0; i < r->n && st == OK; i++) st = run_issue(d, &r->issues[i], err);
    return st;
}

static void emulator_record_free(Device *d, DeviceRecording *r) {
    if (!r) return;
    CHECK(r->device == d);
    d->n_recordings--;
    free_recording(r);
}

static const char no_dialect[1];

const DeviceOps device_emulator = {
    .name = "emulator",
    .what = "the GPU kernels on this processor, item by item, for tests",
    .count = emulator_count,
    .info = emulator_info,
    .open = emulator_open,
    .close = emulator_close,
    .build = emulator_build,
    .memory_free = emulator_memory_free,
    .alloc = emulator_alloc,
    .release = emulator_release,
    .write = emulator_write,
    .read = emulator_read,
    .copy = emulator_copy,
    .launch = emulator_launch,
    .wait = emulator_wait,
    .record = emulator_record,
    .record_end = emulator_record_end,
    .replay = emulator_replay,
    .record_free = emulator_record_free,
    .dialect = no_dialect,
    .dialect_end = no_dialect,
};
