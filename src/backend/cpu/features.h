// What this processor has, for the kernels that need it.
#ifndef PLUMB_BACKEND_CPU_FEATURES_H
#define PLUMB_BACKEND_CPU_FEATURES_H

// NULL when all is there, else the first thing that is missing ("AVX-512 VNNI"). Of another
// architecture all is missing.
const char *lacks_nothing(void);
const char *lacks_avx2(void);    // AVX2, FMA, F16C
const char *lacks_avx512(void);  // AVX-512 F, BW, DQ, VL, VNNI
const char *lacks_amx(void);     // these, AMX TILE, INT8, BF16, and the system's leave to use them
const char *lacks_neon(void);    // the dot product of Armv8.2
const char *lacks_i8mm(void);    // that, and the 8-bit matrix product

#endif
