// Inner header of the files selftest*.c.
//
//   selftest.c         the list of cases, the workers, the scores
//   selftest_case.c    one case: an engine runs, verify judges
//   selftest_others.c  what other checks say of the same trace
//   selftest_table.c   the table and the JSON
#ifndef PLUMB_VERIFY_SELFTEST_INTERNAL_H
#define PLUMB_VERIFY_SELFTEST_INTERNAL_H

#include "model/chat_template.h"
#include "oracle/oracle.h"
#include "verify/prompts.h"
#include "verify/selftest.h"

// A model and a prompt that faults are run on.
typedef struct {
    TinyKind kind;
    TensorType type;
    int n_vocab;  // 0: the kind's own
    VerifyPrompt prompt;
    ActWay way;        // how products with weights of `type` round their input
    TensorType cache;  // the type of k and v there
    bool says;         // the trace says so; else verify has to find out
    bool scores;       // kq and kq_soft_max are captured
} SettingPlan;

enum { MOST_CHUNKS = 64 };

typedef struct {
    const SettingPlan *plan;
    TinyModel tiny;
    TokenList ids;
    size_t chunks[MOST_CHUNKS], n_chunks;
    ActScheme act;
    AttnScheme attn;
    TracePrompt clean;  // of the engine without faults
} Setting;

Status setting_new(const SettingPlan *plan, Setting *out, Error *err);
void setting_free(Setting *s);

// The vocabulary and template that faults of the prompt are run with, a model of as many tokens.
typedef struct {
    const Gguf *gguf;
    Tokenizer *tokenizer;
    const ChatTemplate *chat;  // NULL: a base model
    TinyModel tiny;
} TextSetting;

enum { N_TEXTS = 5 };

Status text_setting_new(const Gguf *g, TextSetting *out, Error *err);
void text_setting_free(TextSetting *t);

// What became of a case.
typedef struct {
    bool ran, blind;  // blind: the trace is that of the engine without the fault
    bool detected, right_component, right_cause;
    double
        ratio;  // of the failing component, 0 where a finding failed; of a clean case the largest
    bool other[N_OTHERS];
    char got[96];    // what was named
    char what[160];  // of a clean case: who ran
} CaseResult;

Status case_fault(const Fault *f, const Setting *s, CaseResult *out, Error *err);
Status case_text_fault(const Fault *f, const TextSetting *t, int text, CaseResult *out, Error *err);
// Case i of the clean ones: another model, prompt and rounding each; detected is a false alarm.
Status case_clean(size_t i, CaseResult *out, Error *err);
Status case_clean_text(const TextSetting *t, int text, CaseResult *out, Error *err);

// What each other check says of a trace in which everything was captured; say[i]: it is wrong.
// clean: a trace of the same engine without the fault; with other tokens (faults of the prompt)
// only the last row's logits and the RMS values can be compared.
Status others_ask(Oracle *o, const Model *m, const Rounding *rounding, const TracePrompt *p,
                  const TracePrompt *clean, bool say[N_OTHERS], Error *err);

#endif
