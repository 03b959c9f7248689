// plumb verify: is a backend, or another engine's run, right; and if not, where and why?
//
// This file owns: options, opening what they name, where reports go, the exit code. It leaves to
// others: all checking (verify/verify.h), what a report looks like (verify/report.h).
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/pool.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/output.h"
#include "verify/selftest.h"
#include "verify/verify.h"

enum { DEFAULT_WIDTH = 100, MAX_THREADS = 1024 };

typedef struct {
    const char *model, *cpu_isa, *type_k, *type_v;
    const char *against, *qk_layout, *prompt, *html, *fault;
    ArgList backends;
    int threads, device, gpu_layers;  // the last two -1: not said
    bool allow_odd_prompt, quick, full, self_test, json, color, verbose, list_devices;
} VerifyArgs;

// What the options come to.
typedef struct {
    const VerifyArgs *a;
    Gguf *gguf;
    Model *model;
    Tokenizer *tokenizer;      // NULL: the file has none
    const ChatTemplate *chat;  // NULL: a base model
    TensorType type_k, type_v;
    QkLayout qk;
    int n_threads;
    char command[512];
} Subject;

// --- options ----------------------------------------------------------------------------------

static Status check_args(const VerifyArgs *a, Error *err) {
    if (a->quick && a->full)
        return error_set(err, ERR_USAGE, "--quick and --full exclude each other");
    const struct {
        const char *name;
        bool given, ours, trace, self_test;  // with a backend of ours, --against, --self-test
    } options[] = {
        {"--backend", a->backends.n > 0, true, false, false},
        {"--device", a->device >= 0, true, false, false},
        {"-ngl", a->gpu_layers >= 0, true, false, false},
        {"--cpu-isa", a->cpu_isa, true, false, false},
        {"-ctk", a->type_k, true, false, false},
        {"-ctv", a->type_v, true, false, false},
        {"--qk-layout", a->qk_layout, false, true, false},
        {"-p", a->prompt, false, true, false},
        {"--allow-odd-prompt", a->allow_odd_prompt, false, true, false},
        {"--fault", a->fault, false, false, true},
        {"--quick", a->quick, true, true, false},
        {"--full", a->full, true, true, false},
        {"--html", a->html, true, true, false},
        {"--against", a->against, true, true, false},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if (!options[i].given) continue;
        if (a->self_test && !options[i].self_test) {
            return error_set(err, ERR_USAGE, "%s says nothing to --self-test", options[i].name);
        }
        if (!a->self_test && options[i].self_test) {
            return error_set(err, ERR_USAGE, "%s needs --self-test", options[i].name);
        }
        if (a->against && !options[i].trace) {
            return error_set(err, ERR_USAGE,
                             "%s is for a backend of ours; --against judges a run that was made "
                             "already",
                             options[i].name);
        }
        if (!a->against && !options[i].ours && !options[i].self_test) {
            return error_set(err, ERR_USAGE, "%s needs --against TRACE", options[i].name);
        }
    }
    return OK;
}

static Status read_args(int argc, char **argv, VerifyArgs *a, bool *help, Error *err) {
    const Arg own[] = {{"-m, --model", ARG_TEXT, &a->model, 0},
                       {"-t, --threads", ARG_INT, &a->threads, 1},
                       {"--backend", ARG_LIST, &a->backends, 0},
                       {"--device", ARG_INT, &a->device, 0},
                       {"-ngl, --gpu-layers, --n-gpu-layers", ARG_INT, &a->gpu_layers, -1},
                       {"--list-devices", ARG_INSTEAD, &a->list_devices, 0},
                       {"--cpu-isa", ARG_TEXT, &a->cpu_isa, 0},
                       {"-ctk, --cache-type-k", ARG_TEXT, &a->type_k, 0},
                       {"-ctv, --cache-type-v", ARG_TEXT, &a->type_v, 0},
                       {"--against", ARG_TEXT, &a->against, 0},
                       {"--qk-layout", ARG_TEXT, &a->qk_layout, 0},
                       {"-p, --prompt", ARG_TEXT, &a->prompt, 0},
                       {"--allow-odd-prompt", ARG_FLAG, &a->allow_odd_prompt, 0},
                       {"--quick", ARG_FLAG, &a->quick, 0},
                       {"--full", ARG_FLAG, &a->full, 0},
                       {"--html", ARG_TEXT, &a->html, 0},
                       {"--self-test", ARG_FLAG, &a->self_test, 0},
                       {"--fault", ARG_TEXT, &a->fault, 0},
                       {"--json", ARG_FLAG, &a->json, 0},
                       {"--color", ARG_FLAG, &a->color, 0},
                       {"-v, --verbose", ARG_FLAG, &a->verbose, 0},
                       {0}};
    const Arg *const tables[] = {own};
    Status st = args_read(argc, argv, tables, 1, NULL, help, err);
    return st || *help ? st : check_args(a, err);
}

static Status read_kv_type(const char *flag, const char *name, TensorType *out, Error *err) {
    *out = TYPE_F16;
    if (!name ||
        (type_by_name(name, out) && (*out == TYPE_F32 || *out == TYPE_F16 || *out == TYPE_Q8_0))) {
        return OK;
    }
    return error_set(err, ERR_USAGE, "%s must be f32, f16 or q8_0, not '%s'", flag, name);
}

static Status read_qk_layout(const char *name, QkLayout *out, Error *err) {
    static const char *const names[] = {[QK_AUTO] = "auto", [QK_GGUF] = "gguf", [QK_HF] = "hf"};
    *out = QK_AUTO;
    for (int i = 0; name && i < 3; i++) {
        *out = (QkLayout)i;
        if (strcmp(name, names[i]) == 0) return OK;
    }
    return name ? error_set(err, ERR_USAGE, "--qk-layout must be gguf, hf or auto, not '%s'", name)
                : OK;
}

// The command line as a shell would read it again.
static void quote_command(int argc, char **argv, char *out, size_t size) {
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        "_-./=:,+@%";
    Text t = {0};
    text_append_str(&t, "plumb");
    for (int i = 0; i < argc; i++) {
        const char *at = argv[i];
        text_append_str(&t, " ");
        if (*at && at[strspn(at, plain)] == 0) {
            text_append_str(&t, at);
            continue;
        }
        text_append_str(&t, "'");
        for (; *at; at++) text_append(&t, *at == '\'' ? "'\\''" : at, *at == '\'' ? 4 : 1);
        text_append_str(&t, "'");
    }
    snprintf(out, size, "%s", t.data && t.len < size ? t.data : "");
    text_free(&t);
}

// --- opening ----------------------------------------------------------------------------------

static void close_subject(Subject *s) {
    tokenizer_free(s->tokenizer);
    model_free(s->model);
    gguf_close(s->gguf);
}

static Status open_vocabulary(Subject *s, Error *err) {
    if (!gguf_find(s->gguf, "tokenizer.ggml.model")) return OK;
    Status st = tokenizer_new(s->gguf, cli_notice(), &s->tokenizer, err);
    if (st) return st;
    if (tokenizer_n_vocab(s->tokenizer) > s->model->h.n_vocab) {
        return error_set(err, ERR_FILE, "%s: the vocabulary has %d tokens, the output %d rows",
                         gguf_path(s->gguf), tokenizer_n_vocab(s->tokenizer), s->model->h.n_vocab);
    }
    return chat_template_detect(s->gguf, s->tokenizer, (Notice){0}, &s->chat, err);
}

static Status open_subject(const VerifyArgs *a, Subject *s, Error *err) {
    s->a = a;
    s->n_threads = a->threads ? a->threads : pool_default_threads();
    if (s->n_threads > MAX_THREADS) {
        return error_set(err, ERR_USAGE, "%d threads are out of range (1 to %d)", a->threads,
                         MAX_THREADS);
    }
    Status st = read_kv_type("-ctk", a->type_k, &s->type_k, err);
    if (!st) st = read_kv_type("-ctv", a->type_v, &s->type_v, err);
    if (!st) st = read_qk_layout(a->qk_layout, &s->qk, err);
    if (!st && a->json) st = json_check(err);
    if (!st) st = cli_open_gguf(a->model, &s->gguf, err);
    if (!st) st = model_bind(s->gguf, cli_notice(), &s->model, err);
    if (!st) st = open_vocabulary(s, err);
    if (!st && a->html) st = output_check(a->html, s->gguf, true, err);
    return st;
}

// --- reports ----------------------------------------------------------------------------------

static int terminal_width(void) {
    struct winsize w;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : DEFAULT_WIDTH;
}

// name: of the backend, goes before the extension where there are several; or NULL.
static Status write_html(const char *path, const char *name, const Report *r, Error *err) {
    Text page = {0}, to = {0};
    OutFile *out = NULL;
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    const size_t stem = dot ? (size_t)(dot - path) : strlen(path);
    bool fits = text_append(&to, path, stem);
    if (name) fits = fits && text_append_str(&to, "-") && text_append_str(&to, name);
    fits = fits && text_append_str(&to, path + stem);
    Status st = fits ? report_html(r, &page, err) : error_memory(err, "a name", stem);
    if (!st) st = out_open(to.data, &out, err);
    if (!st && (st = out_write(out, page.data, page.len, err)))
        out_abort(out);
    else if (!st)
        st = out_commit(out, err);
    text_free(&page);
    text_free(&to);
    return st;
}

static Status show(const Subject *s, const Report *r, Error *err) {
    Text out = {0};
    Status st = OK;
    cli_progress(NULL, 0, 0);
    if (s->a->json) {
        st = report_json(r, &out, err);
        if (!st && !text_append_str(&out, "\n")) st = error_memory(err, "a report", out.len);
    } else {
        report_text(r, s->a->verbose, cli_color(s->a->color, STDOUT_FILENO), terminal_width(),
                    &out);
    }
    if (!st && out.len) fwrite(out.data, 1, out.len, stdout);
    fflush(stdout);
    text_free(&out);
    return st;
}

static void show_progress(void *user, const char *what, double done, double total) {
    (void)user;
    cli_progress(what, done, total);
}

static VerifyOptions verify_options(const Subject *s) {
    const VerifyArgs *a = s->a;
    return (VerifyOptions){
        .gguf = s->gguf,
        .model = s->model,
        .tokenizer = s->tokenizer,
        .chat = s->chat,
        .n_threads = s->n_threads,
        .type_k = s->type_k,
        .type_v = s->type_v,
        .isa = a->cpu_isa,
        .depth = a->full    ? VERIFY_FULL
                 : a->quick ? VERIFY_QUICK
                            : VERIFY_DEFAULT,
        .allow_odd_prompt = a->allow_odd_prompt,
        .text = a->prompt,
        .progress = show_progress,
        .notice = cli_notice(),
    };
}

// ops NULL: the trace. ERR_MISMATCH (with no message) where something is wrong.
static Status verify_one(const Subject *s, const BackendOps *ops, bool several, Error *err) {
    const VerifyOptions o = verify_options(s);
    DeviceModel *d = NULL;
    Report r;
    Status st = OK;
    report_init(&r);
    snprintf(r.command, sizeof r.command, "%s", s->command);
    if (ops) {
        const BackendConfig config = {.n_threads = s->n_threads,
                                      .isa = s->a->cpu_isa,
                                      .device = s->a->device > 0 ? s->a->device : 0,
                                      .notice = cli_notice()};
        st = device_model_open(s->model, ops, &config, &d, err);
        if (!st) st = verify_backend(&o, d, &r, err);
    } else {
        st = verify_trace(&o, s->a->against, s->qk, &r, err);
    }
    device_model_close(d);
    if (!st) st = show(s, &r, err);
    if (!st && s->a->html) st = write_html(s->a->html, several ? ops->name : NULL, &r, err);
    if (!st && !report_passed(&r)) st = ERR_MISMATCH;
    report_free(&r);
    return st;
}

// --- which -------------------------------------------------------------------------------------

// Is it judged without being named? Not where it is the processor under another name.
static bool is_of_interest(const BackendOps *ops) {
    Text devices = {0};
    const bool runs = ops->probe(&devices, NULL) == OK;
    text_free(&devices);
    return runs && ops->by_default();
}

enum { MOST_BACKENDS = 16 };

typedef struct {
    const BackendOps *ops[MOST_BACKENDS];
    size_t n;
} Backends;

static bool is_cpu(const BackendOps *ops) {
    return strcmp(ops->name, "cpu") == 0;
}

// -ngl may say that it is the CPU, or a GPU with all layers and the output; never both at once.
static Status check_layers(const Subject *s, Error *err) {
    const int layers = s->a->gpu_layers, n_layers = s->model->h.n_layers;
    if (layers <= 0 || layers > n_layers) return OK;
    return error_set(err, ERR_USAGE,
                     "verify judges a whole backend, and -ngl %d would split the model's %d layers "
                     "and its output between two; leave it out, or give -ngl %d",
                     layers, n_layers, n_layers + 1);
}

static Status named_backends(const VerifyArgs *a, Backends *out, Error *err) {
    for (size_t i = 0; i < a->backends.n && out->n < MOST_BACKENDS; i++) {
        const char *name = a->backends.items[i];
        const BackendOps *ops = out->ops[out->n++] = backend_by_name(name);
        if (!ops) {
            return error_set(
                err, ERR_UNAVAILABLE,
                "this build has no backend named '%s'; `plumb backends` lists those it has", name);
        }
        if (a->gpu_layers >= 0 && (a->gpu_layers == 0) != is_cpu(ops)) {
            return error_set(
                err, ERR_USAGE,
                "-ngl %d and --backend %s exclude each other; leave one of the two out",
                a->gpu_layers, name);
        }
    }
    return OK;
}

// The backends that were named or, without any, all that can run here.
static Status choose_backends(const Subject *s, Backends *out, Error *err) {
    const VerifyArgs *a = s->a;
    out->n = 0;
    Status st = check_layers(s, err);
    if (!st) st = named_backends(a, out, err);
    if (st) return st;
    for (int i = 0; !a->backends.n && backend_at(i) && out->n < MOST_BACKENDS; i++) {
        const BackendOps *ops = backend_at(i);
        if (a->gpu_layers >= 0 && (a->gpu_layers == 0) != is_cpu(ops)) continue;
        if (is_of_interest(ops)) out->ops[out->n++] = ops;
    }
    if (!out->n) {
        return error_set(err, ERR_UNAVAILABLE,
                         a->gpu_layers > 0 ? "no GPU can be used here; `plumb backends` says why"
                                           : "no backend can run here; `plumb backends` says why");
    }
    if (a->device > 0 && (out->n > 1 || is_cpu(out->ops[0]))) {
        return error_set(err, ERR_USAGE,
                         "--device %d needs one --backend that has several; --list-devices shows "
                         "them",
                         a->device);
    }
    return OK;
}

static Status verify(const Subject *s, Error *err) {
    Backends b;
    if (s->a->against) return verify_one(s, NULL, false, err);
    Status st = choose_backends(s, &b, err), worst = OK;
    for (size_t i = 0; !st && i < b.n; i++) {
        if (i > 0 && !s->a->json) putchar('\n');
        st = verify_one(s, b.ops[i], b.n > 1, err);
        if (st == ERR_MISMATCH) worst = st, st = OK;
    }
    return st ? st : worst;
}

// --- the self-test ------------------------------------------------------------------------------

static Status self_test(const Subject *s, Error *err) {
    const SelftestOptions o = {.n_threads = s->n_threads,
                               .only = s->a->fault,
                               .text_model = s->gguf,
                               .progress = show_progress};
    Selftest result;
    Text out = {0};
    Status st = selftest_run(&o, &result, err);
    cli_progress(NULL, 0, 0);
    if (st) return st;
    if (s->a->json) {
        st = selftest_json(&result, &out, err);
        if (!st && !text_append_str(&out, "\n")) st = error_memory(err, "a report", out.len);
    } else {
        selftest_text(&result, s->a->verbose, &out);
    }
    if (!st && out.len) fwrite(out.data, 1, out.len, stdout);
    if (!st && !selftest_passed(&result)) st = ERR_MISMATCH;
    text_free(&out);
    selftest_free(&result);
    return st;
}

int cmd_verify(int argc, char **argv) {
    VerifyArgs a = {.device = -1, .gpu_layers = -1};
    Subject s = {0};
    Error err;
    bool help = false;
    Status st = read_args(argc, argv, &a, &help, &err);
    if (!st && !help) {
        quote_command(argc, argv, s.command, sizeof s.command);
        st = open_subject(&a, &s, &err);
        if (!st) st = a.self_test ? self_test(&s, &err) : verify(&s, &err);
    }
    close_subject(&s);
    arg_list_free(&a.backends);
    if (help) return cli_instead("verify", a.list_devices);
    return cli_finish(st == ERR_MISMATCH ? ERR_MISMATCH : st ? cli_fail(&err) : 0);
}
