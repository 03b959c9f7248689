// A grid of work groups, run on the host: every item a fiber, every barrier a turn for all others.
//
// This file owns: what the words of dialect_host.h stand for (which item runs, barriers, local
// memory), the order of items and groups, and finding out what a kernel does against the rules:
//
//   - an item ends, or waits at another barrier, while the others of its group wait at one
//   - an item that does not wait for the kernel before (GRID_WAIT) ahead of its first barrier and of
//     its end, where kernels overlap
//   - local memory that the items claim differently, that is more than every device has, or that is
//     written past an array's end
//
// Local memory is filled with a pattern before each group, so what one group left is not there for
// the next. A missing barrier shows when the same grid runs in another order with another pattern:
// then the result is another. It leaves to others: device memory and launches (emulator.h).
#ifndef PLUMB_TESTS_GRID_H
#define PLUMB_TESTS_GRID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { GRID_MAX_LANES = 256 };         // items of a group
enum { GRID_LOCAL_BYTES = 32 << 10 };  // of local memory that a kernel may have on every device

typedef struct Grid Grid;  // fibers and local memory, used again by each run

// In which order the items of a group go from one barrier to the next, and the groups of a grid.
typedef enum { ORDER_FORWARD, ORDER_BACKWARD, ORDER_SHUFFLED } GridOrder;

typedef struct {
    const char *name;          // of the kernel, for messages
    void (*item)(void *user);  // what each item runs; host_item says which it is
    void *user;
    int lanes;
    uint32_t groups[3];
    GridOrder order;
    uint64_t seed;  // of ORDER_SHUFFLED
    // Not NULL: kernels overlap. Called with true when a group starts, with false when all of its
    // items have waited: what the kernel before may still write is not to be touched in between.
    void (*hold)(void *user, bool held);
    uint8_t local_filler;  // what each byte of local memory is before a group starts
} GridRun;

// n_threads >= 1: groups are spread over so many. ERR_UNAVAILABLE without memory.
Status grid_open(int n_threads, Grid **out, Error *err);
void grid_close(Grid *g);  // NULL is fine

// ERR_FAILED when the kernel breaks a rule: which, in which group, which items, at which barriers.
// What the items had written by then stays written.
Status grid_run(Grid *g, const GridRun *run, Error *err);

#endif
