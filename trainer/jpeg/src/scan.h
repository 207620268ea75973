/* What scan.c and its parts share: the plan of an image, and the functions that a set of instructions brings. */
#ifndef JPEGCROP_SCAN_H
#define JPEGCROP_SCAN_H

#include "scan_bits.h"

typedef struct {
    const huffman *dc, *ac;
    int component;
    ptrdiff_t offset; /* of the block's samples within its component's part of an MCU */
} block_plan;

/* What all segments of an image share. */
typedef struct {
    jc_decoder *decoder;
    int blocks;
    block_plan block[MAX_BLOCKS_IN_MCU + 1];
    /* Of each block, in both lanes; and of each block and the next. Aligned, since vectors that straddle lines of the
     * cache cost a hundredth of all the time. */
    int16_t quant[MAX_BLOCKS_IN_MCU + 1][128] __attribute__((aligned(64)));
    int16_t quant_mixed[MAX_BLOCKS_IN_MCU + 1][128] __attribute__((aligned(64)));
    ptrdiff_t stride[MAX_COMPONENTS];
    ptrdiff_t mcu_width[MAX_COMPONENTS];  /* bytes from an MCU's samples to the next one's */
    ptrdiff_t mcu_height[MAX_COMPONENTS]; /* and to those of the row below */
    uint8_t order[LAST_POSITION + 1 + 16]; /* where in its block the coefficient goes that leads to a position */
    idct_pair_function *idct;
} scan_plan;

/* A run of MCUs in one row: pass over `skip` of them, decode `take` from the rectangle's column `column` on. */
typedef struct {
    int skip, take, column, row;
} mcu_run;

typedef struct {
    bits bits;
    uint32_t dc[MAX_COMPONENTS]; /* predictions; unsigned, so that corrupt ones wrap */
} stream;

/* --- scan_mcus.c: runs of MCUs ------------------------------------------------------------------------------------ */

/* Pass over `count` MCUs. Returns a jc_status. */
typedef int skip_function(const scan_plan *plan, stream *s, int count);
skip_function skip_portable;

/* Decode a run of MCUs out of one stream, or two of them out of two: in the run's row and in the one below. */
typedef int take_function(const scan_plan *plan, stream *streams, mcu_run run);
take_function take_one_portable, take_two_portable;

/* --- scan_markers.c: markers and stuffing ------------------------------------------------------------------------- */

/* Copy what stands before `end`, without the zeros behind FF. Returns how many bytes that is; may write 31 more. */
typedef size_t destuff_function(uint8_t *out, const uint8_t *at, const uint8_t *end);
destuff_function destuff_portable;

/* The first FF that is not followed by a stuffed zero, or `end`. */
typedef const uint8_t *next_marker_function(const uint8_t *at, const uint8_t *end);
next_marker_function next_marker_portable;

#if HAVE_AVX2
skip_function skip_avx2;
take_function take_one_avx2, take_two_avx2;
destuff_function destuff_avx2;
next_marker_function next_marker_avx2;
#endif

#endif
