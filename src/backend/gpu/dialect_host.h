// The host's words for what kernels.h says: C11, run by an emulator of work groups (tests/gpu).
//
// Kernels are written once, in what CUDA C, OpenCL C 1.2 and Metal's language share. What differs
// has a word here, and the same word in dialect_cuda.h, dialect_opencl.h, dialect_metal.h:
//
//   KERNEL(name, lanes)(BUFFER(0, float *, y), ..., ARGS(1, NameArgs, a) IDS)
//                       a kernel for groups of `lanes` items; buffers first, then one struct of
//                       args.h; IDS last, after no comma
//   KERNEL_MANY(name, lanes, groups)   the same; so many groups are to share a unit
//   FN                  a function that kernels call
//   GLOBAL, LOCAL, THREAD   where a pointer points: device memory, the group's, the item's own
//   TABLE               a constant array outside functions
//   LOCAL_ARRAY(type, name, n)   the group's memory, at the top of a kernel; aligned to 16 bytes
//   LANE, GROUP_X/Y/Z   which item of the group, which group; in kernels alone, not in functions
//   BARRIER             all items of a group reach it, then see what they wrote to LOCAL memory.
//                       It may stand in a loop, not in an `if` nor past a return, though all items
//                       go the same way: PoCL (3.1) lets the first item choose for all at a later
//                       branch that ends where that one does
//   BARRIER_GLOBAL      the same for what they wrote to GLOBAL memory too
//   FMA, SQRT, ...      float32 functions; a * b + c is never contracted, FMA always fuses
//   dot4(a, b, c)       c + the products of the four signed bytes of a and b
//   GRID_GO, GRID_WAIT  where kernels may overlap: the next one may be started from here; the one
//                       before has ended. Every item waits before it reads what a kernel wrote, and
//                       before it writes
//   NATIVE_F16          the dialect has f16_to_f32 and f32_to_f16 of its own
//   NATIVE_SWAP         the dialect has swap_lanes (within 32 neighbours) of its own
//
// uint4 and float4 are vectors of 16 bytes with members x, y, z, w and no arithmetic.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int8_t i8;
typedef uint8_t u8;
typedef uint16_t u16;
typedef int32_t i32;
typedef uint32_t u32;
typedef uint64_t u64;
typedef struct {
    u32 x, y, z, w;
} __attribute__((aligned(16))) uint4;
typedef struct {
    float x, y, z, w;
} __attribute__((aligned(16))) float4;
typedef struct {
    float x, y;
} __attribute__((aligned(8))) float2;
typedef struct {
    u32 x, y;
} __attribute__((aligned(8))) uint2;

// The emulator's: which item runs, giving way to the others until all have come to this place,
// waiting for the kernel before (the first time), and an array of the group's memory (the items
// claim the same ones in the same order).
typedef struct {
    int lane, group[3];
} HostItem;
extern _Thread_local HostItem host_item;
void host_barrier(const char *file, int line);
void host_grid_wait(void);
void *host_local(size_t bytes);

#define FN static inline
#define GLOBAL
#define LOCAL
#define THREAD
#define TABLE static const
#define KERNEL(name, lanes) static void name
#define KERNEL_MANY(name, lanes, groups) static void name
#define BUFFER(at, type, name) type name
#define ARGS(at, type, name) const type name
#define IDS
#define LOCAL_ARRAY(type, name, n) type *const name = (type *)host_local(sizeof(type) * (n))
#define LANE host_item.lane
#define GROUP_X host_item.group[0]
#define GROUP_Y host_item.group[1]
#define GROUP_Z host_item.group[2]
#define BARRIER() host_barrier(__FILE__, __LINE__)
#define BARRIER_GLOBAL() host_barrier(__FILE__, __LINE__)
#define UNROLL
#define UNROLL_4
#define GRID_GO() ((void)0)
#define GRID_WAIT() host_grid_wait()

#define FMA(a, b, c) fmaf(a, b, c)
#define SQRT(x) sqrtf(x)
#define RINT(x) rintf(x)
#define FABS(x) fabsf(x)
#define FMAX(a, b) fmaxf(a, b)
#define FMIN(a, b) fminf(a, b)
#define DIV(a, b) ((a) / (b))
#define TO_F32(x) ((float)(x))

static inline u32 AS_U32(float x) {
    u32 u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float AS_F32(u32 u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline int dot4(u32 a, u32 b, int c) {
    for (int i = 0; i < 32; i += 8) c += (int)(i8)(a >> i) * (int)(i8)(b >> i);
    return c;
}
