// Thread pool; see pool.h.
//
// A barrier is a tree of counters with at most FAN threads to each, every counter in a cache line
// of its own, so that many threads do not queue for one. The last to arrive at a counter goes on to
// its parent, the last of all opens a gate, a word that the others watch. Nobody waits at a
// counter: a thread that the system has set aside delays the others until it arrives, not until it
// has looked whether they did.
//
//     gate: `start` of a run    opened by the caller
//           `stage`, a barrier  opened by the last thread of all
//           `done`              likewise; the caller alone waits for it
//       |
//     counter  counter          of counters, FAN to each, up to a single one
//     0 1 2 3  4 5 6 7          threads
//
// Who waits spins, since the stages of a decode step are a few microseconds long, and then sleeps.
// It never yields: on a shared machine that gives the processor to a stranger for all of a turn
// (barriers of 1 ms), where a sleeper runs again soon after it is woken (20 to 100 us). That is
// dear where the threads have a processor each, a hundred times in a step: so the spinning is not
// short, and grows to what waits have taken. Where there are more threads than processors, who is
// waited for may be to run on this very processor, and spinning would take its turn.
#define _GNU_SOURCE
#include "base/pool.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif
#ifndef POOL_FUTEX
#ifdef __linux__
#define POOL_FUTEX 1
#else
#define POOL_FUTEX 0
#endif
#endif
#if POOL_FUTEX
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

// Two lines of 64 bytes: processors fetch them in pairs, and Apple's are of 128.
#define LINE 128

enum { FAN = 4, PAUSES_PER_LOOK = 32 };

// Seconds of spinning. MOST is bounded by what one may waste; a thread that wakes up is late by 5
// to 50 us, which a wait of milliseconds does not feel.
static const double SPIN_CROWDED = 1e-6, SPIN_LEAST = 250e-6, SPIN_MOST = 1e-3;

// The openings counted in steps of 2. Bit 0: someone sleeps, or is about to.
typedef struct {
    _Alignas(LINE) atomic_uint word;
} Gate;

typedef struct Counter Counter;
struct Counter {
    _Alignas(LINE) atomic_int arrived;
    int expected;
    Counter *parent;  // NULL: the root
};

typedef struct {
    Pool *pool;
    int index;
    pthread_t thread;
} Worker;

struct Pool {
    int n;                 // threads, the caller's included
    bool crowded;          // more threads than processors: spinning would take their turn
    Worker *workers;       // n - 1
    Counter *counters;     // thread i arrives at counters[i / FAN]
    pthread_mutex_t lock;  // where there are no futexes
    pthread_cond_t wake;
    Gate start;
    PoolFn fn;  // in the line of `start`, which every worker fetches; NULL: the end
    void *arg;
    Gate stage, done;
};

// What a thread knows of itself. The caller of one pool may be a thread of another one's run.
static _Thread_local struct {
    int index;    // in the innermost run
    double spin;  // for how long to spin; 0: not yet known
} me;

// --- gates ---------------------------------------------------------------------------------------

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline unsigned gate_count(Gate *g) {
    return atomic_load_explicit(&g->word, memory_order_acquire) & ~1u;
}

// `seen` is the count so far, known to the opener: to read it would fetch the line twice.
static void gate_open(Pool *p, Gate *g, unsigned seen) {
    if (!(atomic_exchange_explicit(&g->word, seen + 2, memory_order_acq_rel) & 1)) return;
#if POOL_FUTEX
    (void)p;
    syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
#endif
}

// Until the count is another than `seen`. Who opens sees bit 0, or the wait sees another count.
static void gate_sleep(Pool *p, Gate *g, unsigned seen) {
    for (unsigned word = seen; (word & ~1u) == seen;) {
        if (!(word & 1) && !atomic_compare_exchange_strong(&g->word, &word, seen | 1)) continue;
#if POOL_FUTEX
        (void)p;
        syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, seen | 1, NULL, NULL, 0);
#else
        pthread_mutex_lock(&p->lock);
        while (gate_count(g) == seen) pthread_cond_wait(&p->wake, &p->lock);
        pthread_mutex_unlock(&p->lock);
#endif
        word = atomic_load_explicit(&g->word, memory_order_acquire);
    }
}

// How long to spin is a time and not a number of pauses: one takes 10 ns or 40, by processor.
static bool gate_spin(Gate *g, unsigned seen, double seconds) {
    double start = 0, now = 0;
    for (unsigned pauses = 1;; pauses++) {
        if (gate_count(g) != seen) {
            const double enough = 2 * (now - start);
            if (enough > me.spin) me.spin = enough < SPIN_MOST ? enough : SPIN_MOST;
            return true;
        }
        relax();
        if (pauses % PAUSES_PER_LOOK) continue;
        now = clock_seconds();
        if (start == 0) start = now;
        if (now - start >= seconds) break;
    }
    me.spin = me.spin > 2 * SPIN_LEAST ? me.spin / 2 : SPIN_LEAST;
    return false;
}

// Returns when the count is another than `seen`.
static void gate_wait(Pool *p, Gate *g, unsigned seen) {
    if (me.spin == 0) me.spin = SPIN_LEAST;
    const double spin = p->crowded ? SPIN_CROWDED : me.spin;
    if (!gate_spin(g, seen, spin)) gate_sleep(p, g, seen);
}

// --- arriving ------------------------------------------------------------------------------------

// True for the last of all threads. A counter starts anew before its parent hears of it, and so
// before anyone can come to it again.
static bool arrive(Pool *p) {
    for (Counter *c = &p->counters[me.index / FAN]; c; c = c->parent) {
        const int before = atomic_fetch_add_explicit(&c->arrived, 1, memory_order_acq_rel);
        if (before + 1 < c->expected) return false;
        atomic_store_explicit(&c->arrived, 0, memory_order_relaxed);
    }
    return true;
}

void pool_barrier(Pool *p) {
    if (p->n == 1) return;
    const unsigned seen = gate_count(&p->stage);
    if (arrive(p))
        gate_open(p, &p->stage, seen);
    else
        gate_wait(p, &p->stage, seen);
}

// Counters for n threads, the leaves first; NULL without memory.
static Counter *make_counters(int n) {
    int count = 0;
    for (int width = n; width > 1 || count == 0; count += width) width = (width + FAN - 1) / FAN;
    Counter *all = aligned_alloc(LINE, (size_t)count * sizeof *all);
    if (!all) return NULL;
    memset(all, 0, (size_t)count * sizeof *all);
    Counter *level = all;
    for (int below = n; level < all + count;) {
        const int width = (below + FAN - 1) / FAN;
        for (int i = 0; i < width; i++) {
            level[i].expected = below - i * FAN < FAN ? below - i * FAN : FAN;
            level[i].parent = width > 1 ? level + width + i / FAN : NULL;
        }
        level += width;
        below = width;
    }
    return all;
}

// --- runs ----------------------------------------------------------------------------------------

// `start` and `done` count the same runs.
static void *worker_main(void *arg) {
    Worker *w = arg;
    Pool *p = w->pool;
    me.index = w->index;
    for (unsigned seen = 0;; seen += 2) {
        gate_wait(p, &p->start, seen);
        if (!p->fn) return NULL;
        p->fn(p->arg, w->index, p->n);
        if (arrive(p)) gate_open(p, &p->done, seen);
    }
}

void pool_run(Pool *p, PoolFn fn, void *arg) {
    if (p->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    const int outer = me.index;
    const unsigned seen = gate_count(&p->start);
    me.index = 0;
    p->fn = fn, p->arg = arg;
    gate_open(p, &p->start, seen);
    fn(arg, 0, p->n);
    if (arrive(p))
        gate_open(p, &p->done, seen);
    else
        gate_wait(p, &p->done, seen);
    me.index = outer;
}

// --- processors ----------------------------------------------------------------------------------

static int processors_allowed(void) {
#ifndef __APPLE__
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

// No more than the control group's share of the processors' time.
static int within_quota(int n) {
    long long quota = 0, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!f) return n;
    if (fscanf(f, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0) {
        long long most = (quota + period - 1) / period;
        if (most < n) n = (int)most;
    }
    fclose(f);
    return n;
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

// --- pools ---------------------------------------------------------------------------------------

Status pool_create(int n_threads, Pool **out, Error *err) {
    CHECK(n_threads >= 1);
    *out = NULL;
    Pool *p = aligned_alloc(LINE, sizeof *p);
    Worker *workers = calloc((size_t)n_threads, sizeof *workers);
    Counter *counters = make_counters(n_threads);
    if (!p || !workers || !counters) {
        free(p), free(workers), free(counters);
        return error_memory(err, "the thread pool", (size_t)n_threads * sizeof *workers);
    }
    memset(p, 0, sizeof *p);
    p->workers = workers;
    p->counters = counters;
    p->n = 1;
    p->crowded = n_threads > within_quota(processors_allowed());
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
    p->fn = NULL;
    gate_open(p, &p->start, gate_count(&p->start));
    for (int i = 0; i < p->n - 1; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p->counters);
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

int pool_default_threads(void) {
    const int n = within_quota(physical_cores());
    return n > 0 ? n : 1;
}
