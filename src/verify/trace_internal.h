// What the files of the trace reader share: a file of any form as named arrays and texts.
//
// trace_gguf.c and trace_files.c turn a file into a TraceSource, trace.c finds prompts and
// components in it; trace_sampling.c is one key's text, for reader and writer. Nobody else includes
// this header.
#ifndef PLUMB_VERIFY_TRACE_INTERNAL_H
#define PLUMB_VERIFY_TRACE_INTERNAL_H

#include "base/arena.h"
#include "formats/gguf.h"
#include "formats/ndarray.h"
#include "formats/safetensors.h"
#include "verify/trace.h"

typedef struct {
    const char *key, *text;  // key without "trace."
} TraceText;

// Everything it points to lies in the arena, the GGUF or the safetensors file.
typedef struct TraceOwned {
    Arena arena;
    Gguf *gguf;
    Safetensors *safetensors;
    NdArray *arrays;  // tokens too, as PROMPT.tokens
    size_t n_arrays;
    TraceText *texts;
    size_t n_texts;
} TraceSource;

Status trace_source_gguf(TraceSource *s, const char *path, Error *err);
Status trace_source_safetensors(TraceSource *s, const char *path, Error *err);
Status trace_source_folder(TraceSource *s, const char *path, Error *err);
void trace_source_free(TraceSource *s);

// The key without "trace." before it.
const char *trace_key(const char *key);

// Reads trace.PROMPT.sampling. SAMPLING_FOREIGN: it names a step that is not known here.
typedef enum { SAMPLING_READ, SAMPLING_FOREIGN, SAMPLING_BAD } SamplingKind;
// *word gets the part that is bad or foreign, *len its length.
SamplingKind trace_sampling_read(const char *text, TraceSampling *out, const char **word,
                                 size_t *len);
enum { TRACE_SAMPLING_TEXT = 384 };
void trace_sampling_text(const TraceSampling *s, char out[TRACE_SAMPLING_TEXT]);

#endif
