/* Entropy-coded data to the samples of a rectangle of MCUs.
 *
 * Only restart segments that the rectangle touches are read, and in them nothing behind its right edge. The usual case,
 * segments within one row of MCUs (see jc_restart_interval), decodes the segments of two rows in lockstep.
 *
 * Reading past the end. A segment is copied, without its stuffed zeros, into a buffer with SLACK bytes behind it, the
 * first eight of them all ones. No code is all ones, so no symbol begins there with one: a symbol that reaches over the
 * end takes at most 30 bits of them, and the next one is corrupt. So no read leaves the buffer, decoding ends, and its
 * result does not depend on what an earlier image left behind.
 */
#include "scan.h"

enum { GUARD = 8, SLACK = 64 };

typedef struct {
    skip_function *skip;
    take_function *take_one, *take_two;
    destuff_function *destuff;
    next_marker_function *next_marker;
    idct_pair_function *idct;
} scan_functions;

static const scan_functions portable = {skip_portable,    take_one_portable,    take_two_portable,
                                        destuff_portable, next_marker_portable, idct_pair_portable};
#if HAVE_AVX2
static const scan_functions with_avx2 = {skip_avx2,    take_one_avx2,    take_two_avx2,
                                         destuff_avx2, next_marker_avx2, idct_pair_avx2};
#endif

/* Where each of the first `count` segments begins, and where the last of them ends: count + 1 offsets from h->scan. */
static int find_segments(const scan_functions *functions, const header *h, size_t *starts, size_t count)
{
    const uint8_t *at = h->scan;
    starts[0] = 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *marker = functions->next_marker(at, h->end);
        while (h->end - marker >= 2 && marker[1] == 0xFF) marker++; /* fill bytes before a marker */
        starts[i + 1] = (size_t)(marker - h->scan);
        if (i + 1 == count) return JC_OK;
        if (h->end - marker < 2 || (marker[1] & 0xF8) != 0xD0) return JC_TRUNCATED;
        if ((marker[1] & 7) != (int)(i & 7)) return JC_CORRUPT;
        at = marker + 2;
    }
    return JC_OK;
}

typedef struct {
    const header *header;
    const scan_functions *functions;
    const scan_plan *plan;
    mcu_rectangle rectangle;
    const size_t *starts;
    uint8_t *buffer[2];
} region;

static void open_stream(const region *r, stream *s, size_t segment, int lane)
{
    size_t behind_marker = segment ? 2 : 0;
    const uint8_t *begin = r->header->scan + r->starts[segment] + behind_marker;
    const uint8_t *end = r->header->scan + r->starts[segment + 1];
    size_t length = r->functions->destuff(r->buffer[lane], begin, end);
    memset(r->buffer[lane] + length, 0xFF, GUARD);
    *s = (stream){.bits = {.at = r->buffer[lane], .end = r->buffer[lane] + length}};
}

static int check_end(const stream *s) { return is_overrun(&s->bits) ? JC_TRUNCATED : JC_OK; }

/* Segments that lie within one row of MCUs each. */
static int decode_rows(const region *r)
{
    const mcu_rectangle *in = &r->rectangle;
    int interval = r->header->restart_interval, in_row = r->header->mcus_per_row / interval;
    for (int row = in->top; row < in->bottom; row += 2) {
        int rows = row + 1 < in->bottom ? 2 : 1;
        for (int part = in->left / interval; part * interval < in->right; part++) {
            int begin = part * interval, from = begin < in->left ? in->left : begin;
            int to = begin + interval < in->right ? begin + interval : in->right;
            mcu_run run = {from - begin, to - from, from - in->left, row - in->top};
            stream streams[2];
            int status = JC_OK;
            for (int i = 0; i < rows && status == JC_OK; i++) {
                open_stream(r, &streams[i], (size_t)(row + i) * (size_t)in_row + (size_t)part, i);
                if (run.skip) status = r->functions->skip(r->plan, &streams[i], run.skip);
            }
            take_function *take = rows == 2 ? r->functions->take_two : r->functions->take_one;
            if (status == JC_OK) status = take(r->plan, streams, run);
            for (int i = 0; i < rows && status == JC_OK; i++) status = check_end(&streams[i]);
            if (status != JC_OK) return status;
        }
    }
    return JC_OK;
}

/* Segments anywhere, or one for the whole image: the MCUs from `mcu` up to `stop` of one of them. */
static int decode_run_on(const region *r, stream *s, int64_t mcu, int64_t stop)
{
    const mcu_rectangle *in = &r->rectangle;
    int64_t in_row = r->header->mcus_per_row;
    while (mcu < stop) {
        int64_t row = mcu / in_row, column = mcu % in_row;
        if (row >= in->bottom) break;
        /* The next run of the rectangle: in this row, or in the next one that it has. */
        int64_t next_row = row < in->top ? in->top : column >= in->right ? row + 1 : row;
        int64_t from = next_row * in_row + (next_row == row && column > in->left ? column : in->left);
        int64_t to = next_row * in_row + in->right;
        if (next_row >= in->bottom || from >= stop) break;
        if (to > stop) to = stop;
        int status = r->functions->skip(r->plan, s, (int)(from - mcu));
        mcu_run run = {0, (int)(to - from), (int)(from - next_row * in_row) - in->left, (int)next_row - in->top};
        if (status == JC_OK) status = r->functions->take_one(r->plan, s, run);
        if (status != JC_OK) return status;
        mcu = to;
    }
    return check_end(s);
}

static int decode_anywhere(const region *r, size_t segments)
{
    int64_t in_row = r->header->mcus_per_row, total = in_row * r->header->mcu_rows;
    int64_t interval = r->header->restart_interval ? r->header->restart_interval : total;
    int64_t first = (r->rectangle.top * in_row + r->rectangle.left) / interval;
    for (int64_t i = first; i < (int64_t)segments; i++) {
        int64_t stop = (i + 1) * interval < total ? (i + 1) * interval : total;
        stream s;
        open_stream(r, &s, (size_t)i, 0);
        int status = decode_run_on(r, &s, i * interval, stop);
        if (status != JC_OK) return status;
    }
    return JC_OK;
}

static int make_plan(scan_plan *plan, jc_decoder *decoder, const header *h)
{
    memset(plan->order, PAIR_DUMMY, sizeof plan->order);
    for (int k = 0; k < 64; k++) /* of the coefficient that leads to this position: one before it */
        plan->order[k + 1] = (uint8_t)(natural_order[k] / 8 * PAIR_ROW + natural_order[k] % 8);
    plan->decoder = decoder;
    plan->blocks = 0;
    for (int i = 0; i < h->components; i++) {
        const component *c = &h->component[i];
        int status = build_huffman(&decoder->dc[c->dc], h->dc[c->dc], 0);
        if (status == JC_OK) status = build_huffman(&decoder->ac[c->ac], h->ac[c->ac], 1);
        if (status != JC_OK) return status;
        plan->stride[i] = decoder->plane[i].stride;
        plan->mcu_width[i] = 8 * c->h;
        plan->mcu_height[i] = 8 * c->v * plan->stride[i];
        for (int y = 0; y < c->v; y++) {
            for (int x = 0; x < c->h; x++) {
                plan->block[plan->blocks] = (block_plan){&decoder->dc[c->dc], &decoder->ac[c->ac], i,
                                                         8 * y * plan->stride[i] + 8 * x};
                for (int lane = 0; lane < 2; lane++)
                    memcpy(plan->quant[plan->blocks] + 64 * lane, h->quant[c->quant], 128);
                plan->blocks++;
            }
        }
    }
    for (int i = 0; i < plan->blocks; i++) {
        memcpy(plan->quant_mixed[i], plan->quant[i], 128);
        memcpy(plan->quant_mixed[i] + 64, plan->quant[i + 1 < plan->blocks ? i + 1 : i], 128);
    }
    return JC_OK;
}

/* A block takes two bits at the least. So memory and time are bounded by the size of the file, whatever it declares. */
static int check_bits(const header *h, mcu_rectangle in)
{
    int64_t mcus = (int64_t)(in.right - in.left) * (in.bottom - in.top), blocks = 0;
    for (int i = 0; i < h->components; i++) blocks += h->component[i].h * h->component[i].v;
    return mcus * blocks > 4 * (int64_t)(h->end - h->scan) ? JC_TRUNCATED : JC_OK;
}

int decode_rectangle(jc_decoder *decoder, const header *h, mcu_rectangle rectangle)
{
    scan_plan plan;
    int width[MAX_COMPONENTS], height[MAX_COMPONENTS];
    for (int i = 0; i < h->components; i++) {
        width[i] = (rectangle.right - rectangle.left) * 8 * h->component[i].h;
        height[i] = (rectangle.bottom - rectangle.top) * 8 * h->component[i].v;
    }
    int status = check_bits(h, rectangle);
    if (status == JC_OK) status = reserve_planes(decoder, h->components, width, height);
    if (status == JC_OK) status = make_plan(&plan, decoder, h);
    if (status != JC_OK) return status;
    for (int i = 0; i < h->components; i++) {
        decoder->plane[i].left = rectangle.left * 8 * h->component[i].h;
        decoder->plane[i].top = rectangle.top * 8 * h->component[i].v;
    }
    /* An error may have left coefficients behind. */
    memset(decoder->coefficients, 0, sizeof decoder->coefficients);

    const scan_functions *functions = &portable;
#if HAVE_AVX2
    if (decoder->simd) functions = &with_avx2;
#endif
    plan.idct = functions->idct;
    size_t bytes = (size_t)(h->end - h->scan), segments = 1;
    if (h->restart_interval) {
        int64_t last = (int64_t)(rectangle.bottom - 1) * h->mcus_per_row + rectangle.right - 1;
        segments = (size_t)(last / h->restart_interval) + 1;
        if (segments > bytes / 2 + 1) return JC_TRUNCATED; /* each has a marker of two bytes */
    }
    size_t *starts = reserve(&decoder->segments, (segments + 1) * sizeof *starts);
    uint8_t *buffer = reserve(&decoder->bits, 2 * (bytes + SLACK));
    if (!starts || !buffer) return JC_NO_MEMORY;
    status = find_segments(functions, h, starts, segments);
    if (status != JC_OK) return status;
    region r = {h, functions, &plan, rectangle, starts, {buffer, buffer + bytes + SLACK}};
    return h->restart_interval && h->mcus_per_row % h->restart_interval == 0 ? decode_rows(&r)
                                                                              : decode_anywhere(&r, segments);
}
