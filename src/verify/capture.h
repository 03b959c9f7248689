// Captures what a backend computes: a prompt through a session with taps, kept as a TracePrompt.
//
// This room owns: joining the batches of a prefill, what a trace of ours says of the run.
// It leaves to others: files (trace.h), which prompt (the caller), what is right.
#ifndef PLUMB_VERIFY_CAPTURE_H
#define PLUMB_VERIFY_CAPTURE_H

#include "engine/session.h"
#include "verify/trace.h"

// Which components to keep: bit c of Component c.
typedef uint32_t ComponentSet;
// What a pass computes. Its token is always noted; its probabilities (all at that one: the choice
// is greedy) are kept where they are asked for by name.
#define CAPTURE_ALL ((ComponentSet)((1u << COMP_PROBS) - 1))
// Scores grow with the square of the prompt.
#define CAPTURE_SCORES ((ComponentSet)(1u << COMP_KQ | 1u << COMP_KQ_SOFT_MAX))

// Bytes that capturing n tokens keeps.
uint64_t capture_bytes(const Model *m, ComponentSet which, size_t n);

// Runs tokens as sequence 0 from position 0 (what its cache held is dropped), in batches of the
// session's size, and fills *out with every component in `which`, all rows; the batch size does not
// show in it. k_cache and v_cache are what the cache gives back when the prompt is done. chosen is
// the greedy token (ties to the lowest id). d: what s runs on. out is to be freed with
// capture_free, also nothing else may be done with it on failure. ERR_UNAVAILABLE when it would not
// fit the memory; else as session_eval.
Status capture_prompt(Session *s, const DeviceModel *d, const int32_t *tokens, size_t n,
                      ComponentSet which, TracePrompt *out, Error *err);
void capture_free(TracePrompt *p);

// What ran, into the keys of a trace: model (name, SHA-256, hyperparameters), backend, device, how
// it rounds activations for each type of weights in the model, KV types, build. Reads the whole
// model.
Status capture_describe(TraceWriter *w, const DeviceModel *d, TensorType type_k, TensorType type_v,
                        Error *err);
// What a model is, as the keys trace.model.* say it: the i-th key ("model.rms_eps") and its value;
// NULL past the end.
const char *capture_model_key(const Model *m, int i, char value[64]);
// 64 hexadecimal digits: of the file's bytes, of a split model's parts one after the other.
Status capture_model_sha256(const Gguf *g, char out[65], Error *err);

#endif
