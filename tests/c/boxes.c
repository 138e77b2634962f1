/* Boxes in answers: found while the answer streams, in pixels of the picture, with their labels; and drawn.
 *
 *   boxes DECODER VISION PICTURE QUESTION ANSWER SCRATCH
 *
 * The answer is one box.
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <math.h>
#include <pthread.h>

static int push(const char *text, size_t length, void *user_data)
{
    (void)length;
    CHECK_OK(tgv_boxes_push((tgv_boxes *)user_data, text));
    return 0;
}

static tgv_boxes *create_boxes(const tgv_image *image)
{
    tgv_boxes *boxes = NULL;
    CHECK_OK(tgv_boxes_create(image, &boxes));
    CHECK(tgv_boxes_count(boxes) == 0);
    return boxes;
}

static tgv_box box_of(const tgv_boxes *boxes, size_t i)
{
    tgv_box box = TGV_BOX_INIT;
    CHECK_OK(tgv_boxes_get(boxes, i, &box));
    CHECK(box.struct_size == sizeof box && box.label != NULL && is_utf8(box.label, strlen(box.label)));
    CHECK(box.x0 <= box.x1 && box.y0 <= box.y1);
    return box;
}

static void check_answer_boxes(const fixture *f)
{
    tgv_boxes *boxes = create_boxes(f->image);
    uint32_t width, height;
    int percent[4];
    tgv_box box;

    CHECK(sscanf(f->answer, "{<%d><%d><%d><%d>}", &percent[0], &percent[1], &percent[2], &percent[3]) == 4);
    CHECK_OK(tgv_image_get_size(f->image, &width, &height));
    CHECK_OK(tgv_session_add_embedding(f->session, f->embedding));
    CHECK_OK(tgv_session_ask(f->session, f->question, push, boxes, NULL));
    CHECK(tgv_boxes_count(boxes) == 1);
    box = box_of(boxes, 0);
    CHECK(strcmp(box.label, "") == 0);
    CHECK(fabs(box.x0 - percent[0] * width / 100.0) < 1e-3 && fabs(box.y0 - percent[1] * height / 100.0) < 1e-3);
    CHECK(fabs(box.x1 - percent[2] * width / 100.0) < 1e-3 && fabs(box.y1 - percent[3] * height / 100.0) < 1e-3);
    tgv_boxes_free(boxes);
}

/* Phrases, and text that is no box. Labels stay where they are however long the list grows, also after the picture is gone. */
static void check_labels(const fixture *f)
{
    static const char text[] = "<p>r\xc3\xb6ter \xe2\xad\x90</p> {<1><2><3><4>}<delim>{<5><6><7><8>}, <x> <5 {<1><2>} "
                               "<p>b</p>{<90><90><10><10>}";
    tgv_image *image = open_image(f->picture);
    tgv_boxes *whole = create_boxes(image), *bytewise = create_boxes(image);
    const char *label;
    size_t i, k;

    tgv_image_free(image);
    CHECK_OK(tgv_boxes_push(whole, text));
    CHECK(tgv_boxes_count(whole) == 3);
    label = box_of(whole, 0).label;
    CHECK(strcmp(label, "r\xc3\xb6ter \xe2\xad\x90") == 0);
    CHECK(strcmp(box_of(whole, 1).label, label) == 0);
    CHECK(strcmp(box_of(whole, 2).label, "b") == 0);

    /* In as small pieces as a stream can have. */
    for (i = 0; i < sizeof text - 1; i = k) {
        char piece[8] = "";
        for (k = i + 1; ((unsigned char)text[k] & 0xc0) == 0x80; k++)
            continue;
        memcpy(piece, text + i, k - i);
        CHECK_OK(tgv_boxes_push(bytewise, piece));
    }
    CHECK(tgv_boxes_count(bytewise) == 3);
    for (i = 0; i < 3; i++) {
        tgv_box a = box_of(whole, i), b = box_of(bytewise, i);
        CHECK(a.x0 == b.x0 && a.y0 == b.y0 && a.x1 == b.x1 && a.y1 == b.y1 && strcmp(a.label, b.label) == 0);
    }
    tgv_boxes_free(bytewise);

    for (i = 0; i < 1000; i++)
        CHECK_OK(tgv_boxes_push(whole, "<p>more</p><1><1><2><2>"));
    CHECK(tgv_boxes_count(whole) == 1003);
    CHECK(strcmp(label, "r\xc3\xb6ter \xe2\xad\x90") == 0 && label == box_of(whole, 0).label);
    CHECK_OK(tgv_boxes_push(whole, ""));
    tgv_boxes_free(whole);
}

/* The drawing is a picture of the same size, and another one. */
static void check_drawing(const fixture *f, const char *path)
{
    static const unsigned char pixel[3];
    tgv_boxes *boxes = create_boxes(f->image);
    uint32_t width, height, drawn_width = 0, drawn_height = 0;
    tgv_image *drawn, *tiny = NULL;
    size_t plain_size, size;
    unsigned char *plain, *file;

    CHECK_OK(tgv_image_get_size(f->image, &width, &height));
    CHECK_OK(tgv_boxes_draw(boxes, f->image, path));
    plain = read_file(path, &plain_size);
    CHECK_OK(tgv_boxes_push(boxes, "<p>a square \xe2\xad\x90</p>{<10><10><60><60>} and {<0><0><100><100>}"));
    CHECK_OK(tgv_boxes_draw(boxes, f->image, path)); /* in place of the file that is there */
    file = read_file(path, &size);
    CHECK(size != plain_size || memcmp(file, plain, size) != 0);
    free(file);
    free(plain);
    drawn = open_image(path);
    CHECK_OK(tgv_image_get_size(drawn, &drawn_width, &drawn_height));
    CHECK(drawn_width == width && drawn_height == height);
    tgv_image_free(drawn);

    CHECK_FAILS(tgv_boxes_draw(boxes, f->image, "no/such/folder/boxes.png"), TGV_ERROR_FILE_NOT_FOUND, "no/such/folder");
    CHECK_FAILS(tgv_boxes_draw(boxes, f->image, "."), TGV_ERROR_IO, "write");

    /* A picture of another size has nothing to say about these boxes, but draws what falls inside. */
    CHECK_OK(tgv_image_from_pixels(pixel, sizeof pixel, 1, 1, 0, TGV_PIXELS_RGB, &tiny));
    CHECK_OK(tgv_boxes_draw(boxes, tiny, path));
    tgv_image_free(tiny);
    tgv_boxes_free(boxes);
    CHECK(remove(path) == 0);
}

static void *push_and_read(void *argument)
{
    tgv_boxes *boxes = (tgv_boxes *)argument;
    int i;
    for (i = 0; i < rounds(500); i++) {
        CHECK_OK(tgv_boxes_push(boxes, "<p>x</p><1><1><2><2>"));
        CHECK(tgv_boxes_count(boxes) > 0);
        CHECK(strcmp(box_of(boxes, 0).label, "x") == 0);
    }
    return NULL;
}

static void check_threads(const fixture *f)
{
    tgv_boxes *boxes = create_boxes(f->image);
    pthread_t threads[4];
    int i;
    for (i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, push_and_read, boxes) == 0);
    for (i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(tgv_boxes_count(boxes) == (size_t)(4 * rounds(500)));
    tgv_boxes_free(boxes);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    CHECK(argc == OWN_ARGUMENTS + 1);
    check_answer_boxes(&f);
    check_labels(&f);
    check_drawing(&f, argv[OWN_ARGUMENTS]);
    check_threads(&f);
    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
