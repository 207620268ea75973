/* The door: sizes, box and buffers are checked here; then a header, a rectangle of MCUs, planes, images. */
#include "internal.h"

#include <math.h>
#include <stdlib.h>

static const char *const texts[JC_STATUS_COUNT] = {
    [JC_OK] = "no error",
    [JC_NO_MEMORY] = "not enough memory",
    [JC_NOT_A_JPEG] = "not a JPEG",
    [JC_BAD_HEADER] = "damaged JPEG: impossible header",
    [JC_UNSUPPORTED] = "unsupported JPEG: what is decoded is Huffman-coded, 8 bits, gray, YCbCr or, if sequential, RGB",
    [JC_TRUNCATED] = "damaged JPEG: its data end too early",
    [JC_CORRUPT] = "damaged JPEG: corrupt data",
    [JC_OTHER_SIZE] = "the JPEG's width and height are not those of its record",
    [JC_BAD_BOX] = "the crop is empty or outside of the image",
    [JC_BAD_ARGUMENT] = "no or too large an output, or a missing buffer",
};

const char *jc_status_text(int status)
{
    return status >= 0 && status < JC_STATUS_COUNT ? texts[status] : "unknown status";
}

int jc_version(void) { return JC_VERSION; }

int jc_has_simd(void)
{
#if HAVE_AVX2
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
#else
    return 0;
#endif
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

jc_decoder *jc_decoder_new(int flags)
{
    size_t size = (sizeof(jc_decoder) + 63) / 64 * 64;
    jc_decoder *decoder = aligned_alloc(64, size);
    if (!decoder) return NULL;
    memset(decoder, 0, size);
    decoder->simd = !(flags & JC_PORTABLE) && jc_has_simd();
    return decoder;
}

void jc_decoder_free(jc_decoder *decoder)
{
    if (!decoder) return;
    scratch *all[] = {&decoder->bits,    &decoder->planes, &decoder->segments,
                      &decoder->filters, &decoder->rows,   &decoder->inside, &decoder->rgb};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]->memory);
    free(decoder);
}

#ifndef SPARE
#define SPARE(size) ((size) / 4) /* images grow by little: not at every one. The fuzzer's build spares nothing. */
#endif

void *reserve(scratch *scratch, size_t size)
{
    if (size <= scratch->size) return scratch->memory;
    free(scratch->memory);
    size = (size + SPARE(size) + 63) / 64 * 64;
    scratch->memory = aligned_alloc(64, size);
    scratch->size = scratch->memory ? size : 0;
    return scratch->memory;
}

int reserve_planes(jc_decoder *decoder, int components, const int width[], const int height[])
{
    size_t size = 0, stride[MAX_COMPONENTS];
    for (int i = 0; i < components; i++) {
        stride[i] = ((size_t)width[i] + ROW_SLACK + 63) / 64 * 64;
        size += stride[i] * (size_t)height[i];
    }
    uint8_t *memory = reserve(&decoder->planes, size + ROW_SLACK);
    if (!memory) return JC_NO_MEMORY;
    for (int i = 0; i < components; i++) {
        decoder->plane[i] = (plane){memory, (ptrdiff_t)stride[i], 0, 0};
        memory += stride[i] * (size_t)height[i];
    }
    return JC_OK;
}

/* --- JPEG -------------------------------------------------------------------------------------------------------- */

INLINE int floor_div(int a, int b) { return a / b; }
INLINE int ceil_div(int a, int b) { return (a + b - 1) / b; }

static mcu_rectangle united(mcu_rectangle a, mcu_rectangle b)
{
    return (mcu_rectangle){a.left < b.left ? a.left : b.left, a.top < b.top ? a.top : b.top,
                           a.right > b.right ? a.right : b.right, a.bottom > b.bottom ? a.bottom : b.bottom};
}

static mcu_rectangle intersected(mcu_rectangle a, mcu_rectangle b)
{
    return (mcu_rectangle){a.left > b.left ? a.left : b.left, a.top > b.top ? a.top : b.top,
                           a.right < b.right ? a.right : b.right, a.bottom < b.bottom ? a.bottom : b.bottom};
}

/* How the planes are to be resized for a crop. Returns the MCUs that its filters read. */
static mcu_rectangle plan_crop(const header *h, const jc_crop *crop, resize_task *task)
{
    mcu_rectangle r = {h->mcus_per_row, h->mcu_rows, 0, 0};
    *task = (resize_task){.components = h->components, .ycc = h->ycc, .out_width = crop->out_width,
                          .out_height = crop->out_height, .flip = crop->flip};
    for (int i = 0; i < h->components; i++) {
        const component *c = &h->component[i];
        double *box = task->box[i];
        for (int side = 0; side < 4; side++)
            box[side] = side % 2 ? crop->box[side] * c->v / h->max_v : crop->box[side] * c->h / h->max_h;
        /* The last sample of a subsampled plane may stand for less than the others. */
        if (box[2] > c->plane_width) box[2] = c->plane_width;
        if (box[3] > c->plane_height) box[3] = c->plane_height;
        extent x = filter_extent(box[0], box[2], crop->out_width, c->plane_width);
        extent y = filter_extent(box[1], box[3], crop->out_height, c->plane_height);
        mcu_rectangle own = {floor_div(x.first, 8 * c->h), floor_div(y.first, 8 * c->v), ceil_div(x.last, 8 * c->h),
                             ceil_div(y.last, 8 * c->v)};
        r = united(r, own);
        task->plane_width[i] = c->plane_width;
        task->plane_height[i] = c->plane_height;
    }
    return r;
}

/* Crops of one source. Those with the status JC_OK are to be made. */
typedef struct {
    jc_crop *crops;
    int64_t count;
} group;

static void fail(const group *g, int status)
{
    for (int64_t i = 0; i < g->count; i++)
        if (g->crops[i].status == JC_OK) g->crops[i].status = status;
}

/* The MCUs that any of the crops reads. */
static mcu_rectangle plan_group(const header *h, const group *g)
{
    mcu_rectangle r = {h->mcus_per_row, h->mcu_rows, 0, 0};
    resize_task unused;
    for (int64_t i = 0; i < g->count; i++)
        if (g->crops[i].status == JC_OK) r = united(r, plan_crop(h, &g->crops[i], &unused));
    return r;
}

/* The same of exact crops, and the pixels that they read. */
static mcu_rectangle plan_exact_group(const header *h, const group *g, pixel_rectangle *pixels)
{
    *pixels = (pixel_rectangle){h->width, h->height, 0, 0};
    for (int64_t i = 0; i < g->count; i++)
        if (g->crops[i].status == JC_OK) *pixels = united(*pixels, exact_extent(&g->crops[i]));
    int across = context_of(h->max_h), down = context_of(h->max_v);
    mcu_rectangle r = {(pixels->left - across) / (8 * h->max_h), (pixels->top - down) / (8 * h->max_v),
                       ceil_div(pixels->right + across, 8 * h->max_h), ceil_div(pixels->bottom + down, 8 * h->max_v)};
    return intersected(r, (mcu_rectangle){0, 0, h->mcus_per_row, h->mcu_rows});
}

static int make_planes(jc_decoder *decoder, const header *h, const group *g)
{
    if (!g->crops->exact) return decode_rectangle(decoder, h, plan_group(h, g));
    pixel_rectangle pixels;
    int status = decode_rectangle(decoder, h, plan_exact_group(h, g, &pixels));
    return status == JC_OK && h->components > 1 ? upsample(decoder, h, pixels) : status;
}

static int resize_crop(jc_decoder *decoder, const header *h, const jc_crop *crop)
{
    resize_task task;
    if (crop->exact) return resize_exact(decoder, h->components > 1 ? decoder->full : decoder->plane, h->components, crop);
    plan_crop(h, crop, &task);
    return resize_planes(decoder, &task, crop->out);
}

static void decode_jpeg(jc_decoder *decoder, const header *h, const group *g)
{
    int status = make_planes(decoder, h, g);
    if (status == JC_OK) {
        for (int64_t i = 0; i < g->count; i++)
            if (g->crops[i].status == JC_OK) g->crops[i].status = resize_crop(decoder, h, &g->crops[i]);
    } else if (g->count == 1) {
        fail(g, status);
    } else { /* each by itself: some may read nothing that is damaged */
        for (int64_t i = 0; i < g->count; i++)
            if (g->crops[i].status == JC_OK) decode_jpeg(decoder, h, &(group){&g->crops[i], 1});
    }
}

/* A JPEG that is not sequential, made so. */
typedef int sequential_function(jc_decoder *decoder, const header *h, void *context);

static int is_same_frame(const header *a, const header *b)
{
    int same = a->width == b->width && a->height == b->height && a->components == b->components;
    for (int i = 0; same && i < a->components; i++)
        same = a->component[i].h == b->component[i].h && a->component[i].v == b->component[i].v;
    return same;
}

static int with_sequential(jc_decoder *decoder, const uint8_t *data, size_t size, const header *original,
                           sequential_function *use, void *context)
{
    header h;
    char reason[JC_REASON];
    uint8_t *sequential = NULL;
    int status = jc_transcode(data, size, &sequential, &size, reason);
    if (status != JC_OK) return status;
    status = read_header(sequential, size, &h);
    if (status == JC_OK && (h.indirect || !is_same_frame(&h, original))) status = JC_BAD_HEADER;
    if (status == JC_OK) status = use(decoder, &h, context);
    jc_free(sequential);
    return status;
}

static int decode_jpeg_again(jc_decoder *decoder, const header *h, void *context)
{
    decode_jpeg(decoder, h, context);
    return JC_OK;
}

/* --- interface --------------------------------------------------------------------------------------------------- */

/* What native.py tells NumPy and ctypes. */
_Static_assert(sizeof(jc_crop) == 88 && offsetof(jc_crop, box) == 24 && offsetof(jc_crop, exact) == 78 &&
               offsetof(jc_crop, status) == 84, "jc_crop");

static int check_box(const jc_crop *crop)
{
    const double *box = crop->box;
    int whole = 1;
    for (int side = 0; side < 4; side++) whole &= fabs(box[side]) <= 1 << 20 && is_whole(box[side]);
    /* Written so that what is not a number fails. Thinner boxes than this have no use, and would cost precision. */
    if (!crop->fill)
        return box[0] >= 0 && box[2] <= crop->width && box[2] - box[0] >= 1e-3 && box[1] >= 0 &&
               box[3] <= crop->height && box[3] - box[1] >= 1e-3;
    return whole && box[2] - box[0] == crop->out_width && box[3] - box[1] == crop->out_height;
}

static int check(const jc_crop *crop)
{
    if (!crop->data || !crop->out) return JC_BAD_ARGUMENT;
    if (crop->out_width < 1 || crop->out_width > JC_MAX_OUT) return JC_BAD_ARGUMENT;
    if (crop->out_height < 1 || crop->out_height > JC_MAX_OUT) return JC_BAD_ARGUMENT;
    if (crop->width < 1 || crop->width > 65535 || crop->height < 1 || crop->height > 65535) return JC_BAD_ARGUMENT;
    if (crop->kind != JC_JPEG && crop->kind != JC_RGB) return JC_BAD_ARGUMENT;
    if (crop->fill && (crop->fill & ~0xFFFFFF) != JC_FILL) return JC_BAD_ARGUMENT;
    return check_box(crop) ? JC_OK : JC_BAD_BOX;
}

/* Whether the source is what its record says; the header of a JPEG is read for it. */
static int check_source(const jc_crop *crop, header *h)
{
    if (crop->kind == JC_RGB)
        return crop->size == (uint64_t)crop->width * (uint64_t)crop->height * 3 ? JC_OK : JC_OTHER_SIZE;
    int status = read_header(crop->data, (size_t)crop->size, h);
    if (status != JC_OK) return status;
    return h->width == crop->width && h->height == crop->height ? JC_OK : JC_OTHER_SIZE;
}

/* Of pixels it is a group of one. */
static void crop_inside(jc_decoder *decoder, group g)
{
    header h;
    int status = check_source(g.crops, &h);
    if (status == JC_OK && g.crops->kind == JC_RGB)
        status = decode_pixels(decoder, g.crops);
    else if (status == JC_OK && h.indirect)
        status = with_sequential(decoder, g.crops->data, (size_t)g.crops->size, &h, decode_jpeg_again, &g);
    else if (status == JC_OK)
        decode_jpeg(decoder, &h, &g);
    fail(&g, status);
}

/* A crop that may leave the image: the part inside is made apart, and put into a field of the colour. */
static int crop_padded(jc_decoder *decoder, const jc_crop *crop)
{
    size_t width = (size_t)crop->out_width, height = (size_t)crop->out_height;
    const double *box = crop->box;
    for (size_t i = 0; i < width * height; i++) {
        crop->out[3 * i] = (uint8_t)(crop->fill >> 16);
        crop->out[3 * i + 1] = (uint8_t)(crop->fill >> 8);
        crop->out[3 * i + 2] = (uint8_t)crop->fill;
    }
    jc_crop inside = *crop;
    inside.fill = 0;
    for (int side = 0; side < 2; side++) {
        int length = side ? crop->height : crop->width;
        if (inside.box[side] < 0) inside.box[side] = 0;
        if (inside.box[side + 2] > length) inside.box[side + 2] = length;
        if (inside.box[side] >= inside.box[side + 2]) {
            header unused;
            return check_source(crop, &unused);
        }
    }
    inside.out_width = (int32_t)(inside.box[2] - inside.box[0]);
    inside.out_height = (int32_t)(inside.box[3] - inside.box[1]);
    size_t row = 3 * (size_t)inside.out_width;
    inside.out = reserve(&decoder->inside, row * (size_t)inside.out_height);
    if (!inside.out) return JC_NO_MEMORY;
    crop_inside(decoder, (group){&inside, 1});
    if (inside.status != JC_OK) return inside.status;
    size_t left = (size_t)(crop->flip ? box[2] - inside.box[2] : inside.box[0] - box[0]);
    uint8_t *out = crop->out + 3 * ((size_t)(inside.box[1] - box[1]) * width + left);
    for (size_t y = 0; y < (size_t)inside.out_height; y++) memcpy(out + 3 * y * width, inside.out + y * row, row);
    return JC_OK;
}

int are_grouped(const jc_crop *a, const jc_crop *b)
{
    return a->data == b->data && a->size == b->size && a->width == b->width && a->height == b->height &&
           a->kind == JC_JPEG && b->kind == JC_JPEG && !a->fill && !b->fill && !a->exact == !b->exact;
}

void decode_group(jc_decoder *decoder, jc_crop *crops, int64_t count)
{
    int64_t sound = 0;
    for (int64_t i = 0; i < count; i++) sound += (crops[i].status = check(&crops[i])) == JC_OK;
    if (!sound) return;
    if (crops->fill) crops->status = crop_padded(decoder, crops);
    else crop_inside(decoder, (group){crops, count});
}

int jc_decode_crop(jc_decoder *decoder, jc_crop *crop)
{
    if (!decoder || !crop) return JC_BAD_ARGUMENT;
    decode_group(decoder, crop, 1);
    return crop->status;
}

static int copy_planes(jc_decoder *decoder, const header *h, void *context)
{
    uint8_t **out = context;
    int status = decode_rectangle(decoder, h, (mcu_rectangle){0, 0, h->mcus_per_row, h->mcu_rows});
    for (int i = 0; i < h->components && status == JC_OK; i++) {
        const component *c = &h->component[i];
        const plane *p = &decoder->plane[i];
        for (int y = 0; y < c->plane_height; y++)
            memcpy(out[i] + (size_t)y * (size_t)c->plane_width, p->samples + y * p->stride, (size_t)c->plane_width);
    }
    return status;
}

int jc_decode_planes(jc_decoder *decoder, const uint8_t *data, size_t size, uint8_t *out[3])
{
    if (!decoder || !data || !out) return JC_BAD_ARGUMENT;
    header h;
    int status = read_header(data, size, &h);
    for (int i = 0; status == JC_OK && i < h.components; i++)
        if (!out[i]) status = JC_BAD_ARGUMENT;
    if (status != JC_OK) return status;
    return h.indirect ? with_sequential(decoder, data, size, &h, copy_planes, out) : copy_planes(decoder, &h, out);
}
