// See grid.h. A group goes from barrier to barrier: each item in turn runs until it waits or ends;
// then all must have come to the same place.
#include "grid.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include "backend/gpu/dialect_host.h"
#include "base/pool.h"
#include "fiber.h"
#include "guard.h"

enum { MAX_LOCALS = 32, LOCAL_GAP = 64, ARENA_BYTES = 64 << 10 };

typedef struct {
    size_t at, bytes;
    size_t gap;  // bytes behind it that nobody may touch
} Local;

typedef struct {
    const char *file;  // NULL: the item has ended
    int line;
} Place;

// What one thread runs groups with.
typedef struct {
    const GridRun *run;
    Fibers *fibers;
    HostItem items[GRID_MAX_LANES];
    Place waits_at[GRID_MAX_LANES];
    bool has_waited[GRID_MAX_LANES];
    int n_claimed[GRID_MAX_LANES];  // local arrays, by each item
    int order[GRID_MAX_LANES];
    uint64_t random;
    uint8_t *arena;
    Local locals[MAX_LOCALS];
    int n_locals;
    Status status;
    Error err;
} Worker;

struct Grid {
    Pool *pool;
    const GridRun *run;
    int n_workers;
    Worker workers[];
};

_Thread_local HostItem host_item;
static _Thread_local Worker *worker;

Status grid_open(int n_threads, Grid **out, Error *err) {
    CHECK(n_threads >= 1);
    *out = NULL;
    const size_t bytes = sizeof(Grid) + (size_t)n_threads * sizeof(Worker);
    Grid *g = calloc(1, bytes);
    if (!g) return error_memory(err, "the emulator", bytes);
    g->n_workers = n_threads;
    Status st = pool_create(n_threads, &g->pool, err);
    for (int i = 0; i < n_threads && st == OK; i++) {
        Worker *w = &g->workers[i];
        w->fibers = fibers_new(GRID_MAX_LANES);
        w->arena = aligned_alloc(64, ARENA_BYTES);
        if (!w->fibers || !w->arena) st = error_memory(err, "the emulator's items", ARENA_BYTES);
    }
    if (st == OK) {
        *out = g;
    } else {
        grid_close(g);
    }
    return st;
}

void grid_close(Grid *g) {
    if (!g) return;
    for (int i = 0; i < g->n_workers; i++) {
        fibers_free(g->workers[i].fibers);
        free(g->workers[i].arena);
    }
    pool_free(g->pool);
    free(g);
}

// --- what kernels call ---------------------------------------------------------------------------

// Keeps a worker's first failure, with the kernel and the group.
static void fails(Worker *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void fails(Worker *w, const char *fmt, ...) {
    if (w->status != OK) return;
    va_list ap;
    va_start(ap, fmt);
    w->status = error_setv(&w->err, ERR_FAILED, fmt, ap);
    va_end(ap);
    const int *at = host_item.group;
    error_prefix(&w->err, "kernel %s, group (%d, %d, %d)", w->run->name, at[0], at[1], at[2]);
}

void host_barrier(const char *file, int line) {
    CHECK(worker);
    worker->waits_at[host_item.lane] = (Place){file, line};
    fiber_pause();
}

void host_grid_wait(void) {
    CHECK(worker);
    if (!worker->run->hold || worker->has_waited[host_item.lane]) return;
    worker->has_waited[host_item.lane] = true;
    fiber_pause();
}

static size_t local_total(const Worker *w) {
    size_t total = 0;
    for (int i = 0; i < w->n_locals; i++) total += (w->locals[i].bytes + 15) / 16 * 16;
    return total;
}

// Lays out one more array, which stays where it is for the whole run. False: a device has no room.
static bool new_local(Worker *w, size_t bytes) {
    if (bytes > GRID_LOCAL_BYTES || local_total(w) + bytes > GRID_LOCAL_BYTES ||
        w->n_locals == MAX_LOCALS) {
        fails(w, "takes %zu bytes of local memory in %d arrays; a device may have no more than %d",
              local_total(w) + bytes, w->n_locals + 1, GRID_LOCAL_BYTES);
        return false;
    }
    Local *l = &w->locals[w->n_locals];
    const Local *before = w->n_locals > 0 ? l - 1 : NULL;
    l->at = before ? before->at + before->bytes + before->gap : LOCAL_GAP;
    l->bytes = bytes;
    l->gap = (bytes + 2 * LOCAL_GAP - 1) / LOCAL_GAP * LOCAL_GAP - bytes;
    uint8_t *data = w->arena + l->at;
    guard_lift(data, l->bytes + l->gap);
    memset(data, w->run->local_filler, l->bytes);
    guard_set(data + l->bytes, l->gap);
    w->n_locals++;
    return true;
}

void *host_local(size_t bytes) {
    CHECK(worker);
    Worker *w = worker;
    const int lane = host_item.lane, i = w->n_claimed[lane]++;
    bool fine = i < w->n_locals || new_local(w, bytes);
    if (fine && w->locals[i].bytes != bytes) {
        fails(w, "item %d claims %zu bytes of local memory where another claims %zu", lane, bytes,
              w->locals[i].bytes);
        fine = false;
    }
    if (!fine) {
        fiber_pause();
        check_failed(__FILE__, __LINE__, "an item ran on after a failure");
    }
    return w->arena + w->locals[i].at;
}

// --- running -------------------------------------------------------------------------------------

static uint64_t next_random(uint64_t *state) {  // splitmix64 (Steele, Lea and Flood 2014)
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void order_items(Worker *w) {
    const int n = w->run->lanes;
    for (int i = 0; i < n; i++) w->order[i] = w->run->order == ORDER_BACKWARD ? n - 1 - i : i;
}

static void shuffle_items(Worker *w) {
    for (int i = w->run->lanes - 1; i > 0; i--) {
        const int j = (int)(next_random(&w->random) % (uint64_t)(i + 1)), was = w->order[i];
        w->order[i] = w->order[j];
        w->order[j] = was;
    }
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// After each item has run: the same place for all?
static void compare_places(Worker *w) {
    const Place *p = w->waits_at;
    int waits = 0;
    while (!p[waits].file) waits++;
    for (int i = 0; i < w->run->lanes; i++) {
        if (!p[i].file) {
            fails(w, "item %d has ended while item %d waits at the barrier of %s:%d", i, waits,
                  file_name(p[waits].file), p[waits].line);
        } else if (p[i].line != p[waits].line || strcmp(p[i].file, p[waits].file) != 0) {
            fails(w, "item %d waits at the barrier of %s:%d, item %d at that of %s:%d", i,
                  file_name(p[i].file), p[i].line, waits, file_name(p[waits].file), p[waits].line);
        }
    }
}

// Runs each item until it has waited for the kernel before.
static void run_held(Worker *w) {
    w->run->hold(w->run->user, true);
    for (int i = 0; i < w->run->lanes && w->status == OK; i++) {
        const int lane = w->order[i];
        host_item = w->items[lane];
        fiber_resume(w->fibers, lane);
        if (!w->has_waited[lane]) {
            fails(w, "item %d ends or comes to a barrier and has not waited for the kernel before",
                  lane);
        }
    }
    w->run->hold(w->run->user, false);
}

// Runs each item to its next barrier or its end. True: all wait.
static bool run_round(Worker *w) {
    const int n = w->run->lanes;
    int n_waiting = 0;
    if (w->run->order == ORDER_SHUFFLED) shuffle_items(w);
    for (int i = 0; i < n; i++) {
        const int lane = w->order[i];
        host_item = w->items[lane];
        w->waits_at[lane].file = NULL;
        n_waiting += fiber_resume(w->fibers, lane);
        if (w->status != OK) return false;
    }
    if (n_waiting > 0) compare_places(w);
    return n_waiting > 0 && w->status == OK;
}

static void check_locals(Worker *w) {
    for (int i = 0; i < w->run->lanes; i++) {
        if (w->n_claimed[i] != w->n_locals) {
            fails(w, "item %d claims %d arrays of local memory, another %d", i, w->n_claimed[i],
                  w->n_locals);
        }
    }
    for (int i = 0; i < w->n_locals; i++) {
        const Local *l = &w->locals[i];
        if (!guard_intact(w->arena + l->at + l->bytes, l->gap) ||
            (i == 0 && !guard_intact(w->arena, LOCAL_GAP))) {
            fails(w, "writes outside its array number %d of local memory (%zu bytes)", i, l->bytes);
        }
    }
}

static void run_group(Worker *w, uint64_t index) {
    const GridRun *run = w->run;
    const uint32_t *n = run->groups;
    const HostItem first = {
        .group = {(int)(index % n[0]), (int)(index / n[0] % n[1]), (int)(index / n[0] / n[1])}};
    for (int i = 0; i < w->n_locals; i++) {
        memset(w->arena + w->locals[i].at, run->local_filler, w->locals[i].bytes);
    }
    for (int i = 0; i < run->lanes; i++) {
        w->items[i] = first;
        w->items[i].lane = i;
        w->n_claimed[i] = 0;
        w->has_waited[i] = false;
        fiber_start(w->fibers, i, run->item, run->user);
    }
    if (run->hold) run_held(w);
    while (w->status == OK && run_round(w)) continue;
    if (w->status == OK) check_locals(w);
    for (int i = 0; i < run->lanes && w->status != OK; i++) fiber_drop(w->fibers, i);
}

static uint64_t common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        const uint64_t rest = a % b;
        a = b, b = rest;
    }
    return a;
}

// A worker's share: every n_workers-th group in the run's order.
static void run_share(void *arg, int part, int n_parts) {
    Grid *g = arg;
    const GridRun *run = g->run;
    Worker *w = worker = &g->workers[part];
    w->run = run, w->status = OK, w->random = run->seed + (uint64_t)part, w->n_locals = 0;
    guard_lift(w->arena, ARENA_BYTES);
    guard_set(w->arena, LOCAL_GAP);
    ASAN_POISON_MEMORY_REGION(w->arena, ARENA_BYTES);
    order_items(w);
    const uint64_t total = (uint64_t)run->groups[0] * run->groups[1] * run->groups[2];
    uint64_t step = 1, first = 0, random = run->seed;
    if (run->order == ORDER_SHUFFLED) {  // a step without a common divisor goes through all
        first = next_random(&random) % total;
        do step = next_random(&random) % total + 1;
        while (common_divisor(step, total) != 1);
    }
    for (uint64_t i = (uint64_t)part; i < total && w->status == OK; i += (uint64_t)n_parts) {
        run_group(
            w, run->order == ORDER_BACKWARD ? total - 1 - i : (first + i % total * step) % total);
    }
    worker = NULL;
}

Status grid_run(Grid *g, const GridRun *run, Error *err) {
    CHECK(run->lanes >= 1 && run->lanes <= GRID_MAX_LANES);
    CHECK(run->groups[0] >= 1 && run->groups[1] >= 1 && run->groups[2] >= 1);
    g->run = run;
    pool_run(g->pool, run_share, g);
    for (int i = 0; i < g->n_workers; i++) {
        if (g->workers[i].status == OK) continue;
        if (err) *err = g->workers[i].err;
        return g->workers[i].status;
    }
    return OK;
}
