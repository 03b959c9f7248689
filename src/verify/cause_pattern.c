// What is wrong with a component, in words, whether or not its cause is found: which rows, heads
// and columns, and what the wrong values have in common.
//
// Rows and heads are told from the cells of all rows that were looked at, columns and values from
// the elements of the case's failing rows.
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_internal.h"

typedef struct {
    char *text;
    size_t size, len;
} Words;

static void say(Words *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(Words *w, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(w->text + w->len, w->size - w->len, fmt, ap);
    va_end(ap);
    if (n > 0) w->len = w->len + (size_t)n < w->size ? w->len + (size_t)n : w->size - 1;
}

// --- which of n ---------------------------------------------------------------------------------

// A set of numbers: bad[i] says whether the i-th is in it. name, where given, is its number.
typedef struct {
    const bool *bad;
    size_t n, count, first, last, step;  // step: between neighbours in the set, 0 where it varies
    const size_t *name;
} Set;

static Set set_of(const bool *bad, size_t n, const size_t *name) {
    Set s = {.bad = bad, .n = n, .first = n, .name = name};
    for (size_t i = 0; i < n; i++) {
        if (!bad[i]) continue;
        if (s.count == 0) s.first = i;
        if (s.count == 1) s.step = i - s.last;
        if (s.count > 1 && i - s.last != s.step) s.step = 0;
        s.last = i;
        s.count++;
    }
    return s;
}

static size_t name_of(const Set *s, size_t i) {
    return s->name ? s->name[i] : i;
}

static void say_list(Words *w, const Set *s, bool of) {
    const char *comma = " ";
    for (size_t i = 0; i < s->n; i++) {
        if (s->bad[i] != of) continue;
        say(w, "%s%zu", comma, name_of(s, i));
        comma = ", ";
    }
}

static const char *ordinal(size_t n) {
    static const char *const names[] = {"second", "third",   "fourth", "fifth",
                                        "sixth",  "seventh", "eighth"};
    return n >= 2 && n <= 8 ? names[n - 2] : NULL;
}

// Only some rows were looked at?
static bool is_sampled(const Set *s) {
    return s->name && s->n > 1 && s->name[s->n - 1] - s->name[0] != s->n - 1;
}

// "rows 3-17 of 20"; one: "row", "head"
static void say_set(Words *w, const char *one, const Set *s) {
    if (s->n == 1) {
        say(w, "%s %zu", one, name_of(s, 0));
    } else if (s->count == s->n) {
        say(w, "all %zu %ss", s->n, one);
    } else if (s->count == 1) {
        say(w, "%s %zu of %zu only", one, name_of(s, s->first), s->n);
    } else if (s->step == 1) {
        say(w, "%ss %zu-%zu of %zu", one, name_of(s, s->first), name_of(s, s->last), s->n);
    } else if (s->step > 1 && s->count > 2 && s->first < s->step && s->last + s->step >= s->n) {
        if (ordinal(s->step)) {
            say(w, "every %s %s", ordinal(s->step), one);
        } else {
            say(w, "one %s in %zu", one, s->step);
        }
        if (s->first > 0) say(w, " from %zu on", name_of(s, s->first));
    } else if (s->count <= 4) {
        say(w, "%ss", one);
        say_list(w, s, true);
        say(w, " of %zu", s->n);
    } else if (s->n - s->count <= 3) {
        say(w, "all %zu %ss but", s->n, one);
        say_list(w, s, false);
    } else {
        say(w, "%zu of %zu %ss, the first %zu, the last %zu", s->count, s->n, one,
            name_of(s, s->first), name_of(s, s->last));
    }
    if (is_sampled(s)) say(w, " looked at");
}

// --- columns ------------------------------------------------------------------------------------

// The largest power of two that divides a and b.
static size_t common_tile(size_t a, size_t b) {
    const size_t both = a | b;
    return both & (~both + 1);
}

// The largest tile, a power of two, of which every aligned one is wrong as a whole or not at all.
static size_t whole_tiles(const bool *bad, size_t n) {
    for (size_t tile = 1024; tile >= 8; tile /= 2) {
        if (tile * 2 > n) continue;
        bool whole = true;
        for (size_t at = 0; at < n && whole; at += tile) {
            for (size_t i = at + 1; i < n && i < at + tile && whole; i++) whole = bad[i] == bad[at];
        }
        if (whole) return tile;
    }
    return 0;
}

// The elements of a range are nearly all wrong (a few may come out right by chance)?
static bool is_range(const Set *s) {
    const size_t len = s->last - s->first + 1;
    return s->count > 1 && len < s->n && s->count * 10 >= len * 9;
}

static void say_range(Words *w, const char *one, const Set *s) {
    const size_t from = s->first, to = s->last + 1, len = to - from;
    say(w, "%ss %zu-%zu of %zu", one, from, s->last, s->n);
    const char *place = from == 0 ? "first" : to == s->n ? "last" : NULL;
    const size_t tile = common_tile(from, to == s->n ? 0 : to);
    if (len >= 8 && (len & (len - 1)) == 0 && from % len == 0) {
        if (place) {
            say(w, " (the %s tile of %zu)", place, len);
        } else {
            say(w, " (tile %zu of %zu)", from / len, len);
        }
    } else if (tile >= 8 && len < tile && to == s->n) {
        say(w, " (what is left after tiles of %zu)", tile);
    } else if (tile >= 8) {
        say(w, " (a multiple of %zu)", tile);
    }
}

static void say_columns(Words *w, const char *one, const Set *s) {
    const size_t tile = whole_tiles(s->bad, s->n);
    if (s->count == 0) {
        say(w, "no %s alone", one);
    } else if (s->count == 1) {
        say(w, "%s %zu of %zu only", one, s->first, s->n);
    } else if (s->count * 100 >= s->n * 98) {
        say(w, "%s %zu %ss", s->count == s->n ? "all" : "nearly all", s->n, one);
    } else if (is_range(s)) {
        say_range(w, one, s);
    } else if (s->step > 1 || s->count <= 4) {
        say_set(w, one, s);
    } else if (tile && s->count < s->n) {
        say(w, "whole tiles of %zu %ss, %zu of %zu, the first from %zu", tile, one,
            (s->count + tile - 1) / tile, (s->n + tile - 1) / tile, s->first);
    } else {
        say(w, "%.2g %% of %zu %ss, scattered", 100.0 * (double)s->count / (double)s->n, s->n, one);
    }
}

// --- values -------------------------------------------------------------------------------------

// What the wrong elements of the failing rows are like.
typedef struct {
    size_t n, finite, nan, inf, zero, flipped, ratios;
    double low, high;              // of got / y, where y is well above its bound
    double low_error, high_error;  // of got - y
    double gg, gy, yy, ee, first;
    bool constant;  // all equal to the first
} Traits;

static void add_trait(Traits *t, double got, double y, double bound) {
    const double e = got - y;
    t->n++;
    if (isnan(got)) t->nan++;
    if (isinf(got)) t->inf++;
    if (!isfinite(e)) return;
    t->zero += got == 0;
    if (t->finite++ == 0) {
        t->first = got, t->constant = true;
        t->low_error = t->high_error = e;
    }
    t->constant &= got == t->first;
    t->flipped += fabs(got + y) <= 2 * bound;
    t->low_error = fmin(t->low_error, e), t->high_error = fmax(t->high_error, e);
    t->gg += got * got, t->gy += got * y, t->yy += y * y, t->ee += e * e;
    if (fabs(y) < 1e4 * bound || y == 0) return;
    const double ratio = got / y;
    t->low = t->ratios ? fmin(t->low, ratio) : ratio;
    t->high = t->ratios ? fmax(t->high, ratio) : ratio;
    t->ratios++;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Does a row hold the values that it should, in another order?
static bool same_values(const float *got, const double *y, const double *bound, size_t n,
                        double *scratch) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i]) || !isfinite(y[i]) || isinf(bound[i])) return false;
        scratch[i] = got[i], scratch[n + i] = y[i];
        most = fmax(most, bound[i]);
    }
    qsort(scratch, n, sizeof *scratch, by_value);
    qsort(scratch + n, n, sizeof *scratch, by_value);
    for (size_t i = 0; i < n; i++) {
        if (fabs(scratch[i] - scratch[n + i]) > most) return false;
    }
    return n > 4;
}

static void say_traits(Words *w, const Traits *t, bool reordered) {
    if (t->n == 0) return;
    const double middle = (t->low + t->high) / 2;
    const double cosine = t->gg > 0 && t->yy > 0 ? t->gy / sqrt(t->gg * t->yy) : 0;
    if (t->nan == t->n || t->inf == t->n) {
        say(w, t->nan ? "; NaN" : "; infinite");
    } else if (t->nan || t->inf) {
        say(w, "; of them %zu NaN, %zu infinite", t->nan, t->inf);
    } else if (t->zero == t->n) {
        say(w, "; all zero");
    } else if (t->constant && t->n > 2) {
        say(w, "; all the same value, %.6g", t->first);
    } else if (reordered) {
        say(w, "; the right values in another order");
    } else if (t->flipped == t->n) {
        say(w, "; the sign is wrong");
    } else if (t->ratios > 2 && t->high - t->low < 2e-3 * fabs(middle) &&
               fabs(middle - 1) > t->high - t->low) {
        say(w, "; %.6g x what is expected", middle);
    } else if (t->n > 2 && t->high_error - t->low_error < 2e-3 * fabs(t->low_error)) {
        say(w, "; off by %+.6g everywhere", (t->low_error + t->high_error) / 2);
    } else if (t->yy > 0 && t->ee < 0.01 * t->yy) {
        say(w, "; close to what is expected, off by %.2g of it", sqrt(t->ee / t->yy));
    } else if (t->n > 8 && fabs(cosine) < 0.2) {
        say(w, "; unrelated to what is expected (cosine %.2f, RMS %.3g for %.3g)", cosine,
            sqrt(t->gg / (double)t->n), sqrt(t->yy / (double)t->n));
    } else if (t->n > 1) {
        say(w, "; RMS %.3g for %.3g, cosine %.2f", sqrt(t->gg / (double)t->n),
            sqrt(t->yy / (double)t->n), cosine);
    } else {
        say(w, "; off by %+.3g", t->low_error);
    }
}

// --- the whole ----------------------------------------------------------------------------------

typedef struct {
    bool *rows, *heads, *columns, *within;  // all_rows, groups, width, width of a head
    size_t *row_name;
    double *scratch;  // 2 * width
    void *memory;
} Marks;

static bool marks_new(const CauseCase *k, size_t width, Marks *m) {
    const size_t flags = k->all_rows + k->groups + 2 * width;
    m->memory = calloc(1, 2 * width * sizeof *m->scratch + k->all_rows * sizeof *m->row_name +
                              flags * sizeof(bool) + 1);
    if (!m->memory) return false;
    m->scratch = m->memory;
    m->row_name = (size_t *)(void *)(m->scratch + 2 * width);
    m->rows = (bool *)(m->row_name + k->all_rows);
    m->heads = m->rows + k->all_rows;
    m->columns = m->heads + k->groups, m->within = m->columns + width;
    return true;
}

static bool fails(const CauseCase *k, size_t row) {
    return compare_worst(k->cells + row * k->groups, k->groups).ratio > 1;
}

// Marks the wrong elements of the case's failing rows; of scores, keys of any head. reordered:
// every failing row holds the right values in another order.
static void mark_elements(const CauseCase *k, size_t width, Marks *m, Traits *t, bool *reordered) {
    const size_t per_token = k->want->rows / (k->n_rows ? k->n_rows : 1);
    const size_t head = width / (per_token == 1 ? k->groups : 1);
    size_t n_failing = 0, n_reordered = 0;
    for (size_t r = 0; r < k->want->rows; r++) {
        if (!fails(k, r / per_token)) continue;
        const size_t at = r * width;
        const double *y = k->want->y + at, *bound = k->want->bound + at;
        n_failing++;
        n_reordered += same_values(k->got + at, y, bound, width, m->scratch);
        for (size_t i = 0; i < width; i++) {
            const double e = k->got[at + i] - y[i];
            if (isinf(bound[i]) || fabs(e) <= bound[i] || !isfinite(y[i])) continue;
            m->columns[i] = true, m->within[i % head] = true;
            add_trait(t, k->got[at + i], y[i], bound[i]);
        }
    }
    *reordered = n_failing > 0 && n_reordered == n_failing;
}

static void say_places(Words *w, const CauseCase *k, size_t width, const Marks *m) {
    const bool scores = component_is_scores(k->c);
    const Set rows = set_of(m->rows, k->all_rows, m->row_name);
    const Set heads = set_of(m->heads, k->groups, NULL);
    say_set(w, "row", &rows);
    if (k->groups > 1) {
        say(w, ", ");
        say_set(w, "head", &heads);
    }
    const char *one = scores ? "key" : "column";
    const Set columns = set_of(m->columns, width, NULL);
    const size_t head = scores ? width : width / k->groups;
    const Set within = set_of(m->within, head, NULL);
    say(w, "; ");
    if (k->groups > 1 && !scores && within.count * 100 < head * 98 && within.count > 0 &&
        heads.count > 1) {
        say_columns(w, one, &within);
        say(w, " of a head");
    } else {
        say_columns(w, one, &columns);
    }
}

Status cause_pattern(const CauseCase *k, char *out, Error *err) {
    Words w = {out, 2 * CAUSE_TEXT, 0};
    out[0] = '\0';
    if (k->c == COMP_TOKEN) {
        say(&w, "token %.0f was chosen", (double)k->got[0]);
        return OK;
    }
    const size_t width = k->want->width;
    Marks m;
    if (!marks_new(k, width, &m)) return error_memory(err, "a pattern", width * sizeof(double));
    const Cell worst = compare_worst(k->cells, k->n_rows * k->groups);
    for (size_t r = 0; r < k->all_rows; r++) {
        m.row_name[r] = k->all_row ? k->all_row[r] : k->first_row + r;
        for (size_t g = 0; g < k->groups; g++) {
            if (k->all[r * k->groups + g].ratio <= 1) continue;
            m.rows[r] = m.heads[g] = true;
        }
    }
    Traits traits = {0};
    bool reordered;
    mark_elements(k, width, &m, &traits, &reordered);
    say_places(&w, k, width, &m);
    say_traits(&w, &traits, reordered);
    if (traits.n == 0 && k->n_rows > 0) {
        say(&w, " is beyond its bound; the %s is %.3g, at most %.3g", measure_name(worst.by),
            worst.error, worst.bound);
    }
    free(m.memory);
    return OK;
}
