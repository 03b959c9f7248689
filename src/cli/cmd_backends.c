// plumb backends: what can compute on this machine, and why the rest cannot.
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "cli/cli.h"
#include "cli/json.h"

// What a backend says of itself: its devices, one a line, or why it cannot run here.
typedef struct {
    const BackendOps *ops;
    Text devices;
    Status status;
    Error why;
} Answer;

static Answer ask(const BackendOps *ops) {
    Answer a = {.ops = ops};
    a.status = ops->probe(&a.devices, &a.why);
    return a;
}

// The next line of a probe's answer; false at its end.
static bool next_line(const char **at, const char **line, size_t *len) {
    while (*at && **at == '\n') (*at)++;
    if (!*at || !**at) return false;
    *line = *at;
    *len = strcspn(*at, "\n");
    *at += *len;
    return true;
}

// "cuda:0 NVIDIA H100" of the line "0: NVIDIA H100": what --backend and --device take.
static void print_devices(const Answer *a, const char *indent) {
    const char *at = a->devices.data, *line;
    size_t len;
    while (!a->status && next_line(&at, &line, &len)) {
        const size_t index = strspn(line, "0123456789"), gap = index + strspn(line + index, ": ");
        printf("%s%s:%.*s %.*s\n", indent, a->ops->name, (int)index, line, (int)(len - gap),
               line + gap);
    }
}

static void print_answer(const Answer *a) {
    printf("%-8s %s\n", a->ops->name, a->ops->what);
    if (a->status) printf("    cannot run here: %s\n", a->why.text);
    print_devices(a, "    ");
}

int cli_list_devices(void) {
    for (int i = 0; backend_at(i); i++) {
        Answer a = ask(backend_at(i));
        print_devices(&a, "");
        text_free(&a.devices);
    }
    return cli_finish(0);
}

#if HAVE_JANSSON
static json_t *answer_json(const Answer *a) {
    const char *at = a->devices.data, *line;
    size_t len;
    json_t *devices = json_array();
    while (!a->status && next_line(&at, &line, &len)) {
        if (json_array_append_new(devices, json_text(line, len))) {
            json_decref(devices);
            return NULL;
        }
    }
    return json_pack("{s:s, s:s, s:b, s:o, s:s?}", "name", a->ops->name, "what", a->ops->what,
                     "available", a->status == OK, "devices", devices, "reason",
                     a->status ? a->why.text : NULL);
}

static Status print_json(Error *err) {
    json_t *list = json_array();
    for (int i = 0; list && backend_at(i); i++) {
        Answer a = ask(backend_at(i));
        if (json_array_append_new(list, answer_json(&a))) {
            json_decref(list);
            list = NULL;
        }
        text_free(&a.devices);
    }
    return json_print(json_pack("{s:o}", "backends", list), err);
}
#else
static Status print_json(Error *err) {
    return json_check(err);
}
#endif

int cmd_backends(int argc, char **argv) {
    bool json = false, help = false, list = false;
    const Arg own[] = {
        {"--json", ARG_FLAG, &json, 0}, {"--list-devices", ARG_INSTEAD, &list, 0}, {0}};
    const Arg *const tables[] = {own};
    Error err;
    Status st = args_read(argc, argv, tables, 1, NULL, &help, &err);
    if (st) return cli_fail(&err);
    if (help) return cli_instead("backends", list);
    if (json) st = print_json(&err);
    for (int i = 0; !json && backend_at(i); i++) {
        Answer a = ask(backend_at(i));
        print_answer(&a);
        text_free(&a.devices);
    }
    return cli_finish(st ? cli_fail(&err) : 0);
}
