/* Sums over a row of numbers. */

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

/* The calling thread's share of a row of `count` numbers, in whole cache lines: each sum is computed by one thread. */
static inline struct span own_span(long count) {
    const long thread = omp_get_thread_num(), threads = omp_get_num_threads(), lines = (count + 15) / 16;
    const long low = lines * thread / threads * 16, high = lines * (thread + 1) / threads * 16;
    return (struct span){low < count ? low : count, high < count ? high : count};
}

/* Fills the calling thread's share of each row with zeros. */
static inline void clear_span(long rows, long size, struct span own, float *x) {
    for (long row = 0; row < rows; row++) memset(x + row * size + own.low, 0, (own.high - own.low) * sizeof *x);
}
