/* Asks where something is and draws the answer's boxes onto the picture.
 *
 *   ground MODEL.gguf VISION.gguf PICTURE "[refer] where is the star?" OUT.png
 */
#include <stdio.h>
#include <string.h>

#include "tinygptv.h"

/* Each piece of the answer is printed and searched for boxes. */
static int on_text(const char *text, size_t length, void *user_data)
{
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return tgv_boxes_push(user_data, text) == TGV_OK ? 0 : 1;
}

static void print_boxes(const tgv_boxes *boxes)
{
    size_t i, n = tgv_boxes_count(boxes);
    for (i = 0; i < n; i++) {
        tgv_box box = TGV_BOX_INIT;
        if (tgv_boxes_get(boxes, i, &box) == TGV_OK)
            printf("box %zu: x %.0f to %.0f, y %.0f to %.0f px%s%s\n", i + 1, (double)box.x0, (double)box.x1,
                   (double)box.y0, (double)box.y1, box.label[0] != '\0' ? ": " : "", box.label);
    }
}

int main(int argc, char **argv)
{
    tgv_model *model = NULL;
    tgv_image *image = NULL;
    tgv_session *session = NULL;
    tgv_boxes *boxes = NULL;
    int help = argc == 2 && strcmp(argv[1], "--help") == 0;
    int ok;

    if (argc != 6) {
        fprintf(help ? stdout : stderr, "usage: ground MODEL VISION PICTURE QUESTION OUT.png\n");
        return help ? 0 : 2;
    }
    ok = tgv_model_load(argv[1], argv[2], NULL, &model) == TGV_OK && tgv_image_from_file(argv[3], &image) == TGV_OK &&
         tgv_boxes_create(image, &boxes) == TGV_OK && tgv_session_create(model, NULL, &session) == TGV_OK &&
         tgv_session_add_image(session, image) == TGV_OK &&
         tgv_session_ask(session, argv[4], on_text, boxes, NULL) == TGV_OK;
    if (ok) {
        printf("\n");
        print_boxes(boxes);
        ok = tgv_boxes_draw(boxes, image, argv[5]) == TGV_OK;
    }
    if (!ok)
        fprintf(stderr, "ground: %s\n", tgv_last_error());
    tgv_boxes_free(boxes);
    tgv_session_free(session);
    tgv_image_free(image);
    tgv_model_free(model);
    return ok ? 0 : 1;
}
