// Fibers: functions that run on stacks of their own and take turns on one thread.
//
// This file owns: the stacks (each with a page below it that must not be touched), the switch, and
// telling AddressSanitizer of it. It leaves to others: whose turn it is (grid.h).
//
// A fiber is resumed on the thread that resumed it first. Fibers do not nest.
#ifndef PLUMB_TESTS_FIBER_H
#define PLUMB_TESTS_FIBER_H

#include <stdbool.h>

typedef struct Fibers Fibers;

// Stacks for n fibers, used again by every fiber of the same number; NULL: out of memory.
Fibers *fibers_new(int n);
void fibers_free(Fibers *f);  // NULL is fine

// Makes fiber i ready to run fn(user). The one that had its stack has ended or was dropped.
void fiber_start(Fibers *f, int i, void (*fn)(void *user), void *user);
// Runs fiber i until it pauses (true) or fn has returned (false).
bool fiber_resume(Fibers *f, int i);
// On a fiber: goes on where it was resumed.
void fiber_pause(void);
// Forgets fiber i where it paused; what its frames own is lost.
void fiber_drop(Fibers *f, int i);

#endif
