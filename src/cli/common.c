// What commands share; see cli.h.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bandwidth.h"
#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "engine/plumb_internal.h"

enum { MAX_PROMPT_BYTES = 256 << 20, CACHE_BYTES = 64 << 20 };

int cli_fail(const Error *err) {
    cli_progress(NULL, 0, 0);
    fprintf(stderr, "plumb: %s\n", err->text);
    return (int)err->status;
}

int cli_failf(Status st, const char *fmt, ...) {
    Error err;
    va_list ap;
    va_start(ap, fmt);
    error_setv(&err, st, fmt, ap);
    va_end(ap);
    return cli_fail(&err);
}

int cli_finish(int code) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    return code ? code : cli_failf(ERR_FAILED, "cannot write the output: %s", strerror(errno));
}

bool cli_color(bool asked, int fd) {
    const char *no = getenv("NO_COLOR");
    return asked && isatty(fd) && !(no && *no);
}

static void print_notice(void *user, const char *line) {
    (void)user;
    cli_progress(NULL, 0, 0);
    fprintf(stderr, "plumb: %s\n", line);
}

Notice cli_notice(void) {
    return (Notice){print_notice, NULL};
}

int cli_instead(const char *command, bool list_devices) {
    return list_devices ? cli_list_devices() : cli_help(command);
}

// --- models -----------------------------------------------------------------------------------

const ModelArgs model_args_default = {.gpu_layers = -1};

void model_args_table(ModelArgs *m, Arg table[N_MODEL_ARGS]) {
    const Arg t[N_MODEL_ARGS] = {
        {"-m, --model", ARG_TEXT, &m->model, 0},
        {"-t, --threads", ARG_INT, &m->threads, 1},
        {"-c, --ctx-size", ARG_INT, &m->n_ctx, 0},
        {"-b, --batch-size", ARG_INT, &m->batch_size, 1},
        {"--backend", ARG_TEXT, &m->backend, 0},
        {"--cpu-isa", ARG_TEXT, &m->cpu_isa, 0},
        {"--no-repack", ARG_FLAG, &m->no_repack, 0},
        {"-ngl, --gpu-layers, --n-gpu-layers", ARG_INT, &m->gpu_layers, -1},
        {"--device", ARG_INT, &m->device, 0},
        {"--list-devices", ARG_INSTEAD, &m->list_devices, 0},
        {"-ctk, --cache-type-k", ARG_TEXT, &m->type_k, 0},
        {"-ctv, --cache-type-v", ARG_TEXT, &m->type_v, 0},
        {"--check-tensors", ARG_FLAG, &m->check_tensors, 0},
        {"-v, --verbose", ARG_FLAG, &m->verbose, 0},
        {"--json", ARG_FLAG, &m->json, 0},
        {"--color", ARG_FLAG, &m->color, 0},
        {"--jinja", ARG_IGNORE, NULL, 0},
        {0}};
    memcpy(table, t, sizeof t);
}

plumb_model *cli_open_model(const ModelArgs *m, Error *err) {
    plumb_error e;
    // In options 0 is what nobody said, and -1 is -ngl 0.
    const int layers = m->gpu_layers < 0 ? 0 : m->gpu_layers == 0 ? -1 : m->gpu_layers;
    plumb_model_options o = {.backend = m->backend,
                             .device = m->device,
                             .gpu_layers = layers,
                             .n_threads = m->threads,
                             .cpu_isa = m->cpu_isa,
                             .no_repack = m->no_repack,
                             .check_tensors = m->check_tensors,
                             .notice = print_notice};
    double start = clock_seconds();
    plumb_model *model = m->model ? plumb_model_open(m->model, &o, &e)
                                  : plumb_model_open_memory(cli_demo_model, cli_demo_model_bytes(),
                                                            "the demo model", &o, &e);
    if (!model) {
        memcpy(err, &e, sizeof e);
        return NULL;
    }
    plumb_model_info i;
    plumb_model_describe(model, &i);
    if (strcmp(i.backend, "cpu") != 0)
        fprintf(stderr, "plumb: %s:%d %s\n", i.backend, m->device, i.device);
    if (m->verbose) {
        fprintf(stderr,
                "plumb: %s: %s, %s, %d layers, dim %d, %d tokens of vocabulary, %.4g parameters, "
                "%.1f MiB of weights\n"
                "plumb: backend %s (%s), chat template %s, opened in %.3f s\n",
                m->model ? m->model : "the demo model", i.name, i.architecture, i.n_layers, i.dim,
                i.n_vocab, (double)i.n_params, (double)i.weight_bytes / 0x1p20, i.backend, i.device,
                i.chat_template ? i.chat_template : "none", clock_seconds() - start);
        if (*i.loaded) fprintf(stderr, "plumb: %s\n", i.loaded);
    }
    return model;
}

plumb_session *cli_open_session(const ModelArgs *args, plumb_model *m, Error *err) {
    const plumb_session_options o = {args->n_ctx, args->batch_size, args->type_k, args->type_v};
    plumb_error e;
    plumb_session *s = plumb_session_open(m, &o, &e);
    if (!s) memcpy(err, &e, sizeof e);
    return s;
}

Status cli_open_gguf(const char *path, Gguf **out, Error *err) {
    if (path) return gguf_open(path, out, err);
    return gguf_open_memory(cli_demo_model, cli_demo_model_bytes(), "the demo model", out, err);
}

// --- generation -------------------------------------------------------------------------------

GenerationArgs generation_args_default(void) {
    return (GenerationArgs){.g = plumb_generation_default()};
}

void generation_args_table(GenerationArgs *a, Arg table[N_GENERATION_ARGS]) {
    plumb_sampling *s = &a->g.sampling;
    const Arg t[N_GENERATION_ARGS] = {
        {"-n, --predict, --n-predict, --max-tokens", ARG_INT, &a->g.max_tokens, -1},
        {"--temp, --temperature", ARG_FLOAT, &s->temperature, 0},
        {"--top-k", ARG_INT, &s->top_k, 0},
        {"--top-p", ARG_FLOAT, &s->top_p, 0},
        {"--min-p", ARG_FLOAT, &s->min_p, 0},
        {"--typical, --typical-p", ARG_FLOAT, &s->typical_p, 0},
        {"--repeat-penalty", ARG_FLOAT, &s->repeat_penalty, 0},
        {"--repeat-last-n", ARG_INT, &s->repeat_last_n, -1},
        {"--presence-penalty", ARG_FLOAT, &s->presence_penalty, 0},
        {"--frequency-penalty", ARG_FLOAT, &s->frequency_penalty, 0},
        {"-s, --seed", ARG_I64, &s->seed, 0},
        {"-l, --logit-bias", ARG_LIST, &a->bias, 0},
        {"-r, --reverse-prompt, --stop", ARG_LIST, &a->stop, 0},
        {"--logprobs", ARG_INT, &a->g.n_logprobs, 0},
        {"--ignore-eos", ARG_FLAG, &a->g.ignore_end, 0},
        {"--special", ARG_FLAG, &a->g.keep_special, 0},
        {"--lookup", ARG_FLAG, &a->lookup, 0},
        {"--lookup-max, --draft-max, --draft, --draft-n", ARG_INT, &a->g.lookup_max, 1},
        {0}};
    memcpy(table, t, sizeof t);
}

// "29905+1.5", "29905-inf": an id and what is added to its logit.
static bool parse_bias(const char *text, plumb_logit_bias *out) {
    char id[16];
    size_t n = strcspn(text, "+-");
    int64_t v;
    double bias;
    if (n == 0 || n >= sizeof id || !text[n]) return false;
    memcpy(id, text, n);
    id[n] = 0;
    if (!arg_int(id, 0, INT32_MAX, &v) || !arg_float(text + n, &bias)) return false;
    *out = (plumb_logit_bias){(int32_t)v, (float)bias};
    return true;
}

Status generation_args_finish(GenerationArgs *a, Error *err) {
    a->g.stop = a->stop.items, a->g.n_stop = a->stop.n;
    if (a->lookup && !a->g.lookup_max) a->g.lookup_max = PLUMB_LOOKUP_DEFAULT;
    for (size_t i = 0; i < a->stop.n; i++) {
        if (!a->stop.items[i][0])
            return error_set(err, ERR_USAGE, "--stop needs a text that is not empty");
    }
    if (a->bias.n == 0) return OK;
    a->biases = calloc(a->bias.n, sizeof *a->biases);
    if (!a->biases) return error_memory(err, "logit biases", a->bias.n * sizeof *a->biases);
    for (size_t i = 0; i < a->bias.n; i++) {
        if (parse_bias(a->bias.items[i], &a->biases[i])) continue;
        return error_set(
            err, ERR_USAGE,
            "--logit-bias needs an id and a signed number, as in 29905+1.5 or 2-inf, not '%s'",
            a->bias.items[i]);
    }
    a->g.sampling.logit_bias = a->biases, a->g.sampling.n_logit_bias = a->bias.n;
    return OK;
}

void generation_args_free(GenerationArgs *a) {
    arg_list_free(&a->stop);
    arg_list_free(&a->bias);
    free(a->biases);
}

// --- Ctrl-C -----------------------------------------------------------------------------------

static plumb_session *volatile interrupted_session;
static volatile sig_atomic_t n_interrupts;

// One Ctrl-C can arrive twice: timeout(1), for one, signals the process and then its group.
static bool is_echo(void) {
    static volatile double last;  // clock_gettime may be called in a handler
    const double now = clock_seconds(), before = last;
    last = now;
    return n_interrupts > 0 && now - before < 0.1;
}

static void on_interrupt(int sig) {
    if (is_echo()) return;
    if (n_interrupts++ > 0 || !interrupted_session) {
        signal(sig, SIG_DFL);
        raise(sig);
        return;
    }
    plumb_interrupt(interrupted_session);
}

void cli_catch_interrupt(plumb_session *s) {
    // SA_RESTART: the output that Ctrl-C meets is written to its end.
    struct sigaction a = {.sa_handler = s ? on_interrupt : SIG_DFL, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    interrupted_session = s;
    n_interrupts = 0;
    sigaction(SIGINT, &a, NULL);
}

// --- progress ---------------------------------------------------------------------------------

static bool progress_shown;

void cli_progress(const char *what, double done, double total) {
    static double last;
    if (!what || total <= 0) {
        if (progress_shown) fprintf(stderr, "\r\033[K");
        progress_shown = false;
        last = 0;
        return;
    }
    double now = clock_seconds();
    if (!isatty(STDERR_FILENO) || now - last < 0.1) return;
    last = now;
    progress_shown = true;
    int bar = (int)(30 * done / total);
    fprintf(stderr, "\r\033[K%s [%.*s%*s] %3.0f%%", what, bar, "##############################",
            30 - bar, "", 100 * done / total);
}

// --- figures ----------------------------------------------------------------------------------

// The rate is measured on the weights themselves, which are in memory by now. Where they fit the
// caches it would say nothing about memory, and no share is given; nor where a GPU reads them.
static double machine_gb_s(const plumb_model *m, int threads) {
    const Tensor *biggest = NULL;
    Pool *p = NULL;
    for (size_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const Tensor *t = gguf_tensor_at(m->gguf, i);
        if (t->part == 0 && (!biggest || t->data < biggest->data)) biggest = t;
    }
    uint64_t span = m->model->weight_bytes;
    if (strcmp(device_model_backend(m->device), "cpu") != 0) return 0;
    if (gguf_n_parts(m->gguf) > 1 || !biggest || span < CACHE_BYTES) return 0;
    if (span > 256u << 20) span = 256u << 20;
    if (pool_create(threads, &p, NULL)) return 0;
    double rate = bandwidth_read(p, biggest->data, (size_t)span, 0.05);
    pool_free(p);
    return rate;
}

RunFigures cli_figures(const plumb_model *m, const plumb_generation *g, const plumb_result *r,
                       int threads, bool measure) {
    RunFigures f = {.ttft_s = r->first_token_seconds, .lookup = g->lookup_max > 0};
    const double steps = (double)r->n_decoded, tokens = (double)(r->n_decoded + r->n_accepted);
    if (r->prefill_seconds > 0) f.prefill_tok_s = (double)r->n_read / r->prefill_seconds;
    if (r->n_drafted > 0) f.accepted = (double)r->n_accepted / (double)r->n_drafted;
    if (r->n_decoded > 0) f.tokens_a_step = tokens / steps;
    if (r->decode_seconds > 0) {  // a step reads the weights once, however many tokens it gives
        f.decode_tok_s = tokens / r->decode_seconds;
        f.decode_gb_s = steps / r->decode_seconds * (double)m->model->decode_bytes / 1e9;
    }
    double machine = measure && r->n_decoded > 0
                         ? machine_gb_s(m, threads > 0 ? threads : pool_default_threads())
                         : 0;
    if (machine > 0) f.share = f.decode_gb_s / machine;
    return f;
}

void cli_print_figures(const plumb_result *r, const RunFigures *f) {
    fprintf(stderr, "plumb: read %zu tokens (%.1f tok/s", r->n_read, f->prefill_tok_s);
    if (r->n_cached) fprintf(stderr, ", %zu more from the cache", r->n_cached);
    fprintf(stderr, "), made %zu", r->n_tokens);
    if (r->n_decoded) {
        fprintf(stderr, " (%.1f tok/s, %.2f GB/s", f->decode_tok_s, f->decode_gb_s);
        if (f->share > 0) fprintf(stderr, ", %.0f %% of this machine's reads", 100 * f->share);
        fprintf(stderr, ")");
    }
    if (r->n_tokens) fprintf(stderr, ", first after %.3f s", f->ttft_s);
    if (f->lookup) {
        fprintf(stderr, ", lookup drafted %zu, accepted %zu", r->n_drafted, r->n_accepted);
        if (r->n_drafted) fprintf(stderr, " (%.0f %%)", 100 * f->accepted);
        if (r->n_decoded) fprintf(stderr, ", %.2f tokens a step", f->tokens_a_step);
    }
    static const char *const why[] = {"", "; stopped at -n", "; the context is full (-c sets it)",
                                      "; interrupted"};
    fprintf(stderr, "%s\n", why[r->finish]);
}

// --- text in ----------------------------------------------------------------------------------

Status cli_read_text(const char *path, Text *out, Error *err) {
    Status st = file_read(path, MAX_PROMPT_BYTES, out, err);
    if (st == ERR_FILE) st = err->status = ERR_FAILED;  // ERR_FILE speaks of the model
    return st;
}
