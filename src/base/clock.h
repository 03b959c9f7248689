// Monotonic time, in seconds.
#ifndef PLUMB_BASE_CLOCK_H
#define PLUMB_BASE_CLOCK_H
double clock_seconds(void);
#endif
