/* The additive score of attention, vᵀ tanh(q + k), without keeping what is between. */

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
