/* A step of Adam and of the moving averages behind it, in one pass over the parameters; and the norm of gradients. */

#include <math.h>
#include <omp.h>

/* As the fields of `_Descent` in descent.py: tensors one after the other, all float. */
struct descent {
    long threads, count, decoupled;
    double rate, momentum, second_momentum, epsilon, decay, factor, follow;
    const long *sizes;
    float *const *parameters, *const *gradients, *const *means, *const *squares, *const *steps;
    float *const *averages; /* null: none */
};

#define PIECE 4096

/* What is the same for all numbers of a tensor. */
struct pace {
    float momentum, other, second, other_second, loss, kept, rate, root, epsilon, factor;
};

static void descend_piece(
    long n, const struct pace c, const float *restrict gradient, float *restrict x, float *restrict mean,
    float *restrict square) {
#pragma omp simd
    for (long i = 0; i < n; i++) {
        const float g = gradient[i] * c.factor + c.loss * x[i];
        const float m = c.momentum * mean[i] + c.other * g, v = c.second * square[i] + c.other_second * g * g;
        mean[i] = m;
        square[i] = v;
        x[i] = c.kept * x[i] - c.rate * m / (sqrtf(v) * c.root + c.epsilon);
    }
}

static void follow_piece(long n, float share, const float *restrict x, float *restrict average) {
#pragma omp simd
    for (long i = 0; i < n; i++) average[i] += share * (x[i] - average[i]);
}

/* Gradients count `factor` times. `decay` pulls at the parameters themselves where it is `decoupled`, else at the gradients
 * (Loshchilov & Hutter 2019); averages go the share `follow` of the way to the parameters. */
void descend(const struct descent *p) {
#pragma omp parallel num_threads(p->threads) if (p->threads > 1)
    for (long t = 0; t < p->count; t++) {
        const double step = *p->steps[t] + 1.0;
        const struct pace pace = {
            .momentum = p->momentum, .other = 1.0 - p->momentum,
            .second = p->second_momentum, .other_second = 1.0 - p->second_momentum,
            .loss = p->decoupled ? 0.0 : p->decay, .kept = p->decoupled ? 1.0 - p->rate * p->decay : 1.0,
            .rate = p->rate / (1.0 - pow(p->momentum, step)),
            .root = 1.0 / sqrt(1.0 - pow(p->second_momentum, step)),
            .epsilon = p->epsilon, .factor = p->factor,
        };
#pragma omp for schedule(static)
        for (long start = 0; start < p->sizes[t]; start += PIECE) {
            const long n = p->sizes[t] - start < PIECE ? p->sizes[t] - start : PIECE;
            float *const x = p->parameters[t] + start;
            descend_piece(n, pace, p->gradients[t] + start, x, p->means[t] + start, p->squares[t] + start);
            if (p->averages) follow_piece(n, p->follow, x, p->averages[t] + start);
        }
#pragma omp single
        *p->steps[t] = step;
    }
}

static float squares(long n, const float *x) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

/* Σ x² over tensors, the same whatever the threads: pieces are added up in their order. `sums`, to work in: one a piece of
 * the largest tensor. */
double square_sum(long threads, long count, const long *sizes, const float *const *tensors, double *sums) {
    double sum = 0.0;
    for (long t = 0; t < count; t++) {
        const long pieces = (sizes[t] + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (long i = 0; i < pieces; i++)
            sums[i] = squares(i + 1 < pieces ? PIECE : sizes[t] - i * PIECE, tensors[t] + i * PIECE);
        for (long i = 0; i < pieces; i++) sum += sums[i];
    }
    return sum;
}
