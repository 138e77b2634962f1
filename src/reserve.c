/* Memory of last resort for small allocations: where the system's allocator has none, a piece of a reserve of the library's own.
 *
 * Rust ends the process when a small allocation fails, and parts of ggml, libjpeg and the C library's users do not look at
 * what malloc gives them. The linker's --wrap (build.rs, scripts/static-library.sh) has all that is linked into this library
 * call the functions below in place of malloc and its kin; nobody else's calls are touched, and where the linker has no such
 * option, these functions are not part of the library.
 *
 * The reserve lies in pages that nothing touches as long as it is not needed. Pieces are handed out one behind the other, and
 * when the last one has come back, from the beginning again: it is there to bring a call to its end, where memory.rs says how
 * things are. Large allocations fail as ever: those that are made are checked, all of them.
 */
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the reserve, and of a piece at most: more than any unchecked allocation. */
#define RESERVE ((size_t)8 << 20)
#define LARGEST ((size_t)1 << 20)
/* What every piece is aligned to, and the room before it, which holds its size. */
#define UNIT ((size_t)16)

static _Alignas(64) unsigned char reserve[RESERVE];

/* Bytes handed out since it was last empty, times 2^32, plus the number of pieces that have not come back. */
static _Atomic uint64_t state;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void __real_free(void *memory);
#ifdef __GLIBC__
int __real___cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *library);
#endif
int __real_posix_memalign(void **out, size_t alignment, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);

static int is_reserved(const void *memory)
{
    return (uintptr_t)memory - (uintptr_t)reserve < RESERVE;
}

/* A piece of the reserve; `alignment` is a power of two. */
static void *take(size_t alignment, size_t size)
{
    uint64_t before = atomic_load_explicit(&state, memory_order_relaxed), after;
    size_t start;
    if (size > LARGEST || alignment > LARGEST)
        return NULL;
    if (alignment < UNIT)
        alignment = UNIT;
    do {
        const uintptr_t first = (uintptr_t)reserve + (size_t)(before >> 32) + UNIT;
        start = (size_t)(((first + alignment - 1) & ~(uintptr_t)(alignment - 1)) - (uintptr_t)reserve);
        if (start + size > RESERVE)
            return NULL;
        after = (uint64_t)(start + size) << 32 | ((before & UINT32_MAX) + 1);
    } while (!atomic_compare_exchange_weak_explicit(&state, &before, after, memory_order_acq_rel, memory_order_relaxed));
    memcpy(reserve + start - UNIT, &size, sizeof size);
    return reserve + start;
}

static size_t size_of(const void *piece)
{
    size_t size;
    memcpy(&size, (const unsigned char *)piece - UNIT, sizeof size);
    return size;
}

static void give_back(void)
{
    uint64_t before = atomic_load_explicit(&state, memory_order_relaxed), after;
    do {
        after = (before & UINT32_MAX) == 1 ? 0 : before - 1;
    } while (!atomic_compare_exchange_weak_explicit(&state, &before, after, memory_order_acq_rel, memory_order_relaxed));
}

void *__wrap_malloc(size_t size)
{
    void *memory = __real_malloc(size);
    return memory != NULL ? memory : take(UNIT, size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    void *memory = __real_calloc(count, size);
    if (memory != NULL || (size != 0 && count > LARGEST / size))
        return memory;
    memory = take(UNIT, count * size);
    return memory != NULL ? memset(memory, 0, count * size) : NULL;
}

void __wrap_free(void *memory)
{
    if (is_reserved(memory))
        give_back();
    else
        __real_free(memory);
}

void *__wrap_realloc(void *memory, size_t size)
{
    void *moved;
    size_t old;
    if (memory == NULL)
        return __wrap_malloc(size);
    if (!is_reserved(memory)) {
        moved = __real_realloc(memory, size);
        /* With a size of 0 it has been freed. */
        if (moved != NULL || size == 0)
            return moved;
        old = malloc_usable_size(memory);
        moved = take(UNIT, size);
    } else {
        old = size_of(memory);
        moved = __wrap_malloc(size);
    }
    if (moved == NULL)
        return NULL;
    memcpy(moved, memory, old < size ? old : size);
    __wrap_free(memory);
    return moved;
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t size)
{
    const int failed = __real_posix_memalign(out, alignment, size);
    void *memory = failed == ENOMEM ? take(alignment, size) : NULL;
    if (memory == NULL)
        return failed;
    *out = memory;
    return 0;
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    void *memory = __real_aligned_alloc(alignment, size);
    const int power_of_two = alignment != 0 && (alignment & (alignment - 1)) == 0;
    return memory != NULL || !power_of_two ? memory : take(alignment, size);
}

#ifdef __GLIBC__
/* glibc ends the process where it has no memory to note down what is to be destroyed with a thread. Then it is not noted
 * down, and what the destructor would free is lost. */
int __wrap___cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *library)
{
    /* Larger than what the allocator keeps aside for calls of the same size. */
    void *memory = __real_malloc(4096);
    if (memory == NULL)
        return 0;
    __real_free(memory);
    return __real___cxa_thread_atexit_impl(destructor, object, library);
}
#endif
