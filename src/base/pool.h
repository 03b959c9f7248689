// Thread pool: the same function on every thread, barriers between its stages.
//
// This room owns: worker threads and how they wait (spin a little, then sleep).
// It leaves to others: how work is split. A split must never change a result: reductions stay whole
// inside one thread, so that the same input gives the same bits with any number of threads.
#ifndef PLUMB_BASE_POOL_H
#define PLUMB_BASE_POOL_H

#include "base/status.h"

typedef struct Pool Pool;

// n_threads >= 1 counts the caller. ERR_UNAVAILABLE when a thread cannot be started.
Status pool_create(int n_threads, Pool **out, Error *err);
void pool_free(Pool *p);
int pool_threads(const Pool *p);

// Runs fn(arg, i, n) for i = 0..n-1, one per thread (i = 0 on the caller's), and returns when all
// are done. Not reentrant; one caller at a time.
typedef void (*PoolFn)(void *arg, int i, int n);
void pool_run(Pool *p, PoolFn fn, void *arg);

// Inside fn only: waits until every thread of this run is here.
void pool_barrier(Pool *p);

// The part [*from, *to) of n items that thread i of n_threads takes; parts differ by one `grain`.
void pool_split(long n, long grain, int i, int n_threads, long *from, long *to);

// Physical cores this process may run on (its affinity and the control group's quota respected).
int pool_default_threads(void);

#endif
