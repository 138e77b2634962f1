/* What loading can be told: the profile and the processors. Every choice gives the same answer. */
#include "check.h"

static void check_answers(const fixture *f, const tgv_model_params *params)
{
    tgv_model *model = NULL;
    tgv_session *session = NULL;
    tgv_session_params with_threads = session_params();
    with_threads.threads = 2;
    CHECK_OK(tgv_model_load(f->decoder, f->vision, params, &model));
    CHECK_OK(tgv_session_create(model, &with_threads, &session));
    CHECK_OK(tgv_session_add_image(session, f->image));
    CHECK_ANSWER(session, f->question, f->answer);
    tgv_session_free(session);
    tgv_model_free(model);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_model *model = SENTINEL(tgv_model);

    params.profile = TGV_PROFILE_FAST;
    check_answers(&f, &params);
    params.profile = 2;
    CHECK_FAILS(tgv_model_load(f.decoder, f.vision, &params, &model), TGV_ERROR_INVALID_ARGUMENT, "profile 2");
    params.profile = TGV_PROFILE_MAPPED;
    params.threads = 3;
#if defined(__linux__)
    params.processor_mask = (uint64_t)strtoull(argv[OWN_ARGUMENTS], NULL, 10);
    check_answers(&f, &params);
    params.processor_mask = (uint64_t)1 << 63;
#else
    params.processor_mask = 1;
#endif
    CHECK_FAILS(tgv_model_load(f.decoder, f.vision, &params, &model), TGV_ERROR_INVALID_ARGUMENT, "cannot be bound");
    CHECK(model == SENTINEL(tgv_model));
    close_fixture(&f);
    return 0;
}
