// How the input of a matmul is rounded to small integers (ACT_Q8_0, ACT_Q8_K in backend.h): the
// scale of a block, and eight elements at a time.
#ifndef PLUMB_BACKEND_CPU_ACT_ROUND_H
#define PLUMB_BACKEND_CPU_ACT_ROUND_H

#include <math.h>
#include <stdbool.h>

#include "backend/cpu/vec.h"

// The largest |x| of n elements; NaN when there is one (integer order puts it above infinity).
static inline float act_largest(const float *x, int n) {
    i32x8 m = {0};
    for (int i = 0; i < n; i += 8) {
        i32x8 v = (i32x8)f32x8_load(x + i) & 0x7fffffff;
        i32x8 more = i32x8_negative(m - v);
        m = (more & v) | (~more & m);
    }
    int32_t top = 0;
    for (int i = 0; i < 8; i++) top = m[i] > top ? m[i] : top;
    float f;
    memcpy(&f, &top, sizeof f);
    return f;
}

// The block's d, and what x is multiplied with; false: all codes are 0, and d is 0 or NaN.
static inline bool act_scale(const float *x, int n, float *d, float *scale) {
    const float most = act_largest(x, n);
    if (!(most >= 0x1p-100f && most <= 3.402823466e38f)) {
        *d = most < 1 ? 0.0f : NAN;  // what is not finite must show in the result
        return false;
    }
    *d = most / 127.0f;
    *scale = 127.0f / most;
    return true;
}

// To the nearest integer, ties to even.
static inline i32x8 act_round8(const float *x, float scale) {
    const f32x8 magic = f32x8_all(12582912.0f);
    return (i32x8)(f32x8_load(x) * f32x8_all(scale) + magic) - 0x4b400000;
}

#endif
