// UTF-8 at the byte level; see utf8.h.
#include "base/utf8.h"

#include <string.h>

size_t utf8_char_bytes(unsigned char lead) {
    if (lead < 0x80) return 1;
    if (lead < 0xc2) return 0;
    if (lead < 0xe0) return 2;
    if (lead < 0xf0) return 3;
    if (lead < 0xf5) return 4;
    return 0;
}

// The range that the second byte must lie in: this is where overlongs, surrogates and code points
// above U+10FFFF are refused.
static bool second_byte_ok(unsigned char lead, unsigned char b) {
    switch (lead) {
        case 0xe0: return b >= 0xa0 && b <= 0xbf;
        case 0xed: return b >= 0x80 && b <= 0x9f;
        case 0xf0: return b >= 0x90 && b <= 0xbf;
        case 0xf4: return b >= 0x80 && b <= 0x8f;
        default: return b >= 0x80 && b <= 0xbf;
    }
}

// How many of the first bytes of s fit a character: *need gets the character's whole length (0: s
// starts no character). The return is the length of the fitting part, at most *need.
static size_t char_fit(const unsigned char *s, size_t len, size_t *need) {
    *need = utf8_char_bytes(s[0]);
    if (*need == 0) return 0;
    size_t n = 1;
    while (n < *need && n < len) {
        if (n == 1 ? !second_byte_ok(s[0], s[1]) : (s[n] & 0xc0) != 0x80) break;
        n++;
    }
    return n;
}

size_t utf8_valid_prefix(const char *s, size_t len) {
    size_t at = 0, need;
    while (at < len) {
        size_t n = char_fit((const unsigned char *)s + at, len - at, &need);
        if (need == 0 || n < need) break;
        at += need;
    }
    return at;
}

size_t utf8_incomplete_tail(const char *s, size_t len) {
    size_t most = len < 3 ? len : 3;
    for (size_t back = 1; back <= most; back++) {
        unsigned char lead = (unsigned char)s[len - back];
        if ((lead & 0xc0) == 0x80) continue;
        size_t need, n = char_fit((const unsigned char *)s + len - back, back, &need);
        return need > back && n == back ? back : 0;
    }
    return 0;
}

size_t utf8_repair(const char *s, size_t len, char *out) {
    size_t at = 0, o = 0, need;
    while (at < len) {
        size_t n = char_fit((const unsigned char *)s + at, len - at, &need);
        if (need != 0 && n == need) {
            memcpy(out + o, s + at, n);
            o += n, at += n;
        } else {
            memcpy(out + o, "\xef\xbf\xbd", 3);
            o += 3, at += n ? n : 1;
        }
    }
    return o;
}

size_t utf8_put(uint32_t c, char out[4]) {
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c >= 0xd800 && c < 0xe000) return 0;
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63));
        return out[2] = (char)(0x80 | (c & 63)), 3;
    }
    if (c > 0x10ffff) return 0;
    out[0] = (char)(0xf0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63)), out[3] = (char)(0x80 | (c & 63));
    return 4;
}
