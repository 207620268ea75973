/* Reads entropy-coded data, without stuffed zeros, by bits. */
#ifndef JPEGCROP_SCAN_BITS_H
#define JPEGCROP_SCAN_BITS_H

#include "internal.h"

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
static inline int failure(const bits *b) { return (b->at - b->end) * 8 + 16 > b->count ? JC_TRUNCATED : JC_CORRUPT; }

#endif
