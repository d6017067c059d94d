/* Attention, one query a row: the additive score vᵀ tanh(q + k), without keeping what is between; and from any scores to
 * weights and what is seen with them. Rows may share a memory: `owners` says which of them each row looks at; where it is
 * null, each at its own. What is added up in a memory is so by one thread, row by row. */

#include <math.h>
#include <omp.h>
#include <string.h>

#include "numbers.h"

struct additive {
    long threads, batch, memories, positions, features;
    const int64_t *owners; /* (batch) */
    const float *query;    /* (batch, features) */
    const float *keys;     /* (memories, positions, features) */
    const float *vector;   /* (features) */
};

static inline long owner(const int64_t *owners, long row) { return owners ? owners[row] : row; }

static float score(long n, const float *restrict q, const float *restrict k, const float *restrict v) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < n; j++) sum += v[j] * tangent(q[j] + k[j]);
    return sum;
}

/* The derivative, given that of the score; all of `d_q`, `d_k`, `d_v` are added to. */
static void score_back(long n, float error, const float *restrict q, const float *restrict k, const float *restrict v,
                       float *restrict d_q, float *restrict d_k, float *restrict d_v) {
#pragma omp simd
    for (long j = 0; j < n; j++) {
        const float squashed = tangent(q[j] + k[j]);
        const float into = error * v[j] * (1.0f - squashed * squashed);
        d_v[j] += error * squashed;
        d_k[j] += into;
        d_q[j] += into;
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

static void row_errors(const struct additive *p, long row, const float *errors, const float *keys, float *d_q,
                       float *d_keys, float *d_v) {
    const long n = p->features;
    memset(d_q, 0, n * sizeof *d_q);
    for (long place = 0; place < p->positions; place++) {
        if (errors[place] == 0.0f) continue; /* padding */
        score_back(n, errors[place], p->query + row * n, keys + place * n, p->vector, d_q, d_keys + place * n, d_v);
    }
}

/* `errors`: ∂L/∂scores. Fills `d_query` (batch, features); adds to `d_keys` (memories, positions, features) and to
 * `d_vector` (threads, features). */
void additive_errors(const struct additive *p, const float *errors, float *d_query, float *d_keys, float *d_vector) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long memory = 0; memory < p->memories; memory++) {
        const long first = memory * p->positions * n;
        for (long row = p->owners ? 0 : memory; row < (p->owners ? p->batch : memory + 1); row++)
            if (owner(p->owners, row) == memory)
                row_errors(p, row, errors + row * p->positions, p->keys + first, d_query + row * n, d_keys + first,
                           d_vector + omp_get_thread_num() * n);
    }
}

struct look {
    long threads, batch, memories, positions, features;
    const int64_t *owners; /* (batch) */
    const uint8_t *hidden; /* (memories, positions), 1 where nothing may be seen */
    const float *states;   /* (memories, positions, features) */
};

static float product(long n, const float *restrict x, const float *restrict y) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < n; j++) sum += x[j] * y[j];
    return sum;
}

static void add_scaled(long n, float scale, const float *restrict x, float *restrict y) {
#pragma omp simd
    for (long j = 0; j < n; j++) y[j] += scale * x[j];
}

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

/* The derivative of the states: adds to `d_states` (memories, positions, features). */
void seen_back(const struct look *p, const float *weights, const float *into, float *d_states) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long memory = 0; memory < p->memories; memory++)
        for (long row = p->owners ? 0 : memory; row < (p->owners ? p->batch : memory + 1); row++)
            if (owner(p->owners, row) == memory)
                for (long place = 0; place < p->positions; place++)
                    add_scaled(n, weights[row * p->positions + place], into + row * n,
                               d_states + (memory * p->positions + place) * n);
}
