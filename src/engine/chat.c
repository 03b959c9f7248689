// Chat: the messages of a session, and how a conversation that goes on is read only where it is
// new.
#define _GNU_SOURCE
#include <stdlib.h>

#include "base/utf8.h"
#include "engine/plumb_internal.h"

void chat_free(plumb_session *s) {
    plumb_chat_truncate(s, 0);
    free(s->messages);
    tokens_free(&s->reply_tokens);
    text_free(&s->reply_text);
}

// What the model has read and written stops being the start of the conversation.
static void forget_reply(plumb_session *s) {
    s->reply_text.len = s->reply_tokens.len = 0;
}

static Status add_message(plumb_session *s, const char *role, const char *content, Error *err) {
    static const char *const roles[] = {"system", "user", "assistant"};
    int known = 0;
    for (int i = 0; i < 3; i++) known |= strcmp(role, roles[i]) == 0;
    if (!known) {
        return error_set(err, ERR_USAGE,
                         "a message's role must be system, user or assistant, not '%s'", role);
    }
    if (s->n_messages == s->cap_messages) {
        size_t cap = s->cap_messages ? 2 * s->cap_messages : 16;
        Message *m = realloc(s->messages, cap * sizeof *m);
        if (!m) return error_memory(err, "the chat", cap * sizeof *m);
        s->messages = m, s->cap_messages = cap;
    }
    Message m = {strdup(role), strdup(content)};
    if (!m.role || !m.content) {
        free(m.role), free(m.content);
        return error_memory(err, "a message", strlen(content));
    }
    s->messages[s->n_messages++] = m;
    return OK;
}

plumb_status plumb_chat_add(plumb_session *s, const char *role, const char *content,
                            plumb_error *err) {
    return (plumb_status)add_message(s, role, content, error_of(err));
}

size_t plumb_chat_length(const plumb_session *s) {
    return s->n_messages;
}

plumb_status plumb_chat_get(const plumb_session *s, size_t i, const char **role,
                            const char **content) {
    if (i >= s->n_messages) return PLUMB_USAGE;
    *role = s->messages[i].role, *content = s->messages[i].content;
    return PLUMB_OK;
}

void plumb_chat_truncate(plumb_session *s, size_t n) {
    if (n < s->n_messages) forget_reply(s);
    while (s->n_messages > n) {
        Message *m = &s->messages[--s->n_messages];
        free(m->role), free(m->content);
    }
}

plumb_status plumb_chat_set_template(plumb_session *s, const char *name, plumb_error *err) {
    const ChatTemplate *t = chat_template_by_name(name);
    const bool none = strcmp(name, "none") == 0;
    if (!t && !none) {
        Text known = {0};
        for (int i = 0; chat_template_at(i); i++) {
            text_append_str(&known, " ");
            text_append_str(&known, chat_template_name(chat_template_at(i)));
        }
        Status st =
            error_set(error_of(err), ERR_USAGE, "no chat template is named '%s'; there are: none%s",
                      name, known.data ? known.data : "");
        text_free(&known);
        return (plumb_status)st;
    }
    s->chat_template = t, s->no_template = none;
    forget_reply(s);
    return PLUMB_OK;
}

// Without a template the messages' texts stand one after the other.
static Status render_plain(const plumb_session *s, ChatText *out, Error *err) {
    out->spans = calloc(s->n_messages + 1, sizeof *out->spans);
    if (!out->spans) return error_memory(err, "the prompt", s->n_messages * sizeof *out->spans);
    for (size_t i = 0; i < s->n_messages; i++) {
        const char *text = s->messages[i].content;
        out->spans[out->n_spans++] = (TextSpan){text, strlen(text), false};
    }
    return OK;
}

static Status render(const plumb_session *s, ChatText *out, Error *err) {
    *out = (ChatText){0};
    if (!s->chat_template) return render_plain(s, out, err);
    ChatMessage *m = calloc(s->n_messages + 1, sizeof *m);
    if (!m) return error_memory(err, "the chat", s->n_messages * sizeof *m);
    for (size_t i = 0; i < s->n_messages; i++)
        m[i] = (ChatMessage){s->messages[i].role, s->messages[i].content};
    Status st = chat_template_render(s->chat_template, m, s->n_messages, true, out, err);
    free(m);
    return st;
}

// Drops the first `skip` bytes of the spans if they equal `text`; false if they differ.
static bool skip_known(ChatText *c, const char *text, size_t skip) {
    for (size_t i = 0; i < c->n_spans && skip; i++) {
        size_t n = c->spans[i].len < skip ? c->spans[i].len : skip;
        if (memcmp(c->spans[i].text, text, n) != 0) return false;
        text += n, skip -= n;
    }
    return skip == 0;
}

static void drop_front(ChatText *c, size_t skip) {
    for (size_t i = 0; i < c->n_spans && skip; i++) {
        size_t n = c->spans[i].len < skip ? c->spans[i].len : skip;
        c->spans[i].text += n, c->spans[i].len -= n;
        skip -= n;
    }
}

// The ids of the rendered chat. What follows a reply that the model has just made continues its
// very tokens: encoding its text again could give others, and would cost the whole conversation
// each turn.
static Status encode_chat(const plumb_session *s, ChatText *c, TokenList *out, Error *err) {
    const Tokenizer *tok = s->m->tokenizer;
    unsigned flags = 0;
    if (s->reply_text.len && skip_known(c, s->reply_text.data, s->reply_text.len)) {
        drop_front(c, s->reply_text.len);
        for (size_t i = 0; i < s->reply_tokens.len; i++) {
            if (!tokens_append(out, s->reply_tokens.data[i]))
                return error_memory(err, "the prompt", 4 * i);
        }
        flags = ENCODE_NO_BOS | ENCODE_CONTINUE;
    }
    return tokenizer_encode(tok, c->spans, c->n_spans, flags, out, err);
}

plumb_status plumb_chat_tokens(const plumb_session *s, int32_t *ids, size_t capacity, size_t *n,
                               plumb_error *err) {
    ChatText c;
    TokenList list = {0};
    Status st = render(s, &c, error_of(err));
    if (!st) st = encode_chat(s, &c, &list, error_of(err));
    if (!st) {
        *n = list.len;
        size_t fit = list.len < capacity ? list.len : capacity;
        if (fit) memcpy(ids, list.data, fit * sizeof *ids);
    }
    chat_text_free(&c);
    tokens_free(&list);
    return (plumb_status)st;
}

// Keeps what was read and written as the start of the next turn: rendered text and tokens that
// belong together.
static Status remember_reply(plumb_session *s, const Text *rendered, const plumb_result *r,
                             Error *err) {
    forget_reply(s);
    bool ok = text_append(&s->reply_text, rendered->data, rendered->len) &&
              text_append(&s->reply_text, r->text, r->text_len);
    for (size_t i = 0; ok && i < r->n_prompt_tokens; i++)
        ok = tokens_append(&s->reply_tokens, r->prompt_tokens[i]);
    size_t n = r->n_tokens;
    if (n && plumb_is_end(s->m, r->tokens[n - 1])) n--;  // the template writes the end itself
    for (size_t i = 0; ok && i < n; i++) ok = tokens_append(&s->reply_tokens, r->tokens[i]);
    if (ok) return OK;
    forget_reply(s);
    return error_memory(err, "the chat", s->reply_text.len);
}

static Status reply(plumb_session *s, const plumb_generation *o, plumb_result *r, Error *err) {
    ChatText c;
    Text rendered = {0};
    *r = (plumb_result){0};
    Status st = render(s, &c, err);
    for (size_t i = 0; !st && i < c.n_spans; i++) {
        if (!text_append(&rendered, c.spans[i].text, c.spans[i].len))
            st = error_memory(err, "the prompt", rendered.len);
    }
    s->prompt.len = 0;
    if (!st) st = encode_chat(s, &c, &s->prompt, err);
    chat_text_free(&c);
    const bool trim = s->chat_template && tokenizer_adds_space_prefix(s->m->tokenizer);
    if (!st) st = generate(s, s->prompt.data, s->prompt.len, o, trim, r, err);
    if (!st && r->n_tokens > 0) {
        st = add_message(s, "assistant", r->text, err);
        // A stop text that cut the answer leaves tokens that the text does not show: encode afresh
        // then.
        if (!st && !s->stream.stopped)
            st = remember_reply(s, &rendered, r, err);
        else
            forget_reply(s);
    }
    text_free(&rendered);
    return st;
}

plumb_status plumb_chat_reply(plumb_session *s, const plumb_generation *options,
                              plumb_result *result, plumb_error *err) {
    const plumb_generation o = options ? *options : plumb_generation_default();
    __atomic_store_n(&s->interrupted, 0, __ATOMIC_RELAXED);
    if (s->n_messages == 0) {
        return (plumb_status)error_set(error_of(err), ERR_USAGE,
                                       "the chat has no message to answer");
    }
    return (plumb_status)reply(s, &o, result, error_of(err));
}
