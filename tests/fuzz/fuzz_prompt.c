// Any ids, with any text or none, in any template: findings of one line each, and no failure that
// a text-less prompt cannot have.
#include <stdlib.h>
#include <string.h>

#include "verify/prompt_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const files[] = {"models/demo.gguf", "tests/golden/tokenizers/bpe-qwen2.gguf",
                                    "tests/golden/tokenizers/bpe-llama-bpe.gguf"};
enum { N_FILES = sizeof files / sizeof *files, MOST_IDS = 400 };

static Gguf *ggufs[N_FILES];
static Tokenizer *tokenizers[N_FILES];

static void open_files(void) {
    for (int i = 0; i < N_FILES; i++) {
        if (gguf_open(files[i], &ggufs[i], NULL)) abort();
        if (tokenizer_new(ggufs[i], (Notice){0}, &tokenizers[i], NULL)) abort();
    }
}

// data: file and what is known, template, number of ids, ids of two bytes, the text.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3) return 0;
    if (!ggufs[0]) open_files();
    const int file = data[0] % N_FILES;
    const bool odd = data[0] & 0x40, known = data[0] & 0x80;
    int32_t ids[MOST_IDS];
    size_t n = data[2], at = 3;
    for (size_t i = 0; i < n; i++, at += 2) {
        if (at + 2 > size || i == MOST_IDS) n = i;
        if (i < n) ids[i] = data[at] | data[at + 1] << 8;
    }
    char text[600] = "";
    const size_t left = at < size ? size - at : 0, len = left < 599 ? left : 599;
    if (len) memcpy(text, data + at, len);
    text[len] = 0;
    const TracePrompt p = {.name = "", .tokens = ids, .n_tokens = n, .chosen = -1};
    const PromptCheck o = {.text = known ? text : NULL, .allow_odd = odd};
    Report r;
    Error err = {0};
    report_init(&r);
    if (prompt_check(ggufs[file], tokenizers[file], chat_template_at(data[1]), &p, &o, &r, 0,
                     &err)) {
        abort();
    }
    for (size_t i = 0; i < r.n_findings; i++) {
        const Finding *f = &r.findings[i];
        const bool outside = strcmp(f->id, "ids-outside-vocabulary") == 0;
        if (!f->text[0] || strchr(f->text, '\n')) abort();
        if (odd && f->outcome == OUTCOME_FAIL && !outside) abort();
        if (!known && strcmp(f->id, "ids-differ") == 0) abort();
    }
    report_free(&r);
    return 0;
}
