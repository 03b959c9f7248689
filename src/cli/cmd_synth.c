// plumb synth: a model of a real shape with random weights, to measure speed without a download.
//
// This room owns: options and what may be overwritten. It leaves to others: the model
// (formats/synth.h).
#include <stdio.h>

#include "base/clock.h"
#include "cli/output.h"
#include "formats/synth.h"

typedef struct {
    const char *shape, *type, *output;
    int64_t seed;
    int threads;
    bool list, force;
} SynthArgs;

static Status read_args(int argc, char **argv, SynthArgs *a, bool *help, Error *err) {
    const Arg own[] = {
        {"--shape", ARG_TEXT, &a->shape, 0},        {"--type", ARG_TEXT, &a->type, 0},
        {"-o, --output", ARG_TEXT, &a->output, 0},  {"-s, --seed", ARG_I64, &a->seed, 0},
        {"-t, --threads", ARG_INT, &a->threads, 1}, {"--list", ARG_FLAG, &a->list, 0},
        {"--force", ARG_FLAG, &a->force, 0},        {0}};
    const Arg *const tables[] = {own};
    Status st = args_read(argc, argv, tables, 1, NULL, help, err);
    if (st || *help || a->list) return st;
    if (!a->shape)
        return error_set(err, ERR_USAGE, "synth needs --shape NAME; --list has the shapes");
    if (!a->output) return error_set(err, ERR_USAGE, "synth needs -o FILE to write to");
    return OK;
}

static void list_shapes(void) {
    for (int i = 0; synth_at(i); i++) {
        const SynthShape *s = synth_at(i);
        printf(
            "%-16s %-6s %7.1f M parameters, %d layers, dim %d, %d heads (%d of keys and values), "
            "vocabulary %d\n",
            s->name, s->arch, (double)synth_weights(s) / 1e6, s->n_layers, s->dim, s->n_heads,
            s->n_kv_heads, s->vocab_size);
    }
}

static Status synth_file(const SynthArgs *a, Error *err) {
    const SynthShape *shape = synth_by_name(a->shape);
    const Mix *mix = NULL;
    Pool *pool = NULL;
    const double start = clock_seconds();
    if (!shape) {
        return error_set(err, ERR_USAGE, "there is no shape '%s'; `plumb synth --list` lists them",
                         a->shape);
    }
    Status st = output_mix(a->type, &mix, err);
    if (!st) st = output_check(a->output, NULL, a->force, err);
    if (!st) st = pool_create(a->threads ? a->threads : pool_default_threads(), &pool, err);
    if (!st) {
        st = synth_write(shape, mix, (uint64_t)a->seed, a->output, pool, output_progress("writing"),
                         err);
    }
    cli_progress(NULL, 0, 0);
    if (!st) st = output_summary(NULL, 0, a->output, mix, clock_seconds() - start, err);
    pool_free(pool);
    return st;
}

int cmd_synth(int argc, char **argv) {
    SynthArgs a = {.type = "Q4_K_M", .seed = 1};
    Error err;
    bool help = false;
    Status st = read_args(argc, argv, &a, &help, &err);
    if (!st && help) return cli_help("synth");
    if (!st && a.list)
        list_shapes();
    else if (!st)
        st = synth_file(&a, &err);
    return cli_finish(st ? cli_fail(&err) : 0);
}
