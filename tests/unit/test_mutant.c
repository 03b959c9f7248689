// The fault engine: right with no fault on, and each fault where it should be and nowhere before.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "oracle/oracle.h"
#include "verify/mutant_internal.h"

#include "check.h"

enum { TOKENS = 24 };

static const size_t chunks[] = {7, 1, 1, 3, 1, 8, 2, 1};
enum { N_CHUNKS = sizeof chunks / sizeof *chunks };

// --- models and runs --------------------------------------------------------------------------

typedef struct {
    const char *name;
    TinyKind kind;
    TensorType type;
} Kind;

static const Kind kinds[] = {
    {"tiny", MODEL_TINY, TYPE_F32},
    {"tiny-llama3", MODEL_TINY_LLAMA3, TYPE_F32},
    {"tiny-qwen3", MODEL_TINY_QWEN3, TYPE_F32},
    {"tiny-hot", MODEL_TINY_HOT, TYPE_F32},
    {"tiny-Q8_0", MODEL_TINY_QUANT, TYPE_Q8_0},
    {"tiny-Q4_K", MODEL_TINY_QUANT, TYPE_Q4_K},
    {"tiny-Q6_K", MODEL_TINY_QUANT, TYPE_Q6_K},
    {"tiny-F16", MODEL_TINY_QUANT, TYPE_F16},
    {"tiny-BF16", MODEL_TINY_QUANT, TYPE_BF16},
    {"tiny-Q5_K", MODEL_TINY_QUANT, TYPE_Q5_K},
    {"tiny-Q4_0", MODEL_TINY_QUANT, TYPE_Q4_0},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static TinyModel new_model(const Kind *k, uint64_t seed) {
    TinyModel m;
    Error err = {0};
    if (tiny_new(k->kind, k->type, 0, seed, &m, &err)) fail_msg("%s: %s", k->name, err.text);
    return m;
}

static void some_tokens(const Model *m, int32_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = i ? (int32_t)((i * 37 + 11) % (size_t)m->h.n_vocab) : 1;
}

static MutantOptions plain(void) {
    return (MutantOptions){.act = *act_scheme_at(0),
                           .attn = *attn_scheme_at(0),
                           .scores = true,
                           .cache = true,
                           .seed = 7};
}

static TracePrompt run(const Model *m, const int32_t *tokens, size_t n, const MutantOptions *o) {
    TracePrompt p;
    Error err = {0};
    if (mutant_run(m, tokens, n, o, &p, &err)) fail_msg("%s", err.text);
    return p;
}

static const TraceArray *array_of(const TracePrompt *p, Component c, int layer) {
    for (size_t i = 0; i < p->n_arrays; i++) {
        if (p->arrays[i].ref.c == c && p->arrays[i].ref.layer == layer) return &p->arrays[i];
    }
    return NULL;
}

static size_t floats_of(const TraceArray *a) {
    return a->rows * a->width;
}

// The first array whose bits differ, in the order of the pass; NULL: none.
static const TraceArray *first_difference(const TracePrompt *a, const TracePrompt *b) {
    assert_int_equal(a->n_arrays, b->n_arrays);
    for (size_t i = 0; i < a->n_arrays; i++) {
        const TraceArray *x = &a->arrays[i], *y = &b->arrays[i];
        assert_int_equal(component_order(x->ref), component_order(y->ref));
        assert_int_equal(floats_of(x), floats_of(y));
        if (memcmp(x->x, y->x, floats_of(x) * sizeof(float)) != 0) return x;
    }
    return NULL;
}

// --- clean ------------------------------------------------------------------------------------

typedef struct {
    const TracePrompt *p;
    const char *model;
    bool hot;
    size_t seen;
} AgainstOracle;

static void on_component(void *user, const char *name, const double *x, size_t rows, size_t width) {
    AgainstOracle *a = user;
    ComponentName n;
    assert_true(component_parse(name, strlen(name), &n));
    const TraceArray *got = array_of(a->p, n.ref.c, n.ref.layer);
    if (!got) fail_msg("%s: no %s", a->model, name);
    assert_int_equal(got->rows, rows);
    assert_int_equal(got->width, width);
    double errors = 0, squares = 0;
    for (size_t i = 0; i < rows * width; i++) {
        const double e = (double)got->x[i] - x[i];
        errors += e * e, squares += x[i] * x[i];
    }
    // Large scores make much of little: there the chain drifts.
    if (!(errors <= (a->hot ? 1e-6 : 1e-10) * squares)) {
        fail_msg("%s: %s: NMSE %.3g", a->model, name, errors / squares);
    }
    a->seen++;
}

static void test_clean_against_oracle(void **state) {
    (void)state;
    for (size_t k = 0; k < N_KINDS; k++) {
        TinyModel t = new_model(&kinds[k], k + 1);
        int32_t tokens[TOKENS];
        some_tokens(t.model, tokens, TOKENS);
        MutantOptions o = plain();
        TracePrompt p = run(t.model, tokens, TOKENS, &o);
        Oracle *oracle;
        Error err = {0};
        double logits[256];
        assert_int_equal(oracle_new(t.model, 1, &oracle, &err), OK);
        AgainstOracle a = {&p, kinds[k].name, kinds[k].kind == MODEL_TINY_HOT, 0};
        if (oracle_forward(oracle, tokens, TOKENS, on_component, &a, logits, &err)) {
            fail_msg("%s", err.text);
        }
        // All but the cache, which the oracle has none of.
        assert_int_equal(a.seen, p.n_arrays - 2 * (size_t)t.model->h.n_layers);
        for (size_t i = 1; i < p.n_arrays; i++) {
            assert_true(component_order(p.arrays[i - 1].ref) < component_order(p.arrays[i].ref));
        }
        int32_t best = 0;
        for (int32_t i = 1; i < t.model->h.n_vocab; i++) {
            if (logits[i] > logits[best]) best = i;
        }
        assert_int_equal(p.chosen, best);
        assert_false(p.sampling.given);
        oracle_free(oracle);
        mutant_free(&p);
        tiny_free(&t);
    }
}

static void test_chunks_change_no_bit(void **state) {
    (void)state;
    for (size_t k = 0; k < N_KINDS; k++) {
        TinyModel t = new_model(&kinds[k], 3);
        int32_t tokens[TOKENS];
        some_tokens(t.model, tokens, TOKENS);
        MutantOptions o = plain();
        TracePrompt whole = run(t.model, tokens, TOKENS, &o);
        o.chunks = chunks, o.n_chunks = N_CHUNKS;
        TracePrompt parts = run(t.model, tokens, TOKENS, &o);
        const TraceArray *a = first_difference(&whole, &parts);
        if (a) fail_msg("%s: %s.%d differs", kinds[k].name, a->source, a->ref.layer);
        assert_int_equal(whole.chosen, parts.chosen);
        // A cache in float32 gives back what was written.
        for (int l = 0; l < t.model->h.n_layers; l++) {
            const TraceArray *pairs[2][2] = {
                {array_of(&whole, COMP_K_ROPE, l), array_of(&whole, COMP_K_CACHE, l)},
                {array_of(&whole, COMP_V, l), array_of(&whole, COMP_V_CACHE, l)}};
            for (int i = 0; i < 2; i++) {
                same_floats("cache", pairs[i][1]->x, pairs[i][0]->x, floats_of(pairs[i][0]));
            }
        }
        mutant_free(&whole);
        mutant_free(&parts);
        tiny_free(&t);
    }
}

// What it captures is what its options say, and nothing else changes.
static void test_options(void **state) {
    (void)state;
    TinyModel t = new_model(&kinds[0], 1);
    int32_t tokens[TOKENS];
    some_tokens(t.model, tokens, TOKENS);
    MutantOptions all = plain(), few = plain();
    few.scores = few.cache = false;
    TracePrompt a = run(t.model, tokens, TOKENS, &all), b = run(t.model, tokens, TOKENS, &few);
    assert_int_equal(a.n_arrays, b.n_arrays + 8);
    for (size_t i = 0; i < b.n_arrays; i++) {
        const TraceArray *x = &b.arrays[i], *y = array_of(&a, x->ref.c, x->ref.layer);
        assert_non_null(y);
        same_floats(x->source, x->x, y->x, floats_of(x));
    }
    mutant_free(&a);
    mutant_free(&b);
    static const Precision coarse[] = {PREC_F16, PREC_BF16};
    for (int i = 0; i < 2; i++) {
        MutantOptions o = plain();
        o.out = coarse[i];
        TracePrompt p = run(t.model, tokens, TOKENS, &o);
        for (size_t k = 0; k < p.n_arrays; k++) {
            if (precision_of(p.arrays[k].x, floats_of(&p.arrays[k])) == coarse[i]) continue;
            fail_msg("%s is no %s", p.arrays[k].source, precision_name(coarse[i]));
        }
        mutant_free(&p);
    }
    tiny_free(&t);
}

// Rounded inputs and caches change what is computed a little, and only from there on.
static void test_roundings(void **state) {
    (void)state;
    TinyModel t = new_model(&kinds[4], 1);  // of Q8_0
    int32_t tokens[TOKENS];
    some_tokens(t.model, tokens, TOKENS);
    MutantOptions o = plain();
    TracePrompt clean = run(t.model, tokens, TOKENS, &o);
    for (int i = 1; act_scheme_at(i); i++) {
        o = plain();
        o.act = *act_scheme_at(i);
        TracePrompt p = run(t.model, tokens, TOKENS, &o);
        const TraceArray *a = first_difference(&clean, &p);
        assert_non_null(a);
        assert_int_equal(a->ref.c, COMP_Q);
        assert_true(nmse(a->x, array_of(&clean, COMP_Q, 0)->x, floats_of(a) / 2) < 1e-2);
        mutant_free(&p);
    }
    for (int i = 1; attn_scheme_at(i); i++) {
        o = plain();
        o.attn = *attn_scheme_at(i);
        TracePrompt p = run(t.model, tokens, TOKENS, &o);
        const TraceArray *a = first_difference(&clean, &p);
        assert_non_null(a);
        assert_int_equal(a->ref.c, o.attn.k == TYPE_F32 ? COMP_V_CACHE : COMP_K_CACHE);
        const TraceArray *y = array_of(&p, COMP_ATTN, 0), *x = array_of(&clean, COMP_ATTN, 0);
        assert_true(nmse(y->x, x->x, floats_of(x)) < 1e-2);
        mutant_free(&p);
    }
    mutant_free(&clean);
    tiny_free(&t);
}

// --- faults -----------------------------------------------------------------------------------

typedef enum { WHOLE, IN_CHUNKS, ONE_TOKEN, REPEATED, N_PROMPTS } Prompt;

typedef struct {
    const Kind *kind;
    TinyModel model;
    int32_t tokens[N_PROMPTS][TOKENS];
    size_t n[N_PROMPTS];
    TracePrompt clean[N_PROMPTS];
} Bench;

static MutantOptions options_of(Prompt p) {
    MutantOptions o = plain();
    if (p == IN_CHUNKS) o.chunks = chunks, o.n_chunks = N_CHUNKS;
    return o;
}

static Bench new_bench(const Kind *kind) {
    Bench b = {.kind = kind, .model = new_model(kind, 11)};
    for (Prompt p = 0; p < N_PROMPTS; p++) {
        b.n[p] = p == ONE_TOKEN ? 1 : TOKENS;
        some_tokens(b.model.model, b.tokens[p], TOKENS);
        for (int i = 0; i < TOKENS && p == REPEATED; i++) b.tokens[p][i] = 40;
        const MutantOptions o = options_of(p);
        b.clean[p] = run(b.model.model, b.tokens[p], b.n[p], &o);
    }
    return b;
}

static void free_bench(Bench *b) {
    for (Prompt p = 0; p < N_PROMPTS; p++) mutant_free(&b->clean[p]);
    tiny_free(&b->model);
}

static bool is_expected(const Fault *f, ComponentRef ref) {
    for (int i = 0; i < f->n_expect; i++) {
        const ComponentRef e = f->expect[i];
        if (e.c == ref.c && (e.layer == ref.layer || e.layer == FAULT_ANY_LAYER)) return true;
    }
    return false;
}

// Runs it beside a clean run that samples alike. Returns how different the first array is that
// differs, 0 where none does; fails when that is none of the expected ones.
static double show(const Bench *b, const Fault *f, Prompt p, MutantOptions o) {
    o.faults[0] = f;
    TracePrompt bad = run(b->model.model, b->tokens[p], b->n[p], &o);
    const TracePrompt *clean = &b->clean[p];
    TracePrompt own = {0};
    o.faults[0] = NULL, o.sampling = bad.sampling;
    if (bad.sampling.given || !o.cache || !o.scores) {
        own = run(b->model.model, b->tokens[p], b->n[p], &o);
        clean = &own;
    }
    const TraceArray *a = first_difference(&bad, clean);
    double how = 0;
    if (a) {
        const TraceArray *was = array_of(clean, a->ref.c, a->ref.layer);
        how = nmse(a->x, was->x, floats_of(a));
        if (!f->equivalent && !is_expected(f, a->ref)) {
            fail_msg("%s on %s, prompt %d: shows first in %s.%d (NMSE %.2g)", f->id, b->kind->name,
                     (int)p, a->source, a->ref.layer, how);
        }
        for (size_t i = 0; i < bad.n_arrays && strcmp(f->id, "A7") != 0; i++) {
            for (size_t j = 0; j < floats_of(&bad.arrays[i]); j++) {
                if (isfinite(bad.arrays[i].x[j])) continue;
                fail_msg("%s on %s: %s.%d is not finite", f->id, b->kind->name,
                         bad.arrays[i].source, bad.arrays[i].ref.layer);
            }
        }
    }
    mutant_free(&own);
    mutant_free(&bad);
    return how;
}

// What a single token cannot show: all of them read positions or other tokens.
static bool needs_more_tokens(const Fault *f) {
    static const char *const ids[] = {"R1", "R2", "R4",      "R5", "R6", "R7",       "R8", "K2",
                                      "K4", "K5", "A5.more", "A6", "A9", "A9.close", "L5"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (strcmp(ids[i], f->id) == 0) return true;
    }
    return false;
}

static void test_faults_show_where_expected(void **state) {
    (void)state;
    double most[256] = {0};  // how different each fault's best case is
    int n = 0;
    for (size_t k = 0; k < N_KINDS; k++) {
        Bench b = new_bench(&kinds[k]);
        const bool quants_only = kinds[k].kind == MODEL_TINY_QUANT && kinds[k].type != TYPE_Q8_0;
        const Fault *f;
        for (n = 0; (f = fault_at(n)); n++) {
            if (!(f->models >> kinds[k].kind & 1)) continue;
            if (quants_only && strcmp(f->family, "Quants") != 0 && f->id[0] != 'E') continue;
            for (Prompt p = 0; p < N_PROMPTS; p++) {
                if (p != WHOLE && kinds[k].kind == MODEL_TINY_QUANT) continue;
                const double how = show(&b, f, p, options_of(p));
                const bool blind = (p == ONE_TOKEN && needs_more_tokens(f)) ||
                                   (p == WHOLE && f->code == FAULT_ROPE_RESET);
                if (blind && how != 0) fail_msg("%s: prompt %d shows %s", b.kind->name, p, f->id);
                most[n] = how > most[n] ? how : most[n];
            }
        }
        free_bench(&b);
    }
    for (int i = 0; i < n; i++) {
        const Fault *f = fault_at(i);
        if (f->equivalent || f->expect_finding) continue;
        if (!(most[i] > 1e-9)) fail_msg("%s shows nowhere (%.2g)", f->id, most[i]);
    }
}

// Where scores and caches were not captured the next component shows it.
static void test_faults_without_scores(void **state) {
    (void)state;
    Bench b = new_bench(&kinds[1]);
    const Fault *f;
    for (int i = 0; (f = fault_at(i)); i++) {
        if (strcmp(f->family, "Attention") != 0 && strcmp(f->family, "KV") != 0) continue;
        if (!(f->models >> b.kind->kind & 1)) continue;
        MutantOptions o = options_of(IN_CHUNKS);
        o.cache = false;
        assert_true(show(&b, f, IN_CHUNKS, o) > 1e-9);
        o.scores = false;
        assert_true(show(&b, f, IN_CHUNKS, o) > 1e-9);
    }
    free_bench(&b);
}

static TracePrompt run_with(const Bench *b, const char *id, MutantOptions o) {
    o.faults[0] = fault_by_id(id);
    assert_non_null(o.faults[0]);
    return run(b->model.model, b->tokens[WHOLE], b->n[WHOLE], &o);
}

// Largest NMSE of any component from `from` on.
static double apart_from(const TracePrompt *p, const TracePrompt *clean, Component from) {
    double most = 0;
    for (size_t i = 0; i < p->n_arrays; i++) {
        const TraceArray *a = &p->arrays[i], *was = &clean->arrays[i];
        const bool convention = a->ref.layer == 1 && a->ref.c < from;
        if (component_order(a->ref) < component_order((ComponentRef){from, 0})) continue;
        if (a->ref.c == COMP_K_CACHE || convention) continue;
        const double e = nmse(a->x, was->x, floats_of(a));
        most = e > most ? e : most;
    }
    return most;
}

static void check_halves(const Bench *b, const TracePrompt *p, Component c) {
    const Hparams *h = &b->model.model->h;
    const TraceArray *a = array_of(p, c, 0), *was = array_of(&b->clean[WHOLE], c, 0);
    const size_t d = (size_t)h->head_dim;
    for (size_t head = 0; head < floats_of(a) / d; head++) {
        for (size_t i = 0; i < d; i++) {
            const size_t from = i < d / 2 ? 2 * i : 2 * (i - d / 2) + 1;
            assert_true(a->x[head * d + i] == was->x[head * d + from]);
        }
    }
}

static void test_equivalents(void **state) {
    (void)state;
    for (size_t k = 0; k < 5; k++) {
        if (kinds[k].kind == MODEL_TINY_HOT) continue;
        Bench b = new_bench(&kinds[k]);
        const TracePrompt *clean = &b.clean[WHOLE];
        const Model *m = b.model.model;
        TracePrompt p = run_with(&b, "R3.both", plain());
        assert_int_equal(first_difference(&p, clean)->ref.c, COMP_Q_ROPE);
        assert_true(apart_from(&p, clean, COMP_KQ) < 1e-10);
        mutant_free(&p);
        if (m->h.rope_pairing == ROPE_NORM) {
            p = run_with(&b, "R9", plain());
            check_halves(&b, &p, COMP_Q);
            check_halves(&b, &p, COMP_K);
            check_halves(&b, &p, COMP_Q_ROPE);
            assert_true(apart_from(&p, clean, COMP_KQ) < 1e-10);
            mutant_free(&p);
        }
        p = run_with(&b, "A7.small", plain());
        assert_true(apart_from(&p, clean, COMP_ATTN_NORM) < 1e-10);
        mutant_free(&p);
        // Each row is scaled by a number near 1: epsilon's share is taken back.
        p = run_with(&b, "N7", plain());
        const TraceArray *a = array_of(&p, COMP_ATTN_NORM, 0);
        const TraceArray *was = array_of(clean, COMP_ATTN_NORM, 0);
        for (size_t i = 0; i < floats_of(a); i++) {
            const float by = a->x[i / a->width * a->width] / was->x[i / a->width * a->width];
            assert_true(by > 0.999999f);
            assert_true(fabsf(a->x[i] - by * was->x[i]) <= 1e-6f * fabsf(a->x[i]));
        }
        mutant_free(&p);
        free_bench(&b);
    }
}

// A race is another one with another seed, and the same with the same.
static void test_seeds(void **state) {
    (void)state;
    Bench b = new_bench(&kinds[0]);
    MutantOptions o = plain();
    TracePrompt first = run_with(&b, "P4", o), again = run_with(&b, "P4", o);
    assert_null(first_difference(&first, &again));
    o.seed++;
    TracePrompt other = run_with(&b, "P4", o);
    const TraceArray *a = first_difference(&first, &other);
    assert_int_equal(a->ref.c, COMP_Q);
    // Every row has an output that lacks a quarter of its sum, and few have many.
    const TraceArray *bad = array_of(&first, COMP_Q, 0),
                     *good = array_of(&b.clean[WHOLE], COMP_Q, 0);
    for (size_t r = 0; r < bad->rows; r++) {
        size_t differ = 0;
        for (size_t i = r * bad->width; i < (r + 1) * bad->width; i++) {
            differ += bad->x[i] != good->x[i];
        }
        assert_in_range(differ, 1, 2);
    }
    mutant_free(&first);
    mutant_free(&again);
    mutant_free(&other);
    free_bench(&b);
}

// K4 reads what another sequence left in the cache.
static void test_other_sequence(void **state) {
    (void)state;
    Bench b = new_bench(&kinds[0]);
    static const int32_t other[] = {1, 90, 17, 55, 4};
    MutantOptions o = plain();
    TracePrompt neighbour = run(b.model.model, other, 5, &o);
    o.other = other, o.n_other = 5;
    TracePrompt p = run_with(&b, "K4", o);
    const TraceArray *k = array_of(&p, COMP_K_CACHE, 0),
                     *left = array_of(&neighbour, COMP_K_ROPE, 0);
    same_floats("another's keys", k->x, left->x, floats_of(left));
    for (size_t i = floats_of(left); i < floats_of(k); i++) assert_true(k->x[i] == 0);
    mutant_free(&neighbour);
    mutant_free(&p);
    free_bench(&b);
}

// Several faults at once: each does its own.
static void test_several_faults(void **state) {
    (void)state;
    Bench b = new_bench(&kinds[0]);
    MutantOptions o = plain();
    static const char *const ids[] = {"P1.q",        "P1.k",      "P1.v",       "P1.attn_out",
                                      "P1.ffn_gate", "P1.ffn_up", "P1.ffn_out", "L3",
                                      "F1",          "X3"};
    for (size_t i = 0; i < 10; i++) o.faults[i] = fault_by_id(ids[i]);
    TracePrompt p = run(b.model.model, b.tokens[WHOLE], TOKENS, &o),
                one = run_with(&b, "P1.q", plain());
    const TraceArray *a = array_of(&p, COMP_Q, 0);
    same_floats("q", a->x, array_of(&one, COMP_Q, 0)->x, floats_of(a));
    assert_true(nmse(a->x, array_of(&b.clean[WHOLE], COMP_Q, 0)->x, floats_of(a)) > 0.5);
    const TraceArray *out = array_of(&p, COMP_L_OUT, 1);
    for (size_t i = 0; i < floats_of(out); i++) assert_true(fabsf(out->x[i]) <= 10);
    mutant_free(&p);
    mutant_free(&one);
    free_bench(&b);
}

// --- sampling ---------------------------------------------------------------------------------

static void test_sampling(void **state) {
    (void)state;
    Bench b = new_bench(&kinds[0]);
    const size_t n_vocab = (size_t)b.model.model->h.n_vocab;
    MutantOptions o = plain();
    o.sampling = (TraceSampling){.given = true,
                                 .temp = 3,
                                 .top_k = 20,
                                 .top_p = 0.9,
                                 .min_p = 0.01,
                                 .repeat_penalty = 1.2,
                                 .presence_penalty = 0.1,
                                 .frequency_penalty = 0.2,
                                 .repeat_last_n = 8};
    TracePrompt p = run(b.model.model, b.tokens[WHOLE], TOKENS, &o);
    const TraceArray *probs = array_of(&p, COMP_PROBS, -1);
    assert_int_equal(probs->rows, 1);
    assert_int_equal(probs->width, n_vocab);
    assert_int_equal(probs->first_row, TOKENS - 1);
    const float *logits = array_of(&p, COMP_LOGITS, -1)->x + (TOKENS - 1) * n_vocab;
    // In float64, another way: thresholds instead of a sorted list.
    double l[256], sum = 0, mass = 0, top = -INFINITY;
    for (size_t i = 0; i < n_vocab; i++) {
        int count = 0;
        for (int t = TOKENS - 8; t < TOKENS; t++) count += b.tokens[WHOLE][t] == (int32_t)i;
        l[i] = (double)logits[i];
        if (count) l[i] = (l[i] > 0 ? l[i] / 1.2 : l[i] * 1.2) - 0.1 - 0.2 * count;
        top = l[i] > top ? l[i] : top;
    }
    bool kept[256] = {false};
    double total = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < n_vocab; i++) {
            size_t before = 0;
            double above = 0;
            for (size_t j = 0; j < n_vocab; j++) {
                if (l[j] < l[i] || (l[j] == l[i] && j >= i)) continue;
                before++, above += exp(l[j] - top);
            }
            if (pass == 0 && before < 20) total += exp(l[i] - top);
            kept[i] = before < 20 && above < 0.9 * total && exp(l[i] - top) >= 0.01;
        }
    }
    for (size_t i = 0; i < n_vocab; i++) sum += kept[i] ? exp((l[i] - top) / 3) : 0;
    for (size_t i = 0; i < n_vocab; i++) {
        const double want = kept[i] ? exp((l[i] - top) / 3) / sum : 0;
        assert_true(fabs((double)probs->x[i] - want) < 1e-6);
        mass += (double)probs->x[i];
    }
    assert_true(fabs(mass - 1) < 1e-5);
    assert_true(probs->x[p.chosen] > 0);
    mutant_free(&p);
    free_bench(&b);
}

static void test_sampling_faults(void **state) {
    (void)state;
    Bench b = new_bench(&kinds[0]);
    const size_t n_vocab = (size_t)b.model.model->h.n_vocab;
    TracePrompt p = run_with(&b, "S1", plain());
    const float *logits = array_of(&p, COMP_LOGITS, -1)->x + (TOKENS - 1) * n_vocab;
    const int32_t right = b.clean[WHOLE].chosen;
    assert_true(p.chosen > right && logits[p.chosen] == logits[right]);
    assert_true(p.sampling.given && p.sampling.temp == 0);
    mutant_free(&p);
    p = run_with(&b, "S2", plain());
    assert_int_equal(p.chosen, 0);
    assert_true(p.sampling.temp > 0 && p.sampling.top_k == 0);
    mutant_free(&p);
    free_bench(&b);
}

// --- what it is made of -----------------------------------------------------------------------

static void test_decoders(void **state) {
    (void)state;
    static const TensorType types[] = {TYPE_F32,  TYPE_F16,  TYPE_BF16, TYPE_Q4_K,
                                       TYPE_Q6_K, TYPE_Q8_0, TYPE_Q5_K, TYPE_Q4_0};
    Rng rng = {1};
    uint8_t bytes[4 * 256 * 4];
    float got[4 * 256], want[4 * 256];
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        for (int k = 0; k < 200; k++) {
            for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)rng_u64(&rng);
            mutant_decode(0, types[t], bytes, got, 4 * 256);
            dequantize(types[t], bytes, want, 4 * 256);
            for (size_t i = 0; i < 4 * 256; i++) {
                if (isnan(want[i]) && isnan(got[i])) continue;
                same_floats(type_info(types[t])->name, &got[i], &want[i], 1);
            }
        }
    }
}

static void check_finite(const Tensor *t) {
    float row[512];
    for (uint64_t r = 0; r < t->dims[1]; r++) {
        dequantize(t->type, t->data + r * (t->bytes / t->dims[1]), row, t->dims[0]);
        for (uint64_t i = 0; i < t->dims[0]; i++) assert_true(isfinite(row[i]));
    }
}

static void check_scales(const Tensor *t, bool some) {
    size_t subnormal = 0;
    const size_t size = type_info(t->type)->block_bytes;
    const size_t at = t->type == TYPE_Q6_K ? 208 : 0;
    for (size_t i = 0; i + size <= t->bytes; i += size) {
        const uint16_t h = load_u16(t->data + i + at);
        subnormal += (h & 0x7c00) == 0 && (h & 0x3ff) != 0;
    }
    if ((subnormal > 0) != some) fail_msg("%s: %zu subnormal scales", t->name, subnormal);
}

static void test_tiny_models(void **state) {
    (void)state;
    for (size_t k = 0; k < N_KINDS; k++) {
        TinyModel a = new_model(&kinds[k], 5), b = new_model(&kinds[k], 5),
                  c = new_model(&kinds[k], 6);
        const Model *m = a.model;
        assert_memory_equal(m->token_embd->data, b.model->token_embd->data, m->token_embd->bytes);
        assert_memory_equal(m->layers[1].ffn_down->data, b.model->layers[1].ffn_down->data,
                            m->layers[1].ffn_down->bytes);
        assert_memory_not_equal(m->layers[1].k->data, c.model->layers[1].k->data,
                                m->layers[1].k->bytes);
        assert_memory_not_equal(m->layers[1].k->data, m->layers[0].k->data, m->layers[1].k->bytes);
        assert_null(m->gguf);
        assert_int_equal(m->token_embd->dims[1], m->h.n_vocab);
        assert_true(m->tied == (m->output == m->token_embd));
        check_finite(m->token_embd);
        check_finite(m->output);
        check_finite(m->layers[0].ffn_up);
        check_finite(m->layers[1].ffn_down);
        const TensorType type = kinds[k].type;
        if (type == TYPE_Q8_0 || type == TYPE_Q4_K || type == TYPE_Q6_K || type == TYPE_F16) {
            check_scales(m->layers[0].ffn_up, true);
            check_scales(m->token_embd, true);
            check_scales(m->layers[1].ffn_up, false);
            check_scales(m->layers[0].q, false);
            check_scales(m->output, false);
        }
        // Q9 needs padding before the first matrix that is multiplied.
        const size_t unaligned = m->token_embd->bytes % 32;
        assert_int_equal(mutant_gap(m, m->layers[0].q), unaligned ? 32 - unaligned : 0);
        tiny_free(&a);
        tiny_free(&b);
        tiny_free(&c);
    }
    TinyModel t;
    Error err = {0};
    assert_int_equal(tiny_new(MODEL_TINY_QUANT, TYPE_MXFP4, 0, 1, &t, &err), ERR_USAGE);
    assert_string_equal(err.text, "a tiny model cannot be made of the type MXFP4");
    assert_int_equal(tiny_new(MODEL_TINY_TEXT, TYPE_F32, 2048, 1, &t, &err), OK);
    assert_int_equal(t.model->h.n_vocab, 2048);
    tiny_free(&t);
    tiny_free(&t);
}

// The scores' spread, and what the residual, the epsilon and a tie need to be seen.
static void test_tiny_models_hide_nothing(void **state) {
    (void)state;
    for (size_t k = 0; k < N_KINDS; k++) {
        Bench b = new_bench(&kinds[k]);
        const TracePrompt *p = &b.clean[WHOLE];
        for (int l = 0; l < 2; l++) {
            const TraceArray *kq = array_of(p, COMP_KQ, l), *x = array_of(p, COMP_FFN_INP, l);
            double squares = 0, most = 0, smallest = INFINITY;
            size_t n = 0;
            for (size_t i = 0; i < floats_of(kq); i++) {
                squares += (double)kq->x[i] * kq->x[i], n += kq->x[i] != 0;
            }
            const double spread = sqrt(squares / (double)n);
            const bool hot = kinds[k].kind == MODEL_TINY_HOT;
            if (hot ? spread < 60 : spread < 1 || spread > 4) {
                fail_msg("%s: scores of layer %d spread by %.2f", kinds[k].name, l, spread);
            }
            for (size_t i = 0; i < floats_of(x); i++) most = fmax(most, fabs((double)x->x[i]));
            assert_true(most > 12);
            const TraceArray *embd = array_of(p, COMP_EMBD, -1);
            for (size_t r = 0; r < embd->rows; r++) {
                double mean = 0;
                for (size_t i = 0; i < embd->width; i++) {
                    mean += pow((double)embd->x[r * embd->width + i], 2) / (double)embd->width;
                }
                smallest = fmin(smallest, mean);
            }
            assert_true(smallest < 1e-2);
        }
        free_bench(&b);
    }
}

static void test_bad_calls(void **state) {
    (void)state;
    TinyModel t = new_model(&kinds[0], 1);
    TracePrompt p;
    Error err = {0};
    MutantOptions o = plain();
    static const int32_t good[] = {1, 2, 3}, high[] = {1, 99, 3}, low[] = {-1};
    static const size_t few[] = {1, 1}, many[] = {2, 2}, none[] = {3, 0}, huge[] = {SIZE_MAX, 4};
    static const size_t *const wrong[] = {few, many, none, huge};
    assert_int_equal(mutant_run(t.model, good, 0, &o, &p, &err), ERR_USAGE);
    assert_int_equal(mutant_run(t.model, high, 3, &o, &p, &err), ERR_USAGE);
    assert_string_equal(err.text, "token 1 is 99, expected 0 to 98");
    assert_int_equal(mutant_run(t.model, low, 1, &o, &p, &err), ERR_USAGE);
    for (int i = 0; i < 4; i++) {
        o.chunks = wrong[i], o.n_chunks = 2;
        assert_int_equal(mutant_run(t.model, good, 3, &o, &p, &err), ERR_USAGE);
        assert_null(p.arrays);
    }
    o.chunks = NULL;
    o.attn.k = TYPE_Q8_0;
    TinyModel odd = new_model(&kinds[2], 1);  // kv rows of 48
    assert_int_equal(mutant_run(odd.model, good, 3, &o, &p, &err), ERR_USAGE);
    assert_null(fault_by_id("P9"));
    assert_null(fault_at(-1));
    tiny_free(&odd);
    tiny_free(&t);
}

// --- the list ---------------------------------------------------------------------------------

// Every id of docs/verify.md, and of each what the self-test needs.
static void test_list(void **state) {
    (void)state;
    static const struct {
        char family;
        int n;
    } families[] = {{'T', 7}, {'E', 3}, {'Q', 9}, {'N', 6}, {'P', 6}, {'R', 8}, {'K', 5},
                    {'A', 9}, {'O', 2}, {'X', 3}, {'F', 5}, {'L', 6}, {'S', 4}};
    for (size_t k = 0; k < sizeof families / sizeof *families; k++) {
        for (int n = 1; n <= families[k].n; n++) {
            int found = 0;
            char id[4] = {families[k].family, (char)('0' + n), 0, 0};
            for (int i = 0; fault_at(i); i++) {
                const char *have = fault_at(i)->id;
                found += strncmp(have, id, 2) == 0 && (have[2] == 0 || have[2] == '.');
            }
            if (!found) fail_msg("%s is not in the list", id);
        }
    }
    int n = 0, equivalents = 0;
    for (const Fault *f; (f = fault_at(n)); n++) {
        assert_ptr_equal(fault_by_id(f->id), f);  // ids are distinct
        assert_in_range(f->code, 1, N_FAULT_CODES - 1);
        assert_in_range(f->argument, 0, 31);
        assert_true(f->models != 0 && f->models < 1u << N_TINY_MODELS);
        equivalents += f->equivalent;
        if (f->equivalent) continue;
        assert_true(f->expect_finding ? f->n_expect == 0 : f->n_expect > 0 && f->causes[0]);
    }
    assert_in_range(n, 90, 200);
    assert_int_equal(equivalents, 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clean_against_oracle),
        cmocka_unit_test(test_chunks_change_no_bit),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_roundings),
        cmocka_unit_test(test_faults_show_where_expected),
        cmocka_unit_test(test_faults_without_scores),
        cmocka_unit_test(test_equivalents),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_other_sequence),
        cmocka_unit_test(test_several_faults),
        cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_sampling_faults),
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_tiny_models),
        cmocka_unit_test(test_tiny_models_hide_nothing),
        cmocka_unit_test(test_bad_calls),
        cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
