// The GPU backends: devices, buffers, scratch, and the tables that make one driver many backends.
//
// This room owns: backend.h on a device (device.h). It leaves to others: arithmetic (kernels*.h),
// the device's own API (device_*.c).
#include "backend/gpu/gpu.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/gpu/gpu_internal.h"

#define KERNEL_ENTRY(name, lanes, n_buffers, args) {#name, NULL, lanes, n_buffers, sizeof(args)},
static const DeviceEntry entries[N_KERNELS] = {GPU_KERNELS(KERNEL_ENTRY)};

void gpu_fail(Backend *b, const Error *err) {
    if (!b->failed) b->failure = *err;
    b->failed = true;
}

// Tells the failure that was remembered, once.
static Status take_failure(Backend *b, Error *err) {
    if (!b->failed) return OK;
    b->failed = false;
    return error_set(err, b->failure.status, "%s", b->failure.text);
}

// --- opening ----------------------------------------------------------------------------------

static Status probe(const DeviceOps *ops, Text *out, Error *err) {
    int n;
    Status st = ops->count(&n, err);
    for (int i = 0; !st && i < n; i++) {
        DeviceInfo info;
        char line[320];
        st = ops->info(i, &info, err);
        if (st) break;
        snprintf(line, sizeof line, "%s%d: %s, %.1f GiB, %d units%s", i ? "\n" : "", i, info.name,
                 (double)info.memory / 0x1p30, info.n_units,
                 info.is_processor ? " (the processor: --backend cpu is faster)" : "");
        if (!text_append_str(out, line)) st = error_memory(err, "a line of text", sizeof line);
    }
    return st;
}

// Is the device that is taken without being named more than the processor under another name?
static bool by_default(const DeviceOps *ops) {
    int n;
    DeviceInfo info;
    return ops->count(&n, NULL) == OK && n > 0 && ops->info(0, &info, NULL) == OK &&
           !info.is_processor;
}

static void gpu_close(Backend *b) {
    if (!b) return;
    DeviceBuffer *const own[] = {b->step, b->codes, b->scales, b->nothing};
    for (Weight *w = b->weights, *next; w; w = next) {
        next = w->next;
        b->ops->release(b->dev, w->data);
        free(w);
    }
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) b->ops->release(b->dev, own[i]);
    if (b->dev) b->ops->close(b->dev);
    free(b->step_host);
    free(b);
}

static Status check_index(const DeviceOps *ops, int index, Error *err) {
    int n = 0;
    Status st = ops->count(&n, err);
    if (st || (index >= 0 && index < n)) return st;
    return error_set(err, ERR_UNAVAILABLE, "%s has no device %d; it has %d (plumb backends)",
                     ops->name, index, n);
}

Status gpu_open(const DeviceOps *ops, const BackendConfig *config, Backend **out, Error *err) {
    *out = NULL;
    Status st = check_index(ops, config->device, err);
    if (st) return st;
    Backend *b = calloc(1, sizeof *b);
    if (!b) return error_memory(err, "the GPU backend", sizeof *b);
    b->ops = ops;
    b->notice = config->notice;
    memcpy(b->entry, entries, sizeof entries);
    st = ops->info(config->device, &b->info, err);
    if (!st) st = ops->open(config->device, &b->dev, err);
    if (!st) st = ops->alloc(b->dev, 256, &b->nothing, err);
    if (st) {
        gpu_close(b);
        return st;
    }
    snprintf(b->device, sizeof b->device, "%s", b->info.name);
    *out = b;
    return OK;
}

static const char *gpu_device(const Backend *b) {
    return b->device;
}

// By what is multiplied as bytes; what is converted to floats on the way is not.
static ActQuant gpu_activation(const Backend *b, TensorType weight) {
    (void)b;
    const Tensor matrix = {.type = weight, .n_dims = 2};
    TensorType as;
    WeightArgs args;
    gpu_weight_layout(&matrix, &as, &args);
    return type_info(as)->block_len > 1 ? ACT_Q8_0 : ACT_F32;
}

static u64 gpu_memory_free(const Backend *b) {
    return b->ops->memory_free(b->dev);
}

// --- memory -----------------------------------------------------------------------------------

static Status gpu_buffer(Backend *b, size_t n_floats, Buffer **out, Error *err) {
    Buffer *buf = calloc(1, sizeof *buf);
    if (!buf) return error_memory(err, "a buffer of activations", sizeof *buf);
    Status st = b->ops->alloc(b->dev, n_floats * sizeof(float), &buf->data, err);
    if (st) {
        error_prefix(err, "activations (try a smaller -b or -c)");
        free(buf);
        return st;
    }
    buf->n = n_floats;
    *out = buf;
    return OK;
}

static void gpu_buffer_free(Backend *b, Buffer *buf) {
    if (!buf) return;
    if (b->coded == buf) b->coded = NULL;
    b->ops->release(b->dev, buf->data);
    free(buf);
}

static Status gpu_upload(Backend *b, Buffer *buf, const float *src, size_t n, Error *err) {
    CHECK(n <= buf->n);
    if (b->coded == buf) b->coded = NULL;
    return b->ops->write(b->dev, buf->data, 0, src, n * sizeof *src, err);
}

static Status gpu_download(Backend *b, const Buffer *buf, float *dst, size_t n, Error *err) {
    CHECK(n <= buf->n);
    Status st = take_failure(b, err);
    return st ? st : b->ops->read(b->dev, buf->data, 0, dst, n * sizeof *dst, err);
}

Status gpu_grow(Backend *b, DeviceBuffer **buf, size_t *have, size_t bytes, Error *err) {
    if (bytes <= *have) return OK;
    b->ops->release(b->dev, *buf);
    *buf = NULL;
    *have = 0;
    Status st = b->ops->alloc(b->dev, bytes, buf, err);
    if (st) return error_prefix(err, "scratch (try a smaller -b)");
    *have = bytes;
    return OK;
}

static Status reserve_step(Backend *b, int max_tokens, Error *err) {
    // token, pos, seq, out_row; a cosine and a sine for each pair of the longest head
    const size_t bytes = (size_t)max_tokens * (4 + MAX_HEAD_DIM) * sizeof *b->step_host;
    if (bytes <= b->step_bytes) return OK;
    u32 *host = malloc(bytes);
    if (!host) return error_memory(err, "a step", bytes);
    free(b->step_host);
    b->step_host = host;
    return gpu_grow(b, &b->step, &b->step_bytes, bytes, err);
}

static Status reserve_codes(Backend *b, int max_tokens, Error *err) {
    const size_t n = (size_t)max_tokens * (size_t)b->max_in;
    b->coded = NULL;
    Status st = gpu_grow(b, &b->codes, &b->codes_n, n, err);
    return st ? st : gpu_grow(b, &b->scales, &b->scales_bytes, n / 16 * 8, err);
}

static Status build(Backend *b, Error *err) {
    char *source = gpu_source(b->ops, b->types);
    if (!source) return error_memory(err, "the kernels' text", 1);
    Status st = b->ops->build(b->dev, source, b->entry, N_KERNELS, err);
    free(source);
    if (!st) b->built_types = b->types;
    return st;
}

static Status gpu_reserve(Backend *b, int max_tokens, int max_ctx, int heads_per_kv, Error *err) {
    (void)max_ctx;  // what attention needs belongs to the cache
    Status st = OK;
    if (!b->entry[0].kernel || (b->types & ~b->built_types)) st = build(b, err);
    if (max_tokens < b->max_tokens) max_tokens = b->max_tokens;
    if (!st) st = reserve_step(b, max_tokens, err);
    if (!st) st = reserve_codes(b, max_tokens, err);
    if (st) return st;
    b->max_tokens = max_tokens;
    if (heads_per_kv > b->max_heads) b->max_heads = heads_per_kv;
    return OK;
}

// --- recording --------------------------------------------------------------------------------

static Status gpu_record(Backend *b, Error *err) {
    Status st = take_failure(b, err);
    if (!st) st = b->ops->record(b->dev, err);
    b->recording = !st;
    return st;
}

static Status gpu_record_end(Backend *b, Recording **out, Error *err) {
    *out = NULL;
    DeviceRecording *device = NULL;
    Status st = b->ops->record_end(b->dev, &device, err);
    b->recording = false;
    b->coded = NULL;
    if (!st) st = take_failure(b, err);
    Recording *r = st ? NULL : calloc(1, sizeof *r);
    if (!r) {
        if (device) b->ops->record_free(b->dev, device);
        return st ? st : error_memory(err, "a recording", sizeof *r);
    }
    r->recording = device;
    *out = r;
    return OK;
}

static Status gpu_replay(Backend *b, Recording *r, Error *err) {
    b->coded = NULL;
    return b->ops->replay(b->dev, r->recording, err);
}

static void gpu_recording_free(Backend *b, Recording *r) {
    if (!r) return;
    b->ops->record_free(b->dev, r->recording);
    free(r);
}

Status gpu_end(Backend *b, Error *err) {
    b->batch = NULL;
    Error own;
    Status waited = b->ops->wait(b->dev, &own);
    Status st = take_failure(b, err);
    if (st || !waited) return st;
    return error_set(err, waited, "%s", own.text);
}

// --- the tables -------------------------------------------------------------------------------

// A device's functions that take no Backend, and its table. RECORDS: does the device have record()?
#define GPU_BACKEND(NAME, WHAT, RECORDS)                                                \
    static Status NAME##_probe(Text *out, Error *err) {                                 \
        return probe(&device_##NAME, out, err);                                         \
    }                                                                                   \
    static bool NAME##_by_default(void) {                                               \
        return by_default(&device_##NAME);                                              \
    }                                                                                   \
    static Status NAME##_open(const BackendConfig *config, Backend **out, Error *err) { \
        return gpu_open(&device_##NAME, config, out, err);                              \
    }                                                                                   \
    const BackendOps NAME##_backend = {.name = #NAME,                                   \
                                       .what = WHAT,                                    \
                                       .probe = NAME##_probe,                           \
                                       .by_default = NAME##_by_default,                 \
                                       .open = NAME##_open,                             \
                                       .close = gpu_close,                              \
                                       .device = gpu_device,                            \
                                       .activation = gpu_activation,                    \
                                       .batch_invariant = true,                         \
                                       .isa_at = NULL,                                  \
                                       .memory_free = gpu_memory_free,                  \
                                       .weight_bytes = gpu_weight_bytes,                \
                                       .weight = gpu_weight,                            \
                                       .buffer = gpu_buffer,                            \
                                       .buffer_free = gpu_buffer_free,                  \
                                       .upload = gpu_upload,                            \
                                       .download = gpu_download,                        \
                                       .reserve = gpu_reserve,                          \
                                       .kv_bytes = gpu_kv_bytes,                        \
                                       .kv_new = gpu_kv_new,                            \
                                       .kv_free = gpu_kv_free,                          \
                                       .kv_read = gpu_kv_read,                          \
                                       .kv_copy = gpu_kv_copy,                          \
                                       .begin = gpu_begin,                              \
                                       .embed = gpu_embed,                              \
                                       .rmsnorm = gpu_rmsnorm,                          \
                                       .matmul = gpu_matmul,                            \
                                       .rope_kv = gpu_rope_kv,                          \
                                       .attention = gpu_attention,                      \
                                       .swiglu = gpu_swiglu,                            \
                                       .add = gpu_add,                                  \
                                       .select = gpu_select,                            \
                                       .end = gpu_end,                                  \
                                       .record = RECORDS ? gpu_record : NULL,           \
                                       .record_end = RECORDS ? gpu_record_end : NULL,   \
                                       .replay = RECORDS ? gpu_replay : NULL,           \
                                       .recording_free = RECORDS ? gpu_recording_free : NULL}

GPU_BACKEND(cuda, "NVIDIA GPUs, through the driver and its run-time compiler", true);
GPU_BACKEND(opencl, "what speaks OpenCL 1.2, through its loader", false);
#ifdef PLUMB_METAL
GPU_BACKEND(metal, "Apple GPUs", true);
#endif
