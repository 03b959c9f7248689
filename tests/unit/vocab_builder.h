// Builds GGUF metadata in memory, right or wrong on purpose, for the tests of tokenizers and
// templates.
#ifndef PLUMB_TESTS_VOCAB_BUILDER_H
#define PLUMB_TESTS_VOCAB_BUILDER_H

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "formats/gguf.h"

typedef struct {
    Text kv, file;
    uint64_t n_kv;
} Meta;

static inline void meta_bytes(Meta *m, const void *bytes, size_t len) {
    if (!text_append(&m->kv, bytes, len)) abort();
}

static inline void meta_u32_raw(Meta *m, uint32_t v) {
    meta_bytes(m, &v, sizeof v);
}

static inline void meta_str_raw(Meta *m, const char *s, size_t len) {
    uint64_t n = len;
    meta_bytes(m, &n, sizeof n);
    meta_bytes(m, s, len);
}

static inline void meta_key(Meta *m, const char *key, GgufType type) {
    meta_str_raw(m, key, strlen(key));
    meta_u32_raw(m, (uint32_t)type);
    m->n_kv++;
}

static inline void meta_str(Meta *m, const char *key, const char *v) {
    meta_key(m, key, GGUF_STR);
    meta_str_raw(m, v, strlen(v));
}

static inline void meta_u32(Meta *m, const char *key, uint32_t v) {
    meta_key(m, key, GGUF_U32);
    meta_u32_raw(m, v);
}

static inline void meta_i32(Meta *m, const char *key, int32_t v) {
    meta_key(m, key, GGUF_I32);
    meta_bytes(m, &v, sizeof v);
}

static inline void meta_bool(Meta *m, const char *key, bool v) {
    meta_key(m, key, GGUF_BOOL);
    meta_bytes(m, &(char){v}, 1);
}

static inline void meta_array(Meta *m, const char *key, GgufType elem, uint64_t n,
                              const void *raw) {
    meta_key(m, key, GGUF_ARRAY);
    meta_u32_raw(m, (uint32_t)elem);
    meta_bytes(m, &n, sizeof n);
    meta_bytes(m, raw, (size_t)n * gguf_type_size(elem));
}

static inline void meta_strs(Meta *m, const char *key, uint64_t n, const char *const *strs) {
    meta_key(m, key, GGUF_ARRAY);
    meta_u32_raw(m, GGUF_STR);
    meta_bytes(m, &n, sizeof n);
    for (uint64_t i = 0; i < n; i++) meta_str_raw(m, strs[i], strlen(strs[i]));
}

// Puts the header before what was built and opens it; m must outlive *out.
static inline Status meta_open(Meta *m, Gguf **out, Error *err) {
    uint32_t version = 3;
    uint64_t n_tensors = 0;
    m->file.len = 0;
    bool ok = text_append(&m->file, "GGUF", 4) && text_append(&m->file, &version, 4) &&
              text_append(&m->file, &n_tensors, 8) && text_append(&m->file, &m->n_kv, 8) &&
              text_append(&m->file, m->kv.data, m->kv.len);
    if (!ok) abort();
    return gguf_open_memory(m->file.data, m->file.len, "test.gguf", out, err);
}

static inline void meta_free(Meta *m) {
    text_free(&m->kv);
    text_free(&m->file);
    *m = (Meta){0};
}

#endif
