// See sim_compile.h. The text is compiled as C++ for OpenCL, unchanged, after a file of functions
// that take a kernel's arguments from a table was put behind it.
#define _GNU_SOURCE
#include "sim_compile.h"

#include <ctype.h>
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim.h"

enum { MOST_KERNELS = 64, MOST_PARAMETERS = 40 };

struct SimLibrary {
    SimLibrary *next;
    char *source, *options;  // that it was made from
    void *handle;
    int n;
    SimKernel kernels[MOST_KERNELS];
};

// What was compiled, for whom asks again with the same text: clang takes seconds.
static SimLibrary *known;

// --- files and programs --------------------------------------------------------------------------

typedef struct {
    char dir[256];
    char options[512];
} Work;

static char *path(const Work *w, const char *name) {
    static char text[4][512];
    static int at;
    char *p = text[at++ & 3];
    snprintf(p, sizeof text[0], "%s/%s", w->dir, name);
    return p;
}

static char *read_all(const char *name, size_t *n) {
    FILE *f = fopen(name, "rb");
    if (!f) sim_fail("cannot read %s", name);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*n + 1);
    if (!text || fread(text, 1, *n, f) != *n) sim_fail("cannot read %s", name);
    text[*n] = '\0';
    fclose(f);
    return text;
}

// clang's exit status; what it says is in the file "log".
static int run_clang(const Work *w, const char *options, const char *from) {
    char command[3000];
    const int n = snprintf(command, sizeof command,
                           "cd '%s' && clang -x cl -cl-std=clc++ -cl-no-stdinc -I'%s' "
                           "-w -fno-color-diagnostics -D__METAL_VERSION__=240 "
                           "%s -O2 -march=native %s %s >log 2>&1",
                           w->dir, SIM_INCLUDE, w->options, options, from);
    if (n < 0 || (size_t)n >= sizeof command) sim_fail("the compiler's command is too long");
    return system(command);
}

// --- the kernels of a text -----------------------------------------------------------------------

typedef struct {
    char type[512];  // as a pointer; of a reference, what it refers to
    int index;       // in the table; -1: the group, -2: the item
    bool is_struct;
} Parameter;

static bool word_at(const char *text, const char *at, const char *word) {
    const size_t n = strlen(word);
    return strncmp(at, word, n) == 0 && !isalnum((unsigned char)at[n]) && at[n] != '_' &&
           (at == text || (!isalnum((unsigned char)at[-1]) && at[-1] != '_'));
}

// One parameter, which is changed on the way: "TYPE name [[attribute]]".
static Parameter read_parameter(const char *kernel, char *text) {
    Parameter p = {.index = -3};
    char *attribute = strstr(text, "[[");
    if (!attribute) sim_fail("kernel %s: a parameter without an attribute: %s", kernel, text);
    if (sscanf(attribute, "[[buffer(%d)]]", &p.index) != 1) {
        if (strstr(attribute, "[[threadgroup_position_in_grid]]")) p.index = -1;
        if (strstr(attribute, "[[thread_index_in_threadgroup]]")) p.index = -2;
    }
    if (p.index == -3 || p.index >= SIM_MAX_ARGS) {
        sim_fail("kernel %s: %s is not simulated", kernel, attribute);
    }
    *attribute = '\0';
    if (p.index < 0) return p;
    char *mark = strpbrk(text, "*&");
    if (!mark || !strstr(text, "__global")) {
        sim_fail("kernel %s: buffer %d is neither device memory nor constant", kernel, p.index);
    }
    p.is_struct = *mark == '&';
    if (p.is_struct && !strstr(text, "const ")) {
        sim_fail("kernel %s: buffer %d is a reference, but not to constant memory", kernel,
                 p.index);
    }
    *mark = '\0';
    snprintf(p.type, sizeof p.type, "%s", text);
    return p;
}

// Where the list of parameters ends.
static char *closing(char *at) {
    int depth = 0;
    for (;; at++) {
        if (*at == '(') depth++;
        if (*at == ')' && --depth == 0) return at;
        if (!*at) sim_fail("a kernel's parameters have no end");
    }
}

static int read_parameters(const char *kernel, char *from, char *end, Parameter *out) {
    int n = 0, depth = 0;
    char *start = from;
    for (char *at = from; at <= end; at++) {
        if (*at == '(' || *at == '[') depth++;
        if (at < end && (*at == ')' || *at == ']')) depth--;
        if (depth > 0 || (at < end && *at != ',')) continue;
        char text[512];
        snprintf(text, sizeof text, "%.*s", (int)(at - start), start);
        if (n == MOST_PARAMETERS) sim_fail("kernel %s has too many parameters", kernel);
        out[n++] = read_parameter(kernel, text);
        start = at + 1;
    }
    return n;
}

// What makes the kernel callable: an item's function, and the sizes of what it refers to.
static void write_caller(FILE *f, SimKernel *k, const Parameter *p, int n) {
    fprintf(f,
            "extern \"C\" void sim_item_%s(__global const ulong *b, uint x, uint y, uint z, "
            "uint lane) {\n    (void)x, (void)y, (void)z, (void)lane;\n    %s(",
            k->name, k->name);
    for (int i = 0; i < n; i++) {
        const char *comma = i ? ", " : "";
        if (p[i].index == -1) fprintf(f, "%s(uint3)(x, y, z)", comma);
        if (p[i].index == -2) fprintf(f, "%slane", comma);
        if (p[i].index < 0) continue;
        fprintf(f, "%s%s(%s *)b[%d]", comma, p[i].is_struct ? "*" : "", p[i].type, p[i].index);
        if (p[i].index >= k->n_args) k->n_args = p[i].index + 1;
    }
    fprintf(f, ");\n}\nextern \"C\" ulong sim_size_%s(int i) {\n", k->name);
    for (int i = 0; i < n; i++) {
        if (p[i].is_struct) {
            fprintf(f, "    if (i == %d) return sizeof(%s);\n", p[i].index, p[i].type);
        }
    }
    fprintf(f, "    return 0;\n}\n");
}

static void check_indices(const char *kernel, const Parameter *p, int n, int n_args) {
    for (int i = 0; i < n_args; i++) {
        int uses = 0;
        for (int j = 0; j < n; j++) uses += p[j].index == i;
        if (uses != 1) sim_fail("kernel %s has %d parameters of index %d", kernel, uses, i);
    }
}

// Finds the kernels in preprocessed text and writes their callers.
static void find_kernels(SimLibrary *lib, char *text, FILE *f) {
    for (char *at = strstr(text, "kernel"); at; at = strstr(at + 1, "kernel")) {
        Parameter p[MOST_PARAMETERS];
        if (!word_at(text, at, "kernel")) continue;
        if (lib->n == MOST_KERNELS) sim_fail("too many kernels");
        SimKernel *k = &lib->kernels[lib->n++];
        int used = 0;
        if (sscanf(at, "kernel void %63[A-Za-z0-9_] %n", k->name, &used) != 1 || at[used] != '(') {
            sim_fail("a kernel that is no function without a result: %.60s", at);
        }
        char *end = closing(at + used), *limit = at;
        while (limit > text && limit[-1] != '\n' && limit[-1] != '}' && limit[-1] != ';') limit--;
        sscanf(limit, " [[max_total_threads_per_threadgroup(%u)]]", &k->lanes);
        const int n = read_parameters(k->name, at + used + 1, end, p);
        write_caller(f, k, p, n);
        check_indices(k->name, p, n, k->n_args);
        at = end;
    }
}

// --- what clang takes and Metal does not ---------------------------------------------------------

// A pointer that says nothing of where it points is "generic" in OpenCL, and an error in Metal.
static bool pointers_say_where(const Work *w, char **message) {
    size_t n;
    bool fine = true;
    if (run_clang(w, "-fsyntax-only -Xclang -ast-dump", "program_source") != 0) {
        return run_clang(w, "-fsyntax-only", "program_source") == 0;  // the errors alone
    }
    char *ast = read_all(path(w, "log"), &n), *save = NULL;
    for (char *line = strtok_r(ast, "\n", &save); line && fine;
         line = strtok_r(NULL, "\n", &save)) {
        const char *type = strstr(line, "__generic");
        if (!type || !strchr(type, '*') || !strstr(line, "VarDecl ")) continue;
        fine = false;
        if (asprintf(message,
                     "program_source: error: pointer type must have explicit address space "
                     "qualifier: %s",
                     strstr(line, "VarDecl ")) < 0) {
            sim_fail("out of memory");
        }
    }
    free(ast);
    return fine;
}

// --- what became of them -------------------------------------------------------------------------

static void *symbol(void *handle, const char *before, const char *name) {
    char text[96];
    snprintf(text, sizeof text, "%s%s", before, name);
    void *p = dlsym(handle, text);
    if (!p) sim_fail("kernel %s was not compiled", name);
    return p;
}

// The arrays of threadgroup memory are variables that belong to a function: _ZZ8rms_normE7scratch.
static void find_locals(SimKernel *k, const char *image, uint8_t *base) {
    const Elf64_Ehdr *head = (const void *)image;
    const Elf64_Shdr *sections = (const void *)(image + head->e_shoff);
    char prefix[96];
    snprintf(prefix, sizeof prefix, "_ZZ%zu%sE", strlen(k->name), k->name);
    for (int s = 0; s < head->e_shnum; s++) {
        if (sections[s].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *symbols = (const void *)(image + sections[s].sh_offset);
        const char *names = image + sections[sections[s].sh_link].sh_offset;
        for (size_t i = 0; i < sections[s].sh_size / sizeof *symbols; i++) {
            if (strncmp(names + symbols[i].st_name, prefix, strlen(prefix)) != 0) continue;
            if (k->n_locals == SIM_MAX_LOCALS) sim_fail("kernel %s: too many arrays", k->name);
            k->locals[k->n_locals].at = base + symbols[i].st_value;
            k->locals[k->n_locals++].bytes = symbols[i].st_size;
            k->local_bytes += (symbols[i].st_size + 15) / 16 * 16;
        }
    }
}

static void load(const Work *w, SimLibrary *lib) {
    Dl_info info;
    size_t n;
    const char *file = path(w, "kernels.so");
    char *image = read_all(file, &n);
    lib->handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!lib->handle) sim_fail("%s", dlerror());
    for (int i = 0; i < lib->n; i++) {
        SimKernel *k = &lib->kernels[i];
        size_t (*size)(int);
        void *p = symbol(lib->handle, "sim_item_", k->name);
        memcpy(&k->item, &p, sizeof p);
        if (!dladdr(p, &info)) sim_fail("%s", dlerror());
        p = symbol(lib->handle, "sim_size_", k->name);
        memcpy(&size, &p, sizeof p);
        for (int a = 0; a < k->n_args; a++) k->arg_bytes[a] = size(a);
        find_locals(k, image, info.dli_fbase);
    }
    free(image);
}

// --- all of it -----------------------------------------------------------------------------------

static void write_source(const Work *w, const char *source) {
    FILE *f = fopen(path(w, "program_source"), "wb");
    if (!f || fwrite(source, 1, strlen(source), f) != strlen(source) || fclose(f) != 0) {
        sim_fail("cannot write to %s", w->dir);
    }
}

// The callers that stand behind the text, made from what the preprocessor leaves of it.
static bool write_callers(const Work *w, SimLibrary *lib) {
    size_t n;
    if (run_clang(w, "-E -o preprocessed", "program_source") != 0) return false;
    char *text = read_all(path(w, "preprocessed"), &n);
    FILE *f = fopen(path(w, "kernels"), "w");
    if (!f) sim_fail("cannot write to %s", w->dir);
    fprintf(f, "#include \"program_source\"\n");
    find_kernels(lib, text, f);
    fclose(f);
    free(text);
    return true;
}

static void clean_up(const Work *w) {
    static const char *const files[] = {"program_source", "preprocessed", "kernels", "kernels.so",
                                        "log"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) unlink(path(w, files[i]));
    rmdir(w->dir);
}

static SimLibrary *compile(Work *w, const char *source, char **message) {
    const char *tmp = getenv("TMPDIR");
    size_t n;
    snprintf(w->dir, sizeof w->dir, "%s/plumb-metal-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    SimLibrary *lib = calloc(1, sizeof *lib);
    if (!lib || !mkdtemp(w->dir)) sim_fail("cannot make %s", w->dir);
    write_source(w, source);
    *message = NULL;
    if (pointers_say_where(w, message) && write_callers(w, lib) &&
        run_clang(w, "-fPIC -shared -o kernels.so", "kernels") == 0) {
        load(w, lib);
    } else {
        if (!*message) *message = read_all(path(w, "log"), &n);
        free(lib);
        lib = NULL;
    }
    clean_up(w);
    return lib;
}

const SimLibrary *sim_compile(const SimSource *s, char **message) {
    Work w;
    size_t n = (size_t)snprintf(w.options, sizeof w.options, "%s",
                                s->fast_math ? "-ffast-math" : "-ffp-contract=on");
    for (int i = 0; i < s->n_defines; i++) {
        n += (size_t)snprintf(w.options + n, sizeof w.options - n, " '-D%s'", s->defines[i]);
        if (n >= sizeof w.options) sim_fail("too many macros");
    }
    for (const SimLibrary *lib = known; lib; lib = lib->next) {
        if (!strcmp(lib->source, s->source) && !strcmp(lib->options, w.options)) return lib;
    }
    SimLibrary *lib = compile(&w, s->source, message);
    if (!lib) return NULL;
    lib->source = strdup(s->source), lib->options = strdup(w.options);
    if (!lib->source || !lib->options) sim_fail("out of memory");
    lib->next = known;
    return known = lib;
}

const SimKernel *sim_kernel(const SimLibrary *lib, const char *name) {
    for (int i = 0; i < lib->n; i++) {
        if (strcmp(lib->kernels[i].name, name) == 0) return &lib->kernels[i];
    }
    return NULL;
}
