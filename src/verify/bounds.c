// The bounds; see bounds.h. u is the unit roundoff of float32 unless it says otherwise.
#include "verify/bounds.h"

#include <math.h>
#include <string.h>

#define U 0x1p-24

const char *precision_name(Precision p) {
    static const char *const names[N_PRECISIONS] = {"f32", "f16", "bf16"};
    return names[p];
}

double unit_roundoff(Precision p) {
    static const double u[N_PRECISIONS] = {U, 0x1p-11, 0x1p-8};
    return u[p];
}

// Below this an engine may lose everything: subnormals that are flushed, the least half.
static double smallest(Precision p) {
    return p == PREC_F16 ? 0x1p-25 : 0x1p-126;
}

// What storing y costs: half a unit in the last place, roundings times. Four of them are allowed,
// so that a right engine, which may well use one in full, stays at a quarter.
static Slack stored(Slack s, double y, int roundings, Precision out) {
    const double u = unit_roundoff(out) * fabs(y);
    s.bound += 4 * (roundings * u + smallest(out));
    s.sd = hypot(s.sd, 0.6 * sqrt(roundings) * u);
    return s;
}

// Rounding errors of a sum wander: sqrt(n) of them, not n, but with a probability that 8 makes
// certain (Higham & Mary 2019, theorem 3.1; Ipsen & Zhou 2020). n + 8 is the deterministic bound,
// 8 for the scales that blocks of weights are multiplied with. Typically the error is that of the
// partial sums' last bits, about a third of u sum |w x|.
Slack bound_matmul(size_t n, double abs, double y, Precision acc, Precision out) {
    const double u = unit_roundoff(acc), likely = 8 * sqrt((double)n), most = (double)n + 8;
    // Of few bits even an accumulator's typical error shows: it is rounded after every term.
    const double typical = acc == PREC_F32 ? 0.3 : fmax(0.6, 0.15 * sqrt((double)n));
    Slack s = {(likely < most ? likely : most) * u * abs, typical * u * abs};
    return stored(s, y, 1, out);
}

// The sum of squares loses sqrt(n) u, the root halves that; a division, a root, a reciprocal, and
// two products, after each of which the value may be stored.
Slack bound_rmsnorm(size_t n, double y, Precision out) {
    const double root = sqrt((double)n);
    Slack s = {(root / 2 + 4) * U * fabs(y), (root / 8 + 1) * U * fabs(y)};
    return stored(s, y, 2, out);
}

// The angle is known to a few float32 roundings of pos * theta: those of theta itself (a power,
// or i factors multiplied up), of the product; then cosine, sine, two products and a sum.
Slack bound_rope(double pair, double angle, size_t i, Precision out) {
    const double turn = angle * (12 + 3 * (double)i) * U;
    Slack s = {turn * pair, turn / 12 * pair};
    return stored(s, pair, 2, out);
}

// d p / p = 2 max |d s| + (n + 8) u: the exponent's argument is rounded (its own size times u, and
// again where exp is made from exp2), the sum has n terms of one sign.
Slack bound_softmax(size_t n, double p, double below, double sd_score, Precision out) {
    const double terms = (double)n, likely = 8 * sqrt(terms);
    const double sum = (likely < terms ? likely : terms) + 8;
    Slack s = {p * (2 * 4 * U * below + sum * U + BOUND_CONFIDENCE * sd_score),
               hypot(p * (below + sqrt(terms) / 4 + 1) * U, p * sd_score)};
    if (below > 80) s.bound += p + 0x1p-110;  // float32 may have no exp(-below) any more
    return stored(s, p, 1, out);
}

// 8 units in the last place for exp, a sum, a division, two products; a fast exp loses |gate| u
// more where it is far from 0. Past -80 float32 may have no exp(-gate) any more: y may be 0.
Slack bound_swiglu(double gate, double y, Precision out) {
    const double far = gate < 0 ? -gate : 0, units = 8 + 2 * far;
    Slack s = {units * U * fabs(y), (1 + far / 4) * U * fabs(y)};
    if (gate < -80) s.bound += fabs(y) + 0x1p-110;
    if (out != PREC_F32 && gate != 0) {  // silu itself may be subnormal, and up large
        s.bound += 4 * smallest(out) * fabs(y / (gate / (1 + exp(-gate))));
    }
    return stored(s, y, 2, out);
}

// The terms were rounded too, if their engine holds more than what it captures.
Slack bound_add(double a, double b, Precision out) {
    const double y = a + b, terms = U * (fabs(a) + fabs(b));
    return stored((Slack){4 * terms, 0.6 * terms}, y, 1, out);
}

Slack bound_copy(double y, Precision out) {
    if (out == PREC_F32) return (Slack){0, 0};
    const double u = unit_roundoff(out) * fabs(y) * (1 + 1e-6);
    return (Slack){u > smallest(out) ? u : smallest(out), 0.6 * u};
}

double bound_spread(double bound, double sd) {
    return hypot(sd, bound / 40);
}

double nmse_floor(Precision out) {
    static const double floors[N_PRECISIONS] = {1e-12, 1e-7, 5e-6};
    return floors[out];
}

static const BoundRow rows[] = {
    {"embd", "equal to the bit (f16, bf16: half a unit in the last place)", "-",
     "a row of the table is copied; decoding a block of weights has one right result"},
    {"attn_norm ffn_norm norm q_norm k_norm", "(sqrt(n) u / 2 + 4 u + 8 u_out) |y|",
     "NMSE <= 1e-10",
     "n squares are summed: sqrt(n) u, halved by the root; a root, a division, two products"},
    {"q k v attn_out ffn_gate ffn_up ffn_out logits", "8 sqrt(n) u sum|w x| + 4 u_out |y|",
     "NMSE <= 1e-10, |mean error| <= 6 standard errors",
     "sums of n rounded products err by sqrt(n) u with probability 1 (Higham & Mary 2019; Ipsen & "
     "Zhou 2020), never by more than n u; inputs are rounded as the engine rounds them"},
    {"q_rope k_rope", "((12 + 3 i) pos theta_i u + 8 u_out) |pair|", "NMSE <= 1e-10",
     "the angle carries the rounding of theta_i, a power or i factors multiplied up in float32; "
     "then a cosine, a sine, two products, a sum"},
    {"k_cache v_cache", "equal to the bit in f32; f16: half a unit; q8_0: a step",
     "100 times what the type rounds", "the cache copies"},
    {"kq", "8 sqrt(d) u sum|q k| / sqrt(d) + 4 u_out |y|", "NMSE <= 1e-10",
     "a dot product of head_dim terms; masked entries are not looked at"},
    {"kq_soft_max", "(8 u (max - s) + (n + 8) u + 4 u_out) p; 0 where masked",
     "NMSE <= 1e-10, sum = 1",
     "the exponent's argument is rounded at its own size; n terms of one sign are summed"},
    {"attn", "8 sqrt(n) u sum|p v| + 4 u_out |y|", "NMSE <= 1e-10",
     "a sum of n rounded products; without captured scores those of kq and kq_soft_max are added"},
    {"ffn_inp l_out", "4 u (|a| + |b|) + 4 u_out |y|", "NMSE <= 1e-10",
     "one addition: half a unit in the last place, of terms that were rounded when captured"},
    {"ffn_act", "((8 + 2 max(0, -gate)) u + 8 u_out) |y|", "NMSE <= 1e-10",
     "exp to a few units in the last place, more for a fast one far from 0; a division, a product"},
    {"probs", "(8 u (max - s) / temperature + (n + 8) u) p", "sum = 1", "as kq_soft_max"},
    {"token", "the largest logit; among equal ones the lowest id", "-",
     "where the two best lie within the bound of the logits either is right: a tie"},
};

const BoundRow *bound_row_at(int i) {
    return i >= 0 && (size_t)i < sizeof rows / sizeof *rows ? &rows[i] : NULL;
}

const BoundRow *bound_row_of(Component c) {
    const char *name = component_name(c);
    const size_t len = strlen(name);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (const char *at = rows[i].components; *at; at += strcspn(at, " "), at += *at == ' ') {
            if (strcspn(at, " ") == len && memcmp(at, name, len) == 0) return &rows[i];
        }
    }
    return NULL;
}
