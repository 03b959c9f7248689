// A model's weights on a backend, or split between two: the last layers on one, the others on
// another.
//
// This room owns: which backend has which layer, whether its memory holds them, opening backends,
// binding weights, what the two of a split say of themselves together. It leaves to others: running
// the layers (forward.h), which backends those are (device_choice.h).
#ifndef PLUMB_ENGINE_DEVICE_MODEL_H
#define PLUMB_ENGINE_DEVICE_MODEL_H

#include "backend/backend.h"
#include "engine/rope.h"
#include "model/model.h"

typedef struct {
    const Weight *attn_norm, *q, *k, *v, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm;
    const Weight *attn_out, *attn_out_bias, *ffn_norm, *ffn_gate, *ffn_up, *ffn_down;
    const Weight *ffn_gate_bias, *ffn_up_bias, *ffn_down_bias;
} DeviceLayer;

// What one backend has of a model: a run of layers, the output (final norm and head), or both. The
// embedding is where layer 0 is.
typedef struct {
    const BackendOps *ops;
    int device;        // which of the backend's
    Backend *backend;  // owned
    int first,
        n_layers;  // layers first .. first + n_layers - 1; none where only the output is here
    bool output;
    Weight *token_embd;          // NULL but with layer 0
    Weight *output_norm, *head;  // NULL without the output
} DevicePart;

enum { DEVICE_PARTS = 2 };

// Shared by all forward passes over it.
typedef struct {
    const Model *model;
    Rope rope;
    int n_parts;
    DevicePart parts[DEVICE_PARTS];
    DeviceLayer *layers;  // n_layers of the model
    char device[512];     // device_model_device
    int n_reserves;       // times that scratch was reserved: recordings of before are void
} DeviceModel;

typedef struct {
    const BackendOps *ops;
    BackendConfig config;
} DeviceSpec;

// The last n_upper layers go to `upper`; the output too when n_upper is more than there are layers.
// What is left goes to `lower`. A backend that would have nothing is not opened.
typedef struct {
    DeviceSpec lower, upper;
    int n_upper;
    // Where upper has no room for n_upper, it gets as many layers as it has room for beside a
    // context of some thousand tokens, and upper's notice says so.
    bool fewer;
} DeviceSplit;

// All of it on one backend. The device is asked for its memory before any is taken: ERR_UNAVAILABLE
// says what the weights need, what is free and what would fit.
Status device_model_open(const Model *m, const BackendOps *ops, const BackendConfig *config,
                         DeviceModel **out, Error *err);
// With `fewer`, ERR_UNAVAILABLE when not one layer fits upper.
Status device_model_split(const Model *m, const DeviceSplit *split, DeviceModel **out, Error *err);
void device_model_close(DeviceModel *d);  // NULL is fine

// The part that has a layer; layer n_layers is the output.
int device_model_part(const DeviceModel *d, int layer);
// The backend that all of it is on; NULL of a split model.
const BackendOps *device_model_ops(const DeviceModel *d);
// The name of the backend, of a split model's upper one: "cuda".
const char *device_model_backend(const DeviceModel *d);
// "cuda:0 NVIDIA H100", "the CPU": for messages. The part is open.
void device_part_name(const DevicePart *p, char *out, size_t size);
// "2 threads, avx2 kernels"; of a split model both, with what each has.
const char *device_model_device(const DeviceModel *d);
// What a backend did to the weights and how long it took, or "".
const char *device_model_loaded(const DeviceModel *d);
// How a matmul with weights of this type rounds its input; layer as in device_model_part.
ActQuant device_model_activation(const DeviceModel *d, int layer, TensorType weight);
bool device_model_batch_invariant(const DeviceModel *d);  // see BackendOps
// Bytes of weights that stay in the mapped file and are read there at every step.
uint64_t device_model_mapped_bytes(const DeviceModel *d);

#endif
