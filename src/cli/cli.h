// What the commands of the command line share: options, opening a model, progress, JSON, Ctrl-C.
//
// This room owns: stdout, stderr, signals, exit codes. A command is one file, cmd_NAME.c; main.c is
// the table.
#ifndef PLUMB_CLI_CLI_H
#define PLUMB_CLI_CLI_H

#include "base/checked.h"
#include "cli/args.h"
#include "formats/gguf.h"
#include "plumb.h"

// Every command gets its own argv (argv[0] is its name) and returns the exit code.
typedef int (*Command)(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_backends(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_help(int argc, char **argv);

// Prints "plumb: ..." on stderr and returns the exit code.
int cli_fail(const Error *err);
int cli_failf(Status st, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// Prints the help text of a command (help.c) on stdout; returns 0.
int cli_help(const char *command);
// Prints the devices of all backends, one a line (cmd_backends.c); returns 0.
int cli_list_devices(void);
// What was asked for instead of running a command.
int cli_instead(const char *command, bool list_devices);
// Flushes stdout; an exit code that tells of a full disk or a closed pipe.
int cli_finish(int code);
bool cli_color(bool asked, int fd);  // colour asked for, fd a terminal, NO_COLOR not set

// --- options that models and sessions share ---
typedef struct {
    const char *model;  // NULL: the demo model
    const char *backend, *cpu_isa, *type_k, *type_v;
    int threads, n_ctx, batch_size, device;
    int gpu_layers;  // -1: not said
    bool no_repack;
    bool check_tensors, verbose, json, color, list_devices;
} ModelArgs;
extern const ModelArgs model_args_default;
enum { N_MODEL_ARGS = 18 };
void model_args_table(ModelArgs *m, Arg table[N_MODEL_ARGS]);

// Opens the model that the options name (the demo model without one), notices and progress on
// stderr; what computes too, unless it is the CPU alone.
plumb_model *cli_open_model(const ModelArgs *m, Error *err);
plumb_session *cli_open_session(const ModelArgs *args, plumb_model *m, Error *err);
// The file alone: for inspect, tokenize, quantize. path NULL: the demo model.
Status cli_open_gguf(const char *path, Gguf **out, Error *err);
Notice cli_notice(void);

// --- options of generation ---
typedef struct {
    plumb_generation g;
    ArgList stop, bias;
    plumb_logit_bias *biases;
    bool lookup;
} GenerationArgs;
GenerationArgs generation_args_default(void);
enum { N_GENERATION_ARGS = 19 };
void generation_args_table(GenerationArgs *a, Arg table[N_GENERATION_ARGS]);
Status generation_args_finish(GenerationArgs *a, Error *err);  // after reading
void generation_args_free(GenerationArgs *a);

// --- Ctrl-C: the first ends the answer of s, a second one the program ---
void cli_catch_interrupt(plumb_session *s);  // NULL: back to the default

// --- progress on stderr, on a terminal only; total 0 ends it ---
void cli_progress(const char *what, double done, double total);

// --- the line that ends a run ---
typedef struct {
    double prefill_tok_s, decode_tok_s, decode_gb_s,
        share;  // share of the machine's bandwidth; 0: not known
    double ttft_s;
    bool lookup;           // was asked for
    double accepted;       // the share of drafted tokens
    double tokens_a_step;  // 1 without lookup; 0: no step
} RunFigures;
RunFigures cli_figures(const plumb_model *m, const plumb_generation *g, const plumb_result *r,
                       int threads, bool measure);
void cli_print_figures(const plumb_result *r, const RunFigures *f);

// Reads the whole of stdin or a file as a prompt. A trailing newline of a file stays.
Status cli_read_text(const char *path, Text *out, Error *err);

// "1, 529 29989" to ids.
Status cli_parse_ids(const char *text, TokenList *out, Error *err);

extern const unsigned char cli_demo_model[];
size_t cli_demo_model_bytes(void);

#endif
