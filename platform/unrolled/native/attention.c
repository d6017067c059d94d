/* Attention, one query a row: the additive score vᵀ tanh(q + k), without keeping what is between; and from any scores to
 * weights and what is seen with them. Rows may share a memory: `owners` says which of them each row looks at; where it is
 * null, each at its own. What is added up in a memory is so by one thread, row by row.
 *
 * tanh(q + k) = 1 − 2 / (1 + e^2q e^2k), so that queries and keys are given by their `powers`: for every pair of them that
 * leaves a product and a quotient. */

#include <math.h>
#include <omp.h>
#include <string.h>

#include "mathfun.h"
#include "reduce.h"

struct additive {
    long threads, batch, memories, positions, features;
    const int64_t *owners; /* (batch) */
    const float *query;    /* powers (batch, features) */
    const float *keys;     /* powers (memories, positions, features) */
    const float *vector;   /* (features) */
};

#define PIECE 4096

/* e^2x; of x beyond ±43 as of ±43, so that no product of two of them is 0 · ∞. */
void powers(long threads, long count, const float *x, float *y) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && count > 2 * PIECE)
    for (long start = 0; start < count; start += PIECE) {
        const long stop = count - start < PIECE ? count : start + PIECE;
#pragma omp simd
        for (long i = start; i < stop; i++) {
            float twice = 2.0f * x[i];
            twice = twice > 86.0f ? 86.0f : twice;
            y[i] = exponential(twice < -86.0f ? -86.0f : twice);
        }
    }
}

/* Fills y (memories, places + 1, features) with tanh(x) and, behind every memory's places, `last` (features). */
void squashed(long threads, long memories, long places, long features, const float *x, const float *last, float *y) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long at = 0; at < memories * (places + 1); at++) {
        const long memory = at / (places + 1), place = at % (places + 1);
        const float *const from = x + (at - memory) * features;
        float *const to = y + at * features;
        if (place == places) {
            memcpy(to, last, features * sizeof *to);
            continue;
        }
#pragma omp simd
        for (long j = 0; j < features; j++) to[j] = tangent(from[j]);
    }
}

/* The derivative of x, given that of y, `errors`. */
void squashed_back(
    long threads, long memories, long places, long features, const float *y, const float *errors, float *d_x) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long at = 0; at < memories * places; at++) {
        const long from = (at + at / places) * features;
        const float *const squashed = y + from, *const error = errors + from;
        float *const to = d_x + at * features;
#pragma omp simd
        for (long j = 0; j < features; j++) to[j] = error[j] * (1.0f - squashed[j] * squashed[j]);
    }
}

static inline float squash(float q, float k) { return 1.0f - 2.0f / (1.0f + q * k); }

static inline long owner(const int64_t *owners, long row) { return owners ? owners[row] : row; }

static float score(long n, const float *restrict q, const float *restrict k, const float *restrict v) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < n; j++) sum += v[j] * squash(q[j], k[j]);
    return sum;
}

/* The derivative of a score, without v: adds error (1 − tanh²) to that of q, or of k and error tanh to that of v, or to
 * all. */
static void query_back(long n, float error, const float *restrict q, const float *restrict k, float *restrict d_q) {
#pragma omp simd
    for (long j = 0; j < n; j++) {
        const float squashed = squash(q[j], k[j]);
        d_q[j] += error * (1.0f - squashed * squashed);
    }
}

static void key_back(
    long n, float error, const float *restrict q, const float *restrict k, float *restrict d_k, float *restrict d_v) {
#pragma omp simd
    for (long j = 0; j < n; j++) {
        const float squashed = squash(q[j], k[j]);
        d_k[j] += error * (1.0f - squashed * squashed);
        d_v[j] += error * squashed;
    }
}

static void both_back(
    long n, float error, const float *restrict q, const float *restrict k, float *restrict d_q, float *restrict d_k,
    float *restrict d_v) {
#pragma omp simd
    for (long j = 0; j < n; j++) {
        const float squashed = squash(q[j], k[j]), step = error * (1.0f - squashed * squashed);
        d_q[j] += step;
        d_k[j] += step;
        d_v[j] += error * squashed;
    }
}

/* Fills `scores` (batch, positions). */
void additive_scores(const struct additive *p, float *scores) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        const float *const keys = p->keys + owner(p->owners, row) * p->positions * n;
        for (long place = 0; place < p->positions; place++)
            scores[row * p->positions + place] = score(n, p->query + row * n, keys + place * n, p->vector);
    }
}

/* `errors`: ∂L/∂scores. Fills `d_query` (batch, features). */
void additive_queries(const struct additive *p, const float *errors, float *d_query) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        const float *const keys = p->keys + owner(p->owners, row) * p->positions * n;
        const float *const e = errors + row * p->positions;
        float *const d_q = d_query + row * n;
        memset(d_q, 0, n * sizeof *d_q);
        for (long place = 0; place < p->positions; place++)
            if (e[place] != 0.0f) query_back(n, e[place], p->query + row * n, keys + place * n, d_q); /* else padding */
        for (long j = 0; j < n; j++) d_q[j] *= p->vector[j];
    }
}

/* Features [low, high) of `additive_keys`. */
static void keys_of(
    const struct additive *p, long steps, const float *errors, long low, long high, float *d_query, float *d_keys,
    float *d_vector) {
    const long n = p->features, places = p->positions, width = high - low;
    const float *const v = p->vector + low;
    for (long row = 0; d_query && row < p->batch; row++) memset(d_query + row * n + low, 0, width * sizeof *d_query);
    memset(d_vector + low, 0, width * sizeof *d_vector);
    for (long at = 0; at < p->memories * places; at++) {
        const long memory = at / places, place = at % places;
        const float *const k = p->keys + at * n + low;
        float *const d_k = d_keys + at * n + low;
        memset(d_k, 0, width * sizeof *d_k);
        for (long row = p->owners ? 0 : memory; row < (p->owners ? p->batch : memory + 1); row++) {
            if (owner(p->owners, row) != memory) continue;
            for (long look = row; look < steps * p->batch; look += p->batch) {
                const float error = errors[look * places + place], *const q = p->query + look * n + low;
                if (error == 0.0f) continue;
                if (d_query) both_back(width, error, q, k, d_query + row * n + low, d_k, d_vector + low);
                else key_back(width, error, q, k, d_k, d_vector + low);
            }
        }
        for (long j = 0; j < width; j++) d_k[j] *= v[j];
    }
    for (long row = 0; d_query && row < p->batch; row++)
        for (long j = 0; j < width; j++) d_query[row * n + low + j] *= v[j];
}

/* Of `steps` queries (steps, batch, features) a row and ∂L/∂scores (steps, batch, positions): fills `d_keys` (memories,
 * positions, features) and `d_vector` (features), and of a single step `d_query` (batch, features) unless it is null. A
 * key is read once for all that look at it. Each thread has features of its own. */
void additive_keys(
    const struct additive *p, long steps, const float *errors, float *d_query, float *d_keys, float *d_vector) {
#pragma omp parallel num_threads(p->threads) if (p->threads > 1)
    {
        const struct span own = own_span(p->features);
        keys_of(p, steps, errors, own.low, own.high, d_query, d_keys, d_vector);
    }
}

struct look {
    long threads, batch, memories, positions, features;
    const int64_t *owners; /* (batch) */
    const uint8_t *hidden; /* (memories, positions), 1 where nothing may be seen */
    const float *states;   /* (memories, positions, features) */
};

/* Scores become weights, their softmax over what is not hidden. */
static void weigh(long n, const uint8_t *hidden, float *restrict w) {
    float most = -INFINITY, sum = 0.0f;
    for (long p = 0; p < n; p++) most = !hidden[p] && w[p] > most ? w[p] : most;
    for (long p = 0; p < n; p++) sum += w[p] = hidden[p] ? 0.0f : exponential(w[p] - most);
    for (long p = 0; p < n; p++) w[p] /= sum;
}

/* `weights` (batch, positions) holds scores and is given weights; fills `contexts` (batch, features). */
void look(const struct look *p, float *weights, float *contexts) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        const long first = owner(p->owners, row) * p->positions;
        float *const w = weights + row * p->positions;
        weigh(p->positions, p->hidden + first, w);
        memset(contexts + row * n, 0, n * sizeof *contexts);
        for (long place = 0; place < p->positions; place++)
            add_scaled(n, w[place], p->states + (first + place) * n, contexts + row * n);
    }
}

/* `errors` (batch, positions) holds ∂L/∂weights without what goes through the contexts, and is given ∂L/∂scores.
 * `into`: ∂L/∂contexts (batch, features). */
void look_back(const struct look *p, const float *weights, const float *into, float *errors) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        float mean = 0.0f;
        const float *const states = p->states + owner(p->owners, row) * p->positions * n;
        const float *const w = weights + row * p->positions;
        float *const e = errors + row * p->positions;
        for (long place = 0; place < p->positions; place++) {
            e[place] += product(n, states + place * n, into + row * n);
            mean += w[place] * e[place];
        }
        for (long place = 0; place < p->positions; place++) e[place] = w[place] * (e[place] - mean);
    }
}

/* Of `steps` looks, `weights` (steps, batch, positions) and `into` (steps, batch, features): fills `d_states` (memories,
 * positions, features). */
void seen_back(const struct look *p, long steps, const float *weights, const float *into, float *d_states) {
    const long n = p->features, places = p->positions;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long at = 0; at < p->memories * places; at++) {
        const long memory = at / places, place = at % places;
        memset(d_states + at * n, 0, n * sizeof *d_states);
        for (long row = p->owners ? 0 : memory; row < (p->owners ? p->batch : memory + 1); row++) {
            if (owner(p->owners, row) != memory) continue;
            for (long look = row; look < steps * p->batch; look += p->batch)
                add_scaled(n, weights[look * places + place], into + look * n, d_states + at * n);
        }
    }
}
