// plumb perplexity: how well a model predicts a text, and how far two models' predictions are
// apart.
//
// llama.cpp's definition, so that numbers can be compared: the text is tokenized once, cut into
// chunks of N tokens, the first token of each replaced by BOS where the vocabulary adds one; the
// logits at positions N/2 .. N-2 of each chunk are scored against the tokens N/2+1 .. N-1.
// perplexity = exp(mean of -log p), and its standard error is that of the mean times the
// perplexity. This room owns: that definition. It leaves to others: files of probabilities (kl.h),
// the forward pass (engine/).
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/kl.h"
#include "engine/plumb_internal.h"

enum { DEFAULT_CHUNK = 512, MIN_CHUNK = 3 };

typedef struct {
    double sum, squares;
    uint64_t n;
} Mean;

static void mean_add(Mean *m, double x) {
    m->sum += x, m->squares += x * x, m->n++;
}

static double mean_of(const Mean *m) {
    return m->n ? m->sum / (double)m->n : 0;
}

// The standard error of the mean; 0 of one sample.
static double mean_error(const Mean *m) {
    const double mean = mean_of(m);
    const double variance = m->n > 1 ? m->squares / (double)m->n - mean * mean : 0;
    return variance > 0 ? sqrt(variance / (double)(m->n - 1)) : 0;
}

typedef struct {
    ModelArgs m;
    const char *file, *kl_base, *kl_against;
    int max_chunks;
    plumb_model *model;
    plumb_session *session;
    KlWriter *writer;
    KlReader *reader;
    TokenList ids;
    int chunk, first, n_chunks;  // tokens a chunk, the first position scored, chunks to do

    int at;               // the chunk being scored
    const int32_t *next;  // of each scored position the token that comes
    Status status;        // the first failure inside score()
    Error *err;
    Mean nll, kl;
    uint64_t n_same;
} Perplexity;

static Status read_args(int argc, char **argv, Perplexity *p, bool *help, Error *err) {
    Arg models[N_MODEL_ARGS];
    const Arg own[] = {{"-f, --file", ARG_TEXT, &p->file, 0},
                       {"--chunks", ARG_INT, &p->max_chunks, 1},
                       {"--kl-base", ARG_TEXT, &p->kl_base, 0},
                       {"--kl-against", ARG_TEXT, &p->kl_against, 0},
                       {0}};
    model_args_table(&p->m, models);
    const Arg *const tables[] = {own, models};
    Status st = args_read(argc, argv, tables, 2, NULL, help, err);
    if (st || *help) return st;
    if (!p->file)
        return error_set(err, ERR_USAGE, "perplexity needs a text: -f FILE, or -f - for stdin");
    p->chunk = p->m.n_ctx ? p->m.n_ctx : DEFAULT_CHUNK;
    p->first = p->chunk / 2;
    if (p->chunk >= MIN_CHUNK && p->chunk <= MODEL_MAX_CONTEXT) return OK;
    return error_set(err, ERR_USAGE, "-c %d: a chunk has %d to %d tokens", p->chunk, MIN_CHUNK,
                     MODEL_MAX_CONTEXT);
}

static Status read_tokens(Perplexity *p, Error *err) {
    Text text = {0};
    Status st = cli_read_text(p->file, &text, err);
    if (st) return st;
    if (text.len && text.data[text.len - 1] == '\n') text.len--;  // as llama.cpp's -f
    const TextSpan span = {text.data, text.len, false};
    st = tokenizer_encode(p->model->tokenizer, &span, 1, 0, &p->ids, err);
    text_free(&text);
    if (st) return st;
    if (p->ids.len < (size_t)p->chunk) {
        return error_set(
            err, ERR_USAGE,
            "%s has %zu tokens, one chunk needs %d; give a longer text or a smaller -c", p->file,
            p->ids.len, p->chunk);
    }
    const size_t n = p->ids.len / (size_t)p->chunk;
    p->n_chunks = p->max_chunks && (size_t)p->max_chunks < n ? p->max_chunks : (int)n;
    return OK;
}

// Called with the logits of each scored position of the chunk, in order.
static void score(void *user, size_t index, const float *logits) {
    Perplexity *p = user;
    const uint32_t n_vocab = (uint32_t)p->model->model->h.n_vocab;
    const uint32_t i = (uint32_t)index - (uint32_t)p->first;
    uint32_t top, base_top;
    if (p->status) return;
    const double norm = kl_log_sum_exp(logits, n_vocab, &top);
    if (!isfinite(norm)) {
        p->status = error_set(
            p->err, ERR_FAILED,
            "the model's logits at position %zu of chunk %d are not finite; --check-tensors "
            "looks for bad weights",
            index, p->at + 1);
        return;
    }
    mean_add(&p->nll, norm - (double)logits[p->next[i]]);
    if (p->writer) p->status = kl_put(p->writer, logits, p->err);
    if (p->reader) {
        mean_add(&p->kl, kl_divergence(p->reader, (uint32_t)p->at, i, logits, norm, &base_top));
        p->n_same += top == base_top;
    }
}

// The last token is scored against, never read.
static Status run_chunk(Perplexity *p, int32_t *ids, Error *err) {
    const Tokenizer *tok = p->model->tokenizer;
    const EvalOptions o = {
        .n_logits = (size_t)(p->chunk - 1 - p->first), .on_logits = score, .user = p};
    if (tokenizer_adds_bos(tok)) ids[0] = tokenizer_bos(tok);
    p->next = ids + p->first + 1;
    session_rewind(p->session->session, 0, 0);
    Status st = session_eval(p->session->session, 0, ids, (size_t)p->chunk - 1, &o, NULL, err);
    return st ? st : p->status;
}

static Status run_chunks(Perplexity *p, Error *err) {
    uint64_t digest = KL_DIGEST_START;
    Status st = OK;
    p->err = err;
    for (p->at = 0; p->at < p->n_chunks && !st; p->at++) {
        int32_t *ids = p->ids.data + (size_t)p->at * (size_t)p->chunk;
        cli_progress("perplexity", p->at, p->n_chunks);
        digest = kl_digest(digest, ids, (size_t)p->chunk);
        if (p->reader) st = kl_check_chunk(p->reader, (uint32_t)p->at, digest, err);
        if (!st && p->writer) st = kl_put_chunk(p->writer, digest, err);
        if (!st) st = run_chunk(p, ids, err);
        if (!st && p->m.verbose) {
            fprintf(stderr, "plumb: %d of %d chunks: %.4f\n", p->at + 1, p->n_chunks,
                    exp(mean_of(&p->nll)));
        }
    }
    cli_progress(NULL, 0, 0);
    if (!st && p->reader) st = kl_reader_fault(p->reader, err);
    return st;
}

static Status open_kl(Perplexity *p, Error *err) {
    const KlShape shape = {(uint32_t)p->model->model->h.n_vocab, (uint32_t)p->chunk,
                           (uint32_t)(p->chunk - 1 - p->first), (uint32_t)p->n_chunks};
    Status st = OK;
    if (p->kl_against) st = kl_reader_open(p->kl_against, &shape, &p->reader, err);
    if (!st && p->kl_base) st = kl_writer_open(p->kl_base, &shape, &p->writer, err);
    return st;
}

static void print_figures(const Perplexity *p) {
    const double ppl = exp(mean_of(&p->nll));
    printf("perplexity %.4f +/- %.5f (%llu tokens scored, %d chunk%s of %d)\n", ppl,
           ppl * mean_error(&p->nll), (unsigned long long)p->nll.n, p->n_chunks,
           p->n_chunks == 1 ? "" : "s", p->chunk);
    if (!p->reader) return;
    printf("KL divergence %.6f +/- %.6f, the same first choice %.2f %%\n", mean_of(&p->kl),
           mean_error(&p->kl), 100 * (double)p->n_same / (double)p->kl.n);
}

#if HAVE_JANSSON
static Status print_json(const Perplexity *p, Error *err) {
    const double ppl = exp(mean_of(&p->nll));
    plumb_model_info info;
    plumb_model_describe(p->model, &info);
    json_t *o = json_pack(
        "{s:f, s:f, s:I, s:i, s:i, s:s, s:s, s:s}", "ppl", ppl, "stderr", ppl * mean_error(&p->nll),
        "tokens", (json_int_t)p->nll.n, "chunks", p->n_chunks, "chunk_tokens", p->chunk, "model",
        p->m.model ? p->m.model : "the demo model", "backend", info.backend, "device", info.device);
    if (o && p->reader) {
        json_object_set_new(o, "kl_mean", json_real(mean_of(&p->kl)));
        json_object_set_new(o, "kl_stderr", json_real(mean_error(&p->kl)));
        json_object_set_new(o, "same_top", json_real((double)p->n_same / (double)p->kl.n));
    }
    return json_print(o, err);
}
#else
static Status print_json(const Perplexity *p, Error *err) {
    (void)p;
    return json_check(err);
}
#endif

static Status perplexity(Perplexity *p, Error *err) {
    Status st = p->m.json ? json_check(err) : OK;
    if (st) return st;
    if (!(p->model = cli_open_model(&p->m, err))) return err->status;
    st = read_tokens(p, err);
    if (st) return st;
    p->m.n_ctx = p->chunk;
    if (!(p->session = cli_open_session(&p->m, p->model, err))) return err->status;
    st = open_kl(p, err);
    if (!st) st = run_chunks(p, err);
    if (!st && p->writer) {
        st = kl_writer_finish(p->writer, err);
        p->writer = NULL;
    }
    if (!st && p->m.json) return print_json(p, err);
    if (!st) print_figures(p);
    return st;
}

int cmd_perplexity(int argc, char **argv) {
    Perplexity p = {.m = model_args_default};
    Error err;
    bool help = false;
    Status st = read_args(argc, argv, &p, &help, &err);
    if (!st && !help) st = perplexity(&p, &err);
    kl_writer_abort(p.writer);
    kl_reader_close(p.reader);
    plumb_session_close(p.session);
    plumb_model_close(p.model);
    tokens_free(&p.ids);
    if (!st && help) return cli_instead("perplexity", p.m.list_devices);
    return cli_finish(st ? cli_fail(&err) : 0);
}
