// How a trace says that its token was drawn: "temp=0.8 top_k=40 ..."; see trace.h.
//
// This file owns: the keys and ranges of that text, both ways. It leaves to others: what follows
// from it (sampling.h).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/trace_internal.h"

static const struct {
    const char *key;
    bool whole;  // an int, else a double
    double low, high;
    size_t at;  // in TraceSampling
} fields[] = {
    {"temp", false, -1e6, 1e6, offsetof(TraceSampling, temp)},
    {"top_k", true, -1, INT32_MAX, offsetof(TraceSampling, top_k)},
    {"top_p", false, 0, 1, offsetof(TraceSampling, top_p)},
    {"min_p", false, 0, 1, offsetof(TraceSampling, min_p)},
    {"repeat_penalty", false, 1e-6, 1e6, offsetof(TraceSampling, repeat_penalty)},
    {"presence_penalty", false, -1e6, 1e6, offsetof(TraceSampling, presence_penalty)},
    {"frequency_penalty", false, -1e6, 1e6, offsetof(TraceSampling, frequency_penalty)},
    {"repeat_last_n", true, -1, INT32_MAX, offsetof(TraceSampling, repeat_last_n)},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

static bool read_value(const char *text, size_t len, size_t field, TraceSampling *out) {
    char number[40], *end;
    if (len == 0 || len >= sizeof number) return false;
    memcpy(number, text, len);
    number[len] = 0;
    const double v = strtod(number, &end);
    if (*end || !(v >= fields[field].low && v <= fields[field].high)) return false;
    const int whole = (int)v;
    if (!fields[field].whole) {
        memcpy((char *)out + fields[field].at, &v, sizeof v);
    } else if (whole == v) {
        memcpy((char *)out + fields[field].at, &whole, sizeof whole);
    } else {
        return false;
    }
    return true;
}

SamplingKind trace_sampling_read(const char *text, TraceSampling *out, const char **word,
                                 size_t *len) {
    static const char gaps[] = " ,;\t\n";
    *out = (TraceSampling){
        .given = true, .temp = 1, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = -1};
    for (const char *at = text; *(at += strspn(at, gaps)); at += *len) {
        *word = at, *len = strcspn(at, gaps);
        const char *equals = memchr(at, '=', *len);
        if (!equals) return SAMPLING_BAD;
        const size_t n = (size_t)(equals - at);
        size_t i = 0;
        while (i < N_FIELDS && (strlen(fields[i].key) != n || memcmp(fields[i].key, at, n) != 0)) {
            i++;
        }
        if (i == N_FIELDS) return SAMPLING_FOREIGN;
        if (!read_value(equals + 1, *len - n - 1, i, out)) return SAMPLING_BAD;
    }
    return SAMPLING_READ;
}

void trace_sampling_text(const TraceSampling *s, char out[TRACE_SAMPLING_TEXT]) {
    size_t at = 0;
    for (size_t i = 0; i < N_FIELDS; i++) {
        const char *from = (const char *)s + fields[i].at;
        double v;
        int whole;
        memcpy(&v, from, sizeof v);
        if (fields[i].whole) {
            memcpy(&whole, from, sizeof whole);
            v = whole;
        }
        const int n = snprintf(out + at, TRACE_SAMPLING_TEXT - at, "%s%s=%.9g", i ? " " : "",
                               fields[i].key, v);
        CHECK(n > 0 && (at += (size_t)n) < TRACE_SAMPLING_TEXT);
    }
}
