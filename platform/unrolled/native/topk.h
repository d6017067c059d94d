/* The largest numbers so far, in descending order, and their indices. */

#include <stdint.h>

/* Inserts a value that is larger than the last of the list; among equals the first one inserted comes first. */
static inline void insert(float value, int64_t index, long count, float *best, int64_t *indices) {
    long i = count - 1;
    for (; i > 0 && best[i - 1] < value; i--) {
        best[i] = best[i - 1];
        indices[i] = indices[i - 1];
    }
    best[i] = value;
    indices[i] = index;
}
