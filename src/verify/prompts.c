// The prompts of verify; see prompts.h.
#include "verify/prompts.h"

#include <stdlib.h>
#include <string.h>

enum { FEWEST = 18, MOST = 24, SHORT = 20, LONG = 1200 };

const PromptInfo *prompt_info(VerifyPrompt p) {
    static const PromptInfo infos[N_VERIFY_PROMPTS] = {
        {"bos", "BOS alone", "cannot see RoPE, mask, cache, softmax"},
        {"chat", "18 to 24 tokens of a chat", ""},
        {"chunks", "24 tokens, prefilled and decoded in uneven chunks", ""},
        {"repeat", "one token 20 times", "cannot see how values are mixed"},
        {"long", "up to 1200 distinct tokens", ""},
    };
    return &infos[p];
}

// --- ids that a vocabulary has ----------------------------------------------------------------

// BOS as the vocabulary has it; without a tokenizer 1, as most have it; -1: none is put first.
static int32_t first_id(const Model *m, const Tokenizer *tok) {
    if (!tok) return m->h.n_vocab > 1 ? 1 : 0;
    return tokenizer_adds_bos(tok) ? tokenizer_bos(tok) : -1;
}

// Ids of ordinary text: nothing that begins, ends or stands for something else. A model without a
// tokenizer has them from 3 on, where it has enough.
static Status plain_ids(const Model *m, const Tokenizer *tok, TokenList *out, Error *err) {
    const int32_t n = m->h.n_vocab, first = !tok && n > 8 ? 3 : 0;
    for (int pass = 0; pass < 2 && out->len == 0; pass++) {  // a vocabulary of specials: all
        for (int32_t id = first; id < n; id++) {
            bool plain = pass > 0 || (!tok && id != first_id(m, tok));
            if (!plain && tok && id < tokenizer_n_vocab(tok)) {
                const TokenKind kind = tokenizer_token_kind(tok, id);
                plain = (kind == TOKEN_NORMAL || kind == TOKEN_BYTE) && !tokenizer_is_end(tok, id);
                plain = plain && id != tokenizer_bos(tok) && id != tokenizer_eos(tok);
            }
            if (plain && !tokens_append(out, id)) {
                return error_memory(err, "token ids", out->len * sizeof(int32_t));
            }
        }
    }
    return OK;
}

static size_t common_divisor(size_t a, size_t b) {
    while (b) {
        const size_t rest = a % b;
        a = b, b = rest;
    }
    return a;
}

// n ids (or as many as can be) of which no two neighbours ever come twice: laps through all ids,
// each with a step of its own that visits every id once. The first lap is of distinct ids, far
// apart.
static bool append_laps(const TokenList *ids, size_t start, size_t n, TokenList *out) {
    const size_t v = ids->len, wanted = v * 618 / 1000 + 1;
    size_t at = start % v, left = n;
    if (left-- && !tokens_append(out, ids->data[at])) return false;
    for (size_t k = 0; k < v && left; k++) {
        const size_t step = (wanted + k) % v;
        if (step == 0 || common_divisor(step, v) != 1) continue;
        for (size_t i = 0; i < v && left; i++, left--) {
            at = (at + step) % v;
            if (!tokens_append(out, ids->data[at])) return false;
        }
    }
    return true;
}

// n tokens in all, BOS first where the vocabulary wants it.
static Status made_up(const Model *m, const Tokenizer *tok, size_t start, size_t n, TokenList *out,
                      Error *err) {
    TokenList ids = {0};
    const int32_t bos = first_id(m, tok);
    Status st = plain_ids(m, tok, &ids, err);
    bool ok = true;
    if (!st && n && bos >= 0) ok = tokens_append(out, bos), n--;
    if (!st && ok && n) ok = append_laps(&ids, start, n, out);
    if (!ok) st = error_memory(err, "token ids", n * sizeof(int32_t));
    tokens_free(&ids);
    return st;
}

// --- a chat -----------------------------------------------------------------------------------

static Status encode_question(const Tokenizer *tok, const ChatTemplate *t, const char *question,
                              TokenList *out, Error *err) {
    const ChatMessage message = {"user", question};
    const TextSpan raw = {question, strlen(question), false};
    if (!t) return tokenizer_encode(tok, &raw, 1, 0, out, err);
    ChatText text = {0};
    Status st = chat_template_render(t, &message, 1, true, &text, err);
    if (!st) st = tokenizer_encode(tok, text.spans, text.n_spans, 0, out, err);
    chat_text_free(&text);
    return st;
}

// The shortest question that makes enough tokens; what is too long ends early, but never in a token
// that ends an answer.
static Status chat(const Tokenizer *tok, const ChatTemplate *t, TokenList *out, Error *err) {
    static const char *const questions[] = {
        "Hi!",
        "Who are you?",
        "What is the capital of France?",
        "What is the capital of France, and why?",
        "Name three animals that live in the sea, and two that can fly.",
        "Tell me a short story about an owl, a river and a very small house in the woods, please.",
        "Add 12 and 30, then tell me of an owl, a river, and the 42 houses on the other side.",
    };
    const size_t n = sizeof questions / sizeof *questions;
    Status st = OK;
    for (size_t i = 0; !st && i < n && out->len < FEWEST; i++) {
        out->len = 0;
        st = encode_question(tok, t, questions[i], out, err);
    }
    if (out->len > MOST) out->len = MOST;
    while (out->len > 1 && tokenizer_is_end(tok, out->data[out->len - 1])) out->len--;
    return st;
}

// --- all --------------------------------------------------------------------------------------

static Status repeated(const Model *m, const Tokenizer *tok, TokenList *out, Error *err) {
    TokenList ids = {0};
    Status st = plain_ids(m, tok, &ids, err);
    // Without BOS: its values would be others.
    for (int i = 0; !st && i < SHORT; i++) {
        if (tokens_append(out, ids.data[ids.len / 2])) continue;
        st = error_memory(err, "token ids", SHORT * sizeof(int32_t));
    }
    tokens_free(&ids);
    return st;
}

static Status bos_alone(const Model *m, const Tokenizer *tok, TokenList *out, Error *err) {
    const int32_t bos = tok && tokenizer_bos(tok) >= 0 ? tokenizer_bos(tok) : first_id(m, tok);
    if (bos < 0 || bos >= m->h.n_vocab) return made_up(m, tok, 0, 1, out, err);
    return tokens_append(out, bos) ? OK : error_memory(err, "token ids", sizeof bos);
}

Status prompt_tokens(VerifyPrompt p, const Model *m, const Tokenizer *tok, const ChatTemplate *t,
                     int n_ctx, TokenList *out, Error *err) {
    Status st = OK;
    out->len = 0;
    switch (p) {
        case PROMPT_BOS: st = bos_alone(m, tok, out, err); break;
        case PROMPT_CHAT:
            if (tok) st = chat(tok, t, out, err);
            if (!st && out->len == 0) st = made_up(m, tok, 7, SHORT, out, err);
            break;
        case PROMPT_CHUNKS: st = made_up(m, tok, 31, MOST, out, err); break;
        case PROMPT_REPEAT: st = repeated(m, tok, out, err); break;
        default: st = made_up(m, tok, 3, LONG, out, err); break;
    }
    const size_t most = n_ctx > 0 ? (size_t)n_ctx : 1;
    if (out->len > most) out->len = most;
    return st;
}

size_t prompt_chunks(size_t n, size_t *sizes, size_t most) {
    static const size_t pattern[] = {7, 1, 1, 3, 1, 8, 2, 1};
    size_t count = 0;
    while (n && count < most) {
        const size_t size = pattern[count % (sizeof pattern / sizeof *pattern)];
        sizes[count] = size > n || count + 1 == most ? n : size;
        n -= sizes[count++];
    }
    return count;
}
