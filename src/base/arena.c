// Arena and large allocations; see arena.h.
#define _GNU_SOURCE
#include "base/arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CHUNK_BYTES = 64 * 1024, ALIGN = 16 };

struct ArenaChunk {
    ArenaChunk *next;
    size_t used, size;
    _Alignas(ALIGN) unsigned char data[];
};

void *arena_alloc(Arena *a, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    ArenaChunk *c = a->head;
    if (!c || c->size - c->used < bytes) {
        size_t room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        c = calloc(1, sizeof *c + room);
        if (!c) return NULL;
        c->size = room;
        if (a->head && bytes > CHUNK_BYTES / 2) {  // keep filling the chunk that still has room
            c->next = a->head->next, a->head->next = c;
        } else {
            c->next = a->head, a->head = c;
        }
    }
    void *p = c->data + c->used;
    c->used += bytes;
    return p;
}

char *arena_text(Arena *a, const char *s, size_t len) {
    if (len == SIZE_MAX) return NULL;
    char *p = arena_alloc(a, len + 1, 1);
    if (p && len) memcpy(p, s, len);
    return p;
}

void arena_free(Arena *a) {
    for (ArenaChunk *c = a->head, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    a->head = NULL;
}

// Few large pages are faulted in faster than many small ones, and read faster: the processor
// fetches ahead within a page. A system that has none says so, and nothing is lost.
enum { HUGE_PAGE = 2 << 20 };

static void *map_pages(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

// Aligned to large pages: what stands before and behind is given back.
static void *map_large_pages(size_t bytes) {
    char *p = map_pages(bytes + HUGE_PAGE);
    if (!p) return NULL;
    const size_t before = -(uintptr_t)p % HUGE_PAGE;
    const size_t page = 4096, end = (bytes + page - 1) / page * page;
    if (before) munmap(p, before);
    if (end < bytes + HUGE_PAGE - before)
        munmap(p + before + end, bytes + HUGE_PAGE - before - end);
    p += before;
#ifdef MADV_HUGEPAGE
    madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
}

void *large_alloc(size_t bytes) {
#ifdef MADV_HUGEPAGE
    if (bytes >= HUGE_PAGE && bytes < SIZE_MAX - HUGE_PAGE) return map_large_pages(bytes);
#endif
    return map_pages(bytes ? bytes : 1);
}

void large_free(void *p, size_t bytes) {
    if (p) munmap(p, bytes ? bytes : 1);
}

// What a control group holds of files is given back when memory is asked for.
static unsigned long long group_file_cache(void) {
    FILE *f = fopen("/sys/fs/cgroup/memory.stat", "re");
    unsigned long long sum = 0, v;
    char line[128];
    if (!f) return 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "inactive_file %llu", &v) == 1) sum += v;
        if (sscanf(line, "active_file %llu", &v) == 1) sum += v;
    }
    fclose(f);
    return sum;
}

static unsigned long long read_number(const char *path) {
    FILE *f = fopen(path, "re");
    unsigned long long v = 0;
    if (!f) return 0;
    if (fscanf(f, "%llu", &v) != 1) v = 0;
    fclose(f);
    return v;
}

unsigned long long memory_available(void) {
    FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];
    if (!f) return 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    }
    fclose(f);
    unsigned long long avail = kib * 1024;
    unsigned long long most = read_number("/sys/fs/cgroup/memory.max");
    unsigned long long used = read_number("/sys/fs/cgroup/memory.current");
    unsigned long long cache = group_file_cache();
    used = used > cache ? used - cache : 0;
    if (most && most > used && most - used < avail) avail = most - used;
    return avail;
}
