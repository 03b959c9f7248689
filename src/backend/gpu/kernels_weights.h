// Weights as they lie on the device, and how 32 of them are decoded.
//
// A type's blocks (drawn in formats/quants.c) are taken apart into planes, each field of all blocks
// in a plane of its own, so that every load is aligned:
//
//            plane 0        plane 1            plane 2       plane 3
//   Q4_0     16 nibbles     d (2 bytes)
//   Q4_1     16 nibbles     d, m (4)
//   Q5_0     16 nibbles     d (2)              high bits (4)
//   Q5_1     16 nibbles     d, m (4)           high bits (4)
//   Q8_0     32 bytes       d (2)
//   Q4_K     128 nibbles    d, m, scales (16)
//   Q5_K     128 nibbles    d, m, scales (16)  high bits (32)
//   Q6_K     128 nibbles    d (2)              high bits (64)  scales (16)
//   F32, F16, BF16   as they are
//
// A unit is 32 weights whose codes lie together: two halves of 16 neighbours each. Its codes take
// 16 or 32 bytes of plane 0, one or two loads.
typedef struct {
    u32 code[8];   // of the first half, then of the second
    i32 bias;      // weight = s * (code - bias) - m, by halves
    float s0, s1, m0, m1;
} Unit;

// Where the halves of unit u of a row start.
FN int unit_first(int type, int u) {
    if (type == W_Q4_K || type == W_Q5_K) return (u >> 1) * 64 + (u & 1) * 16;
    if (type == W_Q6_K) return (u >> 2) * 128 + (u & 3) * 16;
    return u * 32;
}

FN int unit_apart(int type) {
    return type == W_Q4_K || type == W_Q5_K ? 32 : type == W_Q6_K ? 64 : 16;
}

// Types that are multiplied as bytes; the others (floats) are multiplied as they are.
FN int is_blocks(int type) { return type != W_F32 && type != W_F16 && type != W_BF16; }

FN void split_nibbles(uint4 q, THREAD u32 *code) {
    const u32 word[4] = {q.x, q.y, q.z, q.w};
    UNROLL
    for (int i = 0; i < 4; i++) {
        code[i] = word[i] & 0x0f0f0f0fu;
        code[4 + i] = word[i] >> 4 & 0x0f0f0f0fu;
    }
}

// Bits 0..3 to bit 4 of bytes 0..3.
FN u32 spread_bits(u32 bits) {
    return (bits & 1) << 4 | (bits & 2) << 11 | (bits & 4) << 18 | (bits & 8) << 25;
}

// Scale (x) and minimum (y) number j of the 12 bytes in header.y, .z, .w (Q4_K, Q5_K).
FN uint2 k4_scale(uint4 header, int j) {
    const int shift = (j & 3) * 8;
    const u32 a = header.y >> shift & 255, b = header.z >> shift & 255,
              c = header.w >> shift & 255;
    uint2 r;
    r.x = j < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
    r.y = j < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
    return r;
}

FN Unit unit_of_32(int type, GLOBAL const u8 *w, WeightArgs a, u64 block) {
    Unit r;
    r.bias = 0;
    r.m0 = 0;
    if (type == W_Q8_0) {
        GLOBAL const uint4 *q = (GLOBAL const uint4 *)(w + block * 32);
        const uint4 low = q[0], high = q[1];
        r.code[0] = low.x, r.code[1] = low.y, r.code[2] = low.z, r.code[3] = low.w;
        r.code[4] = high.x, r.code[5] = high.y, r.code[6] = high.z, r.code[7] = high.w;
    } else {
        split_nibbles(*(GLOBAL const uint4 *)(w + block * 16), r.code);
    }
    if (type == W_Q5_0 || type == W_Q5_1) {
        const u32 high = *(GLOBAL const u32 *)(w + a.plane2 + block * 4);
        UNROLL
        for (int i = 0; i < 8; i++) r.code[i] |= spread_bits(high >> (4 * i) & 15);
    }
    if (type == W_Q4_1 || type == W_Q5_1) {
        const u32 scale = *(GLOBAL const u32 *)(w + a.plane1 + block * 4);
        r.s0 = f16_to_f32((u16)(scale & 0xffff));
        r.m0 = -f16_to_f32((u16)(scale >> 16));
    } else {
        r.s0 = f16_to_f32(*(GLOBAL const u16 *)(w + a.plane1 + block * 2));
    }
    if (type == W_Q4_0) r.bias = 8;
    if (type == W_Q5_0) r.bias = 16;
    r.s1 = r.s0;
    r.m1 = r.m0;
    return r;
}

FN Unit unit_of_k4(int type, GLOBAL const u8 *w, WeightArgs a, u64 block, int u) {
    Unit r;
    const int j = u >> 1 & 3;  // of four quarters of 64 weights
    const uint4 header = *(GLOBAL const uint4 *)(w + a.plane1 + block * 16);
    const uint2 first = k4_scale(header, 2 * j), second = k4_scale(header, 2 * j + 1);
    const float d = f16_to_f32((u16)(header.x & 0xffff)), m = f16_to_f32((u16)(header.x >> 16));
    split_nibbles(*(GLOBAL const uint4 *)(w + block * 128 + (u & 7) * 16), r.code);
    if (type == W_Q5_K) {
        const uint4 high = *(GLOBAL const uint4 *)(w + a.plane2 + block * 32 + (u & 1) * 16);
        const u32 word[4] = {high.x, high.y, high.z, high.w};
        UNROLL
        for (int i = 0; i < 4; i++) {
            r.code[i] |= (word[i] >> (2 * j) & 0x01010101u) << 4;
            r.code[4 + i] |= (word[i] >> (2 * j + 1) & 0x01010101u) << 4;
        }
    }
    r.bias = 0;
    r.s0 = d * (float)first.x, r.m0 = m * (float)first.y;
    r.s1 = d * (float)second.x, r.m1 = m * (float)second.y;
    return r;
}

FN Unit unit_of_q6_k(GLOBAL const u8 *w, WeightArgs a, u64 block, int u) {
    Unit r;
    const int side = u >> 2 & 1, c = u & 3;  // 16 bytes number c of 64, of one side of the block
    const float d = f16_to_f32(*(GLOBAL const u16 *)(w + a.plane1 + block * 2));
    GLOBAL const i8 *scale = (GLOBAL const i8 *)(w + a.plane3 + block * 16 + side * 8);
    split_nibbles(*(GLOBAL const uint4 *)(w + block * 128 + side * 64 + c * 16), r.code);
    const uint4 high =
        *(GLOBAL const uint4 *)(w + a.plane2 + block * 64 + side * 32 + (c & 1) * 16);
    const u32 word[4] = {high.x, high.y, high.z, high.w};
    const int shift = c & 2;
    UNROLL
    for (int i = 0; i < 4; i++) {
        r.code[i] |= (word[i] >> shift & 0x03030303u) << 4;
        r.code[4 + i] |= (word[i] >> (shift + 4) & 0x03030303u) << 4;
    }
    r.bias = 32;
    r.s0 = d * (float)scale[c], r.s1 = d * (float)scale[c + 4];
    r.m0 = 0, r.m1 = 0;
    return r;
}

// Unit u of a row of n_in weights.
FN Unit weight_unit(int type, GLOBAL const u8 *w, WeightArgs a, int n_in, int row, int u) {
    const u64 at = (u64)row * (u64)(n_in >> 5) + (u64)u;
    if (type == W_Q4_K || type == W_Q5_K) return unit_of_k4(type, w, a, at >> 3, u);
    if (type == W_Q6_K) return unit_of_q6_k(w, a, at >> 3, u);
    return unit_of_32(type, w, a, at);
}

// Plain floats: element i of the matrix.
FN float weight_float(int type, GLOBAL const u8 *w, u64 i) {
    if (type == W_F32) return ((GLOBAL const float *)w)[i];
    const u16 h = ((GLOBAL const u16 *)w)[i];
    return type == W_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

// Codes are bytes without sign but in Q8_0.
FN float code_value(int type, u32 word, int i) {
    const u32 code = word >> (8 * i) & 255;
    return type == W_Q8_0 ? (float)(i8)code : (float)code;
}

// y[t] = row token[t] of the table, to the bit as formats/quants.c decodes it. A group for each
// token.
KERNEL(embed_rows, 64)(BUFFER(0, const u8 *, w), BUFFER(1, const i32 *, step),
                       BUFFER(2, float *, y), ARGS(3, EmbedArgs, a) IDS) {
    GRID_GO();
    GRID_WAIT();
    const int row = step[GROUP_X], type = a.table.type;
    GLOBAL float *to = y + (u64)GROUP_X * (u64)a.dim;
    if (!is_blocks(type)) {
        for (int i = LANE; i < a.dim; i += 64) {
            to[i] = weight_float(type, w, (u64)row * (u64)a.dim + (u64)i);
        }
        return;
    }
    for (int u = LANE; u < a.dim >> 5; u += 64) {
        const Unit unit = weight_unit(type, w, a.table, a.dim, row, u);
        const int first = unit_first(type, u), second = first + unit_apart(type);
        for (int i = 0; i < 16; i++) {
            const float low = code_value(type, unit.code[i >> 2], i & 3) - (float)unit.bias;
            const float high = code_value(type, unit.code[4 + (i >> 2)], i & 3) - (float)unit.bias;
            to[first + i] = unit.s0 * low - unit.m0;
            to[second + i] = unit.s1 * high - unit.m1;
        }
    }
}
