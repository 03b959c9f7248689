// The searches of quant_fit.h.
//
// The error of the best scale is a jagged function of the scale with many local minima: codes jump
// as the scale moves. So: try a grid of scales that spans where the optimum can lie, for each solve
// least squares for the codes it gives, take the best, and polish by alternating codes and scale.
#include "formats/quant_fit.h"

#include <stddef.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "formats/quants.h"

// Four candidates, one a lane: sums then need no shuffling, and each lane adds in the order of x.
typedef float F32x4 __attribute__((vector_size(16)));
typedef int32_t I32x4 __attribute__((vector_size(16)));

// Below this a scale is zero in every format (the smallest half is 6e-8), and above it 1 / scale is
// safe.
static const float tiny = 1e-20f;

static inline F32x4 splat(float x) {
    return (F32x4){x, x, x, x};
}

static inline F32x4 clamp(F32x4 v, F32x4 lo, F32x4 hi) {
#ifdef __SSE2__
    return (F32x4)_mm_min_ps(_mm_max_ps((__m128)v, (__m128)lo), (__m128)hi);
#else
    for (int i = 0; i < 4; i++) v[i] = v[i] < lo[i] ? lo[i] : v[i] > hi[i] ? hi[i] : v[i];
    return v;
#endif
}

// Clamped, then rounded to nearest even by pushing the fraction out of a float's mantissa.
static inline F32x4 round_codes(F32x4 v, F32x4 lo, F32x4 hi) {
    const F32x4 magic = splat(12582912.0f);  // 1.5 * 2^23
    return (clamp(v, lo, hi) + magic) - magic;
}

static inline float magnitude(float x) {
    return x < 0 ? -x : x;
}

static float inverse(float scale) {
    return magnitude(scale) > tiny ? 1.0f / scale : 0.0f;
}

float quant_f16(double v) {
    if (v > 65504.0) v = 65504.0;
    if (v < -65504.0) v = -65504.0;
    return f16_to_f32(f32_to_f16((float)v));
}

float quant_f16_up(double v) {
    float h = quant_f16(v);
    if (v > 65504.0 || v < -65504.0 || (v > 0 ? (double)h >= v : (double)h <= v)) return h;
    return f16_to_f32((uint16_t)(f32_to_f16((float)v) + 1));
}

void quant_codes(const float *x, int n, Fit f, CodeRange r, float *q) {
    F32x4 inv = splat(inverse(f.scale)), min = splat(f.min), lo = splat(r.lo), hi = splat(r.hi);
    for (int i = 0; i < n; i++) q[i] = round_codes((splat(x[i]) - min) * inv, lo, hi)[0];
}

void quant_sums(const float *x, int n, const Fit f[4], CodeRange r, FitSums out[4]) {
    F32x4 lo = splat(r.lo), hi = splat(r.hi), inv, min, scale;
    for (int k = 0; k < 4; k++) {
        inv[k] = inverse(f[k].scale), min[k] = f[k].min, scale[k] = f[k].scale;
    }
    F32x4 sum_e = splat(0), sum_q = sum_e, sum_qq = sum_e, sum_xq = sum_e;
    float sum_x = 0;
    for (int i = 0; i < n; i++) {
        F32x4 v = splat(x[i]), q = round_codes((v - min) * inv, lo, hi), e = (scale * q + min) - v;
        sum_e += e * e, sum_q += q, sum_qq += q * q, sum_xq += v * q;
        sum_x += x[i];
    }
    for (int k = 0; k < 4; k++) {
        out[k] = (FitSums){sum_e[k], sum_q[k], sum_qq[k], sum_xq[k], sum_x};
    }
}

// ---- scale alone ------------------------------------------------------------------------------

// Codes round(x * inv) explain xq^2 / qq of the sum of squares, with scale xq / qq.
typedef struct {
    double xq, qq;  // of the best so far
} ScaleBest;

static float scale_of(const ScaleBest *b) {
    return (float)(b->xq / b->qq);
}

static void keep_best(ScaleBest *best, F32x4 xq, F32x4 qq) {
    for (int k = 0; k < 4; k++) {
        double a = xq[k], b = qq[k];
        if (a * a * best->qq > best->xq * best->xq * b) *best = (ScaleBest){a, b};
    }
}

// The weight of the greatest magnitude, with its sign.
static float top_of(const float *x, int n) {
    float top = 0;
    for (int i = 0; i < n; i++) top = magnitude(x[i]) > magnitude(top) ? x[i] : top;
    return top;
}

static void try_scales(const float *x, int n, F32x4 inv, CodeRange r, ScaleBest *best) {
    F32x4 qq = splat(0), xq = qq, lo = splat(r.lo), hi = splat(r.hi);
    for (int i = 0; i < n; i++) {
        F32x4 v = splat(x[i]), q = round_codes(v * inv, lo, hi);
        qq += q * q, xq += v * q;
    }
    keep_best(best, xq, qq);
}

float quant_fit_scale(const float *x, int n, CodeRange r) {
    float top = top_of(x, n), inv = inverse(r.lo == -r.hi ? -magnitude(top) : top);
    if (inv == 0) return 0;
    // The greatest weight gets a code from 2 inside the range (a coarser grid may fit the others
    // better) to almost 1 outside (clipping one may pay for the rest), at either end of the range.
    // Whole codes are among them, so that weights which were such codes once are found to be.
    ScaleBest best = {0, 1};
    const F32x4 steps = {0, 0.25f, 0.5f, 0.75f};
    for (float k = -2; k <= 0; k += 1) {
        try_scales(x, n, (r.lo - k - steps) * inv, r, &best);
        if (r.lo != -r.hi) try_scales(x, n, (r.hi + k + steps) * inv, r, &best);
    }
    const F32x4 around =
        1 + (F32x4){0, -1, 1, 2} / (-16 * r.lo);  // sixteenths of a code at the top
    for (int i = 0; i < 2; i++) try_scales(x, n, inverse(scale_of(&best)) * around, r, &best);
    return scale_of(&best);
}

// ---- scale alone, over the uneven values of IQ4_NL ----------------------------------------------

// The value nearest to i - 128.
static const int8_t iq4nl_nearest[256] = {
    -127, -127, -127, -127, -127, -127, -127, -127, -127, -127, -127, -127, -127, -104, -104, -104,
    -104, -104, -104, -104, -104, -104, -104, -104, -104, -104, -104, -104, -104, -104, -104, -104,
    -104, -104, -104, -83,  -83,  -83,  -83,  -83,  -83,  -83,  -83,  -83,  -83,  -83,  -83,  -83,
    -83,  -83,  -83,  -83,  -83,  -83,  -83,  -65,  -65,  -65,  -65,  -65,  -65,  -65,  -65,  -65,
    -65,  -65,  -65,  -65,  -65,  -65,  -65,  -65,  -49,  -49,  -49,  -49,  -49,  -49,  -49,  -49,
    -49,  -49,  -49,  -49,  -49,  -49,  -49,  -35,  -35,  -35,  -35,  -35,  -35,  -35,  -35,  -35,
    -35,  -35,  -35,  -35,  -22,  -22,  -22,  -22,  -22,  -22,  -22,  -22,  -22,  -22,  -22,  -22,
    -22,  -10,  -10,  -10,  -10,  -10,  -10,  -10,  -10,  -10,  -10,  -10,  1,    1,    1,    1,
    1,    1,    1,    1,    1,    1,    1,    1,    13,   13,   13,   13,   13,   13,   13,   13,
    13,   13,   13,   13,   25,   25,   25,   25,   25,   25,   25,   25,   25,   25,   25,   25,
    38,   38,   38,   38,   38,   38,   38,   38,   38,   38,   38,   38,   38,   38,   53,   53,
    53,   53,   53,   53,   53,   53,   53,   53,   53,   53,   53,   53,   53,   53,   69,   69,
    69,   69,   69,   69,   69,   69,   69,   69,   69,   69,   69,   69,   69,   69,   69,   69,
    89,   89,   89,   89,   89,   89,   89,   89,   89,   89,   89,   89,   89,   89,   89,   89,
    89,   89,   89,   89,   89,   89,   113,  113,  113,  113,  113,  113,  113,  113,  113,  113,
    113,  113,  113,  113,  113,  113,  113,  113,  113,  113,  113,  113,  113,  113,  113,  113,
};

static void try_iq4nl(const float *x, int n, F32x4 inv, ScaleBest *best) {
    F32x4 qq = splat(0), xq = qq, lo = splat(-128), hi = splat(127);
    const F32x4 magic = splat(8388608.0f + 128.0f);  // leaves the integer + 128 in the low bits
    for (int i = 0; i < n; i++) {
        F32x4 v = splat(x[i]);
        I32x4 u = (I32x4)(clamp(v * inv, lo, hi) + magic);
        F32x4 q = {iq4nl_nearest[u[0] & 255], iq4nl_nearest[u[1] & 255], iq4nl_nearest[u[2] & 255],
                   iq4nl_nearest[u[3] & 255]};
        qq += q * q, xq += v * q;
    }
    keep_best(best, xq, qq);
}

float quant_fit_iq4nl(const float *x, int n) {
    float top = top_of(x, n), inv = inverse(top);
    if (inv == 0) return 0;
    ScaleBest best = {0, 1};
    const F32x4 steps = {0, 4, 8, 12};
    for (float k = 0; k < 48; k += 16) {
        try_iq4nl(x, n, (-95.0f - k - steps) * inv, &best);
        try_iq4nl(x, n, (89.0f + k + steps) * inv, &best);
    }
    const F32x4 around = {1, 0.99f, 1.01f, 1.02f};
    try_iq4nl(x, n, inverse(scale_of(&best)) * around, &best);
    return scale_of(&best);
}

void quant_codes_iq4nl(const float *x, int n, float scale, float *q) {
    float inv = inverse(scale);
    for (int i = 0; i < n; i++) {
        q[i] = 0;
        for (int k = 0; k < 15; k++) {
            float middle = 0.5f * (float)(iq4nl_values[k] + iq4nl_values[k + 1]);
            q[i] += x[i] * inv > middle ? 1.0f : 0.0f;
        }
    }
}

// ---- scale and minimum ------------------------------------------------------------------------

typedef struct {
    const float *x;  // shifted so that the lowest is 0: sums of squares then keep their digits
    int n;
    float hi;
    double sx;    // sum of x
    double most;  // the minimum may not lie above this
    double gain,
        det;  // of the best so far: gain / det + sx^2 / n of the sum of squares is explained
    Fit best;
} Affine;

static void consider(Affine *a, double q, double qq, double xq) {
    double n = a->n, sx = a->sx, det = n * qq - q * q, slope = n * xq - sx * q;
    if (!(det > 0 && slope > 0)) return;
    double min = sx * qq - q * xq;  // times det
    if (min <= a->most * det) {
        double gain = slope * slope;
        if (gain * a->det > a->gain * det) {
            a->gain = gain, a->det = det, a->best = (Fit){(float)(slope / det), (float)(min / det)};
        }
        return;
    }
    // The minimum at its bound m: x - m against q alone.
    double m = a->most, cross = xq - m * q;
    double gain = (cross * cross / qq + m * (2 * sx - n * m)) * n - sx * sx;
    if (cross > 0 && gain * a->det > a->gain) {
        a->gain = gain, a->det = 1, a->best = (Fit){(float)(cross / qq), (float)m};
    }
}

static void try_affines(Affine *a, F32x4 inv, F32x4 offset) {
    F32x4 lo = splat(0), hi = splat(a->hi), sq = lo, sqq = lo, sxq = lo;
    for (int i = 0; i < a->n; i++) {
        F32x4 v = splat(a->x[i]), q = round_codes(v * inv + offset, lo, hi);
        sq += q, sqq += q * q, sxq += v * q;
    }
    for (int k = 0; k < 4; k++) consider(a, sq[k], sqq[k], sxq[k]);
}

Fit quant_fit_affine(const float *x, int n, float hi, int at_most_0) {
    float low = x[0], high = x[0], shifted[256];
    for (int i = 1; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (at_most_0 && low > 0) low = 0;
    float range = high - low, inv = inverse(range);
    if (inv == 0) return (Fit){0, low};
    Affine a = {.x = shifted,
                .n = n,
                .hi = hi,
                .most = at_most_0 ? -(double)low : 1e30,
                .gain = -1,
                .det = 1,
                .best = {range / hi, 0}};
    for (int i = 0; i < n; i++) shifted[i] = x[i] - low, a.sx += (double)shifted[i];
    // The lowest weight gets code -below, the highest hi + above; what leaves the range is clipped.
    const F32x4 above = {-0.45f, 0, 0.45f, 0.9f};
    for (float below = -0.6f; below < 1; below += 0.3f) {
        try_affines(&a, (hi + below + above) * inv, splat(-below));
    }
    const F32x4 around = 1 + (F32x4){0, -1, 1, 2} / (8 * hi);  // eighths of a code at the top
    for (int i = 0; i < 2; i++) {
        F32x4 polished = inverse(a.best.scale) * around;
        try_affines(&a, polished, -a.best.min * polished);
    }
    a.best.min += low;
    return a.best;
}
