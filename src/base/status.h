// Status and error message: the one way in which anything in Plumb fails.
//
// This room owns: the status numbers (they are also the exit codes of the command line), the
// one-line message that goes with them, and CHECK for a programmer's error.
// It leaves to others: printing. Only src/cli prints an error or ends the process.
#ifndef PLUMB_BASE_STATUS_H
#define PLUMB_BASE_STATUS_H

#include <stdarg.h>

typedef enum {
    OK = 0,
    ERR_FAILED = 1,       // it failed while running (I/O, context full, ...)
    ERR_USAGE = 2,        // the caller asked for something that makes no sense
    ERR_FILE = 3,         // a model (or other input) file is bad or not supported
    ERR_UNAVAILABLE = 4,  // a backend, a device or memory is not available
    ERR_MISMATCH = 5,     // verify found a mismatch
} Status;

// One line that a stranger can act on: which file, which key or tensor, expected, found, cure.
// No trailing newline. Every function that takes an Error accepts NULL.
typedef struct {
    Status status;
    char text[1024];
} Error;

// Fills err (unless NULL) and returns st, so that callers write `return error_set(err, ...)`.
Status error_set(Error *err, Status st, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
Status error_setv(Error *err, Status st, const char *fmt, va_list ap);

// Puts "prefix: " before the message that is there already; returns err->status.
Status error_prefix(Error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// "out of memory: WHAT needs N bytes", as ERR_UNAVAILABLE.
Status error_memory(Error *err, const char *what, unsigned long long bytes);

// A notice is a line for the user that is not an error (an unknown pre-tokenizer, a guess made).
// Whoever opens something may pass a sink; a NULL fn drops notices.
typedef struct {
    void (*fn)(void *user, const char *line);
    void *user;
} Notice;

void notice_say(Notice notice, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// Writes at most `size` bytes of s into out as printable text: control bytes and invalid UTF-8
// become \xNN. For names that come from a hostile file. Returns out, always NUL-terminated.
const char *printable(const char *s, unsigned long long len, char *out, unsigned long long size);

// A programmer's error, never an input's: always compiled in, prints the place and aborts.
void check_failed(const char *file, int line, const char *what) __attribute__((noreturn));
#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond))

#endif
