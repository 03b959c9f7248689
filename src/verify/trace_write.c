// Writes traces as GGUF; see trace.h.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf_write.h"
#include "verify/trace_internal.h"

typedef struct {
    ComponentRef ref;
    const float *x;
    float *owned;  // the copy, where one was made
    size_t rows, width;
    size_t prompt;
} Pending;

typedef struct {
    const char *name;
    const int32_t *tokens;
    size_t n_tokens, first_row;
    int32_t chosen;
    TraceSampling sampling;
    const char *text;  // NULL: not said
} Prompt;

typedef struct {
    const char *key, *value;
} KeyText;

struct TraceWriter {
    Arena arena;
    Prompt *prompts;
    Pending *arrays;
    KeyText *texts;
    size_t n_prompts, cap_prompts, n_arrays, cap_arrays, n_texts, cap_texts;
};

Status trace_writer_new(TraceWriter **out, Error *err) {
    *out = calloc(1, sizeof **out);
    return *out ? OK : error_memory(err, "a trace", sizeof **out);
}

void trace_writer_free(TraceWriter *w) {
    if (!w) return;
    for (size_t i = 0; i < w->n_arrays; i++) free(w->arrays[i].owned);
    free(w->prompts);
    free(w->arrays);
    free(w->texts);
    arena_free(&w->arena);
    free(w);
}

// Room for one more of n; NULL: out of memory, nothing changed.
static void *grow(void *old, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return old;
    const size_t wanted = *cap ? 2 * *cap : 64;
    void *p = realloc(old, wanted * size);
    if (p) *cap = wanted;
    return p;
}

Status trace_writer_str(TraceWriter *w, const char *key, const char *value, Error *err) {
    KeyText *texts = grow(w->texts, w->n_texts, &w->cap_texts, sizeof *texts);
    if (texts) w->texts = texts;
    const char *k = arena_text(&w->arena, key, strlen(key));
    const char *v = arena_text(&w->arena, value, strlen(value));
    if (!texts || !k || !v) return error_memory(err, "a trace", strlen(value));
    w->texts[w->n_texts++] = (KeyText){k, v};
    return OK;
}

// A name must not be the start of a component's own (blk.0.q, model.norm), or a reader could not
// tell them apart.
static Status check_name(const TraceWriter *w, const char *name, Error *err) {
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    const size_t n = strlen(name);
    if (n > TRACE_PROMPT_NAME || strspn(name, allowed) != n || strcmp(name, "blk") == 0 ||
        strcmp(name, "model") == 0) {
        char shown[64];
        return error_set(
            err, ERR_USAGE,
            "a prompt in a trace cannot be named '%s': at most %d letters, digits, '-' "
            "and '_', not blk or model",
            printable(name, n, shown, sizeof shown), TRACE_PROMPT_NAME);
    }
    for (size_t i = 0; i < w->n_prompts; i++) {
        if (strcmp(w->prompts[i].name, name) == 0) {
            return error_set(err, ERR_USAGE, "the trace has a prompt '%s' already", name);
        }
    }
    return OK;
}

Status trace_writer_prompt(TraceWriter *w, const char *name, const int32_t *tokens, size_t n,
                           size_t first_row, Error *err) {
    CHECK(n > 0 && first_row < n);
    Status st = check_name(w, name, err);
    if (st) return st;
    Prompt *prompts = grow(w->prompts, w->n_prompts, &w->cap_prompts, sizeof *prompts);
    if (prompts) w->prompts = prompts;
    int32_t *ids = arena_alloc(&w->arena, n, sizeof *ids);
    const char *own = arena_text(&w->arena, name, strlen(name));
    if (!prompts || !ids || !own) return error_memory(err, "a trace", n * sizeof *ids);
    memcpy(ids, tokens, n * sizeof *ids);
    w->prompts[w->n_prompts++] =
        (Prompt){.name = own, .tokens = ids, .n_tokens = n, .first_row = first_row, .chosen = -1};
    return OK;
}

static Status add(TraceWriter *w, ComponentRef ref, const float *x, float *owned, size_t rows,
                  size_t width, Error *err) {
    CHECK(w->n_prompts > 0 && rows > 0 && width > 0);
    Pending *arrays = grow(w->arrays, w->n_arrays, &w->cap_arrays, sizeof *arrays);
    if (!arrays) return error_memory(err, "a trace", w->cap_arrays * sizeof *arrays);
    w->arrays = arrays;
    w->arrays[w->n_arrays++] = (Pending){ref, x, owned, rows, width, w->n_prompts - 1};
    return OK;
}

Status trace_writer_array(TraceWriter *w, ComponentRef ref, const float *x, size_t rows,
                          size_t width, Error *err) {
    float *copy = malloc(rows * width * sizeof *copy);
    if (!copy) return error_memory(err, "a trace", rows * width * sizeof *copy);
    memcpy(copy, x, rows * width * sizeof *copy);
    Status st = add(w, ref, copy, copy, rows, width, err);
    if (st) free(copy);
    return st;
}

Status trace_writer_chosen(TraceWriter *w, int32_t token, Error *err) {
    (void)err;
    CHECK(w->n_prompts > 0);
    w->prompts[w->n_prompts - 1].chosen = token;
    return OK;
}

Status trace_writer_sampling(TraceWriter *w, const TraceSampling *s, Error *err) {
    (void)err;
    CHECK(w->n_prompts > 0);
    w->prompts[w->n_prompts - 1].sampling = *s;
    return OK;
}

Status trace_writer_text(TraceWriter *w, const char *text, Error *err) {
    CHECK(w->n_prompts > 0);
    const char *own = arena_text(&w->arena, text, strlen(text));
    if (!own) return error_memory(err, "a trace", strlen(text));
    w->prompts[w->n_prompts - 1].text = own;
    return OK;
}

Status trace_writer_add(TraceWriter *w, const char *name, const TracePrompt *p, Error *err) {
    // Each array knows its own first row and readers infer it from the rows: 0 bounds them all.
    Status st = trace_writer_prompt(w, name, p->tokens, p->n_tokens, 0, err);
    for (size_t i = 0; !st && i < p->n_arrays; i++) {
        const TraceArray *a = &p->arrays[i];
        st = add(w, a->ref, a->x, NULL, a->rows, a->width, err);
    }
    if (!st && p->text) st = trace_writer_text(w, p->text, err);
    if (!st) st = trace_writer_sampling(w, &p->sampling, err);
    return st ? st : trace_writer_chosen(w, p->chosen, err);
}

static const char *prompt_key(const Prompt *p, const char *what, char out[64]) {
    snprintf(out, 64, "trace.%s%s%s", p->name, *p->name ? "." : "", what);
    return out;
}

static void put_header(const TraceWriter *w, GgufWriter *g) {
    char key[64];
    gguf_put_str(g, "general.architecture", "trace");
    for (size_t i = 0; i < w->n_texts; i++) {
        if (strcmp(w->texts[i].key, "description") == 0) {
            gguf_put_str(g, "general.description", w->texts[i].value);
            continue;
        }
        snprintf(key, sizeof key, "trace.%s", w->texts[i].key);
        gguf_put_str(g, key, w->texts[i].value);
    }
    for (size_t i = 0; i < w->n_prompts; i++) {
        const Prompt *p = &w->prompts[i];
        gguf_put_array(g, prompt_key(p, "tokens", key), GGUF_I32, p->n_tokens, p->tokens);
        if (p->first_row) gguf_put_u32(g, prompt_key(p, "first_row", key), (uint32_t)p->first_row);
        if (p->chosen >= 0) gguf_put_u32(g, prompt_key(p, "chosen", key), (uint32_t)p->chosen);
        if (p->text) gguf_put_str(g, prompt_key(p, "text", key), p->text);
        if (!p->sampling.given) continue;
        char sampling[TRACE_SAMPLING_TEXT];
        trace_sampling_text(&p->sampling, sampling);
        gguf_put_str(g, prompt_key(p, "sampling", key), sampling);
    }
    for (size_t i = 0; i < w->n_arrays; i++) {
        const Pending *a = &w->arrays[i];
        const char *prompt = w->prompts[a->prompt].name;
        char text[COMPONENT_TEXT], name[TRACE_PROMPT_NAME + 1 + COMPONENT_TEXT];
        const uint64_t dims[2] = {a->width, a->rows};
        snprintf(name, sizeof name, "%s%s%s", prompt, *prompt ? "." : "",
                 component_text(a->ref, text));
        gguf_put_tensor(g, name, TYPE_F32, 2, dims);
    }
}

Status trace_writer_finish(TraceWriter *w, const char *path, Error *err) {
    GgufWriter *g;
    Status st = gguf_writer_open(path, &g, err);
    if (st) return st;
    put_header(w, g);
    for (size_t i = 0; !st && i < w->n_arrays; i++) {
        const Pending *a = &w->arrays[i];
        st = gguf_write_data(g, a->x, a->rows * a->width * sizeof *a->x, err);
    }
    if (!st) return gguf_writer_finish(g, err);
    gguf_writer_abort(g);
    return st;
}
