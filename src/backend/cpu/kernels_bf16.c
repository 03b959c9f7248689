// Matmul of BF16 weights on AMX tiles: 16 rows as they lie in the file x 16 inputs. One input goes
// the same way as sixteen, so that its bits do not depend on the others.
#include "backend/cpu/kernels_amx.h"
#include "backend/cpu/tiles.h"
#include "formats/quants.h"

enum {
    ROWS = 16,
    STEP = 32,         // weights to a tile's row
    TILE = ROWS * 64,  // bytes
    AHEAD = 512,       // of a row, asked for before it is needed
};

typedef struct {
    _Alignas(64) uint8_t rows[2][TILE];  // what would reach beyond the matrix, filled up with zeros
    float sums[4][ROWS * ROWS];
} Scratch;

static long steps_of(int n) {
    return (n + STEP - 1) / STEP;
}

// Inputs in tiles: [16 inputs][step][pair of elements][input][2]
size_t bf16_act_bytes(ActQuant quant, int n, int n_act) {
    (void)quant;
    return (size_t)(n_act + ROWS - 1) / ROWS * (size_t)steps_of(n) * TILE;
}

void bf16_act_make(ActQuant quant, const float *x, int n, int t, int n_act, void *act) {
    (void)quant, (void)n_act;
    uint8_t *to = (uint8_t *)act + (size_t)(t / ROWS) * (size_t)steps_of(n) * TILE + t % ROWS * 4;
    for (int i = 0; i < steps_of(n) * STEP; i += 2, to += 64) {
        const uint16_t pair[2] = {i < n ? f32_to_bf16(x[i]) : 0,
                                  i + 1 < n ? f32_to_bf16(x[i + 1]) : 0};
        memcpy(to, pair, sizeof pair);
    }
}

size_t bf16_scratch(int n) {
    (void)n;
    return sizeof(Scratch);
}

typedef struct {
    const MatmulTask *m;
    const uint8_t *w;  // the first row
    long rows;         // <= 2 * ROWS
    Scratch *s;
} Panels;

// Where the tile of 16 rows and one step is read, and with what stride.
static const uint8_t *tile_at(const Panels *p, int half, long step, size_t *stride) {
    const size_t row = (size_t)p->m->n * 2;
    const uint8_t *from = p->w + (size_t)half * ROWS * row + (size_t)step * 64;
    const long rows = p->rows - half * ROWS, left = p->m->n - step * STEP;
    *stride = row;
    if (rows >= ROWS && left >= STEP) return from;
    uint8_t *to = p->s->rows[half];
    memset(to, 0, TILE);
    for (long r = 0; r < rows && r < ROWS; r++)
        memcpy(to + 64 * r, from + (size_t)r * row, left < STEP ? (size_t)left * 2 : 64);
    *stride = 64;
    return to;
}

static void put(const Panels *p, const float *sums, int half, long r, long t) {
    const MatmulTask *m = p->m;
    for (long i = t; i < m->n_act && i < t + ROWS; i++) {
        for (long k = 0; k < ROWS && half * ROWS + k < p->rows; k++) {
            const long row = r + half * ROWS + k, at = i * m->n_rows + row;
            float y = sums[k * ROWS + i - t];
            if (m->bias) y += m->bias[row];
            if (m->residual) y += m->residual[at];
            m->y[at] = y;
        }
    }
}

static inline void zero_sums(void) {
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
}

// Up to 32 rows x 32 inputs.
static void multiply(const Panels *p, long r, long t) {
    const bool low = p->rows > ROWS, more = t + ROWS < p->m->n_act;
    const long steps = steps_of(p->m->n);
    const uint8_t *x = p->m->act + t / ROWS * steps * TILE;
    zero_sums();
    for (long i = 0; i < steps; i++) {
        size_t stride[2] = {0};
        const uint8_t *a = tile_at(p, 0, i, &stride[0]);
        const uint8_t *b = low ? tile_at(p, 1, i, &stride[1]) : NULL;
        tiles_see_memory();
        for (int k = 0; k < ROWS; k++) {
            __builtin_prefetch(a + (size_t)k * stride[0] + AHEAD);
            if (low) __builtin_prefetch(b + (size_t)k * stride[1] + AHEAD);
        }
        tile_load(4, a, stride[0]);
        tile_load(6, x + i * TILE, 64);
        tile_dot_bf16(0, 4, 6);
        if (low) {
            tile_load(5, b, stride[1]);
            tile_dot_bf16(1, 5, 6);
        }
        if (!more) continue;
        tile_load(7, x + (steps + i) * TILE, 64);
        tile_dot_bf16(2, 4, 7);
        if (low) tile_dot_bf16(3, 5, 7);
    }
    tile_store(0, p->s->sums[0], 64);
    tile_store(1, p->s->sums[1], 64);
    tile_store(2, p->s->sums[2], 64);
    tile_store(3, p->s->sums[3], 64);
    put(p, p->s->sums[0], 0, r, t);
    if (low) put(p, p->s->sums[1], 1, r, t);
    if (more) put(p, p->s->sums[2], 0, r, t + ROWS);
    if (more && low) put(p, p->s->sums[3], 1, r, t + ROWS);
}

void bf16_matmul(const MatmulTask *m, long r0, long r1, void *scratch) {
    const TileShapes shapes = tile_shapes(ROWS);
    tiles_begin(&shapes);
    for (long r = r0; r < r1; r += 2 * ROWS) {
        const Panels p = {m, m->w + (size_t)r * (size_t)m->n * 2,
                          r1 - r < 2 * ROWS ? r1 - r : 2 * ROWS, scratch};
        for (long t = 0; t < m->n_act; t += 2 * ROWS) multiply(&p, r, t);
    }
    tiles_end();
}
