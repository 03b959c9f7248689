// plumb bench: tokens a second of prefill and decode, beside what this machine's memory can do.
//
// This room owns: what is timed and how figures are made of it. A decode step must read every
// weight once, so the limit of decode is read bandwidth / bytes of weights; the bandwidth is
// measured in the same run, with the same threads. Of a GPU's memory nothing is known here, and
// there is no share. It leaves to others: computing (plumb.h), the
// measurement of memory (base/bandwidth.h).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/bandwidth.h"
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "engine/plumb_internal.h"
#include "formats/mix.h"

enum { MAX_LIST = 32, MAX_RUNS = 1000, BANDWIDTH_BYTES = 512 << 20 };

typedef struct {
    int n[MAX_LIST];
    int count;
} IntList;

// One line of the table: n_tokens evaluated after `context` others, so many times.
typedef struct {
    bool decode;
    int n_tokens, context;
    double tok_s, min, max;  // median, least, most over the runs
    double ms, gb_s, share;  // a token; of decode: of the weights, and of what the memory can do
    double *samples;         // tok/s of each run, in the order of time
} BenchRow;

typedef struct {
    ModelArgs m;
    const char *prompt_list, *gen_list, *context_list;
    int runs;
    plumb_model *model;
    plumb_session *session;
    plumb_model_info info;
    int threads;
    int32_t *ids;  // as many as the context holds
    BenchRow *rows;
    int n_rows, n_done;  // timings done, of all rows, for the progress
    double read_gb_s;    // of the CPU's memory; 0: not measured
} Bench;

// --- options -------------------------------------------------------------------------------------

static Status parse_list(const char *flag, const char *text, int min, IntList *out, Error *err) {
    out->count = 0;
    for (const char *p = text;;) {
        char word[16] = "";
        size_t n = strcspn(p, ",");
        int64_t v = 0;
        if (n < sizeof word) memcpy(word, p, n);
        if (n >= sizeof word || !arg_int(word, min, MODEL_MAX_CONTEXT, &v)) {
            return error_set(err, ERR_USAGE,
                             "%s needs whole numbers from %d on, separated by commas, not '%s'",
                             flag, min, text);
        }
        if (out->count == MAX_LIST) {
            return error_set(err, ERR_USAGE, "%s has more than %d numbers", flag, MAX_LIST);
        }
        out->n[out->count++] = (int)v;
        if (!p[n]) return OK;
        p += n + 1;
    }
}

static Status read_args(int argc, char **argv, Bench *b, bool *help, Error *err) {
    Arg models[N_MODEL_ARGS];
    const Arg own[] = {{"-p, --prompt-tokens", ARG_TEXT, &b->prompt_list, 0},
                       {"-n, --gen-tokens", ARG_TEXT, &b->gen_list, 0},
                       {"--context", ARG_TEXT, &b->context_list, 0},
                       {"-r, --runs", ARG_INT, &b->runs, 1},
                       {0}};
    model_args_table(&b->m, models);
    const Arg *const tables[] = {own, models};
    Status st = args_read(argc, argv, tables, 2, NULL, help, err);
    if (!st && b->runs > MAX_RUNS) {
        return error_set(err, ERR_USAGE, "--runs is %d, at most %d are kept", b->runs, MAX_RUNS);
    }
    return st;
}

// The rows to measure, and in *n_ctx the context that they need. A length of 0 leaves its test out.
static Status plan_rows(Bench *b, int *n_ctx, Error *err) {
    IntList prompts, gens, contexts;
    Status st = parse_list("--prompt-tokens", b->prompt_list, 0, &prompts, err);
    if (!st) st = parse_list("--gen-tokens", b->gen_list, 0, &gens, err);
    if (!st) st = parse_list("--context", b->context_list, 0, &contexts, err);
    if (st) return st;
    const size_t most = (size_t)(prompts.count + gens.count * contexts.count);
    b->rows = calloc(most, sizeof *b->rows);
    if (!b->rows) return error_memory(err, "the table", most * sizeof *b->rows);
    *n_ctx = 0;
    for (int i = 0; i < prompts.count; i++) {
        if (prompts.n[i] == 0) continue;
        b->rows[b->n_rows++] = (BenchRow){.n_tokens = prompts.n[i]};
    }
    for (int c = 0; c < contexts.count; c++) {
        for (int i = 0; i < gens.count; i++) {
            if (gens.n[i] == 0) continue;
            b->rows[b->n_rows++] =
                (BenchRow){.decode = true, .n_tokens = gens.n[i], .context = contexts.n[c]};
        }
    }
    for (int i = 0; i < b->n_rows; i++) {
        const int need = b->rows[i].n_tokens + b->rows[i].context;
        if (need > *n_ctx) *n_ctx = need;
    }
    if (b->n_rows == 0) return error_set(err, ERR_USAGE, "there is nothing to measure");
    if (b->m.n_ctx && b->m.n_ctx < *n_ctx) {
        return error_set(err, ERR_USAGE,
                         "-c %d is too small: these tests need %d tokens of context", b->m.n_ctx,
                         *n_ctx);
    }
    return OK;
}

// Ids spread over the whole vocabulary, the same in every run: an embedding row that is read again
// and again would be in a cache.
static void fill_ids(int32_t *ids, int n, int n_vocab) {
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (int i = 0; i < n; i++) {  // splitmix64
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        ids[i] = (int32_t)((z ^ (z >> 31)) % (uint64_t)n_vocab);
    }
}

// --- measuring -----------------------------------------------------------------------------------

typedef struct {
    unsigned char *data;
    size_t bytes;
} Touch;

static void touch_part(void *arg, int i, int n) {
    const Touch *t = arg;
    long from, to;
    pool_split((long)t->bytes, 4096, i, n, &from, &to);
    memset(t->data + from, 1, (size_t)(to - from));
}

// 512 MiB, or half the free memory if that is less, written first so that every page is real.
static Status measure_memory(Bench *b, Error *err) {
    const unsigned long long have = memory_available();
    Pool *pool = NULL;
    Touch t = {.bytes = BANDWIDTH_BYTES};
    if (have && have / 2 < t.bytes) t.bytes = (size_t)(have / 2) / 4096 * 4096;
    t.data = large_alloc(t.bytes);
    if (!t.data || t.bytes == 0) return error_memory(err, "measuring the memory", t.bytes);
    Status st = pool_create(b->threads, &pool, err);
    if (!st) {
        pool_run(pool, touch_part, &t);
        const double rate = bandwidth_read(pool, t.data, t.bytes, 0.3);
        if (rate > b->read_gb_s) b->read_gb_s = rate;
        pool_free(pool);
    }
    large_free(t.data, t.bytes);
    return st;
}

static Status time_row(Bench *b, const BenchRow *r, double *tok_s, Error *err) {
    plumb_error *e = (plumb_error *)(void *)err;
    plumb_session *s = b->session;
    const float *logits;
    plumb_status st = PLUMB_OK;
    const int held = plumb_session_n_tokens(s);
    plumb_rewind(s, (size_t)r->context);
    if (held < r->context) {
        st = plumb_eval(s, b->ids + held, (size_t)(r->context - held), NULL, e);
    }
    const int32_t *ids = b->ids + r->context;
    const double start = clock_seconds();
    if (!r->decode && !st) st = plumb_eval(s, ids, (size_t)r->n_tokens, &logits, e);
    for (int i = 0; r->decode && i < r->n_tokens && !st; i++)
        st = plumb_eval(s, ids + i, 1, &logits, e);
    const double seconds = clock_seconds() - start;
    *tok_s = r->n_tokens / (seconds > 1e-9 ? seconds : 1e-9);
    return (Status)st;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// One run that does not count, then b->runs that do.
static Status measure_row(Bench *b, BenchRow *r, Error *err) {
    double tok_s[MAX_RUNS];
    const int n = b->runs;
    r->samples = malloc((size_t)n * sizeof *r->samples);
    if (!r->samples) return error_memory(err, "the timings", (size_t)n * sizeof *r->samples);
    Status st = time_row(b, r, tok_s, err);
    for (int i = 0; i < n && !st; i++) {
        cli_progress("measuring", b->n_done++, (double)b->n_rows * n);
        st = time_row(b, r, &tok_s[i], err);
    }
    if (st) return st;
    memcpy(r->samples, tok_s, (size_t)n * sizeof *tok_s);
    qsort(tok_s, (size_t)n, sizeof *tok_s, by_value);
    r->tok_s = (tok_s[n / 2] + tok_s[(n - 1) / 2]) / 2;
    r->min = tok_s[0], r->max = tok_s[n - 1];
    r->ms = 1000 / r->tok_s;
    return OK;
}

static Status measure(Bench *b, Error *err) {
    const bool cpu = strcmp(b->info.backend, "cpu") == 0;
    Status st = cpu ? measure_memory(b, err) : OK;
    for (int i = 0; i < b->n_rows && !st; i++) st = measure_row(b, &b->rows[i], err);
    cli_progress(NULL, 0, 0);
    // Before and after, the better of the two: a neighbour may have been busy once.
    if (!st && cpu) st = measure_memory(b, err);
    for (int i = 0; i < b->n_rows && !st; i++) {
        BenchRow *r = &b->rows[i];
        if (!r->decode) continue;
        r->gb_s = r->tok_s * (double)b->info.decode_bytes / 1e9;
        if (cpu) r->share = r->gb_s / b->read_gb_s;
    }
    return st;
}

// --- showing -------------------------------------------------------------------------------------

static const char *model_label(const Bench *b) {
    return b->m.model ? b->m.model : "the demo model";
}

static const char *file_type(const Bench *b) {
    uint32_t type = 0;
    bool found = false;
    gguf_get_u32(b->model->gguf, "general.file_type", &type, &found, NULL);
    const char *name = found ? mix_name_of_file_type(type) : NULL;
    return name ? name : "unknown";
}

static void print_table(const Bench *b) {
    printf("%s: %s %s, %.4g M parameters, %.1f MiB of weights\n", model_label(b),
           b->info.architecture, file_type(b), (double)b->info.n_params / 1e6,
           (double)b->info.weight_bytes / 0x1p20);
    printf("backend %s (%s); ", b->info.backend, b->info.device);
    if (b->read_gb_s > 0) printf("memory reads %.1f GB/s; ", b->read_gb_s);
    printf("median of %d run%s\n", b->runs, b->runs == 1 ? "" : "s");
    if (*b->info.loaded) printf("%s\n", b->info.loaded);
    putchar('\n');
    printf("%-8s %7s %8s %10s %10s %10s %10s %8s %7s\n", "", "tokens", "context", "tok/s", "min",
           "max", "ms/token", "GB/s", "share");
    for (int i = 0; i < b->n_rows; i++) {
        const BenchRow *r = &b->rows[i];
        printf("%-8s %7d %8d %10.2f %10.2f %10.2f %10.3f", r->decode ? "decode" : "prefill",
               r->n_tokens, r->context, r->tok_s, r->min, r->max, r->ms);
        if (r->decode) printf(" %8.2f", r->gb_s);
        if (r->share > 0)
            printf(" %5.1f %%%s", 100 * r->share, r->share > 1 ? " (fits the caches)" : "");
        putchar('\n');
    }
}

#if HAVE_JANSSON
#ifdef __clang__
#define COMPILER __VERSION__
#else
#define COMPILER "gcc " __VERSION__
#endif

static json_t *samples_json(const BenchRow *r, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_real(r->samples[i]));
    return list;
}

static json_t *rows_json(const Bench *b, bool decode) {
    json_t *list = json_array();
    for (int i = 0; list && i < b->n_rows; i++) {
        const BenchRow *r = &b->rows[i];
        if (r->decode != decode) continue;
        json_t *o = json_pack("{s:i, s:i, s:f, s:f, s:f, s:f}", "tokens", r->n_tokens, "context",
                              r->context, "tok_s", r->tok_s, "min", r->min, "max", r->max,
                              "ms_token", r->ms);
        if (o && decode) {
            json_object_set_new(o, "gb_s", json_real(r->gb_s));
            json_object_set_new(o, "share", r->share > 0 ? json_real(r->share) : json_null());
        }
        if (o) json_object_set_new(o, "samples", samples_json(r, b->runs));
        if (json_array_append_new(list, o)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

// decode_share: of the first decode, the one with the least context where the lists ascend; null
// where it is not known.
static json_t *share_json(const Bench *b) {
    for (int i = 0; i < b->n_rows; i++) {
        if (b->rows[i].share > 0) return json_real(b->rows[i].share);
    }
    return json_null();
}

// "2 threads, avx2 kernels" to "avx2".
static json_t *isa_json(const char *device) {
    const char *name = strrchr(device, ',');
    name = name ? name + 1 + strspn(name + 1, " ") : device;
    return json_stringn(name, strcspn(name, " "));
}

static json_t *machine_json(const Bench *b) {
    Text devices = {0};
    json_t *text = NULL;
    if (backend_by_name(b->info.backend)->probe(&devices, NULL) == OK && devices.data) {
        text = json_text(devices.data, strcspn(devices.data, "\n"));
    }
    text_free(&devices);
    return text ? text : json_null();
}

static Status print_json(const Bench *b, Error *err) {
    const bool cpu = strcmp(b->info.backend, "cpu") == 0;
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:o, s:i, s:o, s:o, s:o, s:o}", "model", model_label(b),
                  "backend", b->info.backend, "device", b->info.device, "isa",
                  cpu ? isa_json(b->info.device) : json_null(), "threads", b->threads, "read_gb_s",
                  b->read_gb_s > 0 ? json_real(b->read_gb_s) : json_null(), "prefill",
                  rows_json(b, false), "decode", rows_json(b, true), "decode_share", share_json(b));
    json_t *model =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I}", "name", b->info.name, "architecture",
                  b->info.architecture, "file_type", file_type(b), "parameters",
                  (json_int_t)b->info.n_params, "weight_bytes", (json_int_t)b->info.weight_bytes,
                  "decode_bytes", (json_int_t)b->info.decode_bytes);
    if (!o || !model) {
        json_decref(o), json_decref(model);
        return json_print(NULL, err);
    }
    json_object_set_new(o, "model_info", model);
    json_object_set_new(o, "runs", json_integer(b->runs));
    json_object_set_new(o, "machine", machine_json(b));
    json_object_set_new(o, "build", json_sprintf("plumb %s, %s", plumb_version(), COMPILER));
    return json_print(o, err);
}
#else
static Status print_json(const Bench *b, Error *err) {
    (void)b;
    return json_check(err);
}
#endif

static Status bench(Bench *b, Error *err) {
    int n_ctx = 0;
    Status st = b->m.json ? json_check(err) : OK;
    if (!st) st = plan_rows(b, &n_ctx, err);
    if (st) return st;
    if (!b->m.n_ctx) b->m.n_ctx = n_ctx;
    b->threads = b->m.threads ? b->m.threads : pool_default_threads();
    b->ids = calloc((size_t)n_ctx, sizeof *b->ids);
    if (!b->ids) return error_memory(err, "token ids", (uint64_t)n_ctx * sizeof *b->ids);
    if (!(b->model = cli_open_model(&b->m, err))) return err->status;
    if (!(b->session = cli_open_session(&b->m, b->model, err))) return err->status;
    plumb_model_describe(b->model, &b->info);
    fill_ids(b->ids, n_ctx, b->info.n_vocab);
    st = measure(b, err);
    if (!st && b->m.json) return print_json(b, err);
    if (!st) print_table(b);
    return st;
}

int cmd_bench(int argc, char **argv) {
    Bench b = {.m = model_args_default,
               .prompt_list = "128,512",
               .gen_list = "32",
               .context_list = "0",
               .runs = 5};
    Error err;
    bool help = false;
    Status st = read_args(argc, argv, &b, &help, &err);
    if (!st && !help) st = bench(&b, &err);
    plumb_session_close(b.session);
    plumb_model_close(b.model);
    free(b.ids);
    for (int i = 0; i < b.n_rows; i++) free(b.rows[i].samples);
    free(b.rows);
    if (!st && help) return cli_instead("bench", b.m.list_devices);
    return cli_finish(st ? cli_fail(&err) : 0);
}
