// How fast this machine reads memory, measured: the limit that a decode step is held against.
#ifndef PLUMB_BASE_BANDWIDTH_H
#define PLUMB_BASE_BANDWIDTH_H

#include <stddef.h>

#include "base/pool.h"

// Reads data with all threads of the pool, each its own stretch, again and again for about
// `seconds`; returns the best pass in 10^9 bytes a second. data should be several times the size of
// the caches.
double bandwidth_read(Pool *p, const void *data, size_t bytes, double seconds);

#endif
