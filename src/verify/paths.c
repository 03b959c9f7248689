// The same tokens by other ways; see paths.h.
//
// The reference is one prefill of all tokens with nothing tapped: the logits of every token. Each
// path makes them again and they are compared row by row, so that a difference has a token. A
// backend that declares batch_invariant must give the same bits. Others round in another order on
// another path: their rows are held to the floor of the coarsest rounding on the way.
#include "verify/paths.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/sampler.h"

enum { SHORT_RUN = 6, N_SEQS = 3, LARGE_PROMPT = 600, LARGE_BATCH = 512 };

typedef struct {
    const Model *m;
    DeviceModel *d;
    Oracle *oracle;
    const PathsOptions *o;
    Report *r;
    Error *err;
    size_t n, n_vocab;
    float *want, *got, *alone;  // n x n_vocab each: the reference, the path at hand, for sequences
    double tolerance;           // NMSE of a row; 0: to the bit
    int done, total;
} Paths;

static void step(Paths *p, const char *what) {
    if (p->o->progress) p->o->progress(p->o->user, what, p->done, p->total);
    p->done++;
}

// --- comparing --------------------------------------------------------------------------------

typedef struct {
    size_t row, n_elements;  // the first row that differs; how many of its elements do
    double most, nmse;       // the largest difference there
    bool differs;
} Difference;

// NMSE of got against want; infinite where one is not a number and the other is.
static double row_nmse(const float *got, const float *want, size_t n) {
    double e = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) == 0) continue;
        const double d = (double)got[i] - (double)want[i];
        e += d * d;
    }
    for (size_t i = 0; i < n; i++) s += (double)want[i] * (double)want[i];
    if (e == 0) return 0;
    return isfinite(e) && s > 0 ? e / s : INFINITY;
}

static Difference compare(const Paths *p, const float *got, const float *want, size_t rows) {
    for (size_t r = 0; r < rows; r++, got += p->n_vocab, want += p->n_vocab) {
        if (memcmp(got, want, p->n_vocab * sizeof *got) == 0) continue;
        Difference d = {.row = r, .nmse = row_nmse(got, want, p->n_vocab), .differs = true};
        if (p->tolerance > 0 && d.nmse <= p->tolerance) continue;
        for (size_t i = 0; i < p->n_vocab; i++) {
            if (memcmp(&got[i], &want[i], sizeof *got) == 0) continue;
            const double e = fabs((double)got[i] - (double)want[i]);
            d.n_elements++;
            if (!(e <= d.most)) d.most = isnan(e) ? INFINITY : e;
        }
        return d;
    }
    return (Difference){.differs = false};
}

// what: "a prefill in chunks of 9"; whose: "one prefill", that it is compared with.
static Status say(Paths *p, const char *id, const char *what, const char *whose, size_t rows,
                  const Difference *d) {
    if (!d->differs) {
        char how[64] = "bit-equal";
        if (p->tolerance > 0) snprintf(how, sizeof how, "NMSE at most %.0e", p->tolerance);
        return report_finding(p->r, STAGE_PATHS, -1, id, OUTCOME_PASS, false, p->err,
                              "%s: the logits of %zu token%s, %s", what, rows, rows == 1 ? "" : "s",
                              how);
    }
    return report_finding(p->r, STAGE_PATHS, -1, id, OUTCOME_FAIL, false, p->err,
                          "%s: the logits of token %zu are not those of %s: %zu of %zu differ, by "
                          "up to %.3g (NMSE %.2g)",
                          what, d->row, whose, d->n_elements, p->n_vocab, d->most, d->nmse);
}

// All rows of p->got against the reference.
static Status judge(Paths *p, const char *id, const char *what) {
    const Difference d = compare(p, p->got, p->want, p->n);
    return say(p, id, what, "one prefill", p->n, &d);
}

// --- ways of evaluating -----------------------------------------------------------------------

typedef struct {
    float *to;
    size_t n_vocab, base;
} Sink;

static void keep_row(void *user, size_t index, const float *logits) {
    const Sink *s = user;
    memcpy(s->to + (s->base + index) * s->n_vocab, logits, s->n_vocab * sizeof *logits);
}

static void keep_last(void *user, size_t index, const float *logits) {
    (void)index;
    const Sink *s = user;
    memcpy(s->to, logits, s->n_vocab * sizeof *logits);
}

static Status open_session(const Paths *p, DeviceModel *d, Session **out) {
    const SessionConfig c = {.n_ctx = (int)p->n,
                             .n_seqs = 1,
                             .batch_size = (int)p->n,
                             .type_k = p->o->type_k,
                             .type_v = p->o->type_v};
    return session_new(d, &c, (Notice){0}, out, p->err);
}

// Tokens [from, to) of the prompt, in pieces of `chunk` after a first one of `first` (0: none).
static Status eval_pieces(const Paths *p, Session *s, size_t from, size_t to, size_t first,
                          size_t chunk, float *logits) {
    Status st = OK;
    for (size_t at = from, size = first ? first : chunk; !st && at < to; size = chunk) {
        if (size > to - at) size = to - at;
        Sink sink = {logits, p->n_vocab, at};
        const EvalOptions o = {.n_logits = size, .on_logits = keep_row, .user = &sink};
        st = session_eval(s, 0, p->o->tokens + at, size, &o, NULL, p->err);
        at += size;
    }
    return st;
}

// The whole prompt in a session of its own.
static Status eval_whole(const Paths *p, DeviceModel *d, size_t first, size_t chunk, Tap tap,
                         float *logits) {
    Session *s = NULL;
    Status st = open_session(p, d, &s);
    if (!st) {
        forward_set_tap(session_forward(s), tap);
        st = eval_pieces(p, s, 0, p->n, first, chunk, logits);
    }
    session_free(s);
    return st;
}

static void drop(void *user, const char *name, int layer, const float *x, size_t rows,
                 size_t width) {
    (void)user, (void)name, (void)layer, (void)x, (void)rows, (void)width;
}

// --- one sequence -----------------------------------------------------------------------------

static Status check_twice(Paths *p) {
    step(p, "twice");
    Status st = eval_whole(p, p->d, 0, p->n, (Tap){0}, p->got);
    return st ? st : judge(p, "twice", "the same run again");
}

static Status check_taps(Paths *p) {
    step(p, "taps");
    const Tap tap = {.fn = drop, .scores = true};
    Status st = eval_whole(p, p->d, 0, p->n, tap, p->got);
    return st ? st : judge(p, "taps", "every component captured");
}

static Status check_steps(Paths *p) {
    step(p, "token by token");
    Session *s = NULL;
    Status st = open_session(p, p->d, &s);
    for (size_t i = 0; !st && i < p->n; i++) {
        st = session_step(s, 0, p->o->tokens[i], p->got + i * p->n_vocab, p->err);
    }
    session_free(s);
    return st ? st : judge(p, "token by token", "token by token");
}

static Status check_rest(Paths *p, size_t first) {
    char id[FINDING_ID], what[64];
    snprintf(id, sizeof id, "%zu | rest", first);
    snprintf(what, sizeof what, "%zu token%s, then the rest", first, first == 1 ? "" : "s");
    step(p, id);
    if (first >= p->n) return OK;
    Status st = eval_whole(p, p->d, first, p->n, (Tap){0}, p->got);
    return st ? st : judge(p, id, what);
}

static Status check_chunks(Paths *p, size_t size) {
    char id[FINDING_ID], what[64];
    snprintf(id, sizeof id, "chunks of %zu", size);
    snprintf(what, sizeof what, "a prefill in chunks of %zu", size);
    step(p, id);
    if (size >= p->n) return OK;
    Status st = eval_whole(p, p->d, 0, size, (Tap){0}, p->got);
    return st ? st : judge(p, id, what);
}

// The last token of a prompt of LARGE_PROMPT, in batches of LARGE_BATCH, and at once.
static Status check_large(Paths *p) {
    const size_t sizes[] = {LARGE_PROMPT, LARGE_BATCH};
    const SessionConfig c = {.n_ctx = LARGE_PROMPT,
                             .n_seqs = 1,
                             .batch_size = LARGE_PROMPT,
                             .type_k = p->o->type_k,
                             .type_v = p->o->type_v};
    step(p, "batch of 512");
    if (p->m->h.n_ctx_train < LARGE_PROMPT) return OK;
    int32_t *ids = calloc(LARGE_PROMPT, sizeof *ids);
    if (!ids) return error_memory(p->err, "a prompt", LARGE_PROMPT * sizeof *ids);
    for (size_t i = 0; i < LARGE_PROMPT; i++) ids[i] = p->o->tokens[i % p->n];
    Status st = OK;
    for (int way = 0; !st && way < 2; way++) {
        Session *s = NULL;
        Sink sink = {way ? p->got : p->alone, p->n_vocab, 0};
        st = session_new(p->d, &c, (Notice){0}, &s, p->err);
        for (size_t at = 0; !st && at < LARGE_PROMPT; at += sizes[way]) {
            const size_t left = LARGE_PROMPT - at, n = left < sizes[way] ? left : sizes[way];
            EvalOptions o = {.n_logits = n == left, .on_logits = keep_last, .user = &sink};
            st = session_eval(s, 0, ids + at, n, &o, NULL, p->err);
        }
        session_free(s);
    }
    free(ids);
    if (st) return st;
    const Difference d = compare(p, p->got, p->alone, 1);
    return say(p, "batch of 512", "600 tokens in batches of 512", "one batch", 1, &d);
}

// Other tokens are written over, as after an edited message.
static Status check_rewind(Paths *p) {
    step(p, "rewind");
    Session *s = NULL;
    const size_t half = p->n / 2;
    Status st = open_session(p, p->d, &s);
    if (!st) st = eval_pieces(p, s, 0, half, 0, half ? half : 1, p->got);
    for (size_t i = half; !st && i < p->n; i++) {
        st = session_step(s, 0, p->o->tokens[p->n - 1 - i], p->got + i * p->n_vocab, p->err);
    }
    if (!st) session_rewind(s, 0, half);
    if (!st) st = eval_pieces(p, s, half, p->n, 0, p->n, p->got);
    session_free(s);
    return st ? st : judge(p, "rewind", "half of the tokens replaced");
}

// --- several sequences ------------------------------------------------------------------------

// A batch that is being put together. row: which of its tokens' logits come first, second, ...
typedef struct {
    int n;
    int32_t *token, *pos, *seq, *row;
    int32_t *memory;
} Lot;

static Status lot_new(size_t n, Lot *out, Error *err) {
    *out = (Lot){.memory = calloc(4 * n, sizeof *out->memory)};
    if (!out->memory) return error_memory(err, "a batch", 4 * n * sizeof *out->memory);
    out->token = out->memory, out->pos = out->token + n;
    out->seq = out->pos + n, out->row = out->seq + n;
    return OK;
}

static void lot_add(Lot *b, int32_t token, size_t pos, int seq, size_t row) {
    const int i = b->n++;
    b->token[i] = token, b->pos[i] = (int32_t)pos, b->seq[i] = seq;
    b->row[row] = i;
}

// Runs what was put together and empties it.
static Status lot_run(const Paths *p, Lot *b, Forward *f, float *logits) {
    const int n = b->n;
    b->n = 0;
    if (n == 0) return OK;
    return forward_run(f, n, b->token, b->pos, b->seq, n, b->row, logits, p->err);
}

static Status open_forward(const Paths *p, int n_seqs, Forward **out) {
    const ForwardConfig c = {(int)p->n, n_seqs, (int)p->n, p->o->type_k, p->o->type_v};
    *out = NULL;
    return forward_new(p->d, &c, out, p->err);
}

// Three sequences of other tokens and other lengths, n in all.
typedef struct {
    size_t len[N_SEQS], base[N_SEQS], total;
} Mixture;

static Mixture mixture_of(size_t n) {
    Mixture m = {.len = {n / 2, n / 3, n / 6}, .base = {0, n / 2, n / 2 + n / 3}};
    m.total = m.base[2] + m.len[2];
    return m;
}

static int32_t mixture_token(const Paths *p, int seq, size_t pos) {
    const size_t at = seq == 0 ? pos : seq == 1 ? p->n - 1 - pos : p->n / 2 + pos;
    return p->o->tokens[at];
}

// Each sequence in one prefill of its own: p->alone, one sequence after the other.
static Status run_alone(Paths *p, const Mixture *m, Lot *b) {
    Status st = OK;
    for (int s = 0; !st && s < N_SEQS; s++) {
        Forward *f = NULL;
        st = open_forward(p, 1, &f);
        for (size_t i = 0; !st && i < m->len[s]; i++) {
            lot_add(b, mixture_token(p, s, i), i, 0, i);
        }
        if (!st) st = lot_run(p, b, f, p->alone + m->base[s] * p->n_vocab);
        forward_free(f);
    }
    return st;
}

// All but the last token of each, mixed in one batch; then the last ones, as a server's step does.
// p->got: each sequence's rows, then one last row of each.
static Status run_mixed(Paths *p, const Mixture *m, Lot *b) {
    Forward *f = NULL;
    Status st = open_forward(p, N_SEQS, &f);
    for (size_t i = 0; !st && i + 1 < m->len[0]; i++) {
        for (int s = 0; s < N_SEQS; s++) {
            if (i + 1 < m->len[s])
                lot_add(b, mixture_token(p, s, i), i, s, m->base[s] - (size_t)s + i);
        }
    }
    if (!st) st = lot_run(p, b, f, p->got);
    for (int s = 0; !st && s < N_SEQS; s++) {
        lot_add(b, mixture_token(p, s, m->len[s] - 1), m->len[s] - 1, s, (size_t)s);
    }
    if (!st) st = lot_run(p, b, f, p->got + (m->total - N_SEQS) * p->n_vocab);
    forward_free(f);
    return st;
}

static Status judge_mixed(Paths *p, const Mixture *m) {
    char what[96] = "3 sequences in one batch";
    Difference d = {.differs = false};
    for (size_t s = 0; s < N_SEQS && !d.differs; s++) {
        d = compare(p, p->got + (m->base[s] - s) * p->n_vocab, p->alone + m->base[s] * p->n_vocab,
                    m->len[s] - 1);
        if (d.differs) snprintf(what, sizeof what, "3 sequences in one batch, number %zu", s);
    }
    Status st = say(p, "sequences mixed", what, "the sequence alone", m->total - N_SEQS, &d);
    strcpy(what, "one token each of 3 sequences");
    d.differs = false;
    for (size_t s = 0; s < N_SEQS && !d.differs; s++) {
        const size_t last = m->len[s] - 1;
        d = compare(p, p->got + (m->total - N_SEQS + s) * p->n_vocab,
                    p->alone + (m->base[s] + last) * p->n_vocab, 1);
        d.row = last;
        if (d.differs) snprintf(what, sizeof what, "one token each of 3 sequences, number %zu", s);
    }
    return st ? st : say(p, "sequences step", what, "the sequence alone", N_SEQS, &d);
}

static Status check_sequences(Paths *p) {
    const Mixture m = mixture_of(p->n);
    Lot b = {0};
    step(p, "many sequences");
    if (m.len[N_SEQS - 1] == 0) return OK;  // fewer than six tokens
    Status st = lot_new(p->n, &b, p->err);
    if (!st) st = run_alone(p, &m, &b);
    if (!st) st = run_mixed(p, &m, &b);
    free(b.memory);
    return st ? st : judge_mixed(p, &m);
}

// The first half is evaluated for one sequence, copied to another, and goes on there.
static Status check_copy(Paths *p) {
    const size_t half = p->n / 2;
    Forward *f = NULL;
    Lot b = {0};
    step(p, "shared prefix");
    if (half == 0) return OK;
    Status st = lot_new(p->n, &b, p->err);
    if (!st) st = open_forward(p, 2, &f);
    for (size_t i = 0; !st && i < half; i++) lot_add(&b, p->o->tokens[i], i, 0, i);
    if (!st) st = lot_run(p, &b, f, p->got);
    if (!st) forward_kv_copy(f, 0, 1, (int)half);
    for (size_t i = half; !st && i < p->n; i++) lot_add(&b, p->o->tokens[i], i, 1, i - half);
    if (!st) st = lot_run(p, &b, f, p->got + half * p->n_vocab);
    forward_free(f);
    free(b.memory);
    return st ? st : judge(p, "shared prefix", "a prefix copied to another sequence");
}

// --- other devices and caches -----------------------------------------------------------------

static Status check_threads(Paths *p, int n_threads) {
    char id[FINDING_ID], what[64];
    DeviceModel *d = NULL;
    snprintf(id, sizeof id, "threads %d", n_threads);
    snprintf(what, sizeof what, "on %d thread%s", n_threads, n_threads == 1 ? "" : "s");
    step(p, id);
    const BackendConfig config = {.n_threads = n_threads, .isa = p->o->isa};
    Status st = device_model_open(p->m, device_model_ops(p->d), &config, &d, p->err);
    if (!st) st = eval_whole(p, d, 0, p->n, (Tap){0}, p->got);
    device_model_close(d);
    return st ? st : judge(p, id, what);
}

// A few tokens through the oracle, in a report of their own that becomes one finding.
static Status check_components(Paths *p, DeviceModel *d, TensorType k, TensorType v,
                               const char *id) {
    const size_t n = p->n < SHORT_RUN ? p->n : SHORT_RUN;
    const LiveOptions o = {.type_k = k, .type_v = v, .scores = true, .replay = {.max_causes = 1}};
    Report r;
    Text text = {0};
    int prompt;
    report_init(&r);
    Status st = report_prompt(&r, id, p->o->tokens, n, "", &prompt, p->err);
    if (!st) st = live_verify(d, p->oracle, p->o->tokens, n, &o, &r, prompt, NULL, p->err);
    if (!st) {
        report_finish(&r);
        const ComponentResult *worst = NULL;
        for (size_t i = 0; i < r.n_components; i++) {
            if (!worst || r.components[i].worst.ratio > worst->worst.ratio)
                worst = &r.components[i];
        }
        char name[COMPONENT_TEXT] = "";
        const bool passed = report_passed(&r);
        if (worst) component_text(worst->ref, name);
        if (!passed) report_sentence(&r, &text);
        const char *sentence = text.data ? text.data : "";
        st = passed ? report_finding(p->r, STAGE_PATHS, -1, id, OUTCOME_PASS, false, p->err,
                                     "%s: %zu components of %zu tokens within their bounds, "
                                     "largest ratio %.2g (%s)",
                                     id, r.n_components, n, worst ? worst->worst.ratio : 0, name)
                    : report_finding(p->r, STAGE_PATHS, -1, id, OUTCOME_FAIL, false, p->err,
                                     "%s: %.*s", id, (int)strcspn(sentence, "\n"), sentence);
    }
    text_free(&text);
    report_free(&r);
    return st;
}

static Status check_cache(Paths *p, TensorType type) {
    char id[FINDING_ID];
    const int head_dim = p->m->h.head_dim;
    snprintf(id, sizeof id, "cache %s", type_info(type)->name);
    step(p, id);
    if (type == p->o->type_k && type == p->o->type_v) return OK;  // the components ran with it
    if ((uint32_t)head_dim % type_info(type)->block_len != 0) {
        return report_finding(p->r, STAGE_PATHS, -1, id, OUTCOME_SKIPPED, false, p->err,
                              "%s: heads of %d elements are no multiple of %u", id, head_dim,
                              type_info(type)->block_len);
    }
    return check_components(p, p->d, type, type, id);
}

static Status check_isa(Paths *p, const char *isa) {
    char id[FINDING_ID];
    DeviceModel *d = NULL;
    snprintf(id, sizeof id, "instructions %s", isa);
    step(p, id);
    const BackendConfig config = {.n_threads = p->o->n_threads, .isa = isa};
    Status st = device_model_open(p->m, device_model_ops(p->d), &config, &d, p->err);
    if (!st) st = check_components(p, d, p->o->type_k, p->o->type_v, id);
    device_model_close(d);
    return st;
}

// --- the sampler ------------------------------------------------------------------------------

static bool all_finite(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return false;
    }
    return true;
}

static int32_t first_largest(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++) best = x[i] > x[best] ? i : best;
    return (int32_t)best;
}

// The greedy choice of each token's logits; then with the largest put in a second place, behind and
// before the first.
static Status check_greedy(Paths *p) {
    plumb_sampling greedy = plumb_sampling_default();
    greedy.temperature = 0;
    Sampler *s = NULL;
    size_t n_checked = 0, bad_row = 0;
    int32_t got = 0, want = 0;
    step(p, "sampler");
    Status st = sampler_new(&greedy, (int)p->n_vocab, (int)p->n, &s, p->err);
    for (size_t r = 0; !st && r < p->n && got == want; r++) {
        float *x = p->got;
        memcpy(x, p->want + r * p->n_vocab, p->n_vocab * sizeof *x);
        if (!all_finite(x, p->n_vocab)) continue;  // the components tell
        const size_t best = (size_t)first_largest(x, p->n_vocab);
        const size_t tie[] = {best, p->n_vocab - 1, best / 2};
        for (int i = 0; !st && i < 3 && got == want; i++) {
            x[tie[i]] = x[best];
            want = first_largest(x, p->n_vocab);
            st = sampler_next(s, x, &got, p->err);
            bad_row = r, n_checked++;
        }
    }
    sampler_free(s);
    if (st) return st;
    if (got == want) {
        return report_finding(p->r, STAGE_PATHS, -1, "sampler greedy", OUTCOME_PASS, false, p->err,
                              "the greedy choice is the largest logit, the lowest id among equal "
                              "ones: %zu rows",
                              n_checked);
    }
    return report_finding(p->r, STAGE_PATHS, -1, "sampler greedy", OUTCOME_FAIL, false, p->err,
                          "the greedy choice after token %zu is %d and should be %d, the lowest id "
                          "of the largest logit",
                          bad_row, got, want);
}

// Settings of the sampler.
static const TraceSampling settings[] = {
    {.given = true, .temp = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .repeat_penalty = 1},
    {.given = true,
     .temp = 1,
     .top_p = 1,
     .repeat_penalty = 1.1,
     .presence_penalty = 0.2,
     .frequency_penalty = 0.3,
     .repeat_last_n = -1},
    {.given = true, .temp = 0.3, .top_p = 0.5, .repeat_penalty = 1.3, .repeat_last_n = 8},
};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

static Status probabilities(const Paths *p, const TraceSampling *t, size_t row, float *out) {
    plumb_sampling o = plumb_sampling_default();
    o.temperature = (float)t->temp, o.top_k = t->top_k;
    o.top_p = (float)t->top_p, o.min_p = (float)t->min_p;
    o.repeat_penalty = (float)t->repeat_penalty, o.repeat_last_n = t->repeat_last_n;
    o.presence_penalty = (float)t->presence_penalty;
    o.frequency_penalty = (float)t->frequency_penalty;
    Sampler *s = NULL;
    Status st = sampler_new(&o, (int)p->n_vocab, (int)p->n, &s, p->err);
    for (size_t i = 0; !st && i <= row; i++) sampler_accept(s, p->o->tokens[i]);
    if (!st) st = sampler_probs(s, p->want + row * p->n_vocab, out, p->err);
    sampler_free(s);
    return st;
}

// The probabilities after token `row`, against the oracle's from the same logits. Where a filter
// cuts, a rounding of the sum of probabilities may decide: a cut a little to either side is right.
static Status judge_draw(const Paths *p, const TraceSampling *t, size_t row, const float *got,
                         Cell *best) {
    static const double cuts[] = {0, 1e-5, -1e-5};
    const Rounding rounding = {.out = {PREC_F32}};
    const TraceArray logits = {{COMP_LOGITS, -1}, p->want + row * p->n_vocab, 1, p->n_vocab, row,
                               "logits"};
    Status st = OK;
    *best = (Cell){.ratio = RATIO_MOST};
    for (int i = 0; !st && i < 3 && best->ratio > 1; i++) {
        TracePrompt prompt = {
            .name = "", .tokens = p->o->tokens, .n_tokens = row + 1, .sampling = *t};
        prompt.sampling.top_p += t->top_p < 1 ? cuts[i] : 0;
        prompt.sampling.min_p *= 1 + cuts[i];
        Site s = {.oracle = p->oracle,
                  .model = p->m,
                  .rounding = &rounding,
                  .tokens = p->o->tokens,
                  .n = row + 1,
                  .layer = -1,
                  .prompt = &prompt};
        s.at[COMP_LOGITS] = (Value){.seen = &logits, .width = p->n_vocab};
        Expected e;
        Cell cell;
        st = expect(&s, COMP_PROBS, &row, 1, &e, p->err);
        if (st) break;
        compare_cells(&e, got, COMP_PROBS, p->n_vocab, PREC_F32, &cell);
        expected_free(&e);
        if (i == 0 || cell.ratio < best->ratio) *best = cell;
    }
    return st;
}

static Status check_draws(Paths *p) {
    const size_t rows[] = {p->n - 1, p->n / 2};
    double most = 0;
    step(p, "sampler");
    for (int i = 0; i < N_SETTINGS; i++) {
        for (int k = 0; k < 2; k++) {
            const TraceSampling *t = &settings[i];
            Cell cell;
            if (!all_finite(p->want + rows[k] * p->n_vocab, p->n_vocab)) continue;
            Status st = probabilities(p, t, rows[k], p->got);
            if (!st) st = judge_draw(p, t, rows[k], p->got, &cell);
            if (st) return st;
            if (cell.ratio > most) most = cell.ratio;
            if (cell.ratio <= 1) continue;
            return report_finding(
                p->r, STAGE_PATHS, -1, "sampler draws", OUTCOME_FAIL, false, p->err,
                "temp %g, top-k %d, top-p %g, min-p %g, penalties %g %g %g over %d: the "
                "probability of id %zu after token %zu is %.6g, off by %.3g of at most %.3g",
                t->temp, t->top_k, t->top_p, t->min_p, t->repeat_penalty, t->presence_penalty,
                t->frequency_penalty, t->repeat_last_n, cell.element, rows[k],
                (double)p->got[cell.element], cell.error, cell.bound);
        }
    }
    return report_finding(p->r, STAGE_PATHS, -1, "sampler draws", OUTCOME_PASS, false, p->err,
                          "probabilities under %d settings are the oracle's, largest ratio %.2g",
                          N_SETTINGS, most);
}

// --- all --------------------------------------------------------------------------------------

static const size_t chunk_sizes[] = {2, 3, 7, 8, 9, 31, 32, 33};
enum { N_CHUNK_SIZES = sizeof chunk_sizes / sizeof *chunk_sizes };

static Status check_quick(Paths *p) {
    p->total = 6;
    Status st = check_twice(p);
    if (!st) st = check_taps(p);
    if (!st) st = check_steps(p);
    if (!st) st = check_rest(p, 9);
    if (!st) st = check_greedy(p);
    return st ? st : check_draws(p);
}

static Status check_one_sequence(Paths *p) {
    Status st = check_twice(p);
    if (!st) st = check_taps(p);
    if (!st) st = check_steps(p);
    if (!st) st = check_rest(p, 1);
    for (int i = 0; !st && i < N_CHUNK_SIZES; i++) {
        st = check_rest(p, chunk_sizes[i]);
        if (!st) st = check_chunks(p, chunk_sizes[i]);
    }
    if (!st) st = check_large(p);
    return st ? st : check_rewind(p);
}

// 1, 2, 3, and doubled up to what was asked for.
static Status check_thread_counts(Paths *p) {
    const int most = p->o->n_threads > 3 ? p->o->n_threads : 3;
    Status st = OK;
    for (int n = 1; !st && n < most; n += n < 3 ? 1 : n) {
        if (n != p->o->n_threads) st = check_threads(p, n);
    }
    return st || most == p->o->n_threads ? st : check_threads(p, most);
}

static Status check_devices(Paths *p) {
    static const TensorType caches[] = {TYPE_F32, TYPE_F16, TYPE_Q8_0};
    const BackendOps *ops = device_model_ops(p->d);
    Status st = OK;
    for (int i = 0; !st && i < 3; i++) st = check_cache(p, caches[i]);
    if (st || !ops || !ops->isa_at) return st;
    const char *own = p->o->isa ? p->o->isa : ops->isa_at(0), *isa;
    for (int i = 0; !st && (isa = ops->isa_at(i)); i++) {
        if (strcmp(isa, own) != 0) st = check_isa(p, isa);  // the components ran on that one
    }
    return st ? st : check_thread_counts(p);
}

static Status check_all(Paths *p) {
    p->total = 2 * N_CHUNK_SIZES + 16;
    Status st = check_one_sequence(p);
    if (!st) st = check_sequences(p);
    if (!st) st = check_copy(p);
    if (!st) st = check_greedy(p);
    if (!st) st = check_draws(p);
    return st ? st : check_devices(p);
}

// The floor of the coarsest rounding on the way, with its margin. Eight-bit codes hold about as
// much as a bfloat16.
static double path_tolerance(const Paths *p) {
    Precision most = PREC_F32;
    if (device_model_batch_invariant(p->d)) return 0;
    for (int l = 0; l < p->m->h.n_layers; l++) {
        const LayerWeights *w = &p->m->layers[l];
        const Tensor *const all[] = {w->q,        w->k,      w->v,       w->attn_out,
                                     w->ffn_gate, w->ffn_up, w->ffn_down};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            const ActQuant a = device_model_activation(p->d, l, all[i]->type);
            if (a == ACT_F16 && most == PREC_F32) most = PREC_F16;
            if (a != ACT_F16 && a != ACT_F32) most = PREC_BF16;
        }
    }
    const TensorType caches[] = {p->o->type_k, p->o->type_v};
    for (int i = 0; i < 2; i++) {
        if (caches[i] == TYPE_F16 && most == PREC_F32) most = PREC_F16;
        if (caches[i] == TYPE_Q8_0) most = PREC_BF16;
    }
    return NMSE_MARGIN * nmse_floor(most);
}

Status paths_check(const Model *m, DeviceModel *d, Oracle *o, const PathsOptions *options,
                   Report *r, Error *err) {
    Error own;
    Paths p = {.m = m,
               .d = d,
               .oracle = o,
               .o = options,
               .r = r,
               .err = err ? err : &own,
               .n = options->n,
               .n_vocab = (size_t)m->h.n_vocab};
    if (p.n == 0) return error_set(err, ERR_USAGE, "the paths need a prompt");
    p.tolerance = path_tolerance(&p);
    p.want = calloc(3 * p.n * p.n_vocab, sizeof *p.want);
    if (!p.want) return error_memory(err, "logits", 3 * p.n * p.n_vocab * sizeof *p.want);
    p.got = p.want + p.n * p.n_vocab, p.alone = p.got + p.n * p.n_vocab;
    Status st = eval_whole(&p, d, 0, p.n, (Tap){0}, p.want);
    if (!st) st = options->quick ? check_quick(&p) : check_all(&p);
    free(p.want);
    return st;
}
