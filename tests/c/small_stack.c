/* Every call on a thread with little stack, as hosts' threads have: none needs more. Tells how much each has used.
 *
 *   small_stack DECODER VISION PICTURE QUESTION ANSWER KIBIBYTES SCRATCH PICTURES DEEP_DECODER LONG_DECODER REGEX_DECODER...
 *
 * PICTURES is a folder. DEEP_DECODER has as many layers as are allowed, LONG_DECODER a token as long. REGEX_DECODER: llama.cpp splits its texts by regular
 * expressions. Overflow meets a guard page, and so ends the program.
 */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAINT = 0xa5, MAX_RUN = 4096, MANY_RULES = 4000 };

static size_t stack_bytes;
static fixture f;
static const char *scratch;

typedef void job(const char *argument);

typedef struct order {
    job *run;
    const char *argument;
} order;

static void *start(void *data)
{
    const order *o = (const order *)data;
    o->run(o->argument);
    return NULL;
}

/* Runs a job on a painted stack above a guard page, and tells how much of it lost its paint. */
static void on_small_stack(const char *name, job *run, const char *argument)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *memory =
        (unsigned char *)mmap(NULL, stack_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *stack = memory + page;
    order o;
    pthread_attr_t attributes;
    pthread_t thread;
    size_t untouched = 0;

    CHECK(memory != MAP_FAILED && mprotect(memory, page, PROT_NONE) == 0);
    memset(stack, PAINT, stack_bytes);
    o.run = run;
    o.argument = argument;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstack(&attributes, stack, stack_bytes) == 0);
    /* What ends the program would take the name with it. */
    printf("%-24s", name);
    fflush(stdout);
    CHECK(pthread_create(&thread, &attributes, start, &o) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    pthread_attr_destroy(&attributes);
    while (untouched < stack_bytes && stack[untouched] == PAINT)
        untouched++;
    printf("%5lu KiB  %s\n", (unsigned long)((stack_bytes - untouched + 1023) / 1024), argument);
    munmap(memory, stack_bytes + page);
}

/* `count` times `unit`, to be freed. */
static char *repeated(const char *unit, size_t count)
{
    const size_t length = strlen(unit);
    char *text = (char *)malloc(length * count + 1);
    size_t i;
    CHECK(text != NULL);
    for (i = 0; i < count; i++)
        memcpy(text + i * length, unit, length);
    text[length * count] = '\0';
    return text;
}

static void plan(const char *argument)
{
    tgv_memory_plan figures = TGV_MEMORY_PLAN_INIT;
    (void)argument;
    CHECK_OK(tgv_model_plan(f.decoder, f.vision, NULL, NULL, &figures));
}

static void load(const char *argument)
{
    (void)argument;
    f.model = load_model(f.decoder, f.vision);
}

static void load_fast(const char *argument)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_model *model = NULL;
    (void)argument;
    params.profile = TGV_PROFILE_FAST;
    CHECK_OK(tgv_model_load(f.decoder, f.vision, &params, &model));
    tgv_model_free(model);
}

static void load_nothing(const char *path)
{
    tgv_model *model = NULL;
    CHECK(tgv_model_load(path, f.vision, NULL, &model) != TGV_OK);
}

/* Some are refused. */
static void open_pictures(const char *folder)
{
    DIR *entries = opendir(folder);
    struct dirent *entry;
    int opened = 0;
    CHECK(entries != NULL);
    while ((entry = readdir(entries)) != NULL) {
        tgv_image *image = NULL;
        char path[4096];
        CHECK(snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) < (int)sizeof path);
        opened += tgv_image_from_file(path, &image) == TGV_OK;
        tgv_image_free(image);
    }
    closedir(entries);
    CHECK(opened > 100);
}

static void encode_picture(const char *argument)
{
    (void)argument;
    f.image = open_image(f.picture);
    f.embedding = encode(f.model, f.image);
}

static void keep_embedding(const char *path)
{
    tgv_embedding *again = NULL;
    CHECK_OK(tgv_embedding_save(f.model, f.embedding, path));
    CHECK_OK(tgv_embedding_load(f.model, path, &again));
    tgv_embedding_free(again);
}

static void create(const char *argument)
{
    (void)argument;
    f.session = create_session(f.model);
}

static void ask(const char *argument)
{
    (void)argument;
    CHECK_WORKS(&f);
}

static void add_image(const char *argument)
{
    (void)argument;
    CHECK_OK(tgv_session_reset(f.session));
    CHECK_OK(tgv_session_add_image(f.session, f.image));
    CHECK_ANSWER(f.session, f.question, f.answer);
}

static void rank(const char *argument)
{
    const char *candidates[3] = { "yes", "no", "perhaps" };
    float losses[3];
    (void)argument;
    CHECK_OK(tgv_session_reset(f.session));
    CHECK_OK(tgv_session_rank(f.session, f.question, candidates, 3, NULL, losses));
}

static int32_t ignore_answer(size_t index, const char *answer, size_t length, int32_t finish, void *user_data)
{
    (void)index, (void)answer, (void)length, (void)finish, (void)user_data;
    return 0;
}

static void ask_each(const char *argument)
{
    const char *questions[3];
    (void)argument;
    questions[0] = questions[1] = questions[2] = f.question;
    CHECK_OK(tgv_session_ask_each(f.session, questions, 3, ignore_answer, NULL));
}

/* A question under a grammar that may be refused, but not with the thread's stack. */
static void constrain(const char *grammar, int must_work)
{
    const tgv_status status = tgv_session_set_grammar(f.session, grammar);
    CHECK(status == TGV_OK || (!must_work && status == TGV_ERROR_INVALID_ARGUMENT));
    CHECK_OK(tgv_session_reset(f.session));
    CHECK_OK(tgv_session_ask(f.session, f.question, NULL, NULL, NULL));
    CHECK_OK(tgv_session_set_grammar(f.session, NULL));
}

static void grammar_of_parentheses(const char *argument)
{
    char *open = repeated("(", 100), *close = repeated(")", 100);
    char *text = (char *)malloc(300);
    (void)argument;
    CHECK(text != NULL);
    sprintf(text, "root ::= %s\"a\"%s", open, close);
    constrain(text, 1);
    free(open);
    free(close);
    free(text);
}

/* Each rule is the next one, up to the largest number of rules. */
static void grammar_of_a_chain(const char *argument)
{
    char *text = (char *)malloc(MANY_RULES * 16 + 64), *at = text;
    int i;
    (void)argument;
    CHECK(text != NULL);
    at += sprintf(at, "root ::= a0\n");
    for (i = 0; i < MANY_RULES; i++)
        at += sprintf(at, "a%x ::= a%x\n", (unsigned)i, (unsigned)i + 1);
    sprintf(at, "a%x ::= \"a\"\n", (unsigned)MANY_RULES);
    constrain(text, 0);
    free(text);
}

static void grammar_of_repetitions(const char *argument)
{
    (void)argument;
    constrain("root ::= (\"a\" (\"b\" \"c\"?){0,100}){0,90} \"d\"{1,2000}", 0);
}

static void many_answers(const char *argument)
{
    enum { COUNT = 4096 };
    static char texts[COUNT][16];
    static const char *answers[COUNT];
    int i;
    (void)argument;
    for (i = 0; i < COUNT; i++) {
        sprintf(texts[i], "answer %d", i);
        answers[i] = texts[i];
    }
    CHECK_OK(tgv_session_set_answers(f.session, answers, COUNT));
    CHECK_OK(tgv_session_reset(f.session));
    CHECK_OK(tgv_session_ask(f.session, f.question, NULL, NULL, NULL));
    CHECK_OK(tgv_session_set_answers(f.session, NULL, 0));
}

static void count_tokens(const tgv_model *model, const char *unit, size_t count)
{
    char *text = repeated(unit, count);
    size_t n = 0;
    CHECK_OK(tgv_model_count_tokens(model, text, &n));
    CHECK(n > 0);
    free(text);
}

static void long_texts(const char *argument)
{
    (void)argument;
    count_tokens(f.model, "a", 200000);
    count_tokens(f.model, " ", 200000);
    count_tokens(f.model, "word ", 40000);
    count_tokens(f.model, "\xf0\x9f\x94\xb4", 40000);
}

static void regex_texts(const char *path)
{
    tgv_model *model = load_model(path, NULL);
    static const char *const units[] = { "a", "1", "'", " ", "\n", ".", "aA", "a1", "\xc3\xa9", "\xe4\xb8\xad", "a'b", "#\r\n" };
    size_t i;
    for (i = 0; i < sizeof units / sizeof *units; i++)
        count_tokens(model, units[i], MAX_RUN / strlen(units[i]));
    tgv_model_free(model);
}

/* For a few words from a model of random weights. */
static tgv_session *create_short_session(const tgv_model *model)
{
    tgv_session_params params = session_params();
    tgv_session *session = NULL;
    params.max_new_tokens = 4;
    CHECK_OK(tgv_session_create(model, &params, &session));
    return session;
}

/* Layers upon layers: llama.cpp walks its graph by recursion. */
static void deep_model(const char *path)
{
    tgv_model *model = load_model(path, NULL);
    tgv_session *session = create_short_session(model);
    CHECK_OK(tgv_session_ask(session, "the", NULL, NULL, NULL));
    tgv_session_free(session);
    tgv_model_free(model);
}

/* llama.cpp follows a grammar along a token by recursion. */
static void long_token(const char *path)
{
    tgv_model *model = load_model(path, NULL);
    tgv_session *session = create_short_session(model);
    CHECK_OK(tgv_session_set_grammar(session, "root ::= [a-z]+"));
    CHECK_OK(tgv_session_ask(session, "the", NULL, NULL, NULL));
    tgv_session_free(session);
    tgv_model_free(model);
}

static void templates(const char *argument)
{
    tgv_session_params params = session_params();
    tgv_session *session = NULL;
    char *braces = repeated("{{images{", 20000);
    char *turn = (char *)malloc(strlen(braces) + 64);
    (void)argument;
    CHECK(turn != NULL);
    sprintf(turn, "%s{images}{question}", braces);
    params.template_text = turn;
    params.image_text = "<Img>{image}</Img>";
    CHECK_OK(tgv_session_create(f.model, &params, &session));
    CHECK(tgv_session_ask(session, f.question, NULL, NULL, NULL) == TGV_ERROR_CONTEXT_FULL);
    tgv_session_free(session);
    free(turn);
    free(braces);
}

static void boxes(const char *path)
{
    tgv_boxes *found = NULL;
    char *nested = repeated("<p>{<", 20000), *rows = repeated("<p>a</p>{<1><2><30><40>}<delim>", 200);
    CHECK_OK(tgv_boxes_create(f.image, &found));
    CHECK_OK(tgv_boxes_push(found, nested));
    CHECK_OK(tgv_boxes_push(found, rows));
    CHECK(tgv_boxes_count(found) > 0);
    CHECK_OK(tgv_boxes_draw(found, f.image, path));
    tgv_boxes_free(found);
    free(nested);
    free(rows);
}

static void free_all(const char *argument)
{
    (void)argument;
    close_fixture(&f);
}

int main(int argc, char **argv)
{
    int i;
    CHECK(argc > OWN_ARGUMENTS + 5);
    f.decoder = argv[1];
    f.vision = argv[2];
    f.picture = argv[3];
    f.question = argv[4];
    f.answer = argv[5];
    stack_bytes = (size_t)atoi(argv[OWN_ARGUMENTS]) * 1024;
    scratch = argv[OWN_ARGUMENTS + 1];

    on_small_stack("load nothing", load_nothing, f.picture);
    on_small_stack("plan", plan, "");
    on_small_stack("load", load, "");
    on_small_stack("load, fast profile", load_fast, "");
    on_small_stack("encode", encode_picture, "");
    on_small_stack("save and load embedding", keep_embedding, scratch);
    on_small_stack("create session", create, "");
    on_small_stack("ask", ask, "");
    on_small_stack("add image and ask", add_image, "");
    on_small_stack("rank", rank, "");
    on_small_stack("ask each", ask_each, "");
    on_small_stack("grammar: parentheses", grammar_of_parentheses, "");
    on_small_stack("grammar: chain", grammar_of_a_chain, "");
    on_small_stack("grammar: repetitions", grammar_of_repetitions, "");
    on_small_stack("answers", many_answers, "");
    on_small_stack("count tokens", long_texts, "");
    on_small_stack("templates", templates, "");
    on_small_stack("boxes", boxes, scratch);
    on_small_stack("open pictures", open_pictures, argv[OWN_ARGUMENTS + 2]);
    on_small_stack("deep model", deep_model, argv[OWN_ARGUMENTS + 3]);
    on_small_stack("long token", long_token, argv[OWN_ARGUMENTS + 4]);
    for (i = OWN_ARGUMENTS + 5; i < argc; i++)
        on_small_stack("regular expressions", regex_texts, argv[i]);
    on_small_stack("free", free_all, "");
    return 0;
}
