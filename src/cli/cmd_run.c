// plumb run: one prompt, one answer.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/prompt.h"

typedef struct {
    ModelArgs m;
    GenerationArgs g;
    PromptArgs p;
} RunArgs;

static Status read_args(int argc, char **argv, RunArgs *a, bool *help, Error *err) {
    Arg prompt[N_PROMPT_ARGS], models[N_MODEL_ARGS], generation[N_GENERATION_ARGS];
    prompt_args_table(&a->p, prompt);
    model_args_table(&a->m, models);
    generation_args_table(&a->g, generation);
    const Arg *const tables[] = {prompt, models, generation};
    Status st = args_read(argc, argv, tables, 3, &a->p.words, help, err);
    if (st || *help) return st;
    if (a->g.g.n_logprobs && !a->m.json) {
        return error_set(err, ERR_USAGE, "--logprobs needs --json, where they are printed");
    }
    return generation_args_finish(&a->g, err);
}

static int print_text(void *user, const char *text, size_t len) {
    (void)user;
    cli_progress(NULL, 0, 0);
    return fwrite(text, 1, len, stdout) == len && fflush(stdout) == 0;
}

static void print_prefill(void *user, size_t done, size_t total) {
    (void)user;
    if (total > 512)
        cli_progress("reading the prompt", (double)done, done == total ? 0 : (double)total);
}

static Status run(RunArgs *a, plumb_model *m, plumb_session *s, double load_s, Error *err) {
    bool chat;
    Status st = prompt_args_read(&a->p, s, m, &chat, err);
    if (st) return st;
    const bool color = cli_color(a->m.color, STDOUT_FILENO) && !a->m.json;
    plumb_generation *g = &a->g.g;
    plumb_result r;
    plumb_error e;
    g->on_text = a->m.json ? NULL : print_text;
    g->on_prefill = print_prefill;
    cli_catch_interrupt(s);
    if (color) fputs("\033[32m", stdout);
    st = (Status)(chat ? plumb_chat_reply(s, g, &r, &e)
                       : plumb_generate(s, a->p.ids.data, a->p.ids.len, g, &r, &e));
    if (color) fputs("\033[0m", stdout);
    cli_progress(NULL, 0, 0);
    cli_catch_interrupt(NULL);
    if (st) {
        memcpy(err, &e, sizeof e);
        return st;
    }
    RunFigures f = cli_figures(m, g, &r, a->m.threads, true);
    if (a->m.json)
        st = json_print_run(m, &r, g->n_logprobs, &f, load_s, err);
    else if (g->max_tokens != 0)
        putchar('\n');
    fflush(stdout);
    if (a->m.verbose) {
        fprintf(stderr, "plumb: prompt ids:");
        for (size_t i = 0; i < r.n_prompt_tokens; i++) fprintf(stderr, " %d", r.prompt_tokens[i]);
        fprintf(stderr, "\nplumb: seed %lld, loaded in %.3f s\n", (long long)r.seed, load_s);
    }
    if (!st) cli_print_figures(&r, &f);
    return st;
}

int cmd_run(int argc, char **argv) {
    RunArgs a = {.m = model_args_default, .g = generation_args_default()};
    Error err;
    bool help = false;
    plumb_model *m = NULL;
    plumb_session *s = NULL;
    Status st = read_args(argc, argv, &a, &help, &err);
    if (!st && !help) {
        if (a.m.json) st = json_check(&err);
        if (!st) st = prompt_args_find(&a.p, &err);
        double start = clock_seconds();
        if (!st && !(m = cli_open_model(&a.m, &err))) st = err.status;
        if (!st && !(s = cli_open_session(&a.m, m, &err))) st = err.status;
        if (!st) st = run(&a, m, s, clock_seconds() - start, &err);
    }
    plumb_session_close(s);
    plumb_model_close(m);
    generation_args_free(&a.g);
    prompt_args_free(&a.p);
    if (help) return cli_instead("run", a.m.list_devices);
    return cli_finish(st ? cli_fail(&err) : 0);
}
