// See requantize.h.
#include "formats/requantize.h"

#include <stdio.h>
#include <string.h>

static uint64_t weights_of(const Tensor *t) {
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];  // the reader has checked the product
}

// An integer of the model's architecture, or 0 where there is none, or it is a list (one a layer).
static int arch_int(const Gguf *g, const char *what) {
    GgufStr arch = {"", 0};
    char key[128];
    bool found = false;
    uint32_t v = 0;
    if (gguf_get_str(g, "general.architecture", &arch, &found, NULL) || !found || arch.len > 63) {
        return 0;
    }
    snprintf(key, sizeof key, "%.*s.%s", (int)arch.len, arch.ptr, what);
    if (gguf_get_u32(g, key, &v, &found, NULL) || !found || v > 1000000) return 0;
    return (int)v;
}

static MixModel model_of(const Gguf *g) {
    MixModel m = {.n_layers = arch_int(g, "block_count"),
                  .n_heads = arch_int(g, "attention.head_count"),
                  .n_kv_heads = arch_int(g, "attention.head_count_kv"),
                  .tied = !gguf_tensor(g, "output.weight")};
    if (m.n_kv_heads == 0) m.n_kv_heads = m.n_heads;
    return m;
}

static TensorType target_type(const Mix *mix, const MixModel *m, const Tensor *t) {
    if (mix_keeps(t->name, t->n_dims)) return t->type;
    return mix_type(mix, m, t->name, t->n_dims, t->dims[0]);
}

static void put_metadata(const Gguf *in, const Mix *mix, GgufWriter *w) {
    static const char file_type[] = "general.file_type", version[] = "general.quantization_version";
    for (size_t i = 0; i < gguf_n_values(in); i++) {
        const GgufValue *v = gguf_value_at(in, i);
        if (strcmp(v->key, file_type) && strcmp(v->key, version)) gguf_put_value(w, v);
    }
    gguf_put_u32(w, version, 2);
    gguf_put_u32(w, file_type, mix->file_type);
}

static void fill_decoded(const void *arg, uint64_t first, size_t n, float *x) {
    const Tensor *t = arg;
    const TypeInfo *info = type_info(t->type);
    dequantize(t->type, t->data + first / info->block_len * info->block_bytes, x, n);
}

static Status convert(const Gguf *in, const Mix *mix, GgufWriter *w, QuantStream *s, Error *err) {
    MixModel model = model_of(in);
    size_t n_tensors = gguf_n_tensors(in);
    put_metadata(in, mix, w);
    for (size_t i = 0; i < n_tensors; i++) {
        const Tensor *t = gguf_tensor_at(in, i);
        gguf_put_tensor(w, t->name, target_type(mix, &model, t), t->n_dims, t->dims);
    }
    for (size_t i = 0; i < n_tensors; i++) {
        const Tensor *t = gguf_tensor_at(in, i);
        TensorType type = target_type(mix, &model, t);
        uint64_t n = weights_of(t);
        Status st = type == t->type ? quant_stream_copy(s, w, t->data, t->bytes, n, err)
                                    : quant_stream_tensor(s, w, type, n, fill_decoded, t, err);
        if (st == OK)
            st = gguf_fault(in, err);  // what a vanished page decodes to is not the tensor
        if (st) return st;
    }
    return OK;
}

Status requantize(const Gguf *in, const Mix *mix, const char *out_path, Pool *pool,
                  Progress progress, Error *err) {
    uint64_t total = 0;
    for (size_t i = 0; i < gguf_n_tensors(in); i++) total += weights_of(gguf_tensor_at(in, i));
    QuantStream *s = NULL;
    GgufWriter *w = NULL;
    Status st = quant_stream_open(pool, total, progress, &s, err);
    if (st == OK) st = gguf_writer_open(out_path, &w, err);
    if (st == OK) st = convert(in, mix, w, s, err);
    if (st == OK) {
        st = gguf_writer_finish(w, err);
    } else {
        gguf_writer_abort(w);
    }
    quant_stream_close(s);
    return st;
}
