// Reads traces: finds prompts and components among the named arrays of a file; see trace.h.
//
// Names are resolved in two steps: first each array alone (which prompt, which component, which
// occurrence), then, sorted, each group of arrays that claim the same component.
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/file.h"
#include "verify/trace_internal.h"

typedef unsigned long long ull;

enum { MAX_TOKENS = 1 << 24 };

typedef struct {
    const NdArray *array;
    size_t prompt;
    ComponentName name;
} Entry;

// What a prompt's keys say of what follows.
typedef struct {
    size_t first_row;       // SIZE_MAX: not said
    bool foreign_sampling;  // its token and probabilities cannot be judged
} Said;

typedef struct {
    Trace *t;
    TraceSource *s;
    TraceShape shape;
    Notice notice;
    Entry *entries;
    size_t n_entries;
    Said *said;  // of each prompt
    const char *ignored;
    bool once_told, transformers_names;
    Error *err;
} Reader;

static Status bad(const Reader *r, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static Status bad(const Reader *r, const char *name, const char *fmt, ...) {
    char shown[128];
    va_list ap;
    va_start(ap, fmt);
    error_setv(r->err, ERR_FILE, fmt, ap);
    va_end(ap);
    error_prefix(r->err, "%s: array \"%s\"", r->t->path,
                 printable(name, strlen(name), shown, sizeof shown));
    return ERR_FILE;
}

// --- prompts ----------------------------------------------------------------------------------

// The length of PROMPT in "PROMPT.tokens", 0 in "tokens"; -1: no tokens.
static long tokens_prefix(const char *name) {
    const size_t n = strlen(name);
    if (strcmp(name, "tokens") == 0) return 0;
    return n > 7 && strcmp(name + n - 7, ".tokens") == 0 ? (long)n - 7 : -1;
}

static int prompt_order(const void *a, const void *b) {
    return strcmp(((const TracePrompt *)a)->name, ((const TracePrompt *)b)->name);
}

static Status read_tokens(Reader *r, const NdArray *a, TracePrompt *p) {
    if (nd_type_is_float(a->type)) {
        return bad(r, a->name, "expected integers, found %s", nd_type_name(a->type));
    }
    if (a->n == 0 || a->n > MAX_TOKENS || a->dims[a->rank ? a->rank - 1 : 0] != a->n) {
        return bad(r, a->name, "expected one dimension of 1 to %d tokens", MAX_TOKENS);
    }
    int32_t *tokens = arena_alloc(&r->s->arena, (size_t)a->n, sizeof *tokens);
    char *name = arena_text(&r->s->arena, a->name, (size_t)tokens_prefix(a->name));
    if (!tokens || !name) return error_memory(r->err, a->name, a->n * sizeof *tokens);
    for (uint64_t i = 0; i < a->n; i++) {
        const int64_t id = nd_read_int(a, i);
        if (id < 0 || id > INT32_MAX) {
            return bad(r, a->name, "token %llu is %lld, expected 0 to 2^31 - 1", (ull)i,
                       (long long)id);
        }
        tokens[i] = (int32_t)id;
    }
    *p = (TracePrompt){.name = name, .tokens = tokens, .n_tokens = (size_t)a->n, .chosen = -1};
    return OK;
}

static Status find_prompts(Reader *r) {
    Trace *t = r->t;
    size_t n = 0;
    for (size_t i = 0; i < r->s->n_arrays; i++) n += tokens_prefix(r->s->arrays[i].name) >= 0;
    if (n == 0) {
        return error_set(r->err, ERR_FILE,
                         "%s: holds no token ids; a trace needs the integers \"tokens\" (or "
                         "\"PROMPT.tokens\"; in a GGUF the key trace.tokens)",
                         t->path);
    }
    t->prompts = arena_alloc(&r->s->arena, n, sizeof *t->prompts);
    r->said = arena_alloc(&r->s->arena, n, sizeof *r->said);
    if (!t->prompts || !r->said) return error_memory(r->err, t->path, n);
    for (size_t i = 0; i < r->s->n_arrays; i++) {
        if (tokens_prefix(r->s->arrays[i].name) < 0) continue;
        r->said[t->n_prompts].first_row = SIZE_MAX;
        Status st = read_tokens(r, &r->s->arrays[i], &t->prompts[t->n_prompts++]);
        if (st) return st;
    }
    qsort(t->prompts, n, sizeof *t->prompts, prompt_order);
    for (size_t i = 1; i < n; i++) {
        if (prompt_order(&t->prompts[i - 1], &t->prompts[i]) == 0) {
            return bad(r, t->prompts[i].name, "a prompt of this name stands twice");
        }
    }
    return OK;
}

// Index of the prompt with this name; n_prompts: there is none.
static size_t find_prompt(const Trace *t, const char *name, size_t len) {
    size_t lo = 0, hi = t->n_prompts;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const char *at = t->prompts[mid].name;
        int c = strncmp(at, name, len);
        if (c == 0 && at[len]) c = 1;
        if (c == 0) return mid;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return t->n_prompts;
}

// --- what the trace says of itself ------------------------------------------------------------

const char *act_quant_name(ActQuant a) {
    static const char *const names[] = {"none", "f16", "bf16", "q8_0", "q8_k"};
    return names[a];
}

bool act_quant_by_name(const char *name, ActQuant *out) {
    for (int a = ACT_F32; a <= ACT_Q8_K; a++) {
        if (strcasecmp(name, act_quant_name((ActQuant)a)) != 0) continue;
        *out = (ActQuant)a;
        return true;
    }
    return false;
}

static void read_activation(Reader *r, const char *type, const char *quant) {
    TensorType weight;
    char shown[64];
    if (!type_by_name(type, &weight)) return;
    if (act_quant_by_name(quant, &r->t->activation[weight])) {
        r->t->says_activation = true;
        return;
    }
    notice_say(r->notice, "%s: trace.activation.%s is \"%s\", which is not known; left aside",
               r->t->path, type, printable(quant, strlen(quant), shown, sizeof shown));
}

// A number of 0..most that is the whole text.
static bool read_number(const char *text, long long most, long long *out) {
    char *end;
    if (*text < '0' || *text > '9' || strlen(text) > 18) return false;
    *out = strtoll(text, &end, 10);
    return !*end && *out <= most;
}

static Status bad_key(const Reader *r, const char *key, const char *text, size_t len,
                      const char *expected) {
    char shown[64];
    return error_set(r->err, ERR_FILE, "%s: key trace.%s is \"%s\", expected %s", r->t->path, key,
                     printable(text, len, shown, sizeof shown), expected);
}

static Status read_sampling(Reader *r, const TraceText *x, size_t prompt) {
    const char *word = "";
    size_t len = 0;
    TraceSampling *s = &r->t->prompts[prompt].sampling;
    const SamplingKind kind = trace_sampling_read(x->text, s, &word, &len);
    if (kind == SAMPLING_READ) return OK;
    *s = (TraceSampling){0};
    if (kind == SAMPLING_BAD) {
        return bad_key(r, x->key, word, len, "KEY=NUMBER within its range, as \"top_p=0.95\"");
    }
    char shown[64];
    r->said[prompt].foreign_sampling = true;
    notice_say(r->notice, "%s: trace.%s has \"%s\", which is not known here: no token is judged",
               r->t->path, x->key, printable(word, len, shown, sizeof shown));
    return OK;
}

// "PROMPT.first_row", "chosen", ...
static Status read_prompt_text(Reader *r, const TraceText *x) {
    enum { FIRST_ROW, CHOSEN, SAMPLING, TEXT, N };
    static const char *const names[N] = {"first_row", "chosen", "sampling", "text"};
    const char *dot = strrchr(x->key, '.');
    const char *name = dot ? dot + 1 : x->key;
    int what = 0;
    while (what < N && strcmp(name, names[what]) != 0) what++;
    if (what == N) return OK;
    size_t i = find_prompt(r->t, x->key, dot ? (size_t)(dot - x->key) : 0);
    if (i == r->t->n_prompts && !dot && i == 1) i = 0;  // the only one
    if (i == r->t->n_prompts) return OK;
    TracePrompt *p = &r->t->prompts[i];
    if (what == TEXT) p->text = x->text;
    if (what == SAMPLING) return read_sampling(r, x, i);
    if (what >= SAMPLING || (what == CHOSEN && strcmp(x->text, "-1") == 0)) return OK;
    const bool row = what == FIRST_ROW;
    long long v;
    if (!read_number(x->text, row ? (long long)p->n_tokens - 1 : INT32_MAX, &v)) {
        return bad_key(r, x->key, x->text, strlen(x->text),
                       row ? "a whole number below that of the tokens" : "a whole number");
    }
    if (row)
        r->said[i].first_row = (size_t)v;
    else
        p->chosen = (int32_t)v;
    return OK;
}

static Status read_texts(Reader *r) {
    Trace *t = r->t;
    const struct {
        const char *key;
        const char **to;
    } known[] = {{"description", &t->description},
                 {"model_sha256", &t->model_sha256},
                 {"backend", &t->backend},
                 {"device", &t->device},
                 {"build", &t->build},
                 {"kv_type_k", &t->kv_type_k},
                 {"kv_type_v", &t->kv_type_v}};
    for (size_t i = 0; i < r->s->n_texts; i++) {
        const TraceText *x = &r->s->texts[i];
        for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
            if (strcmp(x->key, known[k].key) == 0) *known[k].to = x->text;
        }
        if (strncmp(x->key, "activation.", 11) == 0) read_activation(r, x->key + 11, x->text);
        if (strcmp(x->key, "qk_layout") == 0 && r->shape.qk == QK_AUTO) {
            r->shape.qk = strcmp(x->text, "hf") == 0 ? QK_HF : QK_GGUF;
        }
        Status st = read_prompt_text(r, x);
        if (st) return st;
    }
    for (size_t i = 0; i < t->n_prompts; i++) {
        if (r->said[i].foreign_sampling) t->prompts[i].chosen = -1;
    }
    return OK;
}

const char *trace_says(const Trace *t, const char *key) {
    for (size_t i = 0; i < t->owned->n_texts; i++) {
        if (strcmp(t->owned->texts[i].key, key) == 0) return t->owned->texts[i].text;
    }
    return NULL;
}

// --- which array is what ----------------------------------------------------------------------

// The chosen token is a key, no array.
static bool parse_name(const char *text, size_t len, ComponentName *out) {
    return component_parse(text, len, out) && out->ref.c != COMP_TOKEN;
}

// "PROMPT.COMPONENT" with a prompt that is there. A name that is a component as it stands belongs
// to the prompt without a name, or to the only one.
static Status place(Reader *r, const NdArray *a, Entry *e, bool *found) {
    const Trace *t = r->t;
    const char *name = a->name;
    const size_t len = strlen(name);
    *found = parse_name(name, len, &e->name);
    if (*found) {
        e->prompt = find_prompt(t, "", 0);
        if (e->prompt == t->n_prompts && t->n_prompts == 1) e->prompt = 0;
        if (e->prompt < t->n_prompts) return OK;
        return bad(r, name, "which of the %zu prompts is it of? Write it as PROMPT.%s",
                   t->n_prompts, "NAME");
    }
    bool stray = false;  // a component of a prompt that is not there
    for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
        const size_t at = (size_t)(dot - name);
        if (!parse_name(dot + 1, len - at - 1, &e->name)) continue;
        e->prompt = find_prompt(t, name, at);
        *found = e->prompt < t->n_prompts;
        if (*found) return OK;
        stray |= dot == strchr(name, '.');
    }
    if (!stray) return OK;
    char shown[64];
    return bad(r, name, "the tokens of its prompt are missing: add \"%s.tokens\"",
               printable(name, strcspn(name, "."), shown, sizeof shown));
}

static int entry_order(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->prompt != y->prompt) return x->prompt < y->prompt ? -1 : 1;
    const long p = component_order(x->name.ref), q = component_order(y->name.ref);
    if (p != q) return p < q ? -1 : 1;
    if (x->name.nth != y->name.nth) return x->name.nth < y->name.nth ? -1 : 1;
    if (x->name.weak != y->name.weak) return x->name.weak ? 1 : -1;
    return strcmp(x->array->name, y->array->name);
}

// Probabilities can be judged only where it is said how they came about.
static bool takes_probs(const Reader *r, const Entry *e) {
    if (e->name.ref.c != COMP_PROBS || r->t->prompts[e->prompt].sampling.given) return true;
    if (!r->said[e->prompt].foreign_sampling) {
        notice_say(r->notice,
                   "%s: probs are left aside: no key \"sampling\" says how they came about",
                   r->t->path);
    }
    return false;
}

static Status find_entries(Reader *r) {
    const size_t n = r->s->n_arrays;
    r->entries = malloc((n + 1) * sizeof *r->entries);
    if (!r->entries) return error_memory(r->err, r->t->path, n * sizeof *r->entries);
    for (size_t i = 0; i < n; i++) {
        const NdArray *a = &r->s->arrays[i];
        bool found;
        if (tokens_prefix(a->name) >= 0) continue;
        Entry *e = &r->entries[r->n_entries];
        *e = (Entry){.array = a};
        Status st = place(r, a, e, &found);
        if (st) return st;
        found = found && takes_probs(r, e);
        if (!found) {
            if (r->t->n_ignored++ == 0) r->ignored = a->name;
            continue;
        }
        if (!nd_type_is_float(a->type)) {
            return bad(r, a->name, "expected floats, found %s", nd_type_name(a->type));
        }
        r->transformers_names |= e->name.style == NAMES_TRANSFORMERS;
        r->n_entries++;
    }
    qsort(r->entries, r->n_entries, sizeof *r->entries, entry_order);
    return OK;
}

static bool same_ref(const Entry *a, const Entry *b) {
    return a->prompt == b->prompt && component_order(a->name.ref) == component_order(b->name.ref);
}

// Gives the arrays under one of llama.cpp's repeated names their components, and drops what gives
// way to another. Groups are short or of one pass: linear after the sort.
static Status resolve(Reader *r) {
    size_t kept = 0;
    for (size_t i = 0, end; i < r->n_entries; i = end) {
        const Component last = r->entries[i].name.ref.c;
        int n = 0, nth = 0;
        for (end = i; end < r->n_entries && same_ref(&r->entries[i], &r->entries[end]); end++) {
            n += r->entries[end].name.nth >= 0;
        }
        if (n == 1 && last != COMP_V && !r->once_told) {
            const Entry *e = &r->entries[end - 1];
            char shown[128];
            notice_say(r->notice, "%s: \"%s\" stands there once: taken as what it is after RoPE",
                       r->t->path,
                       printable(e->array->name, strlen(e->array->name), shown, sizeof shown));
            r->once_told = true;
        }
        for (size_t k = i; k < end; k++) {
            Entry e = r->entries[k];
            bool keep = true;
            if (e.name.nth >= 0) keep = component_occurrence(last, nth++, n, &e.name.ref.c);
            if (keep)
                r->entries[kept++] = e;
            else if (r->t->n_ignored++ == 0)
                r->ignored = e.array->name;
        }
    }
    r->n_entries = kept;
    for (size_t i = 0; i < kept; i++) r->entries[i].name.nth = -1;
    qsort(r->entries, kept, sizeof *r->entries, entry_order);  // the strong before the weak
    size_t out = 0;
    for (size_t i = 0; i < kept; i++) {
        const Entry *e = &r->entries[i];
        if (out > 0 && same_ref(&r->entries[out - 1], e)) {
            char text[COMPONENT_TEXT];
            if (!e->name.weak) {
                return bad(r, e->array->name, "is %s, and so is \"%.100s\"",
                           component_text(e->name.ref, text), r->entries[out - 1].array->name);
            }
            if (r->t->n_ignored++ == 0) r->ignored = e->array->name;
            continue;
        }
        r->entries[out++] = *e;
    }
    r->n_entries = out;
    return OK;
}

// --- shapes and values ------------------------------------------------------------------------

// Rows and width of an array whose slowest dimension but for leading ones is tokens: tokens x
// width, tokens x heads x head_dim, 1 x tokens x width.
static Status find_shape(const Reader *r, const Entry *e, size_t most, TraceArray *out) {
    const NdArray *a = e->array;
    int first = 0;
    if (a->rank == 0 || a->n == 0) return bad(r, a->name, "expected tokens x width, it is empty");
    if (component_is_scores(e->name.ref.c)) {
        out->width = (size_t)a->dims[a->rank - 1];
    } else {
        while (a->rank - first > 2 && a->dims[first] == 1 && most > 1) first++;
        out->width = a->rank == 1 ? (size_t)a->n : (size_t)(a->n / a->dims[first]);
    }
    out->rows = (size_t)a->n / out->width;
    return OK;
}

// heads x tokens x cells, with as many cells as the cache was padded to -> tokens x heads x tokens,
// scaled. Masked keys stay: their scores are products like others there, and weights on them are a
// fault.
static Status convert_scores(const Reader *r, const Entry *e, TraceArray *out, float **values) {
    const NdArray *a = e->array;
    const TraceShape *h = &r->shape;
    const size_t n_tokens = r->t->prompts[e->prompt].n_tokens, cells = out->width;
    int first = 0;
    while (a->rank - first > 3 && a->dims[first] == 1) first++;
    if (a->rank - first != 3 || h->n_heads < 1 || a->dims[first] != (uint64_t)h->n_heads ||
        a->dims[first + 1] > n_tokens || cells < n_tokens) {
        return bad(r, a->name, "expected %d heads x at most %zu tokens x at least %zu cells",
                   h->n_heads, n_tokens, n_tokens);
    }
    const size_t heads = (size_t)h->n_heads, rows = (size_t)a->dims[first + 1];
    const float scale =
        e->name.ref.c == COMP_KQ ? (float)(1.0 / sqrt(h->head_dim > 0 ? h->head_dim : 1)) : 1.0f;
    float *x = arena_alloc(&r->s->arena, rows * heads * n_tokens, sizeof *x);
    if (!x) return error_memory(r->err, a->name, rows * heads * n_tokens * sizeof *x);
    for (size_t t = 0; t < rows; t++) {
        for (size_t head = 0; head < heads; head++) {
            float *to = x + (t * heads + head) * n_tokens;
            nd_read_f32(a, (head * rows + t) * cells, n_tokens, to);
            for (size_t i = 0; i < n_tokens; i++) to[i] *= scale;
        }
    }
    out->rows = rows * heads, out->width = n_tokens;
    *values = x;
    return OK;
}

// Each head's first half and second half, element by element, to neighbours: what converters to
// GGUF do to the rows of llama's q and k.
static Status interleave(const Reader *r, const Entry *e, const TraceArray *a, float *x) {
    const Component c = e->name.ref.c;
    const bool q = c == COMP_Q || c == COMP_Q_NORM || c == COMP_Q_ROPE;
    const size_t heads = (size_t)(q ? r->shape.n_heads : r->shape.n_kv_heads);
    const size_t dim = heads ? a->width / heads : 0, half = dim / 2;
    if (heads == 0 || a->width % heads || dim % 2) {
        return bad(r, a->source, "its width of %zu is no multiple of %zu heads of even size",
                   a->width, heads);
    }
    float *head = malloc(dim * sizeof *head);
    if (!head) return error_memory(r->err, a->source, dim * sizeof *head);
    for (float *at = x; at < x + a->rows * a->width; at += dim) {
        for (size_t i = 0; i < half; i++) head[2 * i] = at[i], head[2 * i + 1] = at[half + i];
        memcpy(at, head, dim * sizeof *head);
    }
    free(head);
    return OK;
}

static bool is_paired(Component c) {
    return c == COMP_Q || c == COMP_K || c == COMP_Q_NORM || c == COMP_K_NORM || c == COMP_Q_ROPE ||
           c == COMP_K_ROPE || c == COMP_K_CACHE;
}

static Status read_values(const Reader *r, const Entry *e, TraceArray *out) {
    const NdArray *a = e->array;
    const Component c = e->name.ref.c;
    const bool permute = is_paired(c) && r->shape.qk == QK_HF && r->shape.norm_pairing;
    const bool foreign = component_is_scores(c) && e->name.style == NAMES_LLAMA_CPP;
    float *x = NULL;
    if (a->type == ND_F32 && !permute && !foreign && (uintptr_t)a->data % sizeof *x == 0) {
        out->x = (const float *)(const void *)a->data;  // where it lies in the file
        return OK;
    }
    const ull have = memory_available();
    if (have && a->n > have / sizeof *x) return error_memory(r->err, a->name, a->n * sizeof *x);
    if (foreign) {
        Status st = convert_scores(r, e, out, &x);
        out->x = x;
        return st;
    }
    x = arena_alloc(&r->s->arena, (size_t)a->n, sizeof *x);
    if (!x) return error_memory(r->err, a->name, a->n * sizeof *x);
    nd_read_f32(a, 0, a->n, x);
    out->x = x;
    return permute ? interleave(r, e, out, x) : OK;
}

static Status check_rows(const Reader *r, const Entry *e, TraceArray *a) {
    if (e->name.ref.c == COMP_PROBS) {  // what the next token is drawn from: of the last row
        a->x += (a->rows - 1) * a->width;
        a->rows = 1;
    }
    const TracePrompt *p = &r->t->prompts[e->prompt];
    size_t per_token = 1, first = r->said[e->prompt].first_row;
    if (component_is_scores(e->name.ref.c)) {
        // Without the model's shape the rows must tell: of all tokens, or of one.
        per_token = r->shape.n_heads > 0         ? (size_t)r->shape.n_heads
                    : a->rows % p->n_tokens == 0 ? a->rows / p->n_tokens
                                                 : a->rows;
        if (a->width > p->n_tokens) {
            return bad(r, a->source, "has %zu keys, the prompt has %zu tokens", a->width,
                       p->n_tokens);
        }
    }
    const size_t tokens = a->rows / per_token;
    const size_t most = first == SIZE_MAX ? p->n_tokens : p->n_tokens - first;
    if (a->rows % per_token || tokens == 0 || tokens > most) {
        return bad(r, a->source, "has %zu rows of %zu, expected at most %zu tokens%s", a->rows,
                   a->width, most, per_token > 1 ? " x heads" : "");
    }
    a->first_row = p->n_tokens - tokens;
    return OK;
}

static Status read_arrays(Reader *r) {
    TraceArray *all = arena_alloc(&r->s->arena, r->n_entries + 1, sizeof *all);
    if (!all) return error_memory(r->err, r->t->path, r->n_entries * sizeof *all);
    for (size_t i = 0; i < r->n_entries; i++) {
        const Entry *e = &r->entries[i];
        TracePrompt *p = &r->t->prompts[e->prompt];
        const size_t said = r->said[e->prompt].first_row, first = said == SIZE_MAX ? 0 : said;
        if (!p->arrays) p->arrays = &all[i];
        p->n_arrays++;
        all[i] = (TraceArray){.ref = e->name.ref, .source = e->array->name};
        Status st = find_shape(r, e, p->n_tokens - first, &all[i]);
        if (!st) st = read_values(r, e, &all[i]);
        if (!st) st = check_rows(r, e, &all[i]);
        if (st) return st;
    }
    return OK;
}

// --- opening ----------------------------------------------------------------------------------

static Status open_source(TraceSource *s, const char *path, Error *err) {
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return trace_source_folder(s, path, err);
    MappedFile *f;
    Status st = file_map(path, &f, err);
    if (st) return st;
    char head[6] = {0};
    memcpy(head, file_data(f), file_size(f) < 6 ? (size_t)file_size(f) : 6);
    file_unmap(f);
    if (memcmp(head, "GGUF", 4) == 0) return trace_source_gguf(s, path, err);
    if (memcmp(head, "PK\3\4", 4) == 0) {
        return error_set(err, ERR_FILE, "%s: is an archive (.npz?); unpack it into a folder", path);
    }
    if (memcmp(head, "\x93NUMPY", 6) == 0) {
        return error_set(err, ERR_FILE, "%s: is one array; give the folder that holds them all",
                         path);
    }
    return trace_source_safetensors(s, path, err);
}

static Status read_trace(Reader *r) {
    Trace *t = r->t;
    Status st = find_prompts(r);
    if (!st) st = read_texts(r);
    if (!st) st = find_entries(r);
    if (!st) st = resolve(r);
    if (!st) st = read_arrays(r);
    if (st) return st;
    char shown[128] = "";
    if (r->ignored) printable(r->ignored, strlen(r->ignored), shown, sizeof shown);
    if (r->n_entries == 0) {
        return error_set(r->err, ERR_FILE,
                         "%s: no array has a component's name (blk.0.q, Qcur-0, "
                         "model.layers.0.self_attn.q_proj, ...)%s%s%s",
                         t->path, r->ignored ? "; there is \"" : "", shown, r->ignored ? "\"" : "");
    }
    if (t->n_ignored) {
        notice_say(r->notice, "%s: %zu arrays are no component or one already there: \"%s\"%s",
                   t->path, t->n_ignored, shown, t->n_ignored > 1 ? ", ..." : "");
    }
    if (r->transformers_names && r->shape.norm_pairing && r->shape.qk == QK_AUTO) {
        notice_say(r->notice,
                   "%s: its names are those of transformers, its q and k are taken as GGUF pairs "
                   "them; --qk-layout hf if they are as transformers gives them",
                   t->path);
    }
    return trace_fault(t, r->err);
}

Status trace_open(const char *path, const TraceShape *shape, Notice notice, Trace **out,
                  Error *err) {
    *out = NULL;
    Trace *t = calloc(1, sizeof *t);
    TraceSource *s = calloc(1, sizeof *s);
    if (!t || !s) {
        free(t), free(s);
        return error_memory(err, path, sizeof *t);
    }
    t->owned = s;
    Reader r = {.t = t, .s = s, .shape = shape ? *shape : (TraceShape){0}, .notice = notice};
    r.err = err;
    Status st = open_source(s, path, err);
    t->path = st ? NULL : arena_text(&s->arena, path, strlen(path));
    if (!st) st = t->path ? read_trace(&r) : error_memory(err, path, strlen(path));
    free(r.entries);
    if (st) {
        trace_close(t);
        return st;
    }
    *out = t;
    return OK;
}

void trace_close(Trace *t) {
    if (!t) return;
    trace_source_free(t->owned);
    free(t->owned);
    free(t);
}

Status trace_fault(const Trace *t, Error *err) {
    const TraceSource *s = t->owned;
    if (s->gguf) return gguf_fault(s->gguf, err);
    return s->safetensors ? safetensors_fault(s->safetensors, err) : OK;
}

const TraceArray *trace_find(const TracePrompt *p, Component c, int layer) {
    const long want = component_order((ComponentRef){c, layer});
    size_t lo = 0, hi = p->n_arrays;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const long at = component_order(p->arrays[mid].ref);
        if (at == want) return &p->arrays[mid];
        if (at < want)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}
