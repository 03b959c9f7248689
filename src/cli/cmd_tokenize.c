// plumb tokenize: text to ids and back, on vocabularies of any model.
//
// This room owns: showing tokens. It leaves to others: cutting text (model/tokenizer.h) and putting
// messages into templates (model/chat_template.h). No weights are looked at.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "model/chat_template.h"

typedef struct {
    const char *model, *prompt, *file, *decode, *system, *template_name;
    bool ids_only, no_bos, no_special, as_chat, list, json, color;
    ArgList words;
    Text message;  // the text as given
    Text text;     // what is encoded or was decoded: the message, or what the template makes of it
    TokenList ids;
    ChatText chat;
    const ChatTemplate *chat_template;
} TokenizeArgs;

static Status read_args(int argc, char **argv, TokenizeArgs *a, bool *help, Error *err) {
    const Arg own[] = {{"-m, --model", ARG_TEXT, &a->model, 0},
                       {"-p, --prompt", ARG_TEXT, &a->prompt, 0},
                       {"-f, --file", ARG_TEXT, &a->file, 0},
                       {"--ids", ARG_FLAG, &a->ids_only, 0},
                       {"--no-bos", ARG_FLAG, &a->no_bos, 0},
                       {"--no-special, --no-parse-special", ARG_FLAG, &a->no_special, 0},
                       {"--decode", ARG_TEXT, &a->decode, 0},
                       {"--chat", ARG_FLAG, &a->as_chat, 0},
                       {"-sys, --system-prompt", ARG_TEXT, &a->system, 0},
                       {"--chat-template", ARG_TEXT, &a->template_name, 0},
                       {"--list-templates", ARG_FLAG, &a->list, 0},
                       {"--json", ARG_FLAG, &a->json, 0},
                       {"--color", ARG_FLAG, &a->color, 0},
                       {0}};
    const Arg *const tables[] = {own};
    Status st = args_read(argc, argv, tables, 1, &a->words, help, err);
    if (st || *help || a->list) return st;
    if (a->ids_only && a->json) return error_set(err, ERR_USAGE, "--ids or --json, not both");
    int given = (a->prompt != NULL) + (a->file != NULL) + (a->words.n > 0) + (a->decode != NULL);
    if (given == 0) {
        return error_set(
            err, ERR_USAGE,
            "no text; give it as an argument, with -p TEXT, or with -f FILE (-f - reads "
            "stdin)");
    }
    if (given > 1) {
        return error_set(err, ERR_USAGE,
                         "give one text: as an argument, with -p, -f or --decode, not several");
    }
    if (a->decode && a->as_chat)
        return error_set(err, ERR_USAGE, "--chat goes with a text, not with --decode");
    if (!a->as_chat && (a->system || a->template_name)) {
        return error_set(err, ERR_USAGE, "%s needs --chat", a->system ? "-sys" : "--chat-template");
    }
    return OK;
}

static Status read_text(TokenizeArgs *a, Error *err) {
    if (a->file) return cli_read_text(a->file, &a->message, err);
    bool ok = text_append_str(&a->message, a->prompt ? a->prompt : "");
    for (size_t i = 0; ok && i < a->words.n; i++) {
        ok = (i == 0 || text_append_str(&a->message, " ")) &&
             text_append_str(&a->message, a->words.items[i]);
    }
    return ok ? OK : error_memory(err, "the text", a->message.len);
}

// --- text to ids ---------------------------------------------------------------------------------

static Status choose_template(TokenizeArgs *a, const Gguf *g, const Tokenizer *tok, Error *err) {
    const char *name = a->template_name;
    if (!name) return chat_template_detect(g, tok, cli_notice(), &a->chat_template, err);
    a->chat_template = chat_template_by_name(name);
    if (a->chat_template || strcmp(name, "none") == 0) return OK;
    return error_set(err, ERR_USAGE, "no chat template is named '%s'; --list-templates lists them",
                     name);
}

// The messages that the options make, as a session would render them: without a template their
// texts stand one after the other.
static Status render_chat(TokenizeArgs *a, Error *err) {
    const ChatMessage m[2] = {{"system", a->system}, {"user", a->message.data}};
    const ChatMessage *first = a->system ? m : m + 1;
    const size_t n = a->system ? 2 : 1;
    if (strlen(a->message.data) != a->message.len) {
        return error_set(err, ERR_USAGE, "the text holds a NUL byte, which no message can");
    }
    if (a->chat_template) {
        return chat_template_render(a->chat_template, first, n, true, &a->chat, err);
    }
    a->chat.spans = calloc(n, sizeof *a->chat.spans);
    if (!a->chat.spans) return error_memory(err, "the chat", n * sizeof *a->chat.spans);
    for (size_t i = 0; i < n; i++) {
        a->chat.spans[a->chat.n_spans++] =
            (TextSpan){first[i].content, strlen(first[i].content), false};
    }
    return OK;
}

static Status encode(TokenizeArgs *a, const Gguf *g, const Tokenizer *tok, Error *err) {
    const TextSpan whole = {a->message.data, a->message.len, !a->no_special};
    const TextSpan *spans = &whole;
    size_t n_spans = 1;
    if (a->as_chat) {
        Status st = choose_template(a, g, tok, err);
        if (!st) st = render_chat(a, err);
        if (st) return st;
        for (size_t i = 0; a->no_special && i < a->chat.n_spans; i++) {
            a->chat.spans[i].parse_special = false;
        }
        spans = a->chat.spans, n_spans = a->chat.n_spans;
    }
    bool ok = text_reserve(&a->text, 0);
    for (size_t i = 0; ok && i < n_spans; i++) {
        ok = text_append(&a->text, spans[i].text, spans[i].len);
    }
    if (!ok) return error_memory(err, "the text", a->text.len);
    return tokenizer_encode(tok, spans, n_spans, a->no_bos ? ENCODE_NO_BOS : 0, &a->ids, err);
}

// The BOS that encoding puts first is no part of the text, so that ids made here give their text
// back.
static Status decode(TokenizeArgs *a, const Tokenizer *tok, Error *err) {
    Status st = cli_parse_ids(a->decode, &a->ids, err);
    if (st) return st;
    const size_t skip = a->ids.len > 0 && tokenizer_adds_bos(tok) && !a->no_bos &&
                        a->ids.data[0] == tokenizer_bos(tok);
    if (!text_reserve(&a->text, 0)) return error_memory(err, "the text", 0);
    return tokenizer_decode(tok, skip ? a->ids.data + 1 : a->ids.data, a->ids.len - skip,
                            a->no_special ? 0 : DECODE_SPECIAL, &a->text, err);
}

// --- showing -------------------------------------------------------------------------------------

static const char *kind_name(TokenKind k) {
    static const char *const names[] = {"?",    "normal", "unknown", "control",
                                        "user", "unused", "byte"};
    return names[(unsigned)k < sizeof names / sizeof *names ? k : 0];
}

static void print_ids(const TokenList *ids) {
    for (size_t i = 0; i < ids->len; i++) printf(i ? " %d" : "%d", ids->data[i]);
    putchar('\n');
}

static Status print_table(const TokenizeArgs *a, const Tokenizer *tok, Error *err) {
    enum { WIDTH = 24 };
    Text piece = {0};
    for (size_t i = 0; i < a->ids.len; i++) {
        char shown[256];
        piece.len = 0;
        if (!tokenizer_piece(tok, a->ids.data[i], DECODE_SPECIAL, &piece)) {
            text_free(&piece);
            return error_memory(err, "a token's text", 0);
        }
        printable(piece.data, piece.len, shown, sizeof shown);
        int width = 2;
        for (const char *p = shown; *p; p++) width += (*p & 0xc0) != 0x80;
        printf("%7d  \"%s\"%*s  %s\n", a->ids.data[i], shown, width < WIDTH ? WIDTH - width : 0, "",
               kind_name(tokenizer_token_kind(tok, a->ids.data[i])));
    }
    text_free(&piece);
    return OK;
}

// Where the special token stands in the text at or after `from`: within one span whose special
// tokens are parsed, or, of a user-defined one, anywhere. SIZE_MAX if nowhere.
static size_t find_special(const TokenizeArgs *a, GgufStr token, bool anywhere, size_t from) {
    size_t start = 0;
    for (size_t i = 0; i < a->chat.n_spans; i++) {
        const size_t end = anywhere ? a->text.len : start + a->chat.spans[i].len;
        for (size_t at = from > start ? from : start;
             (anywhere || a->chat.spans[i].parse_special) && at + token.len <= end; at++) {
            if (memcmp(a->text.data + at, token.ptr, token.len) == 0) return at;
        }
        if (anywhere) break;
        start = end;
    }
    return SIZE_MAX;
}

static void print_mark(GgufStr token, bool color) {
    char shown[256];
    printable(token.ptr, token.len, shown, sizeof shown);
    printf(color ? "\033[7m%s\033[0m" : "\xe2\x9f\xa6%s\xe2\x9f\xa7", shown);
}

// The text, its special tokens marked. They are those of the ids, in the same order; a BOS or EOS
// that the text does not hold stands first or last.
static void print_marked(const TokenizeArgs *a, const Tokenizer *tok, bool color) {
    size_t done = 0;
    for (size_t i = 0; i < a->ids.len; i++) {
        const int32_t id = a->ids.data[i];
        const TokenKind kind = tokenizer_token_kind(tok, id);
        const GgufStr s = tokenizer_token_text(tok, id);
        if ((kind != TOKEN_CONTROL && kind != TOKEN_USER) || s.len == 0) continue;
        size_t at = find_special(a, s, kind == TOKEN_USER, done);
        const bool added = at == SIZE_MAX || (i == 0 && at > 0 && id == tokenizer_bos(tok));
        if (added) at = i + 1 == a->ids.len && i > 0 ? a->text.len : done;
        fwrite(a->text.data + done, 1, at - done, stdout);
        print_mark(s, color);
        done = at + (added ? 0 : s.len);
    }
    fwrite(a->text.data + done, 1, a->text.len - done, stdout);
}

static void print_chat(const TokenizeArgs *a, const Tokenizer *tok) {
    const bool color = cli_color(a->color, STDOUT_FILENO);
    printf("template: %s\ntext:\n",
           a->chat_template ? chat_template_name(a->chat_template) : "none");
    print_marked(a, tok, color);
    printf("\n%zu ids:\n", a->ids.len);
    print_ids(&a->ids);
}

#if HAVE_JANSSON
static Status print_json(const TokenizeArgs *a, const Tokenizer *tok, Error *err) {
    json_t *pieces = json_array(), *kinds = json_array();
    Text piece = {0};
    bool ok = pieces && kinds;
    for (size_t i = 0; ok && i < a->ids.len; i++) {
        piece.len = 0;
        const char *kind = kind_name(tokenizer_token_kind(tok, a->ids.data[i]));
        ok = tokenizer_piece(tok, a->ids.data[i], DECODE_SPECIAL, &piece) &&
             !json_array_append_new(pieces, json_text(piece.data, piece.len)) &&
             !json_array_append_new(kinds, json_string(kind));
    }
    text_free(&piece);
    if (!ok) {
        json_decref(pieces), json_decref(kinds);
        return error_memory(err, "JSON output", a->ids.len * 64);
    }
    json_t *o =
        json_pack("{s:o, s:o, s:o, s:o}", "ids", json_ids(a->ids.data, a->ids.len), "pieces",
                  pieces, "kinds", kinds, "text", json_text(a->text.data, a->text.len));
    if (o && a->as_chat) {
        const char *name = a->chat_template ? chat_template_name(a->chat_template) : "none";
        json_object_set_new(o, "template", json_string(name));
    }
    return json_print(o, err);
}
#else
static Status print_json(const TokenizeArgs *a, const Tokenizer *tok, Error *err) {
    (void)a, (void)tok;
    return json_check(err);
}
#endif

static Status list_templates(const TokenizeArgs *a, Error *err) {
#if HAVE_JANSSON
    if (a->json) {
        json_t *list = json_array();
        for (int i = 0; list && chat_template_at(i); i++) {
            json_array_append_new(list, json_string(chat_template_name(chat_template_at(i))));
        }
        return json_print(json_pack("{s:o}", "templates", list), err);
    }
#endif
    if (a->json) return json_check(err);
    for (int i = 0; chat_template_at(i); i++) puts(chat_template_name(chat_template_at(i)));
    return OK;
}

static Status show(const TokenizeArgs *a, const Tokenizer *tok, Error *err) {
    if (a->json) return print_json(a, tok, err);
    if (a->ids_only) {
        print_ids(&a->ids);
    } else if (a->decode) {
        fwrite(a->text.data, 1, a->text.len, stdout);
        putchar('\n');
    } else if (a->as_chat) {
        print_chat(a, tok);
    } else {
        return print_table(a, tok, err);
    }
    return OK;
}

static Status tokenize(TokenizeArgs *a, Error *err) {
    Gguf *g = NULL;
    Tokenizer *tok = NULL;
    Status st = a->json ? json_check(err) : OK;
    if (!st && !a->decode) st = read_text(a, err);
    if (!st) st = cli_open_gguf(a->model, &g, err);
    if (!st) st = tokenizer_new(g, cli_notice(), &tok, err);
    if (!st) st = a->decode ? decode(a, tok, err) : encode(a, g, tok, err);
    if (!st) st = gguf_fault(g, err);
    if (!st) st = show(a, tok, err);
    tokenizer_free(tok);
    gguf_close(g);
    return st;
}

int cmd_tokenize(int argc, char **argv) {
    TokenizeArgs a = {0};
    Error err;
    bool help = false;
    Status st = read_args(argc, argv, &a, &help, &err);
    if (!st && !help) st = a.list ? list_templates(&a, &err) : tokenize(&a, &err);
    chat_text_free(&a.chat);
    arg_list_free(&a.words);
    text_free(&a.message);
    text_free(&a.text);
    tokens_free(&a.ids);
    if (help) return cli_help("tokenize");
    return cli_finish(st ? cli_fail(&err) : 0);
}
