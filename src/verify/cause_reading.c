// Reading matrices from other places; see cause_reading.h.
#include "verify/cause_reading.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_MOST = 256 };

Reading reading_of(const Tensor *t, const Gguf *g) {
    const TypeInfo *info = type_info(t->type);
    const size_t blocks = (size_t)(t->dims[0] / info->block_len);
    Reading r = {.t = t,
                 .row_bytes = blocks * info->block_bytes,
                 .block_bytes = info->block_bytes,
                 .behind = t->bytes};
    uint64_t size = 0;
    const uint8_t *file = g ? gguf_part_bytes(g, t->part, &size) : NULL;
    if (!file || t->offset > size || file + t->offset != t->data) return r;
    r.before = t->offset, r.behind = size - t->offset;
    return r;
}

bool reading_has(const Reading *r, size_t row) {
    const TypeInfo *info = type_info(r->t->type);
    const uint64_t blocks = r->t->dims[0] / info->block_len;
    const int64_t from = (int64_t)(row * r->row_bytes) + r->shift;
    const int64_t to = from + (int64_t)((blocks - 1) * r->block_bytes + info->block_bytes);
    return from >= -(int64_t)r->before && to <= (int64_t)r->behind;
}

void reading_rows(const Reading *r, size_t *from, size_t *to) {
    const size_t n = (size_t)r->t->dims[1];
    *from = 0, *to = n;
    while (*from < n && !reading_has(r, *from)) ++*from;
    while (*to > *from && !reading_has(r, *to - 1)) --*to;
}

void reading_row(const Reading *r, size_t row, float *w) {
    const TypeInfo *info = type_info(r->t->type);
    const size_t n = (size_t)r->t->dims[0];
    const uint8_t *src = r->t->data + ((ptrdiff_t)(row * r->row_bytes) + r->shift);
    if (r->block_bytes == info->block_bytes) {
        if (r->flaw) {
            block_decode(r->flaw, r->t->type, src, w, n);
        } else {
            dequantize(r->t->type, src, w, n);
        }
        return;
    }
    for (size_t at = 0; at < n; at += info->block_len, src += r->block_bytes) {
        dequantize(r->t->type, src, w + at, info->block_len);
    }
}

void reading_flat(const Tensor *t, size_t start, size_t n, float *out) {
    const TypeInfo *info = type_info(t->type);
    const size_t len = info->block_len;
    float block[BLOCK_MOST];
    while (n > 0) {
        const size_t skip = start % len, take = len - skip < n ? len - skip : n;
        const uint8_t *src = t->data + start / len * info->block_bytes;
        if (len == 1) {
            dequantize(t->type, src, out, n);
            return;
        }
        dequantize(t->type, src, block, len);
        memcpy(out, block + skip, take * sizeof *out);
        start += take, out += take, n -= take;
    }
}

uint64_t reading_padding(const Tensor *t, const Gguf *g) {
    uint64_t first = t->offset, bytes = 0;
    for (size_t i = 0; g && i < gguf_n_tensors(g); i++) {
        const Tensor *other = gguf_tensor_at(g, i);
        if (other->part != t->part || other->offset >= t->offset) continue;
        first = other->offset < first ? other->offset : first;
        bytes += other->bytes;
    }
    return t->offset - first > bytes ? t->offset - first - bytes : 0;
}

const char *reading_shift_text(const Reading *r, char out[64]) {
    snprintf(out, 64, "%ld bytes too %s", labs(r->shift), r->shift < 0 ? "early" : "late");
    return out;
}
