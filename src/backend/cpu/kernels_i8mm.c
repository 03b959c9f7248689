// Matmul of many inputs from panels (panel.h), with the 8-bit matrix product of Arm: two rows times
// two inputs, a quad of sums (quads.h).
//
// A block of a panel is unpacked once for all inputs, to signed codes in the order of the product,
// and multiplied with four inputs and eight rows at a time. Minimums times sums of inputs are such
// a product too: a minimum has six bits, and a sum is cut into two bytes. The sums are those of
// kernels_panels.c, exact, and what follows is its arithmetic in its order: the bits are the same.
#include "backend/cpu/kernels_panels.h"

#include "backend/cpu/panel_codes.h"
#include "backend/cpu/panel_out.h"
#include "backend/cpu/quads.h"

enum {
    LEAST = 4,      // inputs from which it pays
    AT_ONCE = 256,  // inputs that share the unpacking of a block
    STRIP = 256,    // weights of a row that are unpacked together: one block, or eight
    QUADS = PANEL_ROWS / 2,
    HALF = QUADS / 2,  // quads of eight rows, whose sums stay in registers
    STEP = 8 * PANEL_ROWS,
};

// A thread's scratch. codes: [k / 8][row][8]
typedef struct {
    _Alignas(64) int8_t codes[STRIP * PANEL_ROWS];
    int8_t mins[PANEL_ROWS * 8];  // [row][group]
    i32x4 scales[STRIP / 16]
                [QUADS];         // of 16 or 32 codes; of both inputs of a quad, as the next two
    f32x4 d[STRIP / 32][QUADS];  // of the block, or of each of the blocks
    f32x4 less[QUADS];           // -dmin
    f32x4 y[AT_ONCE / 2][QUADS];
} Scratch;

#define INLINE static inline __attribute__((always_inline))

static size_t i8mm_scratch(int n) {
    (void)n;
    return sizeof(Scratch);
}

// --- inputs --------------------------------------------------------------------------------------

// Many inputs stand in pairs, and an odd one has room for another beside it. With `at` = that of
// panel_acts() for the first of a pair:
//   q      at * block:  8 codes of the first, 8 of the second, ...
//   sums   at * 8:      low bytes (7 bits) of the first's eight sums, of the second's; high bytes
static int even(int n_act) {
    return (n_act + 1) / 2 * 2;
}

static size_t i8mm_act_bytes(ActQuant quant, int n, int n_act) {
    return panels_act_bytes(quant, n, even(n_act));
}

static void put_sums(const int16_t *sums, int8_t *to) {
    for (int j = 0; j < 8; j++) {
        to[j] = (int8_t)(sums[j] & 127);
        to[16 + j] = (int8_t)(sums[j] >> 7);
    }
}

static void i8mm_act_make(ActQuant quant, const float *x, int n, int t, int n_act, void *act) {
    if (n_act < LEAST) {
        panels_act_make(quant, x, n, t, n_act, act);
        return;
    }
    const int block = quant == ACT_Q8_0 ? 32 : 256, second = t % 2;
    const PanelActs to = panel_acts(act, quant, n, even(n_act));
    _Alignas(64) uint8_t room[512];  // one block of one input
    const PanelActs one = panel_acts(room, quant, block, 1);
    for (int b = 0; b < n / block; b++, x += block) {
        const long at = (long)b * even(n_act) + t;
        int8_t *q = to.q + (at - second) * block + 8 * second;
        panels_act_make(quant, x, block, 0, 1, room);
        for (int i = 0; i < block; i += 8) memcpy(q + 2 * i, one.q + i, 8);
        to.d[at] = one.d[0];
        if (block == 256)
            put_sums(one.sums, (int8_t *)(void *)(to.sums + (at - second) * 8) + 8 * second);
    }
}

// --- unpacking -----------------------------------------------------------------------------------

// Rows `row` .. of 32 codes less bias.
INLINE void put_codes(const Codes c[8], int bias, int8_t *to, int row) {
    for (int g = 0; g < 8; g += 2)
        eights_store(to + STEP * (g / 2) + 8 * row, codes_less(c[g], bias),
                     codes_less(c[g + 1], bias));
}

static void put_floats(const uint8_t *halves, f32x4 to[QUADS]) {
    float d[PANEL_ROWS];
    for (int i = 0; i < PANEL_ROWS; i += LANES) f32_store(d + i, f32_halves(halves + 2 * i));
    for (int p = 0; p < QUADS; p++) to[p] = quad_rows(d + 2 * p);
}

static void unpack_k4(const uint8_t *p, bool fifth, Scratch *s) {
    uint8_t scales[128], minimums[128];
    panel_scales(p + 64, scales, minimums);
    for (int j = 0; j < 8; j++) {
        for (int row = 0; row < PANEL_ROWS; row += LANES) {
            Codes c[8];
            nibble_codes(p + 256 + 256 * j + 4 * row, c);
            if (fifth) {
                const Codes bits = codes_load(p + 256 + 2048 + 64 * j + 4 * row);
                for (int g = 0; g < 8; g++) c[g] = codes_join(c[g], bits, g, 4, 1);
            }
            put_codes(c, 0, s->codes + 4 * STEP * j, row);
        }
        for (int i = 0; i < QUADS; i++) {
            const uint8_t *two = scales + 16 * j + 2 * i;
            s->scales[j][i] = (i32x4){two[0], two[1], two[0], two[1]};
        }
        for (int row = 0; row < PANEL_ROWS; row++)
            s->mins[8 * row + j] = (int8_t)minimums[16 * j + row];
    }
    put_floats(p, s->d[0]);
    put_floats(p + 32, s->less);
    for (int i = 0; i < QUADS; i++) s->less[i] = (f32x4){0} - s->less[i];
}

static void unpack_q6(const uint8_t *p, const uint8_t *d, Scratch *s) {
    const uint8_t *nibbles = p + 256, *upper = nibbles + 2048;
    for (int j = 0; j < 8; j++) {
        for (int row = 0; row < PANEL_ROWS; row += LANES) {
            Codes c[8];
            nibble_codes(nibbles + 256 * j + 4 * row, c);
            const Codes low = codes_load(upper + 128 * j + 4 * row);
            const Codes high = codes_load(upper + 128 * j + 64 + 4 * row);
            for (int g = 0; g < 4; g++) {
                c[g] = codes_join(c[g], low, 2 * g, 4, 3);
                c[g + 4] = codes_join(c[g + 4], high, 2 * g, 4, 3);
            }
            put_codes(c, 32, s->codes + 4 * STEP * j, row);
        }
        for (int i = 0; i < 2 * QUADS; i++) {
            const int8_t *two = (const int8_t *)p + 32 * j + 2 * i;
            s->scales[2 * j + i / QUADS][i % QUADS] = (i32x4){two[0], two[1], two[0], two[1]};
        }
    }
    put_floats(d, s->d[0]);
}

// One of the blocks of 32 of a strip.
static void unpack_32(TensorType type, const uint8_t *p, const uint8_t *d, int block, Scratch *s) {
    for (int row = 0; row < PANEL_ROWS; row += LANES) {
        Codes c[8];
        if (type == TYPE_Q4_0)
            nibble_codes(p + 4 * row, c);
        else
            for (int g = 0; g < 8; g++) c[g] = codes_load(p + 64 * g + 4 * row);
        put_codes(c, type == TYPE_Q4_0 ? 8 : 0, s->codes + 4 * STEP * block, row);
    }
    put_floats(d, s->d[block]);
}

// --- products ------------------------------------------------------------------------------------

typedef struct {
    PanelActs acts;
    long all;  // inputs in a block of acts
    long t0;   // the first of these; even
    int n, block;
} Inputs;

// The sums of 8 * steps codes: of 2 * pairs inputs, which stand `stride` bytes apart, and 8 rows.
INLINE void multiply(const int8_t *q, long stride, const int8_t *codes, int steps, int pairs,
                     i32x4 sum[2][HALF]) {
    for (int i = 0; i < pairs; i++) {
        for (int p = 0; p < HALF; p++) sum[i][p] = (i32x4){0};
    }
    for (int k = 0; k < steps; k++) {
        i8x16 a[2];
        for (int i = 0; i < pairs; i++) a[i] = i8x16_load(q + i * stride + 16 * k);
        for (int p = 0; p < HALF; p++) {
            const i8x16 b = i8x16_load(codes + STEP * k + 16 * p);
            for (int i = 0; i < pairs; i++) sum[i][p] = quad_dot(sum[i][p], a[i], b);
        }
    }
}

// A block of 256 for inputs t .. of these and quads h .. ; group: codes that share a scale.
INLINE void products_256(const Inputs *in, Scratch *s, int group, bool has_min, int pairs, int t,
                         int h) {
    const long at = in->block * in->all + in->t0 + t;
    const int8_t *q = in->acts.q + at * 256, *codes = s->codes + 16 * h;
    i32x4 sum[2][HALF] = {{{0}}}, part[2][HALF];
    for (int j = 0; j < 256 / group; j++) {
        multiply(q + 2 * group * j, 512, codes + group * PANEL_ROWS * j, group / 8, pairs, part);
        for (int p = 0; p < HALF; p++) {
            const i32x4 scale = s->scales[j][h + p];
            for (int i = 0; i < pairs; i++) sum[i][p] += part[i][p] * scale;
        }
    }
    for (int i = 0; i < pairs; i++) {
        const int8_t *low = (const int8_t *)(const void *)(in->acts.sums + (at + 2 * i) * 8);
        const f32x4 da = quad_inputs(in->acts.d + at + 2 * i);
        f32x4 *y = s->y[t / 2 + i] + h;
        for (int p = 0; p < HALF; p++) {
            f32x4 x = s->d[0][h + p] * quad_floats(sum[i][p]);
            if (has_min) {
                const i8x16 m = i8x16_load(s->mins + 16 * (h + p));
                const i32x4 high = quad_dot((i32x4){0}, i8x16_load(low + 16), m);
                const i32x4 min = quad_dot(high * 128, i8x16_load(low), m);
                x = quad_fma(s->less[h + p], quad_floats(min), x);
            }
            y[p] = quad_fma(da, x, y[p]);
        }
    }
}

// n blocks of 32.
INLINE void products_32(const Inputs *in, Scratch *s, int n, int pairs, int t, int h) {
    const long at = in->block * in->all + in->t0 + t;
    f32x4 y[2][HALF];
    for (int i = 0; i < pairs; i++) {
        for (int p = 0; p < HALF; p++) y[i][p] = s->y[t / 2 + i][h + p];
    }
    for (int b = 0; b < n; b++) {
        i32x4 sum[2][HALF];
        f32x4 da[2];
        const int8_t *q = in->acts.q + (at + b * in->all) * 32;
        multiply(q, 64, s->codes + 4 * STEP * b + 16 * h, 4, pairs, sum);
        for (int i = 0; i < pairs; i++) da[i] = quad_inputs(in->acts.d + at + b * in->all + 2 * i);
        for (int p = 0; p < HALF; p++) {
            const f32x4 d = s->d[b][h + p];
            for (int i = 0; i < pairs; i++)
                y[i][p] = quad_fma(d * da[i], quad_floats(sum[i][p]), y[i][p]);
        }
    }
    for (int i = 0; i < pairs; i++) {
        for (int p = 0; p < HALF; p++) s->y[t / 2 + i][h + p] = y[i][p];
    }
}

// One unpacked strip and all these inputs.
INLINE void strip_products(TensorType type, const Inputs *in, Scratch *s, int blocks) {
    const int group = type == TYPE_Q6_K ? 16 : 32;
    const bool has_min = type == TYPE_Q4_K || type == TYPE_Q5_K;
    for (int t = 0; t < in->n; t += 4) {
        for (int h = 0; h < QUADS; h += HALF) {
            const bool one = in->n - t <= 2;
            if (type == TYPE_Q8_0 || type == TYPE_Q4_0) {
                if (one)
                    products_32(in, s, blocks, 1, t, h);
                else
                    products_32(in, s, blocks, 2, t, h);
            } else if (one) {
                products_256(in, s, group, has_min, 1, t, h);
            } else {
                products_256(in, s, group, has_min, 2, t, h);
            }
        }
    }
}

// --- panels --------------------------------------------------------------------------------------

INLINE void panel_of(TensorType type, const uint8_t *p, Inputs *in, int n, Scratch *s) {
    const PanelLayout l = panel_layout(type);
    const int all = n / l.block_len, most = STRIP / l.block_len;
    const uint8_t *d = p;
    p += panel_blocks_at(l, n);
    for (in->block = 0; in->block < all; in->block += most) {
        const int blocks = all - in->block < most ? all - in->block : most;
        for (int b = 0; b < blocks; b++, p += l.block_bytes, d += 32) {
            switch (type) {
                case TYPE_Q4_K: unpack_k4(p, false, s); break;
                case TYPE_Q5_K: unpack_k4(p, true, s); break;
                case TYPE_Q6_K: unpack_q6(p, d, s); break;
                default: unpack_32(type, p, d, b, s); break;
            }
        }
        strip_products(type, in, s, blocks);
    }
}

static void panel_sums(TensorType type, const uint8_t *p, Inputs *in, int n, Scratch *s) {
    switch (type) {
        case TYPE_Q8_0: panel_of(TYPE_Q8_0, p, in, n, s); break;
        case TYPE_Q4_0: panel_of(TYPE_Q4_0, p, in, n, s); break;
        case TYPE_Q4_K: panel_of(TYPE_Q4_K, p, in, n, s); break;
        case TYPE_Q5_K: panel_of(TYPE_Q5_K, p, in, n, s); break;
        default: panel_of(TYPE_Q6_K, p, in, n, s); break;
    }
}

static void sums_out(const MatmulTask *m, long r0, long rows, const Inputs *in, const Scratch *s) {
    for (int t = 0; t < in->n; t++) {
        float row[PANEL_ROWS];
        F32 sums[PANEL_ROWS / LANES];
        const float *y = (const float *)(const void *)s->y[t / 2] + t % 2 * 2;
        for (int p = 0; p < QUADS; p++) memcpy(row + 2 * p, y + 4 * p, 2 * sizeof *y);
        for (int i = 0; i < PANEL_ROWS; i += LANES) sums[i / LANES] = f32_load(row + i);
        panel_row_out(m, r0, rows, (int)in->t0 + t, sums);
    }
}

static void i8mm_matmul(const MatmulTask *m, long r0, long r1, void *scratch) {
    if (m->n_act < LEAST) {
        panels_matmul(m, r0, r1, scratch);
        return;
    }
    Scratch *s = scratch;
    const ActQuant quant = panels_activation(m->type);
    const size_t bytes = panel_bytes(m->type, m->n);
    Inputs in = {.acts = panel_acts((void *)(uintptr_t)m->act, quant, m->n, even(m->n_act)),
                 .all = even(m->n_act)};
    for (; in.t0 < m->n_act; in.t0 += AT_ONCE) {
        in.n = m->n_act - in.t0 < AT_ONCE ? (int)(m->n_act - in.t0) : AT_ONCE;
        const uint8_t *p = m->w + (size_t)(r0 / PANEL_ROWS) * bytes;
        for (long r = r0; r < r1; r += PANEL_ROWS, p += bytes) {
            memset(s->y, 0, (size_t)even(in.n) / 2 * sizeof s->y[0]);
            panel_sums(m->type, p, &in, m->n, s);
            sums_out(m, r, r1 - r < PANEL_ROWS ? r1 - r : PANEL_ROWS, &in, s);
        }
    }
}

void KERNEL(i8mm_kernels)(Kernels *k);

void KERNEL(i8mm_kernels)(Kernels *k) {
    k->matmul[FORM_PANELS] =
        (MatmulKernels){i8mm_act_bytes, i8mm_act_make, i8mm_scratch, i8mm_matmul};
}
