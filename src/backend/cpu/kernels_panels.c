// Matmul from panels of 16 rows (panel.h), written once for every instruction set (lanes.h).
//
// The sums within a block are whole numbers and exact; over the blocks float sums run in the order
// of the row, one lane a row:
//   blocks of 32:   y = fma(d * da, sum, y)
//   blocks of 256:  y = fma(da, d * sum, y), or fma(da, fma(-dmin, min sum, d * sum), y)
// So the bits are the same with every instruction set and any number of inputs.
#include "backend/cpu/kernels_panels.h"

#include "backend/cpu/act_round.h"
#include "backend/cpu/lanes.h"
#include "backend/cpu/panel_codes.h"
#include "backend/cpu/panel_out.h"
#include "backend/cpu/vec_int.h"

enum {
    PARTS = PANEL_ROWS / LANES,  // vectors to a panel's 16 rows
    AT_ONCE = 32,                // inputs that share the unpacking of a block
    SIDE = 4,                    // of them go side by side
    STREAMS = 4,                 // panels that are read side by side for one input
    AHEAD = 4096,                // bytes that are asked for before they are needed
};

#define INLINE static inline __attribute__((always_inline))

// --- inputs --------------------------------------------------------------------------------------

// The sums of 16 codes: low half those of index 0 and 1 mod 4, high half those of 2 and 3.
static int32_t sum_pairs(const int8_t *q) {
    i16x8 v;
    memcpy(&v, q, sizeof v);
    const i16x8 two = (i16x8)((u16x8)v << 8) >> 8;
    const i16x8 s = two + (v >> 8);
    return (uint16_t)(s[0] + s[2] + s[4] + s[6]) |
           (int32_t)((uint32_t)(s[1] + s[3] + s[5] + s[7]) << 16);
}

static int16_t halves_sum(int32_t pairs) {
    return (int16_t)((int16_t)pairs + (pairs >> 16));
}

void panels_act_make(ActQuant quant, const float *x, int n, int t, int n_act, void *act) {
    const int block = quant == ACT_Q8_0 ? 32 : 256, groups = block / 16;
    const PanelActs a = panel_acts(act, quant, n, n_act);
    for (int b = 0; b < n / block; b++, x += block) {
        const long at = (long)b * n_act + t;
        int8_t *q = a.q + at * block;
        int32_t pairs[16];
        float scale;
        if (act_scale(x, block, &a.d[at], &scale)) {
            typedef int8_t i8x8 __attribute__((vector_size(8)));
            for (int i = 0; i < block; i += 8) {
                const i8x8 v = __builtin_convertvector(act_round8(x + i, scale), i8x8);
                memcpy(q + i, &v, sizeof v);
            }
        } else {
            memset(q, 0, (size_t)block);
        }
        for (int g = 0; g < groups; g++) pairs[g] = sum_pairs(q + 16 * g);
        if (block == 32) {
            const int16_t low = (int16_t)((int16_t)pairs[0] + (int16_t)pairs[1]);
            const int high = (pairs[0] >> 16) + (pairs[1] >> 16);
            a.pairs[at] = (uint16_t)low | (int32_t)((uint32_t)high << 16);
            continue;
        }
        memcpy(a.pairs + at * 16, pairs, sizeof pairs);
        for (int g = 0; g < 8; g++)
            a.sums[at * 8 + g] = (int16_t)(halves_sum(pairs[2 * g]) + halves_sum(pairs[2 * g + 1]));
    }
}

// --- panels --------------------------------------------------------------------------------------

// Inputs t0 .. t0 + n - 1 of all that a matmul has.
typedef struct {
    PanelActs acts;
    long all;  // inputs in a block of acts
    int t0, n;
} Inputs;

INLINE long input_at(const Inputs *in, int block, int t) {
    return (long)block * in->all + in->t0 + t;
}

// A block's share of what will be needed later, by its i-th of 8 parts; one input waits for memory,
// many do not.
INLINE void ask_ahead(const Inputs *in, const uint8_t *p, int i, int bytes) {
    if (in->n > 1) return;
    const int from = bytes / 64 * i / 8, to = bytes / 64 * (i + 1) / 8;
    for (int line = from; line < to; line++) __builtin_prefetch(p + AHEAD + 64 * line);
}

// Of g inputs, `stride` codes and pair_stride pairs apart: their sums with the codes c[0..n-1]. The
// inputs go side by side: one after the other each step would wait for the one before.
INLINE void dots_of(int g, const Codes *c, int n, const int8_t *q, long stride,
                    const int32_t *pairs, long pair_stride, int bias, Dots *d) {
    for (int t = 0; t < g; t++) d[t] = dots_start(bias ? pairs[t * pair_stride] : 0, bias);
    for (int i = 0; i < n; i++) {
        for (int t = 0; t < g; t++) d[t] = dots_add(d[t], c[i], q + t * stride + 4 * i);
    }
}

// One group of 32 neighbours of Q4_K or Q5_K and g inputs from the t-th on.
INLINE void k4_group(int g, const Codes c[8], bool fifth, Scale scale, const Inputs *in, int block,
                     int j, int t, I32 *sum) {
    const int whole = fifth ? GROUP_5 : GROUP_4;
    const int8_t *q = in->acts.q + input_at(in, block, t) * 256 + 32 * j;
    for (int i = 0; i < 8; i += whole) {
        Dots d[SIDE];
        dots_of(g, c + i, whole, q + 4 * i, 256, NULL, 0, 0, d);
        for (int k = 0; k < g; k++) sum[t + k] = scaled(sum[t + k], d[k], scale);
    }
}

INLINE void k4_block(const uint8_t *p, const Inputs *in, int block, bool fifth, F32 *y) {
    uint8_t scales[128], minimums[128];
    panel_scales(p + 64, scales, minimums);
    for (int part = 0; part < PARTS; part++) {
        const int row = LANES * part;
        I32 sum[AT_ONCE];
        for (int t = 0; t < in->n; t++) sum[t] = i32_zero();
        for (int j = 0; j < 8; j++) {
            Codes c[8];
            if (part == 0) ask_ahead(in, p, j, fifth ? 2816 : 2304);
            nibble_codes(p + 256 + 256 * j + 4 * row, c);
            if (fifth) {
                const Codes bits = codes_load(p + 256 + 2048 + 64 * j + 4 * row);
                for (int g = 0; g < 8; g++) c[g] = codes_join(c[g], bits, g, 4, 1);
            }
            const Scale scale = scale_u8(scales + 16 * j + row);
            int t = 0;
            for (; t + SIDE <= in->n; t += SIDE)
                k4_group(SIDE, c, fifth, scale, in, block, j, t, sum);
            for (; t < in->n; t++) k4_group(1, c, fifth, scale, in, block, j, t, sum);
        }
        Mins m[4];
        for (int i = 0; i < 4; i++)
            m[i] = mins(minimums + 32 * i + row, minimums + 32 * i + 16 + row);
        const F32 d = f32_halves(p + 2 * row);
        const F32 less = f32_sub(f32_zero(), f32_halves(p + 32 + 2 * row));
        for (int t = 0; t < in->n; t++) {
            const long at = input_at(in, block, t);
            I32 min = i32_zero();
            for (int i = 0; i < 4; i++)
                min = mins_dot(min, m[i], load_i32(in->acts.sums + at * 8 + 2 * i));
            const F32 x = f32_fma(less, f32_of(min), f32_mul(d, f32_of(sum[t])));
            F32 *to = &y[t * PARTS + part];
            *to = f32_fma(f32_all(in->acts.d[at]), x, *to);
        }
    }
}

// Two groups of 16 neighbours of Q6_K and g inputs from the t-th on.
INLINE void q6_group(int g, const Codes c[8], const Scale scale[2], const Inputs *in, int block,
                     int j, int t, I32 *sum) {
    const long at = input_at(in, block, t);
    const int8_t *q = in->acts.q + at * 256 + 32 * j;
    const int32_t *pairs = in->acts.pairs + at * 16 + 2 * j;
    for (int half = 0; half < 2; half++) {
        Dots d[SIDE];
        dots_of(g, c + 4 * half, 4, q + 16 * half, 256, pairs + half, 16, 32, d);
        for (int k = 0; k < g; k++) sum[t + k] = scaled(sum[t + k], d[k], scale[half]);
    }
}

INLINE void q6_k_block(const uint8_t *p, const uint8_t *ds, const Inputs *in, int block, F32 *y) {
    const uint8_t *nibbles = p + 256, *upper = nibbles + 2048;
    for (int part = 0; part < PARTS; part++) {
        const int row = LANES * part;
        I32 sum[AT_ONCE];
        for (int t = 0; t < in->n; t++) sum[t] = i32_zero();
        for (int j = 0; j < 8; j++) {
            Codes c[8];
            if (part == 0) ask_ahead(in, p, j, 3328);
            nibble_codes(nibbles + 256 * j + 4 * row, c);
            const Codes low = codes_load(upper + 128 * j + 4 * row);
            const Codes high = codes_load(upper + 128 * j + 64 + 4 * row);
            for (int g = 0; g < 4; g++) {
                c[g] = codes_join(c[g], low, 2 * g, 4, 3);
                c[g + 4] = codes_join(c[g + 4], high, 2 * g, 4, 3);
            }
            const Scale scale[2] = {scale_i8(p + 32 * j + row), scale_i8(p + 32 * j + 16 + row)};
            int t = 0;
            for (; t + SIDE <= in->n; t += SIDE) q6_group(SIDE, c, scale, in, block, j, t, sum);
            for (; t < in->n; t++) q6_group(1, c, scale, in, block, j, t, sum);
        }
        const F32 d = f32_halves(ds + 2 * row);
        for (int t = 0; t < in->n; t++) {
            F32 *to = &y[t * PARTS + part];
            *to = f32_fma(f32_all(in->acts.d[input_at(in, block, t)]), f32_mul(d, f32_of(sum[t])),
                          *to);
        }
    }
}

// A block of 32 and g inputs from the t-th on.
INLINE void group_of_32(int g, const Codes c[8], bool nibbles, F32 d, const Inputs *in, int block,
                        int t, int part, F32 *y) {
    const long at = input_at(in, block, t);
    const int8_t *q = in->acts.q + at * 32;
    Dots s[SIDE];
    if (nibbles) dots_of(g, c, 8, q, 32, in->acts.pairs + at, 1, 8, s);
    for (int k = 0; k < g; k++) {
        const I32 sum = nibbles ? plain(s[k]) : dots_signed(c, q + 32 * k, in->acts.pairs[at + k]);
        F32 *to = &y[(t + k) * PARTS + part];
        *to = f32_fma(f32_mul(d, f32_all(in->acts.d[at + k])), f32_of(sum), *to);
    }
}

INLINE void block_of_32(const uint8_t *p, const uint8_t *ds, const Inputs *in, int block,
                        bool nibbles, F32 *y) {
    for (int i = 0; i < 8; i++) ask_ahead(in, p, i, nibbles ? 256 : 512);
    for (int part = 0; part < PARTS; part++) {
        const int row = LANES * part;
        const F32 d = f32_halves(ds + 2 * row);
        Codes c[8];
        if (nibbles)
            nibble_codes(p + 4 * row, c);
        else
            for (int g = 0; g < 8; g++) c[g] = codes_load(p + 64 * g + 4 * row);
        int t = 0;
        for (; t + SIDE <= in->n; t += SIDE)
            group_of_32(SIDE, c, nibbles, d, in, block, t, part, y);
        for (; t < in->n; t++) group_of_32(1, c, nibbles, d, in, block, t, part, y);
    }
}

// Adds one block of a panel to y, n inputs x PARTS. p: the panel.
INLINE void add_block(TensorType type, const uint8_t *p, const Inputs *in, int n, int block,
                      F32 *y) {
    const PanelLayout l = panel_layout(type);
    const uint8_t *d = p + 32 * block;
    p += panel_blocks_at(l, n) + (size_t)block * l.block_bytes;
    switch (type) {
        case TYPE_Q8_0: block_of_32(p, d, in, block, false, y); break;
        case TYPE_Q4_0: block_of_32(p, d, in, block, true, y); break;
        case TYPE_Q6_K: q6_k_block(p, d, in, block, y); break;
        case TYPE_Q5_K: k4_block(p, in, block, true, y); break;
        default: k4_block(p, in, block, false, y); break;
    }
}

// One input waits for memory. Several panels side by side are several streams, of which processors
// fetch more at a time than of one; and the sums stay in registers.
INLINE void one_input(TensorType type, const MatmulTask *m, const uint8_t *p, Inputs *in, long r0,
                      long r1) {
    const int blocks = m->n / panel_layout(type).block_len;
    const size_t bytes = panel_bytes(type, m->n);
    for (long r = r0; r < r1; r += STREAMS * PANEL_ROWS, p += STREAMS * bytes) {
        const long panels = (r1 - r + PANEL_ROWS - 1) / PANEL_ROWS;
        const int n = panels < STREAMS ? (int)panels : STREAMS;
        F32 y[STREAMS * PARTS];
        for (int i = 0; i < STREAMS * PARTS; i++) y[i] = f32_zero();
        for (int b = 0; b < blocks; b++) {
            for (int i = 0; i < n; i++)
                add_block(type, p + (size_t)i * bytes, in, m->n, b, y + i * PARTS);
        }
        for (int i = 0; i < n; i++) {
            const long at = r + i * PANEL_ROWS, rows = r1 - at;
            panel_row_out(m, at, rows < PANEL_ROWS ? rows : PANEL_ROWS, 0, y + i * PARTS);
        }
    }
}

INLINE void many_inputs(TensorType type, const MatmulTask *m, const uint8_t *p, Inputs *in, long r0,
                        long r1) {
    const int blocks = m->n / panel_layout(type).block_len;
    for (long r = r0; r < r1; r += PANEL_ROWS, p += panel_bytes(type, m->n)) {
        const long rows = r1 - r < PANEL_ROWS ? r1 - r : PANEL_ROWS;
        for (in->t0 = 0; in->t0 < m->n_act; in->t0 += AT_ONCE) {
            F32 y[AT_ONCE * PARTS];
            in->n = m->n_act - in->t0 < AT_ONCE ? m->n_act - in->t0 : AT_ONCE;
            for (int i = 0; i < in->n * PARTS; i++) y[i] = f32_zero();
            for (int b = 0; b < blocks; b++) add_block(type, p, in, m->n, b, y);
            for (int t = 0; t < in->n; t++) panel_row_out(m, r, rows, in->t0 + t, y + t * PARTS);
        }
    }
}

INLINE void panels_of(TensorType type, const MatmulTask *m, long r0, long r1) {
    const uint8_t *p = m->w + (size_t)(r0 / PANEL_ROWS) * panel_bytes(type, m->n);
    Inputs in = {panel_acts((void *)(uintptr_t)m->act, panels_activation(type), m->n, m->n_act),
                 m->n_act, 0, 1};
    if (m->n_act == 1)
        one_input(type, m, p, &in, r0, r1);
    else
        many_inputs(type, m, p, &in, r0, r1);
}

void panels_matmul(const MatmulTask *m, long r0, long r1, void *scratch) {
    (void)scratch;
    switch (m->type) {
        case TYPE_Q8_0: panels_of(TYPE_Q8_0, m, r0, r1); break;
        case TYPE_Q4_0: panels_of(TYPE_Q4_0, m, r0, r1); break;
        case TYPE_Q4_K: panels_of(TYPE_Q4_K, m, r0, r1); break;
        case TYPE_Q5_K: panels_of(TYPE_Q5_K, m, r0, r1); break;
        default: panels_of(TYPE_Q6_K, m, r0, r1); break;
    }
}
