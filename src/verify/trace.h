// Traces: what an engine computed, component by component, as a file that any engine can write.
//
// This room owns: reading and writing such files in their three forms.
// It leaves to others: whether the numbers are right (replay.h), the names (component.h), running
// an engine to get one (capture.h).
//
//   GGUF         general.architecture "trace"; float32 tensors PROMPT.blk.0.q (tokens x width,
//                width contiguous); the keys trace.PROMPT.tokens (array of integers),
//                trace.PROMPT.first_row (the token of row 0), trace.PROMPT.chosen (the token that
//                was taken after the last one), trace.PROMPT.sampling (how: see TraceSampling),
//                trace.PROMPT.text (what the ids were made from, special tokens spelled out),
//                trace.KEY (text)
//   safetensors  the same tensor names; tokens as an integer tensor PROMPT.tokens; the other keys,
//                with or without "trace.", as texts in __metadata__
//   a folder     PROMPT.blk.0.q.npy, PROMPT.tokens.npy
//
// F16, BF16 and F64 are taken as well as F32. With one prompt "PROMPT." may be left out. Any subset
// of components is legal. An array with fewer rows than the prompt has tokens is of its last ones;
// of "probs" only the last row counts, and they are read only beside the key "sampling".
#ifndef PLUMB_VERIFY_TRACE_H
#define PLUMB_VERIFY_TRACE_H

#include "backend/backend.h"
#include "verify/component.h"

typedef struct {
    ComponentRef ref;
    const float *x;  // rows x width, row-major, aligned
    size_t rows, width;
    size_t first_row;    // token of row 0 (kq and kq_soft_max: of the first n_heads rows)
    const char *source;  // its name in the file, for messages
} TraceArray;

// How the chosen token was drawn: trace.PROMPT.sampling = "temp=0.8 top_k=40 top_p=0.95 min_p=0.05
// repeat_penalty=1.1 presence_penalty=0 frequency_penalty=0 repeat_last_n=64". What is left out is
// off, as the second figures are.
typedef struct {
    bool given;
    double temp;                                 // <= 0: greedy; off: 1
    int top_k;                                   // off: 0
    double top_p, min_p;                         // off: 1 and 0
    double repeat_penalty;                       // off: 1
    double presence_penalty, frequency_penalty;  // off: 0
    int repeat_last_n;                           // tokens that penalties look back at; -1: all
} TraceSampling;

typedef struct {
    const char *name;  // "" where the file names none
    const int32_t *tokens;
    size_t n_tokens;
    TraceArray *arrays;  // sorted by component_order
    size_t n_arrays;
    int32_t chosen;  // the token that the engine sampled after the last one, -1: not said
    TraceSampling sampling;
    const char *text;  // trace.PROMPT.text: what the ids were made from, NULL: not said
} TracePrompt;

typedef struct {
    const char *path;
    TracePrompt *prompts;  // sorted by name
    size_t n_prompts;
    // What the trace says of itself (trace.KEY); NULL or false where it does not.
    const char *description, *model_sha256, *backend, *device, *build;
    const char *kv_type_k, *kv_type_v;  // others: trace_says
    bool says_activation;  // trace.activation.Q4_K = "q8_k": how a matmul rounds its input ...
    ActQuant activation[TYPE_LIMIT];  // ... by the type of its weights, ACT_F32 where not said
    size_t n_ignored;  // arrays whose names mean nothing here; a notice names the first
    struct TraceOwned *owned;
} Trace;

// How q and k are paired in the file: as GGUF's llama has them, neighbours, or as transformers has
// them, halves. AUTO: as the file says (trace.qk_layout = "gguf" or "hf"), else as GGUF.
typedef enum { QK_AUTO, QK_GGUF, QK_HF } QkLayout;

typedef struct {
    QkLayout qk;
    bool norm_pairing;  // the model's own pairing is ROPE_NORM: only then is anything permuted
    int n_heads, n_kv_heads, head_dim;
} TraceShape;

// Opens any of the three forms by what it is. q and k come out in GGUF's pairing: with QK_HF they
// are permuted on the way in (per head, halves to neighbours). llama.cpp's kq (heads x tokens x
// cells, not scaled, not masked) becomes what COMP_KQ is. ERR_FILE: what is no float array or has
// the wrong rank, two arrays for one component, tokens missing, rows that do not fit the tokens.
Status trace_open(const char *path, const TraceShape *shape, Notice notice, Trace **out,
                  Error *err);
void trace_close(Trace *t);
const TraceArray *trace_find(const TracePrompt *p, Component c, int layer);  // NULL: not there
// The text of trace.KEY ("model.rms_eps"; numbers as text too, booleans as "yes" or "no"), or NULL.
const char *trace_says(const Trace *t, const char *key);
// OK, or ERR_FILE when the file changed under us since it was opened (see file_fault).
Status trace_fault(const Trace *t, Error *err);
// "none", "f16", "bf16", "q8_0", "q8_k": as trace.activation spells them; false: unknown.
const char *act_quant_name(ActQuant a);
bool act_quant_by_name(const char *name, ActQuant *out);

// Writing, as GGUF: open, say what ran, then arrays prompt by prompt, then finish. A GGUF's header
// precedes its data, so the arrays are kept until trace_writer_finish.
typedef struct TraceWriter TraceWriter;
Status trace_writer_new(TraceWriter **out, Error *err);
void trace_writer_free(TraceWriter *w);
// key as in trace.KEY; "description" is general.description.
Status trace_writer_str(TraceWriter *w, const char *key, const char *value, Error *err);
// name: "" for the only prompt, else letters, digits, '-' and '_', at most TRACE_PROMPT_NAME.
enum { TRACE_PROMPT_NAME = 30 };
Status trace_writer_prompt(TraceWriter *w, const char *name, const int32_t *tokens, size_t n,
                           size_t first_row, Error *err);
// Of the last prompt; x is copied.
Status trace_writer_array(TraceWriter *w, ComponentRef ref, const float *x, size_t rows,
                          size_t width, Error *err);
Status trace_writer_chosen(TraceWriter *w, int32_t token, Error *err);
Status trace_writer_sampling(TraceWriter *w, const TraceSampling *s, Error *err);
Status trace_writer_text(TraceWriter *w, const char *text, Error *err);
// A whole prompt under a name of its own; p must stay until trace_writer_finish.
Status trace_writer_add(TraceWriter *w, const char *name, const TracePrompt *p, Error *err);
// Writes the file; it appears only when it is whole. w stays to be freed.
Status trace_writer_finish(TraceWriter *w, const char *path, Error *err);

#endif
