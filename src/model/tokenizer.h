// Tokenizers: SentencePiece-type BPE ("llama") and byte-level BPE ("gpt2") from a GGUF vocabulary.
//
// This room owns: text to ids and ids to text, special tokens, pre-tokenizer patterns.
// It leaves to others: chat templates (chat_template.h), Unicode classes (PCRE2), UTF-8 bytes
// (base/utf8.h). Formats: GGUF's tokenizer.ggml.* keys; SentencePiece BPE merges by score (Kudo &
// Richardson 2018); byte-level BPE by merge rank (GPT-2, Radford et al. 2019). Cost: O(n log n) in
// the text.
#ifndef PLUMB_MODEL_TOKENIZER_H
#define PLUMB_MODEL_TOKENIZER_H

#include "base/checked.h"
#include "formats/gguf.h"

typedef struct Tokenizer Tokenizer;

typedef enum {  // tokenizer.ggml.token_type
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
} TokenKind;

// Works on vocabulary-only files. The Gguf must outlive the tokenizer. A notice is given for an
// unknown pre-tokenizer (the default, GPT-2's, is then used) and for ids in the file that make no
// sense but can be lived with. Bad vocabularies are ERR_FILE. A build without PCRE2 refuses "gpt2"
// vocabularies with ERR_UNAVAILABLE and says which package to install.
Status tokenizer_new(const Gguf *g, Notice notice, Tokenizer **out, Error *err);
void tokenizer_free(Tokenizer *t);

// One piece of a text. Special tokens (control and user-defined ones) are recognised only where
// `parse_special` is set and only when the whole token lies in one such piece.
// User-defined tokens (TOKEN_USER) are recognised everywhere, as in llama.cpp.
typedef struct {
    const char *text;
    size_t len;
    bool parse_special;
} TextSpan;

enum {
    ENCODE_NO_BOS = 1,    // do not add BOS even where the vocabulary says so
    ENCODE_CONTINUE = 2,  // the text goes on from other tokens: no space prefix at its start
};
// Appends ids to out. The spans are one text: merges cross span borders. Text that is not UTF-8 is
// encoded byte by byte. BOS is put first where the vocabulary asks for it (tokenizer_adds_bos),
// once: not when the text itself starts with it as a special token. EOS is added only where the
// file's add_eos_token is true.
Status tokenizer_encode(const Tokenizer *t, const TextSpan *spans, size_t n_spans, unsigned flags,
                        TokenList *out, Error *err);

enum {
    DECODE_SPECIAL = 1,     // control tokens appear as their text, else as nothing
    DECODE_KEEP_SPACE = 2,  // keep the leading space that the SentencePiece prefix made
};
// Appends the bytes of ids to out. Ids outside the vocabulary are ERR_USAGE. decode(encode(x)) == x
// for every valid UTF-8 x (ENCODE_NO_BOS or not).
Status tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, unsigned flags, Text *out,
                        Error *err);
// The bytes of one token, for streaming: appended to out (no space is ever dropped here).
// Returns false if id is outside the vocabulary or memory ran out.
bool tokenizer_piece(const Tokenizer *t, int32_t id, unsigned flags, Text *out);

// As stored in the file (with U+2581 or the byte-level alphabet), not NUL-terminated.
GgufStr tokenizer_token_text(const Tokenizer *t, int32_t id);
TokenKind tokenizer_token_kind(const Tokenizer *t, int32_t id);
float tokenizer_token_score(const Tokenizer *t, int32_t id);  // 0 where the vocabulary has none
int32_t tokenizer_find(const Tokenizer *t, const char *text, size_t len);  // exact stored text; -1

int32_t tokenizer_n_vocab(const Tokenizer *t);
int32_t tokenizer_bos(const Tokenizer *t);  // -1 where there is none; so below
int32_t tokenizer_eos(const Tokenizer *t);
int32_t tokenizer_unk(const Tokenizer *t);
bool tokenizer_adds_bos(const Tokenizer *t);
bool tokenizer_adds_eos(const Tokenizer *t);
bool tokenizer_adds_space_prefix(const Tokenizer *t);
// True for every token that ends an answer: EOS, EOT, <|im_end|>, <|eot_id|>, <|end|>,
// <end_of_turn>, ...
bool tokenizer_is_end(const Tokenizer *t, int32_t id);
const char *tokenizer_model_name(const Tokenizer *t);  // "llama" or "gpt2"
const char *tokenizer_pre_name(const Tokenizer *t);    // pre-tokenizer in use, "" for SPM

#endif
