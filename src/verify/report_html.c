// A report as one page that carries all of it; see report.h.
//
// This file owns: filling page/report.html. The verdict, the sentence and every table are written
// here and need no script; the map of layers and components is drawn by page/report.js from the
// report's JSON. The page asks the network for nothing: its policy names the hashes of its own
// style and script, and allows nothing else.
// It leaves to others: the words (report_words.c), the JSON (report_json.c).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/embed.h"
#include "base/sha256.h"
#include "verify/report_internal.h"

#define INCLUDE_FILE(name, path)                                                   \
    __asm__(EMBED_BEGIN EMBED_SYMBOL(name) EMBED_BYTES(path) EMBED_NUL EMBED_END); \
    extern const char name[]

INCLUDE_FILE(report_page_html, "src/verify/page/report.html");
INCLUDE_FILE(report_page_css, "src/verify/page/report.css");
INCLUDE_FILE(report_page_js, "src/verify/page/report.js");

typedef struct {
    Out *out;
    Text text;  // words on their way to be escaped
    Out words;  // appends to it
    const Report *r;
    Error *err;
    Status status;
} Html;

// --- markup -------------------------------------------------------------------------------------

static void html(Html *h, const char *markup) {
    out_raw(h->out, markup);
}

static Out *words(Html *h) {
    h->text.len = 0;
    return &h->words;
}

// The words, escaped.
static void put_words(Html *h) {
    h->out->failed |= h->words.failed;
    for (size_t i = 0; i < h->text.len; i++) {
        switch (h->text.data[i]) {
            case '&': html(h, "&amp;"); break;
            case '<': html(h, "&lt;"); break;
            case '>': html(h, "&gt;"); break;
            case '"': html(h, "&quot;"); break;
            case '\'': html(h, "&#39;"); break;
            default: out_bytes(h->out, h->text.data + i, 1);
        }
    }
}

static void put_text(Html *h, const char *s) {
    out_text(words(h), s);
    put_words(h);
}

// <tag class="class">text</tag>; class may be NULL.
static void element(Html *h, const char *tag, const char *class, const char *text) {
    out_format(h->out, class ? "<%s class=\"%s\">" : "<%s>", tag, class);
    put_text(h, text);
    out_format(h->out, "</%s>", tag);
}

static void outcome_tag(Html *h, Outcome o, bool warning) {
    element(h, "span",
            o == OUTCOME_FAIL ? "tag fail"
            : warning         ? "tag odd"
            : o               ? "tag pass"
                              : "tag",
            warning && o != OUTCOME_FAIL ? "odd" : outcome_name(o));
}

// --- what fills the page ------------------------------------------------------------------------

static void write_title(Html *h) {
    const ComponentResult *c = report_first_component(h->r);
    const First first = report_first(h->r);
    char name[COMPONENT_TEXT];
    if (report_passed(h->r))
        html(h, "pass");
    else if (!first.finding && c)
        out_format(h->out, "FAIL: %s", component_text(c->ref, name));
    else
        out_format(h->out, "FAIL: %s", stage_name(first.stage));
    html(h, " - plumb verify");
}

static void hash_source(Html *h, const char *kind, const char *bytes) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    Sha256 s;
    char hex[65], base64[45] = "";
    uint8_t hash[33] = {0};  // a zero more: 33 is a multiple of 3
    sha256_start(&s);
    sha256_add(&s, bytes, strlen(bytes));
    sha256_hex(&s, hex);
    for (int i = 0; i < 32; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        hash[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    for (int i = 0; i < 44; i++) {
        const int at = 6 * i / 8, two = i < 43 ? hash[at] << 8 | hash[at + 1] : 0;
        base64[i] = i == 43 ? '=' : digits[two >> (10 - 6 * i % 8) & 63];
    }
    out_format(h->out, "; %s-src 'sha256-%s'", kind, base64);
}

static void write_policy(Html *h) {
    html(h, "default-src 'none'");
    hash_source(h, "script", report_page_js);
    hash_source(h, "style", report_page_css);
    html(h, "; img-src data:; base-uri 'none'; form-action 'none'");
}

static void write_style(Html *h) {
    html(h, report_page_css);
}

static void write_script(Html *h) {
    html(h, report_page_js);
}

static void write_outcome(Html *h) {
    html(h, report_passed(h->r) ? "pass" : "fail");
}

static void write_verdict(Html *h) {
    html(h, report_passed(h->r) ? "PASS" : "FAIL");
}

static void fact(Html *h, const char *name, const char *value) {
    if (!value[0]) return;
    html(h, "<div>");
    element(h, "dt", NULL, name);
    element(h, "dd", NULL, value);
    html(h, "</div>");
}

static void write_facts(Html *h) {
    const Report *r = h->r;
    char model[sizeof r->model_path + sizeof r->model_what + 4], time[NUMBER_TEXT + 4];
    snprintf(model, sizeof model, "%s%s%s", r->model_path, r->model_path[0] ? ": " : "",
             r->model_what);
    if (!r->model_what[0]) snprintf(model, sizeof model, "%s", r->model_path);
    fact(h, "subject", r->subject);
    fact(h, "model", model);
    fact(h, "rounding", r->rounding);
    fact(h, "build", r->build);
    snprintf(time, sizeof time, "%.1f s", r->seconds);
    if (r->seconds > 0) fact(h, "took", time);
}

static void write_sentence(Html *h) {
    Text lines = {0};
    report_sentence(h->r, &lines);
    for (char *line = lines.data, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        element(h, "p", NULL, line);
    }
    text_free(&lines);
}

static void write_stages(Html *h) {
    for (int s = 0; s < N_STAGES; s++) {
        html(h, "<li><strong>");
        html(h, stage_name((StageId)s));
        html(h, "</strong> ");
        outcome_tag(h, h->r->stage[s], false);
        element(h, "p", NULL, h->r->stage_reason[s]);
        html(h, "</li>");
    }
}

static void write_failing(Html *h) {
    FailGroup groups[FAIL_GROUPS];
    char name[COMPONENT_TEXT];
    size_t left;
    const size_t n = report_fail_groups(h->r, groups, &left);
    if (!n) return;
    html(
        h,
        "<section aria-labelledby=\"failing-title\"><h2 id=\"failing-title\">What is wrong, in the "
        "order of the pass</h2><ul class=\"failures\">");
    for (size_t i = 0; i < n; i++) {
        const ComponentResult *c = groups[i].first;
        html(h, "<li class=\"failure\">");
        element(h, "h3", NULL, component_text(c->ref, name));
        html(h, " <span class=\"hint\">");
        words_where(words(h), h->r, c);
        put_words(h);
        html(h, "</span><p>");
        words_error(words(h), c);
        put_words(h);
        html(h, "</p><p class=\"cause\">");
        words_cause(words(h), c);
        put_words(h);
        html(h, "</p>");
        if (c->cause.n_fits) element(h, "p", "pattern", c->cause.pattern);
        if (groups[i].n > 1) {
            html(h, "<p class=\"hint\">");
            words_group(words(h), &groups[i]);
            put_words(h);
            html(h, "</p>");
        }
        html(h, "</li>");
    }
    html(h, "</ul>");
    if (left) out_format(h->out, "<p class=\"hint\">%zu more fail.</p>", left);
    html(h, "</section>");
}

static void cell(Html *h, const char *class, const char *text) {
    element(h, "td", class, text);
}

// The shade of a ratio: the table SHADES of page/report.js.
static const char *shade(const ComponentResult *c) {
    static const struct {
        const char *name;
        double up_to;
    } shades[] = {{"p0", 1e-3}, {"p1", 1e-2}, {"p2", 0.03}, {"p3", 0.1}, {"p4", 0.3}, {"p5", 1},
                  {"f0", 3},    {"f1", 10},   {"f2", 1e2},  {"f3", 1e4}, {"f4", 1e8}};
    const size_t from = c->outcome == OUTCOME_FAIL ? 6 : 0,
                 to = c->outcome == OUTCOME_FAIL ? 11 : 6;
    for (size_t i = from; i < to; i++) {
        if (c->worst.ratio <= shades[i].up_to) return shades[i].name;
    }
    return c->outcome == OUTCOME_FAIL ? "f5" : "p5";
}

static void summary_row(Html *h, const KindRow *k) {
    const ComponentResult *c = k->worst;
    char s[NUMBER_TEXT] = "";
    html(h, "<tr><th scope=\"row\">");
    html(h, component_name(c->ref.c));
    html(h, "</th>");
    if (c->ref.layer >= 0) snprintf(s, sizeof s, "%d", c->ref.layer);
    cell(h, "num", s);
    if (c->outcome == OUTCOME_SKIPPED) {
        html(h, h->r->n_prompts > 1 ? "<td colspan=\"7\">not looked at</td>"
                                    : "<td colspan=\"6\">not looked at</td>");
    } else {
        snprintf(s, sizeof s, "%zu", c->token);
        cell(h, "num", s);
        snprintf(s, sizeof s, "%zu", c->head);
        cell(h, "num", c->groups > 1 ? s : "");
        const char *prompt = report_prompt_name(h->r, c->prompt);
        if (h->r->n_prompts > 1) cell(h, NULL, prompt ? prompt : "");
        cell(h, NULL, measure_name(c->worst.by));
        cell(h, "num", number_text(c->worst.error, 3, s));
        cell(h, "num", c->worst.bound > 0 ? number_text(c->worst.bound, 3, s) : "exact");
        out_format(h->out, "<td class=\"pill\"><span class=\"%s\">%s</span></td>", shade(c),
                   ratio_text(c->worst.ratio, s));
    }
    html(h, "<td>");
    outcome_tag(h, c->outcome, false);
    html(h, "</td>");
    if (k->n_bad)
        out_format(h->out, "<td class=\"num\">%zu of %zu</td></tr>", k->n_bad, k->n);
    else
        out_format(h->out, "<td class=\"num\">%zu</td></tr>", k->n);
}

// Titles that start with '#' are of columns of numbers; NULL is left out.
static void table_head(Html *h, const char *class, const char *const *titles, size_t n) {
    out_format(h->out, "<table class=\"%s\"><thead><tr>", class);
    for (size_t i = 0; i < n; i++) {
        const bool number = titles[i] && titles[i][0] == '#';
        if (!titles[i]) continue;
        html(h, number ? "<th scope=\"col\" class=\"num\">" : "<th scope=\"col\">");
        html(h, titles[i] + number);
        html(h, "</th>");
    }
    html(h, "</tr></thead><tbody>");
}

static void write_summary(Html *h) {
    const char *const titles[] = {
        "component",  "#layer", "#token", "#head",          h->r->n_prompts > 1 ? "prompt" : NULL,
        "decided by", "#error", "#bound", "#error / bound", "verdict",
        "#arrays"};
    KindRow kinds[N_COMPONENTS];
    report_kinds(h->r, kinds);
    table_head(h, "summary", titles, sizeof titles / sizeof *titles);
    for (int c = 0; c < N_COMPONENTS; c++) {
        if (kinds[c].worst) summary_row(h, &kinds[c]);
    }
    html(h, "</tbody></table>");
}

static void list_findings(Html *h, bool held) {
    html(h, "<ul class=\"findings\">");
    for (size_t i = 0; i < h->r->n_findings; i++) {
        const Finding *f = &h->r->findings[i];
        if ((f->outcome != OUTCOME_FAIL && !f->warning) != held) continue;
        html(h, "<li>");
        outcome_tag(h, f->outcome, f->warning);
        html(h, "<p>");
        words_finding(words(h), h->r, f);
        put_words(h);
        html(h, " <code class=\"who\">");
        put_text(h, f->id);
        html(h, "</code></p></li>");
    }
    html(h, "</ul>");
}

static void write_findings(Html *h) {
    size_t wrong = 0, held = 0;
    for (size_t i = 0; i < h->r->n_findings; i++) {
        const Finding *f = &h->r->findings[i];
        if (f->outcome == OUTCOME_FAIL || f->warning)
            wrong++;
        else
            held++;
    }
    if (!wrong && !held) return;
    html(
        h,
        "<section aria-labelledby=\"findings-title\"><h2 id=\"findings-title\">Checks of the file, "
        "the prompts and the paths</h2>");
    if (wrong) list_findings(h, false);
    if (held) {
        out_format(h->out, "<details%s><summary>%zu that held, and remarks</summary>",
                   wrong || held > 10 ? "" : " open", held);
        list_findings(h, true);
        html(h, "</details>");
    }
    html(h, "</section>");
}

typedef struct {
    Html *h;
    size_t n;
    const char *label;
} Notes;

static void show_note(void *user, const char *line) {
    Notes *n = user;
    if (!n->n++) {
        html(n->h,
             "<section aria-labelledby=\"notes-title\"><h2 id=\"notes-title\">Notes</h2><dl "
             "class=\"notes\">");
    }
    element(n->h, "dt", NULL, n->label);
    element(n->h, "dd", NULL, line);
}

static void write_notes(Html *h) {
    static const char *const labels[N_NOTES] = {"coarse", "harmless", "rounding", "drift"};
    Notes n = {h, 0, NULL};
    for (int kind = 0; kind < N_NOTES; kind++) {
        n.label = labels[kind];
        report_notes(h->r, (NoteKind)kind, show_note, &n);
    }
    if (n.n) html(h, "</dl></section>");
}

static void write_bounds(Html *h) {
    static const char *const titles[] = {"components", "each element", "row and head", "why"};
    table_head(h, "bounds", titles, sizeof titles / sizeof *titles);
    for (int i = 0; bound_row_at(i); i++) {
        const BoundRow *b = bound_row_at(i);
        html(h, "<tr data-components=\"");
        put_text(h, b->components);
        html(h, "\">");
        html(h, "<th scope=\"row\">");
        put_text(h, b->components);
        html(h, "</th>");
        cell(h, NULL, b->elementwise);
        cell(h, NULL, b->aggregate);
        cell(h, NULL, b->reason);
        html(h, "</tr>");
    }
    html(h, "</tbody></table>");
}

static void write_reproduce(Html *h) {
    const Report *r = h->r;
    if (r->command[0]) {
        html(h, "<pre><code>");
        put_text(h, r->command);
        html(h, "</code></pre>");
    }
    if (r->model_sha256[0]) {
        html(h, "<p class=\"hint\">SHA-256 of the model: <code>");
        put_text(h, r->model_sha256);
        html(h, "</code></p>");
    }
    for (size_t i = 0; i < r->n_prompts; i++) {
        const PromptResult *p = &r->prompts[i];
        html(h, "<details><summary>Prompt ");
        put_text(h, p->name);
        out_format(h->out, ": %zu token%s</summary>", p->n_tokens, p->n_tokens == 1 ? "" : "s");
        if (p->text[0]) element(h, "p", "hint", p->text);
        html(h, "<p class=\"ids mono\">");
        for (size_t k = 0; k < p->n_tokens; k++) out_format(h->out, k ? " %d" : "%d", p->tokens[k]);
        html(h, "</p></details>");
    }
}

static void write_data(Html *h) {
    h->status = report_json_page(h->r, h->out, h->err);
}

static const struct {
    const char *name;
    void (*write)(Html *h);
} parts[] = {
    {"policy", write_policy},     {"title", write_title},         {"style", write_style},
    {"facts", write_facts},       {"outcome", write_outcome},     {"verdict", write_verdict},
    {"sentence", write_sentence}, {"stages", write_stages},       {"failing", write_failing},
    {"summary", write_summary},   {"findings", write_findings},   {"notes", write_notes},
    {"bounds", write_bounds},     {"reproduce", write_reproduce}, {"data", write_data},
    {"script", write_script},
};

static void write_part(Html *h, const char *name, size_t len) {
    const size_t n = sizeof parts / sizeof *parts;
    size_t i = 0;
    while (i < n && (strlen(parts[i].name) != len || memcmp(parts[i].name, name, len) != 0)) i++;
    CHECK(i < n);  // page/report.html names a part that is not there
    parts[i].write(h);
}

Status report_html(const Report *r, Text *out, Error *err) {
    Out o = {out, false};
    const size_t before = out->len;
    Html h = {.out = &o, .r = r, .err = err};
    h.words.text = &h.text;
    const char *at = report_page_html;
    for (const char *mark; !h.status && (mark = strstr(at, "{{")); at = strstr(mark, "}}") + 2) {
        out_bytes(&o, at, (size_t)(mark - at));
        write_part(&h, mark + 2, (size_t)(strstr(mark, "}}") - mark - 2));
    }
    out_raw(&o, at);
    text_free(&h.text);
    if (!h.status && o.failed) h.status = error_memory(err, "the report's page", out->len);
    if (h.status) out->len = before;
    return h.status;
}
