// Small operations on rows of floats, written once for every instruction set (lanes.h).
#include "backend/cpu/kernels_rows.h"

#include <math.h>

#include "backend/cpu/lanes_math.h"

enum {
    STEP = 32,             // chains of squares: enough that none waits for itself
    PARTS = STEP / LANES,  // vectors of them
};

// Squares are summed in double: a row of 16384 keeps full float precision, and the cost is nothing.
// Chain l takes elements l, l + 32, ...; then chains l and l + 16 are added, l and l + 8, ...
static double sum_of_squares(const float *x, int n) {
    F64 sum[PARTS];
    for (int p = 0; p < PARTS; p++) sum[p] = f64_zero();
    int i = 0;
    for (; i + STEP <= n; i += STEP) {
        for (int p = 0; p < PARTS; p++) sum[p] = f64_square(sum[p], f32_load(x + i + LANES * p));
    }
    if (i < n) {
        float rest[STEP] = {0};
        memcpy(rest, x + i, (size_t)(n - i) * sizeof *x);
        for (int p = 0; p < PARTS; p++) sum[p] = f64_square(sum[p], f32_load(rest + LANES * p));
    }
    double chain[STEP];
    for (int p = 0; p < PARTS; p++) f64_store(chain + LANES * p, sum[p]);
    for (int half = STEP / 2; half; half /= 2) {
        for (int l = 0; l < half; l++) chain[l] += chain[l + half];
    }
    return chain[0];
}

void rows_rmsnorm(const float *x, const float *w, float eps, int n, float *y) {
    const float scale = (float)(1.0 / sqrt(sum_of_squares(x, n) / n + (double)eps));
    const F32 scales = f32_all(scale);
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        f32_store(y + i, f32_mul(f32_mul(f32_load(x + i), scales), f32_load(w + i)));
    for (; i < n; i++) y[i] = x[i] * scale * w[i];
}

static inline F32 gated(F32 gate, F32 up) {
    const F32 e = f32_exp(f32_sub(f32_zero(), gate));
    return f32_mul(f32_div(gate, f32_add(f32_all(1.0f), e)), up);
}

void rows_swiglu(const float *gate, const float *up, long n, float *y) {
    long i = 0;
    for (; i + LANES <= n; i += LANES)
        f32_store(y + i, gated(f32_load(gate + i), f32_load(up + i)));
    if (i < n) {
        const size_t rest = (size_t)(n - i) * sizeof *y;
        float a[LANES] = {0}, b[LANES] = {0};
        memcpy(a, gate + i, rest);
        memcpy(b, up + i, rest);
        f32_store(a, gated(f32_load(a), f32_load(b)));
        memcpy(y + i, a, rest);
    }
}
