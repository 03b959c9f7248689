// The self-test: every fault on every prompt, and a thousand clean runs, through verify itself.
//
// This room owns: running them in parallel, judging verify's answers, the table.
#ifndef PLUMB_VERIFY_SELFTEST_H
#define PLUMB_VERIFY_SELFTEST_H

#include "verify/fault.h"
#include "verify/report.h"

typedef struct {
    int n_threads;
    size_t n_clean;          // clean cases; 0: 1000
    const char *only;        // a fault's id, or NULL
    const Gguf *text_model;  // whose vocabulary and template the text faults use
    void (*progress)(void *user, const char *what, double done, double total);  // or NULL
    void *user;
} SelftestOptions;

// What other checks say of the same traces against a clean one.
typedef enum {
    OTHER_LOGITS_NMSE,  // > 1e-2
    OTHER_OP_NMSE,      // > 5e-4 of any component, pooled over the tensor, on the same inputs
    OTHER_COSINE,       // of the logits < 0.99
    OTHER_TOP1,         // another token
    OTHER_RMS,          // the RMS of any component more than 10 % off
    N_OTHERS
} OtherCheck;
const char *other_check_name(OtherCheck o);

typedef struct {
    const Fault *fault;
    size_t cases;  // fault x prompt x model in which the trace is not the clean one's
    size_t blind;  // in which it is: to the bit, or (and not detected) within float32's rounding
    size_t detected, right_component, right_cause;
    double smallest_ratio;  // of the failing component over the detected cases
    size_t other[N_OTHERS];
    char got[96];  // where wrong: the component and cause named instead
} FaultScore;

typedef struct {
    FaultScore *faults;
    size_t n_faults;
    size_t clean_cases, false_alarms;
    double clean_ratio;    // the largest of engines that say how they round
    char clean_what[160];  // where that is
    char alarm[160];       // the first false alarm
    double seconds;
} Selftest;

Status selftest_run(const SelftestOptions *options, Selftest *out, Error *err);
void selftest_free(Selftest *s);
bool selftest_passed(const Selftest *s);  // the goals of docs/verify.md
// The table: a row a family; a row a fault when verbose. Appends.
void selftest_text(const Selftest *s, bool verbose, Text *out);
Status selftest_json(const Selftest *s, Text *out, Error *err);

#endif
