// Typed questions to the metadata of a GGUF, and values as text for messages.
//
// This file owns: which stored types answer which question, range checks, the messages. Writers
// differ in the integer types they choose, so any integer type whose value fits will do.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/gguf_internal.h"

typedef unsigned long long ull;

static const struct {
    const char *name;
    uint8_t size;
} types[] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},     [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},     [GGUF_BOOL] = {"bool", 1}, [GGUF_STR] = {"str", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

const char *gguf_type_name(GgufType t) {
    return (unsigned)t <= GGUF_F64 ? types[t].name : "unknown";
}

size_t gguf_type_size(GgufType t) {
    return (unsigned)t <= GGUF_F64 ? types[t].size : 0;
}

static bool is_integer(GgufType t) {
    return t <= GGUF_I32 || t == GGUF_U64 || t == GGUF_I64;
}

// The element's 1, 2, 4 or 8 bytes as an unsigned number.
static uint64_t load(const uint8_t *p, size_t size) {
    uint64_t v = 0;
    for (size_t i = size; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static GgufType stored_type(const GgufValue *v) {
    return v->type == GGUF_ARRAY ? v->elem_type : v->type;
}

int64_t gguf_elem_i64(const GgufValue *v, uint64_t i) {
    GgufType t = stored_type(v);
    CHECK(i < v->n && (is_integer(t) || t == GGUF_BOOL));
    size_t size = gguf_type_size(t);
    uint64_t u = load(v->raw + i * size, size);
    switch (t) {
        case GGUF_I8: return (int8_t)u;
        case GGUF_I16: return (int16_t)u;
        case GGUF_I32: return (int32_t)u;
        case GGUF_U64: return u > INT64_MAX ? INT64_MAX : (int64_t)u;
        case GGUF_BOOL: return u != 0;
        default: return (int64_t)u;
    }
}

double gguf_elem_f64(const GgufValue *v, uint64_t i) {
    GgufType t = stored_type(v);
    CHECK(i < v->n);
    if (t == GGUF_F32) {
        uint32_t bits = (uint32_t)load(v->raw + i * 4, 4);
        float f;
        memcpy(&f, &bits, sizeof f);
        return f;
    }
    if (t == GGUF_F64) {
        uint64_t bits = load(v->raw + i * 8, 8);
        double d;
        memcpy(&d, &bits, sizeof d);
        return d;
    }
    if (t == GGUF_U64) return (double)load(v->raw + i * 8, 8);
    return (double)gguf_elem_i64(v, i);
}

const char *gguf_describe(const GgufValue *v, char *out, size_t size) {
    const char *name = gguf_type_name(v->type);
    char text[64];
    if (v->type == GGUF_ARRAY) {
        snprintf(out, size, "array of %llu %s", (ull)v->n, gguf_type_name(v->elem_type));
    } else if (v->type == GGUF_STR) {
        printable(v->strs->ptr, v->strs->len, text, 40);
        snprintf(out, size, "str \"%s\"%s", text, v->strs->len > 39 ? "..." : "");
    } else if (v->type == GGUF_BOOL) {
        snprintf(out, size, "bool %s", v->raw[0] ? "true" : "false");
    } else if (v->type == GGUF_U64) {
        snprintf(out, size, "u64 %llu", (ull)load(v->raw, 8));
    } else if (is_integer(v->type)) {
        snprintf(out, size, "%s %lld", name, (long long)gguf_elem_i64(v, 0));
    } else {
        snprintf(out, size, "%s %g", name, gguf_elem_f64(v, 0));
    }
    return out;
}

// Finds key; *e is NULL and OK where it may be absent and is.
static Status look(const Part *p, const char *key, const ValueEntry **e, bool *found, Error *err) {
    *e = gguf_part_find(p, key);
    if (found) *found = *e != NULL;
    if (*e || found) return OK;
    return error_set(err, ERR_FILE, "%s: key \"%s\" is missing from the metadata", p->path, key);
}

static Status unexpected(const Part *p, const ValueEntry *e, const char *expected, Error *err) {
    char shown[128], found[96];
    printable(e->v.key, strlen(e->v.key), shown, sizeof shown);
    return error_set(err, ERR_FILE, "%s: key \"%s\" at byte %llu: expected %s, found %s", p->path,
                     shown, (ull)e->at, expected, gguf_describe(&e->v, found, sizeof found));
}

Status gguf_part_uint(const Part *p, const char *key, uint64_t most, uint64_t *out, bool *found,
                      Error *err) {
    const ValueEntry *e;
    Status st = look(p, key, &e, found, err);
    if (st || !e) return st;
    // A u64 past 2^63 reads as 2^63 - 1: out of any range asked for here.
    int64_t v = is_integer(e->v.type) ? gguf_elem_i64(&e->v, 0) : -1;
    if (v < 0 || (uint64_t)v > most) {
        char expected[64];
        snprintf(expected, sizeof expected, "an integer from 0 to %llu", (ull)most);
        return unexpected(p, e, expected, err);
    }
    *out = (uint64_t)v;
    return OK;
}

Status gguf_get_u32(const Gguf *g, const char *key, uint32_t *out, bool *found, Error *err) {
    uint64_t v = 0;
    Status st = gguf_part_uint(&g->parts[0], key, UINT32_MAX, &v, found, err);
    if (!st && (!found || *found)) *out = (uint32_t)v;
    return st;
}

Status gguf_get_f32(const Gguf *g, const char *key, float *out, bool *found, Error *err) {
    const ValueEntry *e;
    Status st = look(&g->parts[0], key, &e, found, err);
    if (st || !e) return st;
    if (e->v.type != GGUF_F32 && e->v.type != GGUF_F64) {
        return unexpected(&g->parts[0], e, "f32", err);
    }
    double v = gguf_elem_f64(&e->v, 0);
    float f = (float)v;
    if (isinf(f) && !isinf(v)) return unexpected(&g->parts[0], e, "a number in f32's range", err);
    *out = f;
    return OK;
}

Status gguf_get_bool(const Gguf *g, const char *key, bool *out, bool *found, Error *err) {
    const ValueEntry *e;
    Status st = look(&g->parts[0], key, &e, found, err);
    if (st || !e) return st;
    if (e->v.type != GGUF_BOOL) return unexpected(&g->parts[0], e, "bool", err);
    *out = e->v.raw[0] != 0;
    return OK;
}

Status gguf_get_str(const Gguf *g, const char *key, GgufStr *out, bool *found, Error *err) {
    const ValueEntry *e;
    Status st = look(&g->parts[0], key, &e, found, err);
    if (st || !e) return st;
    if (e->v.type != GGUF_STR) return unexpected(&g->parts[0], e, "str", err);
    *out = *e->v.strs;
    return OK;
}

Status gguf_get_array(const Gguf *g, const char *key, GgufType elem_type, const GgufValue **out,
                      bool *found, Error *err) {
    const ValueEntry *e;
    Status st = look(&g->parts[0], key, &e, found, err);
    if (st || !e) return st;
    bool floats = elem_type == GGUF_F32 || elem_type == GGUF_F64;
    GgufType t = e->v.elem_type;
    bool fits = is_integer(elem_type) ? is_integer(t)
                : floats              ? t == GGUF_F32 || t == GGUF_F64
                                      : t == elem_type;
    if (e->v.type != GGUF_ARRAY || !fits) {
        char expected[64];
        snprintf(expected, sizeof expected, "array of %s",
                 is_integer(elem_type) ? "integers" : gguf_type_name(elem_type));
        return unexpected(&g->parts[0], e, expected, err);
    }
    *out = &e->v;
    return OK;
}
