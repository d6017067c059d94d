/* The loops over time. Small matrices lie in the cache of every core, so that each thread has rows of the batch of its
 * own and waits for nobody. Large ones do not: each thread has units of its own, and with them columns of the matrices,
 * so that what it reads again at every step stays near it; threads then wait where a product reads what all have made.
 * Compiled for each type, as cells.h. */

/* The recurrent weights of one product, packed for every group of units. */
struct NAME(matrix) {
    KEPT *packed;
    long depth, blocks; /* summands; columns of a group in units of GROUP; no blocks: there is no such product */
    long row;           /* of the weights, in units of `size` */
};

/* What the threads share. `first` and `second` read the state (back: gradients of gates), `third` what the reset left. */
struct NAME(work) {
    const struct scan *s;
    struct NAME(matrix) first, second, third;
    KEPT *operands[2], *squashed[2]; /* h and tanh(h) as operands (batch, size), of this step and of the next */
    float *y;                        /* of every thread (batch, 4 · GROUP) */
    KEPT *taken;                     /* of every thread two of (batch, size): the rows of operands that a step takes */
    int apart;                       /* whether threads share rows, not units */
};

/* A thread's share: groups of units and rows. */
struct NAME(share) {
    const struct NAME(work) * w;
    long low, high, row, rows;
    float *y;
    KEPT *taken;
};

static KEPT *NAME(of_group)(const struct NAME(matrix) * m, long group) {
    return m->packed + group * m->depth * m->blocks * GROUP;
}

static void NAME(pack_group)(const struct scan *s, const struct NAME(matrix) * m, long group, int back) {
    for (long block = 0; block < m->blocks; block++)
        NAME(pack)(
            m->depth, group * GROUP, s->size, s->weights + (m->row + block) * s->size * s->size, back ? s->size : 1,
            back ? 1 : s->size, NAME(of_group)(m, group) + block * m->depth * GROUP);
}

/* Shares out the scratch memory. Returns how much of it is needed; without any, that is all that is done. */
static long NAME(plan)(const struct scan *s, struct NAME(work) * w, int back) {
    const long blocks[] = {s->products[0], s->products[1], s->products[2]}, reset = s->cell == RESET;
    const long split = s->cell == GRU && back; /* its gradients lie in two places */
    struct NAME(matrix) *const matrices[] = {&w->first, &w->second, &w->third};
    const long counts[] = {split ? 2 : blocks[0], split ? 1 : blocks[2] ? blocks[1] : 0, reset ? 1 : 0};
    const long groups = (s->size + GROUP - 1) / GROUP;
    char *next = s->scratch;
    w->s = s;
    for (long i = 0, row = 0; i < 3; row += counts[i], i++) {
        long depth = back ? counts[i] * s->size : s->size;
        *matrices[i] = (struct NAME(matrix)){(KEPT *)next, depth, back && counts[i] ? 1 : counts[i], row};
        next += rounded(groups * GROUP * counts[i] * s->size * sizeof(KEPT));
    }
    w->apart = next - s->scratch <= SMALL;
    for (int i = 0; i < 2; i++) {
        w->operands[i] = sizeof(KEPT) == sizeof(float) || back ? 0 : (KEPT *)next;
        next += w->operands[i] || !s->scratch ? rounded(s->batch * s->size * sizeof(KEPT)) : 0;
        w->squashed[i] = !blocks[2] || back ? 0 : (KEPT *)next;
        next += w->squashed[i] || !s->scratch ? rounded(s->batch * s->size * sizeof(KEPT)) : 0;
    }
    w->y = (float *)next;
    next += s->threads * rounded(s->batch * 4 * GROUP * sizeof(float));
    w->taken = (KEPT *)next;
    return next + s->threads * rounded(2 * s->batch * s->size * sizeof(KEPT)) - s->scratch;
}

/* How many of the held rows come before a place. */
static long NAME(before)(const struct scan *s, long place) {
    long low = 0, high = s->count;
    if (high == s->steps * s->batch) return place;
    while (low < high) {
        const long middle = (low + high) / 2;
        if (s->places[middle] < place) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The part of a group in the n-th step taken. */
static struct NAME(part) NAME(part_of)(const struct NAME(share) * own, long n, long group, long y_row) {
    const struct NAME(work) *w = own->w;
    const struct scan *s = w->s;
    const long t = s->reverse ? s->steps - 1 - n : n, unit = group * GROUP, left = s->size - unit;
    const long plane = s->batch * s->size, corner = own->row * s->size + unit;
    const long before = (s->reverse ? t + 1 : t) * plane + corner, after = (s->reverse ? t : t + 1) * plane + corner;
    const long base = t * s->batch + own->row, held = NAME(before)(s, base);
    KEPT *const operand = w->operands[0] ? w->operands[(n + 1) & 1] + corner : 0;
    KEPT *const squashed = w->squashed[0] ? w->squashed[(n + 1) & 1] + corner : 0;
    return (struct NAME(part)){
        .rows = NAME(before)(s, base + own->rows) - held, .units = left < GROUP ? left : GROUP, .size = s->size,
        .places = s->places ? s->places + held : 0, .base = base, .batch = own->rows,
        .gates = (KEPT *)s->gates + held * s->gate_count * s->size + unit, .gates_row = s->gate_count * s->size,
        .saved = s->saved ? (KEPT *)s->saved + held * s->size + unit : 0,
        .y = own->y, .y_row = y_row, .extra = s->extra ? s->extra + unit : 0, .writes = s->writes,
        .h = s->h + before, .h2 = s->h + after,
        .c = s->c ? s->c + before : 0, .c2 = s->c ? s->c + after : 0,
        .operand = operand, .squashed = squashed,
        .errors = s->errors ? s->errors + t * s->errors_step + own->row * s->errors_row + unit : 0,
        .errors_row = s->errors_row,
        .d_h = s->d_h ? s->d_h + corner : 0, .d_c = s->d_c ? s->d_c + corner : 0,
    };
}

/* Fetches a group's gates while a product runs: lines here and there, which the processor does not foresee. */
static void NAME(fetch)(NAME(in) p) {
    for (long b = 0; b < p->rows; b++)
        for (const KEPT *gate = p->gates + b * p->gates_row; gate < p->gates + (b + 1) * p->gates_row; gate += p->size)
            for (long j = 0; j < GROUP; j += 64 / sizeof(KEPT)) __builtin_prefetch(gate + j, 1, 2);
}

/* Those rows of a plane of operands (batch, size) that have a step to take, one after the other. */
static const KEPT *NAME(rows_of)(NAME(in) p, const KEPT *plane, KEPT *taken) {
    if (p->rows == p->batch) return plane;
    ROWS memcpy(taken + b * p->size, plane + NAME(place_of)(p, b) * p->size, p->size * sizeof(KEPT));
    return taken;
}

/* Multiplies rows of x by a group's columns. */
static void NAME(take)(
    NAME(in) p, const struct NAME(matrix) * m, long group, const KEPT *x, long x_row, float *y, int add) {
    NAME(multiply)(p->rows, m->depth, x, x_row, NAME(of_group)(m, group), m->blocks, y, p->y_row, add);
}

static void NAME(wait)(const struct NAME(share) * own) {
    if (own->w->apart) return;
#pragma omp barrier
}

typedef void (*NAME(step))(NAME(in));

static void NAME(forward_of)(const struct NAME(share) * own) {
    static const NAME(step) steps[] = {
        NAME(rnn_forward), NAME(irnn_forward), NAME(lstm_forward), NAME(gru_forward), NAME(reset_gates)};
    const struct NAME(work) *w = own->w;
    const struct scan *s = w->s;
    const long size = s->size, corner = own->row * size, y_row = (w->first.blocks + w->second.blocks) * GROUP;
    for (long group = own->low; group < own->high; group++) { /* the state before the first step, as if it were after */
        struct NAME(part) p = NAME(part_of)(own, -1, group, y_row);
        p.rows = p.batch;
        NAME(finish)(&p);
    }
    NAME(wait)(own);
    for (long n = 0; n < s->steps; n++) {
        const struct NAME(part) whole = NAME(part_of)(own, n, 0, y_row);
        const KEPT *const plane = w->operands[0] ? w->operands[n & 1] + corner : (const KEPT *)whole.h;
        const KEPT *const x = NAME(rows_of)(&whole, plane, own->taken);
        const KEPT *const squashed =
            w->second.blocks ? NAME(rows_of)(&whole, w->squashed[n & 1] + corner, own->taken + s->batch * size) : 0;
        for (long group = own->low; group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, y_row);
            NAME(fetch)(&p);
            NAME(take)(&p, &w->first, group, x, size, own->y, 0);
            if (squashed) NAME(take)(&p, &w->second, group, squashed, size, own->y + w->first.blocks * GROUP, 0);
            steps[s->cell](&p);
            if (!w->third.blocks) NAME(finish)(&p);
        }
        NAME(wait)(own);
        if (!w->third.blocks) continue;
        for (long group = own->low; group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, GROUP);
            NAME(take)(&p, &w->third, group, p.saved - group * GROUP, size, own->y, 0);
            NAME(reset_mix)(&p);
            NAME(finish)(&p);
        }
        NAME(wait)(own);
    }
}

static void NAME(backward_of)(const struct NAME(share) * own) {
    static const NAME(step) steps[] = {
        NAME(rnn_backward), NAME(irnn_backward), NAME(lstm_backward), NAME(gru_backward), NAME(reset_mix_backward)};
    const struct NAME(work) *w = own->w;
    const struct scan *s = w->s;
    const long size = s->size, row = s->gate_count * size;
    for (long n = s->steps - 1; n >= 0; n--) {
        const struct NAME(part) whole = NAME(part_of)(own, n, 0, GROUP);
        for (long group = own->low; group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, GROUP);
            NAME(pass)(&p);
            steps[s->cell](&p);
        }
        NAME(wait)(own);
        for (long group = own->low; w->third.blocks && group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, GROUP);
            NAME(take)(&p, &w->third, group, whole.gates + 2 * size, row, own->y, 0);
            NAME(reset_gates_backward)(&p);
        }
        if (w->third.blocks) NAME(wait)(own);
        for (long group = own->low; group < own->high; group++) {
            struct NAME(part) p = NAME(part_of)(own, n, group, GROUP);
            NAME(take)(&p, &w->first, group, whole.gates, row, own->y, 0);
            if (s->cell == GRU) NAME(take)(&p, &w->second, group, whole.saved, size, own->y, 1);
            NAME(add_product)(&p);
            if (s->cell == RESET && w->second.blocks) {
                NAME(take)(&p, &w->second, group, whole.gates + size, row, own->y, 0);
                NAME(add_squashed_product)(&p);
            }
        }
    }
}

/* Runs a scan one way or the other on all threads; without scratch memory, returns how much it needs. */
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
        struct NAME(share) own = {
            &w, low, high, 0, s->batch, w.y + thread * rounded(s->batch * 4 * GROUP * sizeof(float)) / sizeof(float),
            w.taken + thread * rounded(2 * s->batch * s->size * sizeof(KEPT)) / sizeof(KEPT)};
        if (w.apart) {
            own.low = 0, own.high = groups;
            own.row = s->batch * thread / threads;
            own.rows = s->batch * (thread + 1) / threads - own.row;
#pragma omp barrier
        }
        if (own.rows > 0) (back ? NAME(backward_of) : NAME(forward_of))(&own);
    }
    return needed;
}
