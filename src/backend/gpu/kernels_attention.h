// The cache and attention: RoPE and the write of keys and values, then
// y = softmax(scale q K^T) V over the keys 0..pos of each token's sequence.
//
//   rope_write     rotates q and k in place, writes k and v into the cache
//   attend_keys    a group for each token and each MAX_SLICE query heads of a kv head, and where
//                  there are few of these, for each span of keys
//   attend_join    joins the spans
//   attend_scores  shows scores and weights: for taps alone, nothing reads them here
//
// A span's weights are relative to its own largest score; spans are joined one after the other, in
// one group or by attend_join. So what a token gets does not depend on its batch, to the bit.

// Of the cache: where the row of (seq, head, pos) starts, in elements.
FN u64 cache_row(CacheArgs c, int seq, int head, int pos) {
    const u64 row = (u64)(c.layer * c.n_seqs + seq) * (u64)c.n_kv_heads + (u64)head;
    return (row * (u64)c.n_ctx + (u64)pos) * (u64)c.head_dim;
}

FN float cache_scale(GLOBAL const u8 *cache, u64 scales_bytes, u64 i) {
    return f16_to_f32(((GLOBAL const u16 *)(cache + scales_bytes))[i >> 5]);
}

// Element i of keys or values of that type.
FN float cache_1(int type, GLOBAL const u8 *cache, u64 scales_bytes, u64 i) {
    float x;
    if (type == W_F32) {
        x = ((GLOBAL const float *)cache)[i];
    } else if (type == W_F16) {
        x = f16_to_f32(((GLOBAL const u16 *)cache)[i]);
    } else {
        x = cache_scale(cache, scales_bytes, i) * TO_F32((i32)((GLOBAL const i8 *)cache)[i]);
    }
    return x;
}

// Eight elements at i, a multiple of 8.
FN void cache_8(int type, GLOBAL const u8 *cache, u64 scales_bytes, u64 i, THREAD float *v) {
    if (type != W_Q8_0) {
        load8(type, cache, i, v);
        return;
    }
    const float d = cache_scale(cache, scales_bytes, i);
    const uint2 q = *(GLOBAL const uint2 *)(cache + i);
    UNROLL
    for (int k = 0; k < 4; k++) {
        v[k] = d * TO_F32((i32)(i8)(q.x >> (8 * k) & 255));
        v[4 + k] = d * TO_F32((i32)(i8)(q.y >> (8 * k) & 255));
    }
}

// --- writing -------------------------------------------------------------------------------------

// 32 elements as Q8_0: d = max|x| / 127 rounded to a half, codes made with that d. What is not
// finite makes d not finite, so that it shows in every result.
FN void write_q8_0(GLOBAL const float *x, GLOBAL u8 *cache, u64 scales_bytes, u64 i) {
    u32 top = 0;
    for (int k = 0; k < 32; k++) {
        const u32 mag = AS_U32(x[k]) & 0x7fffffffu;
        top = mag > top ? mag : top;
    }
    const u16 d = f32_to_f16(DIV(AS_F32(top), 127.0f));
    const float value = f16_to_f32(d);
    const float inverse = value > 0.0f && value <= 65504.0f ? DIV(1.0f, value) : 0.0f;
    for (int k = 0; k < 32; k++) {
        const float scaled = FMAX(-127.0f, FMIN(127.0f, x[k] * inverse));  // d may be rounded down
        ((GLOBAL i8 *)cache)[i + (u64)k] = (i8)(i32)RINT(scaled);
    }
    ((GLOBAL u16 *)(cache + scales_bytes))[i >> 5] = d;
}

// A row of head_dim elements, by all 64 items.
FN void write_row(int type, GLOBAL const float *x, int head_dim, int lane, GLOBAL u8 *cache,
                  u64 scales_bytes, u64 at) {
    if (type == W_Q8_0) {
        for (int b = lane; b < head_dim >> 5; b += 64) {
            write_q8_0(x + 32 * b, cache, scales_bytes, at + (u64)(32 * b));
        }
        return;
    }
    for (int i = lane; i < head_dim; i += 64) {
        if (type == W_F32) ((GLOBAL float *)cache)[at + (u64)i] = x[i];
        if (type == W_F16) ((GLOBAL u16 *)cache)[at + (u64)i] = f32_to_f16(x[i]);
    }
}

// A group for each token and head: first the query heads, then those of k, then those of v.
KERNEL(rope_write, 64)(BUFFER(0, float *, q), BUFFER(1, float *, k), BUFFER(2, const float *, v),
                       BUFFER(3, const i32 *, step), BUFFER(4, u8 *, k_cache),
                       BUFFER(5, u8 *, v_cache), ARGS(6, RopeArgs, a) IDS) {
    GRID_GO();
    GRID_WAIT();
    const CacheArgs c = a.cache;
    const int token = GROUP_X, pairs = a.n_rot >> 1, head = GROUP_Y;
    const int pos = step[c.n_tokens + token], seq = step[2 * c.n_tokens + token];
    const int is_q = head < a.n_heads, is_v = head >= a.n_heads + c.n_kv_heads;
    const int h = is_q ? head : is_v ? head - a.n_heads - c.n_kv_heads : head - a.n_heads;
    const u64 row = (u64)(token * (is_q ? a.n_heads : c.n_kv_heads) + h) * (u64)c.head_dim;
    GLOBAL float *x = (is_q ? q : k) + row;
    GLOBAL const float *cosines = (GLOBAL const float *)(step + a.cos_at) + token * pairs;
    GLOBAL const float *sines = (GLOBAL const float *)(step + a.sin_at) + token * pairs;
    for (int i = LANE; i < (is_v ? 0 : pairs); i += 64) {
        const int first = a.neox ? i : 2 * i, second = a.neox ? i + pairs : 2 * i + 1;
        const float x0 = x[first], x1 = x[second];
        x[first] = x0 * cosines[i] - x1 * sines[i];
        x[second] = x0 * sines[i] + x1 * cosines[i];
    }
    BARRIER_GLOBAL();
    if (is_q) return;
    const u64 at = cache_row(c, seq, h, pos);
    if (is_v) {
        write_row(c.type_v, v + row, c.head_dim, LANE, v_cache, c.v_scales_bytes, at);
    } else {
        write_row(c.type_k, x, c.head_dim, LANE, k_cache, c.k_scales_bytes, at);
    }
}

// --- attending -----------------------------------------------------------------------------------

#define LEAST -3.0e38f  // below every score; finite, so that LEAST - LEAST is 0

// Keys or values in local memory: rows of dim floats, dim + 4 apart, so that neighbours do not meet
// in a bank. As many as there is room for; a span's are staged in turns.
#define TILE_FLOATS 4352  // 64 rows of 64
#define STAGED 4          // loads of eight elements that an item has on their way together

FN int tile_row(int dim) { return dim + 4; }

FN int tile_keys(int dim) {
    const int fit = TILE_FLOATS / tile_row(dim);
    return fit < SPAN ? fit : SPAN;
}

FN void stage_as(int type, GLOBAL const u8 *cache, u64 scales_bytes, u64 from, int n, int dim,
                 int lane, LOCAL float *tile) {
    for (int first = 8 * lane; first < n; first += 1024 * STAGED) {
        float v[STAGED][8];
        UNROLL
        for (int b = 0; b < STAGED; b++) {
            const int i = first + 1024 * b;
            if (i < n) cache_8(type, cache, scales_bytes, from + (u64)i, v[b]);
        }
        UNROLL
        for (int b = 0; b < STAGED; b++) {
            const int i = first + 1024 * b, at = i + 4 * (i / dim);
            if (i < n) {
                UNROLL
                for (int k = 0; k < 8; k++) tile[at + k] = v[b][k];
            }
        }
    }
}

// n elements of rows of the cache, from element `from` on.
FN void stage(int type, GLOBAL const u8 *cache, u64 scales_bytes, u64 from, int n, int dim,
              int lane, LOCAL float *tile) {
    if (dim & 7) {
        for (int i = lane; i < n; i += 128) {
            tile[i + 4 * (i / dim)] = cache_1(type, cache, scales_bytes, from + (u64)i);
        }
    } else if (type == W_F16) {
        stage_as(W_F16, cache, scales_bytes, from, n, dim, lane, tile);
    } else if (type == W_F32) {
        stage_as(W_F32, cache, scales_bytes, from, n, dim, lane, tile);
    } else {
        stage_as(W_Q8_0, cache, scales_bytes, from, n, dim, lane, tile);
    }
}

// n elements of query heads of dim, then zeros up to MAX_SLICE heads.
FN void stage_q(GLOBAL const float *q, int n, int dim, int lane, LOCAL float *q_tile) {
    if ((dim & 3) == 0) {
        for (int i = 4 * lane; i < MAX_SLICE * dim; i += 512) {
            *(LOCAL float4 *)(q_tile + i) = load4(q, i, n);
        }
        return;
    }
    for (int i = lane; i < MAX_SLICE * dim; i += 128) q_tile[i] = i < n ? q[i] : 0.0f;
}

// Scores of one key for four query heads of q_tile (rows of dim), times scale, into p (rows of
// SPAN).
FN void score_key(LOCAL const float *key, LOCAL const float *q_tile, int dim, float scale,
                  LOCAL float *p) {
    const int whole = (dim & 3) == 0 ? dim : 0;
    float s[4] = {0, 0, 0, 0};
    UNROLL_4
    for (int e = 0; e < whole; e += 4) {
        const float4 k = *(LOCAL const float4 *)(key + e);
        UNROLL
        for (int h = 0; h < 4; h++) {
            const float4 q = *(LOCAL const float4 *)(q_tile + h * dim + e);
            s[h] = FMA(q.w, k.w, FMA(q.z, k.z, FMA(q.y, k.y, FMA(q.x, k.x, s[h]))));
        }
    }
    for (int e = whole; e < dim; e++) {
        UNROLL
        for (int h = 0; h < 4; h++) s[h] = FMA(q_tile[h * dim + e], key[e], s[h]);
    }
    UNROLL
    for (int h = 0; h < 4; h++) p[h * SPAN] = s[h] * scale;
}

// What joins a span (top score, sum of weights) to those before it: all sums before are multiplied
// by x, the span's by y; *top and *total go on.
FN float2 join_span(float span_top, float span_total, THREAD float *top, THREAD float *total) {
    const float best = FMAX(*top, span_top);
    float2 r;
    r.x = exp_of(*top - best), r.y = exp_of(span_top - best);
    *total = FMA(span_total, r.y, *total * r.x);
    *top = best;
    return r;
}

// The scores of a span in p become weights relative to the largest, 16 items a head (lane >> 4). x:
// the largest, y: the sum of the weights.
FN float2 weigh_span(int n_q, int n, int lane, LOCAL float *p, LOCAL float *tops,
                     LOCAL float *sums) {
    const int head = lane >> 4, end = head < n_q ? n : 0;
    float2 r;
    r.x = LEAST, r.y = 0;
    for (int i = lane & 15; i < end; i += 16) r.x = FMAX(r.x, p[head * SPAN + i]);
    tops[lane] = r.x;
    BARRIER();
    for (int i = 0; i < 16; i++) r.x = FMAX(r.x, tops[head * 16 + i]);
    float sum = 0;
    for (int i = lane & 15; i < end; i += 16) {
        const float e = exp_of(p[head * SPAN + i] - r.x);
        p[head * SPAN + i] = e;
        sum += e;
    }
    sums[lane] = sum;
    BARRIER();
    for (int i = 0; i < 16; i++) r.y += sums[head * 16 + i];
    return r;
}

// What a team adds of n keys whose values are in the tile and whose weights are at p: elements pair
// and pair + dim / 2 of every head.
FN void add_values(LOCAL const float *tile, LOCAL const float *p, int dim, int team, int teams,
                   int pair, int n, int n_q, THREAD float2 *now) {
    for (int j = team; team < teams && j < n; j += teams) {
        const float v0 = tile[j * tile_row(dim) + pair];
        const float v1 = tile[j * tile_row(dim) + pair + (dim >> 1)];
        UNROLL
        for (int h = 0; h < MAX_SLICE; h++) {
            const float w = h < n_q ? p[h * SPAN + j] : 0.0f;
            now[h].x = FMA(w, v0, now[h].x), now[h].y = FMA(w, v1, now[h].y);
        }
    }
}

#define MOST_TEAMS 8

// 128 items. Scores: item (i & 63, i >> 6) takes a key of the span and four of the heads. Softmax:
// 16 items a head. Values: head_dim / 2 items are a team, which takes every so manieth key for all
// heads; then the teams' sums are added up. Where a group takes all spans, y holds the sums so far.
KERNEL_MANY(attend_keys, 128, 4)(BUFFER(0, const float *, q), BUFFER(1, const u8 *, k_cache),
                         BUFFER(2, const u8 *, v_cache), BUFFER(3, const i32 *, step),
                         BUFFER(4, float *, y), BUFFER(5, float *, partial),
                         ARGS(6, AttendArgs, a) IDS) {
    LOCAL_ARRAY(float, q_tile, MAX_SLICE * MAX_HEAD_DIM);
    LOCAL_ARRAY(float, tile, TILE_FLOATS);
    LOCAL_ARRAY(float, p, MAX_SLICE * SPAN);
    LOCAL_ARRAY(float, tops, 128);
    LOCAL_ARRAY(float, sums, 128);
    LOCAL_ARRAY(float2, factors, MAX_SLICE);
    GRID_GO();
    GRID_WAIT();
    const CacheArgs c = a.cache;
    const int token = GROUP_X, kv_head = GROUP_Y / a.n_slices, slice = GROUP_Y % a.n_slices;
    const int per_kv = a.n_heads / c.n_kv_heads, dim = c.head_dim;
    const int left = per_kv - slice * a.slice, n_q = left < a.slice ? left : a.slice;
    const u64 head0 = (u64)(token * a.n_heads + kv_head * per_kv + slice * a.slice);
    const int n_keys = step[c.n_tokens + token] + 1, seq = step[2 * c.n_tokens + token];
    const int n_all = (n_keys + SPAN - 1) / SPAN, split = a.n_spans > 0;
    const int span0 = split ? GROUP_Z : 0;
    const int span_end = split && span0 < n_all ? span0 + 1 : n_all;
    const int key_lane = LANE & 63, heads_at = (LANE >> 6) * 4;  // scores
    const int soft_head = LANE >> 4, soft_lane = LANE & 15;      // softmax
    const int pairs = dim >> 1, team = LANE / pairs, pair = LANE - team * pairs;
    const int fit = 128 / pairs, teams = fit < MOST_TEAMS ? fit : MOST_TEAMS;
    const int most = tile_keys(dim);
    float top = LEAST, total = 0;  // of soft_head, alike in its 16 items
    float2 now[MAX_SLICE];         // of a span and a team: elements pair and pair + pairs
    stage_q(q + head0 * (u64)dim, n_q * dim, dim, LANE, q_tile);

    for (int span = span0; span < span_end; span++) {
        const int from = span * SPAN, n = n_keys - from < SPAN ? n_keys - from : SPAN;
        for (int at = 0; at < n; at += most) {
            const int some = n - at < most ? n - at : most;
            BARRIER();
            stage(c.type_k, k_cache, c.k_scales_bytes, cache_row(c, seq, kv_head, from + at),
                  some * dim, dim, LANE, tile);
            BARRIER();
            if (key_lane < some && heads_at < n_q) {
                score_key(tile + key_lane * tile_row(dim), q_tile + heads_at * dim, dim, a.scale,
                          p + heads_at * SPAN + at + key_lane);
            }
        }
        BARRIER();
        const float2 weighed = weigh_span(n_q, n, LANE, p, tops, sums);
        const float2 factor = join_span(weighed.x, weighed.y, &top, &total);
        if (soft_lane == 0) factors[soft_head] = factor;
        UNROLL
        for (int h = 0; h < MAX_SLICE; h++) now[h].x = now[h].y = 0;
        for (int at = 0; at < n; at += most) {
            const int some = n - at < most ? n - at : most;
            BARRIER();
            stage(c.type_v, v_cache, c.v_scales_bytes, cache_row(c, seq, kv_head, from + at),
                  some * dim, dim, LANE, tile);
            BARRIER();
            add_values(tile, p + at, dim, team, teams, pair, some, n_q, now);
        }
        BARRIER();
        // The teams' sums take the place of the values.
        UNROLL
        for (int h = 0; h < MAX_SLICE; h++) {
            if (team < teams && h < n_q) {
                tile[(team * MAX_SLICE + h) * dim + pair] = now[h].x;
                tile[(team * MAX_SLICE + h) * dim + pair + pairs] = now[h].y;
            }
        }
        BARRIER();
        for (int i = LANE; i < n_q * dim; i += 128) {
            const int h = i / dim, d = i - h * dim;
            const u64 part = (head0 + (u64)h) * (u64)a.n_spans + (u64)span0;
            float value = 0;
            for (int t = 0; t < teams; t++) value += tile[t * MAX_SLICE * dim + i];
            if (split) {
                partial[part * (u64)PARTIAL(dim) + (u64)d] = value;
            } else {
                GLOBAL float *to = y + head0 * (u64)dim + (u64)i;
                *to = FMA(value, factors[h].y, span > 0 ? *to * factors[h].x : 0.0f);
            }
        }
    }
    BARRIER();
    if (soft_lane == 0) sums[soft_head] = total;
    BARRIER();
    if (split) {
        const u64 part = (head0 + (u64)soft_head) * (u64)a.n_spans + (u64)span0;
        GLOBAL float *to = partial + part * (u64)PARTIAL(dim) + (u64)dim;
        if (soft_lane == 0 && soft_head < n_q && span0 < n_all) to[0] = top, to[1] = total;
        return;
    }
    for (int i = LANE; i < n_q * dim; i += 128) {
        GLOBAL float *to = y + head0 * (u64)dim + (u64)i;
        *to = DIV(*to, sums[i / dim]);
    }
}

#define JOINED 4  // spans that are asked for together

// A group for each token and head. partial: for each span head_dim sums of weighted values, the top
// score, the sum of weights.
KERNEL(attend_join, 64)(BUFFER(0, const float *, partial), BUFFER(1, const i32 *, step),
                        BUFFER(2, float *, y), BUFFER(3, i8 *, codes), BUFFER(4, uint2 *, scales),
                        ARGS(5, AttendArgs, a) IDS) {
    LOCAL_ARRAY(u32, scratch, 64);
    GRID_GO();
    GRID_WAIT();
    const int dim = a.cache.head_dim, n_keys = step[a.cache.n_tokens + GROUP_X] + 1;
    const u64 head = (u64)(GROUP_X * a.n_heads + GROUP_Y);
    const int n_all = (n_keys + SPAN - 1) / SPAN, d = 4 * LANE, there = d < dim;
    float top = LEAST, total = 0;
    float v[4] = {0, 0, 0, 0};
    for (int first = 0; there && first < n_all; first += JOINED) {
        float tops[JOINED], totals[JOINED], sums[JOINED][4];
        UNROLL
        for (int b = 0; b < JOINED; b++) {
            const int s = first + b < n_all ? first + b : first;
            GLOBAL const float *from =
                partial + (head * (u64)a.n_spans + (u64)s) * (u64)PARTIAL(dim);
            tops[b] = from[dim], totals[b] = from[dim + 1];
            UNROLL
            for (int k = 0; k < 4; k++) sums[b][k] = d + k < dim ? from[d + k] : 0.0f;
        }
        UNROLL
        for (int b = 0; b < JOINED; b++) {
            if (first + b < n_all) {
                const float2 factor = join_span(tops[b], totals[b], &top, &total);
                UNROLL
                for (int k = 0; k < 4; k++) v[k] = FMA(sums[b][k], factor.y, v[k] * factor.x);
            }
        }
    }
    float4 value;
    value.x = value.y = value.z = value.w = 0;
    if (there) {
        value.x = DIV(v[0], total), value.y = DIV(v[1], total);
        value.z = DIV(v[2], total), value.w = DIV(v[3], total);
    }
    const u64 to = head * (u64)dim + (u64)d;
    if (there) {
        y[to] = value.x;
        if (d + 1 < dim) y[to + 1] = value.y;
        if (d + 2 < dim) y[to + 2] = value.z;
        if (d + 3 < dim) y[to + 3] = value.w;
    }
    write_codes(value, d, a.quantize && there, LANE, codes + head * (u64)dim,
                scales + (head * (u64)dim >> 4), scratch);
}

// A group for each token and head; kq and soft: n_tokens * n_heads rows of n_keys, 0 where masked.
KERNEL(attend_scores, 128)(BUFFER(0, const float *, q), BUFFER(1, const u8 *, k_cache),
                           BUFFER(2, const i32 *, step), BUFFER(3, float *, kq),
                           BUFFER(4, float *, soft), ARGS(5, AttendArgs, a) IDS) {
    LOCAL_ARRAY(float, scratch, 128);
    GRID_GO();
    GRID_WAIT();
    const CacheArgs c = a.cache;
    const int token = GROUP_X, dim = c.head_dim;
    const int n_keys = step[c.n_tokens + token] + 1, seq = step[2 * c.n_tokens + token];
    const u64 head = (u64)(token * a.n_heads + GROUP_Y);
    const u64 row0 = cache_row(c, seq, GROUP_Y / (a.n_heads / c.n_kv_heads), 0);
    GLOBAL const float *q_row = q + head * (u64)dim;
    GLOBAL float *kq_row = kq + head * (u64)a.n_keys, *soft_row = soft + head * (u64)a.n_keys;
    float top = LEAST, total = 0;
    for (int j = LANE; j < a.n_keys; j += 128) {
        float s = 0;
        for (int e = 0; j < n_keys && e < dim; e++) {
            const u64 at = row0 + (u64)j * (u64)dim + (u64)e;
            s = FMA(q_row[e], cache_1(c.type_k, k_cache, c.k_scales_bytes, at), s);
        }
        kq_row[j] = s * a.scale;
        if (j < n_keys) top = FMAX(top, s * a.scale);
    }
    scratch[LANE] = top;
    BARRIER();
    for (int i = 0; i < 128; i++) top = FMAX(top, scratch[i]);
    BARRIER();
    for (int j = LANE; j < a.n_keys; j += 128) {
        const float e = j < n_keys ? exp_of(kq_row[j] - top) : 0.0f;
        soft_row[j] = e;
        total += e;
    }
    scratch[LANE] = total;
    BARRIER();
    total = 0;
    for (int i = 0; i < 128; i++) total += scratch[i];
    for (int j = LANE; j < a.n_keys; j += 128) soft_row[j] = DIV(soft_row[j], total);
}
