// Pre-tokenizers of byte-level BPE: the patterns that cut a text into the words merges stay within.
//
// This room owns: which pattern belongs to which tokenizer.ggml.pre, and running it (PCRE2,
// compiled to machine code where the system allows that). It leaves to others: bytes that are no
// UTF-8 (tokenizer_bpe.c never passes them on), and everything after the cut. A pre-tokenizer is a
// list of patterns; each one cuts every piece that the ones before it left, and what lies between
// two matches is a piece as well. Source: the tokenizer.json files of the models; names as
// llama.cpp writes them into GGUF files.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

// White space as Unicode's White_Space has it; PCRE2's \s has U+180E as well.
#define WS                                                                             \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
    "\\x{202f}\\x{205f}\\x{3000}"
#define S "[" WS "]"
#define NOT_BEFORE_TEXT "(?![^" WS "])"  // \s+(?!\S): a space before a word stays with the word

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define GAPS "|" S "*[\\r\\n]+|" S "+" NOT_BEFORE_TEXT "|" S "+"
#define SIGNS(newlines) "| ?[^" WS "\\p{L}\\p{N}]+" newlines
#define GPT2 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+" SIGNS("") "|" S "+" NOT_BEFORE_TEXT "|" S "+"
#define LLAMA3(digits) CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits SIGNS("[\\r\\n]*") GAPS
// Words that change from capitals to small letters once: "CamelCase" is two.
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(tail, digits)                                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" tail "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER \
    "*" tail "|" digits SIGNS("[\\r\\n/]*") GAPS
#define DEEPSEEK_TEXT                                       \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+" \
    "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*" GAPS
#define DEEPSEEK_CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

// The letters with case that DeepSeek LLM's first pattern lists one by one.
#define DEEPSEEK_LETTERS                                                                        \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{" \
    "293}"                                                                                      \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}"       \
    "\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{" \
    "52f}"                                                                                      \
    "\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{"  \
    "1cba}"                                                                                     \
    "\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}"              \
    "\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}"              \
    "\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}"      \
    "\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}"     \
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}"     \
    "\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}"       \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}"     \
    "\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"      \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"               \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"              \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"            \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}"      \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define DEEPSEEK_SIGNS \
    "!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}"

enum { MAX_PATTERNS = 6 };

typedef struct {
    const char *names;  // separated by spaces
    const char *patterns[MAX_PATTERNS];
    bool ignore_merges, adds_bos;
} Scheme;

static const Scheme schemes[] = {
    {"gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe "
     "gigachat "
     "a.x-4.0 mellum modern-bert mpt olmo jais trillion granite-docling exaone4",
     {GPT2},
     false,
     false},
    {"default", {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, false, false},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     {LLAMA3("\\p{N}{1,3}")},
     true,
     true},
    {"smaug-bpe dbrx glm4 chatglm-bpe", {LLAMA3("\\p{N}{1,3}")}, false, false},
    {"qwen2 deepseek-r1-qwen stablelm2 megrez kormo f2llmv2 hunyuan solar-open grok-2",
     {LLAMA3("\\p{N}")},
     false,
     false},
    {"qwen35",
     {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS
                   "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" GAPS},
     false,
     false},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
     {"\\p{N}", GPT2},
     false,
     false},
    {"tekken", {CASED("", "\\p{N}")}, true, true},
    {"gpt-4o llama4 kanana2 talkie minimax-m2",
     {CASED(CONTRACTIONS "?", "\\p{N}{1,3}")},
     false,
     false},
    {"deepseek-llm",
     {"[\\r\\n]", S "?[" DEEPSEEK_LETTERS "]+", S "?[" DEEPSEEK_SIGNS "]+",
      // Only from the start of a run: from inside, it would try each of n places over n characters.
      "(?<!" S ")" S "++$", DEEPSEEK_CJK, "\\p{N}+"},
     false,
     false},
    {"deepseek-coder",
     {"[\\r\\n]", S "?\\p{L}+", S "?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"},
     false,
     false},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4",
     {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+", DEEPSEEK_TEXT},
     false,
     false},
    {"falcon", {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}, false, false},
    {"poro-chat bloom gpt3-finnish", {BLOOM}, false, false},
    {"viking", {BLOOM, "\\p{N}"}, false, false},
    {"bailingmoe bailingmoe2 llada-moe",
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^" WS
      "\\p{L}\\p{N}]++[\\r\\n]*|" S "*[\\r\\n]|" S "+" NOT_BEFORE_TEXT "|" S "+"},
     false,
     false},
    {"seed-coder",
     {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+" GAPS},
     false,
     false},
};

// The scheme that lists `name`; *used points to its name in the table.
static const Scheme *find_scheme(const char *name, size_t len) {
    for (size_t i = 0; len && i < sizeof schemes / sizeof *schemes; i++) {
        for (const char *at = schemes[i].names; *at;) {
            size_t n = strcspn(at, " ");
            if (n == len && memcmp(at, name, n) == 0) return &schemes[i];
            at += n + (at[n] == ' ');
        }
    }
    return NULL;
}

#if HAVE_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum {
    // Steps of one match: far above what the patterns need on a text of megabytes, since a failing
    // alternative may run over all of it; and memory, in KiB.
    MATCH_LIMIT = 400000000,
    HEAP_LIMIT_KB = 256 * 1024,
    JIT_STACK_MOST = 1 << 20,
};

struct PreTokenizer {
    char name[40];
    int n_patterns;
    pcre2_code *codes[MAX_PATTERNS];
};

// What matching needs besides the patterns; one for each encode call, so that threads share
// nothing.
typedef struct {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} Matcher;

void pretokenize_match_free(void *match) {
    Matcher *m = match;
    if (!m) return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    free(m);
}

static Matcher *matcher_new(void) {
    Matcher *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    // Without a stack of its own, compiled code has 32 KiB, and falls back to the interpreter
    // after.
    m->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_MOST, NULL);
    if (!m->data || !m->context) return pretokenize_match_free(m), NULL;
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    pcre2_set_heap_limit(m->context, HEAP_LIMIT_KB);
    if (m->stack) pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return m;
}

void pretokenizer_free(PreTokenizer *p) {
    if (!p) return;
    for (int i = 0; i < p->n_patterns; i++) pcre2_code_free(p->codes[i]);
    free(p);
}

static Status compile(PreTokenizer *p, const Scheme *scheme, Error *err) {
    for (int i = 0; i < MAX_PATTERNS && scheme->patterns[i]; i++) {
        int code;
        PCRE2_SIZE offset;
        p->codes[i] =
            pcre2_compile((PCRE2_SPTR)scheme->patterns[i], PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &code, &offset, NULL);
        if (!p->codes[i]) {
            char why[128];
            pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
            return error_set(
                err, ERR_UNAVAILABLE,
                "pre-tokenizer %s: pattern %d at %zu: %s (is this PCRE2 built with Unicode?)",
                p->name, i, (size_t)offset, why);
        }
        p->n_patterns = i + 1;
        pcre2_jit_compile(p->codes[i], PCRE2_JIT_COMPLETE);  // where it fails, it is interpreted
    }
    return OK;
}

Status pretokenizer_new(const Gguf *g, const char *name, size_t len, Notice notice,
                        PreTokenizer **out, const char **used, bool *ignore_merges, bool *adds_bos,
                        Error *err) {
    const Scheme *scheme = find_scheme(name, len);
    if (!name) {
        scheme = find_scheme(name = "default", len = 7);
        notice_say(notice,
                   "%s: tokenizer.ggml.pre is absent: pre-tokenizer 'default' is used; if answers "
                   "are odd, convert the model again",
                   gguf_path(g));
    } else if (!scheme) {
        char shown[64];
        notice_say(notice,
                   "%s: tokenizer.ggml.pre: pre-tokenizer '%s' is not known, 'gpt-2' is used: text "
                   "may be cut differently than in training",
                   gguf_path(g), printable(name, len, shown, sizeof shown));
        scheme = find_scheme(name = "gpt-2", len = 5);
    }
    PreTokenizer *p = calloc(1, sizeof *p);
    if (!p) return error_memory(err, "a pre-tokenizer", sizeof *p);
    snprintf(p->name, sizeof p->name, "%.*s", (int)len, name);
    Status st = compile(p, scheme, err);
    if (st != OK) return pretokenizer_free(p), st;
    *out = p, *used = p->name;
    *ignore_merges = scheme->ignore_merges, *adds_bos = scheme->adds_bos;
    return OK;
}

static bool append_end(size_t **ends, size_t *n, size_t *cap, size_t end) {
    if (*n == *cap) {
        size_t more = *cap ? *cap * 2 : 256;
        size_t *grown =
            more > SIZE_MAX / sizeof *grown ? NULL : realloc(*ends, more * sizeof *grown);
        if (!grown) return false;
        *ends = grown, *cap = more;
    }
    (*ends)[(*n)++] = end;
    return true;
}

static int match_at(const pcre2_code *code, Matcher *m, const char *piece, size_t len, size_t at) {
    int rc = pcre2_match(code, (PCRE2_SPTR)piece, len, at, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
    return pcre2_match(code, (PCRE2_SPTR)piece, len, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data,
                       m->context);
}

// Cuts text[from..to) and appends the ends of its pieces to s->ends2.
static Status cut_piece(const PreTokenizer *p, int pattern, EncodeSpace *s, size_t *n_ends2,
                        const char *text, size_t from, size_t to, Error *err) {
    Matcher *m = s->match;
    size_t at = 0, len = to - from;
    while (at < len) {
        int rc = match_at(p->codes[pattern], m, text + from, len, at);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            return error_set(
                err, ERR_FAILED,
                "pre-tokenizer %s gave up at byte %zu of a text (PCRE2 error %d): shorten it",
                p->name, from + at, rc);
        }
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m->data);
        if (span[1] <= span[0]) break;  // no pattern matches nothing
        if (span[0] > at && !append_end(&s->ends2, n_ends2, &s->cap_ends2, from + span[0])) {
            return error_memory(err, "the words of a text", *n_ends2 * sizeof(size_t));
        }
        at = span[1];
        if (!append_end(&s->ends2, n_ends2, &s->cap_ends2, from + at)) {
            return error_memory(err, "the words of a text", *n_ends2 * sizeof(size_t));
        }
    }
    if (at < len && !append_end(&s->ends2, n_ends2, &s->cap_ends2, to)) {
        return error_memory(err, "the words of a text", *n_ends2 * sizeof(size_t));
    }
    return OK;
}

Status pretokenize(const PreTokenizer *p, EncodeSpace *s, const char *text, size_t len,
                   Error *err) {
    if (!s->match && !(s->match = matcher_new())) {
        return error_memory(err, "a pattern matcher", JIT_STACK_MOST);
    }
    s->n_ends = 0;
    if (!append_end(&s->ends, &s->n_ends, &s->cap_ends, len)) {
        return error_memory(err, "the words of a text", sizeof(size_t));
    }
    for (int pattern = 0; pattern < p->n_patterns; pattern++) {
        size_t n = 0;
        for (size_t i = 0, from = 0; i < s->n_ends; from = s->ends[i++]) {
            Status st = cut_piece(p, pattern, s, &n, text, from, s->ends[i], err);
            if (st != OK) return st;
        }
        size_t *ends = s->ends, cap = s->cap_ends;
        s->ends = s->ends2, s->cap_ends = s->cap_ends2, s->n_ends = n;
        s->ends2 = ends, s->cap_ends2 = cap;
    }
    return OK;
}

#else

void pretokenize_match_free(void *match) {
    (void)match;
}

void pretokenizer_free(PreTokenizer *p) {
    (void)p;
}

Status pretokenizer_new(const Gguf *g, const char *name, size_t len, Notice notice,
                        PreTokenizer **out, const char **used, bool *ignore_merges, bool *adds_bos,
                        Error *err) {
    (void)notice, (void)out, (void)used, (void)ignore_merges, (void)adds_bos;
    char shown[64];
    printable(name ? name : "", len, shown, sizeof shown);
    return error_set(
        err, ERR_UNAVAILABLE,
        "%s: this build lacks PCRE2, which pre-tokenizer '%s'%s needs: install libpcre2-dev "
        "and build again",
        gguf_path(g), shown, find_scheme(name, len) ? "" : " (unknown)");
}

Status pretokenize(const PreTokenizer *p, EncodeSpace *s, const char *text, size_t len,
                   Error *err) {
    (void)p, (void)s, (void)text, (void)len;
    return error_set(err, ERR_UNAVAILABLE, "this build lacks PCRE2");
}

#endif
