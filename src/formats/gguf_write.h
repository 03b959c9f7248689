// GGUF writer: metadata, then tensor declarations, then their data in the same order. Version 3.
//
// The file appears under its name only when gguf_writer_finish succeeds (see OutFile in
// base/file.h). The header must pass gguf.h's own reader (names, doubled keys, block sizes,
// general.alignment, which is honoured where it is put), else the first data call fails. Same puts,
// same bytes.
#ifndef PLUMB_FORMATS_GGUF_WRITE_H
#define PLUMB_FORMATS_GGUF_WRITE_H

#include "formats/gguf.h"

typedef struct GgufWriter GgufWriter;

Status gguf_writer_open(const char *path, GgufWriter **out, Error *err);
void gguf_writer_abort(GgufWriter *w);  // removes what was written; NULL is fine

// Metadata. The writer copies what it is given. Out of memory is remembered and reported by the
// next data call.
void gguf_put_u32(GgufWriter *w, const char *key, uint32_t v);
void gguf_put_f32(GgufWriter *w, const char *key, float v);
void gguf_put_bool(GgufWriter *w, const char *key, bool v);
void gguf_put_str(GgufWriter *w, const char *key, const char *v);
void gguf_put_array(GgufWriter *w, const char *key, GgufType elem_type, uint64_t n,
                    const void *raw);
void gguf_put_strs(GgufWriter *w, const char *key, uint64_t n, const GgufStr *strs);
// Copies a value of another file as it is; the keys split.* are left out, since what is written is
// one file.
void gguf_put_value(GgufWriter *w, const GgufValue *v);

// Declares a tensor (all of them before the first data).
void gguf_put_tensor(GgufWriter *w, const char *name, TensorType type, int n_dims,
                     const uint64_t *dims);
// Appends data of the declared tensors, in order; may be called in pieces. Checked: too much is
// CHECKed.
Status gguf_write_data(GgufWriter *w, const void *bytes, size_t len, Error *err);
// All data there? Then the file is renamed into place and w freed; on failure w is freed too.
Status gguf_writer_finish(GgufWriter *w, Error *err);

#endif
