// The sets of kernels of this build, and what they are made of.
#ifndef PLUMB_BACKEND_CPU_KERNEL_SETS_H
#define PLUMB_BACKEND_CPU_KERNEL_SETS_H

#include "backend/cpu/kernels.h"

// The best first, whether this processor runs them or not; NULL past the end.
const Kernels *kernel_set_at(int i);

#endif
