// plumb verify: the stages in order, into one report.
//
// This room owns: which stage runs on what, and in which order. Nothing here prints.
#ifndef PLUMB_VERIFY_VERIFY_H
#define PLUMB_VERIFY_VERIFY_H

#include "model/chat_template.h"
#include "verify/paths.h"

typedef enum { VERIFY_DEFAULT, VERIFY_QUICK, VERIFY_FULL } VerifyDepth;

typedef struct {
    const Gguf *gguf;
    const Model *model;
    const Tokenizer *tokenizer;  // NULL: the file has none
    const ChatTemplate *chat;    // NULL: a base model
    int n_threads;
    TensorType type_k, type_v;  // of our backend's cache
    const char *isa;            // that it runs; NULL: its best
    VerifyDepth depth;
    bool allow_odd_prompt;
    const char *text;  // --against: what the only prompt was made from, or NULL
    void (*progress)(void *user, const char *what, double done, double total);  // or NULL
    void *user;
    Notice notice;
} VerifyOptions;

// Our own backend. Fills r (report_init before, report_free after, also on failure).
Status verify_backend(const VerifyOptions *o, DeviceModel *d, Report *r, Error *err);
// Another engine's trace. qk as given on the command line.
Status verify_trace(const VerifyOptions *o, const char *path, QkLayout qk, Report *r, Error *err);

#endif
