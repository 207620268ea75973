/* Runs of MCUs: pass over them, or decode them to samples, out of one stream or of two in lockstep.
 *
 * Huffman decoding is a chain of dependent steps, and two chains fill the processor where one leaves it waiting. Their
 * blocks also go through the inverse DCT side by side.
 */
#include "scan.h"
#include "scan_blocks.h"

INLINE int skip_mcus(const scan_plan *plan, stream *s, int count)
{
    bits b = s->bits;
    int bad = 0;
    for (int mcu = 0; mcu < count; mcu++) {
        for (int i = 0; i < plan->blocks; i++) {
            const block_plan *block = &plan->block[i];
            refill(&b);
            s->dc[block->component] += (uint32_t)read_dc(&b, block->dc, &bad);
            if (UNLIKELY(!skip_ac(&b, block->ac) || bad)) return failure(&b);
        }
    }
    s->bits = b;
    return JC_OK;
}

INLINE uint8_t *block_samples(const scan_plan *plan, const block_plan *block, int row, int column)
{
    int c = block->component;
    return plan->decoder->plane[c].samples + row * plan->mcu_height[c] + column * plan->mcu_width[c] + block->offset;
}

/* Two streams in rows row and row + 1, in lockstep. */
INLINE int take_mcus_of_two(const scan_plan *plan, stream *streams, mcu_run run)
{
    bits a = streams[0].bits, b = streams[1].bits;
    int16_t *block_a = plan->decoder->coefficients, *block_b = block_a + PAIR_LANE;
    const uint8_t *order = plan->order;
    int bad = 0;
    for (int column = run.column; column < run.column + run.take; column++) {
        for (int i = 0; i < plan->blocks; i++) {
            const block_plan *block = &plan->block[i];
            const huffman *ac = block->ac;
            int c = block->component;
            refill(&a);
            refill(&b);
            streams[0].dc[c] += (uint32_t)read_dc(&a, block->dc, &bad);
            streams[1].dc[c] += (uint32_t)read_dc(&b, block->dc, &bad);
            block_a[0] = (int16_t)(uint16_t)streams[0].dc[c];
            block_b[0] = (int16_t)(uint16_t)streams[1].dc[c];
            progress pa = {.sums = 1 << 8}, pb = {.sums = 1 << 8};
            for (;;) {
                settle(&a, &pa);
                settle(&b, &pb);
                step(&a, &pa, ac, block_a, order);
                step(&b, &pb, ac, block_b, order);
                if ((position_of(&pa) | position_of(&pb)) >= 64) break;
                step(&a, &pa, ac, block_a, order);
                step(&b, &pb, ac, block_b, order);
                if ((position_of(&pa) | position_of(&pb)) >= 64) break;
                step(&a, &pa, ac, block_a, order);
                step(&b, &pb, ac, block_b, order);
                if ((position_of(&pa) | position_of(&pb)) >= 64) break;
            }
            read_rest(&a, &pa, ac, block_a, order);
            read_rest(&b, &pb, ac, block_b, order);
            if (UNLIKELY(!finish(&a, &pa, ac) || !finish(&b, &pb, ac) || bad)) {
                int status = failure(&a);
                return status == JC_TRUNCATED ? status : failure(&b);
            }
            uint8_t *out = block_samples(plan, block, run.row, column);
            plan->idct(block_a, plan->quant[i], out, out + plan->mcu_height[c], plan->stride[c], plan->stride[c]);
        }
    }
    streams[0].bits = a;
    streams[1].bits = b;
    return JC_OK;
}

/* One stream; its blocks go two by two through the inverse DCT. */
INLINE int take_mcus_of_one(const scan_plan *plan, stream *s, mcu_run run)
{
    bits b = s->bits;
    int16_t *coefficients = plan->decoder->coefficients;
    uint8_t nowhere[64];
    int bad = 0;
    for (int column = run.column; column < run.column + run.take; column++) {
        uint8_t *out[2] = {NULL, nowhere};
        ptrdiff_t stride[2] = {0, 8};
        for (int i = 0; i < plan->blocks; i++) {
            const block_plan *block = &plan->block[i];
            int c = block->component, lane = i & 1;
            refill(&b);
            s->dc[c] += (uint32_t)read_dc(&b, block->dc, &bad);
            int16_t *into = coefficients + lane * PAIR_LANE;
            into[0] = (int16_t)(uint16_t)s->dc[c];
            progress p = {.sums = 1 << 8};
            read_rest(&b, &p, block->ac, into, plan->order);
            if (UNLIKELY(!finish(&b, &p, block->ac) || bad)) return failure(&b);
            out[lane] = block_samples(plan, block, run.row, column);
            stride[lane] = plan->stride[c];
            if (lane) {
                plan->idct(coefficients, plan->quant_mixed[i - 1], out[0], out[1], stride[0], stride[1]);
                out[1] = nowhere;
                stride[1] = 8;
            } else if (i == plan->blocks - 1) {
                plan->idct(coefficients, plan->quant_mixed[i], out[0], nowhere, stride[0], 8);
            }
        }
    }
    s->bits = b;
    return JC_OK;
}

int skip_portable(const scan_plan *plan, stream *s, int count) { return skip_mcus(plan, s, count); }
int take_one_portable(const scan_plan *plan, stream *s, mcu_run run) { return take_mcus_of_one(plan, s, run); }
int take_two_portable(const scan_plan *plan, stream *s, mcu_run run) { return take_mcus_of_two(plan, s, run); }

#if HAVE_AVX2
AVX2 int skip_avx2(const scan_plan *plan, stream *s, int count) { return skip_mcus(plan, s, count); }
AVX2 int take_one_avx2(const scan_plan *plan, stream *s, mcu_run run) { return take_mcus_of_one(plan, s, run); }
AVX2 int take_two_avx2(const scan_plan *plan, stream *s, mcu_run run) { return take_mcus_of_two(plan, s, run); }
#endif
