// Prompt lookup: the index against a search of the whole sequence; and that answers are the same
// with it as without, to the bit, in fewer steps.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#define generate must_generate  // the engine's own has that name too
#include "api_fixture.h"
#undef generate
#include "engine/plumb_internal.h"
#include "recording_backend.h"

// --- the index -----------------------------------------------------------------------------------

// What lookup.h promises, by looking at all that was read.
typedef struct {
    int32_t tokens[4096];
    size_t len, match;
    int match_len;
} Slow;

// Where the token stands that followed the last n tokens when they came before; 0: nowhere.
static size_t slow_find(const Slow *s, int n) {
    for (size_t end = s->len - 1; end >= (size_t)n; end--) {
        if (memcmp(s->tokens + end - n, s->tokens + s->len - n, (size_t)n * 4) == 0) return end;
    }
    return 0;
}

static void slow_append(Slow *s, int32_t token) {
    const bool right = s->match && s->tokens[s->match] == token;
    s->match = right ? s->match + 1 : 0;
    s->match_len = right ? s->match_len + 1 : 0;
    s->tokens[s->len++] = token;
    for (int n = 3; n >= 1; n--) {
        if ((size_t)n >= s->len || s->match_len >= n) continue;
        const size_t found = slow_find(s, n);
        if (!found) continue;
        s->match = found;
        while ((size_t)s->match_len < s->match &&
               s->tokens[s->match - 1 - (size_t)s->match_len] ==
                   s->tokens[s->len - 1 - (size_t)s->match_len]) {
            s->match_len++;
        }
    }
    if (s->match_len > 16) s->match_len = 16;  // no more are told apart
}

static void finds_what_a_search_finds(void **state) {
    (void)state;
    static const int alphabets[] = {1, 2, 3, 5, 30, 1000, INT32_MAX};
    Lookup l = {0};
    Rng r = {11};
    Error err;
    for (size_t a = 0; a < sizeof alphabets / sizeof *alphabets; a++) {
        for (int copies = 0; copies < 2; copies++) {
            Slow s = {.len = 0};
            assert_int_equal(lookup_reset(&l, 3000, &err), OK);
            for (int i = 0; i < 3000; i++) {
                int32_t token = (int32_t)rng_below(&r, (uint64_t)alphabets[a]);
                // Half of it copies what came before, a few tokens at a time.
                if (copies && i > 50 && i / 20 % 2) token = s.tokens[i - 40 - i / 20 % 3];
                if (i % 3)
                    lookup_read(&l, token);
                else
                    lookup_accept(&l, token);
                slow_append(&s, token);
                if (l.match != s.match || l.match_len != s.match_len) {
                    fail_msg("%d tokens of %d: match %zu of %d, expected %zu of %d", i + 1,
                             alphabets[a], l.match, l.match_len, s.match, s.match_len);
                }
            }
            assert_memory_equal(l.tokens, s.tokens, 3000 * 4);
        }
    }
    lookup_free(&l);
}

// Learns of a text that repeats itself every `period` tokens.
static void read_period(Lookup *l, size_t n, int period) {
    Error err;
    assert_int_equal(lookup_reset(l, n, &err), OK);
    for (size_t i = 0; i < n; i++) lookup_accept(l, (int32_t)(i % (size_t)period));
}

static void drafts_go_on_past_the_end(void **state) {
    (void)state;
    static const int periods[] = {1, 2, 3, 7, 40};
    Lookup l = {0};
    int32_t draft[LOOKUP_MOST + 1];
    for (size_t p = 0; p < 5; p++) {
        read_period(&l, 500, periods[p]);
        for (size_t most = 0; most < 2 * LOOKUP_MOST; most += 1 + most / 5) {
            memset(draft, 0xff, sizeof draft);
            const size_t n = lookup_draft(&l, most, draft);
            assert_int_equal(n, most < LOOKUP_MOST ? most : LOOKUP_MOST);
            for (size_t i = 0; i < n; i++) {
                assert_int_equal(draft[i], (500 + (int)i) % periods[p]);
            }
            assert_int_equal(draft[n], -1);
        }
    }
    lookup_free(&l);
}

// Nothing to go by: an empty sequence, one token, tokens that never came before.
static void no_match_no_draft(void **state) {
    (void)state;
    Lookup l = {0};
    Error err;
    int32_t draft[LOOKUP_MOST];
    assert_int_equal(lookup_draft(&l, 5, draft), 0);
    assert_int_equal(lookup_reset(&l, 1, &err), OK);
    assert_int_equal(lookup_draft(&l, 5, draft), 0);
    lookup_read(&l, 7);
    assert_int_equal(lookup_draft(&l, 5, draft), 0);
    assert_int_equal(lookup_reset(&l, 100, &err), OK);
    for (int i = 0; i < 100; i++) {
        lookup_accept(&l, i);
        assert_int_equal(lookup_draft(&l, 5, draft), 0);
    }
    // After a reset nothing of it is left, in more room or in less.
    for (size_t n = 10; n <= 1000; n *= 100) {
        assert_int_equal(lookup_reset(&l, n, &err), OK);
        for (int i = 99; i >= 95; i--) lookup_read(&l, i);
        assert_int_equal(lookup_draft(&l, 5, draft), 0);
    }
    lookup_free(&l);
}

// Takes a token, and counts what was drafted in vain.
static int in_vain(Lookup *l, int32_t token) {
    int32_t draft[LOOKUP_MOST];
    const size_t n = lookup_draft(l, 8, draft);
    lookup_accept(l, token);
    return n && draft[0] != token ? (int)n : 0;
}

static void backs_off_and_comes_back(void **state) {
    (void)state;
    Lookup l = {0};
    Error err;
    int wrong = 0, made = 0;
    int32_t draft[LOOKUP_MOST];
    assert_int_equal(lookup_reset(&l, 20000, &err), OK);
    // Sixteen tokens that are known, and then always one that is not: a match that looks as good
    // as any, and is wrong.
    for (int i = 0; i < 200; i++) {
        for (int32_t k = 0; k < 16; k++) lookup_accept(&l, k);
        wrong += in_vain(&l, 1000 + i);
    }
    if (wrong > 150) fail_msg("%d tokens drafted in vain", wrong);
    int late = 0;
    for (int i = 0; i < 200; i++) {
        for (int32_t k = 0; k < 16; k++) lookup_accept(&l, k);
        late += in_vain(&l, 2000 + i);
    }
    assert_int_equal(late, 0);
    // Its own pause ends when such matches are right again, though none was tried.
    for (int i = 0; i < 100 && !made; i++) {
        for (int32_t k = 0; k < 17; k++) lookup_accept(&l, k);
        for (int32_t k = 0; k < 16; k++) lookup_accept(&l, k);
        made += (int)lookup_draft(&l, 8, draft);
        lookup_accept(&l, 16);
    }
    assert_true(made > 0);
    lookup_free(&l);
}

// Tokens whose n-grams of one have all the same place in the index: the newest of them are found,
// in no more than a few looks.
static void crowded(void **state) {
    (void)state;
    enum { N = 64 };
    Lookup l = {0};
    Error err;
    int32_t same[N], n = 0;
    assert_int_equal(lookup_reset(&l, 1000, &err), OK);
    for (uint32_t t = 1; n < N; t++) {
        if ((uint64_t)t * 0x9e3779b97f4a7c15u >> (64 - l.bits) == 17) same[n++] = (int32_t)t;
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            lookup_read(&l, same[i]);
            lookup_read(&l, same[i]);
            assert_true(l.match > 0 && l.match_len >= 1);
            assert_int_equal(l.tokens[l.match - 1], same[i]);
        }
    }
    lookup_free(&l);
}

// --- answers -------------------------------------------------------------------------------------

// The CPU, whose batches are counted.
static struct {
    int n_batches, most_rows, last_pos;  // since counting began
    bool end_drafted;                    // the token that ends an answer was in a draft, not last
} counted;

static Status counting_begin(Backend *b, const Batch *batch, Error *err) {
    counted.n_batches++;
    if (batch->pos[batch->n - 1] > counted.last_pos) counted.last_pos = batch->pos[batch->n - 1];
    if (batch->n > counted.most_rows) counted.most_rows = batch->n;
    for (int i = 1; i + 1 < batch->n && batch->n_out == batch->n; i++)
        counted.end_drafted |= batch->token[i] == 2;
    return cpu_ops()->begin(b, batch, err);
}

static const BackendOps *counting_ops(bool batch_invariant) {
    static BackendOps ops;
    ops = *cpu_ops();
    ops.begin = counting_begin;
    ops.batch_invariant = batch_invariant;
    return &ops;
}

static plumb_model *model_on(const char *path, const BackendOps *ops) {
    plumb_model *m = model_of(path);
    const BackendConfig config = {.n_threads = 1};
    Error err;
    device_model_close(m->device);
    m->device = NULL;
    if (device_model_open(m->model, ops, &config, &m->device, &err)) fail_msg("%s", err.text);
    return m;
}

typedef struct {
    int32_t prompt[512];
    size_t n;
    plumb_generation g;
    int n_ctx, batch, stop_at, interrupt_at;  // of calls of on_text
    const char *type_kv;
} Case;

static Case case_of(plumb_model *m, const char *text, plumb_generation g) {
    plumb_error err;
    Case c = {.g = g, .n_ctx = 256};
    if (plumb_tokenize(m, text, strlen(text), PLUMB_PARSE_SPECIAL, c.prompt, 512, &c.n, &err))
        fail_msg("%s", err.text);
    assert_true(c.n <= 512);
    return c;
}

enum { MOST_MADE = 1024, MOST_TOP = 3 };

// All that an answer is.
typedef struct {
    plumb_session *s;
    int stop_at, interrupt_at;
    char text[16384];
    size_t len, ends[MOST_MADE], n_calls;  // of on_text: where the text ended then
    int32_t tokens[MOST_MADE];
    plumb_logprob chosen[MOST_MADE], top[MOST_MADE * MOST_TOP];
    plumb_result r;
    int n_batches, most_rows, last_pos, n_after;  // tokens in the cache afterwards
    float *next;  // logits of a token that comes after it; NULL: no room
} Answer;

static int keep_text(void *user, const char *text, size_t len) {
    Answer *a = user;
    assert_true(a->len + len <= sizeof a->text && a->n_calls < MOST_MADE);
    memcpy(a->text + a->len, text, len);
    a->ends[a->n_calls++] = a->len += len;
    if ((int)a->n_calls == a->interrupt_at) plumb_interrupt(a->s);
    return (int)a->n_calls != a->stop_at;
}

static Answer *answer(plumb_model *m, const Case *c, int lookup_max) {
    Answer *a = calloc(1, sizeof *a);
    assert_non_null(a);
    const plumb_session_options o = {c->n_ctx, c->batch, c->type_kv, c->type_kv};
    plumb_generation g = c->g;
    plumb_error err;
    a->s = plumb_session_open(m, &o, &err);
    if (!a->s) fail_msg("%s", err.text);
    a->stop_at = c->stop_at, a->interrupt_at = c->interrupt_at;
    g.lookup_max = lookup_max, g.on_text = keep_text, g.user = a;
    assert_int_equal(plumb_eval(a->s, c->prompt, c->n, NULL, &err), PLUMB_OK);
    memset(&counted, 0, sizeof counted);
    plumb_result r = must_generate(a->s, c->prompt, c->n, &g);
    assert_true(r.n_tokens <= MOST_MADE && g.n_logprobs <= MOST_TOP);
    a->n_batches = counted.n_batches, a->most_rows = counted.most_rows;
    a->last_pos = counted.last_pos;
    assert_int_equal(a->len, r.text_len);
    assert_memory_equal(a->text, r.text, a->len);
    if (r.n_tokens) memcpy(a->tokens, r.tokens, r.n_tokens * sizeof *r.tokens);
    if (r.chosen) memcpy(a->chosen, r.chosen, r.n_tokens * sizeof *r.chosen);
    if (r.top) {
        memcpy(a->top, r.top, r.n_tokens * (size_t)g.n_logprobs * sizeof *r.top);
    }
    a->n_after = plumb_session_n_tokens(a->s);
    const float *logits;
    if (plumb_eval(a->s, story + 2, 1, &logits, &err) == PLUMB_OK) {
        const size_t bytes = (size_t)m->model->h.n_vocab * sizeof *logits;
        a->next = room(bytes);
        memcpy(a->next, logits, bytes);
    }
    a->r = r;
    plumb_session_close(a->s);
    return a;
}

static void answer_free(Answer *a) {
    free(a->next);
    free(a);
}

// The same answer, shown in the same pieces, and the same cache behind it.
static void same_answer(const char *what, const Answer *a, const Answer *b, int n_vocab) {
    const plumb_result *x = &a->r, *y = &b->r;
    if (x->n_tokens != y->n_tokens || x->finish != y->finish) {
        fail_msg("%s: %zu tokens, then %s; expected %zu, then %s", what, x->n_tokens,
                 plumb_finish_name(x->finish), y->n_tokens, plumb_finish_name(y->finish));
    }
    for (size_t i = 0; i < x->n_tokens; i++) {
        if (a->tokens[i] != b->tokens[i]) {
            fail_msg("%s: token %zu of %zu is %d, expected %d", what, i, x->n_tokens, a->tokens[i],
                     b->tokens[i]);
        }
    }
    assert_int_equal(a->len, b->len);
    assert_memory_equal(a->text, b->text, a->len);
    assert_int_equal(a->n_calls, b->n_calls);
    assert_memory_equal(a->ends, b->ends, sizeof a->ends);
    assert_memory_equal(a->chosen, b->chosen, sizeof a->chosen);
    assert_memory_equal(a->top, b->top, sizeof a->top);
    if (a->n_after != b->n_after)
        fail_msg("%s: %d tokens in the cache, expected %d", what, a->n_after, b->n_after);
    assert_int_equal(a->next == NULL, b->next == NULL);
    if (a->next) same_floats(what, a->next, b->next, (size_t)n_vocab);
}

static struct {
    size_t n_drafted, n_accepted;
    int most_rows;
    bool end_drafted;
} all;  // that check_case saw

// Under a sanitizer fewer of them are tried.
static bool is_short(void) {
    return getenv("PLUMB_SANITIZE") != NULL;
}

// With drafts of every length as without, and all steps accounted for.
static void check_case(const char *what, plumb_model *m, const Case *c) {
    static const int lengths[] = {1, 3, PLUMB_LOOKUP_DEFAULT, LOOKUP_MOST};
    Answer *want = answer(m, c, 0);
    assert_int_equal(want->r.n_drafted, 0);
    assert_int_equal(want->r.n_accepted, 0);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        if (is_short() && i % 2 == 0) continue;
        char name[128];
        snprintf(name, sizeof name, "%s, drafts of %d", what, lengths[i]);
        Answer *got = answer(m, c, lengths[i]);
        const plumb_result *r = &got->r;
        same_answer(name, got, want, m->model->h.n_vocab);
        // Every token that is accepted spares a step, and nothing else does.
        assert_int_equal(r->n_decoded + r->n_accepted, want->r.n_decoded);
        assert_int_equal(got->n_batches - want->n_batches,
                         (int)r->n_decoded - (int)want->r.n_decoded);
        assert_true(r->n_accepted <= r->n_drafted);
        assert_true(got->most_rows <= 1 + lengths[i]);
        assert_true(c->batch == 0 || got->most_rows <= c->batch);
        if (c->g.max_tokens > 0)  // nobody needs what would come after the last
            assert_true(got->last_pos < (int)c->n + c->g.max_tokens - 1);
        all.n_drafted += r->n_drafted, all.n_accepted += r->n_accepted;
        all.end_drafted |= counted.end_drafted;
        if (got->most_rows > all.most_rows) all.most_rows = got->most_rows;
        answer_free(got);
    }
    answer_free(want);
}

static const char once[] = "Once upon a time";
static const char owl[] =
    "The owl was sad. The fox was glad. The owl was sad. The fox was glad. The owl was sad. The";
#define SUM "<|user|>\nWhat is 10 times 1?</s>\n<|assistant|>\n"
#define TEN "10 times 1 is 10.</s>\n"
static const char sums[] = SUM TEN SUM TEN SUM;  // the demo model goes on and on with it

static void samplers(void **state) {
    (void)state;
    plumb_model *m = model_on(DEMO, counting_ops(true));
    static const char *const prompts[] = {once, owl, sums};
    static const plumb_logit_bias bias[] = {{2, -HUGE_VALF}, {1488, 2}, {300, -1.5f}};
    memset(&all, 0, sizeof all);
    for (int kind = 0; kind < 8; kind++) {
        plumb_generation g = kind ? plumb_generation_default() : greedy(0);
        plumb_sampling *s = &g.sampling;
        g.max_tokens = is_short() ? 30 : 60, g.ignore_end = 1;
        s->seed = kind;
        if (kind == 2) s->temperature = 1.5f, s->top_k = 0, s->min_p = 0, s->top_p = 1;
        if (kind == 3) s->repeat_penalty = 1.3f, s->repeat_last_n = 5;
        if (kind == 4) s->presence_penalty = 0.7f, s->frequency_penalty = 0.4f;
        if (kind == 4) s->repeat_last_n = -1;
        if (kind == 5) s->typical_p = 0.8f, g.n_logprobs = 3;
        if (kind == 6) s->logit_bias = bias, s->n_logit_bias = 3, g.keep_special = 1;
        if (kind == 7) s->temperature = 0.3f, g.n_logprobs = 1, g.ignore_end = 0;
        for (int p = 0; p < 3; p++) {
            char what[64];
            snprintf(what, sizeof what, "sampler %d, prompt %d", kind, p);
            const Case c = case_of(m, prompts[p], g);
            check_case(what, m, &c);
        }
    }
    // Drafts were both right and wrong, or this has shown nothing.
    assert_true(all.n_accepted > 100 && all.n_drafted > all.n_accepted + 30);
    plumb_model_close(m);
}

static void ends(void **state) {
    (void)state;
    plumb_model *m = model_on(DEMO, counting_ops(true));
    memset(&all, 0, sizeof all);
    // The end of the answer stands in drafts, and is not the last there.
    Case c = case_of(m, sums, greedy(-1));
    check_case("the end", m, &c);
    assert_true(all.end_drafted && all.n_accepted > 0);
    c.g.ignore_end = 1, c.g.max_tokens = 60;
    check_case("past the end", m, &c);
    c = case_of(m, sums, greedy(0));
    c.g.ignore_end = 1;
    for (int n = 0; n < 20; n += 1 + n / 3) {
        c.g.max_tokens = n;
        check_case("a limit", m, &c);
    }
    static const char *const stops[] = {"never", "is 10", "0 times", "10.", "ssist", "mes 1"};
    c.g.max_tokens = 50;
    for (size_t i = 0; i < 5; i++) {
        c.g.stop = stops + i, c.g.n_stop = i == 4 ? 2 : 1;
        check_case(stops[i], m, &c);
    }
    c.g.n_stop = 0;
    for (int at = 1; at < 30; at += 1 + at / 3) {
        c.stop_at = at, c.interrupt_at = 0;
        check_case("no more is wanted", m, &c);
        c.stop_at = 0, c.interrupt_at = at;
        check_case("an interrupt", m, &c);
    }
    plumb_model_close(m);
}

static void small_contexts_and_batches(void **state) {
    (void)state;
    plumb_model *m = model_on(DEMO, counting_ops(true));
    memset(&all, 0, sizeof all);
    Case c = case_of(m, sums, greedy(-1));
    c.g.ignore_end = 1;
    for (int more = 0; more < 24; more += 1 + more / 6) {
        c.n_ctx = (int)c.n + more;
        check_case("a context", m, &c);
    }
    c.n_ctx = 200, c.g.max_tokens = 50;
    static const int batches[] = {1, 2, 3, 4, 8, 100};
    for (size_t i = 0; i < 6; i++) {
        c.batch = batches[i];
        memset(&all, 0, sizeof all);
        check_case("a batch", m, &c);
        assert_int_equal(all.n_drafted > 0, batches[i] > 1);
        if (batches[i] == 4) assert_int_equal(all.most_rows, 4);
    }
    c.batch = 0, c.type_kv = "q8_0";
    check_case("a cache of q8_0", m, &c);
    c.n = 1, c.type_kv = NULL, c.g.max_tokens = 100;
    check_case("a prompt of one token", m, &c);
    c.n_ctx = 1;
    check_case("a context of one token", m, &c);
    // So much of the same that a draft is longer than the rows which give logits at a time.
    c = case_of(m, sums, greedy(300));
    c.g.ignore_end = 1, c.n_ctx = 512;
    const plumb_logit_bias only[] = {{300, 80}, {301, 80.5f}};  // a dull answer
    c.g.sampling.logit_bias = only, c.g.sampling.n_logit_bias = 2;
    check_case("a dull answer", m, &c);
    assert_int_equal(all.most_rows, 1 + LOOKUP_MOST);
    plumb_model_close(m);
}

static void other_models(void **state) {
    (void)state;
    static const char *const paths[] = {DEMO_F16, "tests/golden/models/demo-Q8_0.gguf",
                                        "tests/golden/arch/qwen3-1.gguf"};
    for (size_t i = 0; i < 3; i++) {
        plumb_model *m = model_on(paths[i], counting_ops(true));
        Case c = {.g = greedy(60), .n = 30, .n_ctx = 128};
        memset(&all, 0, sizeof all);
        for (int k = 0; k < 30; k++) c.prompt[k] = 3 + k % 6 * 5;
        c.g.ignore_end = 1;
        check_case(paths[i], m, &c);
        c.g.sampling = plumb_sampling_default();
        c.g.sampling.seed = 4;
        check_case(paths[i], m, &c);
        assert_true(all.n_drafted > 0);
        plumb_model_close(m);
    }
}

// Text that repeats itself takes far fewer steps; text that does not is not paid for with drafts.
static void steps_are_spared(void **state) {
    (void)state;
    plumb_model *m = model_on(DEMO, counting_ops(true));
    Case c = case_of(m, sums, greedy(120));
    c.g.ignore_end = 1;
    Answer *without = answer(m, &c, 0), *with = answer(m, &c, PLUMB_LOOKUP_DEFAULT);
    assert_int_equal(without->n_batches, 120);  // one reads the prompt's last token
    assert_true(with->n_batches < 60);
    assert_true(with->r.n_accepted * 2 > with->r.n_drafted);
    answer_free(without);
    answer_free(with);
    c.g.sampling = (plumb_sampling){.temperature = 20, .top_p = 1, .typical_p = 1, .seed = 1};
    c.g.sampling.repeat_penalty = 1;
    with = answer(m, &c, PLUMB_LOOKUP_DEFAULT);
    assert_true(with->r.n_drafted < 12);  // what the guess of the start was worth
    answer_free(with);
    plumb_model_close(m);
}

static void steps_that_are_recorded(void **state) {
    (void)state;
    plumb_model *m = model_on(DEMO, counting_ops(true));
    Case c = case_of(m, sums, plumb_generation_default());
    c.g.ignore_end = 1, c.g.max_tokens = 100, c.g.sampling.seed = 2;
    Answer *want = answer(m, &c, 0);
    plumb_model *recording = model_on(DEMO, recording_ops(RECORDS));
    Answer *got = answer(recording, &c, 5);
    same_answer("recorded", got, want, m->model->h.n_vocab);
    assert_true(recorder.n_records >= 3 && recorder.n_replays > 20);  // steps of several sizes
    plumb_model_close(recording);
    plumb_model_close(m);
    answer_free(want);
    answer_free(got);
}

static void a_backend_that_would_change_the_text(void **state) {
    (void)state;
    plumb_model *m = model_on(DEMO, counting_ops(false));
    plumb_session *s = session_of(m, 64);
    plumb_generation g = greedy(5);
    plumb_result r;
    plumb_error err;
    assert_int_equal(must_generate(s, story, 5, &g).n_tokens, 5);
    g.lookup_max = 1;
    assert_int_equal(plumb_generate(s, story, 5, &g, &r, &err), PLUMB_UNAVAILABLE);
    assert_non_null(strstr(err.text, "--lookup"));
    assert_non_null(strstr(err.text, "cpu"));
    assert_null(strchr(err.text, '\n'));
    plumb_session_close(s);
    plumb_model_close(m);
}

static void lengths_that_make_no_sense(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 64);
    plumb_generation g = greedy(5);
    plumb_result r;
    plumb_error err;
    static const int bad[] = {-1, LOOKUP_MOST + 1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", bad[i]);
        g.lookup_max = bad[i];
        assert_int_equal(plumb_generate(p.s, story, 5, &g, &r, &err), PLUMB_USAGE);
        assert_non_null(strstr(err.text, number));
    }
    close_pair(&p);
}

// One session, with and without in turn: a conversation goes on from the cache alike.
static void chats(void **state) {
    (void)state;
    static const char *const questions[] = {"Hello", "What is 7 + 8?", "What is 7 + 8?", "Hello"};
    plumb_model *m = model_of(DEMO);
    plumb_session *s[3] = {session_of(m, 512), session_of(m, 512), session_of(m, 512)};
    plumb_error err;
    size_t n_accepted = 0;
    for (int turn = 0; turn < 4; turn++) {
        plumb_result r[3];
        for (int i = 0; i < 3; i++) {  // never, always, in turn
            plumb_generation g = plumb_generation_default();
            g.sampling.seed = 3, g.max_tokens = 60;
            g.lookup_max = i == 1 || (i == 2 && turn % 2) ? PLUMB_LOOKUP_DEFAULT : 0;
            assert_int_equal(plumb_chat_add(s[i], "user", questions[turn], &err), PLUMB_OK);
            if (plumb_chat_reply(s[i], &g, &r[i], &err)) fail_msg("%s", err.text);
            assert_string_equal(r[i].text, r[0].text);
            assert_int_equal(r[i].n_cached, r[0].n_cached);
            assert_int_equal(plumb_session_n_tokens(s[i]), plumb_session_n_tokens(s[0]));
            n_accepted += r[i].n_accepted;
        }
    }
    assert_true(n_accepted > 0);
    for (int i = 0; i < 3; i++) plumb_session_close(s[i]);
    plumb_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_a_search_finds),
        cmocka_unit_test(drafts_go_on_past_the_end),
        cmocka_unit_test(no_match_no_draft),
        cmocka_unit_test(backs_off_and_comes_back),
        cmocka_unit_test(crowded),
        cmocka_unit_test(samplers),
        cmocka_unit_test(ends),
        cmocka_unit_test(small_contexts_and_batches),
        cmocka_unit_test(other_models),
        cmocka_unit_test(steps_are_spared),
        cmocka_unit_test(steps_that_are_recorded),
        cmocka_unit_test(a_backend_that_would_change_the_text),
        cmocka_unit_test(lengths_that_make_no_sense),
        cmocka_unit_test(chats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
