/* Entropy-coded data to the samples of a rectangle of MCUs.
 *
 * Only restart segments that the rectangle touches are read, and in them nothing behind its right edge. The usual case,
 * segments within one row of MCUs (see jc_restart_interval), decodes the segments of two rows in lockstep: Huffman
 * decoding is a chain of dependent steps, and two chains fill the processor where one leaves it waiting. Their blocks
 * also go through the inverse DCT side by side.
 *
 * Reading past the end. A segment is copied, without its stuffed zeros, into a buffer with SLACK bytes behind it, the
 * first eight of them all ones. No code is all ones, so no symbol begins there with one: a symbol that reaches over the
 * end takes at most 30 bits of them, and the next one is corrupt. So no read leaves the buffer, decoding ends, and its
 * result does not depend on what an earlier image left behind.
 */
#include "internal.h"

enum { GUARD = 8, SLACK = 64 };

/* --- bits -------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t window; /* the next bits, from the highest on */
    int count;       /* how many of them are valid; those behind are the right ones or zero */
    const uint8_t *at, *end;
} bits;

/* At least 56 valid bits. */
INLINE void refill(bits *b)
{
    uint64_t next;
    memcpy(&next, b->at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    next = __builtin_bswap64(next);
#endif
    b->window |= next >> b->count;
    b->at += (63 - b->count) >> 3;
    b->count |= 56;
}

INLINE void consume(bits *b, int count)
{
    b->window <<= count;
    b->count -= count;
}

/* Give back the last `count` bits. */
INLINE void give_back(bits *b, int count)
{
    int before = b->count + count, bytes = (before + 7) >> 3;
    const uint8_t *from = b->at - bytes;
    *b = (bits){.at = from, .end = b->end};
    refill(b);
    consume(b, bytes * 8 - before);
}

/* Whether more has been consumed than there was. */
INLINE int is_overrun(const bits *b) { return (b->at - b->end) * 8 > b->count; }

/* What a code that does not exist means: within the last 16 bits, that the rest of it is missing. */
static int failure(const bits *b) { return (b->at - b->end) * 8 + 16 > b->count ? JC_TRUNCATED : JC_CORRUPT; }

/* --- symbols ----------------------------------------------------------------------------------------------------- */

/* The symbol at the window's top: its code's length << 8 | run << 4 | size; 0 if there is none. */
static unsigned read_symbol(const huffman *table, uint64_t window)
{
    unsigned entry = table->single[window >> (64 - SHORT_BITS)];
    if (entry) return entry;
    int32_t aligned = (int32_t)(window >> 48);
    for (int length = SHORT_BITS + 1; length <= 16; length++)
        if (aligned <= table->max_code[length])
            return (unsigned)length << 8 | table->symbols[((aligned >> (16 - length)) + table->offset[length]) & 255];
    return 0;
}

/* The value of the `size` bits at the top of the window (F.2.2.1, EXTEND). */
INLINE int read_value(uint64_t window, int size)
{
    int value = (int)((window >> 1) >> (63 - size));
    int negative = (int)((int64_t)~window >> 63);
    return value + (negative & (1 - (1 << size)));
}

/* One AC symbol, however long. Returns the new position. */
static __attribute__((noinline)) unsigned read_ac_symbol(bits *b, const huffman *table, unsigned position,
                                                         int16_t *block, const uint8_t *order)
{
    refill(b);
    unsigned symbol = read_symbol(table, b->window);
    unsigned run = symbol >> 4 & 15;
    int size = symbol & 15;
    consume(b, (int)(symbol >> 8));
    if (!symbol || (!size && run && run != 15)) return CORRUPT_POSITION;
    if (!size && !run) return position + AT_END;
    position += run + 1;
    if (block) block[order[position]] = (int16_t)read_value(b->window, size);
    consume(b, size);
    refill(b);
    return position;
}

INLINE int is_complete(unsigned position) { return position == 64 || position - AT_END - 1 < 63; }

/* The difference of a DC coefficient; *bad is set if there is none. Leaves at least 25 valid bits. */
INLINE int read_dc(bits *b, const huffman *table, int *bad)
{
    unsigned symbol = table->single[b->window >> (64 - SHORT_BITS)];
    if (UNLIKELY(!symbol)) symbol = read_symbol(table, b->window);
    int size = symbol & 15;
    *bad |= symbol == 0 || (symbol & 0xF0);
    consume(b, (int)(symbol >> 8));
    int difference = read_value(b->window, size);
    consume(b, size);
    return difference;
}

/* --- blocks ------------------------------------------------------------------------------------------------------ */

/* A block whose AC coefficients are being decoded. */
typedef struct {
    uint64_t sums;  /* of entries: bits 0-7 say how many bits are not yet taken off the count, 8-15 the position */
    uint64_t entry; /* the last one, 0 for a symbol that did not fit */
} progress;

INLINE unsigned position_of(const progress *p) { return p->sums >> 8 & 255; }

/* Settle the count of bits, and refill: 3 * LOOKUP_BITS are there then, and 2 also after a DC coefficient. */
INLINE void settle(bits *b, progress *p)
{
    b->count -= p->sums & 255;
    p->sums &= 0xFF00;
    refill(b);
}

/* Decode one entry of the table of pairs. */
INLINE void step(bits *b, progress *p, const huffman *table, int16_t *block, const uint8_t *order)
{
    uint64_t entry = table->pair[b->window >> (64 - LOOKUP_BITS)];
    p->entry = entry;
    if (UNLIKELY(!entry)) {
        bits copy = *b; /* or the state would have to live in memory */
        copy.count -= p->sums & 255;
        p->sums = (uint64_t)read_ac_symbol(&copy, table, position_of(p), block, order) << 8;
        *b = copy;
        return;
    }
    uint64_t first = position_of(p) + (entry >> 16 & 255);
    b->window <<= entry & 63;
    p->sums += entry;
    block[order[position_of(p)]] = (int16_t)(entry >> 48);
    block[order[first]] = (int16_t)(entry >> 32); /* without a second symbol both are the same */
}

/* The last position ends no block: return a second symbol that belongs to the next one. Returns 0 if corrupt. */
static __attribute__((noinline)) int return_second(bits *b, uint64_t entry, unsigned position, const huffman *table)
{
    unsigned second = (unsigned)((entry >> 8 & 255) - (entry >> 16 & 255));
    if (!second || position - second != 64) return 0;
    give_back(b, (int)(entry & 255));
    unsigned symbol = read_symbol(table, b->window);
    consume(b, (int)(symbol >> 8) + (int)(symbol & 15));
    return 1;
}

INLINE int finish(bits *b, progress *p, const huffman *table)
{
    b->count -= p->sums & 255;
    if (!UNLIKELY(!is_complete(position_of(p)))) return 1;
    bits copy = *b;
    int ok = return_second(&copy, p->entry, position_of(p), table);
    *b = copy;
    return ok;
}

INLINE void read_rest(bits *b, progress *p, const huffman *table, int16_t *block, const uint8_t *order)
{
    while (position_of(p) < 64) {
        settle(b, p);
        step(b, p, table, block, order);
        if (position_of(p) >= 64) break;
        step(b, p, table, block, order);
    }
}

/* Pass over a block's AC coefficients, many at a time. Returns 0 if corrupt. */
INLINE int skip_ac(bits *b, const huffman *table)
{
    unsigned position = 1, entry = 0;
    while (position < 64) {
        refill(b);
        entry = table->skip[b->window >> (64 - LOOKUP_BITS)];
        if (UNLIKELY(!entry)) {
            bits copy = *b;
            position = read_ac_symbol(&copy, table, position, NULL, NULL);
            *b = copy;
            continue;
        }
        consume(b, entry & 63);
        position += entry >> 6;
    }
    if (!UNLIKELY(!is_complete(position))) return 1;
    if (!entry) return 0;
    /* Symbols of the next block were taken with the last ones of this: once more, one by one. */
    bits copy = *b;
    give_back(&copy, entry & 63);
    position -= entry >> 6;
    while (position < 64) position = read_ac_symbol(&copy, table, position, NULL, NULL);
    *b = copy;
    return is_complete(position);
}

/* --- segments ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const huffman *dc, *ac;
    int component;
    ptrdiff_t offset; /* of the block's samples within its component's part of an MCU */
} block_plan;

/* What all segments of an image share. */
typedef struct {
    jc_decoder *decoder;
    int components, blocks;
    block_plan block[MAX_BLOCKS_IN_MCU + 1];
    int16_t quant[MAX_BLOCKS_IN_MCU + 1][128];      /* of each block, in both lanes */
    int16_t quant_mixed[MAX_BLOCKS_IN_MCU + 1][128]; /* of each block and the next */
    ptrdiff_t stride[MAX_COMPONENTS];
    ptrdiff_t mcu_width[MAX_COMPONENTS];  /* bytes from an MCU's samples to the next one's */
    ptrdiff_t mcu_height[MAX_COMPONENTS]; /* and to those of the row below */
    uint8_t order[LAST_POSITION + 1 + 16];
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

INLINE int skip_mcus(const scan_plan *plan, stream *s, int count)
{
    bits b = s->bits;
    int bad = 0;
    for (int mcu = 0; mcu < count; mcu++) {
        for (int i = 0; i < plan->blocks; i++) {
            const block_plan *block = &plan->block[i];
            refill(&b);
            s->dc[block->component] += (uint32_t)read_dc(&b, block->dc, &bad);
            if (UNLIKELY(!skip_ac(&b, block->ac) || bad)) return failure(&b);
        }
    }
    s->bits = b;
    return JC_OK;
}

INLINE uint8_t *block_samples(const scan_plan *plan, const block_plan *block, int row, int column)
{
    int c = block->component;
    return plan->decoder->plane[c].samples + row * plan->mcu_height[c] + column * plan->mcu_width[c] + block->offset;
}

/* Two streams in rows row and row + 1, in lockstep. */
INLINE int take_mcus_of_two(const scan_plan *plan, stream *streams, mcu_run run)
{
    bits a = streams[0].bits, b = streams[1].bits;
    int16_t *block_a = plan->decoder->coefficients, *block_b = block_a + PAIR_LANE;
    const uint8_t *order = plan->order;
    int bad = 0;
    for (int column = run.column; column < run.column + run.take; column++) {
        for (int i = 0; i < plan->blocks; i++) {
            const block_plan *block = &plan->block[i];
            const huffman *ac = block->ac;
            int c = block->component;
            refill(&a);
            refill(&b);
            streams[0].dc[c] += (uint32_t)read_dc(&a, block->dc, &bad);
            streams[1].dc[c] += (uint32_t)read_dc(&b, block->dc, &bad);
            block_a[0] = (int16_t)(uint16_t)streams[0].dc[c];
            block_b[0] = (int16_t)(uint16_t)streams[1].dc[c];
            progress pa = {.sums = 1 << 8}, pb = {.sums = 1 << 8};
            for (;;) {
                settle(&a, &pa);
                settle(&b, &pb);
                step(&a, &pa, ac, block_a, order);
                step(&b, &pb, ac, block_b, order);
                if ((position_of(&pa) | position_of(&pb)) >= 64) break;
                step(&a, &pa, ac, block_a, order);
                step(&b, &pb, ac, block_b, order);
                if ((position_of(&pa) | position_of(&pb)) >= 64) break;
                step(&a, &pa, ac, block_a, order);
                step(&b, &pb, ac, block_b, order);
                if ((position_of(&pa) | position_of(&pb)) >= 64) break;
            }
            read_rest(&a, &pa, ac, block_a, order);
            read_rest(&b, &pb, ac, block_b, order);
            if (UNLIKELY(!finish(&a, &pa, ac) || !finish(&b, &pb, ac) || bad)) {
                int status = failure(&a);
                return status == JC_TRUNCATED ? status : failure(&b);
            }
            uint8_t *out = block_samples(plan, block, run.row, column);
            plan->idct(block_a, plan->quant[i], out, out + plan->mcu_height[c], plan->stride[c], plan->stride[c]);
        }
    }
    streams[0].bits = a;
    streams[1].bits = b;
    return JC_OK;
}

/* One stream; its blocks go two by two through the inverse DCT. */
INLINE int take_mcus_of_one(const scan_plan *plan, stream *s, mcu_run run)
{
    bits b = s->bits;
    int16_t *coefficients = plan->decoder->coefficients;
    uint8_t nowhere[64];
    int bad = 0;
    for (int column = run.column; column < run.column + run.take; column++) {
        uint8_t *out[2] = {NULL, nowhere};
        ptrdiff_t stride[2] = {0, 8};
        for (int i = 0; i < plan->blocks; i++) {
            const block_plan *block = &plan->block[i];
            int c = block->component, lane = i & 1;
            refill(&b);
            s->dc[c] += (uint32_t)read_dc(&b, block->dc, &bad);
            int16_t *into = coefficients + lane * PAIR_LANE;
            into[0] = (int16_t)(uint16_t)s->dc[c];
            progress p = {.sums = 1 << 8};
            read_rest(&b, &p, block->ac, into, plan->order);
            if (UNLIKELY(!finish(&b, &p, block->ac) || bad)) return failure(&b);
            out[lane] = block_samples(plan, block, run.row, column);
            stride[lane] = plan->stride[c];
            if (lane) {
                plan->idct(coefficients, plan->quant_mixed[i - 1], out[0], out[1], stride[0], stride[1]);
                out[1] = nowhere;
                stride[1] = 8;
            } else if (i == plan->blocks - 1) {
                plan->idct(coefficients, plan->quant_mixed[i], out[0], nowhere, stride[0], 8);
            }
        }
    }
    s->bits = b;
    return JC_OK;
}

typedef struct {
    int (*skip)(const scan_plan *, stream *, int);
    int (*take_one)(const scan_plan *, stream *, mcu_run);
    int (*take_two)(const scan_plan *, stream *, mcu_run);
    size_t (*destuff)(uint8_t *, const uint8_t *, const uint8_t *);
    const uint8_t *(*next_marker)(const uint8_t *, const uint8_t *);
} scan_functions;

/* --- markers and stuffing ---------------------------------------------------------------------------------------- */

/* The first FF that is not followed by a stuffed zero, or `end`. */
static const uint8_t *next_marker_portable(const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        at = memchr(at, 0xFF, (size_t)(end - at));
        if (!at || at + 1 == end) return end;
        if (at[1] != 0) return at;
        at += 2;
    }
    return end;
}

/* Copy what stands before `end`, without the zeros behind FF. Returns the number of bytes written. */
static size_t destuff_portable(uint8_t *out, const uint8_t *at, const uint8_t *end)
{
    uint8_t *begin = out;
    while (at < end) {
        const uint8_t *stop = memchr(at, 0xFF, (size_t)(end - at));
        size_t length = (size_t)((stop ? stop + 1 : end) - at);
        memcpy(out, at, length);
        out += length;
        at += length + (stop != NULL);
    }
    return (size_t)(out - begin);
}

static int skip_portable(const scan_plan *plan, stream *s, int count) { return skip_mcus(plan, s, count); }
static int take_one_portable(const scan_plan *plan, stream *s, mcu_run run) { return take_mcus_of_one(plan, s, run); }
static int take_two_portable(const scan_plan *plan, stream *s, mcu_run run) { return take_mcus_of_two(plan, s, run); }
static const scan_functions portable = {skip_portable, take_one_portable, take_two_portable, destuff_portable,
                                        next_marker_portable};

#if HAVE_AVX2
#include <immintrin.h>

static AVX2 const uint8_t *next_marker_avx2(const uint8_t *at, const uint8_t *end)
{
    const __m256i ff = _mm256_set1_epi8((char)0xFF), zero = _mm256_setzero_si256();
    for (; end - at >= 33; at += 32) {
        __m256i is_ff = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)at), ff);
        __m256i stuffed = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(at + 1)), zero);
        unsigned found = (unsigned)_mm256_movemask_epi8(_mm256_andnot_si256(stuffed, is_ff));
        if (found) return at + __builtin_ctz(found);
    }
    return next_marker_portable(at, end);
}

/* May write up to 31 bytes behind what it returns. */
static AVX2 size_t destuff_avx2(uint8_t *out, const uint8_t *at, const uint8_t *end)
{
    const __m256i ff = _mm256_set1_epi8((char)0xFF);
    uint8_t *begin = out;
    while (end - at >= 32) {
        __m256i chunk = _mm256_loadu_si256((const __m256i *)at);
        unsigned found = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(chunk, ff));
        _mm256_storeu_si256((__m256i *)out, chunk);
        int length = found ? __builtin_ctz(found) + 1 : 32;
        out += length;
        at += length + (found != 0);
    }
    return at < end ? (size_t)(out - begin) + destuff_portable(out, at, end) : (size_t)(out - begin);
}

static AVX2 int skip_avx2(const scan_plan *plan, stream *s, int count) { return skip_mcus(plan, s, count); }
static AVX2 int take_one_avx2(const scan_plan *plan, stream *s, mcu_run run) { return take_mcus_of_one(plan, s, run); }
static AVX2 int take_two_avx2(const scan_plan *plan, stream *s, mcu_run run) { return take_mcus_of_two(plan, s, run); }
static const scan_functions with_avx2 = {skip_avx2, take_one_avx2, take_two_avx2, destuff_avx2, next_marker_avx2};
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

/* --- the rectangle ----------------------------------------------------------------------------------------------- */

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
            if (status == JC_OK) status = (rows == 2 ? r->functions->take_two : r->functions->take_one)(r->plan, streams, run);
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
    plan->components = h->components;
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

#if HAVE_AVX2
    const scan_functions *functions = decoder->simd ? &with_avx2 : &portable;
    plan.idct = decoder->simd ? idct_pair_avx2 : idct_pair_portable;
#else
    const scan_functions *functions = &portable;
    plan.idct = idct_pair_portable;
#endif
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
