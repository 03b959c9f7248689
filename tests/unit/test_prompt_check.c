// The prompt stage: each known fault is named, alone and with others, and nothing that our own
// tokenizer makes is called wrong.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "verify/fault.h"
#include "verify/prompt_check.h"

static const Notice quiet;
static const char demo_file[] = "models/demo.gguf";
static const char llama_file[] = "../shared/tokenizers/ggml-vocab-llama-spm.gguf";

typedef struct {
    Gguf *g;
    Tokenizer *tok;
    const ChatTemplate *chat;
} Loaded;

static void must(Status st, const Error *err) {
    if (st) fail_msg("%s", err->text);
}

// chat NULL: the file's own.
static Loaded load(const char *path, const char *chat) {
    Loaded l = {0};
    Error err = {0};
    must(gguf_open(path, &l.g, &err), &err);
    must(tokenizer_new(l.g, quiet, &l.tok, &err), &err);
    if (chat)
        l.chat = chat_template_by_name(chat);
    else
        must(chat_template_detect(l.g, l.tok, quiet, &l.chat, &err), &err);
    return l;
}

static void unload(Loaded *l) {
    tokenizer_free(l->tok);
    gguf_close(l->g);
}

// --- what comes out ---------------------------------------------------------------------------

static Report check_ids(const Loaded *l, const int32_t *ids, size_t n, const char *text, bool odd) {
    Report r;
    Error err = {0};
    const TracePrompt p = {.name = "", .tokens = ids, .n_tokens = n, .chosen = -1};
    const PromptCheck o = {.text = text, .allow_odd = odd};
    report_init(&r);
    must(prompt_check(l->g, l->tok, l->chat, &p, &o, &r, 3, &err), &err);
    for (size_t i = 0; i < r.n_findings; i++) {
        assert_int_equal(r.findings[i].stage, STAGE_PROMPT);
        assert_int_equal(r.findings[i].prompt, 3);
        assert_null(strchr(r.findings[i].text, '\n'));
    }
    return r;
}

static void show(const Loaded *l, const Report *r, const int32_t *ids, size_t n) {
    Text t = {0};
    Error err;
    for (size_t i = 0; i < n && i < 60; i++) print_message("%d ", ids[i]);
    if (!tokenizer_decode(l->tok, ids, n, DECODE_SPECIAL, &t, &err)) print_message("\n%s", t.data);
    print_message("\n");
    for (size_t i = 0; i < r->n_findings; i++) {
        const Finding *f = &r->findings[i];
        print_message("%s%s %s: %s\n", outcome_name(f->outcome), f->warning ? " (warning)" : "",
                      f->id, f->text);
    }
    text_free(&t);
}

// The ids of the findings that fail, or that warn, in alphabetical order, each once: "a b c".
static const char *listed(const Report *r, bool warnings, char out[256]) {
    const char *ids[32];
    size_t n = 0;
    for (size_t i = 0; i < r->n_findings && n < 32; i++) {
        const Finding *f = &r->findings[i];
        if (warnings ? !f->warning : f->outcome != OUTCOME_FAIL) continue;
        size_t k = n++;
        for (; k > 0 && strcmp(ids[k - 1], f->id) > 0; k--) ids[k] = ids[k - 1];
        ids[k] = f->id;
    }
    out[0] = 0;
    for (size_t i = 0; i < n; i++) {
        if (i && strcmp(ids[i], ids[i - 1]) == 0) continue;
        snprintf(out + strlen(out), 256 - strlen(out), "%s%s", *out ? " " : "", ids[i]);
    }
    return out;
}

static void expect_fails(const Loaded *l, const TokenList *ids, const char *text,
                         const char *want) {
    char got[256];
    Report r = check_ids(l, ids->data, ids->len, text, false);
    if (strcmp(listed(&r, false, got), want) != 0) {
        show(l, &r, ids->data, ids->len);
        fail_msg("fails: \"%s\", expected \"%s\"", got, want);
    }
    report_free(&r);
}

static void expect_warns(const Loaded *l, const TokenList *ids, const char *text, bool odd,
                         const char *want) {
    char got[256], fails[256];
    Report r = check_ids(l, ids->data, ids->len, text, odd);
    if (strcmp(listed(&r, true, got), want) != 0 || *listed(&r, false, fails)) {
        show(l, &r, ids->data, ids->len);
        fail_msg("warns: \"%s\", expected \"%s\"; fails: \"%s\"", got, want, fails);
    }
    report_free(&r);
}

static bool has(const Report *r, const char *id, Outcome o) {
    for (size_t i = 0; i < r->n_findings; i++) {
        if (strcmp(r->findings[i].id, id) == 0 && r->findings[i].outcome == o) return true;
    }
    return false;
}

static void expect_right(const Loaded *l, const TokenList *ids, const char *text) {
    char fails[256], warns[256];
    Report r = check_ids(l, ids->data, ids->len, text, false);
    if (*listed(&r, false, fails) || *listed(&r, true, warns) || !has(&r, "ids", OUTCOME_PASS)) {
        show(l, &r, ids->data, ids->len);
        fail_msg("not right: \"%s\" \"%s\"", fails, warns);
    }
    report_free(&r);
}

static const char *finding_text(const Report *r, const char *id) {
    for (size_t i = 0; i < r->n_findings; i++) {
        if (strcmp(r->findings[i].id, id) == 0) return r->findings[i].text;
    }
    return "";
}

// --- ids --------------------------------------------------------------------------------------

static TokenList encode(const Loaded *l, const char *text, unsigned flags, bool specials) {
    TokenList t = {0};
    Error err = {0};
    const TextSpan span = {text, strlen(text), specials};
    must(tokenizer_encode(l->tok, &span, 1, flags, &t, &err), &err);
    return t;
}

static TokenList chat_ids(const Loaded *l, const ChatMessage *m, size_t n, bool open) {
    TokenList t = {0};
    ChatText c;
    Error err = {0};
    must(chat_template_render(l->chat, m, n, open, &c, &err), &err);
    must(tokenizer_encode(l->tok, c.spans, c.n_spans, 0, &t, &err), &err);
    chat_text_free(&c);
    return t;
}

static TokenList list_of(const int32_t *ids, size_t n) {
    TokenList t = {0};
    for (size_t i = 0; i < n; i++) assert_true(tokens_append(&t, ids[i]));
    return t;
}

// Faults of tokenizing, done here by hand.
enum { T1 = 1, T2 = 2, T3 = 4, T4 = 8, T5 = 16, T6 = 32, T7 = 64 };

static int32_t plain_token(const Tokenizer *tok, const char *text, size_t len) {
    const int32_t id = tokenizer_find(tok, text, len);
    return id >= 0 && tokenizer_token_kind(tok, id) == TOKEN_NORMAL ? id : -1;
}

static void append_piece(const Tokenizer *tok, const char *text, size_t len, TokenList *out) {
    const int32_t id = plain_token(tok, text, len);
    if (id >= 0) assert_true(tokens_append(out, id));
    for (size_t i = 0; id < 0 && i < len; i++) {
        char byte[8];
        snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)(uint8_t)text[i]);
        assert_true(tokens_append(out, tokenizer_find(tok, byte, 6)));
    }
}

static void longest_first(const Tokenizer *tok, const char *text, TokenList *out) {
    while (*text) {
        size_t len = strlen(text) < 48 ? strlen(text) : 48;
        while (len > 1 && plain_token(tok, text, len) < 0) len--;
        append_piece(tok, text, len, out);
        text += len;
    }
}

// SentencePiece merges as a beginner writes them: search, join, again. rule 0: by score, 1: the
// lowest id, 2: the lowest score, 3: the leftmost; 4: no merges, the longest that fits.
static void merge_naively(const Tokenizer *tok, const char *text, int rule, TokenList *out) {
    const char *start[1200];  // of piece i, which ends where the next one starts
    size_t n = 0;
    if (rule == 4) {
        longest_first(tok, text, out);
        return;
    }
    for (; *text; n++) {
        start[n] = text++;
        while ((*text & 0xc0) == 0x80) text++;
    }
    start[n] = text;
    while (n > 1) {
        size_t best = n;
        double best_key = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const int32_t id = plain_token(tok, start[i], (size_t)(start[i + 2] - start[i]));
            const double score = (double)tokenizer_token_score(tok, id);
            const double key = rule == 0 ? -score : rule == 1 ? id : rule == 2 ? score : 0;
            if (id >= 0 && (best == n || key < best_key)) best = i, best_key = key;
        }
        if (best == n) break;
        memmove(start + best + 1, start + best + 2, (n - best - 1) * sizeof *start);
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        append_piece(tok, start[i], (size_t)(start[i + 1] - start[i]), out);
    }
}

// A text in which "</s>" is the only special token, tokenized with faults.
static TokenList with_faults(const Loaded *l, const char *text, unsigned faults, int rule) {
    TokenList t = {0};
    char piece[1200];
    if (!(faults & T1)) assert_true(tokens_append(&t, 1));
    if (faults & T2) assert_true(tokens_append(&t, 1));
    while (*text) {
        const char *special = faults & T4 ? NULL : strstr(text, "</s>");
        const size_t len = special ? (size_t)(special - text) : strlen(text);
        size_t n = 0;
        if (len && !(faults & T6)) n = (size_t)snprintf(piece, sizeof piece, "\xe2\x96\x81");
        for (size_t i = 0; i < len; i++) {
            const bool space = text[i] == ' ' || (text[i] == '\n' && (faults & T5));
            n += (size_t)snprintf(piece + n, sizeof piece - n, "%s%.*s",
                                  space ? "\xe2\x96\x81" : "", !space, text + i);
        }
        if (len) merge_naively(l->tok, piece, faults & T7 ? rule : 0, &t);
        if (special) assert_true(tokens_append(&t, 2));
        text += len + (special ? 4 : 0);
    }
    if (faults & T3) assert_true(tokens_append(&t, 2));
    return t;
}

static const char *names_of(unsigned faults, char out[256]) {
    static const struct {
        unsigned bit;
        const char *id;
    } all[] = {{T1, "bos-missing"},      {T2, "bos-double"},       {T3, "eos-at-end"},
               {T4, "specials-as-text"}, {T5, "newline-as-space"}, {T6, "space-prefix-missing"},
               {T7, "merges-by-rank"}};
    static const int alphabetical[] = {1, 0, 2, 6, 4, 5, 3};
    out[0] = 0;
    for (size_t i = 0; i < 7; i++) {
        const int k = alphabetical[i];
        if (faults & all[k].bit) {
            snprintf(out + strlen(out), 256 - strlen(out), "%s%s", *out ? " " : "", all[k].id);
        }
    }
    return out;
}

// --- the case that shaped it --------------------------------------------------------------------

static void shaping_case(void **state) {
    (void)state;
    skip_without(llama_file);
    static const int32_t wrong[] = {1,     529, 29989, 1792, 29989, 29958, 15043, 829,   29879,
                                    29958, 529, 29989, 465,  22137, 29989, 29958, 29871, 2};
    static const int32_t france[] = {1,   529,   29989, 1792, 29989, 29958, 13,    5618,
                                     338, 278,   7483,  310,  3444,  29973, 2,     29871,
                                     13,  29966, 29989, 465,  22137, 29989, 29958, 13};
    static const int32_t hello[] = {1,     529, 29989, 1792,  29989, 29958, 13,    10994, 2,
                                    29871, 13,  29966, 29989, 465,   22137, 29989, 29958, 13};
    static const char text[] = "<|user|>\nHello</s>\n<|assistant|>\n";
    static const char faults[] = "eos-at-end newline-as-space specials-as-text";
    Loaded l = load(llama_file, "zephyr");
    TokenList t = list_of(wrong, sizeof wrong / sizeof *wrong);
    expect_fails(&l, &t, NULL, faults);
    expect_fails(&l, &t, text, faults);
    Report r = check_ids(&l, t.data, t.len, NULL, false);
    assert_non_null(strstr(finding_text(&r, "specials-as-text"),
                           "ids 7-9: '</s>' is spelled out as text (829 29879 29958), the special "
                           "token is 2"));
    assert_non_null(strstr(finding_text(&r, "newline-as-space"), "id 6, 15043"));
    assert_non_null(strstr(finding_text(&r, "eos-at-end"), "id 17"));
    report_free(&r);
    tokens_free(&t);
    t = list_of(france, sizeof france / sizeof *france);
    expect_right(&l, &t, NULL);
    expect_right(&l, &t, "<|user|>\nWhat is the capital of France?</s>\n<|assistant|>\n");
    expect_right(&l, &t, "What is the capital of France?");  // what the user says
    tokens_free(&t);
    t = list_of(hello, sizeof hello / sizeof *hello);
    expect_right(&l, &t, NULL);
    expect_right(&l, &t, text);
    tokens_free(&t);
    unload(&l);
}

// --- faults -----------------------------------------------------------------------------------

static const char *const chats[] = {
    "<|user|>\nWhat is the capital of France?</s>\n<|assistant|>\n",
    "<|system|>\nYou are a helpful bot.</s>\n<|user|>\nTell me a story about an owl.</s>\n"
    "<|assistant|>\n",
    "<|user|>\nHello</s>\n<|assistant|>\nHello! How can I help you today?</s>\n<|user|>\n"
    "What is 7 + 8?</s>\n<|assistant|>\nIt is",
};

// Which faults change the ids at all: a rule of merging may give the same.
static bool shows(const Loaded *l, const char *text, unsigned faults, int rule) {
    TokenList a = with_faults(l, text, faults, rule), b = with_faults(l, text, faults & ~T7, 0);
    const bool other = a.len != b.len || memcmp(a.data, b.data, a.len * sizeof *a.data) != 0;
    tokens_free(&a);
    tokens_free(&b);
    return other;
}

// Every set of faults, in every chat, with the text known and read out of the ids.
static void fault_sets(void **state) {
    (void)state;
    Loaded l = load(demo_file, NULL);
    size_t n = 0, by_rank = 0;
    for (size_t c = 0; c < 3; c++) {
        for (unsigned f = 0; f < 128; f++) {
            if ((f & T1) && (f & T2)) continue;
            const int rule = 2 + (int)(f % 3);
            if ((f & T7) && !shows(&l, chats[c], f, rule)) continue;
            char want[256];
            TokenList t = with_faults(&l, chats[c], f, rule);
            expect_fails(&l, &t, chats[c], names_of(f, want));
            expect_fails(&l, &t, NULL, names_of(f, want));
            if (f == 0) expect_right(&l, &t, NULL);
            if (f == 0) expect_right(&l, &t, chats[c]);
            tokens_free(&t);
            n++, by_rank += (f & T7) != 0;
        }
    }
    if (n < 200 || by_rank < 90) fail_msg("only %zu sets, %zu by rank", n, by_rank);
    unload(&l);
}

// The fault engine's tokenizer, written apart, has the same faults.
static void fault_engine(void **state) {
    (void)state;
    static const char *const ids[7] = {"T1", "T2", "T3", "T4", "T5", "T6", "T7"};
    Loaded l = load(demo_file, NULL);
    for (size_t c = 0; c < 3; c++) {
        for (unsigned set = 0; set < 128; set++) {
            const Fault *faults[8] = {NULL};
            char want[256];
            TokenList t = {0};
            Error err = {0};
            size_t n = 0;
            if (((set & T1) && (set & T2)) || ((set & T7) && !shows(&l, chats[c], set, 2)))
                continue;
            for (int i = 0; i < 7; i++) {
                if (set >> i & 1) faults[n++] = fault_by_id(ids[i]);
            }
            must(mutant_tokens(l.g, l.tok, chats[c], faults, &t, &err), &err);
            expect_fails(&l, &t, chats[c], names_of(set, want));
            expect_fails(&l, &t, NULL, names_of(set, want));
            tokens_free(&t);
        }
    }
    unload(&l);
}

// A text that is no chat: what it was must be told; a space prefix shows without.
static void fault_texts(void **state) {
    (void)state;
    static const char *const texts[] = {
        "Once upon a time there was a girl named Ruby.",
        "a\nlist\n\nof   words\n",
        "The</s>cat\n\n sat</s> on the mat",
    };
    Loaded l = load(demo_file, NULL);
    for (size_t i = 0; i < 3; i++) {
        for (unsigned f = 0; f < 128; f++) {
            const bool newline = strchr(texts[i], '\n'), special = strstr(texts[i], "</s>");
            if (((f & T1) && (f & T2)) || ((f & T5) && !newline) || ((f & T4) && !special))
                continue;
            for (int rule = 2; rule <= 4; rule++) {
                if ((f & T7) && !shows(&l, texts[i], f, rule)) continue;
                char want[256];
                TokenList t = with_faults(&l, texts[i], f, rule);
                expect_fails(&l, &t, texts[i], names_of(f, want));
                tokens_free(&t);
                if (!(f & T7)) break;
            }
        }
    }
    TokenList t = with_faults(&l, texts[0], T6, 0);
    expect_warns(&l, &t, NULL, false, "space-prefix-missing");  // too few ids to be sure
    tokens_free(&t);
    unload(&l);
}

// Only before the text, only after special tokens: both are a missing prefix.
static void prefixes(void **state) {
    (void)state;
    static const char text[] = "<|user|>\nHello</s>\n<|assistant|>\n";
    Loaded l = load(demo_file, NULL);
    TokenList t = encode(&l, text, ENCODE_CONTINUE, true);
    expect_fails(&l, &t, text, "space-prefix-missing");
    expect_fails(&l, &t, NULL, "space-prefix-missing");
    Report r = check_ids(&l, t.data, t.len, NULL, false);
    assert_non_null(strstr(finding_text(&r, "space-prefix-missing"), "id 1 is "));
    report_free(&r);
    tokens_free(&t);
    TokenList a = encode(&l, "<|user|>\nHello</s>", 0, true);
    t = encode(&l, "\n<|assistant|>\n", ENCODE_NO_BOS | ENCODE_CONTINUE, true);
    for (size_t i = 0; i < t.len; i++) assert_true(tokens_append(&a, t.data[i]));
    expect_fails(&l, &a, text, "space-prefix-missing");
    expect_fails(&l, &a, NULL, "space-prefix-missing");
    tokens_free(&a);
    tokens_free(&t);
    unload(&l);
}

static void other_faults(void **state) {
    (void)state;
    Loaded l = load(demo_file, NULL);
    TokenList t = encode(&l, "Once upon a time", 0, true);
    expect_right(&l, &t, NULL);
    expect_fails(&l, &t, "Once upon a tide", "ids-differ");
    Report r = check_ids(&l, t.data, t.len, "Once upon a tide", false);
    assert_non_null(strstr(finding_text(&r, "ids-differ"), "id "));
    assert_non_null(strstr(finding_text(&r, "ids-differ"), "expected "));
    report_free(&r);
    expect_fails(&l, &t, "", "ids-differ");
    expect_warns(&l, &t, "nothing of the kind", true, "ids-differ");
    t.data[2] = 2048;
    expect_fails(&l, &t, NULL, "ids-outside-vocabulary");
    t.data[2] = -1;
    expect_fails(&l, &t, "Once upon a time", "ids-outside-vocabulary");
    r = check_ids(&l, t.data, t.len, NULL, true);  // allowed or not: it cannot be run
    assert_true(has(&r, "ids-outside-vocabulary", OUTCOME_FAIL));
    report_free(&r);
    tokens_free(&t);

    static const int32_t twice[] = {1, 1, 1, 370, 371, 2, 2};
    t = list_of(twice, 7);
    expect_fails(&l, &t, NULL, "bos-double eos-at-end");
    expect_warns(&l, &t, NULL, true, "bos-double eos-at-end");
    tokens_free(&t);
    static const int32_t end[] = {1, 2};
    t = list_of(end, 2);
    expect_fails(&l, &t, NULL, "eos-at-end");
    expect_fails(&l, &t, "</s>", "eos-at-end");  // even where it was asked for
    tokens_free(&t);
    t = list_of(end, 1);
    expect_right(&l, &t, NULL);
    expect_right(&l, &t, "");
    expect_right(&l, &t, "<s>");
    tokens_free(&t);
    unload(&l);
}

// A prompt in another model's template may be meant so.
static void other_template(void **state) {
    (void)state;
    Loaded l = load(demo_file, "chatml");
    const ChatMessage m = {"user", "Hello"};
    TokenList t = chat_ids(&l, &m, 1, true);
    expect_right(&l, &t, NULL);
    l.chat = chat_template_by_name("zephyr");
    expect_warns(&l, &t, NULL, false, "template-other");
    Report r = check_ids(&l, t.data, t.len, NULL, false);
    assert_non_null(strstr(finding_text(&r, "template-other"), "chatml"));
    report_free(&r);
    l.chat = NULL;
    expect_right(&l, &t, NULL);
    tokens_free(&t);
    unload(&l);
}

// Marks in the midst of a text do not make it a chat.
static void no_chat(void **state) {
    (void)state;
    Loaded l = load(demo_file, "vicuna");
    static const char *const texts[] = {"It says:  USER: hi ASSISTANT:",
                                        "Some story.\nUSER: hi\nASSISTANT: Hello</s>"};
    for (size_t i = 0; i < 2; i++) {
        TokenList t = encode(&l, texts[i], 0, false);
        expect_right(&l, &t, NULL);
        tokens_free(&t);
    }
    unload(&l);
}

static void no_tokenizer(void **state) {
    (void)state;
    Loaded l = load(demo_file, NULL);
    const Loaded bare = {.g = l.g};
    static const int32_t ids[] = {5, 2047, 2, 9999};
    Report r = check_ids(&bare, ids, 3, NULL, false);
    assert_int_equal(r.n_findings, 0);
    assert_string_equal(r.stage_reason[STAGE_PROMPT], "the file has no tokenizer");
    report_finish(&r);
    assert_int_equal(r.stage[STAGE_PROMPT], OUTCOME_SKIPPED);
    report_free(&r);
    r = check_ids(&bare, ids, 4, NULL, false);
    assert_true(has(&r, "ids-outside-vocabulary", OUTCOME_FAIL));
    report_free(&r);
    unload(&l);
}

// --- no false alarms --------------------------------------------------------------------------

static void golden_prompts(void **state) {
    (void)state;
    Loaded l = load("tests/golden/models/demo-f16.gguf", NULL);
    Trace *t;
    Error err = {0};
    must(trace_open("tests/golden/demo-golden.gguf", NULL, quiet, &t, &err), &err);
    assert_int_equal(t->n_prompts, 5);
    for (size_t i = 0; i < 5; i++) {
        const TokenList ids = {(int32_t *)(uintptr_t)t->prompts[i].tokens, t->prompts[i].n_tokens,
                               0};
        expect_right(&l, &ids, NULL);
    }
    trace_close(t);
    unload(&l);
}

static const char *const fragments[] = {
    "",
    " ",
    "\n",
    "\n\n",
    "</s>",
    "<s>",
    "<|user|>",
    "Hello",
    " world",
    "<|user|>\n",
    "</s>\n",
    "<|assistant|>\n",
    "\t",
    "a",
    "1234",
    "é",
    "日本語",
    "🙂",
    "  spaces  ",
    "<unk>",
    "<0x0A>",
    "▁",
    ".",
    "Once upon",
    "[INST]",
    " [/INST]",
    "<|im_end|>\n",
    "\r\n",
    "<|end|>",
    "user: x",
    "\xff",
    "USER: ",
    "ASSISTANT:",
    "<think>",
    "</think>",
    "Let me tell you about the owl that lived in the old oak tree. ",
    "<|im_start|>user\n",
};
enum { N_FRAGMENTS = sizeof fragments / sizeof *fragments };

static void random_text(Rng *r, char out[600], size_t most) {
    out[0] = 0;
    for (size_t n = rng_below(r, most + 1); n > 0; n--) {
        strcat(out, fragments[rng_below(r, N_FRAGMENTS)]);
    }
}

// What must never be said of ids that our own tokenizer made of what was meant.
static void expect_no_alarm(const Loaded *l, const TokenList *ids, const char *text) {
    char got[256], want[64] = "";
    size_t n_bos = 0;
    const int32_t bos = tokenizer_bos(l->tok), eos = tokenizer_eos(l->tok);
    while (n_bos < ids->len && ids->data[n_bos] == bos) n_bos++;
    if (n_bos > 1) strcat(want, "bos-double");  // the text says so
    if (ids->len > n_bos && ids->data[ids->len - 1] == eos) {
        strcat(want, n_bos > 1 ? " eos-at-end" : "eos-at-end");
    }
    if (ids->len == 0) return;
    Report r = check_ids(l, ids->data, ids->len, text, false);
    if (strcmp(listed(&r, false, got), want) != 0) {
        show(l, &r, ids->data, ids->len);
        fail_msg("a false alarm: \"%s\", \"%s\" expected", got, want);
    }
    report_free(&r);
}

static void random_chat(const Loaded *l, Rng *r) {
    char texts[6][600];
    ChatMessage m[6];
    const size_t n = 1 + rng_below(r, 6);
    bool system = rng_below(r, 3) == 0, user = true;
    for (size_t i = 0; i < n; i++) {
        random_text(r, texts[i], 5);
        m[i] = (ChatMessage){system ? "system" : user ? "user" : "assistant", texts[i]};
        user = system ? user : !user;
        system = rng_below(r, 12) == 0;
    }
    TokenList t = chat_ids(l, m, n, rng_below(r, 4) != 0);
    expect_no_alarm(l, &t, NULL);
    tokens_free(&t);
}

static void random_raw(const Loaded *l, Rng *r) {
    char text[600];
    random_text(r, text, 9);
    TokenList t = encode(l, text, 0, true);
    expect_no_alarm(l, &t, text);
    expect_no_alarm(l, &t, NULL);
    tokens_free(&t);
}

static const char *const bpe_files[] = {
    "tests/golden/tokenizers/bpe-gpt-2.gguf", "tests/golden/tokenizers/bpe-llama-bpe.gguf",
    "tests/golden/tokenizers/bpe-qwen2.gguf", "tests/golden/tokenizers/bpe-smollm.gguf",
    "tests/golden/tokenizers/bpe-tekken.gguf"};

static void our_own_texts(void **state) {
    (void)state;
    Rng r = {2024};
    const int n = UNDER_ASAN ? 40 : 300;
    Loaded l = load(demo_file, NULL);
    for (int i = 0; i < n; i++) random_chat(&l, &r), random_raw(&l, &r);
    unload(&l);
    for (size_t f = 0; f < 5; f++) {
        l = load(bpe_files[f], "phi3");  // which has <|end|> as a special token here
        for (int i = 0; i < n / 2; i++) random_chat(&l, &r), random_raw(&l, &r);
        unload(&l);
    }
}

// Every template as the model's own, in two kinds of vocabulary.
static void every_template(void **state) {
    (void)state;
    Rng r = {7};
    const int n = UNDER_ASAN ? 3 : 25;
    const char *const files[] = {demo_file, bpe_files[1], llama_file};
    for (size_t f = 0; f < 3; f++) {
        if (f == 2) skip_without(files[f]);
        Loaded l = load(files[f], "zephyr");
        for (int i = 0; (l.chat = chat_template_at(i)); i++) {
            for (int k = 0; k < n; k++) random_chat(&l, &r);
        }
        unload(&l);
    }
}

// A chat in the model's template is read as one, whichever template it is.
static void templates_are_read(void **state) {
    (void)state;
    static const ChatMessage m[] = {{"system", "Be brief."},
                                    {"user", "Hello there"},
                                    {"assistant", "Hi!"},
                                    {"user", "What is\n7 + 8?"}};
    Loaded l = load(demo_file, "zephyr");
    for (int i = 0; (l.chat = chat_template_at(i)); i++) {
        for (size_t from = 0; from < 2; from++) {
            for (size_t n = 1; n <= 4 - from; n++) {
                const bool open = m[from + n - 1].role[0] == 'u';
                if (!open && strcmp(m[from + n - 1].role, "system") == 0) continue;
                TokenList t = chat_ids(&l, m + from, n, open);
                Report r = check_ids(&l, t.data, t.len, NULL, false);
                if (!strstr(finding_text(&r, "ids"), "are a chat")) {
                    show(&l, &r, t.data, t.len);
                    fail_msg("template %s is not read", chat_template_name(l.chat));
                }
                report_free(&r);
                tokens_free(&t);
            }
        }
    }
    unload(&l);
}

// Any ids may be run: random ones, one repeated, and random ones again in a row.
static void arbitrary_ids(void **state) {
    (void)state;
    Rng r = {99};
    const char *const files[] = {demo_file, bpe_files[0], bpe_files[2], llama_file};
    const int n = UNDER_ASAN ? 40 : 600;
    for (size_t f = 0; f < 4; f++) {
        if (f == 3) skip_without(files[f]);
        Loaded l = load(files[f], "zephyr");
        const uint64_t n_vocab = (uint64_t)tokenizer_n_vocab(l.tok);
        for (int i = 0; i < n; i++) {
            const size_t len = 1 + rng_below(&r, i % 10 == 0 ? 200 : 40);
            const int32_t one = 3 + (int32_t)rng_below(&r, n_vocab - 5);
            TokenList t = {0};
            if (tokenizer_adds_bos(l.tok)) assert_true(tokens_append(&t, tokenizer_bos(l.tok)));
            for (size_t k = 0; k < len; k++) {
                const int32_t other = 3 + (int32_t)rng_below(&r, n_vocab - 5);
                assert_true(tokens_append(&t, i % 3 == 0 ? one : other));
            }
            Report rep = check_ids(&l, t.data, t.len, NULL, false);
            char got[256];
            if (*listed(&rep, false, got)) {
                show(&l, &rep, t.data, t.len);
                fail_msg("a false alarm: %s", got);
            }
            report_free(&rep);
            tokens_free(&t);
        }
        unload(&l);
    }
}

// --- byte-level BPE ---------------------------------------------------------------------------

static void byte_level(void **state) {
    (void)state;
    static const char text[] = "<|user|>\nWhat is\nthis?<|end|>\n<|assistant|>\n";
    static const char spaced[] = "<|user|> What is this?<|end|> <|assistant|> ";
    for (size_t f = 0; f < 5; f++) {
        Loaded l = load(bpe_files[f], "phi3");
        TokenList t = encode(&l, text, 0, true);
        expect_right(&l, &t, text);
        expect_right(&l, &t, NULL);
        tokens_free(&t);
        t = encode(&l, text, 0, false);
        expect_fails(&l, &t, text, "specials-as-text");
        expect_fails(&l, &t, NULL, "specials-as-text");
        tokens_free(&t);
        t = encode(&l, spaced, 0, true);
        expect_fails(&l, &t, text, "newline-as-space");
        expect_fails(&l, &t, NULL, "newline-as-space");
        tokens_free(&t);
        t = encode(&l, spaced, 0, false);
        expect_fails(&l, &t, NULL, "newline-as-space specials-as-text");
        assert_true(tokens_append(&t, tokenizer_eos(l.tok)));
        expect_fails(&l, &t, NULL, "eos-at-end newline-as-space specials-as-text");
        tokens_free(&t);
        t = list_of((int32_t[]){tokenizer_bos(l.tok), 5, 6}, 3);
        expect_warns(&l, &t, NULL, false, "bos-unwanted");
        tokens_free(&t);
        unload(&l);
    }
}

// Texts of a size that would show anything quadratic.
static void long_texts(void **state) {
    (void)state;
    Loaded l = load(demo_file, NULL);
    Text text = {0};
    for (int i = 0; i < 3000; i++) {
        assert_true(
            text_append_str(&text, "<|user|>\nTell me a story.</s>\n<|assistant|>\nNo.</s>\n"));
    }
    TokenList t = encode(&l, text.data, 0, true);
    assert_true(t.len > 30000);
    expect_no_alarm(&l, &t, NULL);
    expect_no_alarm(&l, &t, text.data);
    t.data[t.len / 2]++;
    expect_fails(&l, &t, text.data, "ids-differ");
    text_free(&text);
    tokens_free(&t);
    for (int i = 0; i < 2000000; i++) assert_true(tokens_append(&t, 300));
    t.data[0] = 1;
    expect_no_alarm(&l, &t, NULL);
    tokens_free(&t);
    unload(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shaping_case),   cmocka_unit_test(fault_sets),
        cmocka_unit_test(fault_engine),   cmocka_unit_test(fault_texts),
        cmocka_unit_test(prefixes),       cmocka_unit_test(other_faults),
        cmocka_unit_test(other_template), cmocka_unit_test(no_tokenizer),
        cmocka_unit_test(no_chat),        cmocka_unit_test(golden_prompts),
        cmocka_unit_test(our_own_texts),  cmocka_unit_test(templates_are_read),
        cmocka_unit_test(every_template), cmocka_unit_test(arbitrary_ids),
        cmocka_unit_test(byte_level),     cmocka_unit_test(long_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
