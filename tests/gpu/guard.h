// Bytes that nobody may touch: AddressSanitizer is told of them; without it they hold a pattern,
// and whoever set them looks for it later, so that at least a write is seen.
#ifndef PLUMB_TESTS_GUARD_H
#define PLUMB_TESTS_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define GUARD_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GUARD_ASAN 1
#endif
#endif
#ifdef GUARD_ASAN
#include <sanitizer/asan_interface.h>
#else
#define GUARD_ASAN 0
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

// As floats NaN, as halves NaN at every second place; no kernel computes it.
static inline uint8_t guard_byte(size_t i) {
    static const uint8_t pattern[4] = {0xc3, 0xa5, 0xf5, 0xff};
    return pattern[i & 3];
}

static inline void guard_set(uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) p[i] = guard_byte(i);
    ASAN_POISON_MEMORY_REGION(p, n);
}

static inline void guard_lift(uint8_t *p, size_t n) {
    ASAN_UNPOISON_MEMORY_REGION(p, n);
}

// Is the pattern whole? Under AddressSanitizer, which stops whoever touches it: true.
static inline bool guard_intact(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n && !GUARD_ASAN; i++) {
        if (p[i] != guard_byte(i)) return false;
    }
    return true;
}

#endif
