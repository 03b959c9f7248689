// Prompt lookup: a draft of the next tokens, from what followed the last ones earlier in the same
// sequence (Saxena 2023, "Prompt Lookup Decoding").
//
// A draft is checked as in Leviathan et al. 2023 ("Fast Inference from Transformers via Speculative
// Decoding"): one batch evaluates the last token and the draft, and a drafted token stands only
// where it is what the sampler, given the logits of the row before it, chooses itself. What is
// accepted thus does not depend on drafts, only how many steps it takes.
//
// This room owns: the sequence's tokens, the index of their n-grams, how long a draft is worth its
// rows. It leaves to others: evaluating, choosing, taking back (generate.c).
#ifndef PLUMB_ENGINE_LOOKUP_H
#define PLUMB_ENGINE_LOOKUP_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    LOOKUP_MOST = 64,    // tokens of a draft
    LOOKUP_NGRAM = 3,    // the longest n-gram of the index; those of 1 and 2 are in it too
    LOOKUP_LENGTHS = 6,  // classes of matches: 1, 2, 3, 4 to 7, 8 to 15, 16 or more equal tokens
};

// Zero-initialised it is empty and valid. All of it is a session's own; what it needs is taken by
// lookup_reset, 28 to 52 bytes a token of the sequence.
typedef struct {
    int32_t *tokens;  // room for cap: prompt and answer
    size_t len, cap;
    // LOOKUP_NGRAM tables of 1 << bits places: where the latest n-gram of that hash has its next
    // token; 0: none. Open addressing; nothing is ever taken out.
    int32_t *index;
    size_t index_cap;  // places of all tables
    int bits;
    // The latest match: the token that should come next, and how many tokens before it equal the
    // last ones (no more than are told apart). 0: none.
    size_t match;
    int match_len;
    float right[LOOKUP_LENGTHS];  // how often a match of that length was right of late, 0 to 1
} Lookup;

// Empties it, for a sequence of at most n_most tokens. ERR_UNAVAILABLE: out of memory; it is then
// empty and of no use until a reset that succeeds.
Status lookup_reset(Lookup *l, size_t n_most, Error *err);
void lookup_free(Lookup *l);

// The sequence's next token; O(1), no allocation. No more than n_most of lookup_reset. Of an answer
// it learns how often matches are right, of a prompt (which others wrote) it does not.
void lookup_read(Lookup *l, int32_t token);    // of the prompt
void lookup_accept(Lookup *l, int32_t token);  // one that was chosen

// A draft of what comes next: at most `most` (and LOOKUP_MOST) tokens, as many as are expected to
// save more than their rows cost. Often none. Returns how many were written to draft.
size_t lookup_draft(const Lookup *l, size_t most, int32_t *draft);

#endif
