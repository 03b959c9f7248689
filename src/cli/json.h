// JSON that commands print, made by jansson. Field names are fixed: other programs rely on them.
#ifndef PLUMB_CLI_JSON_H
#define PLUMB_CLI_JSON_H

#include "cli/cli.h"

#if HAVE_JANSSON
#include <jansson.h>
// Text of any bytes: what is not UTF-8 becomes U+FFFD. NULL when out of memory.
json_t *json_text(const char *s, size_t len);
json_t *json_ids(const int32_t *ids, size_t n);
// Prints the object on one line and frees it. NULL (out of memory on the way) is an error.
Status json_print(json_t *object, Error *err);
#endif

// ERR_UNAVAILABLE, with the package to install, where this build has no jansson.
Status json_check(Error *err);
Status json_print_run(const plumb_model *m, const plumb_result *r, int n_logprobs,
                      const RunFigures *f, double load_s, Error *err);

#endif
