/* Answers an app can rely on: ranking, a list of allowed answers, a grammar, and a batch of questions.
 *
 *   choose MODEL.gguf VISION.gguf PICTURE QUESTION ANSWER ANSWER...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tinygptv.h"

/* How likely each answer is; nothing is generated. */
static int rank(tgv_session *session, const char *question, const char *const *answers, size_t count)
{
    float *losses = malloc(count * sizeof *losses);
    size_t i;
    int ok = losses != NULL && tgv_session_rank(session, question, answers, count, NULL, losses) == TGV_OK;
    for (i = 0; ok && i < count; i++)
        printf("loss %.3f  %s\n", (double)losses[i], answers[i]);
    free(losses);
    return ok;
}

/* The model's own words, but nothing else than one of the answers. Each question is a conversation of its own. */
static int choose(tgv_session *session, const tgv_embedding *picture, const char *question, const char *const *answers,
                  size_t count)
{
    const char *answer = NULL;
    if (tgv_session_reset(session) != TGV_OK || tgv_session_add_embedding(session, picture) != TGV_OK ||
        tgv_session_set_answers(session, answers, count) != TGV_OK ||
        tgv_session_ask(session, question, NULL, NULL, &answer) != TGV_OK)
        return 0;
    printf("chosen      %s\n", answer);
    return 1;
}

/* The same as JSON, by a grammar: root ::= "{\"answer\": \"" ("one" | "other") "\"}". */
static int as_json(tgv_session *session, const tgv_embedding *picture, const char *question, const char *const *answers,
                   size_t count)
{
    char grammar[4096] = "root ::= \"{\\\"answer\\\": \\\"\" (";
    const char *answer = NULL;
    size_t i, used = strlen(grammar);
    for (i = 0; i < count && used < sizeof grammar; i++)
        used += (size_t)snprintf(grammar + used, sizeof grammar - used, "%s\"%s\"", i > 0 ? " | " : "", answers[i]);
    if (used < sizeof grammar)
        snprintf(grammar + used, sizeof grammar - used, ") \"\\\"}\"");
    if (tgv_session_reset(session) != TGV_OK || tgv_session_add_embedding(session, picture) != TGV_OK ||
        tgv_session_set_grammar(session, grammar) != TGV_OK ||
        tgv_session_ask(session, question, NULL, NULL, &answer) != TGV_OK)
        return 0;
    printf("JSON        %s\n", answer);
    return 1;
}

static int print_answer(size_t index, const char *answer, size_t length, int32_t finish, void *questions)
{
    (void)length;
    (void)finish;
    printf("%s\n    %s\n", ((const char *const *)questions)[index], answer);
    return 0;
}

/* "Is it ...?" for every answer, side by side: the picture is evaluated once. */
static int ask_each(tgv_session *session, const tgv_embedding *picture, const char *const *answers, size_t count)
{
    char (*texts)[256] = malloc(count * sizeof *texts);
    const char **questions = malloc(count * sizeof *questions);
    size_t i;
    int ok = texts != NULL && questions != NULL;
    for (i = 0; ok && i < count; i++) {
        snprintf(texts[i], sizeof texts[i], "Is there a %.200s?", answers[i]);
        questions[i] = texts[i];
    }
    ok = ok && tgv_session_reset(session) == TGV_OK && tgv_session_add_embedding(session, picture) == TGV_OK &&
         tgv_session_set_grammar(session, NULL) == TGV_OK &&
         tgv_session_ask_each(session, questions, count, print_answer, questions) == TGV_OK;
    free(questions);
    free(texts);
    return ok;
}

int main(int argc, char **argv)
{
    tgv_model *model = NULL;
    tgv_image *image = NULL;
    tgv_embedding *picture = NULL;
    tgv_session *session = NULL;
    const int help = argc == 2 && strcmp(argv[1], "--help") == 0;
    const char *const *answers = (const char *const *)(argv + 5);
    int ok;

    if (argc < 7) {
        fprintf(help ? stdout : stderr, "usage: choose MODEL VISION PICTURE QUESTION ANSWER ANSWER...\n");
        return help ? 0 : 2;
    }
    ok = tgv_model_load(argv[1], argv[2], NULL, &model) == TGV_OK && tgv_image_from_file(argv[3], &image) == TGV_OK &&
         tgv_embedding_encode(model, image, NULL, &picture) == TGV_OK &&
         tgv_session_create(model, NULL, &session) == TGV_OK &&
         tgv_session_add_embedding(session, picture) == TGV_OK &&
         rank(session, argv[4], answers, (size_t)argc - 5) &&
         choose(session, picture, argv[4], answers, (size_t)argc - 5) &&
         as_json(session, picture, argv[4], answers, (size_t)argc - 5) &&
         ask_each(session, picture, answers, (size_t)argc - 5);
    if (!ok)
        fprintf(stderr, "choose: %s\n", tgv_last_error());
    tgv_session_free(session);
    tgv_embedding_free(picture);
    tgv_image_free(image);
    tgv_model_free(model);
    return ok ? 0 : 1;
}
