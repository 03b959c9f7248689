// Parses one GGUF file into a Part: header, metadata, tensor declarations, and where the data lie.
//
//   byte 0   "GGUF"
//        4   u32 version (2 or 3)
//        8   u64 n_tensors
//       16   u64 n_values
//       24   n_values  x { str key; u32 type; value }
//            n_tensors x { str name; u32 n_dims; u64 dims[n_dims]; u32 type; u64 offset }
//            zeros up to a multiple of general.alignment: here data_start
//            data; a tensor's begins at data_start + offset
//
//   str    u64 length, bytes (no NUL)
//   array  u32 type, u64 n, n elements; bool is one byte; all little-endian
//
// Every read goes through rd_*, which know the bytes left; every count is bounded by them before
// anything is allocated. Names are copied first and checked after, so that a file that changes
// under us cannot slip one through.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/utf8.h"
#include "formats/gguf_internal.h"

typedef unsigned long long ull;

// The fewest bytes that a pair (one-byte key, one-byte value) and a declaration (one-byte name, one
// dimension) take.
enum { MIN_VALUE_BYTES = 8 + 1 + 4 + 1, MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8 };

// --- The reader -------------------------------------------------------------------------------

typedef struct {
    Part *part;
    Arena *arena;
    uint64_t at, end;    // end: of the file, or the limit on metadata
    uint64_t n_strings;  // in arrays, so far
    char what[192];      // what is being read, for messages: `key "general.name"`
    Error *err;
} Reader;

static Status rd_error(Reader *r, uint64_t at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// "PATH: WHAT at byte AT: ..."
static Status rd_error(Reader *r, uint64_t at, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    error_setv(r->err, ERR_FILE, fmt, ap);
    va_end(ap);
    error_prefix(r->err, "%s: %s at byte %llu", r->part->path, r->what, (ull)at);
    return ERR_FILE;
}

static Status rd_memory(Reader *r, uint64_t n, size_t size) {
    error_memory(r->err, r->what, (ull)n * size);
    error_prefix(r->err, "%s", r->part->path);
    return ERR_UNAVAILABLE;
}

static uint64_t rd_left(const Reader *r) {
    return r->end - r->at;
}

// Steps over n bytes.
static Status rd_bytes(Reader *r, uint64_t n, const uint8_t **out) {
    if (n > rd_left(r)) {
        if (r->end < r->part->present) {
            return rd_error(r, r->at, "metadata of more than %d MiB is not accepted",
                            GGUF_MAX_METADATA >> 20);
        }
        return rd_error(r, r->at, "needs %llu bytes, the file ends after %llu (%s)", (ull)n,
                        (ull)r->end, n >> 48 ? "is it damaged?" : "is the download complete?");
    }
    *out = r->part->data + r->at;
    r->at += n;
    return OK;
}

static uint32_t le32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t le64(const uint8_t *p) {
    return le32(p) | (uint64_t)le32(p + 4) << 32;
}

static Status rd_u32(Reader *r, uint32_t *out) {
    const uint8_t *p = NULL;
    Status st = rd_bytes(r, 4, &p);
    if (!st) *out = le32(p);
    return st;
}

static Status rd_u64(Reader *r, uint64_t *out) {
    const uint8_t *p = NULL;
    Status st = rd_bytes(r, 8, &p);
    if (!st) *out = le64(p);
    return st;
}

static Status rd_str(Reader *r, GgufStr *out) {
    const uint8_t *p = NULL;
    Status st = rd_u64(r, &out->len);
    if (!st) st = rd_bytes(r, out->len, &p);
    if (!st) out->ptr = (const char *)p;
    return st;
}

// A key or a tensor's name: of 1..most bytes, valid UTF-8, no control characters.
static Status rd_name(Reader *r, const char *kind, uint64_t most, const char **out) {
    uint64_t at = r->at, len;
    const uint8_t *p = NULL;
    char shown[128];
    Status st = rd_u64(r, &len);
    if (st) return st;
    if (len == 0) return rd_error(r, at, "its name is empty");
    if (len > most) {
        return rd_error(r, at, "its name has %llu bytes, expected at most %llu", (ull)len,
                        (ull)most);
    }
    if ((st = rd_bytes(r, len, &p))) return st;
    char *name = arena_text(r->arena, (const char *)p, (size_t)len);
    if (!name) return rd_memory(r, len, 1);
    bool good = utf8_valid(name, (size_t)len);
    for (uint64_t i = 0; i < len; i++) good &= (uint8_t)name[i] >= 0x20 && name[i] != 0x7f;
    printable(name, len, shown, sizeof shown);
    if (!good) {
        return rd_error(r, at, "its name \"%s\" has bytes that are no printable text", shown);
    }
    snprintf(r->what, sizeof r->what, "%s \"%s\"", kind, shown);
    *out = name;
    return OK;
}

// A count of things that take `least` bytes each.
static Status rd_count(Reader *r, uint64_t least, uint64_t most, uint64_t *out) {
    uint64_t at = r->at;
    Status st = rd_u64(r, out);
    if (st) return st;
    if (*out > rd_left(r) / least) {
        return rd_error(r, at, "claims %llu, but the %llu bytes that follow hold at most %llu (%s)",
                        (ull)*out, (ull)rd_left(r), (ull)(rd_left(r) / least),
                        *out >> 40 ? "is it damaged?" : "is the download complete?");
    }
    if (*out > most) {
        return rd_error(r, at, "claims %llu, at most %llu are accepted", (ull)*out, (ull)most);
    }
    return OK;
}

// --- Metadata ---------------------------------------------------------------------------------

static Status check_bools(Reader *r, const uint8_t *p, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        if (p[i] > 1) {
            return rd_error(r, r->at - n + i, "expected a bool of 0 or 1, found %u", p[i]);
        }
    }
    return OK;
}

static Status rd_type(Reader *r, GgufType *out) {
    uint64_t at = r->at;
    uint32_t type;
    Status st = rd_u32(r, &type);
    if (st) return st;
    if (type > GGUF_F64) {
        return rd_error(r, at, "expected a value type of 0..%d, found %u", GGUF_F64, type);
    }
    *out = (GgufType)type;
    return OK;
}

static Status rd_strs(Reader *r, uint64_t n, const GgufStr **out) {
    if (n > GGUF_MAX_STRINGS - r->n_strings) {
        return rd_error(r, r->at, "%llu strings, at most %d in a file are accepted",
                        (ull)(r->n_strings + n), GGUF_MAX_STRINGS);
    }
    r->n_strings += n;
    GgufStr *strs = arena_alloc(r->arena, n ? (size_t)n : 1, sizeof *strs);
    if (!strs) return rd_memory(r, n, sizeof *strs);
    for (uint64_t i = 0; i < n; i++) {
        Status st = rd_str(r, &strs[i]);
        if (st) return st;
    }
    *out = strs;
    return OK;
}

static Status rd_array(Reader *r, GgufValue *v) {
    uint64_t at = r->at;
    Status st = rd_type(r, &v->elem_type);
    if (st) return st;
    if (v->elem_type == GGUF_ARRAY) return rd_error(r, at, "an array of arrays is not supported");
    uint64_t size = v->elem_type == GGUF_STR ? 8 : gguf_type_size(v->elem_type);
    if ((st = rd_count(r, size, UINT64_MAX, &v->n))) return st;
    v->raw = r->part->data + r->at;
    if (v->elem_type == GGUF_STR) return rd_strs(r, v->n, &v->strs);
    if ((st = rd_bytes(r, v->n * size, &v->raw))) return st;
    return v->elem_type == GGUF_BOOL ? check_bools(r, v->raw, v->n) : OK;
}

static Status rd_value(Reader *r, ValueEntry *e) {
    GgufValue *v = &e->v;
    e->at = r->at;
    Status st = rd_name(r, "key", GGUF_MAX_KEY, &v->key);
    if (!st) st = rd_type(r, &v->type);
    if (st) return st;
    if (v->type == GGUF_ARRAY) return rd_array(r, v);
    v->n = 1;
    if (v->type == GGUF_STR) {
        GgufStr *s = arena_alloc(r->arena, 1, sizeof *s);
        if (!s) return rd_memory(r, 1, sizeof *s);
        v->strs = s;
        v->raw = r->part->data + r->at;
        return rd_str(r, s);
    }
    if ((st = rd_bytes(r, gguf_type_size(v->type), &v->raw))) return st;
    return v->type == GGUF_BOOL ? check_bools(r, v->raw, 1) : OK;
}

static int value_order(const void *a, const void *b) {
    const ValueEntry *x = *(const ValueEntry *const *)a, *y = *(const ValueEntry *const *)b;
    int c = strcmp(x->v.key, y->v.key);
    return c ? c : (x > y) - (x < y);
}

// A sorted index and not a table of hashes: no choice of keys can make it slow.
static Status index_values(Reader *r) {
    Part *p = r->part;
    p->by_key = arena_alloc(r->arena, p->n_values + 1, sizeof *p->by_key);
    if (!p->by_key) return rd_memory(r, p->n_values + 1, sizeof *p->by_key);
    for (size_t i = 0; i < p->n_values; i++) p->by_key[i] = &p->values[i];
    qsort(p->by_key, p->n_values, sizeof *p->by_key, value_order);
    for (size_t i = 1; i < p->n_values; i++) {
        const ValueEntry *a = p->by_key[i - 1], *b = p->by_key[i];
        if (strcmp(a->v.key, b->v.key) == 0) {
            char shown[128];
            printable(b->v.key, strlen(b->v.key), shown, sizeof shown);
            return error_set(r->err, ERR_FILE,
                             "%s: key \"%s\" at byte %llu: the same key stands at byte %llu",
                             p->path, shown, (ull)b->at, (ull)a->at);
        }
    }
    return OK;
}

const ValueEntry *gguf_part_find(const Part *p, const char *key) {
    size_t lo = 0, hi = p->n_values;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(p->by_key[mid]->v.key, key);
        if (c == 0) return p->by_key[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

// Grows an array in the arena to hold one more. The old copies stay there until the arena goes: at
// most as much again as the array itself. Counts come from the file, so nothing is sized by them
// alone.
static void *grow(Arena *arena, void *old, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return old;
    size_t wanted = *cap ? *cap * 2 : 64;
    void *p = arena_alloc(arena, wanted, size);
    if (!p) return NULL;
    if (n) memcpy(p, old, n * size);
    *cap = wanted;
    return p;
}

static Status rd_values(Reader *r, uint64_t n) {
    Part *p = r->part;
    size_t cap = 0;
    for (uint64_t i = 0; i < n; i++) {
        snprintf(r->what, sizeof r->what, "key %llu of %llu", (ull)i + 1, (ull)n);
        ValueEntry *grown = grow(r->arena, p->values, p->n_values, &cap, sizeof *grown);
        if (!grown) return rd_memory(r, cap * 2, sizeof *grown);
        p->values = grown;
        Status st = rd_value(r, &p->values[p->n_values]);
        if (st) return st;
        p->n_values++;
    }
    return index_values(r);
}

static Status read_alignment(Reader *r) {
    Part *p = r->part;
    p->alignment = GGUF_DEFAULT_ALIGNMENT;
    const ValueEntry *e = gguf_part_find(p, "general.alignment");
    if (!e) return OK;
    snprintf(r->what, sizeof r->what, "key \"general.alignment\"");
    uint32_t v = e->v.type == GGUF_U32 ? le32(e->v.raw) : 0;
    if (v < GGUF_MIN_ALIGNMENT || v > GGUF_MAX_ALIGNMENT || (v & (v - 1))) {
        char found[96];
        return rd_error(r, e->at, "expected a u32 that is a power of two from %d to %d, found %s",
                        GGUF_MIN_ALIGNMENT, GGUF_MAX_ALIGNMENT,
                        gguf_describe(&e->v, found, sizeof found));
    }
    p->alignment = v;
    return OK;
}

// --- Tensors ----------------------------------------------------------------------------------

static Status rd_dims(Reader *r, Tensor *t, uint64_t *weights) {
    uint64_t at = r->at;
    uint32_t n_dims;
    Status st = rd_u32(r, &n_dims);
    if (st) return st;
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS) {
        return rd_error(r, at, "expected 1..%d dimensions, found %u", GGUF_MAX_DIMS, n_dims);
    }
    t->n_dims = (int)n_dims;
    *weights = 1;
    for (int i = 0; i < GGUF_MAX_DIMS; i++) {
        t->dims[i] = 1;
        if (i >= t->n_dims) continue;
        at = r->at;
        if ((st = rd_u64(r, &t->dims[i]))) return st;
        if (t->dims[i] == 0) return rd_error(r, at, "dimension %d is 0", i);
        // Signed, since readers count weights so.
        if (!checked_mul(*weights, t->dims[i], weights) || *weights > INT64_MAX) {
            return rd_error(r, at, "with dimension %d of %llu it has more than 2^63 weights", i,
                            (ull)t->dims[i]);
        }
    }
    return OK;
}

static Status rd_tensor_type(Reader *r, Tensor *t) {
    uint64_t at = r->at;
    uint32_t type;
    Status st = rd_u32(r, &type);
    if (st) return st;
    const TypeInfo *info = type_info(type);
    if (!info) {
        char buf[32];
        const char *why = NULL, *name = type_name(type, buf, &why);
        return rd_error(r, at,
                        "has type %s (id %u%s%s), which Plumb cannot decode: use the model in "
                        "another quantization, such as Q4_K_M or Q8_0",
                        name, type, why && *why ? ", " : "", why ? why : "");
    }
    if (t->dims[0] % info->block_len) {
        return rd_error(r, at, "a row of %llu weights is no multiple of the %u in a block of %s",
                        (ull)t->dims[0], info->block_len, info->name);
    }
    t->type = (TensorType)type;
    return OK;
}

static Status rd_tensor(Reader *r, TensorEntry *e) {
    Tensor *t = &e->t;
    uint64_t at, weights = 0;
    e->at = r->at;
    Status st = rd_name(r, "tensor", GGUF_MAX_NAME, &t->name);
    if (!st) st = rd_dims(r, t, &weights);
    if (!st) st = rd_tensor_type(r, t);
    if (st) return st;
    at = r->at;
    if ((st = rd_u64(r, &t->offset))) return st;
    if (t->offset % r->part->alignment) {
        return rd_error(r, at, "expected an offset that is a multiple of %llu, found %llu",
                        (ull)r->part->alignment, (ull)t->offset);
    }
    uint64_t end;
    if (!type_bytes(t->type, weights, &t->bytes) || !checked_add(t->offset, t->bytes, &end) ||
        end > INT64_MAX) {
        return rd_error(r, at, "its data of %llu weights at offset %llu would end past 2^63",
                        (ull)weights, (ull)t->offset);
    }
    t->part = r->part->number;
    return OK;
}

static int offset_order(const void *a, const void *b) {
    const TensorEntry *x = *(const TensorEntry *const *)a, *y = *(const TensorEntry *const *)b;
    if (x->t.offset != y->t.offset) return x->t.offset < y->t.offset ? -1 : 1;
    return (x > y) - (x < y);
}

// Offsets become those in the file; all data must lie in it and apart from each other.
static Status place_tensors(Reader *r) {
    Part *p = r->part;
    const TensorEntry **order = arena_alloc(r->arena, p->n_tensors + 1, sizeof *order);
    if (!order) return rd_memory(r, p->n_tensors + 1, sizeof *order);
    uint64_t whole = 0;  // where the last data end
    for (size_t i = 0; i < p->n_tensors; i++) {
        Tensor *t = &p->tensors[i].t;
        t->offset += p->data_start;  // both below 2^63
        if (t->offset + t->bytes > whole) whole = t->offset + t->bytes;
        order[i] = &p->tensors[i];
    }
    for (size_t i = 0; i < p->n_tensors; i++) {
        Tensor *t = &p->tensors[i].t;
        snprintf(r->what, sizeof r->what, "tensor \"%s\"", t->name);
        if (t->offset > p->size || t->bytes > p->size - t->offset) {
            return rd_error(r, t->offset,
                            "needs %llu bytes, the file ends after %llu of %llu (is the download "
                            "complete?)",
                            (ull)t->bytes, (ull)p->size, (ull)whole);
        }
        t->data = p->data + t->offset;
    }
    qsort(order, p->n_tensors, sizeof *order, offset_order);
    for (size_t i = 1; i < p->n_tensors; i++) {
        const Tensor *a = &order[i - 1]->t, *b = &order[i]->t;
        if (a->offset + a->bytes > b->offset) {
            snprintf(r->what, sizeof r->what, "tensor \"%s\"", b->name);
            return rd_error(r, b->offset, "overlaps the data of \"%s\", bytes %llu to %llu",
                            a->name, (ull)a->offset, (ull)(a->offset + a->bytes));
        }
    }
    return OK;
}

static Status rd_tensors(Reader *r, uint64_t n) {
    Part *p = r->part;
    size_t cap = 0;
    for (uint64_t i = 0; i < n; i++) {
        snprintf(r->what, sizeof r->what, "tensor %llu of %llu", (ull)i + 1, (ull)n);
        TensorEntry *grown = grow(r->arena, p->tensors, p->n_tensors, &cap, sizeof *grown);
        if (!grown) return rd_memory(r, cap * 2, sizeof *grown);
        p->tensors = grown;
        Status st = rd_tensor(r, &p->tensors[p->n_tensors]);
        if (st) return st;
        p->n_tensors++;
    }
    // r->at is far below 2^63 (metadata are limited), so this cannot overflow.
    checked_align(r->at, p->alignment, &p->data_start);
    return place_tensors(r);
}

static int tensor_order(const void *a, const void *b) {
    const TensorEntry *x = *(const TensorEntry *const *)a, *y = *(const TensorEntry *const *)b;
    int c = strcmp(x->t.name, y->t.name);
    if (c) return c;
    if (x->t.part != y->t.part) return x->t.part - y->t.part;
    return (x->at > y->at) - (x->at < y->at);
}

void gguf_sort_tensors(const TensorEntry **list, size_t n) {
    qsort(list, n, sizeof *list, tensor_order);
}

// --- The file ---------------------------------------------------------------------------------

Status gguf_parse(Part *p, Arena *arena, Error *err) {
    Reader r = {.part = p, .arena = arena, .at = 8, .err = err};
    r.end = p->present < GGUF_MAX_METADATA ? p->present : GGUF_MAX_METADATA;
    p->version = r.end >= 8 && memcmp(p->data, "GGUF", 4) == 0 ? le32(p->data + 4) : 0;
    if (p->version != 2 && p->version != 3) return gguf_not_gguf(p, err);
    uint64_t n_tensors, n_values;
    snprintf(r.what, sizeof r.what, "tensor count");
    Status st = rd_count(&r, MIN_TENSOR_BYTES, GGUF_MAX_TENSORS, &n_tensors);
    snprintf(r.what, sizeof r.what, "key count");
    if (!st) st = rd_count(&r, MIN_VALUE_BYTES, GGUF_MAX_VALUES, &n_values);
    if (!st) st = rd_values(&r, n_values);
    if (!st) st = read_alignment(&r);
    if (!st) st = rd_tensors(&r, n_tensors);
    return st;
}
