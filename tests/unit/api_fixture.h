// plumb.h for tests: models and sessions that must open, and a callback that keeps what it is told.
//
// Include it after cmocka.h.
#ifndef PLUMB_TESTS_API_FIXTURE_H
#define PLUMB_TESTS_API_FIXTURE_H

#include "base/utf8.h"
#include "check.h"
#include "plumb.h"

#define DEMO_F16 "tests/golden/models/demo-f16.gguf"
#define DEMO "models/demo.gguf"
#define STORIES "../shared/models/stories260K.gguf"

static inline plumb_model *model_of(const char *path) {
    plumb_error err;
    const plumb_model_options o = {.n_threads = 2};
    plumb_model *m = plumb_model_open(path, &o, &err);
    if (!m) fail_msg("%s", err.text);
    return m;
}

static inline plumb_session *session_of(plumb_model *m, int n_ctx) {
    plumb_error err;
    const plumb_session_options o = {.n_ctx = n_ctx};
    plumb_session *s = plumb_session_open(m, &o, &err);
    if (!s) fail_msg("%s", err.text);
    return s;
}

typedef struct {
    plumb_model *m;
    plumb_session *s;
    int n_vocab;
} Pair;

static inline Pair open_pair(const char *path, int n_ctx) {
    Pair p = {.m = model_of(path)};
    p.s = session_of(p.m, n_ctx);
    plumb_model_info info;
    plumb_model_describe(p.m, &info);
    p.n_vocab = info.n_vocab;
    return p;
}

static inline void close_pair(Pair *p) {
    plumb_session_close(p->s);
    plumb_model_close(p->m);
}

static inline plumb_generation greedy(int max_tokens) {
    plumb_generation g = plumb_generation_default();
    g.sampling.temperature = 0;
    g.max_tokens = max_tokens;
    return g;
}

static inline plumb_result generate(plumb_session *s, const int32_t *ids, size_t n,
                                    const plumb_generation *g) {
    plumb_error err;
    plumb_result r;
    if (plumb_generate(s, ids, n, g, &r, &err)) fail_msg("%s", err.text);
    assert_int_equal(strlen(r.text) <= r.text_len, 1);
    assert_int_equal(r.text[r.text_len], 0);
    assert_true(utf8_valid(r.text, r.text_len));
    assert_int_equal(r.n_prompt_tokens, n);
    assert_memory_equal(r.prompt_tokens, ids, n * sizeof *ids);
    return r;
}

static inline size_t tokenize(const plumb_model *m, const char *text, int32_t ids[256]) {
    plumb_error err;
    size_t n;
    if (plumb_tokenize(m, text, strlen(text), 0, ids, 256, &n, &err)) fail_msg("%s", err.text);
    assert_true(n <= 256);
    return n;
}

static const int32_t story[] = {1, 370, 371, 261, 328};  // <s> Once upon a time

typedef struct {
    plumb_session *s;
    char text[4096];
    size_t len;
    int calls, stop_at, interrupt_at;
    void (*on_call)(void);  // or NULL
    size_t prefill_done, prefill_total;
} Watch;

static inline int watch_text(void *user, const char *text, size_t len) {
    Watch *w = user;
    if (w->on_call) w->on_call();
    if (len == 0 || !utf8_valid(text, len)) w->len = sizeof w->text;  // makes the test fail
    if (w->len + len < sizeof w->text) {
        memcpy(w->text + w->len, text, len);
        w->len += len;
    }
    w->calls++;
    if (w->calls == w->interrupt_at) plumb_interrupt(w->s);
    return w->calls != w->stop_at;
}

static inline void watch_prefill(void *user, size_t done, size_t total) {
    Watch *w = user;
    if (done < w->prefill_done || done > total)
        w->prefill_total = SIZE_MAX;
    else
        w->prefill_total = total;
    w->prefill_done = done;
}

#endif
