// Vectors of floats and of whole numbers, as wide as the machine's: what a kernel that is written
// once needs of each instruction set. LANES is 16, 8 or 4; the functions are the same in every
// file, and so are their results, to the bit.
//
//   F32  LANES floats     I32  LANES whole numbers     F64  LANES doubles
//   f32_zero(), f32_all(x), f32_load(p), f32_store(p, v)
//   f32_add, f32_sub, f32_mul, f32_div
//   f32_fma(a, b, c)      a * b + c, rounded once
//   f32_max, f32_min      b where either is not a number
//   f32_unless(a, b, v)   0 where a < b, else v
//   f32_raise(v, t)       v * 2^n, a normal number; n: t's lowest 9 bits, as a signed number
//   f32_halves(p)         LANES IEEE halves; f32_bfloats, f32_bytes (signed): likewise
//   f32_half(p)           one IEEE half in every lane
//   f32_keep(v, n)        the first n lanes, 0 in the others
//   f64_zero(), f64_store(p, s)
//   f64_square(s, v)      s + v * v, the product exact
//   BLOCK_ROWS x BLOCK_VECTORS   sums of a product of matrices that stay in registers beside what
//                         they are made of: rows 4, 6 or 8, vectors 1 or 2
//   HALVES_ARE_DEAR       1: f32_halves takes many instructions
//
// The generic set (lanes_plain.h) has the float functions alone, and its f32_fma rounds twice: its
// processor may have no other.
//
// Of weights (panel.h), whose lanes are rows:
//   Codes                 4 bytes a lane: codes of four neighbours
//   Dots                  sums of products of codes and inputs, as the machine likes them
//   dots_start(pairs, bias), dots_add(d, c, a)   the sum of (code - bias) * input of each lane:
//                         started with two int16 in `pairs`, the sums of all its inputs whose index
//                         is 0 or 1 mod 4, and 2 or 3; then a vector of codes below 2^6 and four
//                         inputs at a time
//   scaled(s, d, scale)   s + d * scale, of each lane; scale from scale_u8 or scale_i8
//   plain(d)              d as I32
//   dots_signed(c, a, pairs)     of 8 vectors of signed codes and 32 inputs
//   mins(m0, m1)          two rows of LANES bytes, for mins_dot(s, m, b): s + m0 * b0 + m1 * b1,
//                         b: two int16
// How many vectors Dots can take before a sum could overflow depends on the codes: GROUP_4 for
// codes below 2^4, GROUP_5, GROUP_6 (4 or 8).
#ifndef PLUMB_BACKEND_CPU_LANES_H
#define PLUMB_BACKEND_CPU_LANES_H

#include <stdint.h>
#include <string.h>

#include "backend/cpu/kernel_set.h"

static inline int32_t load_i32(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#if defined(KERNEL_SET_GENERIC)
#include "backend/cpu/lanes_plain.h"
#elif defined(PLAIN_LANES)
#include "backend/cpu/lanes_host.h"
#elif defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "backend/cpu/lanes_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "backend/cpu/lanes_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "backend/cpu/lanes_neon.h"
#else
#include "backend/cpu/lanes_host.h"
#endif

#endif
