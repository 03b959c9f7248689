// Traces of an engine that is wrong on purpose: `plumb trace --fault`.
//
// This file owns: reading the list of faults, the prompt's text as such an engine gets it. It
// leaves to others: the engine and its faults (verify/fault.h).
#ifndef PLUMB_CLI_FAULT_TRACE_H
#define PLUMB_CLI_FAULT_TRACE_H

#include "cli/prompt.h"
#include "verify/capture.h"
#include "verify/fault.h"

typedef struct {
    const Fault *faults[MUTANT_FAULTS + 1];  // NULL ends
    size_t n;
    Text names;  // "P1.q P1.k F1"
} FaultList;

// "P1,F1,T3": ids, or what stands before the dot of several ("P1": P1.q, P1.k, ...). ERR_USAGE for
// one that there is none of, with the list; and for too many.
Status fault_list_read(const char *text, FaultList *out, Error *err);
void fault_list_free(FaultList *l);

// What an engine with these faults computes of the prompt (read by prompt_args_find), into *out: to
// be freed with mutant_free. Its text, where the prompt is not given as ids, is kept in *text.
Status fault_trace(const FaultList *l, const PromptArgs *a, const plumb_model *m, bool scores,
                   Text *text, TracePrompt *out, Error *err);

#endif
