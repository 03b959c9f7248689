// What the thread pool costs: a barrier, an empty run, and a stage of work between two barriers.
//
//   build/bench/pool              1 to as many threads as processors, then twice as many
//   build/bench/pool 1,2,8,32     these
//   build/bench/pool 2 1          2 threads beside 1 busy neighbour: a machine that is shared
//
// A figure is the median over batches of the time of one; "worst" is the slowest batch. The ideal
// stage is its work alone, with as many threads at once as there are processors.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/pool.h"

enum { BATCHES = 31, MAX_NEIGHBOURS = 256 };

static const double BATCH_SECONDS = 0.005, WORK_US = 10;

typedef struct {
    Pool *pool;
    long times;    // barriers, or stages
    long work;     // steps of each stage
    double start;  // of thread 0
    double seconds;
} Batch;

static double steps_per_us;

// Takes a time that grows with n, whoever else runs meanwhile.
static void work_steps(long n) {
    unsigned long x = 1;
    for (long i = 0; i < n; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        __asm__ volatile("" : "+r"(x));
    }
}

static void measure_work(void) {
    for (int i = 0; i < 20; i++) {
        const double start = clock_seconds();
        work_steps(100000);
        const double rate = 100000 / ((clock_seconds() - start) * 1e6);
        if (rate > steps_per_us) steps_per_us = rate;
    }
}

static void stages(void *arg, int i, int n) {
    Batch *b = arg;
    (void)n;
    pool_barrier(b->pool);
    if (i == 0) b->start = clock_seconds();
    for (long k = 0; k < b->times; k++) {
        if (b->work) work_steps(b->work);
        pool_barrier(b->pool);
    }
    if (i == 0) b->seconds = clock_seconds() - b->start;
}

static void nothing(void *arg, int i, int n) {
    (void)arg, (void)i, (void)n;
}

static void one_batch(Batch *b, bool runs) {
    if (!runs) {
        pool_run(b->pool, stages, b);
        return;
    }
    const double start = clock_seconds();
    for (long k = 0; k < b->times; k++) pool_run(b->pool, nothing, NULL);
    b->seconds = clock_seconds() - start;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Nanoseconds of one barrier, stage or run.
static double measure(Pool *p, bool runs, double work_us, double *worst) {
    Batch b = {.pool = p, .times = 1, .work = (long)(work_us * steps_per_us)};
    double ns[BATCHES];
    for (one_batch(&b, runs); b.seconds < BATCH_SECONDS; one_batch(&b, runs)) b.times *= 2;
    for (int i = 0; i < BATCHES; i++) {
        one_batch(&b, runs);
        ns[i] = 1e9 * b.seconds / (double)b.times;
    }
    qsort(ns, BATCHES, sizeof *ns, by_value);
    *worst = ns[BATCHES - 1];
    return ns[BATCHES / 2];
}

static int bench(int threads, int processors) {
    Pool *p = NULL;
    Error err;
    if (pool_create(threads, &p, &err)) {
        fprintf(stderr, "pool: %s\n", err.text);
        return 1;
    }
    double worst[3];
    const double barrier = measure(p, false, 0, &worst[0]);
    const double run = measure(p, true, 0, &worst[1]);
    const double stage = measure(p, false, WORK_US, &worst[2]) / 1000;
    const double ideal = WORK_US * (threads > processors ? (double)threads / processors : 1);
    printf("%7d %11.0f %11.0f %11.0f %11.0f %11.2f %11.2f %9.2f\n", threads, barrier, worst[0], run,
           worst[1], stage, worst[2] / 1000, stage / ideal);
    fflush(stdout);
    pool_free(p);
    return 0;
}

static atomic_bool stop;

static void *be_busy(void *arg) {
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) work_steps(1000);
    return arg;
}

int main(int argc, char **argv) {
    const int processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
    const int neighbours = argc > 2 ? atoi(argv[2]) : 0;
    pthread_t neighbour[MAX_NEIGHBOURS];
    if (argc > 3 || neighbours < 0 || neighbours > MAX_NEIGHBOURS ||
        (argc > 1 && strspn(argv[1], "0123456789,") != strlen(argv[1]))) {
        fprintf(stderr, "usage: pool [THREADS,... [BUSY NEIGHBOURS]]\n");
        return 2;
    }
    measure_work();
    printf(
        "%d processors, %d busy neighbours; nanoseconds; a stage is %.0f us of work in each thread "
        "and a barrier, in us\n",
        processors, neighbours, WORK_US);
    printf("%7s %11s %11s %11s %11s %11s %11s %9s\n", "threads", "barrier", "worst", "run", "worst",
           "stage", "worst", "/ ideal");
    int started = 0, failed = 0;
    while (started < neighbours && !pthread_create(&neighbour[started], NULL, be_busy, NULL)) {
        started++;
    }
    if (argc > 1) {
        for (char *word = strtok(argv[1], ","); word && !failed; word = strtok(NULL, ",")) {
            if (atoi(word) > 0) failed = bench(atoi(word), processors);
        }
    } else {
        for (int n = 1; n <= processors && !failed; n++) failed = bench(n, processors);
        if (!failed) failed = bench(2 * processors, processors);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < started; i++) pthread_join(neighbour[i], NULL);
    return failed;
}
