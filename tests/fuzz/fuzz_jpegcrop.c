/* Fuzzing of the JPEG decoder: every function of jpegcrop.h that reads untrusted bytes, with buffers of exactly the size
 * that the contract names. `make fuzz` builds it with libFuzzer, or with driver.c where there is no clang.
 *
 * An input is a JPEG and, in its last PARAMETERS bytes, what to do with it. Besides what the sanitizers find, it is an
 * error when
 * - SIMD and portable code differ, or a decoder that has seen other images and a new one: in status or in one byte,
 * - an image decodes in full, but not its crop; or its crop at scale 1 differs from the same region of the image,
 * - crops of it that a pool decodes together differ from the same one by one: in status or in one byte,
 * - a transcoded image does not decode, differs from its source, has restart segments that cross rows, or changes when it
 *   is transcoded again,
 * - recoding (recode.h), libjpeg alone and both in turn do not transcode to the same bytes or refuse in the same words; but
 *   recoding may leave anything to libjpeg.
 * Whether samples are the right ones is not asked here: tests/jpeg compares them with libjpeg's.
 *
 * The longest run so far: libFuzzer of clang 14, one core, 38 minutes of its time in two runs, 2,517,471 inputs of up to
 * 8 KB, a corpus of 943. Nothing was found. The corpus executes every line of parse.c, huffman.c, idct.c and resize*.c,
 * all but one unreachable line of scan*.c, and all of decode.c but its constants. Since there is recoding: 15 minutes more,
 * 972,855 inputs, a corpus of 1,032, nothing found; every line of recode*.c but for the growth of its memory, which a seed
 * has, and all of transcode.c but nine lines. Since there are groups: 7 minutes more on half a core, 43,542 inputs, nothing
 * found. Since crops may be exact: 200 s on a shared core, 17,793 inputs, nothing found.
 */
#include "jpegcrop.h"
#include "recode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PARAMETERS = 12,
    MOST_PIXELS = 1 << 22, /* of a JPEG that is worth the time */
    MOST_FULL = 1 << 14,   /* of one that is decoded to RGB in full */
    MOST_OUT = 80,         /* pixels of an output's side */
    NEW_IN = 64,           /* one in so many inputs is decoded by a new decoder, too */
};

/* Not assert(), which a build may leave out. */
#define REQUIRE(condition)                                                                                          \
    do {                                                                                                            \
        if (!(condition)) {                                                                                         \
            fprintf(stderr, "%s:%d: required: %s\n", __FILE__, __LINE__, #condition);                                \
            abort();                                                                                                \
        }                                                                                                           \
    } while (0)

enum { SIMD, PORTABLE, NEW, DECODERS };

typedef struct {
    jc_decoder *decoder[DECODERS]; /* the new one may be NULL */
    jc_pool *pool[2];              /* with SIMD and without */
    const uint8_t *data;           /* [size] */
    size_t size;
    uint16_t corner[4]; /* fractions of the image, in 1 / 65536 */
    int out_width, out_height, flip, fill, exact;
    int is_rgb, rgb_width;
} task;

static void *allocate(size_t size)
{
    void *memory = malloc(size ? size : 1);
    REQUIRE(memory);
    memset(memory, 0xA5, size);
    return memory;
}

static double between(uint16_t fraction, int length) { return fraction / 65536.0 * length; }

static void sort(double *low, double *high)
{
    double least = *low < *high ? *low : *high;
    *high += *low - least;
    *low = least;
}

/* --- crops ------------------------------------------------------------------------------------------------------- */

/* Make the crop with every decoder; returns the status of all, and the pixels of all in crop->out. */
static int crop_with_all(const task *t, jc_crop *crop)
{
    size_t size = (size_t)crop->out_width * (size_t)crop->out_height * 3;
    uint8_t *first = crop->out;
    int status = jc_decode_crop(t->decoder[SIMD], crop);
    REQUIRE(status == crop->status && status >= 0 && status < JC_STATUS_COUNT);
    for (int i = 1; i < DECODERS; i++) {
        if (!t->decoder[i]) continue;
        crop->out = allocate(size);
        REQUIRE(jc_decode_crop(t->decoder[i], crop) == status);
        REQUIRE(status != JC_OK || memcmp(first, crop->out, size) == 0);
        free(crop->out);
    }
    crop->out = first;
    return status;
}

static jc_crop crop_of(const task *t, int width, int height, int out_width, int out_height)
{
    return (jc_crop){.data = t->data, .size = t->size, .width = width, .height = height, .out_width = out_width,
                     .out_height = out_height, .kind = t->is_rgb ? JC_RGB : JC_JPEG, .flip = (int16_t)t->flip,
                     .exact = (int16_t)t->exact, .out = allocate((size_t)out_width * (size_t)out_height * 3)};
}

/* Any box of an image, resized. */
static int fuzz_resized(const task *t, int width, int height)
{
    jc_crop crop = crop_of(t, width, height, t->out_width, t->out_height);
    double *box = crop.box;
    for (int side = 0; side < 4; side++) box[side] = between(t->corner[side], side % 2 ? height : width);
    sort(&box[0], &box[2]);
    sort(&box[1], &box[3]);
    int status = crop_with_all(t, &crop);
    free(crop.out);
    return status;
}

/* A box of whole pixels around a corner of the image or anywhere in it, on a field of some colour. */
static int fuzz_padded(const task *t, int width, int height)
{
    jc_crop crop = crop_of(t, width, height, t->out_width, t->out_height);
    crop.fill = JC_FILL | t->corner[2] | (t->corner[3] & 255) << 16;
    crop.box[0] = (int)between(t->corner[0], width + crop.out_width) - crop.out_width;
    crop.box[1] = (int)between(t->corner[1], height + crop.out_height) - crop.out_height;
    crop.box[2] = crop.box[0] + crop.out_width;
    crop.box[3] = crop.box[1] + crop.out_height;
    int status = crop_with_all(t, &crop);
    free(crop.out);
    return status;
}

/* The whole image, and a box of it at scale 1. */
static int fuzz_whole(const task *t, const jc_info *info)
{
    jc_crop whole = crop_of(t, info->width, info->height, info->width, info->height);
    whole.box[2] = info->width;
    whole.box[3] = info->height;
    whole.flip = 0;
    int status = crop_with_all(t, &whole), left = (int)between(t->corner[0], info->width);
    int top = (int)between(t->corner[1], info->height), width = 1 + (int)between(t->corner[2], info->width - left);
    int height = 1 + (int)between(t->corner[3], info->height - top);
    jc_crop part = crop_of(t, info->width, info->height, width, height);
    for (int side = 0; side < 4; side++) part.box[side] = side % 2 ? top + side / 2 * height : left + side / 2 * width;
    if (status == JC_OK) {
        REQUIRE(jc_decode_crop(t->decoder[SIMD], &part) == JC_OK);
        int differ = 0;
        for (int y = 0; y < height; y++) {
            const uint8_t *a = part.out + 3 * y * width, *b = whole.out + 3 * ((top + y) * info->width + left);
            for (int x = 0; x < width; x++)
                for (int i = 0; i < 3; i++) differ |= a[3 * (t->flip ? width - 1 - x : x) + i] ^ b[3 * x + i];
        }
        REQUIRE(!differ);
    }
    free(part.out);
    free(whole.out);
    return status;
}

/* Four neighbours of one source, of which the second has an impossible box, the third one may be in another group by
 * being exact, and the last one has all of the image. */
static void fuzz_group(const task *t, int width, int height)
{
    enum { CROPS = 4 };
    jc_crop together[CROPS];
    int64_t failed = 0;
    for (int i = 0; i < CROPS; i++) {
        jc_crop *crop = &together[i];
        *crop = crop_of(t, width, height, t->out_width, t->out_height);
        for (int side = 0; side < 4; side++)
            crop->box[side] = between(t->corner[(side + i) % 4], side % 2 ? height : width);
        sort(&crop->box[0], &crop->box[2]);
        sort(&crop->box[1], &crop->box[3]);
        if (i == 1) crop->box[2] = width + 1;
        if (i == 2) crop->exact ^= (int16_t)t->fill;
        if (i == CROPS - 1) memcpy(crop->box, (double[4]){0, 0, width, height}, sizeof crop->box);
        failed += crop_with_all(t, crop) != JC_OK;
    }
    size_t size = (size_t)t->out_width * (size_t)t->out_height * 3;
    for (int way = 0; way < 2; way++) {
        jc_crop again[CROPS];
        for (int i = 0; i < CROPS; i++) {
            again[i] = together[i];
            again[i].out = allocate(size);
        }
        REQUIRE(jc_pool_decode(t->pool[way], again, CROPS) == failed);
        for (int i = 0; i < CROPS; i++) {
            REQUIRE(again[i].status == together[i].status);
            REQUIRE(again[i].status != JC_OK || memcmp(again[i].out, together[i].out, size) == 0);
            free(again[i].out);
        }
    }
    for (int i = 0; i < CROPS; i++) free(together[i].out);
}

/* --- planes ------------------------------------------------------------------------------------------------------ */

typedef struct {
    uint8_t *plane[3];
    size_t size[3];
} planes;

static planes planes_of(const jc_info *info)
{
    planes p = {{0}, {0}};
    for (int i = 0; i < info->components; i++) {
        p.size[i] = (size_t)info->plane_width[i] * (size_t)info->plane_height[i];
        p.plane[i] = allocate(p.size[i]);
    }
    return p;
}

static void free_planes(planes *p)
{
    for (int i = 0; i < 3; i++) free(p->plane[i]);
}

static void require_same_planes(const planes *a, const planes *b)
{
    for (int i = 0; i < 3; i++)
        REQUIRE(a->size[i] == b->size[i] && (!a->size[i] || memcmp(a->plane[i], b->plane[i], a->size[i]) == 0));
}

static int planes_with_all(const task *t, const jc_info *info, planes *out)
{
    int status = jc_decode_planes(t->decoder[SIMD], t->data, t->size, out->plane);
    for (int i = 1; i < DECODERS; i++) {
        if (!t->decoder[i]) continue;
        planes other = planes_of(info);
        REQUIRE(jc_decode_planes(t->decoder[i], t->data, t->size, other.plane) == status);
        if (status == JC_OK) require_same_planes(out, &other);
        free_planes(&other);
    }
    return status;
}

/* --- transcoding ------------------------------------------------------------------------------------------------- */

typedef struct {
    int status;
    uint8_t *data;
    size_t size;
    char reason[JC_REASON];
} transcoded;

static transcoded transcode_task(const task *t, int ways)
{
    transcoded result = {.data = NULL};
    result.status = transcode_by(ways, t->data, t->size, &result.data, &result.size, result.reason);
    REQUIRE(memchr(result.reason, 0, sizeof result.reason));
    REQUIRE((result.status == JC_OK) == (result.reason[0] == 0));
    return result;
}

static int are_same(const transcoded *a, const transcoded *b)
{
    if (a->status != b->status || strcmp(a->reason, b->reason) != 0) return 0;
    return a->status != JC_OK || (a->size == b->size && memcmp(a->data, b->data, a->size) == 0);
}

static void fuzz_ways(const task *t)
{
    transcoded by_libjpeg = transcode_task(t, BY_LIBJPEG), by_both = transcode_task(t, BY_RECODING | BY_LIBJPEG);
    REQUIRE(are_same(&by_libjpeg, &by_both));
    for (int simd = 0; simd < 2; simd++) {
        transcoded recoded = transcode_task(t, BY_RECODING | (simd ? 0 : WITHOUT_BMI2));
        REQUIRE(are_same(&by_libjpeg, &recoded) || strcmp(recoded.reason, "left to libjpeg") == 0);
        jc_free(recoded.data);
    }
    jc_free(by_libjpeg.data);
    jc_free(by_both.data);
}

static void fuzz_transcode(const task *t, const planes *original)
{
    char reason[JC_REASON];
    task again = *t;
    uint8_t *once, *twice;
    size_t size;
    jc_info info;
    fuzz_ways(t);
    int status = jc_transcode(t->data, t->size, &once, &size, reason);
    REQUIRE(memchr(reason, 0, sizeof reason));
    REQUIRE((status == JC_OK) == (reason[0] == 0));
    if (status != JC_OK) return;
    again.data = once;
    again.size = size;
    REQUIRE(jc_read_info(once, size, &info) == JC_OK);
    REQUIRE(!info.progressive && info.restart_interval == jc_restart_interval(info.mcus_per_row));
    REQUIRE(info.mcus_per_row % info.restart_interval == 0);
    planes result = planes_of(&info);
    REQUIRE(planes_with_all(&again, &info, &result) == JC_OK);
    if (original) require_same_planes(original, &result);
    REQUIRE(jc_transcode(once, size, &twice, &size, reason) == JC_OK);
    REQUIRE(size == again.size && memcmp(once, twice, size) == 0);
    free_planes(&result);
    jc_free(twice);
    jc_free(once);
}

/* --- an input ---------------------------------------------------------------------------------------------------- */

static void fuzz_jpeg(const task *t)
{
    jc_info info;
    if (jc_read_info(t->data, t->size, &info) != JC_OK) {
        jc_crop crop = crop_of(t, 8, 8, 8, 8);
        crop.box[2] = crop.box[3] = 8;
        REQUIRE(crop_with_all(t, &crop) != JC_OK);
        free(crop.out);
        fuzz_group(t, 8, 8);
        fuzz_transcode(t, NULL);
        return;
    }
    int64_t pixels = (int64_t)info.width * info.height;
    if (pixels > MOST_PIXELS) return;
    planes original = planes_of(&info);
    int status = planes_with_all(t, &info, &original);
    int resized = fuzz_resized(t, info.width, info.height);
    REQUIRE(status != JC_OK || resized == JC_OK || resized == JC_BAD_BOX);
    fuzz_group(t, info.width, info.height);
    if (t->fill) REQUIRE(fuzz_padded(t, info.width, info.height) == JC_OK || status != JC_OK);
    /* Thirds of a pixel are no binary fractions: a box and the whole image round them apart. */
    int has_thirds = 0;
    for (int i = 0; i < info.components; i++) has_thirds |= info.h[i] == 3 || info.v[i] == 3;
    if (pixels <= MOST_FULL && !has_thirds) REQUIRE(fuzz_whole(t, &info) == status);
    fuzz_transcode(t, status == JC_OK ? &original : NULL);
    free_planes(&original);
}

static void fuzz_rgb(const task *t)
{
    int width = t->rgb_width, height = (int)(t->size / (3 * (size_t)width));
    if (!height) return;
    if (height > 65535) height = 65535;
    int is_exact = (size_t)height * (size_t)width * 3 == t->size;
    int status = t->fill ? fuzz_padded(t, width, height) : fuzz_resized(t, width, height);
    REQUIRE(is_exact || status != JC_OK);
    REQUIRE(!is_exact || status == JC_OK || status == JC_BAD_BOX);
}

static task read_task(const uint8_t *input, size_t size)
{
    const uint8_t *p = input + size - PARAMETERS;
    task t = {.size = size - PARAMETERS, .out_width = 1 + p[8] % MOST_OUT, .out_height = 1 + p[9] % MOST_OUT};
    for (int i = 0; i < 4; i++) t.corner[i] = (uint16_t)(p[2 * i] << 8 | p[2 * i + 1]);
    t.flip = p[10] & 1;
    t.fill = p[10] >> 1 & 1;
    t.is_rgb = (p[10] >> 2) % 8 == 7;
    t.exact = p[10] >> 5 & 1;
    t.rgb_width = 1 + p[11];
    uint8_t *data = allocate(t.size); /* so that a read behind its end is one behind an allocation's */
    memcpy(data, input, t.size);
    t.data = data;
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    static jc_decoder *simd, *portable;
    static jc_pool *pool[2];
    static unsigned inputs;
    if (size < PARAMETERS) return 0;
    if (!simd) simd = jc_decoder_new(0);
    if (!portable) portable = jc_decoder_new(JC_PORTABLE);
    for (int i = 0; i < 2; i++)
        if (!pool[i]) pool[i] = jc_pool_new(1, i ? JC_PORTABLE : 0);
    REQUIRE(simd && portable && pool[0] && pool[1]);
    task t = read_task(input, size);
    t.decoder[SIMD] = simd;
    t.decoder[PORTABLE] = portable;
    memcpy(t.pool, pool, sizeof pool);
    if (inputs++ % NEW_IN == 0) t.decoder[NEW] = jc_decoder_new(0);
    if (t.is_rgb) fuzz_rgb(&t);
    else fuzz_jpeg(&t);
    jc_decoder_free(t.decoder[NEW]);
    free((void *)t.data);
    return 0;
}
