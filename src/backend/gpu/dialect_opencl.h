// OpenCL C 1.2's words for what kernels.h says; see dialect_host.h, which explains them.
#pragma OPENCL FP_CONTRACT OFF
typedef char i8;
typedef uchar u8;
typedef ushort u16;
typedef int i32;
typedef uint u32;
typedef ulong u64;

// Inlined whatever the size: of a LOCAL array that all calls of a function pass, clang writes the
// address into the function, and PoCL (3.1) then moves the array for the kernel alone.
#define FN static inline __attribute__((always_inline))
#define GLOBAL __global
#define LOCAL __local
#define THREAD
#define TABLE __constant const
#define KERNEL(name, lanes) __kernel __attribute__((reqd_work_group_size(lanes, 1, 1))) void name
#define KERNEL_MANY(name, lanes, groups) KERNEL(name, lanes)
#define BUFFER(at, type, name) __global type name
#define ARGS(at, type, name) const type name
#define IDS
#define LOCAL_ARRAY(type, name, n) __local type name[n] __attribute__((aligned(16)))
#define LANE ((int)get_local_id(0))
#define GROUP_X ((int)get_group_id(0))
#define GROUP_Y ((int)get_group_id(1))
#define GROUP_Z ((int)get_group_id(2))
#define BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
#define BARRIER_GLOBAL() barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)
#define UNROLL
#define UNROLL_4
#define GRID_GO() ((void)0)
#define GRID_WAIT() ((void)0)

#define FMA(a, b, c) fma(a, b, c)
#define SQRT(x) sqrt(x)
#define RINT(x) rint(x)
#define FABS(x) fabs(x)
#define FMAX(a, b) fmax(a, b)
#define FMIN(a, b) fmin(a, b)
#define DIV(a, b) ((a) / (b))
#define AS_U32(x) as_uint(x)
#define AS_F32(x) as_float(x)
#define TO_F32(x) convert_float(x)

// device_opencl.c defines PLUMB_NV: the compute capability of an NVIDIA GPU (61: 6.1), 0 elsewhere.
#if PLUMB_NV >= 61
FN int dot4(u32 a, u32 b, int c) {
    int d;
    __asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
#elif defined(__opencl_c_integer_dot_product_input_4x8bit_packed)
FN int dot4(u32 a, u32 b, int c) { return c + dot_4x8packed_ss_int(a, b); }
#else
FN int dot4(u32 a, u32 b, int c) {
    const char4 x = as_char4(a), y = as_char4(b);
    return c + x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
}
#endif

// Not vload_half and vstore_half: a value would have to go through memory as another type.
#if PLUMB_NV >= 61
#define NATIVE_F16
FN float f16_to_f32(u16 h) {
    float x;
    __asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}
FN u16 f32_to_f16(float x) {
    u16 h;
    __asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}
#endif

#if PLUMB_NV >= 70
#define NATIVE_SWAP
FN u32 swap_lanes(u32 x, int apart, int lane, LOCAL u32 *scratch) {
    u32 other;
    (void)lane, (void)scratch;
    __asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;"
                   : "=r"(other)
                   : "r"(x), "r"(apart));
    return other;
}
#endif
