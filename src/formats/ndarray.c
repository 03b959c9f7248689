// Arrays of numbers; see ndarray.h.
#include "formats/ndarray.h"

#include <string.h>

#include "base/checked.h"
#include "formats/quants.h"

static const struct {
    const char *name;
    size_t size;
} types[ND_TYPES] = {{"F16", 2}, {"BF16", 2}, {"F32", 4}, {"F64", 8}, {"I8", 1},  {"U8", 1},
                     {"I16", 2}, {"U16", 2},  {"I32", 4}, {"U32", 4}, {"I64", 8}, {"U64", 8}};

const char *nd_type_name(NdType t) {
    return types[t].name;
}

size_t nd_type_size(NdType t) {
    return types[t].size;
}

bool nd_type_is_float(NdType t) {
    return t <= ND_F64;
}

bool nd_set_size(NdArray *a) {
    a->n = 1;
    for (int i = 0; i < a->rank; i++) {
        // A zero may follow a product that does not fit; then too the array makes no sense.
        if (!checked_mul(a->n, a->dims[i], &a->n)) return false;
    }
    return checked_mul(a->n, types[a->type].size, &a->bytes) && a->bytes <= INT64_MAX;
}

void nd_read_f32(const NdArray *a, uint64_t at, uint64_t n, float *out) {
    const uint8_t *p = a->data + at * types[a->type].size;
    switch (a->type) {
        case ND_F32: memcpy(out, p, (size_t)n * sizeof *out); break;
        case ND_F16:
            for (uint64_t i = 0; i < n; i++) out[i] = f16_to_f32(load_u16(p + 2 * i));
            break;
        case ND_BF16:
            for (uint64_t i = 0; i < n; i++) out[i] = bf16_to_f32(load_u16(p + 2 * i));
            break;
        default:  // ND_F64
            for (uint64_t i = 0; i < n; i++) {
                double x;
                memcpy(&x, p + 8 * i, sizeof x);
                out[i] = (float)x;
            }
    }
}

int64_t nd_read_int(const NdArray *a, uint64_t i) {
    const size_t size = types[a->type].size;
    const bool is_signed = a->type == ND_I8 || a->type == ND_I16 || a->type == ND_I32;
    uint64_t v = 0;
    memcpy(&v, a->data + i * size, size);  // little-endian into the low bytes
    if (a->type == ND_U64 && v > INT64_MAX) return INT64_MAX;
    if (!is_signed || !(v >> (8 * size - 1))) return (int64_t)v;
    return (int64_t)(v | UINT64_MAX << (8 * size));
}
