// What speaks OpenCL 1.2: GPUs of every maker, and processors. The loader (or NVIDIA's driver) is
// opened when asked for, so that the same program runs where there is none; nothing of OpenCL is
// needed to build.
//
// One queue, in order. Small writes are copied first and do not wait; larger ones and reads do. One
// thread at a time may use a Device. No recordings: OpenCL has them in a rare extension alone.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/device.h"
#include "backend/gpu/opencl_api.h"
#include "base/arena.h"
#include "base/library.h"

enum {
    MAX_DEVICES = 64,
    STAGING_BYTES = 1 << 20,    // for writes that are under way
    MOST_STAGED = 1 << 18,      // bytes of a write that goes there
    FLUSH_EVERY = 16,           // launches; a driver may keep them until it is told to go
    LEAST_LOCAL_BYTES = 32768,  // that kernels.h asks of a device
    LEAST_ITEMS = 256           // of a group, likewise
};

// A DeviceKernel is a kernel's handle.
struct Device {
    Handle id, context, queue, program;
    Handle *kernels;
    int n_kernels, n_launched;
    DeviceInfo info;
    uint64_t used;      // bytes of buffers
    uint8_t *staging;   // STAGING_BYTES
    size_t staged;      // bytes of it that may still be on their way
    char options[120];  // for the compiler
};

struct DeviceBuffer {
    Handle mem;
    size_t bytes;
};

// --- loading -------------------------------------------------------------------------------------

static pthread_once_t once = PTHREAD_ONCE_INIT;
static Error missing;  // why there is no OpenCL here; status OK: there is
static struct {
    Handle platform, id;
    bool is_processor;
} listed[MAX_DEVICES];
static int n_listed;

// Appends the devices of these types.
static void list_devices(const Handle *platforms, uint32_t n, uint64_t types) {
    for (uint32_t i = 0; i < n; i++) {
        Handle ids[MAX_DEVICES];
        uint32_t found = 0;
        if (cl.clGetDeviceIDs(platforms[i], types, MAX_DEVICES, ids, &found)) continue;
        for (uint32_t k = 0; k < found && n_listed < MAX_DEVICES; k++) {
            listed[n_listed].platform = platforms[i];
            listed[n_listed].id = ids[k];
            listed[n_listed++].is_processor = types == TYPE_CPU;
        }
    }
}

static void load(void) {
    const char *const why = "a program that is linked statically cannot load OpenCL's library";
    if (!library_can_load() ? error_set(&missing, ERR_UNAVAILABLE, why) : opencl_load(&missing))
        return;
    Handle platforms[MAX_DEVICES];
    uint32_t n = 0;
    if (cl.clGetPlatformIDs(MAX_DEVICES, platforms, &n) || n == 0) {
        error_set(&missing, ERR_UNAVAILABLE,
                  "OpenCL's loader finds no driver (Debian: nvidia-opencl-icd, intel-opencl-icd, "
                  "mesa-opencl-icd; pocl-opencl-icd for the processor)");
        return;
    }
    if (n > MAX_DEVICES) n = MAX_DEVICES;
    list_devices(platforms, n, TYPE_GPU | TYPE_ACCELERATOR);
    list_devices(platforms, n, TYPE_CPU);
    if (n_listed > 0) return;
    error_set(&missing, ERR_UNAVAILABLE,
              "OpenCL's driver finds no device (that this user may open: groups render, video)");
}

// What a call returned, as a status.
static Status check(Result r, Status st, const char *doing, Error *err) {
    return r ? error_set(err, st, "opencl: %s: %s (%d)", doing, result_name(r), r) : OK;
}

// --- devices -------------------------------------------------------------------------------------

static Status opencl_count(int *n, Error *err) {
    pthread_once(&once, load);
    *n = missing.status ? 0 : n_listed;
    return missing.status ? error_set(err, missing.status, "%s", missing.text) : OK;
}

static Status check_index(int index, Error *err) {
    int n;
    const Status st = opencl_count(&n, err);
    if (st || (index >= 0 && index < n)) return st;
    return error_set(err, ERR_UNAVAILABLE, "opencl: there is no device %d", index);
}

// Of 4 bytes or 8, little-endian as all that runs here; 0 where the device does not know it.
static uint64_t number(Handle id, uint32_t what) {
    uint64_t value = 0;
    return cl.clGetDeviceInfo(id, what, sizeof value, &value, NULL) ? 0 : value;
}

// "?" where there is no answer. Some makers put spaces around their names.
static void words(Result (*ask)(Handle, uint32_t, size_t, void *, size_t *), Handle of,
                  uint32_t what, char out[64]) {
    char raw[512] = "";
    if (ask(of, what, sizeof raw - 1, raw, NULL)) raw[0] = '\0';
    const char *at = raw + strspn(raw, " ");
    size_t n = strlen(at);
    while (n > 0 && at[n - 1] == ' ') n--;
    printable(n ? at : "?", n ? n : 1, out, 64);
}

static Status opencl_info(int index, DeviceInfo *out, Error *err) {
    const Status st = check_index(index, err);
    if (st) return st;
    char name[64], platform[64];
    const Handle id = listed[index].id;
    const uint64_t units = number(id, DEVICE_UNITS);
    words(cl.clGetDeviceInfo, id, DEVICE_NAME, name);
    words(cl.clGetPlatformInfo, listed[index].platform, PLATFORM_NAME, platform);
    *out = (DeviceInfo){.memory = number(id, DEVICE_BYTES),
                        .n_units = units ? (int)units : 1,
                        .max_buffer = number(id, DEVICE_BUFFER_BYTES),
                        .is_processor = listed[index].is_processor};
    snprintf(out->name, sizeof out->name, "%s (%s)", name, platform);
    return OK;
}

static Status check_device(const char *name, Handle id, Error *err) {
    char version[64];
    int major = 0, minor = 0;
    words(cl.clGetDeviceInfo, id, DEVICE_VERSION, version);
    sscanf(version, "OpenCL %d.%d", &major, &minor);
    if (major < 1 || (major == 1 && minor < 2)) {
        return error_set(err, ERR_UNAVAILABLE,
                         "opencl: %s speaks '%s'; the kernels need OpenCL 1.2", name, version);
    }
    if (!number(id, DEVICE_COMPILER) || !number(id, DEVICE_LITTLE_ENDIAN)) {
        return error_set(err, ERR_UNAVAILABLE, "opencl: %s has no compiler or is big-endian", name);
    }
    const uint64_t local = number(id, DEVICE_LOCAL_BYTES), items = number(id, DEVICE_GROUP_SIZE);
    if (local >= LEAST_LOCAL_BYTES && items >= LEAST_ITEMS) return OK;
    return error_set(err, ERR_UNAVAILABLE,
                     "opencl: %s gives a group %llu bytes of local memory and %llu items; the "
                     "kernels need %d and %d",
                     name, (unsigned long long)local, (unsigned long long)items, LEAST_LOCAL_BYTES,
                     LEAST_ITEMS);
}

static void set_options(Device *d) {
    const bool exact = number(d->id, DEVICE_FLOAT_CONFIG) & FLOAT_EXACT_DIVIDE_SQRT;
    const uint64_t nv = number(d->id, DEVICE_NV_MAJOR) * 10 + number(d->id, DEVICE_NV_MINOR);
    // For dialect_opencl.h: which of NVIDIA's instructions there are.
    snprintf(d->options, sizeof d->options, "-cl-std=CL1.2 -DPLUMB_NV=%d%s", (int)nv,
             exact ? " -cl-fp32-correctly-rounded-divide-sqrt" : "");
}

static void drop_kernels(Device *d) {
    for (int i = 0; i < d->n_kernels; i++) {
        if (d->kernels[i]) cl.clReleaseKernel(d->kernels[i]);
    }
    if (d->program) cl.clReleaseProgram(d->program);
    free(d->kernels);
    d->program = NULL, d->kernels = NULL, d->n_kernels = 0;
}

static void opencl_close(Device *d) {
    if (!d) return;
    if (d->queue) cl.clFinish(d->queue);
    drop_kernels(d);
    if (d->queue) cl.clReleaseCommandQueue(d->queue);
    if (d->context) cl.clReleaseContext(d->context);
    free(d->staging);
    free(d);
}

static Status opencl_open(int index, Device **out, Error *err) {
    *out = NULL;
    DeviceInfo info;
    Status st = opencl_info(index, &info, err);
    if (!st) st = check_device(info.name, listed[index].id, err);
    if (st) return st;
    const Handle id = listed[index].id;
    const intptr_t properties[] = {CONTEXT_PLATFORM, (intptr_t)listed[index].platform, 0};
    Device *d = calloc(1, sizeof *d);
    if (d) d->staging = malloc(STAGING_BYTES);
    if (!d || !d->staging) {
        free(d);
        return error_memory(err, "a device", sizeof *d + STAGING_BYTES);
    }
    Result r = OK;
    d->id = id;
    d->info = info;
    set_options(d);
    d->context = cl.clCreateContext(properties, 1, &id, NULL, NULL, &r);
    if (!r) d->queue = cl.clCreateCommandQueue(d->context, id, 0, &r);
    st = check(r, ERR_UNAVAILABLE, "opening a device", err);
    if (st) {
        opencl_close(d);
        return st;
    }
    *out = d;
    return OK;
}

// --- kernels -------------------------------------------------------------------------------------

// The first line of the compiler's log that tells of an error; where none does, the first.
static Status compile_failed(const Device *d, Result r, Error *err) {
    size_t n = 0;
    cl.clGetProgramBuildInfo(d->program, d->id, BUILD_LOG, 0, NULL, &n);
    char *log = calloc(n + 1, 1), line[400];
    if (log) cl.clGetProgramBuildInfo(d->program, d->id, BUILD_LOG, n, log, NULL);
    const char *at = log ? strstr(log, "error") : NULL;
    while (at && at > log && at[-1] != '\n') at--;
    if (!at && log) at = log + strspn(log, " \t\r\n");
    if (at && *at) {
        printable(at, strcspn(at, "\r\n"), line, sizeof line);
        error_set(err, ERR_UNAVAILABLE, "opencl: the kernels do not compile: %s", line);
    } else {
        check(r, ERR_UNAVAILABLE, "compiling the kernels", err);
    }
    free(log);
    return ERR_UNAVAILABLE;
}

static Status make_kernel(Device *d, Handle *kernel, const DeviceEntry *e, Error *err) {
    Result r = OK;
    uint32_t n_args = 0;
    size_t items = 0;
    *kernel = cl.clCreateKernel(d->program, e->name, &r);
    if (r == INVALID_KERNEL_NAME) {
        return error_set(err, ERR_UNAVAILABLE, "opencl: there is no kernel %s", e->name);
    }
    if (!r) r = cl.clGetKernelInfo(*kernel, KERNEL_ARGS, sizeof n_args, &n_args, NULL);
    if (!r) {
        r = cl.clGetKernelWorkGroupInfo(*kernel, d->id, KERNEL_GROUP_SIZE, sizeof items, &items,
                                        NULL);
    }
    if (r) return check(r, ERR_UNAVAILABLE, e->name, err);
    if (n_args != (uint32_t)e->n_buffers + 1) {
        return error_set(err, ERR_UNAVAILABLE, "opencl: kernel %s has %u arguments, not %d",
                         e->name, n_args, e->n_buffers + 1);
    }
    if (items >= (size_t)e->lanes) return OK;
    return error_set(err, ERR_UNAVAILABLE,
                     "opencl: kernel %s needs groups of %d items; on this device it can have %zu",
                     e->name, e->lanes, items);
}

static Status opencl_build(Device *d, const char *source, DeviceEntry *entries, int n, Error *err) {
    Result r = OK;
    drop_kernels(d);
    for (int i = 0; i < n; i++) entries[i].kernel = NULL;
    d->kernels = calloc((size_t)n, sizeof *d->kernels);
    if (!d->kernels) return error_memory(err, "kernels", (size_t)n * sizeof *d->kernels);
    d->n_kernels = n;
    d->program = cl.clCreateProgramWithSource(d->context, 1, &source, NULL, &r);
    Status st = check(r, ERR_UNAVAILABLE, "taking the kernels", err);
    if (!st) r = cl.clBuildProgram(d->program, 1, &d->id, d->options, NULL, NULL);
    if (!st && r) st = compile_failed(d, r, err);
    for (int i = 0; !st && i < n; i++) st = make_kernel(d, &d->kernels[i], &entries[i], err);
    if (st) drop_kernels(d);
    for (int i = 0; !st && i < n; i++) entries[i].kernel = d->kernels[i];
    return st;
}

// --- memory --------------------------------------------------------------------------------------

// OpenCL does not tell what other programs have taken, but for a processor the system does.
static uint64_t opencl_memory_free(Device *d) {
    const uint64_t all = d->info.memory, system = d->info.is_processor ? memory_available() : 0;
    const uint64_t left = all > d->used ? all - d->used : all ? 1 : 0;  // 0: it does not say
    return system && (!left || system < left) ? system : left;
}

static Status opencl_alloc(Device *d, size_t bytes, DeviceBuffer **out, Error *err) {
    static const char zero;
    *out = NULL;
    DeviceBuffer *b = calloc(1, sizeof *b);
    if (!b) return error_memory(err, "a buffer", sizeof *b);
    b->bytes = bytes ? bytes : 1;
    const uint64_t all = d->info.memory, most = d->info.max_buffer;
    Result r = ALLOCATION_FAILURE;
    // What a device says that it has not, some drivers promise all the same.
    if ((!most || bytes <= most) && (!all || bytes <= all - d->used)) {
        b->mem = cl.clCreateBuffer(d->context, BUFFER_READ_WRITE, b->bytes, NULL, &r);
    }
    // Most take memory when it is first used. So use it: what is missing is to be known now.
    if (!r) r = cl.clEnqueueWriteBuffer(d->queue, b->mem, 1, 0, 1, &zero, 0, NULL, NULL);
    if (!r) {
        d->used += b->bytes;
        *out = b;
        return OK;
    }
    if (b->mem) cl.clReleaseMemObject(b->mem);
    free(b);
    return error_set(
        err, ERR_UNAVAILABLE,
        "opencl: %.1f MiB are wanted, %.1f MiB are free, a buffer may have %.1f MiB: %s",
        (double)bytes / 0x1p20, (double)opencl_memory_free(d) / 0x1p20, (double)most / 0x1p20,
        result_name(r));
}

static void opencl_release(Device *d, DeviceBuffer *b) {
    if (!b) return;
    d->used -= b->bytes;
    cl.clReleaseMemObject(b->mem);  // it stays until what uses it is done
    free(b);
}

static Status opencl_wait(Device *d, Error *err) {
    d->staged = 0;
    return check(cl.clFinish(d->queue), ERR_FAILED, "running kernels", err);
}

static Status opencl_write(Device *d, DeviceBuffer *to, size_t at, const void *from, size_t bytes,
                           Error *err) {
    if (bytes == 0) return OK;
    const bool staged = bytes <= MOST_STAGED;
    if (staged && d->staged + bytes > STAGING_BYTES) {
        const Status st = opencl_wait(d, err);
        if (st) return st;
    }
    if (staged) {
        from = memcpy(d->staging + d->staged, from, bytes);
        d->staged += bytes;
    }
    const Result r =
        cl.clEnqueueWriteBuffer(d->queue, to->mem, !staged, at, bytes, from, 0, NULL, NULL);
    return check(r, ERR_FAILED, "writing to the device", err);
}

static Status opencl_read(Device *d, const DeviceBuffer *from, size_t at, void *to, size_t bytes,
                          Error *err) {
    if (bytes == 0) return opencl_wait(d, err);
    const Result r = cl.clEnqueueReadBuffer(d->queue, from->mem, 1, at, bytes, to, 0, NULL, NULL);
    if (!r) d->staged = 0;
    return check(r, ERR_FAILED, "reading from the device", err);
}

static Status opencl_copy(Device *d, DeviceBuffer *to, size_t to_at, const DeviceBuffer *from,
                          size_t from_at, size_t bytes, Error *err) {
    if (bytes == 0) return OK;
    const Result r =
        cl.clEnqueueCopyBuffer(d->queue, from->mem, to->mem, from_at, to_at, bytes, 0, NULL, NULL);
    return check(r, ERR_FAILED, "copying on the device", err);
}

// --- running -------------------------------------------------------------------------------------

static Status opencl_launch(Device *d, const DeviceLaunch *l, Error *err) {
    const DeviceEntry *e = l->entry;
    Handle kernel = (Handle)(uintptr_t)e->kernel;
    const uint32_t n = (uint32_t)e->n_buffers;
    const size_t local[] = {(size_t)e->lanes, 1, 1};
    const size_t global[] = {l->groups[0] * local[0], l->groups[1], l->groups[2]};
    Result r = OK;
    for (uint32_t i = 0; !r && i < n; i++) {
        r = cl.clSetKernelArg(kernel, i, sizeof(Handle), &l->buffers[i]->mem);
    }
    if (!r) r = cl.clSetKernelArg(kernel, n, e->args_bytes, l->args);
    if (!r) {
        r = cl.clEnqueueNDRangeKernel(d->queue, kernel, 3, NULL, global, local, 0, NULL, NULL);
    }
    if (!r && ++d->n_launched % FLUSH_EVERY == 0) r = cl.clFlush(d->queue);
    return check(r, ERR_FAILED, e->name, err);
}

extern const char gpu_dialect_opencl[], gpu_dialect_opencl_end[];

const DeviceOps device_opencl = {.name = "opencl",
                                 .what = "what speaks OpenCL 1.2: GPUs, and processors",
                                 .count = opencl_count,
                                 .info = opencl_info,
                                 .open = opencl_open,
                                 .close = opencl_close,
                                 .build = opencl_build,
                                 .memory_free = opencl_memory_free,
                                 .alloc = opencl_alloc,
                                 .release = opencl_release,
                                 .write = opencl_write,
                                 .read = opencl_read,
                                 .copy = opencl_copy,
                                 .launch = opencl_launch,
                                 .wait = opencl_wait,
                                 .dialect = gpu_dialect_opencl,
                                 .dialect_end = gpu_dialect_opencl_end};
