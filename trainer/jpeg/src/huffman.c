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

/* For the next LOOKUP_BITS bits, bits behind those that matter being zero: the symbol (run << 4 | size) that they begin
 * with in bits 0-7, and the length of its code from 8 on; 0 for none, and none for a longer code. */
typedef uint16_t symbol_table[1 << LOOKUP_BITS];

/* Canonical codes ascend: each fills the entries behind those of the one before. */
static void find_symbols(const huffman *table, const uint8_t counts[16], symbol_table symbols)
{
    int filled = 0, index = 0;
    for (int length = 1; length <= LOOKUP_BITS; length++)
        for (int i = 0; i < counts[length - 1]; i++, index++)
            for (int j = 0; j < 1 << (LOOKUP_BITS - length); j++)
                symbols[filled++] = (uint16_t)(length << 8 | table->symbols[index]);
    memset(symbols + filled, 0, sizeof(symbol_table) - (size_t)filled * sizeof *symbols);
}

/* A run and nothing behind it has a meaning only as the end (0) and as sixteen zeros (0xF0); others are corrupt. */
static void drop_illegal(symbol_table symbols)
{
    for (int i = 0; i < 1 << LOOKUP_BITS; i++) {
        int symbol = symbols[i] & 255;
        if (!(symbol & 15) && symbol != 0 && symbol != 0xF0) symbols[i] = 0;
    }
}

/* The value of the `size` bits in `bits` (F.2.2.1, EXTEND). */
INLINE int extend(unsigned bits, int size)
{
    int negative = -!(bits >> (size - 1) & 1);
    return (int)bits + (negative & (1 - (1 << size)));
}

typedef struct {
    int length; /* of code and value; 0: they do not fit */
    int value, advance;
    int is_end;
} valued;

/* The first symbol of a window with its value, if both fit `bits` bits. */
INLINE valued read_valued(const symbol_table symbols, unsigned window, int bits)
{
    unsigned symbol = symbols[window];
    int size = symbol & 15, length = (int)(symbol >> 8) + size, run = symbol >> 4 & 15;
    if (!symbol || length > bits) return (valued){0};
    if (!size) return (valued){length, 0, run ? run + 1 : AT_END, !run};
    unsigned value = window >> (LOOKUP_BITS - length) & ((1u << size) - 1);
    return (valued){length, extend(value, size), run + 1, 0};
}

/* What is left of a window behind its first `length` bits. */
INLINE unsigned behind(unsigned window, int length) { return window << length & ((1u << LOOKUP_BITS) - 1); }

static uint64_t pair_entry(const symbol_table symbols, unsigned window)
{
    valued first = read_valued(symbols, window, LOOKUP_BITS), second = {0};
    if (!first.length) return 0;
    if (!first.is_end) second = read_valued(symbols, behind(window, first.length), LOOKUP_BITS - first.length);
    int length = first.length + second.length, advance = first.advance + second.advance;
    int last_value = second.length ? second.value : first.value;
    return (uint64_t)length | (uint64_t)advance << 8 | (uint64_t)first.advance << 16 |
           (uint64_t)(uint16_t)first.value << 32 | (uint64_t)(uint16_t)last_value << 48;
}

static uint16_t skip_entry(const symbol_table symbols, unsigned window)
{
    int total = 0, advance = 0;
    while (total < LOOKUP_BITS) {
        unsigned symbol = symbols[behind(window, total)];
        int length = (int)(symbol >> 8), run = symbol >> 4 & 15, size = symbol & 15;
        if (!symbol || length > LOOKUP_BITS - total) break;
        if (!size && !run) return (uint16_t)((total + length) | (advance + AT_END) << 6);
        if (advance + run + 1 > MAX_ADVANCE) break;
        total += length + size;
        advance += run + 1;
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
        if (code >= 1 << length) return JC_BAD_HEADER; /* no code is all ones (C.2): nothing decodes from ones */
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
    symbol_table symbols;
    find_symbols(table, spec.counts, symbols);
    for (int i = 0; i < 1 << SHORT_BITS; i++) {
        unsigned symbol = symbols[i << (LOOKUP_BITS - SHORT_BITS)];
        table->single[i] = (uint16_t)(symbol >> 8 <= SHORT_BITS ? symbol : 0);
    }
    if (is_ac) drop_illegal(symbols);
    for (unsigned i = 0; is_ac && i < 1u << LOOKUP_BITS; i++) {
        table->pair[i] = pair_entry(symbols, i);
        table->skip[i] = skip_entry(symbols, i);
    }
    memcpy(table->spec, spec.counts, (size_t)size);
    table->spec_size = size;
    return JC_OK;
}
