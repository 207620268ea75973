/* The inverse DCT of libjpeg's ISLOW method (Loeffler, Ligtenberg and Moschytz, 1989: 12 multiplications an 8-point
 * transform), bit-equal to it, for two blocks at a time.
 *
 * Both versions wrap and saturate in the same places, so that even senseless coefficients give the same samples:
 * dequantisation and the sums of two inputs wrap to 16 bits, all other sums to 32, the first pass saturates to 16.
 */
#include "internal.h"

enum {
    CONST_BITS = 13,
    PASS1_BITS = 2,
    /* round(x * 2^13) */
    F_0_298 = 2446, F_0_390 = 3196, F_0_541 = 4433, F_0_765 = 6270, F_0_899 = 7373, F_1_175 = 9633,
    F_1_501 = 12299, F_1_847 = 15137, F_1_961 = 16069, F_2_053 = 16819, F_2_562 = 20995, F_3_072 = 25172,
};

/* Products of pairs of inputs, with the sums of the original flow graph multiplied out. */
enum {
    EVEN_2A = F_0_541, EVEN_2B = F_0_541 - F_1_847, /* in2, in6 */
    EVEN_3A = F_0_541 + F_0_765, EVEN_3B = F_0_541,
    SUM_3A = F_1_175 - F_1_961, SUM_3B = F_1_175,   /* z3, z4 */
    SUM_4A = F_1_175, SUM_4B = F_1_175 - F_0_390,
    ODD_0A = F_0_298 - F_0_899, ODD_0B = -F_0_899,  /* in7, in1 */
    ODD_3A = -F_0_899, ODD_3B = F_1_501 - F_0_899,
    ODD_1A = F_2_053 - F_2_562, ODD_1B = -F_2_562,  /* in5, in3 */
    ODD_2A = -F_2_562, ODD_2B = F_3_072 - F_2_562,
};

/* --- portable ---------------------------------------------------------------------------------------------------- */

INLINE int16_t wrap16(int32_t value) { return (int16_t)(uint16_t)value; }

INLINE uint32_t product(int16_t a, int32_t factor_a, int16_t b, int32_t factor_b)
{
    return (uint32_t)(a * factor_a) + (uint32_t)(b * factor_b);
}

INLINE int32_t descale(uint32_t value, int shift) { return (int32_t)(value + (1u << (shift - 1))) >> shift; }

INLINE void transform(const int16_t in[8], int shift, int32_t out[8])
{
    int16_t z3 = wrap16(in[7] + in[3]), z4 = wrap16(in[5] + in[1]);
    uint32_t sum3 = product(z3, SUM_3A, z4, SUM_3B), sum4 = product(z3, SUM_4A, z4, SUM_4B);
    uint32_t odd0 = product(in[7], ODD_0A, in[1], ODD_0B) + sum3, odd3 = product(in[7], ODD_3A, in[1], ODD_3B) + sum4;
    uint32_t odd1 = product(in[5], ODD_1A, in[3], ODD_1B) + sum4, odd2 = product(in[5], ODD_2A, in[3], ODD_2B) + sum3;
    uint32_t plus = product(in[0], 1 << CONST_BITS, in[4], 1 << CONST_BITS);
    uint32_t minus = product(in[0], 1 << CONST_BITS, in[4], -(1 << CONST_BITS));
    uint32_t even2 = product(in[2], EVEN_2A, in[6], EVEN_2B), even3 = product(in[2], EVEN_3A, in[6], EVEN_3B);
    uint32_t even[4] = {plus + even3, minus + even2, minus - even2, plus - even3};
    uint32_t odd[4] = {odd3, odd2, odd1, odd0};
    for (int i = 0; i < 4; i++) {
        out[i] = descale(even[i] + odd[i], shift);
        out[7 - i] = descale(even[i] - odd[i], shift);
    }
}

INLINE int32_t clamp(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

static void idct_portable(int16_t *coefficients, const int16_t *quant, uint8_t *out, ptrdiff_t stride)
{
    int16_t rows[8][8], in[8];
    int32_t sums[8];
    for (int x = 0; x < 8; x++) {
        for (int y = 0; y < 8; y++) {
            in[y] = wrap16(coefficients[y * PAIR_ROW + x] * quant[y * 8 + x]);
            coefficients[y * PAIR_ROW + x] = 0;
        }
        transform(in, CONST_BITS - PASS1_BITS, sums);
        for (int y = 0; y < 8; y++) rows[y][x] = (int16_t)clamp(sums[y], INT16_MIN, INT16_MAX);
    }
    for (int y = 0; y < 8; y++) {
        transform(rows[y], CONST_BITS + PASS1_BITS + 3, sums);
        for (int x = 0; x < 8; x++) out[y * stride + x] = (uint8_t)(clamp(sums[x], -128, 127) + 128);
    }
}

void idct_pair_portable(int16_t *coefficients, const int16_t *quant, uint8_t *out_a, uint8_t *out_b,
                        ptrdiff_t stride_a, ptrdiff_t stride_b)
{
    idct_portable(coefficients, quant, out_a, stride_a);
    idct_portable(coefficients + PAIR_LANE, quant + 64, out_b, stride_b);
}

/* --- AVX2: block a in the low lanes, block b in the high ones ------------------------------------------------------ */

#if HAVE_AVX2
#include <immintrin.h>

INLINE AVX2 __m256i factors(int a, int b)
{
    return _mm256_set1_epi32((int)((uint32_t)(uint16_t)(int16_t)a | (uint32_t)(uint16_t)(int16_t)b << 16));
}

/* One output and its mirror: four columns a half. */
#define BUTTERFLY(i, even_low, even_high, odd_low, odd_high)                                                       \
    do {                                                                                                           \
        v[i] = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(even_low, odd_low), shift),                   \
                                  _mm256_srai_epi32(_mm256_add_epi32(even_high, odd_high), shift));                \
        v[7 - (i)] = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_sub_epi32(even_low, odd_low), shift),             \
                                        _mm256_srai_epi32(_mm256_sub_epi32(even_high, odd_high), shift));          \
    } while (0)

#define MADD2(low, high, pair_low, pair_high, a, b)                                                                \
    __m256i low = _mm256_madd_epi16(pair_low, factors(a, b)), high = _mm256_madd_epi16(pair_high, factors(a, b))

#define ADD2(low, high, other_low, other_high)                                                                     \
    low = _mm256_add_epi32(low, other_low), high = _mm256_add_epi32(high, other_high)

/* The 8-point transform down the columns of eight rows of 16-bit numbers. */
INLINE AVX2 void transform_avx2(__m256i v[8], const int shift)
{
    __m256i z3 = _mm256_add_epi16(v[7], v[3]), z4 = _mm256_add_epi16(v[5], v[1]);
    __m256i zl = _mm256_unpacklo_epi16(z3, z4), zh = _mm256_unpackhi_epi16(z3, z4);
    MADD2(s3l, s3h, zl, zh, SUM_3A, SUM_3B);
    MADD2(s4l, s4h, zl, zh, SUM_4A, SUM_4B);
    __m256i al = _mm256_unpacklo_epi16(v[7], v[1]), ah = _mm256_unpackhi_epi16(v[7], v[1]);
    MADD2(o0l, o0h, al, ah, ODD_0A, ODD_0B);
    MADD2(o3l, o3h, al, ah, ODD_3A, ODD_3B);
    __m256i bl = _mm256_unpacklo_epi16(v[5], v[3]), bh = _mm256_unpackhi_epi16(v[5], v[3]);
    MADD2(o1l, o1h, bl, bh, ODD_1A, ODD_1B);
    MADD2(o2l, o2h, bl, bh, ODD_2A, ODD_2B);
    ADD2(o0l, o0h, s3l, s3h);
    ADD2(o1l, o1h, s4l, s4h);
    ADD2(o2l, o2h, s3l, s3h);
    ADD2(o3l, o3h, s4l, s4h);

    __m256i cl = _mm256_unpacklo_epi16(v[0], v[4]), ch = _mm256_unpackhi_epi16(v[0], v[4]);
    MADD2(pl, ph, cl, ch, 1 << CONST_BITS, 1 << CONST_BITS);
    MADD2(ml, mh, cl, ch, 1 << CONST_BITS, -(1 << CONST_BITS));
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1));
    ADD2(pl, ph, half, half);
    ADD2(ml, mh, half, half);
    __m256i dl = _mm256_unpacklo_epi16(v[2], v[6]), dh = _mm256_unpackhi_epi16(v[2], v[6]);
    MADD2(e2l, e2h, dl, dh, EVEN_2A, EVEN_2B);
    MADD2(e3l, e3h, dl, dh, EVEN_3A, EVEN_3B);
    BUTTERFLY(0, _mm256_add_epi32(pl, e3l), _mm256_add_epi32(ph, e3h), o3l, o3h);
    BUTTERFLY(1, _mm256_add_epi32(ml, e2l), _mm256_add_epi32(mh, e2h), o2l, o2h);
    BUTTERFLY(2, _mm256_sub_epi32(ml, e2l), _mm256_sub_epi32(mh, e2h), o1l, o1h);
    BUTTERFLY(3, _mm256_sub_epi32(pl, e3l), _mm256_sub_epi32(ph, e3h), o0l, o0h);
}

INLINE AVX2 void transpose_avx2(__m256i v[8])
{
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++) {
            b[4 * i + 2 * j] = _mm256_unpacklo_epi32(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm256_unpackhi_epi32(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    for (int i = 0; i < 4; i++) {
        v[2 * i] = _mm256_unpacklo_epi64(b[i], b[i + 4]);
        v[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 4]);
    }
}

/* Store the eight bytes of each half of each lane: rows y and y + 1 of block a, then of block b. */
INLINE AVX2 void store_rows(__m256i rows, uint8_t *a, uint8_t *b, ptrdiff_t stride_a, ptrdiff_t stride_b)
{
    __m128i low = _mm256_castsi256_si128(rows), high = _mm256_extracti128_si256(rows, 1);
    _mm_storel_epi64((__m128i *)a, low);
    _mm_storeh_pd((double *)(a + stride_a), _mm_castsi128_pd(low));
    _mm_storel_epi64((__m128i *)b, high);
    _mm_storeh_pd((double *)(b + stride_b), _mm_castsi128_pd(high));
}

AVX2 void idct_pair_avx2(int16_t *coefficients, const int16_t *quant, uint8_t *out_a, uint8_t *out_b,
                         ptrdiff_t stride_a, ptrdiff_t stride_b)
{
    __m256i v[8];
    __m256i *rows = (__m256i *)coefficients;
    for (int y = 0; y < 8; y++) {
        __m256i factor = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(quant + 8 * y))),
            _mm_loadu_si128((const __m128i *)(quant + 64 + 8 * y)), 1);
        v[y] = _mm256_mullo_epi16(_mm256_load_si256(rows + y), factor);
    }
    for (int y = 0; y < 8; y++) _mm256_store_si256(rows + y, _mm256_setzero_si256());
    transform_avx2(v, CONST_BITS - PASS1_BITS);
    transpose_avx2(v);
    transform_avx2(v, CONST_BITS + PASS1_BITS + 3);
    /* Columns of 16-bit numbers to rows of bytes. */
    const __m256i centre = _mm256_set1_epi8((char)-128);
    __m256i p0 = _mm256_packs_epi16(v[0], v[1]), p1 = _mm256_packs_epi16(v[2], v[3]);
    __m256i p2 = _mm256_packs_epi16(v[4], v[5]), p3 = _mm256_packs_epi16(v[6], v[7]);
    /* Each holds two columns of eight bytes: c0 c1 | c2 c3 | c4 c5 | c6 c7. */
    const __m256i interleave = _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 0, 8, 1, 9, 2, 10,
                                                3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    p0 = _mm256_shuffle_epi8(p0, interleave);
    p1 = _mm256_shuffle_epi8(p1, interleave);
    p2 = _mm256_shuffle_epi8(p2, interleave);
    p3 = _mm256_shuffle_epi8(p3, interleave);
    __m256i q0 = _mm256_unpacklo_epi16(p0, p1), q1 = _mm256_unpackhi_epi16(p0, p1); /* c0-c3 of rows 0-3, 4-7 */
    __m256i q2 = _mm256_unpacklo_epi16(p2, p3), q3 = _mm256_unpackhi_epi16(p2, p3);
    __m256i r[4] = {_mm256_unpacklo_epi32(q0, q2), _mm256_unpackhi_epi32(q0, q2), _mm256_unpacklo_epi32(q1, q3),
                    _mm256_unpackhi_epi32(q1, q3)};
    for (int i = 0; i < 4; i++) {
        store_rows(_mm256_xor_si256(r[i], centre), out_a, out_b, stride_a, stride_b);
        out_a += 2 * stride_a;
        out_b += 2 * stride_b;
    }
}
#endif
