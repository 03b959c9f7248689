// Reports of verify: stages, what comes first, the sentences, the table, JSON, the page.
//
// With `--pages DIR` it writes pages instead, which tests/cli/test_report_page.py opens in a browser.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "verify/report.h"

#if HAVE_JANSSON
#include <jansson.h>
#endif

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

// --- reports, built by hand -------------------------------------------------------------------

static void name_run(Report *r) {
    report_init(r);
    snprintf(r->model_path, sizeof r->model_path, "models/demo.gguf");
    memset(r->model_sha256, 'a', 64);
    snprintf(r->model_what, sizeof r->model_what, "llama, 2 layers, dim 96, F32");
    snprintf(r->subject, sizeof r->subject, "trace other.gguf");
    snprintf(r->backend, sizeof r->backend, "other 1.0");
    snprintf(r->build, sizeof r->build, "plumb 0.1.0");
    snprintf(r->rounding, sizeof r->rounding,
             "activations none (fits 14 of 14 sampled; 9 ways tried)");
    snprintf(r->command, sizeof r->command,
             "plumb verify -m models/demo.gguf --against other.gguf");
    r->n_layers = 2;
    r->seconds = 1.25;
}

static int add_prompt(Report *r, const char *name, size_t n) {
    int32_t ids[64];
    int index;
    Error err = {0};
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)(i ? 10 + i : 1);
    must(report_prompt(r, name, ids, n, "a chat; what it cannot see", &index, &err), &err);
    return index;
}

static void add_finding(Report *r, StageId s, int prompt, const char *id, Outcome o,
                        const char *text) {
    Error err = {0};
    must(report_finding(r, s, prompt, id, o, false, &err, "%s", text), &err);
}

// One that passes at `ratio` of its bound, by NMSE, in rows x groups cells.
static ComponentResult *add_component(Report *r, int prompt, Component c, int layer, double ratio,
                                      size_t rows, size_t groups) {
    ComponentResult *k;
    Error err = {0};
    must(report_component(r, &k, &err), &err);
    k->ref = (ComponentRef){c, layer};
    k->prompt = prompt;
    k->rows = rows, k->groups = groups, k->n_cells = rows * groups;
    k->token = rows > 3 ? 3 : rows - 1, k->head = groups > 1 ? 1 : 0;
    k->bad_token = k->token, k->bad_head = k->head;
    k->worst = (Cell){ratio, BY_NMSE, ratio * 1e-10, 1e-10, ratio * 1e-10, 1e-10, 7};
    k->outcome = ratio > 1 ? OUTCOME_FAIL : OUTCOME_PASS;
    k->n_bad = ratio > 1 ? rows * groups : 0;
    k->cause.certainty = ratio > 1 ? CAUSE_UNKNOWN : CAUSE_NONE;
    return k;
}

static void add_fit(ComponentResult *k, const char *id, const char *text, double nmse) {
    CauseFit *f = &k->cause.fits[k->cause.n_fits++];
    *f = (CauseFit){.id = id, .nmse = nmse, .ratio = nmse / 1e-10};
    snprintf(f->text, sizeof f->text, "%s", text);
    k->cause.certainty = k->cause.n_fits == 1 ? CAUSE_CERTAIN : CAUSE_AMBIGUOUS;
    snprintf(k->cause.pattern, sizeof k->cause.pattern, "every row and head, RMS as expected");
}

static void keep_ratios(ComponentResult *k, bool skip_tokens) {
    k->ratios = room(k->rows * k->groups * sizeof *k->ratios);
    for (size_t i = 0; i < k->rows; i++) {
        for (size_t g = 0; g < k->groups; g++) {
            const double part = 1 - 0.9 * (double)((i * 7 + g * 3) % 11) / 11;
            k->ratios[i * k->groups + g] = (float)(k->worst.ratio * part * part * part);
        }
    }
    for (size_t i = 0; i < k->rows; i++) {
        if (i == k->token) k->ratios[i * k->groups + k->head] = (float)k->worst.ratio;
    }
    if (!skip_tokens) return;
    k->row_token = room(k->rows * sizeof *k->row_token);
    for (size_t i = 0; i < k->rows; i++) k->row_token[i] = 5 * i;
}

// The case of docs/verify.md: projections transposed, GELU, a clipped residual, faults of the prompt.
static void make_case(Report *r) {
    name_run(r);
    const int prompt = add_prompt(r, "chat", 18);
    add_finding(r, STAGE_FILE, -1, "shapes", OUTCOME_PASS, "every tensor has the model's shape");
    add_finding(r, STAGE_FILE, -1, "tied", OUTCOME_SKIPPED, "the output is a matrix of its own");
    add_finding(r, STAGE_PROMPT, prompt, "eos-at-end", OUTCOME_FAIL, "the ids end in EOS (2)");
    add_finding(r, STAGE_PROMPT, prompt, "newline-as-space", OUTCOME_FAIL,
                "newlines became spaces: id 29871 at 6 where <0x0A> (13) belongs");
    snprintf(r->stage_reason[STAGE_PATHS], FINDING_TEXT, "a trace has one path only");
    add_component(r, prompt, COMP_EMBD, -1, 0, 18, 1)->worst = (Cell){.by = BY_BITS};
    for (int layer = 0; layer < 2; layer++) {
        static const struct {
            Component c;
            size_t groups;
            bool transposed;
        } parts[] = {{COMP_ATTN_NORM, 1, false}, {COMP_Q, 3, true},        {COMP_K, 1, true},
                     {COMP_V, 1, true},          {COMP_Q_ROPE, 3, false},  {COMP_K_ROPE, 1, false},
                     {COMP_ATTN, 3, false},      {COMP_ATTN_OUT, 1, true}, {COMP_FFN_INP, 1, false},
                     {COMP_FFN_NORM, 1, false},  {COMP_FFN_GATE, 1, true}, {COMP_FFN_UP, 1, true},
                     {COMP_FFN_ACT, 1, false},   {COMP_FFN_OUT, 1, true},  {COMP_L_OUT, 1, false}};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            const double right = 0.002 * (double)(1 + (i * 5 + (size_t)layer * 3) % 13);
            ComponentResult *k =
                add_component(r, prompt, parts[i].c, layer, parts[i].transposed ? 2.07e10 : right,
                              18, parts[i].groups);
            if (parts[i].transposed) add_fit(k, "transposed", "weights read transposed", 3.04e-13);
            k->coarse = parts[i].c == COMP_ATTN;
            k->since = (ComponentRef){COMP_KQ, layer};
            keep_ratios(k, false);
            if (k->ratios && parts[i].transposed) {
                for (size_t j = 0; j < k->rows * k->groups; j++) k->ratios[j] += 1e9f;
            }
        }
    }
    ComponentResult *act = &r->components[r->n_components - 3];
    assert_int_equal(act->ref.c, COMP_FFN_ACT);
    act->outcome = OUTCOME_FAIL;
    act->n_bad = 4;
    act->worst = (Cell){5e4, BY_ELEMENT, 0.0123, 2.46e-7, 9.8e-4, 1e-10, 117};
    add_fit(act, "gelu", "GELU instead of SiLU", 2e-14);
    act->cause.fits[0].ratio = 0.021;
    add_component(r, prompt, COMP_NORM, -1, 0.01, 1, 1);
    ComponentResult *logits = add_component(r, prompt, COMP_LOGITS, -1, 2e10, 1, 1);
    logits->token = logits->bad_token = 17;
    add_fit(logits, "transposed", "weights read transposed", 4e-13);
    report_finish(r);
}

static void make_pass(Report *r) {
    name_run(r);
    snprintf(r->subject, sizeof r->subject, "backend cpu (2 threads, generic-avx2)");
    snprintf(r->backend, sizeof r->backend, "cpu");
    const int bos = add_prompt(r, "bos", 1), chat = add_prompt(r, "chat", 20);
    add_finding(r, STAGE_FILE, -1, "shapes", OUTCOME_PASS, "every tensor has the model's shape");
    add_finding(r, STAGE_PROMPT, chat, "ids", OUTCOME_PASS, "the ids are the tokenizer's");
    add_finding(r, STAGE_PATHS, chat, "twice", OUTCOME_PASS, "two runs are equal to the bit");
    for (int p = chat; p >= bos; p--) {  // report_finish sorts them
        add_component(r, p, COMP_LOGITS, -1, 0.1, 1, 1)->drift = 1.5e-11;
        for (int layer = 1; layer >= 0; layer--) {
            keep_ratios(add_component(r, p, COMP_Q, layer, 0.05 + 0.01 * layer, p ? 20 : 1, 3),
                        false);
            add_component(r, p, COMP_L_OUT, layer, 0.12, p ? 20 : 1, 1)->drift = 2e-11;
        }
        add_component(r, p, COMP_EMBD, -1, 0, p ? 20 : 1, 1);
    }
    report_finish(r);
}

#define EVIL "\"'<!--</script><script>alert(1)</script><b>&amp;\x1b[31m\xff\xe2\x82\x01"

static void make_hostile(Report *r) {
    name_run(r);
    snprintf(r->model_path, sizeof r->model_path, "%s.gguf", EVIL);
    snprintf(r->subject, sizeof r->subject, "trace %s", EVIL);
    snprintf(r->backend, sizeof r->backend, "%.20s", &EVIL[20]);
    snprintf(r->model_what, sizeof r->model_what, "{{data}} %s", EVIL);
    snprintf(r->rounding, sizeof r->rounding, "%s", EVIL);
    snprintf(r->command, sizeof r->command, "plumb verify -m '%s'", EVIL);
    snprintf(r->build, sizeof r->build, "%.60s", EVIL);
    const int a = add_prompt(r, EVIL, 3), b = add_prompt(r, "\n\n", 0);
    add_finding(r, STAGE_PROMPT, a, "</script>", OUTCOME_FAIL, EVIL "\nnot a line of its own");
    add_finding(r, STAGE_FILE, 99, "odd", OUTCOME_PASS, EVIL);
    ComponentResult *k = add_component(r, b, COMP_V, 1, 1e12, 3, 2);
    k->worst.by = BY_NAN;
    k->worst.error = k->worst.nmse = NAN;
    k->ratios = room(6 * sizeof *k->ratios);
    for (int i = 0; i < 6; i++) k->ratios[i] = i < 3 ? NAN : i == 3 ? INFINITY : -1;
    snprintf(k->cause.pattern, sizeof k->cause.pattern, "%s", EVIL);
    snprintf(k->rounding, sizeof k->rounding, "%.30s", EVIL);
    add_fit(add_component(r, a, COMP_K, 0, HUGE_VAL, 3, 1), "scaled", EVIL, NAN);
    report_finish(r);
}

// 80 layers x every component x 5 prompts.
static void make_big(Report *r) {
    name_run(r);
    r->n_layers = 80;
    static const char *const names[] = {"bos", "chat", "chunks", "repeat", "long"};
    static const size_t tokens[] = {1, 20, 24, 18, 1200};
    for (int p = 0; p < 5; p++) {
        add_prompt(r, names[p], tokens[p] < 64 ? tokens[p] : 64);
        for (int c = 0; c < COMP_TOKEN; c++) {
            const bool inside = component_in_layer((Component)c);
            const size_t groups = c == COMP_Q || c == COMP_Q_ROPE || c == COMP_KQ || c == COMP_ATTN
                                      ? 64
                                  : c == COMP_K || c == COMP_V || c == COMP_K_ROPE ? 8
                                                                                   : 1;
            for (int layer = inside ? 0 : -1; layer < (inside ? 80 : 0); layer++) {
                const double ratio =
                    pow(10, -3 + 2.4 * ((layer * 31 + c * 17 + p * 5) % 97) / 97.0);
                const bool bad = layer == 41 && c == COMP_FFN_OUT && p == 4;
                ComponentResult *k = add_component(r, p, (Component)c, layer, bad ? 37.5 : ratio,
                                                   tokens[p] < 64 ? tokens[p] : 64, groups);
                keep_ratios(k, tokens[p] > 64);
                if (bad) add_fit(k, "f16-accumulation", "summed in float16", 2e-12);
            }
        }
    }
    report_finish(r);
}

// --- outcomes -----------------------------------------------------------------------------------

static void expect_sentence(const Report *r, const char *want) {
    Text got = {0};
    report_sentence(r, &got);
    assert_string_equal(got.data, want);
    text_free(&got);
}

static void test_empty(void **state) {
    (void)state;
    Report r;
    report_init(&r);
    report_finish(&r);
    assert_true(report_passed(&r));
    assert_null(report_first(&r).finding);
    assert_null(report_first(&r).component);
    assert_null(report_first_component(&r));
    for (int s = 0; s < N_STAGES; s++) {
        assert_int_equal(r.stage[s], OUTCOME_SKIPPED);
        assert_string_equal(r.stage_reason[s], "nothing to check");
    }
    expect_sentence(&r, "no divergence, but no component was checked");
    report_free(&r);
}

static void test_stages(void **state) {
    (void)state;
    Report r;
    make_case(&r);
    assert_int_equal(r.stage[STAGE_FILE], OUTCOME_PASS);
    assert_string_equal(r.stage_reason[STAGE_FILE], "1 check");
    assert_int_equal(r.stage[STAGE_PROMPT], OUTCOME_FAIL);
    assert_string_equal(r.stage_reason[STAGE_PROMPT], "2 of 2 checks fail");
    assert_int_equal(r.stage[STAGE_COMPONENTS], OUTCOME_FAIL);
    assert_string_equal(r.stage_reason[STAGE_COMPONENTS], "16 of 33 components fail");
    assert_int_equal(r.stage[STAGE_PATHS], OUTCOME_SKIPPED);
    assert_string_equal(r.stage_reason[STAGE_PATHS], "a trace has one path only");
    assert_false(report_passed(&r));
    report_free(&r);

    // What was marked skipped stays so, unless something in it failed after all.
    name_run(&r);
    snprintf(r.stage_reason[STAGE_PATHS], FINDING_TEXT, "not asked for");
    snprintf(r.stage_reason[STAGE_PROMPT], FINDING_TEXT, "no tokenizer");
    add_finding(&r, STAGE_PATHS, -1, "note", OUTCOME_PASS, "a check that held");
    add_finding(&r, STAGE_PROMPT, -1, "ids-differ", OUTCOME_FAIL, "other ids");
    r.stage[STAGE_FILE] = OUTCOME_PASS;  // was looked at, nothing to say
    report_finish(&r);
    assert_int_equal(r.stage[STAGE_FILE], OUTCOME_PASS);
    assert_string_equal(r.stage_reason[STAGE_FILE], "nothing wrong");
    assert_int_equal(r.stage[STAGE_PATHS], OUTCOME_SKIPPED);
    assert_string_equal(r.stage_reason[STAGE_PATHS], "not asked for");
    assert_int_equal(r.stage[STAGE_PROMPT], OUTCOME_FAIL);
    assert_string_equal(r.stage_reason[STAGE_PROMPT], "1 of 1 check fails");
    report_free(&r);
}

static void test_a_failure_in_each_stage(void **state) {
    (void)state;
    for (int s = 0; s < N_STAGES; s++) {
        Report r;
        name_run(&r);
        add_prompt(&r, "", 3);
        add_component(&r, 0, COMP_Q, 0, 0.5, 3, 1);
        add_finding(&r, (StageId)s, 0, "broken", OUTCOME_FAIL, "it is broken");
        report_finish(&r);
        assert_false(report_passed(&r));
        assert_int_equal(r.stage[s], OUTCOME_FAIL);
        const First first = report_first(&r);
        assert_int_equal(first.stage, s);
        assert_string_equal(first.finding->id, "broken");
        assert_null(first.component);
        assert_null(report_first_component(&r));
        char want[80];
        snprintf(want, sizeof want, "first fault: %s: it is broken", stage_name((StageId)s));
        expect_sentence(&r, want);
        report_free(&r);
    }
    // A stage that failed without saying in what.
    Report r;
    name_run(&r);
    r.stage[STAGE_FILE] = OUTCOME_FAIL;
    snprintf(r.stage_reason[STAGE_FILE], FINDING_TEXT, "the file changed meanwhile");
    report_finish(&r);
    assert_false(report_passed(&r));
    expect_sentence(&r, "first fault: file: the file changed meanwhile");
    report_free(&r);
}

static void test_order(void **state) {
    (void)state;
    Report r;
    name_run(&r);
    add_prompt(&r, "a", 4), add_prompt(&r, "b", 4);
    add_component(&r, 1, COMP_K, 0, 5, 4, 1);
    add_component(&r, 0, COMP_Q, 1, 5, 4, 1);
    add_component(&r, 0, COMP_EMBD, -1, 0.5, 4, 1);
    add_component(&r, 0, COMP_LOGITS, -1, 0.5, 4, 1);
    add_component(&r, 0, COMP_Q, 0, 0.5, 4, 1);
    report_finish(&r);
    static const ComponentRef want[] = {
        {COMP_EMBD, -1}, {COMP_Q, 0}, {COMP_Q, 1}, {COMP_LOGITS, -1}, {COMP_K, 0}};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(r.components[i].ref.c, want[i].c);
        assert_int_equal(r.components[i].ref.layer, want[i].layer);
    }
    // Of all prompts the earliest component, not the earliest prompt's.
    assert_ptr_equal(report_first_component(&r), &r.components[4]);
    assert_ptr_equal(report_first(&r).component, &r.components[4]);
    report_free(&r);
}

// --- sentences ----------------------------------------------------------------------------------

static void test_sentence_of_the_case(void **state) {
    (void)state;
    Report r;
    make_case(&r);
    expect_sentence(
        &r,
        "first fault: prompt: the ids end in EOS (2)\n"
        "also: prompt: newlines became spaces: id 29871 at 6 where <0x0A> (13) belongs\n"
        "first divergence: blk.0.q (token 3): NMSE 2.07, bound 1e-10; "
        "weights read transposed (3.04e-13 if so)");
    report_free(&r);
    make_pass(&r);
    expect_sentence(&r,
                    "no divergence: 12 components of 2 prompts within their bounds; the nearest is "
                    "blk.0.l_out at 0.12 of its bound");
    report_free(&r);
}

// The sentence of one failing component.
static void expect_one(const char *want, Component c, int layer, Cell worst, size_t groups,
                       size_t bad, const Cause *cause) {
    Report r;
    name_run(&r);
    add_prompt(&r, "only", 4);
    ComponentResult *k = add_component(&r, 0, c, layer, 2, 4, groups);
    k->worst = worst;
    k->n_bad = bad;
    k->cause = *cause;
    report_finish(&r);
    expect_sentence(&r, want);
    report_free(&r);
}

static void test_sentences_of_causes(void **state) {
    (void)state;
    const Cell nmse = {2.07e10, BY_NMSE, 2.07, 1e-10, 2.07, 1e-10, 0};
    Cause certain = {.certainty = CAUSE_CERTAIN,
                     .n_fits = 1,
                     .fits = {{"transposed", "weights read transposed", 3e-13, 3e-3, false}},
                     .pattern = "every row"};
    expect_one(
        "first divergence: blk.0.q (token 3): NMSE 2.07, bound 1e-10; weights read transposed "
        "(3e-13 if so)",
        COMP_Q, 0, nmse, 1, 4, &certain);
    // A head is named where it is not all of them.
    expect_one(
        "first divergence: blk.11.k (token 3, head 1): NMSE 2.07, bound 1e-10; weights read "
        "transposed (3e-13 if so)",
        COMP_K, 11, nmse, 3, 1, &certain);
    expect_one(
        "first divergence: blk.0.q (token 3): NMSE 2.07, bound 1e-10; weights read transposed "
        "(3e-13 if so)",
        COMP_Q, 0, nmse, 3, 12, &certain);
    expect_one(
        "first divergence: blk.0.ffn_act (token 3): element 9 off by 0.0123, bound 1.23e-7; "
        "weights read transposed (0.003 of the bound if so)",
        COMP_FFN_ACT, 0, (Cell){1e5, BY_ELEMENT, 0.0123, 1.23e-7, 1e-12, 1e-10, 9}, 1, 1, &certain);
    expect_one(
        "first divergence: embd (token 3): element 9 off by 0.5 where every bit must be equal "
        "(NMSE 2); weights read transposed (3e-13 if so)",
        COMP_EMBD, -1, (Cell){1e12, BY_BITS, 0.5, 0, 2, 1e-10, 9}, 1, 1, &certain);
    Cause both = certain;
    both.certainty = CAUSE_AMBIGUOUS, both.n_fits = 2;
    both.fits[1] = (CauseFit){"other-weights", "k's weights", 4e-14, 4e-4, false};
    snprintf(both.apart, sizeof both.apart, "a prompt of two tokens");
    expect_one(
        "first divergence: blk.0.v (token 3): NMSE 2.07, bound 1e-10; weights read transposed "
        "(3e-13 if so) or k's weights (4e-14 if so); told apart by a prompt of two tokens",
        COMP_V, 0, nmse, 1, 4, &both);
    const Cause unknown = {.certainty = CAUSE_UNKNOWN,
                           .pattern = "token 3 alone, the last 8 columns"};
    expect_one(
        "first divergence: logits (token 3): mean off by 12 standard errors, bound 6; cause "
        "unknown: token 3 alone, the last 8 columns",
        COMP_LOGITS, -1, (Cell){2, BY_BIAS, 12, 6, 1e-12, 1e-10, 0}, 1, 1, &unknown);
    const Cause none = {.certainty = CAUSE_NONE};
    expect_one(
        "first divergence: blk.3.kq_soft_max (token 3, head 1): sum off by 0.02 from 1, bound "
        "1e-6; cause not looked for",
        COMP_KQ_SOFT_MAX, 3, (Cell){2e4, BY_SUM, 0.02, 1e-6, 0, 1e-10, 0}, 2, 3, &none);
    expect_one(
        "first divergence: blk.3.attn (token 3): element 4 is not finite; cause not looked "
        "for",
        COMP_ATTN, 3, (Cell){1e12, BY_NAN, 1e12, 0, 1e12, 0, 4}, 1, 1, &none);
    expect_one("first divergence: blk.3.k (token 3): 64 wide where the model's is 96", COMP_K, 3,
               (Cell){1e12, BY_SHAPE, 64, 96, 0, 0, 0}, 1, 1, &unknown);
}

static void test_sentences_of_many(void **state) {
    (void)state;
    Report r;
    name_run(&r);
    for (int p = 0; p < 3; p++) {
        add_prompt(&r, p == 0 ? "bos" : p == 1 ? "chat" : "long", 4);
        add_finding(&r, STAGE_PROMPT, p, "bos-missing", OUTCOME_FAIL, "BOS (1) is missing");
    }
    ComponentResult *k = add_component(&r, 2, COMP_V, 0, 3e5, 4, 4);
    k->n_bad = 3;
    keep_ratios(k, false);
    for (int g = 0; g < 4; g++) k->ratios[3 * 4 + g] = 9;  // every head of token 3
    snprintf(k->cause.pattern, sizeof k->cause.pattern, "token 3 only");
    add_finding(&r, STAGE_PATHS, 1, "chunks of 9", OUTCOME_FAIL, "9 at a time: other logits");
    report_finish(&r);
    expect_sentence(&r,
                    "first fault: prompt bos: BOS (1) is missing (and 2 more such)\n"
                    "first divergence: blk.0.v (token 3, prompt long): NMSE 3e-5, bound 1e-10; "
                    "cause unknown: token 3 only");
    report_free(&r);
    name_run(&r);
    for (int i = 0; i < 9; i++) {
        char id[16];
        snprintf(id, sizeof id, "id-%d", i);
        add_finding(&r, STAGE_FILE, -1, id, OUTCOME_FAIL, id);
    }
    report_finish(&r);
    expect_sentence(
        &r,
        "first fault: file: id-0\nalso: file: id-1\nalso: file: id-2\nalso: file: id-3\n"
        "also: file: id-4\nalso: file: id-5\nand 3 more faults of the file");
    report_free(&r);
}

// --- the terminal -------------------------------------------------------------------------------

static char *text_of(const Report *r, bool verbose, bool color, int width) {
    static Text t;
    text_free(&t);
    report_text(r, verbose, color, width, &t);
    assert_non_null(t.data);
    return t.data;
}

static bool has_line(const char *text, const char *line) {
    const size_t n = strlen(line);
    for (const char *at = text; (at = strstr(at, line)); at++) {
        if ((at == text || at[-1] == '\n') && (at[n] == '\n' || !at[n])) return true;
    }
    return false;
}

static void expect_line(const char *text, const char *line) {
    if (!has_line(text, line)) fail_msg("no line \"%s\" in:\n%s", line, text);
}

static void expect_words(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("no \"%s\" in:\n%s", part, text);
}

// Nothing but the sentence, which is the end, is wider than the terminal.
static void expect_width(const char *text, size_t width) {
    const char *end = strstr(text, "first fault:");
    if (!end) end = strstr(text, "first divergence:");
    for (const char *at = text; at < end; at = strchr(at, '\n') + 1) {
        const size_t n = strcspn(at, "\n");
        if (n > width) fail_msg("%zu columns: %.*s", n, (int)n, at);
        if (n && at[n - 1] == 0x20) fail_msg("a space ends: %.*s", (int)n, at);
    }
}

static void test_text(void **state) {
    (void)state;
    Report r;
    make_case(&r);
    const char *t = text_of(&r, false, false, 80);
    expect_width(t, 80);
    expect_line(t, "subject     trace other.gguf");
    expect_line(t, "file        PASS  1 check");
    expect_line(t, "prompt      FAIL  2 of 2 checks fail");
    expect_line(t, "paths       -     skipped: a trace has one path only");
    expect_line(t, "FAIL  prompt: the ids end in EOS (2)");
    expect_line(t, "component layer token head by     error  bound  ratio      arrays");
    expect_line(t, "embd                3      bits       0             0 PASS      1");
    expect_words(t, "\nq             0     3    1 NMSE     2.1  1e-10 2.1e10 FAIL    2/2\n");
    expect_words(t, "\nattn_norm     1     3      NMSE   8e-13  1e-10  0.008 PASS      2\n");
    expect_words(t, "\nffn_act       1     3      elem   0.012 2.5e-7    5e4 FAIL    1/2\n");
    expect_words(
        t,
        "FAIL  blk.0.q (token 3): NMSE 2.07, bound 1e-10\n"
        "      weights read transposed (3.04e-13 if so)\n"
        "      every row and head, RMS as expected\n"
        "      the same in 14 more (q, k, v, attn_out, ffn_gate, ffn_up, ffn_out, logits)\n");
    expect_line(t,
                "coarse      attn is checked together with k_cache, v_cache, kq, kq_soft_max (not");
    expect_line(t, "            captured)");
    assert_null(strchr(t, '\x1b'));
    // The sentence is one line, whatever the width.
    expect_line(t,
                "first divergence: blk.0.q (token 3): NMSE 2.07, bound 1e-10; weights read "
                "transposed (3.04e-13 if so)");
    expect_width(text_of(&r, false, false, 60), 60);
    expect_width(text_of(&r, false, false, 42), 42);
    t = text_of(&r, true, false, 80);
    expect_width(t, 80);
    expect_words(t, "\nblk.1.ffn_up ");
    expect_line(t, "-     file: the output is a matrix of its own");
    t = text_of(&r, false, true, 80);
    expect_words(t, "\x1b[1;31mFAIL\x1b[0m");
    text_of(&r, false, false, 0);
    report_free(&r);
}

// Failing components whose cause is unknown, the same, or not looked for.
static void test_groups(void **state) {
    (void)state;
    Report r;
    name_run(&r);
    add_prompt(&r, "", 4);
    for (int layer = 0; layer < 3; layer++) {
        add_component(&r, 0, COMP_Q, layer, 5, 4, 1);
        add_component(&r, 0, COMP_K, layer, 5, 4, 1);
        add_fit(add_component(&r, 0, COMP_V, layer, 5, 4, 1), "scaled", "scaled by 2", 1e-13);
        add_component(&r, 0, COMP_ATTN_OUT, layer, 5, 4, 1)->cause.certainty = CAUSE_NONE;
        add_component(&r, 0, COMP_FFN_UP, layer, 5, 4, 1)->cause.certainty = CAUSE_NONE;
    }
    report_finish(&r);
    const char *t = text_of(&r, false, false, 80);
    expect_words(t,
                 "FAIL  blk.0.q (token 3): NMSE 5e-10, bound 1e-10\n"
                 "      cause unknown\n      the same in 2 more (q)\n");
    expect_words(t,
                 "FAIL  blk.0.k (token 3): NMSE 5e-10, bound 1e-10\n"
                 "      cause unknown\n      the same in 2 more (k)\n");
    expect_words(t,
                 "FAIL  blk.0.v (token 3): NMSE 5e-10, bound 1e-10\n"
                 "      scaled by 2 (1e-13 if so)\n      every row and head, RMS as expected\n"
                 "      the same in 2 more (v)\n");
    expect_words(t,
                 "FAIL  blk.0.attn_out (token 3): NMSE 5e-10, bound 1e-10\n"
                 "      cause not looked for\n      nor in 5 more that fail (attn_out, ffn_up)\n");
    report_free(&r);
}

static void test_together(void **state) {
    (void)state;
    Report r;
    name_run(&r);
    r.n_layers = 4;
    add_prompt(&r, "", 4);
    add_component(&r, 0, COMP_LOGITS, -1, 0.5, 4, 1)->coarse = true;
    report_finish(&r);
    expect_words(text_of(&r, false, false, 0),
                 "logits is checked together with 72 earlier ones, blk.3.ffn_gate, blk.3.ffn_up, "
                 "blk.3.ffn_act, blk.3.ffn_out, blk.3.l_out, norm (not captured)\n");
    report_free(&r);
    // Only what lies between: the stream before was captured, q is another branch.
    name_run(&r);
    add_prompt(&r, "", 4);
    add_component(&r, 0, COMP_L_OUT, 0, 0.5, 4, 1);
    add_component(&r, 0, COMP_Q, 1, 0.5, 4, 1);
    add_component(&r, 0, COMP_V, 1, 0.5, 4, 1)->coarse = true;
    report_finish(&r);
    expect_words(text_of(&r, false, false, 0),
                 "v is checked together with attn_norm (not captured)");
    report_free(&r);
    // The cache was read back after the prompt, and judged on its own: nothing is coarse.
    name_run(&r);
    add_prompt(&r, "", 4);
    add_component(&r, 0, COMP_Q_ROPE, 0, 0.5, 4, 1);
    add_component(&r, 0, COMP_K_CACHE, 0, 0.5, 4, 1);
    ComponentResult *kq = add_component(&r, 0, COMP_KQ, 0, 0.5, 4, 1);
    kq->coarse = true, kq->since = (ComponentRef){COMP_K_CACHE, 0};
    report_finish(&r);
    assert_null(strstr(text_of(&r, false, false, 0), "coarse"));
    report_free(&r);
    // A later part of the rows only.
    name_run(&r);
    add_prompt(&r, "", 4);
    add_component(&r, 0, COMP_V, 0, 0.5, 4, 1);
    add_component(&r, 0, COMP_ATTN_NORM, 0, 0.5, 2, 1);
    r.components[0].coarse = true;
    report_finish(&r);
    expect_words(text_of(&r, false, false, 0),
                 "v is checked with inputs of which some rows were not captured");
    report_free(&r);
}

static void test_harmless(void **state) {
    (void)state;
    Report r;
    make_pass(&r);
    for (size_t i = 0; i < r.n_components; i++) {
        ComponentResult *k = &r.components[i];
        if (k->ref.c != COMP_Q || k->ref.layer != 1) continue;
        k->worst.ratio = 3e8;
        snprintf(k->equivalent, sizeof k->equivalent, "positions shifted alike in q and k");
    }
    assert_true(report_passed(&r));
    expect_sentence(&r,
                    "no divergence: 12 components of 2 prompts within their bounds; the nearest is "
                    "blk.0.l_out at 0.12 of its bound");
    const char *t = text_of(&r, true, false, 0);
    expect_words(t, "harmless    blk.1.q and 1 more: positions shifted alike in q and k\n");
    expect_words(t, "(3e8) PASS");
    expect_words(
        t,
        "drift       along the whole chain, NMSE grows to 1.5e-11 at logits (most: 2e-11 at "
        "blk.0.l_out)\n");
    report_free(&r);
}

static void test_hostile_text(void **state) {
    (void)state;
    Report r;
    make_hostile(&r);
    const char *t = text_of(&r, true, false, 80);
    for (const char *at = t; *at; at++) {
        if ((unsigned char)*at < 0x20 && *at != '\n') fail_msg("byte %02x in the text", *at);
        assert_true(*at != '\xff');
    }
    expect_words(t, "\\x1b[31m\\xff\\xe2\\x82\\x01");
    expect_words(t, "\\x0anot a line of its own");
    report_free(&r);
}

static void test_long_texts(void **state) {
    (void)state;
    // A character that the end of the field would cut in two is left away.
    Report r;
    Error err = {0};
    name_run(&r);
    char text[FINDING_TEXT + 1];
    memset(text, 'x', FINDING_TEXT - 2);
    memcpy(text + FINDING_TEXT - 2, "\xc3\xa4", 3);
    must(report_finding(&r, STAGE_FILE, -1, "long", OUTCOME_FAIL, false, &err, "%s", text), &err);
    assert_int_equal(strlen(r.findings[0].text), FINDING_TEXT - 2);
    must(report_prompt(&r, text, NULL, 0, NULL, NULL, &err), &err);
    assert_int_equal(strlen(r.prompts[0].name), 63);
    report_finish(&r);
    report_free(&r);
}

// --- JSON ---------------------------------------------------------------------------------------

#if HAVE_JANSSON

static json_t *json_of(const Report *r) {
    Text t = {0};
    Error err = {0};
    json_error_t where;
    must(report_json(r, &t, &err), &err);
    assert_null(strchr(t.data, '\n'));
    json_t *j = json_loadb(t.data, t.len, JSON_REJECT_DUPLICATES, &where);
    if (!j) fail_msg("not JSON at %d: %s\n%s", where.position, where.text, t.data);
    text_free(&t);
    return j;
}

static const char *str(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_string(v)) fail_msg("%s is no text", key);
    return json_string_value(v);
}

static double num(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_number(v)) fail_msg("%s is no number", key);
    return json_number_value(v);
}

static void test_json(void **state) {
    (void)state;
    Report r;
    make_case(&r);
    json_t *j = json_of(&r);
    assert_string_equal(str(j, "verdict"), "fail");
    assert_string_equal(str(j, "backend"), "other 1.0");
    assert_string_equal(str(j, "build"), "plumb 0.1.0");
    assert_int_equal(strlen(str(j, "model_sha256")), 64);
    const json_t *first = json_object_get(j, "first"), *stages = json_object_get(j, "stages");
    assert_string_equal(str(first, "component"), "prompt");
    assert_string_equal(str(first, "cause"), "the ids end in EOS (2)");
    assert_string_equal(str(first, "cause_id"), "eos-at-end");
    assert_string_equal(str(first, "certainty"), "certain");
    assert_true(json_is_null(json_object_get(first, "token")));
    assert_true(json_is_null(json_object_get(first, "head")));
    assert_true(json_is_null(json_object_get(first, "nmse")));
    assert_true(json_is_null(json_object_get(first, "bound")));
    assert_string_equal(str(stages, "file"), "pass");
    assert_string_equal(str(stages, "prompt"), "fail");
    assert_string_equal(str(stages, "components"), "fail");
    assert_string_equal(str(stages, "paths"), "skipped: a trace has one path only");
    const json_t *c = json_object_get(j, "first_component");
    assert_string_equal(str(c, "component"), "blk.0.q");
    assert_string_equal(str(c, "cause"), "weights read transposed");
    assert_string_equal(str(c, "cause_id"), "transposed");
    assert_string_equal(str(c, "certainty"), "certain");
    assert_string_equal(str(c, "prompt"), "chat");
    assert_true(num(c, "token") == 3 && num(c, "head") == 1 && num(c, "layer") == 0);
    assert_true(fabs(num(c, "nmse") - 2.07) < 1e-9 && num(c, "bound") == 1e-10);
    assert_int_equal(json_array_size(json_object_get(c, "fits")), 1);
    const json_t *all = json_object_get(j, "components");
    assert_int_equal(json_array_size(all), r.n_components);
    const json_t *q = json_array_get(all, 2), *norm = json_array_get(all, 1);
    assert_string_equal(str(q, "component"), "blk.0.q");
    assert_string_equal(str(q, "outcome"), "fail");
    assert_string_equal(str(q, "measure"), "NMSE");
    assert_true(num(q, "cells") == 54 && num(q, "failing") == 54);
    assert_true(json_is_null(json_object_get(norm, "head")));
    assert_null(json_object_get(norm, "cause"));
    assert_null(json_object_get(q, "ratios"));
    assert_int_equal(json_array_size(json_object_get(j, "findings")), 4);
    const json_t *prompt = json_array_get(json_object_get(j, "prompts"), 0);
    assert_int_equal(json_array_size(json_object_get(prompt, "tokens")), 18);
    json_decref(j);
    report_free(&r);

    make_pass(&r);
    j = json_of(&r);
    assert_string_equal(str(j, "verdict"), "pass");
    assert_true(json_is_null(json_object_get(j, "first")));
    assert_true(json_is_null(json_object_get(j, "first_component")));
    json_decref(j);
    report_free(&r);
}

static void test_json_of_causes(void **state) {
    (void)state;
    Report r;
    name_run(&r);
    add_prompt(&r, "", 4);
    ComponentResult *k = add_component(&r, 0, COMP_V, 0, 5, 4, 1);
    add_fit(k, "a", "one thing", 1e-13);
    add_fit(k, "b", "another", 2e-13);
    snprintf(k->cause.apart, sizeof k->cause.apart, "two tokens");
    add_component(&r, 0, COMP_K, 0, 5, 4, 1);
    report_finish(&r);
    json_t *j = json_of(&r);
    const json_t *first = json_object_get(j, "first");
    assert_string_equal(str(first, "component"), "blk.0.k");
    assert_string_equal(str(first, "certainty"), "unknown");
    assert_string_equal(str(first, "cause"), "unknown");
    assert_true(json_is_null(json_object_get(first, "cause_id")));
    const json_t *v = json_array_get(json_object_get(j, "components"), 1);
    assert_string_equal(str(v, "certainty"), "ambiguous");
    assert_string_equal(str(v, "cause"), "one thing or another");
    assert_string_equal(str(v, "cause_id"), "a");
    assert_string_equal(str(v, "apart"), "two tokens");
    json_decref(j);
    report_free(&r);
}

static void check_finite(const json_t *v) {
    const char *key;
    json_t *item;
    size_t i;
    if (json_is_real(v)) assert_true(isfinite(json_real_value(v)));
    if (json_is_object(v))
        json_object_foreach((json_t *)(uintptr_t)v, key, item) check_finite(item);
    if (json_is_array(v)) json_array_foreach(v, i, item) check_finite(item);
}

static void test_hostile_json(void **state) {
    (void)state;
    Report r;
    make_hostile(&r);
    json_t *j = json_of(&r);
    check_finite(j);
    assert_string_equal(
        str(json_array_get(json_object_get(j, "prompts"), 0), "name"),
        "\"'<!--</script><script>alert(1)</script><b>&amp;\x1b[31m\xef\xbf\xbd\xef\xbf\xbd"
        "\x01");
    assert_true(
        json_is_null(json_object_get(json_array_get(json_object_get(j, "findings"), 1), "prompt")));
    json_decref(j);
    report_free(&r);
}

// --- the page -----------------------------------------------------------------------------------

static size_t count_of(const char *text, const char *part) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++) n++;
    return n;
}

static void test_page(void **state) {
    (void)state;
    static void (*const make[])(Report *) = {make_case, make_pass, make_hostile};
    for (int i = 0; i < 3; i++) {
        Report r;
        Text t = {0};
        Error err = {0};
        make[i](&r);
        must(report_html(&r, &t, &err), &err);
        assert_int_equal(strlen(t.data), t.len);
        // Two elements and no third, whatever the report's texts say; no address of anywhere.
        assert_int_equal(count_of(t.data, "<script"), 2);
        assert_int_equal(count_of(t.data, "</script"), 2);
        assert_int_equal(count_of(t.data, "<style"), 1);
        assert_int_equal(count_of(t.data, "://"), 0);
        assert_int_equal(count_of(t.data, "default-src 'none'"), 1);
        assert_int_equal(count_of(t.data, "alert(1)") > 0, i == 2);
        assert_int_equal(count_of(t.data, "<b>"), 0);
        for (const char *at = t.data; *at; at++) {
            if ((unsigned char)*at < 0x20 && *at != '\n') fail_msg("byte %02x in the page", *at);
        }
        // The report within the page, as a browser reads it.
        const char *data = strstr(t.data, "id=\"report\">");
        assert_non_null(data);
        data += strlen("id=\"report\">");
        json_error_t where;
        json_t *j = json_loadb(data, (size_t)(strstr(data, "</script") - data), 0, &where);
        if (!j) fail_msg("not JSON: %s", where.text);
        check_finite(j);
        assert_int_equal(json_array_size(json_object_get(j, "components")), r.n_components);
        json_decref(j);
        text_free(&t);
        report_free(&r);
    }
}

static json_t *page_json(const Report *r) {
    Text t = {0};
    Error err = {0};
    must(report_html(r, &t, &err), &err);
    const char *data = strstr(t.data, "id=\"report\">") + strlen("id=\"report\">");
    json_t *j = json_loadb(data, (size_t)(strstr(data, "</script") - data), 0, NULL);
    assert_non_null(j);
    text_free(&t);
    return j;
}

static uint8_t base64_at(const char *s, size_t i) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t bit = 8 * i;
    unsigned two = 0;
    for (size_t k = bit / 6; k < bit / 6 + 3; k++) {
        const char *at = s[k] && s[k] != '=' ? strchr(digits, s[k]) : digits;
        two = two << 6 | (unsigned)(at - digits);
        if (!s[k]) break;
    }
    return (uint8_t)(two >> (10 - bit % 6));
}

static void test_ratios_of_the_page(void **state) {
    (void)state;
    Report r;
    name_run(&r);
    add_prompt(&r, "", 4);
    ComponentResult *k = add_component(&r, 0, COMP_V, 0, 5, 5, 2);
    static const float ratios[10] = {0, 1e-9f, 1, 1.0000001f, 1e12f, NAN, -1, 0.01f, 0.999f, 10};
    static const uint8_t want[10] = {1, 1, 85, 86, 253, 0, 0, 57, 85, 99};
    k->ratios = room(sizeof ratios);
    memcpy(k->ratios, ratios, sizeof ratios);
    // 200 rows and 100 heads in 64 x 64 bunches: what fails in one shows in its bunch.
    k = add_component(&r, 0, COMP_Q, 0, 5, 200, 100);
    k->ratios = room(200 * 100 * sizeof *k->ratios);
    for (int i = 0; i < 200 * 100; i++) k->ratios[i] = 0.1f;
    k->ratios[199 * 100 + 99] = 5;
    k->ratios[103 * 100 + 50] = 7;  // the first row of its bunch
    report_finish(&r);
    json_t *j = page_json(&r);
    const json_t *all = json_object_get(j, "components"),
                 *lists = json_object_get(j, "token_lists");
    const json_t *v = json_object_get(json_array_get(all, 1), "ratios");
    assert_true(num(v, "rows") == 5 && num(v, "heads") == 2);
    for (size_t i = 0; i < 10; i++) {
        if (base64_at(str(v, "log"), i) != want[i]) {
            fail_msg("%g is %d", (double)ratios[i], base64_at(str(v, "log"), i));
        }
    }
    const json_t *q = json_object_get(json_array_get(all, 0), "ratios");
    assert_true(num(q, "rows") == 64 && num(q, "heads") == 64);
    size_t failing = 0;
    for (size_t i = 0; i < 64 * 64; i++) failing += base64_at(str(q, "log"), i) > 85;
    assert_int_equal(failing, 2);
    assert_true(base64_at(str(q, "log"), 64 * 64 - 1) == 95);
    const json_t *tokens = json_array_get(lists, (size_t)num(q, "tokens"));
    size_t row = 0;
    while (json_integer_value(json_array_get(tokens, row + 1)) <= 103) row++;
    assert_int_equal(json_integer_value(json_array_get(tokens, row)), 103);
    assert_int_equal(base64_at(str(q, "log"), row * 64 + 32), 97);
    json_decref(j);
    report_free(&r);
}

static void test_big_page(void **state) {
    (void)state;
    Report r;
    Text t = {0};
    Error err = {0};
    make_big(&r);
    must(report_html(&r, &t, &err), &err);
    print_message("%zu rows: a page of %.1f MiB\n", r.n_components, (double)t.len / 0x1p20);
    assert_true(t.len < 10 << 20);
    text_free(&t);
    // Of very many rows the worst prompt of each component.
    for (int p = 5; p < 20; p++) {
        add_prompt(&r, "more", 4);
        for (int layer = 0; layer < 80; layer++) {
            for (int c = COMP_ATTN_NORM; c <= COMP_L_OUT; c++) {
                add_component(&r, p, (Component)c, layer, p == 11 ? 2 : 0.9, 4, 1);
            }
        }
    }
    report_finish(&r);
    json_t *j = page_json(&r);
    assert_true(json_is_true(json_object_get(j, "worst_only")));
    const json_t *all = json_object_get(j, "components");
    assert_int_equal(json_array_size(all), 80 * 21 + 4);
    for (size_t i = 1; i <= 80 * 21; i++)
        assert_string_equal(str(json_array_get(all, i), "outcome"), "fail");
    json_decref(j);
    report_free(&r);
}

#else

static void test_json(void **state) {
    (void)state;
    Report r;
    Text t = {0};
    Error err = {0};
    make_pass(&r);
    assert_int_equal(report_json(&r, &t, &err), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.text, "jansson"));
    assert_int_equal(report_html(&r, &t, &err), ERR_UNAVAILABLE);
    assert_int_equal(t.len, 0);
    text_free(&t);
    report_free(&r);
}

#endif

static int write_pages(const char *folder) {
    static const struct {
        const char *name;
        void (*make)(Report *);
    } pages[] = {
        {"case", make_case}, {"pass", make_pass}, {"hostile", make_hostile}, {"big", make_big}};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        Report r;
        Text t = {0};
        Error err = {0};
        char path[512];
        snprintf(path, sizeof path, "%s/%s.html", folder, pages[i].name);
        pages[i].make(&r);
        Status st = report_html(&r, &t, &err);
        FILE *f = st ? NULL : fopen(path, "wb");
        const bool ok = f && fwrite(t.data, 1, t.len, f) == t.len;
        if (f && fclose(f) != 0) st = ERR_FAILED;
        text_free(&t);
        report_free(&r);
        if (st || !ok) {
            fprintf(stderr, "%s: %s\n", path, st ? err.text : "cannot be written");
            return st ? (int)st : 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--pages") == 0) return write_pages(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_a_failure_in_each_stage),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_sentence_of_the_case),
        cmocka_unit_test(test_sentences_of_causes),
        cmocka_unit_test(test_sentences_of_many),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_harmless),
        cmocka_unit_test(test_hostile_text),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_json),
#if HAVE_JANSSON
        cmocka_unit_test(test_json_of_causes),
        cmocka_unit_test(test_hostile_json),
        cmocka_unit_test(test_page),
        cmocka_unit_test(test_ratios_of_the_page),
        cmocka_unit_test(test_big_page),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
