// Hypotheses of the embedding: which weights a token's row was taken from.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/cause_internal.h"
#include "verify/cause_reading.h"

#define EMBD (1u << COMP_EMBD)

const Hypothesis hypotheses_embed[] = {
    {"embedding-column-major", "read as if the vocabulary were the contiguous dimension", EMBD},
    {"embedding-row-shift", "each token has the row of one some ids away", EMBD},
    {"embedding-other-row", "tokens have the rows of other tokens", EMBD},
    {"embedding-stride", "rows are taken as far apart as those of another type or shape", EMBD},
    {"embedding-scaled", "multiplied with sqrt(dim)", EMBD},
    {"other-weights", "rows of another matrix", EMBD},
    {NULL, NULL, 0},
};

typedef struct {
    Trial *t;
    const Tensor *w;
    size_t dim, n_vocab, n_rows;
    Precision out;
    float *row;  // dim
} Embed;

static size_t token_of(const Embed *m, size_t r) {
    return (size_t)m->t->k->site->tokens[m->t->k->row[r]];
}

static bool new_rows(Embed *m, Expected *e) {
    if (m->t->status) return false;
    m->t->status = expected_new(m->n_rows, m->dim, e, m->t->err);
    return !m->t->status;
}

// Row r is m->row.
static void put_row(const Embed *m, size_t r, Expected *e) {
    for (size_t i = 0; i < m->dim; i++) {
        const Slack s = bound_copy(m->row[i], m->out);
        e->y[r * m->dim + i] = m->row[i];
        e->bound[r * m->dim + i] = s.bound, e->sd[r * m->dim + i] = s.sd;
    }
}

static bool is_captured(const Embed *m, size_t r) {
    const float *got = m->t->k->got + r * m->dim;
    for (size_t i = 0; i < m->dim; i++) {
        const double y = m->row[i];
        if (!(fabs(got[i] - y) <= bound_copy(y, m->out).bound)) return false;
    }
    return true;
}

static void right_row(Embed *m, const Tensor *w, size_t token) {
    const Reading r = reading_of(w, NULL);
    reading_row(&r, token, m->row);
}

// --- columns ------------------------------------------------------------------------------------

static void column(Embed *m, size_t token) {
    for (size_t i = 0; i < m->dim; i++) {
        reading_flat(m->w, i * m->n_vocab + token, 1, &m->row[i]);
    }
}

static void try_columns(Embed *m) {
    Expected e;
    column(m, token_of(m, 0));
    if (!is_captured(m, 0) || !new_rows(m, &e)) return;
    for (size_t r = 0; r < m->n_rows; r++) {
        column(m, token_of(m, r));
        put_row(m, r, &e);
    }
    trial_offer(m->t, "embedding-column-major", &e,
                "read as column `token` of %zu, rows are contiguous", m->n_vocab);
}

// --- other rows ---------------------------------------------------------------------------------

// Does a row start as the captured one? Its first block tells nearly all of them apart.
static bool starts_alike(const Embed *m, const Tensor *w, size_t token, size_t r) {
    const TypeInfo *info = type_info(w->type);
    const size_t n = info->block_len > 1 ? info->block_len : m->dim < 16 ? m->dim : 16;
    const float *got = m->t->k->got + r * m->dim;
    reading_flat(w, token * m->dim, n, m->row);
    for (size_t i = 0; i < n; i++) {
        const double y = m->row[i];
        if (!(fabs(got[i] - y) <= bound_copy(y, m->out).bound)) return false;
    }
    return true;
}

// The row of the table that row r of the case is, from `from` on; n_vocab: none.
static size_t find_row(Embed *m, size_t r, size_t from) {
    for (size_t token = from; token < m->n_vocab; token++) {
        if (!starts_alike(m, m->w, token, r)) continue;
        right_row(m, m->w, token);
        if (is_captured(m, r)) return token;
    }
    return m->n_vocab;
}

// What lies outside of the table nobody knows; most rows must lie inside.
static bool try_row_shift(Embed *m, long shift) {
    Expected e;
    size_t inside = 0;
    for (size_t r = 0; r < m->n_rows; r++) {
        const long token = (long)token_of(m, r) + shift;
        inside += token >= 0 && token < (long)m->n_vocab;
    }
    if (inside * 2 <= m->n_rows || !new_rows(m, &e)) return false;
    for (size_t r = 0; r < m->n_rows; r++) {
        const long token = (long)token_of(m, r) + shift;
        if (token >= 0 && token < (long)m->n_vocab) {
            right_row(m, m->w, (size_t)token);
            put_row(m, r, &e);
        } else {
            for (size_t i = 0; i < m->dim; i++) e.bound[r * m->dim + i] = INFINITY;
        }
    }
    return trial_offer(m->t, "embedding-row-shift", &e, "each token has the row of token id %+ld",
                       shift);
}

// Every row is one of the table, but no rule says which.
static void try_other_rows(Embed *m) {
    Expected e;
    size_t wrong = 0, holds = 0;
    if (!new_rows(m, &e)) return;
    for (size_t r = 0; r < m->n_rows; r++) {
        const size_t own = token_of(m, r);
        right_row(m, m->w, own);
        if (!is_captured(m, r)) {
            const size_t token = find_row(m, r, 0);
            if (token == m->n_vocab) {
                expected_free(&e);
                return;
            }
            wrong = own, holds = token;
        }
        put_row(m, r, &e);
    }
    trial_offer(m->t, "embedding-other-row", &e,
                "the rows are other tokens' (token %zu has that of %zu): were these the ids?",
                wrong, holds);
}

static bool try_token_shift(Embed *m, long shift) {
    const Site *s = m->t->k->site;
    Expected e;
    if (!new_rows(m, &e)) return false;
    for (size_t r = 0; r < m->n_rows; r++) {
        long at = (long)m->t->k->row[r] + shift;
        at = at < 0 ? 0 : at >= (long)s->n ? (long)s->n - 1 : at;
        right_row(m, m->w, (size_t)s->tokens[at]);
        put_row(m, r, &e);
    }
    return trial_offer(m->t, "token-shift", &e, "the row of the token %ld %s", labs(shift),
                       shift < 0 ? "before" : "after");
}

static void try_rows(Embed *m) {
    bool found = false;
    for (size_t token = find_row(m, 0, 0); token < m->n_vocab && !m->t->status;
         token = find_row(m, 0, token + 1)) {
        if (token == token_of(m, 0)) continue;
        found = true;
        if (try_row_shift(m, (long)token - (long)token_of(m, 0))) break;
    }
    if (!found) return;
    const long n = (long)m->t->k->site->n;
    for (long shift = 1; shift < n && shift <= 8; shift++) {
        if (try_token_shift(m, -shift) || try_token_shift(m, shift)) break;
    }
    try_other_rows(m);
}

// --- other places -------------------------------------------------------------------------------

static bool try_stride(Embed *m, const Reading *reading, const char *as) {
    Expected e;
    const size_t first = token_of(m, 0);
    if (!reading_has(reading, first)) return false;
    reading_row(reading, first, m->row);
    if (!is_captured(m, 0) || !new_rows(m, &e)) return false;
    for (size_t r = 0; r < m->n_rows; r++) {
        const size_t token = token_of(m, r);
        if (reading_has(reading, token)) {
            reading_row(reading, token, m->row);
            put_row(m, r, &e);
        } else {
            for (size_t i = 0; i < m->dim; i++) e.bound[r * m->dim + i] = INFINITY;
        }
    }
    return trial_offer(m->t, "embedding-stride", &e,
                       "rows taken %zu bytes apart (as %s), they are %zu long", reading->row_bytes,
                       as, reading_of(m->w, NULL).row_bytes);
}

static void try_strides(Embed *m) {
    const Model *model = m->t->k->site->model;
    const Reading right = reading_of(m->w, model->gguf);
    const TypeInfo *own = type_info(m->w->type);
    for (uint32_t type = 0; type < TYPE_LIMIT; type++) {
        const TypeInfo *info = type_info(type);
        if (!info || m->dim % info->block_len != 0) continue;
        Reading r = right;
        r.row_bytes = m->dim / info->block_len * info->block_bytes;
        if (r.row_bytes == right.row_bytes) continue;
        try_stride(m, &r, info->name);
        if (info->block_len != own->block_len) continue;
        r.block_bytes = info->block_bytes;
        try_stride(m, &r, info->name);
    }
    const struct {
        int n;
        const char *name;
    } shapes[] = {{model->h.n_vocab, "long as the vocabulary"},
                  {model->h.ffn_dim, "long as ffn_dim"},
                  {model->h.n_kv_heads * model->h.head_dim, "long as k and v"},
                  {1, "one weight"}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        Reading r = right;
        if ((size_t)shapes[i].n % own->block_len != 0) continue;
        r.row_bytes = (size_t)shapes[i].n / own->block_len * own->block_bytes;
        if (r.row_bytes != right.row_bytes) try_stride(m, &r, shapes[i].name);
    }
}

static void try_scaled(Embed *m) {
    const double root = sqrt((double)m->dim);
    const double factors[] = {root, bf16_to_f32(f32_to_bf16((float)root)), 1 / root};
    static const char *const texts[] = {"sqrt(dim)", "sqrt(dim) as a bfloat16", "1 / sqrt(dim)"};
    for (int f = 0; f < 3; f++) {
        Expected e;
        if (!new_rows(m, &e)) return;
        for (size_t i = 0; i < m->n_rows * m->dim; i++) {
            e.y[i] = m->t->k->want->y[i] * factors[f];
            const Slack s = bound_add(e.y[i], 0, m->out);  // one rounding, and that of the root
            e.bound[i] = s.bound + 2 * unit_roundoff(PREC_F32) * fabs(e.y[i]), e.sd[i] = s.sd;
        }
        trial_offer(m->t, "embedding-scaled", &e, "multiplied with %s (%.6g)", texts[f],
                    factors[f]);
    }
}

static void try_output(Embed *m) {
    const Tensor *w = m->t->k->site->model->output;
    Expected e;
    if (w == m->w || w->dims[0] != m->dim || w->dims[1] < m->n_vocab) return;
    right_row(m, w, token_of(m, 0));
    if (!is_captured(m, 0) || !new_rows(m, &e)) return;
    for (size_t r = 0; r < m->n_rows; r++) {
        right_row(m, w, token_of(m, r));
        put_row(m, r, &e);
    }
    trial_offer(m->t, "other-weights", &e, "rows of %s, not of %s", w->name, m->w->name);
}

void cause_embed(Trial *t) {
    const CauseCase *k = t->k;
    const Tensor *w = k->site->model->token_embd;
    Embed m = {.t = t,
               .w = w,
               .dim = (size_t)w->dims[0],
               .n_vocab = (size_t)w->dims[1],
               .n_rows = k->n_rows,
               .out = k->site->rounding->out[COMP_EMBD]};
    if (k->n_rows == 0 || t->status) return;
    // A whole block more than a row: the start of a row is decoded block by block.
    m.row = malloc((m.dim + 256) * sizeof *m.row);
    if (!m.row) {
        t->status = error_memory(t->err, "a row of the embedding", m.dim * sizeof *m.row);
        return;
    }
    try_columns(&m);
    try_rows(&m);
    try_strides(&m);
    try_scaled(&m);
    try_output(&m);
    free(m.row);
}
