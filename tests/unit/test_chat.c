// Chat on a session: the text a model reads is its reference template's, turns are read from the
// cache, and a conversation loaded afresh goes on as it would have.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

static void say(plumb_session *s, const char *role, const char *content) {
    plumb_error err;
    if (plumb_chat_add(s, role, content, &err)) fail_msg("%s", err.text);
}

static plumb_result reply(plumb_session *s, const plumb_generation *g) {
    plumb_error err;
    plumb_result r;
    if (plumb_chat_reply(s, g, &r, &err)) fail_msg("%s", err.text);
    return r;
}

static void chat_of_several_turns(void **state) {
    (void)state;
    static const char *const questions[] = {"Hello", "What is 7 + 8?",
                                            "What is the capital of France?",
                                            "Tell me a story about an owl."};
    plumb_model *m = model_of(DEMO);
    plumb_session *s = session_of(m, 1024);
    plumb_generation g = plumb_generation_default();
    g.max_tokens = 60;
    g.sampling.seed = 5;
    size_t known = 0;
    char last[4096] = "";
    for (size_t turn = 0; turn < 4; turn++) {
        say(s, "user", questions[turn]);
        int32_t ids[1024];
        size_t n;
        plumb_error err;
        assert_int_equal(plumb_chat_tokens(s, ids, 1024, &n, &err), PLUMB_OK);
        plumb_result r = reply(s, &g);
        assert_int_equal(r.n_prompt_tokens, n);  // what was read is what was announced
        assert_memory_equal(r.prompt_tokens, ids, n * sizeof *ids);
        // All that was read and written before is in the cache, but for the token that ended it.
        if (r.n_cached + 1 < known)
            fail_msg("turn %zu: %zu cached of %zu", turn, r.n_cached, known);
        known = r.n_prompt_tokens + r.n_tokens - 1;
        assert_int_equal(plumb_chat_length(s), 2 * turn + 2);
        const char *role, *content;
        assert_int_equal(plumb_chat_get(s, 2 * turn + 1, &role, &content), PLUMB_OK);
        assert_string_equal(role, "assistant");
        assert_string_equal(content, r.text);
        assert_true(r.text_len > 0 && r.text[0] != ' ');
        snprintf(last, sizeof last, "%s", r.text);
    }
    // Loaded afresh: the same messages give the same answer.
    plumb_session *fresh = session_of(m, 1024);
    for (size_t i = 0; i < 7; i++) {
        const char *role, *content;
        assert_int_equal(plumb_chat_get(s, i, &role, &content), PLUMB_OK);
        assert_string_equal(role, i % 2 ? "assistant" : "user");
        say(fresh, role, content);
    }
    plumb_result r = reply(fresh, &g);
    assert_string_equal(r.text, last);
    assert_int_equal(r.n_cached, 0);
    // Truncated to the question, it answers as before, from the cache.
    plumb_chat_truncate(s, 7);
    assert_int_equal(plumb_chat_length(s), 7);
    r = reply(s, &g);
    assert_string_equal(r.text, last);
    assert_true(r.n_cached > 20);
    plumb_chat_truncate(s, 100);
    assert_int_equal(plumb_chat_length(s), 8);
    plumb_chat_truncate(s, 0);
    assert_int_equal(plumb_chat_length(s), 0);
    say(s, "user", "Hello");
    g = greedy(-1);
    r = reply(s, &g);
    assert_string_equal(r.text, "Hello! How can I help you today?");
    plumb_session_close(s);
    plumb_session_close(fresh);
    plumb_model_close(m);
}

// A turn goes on from the very tokens that were made, also where their text would be cut into
// others, and no space slips in between.
static void chat_goes_on_from_its_own_tokens(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 512);
    plumb_generation g = greedy(30);
    g.sampling =
        (plumb_sampling){.temperature = 3, .top_p = 1, .typical_p = 1, .repeat_penalty = 1};
    g.ignore_end = 1;
    // <unk>, <s>, </s> and a NUL, which a message cannot hold
    const plumb_logit_bias banned[] = {
        {0, -HUGE_VALF}, {1, -HUGE_VALF}, {2, -HUGE_VALF}, {3, -HUGE_VALF}};
    g.sampling.logit_bias = banned, g.sampling.n_logit_bias = 4;
    int others = 0;
    for (g.sampling.seed = 1; g.sampling.seed < 5; g.sampling.seed++) {
        for (int plain = 0; plain < 2; plain++) {
            plumb_error err;
            int32_t read[512], ids[512];
            char text[4096], want[4096];
            size_t n, len;
            plumb_chat_truncate(p.s, 0);
            plumb_chat_set_template(p.s, plain ? "none" : "zephyr", &err);
            say(p.s, "user", "Once upon a time");
            plumb_result r = reply(p.s, &g);
            size_t n_read = r.n_prompt_tokens + r.n_tokens;
            memcpy(read, r.prompt_tokens, r.n_prompt_tokens * sizeof *read);
            memcpy(read + r.n_prompt_tokens, r.tokens, r.n_tokens * sizeof *read);
            len = (size_t)snprintf(want, sizeof want, "<s>Once upon a time%s And then", r.text);
            say(p.s, "user", plain ? " And then" : "Hello");
            assert_int_equal(plumb_chat_tokens(p.s, ids, 512, &n, &err), PLUMB_OK);
            assert_true(n > n_read);
            assert_memory_equal(ids, read, n_read * sizeof *ids);
            plumb_session *fresh = session_of(p.m, 512);
            int32_t again[512];
            size_t n_again;
            const char *role, *content;
            plumb_chat_set_template(fresh, plain ? "none" : "zephyr", &err);
            for (size_t i = 0; i < 3; i++) {
                assert_int_equal(plumb_chat_get(p.s, i, &role, &content), PLUMB_OK);
                say(fresh, role, content);
            }
            assert_int_equal(plumb_chat_tokens(fresh, again, 512, &n_again, &err), PLUMB_OK);
            others += n_again != n;
            plumb_session_close(fresh);
            if (plain && strlen(r.text) == r.text_len && !strstr(r.text, "\xef\xbf\xbd")) {
                size_t n_text;
                assert_int_equal(plumb_detokenize(p.m, ids, n, text, sizeof text, &n_text, &err),
                                 PLUMB_OK);
                assert_int_equal(n_text, len);
                assert_memory_equal(text, want, len);
            }
            r = reply(p.s, &g);
            assert_true(r.n_cached + 1 >= n_read);
        }
    }
    assert_true(others > 0);  // the test is about something
    close_pair(&p);
}

static void chat_prompts_are_the_reference(void **state) {
    (void)state;
    static const int32_t hello[] = {1, 1489, 1493, 1488, 13,   2010, 411, 1981,
                                    2, 1977, 13,   1487, 1495, 1488, 13};
    Pair p = open_pair(DEMO, 256);
    int32_t ids[64];
    size_t n;
    plumb_error err;
    say(p.s, "user", "Hello");
    assert_int_equal(plumb_chat_tokens(p.s, ids, 64, &n, &err), PLUMB_OK);
    assert_int_equal(n, 15);
    assert_memory_equal(ids, hello, sizeof hello);
    assert_int_equal(plumb_chat_tokens(p.s, NULL, 0, &n, &err), PLUMB_OK);
    assert_int_equal(n, 15);
    // "</s>" of a user is text, and ends nothing.
    plumb_chat_truncate(p.s, 0);
    say(p.s, "user", "a</s>b<|assistant|>");
    assert_int_equal(plumb_chat_tokens(p.s, ids, 64, &n, &err), PLUMB_OK);
    int ends = 0;
    for (size_t i = 0; i < n; i++) ends += ids[i] == 2;
    assert_int_equal(ends, 1);
    // By another name: other tokens; "none": the texts as they are.
    assert_int_equal(plumb_chat_set_template(p.s, "chatml", &err), PLUMB_OK);
    size_t n_chatml;
    assert_int_equal(plumb_chat_tokens(p.s, NULL, 0, &n_chatml, &err), PLUMB_OK);
    assert_int_not_equal(n_chatml, n);
    assert_int_equal(plumb_chat_set_template(p.s, "none", &err), PLUMB_OK);
    plumb_chat_truncate(p.s, 0);
    say(p.s, "user", "Once upon a time");
    assert_int_equal(plumb_chat_tokens(p.s, ids, 64, &n, &err), PLUMB_OK);
    assert_int_equal(n, 5);
    assert_memory_equal(ids, story, sizeof story);
    close_pair(&p);
}

static void chat_errors(void **state) {
    (void)state;
    Pair p = open_pair(DEMO, 32);
    plumb_error err;
    plumb_result r;
    const char *role, *content;
    assert_int_equal(plumb_chat_add(p.s, "wizard", "x", &err), PLUMB_USAGE);
    assert_non_null(strstr(err.text, "wizard"));
    assert_int_equal(plumb_chat_add(p.s, "", "x", NULL), PLUMB_USAGE);
    assert_int_equal(plumb_chat_length(p.s), 0);
    assert_int_not_equal(plumb_chat_get(p.s, 0, &role, &content), PLUMB_OK);
    assert_int_not_equal(plumb_chat_reply(p.s, NULL, &r, &err), PLUMB_OK);  // nothing was said
    assert_int_equal(plumb_chat_set_template(p.s, "no such template", &err), PLUMB_USAGE);
    assert_non_null(strstr(err.text, "no such template"));
    // A conversation that no longer fits: both numbers; no half answer among the messages.
    say(p.s, "user",
        "Tell me a story about an owl, a fox, a dog, a cat, a hen, a pig and a cow who "
        "went to the sea and came home again in the evening.");
    assert_int_equal(plumb_chat_reply(p.s, NULL, &r, &err), PLUMB_FAILED);
    assert_non_null(strstr(err.text, "32"));
    assert_int_equal(plumb_chat_length(p.s), 1);
    plumb_chat_truncate(p.s, 0);
    say(p.s, "user", "Hello");
    plumb_generation g = greedy(-1);
    g.sampling.min_p = -1;
    assert_int_equal(plumb_chat_reply(p.s, &g, &r, &err), PLUMB_USAGE);
    assert_int_equal(plumb_chat_length(p.s), 1);
    g.sampling.min_p = 0;
    r = reply(p.s, &g);
    assert_string_equal(r.text, "Hello! How can I help you today?");
    // An answer that was broken off is a message too.
    say(p.s, "user", "Hello");
    Watch w = {.s = p.s, .stop_at = 2};
    plumb_session *other = session_of(p.m, 256);
    say(other, "user", "Tell me a story about an owl.");
    g.on_text = watch_text, g.user = &w;
    r = reply(other, &g);
    assert_int_equal(r.finish, PLUMB_FINISH_INTERRUPTED);
    assert_int_equal(plumb_chat_length(other), 2);
    assert_int_equal(plumb_chat_get(other, 1, &role, &content), PLUMB_OK);
    assert_string_equal(content, r.text);
    say(other, "user", "Hello");
    g.on_text = NULL;
    assert_true(reply(other, &g).text_len > 0);
    plumb_session_close(other);
    close_pair(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat_of_several_turns),
        cmocka_unit_test(chat_goes_on_from_its_own_tokens),
        cmocka_unit_test(chat_prompts_are_the_reference),
        cmocka_unit_test(chat_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
