// Sessions; see session.h.
#include "engine/session.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"

enum { DEFAULT_BATCH = 512, MAX_BATCH = 8192 };

struct Session {
    DeviceModel *d;
    Forward *forward;
    SessionConfig config;
    TokenList *cached;             // n_seqs, each with room for n_ctx
    int32_t *pos, *seq, *out_row;  // batch_size each
    float *logits;                 // logits_rows x n_vocab
    size_t logits_rows;
};

static Status check_kv_type(const char *flag, TensorType type, int head_dim, Error *err) {
    if (type != TYPE_F32 && type != TYPE_F16 && type != TYPE_Q8_0) {
        return error_set(err, ERR_USAGE, "%s must be f32, f16 or q8_0", flag);
    }
    if (type == TYPE_Q8_0 && head_dim % 32 != 0) {
        return error_set(
            err, ERR_USAGE,
            "%s q8_0 needs heads of a multiple of 32 elements, this model's have %d; use f16", flag,
            head_dim);
    }
    return OK;
}

static ForwardConfig forward_config(const SessionConfig *c) {
    return (ForwardConfig){c->n_ctx, c->n_seqs, c->batch_size, c->type_k, c->type_v};
}

// No batch is longer than the context, none shorter than one token of each sequence.
static void fit_batch(SessionConfig *c) {
    if (c->batch_size > c->n_ctx) c->batch_size = c->n_ctx;
    if (c->batch_size < c->n_seqs) c->batch_size = c->n_seqs;
}

// Bytes that each part of the model can still take; 0: unknown.
typedef struct {
    uint64_t free[DEVICE_PARTS];
} Room;

static Room room_of(const DeviceModel *d) {
    Room r = {{0}};
    for (int i = 0; i < d->n_parts; i++) {
        r.free[i] = d->parts[i].ops->memory_free(d->parts[i].backend);
    }
    return r;
}

static uint64_t bytes_at(const DeviceModel *d, int part, SessionConfig c, int n_ctx) {
    c.n_ctx = n_ctx;
    fit_batch(&c);
    const ForwardConfig f = forward_config(&c);
    return forward_bytes(d->model, &d->parts[part], &f);
}

// The first part that has no room for a context in an n-th of its memory; -1: all have.
static int part_too_small(const DeviceModel *d, const Room *r, const SessionConfig *c, int n_ctx,
                          uint64_t n) {
    for (int i = 0; i < d->n_parts; i++) {
        if (r->free[i] && bytes_at(d, i, *c, n_ctx) > r->free[i] / n) return i;
    }
    return -1;
}

// The largest context that fits, less than one that does not; 0: none.
static int largest_context(const DeviceModel *d, const Room *r, const SessionConfig *c, int n_ctx) {
    int fits = 0, fails = n_ctx;
    while (fails - fits > 1) {
        const int middle = fits + (fails - fits) / 2;
        if (part_too_small(d, r, c, middle, 1) < 0)
            fits = middle;
        else
            fails = middle;
    }
    return fits;
}

static Status no_room(const DeviceModel *d, const Room *r, const SessionConfig *c, int part,
                      Error *err) {
    const DevicePart *p = &d->parts[part];
    const int fits = largest_context(d, r, c, c->n_ctx);
    const bool q8_0 = c->type_k != TYPE_Q8_0 && d->model->h.head_dim % 32 == 0;
    const bool layers = p->n_layers && !p->ops->isa_at;  // on a GPU
    char name[256], smaller[64] = "not one token would fit";
    device_part_name(p, name, sizeof name);
    if (fits) snprintf(smaller, sizeof smaller, "-c %d would fit", fits);
    return error_set(
        err, ERR_UNAVAILABLE,
        "a context of %d needs %.1f MiB of memory on %s, which has %.1f MiB free; %s%s%s", c->n_ctx,
        (double)bytes_at(d, part, *c, c->n_ctx) / 0x1p20, name, (double)r->free[part] / 0x1p20,
        smaller, q8_0 ? ", so might -ctk q8_0 -ctv q8_0" : "",
        layers ? ", or fewer layers there (-ngl)" : "");
}

// The model's context, halved until its cache fits half of the memory that is free on each device;
// a context that was asked for must fit, or it is an error.
static Status choose_context(const DeviceModel *d, SessionConfig *c, Notice notice, Error *err) {
    const int train = d->model->h.n_ctx_train;
    const Room room = room_of(d);
    const bool automatic = c->n_ctx == 0;
    if (automatic) {
        c->n_ctx = train;
        while (c->n_ctx > 512 && part_too_small(d, &room, c, c->n_ctx, 2) >= 0) c->n_ctx /= 2;
        if (c->n_ctx < train) {
            notice_say(notice, "context reduced from %d to %d to fit memory; -c sets it", train,
                       c->n_ctx);
        }
    } else if (c->n_ctx > train) {
        notice_say(notice, "a context of %d is more than the %d that the model was trained for",
                   c->n_ctx, train);
    }
    const int part = part_too_small(d, &room, c, c->n_ctx, 1);
    return part < 0 ? OK : no_room(d, &room, c, part, err);
}

static Status take_memory(Session *s, Error *err) {
    const size_t batch = (size_t)s->config.batch_size, ctx = (size_t)s->config.n_ctx;
    s->cached = calloc((size_t)s->config.n_seqs, sizeof *s->cached);
    s->pos = calloc(batch, sizeof *s->pos);
    s->seq = calloc(batch, sizeof *s->seq);
    s->out_row = calloc(batch, sizeof *s->out_row);
    s->logits = calloc((size_t)s->d->model->h.n_vocab, sizeof *s->logits);
    s->logits_rows = 1;
    if (!s->cached || !s->pos || !s->seq || !s->out_row || !s->logits) {
        return error_memory(err, "the session", batch * 12);
    }
    for (int i = 0; i < s->config.n_seqs; i++) {
        s->cached[i].data = calloc(ctx, sizeof *s->cached[i].data);
        if (!s->cached[i].data) return error_memory(err, "the session's tokens", ctx * 4);
        s->cached[i].cap = ctx;
    }
    const ForwardConfig f = forward_config(&s->config);
    return forward_new(s->d, &f, &s->forward, err);
}

Status session_new(DeviceModel *d, const SessionConfig *config, Notice notice, Session **out,
                   Error *err) {
    *out = NULL;
    SessionConfig c = *config;
    const int head_dim = d->model->h.head_dim;
    if (c.batch_size == 0) c.batch_size = DEFAULT_BATCH;
    if (c.n_ctx < 0 || c.n_ctx > MODEL_MAX_CONTEXT) {
        return error_set(err, ERR_USAGE, "a context of %d tokens is out of range (0 to %d)",
                         c.n_ctx, MODEL_MAX_CONTEXT);
    }
    if (c.batch_size < 1 || c.batch_size > MAX_BATCH) {
        return error_set(err, ERR_USAGE, "a batch of %d tokens is out of range (1 to %d)",
                         c.batch_size, MAX_BATCH);
    }
    Status st = check_kv_type("-ctk", c.type_k, head_dim, err);
    if (!st) st = check_kv_type("-ctv", c.type_v, head_dim, err);
    if (!st) st = choose_context(d, &c, notice, err);
    if (st) return st;
    fit_batch(&c);
    Session *s = calloc(1, sizeof *s);
    if (!s) return error_memory(err, "the session", sizeof *s);
    s->d = d, s->config = c;
    st = take_memory(s, err);
    if (st) {
        session_free(s);
        return st;
    }
    *out = s;
    return OK;
}

void session_free(Session *s) {
    if (!s) return;
    forward_free(s->forward);
    for (int i = 0; s->cached && i < s->config.n_seqs; i++) tokens_free(&s->cached[i]);
    free(s->cached);
    free(s->pos);
    free(s->seq);
    free(s->out_row);
    free(s->logits);
    free(s);
}

int session_n_ctx(const Session *s) {
    return s->config.n_ctx;
}

int session_batch_size(const Session *s) {
    return s->config.batch_size;
}

Forward *session_forward(Session *s) {
    return s->forward;
}

const TokenList *session_tokens(const Session *s, int seq) {
    return &s->cached[seq];
}

void session_rewind(Session *s, int seq, size_t n) {
    if (s->cached[seq].len > n) s->cached[seq].len = n;
}

size_t session_keep(Session *s, int seq, const int32_t *tokens, size_t n) {
    TokenList *c = &s->cached[seq];
    size_t same = 0;
    while (same < n && same < c->len && c->data[same] == tokens[same]) same++;
    c->len = same;
    return same;
}

static Status check_tokens(const Session *s, int seq, const int32_t *tokens, size_t n, Error *err) {
    const size_t used = s->cached[seq].len, ctx = (size_t)s->config.n_ctx;
    const int n_vocab = s->d->model->h.n_vocab;
    if (n > ctx - used) {
        return error_set(
            err, ERR_FAILED,
            "the context of %zu tokens holds %zu and has no room for %zu more; raise -c or shorten "
            "the text",
            ctx, used, n);
    }
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] >= 0 && tokens[i] < n_vocab) continue;
        return error_set(err, ERR_USAGE, "token %d is outside the vocabulary of %d", tokens[i],
                         n_vocab);
    }
    return OK;
}

static Status grow_logits(Session *s, size_t rows, Error *err) {
    if (rows <= s->logits_rows) return OK;
    size_t bytes = rows * (size_t)s->d->model->h.n_vocab * sizeof *s->logits;
    float *logits = realloc(s->logits, bytes);
    if (!logits) return error_memory(err, "logits", bytes);
    s->logits = logits, s->logits_rows = rows;
    return OK;
}

// One batch of one sequence; logits of its last n_out tokens.
static Status run_batch(Session *s, int seq, const int32_t *tokens, int n, int n_out, float *logits,
                        Error *err) {
    TokenList *c = &s->cached[seq];
    for (int i = 0; i < n; i++) {
        s->pos[i] = (int32_t)c->len + i;
        s->seq[i] = seq;
    }
    for (int i = 0; i < n_out; i++) s->out_row[i] = n - n_out + i;
    Status st = forward_run(s->forward, n, tokens, s->pos, s->seq, n_out, s->out_row, logits, err);
    if (st) return st;
    memcpy(c->data + c->len, tokens, (size_t)n * sizeof *tokens);
    c->len += (size_t)n;
    return OK;
}

Status session_eval(Session *s, int seq, const int32_t *tokens, size_t n, const EvalOptions *o,
                    size_t *done, Error *err) {
    const size_t n_vocab = (size_t)s->d->model->h.n_vocab;
    const size_t most = (size_t)s->config.batch_size;
    const size_t first_out = o->n_logits < n ? n - o->n_logits : 0;
    if (done) *done = 0;
    Status st = check_tokens(s, seq, tokens, n, err);
    if (!st) st = grow_logits(s, o->n_logits < most ? o->n_logits : most, err);
    if (st) return st;
    for (size_t at = 0; at < n;) {
        if (o->interrupt && __atomic_load_n(o->interrupt, __ATOMIC_RELAXED)) return OK;
        size_t count = n - at < most ? n - at : most;
        size_t out = at + count > first_out ? at + count - first_out : 0;
        if (out > count) out = count;
        st = run_batch(s, seq, tokens + at, (int)count, (int)out, s->logits, err);
        if (st) return st;
        at += count;
        for (size_t i = 0; i < out; i++)
            o->on_logits(o->user, at - out + i, s->logits + i * n_vocab);
        if (done) *done = at;
        if (o->on_progress) o->on_progress(o->user, at, n);
    }
    return OK;
}

Status session_step(Session *s, int seq, int32_t token, float *logits, Error *err) {
    return session_step_rows(s, seq, &token, 1, logits, err);
}

Status session_step_rows(Session *s, int seq, const int32_t *tokens, int n, float *logits,
                         Error *err) {
    CHECK(n >= 1 && n <= s->config.batch_size);
    Status st = check_tokens(s, seq, tokens, (size_t)n, err);
    return st ? st : run_batch(s, seq, tokens, n, n, logits, err);
}
