// The demo model, linked into the program: a copied `plumb` answers with no file beside it.
#include "cli/cli.h"

__asm__(
    ".section .rodata\n"
    ".balign 64\n"
    ".global cli_demo_model\n"
    ".hidden cli_demo_model\n"
    "cli_demo_model:\n"
    ".incbin \"models/demo.gguf\"\n"
    ".global cli_demo_model_end\n"
    ".hidden cli_demo_model_end\n"
    "cli_demo_model_end:\n"
    ".byte 0\n"
    ".previous\n");

extern const unsigned char cli_demo_model_end[];

size_t cli_demo_model_bytes(void) {
    return (size_t)((uintptr_t)cli_demo_model_end - (uintptr_t)cli_demo_model);
}
