/* Two users of the library in one process, who know nothing of each other: each with a model, sessions and a log callback of
 * its own, on a thread of its own. One comes and goes while the other works.
 *
 *   two_users DECODER VISION PICTURE QUESTION ANSWER OTHER_DECODER OTHER_VISION
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>

typedef struct user {
    const char *decoder, *vision;
    char *const *argv;
    int visits;
    uint64_t id;
    int listening; /* by the user's own account */
    long lines, busy;
} user;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void on_log(int32_t level, const char *text, void *user_data)
{
    user *u = (user *)user_data;
    uint64_t id = 7;
    CHECK(level >= TGV_LOG_DEBUG && level <= TGV_LOG_ERROR && text != NULL);
    pthread_mutex_lock(&mutex);
    CHECK(u->listening);
    if (u->lines++ % 16 == 0) {
        /* Changing anything in here would wait for itself. */
        CHECK_STATUS(tgv_add_log_callback(on_log, u, &id), TGV_ERROR_BUSY);
        CHECK_STATUS(tgv_remove_log_callback(u->id), TGV_ERROR_BUSY);
        CHECK(id == 7);
        u->busy++;
    }
    pthread_mutex_unlock(&mutex);
}

/* Not under the mutex, which the callback takes. */
static void listen(user *u, int listening)
{
    if (listening) {
        u->listening = 1;
        CHECK_OK(tgv_add_log_callback(on_log, u, &u->id));
        CHECK(u->id != 0);
    } else {
        CHECK_OK(tgv_remove_log_callback(u->id));
        u->listening = 0; /* a call that came now would show */
    }
}

static void *work(void *argument)
{
    user *u = (user *)argument;
    int i;
    for (i = 0; i < u->visits; i++) {
        tgv_model *model;
        tgv_image *image;
        tgv_session *session;
        listen(u, 1);
        model = load_model(u->decoder, u->vision);
        image = open_image(u->argv[3]);
        session = create_session(model);
        CHECK_OK(tgv_session_add_image(session, image));
        CHECK_ANSWER(session, u->argv[4], u->argv[5]);
        tgv_session_free(session);
        tgv_image_free(image);
        tgv_model_free(model);
        listen(u, 0);
    }
    return NULL;
}

static void check_arguments(user *u)
{
    uint64_t id = 7;
    CHECK_FAILS(tgv_add_log_callback(NULL, u, &id), TGV_ERROR_INVALID_ARGUMENT, "callback");
    CHECK_FAILS(tgv_add_log_callback(on_log, u, NULL), TGV_ERROR_INVALID_ARGUMENT, "out_id");
    CHECK_FAILS(tgv_remove_log_callback(0), TGV_ERROR_INVALID_ARGUMENT, "number 0");
    CHECK_OK(tgv_add_log_callback(on_log, u, &id));
    CHECK_OK(tgv_remove_log_callback(id));
    CHECK_FAILS(tgv_remove_log_callback(id), TGV_ERROR_INVALID_ARGUMENT, "removed before");
}

int main(int argc, char **argv)
{
    static user users[2];
    static user program; /* who also listens, with the callback that is the program's own */
    pthread_t threads[2];
    int i;

    CHECK(argc == OWN_ARGUMENTS + 2);
    check_arguments(&users[0]);
    program.listening = 1;
    CHECK_OK(tgv_set_log_callback(on_log, &program));
    for (i = 0; i < 2; i++) {
        users[i].argv = argv;
        users[i].decoder = argv[i == 0 ? 1 : OWN_ARGUMENTS];
        users[i].vision = argv[i == 0 ? 2 : OWN_ARGUMENTS + 1];
        users[i].visits = rounds(i == 0 ? 4 : 12);
        CHECK(pthread_create(&threads[i], NULL, work, &users[i]) == 0);
    }
    for (i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK_OK(tgv_set_log_callback(NULL, NULL));
    program.listening = 0;
    /* Each heard its own model's lines at least, the program those of both. */
    CHECK(users[0].lines > 10 && users[1].lines > 10 && users[0].busy > 0 && users[1].busy > 0);
    CHECK(program.lines >= users[0].lines && program.lines >= users[1].lines);
    tgv_model_free(load_model(argv[1], NULL)); /* nobody listens */
    return 0;
}
