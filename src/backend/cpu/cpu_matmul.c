// Matmul, and what is joined with it: the norm before, the gate behind.
//
// Rows of weights are shared out among the threads; no reduction is cut. Inputs are rounded once a
// matmul: few of them by each thread for itself, which costs less than a barrier; many of them
// shared out, with a barrier behind.
#include <stdlib.h>

#include "backend/cpu/cpu_internal.h"
#include "backend/cpu/panel.h"
#include "base/arena.h"
#include "base/clock.h"

// --- weights ----------------------------------------------------------------------------------

typedef struct {
    const Tensor *t;
    size_t row, panel;  // bytes
    uint8_t *to;
} PackJob;

static void pack_part(void *arg, int ith, int nth) {
    const PackJob *j = arg;
    const long n_rows = (long)j->t->dims[1];
    long from, to;
    pool_split(n_rows, PANEL_ROWS, ith, nth, &from, &to);
    for (long r = from; r < to; r += PANEL_ROWS) {
        const int rows = n_rows - r < PANEL_ROWS ? (int)(n_rows - r) : PANEL_ROWS;
        panel_pack(j->t->type, j->t->data + (size_t)r * j->row, j->row, rows, (int)j->t->dims[0],
                   j->to + (size_t)(r / PANEL_ROWS) * j->panel);
    }
}

static size_t row_bytes(const Tensor *t) {
    const TypeInfo *info = type_info(t->type);
    return (size_t)t->dims[0] / info->block_len * info->block_bytes;
}

enum { STORE_BYTES = 64 << 20 };

// A piece is taken only while enough stays free, asked anew for each: another process may be
// loading too. NULL: there is no memory.
static PanelStore *store_new(Backend *b, size_t bytes) {
    const size_t size = bytes > STORE_BYTES ? bytes : STORE_BYTES;
    if (b->keep_free && memory_available() < b->keep_free + bytes) return NULL;
    PanelStore *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    *s = (PanelStore){b->panels, large_alloc(size), 0, size};
    if (!s->data) {
        free(s);
        return NULL;
    }
    return b->panels = s;
}

static uint8_t *panels_alloc(Backend *b, size_t bytes) {
    PanelStore *s = b->panels;
    if (!s || s->size - s->used < bytes) s = store_new(b, bytes);
    if (!s) return NULL;
    uint8_t *p = s->data + s->used;
    s->used += (bytes + 63) / 64 * 64;
    if (s->used > s->size) s->used = s->size;
    return p;
}

void panels_free(Backend *b) {
    for (PanelStore *s = b->panels, *next; s; s = next) {
        next = s->next;
        large_free(s->data, s->size);
        free(s);
    }
    b->panels = NULL;
}

// The rows again, in the order in which they are read. A weight that gets no memory is repacked at
// each use, 16 rows at a time: slower, and the same bits.
static void make_panels(Backend *b, Weight *w) {
    const Tensor *t = w->tensor;
    const size_t panel = panel_bytes(t->type, (int)t->dims[0]);
    const uint64_t bytes = (t->dims[1] + PANEL_ROWS - 1) / PANEL_ROWS * panel;
    if (b->repack && !(w->panels = panels_alloc(b, bytes))) {
        notice_say(b->notice, "not enough free memory to repack all weights: some are slower");
        b->repack = false;
    }
    if (!w->panels) return;
    const double start = clock_seconds();
    PackJob job = {t, row_bytes(t), panel, w->panels};
    pool_run(b->pool, pack_part, &job);
    b->repack_seconds += clock_seconds() - start;
    b->repacked += bytes;
}

void matmul_weight(Backend *b, Weight *w) {
    const Tensor *t = w->tensor;
    const int n = (int)t->dims[0];
    ActRoom *room;
    w->form = b->kernels->form(t->type);
    room = &b->act[w->form][b->kernels->activation(t->type)];
    if (n > room->max_cols) room->max_cols = n;
    if (n > b->max_cols) b->max_cols = n;
    if (w->form == FORM_PANELS) make_panels(b, w);
}

// --- room -------------------------------------------------------------------------------------

static size_t aligned(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

// Of n_act inputs; 0 where they are read as they are.
static size_t act_bytes(const Backend *b, int form, int quant, int n_act) {
    const int n = b->act[form][quant].max_cols;
    return n ? aligned(b->kernels->matmul[form].act_bytes((ActQuant)quant, n, n_act)) : 0;
}

// A thread's scratch: few normed inputs | the same rounded in every way | a panel | the kernels'.
static size_t norm_room(const Backend *b) {
    return aligned((size_t)FEW_ROWS * (size_t)b->max_cols * sizeof(float));
}

static size_t panel_room(const Backend *b) {
    return aligned((size_t)b->max_cols * PANEL_ROWS * 2);  // more than any type takes
}

size_t matmul_scratch(Backend *b) {
    size_t few = 0, most = 0;
    for (int f = 0; f < N_FORMS; f++) {
        const MatmulKernels *m = &b->kernels->matmul[f];
        for (int q = 0; q < ACT_KINDS; q++) few += act_bytes(b, f, q, FEW_ROWS);
        if (!m->scratch) continue;
        const size_t own = m->scratch(b->max_cols);
        most = own > most ? own : most;
    }
    b->kernel_scratch = aligned(most);
    return norm_room(b) + few + panel_room(b) + b->kernel_scratch;
}

Status matmul_reserve(Backend *b, int max_tokens, Error *err) {
    for (int f = 0; f < N_FORMS; f++) {
        for (int q = 0; q < ACT_KINDS; q++) {
            const size_t bytes = act_bytes(b, f, q, max_tokens);
            if (!bytes) continue;
            uint8_t *data = aligned_alloc(64, bytes);
            if (!data) return error_memory(err, "activations", bytes);
            memset(data, 0, bytes);
            free(b->act[f][q].data);
            b->act[f][q].data = data;
        }
    }
    return OK;
}

// --- the norm ---------------------------------------------------------------------------------

typedef struct {
    const Kernels *kernels;
    const float *x, *w;
    float eps;
    int rows, width;
    float *y;
} NormJob;

static void norm_row(const NormJob *j, long r, float *y) {
    j->kernels->rmsnorm(j->x + r * j->width, j->w, j->eps, j->width, y);
}

static void norm_part(void *arg, int ith, int nth) {
    const NormJob *j = arg;
    long from, to;
    pool_split(j->rows, 1, ith, nth, &from, &to);
    for (long r = from; r < to; r++) norm_row(j, r, j->y + r * j->width);
}

void cpu_rmsnorm(Backend *b, const Buffer *x, const Weight *w, float eps, int rows, int width,
                 Buffer *y) {
    NormJob *job =
        stage_push(&b->stages, norm_part, sizeof *job, rows > 1 ? (size_t)rows * (size_t)width : 0);
    *job = (NormJob){b->kernels, x->data, w->vec, eps, rows, width, y->data};
}

// --- matmul -----------------------------------------------------------------------------------

enum { MAX_OUTS = 4 };

typedef struct {
    MatmulTask task;
    const Weight *w;
} Out;

typedef struct {
    Backend *b;
    const float *x;
    int rows, n, n_outs;
    NormJob norm;   // x is made by it; rows 0: x is there
    float *swiglu;  // gets silu(first out) * second; NULL: no
    Out outs[MAX_OUTS];
} MatmulJob;

static ActQuant quant_of(const MatmulJob *j, const Out *o) {
    return j->b->kernels->activation(o->task.type);
}

static size_t act_size(const MatmulJob *j, const Out *o, int n_act) {
    return j->b->kernels->matmul[o->w->form].act_bytes(quant_of(j, o), j->n, n_act);
}

// Does an earlier output want the same?
static int same_act(const MatmulJob *j, int i) {
    int k = 0;
    while (k < i && (j->outs[k].w->form != j->outs[i].w->form ||
                     quant_of(j, &j->outs[k]) != quant_of(j, &j->outs[i])))
        k++;
    return k;
}

static void round_input(const MatmulJob *j, const Out *o, const float *x, int t, uint8_t *act) {
    j->b->kernels->matmul[o->w->form].act_make(quant_of(j, o), x, j->n, t, j->rows, act);
}

// Each thread's own copy of the few inputs there are, in its scratch.
static void round_few(const MatmulJob *j, int ith, const uint8_t *acts[MAX_OUTS]) {
    uint8_t *at = thread_scratch(j->b, ith);
    const float *x = j->x;
    if (j->norm.rows) {
        float *y = (float *)(void *)at;
        for (int t = 0; t < j->rows; t++) norm_row(&j->norm, t, y + (long)t * j->n);
        if (ith == 0) memcpy(j->norm.y, y, (size_t)j->rows * (size_t)j->n * sizeof *y);
        x = y;
    }
    at += norm_room(j->b);
    for (int i = 0; i < j->n_outs; i++) {
        const Out *o = &j->outs[i];
        const int first = same_act(j, i);
        const size_t bytes = act_size(j, o, j->rows);
        acts[i] = first < i ? acts[first] : bytes ? at : (const uint8_t *)(const void *)x;
        if (first < i || !bytes) continue;
        for (int t = 0; t < j->rows; t++) round_input(j, o, x + (long)t * j->n, t, at);
        at += aligned(bytes);
    }
}

// The inputs shared out; whoever reads them waits for all.
static void round_many(const MatmulJob *j, int ith, int nth, const uint8_t *acts[MAX_OUTS]) {
    bool wait = j->norm.rows > 0;
    long from, to;
    pool_split(j->rows, 1, ith, nth, &from, &to);
    for (long t = from; j->norm.rows && t < to; t++) norm_row(&j->norm, t, j->norm.y + t * j->n);
    for (int i = 0; i < j->n_outs; i++) {
        const Out *o = &j->outs[i];
        uint8_t *act = j->b->act[o->w->form][quant_of(j, o)].data;
        const bool as_it_is = act_size(j, o, j->rows) == 0;
        acts[i] = as_it_is ? (const uint8_t *)(const void *)j->x : act;
        if (as_it_is || same_act(j, i) < i) continue;
        for (long t = from; t < to; t++) round_input(j, o, j->x + t * j->n, (int)t, act);
        wait = true;
    }
    if (wait && nth > 1) pool_barrier(j->b->pool);
}

static void multiply(const MatmulJob *j, const Out *o, const uint8_t *act, long r0, long r1,
                     uint8_t *panel) {
    const MatmulKernels *m = &j->b->kernels->matmul[o->w->form];
    uint8_t *scratch = panel + panel_room(j->b);
    MatmulTask task = o->task;
    task.act = act;
    if (o->w->form != FORM_PANELS || o->w->panels) {
        m->matmul(&task, r0, r1, scratch);
        return;
    }
    const size_t row = row_bytes(o->w->tensor);
    for (long r = r0; r < r1; r += PANEL_ROWS) {
        const long rows = r1 - r < PANEL_ROWS ? r1 - r : PANEL_ROWS;
        panel_pack(task.type, o->task.w + (size_t)r * row, row, (int)rows, task.n, panel);
        task.w = panel;
        task.bias = o->task.bias ? o->task.bias + r : NULL;
        task.residual = o->task.residual ? o->task.residual + r : NULL;
        task.y = o->task.y + r;
        m->matmul(&task, 0, rows, scratch);
    }
}

static long panels_of(const Out *o) {
    return (o->task.n_rows + PANEL_GRAIN - 1) / PANEL_GRAIN;
}

// Rows of panels [from, to) of an output.
static void multiply_panels(const MatmulJob *j, int i, const uint8_t *act, long from, long to,
                            uint8_t *panel) {
    const Out *o = &j->outs[i];
    const long most = panels_of(o);
    if (from < 0) from = 0;
    if (to > most) to = most;
    if (from >= to) return;
    const long r1 = to * PANEL_GRAIN;
    multiply(j, o, act, from * PANEL_GRAIN, r1 < o->task.n_rows ? r1 : o->task.n_rows, panel);
}

// The same rows of both outputs belong to one thread, which can go on with them at once.
static void gated(const MatmulJob *j, const uint8_t *acts[MAX_OUTS], int ith, int nth,
                  uint8_t *panel) {
    const long n_rows = j->outs[0].task.n_rows;
    long from, to;
    pool_split(panels_of(&j->outs[0]), 1, ith, nth, &from, &to);
    for (int i = 0; i < 2; i++) multiply_panels(j, i, acts[i], from, to, panel);
    const long r0 = from * PANEL_GRAIN, r1 = to * PANEL_GRAIN < n_rows ? to * PANEL_GRAIN : n_rows;
    for (long t = 0; r0 < r1 && t < j->rows; t++) {
        const long at = t * n_rows + r0;
        j->b->kernels->swiglu(j->outs[0].task.y + at, j->outs[1].task.y + at, r1 - r0,
                              j->swiglu + at);
    }
}

static void matmul_part(void *arg, int ith, int nth) {
    const MatmulJob *j = arg;
    const uint8_t *acts[MAX_OUTS];
    if (j->rows <= FEW_ROWS)
        round_few(j, ith, acts);
    else
        round_many(j, ith, nth, acts);
    uint8_t *panel = thread_scratch(j->b, ith);
    panel += j->b->scratch_stride - panel_room(j->b) - j->b->kernel_scratch;
    if (j->swiglu) {
        gated(j, acts, ith, nth, panel);
        return;
    }
    // The panels of all outputs stand in one line.
    long total = 0, from, to;
    for (int i = 0; i < j->n_outs; i++) total += panels_of(&j->outs[i]);
    pool_split(total, 1, ith, nth, &from, &to);
    for (int i = 0; i < j->n_outs; i++) {
        multiply_panels(j, i, acts[i], from, to, panel);
        from -= panels_of(&j->outs[i]), to -= panels_of(&j->outs[i]);
    }
}

// A norm that waits and makes x becomes part of the matmul, unless it works in place or somebody
// writes what it still reads.
static void join_norm(Backend *b, NormJob *norm, const Buffer *x, int rows, const MatmulOut *outs,
                      int n_outs) {
    const NormJob *n = stage_last(&b->stages, norm_part);
    norm->rows = 0;
    if (!n || n->y != x->data || n->x == n->y || n->rows != rows) return;
    if ((uint64_t)n->width != outs[0].w->tensor->dims[0]) return;
    for (int i = 0; i < n_outs; i++) {
        if (outs[i].y->data == n->x || outs[i].y->data == n->y) return;
    }
    *norm = *n;
    stage_drop(&b->stages);
}

void cpu_matmul(Backend *b, const Buffer *x, int rows, const MatmulOut *outs, int n_outs) {
    CHECK(n_outs >= 1 && n_outs <= MAX_OUTS && rows <= b->max_tokens);
    size_t work = 0;
    NormJob norm;
    join_norm(b, &norm, x, rows, outs, n_outs);
    for (int i = 0; i < n_outs; i++)
        work += outs[i].w->tensor->dims[0] * outs[i].w->tensor->dims[1];
    MatmulJob *job = stage_push(&b->stages, matmul_part, sizeof *job, work);
    *job = (MatmulJob){.b = b,
                       .x = x->data,
                       .rows = rows,
                       .n = (int)outs[0].w->tensor->dims[0],
                       .n_outs = n_outs,
                       .norm = norm};
    for (int i = 0; i < n_outs; i++) {
        const Weight *w = outs[i].w;
        job->outs[i].w = w;
        job->outs[i].task =
            (MatmulTask){.type = w->tensor->type,
                         .w = w->panels ? w->panels : w->tensor->data,
                         .n = job->n,
                         .n_rows = (long)w->tensor->dims[1],
                         .n_act = rows,
                         .bias = outs[i].bias ? outs[i].bias->vec : NULL,
                         .residual = outs[i].residual ? outs[i].residual->data : NULL,
                         .y = outs[i].y->data};
    }
}

// --- the gate ---------------------------------------------------------------------------------

typedef struct {
    const Kernels *kernels;
    const float *gate, *up;
    size_t n;
    float *y;
} SwigluJob;

static void swiglu_part(void *arg, int ith, int nth) {
    const SwigluJob *j = arg;
    long from, to;
    pool_split((long)j->n, 64, ith, nth, &from, &to);
    if (from < to) j->kernels->swiglu(j->gate + from, j->up + from, to - from, j->y + from);
}

// Behind the matmul that makes gate and up, each thread goes on with the rows that it made.
void cpu_swiglu(Backend *b, const Buffer *gate, const Buffer *up, size_t n, Buffer *y) {
    MatmulJob *m = stage_last(&b->stages, matmul_part);
    if (m && m->n_outs == 2 && !m->swiglu && m->outs[0].task.y == gate->data &&
        m->outs[1].task.y == up->data && m->outs[0].task.n_rows == m->outs[1].task.n_rows &&
        n == (size_t)m->rows * (size_t)m->outs[0].task.n_rows) {
        m->swiglu = y->data;
        return;
    }
    SwigluJob *job = stage_push(&b->stages, swiglu_part, sizeof *job, n);
    *job = (SwigluJob){b->kernels, gate->data, up->data, n, y->data};
}
