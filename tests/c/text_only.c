/* A decoder without a vision file answers about text, and says what it cannot do. A plain Phi-2, without the extra norms,
 * loads as well; embeddings of its width do not fit the demo model.
 *
 *   text_only DECODER VISION PICTURE QUESTION ANSWER PLAIN_DECODER PLAIN_WIDTH
 */
#include "check.h"

static tgv_session *short_session(const tgv_model *model)
{
    tgv_session_params params = session_params();
    tgv_session *session = NULL;
    params.max_new_tokens = 10;
    CHECK_OK(tgv_session_create(model, &params, &session));
    return session;
}

static void check_text_only(const fixture *f, const char *path, uint32_t width)
{
    tgv_model *model = load_model(path, NULL);
    tgv_session *session = short_session(model);
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    tgv_embedding *untouched = SENTINEL(tgv_embedding);

    CHECK_OK(tgv_model_get_info(model, &info));
    CHECK(info.embedding_width == width);
    CHECK(info.image_tokens == 0 && info.image_size == 0 && info.vision_bytes == 0);
    CHECK(tgv_model_template_count(model) == 1);
    CHECK(strstr(tgv_model_description(model), "vision") == NULL);

    CHECK_FAILS(tgv_embedding_encode(model, f->image, NULL, &untouched), TGV_ERROR_INVALID_ARGUMENT, "vision file");
    CHECK(untouched == SENTINEL(tgv_embedding));
    CHECK_FAILS(tgv_session_add_image(session, f->image), TGV_ERROR_INVALID_ARGUMENT, "vision file");
    CHECK_OK(tgv_session_ask(session, "Hello", NULL, NULL, NULL));
    CHECK(statistics_of(session).generated_tokens >= 1);
    CHECK(statistics_of(session).image_tokens == 0);
    CHECK_OK(tgv_session_ask(session, "And now?", NULL, NULL, NULL));

    tgv_session_free(session);
    tgv_model_free(model);
}

/* An embedding made for a decoder of another width. */
static void check_other_width(const fixture *f, const char *path, size_t width)
{
    tgv_model *model = load_model(path, NULL);
    tgv_session *session = short_session(model);
    float *values = (float *)calloc(2 * width, sizeof *values);
    tgv_embedding *embedding = NULL;

    CHECK(values != NULL);
    CHECK_OK(tgv_embedding_from_values(model, values, 2 * width, &embedding));
    free(values);
    CHECK_FAILS(tgv_session_add_embedding(f->session, embedding), TGV_ERROR_INVALID_ARGUMENT, "floats");
    CHECK_FAILS(tgv_session_add_embedding(session, f->embedding), TGV_ERROR_INVALID_ARGUMENT, "encode the image with");
    CHECK_WORKS(f);
    /* With its own model it is as good as any. */
    CHECK_OK(tgv_session_add_embedding(session, embedding));
    CHECK_OK(tgv_session_ask(session, "Hello", NULL, NULL, NULL));
    CHECK(statistics_of(session).image_tokens == 2);
    tgv_embedding_free(embedding);
    tgv_session_free(session);
    tgv_model_free(model);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    size_t width;
    CHECK(argc == OWN_ARGUMENTS + 2);
    width = strtoul(argv[OWN_ARGUMENTS + 1], NULL, 10);
    CHECK_OK(tgv_model_get_info(f.model, &info));
    check_text_only(&f, f.decoder, info.embedding_width);
    check_text_only(&f, argv[OWN_ARGUMENTS], (uint32_t)width);
    check_other_width(&f, argv[OWN_ARGUMENTS], width);
    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
