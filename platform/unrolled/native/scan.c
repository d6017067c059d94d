/* A whole scan of a cell over time, forward and back, on CPUs: what bptt.py does step by step with torch's operations,
 * for float32 and, where the CPU has a matrix unit, bfloat16. */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#define GROUP 32        /* units of a cell that a thread sees to at a time */
#define SMALL (1 << 20) /* bytes of packed matrices that lie in the cache of every core */

enum { RNN, IRNN, LSTM, GRU, RESET };

/* As the fields of `_Scan` in scans.py. Planes of (batch, size) lie one after the other, of h and c one more than
 * steps; those of the errors and their rows lie so far apart as is said. Gates and what is saved are held for `count`
 * rows that have a step to take: `places` says which, as time · batch + row, rising, unless all have one at every time. */
struct scan {
    long cell, gate_count, products[3], writes, threads, steps, batch, size, reverse, errors_step, errors_row, count;
    void *gates, *saved;
    float *h, *c;
    const int64_t *places;
    const float *weights, *extra, *errors;
    float *d_h, *d_c;
    char *scratch;
};

#include "mathfun.h"
#include "product.h"

#define NAME(f) f##_float
#define KEPT float
#define LOAD(x) (x)
#define STORE(x) (x)
#include "cells.h"
#include "scan_loop.h"

long scan_float(const struct scan *s, int back) { return run_float(s, back); }

#if defined(__AMX_BF16__) && defined(__linux__)
#undef NAME
#undef KEPT
#undef LOAD
#undef STORE
#include "product_half.h"
#define NAME(f) f##_half
#define KEPT half
#define LOAD(x) widen(x)
#define STORE(x) narrow(x)
#undef ROW
#undef ROWS
#undef UNITS
#include "cells.h"
#include "scan_loop.h"

int may_scan_half(void) { return may_multiply_half(); }
long scan_half(const struct scan *s, int back) { return run_half(s, back); }
#else
int may_scan_half(void) { return 0; }
long scan_half(const struct scan *s, int back) { return 0; }
#endif
