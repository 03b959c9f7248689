// See fiber.h. A switch saves what the calling convention lets a callee use, on the stack that it
// leaves, and takes the same from the stack that it enters: a few nanoseconds where it is written
// out (x86-64, aarch64), swapcontext elsewhere.
#define _GNU_SOURCE
#include "fiber.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/status.h"
#include "guard.h"

#if GUARD_ASAN
#include <sanitizer/common_interface_defs.h>
#define LEAVE(save, to, bytes) __sanitizer_start_switch_fiber(save, to, bytes)
#define ENTER(save, from, bytes) __sanitizer_finish_switch_fiber(save, from, bytes)
#else
#define LEAVE(save, to, bytes) (void)(save), (void)(to), (void)(bytes)
#define ENTER(save, from, bytes) (void)(save), (void)(from), (void)(bytes)
#endif

// Room for a sanitizer's report, too. Stacks start a little apart, or the first lines of all of them
// would share a few places of the cache.
enum { STACK_BYTES = 256 << 10, APART_BYTES = 192, N_APART = 16 };

// --- the switch ----------------------------------------------------------------------------------

#if defined(__x86_64__) || defined(__aarch64__)

typedef void *Context;  // the stack pointer; the rest lies on the stack

// Named for the assembler, since some systems put an underscore before C's names.
void context_switch(Context *save, Context to) __asm__("plumb_context_switch");

#if defined(__x86_64__)
enum { SAVED_WORDS = 8, ENTRY_WORD = 6 };  // r15 r14 r13 r12 rbx rbp, where to return, 0
__asm__(
    ".text\n"
    ".p2align 4\n"
    "plumb_context_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n");
#else
enum { SAVED_WORDS = 20, ENTRY_WORD = 11 };  // x19 .. x29, x30 (where to return), d8 .. d15
__asm__(
    ".text\n"
    ".p2align 4\n"
    "plumb_context_switch:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp]\n"
    "    stp x21, x22, [sp, #16]\n"
    "    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n"
    "    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n"
    "    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n"
    "    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n"
    "    str x9, [x0]\n"
    "    mov sp, x1\n"
    "    ldp x19, x20, [sp]\n"
    "    ldp x21, x22, [sp, #16]\n"
    "    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n"
    "    ldp x27, x28, [sp, #64]\n"
    "    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n"
    "    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n"
    "    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n");
#endif

// A stack as context_switch leaves one, that returns into `entry`, where the stack is aligned as
// after a call. A frame pointer of 0 ends a debugger's walk.
static void context_make(Context *c, uint8_t *top, void (*entry)(void)) {
    uintptr_t *sp = (uintptr_t *)(void *)top - SAVED_WORDS;
    for (int i = 0; i < SAVED_WORDS; i++) sp[i] = 0;
    sp[ENTRY_WORD] = (uintptr_t)entry;
    *c = sp;
}

static inline void switch_from(Context *save, Context *to) {
    context_switch(save, *to);
}

#else
#include <ucontext.h>

typedef ucontext_t Context;

static void context_make(Context *c, uint8_t *top, void (*entry)(void)) {
    CHECK(getcontext(c) == 0);
    c->uc_stack.ss_sp = top - (STACK_BYTES - APART_BYTES * N_APART);
    c->uc_stack.ss_size = STACK_BYTES - APART_BYTES * N_APART;
    c->uc_link = NULL;
    makecontext(c, entry, 0);
}

static inline void switch_from(Context *save, Context *to) {
    CHECK(swapcontext(save, to) == 0);
}
#endif

// --- fibers --------------------------------------------------------------------------------------

typedef enum { IDLE, READY, PAUSED, RUNNING } State;

typedef struct {
    Fibers *of;
    uint8_t *stack;  // its lowest byte
    Context context;
    void (*fn)(void *user);
    void *user;
    State state;
    void *fake_stack;  // AddressSanitizer's
} Fiber;

struct Fibers {
    int n;
    uint8_t *map;
    size_t map_bytes;
    Context resumer;
    const void *resumer_stack;  // as AddressSanitizer knows it
    size_t resumer_bytes;
    Fiber fibers[];
};

static _Thread_local Fiber *current;

Fibers *fibers_new(int n) {
    CHECK(n >= 1);
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), step = STACK_BYTES + page;
    Fibers *f = calloc(1, sizeof *f + (size_t)n * sizeof *f->fibers);
    if (!f) return NULL;
    f->n = n, f->map_bytes = (size_t)n * step;
    f->map = mmap(NULL, f->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (f->map == MAP_FAILED) {
        free(f);
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        f->fibers[i].of = f, f->fibers[i].stack = f->map + (size_t)i * step + page;
        if (mprotect(f->map + (size_t)i * step, page, PROT_NONE) != 0) {
            fibers_free(f);
            return NULL;
        }
    }
    return f;
}

void fibers_free(Fibers *f) {
    if (!f) return;
    for (int i = 0; i < f->n; i++) CHECK(f->fibers[i].state == IDLE || f->fibers[i].state == READY);
    munmap(f->map, f->map_bytes);
    free(f);
}

// The first function of every fiber; what it is to do stands in `current`.
static void fiber_entry(void) {
    Fiber *self = current;
    Fibers *f = self->of;
    ENTER(NULL, &f->resumer_stack, &f->resumer_bytes);
    self->fn(self->user);
    self->state = IDLE;
    LEAVE(NULL, f->resumer_stack, f->resumer_bytes);  // NULL: it does not come back
    switch_from(&self->context, &f->resumer);
    check_failed(__FILE__, __LINE__, "a fiber that ended was resumed");
}

void fiber_start(Fibers *f, int i, void (*fn)(void *user), void *user) {
    CHECK(i >= 0 && i < f->n);
    Fiber *fiber = &f->fibers[i];
    CHECK(fiber->state == IDLE || fiber->state == READY);
    fiber->fn = fn, fiber->user = user, fiber->state = READY;
    context_make(&fiber->context, fiber->stack + STACK_BYTES - i % N_APART * APART_BYTES,
                 fiber_entry);
}

bool fiber_resume(Fibers *f, int i) {
    CHECK(i >= 0 && i < f->n && !current);
    Fiber *fiber = &f->fibers[i];
    CHECK(fiber->state == READY || fiber->state == PAUSED);
    void *fake_stack = NULL;
    fiber->state = RUNNING;
    current = fiber;
    LEAVE(&fake_stack, fiber->stack, STACK_BYTES);
    switch_from(&f->resumer, &fiber->context);
    ENTER(fake_stack, NULL, NULL);
    current = NULL;
    return fiber->state == PAUSED;
}

void fiber_pause(void) {
    Fiber *self = current;
    CHECK(self);
    Fibers *f = self->of;
    self->state = PAUSED;
    LEAVE(&self->fake_stack, f->resumer_stack, f->resumer_bytes);
    switch_from(&self->context, &f->resumer);
    ENTER(self->fake_stack, &f->resumer_stack, &f->resumer_bytes);
}

void fiber_drop(Fibers *f, int i) {
    CHECK(i >= 0 && i < f->n);
    Fiber *fiber = &f->fibers[i];
    CHECK(fiber->state != RUNNING);
    fiber->state = IDLE;
    guard_lift(fiber->stack, STACK_BYTES);  // what AddressSanitizer marked between its variables
}
