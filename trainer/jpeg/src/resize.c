/* Planes to an RGB image: the triangle filter along columns, then along rows, then colour; a row of the image at a
 * time, so that everything between the planes and the output stays in the first-level cache.
 */
#include "resize.h"

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
        size += filter_bytes(&horizontal[i], task->out_width);
        size += filter_bytes(&vertical[i], task->out_height);
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
        memory += filter_bytes(&horizontal[i], task->out_width);
        make_filter(&c->vertical, &vertical[i], task->out_height, p->top, 0, memory);
        memory += filter_bytes(&vertical[i], task->out_height);
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
    size_t size = taps * sizeof(uint8_t *) + samples * (MAX_COMPONENTS + 4) + padded * (2 * MAX_COMPONENTS + 3);
    uint8_t *memory = reserve(&d->rows, size + (2 * MAX_COMPONENTS + 4) * 64);
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
