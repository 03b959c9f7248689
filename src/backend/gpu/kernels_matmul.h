// Products with weights: y[t][r] = row r of w times row t of x, + bias[r] + residual[t][r].
//
// Up to three matrices of one input (q, k, v; gate, up) are done in one launch, each of its own
// type; groups are counted through their rows, one output after the other.
//   matvec_N       up to N tokens: weights are read once, two rows are shared by 32 items or more
//   matvec_ahead   one token, where all groups run at once
//   matmul_blocks  many tokens, quantized weights: a group makes 64 rows x 64 tokens
//   matmul_floats  many tokens, plain floats: likewise
//
// All of them sum in one order, so that a token's result does not depend on its batch, to the bit:
//   a segment   of two units (64 weights; of floats: of 256 those 64 with (i / 8) % 4 alike), term
//               by term
//   a block     of four segments (256 weights): (s0 + s1) + (s2 + s3)
//   a row       block after block

// 16 activations as bytes, with their scale.
typedef struct {
    uint4 code;
    float d;
    i32 sum;
} Act16;

FN Act16 load_act(GLOBAL const i8 *codes, GLOBAL const uint2 *scales, u64 at) {
    Act16 r;
    const uint2 scale = scales[at >> 4];
    r.code = *(GLOBAL const uint4 *)(codes + at);
    r.d = AS_F32(scale.x);
    r.sum = (i32)scale.y;
    return r;
}

FN i32 dot16(THREAD const u32 *w, uint4 x) {
    return dot4(w[0], x.x, dot4(w[1], x.y, dot4(w[2], x.z, dot4(w[3], x.w, 0))));
}

// sum + 16 weights s * code - m times 16 activations d * code. dot: the sum of the codes' products;
// scaled_total: d times the sum of the activations' codes.
FN float add_16(float sum, float s, float m, float d, i32 dot, float scaled_total) {
    return FMA(-m, scaled_total, FMA(s * d, TO_F32(dot), sum));
}

FN float add_half(float sum, THREAD const u32 *code, i32 bias, float s, float m, Act16 x) {
    const i32 dot = dot16(code, x.code) - bias * x.sum;
    return add_16(sum, s, m, x.d, dot, x.d * TO_F32(x.sum));
}

FN float add_unit(float sum, Unit w, Act16 first, Act16 second) {
    sum = add_half(sum, w.code, w.bias, w.s0, w.m0, first);
    return add_half(sum, w.code + 4, w.bias, w.s1, w.m1, second);
}

// --- few tokens ----------------------------------------------------------------------------------

// Eight plain floats at element i, a multiple of 8.
FN void load8(int type, GLOBAL const u8 *w, u64 i, THREAD float *v) {
    if (type == W_F32) {
        const float4 a = ((GLOBAL const float4 *)w)[i >> 2],
                     b = ((GLOBAL const float4 *)w)[(i >> 2) + 1];
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        return;
    }
    const uint4 q = ((GLOBAL const uint4 *)w)[i >> 3];
    const u32 word[4] = {q.x, q.y, q.z, q.w};
    UNROLL
    for (int k = 0; k < 4; k++) {
        const u32 low = word[k] & 0xffff, high = word[k] >> 16;
        v[2 * k] = type == W_F16 ? f16_to_f32((u16)low) : bf16_to_f32(low);
        v[2 * k + 1] = type == W_F16 ? f16_to_f32((u16)high) : bf16_to_f32(high);
    }
}

// Eight floats at element i of a row that starts at `row` and has n; 0 past its end.
FN void load8_tail(int type, GLOBAL const u8 *w, u64 row, int i, int n, THREAD float *v) {
    if ((n & 7) == 0) {
        load8(type, w, row + (u64)i, v);
        return;
    }
    UNROLL
    for (int k = 0; k < 8; k++) v[k] = i + k < n ? weight_float(type, w, row + (u64)(i + k)) : 0.0f;
}

// A segment of two rows of quantized weights times N tokens: sum[row * N + token].
#define ADD_BLOCKS(TYPE, N)                                                                        \
    Unit w0[2], w1[2];                                                                             \
    UNROLL                                                                                         \
    for (int k = 0; k < 2; k++) {                                                                  \
        const int u = 2 * segment + k;                                                             \
        if (ahead && u < a.n_in >> 5) {                                                            \
            w0[k] = weight_unit(TYPE, w, wa, a.n_in, row0, u);                                     \
            w1[k] = weight_unit(TYPE, w, wa, a.n_in, row1, u);                                     \
        }                                                                                          \
    }                                                                                              \
    if (ahead) GRID_WAIT();                                                                        \
    UNROLL                                                                                         \
    for (int k = 0; k < 2; k++) {                                                                  \
        const int u = 2 * segment + k;                                                             \
        if (u < a.n_in >> 5) {                                                                     \
            const int first = unit_first(TYPE, u), second = first + unit_apart(TYPE);              \
            if (!ahead) {                                                                          \
                w0[k] = weight_unit(TYPE, w, wa, a.n_in, row0, u);                                 \
                w1[k] = weight_unit(TYPE, w, wa, a.n_in, row1, u);                                 \
            }                                                                                      \
            UNROLL                                                                                 \
            for (int t = 0; t < N; t++) {                                                          \
                const u64 from = (u64)(t < a.n_tokens ? t : 0) * (u64)a.n_in;                      \
                const Act16 x0 = load_act(codes, scales, from + (u64)first);                       \
                const Act16 x1 = load_act(codes, scales, from + (u64)second);                      \
                sum[t] = add_unit(sum[t], w0[k], x0, x1);                                          \
                sum[N + t] = add_unit(sum[N + t], w1[k], x0, x1);                                  \
            }                                                                                      \
        }                                                                                          \
    }

// The same of plain floats, eight at a time, one by one where rows are no multiple of 8.
#define ADD_FLOATS(TYPE, N)                                                                        \
    {                                                                                              \
        const u64 at0 = (u64)row0 * (u64)a.n_in, at1 = (u64)row1 * (u64)a.n_in;                    \
        const int start = (segment >> 2) * 256 + (segment & 3) * 8;                                \
        if (ahead) GRID_WAIT();                                                                    \
        for (int i = start; i < start + 256 && i < a.n_in; i += 32) {                              \
            float w0[8], w1[8], v[8];                                                              \
            load8_tail(TYPE, w, at0, i, a.n_in, w0);                                               \
            load8_tail(TYPE, w, at1, i, a.n_in, w1);                                               \
            UNROLL                                                                                 \
            for (int t = 0; t < N; t++) {                                                          \
                const u64 from = (u64)(t < a.n_tokens ? t : 0) * (u64)a.n_in;                      \
                load8_tail(W_F32, (GLOBAL const u8 *)x, from, i, a.n_in, v);                       \
                UNROLL                                                                             \
                for (int k = 0; k < 8; k++) {                                                      \
                    sum[t] = FMA(w0[k], v[k], sum[t]);                                             \
                    sum[N + t] = FMA(w1[k], v[k], sum[N + t]);                                     \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

// Segments of each pass, kept in local memory.
#define ADD_PASSES(ADD, TYPE, N)                                                                   \
    for (int pass = pass0; pass < end; pass++) {                                                   \
        const int segment = pass * a.lanes + part;                                                 \
        float sum[2 * N];                                                                          \
        UNROLL                                                                                     \
        for (int i = 0; i < 2 * N; i++) sum[i] = 0;                                                \
        ADD(TYPE, N)                                                                               \
        UNROLL                                                                                     \
        for (int i = 0; i < 2 * N; i++) sums[((pass - pass0) * 2 * N + i) * 128 + LANE] = sum[i];  \
    }

// The types that the model has are compiled alone: USE_0, USE_1, ... by id.
#if USE_0
#define CASE_F32(N) if (wa.type == W_F32) ADD_PASSES(ADD_FLOATS, W_F32, N)
#else
#define CASE_F32(N)
#endif
#if USE_1
#define CASE_F16(N) if (wa.type == W_F16) ADD_PASSES(ADD_FLOATS, W_F16, N)
#else
#define CASE_F16(N)
#endif
#if USE_30
#define CASE_BF16(N) if (wa.type == W_BF16) ADD_PASSES(ADD_FLOATS, W_BF16, N)
#else
#define CASE_BF16(N)
#endif
#if USE_2
#define CASE_Q4_0(N) if (wa.type == W_Q4_0) ADD_PASSES(ADD_BLOCKS, W_Q4_0, N)
#else
#define CASE_Q4_0(N)
#endif
#if USE_3
#define CASE_Q4_1(N) if (wa.type == W_Q4_1) ADD_PASSES(ADD_BLOCKS, W_Q4_1, N)
#else
#define CASE_Q4_1(N)
#endif
#if USE_6
#define CASE_Q5_0(N) if (wa.type == W_Q5_0) ADD_PASSES(ADD_BLOCKS, W_Q5_0, N)
#else
#define CASE_Q5_0(N)
#endif
#if USE_7
#define CASE_Q5_1(N) if (wa.type == W_Q5_1) ADD_PASSES(ADD_BLOCKS, W_Q5_1, N)
#else
#define CASE_Q5_1(N)
#endif
#if USE_8
#define CASE_Q8_0(N) if (wa.type == W_Q8_0) ADD_PASSES(ADD_BLOCKS, W_Q8_0, N)
#else
#define CASE_Q8_0(N)
#endif
#if USE_12
#define CASE_Q4_K(N) if (wa.type == W_Q4_K) ADD_PASSES(ADD_BLOCKS, W_Q4_K, N)
#else
#define CASE_Q4_K(N)
#endif
#if USE_13
#define CASE_Q5_K(N) if (wa.type == W_Q5_K) ADD_PASSES(ADD_BLOCKS, W_Q5_K, N)
#else
#define CASE_Q5_K(N)
#endif
#if USE_14
#define CASE_Q6_K(N) if (wa.type == W_Q6_K) ADD_PASSES(ADD_BLOCKS, W_Q6_K, N)
#else
#define CASE_Q6_K(N)
#endif

#define MATMUL_PARAMETERS                                                                          \
    BUFFER(0, const i8 *, codes), BUFFER(1, const uint2 *, scales), BUFFER(2, const float *, x),   \
        BUFFER(3, const u8 *, w_0), BUFFER(4, const u8 *, w_1), BUFFER(5, const u8 *, w_2),        \
        BUFFER(6, const float *, bias_0), BUFFER(7, const float *, bias_1),                        \
        BUFFER(8, const float *, bias_2), BUFFER(9, float *, y_0), BUFFER(10, float *, y_1),       \
        BUFFER(11, float *, y_2), BUFFER(12, const float *, residual), ARGS(13, MatmulArgs, a) IDS

// Which output a group works on: its number, weights, and first row.
#define CHOOSE_OUTPUT(ROWS)                                                                        \
    const int out = (GROUP_X >= a.first_group[1]) + (GROUP_X >= a.first_group[2]);                 \
    const WeightArgs wa = out == 0 ? a.out[0] : out == 1 ? a.out[1] : a.out[2];                    \
    GLOBAL const u8 *w = out == 0 ? w_0 : out == 1 ? w_1 : w_2;                                    \
    GLOBAL const float *bias = out == 0 ? bias_0 : out == 1 ? bias_1 : bias_2;                     \
    GLOBAL float *y = out == 0 ? y_0 : out == 1 ? y_1 : y_2;                                       \
    const int first_group = out == 0 ? 0 : out == 1 ? a.first_group[1] : a.first_group[2];         \
    const int first_row = (GROUP_X - first_group) * (ROWS)

#define FINISH(T, ROW, VALUE)                                                                      \
    {                                                                                              \
        const u64 to = (u64)(T) * (u64)wa.rows + (u64)(ROW);                                       \
        float value = (VALUE);                                                                     \
        if (a.has_bias >> out & 1) value += bias[ROW];                                             \
        if (a.has_residual) value += residual[to];                                                 \
        y[to] = value;                                                                             \
    }

// 128 items. a.lanes of them (32, 64 or 128) share two rows; each takes a segment of so many times
// 64 weights, a pass. The segments' sums are kept, and added up in their order when there are as
// many as there is room for.
#define SEGMENT_SUMS 2048  // floats
#define MATVEC(KERNEL_128, N, AHEAD)                                                               \
    KERNEL_128(MATMUL_PARAMETERS) {                                                                \
        LOCAL_ARRAY(float, sums, SEGMENT_SUMS);                                                    \
        GRID_GO();                                                                                 \
        const int ahead = AHEAD;                                                                   \
        const int group_rows = 256 / a.lanes;                                                      \
        CHOOSE_OUTPUT(group_rows);                                                                 \
        const int team = LANE / a.lanes, part = LANE - team * a.lanes;                             \
        const int row = first_row + 2 * team;                                                      \
        const int row0 = row < wa.rows ? row : wa.rows - 1;                                        \
        const int row1 = row + 1 < wa.rows ? row + 1 : wa.rows - 1;                                \
        const int n_passes = (a.n_in + 64 * a.lanes - 1) / (64 * a.lanes);                         \
        const int most = SEGMENT_SUMS / (256 * N);                                                 \
        /* of the row and token that this item adds up: group_rows * N items do */                 \
        const int my_row = LANE % group_rows, my_token = LANE / group_rows;                        \
        float total = 0;                                                                           \
        if (!ahead) GRID_WAIT();                                                                   \
        for (int pass0 = 0; pass0 < n_passes; pass0 += most) {                                     \
            const int end = pass0 + most < n_passes ? pass0 + most : n_passes;                     \
            CASE_F32(N)                                                                            \
            CASE_F16(N)                                                                            \
            CASE_BF16(N)                                                                           \
            CASE_Q4_0(N)                                                                           \
            CASE_Q4_1(N)                                                                           \
            CASE_Q5_0(N)                                                                           \
            CASE_Q5_1(N)                                                                           \
            CASE_Q8_0(N)                                                                           \
            CASE_Q4_K(N)                                                                           \
            CASE_Q5_K(N)                                                                           \
            CASE_Q6_K(N)                                                                           \
            BARRIER();                                                                             \
            for (int pass = pass0; my_token < N && pass < end; pass++) {                           \
                const int i = (pass - pass0) * 2 * N + (my_row & 1) * N + my_token;                \
                LOCAL const float4 *four =                                                         \
                    (LOCAL const float4 *)(sums + i * 128 + (my_row >> 1) * a.lanes);              \
                for (int block = 0; block < a.lanes >> 2; block++) {                               \
                    total += (four[block].x + four[block].y) + (four[block].z + four[block].w);    \
                }                                                                                  \
            }                                                                                      \
            BARRIER();                                                                             \
        }                                                                                          \
        const int r = first_row + my_row;                                                          \
        if (my_token < N && my_token < a.n_tokens && r < wa.rows) FINISH(my_token, r, total)       \
    }

// Where all groups run at once, weights are best asked for ahead of the wait; where groups come and
// go, as many as fit hide each other's waiting.
MATVEC(KERNEL(matvec_ahead, 128), 1, 1)
MATVEC(KERNEL_MANY(matvec_1, 128, 8), 1, 0)
MATVEC(KERNEL(matvec_2, 128), 2, 0)
MATVEC(KERNEL(matvec_4, 128), 4, 0)
MATVEC(KERNEL(matvec_8, 128), 8, 0)

// --- many tokens ---------------------------------------------------------------------------------

// A step looks at four units, 128 inputs: codes of 64 rows and of 64 tokens in local memory, 16
// bytes each, padded so that neighbours do not meet in a bank; for each 16 the scale and minimum,
// or the scale and the scaled sum. Chunks stand in the order of units and their halves, as segments
// are summed, not of inputs.
#define STEP 128
#define CHUNKS 8  // of 16 in a step
#define PADDED 9  // chunks from a row to the next

// Codes with their bias taken off, so that they are signed bytes (of Q8_0 they are).
FN uint4 signed_codes(THREAD const u32 *code, i32 bias) {
    const u32 less = (u32)bias * 0x01010101u;
    uint4 r;
    r.x = code[0], r.y = code[1], r.z = code[2], r.w = code[3];
    if (bias) {
        r.x = ((r.x | 0x80808080u) - less) ^ 0x80808080u;
        r.y = ((r.y | 0x80808080u) - less) ^ 0x80808080u;
        r.z = ((r.z | 0x80808080u) - less) ^ 0x80808080u;
        r.w = ((r.w | 0x80808080u) - less) ^ 0x80808080u;
    }
    return r;
}

FN Unit any_unit(GLOBAL const u8 *w, WeightArgs wa, int n_in, int row, int u) {
#if USE_2
    if (wa.type == W_Q4_0) return weight_unit(W_Q4_0, w, wa, n_in, row, u);
#endif
#if USE_3
    if (wa.type == W_Q4_1) return weight_unit(W_Q4_1, w, wa, n_in, row, u);
#endif
#if USE_6
    if (wa.type == W_Q5_0) return weight_unit(W_Q5_0, w, wa, n_in, row, u);
#endif
#if USE_7
    if (wa.type == W_Q5_1) return weight_unit(W_Q5_1, w, wa, n_in, row, u);
#endif
#if USE_12
    if (wa.type == W_Q4_K) return weight_unit(W_Q4_K, w, wa, n_in, row, u);
#endif
#if USE_13
    if (wa.type == W_Q5_K) return weight_unit(W_Q5_K, w, wa, n_in, row, u);
#endif
#if USE_14
    if (wa.type == W_Q6_K) return weight_unit(W_Q6_K, w, wa, n_in, row, u);
#endif
    return weight_unit(W_Q8_0, w, wa, n_in, row, u);
}

FN uint4 no_codes(void) {
    uint4 r;
    r.x = r.y = r.z = r.w = 0;
    return r;
}

// Item i fills unit i & 3 of row i >> 2. Past the rows and the inputs there are zeros.
FN void fill_weights(GLOBAL const u8 *w, WeightArgs wa, int n_in, int first_row, int step, int lane,
                     LOCAL uint4 *code, LOCAL float2 *scale) {
    const int r = lane >> 2, u = step * 4 + (lane & 3), row = first_row + r;
    const int at = r * PADDED + 2 * (lane & 3);
    uint4 low = no_codes(), high = no_codes();
    float2 a, b;
    a.x = a.y = b.x = b.y = 0;
    if (row < wa.rows && u < n_in >> 5) {
        const Unit unit = any_unit(w, wa, n_in, row, u);
        low = signed_codes(unit.code, unit.bias), high = signed_codes(unit.code + 4, unit.bias);
        a.x = unit.s0, a.y = unit.m0;
        b.x = unit.s1, b.y = unit.m1;
    }
    code[at] = low, code[at + 1] = high;
    scale[at] = a, scale[at + 1] = b;
}

// 512 chunks of activations: two an item.
FN void fill_acts(GLOBAL const i8 *codes, GLOBAL const uint2 *scales, int type, int n_in,
                  int n_tokens, int first_token, int step, int lane, LOCAL uint4 *code,
                  LOCAL float2 *scale) {
    UNROLL
    for (int k = 0; k < 2; k++) {
        const int chunk = lane + 256 * k, t = chunk >> 3, c = chunk & 7;
        const int token = first_token + t, u = step * 4 + (c >> 1);
        uint4 q = no_codes();
        float2 s;
        s.x = s.y = 0;
        if (token < n_tokens && u < n_in >> 5) {
            const int i = unit_first(type, u) + (c & 1) * unit_apart(type);
            const Act16 x = load_act(codes, scales, (u64)token * (u64)n_in + (u64)i);
            q = x.code;
            s.x = x.d, s.y = x.d * TO_F32(x.sum);
        }
        code[t * PADDED + c] = q;
        scale[t * PADDED + c] = s;
    }
}

// 256 items, 16 x 16: item (i & 15, i >> 4) makes tokens x + 16 k of rows y + 16 j. sum: of the
// segment at hand, then of a step; first, before: of those that wait for the rest of their block.
KERNEL(matmul_blocks, 256)(MATMUL_PARAMETERS) {
    LOCAL_ARRAY(uint4, w_code, TILE_ROWS * PADDED);
    LOCAL_ARRAY(float2, w_scale, TILE_ROWS * PADDED);
    LOCAL_ARRAY(uint4, x_code, TILE_TOKENS * PADDED);
    LOCAL_ARRAY(float2, x_scale, TILE_TOKENS * PADDED);
    GRID_GO();
    GRID_WAIT();
    CHOOSE_OUTPUT(TILE_ROWS);
    const int first_token = GROUP_Y * TILE_TOKENS, tx = LANE & 15, ty = LANE >> 4;
    const int n_steps = (a.n_in + STEP - 1) / STEP;
    float total[16], before[16], sum[16];
    UNROLL
    for (int i = 0; i < 16; i++) total[i] = before[i] = 0;
    (void)x;
    for (int step = 0; step < n_steps; step++) {
        float first[16];
        BARRIER();
        fill_weights(w, wa, a.n_in, first_row, step, LANE, w_code, w_scale);
        fill_acts(codes, scales, wa.type, a.n_in, a.n_tokens, first_token, step, LANE, x_code,
                  x_scale);
        BARRIER();
        UNROLL
        for (int part = 0; part < 2; part++) {  // two segments of four chunks
            UNROLL
            for (int i = 0; i < 16; i++) sum[i] = 0;
            for (int c = 4 * part; c < 4 * part + 4; c++) {
                uint4 xq[4];
                float2 xs[4];
                UNROLL
                for (int k = 0; k < 4; k++) {
                    xq[k] = x_code[(tx + 16 * k) * PADDED + c];
                    xs[k] = x_scale[(tx + 16 * k) * PADDED + c];
                }
                UNROLL
                for (int j = 0; j < 4; j++) {
                    const uint4 wq = w_code[(ty + 16 * j) * PADDED + c];
                    const float2 ws = w_scale[(ty + 16 * j) * PADDED + c];
                    UNROLL
                    for (int k = 0; k < 4; k++) {
                        const i32 dot = dot4(
                            wq.x, xq[k].x,
                            dot4(wq.y, xq[k].y, dot4(wq.z, xq[k].z, dot4(wq.w, xq[k].w, 0))));
                        sum[4 * j + k] =
                            add_16(sum[4 * j + k], ws.x, ws.y, xs[k].x, dot, xs[k].y);
                    }
                }
            }
            UNROLL
            for (int i = 0; i < 16; i++) {
                if (part == 0) first[i] = sum[i];
                if (part == 1) sum[i] = first[i] + sum[i];
            }
        }
        // Two steps are a block; the last may be half a one.
        UNROLL
        for (int i = 0; i < 16; i++) {
            if ((step & 1) == 0) before[i] = sum[i];
            if ((step & 1) == 1) total[i] += before[i] + sum[i];
        }
    }
    UNROLL
    for (int i = 0; i < 16; i++) {
        if (n_steps & 1) total[i] += before[i];
        const int t = first_token + tx + 16 * (i & 3), r = first_row + ty + 16 * (i >> 2);
        if (t < a.n_tokens && r < wa.rows) FINISH(t, r, total[i])
    }
}

// A step looks at 32 inputs, eight of each segment of a block.
#define FLOAT_STEP 32
#define FLOAT_PADDED 33

KERNEL(matmul_floats, 256)(MATMUL_PARAMETERS) {
    LOCAL_ARRAY(float, w_tile, TILE_ROWS * FLOAT_PADDED);
    LOCAL_ARRAY(float, x_tile, TILE_TOKENS * FLOAT_PADDED);
    GRID_GO();
    GRID_WAIT();
    CHOOSE_OUTPUT(TILE_ROWS);
    const int first_token = GROUP_Y * TILE_TOKENS, tx = LANE & 15, ty = LANE >> 4;
    float total[16], sum[4][16];
    UNROLL
    for (int i = 0; i < 16; i++) total[i] = sum[0][i] = sum[1][i] = sum[2][i] = sum[3][i] = 0;
    (void)codes, (void)scales;
    for (int step = 0; step < a.n_in; step += FLOAT_STEP) {
        BARRIER();
        UNROLL
        for (int k = 0; k < 8; k++) {
            const int e = LANE + 256 * k, i = step + (e & 31);
            const int at = (e >> 5) * FLOAT_PADDED + (e & 31);
            const int row = first_row + (e >> 5), t = first_token + (e >> 5);
            const u64 from = (u64)row * (u64)a.n_in + (u64)i;
            w_tile[at] = row < wa.rows && i < a.n_in ? weight_float(wa.type, w, from) : 0.0f;
            x_tile[at] = t < a.n_tokens && i < a.n_in ? x[(u64)t * (u64)a.n_in + (u64)i] : 0.0f;
        }
        BARRIER();
        UNROLL
        for (int segment = 0; segment < 4; segment++) {
            for (int i = 8 * segment; i < 8 * segment + 8; i++) {
                float xv[4];
                UNROLL
                for (int k = 0; k < 4; k++) xv[k] = x_tile[(tx + 16 * k) * FLOAT_PADDED + i];
                UNROLL
                for (int j = 0; j < 4; j++) {
                    const float wv = w_tile[(ty + 16 * j) * FLOAT_PADDED + i];
                    UNROLL
                    for (int k = 0; k < 4; k++) {
                        sum[segment][4 * j + k] = FMA(wv, xv[k], sum[segment][4 * j + k]);
                    }
                }
            }
        }
        if ((step & 255) == 256 - FLOAT_STEP || step + FLOAT_STEP >= a.n_in) {  // a block is whole
            UNROLL
            for (int i = 0; i < 16; i++) {
                total[i] += (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
                sum[0][i] = sum[1][i] = sum[2][i] = sum[3][i] = 0;
            }
        }
    }
    UNROLL
    for (int i = 0; i < 16; i++) {
        const int t = first_token + tx + 16 * (i & 3), r = first_row + ty + 16 * (i >> 2);
        if (t < a.n_tokens && r < wa.rows) FINISH(t, r, total[i])
    }
}
