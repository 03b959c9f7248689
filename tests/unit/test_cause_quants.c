// The causes of weights that are read wrongly from their bytes.
#include "cause_fixture.h"

#include "test_gguf_build.h"
#include "verify/cause_reading.h"

// --- wrong decoders, as one writes them who errs ------------------------------------------------

static float half_at(const uint8_t *p) {
    return f16_to_f32(load_u16(p));
}

typedef enum {
    LOW_SCALES,
    SWAPPED,
    INTERLEAVED,
    PLUS_MIN,
    NO_MIN,
} Q4kError;

static void q4k_wrong(const uint8_t *b, float *y, size_t n, Q4kError how) {
    for (; n; n -= 256, b += 144, y += 256) {
        const float d = half_at(b), m = half_at(b + 2);
        for (int e = 0; e < 256; e++) {
            const int j = e / 32, byte = e / 64 * 32 + e % 32;
            int scale, min, code = e / 32 % 2 ? b[16 + byte] >> 4 : b[16 + byte] & 15;
            if (j < 4) {
                scale = b[4 + j] & 63, min = b[8 + j] & 63;
            } else {
                scale = (b[8 + j] & 15) | (b[j] >> 6) * 16,
                min = b[8 + j] / 16 | (b[4 + j] >> 6) * 16;
                if (how == LOW_SCALES) scale &= 15, min &= 15;
            }
            if (how == SWAPPED) code = e / 32 % 2 ? b[16 + byte] & 15 : b[16 + byte] >> 4;
            if (how == INTERLEAVED) code = e % 2 ? b[16 + e / 2] >> 4 : b[16 + e / 2] & 15;
            float offset = m * (float)min;
            if (how == PLUS_MIN) offset = -offset;
            if (how == NO_MIN) offset = 0;
            y[e] = d * (float)scale * (float)code - offset;
        }
    }
}

static void q6k_sequential(const uint8_t *b, float *y, size_t n) {
    for (; n; n -= 256, b += 210, y += 256) {
        for (int e = 0; e < 256; e++) {
            const int low = b[e / 2] >> 4 * (e % 2) & 15, high = b[128 + e / 4] >> 2 * (e % 4) & 3;
            y[e] =
                half_at(b + 208) * (float)(int8_t)b[192 + e / 16] * (float)((low | high << 4) - 32);
        }
    }
}

static void q8_0_unsigned(const uint8_t *b, float *y, size_t n) {
    for (; n; n -= 32, b += 34, y += 32) {
        for (int e = 0; e < 32; e++) y[e] = half_at(b) * (float)b[2 + e];
    }
}

static void q4_0_wrong(const uint8_t *b, float *y, size_t n, Q4kError how) {
    for (; n; n -= 32, b += 18, y += 32) {
        for (int e = 0; e < 32; e++) {
            const int byte = how == INTERLEAVED ? e / 2 : e % 16;
            bool high = how == INTERLEAVED ? e % 2 : e >= 16;
            if (how == SWAPPED) high = !high;
            y[e] = half_at(b) * (float)((high ? b[2 + byte] >> 4 : b[2 + byte] & 15) - 8);
        }
    }
}

// --- through a component ------------------------------------------------------------------------

static const Shape tokens_20[] = {
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q4_K, false, false, false, 20, "q8_k"},
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q6_K, false, false, false, 20, "q8_k"},
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q8_0, false, false, false, 20, "q8_0"},
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q4_0, false, false, false, 20, "q8_0"},
};
static const Shape token_1[] = {
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q4_K, false, false, false, 1, NULL},
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q6_K, false, false, false, 1, NULL},
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q8_0, false, false, false, 1, NULL},
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q4_0, false, false, false, 1, NULL},
};

// The embedding and ffn_up with weights as `decode` gives them must both be named.
static void both(const Shape *s, void (*decode)(const uint8_t *b, float *y, size_t n),
                 const char *id) {
    Fix *f = fix_new(s, -1);
    const Tensor *t = f->model.token_embd;
    float *w = fix_alloc(f, (size_t)(t->dims[0] * t->dims[1]), sizeof *w);
    float *got = fix_alloc(f, s->n * (size_t)s->dim, sizeof *got);
    decode(t->data, w, (size_t)(t->dims[0] * t->dims[1]));
    for (size_t i = 0; i < s->n; i++) {
        memcpy(got + i * (size_t)s->dim, w + f->tokens[i] * s->dim, (size_t)s->dim * sizeof *got);
    }
    fix_named(f, COMP_EMBD, got, id, type_info(s->type)->name);
    fix_free(f);

    f = fix_new(s, 1);
    t = f->site.w->ffn_up;
    w = fix_alloc(f, (size_t)(t->dims[0] * t->dims[1]), sizeof *w);
    decode(t->data, w, (size_t)(t->dims[0] * t->dims[1]));
    got = fix_matmul(f, w, t->type, NULL, f->site.at[COMP_FFN_NORM].seen->x, s->n,
                     (size_t)t->dims[0], (size_t)t->dims[1]);
    fix_named(f, COMP_FFN_UP, got, id, type_info(s->type)->name);
    fix_free(f);
}

#define DECODER(name, ...)                                   \
    static void name(const uint8_t *b, float *y, size_t n) { \
        __VA_ARGS__;                                         \
    }
DECODER(q4k_low, q4k_wrong(b, y, n, LOW_SCALES))
DECODER(q4k_swapped, q4k_wrong(b, y, n, SWAPPED))
DECODER(q4k_interleaved, q4k_wrong(b, y, n, INTERLEAVED))
DECODER(q4k_plus, q4k_wrong(b, y, n, PLUS_MIN))
DECODER(q4k_none, q4k_wrong(b, y, n, NO_MIN))
DECODER(q4_0_swapped, q4_0_wrong(b, y, n, SWAPPED))
DECODER(q4_0_interleaved, q4_0_wrong(b, y, n, INTERLEAVED))

static void blocks(void **state) {
    (void)state;
    for (int one = 0; one < 2; one++) {
        const Shape *s = one ? token_1 : tokens_20;
        both(&s[0], q4k_low, "q4k-scale-bits");
        both(&s[0], q4k_swapped, "nibbles-swapped");
        both(&s[0], q4k_interleaved, "interleaved");
        both(&s[0], q4k_plus, "min-sign");
        both(&s[0], q4k_none, "min-dropped");
        both(&s[1], q6k_sequential, "q6k-sequential");
        both(&s[2], q8_0_unsigned, "int8-unsigned");
        both(&s[3], q4_0_swapped, "nibbles-swapped");
        both(&s[3], q4_0_interleaved, "interleaved");
    }
}

// Scales that are subnormal halves, in every third block of ffn_up.
static void flushed(void **state) {
    (void)state;
    Fix *f = fix_new(&tokens_20[2], 1);
    Tensor t = *f->site.w->ffn_up;
    uint8_t *data = fix_alloc(f, t.bytes, 1);
    memcpy(data, t.data, t.bytes);
    for (size_t b = 0; b < t.bytes / 34; b += 3) data[b * 34] = (uint8_t)b, data[b * 34 + 1] = 3;
    t.data = data;
    LayerWeights w = *f->site.w;
    w.ffn_up = &t;
    f->site.w = &w;
    float *all = fix_decoded(f, &t);
    for (size_t i = 0; i < (size_t)(t.dims[0] * t.dims[1]); i++) {
        if (i / 32 % 3 == 0) all[i] = 0;
    }
    const float *x = f->site.at[COMP_FFN_NORM].seen->x;
    fix_named(f, COMP_FFN_UP, fix_matmul(f, all, t.type, NULL, x, f->s.n, 256, 512),
              "subnormal-flushed", NULL);
    fix_free(f);
}

// Every flaw, on what its own decoder makes: each is told from all the others.
static void every_flaw(void **state) {
    (void)state;
    const BlockFlaw *flaw;
    for (int i = 0; (flaw = block_flaw_at(i)); i++) {
        static Shape s[TYPE_LIMIT];
        for (int type = 0; type < TYPE_LIMIT; type++) {
            if (!(flaw->types >> type & 1) || !type_can_quantize((TensorType)type)) continue;
            if (strcmp(flaw->id, "subnormal-flushed") == 0) continue;
            s[type] = token_1[0];
            s[type].type = (TensorType)type;
            Fix *f = fix_new(&s[type], -1);
            const Tensor *t = f->model.token_embd;
            float *got = fix_alloc(f, 256, sizeof *got);
            block_decode(flaw, t->type, t->data + (size_t)f->tokens[0] * t->bytes / t->dims[1], got,
                         256);
            fix_named(f, COMP_EMBD, got, flaw->id, NULL);
            fix_free(f);
        }
    }
}

// Without a flaw the decoder gives the bits of formats/quants.c, on any bytes.
static void no_flaw(void **state) {
    (void)state;
    uint8_t bytes[20 * 256 * 4];
    float right[2560], own[2560];
    Fix f = {.seed = 3};
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(fix_uniform(&f) * 256);
        for (int type = 0; type < TYPE_LIMIT; type++) {
            if (!type_info((uint32_t)type)) continue;
            dequantize((TensorType)type, bytes, right, 2560);
            block_decode(NULL, (TensorType)type, bytes, own, 2560);
            for (int i = 0; i < 2560; i++) {
                if (isnan(right[i]) ? !isnan(own[i]) : memcmp(&right[i], &own[i], 4) != 0) {
                    fail_msg("type %d weight %d: %g, %g", type, i, right[i], own[i]);
                }
            }
        }
    }
}

// Each flaw changes something of each of its types: none is a name without a meaning.
static void flaws_differ(void **state) {
    (void)state;
    uint8_t bytes[256 * 4];
    float right[256], own[256];
    const BlockFlaw *flaw;
    Fix f = {.seed = 5};
    for (int i = 0; (flaw = block_flaw_at(i)); i++) {
        for (int type = 0; type < TYPE_LIMIT; type++) {
            if (!(flaw->types >> type & 1)) continue;
            size_t differ = 0;
            for (int round = 0; round < 64; round++) {
                for (size_t j = 0; j < sizeof bytes; j++)
                    bytes[j] = (uint8_t)(fix_uniform(&f) * 256);
                dequantize((TensorType)type, bytes, right, 256);
                block_decode(flaw, (TensorType)type, bytes, own, 256);
                for (int j = 0; j < 256; j++) differ += right[j] != own[j] && !isnan(right[j]);
            }
            if (differ == 0) fail_msg("%s: nothing of type %d", flaw->text, type);
        }
    }
    assert_null(block_flaw_at(-1));
}

// --- from the wrong place -----------------------------------------------------------------------

// The file's bytes a few places early, where they can be read; without a file, rows after the
// first.
static void alignment(void **state) {
    (void)state;
    for (int s = 0; s < 4; s++) {
        Fix *f = fix_new(&tokens_20[s], 1);
        const Tensor *t = f->site.w->ffn_gate;
        const size_t row = (size_t)(t->bytes / t->dims[1]);
        float *w = fix_alloc(f, (size_t)(t->dims[0] * t->dims[1]), sizeof *w);
        uint8_t *early = fix_alloc(f, t->bytes, 1);
        memcpy(early + 12, t->data, t->bytes - 12);
        dequantize(t->type, early, w, (size_t)(t->dims[0] * t->dims[1]));
        (void)row;
        const float *x = f->site.at[COMP_FFN_NORM].seen->x;
        const float *got = fix_matmul(f, w, t->type, NULL, x, f->s.n, 256, 512);
        fix_named(f, COMP_FFN_GATE, got, "alignment-ignored", "12 bytes too early");
        fix_free(f);
    }
}

// In a file the bytes before the data are there: the first row counts too. The tensors of this one
// are of odd sizes, so that unpadded offsets run off by more than one alignment.
static void alignment_in_file(void **state) {
    (void)state;
    Fix *f = fix_new(&token_1[2], -1);
    Build b = build_new();
    value_str(&b, "general.architecture", "llama");
    tensor(&b, "a", TYPE_F16, 5, 1, 10, 77);
    tensor(&b, "b", TYPE_F16, 5, 1, 10, 78);
    tensor(&b, "c", TYPE_F16, 5, 1, 10, 79);
    tensor(&b, "d", TYPE_F16, 5, 1, 10, 79);
    pad_to(&b.data, b.alignment);
    declare(&b, "token_embd.weight", 17, 2, (uint64_t[]){256, 131}, 2, TYPE_Q8_0, b.data.len);
    add_bytes(&b.data, f->model.token_embd->data, f->model.token_embd->bytes);
    Text bytes = build(&b);
    Gguf *g;
    Error err;
    if (gguf_open_memory(bytes.data, bytes.len, "test.gguf", &g, &err)) fail_msg("%s", err.text);
    Model m = f->model;
    m.gguf = g, m.token_embd = gguf_tensor(g, "token_embd.weight");
    f->site.model = &m;
    Oracle *o;
    if (oracle_new(&m, 1, &o, &err)) fail_msg("%s", err.text);
    f->site.oracle = o;
    static const size_t shifts[] = {3, 31, 88 + 5};  // 4 times 22 bytes of padding, and 5
    for (int i = 0; i < 3; i++) {
        float got[256];
        f->tokens[0] = i;
        dequantize(TYPE_Q8_0, m.token_embd->data + (size_t)i * 8 * 34 - shifts[i], got, 256);
        char words[32];
        snprintf(words, sizeof words, "%zu bytes too early", shifts[i]);
        fix_named(f, COMP_EMBD, got, "alignment-ignored", words);
    }
    oracle_free(o);
    gguf_close(g);
    text_free(&bytes);
    fix_free(f);
}

// Nothing is read that is not there: without a file that is the tensor alone.
static void limits(void **state) {
    (void)state;
    Fix *f = fix_new(&tokens_20[2], 1);
    const Tensor *t = f->site.w->ffn_up;  // 512 rows of 8 blocks of 34 bytes
    Reading r = reading_of(t, NULL);
    size_t from, to;
    reading_rows(&r, &from, &to);
    assert_true(from == 0 && to == 512);
    r.shift = -1;
    reading_rows(&r, &from, &to);
    assert_true(from == 1 && to == 512 && !reading_has(&r, 0) && reading_has(&r, 1));
    r.shift = -8 * 34 - 1;
    reading_rows(&r, &from, &to);
    assert_true(from == 2 && to == 512);
    r.shift = 1;
    reading_rows(&r, &from, &to);
    assert_true(from == 0 && to == 511 && !reading_has(&r, 511));
    r.shift = 0, r.block_bytes = 36, r.row_bytes = 8 * 36;  // 512 * 272 / 288, less what is cut
    reading_rows(&r, &from, &to);
    assert_true(from == 0 && to == 483 && reading_has(&r, 482));
    r.shift = -(long)t->bytes * 3;
    reading_rows(&r, &from, &to);
    assert_true(from == to);
    fix_free(f);
}

static void block_stride(void **state) {
    (void)state;
    Fix *f = fix_new(&tokens_20[2], 1);
    const Tensor *t = f->site.w->ffn_up;
    float *w = fix_alloc(f, 512 * 256, sizeof *w);
    for (size_t b = 0; b < 512 * 8; b++) dequantize(t->type, t->data + b * 18, w + b * 32, 32);
    const float *x = f->site.at[COMP_FFN_NORM].seen->x;
    fix_named(f, COMP_FFN_UP, fix_matmul(f, w, t->type, NULL, x, 20, 256, 512), "block-stride",
              "18");
    fix_free(f);
}

static void noise(void **state) {
    (void)state;
    for (int s = 0; s < 4; s++) {
        Fix *f = fix_new(&tokens_20[s], 1);
        const Tensor *t = f->site.w->ffn_up;
        float *w = fix_decoded(f, t);
        for (size_t i = 0; i < (size_t)(t->dims[0] * t->dims[1]); i++) {
            w[i] *= (float)(1 + 0.05 * fix_normal(f));
        }
        const float *x = f->site.at[COMP_FFN_NORM].seen->x;
        fix_unknown(f, COMP_FFN_UP, fix_matmul(f, w, t->type, NULL, x, 20, 256, 512));
        fix_free(f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks),
        cmocka_unit_test(flushed),
        cmocka_unit_test(no_flaw),
        cmocka_unit_test(flaws_differ),
        cmocka_unit_test(every_flaw),
        cmocka_unit_test(alignment),
        cmocka_unit_test(alignment_in_file),
        cmocka_unit_test(block_stride),
        cmocka_unit_test(limits),
        cmocka_unit_test(noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
