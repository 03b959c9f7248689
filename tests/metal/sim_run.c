// Runs the items of a kernel, each on a fiber.
//
// A SIMD group runs as far as it can before the next one starts, so that a barrier that is missing
// between two of them shows; within one, items meet at each shuffle as they do on a GPU. The groups
// of a grid run one after the other, and each starts with poison in its threadgroup memory.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/fiber.h"
#include "sim.h"
#include "sim_compile.h"

enum { MOST_ITEMS = 1024, LOCAL_POISON = 0xff };

typedef enum { RUNS, AT_BARRIER, AT_SHUFFLE, ENDED } Where;

typedef struct {
    uint32_t lane;
    Where where;
    uint32_t value, mask;  // of a shuffle
} Item;

static Fibers *fibers;
static Item items[MOST_ITEMS];
static Item *current;
static const SimKernel *kernel;
static const uint64_t *arguments;
static uint32_t group[3];

// What the kernels call (metal_stdlib).
void sim_barrier(void) __attribute__((visibility("default")));
uint32_t sim_shuffle_xor(uint32_t x, uint32_t mask) __attribute__((visibility("default")));

void sim_barrier(void) {
    current->where = AT_BARRIER;
    fiber_pause();
}

uint32_t sim_shuffle_xor(uint32_t x, uint32_t mask) {
    Item *self = current;
    self->where = AT_SHUFFLE, self->value = x, self->mask = mask;
    fiber_pause();
    return self->value;
}

static void run_item(void *user) {
    const Item *self = user;
    kernel->item(arguments, group[0], group[1], group[2], self->lane);
}

static void go_on(Item *item) {
    current = item;
    item->where = RUNS;
    if (!fiber_resume(fibers, (int)item->lane)) item->where = ENDED;
}

static const char *shuffle(Item *first, uint32_t n) {
    uint32_t was[MOST_ITEMS];
    for (uint32_t i = 0; i < n; i++) {
        was[i] = first[i].value;
        if (first[i].where != AT_SHUFFLE || first[i].mask != first[0].mask) {
            return "items of a SIMD group part ways at a shuffle";
        }
        if ((i ^ first[i].mask) >= n) return "a shuffle reaches outside the SIMD group";
    }
    for (uint32_t i = 0; i < n; i++) first[i].value = was[i ^ first[i].mask];
    return NULL;
}

// Runs a SIMD group to the next barrier or its end.
static const char *run_simd(Item *first, uint32_t n) {
    for (;;) {
        bool shuffles = false;
        for (uint32_t i = 0; i < n; i++) {
            if (first[i].where != ENDED) go_on(&first[i]);
            shuffles |= first[i].where == AT_SHUFFLE;
        }
        if (!shuffles) return NULL;
        const char *wrong = shuffle(first, n);
        if (wrong) return wrong;
    }
}

static const char *run_group(uint32_t lanes, uint32_t width) {
    for (int i = 0; i < kernel->n_locals; i++) {
        memset(kernel->locals[i].at, LOCAL_POISON, kernel->locals[i].bytes);
    }
    for (uint32_t i = 0; i < lanes; i++) {
        items[i] = (Item){.lane = i};
        fiber_start(fibers, (int)i, run_item, &items[i]);
    }
    for (;;) {
        for (uint32_t i = 0; i < lanes; i += width) {
            const char *wrong = run_simd(&items[i], lanes - i < width ? lanes - i : width);
            if (wrong) return wrong;
        }
        for (uint32_t i = 1; i < lanes; i++) {
            if (items[i].where != items[0].where) return "items of a group part ways at a barrier";
        }
        if (items[0].where == ENDED) return NULL;
    }
}

const char *sim_run(const SimKernel *k, const uint32_t groups[3], uint32_t lanes, uint32_t width,
                    const uint64_t *args) {
    if (lanes > MOST_ITEMS) return "too many items";
    if (!fibers) fibers = fibers_new(MOST_ITEMS);
    if (!fibers) return "out of memory for stacks";
    kernel = k, arguments = args;
    const char *wrong = NULL;
    for (uint32_t z = 0; z < groups[2]; z++) {
        for (uint32_t y = 0; y < groups[1]; y++) {
            for (uint32_t x = 0; x < groups[0] && !wrong; x++) {
                group[0] = x, group[1] = y, group[2] = z;
                wrong = run_group(lanes, width);
            }
        }
    }
    return wrong;
}
