/* The product of packed_matmul.h for bfloat16 operands with float32 sums, by the matrix unit of CPUs with AMX. Depth and width
 * must be multiples of 32. */

#include <immintrin.h>

#define PAIRS 16 /* a row of a tile: 16 float32, or 16 pairs of bfloat16 */

/* As `pack_float`. Of every 32 × 32 block, the left and the right half, each as 16 rows of 16 pairs (k, k + 1). */
static void pack_bf16(
    long depth, long first, long width, const float *weights, long down, long across, bf16 *restrict packed) {
    const long transposed = down == 1; (void)width; /* reads in memory order for either layout of the matrix */
    bf16 lines[GROUP][GROUP];
    for (long k = 0; k < depth; k += GROUP) {
        for (long i = 0; i < GROUP; i++) {
            const float *from = transposed ? weights + k + (first + i) * across : weights + (k + i) * down + first;
            for (long j = 0; j < GROUP; j++) lines[i][j] = narrow(from[j]);
        }
        for (long side = 0; side < GROUP; side += PAIRS)
            for (long i = 0; i < GROUP; i += 2, packed += GROUP)
                for (long j = 0; j < PAIRS; j++) {
                    packed[2 * j] = transposed ? lines[side + j][i] : lines[i][side + j];
                    packed[2 * j + 1] = transposed ? lines[side + j][i + 1] : lines[i + 1][side + j];
                }
    }
}

struct tiles {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

/* Tiles 0–3 hold the sums: upper left, upper right, lower left, lower right; 4 and 5 the upper and lower x; 6 and 7 the
 * left and right half of the matrix. */
static void shape_tiles(long upper, long lower) {
    struct tiles tiles = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        tiles.bytes[i] = 64;
        tiles.rows[i] = 16;
    }
    tiles.rows[0] = tiles.rows[1] = tiles.rows[4] = upper;
    tiles.rows[2] = tiles.rows[3] = tiles.rows[5] = lower > 0 ? lower : 1;
    _tile_loadconfig(&tiles);
}

static void tile_bf16(
    int lower, long depth, const bf16 *x, long x_row, const bf16 *packed, float *y, long y_row, int add) {
    const long line = y_row * sizeof(float), x_line = x_row * sizeof(bf16);
    float *const below = y + PAIRS * y_row;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (add) {
        _tile_loadd(0, y, line);
        _tile_loadd(1, y + PAIRS, line);
    }
    if (add && lower) {
        _tile_loadd(2, below, line);
        _tile_loadd(3, below + PAIRS, line);
    }
    for (long k = 0; k < depth; k += GROUP, packed += GROUP * GROUP) {
        _tile_loadd(4, x + k, x_line);
        _tile_loadd(6, packed, 64);
        _tile_loadd(7, packed + PAIRS * GROUP, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (lower) {
            _tile_loadd(5, x + PAIRS * x_row + k, x_line);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, y, line);
    _tile_stored(1, y + PAIRS, line);
    if (lower) {
        _tile_stored(2, below, line);
        _tile_stored(3, below + PAIRS, line);
    }
}

static void multiply_bf16(
    long rows, long depth, const bf16 *x, long x_row, const bf16 *packed, long groups, float *y, long y_row, int add) {
    for (long row = 0, shaped = 0; row < rows; row += 2 * PAIRS) {
        long here = rows - row < 2 * PAIRS ? rows - row : 2 * PAIRS, upper = here < PAIRS ? here : PAIRS;
        if (here != shaped) shape_tiles(upper, here - upper);
        shaped = here;
        for (long group = 0; group < groups; group++)
            tile_bf16(
                here > upper, depth, x + row * x_row, x_row, packed + group * depth * GROUP,
                y + row * y_row + group * GROUP, y_row, add);
    }
    _tile_release();
}
