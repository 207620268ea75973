/* What resize.c and its parts share: a filter for each axis, and the functions that make a row with it.
 *
 * The filter is Pillow's BILINEAR: output i is centred at low + (i + 1/2) * scale; its support is the scale, 1 or more;
 * weights 1 - |distance| / support are normalised over the pixels that exist.
 *
 * Two precisions. Up to a scale of MAX_SCALE, weights have 16 bits, their products 8 bits after the point: truncation
 * costs at most 1 / 256 a tap, half of which a bias gives back. Above it, exact sums of 22-bit weights.
 */
#ifndef JPEGCROP_RESIZE_H
#define JPEGCROP_RESIZE_H

#include "internal.h"

enum {
    MAX_SCALE = 8,
    MAX_TAPS = 2 * MAX_SCALE + 2,
    WIDE_BITS = 22,
    VECTOR = 32,       /* outputs that are made at a time: rows are padded to a multiple */
    FRACTION_BITS = 6, /* of samples between filter and colour */
};

/* --- resize_filter.c: weights ------------------------------------------------------------------------------------ */

typedef struct {
    double low, scale, support;
    int length;
} axis;

typedef struct {
    int32_t base[2];     /* first source sample of outputs 0-7 and 8-15 */
    uint8_t shuffle[32]; /* from there to the high bytes of words */
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

axis make_axis(double low, double high, int out_length, int length);

INLINE double centre_of(const axis *a, int i) { return a->low + (i + 0.5) * a->scale; }

/* What an output centred there reads. */
extent reach(const axis *a, double centre);

INLINE int padded_length(int length) { return (length + VECTOR - 1) / VECTOR * VECTOR; }

/* Bytes of memory for the filter of an axis. */
size_t filter_bytes(const axis *a, int out_length);

/* The filter of an axis for a plane whose sample `origin` is the first that is there; `flip` mirrors its outputs. */
void make_filter(filter *f, const axis *a, int out_length, int origin, int flip, uint8_t *memory);

/* The next `size` bytes of memory, aligned to 64: takes up to 63 more. */
INLINE void *carve(uint8_t **memory, size_t size)
{
    uint8_t *begin = (uint8_t *)(((uintptr_t)*memory + 63) & ~(uintptr_t)63);
    *memory = begin + size;
    return begin;
}

/* --- resize_portable.c, resize_avx2.c: one row ------------------------------------------------------------------- */

/* Rows of samples to one row: sum of rows[t] * weight[t]. */
typedef void columns_function(const uint8_t *const *rows, const uint16_t *weight, int taps, int bias, int width,
                              uint8_t *out);
columns_function columns_portable;
void columns_wide(const uint8_t *const *rows, const uint32_t *weight, int taps, int width, uint32_t *sums,
                  uint8_t *out);

/* A row of samples to one of outputs, with FRACTION_BITS. */
typedef void rows_function(const filter *f, const uint8_t *samples, int16_t *out);
rows_function rows_portable, rows_wide;

/* Three rows of outputs to RGB. */
typedef void colour_function(int16_t *const rows[3], int ycc, int width, uint8_t *out);
colour_function colour_portable;

/* The same of three rows of bytes. */
typedef void interleave_function(const uint8_t *const rows[3], int width, uint8_t *out);
interleave_function interleave_portable;

#if HAVE_AVX2
columns_function columns_avx2; /* VECTOR samples a turn, and so many bytes may be read and written behind the width */
rows_function rows_avx2;       /* of filters that can gather; reads up to 15 bytes behind the last sample */
colour_function colour_avx2;   /* VECTOR pixels a turn, and writes those behind the width too */
interleave_function interleave_avx2; /* reads VECTOR samples a turn, and writes no more than the width */
#endif

/* Factors of JFIF's conversion, 1.402, 0.344136, 0.714136 and 1.772, less what plain sums give, in 15 bits. */
enum { RED_CR = 13173, GREEN_CB = 11277, GREEN_CR = 23401, BLUE_CB = 7471 };

#endif
