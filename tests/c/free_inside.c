/* Handles freed by the callbacks of calls that use them: the call comes to its end, and then they are gone.
 *
 *   free_inside DECODER VISION PICTURE QUESTION ANSWER
 */
#include "check.h"

typedef struct victims {
    fixture f;
    collector pieces;
    int freed;
} victims;

static void free_all(victims *v)
{
    if (v->freed++ == 0) {
        tgv_model_free(v->f.model);
        tgv_session_free(v->f.session);
        tgv_image_free(v->f.image);
        tgv_embedding_free(v->f.embedding);
    }
}

static int on_text(const char *text, size_t length, void *user_data)
{
    victims *v = (victims *)user_data;
    free_all(v);
    return collect(text, length, &v->pieces); /* the piece outlives the session */
}

static int32_t on_progress(float fraction, void *user_data)
{
    victims *v = (victims *)user_data;
    CHECK(fraction >= 0 && fraction <= 1);
    free_all(v);
    return 0;
}

int main(int argc, char **argv)
{
    tgv_session_params session_params = TGV_SESSION_PARAMS_INIT;
    tgv_encode_params encode_params = TGV_ENCODE_PARAMS_INIT;
    tgv_embedding *embedding = NULL;
    tgv_session *session;
    static victims v;

    /* The answer belongs to the session, so it is not asked for. */
    v.f = open_fixture(argc, argv);
    CHECK_OK(tgv_session_add_embedding(v.f.session, v.f.embedding));
    CHECK_OK(tgv_session_ask(v.f.session, v.f.question, on_text, &v, NULL));
    CHECK(v.freed > 1 && strcmp(v.pieces.text, v.f.answer) == 0);

    memset(&v, 0, sizeof v);
    v.f = open_fixture(argc, argv);
    tgv_session_free(v.f.session);
    v.f.session = NULL;
    session_params.on_progress = on_progress;
    session_params.user_data = &v;
    CHECK_OK(tgv_session_create(v.f.model, &session_params, &v.f.session));
    CHECK_OK(tgv_session_add_image(v.f.session, v.f.image));
    CHECK(v.freed > 1);

    memset(&v, 0, sizeof v);
    v.f = open_fixture(argc, argv);
    tgv_session_free(v.f.session);
    session = create_session(v.f.model);
    v.f.session = NULL; /* this one stays */
    encode_params.on_progress = on_progress;
    encode_params.user_data = &v;
    CHECK_OK(tgv_embedding_encode(v.f.model, v.f.image, &encode_params, &embedding));
    CHECK(v.freed > 1);
    CHECK_OK(tgv_session_add_embedding(session, embedding));
    tgv_embedding_free(embedding);
    CHECK_ANSWER(session, v.f.question, v.f.answer);
    tgv_session_free(session);
    return 0;
}
