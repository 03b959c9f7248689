// Matrix products of the mutant: float32, eight sums side by side, and how they go wrong.
//
// Every output is summed in the same order however many rows there are: chunks change no bit, and
// equal rows of weights give equal outputs.
#include <stdlib.h>
#include <string.h>

#include "verify/mutant_internal.h"

typedef float Four __attribute__((vector_size(16)));

static Four load(const float *p) {
    Four v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float join(Four low, Four high) {
    const Four v = low + high;
    return (v[0] + v[2]) + (v[1] + v[3]);
}

float mutant_dot(const float *a, const float *b, size_t n) {
    Four low = {0}, high = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        low += load(a + i) * load(b + i);
        high += load(a + i + 4) * load(b + i + 4);
    }
    float sum = join(low, high);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

// One row of weights with four rows of x, n a multiple of 8.
static void dot_four(const float *w, const float *x, size_t n, float y[4]) {
    Four low[4] = {{0}}, high[4] = {{0}};
    for (size_t i = 0; i < n; i += 8) {
        const Four a = load(w + i), b = load(w + i + 4);
        for (size_t r = 0; r < 4; r++) {
            low[r] += a * load(x + r * n + i);
            high[r] += b * load(x + r * n + i + 4);
        }
    }
    for (size_t r = 0; r < 4; r++) y[r] = join(low[r], high[r]);
}

static float rounded(Precision p, float x) {
    if (p == PREC_F16) return f16_to_f32(f32_to_f16(x));
    if (p == PREC_BF16) return bf16_to_f32(f32_to_bf16(x));
    return x;
}

float mutant_dot_in(Precision p, const float *a, const float *b, size_t n) {
    float sum = 0;
    for (size_t i = 0; i < n; i++) sum = rounded(p, sum + a[i] * b[i]);
    return sum;
}

void mutant_store(const Mutant *mu, float *x, size_t n) {
    if (mu->o->out == PREC_F32) return;
    for (size_t i = 0; i < n; i++) x[i] = rounded(mu->o->out, x[i]);
}

// --- rows of weights --------------------------------------------------------------------------

typedef struct {
    const Tensor *t;
    const uint8_t *data;  // where this engine thinks that the tensor begins
    size_t inputs, outputs;
    DecodeFaults faults;
    const float *whole;  // all weights, to be read as inputs x outputs; NULL: rows are rows
    size_t head, pairs;  // rows of heads of this size in halves, pairs of them; head 0: as they are
} Matrix;

// In transformers' order a head has the first elements of all pairs, then the second ones.
static size_t row_of(const Matrix *m, size_t output) {
    if (!m->head) return output;
    const size_t i = output % m->head, base = output - i;
    if (i >= 2 * m->pairs) return output;
    return base + (i < m->pairs ? 2 * i : 2 * (i - m->pairs) + 1);
}

static void fetch(const Matrix *m, size_t output, float *w) {
    const size_t row = row_of(m, output);
    if (m->whole) {
        for (size_t i = 0; i < m->inputs; i++) w[i] = m->whole[i * m->outputs + row];
    } else {
        mutant_decode(m->faults, m->t->type,
                      m->data + row * mutant_row_bytes(m->t->type, m->inputs), w, m->inputs);
    }
    memset(w + m->inputs, 0, (padded(m->inputs) - m->inputs) * sizeof *w);
}

static Status decode_whole(Mutant *mu, Matrix *m) {
    const size_t n = m->inputs * m->outputs;
    if (n > mu->n_whole) {
        float *more = realloc(mu->whole, n * sizeof *more);
        if (!more) return error_memory(mu->err, "a decoded matrix", n * sizeof *more);
        mu->whole = more, mu->n_whole = n;
    }
    mutant_decode(m->faults, m->t->type, m->data, mu->whole, n);
    m->whole = mu->whole;
    return OK;
}

static Status open_matrix(Mutant *mu, ComponentRef ref, const Tensor *w, Matrix *m) {
    *m = (Matrix){.t = w,
                  .data = w->data,
                  .inputs = (size_t)w->dims[0],
                  .outputs = (size_t)w->dims[1],
                  .faults = mutant_decode_faults(mu, READ_MATRICES)};
    if (faulty(mu, FAULT_UNALIGNED, 0)) m->data -= mutant_gap(mu->m, w);
    const bool qk = ref.c == COMP_Q || ref.c == COMP_K;
    if (qk && faulty(mu, FAULT_ROPE_HALVES, 0)) {
        m->head = (size_t)mu->m->h.head_dim, m->pairs = (size_t)mu->m->h.n_rot / 2;
    }
    return faulty(mu, FAULT_TRANSPOSED, (int)ref.c) ? decode_whole(mu, m) : OK;
}

// --- inputs -----------------------------------------------------------------------------------

// What the product reads: rounded as the engine does for weights of this type, rows padded by 0.
static void round_inputs(Mutant *mu, const Matrix *m, const float *x) {
    const size_t n = m->inputs, wide = padded(n);
    const ActWay way = mu->o->act.way[m->t->type];
    if (way != WAY_NONE) {
        for (size_t i = 0; i < mu->rows * n; i++) mu->rounding[i] = x[i];
        act_round(way, mu->rounding, NULL, mu->rows, n, mu->rounding, NULL, NULL);
    }
    for (size_t r = 0; r < mu->rows; r++) {
        float *to = mu->x + r * wide;
        for (size_t i = 0; i < n; i++) {
            to[i] = way == WAY_NONE ? x[r * n + i] : (float)mu->rounding[r * n + i];
        }
        memset(to + n, 0, (wide - n) * sizeof *to);
    }
}

// --- products ---------------------------------------------------------------------------------

// Output o of every row, y[r * outputs + o].
static void multiply(const Mutant *mu, const Matrix *m, size_t o, float *y) {
    const size_t wide = padded(m->inputs);
    size_t r = 0;
    for (; r + 4 <= mu->rows; r += 4) {
        float four[4];
        dot_four(mu->row, mu->x + r * wide, wide, four);
        for (size_t i = 0; i < 4; i++) y[(r + i) * m->outputs + o] = four[i];
    }
    for (; r < mu->rows; r++) {
        y[r * m->outputs + o] = mutant_dot(mu->row, mu->x + r * wide, wide);
    }
}

static void multiply_in(const Mutant *mu, Precision p, const Matrix *m, size_t o, float *y) {
    const size_t wide = padded(m->inputs);
    for (size_t r = 0; r < mu->rows; r++) {
        y[r * m->outputs + o] = mutant_dot_in(p, mu->row, mu->x + r * wide, m->inputs);
    }
}

uint64_t mutant_random(uint64_t seed, uint64_t place) {
    uint64_t z = seed + (place + 1) * 0x9e3779b97f4a7c15u;  // splitmix64 (Steele, Lea & Flood 2014)
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

// Four workers sum a quarter each; with no barrier before the sums are added up, one or two outputs
// in 64 are read before the last worker has written its quarter.
static void race(const Mutant *mu, ComponentRef ref, const Matrix *m, float *y) {
    const size_t wide = padded(m->inputs), some = 1 + m->outputs / 64;
    for (size_t r = 0; r < mu->rows; r++) {
        for (size_t k = 0; k < some; k++) {
            const uint64_t place = ((uint64_t)component_order(ref) << 32 | (mu->from + r)) * 64 + k;
            const uint64_t random = mutant_random(mu->o->seed, place);
            const size_t o = (size_t)(random % m->outputs), late = (size_t)(random >> 62);
            fetch(m, o, mu->row);
            for (size_t i = late * m->inputs / 4; i < (late + 1) * m->inputs / 4; i++) {
                mu->row[i] = 0;
            }
            y[r * m->outputs + o] = mutant_dot(mu->row, mu->x + r * wide, wide);
        }
    }
}

static void add_bias(Mutant *mu, const Matrix *m, const Tensor *bias, float *y) {
    float *b = mu->row;
    mutant_decode(0, bias->type, bias->data, b, m->outputs);
    for (size_t r = 0; r < mu->rows; r++) {
        for (size_t o = 0; o < m->outputs; o++) y[r * m->outputs + o] += b[row_of(m, o)];
    }
}

Status mutant_product(Mutant *mu, ComponentRef ref, const Tensor *w, const Tensor *bias,
                      const float *x, float *y) {
    enum { TILE = 16 };
    Matrix m;
    Status st = open_matrix(mu, ref, w, &m);
    if (st) return st;
    round_inputs(mu, &m, x);
    const bool half = faulty(mu, FAULT_SUM, PREC_F16), brain = faulty(mu, FAULT_SUM, PREC_BF16);
    for (size_t o = 0; o < m.outputs; o++) {
        fetch(&m, o, mu->row);
        if (half || brain)
            multiply_in(mu, half ? PREC_F16 : PREC_BF16, &m, o, y);
        else
            multiply(mu, &m, o, y);
    }
    if (faulty(mu, FAULT_RACE, 0)) race(mu, ref, &m, y);
    if (bias) add_bias(mu, &m, bias, y);
    if (faulty(mu, FAULT_TAIL_ZERO, 0) || faulty(mu, FAULT_TAIL_ZERO, (int)ref.c)) {
        const size_t last = (m.outputs - 1) / TILE * TILE;
        for (size_t r = 0; r < mu->rows; r++) {
            memset(y + r * m.outputs + last, 0, (m.outputs - last) * sizeof *y);
        }
    }
    mutant_store(mu, y, mu->rows * m.outputs);
    return OK;
}
