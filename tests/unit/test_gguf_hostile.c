// The GGUF reader against generated files: cut at every byte, every bit flipped, every field set to
// every limit; files that shrink; things that are no files; too many keys; no memory.
#define _GNU_SOURCE
#include "test_gguf_build.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNDER_SANITIZER 1
#endif
#endif

// --- Memory that runs out ---------------------------------------------------------------------

#if defined(__GLIBC__) && !defined(UNDER_SANITIZER)
#define HAVE_FAILING_MALLOC 1
// Allocation number `fail_at` fails, counted from when it was set; 0: none does. With fail_on, all
// after it fail as well.
static long fail_at, fail_on, n_allocs;

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);

static int fails(void) {
    n_allocs++;
    return fail_at && (n_allocs == fail_at || (fail_on && n_allocs > fail_at));
}

void *malloc(size_t size) {
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
    return fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size) {
    return fails() ? NULL : __libc_realloc(p, size);
}
#endif

static char dir[64];

static char *in_dir(const char *name, char *buf) {
    snprintf(buf, 128, "%s/%s", dir, name);
    return buf;
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/plumb-hostile-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static Text small_bytes(Build *b, size_t *data_start) {
    *b = small_model();
    size_t metadata = 24 + b->values.len + b->tensors.len;
    *data_start = (metadata + 31) / 32 * 32;
    return build(b);
}

// Cut anywhere, it is refused, since its last tensor's data end with the file.
static void test_truncation(void **state) {
    (void)state;
    Build b;
    size_t data_start;
    Text t = small_bytes(&b, &data_start);
    Error err;
    assert_int_equal(try_bytes(t.data, t.len, &err), OK);
    for (size_t n = 0; n < t.len; n++) {
        if (try_bytes(t.data, n, &err) != ERR_FILE) fail_msg("%zu of %zu bytes opened", n, t.len);
    }
    text_free(&t);
}

static void test_bit_flips(void **state) {
    (void)state;
    Build b;
    size_t data_start, n_opened = 0;
    Text t = small_bytes(&b, &data_start);
    Error err;
    for (size_t bit = 0; bit < data_start * 8; bit++) {
        t.data[bit / 8] ^= (char)(1 << bit % 8);
        n_opened += try_bytes(t.data, t.len, &err) == OK;
        t.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    // Flips in payload open, flips in structure do not: neither all nor none.
    assert_in_range(n_opened, data_start, data_start * 7);
    text_free(&t);
}

static void test_every_field_at_its_limits(void **state) {
    (void)state;
    static const uint64_t limits[] = {0,          1,          UINT64_MAX,   INT32_MAX,
                                      1ull << 31, UINT32_MAX, INT64_MAX,    1ull << 63,
                                      1ull << 32, 64,         (uint64_t)-32};
    Build b;
    size_t data_start;
    Text t = small_bytes(&b, &data_start);
    Error err;
    assert_in_range(b.n_fields, 80, MAX_FIELDS - 1);
    for (size_t i = 0; i < b.n_fields; i++) {
        Field f = b.fields[i];
        uint8_t old[8];
        assert_true(f.at + (size_t)f.size <= data_start);
        memcpy(old, t.data + f.at, 8);
        for (size_t k = 0; k < sizeof limits / sizeof *limits; k++) {
            for (int j = 0; j < f.size; j++) t.data[f.at + j] = (char)(limits[k] >> 8 * j);
            try_bytes(t.data, t.len, &err);
        }
        memcpy(t.data + f.at, old, 8);
    }
    text_free(&t);
}

// --- Size -------------------------------------------------------------------------------------

static void test_many_keys(void **state) {
    (void)state;
    enum { N = 60000 };
    Build b = build_new();
    for (int i = 0; i < N; i++) {
        char key[32];
        snprintf(key, sizeof key, "some.long.prefix.%d", i);
        value_int(&b, key, GGUF_U32, (uint64_t)i);
    }
    Text t = build(&b);
    Gguf *g;
    Error err = {0};
    double start = seconds();
    assert_int_equal(gguf_open_memory(t.data, t.len, "many", &g, &err), OK);
    for (int i = 0; i < N; i++) {
        char key[32];
        uint32_t v = N;
        snprintf(key, sizeof key, "some.long.prefix.%d", i);
        assert_int_equal(gguf_get_u32(g, key, &v, NULL, &err), OK);
        assert_int_equal(v, i);
    }
    assert_true(seconds() - start < 1);
    gguf_close(g);
    text_free(&t);
}

// Empty strings take 8 bytes of a file and 16 of ours: their number is limited over all arrays.
static void test_many_strings(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    Build b = build_new();
    static const uint8_t zeros[8 * (N + 1)];
    value_array(&b, "a", GGUF_STR, N);
    add_bytes(&b.values, zeros, 8 * N);
    value_array(&b, "b", GGUF_STR, N + 1);
    add_bytes(&b.values, zeros, sizeof zeros);
    refused_build(&b, "2097153 strings, at most 2097152 in a file are accepted");
}

// 1 TiB of zeros follow: any count has bytes enough, so the limits must hold.
static void test_sparse_giant(void **state) {
    (void)state;
    char path[128];
    in_dir("giant.gguf", path);
    for (int k = 0; k < 5; k++) {
        Build b = build_new();
        uint64_t dims[] = {1ull << 37, 1};
        if (k == 0) b.n_values = 1ull << 35;
        if (k == 1) b.n_tensors = 1ull << 34;
        if (k == 2) value_array(&b, "a", GGUF_STR, 1ull << 36);
        if (k == 3) value_array(&b, "a", GGUF_BOOL, 1ull << 39);
        if (k == 4) declare(&b, "t", 1, 2, dims, 2, TYPE_F32, 1ull << 39);
        Text t = build(&b);
        write_file(path, t.data, t.len);
        text_free(&t);
        if (truncate(path, 1ll << 40)) {
            print_message("this file system has no sparse files of 1 TiB\n");
            skip();
        }
        struct rusage before, after;
        Gguf *g;
        Error err = {0};
        getrusage(RUSAGE_SELF, &before);
        double start = seconds();
        Status st = gguf_open(path, &g, &err);
        if (st == ERR_UNAVAILABLE) {
            print_message("no address space for 1 TiB: %s\n", err.text);
            skip();
        }
        assert_int_equal(st, ERR_FILE);
        assert_true(seconds() - start < 1);
        getrusage(RUSAGE_SELF, &after);
        assert_true(after.ru_maxrss - before.ru_maxrss < 64 * 1024);
    }
    unlink(path);
}

// --- Files ------------------------------------------------------------------------------------

static void refused_path(const char *path, const char *words) {
    Gguf *g;
    Error err = {0};
    assert_int_equal(gguf_open(path, &g, &err), ERR_FILE);
    assert_null(g);
    assert_words(&err, words);
}

static void test_not_files(void **state) {
    (void)state;
    char path[128];
    refused_path("", "the file name is empty");
    refused_path(dir, "is a directory, expected a regular file");
    refused_path("/dev/zero", "is a character device");
    refused_path(in_dir("missing.gguf", path), "missing.gguf: there is no such file");
    assert_int_equal(mkfifo(in_dir("fifo.gguf", path), 0600), 0);
    refused_path(path, "is a FIFO");
    write_file(in_dir("empty.gguf", path), "", 0);
    refused_path(path, "the file is empty");
    write_file(in_dir("text.gguf", path), "hello", 5);
    assert_int_equal(chmod(path, 0), 0);
    refused_path(path, geteuid() ? "no permission to read it" : "is not a GGUF model");
}

// The file shrinks after it was opened: reads go on, and gguf_fault tells.
static void test_shrinks_while_open(void **state) {
    (void)state;
    char path[128];
    Build b = build_new();
    tensor(&b, "t", TYPE_F32, 16384, 1, 65536, 1);
    Text t = build(&b);
    write_file(in_dir("shrink.gguf", path), t.data, t.len);
    text_free(&t);
    Gguf *g;
    Error err = {0};
    assert_int_equal(gguf_open(path, &g, &err), OK);
    assert_int_equal(gguf_fault(g, &err), OK);
    assert_int_equal(truncate(path, 4096), 0);
    walk(g);
    assert_int_equal(gguf_tensor_at(g, 0)->data[60000], 0);
    assert_int_equal(gguf_fault(g, &err), ERR_FILE);
    assert_words(&err, "shrink.gguf: the file has shrunk while in use");
    gguf_close(g);
}

// --- No memory --------------------------------------------------------------------------------

#ifdef HAVE_FAILING_MALLOC
static void write_model(const char *name, bool split, int no) {
    Build b = build_new();
    char key[64], path[128];
    for (int i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "key.%d", i);
        value_str(&b, key, "value");
    }
    value_array(&b, "tokens", GGUF_STR, 20000);
    for (int i = 0; i < 20000; i++) add_str(&b, &b.values, "token", 5);
    if (split) {
        value_int(&b, "split.no", GGUF_U16, (uint64_t)no);
        value_int(&b, "split.count", GGUF_U16, 2);
    }
    for (int i = 0; i < 500; i++) {
        snprintf(key, sizeof key, "p%d.t%d", no, i);
        tensor(&b, key, TYPE_F32, 4, 2, 32, 0);
    }
    Text t = build(&b);
    write_file(in_dir(name, path), t.data, t.len);
    text_free(&t);
}

static void open_with_failures(const char *name) {
    char path[128];
    in_dir(name, path);
    for (int on = 0; on < 2; on++) {
        long n = 1;
        for (Status st = ERR_FAILED; st; n++) {
            Gguf *g;
            Error err = {0};
            n_allocs = 0, fail_on = on, fail_at = n;
            st = gguf_open(path, &g, &err);
            long used = n_allocs;
            fail_at = 0;
            if (!st) {
                // Only a failure that gguf_open can do without (qsort's buffer) may be passed over.
                walk(g);
                gguf_close(g);
                if (used >= n) st = ERR_FAILED;
                continue;
            }
            assert_null(g);
            assert_int_equal(st, ERR_UNAVAILABLE);
            assert_int_equal(err.status, ERR_UNAVAILABLE);
            assert_words(&err, "out of memory");
        }
        assert_in_range(n, 8, 1000);
    }
}
#endif

static void test_allocation_failures(void **state) {
    (void)state;
#ifdef HAVE_FAILING_MALLOC
    write_model("memory.gguf", false, 0);
    write_model("memory-00001-of-00002.gguf", true, 0);
    write_model("memory-00002-of-00002.gguf", true, 1);
    open_with_failures("memory.gguf");
    open_with_failures("memory-00002-of-00002.gguf");
#else
    print_message("malloc cannot be made to fail under a sanitizer or without glibc\n");
    skip();
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_bit_flips),
        cmocka_unit_test(test_every_field_at_its_limits),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_many_strings),
        cmocka_unit_test(test_sparse_giant),
        cmocka_unit_test(test_not_files),
        cmocka_unit_test(test_shrinks_while_open),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
