/* Cancelling from another thread, at every moment of a question and of encoding: the call ends as success or as cancelled,
 * and the session then answers right.
 *
 *   cancel DECODER VISION PICTURE QUESTION ANSWER LONG_QUESTION LONG_ANSWER
 *
 * The long question is the one that is cancelled, the other shows that the session is in order.
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>
#include <time.h>

static const char *long_question, *long_answer;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void wait_for(double seconds)
{
    struct timespec t;
    t.tv_sec = (time_t)seconds;
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    nanosleep(&t, NULL);
}

/* Cancels `session` after a while, on a thread of its own. */
typedef struct canceller {
    pthread_t thread;
    tgv_session *session;
    double delay;
} canceller;

static void *cancel(void *argument)
{
    canceller *c = (canceller *)argument;
    wait_for(c->delay);
    tgv_session_cancel(c->session);
    return NULL;
}

static void start(canceller *c, tgv_session *session, double delay)
{
    c->session = session;
    c->delay = delay;
    CHECK(pthread_create(&c->thread, NULL, cancel, c) == 0);
}

/* One call with a cancel somewhere inside. */
static int cancel_ask(const fixture *f, double delay)
{
    collector pieces = { "", 0, 0, 0 };
    const char *answer = SENTINEL(char);
    tgv_status status;
    canceller c;

    CHECK_OK(tgv_session_reset(f->session));
    CHECK_OK(tgv_session_add_embedding(f->session, f->embedding));
    start(&c, f->session, delay);
    status = tgv_session_ask(f->session, long_question, collect, &pieces, &answer);
    if (status == TGV_OK) {
        CHECK(strcmp(answer, long_answer) == 0);
    } else {
        CHECK_STATUS(status, TGV_ERROR_CANCELLED);
        CHECK(answer == SENTINEL(char) && strncmp(pieces.text, long_answer, pieces.length) == 0);
        CHECK(statistics_of(f->session).finish == TGV_FINISH_NONE);
    }
    CHECK(pthread_join(c.thread, NULL) == 0);
    /* After a cancelled question the picture is still waiting; an answered one is part of the conversation. */
    if (status == TGV_OK)
        CHECK_WORKS(f);
    else
        CHECK_ANSWER(f->session, f->question, f->answer);
    return status != TGV_OK;
}

static int cancel_add_image(const fixture *f, double delay)
{
    tgv_status status;
    canceller c;

    CHECK_OK(tgv_session_reset(f->session));
    start(&c, f->session, delay);
    status = tgv_session_add_image(f->session, f->image);
    CHECK(pthread_join(c.thread, NULL) == 0);
    if (status != TGV_OK) {
        CHECK_STATUS(status, TGV_ERROR_CANCELLED);
        CHECK_OK(tgv_session_add_image(f->session, f->image));
    }
    CHECK_ANSWER(f->session, f->question, f->answer);
    return status != TGV_OK;
}

static void check_idle(const fixture *f)
{
    tgv_session_cancel(f->session);
    CHECK_OK(tgv_session_reset(f->session));
    tgv_session_cancel(f->session);
    CHECK_OK(tgv_session_add_image(f->session, f->image));
    tgv_session_cancel(f->session);
    tgv_session_cancel(f->session);
    CHECK_ANSWER(f->session, f->question, f->answer);
    tgv_session_cancel(f->session);
    CHECK(statistics_of(f->session).finish == TGV_FINISH_STOP);
    CHECK_WORKS(f);
}

/* Cancels at moments spread over the time that the call takes, and a little beyond. Returns how many took effect. */
static int spread(const fixture *f, int (*once)(const fixture *, double), double whole, int times)
{
    int i, cancelled = 0;
    for (i = 0; i < times; i++)
        cancelled += once(f, whole * 1.1 * i / times);
    return cancelled;
}

static void cancel_all(const fixture *f, int times)
{
    double start_time;
    int asks, images;

    check_idle(f);
    CHECK_OK(tgv_session_reset(f->session));
    start_time = now();
    CHECK_OK(tgv_session_add_image(f->session, f->image));
    images = spread(f, cancel_add_image, now() - start_time, times);
    CHECK_WORKS(f);
    start_time = now();
    CHECK_OK(tgv_session_ask(f->session, long_question, NULL, NULL, NULL));
    asks = spread(f, cancel_ask, now() - start_time, times);
    check_idle(f);
    printf("%d of %d pictures and %d of %d questions were cancelled\n", images, times, asks, times);
    CHECK(images > 0 && asks > 0); /* else this tested nothing */
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    tgv_session_params params = session_params();
    CHECK(argc == OWN_ARGUMENTS + 2);
    long_question = argv[OWN_ARGUMENTS];
    long_answer = argv[OWN_ARGUMENTS + 1];
    cancel_all(&f, rounds(100));
    /* And with several threads in the decoder. */
    tgv_session_free(f.session);
    f.session = NULL;
    params.threads = 2;
    CHECK_OK(tgv_session_create(f.model, &params, &f.session));
    cancel_all(&f, rounds(10));
    close_fixture(&f);
    return 0;
}
