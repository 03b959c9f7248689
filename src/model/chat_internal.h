// Inside of the chat templates: a template is a row of texts and switches; see chat_template.c.
#ifndef PLUMB_MODEL_CHAT_INTERNAL_H
#define PLUMB_MODEL_CHAT_INTERNAL_H

#include "model/chat_template.h"

enum {
    TRIM_SYSTEM = 1,
    TRIM_USER = 2,
    TRIM_ASSISTANT = 4,
    // The system's text goes inside a user's turn: the next one, or that which ends the chat.
    SYSTEM_IN_NEXT_USER = 8,
    SYSTEM_IN_LAST_USER = 16,
    // The template trims that user's text only together with the system's text before it.
    TRIM_JOINED = 32,
    // Turns start with "<s>"; that of the first one is the BOS that the tokenizer adds.
    TURNS_START_WITH_BOS = 64,
    // Of an assistant's earlier message only what follows "</think>" is kept ..
    DROP_THOUGHTS = 128,
    DROP_NEWLINES = 4096,  // .. without the newlines that it starts with ..
    // .. and after the last user's message thoughts are written out (Qwen3).
    QWEN3_THOUGHTS = 256,
    SYSTEM_AT_START =
        512,  // all system messages come first, wherever they stand, a blank line between
    SKIP_EMPTY_SYSTEM = 1024,
    // An assistant's message that ends the chat has no newline after it.
    NO_LAST_NEWLINE = 2048,
};

struct ChatTemplate {
    const char *name;
    const char *start;  // before everything; NULL: nothing
    // What stands before and after a message's text.
    const char *system[2], *user[2], *assistant[2];
    const char *opening;         // of the assistant's turn that the model is to write
    const char *closing;         // the end of a chat that opens no turn; NULL: nothing
    const char *default_system;  // where the first message is not the system's; NULL: none
    const char *late_system[2];  // a system message that is not the first; NULL: as the first
    unsigned flags;
};

#endif
