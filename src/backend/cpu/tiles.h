// AMX tiles: eight registers of up to 16 rows x 64 bytes, and their products; simulated in plain C
// where the compiler is not told of AMX, for tests.
//
//   c 16 x 16 whole numbers += a 16 x 4 k bytes times b k x 64 bytes, where row i of b holds of 16
//   columns the elements 4 i .. 4 i + 3: a panel's order (panel.h)
//   tile_dot_ss: both signed; tile_dot_su: b unsigned
//   tile_dot_bf16: c floats, a 16 x 2 k and b k x 32 bfloat16, of each pair the even and the odd
//   products summed up apart, then both added to c; subnormal numbers count as 0
#ifndef PLUMB_BACKEND_CPU_TILES_H
#define PLUMB_BACKEND_CPU_TILES_H

#include "backend/cpu/lanes.h"

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileShapes;

// Tiles 0..3 take sums, 4 and 5 are a, 6 and 7 are b; k: rows of b.
static inline TileShapes tile_shapes(int k) {
    TileShapes s = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        s.row_bytes[i] = i == 4 || i == 5 ? (uint16_t)(4 * k) : 64;
        s.rows[i] = i < 6 ? 16 : (uint8_t)k;
    }
    return s;
}

#if defined(__AMX_INT8__) && !defined(PLAIN_LANES)
// What was stored before is there when a tile is loaded: compilers do not know that it reads.
#define tiles_see_memory() __asm__ volatile("" ::: "memory")
static inline void tiles_begin(const TileShapes *s) {
    __asm__ volatile("" ::"r"(s) : "memory");  // all of it is read, which compilers do not know
    _tile_loadconfig(s);
}
#define tiles_end() _tile_release()
#define tile_zero(t) _tile_zero(t)
#define tile_load(t, p, stride) _tile_loadd(t, p, stride)
#define tile_store(t, p, stride) _tile_stored(t, p, stride)
#define tile_dot_ss(c, a, b) _tile_dpbssd(c, a, b)
#define tile_dot_su(c, a, b) _tile_dpbsud(c, a, b)
#define tile_dot_bf16(c, a, b) _tile_dpbf16ps(c, a, b)
#else
#include <math.h>

typedef struct {
    TileShapes shapes;
    uint8_t tile[8][16][64];
} SimTiles;
static _Thread_local SimTiles sim;

#define tiles_see_memory() ((void)0)
static inline void tiles_begin(const TileShapes *s) {
    sim.shapes = *s;
    memset(sim.tile, 0, sizeof sim.tile);
}
static inline void tiles_end(void) {
    memset(&sim, 0, sizeof sim);
}
static inline void tile_zero(int t) {
    memset(sim.tile[t], 0, sizeof sim.tile[t]);
}
static inline void tile_load(int t, const void *p, size_t stride) {
    for (int r = 0; r < sim.shapes.rows[t]; r++)
        memcpy(sim.tile[t][r], (const uint8_t *)p + (size_t)r * stride, sim.shapes.row_bytes[t]);
}
static inline void tile_store(int t, void *p, size_t stride) {
    for (int r = 0; r < sim.shapes.rows[t]; r++)
        memcpy((uint8_t *)p + (size_t)r * stride, sim.tile[t][r], sim.shapes.row_bytes[t]);
}
static inline void sim_dot(int c, int a, int b, int unsigned_b) {
    for (int m = 0; m < sim.shapes.rows[c]; m++) {
        int32_t sum[16];
        memcpy(sum, sim.tile[c][m], sizeof sum);
        for (int i = 0; i < sim.shapes.row_bytes[a]; i++) {
            for (int n = 0; n < 16; n++) {
                const uint8_t w = sim.tile[b][i / 4][4 * n + i % 4];
                sum[n] += (int8_t)sim.tile[a][m][i] * (unsigned_b ? w : (int8_t)w);
            }
        }
        memcpy(sim.tile[c][m], sum, sizeof sum);
    }
}
static inline void tile_dot_ss(int c, int a, int b) {
    sim_dot(c, a, b, 0);
}
static inline void tile_dot_su(int c, int a, int b) {
    sim_dot(c, a, b, 1);
}
static inline float sim_bf16(const uint8_t *p) {
    uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    if (!(bits & 0x7f800000)) bits &= 0x80000000;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline void tile_dot_bf16(int c, int a, int b) {
    for (int m = 0; m < sim.shapes.rows[c]; m++) {
        float sum[16];
        memcpy(sum, sim.tile[c][m], sizeof sum);
        for (int n = 0; n < 16; n++) {
            float two[2] = {0, 0};
            for (int i = 0; i < sim.shapes.row_bytes[a] / 2; i++) {
                const uint8_t *x = &sim.tile[a][m][2 * i], *w = &sim.tile[b][i / 2][4 * n];
                two[i % 2] = fmaf(sim_bf16(x), sim_bf16(w + 2 * (i % 2)), two[i % 2]);
            }
            sum[n] += two[0] + two[1];
        }
        memcpy(sim.tile[c][m], sum, sizeof sum);
    }
}
#endif

#endif
