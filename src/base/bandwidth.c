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

enum { STREAMS = 4, LINE = 64, AHEAD = 2048 };

// Several streams at once, and lines asked for before they are needed: one core then has as many
// reads under way as it can.
static void read_part(void *arg, int ith, int nth) {
    ReadJob *j = arg;
    long from, to;
    pool_split((long)(j->bytes / LINE), STREAMS, ith, nth, &from, &to);
    const long each = (to - from) / STREAMS;
    typedef uint64_t u64x2 __attribute__((vector_size(16)));
    u64x2 sum[STREAMS] = {{0}};
    for (long i = 0; i < each; i++) {
        for (int s = 0; s < STREAMS; s++) {
            const unsigned char *p = j->data + LINE * (from + s * each + i);
            u64x2 line[LINE / 16];
            __builtin_prefetch(p + AHEAD);
            memcpy(line, p, LINE);
            sum[s] += (line[0] + line[1]) + (line[2] + line[3]);
        }
    }
    for (int s = 1; s < STREAMS; s++) sum[0] += sum[s];
    if (sum[0][0] == 1) j->sink = sum[0][1];
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
