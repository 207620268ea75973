/* Counts what a pool does for the groups of a batch: a program of the library's sources, linked with
 * -Wl,--wrap=read_header,--wrap=jc_transcode,--wrap=decode_rectangle, and built to find races.
 *
 *   groups THREADS BATCHES FILE...   of each JPEG the crops of corners and centre, side by side, so many batches of all
 *
 * Prints headers read, transcodings, rectangles decoded and crops failed, in all batches. Ends with 1 when two batches
 * differ.
 */
#include "internal.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { CROPS = 5, SIDE = 48, MOST_BYTES = 1 << 20, OUT = SIDE * SIDE * 3 };

static atomic_int headers, transcodings, rectangles;

int __real_read_header(const uint8_t *data, size_t size, header *h);
int __wrap_read_header(const uint8_t *data, size_t size, header *h);
int __wrap_read_header(const uint8_t *data, size_t size, header *h)
{
    atomic_fetch_add(&headers, 1);
    return __real_read_header(data, size, h);
}

int __real_jc_transcode(const uint8_t *data, size_t size, uint8_t **out, size_t *out_size, char reason[JC_REASON]);
int __wrap_jc_transcode(const uint8_t *data, size_t size, uint8_t **out, size_t *out_size, char reason[JC_REASON]);
int __wrap_jc_transcode(const uint8_t *data, size_t size, uint8_t **out, size_t *out_size, char reason[JC_REASON])
{
    atomic_fetch_add(&transcodings, 1);
    return __real_jc_transcode(data, size, out, out_size, reason);
}

int __real_decode_rectangle(jc_decoder *decoder, const header *h, mcu_rectangle rectangle);
int __wrap_decode_rectangle(jc_decoder *decoder, const header *h, mcu_rectangle rectangle);
int __wrap_decode_rectangle(jc_decoder *decoder, const header *h, mcu_rectangle rectangle)
{
    atomic_fetch_add(&rectangles, 1);
    return __real_decode_rectangle(decoder, h, rectangle);
}

static void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (!memory) exit(2);
    return memory;
}

/* The crops of one file, which stays in memory. */
static void add_group(const char *path, jc_crop *crops, uint8_t *out)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = allocate(MOST_BYTES);
    jc_info info;
    size_t size = file ? fread(data, 1, MOST_BYTES, file) : 0;
    if (jc_read_info(data, size, &info) != JC_OK) exit(2);
    fclose(file);
    for (int i = 0; i < CROPS; i++) {
        double side = 0.8 * (info.width < info.height ? info.width : info.height);
        double left = (info.width - side) * (i == 4 ? 0.5 : i % 2);
        double top = (info.height - side) * (i == 4 ? 0.5 : i / 2);
        crops[i] = (jc_crop){.data = data, .size = size, .out = out + i * OUT, .box = {left, top, left + side, top + side},
                             .width = info.width, .height = info.height, .out_width = SIDE, .out_height = SIDE};
    }
}

int main(int count, char **arguments)
{
    if (count < 4) return 2;
    int files = count - 3, batches = atoi(arguments[2]);
    int64_t failed = 0;
    size_t bytes = (size_t)files * CROPS * OUT;
    jc_pool *pool = jc_pool_new(atoi(arguments[1]), 0);
    jc_crop *crops = allocate((size_t)files * CROPS * sizeof *crops);
    uint8_t *out = allocate(bytes), *first = allocate(bytes);
    for (int i = 0; i < files; i++) add_group(arguments[3 + i], crops + i * CROPS, out + (size_t)i * CROPS * OUT);
    atomic_store(&headers, 0);
    for (int batch = 0; batch < batches; batch++) {
        failed += jc_pool_decode(pool, crops, files * CROPS);
        if (batch && memcmp(first, out, bytes) != 0) return 1;
        memcpy(first, out, bytes);
        memset(out, 0, bytes);
    }
    printf("%d headers, %d transcodings, %d rectangles, %ld failed\n", headers, transcodings, rectangles, (long)failed);
    jc_pool_free(pool);
    for (int i = 0; i < files; i++) free((void *)crops[i * CROPS].data);
    free(crops);
    free(out);
    free(first);
    return 0;
}
