// Memory bandwidth; see bandwidth.h.
#include "base/bandwidth.h"

#include <stdint.h>
#include <string.h>

#include "base/clock.h"

typedef struct {
    const unsigned char *data;
    size_t bytes;
    volatile uint64_t sink;  // so that nothing is optimised away
} ReadJob;

static void read_part(void *arg, int ith, int nth) {
    ReadJob *j = arg;
    long from, to;
    pool_split((long)(j->bytes / 64), 1, ith, nth, &from, &to);
    uint64_t sum[8] = {0}, line[8];
    for (long i = from; i < to; i++) {
        memcpy(line, j->data + 64 * i, 64);
        for (int k = 0; k < 8; k++) sum[k] += line[k];
    }
    for (int k = 1; k < 8; k++) sum[0] += sum[k];
    if (sum[0] == 1) j->sink = sum[0];
}

double bandwidth_read(Pool *p, const void *data, size_t bytes, double seconds) {
    ReadJob job = {data, bytes / 64 * 64, 0};
    double best = 0, start = clock_seconds(), now = start;
    do {
        double before = now;
        pool_run(p, read_part, &job);
        now = clock_seconds();
        double rate = (double)job.bytes / (now - before) / 1e9;
        best = rate > best ? rate : best;
    } while (now - start < seconds);
    return best;
}
