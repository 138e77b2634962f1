/* Opens the shared library at run time, uses it and closes it, again and again, on the main thread and on others.
 *
 * Thread-locals with destructors keep a library mapped as long as a thread that used it lives, so it is only where a thread
 * uses it and ends before the library is closed that closing really unmaps it.
 *
 *   reload DECODER VISION PICTURE QUESTION ANSWER LIBRARY
 *
 * The program is not linked with the library.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "tinygptv.h"

#define NEED(condition)                                                                                               \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            const char *reason = dlerror();                                                                           \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, reason != NULL ? reason : "");        \
            exit(1);                                                                                                  \
        }                                                                                                             \
    } while (0)

/* A function pointer from an object pointer, as POSIX wants it. */
static void find(void *library, const char *name, void *function)
{
    void *address = dlsym(library, name);
    NEED(address != NULL);
    memcpy(function, &address, sizeof address);
}

static void use_library(void *library, char **argv)
{
    tgv_status (*model_load)(const char *, const char *, const tgv_model_params *, tgv_model **);
    tgv_status (*image_from_file)(const char *, tgv_image **);
    tgv_status (*session_create)(const tgv_model *, const tgv_session_params *, tgv_session **);
    tgv_status (*session_add_image)(tgv_session *, const tgv_image *);
    tgv_status (*session_ask)(tgv_session *, const char *, tgv_text_callback, void *, const char **);
    void (*model_free)(tgv_model *);
    void (*image_free)(tgv_image *);
    void (*session_free)(tgv_session *);
    const char *(*last_error)(void);
    tgv_model *model = NULL;
    tgv_image *image = NULL;
    tgv_session *session = NULL;
    const char *answer = NULL;

    find(library, "tgv_model_load", &model_load);
    find(library, "tgv_image_from_file", &image_from_file);
    find(library, "tgv_session_create", &session_create);
    find(library, "tgv_session_add_image", &session_add_image);
    find(library, "tgv_session_ask", &session_ask);
    find(library, "tgv_model_free", &model_free);
    find(library, "tgv_image_free", &image_free);
    find(library, "tgv_session_free", &session_free);
    find(library, "tgv_last_error", &last_error);

    NEED(model_load("no/such/file", NULL, NULL, &model) == TGV_ERROR_FILE_NOT_FOUND);
    NEED(strstr(last_error(), "no/such/file") != NULL);
    NEED(model_load(argv[1], argv[2], NULL, &model) == TGV_OK);
    NEED(image_from_file(argv[3], &image) == TGV_OK);
    NEED(session_create(model, NULL, &session) == TGV_OK);
    NEED(session_add_image(session, image) == TGV_OK);
    NEED(session_ask(session, argv[4], NULL, NULL, &answer) == TGV_OK);
    NEED(strcmp(answer, argv[5]) == 0);
    session_free(session);
    image_free(image);
    model_free(model);
}

static void *open_library(char **argv)
{
    void *library = dlopen(argv[6], RTLD_NOW | RTLD_LOCAL);
    NEED(library != NULL);
    return library;
}

typedef struct job {
    void *library; /* NULL: the thread opens and closes it itself, and ends after that */
    char **argv;
} job;

static void *thread(void *argument)
{
    const job *j = (const job *)argument;
    void *own = j->library == NULL ? open_library(j->argv) : NULL;
    use_library(own != NULL ? own : j->library, j->argv);
    NEED(own == NULL || dlclose(own) == 0);
    return NULL;
}

static void run_thread(void *library, char **argv)
{
    pthread_t id;
    job j;
    j.library = library;
    j.argv = argv;
    NEED(pthread_create(&id, NULL, thread, &j) == 0);
    NEED(pthread_join(id, NULL) == 0);
}

/* Whether the library's code is in memory; -1 where the system does not tell. */
static int is_mapped(const char *path)
{
    const char *name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    int found = 0;
    if (maps == NULL)
        return -1;
    while (fgets(line, sizeof line, maps) != NULL)
        found |= strstr(line, name) != NULL;
    fclose(maps);
    return found;
}

/* Of 50 unmappings; what statics of Rust and ggml own, which nobody destroys, is some 300 bytes each time. */
enum { LOST_WHEN_UNMAPPED_KIB = 128 };

typedef enum way {
    THREAD_INSIDE,     /* opened and closed here, used by a thread that has ended by then: unmapped */
    THREAD_ON_ITS_OWN, /* opened, used and closed by a thread */
    THIS_THREAD        /* opened, used and closed here: stays mapped from then on */
} way;

static void run_phase(way how, int cycles, char **argv)
{
    enum { WARM_UP = 3 };
    memory_use before = { 0, 0 }, after;
    int i, unmapped = 0;
    for (i = 0; i < cycles; i++) {
        void *library = how == THREAD_ON_ITS_OWN ? NULL : open_library(argv);
        if (how == THIS_THREAD)
            use_library(library, argv);
        else
            run_thread(library, argv);
        NEED(library == NULL || dlclose(library) == 0);
        if (i == WARM_UP)
            before = measure_memory();
        if (i > WARM_UP)
            unmapped += is_mapped(argv[6]) == 0;
    }
    after = measure_memory();
    printf("way %d, %d cycles, %d of them unmapped: %ld KiB allocated and %ld resident, %ld and %ld more\n", how,
           cycles - WARM_UP - 1, unmapped, before.allocated, before.resident, after.allocated - before.allocated,
           after.resident - before.resident);
    NEED(how != THREAD_INSIDE || unmapped == cycles - WARM_UP - 1 || is_mapped(argv[6]) < 0);
    NEED(after.allocated - before.allocated < (unmapped > 0 ? LOST_WHEN_UNMAPPED_KIB : TOLERATED_ALLOCATED_KIB));
    NEED(after.resident - before.resident < TOLERATED_RESIDENT_KIB);
}

int main(int argc, char **argv)
{
    NEED(argc == 7);
    /* This thread comes last, or the library would stay for the others, too. */
    run_phase(THREAD_INSIDE, 54, argv);
    run_phase(THREAD_ON_ITS_OWN, 10, argv);
    run_phase(THIS_THREAD, 10, argv);
    return 0;
}
