/* One row at a time, 32 bytes of it or 16 words at once. */
#include "resize.h"

#if HAVE_AVX2
#include <immintrin.h>

INLINE AVX2 void columns_of(const uint8_t *const *rows, const uint16_t *weight, const int taps, int bias, int width,
                            uint8_t *out)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i half = _mm256_set1_epi16((short)(128 + bias));
    for (int x = 0; x < width; x += 32) {
        __m256i low = half, high = half;
        for (int t = 0; t < taps; t++) {
            __m256i samples = _mm256_loadu_si256((const __m256i *)(rows[t] + x));
            __m256i w = _mm256_set1_epi16((short)weight[t]);
            low = _mm256_add_epi16(low, _mm256_mulhi_epu16(_mm256_unpacklo_epi8(zero, samples), w));
            high = _mm256_add_epi16(high, _mm256_mulhi_epu16(_mm256_unpackhi_epi8(zero, samples), w));
        }
        __m256i bytes = _mm256_packus_epi16(_mm256_srli_epi16(low, 8), _mm256_srli_epi16(high, 8));
        _mm256_storeu_si256((__m256i *)(out + x), bytes);
    }
}

AVX2 void columns_avx2(const uint8_t *const *rows, const uint16_t *weight, int taps, int bias, int width, uint8_t *out)
{
    switch (taps) { /* known numbers of taps unroll */
    case 1: columns_of(rows, weight, 1, bias, width, out); break;
    case 2: columns_of(rows, weight, 2, bias, width, out); break;
    case 3: columns_of(rows, weight, 3, bias, width, out); break;
    case 4: columns_of(rows, weight, 4, bias, width, out); break;
    default: columns_of(rows, weight, taps, bias, width, out); break;
    }
}

INLINE AVX2 void rows_of(const filter *f, const uint8_t *samples, const int taps, int16_t *out)
{
    const __m256i half = _mm256_set1_epi16((short)f->bias);
    for (int g = 0; g < f->padded / 16; g++) {
        const gather *from = &f->gathers[g];
        const uint8_t *a = samples + from->base[0], *b = samples + from->base[1];
        __m256i shuffle = _mm256_loadu_si256((const __m256i *)from->shuffle);
        __m256i sum = half;
        for (int t = 0; t < taps; t++) {
            __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(a + t))),
                                                    _mm_loadu_si128((const __m128i *)(b + t)), 1);
            __m256i w = _mm256_loadu_si256((const __m256i *)(f->weight + t * f->padded + 16 * g));
            sum = _mm256_add_epi16(sum, _mm256_mulhi_epu16(_mm256_shuffle_epi8(bytes, shuffle), w));
        }
        _mm256_storeu_si256((__m256i *)(out + 16 * g), _mm256_srli_epi16(sum, 8 - FRACTION_BITS));
    }
}

AVX2 void rows_avx2(const filter *f, const uint8_t *samples, int16_t *out)
{
    switch (f->taps) {
    case 1: rows_of(f, samples, 1, out); break;
    case 2: rows_of(f, samples, 2, out); break;
    case 3: rows_of(f, samples, 3, out); break;
    case 4: rows_of(f, samples, 4, out); break;
    default: rows_of(f, samples, f->taps, out); break;
    }
}

/* Words 0-7 and 16-23 of a row, so that packing two such vectors gives bytes 0-15 and 16-31. */
INLINE AVX2 __m256i split_words(const int16_t *row)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)row)),
                                   _mm_loadu_si128((const __m128i *)(row + 16)), 1);
}

INLINE AVX2 __m256i rounded(__m256i words)
{
    return _mm256_srai_epi16(_mm256_add_epi16(words, _mm256_set1_epi16(1 << (FRACTION_BITS - 1))), FRACTION_BITS);
}

typedef struct {
    __m256i red, green, blue;
} rgb_words;

INLINE AVX2 rgb_words convert(int16_t *const rows[3], int x, int ycc)
{
    __m256i y = split_words(rows[0] + x), cb = split_words(rows[1] + x), cr = split_words(rows[2] + x);
    if (!ycc) return (rgb_words){rounded(y), rounded(cb), rounded(cr)};
    const __m256i centre = _mm256_set1_epi16(128 << FRACTION_BITS);
    cb = _mm256_sub_epi16(cb, centre);
    cr = _mm256_sub_epi16(cr, centre);
    __m256i red = _mm256_add_epi16(_mm256_add_epi16(y, cr), _mm256_mulhrs_epi16(cr, _mm256_set1_epi16(RED_CR)));
    __m256i green = _mm256_sub_epi16(_mm256_sub_epi16(y, _mm256_mulhrs_epi16(cb, _mm256_set1_epi16(GREEN_CB))),
                                     _mm256_mulhrs_epi16(cr, _mm256_set1_epi16(GREEN_CR)));
    __m256i blue = _mm256_sub_epi16(_mm256_add_epi16(y, _mm256_add_epi16(cb, cb)),
                                    _mm256_mulhrs_epi16(cb, _mm256_set1_epi16(BLUE_CB)));
    return (rgb_words){rounded(red), rounded(green), rounded(blue)};
}

/* Which of 16 reds, greens and blues come at each place of the three 16-byte parts of r0 g0 b0 r1 ... */
static const int8_t interleave[3][3][16] = {
    {
        {0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5},
        {-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1},
        {-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1},
    },
    {
        {-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1},
        {5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10},
        {-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1},
    },
    {
        {-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1},
        {-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1},
        {10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15},
    },
};

INLINE AVX2 __m256i interleaved(int part, __m256i red, __m256i green, __m256i blue)
{
    __m256i mask[3];
    for (int i = 0; i < 3; i++)
        mask[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)interleave[part][i]));
    return _mm256_or_si256(_mm256_or_si256(_mm256_shuffle_epi8(red, mask[0]), _mm256_shuffle_epi8(green, mask[1])),
                           _mm256_shuffle_epi8(blue, mask[2]));
}

/* 32 pixels. */
INLINE AVX2 void store_pixels(__m256i red, __m256i green, __m256i blue, uint8_t *out)
{
    __m256i p0 = interleaved(0, red, green, blue), p1 = interleaved(1, red, green, blue);
    __m256i p2 = interleaved(2, red, green, blue);
    _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(p0, p1, 0x20));
    _mm256_storeu_si256((__m256i *)(out + 32), _mm256_permute2x128_si256(p2, p0, 0x30));
    _mm256_storeu_si256((__m256i *)(out + 64), _mm256_permute2x128_si256(p1, p2, 0x31));
}

AVX2 void colour_avx2(int16_t *const rows[3], int ycc, int width, uint8_t *out)
{
    for (int x = 0; x < width; x += VECTOR, out += 96) {
        rgb_words a = convert(rows, x, ycc), b = convert(rows, x + 8, ycc);
        __m256i red = _mm256_packus_epi16(a.red, b.red), green = _mm256_packus_epi16(a.green, b.green);
        store_pixels(red, green, _mm256_packus_epi16(a.blue, b.blue), out);
    }
}

INLINE AVX2 __m256i bytes_at(const uint8_t *row) { return _mm256_loadu_si256((const __m256i *)row); }

AVX2 void interleave_avx2(const uint8_t *const rows[3], int width, uint8_t *out)
{
    int x = 0;
    for (; x <= width - VECTOR; x += VECTOR, out += 96)
        store_pixels(bytes_at(rows[0] + x), bytes_at(rows[1] + x), bytes_at(rows[2] + x), out);
    if (x == width) return;
    uint8_t last[96];
    store_pixels(bytes_at(rows[0] + x), bytes_at(rows[1] + x), bytes_at(rows[2] + x), last);
    memcpy(out, last, 3 * (size_t)(width - x));
}
#endif
