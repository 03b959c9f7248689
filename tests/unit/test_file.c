// Files: mappings and what happens when they shrink, whole reads, outputs that appear when whole.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

static char dir[64];

static char *in_dir(const char *name, char *buf) {
    snprintf(buf, 128, "%s/%s", dir, name);
    return buf;
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/plumb-file-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

// A file of n bytes, byte i being i % 251 + 1, so none is 0.
static char *make_file(const char *name, size_t n, char *path) {
    FILE *f = fopen(in_dir(name, path), "wb");
    assert_non_null(f);
    for (size_t i = 0; i < n; i++) putc((int)(i % 251) + 1, f);
    assert_int_equal(fclose(f), 0);
    return path;
}

static void assert_words(const Error *err, const char *words) {
    if (!strstr(err->text, words)) fail_msg("expected \"%s\" in: %s", words, err->text);
}

static int n_files(void) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    int n = 0;
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

// --- Mappings ---------------------------------------------------------------------------------

static void test_map(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 100000};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        char path[128];
        make_file("map", sizes[k], path);
        MappedFile *f;
        Error err = {0};
        assert_int_equal(file_map(path, &f, &err), OK);
        assert_int_equal(file_size(f), sizes[k]);
        assert_string_equal(file_path(f), path);
        assert_non_null(file_data(f));
        for (size_t i = 0; i < sizes[k]; i++) assert_int_equal(file_data(f)[i], i % 251 + 1);
        assert_int_equal(file_fault(f, &err), OK);
        file_unmap(f);
    }
    file_unmap(NULL);
}

static void not_mapped(const char *path, const char *words) {
    MappedFile *f;
    Error err = {0};
    assert_int_equal(file_map(path, &f, &err), ERR_FILE);
    assert_null(f);
    assert_words(&err, words);
}

static void refused(const char *path, const char *words) {
    Text t = {0};
    Error err = {0};
    not_mapped(path, words);
    assert_int_equal(file_read(path, 100, &t, &err), ERR_FILE);
    assert_words(&err, words);
    text_free(&t);
}

// What a shell puts in a file's place, as in -f <(command), and a device that never ends.
static void test_reads_pipes_and_devices(void **state) {
    (void)state;
    int ends[2];
    char path[64];
    Text t = {0};
    Error err = {0};
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "piped", 5), 5);
    close(ends[1]);
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    assert_int_equal(file_read(path, 100, &t, &err), OK);
    assert_int_equal(t.len, 5);
    assert_memory_equal(t.data, "piped", 5);
    close(ends[0]);
    assert_int_equal(file_read("/dev/zero", 100, &t, &err), ERR_FILE);
    assert_words(&err, "is longer than the 100 bytes");
    assert_int_equal(t.len, 5);
    text_free(&t);
}

static void test_refuses_what_is_no_file(void **state) {
    (void)state;
    char path[128];
    refused("", "the file name is empty");
    refused(dir, "is a directory");
    not_mapped("/dev/zero", "is a character device");
    refused(in_dir("missing", path), "missing: there is no such file");
    refused(in_dir("missing/too", path), "there is no such file");
    assert_int_equal(mkfifo(in_dir("fifo", path), 0600), 0);
    not_mapped(path, "is a FIFO (named pipe)");
    make_file("file", 5, path);
    strcat(path, "/below");
    refused(path, "Not a directory");
    if (geteuid() == 0) return;
    make_file("secret", 5, path);
    assert_int_equal(chmod(path, 0), 0);
    refused(path, "no permission to read it");
}

static void test_shrunk_file_reads_zeros(void **state) {
    (void)state;
    char path[128], other[128];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    MappedFile *f, *g;
    Error err = {0};
    make_file("shrink", 8 * page, path);
    make_file("whole", 2 * page, other);
    assert_int_equal(file_map(path, &f, &err), OK);
    assert_int_equal(file_map(other, &g, &err), OK);
    assert_int_equal(truncate(path, (off_t)(3 * page)), 0);
    volatile const uint8_t *p = file_data(f);
    assert_int_equal(p[7 * page + 5], 0);
    assert_int_equal(p[5 * page + 9], 0);  // a lower one, after
    assert_int_equal(p[3 * page - 1], (3 * page - 1) % 251 + 1);
    assert_int_equal(p[8 * page - 1], 0);
    assert_int_equal(file_fault(f, &err), ERR_FILE);
    assert_words(&err, path);
    // Grown again, its size tells nothing, but the fault is remembered, the lowest offset of it.
    assert_int_equal(truncate(path, (off_t)(8 * page)), 0);
    char words[64];
    snprintf(words, sizeof words, "reading at byte %zu of %zu failed", 5 * page + 9, 8 * page);
    assert_int_equal(file_fault(f, &err), ERR_FILE);
    assert_words(&err, words);
    assert_int_equal(file_fault(g, &err), OK);
    file_unmap(f);
    assert_int_equal(file_map(path, &f, &err), OK);  // its guard is used again, and clean
    assert_int_equal(file_fault(f, &err), OK);
    file_unmap(f);
    file_unmap(g);
}

// Within its last page a shrunken file reads as zeros without a signal.
static void test_shrunk_within_a_page(void **state) {
    (void)state;
    char path[128];
    MappedFile *f;
    Error err = {0};
    make_file("tail", 1000, path);
    assert_int_equal(file_map(path, &f, &err), OK);
    assert_int_equal(truncate(path, 900), 0);
    assert_int_equal(file_fault(f, &err), ERR_FILE);
    assert_words(&err, "it had 1000 bytes, now it ends at byte 900");
    file_unmap(f);
}

enum { N_THREADS = 8, N_ROUNDS = 100 };

// Returns what went wrong, or NULL.
static const char *map_and_fault(int no) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char path[128], name[16];
    snprintf(name, sizeof name, "thread%d", no);
    in_dir(name, path);
    for (int i = 0; i < N_ROUNDS; i++) {
        MappedFile *f;
        int fd = open(path, O_RDWR | O_CREAT, 0600);
        if (fd < 0 || ftruncate(fd, (off_t)(4 * page)) || close(fd)) return "cannot write";
        if (file_map(path, &f, NULL)) return "cannot map";
        if (file_fault(f, NULL)) return "fault before the file shrank";
        if (truncate(path, (off_t)page)) return "cannot truncate";
        volatile const uint8_t *p = file_data(f);
        for (size_t at = 4 * page; at-- > 0;) {
            if (p[at]) return "not zero";
        }
        if (truncate(path, (off_t)(4 * page))) return "cannot truncate";
        Error err = {0};
        char words[64];
        // Backwards, the last byte of each page past the end faults: the lowest is page 1's.
        snprintf(words, sizeof words, "reading at byte %zu of", 2 * page - 1);
        if (file_fault(f, &err) != ERR_FILE || !strstr(err.text, words)) return "wrong fault";
        file_unmap(f);
    }
    return NULL;
}

typedef struct {
    pthread_t thread;
    int no;
    const char *wrong;
} Faulter;

static void *faulter(void *arg) {
    Faulter *f = arg;
    f->wrong = map_and_fault(f->no);
    return NULL;
}

static void test_threads_fault_at_once(void **state) {
    (void)state;
    Faulter f[N_THREADS] = {{0}};
    for (int i = 0; i < N_THREADS; i++) {
        f[i].no = i;
        assert_int_equal(pthread_create(&f[i].thread, NULL, faulter, &f[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) assert_int_equal(pthread_join(f[i].thread, NULL), 0);
    for (int i = 0; i < N_THREADS; i++) {
        if (f[i].wrong) fail_msg("thread %d: %s", i, f[i].wrong);
    }
}

static void exit_7(int sig) {
    (void)sig;
    _exit(7);
}

// A fault in a mapping that is not ours goes to the handler that was there before.
static void test_other_faults_go_on(void **state) {
    (void)state;
    char path[128], mine[128];
    MappedFile *f;
    void (*before)(int) = signal(SIGBUS, exit_7);
    make_file("foreign", 10000, path);
    assert_int_equal(file_map(make_file("mine", 10, mine), &f, NULL), OK);
    int fd = open(path, O_RDONLY), status;
    volatile uint8_t *p = mmap(NULL, 10000, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(truncate(path, 0), 0);
    pid_t pid = fork();
    if (pid == 0) _exit(p[5000]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
    munmap((void *)(uintptr_t)p, 10000);
    close(fd);
    file_unmap(f);
    signal(SIGBUS, before);
}

// --- Whole reads ------------------------------------------------------------------------------

static void test_read(void **state) {
    (void)state;
    char path[128];
    Text t = {0};
    Error err = {0};
    make_file("read", 200000, path);
    assert_true(text_append_str(&t, "ab"));
    assert_int_equal(file_read(path, 200000, &t, &err), OK);
    assert_int_equal(t.len, 200002);
    assert_int_equal(t.data[t.len], 0);
    assert_memory_equal(t.data, "ab\x01\x02", 4);
    assert_int_equal(file_read(path, 199999, &t, &err), ERR_FILE);
    assert_words(&err, "is longer than the 199999 bytes");
    assert_int_equal(t.len, 200002);  // as it was
    text_free(&t);
    make_file("read", 0, path);
    assert_int_equal(file_read(path, 0, &t, &err), OK);
    assert_int_equal(t.len, 0);
    text_free(&t);
}

static void test_read_stdin(void **state) {
    (void)state;
    int saved = dup(STDIN_FILENO), ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "hello", 5), 5);
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    Text t = {0};
    Error err = {0};
    assert_int_equal(file_read("-", 5, &t, &err), OK);
    assert_string_equal(t.data, "hello");
    text_free(&t);
    dup2(saved, STDIN_FILENO);
    close(saved);
}

// --- Outputs ----------------------------------------------------------------------------------

static void write_out(const char *path, size_t n, size_t piece) {
    OutFile *o;
    Error err = {0};
    Status st = out_open(path, &o, &err);
    if (st) fail_msg("%s", err.text);
    char *bytes = malloc(piece);
    memset(bytes, 'x', piece);
    for (size_t at = 0; at < n; at += piece) {
        assert_int_equal(out_position(o), at);
        assert_int_equal(out_write(o, bytes, n - at < piece ? n - at : piece, &err), OK);
    }
    free(bytes);
    assert_int_equal(out_position(o), n);
    st = out_commit(o, &err);
    if (st) fail_msg("%s", err.text);
}

static off_t size_of(const char *path) {
    struct stat st;
    return stat(path, &st) ? -1 : st.st_size;
}

static mode_t mode_of(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void test_out(void **state) {
    (void)state;
    static const size_t pieces[] = {1, 1000, 65535, 65536, 65537, 300000};
    char path[128];
    int before = n_files();
    in_dir("out", path);
    mode_t mask = umask(027);
    for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
        write_out(path, 300000, pieces[k]);
        assert_int_equal(size_of(path), 300000);
        assert_int_equal(mode_of(path), 0640);
    }
    assert_int_equal(chmod(path, 0604), 0);
    write_out(path, 0, 1);  // replaced, keeping its mode
    assert_int_equal(size_of(path), 0);
    assert_int_equal(mode_of(path), 0604);
    umask(mask);
    assert_int_equal(n_files(), before + 1);  // no temporary file is left
    unlink(path);
}

static void test_out_is_whole_or_not_there(void **state) {
    (void)state;
    char path[128];
    OutFile *o;
    Error err = {0};
    int before = n_files();
    assert_int_equal(out_open(in_dir("part", path), &o, &err), OK);
    assert_int_equal(out_write(o, "half", 4, &err), OK);
    assert_int_equal(size_of(path), -1);
    out_abort(o);
    out_abort(NULL);
    assert_int_equal(n_files(), before);
    write_out(path, 10, 10);
    assert_int_equal(out_open(path, &o, &err), OK);
    assert_int_equal(out_write(o, "half", 4, &err), OK);
    assert_int_equal(size_of(path), 10);  // the old one is untouched
    out_abort(o);
    assert_int_equal(size_of(path), 10);
    assert_int_equal(n_files(), before + 1);
}

static void refused_out(const char *path, const char *words) {
    OutFile *o;
    Error err = {0};
    assert_int_equal(out_open(path, &o, &err), ERR_FAILED);
    assert_null(o);
    assert_words(&err, words);
}

static void test_out_refuses(void **state) {
    (void)state;
    char path[128];
    refused_out("", "name of the output file is empty");
    refused_out(dir, "is a directory");
    refused_out(in_dir("no/such", path), "its directory does not exist");
    refused_out(in_dir("nothing/", path), "names a directory");
    assert_int_equal(mkfifo(in_dir("unread", path), 0600), 0);
    refused_out(path, "nothing reads this pipe");
    if (geteuid() == 0) return;
    make_file("readonly", 5, path);
    assert_int_equal(chmod(path, 0400), 0);
    refused_out(path, "no permission to write it");
}

static void test_out_follows_a_link(void **state) {
    (void)state;
    char target[128], link[128];
    struct stat st;
    make_file("target", 5, target);
    assert_int_equal(symlink("target", in_dir("link", link)), 0);
    write_out(link, 77, 10);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(size_of(target), 77);
}

static void test_out_writes_through(void **state) {
    (void)state;
    write_out("/dev/null", 100000, 1000);
    char path[128], buf[16] = {0};
    assert_int_equal(mkfifo(in_dir("read", path), 0600), -1);  // a file of that name exists
    assert_int_equal(mkfifo(in_dir("pipe", path), 0600), 0);
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    write_out(path, 3, 1);
    assert_int_equal(read(fd, buf, sizeof buf), 3);
    assert_string_equal(buf, "xxx");
    close(fd);
    // /dev/full fails when it is written to, and goes on failing.
    OutFile *o;
    Error err = {0};
    assert_int_equal(out_open("/dev/full", &o, &err), OK);
    char big[70000] = {0};
    assert_int_equal(out_write(o, big, sizeof big, &err), ERR_FAILED);
    assert_words(&err, "/dev/full: the disk is full");
    assert_int_equal(out_write(o, "x", 1, &err), ERR_FAILED);
    assert_int_equal(out_commit(o, &err), ERR_FAILED);
    assert_int_equal(out_open("/dev/full", &o, &err), OK);
    assert_int_equal(out_write(o, "x", 1, &err), OK);  // buffered, so found out at the end
    assert_int_equal(out_commit(o, &err), ERR_FAILED);
    assert_words(&err, "the disk is full");
}

// stdout that is a regular file is written where it stands, not replaced.
static void test_out_stdout(void **state) {
    (void)state;
    char path[128];
    Text t = {0};
    fflush(stdout);
    int saved = dup(STDOUT_FILENO), fd = open(in_dir("stdout", path), O_RDWR | O_CREAT, 0600);
    assert_int_equal(write(fd, "before ", 7), 7);
    dup2(fd, STDOUT_FILENO);
    OutFile *o;
    Error err = {0};
    Status st = out_open("/dev/stdout", &o, &err);
    if (!st) st = out_write(o, "after", 5, &err);
    if (!st) st = out_commit(o, &err);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    close(fd);
    assert_int_equal(st, OK);
    assert_int_equal(file_read(path, 100, &t, &err), OK);
    assert_string_equal(t.data, "before after");
    text_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_refuses_what_is_no_file),
        cmocka_unit_test(test_reads_pipes_and_devices),
        cmocka_unit_test(test_shrunk_file_reads_zeros),
        cmocka_unit_test(test_shrunk_within_a_page),
        cmocka_unit_test(test_threads_fault_at_once),
        cmocka_unit_test(test_other_faults_go_on),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_read_stdin),
        cmocka_unit_test(test_out),
        cmocka_unit_test(test_out_is_whole_or_not_there),
        cmocka_unit_test(test_out_refuses),
        cmocka_unit_test(test_out_follows_a_link),
        cmocka_unit_test(test_out_writes_through),
        cmocka_unit_test(test_out_stdout),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
