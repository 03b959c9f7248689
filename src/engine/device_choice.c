// Choosing a backend; see device_choice.h.
#include "engine/device_choice.h"

typedef struct {
    const Model *m;
    const DeviceWish *wish;
    const BackendOps *(*at)(int);
    DeviceModel **out;
} Choice;

static bool is_cpu(const BackendOps *ops) {
    return strcmp(ops->name, "cpu") == 0;
}

static const BackendOps *find(const Choice *c, const char *name) {
    const BackendOps *ops;
    for (int i = 0; (ops = c->at(i)); i++) {
        if (strcmp(ops->name, name) == 0) return ops;
    }
    return NULL;
}

static DeviceSpec cpu_spec(const Choice *c) {
    const DeviceWish *w = c->wish;
    return (DeviceSpec){
        find(c, "cpu"),
        {.n_threads = w->n_threads, .isa = w->isa, .no_repack = w->no_repack, .notice = w->notice}};
}

static Status on_cpu(const Choice *c, Error *err) {
    const DeviceSpec cpu = cpu_spec(c);
    CHECK(cpu.ops);
    return device_model_open(c->m, cpu.ops, &cpu.config, c->out, err);
}

static Status on_gpu(const Choice *c, const BackendOps *ops, Error *err) {
    const DeviceWish *w = c->wish;
    const DeviceSplit split = {
        .lower = cpu_spec(c),
        .upper = {ops, {.n_threads = w->n_threads, .device = w->device, .notice = w->notice}},
        .n_upper = w->gpu_layers ? w->gpu_layers : c->m->h.n_layers + 1,
        .fewer = !w->backend && !w->gpu_layers,
    };
    return device_model_split(c->m, &split, c->out, err);
}

// The processor is one device.
static Status check_cpu_device(const DeviceWish *w, Error *err) {
    if (w->device <= 0) return OK;
    return error_set(err, ERR_UNAVAILABLE,
                     "there is no device %d, the cpu backend has device 0 alone; --list-devices "
                     "shows those of all backends",
                     w->device);
}

static Status probe(const BackendOps *ops, Error *err) {
    Text devices = {0};
    Status st = ops->probe(&devices, err);
    text_free(&devices);
    return st;
}

static Status open_named(const Choice *c, Error *err) {
    const DeviceWish *w = c->wish;
    const BackendOps *ops = find(c, w->backend);
    if (!ops) {
        return error_set(
            err, ERR_UNAVAILABLE,
            "this build has no backend named '%s'; `plumb backends` lists those it has",
            w->backend);
    }
    if (is_cpu(ops) && w->gpu_layers > 0) {
        return error_set(err, ERR_USAGE,
                         "-ngl %d puts layers on a GPU and --backend cpu uses none; leave one of "
                         "the two out",
                         w->gpu_layers);
    }
    if (is_cpu(ops)) {
        Status st = check_cpu_device(w, err);
        return st ? st : on_cpu(c, err);
    }
    if (w->gpu_layers >= 0) return on_gpu(c, ops, err);
    Status st = probe(ops, err);  // it has nothing to do, but is it there?
    if (st) return st;
    notice_say(w->notice, "-ngl 0 leaves %s nothing to compute; the CPU computes all layers",
               ops->name);
    return on_cpu(c, err);
}

static Status open_default(const Choice *c, Error *err) {
    const DeviceWish *w = c->wish;
    const BackendOps *ops;
    for (int i = 0; w->gpu_layers >= 0 && (ops = c->at(i)); i++) {
        Error why = {0};
        if (is_cpu(ops) || probe(ops, NULL) || !ops->by_default()) continue;
        Status st = on_gpu(c, ops, &why);
        if (st && (st == ERR_FILE || w->gpu_layers > 0) && err) *err = why;
        if (!st || st == ERR_FILE || w->gpu_layers > 0) return st;
        notice_say(w->notice, "%s is not used: %s", ops->name, why.text);
    }
    if (w->gpu_layers > 0) {
        notice_say(w->notice,
                   "-ngl %d: there is no GPU that can be used here (`plumb backends` says why); "
                   "the CPU computes all layers",
                   w->gpu_layers);
    }
    Status st = check_cpu_device(w, err);
    return st ? st : on_cpu(c, err);
}

Status device_choose(const Model *m, const DeviceWish *wish, const BackendOps *(*at)(int),
                     DeviceModel **out, Error *err) {
    const Choice c = {m, wish, at, out};
    *out = NULL;
    return wish->backend ? open_named(&c, err) : open_default(&c, err);
}
