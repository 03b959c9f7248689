// Tokenizers against reference ids, and the properties that hold for any text.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/utf8.h"
#include "model/tokenizer.h"
#include "vocab_builder.h"

#if HAVE_JANSSON
#include <jansson.h>
#endif

#define GOLDEN "tests/golden/tokenizers/"
#define SHARED "../shared/tokenizers/ggml-vocab-"
static const Notice quiet = {NULL, NULL};
static Error err;

typedef struct {
    Gguf *g;
    Tokenizer *t;
} Loaded;

static Loaded load(const char *path) {
    Loaded l = {0};
    if (gguf_open(path, &l.g, &err) != OK || tokenizer_new(l.g, quiet, &l.t, &err) != OK) {
        fail_msg("%s", err.text);
    }
    return l;
}

static void unload(Loaded *l) {
    tokenizer_free(l->t);
    gguf_close(l->g);
}

static bool missing(const char *path) {
    if (access(path, R_OK) == 0) return false;
    print_message("skipped: %s is not there\n", path);
    return true;
}

static TokenList encode(const Tokenizer *t, const char *text, size_t len, bool special,
                        unsigned flags) {
    TokenList ids = {0};
    TextSpan span = {text, len, special};
    if (tokenizer_encode(t, &span, 1, flags, &ids, &err) != OK) fail_msg("%s", err.text);
    return ids;
}

static void assert_ids(const TokenList *got, const int32_t *want, size_t n, const char *what) {
    bool same = got->len == n && (n == 0 || memcmp(got->data, want, n * sizeof *want) == 0);
    if (same) return;
    for (size_t i = 0; i < got->len; i++) print_message("%d ", got->data[i]);
    print_message("<- got, want ->");
    for (size_t i = 0; i < n; i++) print_message(" %d", want[i]);
    fail_msg("ids of '%s' differ", what);
}

static void assert_round_trip(const Tokenizer *t, const char *text, size_t len, unsigned flags) {
    Text back = {0};
    TokenList ids = encode(t, text, len, false, flags);
    assert_int_equal(tokenizer_decode(t, ids.data, ids.len, 0, &back, &err), OK);
    if (back.len != len || (len && memcmp(back.data, text, len) != 0)) {
        fail_msg("'%.*s' came back as '%s'", (int)len, text, back.data ? back.data : "");
    }
    text_free(&back);
    tokens_free(&ids);
}

#if HAVE_JANSSON
static TokenList json_ids(const json_t *a) {
    TokenList ids = {0};
    for (size_t i = 0; i < json_array_size(a); i++) {
        assert_true(tokens_append(&ids, (int32_t)json_integer_value(json_array_get(a, i))));
    }
    return ids;
}

static void check_golden(const char *name, const char *path) {
    json_t *all = json_load_file(GOLDEN "tokenizers.json", JSON_ALLOW_NUL, NULL);
    assert_non_null(all);
    json_t *strings = json_object_get(all, "strings");
    json_t *ids = json_object_get(json_object_get(all, "ids"), name);
    assert_int_equal(json_array_size(strings), 131);
    assert_int_equal(json_array_size(ids), 131);
    Loaded l = load(path);
    for (size_t i = 0; i < 131; i++) {
        const char *text = json_string_value(json_array_get(strings, i));
        size_t len = json_string_length(json_array_get(strings, i));
        TokenList want = json_ids(json_array_get(ids, i));
        TokenList got = encode(l.t, text, len, false, ENCODE_NO_BOS);
        assert_ids(&got, want.data, want.len, text);
        // SentencePiece writes a space as U+2581 and cannot tell the two apart afterwards.
        bool ambiguous = strcmp(name, "spm-demo") == 0 && strstr(text, "\xe2\x96\x81");
        if (!ambiguous) assert_round_trip(l.t, text, len, 0);
        tokens_free(&want);
        tokens_free(&got);
    }
    unload(&l);
    json_decref(all);
}

static void golden_spm(void **state) {
    (void)state;
    check_golden("spm-demo", "models/demo.gguf");
}

// The chats of demo-golden.json: what the template writes is special, what the user writes is not.
static void golden_demo_chats(void **state) {
    (void)state;
    static const char *const names[] = {"hello", "capital", "sum", "owl", "story"};
    json_t *all = json_load_file("tests/golden/demo-golden.json", 0, NULL);
    assert_non_null(all);
    Loaded l = load("models/demo.gguf");
    for (size_t k = 0; k < 5; k++) {
        json_t *chat = json_object_get(all, names[k]);
        json_t *segments = json_object_get(chat, "segments");
        TokenList want = json_ids(json_object_get(chat, "ids")), got = {0};
        Text text = {0};
        for (size_t i = 0; i < json_array_size(segments); i++) {
            if (i) assert_true(text_append_str(&text, "</s>"));
            assert_true(text_append_str(&text, json_string_value(json_array_get(segments, i))));
        }
        TextSpan span = {text.data, text.len, true};
        assert_int_equal(tokenizer_encode(l.t, &span, 1, 0, &got, &err), OK);
        assert_ids(&got, want.data, want.len, names[k]);
        // The answer's text.
        TokenList answer = json_ids(json_object_get(chat, "greedy_ids"));
        text.len = 0;
        assert_int_equal(tokenizer_decode(l.t, answer.data, answer.len, 0, &text, &err), OK);
        const char *greedy = json_string_value(json_object_get(chat, "greedy_text"));
        if (k < 3) assert_string_equal(text.data, greedy);
        text_free(&text);
        tokens_free(&want);
        tokens_free(&got);
        tokens_free(&answer);
    }
    unload(&l);
    json_decref(all);
}

#if HAVE_PCRE2
static void golden_bpe(void **state) {
    (void)state;
    static const char *const names[] = {"bpe-gpt-2", "bpe-llama-bpe", "bpe-qwen2", "bpe-smollm",
                                        "bpe-tekken"};
    for (size_t i = 0; i < 5; i++) {
        char path[100];
        snprintf(path, sizeof path, GOLDEN "%s.gguf", names[i]);
        check_golden(names[i], path);
    }
}
#endif
#endif

// The .inp/.out pair beside a vocabulary.
static void check_pair(const char *name) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char path[200], inp[210], out[210];
    snprintf(path, sizeof path, SHARED "%s.gguf", name);
    snprintf(inp, sizeof inp, "%s.inp", path);
    snprintf(out, sizeof out, "%s.out", path);
    if (missing(path)) skip();
    Text in = {0}, want = {0};
    assert_int_equal(file_read(inp, 1 << 20, &in, &err), OK);
    assert_int_equal(file_read(out, 1 << 20, &want, &err), OK);
    Loaded l = load(path);
    const char *at = in.data, *line = want.data, *end;
    size_t n = 0;
    for (; (end = strstr(at, separator)) != NULL; at = end + sizeof separator - 1, n++) {
        TokenList ids = {0};
        for (char *stop; *line && *line != '\n'; line = stop + strspn(stop, " ")) {
            assert_true(tokens_append(&ids, (int32_t)strtol(line, &stop, 10)));
            assert_ptr_not_equal(stop, line);
        }
        line += *line == '\n';
        TokenList got = encode(l.t, at, (size_t)(end - at), false, ENCODE_NO_BOS);
        assert_ids(&got, ids.data, ids.len, at);
        assert_round_trip(l.t, at, (size_t)(end - at), 0);
        tokens_free(&ids);
        tokens_free(&got);
    }
    assert_true(n > 40 && *line == 0);
    unload(&l);
    text_free(&in);
    text_free(&want);
}

static void pair_llama_spm(void **state) {
    (void)state;
    check_pair("llama-spm");
}

#if HAVE_PCRE2
static void pair_gpt_2(void **state) {
    (void)state;
    check_pair("gpt-2");
}

static void pair_falcon(void **state) {
    (void)state;
    check_pair("falcon");
}

static void pair_deepseek_coder(void **state) {
    (void)state;
    check_pair("deepseek-coder");
}
#endif

// conventions.md, "Facts for the tokenizer".
static void facts_of_llama(void **state) {
    (void)state;
    static const char capital[] = "<|user|>\nWhat is the capital of France?</s>\n<|assistant|>\n";
    static const int32_t want_capital[] = {1,   529,   29989, 1792, 29989, 29958, 13,    5618,
                                           338, 278,   7483,  310,  3444,  29973, 2,     29871,
                                           13,  29966, 29989, 465,  22137, 29989, 29958, 13};
    static const char hello[] = "<|user|>\nHello</s>\n<|assistant|>\n";
    static const int32_t want_hello[] = {1,     529, 29989, 1792,  29989, 29958, 13,    10994, 2,
                                         29871, 13,  29966, 29989, 465,   22137, 29989, 29958, 13};
    if (missing(SHARED "llama-spm.gguf")) skip();
    Loaded l = load(SHARED "llama-spm.gguf");
    TokenList got = encode(l.t, capital, strlen(capital), true, 0);
    assert_ids(&got, want_capital, sizeof want_capital / sizeof(int32_t), capital);
    tokens_free(&got);
    got = encode(l.t, hello, strlen(hello), true, 0);
    assert_ids(&got, want_hello, sizeof want_hello / sizeof(int32_t), hello);
    tokens_free(&got);
    // As text of a user, "</s>" is no token of its own.
    got = encode(l.t, "</s>", 4, false, ENCODE_NO_BOS);
    for (size_t i = 0; i < got.len; i++) assert_int_not_equal(got.data[i], 2);
    tokens_free(&got);
    unload(&l);
}

static uint32_t rng_state = 7;

static uint32_t rng(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 17;
    return rng_state ^= rng_state << 5;
}

static size_t random_text(char *out, size_t most, bool any_2581) {
    static const uint32_t ranges[][2] = {{0, 0x7f},        {0x20, 0x7e},       {0x20, 0x21},
                                         {0x80, 0x2ff},    {0x300, 0x36f},     {0x400, 0x5ff},
                                         {0x900, 0x97f},   {0x2000, 0x206f},   {0x2580, 0x2582},
                                         {0x4e00, 0x9fff}, {0x1f300, 0x1f6ff}, {0, 0x10ffff}};
    size_t len = 0, want = rng() % most;
    while (len < want) {
        const uint32_t *range = ranges[rng() % 12];
        uint32_t c = range[0] + rng() % (range[1] - range[0] + 1);
        if (c == 0x2581 && !any_2581) continue;
        len += utf8_put(c, out + len);
    }
    return len;
}

static void check_random(const char *path) {
    if (missing(path)) return;
    Loaded l = load(path);
    bool bpe = strcmp(tokenizer_model_name(l.t), "gpt2") == 0;
    char text[64];
    for (int i = 0; i < 20000; i++) {
        size_t len = random_text(text, 48, bpe);
        assert_round_trip(l.t, text, len, i & 1 ? ENCODE_NO_BOS : 0);
    }
    // Any bytes, special tokens parsed or not. Our own vocabularies have a token for every byte.
    bool every_byte = strncmp(path, "../", 3) != 0;
    for (int i = 0; i < 5000; i++) {
        size_t len = rng() % sizeof text;
        for (size_t k = 0; k < len; k++) text[k] = (char)(rng() % 4 ? rng() : 0x80 + rng() % 0x80);
        TokenList ids = encode(l.t, text, len, i & 1, 0);
        Text back = {0};
        assert_int_equal(tokenizer_decode(l.t, ids.data, ids.len, 0, &back, &err), OK);
        if (every_byte && !(i & 1)) {
            assert_int_equal(back.len, len);
            assert_true(len == 0 || memcmp(back.data, text, len) == 0);
        }
        text_free(&back);
        tokens_free(&ids);
    }
    unload(&l);
}

static void any_text_comes_back_spm(void **state) {
    (void)state;
    check_random("models/demo.gguf");
    check_random("../shared/models/stories260K.gguf");
    check_random(SHARED "llama-spm.gguf");
}

#if HAVE_PCRE2
static void any_text_comes_back_bpe(void **state) {
    (void)state;
    check_random(GOLDEN "bpe-gpt-2.gguf");
    check_random(GOLDEN "bpe-llama-bpe.gguf");
    check_random(GOLDEN "bpe-qwen2.gguf");
    check_random(GOLDEN "bpe-smollm.gguf");
    check_random(GOLDEN "bpe-tekken.gguf");
    check_random(SHARED "gpt-2.gguf");
    check_random(SHARED "deepseek-coder.gguf");
}
#endif

// Texts that would be slow in a quadratic algorithm: those of a million bytes would take it an
// hour, the others minutes.
static void check_long(const char *path) {
    static const char *const units[] = {"a",
                                        " ",
                                        "\n",
                                        "1",
                                        "A",
                                        "中",
                                        "中A",
                                        " \t",
                                        "  x",
                                        "'",
                                        "<",
                                        "e\xcc\x81",
                                        "ab ",
                                        " \xe4\xb8\xad",
                                        "The quick brown fox, ",
                                        "\xff",
                                        "<|",
                                        "</s",
                                        ".",
                                        "\xc2\x85"};
    if (missing(path)) return;
    Loaded l = load(path);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        Text text = {0};
        size_t len = i < 2 ? 1000000 : 200000;
        while (text.len < len) assert_true(text_append_str(&text, units[i]));
        double start = clock_seconds();
        TokenList ids = encode(l.t, text.data, text.len, true, 0);
        double seconds = clock_seconds() - start;
        if (seconds > 10) fail_msg("%s: %zu bytes of '%s' took %g s", path, len, units[i], seconds);
        // Some vocabularies lack the byte ff, and spend nothing on it.
        assert_true(ids.len > 1000 || units[i][0] == '\xff');
        tokens_free(&ids);
        text_free(&text);
    }
    unload(&l);
}

static void long_texts_take_linear_time(void **state) {
    (void)state;
    check_long("models/demo.gguf");
    check_long(SHARED "llama-spm.gguf");
#if HAVE_PCRE2
    check_long(GOLDEN "bpe-llama-bpe.gguf");
    check_long(GOLDEN "bpe-tekken.gguf");
    check_long(SHARED "falcon.gguf");
    check_long(SHARED "deepseek-coder.gguf");
#endif
}

// ids:             0        1      2       3       4     5    6    7      8       9       10
static const char *const small[] = {
    "<unk>",  "<s>", "</s>", "\xe2\x96\x81",  "a",         "b", "ab", "<u>",
    "<u><u>", "<c>", "<u>!", "a\xe2\x96\x81", "<|im_end|>"};
enum { N_SMALL = 13 };

static Meta small_vocab(void) {
    static const float scores[N_SMALL] = {0, 0, 0, -1, -2, -3, -4, 0, 0, 0, 0, -9, 0};
    static const int32_t kinds[N_SMALL] = {2, 3, 3, 1, 1, 1, 1, 4, 4, 3, 3, 1, 4};
    Meta m = {0};
    meta_str(&m, "general.architecture", "llama");
    meta_str(&m, "tokenizer.ggml.model", "llama");
    meta_strs(&m, "tokenizer.ggml.tokens", N_SMALL, small);
    meta_array(&m, "tokenizer.ggml.scores", GGUF_F32, N_SMALL, scores);
    meta_array(&m, "tokenizer.ggml.token_type", GGUF_I32, N_SMALL, kinds);
    return m;
}

static Loaded open_meta(Meta *m) {
    Loaded l = {0};
    if (meta_open(m, &l.g, &err) != OK || tokenizer_new(l.g, quiet, &l.t, &err) != OK) {
        fail_msg("%s", err.text);
    }
    return l;
}

#define CHECK_IDS(t, spans, flags, ...)                                                        \
    do {                                                                                       \
        TokenList ids_ = {0};                                                                  \
        static const int32_t want_[] = {__VA_ARGS__};                                          \
        assert_int_equal(                                                                      \
            tokenizer_encode(t, spans, sizeof spans / sizeof *spans, flags, &ids_, &err), OK); \
        assert_ids(&ids_, want_, sizeof want_ / sizeof *want_, spans[0].text);                 \
        tokens_free(&ids_);                                                                    \
    } while (0)

static void special_tokens(void **state) {
    (void)state;
    Meta m = small_vocab();
    Loaded l = open_meta(&m);
    // User-defined ones everywhere, the longest first, and a space prefix after each.
    TextSpan user[] = {{"a<u>b<u><u>a", 12, false}};
    CHECK_IDS(l.t, user, 0, 1, 3, 4, 7, 3, 5, 8, 3, 4);
    assert_round_trip(l.t, "a<u>b<u><u>a", 12, 0);
    assert_round_trip(l.t, " a <u> b<u>", 11, 0);
    // Control ones only where asked, and the longest that is allowed.
    TextSpan control[] = {{"<c>a", 4, true}};
    CHECK_IDS(l.t, control, ENCODE_NO_BOS, 9, 3, 4);
    TextSpan longest[] = {{"<u>!", 4, true}};
    CHECK_IDS(l.t, longest, ENCODE_NO_BOS, 10);
    TextSpan shorter[] = {{"<u>!", 4, false}};
    CHECK_IDS(l.t, shorter, ENCODE_NO_BOS, 7, 3, 0);
    // Not across the border of a span, though the text is one; user-defined ones and merges are.
    TextSpan broken[] = {{"<c", 2, true}, {">a", 2, true}};
    CHECK_IDS(l.t, broken, ENCODE_NO_BOS, 3, 0, 0, 0, 4);
    TextSpan joined[] = {{"<", 1, false}, {"", 0, true}, {"u>a", 3, true}, {"b", 1, false}};
    CHECK_IDS(l.t, joined, ENCODE_NO_BOS, 7, 3, 6);
    TextSpan beside[] = {{"a", 1, false}, {"<c>", 3, true}, {"<c>", 3, false}};
    CHECK_IDS(l.t, beside, ENCODE_NO_BOS, 3, 4, 9, 3, 0, 0, 0);
    // BOS once, whoever brings it.
    TextSpan bos[] = {{"<s>a", 4, true}};
    CHECK_IDS(l.t, bos, 0, 1, 3, 4);
    CHECK_IDS(l.t, bos, ENCODE_NO_BOS, 1, 3, 4);
    TextSpan late[] = {{"a<s>", 4, true}};
    CHECK_IDS(l.t, late, 0, 1, 3, 4, 1);
    TextSpan twice[] = {{"<s><s>", 6, true}};
    CHECK_IDS(l.t, twice, 0, 1, 1);
    TextSpan nothing[] = {{"", 0, true}};
    CHECK_IDS(l.t, nothing, 0, 1);
    // A merge over a space, where the vocabulary has one.
    TextSpan spaced[] = {{"a b", 3, false}};
    CHECK_IDS(l.t, spaced, ENCODE_NO_BOS, 3, 11, 5);
    unload(&l);
    meta_free(&m);
}

static void ends_and_ids(void **state) {
    (void)state;
    Meta m = small_vocab();
    meta_bool(&m, "tokenizer.ggml.add_eos_token", true);
    meta_u32(&m, "tokenizer.ggml.eot_token_id", 9);
    meta_u32(&m, "tokenizer.ggml.padding_token_id", UINT32_MAX);
    Loaded l = open_meta(&m);
    assert_int_equal(tokenizer_n_vocab(l.t), N_SMALL);
    assert_int_equal(tokenizer_bos(l.t), 1);
    assert_int_equal(tokenizer_eos(l.t), 2);
    assert_int_equal(tokenizer_unk(l.t), 0);
    assert_true(tokenizer_adds_bos(l.t) && tokenizer_adds_eos(l.t));
    for (int32_t id = -1; id <= N_SMALL; id++) {
        bool end = id == 2 || id == 9 || id == 12;
        assert_int_equal(tokenizer_is_end(l.t, id), end);
    }
    // What ends a turn is no user's to write, whatever the file calls it.
    assert_int_equal(tokenizer_token_kind(l.t, 12), TOKEN_CONTROL);
    assert_int_equal(tokenizer_token_kind(l.t, 7), TOKEN_USER);
    TextSpan text[] = {{"a", 1, false}}, with_eos[] = {{"a</s>", 5, true}};
    CHECK_IDS(l.t, text, 0, 1, 3, 4, 2);
    CHECK_IDS(l.t, with_eos, 0, 1, 3, 4, 2);
    assert_int_equal(tokenizer_find(l.t, "ab", 2), 6);
    assert_int_equal(tokenizer_find(l.t, "</s>", 4), 2);
    assert_int_equal(tokenizer_find(l.t, "abc", 3), -1);
    assert_int_equal(tokenizer_find(l.t, "", 0), -1);
    assert_true(tokenizer_token_score(l.t, 5) == -3.0f);
    assert_int_equal(tokenizer_token_text(l.t, 6).len, 2);
    assert_int_equal(tokenizer_token_text(l.t, -1).len, 0);
    unload(&l);
    meta_free(&m);
}

static void decoding(void **state) {
    (void)state;
    Meta m = small_vocab();
    Loaded l = open_meta(&m);
    const int32_t ids[] = {1, 3, 4, 7, 3, 5, 2};
    Text out = {0};
    assert_int_equal(tokenizer_decode(l.t, ids, 7, 0, &out, &err), OK);
    assert_string_equal(out.data, "a<u>b");
    out.len = 0;
    assert_int_equal(tokenizer_decode(l.t, ids, 7, DECODE_SPECIAL, &out, &err), OK);
    assert_string_equal(out.data, "<s>a<u>b</s>");
    out.len = 0;
    assert_int_equal(tokenizer_decode(l.t, ids, 7, DECODE_KEEP_SPACE, &out, &err), OK);
    assert_string_equal(out.data, " a<u> b");
    const int32_t bad[] = {4, N_SMALL}, worse[] = {4, -1};
    assert_int_equal(tokenizer_decode(l.t, bad, 2, 0, &out, &err), ERR_USAGE);
    assert_int_equal(tokenizer_decode(l.t, worse, 2, 0, &out, &err), ERR_USAGE);
    assert_string_equal(out.data, " a<u> b");  // untouched
    assert_false(tokenizer_piece(l.t, N_SMALL, 0, &out));
    out.len = 0;
    assert_true(tokenizer_piece(l.t, 11, 0, &out));
    assert_true(tokenizer_piece(l.t, 3, 0, &out));
    assert_string_equal(out.data, "a  ");
    text_free(&out);
    unload(&l);
    meta_free(&m);
}

// Phi-3's special tokens take the white space after them along.
static void phi3_strips(void **state) {
    (void)state;
    Meta m = small_vocab();
    meta_str(&m, "general.name", "Phi-3 Mini");
    Loaded l = open_meta(&m);
    TextSpan text[] = {{"<c> \na<s> a", 11, true}};
    CHECK_IDS(l.t, text, ENCODE_NO_BOS, 9, 3, 4, 1, 3, 3, 4);
    unload(&l);
    meta_free(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#if HAVE_JANSSON
        cmocka_unit_test(golden_spm),
        cmocka_unit_test(golden_demo_chats),
#if HAVE_PCRE2
        cmocka_unit_test(golden_bpe),
#endif
#endif
        cmocka_unit_test(pair_llama_spm),
#if HAVE_PCRE2
        cmocka_unit_test(pair_gpt_2),
        cmocka_unit_test(pair_falcon),
        cmocka_unit_test(pair_deepseek_coder),
        cmocka_unit_test(any_text_comes_back_bpe),
#endif
        cmocka_unit_test(facts_of_llama),
        cmocka_unit_test(any_text_comes_back_spm),
        cmocka_unit_test(long_texts_take_linear_time),
        cmocka_unit_test(special_tokens),
        cmocka_unit_test(ends_and_ids),
        cmocka_unit_test(decoding),
        cmocka_unit_test(phi3_strips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
