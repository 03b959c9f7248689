// Inside of the tokenizers: the vocabulary as loaded, and what its files lend each other.
//
// tokenizer_vocab.c fills it from a GGUF, tokenizer.c cuts a text at special tokens and decodes,
// tokenizer_spm.c and tokenizer_bpe.c turn the text between two special tokens into ids with the
// merge loop of tokenizer_merge.c, pretokenize.c cuts text into the words that BPE merges within.
#ifndef PLUMB_MODEL_TOKENIZER_INTERNAL_H
#define PLUMB_MODEL_TOKENIZER_INTERNAL_H

#include "base/arena.h"
#include "model/tokenizer.h"

enum {
    TOKEN_ENDS = 1,           // ends an answer
    TOKEN_RSTRIP = 2,         // swallows the white space that follows it in a text
    SPECIAL_MAX_BYTES = 512,  // longer special tokens are not searched for: bounds the search
    TOKENIZER_MAX_VOCAB = 1 << 24,
};

typedef struct {
    uint32_t hash;
    int32_t id;  // -1: empty
} VocabSlot;

typedef struct {
    uint64_t pair;  // left id << 32 | right id
    uint32_t rank;
    int32_t merged;  // -1: empty
} MergeSlot;

typedef struct PreTokenizer PreTokenizer;

struct Tokenizer {
    Arena arena;  // everything below that is allocated
    const GgufStr *texts;
    int32_t n_vocab;
    bool spm;
    uint8_t *kinds, *flags;
    float *scores;  // NULL: none
    VocabSlot *slots;
    uint64_t n_slots, seed;
    uint64_t max_bytes;  // of the longest token that text can become
    int32_t bos, eos, unk;
    bool adds_bos, adds_eos, space_prefix;
    int32_t byte_ids[256];  // SPM: <0xNN>; BPE: the byte's letter of the alphabet; -1: none
    // Special tokens sorted by text; those that start with byte c are special[first[c]..first[c +
    // 1]).
    int32_t *special;
    uint32_t first[257];
    bool words_apart;  // SPM: no token has a space after another character, so words merge apart
    // Byte-level BPE only.
    MergeSlot *merges;
    uint64_t n_merge_slots;
    bool ignore_merges;  // a word that is a token is taken whole
    PreTokenizer *pre;
    const char *pre_name;
};

// One symbol of a text under merge; a merged-away one has len 0.
typedef struct {
    uint32_t prev, next;  // SYMBOL_NONE at the ends
    uint32_t at, len;     // bytes of the text
    int32_t id;           // -1: not a token
} Symbol;

#define SYMBOL_NONE UINT32_MAX

typedef struct {
    uint64_t key;  // priority << 32 | index of the left symbol: the least is merged first
    uint32_t right, len;
    int32_t merged;
} MergeItem;

// Memory of one encode call, reused from word to word. Zero-initialised it is empty.
typedef struct {
    Symbol *symbols;
    MergeItem *heap;
    uint32_t n_symbols, n_heap;
    size_t cap;
    Text text;     // the text as the vocabulary spells it
    size_t *ends;  // words of a text: where each ends
    size_t n_ends, cap_ends;
    size_t *ends2;  // the list that the next pattern makes
    size_t cap_ends2;
    void *match;  // PCRE2's, made when first needed
} EncodeSpace;

void encode_space_free(EncodeSpace *s);
bool encode_space_symbols(EncodeSpace *s, size_t n);  // room for n; false: no memory

// Does the pair merge? Fills priority (lower goes first) and the merged token.
typedef bool (*PairFn)(const Tokenizer *t, const char *text, const Symbol *left,
                       const Symbol *right, uint32_t *priority, int32_t *merged);
// Merges space->symbols[0..n_symbols), linked in order, until no pair merges: O(n log n).
// The first symbol stays index 0; the rest follow by next.
void merge_symbols(const Tokenizer *t, EncodeSpace *s, const char *text, PairFn pair);

// Loads everything of t but the merges and pre-tokenizer of BPE.
Status vocab_load(Tokenizer *t, const Gguf *g, Notice notice, Error *err);
// The lowest id whose stored text this is; `plain` leaves out tokens that text never becomes
// (control, unknown, byte).
int32_t vocab_find(const Tokenizer *t, const char *text, size_t len, bool plain);
static inline bool kind_is_plain(unsigned kind) {
    return kind == TOKEN_NORMAL || kind == TOKEN_USER || kind == TOKEN_UNUSED;
}
// "<0x0A>": 10; -1 for every other text.
int byte_token_value(GgufStr s);

// Ids of one stretch of text without special tokens; `prefix`: a space goes before it.
Status spm_encode(const Tokenizer *t, EncodeSpace *s, const char *text, size_t len, bool prefix,
                  TokenList *out, Error *err);

bool spm_words_are_apart(const Tokenizer *t);

Status bpe_load(Tokenizer *t, const Gguf *g, Notice notice, Error *err);
Status bpe_encode(const Tokenizer *t, EncodeSpace *s, const char *text, size_t len, TokenList *out,
                  Error *err);
// Appends what a stored byte-level token stands for.
bool bpe_decode(GgufStr token, Text *out);

// The pre-tokenizer that a file names; ERR_UNAVAILABLE in a build without PCRE2.
// *used gets the name in use, *ignore_merges and *adds_bos what comes with that name.
Status pretokenizer_new(const Gguf *g, const char *name, size_t len, Notice notice,
                        PreTokenizer **out, const char **used, bool *ignore_merges, bool *adds_bos,
                        Error *err);
void pretokenizer_free(PreTokenizer *p);
// Words of valid UTF-8 `text`: s->ends[0..n_ends), the last one is len.
Status pretokenize(const PreTokenizer *p, EncodeSpace *s, const char *text, size_t len, Error *err);
void pretokenize_match_free(void *match);

#endif
