/* NULL for every pointer of every function, negative counts, unknown numbers and names: each is told, and changes nothing.
 *
 *   bad_arguments DECODER VISION PICTURE QUESTION ANSWER
 */
#include "check.h"

#define INVALID(call, fragment) CHECK_FAILS(call, TGV_ERROR_INVALID_ARGUMENT, fragment)

static void check_model(const fixture *f)
{
    tgv_model *model = SENTINEL(tgv_model);
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    size_t n = 77;

    INVALID(tgv_model_load(NULL, f->vision, NULL, &model), "decoder_path");
    INVALID(tgv_model_load(NULL, NULL, NULL, &model), "decoder_path");
    INVALID(tgv_model_load(f->decoder, f->vision, NULL, NULL), "out_model");
    params.threads = -1;
    INVALID(tgv_model_load(f->decoder, f->vision, &params, &model), "threads");
    params.threads = 0;
    params.gpu_layers = -1;
    INVALID(tgv_model_load(f->decoder, f->vision, &params, &model), "gpu_layers");
    CHECK(model == SENTINEL(tgv_model));

    info.vocabulary = 77;
    INVALID(tgv_model_get_info(NULL, &info), "model");
    INVALID(tgv_model_get_info(f->model, NULL), "NULL");
    CHECK(info.vocabulary == 77);
    INVALID(tgv_model_count_tokens(NULL, "text", &n), "model");
    INVALID(tgv_model_count_tokens(f->model, NULL, &n), "text");
    INVALID(tgv_model_count_tokens(f->model, "text", NULL), "out_count");
    CHECK(n == 77);
    CHECK(strcmp(tgv_model_description(NULL), "") == 0);
    CHECK(strcmp(tgv_model_template_name(NULL, 0), "") == 0);
    CHECK(tgv_model_template_count(NULL) == 0);
}

static void check_image(const fixture *f)
{
    static const unsigned char pixels[12];
    tgv_image *image = SENTINEL(tgv_image);
    uint32_t width = 77, height = 77;

    INVALID(tgv_image_from_file(NULL, &image), "path");
    INVALID(tgv_image_from_file(f->picture, NULL), "out_image");
    INVALID(tgv_image_from_memory(NULL, 10, &image), "NULL");
    INVALID(tgv_image_from_memory(NULL, 0, &image), "NULL");
    INVALID(tgv_image_from_memory(pixels, sizeof pixels, NULL), "out_image");
    INVALID(tgv_image_from_pixels(NULL, 12, 2, 2, 0, TGV_PIXELS_RGB, &image), "NULL");
    INVALID(tgv_image_from_pixels(pixels, 12, 2, 2, 0, TGV_PIXELS_RGB, NULL), "out_image");
    INVALID(tgv_image_from_pixels(pixels, 12, 2, 2, 0, 99, &image), "99");
    INVALID(tgv_image_get_size(NULL, &width, &height), "image");
    CHECK(image == SENTINEL(tgv_image) && width == 77 && height == 77);
    CHECK_OK(tgv_image_get_size(f->image, NULL, NULL));
    CHECK_OK(tgv_image_get_size(f->image, &width, NULL));
    CHECK_OK(tgv_image_get_size(f->image, NULL, &height));
    CHECK(width != 77 && height != 77);
}

static void check_embedding(const fixture *f)
{
    tgv_embedding *embedding = SENTINEL(tgv_embedding);
    size_t rows = 77, width = 77;
    float value = 77;

    INVALID(tgv_embedding_encode(NULL, f->image, NULL, &embedding), "model");
    INVALID(tgv_embedding_encode(f->model, NULL, NULL, &embedding), "image");
    INVALID(tgv_embedding_encode(f->model, f->image, NULL, NULL), "out_embedding");
    INVALID(tgv_embedding_from_values(NULL, &value, 1, &embedding), "model");
    INVALID(tgv_embedding_from_values(f->model, NULL, 256, &embedding), "values");
    INVALID(tgv_embedding_from_values(f->model, &value, 1, NULL), "out_embedding");
    INVALID(tgv_embedding_get_size(NULL, &rows, &width), "embedding");
    INVALID(tgv_embedding_copy(NULL, &value, 1), "embedding");
    INVALID(tgv_embedding_copy(f->embedding, NULL, 16), "values");
    CHECK(embedding == SENTINEL(tgv_embedding) && rows == 77 && width == 77 && value == 77);
}

/* A session with one field of its parameters set wrong. */
static void refuse_session(const fixture *f, const tgv_session_params *params, const char *fragment)
{
    tgv_session *session = SENTINEL(tgv_session);
    INVALID(tgv_session_create(f->model, params, &session), fragment);
    CHECK(session == SENTINEL(tgv_session));
}

static void check_session_params(const fixture *f)
{
    const tgv_session_params none = TGV_SESSION_PARAMS_INIT;
    const char *stops[3] = { "a", NULL, "c" };
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    tgv_session_params p;

    CHECK_OK(tgv_model_get_info(f->model, &info));
    p = none, p.context = -1;
    refuse_session(f, &p, "context");
    p = none, p.context = (int32_t)info.context_length + 1;
    refuse_session(f, &p, "trained");
    p = none, p.context = INT32_MAX;
    refuse_session(f, &p, "trained");
    p = none, p.threads = -1;
    refuse_session(f, &p, "threads");
    p = none, p.max_new_tokens = INT32_MIN;
    refuse_session(f, &p, "max_new_tokens");
    p = none, p.template_name = "no such template";
    refuse_session(f, &p, "no such template");
    p = none, p.template_name = "";
    refuse_session(f, &p, "template");
    p = none, p.stop_text_count = 1;
    refuse_session(f, &p, "stop_texts");
    p = none, p.stop_texts = stops, p.stop_text_count = 3;
    refuse_session(f, &p, "stop text");
    stops[1] = "";
    refuse_session(f, &p, "empty");
    p.stop_text_count = SIZE_MAX;
    refuse_session(f, &p, "1024");
    /* No stop texts, wherever the pointer goes. */
    p = none, p.stop_texts = SENTINEL(const char *);
    {
        tgv_session *session = NULL;
        CHECK_OK(tgv_session_create(f->model, &p, &session));
        tgv_session_free(session);
    }
}

static void check_session(const fixture *f)
{
    tgv_session *session = SENTINEL(tgv_session);
    tgv_statistics statistics = TGV_STATISTICS_INIT;
    tgv_sampling_params sampling = TGV_SAMPLING_PARAMS_INIT;
    const char *answer = SENTINEL(char);

    INVALID(tgv_session_create(NULL, NULL, &session), "model");
    INVALID(tgv_session_create(f->model, NULL, NULL), "out_session");
    INVALID(tgv_session_add_image(NULL, f->image), "session");
    INVALID(tgv_session_add_image(f->session, NULL), "image");
    INVALID(tgv_session_add_embedding(NULL, f->embedding), "session");
    INVALID(tgv_session_add_embedding(f->session, NULL), "embedding");
    INVALID(tgv_session_ask(NULL, f->question, NULL, NULL, &answer), "session");
    INVALID(tgv_session_ask(f->session, NULL, NULL, NULL, &answer), "question");
    INVALID(tgv_session_reset(NULL), "session");
    INVALID(tgv_session_set_sampling(NULL, &sampling), "session");
    statistics.context_size = 77;
    INVALID(tgv_session_statistics(NULL, &statistics), "session");
    INVALID(tgv_session_statistics(f->session, NULL), "NULL");
    CHECK(session == SENTINEL(tgv_session) && answer == SENTINEL(char) && statistics.context_size == 77);
    tgv_session_cancel(NULL);
}

static void check_boxes(const fixture *f)
{
    tgv_boxes *boxes = SENTINEL(tgv_boxes);
    tgv_box box = TGV_BOX_INIT;

    INVALID(tgv_boxes_create(NULL, &boxes), "image");
    INVALID(tgv_boxes_create(f->image, NULL), "out_boxes");
    CHECK(boxes == SENTINEL(tgv_boxes));
    CHECK_OK(tgv_boxes_create(f->image, &boxes));
    CHECK_OK(tgv_boxes_push(boxes, "<1><2><3><4>"));
    INVALID(tgv_boxes_push(NULL, "text"), "boxes");
    INVALID(tgv_boxes_push(boxes, NULL), "text");
    CHECK(tgv_boxes_count(NULL) == 0 && tgv_boxes_count(boxes) == 1);
    box.x0 = 77;
    INVALID(tgv_boxes_get(NULL, 0, &box), "boxes");
    INVALID(tgv_boxes_get(boxes, 0, NULL), "NULL");
    INVALID(tgv_boxes_get(boxes, 1, &box), "no box 1");
    INVALID(tgv_boxes_get(boxes, SIZE_MAX, &box), "no box");
    CHECK(box.x0 == 77 && box.label == NULL);
    INVALID(tgv_boxes_draw(NULL, f->image, "no/such/folder/boxes.png"), "boxes");
    INVALID(tgv_boxes_draw(boxes, NULL, "no/such/folder/boxes.png"), "image");
    INVALID(tgv_boxes_draw(boxes, f->image, NULL), "path");
    tgv_boxes_free(boxes);
    tgv_boxes_free(NULL);
}

/* The last error is that of the last call that failed, whatever succeeds after it. */
static void check_last_error(const fixture *f)
{
    const char *text;
    char copy[256];
    INVALID(tgv_image_get_size(NULL, NULL, NULL), "image");
    text = tgv_last_error();
    CHECK(strlen(text) < sizeof copy);
    strcpy(copy, text);
    CHECK_WORKS(f);
    CHECK(tgv_last_error() == text && strcmp(text, copy) == 0);
    INVALID(tgv_session_reset(NULL), "session");
    CHECK(strcmp(tgv_last_error(), copy) != 0);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    check_last_error(&f);
    check_model(&f);
    CHECK_WORKS(&f);
    check_image(&f);
    CHECK_WORKS(&f);
    check_embedding(&f);
    CHECK_WORKS(&f);
    check_session_params(&f);
    CHECK_WORKS(&f);
    check_session(&f);
    CHECK_WORKS(&f);
    check_boxes(&f);
    CHECK_WORKS(&f);
    CHECK_OK(tgv_set_log_callback(NULL, NULL));
    tgv_model_free(NULL);
    tgv_image_free(NULL);
    tgv_embedding_free(NULL);
    tgv_session_free(NULL);
    close_fixture(&f);
    return 0;
}
