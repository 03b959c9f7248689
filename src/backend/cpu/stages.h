// Operations wait in a queue and run together: one start of the threads for a whole step, and one
// barrier between two stages.
//
// This room owns: the queue, and which stages a single thread does alone. It leaves to others: what
// a stage computes, and joining a stage with the one before it.
#ifndef PLUMB_BACKEND_CPU_STAGES_H
#define PLUMB_BACKEND_CPU_STAGES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/pool.h"

enum { STAGES = 384, STAGE_JOB = 512 };

typedef struct {
    PoolFn fn;  // fn(job, i, n) on each of n threads, as pool_run calls it
    bool alone;
    _Alignas(16) unsigned char job[STAGE_JOB];
} Stage;

typedef struct {
    Pool *pool;
    int n;
    Stage stages[STAGES];
} Stages;

// Work below this runs on one thread: a barrier would cost more. In multiplications, roughly.
enum { SMALL_WORK = 4096 };

// Appends a stage and returns its job, for the caller to fill. Runs what waits when the queue is
// full.
void *stage_push(Stages *q, PoolFn fn, size_t job_bytes, size_t work);
// The job of the last stage that waits, if it is one of fn; else NULL.
void *stage_last(Stages *q, PoolFn fn);
// Takes the last stage back: it became part of another.
void stage_drop(Stages *q);
// Runs all that waits.
void stages_run(Stages *q);

#endif
