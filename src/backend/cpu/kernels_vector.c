// Over the generic kernels, what is written in vectors of one level (lanes.h).
#include "backend/cpu/kernels_attention.h"
#include "backend/cpu/kernels_floats.h"
#include "backend/cpu/kernels_panels.h"
#include "backend/cpu/kernels_rows.h"

static MatmulForm vector_form(TensorType type) {
    if (panel_has(type)) return FORM_PANELS;
    return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16 ? FORM_FLOATS : FORM_ROWS;
}

void KERNEL(vector_kernels)(Kernels *k);

void KERNEL(vector_kernels)(Kernels *k) {
    k->form = vector_form;
    k->matmul[FORM_PANELS] =
        (MatmulKernels){panels_act_bytes, panels_act_make, panels_scratch, panels_matmul};
    k->matmul[FORM_FLOATS] = (MatmulKernels){floats_act_bytes, NULL, floats_scratch, floats_matmul};
    k->rmsnorm = rows_rmsnorm;
    k->swiglu = rows_swiglu;
    k->attention = &attention_kernels;
}
