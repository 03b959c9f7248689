// Causes by counter-hypothesis: what else, computed on the same inputs, would give what was
// captured?
//
// This room owns: the hypotheses of each component and their tests. A hypothesis is accepted only
// if what it computes is within the same bounds that the right computation has to keep; nothing is
// guessed from statistics. It leaves to others: finding the component (replay.h), showing
// (report.h).
#ifndef PLUMB_VERIFY_CAUSE_H
#define PLUMB_VERIFY_CAUSE_H

#include "verify/compare.h"

enum { CAUSE_TEXT = 160, CAUSE_FITS = 6 };

typedef enum {
    CAUSE_NONE,       // not looked for
    CAUSE_CERTAIN,    // exactly one hypothesis fits
    CAUSE_AMBIGUOUS,  // several do
    CAUSE_UNKNOWN,    // none does
} Certainty;
const char *certainty_name(Certainty c);  // "none", "certain", "ambiguous", "unknown"

typedef struct {
    const char *id;         // stable, for programs and tests: "transposed", "rope-base"; static
    char text[CAUSE_TEXT];  // "weights read transposed"
    double nmse, ratio;     // of the whole component if it were so
    bool harmless;          // only a convention differs: what is computed from it is right
} CauseFit;

typedef struct {
    Certainty certainty;
    size_t n_fits;
    CauseFit fits[CAUSE_FITS];     // best first
    char pattern[2 * CAUSE_TEXT];  // which rows, heads, columns are wrong and how; always filled
    char apart[CAUSE_TEXT];        // ambiguous: the prompt that would tell them apart; else ""
} Cause;

typedef struct {
    const Site *site;
    Component c;
    const size_t *row;  // tokens looked at: failing ones first, then others
    size_t n_rows;
    const float *got;      // their captured rows, n_rows x width (of scores: n_rows * n_heads x n)
    const Expected *want;  // what they should be, of the same rows
    const Cell *cells;     // how they compare
    // The component's cells over all captured rows, for the pattern.
    const Cell *all;
    size_t first_row, all_rows, groups;
    const size_t *all_row;  // tokens of those rows; NULL: first_row, first_row + 1, ...
} CauseCase;

// Tries every hypothesis for the component.
Status cause_find(const CauseCase *k, Cause *out, Error *err);

// For listing: the ids with their texts, component by component; NULL past the end.
typedef struct {
    const char *id, *what;
    uint32_t components;  // bit c: of component c
} Hypothesis;
const Hypothesis *hypothesis_at(int i);

#endif
