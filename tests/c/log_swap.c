/* Log callbacks are set, added and removed again and again while other threads log: once the change has returned, the callback
 * before is not running and is not called again.
 *
 *   log_swap DECODER
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>
#include <sched.h>

enum { THREADS = 3, LOADS = 8 };

/* What a callback works with; after its retirement it is overwritten, so that a late call shows. */
typedef struct listener {
    int alive;
    long lines; /* from several threads at once, so only roughly right */
} listener;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int working = THREADS;

static void on_log(int32_t level, const char *text, void *user_data)
{
    listener *l = (listener *)user_data;
    (void)level;
    pthread_mutex_lock(&mutex);
    CHECK(l->alive == 1 && text != NULL);
    l->lines++;
    pthread_mutex_unlock(&mutex);
}

static void *load(void *path)
{
    int i;
    for (i = 0; i < rounds(LOADS); i++)
        tgv_model_free(load_model((const char *)path, NULL));
    pthread_mutex_lock(&mutex);
    working--;
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static int still_working(void)
{
    int n;
    pthread_mutex_lock(&mutex);
    n = working;
    pthread_mutex_unlock(&mutex);
    return n > 0;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    long lines = 0, swaps = 0;
    int i;
    CHECK(argc == 2);
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, load, argv[1]) == 0);
    while (still_working()) {
        listener *l = (listener *)malloc(sizeof *l);
        CHECK(l != NULL);
        l->alive = 1;
        l->lines = 0;
        if (swaps % 3 == 0) {
            uint64_t id = 0;
            CHECK_OK(tgv_add_log_callback(on_log, l, &id));
            sched_yield();
            CHECK_OK(tgv_remove_log_callback(id));
        } else {
            CHECK_OK(tgv_set_log_callback(on_log, l));
            sched_yield();
            CHECK_OK(tgv_set_log_callback(swaps % 3 == 1 ? NULL : on_log, l));
            CHECK_OK(tgv_set_log_callback(NULL, NULL));
        }
        lines += l->lines;
        l->alive = 0;
        free(l);
        swaps++;
    }
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    printf("%ld lines, %ld callbacks\n", lines, swaps);
    CHECK(swaps > 0);
    return 0;
}
