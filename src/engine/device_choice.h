// Which backend computes a model, and how many of its layers, from what a user said.
//
// This room owns: the meaning of --backend, --device and -ngl, and of leaving them out. It leaves
// to others: what fits, opening and splitting (device_model.h).
#ifndef PLUMB_ENGINE_DEVICE_CHOICE_H
#define PLUMB_ENGINE_DEVICE_CHOICE_H

#include "engine/device_model.h"

typedef struct {
    const char *backend;  // NULL: the first that a user would want and that opens
    int device;           // of that backend
    // -1: none on a GPU. N: the last N, with more than there are the output too. 0: all; where no
    // backend is named, as many as fit.
    int gpu_layers;
    int n_threads;    // of the CPU
    const char *isa;  // of the CPU
    bool no_repack;   // likewise
    Notice notice;
} DeviceWish;

// at: the backends there are, as backend_at. A backend that was named and cannot run is
// ERR_UNAVAILABLE. One that nobody named is passed over: without a word where there is no such
// device, with a notice where there is one that does not open. Layers that are wanted on a GPU
// where there is none are a notice, and the CPU computes them.
Status device_choose(const Model *m, const DeviceWish *wish, const BackendOps *(*at)(int),
                     DeviceModel **out, Error *err);

#endif
