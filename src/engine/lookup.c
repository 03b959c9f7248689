// Prompt lookup; see lookup.h.
#include "engine/lookup.h"

#include <stdlib.h>
#include <string.h>

enum { LENGTH_MOST = 16, PROBES = 8 };

// Rows beside the first of a batch, in decode steps: what the first costs more than the next ones,
// and each. Of the CPU's kernels where they are bound by arithmetic (bench/README.md); elsewhere
// rows are cheaper, and drafts a little shorter than they could be.
static const float FIRST_ROW = 0.15f, EACH_ROW = 0.3f;
static const float RATE = 0.0625f;  // of learning: a match's outcome beside those before it

Status lookup_reset(Lookup *l, size_t n_most, Error *err) {
    static const float guess[LOOKUP_LENGTHS] = {0.15f, 0.35f, 0.5f, 0.65f, 0.8f, 0.9f};
    int bits = 4;
    while (((size_t)1 << bits) < 2 * n_most) bits++;
    const size_t places = (size_t)LOOKUP_NGRAM << bits;
    if (n_most > l->cap) {
        l->cap = 0;
        free(l->tokens);
        l->tokens = malloc(n_most * sizeof *l->tokens);
        if (!l->tokens) return error_memory(err, "the lookup's tokens", n_most * 4);
        l->cap = n_most;
    }
    if (places > l->index_cap) {
        l->index_cap = 0;
        free(l->index);
        l->index = malloc(places * sizeof *l->index);
        if (!l->index) return error_memory(err, "the lookup's index", places * 4);
        l->index_cap = places;
    }
    memset(l->index, 0, places * sizeof *l->index);
    memcpy(l->right, guess, sizeof guess);
    l->bits = bits;
    l->len = l->match = 0, l->match_len = 0;
    return OK;
}

void lookup_free(Lookup *l) {
    free(l->tokens);
    free(l->index);
    *l = (Lookup){0};
}

// Where the token stands that followed the last n tokens when they came before; 0: nowhere. From
// now on it is the end of the sequence. Where an index is so crowded that its places near the
// n-gram's own are all taken (a hostile prompt can do that), one of them is forgotten.
static size_t exchange(Lookup *l, int n) {
    const int32_t *gram = l->tokens + l->len - n;
    const size_t bytes = (size_t)n * sizeof *gram, mask = ((size_t)1 << l->bits) - 1;
    int32_t *table = l->index + ((size_t)(n - 1) << l->bits);
    uint64_t hash = 0;
    for (int i = 0; i < n; i++) hash = (hash ^ (uint32_t)gram[i]) * 0x9e3779b97f4a7c15u;
    const size_t home = (size_t)(hash >> (64 - l->bits));
    for (size_t i = 0; i < PROBES; i++) {
        int32_t *place = &table[(home + i) & mask];
        const size_t found = (size_t)*place;
        if (found && memcmp(l->tokens + found - n, gram, bytes) != 0) continue;
        *place = (int32_t)l->len;
        return found;
    }
    table[home] = (int32_t)l->len;
    return 0;
}

// How many tokens before `at` equal the last ones, at least n of them; no more than LENGTH_MOST.
static int equal_before(const Lookup *l, size_t at, int n) {
    while (n < LENGTH_MOST && (size_t)n < at &&
           l->tokens[at - 1 - (size_t)n] == l->tokens[l->len - 1 - (size_t)n]) {
        n++;
    }
    return n;
}

// A match that was right goes on. Another takes its place when it is of an n-gram that is longer
// than what the old one has: the latest, for what came last is likeliest to come again.
static void append(Lookup *l, int32_t token) {
    CHECK(l->len < l->cap);
    if (l->match && l->tokens[l->match] == token) {
        l->match++;
        if (l->match_len < LENGTH_MOST) l->match_len++;
    } else {
        l->match = 0, l->match_len = 0;
    }
    l->tokens[l->len++] = token;
    for (int n = LOOKUP_NGRAM; n >= 1; n--) {
        if ((size_t)n > l->len) continue;
        const size_t found = exchange(l, n);
        if (!found || l->match_len >= n) continue;
        l->match = found;
        l->match_len = equal_before(l, found, n);
    }
}

// The class of a match of n >= 1 equal tokens.
static int class_of(int n) {
    return n < 4 ? n - 1 : n < 8 ? 3 : n < LENGTH_MOST ? 4 : 5;
}

void lookup_read(Lookup *l, int32_t token) {
    append(l, token);
}

void lookup_accept(Lookup *l, int32_t token) {
    if (l->match) {  // also where no draft was made of it: so a pause ends by itself
        float *right = &l->right[class_of(l->match_len)];
        *right += RATE * ((l->tokens[l->match] == token ? 1.0f : 0.0f) - *right);
    }
    append(l, token);
}

// The length whose tokens a step's cost are the most: a token comes as far as all before it and it
// itself are right, and each that is right makes the match longer.
static size_t worth(const Lookup *l, size_t most) {
    float reach = 1, tokens = 1, cost = 1 + FIRST_ROW, best = 1;
    size_t n = 0;
    for (size_t i = 0; i < most; i++) {
        const size_t len = (size_t)l->match_len + i;
        reach *= l->right[class_of(len < LENGTH_MOST ? (int)len : LENGTH_MOST)];
        tokens += reach;
        cost += EACH_ROW;
        if (tokens > best * cost) best = tokens / cost, n = i + 1;
    }
    return n;
}

size_t lookup_draft(const Lookup *l, size_t most, int32_t *draft) {
    if (!l->match) return 0;
    const size_t n = worth(l, most < LOOKUP_MOST ? most : LOOKUP_MOST);
    for (size_t i = 0; i < n; i++) {  // a match that reaches the end goes on with its own draft
        const size_t at = l->match + i;
        draft[i] = at < l->len ? l->tokens[at] : draft[at - l->len];
    }
    return n;
}
