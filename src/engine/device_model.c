// Models on backends; see device_model.h.
#include "engine/device_model.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/forward.h"

// What a session will want beside the weights is not known when they are taken. So much is left
// free where the number of layers is ours to choose or to propose.
enum { ROOM_CTX = 4096, ROOM_BATCH = 512 };

// Who has what when the last n_upper layers go to `upper`; returns the number of parts.
static int share_out(const Model *m, const DeviceSplit *s, DevicePart parts[DEVICE_PARTS]) {
    const int n_layers = m->h.n_layers;
    const int n = s->n_upper < 0 ? 0 : s->n_upper < n_layers ? s->n_upper : n_layers;
    const bool output = s->n_upper > n_layers;
    const DevicePart lower = {.ops = s->lower.ops,
                              .device = s->lower.config.device,
                              .n_layers = n_layers - n,
                              .output = !output};
    const DevicePart upper = {.ops = s->upper.ops,
                              .device = s->upper.config.device,
                              .first = n_layers - n,
                              .n_layers = n,
                              .output = output};
    int n_parts = 0;
    if (lower.n_layers || lower.output) parts[n_parts++] = lower;
    if (upper.n_layers || upper.output) parts[n_parts++] = upper;
    return n_parts;
}

// --- memory -----------------------------------------------------------------------------------

void device_part_name(const DevicePart *p, char *out, size_t size) {
    if (strcmp(p->ops->name, "cpu") == 0)
        snprintf(out, size, "the CPU");
    else
        snprintf(out, size, "%s:%d %s", p->ops->name, p->device, p->ops->device(p->backend));
}

enum { LAYER_TENSORS = sizeof(LayerWeights) / sizeof(const Tensor *) };

typedef uint64_t (*TensorBytes)(const DevicePart *p, const Tensor *t);

// Of all tensors of a part, each once.
static uint64_t sum_bytes(const Model *m, const DevicePart *p, TensorBytes of) {
    const bool embeds = p->first == 0 && p->n_layers;
    uint64_t bytes = embeds ? of(p, m->token_embd) : 0;
    if (p->output) bytes += of(p, m->output_norm);
    if (p->output && !(m->tied && embeds)) bytes += of(p, m->output);
    for (int l = p->first; l < p->first + p->n_layers; l++) {
        const Tensor *all[LAYER_TENSORS];  // a LayerWeights is pointers to tensors and nothing else
        memcpy(all, &m->layers[l], sizeof all);
        for (int i = 0; i < LAYER_TENSORS; i++) bytes += all[i] ? of(p, all[i]) : 0;
    }
    return bytes;
}

static uint64_t taken(const DevicePart *p, const Tensor *t) {
    return p->ops->weight_bytes(t);
}

static uint64_t borrowed(const DevicePart *p, const Tensor *t) {
    return p->ops->weight_bytes(t) ? 0 : t->bytes;
}

static uint64_t weight_bytes(const Model *m, const DevicePart *p) {
    return sum_bytes(m, p, taken);
}

uint64_t device_model_mapped_bytes(const DeviceModel *d) {
    uint64_t bytes = 0;
    for (int i = 0; i < d->n_parts; i++) bytes += sum_bytes(d->model, &d->parts[i], borrowed);
    return bytes;
}

// Would n layers fit upper's memory, with room for a session?
static bool has_room(const Model *m, const DeviceSplit *split, int n, uint64_t have) {
    const int ctx = m->h.n_ctx_train < ROOM_CTX ? m->h.n_ctx_train : ROOM_CTX;
    const ForwardConfig c = {ctx, 1, ctx < ROOM_BATCH ? ctx : ROOM_BATCH, TYPE_F16, TYPE_F16};
    DeviceSplit s = *split;
    DevicePart parts[DEVICE_PARTS];
    s.n_upper = n;
    const DevicePart *upper = &parts[share_out(m, &s, parts) - 1];
    return weight_bytes(m, upper) + forward_bytes(m, upper, &c) <= have;
}

// p has no room for its weights.
static Status too_big(const DevicePart *p, uint64_t need, uint64_t have, const char *cure,
                      Error *err) {
    char name[256];
    device_part_name(p, name, sizeof name);
    return error_set(err, ERR_UNAVAILABLE,
                     "%s has %.1f MiB of memory free and the weights that are to go there need "
                     "%.1f MiB; %s",
                     name, (double)have / 0x1p20, (double)need / 0x1p20, cure);
}

// p is open and nothing of it is taken.
static Status check_memory(const Model *m, const DevicePart *p, Error *err) {
    const uint64_t have = p->ops->memory_free(p->backend), need = weight_bytes(m, p);
    if (!have || need <= have) return OK;
    return too_big(p, need, have, "`plumb quantize` makes a smaller file of the model", err);
}

// Lowers split->n_upper to what fits, where that is allowed.
static Status fit_upper(const Model *m, DeviceSplit *split, Backend *upper, Error *err) {
    DevicePart parts[DEVICE_PARTS];
    DevicePart *p = &parts[share_out(m, split, parts) - 1];
    const uint64_t have = split->upper.ops->memory_free(upper), need = weight_bytes(m, p);
    const int n_layers = m->h.n_layers;
    p->backend = upper;
    if (!have || (split->fewer ? has_room(m, split, split->n_upper, have) : need <= have))
        return OK;
    int n = split->n_upper > n_layers ? n_layers : split->n_upper - 1;
    while (n > 0 && !has_room(m, split, n, have)) n--;
    char text[256];
    if (!split->fewer || n == 0) {
        if (n > 0)
            snprintf(text, sizeof text, "-ngl %d would fit", n);
        else
            snprintf(text, sizeof text, "not one layer would fit, -ngl 0 leaves all to the CPU");
        return too_big(p, need, have, text, err);
    }
    device_part_name(p, text, sizeof text);
    notice_say(split->upper.config.notice,
               "%s has room for %d of the %d layers in its %.1f MiB of free memory; the CPU "
               "computes the rest (-ngl sets how many)",
               text, n, n_layers, (double)have / 0x1p20);
    split->n_upper = n;
    return OK;
}

// --- weights ----------------------------------------------------------------------------------

static Status bind(DevicePart *p, const Tensor *t, WeightUse use, Weight **out, Error *err) {
    *out = NULL;
    return t ? p->ops->weight(p->backend, t, use, out, err) : OK;
}

static Status bind_layer(DevicePart *p, const LayerWeights *from, DeviceLayer *to, Error *err) {
    const struct {
        const Tensor *tensor;
        const Weight **weight;
        WeightUse use;
    } pairs[] = {{from->attn_norm, &to->attn_norm, USE_VECTOR},
                 {from->q, &to->q, USE_MATMUL},
                 {from->k, &to->k, USE_MATMUL},
                 {from->v, &to->v, USE_MATMUL},
                 {from->q_bias, &to->q_bias, USE_VECTOR},
                 {from->k_bias, &to->k_bias, USE_VECTOR},
                 {from->v_bias, &to->v_bias, USE_VECTOR},
                 {from->q_norm, &to->q_norm, USE_VECTOR},
                 {from->k_norm, &to->k_norm, USE_VECTOR},
                 {from->attn_out, &to->attn_out, USE_MATMUL},
                 {from->attn_out_bias, &to->attn_out_bias, USE_VECTOR},
                 {from->ffn_norm, &to->ffn_norm, USE_VECTOR},
                 {from->ffn_gate, &to->ffn_gate, USE_MATMUL},
                 {from->ffn_up, &to->ffn_up, USE_MATMUL},
                 {from->ffn_down, &to->ffn_down, USE_MATMUL},
                 {from->ffn_gate_bias, &to->ffn_gate_bias, USE_VECTOR},
                 {from->ffn_up_bias, &to->ffn_up_bias, USE_VECTOR},
                 {from->ffn_down_bias, &to->ffn_down_bias, USE_VECTOR}};
    Status st = OK;
    for (size_t i = 0; !st && i < sizeof pairs / sizeof *pairs; i++) {
        Weight *w;
        st = bind(p, pairs[i].tensor, pairs[i].use, &w, err);
        *pairs[i].weight = w;
    }
    return st;
}

static Status bind_part(DeviceModel *d, DevicePart *p, Error *err) {
    const Model *m = d->model;
    Status st = OK;
    const WeightUse table = m->tied && p->output ? USE_TABLE | USE_MATMUL : USE_TABLE;
    if (p->first == 0 && p->n_layers) st = bind(p, m->token_embd, table, &p->token_embd, err);
    for (int l = p->first; !st && l < p->first + p->n_layers; l++) {
        st = bind_layer(p, &m->layers[l], &d->layers[l], err);
    }
    if (st || !p->output) return st;
    st = bind(p, m->output_norm, USE_VECTOR, &p->output_norm, err);
    p->head = m->tied ? p->token_embd : NULL;  // which may be on the other part
    return st || p->head ? st : bind(p, m->output, USE_MATMUL, &p->head, err);
}

// --- opening ----------------------------------------------------------------------------------

// "12 layers", "10 layers and the output", "the output"
static void say_share(const DevicePart *p, char *out, size_t size) {
    if (p->n_layers == 0) {
        snprintf(out, size, "the output");
        return;
    }
    snprintf(out, size, "%d layer%s%s", p->n_layers, p->n_layers == 1 ? "" : "s",
             p->output ? " and the output" : "");
}

static void describe(DeviceModel *d) {
    const DevicePart *lower = &d->parts[0], *upper = &d->parts[d->n_parts - 1];
    char low[64], up[64];
    if (d->n_parts == 1) {
        snprintf(d->device, sizeof d->device, "%s", lower->ops->device(lower->backend));
        return;
    }
    say_share(lower, low, sizeof low);
    say_share(upper, up, sizeof up);
    snprintf(d->device, sizeof d->device, "%s (%s), %s: %s (%s)",
             upper->ops->device(upper->backend), up, lower->ops->name,
             lower->ops->device(lower->backend), low);
}

void device_model_close(DeviceModel *d) {
    if (!d) return;
    for (int i = 0; i < d->n_parts; i++) {
        if (d->parts[i].backend) d->parts[i].ops->close(d->parts[i].backend);
    }
    rope_free(&d->rope);
    free(d->layers);
    free(d);
}

static Status open_upper(const Model *m, DeviceSplit *split, Backend **out, Error *err) {
    const BackendOps *ops = split->upper.ops;
    *out = NULL;
    if (split->n_upper <= 0) return OK;
    Status st = ops->open(&split->upper.config, out, err);
    // Where there is no lower backend all or nothing is asked for: check_memory tells.
    if (st || !split->lower.ops || !(st = fit_upper(m, split, *out, err))) return st;
    ops->close(*out);
    *out = NULL;
    return st;
}

static Status open_parts(DeviceModel *d, const DeviceSplit *split, Error *err) {
    DeviceSplit s = *split;
    Backend *upper;
    Status st = open_upper(d->model, &s, &upper, err);
    if (st) return st;
    d->n_parts = share_out(d->model, &s, d->parts);
    if (upper) d->parts[d->n_parts - 1].backend = upper;
    for (int i = 0; !st && i < d->n_parts; i++) {
        DevicePart *p = &d->parts[i];
        CHECK(p->ops);
        if (!p->backend) st = p->ops->open(&s.lower.config, &p->backend, err);
        if (!st) st = check_memory(d->model, p, err);
        if (!st) st = bind_part(d, p, err);
    }
    return st;
}

Status device_model_split(const Model *m, const DeviceSplit *split, DeviceModel **out, Error *err) {
    *out = NULL;
    DeviceModel *d = calloc(1, sizeof *d);
    if (!d) return error_memory(err, "the model", sizeof *d);
    d->model = m;
    d->layers = calloc((size_t)m->h.n_layers, sizeof *d->layers);
    Status st = d->layers ? OK : error_memory(err, "the model's layers", 0);
    if (!st) st = rope_new(m, &d->rope, err);
    if (!st) st = open_parts(d, split, err);
    if (st) {
        device_model_close(d);
        return st;
    }
    describe(d);
    *out = d;
    return OK;
}

Status device_model_open(const Model *m, const BackendOps *ops, const BackendConfig *config,
                         DeviceModel **out, Error *err) {
    const DeviceSplit all = {.upper = {ops, *config}, .n_upper = m->h.n_layers + 1};
    return device_model_split(m, &all, out, err);
}

// --- who has what -----------------------------------------------------------------------------

static bool has_layer(const DevicePart *p, int layer) {
    return layer >= p->first && layer < p->first + p->n_layers;
}

int device_model_part(const DeviceModel *d, int layer) {
    const int n_layers = d->model->h.n_layers;
    int i = 0;
    CHECK(layer >= 0 && layer <= n_layers);
    while (layer < n_layers ? !has_layer(&d->parts[i], layer) : !d->parts[i].output) i++;
    return i;
}

const BackendOps *device_model_ops(const DeviceModel *d) {
    return d->n_parts == 1 ? d->parts[0].ops : NULL;
}

const char *device_model_backend(const DeviceModel *d) {
    return d->parts[d->n_parts - 1].ops->name;
}

const char *device_model_device(const DeviceModel *d) {
    return d->device;
}

const char *device_model_loaded(const DeviceModel *d) {
    for (int i = 0; i < d->n_parts; i++) {
        const DevicePart *p = &d->parts[i];
        const char *text = p->ops->loaded ? p->ops->loaded(p->backend) : NULL;
        if (text) return text;
    }
    return "";
}

ActQuant device_model_activation(const DeviceModel *d, int layer, TensorType weight) {
    const DevicePart *p = &d->parts[device_model_part(d, layer)];
    return p->ops->activation(p->backend, weight);
}

bool device_model_batch_invariant(const DeviceModel *d) {
    for (int i = 0; i < d->n_parts; i++) {
        if (!d->parts[i].ops->batch_invariant) return false;
    }
    return true;
}
