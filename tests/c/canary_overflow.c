/* Lets the library write past the end of a buffer on purpose: proves that its writes are watched. Run by tests/c_abi.rs,
 * which wants it to fail.
 *
 *   canary_overflow DECODER VISION PICTURE QUESTION ANSWER
 */
#include "check.h"

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    size_t rows, width;
    float *values;
    CHECK_OK(tgv_embedding_get_size(f.embedding, &rows, &width));
    values = (float *)malloc((rows * width - 1) * sizeof *values); /* one too few */
    CHECK(values != NULL);
    CHECK_OK(tgv_embedding_copy(f.embedding, values, rows * width));
    free(values);
    close_fixture(&f);
    puts("the end");
    return 0;
}
