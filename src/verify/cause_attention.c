// Hypotheses of kq, kq_soft_max and attn: scale, heads, mask, softmax, joining.
//
// What was captured on the way closes what stands before it: with kq there, only the softmax and
// what follows is tried; with kq_soft_max there, only values and joining. Where nothing was, all of
// it is tried through to the component that was captured.
// This file owns: the ones without a number of their own, and the order of all. It leaves to
// others: where keys and values come from (cause_attention_keys.c), fits (cause_attention_fit.c).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_attend.h"

#define KQ (1u << COMP_KQ)
#define SOFT (1u << COMP_KQ_SOFT_MAX)
#define ATTN (1u << COMP_ATTN)

const Hypothesis hypotheses_attention[] = {
    {"score-scale", "scores have another scale", KQ | SOFT | ATTN},
    {"kv-head-mapping", "query heads read other kv heads", KQ | SOFT | ATTN},
    {"other-input", "other queries, keys or values were read", KQ | SOFT | ATTN},
    {"mask-off-by-one", "one key too many or too few is seen", KQ | SOFT | ATTN},
    {"mask-none", "all keys are seen", SOFT | ATTN},
    {"mask-inverted", "later keys are seen, earlier ones masked", SOFT | ATTN},
    {"mask-offset", "some keys too many or too few are seen", KQ | SOFT | ATTN},
    {"mask-first", "the first keys are masked", KQ | SOFT | ATTN},
    {"mask-window", "only the last keys are seen", KQ | SOFT | ATTN},
    {"mask-chunk", "keys of earlier chunks of the prompt are not seen", KQ | SOFT | ATTN},
    {"mask-other", "tokens see other keys", KQ | SOFT | ATTN},
    {"softmax-padding", "keys that are not there take part", SOFT | ATTN},
    {"softmax-uniform", "all keys weigh the same", SOFT | ATTN},
    {"softmax-temperature", "scores are multiplied before the softmax", SOFT | ATTN},
    {"softmax-unnormalised", "weights are not divided by their sum", SOFT | ATTN},
    {"softmax-skipped", "scores are the weights", SOFT | ATTN},
    {"softmax-twice", "softmax was applied twice", SOFT | ATTN},
    {"softmax-over-heads", "softmax runs over the heads", SOFT | ATTN},
    {"softmax-overflow", "exp overflows: the maximum is not subtracted", SOFT | ATTN},
    {"attention-rounding", "rounds otherwise than declared", KQ | SOFT | ATTN},
    {"value-rotated", "values were rotated", ATTN},
    {"heads-interleaved", "elements of the heads are interleaved", ATTN},
    {"heads-by-tokens", "tokens and heads are mixed up", ATTN},
    {"cache-before-rope", "keys are not rotated", KQ | SOFT | ATTN},
    {"cache-exchanged", "keys and values exchanged", KQ | SOFT | ATTN},
    {"cache-slot", "slots hold their neighbours'", KQ | SOFT | ATTN},
    {"cache-slot-overwritten", "a slot holds another token's", KQ | SOFT | ATTN},
    {"cache-layer", "keys or values of another layer", KQ | SOFT | ATTN},
    {"cache-sequence", "keys or values of another sequence", KQ | SOFT | ATTN},
    {NULL, NULL, 0},
};

// --- scale --------------------------------------------------------------------------------------

// Scores times f: their scale where that is open, else what the softmax multiplies them with.
static bool offer_factor(Attend *a, double f, const char *text) {
    Way w = a->right;
    if (attend_opens_scores(a)) {
        w.scale *= f;
        return attend_offer(a, &w, "score-scale", "scores are %s", text);
    }
    w.sharpness = f;
    return attend_offer(a, &w, "softmax-temperature", "scores are %s before the softmax", text);
}

static void try_scales(Attend *a) {
    const Hparams *h = &a->s->model->h;
    const double d = h->head_dim, heads = h->n_heads, ln2 = 0.69314718055994531;
    const bool open = attend_opens_scores(a);
    const struct {
        double factor;
        const char *text;
    } ways[] = {{1 / sqrt(d), open ? "scaled twice, by 1 / head_dim in all"
                                   : "scaled by 1 / sqrt(head_dim) once more"},
                {sqrt(d), open ? "not scaled" : "multiplied with sqrt(head_dim)"},
                {d, open ? "multiplied with sqrt(head_dim), not divided by it"
                         : "multiplied with head_dim"},
                {sqrt(d / h->dim), open ? "scaled by 1 / sqrt(dim), not 1 / sqrt(head_dim)"
                                        : "multiplied with sqrt(head_dim / dim)"},
                {sqrt(1 / heads), open ? "scaled by 1 / sqrt(n_heads * head_dim)"
                                       : "multiplied with 1 / sqrt(n_heads)"},
                {sqrt(d / heads), open ? "scaled by 1 / sqrt(n_heads), not 1 / sqrt(head_dim)"
                                       : "multiplied with sqrt(head_dim / n_heads)"},
                {ln2, "raised as powers of 2, without log2(e),"},
                {1 / ln2, "multiplied with log2(e)"},
                {-1, "negated"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (fabs(ways[i].factor - 1) < 1e-9) continue;
        if (a->c == COMP_KQ && i >= 6) break;  // of kq that is no more than a factor
        if (offer_factor(a, ways[i].factor, ways[i].text)) return;
    }
}

// --- heads --------------------------------------------------------------------------------------

static void try_mappings(Attend *a) {
    static const char *const names[] = {"head mod n_kv_heads", "0 for all heads",
                                        "the last one first", "its own number, the last for more"};
    const size_t heads = a->heads, kv = a->kv_heads;
    const bool keys = attend_opens_scores(a), values = a->c == COMP_ATTN;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t *map = attend_sizes(a, heads);
        if (!map) return;
        for (size_t h = 0; h < heads; h++) {
            const size_t right = h / (heads / kv), own = h < kv ? h : kv - 1;
            map[h] = i == 0 ? h % kv : i == 1 ? 0 : i == 2 ? kv - 1 - right : own;
        }
        if (memcmp(map, a->right.key_head, heads * sizeof *map) == 0) continue;
        Way w = a->right;
        if (keys) w.key_head = map;
        if (values) w.value_head = map;
        const char *of = keys && values ? "" : keys ? " for keys" : " for values";
        if (attend_offer(a, &w, "kv-head-mapping", "the kv head is %s%s", names[i], of)) return;
        for (int only = 0; only < 2 && keys && values; only++) {
            w = a->right;
            if (only == 0) w.key_head = map;
            if (only == 1) w.value_head = map;
            if (attend_offer(a, &w, "kv-head-mapping", "the kv head is %s, for %s only", names[i],
                             only == 0 ? "keys" : "values")) {
                return;
            }
        }
    }
}

static void try_joins(Attend *a) {
    static const struct {
        Join join;
        const char *id, *text;
    } ways[] = {
        {JOIN_ELEMENTS, "heads-interleaved", "element i of head h stands at i * n_heads + h"},
        {JOIN_BACK, "heads-interleaved",
         "heads are read as if element i of head h stood at "
         "i * n_heads + h"},
        {JOIN_TOKENS, "heads-by-tokens", "heads by tokens were taken for tokens by heads"},
        {JOIN_TOKENS_BACK, "heads-by-tokens", "tokens by heads were taken for heads by tokens"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways && a->heads > 1; i++) {
        Way w = a->right;
        w.join = ways[i].join;
        attend_offer(a, &w, ways[i].id, "%s", ways[i].text);
    }
}

// --- mask ---------------------------------------------------------------------------------------

static void try_masks(Attend *a) {
    attend_offer_mask(a, MASK_OFFSET, -1, "mask-off-by-one", "a token does not see its own key");
    if (a->c != COMP_KQ) {
        attend_offer_mask(a, MASK_OFFSET, 1, "mask-off-by-one",
                          "a token sees the key after its own");
        attend_offer_mask(a, MASK_ALL, 0, "mask-none",
                          "no mask: a token sees all keys of the prompt");
        attend_offer_mask(a, MASK_INVERTED, 0, "mask-inverted",
                          "a token sees its own and later keys, not earlier ones");
        attend_offer_mask(a, MASK_INVERTED, 1, "mask-inverted", "a token sees later keys only");
    }
    attend_offer_mask(a, MASK_FIRST, 1, "mask-first", "the first key is masked");
}

// --- softmax ------------------------------------------------------------------------------------

static void try_softmax(Attend *a) {
    static const struct {
        Weighing weighing;
        const char *id, *text;
    } ways[] = {
        {WEIGH_UNIFORM, "softmax-uniform", "all keys that a token sees weigh the same"},
        {WEIGH_EXP, "softmax-unnormalised", "weights are exp(s - max), not divided by their sum"},
        {WEIGH_EXP_RAW, "softmax-unnormalised", "weights are exp(s), not divided by their sum"},
        {WEIGH_SCORES, "softmax-skipped", "scores are used as weights, without softmax"},
        {WEIGH_TWICE, "softmax-twice", "softmax was applied twice"},
        {WEIGH_HEADS, "softmax-over-heads", "softmax runs over the heads, not over the keys"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (ways[i].weighing == WEIGH_HEADS && a->heads == 1) continue;
        Way w = a->right;
        w.weighing = ways[i].weighing;
        attend_offer(a, &w, ways[i].id, "%s", ways[i].text);
    }
    Way w = a->right;
    w.zero_masked = true;
    attend_offer(a, &w, "softmax-padding", "masked scores are 0, not minus infinity");
    size_t *end = attend_sizes(a, a->n);
    for (size_t i = 0; i < a->n && end; i++) end[i] = a->n;
    w = a->right;
    w.end = end, w.weighing = WEIGH_UNIFORM;
    if (end) attend_offer(a, &w, "softmax-uniform", "all keys of the prompt weigh the same");
}

// --- all ---------------------------------------------------------------------------------------

// A run that declares how it rounds may round otherwise all the same. (One that does not is tried
// under each way by the driver, cause.c.)
static void try_roundings(Attend *a) {
    Rounding other = *a->s->rounding;
    Site s = *a->s;
    const AttnScheme *scheme;
    s.rounding = &other;
    for (int i = 0; !a->fits && other.attn_declared && (scheme = attn_scheme_at(i)); i++) {
        Expected e;
        other.attn = *scheme;
        if (scheme->acc != PREC_F32) continue;  // sums of few bits would excuse any noise
        if (!case_expect(a->t, &s, a->c, &e)) return;
        a->fits |= trial_offer(a->t, "attention-rounding", &e, "rounds as \"%s\"", scheme->name);
    }
}

void cause_attention(Trial *t) {
    Attend a;
    if (!component_is_scores(t->k->c) && t->k->c != COMP_ATTN) return;
    if (attend_open(t, &a)) {
        const bool scores = attend_opens_scores(&a), weights = attend_opens_weights(&a);
        if (scores || weights) try_scales(&a);
        if (scores || a.c == COMP_ATTN) try_mappings(&a);
        if (scores || weights) try_masks(&a);
        if (weights) try_softmax(&a);
        if (a.c == COMP_ATTN) try_joins(&a);
        attend_try_keys(&a);
        try_roundings(&a);
        attend_try_fits(&a);
    }
    attend_close(&a);
}
