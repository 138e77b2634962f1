/* Texts that are not UTF-8, and questions that are empty.
 *
 *   bad_texts DECODER VISION PICTURE QUESTION ANSWER
 */
#include "check.h"

/* Of each kind one: a lone continuation, a cut sequence, an overlong form, a surrogate, above U+10FFFF, never used. */
static const char *const NOT_UTF8[] = { "a\x80", "a\xe2\xad", "a\xc0\xaf", "a\xed\xa0\x80", "a\xf4\x90\x80\x80", "a\xff" };

static void check_not_utf8(const fixture *f, const char *text)
{
    tgv_session_params params = TGV_SESSION_PARAMS_INIT;
    tgv_session *session = SENTINEL(tgv_session);
    tgv_model *model = SENTINEL(tgv_model);
    tgv_image *image = SENTINEL(tgv_image);
    tgv_boxes *boxes = NULL;
    const char *answer = SENTINEL(char);
    size_t n = 77;

    CHECK_OK(tgv_boxes_create(f->image, &boxes));
    CHECK_FAILS(tgv_boxes_push(boxes, text), TGV_ERROR_INVALID_UTF8, "text");
    CHECK_FAILS(tgv_boxes_draw(boxes, f->image, text), TGV_ERROR_INVALID_UTF8, "path");
    tgv_boxes_free(boxes);
    CHECK_FAILS(tgv_model_load(text, f->vision, NULL, &model), TGV_ERROR_INVALID_UTF8, "decoder_path");
    CHECK_FAILS(tgv_model_load(f->decoder, text, NULL, &model), TGV_ERROR_INVALID_UTF8, "vision_path");
    CHECK_FAILS(tgv_image_from_file(text, &image), TGV_ERROR_INVALID_UTF8, "path");
    CHECK_FAILS(tgv_model_count_tokens(f->model, text, &n), TGV_ERROR_INVALID_UTF8, "offset 1");
    params.template_name = text;
    CHECK_FAILS(tgv_session_create(f->model, &params, &session), TGV_ERROR_INVALID_UTF8, "template_name");
    params.template_name = NULL;
    params.system_text = text;
    CHECK_FAILS(tgv_session_create(f->model, &params, &session), TGV_ERROR_INVALID_UTF8, "system_text");
    params.system_text = NULL;
    params.stop_texts = &text;
    params.stop_text_count = 1;
    CHECK_FAILS(tgv_session_create(f->model, &params, &session), TGV_ERROR_INVALID_UTF8, "stop text");
    CHECK_FAILS(tgv_session_ask(f->session, text, NULL, NULL, &answer), TGV_ERROR_INVALID_UTF8, "question");
    CHECK(model == SENTINEL(tgv_model) && image == SENTINEL(tgv_image) && session == SENTINEL(tgv_session));
    CHECK(answer == SENTINEL(char) && n == 77);
    CHECK_WORKS(f);
}

/* A refused question leaves the picture waiting for the next. */
static void check_empty(const fixture *f, const char *question)
{
    const char *answer = SENTINEL(char);
    CHECK_OK(tgv_session_reset(f->session));
    CHECK_OK(tgv_session_add_embedding(f->session, f->embedding));
    CHECK_FAILS(tgv_session_ask(f->session, question, NULL, NULL, &answer), TGV_ERROR_INVALID_ARGUMENT, "empty");
    CHECK(answer == SENTINEL(char));
    CHECK_ANSWER(f->session, f->question, f->answer);
}

/* Unusual, but texts: nothing in them is special to a template, and they leave the session in order. */
static void check_odd(const fixture *f, const char *question)
{
    collector pieces = { "", 0, 0, 5 };
    CHECK_OK(tgv_session_reset(f->session));
    CHECK_OK(tgv_session_add_embedding(f->session, f->embedding));
    CHECK_OK(tgv_session_ask(f->session, question, collect, &pieces, NULL));
    CHECK_WORKS(f);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    size_t i;
    for (i = 0; i < sizeof NOT_UTF8 / sizeof NOT_UTF8[0]; i++)
        check_not_utf8(&f, NOT_UTF8[i]);
    check_empty(&f, "");
    check_empty(&f, " ");
    check_empty(&f, " \t\r\n\xc2\xa0\xe2\x80\x83");
    check_odd(&f, "{image} {images} {question} <Img></Img>");
    check_odd(&f, "###Human: ###Assistant: <|endoftext|>");
    check_odd(&f, "\x01\x02\x7f\xef\xbb\xbf");
    check_odd(&f, "\xf0\x9f\x8f\xb3\xef\xb8\x8f\xe2\x80\x8d\xf0\x9f\x8c\x88 \xf4\x8f\xbf\xbf");
    close_fixture(&f);
    return 0;
}
