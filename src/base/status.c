// Status and error messages; see status.h for what this room owns.
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

Status error_setv(Error *err, Status st, const char *fmt, va_list ap) {
    if (err) {
        err->status = st;
        vsnprintf(err->text, sizeof err->text, fmt, ap);
    }
    return st;
}

Status error_set(Error *err, Status st, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    error_setv(err, st, fmt, ap);
    va_end(ap);
    return st;
}

Status error_prefix(Error *err, const char *fmt, ...) {
    if (!err) return ERR_FAILED;
    char old[sizeof err->text];
    memcpy(old, err->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    size_t most = sizeof err->text - 1;
    if (n >= 0 && (size_t)n + 2 <= most) {  // else the prefix alone fills it
        char *end = err->text + n + 2;
        size_t len = strlen(old), room = most - (size_t)n - 2;
        if (len > room) len = room;
        memcpy(end - 2, ": ", 2);
        memcpy(end, old, len);
        end[len] = '\0';
    }
    return err->status;
}

Status error_memory(Error *err, const char *what, unsigned long long bytes) {
    return error_set(err, ERR_UNAVAILABLE, "out of memory: %s needs %llu bytes", what, bytes);
}

void notice_say(Notice notice, const char *fmt, ...) {
    if (!notice.fn) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    notice.fn(notice.user, line);
}

const char *printable(const char *s, unsigned long long len, char *out, unsigned long long size) {
    static const char hex[] = "0123456789abcdef";
    size_t at = 0, o = 0;
    if (size == 0) return out;
    while (at < len) {
        size_t n = utf8_valid_prefix(s + at, len - at < 4 ? (size_t)(len - at) : 4);
        size_t one = n ? utf8_char_bytes((unsigned char)s[at]) : 0;
        // U+0080..U+009F are controls too: a terminal may take U+009B for ESC [.
        bool control =
            (unsigned char)s[at] < 0x20 || s[at] == 0x7f ||
            (one == 2 && (unsigned char)s[at] == 0xc2 && (unsigned char)s[at + 1] < 0xa0);
        if (one && one <= n && !control) {
            if (o + one >= size) break;
            memcpy(out + o, s + at, one);
            o += one, at += one;
        } else {
            if (o + 4 >= size) break;
            out[o++] = '\\', out[o++] = 'x';
            out[o++] = hex[(unsigned char)s[at] >> 4], out[o++] = hex[s[at] & 15];
            at++;
        }
    }
    out[o] = 0;
    return out;
}

void check_failed(const char *file, int line, const char *what) {
    fprintf(stderr, "plumb: internal error at %s:%d: %s does not hold; please report this\n", file,
            line, what);
    abort();
}
