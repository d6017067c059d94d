/* What a step computes element by element, in one pass over its memory, rows shared out to threads.
 *
 * The functions are the element-wise parts of `step_forward` and `step_backward` of the cells, line for line, where
 * torch would take a pass over the memory for every operation. float32 alone. `b` counts rows (the batch), `size` is
 * the hidden size, and a row of gates is as long as the cell has gates. Letters as in the cells' equations; y is what
 * the recurrent product gave, d_ stands for a gradient.
 */

#include <string.h>

#define ROWS for (long b = 0; b < batch; b++)
#define COLUMNS for (long j = 0; j < size; j++)
#define PARALLEL _Pragma("omp parallel for num_threads(threads) if (threads > 1)")
#define SIMD _Pragma("omp simd")
#define SHAPE long threads, long batch, long size
#define IN const float *restrict
#define OUT float *restrict

/* exp by the polynomial of Cephes (Moshier), within 2 units in the last place; NaN stays NaN. */
static inline float exponential(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float n = x * 1.44269504088896341f;
    n = n + 12582912.0f; /* 1.5 · 2^23: rounds to a whole number */
    n = n - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    int bits = ((int)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
static inline float tangent(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

void rnn_forward(SHAPE, IN gates, IN y, OUT h2) {
    PARALLEL ROWS { SIMD COLUMNS h2[b * size + j] = tangent(gates[b * size + j] + y[b * size + j]); }
}

void rnn_backward(SHAPE, OUT gates, IN h2, IN d_h) {
    PARALLEL ROWS { SIMD COLUMNS gates[b * size + j] = d_h[b * size + j] * (1.0f - h2[b * size + j] * h2[b * size + j]); }
}

void irnn_forward(SHAPE, IN gates, IN y, OUT h2) {
    PARALLEL ROWS {
        SIMD COLUMNS {
            float a = gates[b * size + j] + y[b * size + j];
            h2[b * size + j] = a < 0.0f ? 0.0f : a;
        }
    }
}

void irnn_backward(SHAPE, OUT gates, IN h2, IN d_h) {
    PARALLEL ROWS { SIMD COLUMNS gates[b * size + j] = h2[b * size + j] > 0.0f ? d_h[b * size + j] : 0.0f; }
}

/* `peepholes` is p_i, p_f, p_o in a row; zeros for the LSTM without. */
void lstm_forward(SHAPE, OUT gates, IN y, IN peepholes, IN c, OUT h2, OUT c2) {
    PARALLEL ROWS {
        float *restrict g = gates + b * 4 * size;
        const float *restrict u = y + b * 4 * size;
        SIMD COLUMNS {
            float old = c[b * size + j];
            float in = sigmoid(g[j] + u[j] + peepholes[j] * old);
            float forget = sigmoid(g[size + j] + u[size + j] + peepholes[size + j] * old);
            float candidate = tangent(g[2 * size + j] + u[2 * size + j]);
            float new = forget * old + in * candidate;
            float out = sigmoid(g[3 * size + j] + u[3 * size + j] + peepholes[2 * size + j] * new);
            g[j] = in;
            g[size + j] = forget;
            g[2 * size + j] = candidate;
            g[3 * size + j] = out;
            c2[b * size + j] = new;
            h2[b * size + j] = out * tangent(new);
        }
    }
}

void lstm_backward(SHAPE, OUT gates, IN peepholes, IN c, IN c2, IN d_h, OUT d_c) {
    PARALLEL ROWS {
        float *restrict g = gates + b * 4 * size;
        SIMD COLUMNS {
            float in = g[j], forget = g[size + j], candidate = g[2 * size + j], out = g[3 * size + j];
            float squashed = tangent(c2[b * size + j]), error = d_h[b * size + j];
            float d_out = error * squashed * out * (1.0f - out);
            float d_new = d_c[b * size + j] + error * out * (1.0f - squashed * squashed) + d_out * peepholes[2 * size + j];
            float d_in = d_new * candidate * in * (1.0f - in);
            float d_forget = d_new * c[b * size + j] * forget * (1.0f - forget);
            g[j] = d_in;
            g[size + j] = d_forget;
            g[2 * size + j] = d_new * in * (1.0f - candidate * candidate);
            g[3 * size + j] = d_out;
            d_c[b * size + j] = d_new * forget + d_in * peepholes[j] + d_forget * peepholes[size + j];
        }
    }
}

/* `reset` is left as U_n h + c_n. */
void gru_forward(SHAPE, OUT gates, IN y, IN bias, IN h, OUT reset, OUT h2) {
    PARALLEL ROWS {
        float *restrict g = gates + b * 3 * size;
        const float *restrict u = y + b * 3 * size;
        SIMD COLUMNS {
            float r = sigmoid(g[j] + u[j]), z = sigmoid(g[size + j] + u[size + j]);
            float s = u[2 * size + j] + bias[j];
            float n = tangent(g[2 * size + j] + r * s);
            g[j] = r;
            g[size + j] = z;
            g[2 * size + j] = n;
            reset[b * size + j] = s;
            h2[b * size + j] = n + z * (h[b * size + j] - n);
        }
    }
}

/* `reset` becomes the gradient of U_n h + c_n, `errors` those of all three products, `kept` what passes by them. */
void gru_backward(SHAPE, OUT gates, OUT reset, IN h, IN d_h, OUT errors, OUT kept) {
    PARALLEL ROWS {
        float *restrict g = gates + b * 3 * size;
        float *restrict e = errors + b * 3 * size;
        SIMD COLUMNS {
            float r = g[j], z = g[size + j], n = g[2 * size + j], error = d_h[b * size + j];
            float d_n = error * (1.0f - z) * (1.0f - n * n);
            float d_z = error * (h[b * size + j] - n) * z * (1.0f - z);
            float d_r = d_n * reset[b * size + j] * r * (1.0f - r);
            g[j] = e[j] = d_r;
            g[size + j] = e[size + j] = d_z;
            g[2 * size + j] = d_n;
            reset[b * size + j] = e[2 * size + j] = d_n * r;
            kept[b * size + j] = error * z;
        }
    }
}

/* Reset before the product. First half: the gates r and z, and r ⊙ h. `y` holds `width` blocks, r's and perhaps z's;
 * `more` is what z gets besides, or null. */
void reset_gates(SHAPE, long width, OUT gates, IN y, IN more, IN h, OUT reset) {
    PARALLEL ROWS {
        float *restrict g = gates + b * 3 * size;
        const float *restrict u = y + b * width * size;
        const float *restrict v = width == 2 ? u + size : more ? more + b * size : 0;
        if (v) {
            SIMD COLUMNS g[size + j] += v[j];
        }
        SIMD COLUMNS {
            float r = sigmoid(g[j] + u[j]);
            g[j] = r;
            g[size + j] = sigmoid(g[size + j]);
            reset[b * size + j] = r * h[b * size + j];
        }
    }
}

/* Second half: the candidate, and the new state; z is the share of the candidate in it where `writes`. */
void reset_mix(SHAPE, long writes, OUT gates, IN y, IN h, OUT h2) {
    PARALLEL ROWS {
        float *restrict g = gates + b * 3 * size;
        SIMD COLUMNS {
            float n = tangent(g[2 * size + j] + y[b * size + j]), old = h[b * size + j];
            float share = writes ? g[size + j] : 1.0f - g[size + j];
            g[2 * size + j] = n;
            h2[b * size + j] = old + share * (n - old);
        }
    }
}

void reset_mix_backward(SHAPE, long writes, OUT gates, IN h, IN d_h, OUT kept) {
    PARALLEL ROWS {
        float *restrict g = gates + b * 3 * size;
        SIMD COLUMNS {
            float z = g[size + j], n = g[2 * size + j], error = d_h[b * size + j];
            float share = writes ? z : 1.0f - z, d_share = error * (n - h[b * size + j]);
            g[size + j] = (writes ? d_share : -d_share) * z * (1.0f - z);
            g[2 * size + j] = error * share * (1.0f - n * n);
            kept[b * size + j] = error * (1.0f - share);
        }
    }
}

/* `d_reset` is the gradient of r ⊙ h. */
void reset_gates_backward(SHAPE, OUT gates, IN d_reset, IN h, OUT kept) {
    PARALLEL ROWS {
        float *restrict g = gates + b * 3 * size;
        SIMD COLUMNS {
            float r = g[j], error = d_reset[b * size + j];
            kept[b * size + j] += error * r;
            g[j] = error * h[b * size + j] * r * (1.0f - r);
        }
    }
}
