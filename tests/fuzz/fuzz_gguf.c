// Fuzz entry of the GGUF reader: opens the bytes, and reads all that the index promises to be
// there.
//
//   clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/fuzz_gguf.c
//         src/formats/gguf*.c src/formats/quants.c src/base/*.c -o fuzz_gguf
#include <stdlib.h>
#include <string.h>

#include "formats/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Keeps the reads from being optimised away.
static volatile uint64_t sink;

static uint64_t sum_bytes(const void *bytes, uint64_t n) {
    const uint8_t *p = bytes;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) sum += p[i];
    return sum;
}

static uint64_t walk_value(const Gguf *g, const GgufValue *v) {
    uint64_t sum = strlen(v->key);
    GgufType t = v->type == GGUF_ARRAY ? v->elem_type : v->type;
    for (uint64_t i = 0; i < v->n; i++) {
        if (t == GGUF_STR) {
            sum += sum_bytes(v->strs[i].ptr, v->strs[i].len);
        } else {
            sum += gguf_elem_f64(v, i) > 0;
            if (t != GGUF_F32 && t != GGUF_F64) sum += (uint64_t)gguf_elem_i64(v, i);
        }
    }
    if (gguf_find(g, v->key) != v) abort();
    uint32_t u;
    float f;
    bool b, found;
    GgufStr s;
    const GgufValue *array;
    Error err;
    sum += gguf_get_u32(g, v->key, &u, &found, &err);
    sum += gguf_get_f32(g, v->key, &f, &found, &err);
    sum += gguf_get_bool(g, v->key, &b, NULL, &err);
    sum += gguf_get_str(g, v->key, &s, NULL, &err);
    for (int e = GGUF_U8; e <= GGUF_F64; e++) {
        sum += gguf_get_array(g, v->key, (GgufType)e, &array, &found, &err);
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Gguf *g;
    Error err = {0};
    Status st = gguf_open_memory(data, size, "fuzz", &g, &err);
    if (st) {
        // A refusal has words, on one line.
        if (st != err.status || !err.text[0] || strchr(err.text, '\n')) abort();
        return 0;
    }
    for (size_t i = 0; i < gguf_n_values(g); i++) sink += walk_value(g, gguf_value_at(g, i));
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        if (t->data != data + t->offset || gguf_tensor(g, t->name) != t) abort();
        sink += sum_bytes(t->data, t->bytes);
    }
    gguf_close(g);
    return 0;
}
