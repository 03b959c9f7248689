// The simulated Metal stops a program that breaks a rule: each rule is broken once, in a process of
// its own, which must end with the words for it. Beside each stands what is right and must go well.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#import <Metal/Metal.h>

#include <signal.h>
#include <sys/wait.h>

#include "base/status.h"
#include "metal/sim.h"
#include "unit/check.h"

static NSString *const source =
    @"#include <metal_stdlib>\n"
     "using namespace metal;\n"
     "struct Args { uint n, odd; };\n"
     "#define KERNEL(name) [[max_total_threads_per_threadgroup(64)]] kernel void name\n"
     "#define IDS uint3 group [[threadgroup_position_in_grid]], \\\n"
     "    uint lane [[thread_index_in_threadgroup]]\n"
     "KERNEL(fill)(device uint *y [[buffer(0)]], constant Args &a [[buffer(1)]], IDS) {\n"
     "    const uint i = group.x * 64 + lane;\n"
     "    if (i < a.n) y[i] = i;\n"
     "}\n"
     "KERNEL(before)(device uint *y [[buffer(0)]], constant Args &a [[buffer(1)]], IDS) {\n"
     "    if (lane == 0) y[(int)group.x - 1] = a.n;\n"
     "}\n"
     "KERNEL(part)(device uint *y [[buffer(0)]], constant Args &a [[buffer(1)]], IDS) {\n"
     "    if (lane % 2 == a.odd) threadgroup_barrier(mem_flags::mem_threadgroup);\n"
     "    y[lane] = group.x;\n"
     "}\n"
     "KERNEL(shuffle)(device uint *y [[buffer(0)]], constant Args &a [[buffer(1)]], IDS) {\n"
     "    y[lane] = group.x + (lane >= a.n ? lane : simd_shuffle_xor(lane, (ushort)a.odd));\n"
     "}\n"
     "KERNEL(race)(device uint *y [[buffer(0)]], constant Args &a [[buffer(1)]], IDS) {\n"
     "    alignas(16) threadgroup uint t[64];\n"
     "    t[lane] = lane;\n"
     "    if (a.odd) threadgroup_barrier(mem_flags::mem_threadgroup);\n"
     "    y[lane] = group.x + t[lane ^ a.n];\n"
     "}\n"
     "KERNEL(much)(device uint *y [[buffer(0)]], constant Args &a [[buffer(1)]], IDS) {\n"
     "    alignas(16) threadgroup uint t[8193];\n"
     "    for (uint i = lane; i < 8193; i += 64) t[i] = a.n;\n"
     "    threadgroup_barrier(mem_flags::mem_threadgroup);\n"
     "    y[lane] = t[8192 - group.x - lane];\n"
     "}\n";

typedef struct {
    uint32_t n, odd;
} Args;

enum { BYTES = 1024, WORDS = BYTES / 4 };

// What a case starts from; made in its process.
static id<MTLDevice> device, other_device;
static id<MTLCommandQueue> queue;
static id<MTLCommandBuffer> commands;
static id<MTLComputeCommandEncoder> encoder;
static id<MTLBuffer> buffer;
static NSAutoreleasePool *pool;

static id<MTLComputePipelineState> pipeline(NSString *name) {
    NSError *why = nil;
    MTLCompileOptions *options = [[[MTLCompileOptions alloc] init] autorelease];
    options.fastMathEnabled = NO;
    id<MTLLibrary> lib = [device newLibraryWithSource:source options:options error:&why];
    if (!lib) sim_fail("%s", why.localizedDescription.UTF8String);
    return [device newComputePipelineStateWithFunction:[lib newFunctionWithName:name] error:&why];
}

static id<MTLBuffer> new_buffer(id<MTLDevice> on, MTLResourceOptions options) {
    return [on newBufferWithLength:BYTES options:options];
}

static void set_up(void) {
    pool = [[NSAutoreleasePool alloc] init];
    device = [MTLCopyAllDevices() objectAtIndex:0];
    other_device = [MTLCopyAllDevices() objectAtIndex:1];
    queue = [device newCommandQueue];
    commands = [queue commandBuffer];
    buffer = new_buffer(device, MTLResourceStorageModeShared);
}

static void encode(NSString *name, Args args) {
    encoder = [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
    [encoder setComputePipelineState:pipeline(name)];
    [encoder setBuffer:buffer offset:0 atIndex:0];
    [encoder setBytes:&args length:sizeof args atIndex:1];
}

static void dispatch(NSUInteger groups) {
    [encoder dispatchThreadgroups:(MTLSize){groups, 1, 1}
            threadsPerThreadgroup:(MTLSize){64, 1, 1}];
}

static void finish(void) {
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
}

static void run(NSString *name, Args args, NSUInteger groups) {
    encode(name, args);
    dispatch(groups);
    finish();
}

static uint32_t word(int i) {
    return ((const uint32_t *)buffer.contents)[i];
}

static void copy(NSUInteger from, NSUInteger to, NSUInteger size) {
    id<MTLBlitCommandEncoder> blit = [commands blitCommandEncoder];
    [blit copyFromBuffer:buffer sourceOffset:from toBuffer:buffer destinationOffset:to size:size];
    [blit endEncoding];
}

// --- what is right -------------------------------------------------------------------------------

static void right_fill(void) {
    run(@"fill", (Args){WORDS, 0}, 4);
    for (int i = 0; i < WORDS; i++) CHECK(word(i) == (uint32_t)i);
}
static void right_part(void) {
    run(@"part", (Args){0, 2}, 1);
    CHECK(word(63) == 0 && word(64) == 0xffffffff);
}
static void right_shuffle(void) {
    run(@"shuffle", (Args){64, 5}, 1);
    for (int i = 0; i < 64; i++) CHECK(word(i) == (uint32_t)(i ^ 5));
}
static void right_barrier(void) {
    run(@"race", (Args){63, 1}, 1);
    for (int i = 0; i < 64; i++) CHECK(word(i) == (uint32_t)(i ^ 63));
}
// The missing barrier does not end the program; it makes the result wrong between SIMD groups.
static void right_race(void) {
    run(@"race", (Args){63, 0}, 1);
    CHECK(word(0) == 0xffffffff && word(63) == 0);
}
static void right_much(void) {
    sim_config.local_bytes = 65536;
    run(@"much", (Args){7, 0}, 1);
    CHECK(word(0) == 7);
}
static void right_copy(void) {
    run(@"fill", (Args){WORDS, 0}, 4);
    commands = [queue commandBuffer];
    copy(4, 512, 508);
    [commands commit];
    [commands waitUntilCompleted];
    CHECK(word(128) == 1 && word(254) == 127 && word(255) == 255);
}
static void right_late(void) {  // nothing runs before somebody waits
    encode(@"fill", (Args){WORDS, 0});
    dispatch(4);
    CHECK(word(1) == 0xffffffff);
    finish();
    CHECK(word(1) == 1 && commands.status == MTLCommandBufferStatusCompleted);
}
static void right_offset(void) {
    encode(@"fill", (Args){WORDS - 1, 0});
    [encoder setBuffer:buffer offset:4 atIndex:0];
    dispatch(4);
    finish();
    CHECK(word(0) == 0xffffffff && word(1) == 0 && word(WORDS - 1) == WORDS - 2);
}

// --- what is wrong -------------------------------------------------------------------------------

static void wrong_past(void) {
    run(@"fill", (Args){WORDS + 1, 0}, 5);
}
static void wrong_before(void) {
    run(@"before", (Args){1, 0}, 1);
}
static void wrong_freed_object(void) {
    [buffer release];
    [buffer length];
}
static void wrong_freed_twice(void) {
    [buffer release];
    [buffer release];
}
static void wrong_freed_memory(void) {
    const volatile uint32_t *words = buffer.contents;
    [buffer release];
    CHECK(words[0] == 0);
}
static void wrong_early_read(void) {
    const volatile uint32_t *words = buffer.contents;
    encode(@"fill", (Args){WORDS, 0});
    dispatch(4);
    [encoder endEncoding];
    [commands commit];
    CHECK(words[0] == 0);
}
static void wrong_private(void) {
    buffer = new_buffer(device, MTLResourceStorageModePrivate);
    CHECK(buffer.contents);
}
static void wrong_empty_buffer(void) {
    [device newBufferWithLength:0 options:0];
}
static void wrong_no_buffer(void) {
    encode(@"fill", (Args){WORDS, 0});
    [encoder setBuffer:nil offset:0 atIndex:0];
    dispatch(4);
}
static void wrong_no_args(void) {
    encoder = [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
    [encoder setComputePipelineState:pipeline(@"fill")];
    [encoder setBuffer:buffer offset:0 atIndex:0];
    dispatch(4);
}
static void wrong_args_size(void) {
    encode(@"fill", (Args){WORDS, 0});
    [encoder setBytes:"123" length:4 atIndex:1];
    dispatch(4);
}
static void wrong_much_args(void) {
    static const char bytes[4097];
    encode(@"fill", (Args){WORDS, 0});
    [encoder setBytes:bytes length:sizeof bytes atIndex:1];
}
static void wrong_order_of_args(void) {
    const Args args = {WORDS, 0};
    encode(@"fill", args);
    [encoder setBuffer:buffer offset:0 atIndex:1];
    [encoder setBytes:&args length:sizeof args atIndex:0];
    dispatch(4);
}
static void wrong_index(void) {
    encode(@"fill", (Args){WORDS, 0});
    [encoder setBuffer:buffer offset:0 atIndex:31];
}
static void wrong_offset(void) {
    encode(@"fill", (Args){WORDS, 0});
    [encoder setBuffer:buffer offset:BYTES atIndex:0];
}
static void wrong_odd_offset(void) {
    encode(@"fill", (Args){WORDS, 0});
    [encoder setBuffer:buffer offset:2 atIndex:0];
    dispatch(4);
}
static void wrong_short_args(void) {
    encode(@"fill", (Args){WORDS, 0});
    [encoder setBuffer:buffer offset:BYTES - 4 atIndex:1];
    dispatch(4);
}
static void wrong_other_device(void) {
    buffer = new_buffer(other_device, MTLResourceStorageModeShared);
    encode(@"fill", (Args){WORDS, 0});
    dispatch(4);
}
static void wrong_group(void) {
    encode(@"fill", (Args){WORDS, 0});
    [encoder dispatchThreadgroups:(MTLSize){4, 1, 1} threadsPerThreadgroup:(MTLSize){32, 1, 1}];
}
static void wrong_no_groups(void) {
    encode(@"fill", (Args){WORDS, 0});
    dispatch(0);
}
static void wrong_much(void) {
    encode(@"much", (Args){7, 0});
    dispatch(1);
}
static void wrong_no_pipeline(void) {
    encoder = [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
    dispatch(1);
}
static void wrong_part(void) {
    run(@"part", (Args){0, 1}, 1);
}
static void wrong_shuffle(void) {
    run(@"shuffle", (Args){17, 1}, 1);
}
static void wrong_far_shuffle(void) {
    run(@"shuffle", (Args){64, 32}, 1);
}
static void wrong_after_end(void) {
    encode(@"fill", (Args){WORDS, 0});
    [encoder endEncoding];
    dispatch(4);
}
static void wrong_open_encoder(void) {
    encode(@"fill", (Args){WORDS, 0});
    [commands commit];
}
static void wrong_lost_encoder(void) {
    encode(@"fill", (Args){WORDS, 0});
    [pool release];
}
static void wrong_two_encoders(void) {
    encode(@"fill", (Args){WORDS, 0});
    [commands blitCommandEncoder];
}
static void wrong_after_commit(void) {
    [commands commit];
    [commands blitCommandEncoder];
}
static void wrong_commit_twice(void) {
    [commands commit];
    [commands commit];
}
static void wrong_early_wait(void) {
    [commands waitUntilCompleted];
}
static void wrong_many_buffers(void) {
    for (int i = 0; i < 65; i++) [[queue commandBuffer] retain];
}
static void wrong_copy_odd(void) {
    copy(2, 512, 8);
}
static void wrong_copy_size(void) {
    copy(0, 512, 6);
}
static void wrong_copy_past(void) {
    copy(0, BYTES - 4, 8);
}
static void wrong_copy_onto(void) {
    copy(0, 8, 12);
}

// --- running them --------------------------------------------------------------------------------

typedef struct {
    void (*fn)(void);
    const char *says;  // NULL: it goes well
} Case;

static void in_a_process(void **state) {
    const Case *c = *state;
    int ends[2], status = 0;
    char text[2000] = "";
    size_t n = 0;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        signal(SIGABRT, SIG_DFL);
        set_up();
        c->fn();
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t got; (got = read(ends[0], text + n, sizeof text - 1 - n)) > 0;) n += (size_t)got;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (c->says) {
        if (!strstr(text, c->says)) fail_msg("it says '%s', not '%s'", text, c->says);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_msg("it ends with status %x: %s", (unsigned)status, text);
    }
}

#define RIGHT(name)                                \
    {                                              \
#name, in_a_process, NULL, NULL, &(Case) { \
            right_##name, NULL                     \
        }                                          \
    }
#define WRONG(name, text)                                   \
    {                                                       \
        "wrong " #name, in_a_process, NULL, NULL, &(Case) { \
            wrong_##name, text                              \
        }                                                   \
    }

int main(void) {
    const struct CMUnitTest tests[] = {
        RIGHT(fill),
        RIGHT(part),
        RIGHT(shuffle),
        RIGHT(barrier),
        RIGHT(race),
        RIGHT(much),
        RIGHT(copy),
        RIGHT(late),
        RIGHT(offset),
        WRONG(past, "memory is touched that no buffer has"),
        WRONG(before, "something was written before a buffer of 1024 bytes"),
        WRONG(freed_object, "-length is sent to an object that was freed"),
        WRONG(freed_twice, "an object is released that was freed"),
        WRONG(freed_memory, "memory is touched"),
        WRONG(early_read, "or that the GPU is using"),
        WRONG(private, "contents of a buffer in private memory"),
        WRONG(empty_buffer, "a buffer of no bytes"),
        WRONG(no_buffer, "kernel fill: buffer 0 is not set"),
        WRONG(no_args, "kernel fill: buffer 1 is not set"),
        WRONG(args_size, "4 bytes for index 1, which takes 8"),
        WRONG(much_args, "setBytes with 4097 bytes"),
        WRONG(order_of_args, "8 bytes for index 0, which takes 0"),
        WRONG(index, "index 31 is not in the argument table"),
        WRONG(offset, "offset 1024 of a buffer"),
        WRONG(odd_offset, "offset 2 of buffer 0, which takes multiples of 4"),
        WRONG(short_args, "buffer 1 ends before its arguments do"),
        WRONG(other_device, "a buffer of another device"),
        WRONG(group, "groups of 32, it is written for 64"),
        WRONG(no_groups, "no groups"),
        WRONG(much, "too much threadgroup memory"),
        WRONG(no_pipeline, "a launch without a pipeline"),
        WRONG(part, "items of a group part ways at a barrier"),
        WRONG(shuffle, "items of a SIMD group part ways at a shuffle"),
        WRONG(far_shuffle, "reaches outside the SIMD group"),
        WRONG(after_end, "a command after endEncoding"),
        WRONG(open_encoder, "commit while an encoder is open"),
        WRONG(lost_encoder, "freed"),
        WRONG(two_encoders, "two encoders are open"),
        WRONG(after_commit, "encoding after commit"),
        WRONG(commit_twice, "committed twice"),
        WRONG(early_wait, "for ever"),
        WRONG(many_buffers, "64 command buffers, none of them committed"),
        WRONG(copy_odd, "not whole words"),
        WRONG(copy_size, "not whole words"),
        WRONG(copy_past, "past the end of a buffer"),
        WRONG(copy_onto, "a copy onto itself"),
    };
    set_up();
    pipeline(@"fill");  // compiled once for all the processes
    return cmocka_run_group_tests(tests, NULL, NULL);
}
