/* What a step of every cell computes element by element, as `step_forward` and `step_backward` do in Python.
 *
 * A function sees to the units of one group in the rows of the batch that have a step to take; the state of the others
 * passes unchanged. This file is compiled once for each type that gates
 * are kept in: KEPT names it, LOAD and STORE turn it to float and back, NAME adds it to the name of a function. Letters
 * as in the cells' equations; y is what the recurrent product gave, d_ stands for a gradient.
 */

struct NAME(part) {
    long rows, units, size;
    const int64_t *places; /* of the rows in the batch, counted from `base` and rising; null: from 0 on */
    long base, batch;
    KEPT *gates, *saved; /* (rows, gates · size), (rows, size) */
    long gates_row;
    const float *y; /* (rows, blocks · GROUP) */
    long y_row;
    const float *extra; /* peepholes (3, size), or the bias inside the reset (size) */
    long writes;        /* whether z is the share of the candidate in the new state */
    const float *errors; /* ∂L/∂output (batch, …), rows errors_row apart */
    long errors_row;
    /* (batch, size) all: */
    const float *h, *c;
    float *h2, *c2;
    KEPT *operand, *squashed; /* h2 and tanh(h2) for the next step's products, where those do not read h2 itself */
    float *d_h, *d_c;         /* ∂L/∂h2 from the steps behind, and then what of ∂L/∂h passes by the products */
};
typedef const struct NAME(part) *NAME(in);

#define ROWS for (long b = 0; b < p->rows; b++)
#define UNITS _Pragma("omp simd") for (long j = 0; j < p->units; j++)
#define ROW                                                                      \
    const long size = p->size, place = NAME(place_of)(p, b), at = place * size;     \
    KEPT *const g = p->gates + b * p->gates_row;                                 \
    const float *const u = p->y + b * p->y_row;                                  \
    const float *const h = p->h + at, *const errors = p->errors + place * p->errors_row;            \
    float *const h2 = p->h2 + at, *const d_h = p->d_h + at;                      \
    (void)size, (void)g, (void)u, (void)h, (void)errors, (void)h2, (void)d_h

static inline long NAME(place_of)(NAME(in) p, long row) { return p->places ? p->places[row] - p->base : row; }

/* The first place from `place` on that none of the rows has; *row: the first row that may have it, which is led on. */
static long NAME(idle)(NAME(in) p, long place, long *row) {
    if (p->rows == p->batch) return p->batch;
    for (; *row < p->rows && p->places[*row] - p->base == place; place++) ++*row;
    return place;
}

#define IDLE for (long row = 0, b = NAME(idle)(p, 0, &row); b < p->batch; b = NAME(idle)(p, b + 1, &row))

/* Begins a step's way back: the gradient of a row without a step passes on. */
static void NAME(pass)(NAME(in) p) {
    IDLE {
        float *const d_h = p->d_h + b * p->size;
        const float *const errors = p->errors + b * p->errors_row;
        UNITS d_h[j] += errors[j];
    }
}

static void NAME(rnn_forward)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS h2[j] = tangent(LOAD(g[j]) + u[j]);
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
            float candidate = tangent(LOAD(g[2 * size + j]) + u[2 * GROUP + j]);
            float new = forget * c[j] + in * candidate;
            float out = sigmoid(LOAD(g[3 * size + j]) + u[3 * GROUP + j] + peep[2 * size + j] * new);
            g[j] = STORE(in);
            g[size + j] = STORE(forget);
            g[2 * size + j] = STORE(candidate);
            g[3 * size + j] = STORE(out);
            c2[j] = new;
            h2[j] = out * tangent(new);
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
            float squashed = tangent(c2[j]), error = d_h[j] + errors[j];
            float d_out = error * squashed * out * (1.0f - out);
            float d_new = d_c[j] + error * out * (1.0f - squashed * squashed) + d_out * peep[2 * size + j];
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

/* `saved` is left as U_n h + c_n. */
static void NAME(gru_forward)(NAME(in) p) {
    ROWS {
        ROW;
        KEPT *const saved = p->saved + b * size;
        UNITS {
            float r = sigmoid(LOAD(g[j]) + u[j]), z = sigmoid(LOAD(g[size + j]) + u[GROUP + j]);
            float s = u[2 * GROUP + j] + p->extra[j];
            float n = tangent(LOAD(g[2 * size + j]) + r * s);
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
        KEPT *const saved = p->saved + b * size;
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

/* Reset before the product, first half: the gates r and z from what y adds to them, and r ⊙ h. */
static void NAME(reset_gates)(NAME(in) p) {
    ROWS {
        ROW;
        KEPT *const saved = p->saved + b * size;
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

/* Second half: the candidate and the new state. */
static void NAME(reset_mix)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            float n = tangent(LOAD(g[2 * size + j]) + u[j]), z = LOAD(g[size + j]);
            g[2 * size + j] = STORE(n);
            h2[j] = h[j] + (p->writes ? z : 1.0f - z) * (n - h[j]);
        }
    }
}

static void NAME(reset_mix_backward)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            float z = LOAD(g[size + j]), n = LOAD(g[2 * size + j]), error = d_h[j] + errors[j];
            float share = p->writes ? z : 1.0f - z, d_share = error * (n - h[j]);
            g[size + j] = STORE((p->writes ? d_share : -d_share) * z * (1.0f - z));
            g[2 * size + j] = STORE(error * share * (1.0f - n * n));
            d_h[j] = error * (1.0f - share);
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

static void NAME(add_squashed_product)(NAME(in) p) {
    ROWS {
        ROW;
        UNITS {
            float squashed = tangent(h[j]);
            d_h[j] += u[j] * (1.0f - squashed * squashed);
        }
    }
}

/* Ends a step: rows without one keep their state, and the next step's operands are made. */
static void NAME(finish)(NAME(in) p) {
    IDLE {
        const long at = b * p->size;
        memcpy(p->h2 + at, p->h + at, p->units * sizeof(float));
        if (p->c) memcpy(p->c2 + at, p->c + at, p->units * sizeof(float));
    }
    for (long b = 0; p->operand && b < p->batch; b++) {
        const float *const h2 = p->h2 + b * p->size;
        KEPT *const operand = p->operand + b * p->size;
        UNITS operand[j] = STORE(h2[j]);
    }
    for (long b = 0; p->squashed && b < p->batch; b++) {
        const float *const h2 = p->h2 + b * p->size;
        KEPT *const squashed = p->squashed + b * p->size;
        UNITS squashed[j] = STORE(tangent(h2[j]));
    }
}
