// What is wrong with a prompt's ids, as findings: one sentence each, with the place; see
// prompt_internal.h.
#include <stdio.h>
#include <string.h>

#include "verify/prompt_internal.h"

void prompt_say(PromptState *c, const char *id, SayKind kind, const char *fmt, ...) {
    static const Outcome outcomes[] = {OUTCOME_PASS, OUTCOME_SKIPPED, OUTCOME_SKIPPED,
                                       OUTCOME_FAIL};
    char text[2 * FINDING_TEXT];
    va_list ap;
    if (c->status) return;
    if (kind == SAY_FAIL && c->allow_odd) kind = SAY_WARNING;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    c->status = report_finding(c->r, STAGE_PROMPT, c->prompt, id, outcomes[kind],
                               kind == SAY_WARNING, c->err, "%s", text);
}

// --- pieces of sentences ------------------------------------------------------------------------

enum { SHOWN = 64, PLACE = 2 * SHOWN };

// "10994 ('Hello')"
static const char *shown_id(const PromptState *c, int32_t id, char out[SHOWN]) {
    char text[SHOWN / 2];
    const GgufStr s = tokenizer_token_text(c->tok, id);
    printable(s.ptr, s.len, text, sizeof text);
    snprintf(out, SHOWN, "%d ('%s')", id, text);
    return out;
}

// "829 29879 29958"
static const char *shown_ids(const int32_t *ids, size_t n, char out[SHOWN]) {
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < n && at + 16 < SHOWN; i++) {
        at += (size_t)snprintf(out + at, SHOWN - at, "%s%d", i ? " " : "", ids[i]);
    }
    return out;
}

// "id 4 is 10994 ('Hello')"
static const char *shown_place(const PromptState *c, size_t at, char out[PLACE]) {
    char id[SHOWN];
    if (at < c->n_body)
        snprintf(out, PLACE, "id %zu is %s", c->n_bos + at, shown_id(c, c->body[at], id));
    else
        snprintf(out, PLACE, "there is no id %zu", c->n_bos + at);
    return out;
}

static const char *shown_want(const PromptState *c, const TokenList *t, size_t at,
                              char out[SHOWN]) {
    if (at < t->len) return shown_id(c, t->data[at], out);
    snprintf(out, SHOWN, "the end");
    return out;
}

static size_t first_difference(const PromptState *c, const TokenList *t) {
    size_t i = 0;
    while (i < t->len && i < c->n_body && t->data[i] == c->body[i]) i++;
    return i;
}

// --- BOS and EOS --------------------------------------------------------------------------------

// Does the text itself start with BOS?
static bool says_bos(const PromptState *c) {
    const GgufStr s = tokenizer_token_text(c->tok, tokenizer_bos(c->tok));
    return c->text && s.len && strncmp(c->text, s.ptr, (size_t)s.len) == 0;
}

void prompt_say_bos(PromptState *c) {
    const int32_t bos = tokenizer_bos(c->tok);
    const bool wanted = tokenizer_adds_bos(c->tok);
    char id[SHOWN], first[SHOWN];
    if (bos < 0) return;
    shown_id(c, bos, id);
    if (wanted && c->n_bos == 0) {
        prompt_say(c, "bos-missing", SAY_FAIL, "BOS, %s, is missing: the ids start with %s", id,
                   shown_id(c, c->p->tokens[0], first));
    } else if (c->n_bos > 1) {
        prompt_say(c, "bos-double", SAY_FAIL,
                   "BOS, %s, stands %zu times at the start: ids 0 to %zu", id, c->n_bos,
                   c->n_bos - 1);
    } else if (!wanted && c->n_bos == 1 && c->n_body && !says_bos(c)) {
        prompt_say(c, "bos-unwanted", SAY_WARNING,
                   "the ids start with BOS, %s, which this vocabulary does not put there", id);
    }
}

void prompt_say_eos(PromptState *c) {
    char id[SHOWN];
    if (c->n_eos == 0 || tokenizer_adds_eos(c->tok)) return;
    prompt_say(c, "eos-at-end", SAY_FAIL,
               "id %zu, the last, is EOS, %s: after it a model starts a new text",
               c->p->n_tokens - 1, shown_id(c, tokenizer_eos(c->tok), id));
}

// --- faults of tokenizing -----------------------------------------------------------------------

// The first place where these bytes stand; *len is 0 where they do not.
static size_t find_bytes(const Flat *f, GgufStr s, size_t *len) {
    *len = 0;
    for (size_t i = 0; s.len && i + s.len <= f->n; i++) {
        size_t k = 0;
        while (k < s.len && f->symbol[i + k] == (uint8_t)s.ptr[k]) k++;
        if (k < s.len) continue;
        *len = k;
        return i;
    }
    return 0;
}

// The first special token that the text means and the ids spell out.
static void say_specials(PromptState *c, const Match *m, SayKind kind) {
    const Flat *f = &c->flats[m->how.prefix];
    Variant how = m->how;
    TokenList t = {0};
    size_t n_eos, n = 0, len;
    int32_t special = -1;
    how.specials_as_text = false;
    if (!prompt_encode(c, &m->meaning, how, &t, &n_eos)) return;
    for (size_t i = 0; i < t.len; i++) {
        if (tokenizer_token_kind(c->tok, t.data[i]) != TOKEN_CONTROL) continue;
        if (n++ == 0) special = t.data[i];
    }
    n += n_eos;
    if (special < 0) special = tokenizer_eos(c->tok);
    const GgufStr s = tokenizer_token_text(c->tok, special);
    const size_t first = find_bytes(f, s, &len);
    char text[SHOWN], ids[SHOWN] = "";
    printable(s.ptr, s.len, text, sizeof text);
    if (len) {
        const size_t from = f->from[first], to = f->from[first + len - 1];
        prompt_say(c, "specials-as-text", kind,
                   "ids %zu-%zu: '%s' is spelled out as text (%s), the special token is %d (%zu in "
                   "all)",
                   c->n_bos + from, c->n_bos + to, text,
                   shown_ids(c->body + from, to - from + 1, ids), special, n);
    } else {
        prompt_say(c, "specials-as-text", kind,
                   "'%s' is spelled out as text, the special token is %d (%zu in all)", text,
                   special, n);
    }
    tokens_free(&t);
}

static void say_newlines(PromptState *c, const Match *m, SayKind kind) {
    const Flat *f = &c->flats[m->how.prefix];
    Variant how = m->how;
    TokenList t = {0};
    Flat right = {0};
    size_t n_eos, n = 0, first = SIZE_MAX;
    how.newlines = NEWLINES_KEPT;
    if (!prompt_encode(c, &m->meaning, how, &t, &n_eos)) return;
    c->status = flatten(c->tok, t.data, t.len, how.prefix, &c->arena, &right, c->err);
    for (size_t i = 0; !c->status && i < right.n; i++) {
        if (right.symbol[i] != '\n') continue;
        n++;
        // Both texts are as long: only white space was changed.
        if (first == SIZE_MAX && right.n == f->n && f->symbol[i] == ' ') first = i;
    }
    char got[SHOWN], want[SHOWN];
    if (first != SIZE_MAX) {
        const size_t at = f->from[first];
        prompt_say(c, "newline-as-space", kind,
                   "id %zu, %s, has a space where the text has a newline, which is %s (%zu in all)",
                   c->n_bos + at, shown_id(c, c->body[at], got),
                   shown_id(c, t.data[right.from[first]], want), n);
    } else {
        prompt_say(c, "newline-as-space", kind, "newlines became spaces (%zu in all)", n);
    }
    tokens_free(&t);
}

// Where the ids first differ from those of the match without one of its faults.
static size_t without(PromptState *c, const Match *m, Variant how, TokenList *t) {
    size_t n_eos;
    return prompt_encode(c, &m->meaning, how, t, &n_eos) ? first_difference(c, t) : 0;
}

static void say_prefix(PromptState *c, const Match *m, SayKind kind) {
    static const char *const where[N_PREFIXES] = {"", "before the text and after special tokens",
                                                  "before the text", "after special tokens"};
    Variant how = m->how;
    TokenList t = {0};
    char got[PLACE], want[SHOWN];
    how.prefix = PREFIX_RIGHT;
    const size_t at = without(c, m, how, &t);
    prompt_say(c, "space-prefix-missing", kind,
               "%s; with the space that this vocabulary puts %s it is %s", shown_place(c, at, got),
               where[m->how.prefix], shown_want(c, &t, at, want));
    tokens_free(&t);
}

static void say_merges(PromptState *c, const Match *m, SayKind kind) {
    static const char *const rules[N_MERGES] = {"", "the lowest id", "the lowest score",
                                                "what stands leftmost", "the longest token"};
    Variant how = m->how;
    TokenList t = {0};
    char got[PLACE], want[SHOWN];
    how.merges = MERGES_RIGHT;
    const size_t at = without(c, m, how, &t);
    prompt_say(c, "merges-by-rank", kind, "%s, where merging by score gives %s; %s came first",
               shown_place(c, at, got), shown_want(c, &t, at, want), rules[m->how.merges]);
    tokens_free(&t);
}

void prompt_say_faults(PromptState *c, const Match *m, SayKind kind) {
    if (m->how.specials_as_text) say_specials(c, m, kind);
    if (m->how.newlines != NEWLINES_KEPT) say_newlines(c, m, kind);
    if (m->how.prefix != PREFIX_RIGHT) say_prefix(c, m, kind);
    if (m->how.merges != MERGES_RIGHT) say_merges(c, m, kind);
}

void prompt_say_differ(PromptState *c, const Meaning *meanings, size_t n) {
    TokenList t = {0};
    size_t best = 0, furthest = 0, n_eos;
    for (size_t i = 0; i < n; i++) {
        if (!prompt_encode(c, &meanings[i], (Variant){0}, &t, &n_eos)) continue;
        const size_t at = first_difference(c, &t);
        if (at > furthest) furthest = at, best = i;
    }
    char got[PLACE], want[SHOWN];
    if (prompt_encode(c, &meanings[best], (Variant){0}, &t, &n_eos)) {
        const size_t bos = tokenizer_adds_bos(c->tok);
        prompt_say(c, "ids-differ", SAY_FAIL,
                   "%s, expected %s: the %zu ids are not the %zu of the text%s",
                   shown_place(c, furthest, got), shown_want(c, &t, furthest, want), c->p->n_tokens,
                   bos + t.len + n_eos, best ? " in the chat template" : "");
    }
    tokens_free(&t);
}
