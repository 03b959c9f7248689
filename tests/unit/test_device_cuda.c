// The first GPU of CUDA through device.h, with the kernels and the dialect of device_suite.h.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "device_suite.h"

int main(void) {
    suite.ops = &device_cuda;
    suite.compiles = true;
    return suite_main();
}
