// Speed of the attention kernels, one thread, TinyLlama's shape unless told otherwise:
//   attention_bench [isa] [heads per kv head] [head_dim] [keys in the cache]
// Prefill in GFLOP/s beside the FMA peak of the same run, decode in GB/s beside plain reading.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/kernel_sets.h"
#include "base/arena.h"
#include "base/clock.h"
#include "formats/quants.h"

double fma_peak_generic(void);
#if defined(__x86_64__)
double fma_peak_avx2(void), fma_peak_avx512(void);
#endif

enum { ROUNDS = 60, CACHE = 96 << 20 };  // bytes: more than processors keep

typedef struct {
    const Kernels *k;
    TensorType type;
    int heads, head_dim, n_keys;
    size_t row;     // bytes of a key or value
    uint8_t *data;  // CACHE bytes
    float *q, *y;
    void *scratch;
} Bench;

static double peak_of(const Kernels *k) {
#if defined(__x86_64__)
    if (strcmp(k->isa, "avx2") == 0) return fma_peak_avx2();
    if (strcmp(k->isa, "generic") != 0) return fma_peak_avx512();
#endif
    return fma_peak_generic();
}

static size_t head_bytes(const Bench *b, int n_keys) {
    return (size_t)(n_keys + SLACK_KEYS + 1) * b->row;
}

// Small numbers everywhere, whatever the layout.
static void fill(Bench *b) {
    uint64_t state = 1;
    float x[32];
    for (size_t at = 0; at + 136 <= CACHE; at += 136) {  // 136: four blocks of Q8_0
        for (int i = 0; i < 32; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            x[i] = (float)(state >> 40) * 0x1p-24f - 0.5f;
        }
        if (b->type == TYPE_F32) memcpy(b->data + at, x, sizeof x);
        for (int i = 0; b->type == TYPE_F16 && i < 64; i++) {
            const uint16_t h = f32_to_f16(x[i % 32]);
            memcpy(b->data + at + 2 * i, &h, 2);
        }
        // Any two bytes of it are a sound half.
        if (b->type == TYPE_Q8_0) memset(b->data + at, 0x24 + (int)(state >> 62), 136);
    }
}

// rows [row0, row0 + n) of tokens x heads, token 0 seeing first_keys keys.
static void tile_at(const Bench *b, const uint8_t *k, int row0, int n, int first_keys,
                    AttentionTile *t) {
    t->type_k = t->type_v = b->type;
    t->k = k, t->v = k + head_bytes(b, b->n_keys);
    t->head_dim = b->head_dim, t->n_rows = n, t->scale = 0.125f;
    for (int r = 0; r < n; r++) {
        const size_t at = (size_t)(row0 + r) * (size_t)b->head_dim;
        t->rows[r] = (AttentionRow){
            .q = b->q + at, .y = b->y + at, .n_keys = first_keys + (row0 + r) / b->heads};
    }
}

static double prefill(const Bench *b, int n_tokens) {
    AttentionTile t;
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double work = 0;
        const double start = clock_seconds();
        for (int row = 0; row < n_tokens * b->heads; row += ATTENTION_ROWS) {
            const int left = n_tokens * b->heads - row;
            tile_at(b, b->data, row, left < ATTENTION_ROWS ? left : ATTENTION_ROWS, 1, &t);
            for (int r = 0; r < t.n_rows; r++) work += 4.0 * b->head_dim * t.rows[r].n_keys;
            b->k->attention->rows(&t, b->scratch);
        }
        const double speed = work / (clock_seconds() - start);
        if (speed > best) best = speed;
    }
    return best;
}

// All kv heads that the cache holds, one token.
static double decode(const Bench *b) {
    const size_t each = 2 * head_bytes(b, b->n_keys);
    AttentionTile t;
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        size_t bytes = 0;
        const double start = clock_seconds();
        for (const uint8_t *k = b->data; k + each + SLACK_BYTES <= b->data + CACHE; k += each) {
            for (int row = 0; row < b->heads; row += ATTENTION_ROWS) {
                const int left = b->heads - row;
                tile_at(b, k, row, left < ATTENTION_ROWS ? left : ATTENTION_ROWS, b->n_keys, &t);
                for (int r = 0; r < t.n_rows; r++) t.rows[r].n_keys = b->n_keys;
                b->k->attention->rows(&t, b->scratch);
            }
            bytes += 2 * (size_t)b->n_keys * b->row;
        }
        const double speed = (double)bytes / (clock_seconds() - start);
        if (speed > best) best = speed;
    }
    return best;
}

static double reading(const Bench *b) {
    double best = 0;
    volatile uint64_t kept;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t sum[8] = {0};
        const double start = clock_seconds();
        for (size_t at = 0; at < CACHE; at += 64) {
            uint64_t x[8];
            memcpy(x, b->data + at, sizeof x);
            for (int i = 0; i < 8; i++) sum[i] += x[i];
        }
        const double speed = CACHE / (clock_seconds() - start);
        if (speed > best) best = speed;
        kept = sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
    }
    (void)kept;
    return best;
}

static void bench_set(Bench *b) {
    static const TensorType types[] = {TYPE_F16, TYPE_Q8_0, TYPE_F32};
    b->scratch = aligned_alloc(64, (b->k->attention->scratch(b->head_dim) + 63) / 64 * 64);
    for (int i = 0; i < 3; i++) {
        b->type = types[i];
        uint64_t row;
        if (!b->scratch || !type_bytes(b->type, (uint64_t)b->head_dim, &row)) continue;
        b->row = (size_t)row;
        fill(b);
        double peak = 0;
        for (int round = 0; round < ROUNDS; round++) {
            const double one = peak_of(b->k);
            if (one > peak) peak = one;
        }
        const double p128 = prefill(b, 128), p512 = prefill(b, 512), read = reading(b);
        const double dec = decode(b);
        printf(
            "%-8s %-5s prefill 128 %6.1f GFLOP/s %3.0f %%, 512 %6.1f %3.0f %% of %.1f; "
            "decode %5.2f GB/s, %3.0f %% of %.2f\n",
            b->k->isa, type_info(b->type)->name, p128 / 1e9, 100 * p128 / peak, p512 / 1e9,
            100 * p512 / peak, peak / 1e9, dec / 1e9, 100 * dec / read, read / 1e9);
        fflush(stdout);
    }
    free(b->scratch);
}

int main(int argc, char **argv) {
    Bench b = {.heads = argc > 2 ? atoi(argv[2]) : 8,
               .head_dim = argc > 3 ? atoi(argv[3]) : 64,
               .n_keys = argc > 4 ? atoi(argv[4]) : 2000};
    if (b.heads < 1 || b.head_dim < 1 || b.head_dim > MAX_HEAD_DIM || b.n_keys < 1) return 1;
    const size_t rows = (size_t)b.heads * 512 * (size_t)b.head_dim;
    b.data = large_alloc(CACHE);
    b.q = malloc(rows * sizeof *b.q);
    b.y = malloc(rows * sizeof *b.y);
    if (!b.data || !b.q || !b.y) return 1;
    for (size_t i = 0; i < rows; i++) b.q[i] = (float)(i % 17) / 16 - 0.5f;
    for (int i = 0; (b.k = kernel_set_at(i)); i++) {
        if (argc > 1 && strcmp(argv[1], "all") != 0 && strcmp(argv[1], b.k->isa) != 0) continue;
        if (b.k->lacks())
            printf("%-8s does not run here: no %s\n", b.k->isa, b.k->lacks());
        else
            bench_set(&b);
    }
    free(b.q);
    free(b.y);
    large_free(b.data, CACHE);
    return 0;
}
