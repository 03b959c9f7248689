// The prompts that verify runs, and what each cannot see.
#ifndef PLUMB_VERIFY_PROMPTS_H
#define PLUMB_VERIFY_PROMPTS_H

#include "model/chat_template.h"
#include "model/model.h"

typedef enum {
    PROMPT_BOS,     // BOS alone: blind to RoPE, mask, cache, softmax
    PROMPT_CHAT,    // 18 to 24 tokens of a chat
    PROMPT_CHUNKS,  // other 24 tokens, prefilled and decoded in uneven chunks
    PROMPT_REPEAT,  // one token repeated: blind to the mixing of values; a negative control
    PROMPT_LONG,    // 1200 distinct tokens (as many as the vocabulary and the context hold)
    N_VERIFY_PROMPTS
} VerifyPrompt;

typedef struct {
    const char *name;   // "bos", "chat", "chunks", "repeat", "long"
    const char *what;   // "20 tokens of a chat"
    const char *blind;  // what it cannot see, or ""
} PromptInfo;
const PromptInfo *prompt_info(VerifyPrompt p);

// The ids for this model; tok NULL (no tokenizer in the file): made up from n_vocab. n_ctx: at most
// so many. The same model, the same ids.
Status prompt_tokens(VerifyPrompt p, const Model *m, const Tokenizer *tok, const ChatTemplate *t,
                     int n_ctx, TokenList *out, Error *err);
// How PROMPT_CHUNKS is cut: fills sizes (at most `most`), which sum to n; returns how many.
size_t prompt_chunks(size_t n, size_t *sizes, size_t most);

#endif
