/* jpegcrop: JPEG to a cropped, resized, mirrored RGB image, decoding only what the crop needs.
 *
 * Contract
 * - A decoder or a pool belongs to one caller at a time; different ones run side by side. They share no state.
 * - Input is untrusted: nothing is read outside of [data, data + size), and nothing is written outside of the output.
 *   Time and memory are bounded by the sizes of the file and of the output, whatever the header declares: more blocks
 *   than the file has bits for are refused before there is room for them. What cannot be decoded returns a jc_status.
 * - Damage is found where it is read: in the header, and in the coded data of the restart segments that the box touches.
 *   A crop fails by what itself reads, whatever else is decoded with it.
 * - Sizes, box and buffers are checked once, on entry; the functions below the door rely on it.
 * - No memory is allocated for an image that fits the scratch memory of an earlier one.
 * - The same bytes come out with and without SIMD.
 *
 * Decoded directly: baseline and extended sequential Huffman JPEGs of 8 bits, gray or YCbCr in one scan, with any
 * sampling factors. Progressive ones and those in several scans are transcoded first, by libjpeg, at every decode.
 * Restart markers make it fast: see jc_transcode.
 *
 * Arithmetic: planes are bit-equal to libjpeg's (ISLOW) DCT. Each plane is resized by the triangle filter whose support
 * grows with the scale (antialiased bilinear, as Pillow's BILINEAR), vertically and then horizontally, chroma straight
 * from its stored resolution; conversion to RGB comes last. Pixels around the box take part in the filter at its edges,
 * as if the whole image had been resized and then cropped.
 *
 * An exact crop has the pixels that libjpeg-turbo's defaults and Pillow's BILINEAR give: the planes become RGB of full
 * resolution (smooth upsampling of chroma), which is resized horizontally, rounded to bytes, and resized vertically. So is
 * one of stored pixels. Factors that are no whole fractions of the largest, which libjpeg refuses, repeat samples.
 */
#ifndef JPEGCROP_H
#define JPEGCROP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define JC_VERSION 3 /* of this interface and of bus_error.h; the Python face checks it */

typedef enum {
    JC_OK = 0,
    JC_NO_MEMORY,
    JC_NOT_A_JPEG,     /* no SOI, or no image behind it */
    JC_BAD_HEADER,     /* a marker segment that contradicts itself or the standard */
    JC_UNSUPPORTED,    /* a valid JPEG of a kind that is not decoded: see jc_status_text */
    JC_TRUNCATED,      /* the entropy-coded data end too early */
    JC_CORRUPT,        /* an impossible code, or restart markers out of order */
    JC_OTHER_SIZE,     /* the JPEG's width and height are not the expected ones */
    JC_BAD_BOX,        /* empty, not finite, or outside of the image */
    JC_BAD_ARGUMENT,   /* an output of no or too large a size, a null pointer */
    JC_STATUS_COUNT
} jc_status;

/* One line that says what the status means; for any int. */
const char *jc_status_text(int status);
int jc_version(void);

enum { JC_PORTABLE = 1 }; /* flag: no SIMD, whatever the CPU has (for tests: the result is the same) */

/* 1 if SIMD is used without JC_PORTABLE, else 0. */
int jc_has_simd(void);

/* --- one image ------------------------------------------------------------------------------------------------ */

enum { JC_JPEG = 0, JC_RGB = 1 }; /* kinds of source: a JPEG file, or height * width * 3 bytes of pixels */
#define JC_FILL 0x1000000
#define JC_MAX_OUT 16384          /* largest side of an output */

/* One crop to make. 88 bytes; trainer/jpeg/native.py describes the same to NumPy. */
typedef struct {
    const uint8_t *data; /* [size] */
    uint64_t size;
    uint8_t *out;        /* [out_height][out_width][3] RGB, contiguous */
    double box[4];       /* left, top, right, bottom in pixels of the source, fractions allowed */
    int32_t width;       /* of the source: what its record says, and the source must agree */
    int32_t height;
    int32_t out_width;
    int32_t out_height;
    int32_t kind;        /* JC_JPEG or JC_RGB */
    int16_t flip;        /* mirror left and right */
    int16_t exact;       /* the pixels of libjpeg-turbo and Pillow, for more time: see above */
    int32_t fill;        /* 0: the box lies inside of the source. JC_FILL | 0xRRGGBB: it may leave it, where this colour
                            is; then it is of whole pixels and of the output's size (nothing is resized). Of a source
                            that is wholly outside of it the header and the size are checked all the same */
    int32_t status;      /* written: a jc_status */
} jc_crop;

typedef struct jc_decoder jc_decoder;

/* Scratch memory of one thread. NULL when there is no memory. */
jc_decoder *jc_decoder_new(int flags);
void jc_decoder_free(jc_decoder *decoder);

/* Make one crop; returns what it also writes to crop->status. The output is undefined unless it is JC_OK. */
int jc_decode_crop(jc_decoder *decoder, jc_crop *crop);

typedef struct {
    int32_t width, height;
    int32_t components;        /* 1 or 3 */
    int32_t plane_width[3];    /* of each component, in samples: ceil(width * its sampling / the largest sampling) */
    int32_t plane_height[3];
    int32_t h[3], v[3];        /* sampling factors */
    int32_t progressive;       /* 1: will be transcoded at every decode */
    int32_t restart_interval;  /* MCUs; 0 without restart markers */
    int32_t mcus_per_row;
} jc_info;

/* Read the header only. */
int jc_read_info(const uint8_t *data, size_t size, jc_info *info);

/* The planes as stored, without upsampling or colour conversion. out[i] holds plane_height[i] * plane_width[i] bytes. */
int jc_decode_planes(jc_decoder *decoder, const uint8_t *data, size_t size, uint8_t *out[3]);

/* --- many images ---------------------------------------------------------------------------------------------- */

typedef struct jc_pool jc_pool;

/* A pool of `threads` (1 to 1024), the caller of jc_pool_decode being one of them. NULL when they cannot be had. */
jc_pool *jc_pool_new(int threads, int flags);
void jc_pool_free(jc_pool *pool);

/* Make all crops; returns how many failed. Their statuses tell which and why.
 *
 * Neighbours in the array of the same JPEG (data, size, width, height and exact are equal, fill is 0) are a group: one thread
 * decodes, once, the smallest rectangle of MCUs that has all of their boxes, and resizes each crop from it. The planes
 * of that rectangle are there meanwhile: two small boxes in opposite corners decode the whole image. Bytes and statuses
 * are those of crops that are made one by one; where the rectangle does not decode, they are made so. */
int64_t jc_pool_decode(jc_pool *pool, jc_crop *crops, int64_t count);

/* --- conversion ----------------------------------------------------------------------------------------------- */

#define JC_REASON 256 /* bytes of a reason, with its terminating zero */

/* Restart interval that transcoding chooses for this many MCUs per row: segments must not cross rows. */
int jc_restart_interval(int mcus_per_row);

/* Rewrite a JPEG losslessly (the same coefficients) as baseline with the standard Huffman tables and restart markers,
 * without its metadata. *out is to be freed with jc_free. JC_UNSUPPORTED for what cannot be kept losslessly, and
 * JC_CORRUPT for what libjpeg warns of; then, too, reason says why. */
int jc_transcode(const uint8_t *data, size_t size, uint8_t **out, size_t *out_size, char reason[JC_REASON]);
void jc_free(void *memory);

#ifdef __cplusplus
}
#endif
#endif
