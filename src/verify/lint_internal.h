// What the files of the file stage share. Nobody else includes this header.
#ifndef PLUMB_VERIFY_LINT_INTERNAL_H
#define PLUMB_VERIFY_LINT_INTERNAL_H

#include "verify/lint.h"

typedef struct {
    const Model *m;
    const Tokenizer *tok;  // NULL: none
    Report *r;
    Error *err;
    Status status;  // the first failure
} Lint;

typedef enum { LINT_PASS, LINT_REMARK, LINT_WARNING, LINT_FAIL } LintKind;
void lint_say(Lint *l, const char *id, LintKind kind, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

// lint_weights.c: all weights, read once
void lint_weights(Lint *l, int n_threads);
// lint_trace.c: what a trace says of its model
void lint_trace(Lint *l, const Trace *t);

#endif
