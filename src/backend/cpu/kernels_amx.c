// Matmul of many inputs from panels (panel.h), on AMX tiles: 16 inputs x 16 rows at a time.
//
// A tile adds up bytes times bytes, over a whole block: so a code and its scale are multiplied
// before, and the product, which has more than eight bits, is cut into two bytes, low and high,
// each of which has its tile of sums. Minimums times sums of inputs are a product of tiles of
// bfloat16: a minimum has six bits, and a sum is cut into two numbers of seven, so that all of it
// is exact. The sums are those of kernels_panels.c, and what follows is its arithmetic in its
// order: the bits are the same.
//
// Inputs come from the second-level cache, and so two panels are multiplied with them at a time.
// The vectors' work on the sums of 16 inputs is spread between the tile products of the next.
#include "backend/cpu/kernels_amx.h"

#include "backend/cpu/kernels_panels.h"
#include "backend/cpu/panel_codes.h"
#include "backend/cpu/panel_out.h"
#include "backend/cpu/planes.h"
#include "backend/cpu/tiles.h"

enum {
    LEAST = 6,        // inputs from which tiles pay
    AT_ONCE = 128,    // inputs that share the unpacking of a block: their sums stay in the cache
    PANELS = 2,       // that are done together
    STEPS = 4,        // tile products to a block of 256
    PLANE = 64 * 64,  // bytes: 256 x 16 codes
    SUMS = 3 * 256,   // numbers in three tiles: low, high, minimums
    TILE_ROW = 64,
};

// A thread's scratch.
// Of each panel: its unpacked codes; sums of the 16 inputs that are multiplied and of those before.
typedef struct {
    _Alignas(64) uint8_t low[PLANE], high[PLANE], mins[16 * TILE_ROW];
    int32_t sums[2][SUMS];
    float y[AT_ONCE * PANEL_ROWS];
} PanelScratch;

typedef struct {
    PanelScratch panel[PANELS];
    int32_t sums[2][4 * 256];  // of blocks of 32
} Scratch;

#define INLINE static inline __attribute__((always_inline))

size_t amx_scratch(int n) {
    (void)n;
    return sizeof(Scratch);
}

// What a block's sums are multiplied with.
typedef struct {
    F32 d, less;
    bool has_min;
    int shift;
} Factors;

// --- inputs --------------------------------------------------------------------------------------

// Behind what all sets write, of each block of 256 and 16 inputs, as the tiles load it: their codes
// [step][input][64], and a tile of bfloat16, of each input eight sums of 32 codes as h_0 .. h_7,
// l_0 .. l_7 and zeros, sum = h + l, h a multiple of 32.
enum { TILE_CODES = STEPS * 16 * TILE_ROW, TILE_INPUTS = TILE_CODES + 16 * TILE_ROW };

size_t amx_act_bytes(ActQuant quant, int n, int n_act) {
    const size_t bytes = (panels_act_bytes(quant, n, n_act) + 63) / 64 * 64;
    if (quant == ACT_Q8_0 || n_act < LEAST) return bytes;
    return bytes + (size_t)n / 256 * (size_t)((n_act + 15) / 16) * TILE_INPUTS;
}

static uint8_t *tile_inputs(void *act, int n, int n_act) {
    return (uint8_t *)act + (panels_act_bytes(ACT_Q8_K, n, n_act) + 63) / 64 * 64;
}

static inline uint16_t small_bf16(int x) {
    const float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)(bits >> 16);
}

void amx_act_make(ActQuant quant, const float *x, int n, int t, int n_act, void *act) {
    panels_act_make(quant, x, n, t, n_act, act);
    if (quant == ACT_Q8_0 || n_act < LEAST) return;
    const PanelActs a = panel_acts(act, quant, n, n_act);
    const size_t tiles = (size_t)(n_act + 15) / 16;
    uint8_t *to = tile_inputs(act, n, n_act) + (size_t)(t / 16) * TILE_INPUTS;
    for (int b = 0; b < n / 256; b++, to += tiles * TILE_INPUTS) {
        const size_t at = (size_t)b * (size_t)n_act + (size_t)t;
        uint8_t *row = to + t % 16 * TILE_ROW;
        for (int step = 0; step < STEPS; step++)
            memcpy(row + step * 16 * TILE_ROW, a.q + at * 256 + step * TILE_ROW, TILE_ROW);
        uint16_t sums[TILE_ROW / 2] = {0};
        for (int j = 0; j < 8; j++) {
            const int sum = a.sums[at * 8 + (size_t)j], h = (sum + 16) >> 5;
            sums[j] = small_bf16(32 * h);
            sums[8 + j] = small_bf16(sum - 32 * h);
        }
        memcpy(row + TILE_CODES, sums, sizeof sums);
    }
}

// --- unpacking -----------------------------------------------------------------------------------

INLINE Factors unpack_k4(const uint8_t *p, bool fifth, PanelScratch *s) {
    Factors f = {.has_min = true, .shift = 3};
    uint8_t scales[128], minimums[128];
    panel_scales(p + 64, scales, minimums);
    for (int j = 0; j < 8; j++) {
        Codes c[8];
        nibble_codes(p + 256 + 256 * j, c);
        const Scale scale = scale_u8(scales + 16 * j);
        for (int g = 0; g < 8; g++) {
            if (fifth) c[g] = codes_join(c[g], codes_load(p + 256 + 2048 + 64 * j), g, 4, 1);
            planes_k4(c[g], scale, s->low + 64 * (8 * j + g), s->high + 64 * (8 * j + g));
        }
    }
    for (int i = 0; i < 4; i++) {
        const Codes pair = bf16_pairs(minimums + 32 * i, minimums + 32 * i + 16);
        codes_store(s->mins + TILE_ROW * i, pair);
        codes_store(s->mins + TILE_ROW * (i + 4), pair);
    }
    f.d = f32_halves(p);
    f.less = f32_sub(f32_zero(), f32_halves(p + 32));
    return f;
}

INLINE Factors unpack_q6(const uint8_t *p, const uint8_t *d, PanelScratch *s) {
    const uint8_t *nibbles = p + 256, *upper = nibbles + 2048;
    Factors f = {.has_min = false, .shift = 7};
    for (int j = 0; j < 8; j++) {
        Codes c[8];
        nibble_codes(nibbles + 256 * j, c);
        for (int g = 0; g < 8; g++) {
            const Codes bits = codes_load(upper + 128 * j + 64 * (g / 4));
            c[g] = codes_join(c[g], bits, 2 * (g % 4), 4, 3);
            planes_q6(c[g], scale_i8(p + 32 * j + 16 * (g / 4)), s->low + 64 * (8 * j + g),
                      s->high + 64 * (8 * j + g));
        }
    }
    f.d = f32_halves(d);
    return f;
}

// --- blocks of 256 -------------------------------------------------------------------------------

typedef struct {
    PanelActs acts;
    const uint8_t *tiles;  // of blocks of 256
    long all;              // inputs in a block of acts
    long t0;               // the first of these
    int n, block;
} Inputs;

INLINE long first_input(const Inputs *in) {
    return in->block * in->all + in->t0;
}

// The sums of inputs t .. t + n - 1 of these, which stand from `row` on in the tiles.
INLINE void add_sums(const Inputs *in, const Factors *f, const int32_t *sums, int t, int row, int n,
                     float *y) {
    const float *da = in->acts.d + first_input(in) + t;
    const int32_t *low = sums + row * 16;
    float *to = y + (long)t * PANEL_ROWS;
    for (int i = 0; i < n; i++, low += 16, to += PANEL_ROWS) {
        F32 x = f32_mul(f->d, f32_of(tile_sum(low, low + 256, f->shift)));
        if (f->has_min) x = f32_fma(f->less, tile_floats(low + 512), x);
        f32_store(to, f32_fma(f32_all(da[i]), x, f32_load(to)));
    }
}

static inline void zero_sums(void) {
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
}

// One of four steps of 16 inputs' products: 64 of 256 codes.
INLINE void multiply_step(const uint8_t *x, const Scratch *s, int step, bool two, bool is_signed) {
    const PanelScratch *a = &s->panel[0], *b = &s->panel[1];
    const int at = 16 * TILE_ROW * step;
    tile_load(4, x + at, TILE_ROW);
    tile_load(6, a->low + at, TILE_ROW);
    tile_load(7, a->high + at, TILE_ROW);
    if (is_signed) {
        tile_dot_ss(0, 4, 6);
        tile_dot_ss(1, 4, 7);
    } else {
        tile_dot_su(0, 4, 6);
        tile_dot_su(1, 4, 7);
    }
    if (!two) return;
    tile_load(5, b->low + at, TILE_ROW);
    tile_load(6, b->high + at, TILE_ROW);
    if (is_signed) {
        tile_dot_ss(2, 4, 5);
        tile_dot_ss(3, 4, 6);
    } else {
        tile_dot_su(2, 4, 5);
        tile_dot_su(3, 4, 6);
    }
}

INLINE void store_sums(Scratch *s, int which, bool two) {
    tile_store(0, s->panel[0].sums[which], 64);
    tile_store(1, s->panel[0].sums[which] + 256, 64);
    if (!two) return;
    tile_store(2, s->panel[1].sums[which], 64);
    tile_store(3, s->panel[1].sums[which] + 256, 64);
}

// The products of minimums and sums of inputs, in tiles that have been stored.
INLINE void multiply_mins(const uint8_t *x, Scratch *s, int which, bool two) {
    tile_zero(0);
    tile_load(4, x + TILE_CODES, TILE_ROW);
    tile_load(6, s->panel[0].mins, TILE_ROW);
    tile_dot_bf16(0, 4, 6);
    tile_store(0, s->panel[0].sums[which] + 512, 64);
    if (!two) return;
    tile_zero(1);
    tile_load(7, s->panel[1].mins, TILE_ROW);
    tile_dot_bf16(1, 4, 7);
    tile_store(1, s->panel[1].sums[which] + 512, 64);
}

// A step's share of the next 16 inputs is asked for.
INLINE void ask_step(const uint8_t *x, int step) {
    enum { SHARE = TILE_INPUTS / STEPS };
    const uint8_t *next = x + TILE_INPUTS + step * SHARE;
#pragma GCC unroll 20
    for (int i = 0; i < SHARE; i += 64) __builtin_prefetch(next + i);
}

// One block of one or two panels for all inputs: the unpacked codes are in s.
INLINE void block_of_256(const Inputs *in, const Factors f[PANELS], Scratch *s, bool two,
                         bool is_signed) {
    enum { ROWS = 16 / STEPS };  // of the sums before, in each step
    const long tiles = (in->all + 15) / 16;
    const uint8_t *x = in->tiles + (in->block * tiles + in->t0 / 16) * TILE_INPUTS;
    tiles_see_memory();
    for (int i = 0; i <= (in->n + 15) / 16; i++, x += TILE_INPUTS) {
        const bool more = 16 * i < in->n;
        if (more) zero_sums();
        for (int step = 0; step < STEPS; step++) {
            const int row = step * ROWS, t = 16 * (i - 1) + row, left = in->n - t;
            if (more) {
                multiply_step(x, s, step, two, is_signed);
                ask_step(x, step);
            }
            for (int p = 0; i > 0 && p < (two ? 2 : 1); p++) {
                PanelScratch *panel = &s->panel[p];
                const int32_t *done = panel->sums[(i - 1) % 2];
                if (left >= ROWS)
                    add_sums(in, &f[p], done, t, row, ROWS, panel->y);
                else
                    add_sums(in, &f[p], done, t, row, left, panel->y);
            }
        }
        if (!more) break;
        store_sums(s, i % 2, two);
        if (f[0].has_min) multiply_mins(x, s, i % 2, two);
    }
}

INLINE void panels_of_256(TensorType type, const uint8_t *p, Inputs *in, int n, bool two,
                          Scratch *s) {
    const PanelLayout l = panel_layout(type);
    const size_t next = panel_bytes(type, n);
    const uint8_t *d = p;
    Factors f[PANELS];
    p += panel_blocks_at(l, n);
    for (in->block = 0; in->block < n / 256; in->block++, p += l.block_bytes, d += 32) {
        for (int i = 0; i < (two ? 2 : 1); i++) {
            PanelScratch *panel = &s->panel[i];
            f[i] = type == TYPE_Q6_K ? unpack_q6(p + i * next, d + i * next, panel)
                                     : unpack_k4(p + i * next, type == TYPE_Q5_K, panel);
        }
        block_of_256(in, f, s, two, type == TYPE_Q6_K);
    }
}

// --- blocks of 32 --------------------------------------------------------------------------------

enum { BLOCKS = 4 };  // whose sums fill the four tiles

// The sums of n <= BLOCKS blocks of a panel and 16 inputs.
INLINE void few_products(const uint8_t *codes, const Inputs *in, int n, int t, int32_t *sums) {
#define PRODUCT(i)                                                                    \
    if (i < n) {                                                                      \
        tile_zero(i);                                                                 \
        tile_load(4, in->acts.q + ((in->block + i) * in->all + in->t0 + t) * 32, 32); \
        tile_load(6, codes + 512 * i, 64);                                            \
        tile_dot_ss(i, 4, 6);                                                         \
        tile_store(i, sums + 256 * i, 64);                                            \
    }
    PRODUCT(0)
    PRODUCT(1)
    PRODUCT(2)
    PRODUCT(3)
#undef PRODUCT
}

INLINE void few_sums(const F32 d[BLOCKS], const Inputs *in, int n, int t, const int32_t *sums,
                     float *y) {
    const float *da = in->acts.d + in->block * in->all + in->t0 + t;
    const int rows = in->n - t < 16 ? in->n - t : 16;
    float *to = y + (long)t * PANEL_ROWS;
    for (int row = 0; row < rows; row++, da++, sums += 16, to += PANEL_ROWS) {
        F32 v = f32_load(to);
        for (int i = 0; i < n; i++) {
            const F32 dd = f32_mul(d[i], f32_all(da[i * in->all]));
            v = f32_fma(dd, f32_of(tile_row(sums + 256 * i)), v);
        }
        f32_store(to, v);
    }
}

// n <= BLOCKS blocks of a panel for all inputs: 16 are multiplied while those before are added up.
INLINE void few_blocks(const uint8_t *ds, const uint8_t *codes, const Inputs *in, int n,
                       Scratch *s) {
    F32 d[BLOCKS];
    for (int i = 0; i < n; i++) d[i] = f32_halves(ds + 32 * i);
    for (int t = 0; t < in->n + 16; t += 16) {
        if (t < in->n) few_products(codes, in, n, t, s->sums[t / 16 % 2]);
        if (t > 0) few_sums(d, in, n, t - 16, s->sums[1 - t / 16 % 2], s->panel[0].y);
    }
}

INLINE void panel_of_32(TensorType type, const uint8_t *p, Inputs *in, int n, Scratch *s) {
    const PanelLayout l = panel_layout(type);
    const uint8_t *d = p, *block = p + panel_blocks_at(l, n);
    for (in->block = 0; in->block < n / 32; in->block += BLOCKS) {
        const int blocks = n / 32 - in->block < BLOCKS ? n / 32 - in->block : BLOCKS;
        const uint8_t *codes = block;
        if (type == TYPE_Q4_0) {
            for (int i = 0; i < blocks; i++) {
                Codes c[8];
                nibble_codes(block + 256 * i, c);
                for (int g = 0; g < 8; g++) plane_q4(c[g], s->panel[0].low + 512 * i + 64 * g);
            }
            codes = s->panel[0].low;
        }
        tiles_see_memory();
        if (blocks == BLOCKS)
            few_blocks(d, codes, in, BLOCKS, s);
        else
            few_blocks(d, codes, in, blocks, s);
        d += BLOCKS * 32, block += BLOCKS * l.block_bytes;
    }
}

// --- panels --------------------------------------------------------------------------------------

INLINE void panel_sums(TensorType type, const uint8_t *p, Inputs *in, int n, bool two, Scratch *s) {
    switch (type) {
        case TYPE_Q8_0: panel_of_32(TYPE_Q8_0, p, in, n, s); break;
        case TYPE_Q4_0: panel_of_32(TYPE_Q4_0, p, in, n, s); break;
        case TYPE_Q4_K: panels_of_256(TYPE_Q4_K, p, in, n, two, s); break;
        case TYPE_Q5_K: panels_of_256(TYPE_Q5_K, p, in, n, two, s); break;
        default: panels_of_256(TYPE_Q6_K, p, in, n, two, s); break;
    }
}

static void sums_out(const MatmulTask *m, long r0, long r1, const Inputs *in, const float *y) {
    const long rows = r1 - r0 < PANEL_ROWS ? r1 - r0 : PANEL_ROWS;
    for (int t = 0; t < in->n; t++) {
        const F32 sums = f32_load(y + (long)t * PANEL_ROWS);
        panel_row_out(m, r0, rows, (int)in->t0 + t, &sums);
    }
}

// One panel, or two, for AT_ONCE inputs.
static void multiply_panels(const MatmulTask *m, long r0, long r1, Inputs *in, Scratch *s) {
    const bool blocks_of_32 = panels_activation(m->type) == ACT_Q8_0;
    const bool two = !blocks_of_32 && r1 - r0 > PANEL_ROWS;
    const size_t bytes = panel_bytes(m->type, m->n);
    for (int i = 0; i < (two ? 2 : 1); i++)
        memset(s->panel[i].y, 0, (size_t)in->n * PANEL_ROWS * sizeof(float));
    panel_sums(m->type, m->w + (size_t)(r0 / PANEL_ROWS) * bytes, in, m->n, two, s);
    sums_out(m, r0, r1, in, s->panel[0].y);
    if (two) sums_out(m, r0 + PANEL_ROWS, r1, in, s->panel[1].y);
}

void amx_panels_matmul(const MatmulTask *m, long r0, long r1, void *scratch) {
    if (m->n_act < LEAST) {
        panels_matmul(m, r0, r1, scratch);
        return;
    }
    Scratch *s = scratch;
    const ActQuant quant = panels_activation(m->type);
    const TileShapes shapes = tile_shapes(quant == ACT_Q8_0 ? 8 : 16);
    const long at_once = quant == ACT_Q8_0 ? PANEL_ROWS : PANELS * PANEL_ROWS;
    Inputs in = {.acts = panel_acts((void *)(uintptr_t)m->act, quant, m->n, m->n_act),
                 .tiles = tile_inputs((void *)(uintptr_t)m->act, m->n, m->n_act),
                 .all = m->n_act};
    for (int i = 0; i < PANELS; i++)  // what the inputs' zeros meet
        memset(s->panel[i].mins + 8 * TILE_ROW, 0, 8 * TILE_ROW);
    tiles_begin(&shapes);
    for (; in.t0 < m->n_act; in.t0 += AT_ONCE) {
        in.n = m->n_act - in.t0 < AT_ONCE ? (int)(m->n_act - in.t0) : AT_ONCE;
        for (long r = r0; r < r1; r += at_once)
            multiply_panels(m, r, r1 - r < at_once ? r1 : r + at_once, &in, s);
    }
    tiles_end();
}
