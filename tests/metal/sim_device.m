// The devices and their memory; see sim.h.
#define _GNU_SOURCE
#import "sim_objects.h"

#import <objc/runtime.h>

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, FILLER = 0xff, FENCE = 0xc5 };

SimConfig sim_config = {.n_devices = 2,
                        .memory = (uint64_t)8 << 30,
                        .max_buffer = (uint64_t)4 << 30,
                        .most_threads = 1024,
                        .simd_width = 32,
                        .local_bytes = 32768};
SimCounts sim_counts;

void sim_fail(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "simulated Metal: ");
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    abort();
}

// --- objects -------------------------------------------------------------------------------------

@interface SimStone : NSObject
@end

@implementation SimStone
- (id)retain {
    sim_fail("an object is retained that was freed");
}
- (oneway void)release {
    sim_fail("an object is released that was freed");
}
- (id)autorelease {
    sim_fail("an object is autoreleased that was freed");
}
- (NSMethodSignature *)methodSignatureForSelector:(SEL)selector {
    sim_fail("-%s is sent to an object that was freed", sel_getName(selector));
}
- (void)doesNotRecognizeSelector:(SEL)selector {
    sim_fail("-%s is sent to an object that was freed", sel_getName(selector));
}
- (void)forwardInvocation:(NSInvocation *)invocation {
    sim_fail("-%s is sent to an object that was freed", sel_getName([invocation selector]));
}
@end

@implementation SimObject
- (id)init {
    self = [super init];
    sim_counts.objects++;
    return self;
}
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wobjc-missing-super-calls"
- (void)dealloc {
    sim_counts.objects--;
    object_setClass(self, [SimStone class]);  // its memory stays, or a message would find another
}
#pragma clang diagnostic pop
@end

// --- memory --------------------------------------------------------------------------------------

static void stumbled(int signal) {
    static const char text[] = "simulated Metal: memory is touched that no buffer has (any more), "
                               "or that the GPU is using\n";
    (void)signal;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(134);
    abort();
}

@implementation SimBuffer
@synthesize length, storageMode = mode;

- (id)initOn:(SimDevice *)on length:(NSUInteger)bytes options:(MTLResourceOptions)options {
    self = [super init];
    signal(SIGSEGV, stumbled);  // each time: a test's runner sets its own
    device = on;
    length = bytes;
    mode = options >> 4;
    const size_t room = (bytes + PAGE - 1) / PAGE * PAGE;
    map_bytes = room + 2 * PAGE;
    map = mmap(NULL, map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || mprotect(map + PAGE, room, PROT_READ | PROT_WRITE) != 0) {
        sim_fail("out of memory");
    }
    data = map + PAGE + room - (bytes + 15) / 16 * 16;
    memset(map + PAGE, FENCE, room);
    memset(data, FILLER, bytes);
    if (mode == MTLStorageModePrivate) [self protect:PROT_NONE];
    device->used += bytes;
    sim_counts.bytes += bytes;
    if (sim_counts.bytes > sim_counts.most_bytes) sim_counts.most_bytes = sim_counts.bytes;
    return self;
}

- (void)check {
    const uint8_t *end = map + map_bytes - PAGE;
    for (const uint8_t *p = map + PAGE; p < data; p++) {
        if (*p != FENCE) sim_fail("something was written before a buffer of %lu bytes", length);
    }
    for (const uint8_t *p = data + length; p < end; p++) {
        if (*p != FENCE) sim_fail("something was written past a buffer of %lu bytes", length);
    }
}

- (void)dealloc {
    if (n_pending > 0) sim_fail("a buffer is freed that a command buffer uses");
    [self open];
    [self check];
    // The addresses stay taken, so that who still has one stumbles.
    if (mmap(map, map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED) {
        sim_fail("out of memory");
    }
    device->used -= length;
    sim_counts.bytes -= length;
    [super dealloc];
}

- (void *)contents {
    if (mode == MTLStorageModePrivate) sim_fail("contents of a buffer in private memory");
    return data;
}

- (void)protect:(int)protection {
    if (mprotect(map + PAGE, map_bytes - 2 * PAGE, protection) != 0) sim_fail("mprotect fails");
}
- (void)beginUse {
    if (n_pending++ == 0) [self protect:PROT_NONE];
}
- (void)endUse {
    if (--n_pending == 0 && mode != MTLStorageModePrivate) [self open];
}
- (void)open {
    [self protect:PROT_READ | PROT_WRITE];
}
- (void)close {
    [self check];
    [self protect:PROT_NONE];
}
@end

// --- devices -------------------------------------------------------------------------------------

@implementation MTLCompileOptions
@synthesize preprocessorMacros, fastMathEnabled;
- (id)init {
    self = [super init];
    fastMathEnabled = YES;
    sim_counts.objects++;
    return self;
}
- (id)copyWithZone:(NSZone *)zone {
    MTLCompileOptions *other = [[MTLCompileOptions allocWithZone:zone] init];
    other.preprocessorMacros = preprocessorMacros;
    other.fastMathEnabled = fastMathEnabled;
    return other;
}
- (void)dealloc {
    sim_counts.objects--;
    [preprocessorMacros release];
    [super dealloc];
}
@end

@implementation SimDevice
- (NSString *)name {
    return index == 0 ? @"Simulated GPU with unified memory" : @"Simulated GPU with its own memory";
}
- (BOOL)hasUnifiedMemory {
    return index == 0;
}
- (uint64_t)recommendedMaxWorkingSetSize {
    return sim_config.memory;
}
- (NSUInteger)currentAllocatedSize {
    return used;
}
- (NSUInteger)maxBufferLength {
    return sim_config.max_buffer;
}
- (NSUInteger)maxThreadgroupMemoryLength {
    return sim_config.local_bytes;
}
- (BOOL)supportsFamily:(MTLGPUFamily)family {
    return family == (index == 0 ? MTLGPUFamilyApple7 : MTLGPUFamilyMac2);
}
- (id<MTLCommandQueue>)newCommandQueue {
    return sim_config.no_queue ? nil : [[SimQueue alloc] initOn:self];
}
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
    if (length == 0) sim_fail("a buffer of no bytes");
    if (length > sim_config.max_buffer) sim_fail("a buffer of %lu bytes is too long", length);
    if (sim_config.no_room) return nil;
    return [[SimBuffer alloc] initOn:self length:length options:options];
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString *)source
                               options:(MTLCompileOptions *)options
                                 error:(NSError **)error {
    return sim_library_new(self, source, options, error);
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)function
                                                             error:(NSError **)error {
    SimFunction *f = (SimFunction *)function;
    if (f->library->device != self) sim_fail("a function of another device");
    (void)error;
    return [[SimPipeline alloc] initWith:f];
}
@end

static SimDevice *all_devices[2];

NSArray *MTLCopyAllDevices(void) {
    const char *kind = getenv("PLUMB_METAL_SIM");
    NSMutableArray *list = [[NSMutableArray alloc] init];
    for (int i = 0; i < sim_config.n_devices; i++) {
        if (!all_devices[i]) all_devices[i] = [[SimDevice alloc] init];
        all_devices[i]->index = i;
        if (kind && strcmp(kind, i == 0 ? "unified" : "discrete") != 0) continue;
        [list addObject:all_devices[i]];
    }
    return list;
}

long sim_device_references(void) {
    long n = 0;
    for (int i = 0; i < 2; i++) n += all_devices[i] ? (long)[all_devices[i] retainCount] - 1 : 0;
    return n;
}

long sim_foundation_objects(void) {
    static BOOL counts;
    static Class classes[2];
    @autoreleasepool {
        if (!counts) {
            classes[0] = [[NSMutableArray array] class];
            classes[1] = [[NSMutableData data] class];
            GSDebugAllocationActive(YES);
            counts = YES;
        }
        return GSDebugAllocationCount(classes[0]) + GSDebugAllocationCount(classes[1]);
    }
}
