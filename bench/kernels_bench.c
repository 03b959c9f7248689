// The matmul kernels alone, on one thread: what share of the processor's multiplications and of its
// memory they reach. Each set of kernels that runs here, each type of weights.
//
//   kernels_bench [isa [type]]
//
// Decode: one input, a matrix of 256 MiB, so that it comes from memory; GB/s, and the share of what
// a read of the same memory gives. Prefill: 128 inputs, a matrix that stays in the second-level
// cache; billions of operations a second (a multiplication and an addition are two), and the share
// of what a loop of nothing but the set's best instruction does.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "backend/cpu/kernel_sets.h"
#include "backend/cpu/panel.h"
#include "base/arena.h"
#include "base/bandwidth.h"
#include "base/clock.h"

enum { COLUMNS = 2048, INPUTS = 128, NEAR_ROWS = 512 };
static const size_t far_bytes = 256u << 20;
static const double seconds_each = 0.25;

static const TensorType types[] = {TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K, TYPE_Q8_0, TYPE_Q4_0,
                                   TYPE_F16,  TYPE_BF16, TYPE_F32,  TYPE_Q3_K, TYPE_IQ4_XS};

// --- peaks ---------------------------------------------------------------------------------------

#if defined(__x86_64__)
// A loop of twelve chains of one instruction, which is enough for two a cycle of a latency of six.
#define TWELVE(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)
#define PEAK_LOOP(vector, start, step, kind)                                           \
    vector s0 = start, s1 = start, s2 = start, s3 = start, s4 = start, s5 = start;     \
    vector s6 = start, s7 = start, s8 = start, s9 = start, s10 = start, s11 = start;   \
    for (long k = 0; k < n; k++) {                                                     \
        TWELVE(step)                                                                   \
        __asm__ volatile("" : "+" kind(s0), "+" kind(s1));                             \
    }                                                                                  \
    __asm__ volatile("" ::kind(s0), kind(s1), kind(s2), kind(s3), kind(s4), kind(s5)); \
    __asm__ volatile("" ::kind(s6), kind(s7), kind(s8), kind(s9), kind(s10), kind(s11));

__attribute__((target("avx2,fma"))) static long fma_avx2(long n) {
    const __m256 a = _mm256_set1_ps(1e-9f);
#define STEP(i) s##i = _mm256_fmadd_ps(s##i, a, a);
    PEAK_LOOP(__m256, a, STEP, "x")
#undef STEP
    return n * 12 * 16;
}

// Products of bytes alone: a kernel adds them up besides.
__attribute__((target("avx2"))) static long bytes_avx2(long n) {
    const __m256i a = _mm256_set1_epi8(1);
#define STEP(i) s##i = _mm256_maddubs_epi16(s##i, a);
    PEAK_LOOP(__m256i, a, STEP, "x")
#undef STEP
    return n * 12 * 64;
}

__attribute__((target("avx512f"))) static long fma_avx512(long n) {
    const __m512 a = _mm512_set1_ps(1e-9f);
#define STEP(i) s##i = _mm512_fmadd_ps(s##i, a, a);
    PEAK_LOOP(__m512, a, STEP, "v")
#undef STEP
    return n * 12 * 32;
}

__attribute__((target("avx512f,avx512vnni"))) static long bytes_avx512(long n) {
    const __m512i a = _mm512_set1_epi32(0x01010101);
#define STEP(i) s##i = _mm512_dpbusd_epi32(s##i, a, a);
    PEAK_LOOP(__m512i, a, STEP, "v")
#undef STEP
    return n * 12 * 128;
}

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileShapes;

__attribute__((target("amx-tile,amx-int8"))) static long bytes_amx(long n) {
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.row_bytes[i] = 64, shapes.rows[i] = 16;
    __asm__ volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
    for (long k = 0; k < n; k++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return n * 4 * 2 * 16 * 16 * 64;
}

__attribute__((target("amx-tile,amx-bf16"))) static long bf16_amx(long n) {
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.row_bytes[i] = 64, shapes.rows[i] = 16;
    __asm__ volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
    for (long k = 0; k < n; k++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return n * 4 * 2 * 16 * 16 * 32;
}
#endif

typedef long (*Peak)(long n);

static Peak peak_of(const Kernels *k, TensorType type) {
#if defined(__x86_64__)
    const MatmulForm form = k->form(type);
    if (form == FORM_TILES) return bf16_amx;
    if (strcmp(k->isa, "avx2") == 0) return form == FORM_FLOATS ? fma_avx2 : bytes_avx2;
    if (strcmp(k->isa, "generic") == 0) return NULL;
    if (form == FORM_FLOATS) return fma_avx512;
    return strcmp(k->isa, "amx") == 0 ? bytes_amx : bytes_avx512;
#else
    (void)k, (void)type;
    return NULL;
#endif
}

// Operations a second, the best of a few rounds.
static double measure_peak(Peak p) {
    double best = 0;
    for (int i = 0; p && i < 5; i++) {
        const double start = clock_seconds();
        const double done = (double)p(2000000);
        const double rate = done / (clock_seconds() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

// --- kernels -------------------------------------------------------------------------------------

typedef struct {
    const Kernels *k;
    const MatmulKernels *m;
    MatmulTask task;
    uint8_t *w, *act;
    float *x, *y;
    void *scratch;
    size_t bytes;
} Case;

// Codes of any value, scales that are small numbers; floats near 1.
static void fill(TensorType type, uint8_t *w, size_t bytes) {
    const uint8_t top = type == TYPE_F16 ? 0x3c : 0x3f;
    const size_t each = type_info(type)->block_len == 1 ? type_info(type)->block_bytes : 0;
    uint64_t state = 1;
    for (size_t i = 0; i < bytes; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        w[i] = (uint8_t)(state >> 56) & 0x2f;
        if (each && i % each == each - 1) w[i] = top;
    }
}

static Case case_new(const Kernels *k, TensorType type, long rows, int n_act) {
    Case c = {.k = k, .m = &k->matmul[k->form(type)]};
    const TypeInfo *info = type_info(type);
    const ActQuant quant = k->activation(type);
    c.bytes = (size_t)COLUMNS / info->block_len * info->block_bytes * (size_t)rows;
    c.w = large_alloc(c.bytes + 65536);
    c.x = large_alloc(sizeof *c.x * COLUMNS * (size_t)n_act);
    c.y = large_alloc(sizeof *c.y * (size_t)rows * (size_t)n_act);
    const size_t act = c.m->act_bytes(quant, COLUMNS, n_act);
    c.act = act ? large_alloc(act) : NULL;
    c.scratch = large_alloc(c.m->scratch(COLUMNS) + 64);
    if (!c.w || !c.x || !c.y || !c.scratch) {
        fprintf(stderr, "kernels_bench: no memory\n");
        exit(1);
    }
    fill(type, c.w, c.bytes);
    for (int i = 0; i < COLUMNS * n_act; i++) c.x[i] = (float)((i * 37) % 201 - 100) / 100;
    for (int t = 0; c.act && t < n_act; t++)
        c.m->act_make(quant, c.x + (long)t * COLUMNS, COLUMNS, t, n_act, c.act);
    c.task = (MatmulTask){.type = type,
                          .w = c.w,
                          .n = COLUMNS,
                          .n_rows = rows,
                          .act = c.act ? c.act : (const uint8_t *)(const void *)c.x,
                          .n_act = n_act,
                          .y = c.y};
    return c;
}

static void case_free(Case *c, long rows) {
    large_free(c->w, c->bytes + 65536);
    large_free(c->x, sizeof *c->x * COLUMNS * (size_t)c->task.n_act);
    large_free(c->y, sizeof *c->y * (size_t)rows * (size_t)c->task.n_act);
    if (c->act)
        large_free(c->act, c->m->act_bytes(c->k->activation(c->task.type), COLUMNS, c->task.n_act));
    large_free(c->scratch, c->m->scratch(COLUMNS) + 64);
}

// Seconds of one matmul, the least of those that fit the time.
static double time_case(const Case *c) {
    double best = 1e9, start = clock_seconds(), now = start;
    while (now - start < seconds_each) {
        const double before = now;
        c->m->matmul(&c->task, 0, c->task.n_rows, c->scratch);
        now = clock_seconds();
        best = now - before < best ? now - before : best;
    }
    return best;
}

static void bench(const Kernels *k, TensorType type, double read) {
    const size_t row = (size_t)COLUMNS / type_info(type)->block_len * type_info(type)->block_bytes;
    const long far_rows = (long)(far_bytes / row / 16 * 16);
    Case far = case_new(k, type, far_rows, 1);
    const double gb_s = (double)far.bytes / time_case(&far) / 1e9;
    case_free(&far, far_rows);
    Case near = case_new(k, type, NEAR_ROWS, INPUTS);
    const double ops = 2.0 * COLUMNS * NEAR_ROWS * INPUTS / time_case(&near);
    case_free(&near, NEAR_ROWS);
    const double peak = measure_peak(peak_of(k, type));
    printf("%-8s %-7s %9.1f %6.0f %% %10.1f", k->isa, type_info(type)->name, gb_s,
           100 * gb_s / read, ops / 1e9);
    if (peak > 0) printf(" %10.1f %5.0f %%", peak / 1e9, 100 * ops / peak);
    putchar('\n');
    fflush(stdout);
}

int main(int argc, char **argv) {
    Pool *pool;
    if (pool_create(1, &pool, NULL)) return 1;
    uint8_t *memory = large_alloc(far_bytes);
    if (!memory) return 1;
    memset(memory, 1, far_bytes);
    const double read = bandwidth_read(pool, memory, far_bytes, 0.5);
    large_free(memory, far_bytes);
    printf("one thread; memory reads %.1f GB/s\n\n%-8s %-7s %9s %8s %10s %10s %7s\n", read, "", "",
           "GB/s", "of reads", "GOP/s", "peak", "of it");
    const Kernels *k;
    for (int i = 0; (k = kernel_set_at(i)); i++) {
        if (argc > 1 && strcmp(argv[1], k->isa) != 0) continue;
        if (k->lacks()) {
            printf("%-8s does not run here: no %s\n", k->isa, k->lacks());
            continue;
        }
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            if (argc > 2 && strcmp(argv[2], type_info(types[t])->name) != 0) continue;
            bench(k, types[t], read);
        }
    }
    pool_free(pool);
    return 0;
}
