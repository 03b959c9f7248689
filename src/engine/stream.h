// From tokens to text as it may be shown: whole characters, and nothing that may yet become a stop
// text.
//
// This room owns: holding back. It leaves to others: which bytes a token has (model/tokenizer.h).
#ifndef PLUMB_ENGINE_STREAM_H
#define PLUMB_ENGINE_STREAM_H

#include <stdbool.h>

#include "base/checked.h"

typedef struct {
    const char *const *stop;
    size_t n_stop;
    bool trim_space;  // drop one space at the very start (the SentencePiece prefix)
    Text pending;     // bytes not shown yet
    Text text;        // all that was shown: valid UTF-8 always
    bool stopped;     // a stop text came
} Stream;

void stream_reset(Stream *s, const char *const *stop, size_t n_stop, bool trim_space);
void stream_free(Stream *s);
// Takes the bytes of a token. What can be shown now is appended to s->text. False: out of memory.
// The text ends before the stop text that is whole first, of those that end together the longest:
// however the bytes are cut into tokens, the text is the same.
bool stream_feed(Stream *s, const char *bytes, size_t len);
// The end: what was held back is shown, an unfinished character as U+FFFD.
bool stream_end(Stream *s);

#endif
