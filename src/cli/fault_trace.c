// Traces of an engine that is wrong on purpose; see fault_trace.h.
#include "cli/fault_trace.h"

#include <string.h>

#include "engine/plumb_internal.h"

// --- which faults -------------------------------------------------------------------------------

// Is it this fault's id, or all of it before the dot?
static bool is_named(const Fault *f, const char *word, size_t len) {
    return strncmp(f->id, word, len) == 0 && (f->id[len] == 0 || f->id[len] == '.');
}

static Status no_such_fault(const char *word, size_t len, Error *err) {
    Text all = {0};
    for (int i = 0; fault_at(i); i++) {
        if (i) text_append_str(&all, " ");
        text_append_str(&all, fault_at(i)->id);
    }
    error_set(err, ERR_USAGE, "there is no fault '%.*s'; they are: %s", (int)(len < 40 ? len : 40),
              word, all.data ? all.data : "");
    text_free(&all);
    return ERR_USAGE;
}

static Status take_fault(FaultList *l, const Fault *f, Error *err) {
    for (size_t i = 0; i < l->n; i++) {
        if (l->faults[i] == f) return OK;
    }
    if (l->n == MUTANT_FAULTS) {
        return error_set(err, ERR_USAGE, "an engine can have %d faults at once, --fault names more",
                         MUTANT_FAULTS);
    }
    const bool kept =
        (l->n == 0 || text_append_str(&l->names, " ")) && text_append_str(&l->names, f->id);
    if (!kept) return error_memory(err, "faults", l->names.len);
    l->faults[l->n++] = f;
    return OK;
}

Status fault_list_read(const char *text, FaultList *out, Error *err) {
    *out = (FaultList){0};
    while (*(text += strspn(text, ", "))) {
        const size_t len = strcspn(text, ", ");
        bool found = false;
        for (int i = 0; fault_at(i); i++) {
            if (!is_named(fault_at(i), text, len)) continue;
            found = true;
            Status st = take_fault(out, fault_at(i), err);
            if (st) return st;
        }
        if (!found) return no_such_fault(text, len, err);
        text += len;
    }
    return out->n ? OK : error_set(err, ERR_USAGE, "--fault names no fault");
}

void fault_list_free(FaultList *l) {
    text_free(&l->names);
}

// --- the prompt ---------------------------------------------------------------------------------

static bool of_prompt(const Fault *f) {
    return f->expect_finding != NULL;
}

// The whole text: the prompt in the model's template, special tokens written out.
static Status prompt_text(const PromptArgs *a, const plumb_model *m, Text *out, Error *err) {
    const ChatTemplate *t = m->chat_template;
    if (a->chat_template && !(t = chat_template_by_name(a->chat_template))) {
        return error_set(err, ERR_USAGE, "there is no chat template '%s'", a->chat_template);
    }
    if (strlen(a->text.data) != a->text.len) {
        return error_set(err, ERR_USAGE, "the prompt holds a NUL byte");
    }
    if (a->no_template || !t) {
        if (a->system) return error_set(err, ERR_USAGE, "-sys needs a chat template");
        return text_append(out, a->text.data, a->text.len)
                   ? OK
                   : error_memory(err, "the prompt", a->text.len);
    }
    ChatMessage messages[2];
    size_t n = 0;
    if (a->system) messages[n++] = (ChatMessage){"system", a->system};
    messages[n++] = (ChatMessage){"user", a->text.data};
    ChatText chat = {0};
    Status st = chat_template_render(t, messages, n, true, &chat, err);
    for (size_t i = 0; !st && i < chat.n_spans; i++) {
        if (text_append(out, chat.spans[i].text, chat.spans[i].len)) continue;
        st = error_memory(err, "the prompt", out->len);
    }
    chat_text_free(&chat);
    return st;
}

static Status prompt_ids(const FaultList *l, const PromptArgs *a, const plumb_model *m, Text *text,
                         TokenList *ids, Error *err) {
    if (!a->tokens) {
        Status st = prompt_text(a, m, text, err);
        return st ? st : mutant_tokens(m->gguf, m->tokenizer, text->data, l->faults, ids, err);
    }
    for (size_t i = 0; i < l->n; i++) {
        if (!of_prompt(l->faults[i])) continue;
        return error_set(err, ERR_USAGE,
                         "%s is a fault of tokenizing, --tokens leaves nothing to "
                         "tokenize",
                         l->faults[i]->id);
    }
    return cli_parse_ids(a->tokens, ids, err);
}

Status fault_trace(const FaultList *l, const PromptArgs *a, const plumb_model *m, bool scores,
                   Text *text, TracePrompt *out, Error *err) {
    MutantOptions o = {.act = *act_scheme_at(0),
                       .attn = *attn_scheme_at(0),
                       .out = PREC_F32,
                       .scores = scores,
                       .cache = true};
    for (size_t i = 0; i < l->n; i++) o.faults[i] = l->faults[i];
    TokenList ids = {0};
    *out = (TracePrompt){.name = "", .chosen = -1};
    Status st = prompt_ids(l, a, m, text, &ids, err);
    if (!st && ids.len == 0) st = error_set(err, ERR_USAGE, "the prompt has no token");
    for (size_t i = 0; !st && i < ids.len; i++) {
        if (ids.data[i] < m->model->h.n_vocab) continue;
        st = error_set(err, ERR_USAGE, "token id %d is out of range (the model has %d)",
                       ids.data[i], m->model->h.n_vocab);
    }
    if (!st) st = mutant_run(m->model, ids.data, ids.len, &o, out, err);
    if (!st && text->len) out->text = text->data;
    tokens_free(&ids);
    return st;
}
