// RoPE tables; see rope.h.
#include "engine/rope.h"

#include <math.h>
#include <stdlib.h>

static const double TWO_PI = 6.283185307179586476925;

// The pair (as a real number) whose wave turns `turns` times within the original context.
static double yarn_pair(const Hparams *h, double turns) {
    return h->n_rot * log(h->rope_n_ctx_orig / (turns * TWO_PI)) / (2 * log((double)h->rope_base));
}

// How much of pair i keeps its own frequency: 1 for the fast ones, 0 for those slower than the
// original context.
static double yarn_keep(const Hparams *h, int i) {
    double low = floor(yarn_pair(h, h->yarn_beta_fast)),
           high = ceil(yarn_pair(h, h->yarn_beta_slow));
    low = low > 0 ? low : 0;
    high = high < h->n_rot - 1 ? high : h->n_rot - 1;
    double ramp = (i - low) / (high - low > 0.001 ? high - low : 0.001);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return (1 - ramp) * h->yarn_ext_factor;
}

Status rope_new(const Model *m, Rope *out, Error *err) {
    const Hparams *h = &m->h;
    *out = (Rope){.n_pairs = h->n_rot / 2, .magnitude = 1};
    const size_t n = (size_t)out->n_pairs;
    float *divisor = calloc(n, sizeof *divisor);
    out->frequency = calloc(n, sizeof *out->frequency);
    if (!divisor || !out->frequency) {
        free(divisor);
        rope_free(out);
        return error_memory(err, "RoPE frequencies", n * sizeof(double));
    }
    if (m->rope_freqs) dequantize(m->rope_freqs->type, m->rope_freqs->data, divisor, n);
    for (int i = 0; i < out->n_pairs; i++) {
        double f = pow((double)h->rope_base, -2.0 * i / h->n_rot);
        if (m->rope_freqs) f /= (double)divisor[i];
        double scaled = f / (double)h->rope_factor;
        double keep = h->rope_scaling == ROPE_SCALING_YARN ? yarn_keep(h, i) : 0;
        out->frequency[i] = f * keep + scaled * (1 - keep);
    }
    if (h->rope_scaling == ROPE_SCALING_YARN) {
        out->magnitude = (double)h->yarn_attn_factor;
        if (h->yarn_ext_factor != 0) out->magnitude *= 1 + 0.1 * log((double)h->rope_factor);
    }
    free(divisor);
    return OK;
}

void rope_free(Rope *r) {
    free(r->frequency);
    r->frequency = NULL;
}

void rope_row(const Rope *r, int32_t pos, float *cosine, float *sine) {
    for (int i = 0; i < r->n_pairs; i++) {
        double angle = pos * r->frequency[i];
        cosine[i] = (float)(cos(angle) * r->magnitude);
        sine[i] = (float)(sin(angle) * r->magnitude);
    }
}
