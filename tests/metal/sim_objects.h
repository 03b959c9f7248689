// The classes of the simulation, among themselves.
#ifndef PLUMB_TESTS_SIM_OBJECTS_H
#define PLUMB_TESTS_SIM_OBJECTS_H

#import <Metal/Metal.h>

#include "sim.h"
#include "sim_compile.h"

// Counted, and after its end a stone over which a message stumbles.
@interface SimObject : NSObject
@end

@interface SimDevice : NSObject <MTLDevice> {
   @public
    int index;
    uint64_t used;
}
@end

@interface SimBuffer : SimObject <MTLBuffer> {
   @public
    SimDevice *device;
    NSUInteger length;
    MTLStorageMode mode;
    uint8_t *data;  // its end meets a page that nobody may touch, up to 15 bytes
    uint8_t *map;
    size_t map_bytes;
    int n_pending;  // committed command buffers that use it
}
- (id)initOn:(SimDevice *)on length:(NSUInteger)bytes options:(MTLResourceOptions)options;
// Shared memory belongs to the GPU from commit to completion: the processor may not touch it.
- (void)beginUse;
- (void)endUse;
- (void)open;   // while a kernel runs
- (void)close;  // afterwards
- (void)check;  // the bytes around it
@end

@interface SimLibraryObject : SimObject <MTLLibrary> {
   @public
    SimDevice *device;
    const SimLibrary *lib;
}
- (id)initOn:(SimDevice *)on library:(const SimLibrary *)library;
@end

@interface SimFunction : SimObject <MTLFunction> {
   @public
    SimLibraryObject *library;
    const SimKernel *kernel;
}
- (id)initIn:(SimLibraryObject *)in kernel:(const SimKernel *)k;
@end

@interface SimPipeline : SimObject <MTLComputePipelineState> {
   @public
    SimFunction *function;
}
- (id)initWith:(SimFunction *)f;
@end

@interface SimQueue : SimObject <MTLCommandQueue> {
   @public
    SimDevice *device;
    NSMutableArray *committed;  // and not run yet
    int n_unfinished;           // command buffers that were made and have not run
}
- (id)initOn:(SimDevice *)on;
- (void)runOldest;
@end

id sim_library_new(SimDevice *on, NSString *source, MTLCompileOptions *options, NSError **error);

#endif
