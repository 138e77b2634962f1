/* Progress by phase, and several images encoded in one call. */
#include "check.h"

typedef struct watch {
    int calls[3], stop_in; /* a phase, or -1 */
    float last[3];
    tgv_session *session;
} watch;

static int32_t on_phase(int32_t phase, float fraction, float remaining_ms, void *user_data)
{
    watch *w = (watch *)user_data;
    CHECK(phase >= TGV_PHASE_ENCODE && phase <= TGV_PHASE_DECODE);
    CHECK(fraction >= w->last[phase] && fraction <= 1);
    CHECK(remaining_ms >= 0 || remaining_ms == -1);
    CHECK_FAILS(tgv_session_reset(w->session), TGV_ERROR_BUSY, "busy");
    w->last[phase] = fraction;
    w->calls[phase]++;
    return phase == w->stop_in && fraction > 0.2f;
}

static void start(watch *w, int stop_in)
{
    tgv_session *session = w->session;
    memset(w, 0, sizeof *w);
    w->session = session;
    w->stop_in = stop_in;
}

static void check_phases(const fixture *f)
{
    tgv_session_params params = session_params();
    watch w;
    int phase;

    memset(&w, 0, sizeof w);
    params.on_phase = on_phase;
    params.user_data = &w;
    params.max_new_tokens = 8;
    CHECK_OK(tgv_session_create(f->model, &params, &w.session));
    start(&w, -1);
    CHECK_OK(tgv_session_add_image(w.session, f->image));
    CHECK(w.calls[TGV_PHASE_ENCODE] > 3 && w.last[TGV_PHASE_ENCODE] == 1);
    CHECK_ANSWER(w.session, f->question, f->answer);
    CHECK(w.calls[TGV_PHASE_PREFILL] > 20 && w.last[TGV_PHASE_PREFILL] == 1);
    CHECK(w.calls[TGV_PHASE_DECODE] == (int)statistics_of(w.session).generated_tokens && w.last[TGV_PHASE_DECODE] > 0);

    /* Stopped in each phase, the session is as it was and answers then. */
    for (phase = TGV_PHASE_ENCODE; phase <= TGV_PHASE_DECODE; phase++) {
        CHECK_OK(tgv_session_reset(w.session));
        start(&w, phase);
        if (phase == TGV_PHASE_ENCODE) {
            CHECK_FAILS(tgv_session_add_image(w.session, f->image), TGV_ERROR_CANCELLED, "cancelled");
        } else {
            CHECK_OK(tgv_session_add_embedding(w.session, f->embedding));
            CHECK_FAILS(tgv_session_ask(w.session, "Describe this image.", NULL, NULL, NULL), TGV_ERROR_CANCELLED,
                        "cancelled");
        }
        CHECK_OK(tgv_session_reset(w.session));
        start(&w, -1);
        CHECK_OK(tgv_session_add_embedding(w.session, f->embedding));
        CHECK_ANSWER(w.session, f->question, f->answer);
    }
    tgv_session_free(w.session);
}

static int32_t stop_late(float fraction, void *user_data)
{
    float *last = (float *)user_data;
    CHECK(fraction >= *last);
    *last = fraction;
    return fraction > 0.7f;
}

static void check_each(const fixture *f)
{
    const tgv_image *images[3];
    tgv_embedding *found[3] = { SENTINEL(tgv_embedding), SENTINEL(tgv_embedding), SENTINEL(tgv_embedding) };
    tgv_encode_params params = TGV_ENCODE_PARAMS_INIT;
    float last = 0;
    int i;

    images[0] = images[2] = f->image;
    images[1] = NULL;
    CHECK_FAILS(tgv_embedding_encode_each(f->model, images, 3, NULL, found), TGV_ERROR_INVALID_ARGUMENT, "image is NULL");
    CHECK_FAILS(tgv_embedding_encode_each(f->model, NULL, 3, NULL, found), TGV_ERROR_INVALID_ARGUMENT, "images is NULL");
    CHECK_FAILS(tgv_embedding_encode_each(f->model, images, SIZE_MAX, NULL, found), TGV_ERROR_INVALID_ARGUMENT, "count");
    CHECK_FAILS(tgv_embedding_encode_each(f->model, images, 1, NULL, NULL), TGV_ERROR_INVALID_ARGUMENT, "out_embeddings");
    images[1] = f->image;
    params.on_progress = stop_late;
    params.user_data = &last;
    CHECK_FAILS(tgv_embedding_encode_each(f->model, images, 3, &params, found), TGV_ERROR_CANCELLED, "cancelled");
    CHECK(last > 0.7f && last < 0.9f);
    for (i = 0; i < 3; i++)
        CHECK(found[i] == SENTINEL(tgv_embedding));
    CHECK_OK(tgv_embedding_encode_each(f->model, images, 0, NULL, found));
    CHECK_OK(tgv_embedding_encode_each(f->model, images, 3, NULL, found));
    for (i = 0; i < 3; i++) {
        CHECK_OK(tgv_session_reset(f->session));
        CHECK_OK(tgv_session_add_embedding(f->session, found[i]));
        CHECK_ANSWER(f->session, f->question, f->answer);
        tgv_embedding_free(found[i]);
    }
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    check_phases(&f);
    check_each(&f);
    close_fixture(&f);
    return 0;
}
