/* The memory plan, and a limit that is kept before anything is allocated. */
#include "check.h"

static tgv_memory_plan plan_of(const fixture *f, const tgv_model_params *model_params, int32_t context, int32_t kv_type)
{
    tgv_session_params params = TGV_SESSION_PARAMS_INIT;
    tgv_memory_plan plan = TGV_MEMORY_PLAN_INIT;
    params.context = context;
    params.kv_type = kv_type;
    CHECK_OK(tgv_model_plan(f->decoder, f->vision, model_params, &params, &plan));
    CHECK(plan.private_bytes == plan.model_bytes + plan.cache_bytes + plan.encode_bytes + plan.session_bytes);
    return plan;
}

static void check_plan(const fixture *f)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_session_params too_long = TGV_SESSION_PARAMS_INIT;
    tgv_memory_plan plan = plan_of(f, NULL, 0, 0), other = TGV_MEMORY_PLAN_INIT;
    tgv_model_info info = TGV_MODEL_INFO_INIT;

    CHECK_OK(tgv_model_get_info(f->model, &info));
    CHECK(plan.mapped_bytes == info.decoder_bytes + info.vision_bytes);
    CHECK(plan.cache_bytes == (uint64_t)32 << 20 && plan.encode_bytes > 0 && plan.model_bytes > 0);
    CHECK(plan_of(f, NULL, 256, 0).session_bytes < plan.session_bytes);
    CHECK(plan_of(f, NULL, 0, TGV_KV_F32).session_bytes > plan.session_bytes);
    params.embedding_cache_mb = -1;
    params.profile = TGV_PROFILE_FAST;
    other = plan_of(f, &params, 0, 0);
    /* Floating-point weights are never copied into another layout. */
    CHECK(other.cache_bytes == 0 && other.model_bytes == plan.model_bytes);
    CHECK_OK(tgv_model_plan(f->decoder, NULL, NULL, NULL, &other));
    CHECK(other.encode_bytes == 0 && other.mapped_bytes == info.decoder_bytes);

    too_long.context = 1 << 20;
    CHECK_FAILS(tgv_model_plan(f->decoder, f->vision, NULL, &too_long, &plan), TGV_ERROR_INVALID_ARGUMENT, "context");
    CHECK_FAILS(tgv_model_plan("no/such/file", f->vision, NULL, NULL, &plan), TGV_ERROR_FILE_NOT_FOUND, "no/such/file");
    CHECK_FAILS(tgv_model_plan(f->picture, f->vision, NULL, NULL, &plan), TGV_ERROR_BAD_MODEL_FILE, "GGUF");
    CHECK_FAILS(tgv_model_plan(f->decoder, f->vision, NULL, NULL, NULL), TGV_ERROR_INVALID_ARGUMENT, "tgv_memory_plan");
    params.precision = 7;
    CHECK_FAILS(tgv_model_plan(f->decoder, f->vision, &params, NULL, &plan), TGV_ERROR_INVALID_ARGUMENT, "precision");
    other = plan_of(f, NULL, 0, 0);
    CHECK(memcmp(&plan, &other, sizeof plan) == 0);
}

static void check_limit(const fixture *f)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_session_params small = session_params();
    const tgv_memory_plan plan = plan_of(f, NULL, 256, 0);
    tgv_model *model = SENTINEL(tgv_model);
    tgv_session *first = NULL, *second = SENTINEL(tgv_session);

    params.memory_limit = plan.private_bytes - plan.session_bytes - 1;
    CHECK_FAILS(tgv_model_load(f->decoder, f->vision, &params, &model), TGV_ERROR_OUT_OF_MEMORY, "private memory");
    CHECK(model == SENTINEL(tgv_model));

    /* Room for one session. */
    params.memory_limit = plan.private_bytes;
    small.context = 256;
    CHECK_OK(tgv_model_load(f->decoder, f->vision, &params, &model));
    CHECK_OK(tgv_session_create(model, &small, &first));
    CHECK_FAILS(tgv_session_create(model, &small, &second), TGV_ERROR_OUT_OF_MEMORY, "smaller context");
    CHECK(second == SENTINEL(tgv_session));
    CHECK_OK(tgv_session_add_image(first, f->image));
    CHECK_ANSWER(first, f->question, f->answer);
    tgv_session_free(first);
    second = NULL;
    CHECK_OK(tgv_session_create(model, &small, &second));
    tgv_model_free(model);
    tgv_session_free(second);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    check_plan(&f);
    check_limit(&f);
    close_fixture(&f);
    return 0;
}
