// plumb trace: every component of one prompt's forward pass, to a file.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/fault_trace.h"
#include "cli/output.h"
#include "cli/prompt.h"
#include "engine/plumb_internal.h"
#include "verify/capture.h"

typedef struct {
    ModelArgs m;
    PromptArgs p;
    const char *output, *name, *components, *fault;
    bool no_scores, force;
} TraceArgs;

static Status read_args(int argc, char **argv, TraceArgs *a, bool *help, Error *err) {
    Arg prompt[N_PROMPT_ARGS], models[N_MODEL_ARGS];
    const Arg own[] = {{"-o, --output", ARG_TEXT, &a->output, 0},
                       {"--name", ARG_TEXT, &a->name, 0},
                       {"--components", ARG_TEXT, &a->components, 0},
                       {"--no-scores", ARG_FLAG, &a->no_scores, 0},
                       {"--force", ARG_FLAG, &a->force, 0},
                       {"--fault", ARG_TEXT, &a->fault, 0},
                       {0}};
    prompt_args_table(&a->p, prompt);
    model_args_table(&a->m, models);
    const Arg *const tables[] = {own, prompt, models};
    Status st = args_read(argc, argv, tables, 3, &a->p.words, help, err);
    if (st || *help) return st;
    if (a->m.json) return error_set(err, ERR_USAGE, "trace has no --json; its output is the file");
    if (!a->output) return error_set(err, ERR_USAGE, "trace needs -o FILE to write to");
    return OK;
}

// "q,k,ffn_out"; NULL: all.
static Status read_components(const TraceArgs *a, ComponentSet *out, Error *err) {
    const char *at = a->components;
    *out = at ? 0 : CAPTURE_ALL;
    while (at && *(at += strspn(at, ", "))) {
        const size_t n = strcspn(at, ", ");
        char word[COMPONENT_TEXT] = "";
        Component c;
        if (n < sizeof word) memcpy(word, at, n);
        if (!component_by_name(word, &c) || c == COMP_TOKEN) {  // the token is always there
            Text all = {0};
            for (int i = 0; i < COMP_TOKEN; i++) {
                if (i) text_append_str(&all, " ");
                text_append_str(&all, component_name((Component)i));
            }
            error_set(err, ERR_USAGE, "there is no component '%.*s'; they are: %s",
                      (int)(n < 40 ? n : 40), at, all.data ? all.data : "");
            text_free(&all);
            return ERR_USAGE;
        }
        *out |= 1u << c;
        at += n;
    }
    if (a->no_scores) *out &= ~CAPTURE_SCORES;
    return *out ? OK : error_set(err, ERR_USAGE, "--components leaves nothing to keep");
}

// The ids of a chat, as a reply would read them.
static Status chat_ids(const plumb_session *s, TokenList *out, Error *err) {
    plumb_error e;
    size_t n = 0;
    plumb_status st = plumb_chat_tokens(s, NULL, 0, &n, &e);
    if (!st) {
        out->data = malloc((n + 1) * sizeof *out->data);
        if (!out->data) return error_memory(err, "token ids", n * sizeof *out->data);
        out->cap = n + 1;
        st = plumb_chat_tokens(s, out->data, n, &out->len, &e);
    }
    if (st) memcpy(err, &e, sizeof e);
    return (Status)st;
}

static void report(const TraceArgs *a, const TracePrompt *p, double seconds) {
    struct stat info;
    const double mib = stat(a->output, &info) == 0 ? (double)info.st_size / 0x1p20 : 0;
    fprintf(stderr, "plumb: %s: %zu tokens, %zu arrays, %.1f MiB, %.2f s\n", a->output, p->n_tokens,
            p->n_arrays, mib, seconds);
    if (!a->m.verbose) return;
    fprintf(stderr, "plumb: prompt ids:");
    for (size_t i = 0; i < p->n_tokens; i++) fprintf(stderr, " %d", p->tokens[i]);
    fprintf(stderr, "\nplumb: the likeliest next id is %d\n", p->chosen);
}

static TensorType kv_type(const char *name) {
    TensorType t = TYPE_F16;
    if (name) CHECK(type_by_name(name, &t));  // the session has checked it
    return t;
}

static Status trace(TraceArgs *a, plumb_model *m, plumb_session *s, ComponentSet which,
                    Error *err) {
    const double start = clock_seconds();
    TraceWriter *w = NULL;
    TracePrompt p = {0};
    bool chat;
    Status st = prompt_args_read(&a->p, s, m, &chat, err);
    if (!st && chat) st = chat_ids(s, &a->p.ids, err);
    if (!st) st = trace_writer_new(&w, err);
    if (!st) st = capture_describe(w, m->device, kv_type(a->m.type_k), kv_type(a->m.type_v), err);
    if (!st && m->name[0]) st = trace_writer_str(w, "model.name", m->name, err);
    if (!st) {
        st = capture_prompt(s->session, m->device, a->p.ids.data, a->p.ids.len, which, &p, err);
    }
    // A raw prompt's ids are those of this text with its special tokens parsed; a chat's are not,
    // where a message holds what reads like one.
    if (!chat && a->p.text.len && strlen(a->p.text.data) == a->p.text.len) p.text = a->p.text.data;
    if (!st) st = trace_writer_add(w, a->name ? a->name : "", &p, err);
    if (!st) st = trace_writer_finish(w, a->output, err);
    if (!st) report(a, &p, clock_seconds() - start);
    trace_writer_free(w);
    capture_free(&p);
    return st;
}

// Keeps the arrays of `which`; the others stay behind, to be freed.
static size_t keep_components(TracePrompt *p, ComponentSet which) {
    size_t n = 0;
    for (size_t i = 0; i < p->n_arrays; i++) {
        if (!(which >> p->arrays[i].ref.c & 1)) continue;
        const TraceArray a = p->arrays[n];
        p->arrays[n++] = p->arrays[i];
        p->arrays[i] = a;
    }
    return n;
}

// As an engine with faults would have written it: nothing in it says how that engine works.
static Status trace_faults(const TraceArgs *a, const plumb_model *m, ComponentSet which,
                           Error *err) {
    const double start = clock_seconds();
    TraceWriter *w = NULL;
    TracePrompt p = {0};
    FaultList faults;
    Text text = {0}, what = {0};
    Status st = fault_list_read(a->fault, &faults, err);
    if (!st) st = fault_trace(&faults, &a->p, m, which & CAPTURE_SCORES, &text, &p, err);
    if (!st && !(text_append_str(&what, "the fault engine with ") &&
                 text_append_str(&what, faults.names.data))) {
        st = error_memory(err, "a description", faults.names.len);
    }
    const size_t all = p.n_arrays;
    if (!st) p.n_arrays = keep_components(&p, which);
    if (!st) st = trace_writer_new(&w, err);
    if (!st) st = trace_writer_str(w, "description", what.data, err);
    if (!st) st = trace_writer_add(w, a->name ? a->name : "", &p, err);
    if (!st) st = trace_writer_finish(w, a->output, err);
    if (!st) report(a, &p, clock_seconds() - start);
    p.n_arrays = all;
    trace_writer_free(w);
    mutant_free(&p);
    fault_list_free(&faults);
    text_free(&text), text_free(&what);
    return st;
}

int cmd_trace(int argc, char **argv) {
    TraceArgs a = {.m = model_args_default};
    Error err;
    bool help = false;
    ComponentSet which;
    plumb_model *m = NULL;
    plumb_session *s = NULL;
    Status st = read_args(argc, argv, &a, &help, &err);
    if (!st && !help) {
        st = read_components(&a, &which, &err);
        if (!st) st = prompt_args_find(&a.p, &err);
        if (!st) st = output_check(a.output, NULL, a.force, &err);
        if (!st && !(m = cli_open_model(&a.m, &err))) st = err.status;
        if (!st) st = output_check(a.output, m->gguf, a.force, &err);
        if (!st && a.fault) st = trace_faults(&a, m, which, &err);
        if (!st && !a.fault && !(s = cli_open_session(&a.m, m, &err))) st = err.status;
        if (!st && !a.fault) st = trace(&a, m, s, which, &err);
    }
    plumb_session_close(s);
    plumb_model_close(m);
    prompt_args_free(&a.p);
    if (help) return cli_instead("trace", a.m.list_devices);
    return cli_finish(st ? cli_fail(&err) : 0);
}
