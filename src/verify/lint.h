// The file stage: what is wrong or odd about a model before anything is computed.
//
// This room owns: NaN and Inf, norms of norm weights, tied output, RoPE and epsilon, BOS/EOS ids
// and flags, vocabulary against rows, unused tensors; what a trace says of its model against the
// file. A finding fails only where the model cannot be right as it was read; what is merely unusual
// is a warning, what is worth knowing a remark. It leaves to others: the container (gguf.h), shapes
// (model.h: model_bind has checked them), printing (also `plumb inspect` shows some of this).
#ifndef PLUMB_VERIFY_LINT_H
#define PLUMB_VERIFY_LINT_H

#include "base/pool.h"
#include "model/chat_template.h"
#include "verify/report.h"

// Appends findings of STAGE_FILE. tok and t may be NULL, and so may m->gguf (a model made in
// memory). n_threads for reading all weights. r->model_sha256 is taken where it is filled.
Status lint_model(const Model *m, const Tokenizer *tok, const Trace *t, int n_threads, Report *r,
                  Error *err);

// --- what inspect shares ------------------------------------------------------------------------

enum { LINT_TEXT = 256 };

// What reading all of a tensor finds.
typedef struct {
    uint64_t bad, first_bad;  // weights that are NaN or infinite; the index of the first
    bool nonzero;             // some weight is not 0
} LintScan;
Status lint_scan(Pool *pool, const Tensor *t, LintScan *out, Error *err);
// "tensor T: every weight is zero"; false: nothing is wrong with it.
bool lint_scan_text(const Tensor *t, const LintScan *s, char out[LINT_TEXT]);
// The vocabulary against the rows of token_embd.weight; false: they agree, or one of them is not
// there.
bool lint_rows_text(const Gguf *g, char out[LINT_TEXT]);

#endif
