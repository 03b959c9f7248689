// The thread pool.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/pool.h"
#include "pool_suite.h"

int main(void) {
    const struct CMUnitTest tests[] = {POOL_SUITE};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
