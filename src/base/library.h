// Can this program load shared libraries while it runs?
#ifndef PLUMB_BASE_LIBRARY_H
#define PLUMB_BASE_LIBRARY_H

#include <stdbool.h>

// False of a program that is linked statically: there dlopen() may bring in a second C library, and
// crash.
bool library_can_load(void);

#endif
