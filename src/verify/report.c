// The results of verify as data; see report.h.
//
// This file owns: growth and freeing, the outcome of a stage, what comes first. It leaves to
// others: words (report_words.c), showing them (report_text.c, report_json.c, report_html.c).
#include "verify/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

const char *stage_name(StageId s) {
    static const char *const names[N_STAGES] = {"file", "prompt", "components", "paths"};
    return names[s];
}

const char *outcome_name(Outcome o) {
    static const char *const names[] = {"skipped", "pass", "fail"};
    return names[o];
}

void report_init(Report *r) {
    *r = (Report){0};
}

void report_free(Report *r) {
    for (size_t i = 0; i < r->n_prompts; i++) free(r->prompts[i].tokens);
    for (size_t i = 0; i < r->n_components; i++) {
        free(r->components[i].row_token);
        free(r->components[i].ratios);
    }
    free(r->findings);
    free(r->prompts);
    free(r->components);
    report_init(r);
}

// Room for one more of n things of `size` bytes: the place of the new one, zeroed; NULL: no memory.
static void *grow(void **data, size_t *n, size_t *cap, size_t size) {
    if (*n == *cap) {
        const size_t more = *cap ? *cap * 2 : 16;
        if (more > SIZE_MAX / size) return NULL;
        void *moved = realloc(*data, more * size);
        if (!moved) return NULL;
        *data = moved;
        *cap = more;
    }
    return memset((char *)*data + (*n)++ * size, 0, size);
}

// As much of src as fits; never half a character.
static void copy_text(char *out, size_t size, const char *src) {
    const size_t len = strlen(src), most = size - 1;
    const size_t n = len <= most ? len : most - utf8_incomplete_tail(src, most);
    memcpy(out, src, n);
    out[n] = 0;
}

Status report_finding(Report *r, StageId stage, int prompt, const char *id, Outcome outcome,
                      bool warning, Error *err, const char *fmt, ...) {
    void *data = r->findings;
    Finding *f = grow(&data, &r->n_findings, &r->cap_findings, sizeof *f);
    r->findings = data;
    if (!f) return error_memory(err, "findings", sizeof *f * (r->n_findings + 1));
    char text[2 * FINDING_TEXT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    *f = (Finding){.stage = stage, .outcome = outcome, .warning = warning, .prompt = prompt};
    copy_text(f->id, sizeof f->id, id);
    copy_text(f->text, sizeof f->text, text);
    return OK;
}

Status report_prompt(Report *r, const char *name, const int32_t *tokens, size_t n, const char *text,
                     int *index, Error *err) {
    int32_t *copy = malloc((n ? n : 1) * sizeof *copy);
    if (!copy) return error_memory(err, "a prompt's ids", n * sizeof *copy);
    if (n) memcpy(copy, tokens, n * sizeof *copy);
    void *data = r->prompts;
    PromptResult *p = grow(&data, &r->n_prompts, &r->cap_prompts, sizeof *p);
    r->prompts = data;
    if (!p) {
        free(copy);
        return error_memory(err, "prompts", sizeof *p * (r->n_prompts + 1));
    }
    copy_text(p->name, sizeof p->name, name ? name : "");
    copy_text(p->text, sizeof p->text, text ? text : "");
    p->tokens = copy;
    p->n_tokens = n;
    if (index) *index = (int)r->n_prompts - 1;
    return OK;
}

Status report_component(Report *r, ComponentResult **out, Error *err) {
    void *data = r->components;
    *out = grow(&data, &r->n_components, &r->cap_components, sizeof **out);
    r->components = data;
    if (!*out) return error_memory(err, "results", sizeof **out * (r->n_components + 1));
    (*out)->drift = -1;
    return OK;
}

static int by_prompt_and_pass(const void *left, const void *right) {
    const ComponentResult *a = left, *b = right;
    if (a->prompt != b->prompt) return a->prompt < b->prompt ? -1 : 1;
    const long x = component_order(a->ref), y = component_order(b->ref);
    return (x > y) - (x < y);
}

typedef struct {
    size_t passed, failed, skipped, warnings;
} Tally;

static Tally tally_findings(const Report *r, StageId s) {
    Tally t = {0};
    for (size_t i = 0; i < r->n_findings; i++) {
        const Finding *f = &r->findings[i];
        if (f->stage != s) continue;
        t.passed += f->outcome == OUTCOME_PASS;
        t.failed += f->outcome == OUTCOME_FAIL;
        t.skipped += f->outcome == OUTCOME_SKIPPED;
        t.warnings += f->warning;
    }
    return t;
}

static Tally tally_components(const Report *r) {
    Tally t = {0};
    for (size_t i = 0; i < r->n_components; i++) {
        const Outcome o = r->components[i].outcome;
        t.passed += o == OUTCOME_PASS;
        t.failed += o == OUTCOME_FAIL;
        t.skipped += o == OUTCOME_SKIPPED;
    }
    return t;
}

// Appends "12 checks" or "1 of 12 checks fails" to the reason.
static void summarize(char *reason, const char *one, Tally t) {
    const size_t n = t.passed + t.failed, at = strlen(reason);
    char *out = reason + at;
    const size_t room = FINDING_TEXT - at;
    const char *comma = at ? ", " : "";
    if (n && t.failed)
        snprintf(out, room, "%s%zu of %zu %s%s fail%s", comma, t.failed, n, one, n > 1 ? "s" : "",
                 t.failed > 1 ? "" : "s");
    else if (n)
        snprintf(out, room, "%s%zu %s%s", comma, n, one, n > 1 ? "s" : "");
}

static void finish_stage(Report *r, StageId s) {
    char *reason = r->stage_reason[s];
    const Tally checks = tally_findings(r, s);
    const Tally parts = s == STAGE_COMPONENTS ? tally_components(r) : (Tally){0};
    const bool failed = checks.failed || parts.failed || r->stage[s] == OUTCOME_FAIL;
    const bool passed = checks.passed || parts.passed || r->stage[s] == OUTCOME_PASS;
    if (failed && r->stage[s] != OUTCOME_FAIL) reason[0] = 0;  // nothing that failed is skipped
    if (!failed && r->stage[s] == OUTCOME_SKIPPED && reason[0]) return;
    r->stage[s] = failed ? OUTCOME_FAIL : passed ? OUTCOME_PASS : OUTCOME_SKIPPED;
    if (reason[0]) return;
    if (s == STAGE_COMPONENTS) summarize(reason, "component", parts);
    summarize(reason, "check", checks);
    size_t at = strlen(reason);
    if (at && checks.warnings) {
        snprintf(reason + at, FINDING_TEXT - at, ", %zu warning%s", checks.warnings,
                 checks.warnings > 1 ? "s" : "");
    }
    if (!at) snprintf(reason, FINDING_TEXT, passed ? "nothing wrong" : "nothing to check");
}

void report_finish(Report *r) {
    if (r->n_components) {
        qsort(r->components, r->n_components, sizeof *r->components, by_prompt_and_pass);
    }
    for (int s = 0; s < N_STAGES; s++) finish_stage(r, (StageId)s);
}

const ComponentResult *report_first_component(const Report *r) {
    const ComponentResult *first = NULL;
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *c = &r->components[i];
        if (c->outcome != OUTCOME_FAIL) continue;
        if (!first || component_order(c->ref) < component_order(first->ref) ||
            (component_order(c->ref) == component_order(first->ref) && c->prompt < first->prompt)) {
            first = c;
        }
    }
    return first;
}

First report_first(const Report *r) {
    for (int s = 0; s < N_STAGES; s++) {
        First first = {.stage = (StageId)s};
        if (s == STAGE_COMPONENTS && (first.component = report_first_component(r))) return first;
        for (size_t i = 0; i < r->n_findings; i++) {
            first.finding = &r->findings[i];
            if (first.finding->stage == first.stage && first.finding->outcome == OUTCOME_FAIL) {
                return first;
            }
        }
    }
    return (First){0};
}

bool report_passed(const Report *r) {
    for (int s = 0; s < N_STAGES; s++) {
        if (r->stage[s] == OUTCOME_FAIL) return false;
    }
    const First first = report_first(r);
    return !first.finding && !first.component;
}
