// Safetensors reader: a mapped file and the list of its tensors.
//
// This room owns: the container; no length, offset or shape is believed before it is checked.
// Follows https://github.com/huggingface/safetensors (README, "Format"). It leaves to others: what
// the tensors mean. The header is JSON, read with jansson; a build without it says so.
#ifndef PLUMB_FORMATS_SAFETENSORS_H
#define PLUMB_FORMATS_SAFETENSORS_H

#include "base/status.h"
#include "formats/ndarray.h"

typedef struct Safetensors Safetensors;

typedef struct {
    const char *key, *text;
} SafetensorsText;

// ERR_FILE names file and tensor; ERR_UNAVAILABLE: no memory, or a build without jansson.
Status safetensors_open(const char *path, Safetensors **out, Error *err);
// The same over memory that the caller keeps until safetensors_close; name stands for the path.
Status safetensors_open_memory(const void *data, uint64_t size, const char *name, Safetensors **out,
                               Error *err);
void safetensors_close(Safetensors *s);

size_t safetensors_n(const Safetensors *s);
const NdArray *safetensors_at(const Safetensors *s, size_t i);  // in the order of the data
size_t safetensors_n_texts(const Safetensors *s);               // of __metadata__
SafetensorsText safetensors_text_at(const Safetensors *s, size_t i);
Status safetensors_fault(const Safetensors *s, Error *err);  // as file_fault

#endif
