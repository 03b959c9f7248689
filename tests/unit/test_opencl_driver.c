// device_opencl.c over a library that is not there: what it says without OpenCL, which devices it
// takes first, what it asks of a compiler, when it waits, and that it lets go of all it took when a
// call fails. The library is this file: dlopen and dlsym find it, and what is issued runs when
// somebody waits, no sooner.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>

static void *fake_dlopen(const char *name, int flags);
static void *fake_dlsym(void *lib, const char *name);
#define dlopen fake_dlopen
#define dlsym fake_dlsym
#define device_opencl device_on_fake
#include "backend/gpu/device_opencl.c"
#undef dlopen
#undef dlsym

#include "base/checked.h"
#include "check.h"

// --- the library ---------------------------------------------------------------------------------

typedef struct {
    const char *name, *version;
    uint64_t type;
    uint64_t memory, max_buffer, local, items, floats;
    uint32_t no_compiler, big_endian, nv_major, nv_minor;
} FakeDevice;

typedef struct {
    void **functions;  // what a driver's objects begin with
    const char *name;
    FakeDevice devices[3];
} FakePlatform;

typedef struct {
    const uint8_t *from;
    Handle buffer;
    size_t at, bytes;
} FakeWrite;

enum { FAKE_WRITES = 4096, FAKE_BUFFER = 1 << 20 };

static struct {
    const char *library, *lacks;  // the one that dlopen finds; a name that dlsym does not
    FakePlatform platforms[3];
    uint32_t n_platforms;
    const char *fails;  // the call that fails, at the time number `at` (from 1)
    int at;
    Result with;
    const char *log;
    char options[200];
    uint32_t kernel_args;
    size_t kernel_items;

    int alive;  // contexts, queues, buffers, programs, kernels
    int waits, flushes, launches, created;
    FakeWrite writes[FAKE_WRITES];  // under way
    int n_writes;
    size_t global[3], local[3];
    size_t arg_bytes[20];
    uint8_t args[20][64];
} fake;

static void *fake_functions[64];

static bool fake_fails(const char *name, Result *r) {
    const bool now = fake.fails && strcmp(fake.fails, name) == 0 && --fake.at == 0;
    if (r) *r = now ? fake.with : 0;
    return now;
}

static Result fake_answer(const void *from, size_t n, size_t size, void *to, size_t *got) {
    if (got) *got = n;
    if (to && size < n) return -30;
    if (to) memcpy(to, from, n);
    return 0;
}

static Result fake_GetPlatformIDs(uint32_t room_for, Handle *out, uint32_t *n) {
    Result r;
    if (fake_fails("clGetPlatformIDs", &r)) return r;
    if (n) *n = fake.n_platforms;
    for (uint32_t i = 0; out && i < fake.n_platforms && i < room_for; i++) {
        fake.platforms[i].functions = fake_functions;
        out[i] = &fake.platforms[i];
    }
    return fake.n_platforms ? 0 : -1001;
}

static Result fake_GetPlatformInfo(Handle p, uint32_t what, size_t size, void *to, size_t *got) {
    const char *name = ((FakePlatform *)p)->name;
    assert_int_equal(what, PLATFORM_NAME);
    return fake_answer(name, strlen(name) + 1, size, to, got);
}

static Result fake_GetDeviceIDs(Handle p, uint64_t types, uint32_t room_for, Handle *out,
                                uint32_t *n) {
    FakePlatform *platform = p;
    *n = 0;
    for (int i = 0; i < 3; i++) {
        if (!(platform->devices[i].type & types)) continue;
        if (*n < room_for) out[*n] = &platform->devices[i];
        ++*n;
    }
    return *n ? 0 : -1;
}

static Result fake_GetDeviceInfo(Handle id, uint32_t what, size_t size, void *to, size_t *got) {
    const FakeDevice *d = id;
    const uint32_t units = 5, little = !d->big_endian, compiler = !d->no_compiler;
    const size_t items = d->items;
    if (what == DEVICE_NAME) return fake_answer(d->name, strlen(d->name) + 1, size, to, got);
    if (what == DEVICE_VERSION) {
        return fake_answer(d->version, strlen(d->version) + 1, size, to, got);
    }
    if (what == DEVICE_UNITS) return fake_answer(&units, 4, size, to, got);
    if (what == DEVICE_LITTLE_ENDIAN) return fake_answer(&little, 4, size, to, got);
    if (what == DEVICE_COMPILER) return fake_answer(&compiler, 4, size, to, got);
    if (what == DEVICE_GROUP_SIZE) return fake_answer(&items, sizeof items, size, to, got);
    if (what == DEVICE_BYTES) return fake_answer(&d->memory, 8, size, to, got);
    if (what == DEVICE_BUFFER_BYTES) return fake_answer(&d->max_buffer, 8, size, to, got);
    if (what == DEVICE_LOCAL_BYTES) return fake_answer(&d->local, 8, size, to, got);
    if (what == DEVICE_FLOAT_CONFIG) return fake_answer(&d->floats, 8, size, to, got);
    if (what == DEVICE_NV_MAJOR && d->nv_major) {
        return fake_answer(&d->nv_major, 4, size, to, got);
    }
    if (what == DEVICE_NV_MINOR && d->nv_major) {
        return fake_answer(&d->nv_minor, 4, size, to, got);
    }
    return -30;
}

static Handle fake_new(const char *name, size_t bytes, Result *r) {
    if (fake_fails(name, r)) return NULL;
    fake.alive++;
    fake.created++;
    return room(bytes);
}

static Result fake_release(Handle h) {
    assert_non_null(h);
    for (int i = 0; i < fake.n_writes; i++) {  // they go on, to nowhere
        FakeWrite *w = &fake.writes[i];
        if (w->buffer == h) w->bytes = 0;
    }
    free(h);
    fake.alive--;
    return 0;
}

static Handle fake_CreateContext(const intptr_t *properties, uint32_t n, const Handle *devices,
                                 void (*notify)(const char *, const void *, size_t, void *),
                                 void *user, Result *r) {
    (void)user;
    assert_true(properties[0] == CONTEXT_PLATFORM && properties[2] == 0 && n == 1 && !notify);
    const FakePlatform *p = (const FakePlatform *)properties[1];
    assert_true((const FakeDevice *)devices[0] >= p->devices);
    assert_true((const FakeDevice *)devices[0] < p->devices + 3);
    return fake_new("clCreateContext", 1, r);
}

static Handle fake_CreateCommandQueue(Handle context, Handle device, uint64_t properties,
                                      Result *r) {
    assert_true(context && device && properties == 0);  // in order
    return fake_new("clCreateCommandQueue", 1, r);
}

static Handle fake_CreateBuffer(Handle context, uint64_t flags, size_t bytes, void *host,
                                Result *r) {
    assert_true(context && flags == BUFFER_READ_WRITE && bytes > 0 && !host);
    return fake_new("clCreateBuffer", FAKE_BUFFER, r);
}

static Handle fake_CreateProgramWithSource(Handle context, uint32_t n, const char **source,
                                           const size_t *lengths, Result *r) {
    assert_true(context && n == 1 && source[0] && !lengths);
    return fake_new("clCreateProgramWithSource", 1, r);
}

static Result fake_BuildProgram(Handle program, uint32_t n, const Handle *devices,
                                const char *options, void (*notify)(Handle, void *), void *user) {
    Result r;
    (void)devices, (void)user;
    assert_true(program && n == 1 && !notify);
    snprintf(fake.options, sizeof fake.options, "%s", options);
    fake_fails("clBuildProgram", &r);
    return r;
}

static Result fake_GetProgramBuildInfo(Handle program, Handle device, uint32_t what, size_t size,
                                       void *to, size_t *got) {
    assert_true(program && device && what == BUILD_LOG);
    return fake_answer(fake.log, strlen(fake.log) + 1, size, to, got);
}

static Handle fake_CreateKernel(Handle program, const char *name, Result *r) {
    assert_true(program && name);
    return fake_new("clCreateKernel", 1, r);
}

static Result fake_GetKernelInfo(Handle kernel, uint32_t what, size_t size, void *to, size_t *got) {
    assert_true(kernel && what == KERNEL_ARGS);
    return fake_answer(&fake.kernel_args, 4, size, to, got);
}

static Result fake_GetKernelWorkGroupInfo(Handle kernel, Handle device, uint32_t what, size_t size,
                                          void *to, size_t *got) {
    Result r;
    assert_true(kernel && device && what == KERNEL_GROUP_SIZE);
    if (fake_fails("clGetKernelWorkGroupInfo", &r)) return r;
    return fake_answer(&fake.kernel_items, sizeof(size_t), size, to, got);
}

static Result fake_SetKernelArg(Handle kernel, uint32_t i, size_t bytes, const void *value) {
    Result r;
    assert_true(kernel && i < 20 && bytes <= 64);
    memcpy(fake.args[i], value, bytes);
    fake.arg_bytes[i] = bytes;
    fake_fails("clSetKernelArg", &r);
    return r;
}

// Only now a write looks at its source.
static void fake_run(void) {
    for (int i = 0; i < fake.n_writes; i++) {
        const FakeWrite *w = &fake.writes[i];
        if (w->bytes) memcpy((uint8_t *)w->buffer + w->at, w->from, w->bytes);
    }
    fake.n_writes = 0;
}

static Result fake_Finish(Handle queue) {
    Result r;
    assert_non_null(queue);
    fake_run();
    fake.waits++;
    fake_fails("clFinish", &r);
    return r;
}

static Result fake_EnqueueWriteBuffer(Handle queue, Handle to, uint32_t blocking, size_t at,
                                      size_t bytes, const void *from, uint32_t n_events,
                                      const Handle *events, Handle *event) {
    Result r;
    assert_true(queue && to && bytes > 0 && at + bytes <= FAKE_BUFFER && from);
    assert_true(n_events == 0 && !events && !event);
    if (fake_fails("clEnqueueWriteBuffer", &r)) return r;
    assert_true(fake.n_writes < FAKE_WRITES);
    fake.writes[fake.n_writes++] = (FakeWrite){from, to, at, bytes};
    if (blocking) fake_Finish(queue);
    return 0;
}

static Result fake_EnqueueReadBuffer(Handle queue, Handle from, uint32_t blocking, size_t at,
                                     size_t bytes, void *to, uint32_t n_events,
                                     const Handle *events, Handle *event) {
    Result r;
    assert_true(from && blocking && bytes > 0 && n_events == 0 && !events && !event);
    if (fake_fails("clEnqueueReadBuffer", &r)) return r;
    fake_Finish(queue);
    memcpy(to, (const uint8_t *)from + at, bytes);
    return 0;
}

static Result fake_EnqueueCopyBuffer(Handle queue, Handle from, Handle to, size_t from_at,
                                     size_t to_at, size_t bytes, uint32_t n_events,
                                     const Handle *events, Handle *event) {
    Result r;
    assert_true(queue && bytes > 0 && n_events == 0 && !events && !event);
    if (fake_fails("clEnqueueCopyBuffer", &r)) return r;
    fake_run();
    memmove((uint8_t *)to + to_at, (const uint8_t *)from + from_at, bytes);
    return 0;
}

static Result fake_EnqueueNDRangeKernel(Handle queue, Handle kernel, uint32_t n,
                                        const size_t *offset, const size_t *global,
                                        const size_t *local, uint32_t n_events,
                                        const Handle *events, Handle *event) {
    Result r;
    assert_true(queue && kernel && n == 3 && !offset && n_events == 0 && !events && !event);
    memcpy(fake.global, global, sizeof fake.global);
    memcpy(fake.local, local, sizeof fake.local);
    fake.launches++;
    fake_fails("clEnqueueNDRangeKernel", &r);
    return r;
}

static Result fake_Flush(Handle queue) {
    Result r;
    assert_non_null(queue);
    fake.flushes++;
    fake_fails("clFlush", &r);
    return r;
}

// The functions in the order of `symbols`, which is that of `cl`.
static void *fake_function(size_t i) {
    union {
        void (*function)(void);
        void *address;
    } all[] = {
#define FAKE(name) {(void (*)(void))fake_##name}
        FAKE(GetPlatformIDs),
        FAKE(GetPlatformInfo),
        FAKE(GetDeviceIDs),
        FAKE(GetDeviceInfo),
        FAKE(CreateContext),
        FAKE(release),
        FAKE(CreateCommandQueue),
        FAKE(release),
        FAKE(CreateBuffer),
        FAKE(release),
        FAKE(CreateProgramWithSource),
        FAKE(BuildProgram),
        FAKE(GetProgramBuildInfo),
        FAKE(release),
        FAKE(CreateKernel),
        FAKE(GetKernelInfo),
        FAKE(GetKernelWorkGroupInfo),
        FAKE(SetKernelArg),
        FAKE(release),
        FAKE(EnqueueWriteBuffer),
        FAKE(EnqueueReadBuffer),
        FAKE(EnqueueCopyBuffer),
        FAKE(EnqueueNDRangeKernel),
        FAKE(Flush),
        FAKE(Finish)};
    assert_int_equal(COUNT(all), COUNT(symbols));
    return all[i].address;
}

static void *fake_address(const char *name) {
    return strcmp(name, "clIcdGetPlatformIDsKHR") == 0 ? fake_function(0) : NULL;
}

static void *fake_dlopen(const char *name, int flags) {
    assert_int_equal(flags, RTLD_NOW | RTLD_LOCAL);
    return fake.library && strcmp(name, fake.library) == 0 ? &fake : NULL;
}

static void *fake_dlsym(void *lib, const char *name) {
    assert_ptr_equal(lib, &fake);
    if (fake.lacks && strcmp(name, fake.lacks) == 0) return NULL;
    const bool loader = strcmp(fake.library, "libnvidia-opencl.so.1") != 0;
    if (strcmp(name, "clGetExtensionFunctionAddress") == 0) {
        void *(*function)(const char *) = fake_address;
        void *address;
        memcpy(&address, &function, sizeof address);
        return address;
    }
    for (size_t i = 0; loader && i < COUNT(symbols); i++) {
        if (strcmp(symbols[i].name, name) == 0) return fake_function(i);
    }
    return NULL;
}

// --- a fresh start -------------------------------------------------------------------------------

static const DeviceOps *const ops = &device_on_fake;
static Error err;

static const FakeDevice plain = {.name = "a GPU",
                                 .version = "OpenCL 1.2 CUDA",
                                 .type = TYPE_GPU,
                                 .memory = 1 << 30,
                                 .max_buffer = 1 << 28,
                                 .local = 32768,
                                 .items = 256};

// One platform with one device; what was loaded is forgotten.
static void start(const FakeDevice *device) {
    const pthread_once_t fresh = PTHREAD_ONCE_INIT;
    memset(&fake, 0, sizeof fake);
    memset(&missing, 0, sizeof missing);
    memset(&cl, 0, sizeof cl);
    memcpy(&once, &fresh, sizeof once);
    n_listed = 0;
    fake.library = "libOpenCL.so.1";
    fake.n_platforms = 1;
    fake.platforms[0].name = "Makers";
    fake.platforms[0].devices[0] = *device;
    fake.log = "";
    fake.kernel_args = 3;
    fake.kernel_items = 256;
    fake.with = -5;
    for (size_t i = 0; i < COUNT(symbols); i++) fake_functions[symbols[i].place] = fake_function(i);
    fake_functions[0] = NULL;  // drivers are asked by another name
    err.text[0] = '\0';
}

static void good(Status st) {
    if (st) fail_msg("status %d: %s", (int)st, err.text);
}

static void says(Status st, Status want, const char *text) {
    assert_int_equal(st, want);
    if (!strstr(err.text, text)) fail_msg("'%s' does not say '%s'", err.text, text);
    assert_null(strchr(err.text, '\n'));
}

static Device *opened(const FakeDevice *device) {
    Device *d = NULL;
    start(device);
    good(ops->open(0, &d, &err));
    return d;
}

static void closed(Device *d) {
    ops->close(d);
    assert_int_equal(fake.alive, 0);
    assert_int_equal(fake.n_writes, 0);
}

// --- finding devices -----------------------------------------------------------------------------

static void without_opencl_it_says_why(void **state) {
    (void)state;
    int n = 7;
    Device *d;
    DeviceInfo info;
    start(&plain);
    fake.library = NULL;
    says(ops->count(&n, &err), ERR_UNAVAILABLE, "ocl-icd-libopencl1");
    assert_int_equal(n, 0);
    assert_int_equal(ops->count(&n, NULL), ERR_UNAVAILABLE);
    says(ops->open(0, &d, &err), ERR_UNAVAILABLE, "libOpenCL.so.1");
    assert_null(d);
    says(ops->info(0, &info, &err), ERR_UNAVAILABLE, "libOpenCL.so.1");

    start(&plain);
    fake.lacks = "clEnqueueCopyBuffer";
    says(ops->count(&n, &err), ERR_UNAVAILABLE, "clEnqueueCopyBuffer");
    start(&plain);
    fake.n_platforms = 0;
    says(ops->count(&n, &err), ERR_UNAVAILABLE, "pocl-opencl-icd");
    start(&plain);
    fake.platforms[0].devices[0].type = 1 << 4;  // "custom": has no compiler
    says(ops->count(&n, &err), ERR_UNAVAILABLE, "no device");
    assert_int_equal(n, 0);
    start(&plain);
    good(ops->count(&n, &err));
    says(ops->open(1, &d, &err), ERR_UNAVAILABLE, "no device 1");
    says(ops->open(-1, &d, &err), ERR_UNAVAILABLE, "no device -1");
}

static void every_library_is_tried(void **state) {
    (void)state;
    static const char *const names[] = {"libOpenCL.so.1", "libOpenCL.so", "libnvidia-opencl.so.1"};
    for (int i = 0; i < 3; i++) {
        int n;
        start(&plain);
        fake.library = names[i];
        good(ops->count(&n, &err));
        assert_int_equal(n, 1);
        // Every function is where it is called.
        const char *const slots = (const char *)&cl;
        for (size_t k = 0; k < COUNT(symbols); k++) {
            void *got;
            memcpy(&got, slots + k * sizeof got, sizeof got);
            assert_ptr_equal(got, fake_function(k));
        }
    }
    int n;
    start(&plain);
    fake.library = names[2];
    fake.lacks = "clGetExtensionFunctionAddress";
    says(ops->count(&n, &err), ERR_UNAVAILABLE, "libOpenCL.so.1");
    start(&plain);
    fake.library = names[2];
    fake.n_platforms = 0;
    says(ops->count(&n, &err), ERR_UNAVAILABLE, "libOpenCL.so.1");
}

static void gpus_come_before_processors(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool is_processor;
    } want[] = {{"GPU A (First)", false},
                {"an FPGA (Second)", false},
                {"GPU B (Second)", false},
                {"a\\x01processor (First)", true}};
    start(&plain);
    fake.n_platforms = 3;
    FakePlatform *p = fake.platforms;
    p[0].name = "First", p[1].name = " Second  ", p[2].name = "none";
    p[0].devices[0] = p[0].devices[1] = p[1].devices[0] = p[1].devices[1] = plain;
    p[0].devices[0].name = "   a\001processor ", p[0].devices[0].type = TYPE_CPU | 1;
    p[0].devices[1].name = "GPU A";
    p[1].devices[0].name = "an FPGA", p[1].devices[0].type = TYPE_ACCELERATOR;
    p[1].devices[1].name = "GPU B";
    int n;
    good(ops->count(&n, &err));
    assert_int_equal(n, 4);
    for (int i = 0; i < n; i++) {
        DeviceInfo info;
        good(ops->info(i, &info, &err));
        assert_string_equal(info.name, want[i].name);
        assert_int_equal(info.is_processor, want[i].is_processor);
        assert_int_equal(info.memory, 1 << 30);
        assert_int_equal(info.max_buffer, 1 << 28);
        assert_int_equal(info.n_units, 5);
        Device *d;
        good(ops->open(i, &d, &err));
        closed(d);
    }
}

static void what_cannot_run_the_kernels_is_refused(void **state) {
    (void)state;
    FakeDevice bad[6];
    static const char *const why[] = {"OpenCL 1.1", "compiler", "big-endian",
                                      "16384",      "128",      "OpenGL"};
    for (int i = 0; i < 6; i++) bad[i] = plain;
    bad[0].version = "OpenCL 1.1 old";
    bad[1].no_compiler = 1;
    bad[2].big_endian = 1;
    bad[3].local = 16384;
    bad[4].items = 128;
    bad[5].version = "OpenGL 4.6";
    for (int i = 0; i < 6; i++) {
        Device *d = (Device *)&d;
        start(&bad[i]);
        says(ops->open(0, &d, &err), ERR_UNAVAILABLE, why[i]);
        says(ops->open(0, &d, &err), ERR_UNAVAILABLE, "a GPU");
        assert_null(d);
        assert_int_equal(fake.created, 0);
    }
    bad[0].version = "OpenCL 3.0 new";
    closed(opened(&bad[0]));
    static const char *const calls[] = {"clCreateContext", "clCreateCommandQueue"};
    for (int i = 0; i < 2; i++) {
        Device *d;
        start(&plain);
        fake.fails = calls[i], fake.at = 1;
        says(ops->open(0, &d, &err), ERR_UNAVAILABLE, "CL_OUT_OF_RESOURCES");
        assert_null(d);
        assert_int_equal(fake.alive, 0);
    }
}

// --- kernels -------------------------------------------------------------------------------------

static DeviceEntry two[] = {{"one", NULL, 64, 2, 8}, {"other", NULL, 256, 2, 8}};

static void options_are_those_of_the_device(void **state) {
    (void)state;
    FakeDevice exact = plain, nvidia = plain;
    exact.floats = 0xbf;
    nvidia.nv_major = 8, nvidia.nv_minor = 6;
    Device *d = opened(&plain);
    good(ops->build(d, "source", two, 2, &err));
    assert_string_equal(fake.options, "-cl-std=CL1.2 -DPLUMB_NV=0");
    closed(d);
    d = opened(&exact);
    good(ops->build(d, "source", two, 2, &err));
    assert_string_equal(fake.options,
                        "-cl-std=CL1.2 -DPLUMB_NV=0 -cl-fp32-correctly-rounded-divide-sqrt");
    closed(d);
    d = opened(&nvidia);
    good(ops->build(d, "source", two, 2, &err));
    assert_string_equal(fake.options, "-cl-std=CL1.2 -DPLUMB_NV=86");
    closed(d);
}

static void a_build_that_fails_leaves_nothing(void **state) {
    (void)state;
    static const struct {
        const char *log, *says;
    } logs[] = {
        {"warning: one\nkernels:3:5: error: two\nerror: three\n", ": kernels:3:5: error: two"},
        {"error: at once", ": error: at once"},
        {"\n\r\n  it went wrong\nbadly\n", ": it went wrong"},
        {"a\033[31merror\033[0m: red\r\nb", ": a\\x1b[31merror\\x1b[0m: red"},
        {"", "CL_BUILD_PROGRAM_FAILURE"},
        {"\n", "CL_BUILD_PROGRAM_FAILURE"}};
    Device *d = opened(&plain);
    const int empty = fake.alive;
    for (size_t i = 0; i < COUNT(logs); i++) {
        good(ops->build(d, "source", two, 2, &err));
        assert_int_equal(fake.alive, empty + 3);
        assert_non_null(two[0].kernel);
        fake.fails = "clBuildProgram", fake.at = 1, fake.with = -11, fake.log = logs[i].log;
        says(ops->build(d, "source", two, 2, &err), ERR_UNAVAILABLE, logs[i].says);
        assert_int_equal(err.text[strlen(err.text) - 1],
                         logs[i].says[0] == ':' ? logs[i].says[strlen(logs[i].says) - 1] : ')');
        assert_int_equal(fake.alive, empty);
        assert_true(!two[0].kernel && !two[1].kernel);
    }
    fake.fails = "clCreateProgramWithSource", fake.at = 1, fake.with = -6;
    says(ops->build(d, "source", two, 2, &err), ERR_UNAVAILABLE, "CL_OUT_OF_HOST_MEMORY");
    fake.fails = "clCreateKernel", fake.at = 2, fake.with = -46;
    says(ops->build(d, "source", two, 2, &err), ERR_UNAVAILABLE, "no kernel other");
    fake.fails = "clCreateKernel", fake.at = 2, fake.with = -5;
    says(ops->build(d, "source", two, 2, &err), ERR_UNAVAILABLE, "other: CL_OUT_OF_RESOURCES");
    fake.fails = "clGetKernelWorkGroupInfo", fake.at = 1, fake.with = -9999;
    says(ops->build(d, "source", two, 2, &err), ERR_UNAVAILABLE, "one: error (-9999)");
    fake.kernel_items = 255;
    says(ops->build(d, "source", two, 2, &err), ERR_UNAVAILABLE, "other needs groups of 256");
    fake.kernel_items = 256, fake.kernel_args = 4;
    says(ops->build(d, "source", two, 2, &err), ERR_UNAVAILABLE, "one has 4 arguments, not 3");
    assert_int_equal(fake.alive, empty);
    assert_true(!two[0].kernel && !two[1].kernel);
    fake.kernel_args = 3;
    good(ops->build(d, "source", two, 1, &err));
    assert_int_equal(fake.alive, empty + 2);
    closed(d);
}

static void a_launch_passes_every_argument(void **state) {
    (void)state;
    Device *d = opened(&plain);
    DeviceBuffer *b[2];
    uint8_t args[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (int i = 0; i < 2; i++) good(ops->alloc(d, 100, &b[i], &err));
    good(ops->build(d, "source", two, 2, &err));
    const DeviceLaunch l = {&two[0], {70000, 3, 2}, {b[1], b[0]}, args};
    for (int i = 1; i <= 100; i++) {
        good(ops->launch(d, &l, &err));
        assert_int_equal(fake.launches, i);
        assert_int_equal(fake.flushes, i / FLUSH_EVERY);  // now and then
    }
    assert_true(fake.global[0] == 64 * 70000 && fake.global[1] == 3 && fake.global[2] == 2);
    assert_true(fake.local[0] == 64 && fake.local[1] == 1 && fake.local[2] == 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fake.arg_bytes[i], sizeof(Handle));
        assert_memory_equal(fake.args[i], &b[1 - i]->mem, sizeof(Handle));
    }
    assert_int_equal(fake.arg_bytes[2], 8);
    assert_memory_equal(fake.args[2], args, 8);
    static const char *const calls[] = {"clSetKernelArg", "clEnqueueNDRangeKernel", "clFinish"};
    for (int i = 0; i < 3; i++) {
        fake.fails = calls[i], fake.at = i == 0 ? 3 : 1, fake.with = -54;
        says(i < 2 ? ops->launch(d, &l, &err) : ops->wait(d, &err), ERR_FAILED,
             i < 2 ? "opencl: one: CL_INVALID_WORK_GROUP_SIZE" : "CL_INVALID_WORK_GROUP_SIZE");
    }
    good(ops->launch(d, &l, &err));
    for (int i = 0; i < 2; i++) ops->release(d, b[i]);
    closed(d);
}

// --- memory --------------------------------------------------------------------------------------

static void memory_is_counted(void **state) {
    (void)state;
    FakeDevice small = plain;
    small.memory = 1000, small.max_buffer = 600;
    Device *d = opened(&small);
    DeviceBuffer *b[3];
    assert_int_equal(ops->memory_free(d), 1000);
    good(ops->alloc(d, 600, &b[0], &err));
    const int created = fake.created;
    // Neither is asked for: a driver might promise it.
    says(ops->alloc(d, 401, &b[1], &err), ERR_UNAVAILABLE, "CL_MEM_OBJECT_ALLOCATION_FAILURE");
    assert_null(b[1]);
    ops->release(d, b[0]);
    says(ops->alloc(d, 601, &b[1], &err), ERR_UNAVAILABLE, "a buffer may have");
    says(ops->alloc(d, SIZE_MAX, &b[1], &err), ERR_UNAVAILABLE, "a buffer may have");
    assert_int_equal(fake.created, created);
    good(ops->alloc(d, 600, &b[0], &err));
    good(ops->alloc(d, 399, &b[1], &err));
    good(ops->alloc(d, 0, &b[2], &err));
    assert_int_equal(ops->memory_free(d), 1);  // 0 would be: it does not say
    ops->release(d, b[1]);
    ops->release(d, b[2]);
    assert_int_equal(ops->memory_free(d), 400);
    const int alive = fake.alive;
    static const char *const calls[] = {"clCreateBuffer", "clEnqueueWriteBuffer"};
    for (int i = 0; i < 2; i++) {  // the second: it is missing when it is first used
        fake.fails = calls[i], fake.at = 1, fake.with = -4;
        says(ops->alloc(d, 300, &b[1], &err), ERR_UNAVAILABLE, "ALLOCATION_FAILURE");
        assert_null(b[1]);
        assert_int_equal(fake.alive, alive);
        assert_int_equal(ops->memory_free(d), 400);
    }
    ops->release(d, b[0]);
    closed(d);

    // A processor has what the system has; what says nothing is not limited.
    small.type = TYPE_CPU, small.memory = UINT64_MAX;
    d = opened(&small);
    assert_true(ops->memory_free(d) > 0 && ops->memory_free(d) < (uint64_t)1 << 60);
    closed(d);
    small.type = TYPE_GPU, small.memory = small.max_buffer = 0;
    d = opened(&small);
    assert_int_equal(ops->memory_free(d), 0);
    good(ops->alloc(d, 5000, &b[0], &err));
    ops->release(d, b[0]);
    closed(d);
}

// Bytes that a source held when it was given are those that arrive, though it is another's at once.
static void small_writes_do_not_wait(void **state) {
    (void)state;
    enum { PIECE = 1000, N = 2500 };
    Device *d = opened(&plain);
    DeviceBuffer *b;
    uint8_t from[PIECE], got[PIECE];
    good(ops->alloc(d, FAKE_BUFFER, &b, &err));
    const int waits = fake.waits;
    for (int i = 0; i < N; i++) {
        memset(from, i % 251, sizeof from);
        good(ops->write(d, b, (size_t)(i % 1000) * PIECE, from, PIECE, &err));
    }
    // Once for each time that there was no more room.
    assert_int_equal(fake.waits - waits, N * PIECE / STAGING_BYTES);
    for (int i = N - 1000; i < N; i++) {
        good(ops->read(d, b, (size_t)(i % 1000) * PIECE, got, PIECE, &err));
        memset(from, i % 251, sizeof from);
        assert_memory_equal(got, from, PIECE);
    }
    // A read waited for all of them: there is room again.
    const int before = fake.waits;
    for (int i = 0; i < STAGING_BYTES / PIECE; i++) good(ops->write(d, b, 0, from, PIECE, &err));
    assert_int_equal(fake.waits, before);
    good(ops->wait(d, &err));
    for (int i = 0; i < STAGING_BYTES / PIECE; i++) good(ops->write(d, b, 0, from, PIECE, &err));
    assert_int_equal(fake.waits, before + 1);
    // A read that failed waited for none.
    fake.fails = "clEnqueueReadBuffer", fake.at = 1;
    assert_int_equal(ops->read(d, b, 0, got, PIECE, &err), ERR_FAILED);
    good(ops->write(d, b, 0, from, PIECE, &err));
    assert_int_equal(fake.waits, before + 2);
    ops->release(d, b);
    closed(d);  // with a write under way
}

static void large_writes_wait(void **state) {
    (void)state;
    Device *d = opened(&plain);
    DeviceBuffer *b;
    uint8_t *from = room(FAKE_BUFFER), *got = room(FAKE_BUFFER);
    good(ops->alloc(d, FAKE_BUFFER, &b, &err));
    for (size_t n = MOST_STAGED - 1; n <= MOST_STAGED + 1; n++) {
        const int waits = fake.waits;
        memset(from, (int)(n & 255), n);
        good(ops->write(d, b, 0, from, n, &err));
        assert_int_equal(fake.waits - waits, n > MOST_STAGED);
        memset(from, 0, n);
        good(ops->read(d, b, 0, got, n, &err));
        for (size_t i = 0; i < n; i++) assert_int_equal(got[i], n & 255);
    }
    const int writes = fake.n_writes, waits = fake.waits;
    good(ops->write(d, b, 0, from, 0, &err));
    assert_int_equal(fake.n_writes, writes);
    good(ops->copy(d, b, 0, b, 0, 0, &err));
    assert_int_equal(fake.waits, waits);
    good(ops->read(d, b, 0, got, 0, &err));
    assert_int_equal(fake.waits, waits + 1);
    static const char *const calls[] = {"clEnqueueWriteBuffer", "clEnqueueReadBuffer",
                                        "clEnqueueCopyBuffer"};
    static const char *const doing[] = {"writing", "reading", "copying"};
    for (int i = 0; i < 3; i++) {
        fake.fails = calls[i], fake.at = 1, fake.with = -14;
        says(i == 0   ? ops->write(d, b, 0, from, 9, &err)
             : i == 1 ? ops->read(d, b, 0, got, 9, &err)
                      : ops->copy(d, b, 0, b, 100, 9, &err),
             ERR_FAILED, doing[i]);
        assert_non_null(strstr(err.text, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST"));
    }
    ops->release(d, b);
    free(from);
    free(got);
    closed(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_opencl_it_says_why),
        cmocka_unit_test(every_library_is_tried),
        cmocka_unit_test(gpus_come_before_processors),
        cmocka_unit_test(what_cannot_run_the_kernels_is_refused),
        cmocka_unit_test(options_are_those_of_the_device),
        cmocka_unit_test(a_build_that_fails_leaves_nothing),
        cmocka_unit_test(a_launch_passes_every_argument),
        cmocka_unit_test(memory_is_counted),
        cmocka_unit_test(small_writes_do_not_wait),
        cmocka_unit_test(large_writes_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
