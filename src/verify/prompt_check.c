// The prompt stage: compares ids with what they should be; see prompt_check.h.
//
// What the ids should be follows from what was meant. Where the text is known that is the text.
// Where it is not, it is read out of the ids: a chat in the model's template, if they are one in
// any of the known wrong spellings, else the plain text that they decode to. Then the known faults
// are tried, the fewest first, until some give these very ids. Ids that nothing gives are wrong
// only where the text is known: any ids may be run.
#include "verify/prompt_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/prompt_internal.h"

enum {
    MOST_TRIED = 1 << 14,  // ids up to which faults are looked for ...
    MOST_READ = 1 << 20,   // ... and up to which they are read at all, with a text of so many
    MOST_BYTES = 1 << 26,  // bytes
};

// --- ids of a variant ---------------------------------------------------------------------------

static int count_faults(Variant v) {
    return v.specials_as_text + (v.newlines != NEWLINES_KEPT) + (v.prefix != PREFIX_RIGHT) +
           (v.merges != MERGES_RIGHT);
}

static bool is_exact(const Match *m) {
    return m->found && count_faults(m->how) == 0;
}

// Takes off the BOS before and the EOS behind the ids.
static void strip(const Tokenizer *tok, const int32_t **ids, size_t *n, size_t *n_bos,
                  size_t *n_eos) {
    const int32_t bos = tokenizer_bos(tok), eos = tokenizer_eos(tok);
    *n_bos = *n_eos = 0;
    while (bos >= 0 && *n && (*ids)[0] == bos) ++*ids, --*n, ++*n_bos;
    while (eos >= 0 && *n && (*ids)[*n - 1] == eos) --*n, ++*n_eos;
}

bool prompt_encode(PromptState *c, const Meaning *m, Variant how, TokenList *out, size_t *n_eos) {
    bool there;
    size_t n_bos;
    if (c->status) return false;
    c->status = variant_encode(&c->variants, m, how, out, &there, c->err);
    if (c->status || !there) return false;
    const int32_t *ids = out->data;
    size_t n = out->len;
    strip(c->tok, &ids, &n, &n_bos, n_eos);
    if (n) memmove(out->data, ids, n * sizeof *ids);
    out->len = n;
    return true;
}

static bool is_body(const PromptState *c, const TokenList *t, size_t n_eos) {
    return t->len == c->n_body && c->n_eos >= n_eos &&
           (t->len == 0 || memcmp(t->data, c->body, t->len * sizeof *t->data) == 0);
}

// Which variants to try.
typedef struct {
    Variant only;
    bool fixed;   // specials and newlines are as in `only`
    bool merges;  // merges may be wrong too
    int most;     // faults
} Space;

static Space space_of(const PromptState *c, bool fixed, Variant only) {
    const bool long_one = c->n_body > MOST_TRIED;
    return (Space){
        .only = only, .fixed = fixed, .merges = true, .most = long_one ? count_faults(only) : 4};
}

static bool is_in(const Space *s, Variant v) {
    return (s->merges || v.merges == MERGES_RIGHT) &&
           (!s->fixed ||
            (v.specials_as_text == s->only.specials_as_text && v.newlines == s->only.newlines));
}

// Tries the variants with exactly n faults.
static void try_faults(PromptState *c, const Meaning *m, const Space *s, int n, TokenList *t,
                       Match *out) {
    for (int i = 0; !out->found && i < 2 * N_NEWLINES * N_PREFIXES * N_MERGES; i++) {
        const Variant v = {.specials_as_text = i % 2,
                           .newlines = (Newlines)(i / 2 % N_NEWLINES),
                           .prefix = (Prefix)(i / 2 / N_NEWLINES % N_PREFIXES),
                           .merges = (Merges)(i / 2 / N_NEWLINES / N_PREFIXES)};
        size_t n_eos;
        if (count_faults(v) != n || !is_in(s, v)) continue;
        if (!prompt_encode(c, m, v, t, &n_eos) || !is_body(c, t, n_eos)) continue;
        *out = (Match){.found = true, .meaning = *m, .how = v};
    }
}

// The variant with the fewest faults that gives the ids, of one meaning or another.
static Match find_match(PromptState *c, const Meaning *m, const Source *sources, size_t n,
                        const Space *s) {
    Match out = {0};
    TokenList t = {0};
    for (int faults = 0; !c->status && !out.found && faults <= s->most; faults++) {
        for (size_t i = 0; !out.found && i < n; i++) {
            try_faults(c, &m[i], s, faults, &t, &out);
            out.source = sources[i];
        }
    }
    tokens_free(&t);
    return out;
}

// --- what was meant -----------------------------------------------------------------------------

// The plain text that the ids decode to, its special tokens where they are.
static Meaning read_plain(PromptState *c) {
    Meaning m = {0};
    const Flat *f = &c->flats[PREFIX_RIGHT];
    TextSpan *spans = arena_alloc(&c->arena, f->n + 1, sizeof *spans);
    char *bytes = arena_alloc(&c->arena, f->n + 1, 1);
    if (!spans || !bytes) {
        c->status = error_memory(c->err, "a prompt", f->n * sizeof *spans);
        return m;
    }
    for (size_t i = 0; i < f->n; i++) {
        if (f->symbol[i] >= SYMBOL_SPECIAL) {
            const GgufStr s = tokenizer_token_text(c->tok, f->symbol[i] - SYMBOL_SPECIAL);
            spans[m.n++] = (TextSpan){s.ptr, (size_t)s.len, true};
            continue;
        }
        bytes[i] = (char)f->symbol[i];
        if (i == 0 || f->symbol[i - 1] >= SYMBOL_SPECIAL) {
            spans[m.n++] = (TextSpan){bytes + i, 0, false};
        }
        spans[m.n - 1].len++;
    }
    m.spans = spans;
    return m;
}

// The same, special tokens spelled out, NUL-terminated.
static const char *read_text(PromptState *c, const Meaning *plain) {
    size_t len = 0, at = 0;
    for (size_t i = 0; i < plain->n; i++) len += plain->spans[i].len;
    char *text = c->status ? NULL : arena_alloc(&c->arena, len + 1, 1);
    if (!text && !c->status) c->status = error_memory(c->err, "a prompt", len);
    for (size_t i = 0; text && i < plain->n; at += plain->spans[i++].len) {
        memcpy(text + at, plain->spans[i].text, plain->spans[i].len);
    }
    return text ? text : "";
}

static bool same_flat(const Flat *a, const Flat *b) {
    return a->n == b->n && memcmp(a->symbol, b->symbol, a->n * sizeof *a->symbol) == 0;
}

// A chat in the model's template in one spelling, whichever spaces before words are its own. text:
// what the ids decode to.
static Match match_chat(PromptState *c, const char *text, Variant spelling) {
    static const Source source = FROM_CHAT;
    const bool odd = count_faults(spelling) > 0;
    Match m = {0};
    if (!c->chat || !chat_may_start(c->chat, text)) return m;
    for (int p = 0; !c->status && !m.found && p < N_PREFIXES; p++) {
        ChatReading chat;
        if (p && same_flat(&c->flats[p], &c->flats[PREFIX_RIGHT])) continue;
        c->status = read_chat(c->tok, c->chat, &c->flats[p], spelling, &c->arena, &chat, c->err);
        if (c->status || !chat.found || (odd && !chat.marked)) continue;
        const Space s = space_of(c, true, spelling);
        m = find_match(c, &chat.meaning, &source, 1, &s);
    }
    return m;
}

// Special tokens that the template has spelled out, or its newlines as spaces.
static Match match_misspelled_chat(PromptState *c, const char *text) {
    static const Variant spellings[] = {{.specials_as_text = true},
                                        {.newlines = NEWLINES_AS_SPACES},
                                        {.specials_as_text = true, .newlines = NEWLINES_AS_SPACES}};
    Match m = {0};
    for (size_t i = 0; !m.found && i < sizeof spellings / sizeof *spellings; i++) {
        m = match_chat(c, text, spellings[i]);
    }
    return m;
}

// The text as it stands, and in the model's template as what a user says.
static size_t mean_text(PromptState *c, Meaning out[2]) {
    TextSpan *span = arena_alloc(&c->arena, 1, sizeof *span);
    if (!span) {
        c->status = error_memory(c->err, "a prompt", sizeof *span);
        return 0;
    }
    *span = (TextSpan){c->text, strlen(c->text), true};
    out[0] = (Meaning){span, 1};
    if (!c->chat) return 1;
    const ChatMessage user = {"user", c->text};
    ChatText chat = {0};
    c->status = chat_template_render(c->chat, &user, 1, true, &chat, c->err);
    TextSpan *spans = arena_alloc(&c->arena, chat.n_spans + 1, sizeof *spans);
    if (!spans && !c->status) c->status = error_memory(c->err, "a chat", chat.n_spans);
    for (size_t i = 0; spans && i < chat.n_spans; i++) spans[i] = chat.spans[i];
    out[1] = (Meaning){spans, chat.n_spans};
    chat_text_free(&chat);
    return c->status ? 0 : 2;
}

// --- verdicts -----------------------------------------------------------------------------------

static void judge_by_text(PromptState *c) {
    static const Source sources[] = {FROM_TEXT, FROM_TEXT_AS_CHAT};
    static const char *const what[] = {"the text", "the text in the model's chat template",
                                       "the text, as a chat in the model's template"};
    Meaning meanings[2];
    const size_t n = mean_text(c, meanings);
    const Space s = space_of(c, false, (Variant){0});
    Match m = {0};
    if (n) m = find_match(c, meanings, sources, n, &s);
    if (!c->status && !is_exact(&m)) {
        // A message of a chat may hold what reads like a special token and is none.
        const Meaning plain = read_plain(c);
        const char *text = read_text(c, &plain);
        Match chat = {0};
        if (strcmp(text, c->text) == 0) chat = match_chat(c, text, (Variant){0});
        if (is_exact(&chat)) m = chat;
    }
    if (c->status) return;
    if (is_exact(&m)) {
        prompt_say(c, "ids", SAY_PASS, "the ids (%zu) are those of %s", c->p->n_tokens,
                   what[m.source]);
    } else if (m.found) {
        prompt_say_faults(c, &m, SAY_FAIL);
    } else {
        prompt_say_differ(c, meanings, n);
    }
}

// Ids in another model's template: they may be meant so. Returns whether they are.
static bool judge_other_templates(PromptState *c, const char *text) {
    static const Source source = FROM_CHAT;
    const ChatTemplate *t;
    for (int i = 0; c->chat && !c->status && (t = chat_template_at(i)); i++) {
        ChatReading chat;
        if (t == c->chat || !chat_may_start(t, text)) continue;
        c->status = read_chat(c->tok, t, &c->flats[0], (Variant){0}, &c->arena, &chat, c->err);
        if (c->status || !chat.found || !chat.marked) continue;
        const Space s = {.fixed = true};
        const Match m = find_match(c, &chat.meaning, &source, 1, &s);
        if (!m.found) continue;
        prompt_say(c, "template-other", SAY_WARNING,
                   "the ids are a chat in the template %s, the model's own is %s",
                   chat_template_name(t), chat_template_name(c->chat));
        return true;
    }
    return false;
}

// A fault of prefix or merges cannot be one where the plain text gives the very ids; only marks of
// a template can tell that their spelling is wrong.
static void judge_by_ids(PromptState *c) {
    static const Source source = FROM_IDS;
    static const Space exact = {.fixed = true}, prefixes = {.fixed = true, .most = 1};
    const Meaning plain = read_plain(c);
    const char *text = read_text(c, &plain);
    Match m = match_chat(c, text, (Variant){0});
    if (!c->status && is_exact(&m)) {
        prompt_say(c, "ids", SAY_PASS,
                   "the ids (%zu) are a chat, written as the template %s has it", c->p->n_tokens,
                   chat_template_name(c->chat));
        return;
    }
    const bool is_plain = !c->status && find_match(c, &plain, &source, 1, &exact).found;
    if (!m.found || is_plain) m = match_misspelled_chat(c, text);
    if (c->status) return;
    if (m.found) {
        prompt_say_faults(c, &m, SAY_FAIL);
    } else if (is_plain) {
        if (judge_other_templates(c, text)) return;
        prompt_say(c, "ids", SAY_PASS, "the ids (%zu) are those of the text that they decode to",
                   c->p->n_tokens);
    } else if ((m = find_match(c, &plain, &source, 1, &prefixes)).found) {
        prompt_say_faults(c, &m, SAY_WARNING);  // ids picked at random may look so
    } else {
        prompt_say(c, "ids-unread", SAY_REMARK,
                   "the ids are not those of the text that they decode to: taken as they are");
    }
}

// --- the stage ----------------------------------------------------------------------------------

// Ids that the model has no row for, and those that have a row but no text. Returns whether all
// have a text.
static bool check_range(PromptState *c, const Gguf *g) {
    const Tensor *rows = g ? gguf_tensor(g, "token_embd.weight") : NULL;
    const int64_t n_vocab = c->tok ? tokenizer_n_vocab(c->tok) : INT32_MAX;
    const int64_t n_rows = rows && rows->dims[1] <= INT32_MAX ? (int64_t)rows->dims[1] : n_vocab;
    const int32_t *ids = c->p->tokens;
    size_t without = SIZE_MAX;
    for (size_t i = 0; i < c->p->n_tokens; i++) {
        if (ids[i] >= 0 && ids[i] < n_rows) {
            if (ids[i] >= n_vocab && without == SIZE_MAX) without = i;
            continue;
        }
        c->allow_odd = false;  // such a prompt cannot be run
        prompt_say(c, "ids-outside-vocabulary", SAY_FAIL,
                   "id %zu is %d, outside the vocabulary of %lld", i, ids[i], (long long)n_rows);
        return false;
    }
    if (without == SIZE_MAX) return true;
    prompt_say(c, "ids-without-text", SAY_WARNING,
               "id %zu is %d: the model has a row for it, the vocabulary of %lld no text", without,
               ids[without], (long long)n_vocab);
    return false;
}

static bool is_too_long(const PromptState *c) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < c->n_body && bytes <= MOST_BYTES; i++) {
        bytes += tokenizer_token_text(c->tok, c->body[i]).len;
    }
    return c->n_body > MOST_READ || bytes > MOST_BYTES;
}

static void judge(PromptState *c) {
    c->body = c->p->tokens, c->n_body = c->p->n_tokens;
    strip(c->tok, &c->body, &c->n_body, &c->n_bos, &c->n_eos);
    prompt_say_bos(c);
    if (is_too_long(c)) {
        prompt_say(c, "ids-unread", SAY_REMARK, "%zu ids: too many to be read", c->p->n_tokens);
    } else if (c->n_body || c->text) {
        for (int i = 0; !c->status && i < N_PREFIXES; i++) {
            c->status =
                flatten(c->tok, c->body, c->n_body, (Prefix)i, &c->arena, &c->flats[i], c->err);
        }
        if (!c->status && c->text)
            judge_by_text(c);
        else if (!c->status)
            judge_by_ids(c);
    } else {
        prompt_say(c, "ids", SAY_PASS, "the ids (%zu) are special tokens alone", c->p->n_tokens);
    }
    prompt_say_eos(c);
}

Status prompt_check(const Gguf *g, const Tokenizer *tok, const ChatTemplate *chat,
                    const TracePrompt *p, const PromptCheck *options, Report *r, int prompt,
                    Error *err) {
    PromptState c = {.tok = tok,
                     .chat = chat,
                     .p = p,
                     .text = options->text,
                     .allow_odd = options->allow_odd,
                     .r = r,
                     .prompt = prompt,
                     .err = err,
                     .variants = {.g = g, .tok = tok}};
    const bool readable = check_range(&c, g);
    if (!tok && readable) {
        r->stage[STAGE_PROMPT] = OUTCOME_SKIPPED;
        snprintf(r->stage_reason[STAGE_PROMPT], sizeof r->stage_reason[STAGE_PROMPT],
                 "the file has no tokenizer");
    } else if (tok && readable && p->n_tokens && !c.status) {
        judge(&c);
    }
    variants_free(&c.variants);
    arena_free(&c.arena);
    return c.status;
}
