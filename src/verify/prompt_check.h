// The prompt stage: are the ids what the model should have been given?
//
// A text has one right tokenization and known wrong ones (BOS missing or doubled, EOS at the end,
// special tokens as text, newlines as spaces, no space prefix, merges by rank). The ids are
// compared with all of them; what fits is the cause.
#ifndef PLUMB_VERIFY_PROMPT_CHECK_H
#define PLUMB_VERIFY_PROMPT_CHECK_H

#include "model/chat_template.h"
#include "verify/report.h"

typedef struct {
    const char *text;  // what the prompt was made from (special tokens parsed), NULL: not known
    bool allow_odd;    // failures are warnings
} PromptCheck;

// Appends findings of STAGE_PROMPT for one prompt. chat NULL: a base model; tok NULL: the stage is
// skipped. Failures: bos-missing, bos-double, eos-at-end, specials-as-text, newline-as-space,
// space-prefix-missing, merges-by-rank, ids-differ (the text is known and nothing gives these ids),
// ids-outside-vocabulary. Warnings: bos-unwanted, template-other, ids-without-text. A remark:
// ids-unread. "ids" is what passes.
Status prompt_check(const Gguf *g, const Tokenizer *tok, const ChatTemplate *chat,
                    const TracePrompt *p, const PromptCheck *options, Report *r, int prompt,
                    Error *err);

#endif
