// What stands behind backend.h's opaque types on a GPU.
//
// gpu.c opens devices and owns memory; gpu_weights.c lays weights out; gpu_kv.c is the cache;
// gpu_run.c issues operations. A failure is remembered in the Backend and told by end() and
// download(): an operation after it does nothing.
#ifndef PLUMB_BACKEND_GPU_GPU_INTERNAL_H
#define PLUMB_BACKEND_GPU_GPU_INTERNAL_H

#include "backend/backend.h"
#include "backend/gpu/device.h"

typedef int8_t i8;
typedef uint16_t u16;
typedef int32_t i32;
typedef uint32_t u32;
typedef uint64_t u64;
#include "backend/gpu/args.h"

#define KERNEL_ID(name, lanes, n_buffers, args) KERNEL_##name,
typedef enum { GPU_KERNELS(KERNEL_ID) N_KERNELS } KernelId;

enum { SPLIT_TOKENS = 8 };  // batches of so many or fewer split attention into spans of keys

struct Weight {
    Weight *next;
    DeviceBuffer *data;
    WeightArgs args;
    int n_in;
    bool is_blocks;  // multiplied as bytes; else as floats
};

struct Buffer {
    DeviceBuffer *data;
    size_t n;
};

struct Kv {
    KvShape shape;
    DeviceBuffer *k, *v;
    u64 k_scales_bytes, v_scales_bytes;  // of Q8_0: where the scales start
    int n_spans;                         // of keys, in a whole context
    DeviceBuffer *partial;  // results span by span, for SPLIT_TOKENS tokens of all heads
};

struct Recording {
    DeviceRecording *recording;
};

struct Backend {
    const DeviceOps *ops;
    Device *dev;
    DeviceInfo info;
    Notice notice;
    char device[240];
    DeviceEntry entry[N_KERNELS];

    Weight *weights;
    u64 types, built_types;  // bit i: there are weights of type i
    u64 said;                // bit i: the notice on type i was given
    int max_in;              // widest input of a product of bytes

    int max_tokens, max_heads;  // what scratch is there for; heads a kv head
    u32 *step_host;             // what goes into the step buffer
    DeviceBuffer *step;
    size_t step_bytes, scales_bytes;
    // The bytes and scales of one buffer's activations: of `coded`, NULL: of none.
    DeviceBuffer *codes, *scales;
    size_t codes_n;  // elements that there is room for
    const Buffer *coded;
    DeviceBuffer *nothing;  // stands where a kernel has an argument that it does not use

    const Batch *batch;
    bool recording;
    Error failure;
    bool failed;
};

// A backend on a device of any kind; all but opening and finding it is the same in every table of
// gpu.c.
Status gpu_open(const DeviceOps *ops, const BackendConfig *config, Backend **out, Error *err);

// Keeps the first failure.
void gpu_fail(Backend *b, const Error *err);

// Bytes that a tensor takes as its planes; *as: the type that the kernels see (F32 where they do
// not decode the tensor's own).
u64 gpu_weight_layout(const Tensor *t, TensorType *as, WeightArgs *args);
// The tensor's blocks [from, from + n) of one plane, n * bytes of it. plane < gpu_n_planes.
int gpu_n_planes(TensorType as);
size_t gpu_plane_bytes(TensorType as, int plane);  // of a block
void gpu_fill_plane(const Tensor *t, TensorType as, int plane, u64 from, u64 n, uint8_t *out);

Status gpu_weight(Backend *b, const Tensor *t, WeightUse use, Weight **out, Error *err);
u64 gpu_weight_bytes(const Tensor *t);

u64 gpu_kv_bytes(const KvShape *s);
Status gpu_kv_new(Backend *b, const KvShape *shape, Kv **out, Error *err);
void gpu_kv_free(Backend *b, Kv *kv);
Status gpu_kv_read(Backend *b, const Kv *kv, int layer, int seq, int pos, float *k, float *v,
                   Error *err);
void gpu_kv_copy(Backend *b, Kv *kv, int from_seq, int to_seq, int n_pos);
CacheArgs gpu_cache_args(const Kv *kv, int layer, int n_tokens);

Status gpu_begin(Backend *b, const Batch *batch, Error *err);
Status gpu_end(Backend *b, Error *err);
void gpu_embed(Backend *b, const Weight *table, Buffer *y);
void gpu_rmsnorm(Backend *b, const Buffer *x, const Weight *w, float eps, int rows, int width,
                 Buffer *y);
void gpu_matmul(Backend *b, const Buffer *x, int rows, const MatmulOut *outs, int n_outs);
void gpu_rope_kv(Backend *b, const HeadShape *h, Buffer *q, Buffer *k, const Buffer *v, Kv *kv,
                 int layer);
void gpu_attention(Backend *b, const HeadShape *h, const Buffer *q, const Kv *kv, int layer,
                   Buffer *y, Buffer *kq, Buffer *soft, int n_keys);
void gpu_swiglu(Backend *b, const Buffer *gate, const Buffer *up, size_t n, Buffer *y);
void gpu_add(Backend *b, Buffer *x, const Buffer *y, size_t n);
void gpu_select(Backend *b, const Buffer *x, int from, int n, int width, Buffer *y);
// Makes a buffer of the backend's own anew where `bytes` is more than *have.
Status gpu_grow(Backend *b, DeviceBuffer **buf, size_t *have, size_t bytes, Error *err);

// The source that a device compiles: the dialect's text, which kernels decode which types, and the
// kernels. Frees with free(); NULL: out of memory.
char *gpu_source(const DeviceOps *ops, u64 types);

#endif
