// The kernels of GPUs that rotate, cache and attend, each against sums in double; on the emulator
// (tests/gpu), or on the device that the argument names. What a cache holds beside the keys that a
// token may see is NaN.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "gpu_fixture.h"

enum { MOST_POSITIONS = 16 };

// --- the cache -----------------------------------------------------------------------------------

// One of keys or values: what is in it (float32, NaN where nothing is) and its bytes.
typedef struct {
    TensorType type;
    int n_layers, n_seqs, n_heads, n_ctx, dim;
    size_t n;  // elements
    float *x;
    uint8_t *raw;
    size_t scales_at, bytes;
} Cache;

static Cache cache_new(TensorType type, int n_layers, int n_seqs, int n_heads, int n_ctx, int dim) {
    Cache c = {.type = type,
               .n_layers = n_layers,
               .n_seqs = n_seqs,
               .n_heads = n_heads,
               .n_ctx = n_ctx,
               .dim = dim};
    c.n = (size_t)n_layers * (size_t)n_seqs * (size_t)n_heads * (size_t)n_ctx * (size_t)dim;
    const size_t data = c.n * (type == TYPE_F32 ? 4 : type == TYPE_F16 ? 2 : 1);
    c.scales_at = (data + 255) / 256 * 256;
    c.bytes = c.scales_at + (type == TYPE_Q8_0 ? c.n / 32 * 2 : 0);
    c.x = room(c.n * sizeof *c.x);
    c.raw = room(c.bytes);
    return c;
}

static void cache_free(Cache c) {
    free(c.x);
    free(c.raw);
}

static size_t cache_at(const Cache *c, int layer, int seq, int head, int pos) {
    const size_t row = (size_t)((layer * c->n_seqs + seq) * c->n_heads + head);
    return (row * (size_t)c->n_ctx + (size_t)pos) * (size_t)c->dim;
}

static float get_half(const uint8_t *at) {
    uint16_t h;
    memcpy(&h, at, 2);
    return f16_to_f32(h);
}

static float cache_get(const Cache *c, const uint8_t *raw, size_t i) {
    float x;
    if (c->type == TYPE_F16) return get_half(raw + 2 * i);
    if (c->type == TYPE_Q8_0) return get_half(raw + c->scales_at + i / 32 * 2) * (float)(i8)raw[i];
    memcpy(&x, raw + 4 * i, 4);
    return x;
}

// Writes a row, and keeps what can be read of it.
static void cache_put(Cache *c, size_t at, const float *x) {
    float most = 0, d = 0;
    for (int i = 0; i < c->dim; i++) {
        const size_t to = at + (size_t)i;
        const uint16_t half = f32_to_f16(x[i]);
        if (c->type == TYPE_F32) memcpy(c->raw + 4 * to, &x[i], 4);
        if (c->type == TYPE_F16) memcpy(c->raw + 2 * to, &half, 2);
        if (c->type != TYPE_Q8_0) continue;
        if (i % 32 == 0) {
            most = 0;
            for (int k = i; k < i + 32; k++) most = fmaxf(most, fabsf(x[k]));
            const uint16_t scale = f32_to_f16(most / 127);
            memcpy(c->raw + c->scales_at + to / 32 * 2, &scale, 2);
            d = f16_to_f32(scale);
        }
        c->raw[to] = (uint8_t)(i8)fmaxf(-127, fminf(127, rintf(x[i] / d)));
    }
    for (size_t i = at; i < at + (size_t)c->dim; i++) c->x[i] = cache_get(c, c->raw, i);
}

static CacheArgs cache_args(const Cache *k, const Cache *v, int layer, int n_tokens) {
    return (CacheArgs){.k_scales_bytes = k->scales_at,
                       .v_scales_bytes = v->scales_at,
                       .type_k = (i32)k->type,
                       .type_v = (i32)v->type,
                       .layer = layer,
                       .n_seqs = k->n_seqs,
                       .n_kv_heads = k->n_heads,
                       .n_ctx = k->n_ctx,
                       .head_dim = k->dim,
                       .n_tokens = n_tokens};
}

// The pair of types number i that heads of this size can have.
static void types_of(int i, int dim, TensorType *k, TensorType *v) {
    static const TensorType all[3] = {TYPE_F32, TYPE_F16, TYPE_Q8_0};
    const int n = dim % 32 == 0 ? 3 : 2;
    *k = all[i % n];
    *v = all[i / n % n];
}

// --- rotating and writing ------------------------------------------------------------------------

typedef struct {
    int n_tokens, n_heads, n_kv, dim, n_rot;
    bool neox;
    const i32 *pos, *seq;
    float *cosines, *sines;
} Rope;

// x0 and x1 of a pair, for each row of `heads` heads: got is x rotated.
static void check_rotated(const Rope *p, const float *x, const float *got, int heads) {
    const int pairs = p->n_rot / 2;
    for (int row = 0; row < p->n_tokens * heads; row++) {
        const float *from = x + (size_t)(row * p->dim), *to = got + (size_t)(row * p->dim);
        for (int i = 0; i < pairs; i++) {
            const int a = p->neox ? i : 2 * i, b = p->neox ? i + pairs : 2 * i + 1;
            const double c = (double)p->cosines[row / heads * pairs + i],
                         s = (double)p->sines[row / heads * pairs + i];
            const double x0 = (double)from[a], x1 = (double)from[b];
            const size_t at = (size_t)(row * p->dim);
            near(at + (size_t)a, to[a], x0 * c - x1 * s, 3 * U * (fabs(x0 * c) + fabs(x1 * s)));
            near(at + (size_t)b, to[b], x0 * s + x1 * c, 3 * U * (fabs(x0 * s) + fabs(x1 * c)));
        }
        same_floats(gpu.what, to + p->n_rot, from + p->n_rot, (size_t)(p->dim - p->n_rot));
    }
}

// 32 elements against their bytes: the scale is that of the definition, and each code the nearest
// but where the scale was rounded down.
static void check_q8_0(const Cache *c, const uint8_t *raw, size_t at, const float *x) {
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
    const float d = get_half(raw + c->scales_at + at / 32 * 2);
    assert_true(d == f16_to_f32(f32_to_f16(most / 127)));
    for (int i = 0; i < 32; i++) {
        const double code = (double)(i8)raw[at + (size_t)i];
        const double off = 0.501 * (double)d + fabs((double)most - 127.0 * (double)d);
        if (d == 0 && code != 0) fail_msg("%s: code %g of scale 0", gpu.what, code);
        if (!(fabs(code * (double)d - (double)x[i]) <= off)) {
            fail_msg("%s: %g is kept as %g * %g", gpu.what, (double)x[i], code, (double)d);
        }
    }
}

// The rows of the tokens hold x, n_tokens x heads rows; all else is what it was.
static void check_cache(const Cache *c, const uint8_t *raw, int layer, const Rope *p,
                        const float *x) {
    uint8_t *is_row = calloc(c->n, 1);
    assert_non_null(is_row);
    for (int row = 0; row < p->n_tokens * p->n_kv; row++) {
        const int t = row / p->n_kv;
        const size_t at = cache_at(c, layer, p->seq[t], row % p->n_kv, p->pos[t]);
        const float *from = x + (size_t)row * (size_t)c->dim;
        memset(is_row + at, 1, (size_t)c->dim);
        for (int i = 0; i < c->dim; i++) {
            const float got = cache_get(c, raw, at + (size_t)i);
            if (c->type == TYPE_Q8_0) {
                if (i % 32 == 0) check_q8_0(c, raw, at + (size_t)i, from + i);
                continue;
            }
            const float want = c->type == TYPE_F16 ? f16_to_f32(f32_to_f16(from[i])) : from[i];
            if (isnan(want) && isnan(got)) continue;
            if (float_bits(got) != float_bits(want)) {
                fail_msg("%s: %.9g is kept as %.9g", gpu.what, (double)from[i], (double)got);
            }
        }
    }
    const size_t bytes = c->type == TYPE_F32 ? 4 : c->type == TYPE_F16 ? 2 : 1;
    for (size_t i = 0; i < c->n; i++) {
        if (is_row[i]) continue;
        assert_memory_equal(raw + i * bytes, c->raw + i * bytes, bytes);
        if (c->type == TYPE_Q8_0) {
            const size_t scale = c->scales_at + i / 32 * 2;
            assert_memory_equal(raw + scale, c->raw + scale, 2);
        }
    }
    free(is_row);
}

static void check_rope(Rng *r, int dim, int n_rot, bool neox, int n_kv, int gqa, int types) {
    static const i32 pos[4] = {5, 0, 6, MOST_POSITIONS - 1}, seq[4] = {2, 0, 2, 1};
    enum { N = 4, LAYERS = 3, LAYER = 1, SEQS = 3, COS_AT = 3 * N + 5 };
    if (gpu_left_out()) return;
    TensorType type_k, type_v;
    types_of(types, dim, &type_k, &type_v);
    gpu_case("rope_write: heads of %d, %d rotated, neox %d, %d x %d heads, types %d and %d", dim,
             n_rot, neox, n_kv, gqa, type_k, type_v);
    Rope p = {N, n_kv * gqa, n_kv, dim, n_rot, neox, pos, seq, NULL, NULL};
    const size_t table = (size_t)(N * n_rot / 2), n_q = (size_t)(N * p.n_heads * dim),
                 n_k = (size_t)(N * n_kv * dim);
    i32 *step = room((COS_AT + 2 * table) * sizeof *step);
    memcpy(step + N, pos, sizeof pos);
    memcpy(step + 2 * N, seq, sizeof seq);
    p.cosines = (float *)step + COS_AT, p.sines = p.cosines + table;
    for (size_t i = 0; i < table; i++) {  // a scale, too, so that c^2 + s^2 is not 1
        const double angle = 7 * rng_unit(r);
        p.cosines[i] = (float)(1.3 * cos(angle)), p.sines[i] = (float)(1.3 * sin(angle));
    }
    float *q = random_floats(r, n_q, 2), *k = random_floats(r, n_k, 2),
          *v = random_floats(r, n_k, 2);
    Cache ck = cache_new(type_k, LAYERS, SEQS, n_kv, MOST_POSITIONS, dim),
          cv = cache_new(type_v, LAYERS, SEQS, n_kv, MOST_POSITIONS, dim);
    const RopeArgs a = {.cache = cache_args(&ck, &cv, LAYER, N),
                        .n_heads = p.n_heads,
                        .n_rot = n_rot,
                        .neox = neox,
                        .cos_at = COS_AT,
                        .sin_at = COS_AT + (i32)table};
    const Mem m[] = {
        mem_new(q, 4 * n_q),       mem_new(k, 4 * n_k),
        mem_new(v, 4 * n_k),       mem_settled(step, (COS_AT + 2 * table) * sizeof *step),
        mem_new(ck.raw, ck.bytes), mem_new(cv.raw, cv.bytes)};
    launch(KERNEL_rope_write, N, p.n_heads + 2 * n_kv, 1, &a, 6, m);
    float *got_q = mem_take(m[0]), *got_k = mem_take(m[1]), *got_v = mem_take(m[2]);
    uint8_t *raw_k = mem_take(m[4]), *raw_v = mem_take(m[5]);
    check_rotated(&p, q, got_q, p.n_heads);
    check_rotated(&p, k, got_k, n_kv);
    same_floats(gpu.what, got_v, v, n_k);
    check_cache(&ck, raw_k, LAYER, &p, got_k);
    check_cache(&cv, raw_v, LAYER, &p, v);
    mem_free(m[3]);
    cache_free(ck), cache_free(cv);
    free(q), free(k), free(v), free(step);
    free(got_q), free(got_k), free(got_v), free(raw_k), free(raw_v);
}

static void test_rope_write(void **state) {
    (void)state;
    static const int dims[] = {2, 20, 24, 32, 64, 80, 96, 128, 160, 256};
    Rng r = {1};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        const int dim = dims[i];
        for (int way = 0; way < 18; way++) {
            const int rots[3] = {dim, dim / 4 * 2, way % 2 ? 0 : 2};
            check_rope(&r, dim, rots[way % 3], way & 1, 1 + way % 2, 1 + way % 4, way / 2);
        }
    }
}

// Values that a half or a block of Q8_0 rounds, cuts off or cannot hold.
static void check_kept(const float *x, int n, TensorType type) {
    enum { DIM = 256 };
    static const i32 pos = 0, seq = 0;
    gpu_case("values as type %d", type);
    const int n_kv = n / DIM;
    Rope p = {1, 1, n_kv, DIM, 0, false, &pos, &seq, NULL, NULL};
    Cache c = cache_new(type, 1, 1, n_kv, 2, DIM);
    const i32 step[3] = {-1, pos, seq};
    const RopeArgs a = {.cache = cache_args(&c, &c, 0, 1), .n_heads = 1};
    float q[DIM] = {0};
    const Mem m[] = {mem_new(q, sizeof q),      mem_new(x, 4 * (size_t)n),
                     mem_new(x, 4 * (size_t)n), mem_settled(step, sizeof step),
                     mem_new(c.raw, c.bytes),   mem_new(c.raw, c.bytes)};
    launch(KERNEL_rope_write, 1, 1 + 2 * n_kv, 1, &a, 6, m);
    for (int i = 4; i < 6; i++) {
        uint8_t *raw = mem_take(m[i]);
        check_cache(&c, raw, 0, &p, x);
        free(raw);
    }
    for (int i = 0; i < 4; i++) mem_free(m[i]);
    cache_free(c);
}

static void test_halves_are_rounded_as_they_should(void **state) {
    (void)state;
    enum { N = 256 * 256 };
    static float x[N];
    Rng r = {2};
    for (int i = 0; i < N; i++) {
        // A half, the middle to the next one, and a little beside it: of any size and sign.
        const uint32_t half = (uint32_t)rng_below(&r, 0x7c00);
        const double low = (double)f16_to_f32((uint16_t)half),
                     high = half == 0x7bff ? 65536 : (double)f16_to_f32((uint16_t)(half + 1));
        const float middle = (float)((low + high) / 2);
        const int off = i % 4 - 1;
        x[i] = i % 4 == 3 ? bits_float((uint32_t)rng_u64(&r))
                          : bits_float(float_bits(middle) + (uint32_t)off);
        if (i & 64) x[i] = -x[i];
    }
    x[0] = HUGE_VALF, x[1] = -HUGE_VALF, x[2] = NAN, x[3] = -0.0f, x[4] = 0x1p-24f;
    x[5] = 0x1p-25f, x[6] = 0x1.000002p-25f, x[7] = 65519.996f, x[8] = 65520, x[9] = -65520;
    check_kept(x, N, TYPE_F16);
}

static void test_blocks_of_every_size(void **state) {
    (void)state;
    enum { N = 256 * 96 };
    static float x[N];
    Rng r = {3};
    for (int i = 0; i < N; i++) {  // from far below the least half to the largest scale
        const double size = ldexp(1, i / 32 * 60 / (N / 32) - 38);
        x[i] = (float)(size * (2 * rng_unit(&r) - 1));
        if (i / 32 % 9 == 0) x[i] = 0;
    }
    check_kept(x, N, TYPE_Q8_0);
}

// What is not finite, or too large for a scale, is read back as nothing finite.
static void test_q8_0_shows_what_it_cannot_hold(void **state) {
    (void)state;
    enum { DIM = 128 };
    static const float bad[4] = {NAN, HUGE_VALF, -HUGE_VALF, 9e6f};
    for (int i = 0; i < 4; i++) {
        gpu_case("Q8_0 of %g", (double)bad[i]);
        float q[DIM] = {0}, k[DIM], v[DIM];
        for (int d = 0; d < DIM; d++) k[d] = v[d] = (float)d;
        k[33] = bad[i], v[127] = bad[i];
        Cache c = cache_new(TYPE_Q8_0, 1, 1, 1, 1, DIM);
        const i32 step[3] = {-1, 0, 0};
        const RopeArgs a = {.cache = cache_args(&c, &c, 0, 1), .n_heads = 1};
        const Mem m[] = {mem_new(q, sizeof q),    mem_new(k, sizeof k),
                         mem_new(v, sizeof v),    mem_settled(step, sizeof step),
                         mem_new(c.raw, c.bytes), mem_new(c.raw, c.bytes)};
        launch(KERNEL_rope_write, 1, 3, 1, &a, 6, m);
        uint8_t *raw_k = mem_take(m[4]), *raw_v = mem_take(m[5]);
        for (size_t d = 0; d < DIM; d++) {
            assert_true(!!isfinite(cache_get(&c, raw_k, d)) == (d / 32 != 1));
            assert_true(!!isfinite(cache_get(&c, raw_v, d)) == (d / 32 != 3));
        }
        for (int b = 0; b < 4; b++) mem_free(m[b]);
        free(raw_k), free(raw_v);
        cache_free(c);
    }
}

// --- attending -----------------------------------------------------------------------------------

typedef struct {
    int dim, n_kv, gqa, n_tokens;
    const i32 *pos, *seq;
    TensorType type_k, type_v;
    int spans;  // that partial results have room for; 0: attend_keys writes y itself
    int slice;
    double size;  // of queries
    float *q;
    Cache k, v;
} Attend;

enum { A_LAYER = 1, A_SEQS = 3 };

// Each sequence holds the keys that its tokens see, and no more.
static void fill(Rng *r, Attend *p, int n_ctx) {
    p->k = cache_new(p->type_k, A_LAYER + 1, A_SEQS, p->n_kv, n_ctx, p->dim);
    p->v = cache_new(p->type_v, A_LAYER + 1, A_SEQS, p->n_kv, n_ctx, p->dim);
    p->q = random_floats(r, (size_t)(p->n_tokens * p->n_kv * p->gqa * p->dim), p->size);
    for (int t = 0; t < p->n_tokens; t++) {
        for (int i = 0; i <= p->pos[t] * p->n_kv + p->n_kv - 1; i++) {
            const size_t at = cache_at(&p->k, A_LAYER, p->seq[t], i % p->n_kv, i / p->n_kv);
            float *k = random_floats(r, (size_t)p->dim, 1),
                  *v = random_floats(r, (size_t)p->dim, 1);
            cache_put(&p->k, at, k);
            cache_put(&p->v, at, v);
            free(k);
            free(v);
        }
    }
}

static void empty(Attend *p) {
    free(p->q);
    cache_free(p->k);
    cache_free(p->v);
}

typedef struct {
    double score, score_off;  // scaled; how far float32 may be from it
    double weight, weight_off;
} Key;

// The scores and weights of one head, with what rounding may do to them.
static void attend_keys_in_double(const Attend *p, const float *q, size_t row0, int n, double scale,
                                  Key *keys) {
    double top = -HUGE_VAL, most_off = 0, total = 0;
    for (int j = 0; j < n; j++) {
        const float *k = p->k.x + row0 + (size_t)j * (size_t)p->dim;
        double s = 0, size = 0;
        for (int i = 0; i < p->dim; i++) {
            s += (double)q[i] * (double)k[i];
            size += fabs((double)q[i] * (double)k[i]);
        }
        keys[j].score = s * scale;
        keys[j].score_off = U * scale * (p->dim + 4) * size;
        if (keys[j].score > top) top = keys[j].score;
        if (keys[j].score_off > most_off) most_off = keys[j].score_off;
    }
    for (int j = 0; j < n; j++) total += exp(keys[j].score - top);
    for (int j = 0; j < n; j++) {
        keys[j].weight = exp(keys[j].score - top) / total;
        // Exponents are off by the scores' errors and one rounding; then come the exponential, the
        // sums and, for each span, the change to another top.
        const double rel = 2 * most_off + U * (fabs(keys[j].score - top) + 1.2 * n + 40);
        keys[j].weight_off = keys[j].weight * rel + 1e-37;
    }
}

// Those that are not NULL: y, and the rows of scores and weights, n_keys each.
static void check_attended(const Attend *p, double scale, const float *y, const float *kq,
                           const float *soft, int n_keys) {
    Key *keys = room((size_t)p->k.n_ctx * sizeof *keys);
    for (int row = 0; row < p->n_tokens * p->n_kv * p->gqa; row++) {
        const int t = row / (p->n_kv * p->gqa), head = row % (p->n_kv * p->gqa), n = p->pos[t] + 1;
        const size_t row0 = cache_at(&p->k, A_LAYER, p->seq[t], head / p->gqa, 0);
        const size_t at = (size_t)row * (size_t)p->dim;
        attend_keys_in_double(p, p->q + at, row0, n, scale, keys);
        for (int d = 0; y && d < p->dim; d++) {
            double want = 0, off = 0;
            for (int j = 0; j < n; j++) {
                const double v = (double)p->v.x[row0 + (size_t)(j * p->dim + d)];
                want += keys[j].weight * v;
                off += fabs(v) * keys[j].weight_off;
            }
            near(at + (size_t)d, y[at + (size_t)d], want, off + 1e-37);
        }
        for (int j = 0; kq && j < n_keys; j++) {
            const size_t i = (size_t)row * (size_t)n_keys + (size_t)j;
            near(i, kq[i], j < n ? keys[j].score : 0, j < n ? keys[j].score_off : 0);
            near(i, soft[i], j < n ? keys[j].weight : 0, j < n ? keys[j].weight_off : 0);
        }
    }
    free(keys);
}

static i32 *step_of(const Attend *p) {
    i32 *step = room(3 * (size_t)p->n_tokens * sizeof *step);
    memcpy(step + p->n_tokens, p->pos, (size_t)p->n_tokens * sizeof *step);
    memcpy(step + 2 * p->n_tokens, p->seq, (size_t)p->n_tokens * sizeof *step);
    return step;
}

static AttendArgs args_of(const Attend *p, float scale) {
    return (AttendArgs){.cache = cache_args(&p->k, &p->v, A_LAYER, p->n_tokens),
                        .n_heads = p->n_kv * p->gqa,
                        .slice = p->slice,
                        .n_slices = (p->gqa + p->slice - 1) / p->slice,
                        .n_spans = p->spans,
                        .scale = scale};
}

// By attend_keys, and attend_join where there are partial results. The caller frees.
static float *attend(const Attend *p, float scale) {
    const int n_heads = p->n_kv * p->gqa;
    const size_t rows = (size_t)(p->n_tokens * n_heads), n = rows * (size_t)p->dim;
    const bool joined = p->spans > 0, coded = joined && p->dim % 32 == 0;
    AttendArgs a = args_of(p, scale);
    i32 *step = step_of(p);
    const size_t partial_floats = joined ? rows * (size_t)(p->spans * PARTIAL(p->dim)) : 1;
    const Mem y = mem_new(NULL, 4 * n), partial = mem_new(NULL, 4 * partial_floats);
    const Mem m[] = {mem_new(p->q, 4 * n),
                     mem_new(p->k.raw, p->k.bytes),
                     mem_new(p->v.raw, p->v.bytes),
                     mem_settled(step, 3 * (size_t)p->n_tokens * sizeof *step),
                     y,
                     partial};
    launch(KERNEL_attend_keys, p->n_tokens, p->n_kv * a.n_slices, joined ? p->spans : 1, &a, 6, m);
    if (joined) {
        const Mem j[] = {partial, m[3], y, mem_new(NULL, coded ? n : 4),
                         mem_new(NULL, coded ? n / 2 : 8)};
        a.quantize = coded;
        launch(KERNEL_attend_join, p->n_tokens, n_heads, 1, &a, 5, j);
        if (coded) {
            float *x = room(4 * n);
            mem_get(y, x);
            same_codes(j[3], j[4], x, n);
            free(x);
        } else {
            mem_free(j[3]);
            mem_free(j[4]);
        }
    }
    float *got = mem_take(y);
    for (int i = 0; i < 4; i++) mem_free(m[i]);
    mem_free(partial);
    free(step);
    return got;
}

// With and without partial results, which must be the same bits.
static void check_attend(Rng *r, Attend *p, int n_ctx) {
    if (gpu_left_out()) return;
    const int spans = (p->pos[0] + SPAN) / SPAN;
    const float scale = 1 / sqrtf((float)p->dim);
    float *first = NULL;
    fill(r, p, n_ctx);
    for (p->spans = 0; p->spans <= spans + 2; p->spans += p->spans ? 2 : spans) {
        gpu_case(
            "attend_keys: heads of %d, %d kv heads x %d, %d keys, %d spans, slices of %d, "
            "types %d and %d",
            p->dim, p->n_kv, p->gqa, p->pos[0] + 1, p->spans, p->slice, p->type_k, p->type_v);
        float *y = attend(p, scale);
        if (first) {
            same_floats(gpu.what, y, first, (size_t)(p->n_tokens * p->n_kv * p->gqa * p->dim));
            free(y);
        } else {
            check_attended(p, (double)scale, y, NULL, NULL, 0);
            first = y;
        }
    }
    free(first);
    empty(p);
}

static const int key_counts[] = {1, 63, 64, 65, 130};
enum { N_KEYS = sizeof key_counts / sizeof *key_counts };

static void test_attend_keys(void **state) {
    (void)state;
    static const int dims[] = {2, 20, 24, 32, 44, 64, 80, 96, 128, 160, 192, 256};
    static const int gqas[] = {1, 3, 4, 8, 9, 32};
    Rng r = {4};
    int way = 0;
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
        for (size_t g = 0; g < sizeof gqas / sizeof *gqas; g++) {
            for (int k = 0; k < N_KEYS; k++, way++) {
                const int keys = key_counts[k];
                const i32 pos[3] = {keys - 1, keys / 2, 0}, seq[3] = {1, 1, 2};
                Attend p = {.dim = dims[d],
                            .n_kv = 1 + way % 2,
                            .gqa = gqas[g],
                            .n_tokens = gqas[g] == 32 ? 1 : 1 + way % 3,
                            .pos = pos,
                            .seq = seq,
                            .slice = gqas[g] < 8 ? gqas[g]
                                     : way % 4   ? 8
                                                 : 5,
                            .size = way % 5 ? 1 : 12};
                types_of(way, dims[d], &p.type_k, &p.type_v);
                check_attend(&r, &p, way % 2 ? keys : keys + 3);
            }
        }
    }
}

// More spans than are joined at once.
static void test_many_spans(void **state) {
    (void)state;
    static const int dims[] = {20, 32, 256}, counts[] = {257, 320, 321, 513};
    Rng r = {5};
    for (int i = 0; i < 12; i++) {
        const i32 pos[2] = {counts[i % 4] - 1, 70}, seq[2] = {2, 0};
        Attend p = {.dim = dims[i / 4],
                    .n_kv = 1,
                    .gqa = 1 + i % 3,
                    .n_tokens = 2,
                    .pos = pos,
                    .seq = seq,
                    .slice = 1 + i % 3,
                    .size = 4};
        types_of(i, p.dim, &p.type_k, &p.type_v);
        check_attend(&r, &p, counts[i % 4]);
    }
}

// Scores that go up or down by hundreds from span to span, or are all alike, high or low.
static void test_the_top_may_come_anywhere(void **state) {
    (void)state;
    Rng r = {6};
    for (int way = 0; way < 15; way++) {  // 140 keys have 3 spans
        const i32 pos = 139, seq = 0;
        Attend p = {.dim = 32,
                    .n_kv = 1,
                    .gqa = 4,
                    .n_tokens = 1,
                    .pos = &pos,
                    .seq = &seq,
                    .type_k = TYPE_F32,
                    .type_v = TYPE_F32,
                    .spans = way < 5 ? 0 : 2 + way / 5,
                    .slice = 4,
                    .size = 1};
        gpu_case("attend_keys: the top, way %d", way);
        fill(&r, &p, 140);
        for (int j = 0; j < 140; j++) {
            const size_t at = cache_at(&p.k, A_LAYER, 0, 0, j);
            float k[32];
            const int ups[5] = {j, 139 - j, 1, -20 - j, -60};
            const int up = ups[way % 5];
            for (int i = 0; i < 32; i++) k[i] = p.q[i] * (float)up;
            cache_put(&p.k, at, k);
        }
        float *y = attend(&p, 0.5f);
        check_attended(&p, 0.5, y, NULL, NULL, 0);
        free(y);
        empty(&p);
    }
}

static void test_attend_scores(void **state) {
    (void)state;
    static const int dims[] = {2, 20, 32, 80, 128, 256};
    Rng r = {7};
    int way = 0;
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
        for (int k = 0; k < N_KEYS; k++) {
            for (int more = 0; more < 2; more++, way++) {
                const int keys = key_counts[k], n_keys = keys + 7 * more;
                const i32 pos[3] = {keys - 1, keys / 3, 0}, seq[3] = {2, 0, 1};
                gpu_case("attend_scores: heads of %d, %d keys of %d", dims[d], keys, n_keys);
                Attend p = {.dim = dims[d],
                            .n_kv = 1 + way % 2,
                            .gqa = 1 + way % 3,
                            .n_tokens = 3,
                            .pos = pos,
                            .seq = seq,
                            .slice = 1,
                            .size = 2};
                types_of(way, dims[d], &p.type_k, &p.type_v);
                fill(&r, &p, n_keys);
                const int n_heads = p.n_kv * p.gqa;
                const size_t rows = (size_t)(3 * n_heads), n = rows * (size_t)p.dim;
                AttendArgs a = args_of(&p, 0.25f);
                a.n_keys = n_keys;
                i32 *step = step_of(&p);
                const Mem m[] = {mem_new(p.q, 4 * n), mem_new(p.k.raw, p.k.bytes),
                                 mem_settled(step, 9 * sizeof *step),
                                 mem_new(NULL, 4 * rows * (size_t)n_keys),
                                 mem_new(NULL, 4 * rows * (size_t)n_keys)};
                launch(KERNEL_attend_scores, 3, n_heads, 1, &a, 5, m);
                float *kq = mem_take(m[3]), *soft = mem_take(m[4]);
                check_attended(&p, 0.25, NULL, kq, soft, n_keys);
                for (int i = 0; i < 3; i++) mem_free(m[i]);
                free(kq), free(soft), free(step);
                empty(&p);
            }
        }
    }
}

// NaN in one query shows in that head alone; in a key that is seen, in all heads that it serves; an
// infinite value in its own place.
static void test_what_is_not_finite_shows(void **state) {
    (void)state;
    Rng r = {8};
    for (int spans = 0; spans <= 2; spans += 2) {
        for (int way = 0; way < 3; way++) {
            const i32 pos[2] = {69, 69}, seq[2] = {0, 1};
            Attend p = {.dim = 64,
                        .n_kv = 2,
                        .gqa = 3,
                        .n_tokens = 2,
                        .pos = pos,
                        .seq = seq,
                        .type_k = TYPE_F16,
                        .type_v = TYPE_F32,
                        .spans = spans,
                        .slice = 3,
                        .size = 1};
            gpu_case("attend_keys: not finite, way %d, %d spans", way, spans);
            fill(&r, &p, 70);
            const size_t at = cache_at(&p.k, A_LAYER, 1, 1, 66);
            const float inf = HUGE_VALF;
            if (way == 0) p.q[(6 + 4) * 64 + 63] = NAN;
            if (way == 1) memset(p.k.raw + 2 * (at + 17), 0xff, 2);
            if (way == 2) memcpy(p.v.raw + 4 * (at + 17), &inf, 4);
            float *y = attend(&p, 0.125f);
            for (int i = 0; i < 12 * 64; i++) {
                const int head = i / 64 - 6;  // of the second token
                const bool bad = way == 0   ? head == 4
                                 : way == 1 ? head >= 3
                                            : head >= 3 && i % 64 == 17;
                if (!!isfinite(y[i]) == bad) {
                    fail_msg("%s: token %d, head %d, element %d is %g", gpu.what, i / 64 / 6,
                             i / 64 % 6, i % 64, (double)y[i]);
                }
            }
            free(y);
            empty(&p);
        }
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope_write),
        cmocka_unit_test(test_halves_are_rounded_as_they_should),
        cmocka_unit_test(test_blocks_of_every_size),
        cmocka_unit_test(test_q8_0_shows_what_it_cannot_hold),
        cmocka_unit_test(test_attend_keys),
        cmocka_unit_test(test_many_spans),
        cmocka_unit_test(test_the_top_may_come_anywhere),
        cmocka_unit_test(test_attend_scores),
        cmocka_unit_test(test_what_is_not_finite_shows),
    };
    if (!gpu_named(argc, argv)) return 2;
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}
