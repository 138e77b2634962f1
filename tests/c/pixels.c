/* The same picture, however its pixels come, gives the same embedding. */
#include "check.h"

enum { WIDTH = 97, HEIGHT = 61 };

static unsigned char rgb[HEIGHT][WIDTH][3];

/* A red disc on a gradient, so that a wrong stride or channel order shows. */
static void draw(void)
{
    int x, y;
    for (y = 0; y < HEIGHT; y++)
        for (x = 0; x < WIDTH; x++) {
            int inside = (x - 40) * (x - 40) + (y - 30) * (y - 30) < 400;
            rgb[y][x][0] = (unsigned char)(inside ? 220 : 2 * x);
            rgb[y][x][1] = (unsigned char)(inside ? 30 : 3 * y);
            rgb[y][x][2] = (unsigned char)(inside ? 40 : 200 - x);
        }
}

static size_t pixel_bytes(int32_t format)
{
    return format == TGV_PIXELS_GRAY ? 1 : format == TGV_PIXELS_RGB || format == TGV_PIXELS_BGR ? 3 : 4;
}

/* The picture in another layout, with gaps of garbage between the rows; the last row ends where its pixels end. */
static tgv_image *from_layout(int32_t format, size_t gap)
{
    size_t bytes = pixel_bytes(format), stride = WIDTH * bytes + gap;
    size_t size = (HEIGHT - 1) * stride + WIDTH * bytes, x, y;
    int swapped = format == TGV_PIXELS_BGR || format == TGV_PIXELS_BGRA;
    unsigned char *pixels = (unsigned char *)malloc(size);
    tgv_image *image = NULL, *untouched = SENTINEL(tgv_image);
    uint32_t width = 0, height = 0;

    CHECK(pixels != NULL);
    memset(pixels, 0xee, size);
    for (y = 0; y < HEIGHT; y++)
        for (x = 0; x < WIDTH; x++) {
            unsigned char *pixel = pixels + y * stride + x * bytes;
            pixel[0] = rgb[y][x][swapped ? 2 : 0];
            if (bytes >= 3) {
                pixel[1] = rgb[y][x][1];
                pixel[2] = rgb[y][x][swapped ? 0 : 2];
            }
            if (bytes == 4)
                pixel[3] = (unsigned char)(x * y); /* transparency is ignored */
        }
    CHECK_OK(tgv_image_from_pixels(pixels, size, WIDTH, HEIGHT, gap == 0 ? 0 : stride, format, &image));
    CHECK_OK(tgv_image_get_size(image, &width, &height));
    CHECK(width == WIDTH && height == HEIGHT);
    /* One byte less, a stride below a row: refused before anything is read. */
    CHECK_FAILS(tgv_image_from_pixels(pixels, size - 1, WIDTH, HEIGHT, stride, format, &untouched),
                TGV_ERROR_INVALID_ARGUMENT, "do not fit");
    CHECK_FAILS(tgv_image_from_pixels(pixels, size, WIDTH, HEIGHT, WIDTH * bytes - 1, format, &untouched),
                TGV_ERROR_INVALID_ARGUMENT, "stride");
    CHECK(untouched == SENTINEL(tgv_image));
    free(pixels); /* they were copied */
    return image;
}

/* The picture as a file in memory: binary PPM. */
static tgv_image *from_ppm(void)
{
    static unsigned char file[32 + sizeof rgb];
    int header = snprintf((char *)file, 32, "P6 %d %d 255\n", WIDTH, HEIGHT);
    tgv_image *image = NULL;
    memcpy(file + header, rgb, sizeof rgb);
    CHECK_OK(tgv_image_from_memory(file, (size_t)header + sizeof rgb, &image));
    memset(file, 0, sizeof file);
    return image;
}

/* Encodes and frees the image. */
static float *values_of(const tgv_model *model, tgv_image *image, size_t *count)
{
    tgv_embedding *embedding = encode(model, image);
    size_t rows, width;
    float *values;
    tgv_image_free(image);
    CHECK_OK(tgv_embedding_get_size(embedding, &rows, &width));
    *count = rows * width;
    values = (float *)malloc(*count * sizeof *values);
    CHECK(values != NULL);
    CHECK_OK(tgv_embedding_copy(embedding, values, *count));
    tgv_embedding_free(embedding);
    return values;
}

static void check_same(const tgv_model *model, const float *expected, tgv_image *image)
{
    size_t count;
    float *values = values_of(model, image, &count);
    CHECK(memcmp(values, expected, count * sizeof *values) == 0);
    free(values);
}

int main(int argc, char **argv)
{
    static const size_t GAPS[] = { 0, 1, 64 };
    fixture f = open_fixture(argc, argv);
    size_t count, file_size, g, x, y;
    float *expected, *of_file;
    unsigned char *file;
    tgv_image *image = NULL;
    int32_t format;

    draw();
    expected = values_of(f.model, from_layout(TGV_PIXELS_RGB, 0), &count);
    for (format = TGV_PIXELS_RGB; format <= TGV_PIXELS_BGRA; format++)
        for (g = 0; g < sizeof GAPS / sizeof GAPS[0]; g++)
            check_same(f.model, expected, from_layout(format, GAPS[g]));
    check_same(f.model, expected, from_ppm());

    /* A PNG file and its bytes in memory. */
    of_file = values_of(f.model, open_image(f.picture), &count);
    CHECK(memcmp(of_file, expected, count * sizeof *expected) != 0);
    file = read_file(f.picture, &file_size);
    CHECK_OK(tgv_image_from_memory(file, file_size, &image));
    memset(file, 0, file_size);
    free(file);
    check_same(f.model, of_file, image);
    free(of_file);
    free(expected);

    /* Gray is three equal channels. */
    for (y = 0; y < HEIGHT; y++)
        for (x = 0; x < WIDTH; x++)
            rgb[y][x][1] = rgb[y][x][2] = rgb[y][x][0];
    expected = values_of(f.model, from_layout(TGV_PIXELS_RGB, 3), &count);
    for (g = 0; g < sizeof GAPS / sizeof GAPS[0]; g++)
        check_same(f.model, expected, from_layout(TGV_PIXELS_GRAY, GAPS[g]));
    free(expected);

    close_fixture(&f);
    return 0;
}
