// The words of a device's dialect (dialect_host.h) against C: floats to the bit, dot products, halves
// and swaps where the dialect has its own. Part of device_suite.h.
#ifndef PLUMB_TESTS_DIALECT_SUITE_H
#define PLUMB_TESTS_DIALECT_SUITE_H

static void dialect_has_the_types(void **state) {
    (void)state;
    static const u32 want[] = {0x4211, 0x484, 0x10081008, (u32)-56, 15, (u32)-4, 65025, 16};
    DeviceBuffer *b = suite_alloc(sizeof want);
    const SizeArgs args = {0, 0};
    suite_launch(SUITE_tell_types, 1, 1, 1, &args, &b);
    u32 *got = suite_take(b, sizeof want);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) assert_int_equal(got[i], want[i]);
    free(got);
}

static double suite_ulps(float got, double want) {
    if (got == (float)want) return 0;
    return fabs((double)got - want) / ldexp(1, ilogb(want) - 23);
}

static void dialect_has_exact_floats(void **state) {
    (void)state;
    enum { N = 20000 };
    Rng r = {9};
    float *x = room(3 * 4 * N);
    for (int i = 0; i < 3 * N; i++) x[i] = rng_normal(&r) * (float)(1 << rng_below(&r, 8));
    for (int i = 0; i < 40; i++) x[3 * i] = (float)(i - 20) * 0.5f;  // ties, and 0
    DeviceBuffer *b[] = {suite_made_of(x, 3 * 4 * N), suite_alloc(12 * 4 * N)};
    const SizeArgs args = {N, 0};
    suite_launch(SUITE_float_words, (N + 63) / 64, 1, 1, &args, b);
    float *y = suite_take(b[1], 12 * 4 * N);
    for (int i = 0; i < N; i++, y += 12) {
        const float u = x[3 * i], v = x[3 * i + 1], w = x[3 * i + 2], product = u * v;
        const float want[] = {fmaf(u, v, w),
                              product + w,
                              w - product,
                              sqrtf(fabsf(u)),
                              u / v,
                              rintf(u),
                              fmaxf(u, v),
                              fminf(u, v),
                              -u,
                              (float)(i32)float_bits(u),
                              fabsf(w),
                              (u * u + v * v) + w * w};
        static const char *const names[] = {"FMA", "a * b + c", "c - a * b", "SQRT",
                                            "DIV", "RINT",      "FMAX",      "FMIN",
                                            "AS",  "TO_F32",    "FABS",      "a sum"};
        for (int k = 0; k < 12; k++) {
            const bool near = (k == 3 || k == 4) && suite_ulps(y[k], want[k]) <= suite.divide_ulps;
            if (float_bits(y[k]) == float_bits(want[k]) || near) continue;
            if (want[k] == 0 && y[k] == 0 && k != 5) continue;  // which zero: not for all said
            fail_msg("%s of %a, %a, %a is %a, expected %a", names[k], u, v, w, y[k], want[k]);
        }
    }
    free(y - 12 * N);
    suite_free(b[0]);
    free(x);
}

static void dialect_has_dots_of_bytes(void **state) {
    (void)state;
    enum { N = 3000 };
    Rng r = {10};
    u32 *x = suite_words(&r, 3 * N);
    for (int i = 0; i < N; i++) x[3 * i + 2] >>= 4;  // no sum overflows
    x[0] = 0x80808080u, x[1] = 0x80808080u, x[3] = 0x7f7f7f7fu, x[4] = 0x80808080u;
    DeviceBuffer *b[] = {suite_made_of(x, 3 * 4 * N), suite_alloc(4 * N)};
    const SizeArgs args = {N, 0};
    suite_launch(SUITE_dot_words, (N + 63) / 64, 1, 1, &args, b);
    i32 *y = suite_take(b[1], 4 * N);
    for (int i = 0; i < N; i++) {
        i32 want = (i32)x[3 * i + 2];
        for (int k = 0; k < 32; k += 8) {
            want += (int8_t)(x[3 * i] >> k & 255) * (int8_t)(x[3 * i + 1] >> k & 255);
        }
        assert_int_equal(y[i], want);
    }
    suite_free(b[0]);
    free(x);
    free(y);
}

// The half that is nearest to x, of two the even one, by looking at all of them.
static u16 suite_nearest_half(const float *halves, float x) {
    int low = 0, high = 0x7c00;  // the positive ones, infinity last
    const float size = fabsf(x);
    if (size >= 65520) return (u16)((x < 0) << 15 | 0x7c00);
    while (high - low > 1) {
        const int mid = (low + high) / 2;
        if (halves[mid] <= size) {
            low = mid;
        } else {
            high = mid;
        }
    }
    const float next = high == 0x7c00 ? 65536 : halves[high];
    const float below = size - halves[low], above = next - size;  // exact, or far apart
    const int best = below < above || (below == above && low % 2 == 0) ? low : high;
    return (u16)((signbit(x) ? 0x8000 : 0) | best);
}

static void dialect_has_exact_halves(void **state) {
    (void)state;
    enum { N = 65536 };
    Rng r = {11};
    float *x = room(4 * N);
    for (int i = 0; i < N; i++) {
        // All exponents that halves have, and some more; the last bits often those of a tie.
        const u32 bits = (u32)rng_u64(&r), exponent = 127 - 28 + (u32)rng_below(&r, 46);
        x[i] = bits_float((bits & 0x807fffffu) | exponent << 23);
        if (i % 3 == 0) x[i] = bits_float(float_bits(x[i]) & 0xfffff000u);
    }
    DeviceBuffer *b[] = {suite_made_of(x, 4 * N), suite_alloc(4 * N), suite_alloc(2 * (N + 2))};
    const SizeArgs args = {N, 0};
    suite_launch(SUITE_half_words, N / 64, 1, 1, &args, b);
    suite_free(b[0]);
    float *y = suite_take(b[1], 4 * N);
    u16 *z = suite_take(b[2], 2 * (N + 2));
    const bool there = z[N];
    for (u32 h = 0; h < N && there; h++) {
        const u32 e = h >> 10 & 31, m = h & 1023;
        const float size = e == 31 ? (m ? NAN : HUGE_VALF)
                           : e     ? ldexpf((float)(1024 + m), (int)e - 25)
                                   : ldexpf((float)m, -24);
        const float want = h & 0x8000 ? -size : size;
        if (isnan(want) ? !isnan(y[h]) : float_bits(y[h]) != float_bits(want)) {
            fail_msg("half %04x is %a, expected %a", h, y[h], want);
        }
    }
    for (int i = 0; i < N && there; i++) {
        const u16 want = suite_nearest_half(y, x[i]);
        if (z[i] != want) fail_msg("%a as a half is %04x, expected %04x", x[i], z[i], want);
    }
    free(x);
    free(y);
    free(z);
    if (!there) print_message("%s has no halves of its own here\n", suite.ops->name);
}

static void dialect_swaps_lanes(void **state) {
    (void)state;
    Rng r = {12};
    u32 *x = suite_words(&r, 64);
    DeviceBuffer *b[] = {suite_made_of(x, 4 * 64), suite_alloc(4 * (5 * 64 + 1))};
    const SizeArgs args = {5, 0};
    suite_launch(SUITE_swap_words, 1, 1, 1, &args, b);
    suite_free(b[0]);
    u32 *y = suite_take(b[1], 4 * (5 * 64 + 1));
    const bool there = y[5 * 64];
    for (int i = 0; i < 5 * 64 && there; i++) {
        assert_int_equal(y[i], x[(i % 64) ^ (1 << i / 64)] + 5);
    }
    free(x);
    free(y);
    if (!there) print_message("%s does not swap lanes itself here\n", suite.ops->name);
}

static void dialect_has_vectors(void **state) {
    (void)state;
    enum { N = 130 };
    Rng r = {13};
    u32 *x = suite_words(&r, 4 * N);
    DeviceBuffer *b[] = {suite_made_of(x, 16 * N), suite_alloc(16 * N), suite_alloc(32 * N)};
    const SizeArgs args = {N, 0};
    suite_launch(SUITE_vectors, (N + 63) / 64, 1, 1, &args, b);
    suite_free(b[0]);
    u32 *y = suite_take(b[1], 16 * N);
    float *z = suite_take(b[2], 32 * N);
    for (int i = 0; i < 4 * N; i++) assert_int_equal(y[i], x[i / 4 * 4 + 3 - i % 4]);
    for (int i = 0; i < N; i++) {
        const float a = (float)(i32)x[4 * i], c = (float)(i32)x[4 * i + 1];
        const float want[] = {c, a, 3, (float)i, a, c, a, c};
        same_floats("vectors", z + 8 * i, want, 8);
    }
    free(x);
    free(y);
    free(z);
}

#define DIALECT_TESTS                                                                            \
    cmocka_unit_test(dialect_has_the_types), cmocka_unit_test(dialect_has_exact_floats),         \
        cmocka_unit_test(dialect_has_dots_of_bytes), cmocka_unit_test(dialect_has_exact_halves), \
        cmocka_unit_test(dialect_swaps_lanes), cmocka_unit_test(dialect_has_vectors)

#endif
