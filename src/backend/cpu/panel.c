// Rows as in the file to panels; see panel.h. The file's layouts are drawn in formats/quants.c.
#include "backend/cpu/panel.h"

#include <string.h>

bool panel_has(TensorType type) {
    switch (type) {
        case TYPE_Q8_0:
        case TYPE_Q4_0:
        case TYPE_Q4_K:
        case TYPE_Q5_K:
        case TYPE_Q6_K: return true;
        default: return false;
    }
}

size_t panel_bytes(TensorType type, int n) {
    const PanelLayout l = panel_layout(type);
    return panel_blocks_at(l, n) + (size_t)(n / l.block_len) * l.block_bytes;
}

static inline uint32_t word(const uint8_t *p) {
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

// Four codes of row n into vector v.
static inline void put_word(uint8_t *vectors, int v, int n, uint32_t w) {
    memcpy(vectors + 64 * v + 4 * n, &w, sizeof w);
}

static inline void put_half(uint8_t *halves, int n, const uint8_t *from) {
    memcpy(halves + 2 * n, from, 2);
}

enum { LOW = 0x0f0f0f0f };

static void pack_q8_0(const uint8_t *src, int n, uint8_t *to) {
    for (int g = 0; g < 8; g++) put_word(to, g, n, word(src + 2 + 4 * g));
}

// In the file low nibbles are weights 0..15 and high ones 16..31.
static void pack_q4_0(const uint8_t *src, int n, uint8_t *to) {
    for (int v = 0; v < 4; v++) put_word(to, v, n, word(src + 2 + 4 * v));
}

// 32 bytes whose low nibbles are one group and whose high ones the next, to 2 x 4 vectors.
static inline void pack_nibbles(const uint8_t *qs, int n, uint8_t *to) {
    for (int v = 0; v < 4; v++) {
        const uint32_t a = word(qs + 4 * v), b = word(qs + 16 + 4 * v);
        put_word(to, v, n, (a & LOW) | (b & LOW) << 4);
        put_word(to + 256, v, n, (a >> 4 & LOW) | (b & ~(uint32_t)LOW));
    }
}

// The twelve bytes of Q4_K and Q5_K; k4_scale_min draws them.
static void pack_scales(const uint8_t *p, int n, uint8_t *to) {
    for (int j = 0; j < 8; j++) {
        uint8_t scale, min;
        k4_scale_min(p, j, &scale, &min);
        const int i = 16 * j + n;
        to[i] = (uint8_t)((scale & 15) | (min & 15) << 4);
        uint8_t *high = &to[128 + i % 64];
        const int bits = scale >> 4 | (min >> 4) << 2;
        *high = (uint8_t)(i < 64 ? bits : *high | bits << 4);
    }
}

static void pack_q4_k(const uint8_t *src, int n, uint8_t *to) {
    put_half(to, n, src);
    put_half(to + 32, n, src + 2);
    pack_scales(src + 4, n, to + 64);
    for (int c = 0; c < 4; c++) pack_nibbles(src + 16 + 32 * c, n, to + 256 + 512 * c);
}

static void pack_q5_k(const uint8_t *src, int n, uint8_t *to) {
    const uint8_t *qh = src + 16;
    put_half(to, n, src);
    put_half(to + 32, n, src + 2);
    pack_scales(src + 4, n, to + 64);
    for (int c = 0; c < 4; c++) pack_nibbles(src + 48 + 32 * c, n, to + 256 + 512 * c);
    // In the file bit j of byte k is the fifth bit of weight k of group j.
    for (int j = 0; j < 8; j++) {
        uint32_t bits = 0;
        for (int g = 0; g < 8; g++) bits |= (word(qh + 4 * g) >> j & 0x01010101) << g;
        put_word(to + 256 + 2048, j, n, bits);
    }
}

// In the file 128 weights are four groups: 64 bytes of low nibbles (groups 0 and 1), whose high
// nibbles are groups 2 and 3, and 32 bytes of upper bits, two a group.
static void pack_q6_k(const uint8_t *src, int n, uint8_t *to) {
    uint8_t *nibbles = to + 256, *upper = nibbles + 2048;
    for (int i = 0; i < 16; i++) to[16 * i + n] = src[192 + i];
    for (int j = 0; j < 8; j++) {
        const uint8_t *ql = src + 64 * (j / 4) + 32 * (j % 2), *qh = src + 128 + 32 * (j / 4);
        const int shift = j % 4 >= 2 ? 4 : 0;
        for (int v = 0; v < 4; v++) {
            const uint32_t a = word(ql + 4 * v) >> shift & LOW;
            const uint32_t b = word(ql + 16 + 4 * v) >> shift & LOW;
            put_word(nibbles + 256 * j, v, n, a | b << 4);
        }
        for (int half = 0; half < 2; half++) {
            uint32_t bits = 0;
            for (int g = 0; g < 4; g++)
                bits |= (word(qh + 16 * half + 4 * g) >> (2 * (j % 4)) & 0x03030303) << (2 * g);
            put_word(upper + 128 * j, half, n, bits);
        }
    }
}

// One row's block into row n of a panel's.
static inline void pack_block(TensorType type, const uint8_t *src, int n, uint8_t *to) {
    switch (type) {
        case TYPE_Q8_0: pack_q8_0(src, n, to); break;
        case TYPE_Q4_0: pack_q4_0(src, n, to); break;
        case TYPE_Q4_K: pack_q4_k(src, n, to); break;
        case TYPE_Q5_K: pack_q5_k(src, n, to); break;
        default: pack_q6_k(src, n, to); break;
    }
}

void panel_pack(TensorType type, const uint8_t *rows, size_t row_bytes, int n_rows, int n,
                uint8_t *panel) {
    const PanelLayout l = panel_layout(type);
    const size_t bytes = type_info(type)->block_bytes, d_at = type == TYPE_Q6_K ? 208 : 0;
    uint8_t *to = panel + panel_blocks_at(l, n);
    if (n_rows < PANEL_ROWS) memset(panel, 0, panel_bytes(type, n));
    for (int b = 0; b < n / l.block_len; b++, rows += bytes, to += l.block_bytes) {
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *src = rows + (size_t)r * row_bytes;
            if (l.d_first) put_half(panel + 32 * b, r, src + d_at);
            pack_block(type, src, r, to);
        }
    }
}
