// plumb chat: a conversation in the terminal.
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/chat_file.h"
#include "cli/cli.h"
#include "cli/line.h"

typedef struct {
    ModelArgs m;
    GenerationArgs g;
    const char *system, *chat_template;
    char *own_system;  // of /system; else NULL
    bool no_template;
    plumb_model *model;
    plumb_session *session;
    plumb_result last;  // figures of the last answer
    bool answered, terminal, color;
    int code;  // the first failure, for the exit code of a run that is not watched
} Chat;

static Status read_args(int argc, char **argv, Chat *c, bool *help, Error *err) {
    Arg models[N_MODEL_ARGS], generation[N_GENERATION_ARGS];
    const Arg own[] = {{"-sys, --system-prompt", ARG_TEXT, &c->system, 0},
                       {"--chat-template", ARG_TEXT, &c->chat_template, 0},
                       {"--no-chat-template", ARG_FLAG, &c->no_template, 0},
                       {0}};
    model_args_table(&c->m, models);
    generation_args_table(&c->g, generation);
    const Arg *const tables[] = {own, models, generation};
    Status st = args_read(argc, argv, tables, 3, NULL, help, err);
    if (st || *help) return st;
    if (c->m.json || c->g.g.n_logprobs) {
        return error_set(err, ERR_USAGE, "chat has no --json and no --logprobs; `plumb run` has");
    }
    if (c->no_template && c->chat_template) {
        return error_set(err, ERR_USAGE, "--chat-template does not go with --no-chat-template");
    }
    return generation_args_finish(&c->g, err);
}

// --- commands ---------------------------------------------------------------------------------

static void say(const Chat *c, const char *text) {
    fprintf(c->terminal ? stdout : stderr, "%s\n", text);
}

static void fail(Chat *c, const Error *err) {
    int code = cli_fail(err);
    if (!c->code) c->code = code;
}

// Starts over with the system prompt alone.
static Status start_over(Chat *c, Error *err) {
    plumb_chat_truncate(c->session, 0);
    return c->system && *c->system
               ? (Status)plumb_chat_add(c->session, "system", c->system, (plumb_error *)(void *)err)
               : OK;
}

static void change_system(Chat *c, const char *text) {
    Error err;
    char *copy = strdup(text);
    Status st = copy ? OK : error_memory(&err, "the system prompt", strlen(text));
    if (!st) {
        free(c->own_system);
        c->system = c->own_system = copy;
        st = start_over(c, &err);
    }
    if (st) fail(c, &err);
}

static void print_stats(const Chat *c) {
    printf("context: %d of %d tokens, %zu messages\n", plumb_session_n_tokens(c->session),
           plumb_session_n_ctx(c->session), plumb_chat_length(c->session));
    if (!c->answered) return;
    fflush(stdout);
    RunFigures f = cli_figures(c->model, &c->g.g, &c->last, c->m.threads, true);
    cli_print_figures(&c->last, &f);
}

static void save(Chat *c, const char *path) {
    Error err;
    if (!*path) error_set(&err, ERR_USAGE, "/save needs a file name");
    if (!*path || chat_file_save(path, c->session, &err))
        fail(c, &err);
    else
        fprintf(stderr, "plumb: %zu messages written to %s\n", plumb_chat_length(c->session), path);
}

static void load(Chat *c, const char *path) {
    Error err;
    if (!*path) error_set(&err, ERR_USAGE, "/load needs a file name");
    if (!*path || chat_file_load(path, c->session, &err))
        fail(c, &err);
    else
        fprintf(stderr, "plumb: %zu messages read from %s\n", plumb_chat_length(c->session), path);
}

// Runs "/word rest"; false to leave.
static bool run_command(Chat *c, char *line) {
    char *rest = line + strcspn(line, " \t");
    if (*rest) *rest++ = 0;
    rest += strspn(rest, " \t");
    Error err;
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) return false;
    if (strcmp(line, "/help") == 0) {
        say(c,
            "/help /clear /stats /exit\n/system TEXT   a new system prompt; starts over\n"
            "/save FILE     write the conversation\n/load FILE     go on with a saved one\n"
            "A line that ends in \\ goes on in the next. Ctrl-C stops an answer, Ctrl-D ends.");
    } else if (strcmp(line, "/clear") == 0) {
        if (start_over(c, &err)) fail(c, &err);
    } else if (strcmp(line, "/system") == 0) {
        change_system(c, rest);
    } else if (strcmp(line, "/stats") == 0) {
        print_stats(c);
    } else if (strcmp(line, "/save") == 0) {
        save(c, rest);
    } else if (strcmp(line, "/load") == 0) {
        load(c, rest);
    } else {
        error_set(&err, ERR_USAGE, "there is no command %s; /help lists them", line);
        fail(c, &err);
    }
    return true;
}

// --- the conversation -------------------------------------------------------------------------

static int print_text(void *user, const char *text, size_t len) {
    (void)user;
    cli_progress(NULL, 0, 0);
    return fwrite(text, 1, len, stdout) == len && fflush(stdout) == 0;
}

static void print_prefill(void *user, size_t done, size_t total) {
    (void)user;
    if (total > 512) cli_progress("reading", (double)done, done == total ? 0 : (double)total);
}

// One message and its answer. A message that could not be answered leaves the conversation as it
// was.
static void answer(Chat *c, const char *text) {
    const size_t before = plumb_chat_length(c->session);
    plumb_error e;
    cli_catch_interrupt(c->session);
    plumb_status st = plumb_chat_add(c->session, "user", text, &e);
    if (c->color) fputs("\033[32m", stdout);
    if (!st) st = plumb_chat_reply(c->session, &c->g.g, &c->last, &e);
    if (c->color) fputs("\033[0m", stdout);
    cli_catch_interrupt(NULL);
    cli_progress(NULL, 0, 0);
    if (st) {
        plumb_chat_truncate(c->session, before);
        fail(c, (const Error *)(const void *)&e);
        return;
    }
    if (plumb_chat_length(c->session) == before + 1) plumb_chat_truncate(c->session, before);
    c->answered = true;
    putchar('\n');
    if (c->terminal) putchar('\n');
    fflush(stdout);
    if (c->last.finish == PLUMB_FINISH_CONTEXT) {
        fputs("plumb: the context is full; /clear starts over, -c makes it larger\n", stderr);
    }
    if (c->m.verbose) {
        RunFigures f = cli_figures(c->model, &c->g.g, &c->last, c->m.threads, false);
        cli_print_figures(&c->last, &f);
    }
}

static void converse(Chat *c, LineReader *in) {
    Text line = {0};
    for (int interrupts = 0;;) {
        LineResult got = line_read(in, &line);
        if (got == LINE_INTERRUPTED) {
            if (interrupts++) break;
            fputs("\n(Ctrl-C again, Ctrl-D or /exit leaves)\n", stdout);
            continue;
        }
        if (got != LINE_OK) {
            if (got == LINE_FAILED)
                c->code = cli_failf(ERR_UNAVAILABLE, "out of memory: a line of input");
            if (c->terminal) putchar('\n');
            break;
        }
        interrupts = 0;
        char *text = line.data;
        if (text && strlen(text) != line.len) {
            Error err;
            error_set(&err, ERR_USAGE, "the line holds a NUL byte");
            fail(c, &err);
        } else if (!text || text[strspn(text, " \t\n")] == 0) {
            continue;
        } else if (text[0] == '/' && isalpha((unsigned char)text[1])) {
            if (!run_command(c, text)) break;
        } else {
            answer(c, text);
        }
        if (ferror(stdout)) break;
    }
    text_free(&line);
}

static Status start(Chat *c, Error *err) {
    plumb_model_info info;
    plumb_error e;
    plumb_status st = PLUMB_OK;
    c->model = cli_open_model(&c->m, err);
    if (!c->model) return err->status;
    c->session = cli_open_session(&c->m, c->model, err);
    if (!c->session) return err->status;
    plumb_model_describe(c->model, &info);
    if (c->no_template) st = plumb_chat_set_template(c->session, "none", &e);
    if (!st && c->chat_template) st = plumb_chat_set_template(c->session, c->chat_template, &e);
    if (st) {
        memcpy(err, &e, sizeof e);
        return (Status)st;
    }
    if (info.chat_notice[0] && info.chat_template && !c->chat_template && !c->no_template) {
        notice_say(cli_notice(), "%s", info.chat_notice);
    }
    if (!info.chat_template && !c->chat_template && !c->no_template) {
        return error_set(
            err, ERR_USAGE,
            "this model has no chat template; name one with --chat-template, or use `plumb run`");
    }
    c->g.g.on_text = print_text;
    c->g.g.on_prefill = print_prefill;
    return start_over(c, err);
}

int cmd_chat(int argc, char **argv) {
    Chat c = {.m = model_args_default, .g = generation_args_default()};
    Error err;
    bool help = false;
    LineReader *in = NULL;
    Status st = read_args(argc, argv, &c, &help, &err);
    if (!st && !help) st = start(&c, &err);
    if (!st && !help) {
        c.color = cli_color(c.m.color, STDOUT_FILENO);
        in = line_open(c.color);
        if (!in) st = error_memory(&err, "line input", 0);
    }
    if (in) {
        c.terminal = line_is_terminal(in);
        if (c.terminal) {
            plumb_model_info info;
            plumb_model_describe(c.model, &info);
            printf("%s on %s (%s). /help lists the commands, Ctrl-D ends.\n",
                   *info.name ? info.name : "a model", info.backend, info.device);
        }
        converse(&c, in);
    }
    line_close(in);
    plumb_session_close(c.session);
    plumb_model_close(c.model);
    generation_args_free(&c.g);
    free(c.own_system);
    if (help) return cli_instead("chat", c.m.list_devices);
    // Someone at a terminal has seen what failed; a script learns it from the exit code.
    return cli_finish(st ? cli_fail(&err) : c.terminal ? 0 : c.code);
}
