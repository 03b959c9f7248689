// The checks of the file stage that read metadata; see lint.h.
#define _GNU_SOURCE
#include "verify/lint.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "verify/lint_internal.h"

typedef unsigned long long ull;

void lint_say(Lint *l, const char *id, LintKind kind, const char *fmt, ...) {
    static const Outcome outcomes[] = {OUTCOME_PASS, OUTCOME_SKIPPED, OUTCOME_SKIPPED,
                                       OUTCOME_FAIL};
    char text[2 * FINDING_TEXT];
    va_list ap;
    if (l->status) return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    l->status = report_finding(l->r, STAGE_FILE, -1, id, outcomes[kind], kind == LINT_WARNING,
                               l->err, "%s", text);
}

// --- what others notice -------------------------------------------------------------------------

typedef struct {
    Lint *l;
    const char *id;
    size_t n;
} Sink;

static void on_notice(void *user, const char *line) {
    Sink *s = user;
    const char *path = gguf_path(s->l->m->gguf);
    const size_t n = strlen(path);
    if (strncmp(line, path, n) == 0) line += n + strspn(line + n, ": ");
    if (s->n++ < 8) lint_say(s->l, s->id, LINT_WARNING, "%s", line);
}

// Unused tensors, a vocabulary size that the rows contradict, a window that is not heeded: what
// binding the model noticed when it was opened.
static void check_binding(Lint *l) {
    Sink sink = {l, "tensors", 0};
    Model *again;
    Status st = model_bind(l->m->gguf, (Notice){on_notice, &sink}, &again, l->err);
    if (st) {
        l->status = st;
        return;
    }
    model_free(again);
    if (sink.n) return;
    lint_say(l, "tensors", LINT_PASS, "all %zu tensors of the file have their place in %s",
             gguf_n_tensors(l->m->gguf), arch_name(l->m->h.arch));
}

static bool has_key(const Gguf *g, const char *key) {
    return gguf_find(g, key) != NULL;
}

// The vocabulary's own oddities, as its reader tells them.
static void check_tokenizer(Lint *l) {
    const Gguf *g = l->m->gguf;
    Sink sink = {l, "tokenizer", 0};
    Tokenizer *again = NULL;
    Error why = {0};
    if (!has_key(g, "tokenizer.ggml.model")) {
        lint_say(l, "tokenizer", LINT_REMARK, "the file has no tokenizer: ids only");
        return;
    }
    Status st = tokenizer_new(g, (Notice){on_notice, &sink}, &again, &why);
    if (st) {
        lint_say(l, "tokenizer", LINT_WARNING, "the tokenizer cannot be used: %s", why.text);
    } else if (sink.n == 0) {
        lint_say(l, "tokenizer", LINT_PASS, "the tokenizer is read without complaint: %s%s%s",
                 tokenizer_model_name(again), *tokenizer_pre_name(again) ? ", " : "",
                 tokenizer_pre_name(again));
    }
    tokenizer_free(again);
}

static void check_chat_template(Lint *l) {
    Sink sink = {l, "chat-template", 0};
    const ChatTemplate *chat;
    Error why = {0};
    if (!l->tok) return;
    if (!has_key(l->m->gguf, "tokenizer.chat_template")) {
        lint_say(l, "chat-template", LINT_REMARK, "the file has no chat template");
        return;
    }
    Status st = chat_template_detect(l->m->gguf, l->tok, (Notice){on_notice, &sink}, &chat, &why);
    if (st) {
        lint_say(l, "chat-template", LINT_WARNING, "%s", why.text);
    } else if (chat && sink.n == 0) {
        lint_say(l, "chat-template", LINT_PASS, "the chat template is known: %s",
                 chat_template_name(chat));
    }
}

// --- vocabulary ---------------------------------------------------------------------------------

bool lint_rows_text(const Gguf *g, char out[LINT_TEXT]) {
    const GgufValue *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    const Tensor *rows = gguf_tensor(g, "token_embd.weight");
    if (!tokens || !rows || tokens->type != GGUF_ARRAY || tokens->n == rows->dims[1]) return false;
    snprintf(out, LINT_TEXT, "the vocabulary has %llu tokens, token_embd.weight %llu rows: %s",
             (ull)tokens->n, (ull)rows->dims[1],
             tokens->n > rows->dims[1] ? "the model cannot be run" : "the last rows have no text");
    return true;
}

static void check_rows(Lint *l) {
    const int rows = l->m->h.n_vocab;
    char text[LINT_TEXT];
    if (l->tok && tokenizer_n_vocab(l->tok) > rows) {
        lint_say(l, "vocabulary", LINT_FAIL,
                 "the vocabulary has %d tokens, the output only %d rows: the last tokens can be "
                 "neither read nor written",
                 tokenizer_n_vocab(l->tok), rows);
    } else if (l->m->gguf && lint_rows_text(l->m->gguf, text)) {
        lint_say(l, "vocabulary", LINT_REMARK, "%s", text);
    } else if (l->tok) {
        lint_say(l, "vocabulary", LINT_PASS, "as many tokens as rows: %d", rows);
    }
}

static const char *shown_token(const Lint *l, int32_t id, char out[64]) {
    const GgufStr s = tokenizer_token_text(l->tok, id);
    return printable(s.ptr, s.len, out, 63);
}

// An id that a key of the file gives; UINT32_MAX stands for none.
static void check_id(Lint *l, const char *id, const char *key, const char *what) {
    uint32_t value = UINT32_MAX;
    bool found = false;
    const GgufValue *tokens = gguf_find(l->m->gguf, "tokenizer.ggml.tokens");
    uint64_t most = (uint64_t)l->m->h.n_vocab;
    if (tokens && tokens->type == GGUF_ARRAY && tokens->n < most) most = tokens->n;
    Error why = {0};
    const GgufValue *v = gguf_find(l->m->gguf, key);
    const bool is_signed = v && (v->type == GGUF_I8 || v->type == GGUF_I16 || v->type == GGUF_I32 ||
                                 v->type == GGUF_I64);
    if ((is_signed && gguf_elem_i64(v, 0) == -1) ||
        gguf_get_u32(l->m->gguf, key, &value, &found, &why) || !found) {
        if (why.text[0]) lint_say(l, id, LINT_FAIL, "%s", why.text);
        return;
    }
    if (value == UINT32_MAX || value < most) return;
    lint_say(l, id, LINT_FAIL, "%s is %u, outside the vocabulary of %llu: there is no such %s", key,
             value, (ull)most, what);
}

static void check_special(Lint *l, const char *id, int32_t token, const char *what) {
    char shown[64];
    if (token < 0) {
        lint_say(l, id, LINT_WARNING, "the vocabulary names no %s", what);
    } else if (tokenizer_token_kind(l->tok, token) != TOKEN_CONTROL) {
        lint_say(l, id, LINT_WARNING,
                 "%s, %d ('%s'), is no control token: it can be typed in a prompt", what, token,
                 shown_token(l, token, shown));
    } else {
        lint_say(l, id, LINT_PASS, "%s is %d, '%s', a control token", what, token,
                 shown_token(l, token, shown));
    }
}

static bool template_writes_bos(const Gguf *g) {
    GgufStr s = {"", 0};
    bool found = false;
    if (gguf_get_str(g, "tokenizer.chat_template", &s, &found, NULL) || !found) return false;
    return s.len && memmem(s.ptr, s.len, "bos_token", 9);
}

// What the flags say against each other and against the kind of vocabulary.
static void check_flags(Lint *l) {
    const Tokenizer *tok = l->tok;
    const Gguf *g = l->m->gguf;
    bool said = false, found = false, odd = true;
    if (g && gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &said, &found, NULL)) found = false;
    if (found && said && tokenizer_bos(tok) < 0) {
        lint_say(l, "bos-flag", LINT_WARNING, "add_bos_token is true, but there is no BOS to add");
    } else if (!tokenizer_adds_bos(tok) && strcmp(tokenizer_model_name(tok), "llama") == 0) {
        lint_say(l, "bos-flag", LINT_WARNING,
                 "add_bos_token is false in a SentencePiece vocabulary: nearly all models that "
                 "have one were trained with BOS");
    } else {
        odd = false;
    }
    if (tokenizer_adds_eos(tok)) {
        odd = true;
        lint_say(
            l, "bos-flag", LINT_WARNING,
            "add_eos_token is true: every prompt ends in EOS, after which a model starts anew");
    }
    if (g && tokenizer_adds_bos(tok) && template_writes_bos(g)) {
        lint_say(l, "bos-flag", LINT_REMARK,
                 "add_bos_token is true and the chat template writes BOS too: heeding both "
                 "doubles it");
    }
    if (!odd) {
        lint_say(l, "bos-flag", LINT_PASS, "a prompt starts %s BOS and does not end in EOS",
                 tokenizer_adds_bos(tok) ? "with" : "without");
    }
}

static void check_vocabulary(Lint *l) {
    check_rows(l);
    if (l->m->gguf) {
        check_id(l, "bos-id", "tokenizer.ggml.bos_token_id", "BOS");
        check_id(l, "eos-id", "tokenizer.ggml.eos_token_id", "EOS");
    }
    if (!l->tok) return;
    check_special(l, "bos-id", tokenizer_bos(l->tok), "BOS");
    check_special(l, "eos-id", tokenizer_eos(l->tok), "EOS");
    check_flags(l);
}

// --- hyperparameters ----------------------------------------------------------------------------

static void check_output(Lint *l) {
    const Model *m = l->m;
    const Tensor *e = m->token_embd, *o = m->output;
    if (m->tied) {
        lint_say(l, "output", LINT_PASS, "there is no output.weight: the embedding serves as it");
    } else if (e->type == o->type && e->bytes == o->bytes && !memcmp(e->data, o->data, e->bytes)) {
        lint_say(l, "output", LINT_REMARK,
                 "output.weight and token_embd.weight are equal byte for byte: they could be tied");
    } else {
        lint_say(l, "output", LINT_PASS, "output.weight is a matrix of its own");
    }
}

static void check_heads(Lint *l) {
    const Hparams *h = &l->m->h;
    if (h->head_dim % 8) {
        lint_say(l, "head-dim", LINT_WARNING,
                 "a head has %d elements, which is no multiple of 8: few engines expect that",
                 h->head_dim);
        return;
    }
    lint_say(l, "head-dim", LINT_PASS, "%d heads of %d on %d KV heads%s", h->n_heads, h->head_dim,
             h->n_kv_heads,
             h->n_heads * h->head_dim == h->dim ? "" : ", together not the model's dim");
}

static void check_eps(Lint *l) {
    const double eps = (double)l->m->h.rms_eps;
    const bool odd = eps < 1e-8 || eps > 1e-3;
    lint_say(l, "rms-eps", odd ? LINT_WARNING : LINT_PASS, "the norms' epsilon is %g%s", eps,
             odd ? ", usual is 1e-6 or 1e-5" : "");
}

// Llama 3.1 and later have their long context from a tensor that converters before July 2024 did
// not write.
static bool lacks_factors(const Model *m) {
    return m->h.arch == ARCH_LLAMA && m->h.rope_base == 500000 && m->h.n_ctx_train > 8192 &&
           !m->rope_freqs && m->h.rope_scaling == ROPE_SCALING_NONE;
}

static void check_rope(Lint *l) {
    const Hparams *h = &l->m->h;
    const double base = (double)h->rope_base;
    bool odd = false;
    if (base < 1000 || base > 1e8) {
        odd = true;
        lint_say(l, "rope", LINT_WARNING, "the RoPE base is %g, usual is 10000 to 10000000", base);
    }
    if (lacks_factors(l->m)) {
        odd = true;
        lint_say(l, "rope", LINT_WARNING,
                 "a context of %d on a base of 500000 is Llama 3.1's, whose rope_freqs.weight is "
                 "missing: long texts come out wrong (was the file converted before July 2024?)",
                 h->n_ctx_train);
    }
    if (l->m->rope_freqs && h->rope_scaling != ROPE_SCALING_NONE) {
        odd = true;
        lint_say(l, "rope", LINT_WARNING,
                 "the file has rope_freqs.weight and rope.scaling too: engines differ in what "
                 "they make of both");
    }
    if (odd) return;
    lint_say(l, "rope", LINT_PASS, "RoPE pairs %s, as %s does; base %g, %d of %d elements turn%s",
             h->rope_pairing == ROPE_NORM ? "neighbours" : "halves", arch_name(h->arch), base,
             h->n_rot, h->head_dim, l->m->rope_freqs ? ", by rope_freqs.weight" : "");
}

Status lint_model(const Model *m, const Tokenizer *tok, const Trace *t, int n_threads, Report *r,
                  Error *err) {
    Lint l = {.m = m, .tok = tok, .r = r, .err = err};
    lint_weights(&l, n_threads);
    if (l.status) return l.status;
    if (m->gguf) {
        check_binding(&l);
        check_tokenizer(&l);
        check_chat_template(&l);
    }
    check_vocabulary(&l);
    check_output(&l);
    check_heads(&l);
    check_eps(&l);
    check_rope(&l);
    if (t) lint_trace(&l, t);
    if (l.status || !m->gguf) return l.status;
    return gguf_fault(m->gguf, err);
}
