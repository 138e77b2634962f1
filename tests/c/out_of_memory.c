/* Memory runs out, at every point of everything that is done with a model: the call returns TGV_ERROR_OUT_OF_MEMORY, or does
 * without; called again it succeeds, and all answers are right.
 *
 *   out_of_memory DECODER VISION PICTURE QUESTION ANSWER JPEG SCRATCH FILES exhausted
 *   out_of_memory DECODER VISION PICTURE QUESTION ANSWER JPEG SCRATCH FILES LEAST_BYTES MOST_BYTES STEP
 *
 * First form: a step begins with so much address space left and no more, from none, not even in the allocator's stock, to more
 * than enough.
 * Second form: of the allocations of LEAST_BYTES up to MOST_BYTES every STEP-th fails, it alone, each in a process of its own,
 * as this program's malloc stands in front of the system's; TGV_TEST_ROUNDS_FACTOR times as many with that. This is what no
 * headroom helps against, and what neither Rust nor C code without checks survives: the library's reserve has to.
 * No process may die. FILES is that of tgv_model_params.
 */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The allocator */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static size_t least, most;
static atomic_long counted, fails_at; /* the number that fails; 0 is none */

/* What a process leaves behind of the failure. */
static struct traces {
    int step;
    size_t size;
} *traces;

/* Whether this allocation is the one. */
static int fails(size_t size)
{
    if (size < least || size >= most || atomic_fetch_add(&counted, 1) + 1 != atomic_load(&fails_at))
        return 0;
    traces->size = size;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return fails(size) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails(count * size) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    return fails(size) ? NULL : __libc_realloc(memory, size);
}

void *memalign(size_t alignment, size_t size)
{
    return fails(size) ? NULL : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *memory = memalign(alignment, size);
    if (memory == NULL)
        return ENOMEM;
    *out = memory;
    return 0;
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off64_t offset)
{
    return fails(length) ? MAP_FAILED : (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
}

/* ---- What is done with little memory */

static char **arguments;
static tgv_model *model;
static tgv_image *png, *jpeg;
static tgv_embedding *embedding, *loaded;
static tgv_session *session;
static tgv_boxes *boxes;
static collector pieces;

static tgv_status load(void)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    params.threads = 2;
    params.files = atoi(arguments[OWN_ARGUMENTS + 2]);
    return tgv_model_load(arguments[1], arguments[2], &params, &model);
}

static tgv_status plan(void)
{
    tgv_memory_plan figures = TGV_MEMORY_PLAN_INIT;
    return tgv_model_plan(arguments[1], arguments[2], NULL, NULL, &figures);
}

static tgv_status open_png(void) { return tgv_image_from_file(arguments[3], &png); }
static tgv_status open_jpeg(void) { return tgv_image_from_file(arguments[OWN_ARGUMENTS], &jpeg); }
static tgv_status encode_png(void) { return tgv_embedding_encode(model, png, NULL, &embedding); }
static tgv_status save(void) { return tgv_embedding_save(model, embedding, arguments[OWN_ARGUMENTS + 1]); }
static tgv_status load_saved(void) { return tgv_embedding_load(model, arguments[OWN_ARGUMENTS + 1], &loaded); }

static tgv_status create(void)
{
    tgv_session_params params = TGV_SESSION_PARAMS_INIT;
    params.threads = 2;
    params.context = 256;
    return tgv_session_create(model, &params, &session);
}

static tgv_status add_jpeg(void) { return tgv_session_add_image(session, jpeg); }
static tgv_status reset(void) { return tgv_session_reset(session); }
static tgv_status add(void) { return tgv_session_add_embedding(session, loaded); }

static tgv_status ask(void)
{
    const char *answer = NULL;
    const tgv_status status = (memset(&pieces, 0, sizeof pieces),
                               tgv_session_ask(session, arguments[4], collect, &pieces, &answer));
    CHECK(status != TGV_OK || (strcmp(answer, arguments[5]) == 0 && strcmp(pieces.text, arguments[5]) == 0));
    return status;
}

static tgv_status rank(void)
{
    const char *candidates[2];
    float losses[2] = { 0, 0 };
    tgv_status status;
    candidates[0] = "a quite different answer";
    candidates[1] = arguments[5];
    status = tgv_session_rank(session, arguments[4], candidates, 2, NULL, losses);
    CHECK(status != TGV_OK || losses[1] < losses[0]);
    return status;
}

static int32_t on_answer(size_t index, const char *answer, size_t length, int32_t finish, void *user_data)
{
    (void)user_data;
    CHECK(index < 2 && strlen(answer) == length && finish == TGV_FINISH_STOP);
    return 0;
}

static tgv_status ask_each(void)
{
    const char *questions[2];
    questions[0] = questions[1] = arguments[4];
    return tgv_session_ask_each(session, questions, 2, on_answer, NULL);
}

static tgv_status set_answers(void)
{
    const char *answers[2];
    answers[0] = "purple";
    answers[1] = arguments[5];
    return tgv_session_set_answers(session, answers, 2);
}

static tgv_status set_grammar(void) { return tgv_session_set_grammar(session, "root ::= [a-z ]+"); }
static tgv_status create_boxes(void) { return tgv_boxes_create(png, &boxes); }
static tgv_status push_box(void) { return tgv_boxes_push(boxes, "<p>it</p>{<10><10><50><50>}"); }
static tgv_status draw(void) { return tgv_boxes_draw(boxes, png, arguments[OWN_ARGUMENTS + 1]); }


static tgv_status count_tokens(void)
{
    size_t tokens = 0;
    const tgv_status status = tgv_model_count_tokens(model, arguments[4], &tokens);
    CHECK(status == TGV_OK ? tokens > 0 : tokens == 0);
    return status;
}

static tgv_status set_sampling(void)
{
    tgv_sampling_params params = TGV_SAMPLING_PARAMS_INIT;
    return tgv_session_set_sampling(session, &params);
}

static void on_message(int32_t level, const char *message, void *user_data)
{
    (void)user_data;
    CHECK(level > 0 && message[0] != 0);
}

static tgv_status listen_to_log(void)
{
    uint64_t id = 0;
    const tgv_status status = tgv_add_log_callback(on_message, NULL, &id);
    CHECK((status == TGV_OK) == (id != 0));
    return status;
}

typedef struct step {
    const char *name;
    tgv_status (*run)(void);
} step;

static const step steps[] = {
    { "listen", listen_to_log }, { "plan", plan }, { "load", load }, { "open png", open_png },
    { "open jpeg", open_jpeg }, { "encode", encode_png }, { "save", save }, { "load saved", load_saved },
    { "create", create }, { "add jpeg", add_jpeg }, { "count tokens", count_tokens },
    { "set sampling", set_sampling }, { "reset", reset }, { "add", add }, { "rank", rank }, { "ask each", ask_each },
    { "set answers", set_answers }, { "set grammar", set_grammar }, { "ask", ask }, { "create boxes", create_boxes },
    { "push", push_box }, { "draw", draw },
};

enum { STEPS = sizeof steps / sizeof steps[0] };

/* Address space, of which this process may take so much more than it has; -1 is as much as it likes. */
static void leave(long bytes)
{
    struct rlimit limit;
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld", &pages) == 1 && fclose(file) == 0);
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = bytes < 0 ? limit.rlim_max : (rlim_t)(pages * sysconf(_SC_PAGESIZE) + bytes);
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* Takes what the allocator has in stock, so that it has nothing for however small a request. */
static void *use_up(void)
{
    void *all = NULL;
    size_t size;
    for (size = 1 << 20; size >= 16; size /= 2) {
        void **piece;
        while ((piece = (void **)malloc(size)) != NULL) {
            *piece = all;
            all = piece;
        }
    }
    return all;
}

static void give_back(void *all)
{
    while (all != NULL) {
        void *next = *(void **)all;
        free(all);
        all = next;
    }
}

/* How one of these processes ended, by its exit status. */
enum { FINE = 0, WRONG = 1, TOLD = 2, DIED = 3, ENDS = 4 };

/* Instead of a number of bytes: none, and the allocator has none in stock either. */
enum { NOT_ONE = -2 };

/* `short_step` has so many bytes left, or NOT_ONE; -1 is no step. */
static int go(int short_step, long bytes)
{
    int i, end = FINE;
    for (i = 0; i < STEPS; i++) {
        tgv_status status;
        void *stock = NULL;
        traces->step = i;
        if (i == short_step)
            leave(bytes == NOT_ONE ? 0 : bytes);
        if (i == short_step && bytes == NOT_ONE)
            stock = use_up();
        status = steps[i].run();
        if (i == short_step)
            leave(-1);
        give_back(stock);
        if (status == TGV_OK)
            continue;
        CHECK_STATUS(status, TGV_ERROR_OUT_OF_MEMORY);
        CHECK(end == FINE && strlen(tgv_last_error()) > 10);
        end = TOLD;
        CHECK_OK(steps[i].run());
    }
    tgv_session_free(session);
    tgv_boxes_free(boxes);
    tgv_embedding_free(embedding);
    tgv_embedding_free(loaded);
    tgv_image_free(png);
    tgv_image_free(jpeg);
    tgv_model_free(model);
    return end;
}

/* Everything in a process of its own; `number` is the allocation that fails, or of the step that has so many bytes. */
static int run(long number, int short_step, long bytes)
{
    int status;
    const pid_t child = (fflush(NULL), fork());
    CHECK(child >= 0);
    if (child == 0) {
        const struct rlimit no_core = { 0, 0 };
        setrlimit(RLIMIT_CORE, &no_core);
        atomic_store(&counted, 0);
        atomic_store(&fails_at, number);
        _exit(go(short_step, bytes));
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && (WEXITSTATUS(status) == FINE || WEXITSTATUS(status) == TOLD))
        return WEXITSTATUS(status);
    if (number > 0)
        printf("allocation %ld, of %lu bytes, ", number, (unsigned long)traces->size);
    else
        printf("%ld bytes left for '%s', ", bytes, steps[short_step].name);
    printf("in '%s': %s %d\n", steps[traces->step].name, WIFSIGNALED(status) ? "signal" : "exit status",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return WIFSIGNALED(status) ? DIED : WRONG;
}

/* How many allocations there are to fail. */
static long count(void)
{
    int ends[2];
    long n = 0;
    pid_t child;
    CHECK(pipe(ends) == 0);
    fflush(NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(go(-1, 0) == FINE);
        n = atomic_load(&counted);
        CHECK(write(ends[1], &n, sizeof n) == (ssize_t)sizeof n);
        _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    close(ends[1]);
    CHECK(read(ends[0], &n, sizeof n) == (ssize_t)sizeof n);
    close(ends[0]);
    return n;
}

static void fail_each(char **argv)
{
    const long step = atol(argv[2]) / setting("TGV_TEST_ROUNDS_FACTOR", 1), every = step > 0 ? step : 1;
    long n, total, ended[ENDS] = { 0 };
    least = (size_t)strtoull(argv[0], NULL, 10);
    most = (size_t)strtoull(argv[1], NULL, 10);
    total = count();
    for (n = 1; n <= total; n += every)
        ended[run(n, -1, 0)]++;
    printf("%ld allocations of %lu to %lu bytes, every %ld. fails: %ld without effect, %ld told, %ld died, %ld wrong\n",
           total, (unsigned long)least, (unsigned long)most, every, ended[FINE], ended[TOLD], ended[DIED], ended[WRONG]);
    CHECK(ended[TOLD] > 0 && ended[WRONG] == 0 && ended[DIED] == 0);
}

static void exhaust_each(void)
{
    static const long left[] = { NOT_ONE, 0, 64 << 10, 256 << 10, 1 << 20, 3 << 20, 6 << 20, 9 << 20, 12 << 20, 18 << 20, 40 << 20 };
    long ended[ENDS] = { 0 };
    size_t i;
    int n;
    least = (size_t)-1;
    for (n = 0; n < STEPS; n++)
        for (i = 0; i < sizeof left / sizeof left[0]; i++)
            ended[run(0, n, left[i])]++;
    printf("%d steps with little memory: %ld did without, %ld told, %ld died, %ld wrong\n",
           STEPS * (int)(sizeof left / sizeof left[0]), ended[FINE], ended[TOLD], ended[DIED], ended[WRONG]);
    CHECK(ended[TOLD] > STEPS && ended[FINE] > STEPS && ended[WRONG] == 0 && ended[DIED] == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == OWN_ARGUMENTS + 4 || argc == OWN_ARGUMENTS + 6);
    arguments = argv;
    traces = (struct traces *)mmap(NULL, sizeof *traces, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(traces != MAP_FAILED);
    if (strcmp(argv[OWN_ARGUMENTS + 3], "exhausted") == 0)
        exhaust_each();
    else
        fail_each(argv + OWN_ARGUMENTS + 3);
    return 0;
}
