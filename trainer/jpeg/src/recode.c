/* Recoding of a whole file: what there is to do, the header, then the scan. See recode.h. */
#include "recode.h"

#include <stdlib.h>
#include <string.h>

enum { HEADER_ROOM = 2048 };

/* --- what there is to do ----------------------------------------------------------------------------------------- */

int may_recode(const struct jpeg_decompress_struct *source)
{
    int components = source->num_components;
    if (source->progressive_mode || source->arith_code || source->data_precision != 8) return 0;
    if ((components != 1 && components != 3) || source->comps_in_scan != components) return 0;
    if (source->Ss != 0 || source->Se != DCTSIZE2 - 1 || source->Ah != 0 || source->Al != 0) return 0;
    for (int i = 0; i < components; i++) {
        const jpeg_component_info *component = &source->comp_info[i];
        int quant = component->quant_tbl_no, dc = component->dc_tbl_no, ac = component->ac_tbl_no;
        if (source->cur_comp_info[i] != component) return 0;
        if (quant < 0 || quant >= NUM_QUANT_TBLS || !source->quant_tbl_ptrs[quant]) return 0;
        if (dc < 0 || dc >= NUM_HUFF_TBLS || !source->dc_huff_tbl_ptrs[dc]) return 0;
        if (ac < 0 || ac >= NUM_HUFF_TBLS || !source->ac_huff_tbl_ptrs[ac]) return 0;
    }
    return 1;
}

/* The tables of component i, unless they are those of the one before. Returns 0 if they are impossible. */
static int plan_tables(recoding *r, const struct jpeg_decompress_struct *source, int i)
{
    const jpeg_component_info *component = &source->comp_info[i];
    const JHUFF_TBL *dc = source->dc_huff_tbl_ptrs[component->dc_tbl_no];
    const JHUFF_TBL *ac = source->ac_huff_tbl_ptrs[component->ac_tbl_no];
    return make_dc_table(&r->dc[i], dc) && make_translator(&r->ac[i], ac, &r->to_ac[i > 0]);
}

/* The component whose tables are those of component i: itself, or one before it that is coded alike. */
static int table_owner(const struct jpeg_decompress_struct *source, int i)
{
    const jpeg_component_info *one = &source->comp_info[i], *other = one - 1;
    int is_alike = i > 1 && one->dc_tbl_no == other->dc_tbl_no && one->ac_tbl_no == other->ac_tbl_no;
    return is_alike ? i - 1 : i;
}

static int plan_component(recoding *r, const struct jpeg_decompress_struct *source, int i)
{
    const jpeg_component_info *from = &source->comp_info[i];
    int single = r->components == 1; /* goes block by block, whatever its sampling factors (T.81, A.2.2) */
    int h = single ? 1 : from->h_samp_factor, v = single ? 1 : from->v_samp_factor, owner = table_owner(source, i);
    if (r->blocks + h * v > MAX_MCU) return 0;
    if (owner == i && !plan_tables(r, source, i)) return 0;
    r->component[i] = (component_state){.h = h, .v = v, .width_in_blocks = (int)from->width_in_blocks,
                                        .height_in_blocks = (int)from->height_in_blocks};
    for (int y = 0; y < v; y++)
        for (int x = 0; x < h; x++)
            r->block[r->blocks++] = (block_plan){.dc = &r->dc[owner], .ac = &r->ac[owner], .to_dc = &r->to_dc[i > 0],
                                                 .to_ac = &r->to_ac[i > 0], .component = i, .x = x, .y = y};
    return 1;
}

static int blocks_to_mcus(JDIMENSION pixels, int sampling)
{
    return ((int)pixels + DCTSIZE * sampling - 1) / (DCTSIZE * sampling);
}

static int plan(recoding *r, const struct jpeg_decompress_struct *source, const struct jpeg_compress_struct *target)
{
    r->components = source->num_components;
    r->blocks = 0;
    r->restarts_in = (int)source->restart_interval;
    r->restarts_out = (int)target->restart_interval;
    for (int i = 0; i < (r->components > 1 ? 2 : 1); i++) {
        make_encoder(&r->to_dc[i], target->dc_huff_tbl_ptrs[i]);
        make_encoder(&r->to_ac[i], target->ac_huff_tbl_ptrs[i]);
    }
    for (int i = 0; i < r->components; i++)
        if (!plan_component(r, source, i)) return 0;
    int single = r->components == 1;
    r->mcus_per_row = single ? r->component[0].width_in_blocks
                             : blocks_to_mcus(source->image_width, source->max_h_samp_factor);
    r->mcu_rows = single ? r->component[0].height_in_blocks
                         : blocks_to_mcus(source->image_height, source->max_v_samp_factor);
    return 1;
}

/* --- the header, as jcmarker.c writes it ------------------------------------------------------------------------- */

static void put_byte(recoding *out, int byte) { *out->at++ = (uint8_t)byte; }

static void put_word(recoding *out, unsigned word)
{
    put_byte(out, (int)(word >> 8));
    put_byte(out, (int)(word & 255));
}

static void put_marker(recoding *out, int marker) { put_word(out, 0xFF00u | (unsigned)marker); }

static void put_jfif(recoding *out, const struct jpeg_compress_struct *target)
{
    put_marker(out, 0xE0);
    put_word(out, 16);
    memcpy(out->at, "JFIF", 5);
    out->at += 5;
    put_byte(out, target->JFIF_major_version);
    put_byte(out, target->JFIF_minor_version);
    put_byte(out, target->density_unit);
    put_word(out, target->X_density);
    put_word(out, target->Y_density);
    put_word(out, 0); /* no thumbnail */
}

/* Returns 0 for a table that baseline cannot have. */
static int put_quant(recoding *out, const JQUANT_TBL *table, int slot)
{
    static const uint8_t zigzag[DCTSIZE2] = {
        0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
        41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
        30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    };
    if (!table) return 0;
    put_marker(out, 0xDB);
    put_word(out, 2 + 1 + DCTSIZE2);
    put_byte(out, slot);
    for (int k = 0; k < DCTSIZE2; k++) {
        if (table->quantval[zigzag[k]] > 255) return 0;
        put_byte(out, table->quantval[zigzag[k]]);
    }
    return 1;
}

static void put_huffman(recoding *out, const JHUFF_TBL *table, int class_and_slot)
{
    int symbols = 0;
    for (int i = 1; i <= 16; i++) symbols += table->bits[i];
    put_marker(out, 0xC4);
    put_word(out, 2 + 1 + 16 + (unsigned)symbols);
    put_byte(out, class_and_slot);
    memcpy(out->at, table->bits + 1, 16);
    memcpy(out->at + 16, table->huffval, (size_t)symbols);
    out->at += 16 + symbols;
}

static void put_frame(recoding *out, const struct jpeg_decompress_struct *source,
                      const struct jpeg_compress_struct *target)
{
    put_marker(out, 0xC0);
    put_word(out, 8 + 3 * (unsigned)out->components);
    put_byte(out, 8);
    put_word(out, source->image_height);
    put_word(out, source->image_width);
    put_byte(out, out->components);
    for (int i = 0; i < out->components; i++) {
        const jpeg_component_info *component = &target->comp_info[i];
        put_byte(out, component->component_id);
        put_byte(out, component->h_samp_factor << 4 | component->v_samp_factor);
        put_byte(out, component->quant_tbl_no);
    }
}

static void put_scan_header(recoding *out, const struct jpeg_compress_struct *target)
{
    for (int slot = 0; slot < (out->components > 1 ? 2 : 1); slot++) {
        put_huffman(out, target->dc_huff_tbl_ptrs[slot], slot);
        put_huffman(out, target->ac_huff_tbl_ptrs[slot], 0x10 | slot);
    }
    put_marker(out, 0xDD);
    put_word(out, 4);
    put_word(out, target->restart_interval);
    put_marker(out, 0xDA);
    put_word(out, 6 + 2 * (unsigned)out->components);
    put_byte(out, out->components);
    for (int i = 0; i < out->components; i++) {
        put_byte(out, target->comp_info[i].component_id);
        put_byte(out, target->comp_info[i].dc_tbl_no << 4 | target->comp_info[i].ac_tbl_no);
    }
    put_word(out, DCTSIZE2 - 1); /* coefficients 0 to 63 */
    put_byte(out, 0);
}

static int put_header(recoding *out, const struct jpeg_decompress_struct *source,
                      const struct jpeg_compress_struct *target)
{
    unsigned sent = 0;
    put_marker(out, 0xD8);
    put_jfif(out, target);
    for (int i = 0; i < out->components; i++) {
        int slot = target->comp_info[i].quant_tbl_no;
        if (!(sent >> slot & 1) && !put_quant(out, target->quant_tbl_ptrs[slot], slot)) return 0;
        sent |= 1u << slot;
    }
    put_frame(out, source, target);
    put_scan_header(out, target);
    return 1;
}

/* --- all of it --------------------------------------------------------------------------------------------------- */

static int (*choose_copy(int ways))(recoding *)
{
#if HAVE_BMI2
    __builtin_cpu_init();
    if (!(ways & WITHOUT_BMI2) && __builtin_cpu_supports("bmi2")) return copy_scan_bmi2;
#endif
    (void)ways;
    return copy_scan;
}

uint8_t *recode(const struct jpeg_decompress_struct *source, const struct jpeg_compress_struct *target,
                const uint8_t *scan, const uint8_t *end, int ways, size_t *size)
{
    size_t length = (size_t)(end - scan);
    recoding *r = malloc(sizeof *r);
    if (!r) return NULL;
    r->scan = scan;
    r->end = end;
    r->room = HEADER_ROOM + LEAST_ROOM + length + length / 8;
    r->memory = r->at = malloc(r->room);
    r->segment = malloc(length + BLOCK_ROOM);
    int done = r->memory && r->segment && plan(r, source, target) && put_header(r, source, target) &&
               choose_copy(ways)(r);
    uint8_t *memory = r->memory;
    if (done) *size = (size_t)(r->at - memory);
    free(r->segment);
    free(r);
    if (done) return memory;
    free(memory);
    return NULL;
}
