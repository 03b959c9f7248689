// The stages in order; see verify.h.
#include "verify/verify.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "verify/capture.h"
#include "verify/detect.h"
#include "verify/lint.h"
#include "verify/prompt_check.h"
#include "verify/prompts.h"

// Multiplications that a depth may cost: parameters times tokens.
#define ALL_ROWS_WORK 2e10  // more: only LARGE_ROWS rows of a prompt are judged
#define LONG_WORK 2e12      // more: the long prompt is left to --full
#define DRIFT_WORK 2e10     // more: no pass of the oracle's own over a trace
#define DRIFT_BYTES (512u << 20)
#define SCORES 8e6  // of a layer of the long prompt
enum {
    LARGE_ROWS = 32,
    QUICK_ROWS = 8,
    CAUSES = 60,
    LARGE_CAUSES = 8,
    PATH_TOKENS = 40,
    LONG_TOKENS = 1200
};

typedef struct {
    const VerifyOptions *o;
    const Model *m;
    Report *r;
    Oracle *oracle;
    Error *err;
} Run;

static double work_of(const Run *v, size_t n) {
    return (double)v->m->n_params * (double)n;
}

static ReplayOptions replay_options(const Run *v, size_t n) {
    const bool large = work_of(v, n) > ALL_ROWS_WORK && v->o->depth != VERIFY_FULL;
    const size_t most = v->o->depth == VERIFY_QUICK ? QUICK_ROWS : LARGE_ROWS;
    return (ReplayOptions){.max_rows = large ? most : 0,
                           .max_causes = large ? LARGE_CAUSES : CAUSES,
                           .keep_ratios = true,
                           .progress = v->o->progress,
                           .user = v->o->user};
}

// --- the head of the report -------------------------------------------------------------------

static TensorType most_weights(const Model *m) {
    double weights[TYPE_LIMIT] = {0};
    TensorType most = TYPE_F32;
    for (int l = 0; l < m->h.n_layers; l++) {
        const LayerWeights *w = &m->layers[l];
        const Tensor *const all[] = {w->q,        w->k,      w->v,       w->attn_out,
                                     w->ffn_gate, w->ffn_up, w->ffn_down};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            const TensorType t = all[i]->type;
            weights[t] += (double)all[i]->dims[0] * (double)all[i]->dims[1];
            if (weights[t] > weights[most]) most = t;
        }
    }
    return most;
}

static Status describe_model(const Run *v) {
    const Model *m = v->m;
    Report *r = v->r;
    snprintf(r->model_path, sizeof r->model_path, "%s", gguf_path(m->gguf));
    snprintf(r->model_what, sizeof r->model_what, "%s, %d layers, dim %d, %d tokens, mostly %s",
             arch_name(m->h.arch), m->h.n_layers, m->h.dim, m->h.n_vocab,
             type_info(most_weights(m))->name);
    snprintf(r->build, sizeof r->build, "plumb " PLUMB_VERSION);
    r->n_layers = m->h.n_layers;
    return capture_model_sha256(m->gguf, r->model_sha256, v->err);
}

// "activations q8_k (Q4_K Q6_K), none (F32); cache F16, F16 (declared)"
static void describe_rounding(const Run *v, const Rounding *rounding, char *out, size_t size) {
    bool used[TYPE_LIMIT] = {false};
    for (size_t i = 0; i < gguf_n_tensors(v->m->gguf); i++) {
        const Tensor *t = gguf_tensor_at(v->m->gguf, i);
        used[t->type] |= t->n_dims > 1;
    }
    size_t at = (size_t)snprintf(out, size, "activations");
    const char *comma = "";
    for (int way = 0; way < N_WAYS; way++) {
        bool any = false;
        for (int t = 0; t < TYPE_LIMIT && at < size; t++) {
            if (!used[t] || (int)rounding->act.way[t] != way) continue;
            at += any ? (size_t)snprintf(out + at, size - at, " %s", type_info((uint32_t)t)->name)
                      : (size_t)snprintf(out + at, size - at, "%s %s (%s", comma,
                                         act_way_name((ActWay)way), type_info((uint32_t)t)->name);
            any = true;
        }
        if (any && at < size) at += (size_t)snprintf(out + at, size - at, ")");
        if (any) comma = ",";
    }
    if (at >= size) return;
    snprintf(out + at, size - at, "; cache %s, %s (declared)", type_info(rounding->attn.k)->name,
             type_info(rounding->attn.v)->name);
}

static void skip_stage(Report *r, StageId stage, const char *why) {
    r->stage[stage] = OUTCOME_SKIPPED;
    snprintf(r->stage_reason[stage], sizeof r->stage_reason[stage], "%s", why);
}

// --- our own backend --------------------------------------------------------------------------

static bool wants_prompt(const Run *v, VerifyPrompt p) {
    if (v->o->depth == VERIFY_FULL) return true;
    if (v->o->depth == VERIFY_QUICK) return p == PROMPT_CHAT;
    return p != PROMPT_LONG || work_of(v, LONG_TOKENS) <= LONG_WORK;
}

// Ids of a prompt of ours, through the prompt stage as a stranger's would go.
static Status take_prompt(const Run *v, VerifyPrompt p, TokenList *ids, int *index) {
    const VerifyOptions *o = v->o;
    const PromptInfo *info = prompt_info(p);
    char text[FINDING_TEXT];
    Status st = prompt_tokens(p, v->m, o->tokenizer, o->chat, v->m->h.n_ctx_train, ids, v->err);
    if (st) return st;
    snprintf(text, sizeof text, "%s%s%s", info->what, *info->blind ? "; cannot see " : "",
             info->blind);
    st = report_prompt(v->r, info->name, ids->data, ids->len, text, index, v->err);
    if (st || !o->tokenizer || p == PROMPT_REPEAT || p == PROMPT_LONG) return st;  // made of ids
    const TracePrompt prompt = {
        .name = info->name, .tokens = ids->data, .n_tokens = ids->len, .chosen = -1};
    const PromptCheck check = {.allow_odd = true};  // not the backend's fault
    return prompt_check(v->m->gguf, o->tokenizer, o->chat, &prompt, &check, v->r, *index, v->err);
}

// Every layer's rows are kept for it.
static bool wants_drift(const Run *v, size_t n) {
    return v->o->depth == VERIFY_FULL &&
           capture_bytes(v->m, CAPTURE_ALL & ~CAPTURE_SCORES, n) <= DRIFT_BYTES;
}

// They grow with the square of the prompt; without them attention is judged as one component.
static bool wants_scores(const Run *v, VerifyPrompt p, size_t n) {
    return p != PROMPT_LONG || (v->o->depth == VERIFY_FULL &&
                                (double)v->m->h.n_heads * (double)n * (double)n <= SCORES);
}

static Status judge_prompt(const Run *v, DeviceModel *d, VerifyPrompt p) {
    enum { MOST_CHUNKS = 64 };
    size_t sizes[MOST_CHUNKS];
    TokenList ids = {0};
    int index;
    Status st = take_prompt(v, p, &ids, &index);
    if (!st) {
        LiveOptions live = {.type_k = v->o->type_k,
                            .type_v = v->o->type_v,
                            .scores = wants_scores(v, p, ids.len),
                            .drift = wants_drift(v, ids.len),
                            .replay = replay_options(v, ids.len)};
        if (p == PROMPT_CHUNKS) {
            live.chunks = sizes;
            live.n_chunks = prompt_chunks(ids.len, sizes, MOST_CHUNKS);
        }
        st = live_verify(d, v->oracle, ids.data, ids.len, &live, v->r, index, NULL, v->err);
    }
    tokens_free(&ids);
    return st;
}

static Status judge_prompts(const Run *v, DeviceModel *d) {
    Status st = OK;
    for (int p = 0; !st && p < N_VERIFY_PROMPTS; p++) {
        if (wants_prompt(v, (VerifyPrompt)p)) st = judge_prompt(v, d, (VerifyPrompt)p);
    }
    return st;
}

static Status judge_paths(const Run *v, DeviceModel *d) {
    const VerifyOptions *o = v->o;
    TokenList ids = {0};
    const int train = v->m->h.n_ctx_train, n_ctx = train < PATH_TOKENS ? train : PATH_TOKENS;
    Status st = prompt_tokens(PROMPT_LONG, v->m, o->tokenizer, o->chat, n_ctx, &ids, v->err);
    const PathsOptions paths = {.tokens = ids.data,
                                .n = ids.len,
                                .quick = o->depth == VERIFY_QUICK,
                                .type_k = o->type_k,
                                .type_v = o->type_v,
                                .n_threads = o->n_threads,
                                .isa = o->isa,
                                .tokenizer = o->tokenizer,
                                .progress = o->progress,
                                .user = o->user};
    if (!st) st = paths_check(v->m, d, v->oracle, &paths, v->r, v->err);
    tokens_free(&ids);
    return st;
}

Status verify_backend(const VerifyOptions *o, DeviceModel *d, Report *r, Error *err) {
    const double start = clock_seconds();
    Run v = {.o = o, .m = o->model, .r = r, .err = err};
    Rounding rounding;
    live_rounding(d, o->type_k, o->type_v, &rounding);
    describe_rounding(&v, &rounding, r->rounding, sizeof r->rounding);
    snprintf(r->subject, sizeof r->subject, "backend %s (%s)", device_model_backend(d),
             device_model_device(d));
    snprintf(r->backend, sizeof r->backend, "%s", device_model_backend(d));
    if (!o->tokenizer) skip_stage(r, STAGE_PROMPT, "the file has no tokenizer");
    Status st = describe_model(&v);
    if (!st) st = oracle_new(o->model, o->n_threads, &v.oracle, err);
    if (!st) st = lint_model(o->model, o->tokenizer, NULL, o->n_threads, r, err);
    if (!st) st = judge_prompts(&v, d);
    if (!st) st = judge_paths(&v, d);
    if (!st) st = gguf_fault(o->gguf, err);
    oracle_free(v.oracle);
    if (!st) report_finish(r);
    r->seconds = clock_seconds() - start;
    return st;
}

// --- another engine's trace -------------------------------------------------------------------

// The first token of a prompt that the model does not have; n_tokens: none.
static size_t first_outside(const Run *v, const TracePrompt *p) {
    size_t i = 0;
    while (i < p->n_tokens && p->tokens[i] >= 0 && p->tokens[i] < v->m->h.n_vocab) i++;
    return i;
}

static bool ids_fit(const Run *v, const Trace *t) {
    for (size_t i = 0; i < t->n_prompts; i++) {
        if (first_outside(v, &t->prompts[i]) < t->prompts[i].n_tokens) return false;
    }
    return true;
}

// Opens it; where it does not say how q and k are paired, in the pairing that fits.
static Status open_trace(const Run *v, const char *path, QkLayout qk, Trace **out) {
    const Hparams *h = &v->m->h;
    TraceShape shape = {qk, h->rope_pairing == ROPE_NORM, h->n_heads, h->n_kv_heads, h->head_dim};
    bool hf = false;
    Status st = trace_open(path, &shape, v->o->notice, out, v->err);
    if (!st && qk == QK_AUTO && shape.norm_pairing && ids_fit(v, *out)) {
        st = detect_hf_pairing(v->oracle, v->m, *out, &hf, v->err);
    }
    if (st || !hf) return st;
    trace_close(*out);
    *out = NULL;
    shape.qk = QK_HF;
    st = trace_open(path, &shape, (Notice){0}, out, v->err);
    if (st) return st;
    return report_finding(v->r, STAGE_COMPONENTS, -1, "qk-layout", OUTCOME_SKIPPED, false, v->err,
                          "q and k of the trace are paired as transformers pairs them (halves), "
                          "and are read so; --qk-layout hf says it");
}

static Status check_prompt(const Run *v, const TracePrompt *p, const char *text, int *index) {
    const VerifyOptions *o = v->o;
    char what[FINDING_TEXT];
    snprintf(what, sizeof what, "%zu tokens", p->n_tokens);
    Status st = report_prompt(v->r, p->name, p->tokens, p->n_tokens, what, index, v->err);
    const size_t outside = first_outside(v, p);
    if (!st && outside < p->n_tokens) {
        return report_finding(v->r, STAGE_PROMPT, *index, "ids-outside", OUTCOME_FAIL, false,
                              v->err,
                              "id %zu is %d, the model has 0 to %d: the trace is of another model",
                              outside, p->tokens[outside], v->m->h.n_vocab - 1);
    }
    if (st || !o->tokenizer) return st;
    const PromptCheck check = {.text = text ? text : p->text, .allow_odd = o->allow_odd_prompt};
    return prompt_check(v->m->gguf, o->tokenizer, o->chat, p, &check, v->r, *index, v->err);
}

static bool same_ids(const TracePrompt *a, const TracePrompt *b) {
    return a->n_tokens == b->n_tokens &&
           memcmp(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens) == 0;
}

// The rows that two arrays of one component share; NMSE of the first that is not equal to the bit.
static bool rows_differ(const TraceArray *a, const TraceArray *b, size_t *token, double *nmse) {
    const size_t from = a->first_row > b->first_row ? a->first_row : b->first_row;
    const size_t tokens = a->first_row + a->rows;  // of scores more, but then both start alike
    for (size_t t = from; t < tokens && t - a->first_row < a->rows; t++) {
        if (t - b->first_row >= b->rows) break;
        const float *x = a->x + (t - a->first_row) * a->width;
        const float *y = b->x + (t - b->first_row) * b->width;
        if (memcmp(x, y, a->width * sizeof *x) == 0) continue;
        double e = 0, s = 0;
        for (size_t i = 0; i < a->width; i++) {
            const double d = (double)x[i] - (double)y[i];
            e += d * d, s += (double)y[i] * (double)y[i];
        }
        *token = t;
        *nmse = e == 0 ? 0 : isfinite(e) && s > 0 ? e / s : INFINITY;
        return true;
    }
    return false;
}

// Two runs of the same ids: at the first component that is not equal to the bit, is the difference
// one of rounding (a prefill and a decode, say), or did one of them go wrong?
static Status compare_twins(const Run *v, const Rounding *rounding, const TracePrompt *a,
                            const TracePrompt *b, int index) {
    for (size_t i = 0; i < a->n_arrays; i++) {
        const TraceArray *x = &a->arrays[i], *y = trace_find(b, x->ref.c, x->ref.layer);
        size_t token = 0;
        double nmse = 0;
        char name[COMPONENT_TEXT];
        if (!y || y->width != x->width || component_is_scores(x->ref.c)) continue;
        if (!rows_differ(x, y, &token, &nmse)) continue;
        const bool wrong = nmse > NMSE_MARGIN * nmse_floor(rounding->out[x->ref.c]);
        return report_finding(
            v->r, STAGE_PATHS, index, "twice", wrong ? OUTCOME_FAIL : OUTCOME_PASS, !wrong, v->err,
            "prompts '%s' and '%s' have the same ids, and %s of token %zu is not the same (NMSE "
            "%.2g): %s",
            a->name, b->name, component_text(x->ref, name), token, nmse,
            wrong ? "one of the runs went wrong (a race?)" : "rounded in another order");
    }
    return report_finding(v->r, STAGE_PATHS, index, "twice", OUTCOME_PASS, false, v->err,
                          "prompts '%s' and '%s' have the same ids and are equal to the bit",
                          a->name, b->name);
}

static Status compare_runs(const Run *v, const Rounding *rounding, const Trace *t,
                           const int *index) {
    size_t twins = 0;
    for (size_t i = 1; i < t->n_prompts; i++) {
        for (size_t k = 0; k < i; k++) {
            if (!same_ids(&t->prompts[k], &t->prompts[i])) continue;
            Status st = compare_twins(v, rounding, &t->prompts[k], &t->prompts[i], index[i]);
            if (st) return st;
            twins++;
            break;  // with one of its like is enough
        }
    }
    if (!twins) skip_stage(v->r, STAGE_PATHS, "a trace shows one path");
    return OK;
}

static Status judge_trace(const Run *v, const Trace *t) {
    Rounding rounding;
    char text[200] = "";
    size_t tokens = 0;
    int *index = calloc(t->n_prompts + 1, sizeof *index);
    if (!index) return error_memory(v->err, "prompts", t->n_prompts * sizeof *index);
    Status st = OK;
    for (size_t i = 0; !st && i < t->n_prompts; i++) {
        const bool only = t->n_prompts == 1;
        st = check_prompt(v, &t->prompts[i], only ? v->o->text : NULL, &index[i]);
        tokens += t->prompts[i].n_tokens;
    }
    if (!st && !ids_fit(v, t)) {
        free(index);
        skip_stage(v->r, STAGE_COMPONENTS, "there are ids that the model does not have");
        skip_stage(v->r, STAGE_PATHS, "a trace shows one path");
        return OK;
    }
    rounding_of_trace(t, &rounding);
    if (!st) st = detect_rounding(v->oracle, v->m, t, &rounding, text, v->err);
    snprintf(v->r->rounding, sizeof v->r->rounding, "%s", text);
    const bool drift = v->o->depth == VERIFY_FULL || work_of(v, tokens) <= DRIFT_WORK;
    for (size_t i = 0; !st && i < t->n_prompts; i++) {
        const TracePrompt *p = &t->prompts[i];
        ReplayOptions options = replay_options(v, p->n_tokens);
        options.trace = t;
        st = replay_prompt(v->oracle, v->m, &rounding, p, &options, v->r, index[i], v->err);
        if (!st && drift) st = replay_drift(v->oracle, p, v->r, index[i], v->err);
    }
    if (!st) replay_equivalents(v->r);
    if (!st) st = compare_runs(v, &rounding, t, index);
    free(index);
    return st;
}

Status verify_trace(const VerifyOptions *o, const char *path, QkLayout qk, Report *r, Error *err) {
    const double start = clock_seconds();
    Run v = {.o = o, .m = o->model, .r = r, .err = err};
    Trace *t = NULL;
    snprintf(r->subject, sizeof r->subject, "trace %s", path);
    Status st = describe_model(&v);
    if (!st) st = oracle_new(o->model, o->n_threads, &v.oracle, err);
    if (!st) st = open_trace(&v, path, qk, &t);
    if (!st && o->text && t->n_prompts != 1) {
        st = error_set(err, ERR_USAGE, "%s has %zu prompts; -p is for a trace of one", path,
                       t->n_prompts);
    }
    if (!st && o->text && !o->tokenizer) {
        st = error_set(err, ERR_USAGE, "%s has no tokenizer to read -p with", gguf_path(o->gguf));
    }
    if (!st && !o->tokenizer && ids_fit(&v, t)) {
        skip_stage(r, STAGE_PROMPT, "the file has no tokenizer");
    }
    if (!st && t->backend) snprintf(r->backend, sizeof r->backend, "%s", t->backend);
    if (!st) st = lint_model(o->model, o->tokenizer, t, o->n_threads, r, err);
    if (!st) st = judge_trace(&v, t);
    if (!st) st = trace_fault(t, err);
    if (!st) st = gguf_fault(o->gguf, err);
    trace_close(t);
    oracle_free(v.oracle);
    if (!st) report_finish(r);
    r->seconds = clock_seconds() - start;
    return st;
}
