// The ways in which engines round; see rounding.h.
//
// Each is computed as the engine computes it: in float32, step by step. Engines of the same way
// still differ by a few roundings (x * (127 / max), x * (1 / d), x / d with d = max / 127), and in
// what they do with a tie; so a value that lies that close to a tie may come out on either side of
// it.
#include "verify/rounding.h"

#include <math.h>
#include <string.h>

const char *act_way_name(ActWay way) {
    static const char *const names[N_WAYS] = {"none",
                                              "f16",
                                              "bf16",
                                              "q8_0",
                                              "q8_0 (f16 scale)",
                                              "q8_0 (cache)",
                                              "q8_1",
                                              "q8_k",
                                              "q8_k signed",
                                              "q8_k (128 steps)",
                                              "q8 per row",
                                              "q8 per tensor",
                                              "q8_1 (sums of x)"};
    return names[way];
}

ActWay act_way_of(ActQuant declared) {
    static const ActWay ways[] = {WAY_NONE, WAY_F16, WAY_BF16, WAY_Q8_0, WAY_Q8_K};
    return ways[declared];
}

// --- how sure a rounded value is --------------------------------------------------------------

// By how much engines' scaled values and scales differ: one or two roundings more or less, a
// division on a GPU that is off by two units in the last place.
#define CODE_VARIANTS (4 * 0x1p-24)
#define SCALE_VARIANTS (2 * 0x1p-24)

// The chance that a normal number is above z >= 0 standard deviations, as a parabola (a little
// above the true one, 0 from 3 on).
static double tail(double z) {
    return z < 3 ? 0.5 * (1 - z / 3) * (1 - z / 3) : 0;
}

// v was rounded to the whole number k; engines agree in v to a part of `variants`. The variance of
// what v + noise of deviation s would have been rounded to, about k. Where a tie lies within six
// deviations it is at least 1/16: a step that is unlikely but possible must stay well within
// BOUND_CONFIDENCE deviations.
static double code_variance(double v, double k, double s, double variants) {
    const double f = v - k, up = fabs(0.5 - f), down = fabs(0.5 + f);
    const double near = up < down ? up : down;
    if (s > 0.5) return s * s + f * f + 1.0 / 12;
    double variance = near <= variants * fabs(v) ? 0.5 : 0;
    if (s > 0 && near < 6 * s) {
        const double next = tail(up / s) + tail(down / s);
        const double second = tail((up + 1) / s) + tail((down + 1) / s);
        variance += fmax(next + 3 * second, 1.0 / 16);
    }
    return variance;
}

// --- 16-bit floats ----------------------------------------------------------------------------

// From one value of p to the next larger one, at x.
static double step_at(Precision p, double x) {
    int e;
    frexp(x, &e);
    const int digits = p == PREC_F16 ? 11 : 8, least = p == PREC_F16 ? -24 : -133;
    return ldexp(1, e - digits > least ? e - digits : least);
}

static double to_half(double x, Precision p) {
    return p == PREC_F16 ? f16_to_f32(f32_to_f16((float)x)) : bf16_to_f32(f32_to_bf16((float)x));
}

// Deviation of what x +- sd is rounded to, x itself to y. Below a power of two the steps are half
// as large: there they are taken for the steps on both sides.
static double half_sd(Precision p, double x, double y, double sd, double variants) {
    if (!isfinite(y)) return 0;
    int e;
    double step = step_at(p, y);
    const bool half_below = fabs(frexp(y, &e)) == 0.5 && fabs(x) < fabs(y) + 3 * sd;
    if (half_below && fabs(x - y) <= step / 4 + 3 * sd) step /= 2;
    return step * sqrt(code_variance(x / step, y / step, sd / step, variants));
}

static void round_floats(Precision p, const double *x, const double *x_sd, size_t n, double *out,
                         double *out_sd) {
    for (size_t i = 0; i < n; i++) {
        const double sd = x_sd ? x_sd[i] : 0, v = x[i], y = to_half(v, p);
        out[i] = y;
        if (out_sd) out_sd[i] = sd > 0 ? half_sd(p, v, y, sd, 0) : 0;
    }
}

// --- blocks of 8-bit codes --------------------------------------------------------------------

typedef struct {
    float d;         // an element is code * d
    float codes;     // and code = x * codes, the product in float32
    double exact;    // codes before it was rounded
    double d_sd;     // of d
    double code_sd;  // of the scaled values, relative to them
} Scale;

// most: the element of the largest magnitude, and the deviation of that magnitude.
static Scale scale_of(ActWay way, float most, double sd) {
    const float size = fabsf(most);
    Scale s = {size / 127.0f, 127.0f / size, 127.0 / size, sd / 127, sd / size};
    if (way == WAY_Q8_K_SIGNED || way == WAY_Q8_K_128) {
        const float codes = way == WAY_Q8_K_128 ? -128.0f : -127.0f;
        s.codes = codes / most, s.exact = (double)codes / most;
        s.d = 1.0f / s.codes, s.d_sd = sd / -(double)codes;
    }
    if (way == WAY_Q8_0_HALF || way == WAY_Q8_1 || way == WAY_Q8_1_SUM || way == WAY_Q8_0_CACHE) {
        s.d = f16_to_f32(f32_to_f16(s.d));
        s.d_sd = half_sd(PREC_F16, size / 127.0, s.d, sd / 127, SCALE_VARIANTS);
    }
    if (way == WAY_Q8_0_CACHE) {
        const bool usable = s.d > 0 && isfinite(s.d);
        s.codes = usable ? 1.0f / s.d : 0.0f, s.exact = usable ? 1.0 / s.d : 0;
        s.code_sd = usable ? s.d_sd / s.d : 0;
    }
    return s;
}

typedef struct {
    float most;   // the element of largest magnitude, NaN where one is not finite
    size_t at;    // which
    double sd;    // of its magnitude
    bool sure;    // no other can be larger
    bool any_sd;  // of the block
} Largest;

static Largest largest(const double *x, const double *x_sd, size_t n) {
    Largest m = {.sure = true};
    for (size_t i = 0; i < n; i++) {
        const float v = (float)x[i];
        if (!isfinite(v)) return (Largest){.most = NAN};
        if (fabsf(v) > fabsf(m.most)) m.most = v, m.at = i;
        if (x_sd && x_sd[i] > 0) m.any_sd = true;
    }
    if (!m.any_sd) return m;
    m.sd = x_sd[m.at];
    for (size_t i = 0; i < n; i++) {
        if (i == m.at || fabs(x[i]) + 6 * (x_sd[i] + m.sd) < fabsf(m.most)) continue;
        m.sd = fmax(m.sd, x_sd[i]);
        m.sure = false;
    }
    return m;
}

static void fill(double *out, double *out_sd, size_t n, double value) {
    for (size_t i = 0; i < n; i++) {
        out[i] = value;
        if (out_sd) out_sd[i] = 0;
    }
}

// The code of x, as a float32 engine finds it. Codes past 127 are there in two ways only.
static double code_of(ActWay way, const Scale *s, double x) {
    float v = (float)x * s->codes;
    if (way == WAY_Q8_0_CACHE) v = v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v;
    const float k = (v + 12582912.0f) - 12582912.0f;  // the nearest whole number, ties to even
    return way == WAY_Q8_K_128 && k > 127.0f ? 127 : (double)k;
}

// Of the code k of element i = x +- sd, in steps.
static double element_variance(ActWay way, const Scale *s, const Largest *m, size_t i, double x,
                               double k, double sd) {
    if (i == m->at && m->sure) return 0;  // it sets the scale: its own code never changes
    const double v = x * s->exact;
    const double noise = m->any_sd || s->code_sd > 0 ? hypot(sd * s->exact, v * s->code_sd) : 0;
    const bool clamped = fabs(v) > fabs(k) + 0.51;  // then the tie below is what counts
    const double variance = code_variance(clamped ? k : v, k, noise, CODE_VARIANTS);
    // Another largest element of the other sign: 127 for -128.
    return way == WAY_Q8_K_128 && !m->sure && fabs(v) > 127 ? variance + 0.5 : variance;
}

static void round_block(ActWay way, const double *x, const double *x_sd, size_t n, double *out,
                        double *out_sd) {
    const Largest m = largest(x, x_sd, n);
    if (isnan(m.most)) {
        fill(out, out_sd, n, NAN);  // what is not finite must show in the result
        return;
    }
    if (fabsf(m.most) < 0x1p-100f) {
        if (out_sd && x_sd && out_sd != x_sd) memcpy(out_sd, x_sd, n * sizeof *out_sd);
        fill(out, x_sd ? NULL : out_sd, n, 0);
        return;
    }
    const Scale s = scale_of(way, m.most, m.sd);
    for (size_t i = 0; i < n; i++) {
        const double given = x[i], sd = x_sd ? x_sd[i] : 0, k = code_of(way, &s, given);
        out[i] = k * s.d;
        if (!out_sd) continue;
        const double variance = element_variance(way, &s, &m, i, given, k, sd);
        const double of_code = variance > 0 ? fabs((double)s.d) * sqrt(variance) : 0;
        out_sd[i] = s.d_sd > 0 ? hypot(of_code, k * s.d_sd) : of_code;
    }
}

static size_t block_of(ActWay way, size_t rows, size_t n) {
    switch (way) {
        case WAY_Q8_ROW: return n;
        case WAY_Q8_TENSOR: return rows * n;
        case WAY_Q8_K:
        case WAY_Q8_K_SIGNED:
        case WAY_Q8_K_128: return n < 256 ? n : 256;
        default: return n < 32 ? n : 32;
    }
}

void act_round(ActWay way, const double *x, const double *x_sd, size_t rows, size_t n, double *out,
               double *out_sd, bool *any_sd) {
    const size_t total = rows * n;
    if (way == WAY_NONE) {
        if (out != x) memcpy(out, x, total * sizeof *out);
        if (out_sd && x_sd && out_sd != x_sd) memcpy(out_sd, x_sd, total * sizeof *out_sd);
        if (out_sd && !x_sd) memset(out_sd, 0, total * sizeof *out_sd);
    } else if (way == WAY_F16 || way == WAY_BF16) {
        round_floats(way == WAY_F16 ? PREC_F16 : PREC_BF16, x, x_sd, total, out, out_sd);
    } else {
        const size_t row = way == WAY_Q8_TENSOR ? total : n, block = block_of(way, rows, n);
        for (size_t at = 0; at < total; at += row) {
            for (size_t b = at, len; b < at + row; b += len) {
                len = at + row - b < block ? at + row - b : block;
                round_block(way, x + b, x_sd ? x_sd + b : NULL, len, out + b,
                            out_sd ? out_sd + b : NULL);
            }
        }
    }
    if (!any_sd) return;
    *any_sd = false;
    for (size_t i = 0; out_sd && i < total && !*any_sd; i++) *any_sd = out_sd[i] > 0;
}

// --- sums of blocks ---------------------------------------------------------------------------

bool act_sums(ActWay way, TensorType weights) {
    switch (weights) {
        case TYPE_Q4_1:
        case TYPE_Q5_1: return way == WAY_Q8_1 || way == WAY_Q8_1_SUM;
        case TYPE_Q4_0:
        case TYPE_Q5_0: return way == WAY_Q8_1_SUM;
        default: return false;
    }
}

void act_sum_errors(ActWay way, const double *x, const double *x_sd, size_t rows, size_t n,
                    double *error, double *error_sd) {
    for (size_t b = 0; b < rows * n / 32; b++) {
        double out[32], exact = 0, sum = 0, size = 0, variance = 0;
        round_block(way, x + 32 * b, NULL, 32, out, NULL);
        for (int i = 0; i < 32; i++) {
            exact += x[32 * b + i], sum += out[i], size += fabs(x[32 * b + i]);
            if (x_sd) variance += x_sd[32 * b + i] * x_sd[32 * b + i];
        }
        // The codes' sum is whole, its product with the float32 scale is rounded once; a sum of x
        // in float32 is off by a few roundings, as its order has it.
        double stored = exact, noise = 2 * 0x1p-24 * size;
        if (way == WAY_Q8_1) {
            const Largest m = largest(x + 32 * b, NULL, 32);
            const Scale s = scale_of(way, m.most, 0);
            stored = s.d != 0 ? (float)(sum / s.d) * (fabsf(m.most) / 127.0f) : 0, noise = 0;
        }
        noise = hypot(noise, sqrt(variance));
        const double half = to_half(stored, PREC_F16);
        error[b] = half - sum;
        error_sd[b] = noise > 0 ? half_sd(PREC_F16, stored, half, noise, 0) : 0;
    }
}

void weight_minimums(const Tensor *w, size_t row, double *m) {
    const TypeInfo *info = type_info(w->type);
    const size_t blocks = (size_t)w->dims[0] / 32;
    const uint8_t *at = w->data + row * blocks * info->block_bytes;
    for (size_t b = 0; b < blocks; b++, at += info->block_bytes) {
        const double d = f16_to_f32(load_u16(at));  // Q4_1, Q5_1: the minimum stands behind it
        m[b] = w->type == TYPE_Q4_0   ? -8 * d
               : w->type == TYPE_Q5_0 ? -16 * d
                                      : (double)f16_to_f32(load_u16(at + 2));
    }
}

// --- schemes ----------------------------------------------------------------------------------

// One way for weights of blocks of 32 with and without a minimum, of 256, and of each float type.
#define BY_TYPE(f32, f16, bf16, plain, with_min, super)                                      \
    {                                                                                        \
        [TYPE_F32] = (f32), [TYPE_F16] = (f16), [TYPE_BF16] = (bf16), [TYPE_Q4_0] = (plain), \
        [TYPE_Q5_0] = (plain), [TYPE_Q8_0] = (plain), [TYPE_IQ4_NL] = (plain),               \
        [TYPE_MXFP4] = (plain), [TYPE_Q4_1] = (with_min), [TYPE_Q5_1] = (with_min),          \
        [TYPE_Q2_K] = (super), [TYPE_Q3_K] = (super), [TYPE_Q4_K] = (super),                 \
        [TYPE_Q5_K] = (super), [TYPE_Q6_K] = (super), [TYPE_IQ4_XS] = (super)                \
    }
#define EVERY(way) BY_TYPE(way, way, way, way, way, way)
// llama.cpp's CUDA kernels for at most 8 rows, and for more. What they do with many rows of Q2_K,
// Q4_K and Q5_K is not among the ways: scales are multiplied in f16 there.
#define CUDA_FEW                                                                                \
    {                                                                                           \
        [TYPE_Q4_0] = WAY_Q8_1_SUM, [TYPE_Q4_1] = WAY_Q8_1_SUM, [TYPE_Q5_0] = WAY_Q8_1_SUM,     \
        [TYPE_Q5_1] = WAY_Q8_1_SUM, [TYPE_Q8_0] = WAY_Q8_0_HALF, [TYPE_IQ4_NL] = WAY_Q8_0_HALF, \
        [TYPE_MXFP4] = WAY_Q8_0_HALF, [TYPE_Q2_K] = WAY_Q8_0_HALF, [TYPE_Q3_K] = WAY_Q8_0_HALF, \
        [TYPE_Q4_K] = WAY_Q8_0_HALF, [TYPE_Q5_K] = WAY_Q8_0_HALF, [TYPE_Q6_K] = WAY_Q8_0_HALF,  \
        [TYPE_IQ4_XS] = WAY_Q8_0_HALF                                                           \
    }
#define CUDA_MANY                                                                         \
    {                                                                                     \
        [TYPE_F16] = WAY_F16, [TYPE_BF16] = WAY_BF16, [TYPE_Q4_0] = WAY_Q8_0_HALF,        \
        [TYPE_Q4_1] = WAY_Q8_1_SUM, [TYPE_Q5_0] = WAY_Q8_0, [TYPE_Q5_1] = WAY_Q8_1_SUM,   \
        [TYPE_Q8_0] = WAY_Q8_0, [TYPE_IQ4_NL] = WAY_Q8_0, [TYPE_MXFP4] = WAY_Q8_0,        \
        [TYPE_Q2_K] = WAY_Q8_0_HALF, [TYPE_Q3_K] = WAY_Q8_0, [TYPE_Q4_K] = WAY_Q8_0_HALF, \
        [TYPE_Q5_K] = WAY_Q8_0_HALF, [TYPE_Q6_K] = WAY_Q8_0, [TYPE_IQ4_XS] = WAY_Q8_0     \
    }

const ActScheme *act_scheme_at(int i) {
    static const ActScheme schemes[] = {
        {"none", EVERY(WAY_NONE)},
        {"as llama.cpp's CPU",
         BY_TYPE(WAY_NONE, WAY_F16, WAY_BF16, WAY_Q8_0_HALF, WAY_Q8_1, WAY_Q8_K_SIGNED)},
        {"as Plumb's cpu", BY_TYPE(WAY_NONE, WAY_NONE, WAY_NONE, WAY_Q8_0, WAY_Q8_0, WAY_Q8_K)},
        {"f16", EVERY(WAY_F16)},
        {"bf16", EVERY(WAY_BF16)},
        {"q8_0", EVERY(WAY_Q8_0)},
        {"q8_0 (f16 scale)", EVERY(WAY_Q8_0_HALF)},
        {"q8_1", EVERY(WAY_Q8_1)},
        {"q8_k", EVERY(WAY_Q8_K)},
        {"q8_k signed", EVERY(WAY_Q8_K_SIGNED)},
        {"q8 per row", EVERY(WAY_Q8_ROW)},
        {"q8 per tensor", EVERY(WAY_Q8_TENSOR)},
        {"as llama.cpp's CUDA, few tokens", CUDA_FEW},
        {"as llama.cpp's CUDA", CUDA_MANY},
        {"as candle", BY_TYPE(WAY_NONE, WAY_NONE, WAY_NONE, WAY_Q8_0_HALF, WAY_Q8_1, WAY_Q8_K_128)},
    };
    return i >= 0 && (size_t)i < sizeof schemes / sizeof *schemes ? &schemes[i] : NULL;
}

const AttnScheme *attn_scheme_at(int i) {
    // llama.cpp on a CPU: without flash attention both products round their second factor to the
    // cache's type; with it the scores do, and a short prompt's values are summed in the type of
    // the cache if that is f16 (a long one's in float32, with nothing rounded on the way).
    static const AttnScheme schemes[] = {
        {"f32", TYPE_F32, TYPE_F32, WAY_NONE, WAY_NONE, PREC_F32, WAY_NONE, false, false},
        {"f16 cache", TYPE_F16, TYPE_F16, WAY_NONE, WAY_NONE, PREC_F32, WAY_NONE, false, false},
        {"f16 cache, f16 factors (llama.cpp)", TYPE_F16, TYPE_F16, WAY_F16, WAY_F16, PREC_F32,
         WAY_NONE, false, false},
        {"f16 cache, f16 queries", TYPE_F16, TYPE_F16, WAY_F16, WAY_NONE, PREC_F32, WAY_NONE, false,
         false},
        {"q8_0 cache", TYPE_Q8_0, TYPE_Q8_0, WAY_NONE, WAY_NONE, PREC_F32, WAY_Q8_0_CACHE, false,
         false},
        {"q8_0 cache, q8_0 queries (llama.cpp)", TYPE_Q8_0, TYPE_Q8_0, WAY_Q8_0_HALF, WAY_NONE,
         PREC_F32, WAY_Q8_0_HALF, false, false},
        {"turned q8_0 cache, q8_0 queries (llama.cpp)", TYPE_Q8_0, TYPE_Q8_0, WAY_Q8_0_HALF,
         WAY_NONE, PREC_F32, WAY_Q8_0_HALF, true, true},
        {"turned q8_0 k, f16 v, factors alike (llama.cpp)", TYPE_Q8_0, TYPE_F16, WAY_Q8_0_HALF,
         WAY_F16, PREC_F32, WAY_Q8_0_HALF, true, false},
        {"q8_0 keys, f16 values (Plumb)", TYPE_Q8_0, TYPE_F16, WAY_NONE, WAY_NONE, PREC_F32,
         WAY_Q8_0_CACHE, false, false},
        {"q8_0 k, f16 v, factors alike (llama.cpp)", TYPE_Q8_0, TYPE_F16, WAY_Q8_0_HALF, WAY_F16,
         PREC_F32, WAY_Q8_0_HALF, false, false},
        {"f32 keys, f16 values", TYPE_F32, TYPE_F16, WAY_NONE, WAY_NONE, PREC_F32, WAY_NONE, false,
         false},
        {"f16 keys, q8_0 values", TYPE_F16, TYPE_Q8_0, WAY_NONE, WAY_NONE, PREC_F32, WAY_Q8_0_CACHE,
         false, false},
        {"bf16 cache", TYPE_BF16, TYPE_BF16, WAY_NONE, WAY_NONE, PREC_F32, WAY_NONE, false, false},
        {"bf16", TYPE_BF16, TYPE_BF16, WAY_BF16, WAY_BF16, PREC_F32, WAY_NONE, false, false},
        // What is summed in f16 hides much: last.
        {"f16 cache, q and sums (llama.cpp's flash)", TYPE_F16, TYPE_F16, WAY_F16, WAY_NONE,
         PREC_F16, WAY_NONE, false, false},
        {"f16", TYPE_F16, TYPE_F16, WAY_F16, WAY_F16, PREC_F16, WAY_NONE, false, false},
        {"q8_0 k and q, f16 v and sums (llama.cpp)", TYPE_Q8_0, TYPE_F16, WAY_Q8_0_HALF, WAY_NONE,
         PREC_F16, WAY_Q8_0_HALF, false, false},
        {"turned q8_0 k and q, f16 v and sums (llama.cpp)", TYPE_Q8_0, TYPE_F16, WAY_Q8_0_HALF,
         WAY_NONE, PREC_F16, WAY_Q8_0_HALF, true, false},
    };
    return i >= 0 && (size_t)i < sizeof schemes / sizeof *schemes ? &schemes[i] : NULL;
}

size_t turn_block_k(size_t head_dim) {
    size_t block = 64;
    if (head_dim % block) return 0;
    while (head_dim % (2 * block) == 0) block *= 2;
    return block;
}

size_t turn_block_v(size_t head_dim) {
    return head_dim % 64 ? 0 : 64;
}

void act_turn(double *x, double *x_sd, size_t n, size_t block) {
    for (size_t at = 0; block && at + block <= n; at += block) {
        double *v = x + at, square = 0, variance = 0;
        for (size_t half = 1; half < block; half *= 2) {  // the fast transform
            for (size_t i = 0; i < block; i++) {
                if (i & half) continue;
                const double a = v[i], b = v[i | half];
                v[i] = a + b, v[i | half] = a - b;
            }
        }
        for (size_t i = 0; i < block; i++) {
            v[i] /= sqrt((double)block);
            square += v[i] * v[i];
            if (x_sd) variance += x_sd[at + i] * x_sd[at + i];
        }
        // Every element gets a share of every other's uncertainty, and of a float32 product's.
        const double sd = sqrt((variance + 4 * 0x1p-48 * square) / (double)block);
        for (size_t i = 0; x_sd && i < block; i++) x_sd[at + i] = sd;
    }
}

ActWay attn_cache_way(const AttnScheme *a, TensorType type) {
    switch (type) {
        case TYPE_F16: return WAY_F16;
        case TYPE_BF16: return WAY_BF16;
        case TYPE_Q8_0: return a->q8_0 == WAY_NONE ? WAY_Q8_0_CACHE : a->q8_0;
        default: return WAY_NONE;
    }
}

void cache_round(TensorType type, const double *x, size_t n, double *out) {
    const AttnScheme ours = {.q8_0 = WAY_Q8_0_CACHE};
    act_round(attn_cache_way(&ours, type), x, NULL, 1, n, out, NULL, NULL);
    if (type != TYPE_F32) return;
    for (size_t i = 0; i < n; i++) out[i] = (float)out[i];
}

// --- what a trace says, what its arrays show -------------------------------------------------

static bool cache_type(const char *name, TensorType *out) {
    return name && type_by_name(name, out) &&
           (*out == TYPE_F32 || *out == TYPE_F16 || *out == TYPE_BF16 || *out == TYPE_Q8_0);
}

void rounding_of_trace(const Trace *t, Rounding *out) {
    *out = (Rounding){.act = *act_scheme_at(0), .attn = *attn_scheme_at(0)};
    if (t->says_activation) {
        out->act_declared = true;
        out->act.name = "as the trace says";
        for (int i = 0; i < TYPE_LIMIT; i++) out->act.way[i] = act_way_of(t->activation[i]);
    }
    AttnScheme said = {.name = "as the trace says", .q8_0 = WAY_Q8_0_CACHE};
    if (cache_type(t->kv_type_k, &said.k) && cache_type(t->kv_type_v, &said.v)) {
        out->attn = said;
        out->attn_declared = true;
    }
}

Precision precision_of(const float *x, size_t n) {
    bool half = n > 0, brain = n > 0;
    for (size_t i = 0; i < n && (half || brain); i++) {
        if (!isfinite(x[i])) continue;
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        brain = brain && (bits & 0xffff) == 0;
        half = half && f16_to_f32(f32_to_f16(x[i])) == x[i];
    }
    return brain ? PREC_BF16 : half ? PREC_F16 : PREC_F32;
}
