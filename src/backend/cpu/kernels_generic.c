// The kernels in plain C: what every faster file is checked against, and fast enough to be used.
//
// A row of weights is unpacked once (unpack.h) and multiplied with every activation of the batch.
// Integer sums are exact; float sums run in the order written here. So the bits do not depend on
// the machine, on the number of threads, or on the size of the batch.
#include "backend/cpu/kernels.h"

#include <math.h>

#include "backend/cpu/act_round.h"
#include "backend/cpu/features.h"
#include "backend/cpu/kernels_attention.h"
#include "backend/cpu/kernels_rows.h"
#include "backend/cpu/unpack.h"
#include "backend/cpu/vec_int.h"

enum {
    ROWS_AT_ONCE = 8,    // unpacked rows that share one walk over the activations
    AHEAD_BYTES = 8192,  // weights asked for before they are needed: the dot product reads none
};

// --- activations ---------------------------------------------------------------------------------

static ActQuant generic_activation(TensorType type) {
    switch (unpack_form(type).block) {
        case 32: return ACT_Q8_0;
        case 256: return ACT_Q8_K;
        default: return ACT_F32;
    }
}

// A quantized activation row of blocks of 32 or 256:
//   q: n x int16 | sum16, sum32: n / 16 x int16 each | d: n / block x float
// q in the order of unpack.h. Of each 256, sum16 holds 16 sums of 16 q, sum32 8 sums of 32 and 8
// zeros; of blocks of 32, sum32 holds one sum after the other.
typedef struct {
    int16_t *q, *sum16, *sum32;
    float *d;
} ActRow;

static ActRow act_row(const void *act, int n) {
    ActRow a;
    a.q = (int16_t *)(uintptr_t)act;
    a.sum16 = a.q + n;
    a.sum32 = a.sum16 + n / 16;
    a.d = (float *)(void *)(a.sum32 + n / 16);
    return a;
}

static size_t act_stride(int n) {
    return ((size_t)n * 2 + (size_t)n / 16 * 4 + (size_t)n / 32 * sizeof(float) + 63) / 64 * 64;
}

static size_t generic_act_bytes(ActQuant quant, int n, int n_act) {
    return quant == ACT_F32 ? 0 : act_stride(n) * (size_t)n_act;
}

static void sum_groups(ActRow a, int n, int block) {
    memset(a.sum32, 0, (size_t)n / 16 * sizeof *a.sum32);
    for (int g = 0; g < n / 16; g++) {
        int s = 0;
        for (int i = 0; i < 16; i++) s += a.q[16 * g + i];
        a.sum16[g] = (int16_t)s;
        int at = block == 32 ? g / 2 : g / 16 * 16 + g % 16 / 2;
        a.sum32[at] = (int16_t)(a.sum32[at] + s);
    }
}

static void quantize_act(const float *x, int n, int block, ActRow a) {
    for (int b = 0; b < n / block; b++, x += block) {
        float scale;
        int16_t *q = a.q + b * block;
        if (!act_scale(x, block, &a.d[b], &scale)) {
            memset(q, 0, (size_t)block * sizeof *q);
            continue;
        }
        for (int i = 0; i < block; i += 8) {
            i16x8 narrow = __builtin_convertvector(act_round8(x + i, scale), i16x8);
            memcpy(q + i, &narrow, sizeof narrow);
        }
    }
    sum_groups(a, n, block);
    for (int g = 0; g < n / 32; g++) {  // the order of unpack.h
        int16_t old[32], *q = a.q + 32 * g;
        memcpy(old, q, sizeof old);
        for (int i = 0; i < 16; i++) q[i] = old[2 * i];
        for (int i = 0; i < 16; i++) q[16 + i] = old[2 * i + 1];
    }
}

static void generic_act_make(ActQuant quant, const float *x, int n, int t, int n_act, void *act) {
    (void)n_act;
    uint8_t *at = (uint8_t *)act + (size_t)t * act_stride(n);
    quantize_act(x, n, quant == ACT_Q8_0 ? 32 : 256, act_row(at, n));
}

// --- dot products --------------------------------------------------------------------------------

// sum += d * lanes, lane by lane.
static inline void add_lanes(f32x4 sum[2], float d, const i32x4 lanes[2]) {
    const f32x4 dv = {d, d, d, d};
    sum[0] += dv * __builtin_convertvector(lanes[0], f32x4);
    sum[1] += dv * __builtin_convertvector(lanes[1], f32x4);
}

static inline float sum_lanes(const f32x4 sum[2]) {
    f32x4 s = sum[0] + sum[1];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static float dot_blocks32(const IntRow *w, ActRow a, int n, bool has_min) {
    f32x4 sum[2] = {{0}, {0}};
    float mins = 0;
    for (int b = 0; b < n / 32; b++) {
        i32x4 lanes[2];
        dot_lanes(w->w + 32 * b, a.q + 32 * b, 32, lanes);
        add_lanes(sum, w->d[b] * a.d[b], lanes);
        if (has_min) mins += w->m[b] * a.d[b] * (float)a.sum32[b];
    }
    return sum_lanes(sum) + mins;
}

static float dot_blocks256(const IntRow *w, ActRow a, int n, UnpackForm form) {
    f32x4 sum[2] = {{0}, {0}}, mins[2] = {{0}, {0}};
    const int16_t *group = form.min_group == 32 ? a.sum32 : a.sum16;
    for (int b = 0; b < n / 256; b++) {
        i32x4 lanes[2];
        dot_lanes(w->w + 256 * b, a.q + 256 * b, 256, lanes);
        add_lanes(sum, w->d[b] * a.d[b], lanes);
        if (!form.has_min) continue;
        dot_lanes(w->min + 16 * b, group + 16 * b, 16, lanes);
        add_lanes(mins, w->m[b] * a.d[b], lanes);
    }
    return sum_lanes(sum) - sum_lanes(mins);
}

// An unpacked row in scratch:  w: n x int16 | min: n / 16 x int16 | d, m: n / 32 x float each,
// or n floats, which take more.
static size_t row_bytes(int n) {
    return ((size_t)n * sizeof(float) + 63) / 64 * 64;
}

static IntRow int_row(uint8_t *at, int n) {
    IntRow r;
    r.w = (int16_t *)(void *)at;
    r.min = r.w + n;
    r.d = (float *)(void *)(r.min + n / 16);
    r.m = r.d + n / 32;
    return r;
}

static size_t generic_scratch(int n) {
    return ROWS_AT_ONCE * row_bytes(n);
}

static float dot_row(UnpackForm form, uint8_t *row, const uint8_t *act, int n) {
    if (form.block == 0) return dot_f32((float *)(void *)row, (const float *)(const void *)act, n);
    IntRow w = int_row(row, n);
    if (form.block == 32) return dot_blocks32(&w, act_row(act, n), n, form.has_min);
    return dot_blocks256(&w, act_row(act, n), n, form);
}

static void generic_matmul_rows(const MatmulTask *m, long r0, long r1, void *scratch) {
    const UnpackForm form = unpack_form(m->type);
    const TypeInfo *info = type_info(m->type);
    const size_t stride = (size_t)m->n / info->block_len * info->block_bytes;
    const size_t unpacked = row_bytes(m->n);
    const size_t acts = form.block ? act_stride(m->n) : (size_t)m->n * sizeof(float);
    const long at_once = m->n_act > 1 ? ROWS_AT_ONCE : 1;
    const size_t ahead = (AHEAD_BYTES + stride - 1) / stride * stride;
    for (long r = r0; r < r1; r += at_once) {
        long rows = r1 - r < at_once ? r1 - r : at_once;
        for (long i = 0; i < rows; i++) {
            uint8_t *at = (uint8_t *)scratch + (size_t)i * unpacked;
            const uint8_t *src = m->w + (size_t)(r + i) * stride;
            for (size_t b = 0; b < stride; b += 64) __builtin_prefetch(src + ahead + b);
            IntRow row = int_row(at, m->n);
            if (form.block)
                unpack_int(m->type, src, m->n, &row);
            else
                unpack_float(m->type, src, m->n, (float *)(void *)at);
        }
        for (int t = 0; t < m->n_act; t++) {
            const uint8_t *act = m->act + (size_t)t * acts;
            for (long i = 0; i < rows; i++) {
                long at = t * m->n_rows + r + i;
                float y = dot_row(form, (uint8_t *)scratch + (size_t)i * unpacked, act, m->n);
                if (m->bias) y += m->bias[r + i];
                if (m->residual) y += m->residual[at];
                m->y[at] = y;
            }
        }
    }
}

// --- the cache -----------------------------------------------------------------------------------

// One block of 32 as Q8_0: d = max|x| / 127 rounded to a half, q = x / d to the nearest. What is
// not finite makes d not finite, so that it shows in every result.
static void kv_write_q8_0(const float *x, uint8_t *block) {
    float most = act_largest(x, 32);
    uint16_t d = f32_to_f16(most / 127.0f);
    float step = f16_to_f32(d), inv = step > 0 && step <= 65504.0f ? 1.0f / step : 0.0f;
    memcpy(block, &d, sizeof d);
    const f32x8 magic = f32x8_all(12582912.0f), top = f32x8_all(127.0f);
    for (int i = 0; i < 32; i += 8) {
        f32x8 v = f32x8_load(x + i) * f32x8_all(inv);
        v = f32x8_pick(v > top, top,
                       f32x8_pick(v < -top, -top, v));  // d may have been rounded down
        i32x8 q = (i32x8)(v + magic) - 0x4b400000;
        for (int k = 0; k < 8; k++) block[2 + i + k] = (uint8_t)q[k];
    }
}

static void generic_kv_write(TensorType type, const float *x, int n, void *row) {
    if (type == TYPE_F32) {
        memcpy(row, x, (size_t)n * sizeof *x);
    } else if (type == TYPE_F16) {
        for (int i = 0; i < n; i++) {
            uint16_t h = f32_to_f16(x[i]);
            memcpy((uint8_t *)row + 2 * i, &h, sizeof h);
        }
    } else {
        for (int b = 0; b < n / 32; b++) kv_write_q8_0(x + 32 * b, (uint8_t *)row + 34 * b);
    }
}

static void generic_kv_read(TensorType type, const void *row, int n, float *x) {
    if (type == TYPE_Q8_0) {
        const uint8_t *src = row;
        for (int b = 0; b < n / 32; b++, src += 34, x += 32) {
            float d = f16_to_f32(load_u16(src));
            for (int i = 0; i < 32; i++) x[i] = d * (float)(int8_t)src[2 + i];
        }
    } else {
        unpack_float(type, row, n, x);
    }
}

static MatmulForm generic_form(TensorType type) {
    (void)type;
    return FORM_ROWS;
}

extern const Kernels KERNEL(kernels);
const Kernels KERNEL(kernels) = {
    .isa = "generic",
    .what = "portable C",
    .lacks = lacks_nothing,
    .form = generic_form,
    .activation = generic_activation,
    .matmul = {[FORM_ROWS] = {generic_act_bytes, generic_act_make, generic_scratch,
                              generic_matmul_rows}},
    .rmsnorm = rows_rmsnorm,
    .swiglu = rows_swiglu,
    .kv_write = generic_kv_write,
    .kv_read = generic_kv_read,
    .attention = &attention_kernels,
};
