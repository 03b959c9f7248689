// What stands behind the opaque types of plumb.h.
//
// plumb.c opens and closes them, generate.c makes text, chat.c keeps the messages.
#ifndef PLUMB_ENGINE_PLUMB_INTERNAL_H
#define PLUMB_ENGINE_PLUMB_INTERNAL_H

#include "engine/device_choice.h"
#include "engine/lookup.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "engine/stream.h"
#include "model/chat_template.h"
#include "plumb.h"

struct plumb_model {
    Gguf *gguf;
    Model *model;
    Tokenizer *tokenizer;
    DeviceModel *device;
    const ChatTemplate *chat_template;  // NULL: a base model
    Notice notice;
    char *name;
    Text chat_notice;  // said of the chat template: for those who chat, not for everyone
};

typedef struct {
    char *role, *content;
} Message;

struct plumb_session {
    plumb_model *m;
    Session *session;
    Sampler *sampler;
    float *logits;  // logits_rows x n_vocab: of the last token, and of a draft behind it
    size_t logits_rows;
    Lookup lookup;
    volatile sig_atomic_t interrupted;

    // The result of the last generation.
    Stream stream;
    Text piece;
    TokenList made, prompt;
    plumb_logprob *chosen, *top;  // cap_logprobs and cap_logprobs * n_logprobs
    size_t cap_logprobs;
    int n_logprobs;

    // The chat. After a reply `prompt` and `made` hold exactly what the model read and wrote;
    // reply_text is the rendered text up to there, so that the next turn encodes only what is new.
    const ChatTemplate *chat_template;
    bool no_template;
    Message *messages;
    size_t n_messages, cap_messages;
    TokenList reply_tokens;
    Text reply_text;
};

// An Error is a plumb_error but for its type's name; both views of the same bytes.
Error *error_of(plumb_error *err);

// plumb_generate without clearing the interrupt; trim_space drops one leading space of the answer.
Status generate(plumb_session *s, const int32_t *prompt, size_t n_prompt, const plumb_generation *o,
                bool trim_space, plumb_result *result, Error *err);

void chat_free(plumb_session *s);

#endif
