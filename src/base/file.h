// Files: read-only mappings that survive a shrinking file, whole reads, atomic writes.
//
// This room owns: mmap and its SIGBUS guard, reading a file or stdin whole, and outputs that are
// written to a temporary file and renamed. It leaves to others: what the bytes mean.
#ifndef PLUMB_BASE_FILE_H
#define PLUMB_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/checked.h"
#include "base/status.h"

typedef struct MappedFile MappedFile;

// Maps a regular file read-only. A directory, FIFO, device or unreadable file is ERR_FILE; opening
// never waits. An empty file has size 0 and a pointer that must not be read. While it is mapped, a
// read past the end of a file that has shrunk (or whose disk fails) reads zeros instead of killing
// the process; file_fault() then tells, and the caller must fail its request.
Status file_map(const char *path, MappedFile **out, Error *err);
void file_unmap(MappedFile *f);
const uint8_t *file_data(const MappedFile *f);
uint64_t file_size(const MappedFile *f);
const char *file_path(const MappedFile *f);
// OK, or ERR_FILE naming file and offset when a read of this mapping has faulted or the file is now
// shorter than it was (the end of its last page reads as zeros without a fault).
Status file_fault(const MappedFile *f, Error *err);

// Reads a whole file of at most `most` bytes ("-" is stdin); appends to out. A pipe or a device is
// read to its end. On failure out is as it was.
Status file_read(const char *path, uint64_t most, Text *out, Error *err);

// An output that appears under its name only when it is whole: written beside it, synced, renamed.
// A file that is replaced keeps its mode, a new one has 0666 less the umask. A device, a pipe,
// /dev/stdout and /dev/stderr are written straight through. A directory is refused. Failures are
// ERR_FAILED.
typedef struct OutFile OutFile;
Status out_open(const char *path, OutFile **out, Error *err);
Status out_write(OutFile *o, const void *bytes, size_t len, Error *err);
uint64_t out_position(const OutFile *o);
Status out_commit(OutFile *o, Error *err);  // closes, renames; frees o, also on failure
void out_abort(OutFile *o);                 // removes the temporary file, frees; NULL is fine

#endif
