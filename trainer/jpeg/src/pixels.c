/* Crops of an image that is stored as pixels: copied, or resized as planes. */
#include "internal.h"

static void copy_pixels(const jc_crop *crop)
{
    size_t left = (size_t)crop->box[0], top = (size_t)crop->box[1], width = (size_t)crop->out_width;
    uint8_t *out = crop->out;
    for (size_t y = 0; y < (size_t)crop->out_height; y++, out += 3 * width) {
        const uint8_t *row = crop->data + ((top + y) * (size_t)crop->width + left) * 3;
        if (!crop->flip) memcpy(out, row, 3 * width);
        for (size_t x = 0; crop->flip && x < width; x++) memcpy(out + 3 * x, row + 3 * (width - 1 - x), 3);
    }
}

static int resize_pixels(jc_decoder *decoder, const jc_crop *crop)
{
    resize_task task = {.components = 3, .ycc = 0, .out_width = crop->out_width, .out_height = crop->out_height,
                        .flip = crop->flip};
    extent x = filter_extent(crop->box[0], crop->box[2], crop->out_width, crop->width);
    extent y = filter_extent(crop->box[1], crop->box[3], crop->out_height, crop->height);
    int width[3], height[3];
    for (int i = 0; i < 3; i++) {
        memcpy(task.box[i], crop->box, sizeof crop->box);
        task.plane_width[i] = crop->width;
        task.plane_height[i] = crop->height;
        width[i] = x.last - x.first;
        height[i] = y.last - y.first;
    }
    int status = reserve_planes(decoder, 3, width, height);
    if (status != JC_OK) return status;
    for (int i = 0; i < 3; i++) {
        plane *p = &decoder->plane[i];
        p->left = x.first;
        p->top = y.first;
        for (int row = 0; row < height[i]; row++) {
            const uint8_t *from = crop->data + ((size_t)(y.first + row) * (size_t)crop->width + (size_t)x.first) * 3;
            for (int column = 0; column < width[i]; column++)
                p->samples[row * p->stride + column] = from[3 * column + i];
        }
    }
    if (crop->exact) return resize_exact(decoder, decoder->plane, 3, crop);
    return resize_planes(decoder, &task, crop->out);
}

int decode_pixels(jc_decoder *decoder, const jc_crop *crop)
{
    int same = crop->box[2] - crop->box[0] == crop->out_width && crop->box[3] - crop->box[1] == crop->out_height;
    if (!same || !is_whole(crop->box[0]) || !is_whole(crop->box[1])) return resize_pixels(decoder, crop);
    copy_pixels(crop);
    return JC_OK;
}
