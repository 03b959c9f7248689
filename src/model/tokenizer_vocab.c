// The vocabulary: texts, kinds and scores from tokenizer.ggml.*, a hash from text to id, the
// special tokens and their ids.
//
// This room owns: every check of the vocabulary's arrays and ids, the hash, the sorted list of
// special tokens. It leaves to others: merges and pre-tokenizers (tokenizer_bpe.c), texts to ids.
// Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "Tokenizer".
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/tokenizer_internal.h"

#define KEY(name) "tokenizer.ggml." name

static bool str_is(GgufStr s, const char *text) {
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

int byte_token_value(GgufStr s) {
    int value = 0;
    if (s.len != 6 || memcmp(s.ptr, "<0x", 3) != 0 || s.ptr[5] != '>') return -1;
    for (int i = 3; i < 5; i++) {
        const char *digits = "0123456789ABCDEF", *d;
        char c = s.ptr[i];
        if (c >= 'a' && c <= 'f') c = (char)(c - 'a' + 'A');
        if (c == 0 || !(d = strchr(digits, c))) return -1;
        value = value * 16 + (int)(d - digits);
    }
    return value;
}

// Keyed by a number of this process, so that no file can be made whose tokens all collide.
static uint64_t hash_text(uint64_t seed, const char *s, size_t len) {
    const uint64_t k = 0x9fb21c651e98df25u;
    uint64_t h = seed ^ len * k, w;
    for (; len >= 8; s += 8, len -= 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * k;
        h ^= h >> 29 ^ seed >> 7;
    }
    w = 0;
    if (len) memcpy(&w, s, len);
    h = (h ^ w) * k;
    return h ^ h >> 32;
}

int32_t vocab_find(const Tokenizer *t, const char *text, size_t len, bool plain) {
    if (len == 0) return -1;
    uint64_t h = hash_text(t->seed, text, len);
    for (uint64_t i = h & (t->n_slots - 1);; i = (i + 1) & (t->n_slots - 1)) {
        VocabSlot slot = t->slots[i];
        if (slot.id < 0) return -1;
        if (slot.hash != (uint32_t)(h >> 32)) continue;
        const GgufStr *s = &t->texts[slot.id];
        if (s->len == len && memcmp(s->ptr, text, len) == 0 &&
            (!plain || kind_is_plain(t->kinds[slot.id]))) {
            return slot.id;
        }
    }
}

// Of tokens with the same text the lowest id is kept, one plain and one not at most: files full of
// one and the same token stay cheap.
static Status build_hash(Tokenizer *t, Error *err) {
    uint64_t n = 16;
    while (n < 2 * (uint64_t)t->n_vocab) n *= 2;
    t->slots = arena_alloc(&t->arena, n, sizeof *t->slots);
    if (!t->slots) return error_memory(err, "the vocabulary's hash", n * sizeof *t->slots);
    t->n_slots = n;
    t->seed = (uint64_t)(uintptr_t)t * 0xd6e8feb86659fd93u;
    double now = clock_seconds();
    uint64_t bits;
    memcpy(&bits, &now, sizeof bits);
    t->seed ^= bits * 0xa0761d6478bd642fu;
    for (uint64_t i = 0; i < n; i++) t->slots[i].id = -1;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        GgufStr s = t->texts[id];
        if (s.len == 0) continue;
        bool plain = kind_is_plain(t->kinds[id]);
        uint64_t h = hash_text(t->seed, s.ptr, s.len), i = h & (n - 1);
        for (; t->slots[i].id >= 0; i = (i + 1) & (n - 1)) {
            if (t->slots[i].hash != (uint32_t)(h >> 32)) continue;
            GgufStr other = t->texts[t->slots[i].id];
            if (other.len == s.len && memcmp(other.ptr, s.ptr, s.len) == 0 &&
                kind_is_plain(t->kinds[t->slots[i].id]) == plain) {
                break;
            }
        }
        if (t->slots[i].id < 0) t->slots[i] = (VocabSlot){(uint32_t)(h >> 32), id};
        if (plain && s.len > t->max_bytes) t->max_bytes = s.len;
    }
    return OK;
}

static Status load_texts(Tokenizer *t, const Gguf *g, Error *err) {
    const GgufValue *v;
    Status st = gguf_get_array(g, KEY("tokens"), GGUF_STR, &v, NULL, err);
    if (st != OK) return st;
    if (v->n == 0 || v->n > TOKENIZER_MAX_VOCAB) {
        return error_set(
            err, ERR_FILE,
            "%s: " KEY("tokens") ": %llu tokens, expected 1 to %d (is the file damaged?)",
            gguf_path(g), (unsigned long long)v->n, TOKENIZER_MAX_VOCAB);
    }
    t->n_vocab = (int32_t)v->n;
    t->texts = v->strs;
    t->kinds = arena_alloc(&t->arena, v->n, 1);
    t->flags = arena_alloc(&t->arena, v->n, 1);
    if (!t->kinds || !t->flags) return error_memory(err, "the vocabulary", 2 * v->n);
    return OK;
}

// An array of the vocabulary's length, of one of two element types; *out = NULL where it is absent.
static Status per_token_array(const Tokenizer *t, const Gguf *g, const char *key, GgufType type,
                              GgufType other, const GgufValue **out, Error *err) {
    const GgufValue *v = gguf_find(g, key);
    *out = NULL;
    if (!v) return OK;
    if (v->type != GGUF_ARRAY || (v->elem_type != type && v->elem_type != other)) {
        bool array = v->type == GGUF_ARRAY;
        return error_set(err, ERR_FILE, "%s: %s: expected an array of %s, found %s%s", gguf_path(g),
                         key, gguf_type_name(type), array ? "an array of " : "",
                         gguf_type_name(array ? v->elem_type : v->type));
    }
    if (v->n < (uint64_t)t->n_vocab) {
        return error_set(err, ERR_FILE,
                         "%s: %s: %llu elements for %d tokens (was the file converted badly?)",
                         gguf_path(g), key, (unsigned long long)v->n, t->n_vocab);
    }
    *out = v;
    return OK;
}

static Status load_scores(Tokenizer *t, const Gguf *g, Error *err) {
    const GgufValue *v;
    Status st = per_token_array(t, g, KEY("scores"), GGUF_F32, GGUF_I32, &v, err);
    if (st != OK) return st;
    if (!v && t->spm) {
        return error_set(err, ERR_FILE,
                         "%s: " KEY("scores") ": absent, but a SentencePiece vocabulary merges by "
                         "score (convert the model again)", gguf_path(g));
    }
    if (!v) return OK;
    t->scores = arena_alloc(&t->arena, (size_t)t->n_vocab, sizeof *t->scores);
    if (!t->scores) return error_memory(err, "scores", (size_t)t->n_vocab * sizeof *t->scores);
    for (int32_t id = 0; id < t->n_vocab; id++) {
        t->scores[id] = (float)gguf_elem_f64(v, (uint64_t)id);
        if (isnan(t->scores[id])) {
            return error_set(err, ERR_FILE, "%s: " KEY("scores") ": token %d has the score NaN",
                             gguf_path(g), id);
        }
    }
    return OK;
}

// Ids that a file gives under `key`; -1 (in any width) stands for none. *id keeps its value where
// the key is absent.
static Status load_id(const Tokenizer *t, const Gguf *g, const char *key, int32_t *id, Error *err) {
    const GgufValue *v = gguf_find(g, key);
    if (!v) return OK;
    bool is_signed =
        v->type == GGUF_I8 || v->type == GGUF_I16 || v->type == GGUF_I32 || v->type == GGUF_I64;
    uint32_t value = UINT32_MAX;
    if (!is_signed || gguf_elem_i64(v, 0) != -1) {
        Status st = gguf_get_u32(g, key, &value, NULL, err);
        if (st != OK) return st;
    }
    *id = value < (uint32_t)t->n_vocab ? (int32_t)value : -1;
    if (*id < 0 && value != UINT32_MAX) {
        return error_set(err, ERR_FILE, "%s: %s: token %u, but the vocabulary has %d tokens",
                         gguf_path(g), key, value, t->n_vocab);
    }
    return OK;
}

// Without token types: bytes are known by their text, bos, eos and unk by their ids.
static void guess_kinds(Tokenizer *t) {
    for (int32_t id = 0; id < t->n_vocab; id++) {
        bool byte = t->spm && byte_token_value(t->texts[id]) >= 0;
        t->kinds[id] = byte ? TOKEN_BYTE : TOKEN_NORMAL;
    }
    if (t->unk >= 0) t->kinds[t->unk] = TOKEN_UNKNOWN;
    if (t->bos >= 0) t->kinds[t->bos] = TOKEN_CONTROL;
    if (t->eos >= 0) t->kinds[t->eos] = TOKEN_CONTROL;
}

static Status load_kinds(Tokenizer *t, const Gguf *g, Error *err) {
    const GgufValue *v;
    Status st = per_token_array(t, g, KEY("token_type"), GGUF_I32, GGUF_U32, &v, err);
    if (st != OK) return st;
    if (!v) return guess_kinds(t), OK;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        int64_t kind = gguf_elem_i64(v, (uint64_t)id);
        if (kind < 0 || kind > TOKEN_BYTE) {
            return error_set(err, ERR_FILE,
                             "%s: " KEY("token_type") ": token %d has type %lld, expected 1 to 6",
                             gguf_path(g), id, (long long)kind);
        }
        t->kinds[id] = kind == 0 ? TOKEN_NORMAL : (uint8_t)kind;  // 0: "undefined"
        if (kind == TOKEN_BYTE && byte_token_value(t->texts[id]) < 0) {
            char text[64];
            printable(t->texts[id].ptr, t->texts[id].len, text, sizeof text);
            return error_set(err, ERR_FILE,
                             "%s: " KEY("tokens") ": token %d is a byte token but reads '%s', "
                             "expected <0x00> to <0xFF>", gguf_path(g), id, text);
        }
    }
    return OK;
}

static Status check_bytes(Tokenizer *t, const Gguf *g, Error *err) {
    for (int b = 0; b < 256; b++) t->byte_ids[b] = -1;
    if (!t->spm) return OK;  // tokenizer_bpe.c fills them
    int found = 0;
    for (int32_t id = t->n_vocab - 1; id >= 0; id--) {  // backwards: the lowest id stays
        int b = t->kinds[id] == TOKEN_BYTE ? byte_token_value(t->texts[id]) : -1;
        if (b < 0) continue;
        found += t->byte_ids[b] < 0;
        t->byte_ids[b] = id;
    }
    if (found < 256 && t->unk < 0) {
        return error_set(err, ERR_FILE,
                         "%s: " KEY("tokens") ": %d of 256 byte tokens and no unknown token: "
                         "there is text that this vocabulary cannot spell",
                         gguf_path(g), found);
    }
    return OK;
}

// Tokens that end an answer, known by their text; files seldom name more than one by id.
static bool is_end_text(GgufStr s) {
    static const char *const ends[] = {"</s>",
                                       "<|eot_id|>",
                                       "<|eom_id|>",
                                       "<|eot|>",
                                       "<|eom|>",
                                       "<|im_end|>",
                                       "<|end|>",
                                       "<|return|>",
                                       "<|call|>",
                                       "<|flush|>",
                                       "<|calls|>",
                                       "<end_of_turn>",
                                       "<|end_of_turn|>",
                                       "<|END_OF_TURN_TOKEN|>",
                                       "<|endoftext|>",
                                       "<|end_of_text|>",
                                       "<EOT>",
                                       "_<EOT>",
                                       "[EOT]",
                                       "<|EOT|>",
                                       "[EOS]",
                                       "<eos>",
                                       "<end_of_utterance>",
                                       "[|endofturn|]",
                                       "<turn|>",
                                       "<｜end▁of▁sentence｜>",
                                       "[e~["};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (str_is(s, ends[i])) return true;
    }
    return false;
}

// A token that ends an answer must not be something that a user can type, so that a user-defined
// one becomes a control token. Of these texts "<|end|>" ends a message, not the answer, where the
// vocabulary has "<|return|>" and "<|call|>" too (the harmony format).
static Status mark_ends(Tokenizer *t, const Gguf *g, Error *err) {
    static const char *const keys[] = {KEY("eot_token_id"), KEY("eom_token_id")};
    for (int32_t id = 0; id < t->n_vocab; id++) {
        uint8_t kind = t->kinds[id];
        if ((kind == TOKEN_CONTROL || kind == TOKEN_USER) && is_end_text(t->texts[id])) {
            t->kinds[id] = TOKEN_CONTROL;
            t->flags[id] |= TOKEN_ENDS;
        }
    }
    if (t->eos >= 0) t->flags[t->eos] |= TOKEN_ENDS;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int32_t id = -1;
        Status st = load_id(t, g, keys[i], &id, err);
        if (st != OK) return st;
        if (id >= 0) t->flags[id] |= TOKEN_ENDS;
    }
    return OK;
}

static void unmark_harmony_end(Tokenizer *t) {
    int32_t end = tokenizer_find(t, "<|end|>", 7), ret = tokenizer_find(t, "<|return|>", 10);
    int32_t call = tokenizer_find(t, "<|call|>", 8);
    if (end < 0 || ret < 0 || call < 0 || end == t->eos) return;
    if (t->flags[ret] & t->flags[call] & TOKEN_ENDS) t->flags[end] &= (uint8_t)~TOKEN_ENDS;
}

// Phi-3's special tokens swallow the white space after them ("rstrip" in its tokenizer.json, which
// GGUF does not carry): known by the model's name, as llama.cpp does.
static Status mark_rstrip(Tokenizer *t, const Gguf *g, Error *err) {
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    GgufStr name = {0};
    bool found = false, phi3 = false;
    Status st = gguf_get_str(g, "general.name", &name, &found, err);
    if (st != OK || !found || !t->spm) return st;
    for (uint64_t i = 0; i + 4 <= name.len && !phi3; i++) {
        const char *p = name.ptr + i;
        if ((p[0] | 32) != 'p' || (p[1] | 32) != 'h' || (p[2] | 32) != 'i') continue;
        phi3 = p[3] == '3' || (p[3] == '-' && i + 5 <= name.len && p[4] == '3');
    }
    for (int32_t id = 0; phi3 && id < t->n_vocab; id++) {
        uint8_t kind = t->kinds[id];
        bool strip = kind == TOKEN_CONTROL || kind == TOKEN_USER;
        for (int i = 0; i < 3; i++) strip = strip && !str_is(t->texts[id], keep[i]);
        if (strip) t->flags[id] |= TOKEN_RSTRIP;
    }
    return OK;
}

typedef struct {
    GgufStr text;
    int32_t id;
    bool user;
} SpecialRow;

static int compare_special(const void *a, const void *b) {
    const SpecialRow *x = a, *y = b;
    size_t n = x->text.len < y->text.len ? x->text.len : y->text.len;
    int c = memcmp(x->text.ptr, y->text.ptr, n);
    if (c) return c;
    if (x->text.len != y->text.len) return x->text.len < y->text.len ? -1 : 1;
    if (x->user != y->user) return x->user ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static Status sort_specials(Tokenizer *t, Notice notice, Error *err) {
    size_t n = 0, n_kept = 0;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        uint8_t kind = t->kinds[id];
        n += kind == TOKEN_CONTROL || kind == TOKEN_USER || kind == TOKEN_UNKNOWN;
    }
    SpecialRow *rows = calloc(n ? n : 1, sizeof *rows);
    t->special = arena_alloc(&t->arena, n ? n : 1, sizeof *t->special);
    if (!rows || !t->special) {
        free(rows);
        return error_memory(err, "special tokens", n * sizeof *rows);
    }
    n = 0;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        uint8_t kind = t->kinds[id];
        if (kind != TOKEN_CONTROL && kind != TOKEN_USER && kind != TOKEN_UNKNOWN) continue;
        if (t->texts[id].len > SPECIAL_MAX_BYTES) {
            notice_say(notice, "special token %d has %llu bytes: it is not searched for in texts",
                       id, (unsigned long long)t->texts[id].len);
        } else if (t->texts[id].len) {
            rows[n++] = (SpecialRow){t->texts[id], id, kind == TOKEN_USER};
        }
    }
    qsort(rows, n, sizeof *rows, compare_special);
    for (size_t i = 0; i < n; i++) {
        bool again = i > 0 && rows[i].user == rows[i - 1].user &&
                     rows[i].text.len == rows[i - 1].text.len &&
                     memcmp(rows[i].text.ptr, rows[i - 1].text.ptr, rows[i].text.len) == 0;
        if (again) continue;
        t->special[n_kept++] = rows[i].id;
        t->first[(uint8_t)rows[i].text.ptr[0] + 1] = (uint32_t)n_kept;
    }
    for (int c = 1; c <= 256; c++) {
        if (t->first[c] < t->first[c - 1]) t->first[c] = t->first[c - 1];
    }
    free(rows);
    return OK;
}

static Status load_ids(Tokenizer *t, const Gguf *g, Notice notice, Error *err) {
    static const char *const unused[] = {KEY("padding_token_id"), KEY("seperator_token_id"),
                                         KEY("separator_token_id"), KEY("cls_token_id"),
                                         KEY("mask_token_id")};
    // SentencePiece's own defaults, for files that name no ids.
    bool spm = t->spm;
    t->unk = spm ? 0 : -1;
    t->bos = spm && t->n_vocab > 1 ? 1 : -1;
    t->eos = spm && t->n_vocab > 2 ? 2 : -1;
    Status st = load_id(t, g, KEY("bos_token_id"), &t->bos, err);
    if (st == OK) st = load_id(t, g, KEY("eos_token_id"), &t->eos, err);
    if (st == OK) st = load_id(t, g, KEY("unknown_token_id"), &t->unk, err);
    for (size_t i = 0; st == OK && i < sizeof unused / sizeof *unused; i++) {
        Error why = {OK, ""};
        int32_t id = -1;
        if (load_id(t, g, unused[i], &id, &why) != OK) notice_say(notice, "%s (ignored)", why.text);
    }
    return st;
}

static Status load_switches(Tokenizer *t, const Gguf *g, Notice notice, Error *err) {
    bool squeeze = false, found;
    t->adds_bos = t->spm, t->space_prefix = t->spm;
    Status st = gguf_get_bool(g, KEY("add_bos_token"), &t->adds_bos, &found, err);
    if (st == OK) st = gguf_get_bool(g, KEY("add_eos_token"), &t->adds_eos, &found, err);
    if (st == OK) st = gguf_get_bool(g, KEY("add_space_prefix"), &t->space_prefix, &found, err);
    if (st == OK) st = gguf_get_bool(g, KEY("remove_extra_whitespaces"), &squeeze, &found, err);
    if (st == OK && squeeze) {
        notice_say(notice,
                   KEY("remove_extra_whitespaces") " is true, but no white space is removed");
    }
    t->space_prefix = t->space_prefix && t->spm;
    return st;
}

Status vocab_load(Tokenizer *t, const Gguf *g, Notice notice, Error *err) {
    GgufStr model;
    Status st = gguf_get_str(g, KEY("model"), &model, NULL, err);
    if (st != OK) return st;
    t->spm = str_is(model, "llama");
    if (!t->spm && !str_is(model, "gpt2")) {
        char name[64];
        return error_set(err, ERR_FILE,
                         "%s: " KEY("model") ": '%s' is not supported, only 'llama' (SentencePiece "
                         "BPE) and 'gpt2' (byte-level BPE) are", gguf_path(g),
                         printable(model.ptr, model.len, name, sizeof name));
    }
    if ((st = load_texts(t, g, err)) != OK) return st;
    if ((st = load_scores(t, g, err)) != OK) return st;
    if ((st = load_ids(t, g, notice, err)) != OK) return st;
    if ((st = load_kinds(t, g, err)) != OK) return st;
    if ((st = load_switches(t, g, notice, err)) != OK) return st;
    if ((st = check_bytes(t, g, err)) != OK) return st;
    if ((st = mark_ends(t, g, err)) != OK) return st;
    if ((st = mark_rstrip(t, g, err)) != OK) return st;
    if ((st = build_hash(t, err)) != OK) return st;
    unmark_harmony_end(t);
    return sort_specials(t, notice, err);
}
