// Arena: many small allocations with one lifetime (a model's tables, a parsed file's index).
#ifndef PLUMB_BASE_ARENA_H
#define PLUMB_BASE_ARENA_H

#include <stddef.h>

typedef struct ArenaChunk ArenaChunk;
typedef struct {
    ArenaChunk *head;
} Arena;  // zero-initialised it is empty and valid

// n * size bytes, zeroed, aligned for any type; NULL when out of memory or n * size overflows.
void *arena_alloc(Arena *a, size_t n, size_t size);
// A NUL-terminated copy of len bytes.
char *arena_text(Arena *a, const char *s, size_t len);
void arena_free(Arena *a);

// Zeroed pages straight from the system, 64-byte aligned at least, touched lazily (KV caches, big
// activations). NULL when there are none. large_free takes the size that was asked for.
void *large_alloc(size_t bytes);
void large_free(void *p, size_t bytes);

// Bytes of memory that the system says can still be had (MemAvailable, and the control group's
// limit where there is one); 0 if unknown.
unsigned long long memory_available(void);

#endif
