// How fast this level multiplies and adds when nothing is loaded: what a kernel is held against.
#include "fma_peak.h"

#include "backend/cpu/lanes.h"
#include "base/clock.h"

double KERNEL(fma_peak)(void) {
    enum { SUMS = LANES == 4 ? 8 : 12, STEPS = 100000 };
    volatile float zero = 0;
    F32 s[SUMS], x = f32_all(1 + zero), y = f32_all(zero);
    for (int i = 0; i < SUMS; i++) s[i] = f32_all((float)i);
    const double start = clock_seconds();
    for (int n = 0; n < STEPS; n++) {
        for (int i = 0; i < SUMS; i++) s[i] = f32_fma(s[i], x, y);
    }
    const double seconds = clock_seconds() - start;
    F32 sum = f32_zero();
    for (int i = 0; i < SUMS; i++) sum = f32_add(sum, s[i]);
    float out[LANES];
    f32_store(out, sum);
    zero = out[0];
    return 2.0 * LANES * SUMS * STEPS / seconds;
}
