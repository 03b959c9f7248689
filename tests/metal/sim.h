// A simulated Metal: two GPUs that run on this processor, and stop a program that breaks a rule.
//
// This file owns: what a test may ask of the simulation and learn from it. It leaves to others: the
// classes behind the protocols of Metal/Metal.h (sim_device.m, sim_library.m, sim_commands.m), the
// compiler (sim_compile.h) and the running of items (sim_run.c).
//
// What the validation layer of Metal stops, and what goes wrong without a word on a real GPU, ends
// the program here with a line on stderr:
//
//   - a message to an object that was freed; memory of a buffer that was freed, touched by anyone
//   - memory of a shared buffer, touched by the processor while a committed command buffer uses it:
//     commands run when somebody waits, no sooner
//   - memory outside a buffer, touched by a kernel; `contents` of private memory
//   - a buffer or the arguments of a kernel that are not set, that are of another size, or whose
//     offset does not fit; a copy out of range, of no whole words, or onto itself
//   - groups of another size than the kernel was written for; too much threadgroup memory
//   - encoders left open or used after their end, two open at once; a command buffer committed
//     twice, encoded into after that, or waited for before
//   - items of a group that part ways at a barrier, or of a SIMD group at a shuffle
#ifndef PLUMB_TESTS_SIM_H
#define PLUMB_TESTS_SIM_H

#include <stdint.h>

typedef struct {
    // One of unified memory, as Apple's own, and one with memory of its own. The environment may
    // choose: PLUMB_METAL_SIM=unified or discrete leaves one.
    int n_devices;
    uint64_t memory, max_buffer;  // bytes, of each; the first is what it recommends, no limit
    unsigned most_threads;        // of a group
    unsigned simd_width;          // of the first; the second has twice as many
    unsigned local_bytes;         // of threadgroup memory
    // The command buffer number (from 1) that ends with an error instead of running; 0: none. It
    // counts down.
    int fail_at;
    // 1: newCommandQueue, commandBuffer, newBuffer return nil
    int no_queue, no_commands, no_room;
} SimConfig;

typedef struct {
    long objects;                // there now, of all classes of the simulation but devices
    uint64_t bytes, most_bytes;  // of buffers, now; the most since that was set to 0
    long compiled;               // libraries
    long committed;              // command buffers
    long launches, copies;
} SimCounts;

extern SimConfig sim_config;
extern SimCounts sim_counts;

// References that are held to the devices, which themselves are never freed; arrays and data of
// Foundation that are there.
long sim_device_references(void);
long sim_foundation_objects(void);

// Ends the program.
void sim_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
