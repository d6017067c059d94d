/* Attention, one query a row: the additive score vᵀ tanh(q + k), without keeping what is between; and from any scores to
 * weights and what is seen with them. */

#include <math.h>
#include <omp.h>
#include <string.h>

#include "numbers.h"

struct additive {
    long threads, batch, positions, features;
    const float *query;  /* (batch, features) */
    const float *keys;   /* (batch, positions, features) */
    const float *vector; /* (features) */
};

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
    for (long place = 0; place < p->batch * p->positions; place++)
        scores[place] = score(n, p->query + place / p->positions * n, p->keys + place * n, p->vector);
}

/* `errors`: ∂L/∂scores. Fills `d_query` (batch, features); adds to `d_keys` (batch, positions, features) and to
 * `d_vector` (threads, features). */
void additive_errors(const struct additive *p, const float *errors, float *d_query, float *d_keys, float *d_vector) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        float *const d_q = d_query + row * n, *const d_v = d_vector + omp_get_thread_num() * n;
        memset(d_q, 0, n * sizeof *d_q);
        for (long place = row * p->positions; place < (row + 1) * p->positions; place++) {
            if (errors[place] == 0.0f) continue; /* padding */
            score_back(n, errors[place], p->query + row * n, p->keys + place * n, p->vector, d_q, d_keys + place * n, d_v);
        }
    }
}

struct look {
    long threads, batch, positions, features;
    const uint8_t *hidden; /* (batch, positions), 1 where nothing may be seen */
    const float *states;   /* (batch, positions, features) */
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
        const long first = row * p->positions;
        weigh(p->positions, p->hidden + first, weights + first);
        memset(contexts + row * n, 0, n * sizeof *contexts);
        for (long place = first; place < first + p->positions; place++)
            add_scaled(n, weights[place], p->states + place * n, contexts + row * n);
    }
}

/* `errors` (batch, positions) holds ∂L/∂weights without what goes through the contexts, and is given ∂L/∂scores.
 * `into`: ∂L/∂contexts (batch, features). */
void look_back(const struct look *p, const float *weights, const float *into, float *errors) {
    const long n = p->features;
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long row = 0; row < p->batch; row++) {
        float mean = 0.0f;
        const long first = row * p->positions, last = first + p->positions;
        for (long place = first; place < last; place++) {
            errors[place] += product(n, p->states + place * n, into + row * n);
            mean += weights[place] * errors[place];
        }
        for (long place = first; place < last; place++) errors[place] = weights[place] * (errors[place] - mean);
    }
}
