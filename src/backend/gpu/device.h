// What the one GPU driver (gpu.c) needs of a device: memory, kernels by name, launches in order.
//
// A device is thin: it knows its own API and nothing of models. A new one fills DeviceOps in one
// file of under 400 lines, with a dialect header that lets it compile kernels.h, and a line in
// gpu.c. What is issued runs in the order of issue; only read() and wait() wait for it.
#ifndef PLUMB_BACKEND_GPU_DEVICE_H
#define PLUMB_BACKEND_GPU_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct Device Device;                    // an open device with its queue
typedef struct DeviceBuffer DeviceBuffer;        // bytes on it
typedef struct DeviceKernel DeviceKernel;        // a compiled kernel, owned by the Device
typedef struct DeviceRecording DeviceRecording;  // launches to be issued again

enum { DEVICE_MAX_BUFFERS = 16 };  // arguments of one kernel

typedef struct {
    char name[160];       // "NVIDIA H100 80GB HBM3"
    uint64_t memory;      // bytes in all; 0: the device does not say
    int n_units;          // multiprocessors, compute units, cores; >= 1
    uint64_t max_buffer;  // bytes that one allocation may have; 0: no limit of its own
    bool is_processor;    // the host's own processor under another API: slower than backend cpu
} DeviceInfo;

typedef struct {
    const char *name;            // of a kernel in kernels.h
    const DeviceKernel *kernel;  // filled by build()
    int lanes;                   // work items of a group, as the kernel was written for
    int n_buffers;               // leading buffer arguments, before the one Args struct
    size_t args_bytes;           // of that struct
} DeviceEntry;

typedef struct {
    const DeviceEntry *entry;
    uint32_t groups[3];                         // >= 1 each
    DeviceBuffer *buffers[DEVICE_MAX_BUFFERS];  // n_buffers of them, none NULL
    const void *args;                           // args_bytes; copied before launch() returns
} DeviceLaunch;

typedef struct DeviceOps {
    const char *name;  // "cuda"
    const char *what;  // one line for `plumb backends`

    // ERR_UNAVAILABLE with the reason when the API is not there or finds no device (then *n is 0).
    Status (*count)(int *n, Error *err);
    Status (*info)(int index, DeviceInfo *out, Error *err);
    Status (*open)(int index, Device **out, Error *err);
    void (*close)(Device *d);  // after its buffers and recordings

    // Compiles `source` (the device's dialect and the common kernels, composed by gpu.c) and finds
    // the entries in it. Replaces what an earlier build made; nothing is in flight.
    Status (*build)(Device *d, const char *source, DeviceEntry *entries, int n, Error *err);

    // Bytes that can still be taken, as the API says; 0: it does not say.
    uint64_t (*memory_free)(Device *d);
    // Not initialised. ERR_UNAVAILABLE when the device has no room for it.
    Status (*alloc)(Device *d, size_t bytes, DeviceBuffer **out, Error *err);
    void (*release)(Device *d, DeviceBuffer *b);  // NULL is fine; waits if it must
    // `from` may be reused when write() returns; it takes its place in the order of issue.
    Status (*write)(Device *d, DeviceBuffer *to, size_t at, const void *from, size_t bytes,
                    Error *err);
    // Waits for what was issued before.
    Status (*read)(Device *d, const DeviceBuffer *from, size_t at, void *to, size_t bytes,
                   Error *err);
    Status (*copy)(Device *d, DeviceBuffer *to, size_t to_at, const DeviceBuffer *from,
                   size_t from_at, size_t bytes, Error *err);
    Status (*launch)(Device *d, const DeviceLaunch *l, Error *err);
    Status (*wait)(Device *d, Error *err);

    // Recording: all four or none (NULL). Between record() and record_end() launches are kept, not
    // run; nothing but launch() is called. replay() issues them again, in order, with the same
    // buffers and arguments. A recording that failed is dropped by record_end (*out NULL).
    Status (*record)(Device *d, Error *err);
    Status (*record_end)(Device *d, DeviceRecording **out, Error *err);
    Status (*replay)(Device *d, DeviceRecording *r, Error *err);
    void (*record_free)(Device *d, DeviceRecording *r);

    const char *dialect;      // text of the dialect header that stands before the kernels
    const char *dialect_end;  // one past its last byte
} DeviceOps;

extern const DeviceOps device_cuda, device_opencl;
#ifdef PLUMB_METAL
extern const DeviceOps device_metal;
#endif

#endif
