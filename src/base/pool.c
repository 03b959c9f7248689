// Thread pool; see pool.h. A waiting thread spins for a few microseconds, since the stages of a
// decode step are that short; then it yields, so that a shared machine does not stand still; then
// it sleeps.
#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

enum { SPINS = 4000, YIELDS = 200 };

typedef struct {
    Pool *pool;
    int index;
    pthread_t thread;
} Worker;

struct Pool {
    int n;  // threads, the caller's included
    PoolFn fn;
    void *arg;
    bool alone;                    // more threads than processors: spinning only takes their turn
    _Alignas(64) atomic_uint run;  // goes up by one for each run; odd or even means nothing
    _Alignas(64) atomic_int unfinished;
    _Alignas(64) atomic_int arrived;
    atomic_uint barrier;  // goes up each time all threads have arrived
    _Alignas(64) atomic_int sleepers;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    Worker *workers;  // n - 1
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// One step of waiting; *spent counts the steps.
static void wait_step(const Pool *p, int *spent) {
    if (!p->alone && *spent < SPINS) {
        relax();
    } else {
        sched_yield();
    }
    if (*spent < INT32_MAX) ++*spent;
}

void pool_barrier(Pool *p) {
    if (p->n == 1) return;
    unsigned now = atomic_load_explicit(&p->barrier, memory_order_acquire);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) == p->n - 1) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->barrier, now + 1, memory_order_release);
        return;
    }
    int spent = 0;
    while (atomic_load_explicit(&p->barrier, memory_order_acquire) == now) wait_step(p, &spent);
}

// Waits for a run other than `seen`; false when the pool stops.
static bool wait_for_run(Pool *p, unsigned seen) {
    int most = p->alone ? YIELDS : SPINS + YIELDS;
    for (int spent = 0; spent < most;) {
        if (atomic_load_explicit(&p->run, memory_order_acquire) != seen) return !p->stop;
        wait_step(p, &spent);
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->run) == seen) pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
    return !p->stop;
}

static void *worker_main(void *arg) {
    Worker *w = arg;
    Pool *p = w->pool;
    for (unsigned seen = 0; wait_for_run(p, seen);) {
        seen = atomic_load_explicit(&p->run, memory_order_acquire);
        p->fn(p->arg, w->index, p->n);
        atomic_fetch_sub_explicit(&p->unfinished, 1, memory_order_acq_rel);
    }
    return NULL;
}

static void begin_run(Pool *p) {
    atomic_fetch_add(&p->run,
                     1);  // sequentially consistent, as is the sleepers' count: one sees the other
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

void pool_run(Pool *p, PoolFn fn, void *arg) {
    if (p->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn, p->arg = arg;
    atomic_store_explicit(&p->unfinished, p->n - 1, memory_order_relaxed);
    begin_run(p);
    fn(arg, 0, p->n);
    int spent = 0;
    while (atomic_load_explicit(&p->unfinished, memory_order_acquire) > 0) wait_step(p, &spent);
}

static int processors_allowed(void) {
#ifndef __APPLE__
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

Status pool_create(int n_threads, Pool **out, Error *err) {
    CHECK(n_threads >= 1);
    *out = NULL;
    Pool *p = aligned_alloc(64, sizeof(Pool));
    Worker *workers = calloc((size_t)n_threads, sizeof *workers);
    if (!p || !workers) {
        free(p), free(workers);
        return error_memory(err, "the thread pool", (size_t)n_threads * sizeof *workers);
    }
    memset(p, 0, sizeof *p);
    p->workers = workers;
    p->n = 1;
    p->alone = n_threads > processors_allowed();
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    // Signals are the main thread's business: Ctrl-C must not land in a kernel.
    sigset_t all, old;
    sigfillset(&all);
    sigdelset(&all, SIGBUS), sigdelset(&all, SIGSEGV), sigdelset(&all, SIGFPE);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    int failed = 0;
    for (int i = 1; i < n_threads && !failed; i++) {
        workers[i - 1] = (Worker){.pool = p, .index = i};
        failed = pthread_create(&workers[i - 1].thread, NULL, worker_main, &workers[i - 1]);
        if (!failed) p->n++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed) {
        int had = p->n;
        pool_free(p);
        return error_set(err, ERR_UNAVAILABLE,
                         "cannot start thread %d of %d: %s; try fewer with -t", had + 1, n_threads,
                         strerror(failed));
    }
    *out = p;
    return OK;
}

void pool_free(Pool *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    begin_run(p);
    for (int i = 0; i < p->n - 1; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

int pool_threads(const Pool *p) {
    return p->n;
}

void pool_split(long n, long grain, int i, int n_threads, long *from, long *to) {
    long units = (n + grain - 1) / grain;
    long a = units * i / n_threads * grain, b = units * (i + 1) / n_threads * grain;
    *from = a < n ? a : n;
    *to = b < n ? b : n;
}

#ifdef __APPLE__
// The fast ones, where there are two kinds.
static int physical_cores(void) {
    static const char *const names[] = {"hw.perflevel0.physicalcpu", "hw.physicalcpu"};
    for (int i = 0; i < 2; i++) {
        int n = 0;
        size_t size = sizeof n;
        if (sysctlbyname(names[i], &n, &size, NULL, 0) == 0 && n > 0) return n;
    }
    return processors_allowed();
}
#else
// Cores that share no package and core id with one counted before, among the allowed processors.
static int physical_cores(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return processors_allowed();
    long seen[CPU_SETSIZE];
    int n = 0;
    for (int c = 0; c < CPU_SETSIZE; c++) {
        if (!CPU_ISSET(c, &set)) continue;
        long id[2] = {0, c};
        static const char *const what[2] = {"physical_package_id", "core_id"};
        for (int k = 0; k < 2; k++) {
            char path[96];
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", c, what[k]);
            FILE *f = fopen(path, "re");
            if (!f) continue;
            if (fscanf(f, "%ld", &id[k]) != 1) id[k] = k ? c : 0;
            fclose(f);
        }
        long key = id[0] * 65536 + id[1];
        int i = 0;
        while (i < n && seen[i] != key) i++;
        if (i == n) seen[n++] = key;
    }
    return n ? n : 1;
}
#endif

int pool_default_threads(void) {
    int n = physical_cores();
    long long quota = 0, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0) {
            long long most = (quota + period - 1) / period;
            if (most < n) n = (int)most;
        }
        fclose(f);
    }
    return n > 0 ? n : 1;
}
