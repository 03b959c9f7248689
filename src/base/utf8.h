// UTF-8: validity, decoding, and holding back the incomplete end of a stream.
//
// This room owns: the byte level of UTF-8 (RFC 3629: no surrogates, no overlongs, at most
// U+10FFFF). It leaves to others: character classes (PCRE2 knows those) and tokens.
#ifndef PLUMB_BASE_UTF8_H
#define PLUMB_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Bytes of the character that starts with `lead`: 1 to 4, or 0 where no character starts so.
size_t utf8_char_bytes(unsigned char lead);

// Length of the longest prefix of s that is whole, valid UTF-8.
size_t utf8_valid_prefix(const char *s, size_t len);

static inline bool utf8_valid(const char *s, size_t len) {
    return utf8_valid_prefix(s, len) == len;
}

// How many bytes at the end of s could still become a valid character when more bytes follow (0-3).
// A stream prints len - utf8_incomplete_tail(s, len) bytes and keeps the rest.
size_t utf8_incomplete_tail(const char *s, size_t len);

// Copies s to out with each invalid byte sequence replaced by U+FFFD. out holds 3 * len bytes.
// Returns the bytes written.
size_t utf8_repair(const char *s, size_t len, char *out);

// Encodes code point c into out (1-4 bytes); returns the bytes written, 0 if c is no scalar value.
size_t utf8_put(uint32_t c, char out[4]);

#endif
