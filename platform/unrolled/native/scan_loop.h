/* Loops over time. Small matrices fit the cache of every core: each thread takes rows of the batch and waits for no other.
 * For large ones, each thread takes units, and with them columns of the matrices, so that its part of the matrix stays in
 * its cache; threads then wait wherever a product reads the results of all. Compiled once per type, as cells.h. */

/* Recurrent weights of one product, packed per group of units. */
struct NAME(matrix) {
    STORED *packed;
    long depth, blocks; /* summands; columns of a group in units of GROUP, 0: no such product */
    long row;           /* first row of the weights, in units of `size` */
};

/* Shared by the threads. `first` and `second` multiply the state (backward: gradients of gates), `third` the reset state. */
struct NAME(work) {
    const struct scan *s;
    struct NAME(matrix) first, second, third;
    STORED *operands[2], *tanh_h[2]; /* h and tanh(h) as operands (batch, size), of this and the next step */
    float *y;                        /* per thread (batch, 4 · GROUP) */
    STORED *gathered;                /* per thread two of (batch, size): the valid rows of operands */
    int by_rows;                     /* whether threads share out rows, not units */
};

/* A thread's part: ranges of groups and rows. */
struct NAME(thread) {
    const struct NAME(work) * w;
    long low, high, row, rows;
    float *y;
    STORED *gathered;
};

static STORED *NAME(group_weights)(const struct NAME(matrix) * m, long group) {
    return m->packed + group * m->depth * m->blocks * GROUP;
}

static void NAME(pack_group)(const struct scan *s, const struct NAME(matrix) * m, long group, int back) {
    for (long block = 0; block < m->blocks; block++)
        NAME(pack)(
            m->depth, group * GROUP, s->size, s->weights + (m->row + block) * s->size * s->size, back ? s->size : 1,
            back ? 1 : s->size, NAME(group_weights)(m, group) + block * m->depth * GROUP);
}

/* Assigns the scratch memory; returns its size. With `scratch` null, only computes the size. */
static long NAME(plan)(const struct scan *s, struct NAME(work) * w, int back) {
    const long blocks[] = {s->blocks[0], s->blocks[1], s->blocks[2]}, reset = s->cell == RESET;
    const long split = s->cell == GRU && back; /* its gradients are in two arrays */
    struct NAME(matrix) *const matrices[] = {&w->first, &w->second, &w->third};
    const long counts[] = {split ? 2 : blocks[0], split ? 1 : blocks[2] ? blocks[1] : 0, reset ? 1 : 0};
    const long groups = (s->size + GROUP - 1) / GROUP;
    char *next = s->scratch;
    w->s = s;
    for (long i = 0, row = 0; i < 3; row += counts[i], i++) {
        long depth = back ? counts[i] * s->size : s->size;
        *matrices[i] = (struct NAME(matrix)){(STORED *)next, depth, back && counts[i] ? 1 : counts[i], row};
        next += rounded(groups * GROUP * counts[i] * s->size * sizeof(STORED));
    }
    w->by_rows = next - s->scratch <= SMALL;
    for (int i = 0; i < 2; i++) {
        w->operands[i] = sizeof(STORED) == sizeof(float) || back ? 0 : (STORED *)next;
        next += w->operands[i] || !s->scratch ? rounded(s->batch * s->size * sizeof(STORED)) : 0;
        w->tanh_h[i] = !blocks[2] || back ? 0 : (STORED *)next;
        next += w->tanh_h[i] || !s->scratch ? rounded(s->batch * s->size * sizeof(STORED)) : 0;
    }
    w->y = (float *)next;
    next += s->threads * rounded(s->batch * 4 * GROUP * sizeof(float));
    w->gathered = (STORED *)next;
    return next + s->threads * rounded(2 * s->batch * s->size * sizeof(STORED)) - s->scratch;
}

/* Number of valid rows before an index in (time · batch). */
static long NAME(lower_bound)(const struct scan *s, long index) {
    long low = 0, high = s->count;
    if (high == s->steps * s->batch) return index;
    while (low < high) {
        const long middle = (low + high) / 2;
        if (s->valid[middle] < index) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The part of a group in the n-th step in loop order. */
static struct NAME(part) NAME(part_of)(const struct NAME(thread) * own, long n, long group, long y_row) {
    const struct NAME(work) *w = own->w;
    const struct scan *s = w->s;
    const long t = s->reverse ? s->steps - 1 - n : n, unit = group * GROUP, left = s->size - unit;
    const long plane = s->batch * s->size, corner = own->row * s->size + unit;
    const long before = (s->reverse ? t + 1 : t) * plane + corner, after = (s->reverse ? t : t + 1) * plane + corner;
    const long base = t * s->batch + own->row, held = NAME(lower_bound)(s, base);
    STORED *const operand = w->operands[0] ? w->operands[(n + 1) & 1] + corner : 0;
    STORED *const tanh_h = w->tanh_h[0] ? w->tanh_h[(n + 1) & 1] + corner : 0;
    return (struct NAME(part)){
        .rows = NAME(lower_bound)(s, base + own->rows) - held, .units = left < GROUP ? left : GROUP, .size = s->size,
        .valid = s->valid ? s->valid + held : 0, .base = base, .batch = own->rows,
        .gates = (STORED *)s->gates + held * s->gate_count * s->size + unit, .gates_row = s->gate_count * s->size,
        .saved = s->saved ? (STORED *)s->saved + held * s->size + unit : 0,
        .y = own->y, .y_row = y_row, .extra = s->extra ? s->extra + unit : 0, .z_gates_candidate = s->z_gates_candidate,
        .h = s->h + before, .h2 = s->h + after,
        .c = s->c ? s->c + before : 0, .c2 = s->c ? s->c + after : 0,
        .operand = operand, .tanh_h2 = tanh_h,
        .errors = s->errors ? s->errors + t * s->errors_step + own->row * s->errors_row + unit : 0,
        .errors_row = s->errors_row,
        .d_h = s->d_h ? s->d_h + corner : 0, .d_c = s->d_c ? s->d_c + corner : 0,
    };
}

/* Prefetches a group's gates, scattered cache lines that the processor does not predict, while a product runs. */
static void NAME(prefetch)(NAME(in) p) {
    for (long b = 0; b < p->rows; b++)
        for (const STORED *gate = p->gates + b * p->gates_row; gate < p->gates + (b + 1) * p->gates_row; gate += p->size)
            for (long j = 0; j < GROUP; j += 64 / sizeof(STORED)) __builtin_prefetch(gate + j, 1, 2);
}

/* The valid rows of operands (batch, size), contiguous. */
static const STORED *NAME(gather_rows)(NAME(in) p, const STORED *plane, STORED *gathered) {
    if (p->rows == p->batch) return plane;
    ROWS memcpy(gathered + b * p->size, plane + NAME(batch_row)(p, b) * p->size, p->size * sizeof(STORED));
    return gathered;
}

/* Multiplies rows of x by a group's columns. */
static void NAME(product_of)(
    NAME(in) p, const struct NAME(matrix) * m, long group, const STORED *x, long x_row, float *y, int add) {
    NAME(multiply)(p->rows, m->depth, x, x_row, NAME(group_weights)(m, group), m->blocks, y, p->y_row, add);
}

static void NAME(wait)(const struct NAME(thread) * own) {
    if (own->w->by_rows) return;
#pragma omp barrier
}

typedef void (*NAME(step))(NAME(in));

static void NAME(thread_forward)(const struct NAME(thread) * own) {
    static const NAME(step) steps[] = {
        NAME(rnn_forward), NAME(irnn_forward), NAME(lstm_forward), NAME(gru_forward), NAME(reset_gates)};
    const struct NAME(work) *w = own->w;
    const struct scan *s = w->s;
    const long size = s->size, corner = own->row * size, y_row = (w->first.blocks + w->second.blocks) * GROUP;
    for (long group = own->low; group < own->high; group++) { /* operands of the first step */
        struct NAME(part) p = NAME(part_of)(own, -1, group, y_row);
        p.rows = p.batch;
        NAME(finish)(&p);
    }
    NAME(wait)(own);
    for (long n = 0; n < s->steps; n++) {
        const struct NAME(part) whole = NAME(part_of)(own, n, 0, y_row);
        const STORED *const plane = w->operands[0] ? w->operands[n & 1] + corner : (const STORED *)whole.h;
        const STORED *const x = NAME(gather_rows)(&whole, plane, own->gathered);
        const STORED *const tanh_h =
            w->second.blocks ? NAME(gather_rows)(&whole, w->tanh_h[n & 1] + corner, own->gathered + s->batch * size) : 0;
        for (long group = own->low; group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, y_row);
            NAME(prefetch)(&p);
            NAME(product_of)(&p, &w->first, group, x, size, own->y, 0);
            if (tanh_h) NAME(product_of)(&p, &w->second, group, tanh_h, size, own->y + w->first.blocks * GROUP, 0);
            steps[s->cell](&p);
            if (!w->third.blocks) NAME(finish)(&p);
        }
        NAME(wait)(own);
        if (!w->third.blocks) continue;
        for (long group = own->low; group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, GROUP);
            NAME(product_of)(&p, &w->third, group, p.saved - group * GROUP, size, own->y, 0);
            NAME(reset_mix)(&p);
            NAME(finish)(&p);
        }
        NAME(wait)(own);
    }
}

static void NAME(thread_backward)(const struct NAME(thread) * own) {
    static const NAME(step) steps[] = {
        NAME(rnn_backward), NAME(irnn_backward), NAME(lstm_backward), NAME(gru_backward), NAME(reset_mix_backward)};
    const struct NAME(work) *w = own->w;
    const struct scan *s = w->s;
    const long size = s->size, row = s->gate_count * size;
    for (long n = s->steps - 1; n >= 0; n--) {
        const struct NAME(part) whole = NAME(part_of)(own, n, 0, GROUP);
        for (long group = own->low; group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, GROUP);
            NAME(skip_backward)(&p);
            steps[s->cell](&p);
        }
        NAME(wait)(own);
        for (long group = own->low; w->third.blocks && group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, GROUP);
            NAME(product_of)(&p, &w->third, group, whole.gates + 2 * size, row, own->y, 0);
            NAME(reset_gates_backward)(&p);
        }
        if (w->third.blocks) NAME(wait)(own);
        for (long group = own->low; group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, GROUP);
            NAME(product_of)(&p, &w->first, group, whole.gates, row, own->y, 0);
            if (s->cell == GRU) NAME(product_of)(&p, &w->second, group, whole.saved, size, own->y, 1);
            NAME(add_product)(&p);
            if (s->cell == RESET && w->second.blocks) {
                NAME(product_of)(&p, &w->second, group, whole.gates + size, row, own->y, 0);
                NAME(add_tanh_product)(&p);
            }
        }
    }
}

/* Runs a scan forward or backward on all threads; with `scratch` null, returns the memory it needs. */
static long NAME(run)(const struct scan *s, int back) {
    struct NAME(work) w;
    const long needed = NAME(plan)(s, &w, back), groups = (s->size + GROUP - 1) / GROUP;
    if (!s->scratch) return needed;
#pragma omp parallel num_threads(s->threads) if (s->threads > 1)
    {
        const long thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const long low = groups * thread / threads, high = groups * (thread + 1) / threads;
        for (long group = low; group < high; group++) {
            NAME(pack_group)(s, &w.first, group, back);
            NAME(pack_group)(s, &w.second, group, back);
            NAME(pack_group)(s, &w.third, group, back);
        }
        struct NAME(thread) own = {
            &w, low, high, 0, s->batch, w.y + thread * rounded(s->batch * 4 * GROUP * sizeof(float)) / sizeof(float),
            w.gathered + thread * rounded(2 * s->batch * s->size * sizeof(STORED)) / sizeof(STORED)};
        if (w.by_rows) {
            own.low = 0, own.high = groups;
            own.row = s->batch * thread / threads;
            own.rows = s->batch * (thread + 1) / threads - own.row;
#pragma omp barrier
        }
        if (own.rows > 0) (back ? NAME(thread_backward) : NAME(thread_forward))(&own);
    }
    return needed;
}
