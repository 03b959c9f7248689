// What a thread pool must do, whatever its threads sleep on. Include it after base/pool.h.
#ifndef PLUMB_TESTS_POOL_SUITE_H
#define PLUMB_TESTS_POOL_SUITE_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/clock.h"
#include "check.h"

enum { MAX_THREADS = 512 };

static Pool *pool_of(int n) {
    Pool *p = NULL;
    Error err;
    if (pool_create(n, &p, &err)) fail_msg("%d threads: %s", n, err.text);
    assert_int_equal(pool_threads(p), n);
    return p;
}

typedef struct {
    atomic_int calls[MAX_THREADS], wrong;
    int n, phases, phase[MAX_THREADS], slow;
    long run;
    Pool *pool;
} PoolCheck;

// A failed assertion must not jump out of a worker's stack: faults are counted.
static void count_calls(void *arg, int i, int n) {
    PoolCheck *c = arg;
    if (n != c->n || i < 0 || i >= n) {
        atomic_fetch_add(&c->wrong, 1);
        return;
    }
    atomic_fetch_add(&c->calls[i], 1);
}

static void pool_runs_each_once(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 4, 5, 6, 7, 8, 32};
    for (size_t k = 0; k < sizeof threads / sizeof *threads; k++) {
        PoolCheck c = {.n = threads[k]};
        Pool *p = pool_of(c.n);
        int runs = c.n <= 2 ? 20000 : 300;
        for (int i = 0; i < runs; i++) {
            pool_run(p, count_calls, &c);
            // When pool_run returns all are done.
            for (int t = 0; t < c.n; t++) {
                if (atomic_load(&c.calls[t]) != i + 1) fail_msg("thread %d of %d", t, c.n);
            }
        }
        assert_int_equal(atomic_load(&c.wrong), 0);
        pool_free(p);
    }
    pool_free(NULL);
}

// Plain, unsynchronised ints: only the barrier orders them, so thread sanitizers see a missing one.
static void march(void *arg, int i, int n) {
    PoolCheck *c = arg;
    for (int ph = 0; ph < c->phases; ph++) {
        if (c->slow >= 0 && c->slow == (i + ph) % n) {
            nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        }
        c->phase[i] = (int)c->run * 100 + ph;
        pool_barrier(c->pool);
        for (int t = 0; t < n; t++) {
            if (c->phase[t] != (int)c->run * 100 + ph) atomic_fetch_add(&c->wrong, 1);
        }
        pool_barrier(c->pool);
    }
}

static void pool_barriers_hold(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 5, 8, 16};
    for (size_t k = 0; k < sizeof threads / sizeof *threads; k++) {
        PoolCheck c = {.n = threads[k], .phases = 5, .slow = -1, .pool = pool_of(threads[k])};
        long runs = c.n == 1 ? 100 : c.n == 2 ? 5000 : 100;
        for (c.run = 0; c.run < runs; c.run++) pool_run(c.pool, march, &c);
        // One that is late: the others give up spinning and go to sleep inside the barrier.
        for (c.slow = 0; c.slow < 3; c.slow++, c.run++) pool_run(c.pool, march, &c);
        // Workers that slept between two runs wake up.
        nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
        c.slow = -1;
        pool_run(c.pool, march, &c);
        if (atomic_load(&c.wrong)) fail_msg("%d threads: %d passed early", c.n, c.wrong);
        pool_free(c.pool);
    }
}

static void run_marches(int threads, int runs) {
    PoolCheck c = {.n = threads, .phases = 5, .slow = -1, .pool = pool_of(threads)};
    for (c.run = 0; c.run < runs; c.run++) pool_run(c.pool, march, &c);
    if (atomic_load(&c.wrong)) fail_msg("%d threads: %d passed early", threads, c.wrong);
    pool_free(c.pool);
}

// Each shape that the tree of counters takes: full, one too many, a level more.
static void pool_of_every_size(void **state) {
    (void)state;
    for (int n = 1; n <= 70; n++) run_marches(n, 3);
}

static int processors(void) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > MAX_THREADS / 4 ? MAX_THREADS / 4 : (int)n;
}

// Far more threads than processors: 400 barriers that must not each cost someone's turn. They take
// a tenth of a second; where each lost a millisecond to every thread it would be minutes.
static void pool_barriers_hold_crowded(void **state) {
    (void)state;
    const double start = clock_seconds();
    run_marches(4 * processors(), 40);
    const double seconds = clock_seconds() - start;
    if (seconds > 60) fail_msg("%.1f s", seconds);
}

static atomic_bool strangers_stop;

static void *stranger(void *arg) {
    while (!atomic_load_explicit(&strangers_stop, memory_order_relaxed)) {
    }
    return arg;
}

// A machine that is shared: as many busy strangers as processors.
static void pool_barriers_hold_beside_strangers(void **state) {
    (void)state;
    pthread_t threads[MAX_THREADS];
    int n = 0;
    atomic_store(&strangers_stop, false);
    while (n < processors() && !pthread_create(&threads[n], NULL, stranger, NULL)) n++;
    const double start = clock_seconds();
    run_marches(2, 100);
    run_marches(processors(), 20);
    run_marches(2 * processors(), 20);
    const double seconds = clock_seconds() - start;
    atomic_store(&strangers_stop, true);
    while (n > 0) pthread_join(threads[--n], NULL);
    if (seconds > 60) fail_msg("%.1f s", seconds);
}

typedef struct {
    int late;
    atomic_int done;
} Late;

static void one_is_late(void *arg, int i, int n) {
    Late *l = arg;
    (void)n;
    if (i == l->late) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    atomic_fetch_add(&l->done, 1);
}

// Without a barrier: the caller goes to sleep over the end of a run, the workers over the next one.
static void pool_waits_for_the_late(void **state) {
    (void)state;
    Pool *p = pool_of(6);
    for (int late = 0; late < 6; late++) {
        for (int k = 1; k <= 3; k++) {
            Late l = {.late = late};
            pool_run(p, one_is_late, &l);
            assert_int_equal(atomic_load(&l.done), 6);
        }
    }
    pool_free(p);
}

typedef struct {
    PoolCheck outer;
    PoolCheck *inner;  // one for each thread of the outer pool
} Nest;

// Every thread of a pool runs a pool of its own between two barriers of the outer one.
static void run_inner(void *arg, int i, int n) {
    Nest *nest = arg;
    PoolCheck *in = &nest->inner[i];
    march(&nest->outer, i, n);
    pool_run(in->pool, march, in);
    pool_run(in->pool, march, in);
    march(&nest->outer, i, n);
}

static void pool_within_a_pool(void **state) {
    (void)state;
    enum { OUTER = 6 };
    Nest nest = {.outer = {.n = OUTER, .phases = 3, .slow = -1, .pool = pool_of(OUTER)}};
    nest.inner = calloc(OUTER, sizeof *nest.inner);
    assert_non_null(nest.inner);
    for (int i = 0; i < OUTER; i++) {
        nest.inner[i] = (PoolCheck){.n = i + 1, .phases = 3, .slow = -1, .pool = pool_of(i + 1)};
    }
    for (int k = 0; k < 20; k++, nest.outer.run++) pool_run(nest.outer.pool, run_inner, &nest);
    for (int i = 0; i < OUTER; i++) {
        assert_int_equal(atomic_load(&nest.inner[i].wrong), 0);
        pool_free(nest.inner[i].pool);
    }
    assert_int_equal(atomic_load(&nest.outer.wrong), 0);
    pool_free(nest.outer.pool);
    free(nest.inner);
}

static void pool_is_created_and_freed(void **state) {
    (void)state;
    for (int i = 0; i < 300; i++) {
        Pool *p = pool_of(1 + i % 5);
        PoolCheck c = {.n = 1 + i % 5};
        if (i % 3) pool_run(p, count_calls, &c);
        pool_free(p);
    }
    int n = pool_default_threads();
    assert_true(n >= 1 && n <= sysconf(_SC_NPROCESSORS_CONF));
}

static void pool_splits_exactly(void **state) {
    (void)state;
    static const long items[] = {0,
                                 1,
                                 2,
                                 3,
                                 7,
                                 8,
                                 9,
                                 31,
                                 32,
                                 33,
                                 100,
                                 1000,
                                 4095,
                                 4096,
                                 4097,
                                 32000,
                                 1000003,
                                 INT_MAX,
                                 (long)1 << 40,
                                 LONG_MAX / 256};
    static const long grains[] = {1, 2, 3, 8, 32, 100, 4096};
    for (size_t a = 0; a < sizeof items / sizeof *items; a++) {
        for (size_t b = 0; b < sizeof grains / sizeof *grains; b++) {
            for (int threads = 1; threads <= 130;
                 threads = threads < 9 ? threads + 1 : threads * 2) {
                long n = items[a], grain = grains[b], at = 0, least = LONG_MAX, most = 0;
                for (int i = 0; i < threads; i++) {
                    long from = -1, to = -1;
                    pool_split(n, grain, i, threads, &from, &to);
                    if (from != at || to < from || (from % grain && from != n)) {
                        fail_msg("%ld by %ld, thread %d of %d: %ld..%ld after %ld", n, grain, i,
                                 threads, from, to, at);
                    }
                    long grains_here = (to - from + grain - 1) / grain;
                    if (grains_here < least) least = grains_here;
                    if (grains_here > most) most = grains_here;
                    at = to;
                }
                if (at != n || most - least > 1) {
                    fail_msg("%ld by %ld over %d: ends at %ld, %ld to %ld grains", n, grain,
                             threads, at, least, most);
                }
            }
        }
    }
}

#define POOL_SUITE                                                                          \
    cmocka_unit_test(pool_runs_each_once), cmocka_unit_test(pool_barriers_hold),            \
        cmocka_unit_test(pool_of_every_size), cmocka_unit_test(pool_barriers_hold_crowded), \
        cmocka_unit_test(pool_barriers_hold_beside_strangers),                              \
        cmocka_unit_test(pool_waits_for_the_late), cmocka_unit_test(pool_within_a_pool),    \
        cmocka_unit_test(pool_is_created_and_freed), cmocka_unit_test(pool_splits_exactly)

#endif
