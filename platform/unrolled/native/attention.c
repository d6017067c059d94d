/* Attention of one query per row: the additive score vᵀ tanh(q + k) without storing the tanh, then from any scores to
 * weights and contexts. Several rows may read the same source (an encoder output): `source_index` gives each row's
 * source; null: row i reads source i. What is summed over the rows of a source is summed by one thread, in row order.
 *
 * tanh(q + k) = 1 − 2 / (1 + e^2q e^2k), so queries and keys are passed as `exp_2x` of their values: each pair then
 * takes one product and one quotient. */

#include <math.h>
#include <omp.h>
#include <string.h>

#include "mathfun.h"

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

struct additive {
    long threads, batch, sources, positions, features;
    const int64_t *source_index; /* (batch) */
    const float *query;          /* exp_2x, (batch, features) */
    const float *keys;           /* exp_2x, (sources, positions, features) */
    const float *vector;         /* (features) */
};

#define PIECE 4096

/* y = e^2x, with x clamped to ±43 so that no product of two results is 0 · ∞. */
void exp_2x(long threads, long count, const float *x, float *y) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && count > 2 * PIECE)
    for (long start = 0; start < count; start += PIECE) {
        const long stop = count - start < PIECE ? count : start + PIECE;
#pragma omp simd
        for (long i = start; i < stop; i++) {
            float twice = 2.0f * x[i];
            twice = twice > 86.0f ? 86.0f : twice;
            y[i] = fast_exp(twice < -86.0f ? -86.0f : twice);
        }
    }
}

static inline float tanh_of(float q, float k) { return 1.0f - 2.0f / (1.0f + q * k); }

static inline long source_of(const int64_t *source_index, long row) { return source_index ? source_index[row] : row; }

static float score(long n, const float *restrict q, const float *restrict k, const float *restrict v) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < n; j++) sum += v[j] * tanh_of(q[j], k[j]);
    return sum;
}

/* Derivatives of a score without the factor v: add error (1 − tanh²) to the gradient of q or k, and error tanh to the
 * gradient of v. */
static void score_backward_query(long n, float error, const float *restrict q, const float *restrict k, float *restrict d_q) {
#pragma omp simd
    for (long j = 0; j < n; j++) {
        const float t = tanh_of(q[j], k[j]);
        d_q[j] += error * (1.0f - t * t);
    }
}

static void score_backward_key(
    long n, float error, const float *restrict q, const float *restrict k, float *restrict d_k, float *restrict d_v) {
#pragma omp simd
    for (long j = 0; j < n; j++) {
        const float t = tanh_of(q[j], k[j]);
        d_k[j] += error * (1.0f - t * t);
        d_v[j] += error * t;
    }
}

static void score_backward(
    long n, float error, const float *restrict q, const float *restrict k, float *restrict d_q, float *restrict d_k,
    float *restrict d_v) {
#pragma omp simd
    for (long j = 0; j < n; j++) {
        const float t = tanh_of(q[j], k[j]), step = error * (1.0f - t * t);
        d_q[j] += step;
        d_k[j] += step;
        d_v[j] += error * t;
    }
}

/* Fills `scores` (batch, positions). */
void additive_scores(const struct additive *p, float *scores) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        const float *const keys = p->keys + source_of(p->source_index, row) * p->positions * n;
        for (long position = 0; position < p->positions; position++)
            scores[row * p->positions + position] = score(n, p->query + row * n, keys + position * n, p->vector);
    }
}

/* Fills `d_query` (batch, features), given ∂L/∂scores in `errors` (batch, positions). */
void additive_backward_query(const struct additive *p, const float *errors, float *d_query) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        const float *const keys = p->keys + source_of(p->source_index, row) * p->positions * n;
        const float *const e = errors + row * p->positions;
        float *const d_q = d_query + row * n;
        memset(d_q, 0, n * sizeof *d_q);
        for (long position = 0; position < p->positions; position++)
            if (e[position] != 0.0f) /* zero: padding */
                score_backward_query(n, e[position], p->query + row * n, keys + position * n, d_q);
        for (long j = 0; j < n; j++) d_q[j] *= p->vector[j];
    }
}

/* Features [low, high) of `additive_backward_keys`. */
static void backward_keys_slice(
    const struct additive *p, long steps, const float *errors, long low, long high, float *d_query, float *d_keys,
    float *d_vector) {
    const long n = p->features, positions = p->positions, width = high - low;
    const float *const v = p->vector + low;
    for (long row = 0; d_query && row < p->batch; row++) memset(d_query + row * n + low, 0, width * sizeof *d_query);
    memset(d_vector + low, 0, width * sizeof *d_vector);
    for (long at = 0; at < p->sources * positions; at++) {
        const long source = at / positions, position = at % positions;
        const float *const k = p->keys + at * n + low;
        float *const d_k = d_keys + at * n + low;
        memset(d_k, 0, width * sizeof *d_k);
        for (long row = p->source_index ? 0 : source; row < (p->source_index ? p->batch : source + 1); row++) {
            if (source_of(p->source_index, row) != source) continue;
            for (long row_of_step = row; row_of_step < steps * p->batch; row_of_step += p->batch) {
                const float error = errors[row_of_step * positions + position], *const q = p->query + row_of_step * n + low;
                if (error == 0.0f) continue;
                if (d_query) score_backward(width, error, q, k, d_query + row * n + low, d_k, d_vector + low);
                else score_backward_key(width, error, q, k, d_k, d_vector + low);
            }
        }
        for (long j = 0; j < width; j++) d_k[j] *= v[j];
    }
    for (long row = 0; d_query && row < p->batch; row++)
        for (long j = 0; j < width; j++) d_query[row * n + low + j] *= v[j];
}

/* Given queries (steps, batch, features) and ∂L/∂scores (steps, batch, positions), fills `d_keys` (sources, positions,
 * features) and `d_vector` (features); for a single step also `d_query` (batch, features) unless it is null. A key is
 * read once for all its queries. Threads share out the features. */
void additive_backward_keys(
    const struct additive *p, long steps, const float *errors, float *d_query, float *d_keys, float *d_vector) {
#pragma omp parallel num_threads(p->threads) if (p->threads > 1)
    {
        /* Slices are whole cache lines. */
        const long n = p->features, lines = (n + 15) / 16, thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const long low = lines * thread / threads * 16, high = lines * (thread + 1) / threads * 16;
        backward_keys_slice(p, steps, errors, low < n ? low : n, high < n ? high : n, d_query, d_keys, d_vector);
    }
}

struct attention {
    long threads, batch, sources, positions, features;
    const int64_t *source_index; /* (batch) */
    const uint8_t *masked;       /* (sources, positions), 1 on padding */
    const float *states;         /* (sources, positions, features) */
};

/* Replaces scores by their softmax over the positions that are not masked. */
static void masked_softmax(long n, const uint8_t *masked, float *restrict w) {
    float most = -INFINITY, sum = 0.0f;
    for (long p = 0; p < n; p++) most = !masked[p] && w[p] > most ? w[p] : most;
    for (long p = 0; p < n; p++) sum += w[p] = masked[p] ? 0.0f : fast_exp(w[p] - most);
    for (long p = 0; p < n; p++) w[p] /= sum;
}

/* Replaces the scores in `weights` (batch, positions) by weights; fills `contexts` (batch, features). */
void attention_forward(const struct attention *p, float *weights, float *contexts) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        const long first = source_of(p->source_index, row) * p->positions;
        float *const w = weights + row * p->positions;
        masked_softmax(p->positions, p->masked + first, w);
        memset(contexts + row * n, 0, n * sizeof *contexts);
        for (long position = 0; position < p->positions; position++)
            add_scaled(n, w[position], p->states + (first + position) * n, contexts + row * n);
    }
}

/* Replaces ∂L/∂weights in `errors` (batch, positions), without its part through the contexts, by ∂L/∂scores, given
 * `d_contexts` (batch, features). */
void attention_backward_scores(
    const struct attention *p, const float *weights, const float *d_contexts, float *errors) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        float mean = 0.0f;
        const float *const states = p->states + source_of(p->source_index, row) * p->positions * n;
        const float *const w = weights + row * p->positions;
        float *const e = errors + row * p->positions;
        for (long position = 0; position < p->positions; position++) {
            e[position] += product(n, states + position * n, d_contexts + row * n);
            mean += w[position] * e[position];
        }
        for (long position = 0; position < p->positions; position++) e[position] = w[position] * (e[position] - mean);
    }
}

/* Fills `d_states` (sources, positions, features), given `weights` (steps, batch, positions) and `d_contexts` (steps,
 * batch, features). */
void attention_backward_states(
    const struct attention *p, long steps, const float *weights, const float *d_contexts, float *d_states) {
    const long n = p->features, positions = p->positions;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long at = 0; at < p->sources * positions; at++) {
        const long source = at / positions, position = at % positions;
        memset(d_states + at * n, 0, n * sizeof *d_states);
        for (long row = p->source_index ? 0 : source; row < (p->source_index ? p->batch : source + 1); row++) {
            if (source_of(p->source_index, row) != source) continue;
            for (long row_of_step = row; row_of_step < steps * p->batch; row_of_step += p->batch)
                add_scaled(n, weights[row_of_step * positions + position], d_contexts + row_of_step * n, d_states + at * n);
        }
    }
}
