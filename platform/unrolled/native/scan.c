/* Scan of a cell over time, forward and backward, on CPUs: the same as bptt.py does with torch's operations, for float32
 * and, if the CPU has a matrix unit, bfloat16. */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#define GROUP 32        /* units of a cell that a thread computes at a time */
#define SMALL (1 << 20) /* bytes of packed matrices that fit the cache of every core */

enum { RNN, IRNN, LSTM, GRU, RESET };

/* As the fields of `_Scan` in scan.py. h and c are (steps + 1, batch, size), contiguous; `errors` (steps, batch, size) has
 * the given strides. `gates` and `saved` hold the `count` valid rows: `valid` are their indices, time · batch + row,
 * ascending; null: all rows are valid. */
struct scan {
    long cell, gate_count, blocks[3], z_gates_candidate, threads, steps, batch, size, reverse, errors_step, errors_row, count;
    void *gates, *saved;
    float *h, *c;
    const int64_t *valid;
    const float *weights, *extra, *errors;
    float *d_h, *d_c;
    char *scratch;
};

#include "mathfun.h"
#include "packed_matmul.h"

#define NAME(f) f##_float
#define STORED float
#define LOAD(x) (x)
#define STORE(x) (x)
#include "cells.h"
#include "scan_loop.h"

long scan_float(const struct scan *s, int back) { return run_float(s, back); }

#if defined(__AMX_BF16__) && defined(__linux__)
#undef NAME
#undef STORED
#undef LOAD
#undef STORE
#include "packed_matmul_amx.h"
#include <sys/syscall.h>
#include <unistd.h>
#define NAME(f) f##_bf16
#define STORED bf16
#define LOAD(x) widen(x)
#define STORE(x) narrow(x)
#undef ROW
#undef ROWS
#undef UNITS
#include "cells.h"
#include "scan_loop.h"

/* Linux grants the matrix unit's registers to processes that request them. */
int amx_available(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18) == 0; }
long scan_bf16(const struct scan *s, int back) { return run_bf16(s, back); }
#else
int amx_available(void) { return 0; }
long scan_bf16(const struct scan *s, int back) { return 0; }
#endif
