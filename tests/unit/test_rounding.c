// Rounding as engines round: bit by bit as our own kernels do, as the formulas of others say but
// for what is marked uncertain, and as uncertain as it says.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend/cpu/kernel_sets.h"
#include "backend/cpu/unpack.h"
#include "check.h"
#include "verify/rounding.h"

static void to_doubles(const float *x, size_t n, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i];
}

static bool same(double a, double b) {
    return a == b || (!isfinite(a) && !isfinite(b));
}

// Rows of all kinds: smooth, spiky, tiny, huge, subnormal, all zero, one element, not finite.
enum { KINDS = 12 };
static void make_row(Rng *r, int kind, float *x, size_t n) {
    static const float sizes[KINDS] = {1,         1,        1e-3f,    1e4f, 0x1p-120f, 0x1p-100f,
                                       0x1p-101f, 0x1p-18f, 0x1p122f, 0,    1,         1};
    for (size_t i = 0; i < n; i++) x[i] = rng_normal(r) * sizes[kind];
    if (kind == 1) x[rng_below(r, n)] *= 1000;
    if (kind == 10) x[rng_below(r, n)] = NAN;
    if (kind == 11) x[rng_below(r, n)] = -INFINITY;
}

// --- our own engine ---------------------------------------------------------------------------

// What an activation row of the kernels stands for: codes, in the order of unpack.h, times scales.
static void read_act(const uint8_t *act, int n, int block, double *out) {
    const int16_t *q = (const int16_t *)(const void *)act;
    const float *d = (const float *)(const void *)(act + n * 2 + n / 16 * 4);
    for (int i = 0; i < n; i++) {
        out[i] = (double)q[i / 32 * 32 + unpack_place(i % 32)] * d[i / block];
    }
}

static const Kernels *generic(void) {
    int i = 0;
    while (kernel_set_at(i + 1)) i++;
    return kernel_set_at(i);
}

static void test_kernels(void **state) {
    (void)state;
    enum { N = 1024 };
    Rng r = {1};
    _Alignas(64) static uint8_t act[N * 4];
    float x[N];
    double want[N], in[N], got[N];
    for (int round = 0; round < 400; round++) {
        make_row(&r, round % KINDS, x, N);
        to_doubles(x, N, in);
        for (int k = 0; k < 2; k++) {
            const ActQuant quant = k ? ACT_Q8_K : ACT_Q8_0;
            generic()->matmul[FORM_ROWS].act_make(quant, x, N, 0, 1, act);
            read_act(act, N, k ? 256 : 32, want);
            act_round(act_way_of(quant), in, NULL, 1, N, got, NULL, NULL);
            for (int i = 0; i < N; i++) {
                if (!same(got[i], want[i])) {
                    fail_msg("%s, kind %d, element %d of %.9g: %.17g, expected %.17g",
                             act_quant_name(quant), round % KINDS, i, (double)x[i], got[i],
                             want[i]);
                }
            }
        }
    }
}

static void test_cache(void **state) {
    (void)state;
    enum { N = 256 };
    Rng r = {2};
    float x[N], back[N];
    uint8_t row[N * 4];
    double in[N], got[N];
    const TensorType types[] = {TYPE_F32, TYPE_F16, TYPE_Q8_0, TYPE_BF16};
    for (int round = 0; round < 600; round++) {
        make_row(&r, round % KINDS, x, N);
        to_doubles(x, N, in);
        for (int k = 0; k < 4; k++) {
            if (types[k] == TYPE_BF16) {
                for (int i = 0; i < N; i++) back[i] = bf16_to_f32(f32_to_bf16(x[i]));
            } else {
                generic()->kv_write(types[k], x, N, row);
                generic()->kv_read(types[k], row, N, back);
            }
            cache_round(types[k], in, N, got);
            for (int i = 0; i < N; i++) {
                if (!same(got[i], back[i])) {
                    fail_msg("%s, kind %d, element %d of %.9g: %.17g, expected %.17g",
                             type_info(types[k])->name, round % KINDS, i, (double)x[i], got[i],
                             (double)back[i]);
                }
            }
        }
    }
}

// --- engines of others, by their formulas -----------------------------------------------------

typedef enum { MAX_127, ONE_BY_D, BY_D } Formula;

// q8_0 and q8_1 with a half for a scale: codes by 127 / max to the nearest even (x86), by 1 / d
// with ties away from 0 (the reference), by a division (CUDA).
static void q8_0_of(Formula f, const float *x, double *out) {
    float most = 0;
    for (int i = 0; i < 32; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    const float d = most / 127, stored = f16_to_f32(f32_to_f16(d));
    for (int i = 0; i < 32; i++) {
        const float k = most == 0       ? 0
                        : f == MAX_127  ? rintf(x[i] * (127 / most))
                        : f == ONE_BY_D ? roundf(x[i] * (1 / d))
                                        : roundf(x[i] / d);
        out[i] = (double)k * stored;
    }
}

static void q8_k_of(double steps, const float *x, double *out) {
    float most = 0;
    for (int i = 0; i < 256; i++) most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    const float scale = (float)-steps / most;
    for (int i = 0; i < 256; i++) {
        const float k = rintf(x[i] * scale);
        out[i] = most == 0 ? 0 : (double)(k > 127 ? 127 : k) * (1 / scale);
    }
}

typedef struct {
    size_t n, unsure, others;  // elements; marked as uncertain; that came out otherwise
} Tally;

static void compare(Tally *t, const char *what, const double *got, const double *sd,
                    const double *want, size_t n) {
    for (size_t i = 0; i < n; i++) {
        t->n++;
        t->unsure += sd[i] > 0;
        if (got[i] == want[i]) continue;
        t->others++;
        if (!(fabs(got[i] - want[i]) <= 4 * sd[i])) {
            fail_msg("%s: element %zu is %.9g, expected %.9g, uncertain by %g", what, i, got[i],
                     want[i], sd[i]);
        }
    }
}

static void test_others(void **state) {
    (void)state;
    Rng r = {3};
    Tally t = {0}, super = {0};
    float x[256];
    double in[256], got[256], sd[256], want[256];
    bool any;
    for (int round = 0; round < 20000; round++) {
        make_row(&r, round % 4, x, 256);
        // Sizes whose codes often lie on a tie or beside one.
        for (int i = 0; round % 8 == 0 && i < 256; i++) x[i] = 0.25f * rintf(x[i] * 16);
        if (round % 8 == 0) x[5] = round % 16 ? 127 : -127.00001f;
        to_doubles(x, 256, in);
        const ActWay way = round % 2 ? WAY_Q8_0_HALF : WAY_Q8_1;
        act_round(way, in, NULL, 1, 256, got, sd, &any);
        for (int f = MAX_127; f <= BY_D; f++) {
            for (int b = 0; b < 256; b += 32) q8_0_of((Formula)f, x + b, want + b);
            compare(&t, act_way_name(way), got, sd, want, 256);
        }
        q8_k_of(127, x, want);
        act_round(WAY_Q8_K_SIGNED, in, NULL, 1, 256, got, sd, NULL);
        compare(&super, "q8_k signed", got, sd, want, 256);
        q8_k_of(128, x, want);
        act_round(WAY_Q8_K_128, in, NULL, 1, 256, got, sd, NULL);
        compare(&super, "q8_k 128", got, sd, want, 256);
    }
    // Some did come out otherwise, so the mark has been put to use; and it is rare.
    print_message("of %zu: %zu marked, %zu otherwise\n", t.n, t.unsure, t.others);
    assert_true(t.others > 100 && t.unsure < t.n / 20);
    assert_int_equal(super.others, 0);
}

// The rare must be rare: of smooth rows next to nothing is marked.
static void test_mark_is_rare(void **state) {
    (void)state;
    enum { N = 4096, ROWS = 100 };
    Rng r = {4};
    static float x[N];
    static double in[N], out[N], sd[N];
    for (int w = WAY_F16; w < N_WAYS; w++) {
        size_t marked = 0;
        for (int round = 0; round < ROWS; round++) {
            make_row(&r, 0, x, N);
            to_doubles(x, N, in);
            act_round((ActWay)w, in, NULL, 1, N, out, sd, NULL);
            for (int i = 0; i < N; i++) marked += sd[i] > 0;
        }
        if (w <= WAY_BF16) assert_int_equal(marked, 0);
        if (!(marked < (size_t)N * ROWS / 1000)) {
            fail_msg("%s: %zu of %d marked", act_way_name((ActWay)w), marked, N * ROWS);
        }
    }
}

static void test_tie(void **state) {
    (void)state;
    double x[32] = {127, 2.5, -3.5, 2.25, -126.5, 2.5 + 1e-5, 2.5000005}, out[32], sd[32];
    bool any = false;
    act_round(WAY_Q8_0, x, NULL, 1, 32, out, sd, &any);
    assert_true(any);
    const double want[] = {127, 2, -4, 2, -126, 3, 3};
    const bool unsure[] = {false, true, true, false, true, false, true};
    for (int i = 0; i < 7; i++) {
        assert_true(out[i] == want[i]);
        assert_int_equal(sd[i] > 0, unsure[i]);
        if (unsure[i]) assert_true(sd[i] >= 0.5 && sd[i] <= 1);
    }
    for (int i = 7; i < 32; i++) assert_true(out[i] == 0 && sd[i] == 0);
    // One step of Q8_K_128 is less than the largest negative number: 127 where 128 would be.
    double y[4] = {-1, 1, 0.5, 0.996};
    act_round(WAY_Q8_K_128, y, NULL, 1, 4, out, sd, &any);
    assert_true(out[0] == -1 && out[1] == 127.0 / 128 && out[2] == 0.5 && out[3] == 127.0 / 128);
    assert_false(any);
}

// A scale whose half is a tie: the whole block may come out a little larger.
static void test_scale_tie(void **state) {
    (void)state;
    double x[32] = {127 * (1 + 0x1p-11), 64, -3}, out[32], sd[32];
    act_round(WAY_Q8_0_HALF, x, NULL, 1, 32, out, sd, NULL);
    assert_true(out[0] == 127 && sd[0] > 127 * 0x1p-11 && sd[0] < 127 * 0x1p-9);
    assert_true(sd[1] > 64 * 0x1p-11 && sd[3] == 0);
    x[0] = 127 * (1 + 0x1p-11 + 0x1p-16);
    act_round(WAY_Q8_0_HALF, x, NULL, 1, 32, out, sd, NULL);
    assert_true(out[0] == 127 * (1 + 0x1p-10) && sd[0] == 0);
}

// --- what is not known exactly ----------------------------------------------------------------

// Noise of deviation s steps is put on x; what comes out must move about as far as it was said to,
// and never beyond what bounds allow.
static void jitter(ActWay way, double noise, uint64_t seed) {
    enum { N = 512, ROWS = 2, ROUNDS = 60 };
    Rng r = {seed};
    double squares = 0, said = 0;
    static double x[N * ROWS], sd[N * ROWS], out[N * ROWS], out_sd[N * ROWS], moved[N * ROWS],
        other[N * ROWS];
    bool any;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N * ROWS; i++) {
            x[i] = (double)rng_normal(&r);
            sd[i] = i % 7 ? noise * (0.5 + rng_unit(&r)) : 0;
        }
        act_round(way, x, sd, ROWS, N, out, out_sd, &any);
        assert_true(any || noise < 1e-3);
        for (int again = 0; again < 4; again++) {
            for (int i = 0; i < N * ROWS; i++) moved[i] = x[i] + sd[i] * (double)rng_normal(&r);
            act_round(way, moved, NULL, ROWS, N, other, NULL, NULL);
            for (int i = 0; i < N * ROWS; i++) {
                const double e = other[i] - out[i];
                squares += e * e, said += out_sd[i] * out_sd[i];
                if (fabs(e) > 7 * out_sd[i] + 1e-6 * fabs(out[i])) {
                    fail_msg("%s, noise %g: %.9g moved by %g, said %g", act_way_name(way), noise,
                             out[i], e, out_sd[i]);
                }
            }
        }
    }
    const double ratio = sqrt(said / squares);
    if (noise >= 1e-4 && !(ratio > 0.7 && ratio < 3)) {
        fail_msg("%s, noise %g: said %.3g times what it moved by", act_way_name(way), noise, ratio);
    }
}

static void test_jitter(void **state) {
    (void)state;
    const double noises[] = {1e-6, 1e-4, 1e-3, 0.005, 0.02, 0.1};
    for (int w = WAY_NONE; w < N_WAYS; w++) {
        for (size_t k = 0; k < sizeof noises / sizeof *noises; k++) {
            jitter((ActWay)w, noises[k], 100 * (uint64_t)w + k);
        }
    }
}

static void test_known_is_known(void **state) {
    (void)state;
    double x[64], zero[64] = {0}, out[64], sd[64];
    bool any = true;
    Rng r = {7};
    for (int i = 0; i < 64; i++) x[i] = rng_normal(&r);
    act_round(WAY_NONE, x, zero, 1, 64, out, sd, &any);
    assert_false(any);
    any = true;
    act_round(WAY_F16, x, zero, 1, 64, out, zero, &any);
    assert_false(any);
    // In place, with a deviation: the same as not in place.
    double y[64], y_sd[64], x_sd[64];
    for (int i = 0; i < 64; i++) y[i] = x[i], y_sd[i] = x_sd[i] = 0.01 * (i % 3);
    for (int w = 0; w < N_WAYS; w++) {
        act_round((ActWay)w, x, x_sd, 2, 32, out, sd, &any);
        memcpy(y, x, sizeof y), memcpy(y_sd, x_sd, sizeof y_sd);
        act_round((ActWay)w, y, y_sd, 2, 32, y, y_sd, &any);
        assert_memory_equal(y, out, sizeof y);
        assert_memory_equal(y_sd, sd, sizeof sd);
    }
}

static void test_blocks(void **state) {
    (void)state;
    double x[600], out[600], two[600];
    for (int i = 0; i < 600; i++) x[i] = i < 300 ? 1 + i * 1e-3 : 100 + i * 1e-3;
    for (int w = WAY_Q8_0; w < N_WAYS; w++) {
        act_round((ActWay)w, x, NULL, 0, 300, out, NULL, NULL);
        act_round((ActWay)w, x, NULL, 1, 0, out, NULL, NULL);
        act_round((ActWay)w, x, NULL, 2, 300, out, NULL, NULL);  // the last block of a row is short
        act_round((ActWay)w, x, NULL, 1, 300, two, NULL, NULL);
        act_round((ActWay)w, x + 300, NULL, 1, 300, two + 300, NULL, NULL);
        if (w == WAY_Q8_TENSOR)
            assert_true(out[299] != two[299] && fabs(out[299] - x[299]) > 0.1);
        else
            assert_memory_equal(out, two, sizeof out);
        act_round((ActWay)w, x + 5, NULL, 1, 1, two, NULL, NULL);
        assert_true(fabs(two[0] / x[5] - 1) < 1e-3);
    }
}

// --- schemes ----------------------------------------------------------------------------------

static const ActScheme *scheme(const char *name) {
    for (int i = 0; act_scheme_at(i); i++) {
        if (strcmp(act_scheme_at(i)->name, name) == 0) return act_scheme_at(i);
    }
    fail_msg("no scheme is called \"%s\"", name);
    return NULL;
}

static void test_schemes(void **state) {
    (void)state;
    const ActScheme *ours = scheme("as Plumb's cpu"), *llama = scheme("as llama.cpp's CPU");
    for (int t = 0; t < TYPE_LIMIT; t++) {
        if (!type_info((uint32_t)t)) continue;
        const TensorType type = (TensorType)t;
        assert_int_equal(ours->way[t], act_way_of(generic()->activation(type)));
        if (type != TYPE_F32) assert_int_not_equal(llama->way[t], WAY_NONE);
        for (int w = 0; w < N_WAYS; w++) {  // ways that are schemes for every type
            const ActScheme *s = NULL;
            for (int i = 0; act_scheme_at(i); i++) {
                if (strcmp(act_scheme_at(i)->name, act_way_name((ActWay)w)) == 0)
                    s = act_scheme_at(i);
            }
            if (s) assert_int_equal(s->way[t], w);
            if (!s) assert_true(w == WAY_Q8_0_CACHE || w == WAY_Q8_K_128 || w == WAY_Q8_1_SUM);
        }
    }
    assert_int_equal(llama->way[TYPE_Q5_1], WAY_Q8_1);
    assert_int_equal(llama->way[TYPE_IQ4_XS], WAY_Q8_K_SIGNED);
    assert_string_equal(act_scheme_at(0)->name, "none");
    assert_string_equal(attn_scheme_at(0)->name, "f32");
    assert_null(act_scheme_at(-1));
    assert_null(act_scheme_at(1000));
    assert_null(attn_scheme_at(1000));
    for (int i = 0; attn_scheme_at(i); i++) {
        for (int k = 0; k < i; k++) {
            assert_string_not_equal(attn_scheme_at(i)->name, attn_scheme_at(k)->name);
        }
    }
    const AttnScheme *f32 = attn_scheme_at(0);
    assert_int_equal(attn_cache_way(f32, TYPE_F32), WAY_NONE);
    assert_int_equal(attn_cache_way(f32, TYPE_BF16), WAY_BF16);
    assert_int_equal(attn_cache_way(f32, TYPE_Q8_0), WAY_Q8_0_CACHE);
}

static void test_declared(void **state) {
    (void)state;
    Trace t = {0};
    Rounding r;
    rounding_of_trace(&t, &r);
    assert_false(r.act_declared || r.attn_declared);
    assert_string_equal(r.act.name, "none");
    assert_int_equal(r.attn.k, TYPE_F32);
    t.says_activation = true;
    t.activation[TYPE_Q4_K] = ACT_Q8_K, t.activation[TYPE_BF16] = ACT_BF16;
    t.kv_type_k = "Q8_0", t.kv_type_v = "f16";
    rounding_of_trace(&t, &r);
    assert_true(r.act_declared && r.attn_declared);
    assert_int_equal(r.act.way[TYPE_Q4_K], WAY_Q8_K);
    assert_int_equal(r.act.way[TYPE_BF16], WAY_BF16);
    assert_int_equal(r.act.way[TYPE_F16], WAY_NONE);
    assert_int_equal(r.attn.k, TYPE_Q8_0);
    assert_int_equal(attn_cache_way(&r.attn, r.attn.k), WAY_Q8_0_CACHE);
    assert_int_equal(r.attn.v, TYPE_F16);
    assert_int_equal(r.attn.q, WAY_NONE);
    t.kv_type_v = "Q4_K";  // no cache is of that type
    rounding_of_trace(&t, &r);
    assert_true(r.act_declared && !r.attn_declared);
    t.kv_type_v = NULL;
    rounding_of_trace(&t, &r);
    assert_false(r.attn_declared);
}

static void test_precision(void **state) {
    (void)state;
    float x[100];
    Rng r = {9};
    for (int i = 0; i < 100; i++) x[i] = rng_normal(&r);
    assert_int_equal(precision_of(x, 100), PREC_F32);
    for (int i = 0; i < 100; i++) x[i] = f16_to_f32(f32_to_f16(x[i]));
    assert_int_equal(precision_of(x, 100), PREC_F16);
    x[99] = 1e6f;  // past a half
    assert_int_equal(precision_of(x, 100), PREC_F32);
    for (int i = 0; i < 100; i++) x[i] = bf16_to_f32(f32_to_bf16(x[i]));
    assert_int_equal(precision_of(x, 100), PREC_BF16);
    x[3] = NAN, x[4] = INFINITY;
    assert_int_equal(precision_of(x, 100), PREC_BF16);
    assert_int_equal(precision_of(x, 0), PREC_F32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels),  cmocka_unit_test(test_cache),
        cmocka_unit_test(test_others),   cmocka_unit_test(test_mark_is_rare),
        cmocka_unit_test(test_tie),      cmocka_unit_test(test_scale_tie),
        cmocka_unit_test(test_jitter),   cmocka_unit_test(test_known_is_known),
        cmocka_unit_test(test_blocks),   cmocka_unit_test(test_schemes),
        cmocka_unit_test(test_declared), cmocka_unit_test(test_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
