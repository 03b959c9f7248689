// Prompts from the command line; see prompt.h.
#define _GNU_SOURCE
#include "cli/prompt.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STDIN_PATIENCE_MS = 1000 };

void prompt_args_table(PromptArgs *a, Arg table[N_PROMPT_ARGS]) {
    const Arg t[N_PROMPT_ARGS] = {
        {"-p, --prompt", ARG_TEXT, &a->prompt, 0},
        {"-f, --file", ARG_TEXT, &a->file, 0},
        {"-sys, --system-prompt", ARG_TEXT, &a->system, 0},
        {"--chat-template", ARG_TEXT, &a->chat_template, 0},
        {"--no-chat-template, -no-cnv, --no-conversation", ARG_FLAG, &a->no_template, 0},
        {"--tokens", ARG_TEXT, &a->tokens, 0},
        {0}};
    memcpy(table, t, sizeof t);
}

void prompt_args_free(PromptArgs *a) {
    arg_list_free(&a->words);
    text_free(&a->text);
    tokens_free(&a->ids);
}

// Piped text is the prompt where no other is given. A pipe that stays silent is not waited for.
static bool stdin_has_text(void) {
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    return !isatty(STDIN_FILENO) && poll(&p, 1, STDIN_PATIENCE_MS) > 0 &&
           (p.revents & (POLLIN | POLLHUP));
}

Status prompt_args_find(PromptArgs *a, Error *err) {
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
        return error_set(
            err, ERR_USAGE,
            "no prompt; give it as an argument, with -p, with -f FILE, or on stdin (-f - "
            "waits for it)");
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

Status prompt_args_read(PromptArgs *a, plumb_session *s, const plumb_model *m, bool *chat,
                        Error *err) {
    plumb_model_info info;
    plumb_model_describe(m, &info);
    plumb_error e;
    plumb_status st = PLUMB_OK;
    *chat = !a->tokens && !a->no_template && (info.chat_template || a->chat_template);
    if (!a->tokens && !a->no_template && !a->chat_template && info.chat_notice[0]) {
        notice_say(cli_notice(), "%s", info.chat_notice);
    }
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
