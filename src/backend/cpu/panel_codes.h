// The codes of a group in a panel (panel.h), as vectors.
#ifndef PLUMB_BACKEND_CPU_PANEL_CODES_H
#define PLUMB_BACKEND_CPU_PANEL_CODES_H

#include "backend/cpu/lanes.h"

// Low nibbles are codes g = 0..3, high ones g = 4..7. p: the group's first vector, at a lane's row.
static inline __attribute__((always_inline)) void nibble_codes(const uint8_t *p, Codes c[8]) {
    for (int v = 0; v < 4; v++) {
        const Codes both = codes_load(p + 64 * v);
        c[v] = codes_low(both), c[v + 4] = codes_high(both);
    }
}

#endif
