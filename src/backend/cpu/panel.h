// Weights in panels: 16 rows that are multiplied together, one row a lane of a vector.
//
// A panel is as long as its 16 rows are in the file, rounded up to 64 bytes; a last panel is filled
// up with rows of zeros. n stands for the row (0..15), "codes" for a vector of 64 bytes [n][4]: of
// each row the four codes of neighbours k .. k + 3. A group is 32 neighbours: eight such vectors,
// g = 0..7, k = 4 g. First stand, where they are not within the blocks, the scales d of all blocks,
// f16[n] each, and room up to the next 64 bytes; then the blocks:
//
//   Q8_0   codes g = 0..7, signed
//   Q4_0   v = 0..3: low nibbles codes g = v, high nibbles g = v + 4; code - 8
//   Q4_K   d f16[n] | dmin f16[n] | scales | for each of 8 groups: 4 vectors as Q4_0's
//   Q5_K   as Q4_K, and after all groups' nibbles, for each group: fifth bits, one vector, bit g
//   Q6_K   scale int8[16 of 16 neighbours][n] | nibbles as Q4_K's | for each group the upper two
//          bits of the codes: a vector for g = 0..3, one for g = 4..7, at bit 2 (g % 4); code - 32
//   scales: 128 bytes, [group][n]: low nibble of the scale, of the minimum in the upper half; then
//   64 bytes, byte i has the two upper bits of scale i, minimum i, scale i + 64, minimum i + 64
#ifndef PLUMB_BACKEND_CPU_PANEL_H
#define PLUMB_BACKEND_CPU_PANEL_H

#include "formats/quants.h"

enum { PANEL_ROWS = 16 };

bool panel_has(TensorType type);

typedef struct {
    int block_len;       // weights of a row in a block
    size_t block_bytes;  // of 16 rows, without what stands before all blocks
    bool d_first;        // the scales d stand there
} PanelLayout;

static inline PanelLayout panel_layout(TensorType type) {
    switch (type) {
        case TYPE_Q8_0: return (PanelLayout){32, 512, true};
        case TYPE_Q4_0: return (PanelLayout){32, 256, true};
        case TYPE_Q4_K: return (PanelLayout){256, 2304, false};
        case TYPE_Q5_K: return (PanelLayout){256, 2816, false};
        default: return (PanelLayout){256, 3328, true};  // Q6_K
    }
}

// Where the blocks of a panel of rows of n weights start.
static inline size_t panel_blocks_at(PanelLayout l, int n) {
    return l.d_first ? ((size_t)(n / l.block_len) * 32 + 63) / 64 * 64 : 0;
}
// Bytes of a panel of rows of n weights.
size_t panel_bytes(TensorType type, int n);
// Makes a panel of n_rows (1..16) rows, which stand row_bytes apart.
void panel_pack(TensorType type, const uint8_t *rows, size_t row_bytes, int n_rows, int n,
                uint8_t *panel);

#endif
