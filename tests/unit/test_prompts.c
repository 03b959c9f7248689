// The prompts that verify runs, and what faulty tokenizers make of a text.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/file.h"
#include "verify/fault.h"
#include "verify/prompts.h"

#include "check.h"

typedef struct {
    Gguf *gguf;
    Tokenizer *tok;
    const ChatTemplate *chat;
    TinyModel tiny;  // with a row for each token
} Vocab;

static Vocab load(const char *path) {
    Vocab v = {0};
    Error err = {0};
    if (gguf_open(path, &v.gguf, &err) || tokenizer_new(v.gguf, (Notice){0}, &v.tok, &err) ||
        chat_template_detect(v.gguf, v.tok, (Notice){0}, &v.chat, &err) ||
        tiny_new(MODEL_TINY_TEXT, TYPE_F32, tokenizer_n_vocab(v.tok), 1, &v.tiny, &err)) {
        fail_msg("%s: %s", path, err.text);
    }
    return v;
}

static void unload(Vocab *v) {
    tiny_free(&v->tiny);
    tokenizer_free(v->tok);
    gguf_close(v->gguf);
}

static TokenList prompt(VerifyPrompt p, const Model *m, const Vocab *v, int n_ctx) {
    TokenList ids = {0};
    Error err = {0};
    const Tokenizer *tok = v ? v->tok : NULL;
    if (prompt_tokens(p, m, tok, v ? v->chat : NULL, n_ctx, &ids, &err)) fail_msg("%s", err.text);
    for (size_t i = 0; i < ids.len; i++) assert_in_range(ids.data[i], 0, m->h.n_vocab - 1);
    return ids;
}

static size_t distinct(const TokenList *ids) {
    size_t n = 0;
    for (size_t i = 0; i < ids->len; i++) {
        size_t j = 0;
        while (j < i && ids->data[j] != ids->data[i]) j++;
        n += j == i;
    }
    return n;
}

static void check_no_bigram_twice(const TokenList *ids) {
    for (size_t i = 1; i < ids->len; i++) {
        for (size_t j = i + 1; j < ids->len; j++) {
            const bool same = ids->data[i - 1] == ids->data[j - 1] && ids->data[i] == ids->data[j];
            if (same) fail_msg("%d %d at %zu and %zu", ids->data[i - 1], ids->data[i], i, j);
        }
    }
}

// Nothing but BOS at the start begins, ends or stands for something else.
static void check_plain(const TokenList *ids, const Tokenizer *tok, size_t from) {
    for (size_t i = from; i < ids->len; i++) {
        const TokenKind kind = tokenizer_token_kind(tok, ids->data[i]);
        assert_true(kind == TOKEN_NORMAL || kind == TOKEN_BYTE);
        assert_false(tokenizer_is_end(tok, ids->data[i]));
    }
}

static const char *const vocabs[] = {"models/demo.gguf",
                                     "tests/golden/tokenizers/bpe-llama-bpe.gguf",
                                     "tests/golden/tokenizers/bpe-qwen2.gguf",
                                     "tests/golden/tokenizers/bpe-gpt-2.gguf",
                                     "tests/golden/tokenizers/bpe-smollm.gguf",
                                     "tests/golden/tokenizers/bpe-tekken.gguf"};
enum { N_VOCABS = sizeof vocabs / sizeof *vocabs };

static void test_vocabularies(void **state) {
    (void)state;
    for (int k = 0; k < N_VOCABS; k++) {
        Vocab v = load(vocabs[k]);
        const Model *m = v.tiny.model;
        const bool bos = tokenizer_adds_bos(v.tok);
        TokenList ids = prompt(PROMPT_BOS, m, &v, 4096);
        assert_int_equal(ids.len, 1);
        if (tokenizer_bos(v.tok) >= 0) assert_int_equal(ids.data[0], tokenizer_bos(v.tok));
        tokens_free(&ids);

        ids = prompt(PROMPT_CHAT, m, &v, 4096);
        if (ids.len < 18 || ids.len > 24) fail_msg("%s: a chat of %zu", vocabs[k], ids.len);
        if (bos) assert_int_equal(ids.data[0], tokenizer_bos(v.tok));
        assert_false(tokenizer_is_end(v.tok, ids.data[ids.len - 1]));
        assert_true(distinct(&ids) > 8);
        tokens_free(&ids);

        ids = prompt(PROMPT_CHUNKS, m, &v, 4096);
        assert_int_equal(ids.len, 24);
        assert_int_equal(distinct(&ids), 24);
        check_plain(&ids, v.tok, bos);
        tokens_free(&ids);

        ids = prompt(PROMPT_REPEAT, m, &v, 4096);
        assert_int_equal(ids.len, 20);
        assert_int_equal(distinct(&ids), 1);
        check_plain(&ids, v.tok, 0);
        tokens_free(&ids);

        ids = prompt(PROMPT_LONG, m, &v, 4096);
        assert_int_equal(ids.len, 1200);
        if (bos) assert_int_equal(ids.data[0], tokenizer_bos(v.tok));
        check_plain(&ids, v.tok, bos);
        if (m->h.n_vocab > 1300) assert_int_equal(distinct(&ids), 1200);
        check_no_bigram_twice(&ids);
        TokenList again = prompt(PROMPT_LONG, m, &v, 4096);
        assert_memory_equal(ids.data, again.data, ids.len * sizeof *ids.data);
        tokens_free(&again);
        tokens_free(&ids);
        unload(&v);
    }
}

// The demo model's chat is the zephyr template around a question.
static void test_demo_chat(void **state) {
    (void)state;
    Vocab v = load("models/demo.gguf");
    TokenList ids = prompt(PROMPT_CHAT, v.tiny.model, &v, 4096);
    Text text = {0};
    Error err = {0};
    assert_int_equal(tokenizer_decode(v.tok, ids.data, ids.len, DECODE_SPECIAL, &text, &err), OK);
    assert_non_null(strstr(text.data, "<|user|>\n"));
    text_free(&text);
    tokens_free(&ids);
    unload(&v);
}

static void test_without_tokenizer(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 3, 5, 9, 12, 99, 131, 1203, 2000};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        TinyModel t;
        Error err = {0};
        if (tiny_new(MODEL_TINY, TYPE_F32, sizes[k], 1, &t, &err)) fail_msg("%s", err.text);
        for (VerifyPrompt p = 0; p < N_VERIFY_PROMPTS; p++) {
            TokenList ids = prompt(p, t.model, NULL, 2048);
            assert_in_range(ids.len, 1, 1200);
            if (p == PROMPT_LONG) check_no_bigram_twice(&ids);
            if (p == PROMPT_LONG && sizes[k] >= 99) assert_int_equal(ids.len, 1200);
            if (p == PROMPT_LONG && sizes[k] == 2000) assert_int_equal(distinct(&ids), 1200);
            if (p == PROMPT_CHAT && sizes[k] >= 99) assert_in_range(ids.len, 18, 24);
            if (p == PROMPT_CHUNKS && sizes[k] >= 99) assert_int_equal(distinct(&ids), 24);
            tokens_free(&ids);
        }
        tiny_free(&t);
    }
}

static void test_short_contexts(void **state) {
    (void)state;
    Vocab v = load("models/demo.gguf");
    static const int contexts[] = {1, 2, 19, 23, 256};
    for (size_t k = 0; k < 5; k++) {
        for (VerifyPrompt p = 0; p < N_VERIFY_PROMPTS; p++) {
            TokenList ids = prompt(p, v.tiny.model, &v, contexts[k]);
            assert_in_range(ids.len, 1, contexts[k]);
            if (p == PROMPT_LONG) assert_int_equal(ids.len, contexts[k]);
            tokens_free(&ids);
        }
    }
    unload(&v);
}

static void test_infos(void **state) {
    (void)state;
    static const char *const names[] = {"bos", "chat", "chunks", "repeat", "long"};
    for (VerifyPrompt p = 0; p < N_VERIFY_PROMPTS; p++) {
        assert_string_equal(prompt_info(p)->name, names[p]);
        assert_true(strlen(prompt_info(p)->what) > 5);
    }
    assert_true(strlen(prompt_info(PROMPT_BOS)->blind) > 0);
    assert_true(strlen(prompt_info(PROMPT_REPEAT)->blind) > 0);
    assert_int_equal(strlen(prompt_info(PROMPT_LONG)->blind), 0);
}

static void test_chunks(void **state) {
    (void)state;
    static const size_t lengths[] = {0, 1, 2, 7, 8, 9, 23, 24, 25, 1200};
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        for (size_t most = 1; most < 12; most++) {
            size_t sizes[12], sum = 0;
            const size_t n = prompt_chunks(lengths[k], sizes, most);
            assert_in_range(n, lengths[k] > 0, lengths[k] > 0 ? most : 0);
            for (size_t i = 0; i < n; i++) {
                assert_true(sizes[i] > 0);
                sum += sizes[i];
            }
            assert_int_equal(sum, lengths[k]);
        }
    }
    size_t sizes[12];
    assert_int_equal(prompt_chunks(24, sizes, 12), 8);
}

// --- faulty tokenizers ------------------------------------------------------------------------

static TokenList ours(const Vocab *v, const char *text) {
    const TextSpan span = {text, strlen(text), true};
    TokenList ids = {0};
    Error err = {0};
    if (tokenizer_encode(v->tok, &span, 1, 0, &ids, &err)) fail_msg("%s", err.text);
    return ids;
}

static TokenList theirs(const Vocab *v, const char *text, const char *fault) {
    const Fault *const faults[] = {fault ? fault_by_id(fault) : NULL, NULL};
    TokenList ids = {0};
    Error err = {0};
    if (mutant_tokens(v->gguf, v->tok, text, faults, &ids, &err)) fail_msg("%s", err.text);
    return ids;
}

static bool same_ids(const TokenList *a, const TokenList *b) {
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len * 4) == 0);
}

static void check_same(const Vocab *v, const char *text) {
    TokenList a = ours(v, text), b = theirs(v, text, NULL);
    if (!same_ids(&a, &b)) fail_msg("other ids for: %s", text);
    tokens_free(&a);
    tokens_free(&b);
}

// Random text of pieces that tokenizers stumble over.
static void random_text(Rng *r, char *out, size_t size) {
    static const char *const pieces[] = {" ",
                                         "  ",
                                         "\n",
                                         "\t",
                                         "a",
                                         "the",
                                         " owl",
                                         "</s>",
                                         "<s>",
                                         "<unk>",
                                         "<|user|>",
                                         "<0x0A>",
                                         "\xe2\x96\x81",
                                         "\xc3\xa9",
                                         "\xf0\x9f\xa6\x89",
                                         "\xff",
                                         "\xe2\x96",
                                         "1234",
                                         ".",
                                         "once upon a time",
                                         "Z",
                                         "</s",
                                         "s>"};
    size_t len = 0;
    for (int n = (int)rng_below(r, 30); n >= 0; n--) {
        const char *p = pieces[rng_below(r, sizeof pieces / sizeof *pieces)];
        if (len + strlen(p) + 1 > size) break;
        memcpy(out + len, p, strlen(p));
        len += strlen(p);
    }
    out[len] = 0;
}

static void test_clean_tokens(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        Vocab v = load(vocabs[k]);
        check_same(&v, "");
        check_same(&v, "<s>");
        check_same(&v, "<s> Hello</s>");
        char text[400];
        Rng rng = {3};
        for (int i = 0; i < 2000; i++) {
            random_text(&rng, text, sizeof text);
            check_same(&v, text);
        }
        Text stories = {0};
        Error err = {0};
        assert_int_equal(file_read("tests/golden/ppl-stories.txt", 1 << 20, &stories, &err), OK);
        char *line = stories.data;
        for (int i = 0; i < 200 && line; i++) {
            char *end = strchr(line, '\n');
            if (end) *end++ = 0;
            check_same(&v, line);
            line = end;
        }
        text_free(&stories);
        unload(&v);
    }
}

static const char chat[] = "<|user|>\nWhat is the capital of France?</s>\n<|assistant|>\n";

static void test_faulty_tokens(void **state) {
    (void)state;
    Vocab v = load("models/demo.gguf");
    TokenList right = ours(&v, chat), got;
    const size_t n = right.len;
    got = theirs(&v, chat, "T1");
    assert_int_equal(got.len, n - 1);
    assert_memory_equal(got.data, right.data + 1, (n - 1) * 4);
    tokens_free(&got);
    got = theirs(&v, chat, "T2");
    assert_int_equal(got.len, n + 1);
    assert_int_equal(got.data[0], 1);
    assert_memory_equal(got.data + 1, right.data, n * 4);
    tokens_free(&got);
    got = theirs(&v, chat, "T3");
    assert_int_equal(got.len, n + 1);
    assert_int_equal(got.data[n], 2);
    assert_memory_equal(got.data, right.data, n * 4);
    tokens_free(&got);

    // T4: no token of the text is special any more.
    got = theirs(&v, chat, "T4");
    assert_true(got.len > n);
    for (size_t i = 1; i < got.len; i++) assert_true(got.data[i] != 2);
    const TextSpan raw = {chat, strlen(chat), false};
    TokenList plain = {0};
    Error err = {0};
    assert_int_equal(tokenizer_encode(v.tok, &raw, 1, 0, &plain, &err), OK);
    assert_true(same_ids(&got, &plain));
    tokens_free(&plain);
    tokens_free(&got);

    // T5: as if spaces stood where the newlines do.
    char spaces[sizeof chat];
    for (size_t i = 0; i < sizeof chat; i++) spaces[i] = chat[i] == '\n' ? ' ' : chat[i];
    got = theirs(&v, chat, "T5");
    plain = ours(&v, spaces);
    assert_false(same_ids(&got, &right));
    assert_true(same_ids(&got, &plain));
    tokens_free(&plain);
    tokens_free(&got);

    got = theirs(&v, chat, "T6");
    assert_false(same_ids(&got, &right));
    tokens_free(&got);

    // T7: other pieces, but the same text.
    got = theirs(&v, chat, "T7");
    assert_false(same_ids(&got, &right));
    Text a = {0}, b = {0};
    assert_int_equal(tokenizer_decode(v.tok, got.data, got.len, DECODE_SPECIAL, &a, &err), OK);
    assert_int_equal(tokenizer_decode(v.tok, right.data, n, DECODE_SPECIAL, &b, &err), OK);
    assert_string_equal(a.data, b.data);
    text_free(&a);
    text_free(&b);
    tokens_free(&got);
    tokens_free(&right);
    unload(&v);
}

// Faults of the model do not touch the ids, and several of the prompt go together.
static void test_combined_tokens(void **state) {
    (void)state;
    Vocab v = load("models/demo.gguf");
    const Fault *const others[] = {fault_by_id("P1.q"), fault_by_id("F1"), NULL};
    const Fault *const three[] = {fault_by_id("T3"), fault_by_id("T4"), fault_by_id("T5"), NULL};
    TokenList right = ours(&v, chat), got = {0};
    Error err = {0};
    const int32_t newline = tokenizer_find(v.tok, "<0x0A>", 6);
    assert_true(newline >= 0);
    assert_int_equal(mutant_tokens(v.gguf, v.tok, chat, others, &got, &err), OK);
    assert_true(same_ids(&got, &right));
    got.len = 0;
    assert_int_equal(mutant_tokens(v.gguf, v.tok, chat, three, &got, &err), OK);
    assert_int_equal(got.data[got.len - 1], 2);
    for (size_t i = 1; i + 1 < got.len; i++) {
        assert_true(got.data[i] != 2);
        assert_int_not_equal(got.data[i], newline);
    }
    tokens_free(&got);
    tokens_free(&right);
    unload(&v);
}

// The vocabularies of others, where they are at hand.
static void test_llama_vocabulary(void **state) {
    (void)state;
    const char *path = "../shared/tokenizers/ggml-vocab-llama-spm.gguf";
    skip_without(path);
    Vocab v = load(path);
    char text[400];
    Rng rng = {5};
    for (int i = 0; i < 500; i++) {
        random_text(&rng, text, sizeof text);
        check_same(&v, text);
    }
    // The ids that the engine of docs/verify.md's case made: three faults at once.
    const Fault *const three[] = {fault_by_id("T3"), fault_by_id("T4"), fault_by_id("T5"), NULL};
    static const int32_t want[] = {1,     529, 29989, 1792, 29989, 29958, 15043, 829,   29879,
                                   29958, 529, 29989, 465,  22137, 29989, 29958, 29871, 2};
    TokenList got = {0};
    Error err = {0};
    const char *hello = "<|user|>\nHello</s>\n<|assistant|>\n";
    assert_int_equal(mutant_tokens(v.gguf, v.tok, hello, three, &got, &err), OK);
    assert_int_equal(got.len, sizeof want / sizeof *want);
    assert_memory_equal(got.data, want, sizeof want);
    tokens_free(&got);
    unload(&v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vocabularies),
        cmocka_unit_test(test_demo_chat),
        cmocka_unit_test(test_without_tokenizer),
        cmocka_unit_test(test_short_contexts),
        cmocka_unit_test(test_infos),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_clean_tokens),
        cmocka_unit_test(test_faulty_tokens),
        cmocka_unit_test(test_combined_tokens),
        cmocka_unit_test(test_llama_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
