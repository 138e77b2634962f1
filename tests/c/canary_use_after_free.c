/* Reads an answer after its session is gone, on purpose: proves that the library's memory is watched. Run by tests/c_abi.rs,
 * which wants it to fail.
 *
 *   canary_use_after_free DECODER VISION PICTURE QUESTION ANSWER
 */
#include "check.h"

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    const char *answer = NULL;
    size_t length;
    CHECK_OK(tgv_session_add_embedding(f.session, f.embedding));
    CHECK_OK(tgv_session_ask(f.session, f.question, NULL, NULL, &answer));
    close_fixture(&f);
    length = strlen(answer);
    printf("the end: %lu\n", (unsigned long)length);
    return 0;
}
