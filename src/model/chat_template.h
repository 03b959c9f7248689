// Chat templates: from messages to the exact text a model was trained on.
//
// A GGUF carries a Jinja program; programs of unknown authors are not run. Known ones are
// recognised by what they contain and rendered by the functions here; one that is not recognised is
// said so, and a named one is used instead. Text of the template and text of a user are kept apart
// (TextSpan.parse_special), so that "</s>" in a user's message stays text.
#ifndef PLUMB_MODEL_CHAT_TEMPLATE_H
#define PLUMB_MODEL_CHAT_TEMPLATE_H

#include "model/tokenizer.h"

typedef struct {
    const char *role;     // "system", "user", "assistant" (others are an error that names them)
    const char *content;  // UTF-8, NUL-terminated
} ChatMessage;

typedef struct ChatTemplate ChatTemplate;

// By name ("zephyr", "chatml", "llama2", "llama3", "mistral-v1", ... see chat_template_at); NULL if
// unknown.
const ChatTemplate *chat_template_by_name(const char *name);
const ChatTemplate *chat_template_at(int i);  // for listing; NULL past the end
const char *chat_template_name(const ChatTemplate *t);

// The template of a model: recognised from tokenizer.chat_template; where that is absent, from the
// vocabulary's special tokens; else a base model: *out = NULL with a notice (callers then use the
// prompt raw). An unrecognised Jinja text gives a notice and the template whose special tokens the
// vocabulary has (chatml where it has none).
Status chat_template_detect(const Gguf *g, const Tokenizer *tok, Notice notice,
                            const ChatTemplate **out, Error *err);

// A rendered conversation. Its spans point into the messages, which must outlive it, and into
// static text.
typedef struct {
    TextSpan *spans;
    size_t n_spans, cap_spans;
} ChatText;

// Renders the messages, with the opening of an assistant's turn when add_assistant. BOS is the
// tokenizer's business, never in the text. A chat that goes on is rendered whole again; the session
// finds the part that it has read already. ERR_USAGE for an unknown role.
Status chat_template_render(const ChatTemplate *t, const ChatMessage *messages, size_t n,
                            bool add_assistant, ChatText *out, Error *err);
void chat_text_free(ChatText *c);

#endif
