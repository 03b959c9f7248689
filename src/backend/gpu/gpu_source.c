// The text of the kernels, linked into the program, and how a device's source is put together.
#include <stdio.h>
#include <stdlib.h>

#include "backend/gpu/gpu_internal.h"
#include "base/embed.h"

#define TEXT_OF(file) EMBED_BYTES("src/backend/gpu/" file)

__asm__(EMBED_BEGIN                                                       //
            EMBED_SYMBOL(gpu_dialect_cuda) TEXT_OF("dialect_cuda.h")      //
        EMBED_SYMBOL(gpu_dialect_cuda_end) EMBED_NUL                      //
            EMBED_SYMBOL(gpu_dialect_opencl) TEXT_OF("dialect_opencl.h")  //
        EMBED_SYMBOL(gpu_dialect_opencl_end) EMBED_NUL                    //
            EMBED_SYMBOL(gpu_dialect_metal) TEXT_OF("dialect_metal.h")    //
        EMBED_SYMBOL(gpu_dialect_metal_end) EMBED_NUL                     //
            EMBED_SYMBOL(gpu_kernels_text) TEXT_OF("args.h")              //
        TEXT_OF("kernels.h") TEXT_OF("kernels_weights.h")                 //
        TEXT_OF("kernels_matmul.h") TEXT_OF("kernels_attention.h")        //
        EMBED_SYMBOL(gpu_kernels_text_end) EMBED_NUL                      //
            EMBED_END);

extern const char gpu_kernels_text[], gpu_kernels_text_end[];

char *gpu_source(const DeviceOps *ops, u64 types) {
    const size_t dialect = (size_t)(ops->dialect_end - ops->dialect);
    const size_t kernels = (size_t)(gpu_kernels_text_end - gpu_kernels_text);
    enum { LINE = 24 };
    char *source = malloc(dialect + kernels + TYPE_LIMIT * LINE + 1), *at = source;
    if (!source) return NULL;
    for (int type = 0; type < TYPE_LIMIT; type++) {
        if (types >> type & 1) at += snprintf(at, LINE, "#define USE_%d 1\n", type);
    }
    memcpy(at, ops->dialect, dialect);
    memcpy(at + dialect, gpu_kernels_text, kernels);
    at[dialect + kernels] = '\0';
    return source;
}
