// The ids that a faulty tokenizer makes: T1 .. T7 of the list of faults.
//
// A small SentencePiece encoder of its own, over the vocabulary as tokenizer.h shows it: specials
// are cut out, spaces become U+2581, pairs merge by score, what is no piece becomes bytes. Each
// step has its switch. It looks for the best pair by scanning all: prompts are short, and plain is
// the point. Byte-level vocabularies have no scores and no space prefix: of them T1 .. T5 are made,
// around our own encoder. What Phi-3's special tokens do with the space behind them is not known
// here.
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "verify/mutant_internal.h"

enum {  // of FAULT_PROMPT
    NO_BOS = 1 << 1,
    TWO_BOS = 1 << 2,
    EOS_AT_END = 1 << 3,
    SPECIALS_AS_TEXT = 1 << 4,
    NEWLINE_AS_SPACE = 1 << 5,
    NO_PREFIX = 1 << 6,
    BY_RANK = 1 << 7,
};

static const char mark[] = "\xe2\x96\x81";

// A run of bytes that is, or may become, a piece.
typedef struct {
    size_t at, len;
    int next;       // -1: the last
    int32_t id;     // -1: no piece
    int32_t joint;  // the piece that it makes with the next one, -1: none
} Symbol;

typedef struct {
    const Tokenizer *tok;
    unsigned faults;
    TokenList *out;
    Text spelled;
    Symbol *symbols;
    int n_symbols;
} Encoder;

static int32_t piece(const Tokenizer *tok, const char *s, size_t len) {
    const int32_t id = tokenizer_find(tok, s, len);
    if (id < 0) return -1;
    const TokenKind kind = tokenizer_token_kind(tok, id);
    return kind == TOKEN_NORMAL || kind == TOKEN_USER || kind == TOKEN_UNUSED ? id : -1;
}

// --- the text between two special tokens ------------------------------------------------------

static bool spell(Encoder *e, const char *s, size_t len, bool prefix) {
    e->spelled.len = 0;
    bool ok = !prefix || text_append_str(&e->spelled, mark);
    for (size_t i = 0; ok && i < len; i++) {
        const bool space = s[i] == ' ' || (s[i] == '\n' && e->faults & NEWLINE_AS_SPACE);
        ok = space ? text_append_str(&e->spelled, mark) : text_append(&e->spelled, s + i, 1);
    }
    return ok;
}

static bool split(Encoder *e) {
    const char *s = e->spelled.data;
    const size_t len = e->spelled.len;
    Symbol *symbols = realloc(e->symbols, (len + 1) * sizeof *symbols);
    if (!symbols) return false;
    e->symbols = symbols, e->n_symbols = 0;
    for (size_t at = 0, bytes; at < len; at += bytes) {
        bytes = utf8_char_bytes((unsigned char)s[at]);
        const bool whole = bytes && bytes <= len - at && utf8_valid(s + at, bytes);
        if (!whole) bytes = 1;
        const int32_t id = whole ? piece(e->tok, s + at, bytes) : -1;
        const int n = e->n_symbols++;
        symbols[n] = (Symbol){at, bytes, n + 1, id, -1};
    }
    if (e->n_symbols) symbols[e->n_symbols - 1].next = -1;
    return true;
}

static void join(const Encoder *e, Symbol *a) {
    a->joint = -1;
    if (a->next < 0) return;
    a->joint = piece(e->tok, e->spelled.data + a->at, a->len + e->symbols[a->next].len);
}

// The best pair, leftmost among equals: of the highest score. An engine that takes scores for the
// ranks of byte-level merges begins with the lowest.
static Symbol *best_pair(const Encoder *e) {
    Symbol *best = NULL;
    float best_score = 0;
    for (int i = 0; i >= 0 && e->n_symbols; i = e->symbols[i].next) {
        Symbol *a = &e->symbols[i];
        if (a->joint < 0) continue;
        const float score = tokenizer_token_score(e->tok, a->joint);
        const bool better = e->faults & BY_RANK ? score < best_score : score > best_score;
        if (!best || better) best = a, best_score = score;
    }
    return best;
}

static void merge(Encoder *e) {
    for (int i = 0; i < e->n_symbols; i++) join(e, &e->symbols[i]);
    for (Symbol *a; (a = best_pair(e));) {
        const Symbol *b = &e->symbols[a->next];
        a->len += b->len, a->id = a->joint, a->next = b->next;
        join(e, a);
        for (int i = 0; i >= 0; i = e->symbols[i].next) {
            if (e->symbols[i].next >= 0 && &e->symbols[e->symbols[i].next] == a) {
                join(e, &e->symbols[i]);
                break;
            }
        }
    }
}

static int32_t byte_token(const Tokenizer *tok, unsigned char byte) {
    static const char upper[] = "0123456789ABCDEF", lower[] = "0123456789abcdef";
    for (int i = 0; i < 2; i++) {
        const char *digits = i ? lower : upper;
        const char text[6] = {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
        const int32_t id = tokenizer_find(tok, text, sizeof text);
        if (id >= 0 && tokenizer_token_kind(tok, id) == TOKEN_BYTE) return id;
    }
    return -1;
}

// The bytes of what is no piece; the unknown token where one of them has no token.
static bool append_bytes(Encoder *e, const char *s, size_t len) {
    bool all = true, ok = true;
    for (size_t i = 0; i < len; i++) all = all && byte_token(e->tok, (unsigned char)s[i]) >= 0;
    if (!all) return tokenizer_unk(e->tok) < 0 || tokens_append(e->out, tokenizer_unk(e->tok));
    for (size_t i = 0; ok && i < len; i++) {
        ok = tokens_append(e->out, byte_token(e->tok, (unsigned char)s[i]));
    }
    return ok;
}

// It stands at the start or behind a special token: there the space goes before it.
static bool encode_plain(Encoder *e, const char *s, size_t len) {
    if (len == 0) return true;
    const bool prefix = tokenizer_adds_space_prefix(e->tok) && !(e->faults & NO_PREFIX);
    if (!spell(e, s, len, prefix) || !split(e)) return false;
    merge(e);
    bool ok = true;
    for (int i = 0; ok && i >= 0; i = e->symbols[i].next) {
        const Symbol *a = &e->symbols[i];
        ok = a->id >= 0 ? tokens_append(e->out, a->id)
                        : append_bytes(e, e->spelled.data + a->at, a->len);
    }
    return ok;
}

// --- special tokens ---------------------------------------------------------------------------

static Status find_specials(const Encoder *e, TokenList *out, Error *err) {
    for (int32_t id = 0; id < tokenizer_n_vocab(e->tok); id++) {
        const TokenKind kind = tokenizer_token_kind(e->tok, id);
        const bool control = kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN;
        if (kind != TOKEN_USER && (!control || e->faults & SPECIALS_AS_TEXT)) continue;
        if (tokenizer_token_text(e->tok, id).len == 0) continue;
        if (!tokens_append(out, id)) return error_memory(err, "special tokens", out->len);
    }
    return OK;
}

// The longest special token that s starts with, -1: none.
static int32_t special_at(const Encoder *e, const TokenList *specials, const char *s, size_t len) {
    int32_t best = -1;
    uint64_t best_len = 0;
    for (size_t i = 0; i < specials->len; i++) {
        const GgufStr text = tokenizer_token_text(e->tok, specials->data[i]);
        if (text.len <= best_len || text.len > len || memcmp(text.ptr, s, text.len) != 0) continue;
        best = specials->data[i], best_len = text.len;
    }
    return best;
}

static Status encode_pieces(Encoder *e, const char *s, size_t len, Error *err) {
    TokenList specials = {0};
    Status st = find_specials(e, &specials, err);
    const bool bos_due = tokenizer_adds_bos(e->tok);
    bool ok = !bos_due || e->faults & NO_BOS || tokens_append(e->out, tokenizer_bos(e->tok));
    size_t plain = 0, at = 0;
    while (!st && ok && at < len) {
        const int32_t id = special_at(e, &specials, s + at, len - at);
        if (id < 0) {
            at++;
            continue;
        }
        ok = encode_plain(e, s + plain, at - plain);
        const bool again = bos_due && at == 0 && id == tokenizer_bos(e->tok);
        if (!again) ok = ok && tokens_append(e->out, id);
        at += tokenizer_token_text(e->tok, id).len;
        plain = at;
    }
    if (!st && ok) ok = encode_plain(e, s + plain, len - plain);
    if (!st && !ok) st = error_memory(err, "token ids", len * sizeof(int32_t));
    tokens_free(&specials);
    return st;
}

// --- the whole --------------------------------------------------------------------------------

static Status encode_byte_level(const Encoder *e, const char *text, size_t len, Error *err) {
    char *copy = malloc(len + 1);
    if (!copy) return error_memory(err, "a text", len);
    for (size_t i = 0; i < len; i++) {
        copy[i] = text[i] == '\n' && e->faults & NEWLINE_AS_SPACE ? ' ' : text[i];
    }
    const TextSpan span = {copy, len, !(e->faults & SPECIALS_AS_TEXT)};
    const unsigned flags = e->faults & NO_BOS ? ENCODE_NO_BOS : 0;
    const Status st = tokenizer_encode(e->tok, &span, 1, flags, e->out, err);
    free(copy);
    return st;
}

static unsigned faults_of(const Fault *const *faults) {
    unsigned set = 0;
    for (int i = 0; faults && i < MUTANT_FAULTS && faults[i]; i++) {
        if (faults[i]->code == FAULT_PROMPT) set |= 1u << faults[i]->argument;
    }
    return set;
}

Status mutant_tokens(const Gguf *g, const Tokenizer *tok, const char *text,
                     const Fault *const *faults, TokenList *out, Error *err) {
    Encoder e = {.tok = tok, .faults = faults_of(faults), .out = out};
    const int32_t eos = tokenizer_eos(tok);
    const size_t len = strlen(text), before = out->len;
    bool ok = true;
    if (tokenizer_adds_bos(tok) && e.faults & TWO_BOS) ok = tokens_append(out, tokenizer_bos(tok));
    Status st = ok ? OK : error_memory(err, "token ids", sizeof(int32_t));
    const bool pieces = strcmp(tokenizer_model_name(tok), "llama") == 0;
    if (!st && pieces) st = encode_pieces(&e, text, len, err);
    if (!st && !pieces) st = encode_byte_level(&e, text, len, err);
    const bool ends = out->len > before && out->data[out->len - 1] == eos;
    const bool wanted = (tokenizer_adds_eos(tok) && !ends) || e.faults & EOS_AT_END;
    if (!st && eos >= 0 && wanted && !tokens_append(out, eos)) {
        st = error_memory(err, "token ids", sizeof(int32_t));
    }
    if (st) error_prefix(err, "%s", gguf_path(g));
    text_free(&e.spelled);
    free(e.symbols);
    return st;
}
