/* Several threads call one session at once, against its rules: one is served, the others are told that it is busy.
 *
 *   one_session DECODER VISION PICTURE QUESTION ANSWER
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>

enum { THREADS = 4 };

typedef struct caller {
    const fixture *f;
    int number, served, busy;
} caller;

static void count(caller *c, tgv_status status)
{
    if (status == TGV_OK)
        c->served++;
    else if (status == TGV_ERROR_BUSY)
        c->busy++;
    else /* another thread may have cancelled it */
        CHECK_STATUS(status, TGV_ERROR_CANCELLED);
}

static void *call(void *argument)
{
    caller *c = (caller *)argument;
    const fixture *f = c->f;
    int i;
    for (i = 0; i < rounds(100); i++) {
        tgv_statistics statistics = TGV_STATISTICS_INIT;
        collector pieces = { "", 0, 0, 3 };
        switch ((i + c->number) % 6) {
        case 0: count(c, tgv_session_add_embedding(f->session, f->embedding)); break;
        case 1: count(c, tgv_session_ask(f->session, f->question, collect, &pieces, NULL)); break;
        case 2: count(c, tgv_session_statistics(f->session, &statistics)); break;
        case 3: count(c, tgv_session_add_image(f->session, f->image)); break;
        case 4: count(c, tgv_session_set_sampling(f->session, NULL)); break;
        default:
            tgv_session_cancel(f->session);
            count(c, tgv_session_reset(f->session)); /* or the context would fill */
            break;
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    caller callers[THREADS];
    pthread_t threads[THREADS];
    int i, served = 0, busy = 0;
    for (i = 0; i < THREADS; i++) {
        caller c = { NULL, 0, 0, 0 };
        c.f = &f;
        c.number = i;
        callers[i] = c;
        CHECK(pthread_create(&threads[i], NULL, call, &callers[i]) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        served += callers[i].served;
        busy += callers[i].busy;
    }
    printf("%d served, %d busy\n", served, busy);
    CHECK(served > 0 && busy > 0);
    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
