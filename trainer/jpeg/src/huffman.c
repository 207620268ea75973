/* Decoding tables of Huffman codes (ITU-T T.81, annex C and F.2.2.3), for one, two or many symbols at a time.
 *
 * A position counts coefficients: 1 after the DC, 64 when all are decoded. A symbol of run r advances it by r + 1, the
 * end of a block by AT_END. From a position below 64, lookups therefore end
 *   at 64                     with the last coefficient, or
 *   in [1 + AT_END, 159]      with an end of block in its place;
 *   all else from 64 on       says that a symbol was taken that is not this block's, or that the data are corrupt.
 * Hence the limits on what one entry may hold: 32 positions without an end of block.
 */
#include "internal.h"

enum { MAX_ADVANCE = 32 };

typedef struct {
    int length; /* of the code; 0: it does not fit the bits that are left */
    int run, size;
    int is_end;
} symbol;

/* The symbol at the top of the lowest `bits` bits of `window`. */
static symbol first_symbol(const huffman *table, unsigned window, int bits)
{
    unsigned aligned = (window << (16 - bits)) & 0xFFFF;
    for (int length = 1; length <= bits && length <= 16; length++) {
        if ((int32_t)aligned > table->max_code[length]) continue;
        int value = table->symbols[((int)(aligned >> (16 - length)) + table->offset[length]) & 255];
        return (symbol){length, value >> 4, value & 15, value == 0};
    }
    return (symbol){0};
}

/* A run and nothing behind it has a meaning only as the end (0) and as sixteen zeros (0xF0); others are corrupt. */
static int is_legal(symbol s) { return s.size || s.is_end || s.run == 15; }

/* The value of the `size` bits in `bits` (F.2.2.1, EXTEND). */
static int extend(unsigned bits, int size)
{
    if (!size) return 0;
    return bits >> (size - 1) ? (int)bits : (int)bits - (1 << size) + 1;
}

typedef struct {
    symbol symbol;
    int total, value, advance;
} valued;

/* The first symbol with its value, if both fit `bits` bits. */
static int read_valued(const huffman *table, unsigned window, int bits, valued *out)
{
    symbol s = first_symbol(table, window, bits);
    if (!s.length || !is_legal(s) || s.length + s.size > bits) return 0;
    unsigned value = (window >> (bits - s.length - s.size)) & ((1u << s.size) - 1);
    *out = (valued){s, s.length + s.size, extend(value, s.size), s.is_end ? AT_END : s.run + 1};
    return 1;
}

static uint64_t pair_entry(const huffman *table, unsigned window)
{
    valued first, second;
    if (!read_valued(table, window, LOOKUP_BITS, &first)) return 0;
    int length = first.total, advance = first.advance, last_value = first.value, left = LOOKUP_BITS - length;
    if (!first.symbol.is_end && read_valued(table, window & ((1u << left) - 1), left, &second)) {
        length += second.total;
        advance += second.advance;
        last_value = second.value;
    }
    return (uint64_t)length | (uint64_t)advance << 8 | (uint64_t)first.advance << 16 |
           (uint64_t)(uint16_t)first.value << 32 | (uint64_t)(uint16_t)last_value << 48;
}

static uint16_t skip_entry(const huffman *table, unsigned window)
{
    int total = 0, advance = 0;
    while (total < LOOKUP_BITS) {
        int left = LOOKUP_BITS - total;
        symbol s = first_symbol(table, window & ((1u << left) - 1), left);
        if (!s.length || !is_legal(s)) break;
        if (s.is_end) return (uint16_t)((total + s.length) | (advance + AT_END) << 6);
        if (advance + s.run + 1 > MAX_ADVANCE) break;
        total += s.length + s.size;
        advance += s.run + 1;
    }
    return (uint16_t)(total | advance << 6);
}

static int build_codes(huffman *table, huffman_spec spec)
{
    int32_t code = 0;
    int index = 0;
    for (int length = 1; length <= 16; length++) {
        int count = spec.counts[length - 1];
        table->offset[length] = index - code;
        code += count;
        index += count;
        if (code > 1 << length) return JC_BAD_HEADER;
        table->max_code[length] = count ? (code << (16 - length)) - 1 : -1;
        code <<= 1;
    }
    /* Lengths without codes: what is above a shorter length's codes and below a longer one's must go on. */
    table->max_code[17] = 0xFFFF;
    memset(table->symbols, 0, sizeof table->symbols);
    memcpy(table->symbols, spec.counts + 16, (size_t)spec.symbols);
    return JC_OK;
}

int build_huffman(huffman *table, huffman_spec spec, int is_ac)
{
    int size = 16 + spec.symbols;
    if (table->spec_size == size && memcmp(table->spec, spec.counts, (size_t)size) == 0) return JC_OK;
    table->spec_size = 0;
    int status = build_codes(table, spec);
    if (status != JC_OK) return status;
    for (unsigned i = 0; i < 1u << SHORT_BITS; i++) {
        symbol s = first_symbol(table, i, SHORT_BITS);
        table->single[i] = (uint16_t)(s.length ? s.length << 8 | s.run << 4 | s.size : 0);
    }
    for (unsigned i = 0; is_ac && i < 1u << LOOKUP_BITS; i++) {
        table->pair[i] = pair_entry(table, i);
        table->skip[i] = skip_entry(table, i);
    }
    memcpy(table->spec, spec.counts, (size_t)size);
    table->spec_size = size;
    return JC_OK;
}
