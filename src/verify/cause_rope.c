// Hypotheses of q_rope and k_rope: what else may have turned, or not turned, the pairs of a head.
//
// This file owns: which rotations are tried, in which order, and their texts. It leaves to others:
// rotating and measuring (cause_turn.c). Simple ones come first; what is fitted (a position for
// each row, a base, a factor, each pair's frequency) is only tried when nothing simple fits, since
// it holds the simple ones as special cases.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_turn.h"

#define ROPE_BOTH (1u << COMP_Q_ROPE | 1u << COMP_K_ROPE)

const Hypothesis hypotheses_rope[] = {
    {"rope-not-applied", "not rotated", ROPE_BOTH},
    {"rope-pairing", "pairs are formed the other way", ROPE_BOTH},
    {"rope-sign", "rotated the other way round", ROPE_BOTH},
    {"rope-twice", "rotated twice", ROPE_BOTH},
    {"rope-in-place", "the second of a pair is made of the first one's new value", ROPE_BOTH},
    {"rope-cos-sin", "cosine and sine exchanged", ROPE_BOTH},
    {"rope-position", "positions are shifted by a constant", ROPE_BOTH},
    {"rope-position-reset", "positions start again", ROPE_BOTH},
    {"rope-position-fixed", "all tokens have the same position", ROPE_BOTH},
    {"rope-position-head", "the position is made of the head's number", ROPE_BOTH},
    {"rope-positions", "some tokens have other positions", ROPE_BOTH},
    {"rope-base", "another base of the frequencies", ROPE_BOTH},
    {"rope-factors-dropped", "rope_freqs is not used", ROPE_BOTH},
    {"rope-factors-inverted", "rope_freqs multiplies instead of dividing", ROPE_BOTH},
    {"rope-scaling", "frequencies are scaled otherwise", ROPE_BOTH},
    {"rope-frequencies", "other frequencies", ROPE_BOTH},
    {"rope-frequency-index", "a pair's number counts through the row, not the head", ROPE_BOTH},
    {"rope-dims", "another number of elements of a head is rotated", ROPE_BOTH},
    {"rope-heads", "only some heads are rotated", ROPE_BOTH},
    {"rope-precision", "angles or their cosines are rounded", ROPE_BOTH},
    {"other-input", "something else was rotated", ROPE_BOTH},
    {NULL, NULL, 0},
};

typedef struct {
    Trial *t;
    Arena arena;
    const Hparams *h;
    CaseRows in;                             // what is rotated
    Component source;                        // its name
    Turn model;                              // as the model wants it
    double *frequency, *original, *divisor;  // of the model; without any scaling; of rope_freqs
    double *work;                            // as many as heads * head_dim
    bool fits;
} Rope;

// --- trying -------------------------------------------------------------------------------------

static bool offer_input(Rope *r, const Turn *turn, const CaseRows *in, const char *id,
                        const char *text) {
    Expected e;
    if (!turn_expect(r->t, turn, in, 0, r->t->k->n_rows, &e)) return false;
    const bool fits = trial_offer(r->t, id, &e, "%s", text);
    r->fits |= fits;
    return fits;
}

static bool offer(Rope *r, const Turn *turn, const char *id, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static bool offer(Rope *r, const Turn *turn, const char *id, const char *fmt, ...) {
    char text[CAUSE_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return offer_input(r, turn, &r->in, id, text);
}

static bool row_fits(Rope *r, const Turn *turn, size_t row, size_t n) {
    Expected e;
    if (!turn_expect(r->t, turn, &r->in, row, n, &e)) return false;
    const double ratio = case_ratio(r->t, row, &e);
    expected_free(&e);
    return ratio <= 1;
}

static const char *pairing_text(bool halves) {
    return halves ? "element i with i + n_rot / 2 (NEOX)" : "neighbours (NORM)";
}

// --- set up -------------------------------------------------------------------------------------

// base^(-exponent i), before any scaling.
static void plain_frequencies(double base, double exponent, size_t pairs, double *out) {
    for (size_t i = 0; i < pairs; i++) out[i] = pow(base, -exponent * (double)i);
}

static bool read_divisors(Rope *r) {
    const Tensor *f = r->t->k->site->model->rope_freqs;
    const size_t pairs = r->model.pairs;
    float *x = case_alloc(r->t, &r->arena, pairs, sizeof *x);
    for (size_t i = 0; i < pairs && x; i++) r->divisor[i] = 1;
    if (f && x) {
        dequantize(f->type, f->data, x, pairs);
        for (size_t i = 0; i < pairs; i++) r->divisor[i] = x[i];
    }
    return x;
}

static bool rope_begin(Rope *r) {
    Trial *t = r->t;
    const Site *s = t->k->site;
    const Hparams *h = r->h = &s->model->h;
    const bool q = t->k->c == COMP_Q_ROPE;
    const bool normed = q ? s->w->q_norm != NULL : s->w->k_norm != NULL;
    r->source = q ? (normed ? COMP_Q_NORM : COMP_Q) : (normed ? COMP_K_NORM : COMP_K);
    if (!case_rows(t, &r->arena, &s->at[r->source], &r->in)) return false;
    Turn *m = &r->model;
    *m = (Turn){.heads = (size_t)(q ? h->n_heads : h->n_kv_heads),
                .head_dim = (size_t)h->head_dim,
                .pairs = (size_t)h->n_rot / 2,
                .halves = h->rope_pairing == ROPE_NEOX};
    m->n_turned = m->heads;
    double *pos = case_doubles(t, &r->arena, t->k->n_rows, m->heads);
    r->frequency = case_doubles(t, &r->arena, 1, m->pairs);
    r->original = case_doubles(t, &r->arena, 1, m->pairs);
    r->divisor = case_doubles(t, &r->arena, 1, m->pairs);
    r->work = case_doubles(t, &r->arena, m->heads, m->head_dim);
    if (t->status || !read_divisors(r)) return false;
    for (size_t i = 0; i < t->k->n_rows; i++) pos[i] = s->pos[t->k->row[i]];
    const double *f = oracle_frequencies(s->oracle, &m->magnitude);
    memcpy(r->frequency, f, m->pairs * sizeof *f);
    plain_frequencies(h->rope_base, 2.0 / h->n_rot, m->pairs, r->original);
    m->frequency = r->frequency, m->pos = pos;
    return true;
}

// --- the simple ones ----------------------------------------------------------------------------

static void try_manner(Rope *r) {
    Turn turn = r->model;
    turn.n_turned = 0;
    if (offer(r, &turn, "rope-not-applied", "it is not rotated: %s as it came",
              component_name(r->source))) {
        return;
    }
    turn = r->model;
    turn.halves = !turn.halves;
    offer(r, &turn, "rope-pairing", "pairs %s, the model pairs %s", pairing_text(turn.halves),
          pairing_text(r->model.halves));
    turn.quirk = TURN_CROSSED;
    offer(r, &turn, "rope-pairing", "pairs %s, with the angles of the model's pairing",
          pairing_text(turn.halves));
    turn.halves = r->model.halves;
    offer(r, &turn, "rope-pairing", "the right pairs, with the angles of the other pairing");
    turn.quirk = TURN_BACK;
    offer(r, &turn, "rope-sign", "rotated by the negative angle");
    turn.quirk = TURN_PLAIN;
    for (size_t i = 0; i < turn.pairs; i++) r->work[i] = 2 * r->frequency[i];
    turn.frequency = r->work, turn.magnitude *= turn.magnitude;
    offer(r, &turn, "rope-twice", "rotated twice");
    turn = r->model;
    turn.quirk = TURN_IN_PLACE;
    offer(r, &turn, "rope-in-place",
          "the second element of a pair is made of the first one's new value");
    turn.quirk = TURN_SWAPPED;
    offer(r, &turn, "rope-cos-sin", "cosine and sine are exchanged");
}

static void try_precision(Rope *r) {
    static const struct {
        Quirk quirk;
        const char *text;
    } ways[] = {{TURN_TRIG, "cosines and sines"},
                {TURN_FREQUENCY, "frequencies"},
                {TURN_ANGLE, "positions, frequencies and angles"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        for (Precision p = PREC_F16; p < N_PRECISIONS; p++) {
            Turn turn = r->model;
            turn.quirk = ways[i].quirk, turn.to = p;
            offer(r, &turn, "rope-precision", "%s are rounded to %s", ways[i].text,
                  precision_name(p));
        }
    }
}

// How many elements at the front of a head are other than they came.
static size_t count_changed(const Rope *r) {
    const CauseCase *k = r->t->k;
    const size_t d = r->model.head_dim;
    size_t n = 0;
    for (size_t i = 0; i < k->n_rows * r->in.width; i++) {
        if (fabs(k->got[i] - r->in.x[i]) > k->want->bound[i] && i % d >= n) n = i % d + 1;
    }
    return (n + 1) / 2 * 2;
}

// Another n_rot, or the whole row as one head; frequencies over either's width.
static void try_dims(Rope *r) {
    const size_t d = r->model.head_dim, row = d * r->model.heads;
    const size_t n_rot[] = {count_changed(r), d / 2 * 2, row / 2 * 2};
    for (size_t i = 0; i < 2 * sizeof n_rot / sizeof *n_rot && !r->fits; i++) {
        const size_t n = n_rot[i / 2];
        Turn turn = r->model;
        turn.head_dim = n > d ? row : d, turn.heads = row / turn.head_dim;
        turn.n_turned = turn.heads, turn.pairs = n / 2;
        if (n == 0 || n == (size_t)r->h->n_rot || n > row) continue;
        if (n > d && (!turn.halves || turn.heads == r->model.heads)) continue;
        plain_frequencies(r->h->rope_base, 2.0 / (i % 2 ? r->h->n_rot : (double)n), n / 2, r->work);
        turn.frequency = r->work;
        offer(r, &turn, "rope-dims",
              "%zu of %zu elements are rotated together, the model rotates %d of a head's %zu", n,
              turn.head_dim, r->h->n_rot, d);
    }
}

// The pair's number runs on from head to head: exponents 2 j / n_rot or 2 j / width of the row.
static void try_index(Rope *r) {
    const size_t pairs = r->model.pairs, heads = r->model.heads;
    const double width = (double)(heads * r->model.head_dim);
    if (heads < 2) return;
    for (int over = 0; over < 2; over++) {
        Turn turn = r->model;
        for (size_t j = 0; j < heads * pairs; j++) {
            r->work[j] = pow(r->h->rope_base, -2.0 * (double)j / (over ? width : r->h->n_rot));
        }
        turn.frequency = r->work, turn.per_head = pairs;
        offer(r, &turn, "rope-frequency-index",
              "a pair's number counts through the row, over %g elements",
              over ? width : (double)r->h->n_rot);
    }
    double *pos = case_doubles(r->t, &r->arena, r->t->k->n_rows, heads);
    for (int exchanged = 0; exchanged < 2 && pos; exchanged++) {
        const CauseCase *k = r->t->k;
        Turn turn = r->model;
        for (size_t i = 0; i < k->n_rows * heads; i++) {
            const size_t head = i % heads, flat = k->row[i / heads] * heads + head;
            pos[i] = (double)(exchanged ? flat % k->site->n : head);
        }
        turn.pos = pos, turn.per_cell = true;
        offer(r, &turn, "rope-position-head", "%s",
              exchanged ? "positions run through heads first, as if tokens came within heads"
                        : "the head's number is taken for the position");
    }
}

// Heads from the first that fails on are left as they came.
static void try_heads(Rope *r) {
    const CauseCase *k = r->t->k;
    Turn turn = r->model;
    for (size_t i = 0; i < k->n_rows; i++) {
        for (size_t g = 0; g < turn.n_turned; g++) {
            if (case_fails(k, i, g)) turn.n_turned = g;
        }
    }
    if (turn.n_turned == 0 || turn.n_turned == turn.heads) return;
    offer(r, &turn, "rope-heads", "only the first %zu of %zu heads are rotated", turn.n_turned,
          turn.heads);
}

// --- another input ------------------------------------------------------------------------------

static void offer_rows(Rope *r, const Value *v, const char *text) {
    CaseRows in, wide;
    if (!case_rows(r->t, &r->arena, v, &wide) || wide.width < r->in.width) return;
    in = wide;
    if (wide.width > r->in.width) {  // as many heads from the front
        in = (CaseRows){.width = r->in.width};
        in.x = case_doubles(r->t, &r->arena, r->t->k->n_rows, in.width);
        in.sd = case_doubles(r->t, &r->arena, r->t->k->n_rows, in.width);
        for (size_t i = 0; i < r->t->k->n_rows && in.x && in.sd; i++) {
            memcpy(in.x + i * in.width, wide.x + i * wide.width, in.width * sizeof *in.x);
            memcpy(in.sd + i * in.width, wide.sd + i * wide.width, in.width * sizeof *in.sd);
        }
    }
    if (!r->t->status) offer_input(r, &r->model, &in, "other-input", text);
}

static void try_inputs(Rope *r) {
    static const Component others[] = {COMP_Q, COMP_K, COMP_V, COMP_Q_NORM, COMP_K_NORM};
    const Site *s = r->t->k->site;
    char text[CAUSE_TEXT];
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const Component c = others[i];
        if (c == r->source || (c == COMP_Q_NORM && !s->w->q_norm) ||
            (c == COMP_K_NORM && !s->w->k_norm)) {
            continue;
        }
        snprintf(text, sizeof text, "%s was rotated, not %s", component_name(c),
                 component_name(r->source));
        offer_rows(r, &s->at[c], text);
    }
    if (!s->before) return;
    snprintf(text, sizeof text, "%s of the layer before was rotated", component_name(r->source));
    offer_rows(r, &s->before->at[r->source], text);
}

// --- frequencies --------------------------------------------------------------------------------

static void offer_frequencies(Rope *r, double magnitude, const char *id, const char *text) {
    Turn turn = r->model;
    turn.frequency = r->work, turn.magnitude = magnitude;
    offer(r, &turn, id, "%s", text);
}

// Llama 3's scaling: waves longer than 8192 / 1 are stretched by the factor, shorter than 8192 / 4
// are not, a ramp between (Llama 3.1's reference code).
static double llama3(double f, double factor) {
    const double context = 8192, low = 1, high = 4, wave = 6.283185307179586 / f;
    if (wave < context / high) return f;
    if (wave > context / low) return f / factor;
    const double smooth = (context / wave - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
}

static void try_scaling(Rope *r) {
    const Model *m = r->t->k->site->model;
    const Hparams *h = r->h;
    const size_t pairs = r->model.pairs;
    const double *f = r->frequency, magnitude = r->model.magnitude;
    double *work = r->work;
    if (m->rope_freqs) {
        for (size_t i = 0; i < pairs; i++) work[i] = f[i] * r->divisor[i];
        offer_frequencies(r, magnitude, "rope-factors-dropped", "rope_freqs is not used");
        for (size_t i = 0; i < pairs; i++) work[i] = f[i] * r->divisor[i] * r->divisor[i];
        offer_frequencies(r, magnitude, "rope-factors-inverted",
                          "frequencies are multiplied with rope_freqs, not divided");
    }
    if (h->rope_scaling != ROPE_SCALING_NONE) {
        for (size_t i = 0; i < pairs; i++) work[i] = r->original[i] / r->divisor[i];
        offer_frequencies(r, 1, "rope-scaling", "the model's scaling of positions is left out");
        if (magnitude != 1) {
            offer_frequencies(r, magnitude, "rope-scaling", "YaRN's frequencies are left out");
            memcpy(work, f, pairs * sizeof *work);
            offer_frequencies(r, 1, "rope-scaling", "YaRN's magnitude is left out");
            offer_frequencies(r, magnitude * magnitude, "rope-scaling",
                              "YaRN's magnitude is applied twice");
        }
    }
    if (h->rope_scaling == ROPE_SCALING_YARN) {
        for (size_t i = 0; i < pairs; i++) {
            work[i] = r->original[i] / r->divisor[i] / h->rope_factor;
        }
        offer_frequencies(r, 1, "rope-scaling", "all positions are divided, as by linear scaling");
        for (size_t i = 0; i < pairs; i++) {
            work[i] = r->original[i] / r->divisor[i] * (1 + 1.0 / h->rope_factor) - f[i];
        }
        offer_frequencies(r, magnitude, "rope-scaling", "YaRN's ramp runs the other way");
    }
    for (double factor = 8; factor <= 32 && !m->rope_freqs; factor *= 4) {
        char text[CAUSE_TEXT];
        for (size_t i = 0; i < pairs; i++) work[i] = llama3(f[i], factor);
        snprintf(text, sizeof text, "Llama 3's scaling by %g is applied, the file has none",
                 factor);
        offer_frequencies(r, magnitude, "rope-scaling", text);
    }
}

// Exponents that are easily written wrongly; each is a base of its own too.
static void try_exponents(Rope *r) {
    const Hparams *h = r->h;
    const struct {
        double exponent;
        const char *text;
    } ways[] = {{2.0 / h->dim, "2 i / dim"},
                {2.0 / h->head_dim, "2 i / head_dim"},
                {1.0 / h->n_rot, "i / n_rot"},
                {4.0 / h->n_rot, "4 i / n_rot"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways && !r->fits; i++) {
        if (ways[i].exponent * h->n_rot == 2) continue;
        Turn turn = r->model;
        plain_frequencies(h->rope_base, ways[i].exponent, turn.pairs, r->work);
        for (size_t p = 0; p < turn.pairs; p++) r->work[p] *= r->frequency[p] / r->original[p];
        turn.frequency = r->work;
        offer(r, &turn, "rope-base", "the base %g has the exponent %s instead of 2 i / n_rot",
              (double)h->rope_base, ways[i].text);
    }
}

// The roundest number near x that fits all rows: a base, or a factor of all frequencies.
static bool snap(Rope *r, FitKind kind, double x, double *value) {
    Turn turn = r->model;
    const double exact = exp(x);
    turn.frequency = r->work;
    for (int digits = 1; digits <= 17; digits += digits < 7 ? 1 : 10) {
        char text[40];
        snprintf(text, sizeof text, "%.*e", digits - 1, exact);
        *value = strtod(text, NULL);
        for (size_t i = 0; i < turn.pairs; i++) {
            r->work[i] = kind == FIT_SCALE ? r->frequency[i] * *value
                                           : pow(*value, -(double)i / (double)turn.pairs) *
                                                 r->frequency[i] / r->original[i];
        }
        if (row_fits(r, &turn, 0, r->t->k->n_rows)) return true;
    }
    return false;
}

// --- fits ---------------------------------------------------------------------------------------

// Do positions start again from 0, once or more? start: the tokens at which they do, ascending.
static size_t find_starts(const Rope *r, const double *pos, double *start) {
    const size_t rows = r->t->k->n_rows;
    size_t n = 0;
    for (size_t i = 0; i < rows; i++) {
        const double shift = r->model.pos[i] - pos[i];
        size_t at = n;
        if (shift < 0 || pos[i] < 0) return 0;
        while (at > 0 && start[at - 1] > shift) at--;
        if (shift == 0 || (at > 0 && start[at - 1] == shift)) continue;
        memmove(start + at + 1, start + at, (n++ - at) * sizeof *start);
        start[at] = shift;
    }
    for (size_t i = 0; i < rows; i++) {
        double last = 0;
        for (size_t j = 0; j < n && start[j] <= r->model.pos[i]; j++) last = start[j];
        if (last != r->model.pos[i] - pos[i]) return 0;
    }
    return n;
}

static void offer_starts(Rope *r, const Turn *turn, const double *start, size_t n) {
    bool even = n > 1;
    for (size_t i = 0; i < n; i++) even &= fmod(start[i], start[0]) == 0;
    if (n == 1) {
        offer(r, turn, "rope-position-reset", "positions start again from 0 at token %g", start[0]);
    } else if (even && start[0] > 1) {
        offer(r, turn, "rope-position-reset", "positions start again from 0 every %g tokens",
              start[0]);
    } else {
        offer(r, turn, "rope-position-reset", "positions start again from 0 at tokens %g, %g%s",
              start[0], start[1], n > 2 ? " and later" : "");
    }
}

static void offer_positions(Rope *r, const double *pos) {
    const CauseCase *k = r->t->k;
    double *start = case_doubles(r->t, &r->arena, k->n_rows + 1, 1);
    if (!start) return;
    const size_t n = find_starts(r, pos, start);
    bool fixed = k->n_rows > 1, backwards = true;
    size_t other = 0;
    for (size_t i = k->n_rows; i-- > 0;) {
        fixed &= pos[i] == pos[0];
        backwards &= pos[i] == (double)k->site->n - 1 - r->model.pos[i];
        if (pos[i] != r->model.pos[i]) other = i;
    }
    Turn turn = r->model;
    turn.pos = pos;
    if (fixed) {
        offer(r, &turn, "rope-position-fixed", "every token is rotated as position %g", pos[0]);
    } else if (backwards) {
        offer(r, &turn, "rope-positions", "positions count backwards from the prompt's end");
    } else if (n > 0) {
        offer_starts(r, &turn, start, n);
    } else {
        offer(r, &turn, "rope-positions", "token %zu is rotated as position %g", k->row[other],
              pos[other]);
    }
}

static bool try_multiple(Rope *r, const Turned *m) {
    double factor;
    if (!snap(r, FIT_SCALE, turn_fit(m, FIT_SCALE, r->model.pos, r->frequency), &factor))
        return false;
    Turn turn = r->model;
    turn.frequency = r->work;
    return offer(r, &turn, "rope-scaling", "positions are multiplied by %.7g", factor);
}

static double fit_position(const Rope *r, const Turned *m, size_t row) {
    const long n = (long)r->t->k->site->n;
    return (double)turn_position(m, row, r->frequency, -n - 64, 2 * n + 1024);
}

// The same shift in all rows, or else a position of each one's own.
static bool fit_shift(Rope *r, const Turned *m) {
    const CauseCase *k = r->t->k;
    double *pos = case_doubles(r->t, &r->arena, k->n_rows, 1);
    if (!pos) return false;
    const double shift = fit_position(r, m, 0) - r->model.pos[0];
    for (size_t i = 0; i < k->n_rows; i++) pos[i] = r->model.pos[i] + shift;
    Turn turn = r->model;
    turn.pos = pos;
    return offer(r, &turn, "rope-position", "positions are %g too %s", fabs(shift),
                 shift > 0 ? "high" : "low");
}

static void fit_positions(Rope *r, const Turned *m) {
    const CauseCase *k = r->t->k;
    double *pos = case_doubles(r->t, &r->arena, k->n_rows, 1);
    if (!pos) return;
    Turn turn = r->model;
    turn.pos = pos;
    for (size_t i = 0; i < k->n_rows; i++) {
        pos[i] = r->model.pos[i];
        if (row_fits(r, &turn, i, 1)) continue;
        pos[i] = fit_position(r, m, i);
        if (!row_fits(r, &turn, i, 1)) return;
    }
    offer_positions(r, pos);
}

static void fit_frequencies(Rope *r, const Turned *m) {
    const CauseCase *k = r->t->k;
    Turn turn = r->model;
    double first = 0, worst = 0;
    bool two = false;  // positions: with one alone any rotation would do
    size_t at = 0;
    for (size_t i = 0; i < k->n_rows; i++) {
        if (turn.pos[i] == 0) continue;
        two |= first != 0 && turn.pos[i] != first;
        first = turn.pos[i];
    }
    if (!two) return;
    for (size_t i = 0; i < turn.pairs; i++) {
        r->work[i] = turn_frequency(m, i, turn.pos);
        const double off = fabs(r->work[i] - r->frequency[i]) / r->frequency[i];
        if (off > worst) worst = off, at = i;
    }
    turn.frequency = r->work;
    offer(r, &turn, "rope-frequencies", "pair %zu turns by %.6g a position, the model's by %.6g",
          at, r->work[at], r->frequency[at]);
}

static void try_fits(Rope *r) {
    Turned m;
    double base;
    if (!turn_measure(r->t, &r->arena, &r->model, &r->in, &m) || !m.rotation) return;
    if (fit_shift(r, &m) || try_multiple(r, &m)) return;
    fit_positions(r, &m);
    if (!r->fits) try_exponents(r);
    double *by = case_doubles(r->t, &r->arena, 1, r->model.pairs);  // scaling and rope_freqs
    if (!by) return;
    for (size_t i = 0; i < r->model.pairs; i++) by[i] = r->frequency[i] / r->original[i];
    if (!r->fits && snap(r, FIT_BASE, turn_fit(&m, FIT_BASE, r->model.pos, by), &base)) {
        Turn turn = r->model;
        turn.frequency = r->work;
        offer(r, &turn, "rope-base", "base %.7g, the model's is %.7g", base,
              (double)r->h->rope_base);
    }
    if (!r->fits) fit_frequencies(r, &m);
}

void cause_rope(Trial *t) {
    Rope r = {.t = t};
    if ((t->k->c == COMP_Q_ROPE || t->k->c == COMP_K_ROPE) && rope_begin(&r)) {
        try_manner(&r);
        try_scaling(&r);
        try_dims(&r);
        try_index(&r);
        try_heads(&r);
        try_inputs(&r);
        if (!r.fits) try_precision(&r);
        if (!r.fits) try_fits(&r);
    }
    arena_free(&r.arena);
}
