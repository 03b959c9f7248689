// Saved conversations; see chat_file.h.
#include "cli/chat_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/json.h"

enum { MAX_FILE_BYTES = 64 << 20 };

#if HAVE_JANSSON

static json_t *messages_json(const plumb_session *s) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < plumb_chat_length(s); i++) {
        const char *role, *content;
        plumb_chat_get(s, i, &role, &content);
        if (json_array_append_new(list, json_pack("{s:s, s:o}", "role", role, "content",
                                                  json_text(content, strlen(content))))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

Status chat_file_save(const char *path, const plumb_session *s, Error *err) {
    json_t *root = json_pack("{s:o}", "messages", messages_json(s));
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (!text) return error_memory(err, "the conversation", 0);
    OutFile *o = NULL;
    Status st = out_open(path, &o, err);
    if (!st) {
        st = out_write(o, text, strlen(text), err);
        if (!st) st = out_write(o, "\n", 1, err);
        if (st)
            out_abort(o);
        else
            st = out_commit(o, err);
    }
    free(text);
    return st;
}

static Status check_messages(const char *path, const json_t *list, Error *err) {
    if (!json_is_array(list))
        return error_set(err, ERR_FAILED, "%s: there is no list \"messages\"", path);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        const char *role = json_string_value(json_object_get(m, "role"));
        if (!role || !json_is_string(json_object_get(m, "content"))) {
            return error_set(err, ERR_FAILED,
                             "%s: message %zu needs the texts \"role\" and \"content\"", path, i);
        }
        if (strcmp(role, "system") && strcmp(role, "user") && strcmp(role, "assistant")) {
            char shown[64];
            return error_set(
                err, ERR_FAILED,
                "%s: message %zu: the role must be system, user or assistant, not '%s'", path, i,
                printable(role, strlen(role), shown, sizeof shown));
        }
    }
    return OK;
}

Status chat_file_load(const char *path, plumb_session *s, Error *err) {
    Text text = {0};
    json_error_t where;
    Status st = file_read(path, MAX_FILE_BYTES, &text, err);
    if (st) {
        text_free(&text);
        if (st == ERR_FILE) st = err->status = ERR_FAILED;  // ERR_FILE speaks of the model
        return st;
    }
    json_t *root = json_loadb(text.data ? text.data : "", text.len, JSON_REJECT_DUPLICATES, &where);
    text_free(&text);
    if (!root) {
        char shown[sizeof where.text];  // the message may quote the file
        return error_set(err, ERR_FAILED, "%s: line %d: %s", path, where.line,
                         printable(where.text, strlen(where.text), shown, sizeof shown));
    }
    const json_t *list = json_object_get(root, "messages");
    st = check_messages(path, list, err);
    if (!st) plumb_chat_truncate(s, 0);
    for (size_t i = 0; !st && i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        st = (Status)plumb_chat_add(s, json_string_value(json_object_get(m, "role")),
                                    json_string_value(json_object_get(m, "content")),
                                    (plumb_error *)(void *)err);
    }
    json_decref(root);
    return st;
}

#else

static Status no_json(Error *err) {
    return error_set(err, ERR_UNAVAILABLE,
                     "saved conversations need the jansson library, which this build lacks; "
                     "install libjansson-dev "
                     "and run make");
}

Status chat_file_save(const char *path, const plumb_session *s, Error *err) {
    (void)path, (void)s;
    return no_json(err);
}

Status chat_file_load(const char *path, plumb_session *s, Error *err) {
    (void)path, (void)s;
    return no_json(err);
}

#endif
