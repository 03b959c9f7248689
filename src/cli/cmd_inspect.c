// plumb inspect: what is in a model file, what loading it needs, and what is odd about it.
//
// This room owns: showing. It leaves to others: reading (formats/gguf.h), what is odd
// (inspect_checks.h).
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "base/arena.h"
#include "cli/cli.h"
#include "cli/inspect_checks.h"
#include "cli/json.h"
#include "formats/mix.h"

enum { FEW_TENSORS = 64, SHORT_ARRAY = 16, SHOWN_ELEMENTS = 4 };

typedef struct {
    const char *model;
    bool tensors, check_tensors, json;
    int n_ctx;
    ArgList words;
} InspectArgs;

// What is counted over all tensors, and what loading needs.
typedef struct {
    double weights;
    uint64_t bytes;
    int n_ctx;          // 0: the model cannot be run, or its file does not say
    uint64_t kv_bytes;  // of a cache in F16 for n_ctx
} Sizes;

static Status read_args(int argc, char **argv, InspectArgs *a, bool *help, Error *err) {
    const Arg own[] = {{"-m, --model", ARG_TEXT, &a->model, 0},
                       {"--tensors", ARG_FLAG, &a->tensors, 0},
                       {"--check-tensors", ARG_FLAG, &a->check_tensors, 0},
                       {"--json", ARG_FLAG, &a->json, 0},
                       {"-c, --ctx-size", ARG_INT, &a->n_ctx, 0},
                       {0}};
    const Arg *const tables[] = {own};
    Status st = args_read(argc, argv, tables, 1, &a->words, help, err);
    if (st || *help) return st;
    if (a->words.n + (a->model != NULL) > 1)
        return error_set(err, ERR_USAGE, "inspect looks at one file at a time");
    if (a->words.n) a->model = a->words.items[0];
    if (a->n_ctx <= MODEL_MAX_CONTEXT) return OK;
    return error_set(err, ERR_USAGE, "-c %d is out of range (0 to %d)", a->n_ctx,
                     MODEL_MAX_CONTEXT);
}

static double weights_of(const Tensor *t) {
    return (double)t->dims[0] * (double)t->dims[1] * (double)t->dims[2] * (double)t->dims[3];
}

static Sizes measure(const InspectArgs *a, const Inspection *in) {
    Sizes s = {0};
    for (size_t i = 0; i < gguf_n_tensors(in->g); i++) {
        s.weights += weights_of(gguf_tensor_at(in->g, i));
        s.bytes += gguf_tensor_at(in->g, i)->bytes;
    }
    const BackendOps *cpu = backend_by_name("cpu");
    if (!in->model || !cpu) return s;
    const Hparams *h = &in->model->h;
    s.n_ctx = a->n_ctx ? a->n_ctx : h->n_ctx_train;
    const KvShape shape = {.n_layers = h->n_layers,
                           .n_kv_heads = h->n_kv_heads,
                           .head_dim = h->head_dim,
                           .n_ctx = s.n_ctx,
                           .n_seqs = 1,
                           .type_k = TYPE_F16,
                           .type_v = TYPE_F16};
    s.kv_bytes = cpu->kv_bytes(&shape);
    return s;
}

static const char *mix_of(const Gguf *g) {
    uint32_t type = 0;
    bool found = false;
    gguf_get_u32(g, "general.file_type", &type, &found, NULL);
    return found ? mix_name_of_file_type(type) : NULL;
}

static const char *text_of(const Gguf *g, const char *key, char *out, size_t size) {
    GgufStr s = {"", 0};
    bool found = false;
    gguf_get_str(g, key, &s, &found, NULL);
    return found ? printable(s.ptr, s.len, out, size) : NULL;
}

// Of a long array, so that two files can be compared: FNV-1a of 64 bits over the elements as
// stored; of strings, over each one's length (8 bytes, little-endian) and bytes.
static uint64_t fnv(uint64_t h, const void *bytes, uint64_t n) {
    const unsigned char *p = bytes;
    for (uint64_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static uint64_t digest(const GgufValue *v) {
    uint64_t h = 0xcbf29ce484222325u;
    if (v->elem_type != GGUF_STR) return fnv(h, v->raw, v->n * gguf_type_size(v->elem_type));
    for (uint64_t i = 0; i < v->n; i++) {
        unsigned char len[8];
        for (int k = 0; k < 8; k++) len[k] = (unsigned char)(v->strs[i].len >> 8 * k);
        h = fnv(fnv(h, len, sizeof len), v->strs[i].ptr, v->strs[i].len);
    }
    return h;
}

// --- for people ----------------------------------------------------------------------------------

static const char *size_text(uint64_t bytes, char out[32]) {
    const double b = (double)bytes;
    if (bytes < 10000)
        snprintf(out, 32, "%" PRIu64 " bytes", bytes);
    else if (b < 0x1p20)
        snprintf(out, 32, "%.1f KiB", b / 0x1p10);
    else if (b < 0x1p30)
        snprintf(out, 32, "%.2f MiB", b / 0x1p20);
    else
        snprintf(out, 32, "%.2f GiB", b / 0x1p30);
    return out;
}

static void print_string(GgufStr s, size_t room) {
    char shown[160];
    printable(s.ptr, s.len, shown, room < sizeof shown ? room : sizeof shown);
    const bool whole = s.len < room && strlen(shown) >= s.len;
    printf("\"%s\"%s", shown, whole ? "" : "...");
    if (!whole && s.len > room) printf(" (%" PRIu64 " bytes)", s.len);
}

static void print_element(const GgufValue *v, GgufType type, uint64_t i, size_t room) {
    switch (type) {
        case GGUF_STR: print_string(v->strs[i], room); break;
        case GGUF_F32:
        case GGUF_F64: printf("%.7g", gguf_elem_f64(v, i)); break;
        case GGUF_BOOL: printf(gguf_elem_i64(v, i) ? "true" : "false"); break;
        default: printf("%" PRId64, gguf_elem_i64(v, i)); break;
    }
}

static void print_value(const GgufValue *v) {
    char type[32];
    const bool array = v->type == GGUF_ARRAY;
    snprintf(type, sizeof type, array ? "%s[%" PRIu64 "]" : "%s",
             gguf_type_name(array ? v->elem_type : v->type), v->n);
    printf("  %-42s %-12s ", v->key, type);
    const uint64_t shown = v->n > SHOWN_ELEMENTS ? SHOWN_ELEMENTS : v->n;
    for (uint64_t i = 0; i < shown; i++) {
        if (i) printf(", ");
        print_element(v, array ? v->elem_type : v->type, i, array ? 24 : 72);
    }
    if (shown < v->n) printf(", ... %016" PRIx64, digest(v));
    putchar('\n');
}

static void print_head(const Inspection *in, const Sizes *s) {
    char buf[128], size[32];
    const Gguf *g = in->g;
    const char *name = text_of(g, "general.name", buf, sizeof buf);
    printf("%s\n  GGUF version %u, %s", gguf_path(g), gguf_version(g),
           size_text(gguf_file_bytes(g), size));
    if (gguf_n_parts(g) > 1) printf(" in %d parts", gguf_n_parts(g));
    printf(", %zu keys, %zu tensors\n", gguf_n_values(g), gguf_n_tensors(g));
    if (name) printf("  \"%s\"\n", name);
    const char *arch = text_of(g, "general.architecture", buf, sizeof buf), *mix = mix_of(g);
    printf("  architecture %s", arch ? arch : "not said");
    if (s->weights > 0) {
        printf(", %.4g M parameters, %s, %.2f bits a weight", s->weights / 1e6,
               mix ? mix : "type not said", 8 * (double)s->bytes / s->weights);
    }
    putchar('\n');
    if (in->model) {
        const Hparams *h = &in->model->h;
        printf(
            "  %d layers, dim %d, feed-forward %d, %d heads of %d (%d of keys and values), context "
            "%d, "
            "vocabulary %d%s\n",
            h->n_layers, h->dim, h->ffn_dim, h->n_heads, h->head_dim, h->n_kv_heads, h->n_ctx_train,
            h->n_vocab, in->model->tied ? ", output tied" : "");
    }
    if (in->tokenizer) {
        const char *pre = tokenizer_pre_name(in->tokenizer);
        printf("  tokenizer %s%s%s, %d tokens, chat template %s\n",
               tokenizer_model_name(in->tokenizer), *pre ? " / " : "", pre,
               tokenizer_n_vocab(in->tokenizer),
               in->chat_template ? chat_template_name(in->chat_template) : "none");
    }
}

static void print_tensors(const Gguf *g, bool each) {
    struct {
        size_t n;
        uint64_t bytes;
    } types[TYPE_LIMIT] = {0};
    char size[32], buf[32];
    printf("\nTensors\n");
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        types[t->type].n++, types[t->type].bytes += t->bytes;
    }
    for (uint32_t k = 0; k < TYPE_LIMIT; k++) {
        if (types[k].n) {
            printf("  %6zu of %-8s %s\n", types[k].n, type_name(k, buf, NULL),
                   size_text(types[k].bytes, size));
        }
    }
    if (!each) {
        printf("  --tensors lists them\n");
        return;
    }
    printf("\n  %-40s %-8s %-20s %14s %14s\n", "name", "type", "shape", "bytes", "offset");
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        char shape[96];
        int at = 0;
        for (int d = 0; d < t->n_dims; d++) {
            at += snprintf(shape + at, sizeof shape - (size_t)at, d ? " x %" PRIu64 : "%" PRIu64,
                           t->dims[d]);
        }
        printf("  %-40s %-8s %-20s %14" PRIu64 " %14" PRIu64, t->name,
               type_name(t->type, buf, NULL), shape, t->bytes, t->offset);
        if (gguf_n_parts(g) > 1) printf("  part %d", t->part + 1);
        putchar('\n');
    }
}

static void print_needs(const Inspection *in, const Sizes *s) {
    char a[32], b[32];
    printf("\nLoading needs\n");
    printf("  weights    %s, mapped from the file", size_text(s->bytes, a));
    if (in->model) printf("; a decode step reads %s", size_text(in->model->decode_bytes, b));
    putchar('\n');
    if (s->n_ctx)
        printf("  KV cache   %s for a context of %d in f16\n", size_text(s->kv_bytes, a), s->n_ctx);
    const unsigned long long have = memory_available();
    if (have) printf("  free now   %s\n", size_text(have, a));
}

static void print_all(const InspectArgs *a, const Inspection *in, const Sizes *s) {
    const Gguf *g = in->g;
    print_head(in, s);
    printf("\nMetadata\n");
    for (size_t i = 0; i < gguf_n_values(g); i++) print_value(gguf_value_at(g, i));
    if (gguf_n_tensors(g)) {
        print_tensors(g, a->tensors || gguf_n_tensors(g) <= FEW_TENSORS);
        print_needs(in, s);
    }
    printf("\nOdd\n");
    for (size_t i = 0; i < in->n_warnings; i++) printf("  - %s\n", in->warnings[i]);
    if (in->n_warnings == 0) printf("  nothing\n");
}

// --- for programs --------------------------------------------------------------------------------

#if HAVE_JANSSON
static json_t *integer_json(uint64_t v) {
    return v <= INT64_MAX ? json_integer((json_int_t)v) : json_real((double)v);
}

// JSON has no infinity and no NaN: they become texts.
static json_t *element_json(const GgufValue *v, GgufType type, uint64_t i) {
    switch (type) {
        case GGUF_STR: return json_text(v->strs[i].ptr, (size_t)v->strs[i].len);
        case GGUF_BOOL: return json_boolean(gguf_elem_i64(v, i) != 0);
        case GGUF_F32:
        case GGUF_F64: {
            const double x = gguf_elem_f64(v, i);
            return isfinite(x) ? json_real(x)
                               : json_string(isnan(x) ? "nan"
                                             : x > 0  ? "inf"
                                                      : "-inf");
        }
        default: return json_integer(gguf_elem_i64(v, i));
    }
}

static json_t *value_json(const GgufValue *v) {
    if (v->type != GGUF_ARRAY) return element_json(v, v->type, 0);
    if (v->n > SHORT_ARRAY) {
        return json_pack("{s:s, s:o, s:o}", "type", gguf_type_name(v->elem_type), "length",
                         integer_json(v->n), "digest", json_sprintf("%016" PRIx64, digest(v)));
    }
    json_t *list = json_array();
    for (uint64_t i = 0; list && i < v->n; i++) {
        if (json_array_append_new(list, element_json(v, v->elem_type, i))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *metadata_json(const Gguf *g) {
    json_t *o = json_object();
    for (size_t i = 0; o && i < gguf_n_values(g); i++) {
        if (json_object_set_new(o, gguf_value_at(g, i)->key, value_json(gguf_value_at(g, i)))) {
            json_decref(o);
            return NULL;
        }
    }
    return o;
}

static json_t *tensors_json(const Gguf *g) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        char buf[32];
        json_t *shape = json_array();
        for (int d = 0; d < t->n_dims; d++) json_array_append_new(shape, integer_json(t->dims[d]));
        json_t *o =
            json_pack("{s:o, s:s, s:o, s:o, s:o, s:i}", "name", json_text(t->name, strlen(t->name)),
                      "type", type_name(t->type, buf, NULL), "shape", shape, "offset",
                      integer_json(t->offset), "bytes", integer_json(t->bytes), "part", t->part);
        if (json_array_append_new(list, o)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *warnings_json(const Inspection *in) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < in->n_warnings; i++) {
        if (json_array_append_new(list, json_text(in->warnings[i], strlen(in->warnings[i])))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

// What loading needs; kv_bytes and context are null where the model cannot be run.
static json_t *needs_json(const Inspection *in, const Sizes *s) {
    return json_pack("{s:o, s:o, s:o, s:o}", "weight_bytes", integer_json(s->bytes), "decode_bytes",
                     in->model ? integer_json(in->model->decode_bytes) : json_null(), "kv_bytes",
                     s->n_ctx ? integer_json(s->kv_bytes) : json_null(), "context",
                     s->n_ctx ? json_integer(s->n_ctx) : json_null());
}

static Status print_json(const Inspection *in, const Sizes *s, Error *err) {
    const Gguf *g = in->g;
    const char *path = gguf_path(g), *mix = mix_of(g);
    json_t *o =
        json_pack("{s:o, s:i, s:o, s:i, s:o, s:b, s:o, s:s?, s:s?, s:o, s:o, s:o, s:o}", "file",
                  json_text(path, strlen(path)), "version", (int)gguf_version(g), "bytes",
                  integer_json(gguf_file_bytes(g)), "parts", gguf_n_parts(g), "alignment",
                  integer_json(gguf_alignment(g)), "supported", in->model != NULL, "parameters",
                  integer_json((uint64_t)s->weights), "file_type", mix, "chat_template",
                  in->chat_template ? chat_template_name(in->chat_template) : NULL, "metadata",
                  metadata_json(g), "tensors", tensors_json(g), "needs", needs_json(in, s),
                  "warnings", warnings_json(in));
    return json_print(o, err);
}
#else
static Status print_json(const Inspection *in, const Sizes *s, Error *err) {
    (void)in, (void)s;
    return json_check(err);
}
#endif

static Status inspect(const InspectArgs *a, Error *err) {
    Gguf *g = NULL;
    Inspection in = {0};
    Status st = a->json ? json_check(err) : OK;
    if (!st) st = cli_open_gguf(a->model, &g, err);
    if (!st) st = inspection_new(g, a->check_tensors, &in, err);
    if (!st) {
        const Sizes sizes = measure(a, &in);
        if (a->json)
            st = print_json(&in, &sizes, err);
        else
            print_all(a, &in, &sizes);
    }
    inspection_free(&in);
    gguf_close(g);
    return st;
}

int cmd_inspect(int argc, char **argv) {
    InspectArgs a = {0};
    Error err;
    bool help = false;
    Status st = read_args(argc, argv, &a, &help, &err);
    if (!st && !help) st = inspect(&a, &err);
    arg_list_free(&a.words);
    if (!st && help) return cli_help("inspect");
    return cli_finish(st ? cli_fail(&err) : 0);
}
