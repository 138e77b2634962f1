/* The log callback gets the library's lines and llama.cpp's, and nothing is ever written to stdout or stderr.
 *
 *   silence DECODER VISION PICTURE QUESTION ANSWER SCRATCH BROKEN_DECODER
 *
 * BROKEN_DECODER passes the library's checks but not llama.cpp's: its reason must be in the error and in the log.
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

/* Where stdout and stderr really go, while both are redirected to a file. */
static int real[2];

static void redirect(const char *path)
{
    int file, fd;
    fflush(NULL);
    file = open(path, O_CREAT | O_TRUNC | O_RDWR | O_APPEND, 0600);
    CHECK(file >= 0);
    for (fd = 1; fd <= 2; fd++) {
        real[fd - 1] = dup(fd);
        CHECK(real[fd - 1] >= 0);
        dup2(file, fd);
    }
    close(file);
}

/* Back to normal; returns how much was written meanwhile. Checks that fail before this end in the file: the caller of the
 * program then sees its exit status only. */
static size_t restore(const char *path)
{
    size_t size;
    int fd;
    fflush(NULL);
    for (fd = 1; fd <= 2; fd++) {
        dup2(real[fd - 1], fd);
        close(real[fd - 1]);
    }
    free(read_file(path, &size));
    return size;
}

typedef struct log_book {
    int lines, llama, levels[5], closed, status_inside;
    char errors[2048];
} log_book;

static void on_log(int32_t level, const char *text, void *user_data)
{
    log_book *book = (log_book *)user_data;
    size_t length = strlen(text);
    CHECK(!book->closed);
    CHECK(level >= TGV_LOG_DEBUG && level <= TGV_LOG_ERROR);
    CHECK(is_utf8(text, length));
    CHECK(length == 0 || text[length - 1] != '\n');
    book->lines++;
    book->levels[level]++;
    book->llama += strstr(text, "llama") != NULL || strstr(text, "print_info") != NULL;
    if (level == TGV_LOG_ERROR && strlen(book->errors) + length + 2 < sizeof book->errors) {
        strcat(book->errors, text);
        strcat(book->errors, "|");
    }
    /* Changing the callback here would wait for itself. */
    book->status_inside = tgv_set_log_callback(NULL, NULL);
}

/* Good and bad calls of every kind. */
static void exercise(const char *const *names, const char *broken)
{
    const char *decoder = names[0], *vision = names[1], *picture = names[2], *question = names[3];
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_model *model = NULL;
    tgv_image *image = open_image(picture), *none = NULL;
    tgv_session *session;

    params.threads = -1;
    CHECK(tgv_model_load(decoder, vision, &params, &model) != TGV_OK);
    CHECK(tgv_model_load("no/such/file", vision, NULL, &model) != TGV_OK);
    CHECK(tgv_model_load(vision, decoder, NULL, &model) != TGV_OK);
    CHECK(tgv_model_load(picture, NULL, NULL, &model) != TGV_OK);
    CHECK_STATUS(tgv_model_load(broken, NULL, NULL, &model), TGV_ERROR_UNSUPPORTED_MODEL);
    CHECK(strstr(tgv_last_error(), "llama.cpp") != NULL);
    CHECK(tgv_image_from_file(decoder, &none) != TGV_OK);
    model = load_model(decoder, vision);
    session = create_session(model);
    CHECK_OK(tgv_session_add_image(session, image));
    CHECK(tgv_session_ask(session, "", NULL, NULL, NULL) != TGV_OK);
    CHECK(tgv_session_ask(session, "\xff", NULL, NULL, NULL) != TGV_OK);
    CHECK_ANSWER(session, question, names[4]);
    tgv_session_free(session);
    tgv_image_free(image);
    tgv_model_free(model);
}

int main(int argc, char **argv)
{
    static log_book book;
    const char *scratch, *broken, *const *names;
    size_t written;

    CHECK(argc == OWN_ARGUMENTS + 2);
    names = (const char *const *)argv + 1;
    scratch = argv[OWN_ARGUMENTS];
    broken = argv[OWN_ARGUMENTS + 1];

    redirect(scratch);
    exercise(names, broken); /* without a callback: into the void */
    CHECK_OK(tgv_set_log_callback(on_log, &book));
    exercise(names, broken);
    CHECK_OK(tgv_set_log_callback(NULL, NULL));
    written = restore(scratch);

    CHECK(written == 0);
    CHECK(book.lines > 10 && book.llama > 5);
    CHECK(book.levels[TGV_LOG_ERROR] > 0 && strlen(book.errors) > 0);
    CHECK_STATUS(book.status_inside, TGV_ERROR_BUSY);

    /* A callback that was replaced is not called again. */
    book.closed = 1;
    exercise(names, broken);
    return 0;
}
