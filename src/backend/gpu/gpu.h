// The GPU backends: backend.h over one driver (gpu.c), one kernel source, and a thin device each.
#ifndef PLUMB_BACKEND_GPU_GPU_H
#define PLUMB_BACKEND_GPU_GPU_H

#include "backend/backend.h"

extern const BackendOps cuda_backend, opencl_backend;
#ifdef PLUMB_METAL
extern const BackendOps metal_backend;
#endif

#endif
