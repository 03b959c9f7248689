// See host_kernels.h.
#include "host_kernels.h"

void vector_kernels_host(Kernels *k);
void amx_kernels_host(Kernels *k);
void i8mm_kernels_host(Kernels *k);

const Kernels *host_kernels(int i) {
    static const char *const names[HOST_SETS] = {"host", "host-tiles", "host-quads"};
    static Kernels sets[HOST_SETS];
    Kernels *k = &sets[i];
    if (k->isa) return k;
    int generic = 0;
    while (kernel_set_at(generic + 1)) generic++;
    *k = *kernel_set_at(generic);
    vector_kernels_host(k);
    if (i == 1) amx_kernels_host(k);
    if (i == 2) i8mm_kernels_host(k);
    k->isa = names[i];
    return k;
}
