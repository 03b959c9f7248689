// The simulation's compiler: text in Metal's language becomes functions of this process.
//
// This file owns: clang's call, finding out from the text what each kernel is given and how, and
// what of it is wrong in Metal though clang takes it. It leaves to others: words and functions of
// the language (metal_stdlib), running the items (sim_run.c).
#ifndef PLUMB_TESTS_SIM_COMPILE_H
#define PLUMB_TESTS_SIM_COMPILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIM_MAX_ARGS = 31, SIM_MAX_LOCALS = 16 };  // entries of Metal's table; arrays of a kernel

typedef struct {
    char name[64];
    unsigned lanes;  // that it may have at most; 0: it does not say
    int n_args;      // indices 0 .. n_args - 1 of the table
    // Bytes of the struct that an index stands for, 0: it is memory without a size of its own.
    size_t arg_bytes[SIM_MAX_ARGS];
    int n_locals;
    struct {
        uint8_t *at;
        size_t bytes;
    } locals[SIM_MAX_LOCALS];
    size_t local_bytes;  // of all
    // Runs one item: addresses by index, the group, the item of it.
    void (*item)(const uint64_t *args, uint32_t x, uint32_t y, uint32_t z, uint32_t lane);
} SimKernel;

typedef struct SimLibrary SimLibrary;

typedef struct {
    const char *source;
    const char *const *defines;  // "NAME=VALUE"
    int n_defines;
    bool fast_math;
} SimSource;

// It stays for as long as the process. NULL: `message` (malloc'ed) has what the compiler said, as
// Metal's would.
const SimLibrary *sim_compile(const SimSource *s, char **message);
const SimKernel *sim_kernel(const SimLibrary *lib, const char *name);  // NULL: there is none

// Runs all groups. NULL, or what items did that leaves a GPU hanging.
const char *sim_run(const SimKernel *k, const uint32_t groups[3], uint32_t lanes,
                    uint32_t simd_width, const uint64_t *args);

#endif
