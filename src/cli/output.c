// Outputs of the commands that write a model; see output.h.
#define _GNU_SOURCE
#include "cli/output.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool same_file(const struct stat *a, const char *path) {
    struct stat b;
    return stat(path, &b) == 0 && a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

// Is the file one of those that the model was read from? Parts of a split model are called
// NAME-00001-of-00003.gguf and so on; gguf_path is the first.
static bool is_input(const struct stat *file, const Gguf *in) {
    enum { TAIL = 19 };  // "00001-of-00003.gguf"
    char name[4096];
    const char *first = gguf_path(in);
    const size_t len = strlen(first);
    if (same_file(file, first)) return true;
    if (gguf_n_parts(in) == 1 || len < TAIL || len >= sizeof name) return false;
    for (int i = 1; i < gguf_n_parts(in); i++) {
        snprintf(name, sizeof name, "%.*s%05d%s", (int)(len - TAIL), first, i + 1,
                 first + len - TAIL + 5);
        if (same_file(file, name)) return true;
    }
    return false;
}

Status output_check(const char *path, const Gguf *in, bool force, Error *err) {
    struct stat file;
    if (stat(path, &file) != 0 || !S_ISREG(file.st_mode)) return OK;
    if (in && is_input(&file, in)) {
        return error_set(err, ERR_USAGE, "%s is the input itself; give the output another name",
                         path);
    }
    if (force) return OK;
    return error_set(err, ERR_USAGE, "%s exists; --force overwrites it", path);
}

static void show_progress(void *user, uint64_t done, uint64_t total) {
    cli_progress(user, (double)done, done < total ? (double)total : 0);
}

Progress output_progress(const char *what) {
    return (Progress){show_progress, (void *)(uintptr_t)what};
}

Status output_mix(const char *name, const Mix **out, Error *err) {
    Text known = {0};
    *out = mix_by_name(name);
    if (*out) return OK;
    for (int i = 0; mix_at(i); i++) {
        text_append_str(&known, " ");
        text_append_str(&known, mix_at(i)->name);
    }
    Status st = error_set(err, ERR_USAGE, "there is no type '%s'; there are:%s", name,
                          known.data ? known.data : "");
    text_free(&known);
    return st;
}

void output_list_mixes(void) {
    for (int i = 0; mix_at(i); i++) {
        const TypeInfo *t = type_info(mix_at(i)->base);
        printf("%-8s mostly %s (%.2f bits a weight)\n", mix_at(i)->name, t->name,
               8.0 * t->block_bytes / t->block_len);
    }
}

static double mib(uint64_t bytes) {
    return (double)bytes / 0x1p20;
}

Status output_summary(const char *in, uint64_t in_bytes, const char *path, const Mix *mix,
                      double seconds, Error *err) {
    struct stat file;
    if (stat(path, &file) != 0 || !S_ISREG(file.st_mode)) return OK;
    Gguf *g = NULL;
    Status st = gguf_open(path, &g, err);
    if (st) return st;
    double bytes = 0, weights = 0;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        bytes += (double)t->bytes;
        weights +=
            (double)t->dims[0] * (double)t->dims[1] * (double)t->dims[2] * (double)t->dims[3];
    }
    fprintf(stderr, "plumb: ");
    if (in_bytes) fprintf(stderr, "%s %.1f MiB -> ", in, mib(in_bytes));
    fprintf(stderr, "%s %.1f MiB, %s, %.2f bits a weight, %.1f s\n", path, mib(gguf_file_bytes(g)),
            mix->name, weights > 0 ? 8 * bytes / weights : 0, seconds);
    gguf_close(g);
    return OK;
}
