/* Weights that are not numbers load (the files are sound), and are told when they are used.
 *
 *   damaged_weights DECODER VISION PICTURE QUESTION ANSWER BAD_DECODER BAD_VISION
 */
#include "check.h"

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    tgv_embedding *untouched = SENTINEL(tgv_embedding);
    const char *answer = SENTINEL(char);
    tgv_session *session;
    tgv_model *model;

    CHECK(argc == OWN_ARGUMENTS + 2);
    model = load_model(argv[OWN_ARGUMENTS], f.vision);
    session = create_session(model);
    CHECK_OK(tgv_session_add_embedding(session, f.embedding));
    CHECK_FAILS(tgv_session_ask(session, f.question, NULL, NULL, &answer), TGV_ERROR_DECODER, "not finite");
    CHECK_FAILS(tgv_session_ask(session, f.question, NULL, NULL, &answer), TGV_ERROR_DECODER, "not finite");
    CHECK(answer == SENTINEL(char));
    tgv_session_free(session);
    tgv_model_free(model);

    model = load_model(f.decoder, argv[OWN_ARGUMENTS + 1]);
    CHECK_FAILS(tgv_embedding_encode(model, f.image, NULL, &untouched), TGV_ERROR_BAD_MODEL_FILE, "not finite");
    CHECK(untouched == SENTINEL(tgv_embedding));
    session = create_session(model);
    CHECK_FAILS(tgv_session_add_image(session, f.image), TGV_ERROR_BAD_MODEL_FILE, "not finite");
    /* The decoder is sound, and so are pictures encoded elsewhere. */
    CHECK_OK(tgv_session_add_embedding(session, f.embedding));
    CHECK_ANSWER(session, f.question, f.answer);
    tgv_session_free(session);
    tgv_model_free(model);

    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
