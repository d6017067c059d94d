/* Logits over a vocabulary, their log Σ exp and their largest entries, in one pass. Logits are computed for a few columns
 * at a time and processed while they are in the cache; all of them are stored only on request. Operands are float32
 * or bfloat16. A row's results depend neither on the other rows nor on the number of threads. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define GROUP 32
#define CHUNK 128   /* columns that are processed together */
#define SEGMENT 512 /* columns whose sums are computed before they are added to the others, by whichever thread */

#include "mathfun.h"
#include "packed_matmul.h"
#if defined(__AMX_BF16__) && defined(__linux__)
#include "packed_matmul_amx.h"
#else
#define multiply_bf16(...)
#endif

/* As the fields of `_Rank` in vocabulary.py. */
struct rank {
    long use_bf16; /* operands are bfloat16, multiplied by the matrix unit; else float32 */
    long threads, rows, depth, columns, count;
    const float *weights, *bias; /* (columns, depth), (columns) */
    char *packed;                /* the matrix as packed by `rank_pack` */
    const float *x;              /* (rows, depth) */
    const uint8_t *excluded;        /* (columns), 1 for columns left out of `best` */
    float *sums, *best;          /* (rows), (rows, count) */
    int64_t *indices;             /* (rows, count) */
    float *logits;               /* (rows, columns), or null */
    char *scratch;
};

static long up(long number, long step) { return (number + step - 1) / step * step; }

/* Summands of a product, padded with zeros. */
static long depth_of(const struct rank *p) { return p->use_bf16 ? up(p->depth, GROUP) : p->depth; }
static long width_of(const struct rank *p) { return p->use_bf16 ? sizeof(bf16) : sizeof(float); }

static void round_row(long depth, long padded, const float *restrict x, bf16 *restrict y) {
    for (long k = 0; k < depth; k++) y[k] = narrow(x[k]);
    for (long k = depth; k < padded; k++) y[k] = 0;
}

/* Packs `width` columns, rows of `weights` (width, depth), and zeros up to GROUP: as `pack_bf16`, the left and the right
 * half of every 32 × 32 block, each as 16 rows of 16 pairs. */
static void pack_pairs(long depth, long width, const float *weights, bf16 *restrict packed) {
    const long padded = up(depth, GROUP);
    for (long k = 0; k < padded; k += GROUP)
        for (long side = 0; side < GROUP; side += 16)
            for (long i = k; i < k + GROUP; i += 2)
                for (long j = side; j < side + 16; j++, packed += 2) {
                    packed[0] = j < width && i < depth ? narrow(weights[j * depth + i]) : 0;
                    packed[1] = j < width && i + 1 < depth ? narrow(weights[j * depth + i + 1]) : 0;
                }
}

/* Packs the matrix; with `packed` null, returns the memory it needs. */
long rank_pack(const struct rank *p) {
    const long depth = depth_of(p), columns = up(p->columns, GROUP), groups = columns / GROUP;
    const long needed = columns * depth * width_of(p);
    if (!p->packed) return needed;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long group = 0; group < groups; group++) {
        const long first = group * GROUP, left = p->columns - first < GROUP ? p->columns - first : GROUP;
        char *into = p->packed + first * depth * width_of(p);
        if (p->use_bf16) pack_pairs(p->depth, left, p->weights + first * p->depth, (bf16 *)into);
        else pack_float(depth, first, p->columns, p->weights, 1, depth, (float *)into);
    }
    return needed;
}

/* Partial result of a segment: Σ exp(logit − most). */
struct partial {
    float most, sum;
};

/* Memory shared by the threads. */
struct work {
    const struct rank *p;
    bf16 *operands;           /* rows as bfloat16 */
    struct partial *partials; /* (segments, rows) */
    float *best;              /* (threads, rows, count) */
    int64_t *indices;
    float *y;                 /* (threads, rows, CHUNK) */
};

static long segments_of(const struct rank *p) { return (p->columns + SEGMENT - 1) / SEGMENT; }

static long plan(const struct rank *p, struct work *w) {
    char *next = p->scratch;
    const long found = p->threads * p->rows * p->count;
    w->p = p;
    w->operands = (bf16 *)next;
    next += p->use_bf16 ? rounded(p->rows * depth_of(p) * sizeof(bf16)) : 0;
    w->partials = (struct partial *)next;
    next += rounded(segments_of(p) * p->rows * sizeof(struct partial));
    w->best = (float *)next;
    next += rounded(found * sizeof(float));
    w->indices = (int64_t *)next;
    next += rounded(found * sizeof(int64_t));
    w->y = (float *)next;
    return next + p->threads * rounded(p->rows * CHUNK * sizeof(float)) - p->scratch;
}

static void multiply(const struct work *w, long first, long groups, float *y) {
    const struct rank *p = w->p;
    const long depth = depth_of(p);
    const char *packed = p->packed + first * depth * width_of(p);
    if (p->use_bf16) multiply_bf16(p->rows, depth, w->operands, depth, (const bf16 *)packed, groups, y, CHUNK, 0);
    else multiply_float(p->rows, depth, p->x, depth, (const float *)packed, groups, y, CHUNK, 0);
}

/* Inserts a value that is larger than the last of the largest so far, in descending order; among equals the first one
 * inserted comes first. */
static inline void insert(float value, int64_t index, long count, float *best, int64_t *indices) {
    long i = count - 1;
    for (; i > 0 && best[i - 1] < value; i--) {
        best[i] = best[i - 1];
        indices[i] = indices[i - 1];
    }
    best[i] = value;
    indices[i] = index;
}

/* Adds the bias to `width` logits of a row from column `first` on, and updates its sum and its largest entries. */
static void scan_logits(
    const struct rank *p, long first, long width, float *restrict y, struct partial *part, float *best, int64_t *indices) {
    const float *bias = p->bias + first;
    float most = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : most)
    for (long j = 0; j < width; j++) {
        y[j] += bias[j];
        most = y[j] > most ? y[j] : most;
    }
    const float before = part->most, above = most > before ? most : before;
    if (above == -INFINITY) { /* all -inf or NaN */
        for (long j = 0; j < width; j++) part->sum += y[j] == -INFINITY ? 0.0f : y[j];
        return;
    }
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < width; j++) sum += fast_exp(y[j] - above);
    part->most = above;
    part->sum = part->sum * fast_exp(before - above) + sum;
    if (p->count == 0 || !(most > best[p->count - 1])) return;
    for (long j = 0; j < width; j++)
        if (y[j] > best[p->count - 1] && !p->excluded[first + j]) insert(y[j], first + j, p->count, best, indices);
}

static void rank_segments(const struct work *w, long thread, long low, long high) {
    const struct rank *p = w->p;
    float *const y = w->y + thread * rounded(p->rows * CHUNK * sizeof(float)) / sizeof(float);
    float *const best = w->best + thread * p->rows * p->count;
    int64_t *const indices = w->indices + thread * p->rows * p->count;
    for (long i = 0; i < p->rows * p->count; i++) {
        best[i] = -INFINITY;
        indices[i] = 0;
    }
    for (long segment = low; segment < high; segment++) {
        struct partial *const parts = w->partials + segment * p->rows;
        const long stop = (segment + 1) * SEGMENT < p->columns ? (segment + 1) * SEGMENT : p->columns;
        for (long row = 0; row < p->rows; row++) parts[row] = (struct partial){-INFINITY, 0.0f};
        for (long first = segment * SEGMENT; first < stop; first += CHUNK) {
            const long width = stop - first < CHUNK ? stop - first : CHUNK;
            multiply(w, first, (width + GROUP - 1) / GROUP, y);
            for (long row = 0; row < p->rows; row++) {
                float *const own = y + row * CHUNK;
                scan_logits(p, first, width, own, parts + row, best + row * p->count, indices + row * p->count);
                if (p->logits) memcpy(p->logits + row * p->columns + first, own, width * sizeof(float));
            }
        }
    }
}

/* Merges the results of segments and threads for a row, in their order. */
static void join(const struct work *w, long row, long threads) {
    const struct rank *p = w->p;
    float most = -INFINITY, sum = 0.0f;
    for (long segment = 0; segment < segments_of(p); segment++) {
        const struct partial part = w->partials[segment * p->rows + row];
        most = part.most > most ? part.most : most;
    }
    for (long segment = 0; segment < segments_of(p); segment++) {
        const struct partial part = w->partials[segment * p->rows + row];
        sum += part.most == -INFINITY ? part.sum : part.sum * fast_exp(part.most - most);
    }
    p->sums[row] = most == -INFINITY ? (sum == 0.0f ? -INFINITY : sum) : most == INFINITY ? NAN : most + fast_log(sum);
    float *const best = p->best + row * p->count;
    int64_t *const indices = p->indices + row * p->count;
    memcpy(best, w->best + row * p->count, p->count * sizeof(float));
    memcpy(indices, w->indices + row * p->count, p->count * sizeof(int64_t));
    for (long i = 0; i < (threads - 1) * p->count; i++) {
        const long other = (i / p->count + 1) * p->rows * p->count + row * p->count + i % p->count;
        if (w->best[other] > best[p->count - 1]) insert(w->best[other], w->indices[other], p->count, best, indices);
    }
}

/* Fills sums, best, indices and, unless null, logits; with `scratch` null, returns the memory it needs. */
long rank_rows(const struct rank *p) {
    struct work w;
    const long needed = plan(p, &w);
    if (!p->scratch) return needed;
#pragma omp parallel num_threads(p->threads) if (p->threads > 1)
    {
        const long thread = omp_get_thread_num(), threads = omp_get_num_threads(), depth = depth_of(p);
        const long low = p->rows * thread / threads, high = p->rows * (thread + 1) / threads;
        for (long row = low; row < high && p->use_bf16; row++)
            round_row(p->depth, depth, p->x + row * p->depth, w.operands + row * depth);
#pragma omp barrier
        const long segments = segments_of(p);
        rank_segments(&w, thread, segments * thread / threads, segments * (thread + 1) / threads);
#pragma omp barrier
        for (long row = low; row < high; row++) join(&w, row, threads);
    }
    return needed;
}
