// Rendering of chats: messages between the texts of a template's row.
//
// This room owns: the order of turns, where a system's message goes, trimming, thoughts that are
// left out. It leaves to others: the texts themselves (chat_template.c), tokens. A template's text
// and a user's never share a span, so that nothing a user writes is read as a special token.
#include <stdlib.h>
#include <string.h>

#include "model/chat_internal.h"

typedef enum { SYSTEM, USER, ASSISTANT } Role;

typedef struct {
    const ChatTemplate *t;
    const ChatMessage *messages;
    size_t n, last_user;  // last_user: index, n if there is none
    ChatText *out;
    bool failed;  // out of memory
} Renderer;

void chat_text_free(ChatText *c) {
    free(c->spans);
    *c = (ChatText){0};
}

static void add(Renderer *r, const char *text, size_t len, bool parse_special) {
    ChatText *c = r->out;
    if (len == 0 || r->failed) return;
    if (c->n_spans == c->cap_spans) {
        size_t cap = c->cap_spans ? c->cap_spans * 2 : 16;
        TextSpan *spans = realloc(c->spans, cap * sizeof *spans);
        r->failed = !spans;
        if (!spans) return;
        c->spans = spans, c->cap_spans = cap;
    }
    c->spans[c->n_spans++] = (TextSpan){text, len, parse_special};
}

static void add_template(Renderer *r, const char *text) {
    if (!text) return;
    if ((r->t->flags & TURNS_START_WITH_BOS) && r->out->n_spans == 0 &&
        strncmp(text, "<s>", 3) == 0) {
        text += 3;
    }
    add(r, text, strlen(text), true);
}

// Bytes of the white space (as Python's str.strip and Jinja's trim see it) at the start of s: one
// character's, or 0.
static size_t space_bytes(const char *s, size_t len) {
    static const char *const wide[] = {"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80",
                                       "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf",
                                       "\xe2\x81\x9f", "\xe3\x80\x80"};
    if (len == 0) return 0;
    if (s[0] == ' ' || (s[0] >= 9 && s[0] <= 13) || (s[0] >= 0x1c && s[0] <= 0x1f)) return 1;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        size_t n = strlen(wide[i]);
        if (len >= n && memcmp(s, wide[i], n) == 0) return n;
    }
    bool en_quad_to_hair =
        len >= 3 && memcmp(s, "\xe2\x80", 2) == 0 && (uint8_t)s[2] >= 0x80 && (uint8_t)s[2] <= 0x8a;
    return en_quad_to_hair ? 3 : 0;
}

static void trim_left(const char **s, size_t *len) {
    for (size_t n; (n = space_bytes(*s, *len)) > 0;) *s += n, *len -= n;
}

static void trim_right(const char *s, size_t *len) {
    for (;;) {
        size_t back = 1;
        while (back <= 3 && back <= *len && space_bytes(s + *len - back, back) != back) back++;
        if (back > 3 || back > *len) return;
        *len -= back;
    }
}

static void add_content(Renderer *r, const char *text, size_t len, bool trim) {
    if (trim) {
        trim_left(&text, &len);
        trim_right(text, &len);
    }
    add(r, text, len, false);
}

static bool role_of(const ChatMessage *m, Role *role) {
    if (!m->role) return false;
    if (strcmp(m->role, "system") == 0) return *role = SYSTEM, true;
    if (strcmp(m->role, "user") == 0) return *role = USER, true;
    return *role = ASSISTANT, strcmp(m->role, "assistant") == 0;
}

static bool is_role(const Renderer *r, size_t i, Role role) {
    Role is = SYSTEM;
    return i < r->n && role_of(&r->messages[i], &is) && is == role;
}

static void add_system(Renderer *r, size_t i) {
    const ChatTemplate *t = r->t;
    const char *content = r->messages[i].content;
    if ((t->flags & SKIP_EMPTY_SYSTEM) && !*content) return;
    bool late = i > 0 && t->late_system[0];
    add_template(r, late ? t->late_system[0] : t->system[0]);
    add_content(r, content, strlen(content), t->flags & TRIM_SYSTEM);
    add_template(r, late ? t->late_system[1] : t->system[1]);
}

// System messages since the user's message before, or of the whole chat.
static bool add_systems_in_user(Renderer *r, size_t i) {
    bool any = false;
    size_t from = i;
    if (r->t->flags & SYSTEM_IN_LAST_USER) {
        if (i + 1 != r->n) return false;
        from = 0;
    } else {
        while (from > 0 && !is_role(r, from - 1, USER)) from--;
    }
    for (; from < i; from++) {
        if (!is_role(r, from, SYSTEM)) continue;
        add_system(r, from);
        any = true;
    }
    return any;
}

static void add_user(Renderer *r, size_t i) {
    const ChatTemplate *t = r->t;
    const char *content = r->messages[i].content;
    size_t len = strlen(content);
    bool joined = false;
    add_template(r, t->user[0]);
    if (t->flags & (SYSTEM_IN_NEXT_USER | SYSTEM_IN_LAST_USER)) joined = add_systems_in_user(r, i);
    bool trim = t->flags & TRIM_USER;
    if (joined && (t->flags & TRIM_JOINED)) {
        trim_right(content, &len);
        trim = false;
    }
    add_content(r, content, len, trim);
    add_template(r, t->user[1]);
}

static const char *find_last(const char *text, const char *what) {
    const char *found = NULL;
    for (const char *at = text; (at = strstr(at, what)) != NULL; at++) found = at;
    return found;
}

static void strip_newlines(const char **s, size_t *len) {
    while (*len && (*s)[0] == '\n') ++*s, --*len;
    while (*len && (*s)[*len - 1] == '\n') --*len;
}

// Qwen3 writes the thoughts of an answer after the last user's message; before it they are gone.
static void add_qwen3_thoughts(Renderer *r, const char *content, const char *end, bool is_last) {
    const char *first_end = strstr(content, "</think>");
    const char *thoughts = content;
    size_t len = end ? (size_t)(first_end - content) : 0;
    for (size_t i = 0; i + 7 <= len; i++) {
        if (memcmp(content + i, "<think>", 7) == 0) thoughts = content + i + 7;
    }
    len -= end ? (size_t)(thoughts - content) : 0;
    strip_newlines(&thoughts, &len);
    if (!is_last && len == 0) return;
    add_template(r, "<think>\n");
    add_content(r, thoughts, len, false);
    add_template(r, "\n</think>\n\n");
}

static void add_assistant_message(Renderer *r, size_t i) {
    const ChatTemplate *t = r->t;
    const char *content = r->messages[i].content, *end = NULL;
    bool is_last = i + 1 == r->n, after_user = i > r->last_user;
    const char *text = content;
    if (t->flags & DROP_THOUGHTS) end = find_last(content, "</think>");
    if (end) text = end + strlen("</think>");
    if (end && (t->flags & DROP_NEWLINES)) text += strspn(text, "\n");
    add_template(r, t->assistant[0]);
    if ((t->flags & QWEN3_THOUGHTS) && after_user) {
        add_qwen3_thoughts(r, content, end, is_last);
        text += strspn(text, "\n");
    }
    add_content(r, text, strlen(text), t->flags & TRIM_ASSISTANT);
    size_t tail = strlen(t->assistant[1]);
    if (is_last && (t->flags & NO_LAST_NEWLINE)) tail--;
    add(r, t->assistant[1], tail, true);
}

static void add_systems_at_start(Renderer *r) {
    bool any = false;
    for (size_t i = 0; i < r->n; i++) {
        if (!is_role(r, i, SYSTEM)) continue;
        if (any) add_template(r, "\n\n");
        add_system(r, i);
        any = true;
    }
}

static void render(Renderer *r, bool add_assistant) {
    const ChatTemplate *t = r->t;
    const unsigned placed = SYSTEM_IN_NEXT_USER | SYSTEM_IN_LAST_USER | SYSTEM_AT_START;
    add_template(r, t->start);
    if (t->flags & SYSTEM_AT_START) add_systems_at_start(r);
    if (t->default_system && !is_role(r, 0, SYSTEM)) {
        add_template(r, t->system[0]);
        add_template(r, t->default_system);
        add_template(r, t->system[1]);
    }
    for (size_t i = 0; i < r->n; i++) {
        if (is_role(r, i, USER))
            add_user(r, i);
        else if (is_role(r, i, ASSISTANT))
            add_assistant_message(r, i);
        else if (!(t->flags & placed))
            add_system(r, i);
    }
    add_template(r, add_assistant ? t->opening : t->closing);
}

Status chat_template_render(const ChatTemplate *t, const ChatMessage *messages, size_t n,
                            bool add_assistant, ChatText *out, Error *err) {
    Renderer r = {.t = t, .messages = messages, .n = n, .last_user = n, .out = out};
    *out = (ChatText){0};
    for (size_t i = 0; i < n; i++) {
        Role role;
        if (!role_of(&messages[i], &role) || !messages[i].content) {
            char shown[64];
            const char *name = messages[i].role ? messages[i].role : "(none)";
            printable(name, strlen(name), shown, sizeof shown);
            return messages[i].content
                       ? error_set(err, ERR_USAGE,
                                   "message %zu has the role '%s', expected system, "
                                   "user or assistant",
                                   i, shown)
                       : error_set(err, ERR_USAGE, "message %zu (%s) has no content", i, shown);
        }
        if (role == USER) r.last_user = i;
    }
    render(&r, add_assistant);
    if (!r.failed) return OK;
    chat_text_free(out);
    return error_memory(err, "a chat", n * sizeof(TextSpan));
}
