// plumb.h as a program uses it: answers that reference implementations give too, every way an answer
// can end, and everything that can be asked for wrongly. Chat is in test_chat.c.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "api_fixture.h"

#if HAVE_JANSSON
#include <jansson.h>
#endif

// --- counting allocations ------------------------------------------------------------------------

#if defined(__GLIBC__) && !UNDER_ASAN
#define COUNTS_ALLOCATIONS 1
static atomic_long n_allocations;  // of every thread

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);

void *malloc(size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __libc_realloc(p, size);
}

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset) {
    atomic_fetch_add(&n_allocations, 1);
    return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, offset);
}
#else
#define COUNTS_ALLOCATIONS 0
#endif

#if COUNTS_ALLOCATIONS
static long counted_first, counted_last;  // at the first and the latest call of on_text

static void count_now(void) {
    counted_last = atomic_load(&n_allocations);
    if (counted_first < 0) counted_first = counted_last;
}
#endif

// --- known answers -------------------------------------------------------------------------------

#if HAVE_JANSSON
static size_t ids_of(const json_t *list, int32_t *ids, size_t most) {
    size_t n = json_array_size(list);
    assert_true(n > 0 && n <= most);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}
#endif

static void greedy_answers_of_transformers(void **state) {
    (void)state;
#if HAVE_JANSSON
    json_error_t e;
    json_t *all = json_load_file("tests/golden/demo-golden.json", 0, &e);
    if (!all) fail_msg("%s", e.text);
    Pair p = open_pair(DEMO_F16, 0);
    const char *name;
    json_t *prompt;
    int n_prompts = 0;
    json_object_foreach(all, name, prompt) {
        int32_t ids[256], want[1024];
        size_t n = ids_of(json_object_get(prompt, "ids"), ids, 256);
        size_t n_want = ids_of(json_object_get(prompt, "greedy_ids"), want, 1024);
        const char *text = json_string_value(json_object_get(prompt, "greedy_text"));
        plumb_generation g = greedy((int)n_want);
        plumb_result r = generate(p.s, ids, n, &g);
        if (r.n_tokens != n_want) fail_msg("%s: %zu tokens, not %zu", name, r.n_tokens, n_want);
        for (size_t i = 0; i < n_want; i++) {
            if (r.tokens[i] != want[i]) {
                fail_msg("%s: token %zu is %d, expected %d", name, i, (int)r.tokens[i],
                         (int)want[i]);
            }
        }
        bool ended = plumb_is_end(p.m, want[n_want - 1]);
        assert_int_equal(r.finish, ended ? PLUMB_FINISH_STOP : PLUMB_FINISH_LENGTH);
        assert_string_equal(r.text + (r.text[0] == ' ' && text[0] != ' '), text);
        n_prompts++;
    }
    assert_int_equal(n_prompts, 5);
    close_pair(&p);
    json_decref(all);
#else
    print_message("skipped: this build has no jansson to read demo-golden.json\n");
    skip();
#endif
}

static void greedy_story_of_stories260k(void **state) {
    (void)state;
    skip_without(STORIES);
    static const char want[] =
        ", there was a little girl named Lily. She loved to play outside in the park. One day, she "
        "saw a big, red ball. She wanted to play with it, but it was too high.";
    Pair p = open_pair(STORIES, 0);
    int32_t ids[256];
    size_t n = tokenize(p.m, "Once upon a time", ids);
    plumb_generation g = greedy(120);
    plumb_result r = generate(p.s, ids, n, &g);
    if (r.text_len < strlen(want) || memcmp(r.text, want, strlen(want)) != 0) {
        fail_msg("it says: %s", r.text);
    }
    close_pair(&p);
}

// --- how an answer ends --------------------------------------------------------------------------

static void lengths(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 128);
    static const int most[] = {0, 1, 2, 7};
    for (size_t i = 0; i < 4; i++) {
        plumb_generation g = greedy(most[i]);
        plumb_result r = generate(p.s, story, 5, &g);
        assert_int_equal(r.n_tokens, most[i]);
        assert_int_equal(r.finish, PLUMB_FINISH_LENGTH);
        assert_int_equal(r.text_len == 0, most[i] == 0);
        assert_null(r.chosen);
        assert_null(r.top);
        assert_true(plumb_session_n_tokens(p.s) >= 5);
    }
    // Without a limit the answer ends by itself; the ending token is among the tokens, not the text.
    static const int32_t hello[] = {1, 1489, 1493, 1488, 13,   2010, 411, 1981,
                                    2, 1977, 13,   1487, 1495, 1488, 13};
    plumb_generation g = greedy(-1);
    plumb_result r = generate(p.s, hello, 15, &g);
    assert_int_equal(r.finish, PLUMB_FINISH_STOP);
    assert_true(plumb_is_end(p.m, r.tokens[r.n_tokens - 1]));
    assert_null(strstr(r.text, "</s>"));
    size_t n = r.n_tokens;
    char text[256];
    snprintf(text, sizeof text, "%s", r.text);
    g.keep_special = 1;
    r = generate(p.s, hello, 15, &g);
    assert_int_equal(r.n_tokens, n);
    g.keep_special = 0, g.ignore_end = 1, g.max_tokens = (int)n + 5;
    r = generate(p.s, hello, 15, &g);
    assert_int_equal(r.n_tokens, n + 5);
    assert_int_equal(r.finish, PLUMB_FINISH_LENGTH);
    assert_memory_equal(r.text, text, strlen(text));
    close_pair(&p);
}

static void the_context_fills(void **state) {
    (void)state;
    static const int contexts[] = {5, 6, 7, 24, 64};
    plumb_model *m = model_of(DEMO);
    for (size_t i = 0; i < 5; i++) {
        plumb_session *s = session_of(m, contexts[i]);
        assert_int_equal(plumb_session_n_ctx(s), contexts[i]);
        plumb_generation g = greedy(-1);
        g.ignore_end = 1;
        plumb_result r = generate(s, story, 5, &g);
        assert_int_equal(r.finish, PLUMB_FINISH_CONTEXT);
        // The last token needs no place of its own.
        int room_left = contexts[i] - 5;
        assert_true((int)r.n_tokens == room_left || (int)r.n_tokens == room_left + 1);
        assert_true(plumb_session_n_tokens(s) <= contexts[i]);
        plumb_session_close(s);
    }
    // A prompt that does not fit: both numbers, and the session is still good.
    plumb_session *s = session_of(m, 4);
    plumb_error err;
    plumb_result r;
    assert_int_equal(plumb_generate(s, story, 5, NULL, &r, &err), PLUMB_FAILED);
    assert_int_equal(err.status, PLUMB_FAILED);
    if (!strstr(err.text, "5") || !strstr(err.text, "4")) fail_msg("%s", err.text);
    plumb_generation g = greedy(1);
    assert_int_equal(generate(s, story, 4, &g).n_tokens, 1);
    assert_int_equal(plumb_eval(s, story, 5, NULL, &err), PLUMB_FAILED);
    plumb_session_close(s);
    s = session_of(m, 1);
    g.max_tokens = -1;
    r = generate(s, story, 1, &g);
    assert_int_equal(r.finish, PLUMB_FINISH_CONTEXT);
    assert_true(r.n_tokens <= 1);
    plumb_session_close(s);
    plumb_model_close(m);
}

static void callbacks_and_interrupts(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 256);
    Watch w = {.s = p.s};
    plumb_generation g = greedy(60);
    g.on_text = watch_text, g.on_prefill = watch_prefill, g.user = &w;
    plumb_result r = generate(p.s, story, 5, &g);
    assert_int_equal(w.len, r.text_len);
    assert_memory_equal(w.text, r.text, w.len);
    char whole[4096];
    memcpy(whole, w.text, w.len);
    const size_t whole_len = w.len;
    assert_true(w.calls > 20);
    assert_true(w.prefill_total == 0 || (w.prefill_total == 5 && w.prefill_done == 5));
    for (int way = 0; way < 2; way++) {
        for (int at = 1; at < 12; at += 5) {
            w = (Watch){.s = p.s};
            if (way)
                w.interrupt_at = at;
            else
                w.stop_at = at;
            r = generate(p.s, story, 5, &g);
            assert_int_equal(r.finish, PLUMB_FINISH_INTERRUPTED);
            assert_int_equal(w.calls, at);
            assert_true(r.text_len == w.len && w.len < whole_len);
            assert_memory_equal(r.text, whole, w.len);
        }
    }
    // An interrupt before the start is forgotten at the start.
    w = (Watch){.s = p.s};
    plumb_interrupt(p.s);
    r = generate(p.s, story, 5, &g);
    assert_int_equal(r.finish, PLUMB_FINISH_LENGTH);
    assert_int_equal(w.len, whole_len);
    assert_memory_equal(w.text, whole, whole_len);
    close_pair(&p);
}

static void stop_texts(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 256);
    Watch w = {.s = p.s};
    plumb_generation g = greedy(60);
    char whole[4096];
    snprintf(whole, sizeof whole, "%s", generate(p.s, story, 5, &g).text);
    // Every piece of the answer as a stop text.
    g.on_text = watch_text, g.user = &w;
    for (size_t at = 1; at + 4 < strlen(whole); at += 9) {
        char piece[5];
        memcpy(piece, whole + at, 4);
        piece[4] = 0;
        const char *const stop[] = {"never in it", piece};
        g.stop = stop, g.n_stop = 2;
        w.len = 0, w.calls = 0;
        plumb_result r = generate(p.s, story, 5, &g);
        size_t first = (size_t)(strstr(whole, piece) - whole);
        assert_int_equal(r.finish, PLUMB_FINISH_STOP);
        assert_int_equal(r.text_len, first);
        assert_memory_equal(r.text, whole, first);
        assert_int_equal(w.len, first);  // and no more was shown
    }
    close_pair(&p);
}

// --- sampling through the API --------------------------------------------------------------------

static void seeds(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 256);
    plumb_generation g = plumb_generation_default();
    g.max_tokens = 40, g.sampling.seed = 7;
    char first[2048], text[2048];
    plumb_result r = generate(p.s, story, 5, &g);
    assert_true(r.seed == 7);
    snprintf(first, sizeof first, "%s", r.text);
    r = generate(p.s, story, 5, &g);
    assert_string_equal(r.text, first);
    g.sampling.seed = 8;
    r = generate(p.s, story, 5, &g);
    assert_string_not_equal(r.text, first);
    g.sampling.seed = -1;
    r = generate(p.s, story, 5, &g);
    snprintf(text, sizeof text, "%s", r.text);
    g.sampling.seed = r.seed;
    assert_true(r.seed != -1);
    r = generate(p.s, story, 5, &g);  // a new seed can be used again
    assert_string_equal(r.text, text);
    // Penalties see the prompt: with a strong one no token of it comes again.
    g = greedy(30);
    g.ignore_end = 1;
    g.sampling.presence_penalty = 1000, g.sampling.repeat_last_n = -1;
    r = generate(p.s, story, 5, &g);
    for (size_t i = 0; i < r.n_tokens; i++) {
        for (size_t k = 0; k < i; k++) assert_true(r.tokens[k] != r.tokens[i]);
        for (size_t k = 0; k < 5; k++) assert_true(story[k] != r.tokens[i]);
    }
    close_pair(&p);
}

static double log_softmax(const float *logits, int n, int32_t id) {
    double top = -HUGE_VAL, sum = 0;
    for (int i = 0; i < n; i++) top = fmax(top, (double)logits[i]);
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - top);
    return (double)logits[id] - top - log(sum);
}

static void log_probabilities(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 256);
    plumb_generation g = plumb_generation_default();
    g.max_tokens = 20, g.n_logprobs = 3, g.sampling.seed = 3, g.sampling.temperature = 1.5f;
    plumb_result r = generate(p.s, story, 5, &g);
    assert_non_null(r.chosen);
    assert_non_null(r.top);
    plumb_session *other = session_of(p.m, 64);
    const float *logits;
    plumb_error err;
    assert_int_equal(plumb_eval(other, story, 5, &logits, &err), PLUMB_OK);
    for (size_t i = 0; i < r.n_tokens; i++) {
        assert_int_equal(r.chosen[i].id, r.tokens[i]);
        double want = log_softmax(logits, p.n_vocab, r.tokens[i]);
        if (fabs((double)r.chosen[i].logprob - want) > 1e-5) {
            fail_msg("token %zu: %g, expected %g", i, (double)r.chosen[i].logprob, want);
        }
        const plumb_logprob *top = r.top + 3 * i;
        for (int k = 0; k < 3; k++) {
            assert_true(fabs((double)top[k].logprob - log_softmax(logits, p.n_vocab, top[k].id)) <
                        1e-5);
            if (k) assert_true(top[k].logprob <= top[k - 1].logprob);
        }
        int better = 0;
        for (int v = 0; v < p.n_vocab; v++) better += logits[v] > logits[top[2].id];
        assert_int_equal(better, 2);
        assert_int_equal(plumb_eval(other, &r.tokens[i], 1, &logits, &err), PLUMB_OK);
    }
    plumb_session_close(other);
    close_pair(&p);
}

// --- the low level -------------------------------------------------------------------------------

static void eval_and_rewind(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 64);
    plumb_error err;
    const float *logits;
    float *first = room((size_t)p.n_vocab * 4);
    assert_int_equal(plumb_session_n_tokens(p.s), 0);
    assert_int_equal(plumb_eval(p.s, story, 5, &logits, &err), PLUMB_OK);
    memcpy(first, logits, (size_t)p.n_vocab * 4);
    assert_int_equal(plumb_session_n_tokens(p.s), 5);
    plumb_rewind(p.s, 2);
    assert_int_equal(plumb_session_n_tokens(p.s), 2);
    assert_int_equal(plumb_eval(p.s, story + 2, 2, NULL, &err), PLUMB_OK);
    assert_int_equal(plumb_eval(p.s, story + 4, 1, &logits, &err), PLUMB_OK);
    same_floats("after a rewind", logits, first, (size_t)p.n_vocab);
    plumb_rewind(p.s, 1000);
    assert_int_equal(plumb_session_n_tokens(p.s), 5);
    // Greedy through eval is what plumb_generate makes.
    plumb_generation g = greedy(10);
    plumb_session *other = session_of(p.m, 64);
    plumb_result r = generate(other, story, 5, &g);
    for (size_t i = 0; i < r.n_tokens; i++) {
        int best = 0;
        for (int v = 1; v < p.n_vocab; v++) best = logits[v] > logits[best] ? v : best;
        assert_int_equal(best, r.tokens[i]);
        assert_int_equal(plumb_eval(p.s, &r.tokens[i], 1, &logits, &err), PLUMB_OK);
    }
    // What the cache shares with a prompt is not read again.
    r = generate(other, story, 5, &g);
    assert_true(r.n_cached == 4);  // the last one is: its logits are needed
    r = generate(other, story, 3, &g);
    assert_true(r.n_cached == 2);
    plumb_session_close(other);
    free(first);
    close_pair(&p);
}

static void wrong_arguments(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 64);
    plumb_error err;
    plumb_result r;
    const int32_t bad[][2] = {{1, -1}, {1, 2048}, {INT32_MAX, 1}, {INT32_MIN, 1}};
    assert_int_equal(p.n_vocab, 2048);
    for (size_t i = 0; i < 4; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", (int)(bad[i][i < 2]));
        assert_int_equal(plumb_generate(p.s, bad[i], 2, NULL, &r, &err), PLUMB_USAGE);
        if (!strstr(err.text, number)) fail_msg("no %s in: %s", number, err.text);
        assert_int_equal(plumb_eval(p.s, bad[i], 2, NULL, &err), PLUMB_USAGE);
        assert_int_equal(plumb_eval(p.s, bad[i], 2, NULL, NULL), PLUMB_USAGE);
        assert_int_equal(plumb_session_n_tokens(p.s), 0);
    }
    err.text[0] = 0;
    assert_int_not_equal(plumb_generate(p.s, story, 0, NULL, &r, &err), PLUMB_OK);
    assert_true(strlen(err.text) > 5);  // no prompt: an error, that says so
    plumb_generation g = greedy(3);
    g.sampling.top_p = 2;
    assert_int_equal(plumb_generate(p.s, story, 5, &g, &r, &err), PLUMB_USAGE);
    assert_non_null(strstr(err.text, "top"));
    const plumb_logit_bias bias = {5000, 1};
    g = greedy(3);
    g.sampling.logit_bias = &bias, g.sampling.n_logit_bias = 1;
    assert_int_equal(plumb_generate(p.s, story, 5, &g, &r, &err), PLUMB_USAGE);
    g = greedy(3);
    g.n_logprobs = -1;
    assert_int_equal(plumb_generate(p.s, story, 5, &g, &r, &err), PLUMB_USAGE);
    g.n_logprobs = 1 << 30;
    plumb_status st = plumb_generate(p.s, story, 5, &g, &r, &err);
    assert_true(st == PLUMB_OK || st == PLUMB_USAGE);
    g = greedy(3);
    assert_int_equal(generate(p.s, story, 5, &g).n_tokens, 3);  // all that left the session sound
    plumb_session_options o = {.n_ctx = -1};
    assert_null(plumb_session_open(p.m, &o, &err));
    assert_int_equal(err.status, PLUMB_USAGE);
    o = (plumb_session_options){.n_ctx = 16, .type_k = "q4_9"};
    assert_null(plumb_session_open(p.m, &o, &err));
    assert_int_equal(err.status, PLUMB_USAGE);
    assert_non_null(strstr(err.text, "q4_9"));
    o = (plumb_session_options){.n_ctx = 16, .batch_size = -3};
    assert_null(plumb_session_open(p.m, &o, &err));
    assert_int_equal(err.status, PLUMB_USAGE);
    close_pair(&p);
}

static void text_and_tokens(void **state) {
    (void)state;
    plumb_model *m = model_of(DEMO);
    plumb_error err;
    int32_t ids[256];
    char text[64];
    size_t n = tokenize(m, "Once upon a time", ids), len;
    assert_int_equal(n, 5);
    assert_memory_equal(ids, story, sizeof story);
    int32_t few[3] = {-7, -7, -7};
    assert_int_equal(plumb_tokenize(m, "Once upon a time", 16, PLUMB_NO_BOS, few, 2, &n, &err),
                     PLUMB_OK);
    assert_int_equal(n, 4);
    assert_true(few[0] == story[1] && few[1] == story[2] && few[2] == -7);
    assert_int_equal(plumb_tokenize(m, "", 0, 0, NULL, 0, &n, &err), PLUMB_OK);
    assert_int_equal(n, 1);
    assert_int_equal(
        plumb_tokenize(m, "</s>", 4, PLUMB_PARSE_SPECIAL | PLUMB_NO_BOS, ids, 256, &n, &err),
        PLUMB_OK);
    assert_true(n == 1 && ids[0] == 2);
    assert_int_equal(plumb_tokenize(m, "</s>", 4, PLUMB_NO_BOS, ids, 256, &n, &err), PLUMB_OK);
    for (size_t i = 0; i < n; i++) assert_int_not_equal(ids[i], 2);
    memset(text, '#', sizeof text);
    assert_int_equal(plumb_detokenize(m, story, 5, text, 4, &len, &err), PLUMB_OK);
    assert_int_equal(len, 19);  // control tokens are shown
    assert_memory_equal(text, "<s>O#", 5);
    const int32_t bad = 2048;
    assert_int_equal(plumb_detokenize(m, &bad, 1, text, 4, &len, &err), PLUMB_USAGE);
    assert_true(plumb_is_end(m, 2) && !plumb_is_end(m, 1000));
    assert_false(plumb_is_end(m, -1));
    assert_false(plumb_is_end(m, 1 << 30));
    plumb_model_info info;
    plumb_model_describe(m, &info);
    assert_string_equal(info.architecture, "llama");
    assert_string_equal(info.backend, "cpu");
    assert_string_equal(info.chat_template, "zephyr");
    assert_int_equal(info.n_ctx_train, 1024);
    assert_int_equal(info.n_layers, 6);
    assert_int_equal(info.dim, 256);
    assert_true(info.n_params > 5700000 && info.n_params < 5900000);
    assert_true(info.weight_bytes >= info.decode_bytes && info.decode_bytes > 2000000);
    plumb_model_close(m);
    plumb_model_close(NULL);
    plumb_session_close(NULL);
    assert_string_equal(plumb_finish_name(PLUMB_FINISH_STOP), "stop");
    assert_string_equal(plumb_finish_name(PLUMB_FINISH_LENGTH), "length");
    assert_string_equal(plumb_finish_name(PLUMB_FINISH_CONTEXT), "context");
    assert_string_equal(plumb_finish_name(PLUMB_FINISH_INTERRUPTED), "interrupted");
    plumb_sampling d = plumb_sampling_default();
    assert_true(d.temperature == 0.8f && d.top_k == 40 && d.top_p == 0.95f && d.min_p == 0.05f);
    assert_true(d.typical_p == 1 && d.repeat_penalty == 1 && d.repeat_last_n == 64);
    assert_true(d.presence_penalty == 0 && d.frequency_penalty == 0 && d.seed == -1);
}

static void not_opened(const char *path, plumb_model_options o, plumb_status want,
                       const char *says) {
    plumb_error err = {0};
    plumb_model *m = plumb_model_open(path, &o, &err);
    if (m || err.status != want || !strstr(err.text, says)) {
        fail_msg("%s: status %d, expected %d: %s", path, (int)err.status, (int)want, err.text);
    }
    assert_null(strchr(err.text, '\n'));
    assert_null(plumb_model_open(path, &o, NULL));
}

static void what_cannot_be_opened(void **state) {
    (void)state;
    const plumb_model_options none = {0};
    not_opened("no/such/file.gguf", none, PLUMB_BAD_FILE, "no/such/file.gguf");
    not_opened("tests", none, PLUMB_BAD_FILE, "tests");
    not_opened("Makefile", none, PLUMB_BAD_FILE, "Makefile");
    not_opened("tests/golden/quants.gguf", none, PLUMB_BAD_FILE, "quants.gguf");
    not_opened("tests/golden/tokenizers/bpe-qwen2.gguf", none, PLUMB_BAD_FILE, "bpe-qwen2.gguf");
    not_opened(DEMO, (plumb_model_options){.backend = "nope"}, PLUMB_UNAVAILABLE, "nope");
    not_opened(DEMO, (plumb_model_options){.backend = ""}, PLUMB_UNAVAILABLE, "");
    not_opened(DEMO, (plumb_model_options){.n_threads = -1}, PLUMB_USAGE, "-1");
    not_opened(DEMO, (plumb_model_options){.cpu_isa = "mmx"}, PLUMB_USAGE, "mmx");
    plumb_error err;
    plumb_model_options o = {.n_threads = 1000000};
    plumb_model *m = plumb_model_open(DEMO, &o, &err);
    assert_null(m);
    assert_true(err.status == PLUMB_USAGE || err.status == PLUMB_UNAVAILABLE);
    o.n_threads = 0;  // physical cores
    m = plumb_model_open(DEMO, &o, &err);
    assert_non_null(m);
    plumb_model_close(m);
    // From memory: the file's bytes, none, some, and no model at all.
    FILE *f = fopen(DEMO, "rb");
    assert_non_null(f);
    char *bytes = room(5000000);
    size_t n = fread(bytes, 1, 5000000, f);
    fclose(f);
    m = plumb_model_open_memory(bytes, n, "the demo", NULL, &err);
    if (!m) fail_msg("%s", err.text);
    plumb_model_close(m);
    static const size_t parts[] = {0, 1, 4, 24, 1000, 100000, 2000000};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char *part = room(parts[i]);
        memcpy(part, bytes, parts[i]);
        assert_null(plumb_model_open_memory(part, parts[i], "a part", NULL, &err));
        assert_int_equal(err.status, PLUMB_BAD_FILE);
        assert_non_null(strstr(err.text, "a part"));
        free(part);
    }
    free(bytes);
}

// --- memory and company --------------------------------------------------------------------------

static void decoding_allocates_nothing(void **state) {
    (void)state;
#if COUNTS_ALLOCATIONS
    Pair p = open_pair(DEMO, 512);
    plumb_error err;
    const float *logits;
    assert_int_equal(plumb_eval(p.s, story, 5, &logits, &err), PLUMB_OK);
    assert_true(atomic_load(&n_allocations) > 10);  // the counter counts
    long before = atomic_load(&n_allocations);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(plumb_eval(p.s, story, 1, &logits, &err), PLUMB_OK);
    }
    assert_int_equal(atomic_load(&n_allocations) - before, 0);
    for (int kind = 0; kind < 5; kind++) {
        plumb_generation g = greedy(200);
        Watch w = {.s = p.s, .on_call = count_now};
        counted_first = -1;
        g.on_text = watch_text, g.user = &w, g.ignore_end = 1;
        if (kind >= 1) g.sampling = plumb_sampling_default();
        if (kind == 2) g.sampling.typical_p = 0.9f, g.sampling.repeat_penalty = 1.1f;
        if (kind == 3) g.sampling.top_k = 0, g.n_logprobs = 5;
        if (kind == 4) g.sampling.temperature = 0.3f, g.lookup_max = 7;
        const char *const stop[] = {"never in it"};
        g.stop = stop, g.n_stop = 1;
        const size_t n_drafted = generate(p.s, story, 5, &g).n_drafted;
        assert_true(w.calls > 50 && (kind < 4 || n_drafted > 20));
        long made = counted_last - counted_first;
        if (made) fail_msg("sampling %d: %ld allocations", kind, made);
    }
    close_pair(&p);
#else
    print_message("skipped: allocations cannot be counted under a sanitizer or without glibc\n");
    skip();
#endif
}

static void models_and_sessions_side_by_side(void **state) {
    (void)state;
    plumb_model *a = model_of(DEMO), *b = model_of(DEMO_F16);
    plumb_session *s[4] = {session_of(a, 64), session_of(a, 128), session_of(b, 64),
                           session_of(b, 64)};
    plumb_generation g = greedy(12);
    char want[2][512];
    snprintf(want[0], 512, "%s", generate(s[0], story, 5, &g).text);
    snprintf(want[1], 512, "%s", generate(s[2], story, 5, &g).text);
    for (int i = 0; i < 8; i++) {
        plumb_rewind(s[i % 4], i < 4 ? 0 : 3);
        assert_string_equal(generate(s[i % 4], story, 5, &g).text, want[i % 4 / 2]);
    }
    for (int i = 0; i < 4; i++) plumb_session_close(s[i]);
    plumb_model_close(b);
    plumb_model_close(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_answers_of_transformers),
        cmocka_unit_test(greedy_story_of_stories260k),
        cmocka_unit_test(lengths),
        cmocka_unit_test(the_context_fills),
        cmocka_unit_test(callbacks_and_interrupts),
        cmocka_unit_test(stop_texts),
        cmocka_unit_test(seeds),
        cmocka_unit_test(log_probabilities),
        cmocka_unit_test(eval_and_rewind),
        cmocka_unit_test(wrong_arguments),
        cmocka_unit_test(text_and_tokens),
        cmocka_unit_test(what_cannot_be_opened),
        cmocka_unit_test(decoding_allocates_nothing),
        cmocka_unit_test(models_and_sessions_side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
