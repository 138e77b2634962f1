/* Pictures that are none, or too large, are refused by name; odd ones are looked at all the same.
 *
 *   bad_pictures DECODER VISION PICTURE QUESTION ANSWER PNG JPEG SCRATCH
 */
#include "check.h"

/* Counts warnings and remembers the last. */
typedef struct warnings {
    int count;
    char last[512];
} warnings;

static void on_log(int32_t level, const char *text, void *user_data)
{
    warnings *w = (warnings *)user_data;
    if (level == TGV_LOG_WARNING) {
        w->count++;
        snprintf(w->last, sizeof w->last, "%s", text);
    }
}

static void refuse_memory(const fixture *f, const void *data, size_t size, tgv_status status, const char *fragment)
{
    tgv_image *image = SENTINEL(tgv_image);
    CHECK_FAILS(tgv_image_from_memory(data, size, &image), status, fragment);
    CHECK(image == SENTINEL(tgv_image));
    CHECK_WORKS(f);
}

static void refuse_pixels(const fixture *f, uint32_t width, uint32_t height, size_t size, tgv_status status,
                          const char *fragment)
{
    static const unsigned char pixels[1 << 16];
    tgv_image *image = SENTINEL(tgv_image);
    CHECK(size <= sizeof pixels);
    CHECK_FAILS(tgv_image_from_pixels(pixels, size, width, height, 0, TGV_PIXELS_GRAY, &image), status, fragment);
    CHECK(image == SENTINEL(tgv_image));
    CHECK_WORKS(f);
}

static void refuse_file(const fixture *f, const char *path, tgv_status status, const char *fragment)
{
    tgv_image *image = SENTINEL(tgv_image);
    CHECK_FAILS(tgv_image_from_file(path, &image), status, fragment);
    CHECK(image == SENTINEL(tgv_image));
    CHECK_WORKS(f);
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fwrite(data, 1, size, file) == size && fclose(file) == 0);
}

/* A file cut at 20 places. A decoder may make something of what there is (JPEG can), but then it is a picture. */
static void check_cuts(const fixture *f, const char *path, int must_fail)
{
    size_t size, i;
    unsigned char *whole = read_file(path, &size);
    tgv_image *image = NULL;
    for (i = 0; i < 20; i++) {
        size_t cut = size * i / 20;
        /* Memory of exactly that size, so that a sanitizer sees what is read beyond. */
        unsigned char *part = (unsigned char *)malloc(cut > 0 ? cut : 1);
        tgv_status status;
        CHECK(part != NULL);
        memcpy(part, whole, cut);
        image = SENTINEL(tgv_image);
        status = tgv_image_from_memory(part, cut, &image);
        free(part);
        if (status == TGV_OK) {
            CHECK(!must_fail);
            tgv_embedding_free(encode(f->model, image));
            tgv_image_free(image);
        } else {
            CHECK_STATUS(status, TGV_ERROR_BAD_IMAGE);
            CHECK(image == SENTINEL(tgv_image) && strlen(tgv_last_error()) > 10);
        }
    }
    CHECK_OK(tgv_image_from_memory(whole, size, &image));
    tgv_image_free(image);
    free(whole);
    CHECK_WORKS(f);
}

/* Very long pictures are squeezed, as PIL does it, with a warning. */
static void check_long_picture(const fixture *f, uint32_t width, uint32_t height)
{
    static unsigned char pixels[20000 * 3];
    warnings seen = { 0, "" };
    tgv_image *image = NULL;
    size_t i;
    for (i = 0; i < sizeof pixels; i++)
        pixels[i] = (unsigned char)(i * 7);
    CHECK_OK(tgv_image_from_pixels(pixels, sizeof pixels, width, height, 0, TGV_PIXELS_RGB, &image));
    CHECK_OK(tgv_set_log_callback(on_log, &seen));
    CHECK_OK(tgv_session_reset(f->session));
    CHECK_OK(tgv_session_add_image(f->session, image));
    CHECK_OK(tgv_set_log_callback(NULL, NULL));
    CHECK(seen.count == 1 && strstr(seen.last, "20000") != NULL && strstr(seen.last, "squeezed") != NULL);
    CHECK_OK(tgv_session_ask(f->session, f->question, NULL, NULL, NULL));
    tgv_image_free(image);
    CHECK_WORKS(f);
}

static void check_small_picture(const fixture *f)
{
    const unsigned char pixel = 128;
    tgv_image *image = NULL;
    CHECK_OK(tgv_image_from_pixels(&pixel, 1, 1, 1, 0, TGV_PIXELS_GRAY, &image));
    CHECK_OK(tgv_session_reset(f->session));
    CHECK_OK(tgv_session_add_image(f->session, image));
    CHECK_OK(tgv_session_ask(f->session, f->question, NULL, NULL, NULL));
    tgv_image_free(image);
    CHECK_WORKS(f);
}

int main(int argc, char **argv)
{
    static const char html[] = "<!DOCTYPE html><html><body>404 Not Found</body></html>";
    static const char ppm_large[] = "P6 100000 100000 255\n....";
    static const char ppm_wide[] = "P6 65536 1 255\n....";
    static const char ppm_short[] = "P6 40 30 255\n....";
    static const char ppm_zero[] = "P6 0 30 255\n....";
    static const char png_start[] = "\x89PNG\r\n\x1a\n";
    fixture f = open_fixture(argc, argv);
    const char *png, *jpeg, *scratch;
    tgv_image *image = SENTINEL(tgv_image);

    CHECK(argc == OWN_ARGUMENTS + 3);
    png = argv[OWN_ARGUMENTS];
    jpeg = argv[OWN_ARGUMENTS + 1];
    scratch = argv[OWN_ARGUMENTS + 2];

    refuse_pixels(&f, 0, 5, 100, TGV_ERROR_BAD_IMAGE, "0");
    refuse_pixels(&f, 5, 0, 100, TGV_ERROR_BAD_IMAGE, "0");
    refuse_pixels(&f, 0, 0, 0, TGV_ERROR_BAD_IMAGE, "0");
    refuse_pixels(&f, 5, 5, 24, TGV_ERROR_INVALID_ARGUMENT, "24 bytes");
    refuse_pixels(&f, 65536, 1, 65536, TGV_ERROR_IMAGE_TOO_LARGE, "65536");
    refuse_pixels(&f, 1, 65536, 65536, TGV_ERROR_IMAGE_TOO_LARGE, "65536");
    refuse_pixels(&f, UINT32_MAX, UINT32_MAX, 10, TGV_ERROR_IMAGE_TOO_LARGE, "4294967295");
    refuse_pixels(&f, 65535, 65535, 10, TGV_ERROR_IMAGE_TOO_LARGE, "65535");
    CHECK_FAILS(tgv_image_from_pixels(html, 40, 2, 2, SIZE_MAX, TGV_PIXELS_GRAY, &image), TGV_ERROR_INVALID_ARGUMENT,
                "stride");
    CHECK_FAILS(tgv_image_from_pixels(html, 40, 2, 2, 0, 0, &image), TGV_ERROR_INVALID_ARGUMENT, "TGV_PIXELS_");
    CHECK_FAILS(tgv_image_from_pixels(html, 40, 2, 2, 0, 6, &image), TGV_ERROR_INVALID_ARGUMENT, "TGV_PIXELS_");
    CHECK_FAILS(tgv_image_from_pixels(html, 40, 2, 2, 0, -1, &image), TGV_ERROR_INVALID_ARGUMENT, "TGV_PIXELS_");
    CHECK_FAILS(tgv_image_from_memory(html, SIZE_MAX, &image), TGV_ERROR_INVALID_ARGUMENT, "impossible");
    CHECK(image == SENTINEL(tgv_image));

    refuse_memory(&f, html, 0, TGV_ERROR_BAD_IMAGE, "0 bytes");
    refuse_memory(&f, html, sizeof html - 1, TGV_ERROR_BAD_IMAGE, "HTML page");
    refuse_memory(&f, png_start, sizeof png_start - 1, TGV_ERROR_BAD_IMAGE, "");
    refuse_memory(&f, "\xff\xd8\xff", 3, TGV_ERROR_BAD_IMAGE, "");
    refuse_memory(&f, "GIF89a", 6, TGV_ERROR_BAD_IMAGE, "");
    refuse_memory(&f, "BM", 2, TGV_ERROR_BAD_IMAGE, "");
    refuse_memory(&f, "RIFF\4\0\0\0WEBP", 12, TGV_ERROR_BAD_IMAGE, "");
    refuse_memory(&f, "II*\0", 4, TGV_ERROR_BAD_IMAGE, "");
    refuse_memory(&f, ppm_large, sizeof ppm_large - 1, TGV_ERROR_IMAGE_TOO_LARGE, "100000");
    refuse_memory(&f, ppm_wide, sizeof ppm_wide - 1, TGV_ERROR_IMAGE_TOO_LARGE, "65536");
    refuse_memory(&f, ppm_short, sizeof ppm_short - 1, TGV_ERROR_BAD_IMAGE, "");
    refuse_memory(&f, ppm_zero, sizeof ppm_zero - 1, TGV_ERROR_BAD_IMAGE, "");

    refuse_file(&f, "no/such/picture.png", TGV_ERROR_FILE_NOT_FOUND, "no/such/picture.png");
    refuse_file(&f, "", TGV_ERROR_FILE_NOT_FOUND, "open");
    refuse_file(&f, ".", TGV_ERROR_IO, "read");
    refuse_file(&f, f.decoder, TGV_ERROR_BAD_IMAGE, "GGUF model file");
    write_file(scratch, "", 0);
    refuse_file(&f, scratch, TGV_ERROR_BAD_IMAGE, scratch);
    write_file(scratch, png_start, sizeof png_start - 1);
    refuse_file(&f, scratch, TGV_ERROR_BAD_IMAGE, scratch);
    write_file(scratch, html, sizeof html - 1);
    refuse_file(&f, scratch, TGV_ERROR_BAD_IMAGE, scratch);
    write_file(scratch, ppm_wide, sizeof ppm_wide - 1);
    refuse_file(&f, scratch, TGV_ERROR_IMAGE_TOO_LARGE, scratch);

    check_cuts(&f, png, 1);
    check_cuts(&f, jpeg, 0);
    check_long_picture(&f, 20000, 1);
    check_long_picture(&f, 1, 20000);
    check_small_picture(&f);
    close_fixture(&f);
    return 0;
}
