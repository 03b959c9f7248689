// plumb quantize: a smaller file of the same model.
//
// This room owns: what may be converted and what may be overwritten. It leaves to others: the
// conversion (formats/requantize.h).
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/output.h"
#include "formats/requantize.h"

typedef struct {
    int threads;
    bool list, force, allow_requantize;
    ArgList words;  // input, output, type
} QuantizeArgs;

static Status read_args(int argc, char **argv, QuantizeArgs *a, bool *help, Error *err) {
    const Arg own[] = {{"--list", ARG_FLAG, &a->list, 0},
                       {"-t, --threads", ARG_INT, &a->threads, 1},
                       {"--force", ARG_FLAG, &a->force, 0},
                       {"--allow-requantize", ARG_FLAG, &a->allow_requantize, 0},
                       {0}};
    const Arg *const tables[] = {own};
    Status st = args_read(argc, argv, tables, 1, &a->words, help, err);
    if (st || *help || a->list || a->words.n == 3) return st;
    return error_set(err, ERR_USAGE,
                     "quantize needs an input, an output and a type, as in `plumb quantize "
                     "model-f16.gguf model-q4.gguf Q4_K_M`; --list has the types");
}

// Rounding what was rounded before loses more than rounding the original once.
static Status check_input(const QuantizeArgs *a, const Gguf *in, Error *err) {
    if (gguf_n_tensors(in) == 0) {
        return error_set(err, ERR_FILE, "%s: has no tensors, so there is nothing to quantize",
                         gguf_path(in));
    }
    for (size_t i = 0; i < gguf_n_tensors(in) && !a->allow_requantize; i++) {
        const Tensor *t = gguf_tensor_at(in, i);
        if (t->type == TYPE_F32 || t->type == TYPE_F16 || t->type == TYPE_BF16) continue;
        char name[32];
        return error_set(
            err, ERR_USAGE,
            "%s: tensor %s is %s already; quantize the F16 or F32 model, or accept the "
            "loss with --allow-requantize",
            gguf_path(in), t->name, type_name(t->type, name, NULL));
    }
    return OK;
}

static Status quantize_file(const QuantizeArgs *a, Error *err) {
    const char *from = a->words.items[0], *to = a->words.items[1];
    const Mix *mix = NULL;
    Gguf *in = NULL;
    Pool *pool = NULL;
    const double start = clock_seconds();
    Status st = output_mix(a->words.items[2], &mix, err);
    if (!st) st = gguf_open(from, &in, err);
    if (!st) st = check_input(a, in, err);
    if (!st) st = output_check(to, in, a->force, err);
    if (!st) st = pool_create(a->threads ? a->threads : pool_default_threads(), &pool, err);
    if (!st) st = requantize(in, mix, to, pool, output_progress("quantizing"), err);
    cli_progress(NULL, 0, 0);
    if (!st) {
        st = output_summary(from, gguf_file_bytes(in), to, mix, clock_seconds() - start, err);
    }
    pool_free(pool);
    gguf_close(in);
    return st;
}

int cmd_quantize(int argc, char **argv) {
    QuantizeArgs a = {0};
    Error err;
    bool help = false;
    Status st = read_args(argc, argv, &a, &help, &err);
    if (!st && !help && !a.list) st = quantize_file(&a, &err);
    arg_list_free(&a.words);
    if (!st && help) return cli_help("quantize");
    if (!st && a.list) output_list_mixes();
    return cli_finish(st ? cli_fail(&err) : 0);
}
