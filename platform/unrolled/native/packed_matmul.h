/* x Wᵀ for a matrix that is used at every step: packed once, so that each step reads it sequentially. Columns are packed
 * in groups of GROUP, the units that a thread computes at a time. */

#if defined(__AVX512F__)
#define LANES 16
#define TALL 12 /* rows of a tile: pairs of sums that fit the registers besides the operands */
#elif defined(__AVX__)
#define LANES 8
#define TALL 6
#else
#define LANES 4
#define TALL 6
#endif
#define WIDE (2 * LANES) /* columns of a tile */
#define DEEP 256         /* summands at a time: a tile's part of the matrix stays in the first-level cache */

typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

/* Rounds a number of bytes up to whole cache lines. */
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

/* A tile of any number of rows up to TALL, with separate code for each. */
static void any_tile_float(
    long rows, long depth, const float *x, long x_row, const float *packed, float *y, long y_row, int add) {
    switch (rows) {
        TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if TALL > 6
        TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif
    }
}

/* y = x W for x (rows, depth) and `groups` successive packed groups of columns; with `add`, y += x W. */
static void multiply_float(
    long rows, long depth, const float *x, long x_row, const float *packed, long groups, float *y, long y_row, int add) {
    const long tiles = (rows + TALL - 1) / TALL;
    for (long k = 0; k < depth; k += DEEP)
        for (long panel = 0; panel < groups * (GROUP / WIDE); panel++)
            for (long i = 0, row = 0, tall; i < tiles; i++, row += tall) {
                tall = (rows - row + tiles - i - 1) / (tiles - i); /* as even as possible */
                any_tile_float(
                    tall, depth - k < DEEP ? depth - k : DEEP, x + row * x_row + k, x_row,
                    packed + (panel * depth + k) * WIDE, y + row * y_row + panel * WIDE, y_row, add || k > 0);
            }
}
