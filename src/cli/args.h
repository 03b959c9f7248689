// Command-line arguments: a table of options a command, strict numbers, errors that suggest.
//
// This room owns: reading argv. It leaves to others: what the values mean.
#ifndef PLUMB_CLI_ARGS_H
#define PLUMB_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum {
    ARG_FLAG,     // bool *: set true
    ARG_NO,       // bool *: set false
    ARG_INT,      // int *, at least `min`
    ARG_I64,      // int64_t *
    ARG_FLOAT,    // float *
    ARG_TEXT,     // const char **
    ARG_LIST,     // ArgList *: may be given many times
    ARG_INSTEAD,  // bool *: set true and reading stops, as for --help: this is done instead
    ARG_IGNORE,   // accepted for other programs' sake, without a value
} ArgKind;

typedef struct {
    const char **items;
    size_t n;
} ArgList;

typedef struct {
    const char *names;  // "-n, --predict, --max-tokens"
    ArgKind kind;
    void *to;
    int min;  // of ARG_INT
} Arg;

// Reads argv[1..argc) by the tables (each ends with names == NULL; NULL tables are skipped). Words
// that are no option go to `rest` (NULL: they are an error). "--help" and ARG_INSTEAD set
// *help and stop. ERR_USAGE names the word.
Status args_read(int argc, char **argv, const Arg *const *tables, size_t n_tables, ArgList *rest,
                 bool *help, Error *err);
void arg_list_free(ArgList *l);

// Strict numbers: the whole text, in range.
bool arg_int(const char *text, int64_t min, int64_t max, int64_t *out);
bool arg_float(const char *text, double *out);

#endif
