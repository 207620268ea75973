/* Planes to RGB of full resolution, for exact crops: the pixels that libjpeg-turbo gives when nobody asks it for others.
 *
 * A sample of a plane of half the resolution lies in the middle between two pixels' centres. So a pixel is 3/4 of the
 * sample that it lies in and 1/4 of the next one, along each axis that has half the resolution, in one sum that is rounded
 * once; which way, alternates, and differs between the factors below. At the edges of the image the sample is its own
 * neighbour. Planes of other factors, and those of up to two columns, whose columns are to be doubled, repeat their
 * samples. Conversion is JFIF's with factors of 16 bits, clipped to bytes.
 */
#include "internal.h"

enum { MARGIN = 32, MOST_DOUBLED = 2 }; /* columns */

/* A component on its way to the pixels of a rectangle. */
typedef struct {
    plane plane;
    int width, height;     /* of its plane */
    int h, v, max_h, max_v;
    int smooth;            /* else samples are repeated */
    int first, last;       /* columns of the plane that the rectangle lies in */
    uint16_t *sums;        /* [last - first] between margins: of two rows, or one row */
    uint8_t *row;          /* pixels from the left of column `first` on */
} source;

typedef struct {
    source source[MAX_COMPONENTS];
    int ycc;
    pixel_rectangle pixels;
} upsampling;

INLINE int clamp(int value, int least, int most) { return value < least ? least : value > most ? most : value; }

static void describe(source *s, const header *h, int i, const plane *samples, pixel_rectangle pixels)
{
    const component *c = &h->component[i];
    int half_h = 2 * c->h == h->max_h, half_v = 2 * c->v == h->max_v, same_h = c->h == h->max_h, same_v = c->v == h->max_v;
    *s = (source){.plane = *samples, .width = c->plane_width, .height = c->plane_height, .h = c->h, .v = c->v,
                  .max_h = h->max_h, .max_v = h->max_v};
    s->smooth = (half_h && (half_v || same_v) && c->plane_width > MOST_DOUBLED) || (same_h && half_v);
    s->first = pixels.left * c->h / h->max_h;
    s->last = (pixels.right - 1) * c->h / h->max_h + 1;
}

/* Two pixels of each sum: 3/4 of it and 1/4 of the one to its left or right. */
INLINE void double_columns(const uint16_t *restrict sums, size_t count, uint16_t left, uint16_t right, const int shift,
                           uint8_t *restrict row)
{
    for (size_t x = 0; x < count; x++) {
        uint16_t three = (uint16_t)(3 * sums[x]);
        row[2 * x] = (uint8_t)((uint16_t)(three + sums[(ptrdiff_t)x - 1] + left) >> shift);
        row[2 * x + 1] = (uint8_t)((uint16_t)(three + sums[x + 1] + right) >> shift);
    }
}

/* The row of pixels `y` of a component, from the rectangle's left on. */
INLINE const uint8_t *upsample_row(const source *s, int y, int left, int width)
{
    int at = y * s->v / s->max_v, count = s->last - s->first;
    const uint8_t *near = s->plane.samples + (at - s->plane.top) * s->plane.stride + (s->first - s->plane.left);
    if (s->h == s->max_h && s->v == s->max_v) return near;
    if (!s->smooth) {
        for (int x = 0; x < width; x++) s->row[x] = near[(left + x) * s->h / s->max_h - s->first];
        return s->row;
    }
    int upper = y % 2 == 0, doubled = s->h != s->max_h;
    int before = doubled && s->first > 0, after = doubled && s->last < s->width; /* a neighbour within the image */
    uint16_t *sums = s->sums;
    if (s->v == s->max_v) {
        for (int x = -before; x < count + after; x++) sums[x] = near[x];
    } else {
        const uint8_t *far = near + (clamp(upper ? at - 1 : at + 1, 0, s->height - 1) - at) * s->plane.stride;
        for (int x = -before; x < count + after; x++) sums[x] = (uint16_t)(3 * near[x] + far[x]);
    }
    if (!doubled) {
        for (int x = 0; x < count; x++) s->row[x] = (uint8_t)((sums[x] + (upper ? 1 : 2)) >> 2);
        return s->row;
    }
    if (!before) sums[-1] = sums[0];
    if (!after) sums[count] = sums[count - 1];
    if (s->v == s->max_v) double_columns(sums, (size_t)count, 1, 2, 2, s->row);
    else double_columns(sums, (size_t)count, 8, 7, 4, s->row);
    return s->row + (left - 2 * s->first);
}

/* JFIF's factors in 16 bits, less what plain sums give: 1.402 - 1, 1.772 - 2, -0.344136 and 1 - 0.714136. */
enum { RED_OF_CR = 26345, BLUE_OF_CB = -14942, GREEN_OF_CB = -22554, GREEN_OF_CR = 18734 };

/* value * factor, rounded to the nearest: with the high halves of products of 16 bits, which SIMD has. */
INLINE int16_t scaled(int16_t value, int16_t factor)
{
    int16_t doubled = (int16_t)(2 * value), high = (int16_t)(doubled * factor >> 16);
    return (int16_t)((int16_t)(high + 1) >> 1);
}

INLINE uint8_t byte_of(int16_t value)
{
    value = value < 0 ? 0 : value;
    return (uint8_t)(value > 255 ? 255 : value);
}

INLINE void convert_row(const uint8_t *restrict luma, const uint8_t *restrict blue_chroma,
                        const uint8_t *restrict red_chroma, int width, uint8_t *restrict red, uint8_t *restrict green,
                        uint8_t *restrict blue)
{
    for (int x = 0; x < width; x++) {
        int16_t y = luma[x], cb = (int16_t)(blue_chroma[x] - 128), cr = (int16_t)(red_chroma[x] - 128);
        int16_t rest = (int16_t)((cb * GREEN_OF_CB + cr * GREEN_OF_CR + (1 << 15)) >> 16);
        red[x] = byte_of((int16_t)(y + cr + scaled(cr, RED_OF_CR)));
        green[x] = byte_of((int16_t)(y - cr + rest));
        blue[x] = byte_of((int16_t)(y + 2 * cb + scaled(cb, BLUE_OF_CB)));
    }
}

INLINE void upsample_rows(const upsampling *u, const plane rgb[3])
{
    const pixel_rectangle *p = &u->pixels;
    int width = p->right - p->left;
    for (int y = p->top; y < p->bottom; y++) {
        const uint8_t *rows[3];
        uint8_t *out[3];
        for (int i = 0; i < 3; i++) {
            rows[i] = upsample_row(&u->source[i], y, p->left, width);
            out[i] = rgb[i].samples + (y - p->top) * rgb[i].stride;
        }
        if (u->ycc) convert_row(rows[0], rows[1], rows[2], width, out[0], out[1], out[2]);
        else for (int i = 0; i < 3; i++) memcpy(out[i], rows[i], (size_t)width);
    }
}

static void upsample_portable(const upsampling *u, const plane rgb[3]) { upsample_rows(u, rgb); }

#if HAVE_AVX2
static AVX2 void upsample_avx2(const upsampling *u, const plane rgb[3]) { upsample_rows(u, rgb); }
#endif

int upsample(jc_decoder *decoder, const header *h, pixel_rectangle pixels)
{
    upsampling u = {.ycc = h->ycc, .pixels = pixels};
    size_t height = (size_t)(pixels.bottom - pixels.top);
    size_t stride = ((size_t)(pixels.right - pixels.left) + ROW_SLACK + 63) / 64 * 64;
    /* And for each component a row of pixels, of a byte each, and of sums, of two bytes each, with their margins. */
    uint8_t *memory = reserve(&decoder->rgb, MAX_COMPONENTS * (stride * height + 4 * (stride + 64)));
    if (!memory) return JC_NO_MEMORY;
    for (int i = 0; i < MAX_COMPONENTS; i++, memory += stride * height)
        decoder->full[i] = (plane){memory, (ptrdiff_t)stride, pixels.left, pixels.top};
    for (int i = 0; i < MAX_COMPONENTS; i++, memory += 4 * (stride + 64)) {
        describe(&u.source[i], h, i, &decoder->plane[i], pixels);
        u.source[i].sums = (uint16_t *)(void *)memory + MARGIN;
        u.source[i].row = memory + 3 * (stride + 64);
    }
#if HAVE_AVX2
    if (decoder->simd) {
        upsample_avx2(&u, decoder->full);
        return JC_OK;
    }
#endif
    upsample_portable(&u, decoder->full);
    return JC_OK;
}
