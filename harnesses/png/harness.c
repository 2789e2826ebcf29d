/*
 * libpng: the input is a PNG file, read twice.
 *
 * First row by row with the classic interface, where each transformation is asked for; then whole
 * with the simplified interface, which scales, composes and builds colour maps by itself. A few
 * bytes may claim gigabytes, so images are limited to PIXELS_PER_SIDE_MAX, and files with a chunk
 * of more than CHUNK_BYTES_MAX are not read at all: libpng would allocate first and then find that
 * the file is shorter. Checksums are not verified, since a mutator cannot repair them.
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "png.h"

#define PIXELS_PER_SIDE_MAX 256
#define CHUNK_BYTES_MAX 100000
#define SIGNATURE_BYTES 8
#define CHUNK_OVERHEAD_BYTES 12 /* length, type and checksum */

/* Whether a chunk claims to be longer than CHUNK_BYTES_MAX. It need not be there whole. */
static int has_oversized_chunk(const uint8_t *data, size_t size)
{
    size_t at = SIGNATURE_BYTES;
    while (at + 4 <= size) {
        size_t length = png_get_uint_32(data + at);
        if (length > CHUNK_BYTES_MAX)
            return 1;
        at += length + CHUNK_OVERHEAD_BYTES;
    }
    return 0;
}

struct reader {
    const uint8_t *next;
    size_t left;
};

static void read_bytes(png_structp png, png_bytep into, size_t size)
{
    struct reader *reader = png_get_io_ptr(png);
    if (size > reader->left)
        png_error(png, "end of input");
    memcpy(into, reader->next, size);
    reader->next += size;
    reader->left -= size;
}

static void ignore_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void stop_on_error(png_structp png, png_const_charp message)
{
    (void)message;
    png_longjmp(png, 1);
}

static void read_by_rows(const uint8_t *data, size_t size)
{
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, stop_on_error, ignore_warning);
    png_infop info = png_create_info_struct(png);
    png_bytep volatile row = NULL; /* changed between setjmp and longjmp */
    struct reader reader = {data, size};

    if (setjmp(png_jmpbuf(png)) == 0) {
        png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
        png_set_user_limits(png, PIXELS_PER_SIDE_MAX, PIXELS_PER_SIDE_MAX);
        png_set_chunk_malloc_max(png, CHUNK_BYTES_MAX);
        png_set_read_fn(png, &reader, read_bytes);
        png_read_info(png, info);
        png_set_expand(png);
        png_set_gamma(png, 2.2, 0.45455);
        int passes = png_set_interlace_handling(png);
        png_read_update_info(png, info);
        row = malloc(png_get_rowbytes(png, info));
        for (int pass = 0; row != NULL && pass < passes; pass++)
            for (png_uint_32 y = 0; y < png_get_image_height(png, info); y++)
                png_read_row(png, row, NULL);
        png_read_end(png, info);
    }
    png_destroy_read_struct(&png, &info, NULL);
    free(row);
}

static void read_simplified(const uint8_t *data, size_t size)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (png_image_begin_read_from_memory(&image, data, size)) {
        /* The last byte of the input belongs to the CRC of IEND, which nothing checks. */
        image.format = data[size - 1] & 1 ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB_COLORMAP;
        if (image.width <= PIXELS_PER_SIDE_MAX && image.height <= PIXELS_PER_SIDE_MAX) {
            png_bytep pixels = malloc(PNG_IMAGE_SIZE(image));
            png_bytep colormap = malloc(PNG_IMAGE_COLORMAP_SIZE(image) + 1);
            png_color background = {1, 2, 3};
            if (pixels != NULL && colormap != NULL)
                png_image_finish_read(&image, &background, pixels, 0, colormap);
            free(colormap);
            free(pixels);
        }
    }
    png_image_free(&image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < SIGNATURE_BYTES || png_sig_cmp(data, 0, SIGNATURE_BYTES) != 0 || has_oversized_chunk(data, size))
        return -1;
    read_by_rows(data, size);
    read_simplified(data, size);
    return 0;
}
