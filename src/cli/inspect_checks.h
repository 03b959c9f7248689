// What is odd about a model file, as lines for a reader. Nothing here is an error: a file that
// formats/gguf.h accepts is looked at as far as it can be.
#ifndef PLUMB_CLI_INSPECT_CHECKS_H
#define PLUMB_CLI_INSPECT_CHECKS_H

#include "formats/gguf.h"
#include "model/chat_template.h"
#include "model/model.h"

typedef struct {
    const Gguf *g;
    Model *model;                       // NULL: this program cannot run it
    Tokenizer *tokenizer;               // NULL: none, or none that this program knows
    const ChatTemplate *chat_template;  // NULL: none
    char **warnings;
    size_t n_warnings, cap_warnings;
    bool no_memory;  // for a warning
} Inspection;

// Opens what can be opened of g (which must outlive it) and collects the warnings; with all_tensors
// every weight is decoded, else only those of tensors of one dimension. ERR_FILE when the file
// failed under us, ERR_UNAVAILABLE for no memory.
Status inspection_new(const Gguf *g, bool all_tensors, Inspection *out, Error *err);
void inspection_free(Inspection *in);

#endif
