// The list of backends; see backend.h.
#include "backend/backend.h"

#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/gpu/gpu.h"

static const BackendOps *const backends[] = {
    &cuda_backend,
#ifdef PLUMB_METAL
    &metal_backend,
#endif
    &opencl_backend,
    &cpu_backend,
};

const BackendOps *backend_at(int i) {
    return i >= 0 && i < (int)(sizeof backends / sizeof *backends) ? backends[i] : NULL;
}

const BackendOps *backend_by_name(const char *name) {
    for (int i = 0; backend_at(i); i++) {
        if (strcmp(backend_at(i)->name, name) == 0) return backend_at(i);
    }
    return NULL;
}
