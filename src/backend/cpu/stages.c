// The queue of operations; see stages.h.
#include "backend/cpu/stages.h"

void *stage_push(Stages *q, PoolFn fn, size_t job_bytes, size_t work) {
    CHECK(job_bytes <= STAGE_JOB);
    if (q->n == STAGES) stages_run(q);
    Stage *s = &q->stages[q->n++];
    s->fn = fn;
    s->alone = work < SMALL_WORK;
    return s->job;
}

void *stage_last(Stages *q, PoolFn fn) {
    Stage *s = q->n ? &q->stages[q->n - 1] : NULL;
    return s && s->fn == fn ? s->job : NULL;
}

void stage_drop(Stages *q) {
    CHECK(q->n > 0);
    q->n--;
}

// A barrier stands where the work of one thread meets that of others.
static void run_part(void *arg, int ith, int nth) {
    Stages *q = arg;
    for (int i = 0; i < q->n; i++) {
        Stage *s = &q->stages[i];
        const bool last = i == q->n - 1;
        if (!s->alone)
            s->fn(s->job, ith, nth);
        else if (ith == 0)
            s->fn(s->job, 0, 1);
        if (!last && !(s->alone && q->stages[i + 1].alone)) pool_barrier(q->pool);
    }
}

void stages_run(Stages *q) {
    bool alone = true;
    for (int i = 0; i < q->n; i++) alone = alone && q->stages[i].alone;
    if (alone)
        run_part(q, 0, 1);
    else
        pool_run(q->pool, run_part, q);
    q->n = 0;
}
