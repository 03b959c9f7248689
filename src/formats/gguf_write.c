// Writes GGUF; see gguf_write.h. The layout is drawn in gguf_parse.c.
//
// Keys and declarations gather in memory. The first data (or finish) make the header of them, which
// is read by the reader of this program before it goes to the file: what cannot be read is not
// written.
#define _GNU_SOURCE
#include "formats/gguf_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "formats/gguf_internal.h"

typedef unsigned long long ull;

typedef struct {
    uint64_t bytes, padded;  // of the data
    size_t offset_at;        // where in `tensors` its offset is to stand
} Slot;

struct GgufWriter {
    OutFile *out;
    char *path;
    Text values, tensors;  // as they will stand in the file
    uint64_t n_values, n_tensors;
    uint64_t alignment;
    Slot *slots;
    size_t cap_slots;
    uint64_t current, done;  // tensor whose data are due, and its bytes written
    bool no_memory, started;
    Status failed;
};

static void writer_free(GgufWriter *w) {
    text_free(&w->values);
    text_free(&w->tensors);
    free(w->slots);
    free(w->path);
    free(w);
}

Status gguf_writer_open(const char *path, GgufWriter **out, Error *err) {
    *out = NULL;
    GgufWriter *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        return error_memory(err, "a GGUF writer", sizeof *w);
    }
    w->alignment = GGUF_DEFAULT_ALIGNMENT;
    Status st = out_open(path, &w->out, err);
    if (st) {
        writer_free(w);
        return st;
    }
    *out = w;
    return OK;
}

void gguf_writer_abort(GgufWriter *w) {
    if (!w) return;
    out_abort(w->out);
    writer_free(w);
}

// --- Metadata ---------------------------------------------------------------------------------

static void put(GgufWriter *w, Text *t, const void *bytes, size_t len) {
    if (!w->no_memory && !text_append(t, bytes, len)) w->no_memory = true;
}

static void put_int(GgufWriter *w, Text *t, uint64_t v, size_t size) {
    uint8_t b[8];
    for (size_t i = 0; i < size; i++) b[i] = (uint8_t)(v >> 8 * i);
    put(w, t, b, size);
}

static void put_text(GgufWriter *w, Text *t, const char *s, uint64_t len) {
    put_int(w, t, len, 8);
    put(w, t, s, (size_t)len);
}

static void put_key(GgufWriter *w, const char *key, GgufType type) {
    CHECK(!w->started);
    put_text(w, &w->values, key, strlen(key));
    put_int(w, &w->values, type, 4);
    w->n_values++;
}

void gguf_put_u32(GgufWriter *w, const char *key, uint32_t v) {
    put_key(w, key, GGUF_U32);
    put_int(w, &w->values, v, 4);
    if (strcmp(key, "general.alignment") == 0) w->alignment = v;
}

void gguf_put_f32(GgufWriter *w, const char *key, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_key(w, key, GGUF_F32);
    put_int(w, &w->values, bits, 4);
}

void gguf_put_bool(GgufWriter *w, const char *key, bool v) {
    put_key(w, key, GGUF_BOOL);
    put_int(w, &w->values, v, 1);
}

void gguf_put_str(GgufWriter *w, const char *key, const char *v) {
    put_key(w, key, GGUF_STR);
    put_text(w, &w->values, v, strlen(v));
}

void gguf_put_array(GgufWriter *w, const char *key, GgufType elem_type, uint64_t n,
                    const void *raw) {
    size_t size = gguf_type_size(elem_type);
    CHECK(size);
    put_key(w, key, GGUF_ARRAY);
    put_int(w, &w->values, elem_type, 4);
    put_int(w, &w->values, n, 8);
    put(w, &w->values, raw, (size_t)n * size);
}

void gguf_put_strs(GgufWriter *w, const char *key, uint64_t n, const GgufStr *strs) {
    put_key(w, key, GGUF_ARRAY);
    put_int(w, &w->values, GGUF_STR, 4);
    put_int(w, &w->values, n, 8);
    for (uint64_t i = 0; i < n; i++) put_text(w, &w->values, strs[i].ptr, strs[i].len);
}

void gguf_put_value(GgufWriter *w, const GgufValue *v) {
    if (strncmp(v->key, "split.", 6) == 0) return;
    if (v->type == GGUF_ARRAY && v->elem_type == GGUF_STR) {
        gguf_put_strs(w, v->key, v->n, v->strs);
    } else if (v->type == GGUF_ARRAY) {
        gguf_put_array(w, v->key, v->elem_type, v->n, v->raw);
    } else if (v->type == GGUF_STR) {
        put_key(w, v->key, GGUF_STR);
        put_text(w, &w->values, v->strs->ptr, v->strs->len);
    } else if (v->type == GGUF_U32) {
        gguf_put_u32(w, v->key, (uint32_t)gguf_elem_i64(v, 0));
    } else {
        put_key(w, v->key, v->type);
        put(w, &w->values, v->raw, gguf_type_size(v->type));
    }
}

// --- Tensors ----------------------------------------------------------------------------------

void gguf_put_tensor(GgufWriter *w, const char *name, TensorType type, int n_dims,
                     const uint64_t *dims) {
    CHECK(!w->started && n_dims >= 1 && n_dims <= GGUF_MAX_DIMS);
    if (w->n_tensors == w->cap_slots) {
        size_t cap = w->cap_slots ? w->cap_slots * 2 : 64;
        Slot *grown = realloc(w->slots, cap * sizeof *grown);
        if (!grown) {
            w->no_memory = true;
            return;
        }
        w->slots = grown, w->cap_slots = cap;
    }
    put_text(w, &w->tensors, name, strlen(name));
    put_int(w, &w->tensors, (uint64_t)n_dims, 4);
    uint64_t weights = 1;
    bool fits = true;
    for (int i = 0; i < n_dims; i++) {
        put_int(w, &w->tensors, dims[i], 8);
        fits = fits && checked_mul(weights, dims[i], &weights);
    }
    put_int(w, &w->tensors, type, 4);
    Slot *slot = &w->slots[w->n_tensors++];
    *slot = (Slot){.offset_at = w->tensors.len};
    put_int(w, &w->tensors, 0, 8);
    // A tensor that cannot be is left with no bytes; the check of the header names it.
    if (!fits || !type_info(type) || !type_bytes(type, weights, &slot->bytes)) slot->bytes = 0;
}

// Offsets become known with the alignment, which may be put after the tensors. Returns all data's
// bytes.
static bool place(GgufWriter *w, uint64_t *total) {
    *total = 0;
    for (uint64_t i = 0; i < w->n_tensors; i++) {
        Slot *s = &w->slots[i];
        for (int b = 0; b < 8; b++) w->tensors.data[s->offset_at + b] = (char)(*total >> 8 * b);
        if (!checked_align(s->bytes, w->alignment, &s->padded)) return false;
        if (!checked_add(*total, s->padded, total)) return false;
    }
    return true;
}

static Status check_header(GgufWriter *w, const Text *head, uint64_t total, Error *err) {
    Part p = {.path = w->path,
              .data = (const uint8_t *)head->data,
              .size = head->len + total,
              .present = head->len};
    Arena arena = {0};
    Status st = gguf_parse(&p, &arena, err);
    if (!st && p.n_tensors) {
        const TensorEntry **list = arena_alloc(&arena, p.n_tensors, sizeof *list);
        if (!list) st = error_memory(err, "the index of tensors", p.n_tensors * sizeof *list);
        for (size_t i = 0; !st && i < p.n_tensors; i++) list[i] = &p.tensors[i];
        if (!st) gguf_sort_tensors(list, p.n_tensors);
        for (size_t i = 1; !st && i < p.n_tensors; i++) {
            if (strcmp(list[i - 1]->t.name, list[i]->t.name) == 0) {
                st = error_set(err, ERR_FILE, "%s: tensor \"%s\" is declared twice", w->path,
                               list[i]->t.name);
            }
        }
    }
    if (st) error_prefix(err, "cannot write a GGUF that could not be read");
    arena_free(&arena);
    return st;
}

static Status write_header(GgufWriter *w, Error *err) {
    static const char zeros[64];
    Text head = {0};
    uint64_t total = 0;
    put(w, &head, "GGUF", 4);
    put_int(w, &head, 3, 4);
    put_int(w, &head, w->n_tensors, 8);
    put_int(w, &head, w->n_values, 8);
    // Before the alignment is used: the reader's rule for it.
    bool sane = w->alignment >= GGUF_MIN_ALIGNMENT && w->alignment <= GGUF_MAX_ALIGNMENT &&
                !(w->alignment & (w->alignment - 1));
    uint64_t align = sane ? w->alignment : GGUF_DEFAULT_ALIGNMENT;
    w->alignment = align;
    bool fits = w->no_memory || place(w, &total);
    if (w->values.len) put(w, &head, w->values.data, w->values.len);
    if (w->tensors.len) put(w, &head, w->tensors.data, w->tensors.len);
    while (!w->no_memory && head.len % align) {
        uint64_t gap = align - head.len % align;
        put(w, &head, zeros, gap < sizeof zeros ? (size_t)gap : sizeof zeros);
    }
    Status st = OK;
    if (w->no_memory) {
        st = error_memory(err, "the header of a GGUF", w->values.len + w->tensors.len);
    } else if (!fits) {
        st = error_set(err, ERR_FILE, "%s: its tensors have more than 2^64 bytes", w->path);
    } else {
        st = check_header(w, &head, total, err);
    }
    if (!st) st = out_write(w->out, head.data, head.len, err);
    text_free(&head);
    return st;
}

static Status start(GgufWriter *w, Error *err) {
    if (w->failed) {
        return error_set(err, w->failed, "%s: an earlier write has failed", w->path);
    }
    if (w->started) return OK;
    w->started = true;
    return w->failed = write_header(w, err);
}

static Status pad(GgufWriter *w, uint64_t n, Error *err) {
    static const char zeros[64];
    while (n && !w->failed) {
        size_t step = n < sizeof zeros ? (size_t)n : sizeof zeros;
        w->failed = out_write(w->out, zeros, step, err);
        n -= step;
    }
    return w->failed;
}

Status gguf_write_data(GgufWriter *w, const void *bytes, size_t len, Error *err) {
    Status st = start(w, err);
    const char *p = bytes;
    while (!st && len) {
        CHECK(w->current < w->n_tensors);
        const Slot *s = &w->slots[w->current];
        size_t step = s->bytes - w->done < len ? (size_t)(s->bytes - w->done) : len;
        if ((st = w->failed = out_write(w->out, p, step, err))) break;
        p += step, len -= step, w->done += step;
        if (w->done == s->bytes) {
            st = pad(w, s->padded - s->bytes, err);
            w->current++, w->done = 0;
        }
    }
    return st;
}

Status gguf_writer_finish(GgufWriter *w, Error *err) {
    Status st = start(w, err);
    if (!st && w->current < w->n_tensors) {
        st = error_set(err, ERR_FAILED,
                       "%s: data of tensor %llu of %llu are missing after %llu of %llu bytes",
                       w->path, (ull)w->current + 1, (ull)w->n_tensors, (ull)w->done,
                       (ull)w->slots[w->current].bytes);
    }
    if (st) {
        gguf_writer_abort(w);
        return st;
    }
    st = out_commit(w->out, err);
    writer_free(w);
    return st;
}
