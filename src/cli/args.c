// Arguments; see args.h.
#include "cli/args.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/distance.h"

bool arg_int(const char *text, int64_t min, int64_t max, int64_t *out) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < min || v > max) return false;
    *out = v;
    return true;
}

bool arg_float(const char *text, double *out) {
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (end == text || *end || isnan(v)) return false;
    *out = v;
    return true;
}

// Is `word` (of len bytes) one of the comma-separated names?
static bool has_name(const char *names, const char *word, size_t len) {
    for (const char *p = names; *p;) {
        size_t n = strcspn(p, ", ");
        if (n == len && memcmp(p, word, len) == 0) return true;
        p += n;
        p += strspn(p, ", ");
    }
    return false;
}

static const Arg *find(const Arg *const *tables, size_t n_tables, const char *word, size_t len) {
    for (size_t t = 0; t < n_tables; t++) {
        for (const Arg *a = tables[t]; a && a->names; a++) {
            if (has_name(a->names, word, len)) return a;
        }
    }
    return NULL;
}

static Status unknown(const Arg *const *tables, size_t n_tables, const char *word, size_t len,
                      Error *err) {
    char best[64] = "";
    int best_distance = 4;
    for (size_t t = 0; t < n_tables; t++) {
        for (const Arg *a = tables[t]; a && a->names; a++) {
            for (const char *p = a->names; *p;) {
                size_t n = strcspn(p, ", ");
                int d = word_distance(word, len, p, n);
                if (d < best_distance && n < sizeof best && d < (int)n) {
                    best_distance = d;
                    memcpy(best, p, n);
                    best[n] = 0;
                }
                p += n;
                p += strspn(p, ", ");
            }
        }
    }
    if (!best[0])
        return error_set(err, ERR_USAGE, "unknown option %.*s; --help lists them", (int)len, word);
    return error_set(err, ERR_USAGE, "unknown option %.*s; did you mean %s?", (int)len, word, best);
}

static Status append(ArgList *l, const char *word, Error *err) {
    const char **items = realloc(l->items, (l->n + 1) * sizeof *items);
    if (!items) return error_memory(err, "arguments", (l->n + 1) * sizeof *items);
    l->items = items;
    l->items[l->n++] = word;
    return OK;
}

void arg_list_free(ArgList *l) {
    free(l->items);
    *l = (ArgList){0};
}

static Status take_value(const Arg *a, const char *word, const char *value, Error *err) {
    int64_t i;
    double d;
    switch (a->kind) {
        case ARG_INT:
            if (!arg_int(value, a->min, INT_MAX, &i)) {
                return error_set(err, ERR_USAGE, "%s needs a whole number from %d on, not '%s'",
                                 word, a->min, value);
            }
            *(int *)a->to = (int)i;
            return OK;
        case ARG_I64:
            if (!arg_int(value, INT64_MIN, INT64_MAX, &i)) {
                return error_set(err, ERR_USAGE, "%s needs a whole number, not '%s'", word, value);
            }
            *(int64_t *)a->to = i;
            return OK;
        case ARG_FLOAT:
            if (!arg_float(value, &d))
                return error_set(err, ERR_USAGE, "%s needs a number, not '%s'", word, value);
            *(float *)a->to = (float)d;
            return OK;
        case ARG_LIST: return append(a->to, value, err);
        default: *(const char **)a->to = value; return OK;
    }
}

// A word that begins with '-' but is a number or "-" alone is no option.
static bool is_option(const char *word) {
    double d;
    return word[0] == '-' && word[1] && !arg_float(word, &d);
}

Status args_read(int argc, char **argv, const Arg *const *tables, size_t n_tables, ArgList *rest,
                 bool *help, Error *err) {
    bool options = true;
    *help = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (options && strcmp(word, "--") == 0) {
            options = false;
        } else if (!options || !is_option(word)) {
            if (!rest) return error_set(err, ERR_USAGE, "unexpected argument '%s'", word);
            Status st = append(rest, word, err);
            if (st) return st;
        } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            *help = true;
            return OK;
        } else {
            const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
            size_t len = equals ? (size_t)(equals - word) : strlen(word);
            const Arg *a = find(tables, n_tables, word, len);
            if (!a) return unknown(tables, n_tables, word, len, err);
            const bool instead = a->kind == ARG_INSTEAD;
            bool wants =
                a->kind != ARG_FLAG && a->kind != ARG_NO && a->kind != ARG_IGNORE && !instead;
            if (!wants && equals)
                return error_set(err, ERR_USAGE, "%.*s takes no value", (int)len, word);
            if (instead) {
                *(bool *)a->to = *help = true;
                return OK;
            }
            if (a->kind == ARG_FLAG || a->kind == ARG_NO) *(bool *)a->to = a->kind == ARG_FLAG;
            if (!wants) continue;
            const char *value = equals ? equals + 1 : ++i < argc ? argv[i] : NULL;
            if (!value) return error_set(err, ERR_USAGE, "%s needs a value", word);
            Status st = take_value(a, word, value, err);
            if (st) return st;
        }
    }
    return OK;
}
