// Encoding super-blocks of 256: sub-blocks whose scales are themselves small integers.
//
// This file owns: choosing the integers. Each sub-block is fitted by itself; the super-block's
// scale d (and scale of minima m) follows from the greatest; then integers, codes and d are
// polished together:
//   1. d fixed: each sub-block tries the integer scales (and minima) around its own fit;
//   2. integers and codes fixed: d and m by least squares over all 256 weights, rounded to halves;
// and again, keeping the best. It leaves to others: the fit of one sub-block (quant_fit.h).
// The layouts are drawn beside the decoders in quants.c.
#include "formats/quantize_k.h"

#include "formats/quant_fit.h"
#include "formats/quants.h"

enum { ROUNDS = 2 };

static void store_f16(uint8_t *p, float x) {
    uint16_t h = f32_to_f16(x);
    memcpy(p, &h, 2);
}

// v rounded to the nearest integer and clamped.
static int nearest(double v, int lo, int hi) {
    if (v <= lo) return lo;
    if (v >= hi) return hi;
    return (int)(v + (v < 0 ? -0.5 : 0.5));
}

static int clamp_int(int v, int lo, int hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

// ---- scales and minima: Q2_K, Q4_K, Q5_K ------------------------------------------------------

typedef struct {
    float d, m;
    int scale[16], min[16];
    FitSums sums[16];  // with these
    double error;
} Affines;

typedef struct {
    const float *x;
    int n_subs, len;  // sub-blocks and their length
    int most;         // greatest integer scale and minimum
    float hi;         // greatest code
    Fit fit[16];      // of each sub-block by itself
} AffineJob;

static Fit affine_of(const Affines *a, int j) {
    return (Fit){a->d * (float)a->scale[j], -(a->m * (float)a->min[j])};
}

// The best integer scale of sub-block j for a->d, with the minimum that its own fit asks for.
static void settle_affine(const AffineJob *job, Affines *a, int j) {
    int s0 = a->d > 0 ? nearest(job->fit[j].scale / a->d, 0, job->most) : 0;
    int min = a->m > 0 ? nearest(-job->fit[j].min / a->m, 0, job->most) : 0;
    int best = 0;
    Fit f[4];
    FitSums sums[4];
    for (int k = 0; k < 4; k++) {
        int s = clamp_int(s0 + k - 1, 0, job->most);
        f[k] = (Fit){a->d * (float)s, -(a->m * (float)min)};
    }
    quant_sums(job->x + j * job->len, job->len, f, (CodeRange){0, job->hi}, sums);
    for (int k = 1; k < 4; k++) best = sums[k].error < sums[best].error ? k : best;
    a->scale[j] = clamp_int(s0 + best - 1, 0, job->most);
    a->min[j] = min;
    a->sums[j] = sums[best];
    a->error += (double)sums[best].error;
}

static void settle_affines(const AffineJob *job, Affines *a) {
    a->error = 0;
    for (int j = 0; j < job->n_subs; j++) settle_affine(job, a, j);
}

// Least squares for d and m: x = d * (scale * q) - m * min.
static void refit_affines(const AffineJob *job, Affines *a) {
    double aa = 0, am = 0, mm = 0, xa = 0, xm = 0;
    for (int j = 0; j < job->n_subs; j++) {
        const FitSums *t = &a->sums[j];
        double s = a->scale[j], k = a->min[j];
        aa += s * s * t->qq, am += s * k * t->q, mm += k * k * job->len;
        xa += s * t->xq, xm += k * t->x;
    }
    double det = aa * mm - am * am;
    if (det > 0) {
        double d = (xa * mm - xm * am) / det, m = (xa * am - xm * aa) / det;
        if (d > 0 && m >= 0) a->d = quant_f16(d), a->m = quant_f16(m);
    } else if (aa > 0 && xa > 0) {
        a->d = quant_f16(xa / aa);
    }
}

static void search_affines(AffineJob *job, Affines *best) {
    float scale = 0, min = 0;
    for (int j = 0; j < job->n_subs; j++) {
        job->fit[j] = quant_fit_affine(job->x + j * job->len, job->len, job->hi, 1);
        scale = job->fit[j].scale > scale ? job->fit[j].scale : scale;
        min = -job->fit[j].min > min ? -job->fit[j].min : min;
    }
    best->d = quant_f16_up(scale / (float)job->most);
    best->m = quant_f16_up(min / (float)job->most);
    settle_affines(job, best);
    Affines a = *best;
    for (int i = 0; i < ROUNDS; i++) {
        refit_affines(job, &a);
        if (a.d == best->d && a.m == best->m) break;
        settle_affines(job, &a);
        if (a.error >= best->error) break;
        *best = a;
    }
}

static void affine_codes(const AffineJob *job, const Affines *a, uint8_t *code) {
    float q[32];
    for (int j = 0; j < job->n_subs; j++) {
        quant_codes(job->x + j * job->len, job->len, affine_of(a, j), (CodeRange){0, job->hi}, q);
        for (int i = 0; i < job->len; i++) code[j * job->len + i] = (uint8_t)q[i];
    }
}

// Byte i of each half's 32 gets the low 2 bits of weights i, 32 + i, 64 + i, 96 + i.
static void pack_2_bits(const uint8_t code[256], uint8_t *out) {
    for (int half = 0; half < 2; half++, code += 128, out += 32) {
        for (int i = 0; i < 32; i++) {
            out[i] = (uint8_t)((code[i] & 3) | (code[32 + i] & 3) << 2 | (code[64 + i] & 3) << 4 |
                               (code[96 + i] & 3) << 6);
        }
    }
}

void quantize_q2_k(const float *x, uint8_t *b) {
    AffineJob job = {.x = x, .n_subs = 16, .len = 16, .most = 15, .hi = 3};
    Affines a;
    uint8_t code[256];
    search_affines(&job, &a);
    affine_codes(&job, &a, code);
    for (int j = 0; j < 16; j++) b[j] = (uint8_t)(a.scale[j] | a.min[j] << 4);
    pack_2_bits(code, b + 16);
    store_f16(b + 80, a.d);
    store_f16(b + 82, a.m);
}

// The inverse of k4_scale_min.
static void pack_scales_mins(const Affines *a, uint8_t p[12]) {
    for (int j = 0; j < 4; j++) {
        p[j] = (uint8_t)(a->scale[j] | (a->scale[j + 4] >> 4) << 6);
        p[j + 4] = (uint8_t)(a->min[j] | (a->min[j + 4] >> 4) << 6);
        p[j + 8] = (uint8_t)((a->scale[j + 4] & 15) | (a->min[j + 4] & 15) << 4);
    }
}

static void encode_q45_k(const float *x, float hi, uint8_t *b, uint8_t code[256]) {
    AffineJob job = {.x = x, .n_subs = 8, .len = 32, .most = 63, .hi = hi};
    Affines a;
    search_affines(&job, &a);
    affine_codes(&job, &a, code);
    store_f16(b, a.d);
    store_f16(b + 2, a.m);
    pack_scales_mins(&a, b + 4);
}

// Byte i of each quarter's 32 gets the low nibbles of weights i and 32 + i.
static void pack_quarters(const uint8_t code[256], uint8_t *out) {
    for (int quarter = 0; quarter < 4; quarter++, code += 64, out += 32) {
        for (int i = 0; i < 32; i++) {
            out[i] = (uint8_t)((code[i] & 15) | (code[32 + i] & 15) << 4);
        }
    }
}

void quantize_q4_k(const float *x, uint8_t *b) {
    uint8_t code[256];
    encode_q45_k(x, 15, b, code);
    pack_quarters(code, b + 16);
}

void quantize_q5_k(const float *x, uint8_t *b) {
    uint8_t code[256];
    encode_q45_k(x, 31, b, code);
    memset(b + 16, 0, 32);
    for (int i = 0; i < 256; i++) b[16 + (i & 31)] |= (uint8_t)((code[i] >> 4) << (i >> 5));
    pack_quarters(code, b + 48);
}

// ---- scales alone: Q3_K, Q6_K -----------------------------------------------------------------

typedef struct {
    float d;
    int scale[16];
    FitSums sums[16];  // with these
    double error;
} Scales;

typedef struct {
    const float *x;   // 16 sub-blocks of 16
    int least, most;  // integer scales
    CodeRange r;
    float fit[16];
} ScaleJob;

static void settle_scales(const ScaleJob *job, Scales *s) {
    s->error = 0;
    for (int j = 0; j < 16; j++) {
        int s0 = s->d != 0 ? nearest(job->fit[j] / s->d, job->least, job->most) : 0;
        Fit f[4];
        FitSums sums[4];
        int best = 0;
        for (int k = 0; k < 4; k++) {
            f[k] = (Fit){s->d * (float)clamp_int(s0 + k - 1, job->least, job->most), 0};
        }
        quant_sums(job->x + 16 * j, 16, f, job->r, sums);
        for (int k = 1; k < 4; k++) best = sums[k].error < sums[best].error ? k : best;
        s->scale[j] = clamp_int(s0 + best - 1, job->least, job->most);
        s->sums[j] = sums[best];
        s->error += (double)sums[best].error;
    }
}

static void refit_scales(Scales *s) {
    double qq = 0, xq = 0;
    for (int j = 0; j < 16; j++) {
        double k = s->scale[j];
        qq += k * k * s->sums[j].qq, xq += k * s->sums[j].xq;
    }
    if (qq > 0) s->d = quant_f16(xq / qq);
}

static void search_scales(ScaleJob *job, Scales *best) {
    float top = 0;
    for (int j = 0; j < 16; j++) {
        float s = job->fit[j] = quant_fit_scale(job->x + 16 * j, 16, job->r);
        if ((s < 0 ? -s : s) > (top < 0 ? -top : top)) top = s;
    }
    best->error = -1;
    // The greatest scale becomes the least integer, whose range is one wider.
    Scales s = {.d = quant_f16_up(top / (float)job->least)};
    for (int i = 0; i <= ROUNDS; i++) {
        settle_scales(job, &s);
        if (best->error >= 0 && s.error >= best->error) break;
        *best = s;
        refit_scales(&s);
    }
}

static void scale_codes(const ScaleJob *job, const Scales *s, uint8_t code[256]) {
    float q[16];
    for (int j = 0; j < 16; j++) {
        quant_codes(job->x + 16 * j, 16, (Fit){s->d * (float)s->scale[j], 0}, job->r, q);
        for (int i = 0; i < 16; i++) code[16 * j + i] = (uint8_t)(q[i] - job->r.lo);
    }
}

void quantize_q3_k(const float *x, uint8_t *b) {
    ScaleJob job = {.x = x, .least = -32, .most = 31, .r = {-4, 3}};
    Scales s;
    uint8_t code[256];
    search_scales(&job, &s);
    scale_codes(&job, &s, code);
    memset(b, 0, 110);
    for (int i = 0; i < 256; i++) b[i & 31] |= (uint8_t)((code[i] >> 2) << (i >> 5));
    pack_2_bits(code, b + 32);
    for (int j = 0; j < 16; j++) {
        int k = s.scale[j] + 32;
        b[96 + (j & 7)] |= (uint8_t)((k & 15) << 4 * (j / 8));
        b[104 + (j & 3)] |= (uint8_t)((k >> 4) << 2 * (j / 4));
    }
    store_f16(b + 108, s.d);
}

void quantize_q6_k(const float *x, uint8_t *b) {
    ScaleJob job = {.x = x, .least = -128, .most = 127, .r = {-32, 31}};
    Scales s;
    uint8_t code[256];
    search_scales(&job, &s);
    scale_codes(&job, &s, code);
    for (int half = 0; half < 2; half++) {
        const uint8_t *c = code + 128 * half;
        for (int i = 0; i < 64; i++)
            b[64 * half + i] = (uint8_t)((c[i] & 15) | (c[64 + i] & 15) << 4);
        for (int i = 0; i < 32; i++) {
            b[128 + 32 * half + i] = (uint8_t)(c[i] >> 4 | (c[32 + i] >> 4) << 2 |
                                               (c[64 + i] >> 4) << 4 | (c[96 + i] >> 4) << 6);
        }
    }
    for (int j = 0; j < 16; j++) b[192 + j] = (uint8_t)(int8_t)s.scale[j];
    store_f16(b + 208, s.d);
}
