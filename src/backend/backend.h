// THE contract of a backend: a dozen operations on its own buffers.
//
// This room owns: what the engine may ask of a device, and the list of the devices that this build
// has. It leaves to others: the order of the operations (engine/forward.c) and what is right
// (oracle/).
//
// Activations are float32, row-major: a Buffer of `rows` rows, one row a token. Operations are
// issued in order between begin and end; a backend may run them at once or queue them, and each
// sees what the ones before it wrote. Ops return nothing: a device's failure is remembered and
// returned by end() or download(). Sizes were checked by the engine: an op gets nothing that does
// not fit. Between begin and end nothing allocates.
#ifndef PLUMB_BACKEND_BACKEND_H
#define PLUMB_BACKEND_BACKEND_H

#include "base/checked.h"
#include "formats/gguf.h"

typedef struct Backend Backend;      // an open device
typedef struct Weight Weight;        // a matrix or vector on the device, owned by the Backend
typedef struct Buffer Buffer;        // floats on the device
typedef struct Kv Kv;                // the keys and values of all sequences; its layout is private
typedef struct Recording Recording;  // operations to be issued again

// How a matmul rounds its input before it multiplies, declared so that verify can replay it.
typedef enum {
    ACT_F32,   // not at all
    ACT_F16,   // to IEEE half
    ACT_BF16,  // to bfloat16
    // Blocks of 32 (Q8_0) or 256 (Q8_K) elements: d = max|x| / 127 in float32; q = x * (127 /
    // max|x|), the product in float32, rounded to nearest, ties to even; the element is q * d. A
    // block whose max|x| is below 2^-100 is all 0; one that is not finite is all NaN.
    ACT_Q8_0,
    ACT_Q8_K,
} ActQuant;

// A batch: n tokens, token i of sequence seq[i] stands at position pos[i]. One sequence of n tokens
// is a prefill, n sequences of one token each are a server's decode step, a mix is legal. Within a
// batch the tokens of a sequence stand in ascending positions, and every earlier position of it is
// in the Kv or in this batch.
typedef struct {
    int n;
    const int32_t *token, *pos, *seq;
    const float *rope_cos,
        *rope_sin;  // n x n_rot / 2: of each token's position, magnitude scale included
    // The tokens, by index, whose logits are wanted: select() takes ranges of this list. A backend
    // that runs layers and not the head is given none.
    int n_out;
    const int32_t *out_row;
    int n_pairs;  // n_rot / 2
} Batch;

typedef struct {
    int n_layers, n_kv_heads, head_dim;
    int n_ctx;  // positions a sequence
    int n_seqs;
    TensorType type_k,
        type_v;  // F32, F16 or Q8_0 (which needs a head_dim that is a multiple of 32)
} KvShape;

typedef struct {
    const Weight *w;         // rows of `inputs` weights
    const Weight *bias;      // or NULL
    const Buffer *residual;  // added to the result, or NULL; may be y itself
    Buffer *y;               // n x outputs
} MatmulOut;

typedef struct {
    int n_heads, n_kv_heads, head_dim;
    int n_rot;
    bool neox;    // pairs (i, i + n_rot / 2), else (2i, 2i + 1)
    float scale;  // of the scores: 1 / sqrt(head_dim)
} HeadShape;

// What the engine will do with a weight, so that a backend may lay it out for that.
typedef enum {
    USE_VECTOR = 0,  // rmsnorm, a bias
    USE_TABLE = 1,   // embed
    USE_MATMUL = 2,  // matmul; together with USE_TABLE where the output is the embedding
} WeightUse;

typedef struct {
    int n_threads;    // cpu: >= 1
    const char *isa;  // cpu: "generic", ...; NULL: the best that the machine has
    bool no_repack;   // cpu: leave the weights where they are mapped, though that is slower
    int device;       // GPUs: which of those that probe() lists
    Notice notice;    // what is worth telling a user (a type that is converted, say)
} BackendConfig;

typedef struct BackendOps {
    const char *name;  // "cpu"
    const char *what;  // one line for `plumb backends`

    // One line a device, appended to out ("0: AMD EPYC, 2 cores, generic"); ERR_UNAVAILABLE with
    // the reason when the backend cannot run here.
    Status (*probe)(Text *out, Error *err);
    // Would a user who names no backend want this one? (A GPU, yes; the host's own processor under
    // a GPU's API, no.)
    bool (*by_default)(void);
    Status (*open)(const BackendConfig *config, Backend **out, Error *err);
    void (*close)(Backend *b);  // frees its weights too; buffers and Kv must be freed before
    const char *(*device)(const Backend *b);  // "2 threads, generic"
    ActQuant (*activation)(const Backend *b, TensorType weight);
    // What a row becomes depends on that row alone, to the bit: not on the other rows of its batch
    // or where among them it stands, on the number of threads, on whether scores are asked for or a
    // residual is added in the same call. verify then holds every path to the bit.
    bool batch_invariant;
    // The instruction sets that this machine can run, for BackendConfig.isa, best first; NULL past
    // the end. NULL where a backend knows neither these nor threads.
    const char *(*isa_at)(int i);

    // Bytes that can still be taken of the memory that weights, buffers and Kv live in; 0: unknown.
    uint64_t (*memory_free)(const Backend *b);
    // What weight() will take of it for t: 0 where weights are borrowed.
    uint64_t (*weight_bytes)(const Tensor *t);
    // Borrows, uploads or lays out anew t, whose mapping must outlive b.
    Status (*weight)(Backend *b, const Tensor *t, WeightUse use, Weight **out, Error *err);
    // What that took, for a user to read ("631 MiB of weights repacked for amx in 0.110 s"); NULL
    // where there is nothing to tell, or no such function.
    const char *(*loaded)(Backend *b);
    Status (*buffer)(Backend *b, size_t n_floats, Buffer **out, Error *err);
    void (*buffer_free)(Backend *b, Buffer *buf);
    Status (*upload)(Backend *b, Buffer *buf, const float *src, size_t n, Error *err);
    // Waits for what was issued, then copies n floats from the start of buf.
    Status (*download)(Backend *b, const Buffer *buf, float *dst, size_t n, Error *err);

    // Takes all the scratch that batches of at most max_tokens over a context of max_ctx, with this
    // many query heads a kv head, will need. After every weight() and before the first begin(); a
    // later call only ever grows it.
    Status (*reserve)(Backend *b, int max_tokens, int max_ctx, int heads_per_kv, Error *err);

    uint64_t (*kv_bytes)(const KvShape *shape);
    Status (*kv_new)(Backend *b, const KvShape *shape, Kv **out, Error *err);
    void (*kv_free)(Backend *b, Kv *kv);
    // What the cache holds at (layer, seq, pos) as float32: n_kv_heads * head_dim each. Waits, as
    // download does.
    Status (*kv_read)(Backend *b, const Kv *kv, int layer, int seq, int pos, float *k, float *v,
                      Error *err);
    // Copies the first n_pos positions of one sequence to another (a shared prompt).
    void (*kv_copy)(Backend *b, Kv *kv, int from_seq, int to_seq, int n_pos);

    Status (*begin)(Backend *b, const Batch *batch, Error *err);  // batch stays valid until end
    // y[i] = row token[i] of table
    void (*embed)(Backend *b, const Weight *table, Buffer *y);
    // y = x / sqrt(mean(x^2) + eps) * w, each of `rows` rows of `width`; y may be x
    void (*rmsnorm)(Backend *b, const Buffer *x, const Weight *w, float eps, int rows, int width,
                    Buffer *y);
    // For each out: y = x W^T + bias + residual, for `rows` rows of x. All outs read the same x.
    void (*matmul)(Backend *b, const Buffer *x, int rows, const MatmulOut *outs, int n_outs);
    // Rotates q (n x n_heads * head_dim) in place and k in place, then writes k and v (n x
    // n_kv_heads * head_dim) into the cache at each token's (seq, pos).
    void (*rope_kv)(Backend *b, const HeadShape *h, Buffer *q, Buffer *k, const Buffer *v, Kv *kv,
                    int layer);
    // y[i] = softmax(scale q[i] K^T) V over the positions 0..pos[i] of its sequence, each kv head
    // serving n_heads / n_kv_heads query heads. With kq and soft (both or neither; n * n_heads rows
    // of n_keys, n_keys > every pos[i]) it also gives scaled scores and weights, 0 where a key is
    // masked.
    void (*attention)(Backend *b, const HeadShape *h, const Buffer *q, const Kv *kv, int layer,
                      Buffer *y, Buffer *kq, Buffer *soft, int n_keys);
    // y = silu(gate) * up, n floats; y may be gate
    void (*swiglu)(Backend *b, const Buffer *gate, const Buffer *up, size_t n, Buffer *y);
    // x += y, n floats
    void (*add)(Backend *b, Buffer *x, const Buffer *y, size_t n);
    // y[i] = x[out_row[from + i]] for i < n, rows of `width`; out_row is the batch's
    void (*select)(Backend *b, const Buffer *x, int from, int n, int width, Buffer *y);
    // Waits. The first failure since begin, if any.
    Status (*end)(Backend *b, Error *err);

    // A step that is always the same is recorded once and issued again without its dozens of calls.
    // All four, or NULL where the device has no such thing. After begin(), record() keeps the
    // operations that follow instead of running them, until record_end(). replay() runs them, on
    // the batch of the last begin(): it must have as many tokens and rows out as the one that was
    // recorded. Weights, buffers and the Kv must be the same, and no reserve() have come between.
    // *out NULL: the device would not record it; issue the operations.
    Status (*record)(Backend *b, Error *err);
    Status (*record_end)(Backend *b, Recording **out, Error *err);
    Status (*replay)(Backend *b, Recording *r, Error *err);
    void (*recording_free)(Backend *b, Recording *r);  // NULL is fine
} BackendOps;

// The backends of this build, the fastest first; NULL past the end.
const BackendOps *backend_at(int i);
const BackendOps *backend_by_name(const char *name);  // NULL if this build has none of that name

#endif
