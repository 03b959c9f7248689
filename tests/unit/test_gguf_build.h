// Builds GGUF bytes by hand for the tests of the reader, right or wrong as asked, and walks what
// opens.
//
// Not made with the writer: that would refuse most of what the tests need, and share its mistakes.
#ifndef PLUMB_TEST_GGUF_BUILD_H
#define PLUMB_TEST_GGUF_BUILD_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "formats/gguf.h"

// An integer field of the file: where it is and how many bytes it has.
typedef struct {
    size_t at;
    int size;
} Field;

enum { MAX_FIELDS = 512 };

typedef struct {
    Text values, tensors, data;
    uint64_t n_values, n_tensors;
    uint32_t version;
    uint64_t alignment;
    Field fields[MAX_FIELDS];  // `at` counts from the start of the text that holds it, until built
    size_t n_fields;
} Build;

static inline Build build_new(void) {
    return (Build){.version = 3, .alignment = 32};
}

static inline void add_bytes(Text *t, const void *p, size_t n) {
    assert_true(text_append(t, p, n));
}

static inline void add_int(Text *t, uint64_t v, int size) {
    for (int i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(v >> 8 * i);
        add_bytes(t, &byte, 1);
    }
}

// Integers that are fields of the format, not payload: noted, for tests that change each.
static inline void add_field(Build *b, Text *t, uint64_t v, int size) {
    if (b->n_fields < MAX_FIELDS) b->fields[b->n_fields++] = (Field){t->len, size};
    add_int(t, v, size);
}

static inline void add_str(Build *b, Text *t, const char *s, size_t len) {
    add_field(b, t, len, 8);
    add_bytes(t, s, len);
}

static inline void value_head(Build *b, const char *key, uint32_t type) {
    add_str(b, &b->values, key, strlen(key));
    add_field(b, &b->values, type, 4);
    b->n_values++;
}

static inline void value_int(Build *b, const char *key, GgufType type, uint64_t v) {
    value_head(b, key, type);
    add_field(b, &b->values, v, (int)gguf_type_size(type));
}

static inline void value_f32(Build *b, const char *key, float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    value_int(b, key, GGUF_F32, bits);
}

static inline void value_f64(Build *b, const char *key, double v) {
    uint64_t bits;
    memcpy(&bits, &v, 8);
    value_int(b, key, GGUF_F64, bits);
}

static inline void value_str(Build *b, const char *key, const char *v) {
    value_head(b, key, GGUF_STR);
    add_str(b, &b->values, v, strlen(v));
}

// The head of an array; the elements follow by add_int or add_str on b->values.
static inline void value_array(Build *b, const char *key, uint32_t elem_type, uint64_t n) {
    value_head(b, key, GGUF_ARRAY);
    add_field(b, &b->values, elem_type, 4);
    add_field(b, &b->values, n, 8);
}

// A declaration with any fields, and no data.
static inline void declare(Build *b, const char *name, size_t name_len, uint32_t n_dims,
                           const uint64_t *dims, int dims_written, uint32_t type, uint64_t offset) {
    add_str(b, &b->tensors, name, name_len);
    add_field(b, &b->tensors, n_dims, 4);
    for (int i = 0; i < dims_written; i++) add_field(b, &b->tensors, dims[i], 8);
    add_field(b, &b->tensors, type, 4);
    add_field(b, &b->tensors, offset, 8);
    b->n_tensors++;
}

static inline void pad_to(Text *t, uint64_t align) {
    while (t->len % align) add_int(t, 0, 1);
}

// A right tensor of cols x rows with its data, which count up from `seed`.
static inline void tensor(Build *b, const char *name, uint32_t type, uint64_t cols, uint64_t rows,
                          size_t bytes, uint8_t seed) {
    pad_to(&b->data, b->alignment);
    declare(b, name, strlen(name), 2, (uint64_t[]){cols, rows}, 2, type, b->data.len);
    for (size_t i = 0; i < bytes; i++) add_int(&b->data, seed++, 1);
}

// Joins it all and frees b's texts. The fields' positions are then those in the file.
static inline Text build(Build *b) {
    Text out = {0};
    add_bytes(&out, "GGUF", 4);
    add_int(&out, b->version, 4);
    add_int(&out, b->n_tensors, 8);
    add_int(&out, b->n_values, 8);
    // The fields of the values come first; those of the tensors begin where `at` falls back to 0.
    size_t base = out.len, last = 0;
    for (size_t i = 0; i < b->n_fields; i++) {
        if (i && b->fields[i].at <= last && base == out.len) base += b->values.len;
        last = b->fields[i].at;
        b->fields[i].at += base;
    }
    static const Field head[] = {{4, 4}, {8, 8}, {16, 8}};
    for (int i = 0; i < 3 && b->n_fields < MAX_FIELDS; i++) b->fields[b->n_fields++] = head[i];
    if (b->values.len) add_bytes(&out, b->values.data, b->values.len);
    if (b->tensors.len) add_bytes(&out, b->tensors.data, b->tensors.len);
    if (b->data.len) {
        pad_to(&out, b->alignment);
        add_bytes(&out, b->data.data, b->data.len);
    }
    text_free(&b->values);
    text_free(&b->tensors);
    text_free(&b->data);
    return out;
}

static volatile uint64_t walk_sink;

// Reads everything that the index promises to be there.
static inline void walk(const Gguf *g) {
    for (size_t i = 0; i < gguf_n_values(g); i++) {
        const GgufValue *v = gguf_value_at(g, i);
        GgufType t = v->type == GGUF_ARRAY ? v->elem_type : v->type;
        assert_ptr_equal(gguf_find(g, v->key), v);
        for (uint64_t j = 0; j < v->n; j++) {
            if (t == GGUF_STR) {
                for (uint64_t k = 0; k < v->strs[j].len; k++) walk_sink += v->strs[j].ptr[k] != 0;
            } else {
                walk_sink += gguf_elem_f64(v, j) > 0;
            }
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        assert_ptr_equal(gguf_tensor(g, t->name), t);
        for (uint64_t j = 0; j < t->bytes; j++) walk_sink += t->data[j];
    }
}

// Opens a copy of the bytes that ends where its allocation ends, so that ASan sees a step past it,
// and walks what opens. Whatever comes must be OK, or ERR_FILE with one line of words.
static inline Status try_bytes(const void *bytes, size_t len, Error *err) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len) memcpy(copy, bytes, len);
    Gguf *g = NULL;
    *err = (Error){0};
    Status st = gguf_open_memory(copy, len, "test.gguf", &g, err);
    if (st) {
        assert_int_equal(st, ERR_FILE);
        assert_int_equal(err->status, st);
        assert_null(g);
        assert_int_equal(strncmp(err->text, "test.gguf: ", 11), 0);
        assert_null(strchr(err->text, '\n'));
    } else {
        walk(g);
        gguf_close(g);
    }
    free(copy);
    return st;
}

static inline void assert_words(const Error *err, const char *words) {
    if (!strstr(err->text, words)) fail_msg("expected \"%s\" in: %s", words, err->text);
}

// The bytes must be refused with these words in the message. Frees the text.
static inline void refused(Text t, const char *words) {
    Error err;
    Status st = try_bytes(t.data, t.len, &err);
    text_free(&t);
    if (!st) fail_msg("opened, expected \"%s\"", words);
    assert_words(&err, words);
}

static inline void refused_build(Build *b, const char *words) {
    refused(build(b), words);
}

static inline void write_file(const char *path, const void *bytes, size_t len) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

// A small right file with every value type, arrays, and three tensors.
static inline Build small_model(void) {
    Build b = build_new();
    value_str(&b, "general.architecture", "llama");
    value_int(&b, "general.alignment", GGUF_U32, 32);
    value_int(&b, "a.u8", GGUF_U8, 200);
    value_int(&b, "a.i8", GGUF_I8, (uint64_t)-3);
    value_int(&b, "a.u16", GGUF_U16, 60000);
    value_int(&b, "a.i16", GGUF_I16, (uint64_t)-300);
    value_int(&b, "a.u32", GGUF_U32, 4000000000u);
    value_int(&b, "a.i32", GGUF_I32, (uint64_t)-32);
    value_f32(&b, "a.f32", 1.5f);
    value_int(&b, "a.bool", GGUF_BOOL, 1);
    value_int(&b, "a.u64", GGUF_U64, UINT64_MAX);
    value_int(&b, "a.i64", GGUF_I64, (uint64_t)-5000000000);
    value_f64(&b, "a.f64", 0.1);
    value_array(&b, "tokens", GGUF_STR, 3);
    add_str(&b, &b.values, "a", 1);
    add_str(&b, &b.values, "", 0);
    add_str(&b, &b.values, "\xe2\x96\x81x\0y", 6);
    value_array(&b, "scores", GGUF_F32, 2);
    add_int(&b.values, 0x3f800000, 4);
    add_int(&b.values, 0xc0000000, 4);
    value_array(&b, "types", GGUF_I32, 3);
    for (int i = -1; i <= 1; i++) add_int(&b.values, (uint64_t)i, 4);
    value_array(&b, "flags", GGUF_BOOL, 2);
    add_int(&b.values, 1, 2);
    value_array(&b, "none", GGUF_U64, 0);
    tensor(&b, "token_embd.weight", TYPE_F32, 8, 2, 64, 1);
    tensor(&b, "blk.0.ffn_up.weight", TYPE_Q8_0, 32, 3, 3 * 34, 9);
    tensor(&b, "output_norm.weight", TYPE_F16, 5, 1, 10, 77);
    return b;
}

#endif
