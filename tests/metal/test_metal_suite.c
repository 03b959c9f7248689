// Both simulated GPUs through device.h, with the kernels and the dialect of device_suite.h.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "unit/device_suite.h"

int main(void) {
    int failed = 0;
    suite.ops = &device_metal;
    suite.compiles = true;
    for (suite.index = 0; suite.index < 2; suite.index++) failed |= suite_main();
    return failed;
}
