// Rotation as a wrong engine may do it, and measuring how far something was rotated.
//
// Every fit is a search for the largest sum of cos(angle found - angle supposed) over the pairs:
// first on a grid fine enough for the row with the smallest position, then between two grid points.
#include "verify/cause_turn.h"

static double rounded(Precision to, double x) {
    if (to == PREC_F16) return f16_to_f32(f32_to_f16((float)x));
    if (to == PREC_BF16) return bf16_to_f32(f32_to_bf16((float)x));
    return (float)x;
}

static void pair_of(const Turn *turn, size_t i, size_t *a, size_t *b) {
    *a = turn->halves ? i : 2 * i;
    *b = turn->halves ? i + turn->pairs : 2 * i + 1;
}

// The angle of frequency number i, of head h.
static double angle_of(const Turn *turn, double pos, size_t h, size_t i) {
    const double f = turn->frequency[h * turn->per_head + i];
    if (turn->quirk == TURN_FREQUENCY) return pos * rounded(turn->to, f);
    if (turn->quirk != TURN_ANGLE) return pos * f;
    return rounded(turn->to, rounded(turn->to, pos) * rounded(turn->to, f));
}

// y: the pair i of head h, turned. Returns the larger of the angles.
static double turn_pair(const Turn *turn, double pos, size_t h, size_t i, double a, double b,
                        double y[2]) {
    double t0 = angle_of(turn, pos, h, i), t1 = t0;
    if (turn->quirk == TURN_CROSSED) {
        size_t at[2];
        pair_of(turn, i, &at[0], &at[1]);
        t0 = angle_of(turn, pos, h, turn->halves ? at[0] / 2 : at[0] % turn->pairs);
        t1 = angle_of(turn, pos, h, turn->halves ? at[1] / 2 : at[1] % turn->pairs);
    }
    double c[2] = {cos(t0), cos(t1)}, s[2] = {sin(t0), sin(t1)};
    for (int k = 0; k < 2; k++) {
        if (turn->quirk == TURN_TRIG)
            c[k] = rounded(turn->to, c[k]), s[k] = rounded(turn->to, s[k]);
        if (turn->quirk == TURN_BACK) s[k] = -s[k];
        if (turn->quirk == TURN_SWAPPED) {
            const double swap = c[k];
            c[k] = s[k], s[k] = swap;
        }
        c[k] *= turn->magnitude, s[k] *= turn->magnitude;
    }
    y[0] = a * c[0] - b * s[0];
    if (turn->quirk == TURN_IN_PLACE) a = y[0];
    y[1] = a * s[1] + b * c[1];
    return fabs(t0) > fabs(t1) ? fabs(t0) : fabs(t1);
}

bool turn_expect(Trial *t, const Turn *turn, const CaseRows *x, size_t from, size_t n,
                 Expected *out) {
    const Precision prec = t->k->site->rounding->out[t->k->c];
    if (!case_new(t, n, out)) return false;
    const double scale = fabs(turn->magnitude);
    for (size_t cell = 0; cell < n * turn->heads; cell++) {
        const size_t row = from + cell / turn->heads, h = cell % turn->heads;
        const size_t at = cell * turn->head_dim, in = row * x->width + h * turn->head_dim;
        const double pos = turn->pos[turn->per_cell ? row * turn->heads + h : row];
        for (size_t i = 0; i < turn->head_dim; i++) {
            out->y[at + i] = x->x[in + i];
            case_put(out, at + i, bound_copy(x->x[in + i], prec), x->sd[in + i]);
        }
        for (size_t i = 0; i < turn->pairs && h < turn->n_turned; i++) {
            size_t a, b;
            double y[2];
            pair_of(turn, i, &a, &b);
            const double angle = turn_pair(turn, pos, h, i, x->x[in + a], x->x[in + b], y);
            const double pair = hypot(x->x[in + a], x->x[in + b]) * scale;
            const double spread = hypot(x->sd[in + a], x->sd[in + b]) * scale;
            const Slack slack = bound_rope(pair, angle, i, prec);
            out->y[at + a] = y[0], out->y[at + b] = y[1];
            case_put(out, at + a, slack, spread);
            case_put(out, at + b, slack, spread);
        }
    }
    return true;
}

bool turn_measure(Trial *t, Arena *arena, const Turn *turn, const CaseRows *x, Turned *out) {
    const size_t rows = t->k->n_rows, d = turn->head_dim;
    *out = (Turned){.rows = rows, .pairs = turn->pairs};
    out->dot = case_doubles(t, arena, rows, turn->pairs);
    out->cross = case_doubles(t, arena, rows, turn->pairs);
    if (!out->dot || !out->cross) return false;
    double kept = 0, most = 0;
    for (size_t r = 0; r < rows; r++) {
        const double *in = x->x + r * x->width;
        const float *got = t->k->got + r * x->width;
        for (size_t i = 0; i < turn->pairs; i++) {
            size_t a, b;
            double dot = 0, cross = 0, before = 0, after = 0;
            pair_of(turn, i, &a, &b);
            for (size_t h = 0; h < turn->heads; h++) {
                const double xa = in[h * d + a], xb = in[h * d + b];
                const double ya = got[h * d + a], yb = got[h * d + b];
                dot += xa * ya + xb * yb, cross += xa * yb - xb * ya;
                before += xa * xa + xb * xb, after += ya * ya + yb * yb;
            }
            out->dot[r * turn->pairs + i] = dot, out->cross[r * turn->pairs + i] = cross;
            kept += hypot(dot, cross), most += sqrt(before * after);
        }
    }
    // A rotation common to all heads reaches Cauchy's bound; noise of 1 % loses 1e-4 of it.
    out->rotation = kept > 0.999 * most && isfinite(most);
    return true;
}

static double fit_of_row(const Turned *m, size_t r, double (*angle)(const void *, size_t, double),
                         const void *user, double x) {
    double sum = 0;
    for (size_t i = 0; i < m->pairs; i++) {
        const double t = angle(user, i, x);
        sum += m->dot[r * m->pairs + i] * cos(t) + m->cross[r * m->pairs + i] * sin(t);
    }
    return sum;
}

long turn_position(const Turned *m, size_t r, const double *frequency, long from, long to) {
    double most = -INFINITY;
    long best = 0;
    for (long p = from; p <= to; p++) {
        double sum = 0;
        for (size_t i = 0; i < m->pairs; i++) {
            const double t = (double)p * frequency[i];
            sum += m->dot[r * m->pairs + i] * cos(t) + m->cross[r * m->pairs + i] * sin(t);
        }
        if (sum > most) most = sum, best = p;
    }
    return best;
}

typedef struct {
    const Turned *m;
    FitKind kind;
    const double *by;  // what each pair's frequency is multiplied by
    double pos;
} Fit;

static double fit_angle(const void *user, size_t i, double x) {
    const Fit *f = user;
    const double power = f->kind == FIT_SCALE ? x : -x * (double)i / (double)f->m->pairs;
    return f->pos * f->by[i] * exp(power);
}

// row: rows to sum over, or one of them.
static double fit_score(Fit *f, const double *pos, size_t row, bool all, double x) {
    double sum = 0;
    for (size_t r = all ? 0 : row; r < (all ? f->m->rows : row + 1); r++) {
        f->pos = pos[r];
        sum += fit_of_row(f->m, r, fit_angle, f, x);
    }
    return sum;
}

static double climb(Fit *f, const double *pos, size_t row, bool all, double from, double to) {
    const double golden = 0.61803398874989485;
    for (int i = 0; i < 80 && to - from > 1e-15; i++) {
        const double a = to - golden * (to - from), b = from + golden * (to - from);
        if (fit_score(f, pos, row, all, a) > fit_score(f, pos, row, all, b)) {
            to = b;
        } else {
            from = a;
        }
    }
    return (from + to) / 2;
}

double turn_fit(const Turned *m, FitKind kind, const double *pos, const double *by) {
    enum { STEPS = 6000 };
    Fit f = {.m = m, .kind = kind, .by = by};
    size_t row = 0;
    double last = 0;
    for (size_t r = 0; r < m->rows; r++) {
        const double p = fabs(pos[r]);
        if (p >= 1 && (pos[row] == 0 || p < fabs(pos[row]))) row = r;
        if (p > last) last = p;
    }
    const double from = kind == FIT_BASE ? 0.5 : -4.5, to = kind == FIT_BASE ? 22 : 4.5;
    const double step = (to - from) / STEPS;
    double best = from, most = -INFINITY;
    for (int i = 0; i <= STEPS; i++) {
        const double x = from + i * step, score = fit_score(&f, pos, row, false, x);
        if (score > most) most = score, best = x;
    }
    best = climb(&f, pos, row, false, best - step, best + step);
    const double near = 0.3 / (last + 1);  // within it no other row's angle wraps
    return climb(&f, pos, row, true, best - near, best + near);
}

static double frequency_score(const Turned *m, size_t i, const double *pos, double frequency) {
    double sum = 0;
    for (size_t r = 0; r < m->rows; r++) {
        const double t = pos[r] * frequency;
        sum += m->dot[r * m->pairs + i] * cos(t) + m->cross[r * m->pairs + i] * sin(t);
    }
    return sum;
}

double turn_frequency(const Turned *m, size_t i, const double *pos) {
    const double pi = 3.14159265358979323846;
    double last = 1, best = 0, most = -INFINITY;
    for (size_t r = 0; r < m->rows; r++) last = fabs(pos[r]) > last ? fabs(pos[r]) : last;
    const long steps = (long)(pi * last * 4) + 16;
    for (long k = -steps; k <= steps; k++) {
        const double x = pi * (double)k / (double)steps, score = frequency_score(m, i, pos, x);
        if (score > most) most = score, best = x;
    }
    for (double step = pi / (double)steps / 2; step > 1e-12; step /= 2) {
        const double low = frequency_score(m, i, pos, best - step);
        const double high = frequency_score(m, i, pos, best + step);
        if (low > most)
            most = low, best -= step;
        else if (high > most)
            most = high, best += step;
    }
    return best;
}
