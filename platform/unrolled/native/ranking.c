/* The scores of a vocabulary and what a search wants of them, in one pass: logits of many rows, log Σ exp of each and its
 * best entries. Logits are made for a few columns at a time and looked at while they are in the cache; only who asks for
 * them gets them all. Operands are floats, bfloat16 or bytes. A row's numbers do not depend on the rows beside it, nor on
 * the number of threads. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define GROUP 32
#define CHUNK 128   /* columns that are looked at together */
#define SEGMENT 512 /* columns whose sums are added up before they join the others, whoever does them */

#include "topk.h"
#include "mathfun.h"
#include "product.h"
#include "product_dot.h"
#if defined(__AMX_BF16__) && defined(__linux__)
#include "product_half.h"
#else
static int may_multiply_half(void) { return 0; }
#define multiply_half(...)
#endif

enum { FLOATS, HALVES, BYTES };

/* As the fields of `_Rank` in ranks.py. */
struct rank {
    long kind, threads, rows, depth, columns, count;
    const float *weights, *bias; /* (columns, depth), (columns) */
    char *packed;                /* the matrix, by `rank_pack` */
    const float *x;              /* (rows, depth) */
    const uint8_t *excluded;        /* (columns): what is no entry to be found */
    float *sums, *best;          /* (rows), (rows, count) */
    int64_t *places;             /* (rows, count) */
    float *logits;               /* (rows, columns), or none */
    char *scratch;
};

static long up(long number, long step) { return (number + step - 1) / step * step; }

/* Operands have so many summands, the last ones zero. */
static long depth_of(const struct rank *p) { return p->kind == FLOATS ? p->depth : up(p->depth, GROUP); }
static long width_of(const struct rank *p) { return p->kind == FLOATS ? sizeof(float) : p->kind == HALVES ? 2 : 1; }

/* A matrix of bytes is followed by, for each column, its unit and its sum. */
static float *units_of(const struct rank *p) {
    return (float *)(p->packed + up(p->columns, GROUP) * depth_of(p));
}

/* Whether there is fast code for operands of this kind. */
int rank_knows(long kind) {
    return kind == FLOATS || (kind == BYTES ? KNOWS_BYTES : KNOWS_HALVES || may_multiply_half());
}

/* Packs the matrix; without memory for it, returns how much it needs. */
long rank_pack(const struct rank *p) {
    const long depth = depth_of(p), columns = up(p->columns, GROUP), groups = columns / GROUP;
    const long needed = columns * depth * width_of(p) + 2 * columns * sizeof(float);
    if (!p->packed) return needed;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long group = 0; group < groups; group++) {
        const long first = group * GROUP, left = p->columns - first < GROUP ? p->columns - first : GROUP;
        char *into = p->packed + first * depth * width_of(p);
        if (p->kind == FLOATS) {
            pack_float(depth, first, p->columns, p->weights, 1, depth, (float *)into);
        } else if (p->kind == HALVES) {
            pack_pairs(p->depth, left, p->weights + first * p->depth, (half *)into);
        } else {
            float *units = units_of(p) + first;
            pack_bytes(p->depth, left, p->weights + first * p->depth, (int8_t *)into, units, units + columns);
        }
    }
    return needed;
}

/* Where a segment's sums stand: Σ exp(logit − most). */
struct partial {
    float most, sum;
};

/* What the threads share. */
struct work {
    const struct rank *p;
    void *operands;           /* rows as the kind has them */
    float *steps;             /* of rows of bytes: the unit of each */
    struct partial *partials; /* (segments, rows) */
    float *best;              /* (threads, rows, count) */
    int64_t *places;
    float *y;                 /* (threads, rows, CHUNK) */
    int by_unit;              /* halves are multiplied by the matrix unit */
};

static long segments_of(const struct rank *p) { return (p->columns + SEGMENT - 1) / SEGMENT; }

static long plan(const struct rank *p, struct work *w) {
    char *next = p->scratch;
    const long found = p->threads * p->rows * p->count;
    w->p = p;
    w->by_unit = p->kind == HALVES && may_multiply_half();
    w->operands = p->kind == FLOATS ? (void *)p->x : next;
    next += p->kind == FLOATS ? 0 : rounded(p->rows * depth_of(p) * width_of(p));
    w->steps = (float *)next;
    next += rounded(p->rows * sizeof(float));
    w->partials = (struct partial *)next;
    next += rounded(segments_of(p) * p->rows * sizeof(struct partial));
    w->best = (float *)next;
    next += rounded(found * sizeof(float));
    w->places = (int64_t *)next;
    next += rounded(found * sizeof(int64_t));
    w->y = (float *)next;
    return next + p->threads * rounded(p->rows * CHUNK * sizeof(float)) - p->scratch;
}

static void multiply(const struct work *w, long first, long groups, float *y) {
    const struct rank *p = w->p;
    const long depth = depth_of(p);
    const char *packed = p->packed + first * depth * width_of(p);
    if (p->kind == FLOATS) multiply_float(p->rows, depth, p->x, depth, (const float *)packed, groups, y, CHUNK, 0);
    if (p->kind == HALVES && w->by_unit)
        multiply_half(p->rows, depth, w->operands, depth, (const half *)packed, groups, y, CHUNK, 0);
    else if (p->kind == HALVES)
        multiply_pairs(p->rows, depth, w->operands, depth, (const half *)packed, groups, y, CHUNK);
    if (p->kind == BYTES) {
        const float *units = units_of(p) + first;
        multiply_bytes(
            p->rows, depth, w->operands, w->steps, (const int8_t *)packed, units, units + up(p->columns, GROUP), groups, y,
            CHUNK);
    }
}

/* Looks at `width` logits of a row, still without their bias, from column `first` on. */
static void look(
    const struct rank *p, long first, long width, float *restrict y, struct partial *part, float *best, int64_t *places) {
    const float *bias = p->bias + first;
    float most = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : most)
    for (long j = 0; j < width; j++) {
        y[j] += bias[j];
        most = y[j] > most ? y[j] : most;
    }
    const float before = part->most, above = most > before ? most : before;
    if (above == -INFINITY) { /* all impossible, or not a number */
        for (long j = 0; j < width; j++) part->sum += y[j] == -INFINITY ? 0.0f : y[j];
        return;
    }
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < width; j++) sum += exponential(y[j] - above);
    part->most = above;
    part->sum = part->sum * exponential(before - above) + sum;
    if (p->count == 0 || !(most > best[p->count - 1])) return;
    for (long j = 0; j < width; j++)
        if (y[j] > best[p->count - 1] && !p->excluded[first + j]) insert(y[j], first + j, p->count, best, places);
}

static void rank_segments(const struct work *w, long thread, long low, long high) {
    const struct rank *p = w->p;
    float *const y = w->y + thread * rounded(p->rows * CHUNK * sizeof(float)) / sizeof(float);
    float *const best = w->best + thread * p->rows * p->count;
    int64_t *const places = w->places + thread * p->rows * p->count;
    for (long i = 0; i < p->rows * p->count; i++) {
        best[i] = -INFINITY;
        places[i] = 0;
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
                look(p, first, width, own, parts + row, best + row * p->count, places + row * p->count);
                if (p->logits) memcpy(p->logits + row * p->columns + first, own, width * sizeof(float));
            }
        }
    }
}

/* Joins what segments and threads have found of a row, in their order. */
static void join(const struct work *w, long row, long threads) {
    const struct rank *p = w->p;
    float most = -INFINITY, sum = 0.0f;
    for (long segment = 0; segment < segments_of(p); segment++) {
        const struct partial part = w->partials[segment * p->rows + row];
        most = part.most > most ? part.most : most;
    }
    for (long segment = 0; segment < segments_of(p); segment++) {
        const struct partial part = w->partials[segment * p->rows + row];
        sum += part.most == -INFINITY ? part.sum : part.sum * exponential(part.most - most);
    }
    p->sums[row] = most == -INFINITY ? (sum == 0.0f ? -INFINITY : sum) : most == INFINITY ? NAN : most + logarithm(sum);
    float *const best = p->best + row * p->count;
    int64_t *const places = p->places + row * p->count;
    memcpy(best, w->best + row * p->count, p->count * sizeof(float));
    memcpy(places, w->places + row * p->count, p->count * sizeof(int64_t));
    for (long i = 0; i < (threads - 1) * p->count; i++) {
        const long other = (i / p->count + 1) * p->rows * p->count + row * p->count + i % p->count;
        if (w->best[other] > best[p->count - 1]) insert(w->best[other], w->places[other], p->count, best, places);
    }
}

/* Fills sums, best, places and, if asked for, logits; without scratch memory, returns how much it needs. */
long rank_rows(const struct rank *p) {
    struct work w;
    const long needed = plan(p, &w);
    if (!p->scratch) return needed;
#pragma omp parallel num_threads(p->threads) if (p->threads > 1)
    {
        const long thread = omp_get_thread_num(), threads = omp_get_num_threads(), depth = depth_of(p);
        const long low = p->rows * thread / threads, high = p->rows * (thread + 1) / threads;
        for (long row = low; row < high && p->kind != FLOATS; row++) {
            const float *x = p->x + row * p->depth;
            if (p->kind == HALVES) round_row(p->depth, depth, x, (half *)w.operands + row * depth);
            if (p->kind == BYTES) w.steps[row] = quantize_row(p->depth, depth, x, (uint8_t *)w.operands + row * depth);
        }
#pragma omp barrier
        const long segments = segments_of(p);
        rank_segments(&w, thread, segments * thread / threads, segments * (thread + 1) / threads);
#pragma omp barrier
        for (long row = low; row < high; row++) join(&w, row, threads);
    }
    return needed;
}
