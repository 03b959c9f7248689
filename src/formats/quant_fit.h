// Finding scales: given weights and a range of integer codes, which scale (and minimum) lose least?
//
// This room owns: the least-squares searches that every encoder shares. The measure is the plain
// sum of squared errors, every weight counting alike. All arithmetic is IEEE single and double in a
// fixed order, so that every machine finds the same blocks; four candidates are tried at once, one
// a lane. It leaves to others: block layouts and how scales are themselves stored (quantize.c,
// quantize_k.c).
//
// Everywhere x is finite and at most 1e9 in magnitude (the limit lies above what any block can
// hold), n is at most 256, and a weight is scale * q + min with lo <= q <= hi.
#ifndef PLUMB_FORMATS_QUANT_FIT_H
#define PLUMB_FORMATS_QUANT_FIT_H

typedef struct {
    float lo, hi;  // integers
} CodeRange;

typedef struct {
    float scale, min;
} Fit;

// What least squares needs to know of weights and their codes.
typedef struct {
    float error;         // sum of squared errors
    float q, qq, xq, x;  // sums of q, q * q, x * q, x
} FitSums;

// The scale, of either sign, with min = 0 that loses least.
float quant_fit_scale(const float *x, int n, CodeRange r);
// Scale and minimum for codes 0..hi; scale >= 0. With at_most_0 the minimum is not positive.
Fit quant_fit_affine(const float *x, int n, float hi, int at_most_0);

// q[i] = the code nearest to x[i]; all zero (clamped into r) where the scale is 0.
void quant_codes(const float *x, int n, Fit f, CodeRange r, float *q);
// What each of four fits loses with its nearest codes.
void quant_sums(const float *x, int n, const Fit f[4], CodeRange r, FitSums out[4]);

// The same for codes that stand for iq4nl_values: the scale, and the codes 0..15 under a scale.
float quant_fit_iq4nl(const float *x, int n);
void quant_codes_iq4nl(const float *x, int n, float scale, float *q);

// The nearest half to v as a float, saturating at +-65504: a scale that a block can store.
float quant_f16(double v);
// The nearest one whose magnitude is not smaller: what is divided by it stays in its range.
float quant_f16_up(double v);

#endif
