/* Scalar functions that the compiler can vectorise. */

#include <stdint.h>
#include <string.h>

typedef uint16_t bf16; /* bfloat16: the upper half of a float */

/* exp by the polynomial of Cephes (Moshier), within 2 units in the last place; NaN stays NaN. */
static inline float fast_exp(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float n = x * 1.44269504088896341f;
    n = n + 12582912.0f; /* 1.5 · 2^23: rounds to a whole number */
    n = n - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    int bits = ((int)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

/* tanh as a ratio of polynomials (Eigen's), within 3e-7; NaN stays NaN. */
static inline float fast_tanh(float x) {
    x = x > 7.90531110763549805f ? 7.90531110763549805f : x;
    x = x < -7.90531110763549805f ? -7.90531110763549805f : x;
    const float s = x * x;
    float y = -2.76076847742355e-16f, z = 1.19825839466702e-06f;
    y = y * s + 2.00018790482477e-13f;
    y = y * s - 8.60467152213735e-11f;
    y = y * s + 5.12229709037114e-08f;
    y = y * s + 1.48572235717979e-05f;
    y = y * s + 6.37261928875436e-04f;
    y = y * s + 4.89352455891786e-03f;
    z = z * s + 1.18534705686654e-04f;
    z = z * s + 2.26843463243900e-03f;
    z = z * s + 4.89352518554385e-03f;
    return x * y / z;
}

static inline float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* Rounds to the nearest, ties to even; NaN stays NaN. */
static inline bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bf16)((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 64 : rounded);
}

static inline float fast_log(float x) { return __builtin_logf(x); }
