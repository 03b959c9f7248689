// A device that is the host: kernels compiled as C, run by grid.h, with memory that tells what a
// real device would keep to itself.
//
//   - an allocation has exactly its size, starts as 0xff (NaN) and lies between bytes that nobody
//     may touch (guard.h); they are looked at after each launch, and when it is read or released
//   - what breaks a kernel's rules is the Status of the launch
//   - what breaks device.h's rules (a buffer that was released, a range that does not fit, a call
//     while recording) is a failed CHECK
//   - where launches overlap, a kernel that has not waited for the one before (GRID_WAIT) finds what
//     launches have written out of reach, under AddressSanitizer (on one thread)
//   - in race mode each launch runs twice, its items and groups in two orders and its local memory
//     filled with two patterns; its buffers must be the same afterwards, to the byte
#ifndef PLUMB_TESTS_EMULATOR_H
#define PLUMB_TESTS_EMULATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/gpu/device.h"
#include "grid.h"
#include "host_table.h"

typedef struct {
    const HostKernel *kernels;  // NULL: gpu_host_kernels
    int n_kernels;
    int n_threads;  // of a device that is opened from now on; 0: 1
    int n_units;    // that info() tells; 0: 4
    GridOrder order;
    uint64_t seed;
    bool race;
    bool overlap;         // each launch starts while the one before it runs
    uint64_t memory;      // bytes in all; 0: no limit, and the device does not say
    uint64_t max_buffer;  // bytes of one allocation; 0: no limit
    bool cannot_record;   // record_end() gives no recording
    // The call number (from 1, of alloc, write, read, copy, launch, replay and wait) that fails;
    // 0: none. It counts down, so that what it is after the call says whether it came to that.
    int fail_at;
} EmulatorConfig;

typedef struct {
    int launches;  // and those of replays
    int replays;
    int n_buffers;        // there now
    uint64_t used_bytes;  // now
    uint64_t most_bytes;  // used at once
} EmulatorCounts;

// Looked at in each call, so that a test may change it at any time; zeros are a plain device.
extern EmulatorConfig emulator_config;
// Of all devices that were ever open.
extern EmulatorCounts emulator_counts;

// From now on b is as if a launch had written it: race mode finds that out by itself.
void emulator_unsettle(DeviceBuffer *b);

extern const DeviceOps device_emulator;

#endif
