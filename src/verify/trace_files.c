// Traces in safetensors files and in folders of .npy files, as arrays and texts; see
// trace_internal.h.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "formats/npy.h"
#include "verify/trace_internal.h"

const char *trace_key(const char *key) {
    return strncmp(key, "trace.", 6) == 0 ? key + 6 : key;
}

void trace_source_free(TraceSource *s) {
    gguf_close(s->gguf);
    safetensors_close(s->safetensors);
    arena_free(&s->arena);
}

Status trace_source_safetensors(TraceSource *s, const char *path, Error *err) {
    Status st = safetensors_open(path, &s->safetensors, err);
    if (st) return st;
    const size_t n = safetensors_n(s->safetensors), n_texts = safetensors_n_texts(s->safetensors);
    s->arrays = arena_alloc(&s->arena, n + 1, sizeof *s->arrays);
    s->texts = arena_alloc(&s->arena, n_texts + 1, sizeof *s->texts);
    if (!s->arrays || !s->texts) return error_memory(err, path, n * sizeof *s->arrays);
    for (size_t i = 0; i < n; i++) s->arrays[s->n_arrays++] = *safetensors_at(s->safetensors, i);
    for (size_t i = 0; i < n_texts; i++) {
        SafetensorsText t = safetensors_text_at(s->safetensors, i);
        s->texts[s->n_texts++] = (TraceText){trace_key(t.key), t.text};
    }
    return OK;
}

// --- folders ----------------------------------------------------------------------------------

typedef struct {
    char **items;
    size_t n, cap;
} Names;

static int name_order(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_npy(const char *name) {
    const size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".npy") == 0;
}

// The .npy files of a folder, sorted, so that a message does not depend on the disk.
static Status list_folder(const char *path, Names *names, Error *err) {
    DIR *d = opendir(path);
    if (!d) return error_set(err, ERR_FILE, "%s: cannot be listed: %s", path, strerror(errno));
    Status st = OK;
    for (struct dirent *e; !st && (e = readdir(d));) {
        if (!is_npy(e->d_name)) continue;
        if (names->n == names->cap) {
            const size_t cap = names->cap ? 2 * names->cap : 64;
            char **items = realloc(names->items, cap * sizeof *items);
            if (items) names->items = items, names->cap = cap;
        }
        char *copy = names->n < names->cap ? strdup(e->d_name) : NULL;
        if (copy)
            names->items[names->n++] = copy;
        else
            st = error_memory(err, path, names->n * sizeof *names->items);
    }
    closedir(d);
    if (names->n) qsort(names->items, names->n, sizeof *names->items, name_order);
    return st;
}

// Copied, not kept mapped: a trace of a large model is thousands of files.
static Status add_file(TraceSource *s, const char *folder, const char *name, Error *err) {
    NdArray *a = &s->arrays[s->n_arrays];
    MappedFile *f = NULL;
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0) return error_memory(err, name, 0);
    Status st = file_map(path, &f, err);
    if (!st) st = npy_parse(file_data(f), file_size(f), path, a, err);
    if (!st) {
        const unsigned long long have = memory_available();
        void *copy = have && a->bytes > have ? NULL : arena_alloc(&s->arena, a->bytes, 1);
        char *own = arena_text(&s->arena, name, strlen(name) - 4);
        if (!copy || !own) {
            st = error_memory(err, path, a->bytes);
        } else {
            memcpy(copy, a->data, a->bytes);
            a->data = copy, a->name = own;
            st = file_fault(f, err);
        }
    }
    if (!st) s->n_arrays++;
    file_unmap(f);
    free(path);
    return st;
}

Status trace_source_folder(TraceSource *s, const char *path, Error *err) {
    Names names = {0};
    Status st = list_folder(path, &names, err);
    if (!st) {
        s->arrays = arena_alloc(&s->arena, names.n + 1, sizeof *s->arrays);
        if (!s->arrays) st = error_memory(err, path, names.n * sizeof *s->arrays);
    }
    for (size_t i = 0; !st && i < names.n; i++) st = add_file(s, path, names.items[i], err);
    for (size_t i = 0; i < names.n; i++) free(names.items[i]);
    free(names.items);
    return st;
}
