/* A plain stand-in for libFuzzer, for any C compiler: no coverage, just many small changes of the seeds.
 *
 *   driver SEEDS INPUTS RANDOM LAST   so many INPUTS made from the files of the folder SEEDS, the same for one RANDOM
 *   driver FILE                       one input
 *
 * The file LAST holds the current input while it is worked on: what is left in it after a crash is the culprit.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

enum { MOST_SEEDS = 1000, ROOM = 1 << 15, MOST_CHANGES = 6, SECONDS_AN_INPUT = 20 };

typedef struct {
    uint8_t *data;
    size_t size;
} input;

static uint64_t state;

/* xorshift64*, below `limit`. */
static size_t draw(size_t limit)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (size_t)((state * 2685821657736338717u >> 32) % (limit ? limit : 1));
}

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static input read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    input in = {malloc(ROOM), 0};
    if (!file || !in.data) die(path);
    in.size = fread(in.data, 1, ROOM, file);
    fclose(file);
    return in;
}

static int read_folder(const char *folder, input *seeds)
{
    struct dirent **names;
    int found = scandir(folder, &names, NULL, alphasort), count = 0;
    if (found < 0) die(folder);
    for (int i = 0; i < found; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && count < MOST_SEEDS) seeds[count++] = read_file(path);
        free(names[i]);
    }
    free(names);
    return count;
}

/* Bytes that mean something in a JPEG. */
static uint8_t draw_byte(void)
{
    static const uint8_t telling[] = {0,    1,    2,    3,    4,    0x11, 0x21, 0x22, 0x7F, 0x80,
                                      0xC0, 0xC2, 0xC4, 0xD0, 0xD7, 0xD9, 0xDA, 0xDD, 0xFF};
    return draw(2) ? telling[draw(sizeof telling)] : (uint8_t)draw(256);
}

static void change(input *in, const input *seeds, int count)
{
    size_t at = draw(in->size), length = 1 + draw(draw(4) ? 4 : 64);
    const input *other = &seeds[draw((size_t)count)];
    switch (draw(6)) {
    case 0: in->data[at] ^= (uint8_t)(1u << draw(8)); return;
    case 1: in->data[at] = draw_byte(); return;
    case 2: /* leave some out */
        if (length > in->size - at) length = in->size - at;
        memmove(in->data + at, in->data + at + length, in->size - at - length);
        in->size -= length;
        return;
    case 3: /* put some in */
        if (length > ROOM - in->size) length = ROOM - in->size;
        memmove(in->data + at + length, in->data + at, in->size - at);
        for (size_t i = 0; i < length; i++) in->data[at + i] = draw_byte();
        in->size += length;
        return;
    case 4: /* from elsewhere, in another input or in this */
        if (draw(2)) other = in;
        if (length > other->size) length = other->size;
        if (length > in->size - at) length = in->size - at;
        memmove(in->data + at, other->data + draw(other->size - length + 1), length);
        return;
    default: /* the head of one, the tail of another */
        if (draw(4) || at > other->size) return;
        memcpy(in->data + at, other->data + at, other->size - at);
        in->size = other->size;
    }
}

static void keep(int file, const input *in)
{
    int failed = ftruncate(file, (off_t)in->size) || pwrite(file, in->data, in->size, 0) != (ssize_t)in->size;
    if (failed) die("the last input");
}

int main(int count, char **arguments)
{
    if (count == 2) {
        input one = read_file(arguments[1]);
        LLVMFuzzerTestOneInput(one.data, one.size);
        free(one.data);
        return 0;
    }
    static input seeds[MOST_SEEDS];
    if (count != 5) return 2;
    int found = read_folder(arguments[1], seeds), last = open(arguments[4], O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (!found || last < 0) die(arguments[4]);
    state = strtoull(arguments[3], NULL, 10) * 2 + 1;
    input in = {malloc(ROOM), 0};
    long inputs = atol(arguments[2]);
    for (long i = 0; i < inputs && in.data; i++) {
        const input *seed = &seeds[i < found ? (size_t)i : draw((size_t)found)];
        memcpy(in.data, seed->data, in.size = seed->size);
        for (size_t left = i < found ? 0 : 1 + draw(MOST_CHANGES); left && in.size; left--) change(&in, seeds, found);
        keep(last, &in);
        alarm(SECONDS_AN_INPUT); /* ends what hangs */
        LLVMFuzzerTestOneInput(in.data, in.size);
    }
    for (int i = 0; i < found; i++) free(seeds[i].data);
    free(in.data);
    unlink(arguments[4]);
    printf("%ld inputs from %d seeds\n", inputs, found);
    return 0;
}
