// One case of the self-test: the fault engine (or a backend of ours) runs, verify judges its trace.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/detect.h"
#include "verify/live.h"
#include "verify/prompt_check.h"
#include "verify/replay.h"
#include "verify/selftest_internal.h"

enum {
    LONG_ROWS = 16,  // of a long prompt so many tokens are judged
    LONG_PROMPT = 200,
    MAX_CAUSES = 8,
    CONTEXT = 1280,
    CLEAN_TOKENS = 28,
};

#define SAME_NMSE 1e-12

// --- numbers that look random and are the same everywhere ----------------------------------------

typedef struct {
    uint64_t state;
} Rng;

// splitmix64 (Steele, Lea & Flood 2014)
static uint64_t rng_next(Rng *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t rng_below(Rng *r, size_t n) {
    return (size_t)(rng_next(r) % n);
}

static bool rng_one_in(Rng *r, size_t n) {
    return rng_below(r, n) == 0;
}

// --- settings -----------------------------------------------------------------------------------

// The first known scheme in which weights of this type are multiplied in this way.
static ActScheme act_of(TensorType type, ActWay way) {
    for (int i = 0; act_scheme_at(i); i++) {
        if (act_scheme_at(i)->way[type] == way) return *act_scheme_at(i);
    }
    return *act_scheme_at(0);
}

static AttnScheme attn_of(TensorType cache) {
    for (int i = 0; attn_scheme_at(i); i++) {
        const AttnScheme *a = attn_scheme_at(i);
        if (a->k == cache && a->v == cache) return *a;
    }
    return *attn_scheme_at(0);
}

static MutantOptions engine_of(const Setting *s) {
    return (MutantOptions){.act = s->act,
                           .attn = s->attn,
                           .out = PREC_F32,
                           .scores = s->plan->scores,
                           .cache = true,
                           .chunks = s->n_chunks ? s->chunks : NULL,
                           .n_chunks = s->n_chunks,
                           .seed = 1};
}

Status setting_new(const SettingPlan *plan, Setting *out, Error *err) {
    *out = (Setting){.plan = plan};
    Status st = tiny_new(plan->kind, plan->type, plan->n_vocab, 11, &out->tiny, err);
    if (!st) {
        st = prompt_tokens(plan->prompt, out->tiny.model, NULL, NULL, CONTEXT, &out->ids, err);
    }
    if (st) return st;
    if (plan->prompt == PROMPT_CHUNKS) {
        out->n_chunks = prompt_chunks(out->ids.len, out->chunks, MOST_CHUNKS);
    }
    out->act = act_of(plan->type, plan->way);
    out->attn = attn_of(plan->cache);
    const MutantOptions o = engine_of(out);
    return mutant_run(out->tiny.model, out->ids.data, out->ids.len, &o, &out->clean, err);
}

void setting_free(Setting *s) {
    mutant_free(&s->clean);
    tokens_free(&s->ids);
    tiny_free(&s->tiny);
}

Status text_setting_new(const Gguf *g, TextSetting *out, Error *err) {
    *out = (TextSetting){.gguf = g};
    Status st = tokenizer_new(g, (Notice){0}, &out->tokenizer, err);
    if (!st) st = chat_template_detect(g, out->tokenizer, (Notice){0}, &out->chat, err);
    if (st) return st;
    return tiny_new(MODEL_TINY_TEXT, TYPE_F32, tokenizer_n_vocab(out->tokenizer), 11, &out->tiny,
                    err);
}

void text_setting_free(TextSetting *t) {
    tiny_free(&t->tiny);
    tokenizer_free(t->tokenizer);
}

// --- judging ------------------------------------------------------------------------------------

// The same to the bit?
static bool same_trace(const TracePrompt *a, const TracePrompt *b) {
    if (a->n_tokens != b->n_tokens || a->chosen != b->chosen || a->n_arrays != b->n_arrays) {
        return false;
    }
    if (memcmp(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens) != 0) return false;
    for (size_t i = 0; i < a->n_arrays; i++) {
        const TraceArray *x = &a->arrays[i], *y = &b->arrays[i];
        if (component_order(x->ref) != component_order(y->ref) || x->rows != y->rows ||
            x->width != y->width || memcmp(x->x, y->x, x->rows * x->width * sizeof *x->x) != 0) {
            return false;
        }
    }
    return true;
}

// Row by row the same to float32's rounding (two right engines differ by 1e-14)?
static bool nearly_same(const TracePrompt *a, const TracePrompt *b) {
    if (a->n_arrays != b->n_arrays || a->chosen != b->chosen) return false;
    for (size_t i = 0; i < a->n_arrays; i++) {
        const TraceArray *x = &a->arrays[i], *y = &b->arrays[i];
        if (x->rows != y->rows || x->width != y->width) return false;
        for (size_t r = 0; r < x->rows; r++) {
            const float *p = x->x + r * x->width, *q = y->x + r * x->width;
            double errors = 0, squares = 0;
            for (size_t k = 0; k < x->width; k++) {
                errors += ((double)p[k] - q[k]) * ((double)p[k] - q[k]);
                squares += (double)q[k] * q[k];
            }
            if (!(errors <= SAME_NMSE * squares)) return false;
        }
    }
    return true;
}

// The roundings as verify takes them: as the engine says, or as they are found in its trace.
static Status take_rounding(Oracle *o, const Model *m, TracePrompt *p, const ActScheme *act,
                            const AttnScheme *attn, Rounding *out, Error *err) {
    const Trace t = {.path = "self-test", .prompts = p, .n_prompts = 1};
    char text[200];
    rounding_of_trace(&t, out);
    if (act) out->act = *act, out->act_declared = true;
    if (attn) out->attn = *attn, out->attn_declared = true;
    return detect_rounding(o, m, &t, out, text, err);
}

// trace: with the prompts beside it, or NULL.
static Status replay_trace(Oracle *o, const Model *m, const Rounding *rounding,
                           const TracePrompt *p, const Trace *trace, Report *r, Error *err) {
    const bool is_long = p->n_tokens > LONG_PROMPT;
    const ReplayOptions options = {
        .max_rows = is_long ? LONG_ROWS : 0, .max_causes = MAX_CAUSES, .trace = trace};
    int index;
    Status st = report_prompt(r, "prompt", p->tokens, p->n_tokens, "", &index, err);
    return st ? st : replay_prompt(o, m, rounding, p, &options, r, index, err);
}

// "k_rope blk.1: rope-base (1 of 2)"
static void say_got(const First *first, CaseResult *out) {
    if (first->finding) {
        snprintf(out->got, sizeof out->got, "%s: %s", stage_name(first->stage), first->finding->id);
    } else if (first->component) {
        const Cause *c = &first->component->cause;
        char name[COMPONENT_TEXT];
        snprintf(out->got, sizeof out->got, "%s: %s%s", component_text(first->component->ref, name),
                 c->n_fits ? c->fits[0].id : certainty_name(c->certainty),
                 c->n_fits > 1 ? " or others" : "");
    }
}

static bool names(const char *const *list, size_t n, const char *id) {
    for (size_t i = 0; i < n && list[i]; i++) {
        if (strcmp(list[i], id) == 0) return true;
    }
    return false;
}

// Right: the only hypothesis that fits, or one of several that this prompt cannot tell apart.
static bool right_cause(const Fault *f, const Cause *c) {
    for (size_t i = 0; i < c->n_fits; i++) {
        if (names(f->causes, sizeof f->causes / sizeof *f->causes, c->fits[i].id)) return true;
    }
    return false;
}

static bool right_component(const Fault *f, ComponentRef ref) {
    for (int i = 0; i < f->n_expect; i++) {
        if (f->expect[i].c == ref.c &&
            (f->expect[i].layer == FAULT_ANY_LAYER || f->expect[i].layer == ref.layer)) {
            return true;
        }
    }
    return false;
}

static void score(const Fault *f, Report *r, CaseResult *out) {
    replay_equivalents(r);
    report_finish(r);
    out->detected = !report_passed(r);
    if (!out->detected) return;
    const First first = report_first(r);
    say_got(&first, out);
    if (first.finding) {
        out->right_component =
            f->expect_finding && strcmp(f->expect_finding, first.finding->id) == 0;
        out->right_cause = out->right_component;
    } else if (first.component) {
        out->ratio = first.component->worst.ratio;
        out->right_component = right_component(f, first.component->ref);
        out->right_cause = out->right_component && right_cause(f, &first.component->cause);
    }
}

// How much of its bounds a right engine takes. Copies into a cache are left out: their bound is
// half a unit of its type, and a right one takes all of that.
static const ComponentResult *largest_ratio(const Report *r) {
    const ComponentResult *most = NULL;
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *c = &r->components[i];
        if (c->ref.c == COMP_K_CACHE || c->ref.c == COMP_V_CACHE) continue;
        if (!most || c->worst.ratio > most->worst.ratio) most = c;
    }
    return most;
}

// told: it is known how the engine rounds. Where that was guessed, another way may have been found
// that the bounds cannot tell from it, and then takes what it takes of them.
static void score_clean(Report *r, bool told, CaseResult *out) {
    replay_equivalents(r);
    report_finish(r);
    out->ran = true;
    out->detected = !report_passed(r);
    const ComponentResult *most = told ? largest_ratio(r) : NULL;
    out->ratio = most ? most->worst.ratio : 0;
    if (out->detected) {
        const First first = report_first(r);
        say_got(&first, out);
    } else if (most) {
        component_text(most->ref, out->got);
    }
}

// --- faults -------------------------------------------------------------------------------------

// Is the faulty trace the clean engine's? Faults of sampling draw in a way of their own: then the
// clean engine draws so too. chosen: its token.
static Status is_blind(const Setting *s, const MutantOptions *faulty, const TracePrompt *p,
                       bool *blind, int32_t *chosen, Error *err) {
    *chosen = s->clean.chosen;
    if (!p->sampling.given) {
        *blind = same_trace(p, &s->clean);
        return OK;
    }
    MutantOptions o = *faulty;
    TracePrompt clean;
    o.faults[0] = NULL, o.sampling = p->sampling;
    Status st = mutant_run(s->tiny.model, s->ids.data, s->ids.len, &o, &clean, err);
    if (st) return st;
    *blind = same_trace(p, &clean);
    *chosen = clean.chosen;
    mutant_free(&clean);
    return OK;
}

// The other sequence that the cache holds, which K4 reads: this one backwards, in a trace of both.
static Status add_neighbour(const Fault *f, const Setting *s, TracePrompt both[2], Error *err) {
    const size_t n = s->ids.len;
    if (!names(f->causes, 4, "cache-sequence")) return OK;
    int32_t *backwards = malloc(n * sizeof *backwards);
    if (!backwards) return error_memory(err, "tokens", n * sizeof *backwards);
    for (size_t i = 0; i < n; i++) backwards[i] = s->ids.data[n - 1 - i];
    MutantOptions o = engine_of(s);
    o.chunks = NULL, o.n_chunks = 0;
    Status st = mutant_run(s->tiny.model, backwards, n, &o, &both[1], err);
    both[1].name = "neighbour";
    free(backwards);
    return st;
}

// Verify's answer, then the others', who are told how the engine rounds.
static Status judge_fault(const Fault *f, const Setting *s, TracePrompt *p, CaseResult *out,
                          Error *err) {
    const Model *m = s->tiny.model;
    const SettingPlan *plan = s->plan;
    Oracle *oracle;
    Rounding rounding;
    Report r;
    Status st = oracle_new(m, 1, &oracle, err);
    if (st) return st;
    report_init(&r);
    st = take_rounding(oracle, m, p, plan->says ? &s->act : NULL, plan->says ? &s->attn : NULL,
                       &rounding, err);
    TracePrompt both[2] = {*p, {.name = ""}};
    if (!st) st = add_neighbour(f, s, both, err);
    const Trace trace = {.prompts = both, .n_prompts = both[1].n_arrays ? 2 : 1};
    if (!st) st = replay_trace(oracle, m, &rounding, &both[0], &trace, &r, err);
    if (both[1].n_arrays) mutant_free(&both[1]);
    if (!st) {
        score(f, &r, out);
        rounding.act = s->act, rounding.attn = s->attn;
        st = others_ask(oracle, m, &rounding, p, &s->clean, out->other, err);
    }
    oracle_free(oracle);
    report_free(&r);
    return st;
}

Status case_fault(const Fault *f, const Setting *s, CaseResult *out, Error *err) {
    MutantOptions o = engine_of(s);
    o.faults[0] = f;
    TracePrompt p;
    Status st = mutant_run(s->tiny.model, s->ids.data, s->ids.len, &o, &p, err);
    if (st) return st;
    int32_t chosen;
    out->ran = true;
    st = is_blind(s, &o, &p, &out->blind, &chosen, err);
    // Equivalent ones are judged also where nothing shows: an alarm is an alarm.
    if (!st && (!out->blind || f->equivalent)) st = judge_fault(f, s, &p, out, err);
    out->other[OTHER_TOP1] |= p.chosen != chosen;
    if (!st && !out->detected && nearly_same(&p, &s->clean)) out->blind = true;
    mutant_free(&p);
    return st;
}

// Texts as a program would make them, special tokens in them; each shows another fault.
static const char *const texts[N_TEXTS] = {
    "<|user|>\nWhat is the capital of France?</s>\n<|assistant|>\n",
    "<|system|>\nYou are a helpful bot.</s>\n<|user|>\nTell me a story about an owl.</s>\n"
    "<|assistant|>\n",
    "Once upon a time there was a girl named Ruby.", "a\nlist\n\nof   words\n",
    "<|user|>\nHello</s>\n<|assistant|>\nHello! How can I help you today?</s>\n<|user|>\n"
    "What is 7 + 8?</s>\n<|assistant|>\n"};

static Status run_text(const TextSetting *t, int text, const Fault *const *faults, TokenList *ids,
                       TracePrompt *p, Error *err) {
    const MutantOptions o = {.act = *act_scheme_at(0),
                             .attn = *attn_scheme_at(0),
                             .out = PREC_F32,
                             .scores = true,
                             .cache = true};
    Status st = mutant_tokens(t->gguf, t->tokenizer, texts[text], faults, ids, err);
    if (!st) st = mutant_run(t->tiny.model, ids->data, ids->len, &o, p, err);
    if (!st) p->text = texts[text];
    return st;
}

// The prompt stage and the components of one trace, into r.
static Status judge_text(const TextSetting *t, Oracle *oracle, const Rounding *rounding,
                         const TracePrompt *p, Report *r, Error *err) {
    const PromptCheck check = {.text = p->text};
    Status st = replay_trace(oracle, t->tiny.model, rounding, p, NULL, r, err);
    return st ? st : prompt_check(t->gguf, t->tokenizer, t->chat, p, &check, r, 0, err);
}

// fault NULL: a clean case.
static Status case_text(const Fault *fault, const TextSetting *t, int text, CaseResult *out,
                        Error *err) {
    const Fault *const none[] = {NULL}, *const faults[] = {fault, NULL};
    const Rounding rounding = {.act = *act_scheme_at(0),
                               .attn = *attn_scheme_at(0),
                               .act_declared = true,
                               .attn_declared = true};
    TokenList ids = {0}, right = {0};
    TracePrompt p = {0}, clean = {0};
    Oracle *oracle = NULL;
    Report r;
    report_init(&r);
    Status st = run_text(t, text, faults, &ids, &p, err);
    if (!st && fault) st = run_text(t, text, none, &right, &clean, err);
    if (!st) st = oracle_new(t->tiny.model, 1, &oracle, err);
    out->ran = true;
    out->blind = !st && fault && same_trace(&p, &clean);
    if (!st && !out->blind) {
        st = judge_text(t, oracle, &rounding, &p, &r, err);
        if (!st && fault) score(fault, &r, out);
        if (!st && !fault) score_clean(&r, true, out);
        if (!st && fault) {
            st = others_ask(oracle, t->tiny.model, &rounding, &p, &clean, out->other, err);
        }
    }
    oracle_free(oracle);
    report_free(&r);
    mutant_free(&p), mutant_free(&clean);
    tokens_free(&ids), tokens_free(&right);
    return st;
}

Status case_text_fault(const Fault *f, const TextSetting *t, int text, CaseResult *out,
                       Error *err) {
    return case_text(f, t, text, out, err);
}

Status case_clean_text(const TextSetting *t, int text, CaseResult *out, Error *err) {
    return case_text(NULL, t, text, out, err);
}

// --- clean cases --------------------------------------------------------------------------------

typedef struct {
    TinyModel tiny;
    TokenList ids;
    size_t chunks[MOST_CHUNKS], n_chunks;
} Clean;

static Status clean_new(Rng *r, Clean *c, Error *err) {
    static const TinyKind kinds[] = {MODEL_TINY, MODEL_TINY_QUANT, MODEL_TINY_LLAMA3,
                                     MODEL_TINY_QWEN3};
    static const TensorType types[] = {TYPE_F16,  TYPE_BF16, TYPE_Q8_0, TYPE_Q4_0, TYPE_Q5_1,
                                       TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K, TYPE_F32};
    const TinyKind kind = kinds[rng_below(r, sizeof kinds / sizeof *kinds)];
    const TensorType type =
        kind == MODEL_TINY_QUANT ? types[rng_below(r, sizeof types / sizeof *types)] : TYPE_F32;
    *c = (Clean){0};
    Status st = tiny_new(kind, type, 0, rng_next(r), &c->tiny, err);
    if (st) return st;
    const size_t n = 1 + rng_below(r, CLEAN_TOKENS), n_vocab = (size_t)c->tiny.model->h.n_vocab;
    for (size_t i = 0; i < n; i++) {
        if (!tokens_append(&c->ids, (int32_t)rng_below(r, n_vocab))) {
            return error_memory(err, "tokens", n * sizeof(int32_t));
        }
    }
    if (rng_one_in(r, 2)) return OK;
    for (size_t at = 0; at < n; at += c->chunks[c->n_chunks++]) {
        c->chunks[c->n_chunks] = 1 + rng_below(r, n - at);
    }
    return OK;
}

static void clean_free(Clean *c) {
    tokens_free(&c->ids);
    tiny_free(&c->tiny);
}

// A backend of ours, tapped while it runs.
static Status clean_backend(Rng *r, const Clean *c, Oracle *o, Report *report, CaseResult *out,
                            Error *err) {
    static const TensorType cache[] = {TYPE_F32, TYPE_F16, TYPE_Q8_0};
    const Model *m = c->tiny.model;
    const BackendConfig config = {.n_threads = 1};
    DeviceModel *d;
    const size_t n_types = m->h.head_dim % 32 == 0 ? 3 : 2;
    const LiveOptions options = {.type_k = cache[rng_below(r, n_types)],
                                 .type_v = cache[rng_below(r, n_types)],
                                 .chunks = c->n_chunks ? c->chunks : NULL,
                                 .n_chunks = c->n_chunks,
                                 .scores = rng_one_in(r, 2)};
    int index;
    snprintf(out->what, sizeof out->what, "backend cpu, %s weights, cache %s, %s",
             type_info(m->layers[0].q->type)->name, type_info(options.type_k)->name,
             type_info(options.type_v)->name);
    Status st = device_model_open(m, backend_by_name("cpu"), &config, &d, err);
    if (st) return st;
    st = report_prompt(report, "prompt", c->ids.data, c->ids.len, "", &index, err);
    if (!st) {
        st = live_verify(d, o, c->ids.data, c->ids.len, &options, report, index, NULL, err);
    }
    device_model_close(d);
    return st;
}

// Leaves some of the arrays out, so that verify has to bridge what is not there.
static void thin_out(Rng *r, TracePrompt *p) {
    const size_t one_in = 2 + rng_below(r, 4);
    size_t n = 0;
    for (size_t i = 0; i < p->n_arrays; i++) {
        if (rng_one_in(r, one_in)) continue;
        const TraceArray a = p->arrays[n];
        p->arrays[n++] = p->arrays[i];
        p->arrays[i] = a;  // what is left out stays behind, to be freed
    }
    p->n_arrays = n;
}

// Ways that engines have: one scale for all rows only where all are evaluated at once, a cache of
// blocks only where heads are whole blocks. The fault engine has no sums of q8_1's blocks, which
// products with minima would take.
static ActScheme any_act(Rng *r, const Clean *c) {
    for (;;) {
        int n = 0;
        while (act_scheme_at(n)) n++;
        const ActScheme *a = act_scheme_at((int)rng_below(r, (size_t)n));
        const TensorType type = c->tiny.model->layers[0].q->type;
        const ActWay way = a->way[type];
        if (act_sums(way, type)) continue;
        if (way != WAY_Q8_TENSOR || c->n_chunks == 0) return *a;
    }
}

static AttnScheme any_attn(Rng *r, const Clean *c) {
    for (;;) {
        int n = 0;
        while (attn_scheme_at(n)) n++;
        const AttnScheme *a = attn_scheme_at((int)rng_below(r, (size_t)n));
        const bool blocks = a->k == TYPE_Q8_0 || a->v == TYPE_Q8_0;
        if (!blocks || c->tiny.model->h.head_dim % 32 == 0) return *a;
    }
}

// The fault engine without a fault, as an engine that rounds in some way, says so or not, and keeps
// all of its arrays or some.
static Status clean_engine(Rng *r, const Clean *c, Oracle *o, Report *report, bool *told,
                           CaseResult *out, Error *err) {
    const Model *m = c->tiny.model;
    const MutantOptions options = {
        .act = any_act(r, c),
        .attn = any_attn(r, c),
        .out = rng_one_in(r, 3) ? (Precision)rng_below(r, N_PRECISIONS) : PREC_F32,
        .scores = rng_one_in(r, 2),
        .cache = rng_one_in(r, 2),
        .chunks = c->n_chunks ? c->chunks : NULL,
        .n_chunks = c->n_chunks,
        .seed = rng_next(r)};
    const bool says_act = rng_one_in(r, 2), says_attn = rng_one_in(r, 2);
    *told = says_act && says_attn;
    TracePrompt p;
    Status st = mutant_run(m, c->ids.data, c->ids.len, &options, &p, err);
    if (st) return st;
    const size_t n_arrays = p.n_arrays;
    if (rng_one_in(r, 3)) thin_out(r, &p);
    snprintf(out->what, sizeof out->what,
             "%s weights, activations %s%s, attention %s%s, arrays in %s, %zu of %zu",
             type_info(m->layers[0].q->type)->name, options.act.name, says_act ? " (said)" : "",
             options.attn.name, says_attn ? " (said)" : "", precision_name(options.out), p.n_arrays,
             n_arrays);
    Rounding rounding;
    st = take_rounding(o, m, &p, says_act ? &options.act : NULL, says_attn ? &options.attn : NULL,
                       &rounding, err);
    if (!st) st = replay_trace(o, m, &rounding, &p, NULL, report, err);
    p.n_arrays = n_arrays;
    mutant_free(&p);
    return st;
}

Status case_clean(size_t i, CaseResult *out, Error *err) {
    Rng r = {i * 0x2545f4914f6cdd1du + 1};
    Clean c;
    Oracle *o = NULL;
    Report report;
    bool told = true;
    report_init(&report);
    Status st = clean_new(&r, &c, err);
    if (!st) st = oracle_new(c.tiny.model, 1, &o, err);
    if (!st) {
        st = rng_one_in(&r, 4) ? clean_backend(&r, &c, o, &report, out, err)
                               : clean_engine(&r, &c, o, &report, &told, out, err);
    }
    if (!st) score_clean(&report, told, out);
    oracle_free(o);
    report_free(&report);
    clean_free(&c);
    return st;
}
