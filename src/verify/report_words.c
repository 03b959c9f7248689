// Words for results, and results taken together; see report_internal.h.
//
// This file owns: how a place, an error and a cause are said, the sentence, what many results have
// in common. It leaves to others: layout (report_text.c, report_html.c).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/report_internal.h"

void out_bytes(Out *o, const char *s, size_t len) {
    if (!o->failed && !text_append(o->text, s, len)) o->failed = true;
}

void out_raw(Out *o, const char *s) {
    out_bytes(o, s, strlen(s));
}

void out_format(Out *o, const char *fmt, ...) {
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    out_raw(o, line);
}

void out_text(Out *o, const char *s) {
    const size_t len = strlen(s), most = 4 * len + 1;
    if (o->failed || !text_reserve(o->text, most)) {
        o->failed = true;
        return;
    }
    char *to = o->text->data + o->text->len;
    o->text->len += strlen(printable(s, len, to, most));
}

// --- numbers ------------------------------------------------------------------------------------

const char *number_text(double x, int digits, char out[NUMBER_TEXT]) {
    if (isnan(x)) return strcpy(out, "nan");
    const double size = fabs(x);
    // "1234" rather than "1.23e3"
    const bool whole = size >= (digits > 2 ? 1000 : 100) && size < 9999.5;
    snprintf(out, NUMBER_TEXT, "%.*g", whole ? 4 : digits, whole ? round(x) : x);
    // "1e+10", "3e-05": without the plus and the zero
    char *e = strchr(out, 'e');
    if (!e) return out;
    char *to = e + 1, *from = e + 1;
    if (*from == '-') to++;
    from++;
    while (*from == '0' && from[1]) from++;
    memmove(to, from, strlen(from) + 1);
    return out;
}

const char *ratio_text(double ratio, char out[NUMBER_TEXT]) {
    return number_text(ratio, 2, out);
}

const char *measure_word(Measure m) {
    switch (m) {
        case BY_ELEMENT: return "elem";
        case BY_NAN: return "nan";
        default: return measure_name(m);
    }
}

// --- one result ---------------------------------------------------------------------------------

const char *report_prompt_name(const Report *r, int prompt) {
    if (prompt < 0 || (size_t)prompt >= r->n_prompts || r->n_prompts < 2) return NULL;
    return r->prompts[prompt].name[0] ? r->prompts[prompt].name : NULL;
}

// A head is worth naming where another head of that token is right.
static bool names_head(const ComponentResult *c) {
    if (c->groups < 2 || c->outcome != OUTCOME_FAIL) return c->groups > 1;
    if (!c->ratios) return c->n_bad < c->n_cells;
    for (size_t row = 0; row < c->rows; row++) {
        if ((c->row_token ? c->row_token[row] : row) != c->token) continue;
        for (size_t g = 0; g < c->groups; g++) {
            if (!(c->ratios[row * c->groups + g] > 1)) return true;
        }
        return false;
    }
    return true;
}

void words_where(Out *o, const Report *r, const ComponentResult *c) {
    out_format(o, "token %zu", c->token);
    if (names_head(c)) out_format(o, ", head %zu", c->head);
    const char *prompt = report_prompt_name(r, c->prompt);
    if (!prompt) return;
    out_raw(o, ", prompt ");
    out_text(o, prompt);
}

void words_error(Out *o, const ComponentResult *c) {
    const Cell *w = &c->worst;
    char error[NUMBER_TEXT], bound[NUMBER_TEXT], nmse[NUMBER_TEXT];
    number_text(w->error, 3, error);
    number_text(w->bound, 3, bound);
    switch (w->by) {
        case BY_NMSE: out_format(o, "NMSE %s, bound %s", error, bound); return;
        case BY_BIAS:
            out_format(o, "mean off by %s standard errors, bound %s", error, bound);
            return;
        case BY_SUM: out_format(o, "sum off by %s from 1, bound %s", error, bound); return;
        case BY_NAN: out_format(o, "element %zu is not finite", w->element); return;
        case BY_SHAPE: out_format(o, "%s wide where the model's is %s", error, bound); return;
        case BY_ELEMENT:
            out_format(o, "element %zu off by %s, bound %s", w->element, error, bound);
            return;
        case BY_BITS:
            out_format(o, "element %zu off by %s where every bit must be equal (NMSE %s)",
                       w->element, error, number_text(w->nmse, 3, nmse));
    }
}

static void fit_words(Out *o, const ComponentResult *c, const CauseFit *f) {
    char number[NUMBER_TEXT];
    out_text(o, f->text);
    if (c->worst.by == BY_NMSE || c->worst.by == BY_BITS)
        out_format(o, " (%s if so)", number_text(f->nmse, 3, number));
    else
        out_format(o, " (%s of the bound if so)", ratio_text(f->ratio, number));
}

void words_cause(Out *o, const ComponentResult *c) {
    const Cause *w = &c->cause;
    switch (w->certainty) {
        case CAUSE_NONE:
            out_raw(o, "cause not looked for");
            if (w->pattern[0]) out_raw(o, ": ");
            out_text(o, w->pattern);
            return;
        case CAUSE_CERTAIN: fit_words(o, c, &w->fits[0]); return;
        case CAUSE_UNKNOWN:
            out_raw(o, "cause unknown");
            if (w->pattern[0]) out_raw(o, ": ");
            out_text(o, w->pattern);
            return;
        case CAUSE_AMBIGUOUS:
            for (size_t i = 0; i < w->n_fits; i++) {
                if (i) out_raw(o, " or ");
                fit_words(o, c, &w->fits[i]);
            }
            if (!w->apart[0]) return;
            out_raw(o, "; told apart by ");
            out_text(o, w->apart);
    }
}

void words_finding(Out *o, const Report *r, const Finding *f) {
    out_raw(o, stage_name(f->stage));
    const char *prompt = report_prompt_name(r, f->prompt);
    if (prompt) {
        out_raw(o, f->stage == STAGE_PROMPT ? " " : ", prompt ");
        out_text(o, prompt);
    }
    out_raw(o, ": ");
    out_text(o, f->text);
}

// --- coarse results -----------------------------------------------------------------------------

typedef struct {
    int prompt;
    ComponentRef ref;
} ResultKey;

static int by_key(const void *key, const void *item) {
    const ResultKey *k = key;
    const ComponentResult *c = item;
    if (k->prompt != c->prompt) return k->prompt < c->prompt ? -1 : 1;
    const long x = component_order(k->ref), y = component_order(c->ref);
    return (x > y) - (x < y);
}

static bool captured(const Report *r, int prompt, ComponentRef ref) {
    const ResultKey key = {prompt, ref};
    return bsearch(&key, r->components, r->n_components, sizeof *r->components, by_key);
}

enum { TOGETHER = 6 };  // names that are said

typedef struct {
    const Report *r;
    int prompt;
    uint32_t kinds;               // that the report has anywhere
    int last_layer;               // of the model
    ComponentRef near[TOGETHER];  // the last ones before, backwards
    size_t n;
} Together;

static bool reads_stream(Component c) {
    return c == COMP_ATTN_NORM || c == COMP_FFN_INP || c == COMP_NORM;
}

// What is read, directly or through others that were not captured either, by the components
// `wanted` of a layer. Returns whether the layer's stream is.
static bool together_in(Together *t, int layer, uint32_t wanted) {
    bool stream = false, first = true;
    for (int i = N_COMPONENTS - 1; i >= 0; i--) {
        const Component c = (Component)i;
        const ComponentRef ref = {c, layer};
        if (!(wanted >> c & 1)) continue;
        if (!first && captured(t->r, t->prompt, ref)) continue;
        // Models without norms of the heads: nothing is missing there.
        const bool counts = (c != COMP_Q_NORM && c != COMP_K_NORM) || (t->kinds >> c & 1);
        if (!first && counts && t->n++ < TOGETHER) t->near[t->n - 1] = ref;
        first = false;
        stream |= reads_stream(c);
        for (const Component *in = component_inputs(c); *in != N_COMPONENTS; in++) {
            wanted |= 1u << *in;
        }
    }
    return stream;
}

static void find_together(Together *t, ComponentRef of) {
    bool stream = together_in(t, of.layer, 1u << of.c);
    int layer = of.layer < 0 ? t->last_layer + 1 : of.layer;
    while (stream && of.c != COMP_EMBD) {
        layer--;
        const ComponentRef ref = {layer < 0 ? COMP_EMBD : COMP_L_OUT, layer};
        if (captured(t->r, t->prompt, ref)) return;
        if (t->n++ < TOGETHER) t->near[t->n - 1] = ref;
        stream = layer >= 0 && together_in(t, layer, 1u << COMP_L_OUT);
    }
}

void words_together(Out *o, const Report *r, const ComponentResult *c) {
    Together t = {.r = r, .prompt = c->prompt, .last_layer = r->n_layers - 1};
    for (size_t i = 0; i < r->n_components; i++) {
        t.kinds |= 1u << r->components[i].ref.c;
        if (r->components[i].ref.layer > t.last_layer) t.last_layer = r->components[i].ref.layer;
    }
    find_together(&t, c->ref);
    size_t named = t.n < TOGETHER ? t.n : TOGETHER;
    if (t.n > named) out_format(o, "%zu earlier ones, ", t.n - named);
    while (named--) {
        const ComponentRef ref = t.near[named];
        char name[COMPONENT_TEXT];
        out_raw(o, ref.layer == c->ref.layer ? component_name(ref.c) : component_text(ref, name));
        if (named) out_raw(o, ", ");
    }
}

// --- results taken together ---------------------------------------------------------------------

// A difference that does no harm has a large ratio, and is nothing to look at first.
static int badness(const ComponentResult *c) {
    return c->outcome == OUTCOME_FAIL      ? 3
           : c->outcome == OUTCOME_SKIPPED ? 0
           : c->equivalent[0]              ? 1
                                           : 2;
}

static bool is_worse(const ComponentResult *a, const ComponentResult *b) {
    if (badness(a) != badness(b)) return badness(a) > badness(b);
    return a->worst.ratio > b->worst.ratio;
}

void report_kinds(const Report *r, KindRow out[N_COMPONENTS]) {
    memset(out, 0, N_COMPONENTS * sizeof *out);
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *c = &r->components[i];
        KindRow *row = &out[c->ref.c];
        row->n++;
        row->n_bad += c->outcome == OUTCOME_FAIL;
        if (!row->worst || is_worse(c, row->worst)) row->worst = c;
    }
}

const ComponentResult *report_worst(const Report *r) {
    const ComponentResult *worst = NULL;
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *c = &r->components[i];
        if (c->outcome != OUTCOME_SKIPPED && (!worst || is_worse(c, worst))) worst = c;
    }
    return worst;
}

static int by_pass_and_worse(const void *left, const void *right) {
    const ComponentResult *a = *(const ComponentResult *const *)left;
    const ComponentResult *b = *(const ComponentResult *const *)right;
    const long x = component_order(a->ref), y = component_order(b->ref);
    if (x != y) return x < y ? -1 : 1;
    if (is_worse(a, b) != is_worse(b, a)) return is_worse(a, b) ? -1 : 1;
    return (a->prompt > b->prompt) - (a->prompt < b->prompt);
}

Status report_worst_each(const Report *r, const ComponentResult ***out, size_t *n, Error *err) {
    *n = 0;
    *out = malloc((r->n_components + 1) * sizeof **out);
    if (!*out) return error_memory(err, "the report's rows", r->n_components * sizeof **out);
    const ComponentResult **all = *out;
    for (size_t i = 0; i < r->n_components; i++) all[i] = &r->components[i];
    qsort(all, r->n_components, sizeof *all, by_pass_and_worse);
    for (size_t i = 0; i < r->n_components; i++) {
        if (*n && component_order(all[*n - 1]->ref) == component_order(all[i]->ref)) continue;
        all[(*n)++] = all[i];
    }
    return OK;
}

static bool same_cause(const ComponentResult *a, const ComponentResult *b) {
    const Cause *x = &a->cause, *y = &b->cause;
    if (x->certainty != y->certainty || x->n_fits != y->n_fits) return false;
    if (x->certainty == CAUSE_UNKNOWN && a->ref.c != b->ref.c) return false;
    for (size_t i = 0; i < x->n_fits; i++) {
        if (strcmp(x->fits[i].text, y->fits[i].text) != 0) return false;
    }
    return true;
}

static int by_first(const void *left, const void *right) {
    const ComponentResult *a = ((const FailGroup *)left)->first;
    const ComponentResult *b = ((const FailGroup *)right)->first;
    const long x = component_order(a->ref), y = component_order(b->ref);
    if (x != y) return x < y ? -1 : 1;
    return (a->prompt > b->prompt) - (a->prompt < b->prompt);
}

size_t report_fail_groups(const Report *r, FailGroup out[FAIL_GROUPS], size_t *left) {
    size_t n = 0;
    *left = 0;
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *c = &r->components[i];
        if (c->outcome != OUTCOME_FAIL) continue;
        size_t g = 0;
        while (g < n && !same_cause(out[g].first, c)) g++;
        if (g == FAIL_GROUPS) {
            ++*left;
            continue;
        }
        if (g == n) out[n++] = (FailGroup){.first = c};
        out[g].n++;
        out[g].kinds |= 1u << c->ref.c;
        if (component_order(c->ref) < component_order(out[g].first->ref)) out[g].first = c;
    }
    qsort(out, n, sizeof *out, by_first);
    return n;
}

void words_group(Out *o, const FailGroup *g) {
    if (g->n == 1) return;
    const bool looked = g->first->cause.certainty != CAUSE_NONE;
    out_format(o, looked ? "the same in %zu more" : "nor in %zu more that fail", g->n - 1);
    const char *before = " (";
    for (int c = 0; c < N_COMPONENTS; c++) {
        if (!(g->kinds >> c & 1)) continue;
        out_raw(o, before);
        out_raw(o, component_name((Component)c));
        before = ", ";
    }
    out_raw(o, ")");
}

// --- notes --------------------------------------------------------------------------------------

static bool has_note(const ComponentResult *c, NoteKind kind) {
    switch (kind) {
        case NOTE_COARSE: return c->coarse && c->outcome != OUTCOME_SKIPPED;
        case NOTE_EQUIVALENT: return c->equivalent[0];
        case NOTE_ROUNDING: return c->rounding[0];
        default: return false;
    }
}

// "q" where it holds of all, "blk.3.q" of one, "blk.3.q and 5 more" of some.
static void note_names(Out *o, const ComponentResult *first, size_t n, size_t all) {
    char name[COMPONENT_TEXT];
    out_raw(o, n == all ? component_name(first->ref.c) : component_text(first->ref, name));
    if (n > 1 && n < all) out_format(o, " and %zu more", n - 1);
}

static void note(Out *o, const Report *r, NoteKind kind, const ComponentResult *first, size_t n,
                 size_t all) {
    note_names(o, first, n, all);
    if (kind == NOTE_COARSE) {
        const bool several = n > 1 && n < all;
        const size_t before = o->text->len;
        out_format(o, " %s checked together with ", several ? "are" : "is");
        const size_t named = o->text->len;
        words_together(o, r, first);
        if (o->text->len > named) {
            out_raw(o, " (not captured)");
        } else if (first->since.c == COMP_K_CACHE || first->since.c == COMP_V_CACHE) {
            o->text->len = 0;  // a cache that was judged on its own, when it was read back
        } else {
            o->text->len = before;
            out_format(o, " %s checked with inputs of which some rows were not captured",
                       several ? "are" : "is");
        }
    } else {
        out_raw(o, kind == NOTE_ROUNDING ? ": what it reads is rounded as " : ": ");
        out_text(o, kind == NOTE_ROUNDING ? first->rounding : first->equivalent);
    }
}

static void note_drift(Out *o, const Report *r) {
    const ComponentResult *most = NULL, *last = NULL;
    char a[NUMBER_TEXT], b[NUMBER_TEXT], name[COMPONENT_TEXT];
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *c = &r->components[i];
        if (!(c->drift >= 0)) continue;
        if (!most || c->drift > most->drift) most = c;
        if (!last || component_order(c->ref) > component_order(last->ref) ||
            (component_order(c->ref) == component_order(last->ref) && c->drift > last->drift)) {
            last = c;
        }
    }
    if (!most) return;
    out_format(o, "along the whole chain, NMSE grows to %s at %s", number_text(last->drift, 2, a),
               component_text(last->ref, name));
    if (most == last) return;
    out_format(o, " (most: %s at %s)", number_text(most->drift, 2, b),
               component_text(most->ref, name));
}

void report_notes(const Report *r, NoteKind kind, void (*show)(void *user, const char *line),
                  void *user) {
    Text line = {0};
    Out o = {&line, false};
    if (kind == NOTE_DRIFT) {
        note_drift(&o, r);
        if (line.len) show(user, line.data);
        text_free(&line);
        return;
    }
    struct {
        const ComponentResult *first;
        size_t n, all;
    } kinds[N_COMPONENTS] = {0};
    for (size_t i = 0; i < r->n_components; i++) {
        const ComponentResult *c = &r->components[i];
        kinds[c->ref.c].all++;
        if (!has_note(c, kind)) continue;
        kinds[c->ref.c].n++;
        if (!kinds[c->ref.c].first) kinds[c->ref.c].first = c;
    }
    for (int i = 0; i < N_COMPONENTS; i++) {
        if (!kinds[i].first) continue;
        line.len = 0;
        note(&o, r, kind, kinds[i].first, kinds[i].n, kinds[i].all);
        if (!o.failed && line.len) show(user, line.data);
    }
    text_free(&line);
}

// --- the sentence -------------------------------------------------------------------------------

// Failing findings of a stage, those of a kind once: a prompt's fault is mostly every prompt's.
static void finding_sentences(Out *o, const Report *r, StageId stage) {
    enum { MOST = 6 };
    const Finding *said[MOST];
    size_t n = 0, more = 0;
    for (size_t i = 0; i < r->n_findings; i++) {
        const Finding *f = &r->findings[i];
        if (f->stage != stage || f->outcome != OUTCOME_FAIL) continue;
        size_t same = 0;
        while (same < n && strcmp(said[same]->id, f->id) != 0) same++;
        if (same < n) continue;
        if (n == MOST) {
            more++;
            continue;
        }
        said[n++] = f;
        size_t others = 0;
        for (size_t j = i + 1; j < r->n_findings; j++) {
            const Finding *g = &r->findings[j];
            others += g->stage == stage && g->outcome == OUTCOME_FAIL && !strcmp(g->id, f->id);
        }
        out_raw(o, o->text->len ? "\nalso: " : "first fault: ");
        words_finding(o, r, f);
        if (others) out_format(o, " (and %zu more such)", others);
    }
    if (more) out_format(o, "\nand %zu more faults of the %s", more, stage_name(stage));
}

static void component_sentence(Out *o, const Report *r, const ComponentResult *c) {
    char name[COMPONENT_TEXT];
    if (o->text->len) out_raw(o, "\n");
    out_format(o, "first divergence: %s (", component_text(c->ref, name));
    words_where(o, r, c);
    out_raw(o, "): ");
    words_error(o, c);
    if (c->worst.by == BY_SHAPE) return;  // that is the cause
    out_raw(o, "; ");
    words_cause(o, c);
}

static void pass_sentence(Out *o, const Report *r) {
    const ComponentResult *worst = report_worst(r);
    char name[COMPONENT_TEXT], ratio[NUMBER_TEXT];
    size_t n = 0;
    for (size_t i = 0; i < r->n_components; i++) {
        n += r->components[i].outcome == OUTCOME_PASS;
    }
    if (!worst) {
        out_raw(o, "no divergence, but no component was checked");
        return;
    }
    out_format(o, "no divergence: %zu component%s", n, n == 1 ? "" : "s");
    if (r->n_prompts > 1) out_format(o, " of %zu prompts", r->n_prompts);
    out_format(o, " within %s bounds; the nearest is %s at %s of its bound",
               n == 1 ? "its" : "their", component_text(worst->ref, name),
               ratio_text(worst->worst.ratio, ratio));
}

void report_sentence(const Report *r, Text *out) {
    Text lines = {0};
    Out o = {&lines, false};
    const ComponentResult *component = report_first_component(r);
    finding_sentences(&o, r, STAGE_FILE);
    finding_sentences(&o, r, STAGE_PROMPT);
    if (component) component_sentence(&o, r, component);
    if (!component) finding_sentences(&o, r, STAGE_COMPONENTS);
    if (!component) finding_sentences(&o, r, STAGE_PATHS);
    for (int s = 0; !lines.len && s < N_STAGES; s++) {
        if (r->stage[s] != OUTCOME_FAIL) continue;
        out_format(&o, "first fault: %s: ", stage_name((StageId)s));
        out_text(&o, r->stage_reason[s]);
    }
    if (!lines.len) pass_sentence(&o, r);
    if (lines.len) text_append(out, lines.data, lines.len);
    text_free(&lines);
}
