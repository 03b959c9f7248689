// Growing buffers; see checked.h.
#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

bool text_reserve(Text *t, size_t more) {
    uint64_t need;
    if (!checked_add(t->len, more, &need) || !checked_add(need, 1, &need)) return false;
    if (need <= t->cap) return true;
    size_t cap = t->cap < 64 ? 64 : t->cap;
    while (cap < need) {
        if (cap > SIZE_MAX / 2) return false;
        cap *= 2;
    }
    char *data = realloc(t->data, cap);
    if (!data) return false;
    t->data = data, t->cap = cap;
    t->data[t->len] = 0;
    return true;
}

bool text_append(Text *t, const void *bytes, size_t len) {
    if (!text_reserve(t, len)) return false;
    if (len) memcpy(t->data + t->len, bytes, len);
    t->len += len;
    t->data[t->len] = 0;
    return true;
}

bool text_append_str(Text *t, const char *s) {
    return text_append(t, s, strlen(s));
}

void text_free(Text *t) {
    free(t->data);
    *t = (Text){0};
}

bool tokens_append(TokenList *t, int32_t id) {
    if (t->len == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        int32_t *data = cap > SIZE_MAX / sizeof *data ? NULL : realloc(t->data, cap * sizeof *data);
        if (!data) return false;
        t->data = data, t->cap = cap;
    }
    t->data[t->len++] = id;
    return true;
}

void tokens_free(TokenList *t) {
    free(t->data);
    *t = (TokenList){0};
}
