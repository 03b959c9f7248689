// plumb run: one prompt, one answer.
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/json.h"

enum { STDIN_PATIENCE_MS = 1000 };

typedef struct {
    ModelArgs m;
    GenerationArgs g;
    const char *prompt, *file, *system, *chat_template, *tokens;
    bool no_template;
    ArgList words;
    Text text;
    TokenList ids;
} RunArgs;

static Status read_args(int argc, char **argv, RunArgs *a, bool *help, Error *err) {
    Arg models[N_MODEL_ARGS], generation[N_GENERATION_ARGS];
    const Arg own[] = {
        {"-p, --prompt", ARG_TEXT, &a->prompt, 0},
        {"-f, --file", ARG_TEXT, &a->file, 0},
        {"-sys, --system-prompt", ARG_TEXT, &a->system, 0},
        {"--chat-template", ARG_TEXT, &a->chat_template, 0},
        {"--no-chat-template, -no-cnv, --no-conversation", ARG_FLAG, &a->no_template, 0},
        {"--tokens", ARG_TEXT, &a->tokens, 0},
        {0}};
    model_args_table(&a->m, models);
    generation_args_table(&a->g, generation);
    const Arg *const tables[] = {own, models, generation};
    Status st = args_read(argc, argv, tables, 3, &a->words, help, err);
    return st || *help ? st : generation_args_finish(&a->g, err);
}

// Piped text is the prompt where no other is given. A pipe that stays silent is not waited for.
static bool stdin_has_text(void) {
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    return !isatty(STDIN_FILENO) && poll(&p, 1, STDIN_PATIENCE_MS) > 0 &&
           (p.revents & (POLLIN | POLLHUP));
}

static Status find_prompt(RunArgs *a, Error *err) {
    int given = (a->prompt != NULL) + (a->file != NULL) + (a->words.n > 0) + (a->tokens != NULL);
    if (given > 1) {
        return error_set(err, ERR_USAGE,
                         "give one prompt: as an argument, with -p, -f or --tokens, not several");
    }
    if (a->chat_template && (a->no_template || a->tokens)) {
        return error_set(err, ERR_USAGE, "--chat-template does not go with %s",
                         a->tokens ? "--tokens" : "--no-chat-template");
    }
    if (given == 0) {
        Status st = stdin_has_text() ? cli_read_text("-", &a->text, err) : OK;
        if (st || a->text.len) return st;
        return error_set(err, ERR_USAGE,
                         "no prompt; give it as an argument, with -p, with -f FILE, or on stdin");
    }
    if (a->file) return cli_read_text(a->file, &a->text, err);
    bool ok = text_append_str(&a->text, a->prompt ? a->prompt : "");
    for (size_t i = 0; ok && i < a->words.n; i++) {
        ok = (i == 0 || text_append_str(&a->text, " ")) &&
             text_append_str(&a->text, a->words.items[i]);
    }
    return ok ? OK : error_memory(err, "the prompt", a->text.len);
}

Status cli_parse_ids(const char *text, TokenList *out, Error *err) {
    while (*(text += strspn(text, ", \t\n"))) {
        char word[16];
        size_t n = strcspn(text, ", \t\n");
        int64_t id = -1;
        if (n < sizeof word) {
            memcpy(word, text, n);
            word[n] = 0;
        }
        if (n >= sizeof word || !arg_int(word, 0, INT32_MAX, &id)) {
            return error_set(
                err, ERR_USAGE,
                "token ids are whole numbers separated by commas or spaces, not '%.*s'",
                (int)(n < 40 ? n : 40), text);
        }
        if (!tokens_append(out, (int32_t)id)) return error_memory(err, "token ids", out->len * 4);
        text += n;
    }
    return OK;
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

static Status make_prompt(RunArgs *a, plumb_session *s, const plumb_model *m, bool *chat,
                          Error *err) {
    plumb_model_info info;
    plumb_model_describe(m, &info);
    plumb_error e;
    plumb_status st = PLUMB_OK;
    *chat = !a->tokens && !a->no_template && (info.chat_template || a->chat_template);
    if (a->system && !*chat) {
        return error_set(err, ERR_USAGE, "-sys needs a chat template, and this run has none");
    }
    if (a->tokens) return cli_parse_ids(a->tokens, &a->ids, err);
    if (*chat) {
        if (strlen(a->text.data) != a->text.len) {
            return error_set(err, ERR_USAGE,
                             "the prompt holds a NUL byte; only --no-chat-template takes that");
        }
        if (a->chat_template) st = plumb_chat_set_template(s, a->chat_template, &e);
        if (!st && a->system) st = plumb_chat_add(s, "system", a->system, &e);
        if (!st) st = plumb_chat_add(s, "user", a->text.data, &e);
    } else {
        // A byte rarely makes more than a token, but a vocabulary may spell one byte with many.
        for (size_t n = a->text.len + 16; !st && n > a->ids.cap;) {
            int32_t *ids = realloc(a->ids.data, n * sizeof *ids);
            if (!ids) return error_memory(err, "token ids", n * sizeof *ids);
            a->ids.data = ids, a->ids.cap = n;
            // A raw prompt's special tokens are tokens: whoever writes one writes the template too.
            st = plumb_tokenize(m, a->text.data, a->text.len, PLUMB_PARSE_SPECIAL, ids, a->ids.cap,
                                &n, &e);
            a->ids.len = n;
        }
    }
    if (st) memcpy(err, &e, sizeof e);
    return (Status)st;
}

static Status run(RunArgs *a, plumb_model *m, plumb_session *s, double load_s, Error *err) {
    bool chat;
    Status st = make_prompt(a, s, m, &chat, err);
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
                       : plumb_generate(s, a->ids.data, a->ids.len, g, &r, &e));
    if (color) fputs("\033[0m", stdout);
    cli_progress(NULL, 0, 0);
    cli_catch_interrupt(NULL);
    if (st) {
        memcpy(err, &e, sizeof e);
        return st;
    }
    RunFigures f = cli_figures(m, &r, a->m.threads, true);
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
        if (!st) st = find_prompt(&a, &err);
        double start = clock_seconds();
        if (!st && !(m = cli_open_model(&a.m, &err))) st = err.status;
        if (!st && !(s = cli_open_session(&a.m, m, &err))) st = err.status;
        if (!st) st = run(&a, m, s, clock_seconds() - start, &err);
    }
    plumb_session_close(s);
    plumb_model_close(m);
    arg_list_free(&a.words);
    generation_args_free(&a.g);
    text_free(&a.text);
    tokens_free(&a.ids);
    if (help) return cli_help("run");
    return cli_finish(st ? cli_fail(&err) : 0);
}
