/* Leaks a session on purpose: proves that leaks through the library are seen. Run by tests/c_abi.rs, which wants it to fail.
 *
 *   canary_leak DECODER VISION PICTURE QUESTION ANSWER
 */
#include "check.h"

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    tgv_session *lost = create_session(f.model);
    CHECK_OK(tgv_session_add_embedding(lost, f.embedding));
    CHECK_ANSWER(lost, f.question, f.answer);
    lost = NULL;
    CHECK_WORKS(&f); /* overwrites what the stack remembers */
    close_fixture(&f);
    puts("the end");
    return lost != NULL;
}
