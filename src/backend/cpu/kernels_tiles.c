// Over the AVX-512 kernels, what runs on AMX tiles.
#include "backend/cpu/kernels_amx.h"
#include "backend/cpu/kernels_panels.h"
#include "backend/cpu/unpack.h"

static MatmulForm tiles_form(TensorType type) {
    if (panel_has(type)) return FORM_PANELS;
    if (type == TYPE_BF16) return FORM_TILES;
    return type == TYPE_F32 || type == TYPE_F16 ? FORM_FLOATS : FORM_ROWS;
}

static ActQuant tiles_activation(TensorType type) {
    if (type == TYPE_BF16) return ACT_BF16;
    const int block = unpack_form(type).block;
    return block == 32 ? ACT_Q8_0 : block == 256 ? ACT_Q8_K : ACT_F32;
}

void KERNEL(amx_kernels)(Kernels *k);

void KERNEL(amx_kernels)(Kernels *k) {
    k->form = tiles_form;
    k->activation = tiles_activation;
    k->matmul[FORM_PANELS] =
        (MatmulKernels){amx_act_bytes, amx_act_make, amx_scratch, amx_panels_matmul};
    k->matmul[FORM_TILES] =
        (MatmulKernels){bf16_act_bytes, bf16_act_make, bf16_scratch, bf16_matmul};
}
