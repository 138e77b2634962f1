/* What the test programs share. A program does one job: it says nothing and exits 0, or tells what failed and exits 1.
 *
 * Programs that need a model start with the arguments DECODER VISION PICTURE QUESTION ANSWER; their own follow.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tinygptv.h"

/* First argument of a program's own. */
#define OWN_ARGUMENTS 6

/* What an out parameter holds before a call that must leave it alone. */
#define SENTINEL(type) ((type *)(uintptr_t)0x5a5a5a50)

static inline void fail_at(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s\n    last error: %s\n", file, line, what, tgv_last_error());
    exit(1);
}

#define CHECK(condition) ((condition) ? (void)0 : fail_at(__FILE__, __LINE__, #condition))

static inline void check_status(const char *file, int line, const char *call, tgv_status actual, tgv_status expected)
{
    char what[1024];
    if (actual == expected)
        return;
    snprintf(what, sizeof what, "%.800s\n    gave %s (%d), not %s", call, tgv_status_name(actual), (int)actual,
             tgv_status_name(expected));
    fail_at(file, line, what);
}

#define CHECK_STATUS(call, expected) check_status(__FILE__, __LINE__, #call, (call), (expected))
#define CHECK_OK(call) CHECK_STATUS(call, TGV_OK)

/* Strict: no overlong forms, no surrogates, nothing above U+10FFFF. */
static inline int is_utf8(const char *text, size_t length)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t i = 0;
    while (i < length) {
        uint32_t c = s[i++];
        int more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : -1;
        uint32_t least = more == 2 ? 0x800 : more == 3 ? 0x10000 : 0;
        if (more < 0)
            return 0;
        if (more > 0)
            c &= (uint32_t)(0x3f >> more);
        for (; more > 0; more--) {
            if (i >= length || (s[i] & 0xc0) != 0x80)
                return 0;
            c = c << 6 | (s[i++] & 0x3fu);
        }
        if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
            return 0;
    }
    return 1;
}

/* A failure is complete when it has its status and one line of text that names what is wrong. */
static inline void check_failure(const char *file, int line, const char *call, tgv_status actual, tgv_status expected,
                                 const char *fragment)
{
    const char *text = tgv_last_error();
    check_status(file, line, call, actual, expected);
    if (text == NULL || strlen(text) < 10 || !is_utf8(text, strlen(text)) || strchr(text, '\n') != NULL ||
        strstr(text, fragment) == NULL) {
        char what[1024];
        snprintf(what, sizeof what, "%.600s\n    its message is not one line with \"%.200s\"", call, fragment);
        fail_at(file, line, what);
    }
}

#define CHECK_FAILS(call, expected, fragment) check_failure(__FILE__, __LINE__, #call, (call), (expected), (fragment))

/* A number of the environment. */
static inline int setting(const char *name, int fallback)
{
    const char *value = getenv(name);
    return value != NULL ? atoi(value) : fallback;
}

/* How often a loop runs: fewer times where the runner is slow, more often where somebody has the time. */
static inline int rounds(int n)
{
    const int d = setting("TGV_TEST_ROUNDS_DIVISOR", 1);
    n *= setting("TGV_TEST_ROUNDS_FACTOR", 1);
    return d <= 1 ? n : n / d > 2 ? n / d : 2;
}

/* No cache: programs encode the same picture again and again to see what encoding does. */
static inline tgv_model *load_model(const char *decoder, const char *vision)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_model *model = NULL;
    params.embedding_cache_mb = -1;
    CHECK_OK(tgv_model_load(decoder, vision, &params, &model));
    CHECK(model != NULL);
    return model;
}

static inline tgv_image *open_image(const char *path)
{
    tgv_image *image = NULL;
    CHECK_OK(tgv_image_from_file(path, &image));
    CHECK(image != NULL);
    return image;
}

static inline tgv_embedding *encode(const tgv_model *model, const tgv_image *image)
{
    tgv_embedding *embedding = NULL;
    CHECK_OK(tgv_embedding_encode(model, image, NULL, &embedding));
    CHECK(embedding != NULL);
    return embedding;
}

/* One thread for the decoder: programs run side by side, and the threads of a small graph on a busy machine mostly wait for
 * each other. Pictures are encoded with all of the model's threads. */
static inline tgv_session_params session_params(void)
{
    tgv_session_params params = TGV_SESSION_PARAMS_INIT;
    params.threads = 1;
    return params;
}

static inline tgv_session *create_session(const tgv_model *model)
{
    const tgv_session_params params = session_params();
    tgv_session *session = NULL;
    CHECK_OK(tgv_session_create(model, &params, &session));
    CHECK(session != NULL);
    return session;
}

static inline tgv_statistics statistics_of(const tgv_session *session)
{
    tgv_statistics statistics = TGV_STATISTICS_INIT;
    CHECK_OK(tgv_session_statistics(session, &statistics));
    return statistics;
}

/* Collects an answer's pieces and checks each. */
typedef struct collector {
    char text[8192];
    size_t length;
    int pieces;
    int stop_after; /* ask to stop after so many pieces; 0 is never */
} collector;

static inline int collect(const char *text, size_t length, void *user_data)
{
    collector *c = (collector *)user_data;
    CHECK(text != NULL && length > 0 && strlen(text) == length);
    CHECK(is_utf8(text, length));
    CHECK(c->length + length < sizeof c->text);
    memcpy(c->text + c->length, text, length + 1);
    c->length += length;
    c->pieces++;
    return c->pieces == c->stop_after;
}

/* Asks, and compares the answer as a whole and as pieces. */
static inline void check_answer(const char *file, int line, tgv_session *session, const char *question,
                                const char *expected)
{
    collector pieces = { "", 0, 0, 0 };
    const char *answer = NULL;
    check_status(file, line, question, tgv_session_ask(session, question, collect, &pieces, &answer), TGV_OK);
    if (answer == NULL || strcmp(answer, expected) != 0 || strcmp(answer, pieces.text) != 0) {
        char what[2048];
        snprintf(what, sizeof what, "%.500s\n    answered \"%.500s\", in pieces \"%.500s\", expected \"%.300s\"", question,
                 answer != NULL ? answer : "(null)", pieces.text, expected);
        fail_at(file, line, what);
    }
}

#define CHECK_ANSWER(session, question, expected) check_answer(__FILE__, __LINE__, (session), (question), (expected))

/* A model with everything that a question needs. */
typedef struct fixture {
    const char *decoder, *vision, *picture, *question, *answer;
    tgv_model *model;
    tgv_image *image;
    tgv_embedding *embedding;
    tgv_session *session;
} fixture;

static inline fixture open_fixture(int argc, char **argv)
{
    fixture f;
    if (argc < OWN_ARGUMENTS) {
        fprintf(stderr, "usage: %s DECODER VISION PICTURE QUESTION ANSWER ...\n", argv[0]);
        exit(2);
    }
    f.decoder = argv[1];
    f.vision = argv[2];
    f.picture = argv[3];
    f.question = argv[4];
    f.answer = argv[5];
    f.model = load_model(f.decoder, f.vision);
    f.image = open_image(f.picture);
    f.embedding = encode(f.model, f.image);
    f.session = create_session(f.model);
    return f;
}

/* Whether the session, after whatever was done to it, answers a fresh question right. */
static inline void check_works(const char *file, int line, const fixture *f)
{
    check_status(file, line, "tgv_session_reset", tgv_session_reset(f->session), TGV_OK);
    check_status(file, line, "tgv_session_add_embedding", tgv_session_add_embedding(f->session, f->embedding), TGV_OK);
    check_answer(file, line, f->session, f->question, f->answer);
}

#define CHECK_WORKS(f) check_works(__FILE__, __LINE__, (f))

static inline void close_fixture(fixture *f)
{
    tgv_session_free(f->session);
    tgv_embedding_free(f->embedding);
    tgv_image_free(f->image);
    tgv_model_free(f->model);
}

/* A whole file in memory, to be freed. */
static inline unsigned char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    unsigned char *data;
    long length;
    CHECK(file != NULL);
    CHECK(fseek(file, 0, SEEK_END) == 0);
    length = ftell(file);
    CHECK(length >= 0 && fseek(file, 0, SEEK_SET) == 0);
    data = (unsigned char *)malloc(length > 0 ? (size_t)length : 1);
    CHECK(data != NULL);
    CHECK(fread(data, 1, (size_t)length, file) == (size_t)length);
    fclose(file);
    *size = (size_t)length;
    return data;
}

#endif
