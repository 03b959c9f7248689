// Checked arithmetic for every size that comes from a file or a user, and a growing byte buffer.
#ifndef PLUMB_BASE_CHECKED_H
#define PLUMB_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

// Rounds a up to a multiple of `align`, a power of two.
static inline bool checked_align(uint64_t a, uint64_t align, uint64_t *out) {
    if (!checked_add(a, align - 1, out)) return false;
    *out &= ~(align - 1);
    return true;
}

// A growing byte buffer. Zero-initialised it is empty and valid; text_free() leaves it so again.
// After any append data is NUL-terminated (the NUL is not counted in len).
typedef struct {
    char *data;
    size_t len, cap;
} Text;

bool text_reserve(Text *t, size_t more);  // false: out of memory, t unchanged
bool text_append(Text *t, const void *bytes, size_t len);
bool text_append_str(Text *t, const char *s);
void text_free(Text *t);

// A growing list of token ids, with the same rules.
typedef struct {
    int32_t *data;
    size_t len, cap;
} TokenList;

bool tokens_append(TokenList *t, int32_t id);
void tokens_free(TokenList *t);

#endif
