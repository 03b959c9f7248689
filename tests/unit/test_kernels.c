// The kernels of every instruction set that runs here, against the scalar decoder (formats/quants.h)
// and sums in double. Matmul inputs are first rounded by the quantizer that the kernels declare,
// written here a second time from its definition in backend.h, so that what is left is float32
// rounding: |e| <= 8 sqrt(n) u sum |w x|.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>

#include "backend/cpu/panel.h"
#include "backend/cpu/vec.h"
#include "check.h"
#include "../cpu/host_kernels.h"

static const double U = 0x1p-24;  // half a unit in the last place of 1

static const TensorType types[] = {
    TYPE_F32,  TYPE_F16,  TYPE_BF16, TYPE_Q4_0, TYPE_Q4_1, TYPE_Q5_0,   TYPE_Q5_1,   TYPE_Q8_0,
    TYPE_Q2_K, TYPE_Q3_K, TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K, TYPE_IQ4_NL, TYPE_IQ4_XS, TYPE_MXFP4};
enum { N_TYPES = sizeof types / sizeof *types };

// Runs fn for each set that this processor can run, and for those in plain C.
static void each_set(void (*fn)(const Kernels *k)) {
    const Kernels *k;
    for (int i = 0; (k = any_kernels(i)); i++) {
        if (!k->lacks())
            fn(k);
        else
            print_message("%s does not run here: no %s\n", k->isa, k->lacks());
    }
}

static void *aligned_room(size_t bytes) {
    void *p = aligned_alloc(64, bytes / 64 * 64 + 64);
    assert_non_null(p);
    memset(p, 0xff, bytes);
    return p;
}

// --- matmul: weights, activations, the reference -------------------------------------------------

static void put_half(uint8_t *at, float x) {
    uint16_t h = f32_to_f16(x);
    memcpy(at, &h, 2);
}

// Where the half-float scales of a block stand.
static int scale_places(TensorType type, size_t place[2]) {
    place[0] = place[1] = 0;
    switch (type) {
        case TYPE_Q2_K: return place[0] = 80, place[1] = 82, 2;
        case TYPE_Q3_K: return place[0] = 108, 1;
        case TYPE_Q6_K: return place[0] = 208, 1;
        case TYPE_Q4_1:
        case TYPE_Q5_1:
        case TYPE_Q4_K:
        case TYPE_Q5_K: return place[1] = 2, 2;
        default: return 1;
    }
}

// Any codes; sound scales, a few of them zero, negative or subnormal. all_codes >= 0: every code
// byte is that one, for the extremes of the integer sums.
static void random_weights(Rng *r, TensorType type, uint8_t *w, size_t bytes, int all_codes) {
    const TypeInfo *t = type_info(type);
    for (size_t i = 0; i < bytes; i++) {
        w[i] = all_codes >= 0 ? (uint8_t)all_codes : (uint8_t)rng_u64(r);
    }
    for (uint8_t *b = w; b < w + bytes; b += t->block_bytes) {
        size_t place[2];
        float d = (float)(0.001 + 0.01 * rng_unit(r)), m = (float)(0.02 * rng_unit(r));
        if (all_codes < 0 && rng_below(r, 16) == 0) d = -d;
        if (all_codes < 0 && rng_below(r, 32) == 0) d = 3e-6f;
        if (all_codes < 0 && rng_below(r, 64) == 0) d = m = 0;
        if (type == TYPE_F32) {
            d = rng_normal(r);
            memcpy(b, &d, 4);
        } else if (type == TYPE_F16) {
            put_half(b, rng_normal(r));
        } else if (type == TYPE_BF16) {
            uint16_t h = f32_to_bf16(rng_normal(r));
            memcpy(b, &h, 2);
        } else if (type == TYPE_MXFP4) {
            b[0] = (uint8_t)(120 + rng_below(r, 8));
        } else {
            int n = scale_places(type, place);
            put_half(b + place[0], d);
            if (n == 2) put_half(b + place[1], m);
        }
    }
}

// x as the kernels' quantizer leaves it (backend.h: ActQuant).
static void reference_act(ActQuant quant, const float *x, int n, double *out) {
    if (quant != ACT_Q8_0 && quant != ACT_Q8_K) {
        for (int i = 0; i < n; i++) {
            out[i] = quant == ACT_F16    ? (double)f16_to_f32(f32_to_f16(x[i]))
                     : quant == ACT_BF16 ? (double)bf16_to_f32(f32_to_bf16(x[i]))
                                         : (double)x[i];
        }
        return;
    }
    int block = quant == ACT_Q8_0 ? 32 : 256;
    for (int b = 0; b < n; b += block) {
        float most = 0;
        bool finite = true;
        for (int i = b; i < b + block; i++) {
            finite = finite && isfinite(x[i]);
            most = fmaxf(most, fabsf(x[i]));
        }
        float d = most / 127.0f, inverse = 127.0f / most;
        for (int i = b; i < b + block; i++) {
            float scaled = x[i] * inverse;
            out[i] = !finite            ? (double)NAN
                     : most < 0x1p-100f ? 0.0
                                        : (double)nearbyintf(scaled) * (double)d;
        }
    }
}

typedef struct {
    TensorType type;
    const MatmulKernels *m;
    int n, n_act;
    long n_rows;
    size_t row_bytes;
    uint8_t *w;       // at an odd address
    uint8_t *panels;  // or NULL
    float *x;         // n_act x n
    uint8_t *act;     // or NULL: x is read as it is
    float *bias, *residual;
    float *w_float;  // n_rows x n, decoded
    double *x_exact;
    void *scratch, *w_room;
} Case;

static const MatmulKernels *matmul_of(const Kernels *k, TensorType type) {
    return &k->matmul[k->form(type)];
}

static void case_act(const Kernels *k, Case *c) {
    ActQuant quant = k->activation(c->type);
    for (int t = 0; t < c->n_act; t++) {
        const float *x = c->x + (size_t)t * c->n;
        if (c->act) c->m->act_make(quant, x, c->n, t, c->n_act, c->act);
        reference_act(quant, x, c->n, c->x_exact + (size_t)t * c->n);
    }
}

static void case_panels(const Kernels *k, Case *c) {
    if (k->form(c->type) != FORM_PANELS) return;
    const size_t bytes = panel_bytes(c->type, c->n);
    if (!c->panels) c->panels = aligned_room(bytes * (size_t)((c->n_rows + 15) / 16));
    for (long r = 0; r < c->n_rows; r += 16) {
        const long rows = c->n_rows - r < 16 ? c->n_rows - r : 16;
        panel_pack(c->type, c->w + (size_t)r * c->row_bytes, c->row_bytes, (int)rows, c->n,
                   c->panels + (size_t)(r / 16) * bytes);
    }
}

static Case case_new(const Kernels *k, Rng *r, TensorType type, int n, long n_rows, int n_act,
                     int all_codes) {
    Case c = {.type = type, .n = n, .n_act = n_act, .n_rows = n_rows};
    uint64_t bytes;
    assert_true(type_bytes(type, (uint64_t)n, &bytes));
    c.m = matmul_of(k, type);
    c.row_bytes = (size_t)bytes;
    size_t n_x = (size_t)n_act * n, n_y = (size_t)n_act * n_rows;
    c.w_room = room(c.row_bytes * n_rows + 1);
    c.w = (uint8_t *)c.w_room + 1;
    random_weights(r, type, c.w, c.row_bytes * n_rows, all_codes);
    c.w_float = room((size_t)n_rows * n * sizeof(float));
    dequantize(type, c.w, c.w_float, (size_t)n_rows * n);
    case_panels(k, &c);
    const size_t acts = c.m->act_bytes(k->activation(type), n, n_act);
    c.act = acts ? aligned_room(acts) : NULL;
    c.x = room(n_x * sizeof(float));
    c.x_exact = room(n_x * sizeof(double));
    c.bias = room((size_t)n_rows * sizeof(float));
    c.residual = room(n_y * sizeof(float));
    for (size_t i = 0; i < n_x; i++) {
        c.x[i] = all_codes < 0 ? rng_normal(r) : (i / n) % 2 ? -3.0f : 3.0f;
        if (all_codes < 0 && rng_below(r, 50) == 0) c.x[i] *= 30;  // an outlier
        if (all_codes < 0 && rng_below(r, 50) == 0) c.x[i] = 0;
    }
    for (long i = 0; i < n_rows; i++) c.bias[i] = rng_normal(r);
    for (size_t i = 0; i < n_y; i++) c.residual[i] = 3 * rng_normal(r);
    c.scratch = aligned_room(c.m->scratch(n));
    case_act(k, &c);
    return c;
}

static void case_free(Case *c) {
    free(c->w_room);
    free(c->panels);
    free(c->w_float);
    free(c->act);
    free(c->x);
    free(c->x_exact);
    free(c->bias);
    free(c->residual);
    free(c->scratch);
}

static MatmulTask task_of(const Case *c, float *y) {
    return (MatmulTask){.type = c->type,
                        .w = c->panels ? c->panels : c->w,
                        .n = c->n,
                        .n_rows = c->n_rows,
                        .act = c->act ? c->act : (const uint8_t *)c->x,
                        .n_act = c->n_act,
                        .y = y};
}

// The t-th input alone.
static void one_input(const Kernels *k, const Case *c, int t, MatmulTask *m) {
    const ActQuant quant = k->activation(c->type);
    const float *x = c->x + (size_t)t * c->n;
    uint8_t *act = c->act ? aligned_room(c->m->act_bytes(quant, c->n, 1)) : NULL;
    if (act) c->m->act_make(quant, x, c->n, 0, 1, act);
    MatmulTask one = *m;
    one.act = act ? act : (const uint8_t *)x;
    one.n_act = 1;
    one.y += t * c->n_rows;
    c->m->matmul(&one, 0, c->n_rows, c->scratch);
    free(act);
}

static void check_matmul(const Kernels *k, const Case *c, bool bias, bool residual,
                         const float *y) {
    for (int t = 0; t < c->n_act; t++) {
        for (long r = 0; r < c->n_rows; r++) {
            double sum = 0, size = 0, extra = 0;
            for (int i = 0; i < c->n; i++) {
                double p = (double)c->w_float[r * c->n + i] * c->x_exact[(size_t)t * c->n + i];
                sum += p, size += fabs(p);
            }
            long at = t * c->n_rows + r;
            if (bias) sum += (double)c->bias[r], extra += fabs((double)c->bias[r]);
            if (residual) sum += (double)c->residual[at], extra += fabs((double)c->residual[at]);
            double bound = 8 * sqrt(c->n) * U * size + 4 * U * (extra + fabs(sum)) + 1e-37;
            if (!(fabs((double)y[at] - sum) <= bound)) {
                fail_msg("%s %s, n %d, row %ld of %ld, input %d of %d: %.9g, expected %.9g +- %.2g",
                         k->isa, type_info(c->type)->name, c->n, r, c->n_rows, t, c->n_act,
                         (double)y[at], sum, bound);
            }
        }
    }
}

static void check_case(const Kernels *k, Rng *r, TensorType type, int n, long n_rows, int n_act) {
    Case c = case_new(k, r, type, n, n_rows, n_act, -1);
    size_t n_y = (size_t)n_act * n_rows;
    float *y = room(n_y * sizeof *y), *other = room(n_y * sizeof *other);
    MatmulTask m = task_of(&c, y);
    c.m->matmul(&m, 0, n_rows, c.scratch);
    check_matmul(k, &c, false, false, y);
    // In parts, and each input alone: the same bits.
    m.y = other;
    long cut = (long)rng_below(r, (uint64_t)n_rows + 1) / 16 * 16;
    c.m->matmul(&m, cut, n_rows, c.scratch);
    for (size_t i = 0; i < n_y; i++) {  // rows that are another thread's stay untouched
        if ((long)i % n_rows < cut) assert_int_equal(float_bits(other[i]), 0xffffffffu);
    }
    c.m->matmul(&m, 0, cut, c.scratch);
    same_floats("rows in two parts", other, y, n_y);
    memset(other, 0xff, n_y * sizeof *y);
    for (int t = 0; t < n_act; t++) one_input(k, &c, t, &m);
    same_floats("inputs one by one", other, y, n_y);
    // Bias and residual; the residual may be y itself.
    m.y = y, m.bias = c.bias;
    c.m->matmul(&m, 0, n_rows, c.scratch);
    check_matmul(k, &c, true, false, y);
    m.residual = c.residual;
    c.m->matmul(&m, 0, n_rows, c.scratch);
    check_matmul(k, &c, true, true, y);
    memcpy(other, c.residual, n_y * sizeof *y);
    m.residual = m.y = other;
    c.m->matmul(&m, 0, n_rows, c.scratch);
    same_floats("residual in place", other, y, n_y);
    free(y);
    free(other);
    case_free(&c);
}

static void matmul_of_set(const Kernels *k) {
    static const int ns[] = {256, 512, 768, 32, 96, 1, 5, 31, 100}, acts[] = {1, 2, 3, 7, 16, 33};
    static const long rows[] = {1, 9, 16, 17, 48};
    const int step = getenv("PLUMB_SANITIZE") ? 11 : 1;
    Rng r = {31};
    for (int i = 0; i < N_TYPES; i++) {
        for (size_t j = 0; j < sizeof ns / sizeof *ns; j++) {
            if (ns[j] % (int)type_info(types[i])->block_len) continue;
            for (int c = (int)j % step; c < 30; c += step)
                check_case(k, &r, types[i], ns[j], rows[c / 6], acts[c % 6]);
        }
    }
}

static void matmul_of_every_type(void **state) {
    (void)state;
    each_set(matmul_of_set);
}

// All codes at their extremes and all inputs at theirs, in long rows: no integer sum overflows.
static void extremes_of_set(const Kernels *k) {
    static const int codes[] = {0x00, 0xff, 0x7f, 0x80, 0x0f, 0xf0, 0x55};
    Rng r = {32};
    for (int i = 0; i < N_TYPES; i++) {
        for (size_t j = 0; j < sizeof codes / sizeof *codes; j++) {
            Case c = case_new(k, &r, types[i], 8192, 2, 7, codes[j]);
            float y[14];
            MatmulTask m = task_of(&c, y);
            c.m->matmul(&m, 0, 2, c.scratch);
            check_matmul(k, &c, false, false, y);
            case_free(&c);
        }
    }
}

static void extreme_codes(void **state) {
    (void)state;
    each_set(extremes_of_set);
}

// Weights that pick one input each show what the quantizer made of it, to the bit.
static void quantizer_of_set(const Kernels *k) {
    Rng r = {33};
    for (int kind = 0; kind < 2; kind++) {
        TensorType type = kind ? TYPE_Q6_K : TYPE_Q8_0;
        int n = kind ? 256 : 32;
        ActQuant quant = k->activation(type);
        Case c = case_new(k, &r, type, n, n, 1, 0);
        for (int i = 0; i < n; i++) {  // row i: weight 1 at i, 0 elsewhere
            float row[256] = {0};
            uint8_t *w = c.w + (size_t)i * c.row_bytes;
            memset(w, 0, c.row_bytes);
            if (kind) {  // ql, qh, scales, d: code 33 stands for 1, 32 for 0
                put_half(w + 208, 1);
                memset(w + 192, 1, 16);
                memset(w + 128, 0xaa, 64);
                int half = i / 128, j = i % 128;
                w[half * 64 + j % 64] |= (uint8_t)(j < 64 ? 1 : 16);
            } else {
                put_half(w, 1);
                w[2 + i] = 1;
            }
            dequantize(type, w, row, (size_t)n);
            for (int q = 0; q < n; q++) assert_true(row[q] == (q == i ? 1.0f : 0.0f));
        }
        case_panels(k, &c);
        float y[256];
        MatmulTask m = task_of(&c, y);
        for (int round = 0; round < 200; round++) {
            double scale = exp2((double)(int)rng_below(&r, 200) - 100);
            for (int i = 0; i < n; i++) c.x[i] = (float)(scale * (double)rng_normal(&r));
            if (round == 0) {  // ties: 0.5, 1.5, ... of a step of 1
                for (int i = 0; i < n; i++) c.x[i] = (float)(i - n / 2) / 2;
                c.x[0] = 127;
            }
            if (round == 1) memset(c.x, 0, (size_t)n * sizeof(float));
            if (round == 2) c.x[n - 1] = FLT_MAX;
            if (round == 3) c.x[5] = -FLT_MAX;
            if (round >= 4 && round < 8) {  // about the smallest block that counts
                for (int i = 0; i < n; i++) c.x[i] = 0x1p-103f;
                c.x[7] = round == 4 ? 0x1p-100f : round == 5 ? -0x1p-100f : 0x1.fffffep-101f;
                if (round == 7) c.x[7] = 1e-45f;
            }
            case_act(k, &c);
            c.m->matmul(&m, 0, n, c.scratch);
            for (int i = 0; i < n; i++) {
                // q * d in double is exact: the float next to it is what any order of sums gives.
                if (quant != ACT_F32 && y[i] != (float)c.x_exact[i]) {
                    fail_msg("%s %s, round %d: input %d, %.9g, became %.9g, expected %.9g", k->isa,
                             type_info(type)->name, round, i, (double)c.x[i], (double)y[i],
                             c.x_exact[i]);
                }
            }
        }
        // One number that is not finite shows in every result of its block.
        static const float bad[] = {NAN, -NAN, HUGE_VALF, -HUGE_VALF};
        for (size_t b = 0; b < 4; b++) {
            for (int i = 0; i < n; i++) c.x[i] = 1;
            c.x[rng_below(&r, (uint64_t)n)] = bad[b];
            case_act(k, &c);
            c.m->matmul(&m, 0, n, c.scratch);
            for (int i = 0; i < n; i++) assert_true(isnan(y[i]));
        }
        case_free(&c);
    }
}

static void activation_quantizer(void **state) {
    (void)state;
    each_set(quantizer_of_set);
}

// Sets that multiply a type in the same form give the same bits, and so does the plain C of the
// tests; only tiles of bfloat16 have sums of their own.
static void sets_agree(void **state) {
    (void)state;
    // Weights a row, rows, inputs; the last are more than share the unpacking of a block.
    static const int shapes[][3] = {
        {768, 35, 1}, {768, 35, 5}, {768, 35, 150}, {96, 16, 6}, {256, 17, 515}};
    const Kernels *host = host_kernels(0), *k;
    for (int s = 0; (k = any_kernels(s)); s++) {
        if (k->lacks()) continue;
        for (int i = 0; i < N_TYPES * 5; i++) {
            const TensorType type = types[i / 5];
            const int *shape = shapes[i % 5], n = shape[0], rows = shape[1], n_act = shape[2];
            if (k->form(type) != host->form(type) || k->form(type) == FORM_ROWS) continue;
            if (n % (int)type_info(type)->block_len) continue;
            static float y[2][17 * 515];
            for (int which = 0; which < 2; which++) {
                const Kernels *one = which ? host : k;
                Rng r = {34};
                Case c = case_new(one, &r, type, n, rows, n_act, -1);
                MatmulTask m = task_of(&c, y[which]);
                c.m->matmul(&m, 0, rows, c.scratch);
                case_free(&c);
            }
            same_floats(type_info(type)->name, y[0], y[1], (size_t)rows * n_act);
        }
    }
}

// --- the small operations ------------------------------------------------------------------------

static void rmsnorm_of_set(const Kernels *k) {
    static const int ns[] = {1, 2, 3, 7, 8, 9, 31, 64, 100, 300, 2048, 16384};
    static const float scales[] = {1, 1e-3f, 1e-10f, 3e4f, 1e15f, 0};
    Rng r = {41};
    for (size_t j = 0; j < sizeof ns / sizeof *ns; j++) {
        for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
            int n = ns[j];
            float *x = room((size_t)n * 4), *w = room((size_t)n * 4), *y = room((size_t)n * 4);
            double sum = 0;
            for (int i = 0; i < n; i++) {
                x[i] = scales[s] * rng_normal(&r), w[i] = rng_normal(&r);
                sum += (double)x[i] * x[i];
            }
            float eps = s % 2 ? 1e-5f : 1e-6f;
            double root = sqrt(sum / n + (double)eps), bound = sqrt(n) * U / 2 + 4 * U;
            k->rmsnorm(x, w, eps, n, y);
            for (int i = 0; i < n; i++) {
                double want = (double)x[i] / root * (double)w[i];
                if (!(fabs((double)y[i] - want) <= bound * fabs(want) + 1e-44)) {
                    fail_msg("%s: rmsnorm %d of %d, scale %g: %.9g, expected %.9g", k->isa, i, n,
                             (double)scales[s], (double)y[i], want);
                }
            }
            k->rmsnorm(x, w, eps, n, x);
            same_floats("rmsnorm in place", x, y, (size_t)n);
            free(x);
            free(w);
            free(y);
        }
    }
    // The record of origin: 1 2 3 4 with weights of 1.
    float x[4] = {1, 2, 3, 4}, w[4] = {1, 1, 1, 1};
    k->rmsnorm(x, w, 1e-5f, 4, x);
    assert_true(fabs((double)x[0] - 0.3651) < 1e-4 && fabs((double)x[3] - 1.4606) < 1e-4);
}

static void rmsnorm_in_double(void **state) {
    (void)state;
    each_set(rmsnorm_of_set);
}

static void swiglu_of_set(const Kernels *k) {
    Rng r = {42};
    for (long n = 0; n < 300; n = n < 40 ? n + 1 : n + 61) {
        float *gate = room((size_t)n * 4), *up = room((size_t)n * 4), *y = room((size_t)n * 4);
        for (long i = 0; i < n; i++) {
            gate[i] = rng_normal(&r) * (i % 5 == 0 ? 60.0f : i % 5 == 1 ? 1e-4f : 3.0f);
            up[i] = rng_normal(&r) * 4;
        }
        k->swiglu(gate, up, n, y);
        for (long i = 0; i < n; i++) {
            double g = (double)gate[i], want = g / (1 + exp(-g)) * (double)up[i];
            double bound = 8 * U * fabs(want) + 1e-34 * fabs((double)up[i]);
            if (!(fabs((double)y[i] - want) <= bound)) {
                fail_msg("%s: silu(%g) * %g is %.9g, expected %.9g", k->isa, g, (double)up[i],
                         (double)y[i], want);
            }
        }
        k->swiglu(gate, up, n, gate);
        same_floats("swiglu in place", gate, y, (size_t)n);
        free(gate);
        free(up);
        free(y);
    }
    float gate[9] = {1, -1, 0, 1e30f, -1e30f, NAN, 1, 100, -100};
    float up[9] = {1, 1, 5, 1, 1, 1, NAN, 2, 2}, y[9];
    k->swiglu(gate, up, 9, y);
    assert_true(fabs((double)y[0] - 0.7310585786) < 1e-7);  // SiLU; GELU would be 0.841
    assert_true(fabs((double)y[1] + 0.2689414214) < 1e-7);
    assert_true(y[2] == 0 && y[3] == 1e30f && isnan(y[5]) && isnan(y[6]) && y[7] == 200);
    assert_true(fabs((double)y[8]) < 1e-34);
}

static void swiglu_in_double(void **state) {
    (void)state;
    each_set(swiglu_of_set);
}

// --- the cache -----------------------------------------------------------------------------------

static const TensorType kv_types[] = {TYPE_F32, TYPE_F16, TYPE_Q8_0};

static size_t kv_row_bytes(TensorType type, int n) {
    uint64_t bytes;
    assert_true(type_bytes(type, (uint64_t)n, &bytes));
    return (size_t)bytes;
}

static void kv_of_set(const Kernels *k) {
    Rng r = {51};
    for (int t = 0; t < 3; t++) {
        TensorType type = kv_types[t];
        for (int n = type == TYPE_Q8_0 ? 32 : 1; n <= 160; n += type == TYPE_Q8_0 ? 32 : 1) {
            size_t bytes = kv_row_bytes(type, n);
            float *x = room((size_t)n * 4), *back = room((size_t)n * 4),
                  *want = room((size_t)n * 4);
            uint8_t *row = room(bytes);
            for (int round = 0; round < 20; round++) {
                double scale = exp2((double)(int)rng_below(&r, 24) - 16);
                for (int i = 0; i < n; i++) x[i] = (float)scale * rng_normal(&r);
                if (round == 0) memset(x, 0, (size_t)n * 4);
                k->kv_write(type, x, n, row);
                k->kv_read(type, row, n, back);
                dequantize(type, row, want, (size_t)n);  // stored as the tensor type is
                same_floats("kv_read", back, want, (size_t)n);
                for (int i = 0; i < n; i++) {
                    float most = 0;
                    for (int j = i / 32 * 32; j < n && j < i / 32 * 32 + 32; j++) {
                        most = fmaxf(most, fabsf(x[j]));
                    }
                    // Half a step, and the step's own rounding to a half (subnormal below 2^-14).
                    double d = (double)most / 127;
                    double bound =
                        type == TYPE_Q8_0 ? 0.5001 * d + 127 * (d * 0x1p-11 + 0x1p-25) : 0;
                    double exact =
                        type == TYPE_F16 ? (double)f16_to_f32(f32_to_f16(x[i])) : (double)x[i];
                    if (!(fabs((double)back[i] - exact) <= bound)) {
                        fail_msg("%s: %s cache, %.9g came back as %.9g", k->isa,
                                 type_info(type)->name, exact, (double)back[i]);
                    }
                }
            }
            free(x);
            free(back);
            free(want);
            free(row);
        }
    }
}

static void cache_rows(void **state) {
    (void)state;
    each_set(kv_of_set);
}

// --- vectors -------------------------------------------------------------------------------------

static void every_half(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h += 8) {
        uint16_t in[8];
        float out[8];
        for (uint32_t i = 0; i < 8; i++) in[i] = (uint16_t)(h + i);
        f16x8_to_f32(in, out);
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t mantissa = in[i] & 1023, exponent = in[i] >> 10 & 31, sign = in[i] >> 15;
            double want = exponent == 0   ? ldexp(mantissa, -24)
                          : exponent < 31 ? ldexp(1024 + mantissa, (int)exponent - 25)
                          : mantissa      ? (double)NAN
                                          : HUGE_VAL;
            if (isnan(want)) {
                assert_true(isnan(out[i]));
            } else {
                assert_int_equal(float_bits(out[i]), float_bits((float)(sign ? -want : want)));
            }
        }
    }
}

static void dots_of_floats(void **state) {
    (void)state;
    Rng r = {81};
    for (long n = 0; n <= 130; n++) {
        float *a = room((size_t)n * 4), *b = room((size_t)n * 4);
        double sum = 0, size = 0;
        for (long i = 0; i < n; i++) {
            a[i] = rng_normal(&r), b[i] = rng_normal(&r);
            sum += (double)a[i] * b[i], size += fabs((double)a[i] * b[i]);
        }
        assert_true(fabs((double)dot_f32(a, b, n) - sum) <= 8 * sqrt((double)n) * U * size);
        free(a);
        free(b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matmul_of_every_type), cmocka_unit_test(extreme_codes),
        cmocka_unit_test(activation_quantizer), cmocka_unit_test(sets_agree),
        cmocka_unit_test(rmsnorm_in_double),    cmocka_unit_test(swiglu_in_double),
        cmocka_unit_test(cache_rows),           cmocka_unit_test(every_half),
        cmocka_unit_test(dots_of_floats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
