// The causes of wrong caches.
#include "cause_fixture.h"

static const Shape shapes[] = {
    {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 20, NULL},
    {256, 512, 8, 2, 32, 131, 3, TYPE_F32, false, true, false, 20, NULL},
    {256, 512, 4, 4, 64, 131, 3, TYPE_F32, false, false, false, 5, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static Fix *f;
static Component c, in;  // k_cache of k_rope, v_cache of v
static size_t n, width;

static void open_fix(int shape, bool key) {
    f = fix_own(&shapes[shape], 1);
    c = key ? COMP_K_CACHE : COMP_V_CACHE, in = key ? COMP_K_ROPE : COMP_V;
    n = f->s.n, width = fix_width(f, c);
}

#define EACH()                            \
    for (int s_ = 0; s_ < N_SHAPES; s_++) \
        for (int k_ = 0; k_ < 2; k_++)    \
            for (open_fix(s_, k_ == 0); f; fix_own_free(f), f = NULL)

static const float *stored(Component of) {
    return f->site.at[of].seen->x;
}

// Slot i holds what token i + shift has in x; zeros come from outside.
static float *moved(const float *x, long shift) {
    float *got = fix_alloc(f, n * width, sizeof *got);
    for (size_t i = 0; i < n; i++) {
        const long at = (long)i + shift;
        if (at < 0 || at >= (long)n) continue;
        memcpy(got + i * width, x + (size_t)at * width, width * sizeof *got);
    }
    return got;
}

static void slots(void **state) {
    (void)state;
    EACH() fix_named(f, c, moved(stored(in), -1), "cache-slot", "1 before");
    EACH() fix_named(f, c, moved(stored(in), 1), "cache-slot", "1 after");
    EACH() fix_named(f, c, moved(stored(in), -3), "cache-slot", "3 before");
    EACH() {
        float *got = moved(stored(in), 0);
        memcpy(got, got + 3 * width, width * sizeof *got);
        fix_named(f, c, got, "cache-slot-overwritten", "slot 0 holds token 3's");
    }
    EACH() {
        float *got = moved(stored(in), 0);
        memset(got + 2 * width, 0, (n - 2) * width * sizeof *got);
        fix_named(f, c, got, "cache-rows-missing", "slot 2");
    }
    EACH() {  // the second chunk was written from slot 0 on
        float *got = moved(stored(in), 0);
        memmove(got, got + 3 * width, (n - 3) * width * sizeof *got);
        memset(got + (n - 3) * width, 0, 3 * width * sizeof *got);
        fix_named(f, c, got, "cache-slot", "3 after");
    }
}

// Of one token alone an empty slot may be either.
static void one_token(void **state) {
    (void)state;
    const Shape one = {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 1, NULL};
    f = fix_own(&one, 1);
    float got[32] = {0};
    const Cause *cause = fix_find(f, COMP_K_CACHE, got);
    assert_int_equal(cause->certainty, CAUSE_AMBIGUOUS);
    assert_int_equal(cause->n_fits, 2);
    assert_string_equal(cause->fits[0].id, "cache-rows-missing");
    assert_string_equal(cause->fits[1].id, "cache-slot");
    fix_own_free(f), f = NULL;
}

static void heads(void **state) {
    (void)state;
    EACH() {
        if (f->s.kv_heads == 1) continue;
        const size_t kv = (size_t)f->s.kv_heads, d = width / kv;
        float *got = fix_alloc(f, n * width, sizeof *got);
        for (size_t i = 0; i < n * kv; i++) {  // written heads by tokens, read tokens by heads
            memcpy(got + i * d, stored(in) + (i % n * kv + i / n) * d, d * sizeof *got);
        }
        fix_named(f, c, got, "cache-heads", "tokens and heads");
    }
}

static void stages(void **state) {
    (void)state;
    EACH() {
        if (c == COMP_K_CACHE) {
            fix_named(f, c, moved(stored(f->s.qk_norm ? COMP_K_NORM : COMP_K), 0),
                      "cache-before-rope", NULL);
            if (f->s.qk_norm)
                fix_named(f, c, moved(stored(COMP_K), 0), "cache-before-rope", "norm");
            fix_named(f, c, moved(stored(COMP_V), 0), "cache-exchanged", NULL);
            continue;
        }
        fix_named(f, c, moved(stored(COMP_K_ROPE), 0), "cache-exchanged", NULL);
        float *got = moved(stored(COMP_V), 0);
        const size_t d = (size_t)f->s.head_dim;
        for (size_t i = 0; i < n * width; i += 2) {
            const double angle = (double)(i / width) * pow(10000, -(double)(i % d) / (double)d);
            const float a = got[i], b = got[i + 1];
            got[i] = (float)(a * cos(angle) - b * sin(angle));
            got[i + 1] = (float)(a * sin(angle) + b * cos(angle));
        }
        fix_named(f, c, got, "value-rotated", NULL);
    }
}

static void elsewhere(void **state) {
    (void)state;
    EACH() fix_named(f, c, moved(f->before.at[in].seen->x, 0), "cache-layer", "layer 0");
    EACH() {  // the layer after, which only the trace has, and another prompt
        float *x = fix_alloc(f, n * width, sizeof *x), *y = fix_alloc(f, n * width, sizeof *y);
        for (size_t i = 0; i < n * width; i++) x[i] = (float)fix_normal(f);
        for (size_t i = 0; i < n * width; i++) y[i] = (float)fix_normal(f);
        TraceArray after = {{in, 2}, x, n, width, 0, "after"};
        TraceArray other = {{in, 1}, y, n - 1, width, 0, "other"};
        TracePrompt prompts[2] = {
            {.name = "a", .tokens = f->tokens, .n_tokens = n, .arrays = &after, .n_arrays = 1},
            {.name = "b", .tokens = f->tokens, .n_tokens = n - 1, .arrays = &other, .n_arrays = 1}};
        Trace trace = {.prompts = prompts, .n_prompts = 2};
        f->site.prompt = &prompts[0], f->site.trace = &trace;
        fix_named(f, c, moved(x, 0), "cache-layer", "layer 2");
        fix_named(f, c, moved(y, 0), "cache-sequence", "\"b\"");
    }
}

static void types(void **state) {
    (void)state;
    EACH() {
        const TensorType as[] = {TYPE_F16, TYPE_BF16};
        static const char *const names[] = {"holds F16", "holds BF16"};
        for (int i = 0; i < 2; i++) {
            float *got = moved(stored(in), 0);
            for (size_t at = 0; at < n * width; at += 32) {
                uint8_t bytes[64];
                quantize(as[i], got + at, bytes, 32);
                dequantize(as[i], bytes, got + at, 32);
            }
            fix_named(f, c, got, "cache-type", names[i]);
        }
        float *got = moved(stored(in), 0);
        for (size_t at = 0; at < n * width; at += 32) {  // codes times a scale that is a half
            float most = 0;
            for (size_t i = at; i < at + 32; i++) most = fmaxf(most, fabsf(got[i]));
            const float d = f16_to_f32(f32_to_f16(most / 127));
            for (size_t i = at; i < at + 32; i++) got[i] = rintf(got[i] / (most / 127)) * d;
        }
        fix_named(f, c, got, "cache-type", "holds Q8_0");
        got = moved(stored(in), 0);
        for (size_t i = 0; i < n * width; i++) {
            uint32_t u;
            memcpy(&u, &got[i], 4);
            u &= 0xffff0000u;
            memcpy(&got[i], &u, 4);
        }
        fix_named(f, c, got, "cache-type", "cut off to bf16");
        f->rounding.attn.k = f->rounding.attn.v = TYPE_F16;
        fix_named(f, c, got, "cache-type", "cut off to bf16");
        fix_unknown(f, c, memset(moved(stored(in), 0), 0x3f, n * width * sizeof(float)));
    }
}

// Nothing declares the type, and f16 shows.
static void undeclared(void **state) {
    (void)state;
    EACH() {
        float *got = moved(stored(in), -1);
        for (size_t i = 0; i < n * width; i++) got[i] = f16_to_f32(f32_to_f16(got[i]));
        fix_unknown(f, c, got);
        f->rounding.attn_declared = false;
        fix_named(f, c, got, "cache-slot", "1 before");
    }
}

// A sequence of the same tokens in another order: known in the first layer alone.
static void other_order(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        for (int layer = 0; layer < 2; layer++) {
            f = fix_own(&shapes[s], layer);
            const Component from = f->s.qk_norm ? COMP_K_NORM : COMP_K;
            const TraceArray *k = f->site.at[from].seen;
            TraceArray backwards = *k;
            c = COMP_K_CACHE, in = COMP_K_ROPE, n = f->s.n, width = fix_width(f, c);
            float *x = fix_alloc(f, n * width, sizeof *x);
            for (size_t i = 0; i < n; i++) {
                memcpy(x + i * width, k->x + (n - 1 - i) * width, width * sizeof *x);
            }
            backwards.x = x;
            f->site.at[from].seen = &backwards;
            float *got = fix_right(f, COMP_K_ROPE);
            f->site.at[from].seen = k;
            if (layer == 0) fix_named(f, c, got, "cache-sequence", "another sequence's");
            if (layer == 1) fix_unknown(f, c, got);
            fix_own_free(f), f = NULL;
        }
    }
}

static void noise(void **state) {
    (void)state;
    EACH() {
        float *got = moved(stored(in), 0);
        for (size_t i = 0; i < n * width; i++) got[i] *= (float)(1 + 1e-3 * fix_normal(f));
        fix_unknown(f, c, got);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots),      cmocka_unit_test(heads),       cmocka_unit_test(one_token),
        cmocka_unit_test(stages),     cmocka_unit_test(elsewhere),   cmocka_unit_test(types),
        cmocka_unit_test(undeclared), cmocka_unit_test(other_order), cmocka_unit_test(noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
