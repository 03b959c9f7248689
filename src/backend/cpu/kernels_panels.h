// Matmul from panels (panel.h): what the kernels of every instruction set share. The functions
// exist once for each set; see kernel_set.h.
#ifndef PLUMB_BACKEND_CPU_KERNELS_PANELS_H
#define PLUMB_BACKEND_CPU_KERNELS_PANELS_H

#include "backend/cpu/kernel_set.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/panel.h"

#define panels_act_make KERNEL(panels_act_make)
#define panels_matmul KERNEL(panels_matmul)

static inline ActQuant panels_activation(TensorType type) {
    return type_info(type)->block_len == 32 ? ACT_Q8_0 : ACT_Q8_K;
}

// The rounded inputs of a matmul, blocks of 32 or 256: for each block all inputs one after the
// other. With `at` = block * n_act + input:
typedef struct {
    int8_t *q;       // at * block: the codes
    int32_t *pairs;  // at * 16, of each 16 codes (or at, of blocks of 32): for dots_start()
    int16_t *sums;   // at * 8, of each 32 codes; blocks of 256 only
    float *d;        // at
} PanelActs;

enum { PANEL_ACT_SLACK = 15 * 256 };  // behind the codes: tiles read whole rows of 16 inputs

static inline size_t panels_act_bytes(ActQuant quant, int n, int n_act) {
    const size_t blocks = (size_t)n / (quant == ACT_Q8_0 ? 32 : 256) * (size_t)n_act;
    return (size_t)n * (size_t)n_act + blocks * (quant == ACT_Q8_0 ? 4 : 64 + 16) + blocks * 4 +
           PANEL_ACT_SLACK;
}

static inline PanelActs panel_acts(void *act, ActQuant quant, int n, int n_act) {
    const size_t blocks = (size_t)n / (quant == ACT_Q8_0 ? 32 : 256) * (size_t)n_act;
    PanelActs a;
    a.q = act;
    a.pairs = (int32_t *)(void *)(a.q + (size_t)n * (size_t)n_act);
    a.sums = (int16_t *)(void *)(a.pairs + blocks * (quant == ACT_Q8_0 ? 1 : 16));
    a.d = (float *)(void *)(a.sums + (quant == ACT_Q8_0 ? 0 : blocks * 8));
    return a;
}

static inline size_t panels_scratch(int n) {
    (void)n;
    return 0;
}

// The scales and minimums of a block of Q4_K or Q5_K, [group][row] each.
static inline void panel_scales(const uint8_t *p, uint8_t scale[128], uint8_t min[128]) {
    const uint8_t *high = p + 128;
    for (int i = 0; i < 64; i++) {
        scale[i] = (uint8_t)((p[i] & 15) | (high[i] & 3) << 4);
        min[i] = (uint8_t)(p[i] >> 4 | (high[i] & 12) << 2);
        scale[64 + i] = (uint8_t)((p[64 + i] & 15) | (high[i] & 0x30));
        min[64 + i] = (uint8_t)(p[64 + i] >> 4 | (high[i] & 0xc0) >> 2);
    }
}

void panels_act_make(ActQuant quant, const float *x, int n, int t, int n_act, void *act);
void panels_matmul(const MatmulTask *m, long r0, long r1, void *scratch);

#endif
