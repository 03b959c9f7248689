// Inner header of cause_rope.c and cause_turn.c: rotation as a wrong engine may do it.
#ifndef PLUMB_VERIFY_CAUSE_TURN_H
#define PLUMB_VERIFY_CAUSE_TURN_H

#include "verify/cause_case.h"

typedef enum {
    TURN_PLAIN,      // (a cos t - b sin t, a sin t + b cos t)
    TURN_BACK,       // by -t
    TURN_IN_PLACE,   // the second element is made of the first one's new value
    TURN_SWAPPED,    // sine for cosine
    TURN_CROSSED,    // an element's angle is the one that the other pairing would give it
    TURN_TRIG,       // cosine and sine are rounded to `to`
    TURN_ANGLE,      // position, frequency and their product are
    TURN_FREQUENCY,  // frequencies are
} Quirk;

// How rows are rotated.
typedef struct {
    size_t heads, head_dim, pairs;
    bool halves;              // pairs (i, i + pairs), else (2 i, 2 i + 1)
    const double *frequency;  // radians a position: of pair i of head h at [h * per_head + i]
    size_t per_head;
    double magnitude;
    const double *pos;  // of the case's row r, or with per_cell of its head h at [r * heads + h]
    bool per_cell;
    size_t n_turned;  // heads; the others are left as they are
    Quirk quirk;
    Precision to;
} Turn;

// How much each pair of each of the case's rows was turned, over all heads.
typedef struct {
    size_t rows, pairs;
    double *dot, *cross;  // rows x pairs: |x| |y| cos t and |x| |y| sin t, summed
    bool rotation;        // it is one: each pair keeps its shape in all heads
} Turned;

// Rows from .. from + n - 1 of x, rotated. false: no memory (t->status).
bool turn_expect(Trial *t, const Turn *turn, const CaseRows *x, size_t from, size_t n,
                 Expected *out);
bool turn_measure(Trial *t, Arena *a, const Turn *turn, const CaseRows *x, Turned *out);
// The position that fits row r best, of from .. to.
long turn_position(const Turned *m, size_t r, const double *frequency, long from, long to);
// The x that fits all rows best, row r at position pos[r], when pair i turns by by[i] times
//   FIT_BASE   base^(-i / pairs), x = ln base
//   FIT_SCALE  e^x
typedef enum { FIT_BASE, FIT_SCALE } FitKind;
double turn_fit(const Turned *m, FitKind kind, const double *pos, const double *by);
// The frequency of pair i that fits all rows.
double turn_frequency(const Turned *m, size_t i, const double *pos);

#endif
