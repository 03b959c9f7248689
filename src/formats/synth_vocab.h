// The made-up vocabulary of a synthetic model, for synth.c alone.
#ifndef PLUMB_FORMATS_SYNTH_VOCAB_H
#define PLUMB_FORMATS_SYNTH_VOCAB_H

#include "formats/gguf_write.h"

// Puts the keys tokenizer.ggml.* of a SentencePiece vocabulary of n distinct tokens, n >= 3.
Status synth_put_vocab(GgufWriter *w, int n, Error *err);

#endif
