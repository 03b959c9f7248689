// The ids that a text becomes when a tokenizer has one of the known faults; see prompt_internal.h.
//
// No tokenizer is written here: the right one is run on a text that was changed first, on the
// pieces between special tokens, or on the same vocabulary with other scores.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/prompt_internal.h"

void variants_free(Variants *v) {
    for (int i = 0; i < MERGES_LONGEST; i++) {
        tokenizer_free(v->other[i].tok);
        gguf_close(v->other[i].gguf);
        text_free(&v->other[i].bytes);
    }
    *v = (Variants){0};
}

// --- the vocabulary with other scores -----------------------------------------------------------

static bool put_bytes(Text *t, const void *bytes, size_t n) {
    return n == 0 || text_append(t, bytes, n);
}

static bool put_str(Text *t, const char *s, uint64_t len) {
    return put_bytes(t, &len, sizeof len) && put_bytes(t, s, (size_t)len);
}

static bool put_head(Text *t, const char *key, uint32_t type) {
    return put_str(t, key, strlen(key)) && put_bytes(t, &type, sizeof type);
}

static bool put_value(Text *t, const GgufValue *v) {
    const bool array = v->type == GGUF_ARRAY, strings = v->strs != NULL;
    const uint32_t elem = v->elem_type;
    bool ok = put_head(t, v->key, v->type);
    if (array) ok = ok && put_bytes(t, &elem, sizeof elem) && put_bytes(t, &v->n, sizeof v->n);
    for (uint64_t i = 0; ok && strings && i < v->n; i++) {
        ok = put_str(t, v->strs[i].ptr, v->strs[i].len);
    }
    const size_t size = gguf_type_size(array ? v->elem_type : v->type);
    return ok && (strings || put_bytes(t, v->raw, (size_t)v->n * size));
}

static bool put_scores(Text *t, const Tokenizer *tok, Merges merges) {
    const uint32_t elem = GGUF_F32;
    const uint64_t n = (uint64_t)tokenizer_n_vocab(tok);
    bool ok = put_head(t, "tokenizer.ggml.scores", GGUF_ARRAY) &&
              put_bytes(t, &elem, sizeof elem) && put_bytes(t, &n, sizeof n);
    for (int32_t id = 0; ok && id < (int32_t)n; id++) {
        const float score = merges == MERGES_BY_ID          ? -(float)id
                            : merges == MERGES_LOWEST_SCORE ? -tokenizer_token_score(tok, id)
                                                            : 0;
        ok = put_bytes(t, &score, sizeof score);
    }
    return ok;
}

static bool is_of_vocabulary(const char *key) {
    return strcmp(key, "general.name") == 0 ||
           (strncmp(key, "tokenizer.ggml.", 15) == 0 && strcmp(key, "tokenizer.ggml.scores") != 0);
}

static Status open_other(Variants *v, Merges merges, Error *err) {
    const uint32_t version = 3;
    uint64_t head[2] = {0, 1};  // tensors, keys
    Text *t = &v->other[merges].bytes;
    const size_t n = gguf_n_values(v->g);
    for (size_t i = 0; i < n; i++) head[1] += is_of_vocabulary(gguf_value_at(v->g, i)->key);
    bool ok = put_bytes(t, "GGUF", 4) && put_bytes(t, &version, sizeof version) &&
              put_bytes(t, head, sizeof head) && put_scores(t, v->tok, merges);
    for (size_t i = 0; ok && i < n; i++) {
        const GgufValue *value = gguf_value_at(v->g, i);
        if (is_of_vocabulary(value->key)) ok = put_value(t, value);
    }
    if (!ok) return error_memory(err, "a vocabulary", t->len);
    Status st = gguf_open_memory(t->data, t->len, gguf_path(v->g), &v->other[merges].gguf, err);
    if (st) return st;
    return tokenizer_new(v->other[merges].gguf, (Notice){0}, &v->other[merges].tok, err);
}

// --- the longest token that fits ----------------------------------------------------------------

static bool is_plain(const Tokenizer *tok, int32_t id) {
    const TokenKind kind = tokenizer_token_kind(tok, id);
    return kind == TOKEN_NORMAL || kind == TOKEN_USER || kind == TOKEN_UNUSED;
}

static size_t longest_token(const Tokenizer *tok) {
    size_t most = 1;
    for (int32_t id = 0; id < tokenizer_n_vocab(tok); id++) {
        const GgufStr s = tokenizer_token_text(tok, id);
        if (is_plain(tok, id) && s.len > most) most = (size_t)s.len;
    }
    return most;
}

// At most so many bytes of a token are tried: a vocabulary's longest real pieces are shorter, and a
// hostile one must not make this quadratic.
enum { LONGEST_TRIED = 64 };

static Status encode_longest(Variants *v, const char *text, size_t len, bool prefix, TokenList *out,
                             Error *err) {
    Text spelled = {0};
    bool ok = !prefix || text_append_str(&spelled, "\xe2\x96\x81");
    for (size_t i = 0; ok && i < len; i++) {
        ok = text[i] == ' ' ? text_append_str(&spelled, "\xe2\x96\x81")
                            : text_append(&spelled, text + i, 1);
    }
    if (!v->longest) v->longest = longest_token(v->tok);
    const size_t most = v->longest < LONGEST_TRIED ? v->longest : LONGEST_TRIED;
    for (size_t at = 0, n; ok && at < spelled.len; at += n) {
        const size_t left = spelled.len - at;
        int32_t id = -1;
        for (n = left < most ? left : most; n > 0; n--) {
            id = tokenizer_find(v->tok, spelled.data + at, n);
            if (id >= 0 && is_plain(v->tok, id)) break;
        }
        if (n == 0) {
            char byte[8];
            snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)(uint8_t)spelled.data[at]);
            id = tokenizer_find(v->tok, byte, 6);
            n = 1;
        }
        if (id < 0) id = tokenizer_unk(v->tok);
        ok = id < 0 || tokens_append(out, id);
    }
    text_free(&spelled);
    return ok ? OK : error_memory(err, "token ids", out->len);
}

// --- a text in pieces ---------------------------------------------------------------------------

static void drop_added_eos(const Tokenizer *tok, TokenList *t, size_t from) {
    if (!tokenizer_adds_eos(tok) || t->len <= from) return;
    if (t->data[t->len - 1] == tokenizer_eos(tok)) t->len--;
}

static Status encode_piece(Variants *v, const Tokenizer *tok, const Text *piece, bool first,
                           Variant how, TokenList *out, Error *err) {
    const bool bare = how.prefix == PREFIX_NONE || (how.prefix == PREFIX_NOT_FIRST && first) ||
                      (how.prefix == PREFIX_ONLY_FIRST && !first);
    if (how.merges == MERGES_LONGEST) {
        const bool prefix = !bare && tokenizer_adds_space_prefix(tok);
        return encode_longest(v, piece->data, piece->len, prefix, out, err);
    }
    const TextSpan span = {piece->data, piece->len, false};
    const size_t from = out->len;
    Status st =
        tokenizer_encode(tok, &span, 1, ENCODE_NO_BOS | (bare ? ENCODE_CONTINUE : 0), out, err);
    drop_added_eos(tok, out, from);
    return st;
}

static bool is_special(const Tokenizer *tok, int32_t id) {
    const TokenKind kind = tokenizer_token_kind(tok, id);
    return kind == TOKEN_CONTROL || kind == TOKEN_USER;
}

// Encodes again what stands between the special tokens of whole.
static Status encode_pieces(Variants *v, const Tokenizer *tok, const TokenList *whole, Variant how,
                            TokenList *out, bool *there, Error *err) {
    Text piece = {0};
    Status st = OK;
    for (size_t i = 0, end; !st && *there && i < whole->len; i = end) {
        end = i + 1;
        if (is_special(tok, whole->data[i])) {
            if (!tokens_append(out, whole->data[i])) st = error_memory(err, "token ids", out->len);
            continue;
        }
        while (end < whole->len && !is_special(tok, whole->data[end])) end++;
        for (size_t k = i; k < end; k++) {  // what it stands for is lost
            if (tokenizer_token_kind(tok, whole->data[k]) == TOKEN_UNKNOWN) *there = false;
        }
        piece.len = 0;
        st = tokenizer_decode(tok, whole->data + i, end - i, 0, &piece, err);
        if (!st && *there) st = encode_piece(v, tok, &piece, i == 0, how, out, err);
    }
    text_free(&piece);
    return st;
}

// A copy of the text with its white space changed.
static bool change_text(const Meaning *m, Variant how, Text *bytes, TextSpan *spans) {
    size_t len = 0;
    for (size_t i = 0; i < m->n; i++) len += m->spans[i].len;
    if (!text_reserve(bytes, len)) return false;
    for (size_t i = 0; i < m->n; i++) {
        char *to = bytes->data + bytes->len;
        spans[i] = m->spans[i];
        if (m->spans[i].len) memcpy(to, m->spans[i].text, m->spans[i].len);
        bytes->len += m->spans[i].len;
        for (size_t k = 0; k < m->spans[i].len && how.newlines != NEWLINES_KEPT; k++) {
            const bool other_white = to[k] == '\t' || (to[k] >= '\v' && to[k] <= '\r');
            if (to[k] == '\n' || (other_white && how.newlines == WHITE_AS_SPACES)) to[k] = ' ';
        }
        spans[i].text = to;
        if (how.specials_as_text) spans[i].parse_special = false;
    }
    return true;
}

Status variant_encode(Variants *v, const Meaning *m, Variant how, TokenList *out, bool *there,
                      Error *err) {
    const Tokenizer *tok = v->tok;
    const bool spm = strcmp(tokenizer_model_name(tok), "llama") == 0;
    Text bytes = {0};
    TokenList whole = {0};
    TextSpan *spans;
    out->len = 0;
    *there = spm || (how.merges == MERGES_RIGHT && how.prefix == PREFIX_RIGHT);
    if (!tokenizer_adds_space_prefix(tok) && how.prefix != PREFIX_RIGHT) *there = false;
    if (!*there) return OK;
    if (how.merges != MERGES_RIGHT && how.merges != MERGES_LONGEST) {
        Status st = v->other[how.merges].tok ? OK : open_other(v, how.merges, err);
        if (st) return st;
        tok = v->other[how.merges].tok;
    }
    spans = malloc((m->n + 1) * sizeof *spans);
    Status st =
        spans && change_text(m, how, &bytes, spans) ? OK : error_memory(err, "a text", m->n);
    const bool whole_is_it = how.prefix == PREFIX_RIGHT && how.merges != MERGES_LONGEST;
    TokenList *to = whole_is_it ? out : &whole;
    if (!st) st = tokenizer_encode(tok, spans, m->n, ENCODE_NO_BOS, to, err);
    drop_added_eos(tok, to, 0);
    if (!st && !whole_is_it) st = encode_pieces(v, tok, &whole, how, out, there, err);
    tokens_free(&whole);
    text_free(&bytes);
    free(spans);
    return st;
}

// --- ids as symbols -----------------------------------------------------------------------------

Status flatten(const Tokenizer *tok, const int32_t *ids, size_t n, Prefix prefix, Arena *arena,
               Flat *out, Error *err) {
    const bool any = tokenizer_adds_space_prefix(tok) && prefix != PREFIX_NONE;
    const bool later = any && prefix != PREFIX_ONLY_FIRST;
    bool drop = any && prefix != PREFIX_NOT_FIRST, ok = true;  // a space is due that was put there
    Text piece = {0};
    size_t most = 0, cap;
    for (size_t i = 0; i < n; i++) most += 1 + (size_t)tokenizer_token_text(tok, ids[i]).len;
    cap = most;
    out->symbol = arena_alloc(arena, most + 1, sizeof *out->symbol);
    out->from = arena_alloc(arena, most + 1, sizeof *out->from);
    out->n = 0;
    if (!out->symbol || !out->from) return error_memory(err, "a prompt", most * sizeof *out->from);
    for (size_t i = 0; ok && i < n; i++) {
        const TokenKind kind = tokenizer_token_kind(tok, ids[i]);
        if (kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN) {
            out->symbol[out->n] = SYMBOL_SPECIAL + ids[i];
            out->from[out->n++] = i;
            drop = later && kind == TOKEN_CONTROL;
            continue;
        }
        piece.len = 0;
        ok = tokenizer_piece(tok, ids[i], DECODE_SPECIAL, &piece);
        const bool word = kind != TOKEN_BYTE && kind != TOKEN_USER;
        size_t at = drop && word && ok && piece.len && piece.data[0] == ' ';
        for (; ok && at < piece.len && out->n < cap; at++) {
            out->symbol[out->n] = (uint8_t)piece.data[at];
            out->from[out->n++] = i;
        }
        drop = later && kind == TOKEN_USER;
    }
    text_free(&piece);
    return ok ? OK : error_memory(err, "a prompt", most);
}
