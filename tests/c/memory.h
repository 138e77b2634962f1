/* How much memory this process has taken. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdio.h>
#include <unistd.h>

/* Resident memory that no file backs, in KiB: mapped model files come and go as the system likes. 0 where it does not tell. */
static inline long resident_kib(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long size, resident = 0, of_files = 0;
    if (file == NULL)
        return 0;
    if (fscanf(file, "%ld %ld %ld", &size, &resident, &of_files) != 3)
        resident = of_files = 0;
    fclose(file);
    return (resident - of_files) * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Growth that a loop may show when it leaks nothing: allocators keep some of what they got. A leak of anything that grows
 * with the model (the files take 15 MB) shows after a few rounds. */
enum { TOLERATED_KIB = 4 * 1024 };

#endif
