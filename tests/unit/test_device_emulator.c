// The emulator of GPUs through device.h, as every other device; its kernels are compiled with this
// test.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend/gpu/dialect_host.h"
#include "../gpu/emulator.h"
#include "device_suite_kernels.h"
#include "device_suite.h"

SUITE_KERNELS(HOST_CALL)
static const HostKernel table[] = {SUITE_KERNELS(HOST_ROW)};

int main(void) {
    emulator_config.kernels = table;
    emulator_config.n_kernels = sizeof table / sizeof *table;
    suite.ops = &device_emulator;
    suite.counts_arguments = true;
    return suite_main();
}
