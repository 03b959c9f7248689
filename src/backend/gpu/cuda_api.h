// The part of the CUDA driver's API and of NVRTC's that device_cuda.c calls, declared here so that
// nothing of CUDA is needed to build: types, numbers and names are those of the published API,
// version 11.8 and later. Included by that file alone.
#ifndef PLUMB_BACKEND_GPU_CUDA_API_H
#define PLUMB_BACKEND_GPU_CUDA_API_H

#include <stddef.h>
#include <stdint.h>

typedef int Result;
typedef uint64_t Ptr;
typedef struct {
    int id;
    int value[17];  // 4 bytes of padding, then a union of 64
} LaunchAttribute;
typedef struct {
    unsigned grid[3], block[3], shared_bytes;
    void *stream;
    const LaunchAttribute *attributes;
    unsigned n_attributes;
} LaunchConfig;
typedef void *Handle;  // contexts, streams, modules, functions, graphs

enum {
    ATTRIBUTE_UNITS = 16,
    ATTRIBUTE_MAJOR = 75,
    ATTRIBUTE_MINOR = 76,
    OUT_OF_MEMORY = 2,
    STREAM_NON_BLOCKING = 1,
    CAPTURE_THREAD_LOCAL = 1,
    LAUNCH_EARLY = 6,  // "programmatic stream serialization"
};

static struct {
    Result (*cuInit)(unsigned);
    Result (*cuGetErrorName)(Result, const char **);
    Result (*cuGetErrorString)(Result, const char **);
    Result (*cuDeviceGetCount)(int *);
    Result (*cuDeviceGet)(int *, int);
    Result (*cuDeviceGetName)(char *, int, int);
    Result (*cuDeviceTotalMem_v2)(size_t *, int);
    Result (*cuDeviceGetAttribute)(int *, int, int);
    Result (*cuDevicePrimaryCtxRetain)(Handle *, int);
    Result (*cuDevicePrimaryCtxRelease_v2)(int);
    Result (*cuCtxSetCurrent)(Handle);
    Result (*cuMemGetInfo_v2)(size_t *, size_t *);
    Result (*cuMemAlloc_v2)(Ptr *, size_t);
    Result (*cuMemFree_v2)(Ptr);
    Result (*cuMemHostAlloc)(void **, size_t, unsigned);
    Result (*cuMemFreeHost)(void *);
    Result (*cuMemcpyHtoDAsync_v2)(Ptr, const void *, size_t, Handle);
    Result (*cuMemcpyDtoHAsync_v2)(void *, Ptr, size_t, Handle);
    Result (*cuMemcpyDtoDAsync_v2)(Ptr, Ptr, size_t, Handle);
    Result (*cuStreamCreate)(Handle *, unsigned);
    Result (*cuStreamDestroy_v2)(Handle);
    Result (*cuStreamSynchronize)(Handle);
    Result (*cuModuleLoadData)(Handle *, const void *);
    Result (*cuModuleUnload)(Handle);
    Result (*cuModuleGetFunction)(Handle *, Handle, const char *);
    Result (*cuLaunchKernelEx)(const LaunchConfig *, Handle, void **, void **);
    Result (*cuStreamBeginCapture_v2)(Handle, int);
    Result (*cuStreamEndCapture)(Handle, Handle *);
    Result (*cuGraphInstantiateWithFlags)(Handle *, Handle, unsigned long long);
    Result (*cuGraphLaunch)(Handle, Handle);
    Result (*cuGraphDestroy)(Handle);
    Result (*cuGraphExecDestroy)(Handle);
} cu;

static struct {
    Result (*nvrtcCreateProgram)(Handle *, const char *, const char *, int, const char *const *,
                                 const char *const *);
    Result (*nvrtcCompileProgram)(Handle, int, const char *const *);
    Result (*nvrtcGetProgramLogSize)(Handle, size_t *);
    Result (*nvrtcGetProgramLog)(Handle, char *);
    Result (*nvrtcGetCUBINSize)(Handle, size_t *);
    Result (*nvrtcGetCUBIN)(Handle, char *);
    Result (*nvrtcDestroyProgram)(Handle *);
    const char *(*nvrtcGetErrorString)(Result);
} rtc;

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define CU(name) \
    { #name, (void *)&cu.name }
#define RTC(name) \
    { #name, (void *)&rtc.name }
typedef struct {
    const char *name;
    void *slot;  // a pointer to a function pointer
} Symbol;

static const Symbol driver_symbols[] = {CU(cuInit),
                                        CU(cuGetErrorName),
                                        CU(cuGetErrorString),
                                        CU(cuDeviceGetCount),
                                        CU(cuDeviceGet),
                                        CU(cuDeviceGetName),
                                        CU(cuDeviceTotalMem_v2),
                                        CU(cuDeviceGetAttribute),
                                        CU(cuDevicePrimaryCtxRetain),
                                        CU(cuDevicePrimaryCtxRelease_v2),
                                        CU(cuCtxSetCurrent),
                                        CU(cuMemGetInfo_v2),
                                        CU(cuMemAlloc_v2),
                                        CU(cuMemFree_v2),
                                        CU(cuMemHostAlloc),
                                        CU(cuMemFreeHost),
                                        CU(cuMemcpyHtoDAsync_v2),
                                        CU(cuMemcpyDtoHAsync_v2),
                                        CU(cuMemcpyDtoDAsync_v2),
                                        CU(cuStreamCreate),
                                        CU(cuStreamDestroy_v2),
                                        CU(cuStreamSynchronize),
                                        CU(cuModuleLoadData),
                                        CU(cuModuleUnload),
                                        CU(cuModuleGetFunction),
                                        CU(cuLaunchKernelEx),
                                        CU(cuStreamBeginCapture_v2),
                                        CU(cuStreamEndCapture),
                                        CU(cuGraphInstantiateWithFlags),
                                        CU(cuGraphLaunch),
                                        CU(cuGraphDestroy),
                                        CU(cuGraphExecDestroy)};

static const Symbol compiler_symbols[] = {RTC(nvrtcCreateProgram),     RTC(nvrtcCompileProgram),
                                          RTC(nvrtcGetProgramLogSize), RTC(nvrtcGetProgramLog),
                                          RTC(nvrtcGetCUBINSize),      RTC(nvrtcGetCUBIN),
                                          RTC(nvrtcDestroyProgram),    RTC(nvrtcGetErrorString)};

#endif
