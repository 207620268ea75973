/* recode: entropy-coded data to other entropy-coded data, symbol by symbol, as transcode.c and recode*.c share it.
 *
 * An AC symbol (run and size) and its value bits mean the same under any Huffman table, so they are copied under their
 * new code and no coefficient is ever formed. DC differences change where a restart begins, so these are recomputed.
 * Whatever is unusual ends the attempt: the data may be damaged, and libjpeg decides about that.
 */
#ifndef JPEGCROP_RECODE_H
#define JPEGCROP_RECODE_H

#include "jpegcrop.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_BMI2 1 /* shifts by a variable are three times as cheap */
#else
#define HAVE_BMI2 0
#endif

/* --- transcode.c ------------------------------------------------------------------------------------------------- */

/* Which ways a transcoding may take; for tests: the file is the same by all of them. */
enum { BY_RECODING = 1, BY_LIBJPEG = 2, WITHOUT_BMI2 = 4 };

/* jc_transcode by these ways. By recoding alone, JC_UNSUPPORTED also means that it was left to libjpeg. */
int transcode_by(int ways, const uint8_t *data, size_t size, uint8_t **out, size_t *out_size, char reason[JC_REASON]);

/* --- recode.c ---------------------------------------------------------------------------------------------------- */

/* Whether to try: a sequential JPEG in one scan. Behind jpeg_read_header. */
int may_recode(const struct jpeg_decompress_struct *source);

/* Write the file that libjpeg would, byte for byte.
 *
 * source: behind jpeg_read_header, its header being one that may be transcoded; nothing of it is changed.
 * target: what jpeg_copy_critical_parameters made of it, with its restart interval.
 * scan, end: the data behind the first SOS.
 *
 * Returns the file, to be freed, and its size; or NULL if there is anything unusual about the source, or if there is no
 * memory: then libjpeg has to do it, or to say what is wrong. */
uint8_t *recode(const struct jpeg_decompress_struct *source, const struct jpeg_compress_struct *target,
                const uint8_t *scan, const uint8_t *end, int ways, size_t *size);

/* --- recode_tables.c --------------------------------------------------------------------------------------------- */

enum {
    SYMBOL_BITS = 10,
    END_ADVANCE = 128, /* of an end of block: no position goes that far */
    SIXTEEN_ZEROS = 0xF0,
    MAX_DC_SIZE = 11, /* what the standard tables have codes for (T.81, tables F.1 and F.2) */
    MAX_AC_SIZE = 10,
    MAX_WRITTEN = 28, /* bits of an entry, so that two fit 56 */
};

typedef struct {
    uint16_t code[256];
    uint8_t length[256]; /* 0: no code */
} encoder;

typedef struct {
    uint16_t symbol[1 << SYMBOL_BITS]; /* length << 8 | symbol, for the next bits; 0 for longer codes */
    int32_t max_code[17];              /* largest code of each length, left-aligned to 16 bits; -1 for none */
    int32_t offset[17];                /* index of its first symbol minus the first code */
    const uint8_t *symbols;            /* [256] */
} symbol_table;

/* What the source's next SYMBOL_BITS bits become, one AC symbol with its value or two:
 *   bits 0-7    how many bits are read
 *   bits 8-15   how many are written
 *   bits 16-23  by how much the position advances
 *   bits 24-31  how many of the bits read, the last ones, are still to be written: those of a value that does not fit
 *               SYMBOL_BITS. Else 0.
 *   bits 32-63  what is written, with zeros in the place of such a value.
 * So adding entries adds up numbers and positions. 0: the code is longer, or not usual. */
typedef uint64_t translation;

typedef struct {
    symbol_table from;
    translation lookup[1 << SYMBOL_BITS];
} translator;

void make_encoder(encoder *table, const JHUFF_TBL *spec);

/* These return 0 if no file may have such a code. */
int make_dc_table(symbol_table *table, const JHUFF_TBL *spec);
int make_translator(translator *table, const JHUFF_TBL *spec, const encoder *to);

/* --- recode_scan.c ----------------------------------------------------------------------------------------------- */

enum {
    MAX_MCU = 10,         /* blocks (T.81, B.2.3) */
    MAX_PLANES = 3,
    BLOCK_ROOM = 64 * 4 + 32, /* bytes: a symbol takes 27 bits at the most, and 8 bytes are read or written at once */
    MCU_ROOM = MAX_MCU * BLOCK_ROOM,
    BATCH = 4096,
};

typedef struct {
    const symbol_table *dc;
    const translator *ac;
    const encoder *to_dc, *to_ac;
    int component, x, y; /* place within its component's part of an MCU */
} block_plan;

typedef struct {
    int h, v; /* blocks of an MCU */
    int width_in_blocks, height_in_blocks;
    int last_in, last_out; /* DC predictions */
} component_state;

/* All that a scan needs. */
typedef struct {
    int components, blocks; /* blocks: of an MCU */
    int mcus_per_row, mcu_rows;
    int restarts_in, restarts_out; /* intervals in MCUs; restarts_in may be 0 */
    component_state component[MAX_PLANES];
    block_plan block[MAX_MCU];
    encoder to_dc[2], to_ac[2]; /* luma, chroma */
    symbol_table dc[MAX_PLANES];
    translator ac[MAX_PLANES];
    const uint8_t *scan, *end; /* of the source */
    uint8_t *segment; /* [end - scan + BLOCK_ROOM]: of the source, without stuffed zeros */
    uint8_t bytes[BATCH + MCU_ROOM]; /* of the target, not yet stuffed */
    uint8_t *memory; /* [room]: the file */
    size_t room;
    uint8_t *at; /* its end so far */
} recoding;

/* Room that copy_scan takes for granted behind `at`. */
enum { LEAST_ROOM = 2 * (BATCH + MCU_ROOM) + 2 };

/* Append the scan and EOI to the file. Returns 0 if there is anything unusual about it, or no memory. */
int copy_scan(recoding *r);
#if HAVE_BMI2
int copy_scan_bmi2(recoding *r);
#endif

#endif
