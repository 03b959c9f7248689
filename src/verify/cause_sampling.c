// Hypotheses of probs and token: how else the next token may have been drawn.
//
// Each is a sampler with one rule changed, or other logits given to the right one. Probabilities
// are compared as any component is; a token fits when the changed sampler would have chosen it, or,
// where tokens are drawn, could have.
#include <stdio.h>
#include <string.h>

#include "verify/cause_case.h"
#include "verify/sampling.h"

#define PROBS (1u << COMP_PROBS)
#define TOKEN (1u << COMP_TOKEN)

const Hypothesis hypotheses_sampling[] = {
    {"ties-to-last", "of equal logits the last was chosen", PROBS | TOKEN},
    {"top-k-zero", "top_k 0 picks id 0 or keeps one token", PROBS | TOKEN},
    {"temperature-twice", "the temperature was applied twice", PROBS | TOKEN},
    {"temperature-ignored", "the temperature was not applied", PROBS | TOKEN},
    {"temperature-inverted", "logits were multiplied with the temperature", PROBS | TOKEN},
    {"penalty-sign", "the penalty heeds no sign", PROBS | TOKEN},
    {"penalty-repeated", "the penalty is applied for each occurrence", PROBS | TOKEN},
    {"penalty-inverted", "the penalty is a reward", PROBS | TOKEN},
    {"penalty-exchanged", "presence and frequency penalty exchanged", PROBS | TOKEN},
    {"penalty-ignored", "penalties were not applied", PROBS | TOKEN},
    {"penalty-window", "penalties look back at other tokens", PROBS | TOKEN},
    {"logits-of-before", "the logits of the token before were used", PROBS | TOKEN},
    {"logits-of-first", "the logits of the first token were used", PROBS | TOKEN},
    {"filter-order", "the temperature comes before the filters", PROBS | TOKEN},
    {"filter-skipped", "a filter was not applied", PROBS | TOKEN},
    {"filter-off-by-one", "a filter keeps one token too many or too few", PROBS | TOKEN},
    {"filter-unnormalised", "what the filters leave is not made to sum to 1", PROBS},
    {"greedy", "the likeliest token alone", PROBS},
    {"argmin", "the least likely token", PROBS | TOKEN},
    {"second-best", "the second likeliest token", PROBS | TOKEN},
    {"vocabulary-cut", "only the first tokens of the vocabulary were looked at", PROBS | TOKEN},
    {"id-off-by-one", "the id beside the right one", PROBS | TOKEN},
    {NULL, NULL, 0},
};

typedef struct {
    Trial *t;
    Arena arena;
    const Site *s;
    TraceSampling how;  // as it should be; temp <= 0: greedy
    size_t n_vocab;
    CaseRows logits;  // of the last token
    double *p, *x;    // room for probabilities, and for logits
    bool fits;
} Draw;

// --- offering -----------------------------------------------------------------------------------

// Is id what was chosen, or the one that is certain?
static bool offer_token(Draw *d, long id, const char *name, const char *text) {
    const CauseCase *k = d->t->k;
    const bool certain = k->c == COMP_PROBS;
    Expected e;
    if (id < 0 || (size_t)id >= d->n_vocab) return false;
    if (!certain && (float)id != k->got[0]) return false;
    if (!case_new(d->t, 1, &e)) return false;
    e.y[certain ? id : 0] = certain ? 1 : (double)id;
    // The id is all there is: nothing right is beside it to be compared with.
    const bool fits = trial_offer_coarser(d->t, name, &e, "%s", text);
    d->fits |= fits;
    return fits;
}

// d->p as probabilities made of these logits with that temperature.
static bool offer_p(Draw *d, const double *logits, double temp, const char *name,
                    const char *text) {
    const size_t chosen = (size_t)d->t->k->got[0];
    if (d->t->k->c == COMP_TOKEN) {
        if (!(d->t->k->got[0] >= 0) || chosen >= d->n_vocab || !(d->p[chosen] > 0)) return false;
        return offer_token(d, (long)chosen, name, text);
    }
    Expected e;
    if (!case_new(d->t, d->t->k->n_rows, &e)) return false;
    double most = -INFINITY;
    for (size_t i = 0; i < d->n_vocab; i++) most = fmax(most, logits[i]);
    for (size_t i = 0; i < d->n_vocab; i++) {
        const double below = fabs(most - logits[i]) / (temp > 0 ? temp : 1);
        e.y[i] = d->p[i];
        case_put(&e, i,
                 bound_softmax(d->n_vocab, e.y[i], below, d->logits.sd[i],
                               d->s->rounding->out[COMP_PROBS]),
                 0);
        if (e.y[i] == 0) e.bound[i] = 0;
    }
    const bool fits = trial_offer(d->t, name, &e, "%s", text);
    d->fits |= fits;
    return fits;
}

static bool try_logits(Draw *d, const TraceSampling *how, const double *logits, const char *name,
                       const char *text) {
    if (d->t->status) return false;
    d->t->status = sampling_expect(how, d->s->tokens, d->s->n, logits, d->n_vocab, d->p, d->t->err);
    return !d->t->status && offer_p(d, logits, how->temp, name, text);
}

static bool try_settings(Draw *d, const TraceSampling *how, const char *name, const char *text) {
    return try_logits(d, how, d->logits.x, name, text);
}

// --- penalties ----------------------------------------------------------------------------------

typedef enum { BY_SIGN, ALWAYS_DIVIDE, ALWAYS_MULTIPLY, EACH_TIME, REWARD } Penalty;

// Logits penalized another way into d->x; the sampler then finds nothing to penalize.
static void penalize(const Draw *d, Penalty way) {
    const TraceSampling *s = &d->how;
    size_t n = d->s->n;
    if (s->repeat_last_n >= 0 && (size_t)s->repeat_last_n < n) n = (size_t)s->repeat_last_n;
    const double by = s->repeat_penalty;
    memcpy(d->x, d->logits.x, d->n_vocab * sizeof *d->x);
    for (int pass = 0; pass < 2; pass++) {  // repetition, then presence and frequency
        for (size_t i = d->s->n - n; i < d->s->n; i++) {
            const size_t id = (size_t)d->s->tokens[i];
            bool again = false;
            for (size_t j = d->s->n - n; j < i && !again; j++)
                again = d->s->tokens[j] == d->s->tokens[i];
            const double x = d->x[id];
            const bool divide = way == ALWAYS_DIVIDE || (way == REWARD && x <= 0) ||
                                ((way == BY_SIGN || way == EACH_TIME) && x > 0);
            if (pass == 1) {
                d->x[id] -= s->frequency_penalty + (again ? 0 : s->presence_penalty);
            } else if (!again || way == EACH_TIME) {
                d->x[id] = divide ? x / by : x * by;
            }
        }
    }
}

static void try_penalties(Draw *d) {
    static const struct {
        Penalty way;
        const char *name, *text;
    } ways[] = {
        {ALWAYS_DIVIDE, "penalty-sign", "negative logits are divided by the penalty too"},
        {ALWAYS_MULTIPLY, "penalty-sign", "positive logits are multiplied with the penalty too"},
        {EACH_TIME, "penalty-repeated", "the penalty is applied for each occurrence of a token"},
        {REWARD, "penalty-inverted", "the penalty makes tokens likelier"}};
    TraceSampling other = d->how;
    other.repeat_penalty = 1, other.frequency_penalty = other.presence_penalty = 0;
    for (size_t i = 0; i < sizeof ways / sizeof *ways && d->how.repeat_penalty != 1; i++) {
        penalize(d, ways[i].way);
        try_logits(d, &other, d->x, ways[i].name, ways[i].text);
    }
    const bool any =
        d->how.repeat_penalty != 1 || d->how.frequency_penalty != 0 || d->how.presence_penalty != 0;
    if (!any) return;
    try_settings(d, &other, "penalty-ignored", "penalties were not applied");
    other = d->how;
    other.frequency_penalty = d->how.presence_penalty;
    other.presence_penalty = d->how.frequency_penalty;
    try_settings(d, &other, "penalty-exchanged", "presence and frequency penalty are exchanged");
    const int last = d->how.repeat_last_n;
    const int windows[] = {-1, 64, last - 1, last + 1, 1};
    static const char *const texts[] = {"all tokens", "the last 64 tokens", "one token less",
                                        "one token more", "the last token alone"};
    for (size_t i = 0; i < sizeof windows / sizeof *windows && !d->fits; i++) {
        char text[CAUSE_TEXT];
        if (windows[i] == 0 || (i > 0 && windows[i] < 0)) continue;
        other = d->how;
        other.repeat_last_n = windows[i];
        snprintf(text, sizeof text, "penalties look back at %s", texts[i]);
        try_settings(d, &other, "penalty-window", text);
    }
}

// --- temperature and filters --------------------------------------------------------------------

static void try_temperature(Draw *d) {
    TraceSampling other = d->how;
    if (d->how.temp > 0 && d->how.temp != 1) {
        other.temp = d->how.temp * d->how.temp;
        try_settings(d, &other, "temperature-twice", "the temperature was applied twice");
        other.temp = 1 / d->how.temp;
        try_settings(d, &other, "temperature-inverted",
                     "logits were multiplied with the temperature");
    }
    other = d->how;
    if (d->how.temp != 1 && (d->t->k->c == COMP_PROBS || d->how.temp > 0)) {
        other.temp = 1;
        try_settings(d, &other, "temperature-ignored", "the temperature was not applied");
    }
    if (!(d->how.temp > 0) || d->how.temp == 1) return;
    for (size_t i = 0; i < d->n_vocab; i++) d->x[i] = d->logits.x[i] / d->how.temp;
    try_logits(d, &other, d->x, "filter-order",
               "the temperature comes before penalties and filters");
    penalize(d, BY_SIGN);
    for (size_t i = 0; i < d->n_vocab; i++) d->x[i] /= d->how.temp;
    other.repeat_penalty = 1, other.frequency_penalty = other.presence_penalty = 0;
    try_logits(d, &other, d->x, "filter-order", "the temperature comes before the filters");
}

static void try_filters(Draw *d) {
    TraceSampling other = d->how;
    if (d->how.top_k > 0) {
        other.top_k = 0;
        try_settings(d, &other, "filter-skipped", "top_k was not applied");
        other.top_k = d->how.top_k + 1;
        try_settings(d, &other, "filter-off-by-one", "top_k keeps one token too many");
        other.top_k = d->how.top_k - 1;
        if (other.top_k > 0) {
            try_settings(d, &other, "filter-off-by-one", "top_k keeps one token too few");
        }
    }
    other = d->how;
    other.top_p = 1;
    if (d->how.top_p < 1) try_settings(d, &other, "filter-skipped", "top_p was not applied");
    other = d->how;
    other.min_p = 0;
    if (d->how.min_p > 0) try_settings(d, &other, "filter-skipped", "min_p was not applied");
    other.top_p = 1, other.top_k = 0;
    if (!d->fits) try_settings(d, &other, "filter-skipped", "no filter was applied");
}

// Of the softmax over all tokens what the filters keep, not made to sum to 1.
static void try_unnormalised(Draw *d) {
    TraceSampling open = d->how;
    open.top_k = 0, open.top_p = 1, open.min_p = 0;
    if (d->t->k->c != COMP_PROBS || !(d->how.temp > 0)) return;
    d->t->status =
        sampling_expect(&d->how, d->s->tokens, d->s->n, d->logits.x, d->n_vocab, d->x, d->t->err);
    if (d->t->status) return;
    d->t->status =
        sampling_expect(&open, d->s->tokens, d->s->n, d->logits.x, d->n_vocab, d->p, d->t->err);
    if (d->t->status) return;
    for (size_t i = 0; i < d->n_vocab; i++) {
        if (d->x[i] == 0) d->p[i] = 0;
    }
    offer_p(d, d->logits.x, d->how.temp, "filter-unnormalised",
            "what the filters leave is not made to sum to 1");
}

// --- other choices ------------------------------------------------------------------------------

static long best_of(const double *x, size_t n, double sign, long but) {
    long best = -1;
    for (size_t i = 0; i < n; i++) {
        if ((long)i == but || isnan(x[i])) continue;
        if (best < 0 || sign * x[i] > sign * x[best]) best = (long)i;
    }
    return best;
}

// One token for certain, by another rule than the likeliest one of the lowest id.
static void try_choices(Draw *d) {
    const double *x = d->x;
    const size_t n = d->n_vocab, dim = (size_t)d->s->model->h.dim;
    penalize(d, BY_SIGN);
    const long best = best_of(x, n, 1, -1);
    if (best < 0) return;
    long last = best;
    for (size_t i = (size_t)best; i < n; i++) {
        if (x[i] == x[best]) last = (long)i;
    }
    if (last != best) offer_token(d, last, "ties-to-last", "of equal logits the last was chosen");
    if (d->how.top_k == 0) {
        offer_token(d, 0, "top-k-zero", "id 0 was chosen, as if top_k 0 kept no token");
    }
    offer_token(d, best_of(x, n, -1, -1), "argmin", "the least likely token was chosen");
    const long second = best_of(x, n, 1, best);
    if (second >= 0 && x[second] < x[best]) {
        offer_token(d, second, "second-best", "the second likeliest token was chosen");
    }
    if (dim < n && !d->fits) {
        offer_token(d, best_of(x, dim, 1, -1), "vocabulary-cut",
                    "the likeliest of the first `dim` tokens was chosen");
    }
    if (d->fits) return;
    offer_token(d, best + 1, "id-off-by-one", "the id after the likeliest one");
    offer_token(d, best - 1, "id-off-by-one", "the id before the likeliest one");
}

static void try_distributions(Draw *d) {
    memset(d->p, 0, d->n_vocab * sizeof *d->p);
    d->p[0] = 1;
    if (d->how.top_k == 0) {
        offer_p(d, d->logits.x, 1, "top-k-zero", "id 0 is certain, as if top_k 0 kept no token");
    }
    TraceSampling other = d->how;
    other.temp = 0;
    if (d->how.temp > 0) {
        try_settings(d, &other, d->how.top_k == 0 ? "top-k-zero" : "greedy",
                     "the likeliest token is certain");
    }
}

static void try_rows(Draw *d) {
    const size_t last = d->t->k->row[0], before = last - 1, first = 0;
    const Value *v = &d->s->at[COMP_LOGITS];
    CaseRows x;
    if (last == 0) return;
    if (case_rows_at(d->t, &d->arena, v, &before, 1, &x)) {
        try_logits(d, &d->how, x.x, "logits-of-before", "the logits of the token before were used");
    }
    if (before > 0 && case_rows_at(d->t, &d->arena, v, &first, 1, &x)) {
        try_logits(d, &d->how, x.x, "logits-of-first", "the logits of the first token were used");
    }
}

void cause_sampling(Trial *t) {
    const Site *s = t->k->site;
    const TraceSampling plain = {.given = true, .temp = 1, .top_p = 1, .repeat_penalty = 1};
    Draw d = {.t = t, .s = s, .how = plain, .n_vocab = (size_t)s->model->h.n_vocab};
    if ((t->k->c != COMP_PROBS && t->k->c != COMP_TOKEN) || !s->prompt) return;
    if (s->prompt->sampling.given) {
        d.how = s->prompt->sampling;
    } else if (t->k->c == COMP_TOKEN) {
        d.how.temp = 0;
    }
    if (case_rows(t, &d.arena, &s->at[COMP_LOGITS], &d.logits)) {
        d.p = case_doubles(t, &d.arena, 2, d.n_vocab);
        d.x = d.p + d.n_vocab;
        const bool certain = t->k->c == COMP_TOKEN || !(d.how.temp > 0);
        if (d.p && certain) try_choices(&d);
        if (d.p && !certain) try_distributions(&d);
        if (d.p) {
            try_rows(&d);
            try_penalties(&d);
            try_temperature(&d);
            // Without its filters a sampler may draw nearly anything: only where nothing else fits.
            if (t->k->c == COMP_PROBS || !d.fits) try_filters(&d);
            try_unnormalised(&d);
        }
    }
    arena_free(&d.arena);
}
