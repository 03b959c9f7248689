// A conversation in a file: {"messages": [{"role": "user", "content": "..."}, ...]}, as chat APIs
// write them.
#ifndef PLUMB_CLI_CHAT_FILE_H
#define PLUMB_CLI_CHAT_FILE_H

#include "cli/cli.h"

Status chat_file_save(const char *path, const plumb_session *s, Error *err);
// Replaces the messages of s; on failure they stay as they were.
Status chat_file_load(const char *path, plumb_session *s, Error *err);

#endif
