// The end of a matmul from panels: the sums of 16 rows and one input, to where they belong.
#ifndef PLUMB_BACKEND_CPU_PANEL_OUT_H
#define PLUMB_BACKEND_CPU_PANEL_OUT_H

#include "backend/cpu/kernels.h"
#include "backend/cpu/lanes.h"
#include "backend/cpu/panel.h"

// sums: PANEL_ROWS / LANES vectors; rows: how many of the panel there are.
static inline void panel_row_out(const MatmulTask *m, long r0, long rows, int t, const F32 *sums) {
    const long at = (long)t * m->n_rows + r0;
    if (rows == PANEL_ROWS) {
        for (int i = 0; i < PANEL_ROWS; i += LANES) {
            F32 v = sums[i / LANES];
            if (m->bias) v = f32_add(v, f32_load(m->bias + r0 + i));
            if (m->residual) v = f32_add(v, f32_load(m->residual + at + i));
            f32_store(m->y + at + i, v);
        }
        return;
    }
    float x[PANEL_ROWS];
    for (int i = 0; i < PANEL_ROWS; i += LANES) f32_store(x + i, sums[i / LANES]);
    for (long i = 0; i < rows; i++) {
        float v = x[i];
        if (m->bias) v += m->bias[r0 + i];
        if (m->residual) v += m->residual[at + i];
        m->y[at + i] = v;
    }
}

#endif
