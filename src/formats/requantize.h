// From one GGUF file to another with other tensor types.
//
// This room owns: which tensors are converted and which copied, and the metadata that changes.
// It leaves to others: the types (mix.h), the encoding (quants.h), the containers (gguf.h).
#ifndef PLUMB_FORMATS_REQUANTIZE_H
#define PLUMB_FORMATS_REQUANTIZE_H

#include "formats/mix.h"
#include "formats/quant_stream.h"

// Writes `in` with the types of the mix to out_path, which appears whole or not at all and may be
// the path of `in`. Metadata are copied but for general.file_type and general.quantization_version.
// A tensor that no mix touches, or that has its type already, is copied as it is; any other is
// decoded from whatever type it has. Memory: a few MiB. The same bytes with any number of threads.
// Errors: ERR_FILE (the input failed under us, or cannot be converted), ERR_FAILED (writing),
// ERR_UNAVAILABLE (memory).
Status requantize(const Gguf *in, const Mix *mix, const char *out_path, Pool *pool,
                  Progress progress, Error *err);

#endif
