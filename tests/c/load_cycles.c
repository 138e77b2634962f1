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
    memory_use before = { 0, 0 }, after;
    int i;
    for (i = 0; i < cycles; i++) {
        fixture f = open_fixture(argc, argv);
        CHECK_WORKS(&f);
        close_fixture(&f);
        if (i == warm_up)
            before = measure_memory();
    }
    after = measure_memory();
    printf("%d cycles after the first %d: %ld KiB allocated and %ld resident, %ld and %ld more\n", cycles - warm_up - 1,
           warm_up + 1, before.allocated, before.resident, after.allocated - before.allocated,
           after.resident - before.resident);
    CHECK(after.allocated - before.allocated < TOLERATED_ALLOCATED_KIB);
    CHECK(getenv("TGV_TEST_ROUNDS_DIVISOR") != NULL || after.resident - before.resident < TOLERATED_RESIDENT_KIB);
    return 0;
}
