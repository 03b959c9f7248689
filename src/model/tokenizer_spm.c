// SentencePiece-type BPE ("llama"): characters merge into pieces, the highest score first.
//
// This room owns: spelling text in pieces (a space is U+2581), the pairs' priorities, and what
// becomes of a character that is no piece (its bytes, or the unknown token).
// It leaves to others: special tokens (tokenizer.c) and the merge loop (tokenizer_merge.c).
// Source: SentencePiece (Kudo & Richardson 2018), its BPE model; a literal U+2581 in the text is
// there the same as a space, and so it is here.
#include <string.h>

#include "base/utf8.h"
#include "model/tokenizer_internal.h"

// Order of floats as unsigned integers, turned round: the higher the score, the lower the number.
static uint32_t score_priority(float score) {
    uint32_t bits;
    score += 0.0f;  // -0 is 0
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static bool spm_pair(const Tokenizer *t, const char *text, const Symbol *left, const Symbol *right,
                     uint32_t *priority, int32_t *merged) {
    uint32_t len = left->len + right->len;
    if (len > t->max_bytes) return false;
    *merged = vocab_find(t, text + left->at, len, true);
    if (*merged < 0) return false;
    *priority = score_priority(t->scores[*merged]);
    return true;
}

// A character that is no piece: its bytes if the vocabulary has them all, else the unknown token.
static bool append_bytes(const Tokenizer *t, const char *text, uint32_t len, TokenList *out) {
    for (uint32_t i = 0; i < len; i++) {
        if (t->byte_ids[(uint8_t)text[i]] < 0) return t->unk < 0 || tokens_append(out, t->unk);
    }
    for (uint32_t i = 0; i < len; i++) {
        if (!tokens_append(out, t->byte_ids[(uint8_t)text[i]])) return false;
    }
    return true;
}

static bool spell(Text *spelled, const char *text, size_t len, bool prefix) {
    spelled->len = 0;
    if (prefix && !text_append_str(spelled, "\xe2\x96\x81")) return false;
    while (len) {
        const char *space = memchr(text, ' ', len);
        size_t run = space ? (size_t)(space - text) : len;
        if (!text_append(spelled, text, run)) return false;
        if (space && !text_append_str(spelled, "\xe2\x96\x81")) return false;
        run += space != NULL;
        text += run, len -= run;
    }
    return true;
}

static bool is_space_piece(const char *s, size_t len) {
    return len >= 3 && memcmp(s, "\xe2\x96\x81", 3) == 0;
}

bool spm_words_are_apart(const Tokenizer *t) {
    for (int32_t id = 0; id < t->n_vocab; id++) {
        GgufStr s = t->texts[id];
        if (!kind_is_plain(t->kinds[id])) continue;
        for (uint64_t at = 1; at + 3 <= s.len; at++) {
            bool inside = is_space_piece(s.ptr + at, s.len - at);
            if (inside && (at < 3 || !is_space_piece(s.ptr + at - 3, 3))) return false;
        }
    }
    return true;
}

// Symbols of the characters from `at` on, of one word where words are apart; returns where they
// end.
static size_t load_symbols(const Tokenizer *t, EncodeSpace *s, size_t at) {
    const char *text = s->text.data;
    bool was_space = true;
    uint32_t n = 0;
    while (at < s->text.len) {
        size_t left = s->text.len - at, lead = utf8_char_bytes((unsigned char)text[at]);
        // A byte that starts no whole character stands alone and becomes a byte token.
        bool whole = lead && lead <= left && utf8_valid(text + at, lead);
        uint32_t bytes = whole ? (uint32_t)lead : 1;
        bool space = is_space_piece(text + at, left);
        if (t->words_apart && space && !was_space) break;
        was_space = space;
        s->symbols[n] = (Symbol){.prev = n - 1, .next = n + 1, .at = (uint32_t)at, .len = bytes};
        s->symbols[n++].id = whole ? vocab_find(t, text + at, bytes, true) : -1;
        at += bytes;
    }
    s->symbols[0].prev = s->symbols[n - 1].next = SYMBOL_NONE;
    s->n_symbols = n;
    return at;
}

Status spm_encode(const Tokenizer *t, EncodeSpace *s, const char *text, size_t len, bool prefix,
                  TokenList *out, Error *err) {
    if (!spell(&s->text, text, len, prefix)) return error_memory(err, "a text", 3 * len);
    if (!encode_space_symbols(s, s->text.len)) {
        return error_memory(err, "tokenizing a text", s->text.len * sizeof(Symbol));
    }
    const char *spelled = s->text.data;
    for (size_t at = 0; at < s->text.len;) {
        at = load_symbols(t, s, at);
        merge_symbols(t, s, spelled, spm_pair);
        for (uint32_t i = 0; i != SYMBOL_NONE; i = s->symbols[i].next) {
            const Symbol *y = &s->symbols[i];
            bool ok = y->id >= 0 ? tokens_append(out, y->id)
                                 : append_bytes(t, spelled + y->at, y->len, out);
            if (!ok) return error_memory(err, "token ids", out->len * sizeof *out->data);
        }
    }
    return OK;
}
