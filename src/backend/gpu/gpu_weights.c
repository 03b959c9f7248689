// How weights are laid out on a device: each field of a type's blocks in a plane of its own (see
// kernels_weights.h), so that kernels load aligned words.
//
// Types that the kernels do not decode become float32, which loses nothing.
#include <stdlib.h>

#include "backend/gpu/gpu_internal.h"

enum { MAX_PLANES = 4, PLANE_ALIGN = 256, STAGING_BYTES = 4 << 20 };

typedef struct {
    TensorType type;
    int n_planes;
    struct {
        int at, bytes;  // within a block
    } plane[MAX_PLANES];
} Layout;

static const Layout layouts[] = {
    {TYPE_F32, 1, {{0, 4}}},
    {TYPE_F16, 1, {{0, 2}}},
    {TYPE_BF16, 1, {{0, 2}}},
    {TYPE_Q4_0, 2, {{2, 16}, {0, 2}}},
    {TYPE_Q4_1, 2, {{4, 16}, {0, 4}}},
    {TYPE_Q5_0, 3, {{6, 16}, {0, 2}, {2, 4}}},
    {TYPE_Q5_1, 3, {{8, 16}, {0, 4}, {4, 4}}},
    {TYPE_Q8_0, 2, {{2, 32}, {0, 2}}},
    {TYPE_Q4_K, 2, {{16, 128}, {0, 16}}},
    {TYPE_Q5_K, 3, {{48, 128}, {0, 16}, {16, 32}}},
    {TYPE_Q6_K, 4, {{0, 128}, {208, 2}, {128, 64}, {192, 16}}},
};

static const Layout *layout_of(TensorType type) {
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        if (layouts[i].type == type) return &layouts[i];
    }
    return NULL;
}

// Vectors (norms, biases) are read as floats by every kernel.
static TensorType device_type(const Tensor *t) {
    return t->n_dims > 1 && layout_of(t->type) ? t->type : TYPE_F32;
}

static u64 n_elements(const Tensor *t) {
    return t->dims[0] * (t->n_dims > 1 ? t->dims[1] : 1);
}

int gpu_n_planes(TensorType as) {
    return layout_of(as)->n_planes;
}

size_t gpu_plane_bytes(TensorType as, int plane) {
    return (size_t)layout_of(as)->plane[plane].bytes;
}

u64 gpu_weight_layout(const Tensor *t, TensorType *as, WeightArgs *args) {
    *as = device_type(t);
    const Layout *l = layout_of(*as);
    const u64 n_blocks = n_elements(t) / type_info(*as)->block_len;
    u64 at[MAX_PLANES + 1] = {0};
    for (int p = 0; p < MAX_PLANES; p++) {
        u64 bytes = p < l->n_planes ? n_blocks * (u64)l->plane[p].bytes : 0;
        at[p + 1] = (at[p] + bytes + PLANE_ALIGN - 1) / PLANE_ALIGN * PLANE_ALIGN;
    }
    *args = (WeightArgs){.plane1 = at[1],
                         .plane2 = at[2],
                         .plane3 = at[3],
                         .type = (i32)*as,
                         .rows = t->n_dims > 1 ? (i32)t->dims[1] : 1};
    return at[MAX_PLANES];
}

void gpu_fill_plane(const Tensor *t, TensorType as, int plane, u64 from, u64 n, uint8_t *out) {
    const TypeInfo *info = type_info(t->type);
    if (as != t->type) {  // float32, of whole blocks of the tensor's own type
        const u64 len = info->block_len;
        CHECK(from % len == 0 && n % len == 0);
        dequantize(t->type, t->data + from / len * info->block_bytes, (float *)(void *)out, n);
        return;
    }
    const Layout *l = layout_of(as);
    const size_t bytes = (size_t)l->plane[plane].bytes;
    const uint8_t *src = t->data + from * info->block_bytes + l->plane[plane].at;
    if (bytes == info->block_bytes) {
        memcpy(out, src, n * bytes);
        return;
    }
    for (u64 i = 0; i < n; i++, src += info->block_bytes, out += bytes) memcpy(out, src, bytes);
}

u64 gpu_weight_bytes(const Tensor *t) {
    TensorType as;
    WeightArgs args;
    return gpu_weight_layout(t, &as, &args);
}

// --- uploading --------------------------------------------------------------------------------

static Status upload_plane(Backend *b, const Tensor *t, TensorType as, int plane, u64 at,
                           DeviceBuffer *to, uint8_t *staging, Error *err) {
    const size_t bytes = gpu_plane_bytes(as, plane);
    const u64 n_blocks = n_elements(t) / type_info(as)->block_len;
    // A whole number of 256 weights, which every type's blocks divide.
    const u64 most = STAGING_BYTES / bytes / 256 * 256;
    Status st = OK;
    for (u64 from = 0; !st && from < n_blocks; from += most) {
        const u64 n = n_blocks - from < most ? n_blocks - from : most;
        gpu_fill_plane(t, as, plane, from, n, staging);
        st = b->ops->write(b->dev, to, at + from * bytes, staging, n * bytes, err);
    }
    return st;
}

// Said once a type, and of matrices alone: vectors are always float32.
static void tell_conversion(Backend *b, const Tensor *t) {
    if (t->n_dims == 1 || b->said >> t->type & 1) return;
    b->said |= 1ull << t->type;
    const TypeInfo *info = type_info(t->type);
    notice_say(b->notice,
               "%s: %s weights are converted to F32 there, which takes %.1f times their memory",
               b->ops->name, info->name, 4.0 * info->block_len / info->block_bytes);
}

Status gpu_weight(Backend *b, const Tensor *t, WeightUse use, Weight **out, Error *err) {
    (void)use;
    TensorType as;
    WeightArgs args;
    const u64 bytes = gpu_weight_layout(t, &as, &args);
    Weight *w = calloc(1, sizeof *w);
    uint8_t *staging = malloc(STAGING_BYTES);
    if (!w || !staging) {
        free(w), free(staging);
        return error_memory(err, t->name, STAGING_BYTES);
    }
    w->args = args;
    w->n_in = (int)t->dims[0];
    w->is_blocks = type_info(as)->block_len > 1;
    Status st = b->ops->alloc(b->dev, bytes, &w->data, err);
    if (st) error_prefix(err, "%s", t->name);
    const u64 at[MAX_PLANES] = {0, args.plane1, args.plane2, args.plane3};
    for (int p = 0; !st && p < gpu_n_planes(as); p++) {
        st = upload_plane(b, t, as, p, at[p], w->data, staging, err);
    }
    free(staging);
    if (st) {
        b->ops->release(b->dev, w->data);
        free(w);
        return st;
    }
    if (as != t->type) tell_conversion(b, t);
    if (t->n_dims > 1) b->types |= 1ull << as;
    if (w->is_blocks && w->n_in > b->max_in) b->max_in = w->n_in;
    w->next = b->weights;
    b->weights = w;
    *out = w;
    return OK;
}
