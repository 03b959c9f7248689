// The search itself: what fits, which of several is kept, and the pattern in words.
#include "cause_fixture.h"

#include "verify/cause_internal.h"

static const Shape plain = {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 20, NULL};
static const Shape single = {96, 160, 3, 1, 32, 99, 3, TYPE_F32, false, false, false, 1, NULL};
static const Shape many_heads = {256,      512,   8,     8,     32, 131, 2,
                                 TYPE_F32, false, false, false, 9,  NULL};

// --- what is listed -----------------------------------------------------------------------------

static void list(void **state) {
    (void)state;
    const Hypothesis *h;
    int n = 0;
    for (; (h = hypothesis_at(n)); n++) {
        assert_true(h->id[0] && h->what[0] && h->components);
        assert_int_equal(strspn(h->id, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(h->id));
        for (int i = 0; i < n; i++) {  // once for each component
            const Hypothesis *other = hypothesis_at(i);
            if (strcmp(other->id, h->id) == 0 && (other->components & h->components)) {
                fail_msg("%s is listed twice for a component", h->id);
            }
        }
    }
    assert_true(n > 50);
    assert_null(hypothesis_at(-1));
    assert_string_equal(certainty_name(CAUSE_AMBIGUOUS), "ambiguous");
}

// --- what fits ----------------------------------------------------------------------------------

// A case of one row of ffn_norm that is three times what it should be.
typedef struct {
    Fix *f;
    CauseCase k;
    Cell cell;
    float got[96];
    size_t row;
    Expected want;
    Cause cause;
    Error err;
    Trial t;
} Tripled;

static void tripled_new(Tripled *c) {
    *c = (Tripled){.f = fix_new(&plain, 1), .row = 2};
    if (expect(&c->f->site, COMP_FFN_NORM, &c->row, 1, &c->want, &c->err)) fail();
    for (int i = 0; i < 96; i++) c->got[i] = (float)(3 * c->want.y[i]);
    compare_cells(&c->want, c->got, COMP_FFN_NORM, 96, PREC_F32, &c->cell);
    c->k = (CauseCase){&c->f->site, COMP_FFN_NORM, &c->row, 1, c->got, &c->want,
                       &c->cell,    &c->cell,      2,       1, 1,      NULL};
    c->t = (Trial){.k = &c->k, .out = &c->cause, .err = &c->err};
}

static void tripled_free(Tripled *c) {
    expected_free(&c->want);
    fix_free(c->f);
}

// `times` what it should be, with the bound times `loose`.
static Expected multiple(Tripled *c, double times, double loose) {
    Expected e;
    if (expected_new(1, 96, &e, NULL)) fail();
    for (int i = 0; i < 96; i++) {
        e.y[i] = times * c->want.y[i];
        e.bound[i] = loose * 3 * c->want.bound[i], e.sd[i] = loose * 3 * c->want.sd[i];
    }
    return e;
}

static void fits(void **state) {
    (void)state;
    Tripled c;
    tripled_new(&c);
    Expected e = multiple(&c, 3, 1);
    assert_true(trial_ratio(&c.t, &e) < 0.3);
    assert_true(trial_offer(&c.t, "one", &e, "times %d", 3));
    assert_null(e.y);  // it was freed
    e = multiple(&c, 2.9, 1);
    assert_false(trial_offer(&c.t, "two", &e, "times 2.9"));
    assert_int_equal(c.cause.n_fits, 1);
    assert_string_equal(c.cause.fits[0].text, "times 3");
    assert_false(c.cause.fits[0].harmless);
    e = multiple(&c, 3, 1);
    assert_true(trial_offer_harmless(&c.t, "three", &e, "times 3"));
    assert_true(c.cause.fits[0].harmless || c.cause.fits[1].harmless);
    tripled_free(&c);
}

// A bound that the right values would be within as well explains nothing, unless that is the claim.
static void too_loose(void **state) {
    (void)state;
    Tripled c;
    tripled_new(&c);
    Expected e = multiple(&c, 2.9, 1e7);
    assert_true(trial_ratio(&c.t, &e) < 1);
    assert_false(trial_offer(&c.t, "loose", &e, "loose"));
    e = multiple(&c, 1, 1e7);
    assert_true(trial_offer_coarser(&c.t, "coarse", &e, "coarse"));
    assert_int_equal(c.cause.n_fits, 1);
    tripled_free(&c);
}

// What is not finite must be so in both; where nothing finite is left, nothing is said.
static void infinities(void **state) {
    (void)state;
    Tripled c;
    tripled_new(&c);
    c.got[7] = NAN;
    Expected e = multiple(&c, 3, 1);
    assert_false(trial_offer(&c.t, "finite", &e, "finite"));
    e = multiple(&c, 3, 1);
    e.y[7] = INFINITY;
    assert_true(trial_offer(&c.t, "same", &e, "same"));
    e = multiple(&c, 3, 1);
    e.y[7] = e.y[8] = NAN;
    assert_false(trial_offer(&c.t, "other", &e, "other"));
    for (int i = 0; i < 96; i++) c.got[i] = NAN;
    e = multiple(&c, 3, 1);
    for (int i = 0; i < 96; i++) e.y[i] = NAN;
    assert_false(trial_offer(&c.t, "all", &e, "all"));
    tripled_free(&c);
}

// The one that bends least comes first, an id comes once, and there is room for so many only.
static void precedence(void **state) {
    (void)state;
    static const char *const ids[] = {
        "damaged-elements", "race", "scaled", "a", "zero", "a", "b", "c"};
    Tripled c;
    tripled_new(&c);
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        Expected e = multiple(&c, 3 + 1e-8 * (double)i, 1);
        assert_true(trial_offer(&c.t, ids[i], &e, "%zu", i));
    }
    assert_int_equal(c.cause.n_fits, CAUSE_FITS);
    static const char *const order[CAUSE_FITS] = {"a", "b", "c", "zero", "scaled", "race"};
    for (size_t i = 0; i < CAUSE_FITS; i++) {
        assert_string_equal(c.cause.fits[i].id, order[i]);
    }
    assert_string_equal(c.cause.fits[0].text, "3");
    tripled_free(&c);
}

// --- several fit --------------------------------------------------------------------------------

// In a prompt that counts up, the next token and the next id are the same row.
static void counting_up(void **state) {
    (void)state;
    Fix *f = fix_new(&plain, -1);
    int32_t *tokens = fix_alloc(f, f->s.n + 1, sizeof *tokens);
    for (size_t i = 0; i <= f->s.n; i++) tokens[i] = (int32_t)(10 + i);
    f->site.tokens = tokens + 1;
    float *got = fix_right(f, COMP_EMBD);
    f->site.tokens = tokens;
    const Cause *cause = fix_find(f, COMP_EMBD, got);
    assert_int_equal(cause->certainty, CAUSE_AMBIGUOUS);
    assert_int_equal(cause->n_fits, 2);
    assert_string_equal(cause->fits[0].id, "embedding-row-shift");
    assert_string_equal(cause->fits[1].id, "token-shift");
    assert_string_equal(cause->apart, "a prompt of 1200 distinct tokens");
    fix_free(f);
}

// --- patterns -----------------------------------------------------------------------------------

static void says(Fix *f, Component c, const float *got, const char *words) {
    const Cause *cause = fix_find(f, c, got);
    if (!strstr(cause->pattern, words)) fail_msg("expected \"%s\" in: %s", words, cause->pattern);
}

// Noise on the elements for which in() holds.
static float *spoilt(Fix *f, Component c, bool (*in)(size_t row, size_t column)) {
    float *got = fix_right(f, c);
    const size_t width = fix_width(f, c);
    for (size_t i = 0; i < f->s.n * width; i++) {
        if (in(i / width, i % width)) got[i] += (float)(1 + fix_uniform(f));
    }
    return got;
}

static bool rows_3_17(size_t r, size_t i) {
    (void)i;
    return r >= 3 && r <= 17;
}
static bool even_rows(size_t r, size_t i) {
    (void)i;
    return r % 2 == 0;
}
static bool third_rows(size_t r, size_t i) {
    (void)i;
    return r % 3 == 1;
}
static bool last_tile(size_t r, size_t i) {
    (void)r;
    return i >= 128;
}
static bool last_part(size_t r, size_t i) {
    (void)r;
    return i >= 64;
}
static bool left_over(size_t r, size_t i) {
    (void)r;
    return i >= 64 && i < 88;
}
static bool left_at_end(size_t r, size_t i) {
    (void)r;
    return i >= 72;
}
static bool column_77(size_t r, size_t i) {
    return r == 4 && i == 77;
}
static bool odd_columns(size_t r, size_t i) {
    (void)r;
    return i % 2 == 1;
}
static bool head_1(size_t r, size_t i) {
    (void)r;
    return i / 32 == 1;
}
static bool heads_start(size_t r, size_t i) {
    (void)r;
    return i % 32 < 16;
}
static bool all_but_one(size_t r, size_t i) {
    (void)i;
    return r != 11;
}

static void places(void **state) {
    (void)state;
    Fix *f = fix_new(&plain, 1);
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, rows_3_17), "rows 3-17 of 20; all 96 columns");
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, even_rows), "every second row;");
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, third_rows), "every third row from 1 on");
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, all_but_one), "all 20 rows but 11");
    says(f, COMP_FFN_UP, spoilt(f, COMP_FFN_UP, last_tile),
         "all 20 rows; columns 128-159 of 160 (the last tile of 32)");
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, last_part),
         "columns 64-95 of 96 (the last tile of 32)");
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, left_over),
         "columns 64-87 of 96 (a multiple of 8)");
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, left_at_end),
         "columns 72-95 of 96 (a multiple of 8)");
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, column_77),
         "row 4 of 20 only; column 77 of 96 only; off by +1.");
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, odd_columns), "every second column from 1 on");
    says(f, COMP_Q, spoilt(f, COMP_Q, head_1), "head 1 of 3 only; columns 32-63 of 96");
    says(f, COMP_Q, spoilt(f, COMP_Q, heads_start), "all 3 heads; columns 0-15 of 32");
    fix_free(f);
    f = fix_new(&many_heads, 1);
    says(f, COMP_K, spoilt(f, COMP_K, head_1), "all 9 rows, head 1 of 8 only");
    fix_free(f);
    f = fix_new(&single, 1);
    says(f, COMP_FFN_NORM, spoilt(f, COMP_FFN_NORM, odd_columns), "row 0; every second");
    fix_free(f);
}

// Of a long prompt only some tokens are looked at: they have names of their own.
static void sampled_rows(void **state) {
    (void)state;
    static const size_t tokens[] = {2, 9, 15, 700};
    char text[2 * CAUSE_TEXT];
    Tripled c;
    tripled_new(&c);
    const Cell all[4] = {c.cell, {.ratio = 0.5}, c.cell, {.ratio = 0.5}};
    c.k.all = all, c.k.all_rows = 4, c.k.all_row = tokens;
    if (cause_pattern(&c.k, text, &c.err)) fail();
    assert_int_equal(strncmp(text, "rows 2, 15 of 4 looked at; all 96 columns; 3 x what", 40), 0);
    c.k.all_row = NULL, c.k.first_row = 20;
    if (cause_pattern(&c.k, text, &c.err)) fail();
    assert_int_equal(strncmp(text, "rows 20, 22 of 4; ", 18), 0);
    tripled_free(&c);
}

static void values(void **state) {
    (void)state;
    Fix *f = fix_new(&plain, 1);
    const Component c = COMP_FFN_UP;
    const size_t n = f->s.n * fix_width(f, c);
    float *got = fix_right(f, c), *right = fix_right(f, c);
    for (size_t i = 0; i < n; i++) got[i] = 0.125f * right[i];
    says(f, c, got, "; 0.125 x what is expected");
    for (size_t i = 0; i < n; i++) got[i] = right[i] + 0.5f;
    says(f, c, got, "; off by +0.5 everywhere");
    for (size_t i = 0; i < n; i++) got[i] = -right[i];
    says(f, c, got, "; the sign is wrong");
    for (size_t i = 0; i < n; i++) got[i] = fix_uniform(f) < 0.5 ? -right[i] : right[i];
    says(f, c, got, "; the sign is wrong");
    for (size_t i = 0; i < n; i++) got[i] = 0;
    says(f, c, got, "; all zero");
    for (size_t i = 0; i < n; i++) got[i] = 7;
    says(f, c, got, "; all the same value, 7");
    for (size_t i = 0; i < n; i++) got[i] = NAN;
    says(f, c, got, "; NaN");
    for (size_t i = 0; i < n; i++) got[i] = right[i / 160 * 160 + 159 - i % 160];
    says(f, c, got, "; the right values in another order");
    for (size_t i = 0; i < n; i++) got[i] = right[i] * (float)(1 + 1e-3 * fix_normal(f));
    says(f, c, got, "; close to what is expected, off by 0.0");
    for (size_t i = 0; i < n; i++) got[i] = (float)fix_normal(f);
    says(f, c, got, "; unrelated to what is expected (cosine");
    memcpy(got, right, n * sizeof *got);
    got[3] = INFINITY, got[5] = NAN;
    says(f, c, got, "; of them 1 NaN, 1 infinite");
    fix_free(f);
}

// Too small for any element, too much for the row.
static void by_nmse(void **state) {
    (void)state;
    Fix *f = fix_new(&plain, 1);
    Expected e;
    Error err;
    const size_t row[20] = {0};
    if (expect(&f->site, COMP_FFN_UP, row, 1, &e, &err)) fail();
    float *got = fix_right(f, COMP_FFN_UP);
    for (size_t i = 0; i < 160; i++) got[i] = (float)(e.y[i] + 0.7 * e.bound[i]);
    expected_free(&e);
    says(f, COMP_FFN_UP, got, "row 0 of 20 only; no column alone is beyond its bound; the ");
    fix_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list),       cmocka_unit_test(fits),         cmocka_unit_test(too_loose),
        cmocka_unit_test(infinities), cmocka_unit_test(precedence),   cmocka_unit_test(counting_up),
        cmocka_unit_test(places),     cmocka_unit_test(sampled_rows), cmocka_unit_test(values),
        cmocka_unit_test(by_nmse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
