// NVIDIA GPUs: the CUDA driver's API and its run-time compiler (NVRTC), both loaded when asked for,
// so that the same program runs where neither is there. Nothing of CUDA is needed to build.
//
// One stream. Small transfers go through page-locked memory; steps are recorded as CUDA graphs.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/cuda_api.h"
#include "backend/gpu/device.h"
#include "base/library.h"

enum {
    LOCKED_BYTES = 1 << 20,  // of each of the two staging areas
    OLDEST_MAJOR = 6,        // the first with dot products of bytes (6.1)
    OLDEST_MINOR = 1,
    HOPPER = 9,  // and later: a kernel may start before the one before it has ended (GRID_WAIT)
};

struct Device {
    int ordinal, major, minor;
    Handle context, stream, module;
    uint8_t *locked_in, *locked_out;  // LOCKED_BYTES each
    size_t in_at;                     // bytes of locked_in that may still be on their way
    struct DeviceKernel *kernels;
};

struct DeviceBuffer {
    Ptr p;
};

struct DeviceKernel {
    Handle function;
};

struct DeviceRecording {
    Handle exec;
};

// --- loading ----------------------------------------------------------------------------------

static pthread_once_t once = PTHREAD_ONCE_INIT;
static Error missing;  // why there is no CUDA here; status OK: there is

static void *open_first(const char *const *names, int n) {
    void *lib = NULL;
    for (int i = 0; i < n && !lib; i++) lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return lib;
}

static bool find_symbols(void *lib, const Symbol *symbols, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++) {
        void *found = dlsym(lib, symbols[i].name);
        memcpy(symbols[i].slot, &found, sizeof found);
        if (found) continue;
        error_set(&missing, ERR_UNAVAILABLE, "%s has no %s: it is older than CUDA 11.4", what,
                  symbols[i].name);
        return false;
    }
    return true;
}

static void load(void) {
    static const char *const drivers[] = {"libcuda.so.1", "libcuda.so"};
    static const char *const compilers[] = {"libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12",
                                            "libnvrtc.so.11.2",
                                            "/usr/local/cuda/lib64/libnvrtc.so"};
    if (!library_can_load()) {
        error_set(&missing, ERR_UNAVAILABLE,
                  "this program is linked statically and cannot load the NVIDIA driver");
        return;
    }
    void *lib = open_first(drivers, COUNT(drivers));
    if (!lib) {
        error_set(&missing, ERR_UNAVAILABLE, "no NVIDIA driver here (libcuda.so.1 is not found)");
        return;
    }
    if (!find_symbols(lib, driver_symbols, COUNT(driver_symbols), "the NVIDIA driver")) return;
    lib = open_first(compilers, COUNT(compilers));
    if (!lib) {
        error_set(&missing, ERR_UNAVAILABLE,
                  "CUDA's run-time compiler is not found (libnvrtc.so; it comes with the CUDA "
                  "toolkit, and its folder must be known to the loader)");
        return;
    }
    if (!find_symbols(lib, compiler_symbols, COUNT(compiler_symbols), "NVRTC")) return;
    const Result r = cu.cuInit(0);
    const char *why = "?";
    if (r) cu.cuGetErrorString(r, &why);
    if (r) error_set(&missing, ERR_UNAVAILABLE, "the NVIDIA driver does not start: %s", why);
}

static Status loaded(Error *err) {
    pthread_once(&once, load);
    return missing.status ? error_set(err, missing.status, "%s", missing.text) : OK;
}

// What a call of the driver returned, as a status.
static Status check(Result r, const char *doing, Error *err) {
    if (!r) return OK;
    const char *name = "?", *text = "?";
    cu.cuGetErrorName(r, &name);
    cu.cuGetErrorString(r, &text);
    return error_set(err, ERR_UNAVAILABLE, "cuda: %s: %s (%s)", doing, text, name);
}

// --- devices ----------------------------------------------------------------------------------

static Status cuda_count(int *n, Error *err) {
    *n = 0;
    Status st = loaded(err);
    if (!st) st = check(cu.cuDeviceGetCount(n), "counting devices", err);
    if (!st && *n == 0) st = error_set(err, ERR_UNAVAILABLE, "the NVIDIA driver finds no GPU");
    return st;
}

static Status cuda_info(int index, DeviceInfo *out, Error *err) {
    int d = 0;
    size_t bytes = 0;
    *out = (DeviceInfo){.n_units = 1};
    Status st = check(cu.cuDeviceGet(&d, index), "choosing a device", err);
    if (!st) st = check(cu.cuDeviceGetName(out->name, sizeof out->name, d), "its name", err);
    if (!st) st = check(cu.cuDeviceTotalMem_v2(&bytes, d), "its memory", err);
    if (!st) {
        st = check(cu.cuDeviceGetAttribute(&out->n_units, ATTRIBUTE_UNITS, d), "its size", err);
    }
    out->memory = bytes;
    return st;
}

static void cuda_close(Device *d) {
    if (!d) return;
    cu.cuCtxSetCurrent(d->context);
    if (d->stream) cu.cuStreamSynchronize(d->stream);
    if (d->module) cu.cuModuleUnload(d->module);
    if (d->locked_in) cu.cuMemFreeHost(d->locked_in);
    if (d->locked_out) cu.cuMemFreeHost(d->locked_out);
    if (d->stream) cu.cuStreamDestroy_v2(d->stream);
    if (d->context) cu.cuDevicePrimaryCtxRelease_v2(d->ordinal);
    free(d->kernels);
    free(d);
}

static Status start(Device *d, Error *err) {
    void *in = NULL, *out = NULL;
    Status st = check(cu.cuDeviceGetAttribute(&d->major, ATTRIBUTE_MAJOR, d->ordinal), "?", err);
    if (!st) st = check(cu.cuDeviceGetAttribute(&d->minor, ATTRIBUTE_MINOR, d->ordinal), "?", err);
    if (!st && d->major * 10 + d->minor < OLDEST_MAJOR * 10 + OLDEST_MINOR) {
        return error_set(err, ERR_UNAVAILABLE,
                         "cuda: a GPU of compute capability %d.%d; the kernels need %d.%d",
                         d->major, d->minor, OLDEST_MAJOR, OLDEST_MINOR);
    }
    if (!st) st = check(cu.cuDevicePrimaryCtxRetain(&d->context, d->ordinal), "a context", err);
    if (!st) st = check(cu.cuCtxSetCurrent(d->context), "a context", err);
    if (!st) st = check(cu.cuStreamCreate(&d->stream, STREAM_NON_BLOCKING), "a stream", err);
    if (!st) st = check(cu.cuMemHostAlloc(&in, LOCKED_BYTES, 0), "page-locked memory", err);
    if (!st) st = check(cu.cuMemHostAlloc(&out, LOCKED_BYTES, 0), "page-locked memory", err);
    d->locked_in = in, d->locked_out = out;
    return st;
}

static Status cuda_open(int index, Device **out, Error *err) {
    *out = NULL;
    Device *d = calloc(1, sizeof *d);
    if (!d) return error_memory(err, "a device", sizeof *d);
    Status st = check(cu.cuDeviceGet(&d->ordinal, index), "choosing a device", err);
    if (!st) st = start(d, err);
    if (st) {
        cuda_close(d);
        return st;
    }
    *out = d;
    return OK;
}

// --- kernels ----------------------------------------------------------------------------------

// The first line of the compiler's log that tells of an error.
static Status compile_failed(Handle program, Result r, Error *err) {
    size_t n = 0;
    rtc.nvrtcGetProgramLogSize(program, &n);
    char *log = calloc(n + 1, 1);
    if (log) rtc.nvrtcGetProgramLog(program, log);
    const char *at = log ? strstr(log, "error") : NULL;
    while (at && at > log && at[-1] != '\n') at--;
    error_set(err, ERR_UNAVAILABLE, "cuda: the kernels do not compile: %.*s",
              at ? (int)strcspn(at, "\n") : 200, at ? at : rtc.nvrtcGetErrorString(r));
    free(log);
    return ERR_UNAVAILABLE;
}

static Status compile(const Device *d, const char *source, char **cubin, Error *err) {
    char arch[32];
    snprintf(arch, sizeof arch, "--gpu-architecture=sm_%d%d", d->major, d->minor);
    // Products and sums are fused where the kernels say so, nowhere else.
    const char *const options[] = {arch, "--fmad=false", "--std=c++17"};
    Handle program = NULL;
    size_t n = 0;
    *cubin = NULL;
    Result r = rtc.nvrtcCreateProgram(&program, source, "kernels", 0, NULL, NULL);
    if (!r) r = rtc.nvrtcCompileProgram(program, COUNT(options), options);
    Status st = r ? compile_failed(program, r, err) : OK;
    if (!st) r = rtc.nvrtcGetCUBINSize(program, &n);
    if (!st && !r) *cubin = malloc(n);
    if (!st && !r && *cubin) r = rtc.nvrtcGetCUBIN(program, *cubin);
    if (!st && (r || !*cubin)) {
        st = error_set(err, ERR_UNAVAILABLE, "cuda: no code came from the compiler (NVRTC %s)",
                       rtc.nvrtcGetErrorString(r));
    }
    if (program) rtc.nvrtcDestroyProgram(&program);
    return st;
}

static Status cuda_build(Device *d, const char *source, DeviceEntry *entries, int n, Error *err) {
    char *cubin = NULL;
    DeviceKernel *kernels = calloc((size_t)n, sizeof *kernels);
    if (!kernels) return error_memory(err, "kernels", (size_t)n * sizeof *kernels);
    Status st = check(cu.cuCtxSetCurrent(d->context), "a context", err);
    if (!st) st = compile(d, source, &cubin, err);
    if (!st && d->module) st = check(cu.cuModuleUnload(d->module), "unloading kernels", err);
    if (!st) d->module = NULL;
    if (!st) st = check(cu.cuModuleLoadData(&d->module, cubin), "loading kernels", err);
    for (int i = 0; !st && i < n; i++) {
        st = check(cu.cuModuleGetFunction(&kernels[i].function, d->module, entries[i].name),
                   entries[i].name, err);
        entries[i].kernel = &kernels[i];
    }
    free(cubin);
    free(d->kernels);
    d->kernels = kernels;
    return st;
}

// --- memory -----------------------------------------------------------------------------------

static uint64_t cuda_memory_free(Device *d) {
    size_t left = 0, total = 0;
    if (cu.cuCtxSetCurrent(d->context) || cu.cuMemGetInfo_v2(&left, &total)) return 0;
    return left;
}

static Status cuda_alloc(Device *d, size_t bytes, DeviceBuffer **out, Error *err) {
    *out = NULL;
    DeviceBuffer *b = calloc(1, sizeof *b);
    if (!b) return error_memory(err, "a buffer", sizeof *b);
    Result r = cu.cuCtxSetCurrent(d->context);
    if (!r) r = cu.cuMemAlloc_v2(&b->p, bytes ? bytes : 1);
    if (r) free(b);
    if (r == OUT_OF_MEMORY) {
        return error_set(err, ERR_UNAVAILABLE,
                         "cuda: %.1f MiB are wanted and %.1f MiB are free on the GPU",
                         (double)bytes / 0x1p20, (double)cuda_memory_free(d) / 0x1p20);
    }
    if (r) return check(r, "taking memory", err);
    *out = b;
    return OK;
}

static void cuda_release(Device *d, DeviceBuffer *b) {
    if (!b) return;
    cu.cuCtxSetCurrent(d->context);
    cu.cuMemFree_v2(b->p);  // waits for what uses it
    free(b);
}

static Status cuda_wait(Device *d, Error *err) {
    cu.cuCtxSetCurrent(d->context);
    d->in_at = 0;
    return check(cu.cuStreamSynchronize(d->stream), "running kernels", err);
}

static Status cuda_write(Device *d, DeviceBuffer *to, size_t at, const void *from, size_t bytes,
                         Error *err) {
    cu.cuCtxSetCurrent(d->context);
    if (bytes > LOCKED_BYTES) {
        Status st = check(cu.cuMemcpyHtoDAsync_v2(to->p + at, from, bytes, d->stream),
                          "writing to the GPU", err);
        return st ? st : cuda_wait(d, err);
    }
    if (d->in_at + bytes > LOCKED_BYTES) {
        Status st = cuda_wait(d, err);
        if (st) return st;
    }
    uint8_t *staged = d->locked_in + d->in_at;
    d->in_at += bytes;
    memcpy(staged, from, bytes);
    return check(cu.cuMemcpyHtoDAsync_v2(to->p + at, staged, bytes, d->stream),
                 "writing to the GPU", err);
}

static Status cuda_read(Device *d, const DeviceBuffer *from, size_t at, void *to, size_t bytes,
                        Error *err) {
    cu.cuCtxSetCurrent(d->context);
    void *into = bytes > LOCKED_BYTES ? to : d->locked_out;
    Status st = check(cu.cuMemcpyDtoHAsync_v2(into, from->p + at, bytes, d->stream),
                      "reading from the GPU", err);
    if (!st) st = cuda_wait(d, err);
    if (!st && into != to) memcpy(to, into, bytes);
    return st;
}

static Status cuda_copy(Device *d, DeviceBuffer *to, size_t to_at, const DeviceBuffer *from,
                        size_t from_at, size_t bytes, Error *err) {
    cu.cuCtxSetCurrent(d->context);
    return check(cu.cuMemcpyDtoDAsync_v2(to->p + to_at, from->p + from_at, bytes, d->stream),
                 "copying on the GPU", err);
}

// --- running ----------------------------------------------------------------------------------

static Status cuda_launch(Device *d, const DeviceLaunch *l, Error *err) {
    void *params[DEVICE_MAX_BUFFERS + 1];
    for (int i = 0; i < l->entry->n_buffers; i++) params[i] = &l->buffers[i]->p;
    params[l->entry->n_buffers] = (void *)(uintptr_t)l->args;  // the driver copies it
    cu.cuCtxSetCurrent(d->context);
    static const LaunchAttribute early = {.id = LAUNCH_EARLY, .value = {0, 1}};
    const LaunchConfig config = {.grid = {l->groups[0], l->groups[1], l->groups[2]},
                                 .block = {(unsigned)l->entry->lanes, 1, 1},
                                 .stream = d->stream,
                                 .attributes = &early,
                                 .n_attributes = d->major >= HOPPER ? 1 : 0};
    return check(cu.cuLaunchKernelEx(&config, l->entry->kernel->function, params, NULL),
                 l->entry->name, err);
}

static Status cuda_record(Device *d, Error *err) {
    cu.cuCtxSetCurrent(d->context);
    return check(cu.cuStreamBeginCapture_v2(d->stream, CAPTURE_THREAD_LOCAL), "recording", err);
}

static Status cuda_record_end(Device *d, DeviceRecording **out, Error *err) {
    Handle graph = NULL;
    *out = NULL;
    DeviceRecording *r = calloc(1, sizeof *r);
    Status st = check(cu.cuStreamEndCapture(d->stream, &graph), "recording", err);
    if (!st && !r) st = error_memory(err, "a recording", sizeof *r);
    if (!st) st = check(cu.cuGraphInstantiateWithFlags(&r->exec, graph, 0), "recording", err);
    if (graph) cu.cuGraphDestroy(graph);
    if (st) {
        free(r);
        return st;
    }
    *out = r;
    return OK;
}

static Status cuda_replay(Device *d, DeviceRecording *r, Error *err) {
    cu.cuCtxSetCurrent(d->context);
    return check(cu.cuGraphLaunch(r->exec, d->stream), "replaying a step", err);
}

static void cuda_record_free(Device *d, DeviceRecording *r) {
    cu.cuCtxSetCurrent(d->context);
    cu.cuGraphExecDestroy(r->exec);
    free(r);
}

extern const char gpu_dialect_cuda[], gpu_dialect_cuda_end[];

const DeviceOps device_cuda = {.name = "cuda",
                               .what = "NVIDIA GPUs, through the driver and its run-time compiler",
                               .count = cuda_count,
                               .info = cuda_info,
                               .open = cuda_open,
                               .close = cuda_close,
                               .build = cuda_build,
                               .memory_free = cuda_memory_free,
                               .alloc = cuda_alloc,
                               .release = cuda_release,
                               .write = cuda_write,
                               .read = cuda_read,
                               .copy = cuda_copy,
                               .launch = cuda_launch,
                               .wait = cuda_wait,
                               .record = cuda_record,
                               .record_end = cuda_record_end,
                               .replay = cuda_replay,
                               .record_free = cuda_record_free,
                               .dialect = gpu_dialect_cuda,
                               .dialect_end = gpu_dialect_cuda_end};
