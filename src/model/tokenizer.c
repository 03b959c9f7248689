// Tokenizers: cutting a text at its special tokens, and from ids back to text; see tokenizer.h.
//
// This room owns: which special tokens a text holds, BOS and EOS, the space prefix, decoding.
// It leaves to others: the vocabulary (tokenizer_vocab.c) and the text between two special tokens
// (tokenizer_spm.c, tokenizer_bpe.c).
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

Status tokenizer_new(const Gguf *g, Notice notice, Tokenizer **out, Error *err) {
    Tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t) return error_memory(err, "a tokenizer", sizeof *t);
    t->pre_name = "";
    Status st = vocab_load(t, g, notice, err);
    if (st == OK && !t->spm) st = bpe_load(t, g, notice, err);
    if (st != OK) return tokenizer_free(t), st;
    t->words_apart = t->spm && spm_words_are_apart(t);
    if (t->adds_bos && t->bos < 0) {
        t->adds_bos = false;
        notice_say(notice, "%s: the vocabulary has no BOS token, so none is added", gguf_path(g));
    }
    if (t->adds_eos && t->eos < 0) {
        t->adds_eos = false;
        notice_say(notice, "%s: the vocabulary has no EOS token, so none is added", gguf_path(g));
    }
    *out = t;
    return OK;
}

void tokenizer_free(Tokenizer *t) {
    if (!t) return;
    pretokenizer_free(t->pre);
    arena_free(&t->arena);
    free(t);
}

// The index in special[lo..hi) of the first token whose byte `at` is >= c (all agree before it, and
// all are longer than `at`).
static uint32_t lower_bound(const Tokenizer *t, uint32_t lo, uint32_t hi, size_t at, int c) {
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if ((uint8_t)t->texts[t->special[mid]].ptr[at] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

// The longest special token at the start of text, -1 for none. Control tokens must lie within the
// first `parsed` bytes; user-defined ones within `len`.
static int32_t special_at(const Tokenizer *t, const char *text, size_t len, size_t parsed) {
    uint32_t lo = t->first[(uint8_t)text[0]], hi = t->first[(uint8_t)text[0] + 1];
    int32_t best = -1;
    for (size_t n = 1; lo < hi; n++) {
        // Sorted by text, so that those which end here come first.
        while (lo < hi && t->texts[t->special[lo]].len == n) {
            int32_t id = t->special[lo++];
            bool longer = best < 0 || t->texts[best].len < n;
            if (longer && (t->kinds[id] == TOKEN_USER || n <= parsed)) best = id;
        }
        if (n >= len) break;
        int c = (uint8_t)text[n];
        lo = lower_bound(t, lo, hi, n, c);
        hi = lower_bound(t, lo, hi, n, c + 1);
    }
    return best;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

typedef struct {
    const Tokenizer *t;
    EncodeSpace space;
    const char *text;  // all spans, one after the other
    size_t len;
    bool after_special;  // at the start, and after a special token: where the space prefix goes
    TokenList *out;
} Encoder;

static Status encode_plain(Encoder *e, size_t from, size_t to, Error *err) {
    if (from >= to) return OK;
    const Tokenizer *t = e->t;
    bool prefix = t->space_prefix && e->after_special;
    e->after_special = false;
    if (!t->spm) return bpe_encode(t, &e->space, e->text + from, to - from, e->out, err);
    return spm_encode(t, &e->space, e->text + from, to - from, prefix, e->out, err);
}

static Status encode_special(Encoder *e, int32_t id, bool bos_due, Error *err) {
    e->after_special = true;
    if (bos_due && id == e->t->bos) return OK;  // the text brought its own
    return tokens_append(e->out, id) ? OK : error_memory(err, "token ids", e->out->len);
}

static Status encode_spans(Encoder *e, const TextSpan *spans, size_t n_spans, bool bos_added,
                           Error *err) {
    const Tokenizer *t = e->t;
    size_t span = 0, span_end = n_spans ? spans[0].len : 0, plain = 0, at = 0;
    while (at < e->len) {
        while (at >= span_end) span_end += spans[++span].len;
        uint8_t c = (uint8_t)e->text[at];
        if (t->first[c] == t->first[c + 1]) {
            at++;
            continue;
        }
        size_t parsed = spans[span].parse_special ? span_end - at : 0;
        int32_t id = special_at(t, e->text + at, e->len - at, parsed);
        if (id < 0) {
            at++;
            continue;
        }
        Status st = encode_plain(e, plain, at, err);
        if (st == OK) st = encode_special(e, id, bos_added && at == 0, err);
        if (st != OK) return st;
        at += t->texts[id].len;
        if (t->flags[id] & TOKEN_RSTRIP) {
            while (at < e->len && is_space(e->text[at])) at++;
        }
        plain = at;
    }
    return encode_plain(e, plain, e->len, err);
}

Status tokenizer_encode(const Tokenizer *t, const TextSpan *spans, size_t n_spans, unsigned flags,
                        TokenList *out, Error *err) {
    Text joined = {0};
    size_t n_before = out->len;
    for (size_t i = 0; i < n_spans; i++) {
        if (joined.len > INT32_MAX / 4 || spans[i].len > INT32_MAX / 4 - joined.len) {
            text_free(&joined);
            return error_set(err, ERR_USAGE, "a text of more than %d bytes cannot be tokenized",
                             INT32_MAX / 4);
        }
        if (!text_append(&joined, spans[i].text, spans[i].len)) {
            text_free(&joined);
            return error_memory(err, "a text", spans[i].len);
        }
    }
    bool bos = t->adds_bos && !(flags & ENCODE_NO_BOS);
    Encoder e = {.t = t,
                 .text = joined.data,
                 .len = joined.len,
                 .after_special = !(flags & ENCODE_CONTINUE),
                 .out = out};
    Status st = OK;
    if (bos && !tokens_append(out, t->bos)) st = error_memory(err, "token ids", sizeof(int32_t));
    if (st == OK) st = encode_spans(&e, spans, n_spans, bos, err);
    if (st == OK && t->adds_eos) {
        bool there = e.after_special && out->len > n_before && out->data[out->len - 1] == t->eos;
        if (!there && !tokens_append(out, t->eos)) {
            st = error_memory(err, "token ids", sizeof(int32_t));
        }
    }
    if (st != OK) out->len = n_before;
    encode_space_free(&e.space);
    text_free(&joined);
    return st;
}

static bool is_special_kind(unsigned kind) {
    return kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN;
}

// U+2581 stands for a space in a SentencePiece token.
static bool append_unspelled(GgufStr s, Text *out) {
    if (!text_reserve(out, s.len)) return false;
    for (uint64_t i = 0; i < s.len; i++) {
        bool space = s.len - i >= 3 && memcmp(s.ptr + i, "\xe2\x96\x81", 3) == 0;
        out->data[out->len++] = space ? ' ' : s.ptr[i];
        if (space) i += 2;
    }
    out->data[out->len] = 0;
    return true;
}

bool tokenizer_piece(const Tokenizer *t, int32_t id, unsigned flags, Text *out) {
    if (id < 0 || id >= t->n_vocab) return false;
    unsigned kind = t->kinds[id];
    GgufStr s = t->texts[id];
    if (is_special_kind(kind) && !(flags & DECODE_SPECIAL)) return text_reserve(out, 0);
    if (kind == TOKEN_BYTE) {
        char byte = (char)byte_token_value(s);
        return text_append(out, &byte, 1);
    }
    if (is_special_kind(kind) || kind == TOKEN_USER) return text_append(out, s.ptr, s.len);
    return t->spm ? append_unspelled(s, out) : bpe_decode(s, out);
}

static void text_cut(Text *t, size_t len) {
    t->len = len;
    if (t->data) t->data[len] = 0;
}

Status tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, unsigned flags, Text *out,
                        Error *err) {
    // The mirror of encode_plain: the text after a special token starts with a space that was not
    // in the original.
    bool drop = t->space_prefix && !(flags & DECODE_KEEP_SPACE), after_special = true;
    size_t start = out->len;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->n_vocab) {
            text_cut(out, start);
            return error_set(err, ERR_USAGE, "token %d is not in the vocabulary of %d tokens",
                             ids[i], t->n_vocab);
        }
        size_t at = out->len;
        if (!tokenizer_piece(t, ids[i], flags, out)) {
            text_cut(out, start);
            return error_memory(err, "a text", t->texts[ids[i]].len);
        }
        unsigned kind = t->kinds[ids[i]];
        if (kind == TOKEN_CONTROL || kind == TOKEN_USER) {
            after_special = true;
        } else {
            if (drop && after_special && kind != TOKEN_BYTE && out->len > at &&
                out->data[at] == ' ') {
                memmove(out->data + at, out->data + at + 1, out->len - at);
                out->len--;
            }
            after_special = false;
        }
    }
    return OK;
}

GgufStr tokenizer_token_text(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab ? t->texts[id] : (GgufStr){"", 0};
}

TokenKind tokenizer_token_kind(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab ? (TokenKind)t->kinds[id] : TOKEN_UNKNOWN;
}

float tokenizer_token_score(const Tokenizer *t, int32_t id) {
    return t->scores && id >= 0 && id < t->n_vocab ? t->scores[id] : 0.0f;
}

int32_t tokenizer_find(const Tokenizer *t, const char *text, size_t len) {
    return vocab_find(t, text, len, false);
}

int32_t tokenizer_n_vocab(const Tokenizer *t) {
    return t->n_vocab;
}

int32_t tokenizer_bos(const Tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_eos(const Tokenizer *t) {
    return t->eos;
}

int32_t tokenizer_unk(const Tokenizer *t) {
    return t->unk;
}

bool tokenizer_adds_bos(const Tokenizer *t) {
    return t->adds_bos;
}

bool tokenizer_adds_eos(const Tokenizer *t) {
    return t->adds_eos;
}

bool tokenizer_adds_space_prefix(const Tokenizer *t) {
    return t->space_prefix;
}

bool tokenizer_is_end(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab && (t->flags[id] & TOKEN_ENDS);
}

const char *tokenizer_model_name(const Tokenizer *t) {
    return t->spm ? "llama" : "gpt2";
}

const char *tokenizer_pre_name(const Tokenizer *t) {
    return t->pre_name;
}
