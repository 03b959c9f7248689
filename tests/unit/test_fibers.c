// Fibers (tests/gpu/fiber.h): turns, stacks that are used again, and the page below each.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>

#include "check.h"
#include "../gpu/fiber.h"

typedef struct {
    int id, rounds, seen;
    double sum;
} Turn;

// Registers that a callee must keep are full across the switch.
static void take_turns(void *user) {
    Turn *t = user;
    double a = t->id, b = t->id + 0.5;
    long c = 3 * t->id, d = t->id + 7;
    for (int i = 0; i < t->rounds; i++) {
        volatile char deep[3000];
        deep[0] = (char)i, deep[2999] = (char)t->id;
        fiber_pause();
        t->seen++;
        a += b, c += d;
        if (deep[0] != (char)i || deep[2999] != (char)t->id) t->seen = -1000;
    }
    t->sum = a + (double)c;
}

static void test_fibers_take_turns(void **state) {
    (void)state;
    enum { N = 40 };
    Fibers *f = fibers_new(N);
    assert_non_null(f);
    for (int again = 0; again < 3; again++) {
        Turn turns[N] = {{0}};
        int left = N, resumes = 0;
        for (int i = 0; i < N; i++) {
            turns[i] = (Turn){.id = i, .rounds = i % 5};
            fiber_start(f, i, take_turns, &turns[i]);
        }
        for (int round = 0; left > 0; round++) {
            for (int i = 0; i < N; i++) {
                if (round > turns[i].rounds) continue;
                const bool paused = fiber_resume(f, i);
                assert_int_equal(paused, round < turns[i].rounds);
                resumes++, left -= !paused;
            }
        }
        assert_int_equal(resumes, N / 5 * (1 + 2 + 3 + 4 + 5));
        for (int i = 0; i < N; i++) {
            const Turn *t = &turns[i];
            assert_int_equal(t->seen, t->rounds);
            assert_true(t->sum == i + t->rounds * (i + 0.5) + 3 * i + t->rounds * (i + 7));
        }
    }
    fibers_free(f);
}

static void test_dropped_fibers_leave_a_stack(void **state) {
    (void)state;
    Fibers *f = fibers_new(2);
    assert_non_null(f);
    Turn turns[2] = {{.rounds = 9}, {.id = 1, .rounds = 1}};
    fiber_start(f, 0, take_turns, &turns[0]);
    assert_true(fiber_resume(f, 0));
    fiber_drop(f, 0);
    assert_int_equal(turns[0].seen, 0);
    for (int i = 0; i < 2; i++) fiber_start(f, i, take_turns, &turns[1]);
    fiber_start(f, 1, take_turns, &turns[1]);  // it has not run yet
    for (int i = 0; i < 2; i++) assert_true(fiber_resume(f, i));
    for (int i = 0; i < 2; i++) assert_false(fiber_resume(f, i));
    assert_int_equal(turns[1].seen, 2);
    fibers_free(f);
    fibers_free(NULL);
}

// Each frame knows the one above it, so that no compiler makes a loop of it.
static int __attribute__((noinline)) too_deep(int n, volatile const char *above) {
    volatile char frame[1024];
    frame[0] = (char)(n + above[0]);
    return n == 0 ? frame[0] : too_deep(n - 1, frame) + frame[0];
}

static void go_too_deep(void *user) {
    *(int *)user = too_deep(2000, "");
}

static void test_a_stack_that_overflows_stops(void **state) {
    (void)state;
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int result;
        if (!freopen("/dev/null", "w", stderr)) _exit(0);
        signal(SIGSEGV, SIG_DFL);  // cmocka's would go on with the next test
        Fibers *fibers = fibers_new(2);
        fiber_start(fibers, 1, go_too_deep, &result);
        fiber_resume(fibers, 1);
        _exit(0);
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_false(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fibers_take_turns),
        cmocka_unit_test(test_dropped_fibers_leave_a_stack),
        cmocka_unit_test(test_a_stack_that_overflows_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
