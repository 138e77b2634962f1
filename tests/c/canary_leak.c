/* Leaks a session on purpose: proves that leaks through the library are seen. Run by tests/c_abi.rs, which wants it to fail.
 *
 *   canary_leak DECODER VISION PICTURE QUESTION ANSWER
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>

/* On a thread of its own, so that no stack or register remembers the pointer. */
static void *lose_a_session(void *argument)
{
    const fixture *f = (const fixture *)argument;
    tgv_session *lost = create_session(f->model);
    CHECK_OK(tgv_session_add_embedding(lost, f->embedding));
    CHECK_ANSWER(lost, f->question, f->answer);
    return NULL;
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, lose_a_session, &f) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_WORKS(&f);
    close_fixture(&f);
    puts("the end");
    return 0;
}
