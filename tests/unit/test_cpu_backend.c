// The CPU backend around its kernels: operations that wait and are joined, threads, repacked weights
// and others, many and few inputs. Whatever the way, the bits are the same.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/stages.h"
#include "formats/quants.h"
#include "check.h"

enum { DIM = 512, FFN = 784, MAX_ROWS = 40 };  // FFN: 49 panels; no multiple of 32 and threads

// A step of a feed-forward network, as the engine issues it: norm, gate and up, swiglu, a matmul of
// another width with a residual.
typedef struct {
    Tensor norm, gate, up, down, bias;
    float *x;  // MAX_ROWS x DIM
} Net;

static Tensor vector_of(Rng *r, const char *name, int n) {
    float *v = room((size_t)n * sizeof *v);
    for (int i = 0; i < n; i++) v[i] = 1 + rng_normal(r) / 8;
    return (Tensor){.name = name,
                    .type = TYPE_F32,
                    .n_dims = 1,
                    .dims = {(uint64_t)n, 1, 1, 1},
                    .bytes = (uint64_t)n * sizeof *v,
                    .data = (uint8_t *)v};
}

static Tensor matrix_of(Rng *r, const char *name, TensorType type, int n, int rows) {
    const size_t len = (size_t)n * (size_t)rows;
    uint64_t bytes;
    assert_true(type_bytes(type, len, &bytes));
    float *v = room(len * sizeof *v);
    uint8_t *data = room((size_t)bytes);
    for (size_t i = 0; i < len; i++) v[i] = rng_normal(r) / 8;
    for (int k = 0; k < rows; k++)
        quantize(type, v + (size_t)k * (size_t)n, data + (size_t)k * (bytes / (uint64_t)rows),
                 (size_t)n);
    free(v);
    return (Tensor){.name = name,
                    .type = type,
                    .n_dims = 2,
                    .dims = {(uint64_t)n, (uint64_t)rows, 1, 1},
                    .bytes = bytes,
                    .data = data};
}

static Net net_of(TensorType wide, TensorType narrow) {
    Rng r = {91};
    Net t = {vector_of(&r, "norm", DIM),          matrix_of(&r, "gate", wide, DIM, FFN),
             matrix_of(&r, "up", wide, DIM, FFN), matrix_of(&r, "down", narrow, FFN, DIM),
             vector_of(&r, "bias", FFN),          room(MAX_ROWS * DIM * sizeof(float))};
    for (int i = 0; i < MAX_ROWS * DIM; i++) t.x[i] = rng_normal(&r);
    return t;
}

static void net_free(Net *t) {
    const Tensor *all[] = {&t->norm, &t->gate, &t->up, &t->down, &t->bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free((void *)(uintptr_t)all[i]->data);
    free(t->x);
}

typedef struct {
    BackendConfig config;
    bool look;     // fetch what each operation gave, so that none waits for another
    bool in_turn;  // one row at a time
    int repeat;    // of the whole step, on its own result
} Way;

static const BackendOps *ops(void) {
    return &cpu_backend;
}

static void look(Backend *b, const Way *w, const Buffer *buf, float *to, size_t n) {
    if (w->look) assert_int_equal(ops()->download(b, buf, to, n, NULL), OK);
}

// y: rows x DIM
static void run_net(const Net *t, const Way *w, int rows, float *y) {
    static const int32_t zeros[MAX_ROWS] = {0};
    static float seen[MAX_ROWS * FFN];
    Backend *b;
    Weight *norm, *gate, *up, *down, *bias;
    Buffer *x, *xn, *g, *u;
    Error err = {0};
    assert_int_equal(ops()->open(&w->config, &b, &err), OK);
    assert_int_equal(ops()->weight(b, &t->norm, USE_VECTOR, &norm, &err), OK);
    assert_int_equal(ops()->weight(b, &t->gate, USE_MATMUL, &gate, &err), OK);
    assert_int_equal(ops()->weight(b, &t->up, USE_MATMUL, &up, &err), OK);
    assert_int_equal(ops()->weight(b, &t->down, USE_MATMUL, &down, &err), OK);
    assert_int_equal(ops()->weight(b, &t->bias, USE_VECTOR, &bias, &err), OK);
    assert_int_equal(ops()->buffer(b, MAX_ROWS * DIM, &x, &err), OK);
    assert_int_equal(ops()->buffer(b, MAX_ROWS * DIM, &xn, &err), OK);
    assert_int_equal(ops()->buffer(b, MAX_ROWS * FFN, &g, &err), OK);
    assert_int_equal(ops()->buffer(b, MAX_ROWS * FFN, &u, &err), OK);
    assert_int_equal(ops()->reserve(b, MAX_ROWS, 16, 1, &err), OK);
    const int at_once = w->in_turn ? 1 : rows;
    for (int from = 0; from < rows; from += at_once) {
        const size_t n = (size_t)at_once;
        const Batch batch = {.n = at_once, .token = zeros, .pos = zeros, .seq = zeros};
        assert_int_equal(ops()->upload(b, x, t->x + (size_t)from * DIM, n * DIM, &err), OK);
        assert_int_equal(ops()->begin(b, &batch, &err), OK);
        for (int i = 0; i < w->repeat; i++) {
            const MatmulOut two[] = {{gate, bias, NULL, g}, {up, NULL, NULL, u}};
            ops()->rmsnorm(b, x, norm, 1e-5f, at_once, DIM, xn);
            look(b, w, xn, seen, n * DIM);
            ops()->matmul(b, xn, at_once, two, 2);
            look(b, w, g, seen, n * FFN);
            ops()->swiglu(b, g, u, n * FFN, g);
            look(b, w, g, seen, n * FFN);
            ops()->matmul(b, g, at_once, &(MatmulOut){down, NULL, x, x}, 1);
        }
        assert_int_equal(ops()->end(b, &err), OK);
        assert_int_equal(ops()->download(b, x, y + (size_t)from * DIM, n * DIM, &err), OK);
    }
    Buffer *all[] = {x, xn, g, u};
    for (size_t i = 0; i < 4; i++) ops()->buffer_free(b, all[i]);
    ops()->close(b);
}

static void check_way(const Net *t, const char *what, Way way, int rows, const float *want) {
    static float got[MAX_ROWS * DIM];
    char text[96];
    memset(got, 0xff, sizeof got);
    if (!way.repeat) way.repeat = 1;
    if (!way.config.n_threads) way.config.n_threads = 2;
    run_net(t, &way, rows, got);
    snprintf(text, sizeof text, "%s, %d rows, %s", what, rows, way.config.isa);
    same_floats(text, got, want, (size_t)rows * DIM);
}

static void ways_of(const Net *t, const char *isa, int repeat) {
    static const int some_rows[] = {1, 2, 4, 5, 17, MAX_ROWS};
    static float want[MAX_ROWS * DIM];
    const BackendConfig one = {.n_threads = 1, .isa = isa};
    for (size_t i = 0; i < sizeof some_rows / sizeof *some_rows; i++) {
        const int rows = some_rows[i];
        run_net(t, &(Way){.config = one, .repeat = repeat}, rows, want);
        for (int k = 0; k < rows * DIM; k++) assert_true(isfinite(want[k]));
        check_way(t, "each operation looked at",
                  (Way){.config = {.isa = isa}, .look = true, .repeat = repeat}, rows, want);
        check_way(t, "row by row", (Way){.config = {.isa = isa}, .in_turn = true, .repeat = repeat},
                  rows, want);
        check_way(t, "not repacked",
                  (Way){.config = {.isa = isa, .no_repack = true}, .repeat = repeat}, rows, want);
        for (int n = 2; n <= 9; n += 7)
            check_way(t, "on many threads",
                      (Way){.config = {.n_threads = n, .isa = isa}, .repeat = repeat}, rows, want);
    }
}

static void same_bits_every_way(void **state) {
    (void)state;
    static const TensorType wide[] = {TYPE_Q4_K, TYPE_Q6_K, TYPE_Q8_0,
                                      TYPE_F16,  TYPE_Q3_K, TYPE_BF16};
    static const TensorType narrow[] = {TYPE_F32, TYPE_F16, TYPE_F32,
                                        TYPE_F32, TYPE_F16, TYPE_BF16};
    const char *isa;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        Net t = net_of(wide[i], narrow[i]);
        for (int k = 0; (isa = ops()->isa_at(k)); k++) ways_of(&t, isa, 1);
        net_free(&t);
    }
}

// More operations than the queue holds.
static void a_full_queue(void **state) {
    (void)state;
    Net t = net_of(TYPE_Q8_0, TYPE_F32);
    static float want[DIM];
    Way way = {.config = {.n_threads = 2}, .repeat = STAGES};
    for (int i = 0; i < FFN * DIM; i++) ((float *)(uintptr_t)t.down.data)[i] /= 4096;
    way.look = true;
    run_net(&t, &way, 1, want);
    way.look = false;
    check_way(&t, "a full queue", way, 1, want);
    net_free(&t);
}

// A norm in place, and one whose input the matmul overwrites, are not taken into the matmul.
static void norms_that_stay_apart(void **state) {
    (void)state;
    Rng r = {92};
    Tensor tn = vector_of(&r, "norm", DIM), tw = matrix_of(&r, "w", TYPE_Q8_0, DIM, DIM);
    static const int32_t zeros[MAX_ROWS] = {0};
    float x0[2 * DIM], y[3][2 * DIM];
    for (int i = 0; i < 2 * DIM; i++) x0[i] = rng_normal(&r);
    for (int how = 0; how < 3; how++) {  // apart, in place, into the norm's own input
        const BackendConfig config = {.n_threads = 2};
        const Batch batch = {.n = 2, .token = zeros, .pos = zeros, .seq = zeros};
        Backend *b;
        Weight *norm, *w;
        Buffer *buf[3];
        assert_int_equal(ops()->open(&config, &b, NULL), OK);
        assert_int_equal(ops()->weight(b, &tn, USE_VECTOR, &norm, NULL), OK);
        assert_int_equal(ops()->weight(b, &tw, USE_MATMUL, &w, NULL), OK);
        for (int i = 0; i < 3; i++) assert_int_equal(ops()->buffer(b, 2 * DIM, &buf[i], NULL), OK);
        assert_int_equal(ops()->reserve(b, MAX_ROWS, 16, 1, NULL), OK);
        assert_int_equal(ops()->upload(b, buf[0], x0, 2 * DIM, NULL), OK);
        assert_int_equal(ops()->begin(b, &batch, NULL), OK);
        Buffer *normed = how == 1 ? buf[0] : buf[1], *out = how == 2 ? buf[0] : buf[2];
        ops()->rmsnorm(b, buf[0], norm, 1e-5f, 2, DIM, normed);
        ops()->matmul(b, normed, 2, &(MatmulOut){w, NULL, NULL, out}, 1);
        assert_int_equal(ops()->end(b, NULL), OK);
        assert_int_equal(ops()->download(b, out, y[how], 2 * DIM, NULL), OK);
        for (int i = 0; i < 3; i++) ops()->buffer_free(b, buf[i]);
        ops()->close(b);
    }
    same_floats("a norm in place", y[1], y[0], 2 * DIM);
    same_floats("a matmul over the norm's input", y[2], y[0], 2 * DIM);
    free((void *)(uintptr_t)tn.data);
    free((void *)(uintptr_t)tw.data);
}

static void what_was_repacked(void **state) {
    (void)state;
    Net t = net_of(TYPE_Q4_K, TYPE_F32);
    for (int no = 0; no < 2; no++) {
        const BackendConfig config = {.n_threads = 2, .no_repack = no};
        Backend *b;
        Weight *w;
        assert_int_equal(ops()->open(&config, &b, NULL), OK);
        assert_null(ops()->loaded(b));
        assert_int_equal(ops()->weight(b, &t.up, USE_TABLE, &w, NULL), OK);
        assert_null(ops()->loaded(b));  // a table is read as it is
        assert_int_equal(ops()->weight(b, &t.gate, USE_MATMUL, &w, NULL), OK);
        const bool repacks = strcmp(ops()->isa_at(0), "generic") != 0 && !no;
        assert_int_equal(ops()->loaded(b) != NULL, repacks);
        if (repacks) assert_non_null(strstr(ops()->loaded(b), "repacked for"));
        ops()->close(b);
    }
    net_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_every_way),
        cmocka_unit_test(a_full_queue),
        cmocka_unit_test(norms_that_stay_apart),
        cmocka_unit_test(what_was_repacked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
