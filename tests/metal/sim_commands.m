// Queues, command buffers and encoders; see sim.h. Commands are kept, and run when somebody waits.
#import "sim_objects.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOST_UNFINISHED = 64,  // command buffers of a queue
    MOST_BYTES = 4096,     // of setBytes
    OFFSET_ALIGN_OWN = 4,  // of constant data, on a GPU of unified memory
    OFFSET_ALIGN = 256,    // on others
    COPY_ALIGN = 4,
};

// --- commands ------------------------------------------------------------------------------------

// What an index of the argument table holds.
@interface SimArgument : NSObject {
   @public
    SimBuffer *buffer;  // or
    NSData *bytes;
    NSUInteger offset;
}
@end

@implementation SimArgument
- (void)dealloc {
    [buffer release];
    [bytes release];
    [super dealloc];
}
@end

@interface SimCommand : NSObject {
   @public
    SimPipeline *pipeline;  // of a launch
    SimArgument *arguments[SIM_MAX_ARGS];
    uint32_t groups[3];
    uint32_t lanes;
    SimBuffer *from, *to;  // of a copy
    NSUInteger from_at, to_at, size;
}
- (void)runOn:(SimDevice *)device;
@end

@implementation SimCommand
- (void)dealloc {
    for (int i = 0; i < SIM_MAX_ARGS; i++) [arguments[i] release];
    [pipeline release];
    [from release];
    [to release];
    [super dealloc];
}
- (void)runOn:(SimDevice *)device {
    (void)device;
    if (!pipeline) {
        memcpy(to->data + to_at, from->data + from_at, size);
        sim_counts.copies++;
        return;
    }
    const SimKernel *k = pipeline->function->kernel;
    uint64_t addresses[SIM_MAX_ARGS] = {0};
    for (int i = 0; i < k->n_args; i++) {
        const SimArgument *a = arguments[i];
        const uint8_t *at = a->buffer ? a->buffer->data + a->offset : a->bytes.bytes;
        addresses[i] = (uint64_t)(uintptr_t)at;
    }
    const uint32_t width = (uint32_t)pipeline.threadExecutionWidth;
    const char *wrong = sim_run(k, groups, lanes, width, addresses);
    if (wrong) sim_fail("kernel %s: %s", k->name, wrong);
    sim_counts.launches++;
}
@end

// --- command buffers -----------------------------------------------------------------------------

@interface SimCommandBuffer : SimObject <MTLCommandBuffer> {
   @public
    SimQueue *queue;
    NSMutableArray *commands;
    NSMutableSet *used;  // buffers
    BOOL is_encoding;
    MTLCommandBufferStatus status;
    NSError *error;
}
- (id)initIn:(SimQueue *)in;
- (void)run;
@end

@interface SimEncoder : SimObject <MTLComputeCommandEncoder, MTLBlitCommandEncoder> {
   @public
    SimCommandBuffer *commands;
    BOOL is_launching, has_ended;
    SimPipeline *pipeline;
    SimArgument *arguments[SIM_MAX_ARGS];
}
- (id)initIn:(SimCommandBuffer *)in launching:(BOOL)launching;
@end

@implementation SimCommandBuffer
@synthesize status, error;

- (id)initIn:(SimQueue *)in {
    self = [super init];
    queue = [in retain];
    commands = [[NSMutableArray alloc] init];
    used = [[NSMutableSet alloc] init];
    queue->n_unfinished++;
    return self;
}
- (void)dealloc {
    if (is_encoding) sim_fail("a command buffer is freed while an encoder is open");
    if (status == MTLCommandBufferStatusNotEnqueued) queue->n_unfinished--;
    [commands release];
    [used release];
    [error release];
    [queue release];
    [super dealloc];
}
- (SimEncoder *)encoder:(BOOL)launching {
    if (status != MTLCommandBufferStatusNotEnqueued) sim_fail("encoding after commit");
    if (is_encoding) sim_fail("two encoders are open in one command buffer");
    if (sim_config.no_commands) return nil;
    is_encoding = YES;
    return [[[SimEncoder alloc] initIn:self launching:launching] autorelease];
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)type {
    if (type != MTLDispatchTypeSerial) sim_fail("only serial dispatch is simulated");
    return [self encoder:YES];
}
- (id<MTLBlitCommandEncoder>)blitCommandEncoder {
    return [self encoder:NO];
}
- (void)commit {
    if (status != MTLCommandBufferStatusNotEnqueued)
        sim_fail("a command buffer is committed twice");
    if (is_encoding) sim_fail("commit while an encoder is open");
    status = MTLCommandBufferStatusCommitted;
    for (SimBuffer *b in used) [b beginUse];
    [queue->committed addObject:self];
    sim_counts.committed++;
}
- (void)waitUntilCompleted {
    if (status == MTLCommandBufferStatusNotEnqueued) {
        sim_fail("waiting for a command buffer that was not committed: for ever");
    }
    while (status == MTLCommandBufferStatusCommitted) [queue runOldest];
}
- (void)run {
    const bool fails = sim_config.fail_at > 0 && --sim_config.fail_at == 0;
    for (SimBuffer *b in used) [b open];
    for (SimCommand *c in commands) {
        if (!fails) [c runOn:queue->device];
    }
    for (SimBuffer *b in used) {
        [b close];
        [b endUse];
    }
    [commands removeAllObjects];
    [used removeAllObjects];
    status = fails ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
    if (!fails) return;
    NSDictionary *info = @{NSLocalizedDescriptionKey : @"the simulation was told to fail"};
    error = [[NSError errorWithDomain:@"MTLCommandBufferErrorDomain" code:2 userInfo:info] retain];
}
@end

@implementation SimQueue
- (id)initOn:(SimDevice *)on {
    self = [super init];
    device = on;
    committed = [[NSMutableArray alloc] init];
    return self;
}
- (void)dealloc {
    if (committed.count > 0) sim_fail("a queue is freed that has not run all");
    [committed release];
    [super dealloc];
}
- (void)runOldest {
    SimCommandBuffer *oldest = [[committed objectAtIndex:0] retain];
    [committed removeObjectAtIndex:0];
    n_unfinished--;
    [oldest run];
    [oldest release];
}
- (id<MTLCommandBuffer>)commandBuffer {
    if (sim_config.no_commands) return nil;
    if (n_unfinished == MOST_UNFINISHED) {
        if (committed.count == 0) sim_fail("64 command buffers, none of them committed");
        [self runOldest];
    }
    return [[[SimCommandBuffer alloc] initIn:self] autorelease];
}
@end

// --- encoders ------------------------------------------------------------------------------------

@implementation SimEncoder
- (id)initIn:(SimCommandBuffer *)in launching:(BOOL)launching {
    self = [super init];
    commands = [in retain];
    is_launching = launching;
    return self;
}
- (void)dealloc {
    if (!has_ended) sim_fail("an encoder is freed that was not ended");
    for (int i = 0; i < SIM_MAX_ARGS; i++) [arguments[i] release];
    [pipeline release];
    [commands release];
    [super dealloc];
}
- (void)expect:(BOOL)launching {
    if (has_ended) sim_fail("a command after endEncoding");
    if (launching != is_launching) sim_fail("a command of another kind of encoder");
}
- (void)endEncoding {
    [self expect:is_launching];
    has_ended = YES;
    commands->is_encoding = NO;
}
- (void)use:(SimBuffer *)b {
    if (b->device != commands->queue->device) sim_fail("a buffer of another device");
    [commands->used addObject:b];
}

- (void)setComputePipelineState:(id<MTLComputePipelineState>)state {
    [self expect:YES];
    SimPipeline *next = [(SimPipeline *)state retain];
    [pipeline release];
    pipeline = next;
}
- (void)setArgument:(SimArgument *)a at:(NSUInteger)at {
    [self expect:YES];
    if (at >= SIM_MAX_ARGS) sim_fail("index %lu is not in the argument table", at);
    [arguments[at] release];
    arguments[at] = a;
}
- (void)setBuffer:(id<MTLBuffer>)buffer offset:(NSUInteger)offset atIndex:(NSUInteger)at {
    SimArgument *a = [[SimArgument alloc] init];
    a->buffer = [(SimBuffer *)buffer retain];
    a->offset = offset;
    if (buffer && offset >= buffer.length) sim_fail("offset %lu of a buffer", offset);
    [self setArgument:a at:at];
}
- (void)setBytes:(const void *)bytes length:(NSUInteger)length atIndex:(NSUInteger)at {
    if (length == 0 || length > MOST_BYTES) sim_fail("setBytes with %lu bytes", length);
    SimArgument *a = [[SimArgument alloc] init];
    a->bytes = [[NSData alloc] initWithBytes:bytes length:length];
    [self setArgument:a at:at];
}
- (void)checkArgument:(int)i of:(const SimKernel *)k {
    const SimArgument *a = arguments[i];
    const NSUInteger wants = k->arg_bytes[i];
    if (!a || (!a->buffer && !a->bytes)) sim_fail("kernel %s: buffer %d is not set", k->name, i);
    if (a->bytes && a->bytes.length != wants) {
        sim_fail("kernel %s: %lu bytes for index %d, which takes %lu", k->name, a->bytes.length, i,
                 wants);
    }
    const NSUInteger align =
        wants == 0 || commands->queue->device->index == 0 ? OFFSET_ALIGN_OWN : OFFSET_ALIGN;
    if (a->offset % align != 0) {
        sim_fail("kernel %s: offset %lu of buffer %d, which takes multiples of %lu", k->name,
                 a->offset, i, align);
    }
    if (a->buffer && a->buffer->length - a->offset < wants) {
        sim_fail("kernel %s: buffer %d ends before its arguments do", k->name, i);
    }
    if (a->buffer) [self use:a->buffer];
}
- (void)dispatchThreadgroups:(MTLSize)groups threadsPerThreadgroup:(MTLSize)threads {
    [self expect:YES];
    if (!pipeline) sim_fail("a launch without a pipeline");
    const SimKernel *k = pipeline->function->kernel;
    const NSUInteger lanes = threads.width * threads.height * threads.depth;
    if (threads.height != 1 || threads.depth != 1) sim_fail("only groups in a row are simulated");
    if (lanes == 0 || lanes > pipeline.maxTotalThreadsPerThreadgroup ||
        (k->lanes && lanes != k->lanes)) {
        sim_fail("kernel %s: groups of %lu, it is written for %u", k->name, lanes, k->lanes);
    }
    if (pipeline.staticThreadgroupMemoryLength > sim_config.local_bytes) {
        sim_fail("kernel %s: too much threadgroup memory", k->name);
    }
    if (groups.width * groups.height * groups.depth == 0) sim_fail("kernel %s: no groups", k->name);
    SimCommand *c = [[[SimCommand alloc] init] autorelease];
    c->pipeline = [pipeline retain];
    for (int i = 0; i < k->n_args; i++) {
        [self checkArgument:i of:k];
        c->arguments[i] = [arguments[i] retain];
    }
    c->groups[0] = (uint32_t)groups.width;
    c->groups[1] = (uint32_t)groups.height;
    c->groups[2] = (uint32_t)groups.depth;
    c->lanes = (uint32_t)lanes;
    [commands->commands addObject:c];
}

- (void)copyFromBuffer:(id<MTLBuffer>)source
          sourceOffset:(NSUInteger)source_offset
              toBuffer:(id<MTLBuffer>)destination
     destinationOffset:(NSUInteger)destination_offset
                  size:(NSUInteger)size {
    [self expect:NO];
    SimCommand *c = [[[SimCommand alloc] init] autorelease];
    c->from = [(SimBuffer *)source retain];
    c->to = [(SimBuffer *)destination retain];
    c->from_at = source_offset, c->to_at = destination_offset, c->size = size;
    if (!c->from || !c->to || size == 0) sim_fail("a copy of nothing");
    if ((source_offset | destination_offset | size) % COPY_ALIGN != 0) {
        sim_fail("a copy of %lu bytes from %lu to %lu: not whole words", size, source_offset,
                 destination_offset);
    }
    if (source_offset > c->from->length || size > c->from->length - source_offset ||
        destination_offset > c->to->length || size > c->to->length - destination_offset) {
        sim_fail("a copy past the end of a buffer");
    }
    if (c->from == c->to && source_offset < destination_offset + size &&
        destination_offset < source_offset + size) {
        sim_fail("a copy onto itself");
    }
    [self use:c->from];
    [self use:c->to];
    [commands->commands addObject:c];
}
@end
