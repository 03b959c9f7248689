// The command line: a table of commands.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/distance.h"
#include "cli/cli.h"

static const struct {
    const char *name;
    Command command;
} commands[] = {
    {"run", cmd_run},           {"chat", cmd_chat},     {"inspect", cmd_inspect},
    {"tokenize", cmd_tokenize}, {"bench", cmd_bench},   {"perplexity", cmd_perplexity},
    {"quantize", cmd_quantize}, {"synth", cmd_synth},   {"backends", cmd_backends},
    {"trace", cmd_trace},       {"verify", cmd_verify}, {"help", cmd_help},
};

static int print_version(void) {
    printf("plumb %s, backends:", plumb_version());
    for (int i = 0; backend_at(i); i++) printf(" %s", backend_at(i)->name);
    putchar('\n');
    return cli_finish(0);
}

// A program may be started with 0, 1 or 2 closed. The next file opened would get that number, and
// what is said on stdout or stderr would land in it. What is put there instead is at its end, and
// fails when written to, as a closed one does.
static void keep_standard_streams(void) {
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        if (open("/dev/null", O_RDONLY) != fd) _exit(ERR_FAILED);
    }
}

static int unknown_command(const char *name) {
    const char *nearest = NULL;
    int least = 3;  // more letters than that are another word
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const char *known = commands[i].name;
        int d = word_distance(name, strlen(name), known, strlen(known));
        if (d < least && d < (int)strlen(known)) least = d, nearest = known;
    }
    if (nearest) {
        return cli_failf(ERR_USAGE, "there is no command '%s'; did you mean %s?", name, nearest);
    }
    return cli_failf(ERR_USAGE, "there is no command '%s'; `plumb help` lists them", name);
}

int main(int argc, char **argv) {
    keep_standard_streams();
    if (argc < 2) return cli_help("");
    const char *name = argv[1];
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(name, commands[i].name) == 0) return commands[i].command(argc - 1, argv + 1);
    }
    if (strcmp(name, "--version") == 0) return print_version();
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return cli_help("");
    if (strcmp(name, "--list-devices") == 0) return cli_list_devices();
    return unknown_command(name);
}
