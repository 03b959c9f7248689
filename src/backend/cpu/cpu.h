// The CPU backend: backend.h on a thread pool, with kernels chosen by what the processor has.
#ifndef PLUMB_BACKEND_CPU_CPU_H
#define PLUMB_BACKEND_CPU_CPU_H

#include "backend/backend.h"

extern const BackendOps cpu_backend;

#endif
