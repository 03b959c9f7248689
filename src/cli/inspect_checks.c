// What is odd about a model file; see inspect_checks.h.
#include "cli/inspect_checks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "cli/cli.h"
#include "formats/mix.h"
#include "verify/lint.h"

typedef unsigned long long ull;

// A notice; the path in front of it, if it is there, is what the reader asked about anyway.
static void add_line(void *user, const char *line) {
    Inspection *in = user;
    const char *path = gguf_path(in->g);
    const size_t n = strlen(path);
    if (strncmp(line, path, n) == 0 && line[n] == ':')
        line += n + 1 + strspn(line + n + 1, " ");
    else if (strncmp(line, path, n) == 0 && line[n] == ' ')
        line += n + 1;
    if (in->n_warnings == in->cap_warnings) {
        const size_t cap = in->cap_warnings ? 2 * in->cap_warnings : 16;
        char **lines = realloc(in->warnings, cap * sizeof *lines);
        if (!lines) {
            in->no_memory = true;
            return;
        }
        in->warnings = lines, in->cap_warnings = cap;
    }
    const size_t size = strlen(line) + 1;
    char *copy = malloc(size);
    if (!copy) {
        in->no_memory = true;
        return;
    }
    in->warnings[in->n_warnings++] = memcpy(copy, line, size);
}

static Notice sink(Inspection *in) {
    return (Notice){add_line, in};
}

// --- the container -------------------------------------------------------------------------------

// What each part's tensors span, and what is left over behind them and between them. A part without
// tensors says nothing of where it should end.
static void check_extent(Inspection *in) {
    const Gguf *g = in->g;
    const uint64_t align = gguf_alignment(g);
    uint64_t end = 0, used = 0;
    size_t i = 0;
    for (int part = 0; part < gguf_n_parts(g); part++) {
        uint64_t from = UINT64_MAX, to = 0;
        for (; i < gguf_n_tensors(g) && gguf_tensor_at(g, i)->part == part; i++) {
            const Tensor *t = gguf_tensor_at(g, i);
            if (t->offset < from) from = t->offset;
            if (t->offset + t->bytes > to) to = t->offset + t->bytes;
            used += (t->bytes + align - 1) / align * align;
        }
        if (to == 0) return;
        used += from;
        end += (to + align - 1) / align * align;
    }
    const uint64_t bytes = gguf_file_bytes(g);
    if (end > used) {
        notice_say(sink(in), "%llu bytes between tensors belong to none", (ull)(end - used));
    }
    if (bytes > end) notice_say(sink(in), "%llu bytes follow the last tensor", (ull)(bytes - end));
}

static void check_container(Inspection *in) {
    const uint64_t align = gguf_alignment(in->g);
    if (gguf_version(in->g) < 3) {
        notice_say(sink(in), "GGUF version %u; 3 is current since 2023", gguf_version(in->g));
    }
    if (align != 32) {
        notice_say(sink(in), "general.alignment is %llu, usual is 32%s", (ull)align,
                   align < 32 ? ": vector reads of the weights may be slower" : "");
    }
    check_extent(in);
}

// --- metadata ------------------------------------------------------------------------------------

static uint64_t n_weights(const Tensor *t) {
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];  // the reader has checked the product
}

// The type that holds most of the weights.
static TensorType main_type(const Gguf *g) {
    uint64_t weights[TYPE_LIMIT] = {0};
    TensorType best = TYPE_F32;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        weights[t->type] += n_weights(t);
        if (weights[t->type] > weights[best]) best = t->type;
    }
    return best;
}

static void check_file_type(Inspection *in) {
    uint32_t said = 0, version = 0;
    bool found = false;
    char buf[32];
    gguf_get_u32(in->g, "general.file_type", &said, &found, NULL);
    const char *name = found ? mix_name_of_file_type(said) : NULL;
    const Mix *mix = name ? mix_by_name(name) : NULL;
    const TensorType most = main_type(in->g);
    if (mix && mix->base != most) {
        notice_say(sink(in), "general.file_type says %s, but most weights are %s", name,
                   type_name(most, buf, NULL));
    }
    gguf_get_u32(in->g, "general.quantization_version", &version, &found, NULL);
    if (found && version != 2) {
        notice_say(
            sink(in),
            "general.quantization_version is %u, expected 2: blocks may be laid out differently",
            version);
    }
}

static void check_keys(Inspection *in) {
    const Gguf *g = in->g;
    GgufStr arch = {"", 0};
    bool found = false;
    char key[192], shown[96];
    for (size_t i = 0; i < gguf_n_values(g); i++) {
        const GgufValue *v = gguf_value_at(g, i);
        if (v->type == GGUF_STR && !utf8_valid(v->strs->ptr, v->strs->len)) {
            notice_say(sink(in), "%s is not valid UTF-8", v->key);
        }
    }
    gguf_get_str(g, "general.architecture", &arch, &found, NULL);
    if (gguf_n_tensors(g) == 0) return;
    check_file_type(in);
    if (in->model || !found) return;
    printable(arch.ptr, arch.len, shown, sizeof shown);
    snprintf(key, sizeof key, "%s.context_length", shown);
    if (!gguf_find(g, key)) notice_say(sink(in), "the key %s is missing", key);
}

// --- vocabulary ----------------------------------------------------------------------------------

static void check_rows(Inspection *in) {
    char text[LINT_TEXT];
    if (lint_rows_text(in->g, text)) notice_say(sink(in), "%s", text);
}

static void check_duplicates(Inspection *in) {
    const Tokenizer *tok = in->tokenizer;
    int32_t n = 0, first = -1, other = -1;
    for (int32_t id = 0; id < tokenizer_n_vocab(tok); id++) {
        const GgufStr s = tokenizer_token_text(tok, id);
        const int32_t lowest = tokenizer_find(tok, s.ptr, (size_t)s.len);
        if (s.len == 0 || lowest == id || lowest < 0 ||
            tokenizer_token_kind(tok, id) != tokenizer_token_kind(tok, lowest)) {
            continue;
        }
        if (n++ == 0) first = id, other = lowest;
    }
    if (n == 0) return;
    notice_say(sink(in), "%d token%s the text of another, the first is %d (that of %d)", n,
               n == 1 ? " has" : "s have", first, other);
}

// Opens the vocabulary; what stands in the way is a warning.
static void check_vocabulary(Inspection *in) {
    Error why;
    const Gguf *g = in->g;
    check_rows(in);
    if (!gguf_find(g, "tokenizer.ggml.model")) {
        notice_say(sink(in), "has no tokenizer: the model can read token ids only");
        return;
    }
    if (tokenizer_new(g, sink(in), &in->tokenizer, &why)) {
        notice_say(sink(in), "its tokenizer cannot be used: %s", why.text);
        return;
    }
    check_duplicates(in);
    if (gguf_n_tensors(g) == 0 && !gguf_find(g, "tokenizer.chat_template")) return;
    if (chat_template_detect(g, in->tokenizer, sink(in), &in->chat_template, &why)) {
        notice_say(sink(in), "its chat template cannot be used: %s", why.text);
    }
}

// --- weights -------------------------------------------------------------------------------------

static Status check_weights(Inspection *in, bool all_tensors, Error *err) {
    Pool *pool = NULL;
    const size_t n = gguf_n_tensors(in->g);
    if (n == 0) return OK;
    Status st = pool_create(all_tensors ? pool_default_threads() : 1, &pool, err);
    if (st) return st;
    for (size_t i = 0; i < n && !st; i++) {
        const Tensor *t = gguf_tensor_at(in->g, i);
        LintScan scan;
        char text[LINT_TEXT];
        if (all_tensors) cli_progress("checking the weights", (double)i, (double)n);
        if (!all_tensors && t->n_dims != 1) continue;
        st = lint_scan(pool, t, &scan, err);
        if (!st && lint_scan_text(t, &scan, text)) notice_say(sink(in), "%s", text);
        if (!st) st = gguf_fault(in->g, err);
    }
    cli_progress(NULL, 0, 0);
    pool_free(pool);
    return st;
}

// --- all -----------------------------------------------------------------------------------------

static void check_model(Inspection *in) {
    Error why;
    Hparams unused;
    if (gguf_n_tensors(in->g) == 0) {
        add_line(in, "has no tensors: a vocabulary only, not a model");
        if (model_hparams(in->g, &unused, &why)) add_line(in, why.text);
        return;
    }
    if (model_bind(in->g, sink(in), &in->model, &why)) {
        char line[sizeof why.text + 64];
        const char *path = gguf_path(in->g), *text = why.text;
        const size_t n = strlen(path);
        if (strncmp(text, path, n) == 0 && text[n] == ':') text += n + 2;
        snprintf(line, sizeof line, "this program cannot run it: %s", text);
        add_line(in, line);
    }
}

Status inspection_new(const Gguf *g, bool all_tensors, Inspection *out, Error *err) {
    *out = (Inspection){.g = g};
    check_model(out);
    check_container(out);
    check_keys(out);
    check_vocabulary(out);
    Status st = check_weights(out, all_tensors, err);
    if (!st && out->no_memory) st = error_memory(err, "warnings", 0);
    if (!st) st = gguf_fault(g, err);
    return st;
}

void inspection_free(Inspection *in) {
    for (size_t i = 0; i < in->n_warnings; i++) free(in->warnings[i]);
    free(in->warnings);
    tokenizer_free(in->tokenizer);
    model_free(in->model);
    *in = (Inspection){0};
}
