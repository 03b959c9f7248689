// The generic kernels are compiled more than once from the same text: for the oldest processor of
// the architecture, and for newer levels whose wider vectors the compiler then uses by itself (the
// Makefile says which). KERNEL(name) gives each copy its own names. Without contraction of a * b +
// c the copies give the same bits.
#ifndef PLUMB_BACKEND_CPU_KERNEL_SET_H
#define PLUMB_BACKEND_CPU_KERNEL_SET_H

#ifndef KERNEL_SET
#define KERNEL_SET generic
#define KERNEL_SET_GENERIC  // for lanes.h
#endif
#define KERNEL_JOIN2(name, set) name##_##set
#define KERNEL_JOIN(name, set) KERNEL_JOIN2(name, set)
#define KERNEL(name) KERNEL_JOIN(name, KERNEL_SET)

#endif
