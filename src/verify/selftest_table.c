// The self-test's result as a table and as JSON; whether the goals of docs/verify.md are met.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/selftest_internal.h"

#if HAVE_JANSSON
#include <jansson.h>
#endif

#define LEAST_SEEN 3.0   // error / bound of a fault that is seen
#define MOST_CLEAN 0.3   // and of a right engine
#define CAUSE_PART 0.95  // of the detected cases have the right cause

static void say(Text *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(Text *out, const char *fmt, ...) {
    char line[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    text_append_str(out, line);
}

// Sums of faults: a family's, all. The equivalent ones stand alone: nothing is to be found in them.
typedef struct {
    size_t faults, cases, blind, detected, right_component, right_cause, other[N_OTHERS];
    double smallest_ratio;
} Sums;

static void add(Sums *to, const FaultScore *s) {
    to->faults++;
    to->cases += s->cases, to->blind += s->blind, to->detected += s->detected;
    to->right_component += s->right_component, to->right_cause += s->right_cause;
    for (int i = 0; i < N_OTHERS; i++) to->other[i] += s->other[i];
    if (s->smallest_ratio > 0 &&
        (to->smallest_ratio == 0 || s->smallest_ratio < to->smallest_ratio)) {
        to->smallest_ratio = s->smallest_ratio;
    }
}

static bool fault_passed(const FaultScore *s) {
    if (s->fault->equivalent) return s->detected == 0;
    return s->cases > 0 && s->detected == s->cases && s->right_component == s->cases &&
           (s->smallest_ratio == 0 || s->smallest_ratio > LEAST_SEEN);
}

bool selftest_passed(const Selftest *s) {
    Sums all = {0};
    for (size_t i = 0; i < s->n_faults; i++) {
        if (!fault_passed(&s->faults[i])) return false;
        if (!s->faults[i].fault->equivalent) add(&all, &s->faults[i]);
    }
    return s->false_alarms == 0 && s->clean_ratio < MOST_CLEAN &&
           (double)all.right_cause >= CAUSE_PART * (double)all.detected;
}

// --- the table ----------------------------------------------------------------------------------

// "100 %", "99.2 %", "-"; six columns.
static const char *percent(size_t part, size_t of, char out[16]) {
    if (of == 0)
        snprintf(out, 16, "-");
    else if (part == of || part == 0)
        snprintf(out, 16, "%d %%", part ? 100 : 0);
    else
        snprintf(out, 16, "%.1f %%", 100.0 * (double)part / (double)of);
    return out;
}

static void row(Text *out, const char *name, const Sums *s) {
    char a[16], b[16], c[16], ratio[16] = "-";
    if (s->smallest_ratio > 0) {
        snprintf(ratio, sizeof ratio, s->smallest_ratio < 1e4 ? "%.1f" : "%.0e", s->smallest_ratio);
    }
    say(out, "%-13s %4zu %5zu %5zu %7s %7s %7s %6s ", name, s->faults, s->cases, s->blind,
        percent(s->detected, s->cases, a), percent(s->right_component, s->cases, b),
        percent(s->right_cause, s->cases, c), ratio);
    for (int i = 0; i < N_OTHERS; i++) say(out, " %6s", percent(s->other[i], s->cases, a));
    say(out, "\n");
}

static void equivalent_row(Text *out, const Sums *s) {
    say(out, "%-13s %4zu %5zu       %zu alarms where there must be none\n", "Equivalent", s->faults,
        s->cases, s->detected);
}

// One line a fault, another where verify said something else.
static void fault_rows(Text *out, const FaultScore *s) {
    Sums one = {0};
    char name[64];
    add(&one, s);
    snprintf(name, sizeof name, "  %s", s->fault->id);
    if (s->fault->equivalent) {
        say(out, "  %-11s      %5zu       %zu alarms: %s\n", s->fault->id, s->cases, s->detected,
            s->fault->what);
    } else {
        row(out, name, &one);
        say(out, "      %s\n", s->fault->what);
    }
    if (s->got[0]) say(out, "      found: %s\n", s->got);
}

static bool same_family(const Selftest *s, size_t i, size_t k) {
    const Fault *a = s->faults[i].fault, *b = s->faults[k].fault;
    return a->equivalent == b->equivalent && (a->equivalent || strcmp(a->family, b->family) == 0);
}

// The family of fault i, unless an earlier fault is of the same.
static void family_rows(const Selftest *s, size_t i, bool verbose, Text *out) {
    for (size_t k = 0; k < i; k++) {
        if (same_family(s, i, k)) return;
    }
    Sums sums = {0};
    for (size_t k = i; k < s->n_faults; k++) {
        if (same_family(s, i, k)) add(&sums, &s->faults[k]);
    }
    if (s->faults[i].fault->equivalent)
        equivalent_row(out, &sums);
    else
        row(out, s->faults[i].fault->family, &sums);
    for (size_t k = i; verbose && k < s->n_faults; k++) {
        if (same_family(s, i, k)) fault_rows(out, &s->faults[k]);
    }
}

void selftest_text(const Selftest *s, bool verbose, Text *out) {
    Sums all = {0};
    say(out, "%57s   what other checks say\n", "");
    say(out, "%-13s %4s %5s %5s %7s %7s %7s %6s  %6s %6s %6s %6s %6s\n", "faults", "n", "cases",
        "blind", "seen", "where", "why", "ratio", "logits", "op", "cosine", "top-1", "RMS");
    for (int equivalent = 0; equivalent < 2; equivalent++) {  // those at the end
        for (size_t i = 0; i < s->n_faults; i++) {
            if (s->faults[i].fault->equivalent == equivalent) family_rows(s, i, verbose, out);
        }
        if (equivalent) break;
        for (size_t i = 0; i < s->n_faults; i++) {
            if (!s->faults[i].fault->equivalent) add(&all, &s->faults[i]);
        }
        row(out, "all", &all);
    }
    if (s->clean_cases) {
        say(out,
            "clean         %10zu       %zu false alarms; the largest error is %.2f of its bound\n",
            s->clean_cases, s->false_alarms, s->clean_ratio);
        if (verbose && s->clean_what[0]) say(out, "      that is in %s\n", s->clean_what);
        if (s->alarm[0]) say(out, "      first false alarm: %s\n", s->alarm);
    }
    text_append_str(
        out,
        "\nseen, where, why: detected; the right component named; the right cause (alone, or among "
        "those\nthat the prompt cannot tell apart). ratio: the smallest error / bound of a "
        "detected "
        "fault.\nblind: the trace is that of the engine without the fault. The clean ones' largest "
        "error is that of\nengines that say how they round, without copies into a cache, which may "
        "take all of half a unit.\nOther checks: ");
    for (int i = 0; i < N_OTHERS; i++) say(out, "%s%s", i ? ", " : "", other_check_name(i));
    say(out, ".\n%s in %.1f s\n",
        selftest_passed(s) ? "every goal is met" : "NOT every goal is met (--verbose says where)",
        s->seconds);
}

// --- JSON ---------------------------------------------------------------------------------------

#if HAVE_JANSSON
static json_t *others_json(const size_t other[N_OTHERS]) {
    static const char *const keys[N_OTHERS] = {"logits_nmse", "op_nmse", "cosine", "top1", "rms"};
    json_t *o = json_object();
    for (int i = 0; i < N_OTHERS; i++) {
        json_object_set_new(o, keys[i], json_integer((json_int_t)other[i]));
    }
    return o;
}

static json_t *fault_json(const FaultScore *s) {
    return json_pack("{ss ss ss sb sI sI sI sI sI sf so ss}", "id", s->fault->id, "family",
                     s->fault->family, "what", s->fault->what, "equivalent",
                     (int)s->fault->equivalent, "cases", (json_int_t)s->cases, "blind",
                     (json_int_t)s->blind, "detected", (json_int_t)s->detected, "right_component",
                     (json_int_t)s->right_component, "right_cause", (json_int_t)s->right_cause,
                     "smallest_ratio", s->smallest_ratio, "others", others_json(s->other), "got",
                     s->got);
}
#endif

Status selftest_json(const Selftest *s, Text *out, Error *err) {
#if HAVE_JANSSON
    json_t *faults = json_array();
    for (size_t i = 0; i < s->n_faults; i++) {
        json_array_append_new(faults, fault_json(&s->faults[i]));
    }
    json_t *all =
        json_pack("{sb sf s{sI sI sf ss ss} so}", "passed", (int)selftest_passed(s), "seconds",
                  s->seconds, "clean", "cases", (json_int_t)s->clean_cases, "false_alarms",
                  (json_int_t)s->false_alarms, "largest_ratio", s->clean_ratio, "largest_where",
                  s->clean_what, "first_alarm", s->alarm, "faults", faults);
    char *text = all ? json_dumps(all, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    const bool kept = text && text_append_str(out, text);
    free(text);
    json_decref(all);
    return kept ? OK : error_memory(err, "the report", 1 << 16);
#else
    (void)s, (void)out;
    return error_set(err, ERR_UNAVAILABLE,
                     "--json needs the jansson library, which this build lacks; install "
                     "libjansson-dev and run make");
#endif
}
