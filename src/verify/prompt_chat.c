// Reads a chat out of ids: finds the marks of a template, and what was said between them; see
// prompt_internal.h.
//
// A template is known here by what it writes: a few chats are rendered, and what stands between two
// messages is the mark for going from the one role to the other. So every template that can be
// rendered can be read, whatever its rules.
#include <stdlib.h>
#include <string.h>

#include "verify/prompt_internal.h"

typedef enum { SYSTEM, USER, ASSISTANT, START, OPEN, CLOSE, N_STATES } State;
enum { N_ROLES = 3, MAX_MARKS = 48 };

static const char *const role_names[N_ROLES] = {"system", "user", "assistant"};

typedef struct {
    State from, to;
    const char *text;
    Flat flat;              // of the text
    bool newline, special;  // what it has shows how such things were tokenized
} Mark;

typedef struct {
    const Tokenizer *tok;
    Variant how;
    Arena *arena;
    Error *err;
    Mark marks[MAX_MARKS];
    size_t n;
} Marks;

// --- marks --------------------------------------------------------------------------------------

// As symbols, its special tokens as tokens or spelled out.
static Status flatten_mark(Marks *m, const Text *t, Mark *mark) {
    TokenList ids = {0};
    Flat *out = &mark->flat;
    const TextSpan span = {t->data, t->len, true};
    Status st = tokenizer_encode(m->tok, &span, 1, ENCODE_NO_BOS, &ids, m->err);
    if (!st && tokenizer_adds_eos(m->tok) && ids.len) ids.len--;
    for (size_t i = 0; i < ids.len; i++) {
        mark->special |= tokenizer_token_kind(m->tok, ids.data[i]) == TOKEN_CONTROL;
    }
    if (!st && !m->how.specials_as_text) {
        st = flatten(m->tok, ids.data, ids.len, PREFIX_RIGHT, m->arena, out, m->err);
    } else if (!st) {
        out->symbol = arena_alloc(m->arena, t->len + 1, sizeof *out->symbol);
        if (!out->symbol) st = error_memory(m->err, "a template", t->len);
        for (; !st && out->n < t->len; out->n++) out->symbol[out->n] = (uint8_t)t->data[out->n];
    }
    tokens_free(&ids);
    return st;
}

// White space alone is no mark between two messages: they hold it themselves. At a chat's end it
// may be one, unless newlines have become spaces.
static bool is_mark(const Text *t, State from, State to, bool spaced) {
    const bool blank = strspn(t->data, " \n") == t->len;
    return !blank || from == START || (to >= OPEN && !(spaced && t->len));
}

static Status add_mark(Marks *m, State from, State to, Text *text) {
    const bool spaced = m->how.newlines != NEWLINES_KEPT, newline = strchr(text->data, '\n');
    if (m->n == MAX_MARKS || !is_mark(text, from, to, spaced)) return OK;
    for (char *at = text->data; spaced && (at = strchr(at, '\n')); at++) *at = ' ';
    for (size_t i = 0; i < m->n; i++) {
        const Mark *other = &m->marks[i];
        if (other->from == from && other->to == to && strcmp(other->text, text->data) == 0) {
            return OK;
        }
    }
    Mark *mark = &m->marks[m->n++];
    *mark = (Mark){.from = from, .to = to, .newline = newline};
    mark->text = arena_text(m->arena, text->data, text->len);
    if (!mark->text) return error_memory(m->err, "a template", text->len);
    return flatten_mark(m, text, mark);
}

// The marks of one rendered chat. A message that the template leaves out leaves no mark.
static Status take_marks(Marks *m, const ChatMessage *messages, const State *roles, size_t n,
                         State end, const ChatText *chat) {
    Text between = {0};
    State from = START;
    Status st = text_reserve(&between, 0) ? OK : error_memory(m->err, "a template", 1);
    for (size_t i = 0; !st && i <= chat->n_spans; i++) {
        size_t k = n;
        while (i < chat->n_spans && k-- > 0 && chat->spans[i].text != messages[k].content) {
        }
        if (i < chat->n_spans && k >= n) {  // the template's own
            if (!text_append(&between, chat->spans[i].text, chat->spans[i].len)) {
                st = error_memory(m->err, "a template", between.len);
            }
            continue;
        }
        const State to = i < chat->n_spans ? roles[k] : end;
        st = add_mark(m, from, to, &between);
        between.data[between.len = 0] = 0;
        from = to;
    }
    text_free(&between);
    return st;
}

// Every step from role to role, in the places where templates write it differently.
static Status find_marks(Marks *m, const ChatTemplate *t) {
    static const struct {
        State roles[5];
        size_t n;
        State end;
    } probes[] = {
        {{SYSTEM, USER, ASSISTANT, USER}, 4, OPEN},
        {{USER, ASSISTANT, USER}, 3, OPEN},
        {{USER}, 1, OPEN},
        {{USER, ASSISTANT}, 2, CLOSE},
        {{SYSTEM, USER}, 2, CLOSE},
        {{USER, ASSISTANT, SYSTEM, USER}, 4, OPEN},
        {{USER, SYSTEM, USER}, 3, OPEN},
        {{USER, SYSTEM}, 2, OPEN},
        {{SYSTEM, SYSTEM, USER}, 3, OPEN},
        {{ASSISTANT, USER, USER}, 3, OPEN},
        {{SYSTEM, ASSISTANT, ASSISTANT, USER}, 4, OPEN},
        {{SYSTEM}, 1, OPEN},
    };
    static const char said[5][4] = {"aAa", "bBb", "cCc", "dDd", "eEe"};
    Status st = OK;
    for (size_t p = 0; !st && p < sizeof probes / sizeof *probes; p++) {
        ChatMessage messages[5];
        ChatText chat = {0};
        for (size_t i = 0; i < probes[p].n; i++) {
            messages[i] = (ChatMessage){role_names[probes[p].roles[i]], said[i]};
        }
        st = chat_template_render(t, messages, probes[p].n, probes[p].end == OPEN, &chat, m->err);
        if (!st) {
            st = take_marks(m, messages, probes[p].roles, probes[p].n, probes[p].end, &chat);
        }
        chat_text_free(&chat);
    }
    return st;
}

// --- messages -----------------------------------------------------------------------------------

typedef struct {
    State role;
    size_t from, to;  // symbols
} Turn;

typedef struct {
    const Flat *flat;
    const Marks *marks;
    Turn *turns;
    size_t n, cap;
    size_t tail;  // where an answer begins that the model is to go on with; SIZE_MAX: none
    bool open;    // the chat ends in the opening of an answer
    bool newline, special;  // some mark has one
} Reading;

static bool matches(const Flat *flat, size_t at, const Flat *mark) {
    return flat->n - at >= mark->n &&
           (mark->n == 0 ||
            (flat->symbol[at] == mark->symbol[0] &&
             memcmp(flat->symbol + at, mark->symbol, mark->n * sizeof *mark->symbol) == 0));
}

// The longest mark is meant; of two alike the user's, which may hold what a system says: many
// templates put it there.
static bool is_better(const Mark *m, const Mark *than) {
    if (!than || m->flat.n != than->flat.n) return !than || m->flat.n > than->flat.n;
    return m->to == USER && than->to != USER;
}

// The best marks at this place that lead from a state to a role, to an answer that the model is
// to write, and to the chat's end; NULL where there is none.
static void marks_at(const Reading *r, size_t at, State from, const Mark **next, const Mark **open,
                     const Mark **close) {
    *next = *open = *close = NULL;
    for (size_t i = 0; i < r->marks->n; i++) {
        const Mark *m = &r->marks->marks[i];
        if (m->from != from || !matches(r->flat, at, &m->flat)) continue;
        const bool ends = at + m->flat.n == r->flat->n;
        if ((m->flat.n == 0 || m->to == CLOSE) && !ends) continue;
        const Mark **best = m->to == CLOSE ? close : m->to == OPEN ? open : next;
        if (best == next && m->flat.n == 0) continue;
        if (is_better(m, *best)) *best = m;
    }
}

static void pass_mark(Reading *r, const Mark *m) {
    r->newline |= m->newline;
    r->special |= m->special;
}

static bool add_turn(Reading *r, State role, size_t from, size_t to) {
    if (r->n == r->cap) {
        const size_t cap = r->cap ? 2 * r->cap : 16;
        Turn *turns = realloc(r->turns, cap * sizeof *turns);
        if (!turns) return false;
        r->turns = turns, r->cap = cap;
    }
    r->turns[r->n++] = (Turn){role, from, to};
    return true;
}

// A message's text can hold neither a special token nor a NUL.
static bool is_text(const Flat *flat, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
        if (flat->symbol[i] >= SYMBOL_SPECIAL || flat->symbol[i] == 0) return false;
    }
    return true;
}

// Cuts the symbols into turns, from the mark `start` on. *found: they are a chat from the first to
// the last, or to the answer that the model is to write. Each symbol is looked at once for each
// mark.
static bool cut_turns(Reading *r, const Mark *start, bool *found) {
    State state = start->to;
    size_t said = start->flat.n;  // where the message starts
    *found = r->newline = r->special = false;
    r->n = 0, r->tail = SIZE_MAX;
    pass_mark(r, start);
    for (size_t at = said; at <= r->flat->n; at++) {
        const Mark *next, *open, *close;
        marks_at(r, at, state, &next, &open, &close);
        if (state == ASSISTANT) open = NULL;
        if (!next && !open && !close) continue;
        if (!is_text(r->flat, said, at)) return true;
        if (!add_turn(r, state, said, at)) return false;
        const bool opens_last = open && at + open->flat.n == r->flat->n;
        const bool closes = close && (!next || close->flat.n >= next->flat.n);
        const bool ends = opens_last || closes;
        r->tail = open && (!next || ends || next->to == ASSISTANT) ? at + open->flat.n : SIZE_MAX;
        if (ends || !next) {  // what follows an opening is an answer's start
            pass_mark(r, open ? open : close);
            r->open = open != NULL;
            *found = !open || is_text(r->flat, r->tail, r->flat->n);
            return true;
        }
        pass_mark(r, next);
        state = next->to;
        said = at + next->flat.n;
        at = said - 1;
    }
    // An answer that has not ended.
    r->open = state == ASSISTANT && r->tail != SIZE_MAX;
    *found = r->open && is_text(r->flat, r->tail, r->flat->n);
    return true;
}

// The starts of a chat, the best first.
static const Mark *next_start(const Reading *r, const Mark *before) {
    const Mark *best = NULL;
    for (size_t i = 0; i < r->marks->n; i++) {
        const Mark *m = &r->marks->marks[i];
        if (m->from != START || (int)m->to >= N_ROLES || !matches(r->flat, 0, &m->flat)) continue;
        const bool alike = before && !is_better(before, m) && !is_better(m, before);
        const bool later = !before || is_better(before, m) || (alike && m > before);
        if (later && is_better(m, best)) best = m;
    }
    return best;
}

static char *text_of(const Flat *flat, size_t from, size_t to, Arena *arena) {
    char *text = arena_alloc(arena, to - from + 1, 1);
    for (size_t i = from; text && i < to; i++) text[i - from] = (char)flat->symbol[i];
    return text;
}

static Status render(const Reading *r, const ChatTemplate *t, Arena *arena, ChatReading *out,
                     Error *err) {
    ChatMessage *messages = arena_alloc(arena, r->n + 1, sizeof *messages);
    ChatText chat = {0};
    if (!messages) return error_memory(err, "a chat", r->n * sizeof *messages);
    for (size_t i = 0; i < r->n; i++) {
        char *text = text_of(r->flat, r->turns[i].from, r->turns[i].to, arena);
        if (!text) return error_memory(err, "a chat", r->flat->n);
        messages[i] = (ChatMessage){role_names[r->turns[i].role], text};
    }
    Status st = chat_template_render(t, messages, r->n, r->open, &chat, err);
    TextSpan *spans = st ? NULL : arena_alloc(arena, chat.n_spans + 1, sizeof *spans);
    if (!st && !spans) st = error_memory(err, "a chat", chat.n_spans * sizeof *spans);
    size_t n = 0;
    for (; !st && n < chat.n_spans; n++) spans[n] = chat.spans[n];
    if (!st && r->tail != SIZE_MAX && r->tail < r->flat->n) {
        const size_t len = r->flat->n - r->tail;
        spans[n] = (TextSpan){text_of(r->flat, r->tail, r->flat->n, arena), len, false};
        if (!spans[n++].text) st = error_memory(err, "a chat", len);
    }
    chat_text_free(&chat);
    *out = (ChatReading){.meaning = {spans, n}, .found = !st};
    return st;
}

bool chat_may_start(const ChatTemplate *t, const char *text) {
    static const char white[] = " \t\r\n";
    for (size_t role = SYSTEM; role <= USER; role++) {
        const ChatMessage messages[2] = {{role_names[role], "aAa"}, {"user", "bBb"}};
        const char *at = text;
        ChatText chat;
        bool starts = true;
        if (chat_template_render(t, messages, 2, true, &chat, NULL)) return true;
        for (size_t i = 0; starts && i < chat.n_spans; i++) {
            const TextSpan *s = &chat.spans[i];
            if (s->text == messages[0].content) break;
            for (size_t k = 0; starts && k < s->len; k++) {
                if (strchr(white, s->text[k])) continue;
                at += strspn(at, white);
                starts = *at == s->text[k];
                at += starts;
            }
        }
        chat_text_free(&chat);
        if (starts) return true;
    }
    return false;
}

Status read_chat(const Tokenizer *tok, const ChatTemplate *t, const Flat *flat, Variant how,
                 Arena *arena, ChatReading *out, Error *err) {
    Marks *marks = calloc(1, sizeof *marks);
    *out = (ChatReading){0};
    if (!marks) return error_memory(err, "a template", sizeof *marks);
    marks->tok = tok, marks->how = how, marks->arena = arena, marks->err = err;
    Reading r = {.flat = flat, .marks = marks, .tail = SIZE_MAX};
    bool found = false;
    const Mark *start = NULL;
    Status st = find_marks(marks, t);
    while (!st && !found && (start = next_start(&r, start))) {
        if (!cut_turns(&r, start, &found)) st = error_memory(err, "a chat", r.n * sizeof *r.turns);
    }
    bool user = false;
    for (size_t i = 0; i < r.n; i++) user |= r.turns[i].role == USER;
    // Marks must show the wrong spelling that they were found in.
    if ((how.specials_as_text && !r.special) || (how.newlines != NEWLINES_KEPT && !r.newline)) {
        found = false;
    }
    if (!st && found) st = render(&r, t, arena, out, err);
    out->marked = out->found && user && start->flat.n > 0;
    free(r.turns);
    free(marks);
    return st;
}
