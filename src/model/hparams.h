// Inner header of model/: hyperparameters as model.c reads them, with notices.
#ifndef PLUMB_MODEL_HPARAMS_H
#define PLUMB_MODEL_HPARAMS_H

#include "model/model.h"

// As model_hparams; notices go to `notice`. In a file with tensors every key that has no default
// must be there; in a vocabulary-only file (no tensors) what is absent stays 0.
Status hparams_read(const Gguf *g, Notice notice, Hparams *out, Error *err);

#endif
