/* Element-wise part of a step of every cell, as `step_forward` and `step_backward` do it in Python.
 *
 * A function computes the units of one group in the rows of the batch that are valid at this step; the state of the
 * other rows passes unchanged. This file is compiled once per type that gates are stored in: STORED names it, LOAD and
 * STORE convert it to float and back, NAME appends it to a function's name. Letters as in the cells' equations; y is the
 * result of the recurrent product, d_ stands for a gradient.
 */

struct NAME(part) {
    long rows, units, size;
    const int64_t *valid; /* batch indices of the rows, plus `base`, ascending; null: 0, 1, 2, … */
    long base, batch;
    STORED *gates, *saved; /* (rows, gates · size), (rows, size) */
    long gates_row;
    const float *y; /* (rows, blocks · GROUP) */
    long y_row;
    const float *extra;     /* peepholes (3, size), or the bias inside the reset (size) */
    long z_gates_candidate; /* whether z weights the candidate in the new state */
    const float *errors;    /* ∂L/∂output (batch, …), rows errors_row apart */
    long errors_row;
    /* all (batch, size): */
    const float *h, *c;
    float *h2, *c2;
    STORED *operand, *tanh_h2; /* h2 and tanh(h2) for the products of the next step, if those do not read h2 itself */
    float *d_h, *d_c;          /* ∂L/∂h2 from later steps, then the part of ∂L/∂h that bypasses the products */
};
typedef const struct NAME(part) *NAME(in);

#define ROWS for (long b = 0; b < p->rows; b++)
#define UNITS _Pragma("omp simd") for (long j = 0; j < p->units; j++)
#define ROW                                                                                \
    const long size = p->size, row = NAME(batch_row)(p, b), at = row * size;               \
    STORED *const g = p->gates + b * p->gates_row;                                         \
    const float *const u = p->y + b * p->y_row;                                            \
    const float *const h = p->h + at, *const errors = p->errors + row * p->errors_row;     \
    float *const h2 = p->h2 + at, *const d_h = p->d_h + at;                                \
    (void)size, (void)g, (void)u, (void)h, (void)errors, (void)h2, (void)d_h

static inline long NAME(batch_row)(NAME(in) p, long b) { return p->valid ? p->valid[b] - p->base : b; }

/* The first batch row from `row` on that is not valid; *b: the first entry of `valid` to compare, is advanced. */
static long NAME(next_skipped)(NAME(in) p, long row, long *b) {
    if (p->rows == p->batch) return p->batch;
    for (; *b < p->rows && p->valid[*b] - p->base == row; row++) ++*b;
    return row;
}

#define SKIPPED_ROWS \
    for (long i = 0, b = NAME(next_skipped)(p, 0, &i); b < p->batch; b = NAME(next_skipped)(p, b + 1, &i))

/* Begins the backward step: the gradient of a skipped row is carried on. */
static void NAME(skip_backward)(NAME(in) p) {
    SKIPPED_ROWS {
        float *const d_h = p->d_h + b * p->size;
        const float *const errors = p->errors + b * p->errors_row;
        UNITS d_h[j] += errors[j];
    }
}

static void NAME(rnn_forward)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS h2[j] = fast_tanh(LOAD(g[j]) + u[j]);
    }
}

static void NAME(rnn_backward)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            g[j] = STORE((d_h[j] + errors[j]) * (1.0f - h2[j] * h2[j]));
            d_h[j] = 0.0f;
        }
    }
}

static void NAME(irnn_forward)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            float a = LOAD(g[j]) + u[j];
            h2[j] = a < 0.0f ? 0.0f : a;
        }
    }
}

static void NAME(irnn_backward)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            g[j] = STORE(h2[j] > 0.0f ? d_h[j] + errors[j] : 0.0f);
            d_h[j] = 0.0f;
        }
    }
}

/* `extra` is p_i, p_f, p_o; zeros for the LSTM without peepholes. */
static void NAME(lstm_forward)(NAME(in) p) {
    ROWS {
        ROW;
        const float *const c = p->c + at, *const peep = p->extra;
        float *const c2 = p->c2 + at;
        UNITS {
            float in = sigmoid(LOAD(g[j]) + u[j] + peep[j] * c[j]);
            float forget = sigmoid(LOAD(g[size + j]) + u[GROUP + j] + peep[size + j] * c[j]);
            float candidate = fast_tanh(LOAD(g[2 * size + j]) + u[2 * GROUP + j]);
            float new = forget * c[j] + in * candidate;
            float out = sigmoid(LOAD(g[3 * size + j]) + u[3 * GROUP + j] + peep[2 * size + j] * new);
            g[j] = STORE(in);
            g[size + j] = STORE(forget);
            g[2 * size + j] = STORE(candidate);
            g[3 * size + j] = STORE(out);
            c2[j] = new;
            h2[j] = out * fast_tanh(new);
        }
    }
}

static void NAME(lstm_backward)(NAME(in) p) {
    ROWS {
        ROW;
        const float *const c = p->c + at, *const c2 = p->c2 + at, *const peep = p->extra;
        float *const d_c = p->d_c + at;
        UNITS {
            float in = LOAD(g[j]), forget = LOAD(g[size + j]);
            float candidate = LOAD(g[2 * size + j]), out = LOAD(g[3 * size + j]);
            float tanh_c = fast_tanh(c2[j]), error = d_h[j] + errors[j];
            float d_out = error * tanh_c * out * (1.0f - out);
            float d_new = d_c[j] + error * out * (1.0f - tanh_c * tanh_c) + d_out * peep[2 * size + j];
            float d_in = d_new * candidate * in * (1.0f - in);
            float d_forget = d_new * c[j] * forget * (1.0f - forget);
            g[j] = STORE(d_in);
            g[size + j] = STORE(d_forget);
            g[2 * size + j] = STORE(d_new * in * (1.0f - candidate * candidate));
            g[3 * size + j] = STORE(d_out);
            d_c[j] = d_new * forget + d_in * peep[j] + d_forget * peep[size + j];
            d_h[j] = 0.0f;
        }
    }
}

/* `saved` becomes U_n h + c_n. */
static void NAME(gru_forward)(NAME(in) p) {
    ROWS {
        ROW;
        STORED *const saved = p->saved + b * size;
        UNITS {
            float r = sigmoid(LOAD(g[j]) + u[j]), z = sigmoid(LOAD(g[size + j]) + u[GROUP + j]);
            float s = u[2 * GROUP + j] + p->extra[j];
            float n = fast_tanh(LOAD(g[2 * size + j]) + r * s);
            g[j] = STORE(r);
            g[size + j] = STORE(z);
            g[2 * size + j] = STORE(n);
            saved[j] = STORE(s);
            h2[j] = n + z * (h[j] - n);
        }
    }
}

/* `saved` becomes the gradient of U_n h + c_n. */
static void NAME(gru_backward)(NAME(in) p) {
    ROWS {
        ROW;
        STORED *const saved = p->saved + b * size;
        UNITS {
            float r = LOAD(g[j]), z = LOAD(g[size + j]), n = LOAD(g[2 * size + j]), error = d_h[j] + errors[j];
            float d_n = error * (1.0f - z) * (1.0f - n * n);
            g[j] = STORE(d_n * LOAD(saved[j]) * r * (1.0f - r));
            g[size + j] = STORE(error * (h[j] - n) * z * (1.0f - z));
            g[2 * size + j] = STORE(d_n);
            saved[j] = STORE(d_n * r);
            d_h[j] = error * z;
        }
    }
}

/* Reset before the product, first part: the gates r and z with the product y, and r ⊙ h. */
static void NAME(reset_gates)(NAME(in) p) {
    ROWS {
        ROW;
        STORED *const saved = p->saved + b * size;
        if (p->y_row > GROUP) {
            UNITS g[size + j] = STORE(sigmoid(LOAD(g[size + j]) + u[GROUP + j]));
        } else {
            UNITS g[size + j] = STORE(sigmoid(LOAD(g[size + j])));
        }
        UNITS {
            float r = sigmoid(LOAD(g[j]) + u[j]);
            g[j] = STORE(r);
            saved[j] = STORE(r * h[j]);
        }
    }
}

/* Second part: the candidate and the new state. */
static void NAME(reset_mix)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            float n = fast_tanh(LOAD(g[2 * size + j]) + u[j]), z = LOAD(g[size + j]);
            g[2 * size + j] = STORE(n);
            h2[j] = h[j] + (p->z_gates_candidate ? z : 1.0f - z) * (n - h[j]);
        }
    }
}

static void NAME(reset_mix_backward)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            float z = LOAD(g[size + j]), n = LOAD(g[2 * size + j]), error = d_h[j] + errors[j];
            float weight = p->z_gates_candidate ? z : 1.0f - z, d_weight = error * (n - h[j]);
            g[size + j] = STORE((p->z_gates_candidate ? d_weight : -d_weight) * z * (1.0f - z));
            g[2 * size + j] = STORE(error * weight * (1.0f - n * n));
            d_h[j] = error * (1.0f - weight);
        }
    }
}

/* y is the gradient of r ⊙ h. */
static void NAME(reset_gates_backward)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            float r = LOAD(g[j]);
            d_h[j] += u[j] * r;
            g[j] = STORE(u[j] * h[j] * r * (1.0f - r));
        }
    }
}

/* y is the gradient of h, or of tanh(h). */
static void NAME(add_product)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS d_h[j] += u[j];
    }
}

static void NAME(add_tanh_product)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            float tanh_h = fast_tanh(h[j]);
            d_h[j] += u[j] * (1.0f - tanh_h * tanh_h);
        }
    }
}

/* Ends a step: skipped rows keep their state, and the operands of the next step are computed. */
static void NAME(finish)(NAME(in) p) {
    SKIPPED_ROWS {
        const long at = b * p->size;
        memcpy(p->h2 + at, p->h + at, p->units * sizeof(float));
        if (p->c) memcpy(p->c2 + at, p->c + at, p->units * sizeof(float));
    }
    for (long b = 0; p->operand && b < p->batch; b++) {
        const float *const h2 = p->h2 + b * p->size;
        STORED *const operand = p->operand + b * p->size;
        UNITS operand[j] = STORE(h2[j]);
    }
    for (long b = 0; p->tanh_h2 && b < p->batch; b++) {
        const float *const h2 = p->h2 + b * p->size;
        STORED *const tanh_h2 = p->tanh_h2 + b * p->size;
        UNITS tanh_h2[j] = STORE(fast_tanh(h2[j]));
    }
}
