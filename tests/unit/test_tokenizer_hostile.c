// Vocabularies that are wrong: each is refused with a message, or lived with as written here.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <math.h>

#include "base/clock.h"
#include "model/tokenizer.h"
#include "vocab_builder.h"

static Error err;

// A vocabulary that is right but for the keys that `without` names (separated by spaces), which the
// test writes itself.
enum { N_TOKENS = 6 };
static const char *const spm_tokens[N_TOKENS] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "b"};
static const char *const bpe_tokens[N_TOKENS] = {"a", "b", "ab", "\xc4\xa0", "<e>", "c"};
static const char *const merges[] = {"a b"};
static const float scores[N_TOKENS] = {0, 0, 0, -1, -2, -3};
static const int32_t spm_kinds[N_TOKENS] = {2, 3, 3, 1, 1, 1},
                     bpe_kinds[N_TOKENS] = {1, 1, 1, 1, 3, 1};

static Meta base(bool spm, const char *without) {
    Meta m = {0};
    meta_str(&m, "general.architecture", "llama");
    if (!strstr(without, "model")) meta_str(&m, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
    if (!strstr(without, "tokens")) {
        meta_strs(&m, "tokenizer.ggml.tokens", N_TOKENS, spm ? spm_tokens : bpe_tokens);
    }
    if (spm && !strstr(without, "scores")) {
        meta_array(&m, "tokenizer.ggml.scores", GGUF_F32, N_TOKENS, scores);
    }
    if (!strstr(without, "types")) {
        meta_array(&m, "tokenizer.ggml.token_type", GGUF_I32, N_TOKENS,
                   spm ? spm_kinds : bpe_kinds);
    }
    if (!spm && !strstr(without, "merges")) meta_strs(&m, "tokenizer.ggml.merges", 1, merges);
    if (!spm && !strstr(without, "pre")) meta_str(&m, "tokenizer.ggml.pre", "gpt-2");
    return m;
}

static char notices[4096];

static void remember(void *user, const char *line) {
    (void)user;
    size_t n = strlen(notices);
    snprintf(notices + n, sizeof notices - n, "%s\n", line);
}

// Opens m and gives its tokenizer; on failure err says why. Frees m.
static Status try_meta(Meta *m, const char *text, TokenList *ids) {
    Gguf *g = NULL;
    Tokenizer *t = NULL;
    TextSpan span = {text ? text : "", text ? strlen(text) : 0, false};
    err = (Error){OK, ""};
    notices[0] = 0;
    Status st = meta_open(m, &g, &err);
    if (st == OK) st = tokenizer_new(g, (Notice){remember, NULL}, &t, &err);
    if (st == OK && text) st = tokenizer_encode(t, &span, 1, ENCODE_NO_BOS, ids, &err);
    tokenizer_free(t);
    if (g) gguf_close(g);
    meta_free(m);
    return st;
}

// Refused as a bad file, with a message of one line that has `names` in it.
static void assert_refused(Meta *m, const char *names) {
    Status st = try_meta(m, NULL, NULL);
    if (st != ERR_FILE) fail_msg("%s: status %d (%s)", names, (int)st, err.text);
    if (!strstr(err.text, names) || strchr(err.text, '\n')) fail_msg("%s: '%s'", names, err.text);
}

static void assert_encodes(Meta *m, const char *text, size_t n, const int32_t *want) {
    TokenList ids = {0};
    if (try_meta(m, text, &ids) != OK) fail_msg("%s", err.text);
    assert_int_equal(ids.len, n);
    if (n) assert_memory_equal(ids.data, want, n * sizeof *want);
    tokens_free(&ids);
}

static void the_base_is_right(void **state) {
    (void)state;
    Meta m = base(true, "");
    assert_encodes(&m, "ab", 3, (int32_t[]){3, 4, 5});
#if HAVE_PCRE2
    m = base(false, "");
    assert_encodes(&m, "ab c", 3, (int32_t[]){2, 3, 5});
#endif
}

static void models(void **state) {
    (void)state;
    Meta m = base(true, "model");
    assert_refused(&m, "tokenizer.ggml.model");
    m = base(true, "model");
    meta_str(&m, "tokenizer.ggml.model", "bert");
    assert_refused(&m, "'bert'");
    m = base(true, "model");
    meta_str(&m, "tokenizer.ggml.model", "evil\x1b[2J\n");
    assert_refused(&m, "evil\\x1b");
    m = base(true, "model");
    meta_u32(&m, "tokenizer.ggml.model", 1);
    assert_refused(&m, "tokenizer.ggml.model");
}

static void token_lists(void **state) {
    (void)state;
    Meta m = base(true, "tokens");
    assert_refused(&m, "tokenizer.ggml.tokens");
    m = base(true, "tokens");
    meta_strs(&m, "tokenizer.ggml.tokens", 0, NULL);
    assert_refused(&m, "tokenizer.ggml.tokens");
    m = base(true, "tokens");
    meta_array(&m, "tokenizer.ggml.tokens", GGUF_U32, N_TOKENS, spm_kinds);
    assert_refused(&m, "tokenizer.ggml.tokens");
    m = base(true, "tokens");
    meta_str(&m, "tokenizer.ggml.tokens", "a");
    assert_refused(&m, "tokenizer.ggml.tokens");
}

static void scores_and_types(void **state) {
    (void)state;
    static const uint8_t bytes[N_TOKENS] = {2, 3, 3, 1, 1, 1};
    float bad_scores[N_TOKENS] = {0, 0, 0, NAN, 0, 0};
    int32_t bad_kinds[N_TOKENS] = {2, 3, 3, 1, 99, 1};
    Meta m = base(true, "scores");
    assert_refused(&m, "tokenizer.ggml.scores");
    m = base(true, "scores");
    meta_array(&m, "tokenizer.ggml.scores", GGUF_F32, N_TOKENS - 1, scores);
    assert_refused(&m, "tokenizer.ggml.scores");
    m = base(true, "scores");
    meta_array(&m, "tokenizer.ggml.scores", GGUF_U8, N_TOKENS, bytes);
    assert_refused(&m, "tokenizer.ggml.scores");
    m = base(true, "scores");
    meta_strs(&m, "tokenizer.ggml.scores", N_TOKENS, spm_tokens);
    assert_refused(&m, "tokenizer.ggml.scores");
    m = base(true, "scores");
    meta_array(&m, "tokenizer.ggml.scores", GGUF_F32, N_TOKENS, bad_scores);
    assert_refused(&m, "NaN");
    m = base(true, "types");
    meta_array(&m, "tokenizer.ggml.token_type", GGUF_I32, N_TOKENS - 1, spm_kinds);
    assert_refused(&m, "tokenizer.ggml.token_type");
    m = base(true, "types");
    meta_array(&m, "tokenizer.ggml.token_type", GGUF_U8, N_TOKENS, bytes);
    assert_refused(&m, "tokenizer.ggml.token_type");
    m = base(true, "types");
    meta_array(&m, "tokenizer.ggml.token_type", GGUF_I32, N_TOKENS, bad_kinds);
    assert_refused(&m, "type 99");
    bad_kinds[4] = -1;
    m = base(true, "types");
    meta_array(&m, "tokenizer.ggml.token_type", GGUF_I32, N_TOKENS, bad_kinds);
    assert_refused(&m, "type -1");
    // Without types they are told by their ids and texts.
    m = base(true, "types");
    assert_encodes(&m, "a</s>", 6, (int32_t[]){3, 4, 0, 0, 0, 0});
}

static void ids(void **state) {
    (void)state;
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.unknown_token_id",
                                       "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < 5; i++) {
        Meta m = base(true, "");
        meta_u32(&m, keys[i], 1000000000);
        assert_refused(&m, keys[i]);
        m = base(true, "");
        meta_u32(&m, keys[i], N_TOKENS);
        assert_refused(&m, keys[i]);
        m = base(true, "");
        meta_i32(&m, keys[i], -2);
        assert_refused(&m, keys[i]);
        m = base(true, "");
        meta_str(&m, keys[i], "1");
        assert_refused(&m, keys[i]);
    }
    // None: -1 in any width, as real files have it. Others that no one reads are only remarked on.
    Meta m = base(true, "");
    meta_u32(&m, "tokenizer.ggml.bos_token_id", UINT32_MAX);
    meta_i32(&m, "tokenizer.ggml.eos_token_id", -1);
    meta_u32(&m, "tokenizer.ggml.seperator_token_id", UINT32_MAX);
    meta_u32(&m, "tokenizer.ggml.padding_token_id", UINT32_MAX);
    assert_encodes(&m, "a", 2, (int32_t[]){3, 4});
    assert_non_null(strstr(notices, "no BOS"));
    assert_null(strstr(notices, "padding"));
    m = base(true, "");
    meta_u32(&m, "tokenizer.ggml.padding_token_id", 77);
    assert_encodes(&m, "a", 2, (int32_t[]){3, 4});
    assert_non_null(strstr(notices, "padding_token_id"));
    m = base(true, "");
    meta_u32(&m, "tokenizer.ggml.add_bos_token", 1);
    assert_refused(&m, "add_bos_token");
}

static Meta with_tokens(const char *const *texts, const int32_t *kinds) {
    Meta m = base(true, "tokens types");
    meta_strs(&m, "tokenizer.ggml.tokens", N_TOKENS, texts);
    meta_array(&m, "tokenizer.ggml.token_type", GGUF_I32, N_TOKENS, kinds);
    return m;
}

static void odd_tokens(void **state) {
    (void)state;
    static const char *const bad[] = {"<0x-1>", "<0x1>", "<0x123>", "<0xG0>",
                                      "",       "a",     "<0x0",    "<0x0 >"};
    static const int32_t kinds[N_TOKENS] = {2, 3, 3, 1, 1, 6};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *texts[N_TOKENS] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", bad[i]};
        Meta m = with_tokens(texts, kinds);
        assert_refused(&m, "byte token");
    }
    // Duplicates: the lowest id wins; an empty token is never found; one that is no UTF-8 is.
    static const char *const twice[N_TOKENS] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "a"};
    Meta m = with_tokens(twice, spm_kinds);
    assert_encodes(&m, "aa", 3, (int32_t[]){3, 4, 4});
    static const char *const broken[N_TOKENS] = {"<unk>",        "<s>", "</s>",
                                                 "\xe2\x96\x81", "",    "\xff\xe2"};
    m = with_tokens(broken, spm_kinds);
    assert_encodes(&m, "a\xff\xe2", 3, (int32_t[]){3, 0, 5});
    // A byte token is used where there is one, the unknown token elsewhere.
    static const char *const byte[N_TOKENS] = {"<unk>",        "<s>", "</s>",
                                               "\xe2\x96\x81", "a",   "<0x0a>"};
    m = with_tokens(byte, kinds);
    assert_encodes(&m, "\na\xc3\xa9", 4, (int32_t[]){3, 5, 4, 0});
    // Neither bytes nor an unknown token: not every text can be spelled.
    m = base(true, "");
    meta_u32(&m, "tokenizer.ggml.unknown_token_id", UINT32_MAX);
    assert_refused(&m, "cannot spell");
}

static void merges_and_pre(void **state) {
    (void)state;
    static const char *const malformed[] = {"ab", "", " ", " a", "a ", "a b c", "a  b"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        Meta m = base(false, "merges");
        meta_strs(&m, "tokenizer.ggml.merges", 1, &malformed[i]);
        assert_refused(&m, "tokenizer.ggml.merges");
    }
    Meta m = base(false, "merges");
    assert_refused(&m, "tokenizer.ggml.merges");
    m = base(false, "merges");
    meta_strs(&m, "tokenizer.ggml.merges", 0, NULL);
    assert_refused(&m, "tokenizer.ggml.merges");
    m = base(false, "merges");
    meta_array(&m, "tokenizer.ggml.merges", GGUF_U32, N_TOKENS, bpe_kinds);
    assert_refused(&m, "tokenizer.ggml.merges");
    m = base(false, "pre");
    meta_u32(&m, "tokenizer.ggml.pre", 3);
    assert_refused(&m, "tokenizer.ggml.pre");
#if HAVE_PCRE2
    static const char *const strangers[] = {"x y", "a b", "a c"};
    m = base(false, "merges");
    meta_strs(&m, "tokenizer.ggml.merges", 3, strangers);
    assert_encodes(&m, "ab", 1, (int32_t[]){2});
    assert_non_null(strstr(notices, "2 of 3 merges"));
    // Of equal merges the first counts: "a b" goes before "b c".
    static const char *const again[] = {"a b", "b c", "a b"};
    static const char *const tokens[N_TOKENS] = {"a", "b", "ab", "bc", "<e>", "c"};
    m = base(false, "merges tokens");
    meta_strs(&m, "tokenizer.ggml.tokens", N_TOKENS, tokens);
    meta_strs(&m, "tokenizer.ggml.merges", 3, again);
    assert_encodes(&m, "abc", 2, (int32_t[]){2, 5});
    m = base(false, "pre");
    meta_str(&m, "tokenizer.ggml.pre", "no-such\n");
    assert_encodes(&m, "ab", 1, (int32_t[]){2});
    assert_non_null(strstr(notices, "'no-such\\x0a' is not known, 'gpt-2' is used"));
    m = base(false, "pre");
    assert_encodes(&m, "ab", 1, (int32_t[]){2});
    assert_non_null(strstr(notices, "absent"));
#else
    m = base(false, "");
    assert_int_equal(try_meta(&m, NULL, NULL), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.text, "libpcre2-dev"));
#endif
}

// Files made to be slow: a hundred thousand tokens all the same, and special tokens that are each
// other's beginnings.
static void slow_on_purpose(void **state) {
    (void)state;
    enum { N = 100000 };
    const char **texts = calloc(N, sizeof *texts);
    int32_t *kinds = calloc(N, sizeof *kinds);
    float *zeros = calloc(N, sizeof *zeros);
    char *long_a = malloc(N + 1);
    assert_true(texts && kinds && zeros && long_a);
    for (int same = 0; same < 2; same++) {
        for (int i = 0; i < N; i++) long_a[i] = same ? "same"[i % 4] : 'a';
        long_a[N] = 0;
        for (int i = 0; i < N; i++) {
            texts[i] = same ? "same" : long_a + (N - 1 - i % 600);
            kinds[i] = i == 0 ? TOKEN_UNKNOWN : i % 2 ? TOKEN_CONTROL : TOKEN_USER;
        }
        Meta m = base(true, "tokens types scores");
        meta_strs(&m, "tokenizer.ggml.tokens", N, texts);
        meta_array(&m, "tokenizer.ggml.token_type", GGUF_I32, N, kinds);
        meta_array(&m, "tokenizer.ggml.scores", GGUF_F32, N, zeros);
        double start = clock_seconds();
        TokenList got = {0};
        if (try_meta(&m, long_a, &got) != OK) fail_msg("%s", err.text);
        assert_true(got.len > 0);
        tokens_free(&got);
        assert_true(clock_seconds() - start < 10);
    }
    free(texts);
    free(kinds);
    free(zeros);
    free(long_a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_base_is_right),
        cmocka_unit_test(models),
        cmocka_unit_test(token_lists),
        cmocka_unit_test(scores_and_types),
        cmocka_unit_test(ids),
        cmocka_unit_test(odd_tokens),
        cmocka_unit_test(merges_and_pre),
        cmocka_unit_test(slow_on_purpose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
