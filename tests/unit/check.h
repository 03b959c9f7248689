// What the test programs share: seeded random numbers, float bits, error measures, loud skips.
//
// Include it after cmocka.h. Everything is static inline: a test is one source file.
#ifndef PLUMB_TESTS_CHECK_H
#define PLUMB_TESTS_CHECK_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif
#ifndef UNDER_ASAN
#define UNDER_ASAN 0
#endif

typedef struct {
    uint64_t state;
} Rng;

// splitmix64 (Steele, Lea and Flood 2014)
static inline uint64_t rng_u64(Rng *r) {
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t rng_below(Rng *r, uint64_t n) {
    return rng_u64(r) % n;
}

// In [0, 1).
static inline double rng_unit(Rng *r) {
    return (double)(rng_u64(r) >> 11) * 0x1p-53;
}

// Roughly normal: the sum of twelve uniform numbers has variance 1.
static inline float rng_normal(Rng *r) {
    double s = -6;
    for (int i = 0; i < 12; i++) s += rng_unit(r);
    return (float)s;
}

static inline uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

// malloc that cannot fail, of at least one byte, filled with a pattern that is NaN as floats.
static inline void *room(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    memset(p, 0xff, bytes);
    return p;
}

static inline void same_floats(const char *what, const float *got, const float *want, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (float_bits(got[i]) != float_bits(want[i])) {
            fail_msg("%s: number %zu of %zu is %.9g (%08x), expected %.9g (%08x)", what, i, n,
                     (double)got[i], float_bits(got[i]), (double)want[i], float_bits(want[i]));
        }
    }
}

// Normalised mean square error: sum (x - y)^2 / sum y^2; infinite where x has a NaN.
static inline double nmse(const float *x, const float *y, size_t n) {
    double e = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - y[i];
        e += d * d, s += (double)y[i] * y[i];
    }
    if (isnan(e)) return HUGE_VAL;
    return s > 0 ? e / s : (e > 0 ? HUGE_VAL : 0);
}

// Files of other people are not part of the project: tests that read them say so and skip.
static inline void skip_without(const char *path) {
    if (access(path, R_OK) == 0) return;
    print_message("skipped: %s is not there\n", path);
    skip();
}

#endif
