// Any bytes as a safetensors file: refused with words, or arrays that cover its data. The first
// input byte stands for the header's length where that leaves enough, so that mutation need not
// guess eight bytes.
#include <stdlib.h>
#include <string.h>

#include "formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const uint8_t *data, size_t size) {
    Safetensors *s;
    Error err = {0};
    Status st = safetensors_open_memory(data, size, "fuzz", &s, &err);
    if (st) {
        if (s || st != err.status || !err.text[0] || strchr(err.text, '\n')) abort();
        return;
    }
    const uint8_t *end = NULL;
    for (size_t i = 0; i < safetensors_n(s); i++) {
        const NdArray *a = safetensors_at(s, i);
        if ((end && a->data != end) || a->data < data || !a->name) abort();
        end = a->data + a->bytes;
        if (end > data + size || a->n != a->bytes / nd_type_size(a->type)) abort();
        for (uint64_t k = 0; k < a->n; k++) {
            float x;
            if (nd_type_is_float(a->type))
                nd_read_f32(a, k, 1, &x);
            else
                (void)nd_read_int(a, k);
        }
    }
    if (end && end != data + size) abort();
    for (size_t i = 0; i < safetensors_n_texts(s); i++) {
        if (!safetensors_text_at(s, i).key || !safetensors_text_at(s, i).text) abort();
    }
    safetensors_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    walk(data, size);
    if (size < 2) return 0;
    uint8_t *framed = malloc(size + 7);
    if (!framed) return 0;
    const uint64_t n = (size - 1) * (uint64_t)(data[0] + 1) / 256;
    memcpy(framed, &n, 8);
    memcpy(framed + 8, data + 1, size - 1);
    walk(framed, size + 7);
    free(framed);
    return 0;
}
