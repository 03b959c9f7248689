// NumPy's .npy files, format versions 1 to 3.
//
// This room owns: the header and its checks. Follows
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. It leaves to others:
// where the bytes come from (base/file.h), folders of such files, .npz archives.
#ifndef PLUMB_FORMATS_NPY_H
#define PLUMB_FORMATS_NPY_H

#include "base/status.h"
#include "formats/ndarray.h"

// Reads the header of the size bytes at data; out->data points into them, out->name is `name`,
// which stands for the file in messages. Allocates nothing. ERR_FILE: no .npy, another version, a
// type that is no little-endian number, Fortran order, more dimensions than ND_MAX_RANK, data short
// or too long.
Status npy_parse(const uint8_t *data, uint64_t size, const char *name, NdArray *out, Error *err);

#endif
