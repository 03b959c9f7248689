// What the files of hypotheses share. Nobody else includes this header.
#ifndef PLUMB_VERIFY_CAUSE_INTERNAL_H
#define PLUMB_VERIFY_CAUSE_INTERNAL_H

#include "verify/cause.h"

// The way from a component that nobody captured to the case's, which was.
typedef struct {
    const CauseCase *k;
    Component from;
    bool changes[N_COMPONENTS];  // what is computed from it
} CoarsePath;

// A trial: collects the fits. Each try computes an Expected for the case's rows and offers it.
typedef struct {
    const CauseCase *k;
    Cause *out;
    Error *err;
    Status status;     // the first failure ends the search
    const char *note;  // is added to the text of what fits, or NULL
    // Where given, k is of path->from, and what is offered for it is followed to path->k. k->got is
    // then what k->want is: a hypothesis that looks for its own trace there finds none.
    const CoarsePath *path;
} Trial;

// Does e (same rows as the case) hold what was captured? If so the hypothesis is kept, with
// fmt filled in as its text. Frees e. Returns whether it fits.
bool trial_offer(Trial *t, const char *id, Expected *e, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
// The same, for one that is only another convention.
bool trial_offer_harmless(Trial *t, const char *id, Expected *e, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
// The same, for one that claims no other value, only a coarser arithmetic: its bound alone
// explains.
bool trial_offer_coarser(Trial *t, const char *id, Expected *e, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
// The ratio that e would have (worst cell), without offering it; does not free it.
double trial_ratio(const Trial *t, const Expected *e);

// What is wrong, in words: which rows, heads and columns, and how. out: 2 * CAUSE_TEXT bytes.
Status cause_pattern(const CauseCase *k, char *out, Error *err);

// What follows from e, a hypothesis of t->path->from, for the case of t->path->k. false: it does
// not fit its first row (or t->status is set); else *out is the caller's.
bool coarse_follow(Trial *t, const Expected *e, Expected *out);

void cause_own(Trial *t);     // all hypotheses of t->k->c that cause_common has not
void cause_coarse(Trial *t);  // those of its inputs that were not captured

// One function a group of components; each tries all that it knows for t->k->c.
void cause_embed(Trial *t);      // embd
void cause_norm(Trial *t);       // attn_norm, ffn_norm, norm, q_norm, k_norm
void cause_matmul(Trial *t);     // q k v attn_out ffn_gate ffn_up ffn_out logits
void cause_quants(Trial *t);     // of the same and embd: blocks of weights read wrongly
void cause_rope(Trial *t);       // q_rope, k_rope
void cause_cache(Trial *t);      // k_cache, v_cache
void cause_attention(Trial *t);  // kq, kq_soft_max, attn
void cause_pointwise(Trial *t);  // ffn_inp, l_out, ffn_act
void cause_sampling(Trial *t);   // probs, token
void cause_common(Trial *t);     // any: zero, scaled, negated, stale, another array's, shifted rows

extern const Hypothesis hypotheses_embed[], hypotheses_norm[], hypotheses_matmul[],
    hypotheses_quants[], hypotheses_rope[], hypotheses_cache[], hypotheses_attention[],
    hypotheses_pointwise[], hypotheses_sampling[], hypotheses_common[];  // each ends with id NULL

#endif
