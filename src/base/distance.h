// How far apart two words are: for "did you mean".
#ifndef PLUMB_BASE_DISTANCE_H
#define PLUMB_BASE_DISTANCE_H

#include <stddef.h>

enum { DISTANCE_MAX = 32 };

// Letters to change, add or drop to make b of a (Levenshtein 1966). Words of more than
// DISTANCE_MAX bytes are that far from everything.
int word_distance(const char *a, size_t a_len, const char *b, size_t b_len);

#endif
