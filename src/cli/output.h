// Outputs of the commands that write a model: what may be overwritten, progress, the summary.
#ifndef PLUMB_CLI_OUTPUT_H
#define PLUMB_CLI_OUTPUT_H

#include "cli/cli.h"
#include "formats/mix.h"
#include "formats/quant_stream.h"

// ERR_USAGE when path is a regular file that exists (unless forced) or, with in != NULL, one of the
// files that in was read from. Pipes and devices are fine.
Status output_check(const char *path, const Gguf *in, bool force, Error *err);

// A progress bar under the word `what`, which must stay.
Progress output_progress(const char *what);

// The mix of that name; ERR_USAGE that lists them.
Status output_mix(const char *name, const Mix **out, Error *err);
void output_list_mixes(void);

// Reads the written file back and says on stderr how big it is: "IN 22.3 MiB -> OUT 6.4 MiB,
// Q4_K_M, 4.9 bits a weight, 1.2 s". in_bytes 0: there is no input.
Status output_summary(const char *in, uint64_t in_bytes, const char *path, const Mix *mix,
                      double seconds, Error *err);

#endif
