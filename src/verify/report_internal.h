// What the ways of showing a report share. Nobody else includes this header.
#ifndef PLUMB_VERIFY_REPORT_INTERNAL_H
#define PLUMB_VERIFY_REPORT_INTERNAL_H

#include "verify/report.h"

// --- text that grows (report_words.c) -----------------------------------------------------------

// Appends; when memory runs out the rest is left away and `failed` is set.
typedef struct {
    Text *text;
    bool failed;
} Out;

void out_bytes(Out *o, const char *s, size_t len);
void out_raw(Out *o, const char *s);
void out_format(Out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// For text that may come from a file: control bytes and what is not UTF-8 become \xNN.
void out_text(Out *o, const char *s);

enum { NUMBER_TEXT = 32 };
// "2.07", "1e-10", "1234": at most `digits` significant ones, a short exponent.
const char *number_text(double x, int digits, char out[NUMBER_TEXT]);
const char *ratio_text(double ratio, char out[NUMBER_TEXT]);  // two digits
const char *measure_word(Measure m);                          // at most 5 letters

// --- words for results (report_words.c) ---------------------------------------------------------

const char *report_prompt_name(const Report *r, int prompt);  // NULL where there is nothing to say
void words_where(Out *o, const Report *r, const ComponentResult *c);  // "token 3, head 2"
void words_error(Out *o, const ComponentResult *c);                   // "NMSE 2.07, bound 1e-10"
// "weights read transposed (3e-13 if so)", "cause unknown: every row", "cause not looked for".
void words_cause(Out *o, const ComponentResult *c);
// Of a coarse one: the components that it is judged together with, "kq, kq_soft_max". Needs
// report_finish's order.
void words_together(Out *o, const Report *r, const ComponentResult *c);
void words_finding(Out *o, const Report *r, const Finding *f);  // "prompt chat: two BOS"

// --- results taken together (report_words.c) ----------------------------------------------------

// All results of a kind of component: `worst` NULL where there are none.
typedef struct {
    const ComponentResult *worst;
    size_t n, n_bad;
} KindRow;
void report_kinds(const Report *r, KindRow out[N_COMPONENTS]);
const ComponentResult *report_worst(const Report *r);  // the largest ratio; NULL: none
// The worst of each component over all prompts, in the order of the pass: *out is n pointers,
// owned.
Status report_worst_each(const Report *r, const ComponentResult ***out, size_t *n, Error *err);

// Failing components with the same cause (where it is unknown, of the same kind); `first` in the
// order of the pass.
enum { FAIL_GROUPS = 40 };
typedef struct {
    const ComponentResult *first;
    size_t n;
    uint32_t kinds;  // bit c: of component c
} FailGroup;
// At most FAIL_GROUPS; *left: failing components in none of them.
size_t report_fail_groups(const Report *r, FailGroup out[FAIL_GROUPS], size_t *left);
void words_group(Out *o, const FailGroup *g);  // "the same in 3 more (q, k)"; nothing for one

// Lines that many components have in common: "attn is checked together with kq, kq_soft_max (not
// captured)", "q_rope (4 of 4): positions shifted alike in q and k".
typedef enum { NOTE_COARSE, NOTE_EQUIVALENT, NOTE_ROUNDING, NOTE_DRIFT, N_NOTES } NoteKind;
// Calls show for each; the line is valid during the call.
void report_notes(const Report *r, NoteKind kind, void (*show)(void *user, const char *line),
                  void *user);

// --- JSON (report_json.c) -----------------------------------------------------------------------

// The same object for the page: less precise, rows with "ratios" (see report_json.c), "<" written
// as \u003c so that it may stand in a script element.
Status report_json_page(const Report *r, Out *o, Error *err);

#endif
