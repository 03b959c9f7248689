// The kernels of every GPU, written once: what they share, and the small ones.
//
// A device compiles the text of its dialect header, args.h, this file, kernels_weights.h,
// kernels_matmul.h and kernels_attention.h, in this order; so no file here includes another.
// dialect_host.h explains the words. The tests run the same text on the host.
//
// Activations are float32. A matrix product with quantized weights reads them as signed bytes, as
// backend.h declares ACT_Q8_0: for each 32 elements d = max|x| / 127 and codes x * (127 / max|x|).
// Who writes activations may write the codes too: codes[i], and for each 16 elements a scale:
// x = the bits of d, y = the sum of the 16 codes.

// --- 16-bit floats -------------------------------------------------------------------------------

#ifndef NATIVE_F16
FN float f16_to_f32(u16 h) {
    const u32 sign = (u32)(h & 0x8000) << 16, mag = (u32)(h & 0x7fff) << 13;
    u32 bits = mag + (mag >= 0x0f800000u ? 0x70000000u : 0x38000000u);
    // A subnormal half is mantissa * 2^-24: under the exponent of 2^-14, less 2^-14, it is exact.
    if (mag < 0x00800000u) bits = AS_U32(AS_F32(mag + 0x38800000u) - AS_F32(0x38800000u));
    return AS_F32(bits | sign);
}

// To the nearest, ties to even.
FN u16 f32_to_f16(float x) {
    const u32 bits = AS_U32(x), mag = bits & 0x7fffffffu;
    u32 half_bits = (mag - 0x38000000u + 0x0fffu + (mag >> 13 & 1)) >> 13;
    // Subnormal: adding 0.5 rounds to multiples of 2^-24.
    if (mag < 0x38800000u) half_bits = AS_U32(AS_F32(mag) + 0.5f) - 0x3f000000u;
    if (mag >= 0x477ff000u) half_bits = 0x7c00;
    if (mag > 0x7f800000u) half_bits = 0x7e00;
    return (u16)((bits >> 16 & 0x8000u) | half_bits);
}
#endif

FN float bf16_to_f32(u32 h) { return AS_F32(h << 16); }

// --- exp -----------------------------------------------------------------------------------------

// exp(x) within 2 units in the last place for -87.3 <= x <= 88.7; 0 below, infinite above; NaN
// stays NaN. Ours, so that its bits are the same on every device and for every item:
// x = n ln 2 + r with |r| <= ln 2 / 2, exp(r) by its Taylor series to r^7, n into the exponent.
FN float exp_of(float x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float c = FMIN(FMAX(x, -87.3f), 88.7f);
    const float t = FMA(c, 1.44269504f, magic), n = t - magic;
    const float r = FMA(n, 2.12194440e-4f, FMA(n, -0.693359375f, c));  // ln 2 in two parts
    float p = FMA(1.0f / 5040, r, 1.0f / 720);
    p = FMA(p, r, 1.0f / 120);
    p = FMA(p, r, 1.0f / 24);
    p = FMA(p, r, 1.0f / 6);
    p = FMA(p, r, 0.5f);
    p = FMA(p, r * r, r) + 1.0f;
    // 2^n in two steps: n may be 128, whose 2^n alone would overflow.
    const i32 e = (i32)AS_U32(t) - 0x4b400000, part = e >> 1;
    const float y = p * AS_F32((u32)(part + 127) << 23) * AS_F32((u32)(e - part + 127) << 23);
    return x < -87.3f ? 0.0f : x > 88.7f ? AS_F32(0x7f800000u) : x == x ? y : x;
}

// --- among neighbouring items --------------------------------------------------------------------

// The value of the item whose number differs in the bit `apart`, at most 16. Every item of the
// group calls it; scratch has an element for each.
#ifndef NATIVE_SWAP
FN u32 swap_lanes(u32 x, int apart, int lane, LOCAL u32 *scratch) {
    scratch[lane] = x;
    BARRIER();
    const u32 other = scratch[lane ^ apart];
    BARRIER();
    return other;
}
#endif

// The sum over 32 neighbours.
FN float sum32(float x, int lane, LOCAL u32 *scratch) {
    for (int d = 16; d > 0; d >>= 1) x += AS_F32(swap_lanes(AS_U32(x), d, lane, scratch));
    return x;
}

// --- activations as bytes ------------------------------------------------------------------------

FN u32 larger(u32 a, u32 b) { return a > b ? a : b; }

FN u32 magnitude(float x) { return AS_U32(x) & 0x7fffffffu; }

FN i32 code_of(float x, float inverse) { return (i32)RINT(x * inverse); }

// Four activations that start at element i, 0 where the array ends. Every item of the group calls
// it, and writes if it is `asked` to; eight neighbours have 32 elements in a row.
FN void write_codes(float4 v, int i, int asked, int lane, GLOBAL i8 *codes, GLOBAL uint2 *scales,
                    LOCAL u32 *scratch) {
    u32 top = larger(larger(magnitude(v.x), magnitude(v.y)),
                     larger(magnitude(v.z), magnitude(v.w)));
    for (int d = 4; d > 0; d >>= 1) top = larger(top, swap_lanes(top, d, lane, scratch));
    const float most = AS_F32(top);
    const int fits = top >= 0x0d800000u && top < 0x7f800000u;  // 2^-100 and infinity
    const float inverse = fits ? DIV(127.0f, most) : 0.0f;
    i32 x = 0, y = 0, z = 0, w = 0;
    if (fits) {
        x = code_of(v.x, inverse), y = code_of(v.y, inverse);
        z = code_of(v.z, inverse), w = code_of(v.w, inverse);
    }
    i32 sum = x + y + z + w;
    sum += (i32)swap_lanes((u32)sum, 1, lane, scratch);
    sum += (i32)swap_lanes((u32)sum, 2, lane, scratch);
    if (!asked) return;
    *(GLOBAL u32 *)(codes + i) = ((u32)x & 255) | ((u32)y & 255) << 8 | ((u32)z & 255) << 16 |
                                 ((u32)w & 255) << 24;
    if ((lane & 3) == 0) {
        uint2 scale;
        scale.x = fits ? AS_U32(DIV(most, 127.0f)) : top < 0x0d800000u ? 0u : 0x7fc00000u;
        scale.y = (u32)sum;
        scales[i >> 4] = scale;
    }
}

// Elements i..i + 3, i a multiple of 4, of x, which has n; 0 past its end.
FN float4 load4(GLOBAL const float *x, int i, int n) {
    float4 v;
    v.x = v.y = v.z = v.w = 0;
    if (i + 3 < n) {
        v = *(GLOBAL const float4 *)(x + i);
    } else if (i < n) {
        v.x = x[i];
        if (i + 1 < n) v.y = x[i + 1];
        if (i + 2 < n) v.z = x[i + 2];
    }
    return v;
}

FN void store4(float4 v, GLOBAL float *x, int i, int n) {
    if (i + 3 < n) {
        *(GLOBAL float4 *)(x + i) = v;
    } else if (i < n) {
        x[i] = v.x;
        if (i + 1 < n) x[i + 1] = v.y;
        if (i + 2 < n) x[i + 2] = v.z;
    }
}

// A group for each 1024 elements.
KERNEL(quantize_rows, 256)(BUFFER(0, const float *, x), BUFFER(1, i8 *, codes),
                           BUFFER(2, uint2 *, scales), ARGS(3, CountArgs, a) IDS) {
    LOCAL_ARRAY(u32, scratch, 256);
    GRID_GO();
    GRID_WAIT();
    const int i = GROUP_X * 1024 + 4 * LANE;
    write_codes(load4(x, i, a.n), i, i < a.n, LANE, codes, scales, scratch);
}

// --- row by row ----------------------------------------------------------------------------------

// y = x / sqrt(mean(x^2) + eps) * w. A group for each row; y may be x. With `quantize` the width is
// a multiple of 32.
KERNEL(rms_norm, 256)(BUFFER(0, const float *, x), BUFFER(1, const float *, w),
                      BUFFER(2, float *, y), BUFFER(3, i8 *, codes), BUFFER(4, uint2 *, scales),
                      ARGS(5, NormArgs, a) IDS) {
    LOCAL_ARRAY(u32, scratch, 256);
    LOCAL_ARRAY(float, sums, 8);
    GRID_GO();
    GRID_WAIT();
    const u64 row = (u64)GROUP_X * (u64)a.width;
    const int aligned = (a.width & 3) == 0 ? a.width : 0;
    float sum = 0;
    for (int i = LANE; i < a.width; i += 256) sum = FMA(x[row + i], x[row + i], sum);
    sum = sum32(sum, LANE, scratch);
    if ((LANE & 31) == 0) sums[LANE >> 5] = sum;
    BARRIER();
    sum = 0;
    for (int i = 0; i < 8; i++) sum += sums[i];
    const float scale = DIV(1.0f, SQRT(DIV(sum, (float)a.width) + a.eps));
    for (int i = aligned + LANE; i < a.width; i += 256) y[row + i] = x[row + i] * scale * w[i];
    for (int from = 0; from < aligned; from += 1024) {
        const int i = from + 4 * LANE;
        const float4 by = load4(w, i, a.width);
        float4 v = load4(x + row, i, a.width);
        v.x = v.x * scale * by.x, v.y = v.y * scale * by.y;
        v.z = v.z * scale * by.z, v.w = v.w * scale * by.w;
        store4(v, y + row, i, a.width);
        write_codes(v, i, a.quantize && i < a.width, LANE, codes + row, scales + (row >> 4),
                    scratch);
    }
}

FN float swiglu_of(float gate, float up) { return DIV(gate, 1.0f + exp_of(-gate)) * up; }

// y = silu(gate) * up; y may be gate. A group for each 1024 elements.
KERNEL(swiglu_rows, 256)(BUFFER(0, const float *, gate), BUFFER(1, const float *, up),
                         BUFFER(2, float *, y), BUFFER(3, i8 *, codes), BUFFER(4, uint2 *, scales),
                         ARGS(5, SwigluArgs, a) IDS) {
    LOCAL_ARRAY(u32, scratch, 256);
    GRID_GO();
    GRID_WAIT();
    const int i = GROUP_X * 1024 + 4 * LANE;
    const float4 by = load4(up, i, a.n);
    float4 v = load4(gate, i, a.n);
    v.x = swiglu_of(v.x, by.x), v.y = swiglu_of(v.y, by.y);
    v.z = swiglu_of(v.z, by.z), v.w = swiglu_of(v.w, by.w);
    store4(v, y, i, a.n);
    write_codes(v, i, a.quantize && i < a.n, LANE, codes, scales, scratch);
}

// x += y
KERNEL(add_rows, 256)(BUFFER(0, float *, x), BUFFER(1, const float *, y),
                      ARGS(2, CountArgs, a) IDS) {
    GRID_GO();
    GRID_WAIT();
    const int i = GROUP_X * 256 + LANE;
    if (i < a.n) x[i] += y[i];
}

// Row GROUP_Y of y is the row of x that the step names.
KERNEL(select_rows, 256)(BUFFER(0, const float *, x), BUFFER(1, const i32 *, step),
                         BUFFER(2, float *, y), ARGS(3, SelectArgs, a) IDS) {
    GRID_GO();
    GRID_WAIT();
    const int i = GROUP_X * 256 + LANE;
    const u64 from = (u64)step[a.row_at + GROUP_Y] * (u64)a.width;
    if (i < a.width) y[(u64)GROUP_Y * (u64)a.width + i] = x[from + i];
}
