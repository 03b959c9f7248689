// OpenCL's first device (on a machine without a GPU: PoCL's, the processor) through device.h, with
// the kernels and the dialect of device_suite.h. `test_device_opencl 1` takes the second.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "device_suite.h"

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);  // PoCL's compiler writes to stderr: not into a line of ours
    suite.ops = &device_opencl;
    suite.index = argc > 1 ? atoi(argv[1]) : 0;
    suite.compiles = true;
    suite.counts_arguments = true;
    suite.divide_ulps = 3;  // of a device that cannot round them correctly
    return suite_main();
}
