/* Sums over the numbers of a row. */

#include <omp.h>
#include <string.h>

static inline float product(long n, const float *restrict x, const float *restrict y) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < n; j++) sum += x[j] * y[j];
    return sum;
}

static inline void add_scaled(long n, float scale, const float *restrict x, float *restrict y) {
#pragma omp simd
    for (long j = 0; j < n; j++) y[j] += scale * x[j];
}

struct span {
    long low, high;
};

/* A thread's own of so many numbers of a row, in whole lines of the cache: what is added up there is so by one thread. */
static inline struct span own_span(long count) {
    const long thread = omp_get_thread_num(), threads = omp_get_num_threads(), lines = (count + 15) / 16;
    const long low = lines * thread / threads * 16, high = lines * (thread + 1) / threads * 16;
    return (struct span){low < count ? low : count, high < count ? high : count};
}

/* Fills a thread's own numbers of each row with zeros. */
static inline void clear_span(long rows, long size, struct span own, float *x) {
    for (long row = 0; row < rows; row++) memset(x + row * size + own.low, 0, (own.high - own.low) * sizeof *x);
}
