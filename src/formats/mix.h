// Which type each tensor gets in a quantized file: the "ftype" mixes of llama.cpp.
//
// Q4_K_M, for one, gives output.weight Q6_K, and attn_v and ffn_down Q6_K in the layers that matter
// most, the rest Q4_K; norms stay F32. A row that is no multiple of 256 falls back (Q4_K to Q5_0,
// Q5_K to Q5_1, Q6_K to Q8_0, Q2_K and Q3_K to Q4_0, and F16 where no block fits).
#ifndef PLUMB_FORMATS_MIX_H
#define PLUMB_FORMATS_MIX_H

#include "formats/quants.h"

typedef struct {
    const char *name;    // "Q4_K_M"
    uint32_t file_type;  // general.file_type
    TensorType base;     // type of most tensors
} Mix;

// F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K
// IQ4_NL, and the short names Q3_K Q4_K Q5_K (= _M); NULL if there is none such. Case-insensitive.
const Mix *mix_by_name(const char *name);
const Mix *mix_at(int i);                               // for listing; NULL past the end
const char *mix_name_of_file_type(uint32_t file_type);  // NULL if unknown

typedef struct {
    int n_layers;
    int n_heads, n_kv_heads;
    bool tied;  // there is no output.weight: token_embd takes the type of the output
} MixModel;

// Whether no mix touches this tensor (its GGUF name): what has one dimension, norms, biases, the
// router of a mixture of experts. Such tensors are copied, or made as F32.
bool mix_keeps(const char *name, int n_dims);

// Type for the tensor `name` (its GGUF name) of n_dims dims with n_cols weights a row.
TensorType mix_type(const Mix *mix, const MixModel *model, const char *name, int n_dims,
                    uint64_t n_cols);

#endif
