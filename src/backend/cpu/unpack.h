// From a row of weights as stored to the form that the generic dot products read.
//
// Quantized rows become 16-bit integers and few floats, so that one loop serves all types:
//   blocks of 32:   weight i  = d[i/32] * w[i] + m[i/32]
//   blocks of 256:  weight i  = d[i/256] * w[i] - dmin[i/256] * min[i/16]
// In the second form the 6-bit (or 4-bit) scale of the sub-block is multiplied into w: the products
// fit 16 bits in every type (Q6_K: 128 * 32, Q5_K: 63 * 31, IQ4_XS: 32 * 127), and a block needs
// one float scale.
//
// The integers of 32 neighbours stand in another order: first those of even index, then the odd
// ones. So two bytes that were loaded as one 16-bit number fall apart by a mask and a shift, which
// every vector unit has, and no bytes are moved. Activations are stored in the same order.
#ifndef PLUMB_BACKEND_CPU_UNPACK_H
#define PLUMB_BACKEND_CPU_UNPACK_H

#include "backend/cpu/kernel_set.h"
#include "formats/quants.h"

#define unpack_form KERNEL(unpack_form)
#define unpack_int KERNEL(unpack_int)
#define unpack_float KERNEL(unpack_float)

// Where element i of 32 stands.
static inline int unpack_place(int i) {
    return (i & 1) * 16 + i / 2;
}

typedef struct {
    int16_t *w;    // n
    int16_t *min;  // 16 a block of 256: minimums of 16 weights each, or 8 of 32 each and 8 zeros
    float *d;      // n / block
    float *m;      // n / block: m of blocks of 32, dmin of blocks of 256
} IntRow;

typedef struct {
    int block;  // 32 or 256; 0: the type is unpacked to floats
    bool has_min;
    int min_group;  // of blocks of 256: weights that share a minimum, 16 or 32
} UnpackForm;

UnpackForm unpack_form(TensorType type);
void unpack_int(TensorType type, const uint8_t *src, int n, IntRow *row);
void unpack_float(TensorType type, const uint8_t *src, int n, float *row);  // F32, F16, BF16

#endif
