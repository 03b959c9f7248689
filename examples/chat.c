/* A conversation with a model, by libplumb alone: each line of stdin is a message.
 *
 *   cc chat.c $(pkg-config --cflags --libs plumb) -o chat && ./chat model.gguf
 */
#define _POSIX_C_SOURCE 200809L /* getline */
#include <plumb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_notice(void *user, const char *line) {
    (void)user;
    fprintf(stderr, "chat: %s\n", line);
}

static int on_text(void *user, const char *text, size_t len) {
    (void)user;
    fwrite(text, 1, len, stdout);
    return fflush(stdout) == 0; /* nobody reads any more: stop */
}

static plumb_status talk(plumb_session *s, plumb_error *err) {
    plumb_generation options = plumb_generation_default();
    options.sampling.temperature = 0;
    options.on_text = on_text;

    char *line = NULL;
    size_t room = 0;
    plumb_status st = PLUMB_OK;
    while (st == PLUMB_OK && getline(&line, &room, stdin) > 0) {
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0] == '\0') continue;
        plumb_result result;
        st = plumb_chat_add(s, "user", line, err);
        if (st == PLUMB_OK) st = plumb_chat_reply(s, &options, &result, err);
        if (st == PLUMB_OK) putchar('\n');
    }
    free(line);
    return st;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]);
        return PLUMB_USAGE;
    }
    plumb_error err = {PLUMB_OK, ""};
    plumb_model_options options = {.notice = on_notice};
    plumb_model *model = plumb_model_open(argv[1], &options, &err);
    plumb_session *session = model ? plumb_session_open(model, NULL, &err) : NULL;
    plumb_status st = session ? talk(session, &err) : err.status;

    if (st != PLUMB_OK) fprintf(stderr, "chat: %s\n", err.text);
    plumb_session_close(session);
    plumb_model_close(model);
    return (int)st;
}
