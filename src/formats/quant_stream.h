// Making a tensor's data piece by piece: floats from somewhere, encoded on all threads, into a
// file.
//
// This room owns: the buffers (a few MiB, whatever the model's size) and the split over threads,
// which never changes a byte. It leaves to others: where the floats come from (requantize.c,
// synth.c) and the file (gguf_write.h).
#ifndef PLUMB_FORMATS_QUANT_STREAM_H
#define PLUMB_FORMATS_QUANT_STREAM_H

#include "base/pool.h"
#include "formats/gguf_write.h"

// How far a long job is: weights done of all. A NULL fn is not called.
typedef struct {
    void (*fn)(void *user, uint64_t done, uint64_t total);
    void *user;
} Progress;

typedef struct QuantStream QuantStream;

// total: weights that will be written in all, for the progress.
Status quant_stream_open(Pool *pool, uint64_t total, Progress progress, QuantStream **out,
                         Error *err);
void quant_stream_close(QuantStream *s);  // NULL is fine

// Fills x with the n weights from weight `first` of the tensor on; called on any thread, in any
// order. first is a multiple of 256.
typedef void (*QuantFill)(const void *arg, uint64_t first, size_t n, float *x);

// Writes a tensor of n weights (whole blocks of type) as the next data of w.
Status quant_stream_tensor(QuantStream *s, GgufWriter *w, TensorType type, uint64_t n,
                           QuantFill fill, const void *arg, Error *err);
// The same with data that are there already: bytes as they are, standing for n weights.
Status quant_stream_copy(QuantStream *s, GgufWriter *w, const void *data, uint64_t bytes,
                         uint64_t n, Error *err);

#endif
