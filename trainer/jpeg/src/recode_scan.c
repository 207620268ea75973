/* The scan of recoding: symbols in, symbols out.
 *
 * Reading past the end. The data of a segment are copied, without stuffed zeros, into a buffer with BLOCK_ROOM bytes of
 * zeros behind it. Whether the end has been passed is asked after each block, and a block takes less than that.
 *
 * Positions. 1 after the DC coefficient, 64 after the last. An entry of two symbols may take one of the next block's:
 * is_beyond() tells, and copy_rare() takes both back.
 */
#include "recode.h"

#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

enum { LEAST_DC = -1024, GREATEST_DC = 1023, RST0 = 0xD0, EOI = 0xD9 };

INLINE uint64_t big_endian(uint64_t word)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

/* --- bits in ----------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t window; /* the next bits, from the highest on */
    int count;       /* how many of them are valid */
    const uint8_t *at, *end;
} reader;

/* At least 56 valid bits. */
INLINE void refill(reader *in)
{
    uint64_t next;
    memcpy(&next, in->at, 8);
    in->window |= big_endian(next) >> in->count;
    in->at += (63 - in->count) >> 3;
    in->count |= 56;
}

INLINE void consume(reader *in, int count)
{
    in->window <<= count;
    in->count -= count;
}

/* Go back by so many of the bits that were read since the last refill. */
static void unread(reader *in, int count)
{
    in->count += count;
    in->at -= (in->count + 7) >> 3;
    int skipped = -in->count & 7;
    in->window = 0;
    in->count = 0;
    refill(in);
    consume(in, skipped);
}

/* Bits that are left before the end; negative behind it. */
INLINE ptrdiff_t bits_left(const reader *in) { return (in->end - in->at) * 8 + in->count; }

/* The next symbol; -1 if there is none. */
INLINE int read_symbol(reader *in, const symbol_table *table)
{
    unsigned entry = table->symbol[in->window >> (64 - SYMBOL_BITS)];
    if (entry) {
        consume(in, (int)(entry >> 8));
        return entry & 255;
    }
    int32_t aligned = (int32_t)(in->window >> 48);
    for (int length = SYMBOL_BITS + 1; length <= 16; length++) {
        if (aligned > table->max_code[length]) continue;
        consume(in, length);
        return table->symbols[((aligned >> (16 - length)) + table->offset[length]) & 255];
    }
    return -1;
}

/* --- bits out ---------------------------------------------------------------------------------------------------- */

/* Bits are written as they are; drain() stuffs them. */
typedef struct {
    uint64_t bits; /* the last `count` of them are still to be written */
    int count;     /* below 8 after store() */
    uint8_t *at;   /* eight bytes from here on are overwritten */
} writer;

INLINE void put(writer *out, uint32_t value, int count)
{
    out->bits = out->bits << count | value;
    out->count += count;
}

/* To be called before more than 63 bits have been put. */
INLINE void store(writer *out)
{
    uint64_t word = big_endian(out->bits << 1 << (63 - out->count));
    memcpy(out->at, &word, 8);
    out->at += out->count >> 3;
    out->count &= 7;
}

/* Append what has been stored, with stuffed zeros, and leave room for as much again. Returns 0 without memory. */
static int drain(recoding *r, writer *out)
{
    const uint8_t *at = r->bytes, *end = out->at;
    size_t used = (size_t)(r->at - r->memory);
    if (r->room - used < LEAST_ROOM) {
        uint8_t *memory = realloc(r->memory, 2 * r->room);
        if (!memory) return 0;
        r->memory = memory;
        r->room *= 2;
        r->at = memory + used;
    }
    for (const uint8_t *next; at < end; at = next) {
        next = memchr(at, 0xFF, (size_t)(end - at));
        next = next ? next + 1 : end;
        memcpy(r->at, at, (size_t)(next - at));
        r->at += next - at;
        if (next[-1] == 0xFF) *r->at++ = 0;
    }
    out->at = r->bytes;
    return 1;
}

/* End a segment: fill up its last byte with ones, and append a marker. Returns 0 without memory. */
static int end_segment(recoding *r, writer *out, int marker)
{
    put(out, 0x7F, 7);
    store(out);
    out->count = 0;
    if (!drain(r, out)) return 0;
    *r->at++ = 0xFF;
    *r->at++ = (uint8_t)marker;
    return 1;
}

/* --- a block ----------------------------------------------------------------------------------------------------- */

/* The DC difference that comes next; *bad is set if there is none that is usual. */
INLINE int read_dc(reader *in, const symbol_table *table, int *bad)
{
    int size = read_symbol(in, table);
    if (UNLIKELY(size < 0 || size > MAX_DC_SIZE)) {
        *bad = 1;
        return 0;
    }
    int value = (int)((in->window >> 1) >> (63 - size));
    int negative = -(int)(~in->window >> 63);
    consume(in, size);
    return value + (negative & (1 - (1 << size)));
}

INLINE void put_dc(writer *out, const encoder *to, int difference)
{
    int magnitude = difference < 0 ? -difference : difference;
    int size = magnitude ? 32 - __builtin_clz((unsigned)magnitude) : 0;
    unsigned value = (unsigned)(difference < 0 ? difference - 1 : difference) & ((1u << size) - 1);
    put(out, (uint32_t)to->code[size] << size | value, to->length[size] + size);
    store(out);
}

/* Whether a position from 64 on is not the end of a block: 64, or below 64 and END_ADVANCE. */
INLINE int is_beyond(unsigned position) { return (position & (END_ADVANCE - 1)) + position / END_ADVANCE > 64; }

/* Take back what `last` (0 for nothing) has done, and copy the next symbol alone: it may have a long code, be sixteen
 * zeros, to which belongs what is behind them, or be the block's last. Returns the new position, or -1. */
static __attribute__((noinline)) int copy_rare(reader *in, writer *out, const block_plan *block, int position,
                                               translation last)
{
    int zeros = 0;
    unread(in, last & 255);
    out->bits >>= last >> 8 & 255;
    out->count -= last >> 8 & 255;
    position -= last >> 16 & 255;
    for (;;) {
        store(out);
        refill(in);
        int symbol = read_symbol(in, &block->ac->from), size = symbol & 15;
        if (symbol != SIXTEEN_ZEROS) {
            if (symbol < 0 || size > MAX_AC_SIZE || (!size && (symbol || zeros))) return -1;
            uint32_t value = (uint32_t)((in->window >> 1) >> (63 - size));
            consume(in, size);
            put(out, (uint32_t)block->to_ac->code[symbol] << size | value, block->to_ac->length[symbol] + size);
            position += symbol ? (symbol >> 4) + 1 : END_ADVANCE;
            return is_beyond((unsigned)position) ? -1 : position;
        }
        position += 16;
        zeros = 1;
        if (position > 63) return -1;
        put(out, block->to_ac->code[SIXTEEN_ZEROS], block->to_ac->length[SIXTEEN_ZEROS]);
    }
}

/* Translate what comes next, and add its entry to the sums. Returns the entry, 0 if there is none. */
INLINE translation copy_symbols(reader *in, writer *out, const translation *lookup, uint64_t *sums)
{
    translation t = lookup[in->window >> (64 - SYMBOL_BITS)];
    if (UNLIKELY(!t)) return 0;
    uint64_t value = in->window >> (-t & 63) & ((1u << (t >> 24 & 31)) - 1);
    in->window <<= t & 63;
    out->bits = out->bits << (t >> 8 & 63) | t >> 32 | value;
    *sums += t;
    return t;
}

/* The AC coefficients of a block. Returns 0 if they are not as they should be. */
INLINE int copy_ac(reader *in, writer *out, const block_plan *block)
{
    const translation *lookup = block->ac->lookup;
    unsigned position = 1;
    while (position < 64) {
        refill(in); /* for two entries: one takes SYMBOL_BITS + MAX_AC_SIZE bits at the most */
        uint64_t sums = position << 16;
        translation last = copy_symbols(in, out, lookup, &sums);
        if (last && (sums >> 16 & 255) < 64) last = copy_symbols(in, out, lookup, &sums);
        in->count -= sums & 255;
        out->count += sums >> 8 & 255;
        position = sums >> 16 & 255;
        if (UNLIKELY(!last || is_beyond(position))) {
            reader in_copy = *in; /* or they would have to live in memory */
            writer out_copy = *out;
            position = (unsigned)copy_rare(&in_copy, &out_copy, block, (int)position, last);
            *in = in_copy;
            *out = out_copy;
        }
        store(out);
    }
    return position < 256; /* -1 is not */
}

/* Blocks outside of the image are the encoder's filling. libjpeg writes its own: the DC before, and nothing else. */
static int copy_filling(reader *in, writer *out, const block_plan *block)
{
    uint8_t scrap[BLOCK_ROOM];
    writer nowhere = {.at = scrap};
    put_dc(out, block->to_dc, 0);
    put(out, block->to_ac->code[0], block->to_ac->length[0]);
    store(out);
    return copy_ac(in, &nowhere, block);
}

/* --- the scan ---------------------------------------------------------------------------------------------------- */

INLINE int copy_mcu(recoding *r, reader *in, writer *out, int column, int row)
{
    int bad = 0;
    for (int i = 0; i < r->blocks; i++) {
        const block_plan *block = &r->block[i];
        component_state *c = &r->component[block->component];
        refill(in);
        c->last_in += read_dc(in, block->dc, &bad);
        if (UNLIKELY(bad || c->last_in < LEAST_DC || c->last_in > GREATEST_DC)) return 0;
        if (UNLIKELY(column * c->h + block->x >= c->width_in_blocks || row * c->v + block->y >= c->height_in_blocks)) {
            reader in_copy = *in;
            writer out_copy = *out;
            bad = !copy_filling(&in_copy, &out_copy, block);
            *in = in_copy;
            *out = out_copy;
        } else {
            put_dc(out, block->to_dc, c->last_in - c->last_out);
            c->last_out = c->last_in;
            bad = !copy_ac(in, out, block);
        }
        if (UNLIKELY(bad || bits_left(in) < 0)) return 0;
    }
    return 1;
}

/* Copy a segment's bytes without stuffed zeros, and BLOCK_ROOM zeros behind. *at goes to the marker behind the segment,
 * at or behind which the file ends. Returns where the copy ends. */
static uint8_t *destuff(uint8_t *to, const uint8_t **at, const uint8_t *end)
{
    for (;;) {
        const uint8_t *next = memchr(*at, 0xFF, (size_t)(end - *at));
        size_t length = (size_t)((next ? next : end) - *at);
        memcpy(to, *at, length);
        to += length;
        *at += length;
        if (!next || end - next < 2 || next[1] != 0) break;
        *to++ = 0xFF;
        *at += 2;
    }
    memset(to, 0, BLOCK_ROOM);
    return to;
}

/* Whether a segment has been read to its end, and this marker follows. */
static int ends_with(const reader *in, const uint8_t *at, const uint8_t *end, int marker)
{
    return bits_left(in) < 8 && end - at >= 2 && at[0] == 0xFF && at[1] == marker;
}

INLINE int copy_all(recoding *r)
{
    int64_t mcus = (int64_t)r->mcus_per_row * r->mcu_rows, left_in = 0, left_out = r->restarts_out;
    int number_in = 0, number_out = 0, column = 0, row = 0;
    const uint8_t *at = r->scan;
    reader in = {0};
    writer out = {.at = r->bytes};
    for (int64_t mcu = 0; mcu < mcus; mcu++) {
        if (left_in == 0) {
            if (mcu && !ends_with(&in, at, r->end, RST0 + (number_in++ & 7))) return 0;
            at += mcu ? 2 : 0;
            in = (reader){.at = r->segment};
            in.end = destuff(r->segment, &at, r->end);
            for (int i = 0; i < r->components; i++) r->component[i].last_in = 0;
            left_in = r->restarts_in ? r->restarts_in : mcus;
        }
        if (left_out == 0) {
            if (!end_segment(r, &out, RST0 + (number_out++ & 7))) return 0;
            for (int i = 0; i < r->components; i++) r->component[i].last_out = 0;
            left_out = r->restarts_out;
        }
        if (out.at - r->bytes >= BATCH && !drain(r, &out)) return 0;
        if (!copy_mcu(r, &in, &out, column, row)) return 0;
        left_in--;
        left_out--;
        if (++column == r->mcus_per_row) {
            column = 0;
            row++;
        }
    }
    return ends_with(&in, at, r->end, EOI) && end_segment(r, &out, EOI);
}

int copy_scan(recoding *r) { return copy_all(r); }

#if HAVE_BMI2
__attribute__((target("bmi,bmi2"))) int copy_scan_bmi2(recoding *r) { return copy_all(r); }
#endif
