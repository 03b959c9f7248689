// Reads safetensors files; see safetensors.h.
//
//   byte 0   u64 length n of the header, little-endian
//        8   the header, JSON, may end in spaces:
//              {"__metadata__": {"key": "text", ...},
//               "NAME": {"dtype": "F32", "shape": [23, 96], "data_offsets": [0, 8832]}, ...}
//    8 + n   data; a tensor's lies at 8 + n + data_offsets[0] up to data_offsets[1]
//
// The format says that the tensors cover the data with neither gaps nor overlaps.
#include "formats/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/file.h"

typedef unsigned long long ull;

// Of the header, before it is parsed: JSON in memory takes forty times its text.
enum { MAX_HEADER = 4 << 20 };

struct Safetensors {
    Arena arena;
    MappedFile *file;  // NULL for memory
    NdArray *arrays;
    SafetensorsText *texts;
    size_t n, n_texts;
};

void safetensors_close(Safetensors *s) {
    if (!s) return;
    file_unmap(s->file);
    arena_free(&s->arena);
    free(s);
}

size_t safetensors_n(const Safetensors *s) {
    return s->n;
}

const NdArray *safetensors_at(const Safetensors *s, size_t i) {
    return &s->arrays[i];
}

size_t safetensors_n_texts(const Safetensors *s) {
    return s->n_texts;
}

SafetensorsText safetensors_text_at(const Safetensors *s, size_t i) {
    return s->texts[i];
}

Status safetensors_fault(const Safetensors *s, Error *err) {
    return s->file ? file_fault(s->file, err) : OK;
}

#if HAVE_JANSSON
#include <jansson.h>

typedef struct {
    Safetensors *s;
    const char *path;
    const uint8_t *data;   // after the header
    uint64_t start, size;  // where that is in the file, and how much
    Error *err;
} Reader;

static Status bad(const Reader *r, const char *tensor, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static Status bad(const Reader *r, const char *tensor, const char *fmt, ...) {
    char shown[128];
    va_list ap;
    va_start(ap, fmt);
    error_setv(r->err, ERR_FILE, fmt, ap);
    va_end(ap);
    error_prefix(r->err, "%s: tensor \"%s\"", r->path,
                 printable(tensor, strlen(tensor), shown, sizeof shown));
    return ERR_FILE;
}

static bool read_uint(const json_t *j, uint64_t *out) {
    if (!json_is_integer(j) || json_integer_value(j) < 0) return false;
    *out = (uint64_t)json_integer_value(j);
    return true;
}

static Status read_type(const Reader *r, const char *name, const json_t *j, NdType *out) {
    const char *text = json_string_value(j);
    char shown[64];
    if (!text) return bad(r, name, "dtype is missing or no string");
    for (int t = 0; t < ND_TYPES; t++) {
        if (strcmp(text, nd_type_name((NdType)t)) != 0) continue;
        *out = (NdType)t;
        return OK;
    }
    return bad(r, name, "has dtype \"%s\", expected F32, F16, BF16, F64 or an integer type",
               printable(text, strlen(text), shown, sizeof shown));
}

static Status read_tensor(const Reader *r, const char *name, const json_t *j, NdArray *a) {
    const json_t *shape = json_object_get(j, "shape");
    const json_t *offsets = json_object_get(j, "data_offsets");
    uint64_t from, to;
    if (!json_is_object(j)) return bad(r, name, "expected an object");
    Status st = read_type(r, name, json_object_get(j, "dtype"), &a->type);
    if (st) return st;
    if (!json_is_array(shape) || json_array_size(shape) > ND_MAX_RANK) {
        return bad(r, name, "expected a shape of at most %d dimensions", ND_MAX_RANK);
    }
    a->rank = (int)json_array_size(shape);
    for (int i = 0; i < a->rank; i++) {
        if (!read_uint(json_array_get(shape, (size_t)i), &a->dims[i])) {
            return bad(r, name, "dimension %d is no whole number", i);
        }
    }
    if (!nd_set_size(a)) return bad(r, name, "its shape has more than 2^63 bytes");
    if (json_array_size(offsets) != 2 || !read_uint(json_array_get(offsets, 0), &from) ||
        !read_uint(json_array_get(offsets, 1), &to)) {
        return bad(r, name, "expected data_offsets of two whole numbers");
    }
    if (from > to || to > r->size) {
        return bad(r, name, "data_offsets %llu to %llu lie outside the %llu bytes of data (%s)",
                   (ull)from, (ull)to, (ull)r->size, "is the file complete?");
    }
    if (to - from != a->bytes) {
        return bad(r, name, "at byte %llu: its shape needs %llu bytes, data_offsets give %llu",
                   (ull)(r->start + from), (ull)a->bytes, (ull)(to - from));
    }
    a->data = r->data + from;
    a->name = arena_text(&r->s->arena, name, strlen(name));
    return a->name ? OK : error_memory(r->err, name, strlen(name));
}

static int data_order(const void *a, const void *b) {
    const NdArray *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;  // empty ones first
    return strcmp(x->name, y->name);
}

static Status check_cover(const Reader *r) {
    const uint8_t *at = r->data;
    for (size_t i = 0; i < r->s->n; i++) {
        const NdArray *a = &r->s->arrays[i];
        if (a->data != at) {
            return bad(r, a->name, "at byte %llu: %s", (ull)(r->start + (ull)(a->data - r->data)),
                       a->data < at ? "overlaps the tensor before it"
                                    : "bytes before it belong to no tensor");
        }
        at += a->bytes;
    }
    if ((uint64_t)(at - r->data) != r->size) {
        return error_set(r->err, ERR_FILE, "%s: the last %llu bytes belong to no tensor", r->path,
                         (ull)(r->size - (uint64_t)(at - r->data)));
    }
    return OK;
}

static Status read_texts(const Reader *r, json_t *j) {
    Safetensors *s = r->s;
    const char *key;
    json_t *text;
    if (!json_is_object(j)) return bad(r, "__metadata__", "expected an object");
    s->texts = arena_alloc(&s->arena, json_object_size(j) + 1, sizeof *s->texts);
    if (!s->texts) return error_memory(r->err, "metadata", json_object_size(j));
    json_object_foreach(j, key, text) {
        if (!json_is_string(text)) return bad(r, "__metadata__", "expected texts only");
        SafetensorsText *t = &s->texts[s->n_texts++];
        t->key = arena_text(&s->arena, key, strlen(key));
        t->text = arena_text(&s->arena, json_string_value(text), json_string_length(text));
        if (!t->key || !t->text) return error_memory(r->err, "metadata", strlen(key));
    }
    return OK;
}

static Status read_header(const Reader *r, json_t *header) {
    Safetensors *s = r->s;
    const char *name;
    json_t *j;
    s->arrays = arena_alloc(&s->arena, json_object_size(header) + 1, sizeof *s->arrays);
    if (!s->arrays) return error_memory(r->err, "tensors", json_object_size(header));
    json_object_foreach(header, name, j) {
        const bool texts = strcmp(name, "__metadata__") == 0;
        Status st = texts ? read_texts(r, j) : read_tensor(r, name, j, &s->arrays[s->n]);
        if (st) return st;
        s->n += !texts;
    }
    qsort(s->arrays, s->n, sizeof *s->arrays, data_order);
    return check_cover(r);
}

static Status parse(Safetensors *s, const uint8_t *data, uint64_t size, const char *path,
                    Error *err) {
    uint64_t n = 0;
    for (int i = 7; size >= 8 && i >= 0; i--) n = n << 8 | data[i];
    if (size < 10 || n < 2 || n > size - 8 || data[8] != '{') {
        return error_set(err, ERR_FILE,
                         "%s: is no safetensors file (at byte 0: a header of %llu bytes in a file "
                         "of %llu)",
                         path, (ull)n, (ull)size);
    }
    if (n > MAX_HEADER) {
        return error_set(err, ERR_FILE,
                         "%s: at byte 0: a header of %llu bytes, at most %d are "
                         "accepted",
                         path, (ull)n, MAX_HEADER);
    }
    json_error_t e;
    json_t *header = json_loadb((const char *)data + 8, (size_t)n, JSON_REJECT_DUPLICATES, &e);
    if (!header) {
        char shown[JSON_ERROR_TEXT_LENGTH];
        return error_set(err, ERR_FILE, "%s: header at byte %lld: %s", path,
                         8 + (long long)e.position,
                         printable(e.text, strlen(e.text), shown, sizeof shown));
    }
    const Reader r = {s, path, data + 8 + n, 8 + n, size - 8 - n, err};
    Status st = read_header(&r, header);
    json_decref(header);
    return st;
}

#else

static Status parse(Safetensors *s, const uint8_t *data, uint64_t size, const char *path,
                    Error *err) {
    (void)s, (void)data, (void)size;
    return error_set(err, ERR_UNAVAILABLE,
                     "%s: safetensors files need the jansson library, which this build lacks; "
                     "install libjansson-dev and run make, or write a folder of .npy files",
                     path);
}

#endif

static Status open_bytes(MappedFile *file, const uint8_t *data, uint64_t size, const char *path,
                         Safetensors **out, Error *err) {
    Safetensors *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s) {
        file_unmap(file);
        return error_memory(err, path, sizeof *s);
    }
    s->file = file;
    Status st = parse(s, data, size, path, err);
    if (st && file && file_fault(file, NULL)) st = file_fault(file, err);
    if (st) {
        safetensors_close(s);
        return st;
    }
    *out = s;
    return OK;
}

Status safetensors_open(const char *path, Safetensors **out, Error *err) {
    MappedFile *file;
    *out = NULL;
    Status st = file_map(path, &file, err);
    if (st) return st;
    return open_bytes(file, file_data(file), file_size(file), file_path(file), out, err);
}

Status safetensors_open_memory(const void *data, uint64_t size, const char *name, Safetensors **out,
                               Error *err) {
    return open_bytes(NULL, data, size, name, out, err);
}
