/* A text callback that calls back: its own session is busy, everything else works, and the answer goes on.
 *
 *   reentry DECODER VISION PICTURE QUESTION ANSWER
 */
#include "check.h"

typedef struct nested {
    const fixture *f;
    tgv_session *own, *other;
    int calls;
    collector pieces;
} nested;

static int call_back(const char *text, size_t length, void *user_data)
{
    nested *n = (nested *)user_data;
    tgv_statistics statistics = TGV_STATISTICS_INIT;
    const char *answer = SENTINEL(char);

    CHECK(collect(text, length, &n->pieces) == 0);
    if (n->calls++ > 0)
        return 0;
    CHECK_FAILS(tgv_session_ask(n->own, n->f->question, NULL, NULL, &answer), TGV_ERROR_BUSY, "busy");
    CHECK_FAILS(tgv_session_add_image(n->own, n->f->image), TGV_ERROR_BUSY, "busy");
    CHECK_FAILS(tgv_session_add_embedding(n->own, n->f->embedding), TGV_ERROR_BUSY, "busy");
    CHECK_FAILS(tgv_session_reset(n->own), TGV_ERROR_BUSY, "busy");
    CHECK_FAILS(tgv_session_set_sampling(n->own, NULL), TGV_ERROR_BUSY, "busy");
    CHECK_FAILS(tgv_session_statistics(n->own, &statistics), TGV_ERROR_BUSY, "busy");
    CHECK(answer == SENTINEL(char) && statistics.context_size == 0);

    /* Another session of the same model, a new one, a picture, another model. */
    CHECK_OK(tgv_session_add_embedding(n->other, n->f->embedding));
    CHECK_ANSWER(n->other, n->f->question, n->f->answer);
    tgv_embedding_free(encode(n->f->model, n->f->image));
    tgv_session_free(create_session(n->f->model));
    tgv_model_free(load_model(n->f->decoder, n->f->vision));
    CHECK_OK(tgv_set_log_callback(NULL, NULL));
    return 0;
}

typedef struct progress_state {
    nested *nested;
    int calls;
} progress_state;

static int32_t call_back_from_progress(float fraction, void *user_data)
{
    progress_state *p = (progress_state *)user_data;
    (void)fraction;
    if (p->calls++ == 0) {
        CHECK_FAILS(tgv_session_ask(p->nested->own, "x", NULL, NULL, NULL), TGV_ERROR_BUSY, "busy");
        CHECK_FAILS(tgv_session_add_image(p->nested->own, p->nested->f->image), TGV_ERROR_BUSY, "busy");
        /* The picture is encoded by the pool's threads, but the callback runs between their jobs: no deadlock. */
        tgv_embedding_free(encode(p->nested->f->model, p->nested->f->image));
    }
    return 0;
}

static int cancel(const char *text, size_t length, void *user_data)
{
    (void)text;
    (void)length;
    tgv_session_cancel((tgv_session *)user_data);
    return 0;
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    tgv_session_params params = TGV_SESSION_PARAMS_INIT;
    progress_state progress = { NULL, 0 };
    const char *answer = NULL;
    nested n;

    memset(&n, 0, sizeof n);
    n.f = &f;
    n.other = create_session(f.model);
    progress.nested = &n;
    params.on_progress = call_back_from_progress;
    params.user_data = &progress;
    CHECK_OK(tgv_session_create(f.model, &params, &n.own));

    CHECK_OK(tgv_session_add_image(n.own, f.image));
    CHECK(progress.calls > 1);
    CHECK_OK(tgv_session_ask(n.own, f.question, call_back, &n, &answer));
    CHECK(strcmp(answer, f.answer) == 0 && strcmp(n.pieces.text, f.answer) == 0);
    CHECK(n.calls > 1);

    /* Cancelling from inside is allowed. */
    answer = SENTINEL(char);
    CHECK_OK(tgv_session_reset(f.session));
    CHECK_OK(tgv_session_add_embedding(f.session, f.embedding));
    CHECK_FAILS(tgv_session_ask(f.session, f.question, cancel, f.session, &answer), TGV_ERROR_CANCELLED, "cancelled");
    CHECK(answer == SENTINEL(char));
    CHECK_ANSWER(f.session, f.question, f.answer); /* the picture is still waiting */

    tgv_session_free(n.own);
    tgv_session_free(n.other);
    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
