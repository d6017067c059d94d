/* x Wᵀ for a matrix that every step multiplies by: packed once, so that each step reads it in the order of its memory.
 * Its columns are packed in groups of GROUP, the units that a thread sees to at a time. */

#if defined(__AVX512F__)
#define LANES 16
#define TALL 12 /* rows of a tile: so many pairs of sums fit the registers, and what is added to them */
#elif defined(__AVX__)
#define LANES 8
#define TALL 6
#else
#define LANES 4
#define TALL 6
#endif
#define WIDE (2 * LANES) /* columns of a tile */
#define DEEP 256         /* summands at a time: a tile's share of the matrix stays in the first cache */

typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

/* Of bytes, so that what follows them in memory begins with a line of the cache. */
static long rounded(long bytes) { return (bytes + 63) / 64 * 64; }

/* Packs columns [first, first + GROUP); element (k, column) is weights[k * down + column * across], zero from column
 * `width` on. */
static void pack_float(
    long depth, long first, long width, const float *weights, long down, long across, float *restrict packed) {
    for (long low = 0; low < GROUP; low += WIDE)
        for (long k = 0; k < depth; k++)
            for (long j = 0; j < WIDE; j++) {
                long column = first + low + j;
                *packed++ = column < width ? weights[k * down + column * across] : 0.0f;
            }
}

static inline __attribute__((always_inline)) void tile_float(
    const int rows, long depth, const float *restrict x, long x_row, const float *restrict packed, float *restrict y,
    long y_row, int add) {
    lanes left[TALL], right[TALL];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        left[i] = add ? *(const lanes *)(y + i * y_row) : (lanes){0};
        right[i] = add ? *(const lanes *)(y + i * y_row + LANES) : (lanes){0};
    }
    for (long k = 0; k < depth; k++) {
        lanes a = *(const lanes *)(packed + k * WIDE), b = *(const lanes *)(packed + k * WIDE + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            left[i] += x[i * x_row + k] * a;
            right[i] += x[i * x_row + k] * b;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        *(lanes *)(y + i * y_row) = left[i];
        *(lanes *)(y + i * y_row + LANES) = right[i];
    }
}

#define TILE(n)                                                      \
    case n:                                                          \
        tile_float(n, depth, x, x_row, packed, y, y_row, add);       \
        break;

/* A tile of any number of rows up to TALL, as code of its own for each. */
static void any_tile_float(
    long rows, long depth, const float *x, long x_row, const float *packed, float *y, long y_row, int add) {
    switch (rows) {
        TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if TALL > 6
        TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif
    }
}

/* y = x W for x (rows, depth) and `groups` packed groups of columns one after the other; with `add`, is added to y. */
static void multiply_float(
    long rows, long depth, const float *x, long x_row, const float *packed, long groups, float *y, long y_row, int add) {
    const long tiles = (rows + TALL - 1) / TALL;
    for (long k = 0; k < depth; k += DEEP)
        for (long panel = 0; panel < groups * (GROUP / WIDE); panel++)
            for (long i = 0, row = 0, tall; i < tiles; i++, row += tall) {
                tall = (rows - row + tiles - i - 1) / (tiles - i); /* as even as can be */
                any_tile_float(
                    tall, depth - k < DEEP ? depth - k : DEEP, x + row * x_row + k, x_row,
                    packed + (panel * depth + k) * WIDE, y + row * y_row + panel * WIDE, y_row, add || k > 0);
            }
}
