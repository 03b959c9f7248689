// See synth_vocab.h.
//
// In order: <unk> <s> </s>; the 256 byte tokens where there is room for them and all characters;
// the space mark and the printable ASCII characters; then words of consonant-vowel syllables, each
// also with a space mark before it. Every word can be reached by merging two shorter pieces, and
// earlier pieces have the better score, so that text is cut into pieces as by a trained vocabulary.
// An n too small for all characters simply ends early; unknown characters are <unk> then.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/synth_vocab.h"

#define SPACE_MARK "\xe2\x96\x81"  // U+2581

enum { N_BYTES = 256, N_CHARS = 1 + 94, MOST_BYTES = 24 };
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };  // tokenizer.ggml.token_type

static const char consonants[] = "bcdfghjklmnpqrstvwxz", vowels[] = "aeiou";
enum { N_VOWELS = sizeof vowels - 1, N_SYLLABLES = (sizeof consonants - 1) * N_VOWELS };

// Word k = 0, 1, ...: k + 1 in bijective base 100, whose digits are the syllables: no two are
// alike.
static void word(int k, char out[MOST_BYTES]) {
    int digits[8], n = 0;
    for (k++; k > 0; k = (k - 1) / N_SYLLABLES) digits[n++] = (k - 1) % N_SYLLABLES;
    while (n-- > 0) {
        *out++ = consonants[digits[n] / N_VOWELS];
        *out++ = vowels[digits[n] % N_VOWELS];
    }
    *out = '\0';
}

// Token number i of a vocabulary that has byte tokens or not; returns its type.
static int32_t token(int i, bool bytes, char out[MOST_BYTES]) {
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    if (i < 3) {
        snprintf(out, MOST_BYTES, "%s", special[i]);
        return i == 0 ? UNKNOWN : CONTROL;
    }
    i -= 3;
    if (bytes) {
        if (i < N_BYTES) {
            snprintf(out, MOST_BYTES, "<0x%02X>", (unsigned)i);
            return BYTE;
        }
        i -= N_BYTES;
    }
    if (i < N_CHARS) {
        if (i == 0) snprintf(out, MOST_BYTES, SPACE_MARK);
        if (i > 0) snprintf(out, MOST_BYTES, "%c", ' ' + i);
        return NORMAL;
    }
    i -= N_CHARS;
    char w[MOST_BYTES];
    word(i / 2, w);
    snprintf(out, MOST_BYTES, "%s%.16s", i % 2 ? SPACE_MARK : "", w);
    return NORMAL;
}

Status synth_put_vocab(GgufWriter *w, int n, Error *err) {
    size_t count = (size_t)n, bytes = count * (MOST_BYTES + sizeof(GgufStr) + 8);
    char(*text)[MOST_BYTES] = calloc(count, MOST_BYTES);
    GgufStr *strs = calloc(count, sizeof *strs);
    float *scores = calloc(count, sizeof *scores);
    int32_t *types = calloc(count, sizeof *types);
    Status st = OK;
    if (text && strs && scores && types) {
        bool has_bytes = n >= 3 + N_BYTES + N_CHARS;
        for (int i = 0; i < n; i++) {
            types[i] = token(i, has_bytes, text[i]);
            scores[i] = types[i] == NORMAL ? -(float)i : 0;
            strs[i] = (GgufStr){text[i], strlen(text[i])};
        }
        gguf_put_str(w, "tokenizer.ggml.model", "llama");
        gguf_put_str(w, "tokenizer.ggml.pre", "default");
        gguf_put_strs(w, "tokenizer.ggml.tokens", count, strs);
        gguf_put_array(w, "tokenizer.ggml.scores", GGUF_F32, count, scores);
        gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_I32, count, types);
        gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", 0);
        gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
        gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
        gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
        gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
    } else {
        st = error_memory(err, "a vocabulary", bytes);
    }
    free(text);
    free(strs);
    free(scores);
    free(types);
    return st;
}
