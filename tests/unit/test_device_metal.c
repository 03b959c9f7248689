// The first GPU of a Mac through device.h, with the kernels and the dialect of device_suite.h. In a
// build without Metal there is nothing to test: tests/metal does it on a simulated GPU.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#ifdef PLUMB_METAL

#include "device_suite.h"

int main(int argc, char **argv) {
    suite.ops = &device_metal;
    suite.index = argc > 1 ? atoi(argv[1]) : 0;
    suite.compiles = true;
    return suite_main();
}

#else

static void device_is_there(void **state) {
    (void)state;
    print_message("skipped: this build has no Metal (make METAL=1, on macOS)\n");
    skip();
}

int main(void) {
    const struct CMUnitTest none[] = {cmocka_unit_test(device_is_there)};
    return cmocka_run_group_tests(none, NULL, NULL);
}

#endif
