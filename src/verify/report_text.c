// A report for a terminal: what ran, stages, the table, causes, the sentence; see report.h.
//
// This file owns: layout in a given width, color. Plain ASCII but for what the user named.
// It leaves to others: the words (report_words.c).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "verify/report_internal.h"

typedef struct {
    Out out, line;
    const Report *r;
    bool verbose, color;
    int width;  // 0: lines may be of any length
} Page;

enum { LABEL = 12, INDENT = 6 };  // columns

typedef enum { PLAIN, BOLD, DIM, GOOD, BAD } Style;

static void style(Page *p, Style s) {
    static const char *const codes[] = {"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[1;31m"};
    if (p->color) out_raw(&p->out, codes[s]);
}

static Style outcome_style(Outcome o) {
    return o == OUTCOME_FAIL ? BAD : o == OUTCOME_PASS ? GOOD : DIM;
}

static const char *outcome_word(Outcome o) {
    return o == OUTCOME_FAIL ? "FAIL" : o == OUTCOME_PASS ? "PASS" : "-";
}

static size_t columns(const char *s, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((unsigned char)s[i] & 0xc0) != 0x80;
    return n;
}

// Text (printable already) from column `at` on, broken between words; further lines start at `at`.
static void wrapped(Page *p, size_t at, const char *text) {
    size_t column = at;
    const size_t width = p->width > 40 ? (size_t)p->width : p->width > 0 ? 40 : SIZE_MAX;
    while (*text) {
        const size_t len = strcspn(text, " "), n = columns(text, len);
        if (column > at && column + 1 + n > width) {
            out_format(&p->out, "\n%*s", (int)at, "");
            column = at;
        } else if (column > at) {
            out_raw(&p->out, " ");
            column++;
        }
        out_bytes(&p->out, text, len);
        column += n;
        text += len;
        text += strspn(text, " ");
    }
    out_raw(&p->out, "\n");
}

// Where to put words that are to be wrapped; wrap_words then prints them.
static Out *words(Page *p) {
    p->line.text->len = 0;
    return &p->line;
}

static void wrap_words(Page *p, size_t at) {
    p->out.failed |= p->line.failed;
    wrapped(p, at, p->line.text->len ? p->line.text->data : "");
}

static void indented(Page *p) {
    if (p->line.text->len == 0) return;
    out_format(&p->out, "%*s", INDENT, "");
    wrap_words(p, INDENT);
}

// --- what ran, and the stages -------------------------------------------------------------------

static void header_line(Page *p, const char *label, const char *value) {
    if (!value[0]) return;
    style(p, DIM);
    out_format(&p->out, "%-*s", LABEL, label);
    style(p, PLAIN);
    out_text(words(p), value);
    wrap_words(p, LABEL);
}

static void header(Page *p) {
    const Report *r = p->r;
    Text line = {0};
    Out o = {&line, false};
    header_line(p, "subject", r->subject);
    out_raw(&o, r->model_path);
    if (r->model_what[0]) out_format(&o, "%s%s", line.len ? ": " : "", r->model_what);
    header_line(p, "model", line.len ? line.data : "");
    header_line(p, "rounding", r->rounding);
    line.len = 0;
    enum { NAMED = 8 };
    for (size_t i = 0; i < r->n_prompts && i < NAMED; i++) {
        const PromptResult *q = &r->prompts[i];
        out_format(&o, "%s%s%s%zu token%s%s", i ? ", " : "", q->name, q->name[0] ? " (" : "",
                   q->n_tokens, q->n_tokens == 1 ? "" : "s", q->name[0] ? ")" : "");
    }
    if (r->n_prompts > NAMED) out_format(&o, " and %zu more", r->n_prompts - NAMED);
    header_line(p, r->n_prompts == 1 ? "prompt" : "prompts", line.len ? line.data : "");
    if (p->verbose) {
        header_line(p, "sha256", r->model_sha256);
        header_line(p, "build", r->build);
        header_line(p, "reproduce", r->command);
    }
    p->out.failed |= o.failed;
    text_free(&line);
    out_raw(&p->out, "\n");
}

static void stages(Page *p) {
    for (int s = 0; s < N_STAGES; s++) {
        const Outcome o = p->r->stage[s];
        out_format(&p->out, "%-*s", LABEL, stage_name((StageId)s));
        style(p, outcome_style(o));
        out_format(&p->out, "%-*s", INDENT, outcome_word(o));
        style(p, PLAIN);
        if (o == OUTCOME_SKIPPED) out_raw(&p->out, "skipped: ");
        out_text(words(p), p->r->stage_reason[s]);
        wrap_words(p, o == OUTCOME_SKIPPED ? LABEL + 15 : LABEL + INDENT);
    }
}

// Findings of a range of stages: failures and warnings, and when verbose what held as well.
static void findings(Page *p, StageId from, StageId to) {
    enum { MOST = 20 };
    size_t shown = 0, left = 0;
    for (size_t i = 0; i < p->r->n_findings; i++) {
        const Finding *f = &p->r->findings[i];
        const bool wrong = f->outcome == OUTCOME_FAIL;
        if (f->stage < from || f->stage > to) continue;
        if (!p->verbose && !wrong && !f->warning) continue;
        if (!p->verbose && shown >= MOST) {
            left++;
            continue;
        }
        if (!shown++) out_raw(&p->out, "\n");
        style(p, f->warning ? BOLD : outcome_style(f->outcome));
        out_format(&p->out, "%-*s", INDENT,
                   wrong        ? "FAIL"
                   : f->warning ? "odd"
                                : outcome_word(f->outcome));
        style(p, PLAIN);
        words_finding(words(p), p->r, f);
        wrap_words(p, INDENT);
    }
    if (left) out_format(&p->out, "      and %zu more (verbose lists them)\n", left);
}

// --- the table ----------------------------------------------------------------------------------

// In the order of the line. What does not fit is left out, the first in `drop` first.
typedef enum {
    COL_COMPONENT,
    COL_LAYER,
    COL_TOKEN,
    COL_HEAD,
    COL_PROMPT,
    COL_BY,
    COL_ERROR,
    COL_BOUND,
    COL_RATIO,
    COL_OUTCOME,
    COL_ARRAYS,
    N_COLUMNS
} Column;

static const char *const titles[N_COLUMNS] = {"component", "layer", "token", "head", "prompt", "by",
                                              "error",     "bound", "ratio", "",     "arrays"};
static const Column drop[] = {COL_BY, COL_ARRAYS, COL_PROMPT, COL_BOUND, COL_ERROR, COL_HEAD};

typedef struct {
    char text[N_COLUMNS][COMPONENT_TEXT + NUMBER_TEXT];
    Outcome outcome;
} Row;

typedef struct {
    Row *rows;
    size_t n;
    size_t width[N_COLUMNS];  // 0: left out
} Table;

static bool is_left(Column c) {
    return c == COL_COMPONENT || c == COL_PROMPT || c == COL_BY || c == COL_OUTCOME;
}

// n of the same kind, of which n_bad fail; 0: a row for one.
static void fill_row(const Report *r, const ComponentResult *c, size_t n, size_t n_bad, Row *row) {
    *row = (Row){.outcome = c->outcome};
    char(*t)[sizeof row->text[0]] = row->text;
    const size_t size = sizeof t[0];
    if (n) {
        snprintf(t[COL_COMPONENT], size, "%s", component_name(c->ref.c));
        if (c->ref.layer >= 0) snprintf(t[COL_LAYER], size, "%d", c->ref.layer);
        if (n_bad) snprintf(t[COL_ARRAYS], size, "%zu/%zu", n_bad, n);
        if (!n_bad) snprintf(t[COL_ARRAYS], size, "%zu", n);
    } else {
        component_text(c->ref, t[COL_COMPONENT]);
        if (c->n_bad) snprintf(t[COL_ARRAYS], size, "%zu/%zu", c->n_bad, c->n_cells);
        if (!c->n_bad) snprintf(t[COL_ARRAYS], size, "%zu", c->n_cells);
    }
    snprintf(t[COL_OUTCOME], size, "%s", outcome_word(c->outcome));
    if (c->outcome == OUTCOME_SKIPPED) return;
    snprintf(t[COL_TOKEN], size, "%zu", c->token);
    if (c->groups > 1) snprintf(t[COL_HEAD], size, "%zu", c->head);
    const char *prompt = report_prompt_name(r, c->prompt);
    if (prompt) printable(prompt, strlen(prompt), t[COL_PROMPT], 13);
    snprintf(t[COL_BY], size, "%s", measure_word(c->worst.by));
    number_text(c->worst.error, 2, t[COL_ERROR]);
    if (c->worst.bound > 0) number_text(c->worst.bound, 2, t[COL_BOUND]);
    char ratio[NUMBER_TEXT];
    snprintf(t[COL_RATIO], size, c->equivalent[0] ? "(%s)" : "%s",
             ratio_text(c->worst.ratio, ratio));
}

static size_t table_width(const Table *t) {
    size_t sum = 0;
    for (int c = 0; c < N_COLUMNS; c++) sum += t->width[c] ? t->width[c] + 1 : 0;
    return sum - 1;
}

static void fit_columns(const Page *p, Table *t) {
    for (int c = 0; c < N_COLUMNS; c++) {
        bool any = false;
        t->width[c] = strlen(titles[c]);
        for (size_t i = 0; i < t->n; i++) {
            const size_t n = columns(t->rows[i].text[c], strlen(t->rows[i].text[c]));
            any |= n > 0;
            if (n > t->width[c]) t->width[c] = n;
        }
        if (!any) t->width[c] = 0;
    }
    for (size_t i = 0; p->width > 0 && i < sizeof drop / sizeof *drop; i++) {
        if (table_width(t) <= (size_t)p->width) break;
        t->width[drop[i]] = 0;
    }
}

static void table_line(Page *p, const Table *t, const char *const *cells, Style outcome) {
    Column last = COL_COMPONENT;
    for (int c = 0; c < N_COLUMNS; c++) {
        if (t->width[c] && cells[c][0]) last = (Column)c;
    }
    for (int i = 0; i <= (int)last; i++) {
        const Column c = (Column)i;
        if (!t->width[c]) continue;
        const int pad = (int)(t->width[c] - columns(cells[c], strlen(cells[c])));
        if (c) out_raw(&p->out, " ");
        if (!is_left(c)) out_format(&p->out, "%*s", pad, "");
        if (c == COL_OUTCOME && outcome != PLAIN) style(p, outcome);
        out_raw(&p->out, cells[c]);
        if (c == COL_OUTCOME && outcome != PLAIN) style(p, PLAIN);
        if (is_left(c) && c != last) out_format(&p->out, "%*s", pad, "");
    }
}

static void table(Page *p) {
    const ComponentResult **each = NULL;
    KindRow kinds[N_COMPONENTS];
    Table t = {0};
    size_t n = N_COMPONENTS;
    report_kinds(p->r, kinds);
    if (p->verbose && report_worst_each(p->r, &each, &n, NULL)) p->out.failed = true;
    t.rows = calloc(n + 1, sizeof *t.rows);
    if (!t.rows) p->out.failed = true;
    for (size_t i = 0; t.rows && !p->out.failed && i < n; i++) {
        const KindRow *k = &kinds[each ? 0 : i];
        if (each)
            fill_row(p->r, each[i], 0, 0, &t.rows[t.n++]);
        else if (k->worst)
            fill_row(p->r, k->worst, k->n, k->n_bad, &t.rows[t.n++]);
    }
    if (t.n && !p->out.failed) {
        const char *cells[N_COLUMNS];
        fit_columns(p, &t);
        memcpy(cells, titles, sizeof titles);
        if (each) cells[COL_ARRAYS] = "cells";
        out_raw(&p->out, "\n");
        style(p, DIM);
        table_line(p, &t, cells, PLAIN);
        style(p, PLAIN);
        out_raw(&p->out, "\n");
        for (size_t i = 0; i < t.n; i++) {
            for (int c = 0; c < N_COLUMNS; c++) cells[c] = t.rows[i].text[c];
            table_line(p, &t, cells, outcome_style(t.rows[i].outcome));
            out_raw(&p->out, "\n");
        }
    }
    free(t.rows);
    free(each);
}

// --- what failed and why ------------------------------------------------------------------------

static void failing(Page *p) {
    enum { MOST = 12 };
    FailGroup groups[FAIL_GROUPS];
    char name[COMPONENT_TEXT];
    size_t left, n = report_fail_groups(p->r, groups, &left);
    for (size_t i = 0; i < n; i++) {
        const ComponentResult *c = groups[i].first;
        if (!p->verbose && i >= MOST) {
            left += groups[i].n;
            continue;
        }
        out_raw(&p->out, "\n");
        style(p, BAD);
        out_raw(&p->out, "FAIL  ");
        style(p, PLAIN);
        Out *o = words(p);
        out_format(o, "%s (", component_text(c->ref, name));
        words_where(o, p->r, c);
        out_raw(o, "): ");
        words_error(o, c);
        wrap_words(p, INDENT);
        words_cause(words(p), c);
        indented(p);
        words(p);
        if (c->cause.n_fits) out_text(&p->line, c->cause.pattern);
        indented(p);
        words_group(words(p), &groups[i]);
        indented(p);
    }
    if (left) out_format(&p->out, "\n      %zu more fail\n", left);
}

typedef struct {
    Page *page;
    size_t n;
    const char *label;
} Notes;

static void show_note(void *user, const char *line) {
    Notes *n = user;
    if (!n->n++) out_raw(&n->page->out, "\n");
    style(n->page, DIM);
    out_format(&n->page->out, "%-*s", LABEL, n->label);
    style(n->page, PLAIN);
    wrapped(n->page, LABEL, line);
}

static void notes(Page *p) {
    static const char *const labels[N_NOTES] = {"coarse", "harmless", "rounding", "drift"};
    Notes n = {p, 0, NULL};
    for (int kind = 0; kind < N_NOTES; kind++) {
        n.label = labels[kind];
        report_notes(p->r, (NoteKind)kind, show_note, &n);
    }
}

void report_text(const Report *r, bool verbose, bool color, int width, Text *out) {
    Text line = {0};
    Page p = {{out, false}, {&line, false}, r, verbose, color, width};
    header(&p);
    stages(&p);
    findings(&p, STAGE_FILE, STAGE_PROMPT);
    table(&p);
    failing(&p);
    findings(&p, STAGE_COMPONENTS, STAGE_PATHS);
    notes(&p);
    out_raw(&p.out, "\n");
    // Whole lines, for programs that look for them: a terminal breaks them itself.
    style(&p, report_passed(r) ? GOOD : BAD);
    report_sentence(r, out);
    style(&p, PLAIN);
    out_raw(&p.out, "\n");
    text_free(&line);
}
