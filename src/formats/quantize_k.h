// Encoders of one block each, for quantize() alone. x: the block's weights, finite, at most 1e9 in
// magnitude; block: where its bytes go, unaligned.
#ifndef PLUMB_FORMATS_QUANTIZE_K_H
#define PLUMB_FORMATS_QUANTIZE_K_H

#include <stdint.h>

void quantize_q2_k(const float *x, uint8_t *block);
void quantize_q3_k(const float *x, uint8_t *block);
void quantize_q4_k(const float *x, uint8_t *block);
void quantize_q5_k(const float *x, uint8_t *block);
void quantize_q6_k(const float *x, uint8_t *block);

#endif
