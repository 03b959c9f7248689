// The self-test: the list of cases, the threads that work it off, the scores; see selftest.h.
#include "verify/selftest.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/pool.h"
#include "verify/selftest_internal.h"

enum { DEFAULT_CLEAN = 1000 };

// Long positions on one model only, with the scores left out: 1200 x 1200 of them a head.
static const SettingPlan plans[] = {
    {MODEL_TINY, TYPE_F32, 0, PROMPT_BOS, WAY_NONE, TYPE_F32, true, true},
    {MODEL_TINY, TYPE_F32, 0, PROMPT_CHAT, WAY_NONE, TYPE_F32, false, true},
    {MODEL_TINY, TYPE_F32, 0, PROMPT_CHUNKS, WAY_NONE, TYPE_F16, true, true},
    {MODEL_TINY, TYPE_F32, 0, PROMPT_REPEAT, WAY_NONE, TYPE_F32, true, true},
    {MODEL_TINY, TYPE_F32, 1300, PROMPT_LONG, WAY_NONE, TYPE_F32, true, false},
    {MODEL_TINY_QUANT, TYPE_Q4_K, 0, PROMPT_CHAT, WAY_Q8_K, TYPE_F16, false, true},
    {MODEL_TINY_QUANT, TYPE_Q6_K, 0, PROMPT_CHUNKS, WAY_Q8_K, TYPE_F16, true, true},
    {MODEL_TINY_QUANT, TYPE_Q8_0, 0, PROMPT_CHAT, WAY_Q8_0, TYPE_Q8_0, true, true},
    {MODEL_TINY_QUANT, TYPE_F16, 0, PROMPT_CHAT, WAY_F16, TYPE_F16, false, true},
    {MODEL_TINY_LLAMA3, TYPE_F32, 0, PROMPT_CHAT, WAY_NONE, TYPE_F32, true, true},
    {MODEL_TINY_LLAMA3, TYPE_F32, 0, PROMPT_CHUNKS, WAY_NONE, TYPE_F16, false, true},
    {MODEL_TINY_QWEN3, TYPE_F32, 0, PROMPT_CHAT, WAY_NONE, TYPE_F32, false, true},
    {MODEL_TINY_QWEN3, TYPE_F32, 0, PROMPT_CHUNKS, WAY_NONE, TYPE_F16, true, true},
    {MODEL_TINY_HOT, TYPE_F32, 0, PROMPT_CHAT, WAY_NONE, TYPE_F32, true, true},
};
enum { N_PLANS = sizeof plans / sizeof *plans };

typedef struct {
    int fault;      // -1: a clean case
    int setting;    // of a fault: index of plans; -1: a text
    size_t number;  // of a text; of a clean case
    bool text;
    CaseResult result;
} Case;

typedef struct {
    const SelftestOptions *options;
    Setting settings[N_PLANS];
    bool wanted[N_PLANS];
    TextSetting text;
    Case *cases;
    size_t n_cases, cap_cases;
    atomic_size_t next, done;
    atomic_bool failed;
    Status status;  // of the first thread that failed
    Error *err;
    atomic_flag reporting;
} Run;

// --- the list -----------------------------------------------------------------------------------

static Status add_case(Run *r, Case c) {
    if (r->n_cases == r->cap_cases) {
        const size_t cap = r->cap_cases ? 2 * r->cap_cases : 1024;
        Case *cases = realloc(r->cases, cap * sizeof *cases);
        if (!cases) return error_memory(r->err, "cases", cap * sizeof *cases);
        r->cases = cases, r->cap_cases = cap;
    }
    r->cases[r->n_cases++] = c;
    return OK;
}

static bool is_wanted(const Run *r, const Fault *f) {
    return !r->options->only || strcmp(r->options->only, f->id) == 0;
}

static Status list_fault(Run *r, int index) {
    const Fault *f = fault_at(index);
    Status st = OK;
    for (int i = 0; !st && i < N_PLANS; i++) {
        if (!(f->models >> plans[i].kind & 1)) continue;
        r->wanted[i] = true;
        st = add_case(r, (Case){.fault = index, .setting = i});
    }
    const bool texts = f->models >> MODEL_TINY_TEXT & 1 && r->options->text_model;
    for (size_t i = 0; !st && texts && i < N_TEXTS; i++) {
        st = add_case(r, (Case){.fault = index, .text = true, .number = i});
    }
    return st;
}

static Status list_cases(Run *r) {
    const SelftestOptions *o = r->options;
    Status st = OK;
    for (int i = 0; !st && fault_at(i); i++) {
        if (is_wanted(r, fault_at(i))) st = list_fault(r, i);
    }
    if (st) return st;
    if (o->only && !fault_by_id(o->only)) {
        return error_set(r->err, ERR_USAGE,
                         "there is no fault '%s'; --self-test --verbose lists them", o->only);
    }
    if (o->only) return OK;
    const size_t n = o->n_clean ? o->n_clean : DEFAULT_CLEAN;
    const size_t n_texts = !o->text_model ? 0 : n < N_TEXTS ? n : N_TEXTS;
    for (size_t i = 0; !st && i < n; i++) {
        st = add_case(r, (Case){.fault = -1, .text = i < n_texts, .number = i});
    }
    return st;
}

// --- working it off -----------------------------------------------------------------------------

static Status run_case(Run *r, Case *c, Error *err) {
    CaseResult *out = &c->result;
    if (c->fault < 0) {
        return c->text ? case_clean_text(&r->text, (int)c->number, out, err)
                       : case_clean(c->number, out, err);
    }
    const Fault *f = fault_at(c->fault);
    Status st = c->text ? case_text_fault(f, &r->text, (int)c->number, out, err)
                        : case_fault(f, &r->settings[c->setting], out, err);
    if (st) error_prefix(err, "fault %s", f->id);
    return st;
}

// The first failure is kept and ends the work.
static void fail(Run *r, Status st, const Error *err) {
    if (atomic_exchange(&r->failed, true)) return;
    r->status = st;
    if (r->err) *r->err = *err;
}

static void tell(Run *r, int thread, const char *what, size_t total) {
    const size_t done = atomic_fetch_add(&r->done, 1) + 1;
    if (thread == 0 && r->options->progress) {
        r->options->progress(r->options->user, what, (double)done, (double)total);
    }
}

static void make_settings(void *arg, int thread, int n_threads) {
    (void)thread, (void)n_threads;
    Run *r = arg;
    Error err;
    for (size_t i; (i = atomic_fetch_add(&r->next, 1)) < N_PLANS && !r->failed;) {
        if (!r->wanted[i]) continue;
        const Status st = setting_new(&plans[i], &r->settings[i], &err);
        if (st) fail(r, st, &err);
    }
}

static void work(void *arg, int thread, int n_threads) {
    (void)n_threads;
    Run *r = arg;
    Error err;
    for (size_t i; (i = atomic_fetch_add(&r->next, 1)) < r->n_cases && !r->failed;) {
        const Status st = run_case(r, &r->cases[i], &err);
        if (st) fail(r, st, &err);
        tell(r, thread, "self-test", r->n_cases);
    }
}

static Status run_all(Run *r) {
    Pool *pool;
    Status st = pool_create(r->options->n_threads > 0 ? r->options->n_threads : 1, &pool, r->err);
    if (st) return st;
    if (r->options->text_model) st = text_setting_new(r->options->text_model, &r->text, r->err);
    if (!st) {
        pool_run(pool, make_settings, r);
        st = r->failed ? r->status : OK;
    }
    if (!st) {
        atomic_store(&r->next, 0);
        pool_run(pool, work, r);
        st = r->failed ? r->status : OK;
    }
    pool_free(pool);
    return st;
}

// --- scores -------------------------------------------------------------------------------------

static void count_fault(FaultScore *s, const CaseResult *c) {
    if (c->blind && !s->fault->equivalent) {
        s->blind++;
        return;
    }
    s->cases++;
    s->detected += c->detected;
    s->right_component += c->right_component;
    s->right_cause += c->right_cause;
    if (c->detected && c->ratio > 0 && (s->smallest_ratio == 0 || c->ratio < s->smallest_ratio)) {
        s->smallest_ratio = c->ratio;
    }
    for (int i = 0; i < N_OTHERS; i++) s->other[i] += c->other[i];
    const bool wrong = s->fault->equivalent ? c->detected : !c->right_cause;
    if (wrong && !s->got[0]) {
        snprintf(s->got, sizeof s->got, "%s", c->detected ? c->got : "not detected");
    }
}

static void count_clean(Selftest *t, const CaseResult *c) {
    t->clean_cases++;
    t->false_alarms += c->detected;
    if (c->ratio > t->clean_ratio && !c->detected) {
        t->clean_ratio = c->ratio;
        snprintf(t->clean_what, sizeof t->clean_what, "%.40s: %.110s", c->got, c->what);
    }
    if (c->detected && !t->alarm[0]) {
        snprintf(t->alarm, sizeof t->alarm, "%.90s (%.66s)", c->got, c->what);
    }
}

static Status add_scores(const Run *r, Selftest *out) {
    int n = 0;
    while (fault_at(n)) n++;
    out->faults = calloc((size_t)n + 1, sizeof *out->faults);
    if (!out->faults) return error_memory(r->err, "scores", (size_t)n * sizeof *out->faults);
    int *place = malloc(((size_t)n + 1) * sizeof *place);
    if (!place) return error_memory(r->err, "scores", (size_t)n * sizeof *place);
    for (int i = 0; i < n; i++) {
        if (!is_wanted(r, fault_at(i))) continue;
        place[i] = (int)out->n_faults;
        out->faults[out->n_faults++].fault = fault_at(i);
    }
    for (size_t i = 0; i < r->n_cases; i++) {
        const Case *c = &r->cases[i];
        if (c->fault < 0)
            count_clean(out, &c->result);
        else
            count_fault(&out->faults[place[c->fault]], &c->result);
    }
    free(place);
    return OK;
}

Status selftest_run(const SelftestOptions *options, Selftest *out, Error *err) {
    const double start = clock_seconds();
    *out = (Selftest){0};
    Run r = {.options = options, .err = err};
    Status st = list_cases(&r);
    if (!st) st = run_all(&r);
    if (!st) st = add_scores(&r, out);
    for (int i = 0; i < N_PLANS; i++) setting_free(&r.settings[i]);
    text_setting_free(&r.text);
    free(r.cases);
    out->seconds = clock_seconds() - start;
    if (st) selftest_free(out);
    return st;
}

void selftest_free(Selftest *s) {
    free(s->faults);
    *s = (Selftest){0};
}
