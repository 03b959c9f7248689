// Libraries, functions and pipelines; see sim.h.
#import "sim_objects.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_MACROS = 16 };

@implementation SimLibraryObject
- (id)initOn:(SimDevice *)on library:(const SimLibrary *)library {
    self = [super init];
    device = on;
    lib = library;
    sim_counts.compiled++;
    return self;
}
- (id<MTLFunction>)newFunctionWithName:(NSString *)name {
    const SimKernel *k = sim_kernel(lib, name.UTF8String);
    return k ? [[SimFunction alloc] initIn:self kernel:k] : nil;
}
@end

@implementation SimFunction
- (id)initIn:(SimLibraryObject *)in kernel:(const SimKernel *)k {
    self = [super init];
    library = [in retain];
    kernel = k;
    return self;
}
- (void)dealloc {
    [library release];
    [super dealloc];
}
- (NSString *)name {
    return @(kernel->name);
}
@end

@implementation SimPipeline
- (id)initWith:(SimFunction *)f {
    self = [super init];
    function = [f retain];
    return self;
}
- (void)dealloc {
    [function release];
    [super dealloc];
}
- (NSUInteger)maxTotalThreadsPerThreadgroup {
    const unsigned own = function->kernel->lanes, most = sim_config.most_threads;
    return own && own < most ? own : most;
}
- (NSUInteger)threadExecutionWidth {
    return function->library->device->index == 0 ? sim_config.simd_width
                                                 : 2 * sim_config.simd_width;
}
- (NSUInteger)staticThreadgroupMemoryLength {
    return function->kernel->local_bytes;
}
@end

id sim_library_new(SimDevice *on, NSString *source, MTLCompileOptions *options, NSError **error) {
    const char *defines[MOST_MACROS];
    char *message = NULL;
    SimSource s = {.source = source.UTF8String,
                   .defines = defines,
                   .fast_math = !options || options.fastMathEnabled};
    for (NSString *name in options.preprocessorMacros) {
        id value = [options.preprocessorMacros objectForKey:name];
        if (![value isKindOfClass:[NSString class]] && ![value isKindOfClass:[NSNumber class]]) {
            sim_fail("macro %s is neither a string nor a number", name.UTF8String);
        }
        if (s.n_defines == MOST_MACROS) sim_fail("too many macros");
        NSString *define = [NSString stringWithFormat:@"%@=%@", name, value];
        defines[s.n_defines++] = define.UTF8String;
    }
    const SimLibrary *lib = sim_compile(&s, &message);
    if (lib) return [[SimLibraryObject alloc] initOn:on library:lib];
    NSDictionary *info = @{NSLocalizedDescriptionKey : @(message)};
    if (error) *error = [NSError errorWithDomain:@"MTLLibraryErrorDomain" code:3 userInfo:info];
    free(message);
    return nil;
}
