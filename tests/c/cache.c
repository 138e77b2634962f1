/* The cache of embeddings, and embeddings saved in files. Own arguments: a folder to write to, another model's VISION file. */
#include "check.h"

static int32_t last_fraction(float fraction, void *user_data)
{
    *(float *)user_data = fraction;
    return 0;
}

static int32_t refuse(float fraction, void *user_data)
{
    (void)user_data;
    return fraction >= 1;
}

static size_t cached(const tgv_model *model, size_t *bytes)
{
    size_t count = SIZE_MAX;
    CHECK_OK(tgv_model_get_cache_size(model, &count, bytes));
    return count;
}

/* The same picture from another image object, in another session, and as raw pixels of the same file. */
static void check_cache(const fixture *f)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_encode_params listening = TGV_ENCODE_PARAMS_INIT, stopping = TGV_ENCODE_PARAMS_INIT;
    tgv_model *model = NULL;
    tgv_embedding *embedding = NULL;
    tgv_session *session = NULL;
    size_t bytes = 0, rows, width;
    float fraction = 0;

    params.embedding_cache_mb = -2;
    CHECK_FAILS(tgv_model_load(f->decoder, f->vision, &params, &model), TGV_ERROR_INVALID_ARGUMENT, "embedding_cache_mb");
    params.embedding_cache_mb = 1;
    CHECK_OK(tgv_model_load(f->decoder, f->vision, &params, &model));
    CHECK(cached(model, &bytes) == 0 && bytes == 0);
    CHECK(cached(f->model, NULL) == 0);
    CHECK_OK(tgv_model_get_cache_size(model, NULL, &bytes));
    CHECK_FAILS(tgv_model_get_cache_size(NULL, NULL, &bytes), TGV_ERROR_INVALID_ARGUMENT, "model is NULL");

    session = create_session(model);
    CHECK_OK(tgv_session_add_image(session, f->image));
    CHECK_ANSWER(session, f->question, f->answer);
    CHECK(cached(model, &bytes) == 1);
    tgv_session_free(session);

    listening.on_progress = last_fraction;
    listening.user_data = &fraction;
    CHECK_OK(tgv_embedding_encode(model, f->image, &listening, &embedding));
    CHECK(fraction == 1.0f);
    CHECK_OK(tgv_embedding_get_size(embedding, &rows, &width));
    CHECK(cached(model, NULL) == 1 && bytes == rows * width * sizeof(float));
    tgv_embedding_free(embedding);
    embedding = SENTINEL(tgv_embedding);
    stopping.on_progress = refuse;
    CHECK_FAILS(tgv_embedding_encode(model, f->image, &stopping, &embedding), TGV_ERROR_CANCELLED, "cancelled");
    CHECK(embedding == SENTINEL(tgv_embedding));

    /* A second session finds the picture, and answers the same. */
    session = create_session(model);
    CHECK_OK(tgv_session_add_image(session, f->image));
    CHECK_ANSWER(session, f->question, f->answer);
    CHECK(cached(model, NULL) == 1);
    tgv_session_free(session);
    tgv_model_free(model);
}

/* More pictures than there is room for: one megabyte. */
static void check_bound(const fixture *f)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_model *model = NULL;
    size_t bytes = 0, most = 0;
    int i;

    params.embedding_cache_mb = 1;
    CHECK_OK(tgv_model_load(f->decoder, f->vision, &params, &model));
    for (i = 0; i < 70; i++) {
        unsigned char pixels[3 * 4 * 4] = { 0 };
        tgv_image *image = NULL;
        tgv_embedding *embedding = NULL;
        pixels[0] = (unsigned char)(3 * i);
        CHECK_OK(tgv_image_from_pixels(pixels, sizeof pixels, 4, 4, 12, TGV_PIXELS_RGB, &image));
        CHECK_OK(tgv_embedding_encode(model, image, NULL, &embedding));
        CHECK(cached(model, &bytes) <= (size_t)i + 1 && bytes <= (size_t)1 << 20);
        most = bytes > most ? bytes : most;
        tgv_embedding_free(embedding);
        tgv_image_free(image);
    }
    CHECK(most > (size_t)900 << 10 && cached(model, NULL) < 70);
    tgv_model_free(model);
}

static void check_files(const fixture *f, const char *folder, const char *other_vision)
{
    char path[1024], broken[1024];
    tgv_embedding *embedding = SENTINEL(tgv_embedding);
    tgv_model *other = load_model(f->decoder, other_vision);
    unsigned char *bytes;
    size_t size;
    FILE *file;

    snprintf(path, sizeof path, "%s/picture.tgvemb", folder);
    snprintf(broken, sizeof broken, "%s/broken.tgvemb", folder);
    CHECK_FAILS(tgv_embedding_load(f->model, path, &embedding), TGV_ERROR_FILE_NOT_FOUND, "picture.tgvemb");
    CHECK_OK(tgv_embedding_save(f->model, f->embedding, path));
    CHECK_FAILS(tgv_embedding_load(other, path, &embedding), TGV_ERROR_MODEL_MISMATCH, "another vision file");
    CHECK_FAILS(tgv_embedding_load(f->model, f->picture, &embedding), TGV_ERROR_BAD_EMBEDDING_FILE, "something else");
    CHECK_FAILS(tgv_embedding_load(f->model, NULL, &embedding), TGV_ERROR_INVALID_ARGUMENT, "path is NULL");
    CHECK_FAILS(tgv_embedding_load(NULL, path, &embedding), TGV_ERROR_INVALID_ARGUMENT, "model is NULL");
    CHECK_FAILS(tgv_embedding_load(f->model, path, NULL), TGV_ERROR_INVALID_ARGUMENT, "out_embedding");
    CHECK_FAILS(tgv_embedding_save(f->model, NULL, path), TGV_ERROR_INVALID_ARGUMENT, "embedding is NULL");
    CHECK_FAILS(tgv_embedding_save(f->model, f->embedding, "no/such/folder/x"), TGV_ERROR_FILE_NOT_FOUND, "no/such/folder");
    CHECK_FAILS(tgv_embedding_save(f->model, f->embedding, "\xff"), TGV_ERROR_INVALID_UTF8, "path");
    bytes = read_file(path, &size);
    bytes[size / 2] ^= 1;
    file = fopen(broken, "wb");
    CHECK(file != NULL && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
    free(bytes);
    CHECK_FAILS(tgv_embedding_load(f->model, broken, &embedding), TGV_ERROR_BAD_EMBEDDING_FILE, "damaged");
    CHECK(embedding == SENTINEL(tgv_embedding));

    CHECK_OK(tgv_embedding_load(f->model, path, &embedding));
    CHECK_OK(tgv_session_reset(f->session));
    CHECK_OK(tgv_session_add_embedding(f->session, embedding));
    tgv_embedding_free(embedding);
    CHECK_ANSWER(f->session, f->question, f->answer);
    tgv_model_free(other);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    CHECK(argc == OWN_ARGUMENTS + 2);
    check_cache(&f);
    check_bound(&f);
    check_files(&f, argv[OWN_ARGUMENTS], argv[OWN_ARGUMENTS + 1]);
    close_fixture(&f);
    return 0;
}
