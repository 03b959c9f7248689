// GGUF reader (versions 2 and 3, little-endian, split files): a mapped file and an index into it.
//
// This room owns: everything about the container; it believes no length, count or offset before it
// is checked against the bytes that are there. Follows
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. It leaves to others: what the keys
// mean (model/), how blocks decode (quants.h), writing (gguf_write.h).
#ifndef PLUMB_FORMATS_GGUF_H
#define PLUMB_FORMATS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "formats/quants.h"

typedef enum {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STR,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
} GgufType;

typedef struct {
    const char *ptr;  // into the mapping; not NUL-terminated, may hold any bytes
    uint64_t len;
} GgufStr;

typedef struct {
    const char *key;  // NUL-terminated, printable
    GgufType type;
    GgufType elem_type;   // of an array; never GGUF_ARRAY
    uint64_t n;           // elements of an array, 1 otherwise
    const uint8_t *raw;   // elements as stored, unaligned; of an array of strings use strs
    const GgufStr *strs;  // the string, or the n strings of an array of strings; else NULL
} GgufValue;

enum { GGUF_MAX_DIMS = 4, GGUF_MAX_NAME = 63 };

// A tensor: dims[0] is the contiguous one (a row's weights, a matrix's inputs), dims[1] the rows.
typedef struct Tensor {
    const char *name;
    TensorType type;
    int n_dims;                    // 1..4
    uint64_t dims[GGUF_MAX_DIMS];  // unused ones are 1
    uint64_t bytes;                // of the data, checked to lie in the file
    uint64_t offset;               // of the data from the start of its file
    const uint8_t *data;  // into the mapping; aligned as the file's general.alignment says, at best
    int part;             // which file of a split model (0-based)
} Tensor;

typedef struct Gguf Gguf;

// Opens path; where it is part of a split model (split.count > 1), any part's path opens all parts.
// Every failure is ERR_FILE (ERR_UNAVAILABLE for no memory) with a message that says path, key or
// tensor, byte offset, expected, found.
Status gguf_open(const char *path, Gguf **out, Error *err);
// The same over memory that the caller keeps until gguf_close (the linked-in demo model); name
// stands for the path.
Status gguf_open_memory(const void *data, size_t size, const char *name, Gguf **out, Error *err);
void gguf_close(Gguf *g);

const char *gguf_path(const Gguf *g);
uint32_t gguf_version(const Gguf *g);
uint64_t gguf_alignment(const Gguf *g);
uint64_t gguf_file_bytes(const Gguf *g);  // of all parts
int gguf_n_parts(const Gguf *g);
// All bytes of one file of the model, as they are mapped.
const uint8_t *gguf_part_bytes(const Gguf *g, int part, uint64_t *size);

// OK, or ERR_FILE when a mapped file has shrunk or failed under us since it was opened (see
// file_fault).
Status gguf_fault(const Gguf *g, Error *err);

size_t gguf_n_values(const Gguf *g);
const GgufValue *gguf_value_at(const Gguf *g, size_t i);
const GgufValue *gguf_find(const Gguf *g, const char *key);  // sorted index; NULL if absent

size_t gguf_n_tensors(const Gguf *g);
const Tensor *gguf_tensor_at(const Gguf *g, size_t i);       // in file order
const Tensor *gguf_tensor(const Gguf *g, const char *name);  // sorted index; NULL if absent

// Typed getters. Absent key: *found = false and OK, *out untouched. Wrong type or out of range:
// ERR_FILE naming the key, what was expected and what was found. An integer may be stored in any
// integer type whose value fits (writers differ); a float as f32 or f64. found may be NULL: then
// absent is an error.
Status gguf_get_u32(const Gguf *g, const char *key, uint32_t *out, bool *found, Error *err);
Status gguf_get_f32(const Gguf *g, const char *key, float *out, bool *found, Error *err);
Status gguf_get_bool(const Gguf *g, const char *key, bool *out, bool *found, Error *err);
Status gguf_get_str(const Gguf *g, const char *key, GgufStr *out, bool *found, Error *err);
// An array of any integer type (elements read by gguf_elem_i64), or of f32, or of strings.
Status gguf_get_array(const Gguf *g, const char *key, GgufType elem_type, const GgufValue **out,
                      bool *found, Error *err);
// Integer and bool elements; a u64 past 2^63 - 1 reads as 2^63 - 1.
int64_t gguf_elem_i64(const GgufValue *v, uint64_t i);
double gguf_elem_f64(const GgufValue *v, uint64_t i);  // f32, f64 and integers
const char *gguf_type_name(GgufType t);                // "u32", "array", ...
size_t gguf_type_size(GgufType t);                     // bytes; 0 for strings and arrays

#endif
