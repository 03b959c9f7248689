// Tables of kernels that were compiled for the host, and how one is called with its arguments.
//
//   #define KERNELS(X) X(name, lanes, n_buffers, NameArgs) ...       as GPU_KERNELS in args.h
//   KERNELS(HOST_CALL)
//   const HostKernel table[] = {KERNELS(HOST_ROW)};
#ifndef PLUMB_TESTS_HOST_TABLE_H
#define PLUMB_TESTS_HOST_TABLE_H

#include <stddef.h>

typedef struct {
    const char *name;
    int lanes, n_buffers;
    size_t args_bytes;
    // Runs the kernel for the item that host_item names.
    void (*call)(void *const *buffers, const void *args);
} HostKernel;

#define HOST_BUFFERS_1 b[0]
#define HOST_BUFFERS_2 HOST_BUFFERS_1, b[1]
#define HOST_BUFFERS_3 HOST_BUFFERS_2, b[2]
#define HOST_BUFFERS_4 HOST_BUFFERS_3, b[3]
#define HOST_BUFFERS_5 HOST_BUFFERS_4, b[4]
#define HOST_BUFFERS_6 HOST_BUFFERS_5, b[5]
#define HOST_BUFFERS_7 HOST_BUFFERS_6, b[6]
#define HOST_BUFFERS_8 HOST_BUFFERS_7, b[7]
#define HOST_BUFFERS_9 HOST_BUFFERS_8, b[8]
#define HOST_BUFFERS_10 HOST_BUFFERS_9, b[9]
#define HOST_BUFFERS_11 HOST_BUFFERS_10, b[10]
#define HOST_BUFFERS_12 HOST_BUFFERS_11, b[11]
#define HOST_BUFFERS_13 HOST_BUFFERS_12, b[12]
#define HOST_BUFFERS_14 HOST_BUFFERS_13, b[13]
#define HOST_BUFFERS_15 HOST_BUFFERS_14, b[14]
#define HOST_BUFFERS_16 HOST_BUFFERS_15, b[15]

#define HOST_CALL(name, lanes, n_buffers, Args)                 \
    static void call_##name(void *const *b, const void *args) { \
        name(HOST_BUFFERS_##n_buffers, *(const Args *)args);    \
    }
#define HOST_ROW(name, lanes, n_buffers, Args) {#name, lanes, n_buffers, sizeof(Args), call_##name},

// The kernels of args.h (kernels_host.c).
extern const HostKernel gpu_host_kernels[];
extern const int n_gpu_host_kernels;

#endif
