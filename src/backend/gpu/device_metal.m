// Apple's GPUs through Metal (macOS 12 and later), built with `make METAL=1`.
//
// One command queue. Launches and copies are encoded into a command buffer, which is committed
// every so often and when somebody waits; Metal runs command buffers in the order of their
// commitment and the commands of one as if one by one. Where the processor shares the GPU's memory,
// transfers wait for what is under way and are memcpy (gpu.c writes between steps, when nothing
// is); elsewhere they go through staging buffers and copies on the GPU, in the order of issue.
//
// Reference counts are kept by hand (-fno-objc-arc). A command buffer holds on to what it uses
// until it is done, so release() need not wait.
#import <Metal/Metal.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/gpu/device.h"

#pragma clang diagnostic ignored "-Wdeprecated-declarations"

enum {
    COMMIT_COMMANDS = 64,    // of a command buffer
    MOST_STAGED = 16 << 20,  // bytes of a staging buffer that nobody waits for
    WORD = 4,                // what a GPU copies is whole ones, in place and length (macOS)
    SIMD_WIDTH = 32,         // that swap_lanes of dialect_metal.h was written for
};

// A DeviceBuffer is an MTLBuffer, a DeviceKernel an MTLComputePipelineState.
struct Device {
    id<MTLDevice> device;
    id<MTLCommandQueue> queue;
    bool shared;                    // processor and GPU see the same memory
    NSMutableArray *pipelines;      // own what entries point to
    id<MTLCommandBuffer> commands;  // that are being encoded, or nil
    id<MTLCommandEncoder> encoder;  // open in it, or nil
    bool takes_launches;            // the encoder; or copies
    int n_commands;
    NSMutableArray *committed;  // command buffers since the last wait, the oldest first
    DeviceRecording *recording;
};

typedef struct {
    id<MTLComputePipelineState> pipeline;
    MTLSize groups, items;
    NSUInteger n_buffers, args_bytes;
    id<MTLBuffer> buffers[DEVICE_MAX_BUFFERS];
} Step;

// Its steps are encoded anew each time. An indirect command buffer would save that, but it orders
// its commands by barriers alone and takes no arguments by value; this is a short loop and certain.
struct DeviceRecording {
    NSMutableData *steps, *args;  // of Step; of all steps
};

static id<MTLBuffer> buffer_of(const DeviceBuffer *b) {
    return (id<MTLBuffer>)(void *)(uintptr_t)b;
}

// An NSError as one line: of a compiler's many, the first that tells of an error.
static Status failed(Error *err, Status st, const char *what, NSError *why) {
    const char *text = why ? why.localizedDescription.UTF8String : "Metal gives no reason";
    const char *from = strstr(text, "error:");
    while (from && from > text && from[-1] != '\n') from--;
    if (!from) from = text;
    return error_set(err, st, "metal: %s: %.*s", what, (int)strcspn(from, "\n"), from);
}

// --- devices -------------------------------------------------------------------------------------

static Status metal_count(int *n, Error *err) {
    @autoreleasepool {
        *n = (int)[MTLCopyAllDevices() autorelease].count;
        return *n > 0 ? OK : error_set(err, ERR_UNAVAILABLE, "Metal finds no GPU");
    }
}

static id<MTLDevice> device_at(int index) {
    return [[MTLCopyAllDevices() autorelease] objectAtIndex:(NSUInteger)index];
}

static Status metal_info(int index, DeviceInfo *out, Error *err) {
    (void)err;
    @autoreleasepool {
        id<MTLDevice> device = device_at(index);
        *out = (DeviceInfo){.memory = device.recommendedMaxWorkingSetSize,
                            .n_units = 8,  // Metal does not tell; the smallest of a Mac has 7
                            .max_buffer = device.maxBufferLength};
        snprintf(out->name, sizeof out->name, "%s", device.name.UTF8String);
        return OK;
    }
}

// --- the order of issue --------------------------------------------------------------------------

static void end_encoder(Device *d) {
    [d->encoder endEncoding];
    [d->encoder release];
    d->encoder = nil;
}

static void commit(Device *d) {
    if (!d->commands) return;
    end_encoder(d);
    [d->commands commit];
    [d->committed addObject:d->commands];
    [d->commands release];
    d->commands = nil;
    d->n_commands = 0;
}

static Status metal_wait(Device *d, Error *err) {
    @autoreleasepool {
        Status st = OK;
        commit(d);
        for (id<MTLCommandBuffer> c in d->committed) {
            [c waitUntilCompleted];
            if (c.status == MTLCommandBufferStatusError && !st) {
                st = failed(err, ERR_FAILED, "running kernels", c.error);
            }
        }
        [d->committed removeAllObjects];
        return st;
    }
}

// Makes d->encoder one for the next command.
static Status encode(Device *d, bool launch, Error *err) {
    if (d->n_commands == COMMIT_COMMANDS) commit(d);
    d->n_commands++;
    if (d->encoder && d->takes_launches == launch) return OK;
    end_encoder(d);
    if (!d->commands) d->commands = [[d->queue commandBuffer] retain];
    d->takes_launches = launch;
    d->encoder = launch ? [d->commands computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial]
                        : (id<MTLCommandEncoder>)[d->commands blitCommandEncoder];
    [d->encoder retain];
    return d->encoder ? OK : error_set(err, ERR_FAILED, "metal: no more commands can be encoded");
}

// --- kernels -------------------------------------------------------------------------------------

static Status make_kernel(Device *d, id<MTLLibrary> lib, bool simd, DeviceEntry *e, Error *err) {
    NSError *why = nil;
    id<MTLFunction> function = [[lib newFunctionWithName:@(e->name)] autorelease];
    if (!function) return error_set(err, ERR_FAILED, "metal: there is no kernel %s", e->name);
    id<MTLComputePipelineState> p =
        [[d->device newComputePipelineStateWithFunction:function error:&why] autorelease];
    if (!p) return failed(err, ERR_UNAVAILABLE, e->name, why);
    [d->pipelines addObject:p];
    e->kernel = (const DeviceKernel *)(void *)p;
    const unsigned long items = (unsigned long)e->lanes, most = p.maxTotalThreadsPerThreadgroup;
    const unsigned long width = p.threadExecutionWidth, takes = p.staticThreadgroupMemoryLength;
    const unsigned long room = d->device.maxThreadgroupMemoryLength;
    if (items <= most && (!simd || width == SIMD_WIDTH) && takes <= room) return OK;
    return error_set(err, ERR_UNAVAILABLE,
                     "metal: kernel %s needs %lu threads a group, %d a SIMD group and %lu bytes of "
                     "threadgroup memory; this GPU gives %lu, %lu and %lu",
                     e->name, items, SIMD_WIDTH, takes, most, width, room);
}

static Status metal_build(Device *d, const char *source, DeviceEntry *entries, int n, Error *err) {
    @autoreleasepool {
        NSError *why = nil;
        MTLCompileOptions *options = [[[MTLCompileOptions alloc] init] autorelease];
        // Apple's own GPUs since the M1 have SIMD groups of 32 threads, in the order of threads.
        const bool simd = [d->device supportsFamily:MTLGPUFamilyApple7];
        if (simd) options.preprocessorMacros = @{@"PLUMB_SIMD_32" : @1};
        options.fastMathEnabled = NO;  // deprecated in macOS 15, where it sets mathMode to safe
        id<MTLLibrary> library = [[d->device newLibraryWithSource:@(source)
                                                          options:options
                                                            error:&why] autorelease];
        if (!library) return failed(err, ERR_UNAVAILABLE, "the kernels do not compile", why);
        Status st = OK;
        [d->pipelines removeAllObjects];
        for (int i = 0; i < n; i++) entries[i].kernel = NULL;
        for (int i = 0; i < n && !st; i++) st = make_kernel(d, library, simd, &entries[i], err);
        return st;
    }
}

static void metal_close(Device *d) {
    if (!d) return;
    @autoreleasepool {
        metal_wait(d, NULL);
        [d->committed release];
        [d->pipelines release];
        [d->queue release];
        [d->device release];
        free(d);
    }
}

static Status metal_open(int index, Device **out, Error *err) {
    @autoreleasepool {
        Device *d = *out = calloc(1, sizeof *d);
        if (!d) return error_memory(err, "a device", sizeof *d);
        d->device = [device_at(index) retain];
        d->queue = [d->device newCommandQueue];
        d->shared = d->device.hasUnifiedMemory;
        d->pipelines = [[NSMutableArray alloc] init];
        d->committed = [[NSMutableArray alloc] init];
        if (d->queue) return OK;
        metal_close(d);
        *out = NULL;
        return error_set(err, ERR_UNAVAILABLE, "metal: no command queue on device %d", index);
    }
}

// --- memory --------------------------------------------------------------------------------------

static uint64_t metal_memory_free(Device *d) {
    @autoreleasepool {
        const uint64_t all = d->device.recommendedMaxWorkingSetSize,
                       used = d->device.currentAllocatedSize;
        return all > used ? all - used : all ? 1 : 0;  // 0 would be: it does not say
    }
}

static Status metal_alloc(Device *d, size_t bytes, DeviceBuffer **out, Error *err) {
    @autoreleasepool {
        const uint64_t left = metal_memory_free(d), most = d->device.maxBufferLength;
        id<MTLBuffer> b = nil;
        if (bytes <= most && (left == 0 || bytes <= left)) {
            b = [d->device newBufferWithLength:bytes / WORD * WORD + WORD
                                       options:d->shared ? MTLResourceStorageModeShared
                                                         : MTLResourceStorageModePrivate];
        }
        *out = (DeviceBuffer *)(void *)b;
        if (b) return OK;
        return error_set(
            err, ERR_UNAVAILABLE,
            "metal: %.1f MiB are wanted, %.1f MiB are free, a buffer may have %.1f MiB",
            (double)bytes / 0x1p20, (double)left / 0x1p20, (double)most / 0x1p20);
    }
}

static void metal_release(Device *d, DeviceBuffer *b) {
    (void)d;
    @autoreleasepool {
        [buffer_of(b) release];
    }
}

static Status encode_copy(Device *d, id<MTLBuffer> to, size_t to_at, id<MTLBuffer> from,
                          size_t from_at, size_t bytes, Error *err) {
    const Status st = encode(d, false, err);
    if (st) return st;
    id<MTLBlitCommandEncoder> by = (id<MTLBlitCommandEncoder>)d->encoder;
    [by copyFromBuffer:from sourceOffset:from_at toBuffer:to destinationOffset:to_at size:bytes];
    return OK;
}

// Out of (`in` NULL) or into memory that the GPU alone sees: whole words, so what is none goes
// there with the bytes around it.
static Status through_staging(Device *d, id<MTLBuffer> b, size_t at, void *out, const void *in,
                              size_t bytes, Error *err) {
    @autoreleasepool {
        const size_t first = at / WORD * WORD, n = (at + bytes - first + WORD - 1) / WORD * WORD;
        id<MTLBuffer> by =
            [[d->device newBufferWithLength:n options:MTLResourceStorageModeShared] autorelease];
        if (!by) return error_memory(err, "a staging buffer of Metal", n);
        const bool takes = out || n != bytes;
        Status st = takes ? encode_copy(d, by, 0, b, first, n, err) : OK;
        if (!st && takes) st = metal_wait(d, err);
        if (!st && out) memcpy(out, (uint8_t *)by.contents + (at - first), bytes);
        if (st || out) return st;
        memcpy((uint8_t *)by.contents + (at - first), in, bytes);
        st = encode_copy(d, b, first, by, 0, n, err);
        return st || n <= MOST_STAGED ? st : metal_wait(d, err);
    }
}

static Status metal_write(Device *d, DeviceBuffer *to, size_t at, const void *from, size_t bytes,
                          Error *err) {
    if (bytes == 0) return OK;
    if (!d->shared) return through_staging(d, buffer_of(to), at, NULL, from, bytes, err);
    const Status st = metal_wait(d, err);
    if (!st) memcpy((uint8_t *)buffer_of(to).contents + at, from, bytes);
    return st;
}

static Status metal_read(Device *d, const DeviceBuffer *from, size_t at, void *to, size_t bytes,
                         Error *err) {
    if (!d->shared && bytes) return through_staging(d, buffer_of(from), at, to, NULL, bytes, err);
    const Status st = metal_wait(d, err);
    if (!st && bytes) memcpy(to, (const uint8_t *)buffer_of(from).contents + at, bytes);
    return st;
}

static Status metal_copy(Device *d, DeviceBuffer *to, size_t to_at, const DeviceBuffer *from,
                         size_t from_at, size_t bytes, Error *err) {
    if (bytes == 0) return OK;
    if ((to_at | from_at | bytes) % WORD == 0) {
        @autoreleasepool {
            return encode_copy(d, buffer_of(to), to_at, buffer_of(from), from_at, bytes, err);
        }
    }
    void *here = malloc(bytes);
    if (!here) return error_memory(err, "a copy", bytes);
    Status st = metal_read(d, from, from_at, here, bytes, err);
    if (!st) st = metal_write(d, to, to_at, here, bytes, err);
    free(here);
    return st;
}

// --- launches ------------------------------------------------------------------------------------

static Status encode_step(Device *d, const Step *s, const void *args, Error *err) {
    const Status st = encode(d, true, err);
    if (st) return st;
    id<MTLComputeCommandEncoder> to = (id<MTLComputeCommandEncoder>)d->encoder;
    [to setComputePipelineState:s->pipeline];
    for (NSUInteger i = 0; i < s->n_buffers; i++) [to setBuffer:s->buffers[i] offset:0 atIndex:i];
    [to setBytes:args length:s->args_bytes atIndex:s->n_buffers];
    [to dispatchThreadgroups:s->groups threadsPerThreadgroup:s->items];
    return OK;
}

static Status metal_launch(Device *d, const DeviceLaunch *l, Error *err) {
    @autoreleasepool {
        const DeviceEntry *e = l->entry;
        DeviceRecording *r = d->recording;
        Step s = {.pipeline = (id<MTLComputePipelineState>)(void *)(uintptr_t)e->kernel,
                  .groups = {l->groups[0], l->groups[1], l->groups[2]},
                  .items = {(NSUInteger)e->lanes, 1, 1},
                  .n_buffers = (NSUInteger)e->n_buffers,
                  .args_bytes = e->args_bytes};
        for (int i = 0; i < e->n_buffers; i++) s.buffers[i] = buffer_of(l->buffers[i]);
        if (!r) return encode_step(d, &s, l->args, err);
        [r->steps appendBytes:&s length:sizeof s];
        [r->args appendBytes:l->args length:s.args_bytes];
        return OK;
    }
}

static Status metal_record(Device *d, Error *err) {
    @autoreleasepool {
        DeviceRecording *r = d->recording = calloc(1, sizeof *r);
        if (!r) return error_memory(err, "a recording", sizeof *r);
        r->steps = [[NSMutableData alloc] init];
        r->args = [[NSMutableData alloc] init];
        return OK;
    }
}

static Status metal_record_end(Device *d, DeviceRecording **out, Error *err) {
    (void)err;
    *out = d->recording;
    d->recording = NULL;
    return OK;
}

static Status metal_replay(Device *d, DeviceRecording *r, Error *err) {
    @autoreleasepool {
        const uint8_t *args = r->args.bytes;
        const Step *s = r->steps.bytes, *end = s + r->steps.length / sizeof *s;
        Status st = OK;
        for (; s < end && !st; args += s->args_bytes, s++) st = encode_step(d, s, args, err);
        return st;
    }
}

static void metal_record_free(Device *d, DeviceRecording *r) {
    (void)d;
    if (!r) return;
    @autoreleasepool {
        [r->steps release];
        [r->args release];
        free(r);
    }
}

extern const char gpu_dialect_metal[], gpu_dialect_metal_end[];

const DeviceOps device_metal = {.name = "metal",
                                .what = "Apple's GPUs (Metal)",
                                .count = metal_count,
                                .info = metal_info,
                                .open = metal_open,
                                .close = metal_close,
                                .build = metal_build,
                                .memory_free = metal_memory_free,
                                .alloc = metal_alloc,
                                .release = metal_release,
                                .write = metal_write,
                                .read = metal_read,
                                .copy = metal_copy,
                                .launch = metal_launch,
                                .wait = metal_wait,
                                .record = metal_record,
                                .record_end = metal_record_end,
                                .replay = metal_replay,
                                .record_free = metal_record_free,
                                .dialect = gpu_dialect_metal,
                                .dialect_end = gpu_dialect_metal_end};
