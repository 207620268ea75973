/* Planes to an RGB image: the triangle filter along columns, then along rows, then colour; a row of the image at a time,
 * so that everything between the planes and the output stays in the first-level cache.
 *
 * The filter is Pillow's BILINEAR: output i is centred at low + (i + 1/2) * scale; its support is the scale, at least 1;
 * weights 1 - |distance| / support are normalised over the pixels that exist.
 *
 * Two precisions. Up to a scale of MAX_SCALE, weights have 16 bits, their products 8 bits after the point: truncation
 * costs at most 1 / 256 a tap, half of which a bias gives back. Above it, exact sums of 22-bit weights.
 */
#include "internal.h"

#include <math.h>

enum {
    MAX_SCALE = 8,
    MAX_TAPS = 2 * MAX_SCALE + 2,
    WIDE_BITS = 22,
    VECTOR = 32,       /* outputs that are made at a time: rows are padded to a multiple */
    FRACTION_BITS = 6, /* of samples between filter and colour */
};

typedef struct {
    int32_t base[2];                 /* first source sample of outputs 0-7 and 8-15 */
    uint8_t shuffle[32];             /* from there to the high bytes of words */
} gather;

/* One axis: output i is the sum over t of weight[t][i] * source[first[i] + t]. */
typedef struct {
    int length, padded;      /* outputs; rounded up */
    int taps;
    int bias;                /* half of the taps that the support has room for: the same for every crop at a scale */
    int wide;
    int can_gather;          /* any eight neighbours read from 16 samples */
    int32_t *first;          /* [padded] */
    uint16_t *weight;        /* [taps][padded], narrow */
    uint32_t *wide_weight;   /* [padded][taps], wide */
    gather *gathers;         /* [padded / 16], narrow and gatherable */
} filter;

INLINE int padded_length(int length) { return (length + VECTOR - 1) / VECTOR * VECTOR; }

typedef struct {
    double low, scale, support;
    int length;
} axis;

static axis make_axis(double low, double high, int out_length, int length)
{
    double scale = (high - low) / out_length;
    return (axis){low, scale, scale < 1 ? 1 : scale, length};
}

INLINE double centre_of(const axis *a, int i) { return a->low + (i + 0.5) * a->scale; }

INLINE int first_of(const axis *a, double centre)
{
    int first = (int)(centre - a->support + 0.5);
    return first < 0 ? 0 : first >= a->length ? a->length - 1 : first;
}

INLINE int last_of(const axis *a, double centre, int first)
{
    int last = (int)(centre + a->support + 0.5);
    return last > a->length ? a->length : last <= first ? first + 1 : last;
}

extent filter_extent(double low, double high, int out_length, int length)
{
    axis a = make_axis(low, high, out_length, length);
    double end = centre_of(&a, out_length - 1);
    return (extent){first_of(&a, centre_of(&a, 0)), last_of(&a, end, first_of(&a, end))};
}

/* Weights of a wide filter for the samples [first, last), which sum up to 1 << WIDE_BITS. */
static void make_wide_weights(const axis *a, double centre, int first, int last, uint32_t *weight)
{
    double inverse = 1 / a->support, sum = 0;
    for (int x = first; x < last; x++) {
        double w = 1 - fabs(x + 0.5 - centre) * inverse;
        sum += w > 0 ? w : 0;
    }
    uint32_t total = 0;
    int heaviest = 0;
    for (int t = 0; t < last - first; t++) {
        double w = 1 - fabs(first + t + 0.5 - centre) * inverse;
        weight[t] = w > 0 ? (uint32_t)(w * ((1 << WIDE_BITS) / sum) + 0.5) : 0;
        total += weight[t];
        if (weight[t] > weight[heaviest]) heaviest = t;
    }
    weight[heaviest] += (1 << WIDE_BITS) - total;
}

static void make_gathers(filter *f)
{
    f->can_gather = 1;
    for (int g = 0; g < f->padded / 16; g++) {
        for (int half = 0; half < 2; half++) {
            const int32_t *first = f->first + 16 * g + 8 * half;
            int32_t base = first[0];
            for (int i = 1; i < 8; i++)
                if (first[i] < base) base = first[i];
            f->gathers[g].base[half] = base;
            for (int i = 0; i < 8; i++) {
                if (first[i] - base > 15) f->can_gather = 0;
                f->gathers[g].shuffle[16 * half + 2 * i] = 0x80;
                f->gathers[g].shuffle[16 * half + 2 * i + 1] = (uint8_t)(first[i] - base);
            }
        }
    }
}

static size_t filter_bytes(int padded, int taps)
{
    size_t n = (size_t)padded;
    return n * 4 + n * (size_t)taps * 4 + n / 16 * sizeof(gather) + 3 * 64;
}

static int most_taps(const axis *a)
{
    double taps = 2 * a->support + 2;
    return taps < a->length ? (int)taps : a->length;
}

static void *carve(uint8_t **memory, size_t size)
{
    uint8_t *begin = (uint8_t *)(((uintptr_t)*memory + 63) & ~(uintptr_t)63);
    *memory = begin + size;
    return begin;
}

/* The weights of VECTOR outputs from `begin` on; all of them side by side, so that the compiler can vectorise. */
static void make_weights(filter *f, const axis *a, int taps, int begin)
{
    double centre[VECTOR], sum[VECTOR], weight[MAX_TAPS][VECTOR];
    int32_t first[VECTOR], total[VECTOR], most[VECTOR], rounded[MAX_TAPS][VECTOR];
    const double inverse = 1 / a->support, last = a->length - 0.5;
    for (int i = 0; i < VECTOR; i++) {
        centre[i] = a->low + (begin + i + 0.5) * a->scale;
        double low = centre[i] - a->support + 0.5;
        first[i] = (int32_t)(low < 0 ? 0 : low > a->length - 1 ? a->length - 1 : low);
        sum[i] = 0;
        total[i] = 1 << 16;
        most[i] = 0;
    }
    for (int t = 0; t < taps; t++) {
        for (int i = 0; i < VECTOR; i++) {
            double x = first[i] + t + 0.5, w = 1 - fabs(x - centre[i]) * inverse;
            w = w > 0 ? w : 0;
            w = x <= last ? w : 0;
            weight[t][i] = w;
            sum[i] += w;
        }
    }
    for (int i = 0; i < VECTOR; i++) sum[i] = sum[i] > 0 ? (1 << 16) / sum[i] : 0; /* behind the last output: nothing */
    for (int t = 0; t < taps; t++) {
        for (int i = 0; i < VECTOR; i++) {
            int32_t w = (int32_t)(weight[t][i] * sum[i] + 0.5);
            rounded[t][i] = w;
            total[i] -= w;
            most[i] = w > most[i] ? w : most[i];
        }
    }
    for (int i = 0; i < VECTOR; i++) f->first[begin + i] = first[i];
    for (int t = 0; t < taps; t++) {
        uint16_t *out = f->weight + t * f->padded + begin;
        for (int i = 0; i < VECTOR; i++) {
            /* What rounding lost goes to the heaviest. One sample's whole weight is a hair less, to fit 16 bits. */
            int32_t is_most = rounded[t][i] == most[i], w = rounded[t][i] + (is_most ? total[i] : 0);
            total[i] = is_most ? 0 : total[i];
            most[i] = is_most ? -1 : most[i];
            out[i] = (uint16_t)(w > 0xFFFF ? 0xFFFF : w < 0 ? 0 : w);
        }
    }
}

/* Taps that some output uses. */
static int used_taps(const filter *f, int most)
{
    for (; most > 1; most--) {
        const uint16_t *weight = f->weight + (most - 1) * f->padded;
        unsigned any = 0;
        for (int i = 0; i < f->length; i++) any |= weight[i];
        if (any) break;
    }
    return most;
}

static void mirror(filter *f)
{
    for (int i = 0, j = f->length - 1; i < j; i++, j--) {
        int32_t first = f->first[i];
        f->first[i] = f->first[j];
        f->first[j] = first;
    }
    for (int t = 0; t < f->taps; t++) {
        uint16_t *weight = f->weight + t * f->padded;
        for (int i = 0, j = f->length - 1; i < j; i++, j--) {
            uint16_t w = weight[i];
            weight[i] = weight[j];
            weight[j] = w;
        }
    }
}

/* The filter of an axis for a plane whose sample `origin` is the first that is there. */
static void make_filter(filter *f, const axis *a, int out_length, int origin, int flip, uint8_t *memory)
{
    int most = most_taps(a);
    f->length = out_length;
    f->padded = padded_length(out_length);
    f->bias = (int)(a->support + 0.5);
    f->wide = a->scale > MAX_SCALE;
    f->first = carve(&memory, (size_t)f->padded * 4);
    f->gathers = carve(&memory, (size_t)f->padded / 16 * sizeof(gather));
    f->weight = carve(&memory, (size_t)f->padded * (size_t)most * 4);
    f->wide_weight = (uint32_t *)(void *)f->weight;
    if (f->wide) {
        f->taps = most;
        memset(f->wide_weight, 0, (size_t)f->padded * (size_t)most * sizeof *f->wide_weight);
        for (int i = 0; i < out_length; i++) {
            int place = flip ? out_length - 1 - i : i;
            double centre = centre_of(a, i);
            int first = first_of(a, centre), last = last_of(a, centre, first);
            f->first[place] = first - origin;
            make_wide_weights(a, centre, first, last, f->wide_weight + (size_t)place * (size_t)most);
        }
        return;
    }
    for (int i = 0; i < f->padded; i += VECTOR) make_weights(f, a, most, i);
    f->taps = used_taps(f, most);
    if (flip) mirror(f);
    for (int i = 0; i < f->padded; i++) f->first[i] = i < out_length ? f->first[i] - origin : f->first[out_length - 1];
    make_gathers(f);
}

/* --- one row, portable ------------------------------------------------------------------------------------------ */

/* Rows of samples to one row: sum of rows[t] * weight[t]. */
static void columns_portable(const uint8_t *const *rows, const uint16_t *weight, int taps, int bias, int width,
                             uint8_t *out)
{
    for (int x = 0; x < width; x++) {
        uint16_t sum = (uint16_t)(128 + bias);
        for (int t = 0; t < taps; t++) sum = (uint16_t)(sum + (rows[t][x] * (uint32_t)weight[t] >> 8));
        out[x] = (uint8_t)(sum >> 8);
    }
}

static void columns_wide(const uint8_t *const *rows, const uint32_t *weight, int taps, int width, uint32_t *sums,
                         uint8_t *out)
{
    for (int x = 0; x < width; x++) sums[x] = 1u << (WIDE_BITS - 1);
    for (int t = 0; t < taps; t++) {
        uint32_t w = weight[t];
        if (w)
            for (int x = 0; x < width; x++) sums[x] += rows[t][x] * w;
    }
    for (int x = 0; x < width; x++) out[x] = (uint8_t)(sums[x] >> WIDE_BITS);
}

static void rows_portable(const filter *f, const uint8_t *samples, int16_t *out)
{
    for (int i = 0; i < f->padded; i++) {
        uint16_t sum = (uint16_t)f->bias;
        for (int t = 0; t < f->taps; t++)
            sum = (uint16_t)(sum + (samples[f->first[i] + t] * (uint32_t)f->weight[t * f->padded + i] >> 8));
        out[i] = (int16_t)(sum >> (8 - FRACTION_BITS));
    }
}

static void rows_wide(const filter *f, const uint8_t *samples, int16_t *out)
{
    for (int i = 0; i < f->length; i++) {
        const uint32_t *weight = f->wide_weight + (size_t)i * (size_t)f->taps;
        uint32_t sum = 1u << (WIDE_BITS - FRACTION_BITS - 1);
        for (int t = 0; t < f->taps; t++)
            if (weight[t]) sum += samples[f->first[i] + t] * weight[t];
        out[i] = (int16_t)(sum >> (WIDE_BITS - FRACTION_BITS));
    }
    for (int i = f->length; i < f->padded; i++) out[i] = 0;
}

/* Factors of JFIF's conversion, 1.402, 0.344136, 0.714136 and 1.772, less what plain sums give, in 15 bits. */
enum { RED_CR = 13173, GREEN_CB = 11277, GREEN_CR = 23401, BLUE_CB = 7471 };

INLINE int scaled(int value, int factor) { return (value * factor + (1 << 14)) >> 15; }

INLINE uint8_t to_byte(int value)
{
    value = (value + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void colour_portable(int16_t *const rows[3], int ycc, int width, uint8_t *out)
{
    for (int x = 0; x < width; x++, out += 3) {
        int y = rows[0][x], cb = rows[1][x], cr = rows[2][x];
        if (ycc) {
            cb -= 128 << FRACTION_BITS;
            cr -= 128 << FRACTION_BITS;
            out[0] = to_byte(y + cr + scaled(cr, RED_CR));
            out[1] = to_byte(y - scaled(cb, GREEN_CB) - scaled(cr, GREEN_CR));
            out[2] = to_byte(y + 2 * cb - scaled(cb, BLUE_CB));
        } else {
            out[0] = to_byte(y);
            out[1] = to_byte(cb);
            out[2] = to_byte(cr);
        }
    }
}

/* --- one row, AVX2 ---------------------------------------------------------------------------------------------- */

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

static AVX2 void columns_avx2(const uint8_t *const *rows, const uint16_t *weight, int taps, int bias, int width,
                              uint8_t *out)
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

static AVX2 void rows_avx2(const filter *f, const uint8_t *samples, int16_t *out)
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

/* 32 pixels a turn: writes 96 bytes for each, also for those behind the width. */
static AVX2 void colour_avx2(int16_t *const rows[3], int ycc, int width, uint8_t *out)
{
    for (int x = 0; x < width; x += VECTOR, out += 96) {
        rgb_words a = convert(rows, x, ycc), b = convert(rows, x + 8, ycc);
        __m256i red = _mm256_packus_epi16(a.red, b.red), green = _mm256_packus_epi16(a.green, b.green);
        __m256i blue = _mm256_packus_epi16(a.blue, b.blue);
        __m256i p0 = interleaved(0, red, green, blue), p1 = interleaved(1, red, green, blue);
        __m256i p2 = interleaved(2, red, green, blue);
        _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(p0, p1, 0x20));
        _mm256_storeu_si256((__m256i *)(out + 32), _mm256_permute2x128_si256(p2, p0, 0x30));
        _mm256_storeu_si256((__m256i *)(out + 64), _mm256_permute2x128_si256(p1, p2, 0x31));
    }
}
#endif

/* --- the image -------------------------------------------------------------------------------------------------- */

typedef struct {
    filter vertical, horizontal;
    int first_column, width; /* samples of each row that the horizontal filter reads */
    int rows;                /* of the plane that are there */
    const uint8_t *samples;
    ptrdiff_t stride;
} channel;

typedef struct {
    const uint8_t **taps; /* [most taps] */
    uint8_t *samples[MAX_COMPONENTS]; /* rows after the vertical filter */
    uint32_t *sums;
    int16_t *filtered[MAX_COMPONENTS];
    uint8_t *pixels; /* the last row of an output whose width is no multiple of VECTOR */
} row_memory;

static int is_same_filter(const axis *a, const axis *b)
{
    return a->low == b->low && a->scale == b->scale && a->length == b->length;
}

static int make_channels(jc_decoder *d, const resize_task *task, channel channels[])
{
    axis vertical[MAX_COMPONENTS], horizontal[MAX_COMPONENTS];
    size_t size = 0;
    for (int i = 0; i < task->components; i++) {
        const double *box = task->box[i];
        horizontal[i] = make_axis(box[0], box[2], task->out_width, task->plane_width[i]);
        vertical[i] = make_axis(box[1], box[3], task->out_height, task->plane_height[i]);
        size += filter_bytes(padded_length(task->out_width), most_taps(&horizontal[i]));
        size += filter_bytes(padded_length(task->out_height), most_taps(&vertical[i]));
    }
    uint8_t *memory = reserve(&d->filters, size);
    if (!memory) return JC_NO_MEMORY;
    for (int i = 0; i < task->components; i++) {
        channel *c = &channels[i];
        const plane *p = &d->plane[i];
        extent columns = filter_extent(task->box[i][0], task->box[i][2], task->out_width, task->plane_width[i]);
        c->first_column = columns.first;
        c->width = columns.last - columns.first;
        c->samples = p->samples + (columns.first - p->left);
        c->stride = p->stride;
        extent rows = filter_extent(task->box[i][1], task->box[i][3], task->out_height, task->plane_height[i]);
        c->rows = rows.last - p->top;
        /* Both chroma planes have the same filters: usually the third component, those of the second. */
        if (i && is_same_filter(&horizontal[i], &horizontal[i - 1]) && is_same_filter(&vertical[i], &vertical[i - 1]) &&
            p->top == d->plane[i - 1].top) {
            c->horizontal = channels[i - 1].horizontal;
            c->vertical = channels[i - 1].vertical;
            continue;
        }
        make_filter(&c->horizontal, &horizontal[i], task->out_width, columns.first, task->flip, memory);
        memory += filter_bytes(padded_length(task->out_width), most_taps(&horizontal[i]));
        make_filter(&c->vertical, &vertical[i], task->out_height, p->top, 0, memory);
        memory += filter_bytes(padded_length(task->out_height), most_taps(&vertical[i]));
    }
    return JC_OK;
}

static int reserve_rows(jc_decoder *d, const resize_task *task, const channel channels[], row_memory *rows)
{
    size_t width = 0, taps = 0, padded = (size_t)padded_length(task->out_width);
    for (int i = 0; i < task->components; i++) {
        if ((size_t)channels[i].width > width) width = (size_t)channels[i].width;
        if ((size_t)channels[i].vertical.taps > taps) taps = (size_t)channels[i].vertical.taps;
    }
    size_t samples = width + VECTOR + ROW_SLACK;
    uint8_t *memory = reserve(&d->rows, taps * sizeof(uint8_t *) + samples * (MAX_COMPONENTS + 4) + padded * (2 * MAX_COMPONENTS + 3) +
                                            (2 * MAX_COMPONENTS + 4) * 64);
    if (!memory) return JC_NO_MEMORY;
    rows->taps = carve(&memory, taps * sizeof(uint8_t *));
    for (int i = 0; i < MAX_COMPONENTS; i++) rows->samples[i] = carve(&memory, samples);
    rows->sums = carve(&memory, samples * 4);
    for (int i = 0; i < MAX_COMPONENTS; i++) rows->filtered[i] = carve(&memory, padded * 2);
    rows->pixels = carve(&memory, padded * 3);
    return JC_OK;
}

static void filter_columns(const channel *c, int y, int simd, const row_memory *memory, uint8_t *out)
{
    const filter *v = &c->vertical;
    uint16_t weight[MAX_TAPS];
    for (int t = 0; t < v->taps; t++) { /* taps without weight may lie behind the last row */
        int row = v->first[y] + t < c->rows ? v->first[y] + t : c->rows - 1;
        memory->taps[t] = c->samples + row * c->stride;
        if (!v->wide) weight[t] = v->weight[t * v->padded + y];
    }
    if (v->wide)
        columns_wide(memory->taps, v->wide_weight + (size_t)y * (size_t)v->taps, v->taps, c->width, memory->sums, out);
#if HAVE_AVX2
    else if (simd)
        columns_avx2(memory->taps, weight, v->taps, v->bias, c->width, out);
#endif
    else
        columns_portable(memory->taps, weight, v->taps, v->bias, c->width, out);
    (void)simd;
}

static void filter_row(const filter *h, int simd, const uint8_t *samples, int16_t *out)
{
    if (h->wide) rows_wide(h, samples, out);
#if HAVE_AVX2
    else if (simd && h->can_gather)
        rows_avx2(h, samples, out);
#endif
    else
        rows_portable(h, samples, out);
    (void)simd;
}

int resize_planes(jc_decoder *d, const resize_task *task, uint8_t *out)
{
    channel channels[MAX_COMPONENTS];
    row_memory memory;
    int status = make_channels(d, task, channels);
    if (status == JC_OK) status = reserve_rows(d, task, channels, &memory);
    if (status != JC_OK) return status;
    int16_t *rows[3] = {memory.filtered[0], memory.filtered[1], memory.filtered[2]};
    if (task->components == 1) rows[1] = rows[2] = rows[0];
    int ycc = task->components == 3 && task->ycc, width = task->out_width;
    for (int y = 0; y < task->out_height; y++, out += 3 * (size_t)width) {
        /* All columns before all rows: a load from what has just been stored in other pieces would have to wait. */
        for (int i = 0; i < task->components; i++) filter_columns(&channels[i], y, d->simd, &memory, memory.samples[i]);
        for (int i = 0; i < task->components; i++)
            filter_row(&channels[i].horizontal, d->simd, memory.samples[i], rows[i]);
#if HAVE_AVX2
        if (d->simd) {
            int whole = width % VECTOR == 0;
            colour_avx2(rows, ycc, width, whole ? out : memory.pixels);
            if (!whole) memcpy(out, memory.pixels, 3 * (size_t)width);
            continue;
        }
#endif
        colour_portable(rows, ycc, width, out);
    }
    return JC_OK;
}
