/* Files that cannot be written: a full disk, a folder that may not be written to, a name that is a folder or a device. Each is
 * told, what was there before stays, and nothing half-written is left.
 *
 *   full_disk DECODER VISION PICTURE QUESTION ANSWER FOLDER
 */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static const fixture *f;
static const char *folder;
static char path[4096];

static tgv_status save(const char *to) { return tgv_embedding_save(f->model, f->embedding, to); }

static tgv_status draw(const char *to)
{
    tgv_boxes *boxes = NULL;
    tgv_status status;
    CHECK_OK(tgv_boxes_create(f->image, &boxes));
    CHECK_OK(tgv_boxes_push(boxes, "{<10><10><50><50>}"));
    status = tgv_boxes_draw(boxes, f->image, to);
    tgv_boxes_free(boxes);
    return status;
}

/* Whatever the library writes. */
static tgv_status (*const writers[])(const char *) = { save, draw };
enum { WRITERS = sizeof writers / sizeof writers[0] };

static int entries(void)
{
    DIR *d = opendir(folder);
    int n = -2; /* . and .. */
    CHECK(d != NULL);
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

/* No file may become longer than so many bytes: write() fails as on a full disk. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    limit.rlim_cur = bytes;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static void check_full(int writer)
{
    static const rlim_t sizes[] = { 0, 1, 100, 200 };
    size_t i, size, again;
    unsigned char *before, *after;
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        limit_files(sizes[i]);
        CHECK_FAILS(writers[writer](path), TGV_ERROR_IO, "cannot write");
        limit_files(RLIM_INFINITY);
        CHECK(entries() == 0);
    }
    CHECK_OK(writers[writer](path));
    before = read_file(path, &size);
    limit_files(100);
    CHECK_FAILS(writers[writer](path), TGV_ERROR_IO, "cannot write");
    limit_files(RLIM_INFINITY);
    CHECK(entries() == 1);
    after = read_file(path, &again);
    CHECK(size > 200 && again == size && memcmp(before, after, size) == 0);
    free(before);
    free(after);
    CHECK_OK(writers[writer](path));
    CHECK(entries() == 1 && unlink(path) == 0);
}

/* In a process that is nobody in particular: others may write anywhere. */
static void check_forbidden(int writer)
{
    int status;
    pid_t child;
    CHECK(chmod(folder, 0555) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0));
        CHECK_FAILS(writers[writer](path), TGV_ERROR_IO, "cannot write");
        /* Not by _exit(): a watcher would count as lost what belonged to the threads that were not forked. */
        raise(SIGKILL);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK(chmod(folder, 0755) == 0 && entries() == 0);
}

static void check_odd_names(int writer)
{
    struct stat what;
    CHECK_FAILS(writers[writer](folder), TGV_ERROR_IO, "cannot write");
    CHECK_FAILS(writers[writer](""), TGV_ERROR_FILE_NOT_FOUND, "cannot write");
    CHECK_FAILS(writers[writer]("/dev/full"), TGV_ERROR_IO, "No space left");
    CHECK(stat("/dev/full", &what) == 0 && S_ISCHR(what.st_mode));
    CHECK_OK(writers[writer]("/dev/null"));
    CHECK(stat("/dev/null", &what) == 0 && S_ISCHR(what.st_mode));
    CHECK(entries() == 0);
}

int main(int argc, char **argv)
{
    fixture all = open_fixture(argc, argv);
    int i;
    CHECK(argc == OWN_ARGUMENTS + 1);
    f = &all;
    folder = argv[OWN_ARGUMENTS];
    CHECK(mkdir(folder, 0755) == 0);
    snprintf(path, sizeof path, "%s/written", folder);
    signal(SIGXFSZ, SIG_IGN); /* or the limit would end the process; a full disk does not */
    for (i = 0; i < WRITERS; i++) {
        check_full(i);
        check_forbidden(i);
        check_odd_names(i);
    }
    CHECK_WORKS(f);
    close_fixture(&all);
    return 0;
}
