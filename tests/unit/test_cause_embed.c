// The causes of wrong embeddings.
#include "cause_fixture.h"

static const Shape shapes[] = {
    {96, 160, 3, 1, 32, 99, 2, TYPE_F32, false, false, false, 20, NULL},
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q4_K, false, false, false, 20, NULL},
    {256, 512, 8, 2, 32, 131, 2, TYPE_Q6_K, false, false, false, 1, NULL},
    {64, 160, 2, 1, 32, 300, 2, TYPE_Q8_0, false, false, false, 5, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

typedef struct {
    Fix *f;
    const Tensor *t;
    float *w;
    size_t dim, n_vocab, n;
} At;

static At at_of(const Shape *s) {
    Fix *f = fix_new(s, -1);
    At a = {.f = f, .t = f->model.token_embd, .n = s->n};
    a.w = fix_decoded(f, a.t);
    a.dim = (size_t)a.t->dims[0], a.n_vocab = (size_t)a.t->dims[1];
    return a;
}

#define EACH(a)                           \
    for (int s_ = 0; s_ < N_SHAPES; s_++) \
        for (At a = at_of(&shapes[s_]); a.f; fix_free(a.f), a.f = NULL)

static float *room(const At *a) {
    return fix_alloc(a->f, a->n * a->dim, sizeof(float));
}

static void columns(void **state) {
    (void)state;
    EACH(a) {
        float *got = room(&a);
        for (size_t r = 0; r < a.n; r++) {
            for (size_t i = 0; i < a.dim; i++) {
                got[r * a.dim + i] = a.w[i * a.n_vocab + (size_t)a.f->tokens[r]];
            }
        }
        fix_named(a.f, COMP_EMBD, got, "embedding-column-major", NULL);
    }
}

static void rows_from(const At *a, float *got, long shift) {
    for (size_t r = 0; r < a->n; r++) {
        long token = a->f->tokens[r] + shift;
        if (token < 0) token = 0;
        if (token >= (long)a->n_vocab) token = (long)a->n_vocab - 1;
        memcpy(got + r * a->dim, a->w + (size_t)token * a->dim, a->dim * sizeof *got);
    }
}

static void shifted(void **state) {
    (void)state;
    EACH(a) {
        float *got = room(&a);
        rows_from(&a, got, 1);
        fix_named(a.f, COMP_EMBD, got, "embedding-row-shift", "+1");
        rows_from(&a, got, -3);
        fix_named(a.f, COMP_EMBD, got, "embedding-row-shift", "-3");
    }
}

static void token_before(void **state) {
    (void)state;
    EACH(a) {
        if (a.n == 1) continue;
        float *got = room(&a), *right = fix_right(a.f, COMP_EMBD);
        memcpy(got, right, a.dim * sizeof *got);
        memcpy(got + a.dim, right, (a.n - 1) * a.dim * sizeof *got);
        fix_named(a.f, COMP_EMBD, got, "token-shift", "1 before");
    }
}

static void other_tokens(void **state) {
    (void)state;
    EACH(a) {
        if (a.n == 1) continue;
        float *got = fix_right(a.f, COMP_EMBD);
        for (size_t r = 0; r < a.n; r++) {
            const size_t token = (r * r * 11 + 3) % a.n_vocab;
            memcpy(got + r * a.dim, a.w + token * a.dim, a.dim * sizeof *got);
        }
        fix_named(a.f, COMP_EMBD, got, "embedding-other-row", NULL);
    }
}

// Rows as far apart as those of halves are, in a table of floats; blocks of Q4_0 in one of Q8_0.
static void strides(void **state) {
    (void)state;
    At a = at_of(&shapes[0]);
    float *got = room(&a);
    for (size_t r = 0; r < a.n; r++) {
        memcpy(got + r * a.dim, a.t->data + (size_t)a.f->tokens[r] * a.dim * 2, a.dim * 4);
    }
    fix_named(a.f, COMP_EMBD, got, "embedding-stride", "F16");
    fix_free(a.f);
    a = at_of(&shapes[3]);
    got = room(&a);
    for (size_t r = 0; r < a.n; r++) {
        for (size_t b = 0; b < a.dim / 32; b++) {
            const uint8_t *block = a.t->data + ((size_t)a.f->tokens[r] * a.dim / 32 + b) * 18;
            for (size_t i = 0; i < 32; i++) {
                got[r * a.dim + b * 32 + i] = f16_to_f32(load_u16(block)) * (int8_t)block[2 + i];
            }
        }
    }
    const Cause *cause = fix_find(a.f, COMP_EMBD, got);
    assert_true(cause->n_fits > 0);  // as far apart as those of Q4_0: also said as "block-stride"
    fix_free(a.f);
}

static void scaled(void **state) {
    (void)state;
    EACH(a) {
        float *got = fix_right(a.f, COMP_EMBD);
        const float root = sqrtf((float)a.dim);
        for (size_t i = 0; i < a.n * a.dim; i++) got[i] *= root;
        fix_named(a.f, COMP_EMBD, got, "embedding-scaled", "sqrt(dim)");
    }
}

static void of_output(void **state) {
    (void)state;
    EACH(a) {
        const float *w = fix_decoded(a.f, a.f->model.output);
        float *got = room(&a);
        for (size_t r = 0; r < a.n; r++) {
            memcpy(got + r * a.dim, w + (size_t)a.f->tokens[r] * a.dim, a.dim * sizeof *got);
        }
        fix_named(a.f, COMP_EMBD, got, "other-weights", "output.weight");
    }
}

static void noise(void **state) {
    (void)state;
    EACH(a) {
        for (double size = 1e-7; size < 1; size *= 10) {
            float *got = fix_right(a.f, COMP_EMBD);
            for (size_t i = 0; i < a.n * a.dim; i++) got[i] *= (float)(1 + size * fix_normal(a.f));
            fix_unknown(a.f, COMP_EMBD, got);
        }
        float *got = fix_right(a.f, COMP_EMBD);
        got[a.dim / 2] += 1;
        const Cause *cause = fix_find(a.f, COMP_EMBD, got);
        for (size_t i = 0; i < cause->n_fits; i++) {
            assert_string_equal(cause->fits[i].id, "damaged-elements");
        }
        char words[64];
        snprintf(words, sizeof words, "column %zu of %zu only", a.dim / 2, a.dim);
        assert_non_null(strstr(cause->pattern, words));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns),      cmocka_unit_test(shifted), cmocka_unit_test(token_before),
        cmocka_unit_test(other_tokens), cmocka_unit_test(strides), cmocka_unit_test(scaled),
        cmocka_unit_test(of_output),    cmocka_unit_test(noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
