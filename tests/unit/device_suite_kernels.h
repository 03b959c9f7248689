// The kernels of device_suite.h, in the words that dialect_host.h explains: read as text and given
// to a device after its dialect, or included after dialect_host.h and run by the emulator of work
// groups. A kernel waits for the one before it (GRID_WAIT) before it touches memory.

typedef struct {
    u64 wide;
    i32 n;
    float scale;
} SuiteArgs;

typedef struct {
    i32 n_x, n_y;
} SizeArgs;

#define SUITE_KERNELS(X)               \
    X(name_items, 48, 1, SizeArgs)     \
    X(tell_args, 1, 1, SuiteArgs)      \
    X(tell_types, 1, 1, SizeArgs)      \
    X(add_many, 32, 16, SuiteArgs)     \
    X(step_on, 64, 1, SuiteArgs)       \
    X(reverse_group, 256, 2, SizeArgs) \
    X(sum_group, 128, 2, SizeArgs)     \
    X(pass_on, 64, 1, SizeArgs)        \
    X(most_local, 64, 2, SizeArgs)     \
    X(float_words, 64, 2, SizeArgs)    \
    X(dot_words, 64, 2, SizeArgs)      \
    X(half_words, 64, 3, SizeArgs)     \
    X(swap_words, 64, 2, SizeArgs)     \
    X(vectors, 64, 3, SizeArgs)

#ifndef SUITE_ARGS_ONLY

// Each item writes which one it is: a number for each item of n_x x n_y x any groups.
KERNEL(name_items, 48)(BUFFER(0, u32 *, y), ARGS(1, SizeArgs, a) IDS) {
    GRID_WAIT();
    const int group = (GROUP_Z * a.n_y + GROUP_Y) * a.n_x + GROUP_X;
    y[group * 48 + LANE] = (u32)GROUP_Z << 26 | (u32)GROUP_Y << 18 | (u32)GROUP_X << 6 | (u32)LANE;
}

KERNEL(tell_args, 1)(BUFFER(0, u32 *, y), ARGS(1, SuiteArgs, a) IDS) {
    GRID_WAIT();
    y[0] = (u32)a.wide;
    y[1] = (u32)(a.wide >> 32);
    y[2] = (u32)a.n;
    y[3] = AS_U32(a.scale);
}

TABLE u16 squares[] = {0, 1, 4, 9, 16, 65025};

KERNEL(tell_types, 1)(BUFFER(0, u32 *, y), ARGS(1, SizeArgs, a) IDS) {
    GRID_WAIT();
    y[0] = (u32)sizeof(i8) | (u32)sizeof(u8) << 4 | (u32)sizeof(u16) << 8 | (u32)sizeof(i32) << 12;
    y[1] = (u32)sizeof(u32) | (u32)sizeof(u64) << 4 | (u32)sizeof(float) << 8;
    y[2] = (u32)sizeof(float2) | (u32)sizeof(float4) << 8 | (u32)sizeof(uint2) << 16 |
           (u32)sizeof(uint4) << 24;
    y[3] = (u32)(i32)(i8)(a.n_x + 200);  // of 200: -56
    y[4] = (u32)(a.n_x - 16) >> 28;      // 15
    y[5] = (u32)((a.n_x - 16) >> 2);     // -4
    y[6] = squares[a.n_x + 5];
    y[7] = (u32)(((u64)1 << (a.n_x + 40)) >> 36);
}

// y[i] += n + 1 * b0[i] + 2 * b1[i] + ... + 15 * b14[i]
KERNEL(add_many, 32)
(BUFFER(0, const u32 *, b0), BUFFER(1, const u32 *, b1), BUFFER(2, const u32 *, b2),
 BUFFER(3, const u32 *, b3), BUFFER(4, const u32 *, b4), BUFFER(5, const u32 *, b5),
 BUFFER(6, const u32 *, b6), BUFFER(7, const u32 *, b7), BUFFER(8, const u32 *, b8),
 BUFFER(9, const u32 *, b9), BUFFER(10, const u32 *, b10), BUFFER(11, const u32 *, b11),
 BUFFER(12, const u32 *, b12), BUFFER(13, const u32 *, b13), BUFFER(14, const u32 *, b14),
 BUFFER(15, u32 *, y), ARGS(16, SuiteArgs, a) IDS) {
    GRID_WAIT();
    const int i = GROUP_X * 32 + LANE;
    y[i] += (u32)a.n + b0[i] + 2 * b1[i] + 3 * b2[i] + 4 * b3[i] + 5 * b4[i] + 6 * b5[i] +
            7 * b6[i] + 8 * b7[i] + 9 * b8[i] + 10 * b9[i] + 11 * b10[i] + 12 * b11[i] +
            13 * b12[i] + 14 * b13[i] + 15 * b14[i];
}

// x = 3 x + n: what comes out tells in which order the launches ran.
KERNEL(step_on, 64)(BUFFER(0, u32 *, x), ARGS(1, SuiteArgs, a) IDS) {
    GRID_WAIT();
    const int i = GROUP_X * 64 + LANE;
    if ((u64)i < a.wide) x[i] = 3 * x[i] + (u32)a.n;
}

KERNEL(reverse_group, 256)
(BUFFER(0, const u32 *, x), BUFFER(1, u32 *, y), ARGS(2, SizeArgs, a) IDS) {
    LOCAL_ARRAY(u32, part, 256);
    GRID_WAIT();
    const int from = (GROUP_Y * a.n_x + GROUP_X) * 256;
    part[LANE] = x[from + LANE];
    BARRIER();
    y[from + LANE] = part[255 - LANE];
}

// Two arrays; a barrier in a loop.
KERNEL(sum_group, 128)(BUFFER(0, const u32 *, x), BUFFER(1, u32 *, y), ARGS(2, SizeArgs, a) IDS) {
    LOCAL_ARRAY(u32, sums, 128);
    LOCAL_ARRAY(u32, tops, 128);
    GRID_WAIT();
    const int i = GROUP_X * 128 + LANE;
    sums[LANE] = tops[LANE] = i < a.n_x ? x[i] : 0u;
    BARRIER();
    for (int d = 64; d > 0; d >>= 1) {
        if (LANE < d) {
            sums[LANE] += sums[LANE + d];
            if (tops[LANE + d] > tops[LANE]) tops[LANE] = tops[LANE + d];
        }
        BARRIER();
    }
    if (LANE == 0) y[2 * GROUP_X] = sums[0];
    if (LANE == 1) y[2 * GROUP_X + 1] = tops[0];
}

// Items of a group hand on what lies in device memory: x goes round n_x times.
KERNEL(pass_on, 64)(BUFFER(0, u32 *, x), ARGS(1, SizeArgs, a) IDS) {
    GRID_WAIT();
    for (int i = 0; i < a.n_x; i++) {
        const u32 next = x[GROUP_X * 64 + ((LANE + 1) & 63)];
        BARRIER_GLOBAL();
        x[GROUP_X * 64 + LANE] = next + 1;
        BARRIER_GLOBAL();
    }
}

// All the local memory that kernels may count on: 32 KiB.
KERNEL(most_local, 64)(BUFFER(0, const u32 *, x), BUFFER(1, u32 *, y), ARGS(2, SizeArgs, a) IDS) {
    LOCAL_ARRAY(u32, all, 8192);
    GRID_WAIT();
    for (int i = LANE; i < 8192; i += 64) all[i] = x[i] + (u32)a.n_x;
    BARRIER();
    for (int i = LANE; i < 8192; i += 64) y[i] = all[8191 - i];
}

// Three floats give twelve.
KERNEL(float_words, 64)
(BUFFER(0, const float *, x), BUFFER(1, float *, y), ARGS(2, SizeArgs, a) IDS) {
    GRID_WAIT();
    const int i = GROUP_X * 64 + LANE;
    if (i >= a.n_x) return;
    const float u = x[3 * i], v = x[3 * i + 1], w = x[3 * i + 2];
    y[12 * i] = FMA(u, v, w);
    y[12 * i + 1] = u * v + w;
    y[12 * i + 2] = w - u * v;
    y[12 * i + 3] = SQRT(FABS(u));
    y[12 * i + 4] = DIV(u, v);
    y[12 * i + 5] = RINT(u);
    y[12 * i + 6] = FMAX(u, v);
    y[12 * i + 7] = FMIN(u, v);
    y[12 * i + 8] = AS_F32(AS_U32(u) ^ 0x80000000u);
    y[12 * i + 9] = TO_F32((i32)AS_U32(u));
    y[12 * i + 10] = FABS(w);
    float sum = 0;
    UNROLL
    for (int k = 0; k < 3; k++) sum += x[3 * i + k] * x[3 * i + k];
    y[12 * i + 11] = sum;
}

KERNEL(dot_words, 64)(BUFFER(0, const u32 *, x), BUFFER(1, i32 *, y), ARGS(2, SizeArgs, a) IDS) {
    GRID_WAIT();
    const int i = GROUP_X * 64 + LANE;
    if (i < a.n_x) y[i] = dot4(x[3 * i], x[3 * i + 1], (i32)x[3 * i + 2]);
}

// All halves as floats, floats as halves, and whether the dialect has these (at the end of z).
KERNEL(half_words, 64)
(BUFFER(0, const float *, x), BUFFER(1, float *, y), BUFFER(2, u16 *, z),
 ARGS(3, SizeArgs, a) IDS) {
    GRID_WAIT();
    const int i = GROUP_X * 64 + LANE;
#ifdef NATIVE_F16
    if (i < 65536) y[i] = f16_to_f32((u16)i);
    if (i < a.n_x) z[i] = f32_to_f16(x[i]);
    if (i == 0) z[a.n_x] = 1;
#else
    if (i == 0) z[a.n_x] = 0, y[0] = x[0];
#endif
}

// y: what swap_lanes gives for each `apart`; behind them whether the dialect has it.
KERNEL(swap_words, 64)(BUFFER(0, const u32 *, x), BUFFER(1, u32 *, y), ARGS(2, SizeArgs, a) IDS) {
    LOCAL_ARRAY(u32, scratch, 64);
    GRID_WAIT();
#ifdef NATIVE_SWAP
    for (int k = 0; k < 5; k++) {
        y[k * 64 + LANE] = swap_lanes(x[LANE] + (u32)a.n_x, 1 << k, LANE, scratch);
    }
    if (LANE == 0) y[5 * 64] = 1;
#else
    scratch[LANE] = 0;
    if (LANE == 0) y[5 * 64] = scratch[0], y[0] = x[0] + (u32)a.n_x;
#endif
}

// Vectors turned round, from and to memory that is declared as words.
KERNEL(vectors, 64)
(BUFFER(0, const u32 *, x), BUFFER(1, u32 *, y), BUFFER(2, float *, z), ARGS(3, SizeArgs, a) IDS) {
    GRID_WAIT();
    const int i = GROUP_X * 64 + LANE;
    if (i >= a.n_x) return;
    const uint4 v = ((GLOBAL const uint4 *)x)[i];
    const uint2 low = ((GLOBAL const uint2 *)x)[2 * i];
    uint4 w;
    w.x = v.w, w.y = v.z, w.z = v.y, w.w = v.x;
    ((GLOBAL uint4 *)y)[i] = w;
    float4 f;
    f.x = TO_F32((i32)low.y), f.y = TO_F32((i32)low.x), f.z = 3, f.w = (float)i;
    ((GLOBAL float4 *)z)[2 * i] = f;
    float2 g;
    g.x = f.y, g.y = f.x;
    ((GLOBAL float2 *)z)[4 * i + 2] = g;
    ((GLOBAL float2 *)z)[4 * i + 3] = g;
}

#endif
