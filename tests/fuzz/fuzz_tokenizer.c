// Fuzz entry of the tokenizers. An input that starts with "GGUF" is a file, whose vocabulary
// encodes a few texts; any other is a text for small vocabularies of both kinds, with spans cut
// from it.
//
//   clang -g -O1 -fsanitize=fuzzer,address,undefined -DHAVE_PCRE2=1 -Isrc -Itests/unit
//         tests/fuzz/fuzz_tokenizer.c src/model/token*.c src/model/pretokenize.c
//         src/formats/gguf*.c src/formats/quants.c src/base/*.c -lpcre2-8 -lm -pthread -o
//         fuzz_tokenizer
#include "model/tokenizer.h"
#include "vocab_builder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Encodes and decodes; for plain text without specials, the same bytes must come back.
static void walk(const Tokenizer *t, const char *text, size_t len, bool comes_back) {
    TextSpan spans[3] = {{text, len / 3, true}, {text + len / 3, len / 3, false}};
    spans[2] = (TextSpan){text + 2 * (len / 3), len - 2 * (len / 3), true};
    TextSpan plain = {text, len, false};
    TokenList ids = {0};
    Text back = {0};
    Error err;
    if (tokenizer_encode(t, spans, 3, 0, &ids, &err) != OK) abort();
    if (tokenizer_decode(t, ids.data, ids.len, DECODE_SPECIAL, &back, &err) != OK) abort();
    for (size_t i = 0; i < ids.len; i++) (void)tokenizer_is_end(t, ids.data[i]);
    ids.len = back.len = 0;
    if (tokenizer_encode(t, &plain, 1, 0, &ids, &err) != OK) abort();
    if (tokenizer_decode(t, ids.data, ids.len, 0, &back, &err) != OK) abort();
    if (comes_back && (back.len != len || (len && memcmp(back.data, text, len) != 0))) abort();
    tokens_free(&ids);
    text_free(&back);
}

static Tokenizer *open_tokenizer(const void *data, size_t size, Gguf **g) {
    Tokenizer *t = NULL;
    Error err;
    if (gguf_open_memory(data, size, "fuzz.gguf", g, &err) != OK) return NULL;
    if (tokenizer_new(*g, (Notice){0}, &t, &err) == OK) return t;
    gguf_close(*g);
    return NULL;
}

static char names[600][8];

// All bytes as tokens, a few merges, a control and a user-defined token.
static Tokenizer *spm_tokenizer(Meta *m, Gguf **g) {
    static const char *texts[600];
    static int32_t kinds[600];
    static float scores[600];
    static const char *const more[] = {"<unk>",
                                       "<s>",
                                       "</s>",
                                       "\xe2\x96\x81",
                                       "a",
                                       "aa",
                                       "ab",
                                       "▁a",
                                       "<u>",
                                       "\n\n",
                                       "\xe2\x96\x81\xe2\x96\x81",
                                       "aaaa"};
    static const int32_t more_kinds[] = {2, 3, 3, 1, 1, 1, 1, 1, 4, 4, 1, 1};
    static const char hex[] = "0123456789ABCDEF";
    for (int i = 0; i < 12; i++)
        texts[i] = more[i], kinds[i] = more_kinds[i], scores[i] = (float)-i;
    for (int b = 0; b < 256; b++) {
        memcpy(names[b], "<0x00>", 7);
        names[b][3] = hex[b >> 4], names[b][4] = hex[b & 15];
        texts[12 + b] = names[b], kinds[12 + b] = 6;
    }
    meta_str(m, "tokenizer.ggml.model", "llama");
    meta_strs(m, "tokenizer.ggml.tokens", 268, texts);
    meta_array(m, "tokenizer.ggml.token_type", GGUF_I32, 268, kinds);
    meta_array(m, "tokenizer.ggml.scores", GGUF_F32, 268, scores);
    Error err;
    if (meta_open(m, g, &err) != OK) abort();
    gguf_close(*g);  // only for the bytes
    return open_tokenizer(m->file.data, m->file.len, g);
}

static Tokenizer *bpe_tokenizer(Meta *m, Gguf **g, const char *pre) {
    static const char *texts[600];
    static int32_t kinds[600];
    static const char *const more[] = {"<e>", "<u>", "ab", "aa", "aaaa", "Ġa"};
    static const char *const merges[] = {"a b", "a a", "aa aa", "\xc4\xa0 a"};
    int n = 0, high = 256;
    for (int b = 0; b < 256; b++, n++) {
        bool own = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
        int c = own ? b : high++;
        char *name = names[n];
        if (c < 0x80) {
            name[0] = (char)c, name[1] = 0;
        } else {
            name[0] = (char)(0xc0 | c >> 6), name[1] = (char)(0x80 | (c & 63)), name[2] = 0;
        }
        texts[n] = name, kinds[n] = 1;
    }
    for (int i = 0; i < 6; i++, n++) texts[n] = more[i], kinds[n] = i == 0 ? 3 : i == 1 ? 4 : 1;
    meta_str(m, "tokenizer.ggml.model", "gpt2");
    meta_str(m, "tokenizer.ggml.pre", pre);
    meta_strs(m, "tokenizer.ggml.tokens", (uint64_t)n, texts);
    meta_array(m, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)n, kinds);
    meta_strs(m, "tokenizer.ggml.merges", 4, merges);
    Error err;
    if (meta_open(m, g, &err) != OK) abort();
    gguf_close(*g);  // only for the bytes
    return open_tokenizer(m->file.data, m->file.len, g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const pres[] = {
        "gpt-2",  "default",      "llama-bpe",      "qwen2",       "smollm", "tekken",
        "gpt-4o", "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "bloom",
        "viking", "bailingmoe",   "seed-coder",     "qwen35"};
    enum { N_PRES = sizeof pres / sizeof *pres };
    static Meta metas[N_PRES + 1];
    static Gguf *files[N_PRES + 1];
    static Tokenizer *all[N_PRES + 1];
    if (!all[0]) {
        all[0] = spm_tokenizer(&metas[0], &files[0]);
        for (int i = 0; i < N_PRES; i++)
            all[i + 1] = bpe_tokenizer(&metas[i + 1], &files[i + 1], pres[i]);
        for (int i = 0; i <= N_PRES; i++) {
            if (!all[i]) abort();
        }
    }
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        Gguf *g;
        Tokenizer *t = open_tokenizer(data, size, &g);
        if (!t) return 0;
        static const char text[] = "Hello  w\xc3\xb6rld </s><|im_end|>\n\xff 12345 \xe2\x96\x81";
        walk(t, text, sizeof text - 1, false);
        tokenizer_free(t);
        gguf_close(g);
        return 0;
    }
    const char *text = (const char *)data;
    bool literal = false;  // U+2581 comes back as a space
    for (size_t i = 0; i + 3 <= size; i++)
        literal = literal || memcmp(text + i, "\xe2\x96\x81", 3) == 0;
    walk(all[0], text, size, !literal);
    for (int i = 1; i <= N_PRES; i++) walk(all[i], text, size, true);
    return 0;
}
