// Streaming text; see stream.h.
#include "engine/stream.h"

#include <string.h>

#include "base/utf8.h"

void stream_reset(Stream *s, const char *const *stop, size_t n_stop, bool trim_space) {
    s->stop = stop, s->n_stop = n_stop;
    s->trim_space = trim_space;
    s->pending.len = s->text.len = 0;
    s->stopped = false;
}

void stream_free(Stream *s) {
    text_free(&s->pending);
    text_free(&s->text);
}

// Moves the first n pending bytes to the text, invalid ones as U+FFFD.
static bool show(Stream *s, size_t n) {
    if (n == 0) return true;
    if (!text_reserve(&s->text, 3 * n)) return false;
    s->text.len += utf8_repair(s->pending.data, n, s->text.data + s->text.len);
    s->text.data[s->text.len] = 0;
    memmove(s->pending.data, s->pending.data + n, s->pending.len - n);
    s->pending.len -= n;
    return true;
}

// Where the stop text begins that is whole first once pending bytes from `fresh` on have come (of
// those that end together, the longest); the pending length where none is. By its end, so that it
// does not matter how the text was cut into tokens.
static size_t find_stop(const Stream *s, size_t fresh) {
    size_t found = s->pending.len;
    for (size_t end = fresh + 1; end <= s->pending.len && found == s->pending.len; end++) {
        for (size_t i = 0; i < s->n_stop; i++) {
            size_t len = strlen(s->stop[i]);
            if (len && len <= end && end - len < found &&
                memcmp(s->pending.data + end - len, s->stop[i], len) == 0) {
                found = end - len;
            }
        }
    }
    return found;
}

// Length of the longest end of the pending text that a stop text begins with.
static size_t possible_stop(const Stream *s) {
    size_t most = 0;
    for (size_t i = 0; i < s->n_stop; i++) {
        size_t len = strlen(s->stop[i]);
        size_t n = len ? len - 1 : 0;
        for (n = n < s->pending.len ? n : s->pending.len; n > most; n--) {
            if (memcmp(s->pending.data + s->pending.len - n, s->stop[i], n) == 0) most = n;
        }
    }
    return most;
}

bool stream_feed(Stream *s, const char *bytes, size_t len) {
    if (s->stopped || len == 0) return true;
    if (s->trim_space) {
        s->trim_space = false;
        if (bytes[0] == ' ') bytes++, len--;
    }
    size_t fresh = s->pending.len;
    if (!text_append(&s->pending, bytes, len)) return false;
    size_t stop = find_stop(s, fresh);
    if (stop < s->pending.len) {
        s->stopped = true;
        if (!show(s, stop)) return false;
        s->pending.len = 0;
        return true;
    }
    size_t ready = s->pending.len - possible_stop(s);
    return show(s, ready - utf8_incomplete_tail(s->pending.data, ready));
}

bool stream_end(Stream *s) {
    return show(s, s->pending.len);
}
