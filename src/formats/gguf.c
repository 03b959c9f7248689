// Opens GGUF models, whole or split, and hands out their index; see gguf.h for what this room owns.
//
// A model in several files is named NAME-00001-of-00003.gguf and so on; each file's metadata say
// split.no (0-based), split.count and split.tensors.count (of all files). The first file's metadata
// are the model's; of the others only those three keys are looked at.
#include "formats/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "formats/gguf_internal.h"

typedef unsigned long long ull;

// "-00001-of-00003.gguf"
enum { SPLIT_SUFFIX = 20 };

typedef struct {
    uint64_t no, count, n_tensors;
    bool has_n_tensors;
} Split;

static Status read_split(const Part *p, Split *s, Error *err) {
    bool found;
    *s = (Split){.count = 1};
    Status st = gguf_part_uint(p, "split.count", GGUF_MAX_PARTS, &s->count, &found, err);
    if (!st) st = gguf_part_uint(p, "split.no", GGUF_MAX_PARTS, &s->no, &found, err);
    if (!st && s->count > 1 && !found) {
        st = error_set(err, ERR_FILE, "%s: split.count is %llu, but key \"split.no\" is missing",
                       p->path, (ull)s->count);
    }
    if (!st) {
        st = gguf_part_uint(p, "split.tensors.count", INT32_MAX, &s->n_tensors, &s->has_n_tensors,
                            err);
    }
    if (!st && s->count == 0) s->count = 1;  // written by some for "not split"
    if (!st && s->no >= s->count) {
        st = error_set(err, ERR_FILE, "%s: split.no is %llu, expected less than split.count, %llu",
                       p->path, (ull)s->no, (ull)s->count);
    }
    return st;
}

// Parses; where the file changed under us meanwhile, says so rather than what came of it.
static Status parse_part(Gguf *g, Part *p, Error *err) {
    Status st = gguf_parse(p, &g->arena, err);
    Status fault = p->file && st != ERR_UNAVAILABLE ? file_fault(p->file, err) : OK;
    return fault ? fault : st;
}

static Status map_part(Gguf *g, Part *p, const char *path, int number, Error *err) {
    Status st = file_map(path, &p->file, err);
    if (st) return st;
    p->path = file_path(p->file);
    p->data = file_data(p->file);
    p->size = p->present = file_size(p->file);
    p->number = number;
    return parse_part(g, p, err);
}

static void unmap_parts(Gguf *g) {
    for (int i = 0; i < g->n_parts; i++) file_unmap(g->parts[i].file);
    g->n_parts = 0;
}

static Status reserve_parts(Gguf *g, uint64_t n, Error *err) {
    g->parts = arena_alloc(&g->arena, (size_t)n, sizeof *g->parts);
    return g->parts ? OK : error_memory(err, "the parts of a model", n * sizeof *g->parts);
}

// Opens part k of a model whose opened file says `whole`; name has room for the part's path.
static Status open_part(Gguf *g, char *name, size_t stem, const Split *whole, int k, Error *err) {
    char tail[SPLIT_SUFFIX + 12];
    snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", k + 1, (int)whole->count);
    memcpy(name + stem, tail, SPLIT_SUFFIX + 1);
    Part *p = &g->parts[k];
    g->n_parts = k + 1;
    Split s;
    Status st = map_part(g, p, name, k, err);
    if (st) {
        if (!p->file) {
            error_prefix(err, "part %d of %d of a split model cannot be opened", k + 1,
                         (int)whole->count);
        }
        return st;
    }
    if ((st = read_split(p, &s, err))) return st;
    if (s.no != (uint64_t)k || s.count != whole->count) {
        return error_set(err, ERR_FILE,
                         "%s: by its name part %d of %d, by its keys split.no and split.count part "
                         "%llu of %llu",
                         name, k + 1, (int)whole->count, (ull)s.no + 1, (ull)s.count);
    }
    if (s.has_n_tensors && whole->has_n_tensors && s.n_tensors != whole->n_tensors) {
        return error_set(err, ERR_FILE,
                         "%s: key \"split.tensors.count\" is %llu, %llu in another part: the parts "
                         "are not of one model",
                         name, (ull)s.n_tensors, (ull)whole->n_tensors);
    }
    return OK;
}

// path is a part of a split model: opens them all from the first on.
static Status open_split(Gguf *g, const char *path, const Split *whole, Error *err) {
    char expected[SPLIT_SUFFIX + 32];
    snprintf(expected, sizeof expected, "-%05llu-of-%05llu.gguf", (ull)whole->no + 1,
             (ull)whole->count);
    size_t len = strlen(path);
    if (len < SPLIT_SUFFIX || strcmp(path + len - SPLIT_SUFFIX, expected) != 0) {
        return error_set(err, ERR_FILE,
                         "%s: is part %llu of %llu of a split model, its name must end in %s and "
                         "the other parts must lie beside it",
                         path, (ull)whole->no + 1, (ull)whole->count, expected);
    }
    char *name = arena_text(&g->arena, path, len);
    if (!name) return error_memory(err, "a file name", len + 1);
    unmap_parts(g);
    Status st = reserve_parts(g, whole->count, err);
    for (uint64_t k = 0; !st && k < whole->count; k++) {
        st = open_part(g, name, len - SPLIT_SUFFIX, whole, (int)k, err);
    }
    return st;
}

// Joins the tensors of all parts and sorts their names.
static Status index_tensors(Gguf *g, Error *err) {
    size_t n = 0;
    for (int i = 0; i < g->n_parts; i++) n += g->parts[i].n_tensors;
    g->tensors = arena_alloc(&g->arena, n + 1, sizeof *g->tensors);
    g->by_name = arena_alloc(&g->arena, n + 1, sizeof *g->by_name);
    if (!g->tensors || !g->by_name) {
        return error_memory(err, "the index of tensors", 2 * (n + 1) * sizeof *g->tensors);
    }
    for (int i = 0; i < g->n_parts; i++) {
        for (size_t j = 0; j < g->parts[i].n_tensors; j++) {
            g->by_name[g->n_tensors] = g->tensors[g->n_tensors] = &g->parts[i].tensors[j];
            g->n_tensors++;
        }
    }
    gguf_sort_tensors(g->by_name, n);
    for (size_t i = 1; i < n; i++) {
        const TensorEntry *a = g->by_name[i - 1], *b = g->by_name[i];
        if (strcmp(a->t.name, b->t.name) == 0) {
            return error_set(
                err, ERR_FILE,
                "%s: tensor \"%s\" at byte %llu: the same name stands at byte %llu%s%s",
                g->parts[b->t.part].path, b->t.name, (ull)b->at, (ull)a->at,
                a->t.part == b->t.part ? "" : " of ",
                a->t.part == b->t.part ? "" : g->parts[a->t.part].path);
        }
    }
    return OK;
}

static Status open_parts(Gguf *g, const char *path, Error *err) {
    Split split;
    Status st = reserve_parts(g, 1, err);
    if (st) return st;
    g->n_parts = 1;
    if ((st = map_part(g, &g->parts[0], path, 0, err))) return st;
    if ((st = read_split(&g->parts[0], &split, err))) return st;
    if (split.count > 1 && (st = open_split(g, path, &split, err))) return st;
    if ((st = index_tensors(g, err))) return st;
    if (split.has_n_tensors && split.n_tensors != g->n_tensors) {
        return error_set(err, ERR_FILE,
                         "%s: key \"split.tensors.count\" is %llu, but the model has %zu tensors",
                         path, (ull)split.n_tensors, g->n_tensors);
    }
    return OK;
}

Status gguf_open(const char *path, Gguf **out, Error *err) {
    *out = NULL;
    Gguf *g = calloc(1, sizeof *g);
    if (!g) return error_memory(err, "a model file", sizeof *g);
    Status st = open_parts(g, path, err);
    if (st) {
        gguf_close(g);
        return st;
    }
    *out = g;
    return OK;
}

static Status open_memory(Gguf *g, const void *data, size_t size, const char *name, Error *err) {
    static const uint8_t nothing[1];
    Split split;
    Status st = reserve_parts(g, 1, err);
    if (st) return st;
    g->n_parts = 1;
    Part *p = &g->parts[0];
    p->path = arena_text(&g->arena, name, strlen(name));
    if (!p->path) return error_memory(err, "a name", strlen(name) + 1);
    p->data = size ? data : nothing;
    p->size = p->present = size;
    if ((st = parse_part(g, p, err))) return st;
    if ((st = read_split(p, &split, err))) return st;
    if (split.count > 1) {
        return error_set(err, ERR_FILE,
                         "%s: is part %llu of %llu of a split model, which only files can be", name,
                         (ull)split.no + 1, (ull)split.count);
    }
    return index_tensors(g, err);
}

Status gguf_open_memory(const void *data, size_t size, const char *name, Gguf **out, Error *err) {
    *out = NULL;
    Gguf *g = calloc(1, sizeof *g);
    if (!g) return error_memory(err, "a model file", sizeof *g);
    Status st = open_memory(g, data, size, name, err);
    if (st) {
        gguf_close(g);
        return st;
    }
    *out = g;
    return OK;
}

void gguf_close(Gguf *g) {
    if (!g) return;
    unmap_parts(g);
    arena_free(&g->arena);
    free(g);
}

const char *gguf_path(const Gguf *g) {
    return g->parts[0].path;
}

uint32_t gguf_version(const Gguf *g) {
    return g->parts[0].version;
}

uint64_t gguf_alignment(const Gguf *g) {
    return g->parts[0].alignment;
}

uint64_t gguf_file_bytes(const Gguf *g) {
    uint64_t bytes = 0;
    for (int i = 0; i < g->n_parts; i++) bytes += g->parts[i].size;
    return bytes;
}

int gguf_n_parts(const Gguf *g) {
    return g->n_parts;
}

const uint8_t *gguf_part_bytes(const Gguf *g, int part, uint64_t *size) {
    CHECK(part >= 0 && part < g->n_parts);
    *size = g->parts[part].size;
    return g->parts[part].data;
}

Status gguf_fault(const Gguf *g, Error *err) {
    for (int i = 0; i < g->n_parts; i++) {
        Status st = g->parts[i].file ? file_fault(g->parts[i].file, err) : OK;
        if (st) return st;
    }
    return OK;
}

size_t gguf_n_values(const Gguf *g) {
    return g->parts[0].n_values;
}

const GgufValue *gguf_value_at(const Gguf *g, size_t i) {
    CHECK(i < g->parts[0].n_values);
    return &g->parts[0].values[i].v;
}

const GgufValue *gguf_find(const Gguf *g, const char *key) {
    const ValueEntry *e = gguf_part_find(&g->parts[0], key);
    return e ? &e->v : NULL;
}

size_t gguf_n_tensors(const Gguf *g) {
    return g->n_tensors;
}

const Tensor *gguf_tensor_at(const Gguf *g, size_t i) {
    CHECK(i < g->n_tensors);
    return &g->tensors[i]->t;
}

const Tensor *gguf_tensor(const Gguf *g, const char *name) {
    size_t lo = 0, hi = g->n_tensors;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(g->by_name[mid]->t.name, name);
        if (c == 0) return &g->by_name[mid]->t;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}
