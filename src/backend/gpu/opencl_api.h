// The part of OpenCL 1.2's API that device_opencl.c calls, declared here so that no headers of
// OpenCL are needed to build: types, numbers and names are those of the Khronos specification. And
// finding it at run time. Included by that file alone.
#ifndef PLUMB_BACKEND_GPU_OPENCL_API_H
#define PLUMB_BACKEND_GPU_OPENCL_API_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/status.h"

typedef int32_t Result;
typedef void *Handle;  // platforms, devices, contexts, queues, memory objects, programs, kernels

enum {
    PLATFORM_NAME = 0x0902,
    TYPE_CPU = 1 << 1,
    TYPE_GPU = 1 << 2,
    TYPE_ACCELERATOR = 1 << 3,
    DEVICE_UNITS = 0x1002,
    DEVICE_GROUP_SIZE = 0x1004,
    DEVICE_BUFFER_BYTES = 0x1010,
    DEVICE_FLOAT_CONFIG = 0x101B,
    DEVICE_BYTES = 0x101F,
    DEVICE_LOCAL_BYTES = 0x1023,
    DEVICE_LITTLE_ENDIAN = 0x1026,
    DEVICE_COMPILER = 0x1028,
    DEVICE_NAME = 0x102B,
    DEVICE_VERSION = 0x102F,
    DEVICE_NV_MAJOR = 0x4000,  // of cl_nv_device_attribute_query
    DEVICE_NV_MINOR = 0x4001,
    FLOAT_EXACT_DIVIDE_SQRT = 1 << 7,
    CONTEXT_PLATFORM = 0x1084,
    BUILD_LOG = 0x1183,
    KERNEL_ARGS = 0x1191,
    KERNEL_GROUP_SIZE = 0x11B0,
    BUFFER_READ_WRITE = 1 << 0,
};

enum {
    ALLOCATION_FAILURE = -4,
    INVALID_KERNEL_NAME = -46,
};

static struct {
    Result (*clGetPlatformIDs)(uint32_t, Handle *, uint32_t *);
    Result (*clGetPlatformInfo)(Handle, uint32_t, size_t, void *, size_t *);
    Result (*clGetDeviceIDs)(Handle, uint64_t, uint32_t, Handle *, uint32_t *);
    Result (*clGetDeviceInfo)(Handle, uint32_t, size_t, void *, size_t *);
    Handle (*clCreateContext)(const intptr_t *, uint32_t, const Handle *,
                              void (*)(const char *, const void *, size_t, void *), void *,
                              Result *);
    Result (*clReleaseContext)(Handle);
    Handle (*clCreateCommandQueue)(Handle, Handle, uint64_t, Result *);
    Result (*clReleaseCommandQueue)(Handle);
    Handle (*clCreateBuffer)(Handle, uint64_t, size_t, void *, Result *);
    Result (*clReleaseMemObject)(Handle);
    Handle (*clCreateProgramWithSource)(Handle, uint32_t, const char **, const size_t *, Result *);
    Result (*clBuildProgram)(Handle, uint32_t, const Handle *, const char *,
                             void (*)(Handle, void *), void *);
    Result (*clGetProgramBuildInfo)(Handle, Handle, uint32_t, size_t, void *, size_t *);
    Result (*clReleaseProgram)(Handle);
    Handle (*clCreateKernel)(Handle, const char *, Result *);
    Result (*clGetKernelInfo)(Handle, uint32_t, size_t, void *, size_t *);
    Result (*clGetKernelWorkGroupInfo)(Handle, Handle, uint32_t, size_t, void *, size_t *);
    Result (*clSetKernelArg)(Handle, uint32_t, size_t, const void *);
    Result (*clReleaseKernel)(Handle);
    Result (*clEnqueueWriteBuffer)(Handle, Handle, uint32_t, size_t, size_t, const void *, uint32_t,
                                   const Handle *, Handle *);
    Result (*clEnqueueReadBuffer)(Handle, Handle, uint32_t, size_t, size_t, void *, uint32_t,
                                  const Handle *, Handle *);
    Result (*clEnqueueCopyBuffer)(Handle, Handle, Handle, size_t, size_t, size_t, uint32_t,
                                  const Handle *, Handle *);
    Result (*clEnqueueNDRangeKernel)(Handle, Handle, uint32_t, const size_t *, const size_t *,
                                     const size_t *, uint32_t, const Handle *, Handle *);
    Result (*clFlush)(Handle);
    Result (*clFinish)(Handle);
} cl;

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define CL(place, name) \
    { #name, (void *)&cl.name, place }
static const struct {
    const char *name;
    void *slot;  // a pointer to a function pointer
    int place;   // in the table of functions that a driver's objects begin with (cl_khr_icd)
} symbols[] = {CL(0, clGetPlatformIDs),
               CL(1, clGetPlatformInfo),
               CL(2, clGetDeviceIDs),
               CL(3, clGetDeviceInfo),
               CL(4, clCreateContext),
               CL(7, clReleaseContext),
               CL(9, clCreateCommandQueue),
               CL(11, clReleaseCommandQueue),
               CL(14, clCreateBuffer),
               CL(18, clReleaseMemObject),
               CL(26, clCreateProgramWithSource),
               CL(30, clBuildProgram),
               CL(33, clGetProgramBuildInfo),
               CL(29, clReleaseProgram),
               CL(34, clCreateKernel),
               CL(39, clGetKernelInfo),
               CL(40, clGetKernelWorkGroupInfo),
               CL(38, clSetKernelArg),
               CL(37, clReleaseKernel),
               CL(49, clEnqueueWriteBuffer),
               CL(48, clEnqueueReadBuffer),
               CL(50, clEnqueueCopyBuffer),
               CL(59, clEnqueueNDRangeKernel),
               CL(46, clFlush),
               CL(47, clFinish)};

// What a device may answer to the calls above; index -r, the numbers between are not used.
static const char *const result_names[] = {
    [1] = "CL_DEVICE_NOT_FOUND",
    [2] = "CL_DEVICE_NOT_AVAILABLE",
    [3] = "CL_COMPILER_NOT_AVAILABLE",
    [4] = "CL_MEM_OBJECT_ALLOCATION_FAILURE",
    [5] = "CL_OUT_OF_RESOURCES",
    [6] = "CL_OUT_OF_HOST_MEMORY",
    [8] = "CL_MEM_COPY_OVERLAP",
    [11] = "CL_BUILD_PROGRAM_FAILURE",
    [14] = "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST",
    [30] = "CL_INVALID_VALUE",
    [31] = "CL_INVALID_DEVICE_TYPE",
    [32] = "CL_INVALID_PLATFORM",
    [33] = "CL_INVALID_DEVICE",
    [34] = "CL_INVALID_CONTEXT",
    [36] = "CL_INVALID_COMMAND_QUEUE",
    [37] = "CL_INVALID_HOST_PTR",
    [38] = "CL_INVALID_MEM_OBJECT",
    [43] = "CL_INVALID_BUILD_OPTIONS",
    [44] = "CL_INVALID_PROGRAM",
    [45] = "CL_INVALID_PROGRAM_EXECUTABLE",
    [46] = "CL_INVALID_KERNEL_NAME",
    [47] = "CL_INVALID_KERNEL_DEFINITION",
    [48] = "CL_INVALID_KERNEL",
    [49] = "CL_INVALID_ARG_INDEX",
    [50] = "CL_INVALID_ARG_VALUE",
    [51] = "CL_INVALID_ARG_SIZE",
    [52] = "CL_INVALID_KERNEL_ARGS",
    [53] = "CL_INVALID_WORK_DIMENSION",
    [54] = "CL_INVALID_WORK_GROUP_SIZE",
    [55] = "CL_INVALID_WORK_ITEM_SIZE",
    [59] = "CL_INVALID_OPERATION",
    [61] = "CL_INVALID_BUFFER_SIZE",
    [63] = "CL_INVALID_GLOBAL_WORK_SIZE",
};

static inline const char *result_name(Result r) {
    const size_t i = (size_t)(-(int64_t)r);
    return r < 0 && i < COUNT(result_names) && result_names[i] ? result_names[i] : "error";
}

// What a loader does, with one driver: its objects begin with the address of a table of functions.
static inline bool opencl_without_loader(void *driver) {
    void *(*address)(const char *);
    Result (*platforms)(uint32_t, Handle *, uint32_t *);
    void *found = driver ? dlsym(driver, "clGetExtensionFunctionAddress") : NULL, **functions;
    Handle first = NULL;
    if (!found) return false;
    memcpy(&address, &found, sizeof found);
    found = address("clIcdGetPlatformIDsKHR");
    memcpy(&platforms, &found, sizeof found);
    if (!found || platforms(1, &first, NULL) || !first) return false;
    memcpy(&functions, first, sizeof functions);
    for (size_t i = 0; i < COUNT(symbols); i++) {
        memcpy(symbols[i].slot, &functions[symbols[i].place], sizeof(void *));
    }
    cl.clGetPlatformIDs = platforms;
    return true;
}

// Fills cl, or says in *err why it cannot. Some machines with NVIDIA's driver have no loader.
static inline Status opencl_load(Error *err) {
    void *lib = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!lib) lib = dlopen("libOpenCL.so", RTLD_NOW | RTLD_LOCAL);
    if (!lib && opencl_without_loader(dlopen("libnvidia-opencl.so.1", RTLD_NOW | RTLD_LOCAL))) {
        return OK;
    }
    if (!lib) {
        return error_set(
            err, ERR_UNAVAILABLE,
            "no OpenCL here: libOpenCL.so.1 is not found (Debian: ocl-icd-libopencl1)");
    }
    for (size_t i = 0; i < COUNT(symbols); i++) {
        void *found = dlsym(lib, symbols[i].name);
        memcpy(symbols[i].slot, &found, sizeof found);
        if (found) continue;
        return error_set(err, ERR_UNAVAILABLE, "OpenCL's loader has no %s: it is older than 1.2",
                         symbols[i].name);
    }
    return OK;
}

#endif
