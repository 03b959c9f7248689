// Any bytes as a trace file (GGUF or safetensors): refused with words, or arrays that can be read.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "verify/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile float sink;

static void walk(const char *path, const TraceShape *shape) {
    Trace *t;
    Error err = {0};
    Status st = trace_open(path, shape, (Notice){0}, &t, &err);
    if (st) {
        if (t || st != err.status || !err.text[0] || strchr(err.text, '\n')) abort();
        return;
    }
    for (size_t i = 0; i < t->n_prompts; i++) {
        const TracePrompt *p = &t->prompts[i];
        const TraceSampling *how = &p->sampling;
        if (p->n_tokens == 0 || p->tokens[p->n_tokens - 1] < 0) abort();
        if (how->given && !(how->top_p >= 0 && how->top_p <= 1 && how->repeat_penalty > 0)) abort();
        if (how->given && (how->repeat_last_n < -1 || how->temp != how->temp)) abort();
        if (p->text) sink = (float)strlen(p->text);
        for (size_t k = 0; k < p->n_arrays; k++) {
            const TraceArray *a = &p->arrays[k];
            const size_t last = a->rows * a->width - 1;
            if (a->first_row >= p->n_tokens || (uintptr_t)a->x % sizeof *a->x) abort();
            if (trace_find(p, a->ref.c, a->ref.layer) != a) abort();
            sink = a->x[0] + a->x[last];
        }
    }
    const char *eps = trace_says(t, "model.rms_eps");
    if (eps) sink = (float)strlen(eps);
    trace_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const TraceShape shape = {QK_HF, true, 2, 1, 4};
    char path[64];
    const int fd = memfd_create("trace", 0);
    if (fd < 0) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (write(fd, data, size) == (ssize_t)size) {
        walk(path, NULL);
        walk(path, &shape);
    }
    close(fd);
    return 0;
}
