/* Functions of long rows that torch computes in many passes: cross-entropy and sampling over a vocabulary, and
 * dropout. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "mathfun.h"

#define PRAGMA(words) _Pragma(#words)
#define SIMD(...) PRAGMA(omp simd __VA_ARGS__)

struct losses {
    long threads, rows, columns;
    float smoothing;
    const float *bias;     /* (columns) */
    const int64_t *target; /* (rows) */
    float *loss;           /* (rows), is filled */
    float *d_bias;         /* (threads, columns), is added to */
};

/* Cross-entropy of one row of logits without their bias; the row becomes ∂loss/∂logits. With label smoothing s the target
 * distribution is 1 − s at the target plus s / columns everywhere. */
static float row_loss(const struct losses *p, float *restrict x, long target, float *restrict d_bias) {
    const long n = p->columns;
    const float floor = p->smoothing / n;
    float most = -3.0e38f, sum = 0.0f, all = 0.0f;
    SIMD(reduction(max : most) reduction(+ : all))
    for (long j = 0; j < n; j++) {
        x[j] += p->bias[j];
        most = x[j] > most ? x[j] : most;
        all += x[j];
    }
    const float wanted = x[target];
    SIMD(reduction(+ : sum))
    for (long j = 0; j < n; j++) sum += x[j] = fast_exp(x[j] - most);
    const float scale = 1.0f / sum;
    SIMD()
    for (long j = 0; j < n; j++) {
        x[j] = x[j] * scale - floor;
        d_bias[j] += x[j];
    }
    x[target] -= 1.0f - p->smoothing;
    d_bias[target] -= 1.0f - p->smoothing;
    const float log_sum = most + fast_log(sum);
    return log_sum - (1.0f - p->smoothing) * wanted - floor * all;
}

void losses_float(const struct losses *p, float *logits) {
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long i = 0; i < p->rows; i++)
        p->loss[i] = row_loss(p, logits + i * p->columns, p->target[i], p->d_bias + omp_get_thread_num() * p->columns);
}

/* `wide`: scratch memory (threads, columns). */
void losses_bf16(const struct losses *p, bf16 *logits, float *wide) {
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long i = 0; i < p->rows; i++) {
        bf16 *const row = logits + i * p->columns;
        float *const x = wide + omp_get_thread_num() * p->columns;
        SIMD()
        for (long j = 0; j < p->columns; j++) x[j] = widen(row[j]);
        p->loss[i] = row_loss(p, x, p->target[i], p->d_bias + omp_get_thread_num() * p->columns);
        SIMD()
        for (long j = 0; j < p->columns; j++) row[j] = narrow(x[j]);
    }
}

/* Whether dropout keeps the value at an index: whether a hash of index and seed (the finalizer of MurmurHash3, twice) is
 * at least `threshold`. The backward pass recomputes it, so that no mask is stored. */
static inline int keeps_value(uint32_t index, uint32_t seed, uint32_t second_seed, uint32_t threshold) {
    uint32_t h = index ^ seed;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    h = (h ^ (h >> 16)) + second_seed;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    return (h ^ (h >> 16)) >= threshold;
}

struct drop {
    long threads, count;
    uint32_t seed, second_seed, threshold;
    float scale;
};

#define PIECE 8192

/* One piece of the indices, with all that the loop reads in locals: the compiler takes vectors only where it can see that
 * nothing written is read again. */
#define DEFINE_DROP(name, type, dropped)                                                             \
    static void name(const struct drop *p, long start, const type *restrict x, type *restrict y) {  \
        const uint32_t seed = p->seed, second_seed = p->second_seed, threshold = p->threshold;                    \
        const float scale = p->scale;                                                               \
        const long count = p->count - start < PIECE ? p->count - start : PIECE;                     \
        SIMD()                                                                                      \
        for (long i = 0; i < count; i++) {                                                          \
            const type value = dropped;                                                              \
            y[i] = keeps_value(start + i, seed, second_seed, threshold) ? value : 0;                           \
        }                                                                                           \
    }

DEFINE_DROP(drop_float, float, x[i] * scale)
DEFINE_DROP(drop_bf16, bf16, narrow(widen(x[i]) * scale))

void dropout_float(const struct drop *p, const float *x, float *y) {
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1 && p->count > 2 * PIECE)
    for (long start = 0; start < p->count; start += PIECE) drop_float(p, start, x + start, y + start);
}

void dropout_bf16(const struct drop *p, const bf16 *x, bf16 *y) {
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1 && p->count > 2 * PIECE)
    for (long start = 0; start < p->count; start += PIECE) drop_bf16(p, start, x + start, y + start);
}

#define BLOCK 128 /* entries whose weights are summed in float32 */

/* exp((x − most) / temperature), 0 for x = -inf. */
static inline float weight(float x, float most, float temperature) {
    return x == -INFINITY ? 0.0f : fast_exp((x - most) / temperature);
}

/* The first index at which the cumulative sum of a row's weights exceeds `uniform` times their total. */
static int64_t sample_row(long n, float temperature, double uniform, const float *x) {
    const long pieces = (n + BLOCK - 1) / BLOCK;
    double sums[pieces + 1];
    float most = -INFINITY;
    SIMD(reduction(max : most))
    for (long j = 0; j < n; j++) most = x[j] > most ? x[j] : most;
    sums[0] = 0.0;
    for (long piece = 0; piece < pieces; piece++) {
        const long stop = (piece + 1) * BLOCK < n ? (piece + 1) * BLOCK : n;
        float sum = 0.0f;
        SIMD(reduction(+ : sum))
        for (long j = piece * BLOCK; j < stop; j++) sum += weight(x[j], most, temperature);
        sums[piece + 1] = sums[piece] + sum;
    }
    const double target = uniform * sums[pieces];
    long piece = 0, last = 0;
    while (piece + 1 < pieces && !(sums[piece + 1] > target)) piece++;
    const long stop = (piece + 1) * BLOCK < n ? (piece + 1) * BLOCK : n;
    double sum = sums[piece];
    for (long j = piece * BLOCK; j < stop; j++) {
        const float own = weight(x[j], most, temperature);
        if (own > 0.0f) last = j;
        sum += own;
        if (sum > target) return j;
    }
    return last; /* summed one by one, a block may be smaller by a rounding error */
}

void sample_rows(
    long threads, long rows, long columns, float temperature, const double *uniforms, const float *x, int64_t *tokens) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long i = 0; i < rows; i++) tokens[i] = sample_row(columns, temperature, uniforms[i], x + i * columns);
}
