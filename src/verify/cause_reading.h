// Reading a matrix from other places than it stands at, or with other blocks than it has.
//
// This room owns: that nothing is read which is not there. It leaves to others: which places are
// worth a try (cause_embed.c, cause_matmul.c, cause_quants.c).
#ifndef PLUMB_VERIFY_CAUSE_READING_H
#define PLUMB_VERIFY_CAUSE_READING_H

#include "formats/gguf.h"
#include "verify/cause_blocks.h"

typedef struct {
    const Tensor *t;
    const BlockFlaw *flaw;    // or NULL
    long shift;               // bytes from the tensor's data to where it is thought to start
    size_t row_bytes;         // from row to row
    size_t block_bytes;       // and from block to block in a row
    uint64_t before, behind;  // bytes that can be read before the tensor's data; from it on
} Reading;

// As it should be read. g: the file that t lies in, or NULL: then only t itself can be read.
Reading reading_of(const Tensor *t, const Gguf *g);
bool reading_has(const Reading *r, size_t row);  // may it be read?
// The rows from *from to *to - 1 of dims[1] may be.
void reading_rows(const Reading *r, size_t *from, size_t *to);
// Decodes a row that may be read: dims[0] weights.
void reading_row(const Reading *r, size_t row, float *w);
// n weights of the flat array that a matrix is, from `start` on.
void reading_flat(const Tensor *t, size_t start, size_t n, float *out);

// The bytes, if any, by which t's data would start earlier if no tensor before it were padded.
uint64_t reading_padding(const Tensor *t, const Gguf *g);
const char *reading_shift_text(const Reading *r, char out[64]);  // "5 bytes too early"

#endif
