// Line input; see line.h.
#define _GNU_SOURCE
#include "cli/line.h"

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if HAVE_LIBEDIT
#include <histedit.h>
#endif

enum { HISTORY_LINES = 1000 };

struct LineReader {
    bool terminal, color;
    char *line;  // of getline
    size_t cap;
    char history_path[4096];
#if HAVE_LIBEDIT
    EditLine *edit;
    History *history;
#endif
};

bool line_is_terminal(const LineReader *r) {
    return r->terminal;
}

// Does nothing, but its arrival ends the wait for a key.
static void on_interrupt(int sig) {
    (void)sig;
}

#if HAVE_LIBEDIT

static char *plain_prompt(EditLine *e) {
    (void)e;
    static char text[] = "> ";
    return text;
}

static char *color_prompt(EditLine *e) {
    (void)e;
    static char text[] =
        "\1\033[1;36m\1>\1\033[0m\1 ";  // \1 marks what takes no room; libedit drops it at the end
    return text;
}

static void open_editor(LineReader *r) {
    HistEvent ev;
    r->edit = el_init("plumb", stdin, stdout, stderr);
    r->history = history_init();
    if (!r->edit || !r->history) return;
    history(r->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(r->history, &ev, H_SETUNIQUE, 1);
    if (r->history_path[0]) history(r->history, &ev, H_LOAD, r->history_path);
    el_set(r->edit, EL_EDITOR, "emacs");
    el_set(r->edit, EL_HIST, history, r->history);
    if (r->color)
        el_set(r->edit, EL_PROMPT_ESC, color_prompt, '\1');
    else
        el_set(r->edit, EL_PROMPT, plain_prompt);
    el_source(r->edit, NULL);  // ~/.editrc
}

static void close_editor(LineReader *r) {
    HistEvent ev;
    if (r->history && r->history_path[0]) history(r->history, &ev, H_SAVE, r->history_path);
    if (r->edit) el_end(r->edit);
    if (r->history) history_end(r->history);
}

#endif

LineReader *line_open(bool color) {
    LineReader *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    r->color = color;
    const char *home = getenv("HOME");
    if (home && *home) snprintf(r->history_path, sizeof r->history_path, "%s/.plumb_history", home);
    setlocale(LC_CTYPE, "");
    // Text is UTF-8 here whatever the locale says; in "C" the editor would drop all but ASCII.
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
#if HAVE_LIBEDIT
    if (r->terminal) open_editor(r);
#endif
    return r;
}

void line_close(LineReader *r) {
    if (!r) return;
#if HAVE_LIBEDIT
    close_editor(r);
#endif
    free(r->line);
    free(r);
}

// One line as typed, newline included; NULL at the end or when interrupted.
static const char *raw_line(LineReader *r, size_t *len, LineResult *why) {
    struct sigaction a = {.sa_handler = on_interrupt}, old;  // no SA_RESTART: Ctrl-C ends the wait
    sigemptyset(&a.sa_mask);
    if (r->terminal) sigaction(SIGINT, &a, &old);
    const char *line = NULL;
    errno = 0;
#if HAVE_LIBEDIT
    if (r->edit) {
        int n = 0;
        line = el_gets(r->edit, &n);
        *len = line && n > 0 ? (size_t)n : 0;
        if (n <= 0) line = NULL;
        if (n < 0) el_reset(r->edit);
    } else
#endif
    {
        if (r->terminal) fputs("> ", stdout), fflush(stdout);
        ssize_t n = getline(&r->line, &r->cap, stdin);
        line = n >= 0 ? r->line : NULL;
        *len = n >= 0 ? (size_t)n : 0;
    }
    *why = line              ? LINE_OK
           : errno == EINTR  ? LINE_INTERRUPTED
           : errno == ENOMEM ? LINE_FAILED
                             : LINE_END;
    if (*why == LINE_INTERRUPTED) clearerr(stdin);
    if (r->terminal) sigaction(SIGINT, &old, NULL);
    return line;
}

LineResult line_read(LineReader *r, Text *out) {
    out->len = 0;
    for (;;) {
        LineResult why;
        size_t len;
        const char *line = raw_line(r, &len, &why);
        if (!line) return why == LINE_END && out->len ? LINE_OK : why;
        while (len && (line[len - 1] == '\n' || line[len - 1] == '\r')) len--;
        const bool more = len && line[len - 1] == '\\';
        if (more) len--;
        if (!text_append(out, line, len) || (more && !text_append_str(out, "\n")))
            return LINE_FAILED;
        if (!more) break;
    }
#if HAVE_LIBEDIT
    HistEvent ev;
    if (r->history && out->len) history(r->history, &ev, H_ENTER, out->data);
#endif
    return LINE_OK;
}
