// Word distance; see distance.h.
#include "base/distance.h"

int word_distance(const char *a, size_t a_len, const char *b, size_t b_len) {
    int row[DISTANCE_MAX + 1];
    if (a_len > DISTANCE_MAX || b_len > DISTANCE_MAX) return DISTANCE_MAX;
    for (size_t j = 0; j <= b_len; j++) row[j] = (int)j;
    for (size_t i = 1; i <= a_len; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= b_len; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            int other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = change < other ? change : other;
        }
    }
    return row[b_len];
}
