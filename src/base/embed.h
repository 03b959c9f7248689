// Files that are linked into the program: what .incbin needs around it, for ELF and for Mach-O.
//
//   __asm__(EMBED_BEGIN EMBED_SYMBOL(name) EMBED_BYTES("path from the root") EMBED_SYMBOL(name_end)
//           EMBED_NUL EMBED_END);
//   extern const char name[], name_end[];
//
// A path is seen from where make runs. The object that embeds a file must be made again when the
// file changes: the compiler does not say so, the Makefile has to.
#ifndef PLUMB_BASE_EMBED_H
#define PLUMB_BASE_EMBED_H

#ifdef __APPLE__
#define EMBED_BEGIN ".const_data\n.p2align 6\n"
#define EMBED_SYMBOL(name) ".private_extern _" #name "\n_" #name ":\n"
#define EMBED_END ".text\n"
#else
#define EMBED_BEGIN ".section .rodata\n.p2align 6\n"
#define EMBED_SYMBOL(name) ".global " #name "\n.hidden " #name "\n" #name ":\n"
#define EMBED_END ".previous\n"
#endif
#define EMBED_BYTES(path) ".incbin \"" path "\"\n"
#define EMBED_NUL ".byte 0\n"

#endif
