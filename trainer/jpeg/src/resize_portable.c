/* One row at a time, without SIMD: what resize_avx2.c does must give the same. And the filters of wide scales, which
 * have no faster version: so few crops need them. */
#include "resize.h"

void columns_portable(const uint8_t *const *rows, const uint16_t *weight, int taps, int bias, int width,
                      uint8_t *out)
{
    for (int x = 0; x < width; x++) {
        uint16_t sum = (uint16_t)(128 + bias);
        for (int t = 0; t < taps; t++) sum = (uint16_t)(sum + (rows[t][x] * (uint32_t)weight[t] >> 8));
        out[x] = (uint8_t)(sum >> 8);
    }
}

void columns_wide(const uint8_t *const *rows, const uint32_t *weight, int taps, int width, uint32_t *sums,
                  uint8_t *out)
{
    for (int x = 0; x < width; x++) sums[x] = 1u << (WIDE_BITS - 1);
    for (int t = 0; t < taps; t++) {
        uint32_t w = weight[t];
        if (w)
            for (int x = 0; x < width; x++) sums[x] += rows[t][x] * w;
    }
    for (int x = 0; x < width; x++) out[x] = (uint8_t)(sums[x] >> WIDE_BITS);
}

void rows_portable(const filter *f, const uint8_t *samples, int16_t *out)
{
    for (int i = 0; i < f->padded; i++) {
        uint16_t sum = (uint16_t)f->bias;
        for (int t = 0; t < f->taps; t++)
            sum = (uint16_t)(sum + (samples[f->first[i] + t] * (uint32_t)f->weight[t * f->padded + i] >> 8));
        out[i] = (int16_t)(sum >> (8 - FRACTION_BITS));
    }
}

void rows_wide(const filter *f, const uint8_t *samples, int16_t *out)
{
    for (int i = 0; i < f->length; i++) {
        const uint32_t *weight = f->wide_weight + (size_t)i * (size_t)f->taps;
        uint32_t sum = 1u << (WIDE_BITS - FRACTION_BITS - 1);
        for (int t = 0; t < f->taps; t++)
            if (weight[t]) sum += samples[f->first[i] + t] * weight[t];
        out[i] = (int16_t)(sum >> (WIDE_BITS - FRACTION_BITS));
    }
    for (int i = f->length; i < f->padded; i++) out[i] = 0;
}

INLINE int scaled(int value, int factor) { return (value * factor + (1 << 14)) >> 15; }

INLINE uint8_t to_byte(int value)
{
    value = (value + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

void colour_portable(int16_t *const rows[3], int ycc, int width, uint8_t *out)
{
    for (int x = 0; x < width; x++, out += 3) {
        int y = rows[0][x], cb = rows[1][x], cr = rows[2][x];
        if (ycc) {
            cb -= 128 << FRACTION_BITS;
            cr -= 128 << FRACTION_BITS;
            out[0] = to_byte(y + cr + scaled(cr, RED_CR));
            out[1] = to_byte(y - scaled(cb, GREEN_CB) - scaled(cr, GREEN_CR));
            out[2] = to_byte(y + 2 * cb - scaled(cb, BLUE_CB));
        } else {
            out[0] = to_byte(y);
            out[1] = to_byte(cb);
            out[2] = to_byte(cr);
        }
    }
}

void interleave_portable(const uint8_t *const rows[3], int width, uint8_t *out)
{
    for (int x = 0; x < width; x++, out += 3) {
        out[0] = rows[0][x];
        out[1] = rows[1][x];
        out[2] = rows[2][x];
    }
}
