// Hypotheses about the bytes of weights: blocks decoded wrongly, or from the wrong place. Of the
// embedding and of every matrix product.
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_product.h"
#include "verify/cause_reading.h"

#define READ                                                                              \
    (1u << COMP_EMBD | 1u << COMP_Q | 1u << COMP_K | 1u << COMP_V | 1u << COMP_ATTN_OUT | \
     1u << COMP_FFN_GATE | 1u << COMP_FFN_UP | 1u << COMP_FFN_OUT | 1u << COMP_LOGITS)

const Hypothesis hypotheses_quants[] = {
    {"q4k-scale-bits", "packed scales of Q4_K and Q5_K are unpacked wrongly", READ},
    {"scale-bits", "packed scales of Q3_K and IQ4_XS are unpacked wrongly", READ},
    {"scale-min-swapped", "scales and minimums are exchanged", READ},
    {"nibbles-swapped", "low and high bits of a byte of codes are exchanged", READ},
    {"interleaved", "the codes of a byte are taken for neighbours", READ},
    {"q6k-sequential", "codes of Q6_K are taken in the order of their bytes", READ},
    {"min-sign", "the minimum's sign is wrong", READ},
    {"min-dropped", "the minimum is left out", READ},
    {"int8-unsigned", "signed bytes are read as unsigned", READ},
    {"codes-signed", "offset codes are read as two's complement", READ},
    {"offset-dropped", "codes are not centered", READ},
    {"high-bits-dropped", "bits of codes that are stored apart are dropped", READ},
    {"high-bits-inverted", "bits of codes that are stored apart are inverted", READ},
    {"subnormal-flushed", "subnormal halves are read as 0", READ},
    {"type-confused", "blocks are read as another type's of the same size", READ},
    {"block-stride", "blocks are taken as far apart as another type's", READ},
    {"alignment-ignored", "data is read from before or behind its place", READ},
    {NULL, NULL, 0},
};

// --- one way of reading, for either kind of component -------------------------------------------

typedef struct {
    Trial *t;
    const Tensor *w;
    Product product;  // not of the embedding
    bool is_embd;
} Reader;

static void read_output(void *user, size_t output, float *w) {
    reading_row(user, output, w);
}

// The embedding's rows: a copy, but the few operations of decoding may be made in another order.
static bool embed(Reader *q, const Reading *r, Expected *e) {
    const CauseCase *k = q->t->k;
    const size_t dim = k->want->width;
    const Precision out = k->site->rounding->out[COMP_EMBD];
    const bool blocks = type_info(q->w->type)->block_len > 1;
    float *w = malloc(dim * sizeof *w);
    if (!w) {
        q->t->status = error_memory(q->t->err, "a row of the embedding", dim * sizeof *w);
        return false;
    }
    bool read = q->t->status == OK;
    if (read) q->t->status = expected_new(k->n_rows, dim, e, q->t->err);
    if (q->t->status) read = false;
    for (size_t t = 0; read && t < k->n_rows; t++) {
        const size_t token = (size_t)k->site->tokens[k->row[t]];
        const bool has = reading_has(r, token);
        double most = 0;  // of a row that is decoded; plain floats are copied
        if (has) reading_row(r, token, w);
        for (size_t i = 0; has && blocks && i < dim; i++) most = fmax(most, fabs((double)w[i]));
        for (size_t i = 0; i < dim; i++) {
            e->y[t * dim + i] = has ? w[i] : 0;
            e->bound[t * dim + i] =
                has ? bound_copy(w[i], out).bound + 4 * unit_roundoff(PREC_F32) * most : INFINITY;
        }
    }
    free(w);
    return read;
}

static bool try_reading(Reader *q, Reading *r, Expected *e) {
    if (q->t->status) return false;
    if (q->is_embd) return embed(q, r, e);
    Variant v = product_as_is(&q->product);
    v.row = read_output, v.user = r;
    reading_rows(r, &v.from, &v.to);
    return v.to > v.from && product_try(&q->product, &v, e);
}

// --- the ways -----------------------------------------------------------------------------------

static void try_flaws(Reader *q) {
    const BlockFlaw *flaw;
    for (int i = 0; (flaw = block_flaw_at(i)); i++) {
        if (!(flaw->types >> q->w->type & 1)) continue;
        Reading r = reading_of(q->w, NULL);
        Expected e;
        r.flaw = flaw;
        if (!try_reading(q, &r, &e)) continue;
        trial_offer(q->t, flaw->id, &e, "%s blocks: %s", type_info(q->w->type)->name, flaw->text);
    }
}

static void try_block_strides(Reader *q) {
    const TypeInfo *own = type_info(q->w->type);
    // Q8_1 and Q8_K, which no file has, but engines do.
    static const struct {
        const char *name;
        uint32_t len, bytes;
    } inner[] = {{"Q8_1", 32, 36}, {"Q8_K", 256, 292}};
    if (own->block_len == 1) return;
    for (uint32_t type = 0; type < TYPE_LIMIT + 2; type++) {
        const TypeInfo *info = type < TYPE_LIMIT ? type_info(type) : NULL;
        const uint32_t len =
            type < TYPE_LIMIT ? (info ? info->block_len : 0) : inner[type - TYPE_LIMIT].len;
        const uint32_t bytes =
            type < TYPE_LIMIT ? (info ? info->block_bytes : 0) : inner[type - TYPE_LIMIT].bytes;
        if (len != own->block_len || bytes == own->block_bytes) continue;
        Reading r = reading_of(q->w, q->t->k->site->model->gguf);
        Expected e;
        r.row_bytes = r.row_bytes / own->block_bytes * bytes, r.block_bytes = bytes;
        if (!try_reading(q, &r, &e)) continue;
        trial_offer(q->t, "block-stride", &e, "blocks of %s (%u bytes) taken %u bytes apart, as %s",
                    own->name, own->block_bytes, bytes,
                    info ? info->name : inner[type - TYPE_LIMIT].name);
    }
}

static bool try_shift(Reader *q, long shift) {
    const Gguf *g = q->t->k->site->model->gguf;
    Reading r = reading_of(q->w, g);
    Expected e;
    char text[64];
    r.shift = shift;
    return try_reading(q, &r, &e) && trial_offer(q->t, "alignment-ignored", &e, "%s is read %s",
                                                 q->w->name, reading_shift_text(&r, text));
}

static void try_shifts(Reader *q) {
    const Gguf *g = q->t->k->site->model->gguf;
    const uint64_t align = g ? gguf_alignment(g) : 32;
    const long most = align > 64 ? 64 : (long)align;
    const uint64_t padding = reading_padding(q->w, g);
    for (long shift = 1; shift <= most && !q->t->status; shift++) {
        if (try_shift(q, -shift) || try_shift(q, shift)) return;
    }
    // Padding that was ignored between tensors adds up, and that after the table comes on top.
    if (padding > (uint64_t)most && padding < (uint64_t)LONG_MAX / 2) {
        for (long shift = 0; shift < most && !q->t->status; shift++) {
            if (try_shift(q, -(long)padding - shift)) return;
        }
    }
}

void cause_quants(Trial *t) {
    Reader q = {.t = t, .is_embd = t->k->c == COMP_EMBD};
    q.w = t->k->site->model->token_embd;
    bool ready = t->k->n_rows > 0;
    if (!q.is_embd) {
        ready = product_open(t, &q.product);
        q.w = q.product.w;
    }
    if (ready) {
        try_flaws(&q);
        if (!t->path) {
            try_block_strides(&q);
            try_shifts(&q);
        }
    }
    if (!q.is_embd) product_close(&q.product);
}
