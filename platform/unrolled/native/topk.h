/* A list of the best numbers so far, falling, and their places. */

#include <stdint.h>

/* Puts what is better than the worst of the best into its place; of equals the first stays ahead. */
static inline void insert(float value, int64_t place, long count, float *best, int64_t *places) {
    long i = count - 1;
    for (; i > 0 && best[i - 1] < value; i--) {
        best[i] = best[i - 1];
        places[i] = places[i - 1];
    }
    best[i] = value;
    places[i] = place;
}
