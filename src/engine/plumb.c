// The public interface: opening, closing, tokens, low-level evaluation. See include/plumb.h.
#include <stdlib.h>

#include "base/arena.h"
#include "base/pool.h"
#include "engine/plumb_internal.h"

_Static_assert(sizeof(plumb_error) == sizeof(Error) &&
                   (int)PLUMB_UNAVAILABLE == (int)ERR_UNAVAILABLE,
               "a plumb_error is an Error");

Error *error_of(plumb_error *err) {
    return (Error *)(void *)err;
}

const char *plumb_version(void) {
    return PLUMB_VERSION;
}

// --- models -----------------------------------------------------------------------------------

void plumb_model_close(plumb_model *m) {
    if (!m) return;
    device_model_close(m->device);
    tokenizer_free(m->tokenizer);
    model_free(m->model);
    gguf_close(m->gguf);
    free(m->name);
    text_free(&m->chat_notice);
    free(m);
}

static Status open_backend(plumb_model *m, const plumb_model_options *o, Error *err) {
    if (o->n_threads < 0 || o->n_threads > 1024) {
        return error_set(err, ERR_USAGE, "%d threads are out of range (1 to 1024)", o->n_threads);
    }
    const DeviceWish wish = {
        .backend = o->backend,
        .device = o->device,
        .gpu_layers = o->gpu_layers,
        .n_threads = o->n_threads > 0 ? o->n_threads : pool_default_threads(),
        .isa = o->cpu_isa,
        .no_repack = o->no_repack != 0,
        .notice = m->notice,
    };
    if (o->device < 0) {
        return error_set(err, ERR_USAGE, "there is no device %d; they count from 0", o->device);
    }
    return device_choose(m->model, &wish, backend_at, &m->device, err);
}

static void keep_notice(void *user, const char *line) {
    Text *t = user;
    if (t->len) text_append_str(t, "; ");
    text_append_str(t, line);
}

static Status name_model(plumb_model *m, Error *err) {
    GgufStr name = {0};
    bool found = false;
    gguf_get_str(m->gguf, "general.name", &name, &found, NULL);
    size_t size = found ? 4 * (size_t)name.len + 1 : 1;
    if (size > 1024) size = 1024;
    m->name = malloc(size);
    if (!m->name) return error_memory(err, "the model's name", size);
    printable(found ? name.ptr : "", found ? name.len : 0, m->name, size);
    return OK;
}

static void note_memory(const plumb_model *m) {
    unsigned long long have = memory_available();
    const uint64_t need = device_model_mapped_bytes(m->device);
    if (!have || need <= have) return;
    notice_say(m->notice,
               "the weights that the CPU reads are %.1f GiB and %.1f GiB of memory are free: parts "
               "will be "
               "read from disk "
               "again and again, slowly",
               (double)need / 0x1p30, (double)have / 0x1p30);
}

// Takes g over, also on failure.
static plumb_model *open_model(Gguf *g, const plumb_model_options *o, Error *err) {
    plumb_model *m = calloc(1, sizeof *m);
    if (!m) {
        gguf_close(g);
        error_memory(err, "the model", sizeof *m);
        return NULL;
    }
    m->gguf = g;
    m->notice = (Notice){o->notice, o->user};
    const Notice chat = {keep_notice, &m->chat_notice};
    Status st = model_bind(g, m->notice, &m->model, err);
    if (!st) st = tokenizer_new(g, m->notice, &m->tokenizer, err);
    if (!st && tokenizer_n_vocab(m->tokenizer) > m->model->h.n_vocab) {
        st = error_set(err, ERR_FILE, "%s: the vocabulary has %d tokens, the output %d rows",
                       gguf_path(g), tokenizer_n_vocab(m->tokenizer), m->model->h.n_vocab);
    }
    if (!st) st = chat_template_detect(g, m->tokenizer, chat, &m->chat_template, err);
    if (!st) st = name_model(m, err);
    if (!st && o->check_tensors) st = model_check_values(m->model, err);
    if (!st) st = open_backend(m, o, err);
    if (st) {
        plumb_model_close(m);
        return NULL;
    }
    note_memory(m);
    return m;
}

plumb_model *plumb_model_open(const char *path, const plumb_model_options *options,
                              plumb_error *err) {
    const plumb_model_options o = options ? *options : (plumb_model_options){0};
    Gguf *g = NULL;
    if (gguf_open(path, &g, error_of(err))) return NULL;
    return open_model(g, &o, error_of(err));
}

plumb_model *plumb_model_open_memory(const void *data, size_t size, const char *name,
                                     const plumb_model_options *options, plumb_error *err) {
    const plumb_model_options o = options ? *options : (plumb_model_options){0};
    Gguf *g = NULL;
    if (gguf_open_memory(data, size, name, &g, error_of(err))) return NULL;
    return open_model(g, &o, error_of(err));
}

void plumb_model_describe(const plumb_model *m, plumb_model_info *out) {
    const Hparams *h = &m->model->h;
    *out = (plumb_model_info){
        .name = m->name,
        .architecture = arch_name(h->arch),
        .backend = device_model_backend(m->device),
        .device = device_model_device(m->device),
        .loaded = device_model_loaded(m->device),
        .chat_template = m->chat_template ? chat_template_name(m->chat_template) : NULL,
        .chat_notice = m->chat_notice.len ? m->chat_notice.data : "",
        .n_vocab = h->n_vocab,
        .n_ctx_train = h->n_ctx_train,
        .n_layers = h->n_layers,
        .dim = h->dim,
        .n_params = m->model->n_params,
        .weight_bytes = m->model->weight_bytes,
        .decode_bytes = m->model->decode_bytes,
    };
}

// --- tokens -----------------------------------------------------------------------------------

plumb_status plumb_tokenize(const plumb_model *m, const char *text, size_t len, unsigned flags,
                            int32_t *ids, size_t capacity, size_t *n, plumb_error *err) {
    const TextSpan span = {text, len, flags & PLUMB_PARSE_SPECIAL};
    TokenList list = {0};
    Status st = tokenizer_encode(m->tokenizer, &span, 1, flags & PLUMB_NO_BOS ? ENCODE_NO_BOS : 0,
                                 &list, error_of(err));
    if (!st) {
        *n = list.len;
        size_t fit = list.len < capacity ? list.len : capacity;
        if (fit) memcpy(ids, list.data, fit * sizeof *ids);
    }
    tokens_free(&list);
    return (plumb_status)st;
}

plumb_status plumb_detokenize(const plumb_model *m, const int32_t *ids, size_t n_ids, char *text,
                              size_t capacity, size_t *n, plumb_error *err) {
    Text out = {0};
    Status st = tokenizer_decode(m->tokenizer, ids, n_ids, DECODE_SPECIAL, &out, error_of(err));
    if (!st) {
        *n = out.len;
        size_t fit = out.len < capacity ? out.len : capacity;
        if (fit) memcpy(text, out.data, fit);
    }
    text_free(&out);
    return (plumb_status)st;
}

int plumb_is_end(const plumb_model *m, int32_t id) {
    return id >= 0 && id < tokenizer_n_vocab(m->tokenizer) && tokenizer_is_end(m->tokenizer, id);
}

// --- sessions ---------------------------------------------------------------------------------

void plumb_session_close(plumb_session *s) {
    if (!s) return;
    chat_free(s);
    session_free(s->session);
    sampler_free(s->sampler);
    stream_free(&s->stream);
    lookup_free(&s->lookup);
    text_free(&s->piece);
    tokens_free(&s->made);
    tokens_free(&s->prompt);
    free(s->chosen);
    free(s->top);
    free(s->logits);
    free(s);
}

static Status kv_type(const char *name, const char *flag, TensorType *out, Error *err) {
    *out = TYPE_F16;
    if (!name || type_by_name(name, out)) return OK;
    return error_set(err, ERR_USAGE, "%s must be f32, f16 or q8_0, not '%s'", flag, name);
}

plumb_session *plumb_session_open(plumb_model *m, const plumb_session_options *options,
                                  plumb_error *err) {
    const plumb_session_options o = options ? *options : (plumb_session_options){0};
    SessionConfig c = {.n_ctx = o.n_ctx, .n_seqs = 1, .batch_size = o.batch_size};
    Error *e = error_of(err);
    plumb_session *s = calloc(1, sizeof *s);
    if (!s) {
        error_memory(e, "the session", sizeof *s);
        return NULL;
    }
    s->m = m;
    s->chat_template = m->chat_template;
    const plumb_sampling sampling = plumb_sampling_default();
    const int n_vocab = m->model->h.n_vocab;
    Status st = kv_type(o.type_k, "-ctk", &c.type_k, e);
    if (!st) st = kv_type(o.type_v, "-ctv", &c.type_v, e);
    if (!st) st = session_new(m->device, &c, m->notice, &s->session, e);
    if (!st) st = sampler_new(&sampling, n_vocab, session_n_ctx(s->session), &s->sampler, e);
    if (!st) {
        s->logits = calloc((size_t)n_vocab, sizeof *s->logits);
        s->logits_rows = 1;
        if (!s->logits) st = error_memory(e, "logits", (size_t)n_vocab * sizeof *s->logits);
    }
    if (st) {
        plumb_session_close(s);
        return NULL;
    }
    return s;
}

int plumb_session_n_ctx(const plumb_session *s) {
    return session_n_ctx(s->session);
}

int plumb_session_n_tokens(const plumb_session *s) {
    return (int)session_tokens(s->session, 0)->len;
}

void plumb_interrupt(plumb_session *s) {
    __atomic_store_n(&s->interrupted, 1, __ATOMIC_RELAXED);  // from any thread, from a handler
}

void plumb_rewind(plumb_session *s, size_t n) {
    session_rewind(s->session, 0, n);
}

static void keep_logits(void *user, size_t index, const float *logits) {
    (void)index;
    plumb_session *s = user;
    memcpy(s->logits, logits, (size_t)s->m->model->h.n_vocab * sizeof *logits);
}

plumb_status plumb_eval(plumb_session *s, const int32_t *tokens, size_t n, const float **logits,
                        plumb_error *err) {
    const EvalOptions o = {.n_logits = logits ? 1 : 0, .on_logits = keep_logits, .user = s};
    if (n == 0)
        return (plumb_status)error_set(error_of(err), ERR_USAGE, "there is no token to evaluate");
    Status st = session_eval(s->session, 0, tokens, n, &o, NULL, error_of(err));
    if (!st && logits) *logits = s->logits;
    return (plumb_status)st;
}
