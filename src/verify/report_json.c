// A report as JSON, for programs and for the page; see report.h. Names are fixed, down to `build`
// also what they hold: other programs rely on them. Every number is finite.
//
//   verdict          "pass" or "fail"
//   first            null, or what is wrong first:
//                      component   "file", "prompt", "paths" or a component: "blk.0.q"
//                      token, head, nmse, bound    of the worst row and head of that component
//                                  (bound: of the NMSE); null for a stage; head null where a row is
//                                  one cell
//                      cause       text: what fits, several joined by " or "; "unknown"; of a stage
//                                  the finding
//                      certainty   "certain", "ambiguous", "unknown", "none" (not looked for)
//                      cause_id    of the best fit or the finding: "transposed"; null
//                      fits        every cause that fits, the best first: id, text, nmse, ratio (if
//                                  it were so), harmless
//                      stage, prompt, layer, measure, error, error_bound, ratio, pattern, apart
//   stages           file, prompt, components, paths: "pass", "fail" or "skipped: the reason"
//   components       every one of every prompt, in the order of the pass: component, prompt, layer,
//                    outcome, token, head, measure ("element", "NMSE", "bias", "bits", "sum",
//                    "not finite", "shape": what decided), error, error_bound (of that measure),
//                    ratio, nmse, bound, heads, cells (tokens x heads looked at), failing (cells),
//                    coarse (was something that it reads recomputed?);
//                    where there is something to say: since (from which on it was recomputed),
//                    first_bad_token, first_bad_head, drift, rounding, equivalent;
//                    where it fails: cause, certainty, cause_id, fits, pattern, apart
//   model_sha256, backend, build
//   first_component  as first, of the components alone: a prompt's fault comes before it; null
//   sentence         as the terminal shows it; stage_reasons: text for each stage
//   findings         stage, id, text, outcome, warning, prompt (name or null)
//   prompts          name, what, tokens
//   subject, model, model_what, rounding, command, n_layers, seconds
//
// The page's rows also have, where ratios were kept, "ratios": {rows, heads, log, tokens}: base64
// of a byte a cell, rows x heads, and the number of the list in "token_lists" with the token that
// each row starts at. A byte is 85 + ceil(14 log10(ratio)) within 1..255, 0 where nothing was
// looked at: so 85 is the last that passes. More than 64 rows or heads are taken together, the
// worst of each bunch. "worst_only": true where there are so many rows that only each component's
// worst prompt is there.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "verify/report_internal.h"

#if HAVE_JANSSON
#include <jansson.h>

enum { MAP_SIDE = 64, TOKEN_LISTS = 64, PAGE_ROWS = 20000 };

typedef struct {
    Out *out;
    const Report *r;
    bool page;
    size_t n_members;
    // Of the page: the tokens that rows of ratios start at, each list once.
    size_t (*lists)[MAP_SIDE + 1];  // the length first
    size_t n_lists;
} Json;

static int dump_piece(const char *piece, size_t len, void *user) {
    Json *j = user;
    while (len) {
        const char *angle = j->page ? memchr(piece, '<', len) : NULL;
        const size_t n = angle ? (size_t)(angle - piece) : len;
        out_bytes(j->out, piece, n);
        if (angle) out_raw(j->out, "\\u003c");
        piece += n + (angle != NULL);
        len -= n + (angle != NULL);
    }
    return j->out->failed ? -1 : 0;
}

// Takes v; NULL is a lack of memory.
static void dump(Json *j, json_t *v) {
    const size_t flags = JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(j->page ? 4 : 9);
    if (!v || json_dump_callback(v, dump_piece, j, flags)) j->out->failed = true;
    json_decref(v);
}

static void key(Json *j, const char *name) {
    out_format(j->out, "%s\"%s\":", j->n_members++ ? "," : "{", name);
}

static void member(Json *j, const char *name, json_t *v) {
    key(j, name);
    dump(j, v);
}

// Text of any bytes: what is not UTF-8 becomes U+FFFD.
static json_t *text(const char *s) {
    const size_t len = strlen(s);
    char *clean = malloc(3 * len + 1);
    if (!clean) return NULL;
    json_t *v = json_stringn(clean, utf8_repair(s, len, clean));
    free(clean);
    return v;
}

static json_t *number(double x) {
    if (isfinite(x)) return json_real(x);
    return json_real(x < 0 ? -RATIO_MOST : RATIO_MOST);
}

static json_t *count(size_t n) {
    return json_integer((json_int_t)n);
}

static json_t *prompt_name(const Report *r, int prompt) {
    if (prompt < 0 || (size_t)prompt >= r->n_prompts) return json_null();
    return text(r->prompts[prompt].name);
}

// Sets what is not NULL; false: no memory.
static bool set(json_t *o, const char *name, json_t *v) {
    return json_object_set_new(o, name, v) == 0;
}

// --- components ---------------------------------------------------------------------------------

static json_t *cause_text(const Cause *c) {
    Text all = {0};
    Out o = {&all, false};
    for (size_t i = 0; i < c->n_fits; i++) {
        if (i) out_raw(&o, " or ");
        out_raw(&o, c->fits[i].text);
    }
    if (c->certainty == CAUSE_UNKNOWN) out_raw(&o, "unknown");
    json_t *v = o.failed ? NULL : text(all.len ? all.data : "");
    text_free(&all);
    return v;
}

static json_t *fits(const Cause *c) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < c->n_fits; i++) {
        const CauseFit *f = &c->fits[i];
        json_t *fit =
            json_pack("{s:o, s:o, s:o, s:o, s:b}", "id", text(f->id), "text", text(f->text), "nmse",
                      number(f->nmse), "ratio", number(f->ratio), "harmless", (int)f->harmless);
        if (json_array_append_new(list, fit)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static bool set_cause(json_t *o, const ComponentResult *c) {
    const Cause *w = &c->cause;
    return set(o, "cause", cause_text(w)) &&
           set(o, "certainty", json_string(certainty_name(w->certainty))) &&
           set(o, "cause_id", w->n_fits ? text(w->fits[0].id) : json_null()) &&
           set(o, "fits", fits(w)) && set(o, "pattern", text(w->pattern)) &&
           set(o, "apart", text(w->apart));
}

// What `first` and a row of `components` have in common; NULL: no memory.
static json_t *result(const Report *r, const ComponentResult *c) {
    char name[COMPONENT_TEXT];
    return json_pack("{s:s, s:o, s:i, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o}", "component",
                     component_text(c->ref, name), "prompt", prompt_name(r, c->prompt), "layer",
                     c->ref.layer, "token", count(c->token), "head",
                     c->groups > 1 ? count(c->head) : json_null(), "nmse", number(c->worst.nmse),
                     "bound", number(c->worst.nmse_bound), "measure", measure_name(c->worst.by),
                     "error", number(c->worst.error), "error_bound", number(c->worst.bound),
                     "ratio", number(c->worst.ratio));
}

static json_t *first(const Report *r, First f) {
    if (f.component) {
        json_t *o = result(r, f.component);
        if (o && set(o, "stage", json_string(stage_name(f.stage))) && set_cause(o, f.component)) {
            return o;
        }
        json_decref(o);
        return NULL;
    }
    if (!f.finding) return json_null();
    const char *stage = stage_name(f.stage);
    return json_pack("{s:s, s:o, s:n, s:n, s:n, s:n, s:o, s:s, s:o, s:[], s:s}", "component", stage,
                     "prompt", prompt_name(r, f.finding->prompt), "token", "head", "nmse", "bound",
                     "cause", text(f.finding->text), "certainty", certainty_name(CAUSE_CERTAIN),
                     "cause_id", text(f.finding->id), "fits", "stage", stage);
}

// --- ratios of the page -------------------------------------------------------------------------

static uint8_t log_byte(double ratio) {
    if (isnan(ratio) || ratio < 0) return 0;
    const double code = ratio > 0 ? 85 + ceil(14 * log10(ratio)) : 1;
    return code < 1 ? 1 : code > 255 ? 255 : (uint8_t)code;
}

static json_t *base64(const uint8_t *x, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *s = malloc((n + 2) / 3 * 4 + 1), *to = s;
    if (!s) return NULL;
    for (size_t i = 0; i < n; i += 3, to += 4) {
        const unsigned bits =
            x[i] << 16 | (i + 1 < n ? x[i + 1] << 8 : 0) | (i + 2 < n ? x[i + 2] : 0);
        to[0] = digits[bits >> 18];
        to[1] = digits[bits >> 12 & 63];
        to[2] = i + 1 < n ? digits[bits >> 6 & 63] : '=';
        to[3] = i + 2 < n ? digits[bits & 63] : '=';
    }
    json_t *v = json_stringn(s, (size_t)(to - s));
    free(s);
    return v;
}

static size_t row_token(const ComponentResult *c, size_t row) {
    return c->row_token ? c->row_token[row] : row;
}

// The number of the list of first tokens; -1 where there is no more room for another.
static int token_list(Json *j, const ComponentResult *c, size_t bunches) {
    size_t list[MAP_SIDE + 1] = {bunches};
    for (size_t b = 0; b < bunches; b++) list[b + 1] = row_token(c, b * c->rows / bunches);
    for (size_t i = j->n_lists; i--;) {
        if (!memcmp(j->lists[i], list, sizeof list)) return (int)i;
    }
    if (j->n_lists == TOKEN_LISTS) return -1;
    memcpy(j->lists[j->n_lists], list, sizeof list);
    return (int)j->n_lists++;
}

static json_t *ratios(Json *j, const ComponentResult *c) {
    const size_t rows = c->rows < MAP_SIDE ? c->rows : MAP_SIDE;
    const size_t heads = c->groups < MAP_SIDE ? c->groups : MAP_SIDE;
    uint8_t codes[MAP_SIDE * MAP_SIDE] = {0};
    for (size_t row = 0; row < c->rows; row++) {
        // Bunch b starts at row b * c->rows / rows: the last that starts at or before this row.
        const size_t to = ((row + 1) * rows - 1) / c->rows * heads;
        for (size_t g = 0; g < c->groups; g++) {
            const uint8_t code = log_byte((double)c->ratios[row * c->groups + g]);
            uint8_t *most = &codes[to + ((g + 1) * heads - 1) / c->groups];
            if (code > *most) *most = code;
        }
    }
    return json_pack("{s:o, s:o, s:o, s:i}", "rows", count(rows), "heads", count(heads), "log",
                     base64(codes, rows * heads), "tokens", token_list(j, c, rows));
}

// --- all of it ----------------------------------------------------------------------------------

static json_t *row(Json *j, const ComponentResult *c) {
    char since[COMPONENT_TEXT];
    json_t *o = result(j->r, c);
    bool ok = o && set(o, "outcome", json_string(outcome_name(c->outcome))) &&
              set(o, "cells", count(c->n_cells)) && set(o, "heads", count(c->groups)) &&
              set(o, "failing", count(c->n_bad)) && set(o, "coarse", json_boolean(c->coarse));
    if (c->coarse) ok = ok && set(o, "since", json_string(component_text(c->since, since)));
    if (c->drift >= 0) ok = ok && set(o, "drift", number(c->drift));
    if (c->rounding[0]) ok = ok && set(o, "rounding", text(c->rounding));
    if (c->equivalent[0]) ok = ok && set(o, "equivalent", text(c->equivalent));
    if (c->outcome == OUTCOME_FAIL) {
        ok = ok && set(o, "first_bad_token", count(c->bad_token)) &&
             set(o, "first_bad_head", c->groups > 1 ? count(c->bad_head) : json_null()) &&
             set_cause(o, c);
    }
    if (j->page && c->ratios && c->rows && c->groups) ok = ok && set(o, "ratios", ratios(j, c));
    if (ok) return o;
    json_decref(o);
    return NULL;
}

static void components(Json *j) {
    const Report *r = j->r;
    key(j, "components");
    out_raw(j->out, "[");
    for (size_t i = 0; i < r->n_components && !j->out->failed; i++) {
        if (i) out_raw(j->out, ",");
        dump(j, row(j, &r->components[i]));
    }
    out_raw(j->out, "]");
}

static Status worst_components(Json *j, Error *err) {
    const ComponentResult **each;
    size_t n;
    Status st = report_worst_each(j->r, &each, &n, err);
    if (st) return st;
    key(j, "components");
    out_raw(j->out, "[");
    for (size_t i = 0; i < n && !j->out->failed; i++) {
        if (i) out_raw(j->out, ",");
        dump(j, row(j, each[i]));
    }
    out_raw(j->out, "]");
    free(each);
    return OK;
}

static void token_lists(Json *j) {
    json_t *all = json_array();
    for (size_t i = 0; all && i < j->n_lists; i++) {
        json_t *list = json_array();
        for (size_t k = 0; list && k < j->lists[i][0]; k++) {
            if (json_array_append_new(list, count(j->lists[i][k + 1]))) j->out->failed = true;
        }
        if (json_array_append_new(all, list)) j->out->failed = true;
    }
    member(j, "token_lists", all);
}

static void stages(Json *j) {
    json_t *outcomes = json_object(), *reasons = json_object();
    bool ok = outcomes && reasons;
    for (int s = 0; ok && s < N_STAGES; s++) {
        const char *name = stage_name((StageId)s), *reason = j->r->stage_reason[s];
        const Outcome o = j->r->stage[s];
        char word[FINDING_TEXT + 16];
        snprintf(word, sizeof word, "%s%s%s", outcome_name(o), o ? "" : ": ", o ? "" : reason);
        ok = set(outcomes, name, text(word)) && set(reasons, name, text(reason));
    }
    if (!ok) j->out->failed = true;
    member(j, "stages", outcomes);
    member(j, "stage_reasons", reasons);
}

static void findings(Json *j) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < j->r->n_findings; i++) {
        const Finding *f = &j->r->findings[i];
        json_t *o =
            json_pack("{s:s, s:o, s:o, s:s, s:b, s:o}", "stage", stage_name(f->stage), "id",
                      text(f->id), "text", text(f->text), "outcome", outcome_name(f->outcome),
                      "warning", (int)f->warning, "prompt", prompt_name(j->r, f->prompt));
        if (json_array_append_new(list, o)) j->out->failed = true;
    }
    member(j, "findings", list);
}

static void prompts(Json *j) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < j->r->n_prompts; i++) {
        const PromptResult *p = &j->r->prompts[i];
        json_t *ids = json_array();
        for (size_t k = 0; ids && k < p->n_tokens; k++) {
            if (json_array_append_new(ids, json_integer(p->tokens[k]))) j->out->failed = true;
        }
        json_t *o = json_pack("{s:o, s:o, s:o}", "name", text(p->name), "what", text(p->text),
                              "tokens", ids);
        if (json_array_append_new(list, o)) j->out->failed = true;
    }
    member(j, "prompts", list);
}

static void sentence(Json *j) {
    Text s = {0};
    report_sentence(j->r, &s);
    member(j, "sentence", s.len ? text(s.data) : NULL);
    text_free(&s);
}

static Status write_report(Json *j, Error *err) {
    const Report *r = j->r;
    const size_t before = j->out->text->len;
    Status st = OK;
    member(j, "verdict", json_string(report_passed(r) ? "pass" : "fail"));
    sentence(j);
    member(j, "first", first(r, report_first(r)));
    member(j, "first_component",
           first(r, (First){STAGE_COMPONENTS, NULL, report_first_component(r)}));
    stages(j);
    member(j, "subject", text(r->subject));
    member(j, "model", text(r->model_path));
    member(j, "model_what", text(r->model_what));
    member(j, "model_sha256", text(r->model_sha256));
    member(j, "n_layers", json_integer(r->n_layers));
    member(j, "backend", text(r->backend));
    member(j, "build", text(r->build));
    member(j, "rounding", text(r->rounding));
    member(j, "command", text(r->command));
    member(j, "seconds", number(r->seconds));
    prompts(j);
    findings(j);
    if (j->page && r->n_components > PAGE_ROWS)
        st = worst_components(j, err);
    else
        components(j);
    if (j->page) {
        member(j, "worst_only", json_boolean(r->n_components > PAGE_ROWS));
        token_lists(j);
    }
    out_raw(j->out, "}");
    if (!st && j->out->failed) st = error_memory(err, "the report as JSON", j->out->text->len);
    if (st) j->out->text->len = before;
    return st;
}

Status report_json(const Report *r, Text *out, Error *err) {
    Out o = {out, false};
    return write_report(&(Json){.out = &o, .r = r}, err);
}

Status report_json_page(const Report *r, Out *o, Error *err) {
    Json j = {.out = o, .r = r, .page = true};
    j.lists = calloc(TOKEN_LISTS, sizeof *j.lists);
    if (!j.lists) return error_memory(err, "the report's page", TOKEN_LISTS * sizeof *j.lists);
    Status st = write_report(&j, err);
    free(j.lists);
    return st;
}

#else

Status report_json(const Report *r, Text *out, Error *err) {
    (void)r, (void)out;
    return error_set(err, ERR_UNAVAILABLE,
                     "a report as JSON or HTML needs the jansson library, which this build lacks; "
                     "install libjansson-dev and run make");
}

Status report_json_page(const Report *r, Out *o, Error *err) {
    return report_json(r, o->text, err);
}

#endif
