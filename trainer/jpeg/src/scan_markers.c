/* Markers in entropy-coded data, and the zeros that are stuffed behind each of its FFs. */
#include "scan.h"

const uint8_t *next_marker_portable(const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        at = memchr(at, 0xFF, (size_t)(end - at));
        if (!at || at + 1 == end) return end;
        if (at[1] != 0) return at;
        at += 2;
    }
    return end;
}

size_t destuff_portable(uint8_t *out, const uint8_t *at, const uint8_t *end)
{
    uint8_t *begin = out;
    while (at < end) {
        const uint8_t *stop = memchr(at, 0xFF, (size_t)(end - at));
        size_t length = (size_t)((stop ? stop + 1 : end) - at);
        memcpy(out, at, length);
        out += length;
        at += length + (stop != NULL);
    }
    return (size_t)(out - begin);
}

#if HAVE_AVX2
#include <immintrin.h>

AVX2 const uint8_t *next_marker_avx2(const uint8_t *at, const uint8_t *end)
{
    const __m256i ff = _mm256_set1_epi8((char)0xFF), zero = _mm256_setzero_si256();
    for (; end - at >= 33; at += 32) {
        __m256i is_ff = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)at), ff);
        __m256i stuffed = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(at + 1)), zero);
        unsigned found = (unsigned)_mm256_movemask_epi8(_mm256_andnot_si256(stuffed, is_ff));
        if (found) return at + __builtin_ctz(found);
    }
    return next_marker_portable(at, end);
}

AVX2 size_t destuff_avx2(uint8_t *out, const uint8_t *at, const uint8_t *end)
{
    const __m256i ff = _mm256_set1_epi8((char)0xFF);
    uint8_t *begin = out;
    while (end - at >= 32) {
        __m256i chunk = _mm256_loadu_si256((const __m256i *)at);
        unsigned found = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(chunk, ff));
        _mm256_storeu_si256((__m256i *)out, chunk);
        int length = found ? __builtin_ctz(found) + 1 : 32;
        out += length;
        at += length + (found != 0);
    }
    return at < end ? (size_t)(out - begin) + destuff_portable(out, at, end) : (size_t)(out - begin);
}
#endif
