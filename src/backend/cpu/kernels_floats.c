// Matmul with weights that are floats, written once for every instruction set (lanes.h).
//
// A product of a row and an input is summed in 16 lanes: lane l takes elements l, l + 16, ... in
// their order, each step rounded once (fma); a tail is filled up with zeros. Then lanes l and l + 8
// are added, l and l + 4, l and l + 2, l and l + 1. So the bits are the same with every instruction
// set and any number of inputs.
#include "backend/cpu/kernels_floats.h"

#include "backend/cpu/lanes.h"

enum {
    STEP = 16,             // lanes of a sum
    PARTS = STEP / LANES,  // vectors of a sum
    ROWS_ALONE = 4,        // rows that share the loading of one input
    ROWS = PARTS == 1 ? 4 : 2,
    ACTS = PARTS == 1 ? 4 : 2,  // what many inputs are done in: ROWS x ACTS sums in registers
    AHEAD = 2048,
};

#define INLINE static inline __attribute__((always_inline))

INLINE F32 load_weights(TensorType type, const uint8_t *row, int i) {
    switch (type) {
        case TYPE_F16: return f32_halves(row + 2 * i);
        case TYPE_BF16: return f32_bfloats(row + 2 * i);
        default: return f32_load((const float *)(const void *)(row + 4 * (long)i));
    }
}

static float sum_of(const F32 s[PARTS]) {
    float x[STEP];
    for (int p = 0; p < PARTS; p++) f32_store(x + LANES * p, s[p]);
    for (int half = STEP / 2; half; half /= 2) {
        for (int l = 0; l < half; l++) x[l] += x[l + half];
    }
    return x[0];
}

// rows x acts products at once; w: the first row, x: the first input, y: the first result.
INLINE void block(TensorType type, int rows, int acts, const MatmulTask *m, long r, long t) {
    const long bytes = type == TYPE_F32 ? 4 : 2, stride = bytes * m->n;
    const uint8_t *w = m->w + r * stride;
    const float *x = (const float *)(const void *)m->act + t * m->n;
    F32 s[ROWS_ALONE * ACTS][PARTS];
    for (int i = 0; i < rows * acts; i++) {
        for (int p = 0; p < PARTS; p++) s[i][p] = f32_zero();
    }
    int k = 0;
    for (; k + STEP <= m->n; k += STEP) {
        for (int p = 0; p < PARTS; p++) {
            F32 xs[ACTS];
            for (int a = 0; a < acts; a++) xs[a] = f32_load(x + a * (long)m->n + k + LANES * p);
            for (int i = 0; i < rows; i++) {
                const uint8_t *at = w + i * stride + bytes * (k + LANES * p);
                if (acts == 1) __builtin_prefetch(at + AHEAD);
                const F32 ws = load_weights(type, at, 0);
                for (int a = 0; a < acts; a++)
                    s[i * acts + a][p] = f32_fma(ws, xs[a], s[i * acts + a][p]);
            }
        }
    }
    if (k < m->n) {
        float wt[STEP] = {0}, xt[STEP] = {0};
        const size_t left = (size_t)(m->n - k);
        for (int i = 0; i < rows; i++) {
            memset(wt, 0, sizeof wt);
            memcpy(wt, w + i * stride + bytes * k, left * (size_t)bytes);
            for (int a = 0; a < acts; a++) {
                memcpy(xt, x + a * (long)m->n + k, left * sizeof *xt);
                for (int p = 0; p < PARTS; p++) {
                    const F32 ws = load_weights(type, (const uint8_t *)wt, LANES * p);
                    F32 *to = &s[i * acts + a][p];
                    *to = f32_fma(ws, f32_load(xt + LANES * p), *to);
                }
            }
        }
    }
    for (int a = 0; a < acts; a++) {
        for (int i = 0; i < rows; i++) {
            const long at = (t + a) * m->n_rows + r + i;
            float y = sum_of(s[i * acts + a]);
            if (m->bias) y += m->bias[r + i];
            if (m->residual) y += m->residual[at];
            m->y[at] = y;
        }
    }
}

INLINE void rows_of(TensorType type, const MatmulTask *m, long r0, long r1) {
    long r = r0;
    if (m->n_act == 1) {
        for (; r + ROWS_ALONE <= r1; r += ROWS_ALONE) block(type, ROWS_ALONE, 1, m, r, 0);
        for (; r < r1; r++) block(type, 1, 1, m, r, 0);
        return;
    }
    for (; r + ROWS <= r1; r += ROWS) {
        long t = 0;
        for (; t + ACTS <= m->n_act; t += ACTS) block(type, ROWS, ACTS, m, r, t);
        for (; t < m->n_act; t++) block(type, ROWS, 1, m, r, t);
    }
    for (; r < r1; r++) {
        for (long t = 0; t < m->n_act; t++) block(type, 1, 1, m, r, t);
    }
}

size_t floats_act_bytes(ActQuant quant, int n, int n_act) {
    (void)quant, (void)n, (void)n_act;
    return 0;
}

size_t floats_scratch(int n) {
    (void)n;
    return 0;
}

void floats_matmul(const MatmulTask *m, long r0, long r1, void *scratch) {
    (void)scratch;
    switch (m->type) {
        case TYPE_F16: rows_of(TYPE_F16, m, r0, r1); break;
        case TYPE_BF16: rows_of(TYPE_BF16, m, r0, r1); break;
        default: rows_of(TYPE_F32, m, r0, r1); break;
    }
}
