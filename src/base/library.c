// Whether shared libraries can be loaded; see library.h.
#include "base/library.h"

#ifdef __linux__
#include <sys/auxv.h>

bool library_can_load(void) {
    return getauxval(AT_BASE) != 0;  // where the loader is; a static program has none
}
#else
bool library_can_load(void) {
    return true;
}
#endif
