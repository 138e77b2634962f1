/* Loads, asks and frees again and again: memory does not grow.
 *
 *   load_cycles DECODER VISION PICTURE QUESTION ANSWER
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include "memory.h"

int main(int argc, char **argv)
{
    const int cycles = rounds(50), warm_up = cycles / 5;
    long before = 0, after;
    int i;
    for (i = 0; i < cycles; i++) {
        fixture f = open_fixture(argc, argv);
        CHECK_WORKS(&f);
        close_fixture(&f);
        if (i == warm_up)
            before = resident_kib();
    }
    after = resident_kib();
    printf("%ld KiB after %d cycles, %ld KiB after %d\n", before, warm_up + 1, after, cycles);
    CHECK(getenv("TGV_TEST_ROUNDS_DIVISOR") != NULL || after - before < TOLERATED_KIB);
    return 0;
}
