/* The triangle filter along one axis: which samples each output reads, and their weights. */
#include "resize.h"

axis make_axis(double low, double high, int out_length, int length)
{
    double scale = (high - low) / out_length;
    return (axis){low, scale, scale < 1 ? 1 : scale, length};
}

extent reach(const axis *a, double centre)
{
    int first = (int)(centre - a->support + 0.5), last = (int)(centre + a->support + 0.5);
    first = first < 0 ? 0 : first >= a->length ? a->length - 1 : first;
    return (extent){first, last > a->length ? a->length : last <= first ? first + 1 : last};
}

extent filter_extent(double low, double high, int out_length, int length)
{
    axis a = make_axis(low, high, out_length, length);
    return (extent){reach(&a, centre_of(&a, 0)).first, reach(&a, centre_of(&a, out_length - 1)).last};
}

/* Weights of a wide filter for the samples [first, last), which sum up to 1 << WIDE_BITS. */
static void make_wide_weights(const axis *a, double centre, int first, int last, uint32_t *weight)
{
    double inverse = 1 / a->support, sum = 0;
    for (int x = first; x < last; x++) {
        double w = 1 - fabs(x + 0.5 - centre) * inverse;
        sum += w > 0 ? w : 0;
    }
    uint32_t total = 0;
    int heaviest = 0;
    for (int t = 0; t < last - first; t++) {
        double w = 1 - fabs(first + t + 0.5 - centre) * inverse;
        weight[t] = w > 0 ? (uint32_t)(w * ((1 << WIDE_BITS) / sum) + 0.5) : 0;
        total += weight[t];
        if (weight[t] > weight[heaviest]) heaviest = t;
    }
    weight[heaviest] += (1 << WIDE_BITS) - total;
}

static void make_gathers(filter *f)
{
    f->can_gather = 1;
    for (int g = 0; g < f->padded / 16; g++) {
        for (int half = 0; half < 2; half++) {
            const int32_t *first = f->first + 16 * g + 8 * half;
            int32_t base = first[0];
            for (int i = 1; i < 8; i++)
                if (first[i] < base) base = first[i];
            f->gathers[g].base[half] = base;
            for (int i = 0; i < 8; i++) {
                if (first[i] - base > 15) f->can_gather = 0;
                f->gathers[g].shuffle[16 * half + 2 * i] = 0x80;
                f->gathers[g].shuffle[16 * half + 2 * i + 1] = (uint8_t)(first[i] - base);
            }
        }
    }
}

static int most_taps(const axis *a)
{
    double taps = 2 * a->support + 2;
    return taps < a->length ? (int)taps : a->length;
}

size_t filter_bytes(const axis *a, int out_length)
{
    size_t n = (size_t)padded_length(out_length);
    return n * 4 + n * (size_t)most_taps(a) * 4 + n / 16 * sizeof(gather) + 3 * 64;
}

/* The weights of VECTOR outputs from `begin` on; all of them side by side, so that the compiler can vectorise. */
static void make_weights(filter *f, const axis *a, int taps, int begin)
{
    double centre[VECTOR], sum[VECTOR], weight[MAX_TAPS][VECTOR];
    int32_t first[VECTOR], total[VECTOR], most[VECTOR], rounded[MAX_TAPS][VECTOR];
    const double inverse = 1 / a->support, last = a->length - 0.5;
    for (int i = 0; i < VECTOR; i++) {
        centre[i] = a->low + (begin + i + 0.5) * a->scale;
        double low = centre[i] - a->support + 0.5;
        first[i] = (int32_t)(low < 0 ? 0 : low > a->length - 1 ? a->length - 1 : low);
        sum[i] = 0;
        total[i] = 1 << 16;
        most[i] = 0;
    }
    for (int t = 0; t < taps; t++) {
        for (int i = 0; i < VECTOR; i++) {
            double x = first[i] + t + 0.5, w = 1 - fabs(x - centre[i]) * inverse;
            w = w > 0 ? w : 0;
            w = x <= last ? w : 0;
            weight[t][i] = w;
            sum[i] += w;
        }
    }
    for (int i = 0; i < VECTOR; i++) sum[i] = sum[i] > 0 ? (1 << 16) / sum[i] : 0; /* behind the last output: nothing */
    for (int t = 0; t < taps; t++) {
        for (int i = 0; i < VECTOR; i++) {
            int32_t w = (int32_t)(weight[t][i] * sum[i] + 0.5);
            rounded[t][i] = w;
            total[i] -= w;
            most[i] = w > most[i] ? w : most[i];
        }
    }
    for (int i = 0; i < VECTOR; i++) f->first[begin + i] = first[i];
    for (int t = 0; t < taps; t++) {
        uint16_t *out = f->weight + t * f->padded + begin;
        for (int i = 0; i < VECTOR; i++) {
            /* What rounding lost goes to the heaviest. One sample's whole weight is a hair less, to fit 16 bits. */
            int32_t is_most = rounded[t][i] == most[i], w = rounded[t][i] + (is_most ? total[i] : 0);
            total[i] = is_most ? 0 : total[i];
            most[i] = is_most ? -1 : most[i];
            out[i] = (uint16_t)(w > 0xFFFF ? 0xFFFF : w < 0 ? 0 : w);
        }
    }
}

/* Taps that some output uses. */
static int used_taps(const filter *f, int most)
{
    for (; most > 1; most--) {
        const uint16_t *weight = f->weight + (most - 1) * f->padded;
        unsigned any = 0;
        for (int i = 0; i < f->length; i++) any |= weight[i];
        if (any) break;
    }
    return most;
}

static void mirror(filter *f)
{
    for (int i = 0, j = f->length - 1; i < j; i++, j--) {
        int32_t first = f->first[i];
        f->first[i] = f->first[j];
        f->first[j] = first;
    }
    for (int t = 0; t < f->taps; t++) {
        uint16_t *weight = f->weight + t * f->padded;
        for (int i = 0, j = f->length - 1; i < j; i++, j--) {
            uint16_t w = weight[i];
            weight[i] = weight[j];
            weight[j] = w;
        }
    }
}

void make_filter(filter *f, const axis *a, int out_length, int origin, int flip, uint8_t *memory)
{
    int most = most_taps(a);
    f->length = out_length;
    f->padded = padded_length(out_length);
    f->bias = (int)(a->support + 0.5);
    f->wide = a->scale > MAX_SCALE;
    f->first = carve(&memory, (size_t)f->padded * 4);
    f->gathers = carve(&memory, (size_t)f->padded / 16 * sizeof(gather));
    f->weight = carve(&memory, (size_t)f->padded * (size_t)most * 4);
    f->wide_weight = (uint32_t *)(void *)f->weight;
    if (f->wide) {
        f->taps = most;
        memset(f->wide_weight, 0, (size_t)f->padded * (size_t)most * sizeof *f->wide_weight);
        for (int i = 0; i < out_length; i++) {
            int place = flip ? out_length - 1 - i : i;
            double centre = centre_of(a, i);
            extent from = reach(a, centre);
            f->first[place] = from.first - origin;
            make_wide_weights(a, centre, from.first, from.last, f->wide_weight + (size_t)place * (size_t)most);
        }
        return;
    }
    for (int i = 0; i < f->padded; i += VECTOR) make_weights(f, a, most, i);
    f->taps = used_taps(f, most);
    if (flip) mirror(f);
    for (int i = 0; i < f->padded; i++) f->first[i] = i < out_length ? f->first[i] - origin : f->first[out_length - 1];
    make_gathers(f);
}
