// Generating: prompt in, tokens and text out. See plumb.h, "generating".
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/plumb_internal.h"

plumb_sampling plumb_sampling_default(void) {
    return (plumb_sampling){.temperature = 0.8f,
                            .top_k = 40,
                            .top_p = 0.95f,
                            .min_p = 0.05f,
                            .typical_p = 1,
                            .repeat_penalty = 1,
                            .repeat_last_n = 64,
                            .seed = -1};
}

plumb_generation plumb_generation_default(void) {
    return (plumb_generation){.sampling = plumb_sampling_default(), .max_tokens = -1};
}

const char *plumb_finish_name(plumb_finish f) {
    static const char *const names[] = {"stop", "length", "context", "interrupted"};
    return (unsigned)f < 4 ? names[f] : "unknown";
}

typedef struct {
    plumb_session *s;
    const plumb_generation *o;
    size_t shown;  // bytes of stream.text that on_text has seen
    // The last batch: the last token (at first, of the prompt) and what was drafted behind it. The
    // next token is chosen from the logits of `row`; up to it all of the batch are tokens that were
    // chosen, and with them the cache holds n_kept that are right.
    int32_t batch[1 + LOOKUP_MOST];
    size_t n_batch, row, n_kept;
} Generation;

static void take_logits(void *user, size_t index, const float *logits) {
    (void)index;
    plumb_session *s = ((Generation *)user)->s;
    memcpy(s->logits, logits, (size_t)s->m->model->h.n_vocab * sizeof *logits);
}

static void take_progress(void *user, size_t done, size_t total) {
    const Generation *g = user;
    if (g->o->on_prefill) g->o->on_prefill(g->o->user, done, total);
}

static Status check_options(const plumb_session *s, const plumb_generation *o, Error *err) {
    if (o->max_tokens < -1) {
        return error_set(err, ERR_USAGE,
                         "-n must be -1 (until the end), 0 (the prompt only) or more, not %d",
                         o->max_tokens);
    }
    if (o->n_logprobs < 0 || o->n_logprobs > s->m->model->h.n_vocab) {
        return error_set(err, ERR_USAGE,
                         "logprobs must lie between 0 and the vocabulary's %d, not be %d",
                         s->m->model->h.n_vocab, o->n_logprobs);
    }
    if (o->lookup_max < 0 || o->lookup_max > LOOKUP_MOST) {
        return error_set(err, ERR_USAGE,
                         "--lookup-max must lie between 1 and %d (0 is off), not be %d",
                         LOOKUP_MOST, o->lookup_max);
    }
    if (o->lookup_max && !device_model_batch_invariant(s->m->device)) {
        return error_set(err, ERR_UNAVAILABLE,
                         "--lookup would change the text: what %s computes for a token depends on "
                         "its batch; leave it out",
                         device_model_backend(s->m->device));
    }
    return OK;
}

// For a sequence of the prompt and n_made tokens.
static Status prepare_lookup(plumb_session *s, size_t n_made, const plumb_generation *o,
                             Error *err) {
    const size_t n_ctx = (size_t)session_n_ctx(s->session),
                 n_vocab = (size_t)s->m->model->h.n_vocab;
    const size_t most = (size_t)session_batch_size(s->session);
    const size_t rows = (size_t)o->lookup_max < most ? (size_t)o->lookup_max + 1 : most;
    const size_t n = s->prompt.len + n_made;
    if (!o->lookup_max) return OK;
    if (rows > s->logits_rows) {
        float *logits = realloc(s->logits, rows * n_vocab * sizeof *logits);
        if (!logits) return error_memory(err, "logits", rows * n_vocab * sizeof *logits);
        s->logits = logits, s->logits_rows = rows;
    }
    return lookup_reset(&s->lookup, n < n_ctx + 1 ? n : n_ctx + 1, err);
}

// All that a decode step needs is taken here, so that the step allocates nothing.
static Status prepare(plumb_session *s, const int32_t *prompt, size_t n, const plumb_generation *o,
                      Error *err) {
    size_t most = (size_t)session_n_ctx(s->session) + 1;
    s->stream.text.len = s->stream.pending.len = s->piece.len = 0;
    if (o->max_tokens >= 0 && (size_t)o->max_tokens < most) most = (size_t)o->max_tokens;
    s->made.len = 0;
    if (prompt == s->prompt.data) {  // built in place by chat.c, or the last result's
        s->prompt.len = n;
    } else {
        s->prompt.len = 0;
        for (size_t i = 0; i < n; i++) {
            if (!tokens_append(&s->prompt, prompt[i]))
                return error_memory(err, "the prompt", n * 4);
        }
    }
    while (s->made.cap < most) {  // appending grows it; then it is emptied again
        s->made.len = s->made.cap;
        if (!tokens_append(&s->made, 0)) return error_memory(err, "the answer", most * 4);
    }
    s->made.len = 0;
    if (!text_reserve(&s->stream.text, 16 * most) || !text_reserve(&s->stream.pending, 4096) ||
        !text_reserve(&s->piece, 1024)) {
        return error_memory(err, "the answer's text", 16 * most);
    }
    if (o->n_logprobs > 0 && (most > s->cap_logprobs || o->n_logprobs != s->n_logprobs)) {
        s->cap_logprobs = 0;  // whatever fails below, the old sizes no longer hold
        plumb_logprob *chosen = realloc(s->chosen, most * sizeof *chosen);
        if (chosen) s->chosen = chosen;
        plumb_logprob *top = realloc(s->top, most * (size_t)o->n_logprobs * sizeof *top);
        if (top) s->top = top;
        if (!chosen || !top) return error_memory(err, "log-probabilities", most * 8);
        s->cap_logprobs = most, s->n_logprobs = o->n_logprobs;
    }
    return prepare_lookup(s, most, o, err);
}

// Brings the cache to hold exactly the prompt, its last token evaluated last, so that its logits
// are there.
static Status read_prompt(Generation *g, plumb_result *r, bool *whole, Error *err) {
    plumb_session *s = g->s;
    const size_t n = s->prompt.len;
    size_t kept = session_keep(s->session, 0, s->prompt.data, n);
    if (kept == n) session_rewind(s->session, 0, kept = n - 1);
    const EvalOptions e = {.n_logits = 1,
                           .on_logits = take_logits,
                           .on_progress = take_progress,
                           .user = g,
                           .interrupt = &s->interrupted};
    size_t done = 0;
    double start = clock_seconds();
    Status st = session_eval(s->session, 0, s->prompt.data + kept, n - kept, &e, &done, err);
    r->prefill_seconds = clock_seconds() - start;
    r->n_cached = kept;
    r->n_read = done;
    *whole = done == n - kept;
    return st;
}

static void note_logprobs(plumb_session *s, const plumb_generation *o, const float *logits,
                          int32_t token) {
    const size_t i = s->made.len - 1, n = (size_t)o->n_logprobs;
    if (n == 0) return;
    s->chosen[i] = (plumb_logprob){token, sampler_logprob(logits, s->m->model->h.n_vocab, token)};
    sampler_top(s->sampler, logits, o->n_logprobs, s->top + i * n);
}

// Shows what is settled; false when the caller wants no more.
static bool show(Generation *g) {
    Stream *t = &g->s->stream;
    if (t->text.len == g->shown) return true;
    const char *from = t->text.data + g->shown;
    size_t len = t->text.len - g->shown;
    g->shown = t->text.len;
    return !g->o->on_text || g->o->on_text(g->o->user, from, len);
}

// A draft of what follows the last token: no longer than there is room for, and nothing past the
// tokens that may yet be made.
static size_t draft(const Generation *g, int32_t *to) {
    const plumb_session *s = g->s;
    const plumb_generation *o = g->o;
    size_t most = (size_t)o->lookup_max;
    const size_t batch = (size_t)session_batch_size(s->session) - 1;
    const size_t context = (size_t)session_n_ctx(s->session) - g->n_kept - 1;
    if (most > batch) most = batch;
    if (most > context) most = context;
    if (o->max_tokens >= 0 && most > (size_t)o->max_tokens - s->made.len - 1)
        most = (size_t)o->max_tokens - s->made.len - 1;
    return most ? lookup_draft(&s->lookup, most, to) : 0;
}

// Evaluates the last token, with a draft behind it.
static Status step(Generation *g, int32_t token, plumb_result *r, Error *err) {
    plumb_session *s = g->s;
    const double before = clock_seconds();
    session_rewind(s->session, 0, g->n_kept);  // a draft that was wrong is taken back
    g->batch[0] = token;
    g->n_batch = 1 + draft(g, g->batch + 1), g->row = 0;
    Status st = session_step_rows(s->session, 0, g->batch, (int)g->n_batch, s->logits, err);
    if (st) return st;
    g->n_kept++;
    r->decode_seconds += clock_seconds() - before;
    r->n_decoded++;
    r->n_drafted += g->n_batch - 1;
    return OK;
}

// Was the token that was chosen drafted in its place? Its logits are then there already.
static bool drafted(Generation *g, int32_t token, plumb_result *r) {
    if (g->row + 1 >= g->n_batch || g->batch[g->row + 1] != token) return false;
    g->row++, g->n_kept++;
    r->n_accepted++;
    return true;
}

// The loop: choose, show, step. Ends with the reason in *finish.
static Status decode(Generation *g, double start, plumb_result *r, Error *err) {
    plumb_session *s = g->s;
    const plumb_generation *o = g->o;
    const size_t n_ctx = (size_t)session_n_ctx(s->session);
    const unsigned piece_flags = o->keep_special ? DECODE_SPECIAL : 0;
    for (;;) {
        if (o->max_tokens >= 0 && s->made.len >= (size_t)o->max_tokens)
            return r->finish = PLUMB_FINISH_LENGTH, OK;
        if (__atomic_load_n(&s->interrupted, __ATOMIC_RELAXED))
            return r->finish = PLUMB_FINISH_INTERRUPTED, OK;
        const float *logits = s->logits + g->row * (size_t)s->m->model->h.n_vocab;
        int32_t token;
        Status st = sampler_next(s->sampler, logits, &token, err);
        if (st) return st;
        sampler_accept(s->sampler, token);
        if (o->lookup_max) lookup_accept(&s->lookup, token);
        CHECK(tokens_append(&s->made, token));
        note_logprobs(s, o, logits, token);
        if (s->made.len == 1) r->first_token_seconds = clock_seconds() - start;
        if (!o->ignore_end && plumb_is_end(s->m, token)) return r->finish = PLUMB_FINISH_STOP, OK;
        s->piece.len = 0;
        // Rows past the vocabulary have no text.
        if (token < tokenizer_n_vocab(s->m->tokenizer) &&
            (!tokenizer_piece(s->m->tokenizer, token, piece_flags, &s->piece) ||
             !stream_feed(&s->stream, s->piece.data, s->piece.len))) {
            return error_memory(err, "the answer's text", s->stream.text.len);
        }
        if (!show(g)) return r->finish = PLUMB_FINISH_INTERRUPTED, OK;
        if (s->stream.stopped) return r->finish = PLUMB_FINISH_STOP, OK;
        if (o->max_tokens >= 0 && s->made.len >= (size_t)o->max_tokens) continue;
        if (g->n_kept >= n_ctx) return r->finish = PLUMB_FINISH_CONTEXT, OK;
        if (drafted(g, token, r)) continue;
        st = step(g, token, r, err);
        if (st) return st;
    }
}

// What follows the prompt. Drafts that nobody came to are taken back at the end.
static Status answer(Generation *g, double start, plumb_result *r, Error *err) {
    plumb_session *s = g->s;
    for (size_t i = 0; i < s->prompt.len; i++) {
        sampler_accept(s->sampler, s->prompt.data[i]);
        if (g->o->lookup_max) lookup_read(&s->lookup, s->prompt.data[i]);
    }
    g->n_batch = 1, g->n_kept = s->prompt.len;
    Status st = decode(g, start, r, err);
    session_rewind(s->session, 0, g->n_kept);
    return st;
}

Status generate(plumb_session *s, const int32_t *prompt, size_t n_prompt, const plumb_generation *o,
                bool trim_space, plumb_result *r, Error *err) {
    Generation g = {.s = s, .o = o};
    const double start = clock_seconds();
    *r = (plumb_result){0};
    if (n_prompt == 0)
        return error_set(err, ERR_USAGE, "the prompt is empty: there is no token to evaluate");
    Status st = check_options(s, o, err);
    if (!st) st = sampler_reset(s->sampler, &o->sampling, err);
    if (!st) st = prepare(s, prompt, n_prompt, o, err);
    if (st) return st;
    stream_reset(&s->stream, o->stop, o->n_stop, trim_space);
    bool whole = false;
    st = read_prompt(&g, r, &whole, err);
    if (st) return st;
    r->finish = PLUMB_FINISH_INTERRUPTED;
    if (whole) st = answer(&g, start, r, err);
    if (st) return st;
    if (!stream_end(&s->stream)) return error_memory(err, "the answer's text", s->stream.text.len);
    show(&g);
    r->text = s->stream.text.data, r->text_len = s->stream.text.len;
    r->tokens = s->made.data, r->n_tokens = s->made.len;
    r->prompt_tokens = s->prompt.data, r->n_prompt_tokens = s->prompt.len;
    r->chosen = o->n_logprobs > 0 ? s->chosen : NULL;
    r->top = o->n_logprobs > 0 ? s->top : NULL;
    r->seed = sampler_seed(s->sampler);
    return OK;
}

plumb_status plumb_generate(plumb_session *s, const int32_t *prompt, size_t n_prompt,
                            const plumb_generation *options, plumb_result *result,
                            plumb_error *err) {
    const plumb_generation o = options ? *options : plumb_generation_default();
    __atomic_store_n(&s->interrupted, 0, __ATOMIC_RELAXED);
    return (plumb_status)generate(s, prompt, n_prompt, &o, false, result, error_of(err));
}
