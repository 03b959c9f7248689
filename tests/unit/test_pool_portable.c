// The thread pool as it is on systems without futexes, compiled here under other names.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#define POOL_FUTEX 0
#define pool_create portable_pool_create
#define pool_free portable_pool_free
#define pool_threads portable_pool_threads
#define pool_run portable_pool_run
#define pool_barrier portable_pool_barrier
#define pool_split portable_pool_split
#define pool_default_threads portable_pool_default_threads
#include "base/pool.c"
#include "pool_suite.h"

// The counts of barriers and runs pass from their largest value to 0.
static void counts_wrap_around(void **state) {
    (void)state;
    for (int n = 2; n <= 6; n++) {
        PoolCheck c = {.n = n, .phases = 5, .slow = -1, .pool = pool_of(n)};
        atomic_store(&c.pool->stage.word, UINT_MAX - 25);  // even
        for (c.run = 0; c.run < 10; c.run++) pool_run(c.pool, march, &c);
        assert_true(gate_count(&c.pool->stage) < 1000);
        assert_int_equal(atomic_load(&c.wrong), 0);
        pool_free(c.pool);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {POOL_SUITE, cmocka_unit_test(counts_wrap_around)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
