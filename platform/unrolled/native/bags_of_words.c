/* Texts as bags of words: the vectors of their known words, added up over the square root of how many they are; and their
 * products with a vector each, for which no bag is made. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "reduce.h"

/* As the fields of `_Texts` in texts.py. */
struct texts {
    long threads, count, most, vocabulary, size, few;
    const int64_t *tokens; /* (count, most), padded with -1 */
    const uint8_t *known;  /* (vocabulary) */
    const float *words;    /* (vocabulary, size) */
    const float *rows;     /* (count / few, size): what each `few` texts in turn are multiplied by */
};

/* Collects the known words of a text; returns how many they are. */
static long told(const struct texts *p, long text, int64_t *words) {
    long count = 0;
    for (long i = 0; i < p->most; i++) {
        const int64_t token = p->tokens[text * p->most + i];
        if (token >= 0 && p->known[token]) words[count++] = token;
    }
    return count;
}

/* Fills `bags` (count, size); zeros where no word is known. */
void bags(const struct texts *p, float *bags) {
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long text = 0; text < p->count; text++) {
        int64_t words[p->most + 1];
        const long count = told(p, text, words);
        float *const bag = bags + text * p->size;
        memset(bag, 0, p->size * sizeof *bag);
        for (long i = 0; i < count; i++) add_scaled(p->size, 1.0f / sqrtf(count), p->words + words[i] * p->size, bag);
    }
}

/* `errors`: ∂L/∂bags. Fills `d_words` (vocabulary, size). */
void bags_back(const struct texts *p, const float *errors, float *d_words) {
#pragma omp parallel num_threads(p->threads) if (p->threads > 1)
    {
        const struct span own = own_span(p->size);
        const long width = own.high - own.low, size = p->size;
        int64_t words[p->most + 1];
        clear_span(p->vocabulary, size, own, d_words);
        for (long text = 0; text < p->count; text++) {
            const long count = told(p, text, words);
            const float *const error = errors + text * size + own.low;
            for (long i = 0; i < count; i++)
                add_scaled(width, 1.0f / sqrtf(count), error, d_words + words[i] * size + own.low);
        }
    }
}

/* Fills `scores` (count), the products of row and bag; -inf where no word is known. */
void text_scores(const struct texts *p, float *scores) {
#pragma omp parallel for num_threads(p->threads) if (p->threads > 1)
    for (long text = 0; text < p->count; text++) {
        int64_t words[p->most + 1];
        const long count = told(p, text, words);
        float sum = 0.0f;
        for (long i = 0; i < count; i++) sum += product(p->size, p->rows + text / p->few * p->size, p->words + words[i] * p->size);
        scores[text] = count ? sum / sqrtf(count) : -INFINITY;
    }
}

/* `errors`: ∂L/∂scores. Fills `d_rows` (count / few, size) and `d_words` (vocabulary, size). */
void text_scores_back(const struct texts *p, const float *errors, float *d_rows, float *d_words) {
#pragma omp parallel num_threads(p->threads) if (p->threads > 1)
    {
        const struct span own = own_span(p->size);
        const long width = own.high - own.low, size = p->size;
        int64_t words[p->most + 1];
        clear_span(p->vocabulary, size, own, d_words);
        for (long text = 0; text < p->count; text++) {
            const long row = text / p->few * size + own.low, count = told(p, text, words);
            if (text % p->few == 0) memset(d_rows + row, 0, width * sizeof(float));
            for (long i = 0; i < count; i++) {
                const long word = words[i] * size + own.low;
                const float scale = errors[text] / sqrtf(count);
                add_scaled(width, scale, p->words + word, d_rows + row);
                add_scaled(width, scale, p->rows + row, d_words + word);
            }
        }
    }
}
