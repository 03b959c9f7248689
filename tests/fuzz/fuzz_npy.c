// Any bytes as a .npy file: refused with words, or an array that lies in them.
#include <stdlib.h>
#include <string.h>

#include "formats/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    NdArray a;
    Error err = {0};
    Status st = npy_parse(data, size, "fuzz", &a, &err);
    if (st) {
        if (st != ERR_FILE || st != err.status || !err.text[0] || strchr(err.text, '\n')) abort();
        return 0;
    }
    if (a.rank > ND_MAX_RANK || a.data < data || a.data + a.bytes != data + size) abort();
    if (a.n != a.bytes / nd_type_size(a.type)) abort();
    for (uint64_t i = 0; i < a.n; i++) {
        float x;
        if (nd_type_is_float(a.type))
            nd_read_f32(&a, i, 1, &x);
        else
            (void)nd_read_int(&a, i);
    }
    return 0;
}
