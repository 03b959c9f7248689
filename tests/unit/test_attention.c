// Attention of every instruction set that runs here, against sums in double; that what a row
// becomes depends on nothing but its query and the keys and values it sees, to the bit; and the
// backend's way of sharing it out over threads.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/cpu_internal.h"
#include "backend/cpu/lanes_math.h"
#include "check.h"
#include "../cpu/host_kernels.h"

static const double U = 0x1p-24;  // half a unit in the last place of 1

static const TensorType kv_types[] = {TYPE_F32, TYPE_F16, TYPE_Q8_0};

static void each_set(void (*fn)(const Kernels *k)) {
    const Kernels *k;
    for (int i = 0; (k = any_kernels(i)); i++) {
        if (!k->lacks())
            fn(k);
        else
            print_message("%s does not run here: no %s\n", k->isa, k->lacks());
    }
}

// --- a cache of one kv head ----------------------------------------------------------------------

typedef struct {
    TensorType type_k, type_v;
    int head_dim, n;  // positions
    size_t k_row, v_row;
    uint8_t *k, *v;
    float *kf, *vf;  // what they hold, n x head_dim
} Cache;

static size_t row_bytes(TensorType type, int n) {
    uint64_t bytes;
    assert_true(type_bytes(type, (uint64_t)n, &bytes));
    return (size_t)bytes;
}

static void cache_put(const Kernels *k, Cache *c, int pos, const float *key, const float *value) {
    uint8_t row[MAX_HEAD_DIM * 4];
    const size_t d = (size_t)c->head_dim;
    k->kv_write(c->type_k, key, c->head_dim, row);
    kv_key_put(c->type_k, c->head_dim, row, c->k + (size_t)(pos / KEY_TILE * KEY_TILE) * c->k_row,
               pos % KEY_TILE);
    dequantize(c->type_k, row, c->kf + (size_t)pos * d, d);
    k->kv_write(c->type_v, value, c->head_dim, c->v + (size_t)pos * c->v_row);
    dequantize(c->type_v, c->v + (size_t)pos * c->v_row, c->vf + (size_t)pos * d, d);
}

// Everything behind the n positions is NaN.
static Cache cache_new(const Kernels *k, Rng *r, TensorType type_k, TensorType type_v, int head_dim,
                       int n, float sharpness) {
    Cache c = {.type_k = type_k, .type_v = type_v, .head_dim = head_dim, .n = n};
    float key[MAX_HEAD_DIM], value[MAX_HEAD_DIM];
    c.k_row = row_bytes(type_k, head_dim), c.v_row = row_bytes(type_v, head_dim);
    c.k = room((size_t)(n + KEY_TILE + SLACK_KEYS) * c.k_row);
    c.v = room((size_t)n * c.v_row + SLACK_BYTES);
    c.kf = room((size_t)n * (size_t)head_dim * 4);
    c.vf = room((size_t)n * (size_t)head_dim * 4);
    for (int pos = 0; pos < n; pos++) {
        for (int i = 0; i < head_dim; i++)
            key[i] = sharpness * rng_normal(r), value[i] = rng_normal(r);
        cache_put(k, &c, pos, key, value);
    }
    return c;
}

static void cache_free(Cache *c) {
    free(c->k);
    free(c->v);
    free(c->kf);
    free(c->vf);
}

static void *scratch_of(const Kernels *k, int head_dim) {
    const size_t bytes = k->attention->scratch(head_dim);
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(p);
    memset(p, 0xff, bytes);
    return p;
}

static AttentionTile tile_of(const Cache *c, float scale) {
    return (AttentionTile){.type_k = c->type_k,
                           .type_v = c->type_v,
                           .k = c->k,
                           .v = c->v,
                           .head_dim = c->head_dim,
                           .scale = scale};
}

// --- against double ------------------------------------------------------------------------------

static void check_row(const char *isa, const Cache *c, const AttentionRow *row, float scale) {
    const int hd = c->head_dim, nk = row->n_keys;
    double *s = room((size_t)nk * sizeof *s), *e = room((size_t)nk * sizeof *e);
    double top = -HUGE_VAL, worst = 0, total = 0, sum_p = 0;
    for (int j = 0; j < nk; j++) {
        double size = 0;
        s[j] = 0;
        for (int i = 0; i < hd; i++) {
            double p = (double)row->q[i] * (double)c->kf[(size_t)j * hd + i];
            s[j] += p, size += fabs(p);
        }
        s[j] *= (double)scale;
        double bound = (8 * sqrt(hd) + 2) * U * size * (double)scale;
        if (!(fabs((double)row->kq[j] - s[j]) <= bound)) {
            fail_msg("%s: %s score %d of %d (head_dim %d): %.9g, expected %.9g", isa,
                     type_info(c->type_k)->name, j, nk, hd, (double)row->kq[j], s[j]);
        }
        top = fmax(top, s[j]), worst = fmax(worst, bound);
    }
    for (int j = 0; j < nk; j++) total += e[j] = exp(s[j] - top);
    // p (2 max |ds| + (n + 3) u), and exp's own: the argument's rounding grows with its size.
    for (int j = 0; j < nk; j++) {
        double p = e[j] / total, got = (double)row->soft[j];
        double rel = 2 * worst + (nk + 9 + 2 * (top - s[j])) * U;
        if (!(fabs(got - p) <= rel * p + 1e-36)) {
            fail_msg("%s: weight %d of %d: %.9g, expected %.9g", isa, j, nk, got, p);
        }
        sum_p += got;
    }
    assert_true(fabs(sum_p - 1) <= (nk + 8) * U + 2 * worst);
    for (int i = 0; i < hd; i++) {
        double want = 0, size = 0;
        for (int j = 0; j < nk; j++) {
            double p = e[j] / total * (double)c->vf[(size_t)j * hd + i];
            // The weight's own error, twice: to its chunk's maximum, and from there to that of all.
            want += p,
                size += fabs(p) * (2 * worst + (nk + 8 * sqrt(nk) + 20 + 4 * (top - s[j])) * U);
        }
        if (!(fabs((double)row->y[i] - want) <= size + 1e-36)) {
            fail_msg("%s: %s element %d of %d over %d keys: %.9g, expected %.9g", isa,
                     type_info(c->type_v)->name, i, hd, nk, (double)row->y[i], want);
        }
    }
    free(s);
    free(e);
}

// Each row of the tile alone, without scores, and from parts of chunks: the same bits.
static void check_alone(const Kernels *k, const AttentionTile *t, void *scratch) {
    const size_t part = attention_part(t->head_dim);
    const int last = t->rows[t->n_rows - 1].n_keys;
    const int chunks = (last + ATTENTION_CHUNK - 1) / ATTENTION_CHUNK;
    float *parts = room((size_t)chunks * (size_t)t->n_rows * part * sizeof *parts);
    float y[MAX_HEAD_DIM];
    for (int c = chunks; c-- > 0;)
        k->attention->chunk(t, c, scratch, parts + (size_t)c * (size_t)t->n_rows * part);
    for (int r = 0; r < t->n_rows; r++) {
        AttentionTile one = *t;
        one.n_rows = 1;
        one.rows[0] = t->rows[r];
        one.rows[0].kq = one.rows[0].soft = NULL;
        one.rows[0].y = y;
        memset(y, 0xff, sizeof y);
        k->attention->rows(&one, scratch);
        same_floats("a row alone", y, t->rows[r].y, (size_t)t->head_dim);
        memset(y, 0xff, sizeof y);
        k->attention->join(t->head_dim, parts + (size_t)r * part,
                           (t->rows[r].n_keys + ATTENTION_CHUNK - 1) / ATTENTION_CHUNK,
                           (size_t)t->n_rows * part, y);
        same_floats("a row from parts", y, t->rows[r].y, (size_t)t->head_dim);
    }
    free(parts);
}

// n_rows rows; the last sees all keys, those before it up to `spread` fewer.
static void check_tile(const Kernels *k, Rng *r, const Cache *c, int n_rows, int spread) {
    const int hd = c->head_dim;
    const float scale = 1.0f / sqrtf((float)hd);
    const size_t row = (size_t)hd, keys = (size_t)c->n;
    float *q = room((size_t)n_rows * row * 4), *y = room((size_t)n_rows * row * 4);
    float *kq = room((size_t)n_rows * keys * 4), *soft = room((size_t)n_rows * keys * 4);
    void *scratch = scratch_of(k, hd);
    AttentionTile t = tile_of(c, scale);
    t.n_rows = n_rows;
    for (size_t i = 0; i < (size_t)n_rows * row; i++) q[i] = rng_normal(r);
    for (int i = 0; i < n_rows; i++) {
        const int fewer = n_rows > 1 ? spread * (n_rows - 1 - i) / (n_rows - 1) : 0;
        t.rows[i] = (AttentionRow){q + (size_t)i * row, y + (size_t)i * row, kq + (size_t)i * keys,
                                   soft + (size_t)i * keys, c->n > fewer ? c->n - fewer : 1};
    }
    k->attention->rows(&t, scratch);
    for (int i = 0; i < n_rows; i++) {
        check_row(k->isa, c, &t.rows[i], scale);
        for (size_t j = (size_t)t.rows[i].n_keys; j < keys; j++)  // not touched
            assert_int_equal(float_bits(t.rows[i].kq[j]), 0xffffffffu);
    }
    check_alone(k, &t, scratch);
    free(q);
    free(y);
    free(kq);
    free(soft);
    free(scratch);
}

static void attention_of_set(const Kernels *k) {
    static const int keys[] = {1, 2, 15, 16, 17, 63, 65, 255, 256, 257, 300, 511, 513, 777};
    static const int dims[] = {2, 6, 10, 24, 32, 62, 64, 80, 96, 128, 160, 1024};
    static const int rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 24};
    enum { KEYS = sizeof keys / sizeof *keys, DIMS = sizeof dims / sizeof *dims };
    Rng r = {61};
    const bool slow = strncmp(k->isa, "host", 4) == 0 || getenv("PLUMB_SANITIZE");
    int at = 0;
    for (int t = 0; t < 9; t++) {
        for (int d = 0; d < DIMS; d++) {
            const bool blocks = kv_types[t % 3] == TYPE_Q8_0 || kv_types[t / 3] == TYPE_Q8_0;
            if (blocks && dims[d] % 32) continue;
            for (int i = 0; i < KEYS; i++, at++) {
                const int n_rows = rows[at % (int)(sizeof rows / sizeof *rows)];
                if ((slow || dims[d] == 1024) && at % 7) continue;
                const float sharp = i % 3 == 0 ? 1 : i % 3 == 1 ? 0.01f : 12;
                Cache c =
                    cache_new(k, &r, kv_types[t % 3], kv_types[t / 3], dims[d], keys[i], sharp);
                check_tile(k, &r, &c, n_rows, at % 5 == 0 ? 0 : at % 5 == 1 ? 300 : n_rows);
                cache_free(&c);
            }
        }
    }
}

static void attention_in_double(void **state) {
    (void)state;
    each_set(attention_of_set);
}

// Sets whose f32_fma rounds once give the same bits; the generic set has its own.
static void sets_agree(void **state) {
    (void)state;
    const Kernels *host = host_kernels(0), *k;
    for (int s = 0; (k = any_kernels(s)); s++) {
        if (k->lacks() || strcmp(k->isa, "generic") == 0) continue;
        for (int type = 0; type < 9; type++) {
            float y[2][5 * 96];
            for (int which = 0; which < 2; which++) {
                const Kernels *one = which ? host : k;
                Rng r = {62};
                Cache c = cache_new(one, &r, kv_types[type % 3], kv_types[type / 3], 96, 530, 1);
                AttentionTile t = tile_of(&c, 0.1f);
                float q[5 * 96];
                void *scratch = scratch_of(one, 96);
                for (int i = 0; i < 5 * 96; i++) q[i] = rng_normal(&r);
                t.n_rows = 5;
                for (int i = 0; i < 5; i++)
                    t.rows[i] =
                        (AttentionRow){.q = q + 96 * i, .y = y[which] + 96 * i, .n_keys = 526 + i};
                one->attention->rows(&t, scratch);
                free(scratch);
                cache_free(&c);
            }
            same_floats(k->isa, y[0], y[1], 5 * 96);
        }
    }
}

// --- what must show, and what must not -----------------------------------------------------------

typedef struct {
    Cache c;
    float q[9 * 32], y[9 * 32], kq[9 * 600], soft[9 * 600];
    AttentionTile t;
    void *scratch;
} Small;

// Nine rows over 592 .. 600 keys of F32.
static void small_run(const Kernels *k, Small *m) {
    m->t = tile_of(&m->c, 0.2f);
    m->t.n_rows = 9;
    for (int i = 0; i < 9; i++)
        m->t.rows[i] = (AttentionRow){m->q + 32 * i, m->y + 32 * i, m->kq + 600 * i,
                                      m->soft + 600 * i, 592 + i};
    k->attention->rows(&m->t, m->scratch);
}

static void small_new(const Kernels *k, Small *m) {
    Rng r = {63};
    m->c = cache_new(k, &r, TYPE_F32, TYPE_F32, 32, 600, 1);
    for (int i = 0; i < 9 * 32; i++) m->q[i] = rng_normal(&r);
    m->scratch = scratch_of(k, 32);
    small_run(k, m);
}

static void put(const Kernels *k, Cache *c, int pos, int element, float key, float value) {
    float x[32], v[32];
    memcpy(x, c->kf + pos * 32, sizeof x);
    memcpy(v, c->vf + pos * 32, sizeof v);
    x[element] = key, v[element] = value;
    cache_put(k, c, pos, x, v);
}

static void bad_numbers_of_set(const Kernels *k) {
    static const float bad[] = {NAN, HUGE_VALF, -HUGE_VALF};
    static const int places[] = {0, 7, 255, 256, 591};
    Small *m = room(sizeof *m);
    small_new(k, m);
    float *before = room(sizeof m->y);
    memcpy(before, m->y, sizeof m->y);
    for (int b = 0; b < 3; b++) {
        // A value that is not finite shows in its element of every row that sees it, only there.
        for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
            const float old = m->c.vf[places[p] * 32 + 5];
            put(k, &m->c, places[p], 5, m->c.kf[places[p] * 32 + 5], bad[b]);
            small_run(k, m);
            for (int i = 0; i < 9 * 32; i++) {
                if (i % 32 == 5)
                    assert_false(isfinite(m->y[i]));
                else
                    assert_int_equal(float_bits(m->y[i]), float_bits(before[i]));
            }
            put(k, &m->c, places[p], 5, m->c.kf[places[p] * 32 + 5], old);
        }
        // A key that is not a number, or whose score is infinite, makes all of it NaN; a score of
        // -infinity alone is a weight of 0.
        const float key = m->c.kf[300 * 32 + 9];
        put(k, &m->c, 300, 9, bad[b], m->c.vf[300 * 32 + 9]);
        small_run(k, m);
        for (int r = 0; r < 9; r++) {
            const bool gone = b > 0 && (m->q[32 * r + 9] > 0) == (bad[b] < 0);
            for (int i = 0; i < 32; i++) assert_int_equal(isnan(m->y[32 * r + i]), !gone);
            if (gone) assert_true(m->soft[600 * r + 300] == 0);
        }
        put(k, &m->c, 300, 9, key, m->c.vf[300 * 32 + 9]);
        // In q.
        const float q = m->q[3 * 32 + 1];
        m->q[3 * 32 + 1] = bad[b];
        small_run(k, m);
        for (int i = 0; i < 9 * 32; i++) {
            if (i / 32 == 3)
                assert_true(isnan(m->y[i]));
            else
                assert_int_equal(float_bits(m->y[i]), float_bits(before[i]));
        }
        m->q[3 * 32 + 1] = q;
        // What a row does not see is nothing to it.
        put(k, &m->c, 599, 0, bad[b], bad[b]);
        put(k, &m->c, 598, 1, bad[b], bad[b]);
        small_run(k, m);
        same_floats("rows before a bad key", m->y, before, 7 * 32);
        put(k, &m->c, 599, 0, 0, 0);
        put(k, &m->c, 598, 1, 0, 0);
        small_run(k, m);
        memcpy(before + 7 * 32, m->y + 7 * 32, 2 * 32 * sizeof *before);
    }
    cache_free(&m->c);
    free(m->scratch);
    free(before);
    free(m);
}

static void bad_numbers(void **state) {
    (void)state;
    each_set(bad_numbers_of_set);
}

// n keys of one element, all values 1; returns y and the weights.
static float one_element(const Kernels *k, const float *keys, int n, float *soft) {
    float q = 1, y, one = 1, kq[600];
    Rng r = {1};
    Cache c = cache_new(k, &r, TYPE_F32, TYPE_F32, 1, n, 1);
    for (int i = 0; i < n; i++) cache_put(k, &c, i, &keys[i], &one);
    AttentionTile t = tile_of(&c, 1);
    void *scratch = scratch_of(k, 1);
    t.n_rows = 1;
    t.rows[0] = (AttentionRow){&q, &y, kq, soft, n};
    k->attention->rows(&t, scratch);
    free(scratch);
    cache_free(&c);
    return y;
}

// Scores within 0.041 give weights near 1 / n: right, and no collapse.
static void even_scores_of_set(const Kernels *k) {
    enum { N = 18 };
    float keys[600], soft[600];
    for (int i = 0; i < N; i++) keys[i] = -0.041f + 0.082f * (float)i / (N - 1);
    float y = one_element(k, keys, N, soft);
    assert_true(soft[0] > 0.0530f && soft[N - 1] < 0.0580f);
    assert_true(fabs((double)soft[N - 1] / (double)soft[0] - 1.0855) < 1e-3);
    assert_true(fabs((double)y - 1) < 1e-6);
    // A NaN among the keys shows.
    keys[7] = NAN;
    assert_true(isnan(one_element(k, keys, N, soft)));
    // Huge scores, whose differences overflow, and whole chunks of -infinity.
    for (int i = 0; i < 600; i++) keys[i] = i == 400 ? 3e38f : i < 256 ? -HUGE_VALF : -3e38f;
    assert_true(one_element(k, keys, 600, soft) == 1 && soft[400] == 1 && soft[0] == 0);
    for (int i = 0; i < 600; i++) keys[i] = -3e38f;
    assert_true(fabs((double)one_element(k, keys, 600, soft) - 1) < 1e-6);
    // No weight at all is not a number.
    for (int i = 0; i < 600; i++) keys[i] = -HUGE_VALF;
    assert_true(isnan(one_element(k, keys, 600, soft)));
}

static void even_and_huge_scores(void **state) {
    (void)state;
    each_set(even_scores_of_set);
}

// --- exp -----------------------------------------------------------------------------------------

// Of the generic set; the others' differs in roundings, which the weights above are held to.
static void exp_over_all_floats(void **state) {
    (void)state;
    Rng r = {71};
    static const float edges[] = {-87.3f, 88.7f,      0,        -0.0f,     HUGE_VALF,
                                  NAN,    -HUGE_VALF, 0.34657f, 3.402e38f, -3.402e38f};
    for (int i = 0; i < 500000; i++) {
        float x[LANES], y[LANES];
        for (int l = 0; l < LANES; l++) {
            x[l] = l % 2 ? bits_float((uint32_t)rng_u64(&r)) : (float)(rng_unit(&r) * 180 - 90);
            if (i < 10) x[l] = edges[i];
        }
        f32_store(y, f32_exp(f32_load(x)));
        for (int l = 0; l < LANES; l++) {
            const double want = exp(x[l] > 88.7f ? (double)88.7f : (double)x[l]);
            int e;
            frexp(want, &e);
            if (isnan(x[l])     ? !isnan(y[l])
                : x[l] < -87.3f ? y[l] != 0
                                : !(fabs((double)y[l] - want) <= 2 * ldexp(1, e - 24)))
                fail_msg("exp(%.9g) is %.9g, expected %.9g", (double)x[l], (double)y[l], want);
        }
    }
}

// --- through the backend -------------------------------------------------------------------------

enum { HEADS = 12, KV_HEADS = 3, DIM = 64, SEQS = 4, CTX = 1100, MOST = 700, PAIRS = 4 };

typedef struct {
    Backend *b;
    Kv *kv;
    Buffer *q, *k, *v, *y, *kq, *soft;
    float cosine[MOST * PAIRS], sine[MOST * PAIRS];
    float *all[SEQS];  // what each position of a sequence became, CTX x HEADS * DIM
} Engine;

static const HeadShape shape = {HEADS, KV_HEADS, DIM, 2 * PAIRS, false, 0.125f};

static Buffer *buffer_of(Backend *b, size_t n) {
    Buffer *buf;
    assert_int_equal(cpu_backend.buffer(b, n, &buf, NULL), OK);
    return buf;
}

static void engine_open(Engine *e, const char *isa, int n_threads, TensorType type) {
    const BackendConfig config = {.n_threads = n_threads, .isa = isa};
    const KvShape kv = {2, KV_HEADS, DIM, CTX, SEQS, type, type};
    assert_int_equal(cpu_backend.open(&config, &e->b, NULL), OK);
    assert_int_equal(cpu_backend.reserve(e->b, MOST, CTX, HEADS / KV_HEADS, NULL), OK);
    assert_int_equal(cpu_backend.kv_new(e->b, &kv, &e->kv, NULL), OK);
    e->q = buffer_of(e->b, MOST * HEADS * DIM), e->y = buffer_of(e->b, MOST * HEADS * DIM);
    e->k = buffer_of(e->b, MOST * KV_HEADS * DIM), e->v = buffer_of(e->b, MOST * KV_HEADS * DIM);
    e->kq = buffer_of(e->b, 8 * HEADS * CTX), e->soft = buffer_of(e->b, 8 * HEADS * CTX);
    for (int s = 0; s < SEQS; s++) e->all[s] = room((size_t)CTX * HEADS * DIM * 4);
}

static void engine_close(Engine *e) {
    Buffer *bufs[] = {e->q, e->k, e->v, e->y, e->kq, e->soft};
    for (int i = 0; i < 6; i++) cpu_backend.buffer_free(e->b, bufs[i]);
    for (int s = 0; s < SEQS; s++) free(e->all[s]);
    cpu_backend.kv_free(e->b, e->kv);
    cpu_backend.close(e->b);
}

// The inputs of (seq, pos) are the same wherever it is computed.
static void inputs_of(Engine *e, const Batch *batch) {
    for (int i = 0; i < batch->n; i++) {
        Rng r = {(uint64_t)(batch->seq[i] * 10000 + batch->pos[i])};
        for (int j = 0; j < HEADS * DIM; j++)
            e->q->data[(size_t)i * HEADS * DIM + j] = rng_normal(&r);
        for (int j = 0; j < KV_HEADS * DIM; j++) {
            e->k->data[(size_t)i * KV_HEADS * DIM + j] = rng_normal(&r);
            e->v->data[(size_t)i * KV_HEADS * DIM + j] = rng_normal(&r);
        }
        for (int j = 0; j < PAIRS; j++) {
            const double angle = batch->pos[i] * (0.3 + j);
            e->cosine[i * PAIRS + j] = (float)cos(angle),
                                  e->sine[i * PAIRS + j] = (float)sin(angle);
        }
    }
}

// Evaluates n tokens; with scores where n is small and `look`.
static void step(Engine *e, int n, const int32_t *seq, const int32_t *pos, bool look) {
    Batch batch = {.n = n,
                   .token = seq,
                   .pos = pos,
                   .seq = seq,
                   .rope_cos = e->cosine,
                   .rope_sin = e->sine,
                   .n_pairs = PAIRS};
    inputs_of(e, &batch);
    look = look && n <= 8;
    assert_int_equal(cpu_backend.begin(e->b, &batch, NULL), OK);
    cpu_backend.rope_kv(e->b, &shape, e->q, e->k, e->v, e->kv, 1);
    cpu_backend.attention(e->b, &shape, e->q, e->kv, 1, e->y, look ? e->kq : NULL,
                          look ? e->soft : NULL, CTX);
    assert_int_equal(cpu_backend.end(e->b, NULL), OK);
    for (int i = 0; i < n; i++) {
        memcpy(e->all[seq[i]] + (size_t)pos[i] * HEADS * DIM, e->y->data + (size_t)i * HEADS * DIM,
               HEADS * DIM * sizeof(float));
        for (int h = 0; look && h < HEADS; h++) {
            for (int j = pos[i] + 1; j < CTX; j++) {  // masked
                assert_true(e->kq->data[((size_t)i * HEADS + h) * CTX + j] == 0);
                assert_true(e->soft->data[((size_t)i * HEADS + h) * CTX + j] == 0);
            }
        }
    }
}

// Positions [from, to) of a sequence, at most `most` a batch.
static void run(Engine *e, int seq, int from, int to, int most, bool look) {
    int32_t seqs[MOST], pos[MOST];
    for (int at = from; at < to; at += most) {
        const int n = to - at < most ? to - at : most;
        for (int i = 0; i < n; i++) seqs[i] = seq, pos[i] = at + i;
        step(e, n, seqs, pos, look);
    }
}

// Three sequences: 690 + 3, 300 + 6 and 0 + 5 positions, the ends in one batch, mixed.
static void mixed(Engine *e) {
    static const int32_t seq[] = {0, 2, 1, 1, 0, 2, 2, 1, 1, 1, 1, 2, 2, 0};
    static const int32_t pos[] = {690, 0, 300, 301, 691, 1, 2, 302, 303, 304, 305, 3, 4, 692};
    run(e, 0, 0, 690, MOST, false);
    run(e, 1, 0, 300, 77, false);
    step(e, (int)(sizeof seq / sizeof *seq), seq, pos, false);
}

static void one_by_one(Engine *e, bool look) {
    run(e, 0, 0, 600, 100, look);
    run(e, 0, 600, 693, 1, look);
    run(e, 1, 0, 306, 3, look);
    run(e, 2, 0, 5, 1, look);
}

static void any_way_to_the_bit(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 16}, ends[] = {693, 306, 5};
    const char *isa;
    for (int i = 0; (isa = cpu_backend.isa_at(i)); i++) {
        for (int type = 0; type < 3; type++) {
            Engine *want = room(sizeof *want), *e = room(sizeof *e);
            engine_open(want, isa, 1, kv_types[type]);
            mixed(want);
            for (int n = 0; n < 4; n++) {
                if (UNDER_ASAN && (n + type) % 3) continue;
                for (int way = 0; way < 3; way++) {
                    engine_open(e, isa, threads[n], kv_types[type]);
                    if (way == 0)
                        mixed(e);
                    else
                        one_by_one(e, way == 2);
                    for (int s = 0; s < 3; s++)
                        same_floats("a position", e->all[s], want->all[s],
                                    (size_t)ends[s] * HEADS * DIM);
                    engine_close(e);
                }
            }
            engine_close(want);
            free(want);
            free(e);
        }
    }
}

// What the cache gives back, and a copied start: nothing behind it changes.
static void cache_of_the_backend(void **state) {
    (void)state;
    float k[2][KV_HEADS * DIM], v[2][KV_HEADS * DIM], before[2][KV_HEADS * DIM];
    for (int type = 0; type < 3; type++) {
        Engine *e = room(sizeof *e);
        engine_open(e, NULL, 2, kv_types[type]);
        run(e, 0, 0, 40, 40, false);
        run(e, 1, 0, 30, 7, false);
        assert_int_equal(cpu_backend.kv_read(e->b, e->kv, 1, 1, 21, before[0], before[1], NULL),
                         OK);
        cpu_backend.kv_copy(e->b, e->kv, 0, 1, 21);
        for (int pos = 0; pos < 21; pos++) {
            for (int s = 0; s < 2; s++)
                assert_int_equal(cpu_backend.kv_read(e->b, e->kv, 1, s, pos, k[s], v[s], NULL), OK);
            same_floats("a copied key", k[1], k[0], KV_HEADS * DIM);
            same_floats("a copied value", v[1], v[0], KV_HEADS * DIM);
            assert_true(isfinite(k[0][0]) && isfinite(v[0][0]));
        }
        assert_int_equal(cpu_backend.kv_read(e->b, e->kv, 1, 1, 21, k[0], v[0], NULL), OK);
        same_floats("a key that stays", k[0], before[0], KV_HEADS * DIM);
        same_floats("a value that stays", v[0], before[1], KV_HEADS * DIM);
        engine_close(e);
        free(e);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_in_double),  cmocka_unit_test(sets_agree),
        cmocka_unit_test(bad_numbers),          cmocka_unit_test(even_and_huge_scores),
        cmocka_unit_test(exp_over_all_floats),  cmocka_unit_test(any_way_to_the_bit),
        cmocka_unit_test(cache_of_the_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
