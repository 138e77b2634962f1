/* Progress of loading and encoding rises from 0 to 1, on the thread of the call, and its callback can stop each at any point.
 *
 *   progress DECODER VISION PICTURE QUESTION ANSWER
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>

static pthread_t caller;

typedef struct meter {
    int calls, stop_at; /* stop at this call, counted from 1; 0 is never */
    float last;
} meter;

static int32_t on_progress(float fraction, void *user_data)
{
    meter *m = (meter *)user_data;
    CHECK(pthread_equal(pthread_self(), caller));
    CHECK(m->stop_at == 0 || m->calls < m->stop_at); /* not called again once it has asked to stop */
    CHECK(fraction >= 0 && fraction <= 1 && fraction >= m->last);
    m->last = fraction;
    return ++m->calls == m->stop_at ? -7 : 0; /* anything but 0 */
}

static tgv_status load(const fixture *f, meter *m, tgv_model **model)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    params.on_progress = on_progress;
    params.user_data = m;
    return tgv_model_load(f->decoder, f->vision, &params, model);
}

static tgv_status encode_with(const fixture *f, meter *m, tgv_embedding **embedding)
{
    tgv_encode_params params = TGV_ENCODE_PARAMS_INIT;
    params.on_progress = on_progress;
    params.user_data = m;
    return tgv_embedding_encode(f->model, f->image, &params, embedding);
}

/* Which of up to `n` calls to stop at: all of them where they are few. */
static int step(int n)
{
    return n > 12 ? n / 12 : 1;
}

static void check_load(const fixture *f)
{
    meter whole = { 0, 0, 0 };
    tgv_model *model = NULL;
    int stop;
    CHECK_OK(load(f, &whole, &model));
    tgv_model_free(model);
    CHECK(whole.calls >= 2 && whole.last == 1);
    for (stop = 1; stop <= whole.calls; stop += step(whole.calls)) {
        meter m = { 0, 0, 0 };
        m.stop_at = stop;
        model = SENTINEL(tgv_model);
        CHECK_FAILS(load(f, &m, &model), TGV_ERROR_CANCELLED, "cancelled");
        CHECK(model == SENTINEL(tgv_model) && m.calls == stop);
    }
    CHECK_WORKS(f);
}

static void check_encode(const fixture *f)
{
    meter whole = { 0, 0, 0 };
    tgv_embedding *embedding = NULL;
    int stop;
    CHECK_OK(encode_with(f, &whole, &embedding));
    tgv_embedding_free(embedding);
    CHECK(whole.calls >= 4 && whole.last == 1);
    for (stop = 1; stop <= whole.calls; stop += step(whole.calls)) {
        meter m = { 0, 0, 0 };
        m.stop_at = stop;
        embedding = SENTINEL(tgv_embedding);
        CHECK_FAILS(encode_with(f, &m, &embedding), TGV_ERROR_CANCELLED, "cancelled");
        CHECK(embedding == SENTINEL(tgv_embedding) && m.calls == stop);
    }
    CHECK_WORKS(f);
}

/* A stopped picture is not added; those before it stay. */
static void check_add_image(const fixture *f)
{
    meter m = { 0, 0, 0 };
    tgv_session_params params = TGV_SESSION_PARAMS_INIT;
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    tgv_session *session = NULL;
    int calls, stop;

    CHECK_OK(tgv_model_get_info(f->model, &info));
    params.on_progress = on_progress;
    params.user_data = &m;
    CHECK_OK(tgv_session_create(f->model, &params, &session));
    CHECK_OK(tgv_session_add_image(session, f->image));
    calls = m.calls;
    CHECK(calls >= 4 && m.last == 1);
    for (stop = 1; stop <= calls; stop += step(calls)) {
        m.calls = 0;
        m.last = 0;
        m.stop_at = stop;
        CHECK_FAILS(tgv_session_add_image(session, f->image), TGV_ERROR_CANCELLED, "cancelled");
        CHECK(m.calls == stop);
    }
    m.calls = -1000; /* a question does not report */
    CHECK_ANSWER(session, f->question, f->answer);
    CHECK(m.calls == -1000);
    CHECK(statistics_of(session).image_tokens == info.image_tokens);
    tgv_session_free(session);
    CHECK_WORKS(f);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    caller = pthread_self();
    check_load(&f);
    check_encode(&f);
    check_add_image(&f);
    close_fixture(&f);
    return 0;
}
