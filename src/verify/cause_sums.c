// Hypotheses of the matrix products about how they sum: terms left out, for all outputs alike or
// for some at random, and sums that are kept in 16 bits.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_product.h"

// The sampled outputs of the case's first row, term by term.
typedef struct {
    Product *p;
    const double *x;  // rows x inputs, rounded as the engine rounds them
    float *w;         // n_samples x inputs
    double *sums;     // n_samples x (inputs + 1): the sum of the first i terms
    double *error;    // n_samples: got less what is expected
} Terms;

static bool terms_new(Product *p, Terms *t) {
    const size_t n = p->inputs;
    double *x = product_doubles(p, p->rows * n);
    *t = (Terms){p, x, product_floats(p, p->n_samples * n),
                 product_doubles(p, p->n_samples * (n + 1)), product_doubles(p, p->n_samples)};
    if (p->t->status) return false;
    act_round(p->way, p->x, NULL, p->rows, n, x, NULL, NULL);
    for (size_t j = 0; j < p->n_samples; j++) {
        const size_t o = p->sample[j];
        float *w = t->w + j * n;
        double *sums = t->sums + j * (n + 1);
        oracle_tensor_row((void *)(uintptr_t)p->w, o, w);
        sums[0] = 0;
        for (size_t i = 0; i < n; i++) sums[i + 1] = sums[i] + w[i] * x[i];
        t->error[j] = p->t->k->got[o] - p->t->k->want->y[o];
    }
    return true;
}

// --- inputs left out ----------------------------------------------------------------------------

typedef struct {
    const Tensor *w;
    size_t from, to;
    float times;  // 0: left out, 2: taken twice
} Cut;

static void cut_row(void *user, size_t output, float *w) {
    const Cut *c = user;
    oracle_tensor_row((void *)(uintptr_t)c->w, output, w);
    for (size_t i = c->from; i < c->to; i++) w[i] *= c->times;
}

// Do terms from .. to - 1, times `sign`, make the error of every sampled output?
static bool cut_holds(const Terms *t, size_t from, size_t to, double sign) {
    const Product *p = t->p;
    for (size_t j = 0; j < p->n_samples; j++) {
        const double *sums = t->sums + j * (p->inputs + 1);
        const double bound = p->t->k->want->bound[p->sample[j]];
        if (!(fabs(t->error[j] - sign * (sums[to] - sums[from])) <= bound)) return false;
    }
    return true;
}

static bool try_cut(const Terms *t, size_t from, size_t to) {
    Product *p = t->p;
    for (int twice = 0; twice < 2; twice++) {
        if (!cut_holds(t, from, to, twice ? 1 : -1)) continue;
        Cut cut = {p->w, from, to, twice ? 2 : 0};
        Variant v = product_as_is(p);
        Expected e;
        v.row = cut_row, v.user = &cut;
        if (!product_try(p, &v, &e)) continue;
        if (trial_offer(p->t, "inputs-cut", &e, "inputs %zu to %zu of %zu are %s every sum", from,
                        to - 1, p->inputs, twice ? "twice in" : "left out of")) {
            return true;
        }
    }
    return false;
}

static void try_cuts(const Terms *t) {
    const size_t n = t->p->inputs;
    for (size_t m = n - 1; m > 0; m--) {
        if (try_cut(t, m, n)) return;
    }
    for (size_t m = 1; m < n; m++) {
        if (try_cut(t, 0, m)) return;
    }
    for (size_t tile = 8; tile < n; tile *= 2) {
        for (size_t at = tile; at + tile < n; at += tile) {
            if (try_cut(t, at, at + tile)) return;
        }
    }
}

// --- races --------------------------------------------------------------------------------------

// Term i belongs to part (i / unit) % parts.
typedef struct {
    size_t unit, parts;
    bool contiguous;
    bool subsets;  // several may be lost at once
} Scheme;

enum { PARTS_MOST = 256, SUBSET_PARTS = 8 };

// What a lost part may change an element by, and how many such changes there are of the size of its
// error.
typedef struct {
    double error, best;
    size_t near;  // in -2 |error| .. 2 |error|
} Changes;

static void consider(Changes *c, double change) {
    if (fabs(c->error - change) < fabs(c->error - c->best)) c->best = change;
    if (fabs(change) <= 2 * fabs(c->error)) c->near++;
}

// A part is lost, or added twice; or several are lost.
static Changes changes_of(const Scheme *s, const double *part, double error) {
    Changes c = {error, INFINITY, 0};
    const unsigned subsets = s->subsets ? 1u << s->parts : 0;
    for (size_t j = 0; j < s->parts && !subsets; j++) consider(&c, part[j]);
    for (size_t j = 0; j < s->parts && !subsets; j++) consider(&c, -part[j]);
    for (unsigned set = 1; set < subsets; set++) {
        double sum = 0;
        for (size_t j = 0; j < s->parts; j++) sum += set >> j & 1 ? part[j] : 0;
        consider(&c, -sum);
    }
    return c;
}

// One output of one row: the change of its sum that makes it what was captured. log_chance grows by
// how likely one of the changes lies as near as the bound to any error of such a size; taken twice,
// so that what is no evidence counts for none.
static bool explain_element(const Scheme *s, const float *w, const double *x, size_t n,
                            double error, double bound, double *change, double *log_chance) {
    double part[PARTS_MOST] = {0};
    for (size_t at = 0, j = 0; at < n; at += s->unit, j = j + 1 == s->parts ? 0 : j + 1) {
        const size_t to = at + s->unit < n ? at + s->unit : n;
        for (size_t i = at; i < to; i++) part[j] += w[i] * x[i];
    }
    const Changes c = changes_of(s, part, error);
    *change = c.best;
    *log_chance += log(fmin(1, 2 * (double)(c.near + 1) * bound / (2 * fabs(error))));
    return fabs(error - c.best) <= bound;
}

// Less likely than this, over all wrong elements, is no accident, though some fifty schemes are
// tried; of the few plain ones less is asked.
static double chance_most(const Scheme *s) {
    const bool plain = s->parts <= 8 && !s->subsets && (s->contiguous || s->unit == 1);
    return plain ? 1e-4 : 1e-7;
}

// Changes e where it is wrong.
static bool explain_all(const Terms *t, const Scheme *s, Expected *e) {
    Product *p = t->p;
    const size_t n = p->inputs, outputs = p->outputs;
    const float *got = p->t->k->got;
    float *w = product_floats(p, n);
    double log_chance = 0;
    for (size_t o = 0; w && o < outputs; o++) {
        bool decoded = false;
        for (size_t r = 0; r < p->rows; r++) {
            const size_t at = r * outputs + o;
            const double error = got[at] - e->y[at];
            double change;
            if (fabs(error) <= 3 * e->sd[at]) continue;
            if (!decoded) oracle_tensor_row((void *)(uintptr_t)p->w, o, w);
            decoded = true;
            const bool wrong = !(fabs(error) <= e->bound[at]);
            double unsure = 0;
            const bool found = explain_element(s, w, t->x + r * n, n, error, e->bound[at], &change,
                                               wrong ? &log_chance : &unsure);
            if (wrong && !found) return false;
            // A part so small that its loss stays within the bound still makes a row wrong.
            if (!wrong && !(fabs(error - change) <= 3 * e->sd[at])) continue;
            e->y[at] += change;
        }
    }
    return w && log_chance < log(chance_most(s));
}

static bool scheme_holds_sample(const Terms *t, const Scheme *s) {
    const Product *p = t->p;
    for (size_t j = 0; j < p->n_samples; j++) {
        const double bound = p->t->k->want->bound[p->sample[j]];
        double change, ignored = 0;
        if (fabs(t->error[j]) <= bound) continue;
        if (!explain_element(s, t->w + j * p->inputs, t->x, p->inputs, t->error[j], bound, &change,
                             &ignored)) {
            return false;
        }
    }
    return true;
}

static bool try_scheme(const Terms *t, Scheme s) {
    Product *p = t->p;
    Expected e;
    if (s.parts < 2 || s.parts > PARTS_MOST || s.unit * s.parts >= 2 * p->inputs) return false;
    if (s.subsets && s.parts > SUBSET_PARTS) return false;
    if (!scheme_holds_sample(t, &s) || !product_copy(p->t, &e)) return false;
    if (!explain_all(t, &s, &e)) {
        expected_free(&e);
        return false;
    }
    return trial_offer(p->t, "race", &e,
                       "each wrong element lacks parts of its sum, of %zu that are %s (a race)",
                       s.parts, s.contiguous ? "runs of inputs" : "every so many inputs");
}

static bool try_schemes(const Terms *t, bool subsets) {
    const size_t n = t->p->inputs;
    for (size_t parts = 2; parts <= PARTS_MOST; parts *= 2) {
        if (try_scheme(t, (Scheme){(n + parts - 1) / parts, parts, true, subsets})) return true;
        for (size_t unit = 1; unit <= 8; unit *= 2) {
            if (try_scheme(t, (Scheme){unit, parts, false, subsets})) return true;
        }
    }
    for (size_t tile = 8; tile <= 1024; tile *= 2) {
        if (try_scheme(t, (Scheme){tile, (n + tile - 1) / tile, true, subsets})) return true;
    }
    return false;
}

static void try_race(const Terms *t) {
    if (!try_schemes(t, false)) try_schemes(t, true);
}

// --- sums in 16 bits ----------------------------------------------------------------------------

static float to_precision(double x, Precision p) {
    return p == PREC_F16    ? f16_to_f32(f32_to_f16((float)x))
           : p == PREC_BF16 ? bf16_to_f32(f32_to_bf16((float)x))
                            : (float)x;
}

// A right product with its outputs stored, or its sums kept, in 16 bits.
static bool expect_coarser(const Terms *t, Precision acc, Precision out, Expected *e) {
    Product *p = t->p;
    const Expected *want = p->t->k->want;
    if (!product_copy(p->t, e)) return false;
    double *abs = product_doubles(p, p->rows * p->outputs);
    const OracleMatmul m = {.row = oracle_tensor_row,
                            .user = (void *)(uintptr_t)p->w,
                            .inputs = p->inputs,
                            .outputs = p->outputs,
                            .bias = p->bias,
                            .x = t->x,
                            .rows = p->rows,
                            .y = e->y,
                            .abs = abs};
    if (abs) p->t->status = oracle_matmul_rows(p->t->k->site->oracle, &m, p->t->err);
    for (size_t i = 0; !p->t->status && i < p->rows * p->outputs; i++) {
        const Slack s = bound_matmul(p->inputs, abs[i], e->y[i], acc, out);
        // What the inputs' uncertainty adds is there already.
        e->bound[i] = fmax(s.bound, want->bound[i]), e->sd[i] = fmax(s.sd, want->sd[i]);
    }
    if (p->t->status) expected_free(e);
    return !p->t->status;
}

// Is every value of the failing rows one of the precision's, before the bias was added?
static bool is_stored_in(const Product *p, Precision prec) {
    const CauseCase *k = p->t->k;
    size_t odd = 0, looked = 0;
    for (size_t r = 0; r < p->rows; r++) {
        if (compare_worst(k->cells + r * k->groups, k->groups).ratio <= 1) continue;
        for (size_t o = 0; o < p->outputs; o++) {
            const double got = k->got[r * p->outputs + o], bias = p->bias ? p->bias[o] : 0;
            const double before = got - bias, off = before - to_precision(before, prec);
            const double lost = bias != 0 ? unit_roundoff(PREC_F32) * (fabs(got) + fabs(bias)) : 0;
            looked++;
            odd += !(fabs(off) <= lost) && to_precision(got, prec) != got;
        }
    }
    return looked > 4 && odd == 0;
}

typedef struct {
    Precision prec;
    size_t lanes;  // of sums side by side, element i in lane i % lanes
    bool round_inputs, round_products, round_ends;
} Order;

enum { LANES_MOST = 64 };

static double sum_in_order(const Order *s, const float *w, const double *x, size_t n) {
    float lane[LANES_MOST] = {0};
    for (size_t i = 0; i < n; i++) {
        const double a = s->round_inputs ? to_precision(w[i], s->prec) : w[i];
        const double b = s->round_inputs ? to_precision(x[i], s->prec) : x[i];
        const double product = s->round_products ? to_precision(a * b, s->prec) : a * b;
        float *sum = &lane[i & (s->lanes - 1)];
        *sum = to_precision(*sum + product, s->prec);
    }
    for (size_t half = s->lanes / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            const double sum = (double)lane[j] + lane[j + half];
            lane[j] = to_precision(sum, s->round_ends ? s->prec : PREC_F32);
        }
    }
    return lane[0];
}

// Does this order of summing give half of the sampled outputs to the last bits? (One that an engine
// does not have gives none: its errors are its own.)
static bool reproduces(const Terms *t, const Order *s) {
    const Product *p = t->p;
    size_t same = 0, wrong = 0;
    for (size_t j = 0; j < p->n_samples; j++) {
        const size_t o = p->sample[j];
        const double got = p->t->k->got[o], bias = p->bias ? p->bias[o] : 0;
        if (fabs(t->error[j]) <= p->t->k->want->bound[o]) continue;
        wrong++;
        const double y = sum_in_order(s, t->w + j * p->inputs, t->x, p->inputs) + bias;
        same += fabs(y - got) <= 4 * unit_roundoff(PREC_F32) * (fabs(got) + fabs(bias));
        if (wrong >= 8 && same == 0) return false;
    }
    return wrong >= 4 && same * 2 >= wrong;
}

static bool is_reproduced(const Terms *t, Precision prec) {
    for (size_t lanes = 1; lanes <= LANES_MOST; lanes *= 2) {
        for (int form = 0; form < 8; form++) {
            const Order s = {prec, lanes, form & 1, (form & 2) != 0, (form & 4) != 0};
            if (lanes == 1 && (form & 4)) continue;
            if (reproduces(t, &s)) return true;
        }
    }
    return false;
}

static bool near_enough(const Terms *t, Precision prec) {
    const Product *p = t->p;
    for (size_t j = 0; j < p->n_samples; j++) {
        const size_t o = p->sample[j];
        double abs = p->bias ? fabs((double)p->bias[o]) : 0;
        for (size_t i = 0; i < p->inputs; i++) abs += fabs(t->w[j * p->inputs + i] * t->x[i]);
        const Slack s = bound_matmul(p->inputs, abs, p->t->k->want->y[o], prec, p->out);
        if (!(fabs(t->error[j]) <= s.bound + p->t->k->want->bound[o])) return false;
    }
    return true;
}

static void try_coarser(const Terms *t) {
    Product *p = t->p;
    static const Precision order[] = {PREC_BF16, PREC_F16};  // bfloat16's are halves too, mostly
    bool stored = false;
    for (int i = 0; i < 2 && !stored && !p->t->status; i++) {
        const Precision prec = order[i];
        Expected e;
        if (!near_enough(t, prec)) continue;
        stored = p->out == PREC_F32 && is_stored_in(p, prec);
        if (!stored && !is_reproduced(t, prec)) continue;
        if (!expect_coarser(t, prec, stored ? prec : p->out, &e)) return;
        trial_offer_coarser(p->t, prec == PREC_F16 ? "f16-accumulation" : "bf16-accumulation", &e,
                            "as far off as sums kept in %s are", precision_name(prec));
    }
}

void cause_sums(Product *p) {
    Terms t;
    if (p->x_sd || p->way == WAY_Q8_TENSOR || !terms_new(p, &t)) return;
    try_cuts(&t);
    try_race(&t);
    try_coarser(&t);
}
