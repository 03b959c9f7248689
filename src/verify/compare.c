// Judges captured values; see compare.h.
#include "verify/compare.h"

#include <math.h>
#include <string.h>

const char *measure_name(Measure m) {
    static const char *const names[] = {"element", "NMSE",       "bias", "bits",
                                        "sum",     "not finite", "shape"};
    return names[m];
}

static double limited(double ratio) {
    return ratio < RATIO_MOST ? ratio : RATIO_MOST;  // NaN too
}

static void take(Cell *c, Measure by, double error, double bound) {
    const double ratio = limited(error == 0 ? 0 : error / bound);
    if (ratio < c->ratio || (ratio == c->ratio && c->ratio > 0)) return;
    c->ratio = ratio, c->by = by, c->error = error, c->bound = bound;
}

typedef struct {
    double squares, errors, expected_errors;  // sums of y^2, e^2, sd^2
    double mean, most;                        // sum of e; largest e / bound
    size_t n;
    bool finite;
} Sums;

// The element with the largest share of its bound, and the sums of the cell.
static Sums add_up(const double *y, const double *bound, const double *sd, const float *got,
                   size_t n, Cell *c) {
    Sums s = {.finite = true, .most = -1};
    for (size_t i = 0; i < n; i++) {
        if (isinf(bound[i])) continue;  // not looked at
        const double e = got[i] - y[i];
        if (!isfinite(e)) {
            if (!isfinite(y[i])) continue;  // its input was not finite: that was the fault
            s.finite = false, c->element = i;
            break;
        }
        const double share = e == 0 ? 0 : limited(fabs(e) / bound[i]);
        if (share > s.most) {
            s.most = share, c->element = i;
            c->error = fabs(e), c->bound = bound[i];
        }
        s.squares += y[i] * y[i], s.errors += e * e, s.expected_errors += sd[i] * sd[i];
        s.mean += e;
        s.n++;
    }
    return s;
}

// A mean error that its spread does not explain: a truncation, a lost term. Below the floor of the
// path it is a rounding with a direction, which a right engine may have.
static void judge_bias(const Sums *s, double limit, Cell *c) {
    const double n = (double)s->n, mean = s->mean / n;
    const double variance = s->errors / n - mean * mean;
    if (s->n < BIAS_MIN_WIDTH || mean * mean * n <= limit / NMSE_MARGIN * s->squares) return;
    const double error = sqrt(variance > 0 ? variance / n : 0);
    take(c, BY_BIAS, error > 0 ? fabs(mean) / error : RATIO_MOST, BIAS_SIGMAS);
}

static bool is_product(Component c) {
    return (c >= COMP_Q && c <= COMP_V) || c == COMP_ATTN_OUT || c == COMP_FFN_GATE ||
           c == COMP_FFN_UP || c == COMP_FFN_OUT || c == COMP_LOGITS;
}

static void judge(const double *y, const double *bound, const double *sd, const float *got,
                  size_t n, Component c, Precision out, Cell *cell) {
    *cell = (Cell){.ratio = 0, .by = BY_ELEMENT};
    const Sums s = add_up(y, bound, sd, got, n, cell);
    if (!s.finite) {
        *cell = (Cell){RATIO_MOST, BY_NAN, RATIO_MOST, 0, RATIO_MOST, 0, cell->element};
        return;
    }
    if (s.n == 0) return;
    cell->ratio = s.most;
    if (cell->bound == 0 && s.most > 0) cell->by = BY_BITS;
    const bool zero = s.squares == 0;  // then the elements' bounds alone count
    const double floor = nmse_floor(out), spread = zero ? 0 : s.expected_errors / s.squares;
    cell->nmse = zero ? (s.errors > 0 ? RATIO_MOST : 0) : limited(s.errors / s.squares);
    cell->nmse_bound = NMSE_MARGIN * (spread > floor ? spread : floor);
    if (!zero) take(cell, BY_NMSE, cell->nmse, cell->nmse_bound);
    if (!zero && is_product(c)) judge_bias(&s, cell->nmse_bound, cell);
    if (c != COMP_KQ_SOFT_MAX && c != COMP_PROBS) return;
    // Right weights sum to 1; those of a hypothesis to what it says.
    double sum = 0, allowed = 0;
    for (size_t i = 0; i < n; i++) sum += got[i] - y[i], allowed += bound[i];
    if (c == COMP_PROBS || allowed < 1) take(cell, BY_SUM, fabs(sum), allowed);
}

void compare_cells(const Expected *e, const float *got, Component c, size_t group, Precision out,
                   Cell *cells) {
    const size_t groups = e->width / group;
    CHECK(group > 0 && groups * group == e->width);
    for (size_t r = 0; r < e->rows; r++) {
        for (size_t g = 0; g < groups; g++) {
            const size_t at = r * e->width + g * group;
            Cell *cell = &cells[r * groups + g];
            judge(e->y + at, e->bound + at, e->sd + at, got + at, group, c, out, cell);
            cell->element += g * group;
        }
    }
}

Cell compare_worst(const Cell *cells, size_t n) {
    Cell worst = {.ratio = -1};
    for (size_t i = 0; i < n; i++) {
        if (cells[i].ratio > worst.ratio) worst = cells[i];
    }
    return worst;
}
