// The prompt of `run` and `trace`: which option gives it, and the ids that it becomes.
#ifndef PLUMB_CLI_PROMPT_H
#define PLUMB_CLI_PROMPT_H

#include "cli/cli.h"

typedef struct {
    const char *prompt, *file, *system, *chat_template, *tokens;
    bool no_template;
    ArgList words;  // the rest of the command line
    Text text;      // set by prompt_args_find
    TokenList ids;  // set by prompt_args_read, unless the prompt is a chat
} PromptArgs;

enum { N_PROMPT_ARGS = 7 };
void prompt_args_table(PromptArgs *a, Arg table[N_PROMPT_ARGS]);
void prompt_args_free(PromptArgs *a);

// The one prompt among -p, -f, --tokens, words and a pipe; ERR_USAGE for none or several.
Status prompt_args_find(PromptArgs *a, Error *err);
// *chat: the prompt is now the user's message of the session's chat; else it is in ids.
Status prompt_args_read(PromptArgs *a, plumb_session *s, const plumb_model *m, bool *chat,
                        Error *err);

#endif
