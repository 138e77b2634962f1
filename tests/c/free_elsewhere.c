/* Handles freed by another thread while a call is running on them: the call comes to its end.
 *
 *   free_elsewhere DECODER VISION PICTURE QUESTION ANSWER
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>

typedef struct talk {
    fixture f;
    collector pieces;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int speaking, freed;
} talk;

/* At the first piece, waits until the other thread has freed everything. */
static int on_text(const char *text, size_t length, void *user_data)
{
    talk *t = (talk *)user_data;
    pthread_mutex_lock(&t->mutex);
    t->speaking = 1;
    pthread_cond_broadcast(&t->changed);
    while (!t->freed)
        pthread_cond_wait(&t->changed, &t->mutex);
    pthread_mutex_unlock(&t->mutex);
    return collect(text, length, &t->pieces);
}

static void *ask(void *argument)
{
    talk *t = (talk *)argument;
    CHECK_OK(tgv_session_ask(t->f.session, t->f.question, on_text, t, NULL));
    CHECK(strcmp(t->pieces.text, t->f.answer) == 0);
    return NULL;
}

static void wait_for_speech(talk *t)
{
    pthread_mutex_lock(&t->mutex);
    while (!t->speaking)
        pthread_cond_wait(&t->changed, &t->mutex);
    pthread_mutex_unlock(&t->mutex);
}

int main(int argc, char **argv)
{
    static talk t;
    pthread_t thread;
    int i;
    for (i = 0; i < rounds(10); i++) {
        memset(&t, 0, sizeof t);
        pthread_mutex_init(&t.mutex, NULL);
        pthread_cond_init(&t.changed, NULL);
        t.f = open_fixture(argc, argv);
        CHECK_OK(tgv_session_add_embedding(t.f.session, t.f.embedding));
        CHECK(pthread_create(&thread, NULL, ask, &t) == 0);
        wait_for_speech(&t);
        close_fixture(&t.f);
        pthread_mutex_lock(&t.mutex);
        t.freed = 1;
        pthread_cond_broadcast(&t.changed);
        pthread_mutex_unlock(&t.mutex);
        CHECK(pthread_join(thread, NULL) == 0);
        pthread_mutex_destroy(&t.mutex);
        pthread_cond_destroy(&t.changed);
    }
    return 0;
}
