// Traces in GGUF files, as arrays and texts; see trace_internal.h.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "verify/trace_internal.h"

static const struct {
    GgufType from;
    NdType to;
} int_types[] = {{GGUF_U8, ND_U8},   {GGUF_I8, ND_I8},   {GGUF_U16, ND_U16}, {GGUF_I16, ND_I16},
                 {GGUF_U32, ND_U32}, {GGUF_I32, ND_I32}, {GGUF_U64, ND_U64}, {GGUF_I64, ND_I64}};

static bool int_type(GgufType from, NdType *to) {
    for (size_t i = 0; i < sizeof int_types / sizeof *int_types; i++) {
        if (int_types[i].from != from) continue;
        *to = int_types[i].to;
        return true;
    }
    return false;
}

static Status check_architecture(const Gguf *g, Error *err) {
    GgufStr arch = {0};
    bool found;
    char shown[64];
    Status st = gguf_get_str(g, "general.architecture", &arch, &found, err);
    if (st || !found || (arch.len == 5 && memcmp(arch.ptr, "trace", 5) == 0)) return st;
    return error_set(err, ERR_FILE,
                     "%s: is no trace: its general.architecture is \"%s\", expected \"trace\"; "
                     "`plumb trace -m MODEL -o FILE` makes one",
                     gguf_path(g), printable(arch.ptr, arch.len, shown, sizeof shown));
}

// trace.PROMPT.tokens
static Status add_tokens(TraceSource *s, const GgufValue *v, const char *key, Error *err) {
    NdArray *a = &s->arrays[s->n_arrays];
    if (v->type != GGUF_ARRAY || !int_type(v->elem_type, &a->type)) {
        char shown[128];
        return error_set(err, ERR_FILE, "%s: key \"%s\": expected an array of integers, found %s",
                         gguf_path(s->gguf), printable(v->key, strlen(v->key), shown, sizeof shown),
                         gguf_type_name(v->type == GGUF_ARRAY ? v->elem_type : v->type));
    }
    a->name = key, a->data = v->raw;
    a->rank = 1, a->dims[0] = v->n;
    CHECK(nd_set_size(a));  // the bytes are there
    s->n_arrays++;
    return OK;
}

// Numbers become text. A text with a NUL in it is no text of ours: cut there it would lie.
static Status add_text(TraceSource *s, const GgufValue *v, const char *key, Error *err) {
    char number[32];
    const char *text = number;
    size_t len;
    NdType unused;
    if (v->type == GGUF_STR) {
        text = v->strs->ptr, len = (size_t)v->strs->len;
        if (memchr(text, 0, len)) return OK;
    } else if (int_type(v->type, &unused)) {
        len = (size_t)snprintf(number, sizeof number, "%" PRId64, gguf_elem_i64(v, 0));
    } else if (v->type == GGUF_F32 || v->type == GGUF_F64) {
        len = (size_t)snprintf(number, sizeof number, "%.*g", v->type == GGUF_F32 ? 9 : 17,
                               gguf_elem_f64(v, 0));
    } else if (v->type == GGUF_BOOL) {
        len = (size_t)snprintf(number, sizeof number, "%s", gguf_elem_i64(v, 0) ? "yes" : "no");
    } else {
        return OK;
    }
    text = arena_text(&s->arena, text, len);
    if (!text) return error_memory(err, key, len);
    s->texts[s->n_texts++] = (TraceText){key, text};
    return OK;
}

static Status add_value(TraceSource *s, const GgufValue *v, Error *err) {
    static const char tail[] = "tokens";
    const char *key = trace_key(v->key);
    const size_t len = strlen(key), n = sizeof tail - 1;
    if (strcmp(v->key, "general.description") == 0) return add_text(s, v, "description", err);
    if (key == v->key) return OK;
    if (len >= n && strcmp(key + len - n, tail) == 0 && (len == n || key[len - n - 1] == '.')) {
        return add_tokens(s, v, key, err);
    }
    return add_text(s, v, key, err);
}

static Status add_tensor(TraceSource *s, const Tensor *t, Error *err) {
    NdArray *a = &s->arrays[s->n_arrays];
    if (t->type != TYPE_F32 && t->type != TYPE_F16 && t->type != TYPE_BF16) {
        return error_set(
            err, ERR_FILE, "%s: tensor \"%s\" at byte %llu: expected F32, F16 or BF16, found %s",
            gguf_path(s->gguf), t->name, (unsigned long long)t->offset, type_info(t->type)->name);
    }
    a->type = t->type == TYPE_F32 ? ND_F32 : t->type == TYPE_F16 ? ND_F16 : ND_BF16;
    a->name = t->name, a->data = t->data;
    a->rank = t->n_dims;
    for (int i = 0; i < t->n_dims; i++) a->dims[i] = t->dims[t->n_dims - 1 - i];
    CHECK(nd_set_size(a) && a->bytes == t->bytes);  // the reader has checked it
    s->n_arrays++;
    return OK;
}

Status trace_source_gguf(TraceSource *s, const char *path, Error *err) {
    Status st = gguf_open(path, &s->gguf, err);
    if (!st) st = check_architecture(s->gguf, err);
    if (st) return st;
    const size_t n_values = gguf_n_values(s->gguf), n_tensors = gguf_n_tensors(s->gguf);
    s->arrays = arena_alloc(&s->arena, n_values + n_tensors + 1, sizeof *s->arrays);
    s->texts = arena_alloc(&s->arena, n_values + 1, sizeof *s->texts);
    if (!s->arrays || !s->texts) return error_memory(err, path, n_values * sizeof *s->texts);
    for (size_t i = 0; !st && i < n_values; i++) st = add_value(s, gguf_value_at(s->gguf, i), err);
    for (size_t i = 0; !st && i < n_tensors; i++) {
        st = add_tensor(s, gguf_tensor_at(s->gguf, i), err);
    }
    return st ? st : gguf_fault(s->gguf, err);
}
