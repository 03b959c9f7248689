// Byte-level BPE ("gpt2"): the bytes of a word merge into tokens, the earliest merge first.
//
// This room owns: the byte alphabet, the table of merges, ids of words.
// It leaves to others: cutting a text into words (pretokenize.c), special tokens (tokenizer.c), the
// merge loop (tokenizer_merge.c).
// Source: GPT-2 (Radford et al. 2019). Its alphabet writes each byte as one printable character:
//
//   bytes 21..7e, a1..ac, ae..ff    themselves, as U+0021 ..
//   the other 68, in order          U+0100, U+0101, .. U+0143   (so a space is U+0120)
#include <string.h>

#include "base/utf8.h"
#include "model/tokenizer_internal.h"

static bool is_own_letter(unsigned byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
}

// The other bytes are 00..20, 7f..a0 and ad.
static unsigned byte_to_letter(unsigned byte) {
    if (is_own_letter(byte)) return byte;
    if (byte <= 0x20) return 0x100 + byte;
    return byte == 0xad ? 0x143 : 0x121 + (byte - 0x7f);
}

static int letter_to_byte(unsigned letter) {
    if (letter < 0x100) return is_own_letter(letter) ? (int)letter : -1;
    if (letter <= 0x120) return (int)letter - 0x100;
    if (letter <= 0x142) return (int)letter - 0x121 + 0x7f;
    return letter == 0x143 ? 0xad : -1;
}

bool bpe_decode(GgufStr token, Text *out) {
    const uint8_t *s = (const uint8_t *)token.ptr;
    if (!text_reserve(out, token.len)) return false;
    for (uint64_t i = 0; i < token.len; i++) {
        // Letters have one or two bytes in UTF-8; whatever is no letter stands for itself.
        bool two = s[i] >= 0xc2 && s[i] <= 0xc5 && i + 1 < token.len && (s[i + 1] & 0xc0) == 0x80;
        int byte = two ? letter_to_byte((s[i] & 0x1fu) << 6 | (s[i + 1] & 0x3fu)) : -1;
        out->data[out->len++] = (char)(byte >= 0 ? byte : s[i]);
        i += byte >= 0;
    }
    out->data[out->len] = 0;
    return true;
}

static MergeSlot *merge_slot(const Tokenizer *t, uint64_t pair) {
    uint64_t h = (pair ^ t->seed) * 0x9fb21c651e98df25u;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    for (uint64_t i = h >> 32;; i++) {
        MergeSlot *slot = &t->merges[i & (t->n_merge_slots - 1)];
        if (slot->merged < 0 || slot->pair == pair) return slot;
    }
}

static bool bpe_pair(const Tokenizer *t, const char *text, const Symbol *left, const Symbol *right,
                     uint32_t *priority, int32_t *merged) {
    (void)text;
    if (left->id < 0 || right->id < 0) return false;
    const MergeSlot *slot = merge_slot(t, (uint64_t)left->id << 32 | (uint32_t)right->id);
    if (slot->merged < 0) return false;
    *priority = slot->rank, *merged = slot->merged;
    return true;
}

// "a b": the space is the only one; *cut gets its place.
static bool merge_is_well_formed(GgufStr s, uint64_t *cut) {
    const char *space = s.len >= 3 ? memchr(s.ptr, ' ', s.len) : NULL;
    if (!space) return false;
    *cut = (uint64_t)(space - s.ptr);
    return *cut > 0 && *cut + 1 < s.len && !memchr(space + 1, ' ', s.len - *cut - 1);
}

// Ids of both halves and of the whole; false if one is not in the vocabulary.
static bool merge_ids(const Tokenizer *t, GgufStr s, uint64_t cut, Text *joined, MergeSlot *out) {
    int32_t left = vocab_find(t, s.ptr, cut, true);
    int32_t right = vocab_find(t, s.ptr + cut + 1, s.len - cut - 1, true);
    if (left < 0 || right < 0) return false;
    memcpy(joined->data, s.ptr, cut);
    memcpy(joined->data + cut, s.ptr + cut + 1, s.len - cut - 1);
    out->merged = vocab_find(t, joined->data, s.len - 1, true);
    out->pair = (uint64_t)left << 32 | (uint32_t)right;
    return out->merged >= 0;
}

static Status load_merges(Tokenizer *t, const Gguf *g, Notice notice, Error *err) {
    static const char key[] = "tokenizer.ggml.merges";
    const GgufValue *v;
    Status st = gguf_get_array(g, key, GGUF_STR, &v, NULL, err);
    if (st != OK) return st;
    if (v->n == 0 || v->n > UINT32_MAX / 4) {
        return error_set(err, ERR_FILE,
                         "%s: %s: %llu merges, expected some (convert the model again)",
                         gguf_path(g), key, (unsigned long long)v->n);
    }
    uint64_t n_slots = 16, longest = 0, cut = 0, n_unknown = 0;
    while (n_slots < 2 * v->n) n_slots *= 2;
    t->merges = arena_alloc(&t->arena, n_slots, sizeof *t->merges);
    if (!t->merges) return error_memory(err, "merges", n_slots * sizeof *t->merges);
    t->n_merge_slots = n_slots;
    for (uint64_t i = 0; i < n_slots; i++) t->merges[i].merged = -1;
    for (uint64_t i = 0; i < v->n; i++) {
        if (!merge_is_well_formed(v->strs[i], &cut)) {
            char text[64];
            printable(v->strs[i].ptr, v->strs[i].len, text, sizeof text);
            return error_set(err, ERR_FILE,
                             "%s: %s: merge %llu is '%s', expected two tokens with a space between",
                             gguf_path(g), key, (unsigned long long)i, text);
        }
        if (v->strs[i].len > longest) longest = v->strs[i].len;
    }
    Text joined = {0};
    if (!text_reserve(&joined, longest)) return error_memory(err, "a merge", longest);
    for (uint64_t i = 0; i < v->n; i++) {
        MergeSlot row = {.rank = (uint32_t)i};
        merge_is_well_formed(v->strs[i], &cut);
        if (!merge_ids(t, v->strs[i], cut, &joined, &row)) {
            n_unknown++;
            continue;
        }
        MergeSlot *slot = merge_slot(t, row.pair);
        if (slot->merged < 0) *slot = row;  // of equal merges the first counts
    }
    text_free(&joined);
    if (n_unknown) {
        notice_say(notice,
                   "%s: %s: %llu of %llu merges are of tokens that the vocabulary lacks: ignored",
                   gguf_path(g), key, (unsigned long long)n_unknown, (unsigned long long)v->n);
    }
    return OK;
}

static void load_letters(Tokenizer *t, const Gguf *g, Notice notice) {
    int n_missing = 0;
    for (unsigned b = 0; b < 256; b++) {
        char letter[4];
        size_t len = utf8_put(byte_to_letter(b), letter);
        t->byte_ids[b] = vocab_find(t, letter, len, true);
        // Bytes c0, c1 and f5..ff are in no UTF-8 text; vocabularies may lack them.
        if (t->byte_ids[b] < 0 && b != 0xc0 && b != 0xc1 && b < 0xf5) n_missing++;
    }
    if (n_missing) {
        notice_say(notice,
                   "%s: tokenizer.ggml.tokens: %d bytes have no token: text with them loses them",
                   gguf_path(g), n_missing);
    }
}

Status bpe_load(Tokenizer *t, const Gguf *g, Notice notice, Error *err) {
    GgufStr pre = {"", 0};
    bool found, adds_bos = false;
    Status st = gguf_get_str(g, "tokenizer.ggml.pre", &pre, &found, err);
    if (st == OK) st = load_merges(t, g, notice, err);
    if (st == OK) {
        st = pretokenizer_new(g, found ? pre.ptr : NULL, pre.len, notice, &t->pre, &t->pre_name,
                              &t->ignore_merges, &adds_bos, err);
    }
    if (st != OK) return st;
    if (!gguf_find(g, "tokenizer.ggml.add_bos_token")) t->adds_bos = adds_bos;
    load_letters(t, g, notice);
    return OK;
}

// The token that a whole word is, -1 for none.
static int32_t whole_word(const Tokenizer *t, EncodeSpace *s, const char *word, size_t len) {
    if (len > t->max_bytes) return -1;
    s->text.len = 0;
    for (size_t i = 0; i < len; i++) {
        char letter[4];
        size_t n = utf8_put(byte_to_letter((uint8_t)word[i]), letter);
        memcpy(s->text.data + s->text.len, letter, n);
        s->text.len += n;
    }
    return vocab_find(t, s->text.data, s->text.len, true);
}

static Status encode_word(const Tokenizer *t, EncodeSpace *s, const char *word, size_t len,
                          TokenList *out, Error *err) {
    int32_t id = t->ignore_merges ? whole_word(t, s, word, len) : -1;
    if (id >= 0) {
        return tokens_append(out, id) ? OK : error_memory(err, "token ids", sizeof(int32_t));
    }
    if (!encode_space_symbols(s, len)) {
        return error_memory(err, "tokenizing a text", len * sizeof(Symbol));
    }
    for (uint32_t i = 0; i < len; i++) {
        s->symbols[i] = (Symbol){i - 1, i + 1, i, 1, t->byte_ids[(uint8_t)word[i]]};
    }
    s->symbols[0].prev = s->symbols[len - 1].next = SYMBOL_NONE;
    s->n_symbols = (uint32_t)len;
    merge_symbols(t, s, word, bpe_pair);
    for (uint32_t i = 0; i != SYMBOL_NONE; i = s->symbols[i].next) {
        int32_t piece = s->symbols[i].id >= 0 ? s->symbols[i].id : t->unk;
        if (piece >= 0 && !tokens_append(out, piece)) {
            return error_memory(err, "token ids", out->len * sizeof *out->data);
        }
    }
    return OK;
}

Status bpe_encode(const Tokenizer *t, EncodeSpace *s, const char *text, size_t len, TokenList *out,
                  Error *err) {
    // A letter has two bytes at most; only words up to the longest token are spelled out.
    if (!text_reserve(&s->text, 2 * (size_t)t->max_bytes)) {
        return error_memory(err, "a word", 2 * t->max_bytes);
    }
    while (len) {
        size_t valid = utf8_valid_prefix(text, len);
        Status st = valid ? pretokenize(t->pre, s, text, valid, err) : OK;
        for (size_t i = 0, at = 0; st == OK && valid && i < s->n_ends; at = s->ends[i++]) {
            st = encode_word(t, s, text + at, s->ends[i] - at, out, err);
        }
        // A byte that is not UTF-8 is a word of its own.
        if (st == OK && valid < len) st = encode_word(t, s, text + valid, 1, out, err);
        if (st != OK) return st;
        valid += valid < len;
        text += valid, len -= valid;
    }
    return OK;
}
