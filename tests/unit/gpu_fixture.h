// A device with the GPU's kernels, and buffers on it whose ends are watched.
//
// Include it after cmocka.h. The kernels run on the emulator, where a read or a write past a buffer
// is an error of AddressSanitizer, every launch runs twice with its items in two orders, and each is
// held to wait for the one before; or, as `test_gpu_kernels cuda` says, on a real device.
#ifndef PLUMB_TESTS_GPU_FIXTURE_H
#define PLUMB_TESTS_GPU_FIXTURE_H

#include "backend/gpu/gpu_internal.h"
#include "check.h"
#include "../gpu/emulator.h"

static const double U = 0x1p-24;  // half a unit in the last place of 1

static struct {
    const DeviceOps *ops;
    Device *device;
    DeviceEntry entry[N_KERNELS];
    bool emulated;
    int n_cases, n_random;
    bool is_short;  // of many random cases some are left out
    size_t pad;     // bytes of 0xff (NaN) behind what a buffer has to have
    char what[200];
#ifdef PLUMB_METAL
} gpu = {.ops = &device_metal};
#else
} gpu = {.ops = &device_emulator, .emulated = true};
#endif

#define GPU_ENTRY(name, lanes, n, args) {#name, NULL, lanes, n, sizeof(args)},

static inline void gpu_check(Status st, const Error *err) {
    if (st != OK) fail_msg("%s: %s", gpu.what, err->text);
}

// A group's setup and teardown.
static inline int gpu_setup(void **state) {
    (void)state;
    static const DeviceEntry entries[N_KERNELS] = {GPU_KERNELS(GPU_ENTRY)};
    Error err = {0};
    int n;
    gpu.is_short = getenv("PLUMB_SANITIZE") != NULL;
    memcpy(gpu.entry, entries, sizeof entries);
    snprintf(gpu.what, sizeof gpu.what, "%s", gpu.ops->name);
    gpu_check(gpu.ops->count(&n, &err), &err);
    gpu_check(gpu.ops->open(0, &gpu.device, &err), &err);
    char *source = gpu_source(gpu.ops, ~(u64)0);
    assert_non_null(source);
    gpu_check(gpu.ops->build(gpu.device, source, gpu.entry, N_KERNELS, &err), &err);
    free(source);
    return 0;
}

static inline int gpu_teardown(void **state) {
    (void)state;
    gpu.ops->close(gpu.device);
    assert_int_equal(emulator_counts.n_buffers, 0);
    return 0;
}

// For main: argv may name a device.
static inline bool gpu_named(int argc, char **argv) {
    static const DeviceOps *const all[] = {&device_emulator, &device_cuda, &device_opencl};
    for (size_t i = 0; argc == 2 && i < sizeof all / sizeof *all; i++) {
        if (strcmp(argv[1], all[i]->name) != 0) continue;
        gpu.ops = all[i];
        gpu.emulated = i == 0;
        return true;
    }
    return argc == 1;
}

// One of many random cases: is it left out of a short run? 5 has no common divisor with what goes
// round from case to case.
static inline bool gpu_left_out(void) {
    return gpu.is_short && gpu.n_random++ % 5 >= 2;
}

// Starts a case, which the words name where it fails.
static inline void gpu_case(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline void gpu_case(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(gpu.what, sizeof gpu.what, fmt, ap);
    va_end(ap);
    const int n = gpu.n_cases++;
    gpu.pad = n % 2 ? 4096 : 0;
    if (!gpu.emulated) gpu.pad = 4096;
    emulator_config.order = (GridOrder)(n % 3);
    emulator_config.seed = (uint64_t)n;
    emulator_config.race = emulator_config.overlap = true;
}

// --- buffers -------------------------------------------------------------------------------------

typedef struct {
    DeviceBuffer *b;
    size_t bytes, pad;
} Mem;

// from: NULL: all 0xff, which is NaN. What launches never write: weights, a step.
static inline Mem mem_settled(const void *from, size_t bytes) {
    Mem m = {.bytes = bytes, .pad = gpu.pad};
    Error err = {0};
    uint8_t *all = room(bytes + m.pad);
    if (from) memcpy(all, from, bytes);
    gpu_check(gpu.ops->alloc(gpu.device, bytes + m.pad, &m.b, &err), &err);
    gpu_check(gpu.ops->write(gpu.device, m.b, 0, all, bytes + m.pad, &err), &err);
    free(all);
    return m;
}

// What the launch before may have written.
static inline Mem mem_new(const void *from, size_t bytes) {
    const Mem m = mem_settled(from, bytes);
    if (gpu.emulated) emulator_unsettle(m.b);
    return m;
}

static inline void mem_get(Mem m, void *to) {
    Error err = {0};
    gpu_check(gpu.ops->read(gpu.device, m.b, 0, to, m.bytes, &err), &err);
}

// Looks at what lies behind it.
static inline void mem_free(Mem m) {
    Error err = {0};
    uint8_t *pad = room(m.pad);
    gpu_check(gpu.ops->read(gpu.device, m.b, m.bytes, pad, m.pad, &err), &err);
    for (size_t i = 0; i < m.pad; i++) {
        if (pad[i] != 0xff) fail_msg("%s: byte %zu past a buffer was written", gpu.what, i);
    }
    free(pad);
    gpu.ops->release(gpu.device, m.b);
}

// Reads it into new memory, and frees it.
static inline void *mem_take(Mem m) {
    void *p = room(m.bytes);
    mem_get(m, p);
    mem_free(m);
    return p;
}

static inline void launch(KernelId id, int gx, int gy, int gz, const void *args, int n,
                          const Mem *mem) {
    DeviceLaunch l = {.entry = &gpu.entry[id], .groups = {(u32)gx, (u32)gy, (u32)gz}, .args = args};
    Error err = {0};
    assert_int_equal(n, l.entry->n_buffers);
    for (int i = 0; i < n; i++) l.buffers[i] = mem[i].b;
    gpu_check(gpu.ops->launch(gpu.device, &l, &err), &err);
}

// --- numbers -------------------------------------------------------------------------------------

static inline float *random_floats(Rng *r, size_t n, double scale) {
    float *x = room(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)(scale * (double)rng_normal(r));
    return x;
}

static inline void near(size_t i, float got, double want, double bound) {
    if (!(fabs((double)got - want) <= bound)) {
        fail_msg("%s: number %zu is %.9g, expected %.9g within %.3g", gpu.what, i, (double)got,
                 want, bound);
    }
}

// backend.h's ACT_Q8_0 of n elements, a multiple of 32, with the scales as kernels.h wants them.
typedef struct {
    i8 *codes;
    u32 *scales;  // n / 16 pairs: the bits of d, the sum of 16 codes
} Codes;

static inline Codes codes_of(const float *x, size_t n) {
    Codes c = {room(n), room(n / 16 * 8)};
    for (size_t b = 0; b < n; b += 32) {
        float most = 0;
        bool finite = true;
        for (size_t i = b; i < b + 32; i++) {
            finite = finite && isfinite(x[i]);
            if (fabsf(x[i]) > most) most = fabsf(x[i]);
        }
        const bool fits = finite && most >= 0x1p-100f;
        const float d = fits ? most / 127 : finite ? 0 : bits_float(0x7fc00000);
        for (size_t half = b; half < b + 32; half += 16) {
            i32 sum = 0;
            for (size_t i = half; i < half + 16; i++) {
                c.codes[i] = fits ? (i8)lrintf(x[i] * (127 / most)) : 0;
                sum += c.codes[i];
            }
            c.scales[half / 8] = float_bits(d);
            c.scales[half / 8 + 1] = (u32)sum;
        }
    }
    return c;
}

static inline void codes_free(Codes c) {
    free(c.codes);
    free(c.scales);
}

// Codes and scales on the device are those of x, to the bit. Frees them.
static inline void same_codes(Mem codes, Mem scales, const float *x, size_t n) {
    Codes want = codes_of(x, n);
    i8 *c = mem_take(codes);
    u32 *s = mem_take(scales);
    for (size_t i = 0; i < n; i++) {
        if (c[i] != want.codes[i]) {
            fail_msg("%s: code %zu of %g is %d, expected %d", gpu.what, i, (double)x[i], c[i],
                     want.codes[i]);
        }
    }
    for (size_t i = 0; i < n / 8; i++) {
        if (s[i] != want.scales[i]) {
            fail_msg("%s: scale %zu: word %zu is %08x, expected %08x", gpu.what, i / 2, i % 2, s[i],
                     want.scales[i]);
        }
    }
    free(c);
    free(s);
    codes_free(want);
}

#endif
