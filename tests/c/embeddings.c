/* Embeddings: the same picture gives the same numbers, and numbers copied out and in again give the same answer. */
#include "check.h"

#include <math.h>

/* Asks with a session of its own, so that no KV cache can help. */
static void check_answers_with(const fixture *f, const tgv_embedding *embedding)
{
    tgv_session *session = create_session(f->model);
    CHECK_OK(tgv_session_add_embedding(session, embedding));
    CHECK_ANSWER(session, f->question, f->answer);
    CHECK(statistics_of(session).reused_tokens == 0);
    tgv_session_free(session);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    tgv_embedding *second, *copy = NULL, *half = NULL, *untouched = SENTINEL(tgv_embedding);
    size_t rows = 0, width = 0, count, i;
    float *a, *b;

    CHECK_OK(tgv_model_get_info(f.model, &info));
    CHECK_OK(tgv_embedding_get_size(f.embedding, &rows, &width));
    CHECK(rows == info.image_tokens && width == info.embedding_width);
    count = rows * width;
    rows = 7;
    CHECK_OK(tgv_embedding_get_size(f.embedding, NULL, &width));
    CHECK_OK(tgv_embedding_get_size(f.embedding, &rows, NULL));
    CHECK_OK(tgv_embedding_get_size(f.embedding, NULL, NULL));
    CHECK(rows == info.image_tokens);

    a = (float *)malloc(count * sizeof *a);
    b = (float *)malloc(count * sizeof *b);
    CHECK(a != NULL && b != NULL);
    second = encode(f.model, f.image);
    CHECK_OK(tgv_embedding_copy(f.embedding, a, count));
    CHECK_OK(tgv_embedding_copy(second, b, count));
    CHECK(memcmp(a, b, count * sizeof *a) == 0);
    for (i = 0; i < count; i++)
        CHECK(isfinite(a[i]));

    CHECK_OK(tgv_embedding_from_values(f.model, a, count, &copy));
    memset(b, 0, count * sizeof *b);
    CHECK_OK(tgv_embedding_copy(copy, b, count));
    CHECK(memcmp(a, b, count * sizeof *a) == 0);
    check_answers_with(&f, f.embedding);
    check_answers_with(&f, second);
    check_answers_with(&f, copy);

    /* Fewer rows are an embedding, too. */
    CHECK_OK(tgv_embedding_from_values(f.model, a, 3 * width, &half));
    CHECK_OK(tgv_embedding_get_size(half, &rows, NULL));
    CHECK(rows == 3);
    CHECK_OK(tgv_session_add_embedding(f.session, half));
    CHECK_OK(tgv_session_ask(f.session, f.question, NULL, NULL, NULL));
    CHECK(statistics_of(f.session).image_tokens == 3);

    /* Wrong counts change nothing. */
    b[0] = 42;
    CHECK_FAILS(tgv_embedding_copy(copy, b, count - 1), TGV_ERROR_INVALID_ARGUMENT, "tgv_embedding_get_size");
    CHECK_FAILS(tgv_embedding_copy(copy, b, count + 1), TGV_ERROR_INVALID_ARGUMENT, "floats");
    CHECK_FAILS(tgv_embedding_copy(copy, b, 0), TGV_ERROR_INVALID_ARGUMENT, "floats");
    CHECK(b[0] == 42);
    CHECK_FAILS(tgv_embedding_from_values(f.model, a, 0, &untouched), TGV_ERROR_INVALID_ARGUMENT, "rows");
    CHECK_FAILS(tgv_embedding_from_values(f.model, a, width + 1, &untouched), TGV_ERROR_INVALID_ARGUMENT, "rows");
    CHECK_FAILS(tgv_embedding_from_values(f.model, a, SIZE_MAX, &untouched), TGV_ERROR_INVALID_ARGUMENT, "count");
    /* Refused before anything is copied. */
    CHECK_FAILS(tgv_embedding_from_values(f.model, a, SIZE_MAX / 16, &untouched), TGV_ERROR_INVALID_ARGUMENT, "rows");
    a[width + 1] = (float)NAN;
    CHECK_FAILS(tgv_embedding_from_values(f.model, a, count, &untouched), TGV_ERROR_INVALID_ARGUMENT, "not finite");
    a[width + 1] = (float)-INFINITY;
    CHECK_FAILS(tgv_embedding_from_values(f.model, a, count, &untouched), TGV_ERROR_INVALID_ARGUMENT, "not finite");
    CHECK(untouched == SENTINEL(tgv_embedding));
    CHECK_WORKS(&f);

    free(a);
    free(b);
    tgv_embedding_free(second);
    tgv_embedding_free(copy);
    tgv_embedding_free(half);
    close_fixture(&f);
    return 0;
}
