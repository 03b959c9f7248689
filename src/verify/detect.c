// How a run rounds, found out by trying; see detect.h.
//
// A sample is one array of one prompt: a few of its rows, of a product a few of its outputs. Each
// known way is computed on the captured input of the sample; a way fits the sample if all that was
// looked at is within its bounds. What fits under no way is a fault and has no vote.
#include "verify/detect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/compare.h"
#include "verify/detect_internal.h"

enum {
    SAMPLE_ROWS = 4,
    SAMPLE_OUTPUTS = 96,
    SAMPLE_PROMPTS = 3,
    SAMPLE_LAYERS = 3,     // of each product with weights of one type
    MANY_VALUES = 16,      // values that need their digits, for an array to show its precision
    MAX_ATTN_SCHEMES = 32  // in attn_scheme_at
};

// --- precision of arrays ----------------------------------------------------------------------

// Does x show how it was rounded? Zeros, ones, small whole numbers are the same in every format.
static bool shows_precision(const float *x, size_t n) {
    size_t many = 0;
    for (size_t i = 0; i < n && many < MANY_VALUES; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        many += isfinite(x[i]) && (bits & 0x0007ffff) != 0;
    }
    return many == MANY_VALUES;
}

// What most arrays of a component show. One that stands alone is believed only if others of the run
// are as coarse, or there are none: else its coarseness may be the fault.
static void find_precisions(const Model *m, const Trace *t, Precision out[N_COMPONENTS]) {
    size_t count[N_COMPONENTS][N_PRECISIONS] = {{0}}, all[N_PRECISIONS] = {0}, total = 0;
    for (size_t p = 0; p < t->n_prompts; p++) {
        for (size_t i = 0; i < t->prompts[p].n_arrays; i++) {
            const TraceArray *a = &t->prompts[p].arrays[i];
            const size_t n = a->rows * a->width;
            if (!shows_precision(a->x, n)) continue;
            const Precision shown = precision_of(a->x, n);
            // The embedding's rows are as coarse as the table, whatever the engine does.
            const bool by_nature = a->ref.c == COMP_EMBD;
            count[a->ref.c][shown]++;
            all[shown] += !by_nature, total += !by_nature;
        }
    }
    Precision most = PREC_F32;  // what was not captured is taken for as coarse as the rest
    for (int p = PREC_F16; p < N_PRECISIONS; p++) {
        if (2 * all[p] > total) most = (Precision)p;
    }
    for (int c = 0; c < N_COMPONENTS; c++) {
        const size_t *k = count[c], own = k[PREC_F32] + k[PREC_F16] + k[PREC_BF16];
        out[c] = own ? PREC_F32 : most;
        for (int p = PREC_F16; p < N_PRECISIONS; p++) {
            const bool alone = own == 1 && total > 1 && all[p] <= 1 && c != COMP_EMBD;
            if (2 * k[p] > own && !alone) out[c] = (Precision)p;
        }
    }
    // Rows that are copied are as coarse as the table: no rounding of the engine's.
    const TensorType table = m->token_embd->type;
    if ((table == TYPE_F16 && out[COMP_EMBD] == PREC_F16) ||
        (table == TYPE_BF16 && out[COMP_EMBD] == PREC_BF16)) {
        out[COMP_EMBD] = PREC_F32;
    }
}

// --- the inputs of products -------------------------------------------------------------------

typedef struct {
    Component c, in;
    size_t weight, bias;  // where they stand in LayerWeights
} Product;

#define AT(field) offsetof(LayerWeights, field)
static const Product products[] = {
    {COMP_Q, COMP_ATTN_NORM, AT(q), AT(q_bias)},
    {COMP_K, COMP_ATTN_NORM, AT(k), AT(k_bias)},
    {COMP_V, COMP_ATTN_NORM, AT(v), AT(v_bias)},
    {COMP_ATTN_OUT, COMP_ATTN, AT(attn_out), AT(attn_out_bias)},
    {COMP_FFN_GATE, COMP_FFN_NORM, AT(ffn_gate), AT(ffn_gate_bias)},
    {COMP_FFN_UP, COMP_FFN_NORM, AT(ffn_up), AT(ffn_up_bias)},
    {COMP_FFN_OUT, COMP_FFN_ACT, AT(ffn_down), AT(ffn_down_bias)},
    {COMP_LOGITS, COMP_NORM, 0, 0},
};
enum { N_PRODUCTS = sizeof products / sizeof *products };

static const Tensor *tensor_at(const LayerWeights *w, size_t field) {
    const Tensor *t;
    memcpy(&t, (const char *)w + field, sizeof t);
    return t;
}

typedef struct {
    const TraceArray *got, *in;
    const Tensor *w, *bias;
    Component c;
} Sample;

static bool find_sample(const Model *m, const TracePrompt *p, const Product *product, int layer,
                        Sample *out) {
    const bool head = product->c == COMP_LOGITS;
    const LayerWeights *w = head ? NULL : &m->layers[layer];
    *out = (Sample){.c = product->c, .w = head ? m->output : tensor_at(w, product->weight)};
    if (!head) out->bias = tensor_at(w, product->bias);
    out->got = trace_find(p, product->c, head ? -1 : layer);
    out->in = trace_find(p, product->in, head ? -1 : layer);
    return out->got && out->in && out->got->width == out->w->dims[1] &&
           out->in->width == out->w->dims[0];
}

// Rows that both arrays have: the one with the largest input (which sets the scale where there is
// one for all rows), the last, the first, one between.
static size_t choose_rows(const TraceArray *got, const TraceArray *in, size_t n_tokens,
                          size_t row[SAMPLE_ROWS]) {
    const size_t first = got->first_row > in->first_row ? got->first_row : in->first_row;
    size_t largest = first, n = 0;
    float most = -1;
    for (size_t i = 0; i < in->rows * in->width; i++) {
        const size_t at = in->first_row + i / in->width;
        if (at < first || !(fabsf(in->x[i]) > most)) continue;
        most = fabsf(in->x[i]), largest = at;
    }
    const size_t want[SAMPLE_ROWS] = {largest, n_tokens - 1, first, first + (n_tokens - first) / 2};
    for (int i = 0; i < SAMPLE_ROWS; i++) {
        bool there = false;
        for (size_t k = 0; k < n; k++) there |= row[k] == want[i];
        if (!there) row[n++] = want[i];
    }
    return n;
}

// --- products under every way -----------------------------------------------------------------

typedef struct {
    const Tensor *w;
    size_t stride;  // between the outputs that are looked at
} Spread;

static void spread_row(void *user, size_t output, float *w) {
    const Spread *s = user;
    oracle_tensor_row((void *)(uintptr_t)s->w, output * s->stride, w);
}

// Which of the ways wanted[] fit the sample: bit w of *fits.
static Status try_ways(const Site *site, const Sample *s, size_t n_tokens, uint32_t wanted,
                       uint32_t *fits, Error *err) {
    size_t row[SAMPLE_ROWS];
    const size_t n_rows = choose_rows(s->got, s->in, n_tokens, row);
    const size_t inputs = s->in->width, all = s->got->width;
    Spread spread = {s->w, (all + SAMPLE_OUTPUTS - 1) / SAMPLE_OUTPUTS};
    const size_t outputs = (all + spread.stride - 1) / spread.stride;
    Weights w = {.row = spread_row, .user = &spread, .inputs = inputs, .outputs = outputs};
    double *x = malloc(n_rows * inputs * sizeof *x);
    float *got = malloc((n_rows + 1) * outputs * sizeof *got);  // and the bias
    float *whole = s->bias ? malloc(all * sizeof *whole) : NULL;
    Expected e = {0};
    Status st = x && got && (whole || !s->bias) ? expected_new(n_rows, outputs, &e, err)
                                                : error_memory(err, "a sample", inputs * sizeof *x);
    for (size_t r = 0; !st && r < n_rows; r++) {
        const float *from = s->in->x + (row[r] - s->in->first_row) * inputs;
        const float *of = s->got->x + (row[r] - s->got->first_row) * all;
        for (size_t i = 0; i < inputs; i++) x[r * inputs + i] = from[i];
        for (size_t i = 0; i < outputs; i++) got[r * outputs + i] = of[i * spread.stride];
    }
    Tensor bias = {.name = "bias", .type = TYPE_F32, .n_dims = 1, .dims = {outputs, 1, 1, 1}};
    if (!st && s->bias) {
        float *some = got + n_rows * outputs;
        dequantize(s->bias->type, s->bias->data, whole, all);
        for (size_t i = 0; i < outputs; i++) some[i] = whole[i * spread.stride];
        bias.data = (const uint8_t *)some, w.bias = &bias;
    }
    *fits = 0;
    const Precision out = site->rounding->out[s->c];
    for (int way = 0; !st && way < N_WAYS; way++) {
        if (!(wanted >> way & 1)) continue;
        Cell cells[SAMPLE_ROWS];
        st = expect_matmul(site, &w, (ActWay)way, x, NULL, n_rows, out, &e, err);
        if (!st) st = expect_sums(s->w, spread.stride, (ActWay)way, x, NULL, n_rows, &e, err);
        if (st) break;
        compare_cells(&e, got, s->c, outputs, out, cells);
        if (compare_worst(cells, n_rows).ratio <= 1) *fits |= 1u << way;
    }
    expected_free(&e);
    free(x), free(got), free(whole);
    return st;
}

typedef struct {
    size_t fits[TYPE_LIMIT][N_WAYS];  // samples with weights of this type
    size_t voters[TYPE_LIMIT], n_voters, n_samples, n_ways;
} Votes;

static uint32_t known_ways(TensorType type) {
    uint32_t ways = 0;
    for (int i = 0; act_scheme_at(i); i++) ways |= 1u << act_scheme_at(i)->way[type];
    return ways;
}

// Layers of which the product is sampled: of each type of weights the first, the last and one
// between. Captured ones only. layer: room for 3 of each of TYPE_LIMIT types.
static size_t choose_layers(const Model *m, const TracePrompt *p, const Product *product,
                            int layer[SAMPLE_LAYERS * TYPE_LIMIT]) {
    size_t n = 0;
    Sample s;
    int count[TYPE_LIMIT] = {0}, seen[TYPE_LIMIT] = {0};
    if (product->c == COMP_LOGITS) {
        layer[0] = -1;
        return find_sample(m, p, product, -1, &s);
    }
    for (int l = 0; l < m->h.n_layers; l++) {
        if (find_sample(m, p, product, l, &s)) count[s.w->type]++;
    }
    for (int l = 0; l < m->h.n_layers; l++) {
        if (!find_sample(m, p, product, l, &s)) continue;
        const int k = seen[s.w->type]++, last = count[s.w->type] - 1;
        if (k == 0 || k == last || (k == last / 2 && last > 1)) layer[n++] = l;
    }
    return n;
}

static Status vote_prompt(const Site *site, const TracePrompt *p, Votes *v, Error *err) {
    int layer[SAMPLE_LAYERS * TYPE_LIMIT];
    for (int i = 0; i < N_PRODUCTS; i++) {
        const size_t n = choose_layers(site->model, p, &products[i], layer);
        for (size_t k = 0; k < n; k++) {
            Sample s;
            uint32_t fits;
            find_sample(site->model, p, &products[i], layer[k], &s);
            const TensorType type = s.w->type;
            Status st = try_ways(site, &s, p->n_tokens, known_ways(type), &fits, err);
            if (st) return st;
            v->n_samples++;
            v->voters[type] += fits != 0, v->n_voters += fits != 0;
            for (int w = 0; w < N_WAYS; w++) v->fits[type][w] += fits >> w & 1;
        }
    }
    return OK;
}

// The prompts that show most in little time: not the shortest, which are blind, nor the longest.
static size_t choose_prompts(const Trace *t, const TracePrompt *out[SAMPLE_PROMPTS]) {
    size_t n = 0;
    for (size_t want = 0; want < SAMPLE_PROMPTS && want < t->n_prompts; want++) {
        const TracePrompt *best = NULL;
        for (size_t i = 0; i < t->n_prompts; i++) {
            const TracePrompt *p = &t->prompts[i];
            bool taken = p->n_arrays == 0;
            for (size_t k = 0; k < n; k++) taken |= out[k] == p;
            if (taken) continue;
            const bool better = !best                ? true
                                : best->n_tokens < 8 ? p->n_tokens > best->n_tokens
                                : p->n_tokens < 8    ? false
                                                     : p->n_tokens < best->n_tokens;
            if (better) best = p;
        }
        if (best) out[n++] = best;
    }
    return n;
}

static size_t votes_of(const Votes *v, const ActScheme *s) {
    size_t n = 0;
    for (int t = 0; t < TYPE_LIMIT; t++) n += v->fits[t][s->way[t]];
    return n;
}

// The scheme with most votes; where types of weights agree on none, the best way of each.
static void choose_scheme(const Votes *v, ActScheme *out, size_t *votes) {
    *out = *act_scheme_at(0), *votes = votes_of(v, out);
    for (int i = 1; act_scheme_at(i); i++) {
        const size_t n = votes_of(v, act_scheme_at(i));
        if (n > *votes) *out = *act_scheme_at(i), *votes = n;
    }
    ActScheme own = *out;
    own.name = "one way for each type of weights";
    for (int t = 0; t < TYPE_LIMIT; t++) {
        for (int w = 0; w < N_WAYS; w++) {
            if (v->fits[t][w] > v->fits[t][own.way[t]]) own.way[t] = (ActWay)w;
        }
    }
    if (votes_of(v, &own) > *votes) *out = own, *votes = votes_of(v, &own);
}

// --- attention --------------------------------------------------------------------------------

// A layer as a site with captured values only; n: tokens of the prompt.
static Site site_of(Oracle *o, const Model *m, const Rounding *r, const TracePrompt *p, int layer,
                    const int32_t *pos) {
    Site s = {.oracle = o,
              .model = m,
              .rounding = r,
              .tokens = p->tokens,
              .pos = pos,
              .n = p->n_tokens,
              .layer = layer,
              .w = layer >= 0 ? &m->layers[layer] : NULL};
    s.stream.width = (size_t)m->h.dim;
    s.prompt = p;
    for (int c = 0; c < N_COMPONENTS; c++) {
        const size_t per_token = component_is_scores((Component)c) ? (size_t)m->h.n_heads : 1;
        s.at[c].width = component_width(&m->h, (Component)c, s.n);
        const TraceArray *a = trace_find(p, (Component)c, layer);
        if (a && a->width * per_token == s.at[c].width) s.at[c].seen = a;
    }
    return s;
}

static bool all_seen(const Site *s, Component c, size_t from) {
    return s->at[c].seen && s->at[c].seen->first_row <= from;
}

// Expected values of all tokens for what was not captured; *memory is to be freed.
static Status fill_value(Site *s, Component c, Expected *e, Error *err) {
    size_t *row = malloc((s->n + 1) * sizeof *row);
    if (!row) return error_memory(err, "rows", s->n * sizeof *row);
    for (size_t i = 0; i < s->n; i++) row[i] = i;
    Status st = expect(s, c, row, s->n, e, err);
    free(row);
    if (!st) s->at[c].x = e->y, s->at[c].sd = e->sd;
    return st;
}

// What attention reads, where it was not captured but what it is made of was.
static Status fill_roped(Site *s, Component c, Component from, Component normed, Expected *e,
                         Error *err) {
    const bool has_norm = s->w->q_norm || s->w->k_norm;
    if (s->at[c].seen || !all_seen(s, has_norm ? normed : from, 0)) return OK;
    return fill_value(s, c, e, err);
}

// Can component c be expected at tokens `from` and later?
static bool can_expect(const Site *s, Component c, size_t from) {
    if (c == COMP_K_CACHE) return s->at[COMP_K_ROPE].x || all_seen(s, COMP_K_ROPE, from);
    if (c == COMP_V_CACHE) return all_seen(s, COMP_V, from);
    const bool q = s->at[COMP_Q_ROPE].x || all_seen(s, COMP_Q_ROPE, from);
    const bool k =
        s->at[COMP_K_ROPE].x || all_seen(s, COMP_K_ROPE, 0) || all_seen(s, COMP_K_CACHE, 0);
    const bool v = all_seen(s, COMP_V, 0) || all_seen(s, COMP_V_CACHE, 0);
    const bool kq = (q && k) || (c != COMP_KQ && all_seen(s, COMP_KQ, from));
    if (c == COMP_KQ || c == COMP_KQ_SOFT_MAX) return kq;
    return v && (kq || all_seen(s, COMP_KQ_SOFT_MAX, from));
}

typedef struct {
    size_t fits[MAX_ATTN_SCHEMES], n_voters, n_samples;
    double worst[MAX_ATTN_SCHEMES];  // error / bound of those that fit
} AttnVotes;

static Status try_attention(Site *s, Component c, AttnVotes *v, Error *err) {
    const TraceArray *a = s->at[c].seen;
    const Hparams *h = &s->model->h;
    if (!a || !can_expect(s, c, a->first_row)) return OK;
    const size_t row[3] = {s->n - 1, a->first_row + (s->n - a->first_row) / 2, a->first_row + 1};
    const size_t n_rows = row[1] == row[0] ? 1 : row[2] >= row[1] ? 2 : 3;
    const size_t tokens = component_is_scores(c) ? (size_t)h->n_heads : 1;
    const size_t width = s->at[c].width, group = component_group(h, c, width);
    const size_t n_cells = n_rows * (width / group);
    float *got = malloc(n_rows * width * sizeof *got);
    Cell *cells = malloc(n_cells * sizeof *cells);
    Status st = got && cells ? OK : error_memory(err, "attention", n_rows * width * sizeof *got);
    for (size_t r = 0; !st && r < n_rows; r++) {
        const float *from = a->x + (row[r] - a->first_row) * tokens * a->width;
        memcpy(got + r * width, from, width * sizeof *got);
    }
    const Rounding *given = s->rounding;
    Rounding trial = *given;
    bool any = false;
    for (int i = 0; !st && i < MAX_ATTN_SCHEMES && attn_scheme_at(i); i++) {
        Expected e;
        trial.attn = *attn_scheme_at(i);
        s->rounding = &trial;
        st = expect(s, c, row, n_rows, &e, err);
        if (st) break;
        compare_cells(&e, got, c, group, trial.out[c], cells);
        const double ratio = compare_worst(cells, n_cells).ratio;
        const bool fits = ratio <= 1;
        v->fits[i] += fits, any |= fits;
        if (fits && ratio > v->worst[i]) v->worst[i] = ratio;
        expected_free(&e);
    }
    s->rounding = given;
    v->n_samples++, v->n_voters += any;
    free(got), free(cells);
    return st;
}

static Status vote_attention(Oracle *o, const Model *m, const Rounding *r, const TracePrompt *p,
                             int layer, const int32_t *pos, AttnVotes *v, Error *err) {
    Site s = site_of(o, m, r, p, layer, pos);
    Expected q = {0}, k = {0};
    Status st = fill_roped(&s, COMP_Q_ROPE, COMP_Q, COMP_Q_NORM, &q, err);
    if (!st) st = fill_roped(&s, COMP_K_ROPE, COMP_K, COMP_K_NORM, &k, err);
    if (!st) st = try_attention(&s, COMP_K_CACHE, v, err);
    if (!st) st = try_attention(&s, COMP_V_CACHE, v, err);
    if (!st) st = try_attention(&s, COMP_KQ, v, err);
    if (!st) st = try_attention(&s, COMP_ATTN, v, err);
    expected_free(&q), expected_free(&k);
    return st;
}

// --- both -------------------------------------------------------------------------------------

static int32_t *positions(const Trace *t, Error *err) {
    size_t most = 1;
    for (size_t i = 0; i < t->n_prompts; i++) {
        if (t->prompts[i].n_tokens > most) most = t->prompts[i].n_tokens;
    }
    int32_t *pos = malloc(most * sizeof *pos);
    if (!pos) error_memory(err, "positions", most * sizeof *pos);
    for (size_t i = 0; pos && i < most; i++) pos[i] = (int32_t)i;
    return pos;
}

static Status detect_act(Oracle *o, const Model *m, const Trace *t, Rounding *r, char text[120],
                         size_t *n_samples, Error *err) {
    const TracePrompt *prompt[SAMPLE_PROMPTS];
    const size_t n = choose_prompts(t, prompt);
    const Site site = {.oracle = o, .model = m, .rounding = r};
    Votes v = {.n_samples = 0};
    for (size_t i = 0; i < n; i++) {
        Status st = vote_prompt(&site, prompt[i], &v, err);
        if (st) return st;
    }
    size_t votes;
    *n_samples = v.n_samples;
    choose_scheme(&v, &r->act, &votes);
    if (v.n_samples == 0) {
        snprintf(text, 120, "activations none (no product was captured with its input)");
    } else if (v.n_voters == 0) {
        snprintf(text, 120, "activations none (no known way fits any of %zu sampled)", v.n_samples);
    } else {
        snprintf(text, 120, "activations %s (fits %zu of %zu sampled)", r->act.name, votes,
                 v.n_samples);
    }
    return OK;
}

// Is attention captured with all that it reads, in every layer?
static bool all_captured(const Model *m, const Trace *t) {
    static const Component need[] = {COMP_Q_ROPE, COMP_K_ROPE, COMP_V, COMP_ATTN};
    for (size_t i = 0; i < t->n_prompts; i++) {
        for (int l = 0; l < m->h.n_layers; l++) {
            for (size_t k = 0; k < sizeof need / sizeof *need; k++) {
                if (!trace_find(&t->prompts[i], need[k], l)) return false;
            }
        }
    }
    return true;
}

static Status detect_attn(Oracle *o, const Model *m, const Trace *t, Rounding *r, char text[120],
                          size_t *n_samples, Error *err) {
    const TracePrompt *prompt[SAMPLE_PROMPTS];
    const size_t n = choose_prompts(t, prompt);
    const int last = m->h.n_layers - 1, layer[] = {0, last / 2, last};
    int32_t *pos = positions(t, err);
    AttnVotes v = {.n_samples = 0};
    Status st = pos ? OK : ERR_UNAVAILABLE;
    for (size_t i = 0; !st && i < n; i++) {
        for (int k = 0; !st && k < 3; k++) {
            if (k > 0 && layer[k] == layer[k - 1]) continue;
            st = vote_attention(o, m, r, prompt[i], layer[k], pos, &v, err);
        }
    }
    free(pos);
    if (st) return st;
    *n_samples = v.n_samples;
    int best = 0;
    for (int i = 1; i < MAX_ATTN_SCHEMES && attn_scheme_at(i); i++) {
        if (v.fits[i] > v.fits[best]) best = i;
    }
    int tied[MAX_ATTN_SCHEMES];
    size_t n_tied = 0;
    for (int i = best; i < MAX_ATTN_SCHEMES && attn_scheme_at(i); i++) {
        if (v.fits[i] == v.fits[best]) tied[n_tied++] = i;
    }
    // Where scores, weights and heads are all there, what ties is alike but for few-bit sums; a fit
    // by a hair is not trusted.
    const bool vague = v.n_samples < 3 || attn_scheme_at(best)->acc != PREC_F32 ||
                       v.worst[best] > GOOD_FIT || !all_captured(m, t);
    if (v.n_voters > 0 && vague) st = detect_settle(o, m, t, r, tied, n_tied, &best, err);
    if (st) return st;
    r->attn = *attn_scheme_at(best);
    if (v.n_voters == 0) {
        snprintf(text, 120, "attention f32 (%s)",
                 v.n_samples ? "no known way fits" : "not captured with its inputs");
    } else {
        snprintf(text, 120, "attention %s (fits %zu of %zu)", r->attn.name, v.fits[best],
                 v.n_samples);
    }
    return OK;
}

Status detect_rounding(Oracle *o, const Model *m, const Trace *t, Rounding *rounding,
                       char text[200], Error *err) {
    char act[120] = "activations as the trace says", attn[120] = "attention as the trace says";
    find_precisions(m, t, rounding->out);
    Status st = OK;
    size_t n_act = 1, n_attn = 1;
    if (!rounding->act_declared) st = detect_act(o, m, t, rounding, act, &n_act, err);
    if (!st && !rounding->attn_declared) {
        st = detect_attn(o, m, t, rounding, attn, &n_attn, err);
    }
    snprintf(text, 200, "%.98s; %.98s", act, attn);
    if (!st && (n_act == 0 || n_attn == 0)) {
        st = detect_coarse(o, m, t, n_act == 0, n_attn == 0, rounding, text, err);
    }
    return st;
}

// --- the pairing of q and k -------------------------------------------------------------------

// Far above what any rounding costs, far below what another order of elements does.
#define SAME_NMSE 0.05

typedef struct {
    size_t gguf, hf;  // arrays that are in this order and not in the other
} PairVotes;

// got: rows of heads of head_dim; want the same in GGUF's pairing. In transformers' the elements 2i
// and 2i + 1 of a head stand at i and i + head_dim / 2.
static void compare_pairings(const TraceArray *got, const size_t *row, size_t n_rows, size_t d,
                             const double *want, PairVotes *v) {
    double as_is = 0, swapped = 0, squares = 0;
    for (size_t r = 0; r < n_rows; r++) {
        const float *x = got->x + (row[r] - got->first_row) * got->width;
        for (size_t i = 0; i < got->width; i++) {
            const size_t in = i % d, other = i - in + in / 2 + in % 2 * (d / 2);
            const double y = want[r * got->width + i], a = x[i] - y, b = x[other] - y;
            as_is += a * a, swapped += b * b, squares += y * y;
        }
    }
    v->gguf += as_is <= SAME_NMSE * squares && swapped > 4 * as_is;
    v->hf += swapped <= SAME_NMSE * squares && as_is > 4 * swapped;
}

// q (or k) of a layer, before and after RoPE, from its normed input.
static Status vote_pairing(const Site *s, Component c, Component roped, int n_heads,
                           const size_t *row, size_t n_rows, PairVotes *v, Error *err) {
    Expected e;
    int32_t pos[SAMPLE_ROWS];
    const size_t d = (size_t)s->model->h.head_dim;
    const TraceArray *plain = s->at[c].seen, *turned = s->at[roped].seen;
    if (!plain && !turned) return OK;
    Status st = expect(s, c, row, n_rows, &e, err);
    if (st) return st;
    if (plain && plain->first_row <= row[0]) compare_pairings(plain, row, n_rows, d, e.y, v);
    for (size_t r = 0; r < n_rows; r++) pos[r] = s->pos[row[r]];
    oracle_rope(s->oracle, e.y, n_rows, n_heads, pos, e.y);
    if (turned && turned->first_row <= row[0]) compare_pairings(turned, row, n_rows, d, e.y, v);
    expected_free(&e);
    return OK;
}

static bool tokens_known(const Model *m, const TracePrompt *p) {
    for (size_t i = 0; i < p->n_tokens; i++) {
        if (p->tokens[i] < 0 || p->tokens[i] >= m->h.n_vocab) return false;
    }
    return true;
}

// The first layers' normed inputs: as captured, of the very first also from the tokens.
static Status vote_layer(Oracle *o, const Model *m, const Rounding *r, const TracePrompt *p,
                         int layer, const int32_t *pos, PairVotes *v, Error *err) {
    Site s = site_of(o, m, r, p, layer, pos);
    Expected embd = {0}, norm = {0};
    size_t row[SAMPLE_ROWS], n_rows = 0;
    for (size_t i = s.n > SAMPLE_ROWS ? s.n - SAMPLE_ROWS : 0; i < s.n; i++) row[n_rows++] = i;
    if (!all_seen(&s, COMP_ATTN_NORM, row[0])) {
        if (layer > 0 || !tokens_known(m, p)) return OK;
        Site outside = site_of(o, m, r, p, -1, pos);
        Status st = fill_value(&outside, COMP_EMBD, &embd, err);
        s.stream.x = embd.y, s.stream.sd = embd.sd;
        s.at[COMP_ATTN_NORM].seen = NULL;
        if (!st) st = fill_value(&s, COMP_ATTN_NORM, &norm, err);
        if (st) {
            expected_free(&embd);
            return st;
        }
    }
    Status st = vote_pairing(&s, COMP_Q, COMP_Q_ROPE, m->h.n_heads, row, n_rows, v, err);
    if (!st) {
        st = vote_pairing(&s, COMP_K, COMP_K_ROPE, m->h.n_kv_heads, row, n_rows, v, err);
    }
    expected_free(&embd), expected_free(&norm);
    return st;
}

Status detect_hf_pairing(Oracle *o, const Model *m, const Trace *t, bool *hf, Error *err) {
    *hf = false;
    if (m->h.rope_pairing != ROPE_NORM) return OK;
    const Rounding none = {.act = *act_scheme_at(0), .attn = *attn_scheme_at(0)};
    const TracePrompt *prompt[SAMPLE_PROMPTS];
    const size_t n = choose_prompts(t, prompt);
    int32_t *pos = positions(t, err);
    PairVotes v = {0, 0};
    Status st = pos ? OK : ERR_UNAVAILABLE;
    for (size_t i = 0; !st && i < n; i++) {
        for (int layer = 0; !st && layer < 2 && layer < m->h.n_layers; layer++) {
            st = vote_layer(o, m, &none, prompt[i], layer, pos, &v, err);
        }
    }
    free(pos);
    // With q in one order and what RoPE made of it in the other, the engine is at odds with itself.
    *hf = !st && v.hf > 0 && v.gguf == 0;
    return st;
}
