// Arrays of numbers as other programs write them: what npy and safetensors files hold.
//
// This room owns: element types, sizes that cannot overflow, reading elements.
// It leaves to others: the containers (npy.h, safetensors.h), what an array means.
#ifndef PLUMB_FORMATS_NDARRAY_H
#define PLUMB_FORMATS_NDARRAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    ND_F16,
    ND_BF16,
    ND_F32,
    ND_F64,  // the floats come first
    ND_I8,
    ND_U8,
    ND_I16,
    ND_U16,
    ND_I32,
    ND_U32,
    ND_I64,
    ND_U64,
    ND_TYPES
} NdType;

enum { ND_MAX_RANK = 8 };

typedef struct {
    const char *name;
    NdType type;
    int rank;                    // 0..ND_MAX_RANK; 0: one number
    uint64_t dims[ND_MAX_RANK];  // slowest first, the last one contiguous
    uint64_t n, bytes;           // of all elements
    const uint8_t *data;         // little-endian, of any alignment
} NdArray;

const char *nd_type_name(NdType t);  // "F32", as safetensors spells them
size_t nd_type_size(NdType t);
bool nd_type_is_float(NdType t);

// Sets n and bytes from type, rank and dims; false when they do not fit 63 bits.
bool nd_set_size(NdArray *a);

// Elements at..at + n of a float array, as float32 (F64 rounded to nearest).
void nd_read_f32(const NdArray *a, uint64_t at, uint64_t n, float *out);
// Element i of an integer array; a U64 past 2^63 - 1 reads as 2^63 - 1.
int64_t nd_read_int(const NdArray *a, uint64_t i);

#endif
