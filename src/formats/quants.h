// Tensor types: what a block of weights looks like, to decode it and to make it.
//
// This room owns: the table of types, scalar decode of each (the text that explains every faster
// kernel; bit-exact with gguf-py), scalar encode, and the 16-bit floats.
// It leaves to others: speed (backend/cpu), files (gguf.h), which type a tensor should get (mix.h).
//
// Layouts are those of ggml (ggml-common.h and gguf-py's quants.py are the reference).
#ifndef PLUMB_FORMATS_QUANTS_H
#define PLUMB_FORMATS_QUANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Type ids as GGUF stores them.
typedef enum {
    TYPE_F32 = 0,
    TYPE_F16 = 1,
    TYPE_Q4_0 = 2,
    TYPE_Q4_1 = 3,
    TYPE_Q5_0 = 6,
    TYPE_Q5_1 = 7,
    TYPE_Q8_0 = 8,
    TYPE_Q2_K = 10,
    TYPE_Q3_K = 11,
    TYPE_Q4_K = 12,
    TYPE_Q5_K = 13,
    TYPE_Q6_K = 14,
    TYPE_IQ4_NL = 20,
    TYPE_IQ4_XS = 23,
    TYPE_BF16 = 30,
    TYPE_MXFP4 = 39,
    TYPE_LIMIT = 64,  // type ids lie below this
} TensorType;

typedef struct {
    const char *name;      // "Q4_K"
    uint32_t block_len;    // weights in a block (1 for plain floats)
    uint32_t block_bytes;  // bytes of a block
} TypeInfo;

// NULL for a type this build cannot decode.
const TypeInfo *type_info(uint32_t type);
// Name of any type id, also of those that are not supported ("IQ2_XXS", "Q4_2 (removed)",
// "TQ1_0", "type 9999"); *why gets, unless NULL, a phrase such as "removed from GGUF in 2023" or
// "owned by the fork ik_llama.cpp", and "" for a supported type. The name is static or in buf.
const char *type_name(uint32_t type, char buf[32], const char **why);
// Finds a type by its name, case-insensitively; false if there is none.
bool type_by_name(const char *name, TensorType *out);

// Bytes of n weights of this type; false if n is no multiple of the block or the product overflows.
bool type_bytes(TensorType type, uint64_t n, uint64_t *bytes);

// Decodes n weights (a multiple of the block length). src needs no alignment.
void dequantize(TensorType type, const void *src, float *dst, size_t n);

// Encodes n weights (a multiple of the block length), the same bytes on every machine. Types that
// can be made: F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL. What is
// written is always finite: NaN and Inf in src count as 0, and what the type cannot hold saturates.
bool type_can_quantize(TensorType type);
void quantize(TensorType type, const float *src, void *dst, size_t n);

// IEEE half and bfloat16. To 16 bits: round to nearest, ties to even; overflow gives infinity; NaN
// stays NaN.
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float x);
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float x);
// E8M0 scale of the MX formats, halved as ggml does: 2^(e-128).
float e8m0_half_to_f32(uint8_t e);

// The value tables of IQ4_NL / IQ4_XS and MXFP4 (index = 4-bit code).
extern const int8_t iq4nl_values[16];
extern const int8_t mxfp4_values[16];

// The 6-bit scale and minimum of sub-block j (0..7) in the 12 packed bytes of Q4_K and Q5_K.
//
//   byte  0..3   [ hi2 of scale 4+i | scale i   (6 bits) ]
//   byte  4..7   [ hi2 of min   4+i | min   i   (6 bits) ]
//   byte  8..11  [ lo4 of min 4+i   | lo4 of scale 4+i   ]
static inline void k4_scale_min(const uint8_t *p, int j, uint8_t *scale, uint8_t *min) {
    if (j < 4) {
        *scale = p[j] & 63, *min = p[j + 4] & 63;
    } else {
        *scale = (uint8_t)((p[j + 4] & 15) | (p[j - 4] >> 6) << 4);
        *min = (uint8_t)((p[j + 4] >> 4) | (p[j] >> 6) << 4);
    }
}

// Little-endian 16-bit load that needs no alignment.
static inline uint16_t load_u16(const void *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

#endif
