// See quant_stream.h. A tensor is cut into pieces of PIECE weights; a batch of a few pieces a
// thread is encoded, then written in order by the caller's thread.
#include "formats/quant_stream.h"

#include <stdlib.h>

#include "base/status.h"

enum {
    PIECE = 32768,  // weights; a multiple of every block length. As floats they fit a second-level
                    // cache
    PIECES_PER_THREAD = 4,
};

struct QuantStream {
    Pool *pool;
    Progress progress;
    uint64_t done, total;
    int n_threads;
    float *floats;   // PIECE a thread
    uint8_t *bytes;  // of a batch
    // The tensor at hand.
    TensorType type;
    QuantFill fill;
    const void *arg;
    uint64_t first;  // weight with which the batch begins
    size_t n;        // weights of the batch
    size_t piece_bytes;
};

Status quant_stream_open(Pool *pool, uint64_t total, Progress progress, QuantStream **out,
                         Error *err) {
    size_t threads = (size_t)pool_threads(pool), floats = threads * PIECE * sizeof(float);
    QuantStream *s = calloc(1, sizeof *s);
    *out = NULL;
    if (s) {
        *s = (QuantStream){.pool = pool, .progress = progress, .total = total};
        s->n_threads = (int)threads;
        s->floats = malloc(floats);
        s->bytes = malloc(floats * PIECES_PER_THREAD);  // no type takes more than a float's bytes
    }
    if (!s || !s->floats || !s->bytes) {
        quant_stream_close(s);
        return error_memory(err, "the buffers for encoding", floats * (1 + PIECES_PER_THREAD));
    }
    *out = s;
    return OK;
}

void quant_stream_close(QuantStream *s) {
    if (!s) return;
    free(s->floats);
    free(s->bytes);
    free(s);
}

static void advance(QuantStream *s, uint64_t n) {
    s->done += n;
    if (s->progress.fn) s->progress.fn(s->progress.user, s->done, s->total);
}

static void encode_part(void *arg, int i, int n_threads) {
    QuantStream *s = arg;
    float *x = s->floats + (size_t)i * PIECE;
    size_t pieces = (s->n + PIECE - 1) / PIECE;
    for (size_t p = (size_t)i; p < pieces; p += (size_t)n_threads) {
        size_t from = p * PIECE, n = s->n - from < PIECE ? s->n - from : PIECE;
        s->fill(s->arg, s->first + from, n, x);
        quantize(s->type, x, s->bytes + p * s->piece_bytes, n);
    }
}

Status quant_stream_tensor(QuantStream *s, GgufWriter *w, TensorType type, uint64_t n,
                           QuantFill fill, const void *arg, Error *err) {
    const TypeInfo *t = type_info(type);
    CHECK(type_can_quantize(type) && n % t->block_len == 0);
    s->type = type, s->fill = fill, s->arg = arg;
    s->piece_bytes = (size_t)(PIECE / t->block_len) * t->block_bytes;
    uint64_t batch = (uint64_t)s->n_threads * PIECES_PER_THREAD * PIECE;
    for (s->first = 0; s->first < n; s->first += s->n) {
        s->n = (size_t)(n - s->first < batch ? n - s->first : batch);
        pool_run(s->pool, encode_part, s);
        Status st = gguf_write_data(w, s->bytes, s->n / t->block_len * t->block_bytes, err);
        if (st) return st;
        advance(s, s->n);
    }
    return OK;
}

Status quant_stream_copy(QuantStream *s, GgufWriter *w, const void *data, uint64_t bytes,
                         uint64_t n, Error *err) {
    Status st = gguf_write_data(w, data, bytes, err);
    if (st == OK) advance(s, n);
    return st;
}
