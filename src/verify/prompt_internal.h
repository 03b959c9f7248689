// What the files of the prompt stage share. Nobody else includes this header.
//
// prompt_variants.c makes the ids that a text becomes under a fault of tokenizing, prompt_chat.c
// reads a chat out of ids, prompt_check.c compares, prompt_words.c tells.
#ifndef PLUMB_VERIFY_PROMPT_INTERNAL_H
#define PLUMB_VERIFY_PROMPT_INTERNAL_H

#include "base/arena.h"
#include "verify/prompt_check.h"

// --- variants -----------------------------------------------------------------------------------

typedef enum { NEWLINES_KEPT, NEWLINES_AS_SPACES, WHITE_AS_SPACES, N_NEWLINES } Newlines;
// The space that SentencePiece puts before a text, at its start and after each special token.
typedef enum { PREFIX_RIGHT, PREFIX_NONE, PREFIX_NOT_FIRST, PREFIX_ONLY_FIRST, N_PREFIXES } Prefix;
typedef enum {
    MERGES_RIGHT,
    MERGES_BY_ID,         // the lowest id first
    MERGES_LOWEST_SCORE,  // the score read as a rank
    MERGES_LEFTMOST,      // whatever merges, from the left
    MERGES_LONGEST,       // no merges: the longest token that fits, from the left
    N_MERGES
} Merges;

typedef struct {
    bool specials_as_text;
    Newlines newlines;
    Prefix prefix;
    Merges merges;
} Variant;

// A text as TextSpans, special tokens read where a span says so.
typedef struct {
    const TextSpan *spans;
    size_t n;
} Meaning;

typedef struct {
    const Gguf *g;
    const Tokenizer *tok;
    struct {  // the same vocabulary with other scores; made when first needed
        Text bytes;
        Gguf *gguf;
        Tokenizer *tok;
    } other[MERGES_LONGEST];
    size_t longest;  // bytes of the longest token; 0: not known yet
} Variants;

void variants_free(Variants *v);
// The ids of a text without the BOS and EOS that a vocabulary adds, replacing those in out. *there
// is false where this vocabulary has no such variant (merges by score in a byte-level BPE).
Status variant_encode(Variants *v, const Meaning *m, Variant how, TokenList *out, bool *there,
                      Error *err);

// --- ids as symbols -----------------------------------------------------------------------------

enum { SYMBOL_SPECIAL = 256 };  // + id: a control or unknown token; below: a byte of text

typedef struct {
    int32_t *symbol;
    size_t *from;  // index of the id that the symbol is from
    size_t n;
} Flat;

// Spaces that a prefix put there are left out, as in tokenizer_decode; where `prefix` says that
// none was put, none is left out. All ids have a text. In the arena.
Status flatten(const Tokenizer *tok, const int32_t *ids, size_t n, Prefix prefix, Arena *arena,
               Flat *out, Error *err);

// --- chats --------------------------------------------------------------------------------------

typedef struct {
    Meaning meaning;  // as the template renders the messages that were found, in the arena
    bool found;
    bool marked;  // it starts with a mark, and a user speaks in it: no other text looks so
} ChatReading;

// Does a text, its special tokens spelled out, start as a system's or a user's words do in this
// template, white space apart? Cheap; what does not is no chat in it.
bool chat_may_start(const ChatTemplate *t, const char *text);
// Looks for the chat that these symbols are, written in template t with special tokens and newlines
// as `how` has them; at least one mark must show it. What is found may still not be these ids:
// encode its meaning to know.
Status read_chat(const Tokenizer *tok, const ChatTemplate *t, const Flat *flat, Variant how,
                 Arena *arena, ChatReading *out, Error *err);

// --- the check of one prompt --------------------------------------------------------------------

typedef enum { FROM_TEXT, FROM_TEXT_AS_CHAT, FROM_CHAT, FROM_IDS } Source;

typedef struct {
    bool found;
    Meaning meaning;
    Source source;
    Variant how;
} Match;

typedef struct {
    const Tokenizer *tok;
    const ChatTemplate *chat;
    const TracePrompt *p;
    const char *text;
    bool allow_odd;
    Report *r;
    int prompt;
    Error *err;
    Status status;  // the first failure
    // The ids without the BOS before and the EOS behind them.
    const int32_t *body;
    size_t n_body, n_bos, n_eos;
    Flat flats[N_PREFIXES];  // as a text whose spaces before words were put there so
    Variants variants;
    Arena arena;
} PromptState;

// Encodes a meaning under a variant, as the ids between BOS and EOS; *n_eos: of those the text's
// own. False: there is no such variant, or c->status is set.
bool prompt_encode(PromptState *c, const Meaning *m, Variant how, TokenList *out, size_t *n_eos);

typedef enum { SAY_PASS, SAY_REMARK, SAY_WARNING, SAY_FAIL } SayKind;
void prompt_say(PromptState *c, const char *id, SayKind kind, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void prompt_say_bos(PromptState *c);
void prompt_say_eos(PromptState *c);
// Each fault of the match, and the place where it shows first.
void prompt_say_faults(PromptState *c, const Match *m, SayKind kind);
// Nothing known gives these ids, though the text (one of n) is known: where they leave its way.
void prompt_say_differ(PromptState *c, const Meaning *meanings, size_t n);

#endif
