// Functions of floats, in lanes.
#ifndef PLUMB_BACKEND_CPU_LANES_MATH_H
#define PLUMB_BACKEND_CPU_LANES_MATH_H

#include "backend/cpu/lanes.h"

// exp(x) within 2 units in the last place for -87.3 <= x <= 88.7; 0 below, exp(88.7) above; NaN
// stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2, exp(r) by its Taylor series to r^7, then n into
// the exponent: the result is a normal number.
static inline F32 f32_exp(F32 x) {
    const F32 least = f32_all(-87.3f), most = f32_all(88.7f);
    const F32 magic = f32_all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const F32 c = f32_min(most, f32_max(least, x));
    const F32 t = f32_fma(c, f32_all(1.44269504f), magic);
    const F32 n = f32_sub(t, magic);
    F32 r = f32_fma(n, f32_all(-0.693359375f), c);  // ln 2 in two parts, the first exact in 10 bits
    r = f32_fma(n, f32_all(2.12194440e-4f), r);
    // In pairs of terms: a short chain of steps that wait for each other.
    const F32 r2 = f32_mul(r, r);
    const F32 high = f32_fma(f32_all(1.0f / 5040), r, f32_all(1.0f / 720));
    const F32 middle = f32_fma(f32_all(1.0f / 120), r, f32_all(1.0f / 24));
    const F32 low = f32_fma(f32_all(1.0f / 6), r, f32_all(0.5f));
    const F32 terms = f32_fma(f32_fma(high, r2, middle), r2, low);
    const F32 p = f32_add(f32_fma(terms, r2, r), f32_all(1.0f));
    const F32 y = f32_unless(x, least, f32_raise(p, t));
    return f32_add(y, f32_sub(c, c));  // of NaN bits f32_raise makes anything
}

#endif
