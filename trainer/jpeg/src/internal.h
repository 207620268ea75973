/* What the files of jpegcrop share. Nothing here is part of the interface. */
#ifndef JPEGCROP_INTERNAL_H
#define JPEGCROP_INTERNAL_H

#include "jpegcrop.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_AVX2 1
#define AVX2 __attribute__((target("avx2,bmi,bmi2")))
#else
#define HAVE_AVX2 0
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

enum { MAX_COMPONENTS = 3, MAX_BLOCKS_IN_MCU = 10 };

INLINE int is_whole(double value) { return value == floor(value); }

/* --- parse.c: the header --------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *counts; /* [16] codes of each length 1..16, then their symbols; NULL: not defined */
    int symbols;
} huffman_spec;

typedef struct {
    int id, h, v; /* sampling factors; 1 x 1 for a single component, whatever the file says */
    int quant, dc, ac;
    int plane_width, plane_height; /* samples */
} component;

typedef struct {
    int width, height;
    int components;
    component component[MAX_COMPONENTS];
    int max_h, max_v;
    int mcus_per_row, mcu_rows;
    int restart_interval; /* MCUs, 0 for none */
    int ycc;              /* 1: YCbCr or gray; 0: RGB */
    int indirect;         /* progressive or in several scans: libjpeg must make it sequential first */
    uint16_t quant[4][64]; /* natural order */
    uint8_t has_quant[4];
    huffman_spec dc[4], ac[4];
    const uint8_t *scan, *end; /* entropy-coded data up to the end of the file */
} header;

/* Read the markers up to the first scan. */
int read_header(const uint8_t *data, size_t size, header *header);

extern const uint8_t natural_order[64]; /* of the k-th coefficient in zigzag order */

/* --- huffman.c: decoding tables -------------------------------------------------------------------------------- */

enum {
    LOOKUP_BITS = 13,
    SHORT_BITS = 9,
    AT_END = 96, /* what an end of block adds to the position: see huffman.c */
    LAST_POSITION = 63 + 16 + AT_END,
    CORRUPT_POSITION = 255,
};

/* AC codes. A position is 1 + the index of the last coefficient decoded. */
typedef struct {
    /* Up to two symbols with their values for the next LOOKUP_BITS bits: their length in bits 0-7, by how much they
     * advance the position in 8-15, the first of them alone in 16-23, and their values, of 16 bits each, from 32 and
     * from 48 on. So adding entries adds up lengths and positions. 0 where not even the first symbol fits. */
    uint64_t pair[1 << LOOKUP_BITS];
    /* As many symbols as can be told, without values: bits 0-5 length, 6-13 advance. 0 where none can. */
    uint16_t skip[1 << LOOKUP_BITS];
    /* One symbol: bits 0-7 the symbol (run << 4 | size), 8-11 its code's length; 0 where the code is longer. */
    uint16_t single[1 << SHORT_BITS];
    int32_t max_code[18]; /* largest code of a length, left-aligned to 16 bits; the 17th is a sentinel */
    int32_t offset[17];   /* symbol index of the first code of a length minus that code */
    uint8_t symbols[256];
    uint8_t spec[16 + 256]; /* the DHT bytes that it was built from */
    int spec_size;          /* 0: not built */
} huffman;

/* Make `table` from the bytes of a DHT segment, unless it was made from the same before. */
int build_huffman(huffman *table, huffman_spec spec, int is_ac);

/* --- idct.c ---------------------------------------------------------------------------------------------------- */

/* Coefficients of two blocks, a and b: [row][a: 8, b: 8], then room for what is decoded past the end. */
enum { PAIR_LANE = 8, PAIR_ROW = 16, PAIR_SIZE = 128, PAIR_DUMMY = 128, PAIR_ROOM = 160 };

/* Dequantise, transform (ISLOW) and level-shift two blocks, write 8 x 8 samples each, and clear the coefficients. */
typedef void idct_pair_function(int16_t *coefficients, const int16_t *quant, uint8_t *out_a, uint8_t *out_b,
                                ptrdiff_t stride_a, ptrdiff_t stride_b);
idct_pair_function idct_pair_portable;
#if HAVE_AVX2
idct_pair_function idct_pair_avx2;
#endif

/* --- scan*.c: entropy-coded data to planes --------------------------------------------------------------------- */

typedef struct {
    uint8_t *memory;
    size_t size;
} scratch;

/* A component's samples in the rectangle of MCUs that is decoded. */
typedef struct {
    uint8_t *samples;
    ptrdiff_t stride;
    int left, top; /* of the rectangle, in samples of the plane */
} plane;

typedef struct {
    int left, top, right, bottom; /* MCUs; right and bottom are exclusive */
} mcu_rectangle;

struct jc_decoder {
    int simd;
    huffman dc[4], ac[4];
    int16_t coefficients[PAIR_ROOM] __attribute__((aligned(32)));
    scratch bits, planes, segments, filters, rows, inside, rgb;
    plane plane[MAX_COMPONENTS];
    plane full[MAX_COMPONENTS]; /* red, green and blue, for exact crops */
};

/* Room for `size` bytes, contents lost; NULL when there is no memory. */
void *reserve(scratch *scratch, size_t size);

/* Bytes that may be read behind the samples of a row. */
enum { ROW_SLACK = 64 };

/* Allocate the planes for a rectangle of this many samples each. */
int reserve_planes(jc_decoder *decoder, int components, const int width[], const int height[]);

int decode_rectangle(jc_decoder *decoder, const header *header, mcu_rectangle rectangle);

/* --- decode.c: crops of one source ------------------------------------------------------------------------------ */

/* Whether both are of one JPEG, so that it may be decoded once. Another thread may be writing their statuses. */
int are_grouped(const jc_crop *a, const jc_crop *b);

/* Make crops that are grouped, each with its neighbour, or a single one; write their statuses. */
void decode_group(jc_decoder *decoder, jc_crop *crops, int64_t count);

/* --- pixels.c ---------------------------------------------------------------------------------------------------- */

/* Make a crop of a source of kind JC_RGB. */
int decode_pixels(jc_decoder *decoder, const jc_crop *crop);

/* --- upsample.c, resize_exact.c: the pixels of libjpeg-turbo and Pillow ------------------------------------------- */

typedef mcu_rectangle pixel_rectangle; /* the same in pixels */

/* Make decoder->full of these pixels of an image of three components from decoder->plane, which cover them and, as far as
 * the image goes, `context_of` more at each side. */
int upsample(jc_decoder *decoder, const header *header, pixel_rectangle pixels);

/* Columns, or rows, at each side of a pixel whose samples take part in it. */
INLINE int context_of(int max_factor) { return max_factor > 1 ? max_factor : 0; }

/* The pixels that an exact crop reads. */
pixel_rectangle exact_extent(const jc_crop *crop);

/* Make an exact crop from `count` planes, red, green and blue or only gray, of those pixels or more. */
int resize_exact(jc_decoder *decoder, const plane planes[], int count, const jc_crop *crop);

/* --- resize*.c: planes to an image ---------------------------------------------------------------------------- */

/* What the triangle filter reads along one axis of a plane of `length` samples: [first, last). */
typedef struct {
    int first, last;
} extent;

extent filter_extent(double low, double high, int out_length, int length);

typedef struct {
    int components;
    int ycc;
    double box[MAX_COMPONENTS][4]; /* of each plane, in its samples */
    int plane_width[MAX_COMPONENTS], plane_height[MAX_COMPONENTS];
    int out_width, out_height, flip;
} resize_task;

/* Resize decoder->plane, which cover what filter_extent says or more, into out. */
int resize_planes(jc_decoder *decoder, const resize_task *task, uint8_t *out);

#endif
