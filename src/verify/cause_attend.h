// Inner header of cause_attention*.c and cause_attend.c: attention as a wrong engine computes it.
#ifndef PLUMB_VERIFY_CAUSE_ATTEND_H
#define PLUMB_VERIFY_CAUSE_ATTEND_H

#include "verify/cause_case.h"

// Keys or values of all n tokens, n x n_kv_heads * head_dim. sd NULL: known.
typedef struct {
    const double *x, *sd;
} Keys;

typedef enum {
    WEIGH_SOFTMAX,
    WEIGH_UNIFORM,  // 1 / number of keys that are seen
    WEIGH_EXP,      // exp(s - max), not divided by their sum
    WEIGH_EXP_RAW,  // exp(s)
    WEIGH_SCORES,   // s
    WEIGH_TWICE,    // softmax of the softmax
    WEIGH_HEADS,    // softmax over the heads, key by key
} Weighing;

typedef enum {
    JOIN_HEADS,     // head by head
    JOIN_ELEMENTS,  // element i of head h goes to i * n_heads + h
    JOIN_BACK,      // what belongs there goes to head h, element i
    JOIN_TOKENS,    // heads by tokens, taken for tokens by heads
    JOIN_TOKENS_BACK,
} Join;

enum { NO_SLOT = -1, NO_TOKEN = -2 };

// One way to compute attention. What is per token has n entries, what is per head n_heads.
typedef struct {
    const Value *q;
    Keys k, v;
    const size_t *key_head, *value_head;  // which kv head each head reads
    double scale;                         // of q k
    const size_t *first, *end;            // the keys that a token sees: first .. end - 1
    bool zero_masked;                     // the others' scores are 0 instead
    double sharpness;                     // of scores, before exp
    Weighing weighing;
    const double *extra;  // of a token: so many more keys of score and value 0; NULL: none
    bool extra_shown;     // weights of masked keys are shown as those of such keys
    Join join;
    // For token t's query slot[t] holds the key and value of held[t] (NO_TOKEN: zeros); NULL: no.
    const long *slot, *held;
    bool keeps_key, keeps_value;  // not of the keys, the values
} Way;

typedef struct {
    Trial *t;
    Arena arena;
    const Site *s;
    Component c;
    size_t n, heads, kv_heads, d;
    size_t n_keys;                   // tokens whose keys and values are known: 0 .. n_keys - 1
    bool sees_scores, sees_weights;  // kq and kq_soft_max of the case's rows were captured
    bool cached_k, cached_v;         // so was the cache
    Way right;
    bool fits;
} Attend;

// false: not to be tried, as an input is not known (or t->status). To be closed in either case.
bool attend_open(Trial *t, Attend *a);
void attend_close(Attend *a);
// Rows of v as the cache of keys, or of values, gives them back; false: not all of n_keys are
// known.
bool attend_keys(Attend *a, const Value *v, bool key, Keys *out);
// Rows of a captured cache, as they are.
bool attend_cached(Attend *a, const Value *v, Keys *out);
// One number for each token or head; NULL: t->status.
size_t *attend_sizes(Attend *a, size_t n);

// Rows r .. r + n - 1 of the case. false: it cannot be told (or t->status).
bool attend_expect(Attend *a, const Way *w, size_t r, size_t n, Expected *out);
// Does w fit the case's first row? Cheap.
bool attend_first(Attend *a, const Way *w);
// If so, and all rows as well: offers it.
bool attend_offer(Attend *a, const Way *w, const char *id, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
// Scores that one head of a token gives the keys first .. end - 1 of w. s and s_sd: room for
// n + heads * d each, the scores come first.
void attend_scores(const Attend *a, const Way *w, size_t token, size_t head, double *s,
                   double *s_sd);

// Is what stands before the scores, the weights, to be explained here?
static inline bool attend_opens_scores(const Attend *a) {
    return !a->sees_scores && !a->sees_weights;
}
static inline bool attend_opens_weights(const Attend *a) {
    return a->c != COMP_KQ && !a->sees_weights;
}

typedef enum {
    MASK_OFFSET,    // `by` keys more than a right engine
    MASK_ALL,       // all keys
    MASK_INVERTED,  // from its own (by = 0) or the next on
    MASK_FIRST,     // not the first `by`
    MASK_WINDOW,    // the last `by`
    MASK_CHUNK,     // from the start of its chunk of `by` tokens on
} MaskKind;
bool attend_offer_mask(Attend *a, MaskKind kind, long by, const char *id, const char *text);

// Hypotheses about where queries, keys and values come from (cause_attention_keys.c).
void attend_try_keys(Attend *a);
// Those with numbers that are read off the captured rows (cause_attention_fit.c).
void attend_try_fits(Attend *a);

#endif
