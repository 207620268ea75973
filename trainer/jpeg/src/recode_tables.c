/* Huffman tables of recoding. Built for every image, many of which have tables of their own, so they are small. */
#include "recode.h"

#include <string.h>

void make_encoder(encoder *table, const JHUFF_TBL *spec)
{
    unsigned code = 0;
    int index = 0;
    memset(table, 0, sizeof *table);
    for (int length = 1; length <= 16; length++, code <<= 1)
        for (int i = 0; i < spec->bits[length] && index < 256; i++, index++) {
            table->length[spec->huffval[index]] = (uint8_t)length;
            table->code[spec->huffval[index]] = (uint16_t)code++;
        }
}

/* Canonical codes ascend: each fills the entries behind those of the one before. */
static int make_symbols(symbol_table *table, const JHUFF_TBL *spec)
{
    int32_t code = 0;
    int index = 0, filled = 0;
    table->symbols = spec->huffval;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        int count = spec->bits[length];
        if (code + count >= 1 << length || index + count > 256) return 0; /* no code is all ones (C.2) */
        for (int i = 0; i < count && length <= SYMBOL_BITS; i++)
            for (int j = 0; j < 1 << (SYMBOL_BITS - length); j++)
                table->symbol[filled++] = (uint16_t)(length << 8 | spec->huffval[index + i]);
        table->offset[length] = index - code;
        code += count;
        index += count;
        table->max_code[length] = count ? (code << (16 - length)) - 1 : -1;
    }
    memset(table->symbol + filled, 0, sizeof table->symbol - (size_t)filled * sizeof *table->symbol);
    return 1;
}

int make_dc_table(symbol_table *table, const JHUFF_TBL *spec)
{
    int symbols = 0;
    for (int length = 1; length <= 16; length++) symbols += spec->bits[length];
    for (int i = 0; i < symbols && i < 256; i++)
        if (spec->huffval[i] > 15) return 0; /* no size of a difference: libjpeg refuses the whole table */
    return make_symbols(table, spec);
}

/* Of one symbol, from the bits `window` that it begins. */
static translation translate(unsigned entry, unsigned window, const encoder *to)
{
    unsigned length = entry >> 8, symbol = entry & 255, size = symbol & 15, read = length + size;
    if (!length || size > MAX_AC_SIZE || (!size && symbol)) return 0;
    unsigned advance = symbol ? (symbol >> 4) + 1 : END_ADVANCE, copied = read > SYMBOL_BITS ? size : 0;
    unsigned value = copied ? 0 : window >> (SYMBOL_BITS - read) & ((1u << size) - 1);
    return (uint64_t)((unsigned)to->code[symbol] << size | value) << 32 | copied << 24 | advance << 16 |
           (to->length[symbol] + size) << 8 | read;
}

/* Whether another symbol can follow in one entry. */
static int is_open(translation t)
{
    return t && !(t >> 24 & 255) && (t >> 16 & 255) < END_ADVANCE;
}

static translation join(translation first, translation second)
{
    unsigned numbers = (unsigned)first + (unsigned)second; /* of both, copied being 0 */
    int fits = second && !(second >> 24 & 255) && (numbers & 255) <= SYMBOL_BITS && (numbers >> 8 & 255) <= MAX_WRITTEN;
    if (!fits) return first;
    return ((first >> 32) << (second >> 8 & 255) | second >> 32) << 32 | numbers;
}

int make_translator(translator *table, const JHUFF_TBL *spec, const encoder *to)
{
    translation single[1 << SYMBOL_BITS];
    if (!make_symbols(&table->from, spec)) return 0;
    for (unsigned i = 0; i < 1 << SYMBOL_BITS; i++) single[i] = translate(table->from.symbol[i], i, to);
    for (unsigned i = 0; i < 1 << SYMBOL_BITS; i++) {
        translation t = single[i];
        table->lookup[i] = is_open(t) ? join(t, single[i << (t & 255) & ((1 << SYMBOL_BITS) - 1)]) : t;
    }
    return 1;
}
