// What verify found, as data: every way of showing it starts from here.
//
// This room owns: the result types, their growth and freeing, and which finding is the first.
// It leaves to others: making them (lint.h, prompt_check.h, replay.h, paths.h), showing them
// (report_text.c, report_json.c, report_html.c).
#ifndef PLUMB_VERIFY_REPORT_H
#define PLUMB_VERIFY_REPORT_H

#include "verify/cause.h"

typedef enum { STAGE_FILE, STAGE_PROMPT, STAGE_COMPONENTS, STAGE_PATHS, N_STAGES } StageId;
const char *stage_name(StageId s);  // "file", "prompt", "components", "paths"

typedef enum { OUTCOME_SKIPPED, OUTCOME_PASS, OUTCOME_FAIL } Outcome;
const char *outcome_name(Outcome o);  // "skipped", "pass", "fail"

enum { FINDING_TEXT = 320, FINDING_ID = 40 };

// A line of the file, prompt or paths stage (or a remark on the components).
typedef struct {
    StageId stage;
    char id[FINDING_ID];      // stable: "bos-missing", "chunks of 9", "norm-weights"
    char text[FINDING_TEXT];  // one sentence
    Outcome outcome;          // FAIL ends in exit 5; PASS is a check that held; SKIPPED a remark
    bool warning;             // not a failure, but odd
    int prompt;               // index, -1: none
} Finding;

// One component of one prompt.
typedef struct {
    ComponentRef ref;
    int prompt;  // index into prompts
    Outcome outcome;
    Cell worst;
    size_t token, head;           // of the worst cell
    size_t bad_token, bad_head;   // the first that fails; token, head where none does
    size_t n_cells, n_bad;        // rows x groups that were looked at; that fail
    size_t rows, groups;          // of `cells`
    size_t *row_token;            // rows: which tokens were looked at (owned), NULL: 0..rows-1
    float *ratios;                // rows x groups (owned), or NULL where not kept
    bool coarse;                  // some of its inputs were recomputed ...
    ComponentRef since;           // ... from this one on, the earliest of them
    double drift;                 // NMSE against a pass of the oracle's own; -1: not computed
    char rounding[40];            // the way that fits where it is not the run's; "" else
    Cause cause;                  // where it fails
    char equivalent[CAUSE_TEXT];  // "" or why a difference does no harm (it then passes)
} ComponentResult;

typedef struct {
    char name[64];
    int32_t *tokens;
    size_t n_tokens;
    char text[FINDING_TEXT];  // what it is for: "20 tokens of a chat"; what it cannot see
} PromptResult;

typedef struct {
    char model_path[256], model_sha256[65], model_what[160];  // "llama, 6 layers, dim 256, Q4_K_M"
    char subject[256];   // "backend cpu (2 threads, avx2 kernels)" or "trace other.gguf"
    char backend[32];    // "cpu"; of a trace: what it says or ""
    char build[64];      // "plumb 0.1.0"
    char rounding[200];  // "activations q8_k, cache f16 (declared)" or "... (fits best of 14)"
    char command[512];   // reproduces it
    int n_layers;        // of the model
    Outcome stage[N_STAGES];
    char stage_reason[N_STAGES][FINDING_TEXT];  // why skipped; else a summary ("132 components")
    Finding *findings;
    size_t n_findings, cap_findings;
    PromptResult *prompts;
    size_t n_prompts, cap_prompts;
    ComponentResult *components;
    size_t n_components, cap_components;
    double seconds;
} Report;

void report_init(Report *r);
void report_free(Report *r);
// Each appends; ERR_UNAVAILABLE for no memory. What comes back is valid until the next append.
Status report_finding(Report *r, StageId stage, int prompt, const char *id, Outcome outcome,
                      bool warning, Error *err, const char *fmt, ...)
    __attribute__((format(printf, 8, 9)));
Status report_prompt(Report *r, const char *name, const int32_t *tokens, size_t n, const char *text,
                     int *index, Error *err);
Status report_component(Report *r, ComponentResult **out, Error *err);
// Sorts components by prompt and pass, fills stage[] from findings and components, and the reasons
// that are empty. A stage that was marked skipped, with the reason, stays so unless something in it
// failed; one that was marked passed need not have findings.
void report_finish(Report *r);
bool report_passed(const Report *r);

// The first finding of the first failing stage; of components, first in the order of the pass over
// all prompts. NULL: none.
typedef struct {
    StageId stage;
    const Finding *finding;            // of file, prompt, paths
    const ComponentResult *component;  // of components
} First;
First report_first(const Report *r);
const ComponentResult *report_first_component(const Report *r);  // NULL: all pass
// "first divergence: blk.0.q (token 3): NMSE 2.07, bound 1e-10; weights read transposed (3e-13 if
// so)". Several lines where a prompt fault and a component are both there. Appends to out.
void report_sentence(const Report *r, Text *out);

// Appends the table and the sentence. width: of the terminal; color: with escape codes.
void report_text(const Report *r, bool verbose, bool color, int width, Text *out);
// One JSON object, compact. ERR_UNAVAILABLE without jansson.
Status report_json(const Report *r, Text *out, Error *err);
// One page that carries all: no network, no other file.
Status report_html(const Report *r, Text *out, Error *err);

#endif
