// Models that nobody trained: the shape of a known one, random weights, a made-up vocabulary.
//
// They run as fast as the real ones and need no download: for benchmarks and for tests of odd
// shapes. This room owns: the shapes, the weights, the vocabulary. It leaves to others: types
// (mix.h), encoding (quants.h), the file (gguf_write.h).
#ifndef PLUMB_FORMATS_SYNTH_H
#define PLUMB_FORMATS_SYNTH_H

#include "formats/mix.h"
#include "formats/quant_stream.h"

typedef struct {
    const char *name;  // "tinyllama-1.1b"
    const char *arch;  // "llama" or "qwen2"
    int n_layers, dim, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size, context;
    float norm_eps, rope_base;
    bool tied;  // no output.weight
    bool qkv_bias;
    bool llama3_rope;  // rope_freqs.weight: factor 32, low 1, high 4, trained on 8192 positions
} SynthShape;

const SynthShape *synth_by_name(const char *name);  // case-insensitive; NULL if there is none such
const SynthShape *synth_at(int i);                  // for listing; NULL past the end
uint64_t synth_weights(const SynthShape *shape);    // of all tensors

// Writes such a model to out_path, with the types of the mix. The same shape, mix and seed give the
// same bytes on every machine and with any number of threads. Memory: a few MiB and the vocabulary.
// Errors: ERR_FAILED (writing), ERR_UNAVAILABLE (memory).
Status synth_write(const SynthShape *shape, const Mix *mix, uint64_t seed, const char *out_path,
                   Pool *pool, Progress progress, Error *err);

#endif
