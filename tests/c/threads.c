/* Eight threads, each with sessions of its own, share one model and its embeddings, and all answer right. TGV_TEST_SECONDS is how
 * long, at least.
 *
 *   threads DECODER VISION (PICTURE QUESTION ANSWER)...
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>
#include <time.h>

enum { THREADS = 8, MAX_QUESTIONS = 64 };

static tgv_model *model;
static tgv_embedding *shared[MAX_QUESTIONS];
static char **questions; /* PICTURE QUESTION ANSWER, and so on */
static int count;
static time_t end;

static char *const *question_number(int i)
{
    return questions + 3 * (i % count);
}

static void *worker(void *argument)
{
    const int number = *(const int *)argument;
    tgv_session_params params = session_params();
    tgv_session *session = NULL;
    int i;
    params.threads = number == 0 ? 2 : 1; /* one of them with several threads in its decoder */
    CHECK_OK(tgv_session_create(model, &params, &session));
    for (i = 0; i < rounds(6) || time(NULL) < end; i++) {
        /* Each thread starts somewhere else, so that different pictures are encoded at the same time. */
        int k = number + i * 5;
        char *const *q = question_number(k);
        if (i % 2 == 0) {
            tgv_image *image = open_image(q[0]);
            CHECK_OK(tgv_session_add_image(session, image));
            tgv_image_free(image);
        } else {
            CHECK_OK(tgv_session_add_embedding(session, shared[k % count]));
        }
        CHECK_ANSWER(session, q[1], q[2]);
        /* Errors are each thread's own. */
        CHECK(tgv_session_ask(session, "", NULL, NULL, NULL) == TGV_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(tgv_last_error(), "empty") != NULL);
        CHECK(tgv_model_template_count(model) > 0 && strlen(tgv_model_description(model)) > 0);
        if (i % 3 == 2) {
            tgv_session_free(session);
            session = create_session(model);
        } else {
            CHECK_OK(tgv_session_reset(session));
        }
    }
    tgv_session_free(session);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    int numbers[THREADS], i;

    CHECK(argc >= 6 && argc % 3 == 0);
    questions = argv + 3;
    count = (argc - 3) / 3;
    CHECK(count <= MAX_QUESTIONS);
    end = time(NULL) + setting("TGV_TEST_SECONDS", 0);
    model = load_model(argv[1], argv[2]);
    for (i = 0; i < count; i++) {
        tgv_image *image = open_image(question_number(i)[0]);
        shared[i] = encode(model, image);
        tgv_image_free(image);
    }
    CHECK(tgv_session_ask(NULL, "x", NULL, NULL, NULL) == TGV_ERROR_INVALID_ARGUMENT);
    for (i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, worker, &numbers[i]) == 0);
    }
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(strstr(tgv_last_error(), "session") != NULL); /* untouched by the other threads' errors */
    for (i = 0; i < count; i++)
        tgv_embedding_free(shared[i]);
    tgv_model_free(model);
    return 0;
}
