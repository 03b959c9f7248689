// Reading lines a person types: libedit on a terminal (history, editing), plain lines otherwise.
#ifndef PLUMB_CLI_LINE_H
#define PLUMB_CLI_LINE_H

#include "base/checked.h"

typedef enum { LINE_OK, LINE_END, LINE_INTERRUPTED, LINE_FAILED } LineResult;

typedef struct LineReader LineReader;
// color: the prompt in colour. NULL: out of memory.
LineReader *line_open(bool color);
void line_close(LineReader *r);  // saves the history
bool line_is_terminal(const LineReader *r);
// One message without its newline into *out (emptied first). A line that ends in a backslash goes
// on in the next.
LineResult line_read(LineReader *r, Text *out);

#endif
