/* Huffman symbols, and the blocks of coefficients that they make: compiled into the loops of scan_mcus.c, the only file
 * to include this, for each set of instructions anew.
 */
#ifndef JPEGCROP_SCAN_BLOCKS_H
#define JPEGCROP_SCAN_BLOCKS_H

#include "scan_bits.h"

/* --- symbols ---------------------------------------------------------------------------------------------------- */

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

/* --- blocks ----------------------------------------------------------------------------------------------------- */

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

#endif
