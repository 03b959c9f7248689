// CUDA C's words for what kernels.h says; see dialect_host.h, which explains them.
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef unsigned long long u64;

#define FN static __device__ __forceinline__
#define GLOBAL
#define LOCAL
#define THREAD
#define TABLE static __device__ const
#define KERNEL(name, lanes) extern "C" __global__ void __launch_bounds__(lanes) name
#define KERNEL_MANY(name, lanes, groups) \
    extern "C" __global__ void __launch_bounds__(lanes, groups) name
#define BUFFER(at, type, name) type name
#define ARGS(at, type, name) const type name
#define IDS
#define LOCAL_ARRAY(type, name, n) __shared__ __align__(16) type name[n]
#define LANE ((int)threadIdx.x)
#define GROUP_X ((int)blockIdx.x)
#define GROUP_Y ((int)blockIdx.y)
#define GROUP_Z ((int)blockIdx.z)
#define BARRIER() __syncthreads()
#define BARRIER_GLOBAL() __syncthreads()
#define UNROLL _Pragma("unroll")
#define UNROLL_4 _Pragma("unroll 4")

#define FMA(a, b, c) __fmaf_rn(a, b, c)
#define SQRT(x) __fsqrt_rn(x)
#define RINT(x) rintf(x)
#define FABS(x) fabsf(x)
#define FMAX(a, b) fmaxf(a, b)
#define FMIN(a, b) fminf(a, b)
#define DIV(a, b) __fdiv_rn(a, b)
#define AS_U32(x) __float_as_uint(x)
#define AS_F32(x) __uint_as_float(x)
#define TO_F32(x) __int2float_rn(x)

FN int dot4(u32 a, u32 b, int c) { return __dp4a((int)a, (int)b, c); }

#define NATIVE_F16
FN float f16_to_f32(u16 h) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}
FN u16 f32_to_f16(float x) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

// Hopper and later start a kernel while the one before it still runs; what it wrote is there after
// the wait.
#if __CUDA_ARCH__ >= 900
#define GRID_GO() asm volatile("griddepcontrol.launch_dependents;" ::: "memory")
#define GRID_WAIT() asm volatile("griddepcontrol.wait;" ::: "memory")
#else
#define GRID_GO() ((void)0)
#define GRID_WAIT() ((void)0)
#endif

#define NATIVE_SWAP
FN u32 swap_lanes(u32 x, int apart, int lane, u32 *scratch) {
    (void)lane, (void)scratch;
    return __shfl_xor_sync(0xffffffffu, x, apart);
}
