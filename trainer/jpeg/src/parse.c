/* The markers of a JPEG up to its first scan (ITU-T T.81, annex B). Every length is checked against the file's. */
#include "internal.h"

const uint8_t natural_order[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

enum {
    SOF0 = 0xC0, SOF1 = 0xC1, SOF2 = 0xC2, DHT = 0xC4, SOF15 = 0xCF, JPG = 0xC8, DAC = 0xCC, RST0 = 0xD0, RST7 = 0xD7,
    SOI = 0xD8, EOI = 0xD9, SOS = 0xDA, DQT = 0xDB, DRI = 0xDD, APP0 = 0xE0, APP14 = 0xEE, TEM = 0x01,
};

typedef struct {
    const uint8_t *at, *end;
} bytes;

typedef struct {
    int jfif, adobe, adobe_transform;
    int progressive;
} colour_markers;

INLINE int word(const uint8_t *p) { return p[0] << 8 | p[1]; }

static int read_quant(bytes segment, header *h)
{
    while (segment.at < segment.end) {
        int wide = segment.at[0] >> 4, slot = segment.at[0] & 15;
        if (wide > 1 || slot > 3 || segment.end - segment.at < 1 + (64 << wide)) return JC_BAD_HEADER;
        const uint8_t *values = segment.at + 1;
        for (int k = 0; k < 64; k++)
            h->quant[slot][natural_order[k]] = (uint16_t)(wide ? word(values + 2 * k) : values[k]);
        h->has_quant[slot] = 1;
        segment.at += 1 + (64 << wide);
    }
    return JC_OK;
}

static int read_huffman(bytes segment, header *h)
{
    while (segment.at < segment.end) {
        int is_ac = segment.at[0] >> 4, slot = segment.at[0] & 15, symbols = 0;
        if (is_ac > 1 || slot > 3 || segment.end - segment.at < 17) return JC_BAD_HEADER;
        for (int i = 1; i <= 16; i++) symbols += segment.at[i];
        if (symbols > 256 || segment.end - segment.at < 17 + symbols) return JC_BAD_HEADER;
        (is_ac ? h->ac : h->dc)[slot] = (huffman_spec){segment.at + 1, symbols};
        segment.at += 17 + symbols;
    }
    return JC_OK;
}

static int read_frame(bytes segment, header *h)
{
    if (h->width || segment.end - segment.at < 6) return JC_BAD_HEADER;
    if (segment.at[0] != 8) return JC_UNSUPPORTED; /* bits a sample */
    h->height = word(segment.at + 1);
    h->width = word(segment.at + 3);
    h->components = segment.at[5];
    if (!h->width || !h->height) return JC_BAD_HEADER;
    if (h->components != 1 && h->components != 3) return JC_UNSUPPORTED;
    if (segment.end - segment.at != 6 + 3 * h->components) return JC_BAD_HEADER;
    int blocks = 0;
    for (int i = 0; i < h->components; i++) {
        const uint8_t *p = segment.at + 6 + 3 * i;
        component *c = &h->component[i];
        *c = (component){.id = p[0], .h = p[1] >> 4, .v = p[1] & 15, .quant = p[2]};
        if (c->h < 1 || c->h > 4 || c->v < 1 || c->v > 4 || c->quant > 3) return JC_BAD_HEADER;
        if (h->components == 1) c->h = c->v = 1; /* a scan of one component has no interleaving (A.2.2) */
        if (c->h > h->max_h) h->max_h = c->h;
        if (c->v > h->max_v) h->max_v = c->v;
        blocks += c->h * c->v;
    }
    if (blocks > MAX_BLOCKS_IN_MCU) return JC_BAD_HEADER;
    h->mcus_per_row = (h->width + 8 * h->max_h - 1) / (8 * h->max_h);
    h->mcu_rows = (h->height + 8 * h->max_v - 1) / (8 * h->max_v);
    for (int i = 0; i < h->components; i++) {
        component *c = &h->component[i];
        c->plane_width = (h->width * c->h + h->max_h - 1) / h->max_h;
        c->plane_height = (h->height * c->v + h->max_v - 1) / h->max_v;
    }
    return JC_OK;
}

/* As libjpeg guesses: a JFIF file is YCbCr, Adobe says what it is, component names tell the rest. */
static int is_ycc(const header *h, const colour_markers *markers)
{
    if (h->components == 1 || markers->jfif) return 1;
    if (markers->adobe) return markers->adobe_transform != 0;
    return !(h->component[0].id == 'R' && h->component[1].id == 'G' && h->component[2].id == 'B');
}

static int read_scan(bytes segment, header *h, const colour_markers *markers)
{
    if (!h->width || segment.at == segment.end) return JC_BAD_HEADER;
    int count = segment.at[0];
    if (count < 1 || count > 4 || segment.end - segment.at != 4 + 2 * count) return JC_BAD_HEADER;
    h->ycc = is_ycc(h, markers);
    if (markers->progressive || count != h->components) {
        h->indirect = 1;
        return JC_OK;
    }
    for (int i = 0; i < count; i++) {
        const uint8_t *p = segment.at + 1 + 2 * i;
        component *c = &h->component[i];
        c->dc = p[1] >> 4;
        c->ac = p[1] & 15;
        if (p[0] != c->id || c->dc > 3 || c->ac > 3) return JC_BAD_HEADER;
        if (!h->has_quant[c->quant] || !h->dc[c->dc].counts || !h->ac[c->ac].counts) return JC_BAD_HEADER;
    }
    const uint8_t *spectral = segment.at + 1 + 2 * count;
    return spectral[0] == 0 && spectral[1] == 63 && spectral[2] == 0 ? JC_OK : JC_BAD_HEADER;
}

static void read_app(int marker, bytes segment, colour_markers *markers)
{
    ptrdiff_t length = segment.end - segment.at;
    if (marker == APP0 && length >= 14 && memcmp(segment.at, "JFIF", 5) == 0) markers->jfif = 1;
    if (marker == APP14 && length >= 12 && memcmp(segment.at, "Adobe", 5) == 0) {
        markers->adobe = 1;
        markers->adobe_transform = segment.at[11];
    }
}

static int read_segment(int marker, bytes segment, header *h, colour_markers *markers)
{
    switch (marker) {
    case SOF2: markers->progressive = 1; /* fall through */
    case SOF0:
    case SOF1: return read_frame(segment, h);
    case DQT: return read_quant(segment, h);
    case DHT: return read_huffman(segment, h);
    case DRI:
        if (segment.end - segment.at != 2) return JC_BAD_HEADER;
        h->restart_interval = word(segment.at);
        return JC_OK;
    default: break;
    }
    if (marker > SOF2 && marker <= SOF15) return JC_UNSUPPORTED; /* lossless, hierarchical, arithmetic */
    read_app(marker, segment, markers);
    return JC_OK;
}

int read_header(const uint8_t *data, size_t size, header *h)
{
    memset(h, 0, sizeof *h);
    if (size < 4 || data[0] != 0xFF || data[1] != SOI) return JC_NOT_A_JPEG;
    colour_markers markers = {0};
    const uint8_t *at = data + 2, *end = data + size;
    for (;;) {
        while (at < end && *at != 0xFF) at++; /* as libjpeg does, pass over what is no marker */
        while (at < end && *at == 0xFF) at++;
        if (at == end) return h->width ? JC_TRUNCATED : JC_NOT_A_JPEG;
        int marker = *at++;
        if (marker == 0 || marker == TEM || (marker >= RST0 && marker <= RST7)) continue;
        if (marker == SOI) return JC_BAD_HEADER;
        if (marker == EOI) return h->width ? JC_TRUNCATED : JC_NOT_A_JPEG;
        if (end - at < 2) return JC_TRUNCATED;
        int length = word(at);
        if (length < 2) return JC_BAD_HEADER;
        if (end - at < length) return JC_TRUNCATED;
        bytes segment = {at + 2, at + length};
        at += length;
        int status = marker == SOS ? read_scan(segment, h, &markers) : read_segment(marker, segment, h, &markers);
        if (status != JC_OK) return status;
        if (marker == SOS) {
            h->scan = at;
            h->end = end;
            return JC_OK;
        }
    }
}

int jc_read_info(const uint8_t *data, size_t size, jc_info *info)
{
    if (!data || !info) return JC_BAD_ARGUMENT;
    header h;
    int status = read_header(data, size, &h);
    if (status != JC_OK) return status;
    memset(info, 0, sizeof *info);
    info->width = h.width;
    info->height = h.height;
    info->components = h.components;
    info->progressive = h.indirect;
    info->restart_interval = h.restart_interval;
    info->mcus_per_row = h.mcus_per_row;
    for (int i = 0; i < h.components; i++) {
        info->plane_width[i] = h.component[i].plane_width;
        info->plane_height[i] = h.component[i].plane_height;
        info->h[i] = h.component[i].h;
        info->v[i] = h.component[i].v;
    }
    return JC_OK;
}
