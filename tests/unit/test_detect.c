// What a trace does not say is found out: each known way of rounding from runs of our own backend,
// and from arrays that were computed in float32 under that way; precisions; the pairing of q and k.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "check.h"
#include "verify/capture.h"
#include "verify/compare.h"
#include "verify/detect.h"

static const Notice quiet;
static const char demo_f16[] = "tests/golden/models/demo-f16.gguf";
static const char demo_q8_0[] = "tests/golden/models/demo-Q8_0.gguf";
static const char demo_q4_k_m[] = "models/demo.gguf";

typedef struct {
    Gguf *gguf;
    Model *model;
    Oracle *oracle;
    TracePrompt prompt;  // captured, its arrays may be written to
    size_t n_captured;
    Trace trace;  // of that prompt alone
} Run;

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

static void open_model(const char *path, Run *r) {
    Error err = {0};
    *r = (Run){0};
    must(gguf_open(path, &r->gguf, &err), &err);
    must(model_bind(r->gguf, quiet, &r->model, &err), &err);
    must(oracle_new(r->model, 2, &r->oracle, &err), &err);
}

// n tokens of the demo model through our own backend.
static Run run_model(const char *path, size_t n, TensorType kv, ComponentSet which) {
    Run r;
    Error err = {0};
    int32_t ids[64];
    DeviceModel *device;
    Session *session;
    const BackendConfig config = {.n_threads = 2};
    const SessionConfig s = {
        .n_ctx = 64, .n_seqs = 1, .batch_size = 64, .type_k = kv, .type_v = kv};
    open_model(path, &r);
    ids[0] = 1;
    for (size_t i = 1; i < n; i++) ids[i] = (int32_t)(300 + i * 37 % 200);
    must(device_model_open(r.model, backend_by_name("cpu"), &config, &device, &err), &err);
    must(session_new(device, &s, quiet, &session, &err), &err);
    must(capture_prompt(session, device, ids, n, which, &r.prompt, &err), &err);
    r.n_captured = r.prompt.n_arrays;
    session_free(session);
    device_model_close(device);
    return r;
}

static void close_run(Run *r) {
    r->prompt.n_arrays = r->n_captured;
    capture_free(&r->prompt);
    oracle_free(r->oracle);
    model_free(r->model);
    gguf_close(r->gguf);
}

static Rounding detect(Run *r, char text[200]) {
    Rounding out;
    Error err = {0};
    r->trace.prompts = &r->prompt, r->trace.n_prompts = 1;
    rounding_of_trace(&r->trace, &out);
    must(detect_rounding(r->oracle, r->model, &r->trace, &out, text, &err), &err);
    assert_true(strlen(text) < 200);
    return out;
}

static float *values(Run *r, Component c, int layer) {
    const TraceArray *a = trace_find(&r->prompt, c, layer);
    assert_non_null(a);
    return (float *)(uintptr_t)a->x;  // the test's own memory
}

// What is dropped stays behind the others, to be freed with them.
static void drop(Run *r, Component c) {
    TracePrompt *p = &r->prompt;
    size_t kept = 0;
    for (size_t i = 0; i < p->n_arrays; i++) {
        const TraceArray a = p->arrays[i];
        if (a.ref.c == c) continue;
        memmove(&p->arrays[kept + 1], &p->arrays[kept], (i - kept) * sizeof a);
        p->arrays[kept++] = a;
    }
    p->n_arrays = kept;
}

static const ActScheme *scheme(const char *name) {
    for (int i = 0; act_scheme_at(i); i++) {
        if (strcmp(act_scheme_at(i)->name, name) == 0) return act_scheme_at(i);
    }
    fail_msg("no scheme is called \"%s\"", name);
    return NULL;
}

static bool uses(const Model *m, TensorType type) {
    bool used = m->output->type == type;
    for (int l = 0; l < m->h.n_layers; l++) {
        const LayerWeights *w = &m->layers[l];
        used |= w->q->type == type || w->v->type == type || w->ffn_down->type == type;
    }
    return used;
}

// Ways that differ by less than a rounding of float32: which of two is found says nothing.
static ActWay same_way(ActWay w) {
    return w == WAY_Q8_K_SIGNED ? WAY_Q8_K : w == WAY_Q8_1 || w == WAY_Q8_1_SUM ? WAY_Q8_0_HALF : w;
}

static void must_use(const Run *r, const Rounding *found, const ActScheme *want, const char *text) {
    for (int t = 0; t < TYPE_LIMIT; t++) {
        if (!type_info((uint32_t)t) || !uses(r->model, (TensorType)t)) continue;
        if (same_way(found->act.way[t]) == same_way(want->way[t])) continue;
        fail_msg("%s: expected %s, found %s: %s", type_info((uint32_t)t)->name,
                 act_way_name(want->way[t]), act_way_name(found->act.way[t]), text);
    }
}

static void must_fit_all(const char *text) {
    size_t fits = 0, of = 1;
    assert_non_null(strstr(text, "(fits"));
    assert_int_equal(sscanf(strstr(text, "(fits"), "(fits %zu of %zu", &fits, &of), 2);
    if (fits != of) fail_msg("%s", text);
}

// --- our own backend --------------------------------------------------------------------------

static void test_own_backend(void **state) {
    (void)state;
    const struct {
        const char *path, *act, *attn;
        TensorType kv;
    } cases[] = {{demo_f16, "activations none (fits", "attention f32 (fits", TYPE_F32},
                 {demo_q8_0, "as Plumb's cpu (fits", "attention f16 cache (fits", TYPE_F16},
                 {demo_q4_k_m, NULL, "attention q8_0 cache (fits", TYPE_Q8_0}};
    for (size_t i = 0; i < 3; i++) {
        char text[200];
        for (int cache = 0; cache < 2; cache++) {
            Run r = run_model(cases[i].path, 20, cases[i].kv, CAPTURE_ALL);
            if (!cache) drop(&r, COMP_K_CACHE), drop(&r, COMP_V_CACHE);
            const double start = clock_seconds();
            const Rounding found = detect(&r, text);
            print_message("%s: %s (%.2f s)\n", cases[i].path, text, clock_seconds() - start);
            assert_false(found.act_declared || found.attn_declared);
            // q8_k is the same in both.
            if (i < 2) assert_non_null(strstr(text, cases[i].act));
            if (i > 0) must_use(&r, &found, scheme("as Plumb's cpu"), text);
            assert_non_null(strstr(text, cases[i].attn));
            must_fit_all(text);
            for (int c = COMP_ATTN_NORM; c < N_COMPONENTS; c++) {
                if (c == COMP_K_CACHE || c == COMP_V_CACHE) continue;
                assert_int_equal(found.out[c], PREC_F32);
            }
            close_run(&r);
        }
    }
}

// Taken from q, k and v alone where a trace has no more of attention.
static void test_attention_from_unrotated(void **state) {
    (void)state;
    char text[200];
    Run r = run_model(demo_q8_0, 20, TYPE_F16, CAPTURE_ALL & ~CAPTURE_SCORES);
    drop(&r, COMP_K_CACHE), drop(&r, COMP_V_CACHE), drop(&r, COMP_Q_ROPE), drop(&r, COMP_K_ROPE);
    const Rounding found = detect(&r, text);
    if (strcmp(found.attn.name, "f16 cache") != 0) fail_msg("%s", text);
    close_run(&r);
}

// --- other engines ----------------------------------------------------------------------------

// y = W x + bias in float32, x rounded under the way; into the captured array.
static void multiply(Run *r, Component c, Component in, int layer, const Tensor *w,
                     const Tensor *bias, ActWay way) {
    const size_t inputs = w->dims[0], outputs = w->dims[1], rows = r->prompt.n_tokens;
    const float *x = values(r, in, layer);
    float *y = values(r, c, layer), *row = room(inputs * sizeof *row);
    float *b = room(outputs * sizeof *b);
    double *rounded = room(rows * inputs * sizeof *rounded);
    for (size_t i = 0; i < rows * inputs; i++) rounded[i] = x[i];
    act_round(way, rounded, NULL, rows, inputs, rounded, NULL, NULL);
    if (bias) dequantize(bias->type, bias->data, b, outputs);
    for (size_t o = 0; o < outputs; o++) {
        oracle_tensor_row((void *)(uintptr_t)w, o, row);
        for (size_t t = 0; t < rows; t++) {
            float sum[4] = {0};
            for (size_t i = 0; i < inputs; i++) {
                sum[i % 4] += row[i] * (float)rounded[t * inputs + i];
            }
            y[t * outputs + o] = (sum[0] + sum[1]) + (sum[2] + sum[3]) + (bias ? b[o] : 0);
        }
    }
    free(row), free(b), free(rounded);
}

static void multiply_all(Run *r, const ActScheme *s) {
    const Model *m = r->model;
    for (int l = 0; l < m->h.n_layers; l++) {
        const LayerWeights *w = &m->layers[l];
        multiply(r, COMP_Q, COMP_ATTN_NORM, l, w->q, w->q_bias, s->way[w->q->type]);
        multiply(r, COMP_K, COMP_ATTN_NORM, l, w->k, w->k_bias, s->way[w->k->type]);
        multiply(r, COMP_V, COMP_ATTN_NORM, l, w->v, w->v_bias, s->way[w->v->type]);
        multiply(r, COMP_ATTN_OUT, COMP_ATTN, l, w->attn_out, NULL, s->way[w->attn_out->type]);
        multiply(r, COMP_FFN_GATE, COMP_FFN_NORM, l, w->ffn_gate, NULL, s->way[w->ffn_gate->type]);
        multiply(r, COMP_FFN_UP, COMP_FFN_NORM, l, w->ffn_up, NULL, s->way[w->ffn_up->type]);
        multiply(r, COMP_FFN_OUT, COMP_FFN_ACT, l, w->ffn_down, NULL, s->way[w->ffn_down->type]);
    }
    multiply(r, COMP_LOGITS, COMP_NORM, -1, m->output, NULL, s->way[m->output->type]);
}

static void test_every_scheme(void **state) {
    (void)state;
    static const char *const paths[] = {demo_f16, demo_q8_0, demo_q4_k_m};
    for (size_t k = 0; k < 3; k++) {
        Run r = run_model(paths[k], 9, TYPE_F32, CAPTURE_ALL & ~CAPTURE_SCORES);
        for (int i = 0; act_scheme_at(i); i++) {
            char text[200];
            multiply_all(&r, act_scheme_at(i));
            const Rounding found = detect(&r, text);
            must_use(&r, &found, act_scheme_at(i), text);
            must_fit_all(text);
        }
        close_run(&r);
    }
}

// One scale for a whole prompt is known from any of its rows.
static void test_rows_of_a_tensor(void **state) {
    (void)state;
    Run r = run_model(demo_q8_0, 9, TYPE_F32, 1u << COMP_ATTN_NORM | 1u << COMP_Q);
    const LayerWeights *w = &r.model->layers[0];
    Rounding tensor = {.act = *scheme("q8 per tensor")};
    multiply(&r, COMP_Q, COMP_ATTN_NORM, 0, w->q, w->q_bias, WAY_Q8_TENSOR);
    int32_t pos[9];
    Site s = {.oracle = r.oracle, .model = r.model, .rounding = &tensor, .pos = pos, .n = 9};
    s.tokens = r.prompt.tokens, s.w = w;
    s.at[COMP_ATTN_NORM].width = w->q->dims[0];
    s.at[COMP_ATTN_NORM].seen = trace_find(&r.prompt, COMP_ATTN_NORM, 0);
    for (size_t row = 0; row < 9; row++) {
        Expected e;
        Error err = {0};
        Cell cell;
        must(expect(&s, COMP_Q, &row, 1, &e, &err), &err);
        compare_cells(&e, values(&r, COMP_Q, 0) + row * e.width, COMP_Q, e.width, PREC_F32, &cell);
        if (!(cell.ratio < 0.5)) fail_msg("row %zu: %g", row, cell.ratio);
        expected_free(&e);
    }
    close_run(&r);
}

// An engine that is on no list: each type of weights has a way of its own.
static void test_no_scheme(void **state) {
    (void)state;
    char text[200];
    ActScheme odd = *act_scheme_at(0);
    odd.way[TYPE_Q6_K] = WAY_F16, odd.way[TYPE_Q4_K] = WAY_Q8_0;
    Run r = run_model(demo_q4_k_m, 9, TYPE_F32, CAPTURE_ALL & ~CAPTURE_SCORES);
    multiply_all(&r, &odd);
    const Rounding found = detect(&r, text);
    must_use(&r, &found, &odd, text);
    assert_string_equal(found.act.name, "one way for each type of weights");
    close_run(&r);
}

// What is wrong under every way does not vote; when all is, nothing is said to fit.
static void test_faults_do_not_vote(void **state) {
    (void)state;
    char text[200];
    Rng rng = {5};
    Run r = run_model(demo_q4_k_m, 9, TYPE_F32, CAPTURE_ALL & ~CAPTURE_SCORES);
    const ActScheme *want = scheme("as llama.cpp's CPU");
    const Component faulty[] = {COMP_Q, COMP_ATTN_OUT, COMP_FFN_GATE, COMP_FFN_OUT,
                                COMP_K, COMP_V,        COMP_FFN_UP,   COMP_LOGITS};
    multiply_all(&r, want);
    for (int k = 0; k < 8; k++) {
        for (size_t i = 0; i < r.prompt.n_arrays; i++) {
            const TraceArray *a = &r.prompt.arrays[i];
            if (a->ref.c != faulty[k]) continue;
            float *x = values(&r, a->ref.c, a->ref.layer);
            for (size_t at = 0; at < a->rows * a->width; at++) x[at] = rng_normal(&rng);
        }
        const Rounding found = detect(&r, text);
        // While a type of weights has a right product left, its way is known.
        if (k < 4) must_use(&r, &found, want, text);
        if (k == 7) assert_string_equal(found.act.name, "none");
        if (k == 7) assert_non_null(strstr(text, "no known way fits any of"));
    }
    close_run(&r);
}

static void test_nothing_captured(void **state) {
    (void)state;
    char text[200];
    Run r = run_model(demo_f16, 1, TYPE_F32, 1u << COMP_Q | 1u << COMP_LOGITS);
    const Rounding found = detect(&r, text);
    assert_string_equal(found.act.name, "none");
    assert_string_equal(found.attn.name, "f32");
    assert_non_null(strstr(text, "(as "));  // by what lies between the embedding and q
    size_t n = r.prompt.n_arrays;
    r.prompt.n_arrays = 0;
    (void)detect(&r, text);
    r.prompt.n_arrays = n;
    close_run(&r);
}

static void test_declared_is_kept(void **state) {
    (void)state;
    char text[200];
    Run r = run_model(demo_q8_0, 9, TYPE_F32, CAPTURE_ALL);
    r.trace.says_activation = true;  // and is wrong
    r.trace.activation[TYPE_Q8_0] = ACT_Q8_K;
    r.trace.kv_type_k = r.trace.kv_type_v = "F16";
    const Rounding found = detect(&r, text);
    assert_int_equal(found.act.way[TYPE_Q8_0], WAY_Q8_K);
    assert_int_equal(found.attn.k, TYPE_F16);
    assert_non_null(strstr(text, "as the trace says"));
    close_run(&r);
}

// y of one row of weights as llama.cpp has it: codes times codes, and minimums times the sum of
// each block as f16, on a CPU that of the codes (Q4_1 and Q5_1), on CUDA with few tokens that of x.
static float dot_q8_1(TensorType type, bool cuda, const uint8_t *w, const float *x, size_t n) {
    const TypeInfo *info = type_info(type);
    const bool has_min = type == TYPE_Q4_1 || type == TYPE_Q5_1;
    float y = 0, decoded[32];
    for (size_t b = 0; b < n / 32; b++, w += info->block_bytes, x += 32) {
        float most = 0, plain = 0, codes = 0, dot = 0;
        for (int i = 0; i < 32; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        const float d = most / 127, dw = f16_to_f32(load_u16(w)), d8 = f16_to_f32(f32_to_f16(d));
        const float m = has_min             ? f16_to_f32(load_u16(w + 2))
                        : type == TYPE_Q4_0 ? -8 * dw
                                            : -16 * dw;
        dequantize(type, w, decoded, 32);
        for (int i = 0; i < 32; i++) {
            const float k = roundf(x[i] / d), q = rintf((decoded[i] - m) / dw);
            plain += x[i], codes += k, dot += q * k;
        }
        const float s = f16_to_f32(f32_to_f16(cuda ? plain : codes * d));
        y += cuda || has_min ? dw * d8 * dot + m * s : dw * d8 * (dot + m / dw * codes);
    }
    return y;
}

static double worst_of(Run *r, const Tensor *w, ActWay way, bool sums, const double *x,
                       const float *got, size_t rows) {
    const size_t outputs = w->dims[1];
    const Rounding none = {.act = *act_scheme_at(0)};
    const Site site = {.oracle = r->oracle, .model = r->model, .rounding = &none};
    const Weights weights = weights_of(w, NULL);
    Expected e;
    Error err = {0};
    Cell *cells = room(rows * sizeof *cells);
    must(expected_new(rows, outputs, &e, &err), &err);
    must(expect_matmul(&site, &weights, way, x, NULL, rows, PREC_F32, &e, &err), &err);
    if (sums) must(expect_sums(w, 1, way, x, NULL, rows, &e, &err), &err);
    compare_cells(&e, got, COMP_Q, outputs, PREC_F32, cells);
    const double worst = compare_worst(cells, rows).ratio;
    expected_free(&e);
    free(cells);
    return worst;
}

static void test_sums_of_blocks(void **state) {
    (void)state;
    enum { INPUTS = 512, OUTPUTS = 64, ROWS = 6 };
    static const TensorType types[] = {TYPE_Q4_0, TYPE_Q4_1, TYPE_Q5_0, TYPE_Q5_1};
    Rng rng = {11};
    Run r;
    open_model("tests/golden/arch/llama-1.gguf", &r);
    float *weights = room(INPUTS * OUTPUTS * sizeof *weights);
    for (int k = 0; k < INPUTS * OUTPUTS; k++) weights[k] = 0.3f + rng_normal(&rng);
    for (int k = 0; k < 8; k++) {
        const TensorType type = types[k / 2];
        const bool cuda = k % 2, has_min = type == TYPE_Q4_1 || type == TYPE_Q5_1;
        Tensor w = {.name = "w", .type = type, .n_dims = 2, .dims = {INPUTS, OUTPUTS, 1, 1}};
        assert_true(type_bytes(type, INPUTS * OUTPUTS, &w.bytes));
        uint8_t *data = room(w.bytes);
        float x[ROWS * INPUTS], got[ROWS * OUTPUTS];
        double in[ROWS * INPUTS];
        quantize(type, weights, data, INPUTS * OUTPUTS);
        w.data = data;
        for (int i = 0; i < ROWS * INPUTS; i++) in[i] = x[i] = 0.2f + rng_normal(&rng);
        for (int t = 0; t < ROWS; t++) {
            for (int o = 0; o < OUTPUTS; o++) {
                const uint8_t *row = data + (size_t)o * w.bytes / OUTPUTS;
                got[t * OUTPUTS + o] = dot_q8_1(type, cuda, row, x + t * INPUTS, INPUTS);
            }
        }
        const ActWay way = cuda ? WAY_Q8_1_SUM : has_min ? WAY_Q8_1 : WAY_Q8_0_HALF;
        const double with = worst_of(&r, &w, way, true, in, got, ROWS);
        const double without = worst_of(&r, &w, way, false, in, got, ROWS);
        if (!(with < 0.5)) fail_msg("%s, cuda %d: %g", type_info(type)->name, cuda, with);
        if (cuda || has_min) assert_true(without > 3);
        free(data);
    }
    free(weights);
    close_run(&r);
}

// --- attention of other engines ---------------------------------------------------------------

static float rounded_sum(float sum, float x, Precision acc) {
    const float s = sum + x;
    return acc == PREC_F16 ? f16_to_f32(f32_to_f16(s)) : s;
}

static void round_rows(ActWay way, size_t turn, const float *x, size_t rows, size_t n,
                       double *out) {
    for (size_t i = 0; i < rows * n; i++) out[i] = x[i];
    act_turn(out, NULL, rows * n, turn);
    act_round(way, out, NULL, rows, n, out, NULL, NULL);
}

// attn of every layer in float32 as the scheme has it.
static void attend_all(Run *r, const AttnScheme *s) {
    const Hparams *h = &r->model->h;
    const size_t d = (size_t)h->head_dim, n = r->prompt.n_tokens, heads = (size_t)h->n_heads,
                 kv = (size_t)h->n_kv_heads;
    double *q = room(n * heads * d * sizeof *q), *k = room(n * kv * d * sizeof *k),
           *v = room(n * kv * d * sizeof *v);
    const size_t turn_k = s->turn_k ? turn_block_k(d) : 0;
    const size_t turn_v = s->turn_v ? turn_block_v(d) : 0;
    float p[64];
    double pr[64];
    for (int l = 0; l < h->n_layers; l++) {
        round_rows(s->q, turn_k, values(r, COMP_Q_ROPE, l), n * heads, d, q);
        round_rows(attn_cache_way(s, s->k), turn_k, values(r, COMP_K_ROPE, l), n, kv * d, k);
        round_rows(attn_cache_way(s, s->v), turn_v, values(r, COMP_V, l), n, kv * d, v);
        float *y = values(r, COMP_ATTN, l);
        for (size_t at = 0; at < n * heads; at++) {
            const size_t t = at / heads, g = at % heads / (heads / kv);
            float most = -INFINITY, total = 0;
            for (size_t j = 0; j <= t; j++) {
                float sum = 0;
                for (size_t i = 0; i < d; i++) {
                    sum = rounded_sum(sum, (float)q[at * d + i] * (float)k[(j * kv + g) * d + i],
                                      PREC_F32);
                }
                p[j] = sum / sqrtf((float)d);
                most = p[j] > most ? p[j] : most;
            }
            for (size_t j = 0; j <= t; j++) total += p[j] = expf(p[j] - most);
            for (size_t j = 0; j <= t; j++) p[j] /= total;
            round_rows(s->p, 0, p, 1, t + 1, pr);
            for (size_t i = 0; i < d; i++) {
                float sum = 0;
                for (size_t j = 0; j <= t; j++) {
                    sum = rounded_sum(sum, (float)pr[j] * (float)v[(j * kv + g) * d + i], s->acc);
                }
                y[at * d + i] = sum;
            }
        }
    }
    free(q), free(k), free(v);
}

static void test_every_attention(void **state) {
    (void)state;
    Run r = run_model(demo_q8_0, 40, TYPE_F32, CAPTURE_ALL & ~CAPTURE_SCORES);
    drop(&r, COMP_K_CACHE), drop(&r, COMP_V_CACHE);
    for (int i = 0; attn_scheme_at(i); i++) {
        const AttnScheme *s = attn_scheme_at(i);
        char text[200];
        attend_all(&r, s);
        const Rounding found = detect(&r, text);
        // Sums in f16 hide how their factors are rounded.
        const bool same =
            s->acc == PREC_F16 ? found.attn.acc == PREC_F16 : strcmp(found.attn.name, s->name) == 0;
        if (!same) fail_msg("expected %s, found %s", s->name, text);
    }
    close_run(&r);
}

// --- precision --------------------------------------------------------------------------------

static void round_arrays(Run *r, Component c, int layer, Precision p) {  // layer -2: every
    for (size_t i = 0; i < r->prompt.n_arrays; i++) {
        const TraceArray *a = &r->prompt.arrays[i];
        if (a->ref.c != c || (layer != -2 && a->ref.layer != layer)) continue;
        float *x = values(r, c, a->ref.layer);
        for (size_t k = 0; k < a->rows * a->width; k++) {
            x[k] = p == PREC_F16 ? f16_to_f32(f32_to_f16(x[k])) : bf16_to_f32(f32_to_bf16(x[k]));
        }
    }
}

static void test_precisions(void **state) {
    (void)state;
    char text[200];
    Run r = run_model(demo_f16, 12, TYPE_F32, CAPTURE_ALL & ~CAPTURE_SCORES);
    round_arrays(&r, COMP_FFN_ACT, 3, PREC_BF16);  // one of six
    round_arrays(&r, COMP_LOGITS, -1, PREC_F16);   // the only one of its kind
    round_arrays(&r, COMP_ATTN, -2, PREC_F16);
    Rounding found = detect(&r, text);
    assert_int_equal(found.out[COMP_FFN_ACT], PREC_F32);
    assert_int_equal(found.out[COMP_ATTN], PREC_F16);
    assert_int_equal(found.out[COMP_Q], PREC_F32);
    assert_int_equal(found.out[COMP_LOGITS], PREC_F16);  // others are as coarse
    close_run(&r);
    r = run_model(demo_f16, 12, TYPE_F32, CAPTURE_ALL & ~CAPTURE_SCORES);
    round_arrays(&r, COMP_LOGITS, -1, PREC_F16);
    found = detect(&r, text);
    assert_int_equal(found.out[COMP_LOGITS], PREC_F32);
    for (int c = 0; c < N_COMPONENTS; c++) round_arrays(&r, (Component)c, -2, PREC_BF16);
    found = detect(&r, text);
    for (int c = COMP_ATTN_NORM; c < COMP_PROBS; c++) {
        const int layer = component_in_layer((Component)c) ? 0 : -1;
        if (!trace_find(&r.prompt, (Component)c, layer)) continue;
        assert_int_equal(found.out[c], PREC_BF16);
    }
    close_run(&r);
    // One array in the whole trace: what it shows is believed.
    r = run_model(demo_f16, 12, TYPE_F32, 1u << COMP_LOGITS);
    round_arrays(&r, COMP_LOGITS, -1, PREC_F16);
    found = detect(&r, text);
    assert_int_equal(found.out[COMP_LOGITS], PREC_F16);
    close_run(&r);
}

// --- outsiders --------------------------------------------------------------------------------

static Trace *open_trace(const char *path, const Model *m, QkLayout qk) {
    Trace *t;
    Error err = {0};
    const Hparams *h = &m->h;
    const TraceShape shape = {.qk = qk,
                              .norm_pairing = h->rope_pairing == ROPE_NORM,
                              .n_heads = h->n_heads,
                              .n_kv_heads = h->n_kv_heads,
                              .head_dim = h->head_dim};
    must(trace_open(path, &shape, quiet, &t, &err), &err);
    return t;
}

static bool is_hf(const Run *r, const Trace *t) {
    bool hf = true;
    Error err = {0};
    must(detect_hf_pairing(r->oracle, r->model, t, &hf, &err), &err);
    return hf;
}

static void test_golden(void **state) {
    (void)state;
    static const char *const names[][2] = {
        {"tests/golden/models/demo-f16.gguf", "tests/golden/demo-golden.gguf"},
        {"tests/golden/arch/llama-1.gguf", "tests/golden/arch/llama-1-golden.gguf"},
        {"tests/golden/arch/llama3-1.gguf", "tests/golden/arch/llama3-1-golden.gguf"},
        {"tests/golden/arch/qwen2-1.gguf", "tests/golden/arch/qwen2-1-golden.gguf"},
        {"tests/golden/arch/qwen3-1.gguf", "tests/golden/arch/qwen3-1-golden.gguf"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Run r;
        Rounding found;
        Error err = {0};
        char text[200];
        open_model(names[i][0], &r);
        Trace *t = open_trace(names[i][1], r.model, QK_GGUF);
        rounding_of_trace(t, &found);
        found.act_declared = found.attn_declared = false;
        const double start = clock_seconds();
        must(detect_rounding(r.oracle, r.model, t, &found, text, &err), &err);
        print_message("%s: %s (%.2f s)\n", names[i][1], text, clock_seconds() - start);
        assert_string_equal(found.act.name, "none");
        assert_string_equal(found.attn.name, "f32");
        assert_non_null(strstr(text, "none (fits"));
        assert_false(is_hf(&r, t));
        trace_close(t);
        close_run(&r);
    }
}

// --- pairing ----------------------------------------------------------------------------------

// GGUF's order of each head's elements to that of transformers: even ones first.
static void to_halves(Run *r, Component c, int n_heads) {
    const size_t d = (size_t)r->model->h.head_dim;
    float head[1024];
    for (int l = 0; l < r->model->h.n_layers; l++) {
        if (!trace_find(&r->prompt, c, l)) continue;
        float *x = values(r, c, l);
        for (size_t at = 0; at < r->prompt.n_tokens * (size_t)n_heads; at++, x += d) {
            for (size_t i = 0; i < d; i++) head[i % 2 * (d / 2) + i / 2] = x[i];
            memcpy(x, head, d * sizeof *x);
        }
    }
}

static void test_pairing(void **state) {
    (void)state;
    static const ComponentSet sets[] = {CAPTURE_ALL & ~CAPTURE_SCORES, 1u << COMP_Q | 1u << COMP_K,
                                        1u << COMP_K, 1u << COMP_Q_ROPE | 1u << COMP_EMBD,
                                        1u << COMP_ATTN_NORM | 1u << COMP_K_ROPE};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        Run r = run_model(demo_q4_k_m, 12, TYPE_F32, sets[i]);
        const Hparams *h = &r.model->h;
        r.trace.prompts = &r.prompt, r.trace.n_prompts = 1;
        assert_false(is_hf(&r, &r.trace));
        to_halves(&r, COMP_Q, h->n_heads), to_halves(&r, COMP_Q_ROPE, h->n_heads);
        to_halves(&r, COMP_K, h->n_kv_heads), to_halves(&r, COMP_K_ROPE, h->n_kv_heads);
        assert_true(is_hf(&r, &r.trace));
        if (i == 0) {  // an engine at odds with itself has a fault, no other convention
            to_halves(&r, COMP_Q_ROPE, h->n_heads);
            Rng rng = {1};
            float *x = values(&r, COMP_Q_ROPE, 0), *y = values(&r, COMP_Q_ROPE, 1);
            const size_t n = r.prompt.n_tokens * (size_t)(h->n_heads * h->head_dim);
            for (size_t k = 0; k < n; k++) x[k] = y[k] = rng_normal(&rng);
            assert_true(is_hf(&r, &r.trace));  // it fits neither: no vote
        }
        close_run(&r);
    }
    Run r = run_model(demo_f16, 12, TYPE_F32, CAPTURE_ALL & ~CAPTURE_SCORES);
    r.trace.prompts = &r.prompt, r.trace.n_prompts = 1;
    to_halves(&r, COMP_Q, r.model->h.n_heads), to_halves(&r, COMP_K, r.model->h.n_kv_heads);
    assert_false(is_hf(&r, &r.trace));  // not so after RoPE
    drop(&r, COMP_Q), drop(&r, COMP_K), drop(&r, COMP_Q_ROPE), drop(&r, COMP_K_ROPE);
    assert_false(is_hf(&r, &r.trace));
    r.prompt.n_arrays = 0;
    assert_false(is_hf(&r, &r.trace));
    close_run(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_backend),      cmocka_unit_test(test_attention_from_unrotated),
        cmocka_unit_test(test_every_scheme),     cmocka_unit_test(test_rows_of_a_tensor),
        cmocka_unit_test(test_no_scheme),        cmocka_unit_test(test_faults_do_not_vote),
        cmocka_unit_test(test_nothing_captured), cmocka_unit_test(test_declared_is_kept),
        cmocka_unit_test(test_sums_of_blocks),   cmocka_unit_test(test_every_attention),
        cmocka_unit_test(test_precisions),       cmocka_unit_test(test_golden),
        cmocka_unit_test(test_pairing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
