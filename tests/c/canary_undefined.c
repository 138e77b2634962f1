/* Overflows an int on purpose: proves that the undefined-behaviour sanitizer is on. Run by tests/c_abi.rs, which wants it to
 * fail.
 */
#include <limits.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int n = INT_MAX;
    (void)argv;
    n += argc;
    printf("the end: %d\n", n);
    return 0;
}
