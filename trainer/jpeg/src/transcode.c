/* Lossless transcoding: coefficients in, the same coefficients out, coded so that crops decode fast. By recoding where
 * that can be done (recode.h), else by libjpeg, which also says what is wrong.
 *
 * Every way out of libjpeg is a longjmp to transcode(): its errors, and its warnings too, for what it warns of is not
 * what the encoder wrote. What it allocates hangs on the two jpeg structures, so destroying these leaks nothing.
 *
 * Bounds for hostile files: MAX_PIXELS keeps the coefficients under 0.8 GB, MAX_SCANS the work under that many passes
 * over them, and a header that declares more blocks than the file has bits is refused before anything is allocated.
 */
#include "jpegcrop.h"

#include "recode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

enum { MAX_PIXELS = 1 << 27, MAX_SCANS = 100 };

/* What the standard tables have codes for: DC differences of 11 bits, AC values of 10 (T.81, tables F.1 and F.2). */
enum { LEAST_DC = -1024, GREATEST_DC = 1023, GREATEST_AC = 1023, GREATEST_QUANT = 255 };

typedef struct {
    struct jpeg_decompress_struct source;
    struct jpeg_compress_struct target;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    struct jpeg_destination_mgr destination;
    const uint8_t *data; /* [size] */
    size_t size;
    uint8_t *memory; /* [room] of the destination */
    size_t room, used;
    jmp_buf failed;
    int status;
    char *reason; /* [JC_REASON] */
} job;

/* --- errors ------------------------------------------------------------------------------------------------------ */

__attribute__((noreturn, format(printf, 3, 4))) static void fail(job *job, int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(job->reason, JC_REASON, format, arguments);
    va_end(arguments);
    job->status = status;
    longjmp(job->failed, 1);
}

static int status_of(int error)
{
    switch (error) {
    case JERR_OUT_OF_MEMORY: return JC_NO_MEMORY;
    case JERR_NO_SOI:
    case JERR_INPUT_EMPTY:
    case JERR_NO_IMAGE: return JC_NOT_A_JPEG;
    case JERR_SOF_UNSUPPORTED:
    case JERR_BAD_PRECISION:
    case JERR_ARITH_NOTIMPL:
    case JERR_COMPONENT_COUNT:
    case JERR_EMPTY_IMAGE: /* its height comes in a DNL segment */
    case JERR_BAD_MCU_SIZE: /* no room for one interleaved scan */
    case JERR_MISMATCHED_QUANT_TABLE:
    case JERR_NOTIMPL: return JC_UNSUPPORTED;
    default: return JC_BAD_HEADER;
    }
}

static void on_error(j_common_ptr info)
{
    char message[JMSG_LENGTH_MAX];
    info->err->format_message(info, message);
    fail(info->client_data, status_of(info->err->msg_code), "%s", message);
}

static void on_message(j_common_ptr info, int level)
{
    if (level >= 0) return; /* traces */
    char message[JMSG_LENGTH_MAX];
    info->err->format_message(info, message);
    fail(info->client_data, JC_CORRUPT, "libjpeg warns: %s", message);
}

static void on_progress(j_common_ptr info)
{
    if (((j_decompress_ptr)info)->input_scan_number > MAX_SCANS)
        fail(info->client_data, JC_UNSUPPORTED, "more than %d scans", MAX_SCANS);
}

/* --- the destination: memory that grows (libjpeg's own leaks it on errors) --------------------------------------- */

static void grow(job *job, size_t room)
{
    uint8_t *memory = realloc(job->memory, room);
    if (!memory) fail(job, JC_NO_MEMORY, "not enough memory");
    job->destination.next_output_byte = memory + job->room;
    job->destination.free_in_buffer = room - job->room;
    job->memory = memory;
    job->room = room;
}

static void begin_output(j_compress_ptr target)
{
    job *job = target->client_data;
    grow(job, job->size + job->size / 4 + 4096); /* mostly enough */
}

static boolean more_output(j_compress_ptr target)
{
    job *job = target->client_data;
    grow(job, 2 * job->room);
    return TRUE;
}

static void end_output(j_compress_ptr target)
{
    job *job = target->client_data;
    job->used = job->room - job->destination.free_in_buffer;
}

/* --- what is refused --------------------------------------------------------------------------------------------- */

static void check_header(job *job)
{
    j_decompress_ptr source = &job->source;
    unsigned width = source->image_width, height = source->image_height;
    if (source->arith_code) fail(job, JC_UNSUPPORTED, "arithmetic coding");
    if (source->data_precision != 8) fail(job, JC_UNSUPPORTED, "%d bits a sample, not 8", source->data_precision);
    switch (source->jpeg_color_space) {
    case JCS_GRAYSCALE:
    case JCS_YCbCr: break;
    case JCS_RGB: fail(job, JC_UNSUPPORTED, "its colours are stored as RGB, not YCbCr");
    case JCS_CMYK:
    case JCS_YCCK: fail(job, JC_UNSUPPORTED, "its colours are CMYK, not YCbCr");
    default: fail(job, JC_UNSUPPORTED, "%d components of unknown colours", source->num_components);
    }
    if ((uint64_t)width * height > MAX_PIXELS)
        fail(job, JC_UNSUPPORTED, "%u x %u pixels are more than %d", width, height, MAX_PIXELS);

    uint64_t blocks = 0; /* each takes a bit at the least, even in a progressive file */
    for (int i = 0; i < source->num_components; i++)
        blocks += (uint64_t)source->comp_info[i].width_in_blocks * source->comp_info[i].height_in_blocks;
    if (blocks / 8 > job->size)
        fail(job, JC_TRUNCATED, "%zu bytes cannot hold %u x %u pixels", job->size, width, height);
}

/* After the last scan: everything that the header promises has come. */
static void check_scans(job *job)
{
    j_decompress_ptr source = &job->source;
    for (int i = 0; i < source->num_components; i++) {
        const JQUANT_TBL *quant = source->comp_info[i].quant_table; /* latched at the component's first scan */
        if (!quant) fail(job, JC_TRUNCATED, "component %d has no scan", i + 1);
        for (int k = 0; k < DCTSIZE2; k++) {
            if (quant->quantval[k] > GREATEST_QUANT)
                fail(job, JC_UNSUPPORTED, "a quantisation step of %d: baseline goes to 255", quant->quantval[k]);
            /* Decoders smooth what has not come in full, so that it would not look the same. */
            if (source->progressive_mode && source->coef_bits[i][k])
                fail(job, JC_TRUNCATED, "its progressive scans end before full precision");
        }
    }
}

static int in_range(JBLOCKROW row, JDIMENSION blocks)
{
    int outside = 0;
    for (JDIMENSION i = 0; i < blocks; i++) {
        outside |= row[i][0] < LEAST_DC || row[i][0] > GREATEST_DC;
        for (int k = 1; k < DCTSIZE2; k++) outside |= row[i][k] < -GREATEST_AC || row[i][k] > GREATEST_AC;
    }
    return !outside;
}

/* libjpeg writes a code of no bits, without a word, for what its table lacks. */
static void check_coefficients(job *job, jvirt_barray_ptr *coefficients)
{
    j_decompress_ptr source = &job->source;
    for (int i = 0; i < source->num_components; i++) {
        const jpeg_component_info *component = &source->comp_info[i];
        for (JDIMENSION y = 0; y < component->height_in_blocks; y++) {
            JBLOCKARRAY rows = source->mem->access_virt_barray((j_common_ptr)source, coefficients[i], y, 1, FALSE);
            if (!in_range(rows[0], component->width_in_blocks))
                fail(job, JC_UNSUPPORTED, "a coefficient outside of baseline's range");
        }
    }
}

/* --- transcoding ------------------------------------------------------------------------------------------------- */

int jc_restart_interval(int mcus_per_row)
{
    int row = mcus_per_row > 1 ? mcus_per_row : 1;
    for (int interval = 8; interval >= 4; interval--)
        if (row % interval == 0) return interval;
    int interval = row < 8 ? row : 9;
    while (row % interval) interval++;
    return interval;
}

/* A scan of a single component goes block by block, whatever sampling factors it declares (T.81, A.2.2). */
static int mcus_per_row(j_decompress_ptr source)
{
    if (source->num_components == 1) return (int)source->comp_info[0].width_in_blocks;
    int mcu_width = DCTSIZE * source->max_h_samp_factor;
    return ((int)source->image_width + mcu_width - 1) / mcu_width;
}

static void set_target(job *job)
{
    jpeg_copy_critical_parameters(&job->source, &job->target); /* with the standard Huffman tables */
    job->target.restart_interval = (unsigned)jc_restart_interval(mcus_per_row(&job->source));
}

static void begin(job *job)
{
    job->source.err = job->target.err = jpeg_std_error(&job->errors);
    job->errors.error_exit = on_error;
    job->errors.emit_message = on_message;
    job->progress.progress_monitor = on_progress;
    job->destination.init_destination = begin_output;
    job->destination.empty_output_buffer = more_output;
    job->destination.term_destination = end_output;
    job->source.client_data = job->target.client_data = job;
    jpeg_create_decompress(&job->source);
    jpeg_create_compress(&job->target);
    job->source.progress = &job->progress;
    job->target.dest = &job->destination;
}

/* The fast way. Returns 0 if libjpeg has to do it after all; nothing has changed then. */
static int recode_it(job *job, int ways)
{
    if (!(ways & BY_RECODING) || !may_recode(&job->source)) return 0;
    set_target(job);
    const uint8_t *scan = job->source.src->next_input_byte, *end = job->data + job->size;
    job->memory = recode(&job->source, &job->target, scan, end, ways, &job->used);
    return job->memory != NULL;
}

static int transcode(job *job, int ways)
{
    if (setjmp(job->failed)) return job->status;
    begin(job);
    jpeg_mem_src(&job->source, job->data, job->size);
    jpeg_read_header(&job->source, TRUE);
    check_header(job);
    if (recode_it(job, ways)) return JC_OK;
    if (!(ways & BY_LIBJPEG)) fail(job, JC_UNSUPPORTED, "left to libjpeg");
    jvirt_barray_ptr *coefficients = jpeg_read_coefficients(&job->source);
    check_scans(job);
    check_coefficients(job, coefficients);
    set_target(job);
    jpeg_write_coefficients(&job->target, coefficients);
    jpeg_finish_compress(&job->target);
    return JC_OK;
}

int transcode_by(int ways, const uint8_t *data, size_t size, uint8_t **out, size_t *out_size, char reason[JC_REASON])
{
    if (!data || !out || !out_size || !reason) return JC_BAD_ARGUMENT;
    reason[0] = 0;
    job job = {.data = data, .size = size, .reason = reason};
    int status = transcode(&job, ways);
    jpeg_destroy_compress(&job.target);
    jpeg_destroy_decompress(&job.source);
    if (status) {
        free(job.memory);
        return status;
    }
    *out = job.memory;
    *out_size = job.used;
    return JC_OK;
}

int jc_transcode(const uint8_t *data, size_t size, uint8_t **out, size_t *out_size, char reason[JC_REASON])
{
    return transcode_by(BY_RECODING | BY_LIBJPEG, data, size, out, out_size, reason);
}

void jc_free(void *memory) { free(memory); }
