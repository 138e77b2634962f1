/* Structs of other versions of the header: a larger one is taken as long as what is unknown is zero, a result fills what
 * the caller knows, and a size that no version ever had is refused. */
#include "check.h"

/* As a later header may have them: a field more at the end. */
typedef struct later_model_params {
    tgv_model_params now;
    uint64_t later;
} later_model_params;

typedef struct later_session_params {
    tgv_session_params now;
    uint64_t later;
} later_session_params;

typedef struct later_encode_params {
    tgv_encode_params now;
    uint64_t later;
} later_encode_params;

typedef struct later_sampling_params {
    tgv_sampling_params now;
    uint64_t later;
} later_sampling_params;

typedef struct later_model_info {
    tgv_model_info now;
    uint64_t later;
} later_model_info;

typedef struct later_statistics {
    tgv_statistics now;
    uint64_t later;
} later_statistics;

/* Sizes that tell of a struct without its initialiser. The first released header has the smallest structs. */
static size_t impossible_size(int i, size_t size)
{
    switch (i) {
    case 0: return 0;
    case 1: return 1;
    case 2: return sizeof(size_t);
    case 3: return size - 1;
    case 4: return 4097;
    case 5: return (size_t)1 << 20;
    default: return SIZE_MAX;
    }
}

enum { IMPOSSIBLE_SIZES = 7 };

static void check_options(const fixture *f)
{
    later_model_params model_params = { TGV_MODEL_PARAMS_INIT, 0 };
    later_session_params session_params = { TGV_SESSION_PARAMS_INIT, 0 };
    later_encode_params encode_params = { TGV_ENCODE_PARAMS_INIT, 0 };
    later_sampling_params sampling_params = { TGV_SAMPLING_PARAMS_INIT, 0 };
    tgv_model *model = SENTINEL(tgv_model);
    tgv_session *session = SENTINEL(tgv_session);
    tgv_embedding *embedding = SENTINEL(tgv_embedding);
    int i;

    model_params.now.struct_size = sizeof model_params;
    session_params.now.struct_size = sizeof session_params;
    encode_params.now.struct_size = sizeof encode_params;
    sampling_params.now.struct_size = sizeof sampling_params;
    model_params.later = session_params.later = encode_params.later = sampling_params.later = 1;
    CHECK_FAILS(tgv_model_load(f->decoder, f->vision, &model_params.now, &model), TGV_ERROR_INVALID_ARGUMENT, "update");
    CHECK_FAILS(tgv_session_create(f->model, &session_params.now, &session), TGV_ERROR_INVALID_ARGUMENT, "update");
    CHECK_FAILS(tgv_embedding_encode(f->model, f->image, &encode_params.now, &embedding), TGV_ERROR_INVALID_ARGUMENT,
                "update");
    CHECK_FAILS(tgv_session_set_sampling(f->session, &sampling_params.now), TGV_ERROR_INVALID_ARGUMENT, "update");
    session_params.later = 0;
    session_params.now.sampling = &sampling_params.now;
    CHECK_FAILS(tgv_session_create(f->model, &session_params.now, &session), TGV_ERROR_INVALID_ARGUMENT, "update");

    for (i = 0; i < IMPOSSIBLE_SIZES; i++) {
        tgv_model_params m = TGV_MODEL_PARAMS_INIT;
        tgv_session_params s = TGV_SESSION_PARAMS_INIT;
        tgv_encode_params e = TGV_ENCODE_PARAMS_INIT;
        tgv_sampling_params p = TGV_SAMPLING_PARAMS_INIT;
        m.struct_size = impossible_size(i, sizeof m);
        s.struct_size = impossible_size(i, sizeof s);
        e.struct_size = impossible_size(i, sizeof e);
        p.struct_size = impossible_size(i, sizeof p);
        CHECK_FAILS(tgv_model_load(f->decoder, f->vision, &m, &model), TGV_ERROR_INVALID_ARGUMENT, "_INIT");
        CHECK_FAILS(tgv_session_create(f->model, &s, &session), TGV_ERROR_INVALID_ARGUMENT, "_INIT");
        CHECK_FAILS(tgv_embedding_encode(f->model, f->image, &e, &embedding), TGV_ERROR_INVALID_ARGUMENT, "_INIT");
        CHECK_FAILS(tgv_session_set_sampling(f->session, &p), TGV_ERROR_INVALID_ARGUMENT, "_INIT");
        s.struct_size = sizeof s;
        s.sampling = &p;
        CHECK_FAILS(tgv_session_create(f->model, &s, &session), TGV_ERROR_INVALID_ARGUMENT, "_INIT");
    }
    CHECK(model == SENTINEL(tgv_model));
    CHECK(session == SENTINEL(tgv_session));
    CHECK(embedding == SENTINEL(tgv_embedding));

    model_params.later = encode_params.later = sampling_params.later = 0;
    CHECK_OK(tgv_model_load(f->decoder, f->vision, &model_params.now, &model));
    CHECK_OK(tgv_session_create(model, &session_params.now, &session));
    CHECK_OK(tgv_embedding_encode(model, f->image, &encode_params.now, &embedding));
    CHECK_OK(tgv_session_set_sampling(session, &sampling_params.now));
    CHECK_OK(tgv_session_add_embedding(session, embedding));
    CHECK_ANSWER(session, f->question, f->answer);
    tgv_session_free(session);
    tgv_embedding_free(embedding);
    tgv_model_free(model);
}

static void check_results(const fixture *f)
{
    later_model_info info;
    later_statistics statistics;
    tgv_model_info reference = TGV_MODEL_INFO_INIT;
    int i;

    CHECK_OK(tgv_model_get_info(f->model, &reference));
    memset(&info, 0xa5, sizeof info);
    memset(&statistics, 0xa5, sizeof statistics);
    info.now.struct_size = sizeof info;
    statistics.now.struct_size = sizeof statistics;
    CHECK_OK(tgv_model_get_info(f->model, &info.now));
    CHECK_OK(tgv_session_statistics(f->session, &statistics.now));
    CHECK(info.now.struct_size == sizeof info && statistics.now.struct_size == sizeof statistics);
    CHECK(info.later == 0xa5a5a5a5a5a5a5a5u && statistics.later == 0xa5a5a5a5a5a5a5a5u);
    CHECK(memcmp((char *)&info.now + sizeof(size_t), (char *)&reference + sizeof(size_t),
                 sizeof reference - sizeof(size_t)) == 0);
    CHECK(statistics.now.context_size == reference.context_length);

    for (i = 0; i < IMPOSSIBLE_SIZES; i++) {
        tgv_model_info bad_info = TGV_MODEL_INFO_INIT;
        tgv_statistics bad_statistics = TGV_STATISTICS_INIT;
        bad_info.vocabulary = 123456;
        bad_statistics.context_size = 123456;
        bad_info.struct_size = impossible_size(i, sizeof bad_info);
        bad_statistics.struct_size = impossible_size(i, sizeof bad_statistics);
        CHECK_FAILS(tgv_model_get_info(f->model, &bad_info), TGV_ERROR_INVALID_ARGUMENT, "_INIT");
        CHECK_FAILS(tgv_session_statistics(f->session, &bad_statistics), TGV_ERROR_INVALID_ARGUMENT, "_INIT");
        CHECK(bad_info.vocabulary == 123456 && bad_statistics.context_size == 123456);
    }
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    check_options(&f);
    check_results(&f);
    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
