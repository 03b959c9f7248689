// What the files of the GGUF reader share: the index of one file (a part), and of all parts.
//
// gguf_parse.c turns bytes into a part, gguf_words.c says what a file is that is no GGUF, gguf.c
// joins parts into a model, gguf_values.c answers typed questions. Nobody else includes this
// header, except the writer, which has its header checked by the reader before a byte is written.
#ifndef PLUMB_FORMATS_GGUF_INTERNAL_H
#define PLUMB_FORMATS_GGUF_INTERNAL_H

#include "base/arena.h"
#include "base/file.h"
#include "formats/gguf.h"

// Limits on what a file may ask of us, far above any model that exists. Without them a sparse file
// of 1 TiB, which has bytes enough for any count, could have us read and allocate for hours.
enum {
    GGUF_DEFAULT_ALIGNMENT = 32,
    GGUF_MIN_ALIGNMENT = 8,
    GGUF_MAX_ALIGNMENT = 1 << 24,
    GGUF_MAX_KEY = 65535,  // bytes; the format's own limit
    GGUF_MAX_VALUES = 1 << 18,
    GGUF_MAX_TENSORS = 1 << 18,
    GGUF_MAX_STRINGS = 1 << 21,     // in all arrays of a file
    GGUF_MAX_METADATA = 128 << 20,  // bytes before the tensor data
    GGUF_MAX_PARTS = 65535,
};

typedef struct {
    GgufValue v;  // first, so that a value leads to its entry
    uint64_t at;  // byte offset of the pair in its file, for messages
} ValueEntry;

typedef struct {
    Tensor t;
    uint64_t at;  // byte offset of the declaration
} TensorEntry;

// One file. Everything it points to lies in the arena or in the mapping.
typedef struct {
    const char *path;
    MappedFile *file;  // NULL for memory
    const uint8_t *data;
    uint64_t size;  // of the file; `present` bytes of it can be read (fewer only in the writer)
    uint64_t present;
    uint32_t version;
    uint64_t alignment;
    uint64_t data_start;  // offset of the tensor data
    int number;           // 0-based
    ValueEntry *values;
    const ValueEntry **by_key;  // sorted
    size_t n_values;
    TensorEntry *tensors;  // in file order
    size_t n_tensors;
} Part;

struct Gguf {
    Arena arena;
    Part *parts;
    int n_parts;
    TensorEntry **tensors;        // of all parts, in order
    const TensorEntry **by_name;  // sorted
    size_t n_tensors;
};

// Fills p (path, data, size, present, number set) from its bytes; all else lands in the arena.
// Checks everything that can be known from this file alone.
Status gguf_parse(Part *p, Arena *arena, Error *err);

// Sorted by name, equal names in file order; the two entries of a repeated name are told by the
// caller.
void gguf_sort_tensors(const TensorEntry **list, size_t n);
const ValueEntry *gguf_part_find(const Part *p, const char *key);
// An integer of any type that lies in 0..most.
Status gguf_part_uint(const Part *p, const char *key, uint64_t most, uint64_t *out, bool *found,
                      Error *err);

// The error for a file whose first bytes are not those of a GGUF that we read: says what it is
// instead.
Status gguf_not_gguf(const Part *p, Error *err);
// What a value is, for messages: `i32 -32`, `str "abc"`, `array of 3 u8`. Returns out.
const char *gguf_describe(const GgufValue *v, char *out, size_t size);

#endif
