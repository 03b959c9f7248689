// As much of cmocka as the tests of kernels use, for a machine that is emulated and has no library.
// Environment: PLUMB_LEAVE_OUT, names of tests that are not to run, each between blanks.
#ifndef PLUMB_TESTS_AARCH64_CMOCKA_H
#define PLUMB_TESTS_AARCH64_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

static jmp_buf test_over;
enum { TEST_FAILED = 1, TEST_SKIPPED };

__attribute__((noreturn, format(printf, 3, 4))) static inline void test_fails(const char *file,
                                                                              int line,
                                                                              const char *why,
                                                                              ...) {
    va_list args;
    va_start(args, why);
    printf("# %s:%d: ", file, line);
    vprintf(why, args);
    printf("\n");
    va_end(args);
    longjmp(test_over, TEST_FAILED);
}

#define cmocka_unit_test(f) \
    { #f, f }
#define fail_msg(...) test_fails(__FILE__, __LINE__, __VA_ARGS__)
#define assert_true(x) ((x) ? (void)0 : fail_msg("%s", #x))
#define assert_false(x) assert_true(!(x))
#define assert_null(p) assert_true((p) == NULL)
#define assert_non_null(p) assert_true((p) != NULL)
#define assert_int_equal(a, b) assert_true((a) == (b))
#define assert_int_not_equal(a, b) assert_true((a) != (b))
#define assert_string_equal(a, b) assert_true(strcmp(a, b) == 0)
#define assert_memory_equal(a, b, n) assert_true(memcmp(a, b, n) == 0)
#define print_message(...) (printf("# "), (void)printf(__VA_ARGS__))
#define skip() longjmp(test_over, TEST_SKIPPED)

static inline int run_tests(const struct CMUnitTest *tests, size_t n) {
    const char *left_out = getenv("PLUMB_LEAVE_OUT");
    volatile int failed = 0, done = 0;
    for (volatile size_t i = 0; i < n; i++) {
        char name[100];
        snprintf(name, sizeof name, " %s ", tests[i].name);
        if (left_out && strstr(left_out, name)) continue;
        const int over = setjmp(test_over);
        if (!over) tests[i].run(NULL);
        failed += over == TEST_FAILED, done++;
        printf("%sok %d - %s%s\n", over == TEST_FAILED ? "not " : "", done, tests[i].name,
               over == TEST_SKIPPED ? " # skip" : "");
        fflush(stdout);
    }
    printf("1..%d\n", done);
    return failed;
}

#define cmocka_run_group_tests(tests, setup, teardown) \
    run_tests(tests, sizeof(tests) / sizeof *(tests))

#endif
