// The sets of kernels: the generic text compiled for a level of the architecture, and over it what
// is written with that level's instructions.
#include "backend/cpu/kernel_sets.h"

#include <pthread.h>

#include "backend/cpu/features.h"
#include "backend/cpu/panel.h"

extern const Kernels kernels_generic;

#if defined(__x86_64__)
// Of each level: the generic text, and vector_kernels() of kernels_vector.c.
extern const Kernels kernels_avx2, kernels_avx512;
void vector_kernels_avx2(Kernels *k);
void vector_kernels_avx512(Kernels *k);
void amx_kernels_avx512(Kernels *k);

enum { N_SETS = 4 };
static Kernels sets[N_SETS];

static void make_sets(void) {
    Kernels *k = sets;
    *k = kernels_avx512;
    vector_kernels_avx512(k);
    amx_kernels_avx512(k);
    k->isa = "amx", k->what = "AVX-512 with VNNI, and AMX tiles", k->lacks = lacks_amx;
    *++k = kernels_avx512;
    vector_kernels_avx512(k);
    k->isa = "avx512", k->what = "AVX-512 with VNNI", k->lacks = lacks_avx512;
    *++k = kernels_avx2;
    vector_kernels_avx2(k);
    k->isa = "avx2", k->what = "AVX2 with FMA and F16C", k->lacks = lacks_avx2;
    *++k = kernels_generic;
}
#elif defined(__aarch64__)
extern const Kernels kernels_neon;
void vector_kernels_neon(Kernels *k);
void i8mm_kernels_neon(Kernels *k);

enum { N_SETS = 3 };
static Kernels sets[N_SETS];

static void make_sets(void) {
    Kernels *k = sets;
    *k = kernels_neon;
    vector_kernels_neon(k);
    i8mm_kernels_neon(k);
    k->isa = "i8mm", k->what = "NEON with the 8-bit matrix product", k->lacks = lacks_i8mm;
    *++k = kernels_neon;
    vector_kernels_neon(k);
    k->isa = "neon", k->what = "NEON with the dot product", k->lacks = lacks_neon;
    *++k = kernels_generic;
}
#else
enum { N_SETS = 1 };
static Kernels sets[N_SETS];

static void make_sets(void) {
    sets[0] = kernels_generic;
}
#endif

const Kernels *kernel_set_at(int i) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_sets);
    return i < N_SETS ? &sets[i] : NULL;
}
