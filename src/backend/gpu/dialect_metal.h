// Metal's words for what kernels.h says; see dialect_host.h, which explains them.
#include <metal_stdlib>
using namespace metal;
#pragma clang fp contract(off)
#if __METAL_VERSION__ >= 320
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
#endif
typedef char i8;
typedef uchar u8;
typedef ushort u16;
typedef int i32;
typedef uint u32;
typedef ulong u64;

#define FN static inline
#define GLOBAL device
#define LOCAL threadgroup
#define THREAD thread
#define TABLE constant const
#define KERNEL(name, lanes) [[max_total_threads_per_threadgroup(lanes)]] kernel void name
#define KERNEL_MANY(name, lanes, groups) KERNEL(name, lanes)
#define BUFFER(at, type, name) device type name [[buffer(at)]]
#define ARGS(at, type, name) constant type &name [[buffer(at)]]
#define IDS                                               \
    , uint3 group_id_ [[threadgroup_position_in_grid]],   \
        uint lane_id_ [[thread_index_in_threadgroup]]
#define LOCAL_ARRAY(type, name, n) alignas(16) threadgroup type name[n]
#define LANE ((int)lane_id_)
#define GROUP_X ((int)group_id_.x)
#define GROUP_Y ((int)group_id_.y)
#define GROUP_Z ((int)group_id_.z)
#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define BARRIER_GLOBAL() threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device)
#define UNROLL
#define UNROLL_4
#define GRID_GO() ((void)0)
#define GRID_WAIT() ((void)0)

#define FMA(a, b, c) fma(a, b, c)
#define SQRT(x) precise::sqrt(x)
#define RINT(x) rint(x)
#define FABS(x) fabs(x)
#define FMAX(a, b) fmax(a, b)
#define FMIN(a, b) fmin(a, b)
#define DIV(a, b) ((a) / (b))
#define AS_U32(x) as_type<uint>(x)
#define AS_F32(x) as_type<float>(x)
#define TO_F32(x) ((float)(x))

static inline int dot4(u32 a, u32 b, int c) {
    const char4 x = as_type<char4>(a), y = as_type<char4>(b);
    return c + x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
}

// A GPU whose SIMD groups are known to be 32 neighbouring items (device_metal.m asks).
#ifdef PLUMB_SIMD_32
#define NATIVE_SWAP
FN u32 swap_lanes(u32 x, int apart, int lane, threadgroup u32 *scratch) {
    (void)lane, (void)scratch;
    return simd_shuffle_xor(x, (ushort)apart);
}
#endif
