// The kernels of every GPU as C, and the table by which the emulator calls them.
#include "backend/gpu/dialect_host.h"

#define USE_0 1
#define USE_1 1
#define USE_2 1
#define USE_3 1
#define USE_6 1
#define USE_7 1
#define USE_8 1
#define USE_12 1
#define USE_13 1
#define USE_14 1
#define USE_30 1

#include "backend/gpu/args.h"
#include "backend/gpu/kernels.h"
#include "backend/gpu/kernels_weights.h"
#include "backend/gpu/kernels_matmul.h"
#include "backend/gpu/kernels_attention.h"

#include "host_table.h"

GPU_KERNELS(HOST_CALL)
const HostKernel gpu_host_kernels[] = {GPU_KERNELS(HOST_ROW)};
const int n_gpu_host_kernels = sizeof gpu_host_kernels / sizeof *gpu_host_kernels;
