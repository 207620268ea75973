/* Exact crops of red, green and blue planes: Pillow's BILINEAR in Pillow's arithmetic. Rows are filtered first, only
 * those that the columns' filter reads, and rounded to bytes; then columns. Weights have 22 bits, each rounded to the
 * nearest, so a sum of products may miss the true one by little, and is clipped. An axis that needs no resizing is
 * copied.
 *
 * What SIMD multiplies has 16 bits: a weight is split into two parts of PART_BITS, and those of two neighbouring taps lie
 * side by side, for an instruction that multiplies pairs and adds them. Sums wrap on the way, but not at the end.
 *
 * An output is made in strips of columns, so that the rows between the filters stay in the cache, and are bounded by the
 * rows of the source.
 */
#include "resize.h"

#if HAVE_AVX2
#include <immintrin.h>
#endif

enum {
    PART_BITS = 11,
    PART = (1 << PART_BITS) - 1,
    STRIP_BYTES = 1 << 19, /* of filtered rows, if they are not too many */
    GATHERED_TAPS = 16,    /* at most, of filters that can gather: so far the reads go behind the last sample */
};

/* One axis: output i is the sum over t < count[i] of weight t of output i, times source[first[i] + t]. */
typedef struct {
    int taps;   /* the most of any output, rounded up to whole pairs; behind an output's own, weights are 0 */
    int padded; /* outputs, rounded up */
    int is_copy;
    int can_gather;
    int32_t *first, *count;  /* [padded] */
    int16_t *low, *high;     /* [taps / 2][padded][2]: parts of the weights */
    gather *gathers;         /* [padded / 8]: four outputs from one base, four from the other */
} exact_filter;

/* --- weights ------------------------------------------------------------------------------------------------------ */

static int pairs_at_most(const axis *a) { return (int)a->support + 2; } /* of 2 * support + 1 taps */

static size_t exact_filter_bytes(const axis *a, int out_length)
{
    size_t n = (size_t)padded_length(out_length);
    return n * 8 + n / 8 * sizeof(gather) + n * (size_t)pairs_at_most(a) * 8 + 5 * 64;
}

static void make_exact_weights(exact_filter *f, const axis *a, double centre, extent from, int place)
{
    double inverse = 1 / a->support, sum = 0;
    for (int x = from.first; x < from.last; x++) {
        double distance = fabs((x - centre + 0.5) * inverse);
        sum += distance < 1 ? 1 - distance : 0;
    }
    for (int t = 0; t < from.last - from.first; t++) {
        double distance = fabs((from.first + t - centre + 0.5) * inverse);
        int32_t weight = distance < 1 ? (int32_t)((1 - distance) / sum * (1 << WIDE_BITS) + 0.5) : 0;
        size_t at = ((size_t)(t / 2) * (size_t)f->padded + (size_t)place) * 2 + (size_t)(t % 2);
        f->low[at] = (int16_t)(weight & PART);
        f->high[at] = (int16_t)(weight >> PART_BITS);
    }
}

INLINE uint32_t weight_of(const exact_filter *f, int i, int t)
{
    size_t at = ((size_t)(t / 2) * (size_t)f->padded + (size_t)i) * 2 + (size_t)(t % 2);
    return (uint32_t)f->low[at] + ((uint32_t)f->high[at] << PART_BITS);
}

/* Where each eight outputs find the pairs of their first two taps. */
static void make_pair_gathers(exact_filter *f)
{
    f->can_gather = f->taps <= GATHERED_TAPS;
    for (int i = 0; i < f->padded && f->can_gather; i += 4) {
        gather *g = &f->gathers[i / 8];
        int32_t base = f->first[i];
        for (int k = 1; k < 4; k++) base = f->first[i + k] < base ? f->first[i + k] : base;
        g->base[i / 4 % 2] = base;
        for (int k = 0; k < 4; k++) {
            int offset = f->first[i + k] - base;
            uint8_t *shuffle = g->shuffle + 4 * (i % 8 + k);
            if (offset > 14) f->can_gather = 0;
            shuffle[0] = (uint8_t)offset;
            shuffle[2] = (uint8_t)(offset + 1);
            shuffle[1] = shuffle[3] = 0x80;
        }
    }
}

/* As make_filter. */
static void make_exact_filter(exact_filter *f, const axis *a, int out_length, int origin, int flip, uint8_t **memory)
{
    *f = (exact_filter){.padded = padded_length(out_length)};
    f->is_copy = a->scale == 1 && is_whole(a->low) && !flip;
    f->first = carve(memory, (size_t)f->padded * 4);
    f->count = carve(memory, (size_t)f->padded * 4);
    f->gathers = carve(memory, (size_t)f->padded / 8 * sizeof(gather));
    for (int i = 0; i < f->padded; i++) {
        int made = i < out_length ? i : out_length - 1; /* those behind the last repeat it, and are not kept */
        extent from = reach(a, centre_of(a, flip ? out_length - 1 - made : made));
        f->first[i] = from.first - origin;
        f->count[i] = from.last - from.first;
        if (f->count[i] > f->taps) f->taps = f->count[i];
    }
    f->taps = (f->taps + 1) / 2 * 2;
    size_t size = (size_t)f->taps / 2 * (size_t)f->padded * 2 * sizeof *f->low;
    f->low = carve(memory, size);
    f->high = carve(memory, size);
    memset(f->low, 0, size);
    memset(f->high, 0, size);
    for (int i = 0; i < out_length; i++) {
        double centre = centre_of(a, i);
        make_exact_weights(f, a, centre, reach(a, centre), flip ? out_length - 1 - i : i);
    }
    make_pair_gathers(f);
}

/* --- one row ------------------------------------------------------------------------------------------------------ */

INLINE uint8_t rounded_byte(uint32_t sum)
{
    sum = (sum + (1u << (WIDE_BITS - 1))) >> WIDE_BITS;
    return (uint8_t)(sum > 255 ? 255 : sum);
}

/* Outputs [begin, end) of a row of samples. */
static void exact_row_portable(const exact_filter *f, const uint8_t *samples, int begin, int end, uint8_t *out)
{
    for (int i = begin; i < end; i++) {
        uint32_t sum = 0;
        for (int t = 0; t < f->count[i]; t++) sum += samples[f->first[i] + t] * weight_of(f, i, t);
        *out++ = rounded_byte(sum);
    }
}

/* Output `y` of `width` columns. */
static void exact_columns_portable(const exact_filter *f, int y, const uint8_t *const *rows, int width, uint8_t *out)
{
    uint32_t sums[VECTOR];
    for (int x = 0; x < width; x += VECTOR, out += VECTOR) { /* the last ones write behind the width */
        memset(sums, 0, sizeof sums);
        for (int t = 0; t < f->count[y]; t++) {
            uint32_t weight = weight_of(f, y, t);
            for (int i = 0; i < VECTOR; i++) sums[i] += rows[t][x + i] * weight;
        }
        for (int i = 0; i < VECTOR; i++) out[i] = rounded_byte(sums[i]);
    }
}

#if HAVE_AVX2
typedef struct {
    __m256i low, high;
} parts;

/* Add pairs of samples, as words, times pairs of weights. */
INLINE AVX2 void add_pairs(parts *sums, __m256i samples, __m256i low, __m256i high)
{
    sums->low = _mm256_add_epi32(sums->low, _mm256_madd_epi16(samples, low));
    sums->high = _mm256_add_epi32(sums->high, _mm256_madd_epi16(samples, high));
}

INLINE AVX2 __m256i rounded_sums(const parts *sums)
{
    const __m256i half = _mm256_set1_epi32(1 << (WIDE_BITS - 1));
    __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(sums->high, PART_BITS), _mm256_add_epi32(sums->low, half));
    return _mm256_srli_epi32(sum, WIDE_BITS);
}

/* 32 bytes of four times eight sums, clipped, in the order of each half: a's four, b's, c's, d's. */
INLINE AVX2 __m256i packed(const parts sums[4])
{
    return _mm256_packus_epi16(_mm256_packs_epi32(rounded_sums(&sums[0]), rounded_sums(&sums[1])),
                               _mm256_packs_epi32(rounded_sums(&sums[2]), rounded_sums(&sums[3])));
}

INLINE AVX2 void exact_row_of(const exact_filter *f, const uint8_t *samples, const int pairs, int begin, int end,
                              uint8_t *out)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int i = begin; i < end; i += VECTOR, out += VECTOR) {
        parts sums[4];
        memset(sums, 0, sizeof sums);
        for (int k = 0; k < 4; k++) {
            const gather *from = &f->gathers[i / 8 + k];
            const uint8_t *a = samples + from->base[0], *b = samples + from->base[1];
            __m256i shuffle = _mm256_loadu_si256((const __m256i *)from->shuffle);
            for (int p = 0; p < pairs; p++) {
                size_t at = ((size_t)p * (size_t)f->padded + (size_t)(i + 8 * k)) * 2;
                __m256i bytes =
                    _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(a + 2 * p))),
                                            _mm_loadu_si128((const __m128i *)(b + 2 * p)), 1);
                add_pairs(&sums[k], _mm256_shuffle_epi8(bytes, shuffle), _mm256_loadu_si256((const __m256i *)(f->low + at)),
                          _mm256_loadu_si256((const __m256i *)(f->high + at)));
            }
        }
        _mm256_storeu_si256((__m256i *)out, _mm256_permutevar8x32_epi32(packed(sums), order));
    }
}

static AVX2 void exact_row_avx2(const exact_filter *f, const uint8_t *samples, int begin, int end, uint8_t *out)
{
    switch (f->taps) { /* known numbers of taps unroll */
    case 2: exact_row_of(f, samples, 1, begin, end, out); break;
    case 4: exact_row_of(f, samples, 2, begin, end, out); break;
    case 6: exact_row_of(f, samples, 3, begin, end, out); break;
    default: exact_row_of(f, samples, f->taps / 2, begin, end, out); break;
    }
}

static AVX2 void exact_columns_avx2(const exact_filter *f, int y, const uint8_t *const *rows, int width, uint8_t *out)
{
    const __m256i zero = _mm256_setzero_si256();
    for (int x = 0; x < width; x += VECTOR) {
        parts sums[4];
        memset(sums, 0, sizeof sums);
        for (int t = 0; t < f->count[y]; t += 2) {
            int32_t low, high;
            size_t at = ((size_t)(t / 2) * (size_t)f->padded + (size_t)y) * 2;
            memcpy(&low, f->low + at, sizeof low);
            memcpy(&high, f->high + at, sizeof high);
            __m256i lows = _mm256_set1_epi32(low), highs = _mm256_set1_epi32(high);
            __m256i a = _mm256_loadu_si256((const __m256i *)(rows[t] + x));
            __m256i b = _mm256_loadu_si256((const __m256i *)(rows[t + 1] + x));
            __m256i first = _mm256_unpacklo_epi8(a, b), second = _mm256_unpackhi_epi8(a, b);
            add_pairs(&sums[0], _mm256_unpacklo_epi8(first, zero), lows, highs);
            add_pairs(&sums[1], _mm256_unpackhi_epi8(first, zero), lows, highs);
            add_pairs(&sums[2], _mm256_unpacklo_epi8(second, zero), lows, highs);
            add_pairs(&sums[3], _mm256_unpackhi_epi8(second, zero), lows, highs);
        }
        _mm256_storeu_si256((__m256i *)(out + x), packed(sums));
    }
}
#endif

/* --- an image ------------------------------------------------------------------------------------------------------ */

typedef struct {
    exact_filter horizontal, vertical;
    int first_row, rows;       /* of the source */
    int strip;                 /* columns, a multiple of VECTOR */
    plane between[3];          /* filtered rows of a strip */
    uint8_t *columns[3];       /* a row of a strip */
    const uint8_t **taps;      /* [vertical.taps] */
} exact_task;

pixel_rectangle exact_extent(const jc_crop *crop)
{
    extent x = filter_extent(crop->box[0], crop->box[2], crop->out_width, crop->width);
    extent y = filter_extent(crop->box[1], crop->box[3], crop->out_height, crop->height);
    return (pixel_rectangle){x.first, y.first, x.last, y.last};
}

static int plan_exact(jc_decoder *d, const plane *source, int count, const jc_crop *crop, exact_task *task)
{
    axis horizontal = make_axis(crop->box[0], crop->box[2], crop->out_width, crop->width);
    axis vertical = make_axis(crop->box[1], crop->box[3], crop->out_height, crop->height);
    pixel_rectangle pixels = exact_extent(crop);
    uint8_t *memory = reserve(&d->filters, exact_filter_bytes(&horizontal, crop->out_width) +
                                               exact_filter_bytes(&vertical, crop->out_height));
    if (!memory) return JC_NO_MEMORY;
    make_exact_filter(&task->horizontal, &horizontal, crop->out_width, source->left, crop->flip, &memory);
    make_exact_filter(&task->vertical, &vertical, crop->out_height, pixels.top, 0, &memory);
    task->first_row = pixels.top - source->top;
    task->rows = pixels.bottom - pixels.top;
    size_t rows = (size_t)task->rows, strip = STRIP_BYTES / (rows * (size_t)count) / VECTOR * VECTOR;
    size_t padded = (size_t)padded_length(crop->out_width), taps = (size_t)task->vertical.taps * sizeof *task->taps;
    strip = strip < VECTOR ? VECTOR : strip > padded ? padded : strip;
    memory = reserve(&d->rows, (size_t)count * strip * (rows + 1) + taps + 7 * 64);
    if (!memory) return JC_NO_MEMORY;
    task->strip = (int)strip;
    for (int i = 0; i < count; i++) {
        task->between[i] = (plane){.samples = carve(&memory, strip * rows), .stride = (ptrdiff_t)strip};
        task->columns[i] = carve(&memory, strip);
    }
    task->taps = carve(&memory, taps);
    return JC_OK;
}

/* Rows of a strip that begins at column x: filtered, or those that are there. */
static plane filter_rows(const jc_decoder *d, const exact_task *task, const plane *source, int i, int x, int width)
{
    const exact_filter *h = &task->horizontal;
    const plane *between = &task->between[i];
    plane rows = *source;
    rows.samples += task->first_row * rows.stride;
    if (h->is_copy) {
        rows.samples += h->first[0] + x;
        return rows;
    }
    int end = x + padded_length(width);
    for (int y = 0; y < task->rows; y++) {
        const uint8_t *from = rows.samples + y * rows.stride;
        uint8_t *to = between->samples + y * between->stride;
#if HAVE_AVX2
        if (d->simd && h->can_gather) {
            exact_row_avx2(h, from, x, end, to);
            continue;
        }
#endif
        exact_row_portable(h, from, x, end, to);
    }
    (void)d;
    return *between;
}

/* Row y of the output, of columns of `rows`: filtered, or one that is there. */
static const uint8_t *filter_exact_columns(const jc_decoder *d, const exact_task *task, const plane *rows, int i, int y,
                                           int width)
{
    const exact_filter *v = &task->vertical;
    const uint8_t *first = rows->samples + v->first[y] * rows->stride;
    if (v->is_copy) return first;
    for (int t = 0; t <= v->count[y]; t++) /* one more, without weight, may make a pair */
        if (t < v->taps) task->taps[t] = first + (t < v->count[y] ? t : t - 1) * rows->stride;
#if HAVE_AVX2
    if (d->simd) {
        exact_columns_avx2(v, y, task->taps, width, task->columns[i]);
        return task->columns[i];
    }
#endif
    (void)d;
    exact_columns_portable(v, y, task->taps, width, task->columns[i]);
    return task->columns[i];
}

static void interleave(const jc_decoder *d, const uint8_t *const rows[3], int width, uint8_t *out)
{
#if HAVE_AVX2
    if (d->simd) {
        interleave_avx2(rows, width, out);
        return;
    }
#endif
    (void)d;
    interleave_portable(rows, width, out);
}

int resize_exact(jc_decoder *d, const plane planes[], int count, const jc_crop *crop)
{
    exact_task task;
    int status = plan_exact(d, planes, count, crop, &task);
    if (status != JC_OK) return status;
    for (int x = 0; x < crop->out_width; x += task.strip) {
        int width = crop->out_width - x < task.strip ? crop->out_width - x : task.strip;
        plane strip[3];
        for (int i = 0; i < count; i++) strip[i] = filter_rows(d, &task, &planes[i], i, x, width);
        uint8_t *out = crop->out + 3 * (size_t)x;
        for (int y = 0; y < crop->out_height; y++, out += 3 * (size_t)crop->out_width) {
            const uint8_t *rows[3];
            for (int i = 0; i < count; i++) rows[i] = filter_exact_columns(d, &task, &strip[i], i, y, width);
            if (count == 1) rows[1] = rows[2] = rows[0];
            interleave(d, rows, width, out);
        }
    }
    return JC_OK;
}
