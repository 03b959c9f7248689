// The causes of wrong rotations.
#include "cause_fixture.h"

static const Shape shapes[] = {
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 20, NULL},
    {256, 512, 8, 2, 32, 131, 3, TYPE_F32, false, true, false, 20, NULL},
    {256, 512, 4, 4, 64, 131, 3, TYPE_F32, false, false, false, 5, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

// How a test rotates. Zero: as the model wants it.
typedef struct {
    double base, exponent, scale, shift, magnitude;
    int n_rot, heads;  // 0: the model's; of heads only so many are rotated
    bool other_pairs, back, in_place, swapped;
    double (*pos)(const Fix *f, size_t token, size_t head);
    const double *frequency;  // of each pair, instead
    bool bf16;                // cosines and sines are
    const float *x;           // another input
} Turn;

static const float *input(const Fix *f, Component c) {
    const bool normed = f->site.w->q_norm != NULL;
    const Component in =
        c == COMP_Q_ROPE ? (normed ? COMP_Q_NORM : COMP_Q) : (normed ? COMP_K_NORM : COMP_K);
    return f->site.at[in].seen->x;
}

static double frequency(const Fix *f, const Turn *t, size_t i) {
    const Hparams *h = &f->model.h;
    const double n_rot = t->n_rot ? t->n_rot : h->n_rot;
    if (t->frequency) return t->frequency[i];
    return pow(t->base > 0 ? t->base : h->rope_base,
               -(double)i * (t->exponent > 0 ? t->exponent : 2 / n_rot)) *
           (t->scale > 0 ? t->scale : 1) / h->rope_factor;
}

static float *turned(Fix *f, Component c, const Turn *t) {
    const Hparams *h = &f->model.h;
    const size_t heads = (size_t)(c == COMP_Q_ROPE ? h->n_heads : h->n_kv_heads);
    const size_t d = (size_t)h->head_dim, pairs = (size_t)(t->n_rot ? t->n_rot : h->n_rot) / 2;
    const bool halves = (h->rope_pairing == ROPE_NEOX) != t->other_pairs;
    const float *x = t->x ? t->x : input(f, c);
    float *y = fix_alloc(f, f->s.n * heads * d, sizeof *y);
    memcpy(y, x, f->s.n * heads * d * sizeof *y);
    for (size_t cell = 0; cell < f->s.n * heads; cell++) {
        const size_t token = cell / heads, head = cell % heads;
        if (t->heads && head >= (size_t)t->heads) continue;
        const double pos = t->pos ? t->pos(f, token, head) : (double)token + t->shift;
        for (size_t i = 0; i < pairs; i++) {
            const double angle = pos * frequency(f, t, i) * (t->back ? -1 : 1);
            double cosine = cos(angle), sine = sin(angle);
            if (t->bf16) {
                cosine = bf16_to_f32(f32_to_bf16((float)cosine));
                sine = bf16_to_f32(f32_to_bf16((float)sine));
            }
            const float cs =
                (float)((t->swapped ? sine : cosine) * (t->magnitude > 0 ? t->magnitude : 1));
            const float sn =
                (float)((t->swapped ? cosine : sine) * (t->magnitude > 0 ? t->magnitude : 1));
            float *p = &y[cell * d + (halves ? i : 2 * i)];
            float *q = &y[cell * d + (halves ? i + pairs : 2 * i + 1)];
            float a = *p;
            const float b = *q;
            *p = a * cs - b * sn;
            if (t->in_place) a = *p;
            *q = a * sn + b * cs;
        }
    }
    return y;
}

// Halves or neighbours; a wrong rotation of q and of k over all shapes.
static void each(const Turn *t, const char *id, const char *words) {
    for (int s = 0; s < N_SHAPES; s++) {
        for (int halves = 0; halves < 2; halves++) {
            for (int k = 0; k < 2; k++) {
                Fix *f = fix_own(&shapes[s], 1);
                f->model.h.rope_pairing = halves ? ROPE_NEOX : ROPE_NORM;
                const Component c = k ? COMP_K_ROPE : COMP_Q_ROPE;
                fix_named(f, c, turned(f, c, t), id, words);
                fix_own_free(f);
            }
        }
    }
}

static void manner(void **state) {
    (void)state;
    each(&(Turn){.scale = 1e-30}, "rope-not-applied", NULL);
    each(&(Turn){.other_pairs = true}, "rope-pairing", NULL);
    each(&(Turn){.back = true}, "rope-sign", NULL);
    each(&(Turn){.scale = 2}, "rope-twice", NULL);
    each(&(Turn){.in_place = true}, "rope-in-place", NULL);
    each(&(Turn){.swapped = true}, "rope-cos-sin", NULL);
    each(&(Turn){.bf16 = true}, "rope-precision", "bf16");
}

// The right pairs, but element j takes the angle of the other pairing's table; and both.
static void crossed(void **state) {
    (void)state;
    for (int halves = 0; halves < 2; halves++) {
        for (int own = 0; own < 2; own++) {
            Fix *f = fix_own(&shapes[1], 1);
            f->model.h.rope_pairing = halves ? ROPE_NEOX : ROPE_NORM;
            const size_t d = 32, heads = 8, n = f->s.n;
            const float *x = input(f, COMP_Q_ROPE);
            float *y = fix_alloc(f, n * heads * d, sizeof *y);
            const bool pair_halves = own ? halves : !halves, table_halves = !pair_halves;
            for (size_t i = 0; i < n * heads * d; i++) {
                const size_t j = i % d, token = i / (heads * d);
                const size_t partner = pair_halves ? (j + d / 2) % d : j ^ 1;
                const bool second = pair_halves ? j >= d / 2 : j & 1;
                const double angle =
                    (double)token *
                    pow(10000, -2.0 * (double)(table_halves ? j % (d / 2) : j / 2) / (double)d);
                const double o = x[i - j + partner];
                y[i] = (float)(x[i] * cos(angle) + (second ? o : -o) * sin(angle));
            }
            fix_named(f, COMP_Q_ROPE, y, "rope-pairing",
                      own ? "angles of the other" : "angles of the model's");
            fix_own_free(f);
        }
    }
}

static double from_9(const Fix *f, size_t token, size_t head) {
    (void)f, (void)head;
    return (double)(token < 9 ? token : token - 9);
}

static double by_3(const Fix *f, size_t token, size_t head) {
    (void)f, (void)head;
    return (double)(token % 3);
}

static double uneven(const Fix *f, size_t token, size_t head) {
    (void)f, (void)head;
    return (double)(token < 3 ? token : token < 5 ? token - 3 : token - 5);
}

static double always_17(const Fix *f, size_t token, size_t head) {
    (void)f, (void)token, (void)head;
    return 17;
}

static double backwards(const Fix *f, size_t token, size_t head) {
    (void)head;
    return (double)(f->s.n - 1 - token);
}

static double some(const Fix *f, size_t token, size_t head) {
    (void)f, (void)head;
    return token == 3 ? 40 : (double)token;
}

static double of_head(const Fix *f, size_t token, size_t head) {
    (void)f, (void)token;
    return (double)head;
}

static double exchanged(const Fix *f, size_t token, size_t head) {
    return (double)((token * (size_t)f->model.h.n_heads + head) % f->s.n);
}

static void positions(void **state) {
    (void)state;
    each(&(Turn){.shift = 1}, "rope-position", "1 too high");
    each(&(Turn){.shift = -1}, "rope-position", "1 too low");
    each(&(Turn){.shift = -4}, "rope-position", "4 too low");
    each(&(Turn){.shift = 1000}, "rope-position", "1000 too high");
    each(&(Turn){.pos = always_17}, "rope-position-fixed", "position 17");
    each(&(Turn){.pos = some}, "rope-positions", "token 3 is rotated as position 40");
    each(&(Turn){.pos = backwards}, "rope-positions", "backwards");
    const struct {
        double (*pos)(const Fix *, size_t, size_t);
        const char *id, *words;
    } at[] = {{from_9, "rope-position-reset", "at token 9"},
              {by_3, "rope-position-reset", "every 3 tokens"},
              {uneven, "rope-position-reset", "at tokens 3, 5"},
              {of_head, "rope-position-head", "head's number"},
              {exchanged, "rope-position-head", "heads first"}};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        Fix *f = fix_own(&shapes[i % 2], 1);
        fix_named(f, COMP_Q_ROPE, turned(f, COMP_Q_ROPE, &(Turn){.pos = at[i].pos}), at[i].id,
                  at[i].words);
        fix_own_free(f);
    }
}

static void bases(void **state) {
    (void)state;
    each(&(Turn){.base = 500000}, "rope-base", "base 500000");
    each(&(Turn){.base = 1e6}, "rope-base", "base 1000000");
    each(&(Turn){.base = 50}, "rope-base", "base 50,");
    each(&(Turn){.base = 26714.25}, "rope-base", "base 26714");
    const Shape *s = &shapes[0];
    for (int way = 0; way < 3; way++) {
        static const char *const words[] = {"2 i / dim", "i / n_rot", "4 i / n_rot"};
        const double exponent[] = {2.0 / 96, 1.0 / 32, 4.0 / 32};
        Fix *f = fix_own(s, 1);
        const Turn t = {.exponent = exponent[way]};
        fix_named(f, COMP_Q_ROPE, turned(f, COMP_Q_ROPE, &t), "rope-base", words[way]);
        fix_own_free(f);
    }
}

static void new_oracle(Fix *f) {
    Error err;
    oracle_free(f->oracle);
    if (oracle_new(&f->model, 1, &f->oracle, &err)) fail_msg("%s", err.text);
    f->site.oracle = f->before.oracle = f->oracle;
}

static void factors(void **state) {
    (void)state;
    for (int way = 0; way < 3; way++) {  // dropped, inverted, and right ones of another base
        const bool inverted = way == 1;
        Fix *f = fix_own(&shapes[0], 1);
        Tensor *t = (Tensor *)(uintptr_t)fix_tensor(f, "rope_freqs.weight", TYPE_F32, 16, 0, -1);
        f->model.rope_freqs = t;
        new_oracle(f);
        double *frequency_of = fix_alloc(f, 16, sizeof *frequency_of);
        for (size_t i = 0; i < 16; i++) {
            float by;
            memcpy(&by, t->data + i * sizeof by, sizeof by);
            frequency_of[i] = pow(way == 2 ? 500000 : 10000, -(double)i / 16) * (way == 1   ? by
                                                                                 : way == 2 ? 1 / by
                                                                                            : 1);
        }
        if (way == 2) {
            fix_named(f, COMP_K_ROPE, turned(f, COMP_K_ROPE, &(Turn){.frequency = frequency_of}),
                      "rope-base", "base 500000");
            fix_own_free(f);
            break;
        }
        fix_named(f, COMP_K_ROPE, turned(f, COMP_K_ROPE, &(Turn){.frequency = frequency_of}),
                  inverted ? "rope-factors-inverted" : "rope-factors-dropped", NULL);
        fix_own_free(f);
    }
}

static void scalings(void **state) {
    (void)state;
    each(&(Turn){.scale = 0.25}, "rope-scaling", "multiplied by 0.25");
    each(&(Turn){.scale = 3}, "rope-scaling", "multiplied by 3");
    // Linear scaling left out.
    Fix *f = fix_own(&shapes[0], 1);
    f->model.h.rope_scaling = ROPE_SCALING_LINEAR, f->model.h.rope_factor = 4;
    new_oracle(f);
    fix_named(f, COMP_Q_ROPE, turned(f, COMP_Q_ROPE, &(Turn){.scale = 4}), "rope-scaling",
              "left out");
    fix_own_free(f);
    // YaRN: its frequencies, its magnitude.
    static const char *const words[] = {"scaling of positions is left out", "magnitude is left out",
                                        "magnitude is applied twice", "as by linear scaling"};
    for (int way = 0; way < 4; way++) {
        f = fix_own(&shapes[2], 1);
        Hparams *h = &f->model.h;
        h->rope_scaling = ROPE_SCALING_YARN, h->rope_factor = 4, h->rope_n_ctx_orig = 32;
        h->yarn_beta_fast = 32, h->yarn_beta_slow = 1;
        h->yarn_ext_factor = h->yarn_attn_factor = 1;
        new_oracle(f);
        double magnitude;
        const double *own = oracle_frequencies(f->oracle, &magnitude);
        Turn t = {.frequency = own, .magnitude = way == 2 ? magnitude * magnitude : 1};
        if (way == 0 || way == 3) t.frequency = NULL;
        if (way == 0) t.scale = 4;
        fix_named(f, COMP_Q_ROPE, turned(f, COMP_Q_ROPE, &t), "rope-scaling", words[way]);
        fix_own_free(f);
    }
    // Llama 3's factors, though the file has none.
    f = fix_own(&shapes[2], 1);
    f->model.h.rope_base = 500000;
    new_oracle(f);
    double *of = fix_alloc(f, 32, sizeof *of);
    for (size_t i = 0; i < 32; i++) {
        const double plain = pow(500000, -(double)i / 32), wave = 2 * 3.14159265358979 / plain;
        const double smooth = (8192 / wave - 1) / 3;
        of[i] = wave < 2048   ? plain
                : wave > 8192 ? plain / 8
                              : (1 - smooth) * plain / 8 + smooth * plain;
    }
    // Five tokens turn slow pairs so little that float32 hardly shows it.
    for (size_t i = 0; i < f->s.n; i++) f->pos[i] = (int32_t)(i * 300);
    float *y = fix_alloc(f, f->s.n * 256, sizeof *y);
    for (size_t i = 0; i < f->s.n * 128; i++) {
        const float *x = input(f, COMP_Q_ROPE) + 2 * i;
        const double angle = f->pos[i / 128] * of[i % 32];
        y[2 * i] = (float)(x[0] * cos(angle) - x[1] * sin(angle));
        y[2 * i + 1] = (float)(x[0] * sin(angle) + x[1] * cos(angle));
    }
    fix_named(f, COMP_Q_ROPE, y, "rope-scaling", "Llama 3");
    fix_own_free(f);
    // No rule at all.
    f = fix_own(&shapes[0], 1);
    of = fix_alloc(f, 16, sizeof *of);
    for (size_t i = 0; i < 16; i++) of[i] = 0.9 / (double)(1 + i * i);
    fix_named(f, COMP_Q_ROPE, turned(f, COMP_Q_ROPE, &(Turn){.frequency = of}), "rope-frequencies",
              NULL);
    fix_own_free(f);
}

static void dims(void **state) {
    (void)state;
    each(&(Turn){.n_rot = 16}, "rope-dims", "16 of");
    Fix *f = fix_own(&shapes[2], 1);  // a model that rotates half of each head; all is
    f->model.h.n_rot = 32;
    new_oracle(f);
    fix_named(f, COMP_Q_ROPE, turned(f, COMP_Q_ROPE, &(Turn){.n_rot = 64}), "rope-dims",
              "64 of 64");
    fix_own_free(f);
    f = fix_own(&shapes[1], 1);
    fix_named(f, COMP_Q_ROPE, turned(f, COMP_Q_ROPE, &(Turn){.heads = 2}), "rope-heads",
              "first 2 of 8");
    fix_own_free(f);
    // The pair's number runs on over the heads.
    for (int over = 0; over < 2; over++) {
        f = fix_own(&shapes[1], 1);
        const float *x = input(f, COMP_Q_ROPE);
        float *y = fix_alloc(f, f->s.n * 256, sizeof *y);
        for (size_t i = 0; i < f->s.n * 128; i++) {
            const double angle =
                (double)(i / 128) * pow(10000, -2.0 * (double)(i % 128) / (over ? 256 : 32));
            y[2 * i] = (float)(x[2 * i] * cos(angle) - x[2 * i + 1] * sin(angle));
            y[2 * i + 1] = (float)(x[2 * i] * sin(angle) + x[2 * i + 1] * cos(angle));
        }
        fix_named(f, COMP_Q_ROPE, y, "rope-frequency-index", over ? "256" : "32");
        fix_own_free(f);
    }
}

static void inputs(void **state) {
    (void)state;
    Fix *f = fix_own(&shapes[1], 1);
    Turn t = {.x = f->site.at[COMP_Q].seen->x};
    fix_named(f, COMP_Q_ROPE, turned(f, COMP_Q_ROPE, &t), "other-input", "q was rotated");
    t.x = f->site.at[COMP_V].seen->x;
    fix_named(f, COMP_K_ROPE, turned(f, COMP_K_ROPE, &t), "other-input", "v was rotated");
    t.x = f->before.at[COMP_K_NORM].seen->x;
    fix_named(f, COMP_K_ROPE, turned(f, COMP_K_ROPE, &t), "other-input", "layer before");
    fix_own_free(f);
}

// Right ones pass; noise of a thousandth is explained by nothing.
static void noise(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        Fix *f = fix_own(&shapes[s], 1);
        float *y = turned(f, COMP_Q_ROPE, &(Turn){0});
        for (size_t i = 0; i < f->s.n * fix_width(f, COMP_Q_ROPE); i++) {
            y[i] *= (float)(1 + 1e-3 * fix_normal(f));
        }
        fix_unknown(f, COMP_Q_ROPE, y);
        fix_own_free(f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(manner), cmocka_unit_test(crossed), cmocka_unit_test(positions),
        cmocka_unit_test(bases),  cmocka_unit_test(factors), cmocka_unit_test(scalings),
        cmocka_unit_test(dims),   cmocka_unit_test(inputs),  cmocka_unit_test(noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
