/* The product of product.h for bfloat16 and int8 operands, by the dot-product instructions of AVX-512. A lane sums two
 * bfloat16 or four int8 products: packed matrices hold GROUP columns of every two or four summands. Depths are multiples
 * of GROUP. */

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

#if defined(__AVX512BF16__)
#define HAS_BF16_DOT 1
#else
#define HAS_BF16_DOT 0
#endif
#if defined(__AVX512VNNI__)
#define HAS_INT8_DOT 1
#else
#define HAS_INT8_DOT 0
#endif
#define SHIFT 128 /* added to signed bytes where the instruction expects unsigned ones */

static void round_row(long depth, long padded, const float *restrict x, bf16 *restrict y) {
    for (long k = 0; k < depth; k++) y[k] = narrow(x[k]);
    for (long k = depth; k < padded; k++) y[k] = 0;
}

/* Packs `width` columns, rows of `weights` (width, depth), and zeros up to GROUP: as `pack_bf16`, the left and the right
 * half of every 32 × 32 block, each as 16 rows of 16 pairs. */
static void pack_pairs(long depth, long width, const float *weights, bf16 *restrict packed) {
    const long padded = (depth + GROUP - 1) / GROUP * GROUP;
    for (long k = 0; k < padded; k += GROUP)
        for (long side = 0; side < GROUP; side += 16)
            for (long i = k; i < k + GROUP; i += 2)
                for (long j = side; j < side + 16; j++, packed += 2) {
                    packed[0] = j < width && i < depth ? narrow(weights[j * depth + i]) : 0;
                    packed[1] = j < width && i + 1 < depth ? narrow(weights[j * depth + i + 1]) : 0;
                }
}

static inline float largest_size(long depth, const float *x) {
    float most = 0.0f;
    for (long k = 0; k < depth; k++) most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
    return most;
}

/* x ≈ unit · (y − SHIFT) for a row; returns the unit, NaN if the row is not finite. */
static float quantize_row(long depth, long padded, const float *restrict x, uint8_t *restrict y) {
    float most = 0.0f, all = 0.0f;
    for (long k = 0; k < depth; k++) {
        most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
        all += x[k] - x[k]; /* NaN if any is not finite */
    }
    const float scale = most > 0.0f && all == 0.0f ? 127.0f / most : 0.0f;
    for (long k = 0; k < depth; k++) y[k] = (uint8_t)((int)rintf(x[k] * scale) + SHIFT);
    for (long k = depth; k < padded; k++) y[k] = SHIFT;
    return all == 0.0f ? most / 127.0f : all;
}

/* Packs columns of bytes, each with its own unit: four summands of the left 16 columns, then of the right ones. Fills the
 * unit of every column, and `sums` with SHIFT times the sum of its bytes. */
static void pack_bytes(
    long depth, long width, const float *weights, int8_t *restrict packed, float *units, float *sums) {
    const long padded = (depth + GROUP - 1) / GROUP * GROUP;
    float scales[GROUP] = {0};
    for (long j = 0; j < GROUP; j++) {
        const float most = j < width ? largest_size(depth, weights + j * depth) : 0.0f;
        scales[j] = most > 0.0f ? 127.0f / most : 0.0f;
        units[j] = most / 127.0f;
        sums[j] = 0.0f;
    }
    for (long k = 0; k < padded; k += 4)
        for (long j = 0; j < GROUP; j++)
            for (long i = k; i < k + 4; i++) {
                const int byte = j < width && i < depth ? (int)rintf(weights[j * depth + i] * scales[j]) : 0;
                *packed++ = (int8_t)byte;
                sums[j] += SHIFT * byte;
            }
}

#if defined(__AVX512BF16__)
static inline __attribute__((always_inline)) void tile_pairs(
    const int rows, long depth, const bf16 *restrict x, long x_row, const bf16 *restrict packed, float *restrict y,
    long y_row) {
    __m512 left[TALL], right[TALL];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) left[i] = right[i] = _mm512_setzero_ps();
    for (long block = 0; block < depth; block += GROUP, packed += GROUP * GROUP)
        for (long k = 0; k < GROUP; k += 2) {
            const __m512bh a = (__m512bh)_mm512_loadu_si512(packed + k * 16);
            const __m512bh b = (__m512bh)_mm512_loadu_si512(packed + k * 16 + GROUP * 16);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                int pair;
                memcpy(&pair, x + i * x_row + block + k, sizeof pair);
                const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                left[i] = _mm512_dpbf16_ps(left[i], both, a);
                right[i] = _mm512_dpbf16_ps(right[i], both, b);
            }
        }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        _mm512_storeu_ps(y + i * y_row, left[i]);
        _mm512_storeu_ps(y + i * y_row + 16, right[i]);
    }
}
#endif

#if defined(__AVX512VNNI__)
static inline __attribute__((always_inline)) void tile_bytes(
    const int rows, long depth, const uint8_t *restrict x, const float *steps, const int8_t *restrict packed,
    const float *units, const float *sums, float *restrict y, long y_row) {
    __m512i left[TALL], right[TALL];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) left[i] = right[i] = _mm512_setzero_si512();
    for (long k = 0; k < depth; k += 4) {
        const __m512i a = _mm512_loadu_si512(packed + k * GROUP), b = _mm512_loadu_si512(packed + k * GROUP + 64);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            int four;
            memcpy(&four, x + i * depth + k, sizeof four);
            left[i] = _mm512_dpbusd_epi32(left[i], _mm512_set1_epi32(four), a);
            right[i] = _mm512_dpbusd_epi32(right[i], _mm512_set1_epi32(four), b);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        const __m512 step = _mm512_set1_ps(steps[i]);
        const __m512 first = _mm512_sub_ps(_mm512_cvtepi32_ps(left[i]), _mm512_loadu_ps(sums));
        const __m512 second = _mm512_sub_ps(_mm512_cvtepi32_ps(right[i]), _mm512_loadu_ps(sums + 16));
        _mm512_storeu_ps(y + i * y_row, _mm512_mul_ps(step, _mm512_mul_ps(first, _mm512_loadu_ps(units))));
        _mm512_storeu_ps(y + i * y_row + 16, _mm512_mul_ps(step, _mm512_mul_ps(second, _mm512_loadu_ps(units + 16))));
    }
}
#endif

#define EVERY_HEIGHT CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)

/* y = x W for x (rows, depth) and `groups` packed groups of columns. */
static void multiply_pairs(
    long rows, long depth, const bf16 *x, long x_row, const bf16 *packed, long groups, float *y, long y_row) {
#if defined(__AVX512BF16__)
    const long tiles = (rows + TALL - 1) / TALL;
    for (long group = 0; group < groups; group++, packed += depth * GROUP)
        for (long i = 0, row = 0, tall; i < tiles; i++, row += tall) {
            tall = (rows - row + tiles - i - 1) / (tiles - i);
            switch (tall) {
#define CASE(n) case n: tile_pairs(n, depth, x + row * x_row, x_row, packed, y + row * y_row + group * GROUP, y_row); break;
                EVERY_HEIGHT
#undef CASE
            }
        }
#endif
}

/* y = x W for int8 rows with units `steps` and columns with their `units`; see `pack_bytes`. */
static void multiply_bytes(
    long rows, long depth, const uint8_t *x, const float *steps, const int8_t *packed, const float *units,
    const float *sums, long groups, float *y, long y_row) {
#if defined(__AVX512VNNI__)
    const long tiles = (rows + TALL - 1) / TALL;
    for (long group = 0; group < groups; group++, packed += depth * GROUP)
        for (long i = 0, row = 0, tall; i < tiles; i++, row += tall) {
            const float *unit = units + group * GROUP, *sum = sums + group * GROUP;
            tall = (rows - row + tiles - i - 1) / (tiles - i);
            switch (tall) {
#define CASE(n) \
    case n: \
        tile_bytes( \
            n, depth, x + row * depth, steps + row, packed, unit, sum, y + row * y_row + group * GROUP, y_row); \
        break;
                EVERY_HEIGHT
#undef CASE
            }
        }
#endif
}
