// Files; see file.h for what this room owns.
//
// Mappings that survive a shrinking file: every mapping has a Guard in a list that only grows. The
// SIGBUS handler walks that list without locks, puts zero pages over the rest of the mapping that
// faulted, and notes where; a fault anywhere else goes to the handler that was there before. Guards
// are recycled, never freed, so the walk can always follow its pointers.
#define _GNU_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READ_STEP = 1 << 16, WRITE_BUFFER = 1 << 16, PATH_TRIES = 1000 };

// --- The SIGBUS guard -------------------------------------------------------------------------

// seq is odd while start and len change, so that the handler never pairs an old one with a new one.
typedef struct Guard {
    struct Guard *next;
    atomic_bool taken;
    atomic_uint seq;
    atomic_uintptr_t start;  // 0: nothing is guarded
    atomic_size_t len;
    _Atomic uint64_t fault;  // lowest offset that faulted
} Guard;

static const uint64_t NO_FAULT = UINT64_MAX;

static _Atomic(Guard *) guards;
static uintptr_t page_bytes;

// Handlers that were there before ours, the last one in force. Others may put theirs over ours, so
// each new mapping looks; entries never change, so the handler may read them at any time.
enum { MAX_PREVIOUS = 16 };
static struct sigaction previous[MAX_PREVIOUS];
static atomic_int n_previous;
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;

// Replaces the mapping from the faulting page to its end. Not that page alone: past the end of a
// shrunken file every page faults, and a signal and a map entry for each of them would be many.
static bool guard_mend(Guard *g, uintptr_t addr) {
    unsigned seq = atomic_load(&g->seq);
    if (seq & 1) return false;
    uintptr_t start = atomic_load(&g->start);
    size_t len = atomic_load(&g->len);
    if (atomic_load(&g->seq) != seq || !start || addr < start || addr - start >= len) return false;
    uintptr_t page = addr & ~(page_bytes - 1);
    void *p = mmap((void *)page, start + len - page, PROT_READ,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (p == MAP_FAILED) return false;
    uint64_t at = addr - start, old = atomic_load(&g->fault);
    while (at < old && !atomic_compare_exchange_weak(&g->fault, &old, at)) continue;
    return true;
}

// A fault that is not ours. A handler that was put over ours may in turn call ours: the flag ends
// that circle. (initial-exec: no allocation on a thread's first use, which a handler could not
// stand.)
static void pass_on(int sig, siginfo_t *info, void *context) {
    static _Thread_local volatile sig_atomic_t passing __attribute__((tls_model("initial-exec")));
    const struct sigaction *old = &previous[atomic_load(&n_previous) - 1];
    bool handled =
        (old->sa_flags & SA_SIGINFO) || (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN);
    if (passing || !handled) {
        signal(sig, SIG_DFL);  // the access happens again and ends the process as it would have
        return;
    }
    passing = 1;
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(sig, info, context);
    } else {
        old->sa_handler(sig);
    }
    passing = 0;
}

static void on_sigbus(int sig, siginfo_t *info, void *context) {
    int saved = errno;
    uintptr_t addr = (uintptr_t)info->si_addr;
    bool mended = false;
    for (Guard *g = atomic_load(&guards); g && !mended; g = g->next) mended = guard_mend(g, addr);
    errno = saved;
    if (!mended) pass_on(sig, info, context);
}

static bool same_handler(const struct sigaction *a, const struct sigaction *b) {
    if ((a->sa_flags ^ b->sa_flags) & SA_SIGINFO) return false;
    return a->sa_flags & SA_SIGINFO ? a->sa_sigaction == b->sa_sigaction
                                    : a->sa_handler == b->sa_handler;
}

// Makes ours the handler, unless it is.
static void install(void) {
    struct sigaction ours = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK}, now;
    sigemptyset(&ours.sa_mask);
    pthread_mutex_lock(&install_lock);
    if (!page_bytes) page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (sigaction(SIGBUS, NULL, &now) == 0 && !same_handler(&now, &ours)) {
        int n = atomic_load(&n_previous);
        // Restored by signal(), ours has lost its SA_SIGINFO and is no handler to pass faults to.
        bool lamed = !(now.sa_flags & SA_SIGINFO) && (void *)now.sa_handler == (void *)on_sigbus;
        bool known = n && same_handler(&now, &previous[n - 1]);
        if (!lamed && !known && n < MAX_PREVIOUS) {
            previous[n] = now;
            atomic_store(&n_previous, n + 1);
        }
        sigaction(SIGBUS, &ours, NULL);
    }
    pthread_mutex_unlock(&install_lock);
}

static Guard *guard_take(void) {
    install();
    for (Guard *g = atomic_load(&guards); g; g = g->next) {
        if (!atomic_exchange(&g->taken, true)) return g;
    }
    Guard *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    atomic_store(&g->taken, true);
    g->next = atomic_load(&guards);
    while (!atomic_compare_exchange_weak(&guards, &g->next, g)) continue;
    return g;
}

static void guard_set(Guard *g, const void *start, size_t len) {
    atomic_fetch_add(&g->seq, 1);
    atomic_store(&g->start, (uintptr_t)start);
    atomic_store(&g->len, len);
    atomic_store(&g->fault, NO_FAULT);
    atomic_fetch_add(&g->seq, 1);
}

static void guard_release(Guard *g) {
    guard_set(g, NULL, 0);
    atomic_store(&g->taken, false);
}

// --- Opening ----------------------------------------------------------------------------------

// What a file is that is not a regular one.
static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "a directory";
    if (S_ISFIFO(mode)) return "a FIFO (named pipe)";
    if (S_ISCHR(mode)) return "a character device";
    if (S_ISBLK(mode)) return "a block device";
    if (S_ISSOCK(mode)) return "a socket";
    return "not a regular file";
}

static Status cannot(Error *err, Status st, const char *path, const char *verb, int code) {
    if (code == ENOENT) return error_set(err, st, "%s: there is no such file", path);
    if (code == EACCES || code == EPERM) {
        return error_set(err, st, "%s: no permission to %s it", path, verb);
    }
    if (code == ENOMEM) {
        return error_set(err, ERR_UNAVAILABLE, "%s: out of memory, cannot %s it", path, verb);
    }
    return error_set(err, st, "%s: cannot %s it: %s", path, verb, strerror(code));
}

// Opens a regular file for reading. Looks before it opens, since opening a device can have effects
// and opening a FIFO can wait; O_NONBLOCK and the second look cover a file swapped in between.
static Status open_regular(const char *path, int *fd, struct stat *st, Error *err) {
    if (!*path) return error_set(err, ERR_FILE, "the file name is empty");
    if (stat(path, st)) return cannot(err, ERR_FILE, path, "read", errno);
    *fd = -1;
    if (S_ISREG(st->st_mode)) {
        *fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (*fd < 0) return cannot(err, ERR_FILE, path, "read", errno);
        if (fstat(*fd, st)) {
            int code = errno;
            close(*fd);
            return cannot(err, ERR_FILE, path, "read", code);
        }
    }
    if (S_ISREG(st->st_mode)) return OK;
    if (*fd >= 0) close(*fd);
    return error_set(err, ERR_FILE, "%s: is %s, expected a regular file", path,
                     kind_of(st->st_mode));
}

// --- Mappings ---------------------------------------------------------------------------------

struct MappedFile {
    char *path;
    int fd;  // kept to see whether the file has shrunk
    uint8_t *data;
    size_t size;
    Guard *guard;
};

Status file_map(const char *path, MappedFile **out, Error *err) {
    *out = NULL;
    struct stat st;
    int fd = -1;
    Status status = open_regular(path, &fd, &st, err);
    if (status) return status;
    MappedFile *f = calloc(1, sizeof *f);
    if (!f) {
        close(fd);
        return error_memory(err, "a mapped file", sizeof *f);
    }
    f->fd = fd;
    f->size = (size_t)st.st_size;
    f->path = strdup(path);
    f->guard = guard_take();
    if (!f->path || !f->guard) {
        file_unmap(f);
        return error_memory(err, "a mapped file", sizeof *f->guard + strlen(path) + 1);
    }
    if (f->size != (uint64_t)st.st_size || f->size > SIZE_MAX / 2) {
        file_unmap(f);
        return error_set(err, ERR_UNAVAILABLE, "%s: its %lld bytes do not fit the address space",
                         path, (long long)st.st_size);
    }
    if (f->size) {
        void *p = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            int code = errno;
            file_unmap(f);
            return cannot(err, ERR_FILE, path, "map", code);
        }
        f->data = p;
    }
    guard_set(f->guard, f->data, f->size);
    *out = f;
    return OK;
}

void file_unmap(MappedFile *f) {
    if (!f) return;
    if (f->guard) guard_release(f->guard);
    if (f->data) munmap(f->data, f->size);
    close(f->fd);
    free(f->path);
    free(f);
}

const uint8_t *file_data(const MappedFile *f) {
    static const uint8_t nothing[1];
    return f->data ? f->data : nothing;
}

uint64_t file_size(const MappedFile *f) {
    return f->size;
}

const char *file_path(const MappedFile *f) {
    return f->path;
}

Status file_fault(const MappedFile *f, Error *err) {
    // The end of the last page reads as zeros without a signal, so the size is looked at as well.
    struct stat st;
    if (fstat(f->fd, &st) == 0 && (uint64_t)st.st_size < f->size) {
        return error_set(err, ERR_FILE,
                         "%s: the file has shrunk while in use: it had %zu bytes, now it ends at "
                         "byte %lld (is something rewriting it?)",
                         f->path, f->size, (long long)st.st_size);
    }
    uint64_t at = atomic_load(&f->guard->fault);
    if (at == NO_FAULT) return OK;
    return error_set(err, ERR_FILE,
                     "%s: reading at byte %llu of %zu failed: the file shrank while in use, or its "
                     "disk is failing",
                     f->path, (unsigned long long)at, f->size);
}

// --- Whole reads ------------------------------------------------------------------------------

// What can be read to an end: a file, or what a shell puts in its place, as in -f <(command). A
// pipe waits for its writer here; who names one means that.
static Status open_readable(const char *path, int *fd, Error *err) {
    struct stat st;
    *fd = -1;
    if (!*path) return error_set(err, ERR_FILE, "the file name is empty");
    *fd = open(path, O_RDONLY | O_NOCTTY | O_CLOEXEC);
    if (*fd < 0) return cannot(err, ERR_FILE, path, "read", errno);
    if (fstat(*fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(*fd);
        return error_set(err, ERR_FILE, "%s: is a directory, expected a file", path);
    }
    return OK;
}

static Status read_all(int fd, const char *name, uint64_t most, Text *out, Error *err) {
    size_t start = out->len;
    for (;;) {
        if (!text_reserve(out, READ_STEP)) {
            return error_memory(err, name, (unsigned long long)out->len + READ_STEP);
        }
        ssize_t n = read(fd, out->data + out->len, READ_STEP);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return cannot(err, ERR_FILE, name, "read", errno);
        if (n == 0) break;
        out->len += (size_t)n;
        if (out->len - start > most) {
            return error_set(err, ERR_FILE, "%s: is longer than the %llu bytes that are accepted",
                             name, (unsigned long long)most);
        }
    }
    return OK;
}

Status file_read(const char *path, uint64_t most, Text *out, Error *err) {
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = STDIN_FILENO;
    Status status = is_stdin ? OK : open_readable(path, &fd, err);
    if (status) return status;
    size_t start = out->len;
    status = read_all(fd, is_stdin ? "stdin" : path, most, out, err);
    if (!is_stdin) close(fd);
    if (status) out->len = start;
    if (out->data) out->data[out->len] = 0;
    return status;
}

// --- Outputs ----------------------------------------------------------------------------------

struct OutFile {
    char *path;  // as it was given, for messages
    char *dest;  // the file to replace, links followed
    char *temp;  // NULL: written straight through (a device, a pipe, stdout)
    int fd;
    uint64_t position;
    Status failed;  // a write that failed is never forgotten
    size_t used;
    uint8_t buffer[WRITE_BUFFER];
};

static void out_free(OutFile *o) {
    free(o->path);
    free(o->dest);
    free(o->temp);
    free(o);
}

static Status out_error(OutFile *o, Error *err, const char *verb, int code) {
    o->failed = cannot(err, ERR_FAILED, o->path, verb, code);
    return o->failed;
}

// A target that exists and is no regular file is written through. A FIFO that nobody reads would
// make open() wait, so it is opened without waiting and made to wait again after.
static Status open_through(OutFile *o, Error *err) {
    if (strcmp(o->path, "/dev/stdout") == 0 || strcmp(o->path, "/dev/stderr") == 0) {
        // Not by its name: where it is a regular file, that would write over its beginning.
        o->fd = fcntl(o->path[8] == 'o' ? STDOUT_FILENO : STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    } else {
        o->fd = open(o->path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (o->fd < 0 && errno == ENXIO) {
            return error_set(err, ERR_FAILED, "%s: nothing reads this pipe or device", o->path);
        }
        if (o->fd >= 0) fcntl(o->fd, F_SETFL, fcntl(o->fd, F_GETFL) & ~O_NONBLOCK);
    }
    return o->fd < 0 ? out_error(o, err, "write", errno) : OK;
}

// Creates ".plumb-PID-N" beside dest. open() applies the umask, as for any new file; a file that is
// replaced keeps its mode.
static Status open_temp(OutFile *o, const struct stat *old, Error *err) {
    static atomic_uint serial;
    const char *slash = strrchr(o->dest, '/');
    int dir_len = slash ? (int)(slash - o->dest) + 1 : 0;
    size_t size = (size_t)dir_len + 64;
    o->temp = malloc(size);
    if (!o->temp) return error_memory(err, "an output file", size);
    for (int i = 0; i < PATH_TRIES; i++) {
        snprintf(o->temp, size, "%.*s.plumb-%ld-%u", dir_len, o->dest, (long)getpid(),
                 atomic_fetch_add(&serial, 1));
        o->fd = open(o->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (o->fd >= 0) {
            // Not being allowed to keep the mode is no reason to refuse the output.
            if (old && fchmod(o->fd, old->st_mode & 0777)) errno = 0;
            return OK;
        }
        if (errno != EEXIST) break;
    }
    int code = errno;
    free(o->temp);
    o->temp = NULL;
    if (code == ENOENT || code == ENOTDIR) {
        return error_set(err, ERR_FAILED, "%s: its directory does not exist", o->path);
    }
    return out_error(o, err, "create a file beside", code);
}

static Status out_open_at(OutFile *o, Error *err) {
    struct stat st;
    bool exists = stat(o->path, &st) == 0;
    if (!exists && errno != ENOENT && errno != ENOTDIR) return out_error(o, err, "write", errno);
    if (exists && S_ISDIR(st.st_mode)) {
        return error_set(err, ERR_FAILED, "%s: is a directory, expected a file name", o->path);
    }
    bool is_std = strcmp(o->path, "/dev/stdout") == 0 || strcmp(o->path, "/dev/stderr") == 0;
    if (exists && (is_std || !S_ISREG(st.st_mode))) return open_through(o, err);
    if (exists && access(o->path, W_OK)) return out_error(o, err, "write", errno);
    if (o->path[strlen(o->path) - 1] == '/') {
        return error_set(err, ERR_FAILED, "%s: names a directory, expected a file name", o->path);
    }
    // The file that a link names is replaced, not the link.
    o->dest = exists ? realpath(o->path, NULL) : strdup(o->path);
    if (!o->dest) return out_error(o, err, "write", errno);
    return open_temp(o, exists ? &st : NULL, err);
}

Status out_open(const char *path, OutFile **out, Error *err) {
    *out = NULL;
    if (!*path) return error_set(err, ERR_FAILED, "the name of the output file is empty");
    OutFile *o = calloc(1, sizeof *o);
    if (!o || !(o->path = strdup(path))) {
        free(o);
        return error_memory(err, "an output file", sizeof *o);
    }
    Status status = out_open_at(o, err);
    if (status) {
        out_free(o);
        return status;
    }
    *out = o;
    return OK;
}

static Status write_all(OutFile *o, const uint8_t *p, size_t len, Error *err) {
    while (len) {
        ssize_t n = write(o->fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == ENOSPC) {
            o->failed = error_set(err, ERR_FAILED, "%s: the disk is full after %llu bytes", o->path,
                                  (unsigned long long)o->position);
            return o->failed;
        }
        if (n < 0) return out_error(o, err, "write", errno);
        p += n, len -= (size_t)n;
    }
    return OK;
}

static Status flush(OutFile *o, Error *err) {
    size_t used = o->used;
    o->used = 0;
    return write_all(o, o->buffer, used, err);
}

Status out_write(OutFile *o, const void *bytes, size_t len, Error *err) {
    if (o->failed) {
        return error_set(err, o->failed, "%s: an earlier write has failed", o->path);
    }
    if (len > WRITE_BUFFER - o->used) {
        Status status = flush(o, err);
        if (status) return status;
    }
    if (len >= WRITE_BUFFER) {
        Status status = write_all(o, bytes, len, err);
        if (status) return status;
    } else if (len) {
        memcpy(o->buffer + o->used, bytes, len);
        o->used += len;
    }
    o->position += len;
    return OK;
}

uint64_t out_position(const OutFile *o) {
    return o->position;
}

// Makes the rename itself durable; a file system that cannot is no reason to fail.
static void sync_directory(char *dest) {
    char *slash = strrchr(dest, '/');
    if (slash) slash[1] = 0;
    int fd = open(slash ? dest : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    if (fsync(fd)) errno = 0;
    close(fd);
}

Status out_commit(OutFile *o, Error *err) {
    Status status = o->failed
                        ? error_set(err, o->failed, "%s: an earlier write has failed", o->path)
                        : flush(o, err);
    if (!status && o->temp && fsync(o->fd)) status = out_error(o, err, "write", errno);
    if (close(o->fd) && !status) status = out_error(o, err, "write", errno);
    if (o->temp) {
        if (!status && rename(o->temp, o->dest)) status = out_error(o, err, "replace", errno);
        if (status) {
            unlink(o->temp);
        } else {
            sync_directory(o->dest);
        }
    }
    out_free(o);
    return status;
}

void out_abort(OutFile *o) {
    if (!o) return;
    close(o->fd);
    if (o->temp) unlink(o->temp);
    out_free(o);
}
