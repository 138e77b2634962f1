/* Handles freed in every order; what is left works as long as it lives.
 *
 *   free_orders DECODER VISION PICTURE QUESTION ANSWER
 */
#include "check.h"

enum { MODEL, IMAGE, EMBEDDING, SESSION, KINDS };

/* Uses every handle that is still there, alone and with the others. */
static void use(const fixture *f)
{
    uint32_t side;
    size_t rows;
    if (f->model != NULL) {
        tgv_model_info info = TGV_MODEL_INFO_INIT;
        CHECK_OK(tgv_model_get_info(f->model, &info));
        CHECK(strlen(tgv_model_description(f->model)) > 0);
    }
    if (f->image != NULL)
        CHECK_OK(tgv_image_get_size(f->image, &side, NULL));
    if (f->embedding != NULL)
        CHECK_OK(tgv_embedding_get_size(f->embedding, &rows, NULL));
    if (f->model != NULL && f->image != NULL)
        tgv_embedding_free(encode(f->model, f->image));
    if (f->session != NULL) {
        CHECK_OK(tgv_session_reset(f->session));
        if (f->embedding != NULL) {
            CHECK_OK(tgv_session_add_embedding(f->session, f->embedding));
            CHECK_ANSWER(f->session, f->question, f->answer);
        }
        if (f->image != NULL) {
            CHECK_OK(tgv_session_reset(f->session));
            CHECK_OK(tgv_session_add_image(f->session, f->image));
            CHECK_ANSWER(f->session, f->question, f->answer);
        }
    }
}

static void free_one(fixture *f, int kind)
{
    switch (kind) {
    case MODEL: tgv_model_free(f->model), f->model = NULL; break;
    case IMAGE: tgv_image_free(f->image), f->image = NULL; break;
    case EMBEDDING: tgv_embedding_free(f->embedding), f->embedding = NULL; break;
    default: tgv_session_free(f->session), f->session = NULL; break;
    }
}

int main(int argc, char **argv)
{
    const int orders = 24, wanted = rounds(orders), step = wanted < orders ? orders / wanted : 1;
    int found = 0;
    tgv_session *session;
    fixture f;
    int order, i;

    for (order = 0; order < KINDS * KINDS * KINDS * KINDS; order++) {
        int kinds[KINDS], seen = 0, rest = order;
        for (i = 0; i < KINDS; i++, rest /= KINDS) {
            kinds[i] = rest % KINDS;
            seen |= 1 << kinds[i];
        }
        if (seen != (1 << KINDS) - 1 || found++ % step != 0)
            continue; /* no permutation, or passed over */
        f = open_fixture(argc, argv);
        for (i = 0; i < KINDS; i++) {
            use(&f);
            free_one(&f, kinds[i]);
        }
    }

    /* A picture added and everything else freed before the question. */
    f = open_fixture(argc, argv);
    session = f.session;
    CHECK_OK(tgv_session_add_embedding(session, f.embedding));
    f.session = NULL;
    close_fixture(&f);
    CHECK_ANSWER(session, f.question, f.answer);
    tgv_session_free(session);

    tgv_model_free(NULL);
    tgv_image_free(NULL);
    tgv_embedding_free(NULL);
    tgv_session_free(NULL);
    return 0;
}
