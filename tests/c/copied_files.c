/* A model whose files were copied works whatever happens to them; mapped files may be replaced and deleted, but who truncates
 * one ends the process.
 *
 *   copied_files DECODER VISION PICTURE QUESTION ANSWER FOLDER
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* Copies of the model's files, to be spoilt. */
static char decoder[4096], vision[4096], other[4096];

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fwrite(data, 1, size, file) == size && fclose(file) == 0);
}

static void copy(const char *from, const char *to)
{
    size_t size;
    unsigned char *data = read_file(from, &size);
    write_file(to, data, size);
    free(data);
}

/* Same size, other bytes: what is mapped changes under the model. */
static void overwrite(const char *path)
{
    size_t size;
    unsigned char *data = read_file(path, &size);
    memset(data, 0x5a, size);
    write_file(path, data, size);
    free(data);
}

static tgv_model *load(char *const *argv, int32_t files)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_model *model = NULL;
    params.embedding_cache_mb = -1;
    params.files = files;
    copy(argv[1], decoder);
    copy(argv[2], vision);
    CHECK_OK(tgv_model_load(decoder, vision, &params, &model));
    return model;
}

static void check_answers(const tgv_model *model, char *const *argv)
{
    tgv_session *session = create_session(model);
    tgv_image *image = open_image(argv[3]);
    CHECK_OK(tgv_session_add_image(session, image));
    CHECK_ANSWER(session, argv[4], argv[5]);
    tgv_image_free(image);
    tgv_session_free(session);
}

static void check_copied(char *const *argv)
{
    tgv_model *model = load(argv, TGV_FILES_COPIED);
    check_answers(model, argv);
    overwrite(decoder);
    overwrite(vision);
    check_answers(model, argv);
    CHECK(truncate(decoder, 100) == 0 && truncate(vision, 0) == 0);
    check_answers(model, argv);
    CHECK(unlink(decoder) == 0 && unlink(vision) == 0);
    check_answers(model, argv);
    tgv_model_free(model);
}

/* Another file gets the name, the mapped one stays. */
static void check_mapped(char *const *argv)
{
    tgv_model *model = load(argv, TGV_FILES_MAPPED);
    write_file(other, "nothing", 7);
    CHECK(rename(other, decoder) == 0 && unlink(vision) == 0);
    check_answers(model, argv);
    tgv_model_free(model);
}

/* The reason for all this. In a process of its own, which must not survive. */
static void check_truncated(char *const *argv)
{
    int status;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        tgv_model *model = load(argv, TGV_FILES_MAPPED);
        signal(SIGBUS, SIG_DFL); /* also where a sanitizer would tell of it */
        CHECK(truncate(vision, 100) == 0);
        check_answers(model, argv);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

static void check_options(char *const *argv)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_model *model = SENTINEL(tgv_model);
    tgv_memory_plan mapped = TGV_MEMORY_PLAN_INIT, copied = TGV_MEMORY_PLAN_INIT;
    tgv_session_params small = session_params();
    tgv_session *session = NULL;

    small.context = 256;
    CHECK_OK(tgv_model_plan(argv[1], argv[2], &params, &small, &mapped));
    params.files = TGV_FILES_COPIED;
    CHECK_OK(tgv_model_plan(argv[1], argv[2], &params, &small, &copied));
    CHECK(copied.mapped_bytes == 0);
    /* The decoder's tensors count, not its header. */
    CHECK(copied.model_bytes > mapped.model_bytes + mapped.mapped_bytes / 2);
    CHECK(copied.model_bytes < mapped.model_bytes + mapped.mapped_bytes);

    params.memory_limit = copied.private_bytes;
    CHECK_OK(tgv_model_load(argv[1], argv[2], &params, &model));
    CHECK_OK(tgv_session_create(model, &small, &session));
    tgv_session_free(session);
    tgv_model_free(model);
    model = SENTINEL(tgv_model);
    params.memory_limit = copied.private_bytes - copied.session_bytes - 1;
    CHECK_FAILS(tgv_model_load(argv[1], argv[2], &params, &model), TGV_ERROR_OUT_OF_MEMORY, "private memory");
    params.files = 2;
    CHECK_FAILS(tgv_model_load(argv[1], argv[2], &params, &model), TGV_ERROR_INVALID_ARGUMENT, "files 2");
    CHECK(model == SENTINEL(tgv_model));
}

int main(int argc, char **argv)
{
    CHECK(argc == OWN_ARGUMENTS + 1);
    snprintf(decoder, sizeof decoder, "%s/copied-decoder.gguf", argv[OWN_ARGUMENTS]);
    snprintf(vision, sizeof vision, "%s/copied-vision.gguf", argv[OWN_ARGUMENTS]);
    snprintf(other, sizeof other, "%s/copied-other.gguf", argv[OWN_ARGUMENTS]);
    check_truncated(argv); /* first: no threads to be lost in the fork */
    check_copied(argv);
    check_mapped(argv);
    check_options(argv);
    return 0;
}
