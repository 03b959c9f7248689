// Fuzz entry of the chat templates: the input is a Jinja text to recognise, and the messages of a
// chat that every known template renders; nothing may be lost but what templates trim.
//
//   clang -g -O1 -fsanitize=fuzzer,address,undefined -DHAVE_PCRE2=1 -Isrc -Itests/unit
//         tests/fuzz/fuzz_template.c src/model/chat_*.c src/model/token*.c src/model/pretokenize.c
//         src/formats/gguf*.c src/formats/quants.c src/base/*.c -lpcre2-8 -lm -pthread
//         -o fuzz_template
#include "model/chat_template.h"
#include "vocab_builder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void detect(const char *jinja) {
    static const char *const texts[] = {"<unk>", "<s>", "</s>", "<|im_start|>"};
    static const int32_t kinds[] = {2, 3, 3, 3};
    static const float scores[4] = {0};
    Meta m = {0};
    Gguf *g;
    Tokenizer *tok;
    const ChatTemplate *t;
    Error err;
    meta_str(&m, "tokenizer.ggml.model", "llama");
    meta_strs(&m, "tokenizer.ggml.tokens", 4, texts);
    meta_array(&m, "tokenizer.ggml.token_type", GGUF_I32, 4, kinds);
    meta_array(&m, "tokenizer.ggml.scores", GGUF_F32, 4, scores);
    meta_str(&m, "tokenizer.chat_template", jinja);
    if (meta_open(&m, &g, &err) != OK || tokenizer_new(g, (Notice){0}, &tok, &err) != OK) abort();
    if (chat_template_detect(g, tok, (Notice){0}, &t, &err) != OK) abort();
    if (jinja[0] && !t) abort();
    tokenizer_free(tok);
    gguf_close(g);
    meta_free(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    ChatMessage messages[8];
    size_t n = 0;
    char *text = malloc(size + 1);
    if (!text) return 0;
    memcpy(text, data, size);
    text[size] = 0;
    detect(text);
    // Messages end at 0xff bytes; the byte after it is the role.
    for (char *at = text; at && n < 8; n++) {
        char *end = memchr(at, 0xff, (size_t)(text + size - at));
        if (end) *end = 0;
        messages[n] = (ChatMessage){roles[(uint8_t)at[0] % 4], at[0] ? at + 1 : at};
        at = end ? end + 1 : NULL;
    }
    for (int i = 0; chat_template_at(i); i++) {
        ChatText out;
        Error err;
        Status st = chat_template_render(chat_template_at(i), messages, n, size & 1, &out, &err);
        if (st != OK && st != ERR_USAGE) abort();
        if (st != OK) continue;
        Text joined = {0};
        for (size_t k = 0; k < out.n_spans; k++) {
            if (!text_append(&joined, out.spans[k].text, out.spans[k].len)) abort();
        }
        text_free(&joined);
        chat_text_free(&out);
    }
    free(text);
    return 0;
}
