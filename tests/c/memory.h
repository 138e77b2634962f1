/* How much memory this process has taken: for tests that repeat something and want it to stay the same. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdio.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

/* What the allocator has handed out and not got back, in KiB; 0 where it does not tell. Exact but for what it keeps in its
 * caches as good as handed out. */
static inline long allocated_kib(void)
{
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    const struct mallinfo2 info = mallinfo2();
    return (long)((info.uordblks + info.hblkhd) / 1024);
#else
    return 0;
#endif
}

/* Resident memory that no file backs, in KiB; 0 where the system does not tell. The allocator gives back what it got, but
 * not all of it and not at once. */
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

typedef struct memory_use {
    long allocated, resident;
} memory_use;

static inline memory_use measure_memory(void)
{
    memory_use use;
    use.allocated = allocated_kib();
    use.resident = resident_kib();
    return use;
}

/* Growth that tells of no leak: caches for each of the first threads, and the allocator's moods. One leaked session is
 * 20 MiB. */
enum { TOLERATED_ALLOCATED_KIB = 1024, TOLERATED_RESIDENT_KIB = 24 * 1024 };

#endif
