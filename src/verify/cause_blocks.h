// Blocks of weights decoded in the ways in which they are known to be decoded wrongly.
//
// This room owns: the list of flaws and a decoder that has them. It is written apart from
// formats/quants.c, from the drawings there; without a flaw it gives the same weights.
#ifndef PLUMB_VERIFY_CAUSE_BLOCKS_H
#define PLUMB_VERIFY_CAUSE_BLOCKS_H

#include "formats/quants.h"

typedef struct {
    const char *id;    // of the hypothesis
    const char *text;  // what is wrong, for one who reads the decoder
    uint64_t types;    // bit t: can befall type t
    uint32_t how;      // bits of cause_blocks.c
} BlockFlaw;

// The flaws, those of one id together; NULL past the end.
const BlockFlaw *block_flaw_at(int i);

// Decodes n weights (whole blocks) with the flaw, or rightly where it is NULL.
void block_decode(const BlockFlaw *flaw, TensorType type, const void *src, float *dst, size_t n);

#endif
